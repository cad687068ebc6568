"""Free ports of this machine, remembered in files."""

import secrets
import socket
from pathlib import Path

CANDIDATES = range(20000, 32768)
"""Below what Linux and macOS give to outgoing connections: none takes the port of a part that restarts."""


def choose(file: Path) -> int:
    """Return the port that `file` remembers, or when that is taken or there is none, a free one from now on.

    A restarted part so keeps its address, and whoever knew it finds it again. The files of one folder never
    remember the same port.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    of_others = {remembered(other) for other in file.parent.iterdir() if other != file}
    chosen = remembered(file) if file.exists() else secrets.choice(CANDIDATES)
    while chosen in of_others or not is_free(chosen):
        chosen = secrets.choice(CANDIDATES)
    file.write_text(str(chosen))
    return chosen


def remembered(file: Path) -> int:
    """Return the port that was chosen for `file`."""
    return int(file.read_text())


def is_free(port: int) -> bool:
    """Whether a server could listen on a port now."""
    with socket.socket() as probe:
        # A server's last connections linger after it; they do not keep its successor from listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
