"""What is worth an event: a failure, a recovery, a later change; neither the first success nor a repetition."""

from typing import Literal, NamedTuple

from hoop_operator.crd import PlanType
from hoop_operator.errors import PlanReason
from hoop_operator.reconcile.drift import drift_of, is_drift, repaired_in_words
from hoop_operator.reconcile.objects import ABANDON, Plan
from hoop_operator.reconcile.run import Run

READS_VERIFIERS = "pg_read_all_data"
"""A source role that is allowed, but reads the password verifiers of everybody."""


class Announcement(NamedTuple):
    """An event to post."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def plan_events(run: Run) -> list[Announcement]:
    """What a run whose outcome was written gives to announce."""
    plan = run.plan
    before = plan.condition("Ready")
    events: list[Announcement] = []
    if run.reason is PlanReason.SUSPENDED:
        pass
    elif not run.succeeded:
        if (before.get("reason"), before.get("message")) != (run.reason, run.message):
            events.append(Announcement("Warning", run.reason, run.message))
    elif before.get("status") == "False":
        events.append(Announcement("Normal", run.reason, f"role {run.role} is as the plan asks"))
    elif run.applied and is_drift(run):
        events.append(
            Announcement("Normal", "DriftRepaired", f"drift repaired: {repaired_in_words(drift_of(run))}")
        )
    elif before and run.applied:
        events.append(Announcement("Normal", run.reason, _what_changed(run)))
    if plan.status.get("observedGeneration") != plan.generation:
        events += _advice(plan)
    return events


def role_retained(plan: Plan) -> Announcement | None:
    """What to say of a deleted plan whose role stays as it asks; None where it never had one."""
    role = plan.status.get("role")
    if role is None:
        return None
    why = (
        f"the annotation {ABANDON}"
        if plan.annotations.get(ABANDON) == "true"
        else "spec.deletionPolicy Retain"
    )
    text = f"role {role} stays on the server with its login and password, as {why} asks"
    return Announcement("Normal", "RoleRetained", text)


def role_left_behind(plan: Plan, why: str) -> Announcement:
    """What to say of a deleted plan whose role could not be removed."""
    role = plan.status.get("role") or "of the plan"
    return Announcement(
        "Warning", "RoleLeftBehind", f"role {role} was left behind on the server: {why}; drop it by hand"
    )


def _what_changed(run: Run) -> str:
    parts = []
    if run.statements:
        shown = "; ".join(statement.text for statement in run.statements[:3])
        more = f" and {len(run.statements) - 3} more" if len(run.statements) > 3 else ""
        parts.append(f"statements were applied: {shown}{more}")
    if run.rotated:
        parts.append("the password was changed")
    elif run.password_set:
        parts.append("the server was given the Secret's password")
    return "; ".join(parts) or "the Secret was brought up to date"


def _advice(plan: Plan) -> list[Announcement]:
    """Warnings about a spec that is carried out all the same."""
    spec = plan.spec
    if spec.type == PlanType.MANAGED:
        ignored = ["spec.sourceRole"] if spec.source_role else []
    else:
        ignored = [f"spec.{name}" for name in ("scopes", "privileges") if getattr(spec, name)]
    advice = []
    if ignored:
        text = f"ignored, because it has no meaning for type {spec.type.value}: {', '.join(ignored)}"
        advice.append(Announcement("Warning", "IgnoredField", text))
    if spec.type == PlanType.EXTERNAL and spec.source_role == READS_VERIFIERS:
        text = f"source role {READS_VERIFIERS} reads everything, the password verifiers of all roles included"
        advice.append(Announcement("Warning", "BroadSourceRole", text))
    return advice
