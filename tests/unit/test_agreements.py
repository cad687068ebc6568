"""How long a password is believed to be the server's; the plan is no more than its uid here."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from hoop_operator.reconcile.agreements import LOGIN_SECONDS_MAX, Agreements

PLAN: Any = SimpleNamespace(uid="it")


@pytest.mark.parametrize("by_login", [False, True])
def test_a_password_is_tried_again_after_a_while_and_when_somebody_asks_where_only_a_login_tells(
    monkeypatch: pytest.MonkeyPatch, *, by_login: bool
) -> None:
    agreements = Agreements()
    agreements.remember(PLAN, None, "1", by_login=by_login)
    assert agreements.holds(PLAN, None, "1", asked=False)
    assert agreements.holds(PLAN, None, "1", asked=True) is not by_login

    later = time.monotonic() + LOGIN_SECONDS_MAX
    monkeypatch.setattr(time, "monotonic", lambda: later)

    assert agreements.holds(PLAN, None, "1", asked=False) is not by_login


def test_nothing_holds_any_more_when_verifier_or_secret_is_another() -> None:
    agreements = Agreements()
    agreements.remember(PLAN, "of the server", "1")
    assert agreements.holds(PLAN, "of the server", "1", asked=True)
    assert not agreements.holds(PLAN, "another", "1", asked=False)
    assert not agreements.holds(PLAN, "of the server", "2", asked=False)
    assert agreements.knows_another_secret(PLAN, "2")
