"""What remains of a run outside of the operator: the status, and what was counted."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hoop_operator import metrics
from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.crd import Outcome
from hoop_operator.errors import ObjectConflict
from hoop_operator.reconcile.contention import ATTEMPTS
from hoop_operator.reconcile.drift import DriftOutcome, repaired_drift, waiting_drift
from hoop_operator.reconcile.objects import Plan
from hoop_operator.reconcile.run import Run


async def write_status(api: KubernetesApi, plan: Plan, patch: Mapping[str, Any]) -> Plan:
    """Write a status over the one that a run began with, and over no other; return the plan as stored.

    Raises
    ------
    ObjectConflict
        Somebody else wrote a status meanwhile.
    ClusterError
        The API server failed us, or the plan is gone.
    """
    path = paths.custom_object(plan.body)
    known = plan
    for attempt in range(1, ATTEMPTS + 1):
        metadata = {"uid": plan.uid, "resourceVersion": known.body["metadata"]["resourceVersion"]}
        try:
            body = await api.merge_patch(paths.status(path), {"metadata": metadata, "status": patch})
            return Plan.parse(body)
        except ObjectConflict:
            known = Plan.parse(await api.get(path))
            if attempt == ATTEMPTS or known.uid != plan.uid or known.status != plan.status:
                raise
    raise AssertionError("the last attempt returns or raises")


def count_run(run: Run) -> None:
    """Count a run whose outcome was written."""
    outcome = Outcome.FAILED if run.failed else Outcome.SUCCESS
    metrics.PLAN_RUNS.labels(outcome, run.reason, run.trigger).inc()
    metrics.PLAN_RUN_DURATION.observe((datetime.now(UTC) - run.started).total_seconds())
    if run.rotated and run.password_set:
        metrics.ROTATIONS.labels(run.trigger).inc()
    for came_of_it, drifts in (
        (DriftOutcome.REPAIRED, repaired_drift(run)),
        (DriftOutcome.WAITING, waiting_drift(run)),
    ):
        for kind in {drift.kind for drift in drifts}:
            metrics.DRIFT.labels(*run.plan.key, kind, came_of_it).inc()
