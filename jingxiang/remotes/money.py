"""What costs money is said, with how much as far as that is known, and agreed to first."""

from __future__ import annotations

import sys

from jingxiang import console
from jingxiang.deploy_plan import BAD_CHECK, DeployError, Order, command
from jingxiang.language import tr


def agreed(order: Order, address: str, text: str) -> None:
    """Ask, unless --yes has answered. Raises `DeployError` for a no, and where nobody is there to be asked."""
    console.line("price", text)
    if order.agrees:
        return
    hint = (command("deploy", address, "--yes"),)
    if not sys.stdin.isatty():
        raise DeployError(BAD_CHECK, tr("{address}: this costs money: --yes agrees to it", address=address), hint)
    console.line("ask", tr("go on? [y/N]"))
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise DeployError(BAD_CHECK, tr("{address}: nothing was rented", address=address))
