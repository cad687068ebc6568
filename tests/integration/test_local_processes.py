import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local import ports, processes
from local.errors import StackError

pytestmark = pytest.mark.version_independent

SLEEPER = ["sleep", "600"]


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "run/part.json"
    yield path
    processes.stop(path)


def start(record: Path, command: list[str]) -> None:
    processes.start(
        record, command, log=record.parent.parent / "part.log", environment={"PATH": os.environ["PATH"]}
    )


def pid_of(record: Path) -> int:
    pid = processes.running(record)
    assert pid is not None
    return pid


def test_a_started_process_lives_until_it_is_stopped(record: Path) -> None:
    start(record, SLEEPER)
    pid = pid_of(record)
    processes.stop(record)
    assert processes.started(pid) is None
    assert not record.exists()


def test_stopping_what_never_ran_does_nothing(record: Path) -> None:
    processes.stop(record)


def test_a_process_that_got_the_id_of_ours_is_left_alone(record: Path) -> None:
    with subprocess.Popen(SLEEPER) as stranger:  # noqa: S603 (a constant command)
        try:
            processes.write_record(record, stranger.pid)
            written = json.loads(record.read_text())
            record.write_text(json.dumps({**written, "started": "earlier"}))
            assert processes.running(record) is None
            processes.stop(record)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_process_that_ignores_the_request_is_ended_by_force(record: Path) -> None:
    log = record.parent.parent / "part.log"
    start(record, ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 600 & wait $!; done"])
    processes.wait_until(lambda: "deaf" in log.read_text(), record, log=log, seconds=20)
    pid = pid_of(record)
    processes.stop(record, patience=0.2)
    assert processes.started(pid) is None


def test_a_killed_process_does_not_count_as_running(record: Path) -> None:
    start(record, SLEEPER)
    os.kill(pid_of(record), signal.SIGKILL)
    deadline = time.monotonic() + 20
    while processes.running(record) is not None:
        assert time.monotonic() < deadline
    processes.stop(record)


def test_waiting_for_a_process_that_ends_shows_the_end_of_its_log(record: Path) -> None:
    log = record.parent.parent / "part.log"
    start(record, ["sh", "-c", "echo address already in use; exit 1"])
    with pytest.raises(StackError, match="address already in use"):
        processes.wait_until(lambda: False, record, log=log, seconds=20)


def test_waiting_ends_at_the_deadline(record: Path) -> None:
    start(record, SLEEPER)
    with pytest.raises(StackError, match="not ready after 0 s"):
        processes.wait_until(lambda: False, record, log=record.parent.parent / "part.log", seconds=0.1)


def test_a_port_is_kept_while_it_is_free_and_replaced_when_it_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "ports/part"
    first = ports.choose(file)
    assert ports.choose(file) == first
    with socket.socket() as somebody_else:
        somebody_else.bind(("127.0.0.1", first))
        somebody_else.listen()
        assert ports.choose(file) != first


def test_no_two_files_of_a_folder_remember_one_port(tmp_path: Path) -> None:
    files = [tmp_path / f"ports/{number}" for number in range(20)]
    assert len({ports.choose(file) for file in files}) == len(files)
