"""What a server holds beyond its databases, as far as some plans are concerned: roles, memberships, shared objects.

How ACLs are read is said in `database_snapshot`.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, LiteralString, NamedTuple

from psycopg import sql

from hoop_operator.planner.model import (
    INHERIT_PER_MEMBERSHIP,
    Acl,
    AclEntry,
    Database,
    DatabaseObject,
    Membership,
    Memberships,
    ObjectKind,
    Role,
    Server,
)
from hoop_operator.postgres.admin_rights import (
    CONTESTED,
    MAY_ASSUME,
    MAY_GRANT,
    MAY_GRANT_BEFORE_16,
    MAY_REVOKE,
    contested_objects,
)
from hoop_operator.postgres.capabilities import Capabilities
from hoop_operator.postgres.session import Transaction

PARAMETER_ACL_SINCE = 150000

ROLE_VERSION: LiteralString = "pg_catalog.concat(r.oid, '/', d.xmin)"
"""The role's OID, and the transaction that wrote its comment: every `COMMENT ON ROLE` stores the comment anew."""

ROLE_VERSIONS: LiteralString = """
SELECT r.rolname AS name, {version} AS version, d.description AS comment
  FROM pg_catalog.pg_roles AS r LEFT JOIN pg_catalog.pg_shdescription AS d
    ON d.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.objoid = r.oid
 WHERE r.rolname = ANY (%(names)s)
"""

SERVER_ROLES: LiteralString = """
WITH RECURSIVE reached AS (
    SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname = ANY (%(sources)s) OR r.rolname = ANY (%(names)s)
    UNION
    SELECT m.roleid FROM reached AS r JOIN pg_catalog.pg_auth_members AS m ON m.member = r.oid
), relied_on AS (
    SELECT m.roleid AS oid FROM pg_catalog.pg_auth_members AS m JOIN pg_catalog.pg_roles AS a ON a.oid = m.member
     WHERE a.rolname = current_user AND ({gives_rights})
    UNION
    SELECT m.roleid FROM relied_on AS r JOIN pg_catalog.pg_auth_members AS m ON m.member = r.oid WHERE {gives_rights}
)
SELECT r.oid, r.rolname, r.rolcanlogin, r.rolinherit, r.rolsuper, r.rolcreatedb, r.rolcreaterole, r.rolreplication,
       r.rolbypassrls, r.rolconnlimit,
       r.rolvaliduntil IS NOT NULL AND r.rolvaliduntil <> 'infinity' AS expires,
       d.description AS comment,
       pg_catalog.pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION') AS admin_option,
       a.rolsuper OR NOT r.rolsuper AND ({may_grant}) AS admin_may_grant,
       {verifier} AS verifier,
       r.oid IN (SELECT oid FROM relied_on)
       OR r.oid = (SELECT d.datdba FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
         AS supports_admin,
       {version} AS version
  FROM {source} AS r JOIN pg_catalog.pg_roles AS a ON a.rolname = current_user
  LEFT JOIN pg_catalog.pg_shdescription AS d
    ON d.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.objoid = r.oid
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

SERVER_REST: LiteralString = """
WITH carrier AS (
    SELECT 'DATABASE' AS kind, oid, datname AS name, datdba AS owner, datacl AS acl FROM pg_catalog.pg_database
    UNION ALL
    SELECT 'TABLESPACE', oid, spcname, spcowner, spcacl FROM pg_catalog.pg_tablespace
    {parameters}
), entry AS (
    SELECT c.kind, c.oid, c.name, c.owner, a.grantee, a.grantor, a.privilege_type, a.is_grantable
      FROM carrier AS c, LATERAL pg_catalog.unnest(c.acl) AS i (item),
           LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
     WHERE (a.grantee = ANY (%(oids)s) AND a.grantee <> c.owner)
        OR (a.grantor = ANY (%(oids)s) AND a.grantor <> c.owner)
), dependency AS (
    SELECT s.refobjid, s.dbid, pg_catalog.bool_or(s.deptype IN ('o', 'r', 'i')) AS binds
      FROM pg_catalog.pg_shdepend AS s
     WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND s.refobjid = ANY (%(oids)s) AND s.dbid <> 0
     GROUP BY s.refobjid, s.dbid
), contested AS (
    SELECT c.kind, c.oid, c.owner FROM carrier AS c WHERE {contested}
)
SELECT
  (SELECT pg_catalog.json_agg(r.rolname) FROM pg_catalog.pg_roles AS r WHERE r.rolsuper) AS superusers,
  (SELECT pg_catalog.json_agg(r.rolname) FROM pg_catalog.pg_roles AS r, pg_catalog.pg_roles AS a
    WHERE a.rolname = current_user AND NOT a.rolsuper AND NOT r.rolsuper AND r.oid <> a.oid
      AND pg_catalog.pg_has_role(r.oid, a.oid, 'MEMBER')) AS members_of_admin,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(d.oid::pg_catalog.int8, d.datname,
          pg_catalog.pg_get_userbyid(d.datdba), d.datallowconn AND d.datconnlimit <> -2, d.datistemplate,
          pg_catalog.has_database_privilege(d.oid, 'CONNECT'))) FROM pg_catalog.pg_database AS d) AS databases,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(c.kind, NULL, c.oid::pg_catalog.int8, c.name,
          pg_catalog.pg_get_userbyid(c.owner))) FROM carrier AS c
    WHERE c.kind = 'DATABASE' OR EXISTS (SELECT FROM entry AS e WHERE e.kind = c.kind AND e.oid = c.oid)) AS objects,
  (SELECT pg_catalog.json_agg(g.row) FROM (
      SELECT pg_catalog.json_build_array(e.kind, NULL, e.privilege_type, e.is_grantable, NULL,
               CASE e.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(e.grantee) END,
               pg_catalog.pg_get_userbyid(e.grantor), pg_catalog.array_agg(e.oid::pg_catalog.int8)) AS row
        FROM entry AS e GROUP BY e.kind, e.privilege_type, e.is_grantable, e.grantee, e.grantor) AS g) AS acl,
  (SELECT pg_catalog.json_agg(g.row) FROM (
      SELECT pg_catalog.json_build_array(c.kind, a.privilege_type,
               pg_catalog.array_agg(DISTINCT c.oid::pg_catalog.int8)) AS row
        FROM carrier AS c, LATERAL pg_catalog.unnest(c.acl) AS i (item),
             LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
       WHERE a.is_grantable AND a.grantee <> 0 AND NOT pg_catalog.pg_has_role(c.owner, 'USAGE')
         AND pg_catalog.pg_has_role(a.grantee, 'USAGE')
       GROUP BY c.kind, a.privilege_type) AS g) AS grant_options,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(pg_catalog.pg_get_userbyid(y.refobjid), d.datname, y.binds))
     FROM dependency AS y JOIN pg_catalog.pg_database AS d ON d.oid = y.dbid) AS holdings,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(c.kind, NULL, c.oid::pg_catalog.int8, c.name,
          pg_catalog.pg_get_userbyid(c.owner)))
     FROM carrier AS c WHERE c.owner = ANY (%(oids)s) AND c.kind <> 'PARAMETER') AS owned,
  (SELECT pg_catalog.json_agg(r.rolname) FROM pg_catalog.pg_roles AS r
    WHERE NOT pg_catalog.pg_has_role(r.oid, 'USAGE') AND r.oid IN (SELECT owner FROM carrier)) AS not_administered,
  (SELECT pg_catalog.json_agg(r.rolname) FROM pg_catalog.pg_roles AS r
    WHERE r.oid IN (SELECT e.grantor FROM entry AS e UNION SELECT c.owner FROM contested AS c) AND NOT {may_assume}
  ) AS not_assumable,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(c.kind, c.oid::pg_catalog.int8))
     FROM contested AS c) AS contested
"""

PARAMETERS: LiteralString = """
    UNION ALL
    SELECT 'PARAMETER', oid, parname, 10, paracl FROM pg_catalog.pg_parameter_acl
"""
"""Parameters belong to nobody; grants on them come from the bootstrap superuser, whose OID is 10."""


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
        gives_rights=sql.SQL("m.inherit_option OR m.set_option" if options else "true"),
        verifier=sql.SQL("r.rolpassword" if verifiers else "NULL"),
        source=sql.SQL("pg_catalog.pg_authid" if verifiers else "pg_catalog.pg_roles"),
        version=sql.SQL(ROLE_VERSION),
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
        contested=sql.SQL(CONTESTED),
    )
    (rest,) = await transaction.fetch(
        rest_query, {"oids": [roles[name].oid for name in names if name in roles]}
    )
    holdings: dict[str, set[str]] = defaultdict(set)
    bound: dict[str, set[str]] = defaultdict(set)
    for name, database, binds in rest["holdings"] or ():
        holdings[name].add(database)
        if binds:
            bound[database].add(name)
    owned: dict[str, list[DatabaseObject]] = defaultdict(list)
    for row in rest["owned"] or ():
        target = _object(row)
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
        members_of_admin=frozenset(rest["members_of_admin"] or ()),
        memberships=Memberships.of(Membership(**row) for row in memberships),
        databases={row[1]: Database(*row) for row in rest["databases"]},
        shared_objects=_objects(rest["objects"]),
        acl=_acl(rest["acl"]),
        grant_options=_grant_options(rest["grant_options"]),
        holdings={name: frozenset(databases) for name, databases in holdings.items()},
        bound={database: frozenset(bound_names) for database, bound_names in bound.items()},
        owned={name: tuple(targets) for name, targets in owned.items()},
        not_administered=frozenset(rest["not_administered"] or ()),
        not_assumable=frozenset(rest["not_assumable"] or ()),
        contested=contested_objects((kind, [oid]) for kind, oid in rest["contested"] or ()),
    )


class RoleVersion(NamedTuple):
    """A role's version, as `Role` has it, and the comment that belongs to it."""

    version: str | None
    comment: str | None


async def read_versions(transaction: Transaction, names: Iterable[str]) -> dict[str, RoleVersion]:
    """The version of each of some roles that exists.

    Raises
    ------
    ServerError
        The server could not be asked.
    """
    query = sql.SQL(ROLE_VERSIONS).format(version=sql.SQL(ROLE_VERSION))
    rows = await transaction.fetch(query, {"names": list(names)})
    return {row["name"]: RoleVersion(row["version"], row["comment"]) for row in rows}


def _grant_options(rows: Iterable[list[Any]] | None) -> dict[tuple[ObjectKind, str], frozenset[int]]:
    return {(ObjectKind(kind), privilege): frozenset(oids) for kind, privilege, oids in rows or ()}


def _object(row: list[Any]) -> DatabaseObject:
    kind, schema, oid, name, owner = row
    return DatabaseObject(oid, ObjectKind(kind), schema, name, owner)


def _objects(rows: Iterable[list[Any]] | None) -> dict[ObjectKind, dict[int, DatabaseObject]]:
    objects: dict[ObjectKind, dict[int, DatabaseObject]] = defaultdict(dict)
    for row in rows or ():
        target = _object(row)
        objects[target.kind][target.oid] = target
    return dict(objects)


def _acl(rows: Iterable[list[Any]] | None) -> Acl:
    return Acl.of(
        AclEntry(grantee, grantor, ObjectKind(kind), schema, privilege, grantable, frozenset(oids), column)
        for kind, schema, privilege, grantable, column, grantee, grantor, oids in rows or ()
    )
