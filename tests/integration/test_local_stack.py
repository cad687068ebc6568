"""The stack of `make up`, in a directory of its own beside the one that the other tests share."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from local import cluster, kubeconfig, ports, processes
from local.errors import StackError
from local.postgresql import Server
from local.stack import Stack

VERSION = "18"
PARTS = (*cluster.PARTS, f"postgresql-{VERSION}")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"))
    start(stack)
    yield stack
    stack.destroy()


def start(stack: Stack) -> Server:
    stack.start_control_plane()
    return stack.start_postgres(VERSION)


def pids(stack: Stack) -> dict[str, int | None]:
    return {part: processes.running(cluster.record(stack.directory, part)) for part in PARTS}


def kill(stack: Stack, part: str) -> None:
    pid = pids(stack)[part]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while processes.started(pid) is not None:
        assert time.monotonic() < deadline


def query(server: Server, statement: str, password: str | None = None) -> list[tuple[object, ...]]:
    with psycopg.connect(
        host=server.host,
        port=server.port,
        user=server.user,
        password=password or server.password,
        dbname=server.database,
        autocommit=True,
    ) as session:
        cursor = session.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_a_second_start_leaves_everything_as_it_is(own: Stack) -> None:
    before = pids(own)
    assert None not in before.values()
    start(own)
    assert pids(own) == before


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_crashed_is_started_again_with_its_address_and_its_data(own: Stack, part: str) -> None:
    server = own.postgres(VERSION)
    table, configmap = (
        f"{part}-{kind}".replace("-", "_" if kind == "table" else "-") for kind in ("table", "map")
    )
    query(server, f"CREATE TABLE {table} ()")
    cluster.kubectl(own.kubeconfig, "create", "configmap", configmap)
    admin = own.kubeconfig.read_text()
    before = pids(own)

    kill(own, part)
    assert start(own) == server

    after = pids(own)
    assert None not in after.values()
    assert after[part] != before[part]
    assert own.kubeconfig.read_text() == admin
    assert query(server, f"SELECT to_regclass('{table}') IS NOT NULL") == [(True,)]
    assert cluster.kubectl(own.kubeconfig, "get", "configmap", configmap, "--output=name").strip()


def test_stopping_after_a_crash_leaves_no_process_and_no_port(own: Stack) -> None:
    kill(own, "kube-apiserver")
    alive = [pid for part, pid in pids(own).items() if pid is not None and part != "kube-apiserver"]
    own.stop()
    assert [processes.started(pid) for pid in alive] == [None] * len(alive)
    assert not list((own.directory / "run").iterdir())
    for file in (own.directory / "ports").iterdir():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", ports.remembered(file))) != 0
    own.stop()
    start(own)


@pytest.fixture
def database_only(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path / "stack")
    stack.start_postgres(VERSION)
    yield stack
    stack.destroy()


def test_another_process_stops_what_this_one_started(database_only: Stack) -> None:
    server = database_only.postgres(VERSION)
    pid = processes.running(cluster.record(database_only.directory, f"postgresql-{VERSION}"))
    assert pid is not None
    code = (
        "import sys; from pathlib import Path; from local.stack import Stack; Stack(Path(sys.argv[1])).stop()"
    )
    subprocess.run(  # noqa: S603 (our own code)
        [sys.executable, "-c", code, str(database_only.directory)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "deploy")},
        timeout=60,
    )
    assert processes.started(pid) is None
    with pytest.raises(psycopg.OperationalError):
        query(server, "SELECT 1")


def test_destroying_a_stack_leaves_no_data(database_only: Stack) -> None:
    known = json.loads((database_only.directory / f"postgresql-{VERSION}/server.json").read_text())
    assert Path(known["data"]).exists()
    database_only.destroy()
    assert not database_only.directory.exists()
    assert not Path(known["data"]).exists()


def test_postgresql_wants_the_password_by_scram(own: Stack) -> None:
    server = own.postgres(VERSION)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(server, "SELECT 1", password="wrong")
    methods = query(server, "SELECT DISTINCT auth_method FROM pg_hba_file_rules")
    assert methods == [("scram-sha-256",)]


def test_postgresql_logs_every_statement_and_no_password_of_its_own(own: Stack) -> None:
    server = own.postgres(VERSION)
    query(server, "SELECT 'a mark in the log'")
    log = server.log.read_text()
    assert "SELECT 'a mark in the log'" in log
    assert server.password not in log


def test_nothing_that_opens_a_door_is_readable_by_others(own: Stack) -> None:
    own.write_environment(own.postgres(VERSION))
    private = [own.kubeconfig, own.directory / "env", own.directory / f"postgresql-{VERSION}/server.json"]
    for file in [*private, *(own.directory / "certificates").glob("*.key")]:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def in_shell(own: Stack, command: str) -> str:
    """What a command prints in a shell that has sourced the environment file, and has nothing of ours beside."""
    path = own.write_environment(own.postgres(VERSION))
    return subprocess.run(  # noqa: S603 (our own file, in a shell as users do it)
        ["/bin/sh", "-ec", f'. "{path}"; {command}'],
        env={"PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


def test_the_environment_file_opens_both_doors_in_a_shell(own: Stack) -> None:
    who = json.loads(in_shell(own, "kubectl auth whoami --output=json"))
    assert "system:masters" in who["status"]["userInfo"]["groups"]
    assert in_shell(own, 'psql --tuples-only -c "SELECT 6 * 7"').strip() == "42"


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("hoop-operator plan --help", "usage: hoop-operator plan"),
        ("kubectl hoop --help", "Usage: kubectl hoop"),
        ("kubectl __complete hoop sus", "suspend\t"),
    ],
)
def test_the_environment_file_has_our_own_programs_found(own: Stack, command: str, shown: str) -> None:
    assert in_shell(own, command).startswith(shown)


def test_a_cluster_that_is_no_throwaway_is_refused_and_nothing_is_touched(own: Stack, tmp_path: Path) -> None:
    config = kubeconfig.read(own.kubeconfig)
    config["current-context"] = config["contexts"][0]["name"] = "production"
    foreign = tmp_path / "config"
    kubeconfig.save(foreign, config)
    before = own.kubeconfig.read_text(), pids(own)
    with pytest.raises(StackError, match="production"):
        own.use_cluster(str(foreign))
    assert (own.kubeconfig.read_text(), pids(own)) == before


def test_a_kubeconfig_without_a_current_context_is_refused(own: Stack, tmp_path: Path) -> None:
    with pytest.raises(StackError, match="there-is-no-such-file"):
        own.use_cluster(str(tmp_path / "there-is-no-such-file"))


def test_a_throwaway_cluster_of_somebody_else_replaces_our_own(own: Stack, tmp_path: Path) -> None:
    config = kubeconfig.read(own.kubeconfig)
    config["current-context"] = config["contexts"][0]["name"] = "kind-somebody"
    source = tmp_path / "config"
    kubeconfig.save(source, config)
    other = Stack(tmp_path / "other")
    other.use_cluster(str(source))
    assert not other.is_own(str(other.kubeconfig))
    assert cluster.kubectl(other.kubeconfig, "get", "--raw=/readyz") == "ok"
    assert own.is_own(str(own.kubeconfig))
