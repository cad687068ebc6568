"""`kubectl hoop` as a person runs it, with the person's own rights."""

import os
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))
PROGRAM = SCRIPTS / "kubectl-hoop"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Plugin:
    """The plugin, in one namespace."""

    kubeconfig: Path
    namespace: str
    path: str = os.environ["PATH"]
    program: Path = PROGRAM
    confidential: tuple[str, ...] = ()
    """What no command may ever print."""

    def run(
        self, command: str, *arguments: str, stdin: str = "", more: Mapping[str, str] | None = None
    ) -> Ended:
        """Run a command in the namespace."""
        ended = subprocess.run(  # noqa: S603 -- our own program
            [self.program, command, "-n", self.namespace, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": self.path, "KUBECONFIG": str(self.kubeconfig), **(more or {})},
        )
        assert "Traceback" not in ended.stderr, ended.stderr
        for secret in self.confidential:
            assert secret not in ended.stdout + ended.stderr
        return Ended(ended.returncode, ended.stdout, ended.stderr)
