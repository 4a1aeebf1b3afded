"""Connections to hosts: few at a time to each, and used again."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections import Counter

PER_HOST = 4  # connections
Route = tuple[str, str, int]  # scheme, host, port


class Connection:
    """A connection and its place among those to its host."""

    def __init__(self, hosts: Hosts, route: Route, line: http.client.HTTPConnection) -> None:
        self.route = route
        self.line = line
        self.socket: socket.socket | None = None
        # A second handle of the socket, to shut it down by: TLS takes the first one away while it shakes hands.
        self.handle: socket.socket | None = None
        self._hosts = hosts

    def leave(self, *, keep: bool) -> None:
        if not keep:
            self.close()
        self._hosts.leave(self, keep=keep)

    def close(self) -> None:
        self.line.close()
        if self.handle:
            self.handle.close()
        # After a proxy has refused, http.client before Python 3.11.4 keeps it open until it is collected as garbage.
        if self.socket and (descriptor := self.socket.detach()) >= 0:
            os.close(descriptor)


class Hosts:
    """At most so many connections to a host at a time; those that are idle are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._busy: Counter[tuple[str, int]] = Counter()
        self._idle: list[Connection] = []
        self._closed = False
        self._changed = threading.Condition()

    def free(self, host: str, port: int) -> bool:
        return self._busy[host, port] < self._limit

    def enter(self, route: Route) -> Connection | None:
        """Wait until one more may be had; the idle one, if there is one, or None: make one."""
        _, host, port = route
        with self._changed:
            self._changed.wait_for(lambda: self.free(host, port))
            self._busy[host, port] += 1
            found = next((each for each in self._idle if each.route == route), None)
            if found:
                self._idle.remove(found)
        return found

    def leave(self, connection: Connection, *, keep: bool) -> None:
        _, host, port = connection.route
        with self._changed:
            self._busy[host, port] -= 1
            if keep and self._closed:
                connection.close()
            elif keep:
                self._idle.append(connection)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for connection in self._idle:
                connection.close()
            self._idle.clear()
