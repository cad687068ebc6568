"""Small pictures of a server for the planner's tests, and what the planned statements make of them."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hoop_operator.crd import Privilege
from hoop_operator.planner.model import (
    Acl,
    AclEntry,
    Database,
    DatabaseObject,
    DatabaseState,
    DefaultAcl,
    DefaultAclEntry,
    DesiredRole,
    Identity,
    Membership,
    Memberships,
    ObjectKind,
    Role,
    Schema,
    Server,
)
from hoop_operator.planner.scopes import parse_scope
from hoop_operator.planner.statements import Statement

ADMIN = "postgres"
ROLE = "ours"
IDENTITY = Identity("default", "shop", "reader")
IN_SCHEMAS = (ObjectKind.TABLE, ObjectKind.SEQUENCE, ObjectKind.ROUTINE)


class Grant(NamedTuple):
    """One privilege on one object, as one grantor gave it to one grantee."""

    kind: ObjectKind
    oid: int
    privilege: str
    grantee: str = ROLE
    grantor: str = "owner"
    grantable: bool = False
    column: str | None = None


def desired(scopes: Iterable[str] = (), privileges: Iterable[str] = (), **more: Any) -> DesiredRole:
    return DesiredRole(
        ROLE,
        IDENTITY,
        scopes=frozenset(map(parse_scope, scopes)),
        privileges=frozenset(map(Privilege, privileges)),
        **more,
    )


def role(name: str = ROLE, **more: Any) -> Role:
    known: dict[str, Any] = {
        "oid": hash(name) % 10_000,
        "name": name,
        "login": True,
        "inherit": True,
        "superuser": False,
        "createdb": False,
        "createrole": False,
        "replication": False,
        "bypassrls": False,
        "connection_limit": -1,
        "expires": False,
        "comment": IDENTITY.comment if name == ROLE else None,
        "admin_option": True,
        "admin_may_grant": True,
    }
    return Role(**known | more)


def membership(in_role: str, member: str, **more: Any) -> Membership:
    known: dict[str, Any] = {
        "grantor": ADMIN,
        "admin": False,
        "inherit": True,
        "set": True,
        "admin_may_revoke": True,
    }
    return Membership(in_role, member, **known | more)


def server(
    *,
    roles: Sequence[Role] = (),
    memberships: Iterable[Membership] = (),
    databases: Sequence[Database] = (),
    grants: Iterable[Grant] = (),
    **more: Any,
) -> Server:
    known = databases or (Database(1, "db", "owner", True, False, True),)
    objects = {
        ObjectKind.DATABASE: {
            database.oid: DatabaseObject(
                database.oid, ObjectKind.DATABASE, None, database.name, database.owner
            )
            for database in known
        }
    }
    settings: dict[str, Any] = {
        "version": 180000,
        "system_identifier": "1",
        "admin": ADMIN,
        "admin_is_superuser": True,
        "admin_attributes": frozenset({"INHERIT"}),
        "verifiers_readable": True,
        "superusers": frozenset({ADMIN}),
        "members_of_admin": frozenset(),
        "grant_options": {},
        "holdings": {},
        "bound": {},
        "owned": {},
        "not_administered": frozenset(),
        "not_assumable": frozenset(),
        "contested": {},
    }
    return Server(
        roles={known_role.name: known_role for known_role in roles},
        memberships=Memberships.of(memberships),
        databases={database.name: database for database in known},
        shared_objects=objects,
        acl=acl(grants, objects),
        **settings | more,
    )


def database_object(kind: ObjectKind, oid: int, schema: str | None, owner: str = "owner") -> DatabaseObject:
    return DatabaseObject(oid, kind, schema, f"{kind.lower().replace(' ', '_')}_{oid}", owner)


def acl(grants: Iterable[Grant], objects: Mapping[ObjectKind, Mapping[int, DatabaseObject]]) -> Acl:
    """Sort grants into entries as the snapshot does."""
    oids: dict[tuple[Grant, str | None], set[int]] = defaultdict(set)
    for grant in grants:
        oids[grant._replace(oid=0), objects[grant.kind][grant.oid].schema].add(grant.oid)
    return Acl.of(
        AclEntry(
            like.grantee,
            like.grantor,
            like.kind,
            place,
            like.privilege,
            like.grantable,
            frozenset(found),
            like.column,
        )
        for (like, place), found in oids.items()
    )


def database(
    objects: Iterable[DatabaseObject],
    grants: Iterable[Grant] = (),
    defaults: Iterable[DefaultAclEntry] = (),
    *,
    schemas: Iterable[str] = ("public",),
    creators: Iterable[str] = (),
    withheld: Iterable[int] = (),
    **more: Any,
) -> DatabaseState:
    """One database called db; `schemas` are those that plans ask for."""
    known: dict[ObjectKind, dict[int, DatabaseObject]] = defaultdict(dict)
    for target in objects:
        known[target.kind][target.oid] = target
    asked = {}
    for name in schemas:
        (found,) = [target for target in known[ObjectKind.SCHEMA].values() if target.name == name]
        inside = [target for kind in IN_SCHEMAS for target in known[kind].values() if target.schema == name]
        asked[name] = Schema(
            found.oid,
            name,
            found.owner,
            creators=frozenset(creators),
            object_owners=frozenset(target.owner for target in inside),
            contents={
                kind: frozenset(target.oid for target in inside if target.kind is kind) for kind in IN_SCHEMAS
            },
            withheld_routines=frozenset(withheld),
        )
    settings: dict[str, Any] = {
        "owner": "owner",
        "grant_options": {},
        "crowded": {},
        "crowded_defaults": {},
        "owned": {},
        "bound": {},
        "initial_grantees": frozenset(),
        "not_administered": frozenset(),
        "not_assumable": frozenset(),
        "contested": {},
        "closed_schemas": {},
    }
    return DatabaseState(
        name="db",
        schemas=asked,
        objects=known,
        acl=acl(grants, known),
        default_acl=DefaultAcl.of(defaults),
        **settings | more,
    )


def schema(name: str, oid: int, owner: str = "owner") -> DatabaseObject:
    return DatabaseObject(oid, ObjectKind.SCHEMA, None, name, owner)


STATEMENT = re.compile(
    r'(?:ALTER DEFAULT PRIVILEGES FOR ROLE "(?P<owner>\w+)"(?: IN SCHEMA "(?P<schema>\w+)")? )?'
    r"(?P<verb>GRANT|REVOKE)(?P<option> GRANT OPTION FOR)? (?P<privileges>.+?) ON (?P<targets>.+) (?:TO|FROM)"
)
PRIVILEGE = re.compile(r'([A-Z ]+?)(?: \("(\w+)"\))?(?:, |$)')
PLURALS = {
    "TABLES": ObjectKind.TABLE,
    "SEQUENCES": ObjectKind.SEQUENCE,
    "ROUTINES": ObjectKind.ROUTINE,
}


@dataclass
class Ledger:
    """The grants of a database, to which planned statements can be applied as PostgreSQL would."""

    objects: Sequence[DatabaseObject]
    grants: set[Grant]
    defaults: set[DefaultAclEntry] = field(default_factory=set)

    def apply(self, statements: Iterable[Statement]) -> None:
        """Carry out GRANT, REVOKE and ALTER DEFAULT PRIVILEGES statements."""
        for statement in statements:
            match = STATEMENT.fullmatch(statement.head)
            assert match, statement.head
            for privilege, column in PRIVILEGE.findall(match["privileges"]):
                for grantee in statement.grantees:
                    if match["owner"]:
                        self._apply_default(match, privilege, grantee)
                    else:
                        for target in self._targets(match["targets"]):
                            self._apply_one(match, target, privilege, column or None, grantee, statement)

    def _targets(self, text: str) -> list[DatabaseObject]:
        if bulk := re.fullmatch(r'ALL (\w+) IN SCHEMA "(\w+)"', text):
            return [
                target
                for target in self.objects
                if target.kind is PLURALS[bulk[1]] and target.schema == bulk[2]
            ]
        names = {name[-1] for name in re.findall(r'(?:"(\w+)"\.)?"(\w+)"', text)}
        return [target for target in self.objects if target.name in names]

    def _apply_one(
        self,
        match: re.Match[str],
        target: DatabaseObject,
        privilege: str,
        column: str | None,
        grantee: str,
        statement: Statement,
    ) -> None:
        grantor = statement.as_role or target.owner
        given = {
            grant
            for grant in self.grants
            if (grant.kind, grant.oid, grant.privilege) == (target.kind, target.oid, privilege)
            and (grant.grantee, grant.grantor) == (grantee, grantor)
            and (column is None or grant.column == column)
        }
        if match["verb"] == "GRANT":
            if not any(grant.column is None for grant in given):
                self.grants.add(Grant(target.kind, target.oid, privilege, grantee, grantor))
            return
        # A revoke on the table has taken its columns along.
        assert given or column, f"{statement.text} takes away what nobody has"
        self.grants -= given
        if match["option"]:
            self.grants |= {grant._replace(grantable=False) for grant in given}

    def _apply_default(self, match: re.Match[str], privilege: str, grantee: str) -> None:
        given = {
            entry
            for entry in self.defaults
            if (entry.owner, entry.schema, entry.objects)
            == (match["owner"], match["schema"], match["targets"])
            and (entry.privilege, entry.grantee) == (privilege, grantee)
        }
        plain = DefaultAclEntry(match["owner"], match["schema"], match["targets"], grantee, privilege, False)
        if match["verb"] == "GRANT":
            assert not given, "granted although it is there"
            self.defaults.add(plain)
            return
        assert given, "revoked although it is not there"
        self.defaults -= given
        if match["option"]:
            self.defaults.add(plain)
