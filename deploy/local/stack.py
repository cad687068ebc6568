"""The parts put together: one directory on disk is one stack."""

import http.client
import os
import shlex
import shutil
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from local import binaries, cluster, kubeconfig, ports, postgresql, processes
from local.errors import StackError
from local.files import locked, write_private
from local.postgresql import Server
from local.progress import step

CHECKOUT = Path(__file__).parents[2]
MANIFESTS = CHECKOUT / "deploy/manifests"
OPERATOR_NAMESPACE = "hoop-system"
OPERATOR_ACCOUNT = "hoop-operator"
TOKEN_LIFETIME = "8760h"
OWN_PROGRAMS = ("hoop-operator", "kubectl-hoop", "kubectl_complete-hoop")
"""What the installed project brings; the latter two are what kubectl looks for on PATH."""


class Stack:
    """Control plane, PostgreSQL and operator, with all their data, logs and records in one directory.

    Every `start_…` leaves alone what runs and starts what does not, so that each may be called
    again at any time, by this process or another. Callers that may meet another process hold `lock`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of a cluster admin."""
        return self.directory / "kubeconfig"

    @property
    def operator_kubeconfig(self) -> Path:
        """The kubeconfig of the operator's own account, which has the shipped ClusterRole only."""
        return self.directory / "operator.kubeconfig"

    @property
    def operator_log(self) -> Path:
        """What the operator prints."""
        return self.directory / "operator.log"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from changing this stack meanwhile."""
        with locked(self.directory / "lock"):
            yield

    def start_control_plane(self) -> None:
        """Start etcd, API server and controller manager, as far as they do not run."""
        programs = binaries.control_plane()
        with step("Kubernetes control plane"):
            self.directory.mkdir(parents=True, exist_ok=True)
            cluster.start(self.directory, programs, self.kubeconfig)

    def is_own(self, source: str) -> bool:
        """Say whether a kubeconfig is the one that this stack wrote for its own control plane."""
        if Path(source).expanduser().resolve() != self.kubeconfig:
            return False
        return not self.kubeconfig.exists() or kubeconfig.is_ours(kubeconfig.read(self.kubeconfig))

    def use_cluster(self, source: str) -> None:
        """Use a throw-away cluster that somebody else runs instead of a control plane of our own.

        Parameters
        ----------
        source
            Its kubeconfig; several files as in `KUBECONFIG`.

        Raises
        ------
        StackError
            The kubeconfig has no current context, or it is not clearly a throw-away cluster's.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        viewed = self.directory / "other.kubeconfig"
        try:
            view = cluster.kubectl(source, "config", "view", "--minify", "--flatten", "--raw")
        except StackError as error:
            raise StackError(
                f"{source} names no cluster that can be used: {error}\n"
                "To use this checkout's own control plane, unset KUBECONFIG and HOOP_LOCAL_KUBECONFIG."
            ) from error
        write_private(viewed, view)
        config = kubeconfig.read(viewed)
        viewed.unlink()
        kubeconfig.refuse_unless_throwaway(config, source)
        self._stop_control_plane()
        kubeconfig.save(self.kubeconfig, config)

    def apply_manifests(self) -> None:
        """Apply the kinds, the operator's account, the roles and the policy; wait until the API serves the kinds."""
        with step("CustomResourceDefinitions, RBAC and admission policy"):
            apply = ("apply", "--server-side", "--force-conflicts")
            for manifest in ("namespace", "rbac", "crds", "admission-policy"):
                cluster.kubectl(self.kubeconfig, *apply, "-f", MANIFESTS / f"{manifest}.yaml")
            cluster.wait_for_kinds(self.kubeconfig, "-f", MANIFESTS / "crds.yaml")

    def start_postgres(self, version: str = postgresql.DEFAULT_VERSION) -> Server:
        """Start PostgreSQL of a major version unless it runs."""
        postgresql.programs(version)
        with step(f"PostgreSQL {version}"):
            return postgresql.start(self.directory, version)

    def postgres(self, version: str = postgresql.DEFAULT_VERSION) -> Server:
        """Return how to reach the PostgreSQL of a major version, which has been started before."""
        return postgresql.describe(self.directory, version)

    def stop_postgres(self, *, keep: str | None = None) -> None:
        """Stop PostgreSQL of every version but the one to keep; the data stays."""
        for version in postgresql.VERSIONS:
            if version != keep:
                postgresql.stop(self.directory, version)

    def start_operator(self, settings: Mapping[str, str] | None = None) -> None:
        """Start the operator as its own account unless it runs, and wait until it is ready.

        Parameters
        ----------
        settings
            `HOOP_*` variables beside those in our own environment.

        Raises
        ------
        StackError
            It is not installed, or did not come up.
        """
        record = self._operator_record()
        with step("Operator"):
            if self._renew_operator_kubeconfig():
                processes.stop(record)
            port_file = self.directory / "ports/operator"
            if not processes.running(record):
                program = _installed("hoop-operator")
                if not program.exists():
                    raise StackError(
                        f"{program} does not exist; `make` installs it, or `pip install --no-deps -e .`"
                    )
                inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
                own = {
                    "KUBECONFIG": str(self.operator_kubeconfig),
                    "HOOP_HTTP_PORT": str(ports.choose(port_file)),
                }
                processes.start(
                    record,
                    [program, "run"],
                    log=self.operator_log,
                    environment={"HOOP_LOG_FORMAT": "text", **inherited, **(settings or {}), **own},
                )
            port = ports.remembered(port_file)
            processes.wait_until(
                lambda: cluster.answers(http.client.HTTPConnection("127.0.0.1", port, timeout=2), "/readyz"),
                record,
                log=self.operator_log,
                seconds=60,
            )

    def stop_operator(self) -> None:
        """Stop the operator."""
        processes.stop(self._operator_record())

    def _operator_record(self) -> Path:
        return cluster.record(self.directory, "operator")

    def _renew_operator_kubeconfig(self) -> bool:
        """Fetch a token unless the running operator has one for this very cluster; return whether it did."""
        admin = kubeconfig.read(self.kubeconfig)
        if processes.running(self._operator_record()):
            known = kubeconfig.read(self.operator_kubeconfig)
            if known["clusters"][0]["cluster"] == admin["clusters"][0]["cluster"]:
                return False
        token = cluster.kubectl(
            self.kubeconfig,
            f"--namespace={OPERATOR_NAMESPACE}",
            "create",
            "token",
            OPERATOR_ACCOUNT,
            f"--duration={TOKEN_LIFETIME}",
        )
        return kubeconfig.save(self.operator_kubeconfig, kubeconfig.with_token(admin, token.strip()))

    def write_environment(self, server: Server) -> Path:
        """Write `env`, which a shell sources to work with the stack, and link its programs and ours into `bin`."""
        programs = self.directory / "bin"
        programs.mkdir(exist_ok=True)
        clients = postgresql.programs(postgresql.DEFAULT_VERSION)  # the other versions come without clients
        for program in (
            cluster.kubectl_program(),
            clients / "psql",
            clients / "pgbench",
            clients / "pg_dump",
            *map(_installed, OWN_PROGRAMS),
        ):
            link = programs / program.name
            link.unlink(missing_ok=True)
            link.symlink_to(program)
        path = self.directory / "env"
        write_private(path, shell_exports(self.kubeconfig, server, programs))
        return path

    def stop(self) -> None:
        """Stop what runs, users before what they use; the data stays."""
        self.stop_operator()
        self.stop_postgres()
        self._stop_control_plane()

    def _stop_control_plane(self) -> None:
        for part in reversed(cluster.PARTS):
            processes.stop(cluster.record(self.directory, part))

    def destroy(self) -> None:
        """Stop what runs and delete the directory with all its data."""
        self.stop()
        for version in postgresql.VERSIONS:
            postgresql.remove(self.directory, version)
        shutil.rmtree(self.directory, ignore_errors=True)


def _installed(program: str) -> Path:
    """Where the environment that we run in has a program; it may not be there."""
    return Path(sysconfig.get_path("scripts")) / program


def shell_exports(admin_kubeconfig: Path, server: Server, programs: Path) -> str:
    """Return shell text that exports the admin's access to both sides and puts `programs` first on PATH."""
    variables = {
        "KUBECONFIG": str(admin_kubeconfig),
        "PGHOST": server.host,
        "PGPORT": str(server.port),
        "PGUSER": server.user,
        "PGPASSWORD": server.password,
        "PGDATABASE": server.database,
        "PGLOG": str(server.log),
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join([*lines, f'export PATH={shlex.quote(str(programs))}:"$PATH"', ""])
