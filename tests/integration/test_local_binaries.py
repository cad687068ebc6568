"""How the control plane's programs are found and built, with a stand-in for the Go toolchain."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from local.binaries import PROGRAMS

pytestmark = pytest.mark.version_independent

# Answers `go version`; for `go build`, counts itself in `builds`, then waits for the file `go-on`.
GO = """#!/bin/sh
if [ "$1" = version ]; then echo "go version ${FAKE_GO_VERSION:-go1.26.0} test/test"; exit; fi
while [ "$1" != -o ]; do shift; done
echo built >> "$FAKE_GO/builds"
while [ ! -e "$FAKE_GO/go-on" ]; do sleep 0.02; done
if [ -e "$FAKE_GO/fail" ]; then echo "no space left on device"; exit 1; fi
for program in etcd kube-apiserver kube-controller-manager; do : > "$2$program"; done
"""

LOOK_UP = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background of a shell has it ignored
from local import binaries
from local.errors import StackError
print("looking", file=sys.stderr, flush=True)
try:
    print("FOUND", binaries.control_plane())
except StackError as error:
    print("REFUSED", error)
"""


@pytest.fixture
def fake_go(tmp_path: Path) -> Path:
    folder = tmp_path / "go"
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin/go"
    program.write_text(GO)
    program.chmod(0o755)
    return folder


@pytest.fixture
def environment(tmp_path: Path, fake_go: Path) -> dict[str, str]:
    return {
        "PATH": f"{fake_go / 'bin'}:{os.environ['PATH']}",
        "FAKE_GO": str(fake_go),
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[2] / "deploy"),
    }


@contextmanager
def looking_up(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Look for the programs in another process, in a process group of its own."""
    with subprocess.Popen(  # noqa: S603 (our own code)
        [sys.executable, "-c", LOOK_UP],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "looking\n"
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def outcome(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=60)
    return next(line for line in output.splitlines() if line.startswith(("FOUND", "REFUSED")))


def look_up(environment: dict[str, str]) -> str:
    with looking_up(environment) as process:
        return outcome(process)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def builds(fake_go: Path) -> int:
    log = fake_go / "builds"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_a_build_is_kept_and_used_again(environment: dict[str, str], fake_go: Path) -> None:
    (fake_go / "go-on").touch()
    first = look_up(environment)
    assert {file.name for file in Path(first.removeprefix("FOUND ")).iterdir()} == set(PROGRAMS)
    assert look_up(environment) == first
    assert builds(fake_go) == 1


def test_two_at_once_build_once(environment: dict[str, str], fake_go: Path) -> None:
    with looking_up(environment) as first:
        wait_for(lambda: builds(fake_go) == 1)
        with looking_up(environment) as second:
            (fake_go / "go-on").touch()
            assert outcome(first) == outcome(second)
    assert builds(fake_go) == 1


def test_a_killed_build_leaves_nothing_that_counts_and_the_next_one_cleans_up(
    environment: dict[str, str], fake_go: Path, tmp_path: Path
) -> None:
    with looking_up(environment) as killed:
        wait_for(lambda: builds(fake_go) == 1)
        os.killpg(killed.pid, signal.SIGKILL)
    (fake_go / "go-on").touch()
    assert look_up(environment).startswith("FOUND")
    assert builds(fake_go) == 2
    assert not list((tmp_path / "cache").rglob("*.building-*"))


def test_an_interrupted_build_removes_what_it_began(
    environment: dict[str, str], fake_go: Path, tmp_path: Path
) -> None:
    with looking_up(environment) as interrupted:
        wait_for(lambda: builds(fake_go) == 1)
        os.killpg(interrupted.pid, signal.SIGINT)
        interrupted.communicate(timeout=30)
    assert not [path for path in (tmp_path / "cache/hoop-operator").iterdir() if path.is_dir()]


def test_a_failed_build_says_why_and_where_the_log_is(environment: dict[str, str], fake_go: Path) -> None:
    (fake_go / "go-on").touch()
    (fake_go / "fail").touch()
    with looking_up(environment) as process:
        output, _ = process.communicate(timeout=60)
    assert "no space left on device" in output
    assert "controlplane-" in output
    (fake_go / "fail").unlink()
    assert look_up(environment).startswith("FOUND")


def assets(folder: Path, version: str, *, without: str = "") -> Path:
    folder.mkdir(parents=True)
    for program in PROGRAMS:
        if program != without:
            (folder / program).write_text(f"#!/bin/sh\necho Kubernetes v{version}\n")
            (folder / program).chmod(0o755)
    return folder


def test_what_kubebuilder_assets_names_is_used(
    environment: dict[str, str], fake_go: Path, tmp_path: Path
) -> None:
    place = assets(tmp_path / "assets", "1.36.0")
    assert look_up({**environment, "KUBEBUILDER_ASSETS": str(place)}) == f"FOUND {place}"
    assert builds(fake_go) == 0


@pytest.mark.skipif(sys.platform == "darwin", reason="setup-envtest keeps its store elsewhere on macOS")
def test_the_store_of_setup_envtest_is_used(
    environment: dict[str, str], fake_go: Path, tmp_path: Path
) -> None:
    place = assets(tmp_path / "home/.local/share/kubebuilder-envtest/k8s/1.36.2-linux-amd64", "1.36.2")
    assert look_up(environment) == f"FOUND {place}"
    assert builds(fake_go) == 0


@pytest.mark.parametrize(("version", "without"), [("1.35.4", ""), ("1.36.0", "kube-controller-manager")])
def test_a_place_of_another_version_or_with_a_program_missing_does_not_count(
    environment: dict[str, str], fake_go: Path, tmp_path: Path, version: str, without: str
) -> None:
    (fake_go / "go-on").touch()
    place = assets(tmp_path / "assets", version, without=without)
    found = look_up({**environment, "KUBEBUILDER_ASSETS": str(place)})
    assert found.startswith("FOUND")
    assert str(place) not in found
    assert builds(fake_go) == 1
