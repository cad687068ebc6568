"""What krew unpacks runs under kubectl, against a real API server, without our environment."""

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from integration.plugin import SCRIPTS
from krew import archive
from local.stack import Stack

pytestmark = pytest.mark.version_independent


def test_the_archive_runs_under_kubectl(stack: Stack, namespace: str, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    with tarfile.open(archive.build(tmp_path)) as packed:
        packed.extractall(installed, filter="data")
    # The only python3 on PATH is the system's, which has nothing of ours.
    environment = {
        "PATH": f"{installed}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "KUBECONFIG": str(stack.kubeconfig),
        "PEX_ROOT": str(tmp_path / "pex"),
    }

    def kubectl(*arguments: str) -> str:
        return subprocess.run(  # noqa: S603 -- kubectl, and by it our own program
            [SCRIPTS / "kubectl", *arguments], capture_output=True, text=True, check=True, env=environment
        ).stdout

    assert kubectl("hoop", "--version").startswith("kubectl-hoop ")
    told = kubectl("hoop", "status", "-n", namespace)
    assert told == f"There is no HoopResource and no HoopRolePlan in namespace {namespace}.\n"
