"""The Secrets of a resource's roles: what belongs into them, and those that are not needed any more."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.secrets import (
    SecretContents,
    controlled_secrets,
    create_secret,
    delete_secret,
    read_config_map,
    read_secret,
    update_secret,
)
from hoop_operator.crd import Connection as ConnectionStatus
from hoop_operator.crd import ResourceRole
from hoop_operator.credentials.faults import raise_faults
from hoop_operator.credentials.references import Values
from hoop_operator.credentials.role_secret import connection_secret, secret_faults
from hoop_operator.errors import (
    AccessDenied,
    ObjectConflict,
    ObjectNotFound,
    ObjectRejected,
    ResourceFailure,
    ResourceReason,
)
from hoop_operator.naming import FILES, connection_secret_name, is_connection_secret_name
from hoop_operator.reconcile.objects import Resource
from hoop_operator.reconcile.register import REASONS_BY_GRAVITY

CONNECTION_SECRET_TYPE = "Opaque"
UNAUTHORIZED = 401

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionSecrets:
    """What became of the Secrets of a resource's roles."""

    there: tuple[ConnectionStatus, ...]
    """Those that the roles have."""
    failures: Sequence[ResourceFailure] = ()
    """What kept others from being written or deleted: `SecretConflict`, or what is wrong with a role's variables."""
    changes: tuple[str, ...] = ()
    """In words, what was done to each that was not as it should be."""


async def write_connection_secrets(
    api: KubernetesApi, resource: Resource, values: Values
) -> ConnectionSecrets:
    """Write the Secret of each of a resource's roles, and delete those of roles that left the list.

    `values` is what the resource's `references` came to.

    Raises
    ------
    ClusterError
        The API server failed us.
    """
    had = {
        entry["name"]: ConnectionStatus.model_validate(entry)
        for entry in resource.status.get("connections") or ()
    }
    if resource.deleting:
        # They go with the resource, and a namespace that is being deleted takes no new ones.
        return ConnectionSecrets(tuple(had.values()))
    has: dict[str, ConnectionStatus] = {}
    failures: list[ResourceFailure] = []
    changes: list[str] = []

    def note(change: str) -> None:
        logger.info("Resource %s: %s", resource.key, change)
        changes.append(change)

    for role in resource.spec.roles:
        connection = ConnectionStatus(
            name=role.name, secret_name=connection_secret_name(resource.key.name, role.name)
        )
        try:
            _refuse_written_secrets(resource, role)
            further, further_files, absent = await _role_sources(api, resource, role)
            data, files = connection_secret(role.secret, f"spec.roles[{role.name}].secret", values, absent)
            files = sorted({*files, *(further_files - data.keys())})
            data = further | data
            raise_faults(malformed=secret_faults(data, f"spec.roles[{role.name}]"))
            if done := await _write_connection_secret(api, resource, connection.secret_name, data, files):
                note(f"Secret {connection.secret_name} was {done}")
        except (ResourceFailure, AccessDenied, ObjectRejected) as error:
            of_secret = f"Secret {connection.secret_name}"
            failures.append(error if isinstance(error, ResourceFailure) else _forbidden(error, of_secret))
            if connection.name not in had:
                continue
        has[connection.name] = connection
    try:
        async for name in _delete_former(api, resource):
            note(f"Secret {name} was deleted")
    except AccessDenied as error:
        failures.append(_forbidden(error, "the Secrets of former roles"))
    return ConnectionSecrets(tuple(has.values()), failures, tuple(changes))


async def _delete_former(api: KubernetesApi, resource: Resource) -> AsyncIterator[str]:
    """Delete the Secrets of roles that are not in the list any more, and yield the name of each that was.

    All that the resource controls are looked at: an operator may have ended between the creation of one and the status
    that would name it. A status about this very spec says that it was done, unless something was wrong with a Secret.
    Those of other names, such as the credentials that the HTTP API keeps for it, are nothing of a role.
    """
    told = resource.status.get("observedGeneration") == resource.generation
    reason = resource.condition("Ready").get("reason")
    if resource.generation == 1 or (told and reason not in REASONS_BY_GRAVITY):
        return
    wanted = {connection_secret_name(resource.key.name, role.name) for role in resource.spec.roles}
    for name in await controlled_secrets(api, resource.key.namespace, resource.owner):
        if name not in wanted and is_connection_secret_name(name, resource.key.name):
            former = await read_secret(api, resource.key.namespace, name)
            if former is not None and former.owner == resource.owner:
                await delete_secret(api, former)
                yield name


def _forbidden(error: AccessDenied | ObjectRejected, what: str) -> ResourceFailure:
    """What the API server's refusal of something about a Secret means; not to be known (401) concerns all of them."""
    if error.status == UNAUTHORIZED:
        raise error
    return ResourceFailure(
        ResourceReason.SECRET_CONFLICT,
        f"the API server does not let the operator have {what} as it should be ({error}): change the right, "
        f"quota or admission policy that stands against it",
    )


def _refuse_written_secrets(resource: Resource, role: ResourceRole) -> None:
    """Refuse what would never come to rest: a Secret that is read for what is written into it."""
    written = {connection_secret_name(resource.key.name, each.name) for each in resource.spec.roles}
    raise_faults(
        malformed=[
            f"spec.roles[{role.name}].secretFrom: the operator itself writes Secret {reading.name}, for an entry of "
            f"spec.roles; name another one"
            for reading in resource.named(role.secret_from)
            if reading is not None and reading.kind == "Secret" and reading.name in written
        ]
    )


async def _role_sources(
    api: KubernetesApi, resource: Resource, role: ResourceRole
) -> tuple[dict[str, bytes], set[str], list[str]]:
    """The variables in a role's Secrets and ConfigMaps, which are marked as files there, and in words what lacks."""
    variables: dict[str, bytes] = {}
    files: set[str] = set()
    absent: list[str] = []
    for entry, reading in zip(role.secret_from, resource.named(role.secret_from), strict=True):
        if reading is None:
            continue
        marked = ""
        if reading.kind == "Secret":
            secret = await read_secret(api, reading.namespace, reading.name)
            data = secret.data if secret else None
            marked = secret.annotations.get(FILES, "") if secret else ""
        else:
            data = await read_config_map(api, reading.namespace, reading.name)
        if data is None:
            absent.append(
                f"spec.roles[{role.name}].secretFrom: {reading.kind} {reading.name} does not exist in namespace "
                f"{reading.namespace}; create it, or correct the name"
            )
            continue
        named = {entry.prefix + key: value for key, value in data.items()}
        files = (files - named.keys()) | {entry.prefix + key for key in marked.split(",") if key in data}
        variables |= named
    return variables, files, absent


async def _write_connection_secret(
    api: KubernetesApi, resource: Resource, name: str, data: Mapping[str, bytes], files: Sequence[str]
) -> str | None:
    """Make a Secret hold `data`; return what was done to it, None where it was as it should be."""
    owner = resource.owner
    annotations = {FILES: ",".join(files)} if files else {}
    current = await read_secret(api, resource.key.namespace, name)
    if current is not None:
        holder = current.owner
        if holder is None or not owner.is_successor_of(holder):
            raise ResourceFailure(
                ResourceReason.SECRET_CONFLICT,
                f"Secret {name} exists already and belongs to "
                f"{f'{holder.kind} {holder.name}' if holder else 'somebody else'}; it stays untouched: rename the role "
                f"in spec.roles, or delete that Secret",
            )
        if holder.uid != owner.uid:
            await _insist_on_being_asked(api, resource)
            # It belongs to a former resource of this name, and the garbage collector would take it away any moment.
            await delete_secret(api, current)
            current = None
    contents = SecretContents(CONNECTION_SECRET_TYPE, owner, data, annotations=annotations)
    try:
        if current is None:
            await _insist_on_being_asked(api, resource)
            await create_secret(api, resource.key.namespace, name, contents)
            return "made"
        return "changed" if await update_secret(api, current, contents) is not current else None
    except ObjectRejected as error:
        if current is None:
            raise
        raise ResourceFailure(
            ResourceReason.SECRET_CONFLICT,
            f"the API server does not take what belongs into Secret {name} ({error}): it was made immutable, or others "
            f"added too much to it; delete it, and it is made anew",
        ) from None


async def _insist_on_being_asked(api: KubernetesApi, resource: Resource) -> None:
    """See that a resource is as it was looked at, whatever the watches have told.

    One without a finalizer may be gone unheard of. What is made for it is collected as garbage, and would be made anew.

    Raises
    ------
    ObjectNotFound
        That very resource is gone.
    ObjectConflict
        It was changed, and has to be looked at anew.
    """
    path = paths.custom_object(resource.body)
    metadata = (await api.get(path))["metadata"]
    if metadata["uid"] != resource.uid:
        raise ObjectNotFound(f"{path} of uid {resource.uid} is gone, another object has its name", status=404)
    if metadata["generation"] != resource.generation:
        raise ObjectConflict(f"{path} was changed while it was being looked at", status=409)
