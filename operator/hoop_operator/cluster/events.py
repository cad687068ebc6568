"""Events: what a person should learn from `kubectl describe`, beside the conditions."""

import logging
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ClusterError

REPORTING_CONTROLLER = "hoop.dev/operator"
NOTE_BYTES_MAX = 1024
"""The API server refuses a longer `note`; it counts bytes of UTF-8."""

logger = logging.getLogger(__name__)


async def post_event(
    api: KubernetesApi,
    regarding: Mapping[str, Any],
    *,
    type: Literal["Normal", "Warning"],  # noqa: A002 -- the field's name in the API
    reason: str,
    message: str,
    action: str,
) -> None:
    """Post an event about `regarding`, an object as it came from the API server, in its namespace.

    An event is a courtesy: when it cannot be posted, that is logged and nothing else comes of it. The caller
    sees to it that none is repeated.
    """
    metadata = regarding["metadata"]
    body = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"generateName": f"{metadata['name']}-", "namespace": metadata["namespace"]},
        "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": REPORTING_CONTROLLER,
        "reportingInstance": platform.node() or "unknown",
        "type": type,
        "reason": reason,
        "action": action,
        "note": _clip(message),
        "regarding": {
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
    }
    try:
        await api.create(paths.events(metadata["namespace"]), body)
    except ClusterError as error:
        logger.warning(
            "Could not post the event %s about %s %s/%s: %s",
            reason,
            regarding["kind"],
            metadata["namespace"],
            metadata["name"],
            error,
        )


def _clip(message: str) -> str:
    encoded = message.encode()
    if len(encoded) <= NOTE_BYTES_MAX:
        return message
    ellipsis = "…"
    return encoded[: NOTE_BYTES_MAX - len(ellipsis.encode())].decode(errors="ignore") + ellipsis
