"""Where a role is compared with its plan: one database, or what all databases of a server share."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from psycopg import sql

from hoop_operator.errors import PlanReason
from hoop_operator.planner.model import (
    INHERIT_PER_MEMBERSHIP,
    Acl,
    AclEntry,
    DatabaseObject,
    DatabaseState,
    ObjectKind,
    Server,
)
from hoop_operator.planner.privileges import PLURALS
from hoop_operator.planner.statements import OBJECTS_PER_STATEMENT, chunks, keyword, object_reference, render


class Target(NamedTuple):
    """What stands after ON in a GRANT or REVOKE."""

    sql: sql.Composable
    number: int
    """How many objects it meets."""
    words: str


Wanted = dict[tuple[ObjectKind, str | None, str], frozenset[int]]
"""Per kind, schema and privilege the objects on which a plan asks for it."""


@dataclass(frozen=True, slots=True)
class Place:
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
        """Name of the database; None for the server as a whole."""
        return self.state.name if self.state is not None else None

    def whole(self, kind: ObjectKind, schema: str | None) -> frozenset[int] | None:
        """All objects of a kind in a schema; None where not all of them are known."""
        if self.state is None or schema is None or schema not in self.state.schemas:
            return None
        return self.state.schemas[schema].contents.get(kind)

    def targets(
        self, kind: ObjectKind, schema: str | None, oids: frozenset[int], column: str | None = None
    ) -> Iterator[Target]:
        """What stands after ON: the whole schema in bulk, or objects by name."""
        where = f' in database "{self.database}"' if self.state is not None else ""
        if kind in PLURALS and schema is not None and column is None and oids == self.whole(kind, schema):
            plural = PLURALS[kind]
            whole = sql.SQL("ALL {} IN SCHEMA {}").format(sql.SQL(plural), sql.Identifier(schema))
            yield Target(whole, len(oids), f'all {plural.lower()} in schema "{schema}"{where}')
            return
        targets = sorted(
            (self.objects[kind][oid] for oid in oids), key=lambda target: (target.schema or "", target.name)
        )
        # Columns of a sequence are granted as those of a table are.
        word = keyword(ObjectKind.TABLE if column is not None else kind)
        for part in chunks(targets, OBJECTS_PER_STATEMENT):
            names = [object_reference(target) for target in part]
            more = f" and {len(part) - 1} more" if len(part) > 1 else ""
            words = f"{kind.lower()} {names[0].as_string(None)}{more}{where}"
            yield Target(sql.SQL("{} {}").format(word, sql.SQL(", ").join(names)), len(part), words)

    def actor(self, entry: AclEntry, target: DatabaseObject) -> str | None:
        """The role as which an entry on an object is taken back; None where the server finds the right one itself."""
        contested = target.oid in self.contested.get(target.kind, frozenset())
        return None if entry.grantor == target.owner and not contested else entry.grantor

    def first(self, kind: ObjectKind, oids: Collection[int]) -> DatabaseObject:
        """The one of some objects that a description names."""
        return min((self.objects[kind][oid] for oid in oids), key=lambda target: target.name)

    def describe(self, kind: ObjectKind, oids: Collection[int]) -> str:
        """In words, one of the objects, and how many there are."""
        target = self.first(kind, oids)
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

    def to_be_lent(self, role: str, wanted: Wanted, kind: ObjectKind, oids: Iterable[int]) -> tuple[str, ...]:
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


def grant_membership(role: str, server: Server) -> str:
    """The SQL that gives the admin the rights of a role; before version 16 a member without INHERIT had none."""
    admin = sql.Identifier(server.admin)
    if server.version >= INHERIT_PER_MEMBERSHIP:
        return render("GRANT {} TO {} WITH INHERIT TRUE;", sql.Identifier(role), admin)
    membership = render("GRANT {} TO {};", sql.Identifier(role), admin)
    if "INHERIT" in server.admin_attributes:
        return membership
    return f"{membership} {render('ALTER ROLE {} INHERIT;', admin)}"
