"""A managed role holds on a real server exactly what its plan says, whatever it held before, and nobody else loses."""

from typing import Any

import psycopg
import pytest

from hoop_operator.crd import Privilege
from hoop_operator.errors import PlanReason
from hoop_operator.planner.model import Server
from hoop_operator.planner.statements import Phase
from hoop_operator.postgres import scram
from hoop_operator.postgres.server_snapshot import read_server
from hoop_operator.reconcile import turn
from integration.administrator import Administrator
from integration.roles import Roles, fill, literal, make, messages, quoted

ALL = tuple(privilege.value for privilege in Privilege)
TABLE_PRIVILEGES = {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"}


RELATIONS = ("plain", "parted", "seen", "kept", "abroad")
ROUTINES = ("fun(integer)", "proc(integer)", "agg(integer)")
SEQUENCE = "plain_id_seq"


def meant(database: str, privileges: set[str]) -> set[tuple[str, str, str]]:
    """What a plan on the schema public, filled by `fill`, means in the catalogs."""
    tables = privileges & TABLE_PRIVILEGES
    grants = {("database", database, "CONNECT"), ("schema", "public", "USAGE")}
    grants |= {("relation", relation, privilege) for relation in RELATIONS for privilege in tables}
    grants |= {("default r", "postgres in public", privilege) for privilege in tables}
    if privileges & {"INSERT", "UPDATE"}:
        grants |= {("relation", SEQUENCE, privilege) for privilege in ("USAGE", "SELECT")}
        grants |= {("default S", "postgres in public", privilege) for privilege in ("USAGE", "SELECT")}
    if "CREATE" in privileges:
        grants.add(("schema", "public", "CREATE"))
    if "EXECUTE" in privileges:
        grants |= {("routine", routine, "EXECUTE") for routine in ROUTINES}
        grants.add(("default f", "postgres in public", "EXECUTE"))
    return grants


async def rights(
    session: psycopg.AsyncConnection[Any], database: str
) -> tuple[set[tuple[str, str, str]], set[tuple[str, str, str]]]:
    """What the session's role may do in the schema public, and what PUBLIC may do there anyway."""
    query = """
        WITH asked (kind, name, privilege, has, public) AS (
            SELECT 'relation', c.relname::text, p, has_table_privilege(c.oid, p),
                   EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = 0 AND a.privilege_type = p)
              FROM pg_class c, unnest(%(table)s::text[]) p
             WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
            UNION ALL
            SELECT 'relation', c.relname::text, p, has_sequence_privilege(c.oid, p), false
              FROM pg_class c, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) p
             WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'S'
            UNION ALL
            SELECT 'routine', f.oid::regprocedure::text, 'EXECUTE', has_function_privilege(f.oid, 'EXECUTE'), true
              FROM pg_proc f WHERE f.pronamespace = 'public'::regnamespace
            UNION ALL
            SELECT 'schema', 'public', p, has_schema_privilege('public', p),
                   EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) a
                            WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = p)
              FROM unnest(ARRAY['USAGE', 'CREATE']) p
            UNION ALL
            SELECT 'database', current_database()::text, p, has_database_privilege(current_database(), p), p <> 'CREATE'
              FROM unnest(ARRAY['CONNECT', 'CREATE', 'TEMPORARY']) p
        )
        SELECT kind, name, privilege, has, public FROM asked WHERE has OR public
    """
    rows = await (await session.execute(query, {"table": sorted(TABLE_PRIVILEGES)})).fetchall()
    has = {(kind, name, privilege) for kind, name, privilege, has, _ in rows if has}
    public = {(kind, name, privilege) for kind, name, privilege, _, public in rows if public}
    return has, public


@pytest.mark.parametrize(
    "privileges", [*({name} for name in ALL), set(ALL)], ids=lambda p: "+".join(sorted(p))
)
async def test_each_privilege_is_granted_in_its_legal_place_and_nowhere_else(
    roles: Roles, privileges: set[str]
) -> None:
    database = await roles.database()
    await fill(roles, database)
    desired = roles.desired(scopes=[database], privileges=privileges)
    before = await roles.others([database], desired.name)

    await roles.settle(desired)

    assert await roles.held(database, desired.name) == meant(database, privileges)
    assert await roles.others([database], desired.name) == before
    async with await roles.login(desired.name, database) as session:
        has, public = await rights(session, database)
    objects = {grant for grant in meant(database, privileges) if not grant[0].startswith("default")}
    assert has == objects | public


async def test_one_plan_covers_several_databases_and_schemas_and_no_others(roles: Roles) -> None:
    first, second, third = [await roles.database() for _ in range(3)]
    for name in (first, second, third):
        await roles.run(name, "CREATE SCHEMA extra", "CREATE TABLE extra.t (a int)", "CREATE TABLE t (a int)")
    desired = roles.desired(scopes=[first, f"{second}.extra"], privileges=["SELECT"])

    await roles.settle(desired)

    connects = {("database", name, "CONNECT") for name in (first, second)}
    assert await roles.held(first, desired.name) == connects | {
        ("schema", "public", "USAGE"),
        ("relation", "t", "SELECT"),
        ("default r", "postgres in public", "SELECT"),
    }
    assert await roles.held(second, desired.name) == connects | {
        ("schema", "extra", "USAGE"),
        ("relation", "extra.t", "SELECT"),
        ("default r", "postgres in extra", "SELECT"),
    }
    assert await roles.held(third, desired.name) == connects


async def test_privileges_and_scopes_that_left_the_plan_leave_the_server(roles: Roles) -> None:
    first, second = await roles.database(), await roles.database()
    for name in (first, second):
        await fill(roles, name)
    wide = roles.desired(scopes=[first, second], privileges=ALL)
    await roles.settle(wide)

    narrow = roles.desired(scopes=[first], privileges=["SELECT"])
    before = await roles.others([first, second], wide.name)
    await roles.settle(narrow)

    assert await roles.held(first, narrow.name) == meant(first, {"SELECT"})
    assert await roles.held(second, narrow.name) == {("database", first, "CONNECT")}
    assert await roles.others([first, second], wide.name) == before


LONG = "é" * 31 + "x"  # 63 bytes
ODD_NAMES = (
    'quo"te',
    "do.t",
    "UPPER",
    "späce ünï 数据库",
    "per%cent %s %(x)s",
    "back\\slash",
    "semi;colon--",
    "'single'",
    "$$dollar$$",
    "new\nline",
    LONG,
)


@pytest.mark.parametrize("odd", ODD_NAMES)
async def test_odd_identifiers_mean_what_they_say(roles: Roles, odd: str) -> None:
    database = await roles.database(odd)
    q = quoted(odd)
    owner = odd if len(odd.encode()) > 50 else f"{odd}_{roles.suffix}"
    await roles.run("postgres", f"CREATE ROLE {quoted(owner)}")
    roles.roles.append(owner)
    await roles.run(
        database,
        f"CREATE SCHEMA {q} AUTHORIZATION {quoted(owner)}",
        f"CREATE TABLE {q}.{q} ({q} int)",
        f"CREATE TABLE {q}.other (a int)",
        f"CREATE SEQUENCE {q}.{quoted(odd[:-1])}",
        f"CREATE TYPE {q}.{quoted(odd[:-2])} AS ENUM ('a')",
        f"CREATE DOMAIN {q}.{quoted(odd[:-3] + 'd')} AS int",
        f"CREATE FUNCTION {q}.{q}({q}.{quoted(odd[:-2])}, {q}.{quoted(odd[:-3] + 'd')}[]) RETURNS int "
        f"LANGUAGE sql AS 'SELECT 1'",
    )
    scope = f"{quoted(odd)}.{quoted(odd)}"
    desired = roles.desired(scopes=[scope], privileges=["SELECT", "INSERT", "EXECUTE"])
    await roles.run(
        database,
        f"CREATE ROLE {quoted(desired.name)}",
        f"COMMENT ON ROLE {quoted(desired.name)} IS {literal(desired.identity.comment)}",
        f"GRANT DELETE ON {q}.{q} TO {quoted(desired.name)} WITH GRANT OPTION",
        f"GRANT UPDATE ({q}) ON {q}.{q} TO {quoted(desired.name)}",
        f"GRANT USAGE ON TYPE {q}.{quoted(odd[:-2])} TO {quoted(desired.name)}",
        f"GRANT USAGE ON DOMAIN {q}.{quoted(odd[:-3] + 'd')} TO {quoted(desired.name)}",
        f"GRANT EXECUTE ON FUNCTION {q}.{q} TO {quoted(desired.name)} WITH GRANT OPTION",
    )
    before = await roles.others([database], desired.name)

    await roles.settle(desired)

    kinds = sorted((kind, privilege) for kind, _, privilege in await roles.held(database, desired.name))
    assert kinds == sorted(
        [
            ("database", "CONNECT"),
            ("schema", "USAGE"),
            *[("relation", "SELECT"), ("relation", "INSERT")] * 2,
            *[("relation", "SELECT"), ("relation", "USAGE")],
            ("routine", "EXECUTE"),
            *[("default r", "SELECT"), ("default r", "INSERT")]
            * 2,  # of the schema's owner and of the tables'
            *[("default S", "SELECT"), ("default S", "USAGE")] * 2,
            *[("default f", "EXECUTE")] * 2,
        ]
    )
    assert not any(grantable for *_, grantable in await roles.grants(database, desired.name))
    assert await roles.others([database], desired.name) == before
    assert await roles.remove(desired) is None


async def test_routines_are_known_by_argument_types_however_odd(roles: Roles) -> None:
    database = await roles.database()
    await roles.run(
        database,
        "CREATE SCHEMA s",
        "CREATE TYPE s.pair AS (a int, b text)",
        "CREATE FUNCTION s.f(VARIADIC int[]) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        'CREATE FUNCTION s.f(anyelement, s.pair[], "char", timestamp with time zone, double precision) RETURNS int '
        "LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION s.f(numeric(10, 2), OUT a int, OUT b varchar(3)) LANGUAGE sql AS 'SELECT 1, NULL::varchar'",
        "CREATE FUNCTION s.f() RETURNS TABLE (x int) LANGUAGE sql AS 'SELECT 1'",
        "CREATE PROCEDURE s.p(IN int, OUT o int) LANGUAGE sql AS 'SELECT 1'",
        "CREATE PROCEDURE s.p(IN int, IN int) LANGUAGE sql AS 'SELECT 1'",
        "CREATE PROCEDURE s.p(OUT int, IN text, INOUT int) LANGUAGE sql AS 'SELECT 1, 2'",
        "CREATE AGGREGATE s.a(*) (SFUNC = int8inc, STYPE = int8, INITCOND = '0')",
        "CREATE AGGREGATE s.o(float8 ORDER BY anyelement) (SFUNC = ordered_set_transition, STYPE = internal, "
        "FINALFUNC = percentile_disc_final, FINALFUNC_EXTRA)",
        "CREATE TABLE s.t (a int)",
        "CREATE FUNCTION s.trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    )
    desired = roles.desired(scopes=[f"{database}.s"], privileges=["EXECUTE"])
    # One routine is the role's already, so that the others have to be granted, and all revoked later, by name.
    await roles.settle(roles.desired(scopes=[database], privileges=["EXECUTE"]))
    await roles.run(database, f"GRANT EXECUTE ON FUNCTION s.f() TO {quoted(desired.name)}")

    planned = await roles.settle(desired)
    assert not any(
        "ALL ROUTINES" in statement.text
        for statement in planned.statements
        if "DEFAULT" not in statement.text
    )
    assert len([grant for grant in await roles.held(database, desired.name) if grant[0] == "routine"]) == 10
    await roles.run(database, "CREATE SCHEMA u")
    await roles.settle(roles.desired(scopes=[f"{database}.u"], privileges=["EXECUTE"]))
    assert not [grant for grant in await roles.held(database, desired.name) if grant[0] == "routine"]


async def test_every_kind_of_extra_is_taken_away_and_nobody_elses(roles: Roles, admin: Administrator) -> None:
    database = await roles.database()
    await fill(roles, database)
    other = quoted(await roles.role("other"))
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(
        database,
        "CREATE SCHEMA elsewhere",
        "CREATE TABLE elsewhere.t (a int, b int)",
        "CREATE SEQUENCE elsewhere.s",
        "CREATE TYPE colour AS ENUM ('red')",
        "CREATE DOMAIN positive AS int",
    )
    objects = [
        "ALL ON TABLE elsewhere.t",
        "SELECT (a), INSERT (a), UPDATE (b), REFERENCES (b) ON TABLE elsewhere.t",
        "UPDATE (note) ON TABLE plain",
        "SELECT (last_value) ON TABLE elsewhere.s",
        "SELECT (last_value) ON TABLE plain_id_seq",
        "ALL ON SEQUENCE elsewhere.s",
        "ALL ON SEQUENCE plain_id_seq",
        "ALL ON TABLE plain",
        "ALL ON SCHEMA elsewhere",
        "ALL ON SCHEMA pg_catalog",
        "SELECT ON pg_catalog.pg_authid",
        "EXECUTE ON FUNCTION pg_catalog.pg_read_file(text)",
        f"ALL ON DATABASE {quoted(database)}",
        "ALL ON TYPE colour",
        "ALL ON DOMAIN positive",
        "ALL ON TYPE pg_catalog.int4",
        "ALL ON LANGUAGE sql",
        "ALL ON FOREIGN DATA WRAPPER nothing",
        "ALL ON FOREIGN SERVER nowhere",
        "ALL ON TABLESPACE pg_default",
        "EXECUTE ON ALL ROUTINES IN SCHEMA public",
    ]
    if roles.version >= 15:
        objects += ["SET, ALTER SYSTEM ON PARAMETER work_mem", "SET ON PARAMETER my.extension"]
    ((large_object, toast),) = await roles.rows(
        database,
        "SELECT lo_create(0), reltoastrelid::regclass::text FROM pg_class WHERE oid = 'plain'::regclass",
    )
    objects += [f"ALL ON LARGE OBJECT {large_object}", f"SELECT ON TABLE {toast}"]
    defaults = [
        "GRANT ALL ON TABLES TO",
        "GRANT ALL ON SEQUENCES TO",
        "GRANT ALL ON ROUTINES TO",
        "GRANT ALL ON TYPES TO",
        "GRANT ALL ON SCHEMAS TO",
        "IN SCHEMA public GRANT DELETE ON TABLES TO",
        "IN SCHEMA elsewhere GRANT ALL ON TABLES TO",
    ]
    if roles.version >= 18:
        defaults.append("GRANT ALL ON LARGE OBJECTS TO")
    await roles.run(
        database,
        *(f"GRANT {what} TO {other}" for what in objects),
        *(f"ALTER DEFAULT PRIVILEGES {what} {other}" for what in defaults),
        *(f"ALTER DEFAULT PRIVILEGES FOR ROLE {other} {what} {other}" for what in defaults),
    )
    before = await roles.others([database], desired.name)
    await roles.run(
        database,
        *(f"GRANT {what} TO {role} WITH GRANT OPTION" for what in objects),
        *(f"ALTER DEFAULT PRIVILEGES {what} {role} WITH GRANT OPTION" for what in defaults),
        *(f"ALTER DEFAULT PRIVILEGES FOR ROLE {other} {what} {role}" for what in defaults),
    )

    await roles.settle(desired)

    assert await roles.grants(database, desired.name) == {
        (
            kind,
            name,
            "pg_database_owner" if name == "public" and roles.version >= 15 else "postgres",
            privilege,
            False,
        )
        for kind, name, privilege in meant(database, {"SELECT"})
    }
    assert await roles.others([database], desired.name) == before


async def test_an_extra_outside_of_the_scopes_touches_no_other_object_there(roles: Roles) -> None:
    database = await roles.database()
    await roles.run(
        database, "CREATE SCHEMA far", "CREATE TABLE far.given (a int)", "CREATE TABLE far.untouched (a int)"
    )
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(database, f"GRANT SELECT ON far.given TO {role}")

    planned = await roles.settle(desired)

    (revoke,) = [statement for statement in planned.statements if statement.phase is Phase.REVOKE]
    assert revoke.head == 'REVOKE SELECT ON TABLE "far"."given" FROM'
    assert await roles.rows(database, "SELECT relacl FROM pg_class WHERE relname = 'untouched'") == [(None,)]


async def test_grants_by_other_grantors_are_taken_away_as_these(roles: Roles) -> None:
    database = await roles.database()
    await fill(roles, database)
    owner, lender = await roles.role("owner"), await roles.role("lender")
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(
        database,
        f"ALTER TABLE plain OWNER TO {quoted(owner)}",
        f"GRANT ALL ON plain, parted TO {quoted(lender)} WITH GRANT OPTION",
        f"GRANT ALL ON SCHEMA public TO {quoted(lender)} WITH GRANT OPTION",
        f"GRANT ALL ON DATABASE {quoted(database)} TO {quoted(lender)} WITH GRANT OPTION",
    )
    session = await roles.administrator.connect(database)
    await session.execute(f"SET ROLE {quoted(lender)}".encode())
    for grant in (
        "SELECT, DELETE ON plain, parted",
        "INSERT (note) ON plain",
        "CREATE ON SCHEMA public",
        f"CREATE ON DATABASE {quoted(database)}",
    ):
        option = "" if "(" in grant else " WITH GRANT OPTION"
        await session.execute(f"GRANT {grant} TO {role}{option}".encode())
    await session.close()
    before = await roles.others([database], desired.name)

    await roles.settle(desired)

    held = await roles.held(database, desired.name)
    assert {grant for grant in held if not grant[0].startswith("default")} == {
        grant for grant in meant(database, {"SELECT"}) if not grant[0].startswith("default")
    }
    assert not any(grantable for *_, grantable in await roles.grants(database, desired.name))
    assert await roles.others([database], desired.name) == before


async def test_what_the_role_granted_itself_is_taken_away_before_what_it_was_granted(roles: Roles) -> None:
    database = await roles.database()
    await fill(roles, database)
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(
        database,
        f"GRANT DELETE ON plain TO {role} WITH GRANT OPTION",
        f"GRANT USAGE ON SCHEMA public TO {role}; SET ROLE {role}; GRANT DELETE ON plain TO {role}; RESET ROLE",
    )

    await roles.settle(desired)

    assert await roles.held(database, desired.name) == meant(database, {"SELECT"})


async def test_a_grantor_that_lost_sight_of_the_schema_is_lent_it_for_the_statement(roles: Roles) -> None:
    database = await roles.database()
    lender = quoted(await roles.role("lender"))
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(
        database,
        "CREATE SCHEMA apart; CREATE TABLE apart.plain (a int); CREATE TYPE apart.colour AS ENUM ('red')",
        "CREATE FUNCTION public.paint(apart.colour) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        f"GRANT USAGE ON SCHEMA apart TO {lender}",
        f"GRANT DELETE ON apart.plain TO {lender} WITH GRANT OPTION",
        f"GRANT EXECUTE ON FUNCTION public.paint TO {lender} WITH GRANT OPTION",
        f"SET ROLE {lender}; GRANT DELETE ON apart.plain TO {role}; GRANT EXECUTE ON FUNCTION public.paint TO {role}; "
        "RESET ROLE",
        f"REVOKE USAGE ON SCHEMA apart FROM {lender}",
    )
    before = await roles.others([database], desired.name)

    await roles.settle(desired)

    assert not {
        grant for grant in await roles.held(database, desired.name) if grant[2] in {"DELETE", "EXECUTE"}
    }
    assert await roles.others([database], desired.name) == before


@pytest.mark.parametrize("is_blind", [False, True], ids=["sees the schema", "lost sight of the schema"])
async def test_a_grantor_that_is_a_superuser_by_now_comes_with_the_sql_that_helps(
    roles: Roles, is_blind: bool
) -> None:
    database = await roles.database()
    await roles.run(database, "CREATE SCHEMA apart; CREATE TABLE apart.plain (a int)")
    lender = await roles.role("lender")
    desired = roles.desired(scopes=[f"{database}.apart"], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(
        database,
        f"GRANT DELETE ON apart.plain TO {quoted(lender)} WITH GRANT OPTION",
        f"GRANT USAGE ON SCHEMA apart TO {quoted(lender)}",
        f"SET ROLE {quoted(lender)}; GRANT DELETE ON apart.plain TO {role}; RESET ROLE",
        f"REVOKE USAGE ON SCHEMA apart FROM {quoted(lender)}" if is_blind else "",
        f"ALTER ROLE {quoted(lender)} SUPERUSER",
    )
    before = await roles.others([database], desired.name)

    (message,) = messages(await roles.apply(desired), PlanReason.INSUFFICIENT_PRIVILEGE)

    assert lender in message
    await roles.run(database, message.rpartition(" run: ")[2])
    await roles.settle(desired)
    assert "DELETE" not in {grant[2] for grant in await roles.held(database, desired.name)}
    assert await roles.others([database], desired.name) == before


async def test_the_sql_about_what_was_passed_on_helps_where_the_role_lost_sight_of_the_schema(
    roles: Roles,
) -> None:
    database = await roles.database()
    await roles.run(database, "CREATE SCHEMA apart; CREATE TABLE apart.plain (a int)")
    other = quoted(await roles.role("other"))
    desired = roles.desired(scopes=[f"{database}.apart"], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(
        database,
        f"GRANT USAGE ON SCHEMA apart TO {role}; GRANT DELETE ON apart.plain TO {role} WITH GRANT OPTION",
        f"SET ROLE {role}; GRANT DELETE ON apart.plain TO {other}; RESET ROLE",
        f"REVOKE USAGE ON SCHEMA apart FROM {role}",
    )

    (message,) = messages(await roles.apply(desired), PlanReason.DEPENDENT_GRANTS)

    await roles.run(database, message.rpartition(" run: ")[2])
    await roles.settle(desired)


async def test_what_the_role_is_beyond_its_plan_is_taken_from_it_even_where_a_check_fails(
    roles: Roles,
) -> None:
    """While the role is a superuser the SQL about what it passed on would act as the owner, and so do nothing."""
    database = await roles.database()
    await roles.run(database, "CREATE SCHEMA apart; CREATE TABLE apart.plain (a int)")
    other, group = quoted(await roles.role("other")), quoted(await roles.role("group"))
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(
        database,
        f"GRANT USAGE ON SCHEMA apart TO {role}; GRANT DELETE ON apart.plain TO {role} WITH GRANT OPTION",
        f"SET ROLE {role}; GRANT DELETE ON apart.plain TO {other}; RESET ROLE",
        f"ALTER ROLE {role} SUPERUSER NOLOGIN; GRANT {group} TO {role}",
    )

    planned = await roles.apply(desired)

    (message,) = messages(planned, PlanReason.DEPENDENT_GRANTS)
    query = "SELECT rolsuper, rolcanlogin, EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid) FROM pg_roles r"
    assert await roles.rows("postgres", query + " WHERE rolname = %(role)s", role=desired.name) == [
        (False, False, False)
    ]
    await roles.run(database, message.rpartition(" run: ")[2])
    await roles.settle(desired)


PASSED_ON = {
    "a table": ("SELECT ON plain",),
    "a column": ("SELECT (note) ON plain",),
    "a column of a granted table": ("SELECT ON plain", "SELECT (note) ON plain"),
    "a sequence": ("USAGE ON SEQUENCE plain_id_seq",),
    "a schema": ("CREATE ON SCHEMA public",),
    "a routine": ("EXECUTE ON FUNCTION fun(int)",),
    "a database": ("TEMPORARY ON DATABASE {database}",),
    "a type": ("USAGE ON TYPE colour",),
}


@pytest.mark.parametrize("passed_on", PASSED_ON.values(), ids=PASSED_ON.keys())
async def test_a_grant_that_was_passed_on_is_reported_with_the_sql_that_heals_it(
    roles: Roles, passed_on: tuple[str, ...]
) -> None:
    database = await roles.database()
    await fill(roles, database)
    await roles.run(database, "CREATE TYPE colour AS ENUM ('red')")
    first, last = await roles.role("first"), await roles.role("last")
    desired = roles.desired(scopes=[database], privileges=["DELETE"])
    role = await make(roles, desired)
    given, handed = (grant.format(database=quoted(database)) for grant in (passed_on[0], passed_on[-1]))
    session = await roles.administrator.connect(database)
    statements = [
        f"GRANT {given} TO {role} WITH GRANT OPTION",
        f"GRANT TRUNCATE ON plain TO {role}",
        f"SET ROLE {role}",
        f"GRANT {handed} TO {quoted(first)}",
    ]
    if given == handed:
        statements[-1] += " WITH GRANT OPTION"
        statements += [f"SET ROLE {quoted(first)}", f"GRANT {handed} TO {quoted(last)}"]
    for statement in statements:
        await session.execute(statement.encode())
    await session.close()
    before = await roles.others([database], desired.name)

    planned = await roles.apply(desired)

    ((reason, message),) = planned.problems
    assert reason is PlanReason.DEPENDENT_GRANTS
    assert first in message
    assert ("relation", "plain", "TRUNCATE") not in await roles.held(database, desired.name)
    assert ("relation", "plain", "DELETE") not in await roles.held(database, desired.name)
    assert await roles.others([database], desired.name) == before

    await roles.run(database, message.rpartition(" run: ")[2])
    await roles.settle(desired)
    assert await roles.held(database, desired.name) == meant(database, {"DELETE"})


async def test_a_column_that_was_passed_on_keeps_its_table_alone(roles: Roles) -> None:
    database = await roles.database()
    await fill(roles, database)
    friend = await roles.role("friend")
    desired = roles.desired(scopes=[database], privileges=["DELETE"])
    role = await make(roles, desired)
    await roles.run(
        database,
        f"GRANT SELECT (note) ON plain TO {role} WITH GRANT OPTION",
        f"GRANT USAGE ON SCHEMA public TO {role}",
        f"SET ROLE {role}; GRANT SELECT (note) ON plain TO {quoted(friend)}; RESET ROLE",
        f"GRANT SELECT, INSERT ON plain, parted TO {role}",
    )

    planned = await roles.apply(desired)

    (message,) = messages(planned, PlanReason.DEPENDENT_GRANTS)
    assert {
        (name, privilege)
        for kind, name, privilege in await roles.held(database, desired.name)
        if kind == "relation"
    } == {("plain", "SELECT")}
    await roles.run(database, message.rpartition(" run: ")[2])
    await roles.settle(desired)
    assert await roles.held(database, desired.name) == meant(database, {"DELETE"})


async def test_a_membership_that_was_passed_on_is_reported_with_the_sql_that_heals_it(roles: Roles) -> None:
    if roles.version < 16:
        pytest.skip("memberships do not depend on each other before version 16")
    database = await roles.database()
    group, first, last = [await roles.role(label) for label in ("group", "first", "last")]
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(
        "postgres",
        f"GRANT {quoted(group)} TO {role} WITH ADMIN OPTION",
        f"GRANT {quoted(group)} TO {quoted(first)} WITH ADMIN OPTION GRANTED BY {role}",
        f"GRANT {quoted(group)} TO {quoted(last)} GRANTED BY {quoted(first)}",
    )

    ((reason, message),) = (await roles.apply(desired)).problems
    assert reason is PlanReason.DEPENDENT_GRANTS

    await roles.run("postgres", message.rpartition(" run: ")[2])
    await roles.settle(desired)
    assert not await roles.rows(
        "postgres", "SELECT FROM pg_auth_members WHERE roleid = %(role)s::regrole", role=quoted(group)
    )


async def test_memberships_of_every_grantor_are_taken_away(roles: Roles) -> None:
    database = await roles.database()
    group, other = await roles.role("group"), await roles.role("other")
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(
        "postgres",
        f"GRANT {quoted(group)} TO {quoted(other)} WITH ADMIN OPTION",
        f"GRANT pg_monitor TO {role} WITH ADMIN OPTION",
    )
    before = await roles.others([], desired.name)
    await roles.run("postgres", f"GRANT {quoted(group)} TO {role}")
    if roles.version >= 16:
        await roles.run(
            "postgres", f"GRANT {quoted(group)} TO {role} WITH ADMIN OPTION GRANTED BY {quoted(other)}"
        )

    await roles.settle(desired)

    assert not await roles.rows(
        "postgres", "SELECT FROM pg_auth_members WHERE member = %(role)s::regrole", role=role
    )
    assert await roles.others([], desired.name) == before


async def test_members_that_others_put_there_stay_and_are_named(roles: Roles) -> None:
    database = await roles.database()
    other = await roles.role("other")
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run("postgres", f"GRANT {role} TO {quoted(other)}")

    planned = await roles.settle(desired)

    assert other in "".join(planned.observations)
    assert await roles.rows(
        "postgres", "SELECT FROM pg_auth_members WHERE roleid = %(role)s::regrole", role=role
    )


async def test_future_objects_of_owners_and_creators_are_covered_also_of_those_who_come_later(
    roles: Roles,
) -> None:
    database = await roles.database()
    second, creator, late = [await roles.role(label) for label in ("second", "creator", "late")]
    bystander = await roles.role("bystander", "SUPERUSER")
    await roles.run(
        database,
        "CREATE SCHEMA s",
        f"GRANT USAGE, CREATE ON SCHEMA s TO {quoted(creator)}, {quoted(bystander)}",
        f"CREATE TYPE s.mark AS ENUM ('x'); ALTER TYPE s.mark OWNER TO {quoted(second)}",
        f"GRANT USAGE, CREATE ON SCHEMA s TO {quoted(second)}; REVOKE CREATE ON SCHEMA s FROM {quoted(second)}",
    )
    desired = roles.desired(scopes=[f"{database}.s"], privileges=["SELECT", "INSERT", "EXECUTE"])
    await roles.settle(desired)

    defaults = {
        name.split(" in ")[0]
        for kind, name, _ in await roles.held(database, desired.name)
        if "default" in kind
    }
    assert defaults == {second, creator}

    await roles.run(
        database,
        f"GRANT CREATE ON SCHEMA s TO {quoted(second)}",
        f"SET ROLE {quoted(creator)}; CREATE TABLE s.future (id serial); RESET ROLE",
        f"SET ROLE {quoted(second)}; CREATE FUNCTION s.later() RETURNS int LANGUAGE sql AS 'SELECT 1'; RESET ROLE",
        f"CREATE TABLE s.moved (a int); ALTER TABLE s.moved OWNER TO {quoted(late)}",
    )
    async with await roles.login(desired.name, database) as session:
        await session.execute("INSERT INTO s.future DEFAULT VALUES")
        await session.execute("SELECT s.later()")
    await roles.settle(desired)
    defaults = {
        name.split(" in ")[0]
        for kind, name, _ in await roles.held(database, desired.name)
        if "default" in kind
    }
    assert defaults == {second, creator, late}


async def test_an_owner_that_keeps_nothing_of_what_it_creates_hinders_no_plan(roles: Roles) -> None:
    """Such a default privilege is an entry without any item."""
    database = await roles.database()
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role, other = await make(roles, desired), quoted(await roles.role("other"))
    for owner in (role, other):
        await roles.run(
            database, f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE ALL ON SEQUENCES FROM {owner}"
        )

    await roles.settle(desired)


async def test_the_database_owner_is_who_creates_in_a_schema_of_pg_database_owner(roles: Roles) -> None:
    database = await roles.database()
    owner = await roles.role("owner")
    await roles.run("postgres", f"ALTER DATABASE {quoted(database)} OWNER TO {quoted(owner)}")
    await roles.run(database, "ALTER SCHEMA public OWNER TO pg_database_owner")
    desired = roles.desired(scopes=[database], privileges=["SELECT"])

    await roles.settle(desired)

    await roles.run(database, f"SET ROLE {quoted(owner)}; CREATE TABLE future (a int)")
    assert ("relation", "future", "SELECT") in await roles.held(database, desired.name)


async def test_the_database_owner_is_who_creates_beside_a_table_of_pg_database_owner(roles: Roles) -> None:
    database = await roles.database()
    owner = await roles.role("owner")
    await roles.run("postgres", f"ALTER DATABASE {quoted(database)} OWNER TO {quoted(owner)}")
    await roles.run(
        database,
        "CREATE SCHEMA shared",
        "CREATE TABLE shared.orders (a int)",
        "ALTER TABLE shared.orders OWNER TO pg_database_owner",
    )
    desired = roles.desired(scopes=[f"{database}.shared"], privileges=["SELECT"])

    await roles.settle(desired)

    await roles.run(
        database,
        "GRANT CREATE ON SCHEMA shared TO PUBLIC",
        f"SET ROLE {quoted(owner)}; CREATE TABLE shared.future (a int)",
    )
    assert ("relation", "shared.future", "SELECT") in await roles.held(database, desired.name)


async def test_a_name_that_is_not_in_utf_8_hinders_no_plan_that_does_without_it(roles: Roles) -> None:
    database, latin = await roles.database(), f"latin_{roles.suffix}"
    await roles.run("postgres", f"CREATE DATABASE {latin} ENCODING LATIN1 TEMPLATE template0 LOCALE 'C'")
    roles.databases.append(latin)
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = await make(roles, desired)
    in_utf_8, odd = "SET client_encoding = 'UTF8'", quoted(f"é_{roles.suffix}")
    await roles.run(latin, in_utf_8, f"CREATE ROLE {odd}", f"GRANT {role} TO {odd}")
    try:
        planned = await roles.settle(desired)
    finally:
        await roles.run(latin, in_utf_8, f"DROP ROLE {odd}")

    assert any("members of the role" in observation for observation in planned.observations)


async def test_extension_routines_that_public_may_not_execute_are_left_out_and_named(roles: Roles) -> None:
    database = await roles.database()
    await roles.run(
        database,
        "CREATE SCHEMA ext",
        "CREATE EXTENSION pg_stat_statements SCHEMA ext",
        "CREATE EXTENSION lo SCHEMA ext",
        "CREATE FUNCTION ext.own() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "REVOKE ALL ON FUNCTION ext.own() FROM PUBLIC",
    )
    desired = roles.desired(scopes=[f"{database}.ext"], privileges=["EXECUTE"])
    role = await make(roles, desired)
    await roles.run(database, f"GRANT EXECUTE ON ALL ROUTINES IN SCHEMA ext TO {role}")

    planned = await roles.settle(desired)

    (withheld,) = planned.withheld_routines
    assert "pg_stat_statements_reset" in withheld
    routines = {name for kind, name, _ in await roles.held(database, desired.name) if kind == "routine"}
    assert {"ext.own()", "ext.lo_manage()"} <= routines
    assert not any("reset" in name for name in routines)


async def test_what_the_role_owns_is_no_grant_and_stays(roles: Roles) -> None:
    database = await roles.database()
    desired = roles.desired(scopes=[f"{database}.s"], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(
        database,
        f"CREATE SCHEMA s AUTHORIZATION {role}",
        "CREATE TABLE s.theirs (a int)",
        f"CREATE TABLE s.own (a int); ALTER TABLE s.own OWNER TO {role}",
    )

    planned = await roles.settle(desired)

    assert any("s.own" in observation for observation in planned.observations)
    statements = [statement.text for statement in planned.statements]
    assert f'GRANT SELECT ON TABLE "s"."theirs" TO {role}' in statements
    assert not any("own" in text for text in statements)


async def test_attributes_are_reset_and_settings_left_alone(roles: Roles) -> None:
    database = await roles.database()
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(
        "postgres",
        f"ALTER ROLE {role} SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS NOINHERIT NOLOGIN CONNECTION LIMIT 3 "
        f"VALID UNTIL '2001-01-01'",
        f"ALTER ROLE {role} SET work_mem = '7MB'",
    )

    await roles.settle(desired)

    row = await roles.rows(
        "postgres",
        "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolinherit, rolcanlogin, "
        "rolconnlimit, rolvaliduntil::text, rolconfig FROM pg_roles WHERE rolname = %(role)s",
        role=desired.name,
    )
    assert row == [(False, False, False, False, False, True, True, -1, "infinity", ["work_mem=7MB"])]


async def test_an_external_plan_is_one_membership_that_inherits(roles: Roles) -> None:
    source, extra = await roles.role("source"), await roles.role("extra")
    desired = roles.desired(source_role=source)
    await roles.settle(desired)
    await roles.run(
        "postgres",
        f"GRANT {quoted(extra)} TO {quoted(desired.name)}",
        f"REVOKE {quoted(source)} FROM {quoted(desired.name)}",
        f"GRANT {quoted(source)} TO {quoted(desired.name)} WITH ADMIN OPTION",
    )
    if roles.version >= 16:
        await roles.run(
            "postgres", f"GRANT {quoted(source)} TO {quoted(desired.name)} WITH INHERIT FALSE, SET FALSE"
        )

    await roles.settle(desired)

    assert await roles.rows(
        "postgres",
        "SELECT roleid::regrole::text, admin_option, pg_has_role(member, roleid, 'USAGE') "
        "FROM pg_auth_members WHERE member = %(role)s::regrole",
        role=quoted(desired.name),
    ) == [(source, False, True)]


DANGERS = {
    "a superuser": "ALTER ROLE {source} SUPERUSER",
    "CREATEROLE": "ALTER ROLE {source} CREATEROLE",
    "CREATEDB": "ALTER ROLE {source} CREATEDB",
    "BYPASSRLS": "ALTER ROLE {source} BYPASSRLS",
    "REPLICATION": "ALTER ROLE {source} REPLICATION",
    "server programs": "GRANT pg_execute_server_program TO {source}",
    "a chain": "GRANT {far} TO {source}; GRANT pg_write_all_data TO {far}",
    "the admin": "GRANT postgres TO {source}",
    "another plan": "COMMENT ON ROLE {source} IS 'hoop.dev/role-plan: default/a/b'",
}


@pytest.mark.parametrize("danger", DANGERS.values(), ids=DANGERS.keys())
async def test_a_dangerous_source_role_needs_an_explicit_word(roles: Roles, danger: str) -> None:
    source, far = await roles.role("source"), await roles.role("far")
    await roles.run("postgres", danger.format(source=quoted(source), far=quoted(far)))

    planned = await roles.plan(roles.desired(source_role=source))
    assert messages(planned, PlanReason.DANGEROUS_SOURCE_ROLE)
    assert planned.statements == ()

    allowed = roles.desired(source_role=source, dangerous_source_roles_allowed=frozenset({source}))
    await roles.settle(allowed)


async def test_all_that_is_wrong_is_said_at_once_and_only_revokes_are_made(roles: Roles) -> None:
    database = await roles.database()
    await fill(roles, database)
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    role = await make(roles, desired)
    await roles.run(database, f"GRANT DELETE ON plain TO {role}")

    wrong = roles.desired(
        scopes=[database, f"{database}.none", "template1", "template0", "no_such_database"],
        privileges=["SELECT"],
    )
    planned = await roles.apply(wrong)

    assert len(messages(planned, PlanReason.DATABASE_NOT_FOUND)) == 3
    assert len(messages(planned, PlanReason.SCHEMA_NOT_FOUND)) == 1
    assert await roles.held(database, desired.name) == set()


async def test_a_role_that_is_not_ours_stays_untouched(roles: Roles) -> None:
    database = await roles.database()
    desired = roles.desired(scopes=[database, "no_such_database"], privileges=["SELECT"])
    await roles.run("postgres", f"CREATE ROLE {quoted(desired.name)} CONNECTION LIMIT 5")

    planned = await roles.apply(desired)

    assert [reason for reason, _ in planned.problems] == [
        PlanReason.ROLE_CONFLICT,
        PlanReason.DATABASE_NOT_FOUND,
    ]
    assert planned.statements == ()


async def test_the_server_is_given_a_scram_verifier_and_never_the_password(roles: Roles) -> None:
    database = await roles.database()
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    planned = await roles.settle(desired)

    assert not any("SCRAM-SHA" in statement.text for statement in planned.statements)
    ((verifier,),) = await roles.rows(
        "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = %(role)s", role=desired.name
    )
    assert scram.matches(roles.password, verifier)
    assert desired.name in (log := roles.administrator.server.log.read_text(errors="replace"))
    assert roles.password not in log


async def test_a_superuser_who_owns_something_in_the_schema_is_an_owner_like_any_other(roles: Roles) -> None:
    database = await roles.database()
    await roles.run(database, "CREATE TABLE t (a int)")
    desired = roles.desired(scopes=[database], privileges=["SELECT"])
    await roles.settle(desired)
    await roles.run(database, "CREATE TABLE future (a int)")
    assert ("relation", "future", "SELECT") in await roles.held(database, desired.name)


async def test_what_sits_in_a_database_that_refuses_connections_is_reported_and_fails_nothing(
    roles: Roles,
) -> None:
    open_, closed = await roles.database(), await roles.database()
    await roles.settle(roles.desired(scopes=[open_, closed], privileges=["SELECT"]))
    await roles.run("postgres", f"ALTER DATABASE {quoted(closed)} ALLOW_CONNECTIONS false")

    planned = await roles.settle(roles.desired(scopes=[open_], privileges=["SELECT"]))

    assert any(closed in observation for observation in planned.observations)
    assert ("database", closed, "CONNECT") not in await roles.held(open_, roles.desired().name)


async def test_a_database_dropped_between_listing_and_connecting_fails_no_plan(
    roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, doomed = await roles.database(), await roles.database()
    await roles.settle(roles.desired(scopes=[kept, doomed], privileges=["SELECT"]))

    async def list_and_drop(*arguments: Any) -> Server:
        server = await read_server(*arguments)
        await roles.run("postgres", f"DROP DATABASE IF EXISTS {quoted(doomed)} WITH (FORCE)")
        return server

    monkeypatch.setattr(turn, "read_server", list_and_drop)

    planned = await roles.plan(roles.desired(scopes=[kept], privileges=["SELECT"]))

    assert planned.problems == ()
