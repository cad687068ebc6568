"""Taking a role away without taking anything of anybody else's, and without dropping data.

PostgreSQL's own `DROP OWNED` revokes with CASCADE and drops whatever was created meanwhile. So objects are given to
the owner of their database, grants are revoked one by one, and what then still hangs on the role makes `DROP ROLE`
fail with its name (manual, "Dropping Roles").
"""

from dataclasses import replace

from psycopg import sql

from hoop_operator.errors import PlanReason
from hoop_operator.planner.grants import (
    Difference,
    database_difference,
    restore_own_defaults,
    shared_difference,
)
from hoop_operator.planner.model import DatabaseState, DesiredRole, ObjectKind, Server
from hoop_operator.planner.roles import expel_member, foreign_memberships, restored_comment
from hoop_operator.planner.statements import Phase, Statement, keyword, object_reference, render


def lock_out(desired: DesiredRole, server: Server) -> list[Statement]:
    """First of all nobody logs in as the role any more, nor acts as it by being its member; and it says whose it is."""
    role = server.roles[desired.name]
    statements = list(restored_comment(desired, role))
    if role.login:
        head = render("ALTER ROLE {} NOLOGIN", sql.Identifier(desired.name))
        statements.append(Statement(Phase.ALTER, None, head))
    statements += [expel_member(membership, server) for membership in foreign_memberships(desired, server)]
    return statements


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


def empty_database(desired: DesiredRole, state: DatabaseState, server: Server) -> Difference:
    """What the role owns in a database goes to that database's owner, what it was granted is revoked.

    To be planned after `give_away_shared`, so that the role itself is no database's owner any more.
    """
    difference = Difference()
    if state.owned.get(desired.name):
        head = render("REASSIGN OWNED BY {} TO {}", sql.Identifier(desired.name), sql.Identifier(state.owner))
        difference.statements.append(Statement(Phase.ALTER, state.name, head))
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
    """What the role was granted on databases, tablespaces and parameters is revoked."""
    return shared_difference(_nothing(desired), server)


def drop(desired: DesiredRole) -> Statement:
    """The end of the role; the server refuses while anything hangs on it."""
    return Statement(Phase.ALTER, None, "DROP ROLE", (desired.name,))


def databases_to_empty(desired: DesiredRole, server: Server) -> list[str]:
    """The databases in which the role holds anything."""
    return sorted(server.holdings.get(desired.name, frozenset()) & server.databases.keys())


def _nothing(desired: DesiredRole) -> DesiredRole:
    return replace(desired, scopes=frozenset(), privileges=frozenset(), source_role=None)
