"""Taking roles away from their server: their login, what they own, what they were granted, and then themselves."""

from collections.abc import Iterable, Mapping, Sequence

from hoop_operator.errors import PlanFailure, PlanReason, StatementFailed
from hoop_operator.planner import removal
from hoop_operator.planner.model import DesiredRole, Server
from hoop_operator.planner.roles import conflict
from hoop_operator.planner.statements import Statement, merge
from hoop_operator.postgres.executor import end_sessions, execute_singly
from hoop_operator.postgres.session import Sessions, Transaction
from hoop_operator.postgres.snapshot import Capabilities
from hoop_operator.reconcile.contention import ATTEMPTS, is_worth_another
from hoop_operator.reconcile.run import failure_of
from hoop_operator.reconcile.turn import INSUFFICIENT_PRIVILEGE, look

DEPENDENT_OBJECTS = "2BP01"


async def remove_roles(
    sessions: Sessions, capabilities: Capabilities, roles: Sequence[DesiredRole], attempts: int = ATTEMPTS
) -> Mapping[str, str | PlanFailure | None]:
    """Remove roles, all in the same few transactions as long as nothing stands against one of them.

    Parameters
    ----------
    sessions, capabilities
        Where, and as whom.
    roles
        The roles, and whose they have to be.
    attempts
        How often to try while others are at work on the same, as in `carry_out`.

    Returns
    -------
    For each role's name None where it is gone, in words why it was left alone where it is not ours, or the failure
    (`DependentObjects`, `DependentGrants`, `InsufficientPrivilege`, `ApplyFailed`) that keeps it; nobody can log in as
    it any more, then.

    Raises
    ------
    ServerError
        The server could not be reached.
    """
    server, _ = await look(sessions, capabilities, roles)
    outcomes: dict[str, str | PlanFailure | None] = {}
    ours: list[DesiredRole] = []
    for role in roles:
        outcomes[role.name] = conflict(role, server)
        if role.name in server.roles and outcomes[role.name] is None:
            ours.append(role)
    if ours:
        outcomes |= await _remove(sessions, capabilities, server, ours, attempts)
    return outcomes


async def _remove(
    sessions: Sessions,
    capabilities: Capabilities,
    server: Server,
    roles: Sequence[DesiredRole],
    attempts: int,
) -> Mapping[str, str | PlanFailure | None]:
    try:
        await _lock_out(sessions, server, roles)
        await _empty_databases(sessions, capabilities, roles)
        await _drop(sessions, capabilities, roles)
    except (StatementFailed, PlanFailure) as failure:
        if isinstance(failure, StatementFailed) and await is_worth_another(failure, attempts):
            return await remove_roles(sessions, capabilities, roles, attempts - 1)
        if len(roles) > 1:
            middle = len(roles) // 2
            halves = [
                await remove_roles(sessions, capabilities, half, attempts if len(half) > 1 else ATTEMPTS)
                for half in (roles[:middle], roles[middle:])
            ]
            return {**halves[0], **halves[1]}
        (role,) = roles
        if isinstance(failure, StatementFailed):
            failure = _blocked(failure, role.name, capabilities.admin)
        return {role.name: failure}
    return dict.fromkeys(role.name for role in roles)


async def _lock_out(sessions: Sessions, server: Server, roles: Iterable[DesiredRole]) -> None:
    async with sessions.transaction(write=True) as transaction:
        await _execute(transaction, [removal.lock_out(role, server) for role in roles])
    async with sessions.transaction(write=True) as transaction:
        await end_sessions(transaction, [role.name for role in roles])
        await _execute(transaction, [removal.give_away_shared(role, server) for role in roles])


async def _empty_databases(
    sessions: Sessions, capabilities: Capabilities, roles: Sequence[DesiredRole]
) -> None:
    server, databases = await look(sessions, capabilities, roles)
    problems: list[tuple[PlanReason, str]] = []
    for name, state in databases.items():
        differences = [removal.empty_database(role, state, server) for role in roles]
        async with sessions.transaction(name, write=True) as transaction:
            await _execute(transaction, [difference.statements for difference in differences])
        problems += [problem for difference in differences for problem in difference.problems]
    problems += [
        (
            PlanReason.DEPENDENT_OBJECTS,
            f'role {role.name} still holds or owns something in database "{name}", which cannot be connected to; allow '
            f"connections there, or drop the database, and the removal goes on by itself",
        )
        for role in roles
        for name in removal.databases_to_empty(role, server)
        if name not in databases
    ]
    _raise_all(problems)


async def _drop(sessions: Sessions, capabilities: Capabilities, roles: Sequence[DesiredRole]) -> None:
    server, _ = await look(sessions, capabilities, roles)
    differences = [removal.revoke_shared(role, server) for role in roles]
    async with sessions.transaction(write=True) as transaction:
        await _execute(transaction, [difference.statements for difference in differences])
    _raise_all([problem for difference in differences for problem in difference.problems])
    async with sessions.transaction(write=True) as transaction:
        await _execute(transaction, [[removal.drop(role)] for role in roles])


async def _execute(transaction: Transaction, statements: Iterable[Iterable[Statement]]) -> None:
    merged = merge(statement for part in statements for statement in part)
    await execute_singly(transaction, merged, {})


def _raise_all(problems: Sequence[tuple[PlanReason, str]]) -> None:
    if problems:
        raise failure_of(problems)


def _blocked(failure: StatementFailed, role: str, admin: str) -> PlanFailure:
    detail = f": {' '.join(failure.detail.split())}" if failure.detail else ""
    if failure.sqlstate == DEPENDENT_OBJECTS:
        return PlanFailure(
            PlanReason.DEPENDENT_OBJECTS,
            f"role {role} cannot be dropped, something hangs on it{detail}; remove that, and the removal goes on by "
            f"itself",
        )
    if failure.sqlstate == INSUFFICIENT_PRIVILEGE:
        return PlanFailure(
            PlanReason.INSUFFICIENT_PRIVILEGE,
            f'the admin "{admin}" may not remove role {role}: {failure}{detail}; an administrator has to run the '
            f"statement, or grant the admin what it lacks",
        )
    return PlanFailure(PlanReason.APPLY_FAILED, f"role {role} could not be removed: {failure}{detail}")
