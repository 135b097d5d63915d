"""What a head is made of: tissue classes, and atlases (label maps on a 1 mm grid) from which slices are cut.

An atlas is indexed [slice foot to head, row anterior to posterior, column patient right to left], the display order of
an axial DICOM slice. Label values are those of FreeSurfer for the brain and of SynthSeg (Billot et al., Medical Image
Analysis 2023) outside of it.
"""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


class Tissue(IntEnum):
    """One signal level each in a painted head."""

    AIR = 0
    WHITE = 1
    CORTEX = 2
    DEEP_GREY = 3
    VENTRICLE = 4
    CHOROID = 5
    BRAINSTEM = 6
    CEREBELLAR_WHITE = 7
    CEREBELLAR_CORTEX = 8
    CSF = 9
    SKIN = 10
    SOFT = 11
    BONE = 12
    MARROW = 13
    EYE = 14
    VEIN = 15
    ARTERY = 16
    MUCOSA = 17
    CORD = 18


BRAIN = tuple(Tissue(n) for n in range(Tissue.WHITE, Tissue.CEREBELLAR_CORTEX + 1))

_LABELS: dict[Tissue, tuple[int, ...]] = {
    Tissue.WHITE: (2, 41, 77, 78, 79, 251, 252, 253, 254, 255),
    Tissue.CORTEX: (3, 42, 17, 53, 18, 54, 136, 137, 163, 164),
    Tissue.DEEP_GREY: (10, 49, 11, 50, 12, 51, 13, 52, 26, 58, 25, 57),
    Tissue.VENTRICLE: (4, 43, 5, 44, 14, 15, 72),
    Tissue.CHOROID: (31, 63),
    Tissue.BRAINSTEM: (16, 28, 60),
    Tissue.CEREBELLAR_WHITE: (7, 46),
    Tissue.CEREBELLAR_CORTEX: (8, 47),
    Tissue.CSF: (24,),
    Tissue.SKIN: (511,),
    Tissue.SOFT: (507, 508, 530, 85),
    Tissue.BONE: (515,),
    Tissue.MARROW: (516,),
    Tissue.EYE: (506,),
    Tissue.VEIN: (514, 30, 62),
    Tissue.ARTERY: (502,),
    Tissue.MUCOSA: (509,),
    Tissue.CORD: (512,),
}
_SULCUS_MM = 4  # radius by which the brain is closed, so that sulci belong to it


@dataclass(frozen=True, slots=True)
class Atlas:
    """A head as tissue classes on a 1 mm isotropic grid, and where its brain lies."""

    name: str
    tissue: NDArray[np.uint8]
    brain: NDArray[np.bool_]
    """Brain tissue and ventricles, sulci closed; neither meninges nor spinal cord."""
    shares: NDArray[np.float64]
    """Fraction of the brain mask held by each tissue."""

    @property
    def centre(self) -> NDArray[np.float64]:
        """The centre of the brain's bounding box, in voxels (= mm)."""
        return np.array([(np.flatnonzero(self._profile(axis))[[0, -1]]).mean() for axis in range(3)])

    @property
    def brain_levels(self) -> tuple[int, int]:
        """First and last slice that hold brain."""
        found = np.flatnonzero(self._profile(0))
        return int(found[0]), int(found[-1])

    def _profile(self, axis: int) -> NDArray[np.bool_]:
        others = tuple(a for a in range(3) if a != axis)
        return np.asarray(self.brain.any(axis=others), dtype=np.bool_)


def atlas_from_tissue(name: str, tissue: NDArray[np.uint8]) -> Atlas:
    """An atlas from tissue classes [slice, row, column] at 1 mm; the brain mask is derived from them."""
    parenchyma = np.isin(tissue, [int(t) for t in BRAIN])
    ball = ndimage.iterate_structure(ndimage.generate_binary_structure(3, 1), _SULCUS_MM)
    brain = ndimage.binary_closing(np.pad(parenchyma, _SULCUS_MM), ball)
    brain = brain[tuple(slice(_SULCUS_MM, -_SULCUS_MM) for _ in range(3))]
    shares = np.bincount(tissue[brain], minlength=len(Tissue)) / max(1, int(brain.sum()))
    return Atlas(name, tissue, brain, shares)


def tissue_from_labels(labels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Tissue classes from FreeSurfer and SynthSeg label values; an unknown label counts as soft tissue."""
    table = np.full(65536, Tissue.SOFT, dtype=np.uint8)
    table[0] = Tissue.AIR
    for tissue, values in _LABELS.items():
        table[list(values)] = tissue
    return np.asarray(table[labels], dtype=np.uint8)


def read_label_map(path: Path) -> Atlas:
    """The atlas stored as an xz-compressed array of labels [left to right, posterior to anterior, foot to head] at 1 mm."""
    with lzma.open(path) as stream:
        labels = np.load(stream)
    tissue = tissue_from_labels(labels)
    return atlas_from_tissue(path.name.split(".")[0], np.ascontiguousarray(tissue.transpose(2, 1, 0)[:, ::-1, ::-1]))
