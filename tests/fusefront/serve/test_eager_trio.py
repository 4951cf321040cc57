"""Waiting for requests leaves everybody else a turn."""

from __future__ import annotations

import os

import trio

from minifo.fusefront.serve.eager_trio import EagerLowlevel


def test_others_get_a_turn_where_there_is_always_a_request() -> None:
    """In plain mode too, where the hook counts no requests: whatever it says, every 64th wait is a real one."""
    reader, writer = os.pipe()
    os.write(writer, b"x")
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def requests() -> int:
        lowlevel = EagerLowlevel(lambda fd: True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            for _ in range(640):
                await lowlevel.wait_readable(reader)
            seen = turns
            nursery.cancel_scope.cancel()
        return seen

    try:
        assert trio.run(requests) > 5
    finally:
        os.close(reader)
        os.close(writer)
