"""A plan's Secret: the truth for the password, and never somebody else's."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.cluster.secrets import (
    Secret,
    SecretContents,
    create_secret,
    delete_secret,
    read_held,
    read_secret,
    release_secret,
    replace_secret,
    update_secret,
)
from hoop_operator.crd import SecretTemplate
from hoop_operator.errors import NameTaken, ObjectConflict, ObjectRejected, Overtaken, PlanFailure, PlanReason
from hoop_operator.naming import ADOPT, secret_holder_name
from hoop_operator.planner.model import Adoption, DesiredRole
from hoop_operator.reconcile.adoption import UNCLAIMED, is_what_we_wrote, may_take_over
from hoop_operator.reconcile.objects import Key, Plan
from hoop_operator.reconcile.rotation import UNKNOWN, Record, read_record

DEFAULT_TYPE = "servicebinding.io/postgresql"


@dataclass(frozen=True, slots=True)
class PlanSecret:
    """The Secret of a plan as it was found."""

    current: Secret | None
    """None where there is none, or it is about to go."""
    password: str | None = field(repr=False)
    """The password in it, or in what goes on in it; None where there is none or it is empty."""
    record: Record = UNKNOWN
    """What it says of that password."""
    adopted: bool = False
    """Whether it is somebody else's as yet, and becomes the plan's when it is written."""
    held: Secret | None = None
    """As it was before it was deleted to be replaced; None where it is there, or was not cut short in that."""


NOTHING = PlanSecret(None, None)


async def find(
    api: KubernetesApi, plan: Plan, desired: DesiredRole, readers: Collection[Key] = ()
) -> PlanSecret:
    """Read a plan's Secret, or the one that it takes over.

    Parameters
    ----------
    api
        The API server.
    plan
        The plan.
    desired
        What it asks for.
    readers
        The resources that read the Secret of that name, or write it for one of their roles.

    Raises
    ------
    PlanFailure
        `SecretConflict`: a Secret of that name is not this plan's.
    Overtaken
        The plan is being deleted, and its Secret left behind.
    ClusterError
        The API server failed us.
    """
    secret = await read_secret(api, plan.key.namespace, plan.secret_name)
    if secret is None or secret.deleting:
        return await _find_predecessor(api, plan, desired)
    owner = secret.owner
    if owner is not None and plan.owner.is_successor_of(owner):
        return _found(secret)
    if is_what_we_wrote(secret, desired.name):
        await _insist_on_being_wanted(api, plan)
        return _found(secret)
    if may_take_over(plan, secret, desired.adoption, readers):
        return replace(_found(secret), adopted=True)
    if secret.is_marked:
        # It was to be taken over, and stays whose it is.
        await release_secret(api, plan.key.namespace, plan.owner)
    controller = f"is controlled by {owner.kind} {owner.name}" if owner else "was not created by this plan"
    remedy = "choose another spec.secretName"
    if may_take_over(plan, secret, Adoption(), readers):
        remedy += (
            f', or, if it is to be this plan\'s, take it over with the annotation {ADOPT}: "{UNCLAIMED}"'
        )
    raise PlanFailure(
        PlanReason.SECRET_CONFLICT,
        f"Secret {secret.name} exists already and {controller}; it stays untouched: {remedy}",
    )


async def _find_predecessor(api: KubernetesApi, plan: Plan, desired: DesiredRole) -> PlanSecret:
    """What goes on in a Secret that is not there: the one of the former name, or the one that it was to replace.

    Whether that might be replaced was decided when it was there.
    """
    former = await _read_former(api, plan)
    if former is not None:
        return replace(_found(former), current=None)
    held = await read_held(api, plan.key.namespace, plan.owner)
    if held is None:
        return NOTHING
    was_ours = (held.owner is not None and plan.owner.is_successor_of(held.owner)) or is_what_we_wrote(
        held, desired.name
    )
    return replace(_found(held), current=None, adopted=not was_ours, held=held)


async def _insist_on_being_wanted(api: KubernetesApi, plan: Plan) -> None:
    """See that a plan is not being deleted, whatever the watches have told: `--cascade=orphan` disowns its Secret."""
    now = await api.get(paths.custom_object(plan.body))
    if now["metadata"]["uid"] != plan.uid or "deletionTimestamp" in now["metadata"]:
        raise Overtaken(f"HoopRolePlan {plan.key} is being deleted")


async def write(
    api: KubernetesApi, plan: Plan, found: PlanSecret, data: Mapping[str, str], record: Record
) -> tuple[Secret, bool]:
    """Make a plan's Secret hold `data` and say `record`, and tell whether anything had to be written for that.

    A Secret of an earlier object, about to be collected with that object, is replaced.

    Raises
    ------
    PlanFailure
        `SecretConflict`: what somebody did to the Secret keeps it from being changed.
    ObjectConflict
        It has changed since it was read.
    ClusterError
        The API server failed us.
    """
    template = plan.spec.secret_template or SecretTemplate()
    contents = SecretContents(
        template.type or DEFAULT_TYPE,
        plan.owner,
        data,
        template.labels,
        {**template.annotations, **record.annotations},
    )
    current = found.current
    if current is None and found.held is None:
        return await create_secret(api, plan.key.namespace, plan.secret_name, contents), True
    try:
        if current is None:
            secret = await create_secret(api, plan.key.namespace, plan.secret_name, contents, held=found.held)
        else:
            owned_by_other = current.owner is not None and current.owner.uid != plan.uid
            change = replace_secret if owned_by_other else update_secret
            secret = await change(api, current, contents)
    except ObjectRejected:
        # The API server's own words may quote what was sent.
        raise PlanFailure(PlanReason.SECRET_CONFLICT, _unacceptable(plan, found)) from None
    except NameTaken as taken:
        raise PlanFailure(
            PlanReason.SECRET_CONFLICT,
            f"{taken}, and is not this plan's: in it the operator would keep what is in Secret {plan.secret_name} "
            f"while it replaces that; delete it",
        ) from None
    if found.adopted and current is not None:
        # Of a replacement that was cut short before, when spec.secretName was another one.
        await release_secret(api, plan.key.namespace, plan.owner)
    return secret, secret is not current


def _unacceptable(plan: Plan, found: PlanSecret) -> str:
    """In words, that the API server refuses what is to be written."""
    if found.current is None:
        return (
            f"the API server does not take what belongs into Secret {plan.secret_name}, which is being replaced: "
            f"others added too much to what Secret {secret_holder_name(plan.uid)} holds of it; delete that, and "
            f"Secret {plan.secret_name} is made anew with another password"
        )
    return (
        f"the API server does not take what belongs into Secret {found.current.name}: it was made immutable, or others "
        f"added too much to it; delete it, and it is made anew with another password"
    )


async def remove_former(api: KubernetesApi, plan: Plan) -> None:
    """Delete the Secret that the plan had under another name, if it is still the plan's, and what is held of it.

    Raises
    ------
    ClusterError
        The API server failed us.
    """
    if not _is_renamed(plan):
        return
    former = await _read_former(api, plan)
    with suppress(ObjectConflict):
        if former is not None:
            await delete_secret(api, former)
        await release_secret(api, plan.key.namespace, plan.owner)


async def remove(api: KubernetesApi, plan: Plan) -> None:
    """Delete the Secret of a plan whose role is gone, unless the plan is deleted with `--cascade=orphan`.

    What is held of it goes as well, save what then would be all that is left of it.

    The garbage collector would do it too, but on a new cluster only after half a minute.

    Raises
    ------
    ClusterError
        The API server failed us.
    """
    secret = await _read_own(api, plan, plan.secret_name)
    with suppress(ObjectConflict):
        if secret.is_marked if secret is not None else not plan.orphans_dependents:
            await release_secret(api, plan.key.namespace, plan.owner)
        if secret is not None and not plan.orphans_dependents:
            await delete_secret(api, secret)


async def _read_former(api: KubernetesApi, plan: Plan) -> Secret | None:
    """The Secret that the plan had under another name; None where there is none that is still the plan's."""
    return await _read_own(api, plan, plan.status["secretName"]) if _is_renamed(plan) else None


def _is_renamed(plan: Plan) -> bool:
    return plan.status.get("secretName") not in {None, "", plan.secret_name}


async def _read_own(api: KubernetesApi, plan: Plan, name: str) -> Secret | None:
    secret = await read_secret(api, plan.key.namespace, name)
    ours = secret is not None and secret.owner is not None and secret.owner.uid == plan.uid
    return secret if ours else None


def _found(secret: Secret) -> PlanSecret:
    return PlanSecret(secret, _password(secret), read_record(secret.annotations))


def _password(secret: Secret) -> str | None:
    return secret.data.get("password", b"").decode(errors="replace") or None
