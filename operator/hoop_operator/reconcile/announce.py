"""What is worth an event: a failure, a recovery, a later change; neither the first success nor a repetition."""

from textwrap import shorten
from typing import Literal, NamedTuple

from hoop_operator.crd import PlanType
from hoop_operator.errors import PlanReason
from hoop_operator.reconcile.drift import in_words, repaired_drift, waiting_drift
from hoop_operator.reconcile.objects import ABANDON, Plan
from hoop_operator.reconcile.run import Run

DRIFT_SHOWN = 300
"""Of the drift that waits for approval, in characters: an event is cut at its end, where the command stands."""

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
    repaired = repaired_drift(run)
    events: list[Announcement] = []
    if run.waiting is not None and not _was_told(run):
        drifted = waiting_drift(run)
        found = [shorten(f"drift: {in_words(drifted)}", DRIFT_SHOWN, placeholder=" …")] if drifted else []
        events.append(Announcement("Normal", PlanReason.PENDING_APPROVAL, "; ".join([*found, run.waiting])))
    if run.failed:
        if (before.get("reason"), before.get("message")) != (run.reason, run.message):
            events.append(Announcement("Warning", run.reason, run.message))
    elif run.succeeded and before.get("status") == "False":
        healed = f"role {run.role} is as the plan asks"
        events.append(
            Announcement("Normal", run.reason, "; ".join([healed, *_what_became_of_the_password(run)]))
        )
    elif before and run.applied and not repaired:
        events.append(Announcement("Normal", PlanReason.APPLIED, _what_changed(run)))
    if repaired:
        events.append(Announcement("Normal", "DriftRepaired", f"drift repaired: {in_words(repaired)}"))
    if run.taken_over:
        events.append(Announcement("Normal", "Adopted", "; ".join(run.taken_over)))
    if run.sessions_left:
        events.append(Announcement("Warning", "SessionsNotEnded", run.sessions_left))
    if plan.status.get("observedGeneration") != plan.generation:
        events += _advice(plan)
    return events


def _was_told(run: Run) -> bool:
    """Whether it was said before that this very plan waits."""
    shown = run.plan.status.get("plan") or {}
    return run.plan.waits_for_approval and shown.get("checksum") == run.checksum


def role_retained(plan: Plan) -> Announcement | None:
    """What to say of a deleted plan whose role stays as it asks; None where it never had one."""
    role = plan.status.get("role")
    if role is None:
        return None
    # A removal that had begun before it was abandoned has taken the login away already.
    text = (
        f"role {role} stays on the server as it is now, as the annotation {ABANDON} asks"
        if plan.annotations.get(ABANDON) == "true"
        else f"role {role} stays on the server with its login and password, as spec.deletionPolicy Retain asks"
    )
    return Announcement("Normal", "RoleRetained", text)


def role_left_behind(plan: Plan, why: str) -> Announcement:
    """What to say of a deleted plan whose role could not be removed."""
    role = plan.status.get("role") or "of the plan"
    return Announcement(
        "Warning", "RoleLeftBehind", f"role {role} was left behind on the server: {why}; drop it by hand"
    )


def _what_changed(run: Run) -> str:
    parts = []
    if run.done:
        shown = "; ".join(statement.text for statement in run.done[:3])
        more = f" and {len(run.done) - 3} more" if len(run.done) > 3 else ""
        parts.append(f"statements were applied: {shown}{more}")
    parts += _what_became_of_the_password(run)
    return "; ".join(parts) or "the Secret was brought up to date"


def _what_became_of_the_password(run: Run) -> list[str]:
    if run.rotation is not None:
        return [f"the password was rotated, {run.rotation}"]
    if run.rotated:
        return ["a fresh password was set"]
    return ["the server was given the Secret's password"] if run.password_set else []


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
