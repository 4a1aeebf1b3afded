"""A link of its own delay and speed in front of a server: a TCP relay, because not every kernel can shape loopback."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

BLOCK_BYTES = 32 << 10


class Link:
    """`rtt_s` there and back, `bytes_per_s` towards the client, shared by all connections."""

    def __init__(self, upstream: tuple[str, int], rtt_s: float, bytes_per_s: float) -> None:
        self._upstream = upstream
        self._delay_s = rtt_s / 2
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0  # when the link has sent what it was given
        self.port = 0

    async def serve(self, ready: threading.Event, over: asyncio.Event) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await over.wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the end of the relay
            await self._relayed(reader, writer)

    async def _relayed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * self._delay_s)  # the handshake
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.close()
            return
        up = asyncio.create_task(self._pass(reader, up_writer, shaped=False))
        await self._pass(up_reader, writer, shaped=True)
        up.cancel()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, shaped: bool) -> None:
        """Hand bytes on, each after the delay; the next ones are read meanwhile, as much as the link can hold."""
        loop = asyncio.get_running_loop()
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def deliver() -> None:
            while True:
                due, block = await on_the_way.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not block:
                    break
                writer.write(block)
                await writer.drain()

        delivery = asyncio.create_task(deliver())
        with contextlib.suppress(OSError):
            while block := await reader.read(BLOCK_BYTES):
                now = time.monotonic()
                if shaped:
                    self._free_at = max(now, self._free_at) + len(block) / self._bytes_per_s
                    await asyncio.sleep(max(0.0, self._free_at - now))
                await on_the_way.put((loop.time() + self._delay_s, block))
                if delivery.done():
                    break
        if not delivery.done():
            await on_the_way.put((loop.time() + self._delay_s, b""))
        with contextlib.suppress(OSError):
            await delivery
        with contextlib.suppress(OSError):
            writer.close()


@contextlib.contextmanager
def link(upstream: str, *, rtt_s: float, bytes_per_s: float) -> Iterator[str]:
    """The address of a server (`http://HOST:PORT`) at the end of such a link."""
    host, _, port = upstream.removeprefix("http://").partition(":")
    shaped = Link((host, int(port)), rtt_s, bytes_per_s)
    ready, loop, over = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(shaped.serve(ready, over))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    try:
        yield f"http://127.0.0.1:{shaped.port}"
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
