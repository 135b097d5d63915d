"""What one received object is, read from its bytes before Success: complete, what the command said, and whose.

One linear scan in any transfer syntax (PS3.5 A), the digest of the data set, and the header facts that rules look at. Pixels
are never decoded. Each refusal carries the DIMSE status that PS3.4 table B.2-1 and PS3.7 annex C give it.
"""

from __future__ import annotations

import hashlib
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from enum import IntEnum
from operator import attrgetter

from pydicom.datadict import tag_for_keyword
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_node import text
from dicom_node.ae import IMAGE_STORAGE_CLASSES
from dicom_node.header import InstanceHeader
from dicom_node.scan import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Buffer,
    Coding,
    Malformed,
    Span,
    TooManyElements,
    scan,
)
from storage.reception import ReceivedInstance

MAXIMUM_INFLATED_BYTES = 256 * 1024 * 1024
"""Largest deflated data set once inflated; deflate is used for reports and presentation states, which stay far below."""
MAXIMUM_INFLATE_RATIO = 200
"""Real objects deflate to a hundredth at best; the format itself allows 1:1032."""
ALWAYS_INFLATED_BYTES = 4 * 1024 * 1024
"""Up to here the ratio does not matter, and nobody waits for another's object."""
_INFLATE_STEP = 1024 * 1024
_LARGE_INFLATION = threading.Lock()
"""Held while more than ALWAYS_INFLATED_BYTES are inflated and examined: bombs from many senders cost what one costs."""

OWN_MANUFACTURER = "Fovea"


class Status(IntEnum):
    """DIMSE statuses that the node answers a C-STORE with."""

    SUCCESS = 0x0000
    INVALID_SOP_INSTANCE = 0x0117
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    OUT_OF_RESOURCES = 0xA700
    DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


class Refused(Exception):
    """Raised when an object is not taken: the status and a sentence for the sender; no patient data in it."""

    def __init__(self, status: Status, text: str, *, keep: bool = False, offending: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.keep = keep
        """True where a copy is kept for a person to look at."""
        self.offending = offending
        """Tag of the element that does not fit, for Offending Element (0000,0901)."""

    @classmethod
    def other_class(cls) -> Refused:
        """Refusal of a request whose class is not the one its presentation context was accepted for."""
        return cls(Status.SOP_CLASS_NOT_SUPPORTED, "Affected SOP Class UID is not the presentation context's")


@dataclass(frozen=True, slots=True)
class Command:
    """What a C-STORE request (or a STOW-RS part) says about the object that comes with it."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Patient and study as the object spells them, decoded."""

    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_date: str
    study_description: str


@dataclass(frozen=True, slots=True)
class Examined:
    """The facts of one object that passed every check."""

    command: Command
    study_instance_uid: str
    series_instance_uid: str
    identity: Identity
    header: InstanceHeader
    size: int
    digest: str
    """SHA-256 (hex) of the data set as received."""
    passive: bool
    """True where it can start nothing: no image, or made by this product."""
    own_equipment: bool
    """True where its equipment says that this product made it."""

    def received(self, path: str, *, own: bool) -> ReceivedInstance:
        """The row to record, for the file at a path relative to the spool."""
        who, header = self.identity, self.header
        return ReceivedInstance(
            study_instance_uid=self.study_instance_uid,
            series_instance_uid=self.series_instance_uid,
            sop_instance_uid=self.command.sop_instance_uid,
            sop_class_uid=self.command.sop_class_uid,
            transfer_syntax_uid=self.command.transfer_syntax_uid,
            patient_id=who.patient_id,
            issuer_of_patient_id=who.issuer_of_patient_id,
            patient_name=who.patient_name,
            patient_birth_date=who.patient_birth_date,
            patient_sex=who.patient_sex,
            accession_number=who.accession_number,
            study_date=who.study_date,
            study_description=who.study_description,
            modality=header.modality,
            series_number=header.series_number,
            series_description=header.series_description,
            path=path,
            size=self.size,
            digest=self.digest,
            pixel_digest=None,
            header=dict(zip(_HEADER_FIELDS, _HEADER_VALUES(header), strict=True)),
            passive=self.passive or own,
            own=own,
        )


_TEXT_KEYWORDS = (  # noqa: SIM905
    "SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID StudyDate AccessionNumber Modality Manufacturer "
    "StudyDescription SeriesDescription ManufacturerModelName PatientName PatientID IssuerOfPatientID PatientBirthDate "
    "PatientSex PatientAge ContrastBolusAgent BodyPartExamined ScanningSequence SequenceVariant SequenceName "
    "SliceThickness RepetitionTime EchoTime InversionTime MagneticFieldStrength SpacingBetweenSlices ProtocolName "
    "StudyInstanceUID SeriesInstanceUID SeriesNumber InstanceNumber ImagePositionPatient ImageOrientationPatient "
    "FrameOfReferenceUID NumberOfStudyRelatedInstances NumberOfSeriesRelatedInstances NumberOfFrames PixelSpacing"
).split()
_TEXTS: dict[str, int] = {keyword: int(tag_for_keyword(keyword) or 0) for keyword in _TEXT_KEYWORDS}
_NAMING = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_READ = tuple((keyword, tag, keyword.endswith("UID")) for keyword, tag in _TEXTS.items())
_HEADER_FIELDS = tuple(field.name for field in fields(InstanceHeader))  # `as_json` copies deeply: 0.3 ms an instance
_HEADER_VALUES = attrgetter(*_HEADER_FIELDS)
_ROWS, _COLUMNS = 0x00280010, 0x00280011
_PIXEL_DATA = (0x7FE00010, 0x7FE00008, 0x7FE00009)  # Pixel Data, Float Pixel Data, Double Float Pixel Data
_WANTED = frozenset((*_TEXTS.values(), _ROWS, _COLUMNS, *_PIXEL_DATA))
_CODINGS = {str(ImplicitVRLittleEndian): IMPLICIT_LITTLE, str(ExplicitVRBigEndian): EXPLICIT_BIG}
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")


def check_command(sop_class_uid: str, sop_instance_uid: str) -> None:
    """Raise Refused 0x0117 where the command's instance UID is missing or illegal, 0x0122 where its class is."""
    if not is_uid(sop_instance_uid):
        raise Refused(Status.INVALID_SOP_INSTANCE, "Affected SOP Instance UID is missing or illegal")
    if not is_uid(sop_class_uid):
        raise Refused(Status.SOP_CLASS_NOT_SUPPORTED, "Affected SOP Class UID is missing or illegal")


def is_uid(value: str) -> bool:
    """True for 1 to 64 digits and dots in the form of PS3.5 9.1; leading zeros of a component are let pass."""
    return len(value) <= 64 and _UID.fullmatch(value) is not None


def examine(data: Buffer, command: Command, digest: hashlib._Hash | None = None) -> Examined:
    """The facts of a received data set (without file meta information). Raises Refused; never anything else.

    `digest` is the SHA-256 over the whole of `data`, where the caller has it already.
    """
    check_command(command.sop_class_uid, command.sop_instance_uid)
    if digest is None:
        with memoryview(data) as whole:
            digest = hashlib.sha256(whole)
    with _plain(data, command.transfer_syntax_uid) as (plain, coding):
        return _examined(plain, coding, command, len(data), digest)


@contextmanager
def pixel_data(data: Buffer, transfer_syntax_uid: str) -> Iterator[tuple[Buffer, Span | None]]:
    """Where the value of the pixel data element lies in a data set that was examined: in `data`, or in what it inflates to."""
    with _plain(data, transfer_syntax_uid) as (plain, coding):
        found = scan(plain, coding, _PIXEL_DATA)
        yield plain, next((found[tag] for tag in _PIXEL_DATA if tag in found), None)


@contextmanager
def _plain(data: Buffer, transfer_syntax_uid: str) -> Iterator[tuple[Buffer, Coding]]:
    """A data set as its elements stand, inflated where it is deflated, and how they are encoded."""
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        with _inflated(data) as inflated:
            yield inflated, EXPLICIT_LITTLE
    else:
        yield data, _CODINGS.get(transfer_syntax_uid, EXPLICIT_LITTLE)


def _examined(plain: Buffer, coding: Coding, command: Command, size: int, digest: hashlib._Hash) -> Examined:
    """The facts in the `plain` bytes of a data set of which `size` and `digest` are as received."""
    try:
        found = scan(plain, coding, _WANTED)
    except Malformed as error:
        raise Refused(Status.CANNOT_UNDERSTAND, f"not a data set: {error}") from None
    except TooManyElements as error:
        raise Refused(Status.OUT_OF_RESOURCES, f"object exceeds limit: {error}") from None
    if coding.explicit:
        _check_vr_of_uids(plain, found)
    values = _values(plain, found)
    _check_uids(values, command)
    header = _header(values, _unsigned(plain, found, _ROWS, coding), _unsigned(plain, found, _COLUMNS, coding), found)
    own_equipment = header.manufacturer == OWN_MANUFACTURER and header.manufacturer_model_name == OWN_MANUFACTURER
    return Examined(
        command=command,
        study_instance_uid=values["StudyInstanceUID"],
        series_instance_uid=values["SeriesInstanceUID"],
        identity=_identity(values),
        header=header,
        size=size,
        digest=digest.hexdigest(),
        passive=own_equipment or command.sop_class_uid not in IMAGE_STORAGE_CLASSES,
        own_equipment=own_equipment,
    )


@contextmanager
def _inflated(data: Buffer) -> Iterator[bytearray]:
    """The data set inside a raw deflate stream (PS3.5 A.5), never more than the limits hold; one large one at a time."""
    inflated = bytearray()
    pieces = _pieces(data)
    while len(inflated) <= ALWAYS_INFLATED_BYTES:
        piece = next(pieces, None)
        if piece is None:
            yield inflated
            return
        inflated += piece
    limit = min(MAXIMUM_INFLATED_BYTES, max(ALWAYS_INFLATED_BYTES, MAXIMUM_INFLATE_RATIO * len(data)))
    with _LARGE_INFLATION:
        for piece in pieces:
            inflated += piece
            if len(inflated) > limit:
                raise Refused(Status.OUT_OF_RESOURCES, f"object exceeds limit: inflates to more than {limit} bytes")
        yield inflated


def _pieces(data: Buffer) -> Iterator[bytes]:
    """The stream's content in pieces of at most _INFLATE_STEP."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    rest: Buffer = data
    try:
        while not stream.eof and rest:
            yield stream.decompress(rest, _INFLATE_STEP)
            rest = stream.unconsumed_tail
    except zlib.error:
        raise Refused(Status.CANNOT_UNDERSTAND, "not a data set: broken deflate stream") from None
    if not stream.eof or len(stream.unused_data) > 1:  # one byte of padding makes the length even
        raise Refused(Status.CANNOT_UNDERSTAND, "not a data set: deflate stream is cut off or followed by other bytes")


def _values(data: Buffer, found: dict[int, Span]) -> dict[str, str]:
    """Every wanted text element, decoded; empty where absent."""
    values = dict.fromkeys(_TEXTS, "")
    codecs: tuple[str, ...] = ("ascii",)
    with memoryview(data) as whole:
        for keyword, tag, is_a_uid in _READ:
            span = found.get(tag)
            if span is None:
                continue
            start, stop = span
            raw = bytes(whole[start : min(stop, start + text.MAXIMUM_VALUE_BYTES)])
            values[keyword] = text.uid(raw) if is_a_uid else text.text(raw, codecs)
            if keyword == "SpecificCharacterSet":
                if b"\0" in raw.rstrip(b"\0 "):  # no reader of DICOM files gets past it
                    raise Refused(Status.CANNOT_UNDERSTAND, "not a data set: Specific Character Set holds a NUL")
                codecs = text.encodings(values[keyword])
    return values


def _check_vr_of_uids(data: Buffer, found: dict[int, Span]) -> None:
    """Raise Refused where a UID that names the object says that it is something else: readers would take it for that."""
    for keyword in _NAMING:
        span = found.get(_TEXTS[keyword])
        if span is not None and bytes(data[span.start - 4 : span.start - 2]) != b"UI" and not _is_unknown(data, span):
            raise Refused(Status.CANNOT_UNDERSTAND, f"not a data set: {keyword} is not of VR UI")


def _is_unknown(data: Buffer, span: Span) -> bool:
    """True for VR UN, as which a sender may pass on what it does not know (PS3.5 6.2.2)."""
    return bytes(data[span.start - 8 : span.start - 6]) == b"UN"


def _check_uids(values: dict[str, str], command: Command) -> None:
    for keyword, expected in (("SOPClassUID", command.sop_class_uid), ("SOPInstanceUID", command.sop_instance_uid)):
        if values[keyword] != expected:
            what = "differs from the command" if values[keyword] else "is missing"
            raise Refused(Status.DOES_NOT_MATCH, f"{keyword} {what}", offending=_TEXTS[keyword])
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not is_uid(values[keyword]):
            what = "is illegal" if values[keyword] else "is missing"
            raise Refused(Status.DOES_NOT_MATCH, f"{keyword} {what}", keep=True, offending=_TEXTS[keyword])


def _unsigned(data: Buffer, found: dict[int, Span], tag: int, coding: Coding) -> int | None:
    span = found.get(tag)
    if span is None or span.stop - span.start != 2:
        return None
    return int.from_bytes(data[span.start : span.stop], "big" if coding is EXPLICIT_BIG else "little")


def _identity(values: dict[str, str]) -> Identity:
    return Identity(
        patient_id=values["PatientID"],
        issuer_of_patient_id=values["IssuerOfPatientID"],
        patient_name=values["PatientName"],
        patient_birth_date=values["PatientBirthDate"],
        patient_sex=values["PatientSex"],
        accession_number=values["AccessionNumber"],
        study_date=values["StudyDate"],
        study_description=values["StudyDescription"],
    )


def _header(values: dict[str, str], rows: int | None, columns: int | None, found: dict[int, Span]) -> InstanceHeader:
    spacing = text.decimals(values["PixelSpacing"])
    position = text.decimals(values["ImagePositionPatient"])
    orientation = text.decimals(values["ImageOrientationPatient"])
    return InstanceHeader(
        modality=values["Modality"][:16],
        body_part_examined=values["BodyPartExamined"],
        series_description=values["SeriesDescription"],
        series_number=text.integer(values["SeriesNumber"]),
        instance_number=text.integer(values["InstanceNumber"]),
        image_type=text.strings(values["ImageType"]),
        scanning_sequence=text.strings(values["ScanningSequence"]),
        sequence_variant=text.strings(values["SequenceVariant"]),
        sequence_name=values["SequenceName"],
        protocol_name=values["ProtocolName"],
        echo_time_ms=text.decimal(values["EchoTime"]),
        repetition_time_ms=text.decimal(values["RepetitionTime"]),
        inversion_time_ms=text.decimal(values["InversionTime"]),
        magnetic_field_strength=text.decimal(values["MagneticFieldStrength"]),
        contrast_bolus_agent=values["ContrastBolusAgent"],
        rows=rows,
        columns=columns,
        number_of_frames=text.integer(values["NumberOfFrames"]),
        pixel_spacing_mm=(spacing[0], spacing[1]) if spacing and len(spacing) == 2 else None,
        slice_thickness_mm=text.decimal(values["SliceThickness"]),
        spacing_between_slices_mm=text.decimal(values["SpacingBetweenSlices"]),
        image_position_lps=(position[0], position[1], position[2]) if position and len(position) == 3 else None,
        image_orientation=_six(orientation) if orientation and len(orientation) == 6 else None,
        frame_of_reference_uid=values["FrameOfReferenceUID"],
        patient_age=values["PatientAge"],
        manufacturer=values["Manufacturer"],
        manufacturer_model_name=values["ManufacturerModelName"],
        has_pixel_data=any(tag in found for tag in _PIXEL_DATA),
        number_of_study_related_instances=text.integer(values["NumberOfStudyRelatedInstances"]),
        number_of_series_related_instances=text.integer(values["NumberOfSeriesRelatedInstances"]),
    )


def _six(values: tuple[float, ...]) -> tuple[float, float, float, float, float, float]:
    a, b, c, d, e, f = values
    return (a, b, c, d, e, f)
