"""promtool, which checks Prometheus rules and runs their unit tests: built once from a pinned Go module."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from local import binaries
from local.errors import StackError
from local.files import cache_directory, locked
from local.progress import step

MODULE = Path(__file__).parents[1] / "monitoring/promtool"
PACKAGE = "github.com/prometheus/prometheus/cmd/promtool"


def promtool() -> Path:
    """Return promtool, built into our cache if need be.

    Raises
    ------
    StackError
        The build failed.
    """
    version = hashlib.sha256((MODULE / "go.mod").read_bytes()).hexdigest()[:16]
    program = cache_directory() / f"promtool-{version}"
    program.parent.mkdir(parents=True, exist_ok=True)
    if not program.exists():
        with locked(program.with_name(f"{program.name}.lock")):
            if not program.exists():  # another process may have built it while we waited for the lock
                with step("promtool from source, once: about two minutes on two cores"):
                    _build(program)
    return program


def _build(program: Path) -> None:
    with tempfile.TemporaryDirectory(dir=program.parent) as building:
        built = Path(building) / "promtool"
        # It can watch targets at every cloud; to check rules takes none of that.
        done = subprocess.run(
            [
                binaries.toolchain(),
                "build",
                "-trimpath",
                "-tags",
                "remove_all_sd",
                "-ldflags",
                "-s -w",
                "-o",
                built,
                PACKAGE,
            ],
            cwd=MODULE,
            env={**os.environ, "CGO_ENABLED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StackError(f"promtool could not be built in {MODULE}: {done.stderr.strip()}")
        built.rename(program)
