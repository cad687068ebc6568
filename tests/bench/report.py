"""What was measured, as a table for people and as JSON."""

import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from bench.measure import Cost
from bench.scenario import TABLES, Result
from bench.size import PLANS, SCHEMAS
from bench.size import TABLES as SIZE_TABLES
from bench.size import Result as Look
from local.stack import CHECKOUT

Figure = int | float | str | None
T = TypeVar("T")

SECONDS_PER_PLAN = 0.02
WRITES_PER_PLAN = 3.0
PEAK_RSS_MIB = 150.0
FLOOR_RATIO = 1.5
SCAN_RATIO = 3.0


def machine() -> dict[str, Any]:
    """What one has to know of the machine and the versions to judge the figures."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("describe", "--always", "--dirty"),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_gib": round(memory, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("kopf", "psycopg", "aiohttp", "pydantic")},
    }


def as_json(facts: dict[str, Any], results: Iterable[Result], looks: Iterable[Look]) -> dict[str, Any]:
    """Everything measured, without the SQL itself."""

    def without_log(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in items if key != "log"}

    return {
        "machine": facts,
        "results": [asdict(result, dict_factory=without_log) for result in results],
        "size": [asdict(look) for look in looks],
    }


def table(facts: dict[str, Any], results: Iterable[Result], looks: Sequence[Look]) -> str:
    """The figures, the targets beside them."""
    lines = ["", "  ".join(f"{name} {value}" for name, value in facts.items())]
    for result in results:
        lines += ["", *_table(result)]
    if looks:
        lines += ["", *_size_table(looks)]
    return "\n".join(lines)


def _table(result: Result) -> list[str]:
    count, creation, floor = result.plans, result.creation, result.floor
    phases = {"new": creation.cost, "restart": result.restart.cost, "drift": result.drift.cost}
    looked_at = [count, result.restart.looked_at, result.drift.looked_at]
    ratio = creation.ready_seconds / floor["both"].seconds
    cpu_ratio = _cpu(creation.cost) / _cpu(floor["both"])
    return [
        f"{count:,} plans on one server, in a database of {TABLES} tables",
        _line("", [*phases, "target"]),
        _line("plans seen to", looked_at),
        _line("seconds until all were", _each(phases, _seconds), f"new {count * SECONDS_PER_PLAN:.1f}"),
        _line("  until all were created", [creation.created_seconds]),
        _line("  until half were Ready", [creation.half_ready_seconds]),
        _line("API writes", _each(phases, _api_writes), "restart 0"),
        _line(
            "  per plan", [writes / count for writes in _each(phases, _api_writes)], f"new {WRITES_PER_PLAN}"
        ),
        *_by_name(phases, lambda cost: cost.api_writes),
        _line("API reads", _each(phases, lambda cost: sum(cost.api_reads.values()))),
        *_by_name(phases, lambda cost: cost.api_reads),
        "    (GET of plans: mostly Kubernetes' garbage collector, which looks up the owners of Secrets)",
        _line("API requests refused", _each(phases, lambda cost: sum(cost.api_refusals.values()))),
        *_by_name(phases, lambda cost: cost.api_refusals),
        _line("SQL statements that write", _each(phases, lambda cost: cost.sql.get("writing")), "restart 0"),
        _line("SQL statements that read", _each(phases, lambda cost: cost.sql.get("reading"))),
        _line("  both, per plan", [_statements(cost, count) for cost in phases.values()]),
        _line("BEGIN, SET, COMMIT", _each(phases, lambda cost: cost.sql.get("session"))),
        _line("SQL round trips", _each(phases, lambda cost: cost.round_trips)),
        _line("operator's peak RSS, MiB", _each(phases, lambda cost: cost.peak_rss_mib), PEAK_RSS_MIB),
        _line("CPU seconds, others left out", _each(phases, _cpu)),
        *_by_name(phases, lambda cost: cost.cpu),
        "",
        f"The floor: the same writes for {count:,} plans by plain clients",
        _line("", floor),
        _line("seconds", _each(floor, _seconds)),
        _line("API writes", _each(floor, _api_writes)),
        _line("SQL statements that write", _each(floor, lambda cost: cost.sql.get("writing"))),
        _line("SQL round trips", _each(floor, lambda cost: cost.round_trips)),
        _line("CPU seconds, others left out", _each(floor, _cpu)),
        *_by_name(floor, lambda cost: cost.cpu),
        f"All Ready in {ratio:.2f} times the floor of both at once, with {cpu_ratio:.2f} times its CPU time "
        f"(target {FLOOR_RATIO})",
    ]


def _size_table(looks: Sequence[Look]) -> list[str]:
    works = {
        f"{PLANS} plans at once": [look.at_once for look in looks],
        "one turn's plans": [look.turn for look in looks],
        f"{PLANS} plans, turn by turn": [look.turns for look in looks],
    }
    return [
        f"A look at {PLANS} plans that are as they should be, in a database of {SIZE_TABLES:,} tables in {SCHEMAS} "
        f"schemas",
        _line("scopes per plan", [look.scopes_per_plan for look in looks]),
        _line("ACL entries in the database", [look.acl_entries for look in looks]),
        _line("seconds of a plain scan", [look.scan for look in looks]),
        *(_line(f"seconds of {name}", seconds) for name, seconds in works.items()),
        *(
            _line(
                f"  in plain scans: {name}",
                [second / look.scan for second, look in zip(seconds, looks, strict=True)],
                SCAN_RATIO if name != f"{PLANS} plans, turn by turn" else "",
            )
            for name, seconds in works.items()
        ),
        _line("peak RSS, MiB", [look.peak_rss_mib for look in looks], PEAK_RSS_MIB),
    ]


def _seconds(cost: Cost) -> float:
    return cost.seconds


def _cpu(cost: Cost) -> float:
    """What the stack and this benchmark used; whatever else ran on the machine makes it slower, not dearer."""
    return sum(seconds for part, seconds in cost.cpu.items() if part != "others")


def _api_writes(cost: Cost) -> int:
    return sum(cost.api_writes.values())


def _statements(cost: Cost, plans: int) -> float | None:
    return (cost.sql["writing"] + cost.sql["reading"]) / plans if cost.sql else None


def _each(costs: Mapping[str, Cost], figure: Callable[[Cost], T]) -> list[T]:
    return [figure(cost) for cost in costs.values()]


def _by_name(costs: Mapping[str, Cost], figures: Callable[[Cost], Mapping[str, Figure]]) -> list[str]:
    names = sorted({name for cost in costs.values() for name in figures(cost)})
    return [_line(f"  {name}", [figures(cost).get(name, 0) for cost in costs.values()]) for name in names]


def _line(name: str, figures: Iterable[Figure], target: Figure = "") -> str:
    return f"{name:45}" + "".join(f"{_text(figure):>15}" for figure in (*figures, target)).rstrip()


def _text(figure: Figure) -> str:
    match figure:
        case None:
            return "-"
        case int():
            return f"{figure:,}"
        case float():
            return f"{figure:,.2f}"
        case str():
            return figure


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
