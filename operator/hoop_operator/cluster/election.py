"""Being elected, and knowing at any moment whether the election still holds.

The election has a thread with an event loop of its own: a lease is renewed, and its end is noticed, whatever the
operator's own loop computes or waits for.
"""

import asyncio
import logging
import os
import platform
import threading
import uuid
from collections.abc import Callable

from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection

from hoop_operator.cluster.api import connect
from hoop_operator.cluster.leases import Lease
from hoop_operator.errors import ClusterError

LOST = 3
"""Exit code of a process whose lease has run out."""

LOOK_SECONDS = 0.2
"""Pause between two looks at whether the lease still holds."""
MARGIN_SECONDS = 0.5
"""How long before its lease can be another's a process has ended, one way or the other."""
RELEASE_SECONDS = 2.0

logger = logging.getLogger(__name__)


class Election:
    """A candidate for the lease of one set of operators, of which one works at a time.

    Parameters
    ----------
    namespace, name
        Of the Lease.
    lease_seconds
        How long it holds after it was renewed. It is renewed seven times meanwhile, but at most once a second; who has
        not succeeded for two thirds of it leads no more, and is ended before the whole of it has passed.
    on_elected, on_lost
        Called once each, by the election's thread.
    """

    def __init__(
        self,
        namespace: str,
        name: str,
        lease_seconds: int,
        on_elected: Callable[[], object],
        on_lost: Callable[[], object],
    ) -> None:
        self.lost = False
        """Whether the lease was held and has run out."""
        self._namespace, self._name = namespace, name
        self._lease_seconds = float(lease_seconds)
        self._renew_seconds = lease_seconds * 2 / 3
        self._retry_seconds = max(1.0, lease_seconds / 7.5)
        self._on_elected, self._on_lost = on_elected, on_lost
        self._identity = f"{platform.node()}_{uuid.uuid4()}"
        self._lease: Lease | None = None
        self._loop = asyncio.new_event_loop()
        self._resigning = asyncio.Event()
        # A daemon, for it must never be what keeps a process from ending.
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)

    def start(self) -> None:
        """Begin to stand for election."""
        # What it says of every attempt that fails, the lock says once.
        logging.getLogger("kubernetes.aio.leaderelection").setLevel(logging.CRITICAL)
        self._thread.start()

    def leading(self) -> bool:
        """Whether nobody else can be leading at this moment."""
        lease = self._lease
        return lease is not None and lease.held_for() < self._renew_seconds

    def resign(self) -> None:
        """Give the lease back; all work has to have ended. Blocks until it is done, but not for long."""
        self._loop.call_soon_threadsafe(self._resigning.set)
        self._thread.join(timeout=RELEASE_SECONDS + LOOK_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._stand())

    async def _stand(self) -> None:
        resigning = asyncio.create_task(self._resigning.wait())
        while not resigning.done():
            standing = asyncio.create_task(self._stand_while_connected())
            await asyncio.wait({standing, resigning}, return_when=asyncio.FIRST_COMPLETED)
            standing.cancel()
            (failure,) = await asyncio.gather(standing, return_exceptions=True)
            if isinstance(failure, Exception):
                logger.error("The election failed, standing again: %s", failure)
                await asyncio.wait({resigning}, timeout=self._retry_seconds)

    async def _stand_while_connected(self) -> None:
        async with connect() as api:
            lease = Lease(
                api,
                namespace=self._namespace,
                name=self._name,
                identity=self._identity,
                lease_seconds=self._lease_seconds,
                request_seconds=self._renew_seconds / 2,
            )
            self._lease = lease
            config = Config(
                lease,
                lease_duration=self._lease_seconds,
                renew_deadline=self._renew_seconds,
                retry_period=self._retry_seconds,
                onstarted_leading=self._elected,
                onstopped_leading=self._ended,
            )
            running = asyncio.create_task(LeaderElection(config).run())
            try:
                while not running.done() or lease.was_held:
                    await asyncio.sleep(LOOK_SECONDS)
                    if lease.was_held and (running.done() or not self.leading()):
                        self._lose(lease)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                if self._resigning.is_set() and not self.lost:
                    try:
                        async with asyncio.timeout(RELEASE_SECONDS):
                            await lease.release()
                    except (ClusterError, TimeoutError):
                        logger.warning("The lease %s was not given back, it will run out", lease.place)
            running.result()

    async def _elected(self) -> None:
        self._on_elected()

    async def _ended(self) -> None:
        """Nothing: that the lease is lost is seen by the clock, which is sooner and surer."""

    def _lose(self, lease: Lease) -> None:
        """Have all work ended before the lease can be another's, by force if need be."""
        if not self.lost:
            self.lost = True
            logger.error(
                "The lease %s could not be renewed for %.0f s: another operator may lead soon, so this one ends; it is "
                "to be started again, to stand by",
                lease.place,
                lease.held_for(),
            )
            self._on_lost()
        if lease.held_for() > self._lease_seconds - MARGIN_SECONDS:
            logger.error("The work did not end in time; the process is ended by force")
            logging.shutdown()
            os._exit(LOST)
