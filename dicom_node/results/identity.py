"""UIDs of results, derived from all that decides their content: a retry is the same object, a change a new one.

Form: 2.25 and the decimal value of a UUID (PS3.5 B.2), taken from SHA-256 instead of chance.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass

import numpy as np

from dicom_node.results.account import Account, Analysis
from dicom_node.results.grid import marked_planes, on_source_grid
from dicom_node.results.headers import PATIENT_AND_STUDY


@dataclass(frozen=True, slots=True)
class Identity:
    """The source of every UID of one run."""

    digest: str
    """SHA-256 (hex) over the run's input, model, recipe, options, predecessors and findings."""

    def uid(self, *parts: str) -> str:
        """The UID of one thing of this run, named by its parts, e.g. ("segmentation", "series")."""
        return uid_from(self.digest, *parts)


def uid_from(*parts: str) -> str:
    """A UID that depends on the parts alone."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def identity_of(account: Account) -> Identity:
    """The identity of the results that tell `account`."""
    header = account.headers[0]
    facts = {
        "study": account.study_instance_uid,
        "revision": account.revision,
        "input": account.input_digest,
        "model": account.model.digest,
        "recipe": account.recipe_digest,
        "output": asdict(account.output),
        "series_numbers": account.series_numbers(len(account.output.objects)),
        "predecessors": [asdict(one) for one in account.predecessors],
        "outcome": account.outcome,
        "reason": asdict(account.reason) if account.reason else None,
        "analysed": account.analysed.series_instance_uid,
        "passed_over": [asdict(one) for one in account.passed_over],
        "quality": account.quality,
        "created": account.created.isoformat(),
        "patient": {keyword: str(header.get(keyword, "")) for keyword in PATIENT_AND_STUDY},
        "found": _content_digest(account.analysis, account.output.objects) if account.analysis else "",
    }
    return Identity(hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest())


def _content_digest(analysis: Analysis, objects: Collection[str]) -> str:
    localization = analysis.localization
    digest = hashlib.sha256()
    labels = on_source_grid(localization.labels, analysis.series)
    for plane in marked_planes(labels):
        place = (plane.slice_index, plane.rows.start, plane.rows.stop, plane.columns.start, plane.columns.stop)
        digest.update(np.array(place).tobytes() + labels[plane.slice_index, plane.rows, plane.columns].tobytes())
    shown = {
        "parametric-map": localization.score,
        "uncertainty": localization.uncertainty,
        "pseudo-healthy": localization.pseudo_healthy,
    }
    for word, values in shown.items():
        if word in objects and values is not None:
            digest.update(values.array.tobytes())
    facts = [asdict(finding) for finding in localization.findings]
    provenance = localization.provenance
    facts.append({"study_score": localization.study_score, "left_out": localization.findings_left_out})
    facts.append({"recipe": provenance.recipe_digest, "seed": provenance.seed})
    digest.update(json.dumps(facts, sort_keys=True).encode())
    return digest.hexdigest()
