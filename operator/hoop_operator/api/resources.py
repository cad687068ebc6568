"""hoop's resources as HoopResources. Credentials go into a Secret that the object refers to, never into the object."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from hoop_operator.api.problems import Problem, problem_of, refusing_invalid
from hoop_operator.api.waiting import SETTLING_SECONDS, Body, ready, until
from hoop_operator.api.wire import (
    Health,
    NamedHealth,
    Pages,
    Resource,
    ResourceChange,
    ResourcePage,
    ResourceRequest,
)
from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.secrets import Owner, create_secret, delete_secret, read_secret, update_secret
from hoop_operator.crd import (
    API_VERSION,
    HOOP_RESOURCE,
    EnvFrom,
    HoopResourceSpec,
    LocalRef,
    Outcome,
    ResourceRole,
)
from hoop_operator.credentials.env import decode, references_in
from hoop_operator.errors import AccessDenied, ClusterError, ObjectConflict, ObjectNotFound, ResourceReason
from hoop_operator.naming import FILES, env_vars_secret_name, resource_object_name, role_secret_name
from hoop_operator.settings import Settings

ENV_VARS = "hoop.dev/env-vars"
"""The annotation that remembers the keys of `env_vars`, so that to show them takes no right to read the Secret."""
HIDDEN = "********"
"""What is shown of every value. It is not base64, so that it never becomes a value by being sent back."""
UNREGISTERED = "the operator has not looked at it yet"
NOT_FOUND = "resource not found"


@dataclass(frozen=True, slots=True)
class Session:
    """One request: who asks, where, and with which settings."""

    api: KubernetesApi
    settings: Settings

    @property
    def namespace(self) -> str:
        """The namespace that the objects are in."""
        return self.settings.api_namespace


@dataclass(frozen=True, slots=True)
class _Credentials:
    """`env_vars`, taken apart."""

    keys: tuple[str, ...]
    secret: Mapping[str, bytes]
    """What goes into the Secret."""
    files: tuple[str, ...]
    """What of it is to be a file."""
    references: Mapping[str, str]
    """What only names a secret elsewhere, and stays in the object."""


async def create(session: Session, request: ResourceRequest) -> Resource:
    """Make a resource.

    Raises
    ------
    Problem
        400, or 409 where there is one of that name.
    ClusterError
        The API server failed us.
    """
    credentials = _taken_apart(request.env_vars)
    given = [_taken_apart(role.secret, f"roles.{index}.secret") for index, role in enumerate(request.roles)]
    name = resource_object_name(request.name)
    with suppress(ObjectNotFound):
        await find(session, request.name)
        raise Problem(409, "resource name already exists")
    annotations, spec = _declared(session, name, request, credentials)
    resource_name = None if name == request.name else request.name
    with refusing_invalid():
        spec = HoopResourceSpec.model_validate(
            dict(spec) | {"resource_name": resource_name, "roles": _roles(name, request, given)}
        )
    try:
        body = await session.api.create(
            paths.hoop_resources(session.namespace),
            {
                "apiVersion": API_VERSION,
                "kind": HOOP_RESOURCE.kind,
                "metadata": {"name": name, "annotations": annotations},
                "spec": _dumped(spec),
            },
        )
    except ObjectConflict:
        raise Problem(409, "resource name already exists") from None
    try:
        await _write_secret(session, body, env_vars_secret_name(name), credentials)
        for role, secret in zip(request.roles, given, strict=True):
            await _write_secret(session, body, role_secret_name(name, role.name), secret)
    except (ClusterError, Problem):
        # Without its credentials nobody could do anything with it but this request once more.
        with suppress(ClusterError):
            await session.api.delete(paths.custom_object(body), uid=body["metadata"]["uid"])
        raise
    return shown(body)


async def replace(session: Session, name: str, change: ResourceChange) -> Resource:
    """Give a resource other credentials, in place of all it had.

    Raises
    ------
    Problem
        400, or 403 where type or subtype would change.
    ClusterError
        The API server failed us, or there is no such resource.
    """
    credentials = _taken_apart(change.env_vars)
    body = await find(session, name)
    metadata, former = body["metadata"], body["spec"]
    if (change.type, change.subtype or former["subtype"]) != (former["type"], former["subtype"]):
        raise Problem(403, "type and subtype cannot be changed: delete the resource and create it anew")
    annotations, spec = _declared(session, metadata["name"], change, credentials)
    await _write_secret(session, body, env_vars_secret_name(metadata["name"]), credentials)
    wanted = _dumped(spec)
    env_vars = dict.fromkeys(former.get("envVars") or {}) | wanted.get("envVars", {})
    patched = await session.api.merge_patch(
        paths.custom_object(body),
        {
            "metadata": {"resourceVersion": metadata["resourceVersion"], "annotations": annotations},
            "spec": {
                "agentId": wanted.get("agentId"),
                "envVars": env_vars,
                "envVarsFrom": wanted.get("envVarsFrom"),
            },
        },
    )
    return shown(patched)


async def remove(session: Session, name: str) -> None:
    """Delete a resource, and wait until it is gone.

    Raises
    ------
    Problem
        403 where plans use it, 503 where the operator does not let go of it.
    ClusterError
        The API server failed us, or there is no such resource.
    """
    body = await find(session, name)
    if plans := (body.get("status") or {}).get("plans"):
        raise Problem(
            403,
            f"cannot delete resource with existing connections: {plans} of its HoopRolePlans have roles on the "
            f"server; delete these first",
        )
    path = paths.custom_object(body)
    with suppress(ObjectNotFound):
        left = await session.api.delete(path, uid=body["metadata"]["uid"])
        if left.get("kind") == HOOP_RESOURCE.kind:
            collection = paths.hoop_resources(session.namespace)
            await until(session.api, collection, left, lambda _: False, session.settings.api_wait_seconds)
            raise Problem(503, "the operator has not let go of the resource yet; it is deleted when it does")


async def health(session: Session, name: str) -> Health:
    """What the operator found when it last looked.

    Raises
    ------
    ClusterError
        The API server failed us, or there is no such resource.
    """
    collection, longest = paths.hoop_resources(session.namespace), session.settings.api_wait_seconds
    body = await until(
        session.api,
        collection,
        await find(session, name),
        lambda body: (body.get("status") or {}).get("observedGeneration") == body["metadata"]["generation"],
        longest,
    )
    # A new resource is there a moment before its Secret is.
    body = await until(
        session.api,
        collection,
        body,
        lambda body: ready(body)[1] != ResourceReason.CREDENTIALS_UNRESOLVED,
        min(SETTLING_SECONDS, longest),
    )
    holds, reason, message = ready(body)
    if not reason:
        return Health(output=UNREGISTERED, status="failed")
    if holds == "True":
        version = ((body.get("status") or {}).get("server") or {}).get("version")
        return Health(output=f"PostgreSQL {version}" if version else reason, status=Outcome.SUCCESS.value)
    prefix = "missing required credentials: " if reason == ResourceReason.CREDENTIALS_MISSING else ""
    return Health(output=f"{reason}: {prefix}{message}", status=Outcome.FAILED.value)


async def health_of(session: Session, names: Sequence[str]) -> list[NamedHealth]:
    """What the operator found of several resources, in their order; what went wrong with one is told of that one.

    Raises
    ------
    ClusterError
        The API server does not know the caller.
    """

    async def one(name: str) -> NamedHealth:
        try:
            found = await health(session, name)
        except ClusterError as error:
            if error.status == 401:
                raise
            problem = problem_of(error)
            return NamedHealth(resource_name=name, output=problem.message, status=Outcome.FAILED.value)
        return NamedHealth(resource_name=name, output=found.output, status=found.status)

    return await asyncio.gather(*map(one, names))


async def find(session: Session, name: str) -> dict[str, Any]:
    """Return the HoopResource of a name, whoever made it.

    Raises
    ------
    ObjectNotFound
        There is none.
    ClusterError
        The API server failed us.
    """
    with suppress(ObjectNotFound):
        body = await session.api.get(paths.hoop_resource(session.namespace, resource_object_name(name)))
        if name_of(body) == name:
            return body
    # Made by hand, it may have any object's name.
    for body in await bodies(session):
        if name_of(body) == name:
            return body
    raise ObjectNotFound(NOT_FOUND, status=404)


async def object_name(session: Session, name: str) -> str:
    """Return the name of the HoopResource that has a name in the API.

    Whoever may not read resources, but may write plans, is told the name that this API would give it.

    Raises
    ------
    Problem
        422 where it is nothing that roles could be made on.
    ClusterError
        The API server failed us, or there is no such resource.
    """
    try:
        body = await find(session, name)
    except AccessDenied as error:
        if error.status == 401:
            raise
        return resource_object_name(name)
    subtype = body["spec"]["subtype"]
    if (body["spec"]["type"], subtype) != ("database", "postgres"):
        raise Problem(422, f'resource type not implemented: "{subtype}"')
    found: str = body["metadata"]["name"]
    return found


async def bodies(session: Session) -> list[dict[str, Any]]:
    """Return all HoopResources by their names in the API.

    Raises
    ------
    ClusterError
        The API server failed us.
    """
    found: list[dict[str, Any]] = []
    async with aclosing(session.api.pages(paths.hoop_resources(session.namespace))) as pages:
        async for page in pages:
            # An item of a list does not say what it is.
            found += [
                {"apiVersion": API_VERSION, "kind": HOOP_RESOURCE.kind, **item}
                for item in page["items"] or ()
            ]
    return sorted(found, key=name_of)


async def page_of(session: Session, page: int, size: int) -> ResourcePage:
    """Return one page of the resources.

    Raises
    ------
    ClusterError
        The API server failed us.
    """
    found = await bodies(session)
    data = [shown(body) for body in found[(page - 1) * size : page * size]]
    return ResourcePage(pages=Pages(total=len(found), page=page, size=size), data=data)


def name_of(body: Body) -> str:
    """The name of a HoopResource in the API."""
    name: str = body["spec"].get("resourceName") or body["metadata"]["name"]
    return name


def shown(body: Body) -> Resource:
    """Show a HoopResource as hoop does, but for the values of its variables."""
    metadata, spec = body["metadata"], body["spec"]
    remembered = (metadata.get("annotations") or {}).get(ENV_VARS, "")
    keys = {*filter(None, remembered.split(",")), *(spec.get("envVars") or {})}
    return Resource(
        id=metadata["uid"],
        name=name_of(body),
        type=spec["type"],
        subtype=spec["subtype"],
        agent_id=spec.get("agentId") or "",
        env_vars=dict.fromkeys(sorted(keys), HIDDEN),
        created_at=metadata["creationTimestamp"],
        updated_at=(body.get("status") or {}).get("updatedAt") or metadata["creationTimestamp"],
    )


def _taken_apart(env_vars: Mapping[str, str], field: str = "env_vars") -> _Credentials:
    decoded = decode(env_vars, field)
    if decoded.problems:
        raise Problem(400, "\n".join(decoded.problems))
    references = {key: env_vars[key] for key in references_in(env_vars)}
    return _Credentials(tuple(env_vars), decoded.variables, decoded.files, references)


def _declared(
    session: Session, name: str, change: ResourceChange, credentials: _Credentials
) -> tuple[dict[str, str], HoopResourceSpec]:
    """The annotations and the spec that say what is asked."""
    agent = change.agent_id or session.settings.agent_id
    with refusing_invalid():
        spec = HoopResourceSpec(
            type=change.type,
            subtype=change.subtype or change.type,
            agent_id=str(agent) if agent else None,
            env_vars=dict(credentials.references),
            env_vars_from=_from_secret(env_vars_secret_name(name), credentials),
        )
    return {ENV_VARS: ",".join(credentials.keys)}, spec


def _roles(
    resource_object: str, request: ResourceRequest, given: Sequence[_Credentials]
) -> tuple[ResourceRole, ...]:
    return tuple(
        ResourceRole(
            name=role.name,
            type=role.type,
            subtype=role.subtype,
            command=tuple(role.command),
            agent_id=str(role.agent_id) if role.agent_id else None,
            secret=dict(credentials.references),
            secret_from=_from_secret(role_secret_name(resource_object, role.name), credentials),
        )
        for role, credentials in zip(request.roles, given, strict=True)
    )


def _from_secret(name: str, credentials: _Credentials) -> tuple[EnvFrom, ...]:
    return (EnvFrom(secret_ref=LocalRef(name=name)),) if credentials.secret else ()


def _dumped(spec: HoopResourceSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)


async def _write_secret(session: Session, body: Body, name: str, credentials: _Credentials) -> None:
    """Have a Secret of a resource hold credentials, and nothing else of ours."""
    api, metadata = session.api, body["metadata"]
    owner = Owner(HOOP_RESOURCE.kind, metadata["name"], metadata["uid"])
    current = await read_secret(api, session.namespace, name)
    if current is not None:
        holder = current.owner
        if holder is None or (holder.kind, holder.name) != (owner.kind, owner.name):
            raise Problem(
                409, f"Secret {name} exists already and is not this resource's; it stays untouched: delete it"
            )
        if holder.uid != owner.uid or not credentials.secret:
            # A former resource's goes any moment.
            await delete_secret(api, current)
            current = None
    if not credentials.secret:
        return
    contents: dict[str, Any] = {
        "type": "Opaque",
        "data": credentials.secret,
        "owner": owner,
        "labels": {},
        "annotations": {FILES: ",".join(credentials.files)} if credentials.files else {},
    }
    if current is None:
        await create_secret(api, namespace=session.namespace, name=name, **contents)
    else:
        await update_secret(api, current, **contents)
