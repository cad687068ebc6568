"""Programs built once from Go modules of ours, which pin them and all that they are made of."""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from local import binaries
from local.errors import StackError
from local.files import cache_directory, locked
from local.progress import step


def build(module: Path, package: str, *, takes: str, options: Sequence[str] = ()) -> Path:
    """Return a program, built into our cache if need be.

    Parameters
    ----------
    module
        Folder of the `go.mod` that has the program as a tool.
    package
        The program; its last part is its name.
    takes
        How long the build takes, for people.
    options
        Further options of `go build`.

    Raises
    ------
    StackError
        The build failed.
    """
    name = package.rpartition("/")[2]
    version = hashlib.sha256((module / "go.mod").read_bytes()).hexdigest()[:16]
    program = cache_directory() / f"{name}-{version}"
    program.parent.mkdir(parents=True, exist_ok=True)
    if not program.exists():
        with locked(program.with_name(f"{program.name}.lock")):
            if not program.exists():  # another process may have built it while we waited for the lock
                with step(f"{name} from source, once: {takes} on two cores"):
                    _build(module, package, options, program)
    return program


def _build(module: Path, package: str, options: Sequence[str], program: Path) -> None:
    with tempfile.TemporaryDirectory(dir=program.parent) as building:
        built = Path(building) / program.name
        done = subprocess.run(
            [binaries.toolchain(), "build", "-trimpath", *options, "-ldflags", "-s -w", "-o", built, package],
            cwd=module,
            env={**os.environ, "CGO_ENABLED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StackError(f"{program.name} could not be built in {module}: {done.stderr.strip()}")
        built.rename(program)
