"""A PostgreSQL of a test's own that can run out of room on its disk."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest

from local import postgresql
from local.postgresql import Server

ROOM_BYTES = 160 << 20
MOUNT = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES},mode=755", "tmpfs"]
UMOUNT = shutil.which("umount") or "umount"


class SmallServer:
    """A PostgreSQL whose data is on a file system of its own, which can be filled to the last byte."""

    def __init__(self, directory: Path, version: str) -> None:
        self._directory = directory
        self._version = version
        self._home = directory / f"postgresql-{version}"
        self._ballast = self._home / "ballast"

    def start(self) -> Server:
        """Start it; skip the test where no file system may be mounted."""
        self._home.mkdir(parents=True)
        mounted = subprocess.run(  # noqa: S603 -- a directory of the tests' own
            [*MOUNT, self._home],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode:
            pytest.skip(f"no file system of its own for the server: {mounted.stderr.strip()}")
        return postgresql.start(self._directory, self._version)

    def fill(self) -> None:
        """Leave no room."""
        with self._ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def make_room(self) -> None:
        """Give the room back."""
        self._ballast.unlink()

    def remove(self) -> None:
        """Stop the server and take the file system away."""
        postgresql.stop(self._directory, self._version)
        if self._home.is_mount():
            subprocess.run([UMOUNT, self._home], check=True)  # noqa: S603 -- a directory of the tests' own
