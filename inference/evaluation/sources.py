"""Where the studies of an evaluation come from: folders of NIfTI or DICOM, the public sets, and what is known of patients."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from highdicom import Volume

from inference.data import DicomFolder, Lgg, NiftiFolder, Reader, Study, Traits, axial_volume, nichart, open_ms
from inference.phantom.analytic import synthetic_head
from inference.phantom.heads import head_from_atlas
from inference.phantom.tissues import read_label_map

PUBLIC: dict[str, tuple[str, Callable[[Path], Reader]]] = {
    "lgg": ("lgg_flair", Lgg),
    "wmh": ("nichart_wmh", nichart),
    "ms": ("open_ms", open_ms),
}
"""By the word of `--set`: the folder below the data folder, and its reader."""
PATIENT_COLUMNS = ("participant_id", "patient", "patient_id", "subject", "mrid", "id")
AGE_COLUMNS = ("age", "age_years")
SEX_COLUMNS = ("sex", "gender")
SITE_COLUMNS = ("site", "scanner", "centre", "center", "institution")
HEAD_MM = (3.0, 0.9, 0.9)
"""Spacing of heads made from label maps: small lesions need slices that are not too thick."""
TCGA_PARTS = 3
"""TCGA_DU_5851_...: the second word is the hospital that sent the tissue."""


class SourceError(ValueError):
    """Raised where a folder or a table of participants cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Described:
    """A reader whose studies carry what a table of participants says of them."""

    reader: Reader
    participants: Mapping[str, Traits]

    @property
    def name(self) -> str:
        """The reader's."""
        return self.reader.name

    def studies(self) -> Iterator[Study]:
        """The reader's studies; one that the table does not name keeps what the reader knows."""
        for study in self.reader.studies():
            known = self.participants.get(study.patient)
            yield study if known is None else replace(study, traits=known)


def public_set(word: str, data: Path) -> Reader:
    """One of the public sets this project was built on. SourceError where its folder is missing."""
    folder, make = PUBLIC[word]
    place = data / folder
    if not place.is_dir():
        raise SourceError(f"set {word}: there is no folder {folder} in {data.name}")
    table = place / "participants.csv"
    traits = read_participants(table) if table.exists() else {}
    return Described(_WithSite(make(place)), traits) if word == "lgg" else Described(make(place), traits)


def folder_source(folder: Path, image_suffix: str, mask_suffix: str, participants: Path | None) -> Reader:
    """A folder of NIfTI images with masks beside them or, where no file has the suffix, of DICOM series.

    A mask lies beside its image under the mask's suffix, where anything is marked. SourceError where nothing is there.
    """
    if not folder.is_dir():
        raise SourceError(f"no such folder: {folder}")
    table = participants or next((one for one in _tables(folder) if one.exists()), None)
    traits = {} if table is None else read_participants(table)
    if next(folder.rglob(f"*{image_suffix}"), None) is not None:
        return Described(NiftiFolder(folder, image_suffix, mask_suffix), traits)
    if next((path for path in folder.rglob("*") if path.is_file()), None) is None:
        raise SourceError(f"{folder}: no file ends with {image_suffix}, and there is no other")
    return Described(DicomFolder(folder), traits)


def read_participants(path: Path) -> dict[str, Traits]:
    """By patient, from CSV, TSV (as in BIDS) or JSON (a list of objects, or one by patient). SourceError with the reason."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceError(f"{path.name}: {error.strerror}") from error
    rows = _json_rows(path, text) if path.suffix == ".json" else _table_rows(path, text)
    found = {}
    for row in rows:
        lower = {str(key).strip().lower(): "" if value is None else str(value).strip() for key, value in row.items()}
        patient = _first(lower, PATIENT_COLUMNS)
        if patient:
            sex = _first(lower, SEX_COLUMNS)[:1].upper()
            found[patient] = Traits(_first(lower, SITE_COLUMNS), sex, _number(_first(lower, AGE_COLUMNS)))
    if not found:
        raise SourceError(f"{path.name}: no column names the patient; one of {', '.join(PATIENT_COLUMNS)} is needed")
    return found


@dataclass(frozen=True, slots=True)
class _WithSite:
    """TCGA studies, whose barcode names the hospital."""

    reader: Reader

    @property
    def name(self) -> str:
        return self.reader.name

    def studies(self) -> Iterator[Study]:
        for study in self.reader.studies():
            parts = study.patient.split("_")
            site = parts[1] if len(parts) >= TCGA_PARTS else ""
            yield replace(study, traits=replace(study.traits, site=site))


def _tables(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / f"participants{ending}" for ending in (".csv", ".tsv", ".json"))


def _table_rows(path: Path, text: str) -> list[Mapping[str, object]]:
    return [dict(row) for row in csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ",")]


def _json_rows(path: Path, text: str) -> list[Mapping[str, object]]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise SourceError(f"{path.name}: {error}") from error
    rows = [{"patient": key, **value} for key, value in found.items()] if isinstance(found, dict) else found
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SourceError(f"{path.name}: neither a list of objects nor an object of objects")
    return rows


def _first(row: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((row[name] for name in names if row.get(name)), "")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def healthy_volumes(heads: int, label_maps: Path | None, folder: Path | None) -> list[Volume]:
    """Lesion-free heads to paint into: a site's own images, heads from label maps, or heads made by code.

    Label maps are taken from the last, which the shipped training keeps out. SourceError where a folder holds none.
    """
    if folder is not None:
        found = [study.volume for study in itertools.islice(NiftiFolder(folder).studies(), heads)]
        if not found:
            raise SourceError(f"{folder}: no NIfTI image")
        return found
    if label_maps is None:
        return [
            axial_volume(one.image, one.spacing_mm) for one in (synthetic_head(seed=5000 + n, lesions=0) for n in range(heads))
        ]
    maps = sorted(label_maps.glob("*.npy.xz"))[-heads:]
    if not maps:
        raise SourceError(f"{label_maps}: no label map (*.npy.xz)")
    made = [head_from_atlas(read_label_map(path), seed=5000 + n, spacing_mm=HEAD_MM) for n, path in enumerate(maps)]
    return [axial_volume(one.image, one.spacing_mm) for one in made]
