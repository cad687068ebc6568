"""One turn: all plans of one resource that are waiting, in one look, one plan each, and as few statements as they need.

    look            the server and every database concerned, in one query each
    plan            each role against what was seen
    claim           the approvals of those that needed one, before anything is done
    prepare         what must be there before the server is touched: finalizer, Secret of a new role
    apply           the statements of all plans, merged, in one transaction per database
    agree           passwords and Secrets of roles that were there already, also of plans that failed
    tell            status and events

Roles that somebody else changed after the look are left as they are, and their plans come again in another turn.

Statements of many plans go together because most of them will succeed. When they do not because somebody else changes
the same, the turn is made again as it is; for any other reason with half of the plans, down to the one that fails.
"""

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.finalizers import add_finalizer
from hoop_operator.credentials.connection import Connection
from hoop_operator.errors import (
    ClusterError,
    DatabaseUnavailable,
    ObjectConflict,
    Overtaken,
    PlanFailure,
    PlanReason,
    RolesChanged,
    ServerError,
    StatementFailed,
)
from hoop_operator.logs import about
from hoop_operator.planner.acl_size import GRANTEE_LIMIT_REMEDY
from hoop_operator.planner.adoption import account_of
from hoop_operator.planner.model import DatabaseState, DesiredRole, Role, Server
from hoop_operator.planner.plan import RolePlan, databases_of, plan_role
from hoop_operator.planner.removal import end_sessions_by_hand
from hoop_operator.planner.roles import alteration_problem, password_statement
from hoop_operator.planner.statements import Statement, merge
from hoop_operator.postgres import scram
from hoop_operator.postgres.capabilities import Capabilities
from hoop_operator.postgres.database_snapshot import read_database
from hoop_operator.postgres.executor import execute, execute_singly, server_time
from hoop_operator.postgres.fence import Fence
from hoop_operator.postgres.server_errors import LOCK_NOT_AVAILABLE
from hoop_operator.postgres.server_snapshot import read_server
from hoop_operator.postgres.session import Sessions
from hoop_operator.reconcile import approval
from hoop_operator.reconcile import secret as plan_secret
from hoop_operator.reconcile.agreements import Agreements
from hoop_operator.reconcile.contention import ATTEMPTS, is_worth_another, persist
from hoop_operator.reconcile.desired import first_database, secret_contents
from hoop_operator.reconcile.former_sessions import end_former_sessions
from hoop_operator.reconcile.objects import FINALIZER, Key, Plan, Reading, Resource
from hoop_operator.reconcile.rotation import (
    TRIGGER,
    Cause,
    Record,
    is_untold,
    password_since,
    record_of_new_password,
    rotation_due,
)
from hoop_operator.reconcile.run import Run, failure_of

HANDS_OFF = frozenset(
    {PlanReason.ROLE_CONFLICT, PlanReason.SECRET_CONFLICT, PlanReason.DANGEROUS_SOURCE_ROLE}
)
"""Reasons after which neither password nor Secret is touched: a dispute about them, or a guardrail that refused."""

INSUFFICIENT_PRIVILEGE = "42501"
ROW_TOO_BIG = "54000"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Turn:
    """What all steps of a turn need."""

    api: KubernetesApi
    sessions: Sessions
    resource: Resource
    connection: Connection
    capabilities: Capabilities
    agreements: Agreements
    ends_sessions: bool
    """Whether the sessions that began with a former password are ended."""
    readers_of: Callable[[Reading], Collection[Key]]
    """The resources that read a Secret, or write it for one of their roles."""


@dataclass(slots=True)
class Work:
    """One plan on its way through a turn."""

    run: Run
    desired: DesiredRole
    planned: RolePlan
    found: plan_secret.PlanSecret = plan_secret.NOTHING
    login: Role | None = None
    """The role as it was found, if it is ours: its password and Secret are kept together, whatever else fails."""
    password: str | None = field(default=None, repr=False)
    """The password to set; None where the server's is to stay."""
    verifier: str | None = field(default=None, repr=False)
    """What the server is to store for a new role's password; None where only the server's library can tell."""
    rotation: Cause | None = None
    """Why the password is to be rotated."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.run.plan

    @property
    def rests(self) -> bool:
        """Whether nothing at all may be done.

        The role is to be created or taken over, and that waits for approval; or others are at work on the plan.
        """
        is_ours = self.run.role_oid is not None and self.planned.takes_over is None
        return self.run.overtaken or (self.run.waiting is not None and not is_ours)


async def carry_out(turn: Turn, runs: Mapping[DesiredRole, Run], attempts: int = ATTEMPTS) -> None:
    """Carry out plans; how each ended is in its run.

    Parameters
    ----------
    turn
        Where, and as whom.
    runs
        One run for each role.
    attempts
        How often to try while others are at work on the same. What all plans together have used up of it is not tried
        again with parts of them, save with one alone.

    Raises
    ------
    ServerError
        The server could not be reached or read at all; runs that have no outcome of their own share this one.
    """
    server, works = await _look_and_plan(turn, runs)
    fence = Fence(turn.sessions, server, runs)
    await _each(works, lambda work: approval.claim(turn.api, work.run))
    works = [work for work in works if not work.rests]
    refused = [work for work in works if not work.run.succeeded]
    ready = [work for work in works if work.run.succeeded]
    ready = await _each(ready, lambda work: _prepare(turn, work))
    try:
        await _apply(turn, fence, [*ready, *refused])
    except RolesChanged as change:
        for desired, run in runs.items():
            run.overtaken = desired.name in change.names
        if others := [(desired, run) for desired, run in runs.items() if not run.overtaken]:
            await carry_out(turn, _afresh(others), attempts)
        return
    except (StatementFailed, DatabaseUnavailable) as failure:
        if await is_worth_another(failure, attempts):
            await carry_out(turn, _afresh(runs.items()), attempts - 1)
            return
        if len(runs) > 1:
            logger.info("A statement for %d plans failed, trying with half of them: %s", len(runs), failure)
            again = [*runs.items()]
            for half in (again[: len(again) // 2], again[len(again) // 2 :]):
                await carry_out(turn, _afresh(half), attempts if len(half) > 1 else ATTEMPTS)
            return
        (run,) = runs.values()
        if refused:
            run.message += f"; besides, what is extra could not be revoked: {failure}"
        else:
            run.fail(_refusal(failure, turn))
            for work in ready:
                if work.planned.takes_over is not None:
                    work.login = None  # not ours, or so late that the next run will see to it
                work.password = await _password_to_set(turn, work) if work.login is not None else None
    with_login = [work for work in (*ready, *refused) if work.run.succeeded or work.login is not None]
    await _each(with_login, lambda work: _agree(turn, fence, work))


def _afresh(runs: Iterable[tuple[DesiredRole, Run]]) -> dict[DesiredRole, Run]:
    """The runs as they were before their plans were made; what was done since is found when looking again."""
    afresh = dict(runs)
    for run in afresh.values():
        run.reason, run.message, run.statements = PlanReason.APPLIED, "", None
    return afresh


def _refusal(failure: StatementFailed | DatabaseUnavailable, turn: Turn) -> PlanFailure:
    if isinstance(failure, DatabaseUnavailable):
        return PlanFailure(PlanReason.APPLY_FAILED, f"{failure}; it will be tried again")
    detail = f" ({failure.detail})" if failure.detail else ""
    if failure.sqlstate == INSUFFICIENT_PRIVILEGE:
        return PlanFailure(
            PlanReason.INSUFFICIENT_PRIVILEGE,
            f'the admin "{turn.capabilities.admin}" may not do this: {failure}{detail}; an administrator has to run '
            f"the statement, or grant the admin what it lacks",
        )
    if failure.sqlstate == ROW_TOO_BIG:
        return PlanFailure(
            PlanReason.APPLY_FAILED,
            f"a table or sequence has as many grantees as fit into its row of a catalog, or what else is in that row "
            f"leaves too little room; {GRANTEE_LIMIT_REMEDY}; the server says: {failure}{detail}",
        )
    return PlanFailure(PlanReason.APPLY_FAILED, f"{failure}{detail}; it will be tried again")


async def look(
    sessions: Sessions, capabilities: Capabilities, desired: Sequence[DesiredRole]
) -> tuple[Server, dict[str, DatabaseState]]:
    """Read the server and every database in which one of the roles is to have, or has, anything.

    Raises
    ------
    ServerError
        The server could not be read.
    """

    async def read_all() -> Server:
        async with sessions.transaction() as transaction:
            return await read_server(
                transaction,
                capabilities,
                [role.name for role in desired],
                [role.source_role for role in desired if role.source_role is not None],
            )

    server = await persist(read_all)
    ours = {role.name for role in desired}
    oids = [role.oid for role in server.roles.values() if role.name in ours]
    schemas: dict[str, set[str]] = defaultdict(set)
    for role in desired:
        for name in databases_of(role, server):
            schemas[name] |= {scope.schema for scope in role.scopes if scope.database == name}

    async def read(name: str) -> DatabaseState:
        bound = [server.roles[role].oid for role in server.bound.get(name, ())]
        async with sessions.transaction(name) as transaction:
            return await read_database(transaction, name, oids, bound, schemas[name])

    async def try_to_read(name: str) -> DatabaseState | None:
        try:
            return await persist(partial(read, name))
        except (DatabaseUnavailable, StatementFailed) as failure:
            logger.info('Database "%s" cannot be read: %s', name, failure)
            return None

    states = await asyncio.gather(*map(try_to_read, sorted(schemas)))
    return server, {state.name: state for state in states if state is not None}


async def _look_and_plan(turn: Turn, runs: Mapping[DesiredRole, Run]) -> tuple[Server, list[Work]]:
    server, databases = await look(turn.sessions, turn.capabilities, list(runs))

    async def plan_one(desired: DesiredRole, run: Run) -> Work:
        planned = plan_role(desired, server, databases)
        role = server.roles.get(desired.name)
        run.statements = planned.statements
        run.withheld_routines = planned.withheld_routines
        run.uncovered_owners = planned.uncovered_owners
        run.observations = planned.observations
        run.role = desired.name
        run.system_identifier = server.system_identifier
        run.role_oid = role.oid if role else None
        work = Work(run, desired, planned)
        problems = list(planned.problems)
        with _ending(run):
            began = run.plan.has_finalizer or run.plan.status.get("secretName")
            if problems or role is not None or began:
                try:
                    work.found = await _find_secret(turn, run.plan, desired)
                    run.secret_lost = work.found.current is None and work.found.held is None
                except PlanFailure as conflict:
                    problems.append((conflict.reason, conflict.message))
            if problems:
                run.fail(failure_of(problems))
            is_left_alone = problems and planned.takes_over is not None
            if not is_left_alone and not HANDS_OFF.intersection(reason for reason, _ in problems):
                work.login = role
            if work.login is not None or run.succeeded:
                work.password = await _password_to_set(turn, work)
            if (
                work.login is not None
                and work.password is not None
                and alteration_problem(work.login, server)
            ):
                refusal = alteration_problem(work.login, server, reset_attributes=True)
                work.login = None
                if refusal is not None and refusal not in problems:
                    run.fail(PlanFailure(*refusal))
        if not run.succeeded:
            run.statements = tuple(
                s for s in planned.statements if s.phase.takes_away and planned.takes_over is None
            )
        approval.decide(run, turn.resource, turn.connection.endpoint)
        return work

    return server, await asyncio.gather(*(plan_one(desired, run) for desired, run in runs.items()))


async def _password_to_set(turn: Turn, work: Work) -> str | None:
    """The password that the server is to be given; None where it has the Secret's already.

    A run that has failed rotates nothing: that waits for one that succeeds.
    """
    kept = work.found.password
    rotates = work.login is not None and kept is not None and work.run.succeeded
    work.rotation = rotation_due(work.plan, work.found.record, work.run.started) if rotates else None
    if kept is None or work.rotation is not None:
        return scram.generate_password()
    if work.login is None or not await _fits(turn, work, work.login.verifier):
        return kept
    return None


async def _fits(turn: Turn, work: Work, verifier: str | None) -> bool:
    """Whether the Secret's password is the server's, found out without a login where the verifier can be read."""
    secret, password = work.found.current or work.found.held, work.found.password
    if secret is None or password is None:
        return False
    if turn.agreements.holds(work.plan, verifier, secret.resource_version, asked=work.run.new_input):
        return True
    fits = await asyncio.to_thread(scram.matches, password, verifier) if verifier else None
    if verifier is None and turn.capabilities.verifiers_readable:
        fits = False
    told = None if fits is not None else await _can_log_in(turn, work, password)
    if fits is False or told is False:
        work.run.secret_edited = turn.agreements.knows_another_secret(work.plan, secret.resource_version)
        return False
    turn.agreements.remember(work.plan, verifier, secret.resource_version, by_login=told is True)
    return True


async def _can_log_in(turn: Turn, work: Work, password: str) -> bool | None:
    database = first_database(work.plan, turn.connection)
    return await turn.sessions.can_log_in(work.desired.name, password, database)


async def _prepare(turn: Turn, work: Work) -> None:
    """See to the Secret of a role that is new, and then to the finalizer, before the first statement.

    In this order a plan whose Secret is somebody else's uses nothing, and can be deleted like one that never was.
    """
    plan = work.plan
    if work.run.role_oid is None and work.password is not None:
        work.run.rotated = work.password != work.found.password
        try:
            await _write_secret(turn, work, work.password)
        except ObjectConflict:
            # There was no reason to expect a Secret, so it was not read before: one request less for a new plan.
            work.found = await _find_secret(turn, plan, work.desired)
            work.password = work.found.password or work.password
            work.run.rotated = work.password != work.found.password
            # Were this one cut short in replacing a Secret, the next run would know by the finalizer to look for it.
            await _bind(turn, work)
            await _write_secret(turn, work, work.password)
        if work.password.isascii():
            work.verifier = await asyncio.to_thread(scram.make_verifier, work.password)
    await _bind(turn, work)


async def _bind(turn: Turn, work: Work) -> None:
    """See to the finalizer."""
    plan = work.plan
    if not plan.has_finalizer:
        held = Plan.parse(await add_finalizer(turn.api, plan.body, FINALIZER))
        if held.fingerprint == plan.fingerprint:
            work.run.plan = held
        # Otherwise what was asked for since the look is for another run to answer, and not for the status of this one.


async def _find_secret(turn: Turn, plan: Plan, desired: DesiredRole) -> plan_secret.PlanSecret:
    readers = turn.readers_of(Reading("Secret", plan.key.namespace, plan.secret_name))
    found = await plan_secret.find(turn.api, plan, desired, readers)
    if found.adopted and found.record.since is None:
        # How old its password is nobody knows, so the interval of rotation begins now.
        return replace(found, record=Record(since=datetime.now(UTC)))
    return found


async def _write_secret(turn: Turn, work: Work, password: str) -> None:
    data = secret_contents(work.plan, turn.resource, turn.connection, work.desired.name, password)
    is_new = password != work.found.password
    record = record_of_new_password(work.plan, datetime.now(UTC)) if is_new else work.found.record
    secret, written = await plan_secret.write(turn.api, work.plan, work.found, data, record)
    if work.found.adopted:
        work.run.taken_over.append(f"Secret {secret.name} is taken over")
    work.found = plan_secret.PlanSecret(secret, password, record)
    work.run.applied |= written
    work.run.secret_written |= written
    work.run.secret_ready = True


async def _apply(turn: Turn, fence: Fence, works: Sequence[Work]) -> None:
    """Run the statements of all plans: what concerns the server as a whole first, then every database by itself.

    Raises
    ------
    Overtaken
        Somebody else is at work on the same; as below.
    StatementFailed
        One of the transactions was rolled back; others may have been committed.
    """
    statements = [statement for work in works for statement in work.run.due]
    created = [work for work in works if work.run.role_oid is None and work.run.succeeded]
    by_database: dict[str | None, list[Statement]] = defaultdict(list)
    for statement in statements:
        by_database[statement.database].append(statement)
    run_statements = execute if len(works) > 1 else execute_singly

    async def run_in(database: str | None) -> None:
        concerned = [work for work in works if any(s.database == database for s in work.run.due)]
        names = [work.desired.name for work in concerned]
        async with fence.transaction(names, database) as transaction:
            verifiers = {
                work.desired.name: work.verifier
                or transaction.make_verifier(work.desired.name, work.password or "")
                for work in created
                if database is None
            }
            await run_statements(transaction, merge(by_database[database]), verifiers)
            for work in concerned:
                work.run.committing = True
        for work in concerned:
            work.run.applied = True
            work.run.done += tuple(s for s in work.run.due if s.database == database)

    if None in by_database:
        await run_in(None)
    for work in works:
        if work.planned.takes_over is not None and work.run.succeeded:
            work.run.taken_over.append(account_of(work.desired, work.planned.takes_over))
    results = await asyncio.gather(
        *(run_in(name) for name in sorted(name for name in by_database if name is not None)),
        return_exceptions=True,
    )
    for result in results:
        if isinstance(result, BaseException):
            raise result
    if created:
        async with turn.sessions.transaction() as transaction:
            server = await read_server(
                transaction, turn.capabilities, [work.desired.name for work in created], ()
            )
        for work in created:
            role = server.roles.get(work.desired.name)
            if role is None:
                continue  # dropped since: setting its password will say so
            work.run.role_oid = role.oid
            if work.found.current is not None:
                version = work.found.current.resource_version
                turn.agreements.remember(work.plan, role.verifier, version, by_login=role.verifier is None)
            work.password = None


async def _agree(turn: Turn, fence: Fence, work: Work) -> None:
    """Bring a role's password and its Secret together; the Secret is the truth.

    A new password reaches the Secret while the server's transaction is still open: whatever crashes in between, the
    Secret holds either what the server has, or what the next run will set there.
    """
    run = work.run
    name = work.desired.name
    password = work.password or work.found.password
    if password is None:
        raise PlanFailure(
            PlanReason.APPLY_FAILED, f"role {name} was there and is not any more; it will be tried again"
        )
    is_new = work.password is not None and work.password != work.found.password
    since_on_server: datetime | None = None
    seen_on_server: str | None = None
    if work.password is None:
        await _write_secret(turn, work, password)
    else:

        async def set_password() -> None:
            nonlocal since_on_server, seen_on_server
            async with fence.transaction([name]) as transaction:
                verifier = transaction.make_verifier(name, password)
                await execute_singly(transaction, [password_statement(name)], {name: verifier})
                await _write_secret(turn, work, password)
                if is_new and turn.ends_sessions:
                    since_on_server = await server_time(transaction)
            seen_on_server = verifier if turn.capabilities.verifiers_readable else None

        try:
            await _outwait_its_own_sessions(turn, fence, work, set_password)
        except StatementFailed as failure:
            raise _refusal(failure, turn) from None
        # A pooler that does not know the role refuses the right password too: no login tells anything then.
        by_login = seen_on_server is None and await _can_log_in(turn, work, password) is True
        if work.found.current is not None:
            turn.agreements.remember(
                work.plan, seen_on_server, work.found.current.resource_version, by_login=by_login
            )
        was_needed = is_new or run.secret_edited or seen_on_server is not None or by_login
        run.applied |= was_needed
        run.password_set = was_needed
        run.rotated = is_new
        run.rotation = work.rotation
    since = password_since(work.plan, work.found.record, datetime.now(UTC))
    # A run before may have ended between a rotation and the status; the password of a role made anew is this run's.
    cut_short = not run.rotated and is_untold(work.plan, since)
    if not run.new_input and (cut_short or run.rotation is Cause.SCHEDULE):
        run.trigger = TRIGGER
    if turn.ends_sessions and work.login is not None and since is not None and (is_new or cut_short):
        before = since_on_server or since
        run.sessions_left = await end_former_sessions(
            turn.sessions, fence, turn.capabilities, work.desired, before
        )
    run.password_since = since
    run.rotation_settled = run.succeeded
    run.secret_version = work.found.current.resource_version if work.found.current else None
    await plan_secret.remove_former(turn.api, work.plan)


async def _outwait_its_own_sessions(
    turn: Turn, fence: Fence, work: Work, set_password: Callable[[], Awaitable[None]]
) -> None:
    """Set a password although a session of the role may be in the way.

    Any role may change its own password, and keep others from altering it for as long as it does not commit that.

    Raises
    ------
    PlanFailure
        The lock was not to be had; with the SQL that ends the role's sessions.
    StatementFailed
        The server refused it for another reason.
    """
    try:
        await persist(set_password)
    except StatementFailed as failure:
        if failure.sqlstate != LOCK_NOT_AVAILABLE:
            raise
        if not turn.ends_sessions:
            raise PlanFailure(
                PlanReason.APPLY_FAILED,
                f"{failure}; it will be tried again; a session of the role itself may hold the lock: to end its "
                f"sessions, an administrator may run: {end_sessions_by_hand(work.desired)}",
            ) from None
    else:
        return
    async with turn.sessions.transaction() as transaction:
        now = await server_time(transaction)
    await end_former_sessions(turn.sessions, fence, turn.capabilities, work.desired, now)
    await persist(set_password)


@contextlib.contextmanager
def _ending(run: Run) -> Iterator[None]:
    """End a run with whatever fails in it, so that it does not end the others."""
    try:
        with about(**run.log_fields):
            yield
    except PlanFailure as failure:
        run.fail(failure)
    except ObjectConflict:
        run.fail(
            PlanFailure(
                PlanReason.APPLY_FAILED,
                "the plan or its Secret was changed meanwhile; it will be tried again",
            )
        )
    except ClusterError as error:
        run.fail(PlanFailure(PlanReason.APPLY_FAILED, f"{error}; it will be tried again"))
    except Overtaken:
        run.overtaken = True
    except ServerError as error:
        run.fail(PlanFailure(PlanReason.SERVER_UNREACHABLE, str(error)))


async def _each(works: Sequence[Work], step: Callable[[Work], Awaitable[None]]) -> list[Work]:
    """Take all works through a step at once; those that got through it go on."""

    async def take(work: Work) -> None:
        with _ending(work.run):
            await step(work)

    await asyncio.gather(*map(take, works))
    return [work for work in works if work.run.succeeded and not work.run.overtaken]
