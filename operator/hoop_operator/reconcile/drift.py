"""Drift, in words: what differs from a plan although nobody asked for anything new since it was applied."""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from hoop_operator.planner.statements import Change, ChangeKind
from hoop_operator.reconcile.run import Run

DRIFT = "drift"
"""What wakes plans when nothing is known to have changed."""
SECRET = "secret"
"""What wakes a plan whose Secret was changed or deleted."""
RETRY = "retry"

SHOWN_MAX = 10
"""How many differences are told one by one."""


class DriftKind(StrEnum):
    """What had drifted, as the metric has it."""

    ROLE = "role"
    COMMENT = "comment"
    ATTRIBUTE = "attribute"
    MEMBERSHIP = "membership"
    GRANT_MISSING = "grant_missing"
    GRANT_EXTRA = "grant_extra"
    PASSWORD = "password"
    SECRET = "secret"


class Drift(NamedTuple):
    """One difference, and how it is told once it is repaired."""

    kind: DriftKind
    repaired: str


def is_drift(run: Run) -> bool:
    """Whether what a run had to do is drift: the plan was ready, and was looked at for no other reason than to look.

    What a neighbour's new owners, another resource or a rotation bring about is none.
    """
    ready = run.plan.condition("Ready").get("status") == "True"
    return ready and not run.new_input and run.trigger in {DRIFT, SECRET, RETRY}


def drift_of(run: Run) -> list[Drift]:
    """What a run found to differ on the server and in the Secret; without what waits for approval."""
    changes = [statement.change for statement in run.due if statement.change is not None]
    if any(change.kind is ChangeKind.ROLE for change in changes):
        return [_role_gone(run)]
    told = [
        _change(statement.change, taken_away=statement.phase.takes_away)
        for statement in run.due
        if statement.change is not None
    ]
    return [*dict.fromkeys(told), *_credentials(run)]


def kinds_repaired(run: Run) -> set[DriftKind]:
    """What a run repaired: nothing unless it changed something, and was there to look for differences."""
    return {drift.kind for drift in drift_of(run)} if run.applied and is_drift(run) else set()


def repaired_in_words(drifts: list[Drift]) -> str:
    """Differences that are gone again."""
    return _shortened([drift.repaired for drift in drifts])


def _shortened(texts: list[str]) -> str:
    more = [f"and {len(texts) - SHOWN_MAX} more"] if len(texts) > SHOWN_MAX else []
    return "; ".join([*texts[:SHOWN_MAX], *more])


def _role_gone(run: Run) -> Drift:
    if run.secret_lost:
        return Drift(
            DriftKind.ROLE,
            "the role and its Secret were gone and were created anew with another password",
        )
    return Drift(DriftKind.ROLE, "the role was gone and was created anew with its password")


def _change(change: Change, *, taken_away: bool) -> Drift:
    what = change.what
    match change.kind:
        case ChangeKind.COMMENT:
            return Drift(
                DriftKind.COMMENT,
                "its ownership comment was gone and was written again",
            )
        case ChangeKind.ATTRIBUTE:
            return Drift(DriftKind.ATTRIBUTE, f"{what} set again")
        case ChangeKind.MEMBERSHIP:
            kinds = (DriftKind.MEMBERSHIP, DriftKind.MEMBERSHIP)
        case _:
            kinds = (DriftKind.GRANT_MISSING, DriftKind.GRANT_EXTRA)
    if taken_away:
        return Drift(kinds[1], f"extra {what} revoked")
    return Drift(kinds[0], f"{what} granted again")


def _credentials(run: Run) -> Iterator[Drift]:
    """What was wrong with the password and the Secret of a role that is there."""
    if run.rotation is not None:
        return
    if run.rotated:
        if run.secret_lost:
            yield Drift(
                DriftKind.SECRET,
                "its Secret was gone and was made anew with another password",
            )
        else:
            yield Drift(
                DriftKind.SECRET,
                "its Secret held no password any more and was given another one",
            )
    elif run.password_set:
        if run.secret_edited or run.trigger == SECRET:
            yield Drift(
                DriftKind.SECRET,
                "the password in its Secret had been edited and was given to the server",
            )
        else:
            yield Drift(
                DriftKind.PASSWORD,
                "its password had been changed on the server and was set back",
            )
    elif run.secret_written:
        yield Drift(
            DriftKind.SECRET,
            "its Secret had been edited and was put right",
        )
