"""The story of the process: show how it is, be elected, run kopf until told to stop, give the lease back.

stand by       until the lease is ours; without a lease there is nothing to wait for
lead           kopf runs, and is run anew when it ends by itself
end            told by a signal, or because the lease could not be renewed: work first, then the lease
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import kopf

from hoop_operator.cluster.access import denied_namespaces
from hoop_operator.cluster.api import KubernetesApi, connect
from hoop_operator.cluster.election import LOST, Election
from hoop_operator.errors import AccessDenied, ClusterError
from hoop_operator.handlers.registry import Handlers
from hoop_operator.health import Health, serve_health
from hoop_operator.settings import Settings

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a Pod finds the namespace that it runs in."""

RESTART_SECONDS = 5.0
"""Pause after kopf ended by itself."""
DENIED_SECONDS = 15.0
"""Pause between two looks at namespaces that cannot be served."""
END_SECONDS = 7.0
"""How long the end may take. Kubernetes waits for longer, but who follows should not have to."""

logger = logging.getLogger(__name__)


async def operate(settings: Settings) -> int:
    """Run the operator until it is told to stop, and return the exit code.

    Raises
    ------
    PortUnavailable
        The HTTP port cannot be listened on.
    """
    end = _End()
    end.on_signals()
    health = Health()
    async with serve_health(settings.http_port, health):
        namespace = lease_namespace(settings)
        logger.info(introduction(settings, namespace))
        if namespace is None:
            await _run_kopf(settings, health, lambda: True, end)
            return end.exit_code
        elected = asyncio.Event()
        election = Election(
            namespace,
            lease_name(settings),
            settings.lease_seconds,
            on_elected=partial(asyncio.get_running_loop().call_soon_threadsafe, elected.set),
            on_lost=end.on_lost_lease,
        )
        election.start()
        health.ready = True  # to stand by is all that it is there for, so far
        await _first_of(elected, end.begun)
        if not end.begun.is_set():
            await _run_kopf(settings, health, election.leading, end)
        health.ready = False
        await asyncio.to_thread(election.resign)
        return end.exit_code


def leave(exit_code: int) -> NoReturn:
    """End the process at once.

    Python would tidy up its memory first. On a busy machine that takes seconds, in which no other thread runs any more
    that could put an end to it.
    """
    logging.shutdown()
    os._exit(exit_code)


def introduction(settings: Settings, election_in: str | None) -> str:
    """Say in one line who starts, and what it serves; `election_in` is the namespace of the lease, None without one."""
    namespaces = ", ".join(settings.watch_namespaces)
    agent = "without an agent id" if settings.agent_id is None else f"of agent {settings.agent_id}"
    lease = f"standing for election by the lease {election_in}/{lease_name(settings)}"
    return (
        f"hoop-operator {version('hoop-operator')} starts as instance {settings.instance}: it serves resources {agent} "
        f"in {f'the namespaces {namespaces}' if namespaces else 'all namespaces'}, "
        f"{'without an election' if election_in is None else lease}"
    )


def lease_namespace(settings: Settings, namespace_file: Path = NAMESPACE_FILE) -> str | None:
    """The namespace of the lease, by default the Pod's own; None outside a Pod, where nobody else is expected."""
    if settings.lease_namespace is not None:
        return settings.lease_namespace
    try:
        return namespace_file.read_text().strip() or None
    except OSError:
        return None


def lease_name(settings: Settings) -> str:
    """The name of the lease: operators of different agent ids work side by side."""
    return "hoop-operator" if settings.agent_id is None else f"hoop-operator-{settings.agent_id}"


async def until_all_ended(
    tasks: Collection[asyncio.Task[None]], others: Collection[asyncio.Task[Any]]
) -> None:
    """Wait until kopf's tasks are over, and all that they began.

    kopf cancels what is left once, and then waits for however long. But a watch of its that waits for an answer takes
    the cancellation for the end of that request alone, and goes on to wait for credentials that nobody brings any more.

    Raises
    ------
    Exception
        That of the task which ended first.
    """
    running = asyncio.create_task(kopf.run_tasks(tasks, ignored=others))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    told = False
    while not (await asyncio.wait([running], timeout=END_SECONDS))[0]:
        left = asyncio.all_tasks() - {*others, running}
        if not told:
            names = ", ".join(sorted(task.get_name() for task in left))
            logger.warning(
                "Not over %.0f s after kopf ended, so they are ended again: %s", END_SECONDS, names
            )
            told = True
        for task in left:
            task.cancel()
    running.result()


async def _run_kopf(settings: Settings, health: Health, leading: Callable[[], bool], end: "_End") -> None:
    """Run kopf until the end.

    By itself kopf ends with whatever it does not understand, such as an ERROR event of another status than 410 in a
    watch, or a list that is refused for good. That is no reason for the operator to end.
    """
    while not end.begun.is_set():
        try:
            async with _served(settings, end) as (served, over):
                others = asyncio.all_tasks()
                handlers = Handlers(served, health, leading)
                tasks = await kopf.spawn_tasks(
                    registry=handlers.registry(),
                    clusterwide=not settings.watch_namespaces,
                    namespaces=served.watch_namespaces,
                    standalone=True,
                    # Without one kopf asks for the name of the user, who may have none, and of the host, in the DNS.
                    # Its type is a str that kopf does not export.
                    identity="hoop-operator",  # type: ignore[arg-type]
                    stop_flag=over,
                )
                end.on_signals()  # kopf has put handlers of its own in their place, which fail at a second signal
                try:
                    await until_all_ended(tasks, others)
                finally:
                    await handlers.stop()  # a kopf whose tasks had to be ended does not do it
                if over.is_set():
                    continue
        except ClusterError as error:
            logger.warning("What is to be watched could not be found out: %s", error)
        except Exception:
            logger.exception("kopf ended by itself")
        if not end.begun.is_set():
            logger.error("The watches have ended; everything is looked at anew in %.0f s", RESTART_SECONDS)
            await _first_of(end.begun, seconds=RESTART_SECONDS)


@asynccontextmanager
async def _served(settings: Settings, end: "_End") -> AsyncIterator[tuple[Settings, asyncio.Event]]:
    """Leave out namespaces that we may not look into, which would keep kopf from watching the others.

    Yields
    ------
    The settings without them, and what is set when kopf is to end: at the end, and when one of them is to be served.

    Raises
    ------
    ClusterError
        The API server failed us, or lets us look into none of the namespaces.
    """
    if not settings.watch_namespaces:
        yield settings, end.begun
        return
    async with connect() as api:
        denied = await denied_namespaces(api, settings.watch_namespaces)
        for namespace, why in denied.items():
            logger.error("Namespace %s is not served until it can be: %s", namespace, why)
        served = [name for name in settings.watch_namespaces if name not in denied]
        if not served:
            raise AccessDenied("None of HOOP_WATCH_NAMESPACES can be served")
        over = asyncio.Event()
        waiting = asyncio.create_task(_until_over(api, denied, end, over))
        try:
            yield settings.model_copy(update={"watch_namespaces": served}), over
        finally:
            waiting.cancel()


async def _until_over(api: KubernetesApi, denied: Collection[str], end: "_End", over: asyncio.Event) -> None:
    """Set `over` at the end, or as soon as a namespace can be served that could not be before.

    It is set whatever else happens: without it kopf would not hear of the end.
    """
    still = denied
    try:
        while len(still) == len(denied) and not end.begun.is_set():
            await _first_of(end.begun, seconds=DENIED_SECONDS if denied else None)
            if denied and not end.begun.is_set():
                with suppress(ClusterError):
                    still = await denied_namespaces(api, denied)
    except Exception:
        logger.exception("Whether the namespaces that are left out can be served could not be found out")
    finally:
        over.set()


class _End:
    """The end of the process, gracefully for a while and then by force: what was not committed is rolled back."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.exit_code = 0
        self._loop = asyncio.get_running_loop()
        self._last_resort = threading.Timer(END_SECONDS, self._by_force)
        self._last_resort.daemon = True

    def on_signals(self) -> None:
        """Begin on SIGTERM and SIGINT; further ones change nothing."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._begin, number.name, 0)

    def on_lost_lease(self) -> None:
        """Begin because another operator may lead; may be called by any thread."""
        self._loop.call_soon_threadsafe(self._begin, "a lost lease", LOST)

    def _begin(self, why: str, exit_code: int) -> None:
        if not self.begun.is_set():
            logger.info("Ending, by %s", why)
            self.exit_code = exit_code
            self.begun.set()
            self._last_resort.start()

    def _by_force(self) -> None:
        logger.warning("The work did not end within %.0f s; the process is ended by force", END_SECONDS)
        leave(self.exit_code)


async def _first_of(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Wait until one of some events is set, but no longer than some seconds."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
