"""What a run says on its plan: when anything is written at all, and that it always fits."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.crd.common import MESSAGE_BYTES, stored_bytes
from hoop_operator.crd.roleplan import MAX_HISTORY, MAX_STATEMENTS, STATEMENTS_BYTES
from hoop_operator.errors import PlanFailure, PlanReason
from hoop_operator.planner.statements import Phase, Statement
from hoop_operator.reconcile.objects import Plan
from hoop_operator.reconcile.rotation import UNKNOWN, Cause, rotation_due
from hoop_operator.reconcile.run import Run
from hoop_operator.reconcile.status import status_of

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
GRANT = Statement(Phase.GRANT, "shop", 'GRANT SELECT ON ALL TABLES IN SCHEMA "public" TO', ("ro",), objects=2)
CHECKSUM = "0c" * 20
STATUS_BYTES = 256 * 1024
"""A sixth of what etcd takes as one object."""
MISSING = PlanFailure(PlanReason.DATABASE_NOT_FOUND, 'database "shop" does not exist; create it')


def plan(
    status: dict[str, Any] | None = None,
    *,
    generation: int = 1,
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> Plan:
    metadata = {
        "name": "ro",
        "namespace": "team",
        "uid": "u-1",
        "generation": generation,
        "resourceVersion": "7",
        "annotations": annotations or {},
    }
    asked = {"resourceRef": {"name": "pg"}, "type": "managed", "role": "ro", "scopes": ["shop"], **spec}
    return Plan.parse(
        {"metadata": metadata, "spec": asked | {"privileges": ["SELECT"]}, "status": status or {}}
    )


def succeeded(plan: Plan, *, applied: bool = True) -> Run:
    run = Run(
        plan, "spec", new_input=plan.is_new_input, role="hoopdev_pg_ro", resource_name="pg", role_oid=16400
    )
    run.statements = (GRANT,) if applied else ()
    run.checksum = CHECKSUM if applied else None
    run.applied = run.committing = applied
    run.secret_ready = run.rotation_settled = True
    run.system_identifier = "7"
    return run


def failed(plan: Plan, failure: PlanFailure = MISSING) -> Run:
    run = Run(plan, "spec", new_input=plan.is_new_input)
    run.fail(failure)
    return run


def written(run: Run, now: datetime = NOW) -> dict[str, Any]:
    """The status after a run, as the API server merges it."""
    patch = status_of(run, now)
    assert patch is not None
    merged = {**run.plan.status, **patch}
    return {name: value for name, value in merged.items() if value is not None}


def ready(status: dict[str, Any]) -> tuple[str, str, str]:
    (found,) = [entry for entry in status["conditions"] if entry["type"] == "Ready"]
    return found["status"], found["reason"], found.get("message", "")


def test_a_first_success_says_everything() -> None:
    run = succeeded(plan())
    status = written(run)
    assert ready(status) == ("True", "Applied", "")
    assert (status["sid"], status["status"], status["message"]) == (run.sid, "success", "")
    assert (status["role"], status["roleOid"], status["resourceName"]) == ("hoopdev_pg_ro", 16400, "pg")
    assert status["secretName"] == status["binding"]["name"] == "ro-credentials"
    assert status["plan"]["statements"] == [
        '/* shop */ GRANT SELECT ON ALL TABLES IN SCHEMA "public" TO "ro"'
    ]
    assert status["plan"]["sid"] == status["history"][0]["sid"] == run.sid
    assert status["lastAppliedTime"] == "2030-01-01T12:00:00Z"


def test_a_look_that_finds_all_in_order_writes_nothing() -> None:
    status = written(succeeded(plan()))
    assert status_of(succeeded(plan(status), applied=False), LATER) is None


def test_a_rotation_that_no_status_tells_of_yet_is_told_although_nothing_had_to_be_done() -> None:
    before = written(succeeded(plan(rotationInterval="10h")))
    assert "nextRotationTime" not in before
    told = succeeded(plan(before, rotationInterval="10h"), applied=False)
    told.password_since = NOW
    after = written(told, LATER)
    assert after["lastRotationTime"] == "2030-01-01T12:00:00Z"
    assert "2030-01-01T21:00:00Z" <= after["nextRotationTime"] <= "2030-01-01T22:00:00Z"
    again = succeeded(plan(after, rotationInterval="10h"), applied=False)
    again.password_since = NOW
    assert status_of(again, LATER) is None


def test_a_repair_is_a_run_although_nobody_asked_for_it() -> None:
    before = written(succeeded(plan()))
    after = written(succeeded(plan(before)), LATER)
    assert after["sid"] != before["sid"]
    assert [entry["sid"] for entry in after["history"]] == [after["sid"], before["sid"]]


def test_the_same_failure_met_again_writes_nothing_and_another_one_does() -> None:
    before = written(failed(plan()))
    assert (before["status"], before["message"]) == ("failed", MISSING.message)
    assert ready(before) == ("False", "DatabaseNotFound", MISSING.message)
    assert status_of(failed(plan(before)), LATER) is None
    for other in (
        PlanFailure(PlanReason.DATABASE_NOT_FOUND, "another message"),
        PlanFailure(PlanReason.SCHEMA_NOT_FOUND, MISSING.message),
    ):
        assert status_of(failed(plan(before), other), LATER) is not None


@pytest.mark.parametrize(
    "changed",
    [
        {"generation": 2},
        {"annotations": {"hoop.dev/reconcile-at": "now"}},
        {"annotations": {"hoop.dev/rotate-at": "now"}},
        {"annotations": {"hoop.dev/approve": "anything"}},
    ],
)
def test_a_new_generation_or_annotation_value_is_answered_even_by_the_same_failure(changed: Any) -> None:
    before = written(failed(plan()))
    assert written(failed(plan(before, **changed)), LATER)["sid"] != before["sid"]


def test_an_annotation_that_is_taken_away_asks_for_nothing_and_its_value_stays_answered() -> None:
    asked = {"hoop.dev/reconcile-at": "1", "hoop.dev/rotate-at": "1"}
    status = written(succeeded(plan(annotations=asked)))
    assert (status["observedReconcileAt"], status["observedRotateAt"]) == ("1", "1")
    without = plan(status)
    assert not without.is_new_input
    status = written(succeeded(without))
    again = plan(status, annotations=asked)
    assert not again.is_new_input
    assert rotation_due(again, UNKNOWN, LATER) is None


def test_a_rotation_counts_as_made_only_by_the_run_that_made_it() -> None:
    asked = {"hoop.dev/rotate-at": "1"}
    status = written(failed(plan(annotations=asked, rotatePassword=True)))
    assert "observedRotateAt" not in status
    assert "rotatedGeneration" not in status
    pending = plan(status, annotations=asked, rotatePassword=True)
    assert rotation_due(pending, UNKNOWN, LATER) is Cause.ANNOTATION
    status = written(succeeded(pending))
    assert (status["observedRotateAt"], status["rotatedGeneration"]) == ("1", 1)
    assert rotation_due(plan(status, annotations=asked, rotatePassword=True), UNKNOWN, LATER) is None
    changed = plan(status, generation=2, annotations=asked, rotatePassword=True)
    assert rotation_due(changed, UNKNOWN, LATER) is Cause.SPEC
    assert rotation_due(plan(status, generation=2, annotations=asked), UNKNOWN, LATER) is None


def test_to_be_suspended_is_no_failure_and_ends_with_a_condition_that_says_so() -> None:
    before = written(succeeded(plan()))
    suspended = failed(
        plan(before, generation=2, suspend=True), PlanFailure(PlanReason.SUSPENDED, "spec.suspend")
    )
    status = written(suspended)
    assert (status["status"], status["message"]) == ("success", "")
    assert ready(status) == ("False", "Suspended", "spec.suspend")
    status = written(succeeded(plan(status, generation=3), applied=False))
    states = {entry["type"]: entry["status"] for entry in status["conditions"]}
    assert (states["Ready"], states["Suspended"]) == ("True", "False")


def test_what_was_known_of_role_and_secret_outlasts_a_failure() -> None:
    before = written(succeeded(plan()))
    after = written(failed(plan(before, generation=2)))
    for name in ("role", "roleOid", "secretName", "binding", "plan", "lastAppliedTime", "systemIdentifier"):
        assert after[name] == before[name]


def test_a_condition_that_stays_as_it_is_keeps_its_time() -> None:
    before = written(succeeded(plan()))
    after = written(succeeded(plan(before)), LATER)
    assert {entry["lastTransitionTime"] for entry in after["conditions"]} == {"2030-01-01T12:00:00Z"}


def test_the_history_tells_what_had_drifted_of_the_runs_that_repaired_it() -> None:
    before = written(succeeded(plan()))
    repairing = Run(plan(before), "drift", new_input=False)
    repairing.password_set = repairing.applied = repairing.secret_ready = True
    (newest, first) = written(repairing, LATER)["history"]
    assert newest["repaired"] == ["password"]
    assert "repaired" not in first


def test_the_history_has_the_last_ten_runs_newest_first() -> None:
    status: dict[str, Any] = {}
    sids: list[str] = []
    for generation in range(1, MAX_HISTORY + 4):
        run = succeeded(plan(status, generation=generation))
        status = written(run)
        sids.insert(0, run.sid)
    assert [entry["sid"] for entry in status["history"]] == sids[:MAX_HISTORY]


@given(
    message=st.text(min_size=1, max_size=50),
    repeat=st.integers(1, 2000),
    statements=st.integers(0, 2 * MAX_STATEMENTS),
    length=st.integers(1, 3000),
)
def test_whatever_a_run_says_the_api_server_takes_it(
    message: str, repeat: int, statements: int, length: int
) -> None:
    run = failed(plan(), PlanFailure(PlanReason.APPLY_FAILED, message * repeat))
    run.statements = (Statement(Phase.REVOKE, None, "R" * length),) * statements
    run.checksum = CHECKSUM
    status = written(run)
    assert stored_bytes(status["message"]) <= MESSAGE_BYTES
    assert all(stored_bytes(entry.get("message", "")) <= MESSAGE_BYTES for entry in status["conditions"])
    assert len(status["conditions"]) <= 16
    assert len(status["history"][0]["message"]) <= 1024
    if statements:
        assert status["plan"]["count"] == statements
        shown = status["plan"]["statements"]
        assert len(shown) == min(statements, MAX_STATEMENTS, STATEMENTS_BYTES // (stored_bytes(shown[0]) + 1))
        assert all(len(text) <= 2048 for text in status["plan"]["statements"])


@pytest.mark.parametrize("character", ["x", '"', "<", "é", "\N{GRINNING FACE}", "\x01"])
def test_a_status_stays_far_below_what_etcd_takes(character: str) -> None:
    much = character * 40_000
    statements = tuple(Statement(Phase.REVOKE, "shop", f"{number} {much}") for number in range(300))
    run = succeeded(plan())
    run.statements, run.checksum = statements, CHECKSUM
    run.withheld_routines = run.uncovered_owners = run.observations = (much,)
    status = written(run)
    for generation in range(2, MAX_HISTORY + 3):
        run = failed(plan(status, generation=generation), PlanFailure(PlanReason.APPLY_FAILED, much))
        run.statements, run.checksum = statements if generation % 2 else None, CHECKSUM
        status = written(run)
    assert len(status["history"]) == MAX_HISTORY
    text = json.dumps(status, ensure_ascii=False)
    assert len(text.encode()) + 5 * text.count("<") <= STATUS_BYTES
