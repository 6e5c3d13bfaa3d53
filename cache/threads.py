"""Blocking work off the loop, in a way that survives cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def off_loop(executor: Executor, function: Callable[..., T], *arguments: object) -> T:
    """Runs `function` in a thread and waits for its end, also when the caller is cancelled meanwhile:
    a thread cannot be stopped, and the descriptor that it writes to must not be closed under it."""
    work = asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:
                continue
        if not work.cancelled():
            work.exception()  # what went wrong in the thread ends with the cancellation
        raise
