"""The names that the operator gives: PostgreSQL roles and Secrets."""

import hashlib
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

_PREFIX = "hoopdev"
_HASH_DIGITS = 8

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


def default_secret_name(plan: str) -> str:
    """Name the output Secret of a HoopRolePlan that sets no `spec.secretName`."""
    return f"{plan}-credentials"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.translate(_SIMPLE_LOWER)).strip("_")
