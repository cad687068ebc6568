"""What `kubectl hoop` makes of objects as they were recorded, and how it presents itself."""

import json
import sys
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner
from kubernetes.aio.config import ConfigException
from rich.console import Console

import kubectl_hoop
from hoop_operator.cluster.secrets import Secret
from hoop_operator.reconcile.objects import Plan, Resource
from kubectl_hoop.changes import CHANGED, GIVEN, TAKEN, Change, diff, of_status
from kubectl_hoop.cli import hoop, run
from kubectl_hoop.client import Target, impersonation
from kubectl_hoop.doctor import _prescribe
from kubectl_hoop.importing import _Names
from kubectl_hoop.objects import as_yaml
from kubectl_hoop.options import of_kind
from kubectl_hoop.pending import show_pending
from kubectl_hoop.psql import _run, login_of
from kubectl_hoop.status import as_json, as_trees


def condition(name: str, state: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"type": name, "status": state, "reason": reason, "message": message}


def recorded(
    kind: str, name: str, spec: Mapping[str, Any], status: Mapping[str, Any], **metadata: Any
) -> Any:
    body = {
        "kind": kind,
        "metadata": {"namespace": "shop", "name": name, "uid": name, "generation": 1, **metadata},
        "spec": spec,
        "status": {"observedGeneration": 1, **status},
    }
    return Resource.parse(body) if kind == "HoopResource" else Plan.parse(body)


def resource(**status: Any) -> Resource:
    made: Resource = recorded(
        "HoopResource",
        "pg",
        {"type": "database", "subtype": "postgres", "envVars": {"HOST": "db"}},
        {"conditions": [condition("Ready", "True", "Registered")], "server": {"version": "18.6"}, **status},
    )
    return made


def plan(*conditions: Mapping[str, Any], **status: Any) -> Plan:
    made: Plan = recorded(
        "HoopRolePlan",
        "ro",
        {
            "resourceRef": {"name": "pg"},
            "type": "managed",
            "role": "ro",
            "scopes": ["a"],
            "privileges": ["SELECT"],
        },
        {"conditions": conditions, "role": "hoopdev_pg_ro_1", **status},
    )
    return made


def text(*trees: Any) -> str:
    output = StringIO()
    console = Console(file=output, width=1000)
    for tree in trees:
        console.print(tree)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def test_a_plan_in_order_is_told_with_its_secret_drift_rotation_and_run() -> None:
    repaired = {"repaired": ["grant_missing", "password"], "finishedAt": "2026-11-01T00:00:00Z"}
    waiting = {"trigger": "drift", "statementCount": 2, "finishedAt": "2026-11-03T00:00:00Z"}
    in_order = plan(
        condition("Ready", "True", "Applied"),
        condition("SecretReady", "True", "Written"),
        sid="5f0a",
        secretName="ro-credentials",
        lastRotationTime="2026-11-02T00:00:00Z",
        nextRotationTime="2026-12-01T00:00:00Z",
        history=[waiting, repaired],
    )
    assert text(*as_trees([resource()], [in_order])) == (
        "HoopResource shop/pg  Ready Registered  database/postgres  PostgreSQL 18.6\n"
        "└── HoopRolePlan shop/ro  Ready Applied  role hoopdev_pg_ro_1\n"
        "    ├── Secret ro-credentials  written\n"
        "    ├── drift last repaired 2026-11-01T00:00:00Z: grant_missing, password\n"
        "    ├── password of 2026-11-02T00:00:00Z, next rotation 2026-12-01T00:00:00Z\n"
        "    └── last run 5f0a"
    )


def test_a_cause_that_several_conditions_repeat_is_told_once_and_nothing_of_it_moves_a_terminal() -> None:
    why = 'schema "\x1b[2J" does not exist'
    failed = plan(
        *(condition(name, "False", "SchemaNotFound", why) for name in ("Ready", "Planned", "InSync"))
    )
    told = text(*as_trees([resource()], [failed]))
    assert told.count("does not exist") == 1
    assert 'Ready False SchemaNotFound: schema "\\x1b[2J" does not exist' in told
    assert "\x1b" not in told


def test_what_is_true_of_a_ready_plan_and_worth_knowing_is_told() -> None:
    ready = plan(
        condition("Ready", "True", "Applied"), condition("InSync", "True", "InSync", "members of the role: x")
    )
    assert "InSync True InSync: members of the role: x" in text(*as_trees([resource()], [ready]))


@pytest.mark.parametrize(
    ("conditions", "metadata", "state"),
    [
        (
            (condition("Ready", "True", "Applied"),),
            {"generation": 2},
            "not looked at since its last change (Applied)",
        ),
        ((), {"generation": 2}, "not looked at yet"),
        ((condition("Ready", "True", "Applied"),), {"deletionTimestamp": "now"}, "being deleted"),
    ],
)
def test_an_outcome_of_former_days_is_not_told_as_todays(
    conditions: tuple[dict[str, Any], ...], metadata: dict[str, Any], state: str
) -> None:
    spec = {"resourceRef": {"name": "pg"}, "type": "external", "role": "ro", "sourceRole": "x"}
    former: Plan = recorded("HoopRolePlan", "ro", spec, {"conditions": conditions}, **metadata)
    # Its resource is in no list of the person's.
    (tree,) = as_trees([], [former])
    assert text(tree).splitlines()[0] == "HoopResource shop/pg  not among what is shown"
    assert f"HoopRolePlan shop/ro  {state}" in text(tree)
    (other,) = as_json([], [former])["otherPlans"]
    assert other["ready"] is ("deletionTimestamp" in metadata)
    assert json.dumps(other)


@pytest.mark.parametrize(
    ("statement", "sign"),
    [
        ('CREATE ROLE "a" LOGIN', GIVEN),
        ('GRANT SELECT ON "REVOKE" TO "a"', GIVEN),
        ('REVOKE GRANT OPTION FOR SELECT ON "t" FROM "a"', TAKEN),
        ('ALTER ROLE "GRANT" NOCREATEDB', CHANGED),
        ("COMMENT ON ROLE \"a\" IS 'I GRANT you'", CHANGED),
        ('ALTER DEFAULT PRIVILEGES FOR ROLE "o" IN SCHEMA "s" GRANT SELECT ON TABLES TO "a"', GIVEN),
        ('ALTER DEFAULT PRIVILEGES FOR ROLE "o" IN SCHEMA "s" REVOKE SELECT ON TABLES FROM "a"', TAKEN),
        ('SET LOCAL ROLE "o"; REVOKE SELECT ON "t" FROM "a"; SET LOCAL ROLE NONE', TAKEN),
        (
            'GRANT USAGE ON SCHEMA "s" TO "o"; SET LOCAL ROLE "o"; GRANT SELECT ON "t" TO "a"; SET LOCAL ROLE NONE; '
            'REVOKE USAGE ON SCHEMA "s" FROM "o"',
            GIVEN,
        ),
    ],
)
def test_a_statement_has_the_sign_of_what_it_does_whatever_names_are_in_it(statement: str, sign: str) -> None:
    assert Change(None, statement).sign == sign


def test_a_diff_names_each_database_once() -> None:
    shown = [
        "COMMENT ON ROLE \"a\" IS 'x'",
        r'/* x *\/ REVOKE "y"; -- */ GRANT SELECT ON "t" TO "a"',
        '/* b */ REVOKE X ON "t" FROM "a"',
    ]
    assert [line for line, _ in diff(of_status(shown))] == [
        "@@ the server @@",
        "~ COMMENT ON ROLE \"a\" IS 'x';",
        '@@ database "x */ REVOKE ""y""; --" @@',
        '+ GRANT SELECT ON "t" TO "a";',
        '@@ database "b" @@',
        '- REVOKE X ON "t" FROM "a";',
    ]


@pytest.mark.parametrize(
    ("statements", "count", "complete"),
    [(["a"], 1, True), (["a"], 2, False), (["a", "GRANT SELECT ON …"], 2, False)],
)
def test_approve_says_loudly_where_not_all_is_shown(
    capsys: pytest.CaptureFixture[str], statements: list[str], count: int, *, complete: bool
) -> None:
    computed = {"statements": statements, "count": count, "computedAt": "now", "checksum": "c0ffee"}
    assert show_pending(plan(plan=computed)) is complete
    assert ("NOT ALL IS SHOWN" in capsys.readouterr().out) is not complete


def test_imported_roles_get_names_that_do_not_collide() -> None:
    names = _Names("pg")
    assert [names.plan(role) for role in ("App", "app", "a_p", "Ж")] == ["app", "app-2", "a-p", "role"]
    long = "x" * 60
    labels = [names.label(role) for role in ("app", "Ж", long, long)]
    assert labels[:2] == ["app", "role Ж"]
    assert len({*labels}) == 4
    assert max(map(len, labels)) == 44


@pytest.mark.parametrize(
    "name", ["a\u202eb", "a\u200bb", "a\x85b", "a\u2028b", "a\nb", "\ufeffa", "\ue000", "\U000e0041"]
)
def test_no_name_is_written_into_a_manifest_that_cannot_be_seen_there_or_read_back(name: str) -> None:
    text = as_yaml({"role": name, "scopes": [f"{name}.é"]})
    assert text.replace("\n", "").isprintable()
    assert yaml.safe_load(text) == {"role": name, "scopes": [f"{name}.é"]}
    assert as_yaml({"role": "é"}) == "role: é\n"


@pytest.mark.parametrize(
    "text", ["1e10", "1_000", "0o17", ".5e3", "-1E5", "+0x1F", "-_1", "1.0", "y", "N", "true", "~"]
)
def test_no_text_is_written_into_a_manifest_that_kubectl_would_take_for_something_else(text: str) -> None:
    assert as_yaml({text: text}) == f"'{text}': '{text}'\n"


LOGIN = {
    "host": "db",
    "port": "5432",
    "username": "u",
    "password": "p",
    "database": "d",
    "sslmode": "require",
}


def secret(data: Mapping[str, bytes]) -> Secret:
    return Secret("shop", "ro-credentials", "u", "1", "Opaque", data, {}, {}, (), deleting=False)


def test_psql_reads_of_a_secret_what_it_needs_whatever_others_put_there() -> None:
    data = {key: value.encode() for key, value in LOGIN.items()}
    assert login_of(secret({**data, "keystore.jks": b"\xfe\xed"})) == ("", LOGIN)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (None, "does not exist"),
        (
            secret({"password": b"p"}),
            "is not the plan's yet, for it lacks host, port, username, database, sslmode",
        ),
        (secret({**dict.fromkeys(LOGIN, b"\xff")}), "was edited, for what it holds is no text"),
        (secret({**dict.fromkeys(LOGIN, b"x")}), "was edited, for its port is no number"),
    ],
)
def test_psql_says_what_is_wrong_with_a_secret(found: Secret | None, problem: str) -> None:
    assert login_of(found) == (problem, {})


def test_the_sql_for_an_administrator_names_each_database_once(capsys: pytest.CaptureFixture[str]) -> None:
    problems = ['in database "a"; run: A;', 'in database "b"; run: B;', "run: C;", 'in database "a"; run: D;']
    assert _prescribe([*problems, problems[0]]) == 1
    lines = [
        "",
        "-- SQL for an administrator",
        "C;",
        '-- in database "a"',
        "A;",
        "D;",
        '-- in database "b"',
        "B;",
    ]
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("name", ["ro", "hrp/ro", "hooproleplan.hoop.dev/ro", "HoopRolePlans/ro"])
def test_a_name_may_be_written_as_kubectl_has_it(name: str) -> None:
    command = click.Command("x", params=[click.Argument(["name"], callback=of_kind("HoopRolePlan"))])
    assert command.make_context("x", [name]).params == {"name": "ro"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["rotate", "hres/db"], "hres/db is a HoopResource, and this is about a HoopRolePlan"),
        (["rotate", "ro", "--wait", "--timeout", "-1"], "-1 is not in the range x>=0"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    assert run(arguments) == 2
    assert why in capsys.readouterr().err


SERVER = "https://127.0.0.1:1"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe", "it is not a kubeconfig"),
        (b"- a", "it is not a kubeconfig"),
        (b"users: [{name: a}, {}]", "it is not a kubeconfig"),
        (b"current-context: a", "Expected object with name a"),
        (b'{"certificate-authority-data": "!!!"}', "certificates or the key"),
        (b'{"certificate-authority-data": "!"}', "certificates or the key"),
        (b'{"certificate-authority-data": 7}', "it is not a kubeconfig"),
    ],
)
def test_a_kubeconfig_that_is_none_is_told_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    why: str,
) -> None:
    # The loader remembers its files for as long as the interpreter lives, which is one run otherwise.
    monkeypatch.setattr("kubernetes.aio.config.kube_config._temp_files", {})
    if content.startswith(b"{"):
        content = yaml.safe_dump(
            {
                "current-context": "a",
                "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
                "clusters": [{"name": "a", "cluster": {"server": SERVER, **json.loads(content)}}],
                "users": [{"name": "a", "user": {"token": "x"}}],
            }
        ).encode()
    path = tmp_path / "config"
    path.write_bytes(content)
    assert run(["status", "--kubeconfig", str(path)]) == 3
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert why in told.err


@pytest.mark.parametrize(
    ("target", "user", "headers"),
    [
        (Target(), {"token": "x"}, []),
        (
            Target(),
            {"as": "jo", "as-uid": "7", "as-groups": ["a", "b"], "as-user-extra": {"x.io/why": ["on call"]}},
            [
                ("Impersonate-User", "jo"),
                ("Impersonate-Uid", "7"),
                ("Impersonate-Group", "a"),
                ("Impersonate-Group", "b"),
                ("Impersonate-Extra-x.io%2Fwhy", "on call"),
            ],
        ),
        (
            Target(impersonated="al", impersonated_groups=("c",)),
            {"as": "jo", "as-groups": ["a"]},
            [("Impersonate-User", "al"), ("Impersonate-Group", "c")],
        ),
    ],
)
def test_whom_a_kubeconfig_or_the_person_impersonates_is_in_the_headers(
    target: Target, user: Mapping[str, Any], headers: list[tuple[str, str]]
) -> None:
    assert impersonation(target, user) == headers


@pytest.mark.parametrize(
    "user",
    [
        {"as-groups": ["a"]},
        {"as": "a\r\nX: y"},
        {"as": "jo", "as-groups": [7]},
        {"as": "jo", "as-groups": "a"},
    ],
)
def test_an_impersonation_that_is_not_clear_is_refused(user: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigException, match="as"):
        impersonation(Target(), user)


def test_where_its_libraries_are_missing_it_says_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "click", None)
    monkeypatch.delitem(sys.modules, "kubectl_hoop.cli")
    assert kubectl_hoop.main() == 1
    assert "click is not installed; run: pip install" in capsys.readouterr().err


def test_every_command_has_help_with_an_example() -> None:
    for name, command in hoop.commands.items():
        shown = CliRunner().invoke(hoop, [name, "--help"], prog_name="kubectl hoop")
        assert shown.exit_code == 0
        assert "kubectl hoop " in str(command.epilog), name
        assert command.get_short_help_str().endswith("."), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_get_a_script_that_completes(shell: str) -> None:
    shown = CliRunner().invoke(hoop, ["completion", shell], standalone_mode=False)
    assert "_KUBECTL_HOOP_COMPLETE" in shown.output


@pytest.mark.parametrize(
    ("sslmode", "roots"), [("verify-full", "system"), ("verify-ca", ""), ("require", "")]
)
def test_psql_trusts_the_roots_of_the_system_where_the_operator_does(sslmode: str, roots: str) -> None:
    values = {"username": "ro", "password": "x", "database": "shop", "sslmode": sslmode}
    script = f'test "${{PGSSLROOTCERT-}}" = "{roots}"'
    assert _run("/bin/sh", ("-c", script), values, "db", 5432) == 0
