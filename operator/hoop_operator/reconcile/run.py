"""One run of a plan: what it was for, what it found and did."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from hoop_operator.errors import PlanFailure, PlanReason
from hoop_operator.logs import object_reference
from hoop_operator.planner.statements import Statement
from hoop_operator.reconcile.objects import Plan
from hoop_operator.reconcile.rotation import Cause


@dataclass(slots=True)
class Run:
    """What becomes of one plan in one turn. Nothing of it lasts but what `status.status_of` makes of it."""

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
    done: tuple[Statement, ...] = ()
    """Those that were committed, also in an attempt before the last one, or before the run failed."""
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
