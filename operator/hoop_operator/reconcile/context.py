"""What the parts of the reconciler share."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.credentials.follow import Follower
from hoop_operator.credentials.hosts import is_link_local
from hoop_operator.postgres.session import Limits
from hoop_operator.reconcile.clock import Clock
from hoop_operator.reconcile.memory import Memory
from hoop_operator.reconcile.objects import Resource
from hoop_operator.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """The means of every run."""

    api: KubernetesApi
    settings: Settings
    memory: Memory
    clock: Clock
    follower: Follower
    leading: Callable[[], bool] = lambda: True
    """Whether nobody else leads by now; what writes to a server is committed only then."""

    @property
    def limits(self) -> Limits:
        """How many sessions a turn may have, and how long each step may take."""
        return limits_of(self.settings)

    @property
    def seconds_to_next_look(self) -> float:
        """How long until what is not known to have changed is looked at, jittered by a tenth."""
        jitter = random.uniform(0.9, 1.1)  # noqa: S311 -- no secret
        return self.settings.drift_interval_seconds * jitter

    def serves(self, resource: Resource) -> bool:
        """Whether a resource is this instance's."""
        return serves(self.settings, resource)


def limits_of(settings: Settings) -> Limits:
    """How many sessions may be open on a server, and how long each step may take."""
    return Limits(
        sessions=settings.connections_per_server,
        connect_seconds=settings.connect_timeout_seconds,
        lock_seconds=settings.lock_timeout_seconds,
        statement_seconds=settings.statement_timeout_seconds,
    )


def serves(settings: Settings, resource: Resource) -> bool:
    """Whether a resource is this instance's: with an agent id its own only, without one those that name none."""
    agent_id = resource.spec.agent_id
    return (UUID(agent_id) if agent_id is not None else None) == settings.agent_id


def address_allowed(address: str) -> bool:
    """Whether the operator may connect to an address that a host name resolved to."""
    return not is_link_local(address)
