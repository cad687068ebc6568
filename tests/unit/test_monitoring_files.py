"""Dashboard and alerts ask for nothing but what the operator exposes, and every alert is explained."""

import json
import re
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import pytest
import yaml

from hoop_operator.errors import PlanReason, ResourceReason
from unit.test_docs import CODE_SPAN, HEADING, read, rows, section

SELECTOR = re.compile(r"\b((?:hoop|process)_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
MATCH = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on) ?\(([^)]*)\)")
OF_THE_TARGET = {"instance", "job", "namespace"}
OF_A_HISTOGRAM = {"le"}
OF_THE_LIBRARY = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
SEVERITIES = {"critical", "warning", "info"}
RUNBOOK = "https://github.com/hoophq/hoop-operator/blob/main/"
HOLDS: dict[str, Callable[[str, str], object]] = {
    "=": str.__eq__,
    "!=": str.__ne__,
    "=~": lambda value, pattern: re.fullmatch(pattern, value),
    "!~": lambda value, pattern: not re.fullmatch(pattern, value),
}


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads(read("deploy/monitoring/dashboard.json"))
    return board


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    return [
        rule
        for group in yaml.safe_load(read("deploy/monitoring/alerts.yaml"))["groups"]
        for rule in group["rules"]
    ]


def expressions() -> Iterator[str]:
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    for variable in dashboard()["templating"]["list"]:
        yield variable["query"]
    for alert in alerts():
        yield alert["expr"]
        yield from alert["annotations"].values()


def exposed() -> dict[str, set[str]]:
    """The labels of every series by its name."""
    found: dict[str, set[str]] = {name: set() for name in OF_THE_LIBRARY}
    for name, kind, labels, _ in rows(section(read("docs/metrics.md"), "Names")):
        base, known = name.strip("`"), set(CODE_SPAN.findall(labels))
        found[base] = known
        if kind == "histogram":
            found |= {f"{base}_bucket": known | OF_A_HISTOGRAM, f"{base}_sum": known, f"{base}_count": known}
    return found


def test_every_series_that_is_asked_for_is_exposed_with_the_labels_that_are_asked_for() -> None:
    known = exposed()
    asked = 0
    for expression in expressions():
        selected = SELECTOR.findall(expression)
        asked += len(selected)
        labels = OF_THE_TARGET.union(*(known[name] for name, _ in selected))
        for name, matchers in selected:
            assert set(MATCHER.findall(matchers)) <= known[name], expression
        for group in GROUPING.findall(expression):
            assert {label.strip() for label in group.split(",")} <= labels, expression
    assert asked > 30


def test_the_dashboard_can_be_imported_anywhere() -> None:
    board = dashboard()
    assert not {"id", "uid", "version"} & board.keys()
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert panel["title"]
        assert panel["description"]
        assert "id" not in panel


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_says_what_is_wrong_and_where_it_is_told_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in SEVERITIES
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    url, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert url.startswith(RUNBOOK)
    page = url.removeprefix(RUNBOOK)
    assert anchor == alert["alert"].lower()
    assert alert["alert"] in HEADING.findall(read(page))
    told = section(read(page), alert["alert"])
    assert "**Cause.**" in told
    assert "**Do.**" in told


def is_told(series: str, **labels: str) -> bool:
    """Whether an alert selects a series that has all of some labels."""
    return any(
        name == series
        and all(HOLDS[operator](labels[label], value) for label, operator, value in MATCH.findall(matchers))
        for alert in alerts()
        for name, matchers in SELECTOR.findall(alert["expr"])
    )


@pytest.mark.parametrize(
    ("series", "reasons", "quiet"),
    [
        (
            "hoop_resource_condition",
            ResourceReason,
            {ResourceReason.IN_USE},  # a deletion waits for plans, as asked
        ),
        (
            "hoop_plan_condition",
            PlanReason,
            {
                PlanReason.SUSPENDED,  # as asked
                PlanReason.RESOURCE_NOT_READY,  # the alerts about the resource tell: one in place of a thousand
            },
        ),
    ],
)
def test_every_reason_not_to_be_ready_raises_an_alert_but_those_that_shall_not(
    series: str, reasons: type[StrEnum], quiet: set[StrEnum]
) -> None:
    not_ready = set(reasons) - {ResourceReason.REGISTERED, PlanReason.APPLIED}
    untold = {
        reason for reason in not_ready if not is_told(series, type="Ready", status="False", reason=reason)
    }
    assert untold == quiet
