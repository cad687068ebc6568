"""Grants: what of a plan's privileges is missing in a database, and what is there that should not be."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from psycopg import sql

from hoop_operator.errors import PlanReason
from hoop_operator.planner.acl_size import full_acl_message, is_full
from hoop_operator.planner.default_privileges import default_privileges_difference
from hoop_operator.planner.difference import Difference
from hoop_operator.planner.model import (
    AclEntry,
    DatabaseObject,
    DatabaseState,
    DesiredRole,
    ObjectKind,
    Server,
)
from hoop_operator.planner.place import Place, Wanted
from hoop_operator.planner.privileges import (
    PLURALS,
    grant_change,
    grantee_name,
    object_privileges,
    privilege_list,
    scoped_schemas,
)
from hoop_operator.planner.statements import (
    Change,
    Phase,
    Statement,
    grantee_list,
    keyword,
    object_reference,
    render,
)


def database_difference(desired: DesiredRole, state: DatabaseState, server: Server) -> Difference:
    """The grants inside one database that a managed role lacks there and those it has beyond its plan."""
    difference = Difference()
    place = Place(
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
    difference.extend(default_privileges_difference(desired, place, state))
    return difference


def shared_difference(desired: DesiredRole, server: Server) -> Difference:
    """CONNECT on the databases of a plan, and whatever else the role holds on objects of the server as a whole."""
    place = Place(
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


def _wanted(desired: DesiredRole, state: DatabaseState, difference: Difference) -> Wanted:
    wanted: Wanted = {}
    privileges = object_privileges(desired.privileges)
    for schema in scoped_schemas(desired, state):
        for name in sorted(privileges[ObjectKind.SCHEMA]):
            key = (ObjectKind.SCHEMA, None, name)
            wanted[key] = wanted.get(key, frozenset()) | {schema.oid}
        for kind in sorted(privileges.keys() & PLURALS.keys()):
            oids = schema.contents.get(kind, frozenset())
            if kind is ObjectKind.ROUTINE and schema.withheld_routines:
                oids -= schema.withheld_routines
                withheld = [state.objects[kind][oid] for oid in schema.withheld_routines]
                difference.withheld_routines += sorted(
                    f'"{state.name}": {object_reference(target).as_string(None)}' for target in withheld
                )
            wanted |= {(kind, schema.name, name): oids for name in sorted(privileges[kind])}
    return wanted


def _missing(role: str, wanted: Wanted, place: Place) -> Wanted:
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


def _grants(role: str, wanted: Wanted, place: Place) -> Difference:
    """GRANT statements for all of `wanted` that the role lacks."""
    difference = Difference()
    missing = _missing(role, wanted, place)
    for head, count, change in _grant_heads(missing, place, one_grantor=False):
        difference.statements.append(
            Statement(Phase.GRANT, place.database, head, (role,), objects=count, change=change)
        )
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
            remedy = " ".join(f"{head} {admin} WITH GRANT OPTION;" for head, _, _ in heads)
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


def _full_acls(role: str, wanted: Wanted, place: Place, state: DatabaseState) -> list[tuple[PlanReason, str]]:
    """Tables and sequences on which nothing can be granted to the role, for their ACL has no room for a new entry."""
    full = {oid for oid, acl in state.crowded.items() if is_full(acl)}
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
            full_acl_message(place.describe(kind, oids), state.crowded[place.first(kind, oids).oid]),
        )
        for kind, oids in sorted(lacking.items())
        if oids
    ]


def _grant_heads(missing: Wanted, place: Place, *, one_grantor: bool) -> Iterator[tuple[str, int, Change]]:
    """GRANT statements up to their TO, each with the number of objects that it meets, and what it gives.

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
            for target in place.targets(kind, schema, oids):
                head = render("GRANT {} ON {} TO", privilege_list(names), target.sql)
                yield head, target.number, grant_change(names, target.words)


def _revokes(role: str, wanted: Wanted, place: Place) -> Difference:
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
    role: str, revocation: _Revocation, privileges: set[str], wanted: Wanted, place: Place
) -> Difference:
    kind, schema, grantor, as_role, is_lost, column, option_only, oids = revocation
    names = privilege_list(privileges, column)
    option = sql.SQL("GRANT OPTION FOR ") if option_only else sql.SQL("")
    closed = place.closed_to(as_role or place.server.admin, kind, oids)
    statements = [
        Statement(
            Phase.REDUCE if grantor == role else Phase.REVOKE,
            place.database,
            render("REVOKE {}{} ON {} FROM", option, names, target.sql),
            (role,),
            as_role=as_role,
            lent_schemas=tuple(closed) if as_role is not None else (),
            objects=target.number,
            change=grant_change(privileges, target.words, column=column, option_only=option_only),
        )
        for target in place.targets(kind, schema, oids, column)
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


def _passed_on(role: str, place: Place) -> dict[tuple[ObjectKind, str, int], Dependents]:
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
    place: Place,
) -> tuple[PlanReason, str]:
    names = sorted({name for grantees in dependents.values() for name in grantees})
    heads = [
        render(
            "REVOKE {} ON {} {} FROM {} CASCADE",
            privilege_list([entry.privilege], column),
            keyword(ObjectKind.TABLE if column is not None else target.kind),
            object_reference(target),
            sql.SQL(", ").join(map(grantee_name, sorted(grantees))),
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
        f"{', '.join(grantee_name(name).as_string(None) for name in names)}, who would lose it; nothing is cascaded: "
        f"to let it go, run: {remedy}",
    )
