"""Many servers with many plans each, all as they should be: what they cost while nothing happens.

The servers are ports of this process, each an endpoint of its own to the operator, that lead to one PostgreSQL with a
database for each. What passing the bytes on costs is this process's CPU time, not the operator's.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.crowd import Stage, stage
from bench.measure import Cost
from bench.scenario import READ_ONLY, READ_WRITE, fill_database, ready_times
from integration.proxy import Proxy
from local.progress import step

SERVERS = 50
PLANS_PER_SERVER = 100
TABLES = 5
DRIFT_SECONDS = 60
NEVER_SECONDS = 36_000


@dataclass
class Result:
    """What was measured with a number of servers, and of plans on each."""

    servers: int
    plans_per_server: int
    creation: Cost
    restart: Cost
    drift: Cost
    """Of one period, in which each server is looked at once; `seconds` is its length."""
    rss_mib: float
    """What the operator has in memory after that."""


async def run(servers: int = SERVERS, plans_per_server: int = PLANS_PER_SERVER) -> Result:
    """Measure on a stack of its own that is gone afterwards.

    Raises
    ------
    NotReady
        The operator did not bring every plan to Ready.
    """
    async with stage() as here, AsyncExitStack() as opened:
        proxies = [Proxy(here.server.port) for _ in range(servers)]
        for proxy in proxies:
            await proxy.open()
            opened.push_async_callback(proxy.close)
        with step(f"{servers} databases"):
            for number in range(servers):
                await fill_database(here.server, here.session, f"db{number}", TABLES)
        here.stack.start_operator({"HOOP_DRIFT_INTERVAL_SECONDS": str(NEVER_SECONDS)})
        creation = await _create(here, proxies, plans_per_server)
        here.stack.stop_operator()
        with step("Restart"):
            async with here.meter.measuring() as restart:
                here.stack.start_operator({"HOOP_DRIFT_INTERVAL_SECONDS": str(DRIFT_SECONDS)})
                restart.seconds = await here.meter.quiet() - here.meter.operator_started()
        with step(f"One drift period of {DRIFT_SECONDS} s"):
            async with here.meter.counting() as drift:
                await asyncio.sleep(DRIFT_SECONDS)
                drift.seconds = DRIFT_SECONDS
        return Result(servers, plans_per_server, creation, restart, drift, here.meter.operator_rss_mib())


async def _create(here: Stage, proxies: list[Proxy], plans_per_server: int) -> Cost:
    for number, proxy in enumerate(proxies):
        await here.register(f"db{number}", proxy.port, f"db{number}")
    await here.until_resources(lambda reason: reason == "Registered")
    with step(f"{len(proxies)} times {plans_per_server} new plans"):
        async with here.meter.measuring() as cost:
            began = time.monotonic()
            names = {
                f"db{server}-p{number}": server
                for number in range(plans_per_server)
                for server in range(len(proxies))
            }
            watching = asyncio.create_task(ready_times(here.admin, set(names)))
            await asyncio.gather(
                *(
                    here.plan(
                        name,
                        f"db{server}",
                        scopes=[f"db{server}"],
                        privileges=READ_WRITE if server % 2 else READ_ONLY,
                    )
                    for name, server in names.items()
                )
            )
            cost.seconds = max((await watching).values()) - began
    return cost
