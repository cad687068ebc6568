"""Deleting a resource, which cannot be taken back: nothing may use it any more."""

import asyncio
from collections.abc import Set
from contextlib import suppress

from hoop_operator.api.plans import HTTP_API
from hoop_operator.api.problems import Problem
from hoop_operator.api.resources import OVERTAKEN, Session, find, plans_on
from hoop_operator.api.waiting import ATTEMPTS, SETTLING_SECONDS, Body, ready, until
from hoop_operator.cluster import paths
from hoop_operator.crd import HOOP_RESOURCE
from hoop_operator.crd.common import GROUP
from hoop_operator.errors import ClusterError, ObjectConflict, ObjectNotFound, PlanReason, ResourceReason
from hoop_operator.naming import RECONCILE_AT

NAMED_MAX = 10
"""How many plans are named that keep a resource."""


async def remove(session: Session, name: str) -> None:
    """Delete a resource, and with it the plans that were made here and never came to a role; wait until it is gone.

    Raises
    ------
    Problem
        403 where plans use it, 409 where others change it all the time, 503 where the operator is at work on a plan
        for too long or does not let go of the resource.
    ClusterError
        The API server failed us, or there is no such resource.
    """
    for _ in range(ATTEMPTS):
        body = await find(session, name)
        await _refuse_in_use(session, body)
        resource, version = body["metadata"]["name"], body["metadata"]["resourceVersion"]
        unapplied = {_request(plan) for plan in await plans_on(session, resource) if _is_unapplied(plan)}
        # The operator may have written on it meanwhile how many plans use it.
        with suppress(ObjectConflict):
            left: Body = await session.api.delete(
                paths.custom_object(body), uid=body["metadata"]["uid"], resource_version=version
            )
            break
    else:
        raise Problem(409, OVERTAKEN)
    if left.get("kind") == HOOP_RESOURCE.kind:
        collection, seconds = paths.hoop_resources(session.namespace), session.settings.api_wait_seconds
        with suppress(ObjectNotFound):
            left = await until(session.api, collection, left, _is_kept, seconds)
            why = ready(left)[2] if _is_kept(left) else "the operator has not let go of the resource yet"
            raise Problem(503, f"{why}; the resource is deleted when it does")
    with suppress(ClusterError):  # the resource is gone, and that is what was asked
        await _remove_unapplied(session, resource, unapplied)


async def _remove_unapplied(session: Session, resource: str, unapplied: Set[tuple[str, str | None]]) -> None:
    # The operator may be about to say of each that there is no such resource.
    for _ in range(ATTEMPTS):
        plans = await plans_on(session, resource)
        left = [plan for plan in plans if _is_unapplied(plan) and _request(plan) in unapplied]
        if not left:
            return
        for plan in left:
            uid, version = plan["metadata"]["uid"], plan["metadata"]["resourceVersion"]
            with suppress(ObjectConflict, ObjectNotFound):
                await session.api.delete(paths.custom_object(plan), uid=uid, resource_version=version)


def _request(plan: Body) -> tuple[str, str | None]:
    """What tells a request for a plan from a later one, which may be for another resource of the same name."""
    metadata = plan["metadata"]
    return metadata["uid"], (metadata.get("annotations") or {}).get(RECONCILE_AT)


def _is_unapplied(plan: Body) -> bool:
    """Whether a plan was made here, and has no role."""
    metadata = plan["metadata"]
    return not metadata.get("finalizers") and HTTP_API.items() <= (metadata.get("labels") or {}).items()


async def _refuse_in_use(session: Session, body: Body) -> None:
    """Refuse to delete a resource while plans use it, or are about to."""
    if not _is_held(body):
        return
    name = body["metadata"]["name"]
    plans = await asyncio.gather(*(_settled(session, plan) for plan in await plans_on(session, name)))
    users = sorted(plan["metadata"]["name"] for plan in plans if plan is not None and _has_role(plan))
    if not users:
        # The operator may not have written down yet that the last of them has gone.
        collection = paths.hoop_resources(session.namespace)
        body = await until(session.api, collection, body, lambda body: not _counted(body), SETTLING_SECONDS)
    more = max(_counted(body) - len(users), 0)
    if not users and not more:
        return
    remedy = ""
    if users:
        shown = " ".join(users[:NAMED_MAX]) + (" ..." if len(users) > NAMED_MAX else "")
        remedy = f"; run: kubectl -n {session.namespace} delete hrp {shown}"
    elsewhere = f", {more} of them in other namespaces" if more else ""
    raise Problem(
        403,
        f"cannot delete resource with existing connections: {len(users) + more} HoopRolePlans have roles on the "
        f"server{elsewhere}; delete these first{remedy}",
    )


def _counted(body: Body) -> int:
    """How many plans use a resource, in all namespaces, as the operator wrote down last."""
    count: int = (body.get("status") or {}).get("plans", 0)
    return count


async def _settled(session: Session, plan: Body) -> Body | None:
    """Return a plan when the operator has done what was last asked of it; None where it is gone by then."""
    collection = paths.hoop_role_plans(session.namespace)
    try:
        plan = await until(session.api, collection, plan, _is_settled, session.settings.api_wait_seconds)
    except ObjectNotFound:
        return None
    if not _is_settled(plan):
        raise Problem(
            503,
            f"the operator has not done yet what was asked of HoopRolePlan {session.namespace}/"
            f"{plan['metadata']['name']}; nothing was deleted: ask again later",
        )
    return plan


def _is_settled(plan: Body) -> bool:
    metadata, status = plan["metadata"], plan.get("status") or {}
    asked = (metadata.get("annotations") or {}).get(RECONCILE_AT)
    seen = (status.get("observedGeneration"), status.get("observedReconcileAt"))
    return "deletionTimestamp" in metadata or seen == (metadata["generation"], asked)


def _is_held(body: Body) -> bool:
    """Whether an object cannot go before the operator lets it."""
    return any(name.startswith(f"{GROUP}/") for name in body["metadata"].get("finalizers") or ())


def _has_role(plan: Body) -> bool:
    # Where it never was allowed to refer to its resource, a finalizer is not the operator's.
    was_refused = ready(plan)[1] == PlanReason.REFERENCE_NOT_ALLOWED and "role" not in plan["status"]
    return _is_held(plan) and not was_refused


def _is_kept(body: Body) -> bool:
    return ready(body)[1] == ResourceReason.IN_USE
