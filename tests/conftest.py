"""What every test run has: a directory for its own stack, removed with all that runs in it at the end.

Every worker of pytest-xdist has a stack of its own, because tests stop its servers and compare all that is on them.
"""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from local import processes
from local.stack import Stack

PREFIX = "hoop-tests-"
OWNER = "owner.json"
STACK = "HOOP_TEST_STACK"
LONGEST = "test_law.py"
STACK_DIRECTORY = pytest.StashKey[Path]()

# The machine is shared: how long one example takes says nothing about the code. A failure belongs to the change that it
# appears with: what is older than that is looked for with HYPOTHESIS_PROFILE=anew.
settings.register_profile("same", deadline=None, derandomize=True)
# Each says all of it: in continuous integration hypothesis draws the same each time of its own accord.
settings.register_profile("anew", deadline=None, derandomize=False, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_configure(config: pytest.Config) -> None:
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        directory = Path(os.environ[STACK]) / worker["workerid"]
    else:
        _destroy_abandoned_stacks()
        directory = Path(tempfile.mkdtemp(prefix=PREFIX))
        processes.write_record(directory / OWNER, os.getpid())
    config.stash[STACK_DIRECTORY] = directory
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)  # where PostgreSQL runs as another user than root, that user enters here
    os.environ[STACK] = str(directory)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest by far: the others are done beside it."""
    items.sort(key=lambda item: item.path.name != LONGEST)


def pytest_unconfigure(config: pytest.Config) -> None:
    _destroy(config.stash[STACK_DIRECTORY])


def _destroy(directory: Path) -> None:
    for worker in directory.glob("gw*"):
        Stack(worker).destroy()
    Stack(directory).destroy()


def _destroy_abandoned_stacks() -> None:
    """Clear away what a killed test run left behind."""
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        owner = directory / OWNER
        if directory.stat().st_uid == os.geteuid() and owner.exists() and processes.running(owner) is None:
            _destroy(directory)
