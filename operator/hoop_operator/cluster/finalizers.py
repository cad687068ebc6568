"""Finalizers: put on and taken off such that nobody else's are ever lost."""

from collections.abc import Mapping
from typing import Any

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ObjectConflict, ObjectNotFound, ObjectRejected

ATTEMPTS = 5


async def add_finalizer(api: KubernetesApi, body: Mapping[str, Any], finalizer: str) -> Mapping[str, Any]:
    """Put our finalizer on an object, read before as `body`, and return it as stored.

    Raises `ObjectNotFound` when that very object is gone, `ObjectRejected` when it is being deleted already.
    """
    return await _patch_until_done(api, body, finalizer, wanted=True)


async def remove_finalizer(api: KubernetesApi, body: Mapping[str, Any], finalizer: str) -> Mapping[str, Any]:
    """Take our finalizer off an object, read before as `body`, and return what was stored last.

    Raises `ObjectNotFound` when that very object is gone.
    """
    return await _patch_until_done(api, body, finalizer, wanted=False)


async def _patch_until_done(
    api: KubernetesApi, body: Mapping[str, Any], finalizer: str, *, wanted: bool
) -> Mapping[str, Any]:
    path = paths.custom_object(body)
    uid = body["metadata"]["uid"]
    for attempt in range(1, ATTEMPTS + 1):
        metadata = body["metadata"]
        if metadata["uid"] != uid:
            raise ObjectNotFound(f"{path} of uid {uid} is gone, another object has its name", status=404)
        finalizers: list[str] = metadata.get("finalizers") or []
        if (finalizer in finalizers) is wanted:
            return body
        if wanted and "deletionTimestamp" in metadata:
            raise ObjectRejected(f"{path} is being deleted and takes no finalizer any more", status=422)
        try:
            return await api.json_patch(path, _operations(uid, finalizers, finalizer, wanted=wanted))
        except (ObjectConflict, ObjectRejected):
            # The object changed since it was read: a failed test is answered with 422.
            if attempt == ATTEMPTS:
                raise
            body = await api.get(path)
    raise AssertionError("the last attempt returns or raises")


def _operations(uid: str, finalizers: list[str], finalizer: str, *, wanted: bool) -> list[dict[str, Any]]:
    same_object = {"op": "test", "path": "/metadata/uid", "value": uid}
    if not wanted:
        position = f"/metadata/finalizers/{finalizers.index(finalizer)}"
        return [
            same_object,
            {"op": "test", "path": position, "value": finalizer},
            {"op": "remove", "path": position},
        ]
    # Testing for null is testing for absence: `add` would replace a list that somebody else has begun.
    return [
        same_object,
        {"op": "test", "path": "/metadata/finalizers", "value": finalizers or None},
        {"op": "add", "path": "/metadata/finalizers", "value": [*finalizers, finalizer]},
    ]
