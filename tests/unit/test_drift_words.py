"""What counts as drift, and how it is told once it is repaired."""

import pytest

from hoop_operator.planner.statements import Change, ChangeKind, Phase, Statement
from hoop_operator.reconcile.drift import drift_of, is_drift, repaired_in_words
from hoop_operator.reconcile.objects import Plan
from hoop_operator.reconcile.run import Run

GRANTED = Change(ChangeKind.GRANT, "INSERT on 3 tables")
EXTRA = Change(ChangeKind.GRANT, "DELETE on table orders")
MEMBER = Change(ChangeKind.MEMBERSHIP, 'membership in "readers"')


def run(trigger: str = "drift", *statements: Statement, ready: str = "True", new_input: bool = False) -> Run:
    spec = {"resourceRef": {"name": "pg"}, "type": "external", "role": "ro", "sourceRole": "readers"}
    status = {"conditions": [{"type": "Ready", "status": ready}]}
    metadata = {"name": "ro", "namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": "1"}
    plan = Plan.parse({"metadata": metadata, "spec": spec, "status": status})
    return Run(plan, trigger, new_input, statements=statements, due=statements)


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
    drifts = drift_of(
        run(
            "drift",
            statement(Phase.REDUCE, MEMBER),
            statement(Phase.REVOKE, EXTRA),
            statement(Phase.GRANT, GRANTED),
            statement(Phase.GRANT, GRANTED),
            statement(Phase.GRANT, None),
        )
    )
    assert repaired_in_words(drifts) == (
        'extra membership in "readers" revoked; extra DELETE on table orders revoked; '
        "INSERT on 3 tables granted again"
    )


def test_a_role_that_was_gone_is_told_without_all_that_went_with_it() -> None:
    (drift,) = drift_of(
        run("drift", statement(Phase.ROLE, Change(ChangeKind.ROLE)), statement(Phase.GRANT, GRANTED))
    )
    assert drift.repaired == "the role was gone and was created anew with its password"


def test_many_differences_are_told_as_a_number() -> None:
    many = (statement(Phase.GRANT, Change(ChangeKind.GRANT, f"SELECT on table t{n}")) for n in range(12))
    assert repaired_in_words(drift_of(run("drift", *many))).endswith("t9 granted again; and 2 more")
