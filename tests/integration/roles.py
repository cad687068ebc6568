"""Roles on a real server, planned and applied without Kubernetes, and what the catalogs then say of everybody."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from hoop_operator.crd import Privilege
from hoop_operator.credentials.connection import Connection, SslMode
from hoop_operator.errors import PlanFailure, PlanReason, RolesChanged
from hoop_operator.planner.model import DesiredRole, Identity
from hoop_operator.planner.plan import RolePlan, plan_role
from hoop_operator.planner.scopes import parse_scope
from hoop_operator.planner.statements import merge
from hoop_operator.postgres import scram
from hoop_operator.postgres.capabilities import Capabilities, read_capabilities
from hoop_operator.postgres.executor import execute_singly
from hoop_operator.postgres.session import Limits, Sessions, open_sessions
from hoop_operator.reconcile.remove import Removal, remove_roles
from hoop_operator.reconcile.turn import look
from integration.administrator import Administrator
from local.postgresql import Server

LIMITS = Limits(sessions=4, connect_seconds=10, lock_seconds=2, statement_seconds=30)

ACL_COLUMNS: LiteralString = """
    SELECT 'database' AS kind, d.datname::text AS name, d.datacl AS acl, 'd'::"char" AS type, d.datdba AS owner
      FROM pg_database d
    UNION ALL SELECT 'tablespace', spcname, spcacl, 't', spcowner FROM pg_tablespace
    UNION ALL SELECT 'schema', nspname, nspacl, 'n', nspowner FROM pg_namespace
    UNION ALL SELECT 'relation', oid::regclass::text, relacl, CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char",
                     relowner FROM pg_class WHERE relkind IN ('r', 'v', 'm', 'S', 'f', 'p')
    UNION ALL SELECT 'column', attrelid::regclass || '.' || attname::text, attacl, 'c', relowner
                FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE attacl IS NOT NULL
    UNION ALL SELECT 'routine', oid::regprocedure::text, proacl, 'f', proowner
                FROM pg_proc WHERE oid >= 16384 OR proacl IS NOT NULL
    UNION ALL SELECT 'type', oid::regtype::text, typacl, 'T', typowner
                FROM pg_type WHERE oid >= 16384 OR typacl IS NOT NULL
    UNION ALL SELECT 'language', lanname, lanacl, 'l', lanowner FROM pg_language
    UNION ALL SELECT 'large object', oid::text, lomacl, 'L', lomowner FROM pg_largeobject_metadata
    UNION ALL SELECT 'foreign-data wrapper', fdwname, fdwacl, 'F', fdwowner FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'server', srvname, srvacl, 'S', srvowner FROM pg_foreign_server
"""
PARAMETER_ACL: LiteralString = "UNION ALL SELECT 'parameter', parname, paracl, 'p', 10 FROM pg_parameter_acl"
DEFAULT_ACL: LiteralString = """
    SELECT 'default ' || defaclobjtype::text,
           defaclrole::regrole || coalesce(' in ' || defaclnamespace::regnamespace, ''),
           a.grantee, a.grantor, a.privilege_type, a.is_grantable
      FROM pg_default_acl, LATERAL aclexplode(defaclacl) a
"""

ACL: LiteralString = """
    SELECT kind, name, CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee) END,
           pg_get_userbyid(a.grantor), a.privilege_type, a.is_grantable
      FROM ({columns}) AS c, LATERAL aclexplode(coalesce(c.acl, acldefault(c.type, c.owner))) AS a
    UNION ALL
    SELECT c.kind, c.name, CASE c.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(c.grantee) END,
           pg_get_userbyid(c.grantor), c.privilege_type, c.is_grantable
      FROM ({defaults}) AS c (kind, name, grantee, grantor, privilege_type, is_grantable)
"""

Grant = tuple[str, str, str, str, bool]
"""Kind, name, grantor, privilege, grant option."""


class Failed(AssertionError):
    """A plan had problems where the test expected none."""


class Roles:
    """A server with plans' roles on it, as one admin sees it."""

    def __init__(self, administrator: Administrator) -> None:
        self.administrator = administrator
        self.suffix = secrets.token_hex(4)
        self.password = scram.generate_password()
        self.databases: list[str] = []
        self.roles: list[str] = []
        server = administrator.server
        self.version = int(server.version)
        self.connection = administrator_connection(server)
        self.limits = LIMITS

    async def database(self, name: str | None = None) -> str:
        """Make a database."""
        made = await self.administrator.create_database(name)
        self.databases.append(made)
        return made

    async def role(self, label: str, options: LiteralString = "") -> str:
        """Make a role of the test's own, by a name that starts with `label`."""
        name = f"{label}_{self.suffix}"
        await self.run("postgres", f"CREATE ROLE {quoted(name)} {options}")
        self.roles.append(name)
        return name

    async def run(self, database: str, *statements: str) -> None:
        """Run SQL as the superuser, each statement by itself."""
        session = await self.administrator.connect(database)
        try:
            for statement in statements:
                await session.execute(statement.encode())
        finally:
            await session.close()

    async def rows(self, database: str, query: LiteralString, **parameters: object) -> list[TupleRow]:
        """Return what a query of the superuser yields."""
        session = await self.administrator.connect(database)
        try:
            return await (await session.execute(query, parameters or None)).fetchall()
        finally:
            await session.close()

    async def login(self, role: str, database: str) -> psycopg.AsyncConnection[TupleRow]:
        """Open a session of a role that was made with our password."""
        return await psycopg.AsyncConnection.connect(
            host=self.connection.host,
            port=self.connection.port,
            user=role,
            password=self.password,
            dbname=database,
            autocommit=True,
        )

    async def act_as(self, admin: str, database: str) -> None:
        """Have an ordinary role of the server be the operator's admin from now on."""
        await self.run("postgres", f"ALTER ROLE {quoted(admin)} LOGIN PASSWORD {literal(self.password)}")
        self.connection = replace(self.connection, user=admin, password=self.password, database=database)

    def desired(
        self, label: str = "app", scopes: Iterable[str] = (), privileges: Iterable[str] = (), **more: Any
    ) -> DesiredRole:
        """What a plan of that label asks for."""
        name = f"hoopdev_{label}_{self.suffix}"
        if name not in self.roles:
            self.roles.append(name)
        return DesiredRole(
            name,
            Identity("test", "exactness", label),
            scopes=frozenset(map(parse_scope, scopes)),
            privileges=frozenset(map(Privilege, privileges)),
            **more,
        )

    async def plan(self, desired: DesiredRole) -> RolePlan:
        """Plan, and do nothing."""
        async with open_sessions(self.connection, self.limits, lambda _: True) as sessions:
            return await self._plan(sessions, desired)

    async def _plan(self, sessions: Sessions, desired: DesiredRole) -> RolePlan:
        server, databases = await look(sessions, await _capabilities(sessions), [desired])
        return plan_role(desired, server, databases)

    async def apply(self, desired: DesiredRole) -> RolePlan:
        """Plan and apply; the plan may have problems."""
        async with open_sessions(self.connection, self.limits, lambda _: True) as sessions:
            planned = await self._plan(sessions, desired)
            verifiers = {desired.name: scram.make_verifier(self.password)}
            for database in sorted({s.database for s in planned.statements}, key=lambda name: name or ""):
                async with sessions.transaction(database, write=True) as transaction:
                    statements = merge(s for s in planned.statements if s.database == database)
                    await execute_singly(transaction, statements, verifiers)
            return planned

    async def settle(self, desired: DesiredRole) -> RolePlan:
        """Plan and apply without problems, so that a second plan has nothing to do."""
        planned = await self.apply(desired)
        if planned.problems:
            raise Failed("; ".join(message for _, message in planned.problems))
        again = await self.plan(desired)
        assert again.problems == ()
        assert [statement.text for statement in again.statements] == []
        return planned

    async def remove(self, desired: DesiredRole) -> str | PlanFailure | None:
        """Remove a role as the deletion of its plan does."""
        return (await self.remove_together([desired]))[desired.name]

    async def remove_together(self, desired: Sequence[DesiredRole]) -> Mapping[str, str | PlanFailure | None]:
        """Remove roles as the deletion of their plans in one turn does."""
        async with open_sessions(self.connection, self.limits, lambda _: True) as sessions:
            removal = Removal(sessions, await _capabilities(sessions), _wanted)
            outcomes = await remove_roles(removal, desired)
        return {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, RolesChanged)}

    async def exists(self, name: str) -> bool:
        """Whether a role exists."""
        return bool(await self.rows("postgres", "SELECT FROM pg_roles WHERE rolname = %(name)s", name=name))

    async def grants(self, database: str, name: str) -> set[Grant]:
        """All direct grants of a role in a database and on the server as a whole, default privileges included."""
        return {
            (kind, what, grantor, privilege, grantable)
            for kind, what, grantee, grantor, privilege, grantable in await self.acl(database)
            if grantee == name
        }

    async def held(self, database: str, name: str) -> set[tuple[str, str, str]]:
        """Kind, object and privilege of all direct grants of a role there."""
        return {(kind, what, privilege) for kind, what, _, privilege, _ in await self.grants(database, name)}

    async def acl(self, database: str) -> set[tuple[str, str, str, str, str, bool]]:
        """Every ACL entry of a database and of the server, defaults written out; empty is PUBLIC."""
        columns = ACL_COLUMNS + (PARAMETER_ACL if self.version >= 15 else "")
        return {*map(tuple, await self.rows(database, ACL.format(columns=columns, defaults=DEFAULT_ACL)))}

    async def others(self, databases: Sequence[str], name: str) -> list[set[tuple[Any, ...]]]:
        """All that everybody but one role has: ACL entries, memberships, attributes.

        Roles and databases of other tests, which use the server at the same time, are left out.
        """

        def counts(role: str) -> bool:
            return role != name and (role in {*self.roles, "postgres", ""} or role.startswith("pg_"))

        databases_known = {*self.databases, "postgres", "template0", "template1"}
        entries = [
            {
                entry
                for entry in await self.acl(d)
                if counts(entry[2])
                and counts(entry[3])
                and (entry[0] != "database" or entry[1] in databases_known)
            }
            for d in databases
        ]
        memberships = await self.rows(
            "postgres", "SELECT pg_get_userbyid(roleid), pg_get_userbyid(member), m.* FROM pg_auth_members m"
        )
        attributes = await self.rows(
            "postgres",
            "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, "
            "rolconnlimit, rolpassword, rolvaliduntil, rolbypassrls FROM pg_authid",
        )
        return [
            *entries,
            {tuple(map(str, row)) for row in memberships if counts(row[0]) and counts(row[1])},
            {tuple(map(str, row)) for row in attributes if counts(row[0])},
        ]

    async def close(self) -> None:
        """Drop the databases and the roles."""
        for name in self.databases:
            await self.administrator.drop_database(name)
        kept = [name for name in self.roles if await self.exists(name)]
        for name in kept:
            await self.run("postgres", f"DROP OWNED BY {quoted(name)} CASCADE")
        for name in kept:
            await self.run("postgres", f"DROP ROLE {quoted(name)}")


async def fill(roles: Roles, database: str) -> None:
    """Put one of each kind of relation and routine into the schema public."""
    await roles.run(
        database,
        "CREATE TABLE plain (id serial PRIMARY KEY, note text)",
        "CREATE TABLE parted (id int) PARTITION BY RANGE (id)",
        "CREATE VIEW seen AS SELECT 1 AS one",
        "CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one",
        "CREATE FOREIGN DATA WRAPPER nothing",
        "CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing",
        "CREATE FOREIGN TABLE abroad (id int) SERVER nowhere",
        "CREATE FUNCTION fun(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE PROCEDURE proc(int) LANGUAGE sql AS 'SELECT 1'",
        "CREATE AGGREGATE agg(int) (SFUNC = int4pl, STYPE = int)",
    )


async def make(roles: Roles, desired: DesiredRole) -> str:
    """Have the role there, with nothing; returns its quoted name."""
    await roles.settle(DesiredRole(desired.name, desired.identity))
    return quoted(desired.name)


def administrator_connection(server: Server) -> Connection:
    """How the operator reaches a server as its superuser."""
    return Connection(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        database=server.database,
        sslmode=SslMode.DISABLE,
        ca_certificate=None,
        client_certificate=None,
        client_key=None,
        connect_timeout=None,
    )


async def _wanted(role: DesiredRole) -> bool:
    del role
    return True


async def _capabilities(sessions: Sessions) -> Capabilities:
    async with sessions.transaction() as transaction:
        return await read_capabilities(transaction)


def quoted(*names: str) -> str:
    """A qualified SQL identifier."""
    return sql.Identifier(*names).as_string(None)


def literal(text: str) -> str:
    """A SQL literal."""
    return sql.Literal(text).as_string(None)


def messages(planned: RolePlan, reason: PlanReason) -> list[str]:
    """The messages of one reason."""
    return [message for found, message in planned.problems if found is reason]
