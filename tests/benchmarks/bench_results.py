"""How fast and how large results are, against dcmqi's encoder: `python -m tests.benchmarks.bench_results`.

The same mask of five sparse findings over the same files, side by side in one run. Ours twice: from the files' headers to
the written SEG, everything checked, and from the headers that a run has read already. dcmqi's: `itkimage2segimage` as a
process, from files and an uncompressed mask to the written SEG. Seconds are those of the clock, and of the processors in
brackets: on a machine that does other things too only the latter can be compared. Then whole result sets of a series of
180 slices.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from statistics import median
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
from highdicom import Volume
from pydicom import dcmread
from rich.console import Console
from rich.table import Table

from dicom_node.outcome import KIND_OF_OBJECT, OutputOptions
from dicom_node.results.account import Account
from dicom_node.results.encode import encode, encode_segmentation
from dicom_node.results.identity import identity_of
from dicom_node.series import SeriesVolume, read_headers, read_series
from inference.types import Localization
from tests.dicom_node.results.builders import SeriesPlan, account_of, ball, localization_of, write
from tests.peers import program

SIZES = {"256 x 256 x 180": (180, 256, 256), "512 x 512 x 600": (600, 512, 512)}
REPEATS = 3
FINDINGS = 5
Frame = tuple[int, tuple[float, ...], int]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one thing took."""

    clock_s: float
    processor_s: float

    def __str__(self) -> str:
        return f"{self.clock_s:.2f} s ({self.processor_s:.2f})"

    def against(self, other: Cost) -> str:
        """How many times this is the other."""
        return f"{self.clock_s / other.clock_s:.1f} ({self.processor_s / other.processor_s:.1f})"


def main() -> None:
    """Measure and print."""
    console = Console(width=150)
    table = Table(
        "series", "ours", "encoding alone", "dcmqi", "times as fast", "alone", "our bytes", "dcmqi's bytes", "same voxels"
    )
    for name, shape in SIZES.items():
        with TemporaryDirectory() as folder:
            table.add_row(name, *segmentation_row(Path(folder), shape))
    console.print(table)
    with TemporaryDirectory() as folder:
        for label, cost, size in whole_sets(Path(folder)):
            console.print(f"{label} of 180 slices of 256 x 256: {cost}, {size / 1e6:.2f} MB")


def segmentation_row(folder: Path, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """One line of the table."""
    series, files = _series(folder, shape)
    localization = localization_of(series.volume, _masks(shape))
    command = _dcmqi(folder, series, localization)

    def theirs() -> None:
        subprocess.run(command, check=True, capture_output=True)

    def ours() -> None:
        _write_segmentation(folder / "ours.dcm", files, series, localization)

    our_cost, their_cost = _alternating(ours, theirs)
    sizes = [(folder / one).stat().st_size for one in ("ours.dcm", "theirs.dcm")]
    same = _are_alike(_voxels(folder / "ours.dcm"), _voxels(folder / "theirs.dcm"))
    account = account_of(series, localization)
    encoding_cost = _middle([_cost(lambda: _encode(folder / "ours.dcm", account)) for _ in range(REPEATS)])
    return (
        str(our_cost), str(encoding_cost), str(their_cost), their_cost.against(our_cost), their_cost.against(encoding_cost),
        f"{sizes[0]:,}", f"{sizes[1]:,}", "yes" if same else "NO",
    )  # fmt: skip


def whole_sets(folder: Path) -> list[tuple[str, Cost, int]]:
    """Seconds and bytes of the default set and of everything that can be asked for."""
    shape = (180, 256, 256)
    series, _ = _series(folder, shape)
    volume = series.volume
    found = replace(
        localization_of(volume, _masks(shape)),
        pseudo_healthy=volume.with_array(volume.array * np.float32(0.9)),
        uncertainty=volume.with_array(volume.array / np.float32(1000)),
    )
    rows = []
    for label, objects in (("segmentation and report", ("seg", "sr")), ("every object", tuple(KIND_OF_OBJECT))):
        sizes: list[int] = []

        def whole(objects: tuple[str, ...] = objects, sizes: list[int] = sizes) -> None:
            account = account_of(series, found, output=OutputOptions(objects=objects))
            sizes.append(sum(len(one.data) for one in encode(account, identity_of(account))))

        cost = _middle([_cost(whole) for _ in range(REPEATS)])
        rows.append((label, cost, sizes[0]))
    return rows


def _series(folder: Path, shape: tuple[int, int, int]) -> tuple[SeriesVolume, list[Path]]:
    files = write(SeriesPlan(shape=shape, spacing_mm=(1.0, 0.9, 0.9)), folder / "source")
    return read_series(files), files


def _masks(shape: tuple[int, int, int]) -> list[np.ndarray]:
    centres = ((0.3, 0.35, 0.3), (0.45, 0.6, 0.65), (0.6, 0.4, 0.6), (0.5, 0.3, 0.5), (0.7, 0.65, 0.4))
    masks = []
    for number, centre in enumerate(centres):
        at = [round(part * size) for part, size in zip(centre, shape, strict=True)]
        radius = [max(2, round(size * (0.05 - 0.006 * number))) for size in shape]
        low = [place - reach for place, reach in zip(at, radius, strict=True)]
        small = ball([2 * reach + 1 for reach in radius], radius, radius)
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(slice(start, start + size) for start, size in zip(low, small.shape, strict=True))] = small
        masks.append(mask)
    return masks


def _write_segmentation(path: Path, files: list[Path], series: SeriesVolume, localization: Localization) -> None:
    by_uid = {str(header.SOPInstanceUID): header for header in read_headers(files)}
    read = replace(series, source=tuple(by_uid[str(one.SOPInstanceUID)] for one in series.source))
    _encode(path, account_of(read, localization))


def _encode(path: Path, account: Account) -> None:
    path.write_bytes(encode_segmentation(account, identity_of(account)).data)


def _dcmqi(folder: Path, series: SeriesVolume, localization: Localization) -> list[str | Path]:
    """The command, with its mask and description written beside it."""
    _save_mask(folder / "mask.nii", localization.labels)
    codes = {"CodeValue": "49755003", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Morphologically Abnormal Structure"}
    lesion = {"CodeValue": "52988006", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Lesion"}
    segments = [
        {
            "labelID": number, "SegmentDescription": f"Finding {number}", "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": "brain-flair", "SegmentedPropertyCategoryCodeSequence": codes,
            "SegmentedPropertyTypeCodeSequence": lesion, "recommendedDisplayRGBValue": [220, 40, 40],
        }
        for number in range(1, FINDINGS + 1)
    ]  # fmt: skip
    described = {
        "ContentCreatorName": "Fovea", "ClinicalTrialSeriesID": "1", "ClinicalTrialTimePointID": "1", "SeriesNumber": "9000",
        "SeriesDescription": "mask", "InstanceNumber": "1", "BodyPartExamined": "BRAIN", "segmentAttributes": [segments],
    }  # fmt: skip
    (folder / "mask.json").write_text(json.dumps(described))
    return [
        program("itkimage2segimage", of_environment=True), "--inputImageList", folder / "mask.nii", "--inputDICOMDirectory",
        folder / "source", "--inputMetadata", folder / "mask.json", "--outputDICOM", folder / "theirs.dcm", "--skip",
    ]  # fmt: skip


def _save_mask(path: Path, labels: Volume) -> None:
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ labels.affine @ np.eye(4)[[2, 1, 0, 3]].T
    nibabel.save(nibabel.Nifti1Image(labels.array.astype(np.uint8).T, to_ras), path)


def _alternating(ours: Callable[[], None], theirs: Callable[[], None]) -> tuple[Cost, Cost]:
    """The middle cost of both, run by turns."""
    spent: tuple[list[Cost], list[Cost]] = ([], [])
    for _ in range(REPEATS):
        for costs, call in zip(spent, (ours, theirs), strict=True):
            costs.append(_cost(call))
    return _middle(spent[0]), _middle(spent[1])


def _middle(costs: list[Cost]) -> Cost:
    return Cost(median(one.clock_s for one in costs), median(one.processor_s for one in costs))


def _cost(call: Callable[[], None]) -> Cost:
    used, started = _processor_s(), time.perf_counter()
    call()
    return Cost(time.perf_counter() - started, _processor_s() - used)


def _processor_s() -> float:
    """Of this process and of those it waited for."""
    return sum(one.ru_utime + one.ru_stime for one in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


def _are_alike(ours: list[Frame], theirs: list[Frame]) -> bool:
    """Whether segment, place within a hundredth of a millimetre or so, and count agree frame by frame."""
    return len(ours) == len(theirs) and all(
        (one[0], one[2]) == (other[0], other[2]) and np.allclose(one[1], other[1], atol=0.02)
        for one, other in zip(ours, theirs, strict=True)
    )


def _voxels(path: Path) -> list[Frame]:
    """For each frame its segment, its place and how many pixels are set."""
    dataset = dcmread(path)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    size = int(dataset.Rows) * int(dataset.Columns)
    found = []
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        segment = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        place = tuple(round(float(value), 2) + 0.0 for value in frame.PlanePositionSequence[0].ImagePositionPatient)
        count = int(bits[index * size : (index + 1) * size].sum())
        if count:
            found.append((segment, place, count))
    return sorted(found, key=lambda one: (one[0], one[1][2]))


if __name__ == "__main__":
    main()
