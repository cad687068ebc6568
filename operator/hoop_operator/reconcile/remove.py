"""Taking roles away from their server: their login, what they own, what they were granted, and then themselves."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from hoop_operator.errors import DatabaseUnavailable, PlanFailure, PlanReason, RolesChanged, StatementFailed
from hoop_operator.planner import removal as planner
from hoop_operator.planner.adoption import conflict
from hoop_operator.planner.model import DatabaseState, DesiredRole, Server
from hoop_operator.planner.roles import alteration_problem
from hoop_operator.planner.statements import Statement, merge, render
from hoop_operator.postgres.capabilities import Capabilities
from hoop_operator.postgres.executor import end_sessions, execute_singly
from hoop_operator.postgres.fence import Fence
from hoop_operator.postgres.removal import (
    read_hazards,
    read_owned_schemas,
    read_prepared,
    read_sessions,
)
from hoop_operator.postgres.server_errors import LOCK_NOT_AVAILABLE
from hoop_operator.postgres.session import Sessions, Transaction
from hoop_operator.reconcile.contention import ATTEMPTS, is_worth_another
from hoop_operator.reconcile.run import failure_of
from hoop_operator.reconcile.turn import INSUFFICIENT_PRIVILEGE, look

DEPENDENT_OBJECTS = "2BP01"

Problems = list[tuple[PlanReason, str]]

RemovalOutcome = str | PlanFailure | RolesChanged | None

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Removal:
    """What all steps of a removal need."""

    sessions: Sessions
    capabilities: Capabilities
    still_wanted: Callable[[DesiredRole], Awaitable[bool]]
    """Whether a role that was found is still to go. Asked after every look: a plan that was made again under its old
    name cannot have had its role made before that look, or else the old plan is gone."""


async def remove_roles(
    removal: Removal, roles: Sequence[DesiredRole], attempts: int = ATTEMPTS
) -> Mapping[str, RemovalOutcome]:
    """Remove roles, all in the same few transactions as long as nothing stands against one of them.

    Parameters
    ----------
    removal
        Where, as whom, and who knows.
    roles
        The roles, and whose they have to be.
    attempts
        How often to try while others are at work on the same, as in `carry_out`.

    Returns
    -------
    For each role's name None where it is gone, in words why it was left alone where it is not ours, or the failure
    (`DependentObjects`, `DependentGrants`, `InsufficientPrivilege`, `ApplyFailed`) that keeps it; nobody can log in as
    it any more, then. `RolesChanged` where somebody else is at work on the role, or does not want it gone any more.

    Raises
    ------
    ServerError
        The server could not be reached.
    """
    server, _ = await look(removal.sessions, removal.capabilities, roles)
    outcomes: dict[str, RemovalOutcome] = {}
    ours: list[DesiredRole] = []
    for role in roles:
        outcomes[role.name] = conflict(role, server)
        if role.name not in server.roles:
            try:
                await _outwait_makers(removal.sessions, role)
            except StatementFailed as failure:
                if await is_worth_another(failure, attempts):
                    return await remove_roles(removal, roles, attempts - 1)
                outcomes[role.name] = _blocked(failure, role.name)
        if role.name in server.roles and outcomes[role.name] is None:
            if problem := alteration_problem(server.roles[role.name], server):
                outcomes[role.name] = PlanFailure(*problem)
            else:
                ours.append(role)
    for role, wanted in zip(ours, await asyncio.gather(*map(removal.still_wanted, ours)), strict=True):
        if not wanted:
            outcomes[role.name] = RolesChanged([role.name])
    if wanted_ones := [role for role in ours if outcomes[role.name] is None]:
        outcomes |= await _remove(removal, server, wanted_ones, attempts)
    return outcomes


async def _outwait_makers(sessions: Sessions, role: DesiredRole) -> None:
    """See that nobody is about to commit a role which no look shows yet: a leader may have been cut off in its COMMIT.

    A role's name is unique: who makes one waits for another transaction that does. Ours makes none in the end.

    Raises
    ------
    StatementFailed
        The role is there by now, or its maker takes too long.
    """
    with contextlib.suppress(_NobodyMakesItError):
        async with sessions.transaction(write=True) as transaction:
            await transaction.execute(render("CREATE ROLE {}", sql.Identifier(role.name)))
            raise _NobodyMakesItError


class _NobodyMakesItError(Exception):
    """Rolls back."""


async def _remove(
    removal: Removal, server: Server, roles: Sequence[DesiredRole], attempts: int
) -> Mapping[str, RemovalOutcome]:
    sessions, capabilities = removal.sessions, removal.capabilities
    fence = Fence(sessions, server, roles)
    try:
        await _lock_out(sessions, fence, capabilities, server, roles)
        await _end_sessions(sessions, fence, capabilities, server, roles)
        await _give_away_shared(fence, capabilities, server, roles)
        await _empty_databases(sessions, fence, capabilities, roles)
        await _drop(sessions, fence, capabilities, roles)
    except RolesChanged as change:
        others = [role for role in roles if role.name not in change.names]
        outcomes: dict[str, RemovalOutcome] = dict.fromkeys(change.names, change)
        return outcomes | dict(await remove_roles(removal, others, attempts)) if others else outcomes
    except (StatementFailed, PlanFailure) as failure:
        if isinstance(failure, StatementFailed) and await is_worth_another(failure, attempts):
            return await remove_roles(removal, roles, attempts - 1)
        if len(roles) > 1:
            middle = len(roles) // 2
            halves = [
                await remove_roles(removal, half, attempts if len(half) > 1 else ATTEMPTS)
                for half in (roles[:middle], roles[middle:])
            ]
            return {**halves[0], **halves[1]}
        (role,) = roles
        return {role.name: _blocked(failure, role.name)}
    return dict.fromkeys(role.name for role in roles)


async def _lock_out(
    sessions: Sessions,
    fence: Fence,
    capabilities: Capabilities,
    server: Server,
    roles: Sequence[DesiredRole],
) -> None:
    """Any role may change its own password, and keep others from altering it for as long as it does not commit that.

    It may do so in a session, or in a prepared transaction.
    """

    async def alter() -> None:
        async with fence.transaction(_names(roles)) as transaction:
            await _execute(transaction, capabilities, [planner.lock_out(role, server) for role in roles])

    try:
        await alter()
    except StatementFailed as failure:
        if failure.sqlstate != LOCK_NOT_AVAILABLE:
            raise
    else:
        return
    await _end_sessions(sessions, fence, capabilities, server, roles)
    try:
        await alter()
    except StatementFailed as failure:
        if failure.sqlstate == LOCK_NOT_AVAILABLE:
            _raise_all(_prepared_problems(roles, await _prepared(sessions, roles)))
        raise


async def _end_sessions(
    sessions: Sessions,
    fence: Fence,
    capabilities: Capabilities,
    server: Server,
    roles: Sequence[DesiredRole],
) -> None:
    """Raise rather than go on when this fails: who is still there could change what was found to be harmless."""
    async with sessions.transaction() as transaction:
        names = await read_sessions(transaction, [role.name for role in roles])
    if not names:
        return
    connected = [role for role in roles if role.name in names]
    try:
        async with (
            fence.transaction(_names(connected)) as transaction,
            _rights_of(transaction, capabilities, server, connected),
        ):
            await end_sessions(transaction, names)
    except StatementFailed as failure:
        if failure.sqlstate != INSUFFICIENT_PRIVILEGE:
            raise
        _raise_all([planner.sessions_problem(role, server) for role in connected])


async def _give_away_shared(
    fence: Fence, capabilities: Capabilities, server: Server, roles: Sequence[DesiredRole]
) -> None:
    """Raise rather than go on when this fails: REASSIGN OWNED would give databases to whom they are not meant for."""
    owners = [role for role in roles if server.owned.get(role.name)]
    if not owners:
        return
    async with (
        fence.transaction(_names(owners)) as transaction,
        _rights_of(transaction, capabilities, server, owners),
    ):
        statements = [planner.give_away_shared(role, server) for role in owners]
        await _execute(transaction, capabilities, statements)


async def _empty_databases(
    sessions: Sessions, fence: Fence, capabilities: Capabilities, roles: Sequence[DesiredRole]
) -> None:
    server, databases = await look(sessions, capabilities, roles)
    prepared = await _prepared(sessions, roles)
    problems = _prepared_problems(roles, prepared)
    waiting = {(name, database) for name, database, _ in prepared}
    for name, state in databases.items():
        free = [role for role in roles if (role.name, name) not in waiting]
        owners = [role for role in free if state.is_to_be_reassigned(role.name)]
        others = [role for role in free if role not in owners]
        for group in [*([role] for role in owners), *([others] if others else [])]:
            step = _empty_database(fence, capabilities, server, state, group)
            try:
                problems += await _problems_of(step, roles)
            except DatabaseUnavailable as failure:
                logger.info('Database "%s" went away during a removal: %s', name, failure)
    _raise_all(problems)


async def _prepared(sessions: Sessions, roles: Sequence[DesiredRole]) -> list[tuple[str, str, str]]:
    async with sessions.transaction() as transaction:
        return await read_prepared(transaction, _names(roles))


def _prepared_problems(roles: Sequence[DesiredRole], prepared: Iterable[tuple[str, str, str]]) -> Problems:
    known = {role.name: role for role in roles}
    return [planner.prepared_problem(known[name], database, gid) for name, database, gid in prepared]


async def _empty_database(
    fence: Fence,
    capabilities: Capabilities,
    server: Server,
    state: DatabaseState,
    roles: Sequence[DesiredRole],
) -> Problems:
    """Take from roles all that they have in one database, or nothing; roles that own something come one by one.

    What cannot be given away is looked for before anything is revoked: whether a view works is told by the rights
    that the role has. It is looked for again after, since who acts as the role may have made something meanwhile.
    """
    differences = [planner.empty_database(role, state, server) for role in roles]
    owners = [role for role in roles if state.is_to_be_reassigned(role.name)]
    acting = [role for role in roles if role in owners or state.default_acl.set_by.get(role.name)]
    async with fence.transaction(_names(roles), state.name) as transaction:
        for role in owners:
            if hazards := await read_hazards(transaction, role.name):
                return planner.hazard_problems(role, state, hazards)
        async with _rights_of(transaction, capabilities, server, acting):
            for role in owners:
                schemas = await read_owned_schemas(transaction, role.name)
                statements = planner.give_away(role, state, server, schemas)
                await _execute(transaction, capabilities, [statements])
                if hazards := await read_hazards(transaction, role.name):
                    _raise_all(planner.hazard_problems(role, state, hazards))
            await _execute(transaction, capabilities, [difference.statements for difference in differences])
    return [problem for difference in differences for problem in difference.problems]


async def _drop(
    sessions: Sessions, fence: Fence, capabilities: Capabilities, roles: Sequence[DesiredRole]
) -> None:
    server, databases = await look(sessions, capabilities, roles)
    _raise_all(
        [
            planner.unreadable_problem(role, name)
            for role in roles
            for name in planner.databases_to_empty(role, server)
            if name not in databases
        ]
    )
    differences = [planner.revoke_shared(role, server) for role in roles]
    async with fence.transaction(_names(roles)) as transaction:
        await _execute(transaction, capabilities, [difference.statements for difference in differences])
    _raise_all([problem for difference in differences for problem in difference.problems])
    async with fence.transaction(_names(roles)) as transaction:
        await _execute(transaction, capabilities, [[planner.drop(role)] for role in roles])


@contextlib.asynccontextmanager
async def _rights_of(
    transaction: Transaction, capabilities: Capabilities, server: Server, roles: Iterable[DesiredRole]
) -> AsyncIterator[None]:
    """Lend the admin the rights of roles for a part of a transaction."""
    loans = [planner.lend_rights(role, server) for role in roles]
    await _execute(transaction, capabilities, [lend for lend, _ in loans])
    yield
    await _execute(transaction, capabilities, [take_back for _, take_back in loans])


async def _execute(
    transaction: Transaction, capabilities: Capabilities, statements: Iterable[Iterable[Statement]]
) -> None:
    """Run statements one by one.

    Raises
    ------
    PlanFailure
        `InsufficientPrivilege`, with the statement for an administrator to run.
    StatementFailed
        The server refused one for another reason.
    """
    for statement in merge(statement for part in statements for statement in part):
        try:
            await execute_singly(transaction, [statement], {})
        except StatementFailed as failure:
            if failure.sqlstate != INSUFFICIENT_PRIVILEGE:
                raise
            place = (
                f'to connect to database "{statement.database}" and '
                if statement.database is not None
                else "to "
            )
            raise PlanFailure(
                PlanReason.INSUFFICIENT_PRIVILEGE,
                f'the admin "{capabilities.admin}" may not do what the removal needs: {failure}; the removal goes on '
                f"by itself when that is done; an administrator has {place}run: "
                f"{statement.by_hand}",
            ) from None


async def _problems_of(step: Awaitable[Problems], roles: Sequence[DesiredRole]) -> Problems:
    """What stands against a step, so that the further ones are made all the same.

    With several roles a failure says nothing of each: it is for smaller parts of them to meet again. What is worth
    another attempt is no obstacle either.
    """
    try:
        return await step
    except (StatementFailed, PlanFailure) as failure:
        if len(roles) > 1 or (isinstance(failure, StatementFailed) and failure.is_transient):
            raise
        blocked = _blocked(failure, roles[0].name)
        return [(blocked.reason, blocked.message)]


def _names(roles: Iterable[DesiredRole]) -> list[str]:
    return [role.name for role in roles]


def _raise_all(problems: Problems) -> None:
    if problems:
        raise failure_of(problems)


def _blocked(failure: StatementFailed | PlanFailure, role: str) -> PlanFailure:
    if isinstance(failure, PlanFailure):
        return failure
    detail = f": {' '.join(failure.detail.split())}" if failure.detail else ""
    if failure.sqlstate == DEPENDENT_OBJECTS:
        return PlanFailure(
            PlanReason.DEPENDENT_OBJECTS,
            f"role {role} cannot be dropped, something hangs on it{detail}; remove that, and the removal goes on by "
            f"itself",
        )
    return PlanFailure(PlanReason.APPLY_FAILED, f"role {role} could not be removed: {failure}{detail}")
