"""Time and order in the hands of a test: an event loop that never waits, and gates that are opened one by one.

Everything that an operator does outside of itself passes gates. What is parked at one has been decided and not done
yet, or done and not heard of yet. Whoever opens the gates decides what happens first; whoever kills an operator decides
that it never happens.
"""

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

LIFE: ContextVar["Life | None"] = ContextVar("LIFE", default=None)
"""The operator on whose behalf something runs; tasks and timers inherit it from who made them."""

INSTANT = 1e-6
"""Seconds; what is due within them is due now."""


class Life:
    """One process of an operator, as long as it lives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.leading = True
        """Whether it takes itself for the leader."""
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.own: list[asyncio.Task[Any]] = []
        """Tasks that are to be kept alive as long as the process."""
        self.ends: list[Callable[[], None]] = []
        """What the world does when the process is gone, such as rolling back its transactions."""


class _NothingToWaitFor(selectors.SelectSelector):
    """Instead of waiting, ends the loop's run and notes for how long it would have waited."""

    loop: "StillLoop"
    pause: float | None = None

    def select(self, timeout: float | None = None) -> list[Any]:
        """Find nothing."""
        if timeout is None or timeout > INSTANT:
            self.pause = timeout
            self.loop.stop()
        return []


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop in which time passes only when `pass_time` says so, and threads do their work at once."""

    def __init__(self) -> None:
        self._now = 0.0
        self._idle = _NothingToWaitFor()
        super().__init__(self._idle)
        self._idle.loop = self
        self.set_task_factory(_make_task)
        self.failures: list[str] = []
        self.set_exception_handler(lambda _, context: self.failures.append(str(context)))

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now

    def run_until_idle(self) -> None:
        """Run everything that can run without a gate or the clock."""
        self.run_forever()

    @property
    def next_timer(self) -> float | None:
        """When the next timer is due; None where there is none."""
        return None if self._idle.pause is None else self._now + self._idle.pause

    def pass_time(self) -> None:
        """Jump to the next timer and run what it sets going."""
        assert self._idle.pause is not None, "no timer is set"
        self._now += self._idle.pause
        self.run_until_idle()

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Set a timer, which does not ring for the dead."""
        life = LIFE.get()

        def ring() -> None:
            if life is None or not life.dead:
                callback(*args)

        return super().call_at(when, ring, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Arguments]], T], *args: *Arguments
    ) -> asyncio.Future[T]:
        """Do the work at once: what a thread computes for an operator is nothing that the world would see."""
        del executor
        future: asyncio.Future[T] = self.create_future()
        future.set_result(func(*args))
        return future


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T], **more: Any
) -> asyncio.Task[T]:
    task: asyncio.Task[T] = asyncio.Task(coroutine, loop=loop, **more)
    life = LIFE.get()
    if life is not None:
        life.tasks[task] = None
        task.add_done_callback(life.tasks.pop)
        if life.dead:
            task.cancel()
    return task


@dataclass(eq=False)
class Gate:
    """Where something that an operator does is parked."""

    life: Life
    what: str
    fault: Callable[[], Exception] | None
    """What the operator meets when the way to the server breaks here; None where nothing can break."""
    opened: asyncio.Future[None]

    def __str__(self) -> str:
        return f"{self.life.name}: {self.what}"


@dataclass
class Schedule:
    """The gates at which something is parked, in the order in which it came."""

    loop: StillLoop = field(default_factory=StillLoop)
    parked: list[Gate] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)

    async def gate(self, what: str, fault: Callable[[], Exception] | None = None) -> None:
        """Wait until the gate is opened; for the dead none opens."""
        life = LIFE.get()
        if life is None:
            return
        if life.dead:
            raise asyncio.CancelledError
        gate = Gate(life, what, fault, self.loop.create_future())
        self.parked.append(gate)
        try:
            await gate.opened
        finally:
            if gate in self.parked:
                self.parked.remove(gate)
        if life.dead:
            raise asyncio.CancelledError

    def open(self, gate: Gate) -> None:
        """Let one thing happen, and all that follows from it up to further gates."""
        self.trace.append(str(gate))
        self.parked.remove(gate)
        gate.opened.set_result(None)
        self.loop.run_until_idle()

    def lose(self, gate: Gate) -> None:
        """Break the way to the server here: the request does not arrive, or its answer does not."""
        assert gate.fault is not None
        self.trace.append(f"{gate} IS LOST")
        self.parked.remove(gate)
        gate.opened.set_exception(gate.fault())
        self.loop.run_until_idle()

    def begin(self, life: Life | None, step: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin something on somebody's behalf."""
        context = contextvars.copy_context()
        context.run(LIFE.set, life)
        task: asyncio.Task[T] = context.run(self.loop.create_task, step)
        self.loop.run_until_idle()
        return task

    def do(self, life: Life | None, action: Callable[[], object]) -> None:
        """Do something at once, on somebody's behalf."""
        context = contextvars.copy_context()
        context.run(LIFE.set, life)
        self.loop.call_soon(action, context=context)
        self.loop.run_until_idle()

    def kill(self, life: Life) -> None:
        """End a process as SIGKILL does: nothing of it runs on, and nothing that it has sent is unsent."""
        self.trace.append(f"{life.name}: DIES")
        life.dead = True
        for end in life.ends:
            end()
        self.parked = [gate for gate in self.parked if gate.life is not life]
        while life.tasks:
            for task in list(life.tasks):
                task.cancel()
            self.loop.run_until_idle()

    def close(self) -> None:
        """End everything."""
        self.loop.close()
