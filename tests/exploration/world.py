"""A cluster and a server, the operators that work on them, and everybody else who does something there."""

import asyncio
import base64
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from exploration import postgresql, snapshot
from exploration.api_server import ApiClient, ApiServer, Object
from exploration.postgresql import DATABASE, OWNER, Grant, PostgreSQL, RoleRow
from exploration.promises import ADDED_KEY, Promises
from exploration.schedule import Gate, Life, Schedule
from hoop_operator.cluster import paths
from hoop_operator.errors import ClusterError, ServerUnreachable
from hoop_operator.naming import connection_secret_name, default_secret_name, role_name
from hoop_operator.postgres import fence, scram
from hoop_operator.reconcile import inbox, plans, remove, turn
from hoop_operator.reconcile.reconciler import Reconciler
from hoop_operator.settings import Settings

NAMESPACE = "tenant"
RESOURCE, ANOTHER_RESOURCE = "pg", "again"
"""Two of one server."""
ADMIN_SECRET = "admin"
CONNECTION = "app"
DRIFT_SECONDS = 300.0
SETTLED_SECONDS = 2.3 * DRIFT_SECONDS
"""Time enough for two looks at everything, whatever was to be tried again in between."""
RETRY_SECONDS = 5.0
PATIENCE_SECONDS = 2.5
"""Longer than what follows by itself takes, shorter than the second attempt at what failed."""
GATES_MAX = 20_000
"""More than any story needs to come to its end: what takes longer goes round in circles."""

logger = logging.getLogger("hoop_operator")

SETTINGS = Settings(watch_namespaces=[NAMESPACE], drift_interval_seconds=DRIFT_SECONDS)


class World:
    """All that there is, with one operator running, and the promises that it has made."""

    def __init__(self) -> None:
        self.schedule = Schedule()
        self.cluster = ApiServer()
        self.server = PostgreSQL()
        self.operators: list[Life] = []
        self.promises = Promises(self.cluster, self.server)
        self._born = 0
        self._log = _Unforeseen(self.promises.broken)
        logger.addHandler(self._log)
        self.cluster.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        values = {"host": "db", "username": "postgres", "password": "admin's own"}
        self.cluster.create(
            paths.secrets(NAMESPACE),
            {"metadata": {"name": ADMIN_SECRET}, "type": "Opaque", "stringData": values},
        )
        for name, roles in ((RESOURCE, [CONNECTION]), (ANOTHER_RESOURCE, [])):
            self.cluster.create(
                paths.hoop_resources(NAMESPACE),
                {
                    "apiVersion": "hoop.dev/v1alpha1",
                    "kind": "HoopResource",
                    "metadata": {"name": name},
                    "spec": {
                        "type": "database",
                        "subtype": "postgres",
                        "envVarsFrom": [{"secretRef": {"name": ADMIN_SECRET}}],
                        "roles": _roles("0", *roles),
                    },
                },
            )

        # What is not the operator's, under names that plans may come to want.
        self.cluster.create(
            paths.secrets(NAMESPACE),
            {
                "metadata": {"name": "taken-credentials"},
                "type": "Opaque",
                "stringData": {"password": "theirs"},
            },
        )
        squatter = ("role", role_name(RESOURCE, "squatted"))
        self.server.rows[squatter] = RoleRow(self.server.new_oid(), verifier=scram.make_verifier("theirs"))

    def close(self) -> None:
        """End everything that still runs."""
        logging.getLogger("hoop_operator").removeHandler(self._log)
        for life in list(self.operators):
            self.kill(life)
        self.schedule.close()

    # What operators do

    def start(self) -> Life:
        """Start an operator, beside those that run."""
        self._born += 1
        life = Life(f"operator {self._born}")
        self.operators.append(life)
        self.schedule.begin(life, self._live(life))
        return life

    def kill(self, life: Life) -> None:
        """End an operator in the midst of whatever it does."""
        self.operators.remove(life)
        self.schedule.kill(life)

    async def _live(self, life: Life) -> None:
        """What the handlers and kopf do."""
        api = ApiClient(self.cluster, self.schedule)
        while True:
            reconciler = Reconciler(api, SETTINGS, lambda: life.leading)
            try:
                await reconciler.start()
                break
            except ClusterError:
                await reconciler.stop()
                await asyncio.sleep(RETRY_SECONDS)
        for path, seen, gone in (
            (paths.hoop_resources(NAMESPACE), reconciler.resource_seen, reconciler.resource_gone),
            (paths.hoop_role_plans(NAMESPACE), reconciler.plan_seen, reconciler.plan_gone),
        ):
            life.own.append(asyncio.create_task(_tell(api, path, seen, gone)))

    @property
    def gates(self) -> list[Gate]:
        """Where something is parked."""
        return self.schedule.parked

    def step(self, choice: int = 0, *, patience: float = PATIENCE_SECONDS, only: Life | None = None) -> bool:
        """Open one of the gates, or let time pass where there is none; tell whether anything was left to do.

        What is not due within `patience` seconds is left to later, and all that is not the operator's `only`.
        """
        self.promises.check()
        loop = self.schedule.loop
        gates = [gate for gate in self.gates if only in {None, gate.life}]
        if gates:
            self.schedule.open(gates[choice % len(gates)])
        elif loop.next_timer is not None and loop.next_timer <= loop.time() + patience:
            loop.pass_time()
        else:
            return False
        return True

    def run(self, seconds: float = PATIENCE_SECONDS, *, only: Life | None = None) -> None:
        """Have everything happen in the order in which it was begun, for a while of the loop's time."""
        end = self.schedule.loop.time() + seconds
        for _ in range(GATES_MAX):
            if not self.step(patience=end - self.schedule.loop.time(), only=only):
                return
        raise AssertionError("no end is in sight")

    def settle(self) -> None:
        """Have one operator bring everything to its end, and see that all is as promised."""
        leaders = [life for life in self.operators if life.leading]
        for life in self.operators[:]:
            if life not in leaders[:1]:
                self.kill(life)
        if not leaders:
            self.start()
        self.run(SETTLED_SECONDS)
        self.promises.check_everything_is_in_order()
        writes = (len(self.cluster.changes), len(self.server.written))
        self.run(1.2 * DRIFT_SECONDS)
        assert writes == (len(self.cluster.changes), len(self.server.written)), (
            f"a look that finds everything in order writes: {self.cluster.changes[writes[0] :]}"
            f" {self.server.written[writes[1] :]}"
        )

    # What users do

    def plan(self, name: str) -> Object | None:
        """A plan, if it exists."""
        return self.cluster.objects.get(paths.hoop_role_plan(NAMESPACE, name))

    @property
    def deleting(self) -> bool:
        """Whether a plan is on its way out."""
        return any("deletionTimestamp" in known["metadata"] for known in self.cluster.objects.values())

    def create_plan(self, name: str, **spec: Any) -> None:
        """Create a plan, labelled as it is named."""
        self._note(f"create plan {name} {spec}")
        self.cluster.create(
            paths.hoop_role_plans(NAMESPACE),
            {
                "apiVersion": "hoop.dev/v1alpha1",
                "kind": "HoopRolePlan",
                "metadata": {"name": name},
                "spec": {
                    "resourceRef": {"name": RESOURCE},
                    "type": "managed",
                    "role": name,
                    "scopes": [DATABASE],
                    "privileges": ["SELECT"],
                }
                | spec,
            },
        )
        self.schedule.loop.run_until_idle()

    def patch_plan(self, name: str, **patch: Any) -> None:
        """Change a plan."""
        self._note(f"patch plan {name} {patch}")
        self.cluster.merge_patch(paths.hoop_role_plan(NAMESPACE, name), patch)
        self.schedule.loop.run_until_idle()

    def annotate(self, name: str, annotation: str, value: str | None) -> None:
        """Set an annotation of ours on a plan."""
        self.patch_plan(name, metadata={"annotations": {f"hoop.dev/{annotation}": value}})

    def approve(self, name: str) -> None:
        """Approve what a plan has computed, if it has computed anything."""
        plan = self.plan(name)
        computed = (plan or {}).get("status", {}).get("plan")
        if computed is not None:
            self.annotate(name, "approve", computed["checksum"])

    def make_anew(self, name: str) -> None:
        """Delete a plan and, if it is gone with that, make it anew for the other resource."""
        plan = self.plan(name)
        self.delete_plan(name)
        if plan is not None and self.plan(name) is None:
            there = plan["spec"]["resourceRef"]["name"]
            other = RESOURCE if there == ANOTHER_RESOURCE else ANOTHER_RESOURCE
            self.create_plan(name, **plan["spec"] | {"resourceRef": {"name": other}})

    def delete_plan(self, name: str) -> None:
        """Ask for the deletion of a plan."""
        self._note(f"delete plan {name}")
        self.cluster.delete(paths.hoop_role_plan(NAMESPACE, name), {})
        self.schedule.loop.run_until_idle()

    def change_resource(self) -> None:
        """Change what a role of the resource has in its connection Secret."""
        self.have_roles(CONNECTION)

    def have_roles(self, *names: str) -> None:
        """Have the resource list these roles, each with something new in its connection Secret."""
        value = str(len(self.cluster.changes))
        self._note(f"change resource: {names} {value}")
        patch = {"spec": {"roles": _roles(value, *names)}}
        self.cluster.merge_patch(paths.hoop_resource(NAMESPACE, RESOURCE), patch)
        self.schedule.loop.run_until_idle()

    def change_secret(self, name: str, change: Callable[[str], None]) -> None:
        """Do something to a plan's Secret, if it is there."""
        self._change_secret(default_secret_name(name), change)

    def change_connection_secret(self, change: Callable[[str], None]) -> None:
        """Do something to the Secret of the resource's role, if it is there."""
        self._change_secret(connection_secret_name(RESOURCE, CONNECTION), change)

    def _change_secret(self, name: str, change: Callable[[str], None]) -> None:
        path = paths.secret(NAMESPACE, name)
        if path in self.cluster.objects:
            self._note(f"{change.__name__} {path}")
            change(path)
            self.schedule.loop.run_until_idle()

    def delete_secret(self, path: str) -> None:
        """Delete a Secret."""
        self.cluster.delete(path, {})

    def empty_secret(self, path: str) -> None:
        """Take the password out of a Secret."""
        self.cluster.merge_patch(path, {"data": {"password": ""}})

    def edit_secret(self, path: str) -> None:
        """Put a password of somebody's own into a Secret."""
        chosen = base64.b64encode(f"chosen {len(self.cluster.changes)}".encode()).decode()
        self.cluster.merge_patch(path, {"data": {"password": chosen}})

    def add_key(self, path: str) -> None:
        """Put a key of somebody's own into a Secret."""
        self.cluster.merge_patch(path, {"data": {ADDED_KEY: base64.b64encode(b"theirs").decode()}})

    def change_value(self, path: str) -> None:
        """Put a value of somebody's own into a connection Secret."""
        self.cluster.merge_patch(path, {"data": {"VALUE": base64.b64encode(b"theirs").decode()}})

    def collect_garbage(self) -> None:
        """Have the garbage collector come round."""
        self._note("collect garbage")
        self.cluster.collect_garbage()
        self.schedule.loop.run_until_idle()

    def change_server(self, name: str, change: Callable[[str, RoleRow], Mapping[Any, Any]]) -> None:
        """Have an administrator change something about a plan's role, unless somebody is at work on the same rows."""
        plan = self.plan(name)
        role = role_name(plan["spec"]["resourceRef"]["name"] if plan else RESOURCE, name)
        row: RoleRow | None = self.server.rows.get(("role", role))
        if row is None:
            return
        writes = change(role, row)
        locked = {locked for transaction in self.server.open for locked in transaction.locks}
        if locked.intersection({*writes, ("object", str(row.oid))}):
            return
        self._note(f"{change.__name__} {role}")
        transaction = postgresql.Transaction(self.server, self.schedule, DATABASE, write=True)
        transaction.writes.update(writes)
        self.server.end(transaction, commit=True)
        self.schedule.loop.run_until_idle()

    def drop_role(self, role: str, row: RoleRow) -> dict[Any, Any]:
        """DROP OWNED and DROP ROLE."""
        freed = {
            key: frozenset(grant for grant in value if grant.grantee != row.oid)
            for key, value in self.server.rows.items()
            if key[0] in {"acl", "default"} and any(grant.grantee == row.oid for grant in value)
        }
        return {**freed, ("role", role): None, ("comment", str(row.oid)): None}

    def change_password(self, role: str, row: RoleRow) -> dict[Any, Any]:
        """ALTER ROLE … PASSWORD."""
        return {("role", role): replace(row, verifier=scram.make_verifier("drifted"))}

    def lock_out(self, role: str, row: RoleRow) -> dict[Any, Any]:
        """ALTER ROLE … NOLOGIN CREATEDB."""
        return {("role", role): replace(row, login=False, createdb=True)}

    def lose_comment(self, role: str, row: RoleRow) -> dict[Any, Any]:
        """COMMENT ON ROLE … IS NULL, of a role that is known by its OID."""
        if row.oid not in self.promises.known_oids():
            return {}
        del role
        return {("comment", str(row.oid)): None}

    def revoke(self, role: str, row: RoleRow) -> dict[Any, Any]:
        """REVOKE what the role has on a table."""
        del role
        table = ("acl", "TABLE", DATABASE, "public", "orders")
        return {table: frozenset(grant for grant in self.server.rows[table] if grant.grantee != row.oid)}

    def grant(self, role: str, row: RoleRow) -> dict[Any, Any]:
        """GRANT more than the plan asks for."""
        del role
        table = ("acl", "TABLE", DATABASE, "extra", "orders")
        default = ("default", DATABASE, OWNER, "extra", "TABLES")
        return {
            table: self.server.rows[table] | {Grant(row.oid, "DELETE", True)},
            default: self.server.rows.get(default, frozenset()) | {Grant(row.oid, "DELETE")},
        }

    def _note(self, what: str) -> None:
        self.schedule.trace.append(f"somebody: {what}")


def _roles(value: str, *names: str) -> list[dict[str, Any]]:
    """Roles of the resource, with a value in the connection Secret of each."""
    return [{"name": name, "secret": {"VALUE": value}} for name in names]


class _Unforeseen(logging.Handler):
    """Takes what nobody foresaw for a broken promise."""

    def __init__(self, broken: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._broken = broken

    def emit(self, record: logging.LogRecord) -> None:
        """Note the failure."""
        self._broken.append(logging.Formatter().format(record))


async def _tell(
    api: ApiClient, path: str, seen: Callable[[Object], None], gone: Callable[[Object], None]
) -> None:
    """Tell of every object of a collection, then of every change; like kopf, in order only of those of one object."""
    listed: Object | None = None
    while listed is None:
        try:
            listed = await api.get(path)
        except ClusterError:
            await asyncio.sleep(RETRY_SECONDS)
    for item in listed["items"]:
        seen(item)
    last: dict[str, asyncio.Task[None]] = {}

    async def tell(event: Object, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        await api.hear(event)
        try:
            (gone if event["type"] == "DELETED" else seen)(event["object"])
        except Exception:
            logger.exception("What a watch told was not understood")

    async for event in api.changes(path, listed["metadata"]["resourceVersion"]):
        uid = event["object"]["metadata"]["uid"]
        last[uid] = asyncio.create_task(tell(event, last.get(uid)))


@contextmanager
def worlds() -> Iterator[Callable[[], World]]:
    """Worlds in which the operator's own code meets the stand-ins where it would open sessions on a server."""
    made: list[World] = []

    def make() -> World:
        made.append(World())
        return made[-1]

    @asynccontextmanager
    async def open_sessions(*means: Any) -> Any:
        leading = means[3] if len(means) > 3 else lambda: True
        yield postgresql.Sessions(made[-1].server, made[-1].schedule, leading)

    async def knock(*place: Any) -> None:
        del place
        await made[-1].schedule.gate("knock", lambda: ServerUnreachable("db does not answer"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inbox, "knock", knock)
        for module in (plans, inbox):
            patch.setattr(module, "open_sessions", open_sessions)
            patch.setattr(module, "read_capabilities", snapshot.read_capabilities)
        patch.setattr(fence, "read_versions", snapshot.read_versions)
        patch.setattr(turn, "read_server", snapshot.read_server)
        patch.setattr(turn, "read_database", snapshot.read_database)
        for name in ("read_hazards", "read_owned_schemas", "read_prepared", "read_sessions"):
            patch.setattr(remove, name, snapshot.read_nothing)
        patch.setattr(scram, "ITERATIONS", 1)
        logging.getLogger("hoop_operator").setLevel(logging.ERROR)
        yield make
        logging.getLogger("hoop_operator").setLevel(logging.NOTSET)
