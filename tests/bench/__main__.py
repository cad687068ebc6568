"""`python -m bench`: what 100 and 1,000 plans cost, a look at a big database, and what it costs to stand still.

Prints tables, and keeps the figures as JSON in build/bench/. All parts together take about twenty minutes. Targets that
do not depend on the machine are checked: what grows, what is written or tried in vain, what fails.
"""

import argparse
import asyncio
import json
import signal
import sys
from types import FrameType

from bench import broken, http_api, report, scenario, servers, size, soak
from local.errors import StackError
from local.progress import say
from local.stack import CHECKOUT

KEPT = CHECKOUT / "build/bench"


def main() -> int:
    """Measure; return 1 when something did not become Ready, or a target was missed that holds on every machine."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--plans",
        type=int,
        nargs="+",
        default=[100, 1000],
        metavar="N",
        help="how many plans to create at once; each number is measured on a stack of its own",
    )
    parser.add_argument(
        "--only",
        choices=["plans", "size", "servers", "broken", "soak", "http-api"],
        help=f"measure one part alone: new plans; the look at a database of {size.TABLES:,} tables; {servers.SERVERS} "
        f"servers with {servers.PLANS_PER_SERVER} plans each; {broken.PLANS:,} broken plans; {soak.EVENTS:,} events; "
        f"{http_api.CLIENTS} clients of the HTTP API",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="sample where the operator uses its CPU time; the profiles lie beside the JSON",
    )
    arguments = parser.parse_args()
    if sys.platform != "linux":
        print("error: CPU time and memory are read from /proc, which only Linux has", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _end)
    facts = report.machine()
    KEPT.mkdir(parents=True, exist_ok=True)
    kept = KEPT / f"{facts['at'].replace(':', '').removesuffix('+0000')}.json"
    measured = report.Measured()
    wanted = arguments.only
    try:
        if wanted in (None, "size"):
            measured.size = size.run()  # first, because its peak of memory is this process's
        for plans in arguments.plans if wanted in (None, "plans") else ():
            profile = kept.with_name(f"{kept.stem}-{plans}") if arguments.profile else None
            measured.results.append(asyncio.run(scenario.run(plans, profile)))
        if wanted in (None, "servers"):
            measured.servers.append(asyncio.run(servers.run()))
        if wanted in (None, "broken"):
            measured.broken.append(asyncio.run(broken.run()))
        if wanted in (None, "soak"):
            measured.soak.append(asyncio.run(soak.run()))
        if wanted in (None, "http-api"):
            measured.http_api.append(asyncio.run(http_api.run()))
    except (StackError, scenario.NotReady) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if measured.anything:
            kept.write_text(json.dumps(report.as_json(facts, measured), indent=2) + "\n")
            say(report.table(facts, measured))
            say(f"\nKept as {kept.relative_to(CHECKOUT)}")
    missed = report.missed(measured)
    for target in missed:
        print(f"missed: {target}", file=sys.stderr)
    return 1 if missed else 0


def _end(signum: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + signum)  # so that the stack is cleared away


if __name__ == "__main__":
    sys.exit(main())
