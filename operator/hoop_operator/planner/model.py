"""The two pictures that the planner compares: what was read from a server, and what a plan asks for.

Everything is immutable and knows neither where it came from nor what will become of it. Objects are known by their
OID within the catalog of their kind, as in PostgreSQL itself (manual, "System Catalogs").
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from hoop_operator.crd import Privilege
from hoop_operator.planner.scopes import Scope

T = TypeVar("T")

INHERIT_PER_MEMBERSHIP = 160000
"""The server version from which on each membership has INHERIT and SET options of its own."""

COMMENT_PREFIX = "hoop.dev/role-plan: "


class ObjectKind(StrEnum):
    """Kinds of objects that carry an ACL; the value is the keyword of GRANT and REVOKE."""

    TABLE = "TABLE"
    """Tables, partitioned tables, views, materialized views and foreign tables: what `ALL TABLES` means to GRANT."""
    SEQUENCE = "SEQUENCE"
    ROUTINE = "ROUTINE"
    SCHEMA = "SCHEMA"
    TYPE = "TYPE"
    LANGUAGE = "LANGUAGE"
    LARGE_OBJECT = "LARGE OBJECT"
    FOREIGN_DATA_WRAPPER = "FOREIGN DATA WRAPPER"
    FOREIGN_SERVER = "FOREIGN SERVER"
    DATABASE = "DATABASE"
    TABLESPACE = "TABLESPACE"
    PARAMETER = "PARAMETER"


@dataclass(frozen=True, slots=True)
class DatabaseObject:
    """One object that carries an ACL."""

    oid: int
    kind: ObjectKind
    schema: str | None
    """None for kinds that live outside schemas."""
    name: str
    owner: str
    argument_types: tuple[tuple[str, str], ...] = ()
    """Schema and name of each input argument's type; only routines have any."""


@dataclass(frozen=True, slots=True)
class AclEntry:
    """What one grantor gave one grantee, on all objects of one kind and schema where the entry reads the same."""

    grantee: str
    grantor: str
    kind: ObjectKind
    schema: str | None
    privilege: str
    grantable: bool
    objects: frozenset[int]
    column: str | None = None


@dataclass(frozen=True, slots=True)
class Acl:
    """The entries that concern some roles, found by role."""

    held: Mapping[str, tuple[AclEntry, ...]]
    """By grantee."""
    given: Mapping[str, tuple[AclEntry, ...]]
    """By grantor."""

    @classmethod
    def of(cls, entries: Iterable[AclEntry]) -> "Acl":
        """Sort entries by role."""
        known = tuple(entries)
        return cls(
            held=_grouped(known, lambda entry: entry.grantee),
            given=_grouped(known, lambda entry: entry.grantor),
        )


@dataclass(frozen=True, slots=True)
class CrowdedAcl:
    """An ACL that takes up much of the room there is for it: pg_class has no TOAST table, so a row holds it all."""

    entries: int
    capacity: int
    """About how many entries fit."""


@dataclass(frozen=True, slots=True)
class DefaultAclEntry:
    """One default privilege: what `grantee` will hold on objects that `owner` creates."""

    owner: str
    schema: str | None
    """None where it holds for the whole database."""
    objects: str
    """TABLES, SEQUENCES, ROUTINES, TYPES, SCHEMAS or LARGE OBJECTS, as ALTER DEFAULT PRIVILEGES spells it."""
    grantee: str
    """Empty for PUBLIC."""
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True)
class DefaultAcl:
    """The default privileges that concern some roles, found by role."""

    held: Mapping[str, tuple[DefaultAclEntry, ...]]
    """By grantee."""
    set_by: Mapping[str, tuple[DefaultAclEntry, ...]]
    """By owner."""

    @classmethod
    def of(cls, entries: Iterable[DefaultAclEntry]) -> "DefaultAcl":
        """Sort entries by role."""
        known = tuple(entries)
        return cls(
            held=_grouped(known, lambda entry: entry.grantee),
            set_by=_grouped(known, lambda entry: entry.owner),
        )


@dataclass(frozen=True, slots=True)
class Role:
    """A role of the server with its attributes (manual, "Role Attributes")."""

    oid: int
    name: str
    login: bool
    inherit: bool
    superuser: bool
    createdb: bool
    createrole: bool
    replication: bool
    bypassrls: bool
    connection_limit: int
    expires: bool
    comment: str | None
    admin_option: bool
    """Whether the admin has the ADMIN option on the role, be it by a group whose rights it does not inherit."""
    admin_may_grant: bool
    """Whether the admin may grant membership in the role."""
    verifier: str | None = field(default=None, repr=False)
    """The stored password verifier; None where there is none or the admin may not read it."""
    supports_admin: bool = False
    """Whether the admin has its rights, by whatever chain, or works in a database that it owns."""
    version: str | None = None
    """Another one whenever the role is commented on or made anew; none is ever used twice."""


@dataclass(frozen=True, slots=True)
class Membership:
    """`member` is a member of `role`; before PostgreSQL 16 inherit follows the member and SET is always possible."""

    role: str
    member: str
    grantor: str
    admin: bool
    inherit: bool
    set: bool
    admin_may_revoke: bool


@dataclass(frozen=True, slots=True)
class Memberships:
    """Memberships, found by each role that takes part."""

    of_member: Mapping[str, tuple[Membership, ...]]
    in_role: Mapping[str, tuple[Membership, ...]]
    by_grantor: Mapping[str, tuple[Membership, ...]]

    @classmethod
    def of(cls, memberships: Iterable[Membership]) -> "Memberships":
        """Sort memberships by role."""
        known = tuple(memberships)
        return cls(
            of_member=_grouped(known, lambda membership: membership.member),
            in_role=_grouped(known, lambda membership: membership.role),
            by_grantor=_grouped(known, lambda membership: membership.grantor),
        )


@dataclass(frozen=True, slots=True)
class Database:
    """A database of the server, seen from outside."""

    oid: int
    name: str
    owner: str
    accepts_connections: bool
    is_template: bool
    admin_may_connect: bool

    @property
    def readable(self) -> bool:
        """Whether the operator can look into it."""
        return self.accepts_connections and self.admin_may_connect


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema of a scope."""

    oid: int
    name: str
    owner: str
    creators: frozenset[str]
    """Who may create objects in it by a grant of their own."""
    object_owners: frozenset[str]
    """Who owns anything in it."""
    contents: Mapping[ObjectKind, frozenset[int]]
    """All its tables, all its sequences and all its routines."""
    withheld_routines: frozenset[int] = frozenset()
    """Routines of an extension that PUBLIC may not execute: its author keeps them from users."""


@dataclass(frozen=True, slots=True)
class Server:
    """What all databases of a server share, read at one moment."""

    version: int
    """As `server_version_num` has it: 180006 is 18.6."""
    system_identifier: str | None
    """None where the admin may not read it."""
    admin: str
    admin_is_superuser: bool
    admin_attributes: frozenset[str]
    """Which of INHERIT, CREATEDB, REPLICATION and BYPASSRLS the admin has itself."""
    verifiers_readable: bool
    roles: Mapping[str, Role]
    """The plans' roles, and the source roles with every role that can be reached from them."""
    superusers: frozenset[str]
    members_of_admin: frozenset[str]
    """By any chain; not read where the admin is a superuser."""
    memberships: Memberships
    """Every membership in which a role of `roles` takes part."""
    databases: Mapping[str, Database]
    shared_objects: Mapping[ObjectKind, Mapping[int, DatabaseObject]]
    """All databases, and the tablespaces and parameters on which one of the plans' roles holds or gave something."""
    acl: Acl
    grant_options: Mapping[tuple[ObjectKind, str], frozenset[int]]
    """By kind and privilege the shared objects of other owners on which the admin may pass it on."""
    holdings: Mapping[str, frozenset[str]]
    """For each of the plans' roles the databases in which it holds or owns anything (`pg_shdepend`)."""
    bound: Mapping[str, frozenset[str]]
    """For each database those of the plans' roles that own something there or are named by more than an ACL."""
    owned: Mapping[str, tuple[DatabaseObject, ...]]
    """For each of the plans' roles the databases and tablespaces it owns."""
    not_administered: frozenset[str]
    """Owners of shared objects whose rights the admin does not have."""
    not_assumable: frozenset[str]
    """Owners and grantors of shared objects as whom the admin may not act by SET ROLE."""
    contested: Mapping[ObjectKind, frozenset[int]]
    """As in `DatabaseState`, the shared ones."""

    def admin_may_join(self, role: str) -> bool:
        """Whether the admin may be made a member of a role: nobody's of a superuser, nor of what is a member of it."""
        return role not in self.superusers and role not in self.members_of_admin


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """What one database holds, read at one moment, as far as the plans at hand are concerned."""

    name: str
    owner: str
    schemas: Mapping[str, Schema]
    objects: Mapping[ObjectKind, Mapping[int, DatabaseObject]]
    """Every object in the schemas asked for, and wherever one of the plans' roles holds or gave something."""
    acl: Acl
    grant_options: Mapping[tuple[ObjectKind, str], frozenset[int]]
    """By kind and privilege the objects of other owners on which the admin may pass it on."""
    crowded: Mapping[int, CrowdedAcl]
    """By OID the tables and sequences of the schemas asked for whose ACL is crowded."""
    crowded_defaults: Mapping[tuple[str, str | None, str], CrowdedAcl]
    """The same of default privileges, which become the ACL of each new table: by owner, schema and TABLES or
    SEQUENCES."""
    default_acl: DefaultAcl
    owned: Mapping[str, tuple[str, ...]]
    """For each of the plans' roles what it owns here, in words."""
    bound: Mapping[str, tuple[str, ...]]
    """For each of the plans' roles what names it here and can be given to nobody else, in words: row security policies
    and user mappings."""
    initial_grantees: frozenset[str]
    """Those of the plans' roles that an extension's object had a grant for when it was made, by default privileges for
    example (manual, `pg_init_privs`): from version 17 on that keeps a role from being dropped, whatever is revoked."""
    not_administered: frozenset[str]
    """Owners here whose rights the admin does not have."""
    not_assumable: frozenset[str]
    """Owners and grantors here as whom the admin may not act by SET ROLE."""
    contested: Mapping[ObjectKind, frozenset[int]]
    """Objects for whose owner an admin that is no superuser acts only when it says so, for it has grant options of its
    own: the server makes the first grantor that it finds the one of a statement, the current user being looked at
    before the owner (manual, GRANT, Notes)."""
    closed_schemas: Mapping[str, frozenset[str]]
    """Schemas on which a role has no USAGE, so that it can name nothing there: the admin, grantors, and owners of
    contested objects. Superusers other than the admin count by what they were granted, for they have to act without
    their attribute."""

    def is_to_be_reassigned(self, role: str) -> bool:
        """Whether there is what only REASSIGN OWNED takes from a role."""
        return bool(self.owned.get(role)) or role in self.initial_grantees

    def resolve(self, owner: str) -> str:
        """The role that `pg_database_owner` stands for here; any other role itself."""
        return self.owner if owner == "pg_database_owner" else owner


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a plan is, as its role's comment tells: state that survives the loss of the cluster."""

    instance: str
    namespace: str
    plan: str

    @property
    def comment(self) -> str:
        """The text of `COMMENT ON ROLE`."""
        return f"{COMMENT_PREFIX}{self.instance}/{self.namespace}/{self.plan}"


def _grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, tuple[T, ...]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return {name: tuple(group) for name, group in groups.items()}


@dataclass(frozen=True, slots=True)
class Adoption:
    """Which role that exists already a plan may make its own."""

    predecessor: Identity | None = None
    """The plan whose role it is by its comment; None for a role that nobody claims."""
    obstacle: str | None = None
    """In words, why the predecessor's is not to be had now: only a plan that does not exist any more has one."""


@dataclass(frozen=True, slots=True)
class DesiredRole:
    """What a plan asks for."""

    name: str
    identity: Identity
    scopes: frozenset[Scope] = frozenset()
    privileges: frozenset[Privilege] = frozenset()
    source_role: str | None = None
    """Set for an external plan: the only membership of a role whose own grants are not managed."""
    dangerous_source_roles_allowed: frozenset[str] = frozenset()
    """Names that a guardrail of the resource lists literally."""
    known_oid: int | None = None
    """The OID of our role on this very server as we last saw it; None where we never did."""
    adoption: Adoption | None = None
    """None where only its own role is the plan's."""

    @property
    def manages_grants(self) -> bool:
        """Whether the role's grants are the plan's business: those of an external plan are not."""
        return self.source_role is None
