"""The two pictures that the planner compares: what was read from a server, and what a plan asks for.

Everything is immutable and knows neither where it came from nor what will become of it. Objects are known by their
OID within the catalog of their kind, as in PostgreSQL itself (manual, "System Catalogs").
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from hoop_operator.crd import Privilege
from hoop_operator.planner.scopes import Scope


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
    withheld: bool = False
    """A routine that belongs to an extension and that PUBLIC may not execute: its author keeps it from users."""


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
    verifier: str | None = field(default=None, repr=False)
    """The stored password verifier; None where there is none or the admin may not read it."""


@dataclass(frozen=True, slots=True)
class Membership:
    """`member` is a member of `role`; before PostgreSQL 16 inherit follows the member and SET is always possible."""

    role: str
    member: str
    grantor: str
    admin: bool
    inherit: bool
    set: bool


@dataclass(frozen=True, slots=True)
class Database:
    """A database of the server, seen from outside."""

    oid: int
    name: str
    owner: str
    accepts_connections: bool
    is_template: bool


@dataclass(frozen=True, slots=True)
class Schema:
    """A schema with those who may create objects in it by a grant of their own."""

    oid: int
    name: str
    owner: str
    creators: frozenset[str]


@dataclass(frozen=True, slots=True)
class Server:
    """What all databases of a server share, read at one moment."""

    version: int
    """As `server_version_num` has it: 180006 is 18.6."""
    system_identifier: str | None
    """None where the admin may not read it."""
    admin: str
    admin_is_superuser: bool
    admin_can_create_role: bool
    verifiers_readable: bool
    roles: Mapping[str, Role]
    """The plans' roles, and the source roles with every role that can be reached from them."""
    superusers: frozenset[str]
    memberships: tuple[Membership, ...]
    """Every membership in which a role of `roles` takes part, and those of the admin."""
    databases: Mapping[str, Database]
    shared_objects: Mapping[ObjectKind, Mapping[int, DatabaseObject]]
    """Databases, tablespaces and parameters on which one of the plans' roles holds or gave something."""
    acl: tuple[AclEntry, ...]
    holdings: Mapping[str, frozenset[str]]
    """For each of the plans' roles the databases in which it holds or owns anything (`pg_shdepend`)."""
    owned: Mapping[str, tuple[DatabaseObject, ...]]
    """For each of the plans' roles the databases and tablespaces it owns."""
    not_administered: frozenset[str]
    """Owners and grantors of shared objects for whom the admin may not act."""


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """What one database holds, read at one moment, as far as the plans at hand are concerned."""

    name: str
    owner: str
    schemas: Mapping[str, Schema]
    objects: Mapping[ObjectKind, Mapping[int, DatabaseObject]]
    """Every object in the schemas asked for, and wherever one of the plans' roles holds or gave something."""
    acl: tuple[AclEntry, ...]
    default_acl: tuple[DefaultAclEntry, ...]
    """Entries whose grantee or owner is one of the plans' roles."""
    owned: Mapping[str, tuple[str, ...]]
    """For each of the plans' roles what it owns here, in words."""
    not_administered: frozenset[str]
    """Owners and grantors here for whom the admin may not act."""


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


COMMENT_PREFIX = "hoop.dev/role-plan: "


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

    @property
    def manages_grants(self) -> bool:
        """Whether the role's grants are the plan's business: those of an external plan are not."""
        return self.source_role is None
