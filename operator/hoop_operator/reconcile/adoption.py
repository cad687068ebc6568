"""Taking over what is there already: which role and which Secret a plan's annotation lets it have."""

import json
from collections.abc import Collection
from dataclasses import replace

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.secrets import MANAGED_ANNOTATION, MANAGED_BY, Secret
from hoop_operator.crd import HOOP_ROLE_PLAN
from hoop_operator.errors import ClusterError, ObjectNotFound
from hoop_operator.naming import ADOPT
from hoop_operator.planner.adoption import named_plan
from hoop_operator.planner.model import Adoption, DesiredRole, Identity
from hoop_operator.reconcile.objects import Key, Plan

UNCLAIMED = "true"
"""The value of the annotation that means a role or Secret which nobody claims."""

VALUE_LENGTH_SHOWN = 100

DOMAINS_OF_OTHERS = ("kubernetes.io", "k8s.io", "helm.sh")
"""Secrets whose type is of these, or of a subdomain, are what the cluster or Helm works with."""

HELM_RELEASE_PREFIX = "sh.helm.release."


def adoption_of(plan: Plan, instance: str) -> Adoption | None:
    """What a plan's annotation asks for; None where there is no annotation.

    Raises
    ------
    ValueError
        The annotation has a value that means nothing.
    """
    value = plan.annotations.get(ADOPT)
    if value is None:
        return None
    if value == UNCLAIMED:
        return Adoption()
    named = named_plan(value)
    if named is None:
        raise ValueError(
            f"the annotation {ADOPT} is {json.dumps(value[:VALUE_LENGTH_SHOWN])}, which means nothing: set it to "
            f'"true" to take over a role or Secret that nobody claims, or to <namespace>/<plan> to take over the '
            f"role of a HoopRolePlan that does not exist any more, or remove it"
        )
    return Adoption(predecessor=Identity(instance, *named))


async def with_predecessor_asked_for(api: KubernetesApi, desired: DesiredRole) -> DesiredRole:
    """The same role, with what the API server says now about the plan whose role it may be.

    What no watch has told of yet, or not any more, is no proof that a plan does not exist.
    """
    adoption = desired.adoption
    if adoption is None or adoption.predecessor is None:
        return desired
    obstacle = await _existence(api, Key(adoption.predecessor.namespace, adoption.predecessor.plan))
    return replace(desired, adoption=replace(adoption, obstacle=obstacle))


async def _existence(api: KubernetesApi, key: Key) -> str | None:
    """In words, why a plan has to be taken for existing; None where there is none of that name."""
    try:
        body = await api.get(paths.hoop_role_plan(*key))
    except ObjectNotFound:
        return None
    except ClusterError as error:
        return (
            f"whether {HOOP_ROLE_PLAN.kind} {key} still exists could not be found out, it will be tried again: "
            f"{error}"
        )
    return still_there(key, deleting="deletionTimestamp" in body["metadata"])


def still_there(key: Key, *, deleting: bool = False) -> str:
    """In words, that a predecessor exists."""
    if deleting:
        return f"{HOOP_ROLE_PLAN.kind} {key} is being deleted and exists until it is gone"
    return (
        f"{HOOP_ROLE_PLAN.kind} {key} still exists: delete it first, with spec.deletionPolicy Retain, for otherwise "
        f"its role goes with it"
    )


def may_take_over(plan: Plan, secret: Secret, adoption: Adoption | None, readers: Collection[Key]) -> bool:
    """Whether a Secret that is not a plan's may become the plan's.

    Parameters
    ----------
    plan
        The plan.
    secret
        A Secret that does not belong to it.
    adoption
        What the plan's annotation asks for.
    readers
        The resources that read that Secret, or write it for one of their roles.
    """
    if adoption is None or adoption.obstacle or readers or _belongs_to_cluster_or_helm(secret):
        return False
    if secret.owner is None:
        return True
    predecessor = adoption.predecessor
    return (
        predecessor is not None
        and predecessor.namespace == plan.key.namespace
        and replace(plan.owner, name=predecessor.plan).is_successor_of(secret.owner)
    )


def is_what_we_wrote(secret: Secret, role: str) -> bool:
    """Whether a Secret without controller is the one that we wrote for a role: a backup may have lost its owner."""
    return (
        secret.owner is None
        and MANAGED_ANNOTATION in secret.annotations
        and MANAGED_BY.items() <= secret.labels.items()
        and secret.data.get("username") == role.encode()
    )


def _belongs_to_cluster_or_helm(secret: Secret) -> bool:
    domain, slash, _ = secret.type.partition("/")
    return (
        (bool(slash) and any(f".{domain}".endswith(f".{other}") for other in DOMAINS_OF_OTHERS))
        or secret.name.startswith(HELM_RELEASE_PREFIX)
        or secret.labels.get("owner") == "helm"
    )
