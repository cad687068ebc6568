"""Whether a plan may be carried out at all, asked anew on every run."""

from collections.abc import Collection, Mapping

from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.namespaces import matches, namespace_labels
from hoop_operator.crd import LabelSelector, NamespacesFrom
from hoop_operator.errors import PlanFailure, PlanReason
from hoop_operator.reconcile.objects import Key, Plan, Resource


async def check_admission(api: KubernetesApi, plan: Plan, resource: Resource | None) -> None:
    """See that a plan is not suspended and may refer to its resource.

    A resource of another namespace that is missing looks like one that is forbidden.

    Raises
    ------
    PlanFailure
        `Suspended` or `ReferenceNotAllowed`.
    """
    decides = deciding_selector(plan, resource) is not None
    admit(plan, resource, await namespace_labels(api, plan.key.namespace) if decides else None)


def deciding_selector(plan: Plan, resource: Resource | None) -> LabelSelector | None:
    """The selector of `spec.allowedNamespaces` that decides about a plan; None where no label of a namespace counts."""
    if plan.spec.suspend or resource is None or plan.key.namespace == plan.resource_key.namespace:
        return None
    allowed = resource.spec.allowed_namespaces
    return allowed.selector if allowed.from_ == NamespacesFrom.SELECTOR else None


def admit(plan: Plan, resource: Resource | None, labels: Mapping[str, str] | None) -> None:
    """See that a plan is not suspended and may refer to its resource.

    Parameters
    ----------
    plan
        The plan.
    resource
        Its resource, None where there is none.
    labels
        Those of the plan's namespace, needed where there is a `deciding_selector`; None where there is no namespace.

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
    selector = deciding_selector(plan, resource)
    if (
        selector is not None
        and labels is not None
        and matches(selector.model_dump(by_alias=True, exclude_none=True), labels)
    ):
        return
    raise PlanFailure(
        PlanReason.REFERENCE_NOT_ALLOWED,
        f"namespace {namespace} may not refer to HoopResource {plan.resource_key.name} in namespace "
        f"{plan.resource_key.namespace}, or there is none; its owner has to allow it in spec.allowedNamespaces",
    )


def usable(plan: Plan, resource: Resource | None) -> Resource:
    """The resource of a plan that may refer to it.

    Raises
    ------
    PlanFailure
        `ResourceNotFound`, or `ResourceNotReady` where it is being deleted.
    """
    if resource is None:
        raise PlanFailure(
            PlanReason.RESOURCE_NOT_FOUND,
            f"HoopResource {plan.resource_key.name} does not exist in namespace {plan.resource_key.namespace}; "
            f"create it, or make this plan anew with another spec.resourceRef",
        )
    if resource.deleting and not plan.has_finalizer:
        raise PlanFailure(
            PlanReason.RESOURCE_NOT_READY,
            f"HoopResource {resource.key.name} is being deleted and takes no new plans; delete this one, or wait "
            f"until the resource exists anew",
        )
    return resource


def not_ready(resource: Resource, why: str) -> PlanFailure:
    """The failure of a plan whose resource is not ready."""
    return PlanFailure(PlanReason.RESOURCE_NOT_READY, f"HoopResource {resource.key.name} is not ready: {why}")


def check_secret_name(plan: Plan, readers: Collection[Key]) -> None:
    """See that a plan does not make up the Secret that a HoopResource is waiting for: its server would be another.

    Parameters
    ----------
    plan
        The plan.
    readers
        The resources that read the Secret of that name, or write it for one of their roles.

    Raises
    ------
    PlanFailure
        `SecretConflict`.
    """
    if plan.status.get("secretName") != plan.secret_name and readers:
        raise PlanFailure(
            PlanReason.SECRET_CONFLICT,
            f"Secret {plan.secret_name} is for a HoopResource of this namespace; choose another spec.secretName",
        )
