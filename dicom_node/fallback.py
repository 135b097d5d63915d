"""Key images for a destination that takes no segmentation: the run's own pictures as colour Secondary Capture (PS3.3 A.8).

Made where the refusal is met, from what the run has left: the pictures of its findings, and the segmentation's header for the
patient, the study and the equipment. Their UIDs follow from the segmentation's, so that a second attempt makes the same objects.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import structlog
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.outcome import KIND_OF_OBJECT, ResultObject
from dicom_node.results.burned import OUTLINED_BY_AI, lettering
from dicom_node.results.headers import copy_patient_study
from dicom_node.scu import Meaning, Sent
from dicom_node.settings import Destination
from storage import events
from storage.events import EventKind, EventOutcome
from storage.models import Delivery, DeliveryItem, Job, Result
from storage.spool import Area, Spool

log = structlog.get_logger(__name__)

SEGMENTATION, CAPTURE = KIND_OF_OBJECT["seg"], KIND_OF_OBJECT["capture"]
SERIES_NUMBER_APART = 100
"""Added to the segmentation's series number: apart from the other results of the run."""
LETTER_RGB = (255, 210, 0)
CLASS_NOT_TAKEN = (0x0122, *range(0xA800, 0xA900))
"""Statuses by which a peer says of an object what others say by refusing the presentation context."""
_EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions", "StationName", "InstitutionName",
              "ContributingEquipmentSequence", "InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime",
              "SeriesDate", "SeriesTime", "BodyPartExamined")  # fmt: skip


@dataclass(frozen=True, slots=True)
class StandIn:
    """Key images that take one segmentation's place at one destination; their files are in the spool."""

    result_id: int
    sop_instance_uid: str
    reason: str
    objects: tuple[tuple[ResultObject, str], ...]


def is_wanted(destination: Destination, sent: Sent) -> bool:
    """True where the destination's answer to a segmentation is one that key images are to make up for."""
    if sent.stored or sent.meaning is not Meaning.REFUSED or destination.without_seg == "nothing":
        return False
    is_class_refused = not sent.status or (sent.status.startswith("0x") and int(sent.status, 16) in CLASS_NOT_TAKEN)
    return is_class_refused or destination.without_seg == "key-images-always"


def stand_ins(session: Session, spool: Spool, delivery_id: int, refused: Iterable[Sent]) -> list[StandIn]:
    """Key images for the segmentations among the refused objects; none where the run left no pictures."""
    delivery = session.get_one(Delivery, delivery_id)
    by_uid = {item.result.sop_instance_uid: item.result for item in delivery.items if item.result.kind == SEGMENTATION}
    made = []
    for sent in refused:
        result = by_uid.get(sent.sop_instance_uid)
        if result is None or result.path is None:
            continue
        try:
            images = key_images(spool.path(result.path), _pictures(delivery.job, spool))
        except (OSError, InvalidDicomError, AttributeError, ValueError) as error:
            log.error("key images not made", delivery=delivery_id, error=type(error).__name__)
            continue
        objects = tuple((one, spool.write(Area.RESULTS, one.sop_instance_uid, one.data)) for one in images)
        if objects:
            made.append(StandIn(result.id, sent.sop_instance_uid, sent.status or "no presentation context", objects))
    return made


def replace(session: Session, delivery_id: int, one: StandIn, *, at: datetime) -> list[str]:
    """Put the key images in the segmentation's place, unsent; the paths of those that had been made before."""
    delivery = session.get_one(Delivery, delivery_id)
    superfluous = []
    delivery.items = [item for item in delivery.items if item.result_id != one.result_id]
    for image, path in one.objects:
        result = session.scalars(select(Result).where(Result.sop_instance_uid == image.sop_instance_uid)).one_or_none()
        if result is None:
            result = Result(
                job=delivery.job, kind=image.kind, sop_class_uid=image.sop_class_uid, sop_instance_uid=image.sop_instance_uid,
                series_instance_uid=image.series_instance_uid, path=path, size=len(image.data),
                digest=hashlib.sha256(image.data).hexdigest(), created_at=at,
            )  # fmt: skip
            session.add(result)
        else:
            superfluous.append(path)
        if all(item.result is not result for item in delivery.items):
            delivery.items.append(DeliveryItem(result=result))
    job = delivery.job
    detail = {
        "delivery": delivery.id, "reason": one.reason, "instead of": one.sop_instance_uid,
        "key images": [image.sop_instance_uid for image, _ in one.objects],
    }  # fmt: skip
    events.append(
        session, EventKind.DELIVERY_REPLACED, at=at, outcome=EventOutcome.MINOR_FAILURE, study=job.study,
        peer=delivery.destination, model=job.model, model_digest=job.model_digest, job_id=job.id, detail=detail,
    )  # fmt: skip
    session.flush()
    return superfluous


def _pictures(job: Job, spool: Spool) -> list[tuple[Path, str]]:
    """File and caption of each picture of the run."""
    found = (job.summary or {}).get("pictures", [])
    return [(spool.path(one["path"]), str(one["caption"])) for one in found]


@disable_value_validation()
def key_images(segmentation: Path, pictures: Sequence[tuple[Path, str]]) -> list[ResultObject]:
    """One Secondary Capture for each picture. Raises OSError, InvalidDicomError, AttributeError, ValueError."""
    header = dcmread(segmentation, stop_before_pixels=True)
    return [_key_image(header, path, caption, number) for number, (path, caption) in enumerate(pictures, start=1)]


def _key_image(header: Dataset, path: Path, caption: str, number: int) -> ResultObject:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    copy_patient_study(header, image)
    image.StudyInstanceUID = header.StudyInstanceUID
    for keyword in _EQUIPMENT:
        if keyword in header:
            image[keyword] = header[keyword]
    if "BodyPartExamined" not in image:
        image.Laterality = ""
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    uid = _uid(header.SOPInstanceUID, "key image", str(number))
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid
    image.SeriesInstanceUID = _uid(header.SOPInstanceUID, "key images")
    image.SeriesNumber = int(header.SeriesNumber) + SERIES_NUMBER_APART
    image.InstanceNumber = number
    image.Modality = "OT"
    image.ConversionType = "WSD"
    image.SeriesDescription = "AI key images, outlines burned in"
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.DerivationDescription = "Picture of an analysis, for an archive that takes no segmentation"
    image.ImageComments = caption
    image.BurnedInAnnotation = "YES"
    image.PatientOrientation = ""
    image.SamplesPerPixel = 3
    image.PhotometricInterpretation = "RGB"
    image.PlanarConfiguration = 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    image.Rows, image.Columns, data = _pixels(path)
    image.PixelData = data + b"\0" * (len(data) % 2)
    image["PixelData"].VR = "OB"
    stream = BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return ResultObject(CAPTURE, str(image.SOPClassUID), uid, str(image.SeriesInstanceUID), stream.getvalue())


def _pixels(path: Path) -> tuple[int, int, bytes]:
    """Rows, columns and RGB bytes of a picture that this node drew, with the warning written into it."""
    with Image.open(path, formats=["PNG"]) as picture:
        pixels = np.array(picture.convert("RGB"))
    text, box = lettering(OUTLINED_BY_AI, *pixels.shape[:2])
    pixels[box] = 0
    pixels[text] = LETTER_RGB
    return pixels.shape[0], pixels.shape[1], pixels.tobytes()


def _uid(*parts: str) -> UID:
    """A UID that depends on the parts alone (PS3.5 B.2)."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return UID(f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}")
