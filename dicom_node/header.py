"""The header facts of one instance that rules, refusals and `fovea explain` look at, kept as JSON in its row.

Filled by `dicom_node.intake` from the bytes received; never from pixels. Numbers that a header spells wrongly are None.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """Selected attributes of one instance, in the standard's units (mm, ms) and LPS."""

    modality: str = ""
    body_part_examined: str = ""
    series_description: str = ""
    series_number: int | None = None
    instance_number: int | None = None
    image_type: tuple[str, ...] = ()
    scanning_sequence: tuple[str, ...] = ()
    sequence_variant: tuple[str, ...] = ()
    sequence_name: str = ""
    protocol_name: str = ""
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    magnetic_field_strength: float | None = None
    contrast_bolus_agent: str = ""
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    """Row spacing, column spacing."""
    slice_thickness_mm: float | None = None
    spacing_between_slices_mm: float | None = None
    image_position_lps: tuple[float, float, float] | None = None
    image_orientation: tuple[float, float, float, float, float, float] | None = None
    frame_of_reference_uid: str = ""
    patient_age: str = ""
    manufacturer: str = ""
    manufacturer_model_name: str = ""
    has_pixel_data: bool = False
    number_of_study_related_instances: int | None = None
    """As an archive counted them when it sent this one."""
    number_of_series_related_instances: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The header as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> InstanceHeader:
        """The header a row holds; unknown keys of another version are passed over."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in known}
        return cls(**values)
