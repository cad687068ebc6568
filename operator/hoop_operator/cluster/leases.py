"""A Lease as the lock that an election is about (manual, "Leases"; `kubernetes.aio.leaderelection`).

The official lock lets network errors and a proxy's pages through as exceptions, waits as long as they please, writes
local time as UTC, and never gives a lease back. Here whatever goes wrong means "not now", within a bounded time.

The official election measures with the wall clock and by its own settings alone. So this lock has the last word: a
lease that somebody else holds is taken only when it has not been renewed for as long as its holder said, or as we
would, whichever is longer, by a clock that nobody sets. What no holder of ours says, but somebody who edits the Lease
may, keeps nobody from leading.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from kubernetes.aio.client import ApiException
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.baselock import BaseLock

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ClusterError, ObjectConflict, ObjectNotFound
from hoop_operator.settings import LEASE_SECONDS_MAX

TRANSITIONS_MAX = 2**31 - 1
"""What the API server takes at most."""

logger = logging.getLogger(__name__)


def elapsed_time() -> float:
    """Seconds since some moment, those in which the machine was suspended included; nobody can set this clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease(BaseLock):
    """One candidate's view of a Lease.

    Parameters
    ----------
    api
        The API server.
    namespace, name
        Of the Lease.
    identity
        The candidate's; no other may have it, nor the same process after a restart.
    lease_seconds
        How long a lease of ours holds after it was renewed.
    request_seconds
        How long a request may take.
    clock
        Tells the time, in seconds.
    """

    def __init__(
        self,
        api: KubernetesApi,
        *,
        namespace: str,
        name: str,
        identity: str,
        lease_seconds: float,
        request_seconds: float,
        clock: Callable[[], float] = elapsed_time,
    ) -> None:
        super().__init__(name, namespace, identity)
        self._api = api
        self._lease_seconds = lease_seconds
        self._request_seconds = request_seconds
        self._clock = clock
        self._body: Mapping[str, Any] = {}
        self._first_seen = clock()
        self._told = ""
        self._renewed: float | None = None

    @property
    def was_held(self) -> bool:
        """Whether it has been ours and was not given back."""
        return self._renewed is not None

    def held_for(self) -> float:
        """Seconds since the last renewal that succeeded was begun; infinite where there is none."""
        return float("inf") if self._renewed is None else self._clock() - self._renewed

    async def get(
        self, name: str, namespace: str
    ) -> tuple[bool, LeaderElectionRecord] | tuple[bool, Exception] | tuple[bool, None]:
        """Read the Lease; an exception of status 404 where there is none, of another where it cannot be read."""
        try:
            async with asyncio.timeout(self._request_seconds):
                body = await self._api.get(paths.lease(namespace, name))
        except ObjectNotFound as error:
            return False, _exception(HTTPStatus.NOT_FOUND, error)
        except (ClusterError, TimeoutError) as error:
            self._tell_trouble(error)
            return False, _exception(HTTPStatus.SERVICE_UNAVAILABLE, error)
        if _said(body) != _said(self._body):
            self._first_seen = self._clock()
        self._body = body
        spec = body.get("spec") or {}
        if holder := spec.get("holderIdentity"):
            self._tell(holder)
        duration = spec.get("leaseDurationSeconds")
        record = LeaderElectionRecord(
            spec.get("holderIdentity") or None,
            str(duration) if duration is not None else None,
            spec.get("acquireTime"),
            spec.get("renewTime"),
        )
        return True, record

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        """Make the Lease, held by us; False where somebody was quicker or the API server failed us."""
        del election_record
        now = _now()
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name},
            "spec": self._spec(acquired=now, renewed=now, transitions=0),
        }

        async def write() -> Mapping[str, Any]:
            return await self._api.create(paths.leases(namespace), body)

        return await self._write(write)

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        """Take or renew the Lease as it was read; False where it changed since, or is still somebody else's."""
        del updated_record
        spec = self._body.get("spec") or {}
        holder = spec.get("holderIdentity")
        now = _now()
        ours = holder == self.identity
        if holder and not ours:
            told = min(float(spec.get("leaseDurationSeconds") or 0), LEASE_SECONDS_MAX)
            duration = max(self._lease_seconds, told)
            if self._clock() - self._first_seen < duration:
                return False
        transitions = int(spec.get("leaseTransitions") or 0)
        renewed = self._spec(
            acquired=spec.get("acquireTime") or now if ours else now,
            renewed=now,
            transitions=transitions if ours else min(transitions + 1, TRANSITIONS_MAX),
        )
        return await self._write(lambda: self._patch(name, namespace, renewed))

    async def release(self) -> None:
        """Give the Lease back, if it is still ours, so that who stands by need not wait for its end."""
        found, _ = await self.get(self.name, self.namespace)
        if not found or (self._body.get("spec") or {}).get("holderIdentity") != self.identity:
            return
        self._renewed = None
        free = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
        try:
            async with asyncio.timeout(self._request_seconds):
                await self._patch(self.name, self.namespace, free)
        except (ClusterError, TimeoutError) as error:
            logger.warning("The lease %s could not be given back, it will run out: %s", self.place, error)

    @property
    def place(self) -> str:
        """Namespace and name."""
        return f"{self.namespace}/{self.name}"

    async def _write(self, write: Callable[[], Any]) -> bool:
        begun = self._clock()
        try:
            async with asyncio.timeout(self._request_seconds):
                self._body = await write()
        except ObjectConflict:
            return False
        except (ClusterError, TimeoutError) as error:
            self._tell_trouble(error)
            return False
        self._renewed = begun
        self._tell(self.identity)
        return True

    async def _patch(self, name: str, namespace: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        version = self._body["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "spec": spec}
        return await self._api.merge_patch(paths.lease(namespace, name), body)

    def _spec(self, *, acquired: str, renewed: str, transitions: int) -> dict[str, Any]:
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(self._lease_seconds),
            "acquireTime": acquired,
            "renewTime": renewed,
            "leaseTransitions": transitions,
        }

    def _tell(self, holder: str) -> None:
        """Say who holds the Lease, once each time that it changes."""
        if holder != self._told:
            self._told = holder
            if holder == self.identity:
                logger.info("Leading, by the lease %s, as %s", self.place, holder)
            else:
                logger.info("Standing by, the lease %s is held by %s", self.place, holder)

    def _tell_trouble(self, error: Exception) -> None:
        message = str(error) or f"no answer within {self._request_seconds:.0f} s"
        if message != self._told:
            self._told = message
            logger.warning("The lease %s cannot be read or written, trying again: %s", self.place, message)


def _said(body: Mapping[str, Any]) -> tuple[Any, ...]:
    spec = body.get("spec") or {}
    return spec.get("holderIdentity"), spec.get("renewTime"), spec.get("leaseTransitions")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _exception(status: HTTPStatus, error: Exception) -> ApiException:
    """What the official election takes for "there is none", and for "not now"."""
    exception = ApiException(status=status, reason=str(error))
    exception.body = f'{{"code": {status.value}}}'
    return exception
