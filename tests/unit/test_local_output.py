import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.postgresql import Server
from local.progress import duration
from local.stack import shell_exports


def a_server(password: str) -> Server:
    return Server(
        version="18",
        host="127.0.0.1",
        port=5433,
        user="postgres",
        password=password,
        database="postgres",
        log=Path("/some where/postgresql-18.log"),
        bin=Path("/pg/bin"),
    )


@given(password=st.text(st.characters(exclude_characters="\0", codec="utf-8")))
def test_a_shell_reads_back_exactly_what_was_exported(password: str) -> None:
    text = shell_exports(Path("/it's/kubeconfig"), a_server(password), Path("/a $b/bin"))
    words = shlex.split(text)
    exported = dict(word.split("=", 1) for word in words if word != "export")
    assert exported == {
        "KUBECONFIG": "/it's/kubeconfig",
        "PGHOST": "127.0.0.1",
        "PGPORT": "5433",
        "PGUSER": "postgres",
        "PGPASSWORD": password,
        "PGDATABASE": "postgres",
        "PGLOG": "/some where/postgresql-18.log",
        "PATH": "/a $b/bin:$PATH",
    }


def test_the_password_is_not_in_the_servers_repr() -> None:
    assert "xyzzy" not in repr(a_server("xyzzy"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (3.14, "3.1 s"), (60, "1 min 00 s"), (125.4, "2 min 05 s"), (3599.6, "60 min 00 s")],
)
def test_durations_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
