"""Drift, in words: what differs from a plan although nobody asked for anything new since it was applied."""

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from hoop_operator.planner.statements import Change, ChangeKind, Statement
from hoop_operator.reconcile.run import Run

DRIFT = "drift"
"""What wakes plans when nothing is known to have changed."""
SECRET = "secret"
"""What wakes a plan whose Secret was changed or deleted."""
RETRY = "retry"
CREATORS = "creators"
"""What wakes a plan in whose scopes another role can create objects by now."""

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


class DriftOutcome(StrEnum):
    """What came of it in the run that found it, as the metric has it."""

    REPAIRED = "repaired"
    WAITING = "waiting"


class Drift(NamedTuple):
    """One difference, and how it is told: as gone again, or as still there."""

    kind: DriftKind
    words: str


def is_drift(run: Run) -> bool:
    """Whether what a run had to do is drift: the plan was ready, and was looked at for no other reason than to look.

    What a neighbour's new owners, another resource or a rotation bring about is none.
    """
    ready = run.plan.condition("Ready").get("status") == "True"
    return ready and not run.new_input and run.trigger in {DRIFT, SECRET, RETRY}


def repaired_drift(run: Run) -> list[Drift]:
    """The drift that a run found on the server and in the Secret, and repaired."""
    if not (run.applied and is_drift(run)):
        return []
    if _makes_role(run.done):
        return [_role_made_anew(run)]
    return [*_differences(run.done, _as_repaired), *_credentials(run)]


def waiting_drift(run: Run) -> list[Drift]:
    """The drift that a run found on the server and left as it is, because to repair it waits for approval.

    It is found once: a plan that waits is not ready any more.
    """
    if run.waiting is None or not is_drift(run):
        return []
    statements = run.statements or ()
    if _makes_role(statements):
        return [Drift(DriftKind.ROLE, "the role is gone")]
    return _differences(statements, _as_waiting)


def in_words(drifts: list[Drift]) -> str:
    """Differences, one by one as long as they are not too many."""
    texts = [drift.words for drift in drifts]
    more = [f"and {len(texts) - SHOWN_MAX} more"] if len(texts) > SHOWN_MAX else []
    return "; ".join([*texts[:SHOWN_MAX], *more])


def _makes_role(statements: Iterable[Statement]) -> bool:
    return any(
        statement.change is not None and statement.change.kind is ChangeKind.ROLE for statement in statements
    )


def _differences(statements: Iterable[Statement], words: Callable[[Change, bool], str]) -> list[Drift]:
    """What statements change, each difference once; `words` tell one, and whether it is taken away."""
    told = (
        Drift(
            _kind(statement.change, taken_away=statement.phase.takes_away),
            words(statement.change, statement.phase.takes_away),
        )
        for statement in statements
        if statement.change is not None
    )
    return [*dict.fromkeys(told)]


def _kind(change: Change, *, taken_away: bool) -> DriftKind:
    match change.kind:
        case ChangeKind.GRANT:
            return DriftKind.GRANT_EXTRA if taken_away else DriftKind.GRANT_MISSING
        case kind:
            return DriftKind(kind.value)


def _role_made_anew(run: Run) -> Drift:
    words = (
        "the role and its Secret were gone and were created anew with another password"
        if run.secret_lost
        else "the role was gone and was created anew with its password"
    )
    return Drift(DriftKind.ROLE, words)


def _as_repaired(change: Change, taken_away: bool) -> str:
    match change.kind:
        case ChangeKind.COMMENT:
            return "its ownership comment was gone and was written again"
        case ChangeKind.ATTRIBUTE:
            return f"{change.what} set again"
        case _:
            return f"extra {change.what} revoked" if taken_away else f"{change.what} granted again"


def _as_waiting(change: Change, taken_away: bool) -> str:
    match change.kind:
        case ChangeKind.COMMENT:
            return "its ownership comment is gone"
        case ChangeKind.ATTRIBUTE:
            return f"{change.what} is not set"
        case _:
            return f"extra {change.what}" if taken_away else f"{change.what} is missing"


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
