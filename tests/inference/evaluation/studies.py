"""Studies with known truth and a localizer without any network, so that every figure can be worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from highdicom import Volume

from inference.data import Study, Traits, axial_volume
from inference.localizer import Context
from inference.postprocess import Components
from inference.types import Cost, Localization, ModelIdentity, OperatingPoint, Provenance, Refusal
from tests.inference.heads import card

SHAPE = (6, 40, 36)
SPACING = (4.0, 2.0, 2.0)
TISSUE = 400.0
UNKNOWN = Traits()


@dataclass(frozen=True)
class Plain:
    """Finds what is brighter or darker than TISSUE by a threshold; raw is in standardised units."""

    threshold: float = 1.0
    gain: float = 1.0
    doubt: bool = False

    def localize(self, volume: Volume, context: Context) -> Localization:
        """Raises Refusal where the image is called unusable by its first voxel."""
        image = np.asarray(volume.array, dtype=np.float32)
        if image[0, 0, 0] < 0:
            raise Refusal("test", "unusable")
        brain = image > 50
        raw = np.where(brain, 4 * (image / TISSUE - 1) * self.gain, 0).astype(np.float32)
        given = card(recipes=("intensity",))
        point = given.operating_point["intensity"].model_copy(
            update={"threshold": {"brighter": self.threshold, "darker": self.threshold}, "minimum_volume_mm3": 30.0}
        )
        found = Components().assess(volume.with_array(raw), brain, given.calibration["intensity"], point)
        cost = Cost(6, 1.5, 0.1, 100.0, "cpu", "float32")
        identity = ModelIdentity("plain", "1", "nobody", "0" * 64)
        stated = OperatingPoint(self.threshold, 30.0, "a test's")
        uncertainty = volume.with_array(np.abs(raw - self.threshold * np.sign(raw)) * -1 + 20) if self.doubt else None
        return Localization(
            score=volume.with_array(found.score),
            raw=volume.with_array(raw),
            brain=volume.with_array(brain.astype(np.uint8)),
            labels=volume.with_array(found.labels),
            pseudo_healthy=volume.with_array(np.where(brain, TISSUE, image).astype(np.float32)),
            uncertainty=uncertainty,
            findings=found.findings,
            findings_left_out=0,
            study_score=found.study_score,
            provenance=Provenance(identity, "plain", "0", context.seed, (), stated, cost, ()),
        )


@dataclass(frozen=True)
class Studies:
    """A reader of studies from memory."""

    items: Sequence[Study]
    name: str = "made by code"
    read: list[str] = field(default_factory=list)

    def studies(self) -> Iterator[Study]:
        """In order; remembers whom it handed out."""
        for study in self.items:
            self.read.append(study.patient)
            yield study


def study(
    patient: str,
    *,
    seed: int = 0,
    factor: float = 1.5,
    lesions: int = 1,
    false: int = 0,
    marked: bool = True,
    traits: Traits = UNKNOWN,
    noise: float = 0.04,
) -> Study:
    """A block of tissue with bright boxes of 2 x 6 x 6 voxels: `lesions` of them marked, `false` not."""
    rng = np.random.default_rng([seed, len(patient)])
    image = np.zeros(SHAPE, dtype=np.float32)
    image[:, 4:-4, 4:-4] = TISSUE * (1 + noise * rng.standard_normal((SHAPE[0], SHAPE[1] - 8, SHAPE[2] - 8)))
    truth = np.zeros(SHAPE, dtype=np.bool_)
    corners = [(row, column) for row in (7, 26) for column in (7, 22)]
    for number in range(lesions + false):
        row, column = corners[number]
        box = (slice(2, 4), slice(row, row + 6), slice(column, column + 6))
        image[box] *= factor
        truth[box] = number < lesions
    return Study(patient, axial_volume(image, SPACING), truth if marked else None, traits)


def cohort_of_studies(count: int = 8) -> list[Study]:
    """Patients with one or two lesions of rising contrast, every third with something false; sexes and sites take turns."""
    return [
        study(
            f"p{number:02}",
            seed=number,
            factor=1.15 + 0.08 * number,
            lesions=1 + number % 2,
            false=int(number % 3 == 0),
            traits=Traits("AB"[number % 2], "FM"[number % 2], 30.0 + 8 * number),
        )
        for number in range(count)
    ]
