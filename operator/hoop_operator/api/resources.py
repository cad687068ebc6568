"""hoop's resources as HoopResources. Credentials go into a Secret that the object refers to, never into the object."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from hoop_operator.api.env_vars import (
    Credentials,
    contents_of,
    delete_former_secrets,
    from_secret,
    lacks_secret,
    taken_apart,
    write_secret,
)
from hoop_operator.api.problems import Problem, refusing_invalid
from hoop_operator.api.waiting import ATTEMPTS, SETTLING_SECONDS, Body, until
from hoop_operator.api.wire import (
    HIDDEN,
    Pages,
    Resource,
    ResourceChange,
    ResourcePage,
    ResourceReplacement,
    ResourceRequest,
)
from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.secrets import create_secret, delete_secret
from hoop_operator.crd import (
    API_VERSION,
    HOOP_RESOURCE,
    HOOP_ROLE_PLAN,
    HoopResourceSpec,
    ResourceRole,
)
from hoop_operator.errors import (
    AccessDenied,
    ClusterError,
    ClusterUnavailable,
    ObjectConflict,
    ObjectNotFound,
    ObjectRejected,
)
from hoop_operator.naming import env_vars_secret_name, resource_object_name, role_secret_name
from hoop_operator.settings import Settings

ENV_VARS = "hoop.dev/env-vars"
"""The annotation that remembers the keys of `env_vars`, so that to show them takes no right to read the Secret."""
NOT_FOUND = "resource not found"
TAKEN = "resource name already exists"
RENAMED = "delete the resource and create it anew"
OVERTAKEN = "another request changed the resource meanwhile"


@dataclass(frozen=True, slots=True)
class Session:
    """One request: who asks, where, and with which settings."""

    api: KubernetesApi
    settings: Settings

    @property
    def namespace(self) -> str:
        """The namespace that the objects are in."""
        return self.settings.api_namespace


async def create(session: Session, request: ResourceRequest) -> Resource:
    """Make a resource.

    Raises
    ------
    Problem
        400, or 409 where there is one of that name.
    ClusterError
        The API server failed us.
    """
    credentials = taken_apart(request.env_vars)
    given = [taken_apart(role.secret, f"roles.{index}.secret") for index, role in enumerate(request.roles)]
    name = resource_object_name(request.name)
    with suppress(ObjectNotFound):
        there = await find(session, request.name)
        raise Problem(409, await _taken(session, there, request.name))
    annotations, spec = _declared(session, env_vars_secret_name(name), request, credentials)
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
        there = await session.api.get(paths.hoop_resource(session.namespace, name))
        raise Problem(409, await _taken(session, there, request.name)) from None
    secrets = {env_vars_secret_name(name): credentials}
    secrets |= {
        role_secret_name(name, role.name): secret for role, secret in zip(request.roles, given, strict=True)
    }
    # At the same time: a resource is not to be without its credentials for long.
    outcomes = await asyncio.gather(
        *(write_secret(session.api, body, secret_name, secret) for secret_name, secret in secrets.items()),
        return_exceptions=True,
    )
    if failures := [outcome for outcome in outcomes if outcome is not None]:
        # Without its credentials nobody could do anything with it but this request once more.
        with suppress(ClusterError):
            await session.api.delete(paths.custom_object(body), uid=body["metadata"]["uid"])
        raise failures[0]
    return shown(body)


async def _taken(session: Session, body: Body, asked: str) -> str:
    """What to say of an object that has the name already which another one was to get."""
    if (other := name_of(body)) != asked:
        there = f"HoopResource {session.namespace}/{body['metadata']['name']}"
        return f"{TAKEN}: {there}, which goes by the name {other!r} here"
    if await lacks_secret(session.api, body):
        return f"{TAKEN}, without its credentials: if the request that made it was interrupted, delete it and ask again"
    return TAKEN


async def replace(session: Session, name: str, change: ResourceReplacement) -> Resource:
    """Give a resource other credentials, in place of all it had.

    Raises
    ------
    Problem
        400, or 403 where type or subtype would change.
    ClusterError
        The API server failed us, or there is no such resource.
    """
    credentials = taken_apart(change.env_vars)
    body = await find(session, name)
    if change.name not in {None, name}:
        raise Problem(400, f"name: must be that of the URL, or be left out: {RENAMED}")
    metadata, former = body["metadata"], body["spec"]
    if (change.type, change.subtype or former["subtype"]) != (former["type"], former["subtype"]):
        raise Problem(403, f"type and subtype cannot be changed: {RENAMED}")
    # Not the former one changed: the object would have new credentials although it refused what belongs to them.
    secret_name = f"{env_vars_secret_name(metadata['name'])}-{uuid4().hex[:10]}"
    annotations, spec = _declared(session, secret_name, change, credentials)
    wanted = _dumped(spec)
    env_vars = dict.fromkeys(former.get("envVars") or {}) | wanted.get("envVars", {})
    secret = None
    if credentials.secret:
        secret = await create_secret(
            session.api, session.namespace, secret_name, contents_of(body, credentials)
        )
    try:
        patched = await _patch(
            session,
            body,
            {
                "metadata": {"annotations": annotations},
                "spec": {
                    "agentId": wanted.get("agentId"),
                    "envVars": env_vars,
                    "envVarsFrom": wanted.get("envVarsFrom"),
                },
            },
        )
    except (ClusterError, Problem) as error:
        # Where there was no answer it may be that the object refers to it by now.
        if secret is not None and not isinstance(error, ClusterUnavailable):
            with suppress(ClusterError):
                await delete_secret(session.api, secret)
        raise
    # The former Secret is there until it is not used any more.
    with suppress(ClusterError):
        patched = await looked_at(session, patched)
    await delete_former_secrets(session.api, body)
    return shown(patched)


async def _patch(session: Session, body: Body, patch: Mapping[str, Any]) -> Body:
    """Change an object if its spec is as it was read; what the operator says of it meanwhile does not matter."""
    path, read = paths.custom_object(body), body["metadata"]
    metadata = read
    for _ in range(ATTEMPTS):
        versioned = {**patch["metadata"], "uid": read["uid"], "resourceVersion": metadata["resourceVersion"]}
        try:
            return await session.api.merge_patch(path, {**patch, "metadata": versioned})
        except ObjectConflict:
            metadata = (await session.api.get(path))["metadata"]
            if (metadata["uid"], metadata["generation"]) != (read["uid"], read["generation"]):
                break
    raise Problem(409, OVERTAKEN)


async def looked_at(session: Session, body: Body) -> Body:
    """Wait until the operator has looked at a resource as it is; less where it may be nobody's."""
    longest = session.settings.api_wait_seconds
    return await until(
        session.api,
        paths.hoop_resources(session.namespace),
        body,
        lambda body: observed(body) == body["metadata"]["generation"],
        longest if is_ours(session, body) or observed(body) else min(SETTLING_SECONDS, longest),
    )


def observed(body: Body) -> int | None:
    """Which generation of an object the operator last looked at; None before it looked."""
    generation: int | None = (body.get("status") or {}).get("observedGeneration")
    return generation


def is_ours(session: Session, body: Body) -> bool:
    """Whether the operator that this API is set up for serves a resource."""
    ours = str(session.settings.agent_id or "")
    return (body["spec"].get("agentId") or "").lower() == ours


def nobodys(session: Session, body: Body) -> str | None:
    """What is wrong with a resource that no operator has ever seen, if that is its agent id; None where it is not."""
    if is_ours(session, body) or observed(body):
        return None
    agent = body["spec"].get("agentId")
    said = f"agent_id {agent}" if agent else "agent_id is empty"
    ours = session.settings.agent_id
    remedy = f"with agent_id {ours}" if ours else "without agent_id"
    return (
        f"{said}: no operator with that HOOP_AGENT_ID has looked at the resource; an agent of a gateway is none: "
        f"PUT it {remedy}, or run an operator with that id"
    )


async def find(session: Session, name: str) -> dict[str, Any]:
    """Return the HoopResource of a name, whoever made it.

    Raises
    ------
    ObjectNotFound
        There is none.
    ClusterError
        The API server failed us.
    """
    found: dict[str, dict[str, Any]] = {}
    # Made by hand, it may have any object's name, and that may be what this API would have called it.
    for object_named in {resource_object_name(name), name}:
        with suppress(ObjectNotFound, ObjectRejected):
            body = await session.api.get(paths.hoop_resource(session.namespace, object_named))
            found[body["metadata"]["uid"]] = body
    for body in await _called(session, name):
        found[body["metadata"]["uid"]] = body
    there = sorted(body["metadata"]["name"] for body in found.values() if name_of(body) == name)
    if len(there) > 1:
        raise Problem(
            409, f"the HoopResources {' and '.join(there)} both go by the name {name!r}; delete one of them"
        )
    for body in found.values():
        if name_of(body) == name:
            return body
    raise ObjectNotFound(NOT_FOUND, status=404)


async def _called(session: Session, name: str) -> list[dict[str, Any]]:
    """The HoopResources with a `resourceName`."""
    escaped = re.sub(r"([\\,=])", r"\\\1", name)
    try:
        return await bodies(session, {"fieldSelector": f"spec.resourceName={escaped}"})
    except ObjectRejected:
        # Before Kubernetes 1.31 it selects custom objects by their names only.
        return await bodies(session)


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
        body: Body = await find(session, name)
    except AccessDenied as error:
        if error.status == 401:
            raise
        return resource_object_name(name)
    subtype = body["spec"]["subtype"]
    if (body["spec"]["type"], subtype) != ("database", "postgres"):
        raise Problem(422, f'resource type not implemented: "{subtype}"')
    if not is_ours(session, body):
        body = await looked_at(session, body)
    if problem := nobodys(session, body):
        raise Problem(422, problem)
    there: str = body["metadata"]["name"]
    return there


async def bodies(session: Session, query: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Return all HoopResources that a query selects, by their names in the API.

    Raises
    ------
    ClusterError
        The API server failed us.
    """
    found: list[dict[str, Any]] = []
    async with aclosing(session.api.pages(paths.hoop_resources(session.namespace), query)) as pages:
        async for page in pages:
            # An item of a list does not say what it is.
            found += [
                {"apiVersion": API_VERSION, "kind": HOOP_RESOURCE.kind, **item}
                for item in page["items"] or ()
            ]
    return sorted(found, key=name_of)


async def plans_on(session: Session, resource_object: str) -> list[dict[str, Any]]:
    """Return the HoopRolePlans of the namespace that refer to a HoopResource of it.

    Raises
    ------
    ClusterError
        The API server failed us.
    """
    try:
        found = await _plans(session, {"fieldSelector": f"spec.resourceRef.name={resource_object}"})
    except ObjectRejected:
        # Before Kubernetes 1.31 it selects custom objects by their names only.
        found = await _plans(session, {})
    return [
        {"apiVersion": API_VERSION, "kind": HOOP_ROLE_PLAN.kind, **item}
        for item in found
        if item["spec"]["resourceRef"]["name"] == resource_object
        and item["spec"]["resourceRef"].get("namespace") in {None, session.namespace}
    ]


async def _plans(session: Session, query: Mapping[str, str]) -> list[dict[str, Any]]:
    async with aclosing(session.api.pages(paths.hoop_role_plans(session.namespace), query)) as pages:
        return [item async for page in pages for item in page["items"] or ()]


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


def _declared(
    session: Session, secret_name: str, change: ResourceChange, credentials: Credentials
) -> tuple[dict[str, str], HoopResourceSpec]:
    """The annotations and the spec that say what is asked."""
    agent = change.agent_id or session.settings.agent_id
    with refusing_invalid():
        spec = HoopResourceSpec(
            type=change.type,
            subtype=change.subtype or change.type,
            agent_id=str(agent) if agent else None,
            env_vars=dict(credentials.references),
            env_vars_from=from_secret(secret_name, credentials),
        )
    return {ENV_VARS: ",".join(credentials.keys)}, spec


def _roles(
    resource_object: str, request: ResourceRequest, given: Sequence[Credentials]
) -> tuple[ResourceRole, ...]:
    return tuple(
        ResourceRole(
            name=role.name,
            type=role.type,
            subtype=role.subtype,
            command=tuple(role.command),
            agent_id=str(role.agent_id) if role.agent_id else None,
            secret=dict(credentials.references),
            secret_from=from_secret(role_secret_name(resource_object, role.name), credentials),
        )
        for role, credentials in zip(request.roles, given, strict=True)
    )


def _dumped(spec: HoopResourceSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
