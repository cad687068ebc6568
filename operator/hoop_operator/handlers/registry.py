"""What kopf is told to watch and how to behave."""

import dataclasses
import itertools
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import kopf

from hoop_operator.cluster.api import connect
from hoop_operator.crd import GROUP, HOOP_RESOURCE, HOOP_ROLE_PLAN, VERSION
from hoop_operator.errors import ClusterError
from hoop_operator.health import Health
from hoop_operator.metrics import LEADER, REGISTRY
from hoop_operator.reconcile.reconciler import Reconciler
from hoop_operator.settings import Settings

RETRY_SECONDS = 5.0
"""Pause between two attempts to reach an API server that does not answer."""


class NothingKept(kopf.DiffBaseStorage):
    """Keeps nothing of an object: what to do is decided from the object as it is and from the server."""

    def build(self, *, body: kopf.Body, extra_fields: Any = ()) -> kopf.BodyEssence:
        """Keep nothing."""
        del body, extra_fields
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> None:
        """Find nothing."""

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Write nothing."""


class Handlers:
    """kopf's handlers around one reconciler, which lives as long as kopf's event loop."""

    def __init__(
        self, settings: Settings, health: Health, leading: Callable[[], bool] = lambda: True
    ) -> None:
        self._settings = settings
        self._leading = leading
        self._health = health
        self._opened = AsyncExitStack()
        self._reconciler: Reconciler | None = None

    def registry(self) -> kopf.OperatorRegistry:
        """The handlers, registered with kopf."""
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(_log_in)
        kopf.on.startup(registry=registry)(self.start)
        kopf.on.cleanup(registry=registry)(self.stop)
        kopf.on.event(GROUP, VERSION, HOOP_RESOURCE.plural, registry=registry)(self.resource_event)
        kopf.on.event(GROUP, VERSION, HOOP_ROLE_PLAN.plural, registry=registry)(self.plan_event)
        return registry

    async def start(self, settings: kopf.OperatorSettings, **_: Any) -> None:
        """Configure kopf and start the reconciler.

        Raises
        ------
        kopf.TemporaryError
            The API server failed us; kopf calls again.
        """
        _configure(settings)
        async with AsyncExitStack() as opened:
            try:
                api = await opened.enter_async_context(connect())
                reconciler = Reconciler(api, self._settings, self._leading)
                opened.push_async_callback(reconciler.stop)
                await reconciler.start()
                gauges = reconciler.gauges
                REGISTRY.register(gauges)
                opened.callback(REGISTRY.unregister, gauges)
            except ClusterError as error:
                raise kopf.TemporaryError(str(error), delay=RETRY_SECONDS) from None
            self._opened = opened.pop_all()
        self._reconciler = reconciler
        self._health.ready = True
        LEADER.set(1)

    async def stop(self, **_: Any) -> None:
        """Stop the reconciler."""
        self._health.ready = False
        LEADER.set(0)
        await self._opened.aclose()

    async def resource_event(self, event: kopf.RawEvent, **_: Any) -> None:
        """Pass on what became of a HoopResource."""
        if self._reconciler is not None:
            told = (
                self._reconciler.resource_gone
                if event["type"] == "DELETED"
                else self._reconciler.resource_seen
            )
            told(event["object"])

    async def plan_event(self, event: kopf.RawEvent, **_: Any) -> None:
        """Pass on what became of a HoopRolePlan."""
        if self._reconciler is not None:
            told = self._reconciler.plan_gone if event["type"] == "DELETED" else self._reconciler.plan_seen
            told(event["object"])


def _configure(settings: kopf.OperatorSettings) -> None:
    settings.posting.enabled = False
    # It would kill the process a while after kopf has ended, although kopf may have been run anew.
    settings.process.ultimate_exiting_timeout = None
    settings.networking.connect_timeout = 10
    settings.networking.request_timeout = 30
    # Without an end: after its last retry kopf would give up the watch, and with it the process.
    settings.networking.error_backoffs = itertools.repeat(RETRY_SECONDS)
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    # kopf takes a finalizer of this name off every object; the default is other operators' as well.
    settings.persistence.finalizer = "hoop.dev/unused"
    # kopf would take a copy of every version of every object to compare it with the last one.
    settings.persistence.diffbase_storage = NothingKept()
    # A worker for each object is cheap to start, and a thousand idle ones are not cheap to keep.
    settings.queueing.idle_timeout = 1
    # To look for other kinds and namespaces takes rights in the whole cluster.
    settings.scanning.disabled = True


def _log_in(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Use the Pod's service account, or KUBECONFIG outside a cluster: the same as our own client, and as light.

    In a Pod kopf would go to `kubernetes.default.svc`, and see nothing while the cluster's DNS is down. Our own
    client goes where every Pod is told that the API server is.
    """
    in_cluster = kopf.login_with_service_account(**kwargs)
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{part}") for part in ("HOST", "PORT"))
    if in_cluster is None or not host or not port:
        return kopf.login_with_kubeconfig(**kwargs)
    return dataclasses.replace(in_cluster, server=f"https://{f'[{host}]' if ':' in host else host}:{port}")
