"""What of a run waits for a person, and what an approval is good for."""

from collections.abc import Sequence
from typing import Any

import pytest

from hoop_operator.credentials.connection import Endpoint
from hoop_operator.errors import PlanFailure, PlanReason
from hoop_operator.planner.statements import Phase, Statement, checksum
from hoop_operator.planner.summary import in_words
from hoop_operator.reconcile.approval import conclude, decide, foretell
from hoop_operator.reconcile.objects import Plan, Resource
from hoop_operator.reconcile.run import Run

REVOKE = Statement(Phase.REVOKE, "shop", 'REVOKE DELETE ON TABLE "t" FROM', ("ro",), objects=1)
GRANT = Statement(Phase.GRANT, "shop", 'GRANT SELECT ON ALL TABLES IN SCHEMA "public" TO', ("ro",), objects=2)
OTHER = Statement(Phase.GRANT, "shop", GRANT.head, ("ro",), objects=3)
ALL = (REVOKE, GRANT)
METADATA = {"namespace": "team", "uid": "u-1", "generation": 1, "resourceVersion": "7"}
ENDPOINT = Endpoint("db", 5432)
IDENTIFIER = "7300000000000000001"


def due(statements: Sequence[Statement], last: str | None, server: str = f"{ENDPOINT} {IDENTIFIER}") -> str:
    return checksum(statements, last, server)


def told(plan: Plan) -> str:
    return foretell(plan, ALL, ENDPOINT, IDENTIFIER)


def plan(approve: str | None = None, *, last: str | None = "s-1", approval: str | None = "Manual") -> Plan:
    annotations = {"hoop.dev/approve": approve} if approve else {}
    asked = {"resourceRef": {"name": "pg"}, "type": "external", "role": "ro", "sourceRole": "readers"}
    return Plan.parse(
        {
            "metadata": {**METADATA, "name": "ro", "annotations": annotations},
            "spec": asked | ({"approval": approval} if approval else {}),
            "status": {"lastAppliedSid": last} if last else {},
        }
    )


def resource(**spec: Any) -> Resource:
    spec = {"type": "database", "subtype": "postgres", "envVars": {"HOST": "db"}, **spec}
    return Resource.parse({"metadata": {**METADATA, "name": "pg"}, "spec": spec})


def decided(run: Run, *statements: Statement, guardrails: dict[str, Any] | None = None) -> Run:
    run.statements = statements
    run.system_identifier = IDENTIFIER
    decide(run, resource(guardrails=guardrails), ENDPOINT)
    return run


def run_of(plan: Plan) -> Run:
    return Run(plan, "spec", new_input=False)


@pytest.mark.parametrize(
    ("of_plan", "of_resource", "waits"),
    [
        ("Automatic", None, False),
        (None, {"approval": "Automatic"}, False),
        ("Manual", {"approval": "Automatic"}, True),
        ("Automatic", {"approval": "Manual"}, True),
    ],
)
def test_a_plan_waits_where_itself_or_a_guardrail_asks_for_it(
    of_plan: str | None, of_resource: dict[str, Any] | None, waits: bool
) -> None:
    run = decided(run_of(plan(approval=of_plan)), *ALL, guardrails=of_resource)
    assert (run.waiting is not None) is waits
    assert run.due == (() if waits else ALL)
    conclude(run)
    assert run.reason is (PlanReason.PENDING_APPROVAL if waits else PlanReason.APPLIED)
    assert not run.failed


def test_nothing_to_do_needs_no_approval() -> None:
    run = decided(run_of(plan()))
    assert (run.waiting, run.due, run.checksum) == (None, (), None)


def test_approved_statements_are_due_only_once_the_approval_was_taken_up() -> None:
    run = decided(run_of(plan(due(ALL, "s-1"))), *ALL)
    assert (run.waiting, run.due) == (None, ())
    run.claimed = True
    assert decided(run, *ALL).due == ALL


@pytest.mark.parametrize(
    "approved",
    [
        due(ALL, None),
        due([REVOKE, OTHER], "s-1"),
        due(ALL, "s-1", f"standby:5432 {IDENTIFIER}"),
        due(ALL, "s-1", f"{ENDPOINT} 7300000000000000002"),
        "0" * 40,
    ],
)
def test_an_approval_of_another_plan_or_server_or_of_an_apply_that_was_made_is_none(approved: str) -> None:
    run = decided(run_of(plan(approved)), *ALL)
    assert run.due == ()
    assert run.waiting is not None
    assert "approves another plan than the one that is due now" in run.waiting


def test_looking_again_a_run_goes_on_with_what_is_left_of_the_approved_and_with_nothing_else() -> None:
    run = decided(run_of(plan(due(ALL, "s-1"))), *ALL)
    run.claimed = run.committing = True
    assert decided(run, GRANT).due == (GRANT,)
    assert decided(run, OTHER).due == ()
    assert run.waiting is not None
    assert due([OTHER], run.sid) in run.waiting
    assert decided(run).waiting is None


def test_a_failure_stands_beside_what_waits() -> None:
    run = run_of(plan())
    run.fail(PlanFailure(PlanReason.DATABASE_NOT_FOUND, "create it"))
    conclude(decided(run, REVOKE))
    assert (run.reason, run.message, run.due) == (PlanReason.DATABASE_NOT_FOUND, "create it", ())
    assert run.waiting is not None


def test_looking_ahead_the_checksum_is_told_only_where_the_last_apply_is_known() -> None:
    approved = due(ALL, "s-1")
    assert f"hoop.dev/approve={approved}" in told(plan())
    assert told(plan(approved)).startswith("approved: ")
    assert due(ALL, None) not in told(plan(last=None))


def test_words_tell_of_the_role_first_and_then_of_every_database() -> None:
    create = Statement(Phase.ROLE, None, 'CREATE ROLE "ro" PASSWORD', verifier_of="ro")
    comment = Statement(Phase.ROLE, None, "COMMENT ON ROLE \"ro\" IS 'x'")
    attributes = Statement(Phase.REDUCE, None, 'ALTER ROLE "ro" NOCREATEDB')
    membership = Statement(Phase.REDUCE, None, 'REVOKE "x" FROM "ro"')
    source = Statement(Phase.GRANT, None, 'GRANT "readers" TO "ro"')
    connect = Statement(Phase.GRANT, None, 'GRANT CONNECT ON DATABASE "shop" TO', ("ro",), objects=1)
    later = Statement(Phase.GRANT, "shop", "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO", ("ro",))
    assert in_words([create, comment, connect]) == "creates the role; grants on 1 object"
    assert in_words([comment, attributes, membership, membership, source]) == (
        "marks the role as this plan's by its comment; changes the role's attributes; takes back 2 memberships; "
        "makes it a member of its source role"
    )
    assert (
        in_words([GRANT, OTHER, later]) == 'grants on 5 objects and objects created later in database "shop"'
    )
    assert in_words([REVOKE, later]) == (
        'grants on objects created later and revokes on 1 object in database "shop"'
    )
    odd = Statement(Phase.GRANT, 's"; run: rm', "GRANT", objects=1)
    assert in_words([odd]) == 'grants on 1 object in database "s""; run: rm"'
    many = [Statement(Phase.GRANT, f"db{number:02}", "GRANT", objects=1) for number in range(12)]
    assert in_words(many).count("grants on 1 object in database") == 10
    assert in_words(many).endswith("; changes grants in 2 more databases")
