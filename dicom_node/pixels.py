"""The pixels of one instance as float32 in the modality's units (PS3.3 C.7.6.3, C.11.1; PS3.5 section 8).

What a header or a compressed stream declares is looked at before a byte is decoded, so that a small object cannot ask
for much memory.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_modality_lut
from pydicom.uid import UID

from dicom_node.unsuitable import Unsuitable, UnsuitableSeries

FloatArray = NDArray[np.float32]

MAXIMUM_VOXELS = 2**28
"""Voxels of one series; 1 GiB as float32. 1024 slices of 512 x 512 are allowed."""
START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""JPEG markers whose segment holds height and width (ITU-T T.81 B.2.2); 0xF7 is that of JPEG-LS (T.87 C.2.2)."""
CODESTREAM_AND_SIZE = b"\xff\x4f\xff\x51"
"""Start of a JPEG 2000 codestream and of its image and tile size segment (ITU-T T.800 A.5.1)."""


def read_pixels(path: Path) -> FloatArray:
    """The frames of the instance as pixels[frame, row, column], rescaled where its header says so.

    Raises UnsuitableSeries where there are none or they cannot be decoded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        dataset = dcmread(path)
    uid = dataset.SOPInstanceUID
    if "PixelData" not in dataset or not dataset.PixelData:
        raise UnsuitableSeries(Unsuitable.NO_PIXEL_DATA, f"instance {uid} has no pixel data")
    _check_streams(dataset)
    try:
        stored = _stored_values(dataset, dataset.pixel_array)
    except MemoryError:
        raise
    except Exception as error:  # any decoder's own exception: the series cannot be read, whatever the class
        syntax = UID(dataset.file_meta.TransferSyntaxUID).name
        raise UnsuitableSeries(
            Unsuitable.UNDECODABLE, f"pixels of instance {uid} ({syntax}) cannot be decoded: {type(error).__name__}"
        ) from error
    frames = stored.reshape(-1, dataset.Rows, dataset.Columns)
    with np.errstate(over="ignore", invalid="ignore"):
        rescaled = _rescaled(dataset, frames)
    if not np.all(np.isfinite(rescaled)):
        raise UnsuitableSeries(Unsuitable.BAD_RESCALE, f"instance {uid}: rescaled pixels are not all finite numbers")
    return rescaled


def declared_voxels(header: Dataset) -> int:
    """Rows x columns x frames as the header has them."""
    return int(header.Rows) * int(header.Columns) * int(header.get("NumberOfFrames") or 1)


def stream_size(stream: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream declares; None where it is none of these."""
    if CODESTREAM_AND_SIZE in stream[:256]:
        start = stream.index(CODESTREAM_AND_SIZE) + 8
        if len(stream) < start + 16:
            return None
        width, height, left, top = struct.unpack_from(">4I", stream, start)
        return height - top, width - left
    if not stream.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker in START_OF_FRAME:
            height, width = struct.unpack_from(">2H", stream, at + 5)
            return height, width
        at += 1 if marker == 0xFF else 2 + struct.unpack_from(">H", stream, at + 2)[0]
    return None


def _check_streams(dataset: Dataset) -> None:
    if not UID(dataset.file_meta.TransferSyntaxUID).is_encapsulated:
        return
    expected = (int(dataset.Rows), int(dataset.Columns))
    for stream in _streams(dataset):
        size = stream_size(stream)
        if size is not None and size != expected:
            raise UnsuitableSeries(
                Unsuitable.UNDECODABLE,
                f"instance {dataset.SOPInstanceUID}: the compressed image is {size[0]} x {size[1]}, "
                f"the header says {expected[0]} x {expected[1]}",
            )


def _streams(dataset: Dataset) -> Iterator[bytes]:
    try:
        yield from generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    except (ValueError, struct.error, EOFError) as error:
        raise UnsuitableSeries(
            Unsuitable.UNDECODABLE, f"instance {dataset.SOPInstanceUID}: the compressed pixel data is not well-formed"
        ) from error


def _stored_values(dataset: Dataset, array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The array without what an old overlay or padding left in unused high bits (native syntaxes only)."""
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if stored == allocated or UID(dataset.file_meta.TransferSyntaxUID).is_encapsulated:
        return array
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # big endian files give big endian arrays
    low = int(dataset.HighBit) + 1 - stored
    unsigned = array.view(f"u{array.dtype.itemsize}")
    if dataset.PixelRepresentation == 0:
        return (unsigned >> low) & np.array((1 << stored) - 1, dtype=unsigned.dtype)
    up = array.dtype.itemsize * 8 - stored
    return (unsigned << (up - low)).view(f"i{array.dtype.itemsize}") >> up


def _rescaled(dataset: Dataset, frames: NDArray[np.generic]) -> FloatArray:
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    try:
        if groups is None:
            return np.asarray(apply_modality_lut(frames, dataset), dtype=np.float32)
        rescaled = np.empty(frames.shape, dtype=np.float32)
        for index, frame in enumerate(frames):
            slope, intercept = _transformation(groups[index], shared)
            rescaled[index] = frame * slope + intercept
        return rescaled
    except (TypeError, ValueError, IndexError) as error:
        raise UnsuitableSeries(
            Unsuitable.BAD_RESCALE, f"instance {dataset.SOPInstanceUID}: rescale slope or intercept is not a number"
        ) from error


def _transformation(own: Dataset, shared: Dataset) -> tuple[float, float]:
    for place in (own, shared):
        if place.get("PixelValueTransformationSequence"):
            item = place.PixelValueTransformationSequence[0]
            return float(item.RescaleSlope), float(item.RescaleIntercept)
    return 1.0, 0.0
