"""`make e2e`: the end-to-end tests, on what can be had.

KUBECONFIG is set    that cluster, where the operator runs already; PG* name a server that both sides reach
there is docker      a kind cluster: the image is built and loaded, the chart installed, a PostgreSQL put beside it
otherwise            the control plane and the PostgreSQL of `make up` in a directory of the run's own, the objects of
                     the chart, and the operator as a process with the chart's account

What was brought up is taken down again.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from local import cluster, kind, postgresql
from local.errors import StackError
from local.progress import say, step
from local.stack import CHECKOUT, Stack


def main() -> int:
    """Run the tests; return their exit code, 1 where there is nothing to run them on."""
    if os.environ.get("KUBECONFIG"):
        return run_tests({})
    with tempfile.TemporaryDirectory(prefix="hoop-e2e-") as temporary:
        directory = Path(temporary)
        directory.chmod(0o755)  # PostgreSQL runs as another user than root, who enters here
        try:
            with (
                kind.throwaway_cluster(directory) if kind.has_engine() else processes(directory) as variables
            ):
                _must_pass(run_tests(variables))
        except StackError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


def run_tests(variables: Mapping[str, str]) -> int:
    """Run the suite with variables added to the environment."""
    programs = os.pathsep.join([str(cluster.kubectl_program().parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "pytest", "tests/e2e"]
    environment = {**os.environ, "PATH": programs, **variables}
    return subprocess.run(command, cwd=CHECKOUT, env=environment, check=False).returncode


def _must_pass(exit_code: int) -> None:
    if exit_code != 0:
        raise StackError("the end-to-end tests failed, as they say above")


@contextmanager
def processes(directory: Path) -> Iterator[Mapping[str, str]]:
    """Run everything as processes of this machine while the body runs; yield the variables that the tests need."""
    say("There is no docker here: the same tests run on local processes, without image, Pods and network.")
    stack = Stack(directory)
    try:
        with stack.lock():
            stack.start_control_plane()
            server = stack.start_postgres(os.environ.get("PG") or postgresql.DEFAULT_VERSION)
            with step("Chart"):
                kind.install_chart(stack.kubeconfig)
            stack.start_operator()
        yield {
            "KUBECONFIG": str(stack.kubeconfig),
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGUSER": server.user,
            "PGPASSWORD": server.password,
        }
    except BaseException:
        if stack.operator_log.exists():
            say(stack.operator_log.read_text(errors="replace"))
        raise
    finally:
        stack.destroy()


if __name__ == "__main__":
    sys.exit(main())
