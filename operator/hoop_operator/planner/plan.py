"""From what a plan asks for and what a server holds to the statements between the two."""

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql

from hoop_operator.crd import Privilege
from hoop_operator.errors import PlanReason
from hoop_operator.planner.adoption import conflict, role_to_take_over
from hoop_operator.planner.difference import Difference
from hoop_operator.planner.grants import database_difference, shared_difference
from hoop_operator.planner.model import DatabaseState, DesiredRole, Role, Server
from hoop_operator.planner.roles import foreign_memberships, role_difference, source_role_problems
from hoop_operator.planner.statements import Phase, Statement, render


@dataclass(frozen=True, slots=True)
class RolePlan:
    """What is to be done for one role, and what stands against it."""

    statements: tuple[Statement, ...]
    """In order. Where there are problems these are revokes alone: nothing is granted after a failed check."""
    problems: tuple[tuple[PlanReason, str], ...]
    """Everything that is wrong, the reason of the first being the reason of the whole."""
    withheld_routines: tuple[str, ...]
    """Routines that EXECUTE leaves out because an extension keeps them from PUBLIC."""
    uncovered_owners: tuple[str, ...]
    """Owners whose future objects cannot be covered, with the SQL that would change that."""
    observations: tuple[str, ...]
    """What a person should know although nothing is done about it."""
    takes_over: Role | None = None
    """The role, somebody else's as yet, that becomes the plan's: as it was found, and has to be found still."""


def databases_of(desired: DesiredRole, server: Server) -> frozenset[str]:
    """The databases to be read before `plan_role` can tell: those of the scopes, and wherever the role holds more."""
    if not desired.manages_grants:
        return frozenset()
    scoped = frozenset(scope.database for scope in desired.scopes)
    return frozenset(
        name
        for name in scoped | server.holdings.get(desired.name, frozenset())
        if name in server.databases and server.databases[name].readable
    )


def plan_role(desired: DesiredRole, server: Server, databases: Mapping[str, DatabaseState]) -> RolePlan:
    """Plan one role.

    Parameters
    ----------
    desired
        What the plan asks for.
    server
        The server as a whole.
    databases
        The databases named by `databases_of`; one that vanished between listing and reading may be absent.
    """
    problems = [
        *source_role_problems(desired, server),
        *_scope_problems(desired, server, databases),
    ]
    if reason := conflict(desired, server):
        return RolePlan((), ((PlanReason.ROLE_CONFLICT, reason), *problems), (), (), ())
    if PlanReason.DANGEROUS_SOURCE_ROLE in {reason for reason, _ in problems}:
        # It is a guardrail that refuses: what exists stays as it is.
        return RolePlan((), tuple(problems), (), (), ())
    difference = Difference(problems=problems)
    difference.extend(role_difference(desired, server))
    if desired.manages_grants:
        difference.extend(shared_difference(desired, server))
        for name in sorted(databases_of(desired, server) & databases.keys()):
            difference.extend(database_difference(desired, databases[name], server))
    statements = sorted(difference.statements, key=_order)
    takes_over = role_to_take_over(desired, server)
    if difference.problems:
        # What is not ours yet is taken over with all that the plan asks, or left as it is.
        statements = [
            statement for statement in statements if statement.phase.takes_away and takes_over is None
        ]
    return RolePlan(
        statements=tuple(statements),
        problems=tuple(difference.problems),
        withheld_routines=tuple(difference.withheld_routines),
        uncovered_owners=tuple(difference.uncovered_owners),
        observations=tuple(_observations(desired, server, databases)),
        takes_over=takes_over,
    )


def _order(statement: Statement) -> tuple[bool, str, Phase]:
    """The server as a whole first: a role has to exist before a database can name it."""
    return statement.database is not None, statement.database or "", statement.phase


def _scope_problems(
    desired: DesiredRole, server: Server, databases: Mapping[str, DatabaseState]
) -> list[tuple[PlanReason, str]]:
    problems = []
    for name in sorted({scope.database for scope in desired.scopes}):
        database = server.databases.get(name)
        if database is None:
            why = "does not exist; create it, or correct spec.scopes (upper and lower case matter)"
        elif database.is_template:
            why = "is a template database, which is never a scope; name another one in spec.scopes"
        elif not database.accepts_connections:
            why = (
                "takes no connections (ALLOW_CONNECTIONS is false); allow them, or take it out of spec.scopes"
            )
        elif not database.admin_may_connect:
            problems.append(_no_connect(name, server))
            continue
        elif name not in databases:
            why = "could not be read while the plan was made: dropped, or shut by its owner (the log tells)"
        else:
            schemas = sorted(scope.schema for scope in desired.scopes if scope.database == name)
            problems += [
                (
                    PlanReason.SCHEMA_NOT_FOUND,
                    f'schema "{schema}" does not exist in database "{name}"; create it, or correct spec.scopes '
                    f"(upper and lower case matter)",
                )
                for schema in schemas
                if schema not in databases[name].schemas
            ]
            continue
        problems.append((PlanReason.DATABASE_NOT_FOUND, f'database "{name}" {why}'))
    return problems


def _no_connect(database: str, server: Server) -> tuple[PlanReason, str]:
    remedy = render(
        "GRANT CONNECT ON DATABASE {} TO {};", sql.Identifier(database), sql.Identifier(server.admin)
    )
    return (
        PlanReason.INSUFFICIENT_PRIVILEGE,
        f'the admin "{server.admin}" may not connect to database "{database}"; an administrator has to run: {remedy}',
    )


def _observations(desired: DesiredRole, server: Server, databases: Mapping[str, DatabaseState]) -> list[str]:
    observations = []
    if members := {membership.member for membership in foreign_memberships(desired, server)}:
        names = ", ".join(f'"{name}"' for name in sorted(members))
        observations.append(f"members of the role that somebody else put there: {names}")
    if not desired.manages_grants:
        return observations
    unread = (server.holdings.get(desired.name, frozenset()) & server.databases.keys()) - databases.keys()
    observations += [
        f'the role holds something in database "{name}", which cannot be connected to'
        for name in sorted(unread)
    ]
    creatable = {scope.database for scope in desired.scopes if Privilege.CREATE in desired.privileges}
    for name, state in sorted(databases.items()):
        if name not in creatable and (owned := state.owned.get(desired.name)):
            shown = ", ".join(owned[:10]) + (f" and {len(owned) - 10} more" if len(owned) > 10 else "")
            observations.append(
                f'in database "{name}" the role owns what the plan lets it no longer create: {shown}'
            )
    return observations
