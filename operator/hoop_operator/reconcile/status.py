"""What a run says on its plan: the status, its conditions and the history."""

from datetime import datetime
from functools import partial
from typing import Any

from hoop_operator.cluster.conditions import condition, merge_conditions, said
from hoop_operator.crd import (
    ComputedPlan,
    Condition,
    HistoryEntry,
    HoopRolePlanStatus,
    Outcome,
    PlanType,
    ServiceBinding,
)
from hoop_operator.errors import PlanReason
from hoop_operator.naming import APPROVE, RECONCILE_AT, ROTATE_AT
from hoop_operator.reconcile.drift import repaired_drift
from hoop_operator.reconcile.rotation import is_untold, next_due
from hoop_operator.reconcile.run import Run
from hoop_operator.reconcile.shown import shown


def status_of(run: Run, now: datetime) -> dict[str, Any] | None:
    """The patch of the status after a run; None where it was but a look, or the same failure met again.

    What the status says already is not said again: only a new input, a change that was made, or another outcome is
    worth a write. An approval that was taken up and not made use of is given back in any case.
    """
    plan = run.plan
    previous = plan.status
    said_before = previous.get("conditions") or ()
    conditions = merge_conditions(said_before, _conditions(run, now))
    rotated_untold = is_untold(plan, run.password_since)
    if not (run.new_input or run.applied or rotated_untold) and said(conditions) == said(said_before):
        return {"lastAppliedSid": run.last_applied_sid} if run.claimed else None
    before = HoopRolePlanStatus.model_validate({**previous, "conditions": ()})
    computed = before.plan
    if run.statements and run.checksum:
        texts = tuple(shown(statement) for statement in run.statements)
        computed = ComputedPlan(
            sid=run.sid,
            checksum=run.checksum,
            statements=texts,
            count=len(texts),
            computed_at=now,
        )
    entry = HistoryEntry(
        sid=run.sid,
        trigger=run.trigger,
        checksum=run.checksum if run.statements else None,
        generation=plan.generation,
        reconcile_at=plan.annotations.get(RECONCILE_AT),
        status=Outcome.FAILED if run.failed else Outcome.SUCCESS,
        message=run.message if run.failed else "",
        statement_count=len(run.statements or ()),
        repaired=sorted({drift.kind for drift in repaired_drift(run)}) or None,
        started_at=run.started,
        finished_at=now,
    )
    settled = run.rotation_settled
    rotate_at = plan.annotations.get(ROTATE_AT) if settled else None
    since = run.password_since or before.last_rotation_time
    # Validated as a whole, because that is what cuts texts and lists to the length which the API server takes.
    status = HoopRolePlanStatus.model_validate(
        dict(before)
        | {
            "sid": run.sid,
            "status": entry.status,
            "message": run.message if run.failed else "",
            "resource_name": run.resource_name or before.resource_name,
            "role": run.role or before.role,
            # By these two a role is known again whose comment was lost: never that of a role that is not ours.
            "role_oid": run.role_oid if run.succeeded and run.role_oid else before.role_oid,
            "system_identifier": (
                run.system_identifier if run.succeeded and run.system_identifier else before.system_identifier
            ),
            "observed_generation": plan.generation,
            "secret_name": plan.secret_name if run.secret_ready else before.secret_name,
            "binding": ServiceBinding(name=plan.secret_name) if run.secret_ready else before.binding,
            "plan": computed,
            "last_applied_time": now if run.applied else before.last_applied_time,
            "last_applied_sid": run.last_applied_sid,
            "last_rotation_time": since,
            "next_rotation_time": next_due(plan, since),
            "history": (entry, *before.history),
            "observed_reconcile_at": plan.annotations.get(RECONCILE_AT) or before.observed_reconcile_at,
            "observed_approve": plan.annotations.get(APPROVE) or before.observed_approve,
            "observed_rotate_at": rotate_at or before.observed_rotate_at,
            "rotated_generation": (
                plan.generation if settled and plan.spec.rotate_password else before.rotated_generation
            ),
        }
    )
    body = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    body["conditions"] = conditions
    return dict.fromkeys(previous) | body


def _conditions(run: Run, now: datetime) -> list[Condition]:
    plan = run.plan

    say = partial(condition, generation=plan.generation, now=now)
    failed = run.reason.value
    conditions = [say("Ready", run.succeeded, failed, run.message)]
    suspended = run.reason is PlanReason.SUSPENDED
    known = {condition["type"] for condition in plan.status.get("conditions") or ()}
    if run.waiting is not None:
        conditions.append(say("PendingApproval", True, "PendingApproval", run.waiting))
    elif suspended and "PendingApproval" in known:
        conditions.append(say("PendingApproval", False, "Suspended"))
    elif run.statements is not None and "PendingApproval" in known:
        conditions.append(say("PendingApproval", False, "NothingWaits"))
    if suspended or "Suspended" in known:
        conditions.append(say("Suspended", suspended, "Suspended" if suspended else "NotSuspended"))
    if suspended:
        return conditions
    if not run.succeeded:
        planned = run.statements is not None
        conditions.append(
            say("Planned", planned, "Planned" if planned else failed, "" if planned else run.message)
        )
        conditions.append(say("Applied", False, failed, run.message))
        conditions.append(say("InSync", False if planned else None, failed, run.message))
        if run.secret_ready:
            conditions.append(say("SecretReady", True, "SecretReady"))
        elif run.reason is PlanReason.SECRET_CONFLICT:
            conditions.append(say("SecretReady", False, failed, run.message))
        return conditions
    withheld = ""
    if run.withheld_routines:
        withheld = "left out, because an extension keeps them from PUBLIC: " + ", ".join(
            run.withheld_routines
        )
    conditions += [
        say("Planned", True, "Planned", withheld),
        say("Applied", True, "Applied"),
        say("SecretReady", run.secret_ready, "SecretReady" if run.secret_ready else failed),
        say("InSync", True, "InSync", "; ".join(run.observations)),
    ]
    if plan.spec.type == PlanType.MANAGED:
        covered = not run.uncovered_owners
        conditions.append(
            say(
                "FutureObjectsCovered",
                covered,
                "Covered" if covered else "OwnersNotCovered",
                ""
                if covered
                else "objects that these owners create later are not covered: "
                + "; ".join(run.uncovered_owners),
            )
        )
    return conditions
