"""Many who ask the HTTP API at the same time, for a minute: how long they wait, what fails, whether memory grows."""

import asyncio
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.crowd import Stage, stage
from bench.measure import memory_mib
from bench.scenario import NAME, fill_database
from integration.http_api import Client, HttpApi
from local import cluster
from local.progress import step

NAMESPACE = "bench-http-api"
CLIENTS = 50
RESOURCES = 5
SECONDS = 60
WARM_SECONDS = 15
"""After that the process has met every kind of request from everybody."""


@dataclass
class Result:
    """What was measured with a number of clients, each of which asks again as soon as it is answered."""

    clients: int
    requests: int
    failures: list[str]
    """Answers that are none of 200 and success."""
    waits: dict[str, tuple[float, float]]
    """By request, the median and the longest wait in seconds."""
    warm_rss_mib: float
    rss_mib: float


async def run(clients: int = CLIENTS) -> Result:
    """Measure on a stack of its own that is gone afterwards.

    Raises
    ------
    NotReady
        A resource was not registered.
    """
    async with stage() as here:
        await fill_database(here.server, here.session, NAME)
        here.stack.start_operator()
        cluster.kubectl(here.stack.kubeconfig, "create", "namespace", NAMESPACE)
        with tempfile.TemporaryDirectory() as kept:
            api = HttpApi(here.stack, Path(kept) / "log")
            try:
                await api.start(NAMESPACE)
                return await _measure(here, api, clients)
            finally:
                api.bury()


async def _measure(here: Stage, api: HttpApi, clients: int) -> Result:
    admin = api.as_("admin")
    for number in range(RESOURCES):
        await admin.register(f"db{number}", here.server)
    waits: dict[str, list[float]] = defaultdict(list)
    failures: list[str] = []
    with step(f"{clients} clients, for {SECONDS} s"):
        end = time.monotonic() + SECONDS
        asking = [asyncio.create_task(_ask(admin, number, end, waits, failures)) for number in range(clients)]
        await asyncio.sleep(WARM_SECONDS)
        warm = memory_mib(api.pid, "VmRSS")
        await asyncio.gather(*asking)
    return Result(
        clients,
        sum(map(len, waits.values())),
        failures,
        {name: (sorted(taken)[len(taken) // 2], max(taken)) for name, taken in waits.items()},
        warm,
        memory_mib(api.pid, "VmRSS"),
    )


async def _ask(
    client: Client, number: int, end: float, waits: dict[str, list[float]], failures: list[str]
) -> None:
    resource = f"/db{number % RESOURCES}"

    async def ask(name: str, method: str, path: str, body: Any = None) -> Any:
        began = time.monotonic()
        answer = await client.call(method, path, body)
        waits[name].append(time.monotonic() - began)
        if answer.status != 200 or '"failed"' in answer.text:
            failures.append(f"{name}: {answer.status} {answer.text}")
        return answer.json

    turn = 0
    while time.monotonic() < end:
        turn += 1
        await ask("list", "GET", "")
        await ask("read", "GET", resource)
        await ask("health", "GET", f"{resource}/health")
        plan = {
            "type": "managed",
            "role": f"r{number}",
            "scopes": [NAME],
            "privileges": ["SELECT"] if turn % 2 else ["SELECT", "INSERT"],
        }
        planned = await ask("plan", "POST", f"{resource}/plan", plan)
        await ask("apply", "POST", f"{resource}/apply", {"sid": planned.get("sid") or "none"})
