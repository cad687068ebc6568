"""What is known of objects and servers, as gauges that are computed when they are asked for.

So a series is there exactly as long as its object, and nobody has to remember to take it away. They are asked for by
another thread: whatever changes meanwhile is copied in one step before it is walked through.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hoop_operator.credentials.connection import Endpoint
from hoop_operator.reconcile.inbox import Inbox
from hoop_operator.reconcile.memory import Memory
from hoop_operator.reconcile.objects import KubernetesObject, Plan, Resource

OBJECT = ("namespace", "name")
CONDITION = (*OBJECT, "type", "status", "reason")

REACHABLE: Mapping[str | None, float] = {"True": 1.0, "False": 0.0}


class Gauges(Collector):
    """The gauges of all objects that this process serves."""

    def __init__(
        self, memory: Memory, inboxes: Mapping[Endpoint, Inbox], serves: Callable[[Resource], bool]
    ) -> None:
        self._memory = memory
        self._inboxes = inboxes
        self._serves = serves

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are this module's own."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All gauges as of now."""
        resources = [resource for resource in list(self._memory.resources.values()) if self._serves(resource)]
        plans = [plan for plan in list(self._memory.plans.values()) if self._is_served(plan)]
        yield from _of_resources(resources)
        yield from _of_plans(plans)
        yield from _of_inboxes(list(self._inboxes.items()))

    def _is_served(self, plan: Plan) -> bool:
        memory, key = self._memory, plan.resource_key
        resource = memory.resources.get(key) or memory.former_resources.get(key)
        return resource is None or self._serves(resource)


def _of_resources(resources: list[Resource]) -> Iterator[Metric]:
    yield _conditions(
        "hoop_resource_condition", "A condition of a HoopResource as its status says it; always 1.", resources
    )
    reachable = GaugeMetricFamily(
        "hoop_resource_reachable",
        "1 where the server of a HoopResource could be reached by the last attempt, else 0.",
        labels=OBJECT,
    )
    for resource in resources:
        answers = REACHABLE.get(resource.condition("Reachable").get("status"))
        if answers is not None:
            reachable.add_metric(resource.key, answers)
    yield reachable


def _of_plans(plans: list[Plan]) -> Iterator[Metric]:
    yield _conditions(
        "hoop_plan_condition", "A condition of a HoopRolePlan as its status says it; always 1.", plans
    )
    since = GaugeMetricFamily(
        "hoop_plan_ready_since_timestamp_seconds",
        "Since when the condition Ready of a HoopRolePlan has the status that it has.",
        labels=OBJECT,
    )
    rotation = GaugeMetricFamily(
        "hoop_plan_next_rotation_timestamp_seconds",
        "When the password of a HoopRolePlan is due to be rotated by spec.rotationInterval.",
        labels=OBJECT,
    )
    for plan in plans:
        _add_moment(since, plan, plan.condition("Ready").get("lastTransitionTime"))
        _add_moment(rotation, plan, plan.status.get("nextRotationTime"))
    yield since
    yield rotation


def _of_inboxes(inboxes: list[tuple[Endpoint, Inbox]]) -> Iterator[Metric]:
    depth = GaugeMetricFamily(
        "hoop_inbox_plans",
        "How many plans wait for their server or are being carried out.",
        labels=["server"],
    )
    oldest = GaugeMetricFamily(
        "hoop_inbox_oldest_wait_seconds",
        "For how long the plan that came first has waited, or been carried out; 0 where there is none.",
        labels=["server"],
    )
    for endpoint, inbox in inboxes:
        ages = inbox.ages()
        depth.add_metric([str(endpoint)], len(ages))
        oldest.add_metric([str(endpoint)], max(ages, default=0.0))
    yield depth
    yield oldest


def _conditions(name: str, documentation: str, objects: Iterable[KubernetesObject]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=CONDITION)
    for known in objects:
        for condition in known.status.get("conditions") or ():
            labels = (*known.key, condition["type"], condition["status"], condition.get("reason", ""))
            family.add_metric(labels, 1.0)
    return family


def _add_moment(family: GaugeMetricFamily, plan: Plan, moment: str | None) -> None:
    if moment:
        family.add_metric(plan.key, datetime.fromisoformat(moment).timestamp())
