"""What a removal leaves on a real server: all data, all grants of others, and no way to anybody's rights."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from hoop_operator.crd import Privilege
from hoop_operator.errors import PlanReason
from integration.administrator import Administrator
from integration.roles import Roles, fill, quoted

ALL = tuple(privilege.value for privilege in Privilege)


@pytest.fixture
async def roles(admin: Administrator) -> AsyncIterator[Roles]:
    roles = Roles(admin)
    yield roles
    await roles.close()


async def own_something(roles: Roles, database: str, role: str) -> None:
    """Have a role create one of each kind, with data, in a schema of its own and in public."""
    await roles.run(
        database,
        f"GRANT CREATE ON SCHEMA public TO {role}",
        f"GRANT CREATE ON DATABASE {quoted(database)} TO {role}",
        f"SET ROLE {role}",
        "CREATE SCHEMA its",
        "CREATE TABLE its.kept (id serial PRIMARY KEY, note text)",
        "INSERT INTO its.kept (note) SELECT 'row ' || n FROM generate_series(1, 10) n",
        "CREATE TABLE public.handed AS SELECT * FROM its.kept",
        "CREATE SEQUENCE its.numbers START 42",
        "CREATE VIEW its.seen AS SELECT * FROM its.kept",
        "CREATE MATERIALIZED VIEW its.stored AS SELECT * FROM its.kept",
        "CREATE FUNCTION its.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TYPE its.colour AS ENUM ('red')",
        "CREATE DOMAIN its.positive AS int",
        "SELECT lo_from_bytea(0, 'large')",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor",
        "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC",
        "ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM PUBLIC",
        f"ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM {role}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA its GRANT SELECT ON TABLES TO {role}",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA its GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        "GRANT SELECT ON its.kept TO pg_monitor",
        "RESET ROLE",
        f"REVOKE CREATE ON SCHEMA public FROM {role}",
        f"REVOKE CREATE ON DATABASE {quoted(database)} FROM {role}",
    )


async def test_removal_gives_away_what_the_role_owns_in_every_database_and_keeps_all_data(
    roles: Roles,
) -> None:
    first, second, third = [await roles.database() for _ in range(3)]
    owner, member, other = [await roles.role(label) for label in ("owner", "member", "other")]
    await roles.run("postgres", f"ALTER DATABASE {quoted(first)} OWNER TO {quoted(owner)}")
    await fill(roles, first)
    desired = roles.desired(scopes=[first], privileges=ALL)
    await roles.settle(desired)
    role = quoted(desired.name)
    for database in (first, second):
        await own_something(roles, database, role)
    await roles.run(
        "postgres",
        f"ALTER DATABASE {quoted(third)} OWNER TO {role}",
        f"GRANT {role} TO {quoted(member)} WITH ADMIN OPTION",
        f"SET ROLE {quoted(member)}; GRANT {role} TO {quoted(other)}; RESET ROLE",
        f"ALTER ROLE {role} SET work_mem = '7MB'",
    )
    await roles.run(third, f"SET ROLE {role}; CREATE TABLE mine (a int); RESET ROLE")
    session = await roles.login(desired.name, first)

    assert await roles.remove(desired) is None

    assert not await roles.exists(desired.name)
    with pytest.raises(psycopg.OperationalError):
        await session.execute("SELECT 1")
    for database, heir in ((first, owner), (second, "postgres"), (third, "postgres")):
        owners = await roles.rows(
            database,
            "SELECT DISTINCT pg_get_userbyid(o) FROM (SELECT relowner FROM pg_class WHERE oid >= 16384 AND relname IN "
            "('handed', 'numbers', 'stored', 'mine', 'kept_id_seq') UNION SELECT proowner FROM pg_proc WHERE "
            "proname = 'f' UNION SELECT typowner FROM pg_type WHERE typname IN ('colour', 'positive') UNION "
            "SELECT nspowner FROM pg_namespace WHERE nspname = 'its' UNION SELECT lomowner FROM "
            "pg_largeobject_metadata) x (o)",
        )
        assert owners == [(heir,)]
    for database in (first, second):
        assert await roles.rows(
            database,
            "SELECT (SELECT count(*) FROM its.kept), (SELECT count(*) FROM public.handed), "
            "(SELECT count(*) FROM its.seen), (SELECT count(*) FROM its.stored)",
        ) == [(10, 10, 10, 10)]
        assert await roles.rows(database, "SELECT nextval('its.numbers'), its.f()") == [(42, 1)]
        assert ("relation", "its.kept", "SELECT") in await roles.held(database, "pg_monitor")
    assert await roles.rows(
        "postgres", "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %(name)s", name=third
    ) == [("postgres",)]
    assert not await roles.rows(
        "postgres", "SELECT FROM pg_db_role_setting WHERE 'work_mem=7MB' = ANY (setconfig)"
    )


async def test_removal_takes_nothing_from_others(roles: Roles) -> None:
    database = await roles.database()
    await fill(roles, database)
    other = await roles.role("other")
    await roles.run(
        database,
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {quoted(other)}",
        f"ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {quoted(other)}",
    )
    desired = roles.desired(scopes=[database], privileges=ALL)
    before = await roles.others([database], desired.name)
    await roles.settle(desired)

    assert await roles.remove(desired) is None
    assert await roles.others([database], desired.name) == before


async def test_removal_is_blocked_and_says_why_by_a_policy_or_a_user_mapping_in_any_database(
    roles: Roles,
) -> None:
    database = await roles.database()
    await fill(roles, database)
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    await roles.settle(desired)
    role = quoted(desired.name)
    await roles.run(
        database, f"CREATE POLICY narrow ON plain TO {role}", f"CREATE USER MAPPING FOR {role} SERVER nowhere"
    )

    failure = await roles.remove(desired)

    assert isinstance(failure, Exception)
    assert failure.reason is PlanReason.DEPENDENT_OBJECTS
    for word in ("policy narrow", "user mapping", "nowhere", database):
        assert word in failure.message
    assert await roles.held(database, desired.name) == {("database", database, "CONNECT")}
    with pytest.raises(psycopg.OperationalError):
        await roles.login(desired.name, database)

    await roles.run(database, "DROP POLICY narrow ON plain", f"DROP USER MAPPING FOR {role} SERVER nowhere")
    assert await roles.remove(desired) is None


async def test_removal_waits_for_a_database_that_refuses_connections(roles: Roles) -> None:
    database = await roles.database()
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    await roles.settle(desired)
    await roles.run("postgres", f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS false")

    failure = await roles.remove(desired)

    assert isinstance(failure, Exception)
    assert failure.reason is PlanReason.DEPENDENT_OBJECTS
    assert database in failure.message
    await roles.run("postgres", f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS true")
    assert await roles.remove(desired) is None


async def test_removal_names_what_the_role_passed_on_and_goes_on_when_it_is_gone(roles: Roles) -> None:
    database = await roles.database()
    await fill(roles, database)
    other = await roles.role("other")
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    await roles.settle(desired)
    role = quoted(desired.name)
    await roles.run(
        database,
        f"GRANT SELECT ON plain TO {role} WITH GRANT OPTION",
        f"SET ROLE {role}; GRANT SELECT (note) ON plain TO {quoted(other)}; RESET ROLE",
    )

    failure = await roles.remove(desired)

    assert isinstance(failure, Exception)
    assert failure.reason is PlanReason.DEPENDENT_GRANTS
    await roles.run(database, failure.message.rpartition(" run: ")[2])
    assert await roles.remove(desired) is None


async def test_a_role_of_somebody_else_is_never_removed(roles: Roles) -> None:
    desired = roles.desired()
    await roles.run("postgres", f"CREATE ROLE {quoted(desired.name)}")

    assert isinstance(await roles.remove(desired), str)
    assert await roles.exists(desired.name)
