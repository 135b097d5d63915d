"""Independent readers and validators as tests use them: dicom3tools, DCMTK, dcmqi."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest

ALLOWED_WARNINGS = (
    # our private concepts: the validator knows the standard's schemes only
    re.compile(r"Unrecognized defined term <99FOVEA> for value 1 of attribute <Coding Scheme Designator>"),
    # Device UID in Contributing Equipment Sequence came into the standard after this validator (PS3.3 C.12.1, 2022)
    re.compile(r"Attribute is not present in standard DICOM IOD - \(0x0018,0x1002\) UI Device UID"),
    # a parametric map's values are a quantity (PS3.3 C.8.32.2.1.2); the term came after this validator
    re.compile(r"Unrecognized defined term <QUANTITY> for value 4 of attribute <(Image|Frame) Type>"),
    re.compile(r"Dicom dataset contains attributes not present in standard DICOM IOD - this is a Standard Extended SOP Class"),
)


def tool(name: str) -> str:
    """The path of a program; without it the test is skipped, or fails where every peer is required."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        message = f"{name} is not installed"
        if os.environ.get("FOVEA_REQUIRE_PEERS") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return found


def complaints(path: Path) -> list[str]:
    """What dciodvfy says against the object: every error, and the warnings that are not on the list above."""
    said = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, errors="replace").stderr
    lines = [line.strip() for line in said.splitlines()]
    return [
        line
        for line in lines
        if line.startswith(("Error", "Warning", "Abort")) and not any(known.search(line) for known in ALLOWED_WARNINGS)
    ]


def contradictions(paths: Sequence[Path]) -> list[str]:
    """What dcentvfy finds inconsistent among the objects.

    Its remark that Accession Number belongs to another entity in reports than in images is about its own tables: it
    comes for every report, whatever the values.
    """
    said = subprocess.run([tool("dcentvfy"), *map(str, paths)], capture_output=True, text=True, errors="replace")
    lines = (said.stdout + said.stderr).splitlines()
    return [
        line
        for line in lines
        if line.strip() and "Different information entities for attribute - Element=<AccessionNumber>" not in line
    ]


def rendered(path: Path) -> str:
    """The report as dsr2html prints it, without markup."""
    said = subprocess.run([tool("dsr2html"), "+U8", str(path)], capture_output=True, check=True)
    page = re.sub(r"<style.*?</style>", "", said.stdout.decode(), flags=re.DOTALL)
    return html.unescape(re.sub(r"\s*\n\s*", "\n", re.sub(r"<[^>]+>", "", page)))


def segments_read_by_dcmqi(path: Path, folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each segment the mask as dcmqi reads it, and the 4x4 map of its indices to LPS mm."""
    folder.mkdir()
    command = [tool("segimage2itkimage"), "--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nifti"]
    subprocess.run(command, capture_output=True, check=True)
    read = []
    for file in sorted(folder.glob("*.nii.gz"), key=lambda one: int(one.name.split(".")[0].split("-")[-1])):
        image = nibabel.load(file)
        affine_index_to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
        read.append((np.asarray(image.dataobj) > 0, affine_index_to_lps))
    return read
