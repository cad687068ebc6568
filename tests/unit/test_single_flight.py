"""One task per object at a time, and no wake lost."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.reconcile.objects import Key
from hoop_operator.reconcile.single import SingleFlight

KEY = Key("shop", "ro")
OTHER = Key("shop", "rw")


class Step:
    """A step that waits to be let through, and remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[Key, str]] = []
        self.under_way: list[Key] = []
        self.gate = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self, key: Key, trigger: str) -> None:
        assert key not in self.under_way
        self.calls.append((key, trigger))
        self.under_way.append(key)
        await self.gate.wait()
        self.under_way.remove(key)
        if self.failure is not None:
            raise self.failure


def no_retry(key: Key, trigger: str) -> None:
    raise AssertionError(f"{key} is retried")


async def turns_of_the_loop(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_different_keys_run_at_the_same_time() -> None:
    step = Step()
    flight = SingleFlight(step, no_retry)
    flight.wake(KEY, "spec")
    flight.wake(OTHER, "spec")
    await turns_of_the_loop()
    assert step.under_way == [KEY, OTHER]
    await flight.close()


async def test_a_key_woken_while_under_way_runs_once_more_with_the_latest_trigger() -> None:
    step = Step()
    flight = SingleFlight(step, no_retry)
    flight.wake(KEY, "spec")
    await turns_of_the_loop()
    flight.wake(KEY, "secret")
    flight.wake(KEY, "drift")
    step.gate.set()
    await turns_of_the_loop()
    assert step.calls == [(KEY, "spec"), (KEY, "drift")]
    assert not step.under_way


async def test_a_key_that_has_ended_can_be_woken_again() -> None:
    step = Step()
    step.gate.set()
    flight = SingleFlight(step, no_retry)
    for _ in range(2):
        flight.wake(KEY, "spec")
        await turns_of_the_loop()
    assert step.calls == [(KEY, "spec")] * 2


async def test_a_step_that_raises_is_retried_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    step = Step()
    step.gate.set()
    step.failure = RuntimeError("surprise")
    retried: list[tuple[Key, str]] = []
    flight = SingleFlight(step, lambda key, trigger: retried.append((key, trigger)))
    flight.wake(KEY, "spec")
    await turns_of_the_loop()
    assert retried == [(KEY, "spec")]
    assert "surprise" in caplog.text
    step.failure = None
    flight.wake(KEY, "retry")
    await turns_of_the_loop()
    assert step.calls == [(KEY, "spec"), (KEY, "retry")]


async def test_what_was_woken_while_a_step_failed_still_runs() -> None:
    step = Step()
    step.failure = RuntimeError("surprise")
    flight = SingleFlight(step, lambda *_: None)
    flight.wake(KEY, "spec")
    await turns_of_the_loop()
    flight.wake(KEY, "secret")
    step.gate.set()
    await turns_of_the_loop()
    assert step.calls == [(KEY, "spec"), (KEY, "secret")]


async def test_closing_ends_what_is_under_way_and_begins_nothing_any_more() -> None:
    step = Step()
    flight = SingleFlight(step, no_retry)
    flight.wake(KEY, "spec")
    await turns_of_the_loop()
    await flight.close()
    step.gate.set()
    await turns_of_the_loop()
    flight.wake(KEY, "late")
    await turns_of_the_loop()
    assert step.under_way == [KEY]  # it never came as far as leaving
    assert step.calls == [(KEY, "spec")]


@given(st.lists(st.sampled_from(["wake", "let run"]), max_size=30))
def test_every_wake_is_followed_by_a_whole_run(script: list[str]) -> None:
    async def play() -> None:
        begun: list[int] = []
        wakes = 0

        async def step(_: Key, __: str) -> None:
            begun.append(wakes)
            await asyncio.sleep(0)

        flight = SingleFlight(step, no_retry)
        for act in script:
            if act == "wake":
                wakes += 1
                flight.wake(KEY, "spec")
            else:
                await asyncio.sleep(0)
        await turns_of_the_loop(100)
        assert not wakes or begun[-1] == wakes
        assert len(begun) <= wakes

    asyncio.run(play())
