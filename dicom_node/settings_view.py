"""The settings documented from the code: each key with unit, meaning, default, and the value in force where it differs."""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dicom_node.settings import Settings


def page(settings: Settings) -> str:
    """The documentation as a TOML file whose comments explain every key; values in force that differ are uncommented."""
    lines = [
        "# Every setting of the node. Commented keys stand at their default.",
        "# Environment variables override the file: FOVEA_<SECTION>__<KEY>, e.g. FOVEA_RECEIVE__SETTLE_AFTER_S=30.",
    ]
    for name, field in Settings.model_fields.items():
        item = _list_item(field)
        if item is None:
            lines += _section(f"[{name}]", type(getattr(settings, name)), getattr(settings, name))
            continue
        entries = getattr(settings, name)
        for entry in entries or (None,):
            lines += _section(f"[[{name}]]", item, entry)
    return "\n".join(lines) + "\n"


def _list_item(field: FieldInfo) -> type[BaseModel] | None:
    if get_origin(field.annotation) is tuple:
        return get_args(field.annotation)[0]
    return None


def _section(title: str, model: type[BaseModel], value: BaseModel | None) -> list[str]:
    doc = (model.__doc__ or "").strip().splitlines()[0]
    absent = value is None
    lines = ["", f"# {doc}", f"# {title}" if absent else title]
    for key, field in model.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        default = None if default is PydanticUndefined else default
        present = default if value is None else getattr(value, key)
        lines.append(f"#   {field.description}" + (" (required)" if field.is_required() else ""))
        in_force = not absent and (field.is_required() or present != default)
        shown = _toml(present)
        lines.append(
            f"{'' if in_force else '# '}{key} = {shown}"
            + (f"  # default {_toml(default)}" if in_force and not field.is_required() else "")
        )
    return lines


def _toml(value: Any) -> str:
    if value is None:
        return '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return json.dumps(str(value))
