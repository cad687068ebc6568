"""Somebody who works in one namespace: makes resources and plans there, and looks at what becomes of them."""

import asyncio
import base64
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.rows import TupleRow

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ObjectNotFound
from local.postgresql import Server

API_VERSION = "hoop.dev/v1alpha1"
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
"""Within how many seconds all comes about that nothing hinders, on a machine with a lot else to do."""

T = TypeVar("T")


async def eventually(look: Callable[[], Awaitable[T]], *, what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """Return what `look` returns as soon as that is true; fail when it is not within the deadline."""
    deadline = time.monotonic() + seconds
    while not (found := await look()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        await asyncio.sleep(POLL_SECONDS)
    return found


class Tenant:
    """Objects of one namespace, served by the operator of one agent id, or else by the one that has none."""

    def __init__(self, api: KubernetesApi, namespace: str, agent_id: str | None = None) -> None:
        self.api = api
        self.namespace = namespace
        self.agent_id = agent_id

    async def resource(
        self, server: Server, *, user: str, password: str, port: int | None = None, **spec: Any
    ) -> str:
        """Make a resource with its credentials in a Secret; return its name, which no other has."""
        name = f"db-{secrets.token_hex(5)}"
        values = {
            "host": server.host,
            "port": str(port or server.port),
            "username": user,
            "password": password,
        }
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": f"{name}-admin"},
            "stringData": values,
        }
        await self.api.create(paths.secrets(self.namespace), secret)
        body = {
            "apiVersion": API_VERSION,
            "kind": "HoopResource",
            "metadata": {"name": name},
            "spec": {
                "type": "database",
                "subtype": "postgres",
                "agentId": self.agent_id,
                "envVarsFrom": [{"secretRef": {"name": f"{name}-admin"}}],
                **spec,
            },
        }
        await self.api.create(paths.hoop_resources(self.namespace), body)
        return name

    async def plan(
        self, name: str, resource: str, *, annotations: Mapping[str, str] | None = None, **spec: Any
    ) -> None:
        """Make a plan: managed, the role labelled as the plan is named, unless `spec` says otherwise."""
        body = {
            "apiVersion": API_VERSION,
            "kind": "HoopRolePlan",
            "metadata": {"name": name, "annotations": annotations or {}},
            "spec": {"resourceRef": {"name": resource}, "type": "managed", "role": name, **spec},
        }
        await self.api.create(paths.hoop_role_plans(self.namespace), body)

    async def change(self, plan: str, **spec: Any) -> None:
        """Change a plan's spec."""
        await self.api.merge_patch(paths.hoop_role_plan(self.namespace, plan), {"spec": spec})

    async def annotate(self, plan: str, **annotations: str) -> None:
        """Set annotations of ours on a plan; underscores stand for dashes."""
        named = {f"hoop.dev/{name.replace('_', '-')}": value for name, value in annotations.items()}
        await self.api.merge_patch(
            paths.hoop_role_plan(self.namespace, plan), {"metadata": {"annotations": named}}
        )

    async def let_password_age(self, plan: str, since: str) -> None:
        """Have a plan's status say that its password was last changed long ago."""
        path = paths.status(paths.hoop_role_plan(self.namespace, plan))
        await self.api.merge_patch(path, {"status": {"lastRotationTime": since}})

    async def change_resource(self, name: str, **spec: Any) -> None:
        """Change a resource's spec."""
        await self.api.merge_patch(paths.hoop_resource(self.namespace, name), {"spec": spec})

    async def change_secret(self, name: str, **values: str | None) -> None:
        """Set keys of a Secret, or remove those given as None."""
        await self.api.merge_patch(
            paths.secret(self.namespace, name),
            {
                "data": {
                    key: None if value is None else base64.b64encode(value.encode()).decode()
                    for key, value in values.items()
                }
            },
        )

    async def delete(self, plan: str) -> None:
        """Ask for a plan's deletion."""
        await self.api.delete(paths.hoop_role_plan(self.namespace, plan))

    async def plans(self) -> dict[str, dict[str, Any]]:
        """All plans by name."""
        found = await self.api.get(paths.hoop_role_plans(self.namespace))
        return {item["metadata"]["name"]: item for item in found["items"]}

    async def resources(self) -> dict[str, dict[str, Any]]:
        """All resources by name."""
        found = await self.api.get(paths.hoop_resources(self.namespace))
        return {item["metadata"]["name"]: item for item in found["items"]}

    async def until_plans(
        self, names: Iterable[str], reason: str = "Applied", *, seconds: float = PATIENCE_SECONDS
    ) -> dict[str, dict[str, Any]]:
        """Wait until the last runs of plans had an outcome for what they ask now, and return the plans."""
        wanted = set(names)
        found: dict[str, dict[str, Any]] = {}

        async def settled() -> bool:
            found.update(await self.plans())
            return all(is_answered(found[name]) and ready(found[name])[0] == reason for name in wanted)

        try:
            await eventually(settled, seconds=seconds, what=f"plans {reason}")
        except AssertionError as error:
            others = {name: ready(found[name]) for name in wanted if ready(found[name])[0] != reason}
            raise AssertionError(
                f"{error}; {len(others)} of {len(wanted)}: {dict(list(others.items())[:5])}"
            ) from None
        return {name: found[name] for name in wanted}

    async def until_plan(
        self,
        name: str,
        holds: Callable[[Mapping[str, Any]], bool],
        what: str,
        *,
        seconds: float = PATIENCE_SECONDS,
    ) -> dict[str, Any]:
        """Wait until something holds of a plan, and return the plan."""

        async def look() -> dict[str, Any] | None:
            plan = (await self.plans())[name]
            return plan if holds(plan) else None

        try:
            return await eventually(look, seconds=seconds, what=what) or {}
        except AssertionError as error:
            raise AssertionError(f"{error}; {ready((await self.plans())[name])}") from None

    async def events(self, plan: str) -> list[tuple[str, str, str]]:
        """Type, reason and note of every event about a plan, in no order."""
        found = await self.api.get(paths.events(self.namespace))
        return [
            (event["type"], event["reason"], event["note"])
            for event in found["items"]
            if event["regarding"]["kind"] == "HoopRolePlan" and event["regarding"]["name"] == plan
        ]

    async def until_resource(
        self, name: str, reason: str = "Registered", *, seconds: float = PATIENCE_SECONDS
    ) -> None:
        """Wait until a resource is Ready, or not, for a reason."""

        async def settled() -> bool:
            found = (await self.resources())[name]
            answered = found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"]
            return answered and ready(found)[0] == reason

        await eventually(settled, seconds=seconds, what=f"resource {reason}")

    async def until_gone(self, plan: str, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until a plan does not exist any more."""

        async def gone() -> bool:
            return plan not in await self.plans()

        await eventually(gone, seconds=seconds, what=f"plan {plan} gone")

    async def secret(self, plan: str) -> dict[str, str]:
        """The values in a plan's Secret; empty where there is none."""
        try:
            body = await self.api.get(paths.secret(self.namespace, f"{plan}-credentials"))
        except ObjectNotFound:
            return {}
        return {key: base64.b64decode(value).decode() for key, value in body["data"].items()}

    async def log_in(self, plan: str, server: Server) -> psycopg.AsyncConnection[TupleRow]:
        """Open a session with what a plan's Secret says, straight on the server."""
        values = await self.secret(plan)
        return await psycopg.AsyncConnection.connect(
            host=server.host,
            port=server.port,
            user=values["username"],
            password=values["password"],
            dbname=values["database"],
            autocommit=True,
        )


def ready(body: Mapping[str, Any]) -> tuple[str, str]:
    """Reason and message of an object's Ready condition; empty where there is none."""
    for condition in (body.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready":
            return condition["reason"], condition.get("message", "")
    return "", ""


def is_answered(plan: Mapping[str, Any]) -> bool:
    """Whether a run has answered the plan as it is now."""
    status, metadata = plan.get("status") or {}, plan["metadata"]
    annotations = metadata.get("annotations") or {}
    return status.get("observedGeneration") == metadata["generation"] and status.get(
        "observedReconcileAt"
    ) == annotations.get("hoop.dev/reconcile-at")


async def roles_of(session: psycopg.AsyncConnection[TupleRow], namespace: str, plan: str) -> list[str]:
    """The roles on a server whose comment says that they are a plan's."""
    rows = await session.execute(
        "SELECT r.rolname FROM pg_roles r JOIN pg_shdescription d ON d.objoid = r.oid"
        " AND d.classoid = 'pg_authid'::regclass WHERE d.description LIKE %s ORDER BY 1",
        (f"%/{namespace}/{plan}",),
    )
    return [row[0] for row in await rows.fetchall()]
