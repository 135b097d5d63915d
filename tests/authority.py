"""A certificate authority for tests, made with the openssl command: nodes, expired ones, revoked ones, revocation lists."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.peers import program

CONFIGURATION = """
[ca]
default_ca = one
[one]
database = {folder}/index.txt
new_certs_dir = {folder}
serial = {folder}/serial
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_md = sha256
default_crl_days = 30
policy = anything
copy_extensions = copy
unique_subject = no
[anything]
commonName = supplied
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, both PEM files."""

    certificate: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        """SHA-256, as openssl prints it."""
        said = _openssl("x509", "-in", str(self.certificate), "-noout", "-fingerprint", "-sha256")
        return said.partition("=")[2].strip()


@dataclass(slots=True)
class Authority:
    """One authority in a folder of its own."""

    folder: Path
    name: str = "Test authority"
    _made: int = field(default=0)

    @property
    def certificate(self) -> Path:
        """Its certificate (PEM)."""
        return self.folder / "ca.pem"

    def start(self) -> Authority:
        """Make the folder, the key and the certificate."""
        self.folder.mkdir(parents=True)
        (self.folder / "index.txt").touch()
        (self.folder / "serial").write_text("1000\n", encoding="ascii")
        (self.folder / "ca.cnf").write_text(CONFIGURATION.format(folder=self.folder), encoding="ascii")
        _openssl(
            "req", "-x509", "-new", *_NEW_KEY, "-keyout", str(self.folder / "ca.key"), "-out", str(self.certificate),
            "-subj", f"/CN={self.name}", "-days", "30", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip
        return self

    def issue(self, name: str, *, starts_in_days: float = -1, ends_in_days: float = 20, key: str = "ec") -> Pair:
        """A certificate for this host name and 127.0.0.1."""
        self._made += 1
        stem = self.folder / f"{self._made:02}-{name}"
        pair = Pair(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        request = stem.with_suffix(".csr")
        new_key = _NEW_KEY if key == "ec" else ("-newkey", "rsa:2048", "-nodes")
        _openssl(
            "req", "-new", *new_key, "-keyout", str(pair.key), "-out", str(request), "-subj", f"/CN={name}",
            "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE",
        )  # fmt: skip
        now = datetime.now(UTC)
        dates = {"-startdate": now + timedelta(days=starts_in_days), "-enddate": now + timedelta(days=ends_in_days)}
        self._ca("-in", str(request), "-out", str(pair.certificate), "-notext", *_dates(dates))
        pair.key.chmod(0o600)
        return pair

    def revoke(self, pair: Pair) -> None:
        """Take a certificate back; it stands on the lists made from now on."""
        self._ca("-revoke", str(pair.certificate))

    def revocation_list(self) -> Path:
        """A fresh revocation list (PEM), always under the same name."""
        path = self.folder / "crl.pem"
        self._ca("-gencrl", "-out", str(path))
        return path

    def _ca(self, *arguments: str) -> None:
        _openssl("ca", "-batch", "-config", str(self.folder / "ca.cnf"), *arguments)


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _dates(dates: Mapping[str, datetime]) -> list[str]:
    return [part for option, at in dates.items() for part in (option, at.strftime("%Y%m%d%H%M%SZ"))]


def _openssl(*arguments: str) -> str:
    done = subprocess.run([program("openssl"), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"openssl {arguments[0]}: {done.stderr}"
    return done.stdout
