"""What the viewers' tests share: one archive with every case in it, one gateway, one browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from selenium.webdriver import Chrome

from tests.peers import Orthanc, Sender, running_orthanc
from tests.postgres import peer_missing
from tests.viewer.browser import chromium
from tests.viewer.cases import CONTROLS, SERIES, Case, build, misdrawn
from tests.viewer.gateway import Gateway
from tests.viewer.packages import HERE, packages

ARTIFACTS = Path(__file__).parents[2] / "artifacts" / "viewer"


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """Everything that stands between the product's objects and the screen."""

    cases: dict[str, Case]
    controls: dict[str, Dataset]
    """Spoilt segmentations of the oblique case."""
    misdrawn: Dataset
    """A spoilt report of the oblique case."""
    archive: Orthanc
    url: str
    driver: Chrome

    def address(self, instance: Dataset) -> str:
        """Where a browser gets the instance as a file."""
        (identifier,) = self.archive.find({"SOPInstanceUID": str(instance.SOPInstanceUID)})
        return f"/instances/{identifier}/file"


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The archive with all cases and controls, sent there by C-STORE, and the browser."""
    folder = tmp_path_factory.mktemp("viewer")
    modules = packages()
    cases = {name: build(name, folder / name) for name in SERIES}
    controls = {name: spoil(cases["oblique"]) for name, spoil in CONTROLS.items()}
    report = misdrawn(cases["oblique"])
    with running_orthanc(Orthanc(folder / "orthanc")) as archive:
        if "dicom-web" not in archive.get("/plugins"):
            peer_missing("Orthanc has no DICOMweb plugin")
        for case in cases.values():
            _send(archive, [*case.images, case.segmentation, case.report])
        _send(archive, [*controls.values(), report])
        pages = {"/app-config.js": (HERE / "ohif-config.js").read_bytes(), "/dwv.html": (HERE / "dwv.html").read_bytes()}
        gateway = Gateway(archive.http_port, {"": modules / "@ohif" / "app" / "dist", "packages": modules}, pages)
        gateway.start()
        try:
            with chromium() as driver:
                yield Stage(cases, controls, report, archive, gateway.url, driver)
        finally:
            gateway.stop()


def _send(archive: Orthanc, datasets: list[Dataset]) -> None:
    sender = Sender(archive.port, calling="FOVEA", called=archive.ae_title)
    assert sender.send(datasets)
    assert not sender.refused


@pytest.fixture
def keep() -> Callable[[str, NDArray[np.uint8]], None]:
    """Keeps a picture among the run's artifacts, under a name."""

    def kept(name: str, picture: NDArray[np.uint8]) -> None:
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(ARTIFACTS / f"{name.replace(' ', '-')}.png")

    return kept
