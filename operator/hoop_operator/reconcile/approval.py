"""Approval: what of a plan waits for a person, and that one approval is good for one apply.

decide      with every look: may the statements be sent, or do they wait
claim       before the first of them: take the approval up on the object, so that no other run ever does
conclude    after the turn: what waits is what the run came to, unless something failed
"""

from collections.abc import Sequence

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.crd import Approval
from hoop_operator.credentials.connection import Endpoint
from hoop_operator.errors import PlanReason
from hoop_operator.naming import APPROVE
from hoop_operator.planner.statements import Statement, checksum
from hoop_operator.planner.summary import in_words
from hoop_operator.reconcile.objects import Plan, Resource
from hoop_operator.reconcile.run import Run

WAITS = "waits for approval: nothing is applied"
UNTOLD = f"{WAITS} until the annotation {APPROVE} has the checksum of status.plan"
"""What is told ahead where the checksum is not known."""


def is_manual(plan: Plan, resource: Resource) -> bool:
    """Whether a plan waits for approval: the guardrails of its resource override what it says itself."""
    guardrails = resource.spec.guardrails
    return Approval.MANUAL in {plan.spec.approval, guardrails.approval if guardrails else None}


def decide(run: Run, resource: Resource, endpoint: Endpoint) -> None:
    """Decide whether the statements of a run may be sent, or wait.

    A run that looks again, because others were at work on the same, goes on with what is left of the approved
    statements; anything else waits.
    """
    statements = run.statements or ()
    server = _identity(endpoint, run.system_identifier)
    run.checksum = checksum(statements, run.last_applied_sid, server) if statements else None
    run.due, run.waiting = statements, None
    if not statements or not is_manual(run.plan, resource):
        return
    if run.plan.annotations.get(APPROVE) == run.checksum:
        run.approved = frozenset(statements)
    if not run.approved.issuperset(statements):
        run.due, run.waiting = (), _waits(run)
        # Where there is no role yet there is nothing to rotate, as with every other new one.
        run.rotation_settled = run.role_oid is None
    elif not run.claimed:
        run.due = ()


async def claim(api: KubernetesApi, run: Run) -> None:
    """Take up the approval of a run that has one, before its first statement.

    The last apply is this run's from here on, and the checksum of the same statements another: were the process to
    end before it can tell, they would be asked for anew rather than applied twice. An approval that was withdrawn
    since, or that another process takes up, is not taken.

    Raises
    ------
    ObjectConflict
        The plan was changed since it was read.
    ClusterError
        The API server failed us.
    """
    if run.due or run.waiting or not run.statements:
        return
    body = await api.merge_patch(
        paths.status(paths.custom_object(run.plan.body)),
        {
            "metadata": {"resourceVersion": str(run.plan.resource_version)},
            "status": {"lastAppliedSid": run.sid},
        },
    )
    run.plan = Plan.parse(body)
    run.claimed = True
    run.due = run.statements


def conclude(run: Run) -> None:
    """End a run as one that waits, if it does and nothing failed."""
    if run.waiting is not None and run.succeeded:
        run.reason, run.message = PlanReason.PENDING_APPROVAL, run.waiting


def how_to_approve(plan: Plan, approved: str) -> str:
    """The command that approves the plan of a checksum."""
    return f"kubectl -n {plan.key.namespace} annotate hrp {plan.key.name} --overwrite {APPROVE}={approved}"


def foretell(
    plan: Plan, statements: Sequence[Statement], endpoint: Endpoint, system_identifier: str | None
) -> str:
    """What a run would say of statements that need approval.

    Their checksum is told only where the plan comes from a cluster, with its status: the last apply is part of it.
    """
    if not plan.status:
        return UNTOLD
    due = checksum(statements, plan.status.get("lastAppliedSid"), _identity(endpoint, system_identifier))
    if plan.annotations.get(APPROVE) == due:
        return f"approved: the annotation {APPROVE} has the checksum of this plan, {due}"
    return f"{WAITS} until somebody runs: {how_to_approve(plan, due)}"


def _identity(endpoint: Endpoint, system_identifier: str | None) -> str:
    """What tells a server from any other: a physical copy shares the identifier, a successor the address."""
    return f"{endpoint} {system_identifier or ''}"


def _waits(run: Run) -> str:
    plan = run.plan
    parts = [f"waits for approval: {in_words(run.statements or ())}"]
    if plan.annotations.get(APPROVE):
        parts.append(f"the annotation {APPROVE} approves another plan than the one that is due now")
    parts.append(f"to apply exactly this, run: {how_to_approve(plan, run.checksum or '')}")
    return "; ".join(parts)
