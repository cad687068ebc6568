"""Before a role is dropped the admin gets its rights for a moment, and people are told what only they can decide."""

from dataclasses import replace

import pytest

from hoop_operator.errors import PlanReason
from hoop_operator.planner.model import DatabaseObject, Membership, ObjectKind, Server
from hoop_operator.planner.removal import (
    Danger,
    Hazard,
    give_away,
    hazard_problems,
    lend_rights,
    lock_out,
    prepared_problem,
    revoke_shared,
)
from unit.planning import ADMIN, ROLE, database, desired, membership, role, server

AUTOMATIC = membership(ROLE, ADMIN, grantor="bootstrap", admin=True, inherit=False, set=False)
"""What version 16 gives to the creator of a role."""


def picture(*memberships: Membership, version: int = 180000) -> Server:
    return server(
        roles=[role(), role("between"), role("rds_iam"), role(ADMIN)],
        memberships=memberships,
        version=version,
        admin_is_superuser=False,
    )


def loan(known: Server) -> list[list[str]]:
    return [[statement.sql for statement in part] for part in lend_rights(desired(), known)]


NO_LOAN: list[list[str]] = [[], []]
LEND = f'GRANT "{ROLE}" TO "{ADMIN}" WITH INHERIT TRUE, SET TRUE'


def test_an_ordinary_admin_joins_the_role_and_takes_its_own_membership_back() -> None:
    assert loan(picture(AUTOMATIC)) == [[LEND], [f'REVOKE "{ROLE}" FROM "{ADMIN}"']]
    assert loan(picture(version=150000)) == [
        [f'GRANT "{ROLE}" TO "{ADMIN}"'],
        [f'REVOKE "{ROLE}" FROM "{ADMIN}"'],
    ]


def test_a_membership_that_was_there_is_left_as_it_was() -> None:
    whole = membership(ROLE, ADMIN, grantor="somebody")
    assert loan(picture(AUTOMATIC, whole)) == NO_LOAN
    assert loan(picture(replace(AUTOMATIC, inherit=True, set=True))) == NO_LOAN
    assert loan(picture(whole, version=150000)) == NO_LOAN
    half = membership(ROLE, ADMIN, grantor=ADMIN, inherit=False)
    assert loan(picture(AUTOMATIC, half)) == [
        [LEND],
        [f'GRANT "{ROLE}" TO "{ADMIN}" WITH INHERIT false, SET true'],
    ]


@pytest.mark.parametrize("version", [140000, 180000])
@pytest.mark.parametrize("reached", ["rds_iam", ADMIN])
def test_the_admin_never_joins_a_role_that_reaches_iam_logins_or_itself(reached: str, version: int) -> None:
    chain = [membership("between", ROLE), membership(reached, "between")]
    assert loan(picture(*chain, version=version)) == NO_LOAN


def test_a_superuser_needs_no_membership() -> None:
    assert loan(replace(picture(AUTOMATIC), admin_is_superuser=True)) == NO_LOAN


def test_members_whom_the_admin_may_not_expel_do_not_keep_the_role() -> None:
    members = [membership(ROLE, "friend"), membership(ROLE, "stranger", admin_may_revoke=False)]
    assert [statement.sql for statement in lock_out(desired(), picture(*members))] == [
        f'ALTER ROLE "{ROLE}" NOLOGIN',
        f'REVOKE "{ROLE}" FROM "friend" GRANTED BY "{ADMIN}" CASCADE',
    ]


def test_memberships_from_the_hand_of_the_role_are_named_where_they_hang_on_it() -> None:
    given = [membership("group", name, grantor=ROLE) for name in ("b", "a")]
    given.append(membership("group", ROLE, admin=True))
    ((reason, message),) = revoke_shared(desired(), picture(*given)).problems
    assert reason is PlanReason.DEPENDENT_GRANTS
    assert message.endswith(f' run: REVOKE "group" FROM "a", "b" GRANTED BY "{ROLE}" CASCADE;')
    assert revoke_shared(desired(), picture(*given, version=150000)).problems == []


def test_schemas_go_first_where_an_ordinary_admin_may_act_for_the_heir() -> None:
    state = database([], schemas=())
    reassign = f'REASSIGN OWNED BY "{ROLE}" TO "owner"'
    assert [statement.sql for statement in give_away(desired(), state, picture(), ["its"])] == [
        'ALTER SCHEMA "its" OWNER TO "owner"',
        reassign,
    ]
    stranger = replace(state, not_administered=frozenset({"owner"}))
    assert [statement.sql for statement in give_away(desired(), stranger, picture(), ["its"])] == [reassign]


def test_each_object_that_needs_a_decision_is_told_once_with_all_places_and_the_sql() -> None:
    routine = DatabaseObject(1, ObjectKind.ROUTINE, "public", "f", ROLE, (("pg_catalog", "int4"),))
    view = DatabaseObject(2, ObjectKind.TABLE, "public", "v", ROLE)
    found = [
        Hazard(Danger.SECURITY_DEFINER, "function f(integer)", routine),
        Hazard(Danger.BEYOND_ITS_RIGHTS, "view v", view),
        Hazard(Danger.EVALUATED, "index i", routine),
        Hazard(Danger.EVALUATED, "index j", routine),
    ]
    problems = hazard_problems(desired(), database([], schemas=()), found)
    assert {reason for reason, _ in problems} == {PlanReason.DEPENDENT_OBJECTS}
    assert [message.rpartition(" run: ")[2] for _, message in problems] == [
        'ALTER ROUTINE "public"."f"(IN "pg_catalog"."int4") SECURITY INVOKER;',
        'ALTER TABLE "public"."v" OWNER TO "owner";',
        'ALTER ROUTINE "public"."f"(IN "pg_catalog"."int4") OWNER TO "owner";',
    ]
    assert "index i, index j" in problems[-1][1]
    assert all('"owner", the owner of database "db"' in message for _, message in problems)


def test_a_prepared_transaction_is_told_with_both_ways_to_end_it() -> None:
    _, message = prepared_problem(desired(), "db", "it's")
    assert 'in database "db"' in message
    assert "COMMIT PREPARED 'it''s';" in message
    assert message.endswith(" run: ROLLBACK PREPARED 'it''s';")
