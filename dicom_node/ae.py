"""Who the node is on the DICOM network: what it accepts, how it names its implementation, how it calls others.

The accepted transfer syntaxes follow the installed pixel decoders; the accepted SOP classes are all of PS3.4 table B.5-1
that pynetdicom or pydicom know, and those among them that a rule could select are the image classes below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from pydicom import config as pydicom_config
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom import _config as pynetdicom_config
from pynetdicom.presentation import (
    AllStoragePresentationContexts,
    PresentationContext,
    build_context,
)

from dicom_node.settings import Settings

IMPLEMENTATION_CLASS_UID = UID("2.25.65973038971421631819641836896247798959")
"""Random UUID-derived UID (PS3.5 B.2), fixed for this product."""

UIDS_REMEMBERED = 8192
"""Of which the listener knows whether they are valid: those of all contexts of some dozens of peers."""
VERIFICATION = UID("1.2.840.10008.1.1")
STORAGE_COMMITMENT = UID("1.2.840.10008.1.20.1")
_SC = "1.2.840.10008.5.1.4.1.1."

# PS3.4 table B.5-1: classes whose instances are acquired images. Secondary Capture, Segmentation, Parametric Map, RT
# images and everything without pixels are left out on purpose: they start nothing.
IMAGE_STORAGE_CLASSES = frozenset(
    _SC + suffix
    for suffix in (  # noqa: SIM905  # a table to be read, not a list of quotes
        "1 1.1 1.1.1 1.2 1.2.1 1.3 1.3.1 "  # CR, DX, mammography, intra-oral
        "2 2.1 2.2 "  # CT, enhanced, legacy converted
        "4 4.1 4.3 4.4 "  # MR, enhanced, enhanced colour, legacy converted
        "3 3.1 5 6 6.1 6.2 6.3 "  # ultrasound and nuclear medicine, retired ones too
        "12.1 12.1.1 12.2 12.2.1 13.1.1 13.1.2 13.1.3 13.1.4 13.1.5 "  # angiography, fluoroscopy, 3D X-ray, breast
        "14.1 14.2 20 128 128.1 130 "  # intravascular OCT, NM, PET
        "77.1.1 77.1.2 77.1.3 77.1.4 77.1.5.1 77.1.5.2 77.1.5.4 77.1.6 77.1.7 77.1.8 77.1.9"  # visible light, eye
    ).split()
)

_UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2")

# Transfer syntax: the modules of which one decodes it (pydicom.pixels.decoders). Lossless ones first, as we prefer them.
_DECODED_BY: dict[str, tuple[str, ...]] = {
    "1.2.840.10008.1.2.4.80": ("jpeg_ls", "libjpeg"),  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.90": ("openjpeg",),  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.201": ("openjpeg",),  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202": ("openjpeg",),  # HTJ2K lossless RPCL
    "1.2.840.10008.1.2.4.70": ("libjpeg",),  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.57": ("libjpeg",),  # JPEG lossless
    "1.2.840.10008.1.2.5": ("pydicom",),  # RLE
    "1.2.840.10008.1.2.4.81": ("jpeg_ls", "libjpeg"),  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.91": ("openjpeg",),  # JPEG 2000
    "1.2.840.10008.1.2.4.203": ("openjpeg",),  # HTJ2K
    "1.2.840.10008.1.2.4.50": ("libjpeg",),  # JPEG baseline
    "1.2.840.10008.1.2.4.51": ("libjpeg",),  # JPEG extended
}


def implementation_version_name() -> str:
    """`FOVEA_` and the installed version, at most 16 characters (PS3.7 D.3.3.2.3)."""
    try:
        return f"FOVEA_{version('fovea')}"[:16]
    except PackageNotFoundError:
        return "FOVEA"


def transfer_syntaxes() -> tuple[str, ...]:
    """Accepted transfer syntaxes in order of preference: explicit little endian, compressed, deflated, implicit, big endian."""
    compressed = (uid for uid, modules in _DECODED_BY.items() if any(find_spec(module) for module in modules))
    return (_UNCOMPRESSED[0], *compressed, *_UNCOMPRESSED[1:])


def storage_classes() -> frozenset[str]:
    """Every storage SOP class known to pynetdicom, and the retired image classes that old archives still send."""
    known = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    return frozenset(known | IMAGE_STORAGE_CLASSES)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the listener takes, worked out once at start."""

    classes: frozenset[str]
    syntaxes: tuple[str, ...]
    built: Mapping[str, PresentationContext]
    """The context of each storage class; negotiation only reads it, and building 128 of them costs 11 ms."""

    @classmethod
    def installed(cls) -> Acceptance:
        """What this installation can store and decode."""
        classes, syntaxes = storage_classes(), transfer_syntaxes()
        return cls(classes, syntaxes, {uid: build_context(uid, list(syntaxes)) for uid in classes})

    def for_reports(self) -> Acceptance:
        """What a destination may do that only reports on storage commitment: no storing."""
        return Acceptance(frozenset(), self.syntaxes, {})

    def contexts(self, proposed: Iterable[str]) -> list[PresentationContext]:
        """Supported contexts for the proposed abstract syntaxes only: negotiating all of them costs more with each."""
        wanted = set(proposed)
        services = [build_context(VERIFICATION, list(_UNCOMPRESSED))]
        if STORAGE_COMMITMENT in wanted:
            services.append(build_context(STORAGE_COMMITMENT, list(_UNCOMPRESSED)))
            services[-1].scu_role = services[-1].scp_role = True  # an archive that reports is SCP on an association it requests
        return services + [self.built[uid] for uid in sorted(wanted & self.classes)]


def requestor(ae_title: str, timeout_s: float) -> AE:
    """An application entity that calls others and waits this long for each answer."""
    entity = named(AE(ae_title=ae_title))
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = timeout_s
    return entity


def acceptor(settings: Settings) -> AE:
    """The application entity that the listener serves. Contexts are set for each association from what it proposes."""
    receive = settings.receive
    entity = named(AE(ae_title=settings.node.ae_title))
    entity.add_supported_context(VERIFICATION)
    entity.maximum_pdu_size = receive.maximum_pdu_bytes
    entity.maximum_associations = 10_000  # counted and answered in `scp`, which tells half-open connections from associations
    entity.acse_timeout = receive.acse_timeout_s
    entity.dimse_timeout = receive.dimse_timeout_s
    entity.network_timeout = receive.network_timeout_s
    entity.require_called_aet = False  # checked in `scp`, where the refusal also gets its event
    return entity


def calm_libraries() -> None:
    """Make pydicom and pynetdicom do for a listener only what it needs of them; for the whole process.

    Both would look at every UID of an association request a dozen times, which is half of the time that its set-up takes.
    """
    uid: Any = UID
    if not hasattr(uid.is_valid.fget, "cache_info"):
        uid.is_valid = property(lru_cache(maxsize=UIDS_REMEMBERED)(uid.is_valid.fget))
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    pynetdicom_config.VALIDATORS["UI"] = _bearable_uid
    pynetdicom_config.LOG_HANDLER_LEVEL = "none"  # its handlers spell out every message; our events and rows tell more


def _bearable_uid(value: str) -> tuple[bool, str]:
    """What pynetdicom asks of a UID: that it has 1 to 64 characters."""
    return (True, "") if 0 < len(value) < 65 else (False, "must have 1 to 64 characters")


def named(entity: AE) -> AE:
    """The entity with this product's implementation class UID and version name."""
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = implementation_version_name()
    return entity
