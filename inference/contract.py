"""What every localization must be, whoever made it: checked on each result of a method that is not ours.

A method of one's own that passes `check_localization` on its own volumes plugs into the node: SEG and SR are
encoded from these values without another look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from highdicom import Volume

from inference.types import Finding, Localization, Refusal

if TYPE_CHECKING:
    from inference.localizer import Context, Localizer

VOLUME_TYPES = {
    "score": np.float32,
    "raw": np.float32,
    "brain": np.uint8,
    "labels": np.uint16,
    "pseudo_healthy": np.float32,
    "uncertainty": np.float32,
}
POSITION_TOLERANCE_MM = 1e-3


class ContractError(Exception):
    """Raised when a localizer returns what the node cannot stand behind; the message says which rule."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A localizer whose every result is checked before anyone sees it."""

    localizer: Localizer

    def localize(self, volume: Volume, context: Context) -> Localization:
        """The wrapped localizer's result. Raises ContractError where it breaks a rule, and what it raises."""
        result = self.localizer.localize(volume, context)
        check_localization(volume, result)
        return result


def check_localizer(localizer: Localizer) -> Iterator[str]:
    """Hold a localizer to the contract on synthetic heads; yields each rule as it is met, in words.

    For the author of a method: `list(check_localizer(mine))` in a test, or `fovea check-localizer`. Raises ContractError at
    the first rule that is broken.
    """
    from inference.localizer import Context

    seen: list[Localization] = []
    for words, volume in _heads():
        result = localizer.localize(volume, Context(seed=3))
        check_localization(volume, result)
        seen.append(result)
        yield f"{words}: maps on the grid of the input, finite, findings as their labels say"
    words, volume = next(_heads())
    again = localizer.localize(volume, Context(seed=3))
    for name in VOLUME_TYPES:
        first, second = getattr(seen[0], name), getattr(again, name)
        if (first is None) != (second is None) or (first is not None and not np.array_equal(first.array, second.array)):
            raise ContractError(f"{name}: differs when {words} is localized again with the same seed")
    yield "the same volume and seed: the same bits"
    check_refusals(localizer, volume)
    yield "a volume with a voxel that is not a number, and a constant one: refused"


def check_refusals(localizer: Localizer, volume: Volume) -> None:
    """Raise ContractError unless input that is no image is refused as such."""
    from inference.localizer import Context

    broken = np.array(volume.array, dtype=np.float32)
    broken.flat[broken.size // 2] = np.nan
    for words, array in (("not a number", broken), ("constant", np.full_like(broken, 7.0))):
        try:
            localizer.localize(volume.with_array(array), Context())
        except Refusal:
            continue
        raise ContractError(f"a volume that is {words} was localized, it must raise inference.types.Refusal")


def _heads() -> Iterator[tuple[str, Volume]]:
    """Synthetic heads on grids that catch those who mix up axes."""
    from inference.phantom import synthetic_head

    head = synthetic_head(seed=7, shape=(26, 104, 92), spacing_mm=(6.0, 2.1, 2.1), lesions=2)
    affine = np.zeros((4, 4))
    for axis, lps in enumerate((2, 1, 0)):
        affine[lps, axis], affine[lps, 3] = head.spacing_mm[axis], head.origin_lps[lps]
    affine[3, 3] = 1
    axial = Volume(head.image.astype(np.float32), affine, "PATIENT")
    yield "an axial head", axial
    yield "the same head, feet last and mirrored", axial.to_patient_orientation("FAR")
    yield "the same head, sagittal", axial.to_patient_orientation("LFP")


def check_localization(volume: Volume, result: Localization) -> None:
    """Raise ContractError at the first rule that `result` breaks for this `volume`."""
    for name, dtype in VOLUME_TYPES.items():
        part: Volume | None = getattr(result, name)
        if part is not None:
            _check_volume(name, part, volume, np.dtype(dtype))
    if result.brain.array.max(initial=0) > 1:
        raise ContractError("brain: holds values above 1")
    if np.any(result.score.array < 0):
        raise ContractError("score: holds values below 0")
    if np.any(result.score.array[result.brain.array == 0]):
        raise ContractError("score: is not 0 outside the brain")
    _check_findings(volume, result)
    if result.findings_left_out < 0:
        raise ContractError(f"findings_left_out: {result.findings_left_out}")


def _check_volume(name: str, part: Volume, volume: Volume, dtype: np.dtype[np.generic]) -> None:
    if part.array.dtype != dtype:
        raise ContractError(f"{name}: is {part.array.dtype}, must be {dtype}")
    if part.array.shape != volume.spatial_shape or not np.allclose(
        part.affine, volume.affine, rtol=0, atol=POSITION_TOLERANCE_MM
    ):
        raise ContractError(f"{name}: does not lie on the grid of the input")
    if part.frame_of_reference_uid != volume.frame_of_reference_uid:
        raise ContractError(f"{name}: is in another frame of reference than the input")
    if not np.all(np.isfinite(part.array)):
        raise ContractError(f"{name}: holds numbers that are not finite")


def _check_findings(volume: Volume, result: Localization) -> None:
    sizes = np.bincount(result.labels.array.ravel(), minlength=1)[1:]
    numbers = [finding.number for finding in result.findings]
    if numbers != list(range(1, len(sizes) + 1)):
        raise ContractError(f"findings: numbered {numbers}, the labels go from 1 to {len(sizes)}")
    for finding, voxels in zip(result.findings, sizes, strict=True):
        _check_finding(finding, int(voxels), volume, result)
    volumes = [finding.volume_mm3 for finding in result.findings]
    if volumes != sorted(volumes, reverse=True):
        raise ContractError("findings: not in the order of falling volume")


def _check_finding(finding: Finding, voxels: int, volume: Volume, result: Localization) -> None:
    where = f"finding {finding.number}"
    if finding.voxels != voxels or voxels == 0:
        raise ContractError(f"{where}: says {finding.voxels} voxels, its label has {voxels}")
    if not np.isclose(finding.volume_mm3, voxels * volume.voxel_volume, rtol=1e-4):
        raise ContractError(f"{where}: {finding.volume_mm3:g} mm3 is not {voxels} voxels' volume")
    indices = np.argwhere(result.labels.array == finding.number)
    centroid = np.asarray(volume.affine)[:3] @ np.append(indices.mean(axis=0), 1.0)
    if not np.allclose(centroid, finding.centroid_lps, atol=0.5 * float(min(volume.spacing))):
        raise ContractError(f"{where}: centroid {finding.centroid_lps}, its voxels' is {centroid.tolist()}")
    box = tuple((int(a), int(b) + 1) for a, b in zip(indices.min(axis=0), indices.max(axis=0), strict=True))
    if finding.bounding_box != box:
        raise ContractError(f"{where}: bounding box {finding.bounding_box}, its voxels' is {box}")
    if finding.hemisphere not in {"left", "right", "both", None}:
        raise ContractError(f"{where}: hemisphere {finding.hemisphere!r}")
    numeric = [getattr(finding, field.name) for field in fields(finding)]
    if not all(np.all(np.isfinite(value)) for value in numeric if isinstance(value, float | tuple)):
        raise ContractError(f"{where}: holds numbers that are not finite")
