"""The simulated PACS is a real peer: DCMTK can talk to it, it keeps what it says it kept, and it can go down and come back."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import MRImageStorage

from dicom_node.simulator import Behaviour, SendingFailed, SimulatedPacs, send_datasets
from tests import studies
from tests.network import storescu
from tests.peers import program
from tests.studies import Plan

pytestmark = pytest.mark.feature("V1")

SMALL = Plan(slices=3, rows=16, columns=16)


def test_it_keeps_what_it_gets(tmp_path: Path) -> None:
    pacs = SimulatedPacs("PACS", folder=tmp_path / "pacs")
    pacs.start()
    datasets = studies.series(SMALL)
    try:
        sent = send_datasets(pacs.destination(), "MODALITY", datasets)
        send_datasets(pacs.destination(), "MODALITY", datasets[:1])
    finally:
        pacs.close()

    assert [one.status for one in sent] == ["0x0000"] * 3
    assert (len(pacs.received()), pacs.receipts(), pacs.attempts) == (3, 4, 4)
    assert {one.modality for one in pacs.received()} == {"MR"}
    kept = dcmread(pacs.received()[0].path)
    assert kept.PixelData == datasets[0].PixelData
    assert kept.PatientName == datasets[0].PatientName


@pytest.mark.peer
def test_dcmtk_can_talk_to_it(tmp_path: Path) -> None:
    pacs = SimulatedPacs("PACS")
    port = pacs.start()
    try:
        echo = subprocess.run([program("echoscu"), "127.0.0.1", str(port)], timeout=20)
        storescu(port, studies.save(studies.series(SMALL), tmp_path / "out"), called="PACS")

        assert echo.returncode == 0
        assert len(pacs.received()) == 3
    finally:
        pacs.close()


def test_refused_objects_are_not_kept() -> None:
    pacs = SimulatedPacs("PACS")
    pacs.start()
    pacs.behaviour = Behaviour(statuses={str(MRImageStorage): 0xC000})
    try:
        with pytest.raises(SendingFailed, match="0xC000"):
            send_datasets(pacs.destination(), "MODALITY", studies.series(replace(SMALL, slices=1)))

        assert (pacs.received(), pacs.attempts) == ([], 1)
    finally:
        pacs.close()


@pytest.mark.slow
def test_it_comes_back_on_the_same_port_with_what_it_had() -> None:
    pacs = SimulatedPacs("PACS")
    port = pacs.start()
    try:
        send_datasets(pacs.destination(), "MODALITY", studies.series(SMALL)[:1])
        pacs.stop()
        with pytest.raises(SendingFailed, match="connection-failed"):
            send_datasets(pacs.destination(), "MODALITY", studies.series(SMALL))

        assert pacs.start() == port
        send_datasets(pacs.destination(), "MODALITY", studies.series(SMALL))
        assert pacs.wait_for(lambda received: len(received) == 4, 5)
        assert len(pacs.received()) == 3
    finally:
        pacs.close()


def test_its_temporary_folder_is_removed() -> None:
    pacs = SimulatedPacs("PACS")
    pacs.start()
    folder = pacs.folder

    pacs.close()

    assert not folder.exists()
