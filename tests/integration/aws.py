"""AWS for tests: moto's server, and a gateway before it that counts, refuses and keeps silent."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import boto3
from aiohttp import web

from integration.operator_process import free_port
from integration.tenant import eventually

T = TypeVar("T")

REGION, OTHER_REGION = "eu-west-1", "us-east-2"
POD_IDENTITY = "/v1/credentials"
ROLE = "arn:aws:iam::123456789012:role/hoop-operator"


class Aws:
    """Secrets Manager and STS, as an operator reaches them."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.reads: Counter[str] = Counter()
        """How often each secret was asked for."""
        self.logins: list[str] = []
        """What STS was asked for."""
        self.pod_tokens: list[str] = []
        """By which tokens of service accounts credentials were asked for."""
        self.refusals: dict[str, str] = {}
        """The error code that each of these secrets is answered with."""
        self.silent: set[str] = set()
        """Secrets that get no answer."""
        self._log = log
        self._moto_port = free_port()

    @property
    def url(self) -> str:
        """Where everything is asked for."""
        return f"http://127.0.0.1:{self.port}"

    async def open(self) -> None:
        """Start both servers."""
        with self._log.open("wb") as output:
            self._moto = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._moto_port)),
                stdout=output,
                stderr=output,
            )
        self._session = aiohttp.ClientSession()
        await eventually(self._answers, what="moto answers")
        application = web.Application()
        application.router.add_get(POD_IDENTITY, self._give_pod_credentials)
        application.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def close(self) -> None:
        """Stop both."""
        await self._runner.cleanup()
        await self._session.close()
        self._moto.kill()
        await self._moto.wait()

    async def create(self, name: str, *, region: str = REGION, **contents: Any) -> str:
        """Make a secret; return its ARN."""
        made = await self._call(region, lambda client: client.create_secret(Name=name, **contents))
        return str(made["ARN"])

    async def change(self, name: str, **contents: Any) -> None:
        """Give a secret another version."""
        await self._call(REGION, lambda client: client.put_secret_value(SecretId=name, **contents))

    async def delete(self, name: str) -> None:
        """Have a secret deleted, later."""
        await self._call(REGION, lambda client: client.delete_secret(SecretId=name))

    async def _call(self, region: str, use: Callable[[Any], T]) -> T:
        def call() -> T:
            client = boto3.client(
                "secretsmanager",
                region_name=region,
                endpoint_url=f"http://127.0.0.1:{self._moto_port}",
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
            try:
                return use(client)
            finally:
                client.close()

        return await asyncio.to_thread(call)

    async def _answers(self) -> bool:
        try:
            async with self._session.get(f"http://127.0.0.1:{self._moto_port}/moto-api/") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def _give_pod_credentials(self, request: web.Request) -> web.Response:
        """Answer as the EKS Pod Identity Agent does."""
        self.pod_tokens.append(request.headers.get("Authorization", ""))
        return web.json_response(
            {
                "AccessKeyId": "pod",
                "SecretAccessKey": "test",
                "Token": "test",
                "Expiration": "2099-01-01T00:00:00Z",
            }
        )

    async def _pass_on(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("X-Amz-Target", "").endswith(".GetSecretValue"):
            secret = json.loads(body)["SecretId"]
            self.reads[secret] += 1
            if secret in self.silent:
                await asyncio.sleep(3600)
            if (code := self.refusals.get(secret)) is not None:
                return web.json_response({"__type": code, "Message": "not now"}, status=400)
        else:
            self.logins.append(body.decode())
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in {"host", "content-length"}
        }
        async with self._session.request(
            request.method,
            f"http://127.0.0.1:{self._moto_port}{request.rel_url}",
            data=body,
            headers=headers,
        ) as answer:
            content = await answer.read()
            return web.Response(
                status=answer.status, body=content, headers={"Content-Type": answer.headers["Content-Type"]}
            )
