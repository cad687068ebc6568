"""Telling on an object that the operator's account lacks a right, without which nothing else can be told there."""

import logging
from collections.abc import Hashable, Mapping
from typing import Any

from hoop_operator.cluster.events import post_event
from hoop_operator.errors import AccessDenied, ClusterError
from hoop_operator.reconcile.context import Context

ACCESS_DENIED = "AccessDenied"

logger = logging.getLogger(__name__)


async def tell_trouble(
    context: Context, timer: Hashable, body: Mapping[str, Any], what: str, error: ClusterError
) -> None:
    """Log that the Kubernetes API failed us; where it denied something, post an event about the object, too.

    Parameters
    ----------
    context
        The means of every run.
    timer
        The name under which the clock will have it tried again: the event is posted with the first failure in a row.
    body
        The object that has to wait for that.
    what
        What does not go on, for the log: a sentence without its end.
    error
        How the API failed us.
    """
    logger.warning("%s: %s", what, error)
    if isinstance(error, AccessDenied) and not context.clock.is_failing(timer):
        await post_event(
            context.api, body, type="Warning", reason=ACCESS_DENIED, message=str(error), action="Reconcile"
        )
