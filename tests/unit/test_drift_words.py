"""What counts as drift, how it is told and how it is counted, once it is repaired and while it waits."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hoop_operator import metrics
from hoop_operator.errors import PlanFailure, PlanReason
from hoop_operator.planner.statements import Change, ChangeKind, Phase, Statement
from hoop_operator.reconcile.announce import plan_events
from hoop_operator.reconcile.drift import in_words, is_drift, repaired_drift, waiting_drift
from hoop_operator.reconcile.objects import Plan
from hoop_operator.reconcile.outcome import count_run
from hoop_operator.reconcile.run import Run

GRANTED = Change(ChangeKind.GRANT, "INSERT on 3 tables")
EXTRA = Change(ChangeKind.GRANT, "DELETE on table orders")
MEMBER = Change(ChangeKind.MEMBERSHIP, 'membership in "readers"')


WAITS = "waits for approval: revokes on 1 object; to apply exactly this, run: kubectl"
CHECKSUM = "0c" * 20


def run(
    trigger: str = "drift",
    *statements: Statement,
    ready: str = "True",
    new_input: bool = False,
    **status: Any,
) -> Run:
    spec = {"resourceRef": {"name": "pg"}, "type": "external", "role": "ro", "sourceRole": "readers"}
    status = {"conditions": [{"type": "Ready", "status": ready}], **status}
    metadata = {"name": "ro", "namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": "1"}
    plan = Plan.parse({"metadata": metadata, "spec": spec, "status": status})
    return Run(
        plan,
        trigger,
        new_input,
        statements=statements,
        due=statements,
        done=statements,
        applied=bool(statements),
    )


def waits(run: Run) -> Run:
    """The run of a plan under approval Manual."""
    run.due = run.done = ()
    run.waiting, run.applied, run.checksum = WAITS, False, CHECKSUM
    return run


def statement(phase: Phase, change: Change | None) -> Statement:
    return Statement(phase, None, "SQL", change=change)


@pytest.mark.parametrize("trigger", ["drift", "secret", "retry"])
def test_a_difference_that_nobody_asked_for_on_a_plan_that_was_ready_is_drift(trigger: str) -> None:
    assert is_drift(run(trigger))
    assert not is_drift(run(trigger, ready="False"))
    assert not is_drift(run(trigger, new_input=True))


@pytest.mark.parametrize("trigger", ["spec", "annotation", "resource", "creators", "rotation"])
def test_what_has_another_cause_is_no_drift(trigger: str) -> None:
    assert not is_drift(run(trigger))


def test_each_difference_is_told_once() -> None:
    drifts = repaired_drift(
        run(
            "drift",
            statement(Phase.REDUCE, MEMBER),
            statement(Phase.REVOKE, EXTRA),
            statement(Phase.GRANT, GRANTED),
            statement(Phase.GRANT, GRANTED),
            statement(Phase.GRANT, None),
        )
    )
    assert in_words(drifts) == (
        'extra membership in "readers" revoked; extra DELETE on table orders revoked; '
        "INSERT on 3 tables granted again"
    )


def test_a_role_that_was_gone_is_told_without_all_that_went_with_it() -> None:
    (drift,) = repaired_drift(
        run("drift", statement(Phase.ROLE, Change(ChangeKind.ROLE)), statement(Phase.GRANT, GRANTED))
    )
    assert drift.words == "the role was gone and was created anew with its password"


def test_many_differences_are_told_as_a_number() -> None:
    many = (statement(Phase.GRANT, Change(ChangeKind.GRANT, f"SELECT on table t{n}")) for n in range(12))
    assert in_words(repaired_drift(run("drift", *many))).endswith("t9 granted again; and 2 more")


DRIFTED = (
    statement(Phase.ALTER, Change(ChangeKind.ATTRIBUTE, "LOGIN")),
    statement(Phase.REDUCE, MEMBER),
    statement(Phase.REVOKE, EXTRA),
    statement(Phase.GRANT, GRANTED),
)


def test_drift_that_waits_for_approval_is_told_with_the_wait_and_as_it_is() -> None:
    (event,) = plan_events(waits(run("drift", *DRIFTED)))
    assert event == (
        "Normal",
        "PendingApproval",
        'drift: LOGIN is not set; extra membership in "readers"; extra DELETE on table orders; '
        f"INSERT on 3 tables is missing; {WAITS}",
    )
    gone = waits(run("drift", statement(Phase.ROLE, Change(ChangeKind.ROLE)), *DRIFTED))
    assert in_words(waiting_drift(gone)) == "the role is gone"


def test_much_drift_does_not_push_the_command_that_approves_out_of_the_event() -> None:
    many = (statement(Phase.GRANT, Change(ChangeKind.GRANT, "x" * 100)) for _ in range(12))
    (event,) = plan_events(waits(run("drift", *many)))
    assert len(event.message) < 400
    assert event.message.endswith(WAITS)


def test_of_a_run_that_failed_only_what_was_committed_is_told_as_repaired() -> None:
    failed = run("drift", *DRIFTED)
    failed.done = failed.due[3:]
    failed.fail(PlanFailure(PlanReason.APPLY_FAILED, "the connection was lost"))
    assert plan_events(failed) == [
        ("Warning", "ApplyFailed", "the connection was lost"),
        ("Normal", "DriftRepaired", "drift repaired: INSERT on 3 tables granted again"),
    ]


def test_what_an_earlier_attempt_committed_is_told_although_nothing_was_left_for_the_last_one() -> None:
    retried = run("drift", *DRIFTED)
    retried.due = ()
    assert [event.reason for event in plan_events(retried)] == ["DriftRepaired"]
    asked = run("spec", *DRIFTED, new_input=True, observedGeneration=1)
    asked.due = ()
    (event,) = plan_events(asked)
    assert event.message.startswith("statements were applied: SQL; SQL; SQL and 1 more")


def test_what_was_asked_for_waits_without_a_word_of_drift() -> None:
    (event,) = plan_events(waits(run("spec", *DRIFTED, new_input=True, observedGeneration=1)))
    assert event.message == WAITS


@pytest.fixture
def counted() -> Iterator[Callable[[], dict[tuple[str, str], float]]]:
    """Returns what is counted of the plan so far, by kind and outcome."""

    def count() -> dict[tuple[str, str], float]:
        return {
            (sample.labels["kind"], sample.labels["outcome"]): sample.value
            for family in metrics.DRIFT.collect()
            for sample in family.samples
            if sample.name == "hoop_drift_total"
        }

    metrics.DRIFT.clear()
    yield count
    metrics.DRIFT.clear()


def test_drift_is_counted_by_what_came_of_it_once_for_each_kind(
    counted: Callable[[], dict[tuple[str, str], float]],
) -> None:
    both = waits(run("drift", *DRIFTED))
    both.applied = both.password_set = True  # passwords need no approval
    count_run(both)
    assert counted() == {
        ("attribute", "waiting"): 1,
        ("membership", "waiting"): 1,
        ("grant_extra", "waiting"): 1,
        ("grant_missing", "waiting"): 1,
        ("password", "repaired"): 1,
    }
    assert [event.reason for event in plan_events(both)] == ["PendingApproval", "DriftRepaired"]


@pytest.mark.parametrize(
    "asked",
    [
        waits(run("drift", *DRIFTED, ready="False")),
        waits(run("annotation", *DRIFTED, new_input=True)),
        run("annotation", *DRIFTED, new_input=True),
    ],
    ids=["told before", "asked for", "approved"],
)
def test_what_waits_already_and_what_was_asked_for_is_not_counted_as_drift(
    counted: Callable[[], dict[tuple[str, str], float]], asked: Run
) -> None:
    count_run(asked)
    assert counted() == {}
