"""Registering a resource: find its credentials, try them, write its connection Secrets, and say how it went."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

from psycopg import sql

from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.conditions import condition, merge_conditions, said
from hoop_operator.cluster.secrets import (
    create_secret,
    delete_secret,
    read_config_map,
    read_secret,
    update_secret,
)
from hoop_operator.crd import Condition, HoopResourceStatus, Outcome, ServerInfo
from hoop_operator.crd import Connection as ConnectionStatus
from hoop_operator.credentials.connection import Connection, Endpoint, postgres_connection
from hoop_operator.credentials.env import decode_whole
from hoop_operator.credentials.role_secret import connection_secret
from hoop_operator.credentials.sources import Source
from hoop_operator.errors import ObjectConflict, ResourceFailure, ResourceReason
from hoop_operator.naming import connection_secret_name
from hoop_operator.planner.statements import render
from hoop_operator.postgres.snapshot import Capabilities
from hoop_operator.reconcile.objects import Resource

FILES_ANNOTATION = "hoop.dev/files"
CONNECTION_SECRET_TYPE = "Opaque"


@dataclass(frozen=True, slots=True)
class Registration:
    """What is known of a resource since it was last looked at."""

    resource: Resource
    reason: ResourceReason
    message: str = ""
    connection: Connection | None = None
    """None for anything but postgres, and where the credentials do not add up."""
    capabilities: Capabilities | None = None
    """None for anything but postgres, and where the server did not answer."""
    secrets: tuple[ConnectionStatus, ...] = ()
    restored_from: str | None = None
    """In words, the server that was there before, where another one answers now."""
    sid: str = field(default_factory=lambda: str(uuid4()))

    @property
    def ready(self) -> bool:
        """Whether plans can be run on it."""
        return self.reason is ResourceReason.REGISTERED


async def read_sources(api: KubernetesApi, resource: Resource) -> list[Source]:
    """Read the Secrets and ConfigMaps that a resource takes its variables from, in its order.

    Raises
    ------
    ResourceFailure
        `CredentialsUnresolved`, naming all that do not exist.
    ClusterError
        The API server failed us.
    """
    namespace = resource.key.namespace

    async def read(index: int) -> Source | str:
        entry = resource.spec.env_vars_from[index]
        data: Mapping[str, bytes] | None
        if entry.secret_ref is not None:
            description = f"Secret {entry.secret_ref.name}"
            secret = await read_secret(api, namespace, entry.secret_ref.name)
            data = secret.data if secret else None
        elif entry.config_map_ref is not None:
            description = f"ConfigMap {entry.config_map_ref.name}"
            data = await read_config_map(api, namespace, entry.config_map_ref.name)
        else:
            return f"spec.envVarsFrom[{index}] names neither a Secret nor a ConfigMap"
        if data is None:
            return f"{description} does not exist in namespace {namespace}"
        return Source(description, data, entry.prefix)

    sources = await asyncio.gather(*(read(index) for index in range(len(resource.spec.env_vars_from))))
    if absent := [source for source in sources if isinstance(source, str)]:
        raise ResourceFailure(
            ResourceReason.CREDENTIALS_UNRESOLVED,
            f"spec.envVarsFrom: {'; '.join(absent)}; create it, or correct the name",
        )
    return [source for source in sources if isinstance(source, Source)]


async def resolve(api: KubernetesApi, resource: Resource, allowed_hosts: Sequence[str]) -> Connection | None:
    """The admin connection of a postgres resource; None for any other, whose variables are only checked.

    Raises
    ------
    ResourceFailure
        What is wrong with the credentials.
    ClusterError
        The API server failed us.
    """
    sources = await read_sources(api, resource)
    if resource.is_postgres:
        return postgres_connection(
            resource.spec.env_vars, sources, namespace=resource.key.namespace, allowed_hosts=allowed_hosts
        )
    decode_whole(resource.spec.env_vars)
    return None


async def write_connection_secrets(api: KubernetesApi, resource: Resource) -> tuple[ConnectionStatus, ...]:
    """Write the Secret of each of a resource's roles, and delete those of roles that left the list.

    Raises
    ------
    ResourceFailure
        `SecretConflict`, or what is wrong with a role's variables; the Secrets of other roles are written all the same.
    ClusterError
        The API server failed us.
    """
    failures: list[ResourceFailure] = []
    written: list[ConnectionStatus] = []
    wanted: set[str] = set()
    for role in resource.spec.roles:
        name = connection_secret_name(resource.key.name, role.name)
        wanted.add(name)
        try:
            data, files = connection_secret(role.secret, f"spec.roles[{role.name}].secret")
            await _write_connection_secret(api, resource, name, data, files)
        except ResourceFailure as failure:
            failures.append(failure)
        else:
            written.append(ConnectionStatus(name=role.name, secret_name=name))
    for entry in resource.status.get("connections") or ():
        if entry["secretName"] not in wanted:
            former = await read_secret(api, resource.key.namespace, entry["secretName"])
            if former is not None and former.owner is not None and former.owner.uid == resource.uid:
                await delete_secret(api, former)
    if failures:
        raise ResourceFailure(failures[0].reason, "; ".join(failure.message for failure in failures))
    return tuple(written)


async def _write_connection_secret(
    api: KubernetesApi, resource: Resource, name: str, data: Mapping[str, bytes], files: Sequence[str]
) -> None:
    annotations = {FILES_ANNOTATION: ",".join(files)} if files else {}
    current = await read_secret(api, resource.key.namespace, name)
    if current is not None:
        owner = current.owner
        ours = owner is not None and (owner.kind, owner.name) == (resource.owner.kind, resource.owner.name)
        if not ours:
            holder = f"{owner.kind} {owner.name}" if owner else "somebody else"
            raise ResourceFailure(
                ResourceReason.SECRET_CONFLICT,
                f"Secret {name} exists already and belongs to {holder}; it stays untouched: rename the role in "
                f"spec.roles, or delete that Secret",
            )
        if owner is not None and owner.uid != resource.uid:
            await delete_secret(api, current)
            current = None
    try:
        if current is None:
            await create_secret(
                api,
                namespace=resource.key.namespace,
                name=name,
                type=CONNECTION_SECRET_TYPE,
                data=data,
                owner=resource.owner,
                labels={},
                annotations=annotations,
            )
        else:
            await update_secret(
                api,
                current,
                type=CONNECTION_SECRET_TYPE,
                data=data,
                owner=resource.owner,
                labels={},
                annotations=annotations,
            )
    except ObjectConflict:
        raise ResourceFailure(
            ResourceReason.SECRET_CONFLICT, f"Secret {name} was changed meanwhile; it will be tried again"
        ) from None


def judge(capabilities: Capabilities) -> tuple[ResourceReason, str]:
    """Whether the admin can do its work on the server that answered."""
    if capabilities.read_only:
        return (
            ResourceReason.SERVER_UNREACHABLE,
            "the server is read-only (a standby); point HOST at the primary, or wait for its promotion",
        )
    if not capabilities.can_create_role:
        return (
            ResourceReason.ROLE_CREATION_NOT_ALLOWED,
            f'the admin "{capabilities.admin}" may not create roles; an administrator has to run: '
            f"{render('ALTER ROLE {} CREATEROLE', sql.Identifier(capabilities.admin))};",
        )
    return ResourceReason.REGISTERED, ""


def replaced_server(
    resource: Resource, capabilities: Capabilities, former: Endpoint | None, roles: int
) -> str | None:
    """In words, that another server answers than before; None where it is the same, or there was none before.

    `former` is where the former server was, where that is still known, `roles` how many roles are left on it.
    """
    before = (resource.status.get("server") or {}).get("systemIdentifier")
    if not before or not capabilities.system_identifier or before == capabilities.system_identifier:
        return None
    place = f"the former server ({former.host}:{former.port})" if former else "the former server"
    return (
        f"the server is not the one it was: system identifier {capabilities.system_identifier} instead of {before} (a "
        f"restore, a failover to a copy, or another host); plans are applied to it with the passwords of their Secrets, "
        f"and {roles} roles stay on {place}"
    )


def resource_status(
    registration: Registration, plans: int, in_use: str | None, now: datetime
) -> dict[str, Any] | None:
    """The patch of a resource's status; None where all of it is said already.

    Parameters
    ----------
    registration
        What is known of the resource.
    plans
        How many plans use it.
    in_use
        In words, which plans keep it from being deleted; None while nobody wants to delete it.
    now
        The time to write down.
    """
    resource = registration.resource
    previous = resource.status
    conditions = merge_conditions(
        previous.get("conditions") or (), _conditions(registration, in_use=in_use, now=now)
    )
    capabilities = registration.capabilities
    before = HoopResourceStatus.model_validate({**previous, "conditions": ()})
    server = before.server
    if capabilities is not None:
        server = ServerInfo(
            version=capabilities.version_text,
            system_identifier=capabilities.system_identifier or "",
            is_superuser=capabilities.is_superuser,
            can_create_role=capabilities.can_create_role,
        )
    failed = not registration.ready or in_use is not None
    message = in_use or registration.message
    status = before.model_copy(
        update={
            "id": resource.uid,
            "status": Outcome.FAILED if failed else Outcome.SUCCESS,
            "message": message,
            "created_at": before.created_at or now,
            "observed_generation": resource.generation,
            "server": server,
            "connections": registration.secrets if registration.ready else before.connections,
            "plans": plans,
        }
    )
    body = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    body["conditions"] = conditions
    if {**previous, "conditions": said(previous.get("conditions") or ())} == {
        **body,
        "conditions": said(conditions),
    }:
        return None
    body["sid"] = registration.sid
    body["updatedAt"] = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return dict.fromkeys(previous) | body


CREDENTIAL_REASONS = frozenset(
    {
        ResourceReason.CREDENTIALS_MISSING,
        ResourceReason.CREDENTIALS_INVALID,
        ResourceReason.CREDENTIALS_UNRESOLVED,
    }
)
UNREACHABLE_REASONS = frozenset({ResourceReason.SERVER_UNREACHABLE, ResourceReason.AUTHENTICATION_FAILED})


def _conditions(registration: Registration, *, in_use: str | None, now: datetime) -> list[Condition]:
    resource = registration.resource
    reason, message = registration.reason, registration.message

    say = partial(condition, generation=resource.generation, now=now)
    if in_use is not None:
        conditions = [say("Ready", False, ResourceReason.IN_USE, in_use)]
        conditions.append(say("InUse", True, ResourceReason.IN_USE, in_use))
    else:
        conditions = [say("Ready", registration.ready, reason, message)]
    unresolved = reason in CREDENTIAL_REASONS
    conditions.append(
        say(
            "CredentialsResolved",
            not unresolved,
            reason if unresolved else "Resolved",
            message if unresolved else "",
        )
    )
    if resource.is_postgres:
        if unresolved:
            conditions.append(say("Reachable", None, reason, "the credentials come first"))
        elif reason in UNREACHABLE_REASONS:
            conditions.append(say("Reachable", False, reason, message))
        else:
            conditions.append(say("Reachable", True, "Connected", registration.restored_from or ""))
    return conditions
