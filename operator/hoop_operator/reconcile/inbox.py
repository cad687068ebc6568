"""One inbox per server: whatever wakes a plan lands here, and one worker takes all that is there at once.

So a thousand plans that wake together cost one look, catalog writes on a server do not collide, connections stay
bounded, and a server that is slow, locked or dead delays its own plans only.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hoop_operator.credentials.connection import Connection, Endpoint
from hoop_operator.errors import ServerError, ServerUnreachable
from hoop_operator.logs import about
from hoop_operator.postgres.session import Limits, open_sessions
from hoop_operator.postgres.snapshot import Capabilities, read_capabilities
from hoop_operator.reconcile.objects import Key

PLANS_PER_TURN = 500
GATHERING_SECONDS = 0.05
"""How long to wait for company after the first plan has arrived: a burst becomes few turns instead of many."""
CANCEL_SECONDS = 2.0
"""How long a server may take to hear that its statements are cancelled."""

logger = logging.getLogger(__name__)

TakeTurn = Callable[[Key, Mapping[Key, str]], Awaitable[None]]
"""Carries out the waiting plans, each with its trigger, of one resource."""


@dataclass(frozen=True, slots=True)
class _Probe:
    connection: Connection
    answer: "asyncio.Future[Capabilities]"


class Inbox:
    """What waits for one server, and the worker that sees to it."""

    def __init__(
        self, endpoint: Endpoint, limits: Limits, address_allowed: Callable[[str], bool], take_turn: TakeTurn
    ) -> None:
        self.endpoint = endpoint
        self._address_allowed = address_allowed
        self._probe_limits = replace(limits, statement_seconds=float(limits.connect_seconds))
        self._take_turn = take_turn
        self._probes: list[_Probe] = []
        self._waiting: dict[Key, dict[Key, str]] = {}
        self._waiting_since: dict[Key, float] = {}
        self._carried_out: dict[Key, float] = {}
        self._free_sessions = asyncio.Semaphore(limits.sessions)
        self._something = asyncio.Event()
        self._at_work = False
        self._worker = asyncio.create_task(self._work(), name=f"inbox {endpoint.host}:{endpoint.port}")

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being done."""
        return not self._at_work and not self._something.is_set()

    def put(self, resource: Key, plan: Key, trigger: str) -> None:
        """Have a plan of a resource carried out; one that waits already keeps its first trigger."""
        self._waiting.setdefault(resource, {}).setdefault(plan, trigger)
        self._waiting_since.setdefault(plan, time.monotonic())
        self._something.set()

    def ages(self) -> list[float]:
        """For how many seconds each plan has waited or, since then, been carried out."""
        now = time.monotonic()
        return [
            now - since for known in (self._waiting_since, self._carried_out) for since in [*known.values()]
        ]

    async def probe(self, connection: Connection) -> Capabilities:
        """Ask the server who the admin is and what it may do, before any plan that waits.

        Raises
        ------
        ServerError
            The server could not be reached or asked.
        """
        answer: asyncio.Future[Capabilities] = asyncio.get_running_loop().create_future()
        self._probes.append(_Probe(connection, answer))
        self._something.set()
        return await answer

    def stop(self) -> None:
        """Have the worker end."""
        self._worker.cancel()

    async def close(self) -> None:
        """Stop the worker; what waits is dropped, to be found again by looking."""
        for _ in range(2):
            # Cancelled once, psycopg tells the server and waits for its answer; cancelled twice, it lets go.
            self.stop()
            await asyncio.wait({self._worker}, timeout=CANCEL_SECONDS)
        for probe in self._probes:
            probe.answer.cancel()

    async def _work(self) -> None:
        with about(server=str(self.endpoint)):
            await self._work_on()

    async def _work_on(self) -> None:
        while True:
            self._at_work = False
            await self._something.wait()
            self._at_work = True
            if not self._probes:
                await asyncio.sleep(GATHERING_SECONDS)
            self._something.clear()
            # Several resources of a dead server do not wait for one another.
            await asyncio.gather(*map(self._answer, self._take_probes()))
            for resource in list(self._waiting):
                await self._carry_out(resource)

    def _take_probes(self) -> Sequence[_Probe]:
        probes, self._probes = self._probes, []
        return probes

    async def _carry_out(self, resource: Key) -> None:
        """One turn of one resource; what is left over or came meanwhile waits for the next round of all resources."""
        waiting = self._waiting.pop(resource)
        taken = dict(list(waiting.items())[:PLANS_PER_TURN])
        for plan in waiting.keys() - taken.keys():
            self.put(resource, plan, waiting[plan])
        self._carried_out = {plan: self._waiting_since.pop(plan) for plan in taken}
        try:
            await self._take_turn(resource, taken)
        except Exception:
            logger.exception("A turn of resource %s failed in a way that nobody foresaw", resource)
        finally:
            self._carried_out = {}

    async def _answer(self, probe: _Probe) -> None:
        try:
            async with (
                self._free_sessions,
                open_sessions(probe.connection, self._probe_limits, self._address_allowed) as sessions,
                sessions.transaction() as transaction,
            ):
                capabilities = await read_capabilities(transaction)
        except ServerError as error:
            if not probe.answer.done():
                probe.answer.set_exception(error)
        except Exception:
            logger.exception("A probe of %s failed in a way that nobody foresaw", self.endpoint)
            host, port = self.endpoint
            unlike = ServerUnreachable(
                f"{host}:{port} does not answer as PostgreSQL does; check HOST and PORT"
            )
            if not probe.answer.done():
                probe.answer.set_exception(unlike)
        else:
            if not probe.answer.done():
                probe.answer.set_result(capabilities)
