"""How what waits for a server is taken from its inbox; sessions are stood in for."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hoop_operator.credentials.connection import Connection, Endpoint, SslMode
from hoop_operator.errors import ServerUnreachable
from hoop_operator.postgres.session import Limits
from hoop_operator.reconcile import inbox as inbox_module
from hoop_operator.reconcile.clock import Clock
from hoop_operator.reconcile.inbox import PLANS_PER_TURN, Inbox
from hoop_operator.reconcile.objects import Key

ENDPOINT = Endpoint("db.example", 5432)
LIMITS = Limits(sessions=2, connect_seconds=1, lock_seconds=1, statement_seconds=1)
RESOURCE = Key("shop", "db")
CAPABILITIES: Any = object()


def connection(user: str) -> Connection:
    return Connection(*ENDPOINT, user, "secret", "postgres", SslMode.DISABLE, None, None, None, None)


class Server:
    """Stands in for sessions: answers when it is let, or fails."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.silence: ServerUnreachable | None = None
        self.failure_of_knocks: Exception | None = None
        self.knocks = 0
        self.open = 0
        self.most_open = 0
        self.asked: list[str] = []

    @asynccontextmanager
    async def open_sessions(self, who: Connection, *_: Any) -> AsyncIterator["Server"]:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        self.asked.append(who.user)
        try:
            yield self
        finally:
            self.open -= 1

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        await self.gate.wait()
        if failure := self.silence or self.failure:
            raise failure
        yield

    async def knock(self, *_: Any) -> None:
        self.knocks += 1
        if failure := self.silence or self.failure_of_knocks:
            raise failure


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()

    async def read_capabilities(_: None) -> object:
        return CAPABILITIES

    monkeypatch.setattr(inbox_module, "open_sessions", made.open_sessions)
    monkeypatch.setattr(inbox_module, "read_capabilities", read_capabilities)
    monkeypatch.setattr(inbox_module, "knock", made.knock)
    monkeypatch.setattr(inbox_module, "GATHERING_SECONDS", 0)
    return made


class Turns:
    """Takes turns, each when it is let, and remembers them."""

    def __init__(self) -> None:
        self.taken: list[tuple[Key, dict[Key, str]]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = 0
        self.failure: Exception | None = None

    async def __call__(self, resource: Key, waiting: Mapping[Key, str]) -> None:
        self.under_way += 1
        assert self.under_way == 1
        self.taken.append((resource, dict(waiting)))
        try:
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            self.under_way -= 1

    def plans(self) -> list[Key]:
        return [plan for _, waiting in self.taken for plan in waiting]


@pytest.fixture
async def turns() -> Turns:
    return Turns()


@pytest.fixture
def told() -> list[Endpoint]:
    """Servers that were said to be silent no more, or in another way."""
    return []


@pytest.fixture
async def inbox(server: Server, turns: Turns, told: list[Endpoint]) -> AsyncIterator[Inbox]:
    made = Inbox(ENDPOINT, LIMITS, lambda _: True, Clock(0.01), turns, told.append)
    yield made
    await made.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 -- what is awaited is whatever the inbox does, not one event
            await asyncio.sleep(0)


async def test_a_burst_becomes_one_turn(inbox: Inbox, turns: Turns) -> None:
    plans = [Key("shop", f"plan-{number}") for number in range(50)]
    for plan in plans:
        inbox.put(RESOURCE, plan, "spec")
    await until(lambda: len(turns.plans()) == 50)
    assert turns.taken == [(RESOURCE, dict.fromkeys(plans, "spec"))]


async def test_a_plan_that_waits_already_is_carried_out_once(inbox: Inbox, turns: Turns) -> None:
    inbox.put(RESOURCE, Key("shop", "ro"), "spec")
    inbox.put(RESOURCE, Key("shop", "ro"), "drift")
    await until(lambda: bool(turns.taken) and inbox.idle)
    assert turns.taken == [(RESOURCE, {Key("shop", "ro"): "spec"})]


async def test_resources_never_share_a_turn(inbox: Inbox, turns: Turns) -> None:
    resources = [Key("shop", "db"), Key("bank", "db")]
    for resource in resources:
        inbox.put(resource, Key(resource.namespace, "ro"), "spec")
    await until(lambda: len(turns.taken) == 2)
    assert turns.taken == [(resource, {Key(resource.namespace, "ro"): "spec"}) for resource in resources]


async def test_a_large_resource_does_not_keep_a_small_one_waiting_for_all_its_turns(
    inbox: Inbox, turns: Turns
) -> None:
    for number in range(3 * PLANS_PER_TURN):
        inbox.put(Key("shop", "large"), Key("shop", f"plan-{number}"), "spec")
    inbox.put(Key("shop", "small"), Key("shop", "ro"), "spec")
    await until(lambda: len(turns.plans()) == 3 * PLANS_PER_TURN + 1)
    assert [resource.name for resource, _ in turns.taken][:2] == ["large", "small"]
    assert all(len(waiting) <= PLANS_PER_TURN for _, waiting in turns.taken)


async def test_what_comes_during_a_turn_is_carried_out_after_it(inbox: Inbox, turns: Turns) -> None:
    turns.gate.clear()
    inbox.put(RESOURCE, Key("shop", "first"), "spec")
    await until(lambda: turns.under_way == 1)
    inbox.put(RESOURCE, Key("shop", "second"), "spec")
    turns.gate.set()
    await until(lambda: len(turns.taken) == 2)
    assert turns.plans() == [Key("shop", "first"), Key("shop", "second")]


async def test_a_turn_that_raises_does_not_end_the_worker(inbox: Inbox, turns: Turns) -> None:
    turns.failure = RuntimeError("surprise")
    inbox.put(RESOURCE, Key("shop", "first"), "spec")
    await until(lambda: len(turns.taken) == 1)
    turns.failure = None
    inbox.put(RESOURCE, Key("shop", "second"), "spec")
    await until(lambda: len(turns.taken) == 2)


async def test_a_probe_is_answered_before_the_plans_that_wait(
    inbox: Inbox, turns: Turns, server: Server
) -> None:
    server.gate.clear()
    inbox.put(RESOURCE, Key("shop", "ro"), "spec")
    probe = asyncio.create_task(inbox.probe(connection("admin")))
    await until(lambda: server.open == 1)
    assert not turns.taken
    server.gate.set()
    assert await probe is CAPABILITIES
    await until(lambda: len(turns.taken) == 1)


async def test_probes_share_no_session_and_keep_to_the_limit(inbox: Inbox, server: Server) -> None:
    server.gate.clear()
    probes = [asyncio.create_task(inbox.probe(connection(f"tenant{number}"))) for number in range(5)]
    await until(lambda: server.open == LIMITS.sessions)
    server.gate.set()
    await asyncio.gather(*probes)
    assert server.most_open == LIMITS.sessions
    assert sorted(server.asked) == [f"tenant{number}" for number in range(5)]


@pytest.mark.parametrize("failure", [ServerUnreachable("gone"), RuntimeError("surprise")])
async def test_a_probe_that_fails_says_so_and_the_worker_goes_on(
    failure: Exception, inbox: Inbox, server: Server, turns: Turns
) -> None:
    server.failure = failure
    with pytest.raises(ServerUnreachable):
        await inbox.probe(connection("admin"))
    inbox.put(RESOURCE, Key("shop", "ro"), "spec")
    await until(lambda: len(turns.taken) == 1)


async def test_a_server_that_answers_nobody_is_asked_once_for_all_and_then_knocked_at_until_it_does(
    inbox: Inbox, server: Server, told: list[Endpoint]
) -> None:
    server.silence = ServerUnreachable("nobody there")
    probes = [inbox.probe(connection(f"tenant{number}")) for number in range(20)]
    answers = await asyncio.gather(*probes, return_exceptions=True)
    assert list(map(str, answers)) == ["nobody there"] * 20
    assert len(server.asked) <= LIMITS.sessions
    knocks = server.knocks
    assert knocks == 1
    await until(lambda: server.knocks >= knocks + 3)
    assert len(server.asked) <= LIMITS.sessions
    assert (inbox.silent, told) == (True, [])
    server.silence = ServerUnreachable("not even the name is known")
    await until(lambda: told == [ENDPOINT])
    server.silence = None
    await until(lambda: not inbox.silent)
    assert told == [ENDPOINT, ENDPOINT]


async def test_a_plan_made_anew_for_another_resource_of_the_server_waits_for_both(
    inbox: Inbox, turns: Turns
) -> None:
    other, plan = Key("shop", "other"), Key("shop", "ro")
    inbox.put(RESOURCE, plan, "retry")
    inbox.put(other, plan, "spec")
    await until(lambda: inbox.idle)
    assert turns.taken == [(RESOURCE, {plan: "retry"}), (other, {plan: "spec"})]
    assert inbox.ages() == []
    inbox.put(other, plan, "drift")
    await until(lambda: len(turns.taken) == 3)


async def test_a_failure_that_nobody_foresaw_ends_no_worker_and_keeps_no_other_resource_waiting(
    inbox: Inbox, turns: Turns, caplog: pytest.LogCaptureFixture
) -> None:
    other, plan = Key("shop", "other"), Key("shop", "ro")
    inbox.put(RESOURCE, plan, "spec")
    inbox._waiting_since.clear()
    inbox.put(other, plan, "spec")
    await until(lambda: turns.taken == [(other, {plan: "spec"})])
    assert "nobody foresaw" in caplog.text


async def test_a_knock_that_nobody_foresaw_ends_no_worker(inbox: Inbox, server: Server, turns: Turns) -> None:
    server.failure = ServerUnreachable("gone")
    server.failure_of_knocks = RuntimeError("surprise")
    with pytest.raises(ServerUnreachable, match="gone"):
        await inbox.probe(connection("admin"))
    inbox.put(RESOURCE, Key("shop", "ro"), "spec")
    await until(lambda: len(turns.taken) == 1)


async def test_who_asks_a_silent_server_has_it_tried_at_once(
    inbox: Inbox, server: Server, told: list[Endpoint]
) -> None:
    server.silence = ServerUnreachable("nobody there")
    with pytest.raises(ServerUnreachable):
        await inbox.probe(connection("admin"))
    server.silence = None
    assert await inbox.probe(connection("admin")) is CAPABILITIES
    assert told == [ENDPOINT]


async def test_what_one_resource_fails_for_says_nothing_of_another_on_a_server_that_answers(
    inbox: Inbox, server: Server
) -> None:
    server.failure = ServerUnreachable("no connection left for you")
    probes = [inbox.probe(connection(f"tenant{number}")) for number in range(5)]
    assert await asyncio.gather(*probes, return_exceptions=True) == [server.failure] * 5
    assert sorted(server.asked) == [f"tenant{number}" for number in range(5)]
    assert not inbox.silent


async def test_closing_ends_the_turn_and_the_probes_that_wait(
    inbox: Inbox, turns: Turns, server: Server
) -> None:
    turns.gate.clear()
    inbox.put(RESOURCE, Key("shop", "ro"), "spec")
    await until(lambda: turns.under_way == 1)
    probe = asyncio.create_task(inbox.probe(connection("admin")))
    await asyncio.sleep(0)
    await inbox.close()
    assert turns.under_way == 0
    with pytest.raises(asyncio.CancelledError):
        await probe
