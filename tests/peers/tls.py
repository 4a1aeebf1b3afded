"""A certificate authority of our own, and mirrors with certificates by it; needs the openssl program."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from tests.peers import mirror, system
from tests.peers.mirror import Mirror

HERE = "IP:127.0.0.1,DNS:localhost"
SETTINGS = """\
[ca]
default_ca = ours
[ours]
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
unique_subject = no
default_md = sha256
policy = any
[any]
commonName = supplied
"""


@dataclass(frozen=True)
class Authority:
    """`certificate` is what makes its certificates trusted."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "authority.pem"

    def issue(self, name: str, hosts: str = HERE, *, days: int = 2) -> Path:
        """A file with a key and a certificate for those hosts. `days` below zero: it has expired so long ago."""
        request, extensions, path = (self.folder / f"{name}.{ending}" for ending in ("csr", "ext", "pem"))
        until = datetime.now(timezone.utc) + timedelta(days=days)
        extensions.write_text(f"subjectAltName={hosts}\nbasicConstraints=CA:FALSE\nauthorityKeyIdentifier=keyid\n")
        _openssl("req", "-new", "-key", self._key, "-subj", f"/CN={name}", "-out", request)
        _openssl(
            "ca", "-config", self.folder / "settings", "-batch", "-notext", "-in", request,
            "-cert", self.certificate, "-keyfile", self._key, "-extfile", extensions, "-out", path,
            "-startdate", f"{until - timedelta(days=9):%Y%m%d%H%M%SZ}", "-enddate", f"{until:%Y%m%d%H%M%SZ}",
        )  # fmt: skip
        path.write_bytes(self._key.read_bytes() + path.read_bytes())
        return path

    def self_signed(self, hosts: str = HERE) -> Path:
        """A file with a key and a certificate that nobody has signed."""
        path = self.folder / "self.pem"
        _openssl(
            "req", "-x509", "-new", "-key", self._key, "-subj", "/CN=self", "-addext", f"subjectAltName={hosts}",
            "-days", "2", "-out", path,
        )  # fmt: skip
        path.write_bytes(self._key.read_bytes() + path.read_bytes())
        return path

    def locked(self, path: Path) -> Path:
        """The same file, with a password on the key."""
        locked = path.with_suffix(".locked.pem")
        _openssl("ec", "-in", self._key, "-aes256", "-passout", "pass:s3cret", "-out", locked)
        locked.write_bytes(locked.read_bytes() + path.read_bytes().partition(b"-----END EC PRIVATE KEY-----")[2])
        return locked

    @property
    def _key(self) -> Path:
        return self.folder / "key.pem"


def authority(folder: Path) -> Authority:
    system.require(shutil.which("openssl"), "no openssl: apt-get install openssl")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings").write_text(SETTINGS.format(folder=folder))
    (folder / "index").touch()
    (folder / "serial").write_text("01")
    made = Authority(folder)
    _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", made._key)
    _openssl(
        "req", "-x509", "-new", "-key", made._key, "-subj", "/CN=jingxiang tests", "-days", "9",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", made.certificate,
    )  # fmt: skip
    return made


@contextlib.contextmanager
def serving(certificate: Path, *, clients: Path | None = None) -> Iterator[Mirror]:
    """A mirror with that certificate. `clients`: it wants to see certificates by this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if clients:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients)
    with mirror.serving(context) as found:
        yield found


def _openssl(*argv: str | Path) -> None:
    done = subprocess.run(["openssl", *argv], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
