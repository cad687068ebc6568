"""Whether a role that is not a plan's own may become the plan's, and what is to be said where it may not."""

import re

from hoop_operator.naming import ADOPT
from hoop_operator.planner.model import COMMENT_PREFIX, DesiredRole, Identity, Role, Server

COMMENT_LENGTH_SHOWN = 200

_ALMOST_A_CLAIM = re.compile(r"\s*hoop\.dev/", re.IGNORECASE)
"""However a comment that begins so goes on, something of ours was meant."""

_OBJECT = re.compile(r"(?P<namespace>[a-z0-9]([-a-z0-9]*[a-z0-9])?)/(?P<name>[a-z0-9]([-a-z0-9.]*[a-z0-9])?)")


def named_plan(text: str) -> tuple[str, str] | None:
    """Namespace and name of the plan that `<namespace>/<plan>` names; None where it names none."""
    found = _OBJECT.fullmatch(text)
    return (found["namespace"], found["name"]) if found else None


def role_to_take_over(desired: DesiredRole, server: Server) -> Role | None:
    """The existing role that a plan makes its own, as it was found; None where it is its own already, or not to be had.

    It is the plan's from its comment on. Until that is committed others may take it as well.
    """
    role = server.roles.get(desired.name)
    if role is None or is_own(desired, role) or conflict(desired, server) is not None:
        return None
    return role


def is_own(desired: DesiredRole, role: Role) -> bool:
    """Whether a role is the plan's: by its comment, or, where that was lost, because it is the one that we knew."""
    if role.comment == desired.identity.comment:
        return True
    return not _is_plans(role) and role.oid == desired.known_oid and not role.superuser


def conflict(desired: DesiredRole, server: Server) -> str | None:
    """Why an existing role of that name is not this plan's to touch; None where it is, or where there is none.

    Adoption is named as a remedy only where it would help.
    """
    role = server.roles.get(desired.name)
    if role is None or is_own(desired, role):
        return None
    return _claimed(desired, role, server) if _is_plans(role) else _unclaimed(desired, role, server)


def account_of(desired: DesiredRole, role: Role) -> str:
    """In words, that a plan takes a role over, and what its comment was, which the plan's replaces."""
    if desired.adoption is not None and desired.adoption.predecessor is not None and _is_plans(role):
        predecessor = desired.adoption.predecessor
        return f'role "{role.name}" is taken over from the plan {predecessor.namespace}/{predecessor.plan}'
    told = f"; its comment was: {role.comment[:COMMENT_LENGTH_SHOWN]}" if role.comment else ""
    return f'role "{role.name}", which nobody claimed, is taken over{told}'


def _claimed(desired: DesiredRole, role: Role, server: Server) -> str | None:
    claimant = (role.comment or "").removeprefix(COMMENT_PREFIX)
    belongs = f'role "{role.name}" already belongs to the plan {claimant} (instance/namespace/plan)'
    belongs += ", as its comment says"
    adoption = desired.adoption
    predecessor = adoption.predecessor if adoption is not None else None
    if adoption is not None and predecessor is not None and role.comment == predecessor.comment:
        obstacle = adoption.obstacle or _danger(role, server)
        return f"{belongs}; it cannot be taken over now: {obstacle}" if obstacle else None
    instance = claimant.partition("/")[0]
    if instance != desired.identity.instance:
        return (
            f'{belongs}; the operator instance "{instance}" looks after it, and this one is '
            f'"{desired.identity.instance}" (HOOP_INSTANCE): leave it alone and choose another spec.role'
        )
    remedy = "drop the role"
    if (former := _plan_of_ours(desired, role)) is not None and _danger(role, server) is None:
        remedy = (
            f"take the role over with the annotation {ADOPT}: {former.namespace}/{former.plan}, or drop it"
        )
    return (
        f"{belongs}; choose another spec.role, or delete that plan, or, where it is gone and left the role behind, "
        f"{remedy}"
    )


def _unclaimed(desired: DesiredRole, role: Role, server: Server) -> str | None:
    obstacle = _danger(role, server) or _dependence(role, server) or _almost_a_claim(role)
    asked = desired.adoption is not None and desired.adoption.predecessor is None
    if asked and obstacle is None:
        return None
    untouched = f'role "{role.name}" exists already and was not created by this operator; it stays untouched'
    remedy = "choose another spec.role, or drop or rename the existing role"
    if asked:
        return f"{untouched} and cannot be adopted, for {obstacle}: {remedy}"
    if obstacle is None:
        remedy += f', or, if it is to be this plan\'s, take it over with the annotation {ADOPT}: "true"'
    return f"{untouched}: {remedy}"


def _danger(role: Role, server: Server) -> str | None:
    if role.superuser:
        return "it is a superuser"
    if role.name == server.admin:
        return "it is the admin itself"
    return None


def _dependence(role: Role, server: Server) -> str | None:
    """Why the admin could not do without a role: whoever had it could take away what the admin works with.

    The ADMIN option alone, which the creator of a role has from version 16 on, gives no rights of it.
    """
    if role.supports_admin:
        return (
            f'the admin "{server.admin}" depends on it: it has its rights as a member, directly or through other '
            f"roles, or works in its database"
        )
    return None


def _almost_a_claim(role: Role) -> str | None:
    if role.comment is not None and _ALMOST_A_CLAIM.match(role.comment):
        return "its comment is almost that of a plan"
    return None


def _is_plans(role: Role) -> bool:
    return role.comment is not None and role.comment.startswith(COMMENT_PREFIX)


def _plan_of_ours(desired: DesiredRole, role: Role) -> Identity | None:
    """The plan of our own instance that a comment names."""
    instance = desired.identity.instance
    named = named_plan((role.comment or "").removeprefix(f"{COMMENT_PREFIX}{instance}/"))
    if named is None or role.comment != Identity(instance, *named).comment:
        return None
    return Identity(instance, *named)
