"""What the pixels alone can tell: geometry on any orientation, tilt, how much brain there is and where it ends."""

from __future__ import annotations

import numpy as np
import pytest

from inference.gate import check_brain, check_volume, remarks, tilt_deg
from inference.types import Refusal
from tests.inference.heads import affine, card, head, volume

VALIDITY = card().validity


@pytest.mark.parametrize("angle", [0.0, 12.5, 39.0])
@pytest.mark.parametrize("axes", ["HPL", "FAR", "HRP"])
def test_tilt_is_the_angle_of_the_slice_normal(angle: float, axes: str) -> None:
    shape = (4, 5, 6)
    scan = volume(np.zeros(shape, dtype=np.float32), affine(shape, (5, 1, 1), tilt_deg=(angle, 0, 30), axes=axes))

    assert tilt_deg(scan.get_geometry()) == pytest.approx(angle, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "spacing", "axes"),
    [
        ((30, 80, 72), (5.0, 2.2, 2.2), "HPL"),
        ((80, 72, 30), (2.2, 2.2, 5.0), "PLH"),
        ((72, 30, 80), (2.2, 5.0, 2.2), "RFA"),
    ],
)
def test_the_limits_are_those_of_the_axial_planes_whatever_the_order_of_axes(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], axes: str
) -> None:
    check_volume(head(shape=shape, spacing_mm=spacing, axes=axes), VALIDITY)


def test_thick_sagittal_slices_are_no_axial_pixels() -> None:
    with pytest.raises(Refusal, match=r"pixel spacing 5 mm, the model allows 0\.3 to 3 mm"):
        check_volume(head(shape=(30, 80, 72), spacing_mm=(5.0, 2.2, 2.2), axes="LFP"), VALIDITY)


def test_a_limit_is_inclusive_for_spacings_that_were_rounded_on_their_way() -> None:
    check_volume(head(shape=(30, 60, 60), spacing_mm=(5.0, 3.0000002, 3.0000002)), VALIDITY)


def test_integers_are_pixels_too() -> None:
    scan = head()

    check_volume(scan.with_array(scan.array.astype(np.int16)), VALIDITY)


@pytest.mark.parametrize(("slices", "code"), [(0, "no-brain"), (4, "few-brain-slices")])
def test_too_little_brain_is_refused_with(slices: int, code: str) -> None:
    brain = np.zeros((20, 6, 6), dtype=bool)
    brain[:slices, 2, 2] = True

    with pytest.raises(Refusal) as caught:
        check_brain(brain)

    assert caught.value.code == code


def test_five_slices_are_enough() -> None:
    brain = np.zeros((20, 6, 6), dtype=bool)
    brain[3:8, 2, 2] = True

    check_brain(brain)


def remarks_on(brain: np.ndarray, voxel_ml: float) -> str:
    """The remarks on a mask whose voxels have this volume."""
    side = (1000 * voxel_ml) ** (1 / 3)
    return " ".join(remarks(volume(brain.astype(np.float32), affine(brain.shape, (side, side, side))), brain))


def test_an_ordinary_brain_needs_no_remark() -> None:
    brain = np.zeros((12, 12, 12), dtype=bool)
    brain[1:-1, 1:-1, 1:-1] = True  # 1000 voxels

    assert remarks_on(brain, voxel_ml=1.4) == ""


@pytest.mark.parametrize(("voxel_ml", "said"), [(0.3, "holds 300 mL"), (2.5, "holds 2500 mL")])
def test_an_unlikely_volume_is_remarked_upon(voxel_ml: float, said: str) -> None:
    brain = np.zeros((12, 12, 12), dtype=bool)
    brain[1:-1, 1:-1, 1:-1] = True

    assert said in remarks_on(brain, voxel_ml)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ((0, 5, 5), "first slice"),
        ((11, 5, 5), "last slice"),
        ((5, 0, 5), "edge of the image"),
        ((5, 5, 11), "edge of the image"),
    ],
)
def test_a_brain_that_is_cut_off_is_remarked_upon(place: tuple[int, int, int], said: str) -> None:
    brain = np.zeros((12, 12, 12), dtype=bool)
    brain[1:-1, 1:-1, 1:-1] = brain[place] = True

    assert f"reaches the {said}:" in remarks_on(brain, 1.4)
