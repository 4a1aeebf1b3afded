"""How this machine reaches others: proxies, certificates and logins, as pip and the environment set them."""

from __future__ import annotations

import base64
import contextlib
import functools
import ipaddress
import netrc
import os
import ssl
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jingxiang import vendored
from jingxiang.errors import UsageError
from jingxiang.language import tr
from jingxiang.redaction import HIDDEN

# The variables of OpenSSL, requests and curl that name certificates to trust.
AUTHORITIES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# Thirty threads that begin at the same moment would each read all certificates: a tenth of a second of work.
_ONE_AT_A_TIME = threading.Lock()
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy; `login` is the value of Proxy-Authorization, empty without a password."""

    host: str
    port: int
    login: str = field(repr=False)


@dataclass(frozen=True)
class Network:
    """`proxies` by the scheme of what is asked, `direct` the hosts to ask without one (as NO_PROXY names them),
    certificates to trust beside the system's own, the client's own certificate, hosts (or HOST:PORT) whose certificate
    is not looked at, and the file with logins (netrc)."""

    proxies: Mapping[str, Proxy] = field(default_factory=dict)
    direct: str = ""
    authorities: tuple[Path, ...] = ()
    client_certificate: Path | None = None
    trusted: tuple[str, ...] = ()
    logins: Path | None = None

    def proxy(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy to go through; None: directly."""
        chosen = self.proxies.get(scheme)
        return None if chosen is None or _excluded(host, port, self.direct) else chosen

    def context(self, host: str, port: int) -> ssl.SSLContext:
        """What a server's certificate is checked against."""
        open_to_all = not {host, f"{host}:{port}"}.isdisjoint(self.trusted)
        with _ONE_AT_A_TIME:
            return _context(self.authorities, self.client_certificate, checked=not open_to_all)

    def login(self, parts: urllib.parse.SplitResult) -> str:
        """The value of Authorization for an address: its own user and password, else those of the login file."""
        found = _logins(self.logins).get(parts.hostname or "") if self.logins else None
        return _of_address(parts) or (_basic(*found) if found else "")


def of(settings: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> Network:
    """From pip's settings (`pip_client.settings`) and the environment; pip's proxy stands before that of the latter.

    Raises `UsageError` for a proxy that we cannot speak to, and for certificates that are not there.
    """
    found = _proxies(environ)
    chosen = {scheme: settings.get("proxy") or found.get(scheme) or found.get("all", "") for scheme in PORTS}
    named = [environ.get(name, "") for name in AUTHORITIES] + [settings.get("cert", "")]
    authorities = tuple(dict.fromkeys(Path(name).expanduser() for name in named if name))
    client = Path(settings["client-cert"]).expanduser() if settings.get("client-cert") else None
    if missing := next((path for path in (*authorities, client) if path and not path.exists()), None):
        raise UsageError(tr("{path}: no such file; it should hold certificates", path=missing))
    home = Path(environ.get("HOME") or Path.home())
    logins = [Path(environ["NETRC"])] if environ.get("NETRC") else [home / ".netrc", home / "_netrc"]
    return Network(
        {scheme: _proxy(address) for scheme, address in chosen.items() if address},
        found.get("no", ""),
        authorities,
        client,
        tuple(settings.get("trusted-host", "").lower().split()),
        next((path for path in logins if path.is_file()), None),
    )


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """By scheme. A name in lower case counts more than the same in upper case, even if it is empty."""
    found = {}
    for name in sorted(environ, key=str.islower):
        if name.lower().endswith("_proxy"):
            found[name.lower().removesuffix("_proxy")] = environ[name]
    return found


def _proxy(address: str) -> Proxy:
    try:
        parts = urllib.parse.urlsplit(address if "://" in address else f"http://{address}")
        port = PORTS["http"] if parts.port is None else parts.port
        if parts.scheme == "http" and parts.hostname and port:
            return Proxy(parts.hostname, port, _of_address(parts))
    except ValueError:  # brackets without an address in them, a port that is no number
        pass
    raise UsageError(
        tr("the proxy {address} cannot be used: only http://HOST:PORT", address=_without_login(address)),
        hints=("export HTTPS_PROXY=http://HOST:PORT HTTP_PROXY=http://HOST:PORT",),
    )


def _without_login(address: str) -> str:
    """For an address that makes no sense: its password may hold what ends a password elsewhere."""
    login, at, host = address.rpartition("@")
    scheme, mark, _ = login.rpartition("://")
    return f"{scheme}{mark}{HIDDEN}@{host}" if at else address


def _excluded(host: str, port: int, hosts: str) -> bool:
    """Whether NO_PROXY names a host: itself, a domain above it, a network that its address is in, or everything."""
    if not hosts:
        return False
    if urllib.request.proxy_bypass_environment(f"{host}:{port}", {"no": hosts}):  # type: ignore[attr-defined]
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _networks(hosts.split(",")))


def _networks(names: Iterable[str]) -> Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for name in names:
        try:
            yield ipaddress.ip_network(name.strip(), strict=False)
        except ValueError:
            continue


def _of_address(parts: urllib.parse.SplitResult) -> str:
    """What `user:password@` in an address (percent-encoded) becomes; empty without one."""
    if not parts.username and not parts.password:
        return ""
    return _basic(urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or ""))


def _basic(user: str, password: str) -> str:
    """The value of Authorization, by RFC 7617."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@functools.cache
def _context(authorities: tuple[Path, ...], certificate: Path | None, *, checked: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if certificate:
        with _certificates(certificate):  # a key with a password is an error: OpenSSL would ask on the terminal
            context.load_cert_chain(certificate, password="")
    if not checked:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    system = ssl.get_default_verify_paths()
    if not system.cafile and not (system.capath and any(Path(system.capath).iterdir())):
        context.load_verify_locations(vendored.module("certifi").where())
    for path in authorities:
        with _certificates(path):
            context.load_verify_locations(**{"capath" if path.is_dir() else "cafile": str(path)})
    return context


@contextlib.contextmanager
def _certificates(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # SSLError is one
        raise UsageError(tr("{path}: no certificates: {reason}", path=path, reason=error.strerror or error)) from error


@functools.cache
def _logins(path: Path) -> dict[str, tuple[str, str]]:
    """User and password by host, without the `default` entry: it would go to every mirror there is.

    A file that cannot be read is none, as for pip.
    """
    try:
        hosts = netrc.netrc(path).hosts
    except (OSError, UnicodeError, netrc.NetrcParseError):
        return {}
    named = {host: (user, password or "") for host, (user, _, password) in hosts.items() if host != "default"}
    return {host: login for host, login in named.items() if any(login)}
