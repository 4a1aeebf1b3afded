"""What was asked for, where the rest is the work of a cluster or of SkyPilot: said before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator

from jingxiang import passwords
from jingxiang.deploy_plan import AUTO, PAGE, SSH, TLS, Order
from jingxiang.errors import UsageError
from jingxiang.findings import NOTE, PROBLEM, Finding
from jingxiang.language import tr


def logins(order: Order) -> Iterator[Finding]:
    """The app would end over such a file, again and again."""
    if order.passwords is not None:
        try:
            passwords.read(order.passwords)
        except UsageError as error:
            yield Finding("passwords", PROBLEM, error.message)


def unheeded(order: Order, *flags: str) -> Iterator[Finding]:
    """Those of the flags that were given, and mean nothing there."""
    given = {
        "--strategy": order.strategy != AUTO,
        "--transfer": order.transfer == SSH,
        "--registry": bool(order.registry),
        "--port": order.front.port not in (PAGE, TLS),
    }
    if found := [flag for flag in flags if given[flag]]:
        yield Finding("flags", NOTE, tr("of no use with this target: {flags}", flags=", ".join(found)))
