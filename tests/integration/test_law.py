"""The law of the planner, on a real server: whatever happened before, one run brings a role to exactly its plan.

Hypothesis draws what people and tools do to two databases: schemas, owners, objects of every kind, grants of every form
by every grantor, default privileges, memberships, attributes. Then a plan is run, and

- the role's direct grants, memberships and attributes are the plan's;
- a second plan has nothing to do;
- nobody else's privilege, membership or attribute is another than before;
- who logs in as the role has what the plan asks, what PUBLIC has and what it owns, and no more.

Where something has to be left to a person, because of others or because the admin is no superuser, the SQL of the
message is run as it stands, and then the same holds. In the end the plan is deleted, and the role goes without taking
anything from anybody. A
statement that makes no sense where it is drawn is refused by the server, and that is all that becomes of it.
"""

import asyncio
import os
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar, LiteralString, NamedTuple, TypeVar

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from psycopg.rows import TupleRow

from hoop_operator.crd import Privilege
from hoop_operator.errors import PlanFailure, PlanReason
from hoop_operator.planner.model import DesiredRole, Identity
from hoop_operator.planner.plan import RolePlan
from hoop_operator.planner.scopes import Scope
from integration.administrator import Administrator
from integration.roles import ACL, ACL_COLUMNS, DEFAULT_ACL, PARAMETER_ACL, Roles, literal
from local.postgresql import Server

T = TypeVar("T")

EXAMPLES = int(os.environ.get("LAW_EXAMPLES", "300"))
"""How many worlds are drawn; `make test-matrix` asks for more."""

ROUNDS = 4
"""How often a person may have to be asked: what one remedy makes possible may show what else is in the way."""

ROUNDS_OF_REMOVAL = 20
"""Of several remedies in a message the last one is followed each time."""

OURS = "law_ours"
ADMIN = "postgres"
STEWARD = "law_steward"
"""An admin with CREATEROLE, and whatever else is drawn for it."""
PEOPLE = ("law_owner_a", "law_owner_b", "law_lender", "law_group", "law_other", STEWARD)
ROLES = (*PEOPLE, OURS)
OTHERS = frozenset({"", ADMIN, "pg_database_owner", "pg_monitor", "pg_read_all_data", *PEOPLE})
"""Who must not lose anything; empty is PUBLIC."""
DATABASES = ("law_a", "law_b")
SCHEMAS = ("public", "s1", "s2")
IDENTITY = Identity("test", "law", "ours")

TABLE_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")


class Kind(NamedTuple):
    """How objects of a kind are made and granted on."""

    create: LiteralString
    keyword: LiteralString
    privileges: tuple[str, ...]
    owner: LiteralString = ""
    """What ALTER … OWNER calls the kind; the keyword unless it says otherwise."""
    in_schema: bool = True


KINDS: Mapping[str, Kind] = {
    "table": Kind("CREATE TABLE {} (a serial, b int)", "TABLE", TABLE_PRIVILEGES),
    "partitioned": Kind("CREATE TABLE {} (a int, b int) PARTITION BY RANGE (a)", "TABLE", TABLE_PRIVILEGES),
    "view": Kind("CREATE VIEW {} AS SELECT 1 AS a, 2 AS b", "TABLE", TABLE_PRIVILEGES),
    "matview": Kind("CREATE MATERIALIZED VIEW {} AS SELECT 1 AS a, 2 AS b", "TABLE", TABLE_PRIVILEGES),
    "foreign": Kind("CREATE FOREIGN TABLE {} (a int, b int) SERVER law_nowhere", "TABLE", TABLE_PRIVILEGES),
    "sequence": Kind("CREATE SEQUENCE {}", "SEQUENCE", ("USAGE", "SELECT", "UPDATE")),
    "function": Kind("CREATE FUNCTION {}() RETURNS int LANGUAGE sql AS 'SELECT 1'", "ROUTINE", ("EXECUTE",)),
    "procedure": Kind("CREATE PROCEDURE {}() LANGUAGE sql AS 'SELECT 1'", "ROUTINE", ("EXECUTE",)),
    "enum": Kind("CREATE TYPE {} AS ENUM ('a')", "TYPE", ("USAGE",)),
    "domain": Kind("CREATE DOMAIN {} AS int", "TYPE", ("USAGE",)),
    "schema": Kind("", "SCHEMA", ("USAGE", "CREATE")),
    "database": Kind("", "DATABASE", ("CONNECT", "CREATE", "TEMPORARY")),
    "server": Kind("", "FOREIGN SERVER", ("USAGE",), "SERVER"),
    "wrapper": Kind("", "FOREIGN DATA WRAPPER", ("USAGE",)),
    "language": Kind("", "LANGUAGE", ("USAGE",)),
    "large object": Kind("", "LARGE OBJECT", ("SELECT", "UPDATE")),
    "tablespace": Kind("", "TABLESPACE", ("CREATE",)),
    "parameter": Kind("", "PARAMETER", ("SET", "ALTER SYSTEM")),
}
FIXED = frozenset({"wrapper", "language", "tablespace", "parameter"})
"""Whose owner stays a superuser."""
MADE = tuple(name for name, kind in KINDS.items() if kind.create)
PLURALS = {"TABLES": TABLE_PRIVILEGES, "SEQUENCES": ("USAGE", "SELECT", "UPDATE"), "ROUTINES": ("EXECUTE",)}
ATTRIBUTES = (
    "SUPERUSER",
    "CREATEDB",
    "CREATEROLE",
    "REPLICATION",
    "BYPASSRLS",
    "NOINHERIT",
    "NOLOGIN",
    "CONNECTION LIMIT 2",
    "VALID UNTIL '2001-01-01'",
    "NOSUPERUSER",
)


EFFECTIVE_DEFAULT_ACL: LiteralString = """
    SELECT 'default ' || defaclobjtype::text, defaclrole::regrole || ' in ' || defaclnamespace::regnamespace,
           a.grantee, a.grantor, a.privilege_type, a.is_grantable
      FROM pg_default_acl, LATERAL aclexplode(defaclacl) a WHERE defaclnamespace <> 0
    UNION ALL
    SELECT 'default ' || t, r.rolname, a.grantee, a.grantor, a.privilege_type, a.is_grantable
      FROM pg_roles r CROSS JOIN unnest(ARRAY['r', 'S', 'f', 'T', 'n']) t
      LEFT JOIN pg_default_acl d ON d.defaclrole = r.oid AND d.defaclnamespace = 0 AND d.defaclobjtype = t::"char",
           LATERAL aclexplode(coalesce(d.defaclacl, acldefault(replace(t, 'S', 's')::"char", r.oid))) a
"""
"""An entry that says what the server would do anyway comes and goes with others' (manual, ALTER DEFAULT PRIVILEGES)."""


class Thing(NamedTuple):
    """An object that can be granted on."""

    database: str
    kind: str
    name: str

    @property
    def reference(self) -> str:
        keyword = KINDS[self.kind].keyword
        return f"{keyword} {self.name}{'()' if keyword == 'ROUTINE' else ''}"


class World:
    """Two databases of a server, in which hypothesis plays and which are swept clean after each game."""

    def __init__(self, server: Server, runner: asyncio.Runner) -> None:
        self.server = server
        self.version = int(server.version)
        self._runner = runner
        self._administrator = Administrator(server)
        self.roles = Roles(self._administrator)
        for name in DATABASES:
            runner.run(self._administrator.create_database(name))
        self.sessions = {name: self._connect(name) for name in (*DATABASES, "postgres")}

    def _connect(self, database: str) -> psycopg.Connection[TupleRow]:
        return psycopg.connect(
            host=self.server.host,
            port=self.server.port,
            user=self.server.user,
            password=self.server.password,
            dbname=database,
            autocommit=True,
        )

    def execute(self, database: str, *statements: str) -> None:
        for statement in statements:
            self.sessions[database].execute(statement.encode())

    def attempt(self, database: str, statement: str, as_role: str | None = None) -> None:
        """Run a statement that may make no sense."""
        with suppress(psycopg.Error):
            self.execute(database, f"SET ROLE {as_role or 'NONE'}", statement)
        self.execute(database, "RESET ROLE")

    def rows(self, database: str, query: LiteralString, **parameters: Any) -> list[tuple[Any, ...]]:
        return self.sessions[database].execute(query, parameters).fetchall()

    def sweep(self) -> None:
        """Leave two databases with the same empty schemas, and none of the roles but new ones."""
        found = {name for (name,) in self.rows("postgres", "SELECT rolname FROM pg_roles")}
        present = [name for name in ROLES if name in found]
        # Without rights of others, each of them can take back what it granted itself.
        self.execute("postgres", *(f"ALTER ROLE {role} NOSUPERUSER" for role in present))
        for group, member, grantor in self.rows(
            "postgres", "SELECT roleid::regrole, member::regrole, grantor::regrole FROM pg_auth_members"
        ):
            if member in present:
                by = f" GRANTED BY {grantor}" if self.version >= 16 else ""
                self.execute("postgres", f"REVOKE {group} FROM {member}{by} CASCADE")
        for database in DATABASES:
            self.execute(database, f"ALTER DATABASE {database} OWNER TO {ADMIN}")
            for grantor in (*present, "NONE"):
                everybody = ", ".join(present)
                shared = [f"DATABASE {database}", "TABLESPACE pg_default"]
                shared += ["PARAMETER work_mem"] if self.version >= 15 else []
                for thing in shared if present else ():
                    self.attempt(database, f"REVOKE ALL ON {thing} FROM {everybody} CASCADE", as_role=grantor)
            self.execute(
                database,
                "DROP LANGUAGE IF EXISTS law_language CASCADE",
                "CREATE TRUSTED LANGUAGE law_language HANDLER plpgsql_call_handler",
                "DROP FOREIGN DATA WRAPPER IF EXISTS law_nothing CASCADE",
                "CREATE FOREIGN DATA WRAPPER law_nothing",
                "CREATE SERVER law_nowhere FOREIGN DATA WRAPPER law_nothing",
            )
            self.execute(database, *(f"DROP OWNED BY {role} CASCADE" for role in present))
            self.execute(
                database,
                *(f"DROP SCHEMA IF EXISTS {schema} CASCADE" for schema in SCHEMAS),
                *(f"CREATE SCHEMA {schema}" for schema in SCHEMAS),
                "GRANT USAGE ON SCHEMA public TO PUBLIC",
                "SELECT lo_unlink(oid) FROM pg_largeobject_metadata",
            )
        self.execute("postgres", *(f"DROP ROLE {role}" for role in present))

    def act_as(self, admin: str) -> None:
        """Have one of the roles be the operator's admin."""
        password = self.server.password if admin == ADMIN else self.roles.password
        self.roles.connection = replace(self.roles.connection, user=admin, password=password)

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(step)

    def close(self) -> None:
        self.sweep()
        for session in self.sessions.values():
            session.close()
        self._runner.run(self._administrator.close())

    def acl(self, database: str) -> set[tuple[Any, ...]]:
        """Every ACL entry: kind, name, grantee, grantor, privilege, grant option."""
        columns = ACL_COLUMNS + (PARAMETER_ACL if self.version >= 15 else "")
        return {*self.rows(database, ACL.format(columns=columns, defaults=EFFECTIVE_DEFAULT_ACL))}

    def others(self) -> list[set[tuple[Any, ...]]]:
        """All that everybody has but our role, and but those whom other tests make on this server meanwhile."""
        entries = [
            {
                entry
                for entry in self.acl(name)
                if OTHERS.issuperset(entry[2:4])
                and (entry[0] != "database" or entry[1] in DATABASES)
                # What a superuser may set anyway is kept as an entry only beside others.
                and (entry[0], entry[2]) != ("parameter", ADMIN)
            }
            for name in DATABASES
        ]
        memberships = self.rows(
            "postgres", "SELECT roleid::regrole::text, member::regrole::text, m.* FROM pg_auth_members m"
        )
        attributes = self.rows(
            "postgres",
            "SELECT a::text FROM pg_authid a WHERE a.rolname = ANY (%(roles)s)",
            roles=list(OTHERS),
        )
        return [
            *entries,
            {row for row in memberships if OTHERS.issuperset(row[:2])},
            {*attributes},
        ]

    def held(self, database: str) -> set[tuple[str, str, str, bool]]:
        """What our role was granted: kind, name, privilege, grant option; not what it has as an owner."""
        columns = ACL_COLUMNS + (PARAMETER_ACL if self.version >= 15 else "")
        query: LiteralString = """
            SELECT c.kind, c.name, a.privilege_type, a.is_grantable
              FROM ({columns}) AS c, LATERAL aclexplode(c.acl) AS a
             WHERE a.grantee = %(role)s::regrole AND c.owner <> a.grantee
            UNION ALL
            SELECT d.kind, d.name, d.privilege_type, d.is_grantable
              FROM ({defaults}) AS d (kind, name, grantee, grantor, privilege_type, is_grantable)
             WHERE d.grantee = %(role)s::regrole AND d.grantor <> d.grantee
        """
        return {*self.rows(database, query.format(columns=columns, defaults=DEFAULT_ACL), role=OURS)}

    def meant(
        self, database: str, scopes: frozenset[Scope], privileges: frozenset[str]
    ) -> set[tuple[str, str, str, bool]]:
        """What a plan means, said by the catalogs in another way than the planner reads them."""
        schemas = [scope.schema for scope in scopes if scope.database == database]
        tables = [name for name in TABLE_PRIVILEGES if name in privileges]
        sequences = ["USAGE", "SELECT"] if privileges & {"INSERT", "UPDATE"} else []
        routines = ["EXECUTE"] if "EXECUTE" in privileges else []
        query: LiteralString = """
            WITH asked AS (
                SELECT oid, nspname, nspowner, nspacl,
                       CASE WHEN nspowner = 'pg_database_owner'::regrole
                            THEN (SELECT datdba FROM pg_database WHERE datname = current_database())
                            ELSE nspowner END AS owner
                  FROM pg_namespace WHERE nspname = ANY (%(schemas)s)
            ), object AS (
                SELECT relnamespace AS namespace, relowner AS owner,
                       CASE relkind WHEN 'S' THEN 'S' ELSE 'r' END AS type, oid::regclass::text AS name
                  FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
                UNION ALL
                SELECT pronamespace, proowner, 'f', oid::regprocedure::text FROM pg_proc
            ), creator (oid, owner) AS (
                SELECT a.oid, coalesce(d.datdba, x.owner)
                  FROM asked a JOIN (SELECT namespace, owner FROM object
                                     UNION SELECT typnamespace, typowner FROM pg_type) x ON x.namespace = a.oid
                  LEFT JOIN pg_database d
                    ON d.datname = current_database() AND x.owner = 'pg_database_owner'::regrole
                UNION SELECT a.oid, r.oid FROM asked a JOIN pg_roles r ON NOT r.rolsuper AND (r.oid = a.owner
                      OR EXISTS (SELECT FROM aclexplode(a.nspacl) x
                                  WHERE x.grantee = r.oid AND x.privilege_type = 'CREATE'))
                      AND r.rolname <> 'pg_database_owner'
            ), wanted (type, privilege) AS (
                SELECT 'r', unnest(%(tables)s::text[]) UNION ALL SELECT 'S', unnest(%(sequences)s::text[])
                UNION ALL SELECT 'f', unnest(%(routines)s::text[])
            )
            SELECT CASE o.type WHEN 'f' THEN 'routine' ELSE 'relation' END, o.name, w.privilege
              FROM asked a JOIN object o ON o.namespace = a.oid JOIN wanted w ON w.type = o.type
             WHERE o.owner <> %(role)s::regrole
            UNION
            SELECT 'default ' || w.type, c.owner::regrole || ' in ' || c.oid::regnamespace, w.privilege
              FROM creator c, wanted w WHERE c.owner <> %(role)s::regrole
            UNION
            SELECT 'schema', a.nspname, p FROM asked a, unnest(%(on_schema)s::text[]) p
             WHERE a.nspowner <> %(role)s::regrole
            UNION
            SELECT 'database', datname, 'CONNECT' FROM pg_database
             WHERE datname = ANY (%(databases)s) AND datdba <> %(role)s::regrole
        """
        rows = self.rows(
            database,
            query,
            role=OURS,
            schemas=schemas,
            tables=tables,
            sequences=sequences,
            routines=routines,
            on_schema=["USAGE", "CREATE"] if "CREATE" in privileges else ["USAGE"],
            databases=[scope.database for scope in scopes],
        )
        return {(kind, name, privilege, False) for kind, name, privilege in rows}

    def rights(self, database: str) -> tuple[set[tuple[str, str, str]], set[tuple[str, str, str]]]:
        """What the server lets our role do there, and what its own grants, PUBLIC's and its ownership amount to."""
        query: LiteralString = """
            WITH object (kind, oid, name, acl, type, owner) AS (
                SELECT 'relation', oid, oid::regclass::text, relacl,
                       CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner
                  FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND oid >= 16384
                UNION ALL SELECT 'routine', oid, oid::regprocedure::text, proacl, 'f', proowner FROM pg_proc
                           WHERE oid >= 16384
                UNION ALL SELECT 'schema', oid, nspname, nspacl, 'n', nspowner FROM pg_namespace WHERE nspname !~ '^pg_'
                UNION ALL SELECT 'database', oid, datname, datacl, 'd', datdba FROM pg_database
            ), right_ AS (
                SELECT o.*, p,
                       CASE o.type WHEN 'r' THEN has_table_privilege(%(role)s, o.oid, p)
                                   WHEN 's' THEN has_sequence_privilege(%(role)s, o.oid, p)
                                   WHEN 'f' THEN has_function_privilege(%(role)s, o.oid, p)
                                   WHEN 'n' THEN has_schema_privilege(%(role)s, o.oid, p)
                                   ELSE has_database_privilege(%(role)s, o.oid, p) END AS has
                  FROM object o, LATERAL unnest(CASE o.type
                         WHEN 'r' THEN %(tables)s::text[] WHEN 's' THEN '{{USAGE,SELECT,UPDATE}}'
                         WHEN 'f' THEN '{{EXECUTE}}' WHEN 'n' THEN '{{USAGE,CREATE}}'
                         ELSE '{{CONNECT,CREATE,TEMPORARY}}' END) p
            )
            SELECT kind, name, p, has, owner = %(role)s::regrole
                   OR owner = 'pg_database_owner'::regrole AND pg_has_role(%(role)s, owner, 'USAGE')
                   OR EXISTS (SELECT FROM aclexplode(coalesce(acl, acldefault(type, owner))) a
                               WHERE a.grantee IN (0, %(role)s::regrole) AND a.privilege_type = p)
              FROM right_
        """
        rows = self.rows(database, query.format(), role=OURS, tables=list(TABLE_PRIVILEGES))
        return {row[:3] for row in rows if row[3]}, {row[:3] for row in rows if row[4]}


@pytest.fixture(scope="module")
def world(postgres: Server) -> Iterator[World]:
    with asyncio.Runner() as runner:
        world = World(postgres, runner)
        yield world
        world.close()


people = st.sampled_from(PEOPLE)
anybody = st.sampled_from(ROLES)
grantees = st.sampled_from((OURS, OURS, OURS, *PEOPLE, "PUBLIC"))
databases = st.sampled_from(DATABASES)
schemas = st.sampled_from(SCHEMAS)


class Law(RuleBasedStateMachine):
    """Whatever is drawn, a run ends with what its plan says."""

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.world.sweep()
        login = f"CREATEROLE LOGIN PASSWORD {literal(self.world.roles.password)}"
        self.world.execute(
            "postgres", *(f"CREATE ROLE {role} {login if role == STEWARD else ''}" for role in PEOPLE)
        )
        self.things: list[Thing] = []
        for database in DATABASES:
            self.things += [
                *(Thing(database, "schema", name) for name in SCHEMAS),
                Thing(database, "database", database),
                Thing(database, "server", "law_nowhere"),
                Thing(database, "wrapper", "law_nothing"),
                Thing(database, "language", "law_language"),
                Thing(database, "tablespace", "pg_default"),
            ]
            if self.world.version >= 15:
                self.things.append(Thing(database, "parameter", "work_mem"))

    @initialize(
        scopes=st.sets(st.builds(Scope, databases, schemas), min_size=1, max_size=4),
        privileges=st.sets(st.sampled_from(Privilege), min_size=1, max_size=5),
        is_new=st.sampled_from((False, False, False, True)),
        admin=st.sampled_from((ADMIN, STEWARD)),
    )
    def ask(self, scopes: set[Scope], privileges: set[Privilege], is_new: bool, admin: str) -> None:
        self.plan(scopes, privileges)
        self.world.act_as(admin)
        if not is_new:
            self.world.execute(
                "postgres",
                f"CREATE ROLE {OURS} LOGIN PASSWORD {literal(self.world.roles.password)}",
                f"COMMENT ON ROLE {OURS} IS {literal(IDENTITY.comment)}",
            )

    @rule(
        scopes=st.sets(st.builds(Scope, databases, schemas), min_size=1, max_size=4),
        privileges=st.sets(st.sampled_from(Privilege), min_size=1, max_size=5),
    )
    def run_and_ask_for_something_else(self, scopes: set[Scope], privileges: set[Privilege]) -> None:
        self.check()
        self.plan(scopes, privileges)

    def plan(self, scopes: set[Scope], privileges: set[Privilege]) -> None:
        self.desired = DesiredRole(OURS, IDENTITY, frozenset(scopes), frozenset(privileges))

    @rule(database=databases, schema=schemas, kind=st.sampled_from(MADE), owner=anybody)
    def make(self, database: str, schema: str, kind: str, owner: str) -> None:
        thing = Thing(database, kind, f"{schema}.{kind}_{len(self.things)}")
        self.things.append(thing)
        self.attempt(database, KINDS[kind].create.format(thing.name))
        self.own(thing, owner)

    @rule(database=databases, owner=anybody)
    def make_large_object(self, database: str, owner: str) -> None:
        ((oid,),) = self.world.rows(database, "SELECT lo_from_bytea(0, 'x')")
        self.things.append(Thing(database, "large object", str(oid)))
        self.own(self.things[-1], owner)

    @rule(data=st.data(), owner=anybody | st.just("pg_database_owner"))
    def give_away(self, data: st.DataObject, owner: str) -> None:
        unfit = FIXED | {"database"} if owner == "pg_database_owner" else FIXED
        self.own(
            data.draw(st.sampled_from([thing for thing in self.things if thing.kind not in unfit])), owner
        )

    def own(self, thing: Thing, owner: str) -> None:
        keyword = KINDS[thing.kind].owner or KINDS[thing.kind].keyword
        reference = thing.reference.removeprefix(KINDS[thing.kind].keyword)
        self.attempt(thing.database, f"ALTER {keyword}{reference} OWNER TO {owner}")

    @rule(data=st.data(), grantee=grantees, grantor=st.none() | anybody, option=st.booleans())
    def grant(self, data: st.DataObject, grantee: str, grantor: str | None, option: bool) -> None:
        thing = data.draw(st.sampled_from(self.things))
        names = data.draw(st.sets(st.sampled_from(KINDS[thing.kind].privileges), min_size=1))
        self.attempt(
            thing.database,
            f"GRANT {', '.join(sorted(names))} ON {thing.reference} TO {grantee}{' WITH GRANT OPTION' * option}",
            as_role=grantor,
        )

    @rule(
        data=st.data(),
        owner=people,
        hand=people,
        ours_gives=st.booleans(),
        option=st.booleans(),
        then=st.sampled_from(("", "member", "superuser", "blind")),
    )
    def pass_on(
        self, data: st.DataObject, owner: str, hand: str, ours_gives: bool, option: bool, then: str
    ) -> None:
        """Grant to one, who grants to another, and then comes to be the owner's equal or loses sight of the object."""
        giver, taker = (OURS, hand) if ours_gives else (hand, OURS)
        made = [thing for thing in self.things if KINDS[thing.kind].create]
        thing = data.draw(st.sampled_from(self.things) | st.sampled_from(made or self.things))
        schema = thing.name.partition(".")[0] if KINDS[thing.kind].create else None
        names = ", ".join(
            sorted(data.draw(st.sets(st.sampled_from(KINDS[thing.kind].privileges), min_size=1)))
        )
        if thing.kind not in FIXED:
            self.own(thing, owner)
        if schema is not None:
            self.attempt(thing.database, f"GRANT USAGE ON SCHEMA {schema} TO {giver}")
        self.attempt(thing.database, f"GRANT {names} ON {thing.reference} TO {giver} WITH GRANT OPTION")
        grant = f"GRANT {names} ON {thing.reference} TO {taker}{' WITH GRANT OPTION' * option}"
        self.attempt(thing.database, grant, as_role=giver)
        if then == "superuser":
            self.attempt("postgres", f"ALTER ROLE {giver} SUPERUSER")
        elif then == "blind" and schema is not None:
            self.attempt(thing.database, f"REVOKE ALL ON SCHEMA {schema} FROM {giver} CASCADE")
        elif then == "member":
            self.attempt("postgres", f"GRANT {owner} TO {giver}")

    @rule(data=st.data(), grantee=grantees, grantor=st.none() | anybody, option=st.booleans())
    def grant_column(self, data: st.DataObject, grantee: str, grantor: str | None, option: bool) -> None:
        tables = [thing for thing in self.things if KINDS[thing.kind].keyword == "TABLE"]
        if tables:
            thing = data.draw(st.sampled_from(tables))
            privilege = data.draw(st.sampled_from(("SELECT", "INSERT", "UPDATE", "REFERENCES")))
            self.attempt(
                thing.database,
                f"GRANT {privilege} (a) ON {thing.reference} TO {grantee}{' WITH GRANT OPTION' * option}",
                as_role=grantor,
            )

    @rule(
        database=databases,
        schema=schemas,
        plural=st.sampled_from(tuple(PLURALS)),
        grantee=grantees,
        grantor=st.none() | people,
        option=st.booleans(),
    )
    def grant_all(
        self, database: str, schema: str, plural: str, grantee: str, grantor: str | None, option: bool
    ) -> None:
        self.attempt(
            database,
            f"GRANT ALL ON ALL {plural} IN SCHEMA {schema} TO {grantee}{' WITH GRANT OPTION' * option}",
            as_role=grantor,
        )

    @rule(
        database=databases,
        owner=st.sampled_from((*ROLES, ADMIN)),
        schema=st.none() | schemas,
        plural=st.sampled_from(tuple(PLURALS)),
        grantee=grantees,
        option=st.booleans(),
        revoke=st.booleans(),
        data=st.data(),
    )
    def set_default(
        self,
        database: str,
        owner: str,
        schema: str | None,
        plural: str,
        grantee: str,
        option: bool,
        revoke: bool,
        data: st.DataObject,
    ) -> None:
        if owner == ADMIN and grantee == "PUBLIC":
            return  # nothing sweeps that away
        names = ", ".join(sorted(data.draw(st.sets(st.sampled_from(PLURALS[plural]), min_size=1))))
        change = (
            f"REVOKE {names} ON {plural} FROM {grantee}"
            if revoke
            else f"GRANT {names} ON {plural} TO {grantee}{' WITH GRANT OPTION' * option}"
        )
        place = f" IN SCHEMA {schema}" if schema else ""
        self.attempt(database, f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner}{place} {change}")

    @rule(
        group=st.sampled_from((*ROLES, "pg_monitor", "pg_read_all_data")),
        member=anybody,
        options=st.sampled_from(("", " WITH ADMIN OPTION", " WITH INHERIT FALSE", " WITH SET FALSE")),
        grantor=st.none() | anybody,
    )
    def join(self, group: str, member: str, options: str, grantor: str | None) -> None:
        self.attempt("postgres", f"GRANT {group} TO {member}{options}", as_role=grantor)

    @rule(
        role=st.sampled_from([role for role in ROLES if role != STEWARD]),
        options=st.sets(st.sampled_from(ATTRIBUTES), min_size=1, max_size=3),
    )
    def empower(self, role: str, options: set[str]) -> None:
        self.attempt("postgres", f"ALTER ROLE {role} {' '.join(sorted(options))}")

    def attempt(self, database: str, statement: str, as_role: str | None = None) -> None:
        self.world.attempt(database, statement, as_role)

    def check(self) -> None:
        world, roles, desired = self.world, self.world.roles, self.desired
        for _ in range(ROUNDS):
            before = world.others()
            planned = world.run(roles.apply(desired))
            for was, now in zip(before, world.others(), strict=True):
                assert (was - now, now - was) == (set(), set())
            if not self.heal(planned):
                break
        else:
            raise AssertionError("what the messages say does not help")
        again = world.run(roles.plan(desired))
        assert again.problems == ()
        assert [statement.text for statement in again.statements] == []
        privileges = frozenset(privilege.value for privilege in desired.privileges)
        for database in DATABASES:
            assert world.held(database) == world.meant(database, desired.scopes, privileges)
            has, explained = world.rights(database)
            assert has == explained
        assert (
            world.rows(
                "postgres",
                "SELECT roleid::regrole FROM pg_auth_members WHERE member = %(r)s::regrole",
                r=OURS,
            )
            == []
        )
        for scope in desired.scopes:
            world.run(self.log_in(scope.database))

    async def log_in(self, database: str) -> None:
        async with await self.world.roles.login(OURS, database):
            pass

    def heal(self, planned: RolePlan) -> bool:
        """Do what the messages ask of a person; tell whether that was anything."""
        assert {reason for reason, _ in planned.problems} <= {
            PlanReason.DEPENDENT_GRANTS,
            PlanReason.INSUFFICIENT_PRIVILEGE,
        }
        asked = [(message, message.rpartition(" run: ")[2]) for _, message in planned.problems]
        if (
            not asked
        ):  # as the object says it: what of the future is not covered, once the present is as it should be
            asked = [
                (owner, owner.partition(" after: ")[2].removesuffix(")"))
                for owner in planned.uncovered_owners
            ]
        for message, remedy in asked:
            (database,) = [name for name in DATABASES if f'in database "{name}"' in message] or ["postgres"]
            try:
                self.world.execute(database, remedy)
            except psycopg.Error as error:
                self.world.execute(database, "ROLLBACK")
                raise AssertionError(f"this does not help: {message}") from error
        return bool(asked)

    def remove(self) -> None:
        """Delete the plan: its role goes, and nobody else loses anything."""
        world = self.world
        before = world.others()
        for _ in range(ROUNDS_OF_REMOVAL):
            outcome = world.run(world.roles.remove(self.desired))
            if outcome is None:
                break
            assert isinstance(outcome, PlanFailure)
            message, _, remedy = outcome.message.rpartition(" run: ")
            database = max((*DATABASES, "postgres"), key=lambda name: message.rfind(f'database "{name}"'))
            world.execute(database, remedy)
        else:
            raise AssertionError("what the messages say does not help")
        assert world.rows("postgres", "SELECT FROM pg_roles WHERE rolname = %(role)s", role=OURS) == []
        # What the role granted on its own objects is now their new owner's grant.
        assert [was - now for was, now in zip(before, world.others(), strict=True)] == [set()] * len(before)

    def teardown(self) -> None:
        if hasattr(self, "desired"):
            self.check()
            self.remove()


def test_one_run_brings_a_role_to_exactly_its_plan_whatever_was_done_before(world: World) -> None:
    Law.world = world
    run_state_machine_as_test(
        Law,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=16,
            report_multiple_bugs=False,
            # Neither examples of an earlier run nor explanations: each costs as much as many new examples.
            phases=[Phase.generate, Phase.shrink],
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
