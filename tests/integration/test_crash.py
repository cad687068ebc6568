"""Whatever ends or fails in between, one more run puts everything right."""

import asyncio
import contextlib
import random
import re
import secrets
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ClusterError, ClusterUnavailable, ObjectNotFound
from hoop_operator.reconcile.reconciler import Reconciler
from hoop_operator.settings import Settings
from integration.administrator import Administrator
from integration.aftermath import assert_whole, table_grants
from integration.operator_process import OperatorProcess
from integration.proxy import Proxy
from integration.registrant import Registrant
from integration.server_log import logged
from integration.tenant import Tenant, eventually, ready, roles_of
from local import kubeconfig
from local.postgresql import Server

pytestmark = pytest.mark.version_independent

LIVES_AT_ONCE = 4
MOST_WRITES = 40
SETTINGS = {"HOOP_RETRY_SECONDS_MAX": "1", "HOOP_CONNECT_TIMEOUT_SECONDS": "2"}
WRITING = re.compile(
    rb"\b(CREATE|ALTER|GRANT|REVOKE|DROP|COMMENT|REASSIGN|SECURITY LABEL|pg_terminate_backend)\b"
)

Session = psycopg.AsyncConnection[TupleRow]
MakeOperator = Callable[[Mapping[str, str]], OperatorProcess]


class Life:
    """How many more writes, to PostgreSQL and to the API server, an operator lives to make."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.over = asyncio.Event()

    async def write(self) -> None:
        """Pass while there is life; never return after that."""
        if self.left == 0:
            self.over.set()
            await asyncio.Event().wait()
        if self.left is not None:
            self.left -= 1


class MortalApi(KubernetesApi):
    """The API server, for an operator with one life."""

    def __init__(self, api: KubernetesApi, life: Life) -> None:
        super().__init__(api._client)
        self._life = life

    async def _request(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        if method != "GET" or self._life.over.is_set():
            await self._life.write()
        return await super()._request(method, path, **arguments)


class EmbeddedOperator:
    """A reconciler in this process, told of its objects by watches that never break."""

    def __init__(
        self, api: KubernetesApi, tenant: Tenant, *, tells_of_ends: bool = True, drift_seconds: float = 300
    ) -> None:
        settings = Settings(
            agent_id=uuid.UUID(tenant.agent_id or ""),
            watch_namespaces=[tenant.namespace],
            retry_seconds_max=1,
            drift_interval_seconds=drift_seconds,
        )
        self._tells_of_ends = tells_of_ends
        self._reconciler = Reconciler(api, settings)
        self._api = tenant.api
        self._namespace = tenant.namespace
        self._watches: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self._reconciler.start()
        told = self._reconciler
        for path, seen, gone in (
            (paths.hoop_resources(self._namespace), told.resource_seen, told.resource_gone),
            (paths.hoop_role_plans(self._namespace), told.plan_seen, told.plan_gone),
        ):
            self._watches.append(asyncio.create_task(self._tell(path, seen, gone)))

    async def stop(self) -> None:
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await self._reconciler.stop()

    async def _tell(
        self, path: str, seen: Callable[[Mapping[str, Any]], None], gone: Callable[[Mapping[str, Any]], None]
    ) -> None:
        listed = await self._api.get(path)
        for item in listed["items"]:
            seen({"apiVersion": listed["apiVersion"], "kind": listed["kind"].removesuffix("List"), **item})
        async with contextlib.aclosing(
            self._api.watch(path, listed["metadata"]["resourceVersion"])
        ) as events:
            async for event in events:
                if event["type"] in {"ADDED", "MODIFIED"}:
                    seen(event["object"])
                elif event["type"] == "DELETED" and self._tells_of_ends:
                    gone(event["object"])


class Mortal:
    """An operator that dies before one of its writes, and what it works on."""

    def __init__(self, api: KubernetesApi, namespace: str, server: Server) -> None:
        self.tenant = Tenant(api, namespace, str(uuid.uuid4()))
        self.plan = f"plan-{secrets.token_hex(4)}"
        self.resource = ""
        self.life = Life()
        self._server = server
        self._wrote = False
        self._proxy = Proxy(server.port, self._before_sending)
        self._embedded = EmbeddedOperator(MortalApi(api, self.life), self.tenant)

    async def _before_sending(self, piece: bytes) -> None:
        commits = b"COMMIT" in piece
        if self.life.over.is_set() or WRITING.search(piece) or (commits and self._wrote):
            await self.life.write()
        self._wrote = not commits and (self._wrote or b"READ WRITE" in piece)

    async def open(self) -> None:
        await self._proxy.open()
        self.resource = await self.tenant.resource(
            self._server, user=self._server.user, password=self._server.password, port=self._proxy.port
        )
        await self._embedded.start()
        await self.tenant.until_resource(self.resource)

    async def close(self) -> None:
        await self._embedded.stop()
        await self._proxy.close()

    async def live_until(self, done: Callable[[], Awaitable[bool]]) -> bool:
        """Wait until something is done, and return False, or the operator has died, and return True."""

        async def ended() -> bool:
            return self.life.over.is_set() or await done()

        await eventually(ended, what="the end of the operation or of the operator")
        return self.life.over.is_set()

    async def be_buried(self) -> None:
        """What the dead operator had open is gone with it."""
        await self._proxy.close()
        await self._embedded.stop()

    async def be_born_again(self) -> None:
        """Another operator takes the dead one's place."""
        await self.be_buried()
        self.life = Life()
        await self._proxy.open()
        self._embedded = EmbeddedOperator(MortalApi(self.tenant.api, self.life), self.tenant)
        await self._embedded.start()


@pytest.fixture
async def database(admin: Administrator) -> str:
    return await create_shop(admin)


async def create_shop(admin: Administrator) -> str:
    """Make a database with the tables that the plans are about, and return its name."""
    name = await admin.create_database()
    session = await admin.connect(name)
    await session.execute("CREATE TABLE orders (id int)")
    await session.execute("CREATE SCHEMA extra CREATE TABLE extra.goods (id int)")
    return name


SELECTS = {("orders", "SELECT")}
CHANGED = {("orders", "INSERT"), ("goods", "INSERT")}


async def create(mortal: Mortal, database: str) -> None:
    await mortal.tenant.plan(
        mortal.plan,
        mortal.resource,
        scopes=[database],
        privileges=["SELECT"],
    )


async def test_killed_in_an_approved_run_it_asks_anew_rather_than_applying_twice(
    api: KubernetesApi, namespace: str, postgres: Server, admin: Administrator
) -> None:
    async def die_before_write(number: int) -> tuple[bool, bool]:
        """Die, have undone what was done, and be born again: whether it died, and had taken up the approval."""
        # Of its own: PostgreSQL refuses one of two changes of a table's privileges that meet.
        database = await create_shop(admin)
        session = await admin.connect(database)
        mortal = Mortal(api, namespace, postgres)
        tenant, plan = mortal.tenant, mortal.plan

        async def applied() -> bool:
            return ready((await tenant.plans())[plan])[0] == "Applied"

        async def quiet() -> bool:
            counted = (await tenant.resources())[mortal.resource]["status"].get("plans") == 1
            return counted and bool(await tenant.events(plan))

        await mortal.open()
        try:
            await create(mortal, database)
            before = (await tenant.until_plans([plan]))[plan]["status"]
            role = sql.Identifier(before["role"])
            await tenant.change(plan, approval="Manual", privileges=["SELECT", "DELETE"])
            status = (await tenant.until_plans([plan], "PendingApproval"))[plan]["status"]
            assert status["lastAppliedSid"] == before["sid"]
            await eventually(quiet, what="no further write for what was before")
            mortal.life.left = number
            await tenant.annotate(plan, approve=status["plan"]["checksum"])
            if not await mortal.live_until(applied):
                return False, True
            await mortal.be_buried()
            taken = (await tenant.plans())[plan]["status"]["lastAppliedSid"] != before["sid"]
            undo = (
                "REVOKE DELETE ON orders FROM {}",
                "ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE DELETE ON TABLES FROM {}",
            )
            for statement in undo:
                await session.execute(sql.SQL(statement).format(role))
            await mortal.be_born_again()
            await tenant.annotate(plan, reconcile_at="now")
            (body,) = (await tenant.until_plans([plan], "PendingApproval" if taken else "Applied")).values()
            granted = await table_grants(session, before["role"])
            assert granted == ({*SELECTS} if taken else {*SELECTS, ("orders", "DELETE")})
            assert (body["status"]["plan"]["checksum"] != status["plan"]["checksum"]) is taken
            return True, taken
        finally:
            await mortal.close()

    ended: list[tuple[bool, bool]] = []
    while not ended or ended[-1][0]:
        assert len(ended) < MOST_WRITES
        numbers = range(len(ended), len(ended) + LIVES_AT_ONCE)
        ended += await asyncio.gather(*map(die_before_write, numbers))
    deaths = [taken for died, taken in ended if died]
    assert deaths == sorted(deaths)  # first before the approval is taken up, then after that
    assert deaths[0] is False
    assert sum(deaths) >= 2


async def test_it_may_be_killed_at_any_moment(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
) -> None:
    process = own_operator(SETTINGS)
    tenant = Tenant(api, namespace, process.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    dice = random.Random(1)  # noqa: S311 -- not for secrets
    alive = {f"plan-{number}" for number in range(8)}
    for name in sorted(alive):
        await tenant.plan(name, resource, scopes=[database], privileges=["SELECT"])
    expected = dict.fromkeys(alive, SELECTS)
    rotations: dict[str, str] = {}
    for round_number in range(4):
        await process.start()
        await asyncio.sleep(dice.uniform(0, 1))
        victims = dice.sample(sorted(alive), 3)
        rotations[victims[0]] = str(round_number)
        await tenant.annotate(victims[0], rotate_at=rotations[victims[0]])
        await tenant.change(victims[1], scopes=[database, f"{database}.extra"], privileges=["INSERT"])
        expected[victims[1]] = CHANGED
        if round_number % 2:
            await tenant.delete(victims[2])
            alive.discard(victims[2])
        await asyncio.sleep(dice.uniform(0, 0.5))
        process.kill()
    await process.start()
    for name in rotations.keys() & alive:
        await until_rotated(tenant, name, rotations[name])
    await tenant.until_plans(alive)
    for name in expected.keys() - alive:
        await tenant.until_gone(name)
    session = await admin.connect(database)
    for name, grants in expected.items():
        if name in alive:
            await assert_whole(tenant, name, grants, session, postgres)
        else:
            assert not await roles_of(session, namespace, name)


async def until_rotated(tenant: Tenant, plan: str, value: str) -> None:
    """Wait until a rotation that was asked for is over."""
    await tenant.until_plan(
        plan,
        lambda body: (body.get("status") or {}).get("observedRotateAt") == value,
        f"{plan} is rotated",
    )


async def test_a_restart_with_unchanged_plans_writes_nothing(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
) -> None:
    process = own_operator(SETTINGS)
    tenant = Tenant(api, namespace, process.agent_id)
    session = await admin.connect()
    login, password = f"admin_{secrets.token_hex(4)}", secrets.token_hex(16)
    await session.execute(
        sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(
            sql.Identifier(login), sql.Literal(password)
        )
    )
    resource = await tenant.resource(postgres, user=login, password=password)
    names = [f"plan-{number}" for number in range(50)]
    await asyncio.gather(
        *(tenant.plan(name, resource, scopes=[database], privileges=["SELECT"]) for name in names)
    )
    await process.start()
    await tenant.until_plans(names)

    async def all_counted() -> bool:
        return bool((await tenant.resources())[resource]["status"].get("plans") == len(names))

    await eventually(all_counted, what="all plans are counted")
    assert await process.stop(60) == 0
    log_begins = postgres.log.stat().st_size
    before = await versions(api, namespace)

    await process.start()

    async def has_looked() -> bool:
        return "READ ONLY" in said_by(login, postgres, log_begins)

    await eventually(has_looked, what="a look at the server")
    await tenant.annotate("plan-0", reconcile_at="now")
    await tenant.until_plans(["plan-0"])
    after = await versions(api, namespace)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {("HoopRolePlan", "plan-0")}
    assert not WRITING.search(said_by(login, postgres, log_begins).encode())
    assert "READ WRITE" not in said_by(login, postgres, log_begins)


async def versions(api: KubernetesApi, namespace: str) -> dict[tuple[str, str], str]:
    """The version of everything in a namespace that an operator may write."""
    found = {}
    for path in (
        paths.hoop_resources(namespace),
        paths.hoop_role_plans(namespace),
        paths.secrets(namespace),
        paths.events(namespace),
    ):
        listed = await api.get(path)
        for item in listed["items"]:
            metadata = item["metadata"]
            kind = listed["kind"].removesuffix("List")
            found[kind, metadata["name"]] = metadata["resourceVersion"]
    return found


def said_by(login: str, server: Server, begins: int) -> str:
    """What a login has sent since the server's log had that length."""
    return "\n".join(line for line in logged(server, begins) if f"] {login}@" in line)


async def test_it_loses_nothing_when_its_watches_break(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
    tmp_path: Path,
) -> None:
    process = own_operator(SETTINGS)
    config = kubeconfig.read(process.kubeconfig)
    described = config["clusters"][0]["cluster"]
    proxy = Proxy(int(described["server"].rpartition(":")[2]))
    await proxy.open()
    described["server"] = f"https://127.0.0.1:{proxy.port}"
    process.kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.save(process.kubeconfig, config)
    tenant = Tenant(api, namespace, process.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await process.start()
    try:
        names = [f"plan-{number}" for number in range(10)]
        for name in names:
            await tenant.plan(name, resource, scopes=[database], privileges=["SELECT"])
            await asyncio.sleep(0.1)
            proxy.cut()
        await tenant.until_plans(names)
        before = (await tenant.secret("plan-0"))["password"]
        await proxy.close()
        await api.delete(paths.secret(namespace, "plan-0-credentials"))
        await tenant.change("plan-1", privileges=["INSERT"])
        await proxy.open()
        await tenant.until_plans(["plan-1"])

        async def restored() -> bool:
            if (await tenant.secret("plan-0")).get("password", before) == before:
                return False
            try:
                async with await tenant.log_in("plan-0", postgres):
                    return True
            except psycopg.OperationalError:  # the Secret has it a moment before the server
                return False

        await eventually(restored, what="the lost Secret is there again, and opens the server")
        session = await admin.connect(database)
        for name in names:
            grants = {("orders", "INSERT")} if name == "plan-1" else SELECTS
            await assert_whole(tenant, name, grants, session, postgres)
    finally:
        process.kill()
        await proxy.close()


async def test_it_finds_out_by_itself_what_is_gone_where_no_watch_tells_of_it(
    api: KubernetesApi, namespace: str, postgres: Server, database: str
) -> None:
    tenant = Registrant(api, namespace, str(uuid.uuid4()))
    embedded = EmbeddedOperator(api, tenant, tells_of_ends=False, drift_seconds=1)
    await embedded.start()
    try:
        resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
        await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
        await tenant.until_plans(["ro"])
        await tenant.delete("ro")
        await tenant.until_gone("ro")
        await api.delete(paths.hoop_resource(namespace, resource))

        async def gone() -> bool:
            return resource not in await tenant.resources()

        await eventually(gone, what="the resource is let go, since no plan uses it")

        roles = [{"name": "app", "secret": {"VALUE": "1"}}]
        await tenant.register("plain", type="custom", subtype="thing", envVars={"A": "1"}, roles=roles)
        await tenant.until("plain", "Registered")
        await tenant.delete_resource("plain")
        with contextlib.suppress(ObjectNotFound):  # the garbage collector does it too, later on a new cluster
            await api.delete(paths.secret(namespace, "plain-app-connection"))

        async def forgotten() -> bool:
            return (namespace, "plain") not in embedded._reconciler._memory.resources

        await eventually(forgotten, what="the end of the Secret has it look at the resource")
        assert await tenant.read_secret("plain-app-connection") is None
    finally:
        await embedded.stop()


class FlakyApi(KubernetesApi):
    """An API server that fails the first status writes of resources."""

    def __init__(self, api: KubernetesApi, failures: int) -> None:
        super().__init__(api._client)
        self.failures = failures

    async def merge_patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if "/hoopresources/" in path and self.failures:
            self.failures -= 1
            raise ClusterUnavailable("try again")
        return await super().merge_patch(path, body)


async def test_plans_do_not_wait_for_the_status_of_their_resource(
    api: KubernetesApi, namespace: str, postgres: Server, database: str
) -> None:
    tenant = Tenant(api, namespace, str(uuid.uuid4()))
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    flaky = FlakyApi(api, failures=2)
    embedded = EmbeddedOperator(flaky, tenant)
    await embedded.start()
    try:
        await tenant.until_plans(["ro"])
        await tenant.until_resource(resource)
    finally:
        await embedded.stop()
    assert not flaky.failures


@contextlib.asynccontextmanager
async def meddling(tenant: Tenant, names: list[str]) -> AsyncIterator[None]:
    """Somebody edits plans and Secrets all the time."""

    async def meddle() -> None:
        count = 0
        while True:
            count += 1
            for name in names:
                label = {"metadata": {"labels": {"edited": str(count)}}}
                key = {"stringData": {"note": str(count)}}
                for path, patch in (
                    (paths.hoop_role_plan(tenant.namespace, name), label),
                    (paths.secret(tenant.namespace, f"{name}-credentials"), key),
                ):
                    with contextlib.suppress(ClusterError):
                        await tenant.api.merge_patch(path, patch)

    task = asyncio.create_task(meddle())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_it_gets_along_with_others_who_edit_the_same_objects(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    admin: Administrator,
    database: str,
) -> None:
    process = own_operator(SETTINGS)
    tenant = Tenant(api, namespace, process.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await process.start()
    names = [f"plan-{number}" for number in range(6)]
    async with meddling(tenant, names):
        for name in names:
            await tenant.plan(name, resource, scopes=[database], privileges=["SELECT"])
        await tenant.until_plans(names)
        for number in range(3):
            for name in names:
                await tenant.annotate(name, rotate_at=str(number))
        await tenant.change("plan-0", scopes=[database, f"{database}.extra"], privileges=["INSERT"])

        for name in names:
            await until_rotated(tenant, name, "2")
        await tenant.until_plans(names)
    await tenant.until_plans(names)
    session = await admin.connect(database)
    for name in names:
        await assert_whole(tenant, name, CHANGED if name == "plan-0" else SELECTS, session, postgres)
        assert (await tenant.secret(name))["note"]
        assert (await tenant.plans())[name]["metadata"]["labels"]["edited"]
