"""What becomes of the resources of a hoop gateway."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.reconcile.manifests import read_manifests
from hoop_operator.reconcile.register import connection_of
from kubectl_hoop.cli import hoop
from kubectl_hoop.gateway import from_gateway

PASSWORD = "c0nfidential"


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def gateways(name: str = "my-postgres", **changes: Any) -> dict[str, Any]:
    login = {
        "HOST": "db.example.com",
        "PORT": "5433",
        "USER": "admin",
        "PASS": PASSWORD,
        "SSLMODE": "require",
    }
    return {
        "id": "0c4c3d8e-0f6f-4a93-8a6c-6a0a5b1b6c5f",
        "name": name,
        "type": "database",
        "subtype": "postgres",
        "env_vars": {f"envvar:{key}": b64(value) for key, value in login.items()},
        "agent_id": "",
        "created_at": "2026-01-01T00:00:00Z",
        **changes,
    }


@given(st.text(min_size=1, max_size=128))
def test_a_resource_keeps_its_connection_and_the_names_of_its_roles(name: str) -> None:
    found = from_gateway([gateways(name)], "shop")
    assert (found.left_out, found.remarks) == ([], [])
    documents = yaml.safe_dump_all([*found.secrets, *found.resources])
    manifests = read_manifests({"file": documents}, "default")
    assert manifests.problems == []
    (resource,) = manifests.resources.values()
    assert resource.key.namespace == "shop"
    assert resource.api_name == name
    connection = connection_of(resource, [manifests.contents[s] for s in resource.sources if s], ())
    assert connection is not None
    assert (connection.host, connection.port, connection.user) == ("db.example.com", 5433, "admin")
    assert (connection.password, connection.sslmode) == (PASSWORD, "require")


def test_what_goes_into_git_holds_no_secret() -> None:
    found = from_gateway({"pages": {"total": 1}, "data": [gateways()]}, "shop")
    (resource,) = found.resources
    assert resource["spec"] == {
        "type": "database",
        "subtype": "postgres",
        "envVars": {"HOST": "db.example.com", "PORT": "5433", "SSLMODE": "require"},
        "envVarsFrom": [{"secretRef": {"name": "my-postgres-admin"}}],
    }
    (secret,) = found.secrets
    assert secret["data"] == {"USER": b64("admin"), "PASS": b64(PASSWORD)}
    shown = json.dumps(found.resources) + repr(found)
    assert PASSWORD not in shown
    assert b64(PASSWORD) not in shown


def test_references_stay_and_the_settings_they_need_are_told() -> None:
    referring = gateways(env_vars={"envvar:HOST": b64("db"), "envvar:PASS": "_aws:shop/db:password"})
    found = from_gateway([referring], "shop")
    (resource,) = found.resources
    assert resource["spec"]["envVars"] == {"HOST": "db", "envvar:PASS": "_aws:shop/db:password"}
    assert found.secrets == []
    assert "my-postgres: envvar:PASS refer" in found.remarks[0]


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({"env_vars": {}}, "it has no env_vars"),
        ({"env_vars": {"envvar:PASS": f"{PASSWORD}!"}}, 'env_vars["envvar:PASS"]: the value is not base64'),
        ({"env_vars": {"envvar:PASS": 1}}, "its env_vars are no map of texts"),
        (
            {"env_vars": {"envvar:PASS": f"_vaultkv2:{PASSWORD}:pw"}},
            "references of this kind are not supported",
        ),
        (
            {"type": "unheard-of"},
            'type "unheard-of" is not supported; it must be one of database, application, custom: correct it in FILE',
        ),
        ({"type": ["database"]}, 'type ["database"] is not supported'),
        (
            {"subtype": None},
            "subtype is missing; it must be one of postgres, mysql, mongodb, mssql, oracledb",
        ),
        ({"subtype": "database"}, 'subtype "database" is not supported'),
        (
            {"type": "application", "subtype": ""},
            "subtype is missing; it must be a lower-case label such as tcp",
        ),
        ({"type": "application", "subtype": "SSH"}, 'subtype "SSH" is not supported'),
    ],
)
def test_what_cannot_be_taken_over_is_told_and_keeps_no_other_back(
    changes: dict[str, Any], remark: str
) -> None:
    found = from_gateway([gateways(**changes), gateways("other")], "shop")
    assert [resource["metadata"]["name"] for resource in found.resources] == ["other"]
    (told,) = found.left_out
    assert told.startswith("my-postgres: left out, ")
    assert remark in told
    assert PASSWORD not in told


def test_what_is_no_unicode_text_keeps_no_other_back() -> None:
    odd = json.loads('"\\ud800"')
    bad = [gateways(odd), gateways("a", env_vars={"PASS": odd}), gateways("b", env_vars={odd: "x"})]
    found = from_gateway([*bad, gateways()], "shop")
    assert len(found.left_out) == len(bad)
    assert "resourceName: Input should be a valid string" in found.left_out[0]
    assert [resource["metadata"]["name"] for resource in found.resources] == ["my-postgres"]


def test_a_name_that_is_there_twice_is_taken_once_and_told() -> None:
    found = from_gateway([gateways(), gateways(env_vars={"envvar:HOST": b64("other")})], "shop")
    assert [resource["spec"]["envVars"]["HOST"] for resource in found.resources] == ["db.example.com"]
    assert found.left_out == [
        "my-postgres: left out, the name is there twice, and the first was taken; rename one of them in FILE"
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HOST", f"postgresql://admin:{PASSWORD}@db/x"),
        ("HOST", f"db;password={PASSWORD}"),
        ("PORT", PASSWORD),
        ("DB", f"mydb?password={PASSWORD}"),
        ("SSLMODE", PASSWORD),
    ],
)
def test_a_variable_is_in_the_open_only_as_long_as_it_is_what_its_name_says(
    variable: str, value: str
) -> None:
    found = from_gateway(
        [gateways(env_vars={f"envvar:{variable}": b64(value), "envvar:PASS": b64("x")})], "shop"
    )
    assert PASSWORD not in json.dumps(found.resources)
    assert found.secrets[0]["data"][variable] == b64(value)


def test_an_agent_of_the_gateway_is_no_instance_of_the_operator() -> None:
    found = from_gateway([gateways(agent_id="6f1c9a52-3a0e-4d0f-9a53-0a3f2f0d8b11")], "shop")
    assert "agentId" not in found.resources[0]["spec"]
    assert "its agent_id is left out" in found.remarks[0]


def test_roles_of_the_gateway_are_named_as_what_is_left_to_do() -> None:
    found = from_gateway([gateways(roles=[{"name": "ro"}])], "shop")
    assert "roles" not in found.resources[0]["spec"]
    assert "write them into spec.roles" in found.remarks[0]


def test_an_error_of_the_gateway_is_quoted() -> None:
    with pytest.raises(ValueError, match='GET /api/resources, and said "access denied"; ask it anew'):
        from_gateway({"message": "access denied"}, "shop")


@pytest.mark.parametrize("answer", [None, 1, {}, {"message": 1}, [1], [{}], [{"name": ""}]])
def test_what_is_no_answer_of_a_gateway_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match="GET /api/resources"):
        from_gateway(answer, "shop")


def test_the_command_writes_the_secrets_into_a_file_that_nobody_else_reads_and_the_rest_out(
    tmp_path: Path,
) -> None:
    secrets = tmp_path / "secrets.yaml"
    answer = json.dumps([gateways(), gateways("bare", env_vars={})])
    arguments = ["import-hoop", "-", "-n", "shop", "--secrets", str(secrets)]
    done = CliRunner().invoke(hoop, arguments, input=answer, standalone_mode=False)
    assert done.return_value == 1
    assert done.stderr == "bare: left out, it has no env_vars\n"
    (resource,) = yaml.safe_load_all(done.stdout)
    assert (resource["kind"], resource["metadata"]["namespace"]) == ("HoopResource", "shop")
    assert b64(PASSWORD) not in done.output
    (secret,) = yaml.safe_load_all(secrets.read_text())
    assert secret["data"]["PASS"] == b64(PASSWORD)
    assert secrets.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("answer", "more", "why"),
    [
        (json.dumps([gateways()]), [], "name a file for their Secrets with --secrets"),
        (json.dumps([gateways()]), ["--secrets", "{there}"], "cannot be made: File exists"),
        (PASSWORD, [], "it is not what a gateway answers"),
    ],
)
def test_the_command_writes_nothing_where_it_was_asked_wrongly(
    tmp_path: Path, answer: str, more: list[str], why: str
) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    arguments = ["import-hoop", "-", *(word.format(there=there) for word in more)]
    done = CliRunner().invoke(hoop, arguments, input=answer)
    assert (done.exit_code, done.stdout, there.read_text()) == (2, "", "mine")
    assert why in done.stderr
    assert PASSWORD not in done.output
