"""The connection Secret of one entry of a HoopResource's `spec.roles`."""

from collections.abc import Mapping, Sequence

from hoop_operator.credentials.env import decode
from hoop_operator.credentials.faults import raise_faults
from hoop_operator.credentials.references import Values

KEY_LENGTH_MAX, BYTES_MAX = 253, 1024 * 1024
"""What a Secret takes (Kubernetes manual, "Secrets": the length of a key, the size limit)."""
KEY_BYTES_MAX = 64 * 1024
"""Of all keys; the Secret's metadata repeats each of them three times, and an object has a limit of its own."""


def connection_secret(
    secret: Mapping[str, str], field: str, values: Values, absent: Sequence[str] = ()
) -> tuple[dict[str, bytes], list[str]]:
    """Decode the variables of a role.

    Parameters
    ----------
    secret
        The role's `secret`, in hoop's syntax.
    field
        Its path in the object, for the messages, such as `spec.roles[0].secret`.
    values
        What its references came to.
    absent
        What is wrong with other sources of the role's variables, to be told beside what is wrong with these.

    Returns
    -------
    The Secret's data, one key per NAME, and the sorted NAMEs that were written as `filesystem:NAME`.

    Raises
    ------
    ResourceFailure
        `CredentialsInvalid` or `CredentialsUnresolved`, naming every entry at fault.
    """
    decoded = decode(secret, field, values)
    raise_faults(malformed=decoded.problems, unresolved=[*absent, *decoded.unresolved])
    return dict(decoded.variables), sorted(decoded.files)


def secret_faults(data: Mapping[str, bytes], field: str) -> list[str]:
    """What keeps the variables of a role from being a Secret, in words that quote no value.

    Parameters
    ----------
    data
        All of the role's variables.
    field
        The role's path in the object, such as `spec.roles[0]`.
    """
    faults: list[str] = []
    if long := [key for key in data if len(key) > KEY_LENGTH_MAX]:
        faults.append(
            f"{field}.secretFrom: a key of a Secret has at most {KEY_LENGTH_MAX} characters, and with the prefix "
            f'{len(long)} have more, such as "{long[0][:80]}…"; shorten the prefix or the keys'
        )
    keys = sum(map(len, data))
    if keys > KEY_BYTES_MAX:
        faults.append(
            f"{field}: the keys of secret and secretFrom come to {keys} bytes, and the role's Secret takes "
            f"{KEY_BYTES_MAX}; name in secretFrom only what the role needs"
        )
    size = sum(map(len, data.values()))
    if size > BYTES_MAX:
        faults.append(
            f"{field}: the values of secret and secretFrom come to {size} bytes, and the role's Secret takes "
            f"{BYTES_MAX}; name in secretFrom only what the role needs"
        )
    return faults
