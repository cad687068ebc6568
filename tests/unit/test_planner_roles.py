from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.errors import PlanReason
from hoop_operator.planner.adoption import conflict
from hoop_operator.planner.model import Membership, Role, Server
from hoop_operator.planner.removal import lock_out
from hoop_operator.planner.roles import (
    DANGEROUS_ROLES,
    alteration_problem,
    dangers_of,
    foreign_memberships,
    password_statement,
    role_difference,
    source_role_problems,
)
from unit.planning import ADMIN, IDENTITY, ROLE, desired, membership, role, server


def texts(picture: Server, **more: str) -> list[str]:
    difference = role_difference(desired(**more), picture)
    assert difference.problems == []
    return [statement.text for statement in difference.statements]


def test_a_new_role_is_made_with_login_and_inherit_and_its_owner_written_on_it() -> None:
    assert texts(server()) == [
        f"CREATE ROLE \"{ROLE}\" LOGIN INHERIT PASSWORD '********'",
        f"COMMENT ON ROLE \"{ROLE}\" IS '{IDENTITY.comment}'",
    ]


def test_a_role_as_it_should_be_needs_nothing() -> None:
    assert texts(server(roles=[role()])) == []


@pytest.mark.parametrize(
    ("attribute", "found", "option"),
    [
        ("superuser", True, "NOSUPERUSER"),
        ("createdb", True, "NOCREATEDB"),
        ("createrole", True, "NOCREATEROLE"),
        ("replication", True, "NOREPLICATION"),
        ("bypassrls", True, "NOBYPASSRLS"),
        ("inherit", False, "INHERIT"),
        ("login", False, "LOGIN"),
        ("connection_limit", 0, "CONNECTION LIMIT -1"),
        ("expires", True, "VALID UNTIL 'infinity'"),
    ],
)
def test_an_attribute_that_differs_is_reset_and_no_other_is_named(
    attribute: str, found: Any, option: str
) -> None:
    assert texts(server(roles=[role(**{attribute: found})])) == [f'ALTER ROLE "{ROLE}" {option}']


def test_a_role_with_our_comment_is_ours_whatever_became_of_it() -> None:
    assert conflict(desired(), server(roles=[role(superuser=True)])) is None
    assert conflict(desired(), server()) is None


def test_a_role_that_nobody_claims_or_another_plan_claims_is_not_ours() -> None:
    unclaimed = server(roles=[role(comment=None)])
    assert "was not created by this operator" in (conflict(desired(), unclaimed) or "")
    remark = server(roles=[role(comment="hands off")])
    assert "was not created by this operator" in (conflict(desired(), remark) or "")
    other = replace(IDENTITY, namespace="elsewhere")
    message = conflict(desired(known_oid=7), server(roles=[role(comment=other.comment, oid=7)]))
    assert "default/elsewhere/reader" in (message or "")


def test_a_role_is_removed_as_ours_only_with_our_comment_on_it() -> None:
    first, *_ = lock_out(desired(known_oid=7), server(roles=[role(comment=None, oid=7)]))
    assert first.text.startswith("COMMENT ON ROLE")
    assert IDENTITY.comment in first.text


def test_a_lost_comment_is_written_anew_where_the_oid_is_known_but_not_on_a_superuser() -> None:
    picture = server(roles=[role(comment=None, oid=7)])
    assert conflict(desired(known_oid=7), picture) is None
    assert texts(picture) == [f"COMMENT ON ROLE \"{ROLE}\" IS '{IDENTITY.comment}'"]
    assert conflict(desired(known_oid=8), picture) is not None
    assert conflict(desired(known_oid=7), server(roles=[role(comment=None, oid=7, superuser=True)]))


def test_a_password_is_set_by_its_verifier() -> None:
    statement = password_statement(ROLE)
    assert (statement.verifier_of, statement.text) == (ROLE, f"ALTER ROLE \"{ROLE}\" PASSWORD '********'")


def test_every_membership_is_revoked_as_its_grantor_granted_it() -> None:
    held = [membership("group", ROLE, grantor=grantor) for grantor in ("a", "b")]
    assert texts(server(roles=[role()], memberships=held)) == [
        f'REVOKE "group" FROM "{ROLE}" GRANTED BY "{grantor}"' for grantor in ("a", "b")
    ]
    # Before version 16 a membership had one grantor, who may be gone.
    assert texts(server(roles=[role()], memberships=held[:1], version=150000)) == [
        f'REVOKE "group" FROM "{ROLE}"'
    ]


def external(*memberships: Membership, version: int = 180000) -> list[str]:
    picture = server(roles=[role(), role("source")], memberships=memberships, version=version)
    return texts(picture, source_role="source")


def test_an_external_plan_is_one_inheriting_membership() -> None:
    grant = f'GRANT "source" TO "{ROLE}"'
    assert external() == [f"{grant} WITH INHERIT TRUE"]
    assert external(version=150000) == [grant]
    assert external(membership("source", ROLE)) == []
    assert external(membership("source", ROLE, inherit=False)) == [f"{grant} WITH INHERIT TRUE"]
    assert external(membership("source", ROLE, admin=True)) == [
        f'REVOKE ADMIN OPTION FOR "source" FROM "{ROLE}" GRANTED BY "{ADMIN}"'
    ]
    assert external(membership("source", ROLE), membership("more", ROLE)) == [
        f'REVOKE "more" FROM "{ROLE}" GRANTED BY "{ADMIN}"'
    ]


def test_a_membership_that_was_passed_on_is_left_and_named_with_the_sql() -> None:
    memberships = [
        membership("group", ROLE, admin=True),
        membership("group", ROLE, grantor="other"),
        membership("group", "friend", grantor=ROLE),
    ]
    difference = role_difference(desired(), server(roles=[role()], memberships=memberships))
    ((reason, message),) = difference.problems
    assert reason is PlanReason.DEPENDENT_GRANTS
    assert message.endswith(f'run: REVOKE "group" FROM "friend" GRANTED BY "{ROLE}" CASCADE;')
    assert [s.text for s in difference.statements] == [f'REVOKE "group" FROM "{ROLE}" GRANTED BY "other"']


def test_a_membership_that_the_admin_may_not_revoke_comes_with_the_sql() -> None:
    memberships = [membership("group", ROLE, admin_may_revoke=False)]
    difference = role_difference(desired(), server(roles=[role()], memberships=memberships))
    ((reason, message),) = difference.problems
    assert reason is PlanReason.INSUFFICIENT_PRIVILEGE
    assert message.endswith(f'run: REVOKE "group" FROM "{ROLE}" GRANTED BY "{ADMIN}";')


def test_the_servers_own_membership_of_a_roles_creator_is_not_foreign() -> None:
    members = [membership(ROLE, ADMIN, admin=True), membership(ROLE, "friend")]
    picture = server(roles=[role()], memberships=members)
    assert [found.member for found in foreign_memberships(desired(), picture)] == ["friend"]
    assert [statement.text for statement in lock_out(desired(), picture)] == [
        f'ALTER ROLE "{ROLE}" NOLOGIN',
        f'REVOKE "{ROLE}" FROM "friend" GRANTED BY "{ADMIN}" CASCADE',
    ]


def test_a_source_role_that_cannot_be_one_is_refused_with_the_field() -> None:
    def reasons(source: str, *known: str, **more: Any) -> list[PlanReason]:
        picture = server(roles=[role(), *map(role, known)], **more)
        problems = list(source_role_problems(desired(source_role=source), picture))
        assert all(source in message for _, message in problems)
        return [reason for reason, _ in problems]

    assert reasons("source", "source") == []
    assert reasons("gone") == [PlanReason.SOURCE_ROLE_NOT_FOUND]
    assert reasons(ROLE) == [PlanReason.INVALID_SPEC]
    assert reasons("pg_database_owner", "pg_database_owner") == [PlanReason.INVALID_SPEC]
    circle = [membership(ROLE, "between"), membership("between", "source")]
    assert reasons("source", "source", "between", memberships=circle) == [PlanReason.INVALID_SPEC]


@pytest.mark.parametrize("attribute", ["superuser", "createrole", "createdb", "bypassrls", "replication"])
def test_an_attribute_beyond_the_data_is_a_danger(attribute: str) -> None:
    assert dangers_of("source", ROLE, server(roles=[role("source", **{attribute: True})]))


@pytest.mark.parametrize("name", sorted(DANGEROUS_ROLES))
def test_a_role_that_reaches_beyond_the_data_is_a_danger(name: str) -> None:
    assert dangers_of(name, ROLE, server(roles=[role(name)]))


def test_the_admin_and_other_plans_roles_are_a_danger_but_plain_ones_and_readers_are_not() -> None:
    theirs = role("theirs", comment=IDENTITY.comment)
    picture = server(roles=[role(ADMIN), theirs, role("plain"), role("pg_read_all_data")])
    assert dangers_of(ADMIN, ROLE, picture)
    assert dangers_of("theirs", ROLE, picture)
    assert not dangers_of("plain", ROLE, picture)
    assert not dangers_of("pg_read_all_data", ROLE, picture)


def test_a_dangerous_source_role_needs_its_literal_name_in_the_guardrails() -> None:
    picture = server(roles=[role(), role("source", createdb=True)])
    ((reason, message),) = source_role_problems(desired(source_role="source"), picture)
    assert reason is PlanReason.DANGEROUS_SOURCE_ROLE
    assert "CREATEDB" in message
    allowed = desired(source_role="source", dangerous_source_roles_allowed=frozenset({"source"}))
    assert list(source_role_problems(allowed, picture)) == []


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=6, max_size=6),
    st.booleans(),
)
def test_danger_is_found_at_any_depth_by_whatever_way(
    depth: int, ways: list[tuple[bool, bool, bool]], circle: bool
) -> None:
    names = ["source", *(f"r{n}" for n in range(1, depth + 1))]
    chain = [
        membership(names[n + 1], names[n], inherit=inherit, set=set_, admin=admin)
        for n, (inherit, set_, admin) in zip(range(depth), ways, strict=False)
    ]
    if circle:
        chain.append(membership("source", names[-1]))
    roles = [role(name) for name in names]
    assert dangers_of("source", ROLE, server(roles=roles, memberships=chain)) == []
    roles[-1] = replace(roles[-1], superuser=True)
    (danger,) = dangers_of("source", ROLE, server(roles=roles, memberships=chain))
    assert names[-1] in danger


def test_an_admin_without_the_right_to_grant_the_source_is_told_the_sql() -> None:
    known = [role(), role("source", admin_may_grant=False)]
    external = desired(source_role="source")
    picture = server(roles=known, admin="clerk", admin_is_superuser=False)
    ((reason, message),) = source_role_problems(external, picture)
    assert reason is PlanReason.INSUFFICIENT_PRIVILEGE
    assert message.endswith(' run: GRANT "source" TO "clerk" WITH ADMIN OPTION;')

    there = server(roles=known, memberships=[membership("source", ROLE)], admin="clerk")
    assert list(source_role_problems(external, there)) == []


def test_membership_in_a_superuser_is_for_a_superuser_to_give_and_never_to_the_admin() -> None:
    source = role("source", superuser=True, admin_may_grant=False)
    allowed = desired(source_role="source", dangerous_source_roles_allowed=frozenset({"source"}))

    def remedy(*known: Role, version: int) -> str:
        picture = server(roles=known, version=version, admin="clerk", admin_is_superuser=False)
        ((_, message),) = source_role_problems(allowed, picture)
        return message.rpartition(" run: ")[2]

    assert remedy(role(), source, version=150000) == f'GRANT "source" TO "{ROLE}";'
    assert remedy(role(), source, version=160000) == f'GRANT "source" TO "{ROLE}" WITH INHERIT TRUE;'
    assert remedy(source, version=160000) == (
        f'CREATE ROLE "{ROLE}"; COMMENT ON ROLE "{ROLE}" IS \'{IDENTITY.comment}\'; '
        f'GRANT "{ROLE}" TO "clerk" WITH ADMIN OPTION; GRANT "source" TO "{ROLE}" WITH INHERIT TRUE;'
    )


EVERY_ATTRIBUTE = {"superuser": True, "createdb": True, "replication": True, "bypassrls": True}


@pytest.mark.parametrize(
    ("version", "found", "own", "reset", "remedy"),
    [
        (150000, {"admin_option": False}, (), True, None),
        (160000, {"admin_option": False}, (), False, f'GRANT "{ROLE}" TO "clerk" WITH ADMIN OPTION;'),
        (150000, {"replication": True}, ("REPLICATION",), False, f'ALTER ROLE "{ROLE}" NOREPLICATION;'),
        (160000, {"replication": True}, (), False, None),
        (160000, {"createdb": True, "bypassrls": True}, (), False, None),
        (
            160000,
            EVERY_ATTRIBUTE,
            ("CREATEDB", "REPLICATION", "BYPASSRLS"),
            True,
            f'ALTER ROLE "{ROLE}" NOSUPERUSER;',
        ),
        (150000, EVERY_ATTRIBUTE, (), True, f'ALTER ROLE "{ROLE}" NOSUPERUSER NOREPLICATION NOBYPASSRLS;'),
        (
            160000,
            {**EVERY_ATTRIBUTE, "admin_option": False},
            (),
            True,
            f'ALTER ROLE "{ROLE}" NOSUPERUSER NOCREATEDB NOREPLICATION NOBYPASSRLS; '
            f'GRANT "{ROLE}" TO "clerk" WITH ADMIN OPTION;',
        ),
    ],
)
def test_what_an_admin_may_not_alter_comes_with_the_sql_that_lets_it(
    version: int, found: dict[str, Any], own: tuple[str, ...], reset: bool, remedy: str | None
) -> None:
    altered = role(**found)
    plain: dict[str, Any] = {"roles": [altered], "version": version, "admin": "clerk"}
    picture = server(admin_is_superuser=False, admin_attributes=frozenset(own), **plain)
    problem = alteration_problem(altered, picture, reset_attributes=reset)
    assert (problem and problem[1].rpartition(" run: ")[2]) == remedy
    assert alteration_problem(altered, server(**plain), reset_attributes=True) is None


def test_a_role_that_the_admin_may_not_alter_is_no_problem_while_it_is_as_it_should_be() -> None:
    plain: dict[str, Any] = {"admin": "clerk", "admin_is_superuser": False}
    assert texts(server(roles=[role(admin_option=False)], **plain)) == []
    difference = role_difference(desired(), server(roles=[role(admin_option=False, login=False)], **plain))
    assert [reason for reason, _ in difference.problems] == [PlanReason.INSUFFICIENT_PRIVILEGE]
    assert difference.statements == []
