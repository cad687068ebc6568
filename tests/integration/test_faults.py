"""The operator is killed, or loses an answer, at every side effect of a run, and nothing comes of it."""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ObjectNotFound
from integration.administrator import Administrator
from integration.aftermath import assert_whole
from integration.api_proxy import ApiProxy, BrokenOff, PassOn, is_write, kind_of, password_in
from integration.operator_process import OperatorProcess
from integration.proxy import CommitProxy
from integration.roles import Grant, Roles
from integration.server_log import logged
from integration.tenant import Tenant, eventually, is_answered, ready
from local.postgresql import Server

pytestmark = pytest.mark.version_independent

MakeOperator = Callable[[Mapping[str, str]], OperatorProcess]

SETTINGS = {"HOOP_RETRY_SECONDS_MAX": "1", "HOOP_CONNECT_TIMEOUT_SECONDS": "2"}
LONG_AGO = "2026-01-01T00:00:00Z"
SECONDS = 60
QUIET_SECONDS = 0.5
"""An operator that has written nothing for so long has done all that it does about an operation."""

Moment = str
"""`before` a side effect, or `after` it and before the operator has the answer."""
Effect = tuple[str, int]
"""What is written, and the how manieth of its kind in one operation."""


class Stage:
    """An operator behind proxies that see all it does and let it die of that, and the tenant that it serves."""

    def __init__(self, process: OperatorProcess, api: KubernetesApi, namespace: str, server: Server) -> None:
        self.process = process
        self.tenant = Tenant(api, namespace, process.agent_id)
        self.resource = ""
        self.struck = asyncio.Event()
        self.passwords: set[str] = set()
        """Every password that the operator has ever put into a Secret."""
        self._server = server
        self._fatal = False
        self._target: tuple[Moment, Effect] | None = None
        self._written: list[Effect] = []
        self._counts: Counter[str] = Counter()
        self._api_proxy = ApiProxy(process.kubeconfig)
        self._proxy = CommitProxy(
            server.port, self._before_commit, lambda effect: self._meet("after", effect)
        )

    async def open(self, directory: Path) -> None:
        """Start the operator and have its resource registered."""
        await self._proxy.open()
        await self._api_proxy.open()
        self._api_proxy.interfere = self._request
        self.process.kubeconfig = self._api_proxy.save_kubeconfig(directory / self.process.agent_id)
        self.resource = await self.tenant.resource(
            self._server, user=self._server.user, password=self._server.password, port=self._proxy.port
        )
        await self.process.start()
        await self.tenant.until_resource(self.resource, seconds=SECONDS)

    async def close(self) -> None:
        """End it all."""
        self.process.kill()
        await self._api_proxy.close()
        await self._proxy.close()

    def begin(self, target: tuple[Moment, Effect] | None = None, *, fatal: bool = False) -> None:
        """Count side effects anew; at the target the operator is killed, or its connection cut and nothing more."""
        self.struck.clear()
        self._target, self._fatal = target, fatal
        self._written.clear()
        self._counts.clear()

    async def all_written(self, known: Collection[str] = ()) -> list[Effect]:
        """Wait until the operator has written what it is known to and is quiet; return all since it is counted."""

        async def all_known() -> bool:
            return self._counts.keys() >= set(known)

        await eventually(all_known, what=f"each of {known} is written")
        seen = -1
        while seen != len(self._written):
            seen = len(self._written)
            await asyncio.sleep(QUIET_SECONDS)
        return list(self._written)

    async def _request(self, request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        if not is_write(request):
            return await pass_on()
        effect = self._count(f"{request.method} {kind_of(request)}")
        self._meet("before", effect)
        answer = await pass_on()
        if answer.status < HTTPStatus.BAD_REQUEST and (password := await password_in(request)):
            self.passwords.add(password)
        self._meet("after", effect)
        return answer

    def _before_commit(self) -> Effect:
        effect = self._count("COMMIT")
        self._meet("before", effect)
        return effect

    def _count(self, what: str) -> Effect:
        self._counts[what] += 1
        self._written.append((what, self._counts[what]))
        return self._written[-1]

    def _meet(self, moment: Moment, effect: Effect) -> None:
        if self._target == (moment, effect):
            self._target = None
            if self._fatal:
                self.process.kill()
            self.struck.set()
            raise BrokenOff


async def create(stage: "Stage", plan: str, databases: list[str]) -> None:
    # What is ignored is told by an event.
    spec: dict[str, Any] = {"scopes": databases, "privileges": ["SELECT"], "rotationInterval": "24h"}
    await stage.tenant.plan(plan, stage.resource, sourceRole="pg_monitor", **spec)


async def change(stage: "Stage", plan: str, databases: list[str]) -> None:
    scopes = [databases[0], f"{databases[1]}.extra"]
    template = {"type": "Opaque", "data": {"dsn": "${uri}"}}
    await stage.tenant.change(plan, scopes=scopes, privileges=["INSERT"], secretTemplate=template)


async def adopt(stage: "Stage", plan: str, databases: list[str]) -> None:
    spec: dict[str, Any] = {"scopes": databases, "privileges": ["SELECT"]}
    await stage.tenant.plan(plan, stage.resource, annotations={"hoop.dev/adopt": "true"}, **spec)


async def rotate(stage: "Stage", plan: str, _: list[str]) -> None:
    await stage.tenant.annotate(plan, rotate_at="now")


async def rotate_by_spec(stage: Stage, plan: str, _: list[str]) -> None:
    await stage.tenant.change(plan, rotatePassword=True)


async def rotate_on_schedule(stage: Stage, plan: str, _: list[str]) -> None:
    await stage.tenant.let_password_age(plan, LONG_AGO)


async def delete(stage: "Stage", plan: str, _: list[str]) -> None:
    await stage.tenant.delete(plan)


Operation = Callable[[Stage, str, list[str]], Awaitable[None]]

ROTATIONS = (rotate, rotate_by_spec, rotate_on_schedule)
REPLACEMENT = ("PATCH secrets", "POST secrets", "DELETE secrets")
EFFECTS: Mapping[Operation, set[str]] = {
    create: {"POST secrets", "PATCH hooproleplans", "COMMIT", "PATCH hooproleplans/status", "POST events"},
    change: {"COMMIT", *REPLACEMENT, "PATCH hooproleplans/status", "POST events"},
    adopt: {*REPLACEMENT, "PATCH hooproleplans", "COMMIT", "PATCH hooproleplans/status", "POST events"},
    **{rotation: {"PATCH secrets", "COMMIT", "PATCH hooproleplans/status"} for rotation in ROTATIONS},
    delete: {"COMMIT", "DELETE secrets", "PATCH hooproleplans", "PATCH hoopresources/status"},
}
"""What each operation is known to write at the least; whatever else it writes is tried too."""


class Trial:
    """Lives of one operator, one after another: each is an operation on a plan of its own."""

    def __init__(self, stage: Stage, operation: Operation, databases: list[str], roles: Roles) -> None:
        self._stage = stage
        self._tenant = stage.tenant
        self._operation = operation
        self._databases = databases
        self._roles = roles

    async def live(
        self, target: tuple[Moment, Effect] | None = None, *, fatal: bool = False
    ) -> list[set[Grant]]:
        """Do the operation, with the operator meeting its fate on the way; return the grants in every database."""
        stage, plan = self._stage, f"plan-{secrets.token_hex(4)}"
        if self._operation is adopt:
            await self._known_to_people(plan)
        elif self._operation is not create:
            await create(stage, plan, self._databases)
            await self._tenant.until_plans([plan], seconds=SECONDS)
            # It is told of last.
            await eventually(lambda: self._tenant.events(plan), what="an event about the plan")
        await self._until_counted()
        if self._operation is rotate_on_schedule:
            await (
                stage.all_written()
            )  # nothing that is written of the plan shall overtake what the test says of it
        if self._operation is change:
            await self._tenant.change_secret(f"{plan}-credentials", note="theirs")
        before = await self._tenant.secret(plan)
        known = {*stage.passwords, before.get("password")}
        stage.begin(target, fatal=fatal)
        await self._operation(stage, plan, self._databases)
        if target is not None:
            async with asyncio.timeout(SECONDS):
                await stage.struck.wait()
            if fatal:
                stage.process.spawn()
        await eventually(
            lambda: self._is_done(plan), seconds=SECONDS, what=f"it is done in spite of {target}"
        )
        if self._operation is delete:
            assert not await self._roles_like(plan)
            return []
        body = (await self._tenant.plans())[plan]
        status = body["status"]
        assert await self._roles_like(plan) == [status["role"]]
        grants = {("orders", "INSERT" if self._operation is change else "SELECT")}
        session = await self._roles.administrator.connect(self._databases[0])
        async with session:
            await assert_whole(self._tenant, plan, grants, session, self._roles.administrator.server)
        secret = await self._tenant.secret(plan)
        is_new = self._operation in {create, *ROTATIONS}
        assert (secret["password"] != before.get("password")) is is_new
        assert len(stage.passwords - known) == is_new
        assert ("dsn" in secret) is (self._operation is change)
        assert secret.get("note") == before.get("note")
        await self._assert_replaced(plan, body["metadata"]["uid"])
        return [await self._roles.grants(database, status["role"]) for database in self._databases]

    async def _known_to_people(self, plan: str) -> None:
        """Make a Secret with a password, and with what else somebody has in it."""
        body = {
            "metadata": {"name": f"{plan}-credentials"},
            "stringData": {"password": secrets.token_hex(16), "note": "theirs"},
        }
        await self._tenant.api.create(paths.secrets(self._tenant.namespace), body)

    async def _assert_replaced(self, plan: str, uid: str) -> None:
        """The Secret has the type that the plan asks for, and nothing is left of the way there."""
        api, namespace = self._tenant.api, self._tenant.namespace
        secret = await api.get(paths.secret(namespace, f"{plan}-credentials"))
        asked = "Opaque" if self._operation is change else "servicebinding.io/postgresql"
        assert (secret["type"], "hoop.dev/held-in" in secret["metadata"]["annotations"]) == (asked, False)
        with pytest.raises(ObjectNotFound):
            await api.get(paths.secret(namespace, f"hoop-held-{uid}"))

    async def _is_done(self, plan: str) -> bool:
        try:
            body = await self._tenant.api.get(paths.hoop_role_plan(self._tenant.namespace, plan))
        except ObjectNotFound:
            return self._operation is delete
        if self._operation is delete:
            return False
        status = body.get("status") or {}
        asked = status.get("observedRotateAt") == "now" or self._operation is not rotate
        of_age = status.get("lastRotationTime") != LONG_AGO
        return is_answered(body) and ready(body)[0] == "Applied" and asked and of_age

    async def _until_counted(self) -> None:
        """Wait until nothing is to be written about any plan before this one."""

        async def counted() -> bool:
            resource = (await self._tenant.resources())[self._stage.resource]
            own = [
                plan
                for plan in (await self._tenant.plans()).values()
                if plan["spec"]["resourceRef"]["name"] == self._stage.resource
            ]
            return bool(resource["status"].get("plans", 0) == len(own))

        await eventually(counted, seconds=SECONDS, what="all plans are counted")

    async def _roles_like(self, plan: str) -> list[str]:
        """All roles that were ever made for a plan, whatever their comment."""
        pattern = f"hoopdev\\_%{plan.removeprefix('plan-')}%"
        query = "SELECT rolname FROM pg_roles WHERE rolname LIKE %(pattern)s ORDER BY 1"
        return [row[0] for row in await self._roles.rows("postgres", query, pattern=pattern)]


@pytest.fixture
async def databases(admin: Administrator) -> list[str]:
    """Two databases with a table in each of two schemas."""
    names = [await admin.create_database() for _ in range(2)]
    for name in names:
        session = await admin.connect(name)
        await session.execute(
            "CREATE TABLE orders (id serial); CREATE SCHEMA extra CREATE TABLE goods (id int)"
        )
        await session.close()
    return names


@pytest.mark.parametrize("operation", [create, change, adopt, *ROTATIONS, delete])
async def test_it_may_be_killed_or_lose_the_answer_at_any_side_effect(
    operation: Operation,
    own_operator: MakeOperator,
    api: KubernetesApi,
    namespace: str,
    postgres: Server,
    databases: list[str],
    roles: Roles,
    tmp_path: Path,
) -> None:
    log_begins = postgres.log.stat().st_size
    stages = [Stage(own_operator(SETTINGS), api, namespace, postgres) for _ in range(3)]
    try:
        await asyncio.gather(*(stage.open(tmp_path) for stage in stages))
        trials = [Trial(stage, operation, databases, roles) for stage in stages]
        undisturbed = await trials[0].live()
        effects = await stages[0].all_written(EFFECTS[operation])

        async def killed(trial: Trial, moment: Moment, at: list[Effect]) -> None:
            for effect in at:
                assert await trial.live((moment, effect), fatal=True) == undisturbed

        async def deprived(trial: Trial) -> None:
            for effect in effects:
                for moment in ("before", "after"):
                    assert await trial.live((moment, effect)) == undisturbed

        # One after another, the world before a write is the world after the one before it, as far as the dead can tell;
        # transactions in several databases are under way together.
        other_worlds = [effect for effect in effects if effect[0] == "COMMIT" or effect == effects[0]]
        await asyncio.gather(
            killed(trials[0], "before", other_worlds),
            killed(trials[1], "after", effects),
            deprived(trials[2]),
        )
    finally:
        for stage in stages:
            await stage.close()
    passwords = {password for stage in stages for password in stage.passwords}
    assert passwords
    told = ["\n".join(logged(postgres, log_begins)), *(stage.process.said() for stage in stages)]
    objects = (paths.events(namespace), paths.hoop_resources(namespace), paths.hoop_role_plans(namespace))
    told += [json.dumps(await api.get(path)) for path in objects]
    assert not [password for password in passwords for text in told if password in text]
