"""What is wrong with a resource's credentials, told all at once."""

from collections.abc import Sequence

from hoop_operator.errors import ResourceFailure, ResourceReason


def raise_faults(
    *, malformed: Sequence[str] = (), unresolved: Sequence[str] = (), missing: Sequence[str] = ()
) -> None:
    """Raise one failure that lists every fault, the most fundamental kind first; without a fault do nothing.

    Raises
    ------
    ResourceFailure
        `CredentialsInvalid` if anything is malformed, else `CredentialsUnresolved` or `CredentialsMissing`.
    """
    faults = [*malformed, *unresolved, *missing]
    if not faults:
        return
    if malformed:
        reason = ResourceReason.CREDENTIALS_INVALID
    elif unresolved:
        reason = ResourceReason.CREDENTIALS_UNRESOLVED
    else:
        reason = ResourceReason.CREDENTIALS_MISSING
    raise ResourceFailure(reason, "; ".join(faults))
