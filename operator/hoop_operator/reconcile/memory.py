"""The last seen version of every object, and nothing else: a restart learns all of it again."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from hoop_operator.credentials.connection import Connection, Endpoint
from hoop_operator.reconcile.objects import Key, Plan, Reading, Resource
from hoop_operator.reconcile.register import Registration

K = TypeVar("K")


class Memory:
    """What this process knows of the cluster."""

    def __init__(self) -> None:
        self.resources: dict[Key, Resource] = {}
        self.plans: dict[Key, Plan] = {}
        self.registrations: dict[Key, Registration] = {}
        """What the last registration of each resource came to; absent until the first has ended."""
        self.last_good: dict[Key, Connection] = {}
        """The last connection of each resource that worked, to remove roles by when its credentials are gone."""
        self.former_resources: dict[Key, Resource] = {}
        """Resources that are gone while plans still refer to them, to tell which instance those plans are left to."""
        self._plans_of: dict[Key, set[Key]] = defaultdict(set)
        self._plans_with_secret: dict[Key, set[Key]] = defaultdict(set)
        self._readers: dict[Reading, set[Key]] = defaultdict(set)

    def see_resource(self, resource: Resource) -> bool:
        """Keep a resource unless a newer one is known, of its own or of a later uid; tell whether it was kept."""
        known = self.resources.get(resource.key)
        if known is not None and known.resource_version > resource.resource_version:
            return False
        if known is not None:
            self._forget_readings(known)
        self.resources[resource.key] = resource
        self.former_resources.pop(resource.key, None)
        for reading in resource.readings:
            self._readers[reading].add(resource.key)
        return True

    def see_plan(self, plan: Plan) -> bool:
        """Keep a plan unless a newer one is known, of its own or of a later uid; tell whether it was kept."""
        known = self.plans.get(plan.key)
        if known is not None and known.resource_version > plan.resource_version:
            return False
        if known is not None:
            self._forget_relations(known)
        self.plans[plan.key] = plan
        self._plans_with_secret[Key(plan.key.namespace, plan.secret_name)].add(plan.key)
        self._plans_of[plan.resource_key].add(plan.key)
        if known is not None:
            self._forget_former(known.resource_key)
        return True

    def forget_resource(self, key: Key) -> None:
        """Drop a resource that is gone; how to reach its server is remembered for the plans that are left."""
        if (resource := self.resources.pop(key, None)) is not None:
            self._forget_readings(resource)
            self.former_resources[key] = resource
        self.registrations.pop(key, None)
        self._forget_former(key)

    def forget_plan(self, key: Key) -> None:
        """Drop a plan that is gone."""
        plan = self.plans.pop(key, None)
        if plan is None:
            return
        self._forget_relations(plan)
        self._forget_former(plan.resource_key)

    def plans_of(self, resource: Key) -> list[Plan]:
        """All plans that refer to a resource, allowed or not."""
        return [self.plans[key] for key in sorted(self._plans_of.get(resource, ()))]

    def users_of(self, resource: Key) -> list[Plan]:
        """The plans that use a resource: from their first applied statement on, until their role is gone."""
        return [plan for plan in self.plans_of(resource) if plan.has_finalizer and not plan.was_refused]

    def plans_with_secret(self, secret: Key) -> frozenset[Key]:
        """The plans whose credentials a Secret is to hold: one, unless somebody made a mistake."""
        return frozenset(self._plans_with_secret.get(secret, ()))

    def readers_of(self, reading: Reading) -> frozenset[Key]:
        """The resources that read a Secret or ConfigMap, or write it for one of their roles."""
        return frozenset(self._readers.get(reading, ()))

    def resources_at(self, endpoint: Endpoint) -> Iterable[Key]:
        """The resources whose server it is."""
        for key, registration in list(self.registrations.items()):
            if registration.connection is not None and registration.connection.endpoint == endpoint:
                yield key

    def _forget_former(self, resource: Key) -> None:
        """Keep nothing of a resource that is gone once no plan refers to it any more."""
        if resource not in self._plans_of and resource not in self.resources:
            self.last_good.pop(resource, None)
            self.former_resources.pop(resource, None)

    def _forget_relations(self, plan: Plan) -> None:
        _discard(self._plans_of, plan.resource_key, plan.key)
        _discard(self._plans_with_secret, Key(plan.key.namespace, plan.secret_name), plan.key)

    def _forget_readings(self, resource: Resource) -> None:
        for reading in resource.readings:
            _discard(self._readers, reading, resource.key)


def _discard(index: dict[K, set[Key]], entry: K, key: Key) -> None:
    """Take a key out of an index by something else, and the entry with it once it is empty."""
    index[entry].discard(key)
    if not index[entry]:
        del index[entry]
