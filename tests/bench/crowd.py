"""What the benchmarks of the operator's steady state share: a stack, and many resources and plans on it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import TupleRow

from bench.client import Client, as_administrator
from bench.measure import Meter
from bench.scenario import (
    NAME,
    PLANS,
    RESOURCES,
    SECRETS,
    NotReady,
    new_stack,
    open_session,
    ready_condition,
    start_servers,
)
from local.postgresql import Server
from local.progress import step
from local.stack import Stack

LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Stage:
    """A stack of a benchmark's own, without its operator, and the means to use it."""

    stack: Stack
    server: Server
    admin: Client
    session: psycopg.AsyncConnection[TupleRow]
    meter: Meter

    async def register(self, name: str, port: int, database: str, **spec: Any) -> None:
        """Make a resource of the server, as reached by a port on this machine."""
        credentials = {
            "host": self.server.host,
            "port": str(port),
            "username": self.server.user,
            "password": self.server.password,
            "dbname": database,
        }
        await self.admin.create(SECRETS, {"metadata": {"name": name}, "stringData": credentials})
        whole = {
            "type": "database",
            "subtype": "postgres",
            "envVarsFrom": [{"secretRef": {"name": name}}],
            **spec,
        }
        await self.admin.create(RESOURCES, _object("HoopResource", name, whole))

    async def plan(self, name: str, resource: str, **spec: Any) -> None:
        """Make a plan, managed unless `spec` says otherwise."""
        whole = {"resourceRef": {"name": resource}, "type": "managed", "role": name, **spec}
        await self.admin.create(PLANS, _object("HoopRolePlan", name, whole))

    async def until_resources(self, holds: Callable[[str], bool]) -> float:
        """Wait until something holds of the reason of every resource; return after how many seconds it did.

        Raises
        ------
        NotReady
            It did not in time.
        """
        return await self._until(RESOURCES, holds)

    async def until_plans(self, holds: Callable[[str], bool]) -> float:
        """As `until_resources`, of the plans."""
        return await self._until(PLANS, holds)

    async def _until(self, path: str, holds: Callable[[str], bool]) -> float:
        began = time.monotonic()
        while True:
            items: Iterable[Mapping[str, Any]] = (await self.admin.get(path))["items"]
            others = [item for item in items if not holds(ready_condition(item).get("reason", ""))]
            if not others:
                return time.monotonic() - began
            if time.monotonic() - began > PATIENCE_SECONDS:
                condition = ready_condition(others[0])
                raise NotReady(
                    f"{len(others)} of {path}, for instance {others[0]['metadata']['name']}: "
                    f"{condition.get('reason')}: {condition.get('message')}"
                )
            await asyncio.sleep(LOOK_SECONDS)


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """A stack with a namespace, gone at the end of the block."""
    stack = new_stack()
    try:
        server = start_servers(stack)
        async with as_administrator(stack) as admin, open_session(server, server.database) as session:
            meter = Meter(stack, server, admin, session)
            await meter.prepare()
            await admin.create("/api/v1/namespaces", {"metadata": {"name": NAME}})
            yield Stage(stack, server, admin, session, meter)
    finally:
        with step("Clearing away"):
            stack.destroy()


def _object(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "hoop.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}
