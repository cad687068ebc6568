"""How long a password is believed to be the server's; the plan is no more than its uid here."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from hoop_operator.reconcile.agreements import TRIED_SECONDS_MAX, Agreements

PLAN: Any = SimpleNamespace(uid="it")


@pytest.mark.parametrize(("verifier", "holds"), [("SCRAM-SHA-256$…", True), (None, False)])
def test_a_password_is_tried_again_after_a_while_where_its_verifier_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, verifier: str | None, *, holds: bool
) -> None:
    agreements = Agreements()
    agreements.remember(PLAN, verifier, "1")
    assert agreements.holds(PLAN, verifier, "1")

    later = time.monotonic() + TRIED_SECONDS_MAX
    monkeypatch.setattr(time, "monotonic", lambda: later)

    assert agreements.holds(PLAN, verifier, "1") is holds
