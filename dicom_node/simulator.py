"""A PACS and a modality on loopback, for `make run`, the tests and the self test: real DICOM, no patient.

The PACS keeps what it gets as files and can be told to misbehave as real ones do. The modality sends data sets over C-STORE.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydicom import Dataset, dcmread, dcmwrite
from pynetdicom import AE, build_context, evt
from pynetdicom import _config as pynetdicom_config

from dicom_node import scu
from dicom_node.ae import VERIFICATION, named, storage_classes, transfer_syntaxes
from dicom_node.settings import Destination


@dataclass(frozen=True, slots=True)
class Received:
    """One object the PACS took."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    calling_ae_title: str
    path: Path


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the PACS behaves from now on. The default is a good one."""

    reject_associations: bool = False
    """Answer each request with a rejection (1,1,3: calling AE title not recognized)."""
    refused_classes: frozenset[str] = frozenset()
    """SOP classes it accepts no presentation context for."""
    statuses: dict[str, int] = field(default_factory=dict)
    """C-STORE status by SOP Class UID or SOP Instance UID; 0x0000 otherwise. Failures (0xAxxx, 0xCxxx, 0x01xx) are not kept."""
    abort_after: int | None = None
    """Abort each association instead of answering the object after this many."""
    syntaxes: tuple[str, ...] = ()
    """Transfer syntaxes it accepts; all that can be decoded where empty."""
    silent: bool = False
    """Take C-STORE requests and never answer."""


class SimulatedPacs:
    """A C-STORE and C-ECHO SCP on loopback. Answers any calling AE title."""

    def __init__(self, ae_title: str, *, folder: Path | None = None, port: int = 0) -> None:
        """Files go to `folder`, or to a temporary one that `stop` removes."""
        self.ae_title = ae_title
        self.behaviour = Behaviour()
        self._temporary = TemporaryDirectory(prefix="pacs-") if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary else folder or Path()
        self._port = port
        self._lock = threading.Condition()
        self._received: list[Received] = []
        self._attempts = 0
        self._last_at = time.monotonic()
        self._server: Any = None
        self._stopping = threading.Event()

    def start(self) -> int:
        """Listen; the port. After `stop` it comes back on the same port with what it had."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stopping.clear()
        pynetdicom_config.LOG_HANDLER_LEVEL = "none"
        entity = named(AE(ae_title=self.ae_title))
        entity.add_supported_context(VERIFICATION)
        entity.maximum_pdu_size = 131072
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_request),
            (evt.EVT_C_ECHO, lambda _event: 0x0000),
            (evt.EVT_C_STORE, self._on_store),
        ]
        self._server = entity.start_server(("127.0.0.1", self._port), block=False, evt_handlers=handlers)
        self._port = int(self._server.server_address[1])
        return self._port

    def stop(self) -> None:
        """Go down: connections are refused from now on."""
        if self._server is not None:
            associations = list(self._server.active_associations)
            self._stopping.set()
            self._server.shutdown()
            self._server = None
            for association in associations:
                association.abort()

    def close(self) -> None:
        """Go down and remove the temporary folder."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def destination(self, name: str = "pacs", timeout_s: float = 10.0) -> Destination:
        """How to send to it."""
        return Destination(name=name, ae_title=self.ae_title, host="127.0.0.1", port=self._port, timeout_s=timeout_s)

    def received(self) -> list[Received]:
        """What it took, in order; an object sent again stands once, in its first place."""
        with self._lock:
            return list({one.sop_instance_uid: one for one in self._received}.values())

    def receipts(self) -> int:
        """How many C-STORE requests it answered with success or a warning, repeated ones included."""
        with self._lock:
            return len(self._received)

    @property
    def attempts(self) -> int:
        """How many C-STORE requests came, refused ones included."""
        with self._lock:
            return self._attempts

    def is_quiet(self, seconds: float) -> bool:
        """True where nothing came for this long."""
        with self._lock:
            return time.monotonic() - self._last_at >= seconds

    def wait_for(self, condition: Callable[[list[Received]], bool], timeout_s: float) -> bool:
        """Wait until what it took meets the condition; False after `timeout_s`."""
        with self._lock:
            return self._lock.wait_for(lambda: condition(list(self._received)), timeout_s)

    def _on_request(self, event: Any) -> None:
        association, behaviour = event.assoc, self.behaviour
        if behaviour.reject_associations:
            association.acse.send_reject(1, 1, 3)
            association.kill()
            return
        syntaxes = list(behaviour.syntaxes or transfer_syntaxes())
        proposed = {str(one.abstract_syntax) for one in association.requestor.primitive.presentation_context_definition_list}
        classes = sorted((proposed & storage_classes()) - behaviour.refused_classes)
        association.acceptor.supported_contexts = [
            build_context(VERIFICATION),
            *(build_context(uid, syntaxes) for uid in classes),
        ]

    def _on_store(self, event: Any) -> int:
        """Keep one object and answer as told."""
        request, behaviour = event.request, self.behaviour
        class_uid, instance_uid = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        with self._lock:
            self._attempts += 1
            attempt = self._attempts
        if behaviour.abort_after is not None and attempt > behaviour.abort_after:
            event.assoc.abort()
            return 0x0110
        if behaviour.silent:
            self._stopping.wait()
        status = behaviour.statuses.get(instance_uid, behaviour.statuses.get(class_uid, 0x0000))
        if scu.meaning(status)[0] in (scu.Meaning.STORED, scu.Meaning.STORED_WITH_WARNING):
            self._keep(event, class_uid, instance_uid)
        return status

    def _keep(self, event: Any, class_uid: str, instance_uid: str) -> None:
        data = event.encoded_dataset()
        dataset = dcmread(BytesIO(data), stop_before_pixels=True)
        path = self.folder / f"{instance_uid}.dcm"
        path.write_bytes(data)
        received = Received(
            class_uid,
            instance_uid,
            str(event.context.transfer_syntax),
            str(dataset.get("Modality", "")),
            str(event.assoc.requestor.ae_title).strip(),
            path,
        )
        with self._lock:
            self._received.append(received)
            self._last_at = time.monotonic()
            self._lock.notify_all()


class SendingFailed(Exception):
    """Raised when the simulated modality could not send everything."""


def send_datasets(destination: Destination, calling_ae_title: str, datasets: Iterable[Dataset]) -> list[scu.Sent]:
    """Send data sets as a modality does; each one's answer. Raises SendingFailed where not everything was stored."""
    sent: list[scu.Sent] = []
    with TemporaryDirectory(prefix="modality-") as folder:
        items: Sequence[scu.FileToSend] = [
            _written(dataset, Path(folder) / f"{number:06}.dcm") for number, dataset in enumerate(datasets)
        ]
        error = scu.send(destination, calling_ae_title, items, sent.append)
    if error is not None:
        raise SendingFailed(f"{error.code}: {error.text}")
    return sent


def _written(dataset: Dataset, path: Path) -> scu.FileToSend:
    dcmwrite(path, dataset, enforce_file_format=True)
    return scu.FileToSend(path, str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))
