"""What is said of the plans of a turn that does not come to its end; server and cluster are stood in for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from hoop_operator.credentials.connection import Connection, SslMode
from hoop_operator.credentials.follow import Follower
from hoop_operator.errors import ClusterError, ClusterUnavailable, ResourceReason
from hoop_operator.metrics import REGISTRY
from hoop_operator.planner.statements import Phase, Statement
from hoop_operator.reconcile import plans as plans_module
from hoop_operator.reconcile.clock import Clock
from hoop_operator.reconcile.context import Context
from hoop_operator.reconcile.inbox import Inbox
from hoop_operator.reconcile.memory import Memory
from hoop_operator.reconcile.objects import ABANDON, FINALIZER, Key, Plan, Resource
from hoop_operator.reconcile.plans import Plans
from hoop_operator.reconcile.register import Registration
from hoop_operator.reconcile.run import Run
from hoop_operator.settings import Settings

PG, RO = Key("shop", "pg"), Key("shop", "ro")
CONNECTION = Connection("db", 5432, "admin", "pw", "postgres", SslMode.PREFER, None, None, None, None)


class Cluster:
    """Stands in for the API server: stores every status, and remembers the reason of Ready in it."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.events: list[str] = []
        self.let_go = asyncio.Event()
        self.refusal: ClusterError | None = None
        self.resource: dict[str, Any] = {}
        """The answer to whoever asks for one by name."""

    async def get(self, path: str) -> dict[str, Any]:
        del path
        return self.resource

    async def merge_patch(self, path: str, patch: dict[str, Any]) -> dict[str, Any]:
        del path
        conditions = {entry["type"]: entry for entry in patch["status"]["conditions"]}
        self.reasons.append(conditions["Ready"]["reason"])
        return {**plan().body, "status": patch["status"]}

    async def json_patch(self, path: str, operations: list[dict[str, Any]]) -> dict[str, Any]:
        del path, operations
        if self.refusal is not None:
            raise self.refusal
        self.let_go.set()
        return dict(plan().body)

    async def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        del path
        self.events.append(body["reason"])
        return body


def metadata(key: Key) -> dict[str, Any]:
    return {
        "namespace": key.namespace,
        "name": key.name,
        "uid": key.name,
        "generation": 1,
        "resourceVersion": "1",
    }


def plan(key: Key = RO, **spec: Any) -> Plan:
    asked = spec or {"type": "external", "sourceRole": "readers"}
    body = {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopRolePlan",
        "metadata": metadata(key),
        "spec": {"resourceRef": {"name": "pg"}, "role": key.name, **asked},
    }
    return Plan.parse(body)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def plans(cluster: Cluster) -> AsyncIterator[Plans]:
    api: Any = cluster
    memory = Memory()
    spec = {"type": "database", "subtype": "postgres", "envVarsFrom": [{"secretRef": {"name": "admin"}}]}
    resource = Resource.parse({"kind": "HoopResource", "metadata": metadata(PG), "spec": spec})
    memory.see_resource(resource)
    memory.see_plan(plan())
    memory.registrations[PG] = Registration(resource, ResourceReason.REGISTERED, connection=CONNECTION)
    context = Context(api, Settings(), memory, Clock(1.0), Follower(Settings()))
    made = Plans(context, _no_inbox, wake_resource=_nothing, count_users=_nothing)
    yield made
    context.clock.stop()
    await made.close()


def _no_inbox(*_: object) -> Any:
    raise AssertionError("no plan is put into an inbox here")


def _nothing(*_: object) -> None:
    pass


async def ended(plans: Plans) -> None:
    for ending in list(plans._endings.values()):
        await asyncio.wait([ending])


async def test_a_turn_that_is_cut_short_says_nothing_of_its_plans(
    plans: Plans, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    @asynccontextmanager
    async def open_sessions(*_: object) -> AsyncIterator[None]:
        begun.set()
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(plans_module, "open_sessions", open_sessions)
    turn = asyncio.create_task(plans.take_turn(PG, {RO: "spec"}))
    await begun.wait()
    turn.cancel()
    await asyncio.wait([turn])
    await ended(plans)
    assert turn.cancelled()
    assert cluster.reasons == []


async def test_what_nobody_foresaw_is_told_as_a_failure(
    plans: Plans, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check_admission(*_: object) -> None:
        raise ValueError("nobody thought of this")

    monkeypatch.setattr(plans_module, "check_admission", check_admission)
    await plans.take_turn(PG, {RO: "spec"})
    await ended(plans)
    assert cluster.reasons == ["ApplyFailed"]


async def test_nothing_is_kept_of_a_turn_that_has_ended(
    plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check_admission(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(plans_module, "check_admission", check_admission)
    await plans.take_turn(PG, {RO: "spec"})
    await ended(plans)
    assert (plans._endings, plans._in_turn, plans._told_in_turn) == ({}, {}, {})


async def test_a_plan_that_waits_for_its_server_has_it_tried_when_somebody_asks_and_holds_no_timer(
    plans: Plans, cluster: Cluster
) -> None:
    woken: list[Key] = []
    plans._wake_resource = lambda key, _: woken.append(key)
    memory, clock = plans._context.memory, plans._context.clock
    memory.registrations[PG] = replace(memory.registrations[PG], reason=ResourceReason.SERVER_UNREACHABLE)
    for trigger in ("spec", "resource"):
        plans.wake(RO, trigger)
        await asyncio.gather(*plans._flight._tasks)
    assert cluster.reasons == ["ResourceNotReady"]
    assert woken == [PG]
    assert not clock._timers


async def test_who_looks_first_at_a_plan_beside_a_new_creator_knows_why_it_has_something_to_do(
    plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, rw = (
        plan(Key("shop", name), type="managed", scopes=["orders"], privileges=[privilege])
        for name, privilege in (("maker", "CREATE"), ("rw", "SELECT"))
    )
    for one in (maker, rw):
        plans._context.memory.see_plan(Plan.parse({**one.body, "status": {"observedGeneration": 1}}))
    triggers: list[tuple[str, str]] = []

    async def change(_: object, connection: object, runs: list[Run]) -> None:
        del connection
        for run in runs:
            triggers.append((run.plan.key.name, run.trigger))
            run.done = (Statement(Phase.GRANT, "orders", "GRANT", ("it",)),)

    monkeypatch.setattr(plans, "_change", change)
    monkeypatch.setattr(plans, "_inbox_of", lambda _: Mock(Inbox))
    await plans.take_turn(PG, {maker.key: "retry"})
    await plans.take_turn(PG, {rw.key: "drift"})
    await ended(plans)
    await plans.take_turn(PG, {rw.key: "drift"})
    assert triggers == [("maker", "retry"), ("rw", "creators"), ("rw", "drift")]


async def test_a_resource_hears_that_it_lost_a_plan_whose_successor_has_another_resource(
    plans: Plans,
) -> None:
    counted: list[Key] = []
    plans._count_users = counted.append
    body = plan().body
    plans.seen(
        Plan.parse(
            {
                **body,
                "metadata": {**body["metadata"], "uid": "another", "resourceVersion": "2"},
                "spec": {**body["spec"], "resourceRef": {"name": "elsewhere"}},
            }
        )
    )
    assert counted == [PG]


def deleted(one: Plan, **annotations: str) -> Plan:
    metadata = {
        **one.body["metadata"],
        "deletionTimestamp": "2030-01-01T00:00:00Z",
        "finalizers": [FINALIZER],
        "annotations": annotations,
        "resourceVersion": "2",
    }
    return Plan.parse({**one.body, "metadata": metadata})


async def test_a_role_that_is_to_stay_stays_although_its_plan_was_deleted_while_it_waited_to_be_changed(
    plans: Plans, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(plans_module, "open_sessions", lambda *asked: opened.append(asked))
    plans._context.memory.see_plan(deleted(plan(), **{ABANDON: "true"}))
    await plans.take_turn(PG, {RO: "spec"})
    async with asyncio.timeout(5):
        await cluster.let_go.wait()
    assert opened == []


async def test_a_plan_made_anew_for_another_resource_is_none_of_the_former_ones(
    plans: Plans, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(plans_module, "open_sessions", lambda *asked: opened.append(asked))
    body = plan().body
    metadata = {**body["metadata"], "uid": "another", "resourceVersion": "2"}
    spec = {**body["spec"], "resourceRef": {"name": "elsewhere"}}
    successor = Plan.parse({**body, "metadata": metadata, "spec": spec})
    for latter in (successor, deleted(successor)):
        plans._context.memory.see_plan(latter)
        await plans.take_turn(PG, {RO: "retry"})
        await ended(plans)
    assert opened == []
    assert cluster.reasons == []


async def test_what_becomes_of_a_role_is_told_once_however_often_its_plan_cannot_be_let_go(
    plans: Plans, cluster: Cluster
) -> None:
    removals = REGISTRY.get_sample_value
    labels = {"outcome": "retained"}
    before = removals("hoop_plan_removals_total", labels) or 0
    applied = Plan.parse({**plan().body, "status": {"role": "hoopdev_pg_ro"}})
    plans._context.memory.see_plan(deleted(applied, **{ABANDON: "true"}))
    cluster.refusal = ClusterUnavailable("no answer")
    for _ in range(3):
        await plans._see_to(RO, "spec")
    assert (cluster.events, removals("hoop_plan_removals_total", labels) or 0) == (["RoleRetained"], before)
    cluster.refusal = None
    await plans._see_to(RO, "retry")
    assert cluster.let_go.is_set()
    assert (cluster.events, removals("hoop_plan_removals_total", labels)) == (["RoleRetained"], before + 1)


async def test_a_resource_that_this_version_does_not_understand_is_not_taken_for_gone(
    plans: Plans, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    memory = plans._context.memory
    memory.forget_resource(PG)
    memory.see_plan(deleted(plan()))
    spec = {"type": "database", "subtype": "postgres", "envVarsFrom": "of a later version"}
    cluster.resource = {"kind": "HoopResource", "metadata": metadata(PG), "spec": spec}
    await plans._see_to(RO, "spec")
    assert not cluster.let_go.is_set()
    assert "does not follow the schema of this version" in caplog.text


async def test_a_plan_that_waited_while_its_resource_was_deleted_does_not_begin_to_use_it(
    plans: Plans, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    monkeypatch.setattr(plans_module, "open_sessions", lambda *asked: opened.append(asked))
    memory = plans._context.memory
    body = memory.resources[PG].body
    deleting = {**body["metadata"], "resourceVersion": "2", "deletionTimestamp": "2030-01-01T00:00:00Z"}
    resource = Resource.parse({**body, "metadata": deleting})
    memory.see_resource(resource)
    memory.registrations[PG] = replace(memory.registrations[PG], resource=resource)
    await plans.take_turn(PG, {RO: "spec"})
    await ended(plans)
    assert (opened, cluster.reasons) == ([], ["ResourceNotReady"])


@pytest.mark.parametrize("deleting", [False, True])
async def test_a_resource_of_a_namespace_that_is_not_watched_is_looked_for_only_to_remove_a_role(
    plans: Plans, cluster: Cluster, *, deleting: bool
) -> None:
    memory, elsewhere, woken = plans._context.memory, Key("elsewhere", "pg"), list[Key]()
    plans._context = replace(plans._context, settings=Settings(watch_namespaces=["shop"]))
    plans._wake_resource = lambda key, _: woken.append(key)
    body = memory.resources[PG].body
    cluster.resource = {**body, "metadata": {**metadata(elsewhere), "uid": "another"}}
    one = plan(resourceRef={"name": "pg", "namespace": "elsewhere"}, type="external", sourceRole="readers")
    memory.see_plan(deleted(one) if deleting else one)
    assert (await plans._resource_of(memory.plans[RO]) is not None) is deleting
    assert woken == ([elsewhere] if deleting else [])
