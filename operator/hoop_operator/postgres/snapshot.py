"""What a server and its databases hold, as far as some plans are concerned, in one query each.

Every name is qualified and every transaction looks names up in `pg_catalog` alone (see `session`), so what a database
owner may have planted is not met. ACLs are read as PostgreSQL keeps them (manual, `aclexplode`): the functions of the
`has_table_privilege` kind would count what comes from PUBLIC, memberships and ownership. An ACL is taken apart item by
item, because `aclexplode` reads a long one again from its storage for every row that it yields; and items that read
the same on many objects are looked at once.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import sql

from hoop_operator.planner.model import (
    INHERIT_PER_MEMBERSHIP,
    Acl,
    AclEntry,
    Database,
    DatabaseObject,
    DatabaseState,
    DefaultAcl,
    DefaultAclEntry,
    Membership,
    Memberships,
    ObjectKind,
    Role,
    Schema,
    Server,
)
from hoop_operator.postgres.session import Transaction

PARAMETER_ACL_SINCE = 150000


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the admin is and may do on its server."""

    version: int
    """As `server_version_num` has it."""
    version_text: str
    """As people say it, such as 18.6."""
    system_identifier: str | None
    admin: str
    is_superuser: bool
    can_create_role: bool
    attributes: frozenset[str]
    """Which of INHERIT, CREATEDB, REPLICATION and BYPASSRLS the admin has."""
    verifiers_readable: bool
    read_only: bool


CAPABILITIES: LiteralString = """
SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4 AS version,
       pg_catalog.split_part(pg_catalog.current_setting('server_version'), ' ', 1) AS version_text,
       r.rolname AS admin,
       r.rolsuper AS is_superuser,
       r.rolsuper OR r.rolcreaterole AS can_create_role,
       pg_catalog.array_remove(ARRAY[
         CASE WHEN r.rolinherit THEN 'INHERIT' END, CASE WHEN r.rolcreatedb THEN 'CREATEDB' END,
         CASE WHEN r.rolreplication THEN 'REPLICATION' END, CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END
       ], NULL) AS attributes,
       pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT') AS verifiers_readable,
       pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') AS control_readable,
       pg_catalog.pg_is_in_recovery() AS read_only
  FROM pg_catalog.pg_roles AS r
 WHERE r.rolname = current_user
"""

SYSTEM_IDENTIFIER: LiteralString = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()"

SERVER_ROLES: LiteralString = """
WITH RECURSIVE reached AS (
    SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = ANY (%(sources)s) OR r.rolname = ANY (%(names)s)
    UNION
    SELECT m.roleid FROM reached AS r JOIN pg_catalog.pg_auth_members AS m ON m.member = r.oid
)
SELECT r.oid, r.rolname, r.rolcanlogin, r.rolinherit, r.rolsuper, r.rolcreatedb, r.rolcreaterole, r.rolreplication,
       r.rolbypassrls, r.rolconnlimit,
       r.rolvaliduntil IS NOT NULL AND r.rolvaliduntil <> 'infinity' AS expires,
       pg_catalog.shobj_description(r.oid, 'pg_authid') AS comment,
       pg_catalog.pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION') AS admin_option,
       a.rolsuper OR NOT r.rolsuper AND ({may_grant}) AS admin_may_grant,
       {verifier} AS verifier
  FROM {source} AS r JOIN pg_catalog.pg_roles AS a ON a.rolname = current_user
 WHERE r.rolname = ANY (%(names)s) OR r.oid IN (SELECT oid FROM reached)
"""

SERVER_MEMBERSHIPS: LiteralString = """
SELECT pg_catalog.pg_get_userbyid(m.roleid) AS role, pg_catalog.pg_get_userbyid(m.member) AS member,
       pg_catalog.pg_get_userbyid(m.grantor) AS grantor, m.admin_option AS admin,
       {inherit} AS inherit, {set} AS set, a.rolsuper OR NOT r.rolsuper AND ({may_revoke}) AS admin_may_revoke
  FROM pg_catalog.pg_auth_members AS m JOIN pg_catalog.pg_roles AS r ON r.oid = m.roleid
       JOIN pg_catalog.pg_roles AS a ON a.rolname = current_user
 WHERE m.roleid = ANY (%(oids)s) OR m.member = ANY (%(oids)s) OR m.grantor = ANY (%(oids)s)
"""

MAY_GRANT_BEFORE_16: LiteralString = """
       a.rolcreaterole OR pg_catalog.pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION')
"""
"""Whether the admin `a` may grant and revoke membership in a role `r` that is no superuser."""

MAY_GRANT: LiteralString = """
       EXISTS (SELECT FROM pg_catalog.pg_auth_members AS h
                WHERE h.roleid = r.oid AND h.admin_option AND pg_catalog.pg_has_role(h.member, 'USAGE'))
"""
"""The ADMIN option of a group whose rights the admin does not inherit lets it alter the role, and grant nothing."""

MAY_REVOKE: LiteralString = """
       pg_catalog.pg_has_role(m.roleid, 'MEMBER WITH ADMIN OPTION') AND pg_catalog.pg_has_role(m.grantor, 'USAGE')
"""

MAY_ASSUME: LiteralString = """
       pg_catalog.pg_has_role(
           r.oid,
           CASE WHEN pg_catalog.current_setting('server_version_num')::pg_catalog.int4 < 160000 THEN 'MEMBER'
                ELSE 'SET' END)
"""
"""Whether SET ROLE is open to the admin: from version 16 on that is an option of each membership."""

SERVER_REST: LiteralString = """
WITH carrier AS (
    SELECT 'DATABASE' AS kind, oid, datname AS name, datdba AS owner, datacl AS acl FROM pg_catalog.pg_database
    UNION ALL
    SELECT 'TABLESPACE', oid, spcname, spcowner, spcacl FROM pg_catalog.pg_tablespace
    {parameters}
), entry AS (
    SELECT c.kind, c.oid, c.name, c.owner, a.grantee, a.grantor, a.privilege_type, a.is_grantable,
           a.grantor <> c.owner AND pg_catalog.pg_has_role(a.grantor, c.owner, 'USAGE') AS grantor_became_owner
      FROM carrier AS c, LATERAL pg_catalog.unnest(c.acl) AS i (item),
           LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
     WHERE (a.grantee = ANY (%(oids)s) AND a.grantee <> c.owner)
        OR (a.grantor = ANY (%(oids)s) AND a.grantor <> c.owner)
), dependency AS (
    SELECT s.refobjid, s.dbid, s.deptype FROM pg_catalog.pg_shdepend AS s
     WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND s.refobjid = ANY (%(oids)s) AND s.dbid <> 0
     GROUP BY s.refobjid, s.dbid, s.deptype
)
SELECT
  (SELECT pg_catalog.json_agg(r.rolname) FROM pg_catalog.pg_roles AS r WHERE r.rolsuper) AS superusers,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(d.oid::pg_catalog.int8, d.datname,
          pg_catalog.pg_get_userbyid(d.datdba), d.datallowconn AND d.datconnlimit <> -2, d.datistemplate,
          pg_catalog.has_database_privilege(d.oid, 'CONNECT'))) FROM pg_catalog.pg_database AS d) AS databases,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(c.kind, NULL, c.oid::pg_catalog.int8, c.name,
          pg_catalog.pg_get_userbyid(c.owner), NULL, NULL)) FROM carrier AS c
    WHERE c.kind = 'DATABASE' OR EXISTS (SELECT FROM entry AS e WHERE e.kind = c.kind AND e.oid = c.oid)) AS objects,
  (SELECT pg_catalog.json_agg(g.row) FROM (
      SELECT pg_catalog.json_build_array(e.kind, NULL, e.privilege_type, e.is_grantable, NULL,
               CASE e.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(e.grantee) END,
               pg_catalog.pg_get_userbyid(e.grantor), e.grantor_became_owner,
               pg_catalog.array_agg(e.oid::pg_catalog.int8)) AS row
        FROM entry AS e
       GROUP BY e.kind, e.privilege_type, e.is_grantable, e.grantee, e.grantor, e.grantor_became_owner) AS g) AS acl,
  (SELECT pg_catalog.json_agg(g.row) FROM (
      SELECT pg_catalog.json_build_array(c.kind, a.privilege_type,
               pg_catalog.array_agg(DISTINCT c.oid::pg_catalog.int8)) AS row
        FROM carrier AS c, LATERAL pg_catalog.unnest(c.acl) AS i (item),
             LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
       WHERE a.is_grantable AND a.grantee <> 0 AND NOT pg_catalog.pg_has_role(c.owner, 'USAGE')
         AND pg_catalog.pg_has_role(a.grantee, 'USAGE')
       GROUP BY c.kind, a.privilege_type) AS g) AS grant_options,
  (SELECT pg_catalog.json_agg(DISTINCT pg_catalog.jsonb_build_array(pg_catalog.pg_get_userbyid(y.refobjid), d.datname))
     FROM dependency AS y JOIN pg_catalog.pg_database AS d ON d.oid = y.dbid) AS holdings,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(c.kind, NULL, c.oid::pg_catalog.int8, c.name,
          pg_catalog.pg_get_userbyid(c.owner), NULL, NULL))
     FROM carrier AS c WHERE c.owner = ANY (%(oids)s) AND c.kind <> 'PARAMETER') AS owned,
  (SELECT pg_catalog.json_agg(r.rolname) FROM pg_catalog.pg_roles AS r
    WHERE NOT pg_catalog.pg_has_role(r.oid, 'USAGE') AND r.oid IN (SELECT owner FROM carrier)) AS not_administered,
  (SELECT pg_catalog.json_agg(r.rolname) FROM pg_catalog.pg_roles AS r
    WHERE r.oid IN (SELECT e.grantor FROM entry AS e) AND NOT {may_assume}) AS not_assumable
"""

PARAMETERS: LiteralString = """
    UNION ALL
    SELECT 'PARAMETER', oid, parname, 10, paracl FROM pg_catalog.pg_parameter_acl
"""
"""Parameters belong to nobody; grants on them come from the bootstrap superuser, whose OID is 10."""

DATABASE: LiteralString = """
WITH asked AS MATERIALIZED (
    SELECT n.oid, n.nspname, n.nspowner, n.nspacl FROM pg_catalog.pg_namespace AS n WHERE n.nspname = ANY (%(schemas)s)
), carrier AS MATERIALIZED (
    SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid, c.relnamespace AS namespace,
           c.relname AS name, c.relowner AS owner, c.relacl AS acl, NULL::pg_catalog.name AS "column"
      FROM pg_catalog.pg_class AS c
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
       AND (c.relacl IS NOT NULL OR c.relnamespace IN (SELECT oid FROM asked))
    UNION ALL
    SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid, c.relnamespace, c.relname, c.relowner,
           a.attacl, a.attname
      FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
     WHERE a.attacl IS NOT NULL AND NOT a.attisdropped
    UNION ALL
    SELECT 'ROUTINE', p.oid, p.pronamespace, p.proname, p.proowner, p.proacl, NULL
      FROM pg_catalog.pg_proc AS p
     WHERE p.proacl IS NOT NULL OR p.pronamespace IN (SELECT oid FROM asked)
    UNION ALL
    SELECT 'SCHEMA', n.oid, NULL, n.nspname, n.nspowner, n.nspacl, NULL FROM pg_catalog.pg_namespace AS n
     WHERE n.nspacl IS NOT NULL OR n.oid IN (SELECT oid FROM asked)
    UNION ALL
    SELECT 'TYPE', t.oid, t.typnamespace, t.typname, t.typowner, t.typacl, NULL FROM pg_catalog.pg_type AS t
     WHERE t.typacl IS NOT NULL
    UNION ALL
    SELECT 'LANGUAGE', l.oid, NULL, l.lanname, l.lanowner, l.lanacl, NULL FROM pg_catalog.pg_language AS l
    UNION ALL
    SELECT 'LARGE OBJECT', o.oid, NULL, o.oid::text::pg_catalog.name, o.lomowner, o.lomacl, NULL
      FROM pg_catalog.pg_largeobject_metadata AS o WHERE o.lomacl IS NOT NULL
    UNION ALL
    SELECT 'FOREIGN DATA WRAPPER', f.oid, NULL, f.fdwname, f.fdwowner, f.fdwacl, NULL
      FROM pg_catalog.pg_foreign_data_wrapper AS f
    UNION ALL
    SELECT 'FOREIGN SERVER', s.oid, NULL, s.srvname, s.srvowner, s.srvacl, NULL FROM pg_catalog.pg_foreign_server AS s
), item AS MATERIALIZED (
    SELECT c.kind, c.namespace, c."column", c.owner, i.item, pg_catalog.array_agg(c.oid::pg_catalog.int8) AS oids
      FROM carrier AS c, LATERAL pg_catalog.unnest(c.acl) AS i (item)
     GROUP BY c.kind, c.namespace, c."column", c.owner, i.item
), entry AS MATERIALIZED (
    SELECT i.kind, i.namespace, i.oids, i."column", i.owner, a.grantee, a.grantor, a.privilege_type, a.is_grantable
      FROM item AS i, LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
     WHERE (a.grantee = ANY (%(oids)s) AND a.grantee <> i.owner)
        OR (a.grantor = ANY (%(oids)s) AND a.grantor <> i.owner)
), object_set AS MATERIALIZED (
    SELECT s.kind, s.oids, pg_catalog.row_number() OVER () - 1 AS position
      FROM (SELECT DISTINCT e.kind, e.oids FROM entry AS e) AS s
), met AS (
    SELECT DISTINCT s.kind, o.oid FROM object_set AS s, LATERAL pg_catalog.unnest(s.oids) AS o (oid)
), listed AS MATERIALIZED (
    SELECT c.kind, c.oid, c.namespace, c.name, c.owner FROM carrier AS c
     WHERE c."column" IS NULL AND c.namespace IN (SELECT oid FROM asked) AND c.kind IN ('TABLE', 'SEQUENCE', 'ROUTINE')
    UNION
    SELECT c.kind, c.oid, c.namespace, c.name, c.owner FROM carrier AS c
     WHERE c.kind = 'SCHEMA' AND c.oid IN (SELECT oid FROM asked)
    UNION
    SELECT c.kind, c.oid, c.namespace, c.name, c.owner FROM carrier AS c
     WHERE EXISTS (SELECT FROM met AS m WHERE m.kind = c.kind AND m.oid = c.oid)
), inhabitant AS MATERIALIZED (
    SELECT c.namespace, c.owner FROM carrier AS c WHERE c.namespace IN (SELECT oid FROM asked)
    UNION
    SELECT t.typnamespace, t.typowner FROM pg_catalog.pg_type AS t WHERE t.typnamespace IN (SELECT oid FROM asked)
), dependency AS MATERIALIZED (
    SELECT s.refobjid AS role, s.classid, s.objid, s.objsubid, s.deptype FROM pg_catalog.pg_shdepend AS s
     WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND s.refobjid = ANY (%(oids)s)
       AND (s.deptype = 'o' AND s.classid <> 'pg_catalog.pg_default_acl'::pg_catalog.regclass OR s.deptype = 'r')
       AND s.dbid = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
), default_entry AS (
    SELECT d.defaclrole AS owner, d.defaclnamespace AS namespace, d.defaclobjtype, a.grantee, a.privilege_type,
           a.is_grantable
      FROM pg_catalog.pg_default_acl AS d LEFT JOIN LATERAL pg_catalog.unnest(d.defaclacl) AS i (item) ON true
           LEFT JOIN LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a ON i.item IS NOT NULL
     WHERE a.grantee = ANY (%(oids)s) OR d.defaclrole = ANY (%(oids)s)
)
SELECT
  (SELECT pg_catalog.pg_get_userbyid(d.datdba) FROM pg_catalog.pg_database AS d
    WHERE d.datname = pg_catalog.current_database()) AS owner,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(s.oid::pg_catalog.int8, s.nspname,
          pg_catalog.pg_get_userbyid(s.nspowner),
          (SELECT pg_catalog.json_agg(DISTINCT pg_catalog.pg_get_userbyid(a.grantee))
             FROM pg_catalog.unnest(s.nspacl) AS i (item), LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
            WHERE a.privilege_type = 'CREATE' AND a.grantee <> 0),
          (SELECT pg_catalog.json_agg(pg_catalog.pg_get_userbyid(i.owner)) FROM inhabitant AS i
            WHERE i.namespace = s.oid),
          (SELECT pg_catalog.json_agg(c.oid::pg_catalog.int8) FROM carrier AS c
            WHERE c.kind = 'ROUTINE' AND c.namespace = s.oid AND c.acl IS NOT NULL
              AND EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                           WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = c.oid
                             AND d.deptype = 'e')
              AND NOT EXISTS (SELECT FROM pg_catalog.unnest(c.acl) AS i (item),
                                          LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
                               WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE'))))
     FROM asked AS s) AS schemas,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(l.kind, n.nspname, l.oid::pg_catalog.int8, l.name,
          pg_catalog.pg_get_userbyid(l.owner),
          CASE l.kind WHEN 'ROUTINE' THEN (
              SELECT pg_catalog.json_agg(pg_catalog.json_build_array(tn.nspname, t.typname) ORDER BY x.position)
                FROM pg_catalog.pg_proc AS p, LATERAL pg_catalog.unnest(p.proargtypes::pg_catalog.oid[])
                     WITH ORDINALITY AS x (type, position)
                JOIN pg_catalog.pg_type AS t ON t.oid = x.type
                JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.typnamespace
               WHERE p.oid = l.oid) END,
          CASE WHEN l.kind = 'SEQUENCE' AND EXISTS (SELECT FROM entry AS e WHERE e.grantor <> e.owner) THEN (
              SELECT pg_catalog.json_build_array(tn.nspname, t.relname)
                FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_class AS t ON t.oid = d.refobjid
                JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.relnamespace
               WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = l.oid AND d.objsubid = 0
                 AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
               LIMIT 1) END))
     FROM listed AS l LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = l.namespace) AS objects,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(e.kind, n.nspname, e.privilege_type, e.is_grantable,
          e."column", CASE e.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(e.grantee) END,
          pg_catalog.pg_get_userbyid(e.grantor),
          e.grantor <> e.owner AND pg_catalog.pg_has_role(e.grantor, e.owner, 'USAGE'), s.position))
     FROM entry AS e JOIN object_set AS s ON s.kind = e.kind AND s.oids = e.oids
     LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = e.namespace) AS acl,
  (SELECT pg_catalog.json_agg(s.oids ORDER BY s.position) FROM object_set AS s) AS object_sets,
  (SELECT pg_catalog.json_agg(g.row) FROM (
      SELECT pg_catalog.json_build_array(c.kind, a.privilege_type,
               pg_catalog.array_agg(DISTINCT c.oid::pg_catalog.int8)) AS row
        FROM carrier AS c, LATERAL pg_catalog.unnest(c.acl) AS i (item),
             LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
       WHERE c."column" IS NULL AND a.is_grantable AND a.grantee <> 0 AND NOT pg_catalog.pg_has_role(c.owner, 'USAGE')
         AND pg_catalog.pg_has_role(a.grantee, 'USAGE')
       GROUP BY c.kind, a.privilege_type) AS g) AS grant_options,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(pg_catalog.pg_get_userbyid(d.owner), n.nspname,
          d.defaclobjtype,
          CASE d.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(coalesce(d.grantee, d.owner)) END,
          coalesce(d.privilege_type, ''), coalesce(d.is_grantable, false)))
     FROM default_entry AS d LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = d.namespace) AS default_acl,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(pg_catalog.pg_get_userbyid(d.role),
          d.deptype = 'o' AND d.classid <> 'pg_catalog.pg_user_mapping'::pg_catalog.regclass,
          pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)))
     FROM dependency AS d) AS dependencies,
  (SELECT pg_catalog.json_agg(r.rolname) FROM pg_catalog.pg_roles AS r
    WHERE NOT pg_catalog.pg_has_role(r.oid, 'USAGE')
      AND (r.oid IN (SELECT owner FROM listed) OR r.oid IN (SELECT owner FROM default_entry)
           OR r.oid IN (SELECT nspowner FROM asked)
           OR r.oid IN (SELECT owner FROM inhabitant)
           OR r.oid = (SELECT d.datdba FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
           OR r.oid IN (SELECT a.grantee FROM asked AS s, LATERAL pg_catalog.unnest(s.nspacl) AS i (item),
                        LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a))
  ) AS not_administered,
  (SELECT pg_catalog.json_agg(r.rolname) FROM pg_catalog.pg_roles AS r
    WHERE r.oid IN (SELECT e.grantor FROM entry AS e) AND NOT {may_assume}) AS not_assumable,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(r.rolname, n.nspname))
     FROM pg_catalog.pg_roles AS r, pg_catalog.pg_namespace AS n
    WHERE (r.rolname = current_user OR r.oid IN (SELECT e.grantor FROM entry AS e WHERE e.grantor <> e.owner))
      AND n.oid IN (SELECT oid FROM asked UNION SELECT namespace FROM listed UNION
                    SELECT t.typnamespace FROM listed AS l JOIN pg_catalog.pg_proc AS p ON p.oid = l.oid,
                           LATERAL pg_catalog.unnest(p.proargtypes::pg_catalog.oid[]) AS x (type)
                      JOIN pg_catalog.pg_type AS t ON t.oid = x.type
                     WHERE l.kind = 'ROUTINE')
      AND NOT pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')) AS closed_schemas
"""

DEFAULT_ACL_OBJECTS: Mapping[str, str] = {
    "r": "TABLES",
    "S": "SEQUENCES",
    "f": "ROUTINES",
    "T": "TYPES",
    "n": "SCHEMAS",
    "L": "LARGE OBJECTS",
}


async def read_capabilities(transaction: Transaction) -> Capabilities:
    """What the admin is and may do.

    Raises
    ------
    ServerError
        The server could not be asked.
    """
    (row,) = await transaction.fetch(sql.SQL(CAPABILITIES), {})
    system_identifier = None
    if row.pop("control_readable"):
        ((system_identifier,),) = [
            tuple(r.values()) for r in await transaction.fetch(sql.SQL(SYSTEM_IDENTIFIER), {})
        ]
    attributes = frozenset(row.pop("attributes"))
    return Capabilities(system_identifier=system_identifier, attributes=attributes, **row)


async def read_server(
    transaction: Transaction, capabilities: Capabilities, names: Iterable[str], sources: Iterable[str]
) -> Server:
    """The server as a whole, as far as the roles `names` and the source roles `sources` are concerned.

    Raises
    ------
    ServerError
        The server could not be read.
    """
    names = sorted(set(names))
    verifiers = capabilities.verifiers_readable
    options = capabilities.version >= INHERIT_PER_MEMBERSHIP
    roles_query = sql.SQL(SERVER_ROLES).format(
        may_grant=sql.SQL(MAY_GRANT if options else MAY_GRANT_BEFORE_16),
        verifier=sql.SQL("r.rolpassword" if verifiers else "NULL"),
        source=sql.SQL("pg_catalog.pg_authid" if verifiers else "pg_catalog.pg_roles"),
    )
    roles = {
        row["rolname"]: Role(*row.values())
        for row in await transaction.fetch(roles_query, {"names": names, "sources": sorted(set(sources))})
    }
    memberships_query = sql.SQL(SERVER_MEMBERSHIPS).format(
        inherit=sql.SQL("m.inherit_option" if options else "true"),
        set=sql.SQL("m.set_option" if options else "true"),
        may_revoke=sql.SQL(MAY_REVOKE if options else MAY_GRANT_BEFORE_16),
    )
    memberships = await transaction.fetch(memberships_query, {"oids": [role.oid for role in roles.values()]})
    rest_query = sql.SQL(SERVER_REST).format(
        parameters=sql.SQL(PARAMETERS if capabilities.version >= PARAMETER_ACL_SINCE else ""),
        may_assume=sql.SQL(MAY_ASSUME),
    )
    (rest,) = await transaction.fetch(
        rest_query, {"oids": [roles[name].oid for name in names if name in roles]}
    )
    holdings: dict[str, set[str]] = defaultdict(set)
    for name, database in rest["holdings"] or ():
        holdings[name].add(database)
    owned: dict[str, list[DatabaseObject]] = defaultdict(list)
    for row in rest["owned"] or ():
        target = parse_object(row)
        owned[target.owner].append(target)
    return Server(
        version=capabilities.version,
        system_identifier=capabilities.system_identifier,
        admin=capabilities.admin,
        admin_is_superuser=capabilities.is_superuser,
        admin_attributes=capabilities.attributes,
        verifiers_readable=verifiers,
        roles=roles,
        superusers=frozenset(rest["superusers"]),
        memberships=Memberships.of(Membership(**row) for row in memberships),
        databases={row[1]: Database(*row) for row in rest["databases"]},
        shared_objects=_objects(rest["objects"]),
        acl=_acl(rest["acl"]),
        grant_options=_grant_options(rest["grant_options"]),
        holdings={name: frozenset(databases) for name, databases in holdings.items()},
        owned={name: tuple(targets) for name, targets in owned.items()},
        not_administered=frozenset(rest["not_administered"] or ()),
        not_assumable=frozenset(rest["not_assumable"] or ()),
    )


async def read_database(
    transaction: Transaction, name: str, role_oids: Iterable[int], schemas: Iterable[str]
) -> DatabaseState:
    """One database: the schemas asked for, and all that the roles hold, own or gave in any other.

    Parameters
    ----------
    transaction
        A transaction in that database.
    name
        The database's name.
    role_oids
        The plans' roles, those that exist.
    schemas
        The schemas of the plans' scopes in this database.

    Raises
    ------
    ServerError
        The database could not be read.
    """
    parameters = {"oids": sorted(set(role_oids)), "schemas": sorted(set(schemas))}
    query = sql.SQL(DATABASE).format(may_assume=sql.SQL(MAY_ASSUME))
    (row,) = await transaction.fetch(query, parameters)
    owned: dict[str, list[str]] = defaultdict(list)
    bound: dict[str, list[str]] = defaultdict(list)
    for role, owns, description in row["dependencies"] or ():
        (owned if owns else bound)[role].append(description)
    closed: dict[str, set[str]] = defaultdict(set)
    for role, schema in row["closed_schemas"] or ():
        closed[role].add(schema)
    # Many roles hold things on the same objects: each set of objects is sent, and kept, once.
    object_sets = [frozenset(oids) for oids in row["object_sets"] or ()]
    objects = _objects(row["objects"])
    contents = _contents(objects)
    return DatabaseState(
        name=name,
        owner=row["owner"],
        schemas={
            schema: Schema(
                oid,
                schema,
                owner,
                creators=frozenset(creators or ()),
                object_owners=frozenset(owners or ()),
                contents=contents.get(schema, {}),
                withheld_routines=frozenset(withheld or ()),
            )
            for oid, schema, owner, creators, owners, withheld in row["schemas"] or ()
        },
        objects=objects,
        acl=_acl([*entry, object_sets[position]] for *entry, position in row["acl"] or ()),
        grant_options=_grant_options(row["grant_options"]),
        default_acl=DefaultAcl.of(
            DefaultAclEntry(owner, schema, DEFAULT_ACL_OBJECTS[objects], grantee, privilege, grantable)
            for owner, schema, objects, grantee, privilege, grantable in row["default_acl"] or ()
        ),
        owned={role: tuple(sorted(descriptions)) for role, descriptions in owned.items()},
        bound={role: tuple(sorted(descriptions)) for role, descriptions in bound.items()},
        not_administered=frozenset(row["not_administered"] or ()),
        not_assumable=frozenset(row["not_assumable"] or ()),
        closed_schemas={role: frozenset(schemas) for role, schemas in closed.items()},
    )


def _contents(
    objects: Mapping[ObjectKind, Mapping[int, DatabaseObject]],
) -> dict[str, dict[ObjectKind, frozenset[int]]]:
    contents: dict[str, dict[ObjectKind, set[int]]] = defaultdict(lambda: defaultdict(set))
    for kind in (ObjectKind.TABLE, ObjectKind.SEQUENCE, ObjectKind.ROUTINE):
        for target in objects.get(kind, {}).values():
            if target.schema is not None:
                contents[target.schema][kind].add(target.oid)
    return {
        schema: {kind: frozenset(oids) for kind, oids in kinds.items()} for schema, kinds in contents.items()
    }


def _grant_options(rows: Iterable[list[Any]] | None) -> dict[tuple[ObjectKind, str], frozenset[int]]:
    return {(ObjectKind(kind), privilege): frozenset(oids) for kind, privilege, oids in rows or ()}


def parse_object(row: list[Any]) -> DatabaseObject:
    """One object, of a row as the queries here build them."""
    kind, schema, oid, name, owner, argument_types, table = row
    types = tuple((type_schema, type_name) for type_schema, type_name in argument_types or ())
    return DatabaseObject(oid, ObjectKind(kind), schema, name, owner, types, tuple(table) if table else None)


def _objects(rows: Iterable[list[Any]] | None) -> dict[ObjectKind, dict[int, DatabaseObject]]:
    objects: dict[ObjectKind, dict[int, DatabaseObject]] = defaultdict(dict)
    for row in rows or ():
        target = parse_object(row)
        objects[target.kind][target.oid] = target
    return dict(objects)


def _acl(rows: Iterable[list[Any]] | None) -> Acl:
    return Acl.of(
        AclEntry(
            grantee,
            grantor,
            ObjectKind(kind),
            schema,
            privilege,
            grantable,
            frozenset(oids),
            column,
            became_owner,
        )
        for kind, schema, privilege, grantable, column, grantee, grantor, became_owner, oids in rows or ()
    )


SESSIONS: LiteralString = """
SELECT DISTINCT a.usename AS name FROM pg_catalog.pg_stat_activity AS a WHERE a.usename = ANY (%(names)s)
"""

PREPARED: LiteralString = """
SELECT p.owner AS role, p.database, p.gid FROM pg_catalog.pg_prepared_xacts AS p WHERE p.owner = ANY (%(names)s)
 ORDER BY p.database, p.gid
"""

OWNED_SCHEMAS: LiteralString = """
SELECT n.nspname AS name FROM pg_catalog.pg_namespace AS n JOIN pg_catalog.pg_roles AS r ON r.oid = n.nspowner
 WHERE r.rolname = %(role)s ORDER BY 1
"""


async def read_sessions(transaction: Transaction, names: Sequence[str]) -> list[str]:
    """Those of some roles that have a session open.

    Raises
    ------
    ServerError
        The server could not be asked.
    """
    return [row["name"] for row in await transaction.fetch(sql.SQL(SESSIONS), {"names": list(names)})]


async def read_prepared(transaction: Transaction, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Role, database and identifier of every prepared transaction of some roles (manual, `pg_prepared_xacts`).

    Raises
    ------
    ServerError
        The server could not be asked.
    """
    rows = await transaction.fetch(sql.SQL(PREPARED), {"names": list(names)})
    return [(row["role"], row["database"], row["gid"]) for row in rows]


async def read_owned_schemas(transaction: Transaction, role: str) -> list[str]:
    """The schemas that a role owns in the transaction's database.

    Raises
    ------
    ServerError
        The database could not be read.
    """
    return [row["name"] for row in await transaction.fetch(sql.SQL(OWNED_SCHEMAS), {"role": role})]
