"""A listener alone in its process, as `fovea listen` is: `python -m tests.benchmarks.serve_listener FOLDER PORT`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import get_args

from dicom_node import logs
from dicom_node.scp import Listener
from dicom_node.settings import Node, Peer, Receive, ReceivePath, Settings, Storage
from storage.database import Database
from storage.spool import Spool


def main() -> None:
    """Listen until SIGTERM; anybody called BENCH on this machine may send."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--path", choices=get_args(ReceivePath), default="stream")
    given = parser.parse_args()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    logs.configure(json=True)
    settings = Settings(
        node=Node(ae_title="FOVEA", port=given.port),
        peers=(Peer(ae_title="BENCH", addresses=("127.0.0.1",)),),
        storage=Storage(spool=given.folder / "spool", reserve_mb=1),
        receive=Receive(path=given.path),
    )
    database = Database(settings.storage.url())
    database.upgrade()
    listener = Listener(settings, database, Spool(settings.storage.spool, 0))
    listener.start()
    heavy = sorted({name.split(".")[0] for name in sys.modules} & {"torch", "monai", "highdicom", "scipy"})
    print(f"heavy modules loaded: {heavy or 'none'}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    listener.stop()


if __name__ == "__main__":
    main()
