"""An archive of pynetdicom's own parts: C-STORE, storage commitment, C-FIND and C-GET, polite or not, as a test tells it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_context, build_role, evt

from dicom_node.settings import Destination

PUSH, PUSH_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
FIND, GET = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.3"
VERIFICATION = "1.2.840.10008.1.1"
STORED_CLASSES = ("1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.66.4")


@dataclass(slots=True)
class Archive:
    """How it behaves may be changed at any time; `start` and `stop` as often as wanted, the port stays."""

    commits: bool = True
    """Whether it offers storage commitment."""
    reports: str = "same"
    """`same` association, `reversed` roles on a new one to `report_to`, or `never`."""
    report_to: tuple[str, int] | None = None
    failing: dict[str, int] = field(default_factory=dict)
    """SOP Instance UID to the failure reason it reports."""
    finds: bool = True
    gives: bool = True
    """Whether it offers C-FIND, and C-GET."""
    forgets: bool = False
    """Answer Success and keep nothing."""
    ae_title: str = "ARCHIVE"
    port: int = 0
    kept: dict[str, Dataset] = field(default_factory=dict)
    """By SOP Instance UID; what it has it keeps, and answers Success to another one."""
    requests: list[Dataset] = field(default_factory=list)
    stored: int = 0
    echoes: int = 0
    answers: list[int] = field(default_factory=list)
    """What the node answered to reports."""
    _server: Any = None
    _done: Any = None
    _lock: Any = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Listen."""
        entity = AE(ae_title=self.ae_title)
        services = [
            VERIFICATION,
            *([PUSH] if self.commits else []),
            *([FIND] if self.finds else []),
            *([GET] if self.gives else []),
        ]
        for uid in services:
            entity.add_supported_context(uid)
        for uid in STORED_CLASSES:
            entity.add_supported_context(uid, ExplicitVRLittleEndian, scu_role=True, scp_role=True)
        handlers: list[Any] = [
            (evt.EVT_C_ECHO, self._on_echo), (evt.EVT_C_STORE, self._on_store), (evt.EVT_N_ACTION, self._on_action),
            (evt.EVT_C_FIND, self._on_find), (evt.EVT_C_GET, self._on_get),
        ]  # fmt: skip
        self._done = None
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = int(self._server.server_address[1])

    def stop(self) -> None:
        """Listen no more."""
        self._server.shutdown()

    def destination(self, **changes: Any) -> Destination:
        """How to send to it."""
        values = {"name": "pacs", "ae_title": self.ae_title, "host": "127.0.0.1", "port": self.port, "timeout_s": 30}
        return Destination(**{**values, **changes})

    def report(self, transaction_uid: str, uids: dict[str, str], failing: dict[str, int] | None = None) -> int | None:
        """Open an association to the node as SCP of storage commitment and report; the status answered."""
        assert self.report_to is not None
        entity = AE(ae_title=self.ae_title)
        called, port = self.report_to
        association: Any = entity.associate(
            "127.0.0.1", port, ae_title=called, contexts=[build_context(PUSH)],
            ext_neg=[build_role(PUSH, scu_role=False, scp_role=True)],
        )  # fmt: skip
        assert association.is_established, "the node refused the association"
        failures = failing or {}
        information = _report_of(transaction_uid, uids, failures)
        status, _ = association.send_n_event_report(information, 2 if failures else 1, PUSH, PUSH_INSTANCE)
        association.release()
        answer = int(status.Status) if "Status" in status else None
        if answer is not None:
            self.answers.append(answer)
        return answer

    def _on_echo(self, _event: Any) -> int:
        with self._lock:
            self.echoes += 1
        return 0x0000

    def _on_store(self, event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        with self._lock:
            self.stored += 1
            if not self.forgets:
                self.kept.setdefault(str(dataset.SOPInstanceUID), dataset)
        return 0x0000

    def _on_action(self, event: Any) -> tuple[int, None]:
        information = event.action_information
        with self._lock:
            self.requests.append(information)
        uids = {str(one.ReferencedSOPInstanceUID): str(one.ReferencedSOPClassUID) for one in information.ReferencedSOPSequence}
        transaction_uid = str(information.TransactionUID)
        if self.reports == "same":
            threading.Thread(target=self._report_on, args=(event.assoc, transaction_uid, uids), daemon=True).start()
        elif self.reports == "reversed":
            threading.Thread(target=self.report, args=(transaction_uid, uids, dict(self.failing)), daemon=True).start()
        return 0x0000, None

    def _report_on(self, association: Any, transaction_uid: str, uids: dict[str, str]) -> None:
        while association._is_paused:  # until the N-ACTION response is out
            threading.Event().wait(0.01)
        information = _report_of(transaction_uid, uids, self.failing)
        status, _ = association.send_n_event_report(information, 2 if self.failing else 1, PUSH, PUSH_INSTANCE)
        if "Status" in status:
            self.answers.append(int(status.Status))

    def _on_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        found = self.kept.get(str(query.SOPInstanceUID))
        if found is not None and found.StudyInstanceUID == query.StudyInstanceUID:
            answer = Dataset()
            answer.QueryRetrieveLevel = "IMAGE"
            for element in query:
                if element.keyword in found:
                    setattr(answer, element.keyword, found[element.keyword].value)
            yield 0xFF00, answer

    def _on_get(self, event: Any) -> Iterator[Any]:
        found = self.kept.get(str(event.identifier.SOPInstanceUID))
        yield 0 if found is None else 1
        if found is not None:
            yield 0xFF00, found


def _report_of(transaction_uid: str, uids: dict[str, str], failing: dict[str, int]) -> Dataset:
    information = Dataset()
    information.TransactionUID = transaction_uid
    done, failed = [], []
    for uid, sop_class_uid in uids.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, uid
        if uid in failing:
            item.FailureReason = failing[uid]
            failed.append(item)
        else:
            done.append(item)
    if done:
        information.ReferencedSOPSequence = done
    if failed:
        information.FailedSOPSequence = failed
    return information


@contextmanager
def running(archive: Archive) -> Iterator[Archive]:
    """The archive, listening for the length of the block."""
    archive.start()
    try:
        yield archive
    finally:
        archive.stop()
