"""The stand-ins of `tests/exploration` and the real servers, told the same, say the same."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, cast

import pytest

from exploration import snapshot as stand_in
from exploration.api_server import ApiClient, ApiServer
from exploration.postgresql import DATABASE, OTHER_SCHEMA, OWNER, PostgreSQL
from exploration.postgresql import Sessions as StandInSessions
from exploration.schedule import Schedule
from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.finalizers import add_finalizer, remove_finalizer
from hoop_operator.crd import Privilege
from hoop_operator.errors import ClusterError, StatementFailed
from hoop_operator.planner.model import DesiredRole, Identity
from hoop_operator.planner.plan import databases_of, plan_role
from hoop_operator.planner.scopes import parse_scope
from hoop_operator.postgres import scram
from hoop_operator.postgres.capabilities import read_capabilities
from hoop_operator.postgres.database_snapshot import read_database
from hoop_operator.postgres.executor import execute_singly
from hoop_operator.postgres.server_snapshot import read_server
from hoop_operator.postgres.session import open_sessions
from hoop_operator.reconcile.objects import FINALIZER
from integration.roles import LIMITS, Roles
from integration.tenant import PATIENCE_SECONDS, eventually

Object = dict[str, Any]
Readers = tuple[Any, Any, Any]


@pytest.fixture
def schedule() -> Iterator[Schedule]:
    """A schedule in which nobody has to wait for a gate."""
    schedule = Schedule()
    yield schedule
    schedule.close()


# The API server


async def answer(request: Awaitable[Object]) -> Object | int:
    """What was answered, or the status of the refusal."""
    try:
        return await request
    except ClusterError as refusal:
        return refusal.status


def facts(body: Object | int) -> object:
    """What of an answer is not a name of the server's own choice."""
    if isinstance(body, int):
        return body
    metadata = body["metadata"]
    return {
        "generation": metadata.get("generation"),
        "finalizers": metadata.get("finalizers"),
        "annotations": metadata.get("annotations"),
        "deleting": "deletionTimestamp" in metadata,
        "spec": body.get("spec"),
        "status": body.get("status"),
        "data": body.get("data"),
    }


def a_plan(name: str) -> Object:
    return {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopRolePlan",
        "metadata": {"name": name},
        "spec": {"resourceRef": {"name": "pg"}, "type": "external", "role": "ro", "sourceRole": "readers"},
        "status": {"sid": "not taken from here"},
    }


async def changes(api: KubernetesApi, namespace: str) -> list[object]:
    """What a status, a spec and an annotation do to each other, to the generation and to the version."""
    path = paths.hoop_role_plan(namespace, "one")
    told: list[object] = []
    version = ""
    for request in (
        api.create(paths.hoop_role_plans(namespace), a_plan("one")),
        api.create(paths.hoop_role_plans(namespace), a_plan("one")),
        api.merge_patch(paths.status(path), {"status": {"sid": "s"}, "spec": {"sourceRole": "others"}}),
        api.merge_patch(path, {"status": {"sid": "t"}, "metadata": {"annotations": {"a": "b"}}}),
        api.merge_patch(path, {"metadata": {"annotations": {"a": "b"}}}),
        api.merge_patch(path, {"metadata": {"annotations": {"a": None}}}),
        api.merge_patch(path, {"spec": {"sourceRole": "others"}}),
        api.merge_patch(path, {"spec": {"sourceRole": "others"}}),
        api.merge_patch(paths.status(path), {"status": {"sid": None}}),
        api.merge_patch(paths.hoop_role_plan(namespace, "two"), {"spec": {"suspend": True}}),
        api.merge_patch(path, {"metadata": {"resourceVersion": "1"}, "spec": {"suspend": True}}),
    ):
        body = await answer(request)
        told.append(facts(body))
        if not isinstance(body, int):
            told.append(body["metadata"]["resourceVersion"] != version)
            version = body["metadata"]["resourceVersion"]
    return told


async def deletions(api: KubernetesApi, namespace: str) -> list[object]:
    """What finalizers and preconditions do to a deletion."""
    path = paths.hoop_role_plan(namespace, "one")
    body: Mapping[str, Any] = await api.create(paths.hoop_role_plans(namespace), a_plan("one"))
    told: list[object] = [facts(await answer(api.delete(path, uid="another")))]
    uid = body["metadata"]["uid"]
    here = {"op": "test", "path": "/metadata/uid", "value": uid}
    first = {"op": "test", "path": "/metadata/finalizers/0", "value": FINALIZER}
    told += [
        facts(await answer(api.json_patch(path, [here, operation])))
        for operation in (
            {"op": "test", "path": "/metadata/uid", "value": "another"},
            {"op": "test", "path": "/metadata/finalizers", "value": [FINALIZER]},
            first,
            {"op": "remove", "path": "/metadata/finalizers/0"},
            {"op": "test", "path": "/metadata/finalizers", "value": None},
        )
    ]
    body = await add_finalizer(api, body, FINALIZER)
    told.append(facts(dict(body)))
    told.append(facts(await answer(api.json_patch(path, [here, {**first, "value": "other.example/one"}]))))
    told.append(facts(await answer(api.delete(path, uid=uid))))
    told.append(facts(await answer(api.delete(path))))
    more = {"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER, "other.example/one"]}
    told.append(facts(await answer(api.json_patch(path, [more]))))
    told.append(facts(await answer(api.merge_patch(path, {"spec": {"suspend": True}}))))
    told.append(facts(dict(await remove_finalizer(api, body, FINALIZER))))
    told.append(await answer(api.get(path)))
    told.append(await answer(api.delete(path)))
    return told


async def secret_versions(api: KubernetesApi, namespace: str) -> list[object]:
    """What an outdated version does to a change of a Secret."""
    path = paths.secret(namespace, "one")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "one"},
        "stringData": {"password": "a"},
    }
    body = await api.create(paths.secrets(namespace), secret)
    told: list[object] = [facts(body), facts(await answer(api.create(paths.secrets(namespace), secret)))]
    first = body["metadata"]["resourceVersion"]
    for version in (first, first):
        patch = {"metadata": {"resourceVersion": version}, "data": {"password": "Yg=="}}
        told.append(facts(await answer(api.merge_patch(path, patch))))
    told.append(facts(await answer(api.delete(path, uid=body["metadata"]["uid"], resource_version=first))))
    now = (await api.get(path))["metadata"]["resourceVersion"]
    assert isinstance(await answer(api.delete(path, resource_version=now)), dict)
    told.append(await answer(api.delete(path)))
    return told


async def watched(api: KubernetesApi, namespace: str) -> list[object]:
    """What a watch tells that begins at the version of a list."""
    await api.create(paths.hoop_role_plans(namespace), a_plan("before"))
    listed = await api.get(paths.hoop_role_plans(namespace))
    path = paths.hoop_role_plan(namespace, "one")
    body = await api.create(paths.hoop_role_plans(namespace), a_plan("one"))
    await add_finalizer(api, body, FINALIZER)
    await api.merge_patch(path, {"metadata": {"finalizers": [FINALIZER]}})
    await api.delete(path)
    await remove_finalizer(api, await api.get(path), FINALIZER)
    told: list[object] = [[item["metadata"]["name"] for item in listed["items"]]]
    async with contextlib.aclosing(
        api.watch(paths.hoop_role_plans(namespace), listed["metadata"]["resourceVersion"])
    ) as events:
        async for event in events:
            if event["type"] != "BOOKMARK":
                told.append((event["type"], event["object"]["metadata"]["name"], facts(event["object"])))
            if event["type"] == "DELETED":
                break
    return told


@pytest.mark.version_independent
@pytest.mark.parametrize("script", [changes, deletions, secret_versions, watched])
async def test_the_stand_in_for_the_api_server_answers_as_the_real_one(
    api: KubernetesApi, namespace: str, schedule: Schedule, script: Any
) -> None:
    stand_in = ApiClient(ApiServer(), schedule)
    # The operator of other tests, where it runs, is to leave the plans alone.
    elsewhere = {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopResource",
        "metadata": {"name": "pg"},
        "spec": {
            "type": "database",
            "subtype": "postgres",
            "agentId": str(uuid.uuid4()),
            "envVarsFrom": [{"secretRef": {"name": "admin"}}],
        },
    }
    await api.create(paths.hoop_resources(namespace), elsewhere)
    assert await script(stand_in, namespace) == await script(api, namespace)


# PostgreSQL


class Party:
    """One transaction and what came of its last statement."""

    def __init__(self, sessions: Any, database: str) -> None:
        self.stack = AsyncExitStack()
        self._opening = sessions.transaction(database, write=True)
        self.transaction: Any = None
        self.under_way: asyncio.Task[None] | None = None

    async def say(self, text: str) -> None:
        if self.transaction is None:
            self.transaction = await self.stack.enter_async_context(self._opening)
        self.under_way = asyncio.create_task(self.transaction.execute(text))

    async def outcome(self) -> str:
        assert self.under_way is not None
        try:
            await asyncio.wait_for(self.under_way, PATIENCE_SECONDS)
        except StatementFailed as failure:
            return failure.sqlstate
        return "done"

    async def end(self, *, commit: bool) -> None:
        with contextlib.suppress(_RollBackError):
            async with self.stack:
                if not commit:
                    raise _RollBackError


class _RollBackError(Exception):
    pass


class Real:
    """The real server, with the objects of the stand-in in a database of another name, and an owner of another name."""

    readers: Readers = (read_capabilities, read_server, read_database)

    def __init__(self, roles: Roles, sessions: Any, database: str, owner: str) -> None:
        self.sessions = sessions
        self.database = database
        self.owner = owner
        self._roles = roles

    async def waits(self, party: Party) -> bool:
        """Wait until the server says that one of the sessions in our database waits."""
        del party

        async def look() -> bool:
            return bool(
                await self._roles.rows(
                    "postgres",
                    "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    " AND application_name = 'hoop-operator' AND datname = %(name)s",
                    name=self.database,
                )
            )

        return await eventually(look, what="somebody waits for a lock")


class StandIn:
    """The stand-in, which tells by itself who waits."""

    readers: Readers = (stand_in.read_capabilities, stand_in.read_server, stand_in.read_database)
    database = DATABASE
    owner = OWNER

    def __init__(self, schedule: Schedule) -> None:
        self.sessions = StandInSessions(PostgreSQL(), schedule)

    async def waits(self, party: Party) -> bool:
        """Look who waits."""
        await asyncio.sleep(0)
        return bool(party.transaction.waits_for)


@pytest.fixture
async def real(roles: Roles) -> AsyncIterator[Real]:
    database, owner = await roles.database(), await roles.role("owner")
    await roles.run(
        database,
        f"ALTER SCHEMA public OWNER TO {owner}",
        f"CREATE SCHEMA {OTHER_SCHEMA} AUTHORIZATION {owner}",
        f"SET ROLE {owner}",
        "CREATE TABLE public.orders ()",
        f"CREATE TABLE {OTHER_SCHEMA}.orders ()",
        "CREATE SEQUENCE public.orders_id_seq",
    )
    async with open_sessions(roles.connection, replace(LIMITS, lock_seconds=30), lambda _: True) as sessions:
        yield Real(roles, sessions, database, owner)


@pytest.fixture(params=["stand-in", "PostgreSQL"])
def server(request: pytest.FixtureRequest, schedule: Schedule) -> Real | StandIn:
    return StandIn(schedule) if request.param == "stand-in" else request.getfixturevalue("real")


def named(roles: Roles, *labels: str) -> dict[str, str]:
    """Names for roles that the test makes, which are dropped after it."""
    names = {label: f"{label}_{roles.suffix}" for label in labels}
    roles.roles += names.values()
    return names


VERIFIER = scram.make_verifier("password")
CREATE = f"""CREATE ROLE "{{x}}" LOGIN INHERIT PASSWORD '{VERIFIER}'"""
ALTER = f"""ALTER ROLE "{{x}}" PASSWORD '{VERIFIER}'"""
COMMENT = """COMMENT ON ROLE "{x}" IS 'ours'"""
DROP = 'DROP ROLE "{x}"'
GRANT = 'GRANT SELECT ON TABLE "public"."orders" TO "{x}"'
GRANT_OTHER = 'GRANT SELECT ON TABLE "public"."orders" TO "{y}"'
GRANT_ELSEWHERE = 'GRANT SELECT ON TABLE "extra"."orders" TO "{y}"'
DEFAULT = 'ALTER DEFAULT PRIVILEGES FOR ROLE "{owner}" IN SCHEMA "public" GRANT SELECT ON TABLES TO "{x}"'

CLASHES = [
    (CREATE, CREATE, "23505", "done"),
    (ALTER, ALTER, "XX000", "done"),
    (COMMENT, COMMENT, "done", "done"),
    (GRANT, GRANT_OTHER, "XX000", "done"),
    (DEFAULT, DEFAULT, "23505", "done"),
    (GRANT, DROP, "2BP01", "done"),
    (COMMENT, DROP, "done", "done"),
    (DROP, GRANT, "42704", "done"),
    (DROP, COMMENT, "42704", "done"),
    (DROP, ALTER, "XX000", "done"),
    (DROP, DROP, "XX000", "done"),
]
"""What one does, what another then waits to do, and what comes of that when the first commits, or rolls back."""


@pytest.mark.parametrize("commit", [True, False])
@pytest.mark.parametrize(("first", "second", "committed", "rolled_back"), CLASHES)
async def test_who_comes_second_waits_and_meets_the_same(
    server: Real | StandIn,
    roles: Roles,
    first: str,
    second: str,
    committed: str,
    rolled_back: str,
    *,
    commit: bool,
) -> None:
    names = {**named(roles, "x", "y"), "owner": server.owner}
    beginning = Party(server.sessions, server.database)
    for text in (CREATE, CREATE.replace("{x}", "{y}")):
        if "{y}" in text or first != CREATE:
            await beginning.say(text.format(**names))
            assert await beginning.outcome() == "done"
    await beginning.end(commit=True)
    one, other = Party(server.sessions, server.database), Party(server.sessions, server.database)
    await one.say(first.format(**names))
    assert await one.outcome() == "done"
    await other.say(second.format(**names))
    assert await server.waits(other)
    await one.end(commit=commit)
    assert await other.outcome() == (committed if commit else rolled_back)
    await other.end(commit=False)


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        (COMMENT, ALTER, "done"),
        (GRANT, ALTER, "done"),
        (GRANT, GRANT_ELSEWHERE, "done"),
        (GRANT, COMMENT, "done"),
    ],
)
async def test_what_does_not_clash_goes_on(
    server: Real | StandIn, roles: Roles, first: str, second: str, outcome: str
) -> None:
    names = {**named(roles, "x", "y"), "owner": server.owner}
    beginning = Party(server.sessions, server.database)
    for text in (CREATE, CREATE.replace("{x}", "{y}")):
        await beginning.say(text.format(**names))
        assert await beginning.outcome() == "done"
    await beginning.end(commit=True)
    one, other = Party(server.sessions, server.database), Party(server.sessions, server.database)
    await one.say(first.format(**names))
    assert await one.outcome() == "done"
    await other.say(second.format(**names))
    assert await other.outcome() == outcome
    await one.end(commit=False)
    await other.end(commit=False)


async def plan_and_apply(server: Real | StandIn, desired: DesiredRole) -> list[str]:
    """The statements that the planner makes of what the readers find, applied."""
    (read_capabilities, read_server, read_database), run_statements = (
        server.readers,
        cast("Any", execute_singly),
    )
    async with server.sessions.transaction() as transaction:
        capabilities = await read_capabilities(transaction)
        seen = await read_server(transaction, capabilities, [desired.name], [])
    oids = [role.oid for role in seen.roles.values()]
    states = {}
    for name in databases_of(desired, seen):
        schemas = [scope.schema for scope in desired.scopes if scope.database == name]
        async with server.sessions.transaction(name) as transaction:
            states[name] = await read_database(transaction, name, oids, [], schemas)
    planned = plan_role(desired, seen, states)
    assert planned.problems == ()
    for place in dict.fromkeys(statement.database for statement in planned.statements):
        async with server.sessions.transaction(place, write=True) as transaction:
            part = [statement for statement in planned.statements if statement.database == place]
            await run_statements(transaction, part, {desired.name: VERIFIER})
    texts = [
        statement.text.replace(server.database, "D").replace(server.owner, "O")
        for statement in planned.statements
    ]
    return sorted(texts)


DRIFT = [
    'REVOKE SELECT ON TABLE "public"."orders" FROM "{x}"',
    'GRANT SELECT, UPDATE ON TABLE "extra"."orders" TO "{x}"',
    'GRANT CREATE ON SCHEMA "public" TO "{x}"',
    'ALTER DEFAULT PRIVILEGES FOR ROLE "{owner}" IN SCHEMA "extra" GRANT INSERT ON TABLES TO "{x}"',
    'ALTER ROLE "{x}" NOLOGIN CREATEDB',
]


async def test_the_planner_finds_the_same_differences(real: Real, roles: Roles, schedule: Schedule) -> None:
    name = named(roles, "x")["x"]
    asked: Sequence[tuple[list[str], list[str]]] = [
        (["D"], ["SELECT"]),
        (["D", "D.extra"], ["SELECT", "INSERT"]),
        (["D.extra"], ["DELETE"]),
        (["D"], ["SELECT", "CREATE"]),
    ]
    told: list[list[list[str]]] = []
    for server in (StandIn(schedule), real):
        answers: list[list[str]] = []
        for scopes, privileges in asked:
            desired = DesiredRole(
                name,
                Identity("default", "team", "reader"),
                frozenset(parse_scope(scope.replace("D", server.database)) for scope in scopes),
                frozenset(map(Privilege, privileges)),
            )
            answers += [await plan_and_apply(server, desired) for _ in range(2)]
            for text in DRIFT:
                async with server.sessions.transaction(server.database, write=True) as transaction:
                    await transaction.execute(text.format(x=name, owner=server.owner))
            answers.append(await plan_and_apply(server, desired))
        told.append(answers)
    assert told[0] == told[1]
    for changed, unchanged, drifted in zip(told[0][::3], told[0][1::3], told[0][2::3], strict=True):
        assert (bool(changed), bool(unchanged), bool(drifted)) == (True, False, True)
