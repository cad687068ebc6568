"""What fails because others change the same catalogs is tried anew, and not for ever."""

import pytest

from hoop_operator.errors import StatementFailed
from hoop_operator.reconcile import contention
from hoop_operator.reconcile.contention import ATTEMPTS, persist


class Quarrel:
    """Something that fails a number of times, and then does not."""

    def __init__(self, sqlstate: str, times: int) -> None:
        self.attempts = 0
        self._sqlstate = sqlstate
        self._times = times

    async def __call__(self) -> str:
        self.attempts += 1
        if self.attempts <= self._times:
            raise StatementFailed("no", sqlstate=self._sqlstate)
        return "done"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contention, "PAUSE_SECONDS", (0, 0))


@pytest.mark.parametrize("sqlstate", ["XX000", "40001", "40P01", "23505", "42704"])
async def test_what_others_are_the_cause_of_is_tried_until_it_goes_through(sqlstate: str) -> None:
    quarrel = Quarrel(sqlstate, ATTEMPTS - 1)
    assert await persist(quarrel) == "done"
    assert quarrel.attempts == ATTEMPTS


async def test_what_never_goes_through_is_given_up() -> None:
    quarrel = Quarrel("XX000", ATTEMPTS)
    with pytest.raises(StatementFailed):
        await persist(quarrel)
    assert quarrel.attempts == ATTEMPTS


@pytest.mark.parametrize("sqlstate", ["42501", "55P03", "57014", "54000", "XX001"])
async def test_what_has_another_cause_is_not_tried_again(sqlstate: str) -> None:
    quarrel = Quarrel(sqlstate, 1)
    with pytest.raises(StatementFailed):
        await persist(quarrel)
    assert quarrel.attempts == 1
