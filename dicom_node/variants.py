"""Which images of a series belong together where several lie in one place: stacks, components, echoes, times, b-values.

One stack of one component at one echo and one time is what a model can be shown. Magnitude is taken, the echo the model is
for, the first whole time point and the largest stack; what was passed over is said. Diffusion weightings are refused: no
model's card says which one it is for. Anything else in one place is refused later, as a duplicate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from pydicom import Dataset
from pydicom.multival import MultiValue

from dicom_node.planes import Plane, same_places, sort_planes
from dicom_node.unsuitable import Unsuitable, UnsuitableSeries

MAGNITUDE = "MAGNITUDE"
COMPONENTS = {"M": MAGNITUDE, "P": "PHASE", "R": "REAL", "I": "IMAGINARY"}
"""Third value of Image Type as scanners write it (PS3.3 C.8.3.1.1.1 and vendors)."""

Range = tuple[float, float]

PRIVATE_B_VALUES = (
    (0x0019, "SIEMENS MR HEADER", 0x0C),
    (0x0043, "GEMS_PARM_01", 0x39),
    (0x2001, "Philips Imaging DD 001", 0x03),
)
"""Group, private creator and element in which vendors write b (their conformance statements)."""
GE_OFFSET = 1e9


def one_variant(
    planes: Sequence[Plane], headers: Sequence[Dataset], echo_time_ms: Range | None
) -> tuple[list[Plane], list[str]]:
    """The planes of one stack, component, echo and time, and a sentence for each choice. Raises UnsuitableSeries.

    `echo_time_ms` is the range the model is for, inclusive; None where nobody says.
    """
    kept, said = _largest_stack_id(list(planes), headers)
    if _is_single(kept):
        return kept, said
    components = {_component(plane, headers) for plane in kept}
    if MAGNITUDE in components and len(components) > 1:
        others = ", ".join(sorted(one.lower() for one in components - {MAGNITUDE} if one)) or "other"
        kept = [plane for plane in kept if _component(plane, headers) == MAGNITUDE]
        said.append(f"The series holds magnitude and {others} images; the magnitude images were used.")
    if _is_single(kept):
        return kept, said
    _refuse_diffusion(kept, headers)
    echoes = {_echo_ms(plane, headers) for plane in kept} - {None}
    if len(echoes) > 1:
        chosen = _wanted_echo(sorted(one for one in echoes if one is not None), echo_time_ms)
        kept = [plane for plane in kept if _echo_ms(plane, headers) == chosen]
        said.append(f"The series holds {len(echoes)} echoes; the one of {chosen:g} ms was used.")
    if _is_single(kept):
        return kept, said
    kept, times = _first_time(kept, headers)
    return kept, [*said, *times]


def _first_time(planes: list[Plane], headers: Sequence[Dataset]) -> tuple[list[Plane], list[str]]:
    """The first time point that shows every place, where an attribute tells times apart and at least two are whole."""
    places = len(same_places(sort_planes(planes)))
    for read in TIMES:
        by_time: dict[float, list[Plane]] = {}
        for plane in planes:
            time = _number(read(plane, headers))
            if time is not None:
                by_time.setdefault(time, []).append(plane)
        whole = [time for time, group in by_time.items() if len(group) == places and _is_single(group)]
        if len(whole) > 1 and all(_is_single(group) for group in by_time.values()):
            first = by_time[min(whole)]
            return first, [f"The series holds {len(by_time)} time points; the first whole one, of {places} images, was used."]
    return planes, []


def _refuse_diffusion(planes: Sequence[Plane], headers: Sequence[Dataset]) -> None:
    weightings = {_b_value(plane, headers) for plane in planes} - {None}
    if len(weightings) > 1:
        listed = ", ".join(f"{one:g}" for one in sorted(one for one in weightings if one is not None))
        raise UnsuitableSeries(
            Unsuitable.SEVERAL_B_VALUES, f"diffusion images of b {listed} s/mm2 in one series, and none is asked for"
        )


def _wanted_echo(echoes: Sequence[float], wanted: Range | None) -> float:
    listed = ", ".join(f"{one:g}" for one in echoes)
    if wanted is None:
        raise UnsuitableSeries(Unsuitable.SEVERAL_ECHOES, f"echoes of {listed} ms in one series, and none is asked for")
    inside = [one for one in echoes if wanted[0] <= one <= wanted[1]]
    if len(inside) != 1:
        raise UnsuitableSeries(
            Unsuitable.SEVERAL_ECHOES,
            f"echoes of {listed} ms in one series, {len(inside)} of them from {wanted[0]:g} to {wanted[1]:g} ms, one is expected",
        )
    return inside[0]


def _largest_stack_id(planes: list[Plane], headers: Sequence[Dataset]) -> tuple[list[Plane], list[str]]:
    sizes = Counter(_stack_id(plane, headers) for plane in planes)
    if len(sizes) < 2:
        return planes, []
    (largest, count), (_, second) = sizes.most_common(2)
    if count == second:
        raise UnsuitableSeries(Unsuitable.SEVERAL_STACKS, f"{len(sizes)} stacks, none with the most: {count} frames each")
    kept = [plane for plane in planes if _stack_id(plane, headers) == largest]
    return kept, [f"The series holds {len(sizes)} stacks; the largest, of {count} frames, was used."]


def _is_single(planes: Sequence[Plane]) -> bool:
    return all(len(group) == 1 for group in same_places(sort_planes(planes)))


def _stack_id(plane: Plane, headers: Sequence[Dataset]) -> str:
    stated = _of_frame(plane, headers, "FrameContentSequence", lambda item: item.get("StackID"))
    return str(stated or headers[plane.instance].get("StackID") or "")


def _component(plane: Plane, headers: Sequence[Dataset]) -> str:
    header = headers[plane.instance]
    stated = _of_frame(plane, headers, "MRImageFrameTypeSequence", lambda item: item.get("ComplexImageComponent"))
    if stated or header.get("ComplexImageComponent"):
        return str(stated or header.ComplexImageComponent)
    values = [str(value) for value in header.get("ImageType") or []][2:]
    return next((COMPONENTS[value] for value in values if value in COMPONENTS), "")


def _echo_ms(plane: Plane, headers: Sequence[Dataset]) -> float | None:
    stated = _of_frame(plane, headers, "MREchoSequence", lambda item: item.get("EffectiveEchoTime"))
    return _number(headers[plane.instance].get("EchoTime") if stated is None else stated)


def _b_value(plane: Plane, headers: Sequence[Dataset]) -> float | None:
    """In s/mm2: the standard's attribute, else what Siemens, GE and Philips write into classic images."""
    stated = _of_frame(plane, headers, "MRDiffusionSequence", lambda item: item.get("DiffusionBValue"))
    header = headers[plane.instance]
    if stated is None:
        stated = header.get("DiffusionBValue")
    for group, creator, element in PRIVATE_B_VALUES if stated is None else ():
        try:
            stated = header.private_block(group, creator)[element].value
        except (KeyError, ValueError):
            continue
        number = _number(stated[0] if isinstance(stated, MultiValue) else stated)
        return None if number is None else number % GE_OFFSET  # GE adds 10^9 where directions were measured
    return _number(stated)


def _number(value: object) -> float | None:
    try:
        return None if value is None or value == "" else round(float(str(value)), 2)
    except (TypeError, ValueError):
        return None


def _of_header(keyword: str) -> Callable[[Plane, Sequence[Dataset]], object]:
    return lambda plane, headers: headers[plane.instance].get(keyword)


def _temporal_position(plane: Plane, headers: Sequence[Dataset]) -> object:
    return _of_frame(plane, headers, "FrameContentSequence", lambda item: item.get("TemporalPositionIndex"))


def _of_frame(plane: Plane, headers: Sequence[Dataset], group: str, read: Callable[[Dataset], object]) -> object:
    """What `read` finds in the functional group of the plane's frame, its own or the shared one; else None."""
    if plane.frame is None:
        return None
    header = headers[plane.instance]
    own = header.PerFrameFunctionalGroupsSequence[plane.frame - 1]
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for place in (own, shared):
        for item in place.get(group) or []:
            value = read(item)
            if value is not None:
                return value
    return None


TIMES: tuple[Callable[[Plane, Sequence[Dataset]], object], ...] = (
    _temporal_position,
    _of_header("TemporalPositionIdentifier"),
    _of_header("AcquisitionNumber"),
    _of_header("TriggerTime"),
    _of_header("AcquisitionTime"),
)
"""What tells the times of a series apart, the plainest first."""
