"""A real Argo CD against the control plane of the run, and the local Git repository that it syncs from."""

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from hoop_operator.cluster.api import KubernetesApi
from integration.operator_process import free_port
from integration.tenant import POLL_SECONDS, eventually
from local import argocd, cluster, helm, kubeconfig, processes
from local.stack import Stack

DEPLOY = Path(__file__).parents[2] / "deploy"
NAMESPACE = "argocd"
GROUP, API_VERSION = "argoproj.io", "v1alpha1"
ACCOUNT = "argocd-application-controller"
PATIENCE_SECONDS = 120

EVERYTHING_BUT_APPROVE = ["get", "list", "watch", "create", "update", "patch", "delete", "escalate", "bind"]
"""What the account of Argo CD may do here. The one of its own installation has all verbs, `approve` included."""

WATCHED = [
    {"apiGroups": ["hoop.dev", "apiextensions.k8s.io", "rbac.authorization.k8s.io"], "kinds": ["*"]},
    {"apiGroups": [""], "kinds": ["Namespace", "Secret", "ServiceAccount", "Service"]},
    {"apiGroups": ["apps"], "kinds": ["Deployment"]},
]


class Repository:
    """A Git repository on disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._git("init", "--quiet", "--initial-branch=main")

    @property
    def url(self) -> str:
        """What Argo CD is told."""
        return f"file://{self.directory}"

    def read(self, path: str) -> list[dict[str, Any]]:
        """The objects in a file."""
        return list(yaml.safe_load_all((self.directory / path).read_text()))

    def write(self, path: str, objects: list[dict[str, Any]]) -> None:
        """Write objects into a file, for the next commit."""
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump_all(objects))

    def remove(self, path: str) -> None:
        """Remove a file or folder, for the next commit."""
        file = self.directory / path
        shutil.rmtree(file) if file.is_dir() else file.unlink()

    def commit(self) -> None:
        """Commit all that was written."""
        self._git("add", "--all")
        self._git("-c", "user.name=Test", "-c", "user.email=test@example.com", "commit", "--quiet", "-m", "x")

    def _git(self, *arguments: str) -> None:
        command = ["git", "-C", str(self.directory), *arguments]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 -- git, on a folder of ours


class Argo:
    """Repo server, application controller and ApplicationSet controller, with a Redis."""

    def __init__(self, stack: Stack, api: KubernetesApi, directory: Path) -> None:
        self._stack = stack
        self._api = api
        self._directory = directory
        self._programs = argocd.programs()

    def kubectl(self, *arguments: str | Path, manifest: Any = None) -> str:
        """Run kubectl as cluster admin, with objects on its standard input."""
        text = None if manifest is None else yaml.safe_dump_all(manifest)
        return cluster.kubectl(self._stack.kubeconfig, *arguments, manifest=text)

    def start(self) -> None:
        """Install Argo CD's kinds, settings and account, and start the parts."""
        self._install()
        config = self._directory / "kubeconfig"
        token = self.kubectl("-n", NAMESPACE, "create", "token", ACCOUNT, "--duration=24h")
        admin = kubeconfig.read(self._stack.kubeconfig)
        kubeconfig.save(config, kubeconfig.with_token(admin, token.strip()))
        redis, repo, events = (f"127.0.0.1:{free_port()}" for _ in range(3))
        metrics = ("--metrics-port", str(free_port()))
        as_account = ("--kubeconfig", config, "--namespace", NAMESPACE, "--repo-server-plaintext")
        self._start("redis", config, redis)
        self._start(
            "argocd-repo-server",
            config,
            *("--redis", redis, "--disable-tls", "--address", "127.0.0.1", "--port", repo.rpartition(":")[2]),
            *("--metrics-address", "127.0.0.1", "--metrics-port", str(free_port())),
        )
        self._start(
            "argocd-application-controller",
            config,
            *(*as_account, "--redis", redis, "--repo-server", repo, *metrics, "--persist-resource-health"),
            *("--app-resync", "10", "--self-heal-backoff-cap-seconds", "1"),
        )
        self._start(
            "argocd-applicationset-controller",
            config,
            *(*as_account, "--argocd-repo-server", repo, "--webhook-addr", events),
            *("--metrics-addr", "0", "--probe-addr", "0"),
        )

    def _install(self) -> None:
        apply = ("apply", "--server-side", "-f")
        for kind in ("application", "applicationset", "appproject"):
            self.kubectl(*apply, self._programs.crds / f"{kind}-crd.yaml")
        of_argo = {"namespace": NAMESPACE, "labels": {"app.kubernetes.io/part-of": "argocd"}}
        empty = [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"argocd-{name}", **of_argo}}
            for name in ("cm", "rbac-cm", "gpg-keys-cm", "ssh-known-hosts-cm", "tls-certs-cm")
        ]
        empty[0]["data"] = {"resource.inclusions": yaml.safe_dump(WATCHED)}
        key = {"server.secretkey": secrets.token_hex(16)}
        secret = {"metadata": {"name": "argocd-secret", **of_argo}, "stringData": key}
        account = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}
        may = {"apiGroups": ["*"], "resources": ["*"], "verbs": EVERYTHING_BUT_APPROVE}
        name = {"name": ACCOUNT}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", **name}
        rbac = "rbac.authorization.k8s.io/v1"
        self.kubectl(
            *(*apply, "-"),
            manifest=[
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
                *empty,
                {"apiVersion": "v1", "kind": "Secret", **secret},
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {**name, "namespace": NAMESPACE}},
                {"apiVersion": rbac, "kind": "ClusterRole", "metadata": name, "rules": [may]},
                {
                    "apiVersion": rbac,
                    "kind": "ClusterRoleBinding",
                    "metadata": name,
                    "roleRef": role,
                    "subjects": [account],
                },
            ],
        )
        crds = [f"crd/{kind}.argoproj.io" for kind in ("applications", "applicationsets", "appprojects")]
        cluster.wait_for_kinds(self._stack.kubeconfig, *crds)
        patch = (
            "patch",
            "configmap",
            "argocd-cm",
            "--type=merge",
            "--patch-file",
            DEPLOY / "argocd/argocd-cm.yaml",
        )
        self.kubectl("-n", NAMESPACE, *patch)
        everything = {
            "sourceRepos": ["*"],
            "destinations": [{"server": "*", "namespace": "*"}],
            "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
        }
        project = {"metadata": {"name": "default", "namespace": NAMESPACE}, "spec": everything}
        self.kubectl(
            *apply, "-", manifest=[{"apiVersion": f"{GROUP}/{API_VERSION}", "kind": "AppProject", **project}]
        )

    def _start(self, part: str, config: Path, *arguments: str | Path) -> None:
        program = self._programs.redis if part == "redis" else self._programs.argocd
        quiet = () if part == "redis" else ("--loglevel", "warn", "--logformat", "text")
        home = self._directory / part
        home.mkdir()
        processes.start(
            self._directory / f"{part}.json",
            [program, *arguments, *quiet],
            log=self._directory / f"{part}.log",
            environment={
                "PATH": f"{helm.helm(3).parent}:{os.environ['PATH']}",
                "HOME": str(home),
                "TMPDIR": str(home),
                "KUBECONFIG": str(config),
                "ARGOCD_BINARY_NAME": part,
                "ARGOCD_FAKE_IN_CLUSTER": "true",
                "ARGOCD_GPG_ENABLED": "false",
                "ARGOCD_TLS_DATA_PATH": str(home),
                "ARGOCD_SSH_DATA_PATH": str(home),
            },
        )

    def stop(self) -> None:
        """Stop the parts, and print what they said, which pytest shows for a test that failed."""
        for record in sorted(self._directory.glob("*.json")):  # the Redis last
            processes.stop(record)
            print(f"--- {record.stem}\n{record.with_suffix('.log').read_text(errors='replace')[-20000:]}")

    def uninstall(self) -> None:
        """Remove what was installed, so that no other test meets it."""
        self.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
        self.kubectl("delete", "clusterrolebinding,clusterrole", ACCOUNT)
        for kind in ("application", "applicationset", "appproject"):
            self.kubectl("delete", "--wait=false", "-f", self._programs.crds / f"{kind}-crd.yaml")

    def health(self, file: Path) -> dict[str, str]:
        """What Argo CD's own command line says of an object in a file, with the shipped settings."""
        settings = DEPLOY / "argocd/argocd-cm.yaml"
        command = ("admin", "settings", "resource-overrides", "health", file, "--argocd-cm-path", settings)
        done = subprocess.run(  # noqa: S603 -- our own build of it
            [self._programs.argocd, *command],
            env={"PATH": os.environ["PATH"], "HOME": str(self._directory), "ARGOCD_BINARY_NAME": "argocd"},
            capture_output=True,
            text=True,
            check=True,
        )
        status, _, message = done.stdout.removeprefix("STATUS: ").partition("\nMESSAGE: ")
        return {"status": status, "message": message.rstrip("\n")}

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Have Applications and the like, as a person applies them."""
        self.kubectl("apply", "-f", "-", manifest=objects)

    async def applications(self) -> dict[str, dict[str, Any]]:
        """All Applications by name."""
        found = await self._api.get(f"/apis/{GROUP}/{API_VERSION}/namespaces/{NAMESPACE}/applications")
        return {item["metadata"]["name"]: item for item in found["items"]}

    async def until(
        self,
        name: str,
        holds: Callable[[dict[str, Any]], bool],
        what: str,
        *,
        seconds: float = PATIENCE_SECONDS,
    ) -> dict[str, Any]:
        """Wait until something holds of an Application, and return the Application."""
        last: dict[str, Any] = {}

        async def look() -> bool:
            last.clear()
            last.update((await self.applications()).get(name, {}))
            return bool(last) and holds(last)

        try:
            await eventually(look, seconds=seconds, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}; {yaml.safe_dump(last.get('status'))}") from None
        return last

    async def until_gone(self, name: str) -> None:
        """Wait until an Application does not exist any more."""

        async def gone() -> bool:
            return name not in await self.applications()

        await eventually(gone, seconds=PATIENCE_SECONDS, what=f"Application {name} gone")

    async def compare(self, name: str) -> dict[str, Any]:
        """Have Argo CD compare Git and cluster now, and return the Application after that."""
        annotation = "argocd.argoproj.io/refresh"
        self.kubectl("-n", NAMESPACE, "annotate", "applications.argoproj.io", name, f"{annotation}=normal")
        return await self.until(
            name, lambda app: annotation not in app["metadata"].get("annotations", {}), "it is compared"
        )

    async def in_sync(self, name: str) -> dict[str, Any]:
        """Have Git and cluster compared until all is as Git says: Argo CD may not have seen yet what it has applied."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            app = await self.compare(name)
            others = [item for item in app["status"]["resources"] if item["status"] != "Synced"]
            if state(app)[0] == "Synced" and not others:
                return app
            assert time.monotonic() < deadline, f"{name} is {state(app)[0]}: {others}"

    async def until_healthy(self, name: str, health: str = "Healthy") -> dict[str, Any]:
        """Wait until an Application is as Git says, with a health."""
        return await self.until(
            name, lambda app: state(app) == ("Synced", health), f"{name} is Synced and {health}"
        )

    @contextlib.contextmanager
    def witness(self, name: str) -> Iterator[Callable[[], list[str]]]:
        """Give all states that an Application goes through meanwhile, that of the beginning first.

        Each is sync status and health.
        """
        shown = 'jsonpath={.status.sync.status} {.status.health.status}{"\\n"}'
        log = self._directory / f"{name}-{secrets.token_hex(3)}.states"
        with log.open("w") as output:
            watcher = subprocess.Popen(  # noqa: S603 -- our own kubectl
                [
                    cluster.kubectl_program(),
                    "-n",
                    NAMESPACE,
                    "get",
                    "applications.argoproj.io",
                    name,
                    "-w",
                    "-o",
                    shown,
                ],
                stdout=output,
            )
        try:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not log.read_text():
                assert time.monotonic() < deadline, f"{name} is not seen"
                time.sleep(POLL_SECONDS)
            yield lambda: log.read_text().splitlines()
        finally:
            watcher.kill()
            watcher.wait()


def state(application: Mapping[str, Any]) -> tuple[str, str]:
    """Sync status and health of an Application."""
    status = application.get("status", {})
    return status.get("sync", {}).get("status", ""), status.get("health", {}).get("status", "")


def operation(application: Mapping[str, Any]) -> dict[str, Any]:
    """What the last sync of an Application came to, or is at."""
    found: dict[str, Any] = application.get("status", {}).get("operationState", {})
    return found


def healths(application: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Health and message of the objects of an Application, by their names, of kinds that have a health."""
    return {
        item["name"]: (item["health"].get("status", ""), item["health"].get("message", ""))
        for item in application.get("status", {}).get("resources", ())
        if "health" in item
    }
