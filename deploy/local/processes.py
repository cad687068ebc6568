"""Background processes that outlive the command which started them, each with a record on disk.

A record names the process by its id and the moment it started, so that a later command stops exactly this
process: an id alone may long belong to another program.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from local.errors import StackError
from local.files import write_private

_children: dict[int, subprocess.Popen[bytes]] = {}
"""What this very process started: it has to collect them when they end, or they stay as zombies."""


def start(
    record: Path,
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str],
    user: str | None = None,
    group: int | None = None,
) -> None:
    """Start a command in its own session, its output appended to `log`, and write its record.

    The command survives the terminal's Ctrl-C and the end of this process. `user` and `group` need root.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd="/",
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            start_new_session=True,
        )
    _collect_ended()
    _children[child.pid] = child
    write_record(record, child.pid)


def write_record(record: Path, pid: int) -> None:
    """Record a process, so that it can be found again by whoever reads the file."""
    record.parent.mkdir(parents=True, exist_ok=True)
    write_private(record, json.dumps({"pid": pid, "started": started(pid)}))


def started(pid: int) -> str | None:
    """Return a text that no other process of this id ever has; None for a process that has ended."""
    try:
        return _start_on_linux(pid) if Path("/proc/self/stat").exists() else _start_by_ps(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None


def _start_on_linux(pid: int) -> str | None:
    # The command's name stands in parentheses and may hold anything, parentheses too. Behind it proc(5) counts
    # field 3, the state, field 20, the number of threads, and field 22, the start in ticks since the machine booted.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    state, threads, ticks = fields[0], int(fields[17]), fields[19]
    # A zombie has ended, but while it has other threads these still hold its files and ports.
    if state == "Z" and threads <= 1:
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {ticks}"


def _start_by_ps(pid: int) -> str | None:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return None if not shown or shown.startswith("Z") else shown.split(maxsplit=1)[1]


def running(record: Path) -> int | None:
    """Return the id of the recorded process while it lives, else None."""
    try:
        written = json.loads(record.read_text())
    except FileNotFoundError:
        return None
    pid: int = written["pid"]
    if written["started"] is not None and started(pid) == written["started"]:
        return pid
    _collect_ended()
    return None


def _collect_ended() -> None:
    for pid, child in [*_children.items()]:
        if child.poll() is not None:
            del _children[pid]


def stop(record: Path, *, ask: signal.Signals = signal.SIGTERM, patience: float = 15) -> None:
    """End the recorded process and forget it: by the signal `ask`, after `patience` seconds by force."""
    if (pid := running(record)) is not None:
        os.kill(pid, ask)
        if not _ended(record, patience):
            os.killpg(pid, signal.SIGKILL)
            if not _ended(record, patience):
                raise StackError(f"process {pid} does not end, not even by force; its record is {record}")
    record.unlink(missing_ok=True)


def _ended(record: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while running(record) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def wait_until(ready: Callable[[], bool], record: Path, *, log: Path, seconds: float) -> None:
    """Wait until the recorded process does its work.

    Raises
    ------
    StackError
        It ended, or was not ready in time; the message holds the end of its log.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if running(record) is None:
            raise StackError(f"{record.stem} ended while starting; the end of {log}:\n{_end_of(log)}")
        if time.monotonic() > deadline:
            raise StackError(
                f"{record.stem} is not ready after {seconds:.0f} s; the end of {log}:\n{_end_of(log)}"
            )
        time.sleep(0.05)


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-15:]
    return "\n".join(f"  {line}" for line in lines)
