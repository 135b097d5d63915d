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

from dicom_node.outcome import OutputOptions
from tests.peers import Orthanc, Sender, running_orthanc
from tests.postgres import peer_missing
from tests.viewer.browser import chromium
from tests.viewer.cases import SERIES, WITHOUT_FINDINGS, Case, build, other_map, without_findings
from tests.viewer.gateway import Gateway
from tests.viewer.ohif import Ohif
from tests.viewer.packages import HERE, packages
from tests.viewer.spoilt import CONTROLS, SPOILT_MAPS, misdrawn

OTHER_MAPS = {
    "uint16": OutputOptions(objects=("seg", "sr", "parametric-map"), map_values="uint16"),
    "brain": OutputOptions(objects=("seg", "sr", "parametric-map"), map_extent="brain"),
}
ARTIFACTS = Path(__file__).parents[2] / "artifacts" / "viewer"


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """Everything that stands between the product's objects and the screen."""

    cases: dict[str, Case]
    without_findings: dict[str, Case]
    controls: dict[str, Dataset]
    """Spoilt segmentations and maps of the oblique case."""
    other_maps: dict[str, Dataset]
    """Maps of the oblique case in the other forms that the settings offer."""
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
    silent = {name: without_findings(name, folder / name) for name in WITHOUT_FINDINGS}
    controls = {name: spoil(cases["oblique"]) for name, spoil in (CONTROLS | SPOILT_MAPS).items()}
    others = {name: other_map("oblique", folder / name, output) for name, output in OTHER_MAPS.items()}
    report = misdrawn(cases["oblique"])
    with running_orthanc(Orthanc(folder / "orthanc")) as archive:
        if "dicom-web" not in archive.get("/plugins"):
            peer_missing("Orthanc has no DICOMweb plugin")
        for case in (*cases.values(), *silent.values()):
            _send(archive, [*case.stored, *(one for ones in case.results.values() for one in ones)])
        _send(archive, [*controls.values(), *others.values(), report])
        pages = {"/app-config.js": (HERE / "ohif-config.js").read_bytes(), "/dwv.html": (HERE / "dwv.html").read_bytes()}
        gateway = Gateway(archive.http_port, {"": modules / "@ohif" / "app" / "dist", "packages": modules}, pages)
        gateway.start()
        try:
            with chromium() as driver:
                yield Stage(cases, silent, controls, others, report, archive, gateway.url, driver)
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


@pytest.fixture(scope="session")
def ohif(stage: Stage) -> Ohif:
    """OHIF in the browser."""
    return Ohif(stage.driver, stage.url)
