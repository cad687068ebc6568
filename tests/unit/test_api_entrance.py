import logging
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from hoop_operator.api.middleware import Entrance
from hoop_operator.errors import AccessDenied

CONFIDENTIAL, TOKEN = "pa55word", "t0k3n"
SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "GET",
    "path": "/api/resources",
    "raw_path": b"/api/resources",
    "headers": [(b"authorization", b"Bearer " + TOKEN.encode()), (b"x-request-id", b"mine")],
}


async def test_an_error_of_its_own_is_told_by_an_id_and_never_by_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive, send
        raise RuntimeError(CONFIDENTIAL)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def introduce(token: str) -> None:
        assert token == TOKEN

    with caplog.at_level(logging.INFO):
        await Entrance(broken, introduce)({**SCOPE}, receive, send)
    start, body = sent
    assert start["status"] == 500
    assert (b"x-request-id", b"mine") in start["headers"]
    assert b"X-Request-Id" in body["body"]
    assert "Unexpected RuntimeError" in caplog.text
    assert "in broken" in caplog.text
    assert "GET /api/resources: 500" in caplog.text
    for confidential in (CONFIDENTIAL, TOKEN):
        assert confidential not in caplog.text + str(sent)


async def test_of_who_is_not_known_no_body_is_read_and_nothing_is_done() -> None:
    async def untouched(*_: Any) -> Any:
        raise AssertionError

    async def introduce(token: str) -> None:
        del token
        raise AccessDenied("who?", status=401)

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await Entrance(untouched, introduce)({**SCOPE, "method": "POST"}, untouched, send)
    assert sent[0]["status"] == 401
