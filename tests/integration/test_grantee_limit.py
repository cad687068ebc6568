"""As many grantees as the row of a table has room for, and no more: said before the server has to refuse.

pg_class has no TOAST table, so a table's whole ACL has to fit into one row, compressed. Roles get their OIDs one after
the other here; the more these differ, the fewer entries fit.
"""

from collections.abc import AsyncIterator

import pytest

from hoop_operator.errors import PlanReason
from hoop_operator.planner.acl_size import ENTRIES_KEPT_FREE
from hoop_operator.reconcile.inbox import PLANS_PER_TURN
from integration.administrator import Administrator
from integration.roles import Roles, messages, quoted
from integration.tenant import Tenant

CROWD = 2300
"""Grantees after which there is no room left for all the plans of a turn."""


@pytest.fixture
async def roles(admin: Administrator) -> AsyncIterator[Roles]:
    roles = Roles(admin)
    yield roles
    await roles.close()


class Crowd:
    """Roles in great number."""

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self._names = [f"crowd_{roles.suffix}_{number}" for number in range(CROWD + PLANS_PER_TURN)]

    async def come(self) -> None:
        await self._each("CREATE ROLE %I")

    async def leave(self) -> None:
        await self._each("DROP ROLE %I")

    async def be_granted(self, database: str, grant: str, first: int = 0, last: int = CROWD) -> None:
        """Run a statement up to its TO for some of them."""
        await self._roles.run(database, f"{grant} TO {', '.join(map(quoted, self._names[first:last]))}")

    async def _each(self, statement: str) -> None:
        names = ", ".join(f"'{name}'" for name in self._names)
        await self._roles.run(
            "postgres",
            f"DO $$ DECLARE name text; BEGIN FOREACH name IN ARRAY ARRAY[{names}] LOOP "
            f"EXECUTE format('{statement}', name); END LOOP; END $$",
        )


@pytest.fixture
async def crowd(roles: Roles, admin: Administrator) -> AsyncIterator[Crowd]:
    crowd = Crowd(roles)
    await crowd.come()
    yield crowd
    for database in roles.databases:
        await roles.run("postgres", f"DROP DATABASE {quoted(database)} WITH (FORCE)")
    await crowd.leave()


@pytest.mark.parametrize(
    ("create", "grant", "named"),
    [
        ("CREATE TABLE full_one ()", "GRANT SELECT ON full_one", 'table "public"."full_one"'),
        (
            "CREATE SEQUENCE full_one",
            "GRANT USAGE, SELECT ON SEQUENCE full_one",
            'sequence "public"."full_one"',
        ),
        (
            "SELECT",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES",
            'what "postgres" will create in schema "public"',
        ),
    ],
    ids=["table", "sequence", "default privileges"],
)
async def test_a_full_acl_is_told_before_anything_is_granted_and_who_is_in_it_already_stays(
    roles: Roles, crowd: Crowd, create: str, grant: str, named: str
) -> None:
    database = await roles.database()
    await roles.run(database, create, "CREATE TABLE beside ()")
    early = roles.desired("early", [database], ["SELECT", "INSERT"])
    await roles.settle(early)
    await crowd.be_granted(database, grant)

    late = roles.desired("late", [database], ["SELECT", "INSERT"])
    planned = await roles.apply(late)
    (message,) = messages(planned, PlanReason.APPLY_FAILED)
    for part in (named, database, " grantees already", "group role (NOLOGIN)", "external", "spec.sourceRole"):
        assert part in message
    assert planned.statements == ()
    again = await roles.plan(early)
    assert (again.problems, again.statements) == ((), ())


async def test_when_it_is_told_all_the_plans_of_a_turn_still_fit(roles: Roles, crowd: Crowd) -> None:
    assert ENTRIES_KEPT_FREE >= PLANS_PER_TURN
    database = await roles.database()
    await roles.run(database, "CREATE TABLE t ()")
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    granted = 0
    while not (await roles.plan(desired)).problems:
        await crowd.be_granted(database, "GRANT SELECT ON t", granted, granted + 50)
        granted += 50

    await crowd.be_granted(database, "GRANT SELECT ON t", granted - 50, granted - 50 + PLANS_PER_TURN)

    assert granted + PLANS_PER_TURN > 2400


async def test_what_the_server_refuses_for_its_size_has_the_same_remedy(
    tenant: Tenant, resource: str, admin: Administrator, database: str
) -> None:
    session = await admin.connect(database)
    # The bound of a partition is in the row too; this one leaves no room for anything else.
    await session.execute("CREATE TABLE parted (a text) PARTITION BY LIST (a)")
    await session.execute("""
        DO $$ DECLARE bound text := ''; step int := 4096; wider text; BEGIN
            WHILE step > 0 LOOP
                SELECT bound || string_agg(', ' || quote_literal(step + n), '') INTO wider
                  FROM generate_series(1, step) n;
                BEGIN
                    EXECUTE format('CREATE TABLE part PARTITION OF parted FOR VALUES IN (0%s)', wider);
                    DROP TABLE part;
                    bound := wider;
                EXCEPTION WHEN program_limit_exceeded THEN NULL;
                END;
                step := step / 2;
            END LOOP;
            EXECUTE format('CREATE TABLE part PARTITION OF parted FOR VALUES IN (0%s)', bound);
        END $$
    """)
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    (plan,) = (await tenant.until_plans(["ro"], "ApplyFailed")).values()
    for part in ("grantees", "group role (NOLOGIN)", "external", "row is too big"):
        assert part in plan["status"]["message"]
