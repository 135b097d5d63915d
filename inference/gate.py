"""What a volume must be before a model may see it: the pixel-level part of the validity gate.

Each refusal has a stable code and says the value, the limit and its unit. What only the DICOM header knows
(modality, body part, echo time, age) is checked before, where the header is.
"""

from __future__ import annotations

import math

import numpy as np
from highdicom import Volume, VolumeGeometry
from numpy.typing import NDArray

from inference.card import Validity
from inference.preprocess import ORIENTATION as NETWORK_ORIENTATION
from inference.types import Refusal

BRAIN_ML_EXPECTED = (800.0, 2000.0)
"""Adult intracranial volume lies between about 1.0 and 1.9 litres; wider by a margin for the mask."""
LEAST_BRAIN_SLICES = 5
"""Fewer slices with brain are no study of the brain: the smallest usual series has 20 or so."""
FOOT_TO_HEAD = np.array([0.0, 0.0, 1.0])
SPACING_TOLERANCE = 1e-3
"""Relative: spacings come from decimal strings and float32 affines."""


def check_volume(volume: Volume, validity: Validity) -> None:
    """Raises Refusal where the volume is no image at all or outside the model's declared geometry.

    Slices, spacing and tilt are those of the planes that the network will see: the volume's own axes, swapped
    and reversed to be as axial as they can. A sagittal acquisition with small cubic voxels is as good as
    axial.
    """
    _check_pixels(volume.array)
    axial = volume.get_geometry().to_patient_orientation(NETWORK_ORIENTATION)
    slices, rows, columns = axial.spatial_shape
    slice_mm, row_mm, column_mm = axial.spacing
    _within("slices", "number of slices", slices, validity.slices, "")
    for spacing in (row_mm, column_mm):
        _within("pixel-spacing", "pixel spacing", spacing, validity.pixel_spacing_mm, " mm")
    _within("slice-spacing", "slice spacing", slice_mm, validity.slice_spacing_mm, " mm")
    shorter = min(rows * row_mm, columns * column_mm)
    _within("field-of-view", "shorter side of the field of view", shorter, validity.field_of_view_mm, " mm")
    tilt = tilt_deg(axial)
    if tilt > validity.maximum_tilt_deg + 1e-6:
        limit = f"at most {validity.maximum_tilt_deg:g} degrees"
        raise Refusal("tilt", f"slices are tilted {tilt:.1f} degrees from the axial plane, the model allows {limit}")


def tilt_deg(geometry: VolumeGeometry) -> float:
    """The angle in degrees, 0 to 90, between the first axis (slices) and the patient's foot-head axis."""
    normal = np.asarray(geometry.unit_vectors()[0], dtype=np.float64)
    return math.degrees(math.acos(min(1.0, abs(float(normal @ FOOT_TO_HEAD)))))


def check_brain(brain: NDArray[np.bool_]) -> None:
    """Raises Refusal where brain[slice, row, column] holds no brain, or too few slices of one."""
    slices = int(brain.any(axis=(1, 2)).sum())
    if slices == 0:
        raise Refusal("no-brain", "no brain was found in the volume")
    if slices < LEAST_BRAIN_SLICES:
        raise Refusal("few-brain-slices", f"{slices} slices show brain, at least {LEAST_BRAIN_SLICES} are needed")


def remarks(volume: Volume, brain: NDArray[np.bool_]) -> tuple[str, ...]:
    """Sentences for the reader on how much brain there is and where it is cut off; empty where ordinary."""
    found = []
    millilitres = float(brain.sum()) * float(volume.voxel_volume) / 1000.0
    low, high = BRAIN_ML_EXPECTED
    if not low <= millilitres <= high:
        usual = f"an adult's is {low:.0f} to {high:.0f} mL"
        found.append(f"The brain mask holds {millilitres:.0f} mL ({usual}): it may be incomplete or too wide.")
    edges = {
        "first slice": brain[0].any(),
        "last slice": brain[-1].any(),
        "edge of the image": brain[:, [0, -1], :].any() or brain[:, :, [0, -1]].any(),
    }
    cut = [name for name, reached in edges.items() if reached]
    if cut:
        found.append(f"The brain reaches the {' and the '.join(cut)}: what lies beyond was not seen.")
    return tuple(found)


def _check_pixels(array: NDArray[np.generic]) -> None:
    if array.ndim != 3:
        raise Refusal("dimensions", f"the volume has {array.ndim} dimensions, 3 are needed: slice, row, column")
    if array.size == 0 or min(array.shape) < 1:
        raise Refusal("dimensions", f"the volume is empty: {array.shape}")
    if not np.issubdtype(array.dtype, np.number):
        raise Refusal("dimensions", f"the volume holds {array.dtype}, numbers are needed")
    bad = int(np.size(array) - np.count_nonzero(np.isfinite(array)))
    if bad:
        raise Refusal("not-finite", f"{bad} voxels are not finite numbers")
    if array.min() == array.max():
        raise Refusal("constant", f"every voxel has the same value {float(array.flat[0]):g}")


def _within(code: str, what: str, value: float, limits: tuple[float, float], unit: str) -> None:
    low, high = limits
    slack = SPACING_TOLERANCE * abs(value)
    if not low - slack <= value <= high + slack:
        raise Refusal(code, f"{what} {value:g}{unit}, the model allows {low:g} to {high:g}{unit}")
