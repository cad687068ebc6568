"""What is to happen later: one timer for each thing, and pauses that grow while it keeps failing."""

import asyncio
import math
from collections.abc import Callable, Hashable

PAUSE_SECONDS_MIN = 1.0
TOGETHER_SECONDS = 5.0
"""Pauses from this length on end at the next multiple of themselves that is at least so far away: all that has failed
for long is tried again at one moment, in one look, whenever it began to fail."""


class Clock:
    """Timers by name; setting one anew replaces it."""

    def __init__(self, pause_seconds_max: float) -> None:
        self._pause_seconds_max = pause_seconds_max
        self._timers: dict[Hashable, asyncio.TimerHandle] = {}
        self._failures: dict[Hashable, int] = {}

    def retry(self, name: Hashable, action: Callable[[], None]) -> None:
        """Do something again after a pause, twice as long with every failure in a row, up to the limit."""
        failures = self._failures.get(name, 0)
        self._failures[name] = failures + 1
        pause = min(PAUSE_SECONDS_MIN * 2.0 ** min(failures, 16), self._pause_seconds_max)
        loop = asyncio.get_running_loop()
        if pause >= TOGETHER_SECONDS:
            due = math.ceil((loop.time() + TOGETHER_SECONDS) / pause) * pause
            pause = due - loop.time()
        self.after(name, pause, action)

    def is_failing(self, name: Hashable) -> bool:
        """Whether it failed when it was tried last."""
        return name in self._failures

    def after(self, name: Hashable, seconds: float, action: Callable[[], None]) -> None:
        """Do something once, later."""
        self.cancel(name)
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, self._ring, name, action)

    def settle(self, name: Hashable) -> None:
        """It worked: the next failure starts with the shortest pause again."""
        self._failures.pop(name, None)
        self.cancel(name)

    def cancel(self, name: Hashable) -> None:
        """Let a timer never ring."""
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()

    def stop(self) -> None:
        """Let no timer ring any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _ring(self, name: Hashable, action: Callable[[], None]) -> None:
        self._timers.pop(name, None)
        action()
