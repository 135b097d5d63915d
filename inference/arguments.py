"""What a network reads of the arguments that its model card gives, each checked when it is read."""

from __future__ import annotations

from collections.abc import Mapping


def whole(config: Mapping[str, object], key: str) -> int:
    """The whole number of that name. ValueError where there is none."""
    value = config.get(key)
    if not isinstance(value, int):
        raise ValueError(f"network configuration: {key} must be a whole number, got {value!r}")
    return value


def number(config: Mapping[str, object], key: str) -> float:
    """The number above 0 of that name. ValueError where there is none."""
    value = config.get(key)
    if not isinstance(value, int | float) or value <= 0:
        raise ValueError(f"network configuration: {key} must be a number above 0, got {value!r}")
    return float(value)


def wholes(config: Mapping[str, object], key: str) -> list[int]:
    """The whole numbers of that name. ValueError where there are none."""
    value = config.get(key)
    if not isinstance(value, list | tuple) or not all(isinstance(n, int) for n in value):
        raise ValueError(f"network configuration: {key} must be a list of whole numbers, got {value!r}")
    return list(value)
