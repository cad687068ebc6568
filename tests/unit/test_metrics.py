"""The metrics are those of the documentation."""

import re
from collections.abc import Iterator

from prometheus_client import generate_latest
from prometheus_client.metrics import MetricWrapperBase

from hoop_operator import metrics
from hoop_operator.credentials.connection import Endpoint
from hoop_operator.reconcile.gauges import Gauges
from hoop_operator.reconcile.memory import Memory
from hoop_operator.reconcile.objects import Key, Plan, Resource
from unit.test_docs import CODE_SPAN, read, rows, section

METADATA = {"namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": "1"}


class Waiting:
    """Stands in for an inbox."""

    def ages(self) -> list[float]:
        return [2.0, 7.0]


def condition(name: str, status: str, reason: str) -> dict[str, str]:
    return {"type": name, "status": status, "reason": reason, "lastTransitionTime": "1970-01-01T00:01:00Z"}


def plan(name: str, resource: str = "db", **status: object) -> Plan:
    spec = {"resourceRef": {"name": resource}, "type": "external", "role": "ro", "sourceRole": "readers"}
    return Plan.parse({"metadata": METADATA | {"name": name}, "spec": spec, "status": status})


def resource(name: str, *conditions: dict[str, str]) -> Resource:
    spec = {"type": "database", "subtype": "postgres", "envVarsFrom": [{"secretRef": {"name": "admin"}}]}
    return Resource.parse(
        {"metadata": METADATA | {"name": name}, "spec": spec, "status": {"conditions": conditions}}
    )


def gauges(memory: Memory) -> Gauges:
    inboxes: dict[Endpoint, Waiting] = {Endpoint("db", 5432): Waiting()}
    return Gauges(memory, inboxes, lambda resource: resource.key.name != "theirs")  # type: ignore[arg-type]


def told(memory: Memory) -> dict[str, float]:
    return {
        f"{sample.name}{{{','.join(f'{name}={value}' for name, value in sample.labels.items())}}}": sample.value
        for family in gauges(memory).collect()
        for sample in family.samples
    }


def exposed() -> Iterator[tuple[str, str | None, tuple[str, ...]]]:
    """Name, type and labels of all that is ours."""
    for measure in vars(metrics).values():
        if isinstance(measure, MetricWrapperBase):
            suffix = "_total" if measure._type == "counter" else ""
            yield f"{measure._name}{suffix}", measure._type, measure._labelnames
    for family in gauges(Memory()).collect():
        yield family.name, family.type, family._labelnames  # type: ignore[attr-defined]


def test_every_metric_is_documented_with_its_labels_and_no_other() -> None:
    documented = {
        (name.strip("`"), kind, tuple(CODE_SPAN.findall(labels)))
        for name, kind, labels, _ in rows(section(read("docs/metrics.md"), "Names"))
    }
    assert documented == {*exposed()}


def test_names_are_ours_and_say_their_unit() -> None:
    for name, kind, _ in exposed():
        assert re.fullmatch(r"hoop(_[a-z]+)+", name)
        assert name.endswith("_total") == (kind == "counter")


def test_an_object_has_its_series_as_long_as_it_is_known_and_served_by_this_instance() -> None:
    memory = Memory()
    memory.see_resource(
        resource("db", condition("Ready", "True", "Registered"), condition("Reachable", "True", "Answers"))
    )
    memory.see_resource(resource("down", condition("Reachable", "False", "ServerUnreachable")))
    memory.see_resource(resource("theirs", condition("Ready", "True", "Registered")))
    memory.see_plan(
        plan(
            "ro",
            conditions=[condition("Ready", "False", "ApplyFailed")],
            nextRotationTime="1970-01-01T00:02:00Z",
        )
    )
    memory.see_plan(plan("new"))
    memory.see_plan(plan("other", "theirs", conditions=[condition("Ready", "True", "Applied")]))
    waiting = {"hoop_inbox_plans{server=db:5432}": 2, "hoop_inbox_oldest_wait_seconds{server=db:5432}": 7}
    assert told(memory) == waiting | {
        "hoop_resource_condition{namespace=shop,name=db,type=Ready,status=True,reason=Registered}": 1,
        "hoop_resource_condition{namespace=shop,name=db,type=Reachable,status=True,reason=Answers}": 1,
        "hoop_resource_condition{namespace=shop,name=down,type=Reachable,status=False,reason=ServerUnreachable}": 1,
        "hoop_resource_reachable{namespace=shop,name=db}": 1,
        "hoop_resource_reachable{namespace=shop,name=down}": 0,
        "hoop_plan_condition{namespace=shop,name=ro,type=Ready,status=False,reason=ApplyFailed}": 1,
        "hoop_plan_ready_since_timestamp_seconds{namespace=shop,name=ro}": 60,
        "hoop_plan_next_rotation_timestamp_seconds{namespace=shop,name=ro}": 120,
    }
    memory.forget_plan(Key("shop", "ro"))
    for name in ("db", "down"):
        memory.forget_resource(Key("shop", name))
    assert told(memory) == waiting


def test_what_the_process_needs_is_measured_too() -> None:
    text = generate_latest(metrics.REGISTRY).decode()
    assert "process_resident_memory_bytes" in text
    assert "python_gc_objects_collected_total" in text
