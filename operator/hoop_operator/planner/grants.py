"""Grants: what of a plan's privileges is missing in a database, and what is there that should not be."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import LiteralString, NamedTuple

from psycopg import sql

from hoop_operator.crd import Privilege
from hoop_operator.errors import PlanReason
from hoop_operator.planner.model import (
    INHERIT_PER_MEMBERSHIP,
    Acl,
    AclEntry,
    CrowdedAcl,
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

ENTRIES_KEPT_FREE = 500
"""Room that stays in a crowded ACL, for all the plans of a turn are planned against the same look."""

GRANTEE_LIMIT_REMEDY = (
    "grant the privileges once to a group role (NOLOGIN), and give every login a plan of type external with that role "
    "as its spec.sourceRole"
)

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
    creators = {state.resolve(name) for name in schema.creators | {schema.owner}}
    object_owners = frozenset(state.resolve(name) for name in schema.object_owners)
    return object_owners | (creators - superusers)


def database_difference(desired: DesiredRole, state: DatabaseState, server: Server) -> Difference:
    """The grants inside one database that a managed role lacks there and those it has beyond its plan."""
    difference = Difference()
    place = _Place(
        server,
        state,
        state.objects,
        state.acl,
        state.grant_options,
        state.not_administered,
        state.not_assumable,
        state.contested,
        state.closed_schemas,
    )
    wanted = _wanted(desired, state, difference)
    difference.extend(_revokes(desired.name, wanted, place))
    difference.extend(_grants(desired.name, wanted, place))
    difference.problems += _full_acls(desired.name, wanted, place, state)
    difference.extend(_default_acl_difference(desired, place, state))
    return difference


def shared_difference(desired: DesiredRole, server: Server) -> Difference:
    """CONNECT on the databases of a plan, and whatever else the role holds on objects of the server as a whole."""
    place = _Place(
        server,
        None,
        server.shared_objects,
        server.acl,
        server.grant_options,
        server.not_administered,
        server.not_assumable,
        server.contested,
        closed_schemas={},
    )
    databases = frozenset(
        server.databases[scope.database].oid for scope in desired.scopes if scope.database in server.databases
    )
    wanted: Wanted = {(ObjectKind.DATABASE, None, "CONNECT"): databases}
    difference = _revokes(desired.name, wanted, place)
    difference.extend(_grants(desired.name, wanted, place))
    return difference


Wanted = dict[tuple[ObjectKind, str | None, str], frozenset[int]]
"""Per kind, schema and privilege the objects on which a plan asks for it."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a comparison takes place: one database, or what all databases of a server share."""

    server: Server
    state: DatabaseState | None
    objects: Mapping[ObjectKind, Mapping[int, DatabaseObject]]
    acl: Acl
    grant_options: Mapping[tuple[ObjectKind, str], frozenset[int]]
    not_administered: frozenset[str]
    not_assumable: frozenset[str]
    contested: Mapping[ObjectKind, frozenset[int]]
    closed_schemas: Mapping[str, frozenset[str]]

    @property
    def database(self) -> str | None:
        return self.state.name if self.state is not None else None

    def whole(self, kind: ObjectKind, schema: str | None) -> frozenset[int] | None:
        """All objects of a kind in a schema; None where not all of them are known."""
        if self.state is None or schema is None or schema not in self.state.schemas:
            return None
        return self.state.schemas[schema].contents.get(kind)

    def targets(
        self, kind: ObjectKind, schema: str | None, oids: frozenset[int], column: str | None = None
    ) -> Iterator[tuple[sql.Composable, int]]:
        """What stands after ON, with the number of objects it meets: the whole schema in bulk, or objects by name."""
        if kind in PLURALS and schema is not None and column is None and oids == self.whole(kind, schema):
            whole_schema = sql.SQL("ALL {} IN SCHEMA {}")
            yield whole_schema.format(sql.SQL(PLURALS[kind]), sql.Identifier(schema)), len(oids)
            return
        targets = sorted(
            (self.objects[kind][oid] for oid in oids), key=lambda target: (target.schema or "", target.name)
        )
        # Columns of a sequence are granted as those of a table are.
        word = keyword(ObjectKind.TABLE if column is not None else kind)
        for part in chunks(targets, OBJECTS_PER_STATEMENT):
            yield sql.SQL("{} {}").format(word, sql.SQL(", ").join(map(object_reference, part))), len(part)

    def actor(self, entry: AclEntry, target: DatabaseObject) -> str | None:
        """The role as which an entry on an object is taken back; None where the server finds the right one itself."""
        contested = target.oid in self.contested.get(target.kind, frozenset())
        return None if entry.grantor == target.owner and not contested else entry.grantor

    def describe(self, kind: ObjectKind, oids: Collection[int]) -> str:
        """In words, one of the objects, and how many there are."""
        target = self.objects[kind][_first(kind, oids, self)]
        name = f"{kind.lower()} {object_reference(target).as_string(None)}"
        others = f" and {len(oids) - 1} more" if len(oids) > 1 else ""
        return (
            f'{name}{others} in database "{self.database}"' if self.state is not None else f"{name}{others}"
        )

    def membership_in(self, owner: str) -> str:
        """The SQL that lets the admin act for an owner."""
        return grant_membership(self.resolve(owner), self.server)

    def resolve(self, owner: str) -> str:
        """The role behind an owner: for `pg_database_owner` it is the owner of the database."""
        return self.state.resolve(owner) if self.state is not None else owner

    def unusable(self, schemas: Iterable[str]) -> list[tuple[PlanReason, str]]:
        """The problems that the admin may not name an object in some schemas."""
        problems = []
        for schema in sorted(schemas):
            remedy = render(
                "GRANT USAGE ON SCHEMA {} TO {};", sql.Identifier(schema), sql.Identifier(self.server.admin)
            )
            problems.append(
                (
                    PlanReason.INSUFFICIENT_PRIVILEGE,
                    f'the admin "{self.server.admin}" may not use schema "{schema}" in database "{self.database}", so '
                    f"it can neither grant nor revoke there; an administrator has to run: {remedy}",
                )
            )
        return problems

    def insufficient(self, owner: str, action: str, remedy: str) -> tuple[PlanReason, str]:
        """The problem that the admin may not act for an owner."""
        return (
            PlanReason.INSUFFICIENT_PRIVILEGE,
            f'the admin "{self.server.admin}" may not act for "{owner}", so it cannot {action}; an administrator has '
            f"to run: {remedy}",
        )

    def closed_to(self, role: str, kind: ObjectKind, oids: Iterable[int]) -> list[str]:
        """The schemas in which a role may not name one of some objects, nor its arguments' types."""
        closed = self.closed_schemas.get(role)
        return sorted(closed.intersection(self._named(kind, oids))) if closed else []

    def to_be_lent(
        self, role: str, wanted: "Wanted", kind: ObjectKind, oids: Iterable[int]
    ) -> tuple[str, ...]:
        """The schemas of some objects in which the plan's role cannot name them, now or once the plan is applied."""
        kept = wanted.get((ObjectKind.SCHEMA, None, "USAGE"), frozenset())
        closed = self.closed_schemas.get(role, frozenset())
        named = self._named(kind, oids)
        return tuple(
            sorted(
                schema.name
                for schema in self.objects.get(ObjectKind.SCHEMA, {}).values()
                if schema.name in named
                and schema.owner != role
                and (schema.oid not in kept or schema.name in closed)
            )
        )

    def _named(self, kind: ObjectKind, oids: Iterable[int]) -> set[str | None]:
        """The schemas that stand in the names of some objects."""
        targets = [self.objects[kind][oid] for oid in oids]
        return {target.schema for target in targets} | {
            schema for target in targets for schema, _ in target.argument_types
        }


def _wanted(desired: DesiredRole, state: DatabaseState, difference: Difference) -> Wanted:
    wanted: Wanted = {}
    privileges = object_privileges(desired.privileges)
    for schema in _schemas(desired, state):
        for name in privileges[ObjectKind.SCHEMA]:
            key = (ObjectKind.SCHEMA, None, name)
            wanted[key] = wanted.get(key, frozenset()) | {schema.oid}
        for kind in privileges.keys() & PLURALS.keys():
            oids = schema.contents.get(kind, frozenset())
            if kind is ObjectKind.ROUTINE and schema.withheld_routines:
                oids -= schema.withheld_routines
                withheld = [state.objects[kind][oid] for oid in schema.withheld_routines]
                difference.withheld_routines += sorted(
                    f'"{state.name}": {object_reference(target).as_string(None)}' for target in withheld
                )
            wanted |= {(kind, schema.name, name): oids for name in privileges[kind]}
    return wanted


def _schemas(desired: DesiredRole, state: DatabaseState) -> list[Schema]:
    """The schemas of a plan's scopes that exist in a database."""
    names = sorted(scope.schema for scope in desired.scopes if scope.database == state.name)
    return [state.schemas[name] for name in names if name in state.schemas]


def _missing(role: str, wanted: Wanted, place: _Place) -> Wanted:
    """What of `wanted` the role has neither by a direct grant nor by owning the object."""
    held: dict[tuple[ObjectKind, str | None, str], list[frozenset[int]]] = defaultdict(list)
    for entry in place.acl.held.get(role, ()):
        if entry.column is None:
            held[entry.kind, entry.schema, entry.privilege].append(entry.objects)
    missing: Wanted = {}
    for (kind, schema, privilege), oids in wanted.items():
        parts = held[kind, schema, privilege]
        if any(part is oids for part in parts):
            continue
        lacking = oids.difference(*parts)
        lacking = frozenset(oid for oid in lacking if place.objects[kind][oid].owner != role)
        if lacking:
            missing[kind, schema, privilege] = lacking
    return missing


def _grants(role: str, wanted: Wanted, place: _Place) -> Difference:
    """GRANT statements for all of `wanted` that the role lacks."""
    difference = Difference()
    missing = _missing(role, wanted, place)
    for head, count in _grant_heads(missing, place, one_grantor=False):
        difference.statements.append(Statement(Phase.GRANT, place.database, head, (role,), objects=count))
    denied: dict[str, Wanted] = defaultdict(dict)
    for (kind, schema, privilege), oids in missing.items():
        for oid in oids - place.grant_options.get((kind, privilege), frozenset()):
            owner = place.objects[kind][oid].owner
            if owner in place.not_administered:
                known = denied[owner].get((kind, schema, privilege), frozenset())
                denied[owner][kind, schema, privilege] = known | {oid}
    for owner, grants in sorted(denied.items()):
        (kind, _, privilege), oids = min(grants.items(), key=str)
        remedy = place.membership_in(owner)
        if not place.server.admin_may_join(place.resolve(owner)):
            # The grant option is all that it takes.
            admin = grantee_list([place.server.admin])
            heads = _grant_heads(grants, place, one_grantor=True)
            remedy = " ".join(f"{head} {admin} WITH GRANT OPTION;" for head, _ in heads)
        action = f"grant {privilege} on {place.describe(kind, oids)}"
        difference.problems.append(place.insufficient(owner, action, remedy))
    # Who comes to be able to grant USAGE on a schema has it, unless its owner has not.
    becoming_usable = {
        place.objects[ObjectKind.SCHEMA][oid].name
        for grants in denied.values()
        for oid in grants.get((ObjectKind.SCHEMA, None, "USAGE"), ())
    }
    closed = {
        name
        for (kind, _, _), oids in missing.items()
        for name in place.closed_to(place.server.admin, kind, oids)
    }
    difference.problems += place.unusable(closed - becoming_usable)
    return difference


def _full_acls(
    role: str, wanted: Wanted, place: _Place, state: DatabaseState
) -> list[tuple[PlanReason, str]]:
    """Tables and sequences on which nothing can be granted to the role, for their ACL has no room for a new entry."""
    full = {oid for oid, acl in state.crowded.items() if _is_full(acl)}
    if not full:
        return []
    known = {
        oid for entry in place.acl.held.get(role, ()) if entry.column is None for oid in entry.objects & full
    }
    lacking: dict[ObjectKind, set[int]] = defaultdict(set)
    for (kind, _, _), oids in _missing(role, wanted, place).items():
        if kind in {ObjectKind.TABLE, ObjectKind.SEQUENCE}:
            lacking[kind] |= (oids & full) - known
    return [
        (
            PlanReason.APPLY_FAILED,
            _full_acl(place.describe(kind, oids), state.crowded[_first(kind, oids, place)]),
        )
        for kind, oids in sorted(lacking.items())
        if oids
    ]


def _first(kind: ObjectKind, oids: Collection[int], place: _Place) -> int:
    """The one of some objects that a description names."""
    return min(oids, key=lambda oid: place.objects[kind][oid].name)


def _is_full(acl: CrowdedAcl) -> bool:
    return acl.entries + ENTRIES_KEPT_FREE > acl.capacity


def _full_acl(what: str, acl: CrowdedAcl) -> str:
    return (
        f"{what} has {acl.entries} grantees already, and about {acl.capacity} are the limit, for PostgreSQL keeps them "
        f"all in one row (some room stays free for plans that are applied at the same time); {GRANTEE_LIMIT_REMEDY}"
    )


def _grant_heads(missing: Wanted, place: _Place, *, one_grantor: bool) -> Iterator[tuple[str, int]]:
    """GRANT statements up to their TO, each with the number of objects that it meets.

    Unless one role can grant it all, each privilege has a statement of its own: PostgreSQL looks for one grantor per
    statement and object, and what that one cannot grant is left out with a mere warning (manual, GRANT, Notes).
    """
    by_objects: dict[tuple[ObjectKind, str | None, frozenset[int]], list[str]] = defaultdict(list)
    for (kind, schema, privilege), oids in missing.items():
        by_objects[kind, schema, oids].append(privilege)
    for (kind, schema, oids), privileges in by_objects.items():
        at_once = one_grantor or not any(
            place.objects[kind][oid].owner in place.not_administered for oid in oids
        )
        for names in [privileges] if at_once else [[name] for name in sorted(privileges)]:
            for targets, count in place.targets(kind, schema, oids):
                yield render("GRANT {} ON {} TO", _privilege_list(names), targets), count


def _revokes(role: str, wanted: Wanted, place: _Place) -> Difference:
    """REVOKE statements for all that the role holds beyond `wanted`; none that would need CASCADE."""
    difference = Difference()
    passed_on = _passed_on(role, place)
    superusers = place.server.superusers
    # What is taken back on a table is taken back on its columns, too (manual, REVOKE, Notes).
    held_by_columns = {
        (entry.kind, entry.privilege, entry.grantor, oid)
        for entry in place.acl.held.get(role, ())
        if entry.column is not None and entry.grantable
        for oid in entry.objects
        if entry.column in passed_on.get((entry.kind, entry.privilege, oid), {})
    }
    grouped: dict[_Revocation, set[str]] = defaultdict(set)
    for entry in place.acl.held.get(role, ()):
        key = (entry.kind, entry.schema, entry.privilege)
        allowed = wanted.get(key, frozenset()) if entry.column is None else frozenset()
        if entry.objects is allowed and not entry.grantable:
            continue
        options = entry.objects & allowed if entry.grantable else frozenset()
        for option_only, oids in ((False, entry.objects - allowed), (True, options)):
            by_actor: dict[tuple[str | None, bool], set[int]] = defaultdict(set)
            for oid in sorted(oids):
                target = place.objects[entry.kind][oid]
                dependents = passed_on.get((entry.kind, entry.privilege, oid), {}) if entry.grantable else {}
                if entry.column is not None:
                    dependents = {c: names for c, names in dependents.items() if c == entry.column}
                if dependents:
                    difference.problems.append(
                        _dependent_grants(role, entry, target, dependents, wanted, place)
                    )
                elif (
                    entry.column is None
                    and (entry.kind, entry.privilege, entry.grantor, oid) in held_by_columns
                ):
                    continue
                elif target.owner != role:
                    is_lost = entry.grantor not in {target.owner, role} and entry.grantor in superusers
                    by_actor[place.actor(entry, target), is_lost].add(oid)
            for (as_role, is_lost), part in by_actor.items():
                revocation = _Revocation(
                    entry.kind,
                    entry.schema,
                    entry.grantor,
                    as_role,
                    is_lost,
                    entry.column,
                    option_only,
                    frozenset(part),
                )
                grouped[revocation].add(entry.privilege)
    for revocation, privileges in grouped.items():
        difference.extend(_revoke(role, revocation, privileges, wanted, place))
    return difference


class _Revocation(NamedTuple):
    kind: ObjectKind
    schema: str | None
    grantor: str
    as_role: str | None
    """The grantor, unless the server takes the admin for it as a matter of course."""
    is_lost: bool
    """Whether the grantor is a superuser by now, whom the server takes for the owner whatever it does."""
    column: str | None
    option_only: bool
    objects: frozenset[int]


def _revoke(
    role: str, revocation: _Revocation, privileges: set[str], wanted: Wanted, place: _Place
) -> Difference:
    kind, schema, grantor, as_role, is_lost, column, option_only, oids = revocation
    names = _privilege_list(privileges, column)
    option = sql.SQL("GRANT OPTION FOR ") if option_only else sql.SQL("")
    closed = place.closed_to(as_role or place.server.admin, kind, oids)
    statements = [
        Statement(
            Phase.REDUCE if grantor == role else Phase.REVOKE,
            place.database,
            render("REVOKE {}{} ON {} FROM", option, names, targets),
            (role,),
            as_role=as_role,
            lent_schemas=tuple(closed) if as_role is not None else (),
            objects=count,
        )
        for targets, count in place.targets(kind, schema, oids, column)
    ]
    action = f"revoke {', '.join(sorted(privileges))} on {place.describe(kind, oids)}"
    if is_lost:
        return Difference(problems=[_own_grant_lost(grantor, action, statements)])
    may_act = (
        grantor not in place.not_administered
        if as_role is None
        else as_role not in place.not_assumable and (not closed or place.server.admin_is_superuser)
    )
    if may_act and as_role is None and closed:
        return Difference(problems=place.unusable(closed))
    if may_act:
        return Difference(statements)
    if as_role == role:
        lent = place.to_be_lent(role, wanted, kind, oids)
        statements = [replace(statement, lent_schemas=lent) for statement in statements]
    remedy = " ".join(statement.by_hand for statement in statements)
    return Difference(problems=[place.insufficient(grantor, action, remedy)])


def _own_grant_lost(grantor: str, action: str, statements: Iterable[Statement]) -> tuple[PlanReason, str]:
    """The problem that a grantor is a superuser by now, whom the server takes for the owner whatever it does."""
    steps = [
        render("ALTER ROLE {} NOSUPERUSER", sql.Identifier(grantor)),
        *(statement.text for statement in statements),
        render("ALTER ROLE {} SUPERUSER", sql.Identifier(grantor)),
    ]
    return (
        PlanReason.INSUFFICIENT_PRIVILEGE,
        f'"{grantor}", who granted it, is a superuser by now and acts as the owner of everything, and so nobody can '
        f"{action} as {grantor} any more; another superuser has to run: BEGIN; {'; '.join(steps)}; COMMIT;",
    )


Dependents = dict[str | None, set[str]]
"""By column, None for the whole object: who holds a grant from the role's hand."""


def _passed_on(role: str, place: _Place) -> dict[tuple[ObjectKind, str, int], Dependents]:
    """Who holds by the role's own hand what: such a grant stands and falls with the role's grant option."""
    passed_on: dict[tuple[ObjectKind, str, int], Dependents] = defaultdict(lambda: defaultdict(set))
    for entry in place.acl.given.get(role, ()):
        for oid in entry.objects:
            if entry.grantee != role and place.objects[entry.kind][oid].owner != role:
                passed_on[entry.kind, entry.privilege, oid][entry.column].add(entry.grantee)
    return passed_on


def _dependent_grants(
    role: str,
    entry: AclEntry,
    target: DatabaseObject,
    dependents: Dependents,
    wanted: Wanted,
    place: _Place,
) -> tuple[PlanReason, str]:
    names = sorted({name for grantees in dependents.values() for name in grantees})
    heads = [
        render(
            "REVOKE {} ON {} {} FROM {} CASCADE",
            _privilege_list([entry.privilege], column),
            keyword(ObjectKind.TABLE if column is not None else target.kind),
            object_reference(target),
            sql.SQL(", ").join(map(_grantee, sorted(grantees))),
        )
        for column, grantees in sorted(dependents.items(), key=str)
    ]
    lent = place.to_be_lent(role, wanted, target.kind, [target.oid])
    revokes = [
        Statement(Phase.REVOKE, place.database, head, as_role=role, lent_schemas=lent) for head in heads
    ]
    remedy = " ".join(revoke.by_hand for revoke in revokes)
    return (
        PlanReason.DEPENDENT_GRANTS,
        f"{entry.privilege} on {place.describe(target.kind, [target.oid])} was passed on by {role} to "
        f"{', '.join(_grantee(name).as_string(None) for name in names)}, who would lose it; nothing is cascaded: to "
        f"let it go, run: {remedy}",
    )


def _grantee(name: str) -> sql.Composable:
    return sql.Identifier(name) if name else sql.SQL("PUBLIC")


def _privilege_list(privileges: Iterable[str], column: str | None = None) -> sql.Composable:
    suffix = sql.SQL(" ({})").format(sql.Identifier(column)) if column else sql.SQL("")
    return sql.SQL(", ").join(sql.SQL("{}{}").format(keyword(name), suffix) for name in sorted(privileges))


def grant_membership(role: str, server: Server) -> str:
    """The SQL that gives the admin the rights of a role; before version 16 a member without INHERIT had none."""
    admin = sql.Identifier(server.admin)
    if server.version >= INHERIT_PER_MEMBERSHIP:
        return render("GRANT {} TO {} WITH INHERIT TRUE;", sql.Identifier(role), admin)
    membership = render("GRANT {} TO {};", sql.Identifier(role), admin)
    if "INHERIT" in server.admin_attributes:
        return membership
    return f"{membership} {render('ALTER ROLE {} INHERIT;', admin)}"


def _default_acl_difference(desired: DesiredRole, place: _Place, state: DatabaseState) -> Difference:
    difference = Difference()
    role = desired.name
    privileges = object_privileges(desired.privileges)
    wanted = {
        (owner, schema.name, PLURALS[kind], name)
        for schema in _schemas(desired, state)
        for owner in future_owners(schema, state, place.server.superusers) - {role}
        for kind in privileges.keys() & PLURALS.keys()
        for name in privileges[kind]
    }
    held = [entry for entry in state.default_acl.held.get(role, ()) if entry.owner != role]
    missing: dict[_DefaultTarget, list[str]] = defaultdict(list)
    for owner, schema_name, plural, name in wanted - {
        (entry.owner, entry.schema, entry.objects, entry.privilege) for entry in held
    }:
        missing[_DefaultTarget(owner, schema_name, plural)].append(name)
    targets_held = {(entry.owner, entry.schema, entry.objects) for entry in held}
    uncovered: dict[str, list[tuple[str | None, Statement]]] = defaultdict(list)
    for target, names in sorted(missing.items(), key=str):
        grant = _alter_default(Phase.GRANT, state.name, role, target, names, "GRANT {} ON {} TO")
        crowded = state.crowded_defaults.get(target)
        if crowded and _is_full(crowded) and target not in targets_held:
            what = (
                f'what "{target.owner}" will create in schema "{target.schema}" of database "{state.name}" '
                f"(default privileges on {target.objects})"
            )
            difference.problems.append((PlanReason.APPLY_FAILED, _full_acl(what, crowded)))
        if target.owner in place.not_administered:
            uncovered[target.owner].append((target.schema, grant))
        else:
            difference.statements.append(grant)
    for owner, grants in uncovered.items():
        schemas = ", ".join(sorted({f'"{schema}"' for schema, _ in grants}))
        remedy = (
            place.membership_in(owner)
            if place.server.admin_may_join(place.resolve(owner))
            else " ".join(f"{grant.sql};" for _, grant in grants)
        )
        difference.uncovered_owners.append(
            f'"{owner}" in database "{state.name}", schema {schemas} (would be covered after: {remedy})'
        )
    extra: dict[tuple[_DefaultTarget, bool], list[str]] = defaultdict(list)
    for entry in held:
        target = _DefaultTarget(entry.owner, entry.schema, entry.objects)
        if (entry.owner, entry.schema, entry.objects, entry.privilege) not in wanted:
            extra[target, False].append(entry.privilege)
        elif entry.grantable:
            extra[target, True].append(entry.privilege)
    for (target, option_only), names in sorted(extra.items(), key=str):
        action: LiteralString = (
            "REVOKE GRANT OPTION FOR {} ON {} FROM" if option_only else "REVOKE {} ON {} FROM"
        )
        revoke = _alter_default(Phase.REVOKE, state.name, role, target, names, action)
        if target.owner in place.not_administered:
            what = f'take back default privileges of {role} in database "{state.name}"'
            difference.problems.append(place.insufficient(target.owner, what, f"{revoke.sql};"))
        else:
            difference.statements.append(revoke)
    return difference


class _DefaultTarget(NamedTuple):
    owner: str
    schema: str | None
    objects: str


def _alter_default(
    phase: Phase,
    database: str,
    role: str,
    target: _DefaultTarget,
    privileges: Iterable[str],
    action: LiteralString,
) -> Statement:
    owner, schema, plural = target
    change = sql.SQL(action).format(_privilege_list(privileges), keyword(plural))
    return Statement(phase, database, _default_privileges(owner, schema, change), (role,))


def _default_privileges(owner: str, schema: str | None, change: sql.Composable) -> str:
    """A change of what holds on objects that an owner creates, in one schema or, for None, the whole database."""
    place = sql.SQL(" IN SCHEMA {}").format(sql.Identifier(schema)) if schema is not None else sql.SQL("")
    return render("ALTER DEFAULT PRIVILEGES FOR ROLE {}{} {}", sql.Identifier(owner), place, change)


def restore_own_defaults(role: str, state: DatabaseState) -> list[Statement]:
    """Take away default privileges that the role itself set, for they keep it from being dropped.

    An entry vanishes when it says what the server would do without it (manual, ALTER DEFAULT PRIVILEGES, Notes).
    """
    statements: list[Statement] = []
    entries = {
        (entry.schema, entry.objects, entry.grantee) for entry in state.default_acl.set_by.get(role, ())
    }
    for schema, objects, grantee in sorted(entries, key=str):
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
    change = sql.SQL(action).format(keyword(objects), _grantee(grantee))
    phase = Phase.REVOKE if action.startswith("REVOKE") else Phase.GRANT
    return Statement(phase, database, _default_privileges(role, schema, change))
