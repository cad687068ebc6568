"""What was measured, as a table for people and as JSON."""

import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from bench.broken import WINDOW_SECONDS
from bench.broken import Result as Broken
from bench.http_api import SECONDS as HTTP_SECONDS
from bench.http_api import Result as HttpApi
from bench.measure import Cost
from bench.scenario import TABLES, Result
from bench.servers import TABLES as SERVERS_TABLES
from bench.servers import Result as Servers
from bench.size import PLANS, SCHEMAS
from bench.size import TABLES as SIZE_TABLES
from bench.size import Result as Look
from bench.soak import Result as Soak
from hoop_operator.settings import Settings
from local.stack import CHECKOUT

Figure = int | float | str | None
T = TypeVar("T")

SECONDS_PER_PLAN = 0.02
WRITES_PER_PLAN = 3.0
PEAK_RSS_MIB = 150.0
FLOOR_RATIO = 1.5
SCAN_RATIO = 3.0
DRIFT_CPU_SHARE = 0.05
"""Of one core, that looks for drift may take of the operator with the interval that is its default."""
BROKEN_CPU_SHARE = 0.1
ATTEMPTS_PER_MINUTE = 3
"""Connections to a server that does not answer, with the default pauses."""
GROWTH_RATIO = 1.05


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


@dataclass
class Measured:
    """The results of all parts that were measured."""

    results: list[Result] = field(default_factory=list)
    size: list[Look] = field(default_factory=list)
    servers: list[Servers] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    soak: list[Soak] = field(default_factory=list)
    http_api: list[HttpApi] = field(default_factory=list)

    @property
    def anything(self) -> bool:
        """Whether there is anything to tell."""
        parts = (self.results, self.size, self.servers, self.broken, self.soak, self.http_api)
        return any(parts)


def as_json(facts: dict[str, Any], measured: Measured) -> dict[str, Any]:
    """Everything measured, without the SQL itself."""

    def without_log(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in items if key != "log"}

    return {"machine": facts, **asdict(measured, dict_factory=without_log)}


def table(facts: dict[str, Any], measured: Measured) -> str:
    """The figures, the targets beside them."""
    lines = ["", "  ".join(f"{name} {value}" for name, value in facts.items())]
    for result in measured.results:
        lines += ["", *_table(result)]
    if measured.size:
        lines += ["", *_size_table(measured.size)]
    for many in measured.servers:
        lines += ["", *_servers_table(many)]
    for bad in measured.broken:
        lines += ["", *_broken_table(bad)]
    for long in measured.soak:
        lines += ["", *_soak_table(long)]
    for asked in measured.http_api:
        lines += ["", *_http_api_table(asked)]
    return "\n".join(lines)


def missed(measured: Measured) -> list[str]:
    """Say which targets were missed that hold on every machine, however slow and busy it is."""
    writes: dict[str, int] = {}
    statements: dict[str, int | None] = {}
    most: list[tuple[str, float, float]] = []
    for result in measured.results:
        what = f"a restart with {result.plans:,} plans"
        writes[what] = _api_writes(result.restart.cost)
        statements[what] = result.restart.cost.sql.get("writing")
    for many in measured.servers:
        writes[f"a restart with {many.servers} servers"] = _api_writes(many.restart)
        writes[f"a drift period of {many.servers} servers"] = _api_writes(many.drift)
    for bad in measured.broken:
        writes[f"{bad.plans:,} broken plans"] = _api_writes(bad.steady)
        writes[f"{bad.plans:,} broken plans while their server is away"] = _api_writes(bad.away)
        most.append(
            ("attempts per minute to connect to a server that is away", bad.attempts, ATTEMPTS_PER_MINUTE)
        )
    most += [(f"API writes of {what}", count, 0) for what, count in writes.items()]
    most += [(f"SQL statements that write of {what}", count or 0, 0) for what, count in statements.items()]
    most += [("growth of memory, in times", long.growth, GROWTH_RATIO) for long in measured.soak]
    most += [("failures of the HTTP API", len(asked.failures), 0) for asked in measured.http_api]
    return [
        f"{what}: {_text(figure)}, and not {_text(target)} at most"
        for what, figure, target in most
        if figure > target
    ]


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


def _servers_table(result: Servers) -> list[str]:
    phases = {"new": result.creation, "restart": result.restart, "drift period": result.drift}
    at_default = _operator(result.drift) / Settings().drift_interval_seconds
    return [
        f"{result.servers} servers with {result.plans_per_server} plans each, in databases of {SERVERS_TABLES} tables",
        *_cost_lines(phases, "restart, drift 0"),
        _line("SQL round trips per server", [cost.round_trips / result.servers for cost in phases.values()]),
        _line("operator's RSS in the end, MiB", [result.rss_mib]),
        f"Looks for drift take {at_default:.1%} of a core of the operator with the default interval "
        f"(target {DRIFT_CPU_SHARE:.0%})",
    ]


def _broken_table(result: Broken) -> list[str]:
    phases = {"steady": result.steady, "server away": result.away}
    shares = [_operator(cost) / cost.seconds for cost in phases.values()]
    return [
        f"{result.plans:,} broken plans ({', '.join(result.reasons)}), in {WINDOW_SECONDS} s",
        *_cost_lines(phases, 0),
        _line("operator's share of a core", shares, BROKEN_CPU_SHARE),
        _line("attempts to connect, per minute", ["-", result.attempts], ATTEMPTS_PER_MINUTE),
        _line("seconds until Ready when it is back", ["-", result.back_seconds]),
    ]


def _soak_table(result: Soak) -> list[str]:
    return [
        f"{result.events:,} events on {result.plans} plans; API writes count these too",
        *_cost_lines({"": result.cost}),
        _line("operator's RSS, MiB: first, middle, last", _first_middle_last(result.rss_mib)),
        f"Memory in the end is {result.growth:.3f} times what it was before the middle (target {GROWTH_RATIO})",
    ]


def _http_api_table(result: HttpApi) -> list[str]:
    return [
        f"{result.requests:,} requests by {result.clients} clients of the HTTP API in {HTTP_SECONDS} s",
        _line("", ["median", "longest", "target"]),
        *(_line(f"seconds to {name}", waits) for name, waits in result.waits.items()),
        _line("failures", ["-", len(result.failures)], 0),
        *(f"  {failure[:200]}" for failure in result.failures[:3]),
        _line("RSS of the API, MiB: warm, in the end", [result.warm_rss_mib, result.rss_mib]),
    ]


def _cost_lines(phases: Mapping[str, Cost], writes_target: Figure = "") -> list[str]:
    """What every part of this benchmark tells of a piece of work."""
    return [
        _line("", [*phases, "target"]),
        _line("seconds", _each(phases, _seconds)),
        _line("API writes", _each(phases, _api_writes), writes_target),
        *_by_name(phases, lambda cost: cost.api_writes),
        _line("API reads", _each(phases, lambda cost: sum(cost.api_reads.values()))),
        *_by_name(phases, lambda cost: cost.api_reads),
        _line("SQL statements that write", _each(phases, lambda cost: cost.sql.get("writing"))),
        _line("SQL statements that read", _each(phases, lambda cost: cost.sql.get("reading"))),
        _line("SQL round trips", _each(phases, lambda cost: cost.round_trips)),
        _line("operator's peak RSS, MiB", _each(phases, lambda cost: cost.peak_rss_mib)),
        _line("CPU seconds, others left out", _each(phases, _cpu)),
        *_by_name(phases, lambda cost: cost.cpu),
    ]


def _first_middle_last(samples: Sequence[float]) -> list[float]:
    return [samples[0], samples[len(samples) // 2], samples[-1]]


def _operator(cost: Cost) -> float:
    return cost.cpu.get("operator", 0.0)


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
