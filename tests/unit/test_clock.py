"""When things happen later, on an event loop whose time is the test's."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.reconcile.clock import TOGETHER_SECONDS, Clock

LIMIT = 30.0


class Loop:
    """The part of an event loop that a clock uses, with a time that only `advance` moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._timers: list[tuple[float, asyncio.TimerHandle]] = []
        self._real = asyncio.new_event_loop()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        due = self.now + delay
        handle = asyncio.TimerHandle(due, callback, args, self._real)
        self._timers.append((due, handle))
        return handle

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [entry for entry in self._timers if entry[0] <= until]:
            first = min(due, key=lambda entry: entry[0])
            self._timers.remove(first)
            self.now = first[0]
            if not first[1].cancelled():
                first[1]._run()
        self.now = until

    def close(self) -> None:
        self._real.close()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    made = Loop()
    monkeypatch.setattr("hoop_operator.reconcile.clock.asyncio.get_running_loop", lambda: made)
    yield made
    made.close()


def pauses_of(loop: Loop, clock: Clock, name: str, failures: int) -> list[float]:
    """Fail that often, and return how long each time it took until the next attempt."""
    pauses = []
    rang: list[float] = []
    for _ in range(failures):
        began = loop.now
        clock.retry(name, lambda: rang.append(loop.now))
        loop.advance(10 * LIMIT)
        pauses.append(rang[-1] - began)
    return pauses


def test_pauses_double_up_to_the_limit(loop: Loop) -> None:
    pauses = pauses_of(loop, Clock(LIMIT), "plan", 10)
    assert pauses[:3] == [1, 2, 4]
    assert all(TOGETHER_SECONDS <= pause < LIMIT + TOGETHER_SECONDS for pause in pauses[3:])


def test_a_success_starts_over_with_the_shortest_pause(loop: Loop) -> None:
    clock = Clock(LIMIT)
    pauses_of(loop, clock, "plan", 6)
    clock.settle("plan")
    assert pauses_of(loop, clock, "plan", 1) == [1]


def test_a_success_cancels_the_attempt_that_was_due(loop: Loop) -> None:
    clock = Clock(LIMIT)
    rang: list[str] = []
    clock.retry("plan", lambda: rang.append("plan"))
    clock.settle("plan")
    loop.advance(100)
    assert not rang


def test_the_failures_of_one_thing_do_not_slow_another(loop: Loop) -> None:
    clock = Clock(LIMIT)
    pauses_of(loop, clock, "broken", 8)
    assert pauses_of(loop, clock, "new", 1) == [1]


def test_setting_a_timer_anew_replaces_it(loop: Loop) -> None:
    clock = Clock(LIMIT)
    rang: list[str] = []
    clock.after("drift", 10, lambda: rang.append("first"))
    loop.advance(5)
    clock.after("drift", 10, lambda: rang.append("second"))
    loop.advance(100)
    assert rang == ["second"]


def test_a_timer_may_set_itself_anew(loop: Loop) -> None:
    clock = Clock(LIMIT)
    rang: list[float] = []

    def ring() -> None:
        rang.append(loop.now)
        clock.after("drift", 10, ring)

    clock.after("drift", 10, ring)
    loop.advance(35)
    assert len(rang) == 3


def test_nothing_rings_after_a_stop(loop: Loop) -> None:
    clock = Clock(LIMIT)
    rang: list[str] = []
    clock.after("drift", 1, lambda: rang.append("drift"))
    clock.retry("plan", lambda: rang.append("plan"))
    clock.stop()
    loop.advance(100)
    assert not rang


@given(st.lists(st.floats(min_value=0, max_value=1000), min_size=2, max_size=20))
def test_what_has_failed_for_long_is_tried_again_at_one_moment_whenever_it_began(
    offsets: list[float],
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        loop = Loop()
        patched.setattr("hoop_operator.reconcile.clock.asyncio.get_running_loop", lambda: loop)
        clock = Clock(LIMIT)
        rang: list[float] = []

        def fail(name: str) -> None:
            rang.append(loop.now)
            clock.retry(name, lambda: fail(name))

        for number, offset in enumerate(sorted(offsets)):
            loop.advance(1000 + offset - loop.now)
            fail(f"plan {number}")
        loop.advance(10 * LIMIT)
        rang.clear()
        loop.advance(10 * LIMIT)
        loop.close()
        assert len(rang) == 10 * len(offsets)
        assert len({round(moment, 3) for moment in rang}) == 10
