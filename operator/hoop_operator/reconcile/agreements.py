"""Which password was last seen to be the server's, so that an unchanged one is not computed or tried again."""

import math
import random
import time
from dataclasses import dataclass, field

from hoop_operator.reconcile.objects import Plan

TRIED_SECONDS_MAX = 3600.0
"""How long it is believed, at most, where the server's verifiers cannot be read: a login for every look is too dear."""


@dataclass(frozen=True, slots=True)
class _Agreement:
    verifier: str | None = field(repr=False)
    secret_version: str
    until: float


class Agreements:
    """What is known of the plans' passwords."""

    def __init__(self) -> None:
        self._seen: dict[str, _Agreement] = {}

    def holds(self, plan: Plan, verifier: str | None, secret_version: str) -> bool:
        """Whether nothing has changed since the password was seen to fit; `verifier` is None where it is not read."""
        seen = self._seen.get(plan.uid)
        return (
            seen is not None
            and (seen.verifier, seen.secret_version) == (verifier, secret_version)
            and time.monotonic() < seen.until
        )

    def knows_another_secret(self, plan: Plan, secret_version: str) -> bool:
        """Whether the Secret is another version than the one whose password was last seen to fit."""
        seen = self._seen.get(plan.uid)
        return seen is not None and seen.secret_version != secret_version

    def remember(self, plan: Plan, verifier: str | None, secret_version: str) -> None:
        """Note that the password fits; `verifier` is None where it is not read."""
        until = math.inf
        if verifier is None:
            until = time.monotonic() + TRIED_SECONDS_MAX * random.uniform(0.5, 1.0)  # noqa: S311 -- no secret
        self._seen[plan.uid] = _Agreement(verifier, secret_version, until)

    def forget(self, plan: Plan) -> None:
        """Drop what is known of a plan that is gone."""
        self._seen.pop(plan.uid, None)
