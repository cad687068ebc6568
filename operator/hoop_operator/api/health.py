"""What the operator found when it last looked at a resource."""

from collections.abc import Sequence

from hoop_operator.api.batches import each
from hoop_operator.api.resources import Session, find, looked_at, nobodys, observed
from hoop_operator.api.waiting import SETTLING_SECONDS, ready, until
from hoop_operator.api.wire import Health, NamedHealth
from hoop_operator.cluster import paths
from hoop_operator.crd import Outcome
from hoop_operator.errors import ResourceReason

UNREGISTERED = "the operator has not looked at it yet"
OUTDATED = "the operator has not looked at the latest change yet"
NOT_ASKED = "its credentials are there, no operator asks such a server anything"


async def health(session: Session, name: str) -> Health:
    """What the operator found when it last looked.

    Raises
    ------
    ClusterError
        The API server failed us, or there is no such resource.
    """
    collection, longest = paths.hoop_resources(session.namespace), session.settings.api_wait_seconds
    body = await looked_at(session, await find(session, name))
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
        return Health(output=nobodys(session, body) or UNREGISTERED, status=Outcome.FAILED.value)
    since = f", found {body['status'].get('updatedAt')}"
    if observed(body) != body["metadata"]["generation"]:
        since += f"; {OUTDATED}"
    if holds == "True":
        version = (body["status"].get("server") or {}).get("version")
        found = f"PostgreSQL {version}" if version else f"{reason}; {NOT_ASKED}"
        return Health(output=found + since, status=Outcome.SUCCESS.value)
    prefix = "missing required credentials: " if reason == ResourceReason.CREDENTIALS_MISSING else ""
    return Health(output=f"{reason}: {prefix}{message}{since}", status=Outcome.FAILED.value)


async def health_of(session: Session, names: Sequence[str]) -> list[NamedHealth]:
    """What the operator found of several resources, in their order; what went wrong with one is told of that one.

    Raises
    ------
    Problem
        401: the API server does not know the caller.
    """

    async def one(_: int, name: str) -> NamedHealth:
        found = await health(session, name)
        return NamedHealth(resource_name=name, output=found.output, status=found.status)

    def failed(name: str, message: str) -> NamedHealth:
        return NamedHealth(resource_name=name, output=message, status=Outcome.FAILED.value)

    return await each(names, one, failed)
