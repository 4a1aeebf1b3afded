"""Requests to one registry, with the logins that it wants to see.

https://distribution.github.io/distribution/spec/auth/token/ and …/auth/oauth/
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import urllib.parse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from types import MappingProxyType

from jingxiang import __version__, base_images
from jingxiang.errors import JingxiangError
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.flow import Flow
from jingxiang.fetch.network import PORTS
from jingxiang.fetch.sending import Answer, Stream
from jingxiang.language import tr

HUB = "registry-1.docker.io"  # where the registry of docker.io answers
# Registries in object stores move what they have got before they answer.
PATIENCE_S = 120.0
# Before the same small request is sent again.
PAUSES_S = (0.5, 2.0)
LONGEST_PAUSE_S = 30.0
BUSY = frozenset({429, 502, 503, 504})
WORDS = 300  # characters of what a registry says
CHALLENGE = re.compile(r'(?i)\b(bearer|basic)\b(?!\s*=)((?:\s*,?\s*\w+\s*=\s*(?:"[^"]*"|[^\s",]+))*)')
PARAMETER = re.compile(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s",]+))')
TOKEN = re.compile(r"[!-~]+")  # what a header can hold
NONE: Mapping[str, str] = MappingProxyType({})

Scopes = tuple[str, ...]  # what a token is for, as in `repository:NAME:pull,push`


class RegistryError(JingxiangError):
    """A registry did not do what it was asked for."""


class Unreachable(RegistryError):
    """It does not answer, or the connection to it broke."""

    def __init__(self, host: str, reason: str) -> None:
        self.reason = reason
        super().__init__(
            tr("registry {host} cannot be reached: {reason}", host=host, reason=reason),
            hints=(f"curl -v {base_images.scheme(host)}://{host}/v2/",),
        )


class Denied(RegistryError):
    """It does not let us in, or not there."""

    def __init__(self, host: str, repository: str, reason: str) -> None:
        super().__init__(
            tr("registry {host} does not let you push to {repository}: {reason}", host=host, repository=repository,
               reason=reason),
            hints=(f"docker login {host}",),
        )  # fmt: skip


class Refused(RegistryError):
    """Any other answer than the right one. `status`: of HTTP."""

    def __init__(self, host: str, what: str, status: int, reason: str) -> None:
        self.status = status
        hints = {
            404: tr("create the repository there first, if this registry wants that"),
            413: tr("a proxy before the registry limits how large a request may be (nginx: client_max_body_size)"),
        }
        if status in BUSY or status >= 500:
            hints[status] = tr("do it again later: layers that have arrived are not sent again")
        super().__init__(
            tr(
                "registry {host}: {what}: {status} {reason}", host=host, what=what, status=status, reason=reason
            ).rstrip(),
            hints=(hints[status],) if status in hints else (),
        )


class Renewed(Exception):
    """A stream was not taken because there was no login yet, or none that still counts; now there is one."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class NoCredentials(RegistryError):
    """Docker's file with logins, or the program that keeps them, cannot be used."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(
            tr("the login for registry {host} cannot be read: {reason}", host=host, reason=reason),
            hints=(f"docker login {host}",),
        )


@dataclass(frozen=True)
class Credentials:
    """Who we are at a registry: user and password, or a token that others can be had for; empty for nobody."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of Authorization, by RFC 7617; empty without a user."""
        if not self.user:
            return ""
        return f"Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


def of_docker(host: str) -> Credentials:
    """What `docker login HOST` has left, in its file or with its helpers. Raises `NoCredentials`."""
    from docker import auth
    from docker.errors import DockerException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a helper that is missing is an error, too
            found = auth.resolve_authconfig(auth.load_config(), host) or {}
    except (DockerException, ValueError, TypeError, AttributeError) as error:
        raise NoCredentials(host, _plain(str(error))) from error
    values = {str(name).lower(): str(value or "") for name, value in found.items()}
    return Credentials(values.get("username", ""), values.get("password", ""), values.get("identitytoken", ""))


class Access:
    """Requests to a registry from any number of threads. Tokens are kept, and renewed when it wants that.

    `credentials`: asked for when the registry first wants to know who we are. Nothing is shown to other hosts, but to
    the token server that the registry names.
    """

    def __init__(self, client: Client, host: str, credentials: Callable[[str], Credentials] = of_docker) -> None:
        self.host = host
        self.base = f"{base_images.scheme(host)}://{HUB if host == base_images.HUB else host}"
        self._client = client
        self._find = credentials
        self._found: Credentials | None = None
        self._basic = ""
        self._tokens: dict[Scopes, str] = {}
        self._lock = threading.Lock()

    def ask(
        self,
        method: str,
        url: str,
        scopes: Scopes,
        *,
        headers: Mapping[str, str] = NONE,
        body: bytes | Stream | None = None,
        patience_s: float = PATIENCE_S,
        flow: Flow | None = None,
    ) -> Answer:
        """The answer, whatever its status; of `url`, which may be a path.

        401 means that there is no way in. Raises `Unreachable`, also when `flow` is cut, and `Renewed` if only a login
        was missing for a stream, which cannot be sent twice.
        """
        url = urllib.parse.urljoin(self.base, url)
        own = _place(url) == _place(self.base)

        def sent(authorization: str) -> Answer:
            return self._steady(
                lambda: self._client.send(
                    method, url, headers=headers, body=body, authorization=authorization, patience_s=patience_s,
                    flow=flow,
                ),
                again=not isinstance(body, Stream),
            )  # fmt: skip

        shown = self._shown(scopes) if own else ""
        answer = sent(shown)
        if answer.status != 401 or not own or not self._log_in(answer, scopes, shown):
            return answer
        if isinstance(body, Stream):
            raise Renewed(answer)
        return sent(self._shown(scopes))

    def follow(self, answer: Answer, what: str) -> str:
        """Where an answer leads to. Raises `Refused` if that is nowhere, or not encrypted although the registry is."""
        try:
            url = urllib.parse.urljoin(answer.url, answer.headers.get("Location") or "")
            scheme = urllib.parse.urlsplit(url).scheme if answer.headers.get("Location") else ""
        except ValueError:
            scheme = ""
        if scheme != "https" and scheme != urllib.parse.urlsplit(self.base).scheme:
            raise Refused(self.host, what, answer.status, tr("without an address to go on at"))
        return url

    def _steady(self, send: Callable[[], Answer], *, again: bool) -> Answer:
        """Repeat what can be repeated, if the connection breaks or the registry is busy."""
        pauses = list(PAUSES_S) if again else []
        while True:
            try:
                answer = send()
                if answer.status not in BUSY or not pauses:
                    return answer
                wait_s = pause(answer)
            except Fault as fault:
                if fault.kind is not Kind.CUT or not pauses:
                    raise Unreachable(self.host, fault.text) from fault
                wait_s = 0.0
            time.sleep(max(wait_s, pauses.pop(0)))

    def _shown(self, scopes: Scopes) -> str:
        token = self._tokens.get(scopes)
        return f"Bearer {token}" if token else self._basic

    def _log_in(self, answer: Answer, scopes: Scopes, shown: str) -> bool:
        """Get what the registry wants to see; whether that is something else than it has seen already."""
        with self._lock:
            if self._shown(scopes) != shown:  # another thread was faster
                return True
            wanted = challenges(answer.headers)
            if "bearer" in wanted:
                self._tokens[scopes] = self._granted(wanted["bearer"], scopes)
                return True
            if "basic" in wanted and (basic := self._credentials().basic) and basic != shown:
                self._basic = basic
                return True
            return False

    def _credentials(self) -> Credentials:
        if self._found is None:
            self._found = self._find(self.host)
        return self._found

    def _granted(self, wanted: Mapping[str, str], scopes: Scopes) -> str:
        """A token of the token server. Raises `Denied` or `Unreachable`."""
        realm, ours = wanted.get("realm", ""), self._credentials()
        repository = scopes[0].split(":")[1]
        if _place(realm)[0] not in {"https", urllib.parse.urlsplit(self.base).scheme}:
            raise Denied(self.host, repository, tr("its token server {realm} is not encrypted", realm=_plain(realm)))
        asked = [("service", wanted["service"])] if "service" in wanted else []
        kinds = {scope.rpartition(":")[0] for scope in scopes}
        others = [each for each in wanted.get("scope", "").split() if each.rpartition(":")[0] not in kinds]
        if ours.token:
            asked += [("grant_type", "refresh_token"), ("client_id", f"jingxiang-{__version__}"),
                      ("scope", " ".join((*scopes, *others))), ("refresh_token", ours.token)]  # fmt: skip
            answer = self._token_server("POST", realm, urllib.parse.urlencode(asked).encode(), "")
        else:
            query = urllib.parse.urlencode([*asked, *(("scope", each) for each in (*scopes, *others))])
            url = f"{realm}{'&' if '?' in realm else '?'}{query}"
            answer = self._token_server("GET", url, None, ours.basic)
        try:
            values = json.loads(answer.body) if answer.good else {}
            token = values.get("token") or values.get("access_token")
        except (ValueError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not TOKEN.fullmatch(token):
            reason = (
                f"{answer.status} {said(answer)}" if not answer.good else tr("its token server does not give a token")
            )
            raise Denied(self.host, repository, reason)
        return token

    def _token_server(self, method: str, url: str, body: bytes | None, authorization: str) -> Answer:
        headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else NONE
        return self._steady(
            lambda: self._client.send(method, url, headers=headers, body=body, authorization=authorization), again=True
        )


def challenges(headers: Message) -> dict[str, dict[str, str]]:
    """What WWW-Authenticate asks for, by its kind in lower case (RFC 9110, section 11.6.1)."""
    found: dict[str, dict[str, str]] = {}
    for kind, parameters in CHALLENGE.findall(", ".join(headers.get_all("WWW-Authenticate") or ())):
        values = {name.lower(): quoted or plain for name, quoted, plain in PARAMETER.findall(parameters)}
        found.setdefault(kind.lower(), values)
    return found


def errors(answer: Answer) -> list[dict[str, object]]:
    """The errors that a registry lists in the body of its answer; none in other bodies."""
    try:
        listed = json.loads(answer.body)["errors"]
        return [each for each in listed if isinstance(each, dict)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def said(answer: Answer) -> str:
    """In the registry's own words why it says no, for a terminal."""
    parts = [
        ": ".join(str(each[key]) for key in ("code", "message", "detail") if each.get(key) and each[key] != {})
        for each in errors(answer)
    ]
    return _plain("; ".join(filter(None, parts)) or answer.reason)


def pause(answer: Answer) -> float:
    """Seconds that an answer asks for before the next request (Retry-After), within reason."""
    text = (answer.headers.get("Retry-After") or "").strip()
    return min(float(text), LONGEST_PAUSE_S) if text.isdecimal() else 0.0


def _place(url: str) -> tuple[str, str, int]:
    """Scheme, host and port; of what is no address, nothing."""
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:  # brackets without an address in them, a port that is no number
        return "", "", 0


def _plain(words: str) -> str:
    return "".join(filter(str.isprintable, words))[:WORDS].strip()
