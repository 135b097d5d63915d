"""Who made the objects: our software as equipment, and the model as contributing equipment (PS3.3 C.7.5.1, C.12.1.1.5).

IHE AI Results asks for a Device UID that changes with every retrained model: it is derived from the model's digest.
"""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version

from highdicom import ContributingEquipment
from pydicom import Dataset

from dicom_node.results.codes import PROCESSING_EQUIPMENT
from dicom_node.results.identity import uid_from
from inference.types import ModelIdentity

MANUFACTURER = "Fovea"
MODEL_NAME = "Fovea"


def software_versions(model: ModelIdentity) -> list[str]:
    """Our own version and the model's (Software Versions is multi-valued)."""
    return [f"fovea {version('fovea')}", f"{model.name} {model.version}"[:64]]


def device_serial_number(model: ModelIdentity) -> str:
    """Sixteen hexadecimal digits of the model's digest."""
    return model.digest[:16]


def device_uid(model: ModelIdentity) -> str:
    """The UID of the model as a device."""
    return uid_from("device", model.digest)


def model_as_equipment(model: ModelIdentity, created: datetime, station_name: str) -> ContributingEquipment:
    """The item of Contributing Equipment Sequence that names the model."""
    item = ContributingEquipment(
        manufacturer=(model.manufacturer or MANUFACTURER)[:64],
        purpose_of_reference=PROCESSING_EQUIPMENT,
        manufacturer_model_name=model.name[:64],
        software_versions=[model.version[:64]],
        station_name=station_name[:16],
        contribution_datetime=created.replace(tzinfo=None),
        contribution_description=f"Localization by the model whose card has the SHA-256 {model.digest}",
    )
    item.DeviceUID = device_uid(model)
    return item


def fix_contribution_times(dataset: Dataset, created: datetime) -> None:
    """Let the library that encoded the object have contributed at the same moment: the same request, the same bytes."""
    for item in dataset.ContributingEquipmentSequence:
        if "ContributionDateTime" in item:
            item.ContributionDateTime = created.strftime("%Y%m%d%H%M%S")
