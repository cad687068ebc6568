"""Certificates and keys as files, for libpq takes them no other way."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hoop_operator.credentials.connection import Connection

_DIRECTORY = re.compile(r"hoop-tls-(?P<process>[0-9]+)-\w+")


@contextlib.contextmanager
def tls_files(who: Connection) -> Iterator[dict[str, str]]:
    """The paths of a connection's certificates and key, by libpq's names; only we can read them.

    They are in the directory for temporary files, and gone once the body ends: no longer than it takes to connect.
    """
    contents = {
        "sslrootcert": who.ca_certificate,
        "sslcert": who.client_certificate,
        "sslkey": who.client_key,
    }
    if not any(contents.values()):
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix=f"hoop-tls-{os.getpid()}-") as directory:
        paths = {}
        for name, content in contents.items():
            if content is not None:
                path = Path(directory) / name
                path.touch(mode=0o600)
                path.write_text(content)
                paths[name] = str(path)
        yield paths


def remove_leftover_tls_files() -> None:
    """Remove the files of processes that were killed while they connected; to be called before the first connection.

    A volume for temporary files may outlive them, and the first process of a container always has the same number.
    """
    for path in Path(tempfile.gettempdir()).glob("hoop-tls-*"):
        match = _DIRECTORY.fullmatch(path.name)
        if match is not None and not _is_another_alive(int(match["process"])):
            shutil.rmtree(path, ignore_errors=True)


def _is_another_alive(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
