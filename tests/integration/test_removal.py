"""What a removal leaves on a real server: all data, all grants of others, and no way to anybody's rights."""

from typing import Any, LiteralString

import psycopg
import pytest

from hoop_operator.crd import Privilege
from hoop_operator.errors import PlanFailure, PlanReason
from hoop_operator.planner import removal
from hoop_operator.planner.model import DesiredRole
from hoop_operator.postgres.removal import read_hazards, read_prepared
from hoop_operator.postgres.session import Transaction
from hoop_operator.reconcile import remove
from integration.roles import Roles, fill, literal, make, quoted

ALL = tuple(privilege.value for privilege in Privilege)


MEMBERSHIPS_IN_ROLE: LiteralString = """
    SELECT pg_get_userbyid(member), pg_get_userbyid(grantor), admin_option, inherit_option, set_option
      FROM pg_auth_members WHERE roleid = (SELECT oid FROM pg_roles WHERE rolname = %(role)s)
"""
MEMBERSHIPS_IN_ROLE_BEFORE_16: LiteralString = """
    SELECT pg_get_userbyid(member), pg_get_userbyid(grantor), admin_option
      FROM pg_auth_members WHERE roleid = (SELECT oid FROM pg_roles WHERE rolname = %(role)s)
"""


async def refused(roles: Roles, desired: DesiredRole, reason: PlanReason) -> str:
    """Try to remove a role, in vain for this reason; returns the message."""
    failure = await roles.remove(desired)
    assert isinstance(failure, PlanFailure)
    assert failure.reason is reason, failure.message
    return failure.message


async def owner_of(roles: Roles, database: str, relation: str) -> str:
    ((owner,),) = await roles.rows(
        database,
        "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = %(relation)s::regclass",
        relation=relation,
    )
    assert isinstance(owner, str)
    return owner


async def memberships(roles: Roles, role: str) -> set[tuple[Any, ...]]:
    """All memberships in a role, without their OIDs."""
    query = MEMBERSHIPS_IN_ROLE if roles.version >= 16 else MEMBERSHIPS_IN_ROLE_BEFORE_16
    return {*map(tuple, await roles.rows("postgres", query, role=role))}


async def ordinary_admin(roles: Roles, database: str, options: LiteralString = "CREATEROLE") -> str:
    """Have a role that is no superuser, and owns a database, be the operator's admin."""
    admin = await roles.role("admin", options)
    await roles.run("postgres", f"ALTER DATABASE {quoted(database)} OWNER TO {quoted(admin)}")
    await roles.act_as(admin, database)
    return admin


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


@pytest.mark.parametrize("superuser", [True, False])
async def test_the_role_itself_cannot_hinder_its_removal_by_a_change_that_it_does_not_commit(
    roles: Roles, superuser: bool
) -> None:
    database = await roles.database()
    if not superuser:
        await ordinary_admin(roles, database)
    desired = roles.desired()
    await roles.settle(desired)
    session = await roles.login(desired.name, database)
    await session.execute("BEGIN")
    await session.execute("ALTER ROLE CURRENT_USER PASSWORD 'another'")
    assert await roles.remove(desired) is None
    assert not await roles.exists(desired.name)
    await session.close()


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


async def test_a_removed_role_leaves_every_database_but_the_one_that_takes_no_connections(
    roles: Roles,
) -> None:
    first, closed, last = [await roles.database() for _ in range(3)]
    desired = roles.desired(scopes=[first, closed, last], privileges=ALL)
    await roles.settle(desired)
    for database in (first, closed, last):
        await own_something(roles, database, quoted(desired.name))
    sessions = [await roles.login(desired.name, database) for database in (first, closed, last)]
    await roles.run("postgres", f"ALTER DATABASE {quoted(closed)} ALLOW_CONNECTIONS false")

    message = await refused(roles, desired, PlanReason.DEPENDENT_OBJECTS)

    assert f'"{closed}"' in message
    for session in sessions:
        with pytest.raises(psycopg.OperationalError):
            await session.execute("SELECT 1")
    assert await roles.rows(
        "postgres",
        "SELECT datname FROM pg_shdepend JOIN pg_database d ON d.oid = dbid WHERE refobjid = (SELECT oid FROM pg_roles "
        "WHERE rolname = %(role)s) GROUP BY 1",
        role=desired.name,
    ) == [(closed,)]
    for database in (first, last):
        assert await owner_of(roles, database, "its.kept") == "postgres"

    await roles.run("postgres", f"ALTER DATABASE {quoted(closed)} ALLOW_CONNECTIONS true")
    assert await roles.remove(desired) is None
    assert await roles.rows(closed, "SELECT count(*) FROM its.kept") == [(10,)]


async def test_a_role_that_cannot_be_removed_hinders_none_of_those_that_go_with_it(roles: Roles) -> None:
    database = await roles.database()
    admin = await ordinary_admin(roles, database)
    plain, owner, blocked, last = [roles.desired(label) for label in ("plain", "owner", "blocked", "last")]
    for desired in (plain, owner, blocked, last):
        await make(roles, desired)
    await own_something(roles, database, quoted(owner.name))
    await roles.run(
        database,
        "CREATE TABLE here (a int)",
        f"CREATE POLICY narrow ON here TO {quoted(blocked.name)}",
    )
    session = await roles.login(last.name, database)

    outcomes = await roles.remove_together([plain, owner, blocked, last])

    assert [outcomes[desired.name] for desired in (plain, owner, last)] == [None] * 3
    failure = outcomes[blocked.name]
    assert isinstance(failure, PlanFailure)
    assert failure.reason is PlanReason.DEPENDENT_OBJECTS
    assert await owner_of(roles, database, "its.kept") == admin
    with pytest.raises(psycopg.OperationalError):
        await session.execute("SELECT 1")


LOCALES: dict[str, LiteralString] = {
    "C": "LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    "ICU": "LOCALE_PROVIDER icu ICU_LOCALE 'de' TEMPLATE template0",
    "a template": "IS_TEMPLATE true",
}


@pytest.mark.parametrize("name", ["plain", 'quo"te', "do.t UPPER", "per%cent 数据库"])
@pytest.mark.parametrize("options", LOCALES.values(), ids=LOCALES.keys())
async def test_removal_knows_databases_of_every_name_locale_and_use(
    roles: Roles, name: str, options: LiteralString
) -> None:
    database = f"{name}_{roles.suffix}"
    try:
        await roles.run("postgres", f"CREATE DATABASE {quoted(database)} {options}")
    except (psycopg.errors.FeatureNotSupported, psycopg.errors.SyntaxError) as refusal:
        pytest.skip(f"this server has no ICU databases: {refusal}")
    roles.databases.append(database)
    desired = roles.desired()
    role = await make(roles, desired)
    await own_something(roles, database, role)

    assert await roles.remove(desired) is None

    await roles.run("postgres", f"ALTER DATABASE {quoted(database)} IS_TEMPLATE false")
    assert await owner_of(roles, database, "its.kept") == "postgres"


@pytest.mark.parametrize("change", ["DROP DATABASE {}", "ALTER DATABASE {} RENAME TO {}"])
async def test_a_database_that_is_dropped_or_renamed_meanwhile_hinders_no_removal(
    roles: Roles, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    kept, moved = await roles.database(), await roles.database()
    renamed = f"renamed_{roles.suffix}"
    roles.databases.append(renamed)
    desired = roles.desired()
    role = await make(roles, desired)
    for database in (kept, moved):
        await own_something(roles, database, role)

    async def look_and_change(*arguments: Any) -> list[tuple[str, str, str]]:
        monkeypatch.undo()
        await roles.run("postgres", change.format(quoted(moved), quoted(renamed)))
        return await read_prepared(*arguments)

    monkeypatch.setattr(remove, "read_prepared", look_and_change)

    first = await roles.remove(desired)

    assert await owner_of(roles, kept, "its.kept") == "postgres"
    if "RENAME" in change:
        # It was not known by that name when its turn came.
        assert isinstance(first, PlanFailure)
        assert await roles.remove(desired) is None
        assert await owner_of(roles, renamed, "its.kept") == "postgres"
    else:
        assert first is None


async def test_a_schema_renamed_meanwhile_goes_with_all_that_is_in_it(
    roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await roles.database()
    desired = roles.desired()
    role = await make(roles, desired)
    await own_something(roles, database, role)

    async def look_and_rename(*arguments: Any) -> list[tuple[str, str, str]]:
        monkeypatch.undo()
        await roles.run(database, "ALTER SCHEMA its RENAME TO theirs")
        return await read_prepared(*arguments)

    monkeypatch.setattr(remove, "read_prepared", look_and_rename)

    if await roles.remove(desired) is not None:
        assert await roles.remove(desired) is None
    assert await owner_of(roles, database, "theirs.kept") == "postgres"


async def test_a_role_that_an_extension_came_to_know_by_default_privileges_is_removed(roles: Roles) -> None:
    database = await roles.database()
    await roles.run(database, "CREATE TABLE plain (a int)")
    one, other = (
        roles.desired(label, scopes=[database], privileges=["SELECT"]) for label in ("one", "other")
    )
    for desired in (one, other):
        await roles.settle(desired)
    await roles.run(database, "CREATE EXTENSION pg_stat_statements")

    assert await roles.remove_together([one, other]) == {one.name: None, other.name: None}


async def test_an_ordinary_admin_removes_a_role_that_an_extension_knows(roles: Roles) -> None:
    database, admin = await roles.database(), await roles.role("admin", "CREATEROLE")
    await roles.run(
        database,
        f"ALTER DATABASE {quoted(database)} OWNER TO {quoted(admin)}",
        f"CREATE SCHEMA shop AUTHORIZATION {quoted(admin)}",
        f"CREATE TABLE shop.items (a int); ALTER TABLE shop.items OWNER TO {quoted(admin)}",
    )
    await roles.act_as(admin, database)
    desired = roles.desired(scopes=[f"{database}.shop"], privileges=["SELECT"])
    await roles.settle(desired)
    await roles.run(database, "CREATE EXTENSION citext", "ALTER EXTENSION citext ADD TABLE shop.items")

    assert await roles.remove(desired) is None


async def test_prepared_transactions_block_removal_by_name_and_by_nothing_else(roles: Roles) -> None:
    first, second, other = [await roles.database() for _ in range(3)]
    desired = roles.desired(scopes=[first, second, other], privileges=["SELECT", "CREATE"])
    await roles.settle(desired)
    gids = {first: f"it's one {roles.suffix}", second: f"two {roles.suffix}"}
    for database in (first, second, other):
        async with await roles.login(desired.name, database) as session:
            await session.execute("CREATE TABLE made (a int)")
            if database in gids:
                await session.execute("BEGIN; LOCK TABLE made; CREATE TABLE more (a int)")
                await session.execute(f"PREPARE TRANSACTION {literal(gids[database])}".encode())

    message = await refused(roles, desired, PlanReason.DEPENDENT_OBJECTS)

    for database, gid in gids.items():
        assert f'{literal(gid)} in database "{database}"' in message
        assert f"COMMIT PREPARED {literal(gid)};" in message
    assert await owner_of(roles, other, "made") == "postgres"
    await roles.run(first, f"COMMIT PREPARED {literal(gids[first])}")
    message = await refused(roles, desired, PlanReason.DEPENDENT_OBJECTS)
    await roles.run(second, message.rpartition(" run: ")[2])
    assert await roles.remove(desired) is None
    assert await owner_of(roles, first, "more") == "postgres"


async def test_a_prepared_transaction_that_keeps_the_role_from_being_locked_out_is_named(
    roles: Roles,
) -> None:
    database = await roles.database()
    desired = roles.desired()
    await roles.settle(desired)
    gid = f"own {roles.suffix}"
    async with await roles.login(desired.name, database) as session:
        await session.execute("BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'another'")
        await session.execute(f"PREPARE TRANSACTION {literal(gid)}".encode())
    message = await refused(roles, desired, PlanReason.DEPENDENT_OBJECTS)
    assert f'{literal(gid)} in database "{database}"' in message
    await roles.run(database, message.rpartition(" run: ")[2])
    assert await roles.remove(desired) is None


async def test_an_ordinary_admin_removes_what_it_created_with_all_that_it_owns(roles: Roles) -> None:
    database, owned = await roles.database(), await roles.database()
    admin = await ordinary_admin(roles, database, "CREATEROLE CREATEDB")
    desired = roles.desired(scopes=[database], privileges=["CREATE", "SELECT"])
    await roles.run(database, f"ALTER SCHEMA public OWNER TO {quoted(admin)}")
    await roles.settle(desired)
    role = quoted(desired.name)
    for name in (database, owned):
        await own_something(roles, name, role)
    await roles.run("postgres", f"ALTER DATABASE {quoted(owned)} OWNER TO {role}")
    await roles.run(
        database,
        f"GRANT CREATE ON DATABASE {quoted(database)} TO {role}",
        f"GRANT CREATE ON SCHEMA public TO {role}",
        f"SET ROLE {role}; CREATE TABLE public.early (a int); CREATE SCHEMA late",
        "ALTER TABLE public.early SET SCHEMA late",
    )
    session = await roles.login(desired.name, database)

    assert await roles.remove(desired) is None

    with pytest.raises(psycopg.OperationalError):
        await session.execute("SELECT 1")
    for name, relation in ((database, "its.kept"), (database, "late.early"), (owned, "its.kept")):
        assert await owner_of(roles, name, relation) == admin
    assert await roles.rows(owned, "SELECT count(*) FROM its.kept") == [(10,)]


MEMBERSHIPS: dict[str, tuple[LiteralString, ...]] = {
    "none": (),
    "one from an administrator": ("GRANT {role} TO {admin}",),
    "with ADMIN": ("GRANT {role} TO {admin} WITH ADMIN OPTION",),
}
MEMBERSHIPS_SINCE_16: dict[str, tuple[LiteralString, ...]] = {
    "one of its own": ("SET ROLE {admin}", "GRANT {role} TO {admin} WITH INHERIT TRUE, SET TRUE"),
    "ADMIN by way of a group alone": (
        "GRANT {role} TO {group} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE",
        "GRANT {group} TO {admin}",
        "REVOKE {role} FROM {admin}",
    ),
    "half of its own": ("SET ROLE {admin}", "GRANT {role} TO {admin} WITH INHERIT FALSE, SET TRUE"),
}


@pytest.mark.parametrize(
    "before",
    [*MEMBERSHIPS.values(), *MEMBERSHIPS_SINCE_16.values()],
    ids=[*MEMBERSHIPS, *MEMBERSHIPS_SINCE_16],
)
async def test_the_admin_keeps_the_memberships_that_it_had_and_no_others(
    roles: Roles, before: tuple[str, ...]
) -> None:
    if roles.version < 16 and before in MEMBERSHIPS_SINCE_16.values():
        pytest.skip("memberships have no options and no grantor of their own before version 16")
    database = await roles.database()
    admin = await ordinary_admin(roles, database)
    group = quoted(await roles.role("group"))
    desired = roles.desired()
    role = await make(roles, desired)
    await own_something(roles, database, role)
    await roles.run(
        database,
        *(statement.format(role=role, admin=quoted(admin), group=group) for statement in before),
        "RESET ROLE",
        "CREATE TABLE plain (a int)",
        f"CREATE POLICY narrow ON plain TO {role}",
    )
    had = await memberships(roles, desired.name)

    await refused(roles, desired, PlanReason.DEPENDENT_OBJECTS)

    assert await owner_of(roles, database, "its.kept") == admin
    assert await memberships(roles, desired.name) == had
    await roles.run(database, "DROP POLICY narrow ON plain")
    assert await roles.remove(desired) is None


async def test_what_an_ordinary_admin_may_not_give_away_comes_with_the_sql_that_does_it(
    roles: Roles,
) -> None:
    home, others, superusers, owned = [await roles.database() for _ in range(4)]
    admin = await ordinary_admin(roles, home)
    owner = await roles.role("owner")
    await roles.run("postgres", f"ALTER DATABASE {quoted(others)} OWNER TO {quoted(owner)}")
    desired = roles.desired()
    role = await make(roles, desired)
    for database in (home, others, superusers):
        await own_something(roles, database, role)
    await roles.run("postgres", f"ALTER DATABASE {quoted(owned)} OWNER TO {role}")

    message = await refused(roles, desired, PlanReason.INSUFFICIENT_PRIVILEGE)
    assert message.endswith(f" run: ALTER DATABASE {quoted(owned)} OWNER TO {quoted(admin)};")
    await roles.run("postgres", message.rpartition(" run: ")[2])
    message = await refused(roles, desired, PlanReason.INSUFFICIENT_PRIVILEGE)

    assert await owner_of(roles, home, "its.kept") == admin
    for database, heir in ((others, owner), (superusers, "postgres")):
        statement = f"REASSIGN OWNED BY {role} TO {quoted(heir)};"
        assert f'to database "{database}" and run: {statement}' in message + ";"
        await roles.run(database, statement)
    assert await roles.remove(desired) is None


async def test_members_that_an_ordinary_admin_may_not_expel_leave_with_the_role(roles: Roles) -> None:
    database = await roles.database()
    await ordinary_admin(roles, database)
    member, further = await roles.role("member"), await roles.role("further")
    desired = roles.desired()
    role = await make(roles, desired)
    await roles.run(
        "postgres",
        f"GRANT {role} TO {quoted(member)} WITH ADMIN OPTION",
        f"SET ROLE {quoted(member)}; GRANT {role} TO {quoted(further)}",
    )

    assert await roles.remove(desired) is None
    assert not await roles.exists(desired.name)


async def test_memberships_that_the_role_granted_are_named_and_not_cascaded(roles: Roles) -> None:
    group, member = await roles.role("group"), await roles.role("member")
    desired = roles.desired()
    role = await make(roles, desired)
    await roles.run(
        "postgres",
        f"GRANT {quoted(group)} TO {role} WITH ADMIN OPTION",
        f"SET ROLE {role}; GRANT {quoted(group)} TO {quoted(member)}",
    )

    if roles.version >= 16:
        message = await refused(roles, desired, PlanReason.DEPENDENT_GRANTS)
        assert await memberships(roles, group)
        await roles.run("postgres", message.rpartition(" run: ")[2])
    assert await roles.remove(desired) is None
    assert {row[0] for row in await memberships(roles, group)} == ({member} if roles.version < 16 else set())


async def test_the_admin_never_joins_a_role_of_iam_logins_and_says_what_it_may_not_do(
    roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = await roles.database()
    admin = await ordinary_admin(roles, database)
    iam, group = await roles.role("iam"), await roles.role("group")
    monkeypatch.setattr(removal, "IAM_LOGIN_ROLE", iam)
    desired = roles.desired()
    role = await make(roles, desired)
    await roles.run(
        database,
        f"GRANT {quoted(iam)} TO {quoted(group)}; GRANT {quoted(group)} TO {role}",
        f"CREATE SCHEMA s AUTHORIZATION {quoted(admin)}; GRANT CREATE ON SCHEMA s TO {role}",
        f"SET ROLE {role}; CREATE TABLE s.made (a int)",
    )
    session = await roles.login(desired.name, database)

    message = await refused(roles, desired, PlanReason.INSUFFICIENT_PRIVILEGE)

    assert f"may not end the open sessions of role {desired.name}" in message
    await session.execute("SELECT 1")
    await roles.run("postgres", message.rpartition(" run: ")[2])
    with pytest.raises(psycopg.OperationalError):
        await session.execute("SELECT 1")
    message = await refused(roles, desired, PlanReason.INSUFFICIENT_PRIVILEGE)
    await roles.run(database, message.rpartition(" run: ")[2])
    assert await owner_of(roles, database, "s.made") == admin
    assert await roles.remove(desired) is None


BEYOND = "and would do it with the rights of"
TO_RUN = "is SECURITY DEFINER and would run with the rights of"
CALLED = "would be called with the rights of"

CODE = (
    "CREATE FUNCTION code(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1; END'",
    "CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "CREATE TABLE own (id int PRIMARY KEY, note text)",
    "CREATE VIEW usual AS SELECT * FROM readable",
)
HAZARDS: dict[str, tuple[str, ...]] = {
    "a SECURITY DEFINER function": (
        TO_RUN,
        "CREATE FUNCTION trap() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
    ),
    "a SECURITY DEFINER procedure": (
        TO_RUN,
        "CREATE PROCEDURE trap(IN int, INOUT own) LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN END'",
    ),
    "a view on a catalog": (BEYOND, "CREATE VIEW trap AS SELECT * FROM pg_authid"),
    "a view that names no column": (BEYOND, "CREATE VIEW trap AS SELECT count(*) FROM kept_from_it"),
    "a view on one column too many": (
        BEYOND,
        "CREATE VIEW trap AS SELECT readable, t FROM partly_readable t",
    ),
    "a view with a subquery": (
        BEYOND,
        "CREATE VIEW trap AS SELECT * FROM own WHERE id IN (WITH w AS (SELECT a FROM kept_from_it) TABLE w)",
    ),
    "a view that locks": (BEYOND, "CREATE VIEW trap AS SELECT * FROM readable FOR UPDATE"),
    "a view to write through": (
        BEYOND,
        "CREATE VIEW between AS SELECT * FROM readable",
        "CREATE VIEW trap AS SELECT * FROM between",
        "GRANT INSERT ON trap TO PUBLIC",
    ),
    "a view of a foreign table": (BEYOND, "CREATE VIEW trap AS SELECT * FROM abroad"),
    "a view of a table with a foreign part": (BEYOND, "CREATE VIEW trap AS SELECT * FROM partly_abroad"),
    "a materialized view": (
        BEYOND,
        "CREATE MATERIALIZED VIEW trap AS SELECT * FROM kept_from_it WITH NO DATA",
    ),
    "a materialized view of a server file": (
        BEYOND,
        "CREATE MATERIALIZED VIEW trap AS SELECT pg_read_file('PG_VERSION') WITH NO DATA",
    ),
    "a materialized view of SQL in a text": (
        BEYOND,
        "CREATE MATERIALIZED VIEW trap AS SELECT * FROM ts_stat('SELECT NULL::tsvector') WITH NO DATA",
    ),
    "a materialized view of its code": (CALLED, "CREATE MATERIALIZED VIEW trap AS SELECT code(id) FROM own"),
    "a materialized view of its aggregate": (
        CALLED,
        "CREATE FUNCTION add(int, int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 1; END'",
        "CREATE AGGREGATE summed(int) (SFUNC = add, STYPE = int, INITCOND = '0')",
        "CREATE MATERIALIZED VIEW trap AS SELECT summed(id) FROM own",
    ),
    "a materialized view of a view of its code": (
        CALLED,
        "CREATE VIEW between AS SELECT code(id) FROM own",
        "CREATE MATERIALIZED VIEW trap AS SELECT * FROM between",
    ),
    "a rule": (BEYOND, "CREATE RULE trap AS ON INSERT TO own DO ALSO INSERT INTO readable VALUES (NEW.id)"),
    "an index on an expression": (CALLED, "CREATE INDEX trap ON own (code(id))"),
    "an index with a predicate": (CALLED, "CREATE INDEX trap ON own (id) WHERE code(id) > 0"),
    "an index by an operator": (
        CALLED,
        "CREATE FUNCTION less(int, text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END'",
        "CREATE OPERATOR <<< (LEFTARG = int, RIGHTARG = text, FUNCTION = less)",
        "CREATE INDEX trap ON own ((id <<< note))",
    ),
    "an index by a domain": (
        CALLED,
        "CREATE DOMAIN checked AS int CHECK (code(VALUE) > 0)",
        "CREATE INDEX trap ON own ((id::checked))",
    ),
    "an index by a domain of SQL in a text": (
        BEYOND,
        "CREATE DOMAIN checked AS int CHECK (numnode(ts_rewrite('a', 'SELECT NULL, NULL')) < VALUE)",
        "CREATE INDEX trap ON own ((id::checked))",
    ),
    "an exclusion": (CALLED, "ALTER TABLE own ADD CONSTRAINT trap EXCLUDE ((code(id)) WITH =)"),
    "extended statistics": (CALLED, "CREATE STATISTICS trap ON note, (code(id)) FROM own"),
    "a range type that is analysed": (
        CALLED,
        "CREATE FUNCTION far(int, int) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 1; END'",
        "CREATE TYPE span AS RANGE (SUBTYPE = int, SUBTYPE_DIFF = far)",
        "CREATE TABLE trap (a span)",
    ),
    "a trigger behind a cascade": (
        CALLED,
        "CREATE TABLE trap (id int REFERENCES own ON DELETE CASCADE)",
        "CREATE TRIGGER fires AFTER DELETE ON trap FOR EACH ROW EXECUTE FUNCTION fired()",
        "GRANT DELETE ON own TO PUBLIC",
    ),
    "a trigger behind two cascades": (
        CALLED,
        "CREATE TABLE between (id int PRIMARY KEY REFERENCES own ON DELETE CASCADE)",
        "CREATE TABLE trap (id int REFERENCES between ON DELETE SET NULL)",
        "CREATE TRIGGER fires AFTER UPDATE ON trap FOR EACH ROW EXECUTE FUNCTION fired()",
        "GRANT DELETE ON own TO PUBLIC",
    ),
    "a check behind a cascade": (
        CALLED,
        "CREATE TABLE trap (id int REFERENCES own ON UPDATE CASCADE CHECK (code(id) > 0))",
        "GRANT UPDATE (id) ON own TO PUBLIC",
    ),
    "a rule behind a cascade": (
        CALLED,
        "CREATE TABLE trap (id int REFERENCES own ON DELETE CASCADE)",
        "CREATE RULE calls AS ON DELETE TO trap DO ALSO SELECT code(OLD.id)",
        "GRANT DELETE ON own TO PUBLIC",
    ),
    "a default of SQL in a text behind a cascade": (
        BEYOND,
        "CREATE TABLE trap (id int REFERENCES own ON DELETE SET DEFAULT)",
        "ALTER TABLE trap ALTER id SET DEFAULT numnode(ts_rewrite('a', 'SELECT NULL, NULL'))",
        "GRANT DELETE ON own TO PUBLIC",
    ),
    "a cast for a foreign key": (
        CALLED,
        "CREATE TYPE alike AS (a int)",
        "CREATE FUNCTION as_int(alike) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 1; END'",
        "CREATE CAST (alike AS int) WITH FUNCTION as_int AS IMPLICIT",
        "CREATE TABLE trap (a alike REFERENCES own)",
    ),
}


@pytest.fixture
async def prepared(roles: Roles) -> str:
    """A database with things that a role with CREATE there may read, and others that it may not."""
    database = await roles.database()
    await roles.run(
        database,
        "CREATE TABLE readable (a int)",
        "CREATE TABLE partly_readable (readable int, confidential int)",
        "CREATE TABLE kept_from_it (a int)",
        "CREATE FOREIGN DATA WRAPPER nothing",
        "CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing",
        "CREATE TABLE partly_abroad (id int) PARTITION BY RANGE (id)",
        "CREATE FOREIGN TABLE abroad PARTITION OF partly_abroad DEFAULT SERVER nowhere",
    )
    return database


async def writing(roles: Roles, database: str, *statements: str) -> DesiredRole:
    """A role that may create and has run statements, in an existing database."""
    desired = roles.desired(scopes=[database], privileges=["CREATE"])
    await roles.settle(desired)
    role = quoted(desired.name)
    await roles.run(
        database,
        f"GRANT SELECT ON readable, partly_abroad, abroad TO {role}",
        f"GRANT SELECT (readable) ON partly_readable TO {role}",
        f"SET ROLE {role}",
        *CODE,
        *statements,
    )
    return desired


async def run_remedies(roles: Roles, database: str, message: str) -> None:
    """Run the SQL of every problem in a message."""
    await roles.run(database, *(remedy.partition(";")[0] for remedy in message.split(" run: ")[1:]))


@pytest.mark.parametrize(("words", "statements"), [(w, s) for w, *s in HAZARDS.values()], ids=HAZARDS.keys())
async def test_what_a_removed_role_wrote_never_works_with_the_rights_of_its_heir(
    roles: Roles, prepared: str, words: str, statements: list[str]
) -> None:
    desired = await writing(roles, prepared, *statements)
    held = await roles.held(prepared, desired.name)

    await refused(roles, desired, PlanReason.DEPENDENT_OBJECTS)
    message = await refused(roles, desired, PlanReason.DEPENDENT_OBJECTS)

    assert words in message
    assert await owner_of(roles, prepared, "own") == desired.name
    assert await roles.held(prepared, desired.name) == held
    with pytest.raises(psycopg.OperationalError):
        await roles.login(desired.name, prepared)

    await run_remedies(roles, prepared, message)
    if "between" in message:
        # What reads that one is next.
        await run_remedies(roles, prepared, await refused(roles, desired, PlanReason.DEPENDENT_OBJECTS))
    assert await roles.remove(desired) is None
    assert await owner_of(roles, prepared, "own") == "postgres"


async def test_an_owner_of_a_database_who_is_no_superuser_is_protected_alike(
    roles: Roles, prepared: str
) -> None:
    owner = await roles.role("owner")
    await roles.run("postgres", f"ALTER DATABASE {quoted(prepared)} OWNER TO {quoted(owner)}")
    desired = await writing(
        roles,
        prepared,
        "CREATE FUNCTION trap() RETURNS name LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user'",
    )

    message = await refused(roles, desired, PlanReason.DEPENDENT_OBJECTS)
    stranger = quoted(await roles.role("stranger"))
    session = await roles.administrator.connect(prepared)
    await session.execute(f"SET ROLE {stranger}".encode())
    trap = "SELECT public.trap()"
    assert await (await session.execute(trap.encode())).fetchall() == [(desired.name,)]
    await roles.run(prepared, message.rpartition(" run: ")[2])
    assert await roles.remove(desired) is None
    assert await (await session.execute(trap.encode())).fetchall() == [(stranger.strip('"'),)]


ORDINARY = (
    "CREATE FUNCTION plain() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE VIEW on_own AS SELECT *, code(id) FROM own",
    "CREATE VIEW on_readable AS SELECT r.* FROM readable r JOIN own ON own.id = r.a",
    "CREATE VIEW on_view AS SELECT count(*) FROM on_readable",
    "CREATE VIEW on_catalogs AS SELECT usename FROM pg_stat_activity JOIN pg_class ON true",
    "GRANT SELECT ON on_readable TO PUBLIC",
    "GRANT ALL ON on_own TO PUBLIC",
    "CREATE MATERIALIZED VIEW stored AS SELECT lower(note), count(*) FROM own, readable GROUP BY 1",
    "CREATE RULE logged AS ON UPDATE TO own DO ALSO DELETE FROM own WHERE id < 0",
    "CREATE INDEX ON own (lower(note)) WHERE length(note) > 3",
    "CREATE INDEX ON own (trusted(id), (code_of_owner(id)))",
    "CREATE STATISTICS plain_columns ON id, note FROM own",
    "CREATE TABLE child (id int REFERENCES own ON DELETE CASCADE CHECK (code(id) > 0), span int4range)",
    "CREATE TRIGGER touched AFTER DELETE ON child FOR EACH ROW EXECUTE FUNCTION fired()",
    "GRANT SELECT, INSERT ON own, child TO PUBLIC",
    "CREATE DOMAIN checked AS int CHECK (code(VALUE) > 0)",
    "CREATE TABLE with_domain (a checked, b int DEFAULT code(1), c int GENERATED ALWAYS AS (code(a)) STORED)",
)


async def test_what_an_ordinary_application_made_is_given_away_as_it_is(roles: Roles, prepared: str) -> None:
    owner = await roles.role("owner")
    await roles.run("postgres", f"ALTER DATABASE {quoted(prepared)} OWNER TO {quoted(owner)}")
    await roles.run(
        prepared,
        "CREATE FUNCTION trusted(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'",
        "CREATE FUNCTION code_of_owner(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'",
        f"ALTER FUNCTION code_of_owner OWNER TO {quoted(owner)}",
    )
    invoker = "CREATE VIEW cautious WITH (security_invoker) AS SELECT * FROM kept_from_it"
    desired = await writing(roles, prepared, *ORDINARY, *([invoker] if roles.version >= 15 else []))
    await roles.run(prepared, f"GRANT {quoted(owner)} TO pg_monitor")

    assert await roles.remove(desired) is None

    for relation in ("own", "on_own", "on_readable", "stored", "child"):
        assert await owner_of(roles, prepared, relation) == owner


async def test_what_is_written_as_the_role_while_it_is_removed_is_met_too(
    roles: Roles, prepared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desired = await writing(roles, prepared)

    async def judge_and_write(transaction: Transaction, role: str) -> list[removal.Hazard]:
        found = await read_hazards(transaction, role)
        monkeypatch.undo()
        await roles.run(
            prepared,
            f"SET ROLE {quoted(role)}",
            "CREATE FUNCTION trap() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        )
        return found

    monkeypatch.setattr(remove, "read_hazards", judge_and_write)

    assert "trap" in await refused(roles, desired, PlanReason.DEPENDENT_OBJECTS)
    assert await owner_of(roles, prepared, "own") == desired.name
