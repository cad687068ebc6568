"""hoop's plan and apply as HoopRolePlans that wait for approval.

plan    writes what is asked and has the operator run: it shows the SQL in the status, and sends none
apply   approves the checksum that belongs to a sid, and has the operator run again
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from uuid import uuid4

from hoop_operator.api.problems import UNAUTHENTICATED, Problem, problem_of, refusing_invalid
from hoop_operator.api.resources import NOT_FOUND, Session, object_name, plans_on
from hoop_operator.api.waiting import SETTLING_SECONDS, Body, ready, until
from hoop_operator.api.wire import (
    ApplyItem,
    ApplyRequest,
    ApplyResult,
    PlanItem,
    PlanRequest,
    PlanResult,
)
from hoop_operator.cluster import paths
from hoop_operator.crd import (
    API_VERSION,
    HOOP_ROLE_PLAN,
    Approval,
    HoopRolePlanSpec,
    Outcome,
    PlanType,
    Privilege,
    ResourceRef,
)
from hoop_operator.errors import (
    ClusterError,
    ObjectConflict,
    ObjectNotFound,
    ObjectRejected,
    PlanReason,
    ResourceReason,
)
from hoop_operator.naming import (
    APPROVE,
    RECONCILE_AT,
    ROTATE_AT,
    default_secret_name,
    plan_object_name,
    resource_object_name,
    role_name,
)

ROTATE_ON_APPLY = "hoop.dev/rotate-on-apply"
"""The annotation that remembers, from a plan to its apply, that the password is to be rotated then."""

STALE = "The current database state does not match the desired migration state. Plan again, and apply that."
NOTHING_TO_DO = "nothing to do"

_UNSETTLED = {PlanReason.RESOURCE_NOT_FOUND, PlanReason.RESOURCE_NOT_READY}
_FAILED = Outcome.FAILED.value
_SUCCESS = Outcome.SUCCESS.value

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


async def plan(session: Session, resource: str, request: PlanRequest) -> PlanResult:
    """Plan a role, and apply nothing unless the settings say so.

    Raises
    ------
    Problem
        400, 404, or 422 where no role can be made on the resource.
    ClusterError
        The API server failed us.
    """
    # First of all, for with it the Kubernetes API has said whether it knows the caller.
    resource_object = await object_name(session, resource)
    try:
        role = role_name(resource, request.role)
    except ValueError as error:
        raise Problem(400, f"role: {error}") from None
    if missing := _missing(request):
        return PlanResult(sid="", resource_name=resource, role=role, status=_FAILED, message=missing)
    asked = str(uuid4())
    body, made = await _write(session, resource_object, request, asked)
    collection = paths.hoop_role_plans(session.namespace)
    settling = min(SETTLING_SECONDS, session.settings.api_wait_seconds)
    answered = _answers(body)
    body = await until(session.api, collection, body, answered, session.settings.api_wait_seconds)
    if answered(body) and ready(body)[1] in _UNSETTLED:
        body = await until(
            session.api, collection, body, lambda body: ready(body)[1] not in _UNSETTLED, settling
        )
    if not answered(body):
        return PlanResult(
            sid="", resource_name=resource, role=role, status=_FAILED, message=_unanswered(session, body)
        )
    if problem := _refusal(body) or _of_another_name(body, resource, role):
        if made:
            # It would come to life by itself as soon as there is such a resource.
            with suppress(ClusterError):
                await session.api.delete(paths.custom_object(body), uid=body["metadata"]["uid"])
        raise problem
    status = body["status"]
    _, reason, message = ready(body)
    planned = reason in {PlanReason.APPLIED, PlanReason.PENDING_APPROVAL}
    return PlanResult(
        sid=status["sid"],
        resource_name=resource,
        role=status.get("role") or role,
        status=_SUCCESS if planned else _FAILED,
        message=_sql(status) if planned else message,
    )


async def apply(session: Session, resource: str, request: ApplyRequest) -> ApplyResult:
    """Apply what a plan showed, if it is still what is due.

    Raises
    ------
    Problem
        404 where no plan of that resource has the sid.
    ClusterError
        The API server failed us.
    """
    body: Body = await _planned(session, resource, request.sid)
    status, metadata = body["status"], body["metadata"]
    annotations = metadata.get("annotations") or {}

    def result(outcome: Any, message: str, sid: str = request.sid) -> ApplyResult:
        return ApplyResult(sid=sid, resource_name=resource, status=outcome, message=message)

    run = next((entry for entry in status.get("history") or () if entry["sid"] == request.sid), None)
    if run is None or request.sid == status.get("lastAppliedSid"):
        return result("skipped", "applied already")
    if run["status"] == _FAILED:
        return result(_FAILED, f"that plan failed: {run.get('message', '')}; plan again")
    _, reason, message = ready(body)
    if reason == PlanReason.SUSPENDED:
        return result(_FAILED, message)
    approved, due = run.get("checksum"), _due(body)
    rotate = annotations.get(ROTATE_ON_APPLY)
    if approved != due:
        return result(_FAILED, STALE)
    if approved is None and rotate is None:
        return result("skipped", NOTHING_TO_DO)
    wanted = {RECONCILE_AT: str(uuid4()), ROTATE_ON_APPLY: None}
    if approved is not None:
        wanted[APPROVE] = approved
    if rotate is not None:
        wanted[ROTATE_AT] = rotate
    patched = await session.api.merge_patch(
        paths.custom_object(body),
        {"metadata": {"uid": metadata["uid"], "annotations": wanted}},
    )
    answered = _answers(patched)
    body = await until(
        session.api,
        paths.hoop_role_plans(session.namespace),
        patched,
        answered,
        session.settings.api_wait_seconds,
    )
    if not answered(body):
        return result(_FAILED, _unanswered(session, body), sid="")
    sid = body["status"]["sid"]
    _, reason, message = ready(body)
    if reason == PlanReason.APPLIED:
        secret = body["status"].get("secretName") or default_secret_name(metadata["name"])
        return result(
            _SUCCESS, f"the credentials are in the Secret {secret} of namespace {session.namespace}", sid
        )
    return result(_FAILED, STALE if reason == PlanReason.PENDING_APPROVAL else message, sid)


async def plan_all(session: Session, items: Sequence[PlanItem]) -> list[PlanResult]:
    """Plan several roles at the same time; what goes wrong with one is told of that one.

    Raises
    ------
    Problem
        401: the API server does not know the caller.
    """

    def failed(item: PlanItem, message: str) -> PlanResult:
        role = ""
        with suppress(ValueError):
            role = role_name(item.resource_name, item.role)
        return PlanResult(
            sid="", resource_name=item.resource_name, role=role, status=_FAILED, message=message
        )

    return await _each(items, lambda item: plan(session, item.resource_name, item), failed)


async def apply_all(session: Session, items: Sequence[ApplyItem]) -> list[ApplyResult]:
    """Apply several plans at the same time; what goes wrong with one is told of that one.

    Raises
    ------
    Problem
        401: the API server does not know the caller.
    """

    def failed(item: ApplyItem, message: str) -> ApplyResult:
        return ApplyResult(sid=item.sid, resource_name=item.resource_name, status=_FAILED, message=message)

    return await _each(items, lambda item: apply(session, item.resource_name, item), failed)


async def _each(
    items: Sequence[_Item],
    work: Callable[[_Item], Awaitable[_Result]],
    failed: Callable[[_Item, str], _Result],
) -> list[_Result]:
    async def one(item: _Item) -> _Result:
        try:
            return await work(item)
        except ClusterError as error:
            problem = problem_of(error)
        except Problem as raised:
            problem = raised
        if problem.status == UNAUTHENTICATED.status:
            raise problem
        return failed(item, problem.message)

    return await asyncio.gather(*map(one, items))


def _missing(request: PlanRequest) -> str | None:
    """What hoop says of a plan that lacks what its type needs; None where it has that."""
    if request.type is PlanType.EXTERNAL:
        return None if request.source_role else "source_role is required for type=external"
    if not request.scopes:
        return "scopes is required for type=managed"
    return None if request.privileges else "privileges is required for type=managed"


async def _write(
    session: Session, resource_object: str, request: PlanRequest, asked: str
) -> tuple[Body, bool]:
    """Write what is asked, and return the object and whether it was not there before."""
    managed = request.type is PlanType.MANAGED
    at_once = session.settings.api_plan_applies
    with refusing_invalid():
        spec = HoopRolePlanSpec(
            resource_ref=ResourceRef(name=resource_object),
            type=request.type,
            role=request.role,
            scopes=tuple(request.scopes) if managed else (),
            privileges=tuple(map(Privilege, request.privileges)) if managed else (),
            source_role=None if managed else request.source_role,
            approval=Approval.AUTOMATIC if at_once else Approval.MANUAL,
        )
    fields = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    name = plan_object_name(resource_object, request.role)
    # An approval that was not used yet was of another plan, even where that has the same statements.
    annotations = {RECONCILE_AT: asked, APPROVE: None, ROTATE_ON_APPLY: None}
    if request.rotate_password:
        annotations[ROTATE_AT if at_once else ROTATE_ON_APPLY] = asked
    former = dict.fromkeys(("scopes", "privileges", "sourceRole", "rotatePassword", "approval"))
    patch = {"metadata": {"annotations": annotations}, "spec": former | fields}
    path = paths.hoop_role_plan(session.namespace, name)
    try:
        return await session.api.merge_patch(path, patch), False
    except ObjectNotFound:
        pass
    except ObjectRejected as error:
        causes = [cause.replace("the object", f"HoopRolePlan {name}") for cause in error.causes]
        raise ObjectRejected(str(error), status=error.status, causes=causes) from None
    try:
        body = await session.api.create(
            paths.hoop_role_plans(session.namespace),
            {
                "apiVersion": API_VERSION,
                "kind": HOOP_ROLE_PLAN.kind,
                "metadata": {
                    "name": name,
                    "annotations": {key: value for key, value in annotations.items() if value},
                },
                "spec": fields,
            },
        )
    except ObjectConflict:
        return await session.api.merge_patch(path, patch), False
    return body, True


def _answers(written: Body) -> Callable[[Body], bool]:
    """Whether a run has answered what was written, or that has been overwritten."""
    generation = written["metadata"]["generation"]

    def answered(body: Body) -> bool:
        metadata, status = body["metadata"], body.get("status") or {}
        if metadata["generation"] != generation:
            raise Problem(409, "another request changed the plan of this role meanwhile")
        return bool(
            status.get("observedGeneration") == generation
            and status.get("observedReconcileAt") == (metadata.get("annotations") or {}).get(RECONCILE_AT)
        )

    return answered


def _unanswered(session: Session, body: Body) -> str:
    agent = f" with HOOP_AGENT_ID={session.settings.agent_id}" if session.settings.agent_id else ""
    return (
        f"no operator{agent} has answered within {session.settings.api_wait_seconds:g} s; what is asked is written "
        f"down, in HoopRolePlan {session.namespace}/{body['metadata']['name']}: ask again later"
    )


def _refusal(body: Body) -> Problem | None:
    """What keeps any role from being made on the resource; None where nothing does."""
    _, reason, message = ready(body)
    if reason == PlanReason.RESOURCE_NOT_FOUND:
        return Problem(404, f"{NOT_FOUND}: {message}")
    if reason == PlanReason.UNSUPPORTED_RESOURCE:
        return Problem(422, message)
    if reason == PlanReason.RESOURCE_NOT_READY and ResourceReason.CREDENTIALS_MISSING in message:
        what = message.partition(f"{ResourceReason.CREDENTIALS_MISSING}: ")[2]
        return Problem(422, f"resource is missing required credentials: {what or message}")
    return None


def _of_another_name(body: Body, resource: str, role: str) -> Problem | None:
    """What is wrong where the object is not the resource that was meant: who may not read it could only guess."""
    made = body["status"].get("role") or role
    if made == role:
        return None
    return Problem(
        409,
        f"HoopResource {body['spec']['resourceRef']['name']} goes by another name than {resource!r} here, and would be "
        f"given {made} instead of {role}: ask with a token that may read HoopResources",
    )


def _due(body: Body) -> str | None:
    """The checksum of what waits for approval; None where nothing does."""
    waits = any(
        condition["type"] == "PendingApproval" and condition["status"] == "True"
        for condition in body["status"].get("conditions") or ()
    )
    checksum: str | None = body["status"]["plan"]["checksum"] if waits else None
    return checksum


def _sql(status: Body) -> str:
    """The SQL of the last run, as much of it as a status holds."""
    run = status["history"][0]
    if not run.get("checksum"):
        return NOTHING_TO_DO
    computed = status["plan"]
    statements: list[str] = list(computed.get("statements") or ())
    more = computed["count"] - len(statements)
    return "\n".join([*statements, f"-- and {more} more"] if more else statements)


async def _planned(session: Session, resource: str, sid: str) -> dict[str, Any]:
    """Return the plan of a resource of which a run has that sid."""
    try:
        resource_object = await object_name(session, resource)
    except ObjectNotFound:
        resource_object = resource_object_name(resource)
    for body in await plans_on(session, resource_object):
        status = body.get("status") or {}
        runs = {status.get("lastAppliedSid"), *(entry["sid"] for entry in status.get("history") or ())}
        if sid in runs | {status.get("sid")}:
            return body
    raise Problem(404, f"no plan of resource {resource} has the sid {sid}")
