"""How a preview reads, and that nothing in it is taken for what it is not."""

from typing import Any

import pytest

from hoop_operator.credentials.connection import Connection, SslMode
from hoop_operator.errors import PlanReason
from hoop_operator.planner.statements import Phase, Statement
from hoop_operator.reconcile.dry_run import Preview
from hoop_operator.reconcile.objects import Plan
from hoop_operator.reconcile.script import psql_script

CONNECTION = Connection(
    host="db.example.com",
    port=5432,
    user="admin",
    password="unseen",
    database="postgres",
    sslmode=SslMode.REQUIRE,
    ca_certificate=None,
    client_certificate=None,
    client_key=None,
    connect_timeout=None,
)


def preview(**found: Any) -> Preview:
    spec = {"resourceRef": {"name": "pg"}, "type": "external", "role": "ro"}
    plan = Plan.parse({"metadata": {"name": "ro", "namespace": "team"}, "spec": spec})
    return Preview(plan, "ours", CONNECTION, "18.6", **found)


def grant(database: str | None, table: str = "t") -> Statement:
    return Statement(Phase.GRANT, database, f'GRANT SELECT ON TABLE "{table}" TO', ("ours",))


def body(shown: Preview) -> list[str]:
    """The script of one plan, without its head and the summary."""
    head, *lines, blank, _, end = psql_script([shown]).split("\n")
    assert (
        head
        == "-- HoopRolePlan team/ro: role ours on HoopResource team/pg (db.example.com:5432, PostgreSQL 18.6)"
    )
    assert (blank, end) == ("", "")
    return lines


def test_what_waits_for_approval_says_so_before_its_statements() -> None:
    shown = body(preview(statements=(grant("shop"),), approval="waits for approval"))
    assert shown[:2] == ["-- waits for approval", '\\connect "shop"']
    problem = (PlanReason.DATABASE_NOT_FOUND, "gone")
    shown = body(preview(statements=(grant("shop"),), approval="waits for approval", problems=[problem]))
    assert shown[1:3] == [
        "-- waits for approval",
        "-- what is extra is revoked all the same, once it is approved:",
    ]


def test_statements_stand_in_one_transaction_for_each_database() -> None:
    create = Statement(Phase.ROLE, None, 'CREATE ROLE "ours" LOGIN PASSWORD', verifier_of="ours")
    acting = Statement(Phase.GRANT, "shop", 'GRANT SELECT ON TABLE "t" TO', ("ours",), as_role="owner")
    assert body(preview(statements=(create, acting, grant("shop")))) == [
        '\\connect "postgres"',
        "BEGIN;",
        "-- a run generates the password; to run this by hand, put one in before: \\set password …",
        "CREATE ROLE \"ours\" LOGIN PASSWORD :'password';",
        "COMMIT;",
        '\\connect "shop"',
        "BEGIN;",
        'SET LOCAL ROLE "owner"; GRANT SELECT ON TABLE "t" TO "ours"; SET LOCAL ROLE NONE;',
        'GRANT SELECT ON TABLE "t" TO "ours";',
        "COMMIT;",
    ]


def test_a_plan_in_sync_has_nothing_to_do() -> None:
    assert body(preview(remarks=["it owns a table"])) == ["-- note: it owns a table", "-- nothing to do"]


def test_a_suspended_plan_says_so() -> None:
    assert body(preview(suspended=True)) == ["-- suspended: nothing is done until spec.suspend is false"]


def test_every_problem_is_shown_once_with_the_revokes_that_are_made_all_the_same() -> None:
    problem = (PlanReason.SCHEMA_NOT_FOUND, 'schema "s" does not exist')
    lines = body(
        preview(problems=[problem, (PlanReason.INVALID_SPEC, "x"), problem], statements=(grant("shop"),))
    )
    assert lines[:4] == [
        '-- cannot be applied: SchemaNotFound: schema "s" does not exist',
        "-- cannot be applied: InvalidSpec: x",
        "-- what is extra is revoked all the same:",
        '\\connect "shop"',
    ]


@pytest.mark.parametrize("breaker", ["\n", "\r", "\x1b", "\u2028", "\x85", "\u202e", "\0"])
def test_nothing_in_a_name_ends_a_comment_or_reaches_the_terminal(breaker: str) -> None:
    name = f"x{breaker}DROP ROLE ours;"
    lines = body(
        preview(problems=[(PlanReason.INVALID_SPEC, name)], remarks=[name], statements=(grant(name),))
    )
    assert all(line.isprintable() for line in lines)
    assert not [line for line in lines if line.startswith(("DROP", "x"))]


@pytest.mark.parametrize(
    ("database", "connect"),
    [
        ("a-b.c d_é", ['\\connect "a-b.c d_é"']),
        ("a=b", ['-- database "a=b"', '\\connect -reuse-previous=on "postgresql:///a%3Db"']),
        ('q"', ['-- database "q""', '\\connect -reuse-previous=on "postgresql:///q%22"']),
        ("n\nl", ['-- database "n\\nl"', '\\connect -reuse-previous=on "postgresql:///n%0Al"']),
    ],
)
def test_a_database_is_connected_to_by_its_name_and_by_nothing_that_psql_takes_for_parameters(
    database: str, connect: list[str]
) -> None:
    lines = body(preview(statements=(grant(database),)))
    assert lines[: lines.index("BEGIN;")] == connect


def test_a_name_that_cannot_be_printed_is_the_same_name_in_unicode_escapes() -> None:
    statement = grant("shop", 'a\\""\n\U000e0001')
    assert body(preview(statements=(statement,)))[2] == (
        'GRANT SELECT ON TABLE U&"a\\\\""\\+00000A\\+0E0001" TO "ours";'
    )


def test_the_last_line_sums_up() -> None:
    failed = preview(problems=[(PlanReason.INVALID_SPEC, "x")], statements=(grant("shop"),))
    previews = [
        preview(),
        preview(statements=(grant("shop"), grant("shop"))),
        failed,
        preview(suspended=True),
    ]
    assert psql_script(previews).splitlines()[-1] == (
        "-- plans: 4; with changes: 1; nothing to do: 2; cannot be applied: 1; statements: 3"
    )
