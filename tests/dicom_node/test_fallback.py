"""A destination that takes no segmentation gets key images instead, and nothing counts as sent before its own Success."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from sqlalchemy import select

from dicom_node import ledger, scu, workflow
from dicom_node.fallback import is_wanted
from dicom_node.settings import Destination
from dicom_node.workflow import Site
from storage.database import Database
from storage.models import Delivery, DeliveryItem, Event, Job, Result
from storage.spool import Area
from storage.states import DeliveryState
from tests.parcels import results, state, waiting
from tests.peers import errors_of
from tests.site import site

pytestmark = pytest.mark.feature("V1")
SEG, SR, SC = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.7"


@dataclass(slots=True)
class OldPacs:
    """An archive of the year 2005; `classes` it takes, and the status for those in `refuses`."""

    classes: tuple[str, ...] = (SR, SC)
    refuses: dict[str, int] = field(default_factory=dict)
    taken: list[Dataset] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def running(self) -> Iterator[OldPacs]:
        """Listen."""
        entity = AE(ae_title="OLD")
        for uid in self.classes:
            entity.add_supported_context(uid, ExplicitVRLittleEndian)
        server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._on_store)])
        self.port = int(server.server_address[1])
        try:
            yield self
        finally:
            server.shutdown()

    def destination(self, **changes: Any) -> Destination:
        values = {"name": "pacs", "ae_title": "OLD", "host": "127.0.0.1", "port": self.port, "timeout_s": 10}
        return Destination(**{**values, **changes})

    def _on_store(self, event: Any) -> int:
        status = self.refuses.get(str(event.request.AffectedSOPClassUID), 0x0000)
        if status == 0x0000:
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            self.taken.append(dataset)
        return status


def parcel(where: Site, pictures: int = 2) -> int:
    """A delivery of a report and a segmentation, of a run that left so many pictures."""
    number = waiting(where, results())
    kept = []
    for index in range(pictures):
        stream = BytesIO()
        Image.new("RGB", (301, 201), (40 * index, 90, 90)).save(stream, "PNG")
        path = where.spool.write(Area.PICTURES, f"picture {index}", stream.getvalue())
        kept.append({"name": f"finding-{index:02}.png", "caption": f"Finding {index}, image {index + 3}", "path": path})
    with where.database.write() as session:
        session.get_one(Delivery, number).job.summary = {"pictures": kept}
    return number


def until_idle(where: Site, destination: Destination) -> int:
    """Send until nothing is due; in how many goes."""
    goes = 0
    while workflow.deliver(where, destination, worker="s"):
        goes += 1
    return goes


def items(where: Site, delivery_id: int) -> dict[str, list[str | None]]:
    """By kind of result, the status of each item of the delivery."""
    found: dict[str, list[str | None]] = {}
    with where.database.read() as session:
        for item in session.scalars(select(DeliveryItem).where(DeliveryItem.delivery_id == delivery_id)):
            assert (item.stored_at is not None) == (item.status == "0x0000")
            found.setdefault(item.result.kind, []).append(item.status)
    return found


def test_key_images_take_the_place_of_a_segmentation_without_context(tmp_path: Path, database: Database) -> None:
    """F40."""
    where = site(tmp_path, database)
    with OldPacs().running() as pacs:
        number = parcel(where)

        assert until_idle(where, pacs.destination()) == 2

    assert state(where, number) == (DeliveryState.STORED, None)
    assert items(where, number) == {"SR": ["0x0000"], "CAPTURE": ["0x0000", "0x0000"]}
    assert [str(one.SOPClassUID) for one in pacs.taken] == [SR, SC, SC]
    with where.database.read() as session:
        event = session.scalars(select(Event).where(Event.kind == "delivery replaced")).one()
    assert event.peer == "pacs"
    assert event.detail["key images"] == [str(one.SOPInstanceUID) for one in pacs.taken[1:]]
    assert event.detail["reason"] == "no presentation context"


def test_a_key_image_is_valid_and_says_what_it_is(tmp_path: Path, sqlite_database: Database) -> None:
    where = site(tmp_path, sqlite_database)
    with OldPacs().running() as pacs:
        parcel(where, 1)
        until_idle(where, pacs.destination())
    report, image = pacs.taken

    assert image.StudyInstanceUID == report.StudyInstanceUID
    assert (image.PatientID, image.PatientName) == (report.PatientID, report.PatientName)
    assert image.BurnedInAnnotation == "YES"
    assert image.ImageComments == "Finding 0, image 3"
    pixels = image.pixel_array
    assert pixels.shape == (201, 301, 3)
    assert tuple(pixels[-1, -1]) == (0, 90, 90)  # the picture as it was drawn
    assert (pixels == (255, 210, 0)).all(axis=2).sum() > 100  # and the warning on it
    assert not np.array_equal(pixels[0, 0], (0, 90, 90))


@pytest.mark.peer
def test_dciodvfy_finds_no_error_in_it(tmp_path: Path, sqlite_database: Database) -> None:
    where = site(tmp_path, sqlite_database)
    with OldPacs().running() as pacs:
        parcel(where, 1)
        until_idle(where, pacs.destination())
    with where.database.read() as session:
        path = session.scalars(select(Result.path).where(Result.kind == "CAPTURE")).one()

    assert errors_of(where.spool.path(path or "")) == []


@pytest.mark.slow
def test_two_such_destinations_get_the_same_images(tmp_path: Path, sqlite_database: Database) -> None:
    where = site(tmp_path, sqlite_database)
    with OldPacs().running() as first, OldPacs().running() as second:
        number = parcel(where)
        with where.database.write() as session:
            job = session.get_one(Delivery, number).job
            ledger.make_deliveries(session, job, list(job.results), {"viewer": None}, at=job.created_at)
        until_idle(where, first.destination())
        until_idle(where, second.destination(name="viewer"))

    uids = [[str(one.SOPInstanceUID) for one in pacs.taken if one.SOPClassUID == SC] for pacs in (first, second)]
    assert uids[0] == uids[1]
    with where.database.read() as session:
        assert len(session.scalars(select(Result).join(Job).where(Result.kind == "CAPTURE")).all()) == 2
    assert len(list(where.spool.files(Area.RESULTS))) == 4  # nothing is left of the second making


def test_key_images_that_are_refused_as_well_are_a_dead_letter(tmp_path: Path, sqlite_database: Database) -> None:
    where = site(tmp_path, sqlite_database)
    with OldPacs(classes=(SR,)).running() as pacs:
        number = parcel(where)
        until_idle(where, pacs.destination())

    assert state(where, number)[0] == DeliveryState.FAILED
    assert items(where, number) == {"SR": ["0x0000"], "CAPTURE": [None, None]}


def test_without_pictures_the_refusal_stays(tmp_path: Path, sqlite_database: Database) -> None:
    where = site(tmp_path, sqlite_database)
    with OldPacs().running() as pacs:
        number = parcel(where, 0)
        until_idle(where, pacs.destination())

    assert state(where, number)[0] == DeliveryState.FAILED
    assert set(items(where, number)) == {"SR", "SEG"}


@pytest.mark.parametrize(
    ("status", "policy", "replaced"),
    [
        ("", "key-images", True),
        ("0x0122", "key-images", True),
        ("0xA801", "key-images", True),
        ("0xA900", "key-images", False),
        ("0xA900", "key-images-always", True),
        ("", "key-images-always", True),
        ("", "nothing", False),
    ],
)
def test_the_policy_of_the_destination_decides(status: str, policy: str, replaced: bool) -> None:
    destination = Destination(name="pacs", ae_title="OLD", host="127.0.0.1", port=1, without_seg=policy)  # type: ignore[arg-type]

    assert is_wanted(destination, scu.Sent(SEG, "1.2", status, scu.Meaning.REFUSED, "")) is replaced


def test_what_is_worth_another_try_is_not_replaced() -> None:
    destination = Destination(name="pacs", ae_title="OLD", host="127.0.0.1", port=1, without_seg="key-images-always")

    assert not is_wanted(destination, scu.Sent(SEG, "1.2", "0xA700", scu.Meaning.TRY_AGAIN, ""))
    assert not is_wanted(destination, scu.Sent(SEG, "1.2", "0xB000", scu.Meaning.STORED_WITH_WARNING, ""))
