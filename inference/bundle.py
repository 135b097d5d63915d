"""Reading and writing bundles: a model card, the weights it vouches for, and the networks built from both.

Weights are safetensors only; nothing is unpickled. A network is built from exactly the bytes whose SHA-256
the card names. Weights may be stored in half precision; networks compute in float32.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from inference.card import BRAIN, CARD_NAME, BundleError, ModelCard, card_digest, read_card, verify_files
from inference.networks import build
from inference.postprocess import check_calibration, check_operating_point
from inference.types import ModelIdentity

_IMAGE_AXES = 4  # of the weights of a 2D convolution


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle with its networks on one device, in evaluation mode."""

    card: ModelCard
    identity: ModelIdentity
    networks: Mapping[str, nn.Module]
    device: torch.device

    @property
    def brain(self) -> nn.Module:
        """The network that finds the brain."""
        return self.networks[BRAIN]


def load_bundle(folder: Path, *, expected_digest: str | None = None, device: str = "auto") -> Bundle:
    """The bundle in `folder`, every file verified. BundleError where it is not the one its card describes."""
    card = open_card(folder, expected_digest=expected_digest)
    where = choose_device(device)
    return Bundle(
        card=card,
        identity=identity(folder, card),
        networks={name: _ready(_built(name, folder, card), folder, card, weights_file(name), where) for name in card.networks},
        device=where,
    )


def open_card(folder: Path, *, expected_digest: str | None = None) -> ModelCard:
    """The card of a bundle whose digest, files and tables have all been checked; no network is built."""
    digest = card_digest(folder)
    if expected_digest is not None and digest != expected_digest:
        raise BundleError(f"{folder}: the model's digest is {digest}, {expected_digest} was asked for")
    card = read_card(folder)
    verify_files(folder, card)
    if BRAIN not in card.networks:
        raise BundleError(f"{folder / CARD_NAME}: networks: {BRAIN} is missing")
    for recipe, calibration in card.calibration.items():
        try:
            check_calibration(calibration)
        except ValueError as error:
            raise BundleError(f"{folder / CARD_NAME}: calibration.{recipe}: {error}") from error
    for recipe, operating_point in card.operating_point.items():
        try:
            check_operating_point(operating_point)
        except ValueError as error:
            raise BundleError(f"{folder / CARD_NAME}: operating_point.{recipe}: {error}") from error
    return card


def identity(folder: Path, card: ModelCard) -> ModelIdentity:
    """Name, version, manufacturer and digest of the bundle in `folder`."""
    return ModelIdentity(card.name, card.version, card.manufacturer, card_digest(folder))


def weights_file(name: str) -> str:
    """The file with the weights of the network of that name."""
    return f"{name}.safetensors"


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is a GPU where there is one. BundleError where it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BundleError(f"device {name!r}: unknown") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BundleError(f"device {name!r}: this machine has no GPU that torch can use")
    return device


def write_bundle(
    folder: Path,
    card: ModelCard,
    weights: Mapping[str, Mapping[str, Tensor]],
    texts: Mapping[str, str],
    *,
    dtype: torch.dtype = torch.float16,
) -> ModelCard:
    """Write weights (by file name), texts (`MODEL_CARD.md`) and the card that names them; all or nothing.

    `card.files` is filled in. A bundle already in `folder` is replaced in one rename, and put back if that
    fails. Returns the card as written. ValueError where a weight is not finite in the stored precision.
    """
    contents = {name: _serialised(name, tensors, dtype) for name, tensors in weights.items()}
    contents |= {name: text.encode() for name, text in texts.items()}
    files = {name: _sha256(content) for name, content in sorted(contents.items())}
    written = card.model_copy(update={"files": files})
    contents[CARD_NAME] = (written.model_dump_json(indent=1) + "\n").encode()
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name, content in contents.items():
            _write_durably(draft / name, content)
        draft.chmod(0o755)
        open_card(draft)
        _swap(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return written


def _serialised(name: str, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> bytes:
    stored = {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in tensors.items()
    }
    for key, value in stored.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name}: {key} is not finite as {dtype}")
    return bytes(save(stored))


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _swap(draft: Path, folder: Path) -> None:
    """Rename `draft` to `folder`; what was there before is removed only once the new one stands."""
    if not folder.exists():
        draft.rename(folder)
        return
    former = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    folder.rename(former)
    try:
        draft.rename(folder)
    except OSError:
        former.rename(folder)
        raise
    shutil.rmtree(former)


def _built(name: str, folder: Path, card: ModelCard) -> nn.Module:
    try:
        return build(card.networks[name].kind, card.networks[name].arguments)
    except (ValueError, RuntimeError) as error:
        raise BundleError(f"{folder / CARD_NAME}: networks.{name}: {error}") from error


def _ready(network: nn.Module, folder: Path, card: ModelCard, name: str, device: torch.device) -> nn.Module:
    """The network with the weights of one file, verified from the very bytes that are loaded."""
    if name not in card.files:
        raise BundleError(f"{folder / CARD_NAME}: files: {name} is missing")
    content = (folder / name).read_bytes()
    if _sha256(content) != card.files[name]:
        raise BundleError(f"{folder / name}: changed while it was being read")
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise BundleError(f"{folder / name}: not a safetensors file: {error}") from error
    floats = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    broken = [key for key, value in floats.items() if not torch.isfinite(value).all()]
    if broken:
        raise BundleError(f"{folder / name}: {broken[0]} is not finite")
    try:
        network.load_state_dict(floats)
    except RuntimeError as error:
        raise BundleError(f"{folder / name}: does not fit the network of the card: {error}") from error
    network.eval().to(device)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() == _IMAGE_AXES:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
