"""What the operator's readers would find on the stand-in for PostgreSQL, one snapshot for each transaction."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from exploration.postgresql import ADMIN, OWNER, RoleRow, Row, Transaction
from hoop_operator.planner.model import (
    Acl,
    AclEntry,
    Database,
    DatabaseObject,
    DatabaseState,
    DefaultAcl,
    DefaultAclEntry,
    Memberships,
    ObjectKind,
    Role,
    Schema,
    Server,
)
from hoop_operator.postgres.capabilities import Capabilities
from hoop_operator.postgres.server_snapshot import RoleVersion

VERSION = 180000


async def read_capabilities(transaction: Transaction) -> Capabilities:
    """As `hoop_operator.postgres.capabilities.read_capabilities`."""
    await transaction.gate("who am I")
    return Capabilities(
        version=VERSION,
        version_text="18.0",
        system_identifier="7000000000000000000",
        admin=ADMIN,
        is_superuser=True,
        can_create_role=True,
        attributes=frozenset({"INHERIT"}),
        verifiers_readable=True,
        read_only=False,
    )


async def read_server(
    transaction: Transaction, capabilities: Capabilities, names: Iterable[str], sources: Iterable[str]
) -> Server:
    """As `hoop_operator.postgres.server_snapshot.read_server`."""
    assert not list(sources), "external plans are not explored"
    names = sorted(set(names))
    await transaction.gate(f"look at {', '.join(names)}")
    rows = transaction.look()
    roles = {name: _role(name, transaction) for name in names if ("role", name) in rows}
    oids = {role.oid: name for name, role in roles.items()}
    objects = {row: found for row, found in transaction.server.objects.items() if row[1] == "DATABASE"}
    holdings: dict[str, set[str]] = defaultdict(set)
    for row, grants in rows.items():
        if row[0] in {"acl", "default"} and row[1] != "DATABASE":
            for name in (oids[grant.grantee] for grant in grants if grant.grantee in oids):
                holdings[name].add(row[1] if row[0] == "default" else row[2])
    return Server(
        version=capabilities.version,
        system_identifier=capabilities.system_identifier,
        admin=ADMIN,
        admin_is_superuser=True,
        admin_attributes=capabilities.attributes,
        verifiers_readable=True,
        roles=roles,
        superusers=frozenset({ADMIN}),
        members_of_admin=frozenset(),
        memberships=Memberships.of(()),
        databases={
            found.name: Database(found.oid, found.name, found.owner, True, False, True)
            for found in objects.values()
        },
        shared_objects={ObjectKind.DATABASE: {found.oid: found for found in objects.values()}},
        acl=_acl(rows, objects, oids),
        grant_options={},
        holdings={name: frozenset(found) for name, found in holdings.items()},
        bound={},
        owned={},
        not_administered=frozenset(),
        not_assumable=frozenset(),
        contested={},
    )


async def read_database(
    transaction: Transaction,
    name: str,
    role_oids: Iterable[int],
    bound_oids: Iterable[int],
    schemas: Iterable[str],
) -> DatabaseState:
    """As `hoop_operator.postgres.database_snapshot.read_database`."""
    assert not list(bound_oids)
    await transaction.gate(f"look into {name}")
    rows = transaction.look()
    names = {value.oid: row[1] for row, value in rows.items() if row[0] == "role"}
    oids = {oid: names[oid] for oid in role_oids if oid in names}
    objects = {row: found for row, found in transaction.server.objects.items() if row[2] == name}
    by_kind: dict[ObjectKind, dict[int, DatabaseObject]] = defaultdict(dict)
    contents: dict[str, dict[ObjectKind, set[int]]] = defaultdict(lambda: defaultdict(set))
    for found in objects.values():
        by_kind[found.kind][found.oid] = found
        if found.schema is not None:
            contents[found.schema][found.kind].add(found.oid)
    return DatabaseState(
        name=name,
        owner=ADMIN,
        schemas={
            found.name: Schema(
                found.oid,
                found.name,
                found.owner,
                creators=frozenset(),
                object_owners=frozenset({OWNER}),
                contents={kind: frozenset(known) for kind, known in contents[found.name].items()},
            )
            for found in by_kind[ObjectKind.SCHEMA].values()
            if found.name in set(schemas)
        },
        objects=by_kind,
        acl=_acl(rows, objects, oids),
        grant_options={},
        crowded={},
        crowded_defaults={},
        default_acl=DefaultAcl.of(
            DefaultAclEntry(row[2], row[3], row[4], oids[grant.grantee], grant.privilege, grant.grantable)
            for row, grants in rows.items()
            if row[0] == "default" and row[1] == name
            for grant in sorted(grants)
            if grant.grantee in oids
        ),
        owned={},
        bound={},
        initial_grantees=frozenset(),
        not_administered=frozenset(),
        not_assumable=frozenset(),
        contested={},
        closed_schemas={},
    )


async def read_nothing(*_: Any) -> list[Any]:
    """Sessions, prepared transactions, owned schemas and hazards: there are none here."""
    return []


async def read_versions(transaction: Transaction, names: Iterable[str]) -> dict[str, RoleVersion]:
    """As `hoop_operator.postgres.server_snapshot.read_versions`."""
    await transaction.gate("which version")
    rows = transaction.all_rows()
    return {
        name: RoleVersion(
            transaction.version_of(rows["role", name], own=True),
            rows.get(("comment", str(rows["role", name].oid))),
        )
        for name in names
        if ("role", name) in rows
    }


def _role(name: str, transaction: Transaction) -> Role:
    rows = transaction.look()
    row: RoleRow = rows["role", name]
    return Role(
        oid=row.oid,
        name=name,
        login=row.login,
        inherit=row.inherit,
        superuser=row.superuser,
        createdb=row.createdb,
        createrole=row.createrole,
        replication=row.replication,
        bypassrls=row.bypassrls,
        connection_limit=row.connection_limit,
        expires=row.expires,
        comment=rows.get(("comment", str(row.oid))),
        admin_option=True,
        admin_may_grant=True,
        verifier=row.verifier,
        version=transaction.version_of(row, own=False),
    )


def _acl(rows: Mapping[Row, Any], objects: Mapping[Row, DatabaseObject], oids: Mapping[int, str]) -> Acl:
    found: dict[AclEntry, set[int]] = defaultdict(set)
    for row, target in objects.items():
        for grantee, privilege, grantable in sorted(rows[row]):
            if grantee in oids:
                entry = AclEntry(
                    oids[grantee], target.owner, target.kind, target.schema, privilege, grantable, frozenset()
                )
                found[entry].add(target.oid)
    return Acl.of(replace(entry, objects=frozenset(known)) for entry, known in found.items())
