"""What a piece of work costs: CPU time by part, requests to the API server, statements to PostgreSQL, memory."""

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.rows import TupleRow

from bench.client import Client
from local import cluster, postgresql, processes
from local.postgresql import Server
from local.stack import Stack

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.2
QUIET_SECONDS = 1.0
QUIET_CPU = 0.1
"""CPU seconds within `QUIET_SECONDS` that a part which has nothing to do may use."""
PATIENCE_SECONDS = 60.0

WRITING_VERBS = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})
COUNTED_GROUPS = frozenset({"hoop.dev", "events.k8s.io"})
COUNTED_CORE = frozenset({"secrets", "configmaps", "events", "namespaces"})
REQUESTS = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')

LOGGED = re.compile(r"^\S+ \S+ \S+ \[(\d+)\] \S* ?LOG:  (?:statement|execute [^:]*): ")
SESSION_KEYWORDS = frozenset({"BEGIN", "COMMIT", "ROLLBACK", "SET", "RESET", "DISCARD", "DEALLOCATE"})
READING_KEYWORDS = frozenset({"SELECT", "WITH", "SHOW", "VALUES", "TABLE", "FETCH"})


@dataclass
class Cost:
    """What was used between two moments."""

    seconds: float = 0.0
    """Until the work was done, by whatever sign of it the caller watched."""
    cpu: dict[str, float] = field(default_factory=dict)
    """CPU seconds by part; `others` is the rest of the machine."""
    api_writes: dict[str, int] = field(default_factory=dict)
    api_reads: dict[str, int] = field(default_factory=dict)
    api_refusals: dict[str, int] = field(default_factory=dict)
    """Requests that were answered with a status of 400 or more, whichever they are."""
    sql: dict[str, int] = field(default_factory=dict)
    """Statements by kind (`writing`, `reading`, `session`); empty where the server does not count them."""
    round_trips: int = 0
    """Queries in PostgreSQL's log; one may hold several statements."""
    peak_rss_mib: float | None = None
    """The most memory that the operator's process ever had."""
    log: list["Query"] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Query:
    """One entry of PostgreSQL's log."""

    pid: int
    text: str


class Meter:
    """Reads every gauge of one stack."""

    def __init__(
        self, stack: Stack, server: Server, client: Client, session: psycopg.AsyncConnection[TupleRow]
    ) -> None:
        self._stack = stack
        self._server = server
        self._client = client
        self._session = session
        self._counts_statements = False

    async def prepare(self) -> None:
        """Have PostgreSQL count statements, where it can."""
        shown = await (await self._session.execute("SHOW shared_preload_libraries")).fetchone()
        if shown is not None and "pg_stat_statements" in shown[0]:
            await self._session.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            self._counts_statements = True

    @asynccontextmanager
    async def measuring(self) -> AsyncIterator[Cost]:
        """Measure what happens within the block and until everything is quiet again; the block sets `seconds`."""
        await self.quiet()
        async with self.counting() as cost:
            yield cost
            await self.quiet()

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Cost]:
        """Measure what happens within the block, whatever is going on before and after."""
        cost = Cost()
        if self._counts_statements:
            await self._session.execute("SELECT pg_stat_statements_reset()")
        position = self.log_size()
        requests_before = await self._requests()
        cpu_before, machine_before = self._cpu(), _machine_cpu()
        yield cost
        cpu_after, machine_after = self._cpu(), _machine_cpu()
        cost.cpu = {part: cpu_after[part] - cpu_before.get(part, 0.0) for part in cpu_after}
        cost.cpu["others"] = max(0.0, machine_after - machine_before - sum(cost.cpu.values()))
        requests = await self._requests()
        requests.subtract(requests_before)
        for (verb, resource, refused), count in sorted(requests.items()):
            if count:
                kind = f"{verb} {resource}"
                found = cost.api_writes if verb in WRITING_VERBS else cost.api_reads
                found[kind] = found.get(kind, 0) + count
                if refused:
                    cost.api_refusals[kind] = cost.api_refusals.get(kind, 0) + count
        cost.log = list(_queries(self._log_since(position)))
        cost.round_trips = len(cost.log)
        if self._counts_statements:
            cost.sql = await self._statements()
        if (pid := self.operator_pid()) is not None:
            cost.peak_rss_mib = memory_mib(pid, "VmHWM")

    async def quiet(self) -> float:
        """Wait until nothing of the stack works any more; return the moment (monotonic) when the last work ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        samples = [(time.monotonic(), self._working())]
        busy_until = samples[0][0]
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            now, used = time.monotonic(), self._working()
            if used - samples[-1][1] > QUIET_CPU * SAMPLE_SECONDS / QUIET_SECONDS + 1 / TICKS_PER_SECOND:
                busy_until = now
            samples = [(at, cpu) for at, cpu in samples if now - at <= QUIET_SECONDS]
            samples.append((now, used))
            long_enough = now - samples[0][0] > QUIET_SECONDS - 1.5 * SAMPLE_SECONDS
            if (long_enough and used - samples[0][1] <= QUIET_CPU) or now > deadline:
                return busy_until

    def operator_rss_mib(self) -> float:
        """The memory that the operator's process has now; 0 where it does not run."""
        pid = self.operator_pid()
        return memory_mib(pid, "VmRSS") if pid is not None else 0.0

    def operator_pid(self) -> int | None:
        """The operator's process, while it runs."""
        return processes.running(cluster.record(self._stack.directory, "operator"))

    def operator_started(self) -> float:
        """When the operator's process began, on the monotonic clock."""
        pid = self.operator_pid()
        ticks = int(_stat(pid)[19]) if pid is not None else 0
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / TICKS_PER_SECOND
        return time.monotonic() - age

    def log_size(self) -> int:
        """How long PostgreSQL's log is, in bytes: it grows with every query."""
        return self._server.log.stat().st_size

    def log_text(self, position: int) -> str:
        """What PostgreSQL's log says after a position, parameters included."""
        return "".join(self._log_since(position))

    def _log_since(self, position: int) -> list[str]:
        with self._server.log.open("rb") as file:
            file.seek(position)
            return file.read().decode(errors="replace").splitlines(keepends=True)

    def _working(self) -> float:
        used = self._cpu()
        return used.get("operator", 0.0) + used["PostgreSQL"] + used["kube-apiserver"]

    def _cpu(self) -> dict[str, float]:
        records = {part: cluster.record(self._stack.directory, part) for part in (*cluster.PARTS, "operator")}
        records["PostgreSQL"] = postgresql.record(self._stack.directory, self._server.version)
        pids = {part: processes.running(record) for part, record in records.items()}
        own = time.process_time()
        return {part: _cpu_seconds(pid) for part, pid in pids.items() if pid is not None} | {"bench": own}

    async def _requests(self) -> Counter[tuple[str, str, bool]]:
        """Requests that the API server has answered, by verb, resource, and whether it refused them."""
        found: Counter[tuple[str, str, bool]] = Counter()
        for labels, count in REQUESTS.findall(await self._client.text("/metrics")):
            label = dict(LABEL.findall(labels))
            resource, group = label["resource"], label["group"]
            if (label["verb"], resource) == ("POST", "hooproleplans"):
                continue  # plans are created by people, here by this benchmark
            if group in COUNTED_GROUPS or (not group and resource in COUNTED_CORE):
                subresource = f"/{label['subresource']}" if label["subresource"] else ""
                refused = label["code"].isdecimal() and int(label["code"]) >= 400
                found[label["verb"], resource + subresource, refused] += int(float(count))
        return found

    async def _statements(self) -> dict[str, int]:
        rows = await self._session.execute("SELECT query, calls FROM pg_stat_statements")
        kinds = {"writing": 0, "reading": 0, "session": 0}
        for query, calls in await rows.fetchall():
            if "pg_stat_statements" not in query:
                kinds[_kind(query)] += calls
        return kinds


def _kind(query: str) -> str:
    keyword = query.lstrip("( \n\t").split(None, 1)[0].upper().rstrip(";")
    if keyword in SESSION_KEYWORDS:
        return "session"
    return "reading" if keyword in READING_KEYWORDS else "writing"


def _queries(lines: list[str]) -> Iterator[Query]:
    pid, text = 0, ""
    for line in lines:
        if line.startswith("\t"):
            text += line if text else ""
            continue
        if text:
            yield Query(pid, text.rstrip("\n"))
            text = ""
        if found := LOGGED.match(line):
            pid, text = int(found[1]), line[found.end() :]
    if text:
        yield Query(pid, text.rstrip("\n"))


def _stat(pid: int) -> list[str]:
    # Behind the command's name in parentheses proc(5) counts from field 3: 4 is the parent, 14 to 17 are the CPU
    # times of the process and its collected children, 22 is the start.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process and its children, those that have ended included."""
    ticks = 0
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal():
            try:
                fields = _stat(int(directory.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(pid) in (directory.name, fields[1]):
                ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS_PER_SECOND


def _machine_cpu() -> float:
    """CPU seconds that the whole machine has used, in user and kernel mode."""
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / TICKS_PER_SECOND


def memory_mib(pid: int, field_name: str) -> float:
    """A figure of proc_pid_status(5): `VmRSS` is what a process has in memory, `VmHWM` the most it ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{field_name}:"))
    return int(line.split()[1]) / 1024
