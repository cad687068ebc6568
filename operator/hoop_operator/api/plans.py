"""hoop's plan as a HoopRolePlan that waits for approval: the operator shows the SQL in its status, and sends none."""

from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

from hoop_operator.api.problems import Problem, refusing_invalid
from hoop_operator.api.resources import NOT_FOUND, Session, object_name
from hoop_operator.api.waiting import ATTEMPTS, SETTLING_SECONDS, Body, ready, until
from hoop_operator.api.wire import PlanRequest, PlanResult
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
    PlanReason,
    ResourceReason,
)
from hoop_operator.naming import (
    APPROVE,
    RECONCILE_AT,
    ROTATE_AT,
    plan_object_name,
    role_name,
)

ROTATE_ON_APPLY = "hoop.dev/rotate-on-apply"
"""The annotation that remembers, from a plan to its apply, that the password is to be rotated then."""

NOTHING_TO_DO = "nothing to do"
ROTATES = "-- gives the role a new password when applied"
OVERTAKEN = "another request changed the plan of this role meanwhile"
HTTP_API = {"app.kubernetes.io/managed-by": "hoop-api"}
"""The label of the plans that were made here, and go with their resource as long as they have no role."""

_UNSETTLED = {PlanReason.RESOURCE_NOT_FOUND, PlanReason.RESOURCE_NOT_READY}
FAILED = Outcome.FAILED.value
SUCCESS = Outcome.SUCCESS.value


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
        return PlanResult(sid="", resource_name=resource, role=role, status=FAILED, message=missing)
    asked = str(uuid4())
    body, made = await _write(session, resource_object, request, asked)
    collection = paths.hoop_role_plans(session.namespace)
    settling = min(SETTLING_SECONDS, session.settings.api_wait_seconds)
    answered = answers(body)
    body = await until(session.api, collection, body, answered, session.settings.api_wait_seconds)
    if answered(body) and ready(body)[1] in _UNSETTLED:
        body = await until(
            session.api, collection, body, lambda body: ready(body)[1] not in _UNSETTLED, settling
        )
    if not answered(body):
        return PlanResult(
            sid="", resource_name=resource, role=role, status=FAILED, message=_unanswered(session, body)
        )
    if problem := _refusal(body) or _of_another_name(body, resource, role):
        if made:
            # It would come to life by itself as soon as there is such a resource.
            with suppress(ClusterError):
                await session.api.delete(paths.custom_object(body), uid=body["metadata"]["uid"])
        raise problem
    status = body["status"]
    _, reason, message = ready(body)
    rotation = rotation_of(body, status["history"][0])
    if not session.settings.api_plan_applies and (rotation is not None) != request.rotate_password:
        raise Problem(409, OVERTAKEN)
    planned = reason in {PlanReason.APPLIED, PlanReason.PENDING_APPROVAL}
    return PlanResult(
        sid=status["sid"],
        resource_name=resource,
        role=status.get("role") or role,
        status=SUCCESS if planned else FAILED,
        message=_sql(status, rotates=rotation is not None) if planned else message,
    )


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
    path = paths.hoop_role_plan(session.namespace, name)
    for _ in range(ATTEMPTS):
        try:
            current = await session.api.get(path)
            _refuse_another(session, current, spec)
            of_it = {"uid": current["metadata"]["uid"], "annotations": annotations}
            return await session.api.merge_patch(path, {"metadata": of_it, "spec": former | fields}), False
        except ObjectNotFound:
            metadata = {
                "name": name,
                "labels": HTTP_API,
                "annotations": {key: value for key, value in annotations.items() if value},
            }
            made = {
                "apiVersion": API_VERSION,
                "kind": HOOP_ROLE_PLAN.kind,
                "metadata": metadata,
                "spec": fields,
            }
            with suppress(ObjectConflict):
                return await session.api.create(paths.hoop_role_plans(session.namespace), made), True
        except ObjectConflict:
            pass  # it is another object by now
    raise Problem(409, OVERTAKEN)


def _refuse_another(session: Session, current: Body, asked: HoopRolePlanSpec) -> None:
    """Refuse to write to an object of that name that was made by hand for something else."""
    known, name = current["spec"], f"HoopRolePlan {session.namespace}/{current['metadata']['name']}"
    reference, wanted = known["resourceRef"], asked.resource_ref.name
    namespace = reference.get("namespace", session.namespace)
    if (namespace, reference["name"]) != (session.namespace, wanted):
        raise Problem(
            409,
            f"{name} is for HoopResource {namespace}/{reference['name']}, and not for {session.namespace}/{wanted}: "
            f"delete it, or choose another role",
        )
    if known["type"] != asked.type:
        raise Problem(
            400,
            f"type: {name} is {known['type']}, which cannot be changed; to begin anew, run: "
            f"kubectl -n {session.namespace} delete hrp {current['metadata']['name']}",
        )


def answers(written: Body) -> Callable[[Body], bool]:
    """Whether a run has answered what was written; what it returns raises a `Problem` where that was overwritten."""
    generation = written["metadata"]["generation"]

    def answered(body: Body) -> bool:
        metadata, status = body["metadata"], body.get("status") or {}
        if metadata["generation"] != generation:
            raise Problem(409, OVERTAKEN)
        return bool(
            status.get("observedGeneration") == generation
            and status.get("observedReconcileAt") == (metadata.get("annotations") or {}).get(RECONCILE_AT)
        )

    return answered


def nobody_answered(session: Session) -> str:
    """What to say of an object that no operator has taken up in time."""
    agent = f" with HOOP_AGENT_ID={session.settings.agent_id}" if session.settings.agent_id else ""
    return f"no operator{agent} has answered within {session.settings.api_wait_seconds:g} s"


def _unanswered(session: Session, body: Body) -> str:
    return (
        f"{nobody_answered(session)}; what is asked is written down, in HoopRolePlan "
        f"{session.namespace}/{body['metadata']['name']}: ask again later, if the resource's agent_id is an operator's"
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


def rotation_of(body: Body, run: Body) -> str | None:
    """What the request asked for that a run answered: the value that rotates; None where it was no rotation."""
    wanted: str | None = (body["metadata"].get("annotations") or {}).get(ROTATE_ON_APPLY)
    return wanted if wanted is not None and wanted == run.get("reconcileAt") else None


def _sql(status: Body, *, rotates: bool) -> str:
    """The SQL of the last run, as much of it as a status holds, and what it will do besides."""
    run = status["history"][0]
    computed = status["plan"] if run.get("checksum") else {}
    lines: list[str] = list(computed.get("statements") or ())
    if (more := computed.get("count", 0) - len(lines)) > 0:
        lines.append(f"-- and {more} more")
    if rotates and not any(line.startswith("CREATE ROLE ") for line in lines):
        lines.append(ROTATES)
    return "\n".join(lines) or NOTHING_TO_DO
