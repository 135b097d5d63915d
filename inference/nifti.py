"""NIfTI files as volumes. NIfTI is RAS, everything of ours is LPS: converted once, here at the edge.

For notebooks, evaluation and `fovea localize`; the node itself reads DICOM.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from highdicom import CoordinateSystemNames, Volume
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import SpatialImage


class UnreadableImageError(Exception):
    """Raised when a file is no three-dimensional NIfTI image; the message says why."""


def volume_from_nifti(path: Path, stated_spacing_mm: tuple[float, float, float] | None = None) -> Volume:
    """The image as float32 volume[slice, row, column] with an LPS affine, slices nearest to axial.

    Axes are only swapped and reversed so that slices go from foot to head, rows from front to back and
    columns from right to left, as in an axial DICOM series; nothing is resampled. `stated_spacing_mm` (slice,
    row, column) replaces a header's spacing that is known to be wrong. Raises UnreadableImageError.
    """
    try:
        image = nibabel.load(path)
        if not isinstance(image, SpatialImage):
            raise UnreadableImageError(f"{path.name}: {type(image).__name__} is not an image in space")
        _check_place(path, image, stated_spacing_mm is not None)
        array = np.asarray(image.dataobj, dtype=np.float32)
    except (ImageFileError, OSError, ValueError, EOFError) as error:
        raise UnreadableImageError(f"{path.name}: {error}") from error
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise UnreadableImageError(f"{path.name}: {array.ndim} dimensions, 3 are needed")
    try:
        volume = Volume(
            array=array,
            affine=np.asarray(image.affine, dtype=np.float64),
            coordinate_system=CoordinateSystemNames.PATIENT,
            from_reference_convention="RAS",
        )
    except ValueError as error:
        raise UnreadableImageError(f"{path.name}: {error}") from error
    axial = volume.to_patient_orientation("HPL")
    ordered = axial.with_array(np.ascontiguousarray(axial.array))
    return ordered if stated_spacing_mm is None else _restated(ordered, stated_spacing_mm)


def _check_place(path: Path, image: SpatialImage, spacing_known: bool) -> None:
    """Raises UnreadableImageError where a NIfTI header says neither spacing nor orientation: sides would be guessed."""
    codes = [int(image.header[key]) for key in ("sform_code", "qform_code") if key in image.header]
    if codes and not any(codes) and not spacing_known:
        raise UnreadableImageError(f"{path.name}: no spacing and orientation: sform_code and qform_code are both 0")


def _restated(volume: Volume, spacing_mm: tuple[float, float, float]) -> Volume:
    if min(spacing_mm) <= 0:
        raise UnreadableImageError(f"spacing {spacing_mm} mm: every entry must be above 0")
    return Volume.from_components(
        volume.array,
        spacing=spacing_mm,
        coordinate_system=CoordinateSystemNames.PATIENT,
        position=volume.position,
        direction=volume.direction.ravel().tolist(),
        frame_of_reference_uid=volume.frame_of_reference_uid,
    )
