"""The operator as the stack starts it: out of cluster, as its own account, without database access."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from local import cluster, processes
from local.stack import Stack

pytestmark = pytest.mark.version_independent


def pid_of(operator: Stack) -> int:
    pid = processes.running(cluster.record(operator.directory, "operator"))
    assert pid is not None
    return pid


def test_it_is_known_to_the_cluster_as_its_own_account(operator: Stack) -> None:
    answer = json.loads(cluster.kubectl(operator.operator_kubeconfig, "auth", "whoami", "--output=json"))
    assert answer["status"]["userInfo"]["username"] == "system:serviceaccount:hoop-system:hoop-operator"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows the environment of a process as a file")
def test_it_has_no_access_to_postgresql_by_its_environment_and_no_other_kubeconfig(operator: Stack) -> None:
    content = Path(f"/proc/{pid_of(operator)}/environ").read_bytes().decode()
    environment = dict(entry.split("=", 1) for entry in content.split("\0") if entry)
    assert not [name for name in environment if name.startswith("PG")]
    assert environment["KUBECONFIG"] == str(operator.operator_kubeconfig)


def test_a_second_start_leaves_it_as_it_is(operator: Stack) -> None:
    before = pid_of(operator)
    operator.start_operator()
    assert pid_of(operator) == before


def test_the_secret_token_is_in_no_command_line(operator: Stack) -> None:
    token = operator.operator_kubeconfig.read_text().split("token: ")[1].strip()
    shown = subprocess.run(
        ["/bin/ps", "-ww", "-eo", "args"], check=True, capture_output=True, text=True
    ).stdout
    assert f"--kubeconfig={operator.kubeconfig}" in shown
    assert token not in shown
    assert operator.operator_kubeconfig.stat().st_mode & 0o077 == 0
