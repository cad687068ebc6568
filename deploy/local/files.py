"""Files that other processes may read at any moment, locks between processes, and the caches."""

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.errors import StackError


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step by one that only its owner may read."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    Path(temporary).replace(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; the kernel frees it when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cache_directory() -> Path:
    """Return where downloads and builds are kept, outside any checkout."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hoop-operator"


def shared_directory() -> Path:
    """Return a directory of ours that every user of the machine may enter, made on first use.

    PostgreSQL refuses to run as root, and root's home is closed to the user that it runs as instead.

    Raises
    ------
    StackError
        Somebody else owns the directory or may write into it.
    """
    directory = Path("/var/tmp") / f"hoop-operator-{os.geteuid()}"  # noqa: S108 (its owner is checked below)
    directory.mkdir(exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise StackError(f"{directory} belongs to somebody else; remove it and try again")
    directory.chmod(0o755)
    return directory
