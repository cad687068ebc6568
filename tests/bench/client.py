"""A plain client of the API server, with as little between caller and socket as can be."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from local import kubeconfig
from local.certificates import Identity
from local.stack import Stack

AT_ONCE = 32
"""Connections of one client: as many requests as the operator has under way."""

LINE_BYTES = 1 << 20
"""Room for one event of a watch."""

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"


class Refused(Exception):
    """The API server did not do what was asked."""


class Client:
    """One account's connections to the API server."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str) -> dict[str, Any]:
        """Return the object or list at `path`."""
        return await self._send("GET", path, None, JSON)

    async def text(self, path: str) -> str:
        """Return what stands at `path` as it is."""
        async with self._session.get(path) as response:
            response.raise_for_status()
            return await response.text()

    async def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object in the collection at `path`; returns it as stored."""
        return await self._send("POST", path, body, JSON)

    async def patch(self, path: str, body: Any, content_type: str) -> dict[str, Any]:
        """Patch the object at `path`; returns it as stored."""
        return await self._send("PATCH", path, body, content_type)

    async def delete(self, path: str) -> None:
        """Delete the object at `path`."""
        await self._send("DELETE", path, None, JSON)

    async def watch(self, path: str, version: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of the collection at `path` after a resourceVersion, until the API server ends that."""
        query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": "600"}
        limits = aiohttp.ClientTimeout(total=None)
        async with self._session.get(path, params=query, timeout=limits, read_bufsize=LINE_BYTES) as response:
            response.raise_for_status()
            async for line in response.content:
                yield json.loads(line)

    async def _send(self, method: str, path: str, body: Any, content_type: str) -> dict[str, Any]:
        data = None if body is None else json.dumps(body)
        async with self._session.request(
            method, path, data=data, headers={"Content-Type": content_type}
        ) as response:
            answer: dict[str, Any] = await response.json()
            if response.status >= 300:
                raise Refused(f"{method} {path}: {response.status} {answer.get('message', '')}")
            return answer


@asynccontextmanager
async def as_administrator(stack: Stack) -> AsyncIterator[Client]:
    """Connect as the cluster's admin."""
    trust = _trust(stack)
    admin = Identity(stack.directory / "certificates", "admin")
    trust.load_cert_chain(admin.certificate, admin.key)
    async with _session(stack, trust, {}) as session:
        yield Client(session)


@asynccontextmanager
async def as_operator(stack: Stack) -> AsyncIterator[Client]:
    """Connect as the operator's account, with all that the API server checks and limits for it."""
    token = kubeconfig.read(stack.operator_kubeconfig)["users"][0]["user"]["token"]
    async with _session(stack, _trust(stack), {"Authorization": f"Bearer {token}"}) as session:
        yield Client(session)


def _trust(stack: Stack) -> ssl.SSLContext:
    authority = Identity(stack.directory / "certificates", "ca")
    return ssl.create_default_context(cafile=str(authority.certificate))


def _session(stack: Stack, trust: ssl.SSLContext, headers: Mapping[str, str]) -> aiohttp.ClientSession:
    server = kubeconfig.read(stack.kubeconfig)["clusters"][0]["cluster"]["server"]
    connector = aiohttp.TCPConnector(ssl=trust, limit=AT_ONCE)
    return aiohttp.ClientSession(server, connector=connector, headers=headers)
