"""The report's sentences as an Encapsulated PDF (PS3.3 A.45.1), for archives whose viewers cannot show an SR.

The page holds no patient name: the object's header does, in every alphabet, which the fourteen standard fonts cannot.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence as Lines

from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EncapsulatedPDFStorage

from dicom_node.results.account import Account
from dicom_node.results.derived import derived_image
from dicom_node.results.identity import Identity
from dicom_node.results.statements import plain_text

WORD = "pdf"
LINE_LENGTH = 92
LINES_PER_PAGE = 58


def build_document(account: Account, identity: Identity, series_number: int) -> Dataset:
    """The report as a document."""
    made = derived_image(account, identity, WORD, EncapsulatedPDFStorage, series_number=series_number, number=1)
    made.Modality = "DOC"
    made.ConversionType = "WSD"
    made.SeriesDescription = account.described("AI report")
    made.BurnedInAnnotation = "YES"
    made.DocumentTitle = account.title
    made.AcquisitionDateTime = None
    made.ConceptNameCodeSequence = Sequence([])
    made.MIMETypeOfEncapsulatedDocument = "application/pdf"
    data = pdf_of([account.title, f"Study {account.study_instance_uid}", "", *plain_text(account).splitlines()])
    made.EncapsulatedDocumentLength = len(data)
    made.EncapsulatedDocument = data + b"\0" * (len(data) % 2)
    made.SourceInstanceSequence = Sequence([_reference(header) for header in account.headers])
    return made


def pdf_of(lines: Lines[str]) -> bytes:
    """The lines as a PDF 1.4 document in Helvetica on A4, wrapped; characters outside Latin-1 become question marks."""
    wrapped = [part for line in lines for part in (textwrap.wrap(line, LINE_LENGTH) or [""])]
    pages = [wrapped[start : start + LINES_PER_PAGE] for start in range(0, len(wrapped), LINES_PER_PAGE)]
    first_page = 4
    kids = " ".join(f"{first_page + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, page in enumerate(pages):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 3 0 R >> >> "
            + f"/Contents {first_page + 2 * number + 1} 0 R >>".encode()
        )
        text = b"BT /F1 10 Tf 50 795 Td 13 TL\n" + b"".join(_shown(line) for line in page) + b"ET"
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(text), text))
    return _file(objects)


def _shown(line: str) -> bytes:
    escaped = line.encode("latin-1", "replace")
    for special in (b"\\", b"(", b")"):
        escaped = escaped.replace(special, b"\\" + special)
    return b"(" + escaped + b") Tj T*\n"


def _file(objects: Lines[bytes]) -> bytes:
    data = b"%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    return data + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
        % (size, table, size, len(data))
    )


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item
