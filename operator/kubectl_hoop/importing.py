"""HoopRolePlans for the login roles that a server has already, and what taking each of them over would change."""

import asyncio
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, LiteralString

import click
from psycopg import sql

from hoop_operator.crd import API_VERSION, Privilege
from hoop_operator.credentials.connection import Connection, postgres_connection
from hoop_operator.credentials.sources import Source
from hoop_operator.errors import PlanReason, ResourceFailure
from hoop_operator.naming import ADOPT, default_secret_name, role_name
from hoop_operator.planner.model import (
    COMMENT_PREFIX,
    Adoption,
    DatabaseState,
    DesiredRole,
    Identity,
    ObjectKind,
    Server,
)
from hoop_operator.planner.plan import RolePlan, plan_role
from hoop_operator.planner.privileges import TABLE_PRIVILEGES
from hoop_operator.planner.scopes import Scope, parse_scope
from hoop_operator.planner.statements import ChangeKind, render
from hoop_operator.postgres.capabilities import read_capabilities
from hoop_operator.postgres.session import Sessions, open_sessions
from hoop_operator.reconcile.adoption import UNCLAIMED
from hoop_operator.reconcile.context import address_allowed, limits_of
from hoop_operator.reconcile.objects import Key
from hoop_operator.reconcile.script import one_line, printable_sql
from hoop_operator.reconcile.turn import look
from hoop_operator.settings import Settings
from kubectl_hoop.changes import diff, of_statements, quoted
from kubectl_hoop.client import DEFAULT_NAMESPACE, Target, reach
from kubectl_hoop.objects import admin_connection, as_yaml, gather, read_resource, with_endpoint
from kubectl_hoop.options import FINE, WRONG, about_target, as_instance, by_another_way, note, resource_name

LABEL_LENGTH = 44
PLAN_NAME_LENGTH = 50

LOGINS: LiteralString = """
SELECT r.rolname AS name, r.rolsuper AS superuser, d.description AS comment
  FROM pg_catalog.pg_roles AS r LEFT JOIN pg_catalog.pg_shdescription AS d
    ON d.classoid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND d.objoid = r.oid
 WHERE r.rolcanlogin AND r.rolname <> current_user AND pg_catalog.left(r.rolname, 3) <> 'pg_'
 ORDER BY r.rolname
"""


@dataclass(frozen=True, slots=True)
class Imported:
    """A login role of the server, and the plan that comes nearest to it, if there is one."""

    role: str
    new_name: str = ""
    plan: Mapping[str, Any] | None = None
    planned: RolePlan | None = None
    remarks: tuple[str, ...] = ()
    """Why there is no plan, or what a person should know of it."""

    @property
    def changes_more_than_comment(self) -> bool:
        """Whether taking the role over does anything beyond saying whose it is."""
        statements = self.planned.statements if self.planned else ()
        return any(s.change is None or s.change.kind is not ChangeKind.COMMENT for s in statements)


@dataclass(slots=True)
class _Names:
    """Names that plans of one resource have got already."""

    resource: str
    plans: set[str] = field(default_factory=set)
    roles: set[str] = field(default_factory=set)

    def label(self, role: str) -> str:
        """A label whose role name no other plan has."""
        stem = role if re.search("[A-Za-z0-9]", role[:LABEL_LENGTH]) else f"role {role}"
        for suffix in _suffixes():
            label = stem[: LABEL_LENGTH - len(suffix)] + suffix
            if (name := role_name(self.resource, label)) not in self.roles:
                self.roles.add(name)
                return label
        raise AssertionError("suffixes do not end")

    def plan(self, role: str) -> str:
        """A name for a plan that no other one has."""
        stem = re.sub("[^a-z0-9]+", "-", role.lower())[:PLAN_NAME_LENGTH].strip("-") or "role"
        name = next(stem + suffix for suffix in _suffixes() if stem + suffix not in self.plans)
        self.plans.add(name)
        return name


def _suffixes() -> Iterator[str]:
    yield ""
    number = 2
    while True:
        yield f"-{number}"
        number += 1


@click.command(
    "import",
    epilog="Example: kubectl hoop import my-postgres -n shop > plans.yaml",
    short_help="Write HoopRolePlans for the roles that a server has.",
)
@resource_name
@click.option(
    "--uri", help="A server that no HoopResource names yet, as postgresql://user@host:port/database."
)
@click.option("--password-stdin", is_flag=True, help="Read the password for --uri from standard input.")
@by_another_way
@as_instance
@about_target
def import_(
    target: Target,
    resource: str,
    uri: str | None,
    host: str | None,
    port: int | None,
    instance: str,
    *,
    password_stdin: bool,
) -> int:
    """Read a server, and write a HoopRolePlan for each of its login roles.

    RESOURCE is the HoopResource of the server; with --uri the name that it is to get. Every plan takes its role over
    (hoop.dev/adopt). Comments say what would change by that, and what a plan cannot express; where anything would
    change, the plan waits for approval. Nothing is written to server or cluster.
    """
    if uri is not None and (host is not None or port is not None):
        raise click.UsageError("--host and --port go with a HoopResource; write them into --uri")
    given = None if uri is None else _connection(uri, target, password_stdin=password_stdin)
    return asyncio.run(_import(target, resource, given, host, port, instance))


async def _import(
    target: Target, name: str, given: Connection | None, host: str | None, port: int | None, instance: str
) -> int:
    settings = Settings(instance=instance)
    if given is not None:
        namespace, api_name, connection = target.namespace or DEFAULT_NAMESPACE, name, given
    else:
        async with reach(target) as cluster:
            resource = await read_resource(cluster.api, Key(cluster.namespace, name))
            manifests = await gather(cluster.api, resource, ())
        found = await admin_connection(with_endpoint(resource, host, port), manifests, settings)
        if found is None:
            note(f"HoopResource {resource.key} is not database/postgres; only that has roles to import")
            return WRONG
        namespace, api_name, connection = resource.key.namespace, resource.api_name, found
    async with open_sessions(connection, limits_of(settings), address_allowed) as sessions:
        imported = await read_roles(sessions, Key(namespace, name), api_name, settings.instance)
    documents = [_resource_document(Key(namespace, name))] if given is not None else []
    documents += [_document(role) for role in imported]
    click.echo("".join(documents) or "# There is no login role but the admin.\n", nl=False)
    return FINE


def _connection(uri: str, target: Target, *, password_stdin: bool) -> Connection:
    if re.match(r"[a-z]+://[^/@]*:[^/@]*@", uri):
        raise click.UsageError(
            "--uri: leave the password out, for command lines are seen by everybody on this machine; it is asked for, "
            "or read by --password-stdin"
        )
    if password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, err=True)
    else:
        raise click.UsageError("there is no terminal to ask for the password on: add --password-stdin")
    source = Source("--uri", {"uri": uri.encode(), "password": password.encode()})
    try:
        return postgres_connection(
            {}, [source], namespace=target.namespace or DEFAULT_NAMESPACE, allowed_hosts=()
        )
    except ResourceFailure as failure:
        raise click.UsageError(failure.message) from None


async def read_roles(sessions: Sessions, resource: Key, api_name: str, instance: str) -> list[Imported]:
    """Every login role but the admin, with the plan that comes nearest to it.

    Raises
    ------
    ServerError
        The server could not be read.
    """
    async with sessions.transaction() as transaction:
        capabilities = await read_capabilities(transaction)
        logins = await transaction.fetch(sql.SQL(LOGINS), {})
    refused: dict[str, str] = {}
    for login in logins:
        comment = login["comment"] or ""
        if login["superuser"]:
            refused[login["name"]] = "it is a superuser, which no plan takes over"
        elif comment.startswith(COMMENT_PREFIX):
            refused[login["name"]] = f"it is the plan's that its comment names: {comment}"
    names = _Names(api_name)
    bare = {
        login["name"]: DesiredRole(
            login["name"],
            Identity(instance, resource.namespace, names.plan(login["name"])),
            adoption=Adoption(),
        )
        for login in logins
        if login["name"] not in refused
    }
    server, states = await look(sessions, capabilities, list(bare.values()))
    wanted = {name: _nearest(desired, server, states) for name, desired in bare.items()}
    server, states = await look(
        sessions, capabilities, [desired for desired in wanted.values() if isinstance(desired, DesiredRole)]
    )
    imported = [Imported(name, remarks=(why,)) for name, why in refused.items()]
    for name, desired in wanted.items():
        if isinstance(desired, str):
            imported.append(Imported(name, remarks=(desired,)))
            continue
        imported.append(_plan(desired, plan_role(desired, server, states), resource, names))
    return sorted(imported, key=lambda found: found.role)


def _nearest(desired: DesiredRole, server: Server, states: Mapping[str, DatabaseState]) -> DesiredRole | str:
    """What a plan has to ask for to come near to what a role has; in words, why nothing does."""
    name = desired.name
    scopes: set[Scope] = set()
    privileges: set[Privilege] = set()
    for state in states.values():
        for entry in state.acl.held.get(name, ()):
            granted = _as_privilege(entry.kind, entry.privilege) if entry.column is None else None
            schema = entry.schema
            if entry.kind is ObjectKind.SCHEMA:
                names = {state.objects[entry.kind][oid].name for oid in entry.objects}
            else:
                names = {schema} if schema is not None else set()
            found = {scope for name in names if (scope := _scope(state.name, name)) is not None}
            if granted is not None and found:
                scopes |= found
                privileges.add(granted)
    if scopes:
        return replace(desired, scopes=frozenset(scopes), privileges=frozenset(privileges))
    sources = {membership.role for membership in server.memberships.of_member.get(name, ())}
    if len(sources) == 1:
        return replace(desired, source_role=sources.pop(), dangerous_source_roles_allowed=frozenset())
    if sources:
        listed = ", ".join(f'"{source}"' for source in sorted(sources))
        return (
            f"it is a member of {listed}, and a plan knows one source role only; make one group role that is a member "
            f"of these, and write a plan of type external with it as sourceRole"
        )
    return (
        "it holds no privilege that a plan knows, on a whole object in any schema, and is a member of nothing"
    )


def _as_privilege(kind: ObjectKind, privilege: str) -> Privilege | None:
    """The privilege of a plan behind one that the server knows, if it has one."""
    known = {
        ObjectKind.TABLE: TABLE_PRIVILEGES,
        ObjectKind.SCHEMA: {Privilege.CREATE},
        ObjectKind.ROUTINE: {Privilege.EXECUTE},
    }.get(kind, frozenset())
    return Privilege(privilege) if privilege in known else None


def _scope(database: str, schema: str) -> Scope | None:
    """The scope of a schema; None for those of the system."""
    scope = Scope(database, schema)
    try:
        return scope if parse_scope(str(scope)) == scope else None
    except ValueError:
        return None


def _plan(desired: DesiredRole, planned: RolePlan, resource: Key, names: _Names) -> Imported:
    conflicts = tuple(message for reason, message in planned.problems if reason is PlanReason.ROLE_CONFLICT)
    if conflicts:
        return Imported(desired.name, remarks=conflicts)
    label = names.label(desired.name)
    spec: dict[str, Any] = {"resourceRef": {"name": resource.name}, "role": label}
    if desired.source_role is not None:
        spec |= {"type": "external", "sourceRole": desired.source_role}
    else:
        spec |= {
            "type": "managed",
            "scopes": [str(scope) for scope in sorted(desired.scopes)],
            "privileges": [privilege.value for privilege in Privilege if privilege in desired.privileges],
        }
    remarks = (
        *(f"cannot be applied: {reason}: {message}" for reason, message in dict.fromkeys(planned.problems)),
        *(f"not covered are objects created later by {owner}" for owner in planned.uncovered_owners),
        *(
            f"left out, because an extension keeps it from PUBLIC: {name}"
            for name in planned.withheld_routines
        ),
        *planned.observations,
    )
    imported = Imported(desired.name, role_name(names.resource, label), None, planned, remarks)
    if imported.changes_more_than_comment or planned.problems:
        spec["approval"] = "Manual"
    metadata = {
        "name": desired.identity.plan,
        "namespace": desired.identity.namespace,
        "annotations": {ADOPT: UNCLAIMED},
    }
    body = {"apiVersion": API_VERSION, "kind": "HoopRolePlan", "metadata": metadata, "spec": spec}
    return replace(imported, plan=body)


def _document(imported: Imported) -> str:
    """A role as a YAML document: what it takes and what it changes as comments, then the plan."""
    if imported.plan is None:
        return (
            _comments(
                [f"Role {quoted(imported.role)} is left out:", *(f"  {why}" for why in imported.remarks)]
            )
            + "\n"
        )
    name = imported.plan["metadata"]["name"]
    rename = render(
        "ALTER ROLE {} RENAME TO {};", sql.Identifier(imported.role), sql.Identifier(imported.new_name)
    )
    lines = [
        f"Role {quoted(imported.role)}",
        "It is taken over under the name that its plan gives it. Before this is applied, run as an administrator, from",
        "when on it logs in by the new name (an MD5 password goes with the old one):",
        f"  {printable_sql(rename)}",
        f"To keep its password, create the Secret {default_secret_name(name)} before, with the key password.",
    ]
    changes = [] if imported.planned is None else imported.planned.statements
    lines.append(
        "Taking it over changes, on the server:"
        if changes
        else "Taking it over changes nothing on the server."
    )
    lines += [f"  {text}" for text, _ in diff(of_statements(changes))]
    if imported.changes_more_than_comment:
        lines.append(
            "A plan means the same privileges on all objects of all its scopes, now and later, and nothing else."
        )
    lines += [f"Note: {remark}" for remark in imported.remarks]
    return f"---\n{_comments(lines)}{as_yaml(imported.plan)}"


def _resource_document(key: Key) -> str:
    secret = f"{key.name}-admin"
    spec = {"type": "database", "subtype": "postgres", "envVarsFrom": [{"secretRef": {"name": secret}}]}
    metadata = {"name": key.name, "namespace": key.namespace}
    comments = _comments(
        [f"The Secret {secret} has to hold the admin's host, port, username, password and dbname."]
    )
    body = {"apiVersion": API_VERSION, "kind": "HoopResource", "metadata": metadata, "spec": spec}
    return f"---\n{comments}{as_yaml(body)}"


def _comments(lines: Iterable[str]) -> str:
    return "".join(f"# {one_line(text)}\n" for text in lines)
