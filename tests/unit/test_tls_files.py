"""Certificates and keys on their way to libpq."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from hoop_operator.credentials.connection import Connection, SslMode
from hoop_operator.postgres.tls_files import tls_files

PLAIN = Connection("db", 5432, "admin", "pw", "postgres", SslMode.VERIFY_FULL, None, None, None, None)


def test_only_we_can_read_them_and_they_are_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with tls_files(replace(PLAIN, ca_certificate="CA", client_certificate="CERT", client_key="KEY")) as paths:
        files = {name: Path(path) for name, path in paths.items()}
        assert {name: file.read_text() for name, file in files.items()} == {
            "sslrootcert": "CA",
            "sslcert": "CERT",
            "sslkey": "KEY",
        }
        assert {stat.S_IMODE(file.stat().st_mode) for file in files.values()} == {0o600}
        assert {stat.S_IMODE(file.parent.stat().st_mode) for file in files.values()} == {0o700}
    assert list(tmp_path.iterdir()) == []


def test_there_are_none_without_certificates() -> None:
    with tls_files(PLAIN) as paths:
        assert paths == {}
