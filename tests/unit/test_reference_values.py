"""What references name, who may name it, and what becomes of one, without a server."""

import base64
import json
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.credentials.aws import Contents
from hoop_operator.credentials.aws_clients import CLIENTS_MAX, Clients
from hoop_operator.credentials.env import references_in
from hoop_operator.credentials.follow import Follower
from hoop_operator.credentials.references import (
    Reference,
    ReferenceKind,
    Unresolved,
    is_allowed,
    member,
    parse_reference,
)
from hoop_operator.settings import Settings

ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop/db-AbCdEf"

visible = st.text(min_size=1).filter(str.isprintable)
without_colon = visible.filter(lambda text: ":" not in text)


@given(st.sampled_from(ReferenceKind), visible, without_colon)
def test_a_reference_is_read_as_it_is_written(kind: ReferenceKind, source: str, key: str) -> None:
    assert parse_reference(f"_{kind}:{source}:{key}") == Reference(kind, source, key)


@given(st.binary())
def test_no_value_in_base64_is_taken_for_a_reference(value: bytes) -> None:
    assert parse_reference(base64.b64encode(value).decode()) is None


def test_the_key_of_an_arn_is_what_stands_behind_its_last_colon() -> None:
    assert parse_reference(f"_aws:{ARN}:password") == Reference(ReferenceKind.AWS, ARN, "password")


def test_only_what_has_a_prefix_refers_to_anything() -> None:
    env_vars = {"A": "_aws:s:a", "envvar:B": "_aws:s:b", "filesystem:C": "_envjson:E:c", "envvar:D": "_aws:"}
    assert references_in(env_vars) == {
        "envvar:B": Reference(ReferenceKind.AWS, "s", "b"),
        "filesystem:C": Reference(ReferenceKind.ENVJSON, "E", "c"),
    }


@pytest.mark.parametrize(
    ("source", "namespace", "allowance", "allowed"),
    [
        ("shop/db", "shop", {}, False),
        ("shop/db", "shop", {"shop": []}, False),
        ("shop/db", "shop", {"shop": ["shop/*"]}, True),
        ("shop/db", "shop", {"shop": ["shop/db"]}, True),
        ("shop/db", "shop-2", {"shop": ["shop/*"]}, False),
        ("shop/db", "team-shop", {"team-*": ["shop/*"]}, True),
        ("shop/db", "shop", {"shop": ["other"], "*": ["*"]}, True),
        ("shop/db", "shop", {"other": ["*"], "shop": ["Shop/*"]}, False),
        ("other/db", "shop", {"shop": ["shop/*"]}, False),
        (ARN, "shop", {"shop": ["*", "arn*"]}, False),
        (ARN, "shop", {"shop": [ARN.replace("AbCdEf", "??????")]}, True),
        (ARN, "shop", {"shop": ["arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop/*"]}, True),
        (ARN, "shop", {"shop": ["arn:aws:secretsmanager:eu-west-1:999999999999:secret:*"]}, False),
    ],
)
def test_a_namespace_may_refer_to_what_a_glob_of_its_own_covers(
    source: str, namespace: str, allowance: Mapping[str, list[str]], allowed: bool
) -> None:
    assert is_allowed(source, namespace, allowance) is allowed


@given(st.dictionaries(st.text(), st.text() | st.integers(), min_size=1), st.data())
def test_every_text_and_number_of_a_json_object_is_found_as_it_is(
    document: dict[str, Any], data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(document)))
    text = json.dumps(document)
    assert member(text, key) == member(text.encode(), key) == str(document[key]).encode()


@pytest.mark.parametrize(
    ("text", "value"), [("1.50", b"1.50"), ("true", b"true"), ("5432", b"5432"), ('""', b"")]
)
def test_a_number_and_a_truth_value_are_what_is_written(text: str, value: bytes) -> None:
    assert member(f'{{"x": {text}}}', "x") == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("t0p-secret", "no JSON object"),
        ('"t0p-secret"', "no JSON object"),
        ('["t0p-secret"]', "no JSON object"),
        ('{"x": "t0p-secret"', "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ('{"y": "t0p-secret"}', 'no value for the key "x"'),
        ('{"x": null, "y": "t0p-secret"}', 'no value for the key "x"'),
        ('{"x": {"y": "t0p-secret"}}', "neither text nor a number"),
        ('{"x": "t0p-secret\\ud800"}', "not Unicode text"),
    ],
)
def test_what_has_no_value_says_why_and_quotes_nothing(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as failure:
        member(text, "x")
    assert "t0p-secret" not in f"{failure.value!r}"


def test_a_secret_is_had_by_key_or_as_a_whole() -> None:
    text, binary = Contents(text='{"password": "p"}'), Contents(binary=b'{"password": "p"}')
    assert text.value("password") == binary.value("password") == b"p"
    assert text.value("SecretString") == binary.value("SecretBinary") == b'{"password": "p"}'
    assert Contents(text="plain").value("SecretString") == b"plain"
    with pytest.raises(ValueError, match="SecretString stands for all of it"):
        Contents(text="plain").value("password")
    with pytest.raises(ValueError, match="it has no SecretBinary; its SecretString is set"):
        text.value("SecretBinary")
    assert "plain" not in repr(Contents(text="plain"))


async def follow(
    text: str, namespace: str = "shop", settings: Mapping[str, Any] | None = None
) -> bytes | Unresolved:
    reference = parse_reference(text)
    assert reference is not None
    follower = Follower(
        Settings.model_validate(settings or {}),
        {"SHOP": '{"password": "p"}', "TOKEN": "t0p-secret", "EMPTY": ""},
    )
    return (await follower.follow([reference], namespace))[reference]


SHOP_VARIABLES = {"allowed_envjson": {"shop": ["SHOP*", "TOKEN", "EMPTY"]}}


async def test_a_variable_of_the_operators_own_is_read_where_that_is_allowed() -> None:
    assert await follow("_envjson:SHOP:password", settings=SHOP_VARIABLES) == b"p"


@pytest.mark.parametrize(
    ("text", "namespace", "why"),
    [
        ("_envjson:SHOP:password", "other", "HOOP_ALLOWED_ENVJSON"),
        ("_envjson:PATH:x", "shop", "HOOP_ALLOWED_ENVJSON"),
        ("_envjson:SHOP_2:x", "shop", "the operator has no environment variable SHOP_2"),
        ("_envjson:SHOP:user", "shop", 'no value for the key "user"'),
        ("_envjson:TOKEN:x", "shop", "variable TOKEN: it is no JSON object"),
        ("_envjson:EMPTY:x", "shop", "variable EMPTY: it is no JSON object"),
        ("_aws:SHOP:password", "shop", "HOOP_ALLOWED_AWS_SECRETS"),
    ],
)
async def test_a_reference_that_comes_to_nothing_says_why(text: str, namespace: str, why: str) -> None:
    unresolved = await follow(text, namespace, SHOP_VARIABLES)
    assert isinstance(unresolved, Unresolved)
    assert why in unresolved.why
    assert "t0p-secret" not in unresolved.why


async def test_nothing_is_allowed_by_default() -> None:
    for text in ("_envjson:SHOP:password", "_aws:shop/db:password", f"_aws:{ARN}:password"):
        unresolved = await follow(text)
        assert isinstance(unresolved, Unresolved)
        assert "resources of namespace shop may not refer to" in unresolved.why


@pytest.mark.parametrize(
    "secret", ["a b", "x" * 513, ARN.replace("eu-west-1", "evil.example/"), "arn:aws:s3:::bucket"]
)
async def test_what_is_no_name_of_a_secret_is_not_asked_for(secret: str) -> None:
    everything = {"allowed_aws_secrets": {"*": ["*", "arn:*"]}}
    unresolved = await follow(f"_aws:{secret}:key", settings=everything)
    assert isinstance(unresolved, Unresolved)
    assert unresolved.why == "SECRET must be the name or the ARN of a secret in AWS Secrets Manager"


async def test_an_operator_without_boto3_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("boto3", "botocore", "botocore.exceptions"):
        monkeypatch.setitem(sys.modules, name, None)
    unresolved = await follow("_aws:shop/db:password", settings={"allowed_aws_secrets": {"shop": ["shop/*"]}})
    assert isinstance(unresolved, Unresolved)
    assert "secret shop/db: boto3 is not installed with this operator" in unresolved.why


async def test_a_region_that_boto3_does_not_know_is_not_asked() -> None:
    secret = ARN.replace("eu-west-1", "nowhere-1")
    unresolved = await follow(f"_aws:{secret}:key", settings={"allowed_aws_secrets": {"*": ["arn:*"]}})
    assert unresolved == Unresolved(f"secret {secret}: boto3 knows no region nowhere-1; correct the ARN")


async def test_a_resource_that_refers_to_too_many_secrets_is_told_how_many_it_may() -> None:
    references = [Reference(ReferenceKind.AWS, f"shop/{number}", "x") for number in range(65)]
    follower = Follower(Settings.model_validate({"allowed_aws_secrets": {"shop": ["shop/*"]}}))
    values = await follower.follow([*references, references[0]._replace(key="y")], "shop")
    for unresolved in values.values():
        assert isinstance(unresolved, Unresolved)
        assert "refers to 65 AWS secrets" in unresolved.why
        assert "refers to more than 64; keep several values in one secret" in unresolved.why


def test_a_client_is_kept_for_the_regions_of_late_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    clients = Clients("eu-west-1", connections=1)
    kept, closed = clients.of("eu-west-1"), clients.of("us-east-1")
    others = ["eu-west-2", "eu-west-3", "eu-north-1", "us-east-2", "us-west-1", "us-west-2", "sa-east-1"]
    assert len(others) == CLIENTS_MAX - 1
    for region in others:
        clients.of(region)
        assert clients.of("eu-west-1") is kept
    assert clients.of("us-east-1") is not closed
