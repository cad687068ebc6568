"""The connection Secret of one entry of a HoopResource's `spec.roles`."""

from collections.abc import Mapping

from hoop_operator.credentials.env import decode_whole
from hoop_operator.credentials.references import Values


def connection_secret(
    secret: Mapping[str, str], field: str, values: Values
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

    Returns
    -------
    The Secret's data, one key per NAME, and the sorted NAMEs that were written as `filesystem:NAME`.

    Raises
    ------
    ResourceFailure
        `CredentialsInvalid` or `CredentialsUnresolved`, naming every entry at fault.
    """
    decoded = decode_whole(secret, field, values)
    return dict(decoded.variables), sorted(decoded.files)
