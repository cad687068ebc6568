"""The connection Secret of one entry of a HoopResource's `spec.roles`."""

from collections.abc import Mapping, Sequence

from hoop_operator.credentials.env import decode
from hoop_operator.credentials.faults import raise_faults
from hoop_operator.credentials.references import Values


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
