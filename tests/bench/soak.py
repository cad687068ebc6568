"""Very many events on few plans, as fast as they are taken: whether the operator's memory grows with them."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.client import AT_ONCE, MERGE_PATCH, Refused
from bench.crowd import Stage, stage
from bench.measure import Cost
from bench.scenario import NAME, PLANS, READ_ONLY, READ_WRITE, SECRETS, fill_database, ready_times
from local.progress import step

COUNT = 100
EVENTS = 20_000
SAMPLE_SECONDS = 1.0


@dataclass
class Result:
    """What was measured with a number of plans and of events."""

    plans: int
    events: int
    cost: Cost
    """`seconds` is the time until all that was asked for had been done."""
    rss_mib: list[float]
    """Samples of the operator's memory, one about every second while the events came."""

    @property
    def growth(self) -> float:
        """The memory of the last tenth of the time, in times that of the tenth before the middle."""
        tenth = max(1, len(self.rss_mib) // 10)
        middle = len(self.rss_mib) // 2
        return max(self.rss_mib[-tenth:]) / max(self.rss_mib[max(0, middle - tenth) : middle])


async def run(plans: int = COUNT, events: int = EVENTS) -> Result:
    """Measure on a stack of its own that is gone afterwards.

    Raises
    ------
    NotReady
        The operator did not bring every plan to Ready.
    """
    async with stage() as here:
        await fill_database(here.server, here.session, NAME)
        here.stack.start_operator()
        await here.register(NAME, here.server.port, NAME)
        names = [f"p{number}" for number in range(plans)]
        for name in names:
            await here.plan(name, NAME, scopes=[NAME], privileges=READ_ONLY)
        await ready_times(here.admin, set(names))
        rss: list[float] = []
        with step(f"{events} events on {plans} plans"):
            async with here.meter.measuring() as cost:
                began = time.monotonic()
                sampling = asyncio.create_task(_sample(here, rss))
                numbers = iter(range(events))
                await asyncio.gather(*(_disturb(here, names, numbers) for _ in range(AT_ONCE)))
                sampling.cancel()
                cost.seconds = await here.meter.quiet() - began
        await ready_times(here.admin, set(names))
        return Result(plans, events, cost, rss)


async def _disturb(here: Stage, names: list[str], numbers: Iterator[int]) -> None:
    """Edit plans, annotate them, and delete their Secrets, in turn."""
    for number in numbers:
        name = names[number % len(names)]
        try:
            match number // len(names) % 4:
                case 0 | 1:
                    annotations = {"hoop.dev/reconcile-at": str(number)}
                    await here.admin.patch(
                        f"{PLANS}/{name}", {"metadata": {"annotations": annotations}}, MERGE_PATCH
                    )
                case 2:
                    privileges = [READ_WRITE, READ_ONLY][number // len(names) // 4 % 2]
                    await here.admin.patch(
                        f"{PLANS}/{name}", {"spec": {"privileges": privileges}}, MERGE_PATCH
                    )
                case _:
                    await here.admin.delete(f"{SECRETS}/{name}-credentials")
        except Refused as refusal:
            if " 404 " not in str(refusal):  # the Secret has not been made anew yet
                raise


async def _sample(here: Stage, rss: list[float]) -> None:
    while True:
        rss.append(here.meter.operator_rss_mib())
        await asyncio.sleep(SAMPLE_SECONDS)
