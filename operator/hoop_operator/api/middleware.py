"""What holds for every request: an id, a limit, no answer for who does not say who they are, a line in the log."""

import asyncio
import logging
import re
import time
import traceback
from collections.abc import Awaitable, Callable
from email.message import Message as Head
from uuid import uuid4

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hoop_operator.api.problems import problem_of
from hoop_operator.errors import ClusterError
from hoop_operator.logs import about

BODY_BYTES_MAX = 1024 * 1024
"""A Secret holds no more."""

SMALL_BODY_BYTES = 32 * 1024
"""What a body may hold whatever others hold: who sends large ones keeps out others with large ones at the most."""

BODIES_BYTES_MAX = 16 * BODY_BYTES_MAX
"""What all bodies of the requests at hand may hold beyond that, together. Read as JSON each may take ten times as much,
and more."""

BODY_SECONDS = 30.0
"""How long the body of a request may take to arrive."""

REQUEST_ID = "X-Request-Id"

PROTECTED = "/api/"
WITH_BODY = {"POST", "PUT", "PATCH"}
_UNSAID = {None, "application/x-www-form-urlencoded"}
"""Types of a body about which nobody thought: curl's -d says the latter of itself."""

UNEXPECTED = "an error of this API itself: its log has more under the id in X-Request-Id"

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}

_REQUEST_ID = re.compile(r"[-A-Za-z0-9._]{1,128}")

logger = logging.getLogger(__name__)


class Entrance:
    """The way in. It never looks at a body, and logs neither bodies nor queries nor headers.

    Parameters
    ----------
    app
        What is behind it.
    introduce
        Raises a `ClusterError` for a bearer token that is not known. It is asked before a body is read, so that who is
        not known can make us neither hold nor do anything.
    """

    def __init__(self, app: ASGIApp, introduce: Callable[[str], Awaitable[None]]) -> None:
        self._app = app
        self._introduce = introduce
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI asks."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asked = headers.get(REQUEST_ID, "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else str(uuid4())
        began = time.monotonic()
        status = 500
        begun = False
        received = held = 0
        complete = False
        latest = 0.0

        async def send_on(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                begun = True
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer[REQUEST_ID] = request_id
                answer.update(SECURITY_HEADERS)
            await send(message)

        async def receive_limited() -> Message:
            nonlocal received, held, complete, latest
            if complete:
                return await receive()
            latest = latest or time.monotonic() + BODY_SECONDS
            try:
                async with asyncio.timeout(latest - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the body did not arrive in time", {"Connection": "close"}) from None
            complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > BODY_BYTES_MAX:
                raise HTTPException(413, _too_large())
            self._held -= held
            held = max(received - SMALL_BODY_BYTES, 0)
            self._held += held
            if held and self._held > BODIES_BYTES_MAX:
                raise HTTPException(
                    503, "too many large requests at the same time: ask again", {"Retry-After": "1"}
                )
            return message

        with about(request_id=request_id):
            try:
                if refusal := await self._refusal(scope, headers):
                    await refusal(scope, receive, send_on)
                else:
                    await self._app(_with_type(scope, headers), receive_limited, send_on)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the caller is told by an id and not by its text
                # Where it happened, and not its text: nobody knows what that quotes.
                place = "".join(traceback.format_tb(error.__traceback__))
                logger.error("Unexpected %s\n%s", type(error).__name__, place)  # noqa: TRY400 -- see above
                if not begun:
                    await JSONResponse({"message": UNEXPECTED}, 500)(scope, receive, send_on)
            finally:
                self._held -= held
                path = scope.get("raw_path", b"").decode("ascii", "backslashreplace")
                milliseconds = round(1000 * (time.monotonic() - began))
                level = logging.WARNING if status >= 500 else logging.INFO
                level = logging.DEBUG if scope["path"] in {"/livez", "/readyz"} else level
                logger.log(level, "%s %s: %d in %d ms", scope["method"], path, status, milliseconds)

    async def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        """What is answered to a request that comes no further."""
        if not scope["path"].startswith(PROTECTED):
            return None
        token = bearer_of(headers)
        if token is None:
            return _answer(401, "access denied")
        if scope["method"] not in WITH_BODY:
            return None
        length = headers.get("Content-Length", "")
        if length.isdecimal() and (len(length) > len(str(BODY_BYTES_MAX)) or int(length) > BODY_BYTES_MAX):
            return _answer(413, _too_large())
        kind = _type(headers)
        has_body = length not in {"", "0"} or "Transfer-Encoding" in headers
        if has_body and kind not in _UNSAID and kind != "application/json":
            return _answer(415, "Content-Type: must be application/json, for the body has to be JSON")
        try:
            await self._introduce(token)
        except ClusterError as error:
            problem = problem_of(error)
            if problem.status >= 500:
                logger.warning("%s", problem.message)
            return _answer(problem.status, problem.message)
        return None


def bearer_of(headers: Headers) -> str | None:
    """The bearer token of a request, None where there is none (RFC 6750, section 2.1)."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _answer(status: int, message: str) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"message": message}, status, headers)


def _type(headers: Headers) -> str | None:
    if "Content-Type" not in headers:
        return None
    head = Head()
    head["Content-Type"] = headers["Content-Type"]
    return head.get_content_type()


def _with_type(scope: Scope, headers: Headers) -> Scope:
    """The request with a type for its body, where it does not name one that was meant."""
    if scope["method"] not in WITH_BODY or _type(headers) not in _UNSAID:
        return scope
    others = [entry for entry in headers.raw if entry[0] != b"content-type"]
    return {**scope, "headers": [*others, (b"content-type", b"application/json")]}


def _too_large() -> str:
    return f"the body is larger than {BODY_BYTES_MAX} bytes"
