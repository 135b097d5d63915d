"""A received object's row while its file is still being synced: what may go ahead, what waits, and what a failed sync leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from pydicom import Dataset
from sqlalchemy import select

from dicom_node.intake import Command, examine
from dicom_node.promise import Promise
from dicom_node.rows import Arrived, RowWriter
from dicom_node.store import Source
from storage.database import Database
from storage.models import Instance
from storage.reception import Receipt, mark_lost, open_association
from storage.spool import Area, Spool, SpoolError
from tests import studies
from tests.network import EXPLICIT
from tests.studies import Plan

pytestmark = pytest.mark.feature("R6")

NOW = datetime(2026, 3, 1, tzinfo=UTC)
IMAGES = studies.series(Plan(slices=3, rows=16, columns=16))


@pytest.fixture
def rows(database: Database, spool: Spool) -> Iterator[RowWriter]:
    writer = RowWriter(database, spool, log=structlog.get_logger())
    writer.start()
    yield writer
    writer.stop()


def opening(session: Any) -> int:
    return open_association(session, calling="PACS", called="FOVEA", address="::1", listener="one", at=NOW)


def arrived(spool: Spool, image: Dataset, source: Source, synced: Promise[None]) -> Arrived:
    data = studies.encoded(image)
    examined = examine(data, Command(str(image.SOPClassUID), str(image.SOPInstanceUID), EXPLICIT))
    path = spool.write(Area.INSTANCES, str(image.SOPInstanceUID), data)
    return Arrived(examined, path, source, NOW, synced)


def done(error: Exception | None = None) -> Promise[None]:
    synced: Promise[None] = Promise()
    if error is None:
        synced.tell(None)
    else:
        synced.fail(error)
    return synced


def instances(database: Database) -> list[Instance]:
    with database.read() as session:
        return list(session.scalars(select(Instance).order_by(Instance.id)))


def test_first_object_waits_for_its_file_and_the_next_need_not(rows: RowWriter, database: Database, spool: Spool) -> None:
    source = Source(None, "PACS", "::1", opening)

    first = rows.record(arrived(spool, IMAGES[0], source, done())).result(20)
    second = rows.record(arrived(spool, IMAGES[1], source, Promise())).result(20)

    assert (first.receipt, first.may_precede_sync) == (Receipt.NEW, False)
    assert (second.receipt, second.may_precede_sync) == (Receipt.NEW, True)
    assert {row.association_id for row in instances(database)} == {source.association_id}
    assert source.association_id is not None


def test_failed_sync_of_the_first_object_leaves_no_row(rows: RowWriter, database: Database, spool: Spool) -> None:
    source = Source(None, "PACS", "::1", opening)

    with pytest.raises(SpoolError):
        rows.record(arrived(spool, IMAGES[0], source, done(SpoolError("input/output error")))).result(20)

    assert not instances(database)
    assert rows.is_failing
    assert source.association_id is None


def test_row_of_a_lost_file_takes_the_object_as_new_when_it_comes_again(
    rows: RowWriter, database: Database, spool: Spool
) -> None:
    source = Source(None, "PACS", "::1", opening)
    rows.record(arrived(spool, IMAGES[0], source, done())).result(20)
    lost = arrived(spool, IMAGES[1], source, Promise())
    assert rows.record(lost).result(20).may_precede_sync

    rows.call("", lambda session: mark_lost(session, lost.path))
    again = rows.record(arrived(spool, IMAGES[1], source, done())).result(20)

    assert again.receipt is Receipt.NEW
    assert [row.path is not None for row in instances(database)] == [True, True]


def test_repeated_object_whose_first_file_is_gone_is_taken_as_new(rows: RowWriter, database: Database, spool: Spool) -> None:
    source = Source(None, "PACS", "::1", opening)
    first = arrived(spool, IMAGES[0], source, done())
    rows.record(first).result(20)
    repeated = arrived(spool, IMAGES[0], source, done())
    assert rows.record(repeated).result(20).kept_path == first.path
    spool.delete(first.path)

    again = arrived(spool, IMAGES[0], source, done())
    assert rows.record(again).result(20).receipt is Receipt.NEW

    assert [row.path for row in instances(database)] == [again.path]


def test_association_row_is_made_once_for_what_comes_together(rows: RowWriter, database: Database, spool: Spool) -> None:
    source = Source(None, "PACS", "::1", opening)
    works = [rows.record(replace(arrived(spool, image, source, done()))) for image in IMAGES]

    assert [work.result(20).receipt for work in works] == [Receipt.NEW] * 3
    assert len({row.association_id for row in instances(database)}) == 1
