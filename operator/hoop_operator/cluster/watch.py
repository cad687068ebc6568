"""What exists and what changed, without ever holding what is in it.

Watching whole Secrets would bring every Secret of the cluster into memory; the API server sends just the
metadata of each object when asked to.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ClusterError

OnChange = Callable[[str, str, str | None], None]
"""Called with namespace, name and resourceVersion of what appeared or changed; None when it is gone."""

RETRY_SECONDS_MIN = 1.0
RETRY_SECONDS_MAX = 30.0

METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_GONE = 410
_SAME_VERSION = {0, 429}
"""Statuses after which the watch goes on where it was: no answer, or a busy server. After any other, the
version itself may be at fault, and everything is listed anew."""

_Key = tuple[str, str]

logger = logging.getLogger(__name__)


async def watch_metadata(
    api: KubernetesApi, plural_path: str, on_change: OnChange, *, ready: asyncio.Event | None = None
) -> None:
    """Tell `on_change` about all objects of a collection, then about every change, until cancelled.

    Trouble with the API server is outlasted, logged once when it begins and once when it is over; what has
    changed or disappeared meanwhile is reported then. Several changes of one object may be reported as one.

    Parameters
    ----------
    plural_path
        Path of the collection: a kind, in the cluster or in one namespace.
    ready
        Set when all objects that there are at first have been reported.
    """
    known: dict[_Key, str] = {}
    version: str | None = None
    pause = RETRY_SECONDS_MIN
    trouble = False
    while True:
        try:
            if version is None:
                version = await _list(api, plural_path, known, on_change)
                if ready is not None:
                    ready.set()
            async with aclosing(api.watch(plural_path, version, accept=_METADATA)) as events:
                async for event in events:
                    version = _take(event, known, on_change)
                    pause = RETRY_SECONDS_MIN
                    if trouble:
                        logger.info("Watching %s again", plural_path)
                        trouble = False
        except ClusterError as error:
            if error.status not in _SAME_VERSION:
                version = None
            if error.status != _GONE and not trouble:
                logger.warning("Lost the watch, trying again until it is back: %s", error)
                trouble = True
        await asyncio.sleep(pause)
        pause = min(2 * pause, RETRY_SECONDS_MAX)


async def _list(api: KubernetesApi, path: str, known: dict[_Key, str], on_change: OnChange) -> str:
    """Bring `known` up to date, report the differences, and return the version from which to watch."""
    listed: dict[_Key, str] = {}
    version = ""
    async with aclosing(api.pages(path, accept=METADATA_LIST)) as pages:
        async for page in pages:
            version = page["metadata"]["resourceVersion"]
            for item in page["items"] or ():  # null when there are none
                listed[_key(item)] = item["metadata"]["resourceVersion"]
    for key in known.keys() - listed.keys():
        _forget(key, known, on_change)
    for key, item_version in listed.items():
        _remember(key, item_version, known, on_change)
    return version


def _take(event: dict[str, Any], known: dict[_Key, str], on_change: OnChange) -> str:
    """Take one event of the watch in and return the version that has been reached with it."""
    version: str = event["object"]["metadata"]["resourceVersion"]
    match event["type"]:
        case "ADDED" | "MODIFIED":
            _remember(_key(event["object"]), version, known, on_change)
        case "DELETED":
            _forget(_key(event["object"]), known, on_change)
    return version


def _key(item: dict[str, Any]) -> _Key:
    metadata = item["metadata"]
    return metadata["namespace"], metadata["name"]


def _remember(key: _Key, version: str, known: dict[_Key, str], on_change: OnChange) -> None:
    if known.get(key) != version:
        known[key] = version
        on_change(*key, version)


def _forget(key: _Key, known: dict[_Key, str], on_change: OnChange) -> None:
    if known.pop(key, None) is not None:
        on_change(*key, None)
