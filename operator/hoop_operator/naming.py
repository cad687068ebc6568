"""The names that are given: to PostgreSQL roles, to Secrets, and to the objects of what hoop calls by any text.

A name of hoop's that Kubernetes takes is kept as the object's. Any other gets a readable part and a hash; a name that
looks as if it had one gets one, too. So no two names ever have the same object, short of two that agree in 128 bits of
SHA-256.
"""

import hashlib
import json
import re
import string

ROLE_NAME_BYTES = 63
"""PostgreSQL cuts longer identifiers silently (NAMEDATALEN is 64), so a longer name may be another role's."""

ADOPT = "hoop.dev/adopt"
"""The annotation of a plan that is to take over a role or Secret that is there already."""
APPROVE = "hoop.dev/approve"
"""The annotation with the checksum of the plan that may be applied."""
RECONCILE_AT = "hoop.dev/reconcile-at"
"""The annotation of which every new value runs a plan."""
ROTATE_AT = "hoop.dev/rotate-at"
"""The annotation of which every new value rotates a password once."""
FILES = "hoop.dev/files"
"""The annotation of a Secret that lists, with commas, which of its keys are to be files."""

PLAIN_LENGTH = 128
"""The longest name that is kept. hoop's are no longer, and what is derived from it still fits into 253."""
PLAN_LENGTH = 241
"""The longest name of a plan whose Secret still has a name of its own."""

_PREFIX = "hoopdev"
_HASH_DIGITS = 8

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_HASHED = re.compile(r"-[0-9a-f]{32}\Z")
_READABLE_LENGTH = 60

# Unicode's simple lower-casing maps one code point to one. Besides A-Z only two land in ASCII by it: U+0130
# (capital I with a dot), of which str.lower() makes two code points, and U+212A (the Kelvin sign).
_SIMPLE_LOWER = str.maketrans(
    string.ascii_uppercase + "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}\N{KELVIN SIGN}",
    string.ascii_lowercase + "ik",
)


def role_name(resource_name: str, label: str) -> str:
    """Derive the PostgreSQL role name of a plan, `hoopdev_<resource>_<label>_<hash>`, as hoop.dev does.

    The hash is taken over both names as given, so that names which differ only in what the readable part
    drops still yield different roles.

    Raises
    ------
    ValueError
        The label holds no letter or digit of ASCII, or is so long that no byte is left for the resource.
    """
    digest = hashlib.sha256(f"{resource_name}:{label}".encode()).hexdigest()[:_HASH_DIGITS]
    label_slug = _slug(label)
    if not label_slug:
        raise ValueError("the label has none of A-Z, a-z and 0-9; choose one that has")
    room = ROLE_NAME_BYTES - len(f"{_PREFIX}__{label_slug}_{digest}")
    if room < 1:
        raise ValueError(
            f"the label is too long for a PostgreSQL role name; shorten it by {1 - room} or more"
        )
    resource_slug = (_slug(resource_name) or "x")[:room].rstrip("_")
    return f"{_PREFIX}_{resource_slug}_{label_slug}_{digest}"


def connection_secret_name(resource: str, role: str) -> str:
    """Name the Secret that holds the variables of one entry of a HoopResource's `spec.roles`."""
    return f"{resource}-{role}-connection"


def is_connection_secret_name(name: str, resource: str) -> bool:
    """Whether a Secret of a HoopResource is named as that of an entry of its `spec.roles`: its credentials are not."""
    return name.startswith(f"{resource}-") and name.endswith("-connection")


def default_secret_name(plan: str) -> str:
    """Name the output Secret of a HoopRolePlan that sets no `spec.secretName`."""
    return f"{plan}-credentials"


def secret_holder_name(uid: str) -> str:
    """Name the Secret that holds what was in one that is being replaced, by the uid of whom that belongs to."""
    return f"hoop-held-{uid}"


def resource_object_name(name: str) -> str:
    """Name the HoopResource of what hoop calls by a name."""
    return name if _is_kept(name, PLAIN_LENGTH) else _hashed(name)


def plan_object_name(resource_object: str, role: str) -> str:
    """Name the HoopRolePlan of a role label on the HoopResource of that object name: `<resource>.<role>`.

    A label that is kept has no dot, so the last one tells where the resource's name ends.
    """
    name = f"{resource_object}.{role}"
    kept = _LABEL.fullmatch(role) is not None and _is_kept(name, PLAN_LENGTH)
    return name if kept else _hashed(resource_object, role)


def env_vars_secret_name(resource_object: str) -> str:
    """Name the Secret that holds the credentials of a HoopResource."""
    return f"{resource_object}-env-vars"


def role_secret_name(resource_object: str, role: str) -> str:
    """Name the Secret that holds what one of a HoopResource's `spec.roles` was given."""
    return f"{resource_object}.{role}-secret"


def _is_kept(name: str, longest: int) -> bool:
    return (
        len(name) <= longest
        and not _HASHED.search(name)
        and all(_LABEL.fullmatch(part) for part in name.split("."))
    )


def _hashed(*names: str) -> str:
    readable = re.sub(r"[^a-z0-9]+", "-", "-".join(names).lower())[:_READABLE_LENGTH].strip("-") or "x"
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()[:32]
    return f"{readable}-{digest}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.translate(_SIMPLE_LOWER)).strip("_")
