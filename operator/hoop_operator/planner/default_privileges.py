"""Default privileges: what a plan means for objects that do not exist yet."""

from collections import defaultdict
from collections.abc import Iterable
from typing import LiteralString, NamedTuple

from psycopg import sql

from hoop_operator.errors import PlanReason
from hoop_operator.planner.acl_size import full_acl_message, is_full
from hoop_operator.planner.difference import Difference
from hoop_operator.planner.model import DatabaseState, DesiredRole, Schema
from hoop_operator.planner.place import Place
from hoop_operator.planner.privileges import (
    PLURALS,
    grant_change,
    grantee_name,
    object_privileges,
    privilege_list,
    scoped_schemas,
)
from hoop_operator.planner.statements import Phase, Statement, keyword, render

BUILT_IN_PUBLIC_DEFAULTS = frozenset({"ROUTINES", "TYPES"})
"""What PUBLIC may use from the start (manual, "Privileges")."""


def future_owners(schema: Schema, state: DatabaseState, superusers: frozenset[str]) -> frozenset[str]:
    """Who is expected to create objects in a schema.

    Whoever owns an object there; the schema's owner and those with an explicit CREATE on it too, unless they are
    superusers, who may create anywhere and usually do not.
    """
    creators = {state.resolve(name) for name in schema.creators | {schema.owner}}
    object_owners = frozenset(state.resolve(name) for name in schema.object_owners)
    return object_owners | (creators - superusers)


def default_privileges_difference(desired: DesiredRole, place: Place, state: DatabaseState) -> Difference:
    """The default privileges that a managed role lacks in one database and those it has beyond its plan."""
    difference = Difference()
    role = desired.name
    privileges = object_privileges(desired.privileges)
    wanted = {
        (owner, schema.name, PLURALS[kind], name)
        for schema in scoped_schemas(desired, state)
        for owner in future_owners(schema, state, place.server.superusers) - {role}
        for kind in privileges.keys() & PLURALS.keys()
        for name in privileges[kind]
    }
    held = [entry for entry in state.default_acl.held.get(role, ()) if entry.owner != role]
    missing: dict[_Target, list[str]] = defaultdict(list)
    for owner, schema_name, plural, name in wanted - {
        (entry.owner, entry.schema, entry.objects, entry.privilege) for entry in held
    }:
        missing[_Target(owner, schema_name, plural)].append(name)
    targets_held = {(entry.owner, entry.schema, entry.objects) for entry in held}
    uncovered: dict[str, list[tuple[str | None, Statement]]] = defaultdict(list)
    for target, names in sorted(missing.items(), key=str):
        grant = _alter_default(Phase.GRANT, state.name, role, target, names, "GRANT {} ON {} TO")
        crowded = state.crowded_defaults.get(target)
        if crowded and is_full(crowded) and target not in targets_held:
            what = (
                f'what "{target.owner}" will create in schema "{target.schema}" of database "{state.name}" '
                f"(default privileges on {target.objects})"
            )
            difference.problems.append((PlanReason.APPLY_FAILED, full_acl_message(what, crowded)))
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
    extra: dict[tuple[_Target, bool], list[str]] = defaultdict(list)
    for entry in held:
        target = _Target(entry.owner, entry.schema, entry.objects)
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


class _Target(NamedTuple):
    owner: str
    schema: str | None
    objects: str


def _alter_default(
    phase: Phase,
    database: str,
    role: str,
    target: _Target,
    privileges: Iterable[str],
    action: LiteralString,
) -> Statement:
    owner, schema, plural = target
    change = sql.SQL(action).format(privilege_list(privileges), keyword(plural))
    place = (
        f'in schema "{schema}" of database "{database}"'
        if schema is not None
        else f'in database "{database}"'
    )
    what = grant_change(
        privileges,
        f'{plural.lower()} that "{owner}" will create {place}',
        option_only=action.startswith("REVOKE GRANT OPTION"),
    )
    return Statement(phase, database, _default_privileges(owner, schema, change), (role,), change=what)


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
    change = sql.SQL(action).format(keyword(objects), grantee_name(grantee))
    phase = Phase.REVOKE if action.startswith("REVOKE") else Phase.GRANT
    return Statement(phase, database, _default_privileges(role, schema, change))
