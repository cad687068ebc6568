"""Taking a role away without taking anything of anybody else's, and without dropping data.

PostgreSQL's own `DROP OWNED` revokes with CASCADE and drops whatever was created meanwhile. So objects are given to
the owner of their database, grants are revoked one by one, and what then still hangs on the role makes `DROP ROLE`
fail with its name (manual, "Dropping Roles").

What the role wrote must not work with the rights of whom its objects go to: a `Hazard` keeps a database as it is.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from psycopg import sql

from hoop_operator.errors import PlanReason
from hoop_operator.planner.default_privileges import restore_own_defaults
from hoop_operator.planner.difference import Difference
from hoop_operator.planner.grants import database_difference, shared_difference
from hoop_operator.planner.model import (
    INHERIT_PER_MEMBERSHIP,
    DatabaseObject,
    DatabaseState,
    DesiredRole,
    ObjectKind,
    Server,
)
from hoop_operator.planner.roles import (
    dependent_members,
    expel_member,
    foreign_memberships,
    members_from_its_hand,
    reachable_roles,
    restored_comment,
)
from hoop_operator.planner.statements import (
    Phase,
    Statement,
    keyword,
    object_reference,
    render,
)

IAM_LOGIN_ROLE = "rds_iam"
"""Whose members, at any depth, cannot log in to Amazon RDS by password any more: the admin must never become one."""


class Danger(StrEnum):
    """How something comes to work with the rights of whoever owns it."""

    SECURITY_DEFINER = "SECURITY DEFINER"
    """A routine that runs as its owner (manual, "CREATE FUNCTION")."""
    BEYOND_ITS_RIGHTS = "BEYOND ITS RIGHTS"
    """A view, materialized view or rule: what it reads and writes is a matter of the owner's rights (manual, "Rules and
    Privileges"), and its owner lacks them."""
    EVALUATED = "EVALUATED"
    """A routine that the server calls as the owner of a table: to analyse it, to build an index, to refresh a
    materialized view, or when a foreign key cascades."""


@dataclass(frozen=True, slots=True)
class Hazard:
    """One object of a role that cannot be given to another one without lending it that one's rights."""

    danger: Danger
    description: str
    """In words: the object itself, or where a routine is called."""
    target: DatabaseObject
    """The routine, view or table that somebody has to decide about."""


def lock_out(desired: DesiredRole, server: Server) -> list[Statement]:
    """First of all nobody logs in as the role any more, nor acts as it by being its member; and it says whose it is.

    Members whom the admin may not expel cease to be some when the role is dropped.
    """
    role = server.roles[desired.name]
    statements = list(restored_comment(desired, role))
    if role.login:
        head = render("ALTER ROLE {} NOLOGIN", sql.Identifier(desired.name))
        statements.append(Statement(Phase.ALTER, None, head))
    statements += [
        expel_member(membership, server)
        for membership in foreign_memberships(desired, server)
        if membership.admin_may_revoke
    ]
    return statements


def lend_rights(desired: DesiredRole, server: Server) -> tuple[list[Statement], list[Statement]]:
    """What gives an ordinary admin the role's rights, and what takes exactly that back before the transaction ends.

    From version 16 on the creator of a role has ADMIN on it, without INHERIT or SET (manual, "Role Attributes").
    Before, there is one membership for each pair of roles, which is not ours to take when it was there already.
    Nothing is lent where the role reaches a superuser, the admin itself, or those who cannot log in by password.
    """
    barred = reachable_roles(desired.name, server) & {IAM_LOGIN_ROLE, server.admin, *server.superusers}
    if server.admin_is_superuser or barred:
        return [], []
    role, admin = sql.Identifier(desired.name), sql.Identifier(server.admin)
    held = [
        membership
        for membership in server.memberships.in_role.get(desired.name, ())
        if membership.member == server.admin
    ]
    # Both are made by the same grantor, whom the server chooses: the admin, or the role by which it has ADMIN.
    take_back = render("REVOKE {} FROM {}", role, admin)
    if server.version < INHERIT_PER_MEMBERSHIP:
        lend = render("GRANT {} TO {}", role, admin)
        needed = not held
    else:
        lend = render("GRANT {} TO {} WITH INHERIT TRUE, SET TRUE", role, admin)
        needed = not (
            any(membership.inherit for membership in held) and any(membership.set for membership in held)
        )
        for membership in held:
            if membership.grantor == server.admin:
                take_back = render(
                    "GRANT {} TO {} WITH INHERIT {}, SET {}",
                    role,
                    admin,
                    sql.Literal(membership.inherit),
                    sql.Literal(membership.set),
                )
    if not needed:
        return [], []
    return [Statement(Phase.GRANT, None, lend)], [Statement(Phase.REVOKE, None, take_back)]


def give_away_shared(desired: DesiredRole, server: Server) -> list[Statement]:
    """Databases and tablespaces that the role owns go to the admin."""
    return [
        Statement(
            Phase.ALTER,
            None,
            render(
                "ALTER {} {} OWNER TO {}",
                keyword(target.kind),
                object_reference(target),
                sql.Identifier(server.admin),
            ),
        )
        for target in server.owned.get(desired.name, ())
        if target.kind in {ObjectKind.DATABASE, ObjectKind.TABLESPACE}
    ]


def give_away(
    desired: DesiredRole, state: DatabaseState, server: Server, schemas: Iterable[str]
) -> list[Statement]:
    """What the role owns in a database goes to that database's owner.

    To be planned after `give_away_shared`, so that the role itself is no database's owner any more. Its schemas go
    first where the admin is no superuser: the new owner of an object has to have CREATE on the schema it is in. Where
    the admin may not act for that owner, an administrator has to, and needs but the last of the statements.
    """
    owner = sql.Identifier(state.owner)
    heads = [render("REASSIGN OWNED BY {} TO {}", sql.Identifier(desired.name), owner)]
    if not server.admin_is_superuser and state.owner not in state.not_administered:
        heads = [
            *(render("ALTER SCHEMA {} OWNER TO {}", sql.Identifier(name), owner) for name in schemas),
            *heads,
        ]
    return [Statement(Phase.ALTER, state.name, head) for head in heads]


def hazard_problems(
    desired: DesiredRole, state: DatabaseState, hazards: Iterable[Hazard]
) -> list[tuple[PlanReason, str]]:
    """Why what a role owns in a database cannot be given away, and what a person can do about each object."""
    places: dict[tuple[Danger, DatabaseObject], list[str]] = defaultdict(list)
    for hazard in hazards:
        places[hazard.danger, hazard.target].append(hazard.description)
    heir = sql.Identifier(state.owner)
    problems = []
    for (danger, target), descriptions in places.items():
        reference = object_reference(target)
        named = ", ".join(descriptions)
        rights = f'the rights of "{state.owner}", the owner of database "{state.name}"'
        go_on = "and the removal goes on by itself"
        if danger is Danger.SECURITY_DEFINER:
            remedy = render("ALTER ROUTINE {} SECURITY INVOKER;", reference)
            message = (
                f"{named} of role {desired.name} is SECURITY DEFINER and would run with {rights}; drop it or give it "
                f"to another role, {go_on}, or, to let it run with the rights of its caller, run: {remedy}"
            )
        elif danger is Danger.BEYOND_ITS_RIGHTS:
            remedy = render("ALTER TABLE {} OWNER TO {};", reference, heir)
            message = (
                f"{named} of role {desired.name} does what that role may not, and would do it with {rights}; drop it, "
                f"{go_on}, or, if it may do that, run: {remedy}"
            )
        else:
            remedy = render("ALTER ROUTINE {} OWNER TO {};", reference, heir)
            routine = reference.as_string(None)
            message = (
                f"routine {routine} would be called with {rights}, by {named}; drop one of them, "
                f"{go_on}, or, if its code is to be trusted with these rights, run: {remedy}"
            )
        problems.append((PlanReason.DEPENDENT_OBJECTS, message))
    return problems


def prepared_problem(desired: DesiredRole, database: str, gid: str) -> tuple[PlanReason, str]:
    """A prepared transaction of the role: it holds locks, and may make objects of the role's at any time."""
    commit, undo = (
        render(template, sql.Literal(gid)) for template in ("COMMIT PREPARED {};", "ROLLBACK PREPARED {};")
    )
    return (
        PlanReason.DEPENDENT_OBJECTS,
        f'prepared transaction {sql.Literal(gid).as_string(None)} in database "{database}" is role '
        f"{desired.name}'s; end it there as a superuser, and the removal goes on by itself: {commit} or, to undo what "
        f"it did, run: {undo}",
    )


def empty_database(desired: DesiredRole, state: DatabaseState, server: Server) -> Difference:
    """What the role was granted in a database is revoked, and what else names it there is told."""
    difference = Difference()
    difference.problems += [
        (
            PlanReason.DEPENDENT_OBJECTS,
            f'{description} in database "{state.name}" names role {desired.name} and cannot be given to another one; '
            f"change or drop it, and the removal goes on by itself",
        )
        for description in state.bound.get(desired.name, ())
    ]
    difference.statements += restore_own_defaults(desired.name, state)
    difference.extend(database_difference(_nothing(desired), state, server))
    return difference


def revoke_shared(desired: DesiredRole, server: Server) -> Difference:
    """What the role was granted on databases, tablespaces and parameters is revoked; its memberships go with it."""
    difference = shared_difference(_nothing(desired), server)
    for membership in server.memberships.of_member.get(desired.name, ()):
        if members := members_from_its_hand(membership, server):
            difference.problems.append(dependent_members(membership, members))
    return difference


def drop(desired: DesiredRole) -> Statement:
    """The end of the role; the server refuses while anything hangs on it."""
    return Statement(Phase.ALTER, None, "DROP ROLE", (desired.name,))


def databases_to_empty(desired: DesiredRole, server: Server) -> list[str]:
    """The databases in which the role holds anything."""
    return sorted(server.holdings.get(desired.name, frozenset()) & server.databases.keys())


def unreadable_problem(desired: DesiredRole, database: str) -> tuple[PlanReason, str]:
    """A database that the role has something in and that nobody can look into."""
    return (
        PlanReason.DEPENDENT_OBJECTS,
        f'role {desired.name} still holds or owns something in database "{database}", which cannot be connected to; '
        f"allow connections there, or drop the database, and the removal goes on by itself",
    )


def sessions_problem(desired: DesiredRole, server: Server) -> tuple[PlanReason, str]:
    """Sessions of the role that are open, and that the admin may not end."""
    return (
        PlanReason.INSUFFICIENT_PRIVILEGE,
        f'the admin "{server.admin}" may not end the open sessions of role {desired.name}; when they have ended the '
        f"removal goes on by itself, or an administrator has to run: {end_sessions_by_hand(desired)}",
    )


def end_sessions_by_hand(desired: DesiredRole) -> str:
    """The SQL with which an administrator ends all sessions of a role."""
    return render(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {};",
        sql.Literal(desired.name),
    )


def _nothing(desired: DesiredRole) -> DesiredRole:
    return replace(desired, scopes=frozenset(), privileges=frozenset(), source_role=None)
