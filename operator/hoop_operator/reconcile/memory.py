"""The last seen version of every object, and nothing else: a restart learns all of it again."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal, NamedTuple

from hoop_operator.credentials.connection import Connection, Endpoint
from hoop_operator.naming import connection_secret_name
from hoop_operator.reconcile.objects import Key, Plan, Resource
from hoop_operator.reconcile.register import Registration


class Memory:
    """What this process knows of the cluster."""

    def __init__(self) -> None:
        self.resources: dict[Key, Resource] = {}
        self.plans: dict[Key, Plan] = {}
        self.registrations: dict[Key, Registration] = {}
        """What the last registration of each resource came to; absent until the first has ended."""
        self.last_good: dict[Key, Connection] = {}
        """The last connection of each resource that worked, to remove roles by when its credentials are gone."""
        self._plans_of: dict[Key, set[Key]] = defaultdict(set)
        self._plan_with_secret: dict[Key, Key] = {}
        self._readers: dict[Reading, set[Key]] = defaultdict(set)

    def see_resource(self, resource: Resource) -> bool:
        """Keep a resource unless a newer version is known; tell whether it was kept."""
        known = self.resources.get(resource.key)
        if (
            known is not None
            and known.uid == resource.uid
            and known.resource_version > resource.resource_version
        ):
            return False
        if known is not None:
            self._forget_readings(known)
        self.resources[resource.key] = resource
        for reading in _readings(resource):
            self._readers[reading].add(resource.key)
        return True

    def see_plan(self, plan: Plan) -> bool:
        """Keep a plan unless a newer version is known; tell whether it was kept."""
        known = self.plans.get(plan.key)
        if known is not None and known.uid == plan.uid and known.resource_version > plan.resource_version:
            return False
        if known is not None:
            self._plan_with_secret.pop(Key(known.key.namespace, known.secret_name), None)
        self.plans[plan.key] = plan
        self._plan_with_secret[Key(plan.key.namespace, plan.secret_name)] = plan.key
        self._plans_of[plan.resource_key].add(plan.key)
        return True

    def forget_resource(self, key: Key) -> None:
        """Drop a resource that is gone; how to reach its server is remembered for the plans that are left."""
        if (resource := self.resources.pop(key, None)) is not None:
            self._forget_readings(resource)
        self.registrations.pop(key, None)

    def forget_plan(self, key: Key) -> None:
        """Drop a plan that is gone."""
        plan = self.plans.pop(key, None)
        if plan is None:
            return
        self._plan_with_secret.pop(Key(key.namespace, plan.secret_name), None)
        siblings = self._plans_of[plan.resource_key]
        siblings.discard(key)
        if not siblings:
            del self._plans_of[plan.resource_key]
            if plan.resource_key not in self.resources:
                self.last_good.pop(plan.resource_key, None)

    def plans_of(self, resource: Key) -> list[Plan]:
        """All plans that refer to a resource, allowed or not."""
        return [self.plans[key] for key in sorted(self._plans_of.get(resource, ()))]

    def users_of(self, resource: Key) -> list[Plan]:
        """The plans that use a resource: from their first applied statement on, until their role is gone."""
        return [plan for plan in self.plans_of(resource) if plan.has_finalizer]

    def plan_with_secret(self, secret: Key) -> Key | None:
        """The plan whose credentials a Secret is to hold."""
        return self._plan_with_secret.get(secret)

    def readers_of(self, reading: "Reading") -> frozenset[Key]:
        """The resources that read a Secret or ConfigMap, or write it for one of their roles."""
        return frozenset(self._readers.get(reading, ()))

    def resources_at(self, endpoint: Endpoint) -> Iterable[Key]:
        """The resources whose server it is."""
        for key, registration in list(self.registrations.items()):
            if registration.connection is not None and registration.connection.endpoint == endpoint:
                yield key

    def _forget_readings(self, resource: Resource) -> None:
        for reading in _readings(resource):
            self._readers[reading].discard(resource.key)
            if not self._readers[reading]:
                del self._readers[reading]


class Reading(NamedTuple):
    """A Secret or ConfigMap that a resource depends on."""

    kind: Literal["Secret", "ConfigMap"]
    namespace: str
    name: str


def _readings(resource: Resource) -> set[Reading]:
    namespace = resource.key.namespace
    readings = {
        Reading("Secret", namespace, connection_secret_name(resource.key.name, role.name))
        for role in resource.spec.roles
    }
    for entry in resource.spec.env_vars_from:
        if entry.secret_ref is not None:
            readings.add(Reading("Secret", namespace, entry.secret_ref.name))
        if entry.config_map_ref is not None:
            readings.add(Reading("ConfigMap", namespace, entry.config_map_ref.name))
    return readings
