"""A site for tests: real database, real spool, a model card without weights, and studies received through the real intake."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from pydicom import Dataset

from dicom_node.catalog import installed_models
from dicom_node.intake import Command, examine
from dicom_node.kept_file import pixel_digest
from dicom_node.settings import Settings
from dicom_node.workflow import Site
from inference.card import CARD_NAME, Calibration, ModelCard, OperatingPointCard, Validity
from storage.database import Database
from storage.reception import Receipt, files_to_delete, is_own_result, record
from storage.spool import Area, Spool
from tests import studies

PEER = "PACS"


def write_card(folder: Path) -> Path:
    """A bundle folder that holds a card and nothing else: enough for everything but a localization."""
    card = ModelCard(
        name="brain-flair",
        version="0.0",
        manufacturer="Fovea",
        summary="A card for tests.",
        intended_use="Tests.",
        validity=Validity(
            modality="MR", body_part="BRAIN", contrast="FLAIR", echo_time_ms=(60, 500), inversion_time_ms=(1500, 3200),
            slices=(8, 400), pixel_spacing_mm=(0.3, 2.0), slice_spacing_mm=(0.5, 8.0), field_of_view_mm=(150, 320),
            maximum_tilt_deg=40, age_years=(18, 100),
        ),
        recipes=("cold_restore",),
        network={},
        grid_spacing_mm=(1.0, 1.0),
        calibration={"cold_restore": Calibration(reference="none", voxels=1, raw={}, exceedance=())},
        operating_point={
            "cold_restore": OperatingPointCard(threshold={}, minimum_volume_mm3=0, maximum_findings=1, rule="none")
        },
        blind_spots=("everything",),
        sources=(),
        training={},
        measured={},
        files={},
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD_NAME).write_text(card.model_dump_json(indent=1), encoding="utf-8")
    return folder


def settings(folder: Path, database_url: str, **sections: Any) -> Settings:
    """A configuration with one rule and one destination, rooted in `folder`."""
    values: dict[str, Any] = {
        "storage": {"spool": str(folder / "spool"), "database_url": database_url, "reserve_mb": 0},
        "models": [{"name": "brain-flair", "path": str(write_card(folder / "bundle"))}],
        "rules": [{"name": "flair", "model": "brain-flair", "destinations": ["pacs"]}],
        "destinations": [{"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 1}],
        "run": {"retry_after_s": 0.001, "timeout_s": 60},
        "delivering": {"retry_after_s": 0.001},
    }
    return Settings(**json.loads(json.dumps({**values, **sections})))


def site(folder: Path, database: Database, **sections: Any) -> Site:
    """The site of that configuration on an opened database."""
    chosen = settings(folder, "", **sections)
    return Site(chosen, database, Spool(chosen.storage.spool, 0), installed_models(chosen.models))


def receive(where: Site, images: Iterable[Dataset], *, at: datetime) -> list[Receipt]:
    """Take the images in as the listener does: examined, in the spool, recorded."""
    receipts = []
    for image in images:
        data = studies.encoded(image)
        command = Command(str(image.SOPClassUID), str(image.SOPInstanceUID), str(image.file_meta.TransferSyntaxUID))
        examined = examine(data, command)
        path = where.spool.write(Area.INSTANCES, str(image.SOPInstanceUID), studies.part10(image))
        with where.database.write() as session:
            own = examined.own_equipment or is_own_result(session, command.sop_instance_uid)
            received = examined.received(path, own=own)
            pixels = partial(pixel_digest, where.spool)
            receipts.append(record(session, None, received, peer=PEER, at=at, pixel_digest=pixels))
            paths = files_to_delete(session)
        for unwanted in paths:
            where.spool.delete(unwanted)
    return receipts
