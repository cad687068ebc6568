"""At most one task per object, and none lost: what is woken while it is being seen to is seen to again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from hoop_operator.reconcile.objects import Key

logger = logging.getLogger(__name__)


class SingleFlight:
    """Runs a step for keys, many keys at once but never one key twice at once.

    Parameters
    ----------
    step
        Called with a key and what woke it.
    retry
        Called in the same way after a step that raised; to wake the key again later.
    """

    def __init__(
        self, step: Callable[[Key, str], Awaitable[None]], retry: Callable[[Key, str], None]
    ) -> None:
        self._step = step
        self._retry = retry
        self._again: dict[Key, str | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def wake(self, key: Key, trigger: str) -> None:
        """Have the step run for a key, soon; never once this is closed."""
        if self._closed:
            return
        if key in self._again:
            self._again[key] = trigger
            return
        self._again[key] = None
        task = asyncio.create_task(self._run(key, trigger))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel what is under way, and begin nothing any more."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: Key, trigger: str) -> None:
        try:
            while True:
                try:
                    await self._step(key, trigger)
                except Exception:
                    logger.exception("Seeing to %s failed in a way that nobody foresaw", key)
                    self._retry(key, trigger)
                following = self._again[key]
                if following is None:
                    return
                self._again[key] = None
                trigger = following
        finally:
            del self._again[key]
