"""Six glioma patients as a hospital would send them: plain and oblique, shuffled, compressed, with names in three scripts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from tests import data, studies
from tests.studies import OBLIQUE, Plan

LABELS = ("plain", "oblique shuffled", "JPEG-LS", "Japanese name", "umlauts, head first", "implicit VR, tilted")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One patient's series; `datasets` are uncompressed and foot to head, whatever is sent."""

    label: str
    name: str
    datasets: list[Dataset]
    to_send: list[Dataset]
    options: tuple[str, ...] = ()
    """Of storescu."""

    @property
    def study_instance_uid(self) -> str:
        """Study Instance UID."""
        return str(self.datasets[0].StudyInstanceUID)

    @property
    def accession_number(self) -> str:
        """Accession number."""
        return str(self.datasets[0].AccessionNumber)

    @property
    def sop_instance_uids(self) -> list[str]:
        """Of the images, foot to head."""
        return [str(one.SOPInstanceUID) for one in self.datasets]

    @property
    def affine_index_to_lps(self) -> NDArray[np.float64]:
        """From (slice, row, column) to LPS mm, from the images' headers."""
        return data.affine_index_to_lps(self.datasets)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return len(self.datasets), int(self.datasets[0].Rows), int(self.datasets[0].Columns)


def cases() -> list[Case]:
    """The six, the patients with the fewest slices."""
    made = [_case(label, name) for label, name in zip(LABELS, data.patient_names(), strict=False)]
    assert len(made) == len(LABELS)
    return made


def one_case(label: str, study: str, *, patient: int = 0, accession_number: str, who: studies.Patient | None = None) -> Case:
    """A plain case of one of the six under a study and accession number of its own."""
    name = data.patient_names()[patient]
    plan = Plan(study=study, accession_number=accession_number, patient=who or studies.Patient(f"ID-{accession_number}"))
    datasets = data.patient_series(name, plan)
    return Case(label, name, datasets, datasets)


def write(datasets: Sequence[Dataset], folder: Path) -> Path:
    """The images as files in the order given; the folder."""
    studies.save(datasets, folder)
    return folder


def _case(label: str, name: str) -> Case:
    number = LABELS.index(label) + 1
    who = studies.Patient(f"LGG-{number}", f"Patient^{number}", issuer="GENERAL")
    plan = Plan(study=f"acceptance {label}", accession_number=f"ACCEPT{number}", patient=who, centre_lps=(3.0, -17.0, 31.0))
    match label:
        case "oblique shuffled":
            return _shuffled(label, name, replace(plan, orientation=OBLIQUE))
        case "JPEG-LS":
            plain = _shuffled(label, name, plan)
            return replace(plain, to_send=[studies.compressed(one) for one in plain.to_send], options=("-xt",))
        case "Japanese name":
            yamada = replace(who, patient_name="Yamada^Tarou=山田^太郎=やまだ^たろう")
            japanese = replace(plan, patient=yamada, character_set=["", "ISO 2022 IR 87"], orientation=OBLIQUE)
            return _shuffled(label, name, japanese)
        case "umlauts, head first":
            mueller = replace(plan, patient=replace(who, patient_name="Müller-Lüdenscheid^Jörg"), character_set="ISO_IR 100")
            datasets = data.patient_series(name, mueller)
            for place, dataset in enumerate(reversed(datasets), 1):
                dataset.InstanceNumber = place
            return Case(label, name, datasets, datasets[::-1])
        case "implicit VR, tilted":
            tilted = _shuffled(label, name, replace(plan, orientation=_tilted(-8.0)))
            return replace(tilted, to_send=[studies.recoded(one, ImplicitVRLittleEndian) for one in tilted.to_send])
        case _:
            datasets = data.patient_series(name, plan)
            return Case(label, name, datasets, datasets)


def _shuffled(label: str, name: str, plan: Plan) -> Case:
    datasets = data.patient_series(name, plan)
    order = list(datasets)
    random.Random(label).shuffle(order)
    return Case(label, name, datasets, order)


def _tilted(degrees: float) -> tuple[float, ...]:
    """Axial, tilted about the patient's left-right axis, as slices along the line of the commissures are."""
    angle = np.deg2rad(degrees)
    return (1.0, 0.0, 0.0, 0.0, float(np.cos(angle)), float(np.sin(angle)))
