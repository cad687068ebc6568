"""hoop's apply: it approves the checksum that belongs to a sid, and has the operator run again."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import uuid4

from hoop_operator.api.plans import (
    FAILED,
    NOTHING_TO_DO,
    OVERTAKEN,
    ROTATE_ON_APPLY,
    SUCCESS,
    answers,
    nobody_answered,
    rotation_of,
)
from hoop_operator.api.problems import Problem
from hoop_operator.api.resources import Session, object_name, plans_on
from hoop_operator.api.waiting import ATTEMPTS, Body, ready, until
from hoop_operator.api.wire import ApplyRequest, ApplyResult
from hoop_operator.cluster import paths
from hoop_operator.errors import ClusterError, ObjectConflict, ObjectNotFound, ObjectRejected, PlanReason
from hoop_operator.naming import APPROVE, RECONCILE_AT, ROTATE_AT, default_secret_name, resource_object_name

STALE = "The current database state does not match the desired migration state. Plan again, and apply that."
APPLIED_ALREADY = "applied already"
WITHDRAWN = "what was approved is not approved any more: plan again, and apply that"


async def apply(session: Session, resource: str, request: ApplyRequest) -> ApplyResult:
    """Apply what a plan showed, if it is still what is due.

    Raises
    ------
    Problem
        404 where no plan of that resource has the sid, 409 where it does not stand still.
    ClusterError
        The API server failed us.
    """
    for _ in range(ATTEMPTS):
        body = await _planned(session, resource, request.sid)
        wanted = _left_to_do(body, request.sid)
        if isinstance(wanted, _Answer):
            return wanted.result(resource, request)
        # Of this very version it was found that it may be approved; of any other it has to be found anew.
        checked = {key: body["metadata"][key] for key in ("uid", "resourceVersion")}
        try:
            approved = await session.api.merge_patch(
                paths.custom_object(body), {"metadata": {**checked, "annotations": wanted}}
            )
        except ObjectConflict:
            continue
        return (await _outcome(session, approved, wanted)).result(resource, request)
    raise Problem(409, OVERTAKEN)


class _Answer(NamedTuple):
    """How an apply ends."""

    status: Any
    message: str
    sid: str | None = None
    """That of the run which says so; None for the one that was asked for."""

    def result(self, resource: str, request: ApplyRequest) -> ApplyResult:
        sid = request.sid if self.sid is None else self.sid
        return ApplyResult(sid=sid, resource_name=resource, status=self.status, message=self.message)


def _left_to_do(body: Body, sid: str) -> "_Answer | dict[str, str | None]":
    """The annotations that have the plan of a sid applied, or why there is nothing to apply."""
    status, metadata = body["status"], body["metadata"]
    run = next((entry for entry in status.get("history") or () if entry["sid"] == sid), None)
    if run is not None and run["status"] == FAILED:
        return _Answer(FAILED, f"that plan failed: {run.get('message', '')}; plan again")
    if run is None or sid == status.get("lastAppliedSid"):
        return _Answer("skipped", APPLIED_ALREADY)
    _, reason, message = ready(body)
    if reason == PlanReason.SUSPENDED:
        return _Answer(FAILED, message)
    checksum, rotation = run.get("checksum"), rotation_of(body, run)
    if checksum is not None and checksum == _applied_checksum(status):
        if rotation is None:
            return _Answer("skipped", f"{APPLIED_ALREADY}, by the run {status['lastAppliedSid']}")
        checksum = None
    # The statements may be the same for another spec, on a database without tables: who approves means what they read.
    if run.get("generation") != metadata["generation"] or checksum != _due(body):
        return _Answer(FAILED, STALE)
    if checksum is None and rotation is None:
        return _Answer("skipped", NOTHING_TO_DO)
    wanted: dict[str, str | None] = {RECONCILE_AT: str(uuid4())}
    if checksum is not None:
        wanted[APPROVE] = checksum
    if rotation is not None:
        wanted |= {ROTATE_AT: rotation, ROTATE_ON_APPLY: None}
    return wanted


async def _outcome(session: Session, approved: Body, wanted: Mapping[str, str | None]) -> _Answer:
    """Wait until a plan is applied, and say how that went.

    What has not been applied is not approved any more then.
    """
    metadata = approved["metadata"]
    answered = answers(approved)
    collection, longest = paths.hoop_role_plans(session.namespace), session.settings.api_wait_seconds
    try:
        body = await until(session.api, collection, approved, answered, longest)
        is_answered = answered(body)
    except BaseException:
        await _take_back(session, approved, wanted)
        raise
    status = body.get("status") or {}
    _, reason, message = ready(body)
    is_applied = APPROVE in wanted and wanted[APPROVE] == _applied_checksum(status)
    if is_applied or (is_answered and reason == PlanReason.APPLIED):
        secret = status.get("secretName") or default_secret_name(metadata["name"])
        where = f"the credentials are in the Secret {secret} of namespace {session.namespace}"
        return _Answer(SUCCESS, where, status["lastAppliedSid"] if is_applied else status["sid"])
    kept = await _take_back(session, approved, wanted)
    if not is_answered:
        return _Answer(FAILED, f"{nobody_answered(session)}; {kept or WITHDRAWN}", "")
    if reason == PlanReason.PENDING_APPROVAL:
        return _Answer(FAILED, f"{STALE} {kept}".rstrip(), status["sid"])
    return _Answer(FAILED, f"{message}; {kept or WITHDRAWN}", status["sid"])


def _place(annotation: str) -> str:
    """Where an annotation is, as a JSON pointer (RFC 6901, section 3)."""
    return "/metadata/annotations/" + annotation.replace("~", "~0").replace("/", "~1")


async def _take_back(session: Session, approved: Body, wanted: Mapping[str, str | None]) -> str:
    """Withdraw an approval that is still ours, and what came with it; return what is wrong where that is not possible.

    Otherwise what was answered to have failed would be applied as soon as the server is again as it was planned for.
    """
    metadata, left = approved["metadata"], approved
    for name, what in ((APPROVE, "approval"), (ROTATE_AT, "rotation")):
        if (value := wanted.get(name)) is None:
            continue
        operations: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
            {"op": "test", "path": _place(name), "value": value},
            {"op": "remove", "path": _place(name)},
        ]
        if name == ROTATE_AT:
            # The operator remembers that value: one that it has acted on rotates nothing when it comes again.
            operations.append({"op": "add", "path": _place(ROTATE_ON_APPLY), "value": value})
        try:
            left = await session.api.json_patch(paths.custom_object(approved), operations)
        except (ObjectRejected, ObjectNotFound):
            continue  # another request has withdrawn it, by asking for something else
        except ClusterError as error:
            return (
                f"the {what} could not be withdrawn ({error}); withdraw it, run: kubectl -n {session.namespace} "
                f"annotate hrp {metadata['name']} {name}-"
            )
    before, after = ((body.get("status") or {}).get("lastAppliedSid") for body in (approved, left))
    return "it is being applied: apply the same sid again to see what became of it" if before != after else ""


def _due(body: Body) -> str | None:
    """The checksum of what waits for approval; None where nothing does."""
    waits = any(
        condition["type"] == "PendingApproval" and condition["status"] == "True"
        for condition in body["status"].get("conditions") or ()
    )
    checksum: str | None = body["status"]["plan"]["checksum"] if waits else None
    return checksum


def _applied_checksum(status: Body) -> str | None:
    """The checksum of the plan that was applied last; None where that failed, or is too long ago."""
    for run in status.get("history") or ():
        if run["sid"] == status.get("lastAppliedSid") and run["status"] == SUCCESS:
            checksum: str | None = run.get("checksum")
            return checksum
    return None


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
