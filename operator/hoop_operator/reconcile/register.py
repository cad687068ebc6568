"""Registering a resource: find its credentials, try them, and say how it went."""

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
from hoop_operator.cluster.secrets import read_config_map, read_secret
from hoop_operator.crd import Condition, HoopResourceStatus, Outcome, ServerInfo
from hoop_operator.crd import Connection as ConnectionStatus
from hoop_operator.credentials.connection import Connection, Endpoint, postgres_connection
from hoop_operator.credentials.env import NONE_FOLLOWED, decode
from hoop_operator.credentials.faults import raise_faults
from hoop_operator.credentials.references import Values
from hoop_operator.credentials.sources import Source
from hoop_operator.errors import (
    AuthenticationFailed,
    DatabaseUnavailable,
    ResourceFailure,
    ResourceReason,
    ServerError,
)
from hoop_operator.planner.statements import render
from hoop_operator.postgres.capabilities import Capabilities
from hoop_operator.reconcile.objects import Reading, Resource

ENV_VARS_FROM = "spec.envVarsFrom"

REASONS_BY_GRAVITY = (
    ResourceReason.CREDENTIALS_INVALID,
    ResourceReason.CREDENTIALS_UNRESOLVED,
    ResourceReason.CREDENTIALS_MISSING,
    ResourceReason.SECRET_CONFLICT,
)
"""What can be wrong before the server is asked."""
CREDENTIAL_REASONS = frozenset(REASONS_BY_GRAVITY) - {ResourceReason.SECRET_CONFLICT}
UNREACHABLE_REASONS = frozenset({ResourceReason.SERVER_UNREACHABLE, ResourceReason.AUTHENTICATION_FAILED})


@dataclass(frozen=True, slots=True)
class Registration:
    """What is known of a resource since it was last looked at."""

    resource: Resource
    """The resource as it was when it was looked at."""
    reason: ResourceReason
    message: str = ""
    connection: Connection | None = None
    """None for anything but postgres, and where the credentials do not add up."""
    capabilities: Capabilities | None = None
    """None for anything but postgres, and where the server did not answer or was not asked."""
    secrets: tuple[ConnectionStatus, ...] = ()
    secret_changes: tuple[str, ...] = ()
    """In words, what this look did to the Secrets of the roles."""
    restored_from: str | None = None
    """In words, the server that was there before, where another one answers now."""
    sid: str = field(default_factory=lambda: str(uuid4()))

    @property
    def ready(self) -> bool:
        """Whether plans can be run on it."""
        return self.reason is ResourceReason.REGISTERED


async def resolve(
    api: KubernetesApi, resource: Resource, allowed_hosts: Sequence[str], values: Values
) -> Connection | None:
    """The admin connection of a postgres resource; None for any other, whose variables are only checked.

    The parameters are those of `connection_of`.

    Raises
    ------
    ResourceFailure
        All that is wrong with the credentials, Secrets and ConfigMaps that do not exist included.
    ClusterError
        The API server failed us.
    """
    contents = await asyncio.gather(*(_read(api, reading) for reading in resource.sources))
    return connection_of(resource, contents, allowed_hosts, values)


async def lacks_sources(api: KubernetesApi, resource: Resource) -> bool:
    """Whether a Secret or ConfigMap with a resource's credentials does not exist.

    Raises
    ------
    ClusterError
        The API server failed us.
    """
    contents = await asyncio.gather(*(_read(api, reading) for reading in resource.sources))
    return None in contents


def connection_of(
    resource: Resource,
    contents: Sequence[Mapping[str, bytes] | None],
    allowed_hosts: Sequence[str],
    values: Values = NONE_FOLLOWED,
) -> Connection | None:
    """The admin connection of a postgres resource; None for any other, whose variables are only checked.

    Parameters
    ----------
    resource
        The resource.
    contents
        What the Secrets and ConfigMaps of its `sources` hold, in that order; None for one that does not exist.
    allowed_hosts
        The operator's setting: globs and networks, none to allow all.
    values
        What its `references` came to.

    Raises
    ------
    ResourceFailure
        All that is wrong with the credentials, Secrets and ConfigMaps that do not exist included.
    """
    env_vars = resource.spec.env_vars
    sources: list[Source] = []
    absent: list[str] = []
    entries = zip(resource.spec.env_vars_from, resource.sources, contents, strict=True)
    for entry, reading, data in entries:
        description = (
            f"{reading.kind} {reading.name}" if reading else "an entry without secretRef or configMapRef"
        )
        if data is not None:
            sources.append(Source(description, data, entry.prefix))
        else:
            absent.append(
                f"{ENV_VARS_FROM}: {description} does not exist in namespace {resource.key.namespace}; create it, or "
                f"correct the name"
            )
    if resource.is_postgres:
        return postgres_connection(
            env_vars,
            sources,
            values=values,
            absent=absent,
            namespace=resource.key.namespace,
            allowed_hosts=allowed_hosts,
        )
    decoded = decode(env_vars, values=values)
    raise_faults(malformed=decoded.problems, unresolved=[*absent, *decoded.unresolved])
    return None


async def _read(api: KubernetesApi, reading: Reading | None) -> Mapping[str, bytes] | None:
    if reading is None:
        return None
    if reading.kind == "ConfigMap":
        return await read_config_map(api, reading.namespace, reading.name)
    secret = await read_secret(api, reading.namespace, reading.name)
    return secret.data if secret else None


def gravest(failures: Sequence[ResourceFailure]) -> ResourceFailure:
    """One failure that says all that is wrong, the most fundamental first."""
    in_order = sorted(failures, key=lambda failure: REASONS_BY_GRAVITY.index(failure.reason))
    return ResourceFailure(in_order[0].reason, "; ".join(failure.message for failure in in_order))


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


def refusal(error: ServerError, connection: Connection) -> tuple[ResourceReason, str]:
    """What a server that could not be asked means for its resource, with the remedy."""
    if isinstance(error, AuthenticationFailed):
        login = {"USER": connection.user, "PASS": connection.password}
        return (
            ResourceReason.AUTHENTICATION_FAILED,
            f"{error}; {_line_breaks(login)}check USER and PASS, or SSLCERT and SSLKEY, and the server's pg_hba.conf",
        )
    if isinstance(error, DatabaseUnavailable):
        return (
            ResourceReason.SERVER_UNREACHABLE,
            f"{error}; {_line_breaks({'DB': connection.database})}check DB",
        )
    return ResourceReason.SERVER_UNREACHABLE, str(error)


def _line_breaks(values: Mapping[str, str | None]) -> str:
    """What is most likely wrong, as the beginning of a remedy: `echo` adds a line break that nobody sees."""
    ending = [name for name, value in values.items() if value is not None and value.endswith(("\n", "\r"))]
    return "".join(
        f"{name} ends with a line break: write it without one, such as by printf %s; " for name in ending
    )


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
        f"restore, a failover to a copy, or another host); plans are applied to it with the passwords of their "
        f"Secrets, and {roles} {'role stays' if roles == 1 else 'roles stay'} on {place}"
    )


def resource_status(
    registration: Registration, resource: Resource, plans: int, in_use: str | None, now: datetime
) -> dict[str, Any] | None:
    """The patch of a resource's status; None where all of it is said already.

    Parameters
    ----------
    registration
        What is known of the resource.
    resource
        The resource as it is now, which may have been changed since it was looked at.
    plans
        How many plans use it.
    in_use
        In words, which plans keep it from being deleted; None while nobody wants to delete it.
    now
        The time to write down.
    """
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
    # Validated as a whole, because that is what cuts texts to the length which the API server takes.
    status = HoopResourceStatus.model_validate(
        dict(before)
        | {
            "id": resource.uid,
            "status": Outcome.FAILED if failed else Outcome.SUCCESS,
            "message": in_use or registration.message,
            "created_at": before.created_at or now,
            "observed_generation": registration.resource.generation,
            "server": server,
            "connections": registration.secrets,
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
        if reason in UNREACHABLE_REASONS:
            conditions.append(say("Reachable", False, reason, message))
        elif registration.capabilities is None:
            conditions.append(say("Reachable", None, reason, "not tried before that is put right"))
        else:
            conditions.append(say("Reachable", True, "Connected", registration.restored_from or ""))
    return conditions
