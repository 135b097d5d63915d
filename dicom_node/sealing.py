"""Keeps the hash chain over the events going, and its head where the database's owner cannot rewrite it."""

from __future__ import annotations

import socket
from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from dicom_node.settings import SettingsError
from dicom_node.settings_audit import Audit
from storage import anchor as anchors
from storage import seal as chain
from storage.anchor import Anchor, Head
from storage.database import Database
from storage.seal import Fault

SHORTEST_KEY = 32


def seal(database: Database, *, at: datetime) -> int:
    """Chain what is not yet chained; the number of events."""
    with database.write() as session:
        return chain.seal(session, at=at)


def head(session: Session) -> Head | None:
    """The newest link of the chain; None where nothing is chained yet."""
    return chain.head(session)


def read_key(audit: Audit) -> bytes | None:
    """The anchors' key. Raises SettingsError where it is configured and cannot be read or is too short."""
    if audit.anchor_key_file is None:
        return None
    try:
        key = Path(audit.anchor_key_file).read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"audit.anchor_key_file: {audit.anchor_key_file}: {error.strerror}") from error
    if len(key) < SHORTEST_KEY:
        raise SettingsError(f"audit.anchor_key_file: {len(key)} bytes, at least {SHORTEST_KEY} are needed")
    return key


def anchor(database: Database, audit: Audit, *, at: datetime) -> Anchor | None:
    """Write the chain's head to the anchor file and to syslog; None where there is nothing to anchor."""
    key = read_key(audit)
    with database.read() as session:
        newest = chain.head(session)
    if key is None or newest is None:
        return None
    made = anchors.make_anchor(key, newest, at)
    if audit.anchor_file is not None:
        anchors.append_anchor(audit.anchor_file, made)
    if audit.anchor_syslog:
        host, _, port = audit.anchor_syslog.rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(f"<110>1 {anchors.anchor_line(made)}".encode(), (host, int(port)))
    return made


def verify(database: Database, audit: Audit) -> list[Fault]:
    """Every event that was changed, removed, added or moved since it was chained; empty where all is well."""
    key = read_key(audit)
    known = anchors.read_anchors(audit.anchor_file) if audit.anchor_file is not None and audit.anchor_file.exists() else []
    with database.read() as session:
        return chain.verify(session, known, key)
