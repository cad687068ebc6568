"""Which Kubernetes object belongs to which of hoop's names.

A name that Kubernetes takes is kept. Any other gets a readable part and a hash; a name that looks as if it had one gets
one, too. So no two names ever have the same object, short of two that agree in 128 bits of SHA-256.
"""

import hashlib
import json
import re

from hoop_operator.crd.common import LOWER_CASE_LABEL

PLAN_LENGTH = 241
"""The longest name of a plan whose Secret still has a name of its own."""

PLAIN_LENGTH = 128
"""The longest name that is kept. hoop's are no longer, and what is derived from it still fits into 253."""

_LABEL = re.compile(LOWER_CASE_LABEL)
_HASHED = re.compile(r"-[0-9a-f]{32}\Z")
_READABLE_LENGTH = 60


def resource_object_name(name: str) -> str:
    """Name the HoopResource that has a name in the API."""
    return _kept(name) or _hashed(name)


def plan_object_name(resource_object: str, role: str) -> str:
    """Name the HoopRolePlan of a role label on the HoopResource of that object name: `<resource>.<role>`.

    A label that is kept has no dot, so the last one tells where the resource's name ends.
    """
    kept = _kept(f"{resource_object}.{role}", longest=PLAN_LENGTH) if _LABEL.fullmatch(role) else None
    return kept or _hashed(resource_object, role)


def env_vars_secret_name(resource_object: str) -> str:
    """Name the Secret that holds the credentials of a HoopResource."""
    return f"{resource_object}-env-vars"


def role_secret_name(resource_object: str, role: str) -> str:
    """Name the Secret that holds what one of a HoopResource's `spec.roles` was given."""
    return f"{resource_object}.{role}-secret"


def _kept(name: str, longest: int = PLAIN_LENGTH) -> str | None:
    plain = len(name) <= longest and not _HASHED.search(name)
    return (
        name
        if plain and all(len(part) <= 63 and _LABEL.fullmatch(part) for part in name.split("."))
        else None
    )


def _hashed(*names: str) -> str:
    readable = re.sub(r"[^a-z0-9]+", "-", "-".join(names).lower())[:_READABLE_LENGTH].strip("-") or "x"
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:32]
    return f"{readable}-{digest}"
