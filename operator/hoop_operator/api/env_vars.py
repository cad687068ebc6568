"""`env_vars` and `roles[].secret`, and the Secrets of a HoopResource that hold them."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hoop_operator.api.problems import Problem
from hoop_operator.api.waiting import Body
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.secrets import Owner, SecretContents, create_secret, delete_secret, read_secret
from hoop_operator.crd import HOOP_RESOURCE, EnvFrom, LocalRef
from hoop_operator.credentials.env import decode, references_in
from hoop_operator.errors import ClusterError
from hoop_operator.naming import FILES, env_vars_secret_name, role_secret_name


@dataclass(frozen=True, slots=True)
class Credentials:
    """`env_vars`, taken apart."""

    keys: tuple[str, ...]
    secret: Mapping[str, bytes]
    """What goes into the Secret."""
    files: tuple[str, ...]
    """What of it is to be a file."""
    references: Mapping[str, str]
    """What only names a secret elsewhere, and stays in the object."""


def taken_apart(env_vars: Mapping[str, str], field: str = "env_vars") -> Credentials:
    """Read a map in hoop's syntax; raises a `Problem` that says all that is wrong with it."""
    decoded = decode(env_vars, field)
    if decoded.problems:
        raise Problem(400, "\n".join(decoded.problems))
    references = {key: env_vars[key] for key in references_in(env_vars)}
    return Credentials(tuple(env_vars), decoded.variables, decoded.files, references)


def from_secret(name: str, credentials: Credentials) -> tuple[EnvFrom, ...]:
    """What refers to a Secret of that name, where there is anything for it to hold."""
    return (EnvFrom(secret_ref=LocalRef(name=name)),) if credentials.secret else ()


async def write_secret(api: KubernetesApi, body: Body, name: str, credentials: Credentials) -> None:
    """Have a Secret of a new resource hold credentials."""
    if not credentials.secret:
        return
    namespace, owner = body["metadata"]["namespace"], owner_of(body)
    current = await read_secret(api, namespace, name)
    if current is not None:
        if current.owner is None or not owner.is_successor_of(current.owner):
            raise Problem(
                409, f"Secret {name} exists already and is not this resource's; it stays untouched: delete it"
            )
        # A former resource's goes any moment.
        await delete_secret(api, current)
    await create_secret(api, namespace, name, contents_of(body, credentials))


def owner_of(body: Body) -> Owner:
    """A resource as the owner of its Secrets."""
    return Owner(HOOP_RESOURCE.kind, body["metadata"]["name"], body["metadata"]["uid"])


def contents_of(body: Body, credentials: Credentials) -> SecretContents:
    """What a Secret of a resource's is made of."""
    annotations = {FILES: ",".join(credentials.files)} if credentials.files else {}
    return SecretContents("Opaque", owner_of(body), credentials.secret, annotations=annotations)


async def lacks_secret(api: KubernetesApi, body: Body) -> bool:
    """Whether a Secret does not exist that a resource was to get when it was made, and still refers to."""
    spec, name = body["spec"], body["metadata"]["name"]
    given = _named(spec.get("envVarsFrom"), env_vars_secret_name(name))
    for role in spec.get("roles") or ():
        given += _named(role.get("secretFrom"), role_secret_name(name, role["name"]))
    namespace = body["metadata"]["namespace"]
    return None in await asyncio.gather(*(read_secret(api, namespace, secret) for secret in given))


def _named(sources: Sequence[Mapping[str, Any]] | None, ours: str) -> list[str]:
    return (
        [ours] if any((entry.get("secretRef") or {}).get("name") == ours for entry in sources or ()) else []
    )


async def delete_former_secrets(api: KubernetesApi, body: Body) -> None:
    """Delete what this API wrote for a resource before; what else it was told to read stays."""
    metadata = body["metadata"]
    for entry in body["spec"].get("envVarsFrom") or ():
        name = (entry.get("secretRef") or {}).get("name", "")
        if not name.startswith(env_vars_secret_name(metadata["name"])):
            continue
        # It goes with the resource else.
        with suppress(ClusterError):
            former = await read_secret(api, metadata["namespace"], name)
            if former is not None and former.owner == owner_of(body):
                await delete_secret(api, former)
