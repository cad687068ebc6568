"""What every test run shares: the directory of its own stack, removed with all that runs in it at the end."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from local import processes
from local.stack import Stack

PREFIX = "hoop-tests-"
STACK_DIRECTORY = pytest.StashKey[Path]()

# The machine is shared: how long one example takes says nothing about the code.
settings.register_profile("hoop", deadline=None)
settings.load_profile("hoop")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return  # a worker of pytest-xdist shares the stack of its controller, whose environment it inherits
    _destroy_abandoned_stacks()
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    directory.chmod(0o755)  # where PostgreSQL runs as another user than root, that user enters here
    processes.write_record(directory / "owner.json", os.getpid())
    os.environ["HOOP_TEST_STACK"] = str(directory)
    config.stash[STACK_DIRECTORY] = directory


def pytest_unconfigure(config: pytest.Config) -> None:
    if (directory := config.stash.get(STACK_DIRECTORY, None)) is not None:
        Stack(directory).destroy()


def _destroy_abandoned_stacks() -> None:
    """Clear away what a killed test run left behind."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = directory / "owner.json"
        if directory.stat().st_uid == os.geteuid() and owner.exists() and processes.running(owner) is None:
            Stack(directory).destroy()
