"""Whether a plan may be carried out at all, asked anew on every run."""

from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.namespaces import matches, namespace_labels
from hoop_operator.crd import NamespacesFrom
from hoop_operator.errors import PlanFailure, PlanReason
from hoop_operator.reconcile.objects import Plan, Resource


async def check_admission(api: KubernetesApi, plan: Plan, resource: Resource | None) -> None:
    """See that a plan is not suspended and may refer to its resource.

    A resource of another namespace that is missing looks like one that is forbidden.

    Raises
    ------
    PlanFailure
        `Suspended` or `ReferenceNotAllowed`.
    """
    if plan.spec.suspend:
        raise PlanFailure(PlanReason.SUSPENDED, "spec.suspend is true: nothing is done until it is false")
    namespace = plan.key.namespace
    if plan.resource_key.namespace == namespace:
        return
    allowed = resource.spec.allowed_namespaces if resource is not None else None
    if allowed is not None and allowed.from_ == NamespacesFrom.ALL:
        return
    if allowed is not None and allowed.from_ == NamespacesFrom.SELECTOR and allowed.selector is not None:
        selector = allowed.selector.model_dump(by_alias=True, exclude_none=True)
        labels = await namespace_labels(api, namespace)
        if labels is not None and matches(selector, labels):
            return
    raise PlanFailure(
        PlanReason.REFERENCE_NOT_ALLOWED,
        f"namespace {namespace} may not refer to HoopResource {plan.resource_key.name} in namespace "
        f"{plan.resource_key.namespace}, or there is none; its owner has to allow it in spec.allowedNamespaces",
    )
