import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.credentials.env import decode, references_in
from hoop_operator.credentials.references import Reference, ReferenceKind, Unresolved
from hoop_operator.credentials.role_secret import connection_secret
from hoop_operator.errors import ResourceFailure, ResourceReason


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_the_three_ways_to_write_a_variable() -> None:
    decoded = decode({"HOST": "db", "envvar:USER": b64("admin"), "filesystem:CA": b64("pem")})
    assert decoded.variables == {"HOST": b"db", "USER": b"admin", "CA": b"pem"}
    assert decoded.files == ("CA",)
    assert decoded.problems == decoded.unresolved == ()


def test_a_bare_name_is_literal_even_if_it_looks_like_base64_or_a_reference() -> None:
    decoded = decode({"A": b64("x"), "B": "_aws:secret:key", "C": "_envjson:ENV:key"})
    assert decoded.variables == {"A": b64("x").encode(), "B": b"_aws:secret:key", "C": b"_envjson:ENV:key"}
    assert decoded.unresolved == ()


@pytest.mark.parametrize("prefix", ["envvar", "filesystem"])
def test_a_reference_has_the_value_that_it_came_to(prefix: str) -> None:
    reference = Reference(ReferenceKind.AWS, "prod/db", "password")
    decoded = decode({f"{prefix}:PASS": "_aws:prod/db:password"}, values={reference: b"value"})
    assert decoded.variables == {"PASS": b"value"}
    assert decoded.problems == decoded.unresolved == ()
    assert decoded.files == (("PASS",) if prefix == "filesystem" else ())


@pytest.mark.parametrize("prefix", ["envvar", "filesystem"])
def test_a_reference_that_came_to_nothing_is_unresolved(prefix: str) -> None:
    reference = Reference(ReferenceKind.ENVJSON, "DB", "password")
    decoded = decode({f"{prefix}:PASS": "_envjson:DB:password"}, values={reference: Unresolved("it is gone")})
    assert decoded.variables == {}
    assert decoded.undecoded == {"PASS"}
    assert decoded.problems == ()
    assert decoded.unresolved == (f'spec.envVars["{prefix}:PASS"]: it is gone',)


@pytest.mark.parametrize("reference", ["_aws:", "_aws:secret", "_aws:secret:", "_envjson::key"])
def test_a_reference_without_both_parts_is_a_problem(reference: str) -> None:
    decoded = decode({"envvar:PASS": reference})
    assert decoded.unresolved == ()
    assert len(decoded.problems) == 1
    assert "must be written _aws:SECRET:KEY or _envjson:ENV:KEY" in decoded.problems[0]


@pytest.mark.parametrize(
    "reference", ["_vaultkv2:team/db:pw", "_vaultkv1:a:b", "_aws_iam_rds:authtoken", "_AWS:s:k"]
)
def test_a_reference_of_a_kind_that_is_not_followed_is_never_called_a_value_to_encode(reference: str) -> None:
    (problem,) = decode({"envvar:PASS": reference}).problems
    assert problem == (
        'spec.envVars["envvar:PASS"]: references of this kind are not supported; '
        "use _aws:SECRET:KEY, _envjson:ENV:KEY or the value itself"
    )
    assert references_in({"envvar:PASS": reference}) == {}


@pytest.mark.parametrize(
    "reference", ["_aws:a\nb:k", "_envjson:E:\x1b[31mk", "_aws:a\u2028:k", "_other:\ud800:k"]
)
def test_a_reference_that_would_write_lines_of_its_own_into_a_log_is_a_problem(reference: str) -> None:
    (problem,) = decode({"envvar:PASS": reference}).problems
    assert problem.endswith("must not hold a line break or another character that cannot be seen")


def test_a_text_that_cannot_be_encoded_is_a_problem() -> None:
    assert decode({"PASS": "\ud800"}).problems == ('spec.envVars["PASS"]: the value is not Unicode text',)


@pytest.mark.parametrize("value", ["hunter2!", "abc", "YWJj=YWJj", "ä", "YQ==YQ=="])
def test_a_value_that_is_not_base64_is_a_problem_that_names_the_key_and_not_the_value(value: str) -> None:
    decoded = decode({"envvar:PASS": value}, "spec.roles[0].secret")
    assert decoded.undecoded == {"PASS"}
    (message,) = decoded.problems
    assert message == (
        'spec.roles[0].secret["envvar:PASS"]: the value is not base64; '
        'encode it, or use the key "PASS" for plain text'
    )


def test_line_breaks_in_base64_do_not_count() -> None:
    encoded = base64.encodebytes(b"x" * 100).decode()
    assert "\n" in encoded.strip()
    assert decode({"filesystem:CA": encoded}).variables == {"CA": b"x" * 100}


@pytest.mark.parametrize(
    "key", ["", "1X", "A-B", "a.b", "envvar:", "envvar:1", "file:X", "ENVVAR:X", "A B", "X\n"]
)
def test_a_name_out_of_form_is_a_problem(key: str) -> None:
    decoded = decode({key: "eA=="})
    assert decoded.variables == {}
    assert "the key must be NAME, envvar:NAME or filesystem:NAME" in decoded.problems[0]
    assert f'spec.envVars["{key}"]' in decoded.problems[0]


def test_one_name_twice_is_a_problem_that_names_both_keys() -> None:
    decoded = decode({"X": "1", "envvar:X": b64("2"), "filesystem:X": b64("3")})
    assert decoded.problems == (
        'spec.envVars: X is given twice, as "X" and "envvar:X"; keep one of them',
        'spec.envVars: X is given twice, as "X" and "filesystem:X"; keep one of them',
    )


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True), st.binary()))
def test_every_encoded_value_is_decoded_to_itself(values: dict[str, bytes]) -> None:
    encoded = {f"envvar:{name}": base64.b64encode(value).decode() for name, value in values.items()}
    assert decode(encoded).variables == values


@given(st.text(min_size=8), st.sampled_from(["envvar:PASS", "PASS", "filesystem:PASS"]))
def test_nothing_shows_a_value(value: str, key: str) -> None:
    secret = "kHf3" + value
    decoded = decode({key: secret, "PASS": secret, "1": secret})
    assert "kHf3" not in repr(decoded)


def test_every_fault_of_a_role_secret_is_listed_and_what_is_malformed_gives_the_reason() -> None:
    secret = {"envvar:A": "!", "envvar:B": "_aws:s:k", "1": ""}
    with pytest.raises(ResourceFailure) as raised:
        connection_secret(secret, "spec.roles[2].secret", {}, absent=["Secret x does not exist"])
    assert raised.value.reason == ResourceReason.CREDENTIALS_INVALID
    for place in ('["envvar:A"]', '["envvar:B"]', '["1"]'):
        assert f"spec.roles[2].secret{place}" in raised.value.message
    assert "Secret x does not exist" in raised.value.message


def test_a_role_secret_with_a_reference_that_was_not_followed_is_unresolved() -> None:
    with pytest.raises(ResourceFailure) as raised:
        connection_secret({"envvar:B": "_envjson:E:k", "A": "fine"}, "spec.roles[2].secret", {})
    assert raised.value.reason == ResourceReason.CREDENTIALS_UNRESOLVED


def test_a_role_secret_has_a_key_per_name_and_lists_its_files() -> None:
    data, files = connection_secret(
        {"TOKEN": "t", "filesystem:KUBECONFIG": b64("k"), "filesystem:CA": b64("c")},
        "spec.roles[0].secret",
        {},
    )
    assert data == {"TOKEN": b"t", "KUBECONFIG": b"k", "CA": b"c"}
    assert files == ["CA", "KUBECONFIG"]
