"""Taking a plan's role away from its server: login first, then what it owns, then what it was granted, then itself."""

from dataclasses import replace

from hoop_operator.errors import PlanFailure, PlanReason, StatementFailed
from hoop_operator.planner import removal
from hoop_operator.planner.model import DesiredRole
from hoop_operator.planner.roles import conflict
from hoop_operator.postgres.executor import end_sessions, execute_singly
from hoop_operator.postgres.session import Sessions
from hoop_operator.postgres.snapshot import Capabilities
from hoop_operator.reconcile.turn import look

DEPENDENT_OBJECTS = "2BP01"
INSUFFICIENT_PRIVILEGE = "42501"


async def remove_role(sessions: Sessions, capabilities: Capabilities, desired: DesiredRole) -> str | None:
    """Remove a role, and say why it was left alone where it is not ours; None where it is gone.

    Raises
    ------
    PlanFailure
        `DependentObjects`, `DependentGrants`, `InsufficientPrivilege` or `ApplyFailed`: the role is still there, but
        nobody can log in as it any more.
    ServerError
        The server could not be reached.
    """
    nothing = replace(desired, scopes=frozenset(), privileges=frozenset(), source_role=None)
    server, _ = await look(sessions, capabilities, [nothing])
    if nothing.name not in server.roles:
        return None
    if reason := conflict(nothing, server):
        return reason
    try:
        async with sessions.transaction(write=True) as transaction:
            await execute_singly(transaction, removal.lock_out(nothing, server), {})
        async with sessions.transaction(write=True) as transaction:
            await end_sessions(transaction, nothing.name)
            await execute_singly(transaction, removal.give_away_shared(nothing, server), {})
        await _empty_databases(sessions, capabilities, nothing)
        await _drop(sessions, capabilities, nothing)
    except StatementFailed as failure:
        raise _blocked(failure, nothing.name, capabilities.admin) from None
    return None


async def _empty_databases(sessions: Sessions, capabilities: Capabilities, desired: DesiredRole) -> None:
    server, databases = await look(sessions, capabilities, [desired])
    closed = [name for name in removal.databases_to_empty(desired, server) if name not in databases]
    for name, state in databases.items():
        difference = removal.empty_database(desired, state, server)
        async with sessions.transaction(name, write=True) as transaction:
            await execute_singly(transaction, sorted(difference.statements, key=lambda s: s.phase), {})
        if difference.problems:
            reason, _ = difference.problems[0]
            raise PlanFailure(reason, "; ".join(message for _, message in difference.problems))
    if closed:
        names = ", ".join(f'"{name}"' for name in closed)
        raise PlanFailure(
            PlanReason.DEPENDENT_OBJECTS,
            f"role {desired.name} still holds or owns something in {names}, which cannot be connected to; allow "
            f"connections there, or drop the database, and the removal goes on by itself",
        )


async def _drop(sessions: Sessions, capabilities: Capabilities, desired: DesiredRole) -> None:
    server, _ = await look(sessions, capabilities, [desired])
    rest = removal.revoke_shared(desired, server)
    async with sessions.transaction(write=True) as transaction:
        await execute_singly(transaction, rest.statements, {})
        if rest.problems:
            reason, _ = rest.problems[0]
            raise PlanFailure(reason, "; ".join(message for _, message in rest.problems))
        await execute_singly(transaction, [removal.drop(desired)], {})


def _blocked(failure: StatementFailed, role: str, admin: str) -> PlanFailure:
    detail = f": {' '.join(failure.detail.split())}" if failure.detail else ""
    if failure.sqlstate == DEPENDENT_OBJECTS:
        return PlanFailure(
            PlanReason.DEPENDENT_OBJECTS,
            f"role {role} cannot be dropped, something hangs on it{detail}; remove that, and the removal goes on by itself",
        )
    if failure.sqlstate == INSUFFICIENT_PRIVILEGE:
        return PlanFailure(
            PlanReason.INSUFFICIENT_PRIVILEGE,
            f'the admin "{admin}" may not remove role {role}: {failure}{detail}; an administrator has to run the '
            f"statement, or grant the admin what it lacks",
        )
    return PlanFailure(PlanReason.APPLY_FAILED, f"role {role} could not be removed: {failure}{detail}")
