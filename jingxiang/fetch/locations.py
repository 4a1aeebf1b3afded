"""The address of an artifact at a source, with what has to be shown there: a look into its index, a token."""

from __future__ import annotations

import json
import re
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

from jingxiang.errors import UsageError
from jingxiang.fetch import artifacts
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.client import Client
from jingxiang.fetch.faults import Fault, Kind
from jingxiang.fetch.indexes import Indexes
from jingxiang.language import tr
from jingxiang.mirrors import Source

TOKEN_S = 6.0
TOKEN = re.compile(r"[!-~]+")  # what a header can hold
PARAMETER = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Location:
    """`authorization` is for the host of `url` alone."""

    url: str
    authorization: str = field(default="", repr=False)


class Locations:
    """`tokens`: by space, what the user proves himself with. It is shown only to sources with `send_token`."""

    def __init__(self, client: Client, indexes: Indexes, tokens: Mapping[str, str]) -> None:
        self._client = client
        self._indexes = indexes
        self._tokens = {space: _checked(space, token.strip()) for space, token in tokens.items()}
        self._granted: dict[tuple[str, str], str] = {}  # (mirror, image): token of a registry, which anybody may have
        self._lock = threading.Lock()

    def of(self, source: Source, artifact: Artifact) -> Location:
        """Raises `Fault` if the source does not have it, as far as can be told without asking for it."""
        url = artifacts.address(source, artifact)
        if not url:  # an index may link to any host: nothing is shown there
            listed = self._indexes.file(source, artifact.group, artifact.build, artifact.name, artifact.hashes)
            return Location(listed.url)
        if granted := self._granted.get((source.mirror, artifact.group)):
            return Location(url, f"Bearer {granted}")
        token = self._tokens.get(artifact.space, "") if source.send_token else ""
        return Location(url, f"Bearer {token}" if token else "")

    def challenged(self, source: Source, artifact: Artifact, fault: Fault) -> Location:
        """What to ask after a registry has said 401, see `granted`."""
        if artifact.space != "oci":
            raise fault
        token = granted(self._client, fault)
        with self._lock:
            self._granted[source.mirror, artifact.group] = token
        return self.of(source, artifact)


def granted(client: Client, fault: Fault) -> str:
    """The token that the token server of a registry that has said 401 gives to anybody.

    https://distribution.github.io/distribution/spec/auth/token/. Raises `fault` again if there is no way in.
    """
    scheme, _, rest = fault.challenge.partition(" ")
    asked = dict(PARAMETER.findall(rest))
    realm = asked.pop("realm", "")
    if scheme.lower() != "bearer" or not realm.startswith(("https://", "http://")):
        raise fault
    query = urllib.parse.urlencode({name: value for name, value in asked.items() if name in ("service", "scope")})
    page = client.page(f"{realm}{'&' if '?' in realm else '?'}{query}" if query else realm, seconds=TOKEN_S)
    if token := _token(page.body):
        return token
    raise fault


def _token(body: bytes) -> str:
    """What a token server gives; empty if it gives none."""
    try:
        answer = json.loads(body)
        token = answer.get("token") or answer.get("access_token") or ""
    except (ValueError, AttributeError, RecursionError):
        token = None
    if not isinstance(token, str) or (token and not TOKEN.fullmatch(token)):
        raise Fault(Kind.PAGE, tr("its token server does not give a token"))
    return token


def _checked(space: str, token: str) -> str:
    if token and not TOKEN.fullmatch(token):
        raise UsageError(tr("the token for {space} has characters that no token has", space=space))
    return token
