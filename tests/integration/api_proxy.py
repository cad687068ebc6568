"""Stands between an operator and the API server: sees every request in plain HTTP, and fails it when a test says so."""

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from local import kubeconfig

HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
"""Headers that concern one connection alone (RFC 9110, section 7.6.1), and those that are made anew."""

PassOn = Callable[[], Awaitable[web.StreamResponse]]
"""Sends the request on to the API server and returns the answer; a watch is passed on as it comes."""
Interfere = Callable[[web.Request, PassOn], Awaitable[web.StreamResponse]]
"""Decides about one request: whether it reaches the API server, and which answer the operator gets."""


class BrokenOff(ConnectionError):
    """Raised by who interferes: the connection is reset in place of an answer."""


async def let_pass(_: web.Request, pass_on: PassOn) -> web.StreamResponse:
    """Leave everything as it is."""
    return await pass_on()


class ApiProxy:
    """Passes requests on to the API server of a kubeconfig, with whatever token they carry."""

    def __init__(self, original: Path) -> None:
        self.interfere: Interfere = let_pass
        self.expired = 0
        """How many watches the API server has refused because it has forgotten what they ask for (410)."""
        self._config = kubeconfig.read(original)
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._watches: set[asyncio.Transport] = set()

    async def open(self) -> None:
        """Take connections."""
        authority = base64.b64decode(self._cluster["certificate-authority-data"]).decode()
        connector = aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context(cadata=authority))
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        application = web.Application(client_max_size=1 << 24)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Break all connections."""
        if self._runner is not None and self._session is not None:
            await self._session.close()
            await self._runner.cleanup()

    def save_kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig like the original one that leads here."""
        token = self._config["users"][0]["user"]["token"]
        here = {"clusters": [{"cluster": {"server": f"http://127.0.0.1:{self._port}"}}]}
        kubeconfig.save(path, kubeconfig.with_token(here, token))
        return path

    def cut_watches(self) -> None:
        """Break off every watch that is being passed on."""
        for transport in list(self._watches):
            transport.abort()

    @property
    def _cluster(self) -> Mapping[str, str]:
        cluster: Mapping[str, str] = self._config["clusters"][0]["cluster"]
        return cluster

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self.interfere(request, lambda: self._pass_on(request))
        except (aiohttp.ClientError, OSError):
            _abort(request)
            return web.Response()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        assert self._session is not None
        async with self._session.request(
            request.method,
            self._cluster["server"] + request.path_qs,
            headers=_passed_on(request.headers),
            data=await request.read() or None,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as answer:
            headers = _passed_on(answer.headers)
            if not is_watch(request):
                return web.Response(status=answer.status, headers=headers, body=await answer.read())
            stream = web.StreamResponse(status=answer.status, headers=headers)
            transport = request.transport
            assert transport is not None
            self._watches.add(transport)
            try:
                await stream.prepare(request)
                async for piece in answer.content.iter_any():
                    self.expired += b'"code":410' in piece
                    await stream.write(piece)
            finally:
                self._watches.discard(transport)
            return stream


def is_watch(request: web.Request) -> bool:
    """Whether a request is a watch."""
    return request.query.get("watch") == "true"


def is_write(request: web.Request) -> bool:
    """Whether a request asks for a change."""
    return request.method != "GET" and "dryRun" not in request.query


def kind_of(request: web.Request) -> str:
    """What a request is about, without names: `hooproleplans/status` for instance."""
    plural, *rest = request.path.partition("/namespaces/")[2].split("/")[1:] or [request.path]
    return "/".join([plural, *rest[1:]])


async def password_in(request: web.Request) -> str | None:
    """The password in a Secret that a request writes, if there is one."""
    if kind_of(request) != "secrets" or request.method not in {"POST", "PATCH"}:
        return None
    data = json.loads(await request.read()).get("data") or {}
    return base64.b64decode(data["password"]).decode() if data.get("password") else None


def refusal(code: int, reason: str, **headers: str) -> web.Response:
    """An answer of the API server that refuses."""
    return web.json_response(_status(code, reason), status=code, headers=headers)


async def half_of(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """Send the first half of an answer, and reset the connection."""
    assert isinstance(answer, web.Response)
    assert isinstance(answer.body, bytes)
    stream = web.StreamResponse(status=answer.status, headers=answer.headers)
    stream.content_length = len(answer.body)
    await stream.prepare(request)
    with contextlib.suppress(ConnectionError):
        await stream.write(answer.body[: len(answer.body) // 2])
    raise BrokenOff


async def watch_error(request: web.Request, code: int, reason: str) -> web.StreamResponse:
    """Answer a watch with an event that says that it failed."""
    stream = web.StreamResponse(headers={"Content-Type": "application/json"})
    await stream.prepare(request)
    await stream.write(json.dumps({"type": "ERROR", "object": _status(code, reason)}).encode() + b"\n")
    return stream


async def silence() -> None:
    """Never return."""
    await asyncio.Event().wait()


def _status(code: int, reason: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
