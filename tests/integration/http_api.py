"""`hoop-operator serve` as a process of the tests' own, and those who ask it something."""

import asyncio
import base64
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from integration.operator_process import PROGRAM, free_port
from integration.tenant import PATIENCE_SECONDS, eventually
from local import cluster
from local.errors import StackError
from local.postgresql import Server
from local.stack import Stack

RIGHTS = {"admin": ("admin", "hoop-approve"), "edit": ("edit",), "view": ("view",), "nobody": ()}
"""The service accounts that ask, and the roles that each is bound to."""


class Answer:
    """What was answered."""

    def __init__(self, status: int, headers: Mapping[str, str], text: str) -> None:
        self.status = status
        self.headers = headers
        self.text = text

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def message(self) -> str:
        body = self.json
        assert set(body) == {"message"}
        message: str = body["message"]
        return message


class HttpApi:
    """The process, its namespace, and a token for each of those who ask."""

    def __init__(
        self, stack: Stack, log: Path, command: Sequence[str | Path] = (PROGRAM, "serve"), **settings: str
    ) -> None:
        self._stack = stack
        self.log = log
        self._command = command
        self.namespace = ""
        self.url = f"http://127.0.0.1:{free_port()}"
        self._settings = settings
        self.tokens: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, namespace: str) -> None:
        """Make the accounts in a namespace, start the process for it, and wait until both are ready."""
        self.namespace = namespace
        for who, roles in RIGHTS.items():
            self._kubectl("create", "serviceaccount", who)
            for role in roles:
                account = f"--serviceaccount={self.namespace}:{who}"
                self._kubectl("create", "rolebinding", f"{who}-{role}", f"--clusterrole={role}", account)
            self.tokens[who] = self._kubectl("create", "token", who).strip()
        self.spawn()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (
            self._may("admin", "create", "hoopresources") and self._may("edit", "create", "hooproleplans")
        ):
            assert time.monotonic() < deadline
        await eventually(self.ready, what="the API is ready")

    async def start_beside(self, other: "HttpApi") -> None:
        """Start the process in the namespace of another one, whose accounts it meets."""
        self.namespace, self.tokens = other.namespace, other.tokens
        self.spawn()
        await eventually(self.ready, what="the API is ready")

    def spawn(self) -> None:
        """Start the process."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 -- our own program
                self._command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    "PATH": os.environ["PATH"],
                    "KUBECONFIG": str(self._stack.kubeconfig),
                    "HOOP_API_NAMESPACE": self.namespace,
                    "HOOP_API_PORT": self.url.rpartition(":")[2],
                    **self._settings,
                },
            )

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    async def ready(self) -> bool:
        try:
            return (await self.call("GET", "/readyz")).status == 200
        except aiohttp.ClientError:
            return False

    def bury(self) -> None:
        """End the process and print what it said."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        print(self.log.read_text(errors="replace"))

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        raw: Any = None,
    ) -> Answer:
        """Ask once; `token` is the token itself, `raw` a body as it is."""
        told = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                method, self.url + path, json=body if raw is None else None, data=raw, headers=told
            ) as response,
        ):
            return Answer(response.status, response.headers, await response.text())

    def as_(self, who: str) -> "Client":
        """A client with somebody's token."""
        return Client(self, self.tokens[who])

    def _kubectl(self, *arguments: str) -> str:
        return cluster.kubectl(self._stack.kubeconfig, f"--namespace={self.namespace}", *arguments)

    def _may(self, who: str, verb: str, plural: str) -> bool:
        account = f"--as=system:serviceaccount:{self.namespace}:{who}"
        try:
            return self._kubectl("auth", "can-i", verb, f"{plural}.hoop.dev", account).strip() == "yes"
        except StackError:  # kubectl exits with 1 for a "no"
            return False


class Client:
    """One who has read nothing but hoop's description of its API."""

    def __init__(self, api: HttpApi, token: str) -> None:
        self._api = api
        self._token = token

    async def call(self, method: str, path: str, body: Any = None) -> Answer:
        return await self._api.call(method, f"/api/resources{path}", body, token=self._token)

    async def post(self, path: str, body: Any, status: int = 200) -> Any:
        """Post something that is answered with a status; return the answer."""
        answer = await self.call("POST", path, body)
        assert answer.status == status, answer.text
        return answer.json

    async def get(self, path: str) -> Any:
        answer = await self.call("GET", path)
        assert answer.status == 200, answer.text
        return answer.json

    async def register(self, name: str, server: Server, **more: Any) -> Any:
        """Make a resource of a server, as its superuser."""
        body = {"name": name, "type": "database", "subtype": "postgres", "env_vars": env_vars(server), **more}
        return await self.post("", body, 201)


def env_vars(server: Server, password: str | None = None) -> dict[str, str]:
    """A server's credentials as hoop's clients send them."""
    values = {
        "HOST": server.host,
        "PORT": str(server.port),
        "USER": server.user,
        "PASS": server.password if password is None else password,
    }
    return {f"envvar:{name}": encoded(value) for name, value in values.items()}


def encoded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


async def gathered(*calls: Any) -> list[Any]:
    """The answers to several calls that are made at the same time."""
    return list(await asyncio.gather(*calls))
