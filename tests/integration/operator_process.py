"""Operators of the tests' own, each serving only what carries its agent id, beside whatever else runs."""

import asyncio
import os
import secrets
import signal
import subprocess
import sysconfig
import urllib.request
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from integration.tenant import eventually
from local import ports

PROGRAM = Path(sysconfig.get_path("scripts")) / "hoop-operator"

PORTS = range(10000, ports.CANDIDATES.start)
"""Apart from those of the stacks, and from those that the system gives to whoever wants just any."""
WORKERS_MAX = 8
"""As many workers of a test run have ports of their own."""

_given: deque[int] = deque(maxlen=200)
"""The last ones: who asked for one before them listens on it by now, or never will."""


class OperatorProcess:
    """An operator that can be killed and started again."""

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        settings: Mapping[str, str],
        command: Sequence[str | Path] = (PROGRAM, "run"),
    ) -> None:
        self.agent_id = str(uuid.uuid4())
        self.log = log
        self.port = free_port()
        self.kubeconfig = kubeconfig
        self.settings = dict(settings)
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """All that the process has in its environment."""
        return {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(self.kubeconfig),
            "HOOP_AGENT_ID": self.agent_id,
            "HOOP_HTTP_PORT": str(self.port),
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
                self.command, stdout=output, stderr=subprocess.STDOUT, env=self.environment
            )

    async def start(self) -> None:
        """Start the process and wait until it says that it is ready."""
        self.spawn()
        await eventually(self.ready, what="the operator is ready")

    async def alive(self) -> bool:
        """Whether the process says that it is alive, and soon."""
        return await self._says_yes("livez")

    async def ready(self) -> bool:
        """Whether the process says that it knows the cluster, and soon."""
        return await self._says_yes("readyz")

    async def _says_yes(self, path: str) -> bool:
        try:
            await self.get(path)
        except OSError:
            return False
        return True

    async def get(self, path: str) -> str:
        """What the process answers over HTTP.

        Raises
        ------
        OSError
            It does not within a second, or says that something is wrong.
        """
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=1) as answer:
            text: str = answer.read().decode()
            return text

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
        return await self.ended(seconds)

    async def ended(self, seconds: float) -> int:
        """Wait until the process has ended, and return its exit code.

        Raises
        ------
        subprocess.TimeoutExpired
            It did not within that time.
        """
        assert self._process is not None
        return await asyncio.to_thread(self._process.wait, seconds)

    def said(self) -> str:
        """All that it has printed so far."""
        return self.log.read_text(errors="replace")


def free_port() -> int:
    """A port that nobody listens on, and that nobody else gets before whoever asked for it listens there."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    candidates = PORTS[worker % WORKERS_MAX :: WORKERS_MAX]
    port = secrets.choice(candidates)
    while port in _given or not ports.is_free(port):
        port = secrets.choice(candidates)
    _given.append(port)
    return port
