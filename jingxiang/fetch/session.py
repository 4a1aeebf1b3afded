"""One run of fetching: the sources in their order, and all that is learnt of them on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType, TracebackType

from jingxiang.fetch import indexes, network
from jingxiang.fetch.artifacts import Artifact
from jingxiang.fetch.client import Client
from jingxiang.fetch.engine import Engine, Show
from jingxiang.fetch.indexes import Indexes
from jingxiang.fetch.locations import Locations
from jingxiang.fetch.report import Report
from jingxiang.fetch.resolve import Resolver, Target
from jingxiang.fetch.schedule import Patience
from jingxiang.fetch.standings import Standings
from jingxiang.locks import LockedPackage
from jingxiang.mirrors import Source
from jingxiang.store import Store

PATIENCE = Patience()
NONE: Mapping[str, str] = MappingProxyType({})


class Session:
    """`orders`: by space, the sources to ask. `settings`: pip's, which are what `official` means, too. `tokens`: by
    space, for sources that may see them."""

    def __init__(
        self,
        store: Store,
        orders: Mapping[str, Sequence[Source]],
        settings: Mapping[str, str] = NONE,
        tokens: Mapping[str, str] = NONE,
        patience: Patience = PATIENCE,
    ) -> None:
        self._store = store
        self._patience = patience
        self._client = Client(network.of(settings))
        self._standings = Standings(orders)
        self._indexes = Indexes(self._client, indexes.configured(settings))
        self._locations = Locations(self._client, self._indexes, tokens)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def resolve(
        self, packages: Sequence[LockedPackage], target: Target, show: Callable[[int], None] = lambda done: None
    ) -> tuple[Artifact, ...]:
        """See `Resolver.resolve`."""
        return Resolver(self._indexes, self._standings, target).resolve(packages, show)

    def fetch(self, wanted: Iterable[Artifact], show: Show = lambda progress: None) -> Report:
        """See `Engine.run`."""
        return Engine(self._store, self._client, self._locations, self._standings, self._patience).run(wanted, show)
