"""Waiting until the operator has dealt with an object, by a watch of that one object."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Any

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ClusterUnavailable, ObjectNotFound

Body = Mapping[str, Any]

SETTLING_SECONDS = 3.0
"""How long what an object depends on may be missing before that is the answer: it may have been made just now."""

ATTEMPTS = 5
"""How often an object is read, checked and written that others write at the same time."""

RETRY_SECONDS = 1.0
"""Pause before an object is watched anew whose watch ended or broke off."""


async def until(
    api: KubernetesApi, collection: str, body: Body, holds: Callable[[Body], bool], seconds: float
) -> Body:
    """Return an object as soon as something holds of it, or as it is after that many seconds.

    Parameters
    ----------
    api
        The API server, asked as the caller.
    collection
        Path of all objects of that kind in the namespace.
    body
        The object as it was last seen; another one of that name is not waited for.
    holds
        Whether the waiting is over.
    seconds
        The longest wait.

    Raises
    ------
    ObjectNotFound
        The object is gone.
    ClusterError
        The API server failed us.
    """
    latest = [body]
    try:
        async with asyncio.timeout(seconds):
            while not holds(latest[0]):
                await _follow(api, collection, latest, holds)
    except TimeoutError:
        pass
    return latest[0]


async def _follow(
    api: KubernetesApi, collection: str, latest: list[Body], holds: Callable[[Body], bool]
) -> None:
    metadata = latest[0]["metadata"]
    try:
        events = api.watch(collection, metadata["resourceVersion"], name=metadata["name"])
        async with aclosing(events):
            async for event in events:
                if event["type"] == "DELETED":
                    raise ObjectNotFound(f"{metadata['name']} was deleted meanwhile", status=404)
                if event["type"] != "BOOKMARK":
                    latest[0] = event["object"]
                    if holds(latest[0]):
                        return
        # Of what stands in between it may have ended at once.
        await asyncio.sleep(RETRY_SECONDS)
    except ClusterUnavailable:
        await asyncio.sleep(RETRY_SECONDS)
        latest[0] = await api.get(paths.custom_object(latest[0]))


def ready(body: Body) -> tuple[str, str, str]:
    """Status, reason and message of an object's Ready condition; empty where there is none."""
    for condition in (body.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready":
            return condition["status"], condition["reason"], condition.get("message", "")
    return "", "", ""
