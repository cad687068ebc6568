"""Which failed plans are tried again by a clock, and which are left to what wakes them."""

from hoop_operator.errors import PlanReason, ResourceReason
from hoop_operator.reconcile.admission import deciding_selector
from hoop_operator.reconcile.objects import Resource
from hoop_operator.reconcile.register import Registration
from hoop_operator.reconcile.run import Run
from hoop_operator.settings import Settings

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
    run: Run, resource: Resource | None, registration: Registration | None, settings: Settings
) -> bool:
    """Whether a failed plan has to be tried again although nothing is seen to have changed.

    Parameters
    ----------
    run
        How it failed.
    resource, registration
        Its resource and what that last came to, as far as they are known.
    settings
        The operator's.
    """
    plan, reason = run.plan, run.reason
    if reason not in WOKEN_BY_CHANGE or run.statements is not None:
        return True  # whatever was found to be wrong on the server may be put right there
    if reason is PlanReason.REFERENCE_NOT_ALLOWED:
        # Namespaces are not watched: their labels are asked for.
        is_watched = settings.watches(plan.resource_key.namespace)
        return not is_watched or deciding_selector(plan, resource) is not None
    # A deleted plan whose admin credentials are gone is let go as soon as its namespace goes too.
    return (
        plan.deleting
        and registration is not None
        and registration.reason is ResourceReason.CREDENTIALS_UNRESOLVED
    )
