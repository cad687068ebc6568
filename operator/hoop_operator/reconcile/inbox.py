"""One inbox per server: whatever wakes a plan lands here, and one worker takes all that is there at once.

So a thousand plans that wake together cost one look, catalog writes on a server do not collide, connections stay
bounded, and a server that is slow, locked or dead delays its own plans only.

Whether a server answers at all is found out once for all that wait for it, by a knock that needs no credentials. Wrong
credentials of one resource, or what one alone waits for too long, say nothing of another's.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from hoop_operator.credentials.connection import Connection, Endpoint
from hoop_operator.errors import ServerError, ServerUnreachable
from hoop_operator.logs import about
from hoop_operator.postgres.addresses import knock
from hoop_operator.postgres.capabilities import Capabilities, read_capabilities
from hoop_operator.postgres.session import Limits, open_sessions
from hoop_operator.reconcile.clock import Clock
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
        self,
        endpoint: Endpoint,
        limits: Limits,
        address_allowed: Callable[[str], bool],
        clock: Clock,
        take_turn: TakeTurn,
        silence_changed: Callable[[Endpoint], None],
    ) -> None:
        self.endpoint = endpoint
        self._address_allowed = address_allowed
        self._probe_limits = replace(limits, statement_seconds=float(limits.connect_seconds))
        self._clock = clock
        self._take_turn = take_turn
        self._silence_changed = silence_changed
        self._silence: str | None = None
        self._knocking = asyncio.Lock()
        self._knock_is_due = False
        self._probes: list[_Probe] = []
        self._waiting: dict[Key, dict[Key, str]] = {}
        self._waiting_since: dict[tuple[Key, Key], float] = {}
        self._carried_out: dict[Key, float] = {}
        self._free_sessions = asyncio.Semaphore(limits.sessions)
        self._something = asyncio.Event()
        self._at_work = False
        self._worker = asyncio.create_task(self._work(), name=f"inbox {endpoint.host}:{endpoint.port}")

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being done."""
        return not self._at_work and not self._something.is_set()

    @property
    def silent(self) -> bool:
        """Whether the server does not answer anybody; it is knocked at until it does."""
        return self._silence is not None

    def put(self, resource: Key, plan: Key, trigger: str) -> None:
        """Have a plan of a resource carried out; one that waits already keeps its first trigger."""
        self._waiting.setdefault(resource, {}).setdefault(plan, trigger)
        self._waiting_since.setdefault((resource, plan), time.monotonic())
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
        self._clock.settle(("server", self.endpoint))
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
            try:
                await self._answer_probes()
                for resource in list(self._waiting):
                    await self._carry_out(resource)
            except Exception:
                logger.exception("The worker of %s failed in a way that nobody foresaw", self.endpoint)
                self._something.set()  # what it failed at it has taken out, and the others wait still

    async def _carry_out(self, resource: Key) -> None:
        """One turn of one resource; what is left over or came meanwhile waits for the next round of all resources."""
        waiting = self._waiting.pop(resource)
        taken = dict(list(waiting.items())[:PLANS_PER_TURN])
        for plan in waiting.keys() - taken.keys():
            self.put(resource, plan, waiting[plan])
        self._carried_out = {plan: self._waiting_since.pop((resource, plan)) for plan in taken}
        try:
            await self._take_turn(resource, taken)
        except Exception:
            logger.exception("A turn of resource %s failed in a way that nobody foresaw", resource)
        finally:
            self._carried_out = {}

    async def _answer_probes(self) -> None:
        probes, self._probes = self._probes, []
        if self._silence is not None and (probes or self._knock_is_due):
            self._note(await self._knock())
        self._knock_is_due = False
        await asyncio.gather(*map(self._answer, probes))

    async def _answer(self, probe: _Probe) -> None:
        answer: Capabilities | ServerError
        async with self._free_sessions:
            # Those that have waited for a session hear what the ones before them have found out.
            answer = self._unreachable or await self._ask(probe.connection)
        if probe.answer.done():
            return
        if isinstance(answer, ServerError):
            probe.answer.set_exception(answer)
        else:
            probe.answer.set_result(answer)

    async def _ask(self, connection: Connection) -> Capabilities | ServerError:
        try:
            async with (
                open_sessions(connection, self._probe_limits, self._address_allowed) as sessions,
                sessions.transaction() as transaction,
            ):
                return await read_capabilities(transaction)
        except ServerUnreachable as error:
            async with self._knocking:
                if self._silence is None:
                    self._note(await self._knock())
            return self._unreachable or error
        except ServerError as error:
            return error
        except Exception:
            logger.exception("A probe of %s failed in a way that nobody foresaw", self.endpoint)
            host, port = self.endpoint
            return ServerUnreachable(f"{host}:{port} does not answer as PostgreSQL does; check HOST and PORT")

    @property
    def _unreachable(self) -> ServerUnreachable | None:
        # A new one each time: an error that is raised again and again keeps hold of everybody it was raised to.
        return ServerUnreachable(self._silence) if self._silence is not None else None

    async def _knock(self) -> str | None:
        """What keeps the server from answering anybody; None where it does answer."""
        try:
            await knock(*self.endpoint, self._probe_limits.connect_seconds, self._address_allowed)
        except ServerUnreachable as error:
            return str(error)
        except Exception:
            logger.exception("A knock at %s failed in a way that nobody foresaw", self.endpoint)
        return None

    def _note(self, silence: str | None) -> None:
        """Remember whether the server answers; see that one which does not is knocked at again."""
        before, self._silence = self._silence, silence
        if silence is None:
            self._clock.settle(("server", self.endpoint))
        else:
            self._clock.retry(("server", self.endpoint), self._knock_again)
        if before is not None and silence != before:
            self._silence_changed(self.endpoint)

    def _knock_again(self) -> None:
        self._knock_is_due = True
        self._something.set()
