"""An admin that is no superuser does all that PostgreSQL lets it, and for the rest says the SQL that helps."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from hoop_operator.cluster import paths
from hoop_operator.crd import Privilege
from hoop_operator.errors import PlanFailure, PlanReason
from hoop_operator.planner.model import DesiredRole
from hoop_operator.planner.plan import RolePlan
from integration.administrator import Administrator
from integration.roles import Roles, messages, quoted
from integration.tenant import Tenant, ready
from local.postgresql import Server
from unit.test_docs import blocks, read, section

ALL = tuple(privilege.value for privilege in Privilege)


@pytest.fixture
async def roles(admin: Administrator) -> AsyncIterator[Roles]:
    roles = Roles(admin)
    yield roles
    await roles.close()


@dataclass(frozen=True, slots=True)
class Setup:
    """A database with an application in it, and the admin that plans are made by."""

    admin: str
    database: str
    application: str
    """Owns a schema, and tables in two."""


async def install(roles: Roles, database: str, application: str) -> None:
    """Have an application own a schema with one object of each kind, and a table and a sequence in public."""
    await roles.run(
        database,
        f"CREATE SCHEMA shop AUTHORIZATION {quoted(application)}",
        f"SET ROLE {quoted(application)}",
        "CREATE TABLE shop.orders (id serial, item text); INSERT INTO shop.orders (item) VALUES ('tea')",
        "CREATE VIEW shop.items AS SELECT item FROM shop.orders",
        "CREATE FUNCTION shop.one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "RESET ROLE",
        "CREATE TABLE public.events (id serial)",
        f"ALTER TABLE public.events OWNER TO {quoted(application)}",
    )


async def superuser(roles: Roles) -> Setup:
    application, database = await roles.role("application"), await roles.database()
    await install(roles, database, application)
    return Setup(await roles.role("admin", "SUPERUSER"), database, application)


async def createrole(roles: Roles) -> Setup:
    """Nothing but the right to make roles; what is in the database belongs to others."""
    application, database = await roles.role("application"), await roles.database()
    await install(roles, database, application)
    await roles.run(database, "CREATE TABLE public.of_superuser (id serial)")
    return Setup(await roles.role("admin", "CREATEROLE"), database, application)


async def createrole_noinherit(roles: Roles) -> Setup:
    """A member of the application which does not inherit its rights."""
    setup = await createrole(roles)
    await roles.run(
        "postgres",
        f"ALTER ROLE {quoted(setup.admin)} NOINHERIT",
        f"GRANT {quoted(setup.application)} TO {quoted(setup.admin)}",
    )
    return setup


async def database_owner(roles: Roles) -> Setup:
    setup = await createrole(roles)
    await roles.run("postgres", f"ALTER DATABASE {quoted(setup.database)} OWNER TO {quoted(setup.admin)}")
    return setup


async def rds(roles: Roles) -> Setup:
    """The master user made database and application; predefined roles are its by rds_superuser."""
    return await _provided(roles, "rds_superuser", owner_is_group=False)


async def cloud_sql(roles: Roles) -> Setup:
    """As before, but databases are owned by cloudsqlsuperuser."""
    return await _provided(roles, "cloudsqlsuperuser", owner_is_group=True)


async def azure(roles: Roles) -> Setup:
    """As before, and so is the schema public before version 15; the master user has REPLICATION."""
    setup = await _provided(roles, "azure_pg_admin", owner_is_group=True)
    await roles.run("postgres", f"ALTER ROLE {quoted(setup.admin)} REPLICATION")
    if roles.version < 15:
        group = quoted(f"azure_pg_admin_{roles.suffix}")
        await roles.run(setup.database, f"ALTER SCHEMA public OWNER TO {group}")
    return setup


async def _provided(roles: Roles, provider: str, *, owner_is_group: bool) -> Setup:
    group = await roles.role(provider, "NOLOGIN")
    master = await roles.role("master", "CREATEROLE CREATEDB")
    await roles.run(
        "postgres",
        f"GRANT pg_read_all_data, pg_monitor, pg_signal_backend TO {quoted(group)} WITH ADMIN OPTION",
        f"GRANT {quoted(group)} TO {quoted(master)}",
    )
    application = f"application_{roles.suffix}"
    roles.roles.append(application)
    await roles.run("postgres", f"SET ROLE {quoted(master)}", f"CREATE ROLE {quoted(application)}")
    database = await roles.database()
    owner = group if owner_is_group else master
    await roles.run("postgres", f"ALTER DATABASE {quoted(database)} OWNER TO {quoted(owner)}")
    await install(roles, database, application)
    if roles.version < 15:
        await roles.run(database, f"GRANT ALL ON SCHEMA public TO {quoted(owner)}")
    return Setup(master, database, application)


async def cloud_native_pg(roles: Roles) -> Setup:
    """The application itself, which owns database and objects, has been given CREATEROLE."""
    application, database = await roles.role("application", "CREATEROLE"), await roles.database()
    await roles.run("postgres", f"ALTER DATABASE {quoted(database)} OWNER TO {quoted(application)}")
    await install(roles, database, application)
    return Setup(application, database, application)


Setups = Callable[[Roles], Awaitable[Setup]]
ORDINARY: tuple[Setups, ...] = (
    createrole,
    createrole_noinherit,
    database_owner,
    rds,
    cloud_sql,
    azure,
    cloud_native_pg,
)
each_setup = pytest.mark.parametrize("arrange", [superuser, *ORDINARY], ids=lambda arrange: arrange.__name__)
without_and_with_provider = pytest.mark.parametrize(
    "arrange", [createrole, rds], ids=lambda arrange: arrange.__name__
)


async def obey(roles: Roles, database: str, planned: RolePlan) -> list[str]:
    """As the superuser run the SQL that the problems of a plan hold, and return it."""
    assert {reason for reason, _ in planned.problems} <= {PlanReason.INSUFFICIENT_PRIVILEGE}
    remedies = [message.rpartition(" run: ")[2] for _, message in planned.problems]
    await roles.run(database, *remedies)
    return remedies


async def heal(roles: Roles, database: str, desired: DesiredRole) -> list[str]:
    """Plan and apply, after obeying the plan once at the most; return the SQL that this took."""
    remedies = await obey(roles, database, await roles.apply(desired))
    await roles.settle(desired)
    return remedies


@each_setup
async def test_a_managed_plan_holds_once_the_sql_that_it_asks_for_has_been_run(
    roles: Roles, arrange: Setups
) -> None:
    setup = await arrange(roles)
    await roles.act_as(setup.admin, setup.database)
    desired = roles.desired(scopes=[setup.database, f"{setup.database}.shop"], privileges=ALL)
    planned = await roles.apply(desired)
    owns_all = arrange is cloud_native_pg and roles.version >= 15
    assert bool(planned.problems) is not (arrange is superuser or owns_all)
    assert await roles.exists(desired.name) is not bool(planned.problems)

    await obey(roles, setup.database, planned)
    planned = await roles.settle(desired)
    for uncovered in planned.uncovered_owners:
        await roles.run(setup.database, uncovered.partition(" after: ")[2].removesuffix(")"))
    assert (await roles.settle(desired)).uncovered_owners == ()

    await roles.run(
        setup.database, f"SET ROLE {quoted(setup.application)}", "CREATE TABLE shop.later (id int)"
    )
    session = await roles.login(desired.name, setup.database)
    async with session:
        await session.execute("INSERT INTO shop.orders (item) VALUES ('milk'); SELECT shop.one()")
        await session.execute("SELECT FROM shop.later, public.events; CREATE TABLE public.mine ()")
        await session.execute("DROP TABLE public.mine")
    assert not await roles.rows(
        "postgres",
        "SELECT FROM pg_auth_members JOIN pg_roles r ON r.oid = roleid "
        "WHERE rolsuper AND member = %(admin)s::regrole",
        admin=quoted(setup.admin),
    )

    before = await roles.others([setup.database], desired.name)
    await heal(roles, setup.database, roles.desired(scopes=[f"{setup.database}.shop"], privileges=["SELECT"]))
    assert await roles.remove(desired) is None
    assert await roles.others([setup.database], desired.name) == before


@pytest.mark.parametrize("arrange", [rds, cloud_sql, azure], ids=lambda arrange: arrange.__name__)
async def test_a_master_user_can_run_the_sql_about_owners_that_it_created_itself(
    roles: Roles, arrange: Setups
) -> None:
    setup = await arrange(roles)
    await roles.act_as(setup.admin, setup.database)
    desired = roles.desired(scopes=[f"{setup.database}.shop"], privileges=["SELECT"])
    ((_, message),) = (await roles.apply(desired)).problems
    await roles.run(setup.database, f"SET ROLE {quoted(setup.admin)}", message.rpartition(" run: ")[2])
    await roles.settle(desired)


@each_setup
@pytest.mark.parametrize("source", ["pg_read_all_data", "readers", "powerful"])
async def test_an_external_plan_holds_once_the_sql_that_it_asks_for_has_been_run(
    roles: Roles, arrange: Setups, source: str
) -> None:
    setup = await arrange(roles)
    if source != "pg_read_all_data":
        source = await roles.role(source, "SUPERUSER" if source == "powerful" else "NOLOGIN")
    other = await roles.role("other")
    await roles.act_as(setup.admin, setup.database)
    by_group = arrange in {rds, cloud_sql, azure} and source == "pg_read_all_data"
    powerful = source.startswith("powerful")
    may = arrange is superuser or (not powerful and (roles.version < 16 or by_group))
    desired = roles.desired(source_role=source, dangerous_source_roles_allowed=frozenset({source}))

    remedies = await heal(roles, setup.database, desired)

    assert bool(remedies) is not may
    membership = (
        "SELECT FROM pg_auth_members WHERE roleid = %(role)s::regrole AND member = %(member)s::regrole"
    )
    assert await roles.rows("postgres", membership, role=quoted(source), member=quoted(desired.name))
    if powerful:
        assert not await roles.rows("postgres", membership, role=quoted(source), member=quoted(setup.admin))
    await heal(roles, setup.database, roles.desired(source_role=other))
    assert await roles.rows(
        "postgres",
        "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = %(member)s::regrole",
        member=quoted(desired.name),
    ) == [(other,)]
    assert await roles.remove(desired) is None


async def test_the_admin_option_of_a_group_that_the_admin_does_not_inherit_from_grants_no_membership(
    roles: Roles,
) -> None:
    setup = await createrole_noinherit(roles)
    group, source = await roles.role("group"), await roles.role("readers")
    await roles.run(
        "postgres",
        f"GRANT {quoted(source)} TO {quoted(group)} WITH ADMIN OPTION",
        f"GRANT {quoted(group)} TO {quoted(setup.admin)}",
    )
    await roles.act_as(setup.admin, setup.database)
    await heal(roles, setup.database, roles.desired(source_role=source))


async def inherited(roles: Roles, arrange: Setups, desired: Callable[[Setup], DesiredRole]) -> Setup:
    """Have a superuser carry out a plan, before a set-up's admin takes it over."""
    setup = await arrange(roles)
    await roles.settle(desired(setup))
    await roles.act_as(setup.admin, setup.database)
    return setup


def grant_admin(role: str, admin: str) -> str:
    """The SQL that puts a role into an admin's hand."""
    return f"GRANT {quoted(role)} TO {quoted(admin)} WITH ADMIN OPTION;"


@each_setup
async def test_a_role_of_a_former_admin_needs_nothing_until_something_on_it_has_to_change(
    roles: Roles, arrange: Setups
) -> None:
    def desired(setup: Setup) -> DesiredRole:
        return roles.desired(scopes=[f"{setup.database}.shop"], privileges=["SELECT"])

    setup = await inherited(roles, arrange, desired)
    role = desired(setup)
    await roles.settle(role)

    await roles.run("postgres", f"ALTER ROLE {quoted(role.name)} CONNECTION LIMIT 3")
    remedies = await heal(roles, setup.database, role)

    needed = roles.version >= 16 and arrange is not superuser
    assert remedies == ([grant_admin(role.name, setup.admin)] if needed else [])


@without_and_with_provider
async def test_a_lost_comment_on_a_role_of_a_former_admin_comes_with_the_sql(
    roles: Roles, arrange: Setups
) -> None:
    setup = await inherited(roles, arrange, lambda _: roles.desired())
    name = roles.desired().name
    ((oid,),) = await roles.rows("postgres", "SELECT %(name)s::regrole::oid::int8", name=quoted(name))
    await roles.run("postgres", f"COMMENT ON ROLE {quoted(name)} IS NULL")

    remedies = await heal(roles, setup.database, roles.desired(known_oid=oid))

    assert remedies == ([grant_admin(name, setup.admin)] if roles.version >= 16 else [])


async def test_a_role_that_became_a_member_of_the_admin_is_freed_from_it_before_the_admin_is_given_it(
    roles: Roles,
) -> None:
    setup = await inherited(roles, createrole, lambda _: roles.desired())
    desired = roles.desired()
    await roles.run(
        "postgres",
        f"GRANT {quoted(setup.admin)} TO {quoted(desired.name)}",
        f"ALTER ROLE {quoted(desired.name)} CONNECTION LIMIT 3",
    )
    await heal(roles, setup.database, desired)


@without_and_with_provider
async def test_the_role_of_a_former_admin_is_removed_after_the_sql_has_been_run(
    roles: Roles, arrange: Setups
) -> None:
    desired = roles.desired()
    await inherited(roles, arrange, lambda _: desired)
    if roles.version >= 16:
        failure = await roles.remove(desired)
        assert isinstance(failure, PlanFailure)
        assert failure.reason is PlanReason.INSUFFICIENT_PRIVILEGE
        await roles.run("postgres", failure.message.rpartition(" run: ")[2])
    assert await roles.remove(desired) is None


@pytest.mark.parametrize("own", [(), ("CREATEDB", "REPLICATION", "BYPASSRLS")], ids=["plain", "well endowed"])
@pytest.mark.parametrize("attribute", ["SUPERUSER", "CREATEDB", "CREATEROLE", "REPLICATION", "BYPASSRLS"])
async def test_an_attribute_that_the_admin_may_not_take_away_comes_with_the_sql(
    roles: Roles, attribute: str, own: tuple[str, ...]
) -> None:
    setup = await createrole(roles)
    await roles.run("postgres", f"ALTER ROLE {quoted(setup.admin)} CREATEROLE {' '.join(own)}")
    await roles.act_as(setup.admin, setup.database)
    desired = roles.desired()
    role = quoted(desired.name)
    await roles.settle(desired)
    await roles.run("postgres", f"ALTER ROLE {role} {attribute} NOINHERIT")

    remedies = await heal(roles, setup.database, desired)

    within_reach = {"CREATEROLE", "CREATEDB"} if roles.version < 16 else {"CREATEROLE", *own}
    assert remedies == ([] if attribute in within_reach else [f"ALTER ROLE {role} NO{attribute};"])


@without_and_with_provider
@pytest.mark.parametrize("powerful", [False, True], ids=["of a superuser's hand", "in a superuser"])
async def test_a_membership_that_the_admin_may_not_revoke_comes_with_the_sql(
    roles: Roles, arrange: Setups, powerful: bool
) -> None:
    setup = await arrange(roles)
    group = await roles.role("group")
    await roles.act_as(setup.admin, setup.database)
    desired = roles.desired()
    await roles.settle(desired)
    member, admin = quoted(desired.name), quoted(setup.admin)
    if powerful:
        await roles.run(
            "postgres",
            f"GRANT {quoted(group)} TO {admin} WITH ADMIN OPTION",
            f"SET ROLE {admin}",
            f"GRANT {quoted(group)} TO {member}",
            "RESET ROLE",
            f"ALTER ROLE {quoted(group)} SUPERUSER",
        )
    else:
        await roles.run("postgres", f"GRANT {quoted(group)} TO {member}")

    remedies = await heal(roles, setup.database, desired)

    grantor = setup.admin if powerful else "postgres"
    by = f" GRANTED BY {quoted(grantor)}" if roles.version >= 16 else ""
    needed = powerful or roles.version >= 16
    assert remedies == ([f"REVOKE {quoted(group)} FROM {member}{by};"] if needed else [])


async def test_an_owner_that_is_a_member_of_the_admin_comes_with_sql_that_works(roles: Roles) -> None:
    """Nobody can be a member of its own member."""
    setup = await createrole(roles)
    await roles.run("postgres", f"GRANT {quoted(setup.admin)} TO {quoted(setup.application)}")
    await roles.act_as(setup.admin, setup.database)
    desired = roles.desired(scopes=[f"{setup.database}.shop"], privileges=["SELECT"])

    await heal(roles, setup.database, desired)
    (owner,) = (await roles.plan(desired)).uncovered_owners
    await roles.run(setup.database, owner.partition(" after: ")[2].removesuffix(")"))

    assert (await roles.settle(desired)).uncovered_owners == ()


async def test_an_admin_with_grant_options_of_its_own_takes_back_what_the_owner_granted(roles: Roles) -> None:
    """The server would take the admin itself, not the owner, for the grantor of what it revokes."""
    setup = await createrole(roles)
    admin, application = quoted(setup.admin), quoted(setup.application)
    await roles.run(
        setup.database,
        f"GRANT {application} TO {admin}",
        f"GRANT ALL ON shop.orders TO {admin} WITH GRANT OPTION; GRANT USAGE ON SCHEMA shop TO {admin}",
        f"GRANT CONNECT ON DATABASE {quoted(setup.database)} TO {admin} WITH GRANT OPTION",
    )
    await roles.act_as(setup.admin, setup.database)
    desired = roles.desired(scopes=[f"{setup.database}.shop"], privileges=["SELECT"])
    await roles.settle(desired)
    role = quoted(desired.name)
    await roles.run(
        setup.database,
        f"SET ROLE {application}; GRANT SELECT, DELETE ON shop.orders TO {role} WITH GRANT OPTION; RESET ROLE",
    )

    await roles.settle(desired)

    held = {grant for grant in await roles.grants(setup.database, desired.name) if grant[1] == "shop.orders"}
    assert {(privilege, grantable) for *_, privilege, grantable in held} == {("SELECT", False)}


async def test_whatever_else_a_superuser_granted_comes_with_the_sql_that_takes_it_back(roles: Roles) -> None:
    setup = await createrole(roles)
    await roles.act_as(setup.admin, setup.database)
    desired = roles.desired()
    await roles.settle(desired)
    role = quoted(desired.name)
    await roles.run(
        setup.database,
        "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing",
        f"GRANT USAGE ON FOREIGN DATA WRAPPER nothing TO {role}",
        f"GRANT USAGE ON FOREIGN SERVER nowhere TO {role} WITH GRANT OPTION",
        f"GRANT USAGE ON LANGUAGE plpgsql TO {role}",
        f"CREATE TYPE public.colour AS ENUM ('red'); GRANT USAGE ON TYPE public.colour TO {role}",
        f"SELECT lo_create(4711); GRANT SELECT ON LARGE OBJECT 4711 TO {role}",
        f"GRANT UPDATE (item) ON shop.orders TO {role}; GRANT EXECUTE ON FUNCTION shop.one() TO {role}",
        f"GRANT SELECT ON pg_catalog.pg_authid TO {role}",
        f"GRANT TEMPORARY, CREATE ON DATABASE {quoted(setup.database)} TO {role}",
        f"GRANT CREATE ON TABLESPACE pg_default TO {role}",
        f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {role}",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(setup.application)} GRANT USAGE ON SCHEMAS TO {role}",
        *([f"GRANT SET ON PARAMETER work_mem TO {role}"] if roles.version >= 15 else []),
    )

    await heal(roles, setup.database, desired)

    assert await roles.held(setup.database, desired.name) == set()


async def test_a_schema_that_the_admin_may_not_use_comes_with_the_sql(roles: Roles) -> None:
    setup = await createrole(roles)
    owner = await roles.role("schema_owner")
    wide = roles.desired(scopes=[f"{setup.database}.shop"], privileges=["SELECT"])
    await roles.settle(wide)
    await roles.run(
        setup.database,
        f"ALTER SCHEMA shop OWNER TO {quoted(owner)}",
        f"GRANT {quoted(setup.application)} TO {quoted(setup.admin)}",
        f"REVOKE ALL ON SCHEMA shop FROM {quoted(setup.application)}",
        "DROP FUNCTION shop.one()",
        f"GRANT UPDATE ON shop.items TO {quoted(wide.name)}",
    )
    await roles.act_as(setup.admin, setup.database)

    assert await heal(roles, setup.database, wide) == [
        f'GRANT USAGE ON SCHEMA "shop" TO {quoted(setup.admin)};'
    ]
    await roles.run(setup.database, f"REVOKE USAGE ON SCHEMA shop FROM {quoted(setup.admin)}")
    more = roles.desired(scopes=[f"{setup.database}.shop"], privileges=["SELECT", "DELETE"])
    assert await heal(roles, setup.database, more) == [
        f'GRANT USAGE ON SCHEMA "shop" TO {quoted(setup.admin)};'
    ]


async def test_a_schema_that_its_own_owner_may_not_use_comes_with_the_sql(roles: Roles) -> None:
    setup = await createrole(roles)
    owner = quoted(setup.application)
    await roles.run(
        setup.database,
        f"GRANT {owner} TO {quoted(setup.admin)}",
        f"GRANT CONNECT ON DATABASE {quoted(setup.database)} TO {quoted(setup.admin)} WITH GRANT OPTION",
        f"REVOKE ALL ON SCHEMA shop FROM {owner}",
    )
    await roles.act_as(setup.admin, setup.database)
    desired = roles.desired(scopes=[f"{setup.database}.shop"], privileges=["SELECT"])

    assert await heal(roles, setup.database, desired) == [
        f'GRANT USAGE ON SCHEMA "shop" TO {quoted(setup.admin)};'
    ]


async def test_grant_options_that_come_from_several_roles_are_all_used(roles: Roles) -> None:
    setup = await createrole(roles)
    first, second = await roles.role("first"), await roles.role("second")
    await roles.run(
        setup.database,
        f"GRANT CONNECT ON DATABASE {quoted(setup.database)} TO {quoted(first)} WITH GRANT OPTION",
        f"GRANT USAGE ON SCHEMA public TO {quoted(first)} WITH GRANT OPTION",
        "DROP TABLE public.events",
        f"GRANT SELECT ON public.of_superuser TO {quoted(first)} WITH GRANT OPTION",
        f"GRANT DELETE ON public.of_superuser TO {quoted(second)} WITH GRANT OPTION",
        f"GRANT {quoted(first)}, {quoted(second)} TO {quoted(setup.admin)}",
    )
    await roles.act_as(setup.admin, setup.database)
    await roles.settle(roles.desired(scopes=[setup.database], privileges=["SELECT", "DELETE"]))


async def test_an_ordinary_createrole_admin_that_owns_the_database_needs_no_superuser(roles: Roles) -> None:
    database = await roles.database()
    admin = await roles.role("admin", "CREATEROLE")
    await roles.run("postgres", f"ALTER DATABASE {quoted(database)} OWNER TO {quoted(admin)}")
    await roles.run(
        database,
        f"ALTER SCHEMA public OWNER TO {quoted(admin)}",
        f"SET ROLE {quoted(admin)}",
        "CREATE TABLE plain (id serial)",
        "CREATE FUNCTION fun() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    )
    await roles.act_as(admin, database)
    wide = roles.desired(scopes=[database], privileges=ALL)
    before = await roles.others([database], wide.name)
    await roles.settle(wide)
    narrow = roles.desired(scopes=[database], privileges=["SELECT"])
    await roles.settle(narrow)

    assert await roles.held(database, narrow.name) == {
        ("database", database, "CONNECT"),
        ("schema", "public", "USAGE"),
        ("relation", "plain", "SELECT"),
        ("default r", f"{admin} in public", "SELECT"),
    }
    assert await roles.others([database], narrow.name) == before
    assert await roles.remove(narrow) is None


async def test_what_an_ordinary_admin_may_not_do_comes_with_the_sql_that_lets_it(roles: Roles) -> None:
    database = await roles.database()
    admin, owner = await roles.role("admin", "CREATEROLE"), await roles.role("owner")
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = quoted(desired.name)
    await roles.run("postgres", f"ALTER DATABASE {quoted(database)} OWNER TO {quoted(admin)}")
    await roles.run(
        database,
        "CREATE TABLE of_superuser (a int)",
        f"CREATE TABLE of_owner (a int); ALTER TABLE of_owner OWNER TO {quoted(owner)}",
    )
    await roles.act_as(admin, database)

    planned = await roles.apply(desired)

    assert {reason for reason, _ in planned.problems} == {PlanReason.INSUFFICIENT_PRIVILEGE}
    assert planned.statements == ()
    for message in messages(planned, PlanReason.INSUFFICIENT_PRIVILEGE):
        await roles.run(database, message.rpartition(" run: ")[2])
    planned = await roles.settle(desired)
    (uncovered,) = planned.uncovered_owners
    assert '"postgres"' in uncovered
    await roles.run(database, uncovered.partition(" after: ")[2].removesuffix(")"))
    assert not (await roles.settle(desired)).uncovered_owners

    await roles.run(
        database,
        f"GRANT DELETE ON of_superuser TO {role}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT DELETE ON TABLES TO {role}",
        f"GRANT pg_monitor TO {role}",
    )
    planned = await roles.apply(desired)
    for message in messages(planned, PlanReason.INSUFFICIENT_PRIVILEGE):
        await roles.run(database, message.rpartition(" run: ")[2])
    await roles.settle(desired)


async def test_a_database_that_the_admin_may_not_enter_is_named_with_the_sql(roles: Roles) -> None:
    database = await roles.database()
    admin = await roles.role("admin", "CREATEROLE")
    await roles.run("postgres", f"REVOKE ALL ON DATABASE {quoted(database)} FROM PUBLIC")
    await roles.act_as(admin, "postgres")

    planned = await roles.plan(roles.desired(scopes=[database], privileges=["SELECT"]))

    assert f'GRANT CONNECT ON DATABASE "{database}"' in planned.problems[0][1]


# What the documentation tells administrators


async def advised(roles: Roles, setup: Setup, title: str, *positions: int, run_by: str | None = None) -> None:
    """Run blocks of SQL of a section of the page on admins, by the names of a set-up."""
    names = {
        "hoop_admin": f"hoop_admin_{roles.suffix}",
        "shop_db": setup.database,
        "shop_owner": setup.application,
        "reporting": f"reporting_{roles.suffix}",
    }
    found = blocks(section(read("docs/admins.md"), title), "sql")
    for position in positions or range(len(found)):
        text = re.sub(r"\b\w+\b", lambda word: names.get(word[0], word[0]), found[position])
        await roles.run(setup.database, *([f"SET ROLE {quoted(run_by)}"] if run_by else []), text)


def advised_admin(roles: Roles) -> str:
    """The name of the admin whom the page has made; dropped after the test."""
    name = f"hoop_admin_{roles.suffix}"
    roles.roles.append(name)
    return name


async def works(roles: Roles, setup: Setup, admin: str, *scopes: str) -> None:
    """Assert that a plan for everything in some schemas can be carried out as an admin, without further SQL."""
    await roles.act_as(admin, setup.database)
    await roles.settle(
        roles.desired(scopes=[f"{setup.database}.{scope}" for scope in scopes], privileges=ALL)
    )


async def test_the_advice_for_an_admin_with_createrole_is_enough(roles: Roles) -> None:
    setup = await createrole(roles)
    await advised(roles, setup, "A role with CREATEROLE")
    await works(roles, setup, advised_admin(roles), "public", "shop")


async def test_the_advice_for_the_owner_of_the_database_is_enough(roles: Roles) -> None:
    setup = await createrole(roles)
    await roles.run(setup.database, "DROP TABLE public.of_superuser")
    await advised(roles, setup, "The owner of the database", *([0, 1] if roles.version < 15 else [0]))
    await works(roles, setup, advised_admin(roles), "public", "shop")


@pytest.mark.parametrize("arrange", [rds, cloud_sql, azure], ids=lambda arrange: arrange.__name__)
async def test_the_advice_for_managed_services_is_enough_when_the_master_user_follows_it(
    roles: Roles, arrange: Setups
) -> None:
    setup = await arrange(roles)
    title = "Amazon RDS, Cloud SQL, Azure"
    own, public_is_the_providers = advised_admin(roles), roles.version < 15 and arrange is not azure
    scopes = ["shop"] if public_is_the_providers else ["public", "shop"]

    await advised(roles, setup, title, 1, run_by=setup.admin)
    await works(roles, setup, own, *scopes)
    assert await roles.remove(roles.desired()) is None

    await advised(roles, setup, title, 0, run_by=setup.admin)
    await works(roles, setup, setup.admin, *scopes)


async def test_the_advice_for_cloud_native_pg_is_enough(roles: Roles) -> None:
    setup = await cloud_native_pg(roles)
    await roles.run("postgres", f"ALTER ROLE {quoted(setup.application)} NOCREATEROLE")
    await advised(roles, setup, "CloudNativePG", *([0, 1] if roles.version < 15 else [0]))
    await works(roles, setup, setup.application, "public", "shop")


async def test_the_advice_for_external_plans_is_enough(roles: Roles) -> None:
    setup = await createrole(roles)
    admin, source = advised_admin(roles), await roles.role("reporting")
    await roles.run("postgres", f"CREATE ROLE {admin} CREATEROLE")
    await advised(roles, setup, "External plans")
    await roles.act_as(admin, setup.database)
    await roles.settle(roles.desired(source_role=source))


async def test_the_advice_for_another_admin_lets_it_alter_every_role_of_the_former_one(roles: Roles) -> None:
    setup = await createrole(roles)
    await roles.act_as(setup.admin, setup.database)
    plans = [roles.desired(label) for label in ("one", "two")]
    for desired in plans:
        await roles.settle(desired)
    admin = advised_admin(roles)
    await roles.run("postgres", f"CREATE ROLE {admin} CREATEROLE")
    (query,) = blocks(section(read("docs/admins.md"), "Another admin takes over"), "sql")

    session = await roles.administrator.connect()
    await session.execute(f"SET ROLE {quoted(setup.admin)}".encode())
    for (command,) in await (await session.execute(query.replace("hoop_admin", admin).encode())).fetchall():
        await session.execute(command.encode())

    await roles.act_as(admin, setup.database)
    for desired in plans:
        await roles.run("postgres", f"ALTER ROLE {quoted(desired.name)} CONNECTION LIMIT 3")
        await roles.settle(desired)


async def test_the_advice_for_a_member_without_inherit_gives_it_the_rights_of_its_roles(roles: Roles) -> None:
    setup = await createrole(roles)
    await advised(roles, setup, "A role with CREATEROLE")
    admin = advised_admin(roles)
    await roles.run("postgres", f"ALTER ROLE {admin} NOINHERIT")
    await advised(roles, setup, "A member without INHERIT")
    await works(roles, setup, admin, "public", "shop")


@pytest.fixture
async def ordinary(admin: Administrator, namespace: str) -> AsyncIterator[str]:
    """An admin with CREATEROLE who may grant membership in a group named like it."""
    name = f"ordinary_{namespace[5:]}"
    group = quoted(f"{name}_group")
    session = await admin.connect()
    await session.execute(
        f"CREATE ROLE {quoted(name)} LOGIN CREATEROLE PASSWORD 'ordinary'; CREATE ROLE {group}; "
        f"GRANT {group} TO {quoted(name)} WITH ADMIN OPTION".encode()
    )
    yield name
    await session.execute(
        f"DROP OWNED BY {quoted(name)}, {group}; DROP ROLE {quoted(name)}, {group}".encode()
    )


@pytest.mark.parametrize("cause", ["rotation", "edited Secret", "lost Secret"])
async def test_a_password_that_the_admin_may_not_set_comes_with_the_sql_and_is_set_after_it(
    tenant: Tenant, admin: Administrator, postgres: Server, ordinary: str, cause: str
) -> None:
    resource = await tenant.resource(postgres, user=ordinary, password="ordinary")
    await tenant.plan("ext", resource, type="external", sourceRole=f"{ordinary}_group")
    plan = (await tenant.until_plans(["ext"]))["ext"]
    role = quoted(plan["status"]["role"])
    session = await admin.connect()
    before_16 = postgres.version < "16"
    out_of_reach = f"ALTER ROLE {role} REPLICATION" if before_16 else f"REVOKE {role} FROM {quoted(ordinary)}"
    await session.execute(out_of_reach.encode())
    known = (await tenant.secret("ext"))["password"]

    if cause == "rotation":
        await tenant.annotate("ext", rotate_at="now")
    elif cause == "edited Secret":
        await tenant.change_secret("ext-credentials", password="edited")
    else:
        await tenant.api.delete(paths.secret(tenant.namespace, "ext-credentials"))

    remedy = (
        f"ALTER ROLE {role} NOREPLICATION;"
        if before_16
        else f"GRANT {role} TO {quoted(ordinary)} WITH ADMIN OPTION;"
    )
    # A run under way may have looked at the role before, and be told by the server alone.
    told = f'the admin "{ordinary}" may not alter role {role}; an administrator has to run: {remedy}'
    await tenant.until_plan(
        "ext", lambda plan: ready(plan) == ("InsufficientPrivilege", told), "the SQL is told"
    )
    await session.execute(remedy.encode())

    await tenant.until_plans(["ext"])
    async with await tenant.log_in("ext", postgres):
        password = (await tenant.secret("ext"))["password"]
    assert (password == "edited") is (cause == "edited Secret")
    assert password != known
    await tenant.delete("ext")
    await tenant.until_gone("ext")
