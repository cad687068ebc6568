"""Grants: what of a plan's privileges is missing in a database, and what is there that should not be."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import LiteralString, NamedTuple

from psycopg import sql

from hoop_operator.crd import Privilege
from hoop_operator.errors import PlanReason
from hoop_operator.planner.model import (
    AclEntry,
    DatabaseObject,
    DatabaseState,
    DesiredRole,
    ObjectKind,
    Schema,
    Server,
)
from hoop_operator.planner.statements import (
    OBJECTS_PER_STATEMENT,
    Phase,
    Statement,
    chunks,
    grantee_list,
    keyword,
    object_reference,
    render,
)

TABLE_PRIVILEGES = frozenset(
    {
        Privilege.SELECT,
        Privilege.INSERT,
        Privilege.UPDATE,
        Privilege.DELETE,
        Privilege.TRUNCATE,
        Privilege.REFERENCES,
        Privilege.TRIGGER,
    }
)
PLURALS: Mapping[ObjectKind, LiteralString] = {
    ObjectKind.TABLE: "TABLES",
    ObjectKind.SEQUENCE: "SEQUENCES",
    ObjectKind.ROUTINE: "ROUTINES",
}


BUILT_IN_PUBLIC_DEFAULTS = frozenset({"ROUTINES", "TYPES"})
"""What PUBLIC may use from the start (manual, "Privileges")."""


@dataclass(slots=True)
class Difference:
    """What separates a role from its plan: statements that close the gap, and what stands against them."""

    statements: list[Statement] = field(default_factory=list)
    problems: list[tuple[PlanReason, str]] = field(default_factory=list)
    withheld_routines: list[str] = field(default_factory=list)
    """Routines that EXECUTE leaves out because an extension keeps them from PUBLIC."""
    uncovered_owners: list[str] = field(default_factory=list)
    """In words: owners whose future objects the admin cannot grant on, and the SQL that would let it."""

    def extend(self, other: "Difference") -> None:
        """Add all that `other` holds."""
        self.statements += other.statements
        self.problems += other.problems
        self.withheld_routines += other.withheld_routines
        self.uncovered_owners += other.uncovered_owners


def object_privileges(privileges: Iterable[Privilege]) -> dict[ObjectKind, frozenset[str]]:
    """The privileges that a plan means on each kind of object in a schema (manual, "Privileges", table 5.2).

    Who may insert into a table with a serial column needs its sequence too.
    """
    asked = frozenset(privileges)
    wanted: dict[ObjectKind, frozenset[str]] = {
        ObjectKind.SCHEMA: frozenset({"USAGE", "CREATE"} if Privilege.CREATE in asked else {"USAGE"})
    }
    if tables := asked & TABLE_PRIVILEGES:
        wanted[ObjectKind.TABLE] = frozenset(privilege.value for privilege in tables)
    if asked & {Privilege.INSERT, Privilege.UPDATE}:
        wanted[ObjectKind.SEQUENCE] = frozenset({"USAGE", "SELECT"})
    if Privilege.EXECUTE in asked:
        wanted[ObjectKind.ROUTINE] = frozenset({"EXECUTE"})
    return wanted


def future_owners(schema: Schema, state: DatabaseState, superusers: frozenset[str]) -> frozenset[str]:
    """Who is expected to create objects in a schema.

    Whoever owns an object there; the schema's owner and those with an explicit CREATE on it too, unless they are
    superusers, who may create anywhere and usually do not.
    """
    owners = {
        target.owner
        for kind in PLURALS
        for target in state.objects.get(kind, {}).values()
        if target.schema == schema.name
    }
    creators = {
        state.owner if name == "pg_database_owner" else name for name in schema.creators | {schema.owner}
    }
    return frozenset(owners | (creators - superusers))


def database_difference(desired: DesiredRole, state: DatabaseState, server: Server) -> Difference:
    """The grants inside one database that a managed role lacks there and those it has beyond its plan."""
    difference = Difference()
    wanted = _wanted(desired, state, difference)
    place = _Place(state.name, state.objects, state.acl, state.not_administered, server.admin)
    difference.extend(_acl_difference(desired.name, wanted, place))
    difference.extend(_default_acl_difference(desired, state, server))
    return difference


def shared_difference(desired: DesiredRole, server: Server) -> Difference:
    """CONNECT on the databases of a plan, and whatever else the role holds on objects of the server as a whole."""
    difference = Difference()
    wanted: Wanted = {}
    databases = {
        server.databases[scope.database].oid for scope in desired.scopes if scope.database in server.databases
    }
    objects = {kind: dict(targets) for kind, targets in server.shared_objects.items()}
    objects.setdefault(ObjectKind.DATABASE, {}).update(
        (database.oid, DatabaseObject(database.oid, ObjectKind.DATABASE, None, database.name, database.owner))
        for database in server.databases.values()
        if database.oid in databases
    )
    if databases:
        wanted[ObjectKind.DATABASE, None, "CONNECT"] = frozenset(databases)
    place = _Place(None, objects, server.acl, server.not_administered, server.admin)
    difference.extend(_acl_difference(desired.name, wanted, place))
    return difference


Wanted = dict[tuple[ObjectKind, str | None, str], frozenset[int]]
"""Per kind, schema and privilege the objects on which a plan asks for it."""

Objects = Mapping[ObjectKind, Mapping[int, DatabaseObject]]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a comparison takes place: one database, or what all databases of a server share."""

    database: str | None
    objects: Objects
    acl: tuple[AclEntry, ...]
    not_administered: frozenset[str]
    admin: str

    def describe(self, target: DatabaseObject) -> str:
        """`target` in words."""
        name = f"{target.kind.lower()} {object_reference(target).as_string(None)}"
        return f'{name} in database "{self.database}"' if self.database is not None else name


def _wanted(desired: DesiredRole, state: DatabaseState, difference: Difference) -> Wanted:
    wanted: Wanted = {}
    privileges = object_privileges(desired.privileges)
    for scope in sorted(desired.scopes):
        schema = state.schemas.get(scope.schema)
        if scope.database != state.name or schema is None:
            continue
        for kind, names in privileges.items():
            if kind is ObjectKind.SCHEMA:
                oids = frozenset({schema.oid})
            else:
                targets = [
                    target for target in state.objects.get(kind, {}).values() if target.schema == schema.name
                ]
                oids = frozenset(target.oid for target in targets if not target.withheld)
                difference.withheld_routines += [
                    f'"{state.name}": {object_reference(target).as_string(None)}'
                    for target in targets
                    if target.withheld
                ]
            key_schema = None if kind is ObjectKind.SCHEMA else schema.name
            for name in names:
                wanted[kind, key_schema, name] = wanted.get((kind, key_schema, name), frozenset()) | oids
    return wanted


def _missing(role: str, wanted: Wanted, objects: Objects, acl: Iterable[AclEntry]) -> Wanted:
    """What of `wanted` the role has neither by a direct grant nor by owning the object."""
    held: dict[tuple[ObjectKind, str | None, str], set[int]] = defaultdict(set)
    for entry in acl:
        if entry.grantee == role and entry.column is None:
            held[entry.kind, entry.schema, entry.privilege] |= entry.objects
    missing: Wanted = {}
    for key, oids in wanted.items():
        lacking = oids - held[key]
        lacking = frozenset(oid for oid in lacking if objects[key[0]][oid].owner != role)
        if lacking:
            missing[key] = lacking
    return missing


def _acl_difference(role: str, wanted: Wanted, place: _Place) -> Difference:
    difference = _revokes(role, wanted, place)
    by_objects: dict[tuple[ObjectKind, str | None, frozenset[int]], list[str]] = defaultdict(list)
    powerless: dict[str, str] = {}
    for (kind, schema, privilege), oids in _missing(role, wanted, place.objects, place.acl).items():
        by_objects[kind, schema, oids].append(privilege)
        for target in (place.objects[kind][oid] for oid in oids):
            if target.owner in place.not_administered:
                powerless.setdefault(target.owner, f"grant {privilege} on {place.describe(target)}")
    difference.problems += [
        _insufficient(place.admin, owner, action) for owner, action in sorted(powerless.items())
    ]
    for (kind, schema, oids), privileges in by_objects.items():
        for meant, count in _targets(kind, schema, oids, place.objects):
            head = render("GRANT {} ON {} TO", _privilege_list(privileges), meant)
            difference.statements.append(Statement(Phase.GRANT, place.database, head, (role,), objects=count))
    return difference


def _revokes(role: str, wanted: Wanted, place: _Place) -> Difference:
    """REVOKE statements for all that the role holds beyond `wanted`; none that would need CASCADE."""
    difference = Difference()
    passed_on = _passed_on(role, place)
    grouped: dict[_Revocation, set[str]] = defaultdict(set)
    powerless: dict[str, str] = {}
    for entry in place.acl:
        if entry.grantee != role:
            continue
        key = (entry.kind, entry.schema, entry.privilege)
        allowed = wanted.get(key, frozenset()) if entry.column is None else frozenset()
        for option_only, oids in ((False, entry.objects - allowed), (True, entry.objects & allowed)):
            if option_only and not entry.grantable:
                continue
            by_grantor: dict[str | None, set[int]] = defaultdict(set)
            for target in (place.objects[entry.kind][oid] for oid in sorted(oids)):
                if target.owner == role:
                    continue
                if dependents := passed_on.get((entry.kind, entry.privilege, entry.column, target.oid)):
                    difference.problems.append(
                        (
                            PlanReason.DEPENDENT_GRANTS,
                            _dependent_grants(role, entry, place.describe(target), target, dependents),
                        )
                    )
                elif entry.grantor in place.not_administered:
                    action = f"revoke {entry.privilege} on {place.describe(target)}"
                    powerless.setdefault(entry.grantor, action)
                else:
                    by_grantor[None if entry.grantor == target.owner else entry.grantor].add(target.oid)
            for grantor, part in by_grantor.items():
                revocation = _Revocation(
                    entry.kind, entry.schema, grantor, entry.column, option_only, frozenset(part)
                )
                grouped[revocation].add(entry.privilege)
    difference.problems += [
        _insufficient(place.admin, owner, action) for owner, action in sorted(powerless.items())
    ]
    for revocation, privileges in grouped.items():
        names = _privilege_list(privileges, revocation.column)
        option = sql.SQL("GRANT OPTION FOR ") if revocation.option_only else sql.SQL("")
        for target_list, count in _targets(
            revocation.kind, revocation.schema, revocation.objects, place.objects
        ):
            head = render("REVOKE {}{} ON {} FROM", option, names, target_list)
            difference.statements.append(
                Statement(
                    Phase.REVOKE, place.database, head, (role,), as_role=revocation.as_role, objects=count
                )
            )
    return difference


class _Revocation(NamedTuple):
    kind: ObjectKind
    schema: str | None
    as_role: str | None
    column: str | None
    option_only: bool
    objects: frozenset[int]


def _passed_on(role: str, place: _Place) -> dict[tuple[ObjectKind, str, str | None, int], set[str]]:
    """Who holds by the role's own hand what: such a grant stands and falls with the role's grant option."""
    passed_on: dict[tuple[ObjectKind, str, str | None, int], set[str]] = defaultdict(set)
    for entry in place.acl:
        if entry.grantor == role and entry.grantee != role:
            for oid in entry.objects:
                if place.objects[entry.kind][oid].owner != role:
                    passed_on[entry.kind, entry.privilege, entry.column, oid].add(entry.grantee)
    return passed_on


def _insufficient(admin: str, owner: str, action: str) -> tuple[PlanReason, str]:
    remedy = _grant_membership(owner, admin)
    return (
        PlanReason.INSUFFICIENT_PRIVILEGE,
        f'the admin "{admin}" may not act for "{owner}", so it cannot {action}; an administrator has to run: {remedy};',
    )


def _dependent_grants(
    role: str, entry: AclEntry, description: str, target: DatabaseObject, grantees: Iterable[str]
) -> str:
    names = grantee_list(sorted(name or "PUBLIC" for name in grantees))
    remedy = render(
        "SET ROLE {}; REVOKE {} ON {} {} FROM {}; RESET ROLE;",
        sql.Identifier(role),
        _privilege_list([entry.privilege], entry.column),
        keyword(target.kind),
        object_reference(target),
        sql.SQL(", ").join(sql.Identifier(name) if name else sql.SQL("PUBLIC") for name in sorted(grantees)),
    )
    return (
        f"{entry.privilege} on {description} was passed on by {role} to {names}, who would lose it; "
        f"nothing is cascaded: to let it go, run: {remedy}"
    )


def _targets(
    kind: ObjectKind, schema: str | None, oids: frozenset[int], objects: Objects
) -> Iterator[tuple[sql.Composable, int]]:
    """What stands after ON, with the number of objects it meets: the whole schema in bulk, or objects by name."""
    if kind in PLURALS and schema is not None:
        in_schema = {oid for oid, target in objects[kind].items() if target.schema == schema}
        if oids == in_schema:
            yield (
                sql.SQL("ALL {} IN SCHEMA {}").format(sql.SQL(PLURALS[kind]), sql.Identifier(schema)),
                len(oids),
            )
            return
    targets = sorted(
        (objects[kind][oid] for oid in oids), key=lambda target: (target.schema or "", target.name)
    )
    for part in chunks(targets, OBJECTS_PER_STATEMENT):
        yield (
            sql.SQL("{} {}").format(keyword(kind), sql.SQL(", ").join(map(object_reference, part))),
            len(part),
        )


def _privilege_list(privileges: Iterable[str], column: str | None = None) -> sql.Composable:
    suffix = sql.SQL(" ({})").format(sql.Identifier(column)) if column else sql.SQL("")
    return sql.SQL(", ").join(sql.SQL("{}{}").format(keyword(name), suffix) for name in sorted(privileges))


def _grant_membership(role: str, member: str) -> str:
    return render("GRANT {} TO {}", sql.Identifier(role), sql.Identifier(member))


def _default_acl_difference(desired: DesiredRole, state: DatabaseState, server: Server) -> Difference:
    difference = Difference()
    role = desired.name
    wanted: set[tuple[str, str | None, str, str]] = set()
    privileges = object_privileges(desired.privileges)
    uncovered: dict[str, list[str]] = defaultdict(list)
    for scope in sorted(desired.scopes):
        schema = state.schemas.get(scope.schema)
        if scope.database != state.name or schema is None:
            continue
        for owner in sorted(future_owners(schema, state, server.superusers) - {role}):
            if owner in state.not_administered:
                uncovered[owner].append(schema.name)
                continue
            for kind, plural in PLURALS.items():
                wanted |= {(owner, schema.name, plural, name) for name in privileges.get(kind, ())}
    difference.uncovered_owners += [
        f'"{owner}" in {", ".join(f"{state.name}.{name}" for name in schemas)} (would be covered after: '
        f"{_grant_membership(owner, server.admin)};)"
        for owner, schemas in uncovered.items()
    ]
    held = [entry for entry in state.default_acl if entry.grantee == role and entry.owner != role]
    present = {(entry.owner, entry.schema, entry.objects, entry.privilege) for entry in held}
    missing: dict[tuple[str, str | None, str], list[str]] = defaultdict(list)
    for owner, schema_name, plural, name in wanted - present:
        missing[owner, schema_name, plural].append(name)
    for (owner, schema_name, plural), names in sorted(missing.items(), key=str):
        difference.statements.append(
            _alter_default(
                Phase.GRANT, state.name, role, (owner, schema_name, plural), names, "GRANT {} ON {} TO"
            )
        )
    extra: dict[tuple[str, str | None, str, bool], list[str]] = defaultdict(list)
    for entry in held:
        if (entry.owner, entry.schema, entry.objects, entry.privilege) not in wanted:
            extra[entry.owner, entry.schema, entry.objects, False].append(entry.privilege)
        elif entry.grantable:
            extra[entry.owner, entry.schema, entry.objects, True].append(entry.privilege)
    for (owner, schema_name, plural, option_only), names in sorted(extra.items(), key=str):
        revoke: LiteralString = (
            "REVOKE GRANT OPTION FOR {} ON {} FROM" if option_only else "REVOKE {} ON {} FROM"
        )
        if owner in state.not_administered:
            action = f'take back default privileges of {role} in database "{state.name}"'
            difference.problems.append(_insufficient(server.admin, owner, action))
            continue
        difference.statements.append(
            _alter_default(Phase.REVOKE, state.name, role, (owner, schema_name, plural), names, revoke)
        )
    return difference


def _alter_default(
    phase: Phase,
    database: str,
    role: str,
    target: tuple[str, str | None, str],
    privileges: Iterable[str],
    action: LiteralString,
) -> Statement:
    owner, schema, plural = target
    place = sql.SQL(" IN SCHEMA {}").format(sql.Identifier(schema)) if schema is not None else sql.SQL("")
    head = render(
        "ALTER DEFAULT PRIVILEGES FOR ROLE {}{} {}",
        sql.Identifier(owner),
        place,
        sql.SQL(action).format(_privilege_list(privileges), keyword(plural)),
    )
    return Statement(phase, database, head, (role,))


def restore_own_defaults(role: str, state: DatabaseState) -> list[Statement]:
    """Take away default privileges that the role itself set, for they keep it from being dropped.

    An entry vanishes when it says what the server would do without it (manual, ALTER DEFAULT PRIVILEGES, Notes).
    """
    statements: list[Statement] = []
    entries = {
        (entry.schema, entry.objects, entry.grantee) for entry in state.default_acl if entry.owner == role
    }
    for schema, objects, grantee in sorted(entries, key=str):
        if grantee != role:
            statements.append(
                _own_default(role, state.name, schema, objects, "REVOKE ALL ON {} FROM {}", grantee)
            )
    for objects in sorted({objects for schema, objects, _ in entries if schema is None}):
        statements.append(_own_default(role, state.name, None, objects, "GRANT ALL ON {} TO {}", role))
        if objects in BUILT_IN_PUBLIC_DEFAULTS:
            statements.append(_own_default(role, state.name, None, objects, "GRANT ALL ON {} TO {}", ""))
    return statements


def _own_default(
    role: str, database: str, schema: str | None, objects: str, action: LiteralString, grantee: str
) -> Statement:
    place = sql.SQL(" IN SCHEMA {}").format(sql.Identifier(schema)) if schema is not None else sql.SQL("")
    who: sql.Composable = sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC")
    head = render(
        "ALTER DEFAULT PRIVILEGES FOR ROLE {}{} {}",
        sql.Identifier(role),
        place,
        sql.SQL(action).format(keyword(objects), who),
    )
    phase = Phase.REVOKE if action.startswith("REVOKE") else Phase.GRANT
    return Statement(phase, database, head)
