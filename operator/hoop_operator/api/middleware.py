"""What holds for every request: an id, a limit, no answer for who does not say who they are, a line in the log."""

import logging
import re
import time
import traceback
from uuid import uuid4

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hoop_operator.logs import about

BODY_BYTES_MAX = 1024 * 1024
"""A Secret holds no more."""

REQUEST_ID = "X-Request-Id"

PROTECTED = "/api/"

UNEXPECTED = "an error of this API itself: its log has more under the id in X-Request-Id"

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}

_REQUEST_ID = re.compile(r"[-A-Za-z0-9._]{1,128}")

logger = logging.getLogger(__name__)


class Entrance:
    """The way in. It never looks at a body, and logs neither bodies nor queries nor headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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
        received = 0

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
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_BYTES_MAX:
                raise HTTPException(413, _too_large())
            return message

        with about(request_id=request_id):
            try:
                if refusal := _refusal(scope, headers):
                    await refusal(scope, receive, send_on)
                else:
                    await self._app(scope, receive_limited, send_on)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the caller is told by an id and not by its text
                # Where it happened, and not its text: nobody knows what that quotes.
                place = "".join(traceback.format_tb(error.__traceback__))
                logger.error("Unexpected %s\n%s", type(error).__name__, place)  # noqa: TRY400 -- see above
                if not begun:
                    await JSONResponse({"message": UNEXPECTED}, 500)(scope, receive, send_on)
            finally:
                path = scope.get("raw_path", b"").decode("ascii", "backslashreplace")
                milliseconds = round(1000 * (time.monotonic() - began))
                level = logging.DEBUG if scope["path"] in {"/livez", "/readyz"} else logging.INFO
                logger.log(level, "%s %s: %d in %d ms", scope["method"], path, status, milliseconds)


def bearer_of(headers: Headers) -> str | None:
    """The bearer token of a request, None where there is none (RFC 6750, section 2.1)."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _refusal(scope: Scope, headers: Headers) -> JSONResponse | None:
    if scope["path"].startswith(PROTECTED) and bearer_of(headers) is None:
        return JSONResponse({"message": "access denied"}, 401, headers={"WWW-Authenticate": "Bearer"})
    length = headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > BODY_BYTES_MAX:
        return JSONResponse({"message": _too_large()}, 413)
    return None


def _too_large() -> str:
    return f"the body is larger than {BODY_BYTES_MAX} bytes"
