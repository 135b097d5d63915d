"""Whether a series may be shown to a model: its headers against the range the model's card declares.

The answer is None or a reason with a stable code. What headers leave open (the contrast of a series without echo and
inversion times, say) is left to the run, which looks at the pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from dicom_node.header import InstanceHeader
from dicom_node.outcome import Reason
from dicom_node.stack import Stack
from inference.card import Validity

# Body Part Examined values (PS3.16 Annex L and common vendor spellings) that hold the declared body part.
BODY_PARTS = {
    "BRAIN": {"BRAIN", "HEAD", "SKULL", "HEADNECK", "CEREBRUM", "NEURO", "HEAD AND NECK"},
}

# Words of Series Description, Protocol Name and Sequence Name that tell a weighting.
CONTRAST_WORDS = {
    "FLAIR": re.compile(r"flair|dark[ _-]?fl|tirm|(?<![a-z])ir[ _-]?t2", re.IGNORECASE),
}
T1_FLAIR = re.compile(r"(?<![a-z0-9])t1w?[ _-]*flair", re.IGNORECASE)
OTHER_WEIGHTINGS = re.compile(
    r"(?<![a-z0-9])(t1w?|t2w?|t2\*|pd|dwi|dti|adc|b1000|trace|swi|swan|gre|spgr|mprage|mp2rage|bravo|tof|mra|cine|asl|bold|epi|mag|pha)(?![a-z0-9])",
    re.IGNORECASE,
)


def outside(validity: Validity, headers: Sequence[InstanceHeader], stack: Stack) -> Reason | None:
    """The first reason why the series is outside the model's declared range, or None."""
    first = next((header for header in headers if header.has_pixel_data), None)
    if first is None:
        return Reason("no-pixel-data", "no instance of the series has pixel data")
    return (
        _modality(validity, first)
        or _body_part(validity, first)
        or _contrast(validity, first)
        or _age(validity, first)
        or _geometry(validity, stack)
    )


def _modality(validity: Validity, header: InstanceHeader) -> Reason | None:
    if header.modality == validity.modality:
        return None
    return Reason("modality", f"modality {header.modality or 'not stated'}, the model is for {validity.modality}")


def _body_part(validity: Validity, header: InstanceHeader) -> Reason | None:
    stated = header.body_part_examined.strip().upper()
    accepted = BODY_PARTS.get(validity.body_part, {validity.body_part})
    if not stated or stated in accepted:
        return None
    return Reason("body-part", f"body part {stated}, the model is for {validity.body_part}")


def _contrast(validity: Validity, header: InstanceHeader) -> Reason | None:
    for name, value, (low, high) in (
        ("echo time", header.echo_time_ms, validity.echo_time_ms),
        ("inversion time", header.inversion_time_ms, validity.inversion_time_ms),
    ):
        if value is not None and value > 0 and not low <= value <= high:
            return Reason("contrast", f"{name} {value:g} ms, the model is for {validity.contrast} with {low:g} to {high:g} ms")
    words = " ".join((header.series_description, header.protocol_name, header.sequence_name))
    expected = CONTRAST_WORDS.get(validity.contrast)
    other = T1_FLAIR.search(words)
    if other is None:
        if expected is None or expected.search(words):
            return None
        other = OTHER_WEIGHTINGS.search(words)
    if other and not header.inversion_time_ms:
        return Reason(
            "contrast", f"described as {other.group(0)} and without inversion time, the model is for {validity.contrast}"
        )
    return None


def _age(validity: Validity, header: InstanceHeader) -> Reason | None:
    match = re.fullmatch(r"(\d{3})([DWMY])", header.patient_age.strip())
    if match is None:
        return None
    years = int(match.group(1)) / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[match.group(2)]
    low, high = validity.age_years
    if low <= years <= high:
        return None
    return Reason("age", f"patient age {years:.0f} years, the model is for {low:g} to {high:g} years")


def _geometry(validity: Validity, stack: Stack) -> Reason | None:
    """The limits against the stack seen as axial slices, as the model will see it; what is not stated is left to the run."""
    seen = stack.axial
    low_slices, high_slices = validity.slices
    slices = stack.slices if seen is None else seen.slices
    if not low_slices <= slices <= high_slices:
        return Reason("slices", f"{slices} axial images, the model takes {low_slices} to {high_slices}")
    if seen is None:
        return None
    if seen.tilt_deg > validity.maximum_tilt_deg:
        limit = f"the model takes up to {validity.maximum_tilt_deg:g} degrees"
        return Reason("orientation", f"slices are tilted {seen.tilt_deg:.0f} degrees from axial, {limit}")
    for code, name, value, (low, high) in (
        ("pixel-spacing", "pixel spacing", max(seen.pixel_spacing_mm), validity.pixel_spacing_mm),
        ("pixel-spacing", "pixel spacing", min(seen.pixel_spacing_mm), validity.pixel_spacing_mm),
        ("slice-spacing", "distance between slices", seen.slice_spacing_mm, validity.slice_spacing_mm),
        ("field-of-view", "field of view", seen.field_of_view_mm, validity.field_of_view_mm),
    ):
        if not low * 0.999 <= value <= high * 1.001:
            return Reason(code, f"{name} {value:.2f} mm in axial slices, the model takes {low:g} to {high:g} mm")
    return None
