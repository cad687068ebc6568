"""What is to be known of a role before it is removed: who acts as it, what is pending, and what it wrote.

Read at a removal only, and only of roles that own something: it is more than a look at a plan needs.
"""

from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg import sql

from hoop_operator.planner.model import DatabaseObject, ObjectKind
from hoop_operator.planner.removal import Danger, Hazard
from hoop_operator.postgres.session import Transaction

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

INTERPRETERS = (
    *(
        "query_to_xml",
        "query_to_xmlschema",
        "query_to_xml_and_xmlschema",
        "cursor_to_xml",
        "cursor_to_xmlschema",
    ),
    *("table_to_xml", "table_to_xmlschema", "table_to_xml_and_xmlschema"),
    *("schema_to_xml", "schema_to_xmlschema", "schema_to_xml_and_xmlschema"),
    *("database_to_xml", "database_to_xmlschema", "database_to_xml_and_xmlschema"),
    *("ts_stat", "ts_rewrite"),
)
"""Functions of the server that run SQL from a text, or read whatever there is: no dependency tells what they meet."""

HAZARDS: LiteralString = r"""
WITH RECURSIVE subject AS MATERIALIZED (
    SELECT r.oid AS role, d.datdba AS heir, pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.xid AS own_xid
      FROM pg_catalog.pg_roles AS r, pg_catalog.pg_database AS d
     WHERE r.rolname = %(role)s AND d.datname = pg_catalog.current_database()
), powerful AS MATERIALIZED (
    SELECT r.oid FROM pg_catalog.pg_roles AS r, subject AS s WHERE r.rolsuper OR r.oid = s.heir
), relation AS MATERIALIZED (
    SELECT c.oid, c.relkind, c.reloptions FROM pg_catalog.pg_class AS c, subject AS s
     WHERE c.relowner = s.role OR c.xmin = s.own_xid
), foreign_code AS MATERIALIZED (
    SELECT p.oid FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang, subject AS s
     WHERE l.lanname NOT IN ('internal', 'c')
       AND (p.xmin = s.own_xid OR NOT EXISTS (SELECT FROM powerful AS o WHERE o.oid = p.proowner))
), rule AS MATERIALIZED (
    SELECT w.oid, w.ev_class, w.ev_type = '1' AS selects, r.relkind,
           pg_catalog.concat(w.ev_qual::pg_catalog.text, w.ev_action::pg_catalog.text) AS tree
      FROM pg_catalog.pg_rewrite AS w JOIN relation AS r ON r.oid = w.ev_class
     WHERE w.ev_type <> '1'
        OR NOT EXISTS (SELECT FROM pg_catalog.pg_options_to_table(r.reloptions) AS o
                        WHERE o.option_name = 'security_invoker' AND o.option_value::pg_catalog.bool)
), abroad AS (
    SELECT c.oid FROM pg_catalog.pg_class AS c WHERE c.relkind = 'f'
    UNION
    SELECT i.inhparent FROM abroad AS f JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = f.oid
), mention AS MATERIALIZED (
    SELECT DISTINCT u.oid AS rule, u.ev_class, c.oid, c.oid IN (SELECT oid FROM abroad) AS abroad,
           EXISTS (SELECT FROM relation AS r WHERE r.oid = c.oid) AS own
      FROM rule AS u, LATERAL pg_catalog.regexp_matches(u.tree, ':relid (\d+)', 'g') AS m (found)
      JOIN pg_catalog.pg_class AS c ON c.oid = m.found[1]::pg_catalog.oid
), needed AS (
    SELECT u.oid AS rule, 'SELECT' AS privilege FROM rule AS u
    UNION ALL
    SELECT u.oid, 'UPDATE' FROM rule AS u WHERE u.tree ~ 'ROWMARK' OR NOT u.selects AND u.tree ~ ':commandType 2'
    UNION ALL
    SELECT u.oid, 'INSERT' FROM rule AS u WHERE NOT u.selects AND u.tree ~ ':commandType 3'
    UNION ALL
    SELECT u.oid, 'DELETE' FROM rule AS u WHERE NOT u.selects AND u.tree ~ ':commandType 4'
), written AS MATERIALIZED (
    SELECT x.oid, a.privilege_type AS privilege
      FROM (SELECT c.oid, c.relacl FROM pg_catalog.pg_class AS c
            UNION ALL
            SELECT t.attrelid, t.attacl FROM pg_catalog.pg_attribute AS t WHERE t.attacl IS NOT NULL) AS x (oid, acl),
           subject AS s, LATERAL pg_catalog.unnest(x.acl) AS i (item),
           LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
     WHERE a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE') AND a.grantee <> s.role
       AND NOT EXISTS (SELECT FROM powerful AS o WHERE o.oid = a.grantee)
    UNION
    SELECT c.oid, p.privilege
      FROM pg_catalog.pg_class AS c, subject AS s, (VALUES ('UPDATE'), ('DELETE')) AS p (privilege)
     WHERE c.relowner <> s.role AND NOT EXISTS (SELECT FROM powerful AS o WHERE o.oid = c.relowner)
), written_through AS (
    SELECT u.oid AS rule, u.ev_class, w.privilege FROM rule AS u JOIN written AS w ON w.oid = u.ev_class
     WHERE u.selects AND u.relkind = 'v'
    UNION
    SELECT u.oid, u.ev_class, w.privilege
      FROM written_through AS w JOIN mention AS m ON m.rule = w.rule JOIN rule AS u ON u.ev_class = m.oid
     WHERE u.selects AND u.relkind = 'v' AND m.own
), cascade AS MATERIALIZED (
    SELECT k.conrelid, k.confrelid FROM pg_catalog.pg_constraint AS k
     WHERE k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))
), cascaded AS (
    SELECT k.conrelid FROM cascade AS k JOIN written AS w ON w.oid = k.confrelid WHERE w.privilege <> 'INSERT'
    UNION
    SELECT k.conrelid FROM cascaded AS c JOIN cascade AS k ON k.confrelid = c.conrelid
), root AS MATERIALIZED (
    SELECT 'pg_catalog.pg_class'::pg_catalog.regclass AS class, i.indexrelid AS oid,
           'pg_catalog.pg_class'::pg_catalog.regclass AS place_class, i.indexrelid AS place, i.indrelid AS relation
      FROM pg_catalog.pg_index AS i JOIN relation AS r ON r.oid = i.indrelid
     WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
    UNION ALL
    SELECT 'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, e.oid,
           'pg_catalog.pg_statistic_ext'::pg_catalog.regclass, e.oid, e.stxrelid
      FROM pg_catalog.pg_statistic_ext AS e JOIN relation AS r ON r.oid = e.stxrelid
    UNION ALL
    SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, u.oid,
           'pg_catalog.pg_class'::pg_catalog.regclass, u.ev_class, u.ev_class
      FROM rule AS u WHERE u.relkind = 'm'
    UNION ALL
    SELECT DISTINCT 'pg_catalog.pg_type'::pg_catalog.regclass, a.atttypid,
           'pg_catalog.pg_class'::pg_catalog.regclass, a.attrelid, a.attrelid
      FROM pg_catalog.pg_attribute AS a JOIN relation AS r ON r.oid = a.attrelid WHERE NOT a.attisdropped
    UNION ALL
    SELECT 'pg_catalog.pg_cast'::pg_catalog.regclass, c.oid,
           'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid, k.conrelid
      FROM pg_catalog.pg_constraint AS k JOIN pg_catalog.pg_cast AS c ON c.castfunc <> 0
     WHERE k.contype = 'f' AND EXISTS (SELECT FROM relation AS r WHERE r.oid IN (k.conrelid, k.confrelid))
       AND EXISTS (SELECT FROM ROWS FROM (pg_catalog.unnest(k.conkey), pg_catalog.unnest(k.confkey))
                                AS x (referencing, referenced)
                     JOIN pg_catalog.pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = x.referencing
                     JOIN pg_catalog.pg_attribute AS b ON b.attrelid = k.confrelid AND b.attnum = x.referenced
                    WHERE a.atttypid <> b.atttypid)
    UNION ALL
    SELECT x.class, x.oid, x.class, x.oid, x.relation
      FROM (SELECT 'pg_catalog.pg_trigger'::pg_catalog.regclass, t.oid, t.tgrelid
              FROM pg_catalog.pg_trigger AS t WHERE NOT t.tgisinternal OR t.tgparentid <> 0
            UNION ALL
            SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid, k.conrelid
              FROM pg_catalog.pg_constraint AS k WHERE k.contype = 'c'
            UNION ALL
            SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, d.oid, d.adrelid
              FROM pg_catalog.pg_attrdef AS d
            UNION ALL
            SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, w.oid, w.ev_class
              FROM pg_catalog.pg_rewrite AS w WHERE w.ev_type <> '1') AS x (class, oid, relation)
      JOIN relation AS r ON r.oid = x.relation
     WHERE x.relation IN (SELECT conrelid FROM cascaded)
), reached AS (
    SELECT r.class AS root_class, r.place_class, r.place, r.relation, r.class, r.oid FROM root AS r
    UNION
    SELECT x.root_class, x.place_class, x.place, x.relation, n.class, n.oid
      FROM reached AS x, LATERAL (
           SELECT d.refclassid, d.refobjid FROM pg_catalog.pg_depend AS d
            WHERE d.classid = x.class AND d.objid = x.oid
              AND (d.deptype = 'n' OR d.deptype = 'i' AND x.class = 'pg_catalog.pg_type'::pg_catalog.regclass)
              AND (x.class <> 'pg_catalog.pg_class'::pg_catalog.regclass OR x.oid = x.place)
            UNION ALL
           SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, w.oid
             FROM pg_catalog.pg_rewrite AS w JOIN pg_catalog.pg_class AS v ON v.oid = w.ev_class
            WHERE x.class = 'pg_catalog.pg_class'::pg_catalog.regclass AND w.ev_class = x.oid AND v.relkind = 'v'
              AND w.ev_type = '1'
            UNION ALL
           SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid FROM pg_catalog.pg_constraint AS k
            WHERE x.class = 'pg_catalog.pg_type'::pg_catalog.regclass AND k.contypid = x.oid
              AND x.root_class <> 'pg_catalog.pg_type'::pg_catalog.regclass) AS n (class, oid)
), tree AS (
    SELECT w.tableoid AS class, w.oid, w.ev_action::pg_catalog.text AS nodes FROM pg_catalog.pg_rewrite AS w
    UNION ALL
    SELECT k.tableoid, k.oid, k.conbin::pg_catalog.text FROM pg_catalog.pg_constraint AS k
    UNION ALL
    SELECT d.tableoid, d.oid, d.adbin::pg_catalog.text FROM pg_catalog.pg_attrdef AS d
    UNION ALL
    SELECT t.tableoid, t.oid, t.tgqual::pg_catalog.text FROM pg_catalog.pg_trigger AS t
), hazard AS (
    SELECT 'SECURITY DEFINER' AS danger, p.tableoid AS place_class, p.oid AS place, p.tableoid AS class, p.oid
      FROM pg_catalog.pg_proc AS p, subject AS s
     WHERE p.prosecdef AND (p.proowner = s.role OR p.xmin = s.own_xid)
    UNION
    SELECT 'BEYOND ITS RIGHTS',
           CASE WHEN u.selects THEN 'pg_catalog.pg_class' ELSE 'pg_catalog.pg_rewrite' END::pg_catalog.regclass,
           CASE WHEN u.selects THEN u.ev_class ELSE u.oid END, 'pg_catalog.pg_class'::pg_catalog.regclass, u.ev_class
      FROM rule AS u JOIN mention AS m ON m.rule = u.oid, subject AS s
     WHERE m.abroad
        OR NOT m.own AND EXISTS (
               SELECT FROM needed AS n
                WHERE n.rule = u.oid AND NOT pg_catalog.has_table_privilege(s.role, m.oid, n.privilege))
        OR NOT m.own AND pg_catalog.pg_relation_is_updatable(u.ev_class, false) <> 0 AND EXISTS (
               SELECT FROM written_through AS w
                WHERE w.rule = u.oid AND NOT pg_catalog.has_table_privilege(s.role, m.oid, w.privilege))
    UNION
    SELECT 'BEYOND ITS RIGHTS', x.place_class, x.place, 'pg_catalog.pg_class'::pg_catalog.regclass, x.relation
      FROM reached AS x JOIN tree AS t ON t.class = x.class AND t.oid = x.oid, subject AS s,
           LATERAL pg_catalog.regexp_matches(
               t.nodes, ':(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)', 'g') AS m (found)
      JOIN pg_catalog.pg_proc AS p ON p.oid = m.found[1]::pg_catalog.oid
     WHERE NOT pg_catalog.has_function_privilege(s.role, p.oid, 'EXECUTE')
        OR p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND p.proname = ANY (%(interpreters)s)
    UNION
    SELECT 'EVALUATED', x.place_class, x.place, x.class, x.oid
      FROM reached AS x JOIN foreign_code AS f ON f.oid = x.oid
     WHERE x.class = 'pg_catalog.pg_proc'::pg_catalog.regclass
)
SELECT h.danger, pg_catalog.pg_describe_object(h.place_class, h.place, 0) AS description,
       CASE h.class WHEN 'pg_catalog.pg_proc'::pg_catalog.regclass THEN (
           SELECT pg_catalog.json_build_array('ROUTINE', n.nspname, p.oid::pg_catalog.int8, p.proname,
                    pg_catalog.pg_get_userbyid(p.proowner),
                    (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(tn.nspname, t.typname) ORDER BY x.position)
                       FROM pg_catalog.unnest(p.proargtypes::pg_catalog.oid[]) WITH ORDINALITY AS x (type, position)
                       JOIN pg_catalog.pg_type AS t ON t.oid = x.type
                       JOIN pg_catalog.pg_namespace AS tn ON tn.oid = t.typnamespace))
             FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
            WHERE p.oid = h.oid)
       ELSE (
           SELECT pg_catalog.json_build_array('TABLE', n.nspname, c.oid::pg_catalog.int8, c.relname,
                    pg_catalog.pg_get_userbyid(c.relowner), NULL)
             FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
            WHERE c.oid = h.oid)
       END AS target
  FROM hazard AS h ORDER BY 1, 2
"""
"""What would work with other rights when a role's objects go to the owner of the database.

Run before REASSIGN OWNED it looks at what the role owns; run after it in the same transaction, at what that statement
has just changed: what others did as the role in between is met too. Relations that a rule names are taken from its
tree, since `pg_depend` leaves out the server's own; foreign tables are reached as the owner of a view too. Routines
are followed through operators, aggregates, domains, casts, range types and views. Those in C are for superusers to
make.
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


async def read_hazards(transaction: Transaction, role: str) -> list[Hazard]:
    """What of a role's objects in the transaction's database cannot go to its owner without lending that one's rights.

    Raises
    ------
    ServerError
        The database could not be read.
    """
    rows = await transaction.fetch(sql.SQL(HAZARDS), {"role": role, "interpreters": list(INTERPRETERS)})
    return [Hazard(Danger(row["danger"]), row["description"], _target(row["target"])) for row in rows]


def _target(row: list[Any]) -> DatabaseObject:
    kind, schema, oid, name, owner, argument_types = row
    types = tuple((type_schema, type_name) for type_schema, type_name in argument_types or ())
    return DatabaseObject(oid, ObjectKind(kind), schema, name, owner, types)
