"""One run of a plan: what it was for, what it found and did, and what that says on the object."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

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
from hoop_operator.errors import PlanFailure, PlanReason
from hoop_operator.logs import object_reference
from hoop_operator.naming import APPROVE, RECONCILE_AT, ROTATE_AT
from hoop_operator.planner.statements import Statement
from hoop_operator.reconcile.objects import Plan
from hoop_operator.reconcile.rotation import Cause, is_untold, next_due
from hoop_operator.reconcile.shown import shown


@dataclass(slots=True)
class Run:
    """What becomes of one plan in one turn. Nothing of it lasts but what `status_of` makes of it."""

    plan: Plan
    trigger: str
    """What woke the plan, in a word."""
    new_input: bool
    """Whether the spec or an annotation asks for something that no run has answered yet."""
    server: str | None = None
    """Host and port of the server; None where they are not known."""
    role: str | None = None
    resource_name: str | None = None
    reason: PlanReason = PlanReason.APPLIED
    message: str = ""
    statements: tuple[Statement, ...] | None = None
    """What had to be done to grants, memberships and attributes; None where it could not be computed."""
    checksum: str | None = None
    """The checksum of `statements`; None where there are none."""
    due: tuple[Statement, ...] = ()
    """Those of `statements` that may be sent: all, or none while they wait for approval."""
    waiting: str | None = None
    """What waits for approval, in words; None where nothing does."""
    approved: frozenset[Statement] = frozenset()
    """What a person has approved for this run."""
    claimed: bool = False
    """Whether the approval was taken up on the object."""
    committing: bool = False
    """Whether statements came as far as their COMMIT: one that breaks off may have taken effect."""
    applied: bool = False
    """Whether anything was changed on the server or in the Secret."""
    password_set: bool = False
    """Whether a role that was there already was given a password."""
    secret_lost: bool = False
    """Whether the plan's Secret was not there, or about to go."""
    secret_written: bool = False
    secret_edited: bool = False
    """Whether the Secret, and not the server, has another password than when they were last seen to agree."""
    rotated: bool = False
    rotation: Cause | None = None
    """Why the password was rotated; None where it was not, or is new for another reason."""
    password_since: datetime | None = None
    """Since when the Secret has its password; None where the run did not come as far as that, or nobody knows."""
    sessions_left: str = ""
    """Why sessions that began with a former password were not ended, and the SQL that ends them."""
    taken_over: list[str] = field(default_factory=list)
    """In words, what of others became the plan's."""
    rotation_settled: bool = False
    """Whether the rotations asked for so far have been made, or had nothing to rotate."""
    secret_ready: bool = False
    secret_version: str | None = None
    """resourceVersion of the Secret that the run ended with; None where it did not come as far as that."""
    role_oid: int | None = None
    system_identifier: str | None = None
    overtaken: bool = False
    """Whether somebody else is at work on the same: nothing is told, and the plan is read anew."""
    withheld_routines: tuple[str, ...] = ()
    uncovered_owners: tuple[str, ...] = ()
    observations: tuple[str, ...] = ()
    sid: str = field(default_factory=lambda: str(uuid4()))
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _former_sid: str | None = field(init=False)

    def __post_init__(self) -> None:
        self._former_sid = self.plan.status.get("lastAppliedSid")

    @property
    def succeeded(self) -> bool:
        """Whether the plan holds."""
        return self.reason is PlanReason.APPLIED

    @property
    def failed(self) -> bool:
        """Whether something went wrong: to wait for a person is no failure."""
        return self.reason not in {PlanReason.APPLIED, PlanReason.PENDING_APPROVAL, PlanReason.SUSPENDED}

    @property
    def last_applied_sid(self) -> str | None:
        """The sid of the last apply: of this run as soon as it may have changed something by its statements."""
        return self.sid if self.committing else self._former_sid

    @property
    def log_fields(self) -> dict[str, Any]:
        """What the lines about it carry in the log."""
        return {
            "object": object_reference("HoopRolePlan", *self.plan.key),
            "sid": self.sid,
            "server": self.server,
            "trigger": self.trigger,
        }

    def fail(self, failure: PlanFailure) -> None:
        """End the run with a failure; one that has failed already keeps its reason and tells of the further one."""
        if self.succeeded:
            self.reason, self.message = failure.reason, failure.message
        else:
            self.message += f"; besides, {failure.message}"


def failure_of(problems: Sequence[tuple[PlanReason, str]]) -> PlanFailure:
    """One failure for all that is wrong, each problem told once; the reason is the first one's.

    A message that ends with SQL has its semicolon already.
    """
    *others, last = dict.fromkeys(message for _, message in problems)
    return PlanFailure(problems[0][0], "; ".join([*(message.removesuffix(";") for message in others), last]))


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
