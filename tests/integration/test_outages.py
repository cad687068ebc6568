"""What a run is caught in the middle by: servers that go, networks that swallow, an API server that refuses."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from psycopg import sql

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.secrets import read_secret
from integration.administrator import Administrator
from integration.aftermath import assert_whole
from integration.api_proxy import (
    ApiProxy,
    BrokenOff,
    PassOn,
    half_of,
    is_watch,
    is_write,
    let_pass,
    refusal,
    silence,
    watch_error,
)
from integration.operator_process import OperatorProcess
from integration.proxy import Proxy
from integration.small_server import SmallServer
from integration.tenant import Tenant, eventually, ready, roles_of
from local import cluster, ports, postgresql, processes
from local.postgresql import Server
from local.stack import Stack

pytestmark = pytest.mark.version_independent

SECONDS = 60
SETTINGS = {
    "HOOP_RETRY_SECONDS_MAX": "1",
    "HOOP_CONNECT_TIMEOUT_SECONDS": "2",
    "HOOP_STATEMENT_TIMEOUT_SECONDS": "2",
}
TABLES = 600
SELECTS = {("orders", "SELECT"), ("customers", "SELECT")}
INSERTS = {("orders", "INSERT"), ("customers", "INSERT")}
MIDDLE = {"created": b"CREATE ROLE", "rotated": b"SCRAM-SHA-256", "deleted": b"DROP ROLE"}
"""Plans by what is asked of them, and the statement before which the outage begins."""

MakeOperator = Callable[[Mapping[str, str]], OperatorProcess]


class HeldProxy(Proxy):
    """Holds one statement back until it is let go."""

    def __init__(self, target_port: int, statement: bytes) -> None:
        super().__init__(target_port, self._hold)
        self.held = asyncio.Event()
        self.let_go = asyncio.Event()
        self.armed = False
        self._statement = statement

    async def _hold(self, piece: bytes) -> None:
        if self.armed and self._statement in piece:
            self.held.set()
            await self.let_go.wait()


class Scene:
    """An operator that reaches the API server and PostgreSQL by ways that a test can spoil, and its tenant."""

    def __init__(
        self, process: OperatorProcess, api: KubernetesApi, namespace: str, server: Server, stack: Stack
    ) -> None:
        self.process = process
        self.tenant = Tenant(api, namespace, process.agent_id)
        self.api_proxy = ApiProxy(process.kubeconfig)
        self.proxies = {plan: HeldProxy(server.port, statement) for plan, statement in MIDDLE.items()}
        self.resources: dict[str, str] = {}
        self.server = server
        self.stack = stack

    async def open(self, directory: Path) -> None:
        """Start the operator and have its resources registered: one server each, as the operator sees it."""
        await self.api_proxy.open()
        self.process.kubeconfig = self.api_proxy.save_kubeconfig(directory / "kubeconfig")
        for name, proxy in self.proxies.items():
            await proxy.open()
            self.resources[name] = await self.tenant.resource(
                self.server, user=self.server.user, password=self.server.password, port=proxy.port
            )
        await self.process.start()
        for resource in self.resources.values():
            await self.tenant.until_resource(resource, seconds=SECONDS)

    async def close(self) -> None:
        """End it all."""
        self.process.kill()
        await self.api_proxy.close()
        for proxy in self.proxies.values():
            await proxy.close()

    async def plan(self, name: str, database: str, like: str = "created") -> None:
        """Make a plan on the resource of another."""
        await self.tenant.plan(name, self.resources[like], scopes=[database], privileges=["SELECT"])


@pytest.fixture
async def scene(
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    stack: Stack,
    tmp_path: Path,
) -> AsyncIterator[Scene]:
    made = Scene(own_operator(SETTINGS), api, namespace, postgres, stack)
    try:
        await made.open(tmp_path)
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def no_api_server(scene: Scene) -> AsyncIterator[None]:
    """The API server is killed, and what it has told of before is forgotten when it is back: etcd is compacted.

    An operator that is started meanwhile comes to itself.
    """
    directory = scene.stack.directory
    await asyncio.to_thread(processes.stop, cluster.record(directory, "kube-apiserver"), ask=signal.SIGKILL)
    etcd = f"http://127.0.0.1:{ports.remembered(directory / 'ports/etcd')}/v3"
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{etcd}/maintenance/status", json={}) as answer:
            revision = (await answer.json())["header"]["revision"]
        compaction = {"revision": revision, "physical": True}
        async with session.post(f"{etcd}/kv/compaction", json=compaction) as answer:
            assert answer.status == 200, await answer.text()
    late = OperatorProcess(scene.process.kubeconfig, scene.process.log.with_suffix(".late"), SETTINGS)
    late.spawn()
    try:
        yield
        await eventually(scene.process.alive, seconds=SECONDS, what="it is alive without the API server")
        with scene.stack.lock():
            await asyncio.to_thread(scene.stack.start_control_plane)
        await eventually(late.alive, seconds=SECONDS, what="one that was started meanwhile is alive")
    finally:
        late.bury()


@asynccontextmanager
async def no_postgresql(scene: Scene) -> AsyncIterator[None]:
    """PostgreSQL is stopped at once, as in a crash, and recovers when it is started."""
    directory, version = scene.stack.directory, scene.server.version
    await asyncio.to_thread(processes.stop, postgresql.record(directory, version), ask=signal.SIGQUIT)
    yield
    await assert_told(scene)
    with scene.stack.lock():
        await asyncio.to_thread(scene.stack.start_postgres, version)


@asynccontextmanager
async def black_hole_before_postgresql(scene: Scene) -> AsyncIterator[None]:
    """Connections stay open, new ones are taken, and nothing passes."""
    for proxy in scene.proxies.values():
        proxy.silent = True
    yield
    await assert_told(scene)
    for proxy in scene.proxies.values():
        proxy.silent = False


@asynccontextmanager
async def black_hole_before_the_api_server(scene: Scene) -> AsyncIterator[None]:
    """Requests are taken and never answered; when the network is back it knows none of the connections any more."""

    async def swallow(_: web.Request, __: PassOn) -> web.StreamResponse:
        await over.wait()
        raise BrokenOff

    over = asyncio.Event()
    former, scene.api_proxy.interfere = scene.api_proxy.interfere, swallow
    yield
    await eventually(scene.process.alive, seconds=SECONDS, what="it is alive without an answer")
    scene.api_proxy.interfere = former
    over.set()
    scene.api_proxy.cut_watches()


def is_rotated(plan: Mapping[str, Any]) -> bool:
    """Whether a plan's status tells of the rotation that was asked for."""
    return bool(plan["status"].get("observedRotateAt") == "now")


Outage = Callable[[Scene], AbstractAsyncContextManager[None]]


async def assert_told(scene: Scene) -> None:
    """Resources and plans say that the server is away."""
    for resource in scene.resources.values():
        await scene.tenant.until_resource(resource, "ServerUnreachable", seconds=SECONDS)

    async def told() -> bool:
        plans = await scene.tenant.plans()
        return all(ready(plans[name])[0] in {"ServerUnreachable", "ResourceNotReady"} for name in MIDDLE)

    await eventually(told, seconds=SECONDS, what="the plans say that their server is away")


@pytest.mark.parametrize(
    "outage",
    [no_api_server, no_postgresql, black_hole_before_postgresql, black_hole_before_the_api_server],
)
async def test_an_outage_in_the_middle_of_a_run_is_told_and_outlasted(
    outage: Outage, scene: Scene, admin: Administrator, database: str
) -> None:
    tenant, proxies = scene.tenant, scene.proxies
    for name in ("rotated", "deleted"):
        await scene.plan(name, database, like=name)
    await tenant.until_plans(["rotated", "deleted"], seconds=SECONDS)
    before = (await tenant.secret("rotated"))["password"]
    for proxy in proxies.values():
        proxy.armed = True
    await scene.plan("created", database)
    await tenant.annotate("rotated", rotate_at="now")
    await tenant.delete("deleted")
    async with asyncio.timeout(SECONDS):
        for proxy in proxies.values():
            await proxy.held.wait()
    async with outage(scene):
        for proxy in proxies.values():
            proxy.let_go.set()
    await scene.plan("later", database)
    await tenant.until_plans(["created", "rotated", "later"], seconds=SECONDS)
    await tenant.until_plan("rotated", is_rotated, "it is rotated", seconds=SECONDS)
    await tenant.until_gone("deleted", seconds=SECONDS)
    assert (await tenant.secret("rotated"))["password"] != before
    session = await admin.connect(database)
    for name in ("created", "rotated", "later"):
        await assert_whole(tenant, name, SELECTS, session, scene.server)
    assert not await roles_of(session, tenant.namespace, "deleted")
    assert outage is not no_api_server or scene.api_proxy.expired


WAYS = ("in conflict", "throttled", "failed", "overloaded", "reset", "unanswered", "truncated", "expired")
"""How an API server and the way to it can fail one request."""


class Weather:
    """Fails a third of all requests, in one way after the other as far as it fits the request."""

    def __init__(self, seed: int) -> None:
        self.met: set[str] = set()
        self._dice = random.Random(seed)  # noqa: S311 -- not for secrets
        self._ways: list[str] = []

    async def __call__(self, request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        if self._dice.random() > 1 / 3:
            return await pass_on()
        unfit = {"truncated", "unanswered"} if is_watch(request) else {"expired"}
        if not is_write(request):
            unfit.add("in conflict")
        if not set(self._ways) - unfit:
            self._ways += self._dice.sample(WAYS, len(WAYS))
        way = next(way for way in self._ways if way not in unfit)
        self._ways.remove(way)
        self.met.add(way)
        match way:
            case "in conflict":
                return refusal(409, "Conflict")
            case "throttled":
                return refusal(429, "TooManyRequests", **{"Retry-After": "1"})
            case "failed":
                return refusal(500, "InternalError")
            case "overloaded":
                return refusal(503, "ServiceUnavailable")
            case "expired":
                return await watch_error(request, 410, "Expired")
            case "truncated":
                return await half_of(request, await pass_on())
            case "unanswered":
                await pass_on()
        raise BrokenOff


async def test_any_mix_of_failures_on_both_sides_is_outlasted(
    scene: Scene, admin: Administrator, database: str
) -> None:
    tenant, weather = scene.tenant, Weather(seed=1)
    proxy = scene.proxies["created"]
    names = [f"plan-{number}" for number in range(12)]
    changed, rotated, deleted = names[:3], names[3:6], names[6:9]

    async def storm() -> None:
        while True:
            await asyncio.sleep(0.7)
            proxy.cut()
            scene.api_proxy.cut_watches()

    for name in names[:9]:
        await scene.plan(name, database)
    await tenant.until_plans(names[:9], seconds=SECONDS)
    before = {name: (await tenant.secret(name))["password"] for name in rotated}
    scene.api_proxy.interfere = weather
    stormy = asyncio.create_task(storm())
    try:
        for name in names[9:]:
            await scene.plan(name, database)
        for name in changed:
            await tenant.change(name, privileges=["INSERT"])
        for name in rotated:
            await tenant.annotate(name, rotate_at="now")
        for name in deleted:
            await tenant.delete(name)
        await asyncio.wait([stormy], timeout=8)

        async def all_met() -> bool:
            return weather.met >= {*WAYS} - {"expired"}

        await eventually(all_met, what="every failure but one that only a watch can meet")
    finally:
        stormy.cancel()
    scene.api_proxy.interfere = let_pass
    await scene.plan("later", database)
    kept = sorted({*names, "later"} - {*deleted})
    await tenant.until_plans(kept, seconds=SECONDS)
    for name in deleted:
        await tenant.until_gone(name, seconds=SECONDS)
    for name in rotated:
        await tenant.until_plan(name, is_rotated, "it is rotated", seconds=SECONDS)
    session = await admin.connect(database)
    for name in kept:
        await assert_whole(tenant, name, INSERTS if name in changed else SELECTS, session, scene.server)
    for name in rotated:
        assert (await tenant.secret(name))["password"] != before[name]
    for name in deleted:
        assert not await roles_of(session, tenant.namespace, name)


async def test_a_full_disk_of_the_server_is_told_in_its_words_until_there_is_room(
    scene: Scene, postgres: Server, stack_directory: Path
) -> None:
    tenant, small = scene.tenant, SmallServer(stack_directory / "small", postgres.version)
    try:
        server = await asyncio.to_thread(small.start)
        administrator = Administrator(server)
        session = await administrator.connect()
        # The grants on so many tables need another page of pg_class.
        for number in range(TABLES):
            await session.execute(sql.SQL("CREATE TABLE {} ()").format(sql.Identifier(f"table_{number}")))
        await session.execute("CHECKPOINT")
        resource = await tenant.resource(server, user=server.user, password=server.password)
        await tenant.until_resource(resource, seconds=SECONDS)
        await asyncio.to_thread(small.fill)
        await tenant.plan("ro", resource, scopes=["postgres"], privileges=["SELECT"])
        await tenant.until_plan(
            "ro",
            lambda plan: ready(plan)[0] == "ApplyFailed" and "No space left on device" in ready(plan)[1],
            "the full disk is told",
            seconds=SECONDS,
        )
        await asyncio.to_thread(small.make_room)
        await tenant.until_plans(["ro"], seconds=SECONDS)
        grants = {(f"table_{number}", "SELECT") for number in range(TABLES)}
        await assert_whole(tenant, "ro", grants, session, server)
        await session.close()
    finally:
        small.remove()


async def test_answers_to_watches_that_nobody_understands_are_outlasted_while_another_watch_gets_none(
    scene: Scene, admin: Administrator, database: str
) -> None:
    answers = {
        "an error event": lambda: web.json_response(
            {
                "type": "ERROR",
                "object": {"kind": "Status", "code": 500, "message": "etcdserver: leader changed"},
            }
        ),
        "refused for good": lambda: refusal(404, "NotFound"),
        "a page": lambda: web.Response(text="<html>", content_type="text/html"),
    }
    to_come = [(path, answer) for answer in answers for path in ("hooproleplans", "secrets")]

    async def misunderstand(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        for path, answer in to_come:
            if is_watch(request) and request.path.endswith(f"/{path}"):
                to_come.remove((path, answer))
                return answers[answer]()
        if to_come and is_watch(request) and request.path.endswith("/hoopresources"):
            await silence()
        return await pass_on()

    async def all_given() -> bool:
        scene.api_proxy.cut_watches()
        return not to_come

    scene.api_proxy.interfere = misunderstand
    await eventually(all_given, seconds=2 * SECONDS, what="every answer is given to every watch")
    await scene.plan("later", database)
    await scene.tenant.until_plans(["later"], seconds=SECONDS)
    await assert_whole(scene.tenant, "later", SELECTS, await admin.connect(database), scene.server)
    assert scene.process.running


async def test_an_edit_between_the_look_and_the_first_write_is_answered_by_a_run_of_its_own(
    own_operator: Callable[[Mapping[str, str]], OperatorProcess],
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    database: str,
    tmp_path: Path,
) -> None:
    process = own_operator(SETTINGS)
    tenant = Tenant(api, namespace, process.agent_id)
    proxy = ApiProxy(process.kubeconfig)
    await proxy.open()
    edited: list[str] = []

    async def edit(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        if request.method == "PATCH" and b"/metadata/finalizers" in await request.read() and not edited:
            edited.append(request.path)
            await tenant.change("ro", privileges=["INSERT"])
        return await pass_on()

    try:
        process.kubeconfig = proxy.save_kubeconfig(tmp_path / "kubeconfig")
        resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
        await process.start()
        await tenant.until_resource(resource, seconds=SECONDS)
        proxy.interfere = edit
        await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
        plan = await tenant.until_plan(
            "ro",
            lambda body: (body.get("status") or {}).get("observedGeneration") == 2,
            "the edit is answered",
        )
        assert [run["generation"] for run in plan["status"]["history"]] == [2, 1]
        assert len(edited) == 1
        assert edited[0].endswith("/ro")
    finally:
        process.kill()
        await proxy.close()


async def test_a_connection_secret_that_is_deleted_while_it_is_being_changed_is_made_anew(
    scene: Scene,
) -> None:
    tenant, resource = scene.tenant, scene.resources["created"]
    path = paths.secret(tenant.namespace, f"{resource}-app-connection")
    deleted: list[str] = []

    async def delete(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        if request.method == "PATCH" and request.path == path and not deleted:
            deleted.append(path)
            await tenant.api.delete(path)
        return await pass_on()

    async def ask_for(value: str) -> None:
        roles = [{"name": "app", "secret": {"VALUE": value}}]
        await tenant.api.merge_patch(
            paths.hoop_resource(tenant.namespace, resource), {"spec": {"roles": roles}}
        )

        async def holds_it() -> bool:
            secret = await read_secret(tenant.api, tenant.namespace, f"{resource}-app-connection")
            return secret is not None and secret.data == {"VALUE": value.encode()}

        await eventually(holds_it, seconds=SECONDS, what=f"the connection Secret holds {value}")

    await ask_for("first")
    scene.api_proxy.interfere = delete
    await ask_for("second")
    assert deleted
    await tenant.until_resource(resource, seconds=SECONDS)
