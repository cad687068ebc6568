"""Two operators at work on the same roles: they wait for each other, and neither works from an old look."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from hoop_operator.credentials.connection import Connection
from hoop_operator.errors import NoLongerLeading, RolesChanged
from hoop_operator.planner.model import DesiredRole, Identity
from hoop_operator.postgres.capabilities import read_capabilities
from hoop_operator.postgres.fence import Fence
from hoop_operator.postgres.session import Limits, Sessions, open_sessions
from hoop_operator.reconcile.remove import Removal, remove_roles
from hoop_operator.reconcile.turn import look
from integration.roles import LIMITS, Roles, literal, make, quoted
from integration.tenant import eventually

PATIENT = replace(LIMITS, lock_seconds=20)
"""Who waits here waits for a lock that somebody lets go in the end."""

ANOTHER_PLAN = Identity("default", "another", "plan").comment


class Operator:
    """What one operator knows after its look at some roles."""

    def __init__(self, sessions: Sessions, fence: Fence) -> None:
        self.sessions = sessions
        self.fence = fence

    async def limit(self, *roles: DesiredRole, connections: int) -> None:
        """Change roles in one transaction, in a way that can be told afterwards."""
        async with self.fence.transaction([role.name for role in roles]) as transaction:
            for role in roles:
                await transaction.execute(f"ALTER ROLE {quoted(role.name)} CONNECTION LIMIT {connections}")


class Operators:
    """Any number of operators on one server."""

    def __init__(self, roles: Roles) -> None:
        self.roles = roles
        self._opened = AsyncExitStack()

    async def look(
        self, *desired: DesiredRole, connection: Connection | None = None, limits: Limits = PATIENT
    ) -> Operator:
        sessions = await self._opened.enter_async_context(
            open_sessions(connection or self.roles.connection, limits, lambda _: True)
        )
        async with sessions.transaction() as transaction:
            capabilities = await read_capabilities(transaction)
        server, _ = await look(sessions, capabilities, desired)
        return Operator(sessions, Fence(sessions, server, desired))

    async def close(self) -> None:
        await self._opened.aclose()


@pytest.fixture
async def operators(roles: Roles) -> AsyncIterator[Operators]:
    operators = Operators(roles)
    yield operators
    await operators.close()


@pytest.fixture
async def desired(roles: Roles) -> DesiredRole:
    """A plan's role, which exists."""
    role = roles.desired()
    await make(roles, role)
    return role


async def connection_limit(roles: Roles, role: DesiredRole) -> int:
    ((limit,),) = await roles.rows(
        "postgres", "SELECT rolconnlimit FROM pg_roles WHERE rolname = %(name)s", name=role.name
    )
    return int(limit)


@pytest.mark.parametrize(
    "meanwhile",
    [
        "COMMENT ON ROLE {role} IS {another}",
        "COMMENT ON ROLE {role} IS NULL",
        "COMMENT ON ROLE {role} IS {ours}",
        "DROP ROLE {role}",
        "DROP ROLE {role}; CREATE ROLE {role}",
        "DROP ROLE {role}; CREATE ROLE {role}; COMMENT ON ROLE {role} IS {ours}",
        "DROP ROLE {role}; CREATE ROLE {role}; COMMENT ON ROLE {role} IS {another}",
    ],
)
async def test_a_role_that_somebody_else_changed_since_the_look_is_left_as_it_is(
    operators: Operators, roles: Roles, desired: DesiredRole, meanwhile: str
) -> None:
    operator = await operators.look(desired)
    ours, another = literal(desired.identity.comment), literal(ANOTHER_PLAN)
    await roles.run("postgres", meanwhile.format(role=quoted(desired.name), ours=ours, another=another))
    query = (
        "SELECT oid, rolconnlimit, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %(name)s"
    )
    before = await roles.rows("postgres", query, name=desired.name)
    with pytest.raises(RolesChanged) as refusal:
        await operator.limit(desired, connections=7)
    assert refusal.value.names == {desired.name}
    assert await roles.rows("postgres", query, name=desired.name) == before


async def test_of_two_that_take_over_what_nobody_claims_the_later_one_finds_it_taken(
    operators: Operators, roles: Roles, desired: DesiredRole
) -> None:
    await roles.run("postgres", f"COMMENT ON ROLE {quoted(desired.name)} IS NULL")
    operator = await operators.look(desired)
    await roles.run("postgres", f"COMMENT ON ROLE {quoted(desired.name)} IS {literal(ANOTHER_PLAN)}")
    with pytest.raises(RolesChanged):
        await operator.limit(desired, connections=7)


async def test_a_fence_leaves_the_comment_as_it_is(
    operators: Operators, roles: Roles, desired: DesiredRole
) -> None:
    """Whether a role becomes a plan's is the plan's to say, and may be what its checks refused."""
    query = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = %(name)s"
    for comment in ("NULL", literal("somebody's")):
        await roles.run("postgres", f"COMMENT ON ROLE {quoted(desired.name)} IS {comment}")
        before = await roles.rows("postgres", query, name=desired.name)
        await (await operators.look(desired)).limit(desired, connections=7)
        assert await roles.rows("postgres", query, name=desired.name) == before


async def test_of_two_operators_one_waits_and_then_finds_its_look_outdated(
    operators: Operators, roles: Roles, desired: DesiredRole
) -> None:
    first, second = await operators.look(desired), await operators.look(desired)
    waiting: asyncio.Task[None] | None = None

    async def waits() -> bool:
        query = (
            "SELECT l.pid FROM pg_locks AS l JOIN pg_roles AS r ON r.oid = l.objid"
            " WHERE NOT l.granted AND l.classid = 'pg_authid'::regclass AND r.rolname = %(name)s"
        )
        return bool(await roles.rows("postgres", query, name=desired.name))

    # The lock is one for all databases.
    database = await roles.database()
    async with first.fence.transaction([desired.name], database) as transaction:
        waiting = asyncio.create_task(second.limit(desired, connections=8))
        await eventually(waits, what="the second operator waits")
        await transaction.execute(f"ALTER ROLE {quoted(desired.name)} CONNECTION LIMIT 7")
    with pytest.raises(RolesChanged):
        await waiting
    assert await connection_limit(roles, desired) == 7
    # Who was first goes on, and who looks again does.
    await first.limit(desired, connections=9)
    await (await operators.look(desired)).limit(desired, connections=10)
    with pytest.raises(RolesChanged):
        await first.limit(desired, connections=11)
    assert await connection_limit(roles, desired) == 10


@pytest.mark.parametrize("sessions", [1, 2, 4])
async def test_transactions_of_one_operator_never_wait_for_each_other_in_vain(
    operators: Operators, roles: Roles, sessions: int
) -> None:
    everything = [roles.desired(f"app{number}") for number in range(6)]
    for role in everything[:4]:
        await make(roles, role)
    databases = [await roles.database() for _ in range(4)]
    operator = await operators.look(*everything, limits=replace(PATIENT, sessions=sessions))
    async with operator.fence.transaction([role.name for role in everything]) as transaction:
        for role in everything[4:]:
            await transaction.execute(f"CREATE ROLE {quoted(role.name)}")
            await transaction.execute(
                f"COMMENT ON ROLE {quoted(role.name)} IS {literal(role.identity.comment)}"
            )
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        part = everything[number % 3 :] if number % 2 else everything[: 6 - number % 3]
        async with operator.fence.transaction([role.name for role in part], databases[number % 4]):
            most = max(most, operator.sessions._open)

    async with asyncio.timeout(60):
        await asyncio.gather(*map(work, range(12)))
    assert most <= max(2, sessions)


async def test_what_was_not_committed_while_leading_is_rolled_back(
    roles: Roles, desired: DesiredRole
) -> None:
    leading = True
    async with open_sessions(roles.connection, LIMITS, lambda _: True, lambda: leading) as sessions:
        async with sessions.transaction() as transaction:
            capabilities = await read_capabilities(transaction)
        server, _ = await look(sessions, capabilities, [desired])
        operator = Operator(sessions, Fence(sessions, server, [desired]))
        await operator.limit(desired, connections=7)
        leading = False
        with pytest.raises(NoLongerLeading):
            await operator.limit(desired, connections=8)
    assert await connection_limit(roles, desired) == 7


async def test_a_deletion_that_is_not_wanted_any_more_leaves_the_role_made_anew(
    operators: Operators, roles: Roles, desired: DesiredRole
) -> None:
    """The API server is asked after the look: the role may be that of a plan made again under the same name."""
    operator = await operators.look(desired)
    async with operator.sessions.transaction() as transaction:
        capabilities = await read_capabilities(transaction)

    async def gone(role: DesiredRole) -> bool:
        return role.name != desired.name

    other = roles.desired("other")
    await make(roles, other)
    outcomes = await remove_roles(Removal(operator.sessions, capabilities, gone), [desired, other])
    assert isinstance(outcomes[desired.name], RolesChanged)
    assert await roles.exists(desired.name)
    assert not await roles.exists(other.name)


async def test_a_deletion_stops_where_the_role_became_another_plans(
    operators: Operators, roles: Roles, desired: DesiredRole
) -> None:
    operator = await operators.look(desired)
    async with operator.sessions.transaction() as transaction:
        capabilities = await read_capabilities(transaction)

    async def taken_over_meanwhile(role: DesiredRole) -> bool:
        await roles.run("postgres", f"COMMENT ON ROLE {quoted(role.name)} IS {literal(ANOTHER_PLAN)}")
        return True

    removal = Removal(operator.sessions, capabilities, taken_over_meanwhile)
    outcomes = await remove_roles(removal, [desired])
    assert isinstance(outcomes[desired.name], RolesChanged)
    (login,) = await roles.rows(
        "postgres", "SELECT rolcanlogin FROM pg_roles WHERE rolname = %(name)s", name=desired.name
    )
    assert login == (True,)


async def test_a_deletion_outwaits_who_is_about_to_commit_the_role(
    operators: Operators, roles: Roles
) -> None:
    """A leader that was frozen in its COMMIT is no leader any more, and no look shows what it makes."""
    roles.limits = PATIENT
    role = roles.desired("unborn")
    maker = await operators.look(role)

    async def waits() -> bool:
        query = (
            "SELECT FROM pg_stat_activity"
            " WHERE wait_event = 'transactionid' AND query LIKE 'CREATE ROLE %%' AND strpos(query, %(name)s) > 0"
        )
        return bool(await roles.rows("postgres", query, name=role.name))

    async with maker.fence.transaction([role.name]) as transaction:
        await transaction.execute(f"CREATE ROLE {quoted(role.name)}")
        await transaction.execute(f"COMMENT ON ROLE {quoted(role.name)} IS {literal(role.identity.comment)}")
        removal = asyncio.create_task(roles.remove(role))
        await eventually(waits, what="the removal waits")
    assert await removal is None
    assert not await roles.exists(role.name)
