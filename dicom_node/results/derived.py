"""What the single images of a derived series share: general series and equipment, written by hand on an empty data set.

They are rebuilt from nothing instead of copied from a vendor's header, which may hold more identity than we know of.
"""

from __future__ import annotations

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.results import equipment
from dicom_node.results.account import Account
from dicom_node.results.identity import Identity


def derived_image(
    account: Account, identity: Identity, word: str, sop_class_uid: str, *, series_number: int, number: int
) -> Dataset:
    """An object of that class, the `number`th of its series, with everything but its own modules."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = identity.uid(word, "instance", str(number))
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.SeriesInstanceUID = identity.uid(word, "series")
    dataset.SeriesNumber = series_number
    dataset.InstanceNumber = number
    dataset.Manufacturer = equipment.MANUFACTURER
    dataset.ManufacturerModelName = equipment.MODEL_NAME
    dataset.DeviceSerialNumber = equipment.device_serial_number(account.model)
    dataset.SoftwareVersions = equipment.software_versions(account.model)
    dataset.ContributingEquipmentSequence = Sequence(
        [equipment.model_as_equipment(account.model, account.created, account.output.station_name)]
    )
    return dataset
