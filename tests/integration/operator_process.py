"""Operators of the tests' own, each serving only what carries its agent id, beside whatever else runs."""

import asyncio
import os
import signal
import socket
import subprocess
import sysconfig
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path

from integration.tenant import eventually

PROGRAM = Path(sysconfig.get_path("scripts")) / "hoop-operator"


class OperatorProcess:
    """An operator that can be killed and started again."""

    def __init__(self, kubeconfig: Path, log: Path, settings: Mapping[str, str]) -> None:
        self.agent_id = str(uuid.uuid4())
        self.log = log
        self.port = _free_port()
        self.kubeconfig = kubeconfig
        self.settings = dict(settings)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """All that the process has in its environment."""
        return {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(self.kubeconfig),
            "HOOP_AGENT_ID": self.agent_id,
            "HOOP_LIVENESS_PORT": str(self.port),
            **self.settings,
        }

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process that was started last has not ended."""
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Start the process."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 -- our own program
                [PROGRAM, "run"], stdout=output, stderr=subprocess.STDOUT, env=self.environment
            )

    async def start(self) -> None:
        """Start the process and wait until it says that it is alive."""
        self.spawn()
        await eventually(self.alive, seconds=30, what="the operator is alive")

    async def alive(self) -> bool:
        """Whether the liveness endpoint answers, and soon."""
        return await asyncio.to_thread(self._answers)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/livez", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """End the process without giving it a chance."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def bury(self) -> None:
        """End the process, and print what it said, which pytest shows for a test that failed."""
        self.kill()
        print(self.said())

    async def stop(self, seconds: float) -> int:
        """Ask the process to end, and return its exit code.

        Raises
        ------
        subprocess.TimeoutExpired
            It did not within that time.
        """
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait, seconds)

    def said(self) -> str:
        """All that it has printed so far."""
        return self.log.read_text(errors="replace")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
