"""What decides how a deleted plan goes: whether it ever used its server, which role it had, and how that is reached."""

from contextlib import suppress

from pydantic import ValidationError

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.credentials.connection import Connection
from hoop_operator.errors import ClusterError, ObjectNotFound, PlanFailure, PlanReason, ResourceReason
from hoop_operator.naming import role_name
from hoop_operator.reconcile.admission import check_admission
from hoop_operator.reconcile.context import Context
from hoop_operator.reconcile.objects import Key, Plan, Resource
from hoop_operator.reconcile.register import Registration, lacks_sources


async def never_began(context: Context, plan: Plan, resource: Resource | None) -> bool:
    """Whether a plan may not refer to its resource and never did: then somebody else put our finalizer on it.

    Raises
    ------
    ClusterError
        The API server failed us.
    """
    if plan.status.get("role"):
        return False
    try:
        await check_admission(context.api, plan, resource)
    except PlanFailure as failure:
        return failure.reason is PlanReason.REFERENCE_NOT_ALLOWED
    return False


def recorded_role(plan: Plan, registration: Registration | None) -> str | None:
    """The name of a plan's role as it derives from the resource's name in the status, or else from the resource.

    The role in the status is not taken at its word: who may write a status must not have any role dropped.
    """
    resource_name = plan.status.get("resourceName")
    if resource_name is None and registration is not None:
        resource_name = registration.resource.api_name
    with suppress(ValueError):
        return role_name(resource_name, plan.spec.role) if resource_name else None
    return None


async def connection_for_removal(context: Context, resource: Key) -> Connection | None:
    """A resource's connection, or the last one that worked where there will be no other.

    Raises
    ------
    ClusterError
        The API server failed us.
    """
    registration = context.memory.registrations.get(resource)
    if registration is not None and registration.ready:
        return registration.connection
    return context.memory.last_good.get(resource) if await is_gone_for_good(context, resource) else None


async def is_gone_for_good(context: Context, resource: Key) -> bool:
    """Whether a resource does not exist, or is going with its namespace and has lost its credentials already.

    Raises
    ------
    ClusterError
        The API server failed us.
    """
    if resource not in context.memory.resources:
        return True
    registration = context.memory.registrations.get(resource)
    return (
        registration is not None
        and registration.reason is ResourceReason.CREDENTIALS_UNRESOLVED
        # What is outside of the namespace, such as a secret in AWS, does not go with it and may answer later.
        and await lacks_sources(context.api, registration.resource)
        and await _namespace_terminates(context.api, resource.namespace)
    )


async def is_still_deleting(api: KubernetesApi, plan: Plan) -> bool:
    """Whether the API server, too, knows a plan as one that is to go; not where it cannot be asked."""
    try:
        now = Plan.parse(await api.get(paths.custom_object(plan.body)))
    except (ClusterError, ValidationError):
        return False
    return now.uid == plan.uid and now.deleting and now.has_finalizer


async def _namespace_terminates(api: KubernetesApi, name: str) -> bool:
    try:
        body = await api.get(paths.namespace(name))
    except ObjectNotFound:
        return True
    return "deletionTimestamp" in body["metadata"]
