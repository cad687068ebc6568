"""Which password was last seen to be the server's, so that an unchanged one is not computed or tried again."""

import math
import random
import time
from dataclasses import dataclass, field

from hoop_operator.reconcile.objects import Plan

LOGIN_SECONDS_MAX = 3600.0
"""How long a login is believed, at most: one for every look is too dear."""


@dataclass(frozen=True, slots=True)
class _Agreement:
    verifier: str | None = field(repr=False)
    secret_version: str
    until: float


class Agreements:
    """What is known of the plans' passwords."""

    def __init__(self) -> None:
        self._seen: dict[str, _Agreement] = {}

    def holds(self, plan: Plan, verifier: str | None, secret_version: str, *, asked: bool) -> bool:
        """Whether nothing can have changed since the password was seen to fit.

        Parameters
        ----------
        plan
            The plan.
        verifier
            What the server has; None where that cannot be read.
        secret_version
            The resourceVersion of its Secret.
        asked
            Whether somebody asks for a run: no login is too dear then.
        """
        seen = self._seen.get(plan.uid)
        if seen is None or (seen.verifier, seen.secret_version) != (verifier, secret_version):
            return False
        return seen.until == math.inf or (not asked and time.monotonic() < seen.until)

    def knows_another_secret(self, plan: Plan, secret_version: str) -> bool:
        """Whether the Secret is another version than the one whose password was last seen to fit."""
        seen = self._seen.get(plan.uid)
        return seen is not None and seen.secret_version != secret_version

    def remember(
        self, plan: Plan, verifier: str | None, secret_version: str, *, by_login: bool = False
    ) -> None:
        """Note that the password fits, for good or, where no more than a login can tell, for a while."""
        until = math.inf
        if by_login:
            until = time.monotonic() + LOGIN_SECONDS_MAX * random.uniform(0.5, 1.0)  # noqa: S311 -- no secret
        self._seen[plan.uid] = _Agreement(verifier, secret_version, until)

    def forget(self, plan: Plan) -> None:
        """Drop what is known of a plan that is gone."""
        self._seen.pop(plan.uid, None)
