"""Password verifiers that the server keeps."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hoop_operator.errors import StatementFailed
from hoop_operator.postgres import scram
from hoop_operator.postgres.session import Transaction

# No password of PostgreSQL holds a NUL, with which HMAC fills up a short key (RFC 2104).
TEXTS = st.text(st.characters(codec="ascii", exclude_characters="\0"))


@settings(max_examples=10)
@given(TEXTS, TEXTS)
def test_a_verifier_matches_the_password_it_was_made_from_and_no_other(password: str, other: str) -> None:
    verifier = scram.make_verifier(password)
    assert scram.matches(password, verifier) is True
    assert scram.matches(other, verifier) is (other == password)


def test_a_verifier_that_would_take_minutes_to_try_is_no_match_at_once() -> None:
    kept = scram.make_verifier("secret").replace(f"${scram.ITERATIONS}:", "$2147483647:")
    begun = time.process_time()
    assert scram.matches("secret", kept) is False
    assert scram.matches("gehe\u00efm", kept) is False
    assert time.process_time() - begun < 1


def test_a_verifier_without_iterations_or_that_cannot_be_decoded_is_no_match() -> None:
    made = scram.make_verifier("secret")
    assert scram.matches("secret", made.replace(f"${scram.ITERATIONS}:", "$0:")) is False
    assert scram.matches("secret", made.replace("==$", "$")) is False


def test_nothing_can_be_told_of_other_verifiers_and_passwords() -> None:
    assert scram.matches("secret", "md5c1b1e02d0a3cbd8d4c3bb1f2a5d8a1c0") is None
    assert scram.matches("gehe\u00efm", scram.make_verifier("secret")) is None


def test_a_verifier_for_which_a_server_wants_millions_of_iterations_is_not_made() -> None:
    pgconn = SimpleNamespace(parameter_status={b"scram_iterations": b"2147483647"}.get)
    connection: Any = SimpleNamespace(pgconn=pgconn)
    with pytest.raises(StatementFailed, match="scram_iterations"):
        Transaction(connection, 1.0).make_verifier("ro", "secret")
