"""Where everything that happens arrives, and from where it goes to those who see to it."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.watch import watch_metadata
from hoop_operator.credentials.connection import Endpoint
from hoop_operator.credentials.follow import Follower
from hoop_operator.reconcile.clock import Clock
from hoop_operator.reconcile.context import Context, address_allowed
from hoop_operator.reconcile.drift import DRIFT
from hoop_operator.reconcile.gauges import Gauges
from hoop_operator.reconcile.inbox import Inbox
from hoop_operator.reconcile.memory import Memory
from hoop_operator.reconcile.objects import Key, KubernetesObject, Plan, Reading, Resource
from hoop_operator.reconcile.plans import Plans
from hoop_operator.reconcile.resources import Resources
from hoop_operator.settings import Settings

T = TypeVar("T", bound=KubernetesObject)

logger = logging.getLogger(__name__)


class Reconciler:
    """All resources and plans that this instance serves."""

    def __init__(
        self, api: KubernetesApi, settings: Settings, leading: Callable[[], bool] = lambda: True
    ) -> None:
        self._api = api
        self._settings = settings
        self._memory = Memory()
        self._clock = Clock(settings.retry_seconds_max)
        self._inboxes: dict[Endpoint, Inbox] = {}
        self._context = Context(api, settings, self._memory, self._clock, Follower(settings), leading)
        self._plans = Plans(
            self._context,
            self._inbox_of,
            wake_resource=lambda key, trigger: self._resources.wake(key, trigger),
            count_users=lambda key: self._count_users(key),
        )
        self._resources = Resources(self._context, self._inbox_of, self._plans.wake, self._plans.in_turn)
        self._watches: list[asyncio.Task[None]] = []

    @property
    def gauges(self) -> Gauges:
        """What is known of all objects and servers, for the metrics."""
        return Gauges(self._memory, self._inboxes, self._context.serves)

    async def start(self) -> None:
        """Learn what there is, then watch Secrets and ConfigMaps; resources and plans are told by the handlers.

        Raises
        ------
        ClusterError
            The API server failed us.
        """
        namespaces: list[str | None] = [*self._settings.watch_namespaces] or [None]
        for namespace in namespaces:
            await self._learn(paths.hoop_resources(namespace), Resource.parse, self._memory.see_resource)
            await self._learn(paths.hoop_role_plans(namespace), Plan.parse, self._memory.see_plan)
            for path, told in (
                (paths.secrets(namespace), self._secret_changed),
                (paths.config_maps(namespace), self._config_map_changed),
            ):
                self._watches.append(asyncio.create_task(watch_metadata(self._api, path, told)))

    async def stop(self) -> None:
        """Stop everything; transactions under way are rolled back, and found undone by the next start."""
        self._clock.stop()
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        await self._resources.close()
        await asyncio.gather(*(inbox.close() for inbox in self._inboxes.values()))
        await self._plans.close()

    def resource_seen(self, body: Mapping[str, Any]) -> None:
        """A HoopResource exists, as given."""
        if (resource := _parsed(Resource.parse, body)) is not None:
            self._resources.seen(resource)

    def resource_gone(self, body: Mapping[str, Any]) -> None:
        """A HoopResource does not exist any more."""
        self._resources.gone(_key(body), body["metadata"]["uid"])

    def plan_seen(self, body: Mapping[str, Any]) -> None:
        """A HoopRolePlan exists, as given."""
        if (plan := _parsed(Plan.parse, body)) is not None:
            self._plans.seen(plan)

    def plan_gone(self, body: Mapping[str, Any]) -> None:
        """A HoopRolePlan does not exist any more."""
        self._plans.gone(_key(body), body["metadata"]["uid"])

    async def _learn(
        self, path: str, parse: Callable[[Mapping[str, Any]], T], see: Callable[[T], bool]
    ) -> None:
        async for page in self._api.pages(path):
            for item in page.get("items") or ():
                if (known := _parsed(parse, item)) is not None:
                    see(known)

    def _secret_changed(self, namespace: str, name: str, resource_version: str | None) -> None:
        for plan in self._memory.plans_with_secret(Key(namespace, name)):
            self._plans.secret_changed(plan, resource_version)
        for resource in self._memory.readers_of(Reading("Secret", namespace, name)):
            self._resources.wake(resource, "secret")

    def _config_map_changed(self, namespace: str, name: str, resource_version: str | None) -> None:
        del resource_version
        for resource in self._memory.readers_of(Reading("ConfigMap", namespace, name)):
            self._resources.wake(resource, "configmap")

    def _inbox_of(self, endpoint: Endpoint) -> Inbox:
        if endpoint not in self._inboxes:
            self._inboxes[endpoint] = Inbox(
                endpoint,
                self._context.limits,
                address_allowed,
                self._clock,
                self._plans.take_turn,
                self._resources.silence_changed,
            )
            self._look_later(endpoint)
        return self._inboxes[endpoint]

    def _look_later(self, endpoint: Endpoint) -> None:
        """Have all plans of a server looked at on the drift clock."""
        self._clock.after(endpoint, self._context.seconds_to_next_look, partial(self._look, endpoint))

    def _look(self, endpoint: Endpoint) -> None:
        resources = list(self._memory.resources_at(endpoint))
        if not resources and self._inboxes[endpoint].idle:
            self._inboxes.pop(endpoint).stop()
            return
        for resource in resources:
            self._resources.wake(resource, DRIFT)
        self._look_later(endpoint)

    def _count_users(self, resource: Key) -> None:
        known = self._memory.resources.get(resource)
        if known is not None and (
            known.deleting or known.status.get("plans") != len(self._memory.users_of(resource))
        ):
            self._resources.count_plans(resource)


def _key(body: Mapping[str, Any]) -> Key:
    return Key(body["metadata"]["namespace"], body["metadata"]["name"])


def _parsed(parse: Callable[[Mapping[str, Any]], T], body: Mapping[str, Any]) -> T | None:
    """An object, or None where it follows another schema than ours, which only an outdated CRD can bring about."""
    try:
        return parse(body)
    except ValidationError as error:
        logger.warning(
            "%s %s does not follow the schema of this version and is left alone; bring the CRDs up to date: %s",
            body["kind"],
            _key(body),
            [
                (".".join(map(str, problem["loc"])), problem["msg"])
                for problem in error.errors(include_input=False)
            ],
        )
        return None
