"""`python -m bench`: what 100 and 1,000 plans cost, and a look at a big database.

Prints tables, and keeps the figures as JSON in build/bench/.
"""

import argparse
import asyncio
import json
import signal
import sys
from types import FrameType

from bench import report, scenario, size
from local.errors import StackError
from local.progress import say
from local.stack import CHECKOUT

KEPT = CHECKOUT / "build/bench"


def main() -> int:
    """Measure; return 1 when something did not become Ready."""
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
        choices=["plans", "size"],
        help=f"measure new plans alone, or the look at a database of {size.TABLES:,} tables alone",
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
    results: list[scenario.Result] = []
    looks: list[size.Result] = []
    try:
        if arguments.only != "plans":
            looks = size.run()  # first, because its peak of memory is this process's
        for plans in arguments.plans if arguments.only != "size" else ():
            profile = kept.with_name(f"{kept.stem}-{plans}") if arguments.profile else None
            results.append(asyncio.run(scenario.run(plans, profile)))
    except (StackError, scenario.NotReady) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if results or looks:
            kept.write_text(json.dumps(report.as_json(facts, results, looks), indent=2) + "\n")
            say(report.table(facts, results, looks))
            say(f"\nKept as {kept.relative_to(CHECKOUT)}")
    return 0


def _end(signum: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + signum)  # so that the stack is cleared away


if __name__ == "__main__":
    sys.exit(main())
