"""What a login that was tried tells about the password; the server is stood in for."""

import pytest

from hoop_operator.credentials.connection import Connection, SslMode
from hoop_operator.errors import AuthenticationFailed, DatabaseUnavailable, ServerError, ServerUnreachable
from hoop_operator.postgres.session import Limits, Sessions

LIMITS = Limits(sessions=1, connect_seconds=1, lock_seconds=1, statement_seconds=1)
ADMIN = Connection("db", 5432, "admin", "pw", "postgres", SslMode.PREFER, None, None, None, None)


async def tried(monkeypatch: pytest.MonkeyPatch, refusal: ServerError) -> bool | None:
    async def refuse(*_: object) -> None:
        raise refusal

    sessions = Sessions(ADMIN, LIMITS, lambda _: True)
    monkeypatch.setattr(sessions, "_reach", refuse)
    return await sessions.can_log_in("ro", "secret", "shop")


@pytest.mark.parametrize(
    "refusal",
    [
        DatabaseUnavailable('permission denied for database "shop"'),
        DatabaseUnavailable('database "shop" does not exist'),
        ServerUnreachable('db:5432: FATAL: too many connections for role "ro"'),
    ],
)
async def test_whom_the_server_turns_away_after_it_knew_the_password_has_the_right_one(
    monkeypatch: pytest.MonkeyPatch, refusal: ServerError
) -> None:
    assert await tried(monkeypatch, refusal) is True


async def test_a_wrong_password_is_told_from_a_login_that_is_not_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = AuthenticationFailed('FATAL: password authentication failed for user "ro"')
    locked = AuthenticationFailed('FATAL: role "ro" is not permitted to log in')
    assert await tried(monkeypatch, wrong) is False
    assert await tried(monkeypatch, locked) is None


async def test_a_server_that_does_not_answer_tells_nothing_of_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ServerUnreachable):
        await tried(monkeypatch, ServerUnreachable("db:5432 did not answer within 1 s"))
