"""When servers are looked at of their own accord."""

from typing import Any

from hoop_operator.credentials.follow import Follower
from hoop_operator.reconcile.clock import Clock
from hoop_operator.reconcile.context import Context
from hoop_operator.reconcile.memory import Memory
from hoop_operator.settings import Settings


def test_looks_come_about_as_often_as_is_set_and_never_in_step() -> None:
    settings = Settings(drift_interval_seconds=300)
    api: Any = None
    context = Context(api, settings, Memory(), Clock(1.0), Follower(settings))
    pauses = [context.seconds_to_next_look for _ in range(100)]
    assert all(270 <= pause <= 330 for pause in pauses)
    assert len(set(pauses)) > 50
