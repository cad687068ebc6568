"""Exit codes of the command line, where nothing has to be asked for them."""

import io
import sys
from collections.abc import Sequence

import pytest

from hoop_operator.cli import main


@pytest.fixture(autouse=True)
def _keep_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the environment of the other tests as it is."""
    monkeypatch.setattr("hoop_operator.cli.forget_libpq_environment", lambda: None)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["run", "--unknown"], 2),
        (["plan"], 1),
        (["plan", "-f"], 1),
        (["plan", "-f", "plan.yaml", "--unknown"], 1),
        (["plan", "-f", "plan.yaml", "further"], 1),
        (["--unknown", "plan", "-f", "plan.yaml"], 1),
        (["plan", "--help"], 0),
    ],
)
def test_wrong_usage_of_plan_is_never_taken_for_changes(
    arguments: Sequence[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    assert ended.value.code == code
    said = capsys.readouterr()
    assert (said.out if code == 0 else said.err).startswith("usage: hoop-operator")


@pytest.mark.parametrize(("command", "code"), [("run", 2), ("plan", 1)])
def test_wrong_settings_are_named(
    command: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOOP_INSTANCE", "Not That")
    assert main([command, *(["-f", "-"] if command == "plan" else [])]) == code
    assert capsys.readouterr().err.startswith("HOOP_INSTANCE: ")


def test_without_what_it_needs_serve_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "hoop_operator.api.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setattr("hoop_operator.cli.configure_logging", lambda *_: None)
    assert main(["serve"]) == 1
    assert capsys.readouterr().err == 'uvicorn is not installed; run: pip install "hoop-operator[api]"\n'


def test_all_wrong_settings_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOOP_HTTP_PORT", "-1")
    monkeypatch.setenv("HOOP_WATCH_NAMESPACES", "shop,billing")
    monkeypatch.setenv("HOOP_ALLOWED_HOSTS", '["db", ""]')
    monkeypatch.setenv("HOOP_ALLOWED_ENVJSON", "shop/*")
    assert main(["plan", "-f", "-"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        'HOOP_WATCH_NAMESPACES: must be a JSON list, such as ["first", "second"]',
        "HOOP_ALLOWED_HOSTS (entry 1): String should have at least 1 character",
        'HOOP_ALLOWED_ENVJSON: must be a JSON map of lists, such as {"shop": ["shop/*"]}',
        "HOOP_HTTP_PORT: Input should be greater than or equal to 0",
    ]


@pytest.mark.parametrize("variable", ["HOOP_LOCK_TIMEOUT_SECONDS", "HOOP_STATEMENT_TIMEOUT_SECONDS"])
@pytest.mark.parametrize("seconds", ["0.0009", "86401", "inf", "nan"])
def test_a_time_out_that_postgresql_takes_for_none_or_refuses_is_a_wrong_setting(
    variable: str, seconds: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, seconds)
    assert main(["plan", "-f", "-"]) == 1
    assert capsys.readouterr().err.startswith(f"{variable}: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "no HoopRolePlan in the files, so there is nothing to plan\n"),
        (b"\xff", "standard input: it is not text in UTF-8\n"),
        (b"}", "standard input: this is not YAML at line 1, column 1\n"),
        (
            b"{apiVersion: v1, kind: Pod\x1b}",
            "standard input: this is not YAML\n",
        ),
        (
            b'{apiVersion: v1, kind: "Pod\\e"}',
            "skipped: Pod\\x1b (1)\nno HoopRolePlan in the files, so there is nothing to plan\n",
        ),
    ],
)
def test_files_in_which_there_is_no_plan_are_not_in_sync(
    text: bytes, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert main(["plan", "--filename", "-"]) == 1
    assert capsys.readouterr() == ("", told)
