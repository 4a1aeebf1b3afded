"""Ports of this machine: taking one, and naming who has it."""

from __future__ import annotations

import errno
import ipaddress
import socket

from jingxiang.errors import UsageError
from jingxiang.language import tr


class PortTaken(UsageError):
    """Another program listens there."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            tr("port {port} of {host} is taken by {owner}", port=port, host=host, owner=owner(port)),
            hints=("--port 0",),
        )


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, IPv4 or IPv6 as the host says; port 0 lets the kernel choose."""
    if not 0 <= port <= 65535:
        raise UsageError(tr("port {port} is not between 0 and 65535", port=port))
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: not a host name at all
        reason = getattr(error, "strerror", None) or error
        raise UsageError(tr("no address for host '{host}': {reason}", host=host, reason=reason)) from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(host, port) from error
        text = tr("cannot listen on {host}:{port}: {reason}", host=host, port=port, reason=error.strerror)
        raise UsageError(text) from error
    return listener


def owner(port: int) -> str:
    """The program that listens there, with its pid; other users' programs are only visible to root."""
    import psutil

    for connection in psutil.net_connections(kind="tcp"):
        listens = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port
        if listens and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.NoSuchProcess:
                continue
    return tr("another user's program")


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach what listens on that host. One without an address is reached by
    nobody.
    """
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (socket.gaierror, UnicodeError):
        return True
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
