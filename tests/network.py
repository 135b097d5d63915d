"""Helpers for tests over real connections: a listener on loopback, DCMTK as a peer, and DICOM PDUs written by hand."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from dicom_node.scp import Listener
from dicom_node.settings import Node, Peer, Receive, ReceivePath, Settings, Storage
from storage.database import Database
from storage.models import Event, Instance, Rejected, Study
from storage.spool import Area, Spool
from tests.peers import program

CALLED, CALLING = "FOVEA", "MODALITY"
VERIFICATION = "1.2.840.10008.1.1"
MR = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"


@dataclass(frozen=True)
class Running:
    """A listener that runs in this process, and what it works on."""

    listener: Listener
    settings: Settings
    database: Database
    spool: Spool
    port: int

    def rows(self, table: type[Any]) -> list[Any]:
        """Every row of a table, in the order of their ids."""
        with self.database.read() as session:
            found = list(session.scalars(select(table).order_by(table.id)))
            session.expunge_all()
            return found

    def instances(self) -> list[Instance]:
        """Every instance row."""
        return self.rows(Instance)

    def kept(self) -> list[str]:
        """The files of received objects; those that lie ready are empty."""
        return [path for path in self.spool.files(Area.INSTANCES) if self.spool.path(path).stat().st_size]

    def studies(self) -> list[Study]:
        """Every study row."""
        return self.rows(Study)

    def rejected(self) -> list[Rejected]:
        """Every row of an object kept aside."""
        return self.rows(Rejected)

    def events(self, kind: str) -> list[Event]:
        """Every event of a kind."""
        return [event for event in self.rows(Event) if event.kind == kind]


@contextmanager
def listening(
    database: Database,
    spool: Spool,
    *,
    peers: Sequence[Peer] | None = None,
    receive: Receive | None = None,
    path: ReceivePath = "stream",
    **sections: Any,
) -> Iterator[Running]:
    """A listener on a free port of loopback; by default CALLING may send. Further sections of the settings by name."""
    known = (Peer(ae_title=CALLING, addresses=("127.0.0.1",)),) if peers is None else tuple(peers)
    settings = Settings(
        node=Node(ae_title=CALLED, port=0),
        peers=known,
        storage=Storage(spool=spool.root),
        receive=(receive or Receive(acse_timeout_s=10, network_timeout_s=20)).model_copy(update={"path": path}),
        **sections,
    )
    listener = Listener(settings, database, spool)
    port = listener.start()
    try:
        yield Running(listener, settings, database, spool, port)
    finally:
        listener.stop()


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Return once the condition holds; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def storescu(port: int, files: Sequence[Path], *options: str, calling: str = CALLING, called: str = CALLED) -> str:
    """DCMTK's storescu sends the files; its exit status must be 0. Its output."""
    done = run_storescu(port, files, *options, calling=calling, called=called)
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_storescu(
    port: int, files: Sequence[Path], *options: str, calling: str = CALLING, called: str = CALLED
) -> subprocess.CompletedProcess[str]:
    """DCMTK's storescu sends the files, whatever comes of it."""
    command = [program("storescu"), "-v", "-aet", calling, "-aec", called, *options]
    return subprocess.run(
        [*command, "127.0.0.1", str(port), *map(str, files)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        env={**os.environ, "TCP_NODELAY": "1"},
    )


class Wire:
    """One TCP connection that speaks DICOM as badly as the test wants."""

    def __init__(self, port: int, timeout_s: float = 60.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """The next PDU's type and content; (0, b"") where the connection was closed."""
        try:
            header = self._exactly(6)
            kind, length = struct.unpack(">BxI", header)
            return kind, self._exactly(length)
        except (EOFError, ConnectionError):
            return 0, b""

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def associate(
        self,
        contexts: Sequence[tuple[str, Sequence[str]]] = ((MR, (EXPLICIT,)),),
        *,
        calling: str = CALLING,
        called: str = CALLED,
        maximum_pdu: int = 131072,
    ) -> tuple[int, bytes]:
        """Ask for an association and wait for the answer."""
        self.send(associate_rq(contexts, calling=calling, called=called, maximum_pdu=maximum_pdu))
        return self.receive()

    def store(self, command: bytes, data: bytes, context_id: int = 1, chunk: int = 60000) -> None:
        """Send a command set and a data set in P-DATA PDUs."""
        self.send(p_data(context_id, 3, command))
        for start in range(0, max(len(data), 1), chunk):
            last = 2 if start + chunk >= len(data) else 0
            self.send(p_data(context_id, last, data[start : start + chunk]))

    def status(self) -> int:
        """The status of the next DIMSE response."""
        return struct.unpack("<H", self.response()[0x0900])[0]

    def response(self) -> dict[int, bytes]:
        """The elements of the next DIMSE response's command set, by element number."""
        body = b""
        while True:
            kind, content = self.receive()
            assert kind == 4, f"PDU type {kind} instead of P-DATA: {content.hex()}"
            body += content[6:]
            if content[5] & 2:
                return elements(body)


def associate_rq(contexts: Sequence[tuple[str, Sequence[str]]], *, calling: str, called: str, maximum_pdu: int = 131072) -> bytes:
    """An A-ASSOCIATE-RQ PDU (PS3.8 9.3.2)."""
    items = _item(0x10, APPLICATION_CONTEXT.encode())
    for number, (abstract, syntaxes) in enumerate(contexts):
        inner = struct.pack(">Bxxx", 2 * number + 1) + _item(0x30, abstract.encode())
        inner += b"".join(_item(0x40, syntax.encode()) for syntax in syntaxes)
        items += _item(0x20, inner)
    items += _item(0x50, _item(0x51, struct.pack(">I", maximum_pdu)) + _item(0x52, b"1.2.3.4"))
    body = struct.pack(">Hxx", 1) + called.ljust(16).encode() + calling.ljust(16).encode() + bytes(32) + items
    return struct.pack(">BxI", 1, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def p_data(context_id: int, control: int, value: bytes) -> bytes:
    """A P-DATA-TF PDU with one value; control 1: command, 2: last."""
    return struct.pack(">BxIIBB", 4, len(value) + 6, len(value) + 2, context_id, control) + value


RELEASE_RQ = struct.pack(">BxIxxxx", 5, 4)


def store_command(sop_instance_uid: str | bytes | None, sop_class_uid: str = MR, *, has_data: bool = True) -> bytes:
    """A C-STORE-RQ command set; without SOP Instance UID where that is None."""
    values = [(0x0002, _even(sop_class_uid.encode()))]
    values += [(0x0100, struct.pack("<H", 1)), (0x0110, struct.pack("<H", 7)), (0x0700, struct.pack("<H", 0))]
    values.append((0x0800, struct.pack("<H", 1 if has_data else 0x0101)))
    if sop_instance_uid is not None:
        raw = sop_instance_uid if isinstance(sop_instance_uid, bytes) else sop_instance_uid.encode()
        values.append((0x1000, _even(raw)))
    body = b"".join(struct.pack("<HHI", 0, number, len(value)) + value for number, value in values)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _even(value: bytes) -> bytes:
    return value + b"\0" if len(value) & 1 else value


def elements(command: bytes) -> dict[int, bytes]:
    """The values of a command set by element number."""
    found = {}
    position = 0
    while position < len(command):
        _, number, length = struct.unpack_from("<HHI", command, position)
        found[number] = command[position + 8 : position + 8 + length]
        position += 8 + length
    return found
