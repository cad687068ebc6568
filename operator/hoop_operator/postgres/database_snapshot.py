"""What a database holds, as far as some plans are concerned, in one query.

Every name is qualified and every transaction looks names up in `pg_catalog` alone (see `session`), so what a database
owner may have planted is not met. ACLs are read as PostgreSQL keeps them (manual, `aclexplode`): the functions of the
`has_table_privilege` kind would count what comes from PUBLIC, memberships and ownership. An ACL is taken apart item by
item, because `aclexplode` reads a long one again from its storage for every row that it yields. Objects of one kind,
schema and owner with the same ACL come as one set, and items that read the same in many sets are looked at once.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import LiteralString, NamedTuple

from psycopg import sql

from hoop_operator.planner.model import (
    Acl,
    AclEntry,
    CrowdedAcl,
    DatabaseObject,
    DatabaseState,
    DefaultAcl,
    DefaultAclEntry,
    ObjectKind,
    Schema,
)
from hoop_operator.postgres.admin_rights import CONTESTED, MAY_ASSUME, contested_objects
from hoop_operator.postgres.session import Transaction

DATABASE: LiteralString = """
WITH asked AS MATERIALIZED (
    SELECT n.oid, n.nspname, n.nspowner, n.nspacl FROM pg_catalog.pg_namespace AS n WHERE n.nspname = ANY (%(schemas)s)
), carrier AS (
    SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid, c.relnamespace AS namespace,
           c.relname AS name, c.relowner AS owner, c.relacl AS acl, NULL::pg_catalog.name AS "column"
      FROM pg_catalog.pg_class AS c
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 't')
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
), alike AS MATERIALIZED (
    SELECT g.*, pg_catalog.row_number() OVER () - 1 AS position,
           g.kind IN ('TABLE', 'SEQUENCE', 'ROUTINE') AND g."column" IS NULL
           AND g.namespace IN (SELECT oid FROM asked) AS in_scope
      FROM (SELECT c.kind, c.namespace, c."column", c.owner, c.acl,
                   pg_catalog.array_agg(c.oid::pg_catalog.int8) AS oids, pg_catalog.array_agg(c.name) AS names
              FROM carrier AS c GROUP BY c.kind, c.namespace, c."column", c.owner, c.acl) AS g
), item AS MATERIALIZED (
    SELECT s.kind, s."column", s.owner, i.item, pg_catalog.array_agg(s.position) AS positions
      FROM alike AS s, LATERAL pg_catalog.unnest(s.acl) AS i (item)
     GROUP BY s.kind, s."column", s.owner, i.item
), place AS MATERIALIZED (
    SELECT i.kind, i."column", i.owner, i.positions, pg_catalog.array_agg(i.item) AS items,
           pg_catalog.row_number() OVER () - 1 AS number
      FROM item AS i GROUP BY i.kind, i."column", i.owner, i.positions
), entry AS MATERIALIZED (
    SELECT p.kind, p."column", p.number, p.owner, a.grantee, a.grantor, a.privilege_type, a.is_grantable
      FROM place AS p, LATERAL pg_catalog.unnest(p.items) AS i (item), LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
     WHERE (a.grantee = ANY (%(oids)s) AND a.grantee <> p.owner)
        OR (a.grantor = ANY (%(oids)s) AND a.grantor <> p.owner)
), met AS MATERIALIZED (
    SELECT p.number, p.positions FROM place AS p WHERE p.number IN (SELECT e.number FROM entry AS e)
), sent AS MATERIALIZED (
    SELECT s.* FROM alike AS s
     WHERE s.in_scope OR s.kind = 'SCHEMA'
        OR s.position IN (SELECT p.position FROM met AS m, LATERAL pg_catalog.unnest(m.positions) AS p (position))
), contested AS MATERIALIZED (
    SELECT c.position, c.owner FROM sent AS c WHERE {contested}
), argument AS MATERIALIZED (
    SELECT o.oid, a.position, t.typnamespace AS namespace, t.typname AS name
      FROM sent AS s, LATERAL pg_catalog.unnest(s.oids) AS o (oid)
      JOIN pg_catalog.pg_proc AS p ON p.oid = o.oid::pg_catalog.oid,
           LATERAL pg_catalog.unnest(p.proargtypes::pg_catalog.oid[]) WITH ORDINALITY AS a (type, position)
      JOIN pg_catalog.pg_type AS t ON t.oid = a.type
     WHERE s.kind = 'ROUTINE'
), withheld AS MATERIALIZED (
    SELECT s.namespace, pg_catalog.json_agg(o.oid) AS oids
      FROM alike AS s, LATERAL pg_catalog.unnest(s.oids) AS o (oid)
     WHERE s.in_scope AND s.kind = 'ROUTINE' AND s.acl IS NOT NULL
       AND NOT EXISTS (SELECT FROM pg_catalog.unnest(s.acl) AS i (item),
                                   LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
                        WHERE a.grantee = 0 AND a.privilege_type = 'EXECUTE')
       AND EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = o.oid::pg_catalog.oid
                      AND d.deptype = 'e')
     GROUP BY s.namespace
), inhabitant AS MATERIALIZED (
    SELECT s.namespace, s.owner FROM alike AS s WHERE s.namespace IN (SELECT oid FROM asked)
    UNION
    SELECT t.typnamespace, t.typowner FROM pg_catalog.pg_type AS t WHERE t.typnamespace IN (SELECT oid FROM asked)
), dependency AS MATERIALIZED (
    SELECT s.refobjid AS role, s.classid, s.objid, s.objsubid, s.deptype FROM pg_catalog.pg_shdepend AS s
     WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND s.refobjid = ANY (%(bound)s)
       AND (s.deptype = 'o' AND s.classid <> 'pg_catalog.pg_default_acl'::pg_catalog.regclass
            OR s.deptype IN ('r', 'i'))
       AND s.dbid = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
), default_item AS (
    SELECT d.defaclrole, d.defaclobjtype, i.item, pg_catalog.array_agg(n.nspname) AS schemas
      FROM pg_catalog.pg_default_acl AS d LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = d.defaclnamespace
           LEFT JOIN LATERAL pg_catalog.unnest(d.defaclacl) AS i (item) ON true
     GROUP BY d.defaclrole, d.defaclobjtype, i.item
), default_entry AS (
    SELECT d.defaclrole AS owner, d.schemas, d.defaclobjtype, a.grantee, a.privilege_type, a.is_grantable
      FROM default_item AS d LEFT JOIN LATERAL
           pg_catalog.aclexplode(CASE WHEN d.item IS NOT NULL THEN ARRAY[d.item] END) AS a ON true
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
          (SELECT w.oids FROM withheld AS w WHERE w.namespace = s.oid)))
     FROM asked AS s) AS schemas,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(s.position, s.kind, n.nspname,
          pg_catalog.pg_get_userbyid(s.owner), s."column" IS NULL, s.oids, s.names))
     FROM sent AS s LEFT JOIN pg_catalog.pg_namespace AS n ON n.oid = s.namespace) AS object_sets,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(s.position, pg_catalog.cardinality(s.acl),
          pg_catalog.pg_column_size(s.acl),
          (SELECT pg_catalog.max(pg_catalog.pg_column_size(c.*)) FROM pg_catalog.pg_class AS c
            WHERE c.oid = ANY (s.oids::pg_catalog.oid[]))))
     FROM sent AS s
    WHERE s.in_scope AND s.kind IN ('TABLE', 'SEQUENCE') AND pg_catalog.pg_column_size(s.acl) > %(crowded)s) AS crowded,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(pg_catalog.pg_get_userbyid(d.defaclrole), s.nspname,
          d.defaclobjtype, pg_catalog.cardinality(d.defaclacl), pg_catalog.pg_column_size(d.defaclacl)))
     FROM pg_catalog.pg_default_acl AS d JOIN asked AS s ON s.oid = d.defaclnamespace
    WHERE d.defaclobjtype IN ('r', 'S') AND pg_catalog.pg_column_size(d.defaclacl) > %(crowded)s) AS crowded_defaults,
  (SELECT pg_catalog.json_agg(g.row) FROM (
      SELECT pg_catalog.json_build_array(x.oid, pg_catalog.json_agg(pg_catalog.json_build_array(n.nspname, x.name)
               ORDER BY x.position)) AS row
        FROM argument AS x JOIN pg_catalog.pg_namespace AS n ON n.oid = x.namespace
       GROUP BY x.oid) AS g) AS argument_types,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(e.kind, e.privilege_type, e.is_grantable,
          e."column", CASE e.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(e.grantee) END,
          pg_catalog.pg_get_userbyid(e.grantor), e.number))
     FROM entry AS e) AS acl,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(m.number, m.positions)) FROM met AS m) AS places,
  (SELECT pg_catalog.json_agg(g.row) FROM (
      SELECT pg_catalog.json_build_array(s.kind, a.privilege_type, pg_catalog.array_agg(DISTINCT s.position)) AS row
        FROM sent AS s, LATERAL pg_catalog.unnest(s.acl) AS i (item),
             LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
       WHERE s."column" IS NULL AND a.is_grantable AND a.grantee <> 0 AND NOT pg_catalog.pg_has_role(s.owner, 'USAGE')
         AND pg_catalog.pg_has_role(a.grantee, 'USAGE')
       GROUP BY s.kind, a.privilege_type) AS g) AS grant_options,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(pg_catalog.pg_get_userbyid(d.owner), d.schemas,
          d.defaclobjtype,
          CASE d.grantee WHEN 0 THEN '' ELSE pg_catalog.pg_get_userbyid(coalesce(d.grantee, d.owner)) END,
          coalesce(d.privilege_type, ''), coalesce(d.is_grantable, false)))
     FROM default_entry AS d) AS default_acl,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(pg_catalog.pg_get_userbyid(d.role),
          d.deptype = 'o' AND d.classid <> 'pg_catalog.pg_user_mapping'::pg_catalog.regclass,
          pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid)))
     FROM dependency AS d WHERE d.deptype <> 'i') AS dependencies,
  (SELECT pg_catalog.json_agg(DISTINCT pg_catalog.pg_get_userbyid(d.role))
     FROM dependency AS d WHERE d.deptype = 'i') AS initial_grantees,
  (SELECT pg_catalog.json_agg(r.rolname) FROM pg_catalog.pg_roles AS r
    WHERE NOT pg_catalog.pg_has_role(r.oid, 'USAGE')
      AND (r.oid IN (SELECT owner FROM sent) OR r.oid IN (SELECT owner FROM default_entry)
           OR r.oid IN (SELECT nspowner FROM asked)
           OR r.oid IN (SELECT owner FROM inhabitant)
           OR r.oid = (SELECT d.datdba FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
           OR r.oid IN (SELECT a.grantee FROM asked AS s, LATERAL pg_catalog.unnest(s.nspacl) AS i (item),
                        LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a))
  ) AS not_administered,
  (SELECT pg_catalog.json_agg(r.rolname) FROM pg_catalog.pg_roles AS r
    WHERE r.oid IN (SELECT e.grantor FROM entry AS e UNION SELECT c.owner FROM contested AS c) AND NOT {may_assume}
  ) AS not_assumable,
  (SELECT pg_catalog.json_agg(c.position) FROM contested AS c) AS contested,
  (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(r.rolname, n.nspname))
     FROM pg_catalog.pg_roles AS r, pg_catalog.pg_namespace AS n
    WHERE (r.rolname = current_user OR r.oid IN (SELECT c.owner FROM contested AS c)
           OR r.oid IN (SELECT e.grantor FROM entry AS e WHERE e.grantor <> e.owner))
      AND n.oid IN (SELECT oid FROM asked UNION SELECT namespace FROM sent UNION SELECT namespace FROM argument)
      AND CASE WHEN r.rolsuper AND r.rolname <> current_user THEN r.oid <> n.nspowner AND NOT EXISTS (
            SELECT FROM pg_catalog.aclexplode(
                coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) AS a
             WHERE a.privilege_type = 'USAGE' AND a.grantee IN (0, r.oid))
          ELSE NOT pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE') END) AS closed_schemas
"""

ROW_BYTES = 8160
"""What fits into a row of a catalog without TOAST table, such as pg_class, in a page of 8 kB (`MaxHeapTupleSize`)."""

ROW_BYTES_BESIDE_ACL = 184
"""What else a plain table's row of pg_class holds."""

CROWDED_ACL_BYTES = ROW_BYTES // 2
"""From this size on, as it is stored, an ACL is looked at more closely."""

DEFAULT_ACL_OBJECTS: Mapping[str, str] = {
    "r": "TABLES",
    "S": "SEQUENCES",
    "f": "ROUTINES",
    "T": "TYPES",
    "n": "SCHEMAS",
    "L": "LARGE OBJECTS",
}


async def read_database(
    transaction: Transaction,
    name: str,
    role_oids: Iterable[int],
    bound_oids: Iterable[int],
    schemas: Iterable[str],
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
    bound_oids
        Those of them that own something in this database or are named there by more than an ACL.
    schemas
        The schemas of the plans' scopes in this database.

    Raises
    ------
    ServerError
        The database could not be read.
    """
    parameters = {
        "oids": sorted(set(role_oids)),
        "bound": sorted(set(bound_oids)),
        "crowded": CROWDED_ACL_BYTES,
        "schemas": sorted(set(schemas)),
    }
    query = sql.SQL(DATABASE).format(may_assume=sql.SQL(MAY_ASSUME), contested=sql.SQL(CONTESTED))
    (row,) = await transaction.fetch(query, parameters)
    owned: dict[str, list[str]] = defaultdict(list)
    bound: dict[str, list[str]] = defaultdict(list)
    for role, owns, description in row["dependencies"] or ():
        if description is not None:  # of what was dropped since the query began there is none
            (owned if owns else bound)[role].append(description)
    closed: dict[str, set[str]] = defaultdict(set)
    for role, schema in row["closed_schemas"] or ():
        closed[role].add(schema)
    sets = [_ObjectSet(*found) for found in row["object_sets"] or ()]
    contested = frozenset(row["contested"] or ())
    argument_types = {oid: tuple(map(tuple, types)) for oid, types in row["argument_types"] or ()}
    objects: dict[ObjectKind, _Objects] = {}
    for found in sets:
        kind = ObjectKind(found.kind)
        objects.setdefault(kind, _Objects(kind, argument_types)).add(found)
    by_position = {found.position: frozenset(found.oids) for found in sets}
    schemas_of = {found.position: found.schema for found in sets}

    @cache
    def objects_at(positions: tuple[int, ...]) -> frozenset[int]:
        """The objects of some sets; many roles hold things on the same ones, and these are kept once."""
        if len(positions) == 1:
            return by_position[positions[0]]
        return frozenset().union(*(by_position[position] for position in positions))

    def objects_by_schema(positions: list[int]) -> list[tuple[str | None, frozenset[int]]]:
        parts: dict[str | None, list[int]] = defaultdict(list)
        for position in sorted(positions):
            parts[schemas_of[position]].append(position)
        return [(schema, objects_at(tuple(part))) for schema, part in parts.items()]

    places = {number: objects_by_schema(positions) for number, positions in row["places"] or ()}
    contents: dict[str, dict[ObjectKind, list[int]]] = defaultdict(lambda: defaultdict(list))
    for found in sets:
        if found.schema is not None and found.whole:
            contents[found.schema][ObjectKind(found.kind)].append(found.position)
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
                contents={
                    kind: objects_at(tuple(sorted(positions))) for kind, positions in contents[schema].items()
                },
                withheld_routines=frozenset(withheld or ()),
            )
            for oid, schema, owner, creators, owners, withheld in row["schemas"] or ()
        },
        objects=objects,
        acl=Acl.of(
            AclEntry(
                grantee,
                grantor,
                ObjectKind(kind),
                schema,
                privilege,
                grantable,
                objects_there,
                column,
            )
            for kind, privilege, grantable, column, grantee, grantor, place in row["acl"] or ()
            for schema, objects_there in places[place]
        ),
        grant_options={
            (ObjectKind(kind), privilege): objects_at(tuple(sorted(positions)))
            for kind, privilege, positions in row["grant_options"] or ()
        },
        crowded={
            oid: _crowded(entries, acl_bytes, row_bytes)
            for position, entries, acl_bytes, row_bytes in row["crowded"] or ()
            for oid in by_position[position]
        },
        crowded_defaults={
            (owner, schema, DEFAULT_ACL_OBJECTS[objects]): _crowded(
                entries, acl_bytes, acl_bytes + ROW_BYTES_BESIDE_ACL
            )
            for owner, schema, objects, entries, acl_bytes in row["crowded_defaults"] or ()
        },
        default_acl=DefaultAcl.of(
            DefaultAclEntry(owner, schema, DEFAULT_ACL_OBJECTS[objects], grantee, privilege, grantable)
            for owner, schemas, objects, grantee, privilege, grantable in row["default_acl"] or ()
            for schema in schemas
        ),
        owned={role: tuple(sorted(descriptions)) for role, descriptions in owned.items()},
        bound={role: tuple(sorted(descriptions)) for role, descriptions in bound.items()},
        initial_grantees=frozenset(row["initial_grantees"] or ()),
        not_administered=frozenset(row["not_administered"] or ()),
        not_assumable=frozenset(row["not_assumable"] or ()),
        contested=contested_objects(
            (found.kind, found.oids) for found in sets if found.position in contested
        ),
        closed_schemas={role: frozenset(schemas) for role, schemas in closed.items()},
    )


def _crowded(entries: int, acl_bytes: int, row_bytes: int) -> CrowdedAcl:
    """How many entries fit, if others compress as those do that are there; a longer row cannot be stored."""
    return CrowdedAcl(entries, entries + (ROW_BYTES - row_bytes) * entries // acl_bytes)


class _ObjectSet(NamedTuple):
    """Objects of one kind, schema and owner with one and the same ACL, as the query yields them."""

    position: int
    kind: str
    schema: str | None
    owner: str
    whole: bool
    """Whether the ACL is the objects' own, not that of a column."""
    oids: list[int]
    names: list[str]


class _Objects(Mapping[int, DatabaseObject]):
    """Objects of one kind by OID, each made when it is asked for: of most a look needs the OID alone."""

    def __init__(self, kind: ObjectKind, argument_types: Mapping[int, tuple[tuple[str, str], ...]]) -> None:
        self._kind = kind
        self._argument_types = argument_types if kind is ObjectKind.ROUTINE else {}
        self._places: dict[int, tuple[str | None, str]] = {}
        self._names: dict[int, str] = {}
        self._made: dict[int, DatabaseObject] = {}

    def add(self, found: _ObjectSet) -> None:
        """Take in a set of objects."""
        self._places.update(dict.fromkeys(found.oids, (found.schema, found.owner)))
        self._names.update(zip(found.oids, found.names, strict=True))

    def __getitem__(self, oid: int) -> DatabaseObject:
        if made := self._made.get(oid):
            return made
        schema, owner = self._places[oid]
        made = self._made[oid] = DatabaseObject(
            oid,
            self._kind,
            schema,
            self._names[oid],
            owner,
            self._argument_types.get(oid, ()),
        )
        return made

    def __iter__(self) -> Iterator[int]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
