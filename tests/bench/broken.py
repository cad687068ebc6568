"""Many plans that cannot be carried out, each told so: what they cost from then on, also while their server is away."""

import asyncio
from dataclasses import dataclass
from typing import Any

from bench.crowd import Stage, stage
from bench.measure import Cost
from bench.scenario import NAME, READ_ONLY, fill_database
from integration.proxy import Proxy
from local.progress import step

PLANS = 1000
BACKOFF_SECONDS = 70
"""Until every pause between two attempts has become the longest."""
WINDOW_SECONDS = 60

SPECS: dict[str, dict[str, Any]] = {
    "DatabaseNotFound": {"scopes": ["nowhere"], "privileges": READ_ONLY},
    "SchemaNotFound": {"scopes": [f"{NAME}.nowhere"], "privileges": READ_ONLY},
    "SourceRoleNotFound": {"type": "external", "sourceRole": "nobody"},
    "InvalidSpec": {"scopes": [f"{NAME}.pg_catalog"], "privileges": READ_ONLY},
    "GuardrailViolation": {"scopes": [NAME], "privileges": ["TRUNCATE"]},
}


@dataclass
class Result:
    """What was measured with a number of plans, in windows of `WINDOW_SECONDS`."""

    plans: int
    reasons: list[str]
    steady: Cost
    away: Cost
    """While the server takes connections and never answers."""
    attempts: int
    """Connections that were tried in that time."""
    back_seconds: float
    """From the moment when the server was back until its resource was Ready."""


async def run(plans: int = PLANS) -> Result:
    """Measure on a stack of its own that is gone afterwards.

    Raises
    ------
    NotReady
        The operator did not say of every plan what is wrong.
    """
    async with stage() as here:
        await fill_database(here.server, here.session, NAME)
        proxy = Proxy(here.server.port)
        await proxy.open()
        try:
            return await _measure(here, proxy, plans)
        finally:
            await proxy.close()


async def _measure(here: Stage, proxy: Proxy, plans: int) -> Result:
    here.stack.start_operator()
    await here.register(NAME, proxy.port, NAME, guardrails={"privileges": READ_ONLY})
    await here.until_resources(lambda reason: reason == "Registered")
    with step(f"{plans} broken plans"):
        specs = list(SPECS.values())
        await asyncio.gather(
            *(here.plan(f"p{number}", NAME, **specs[number % len(specs)]) for number in range(plans))
        )
        await here.until_plans(SPECS.__contains__)
    with step("Backing off"):
        await asyncio.sleep(BACKOFF_SECONDS)
    steady = await _window(here, "Steady state")
    proxy.silent = True
    proxy.cut()
    with step("The server goes away"):
        await here.until_resources(lambda reason: reason == "ServerUnreachable")
        await here.until_plans(lambda reason: reason == "ResourceNotReady")
        await asyncio.sleep(BACKOFF_SECONDS)
    before = proxy.accepted
    away = await _window(here, "While it is away")
    attempts = proxy.accepted - before
    proxy.silent = False
    with step("And is back"):
        back = await here.until_resources(lambda reason: reason == "Registered")
    return Result(plans, list(SPECS), steady, away, attempts, back)


async def _window(here: Stage, what: str) -> Cost:
    with step(f"{what}, for {WINDOW_SECONDS} s"):
        async with here.meter.counting() as cost:
            await asyncio.sleep(WINDOW_SECONDS)
            cost.seconds = WINDOW_SECONDS
    return cost
