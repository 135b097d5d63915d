"""The viewers' packages, pinned in package.json beside this module, fetched with npm and unpacked into node_modules once.

Each package is fetched alone and its bytes are held against the SHA-512 of package.json: OHIF's holds the built viewer, and
the hundreds of packages that it names as its own are needed only to build it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.peers import program
from tests.postgres import peer_missing

HERE = Path(__file__).parent
MODULES = HERE / "node_modules"
FETCH_TIMEOUT_S = 240


def packages() -> Path:
    """The folder that holds every package of package.json, `<name>/package.json` each. Fails or skips without npm."""
    pinned = json.loads((HERE / "package.json").read_text(encoding="utf-8"))
    for name, version in pinned["dependencies"].items():
        if _installed_version(name) != version:
            _install(name, version, pinned["integrity"][name])
    return MODULES


def _installed_version(name: str) -> str | None:
    description = MODULES / name / "package.json"
    if not description.exists():
        return None
    return str(json.loads(description.read_text(encoding="utf-8"))["version"])


def _install(name: str, version: str, integrity: str) -> None:
    MODULES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MODULES) as scratch:
        archive = _fetch(f"{name}@{version}", Path(scratch))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode("ascii")
        assert f"sha512-{digest}" == integrity, f"{name}@{version} is not the package that was pinned"
        with tarfile.open(archive) as packed:
            wanted = [member for member in packed if not member.name.endswith(".map")]
            packed.extractall(scratch, wanted, filter="data")
        (unpacked,) = (one for one in Path(scratch).iterdir() if one.is_dir())
        target = MODULES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        unpacked.rename(target)


def _fetch(package: str, folder: Path) -> Path:
    command = [program("npm"), "pack", package, "--pack-destination", str(folder), "--ignore-scripts", "--loglevel", "error"]
    try:
        answer = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, env={**os.environ, "CI": "1"}
        )
    except subprocess.TimeoutExpired:
        peer_missing(f"npm did not fetch {package} within {FETCH_TIMEOUT_S} s")
    if answer.returncode != 0:
        peer_missing(f"npm cannot fetch {package}: {answer.stderr.strip()[-300:]}")
    (archive,) = folder.glob("*.tgz")
    return archive
