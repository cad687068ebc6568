"""`make demo`: all its claims hold on a stack of the tests' own, again and again, and one that fails is told."""

import pytest

from integration.namespaces import CLUSTER_WIDE
from local import demo
from local.demo import CheckFailed, Demo
from local.postgresql import Server
from local.stack import Stack


@pytest.fixture
def means(stack: Stack, postgres: Server) -> Demo:
    return Demo(stack, postgres)


@CLUSTER_WIDE
def test_every_claim_holds_also_after_an_earlier_demo_was_interrupted(
    operator: Stack, means: Demo, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.fill_databases(means)
    demo.apply_objects(means)
    demo.show_ready(means)

    demo.tell(operator, means.server)

    told = capsys.readouterr().out
    assert "All 25 checks hold." in told
    assert means.server.password not in told
    assert not means.directory.exists()


@CLUSTER_WIDE
def test_it_clears_away_objects_whose_server_and_credentials_are_gone(operator: Stack, means: Demo) -> None:
    demo.fill_databases(means)
    demo.apply_objects(means)
    demo.show_ready(means)
    means.kubectl("delete", "secret", "my-postgres-admin")

    demo.clear(means)

    assert means.kubectl("get", "hres,hrp,secrets", "--output=name") == ""


def test_a_command_that_ends_with_another_code_than_expected_fails_the_demo(means: Demo) -> None:
    with pytest.raises(CheckFailed, match=r"expected: exit code 0 of: exit 3\nseen: exit code 3"):
        means.run("exit 3")


def test_a_claim_that_does_not_hold_fails_the_demo(means: Demo) -> None:
    with pytest.raises(CheckFailed, match=r"expected: it may SELECT\nseen: ERROR"):
        means.check("it may SELECT", False, "ERROR:  permission denied")
    assert means.checks == 0


def test_a_failed_demo_exits_with_1_and_says_what_was_seen_and_where_the_logs_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise CheckFailed("the stack is up", "nothing of it")

    monkeypatch.setattr(demo, "up", fail)
    assert demo.main() == 1
    told = capsys.readouterr().err
    assert "expected: the stack is up\nseen: nothing of it\n" in told
    assert ".local/operator.log" in told


@pytest.mark.parametrize("name", ["PGPASSWORD", "PGSERVICE", "KUBECONFIG"])
def test_commands_see_the_stack_and_nothing_of_the_callers_environment(
    means: Demo, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "the caller's")
    assert "the caller's" not in means.run("env")


def test_the_admins_kubeconfig_is_what_commands_use(means: Demo) -> None:
    assert means.run('echo "$KUBECONFIG"').strip() == str(means.stack.kubeconfig)


@CLUSTER_WIDE
def test_password_files_are_closed_to_others(operator: Stack, means: Demo) -> None:
    demo.fill_databases(means)
    demo.apply_objects(means)
    demo.show_ready(means)
    means.fetch_pgpass("ro")
    for file in means.directory.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    assert (means.directory / "ro.pgpass").read_text().count("\n") == 1
