"""What is counted and measured, by the names under which Prometheus knows it; docs/metrics.md explains each."""

from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

REGISTRY = CollectorRegistry(auto_describe=True)
"""All that the operator exposes; one of our own, so that no library adds to it what nobody documented."""

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Bounds of the buckets of durations: a turn without changes takes tens of milliseconds, a locked one a minute."""

ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

BUILD_INFO = Gauge(
    "hoop_build_info", "Which version of the operator runs; always 1.", ["version"], registry=REGISTRY
)
BUILD_INFO.labels(version("hoop-operator")).set(1)

LEADER = Gauge(
    "hoop_leader", "1 while this process is the one that serves, 0 while it stands by.", registry=REGISTRY
)

PLAN_RUNS = Counter(
    "hoop_plan_runs",
    "Runs of plans whose outcome was written on the object.",
    ["outcome", "reason", "trigger"],
    registry=REGISTRY,
)
PLAN_RUN_DURATION = Histogram(
    "hoop_plan_run_duration_seconds",
    "From the moment a run began until its outcome was written on the object.",
    buckets=SECONDS,
    registry=REGISTRY,
)
PLAN_REMOVALS = Counter(
    "hoop_plan_removals",
    "Deleted plans that were let go: their role dropped, retained as asked, or left behind.",
    ["outcome"],
    registry=REGISTRY,
)
TURN_DURATION = Histogram(
    "hoop_turn_duration_seconds",
    "How long a look at all waiting plans of one resource took, with all that was done about them on the server.",
    buckets=SECONDS,
    registry=REGISTRY,
)
DRIFT = Counter(
    "hoop_drift",
    "Differences that nobody had asked for, by the plan, by what had drifted, and by what came of it.",
    ["namespace", "name", "kind", "outcome"],
    registry=REGISTRY,
)
ROTATIONS = Counter(
    "hoop_password_rotations",
    "Passwords that were replaced by new ones, by what asked for it.",
    ["trigger"],
    registry=REGISTRY,
)
KUBERNETES_REQUESTS = Counter(
    "hoop_kubernetes_requests",
    "Requests to the Kubernetes API, by HTTP method and status; status 0 where there was no answer.",
    ["method", "status"],
    registry=REGISTRY,
)
SQL_TRANSACTIONS = Counter(
    "hoop_sql_transactions",
    "Transactions on PostgreSQL servers, by whether they may write and whether they were committed.",
    ["mode", "outcome"],
    registry=REGISTRY,
)
