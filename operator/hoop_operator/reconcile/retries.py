"""Which failed plans are tried again by a clock, and which are left to what wakes them."""

from collections.abc import Sequence

from hoop_operator.errors import PlanReason, ResourceReason
from hoop_operator.reconcile.admission import deciding_selector
from hoop_operator.reconcile.objects import Plan, Resource
from hoop_operator.reconcile.register import Registration

WOKEN_BY_CHANGE = frozenset(
    {
        PlanReason.INVALID_SPEC,
        PlanReason.GUARDRAIL_VIOLATION,
        PlanReason.UNSUPPORTED_RESOURCE,
        PlanReason.RESOURCE_NOT_FOUND,
        PlanReason.RESOURCE_NOT_READY,
        PlanReason.REFERENCE_NOT_ALLOWED,
    }
)
"""Only a change of the plan or of its resource can cure these, and both are watched."""


def is_tried_again(
    reason: PlanReason,
    plan: Plan,
    resource: Resource | None,
    registration: Registration | None,
    watch_namespaces: Sequence[str],
) -> bool:
    """Whether a failed plan has to be tried again although nothing is seen to have changed.

    Parameters
    ----------
    reason
        Why it failed.
    plan, resource, registration
        The plan, its resource and what that last came to, as far as they are known.
    watch_namespaces
        The operator's setting: the namespaces that are watched, none for all.
    """
    if reason not in WOKEN_BY_CHANGE:
        return True
    if reason is PlanReason.REFERENCE_NOT_ALLOWED:
        # Namespaces are not watched: their labels are asked for.
        is_watched = not watch_namespaces or plan.resource_key.namespace in watch_namespaces
        return not is_watched or deciding_selector(plan, resource) is not None
    # A deleted plan whose admin credentials are gone is let go as soon as its namespace goes too.
    return (
        plan.deleting
        and registration is not None
        and registration.reason is ResourceReason.CREDENTIALS_UNRESOLVED
    )
