"""Every command of the documentation is run as it stands there, and every object in it is shown to the API server.

The blocks of a page are run one after the other in one shell. `<!-- skip: next "why" -->` before a block keeps it from
that, and `<!-- invisible-code-block: sh` has what a page takes for granted beside the namespace `shop`.
"""

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from integration.namespaces import CLUSTER_WIDE
from integration.pages import PAGES, blocks, name_of
from local import cluster
from local.errors import StackError
from local.helm import helm
from local.postgresql import Server
from local.stack import CHECKOUT, Stack

pytestmark = [pytest.mark.version_independent, CLUSTER_WIDE]

TUTORIAL = CHECKOUT / "docs/tutorial.md"
PAGE_SECONDS = 600
PLUGINS = {"cnpg", "krew"}
WITH_PLUGIN = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
"""The environment, with kubectl hoop on PATH."""
OF_OTHERS = {
    "postgresql.cnpg.io/v1",
    "external-secrets.io/v1",
    "external-secrets.io/v1alpha1",
    "argoproj.io/v1alpha1",
    "monitoring.coreos.com/v1",
}
"""APIs that the API server of the tests does not serve."""

DATABASES = ("mydb", "otherdb")
LEFT = """SELECT format('DROP ROLE %I;', rolname) FROM pg_roles
 WHERE rolname = 'orders-4f2a' OR shobj_description(oid, 'pg_authid') LIKE 'hoop.dev/role-plan: default/shop/%'"""
"""What pages leave on the server: roles that stay as they ask, and those of another tool."""

SHOP = """\
apiVersion: hoop.dev/v1alpha1
kind: HoopResource
metadata: {name: my-postgres}
spec: &spec
  type: database
  subtype: postgres
  envVarsFrom: [{secretRef: {name: my-postgres-admin}}]
---
apiVersion: hoop.dev/v1alpha1
kind: HoopRolePlan
metadata: {name: orders-ro}
spec:
  resourceRef: {name: my-postgres}
  type: managed
  role: ro
  scopes: [mydb]
  privileges: [SELECT]
"""


def with_blocks(language: str) -> list[Path]:
    return [
        page
        for page in PAGES
        if any(block.language == language and not block.why_not for block in blocks(page))
    ]


def run(page: Path, directory: Path, before: str = "") -> None:
    """Run the blocks of a page in one shell, in a directory that looks like the checkout and is not."""
    for entry in CHECKOUT.iterdir():
        if entry.name not in {".git", ".local", ".venv", "build"}:
            (directory / entry.name).symlink_to(entry)
    # Newer than everything else, so that make does not install anything: that would begin by clearing what is there.
    environment = directory / ".venv"
    environment.mkdir()
    for entry in (CHECKOUT / ".venv").iterdir():
        if entry.name != ".installed":
            (environment / entry.name).symlink_to(entry)
    (environment / ".installed").touch()
    script = ["set -eu", before]
    for block in blocks(page):
        if block.why_not:
            print(f"{page.name}:{block.line} is not run: {block.why_not}")
        elif block.language == "sh":
            script += [f"echo '# {page.name}:{block.line}'", block.text]
    commands = directory / "commands.sh"
    commands.write_text("\n".join(script), encoding="utf-8")
    done = subprocess.run(  # noqa: S603 -- our own documentation
        ["/bin/sh", commands],
        stdin=subprocess.DEVNULL,
        cwd=directory,
        env={**os.environ, "PATH": f"{environment / 'bin'}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PAGE_SECONDS,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def access(operator: Stack, postgres: Server) -> Iterator[str]:
    """What a shell has to source to be administrator where the namespace and the databases of the shop are."""

    def shell(command: str) -> None:
        subprocess.run(["/bin/sh", "-euc", f"{access}\n{command}"], check=True)  # noqa: S603 -- commands of this test

    access = f". {shlex.quote(str(operator.write_environment(postgres)))}"
    shell("kubectl create namespace shop")
    for database in DATABASES:
        shell(f"psql -q -c 'CREATE DATABASE {database}' && psql -q -d {database} -c 'CREATE TABLE orders ()'")
    yield access
    shell("kubectl delete namespace shop")
    for database in DATABASES:
        shell(f"psql -q -c 'DROP DATABASE {database} WITH (FORCE)'")
    shell(f"psql -q -At -c {shlex.quote(LEFT)} | psql -q")


@pytest.fixture
def shop(operator: Stack, access: str, postgres: Server) -> Iterator[str]:
    """The namespace `shop` with a server and a plan, and what a shell has to source."""

    def kubectl(*arguments: str, manifest: str | None = None) -> str:
        return cluster.kubectl(operator.kubeconfig, "--namespace=shop", *arguments, manifest=manifest)

    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "my-postgres-admin"},
        "stringData": {
            "host": postgres.host,
            "port": str(postgres.port),
            "username": postgres.user,
            "password": postgres.password,
        },
    }
    kubectl("apply", "--filename=-", manifest=f"{yaml.safe_dump(secret)}---\n{SHOP}")
    kubectl("wait", "--for=condition=Ready", "hrp/orders-ro", "--timeout=60s")
    yield access
    kubectl("delete", "hrp,hres", "--all", "--timeout=120s")
    kubectl("delete", "secrets,configmaps,rolebindings", "--all")


@pytest.mark.parametrize(
    "page",
    [page for page in with_blocks("sh") if page != TUTORIAL],
    ids=name_of,
)
def test_every_command_of_a_page_does_what_it_says(shop: str, page: Path, tmp_path: Path) -> None:
    run(page, tmp_path, shop)


def clients_asked(page: Path) -> Iterator[list[str]]:
    """The commands of kubectl and Helm, without plugins, in those blocks of a page that are not run."""
    for block in blocks(page):
        if block.why_not and block.language == "sh":
            one_line = re.sub(r"(^|\s)#.*$", "", block.text.replace("\\\n", " "), flags=re.MULTILINE).replace(
                "\n", ";"
            )
            words = shlex.shlex(one_line, posix=True, punctuation_chars=True)
            words.whitespace_split = True
            for between, command in itertools.groupby(words, lambda word: set(word) <= set("();<>|&")):
                match [] if between else list(command):
                    case ["kubectl" | "helm", subcommand, *_] as found if subcommand not in PLUGINS:
                        yield found


@pytest.mark.parametrize("page", [page for page in PAGES if any(clients_asked(page))], ids=name_of)
def test_commands_that_are_not_run_have_flags_that_there_are(page: Path) -> None:
    for command in clients_asked(page):
        program = cluster.kubectl_program() if command[0] == "kubectl" else helm(4)
        # Flags are read from the left: an unknown one is an error before the wish for help is met.
        asked = [str(program), *command[1:], "--help"]
        done = subprocess.run(asked, env=WITH_PLUGIN, capture_output=True, text=True, check=False)  # noqa: S603 -- asks for help
        assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.mark.parametrize("page", with_blocks("yaml"), ids=name_of)
def test_the_api_server_takes_every_object_of_a_page(stack: Stack, namespace: str, page: Path) -> None:
    for block in blocks(page):
        for manifest in yaml.safe_load_all(block.text) if block.language == "yaml" else ():
            if manifest["apiVersion"] in OF_OTHERS:
                continue
            manifest["metadata"].pop("namespace", None)
            try:
                cluster.kubectl(
                    stack.kubeconfig,
                    *(
                        "apply",
                        "--server-side",
                        "--dry-run=server",
                        f"--namespace={namespace}",
                        "--filename=-",
                    ),
                    manifest=yaml.safe_dump(manifest),
                )
            except StackError as refused:
                pytest.fail(f"{page.name}:{block.line}: {refused}")


def test_the_tutorial_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "KUBECACHEDIR"):
        monkeypatch.delenv(name)
    try:
        run(TUTORIAL, tmp_path)
    finally:
        Stack(tmp_path / ".local").destroy()
