"""What kopf is told to watch and how to behave."""

from contextlib import AsyncExitStack
from typing import Any

import kopf

from hoop_operator.cluster.api import connect
from hoop_operator.crd import GROUP, HOOP_RESOURCE, HOOP_ROLE_PLAN, VERSION
from hoop_operator.reconcile.reconciler import Reconciler
from hoop_operator.settings import Settings

PREFIX = "hoop.dev"


class Handlers:
    """kopf's handlers around one reconciler, which lives as long as kopf's event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._resources = AsyncExitStack()
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
        """Configure kopf and start the reconciler."""
        settings.posting.enabled = False
        settings.networking.connect_timeout = 10
        settings.networking.request_timeout = 30
        settings.watching.server_timeout = 300
        settings.watching.client_timeout = 310
        settings.persistence.finalizer = f"{PREFIX}/unused"
        settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=PREFIX)
        settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=PREFIX)
        settings.scanning.disabled = True
        api = await self._resources.enter_async_context(connect())
        self._reconciler = Reconciler(api, self._settings)
        await self._reconciler.start()

    async def stop(self, **_: Any) -> None:
        """Stop the reconciler."""
        if self._reconciler is not None:
            await self._reconciler.stop()
        await self._resources.aclose()

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


def _log_in(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Use the Pod's service account, or KUBECONFIG outside a cluster: the same as our own client, and as light."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
