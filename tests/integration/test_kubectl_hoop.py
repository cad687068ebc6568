"""`kubectl hoop` among a real API server, a real PostgreSQL and the operator of the suite."""

import asyncio
import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from psycopg import sql

from hoop_operator.cluster import paths
from hoop_operator.naming import role_name
from integration.administrator import Administrator
from integration.plugin import SCRIPTS, Plugin
from integration.tenant import Tenant, eventually
from kubectl_hoop.signals import ENDING, handling
from local import cluster, kubeconfig, postgresql
from local.postgresql import Server
from local.stack import CHECKOUT, Stack

pytestmark = pytest.mark.version_independent

FINE, WRONG, USAGE, NO_CLUSTER = range(4)
MANUAL: dict[str, Any] = {"approval": "Manual", "privileges": ["SELECT"]}


@pytest.fixture
def plugin(stack: Stack, namespace: str, postgres: Server) -> Plugin:
    """The plugin with the rights of a cluster admin."""
    psql = postgresql.programs(postgresql.DEFAULT_VERSION)
    return Plugin(
        stack.kubeconfig, namespace, f"{psql}:{os.environ['PATH']}", confidential=(postgres.password,)
    )


@pytest.fixture
def editor(plugin: Plugin, stack: Stack, tmp_path: Path) -> Plugin:
    """The plugin with the rights of somebody who may edit plans, and no more."""
    name = f"editor-{plugin.namespace}"
    run = ["--namespace", plugin.namespace]
    cluster.kubectl(stack.kubeconfig, *run, "create", "serviceaccount", name)
    account = f"--serviceaccount={plugin.namespace}:{name}"
    cluster.kubectl(
        stack.kubeconfig,
        *run,
        "create",
        "role",
        name,
        "--verb=get,list,patch",
        "--resource=hooproleplans.hoop.dev",
    )
    cluster.kubectl(stack.kubeconfig, *run, "create", "rolebinding", name, f"--role={name}", account)
    token = cluster.kubectl(stack.kubeconfig, *run, "create", "token", name).strip()
    path = tmp_path / "editor"
    kubeconfig.save(path, kubeconfig.with_token(kubeconfig.read(stack.kubeconfig), token))
    return replace(plugin, kubeconfig=path)


async def test_status_tells_resource_plans_and_secrets_and_what_is_wrong(
    plugin: Plugin, tenant: Tenant, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"], rotationInterval="720h")
    ready = (await tenant.until_plans(["ro"]))["ro"]["status"]
    shown = plugin.run("status")
    assert shown.code == FINE
    lines = shown.out.splitlines()
    assert lines[0].startswith(
        f"HoopResource {plugin.namespace}/{resource}  Ready Registered  database/postgres  PostgreSQL "
    )
    assert lines[1] == f"└── HoopRolePlan {plugin.namespace}/ro  Ready Applied  role {ready['role']}"
    assert "    ├── Secret ro-credentials  written" in lines
    assert (
        f"    ├── password of {ready['lastRotationTime']}, next rotation {ready['nextRotationTime']}" in lines
    )
    assert lines[-1] == f"    └── last run {ready['sid']}"

    await tenant.plan("broken", resource, scopes=["nowhere"], privileges=["SELECT"])
    await tenant.until_plans(["broken"], "DatabaseNotFound")
    shown = plugin.run("status", "broken")
    assert shown.code == WRONG
    assert "HoopRolePlan" in shown.out
    assert shown.out.count('database "nowhere" does not exist; create it') == 1
    assert "/ro " not in shown.out

    told = plugin.run("status", "-o", "json", "-A")
    (mine,) = (found for found in json.loads(told.out)["resources"] if found["name"] == resource)
    assert told.code == WRONG
    assert mine["ready"] is True
    by_name = {plan["name"]: plan for plan in mine["plans"]}
    assert (by_name["ro"]["ready"], by_name["ro"]["sid"]) == (True, ready["sid"])
    assert (by_name["broken"]["ready"], by_name["broken"]["reason"]) == (False, "DatabaseNotFound")
    assert plugin.run("status", "nothing").code == WRONG


async def test_output_is_coloured_on_a_terminal_unless_the_user_will_not_have_it_and_never_in_a_pipe(
    plugin: Plugin, resource: str
) -> None:
    unwrapped = {"TERM": "xterm-256color", "COLUMNS": "1000"}

    def on_a_terminal(**more: str) -> str:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(  # noqa: S603 -- our own program
            [plugin.program, "status", "-n", plugin.namespace],
            stdin=theirs,
            stdout=theirs,
            env={"PATH": plugin.path, "KUBECONFIG": str(plugin.kubeconfig), **unwrapped, **more},
        )
        os.close(theirs)
        shown = b""
        with (
            suppress(OSError),
            os.fdopen(ours, "rb", buffering=0) as terminal,
        ):  # EIO: nobody writes there any more
            while piece := terminal.read(4096):
                shown += piece
        assert process.wait(timeout=60) == FINE
        return shown.decode().replace("\r\n", "\n")

    plain = plugin.run("status", more=unwrapped).out
    assert resource in plain
    assert "\x1b" not in plain
    coloured, colourless = on_a_terminal(), on_a_terminal(NO_COLOR="1")
    for shown in (coloured, colourless):  # bold is no colour
        assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == plain
    colours = [re.findall(r"\x1b\[(?:\d+;)*[39]\d[;m]", shown) for shown in (coloured, colourless)]
    assert colours[0]
    assert not colours[1]


async def test_what_waits_is_shown_approved_as_shown_and_by_those_who_may(
    plugin: Plugin, editor: Plugin, tenant: Tenant, database: str, resource: str, stack: Stack
) -> None:
    await tenant.plan("ro", resource, scopes=[database], **MANUAL)
    waiting = (await tenant.until_plans(["ro"], "PendingApproval"))["ro"]["status"]["plan"]
    shown = plugin.run("plan", "ro")
    assert shown.code == FINE
    assert "+ CREATE ROLE " in shown.out
    assert f'@@ database "{database}" @@\n+ GRANT ' in shown.out
    assert "waits for approval: creates the role; grants on " in shown.out
    assert f"checksum {waiting['checksum']}" in shown.out
    spec = (await tenant.plans())["ro"]["spec"]
    manifest = {"apiVersion": "hoop.dev/v1alpha1", "kind": "HoopRolePlan", "metadata": {"name": "ro"}}
    for options, is_told in (((), True), (("--host", "localhost"), False)):
        ahead = plugin.run("plan", "-f", "-", *options, stdin=yaml.safe_dump(manifest | {"spec": spec}))
        assert "waits for approval: nothing is applied until " in ahead.out
        assert (f"hoop.dev/approve={waiting['checksum']}" in ahead.out) is is_told
        assert ("hoop.dev/approve=" in ahead.out) is is_told

    seen = editor.run("status")
    assert (seen.code, "plans are shown without them" in seen.err) == (WRONG, True)
    assert f"HoopRolePlan {plugin.namespace}/ro  not Ready PendingApproval" in seen.out
    unasked = plugin.run("approve", "ro")
    assert (unasked.code, "add --yes" in unasked.err) == (USAGE, True)
    forbidden = editor.run("approve", "ro", "--yes")
    assert forbidden.code == NO_CLUSTER
    assert "ask for the ClusterRole hoop-approve" in forbidden.err
    assert "hoop.dev/approve" not in (await tenant.plans())["ro"]["metadata"].get("annotations", {})

    another = plugin.run("approve", "ro", "--yes", "--checksum", "c0ffee")
    assert (another.code, "nothing was approved" in another.err) == (WRONG, True)

    more = json.dumps({"status": {"plan": {"count": waiting["count"] + 1}}})
    patch = ["patch", "hrp", "ro", "--subresource=status", "--type=merge", "-p", more]
    cluster.kubectl(stack.kubeconfig, "--namespace", plugin.namespace, *patch)
    unread = plugin.run("approve", "ro", "--yes")
    assert (unread.code, "NOT ALL IS SHOWN: 1 statements" in unread.out) == (USAGE, True)
    assert f"add --checksum {waiting['checksum']}" in unread.err

    approved = plugin.run("approve", "ro", "--yes", "--checksum", waiting["checksum"])
    assert approved.code == FINE
    assert waiting["checksum"] in approved.out
    await tenant.until_plans(["ro"])
    again = plugin.run("approve", "ro", "--yes")
    assert (again.code, "does not wait for approval (Applied)" in again.err) == (WRONG, True)


async def test_a_plan_that_changed_while_a_person_read_is_not_approved(
    plugin: Plugin, tenant: Tenant, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], **MANUAL)
    first = (await tenant.until_plans(["ro"], "PendingApproval"))["ro"]["status"]["plan"]["checksum"]
    # A terminal, so that the command asks and waits for the answer.
    main, terminal = os.openpty()
    process = subprocess.Popen(  # noqa: ASYNC220, S603 -- our own program
        [plugin.program, "approve", "ro", "-n", plugin.namespace],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": plugin.path, "KUBECONFIG": str(plugin.kubeconfig)},
    )
    try:
        assert process.stdout is not None
        while first not in process.stdout.readline():
            pass
        await tenant.change("ro", privileges=["SELECT", "DELETE"])

        async def replanned() -> bool:
            return bool((await tenant.plans())["ro"]["status"]["plan"]["checksum"] != first)

        await eventually(replanned, what="another plan")
        os.write(main, b"y\n")
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        os.close(main)
        os.close(terminal)
    assert process.returncode == WRONG
    assert "became another plan while you read: nothing was approved" in errors
    assert "hoop.dev/approve" not in (await tenant.plans())["ro"]["metadata"].get("annotations", {})


async def test_whatever_ends_it_the_persons_key_does_not_stay_behind(
    plugin: Plugin, tenant: Tenant, database: str, resource: str, tmp_path: Path
) -> None:
    await tenant.plan("ro", resource, scopes=[database], suspend=True, **MANUAL)
    await tenant.until_plans(["ro"], "Suspended")
    environment = {"PATH": plugin.path, "KUBECONFIG": str(plugin.kubeconfig), "TMPDIR": str(tmp_path)}

    async def asked() -> bool:
        return "hoop.dev/rotate-at" in (await tenant.plans())["ro"]["metadata"].get("annotations", {})

    with ExitStack() as by_default:
        # Whoever runs the tests in the background may have some of them ignored, and what is ignored stays so.
        for signum in ENDING:
            by_default.enter_context(handling(signum, signal.SIG_DFL))
        for signum in (*ENDING, signal.SIGKILL):
            forget = {"metadata": {"annotations": {"hoop.dev/rotate-at": None}}}
            await tenant.api.merge_patch(paths.hoop_role_plan(tenant.namespace, "ro"), forget)
            with subprocess.Popen(  # noqa: ASYNC220, S603 -- our own program
                [plugin.program, "rotate", "ro", "-n", plugin.namespace, "--wait"], env=environment
            ) as process:
                try:
                    await eventually(asked, what="the plugin waits for the rotation")
                    process.send_signal(signum)
                    code = process.wait(timeout=30)
                finally:
                    process.kill()
            assert not any(b"PRIVATE KEY" in content for content in contents(tmp_path))
            if signum is not signal.SIGKILL:
                assert (code, children(tmp_path)) == (128 + signum, [])


def state_of(stat: Path) -> str:
    """The state of a process: R runs, S sleeps (the manual page proc_pid_stat(5))."""
    return stat.read_text().rpartition(")")[2].split()[0]


def children(directory: Path) -> list[Path]:
    """What is in a directory."""
    return [*directory.iterdir()]


def contents(directory: Path) -> list[bytes]:
    """What is in the files of the directories in a directory."""
    return [path.read_bytes() for path in directory.glob("*/*")]


async def test_ctrl_c_ends_the_question_whether_to_approve_at_the_first(
    plugin: Plugin, tenant: Tenant, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], **MANUAL)
    await tenant.until_plans(["ro"], "PendingApproval")
    main, terminal = os.openpty()
    try:
        with subprocess.Popen(  # noqa: ASYNC220, S603 -- our own program
            [plugin.program, "approve", "ro", "-n", plugin.namespace],
            stdin=terminal,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": plugin.path, "KUBECONFIG": str(plugin.kubeconfig)},
        ) as process:
            stat = Path("/proc", str(process.pid), "stat")

            async def waits_for_an_answer() -> bool:
                return state_of(stat) == "S"

            try:
                assert process.stderr is not None
                asked = b""
                while not asked.endswith(b"[y/N]: "):
                    asked += process.stderr.read(1)
                # Between its last word and its wait nobody presses a key as fast as a test.
                await eventually(waits_for_an_answer, what="it waits for an answer")
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=30) == 128 + signal.SIGINT
            finally:
                process.kill()
    finally:
        os.close(main)
        os.close(terminal)


async def test_plans_are_rotated_run_suspended_resumed_and_logged_in_with(
    plugin: Plugin, tenant: Tenant, database: str, resource: str
) -> None:
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    sid = (await tenant.until_plans(["ro"]))["ro"]["status"]["sid"]
    before = (await tenant.secret("ro"))["password"]
    query = ("--", "-Atc", "SELECT current_user, count(*) FROM orders")
    rotated = plugin.run("rotate", "ro", "--wait")
    assert (rotated.code, rotated.err) == (FINE, "")
    after = (await tenant.secret("ro"))["password"]
    assert after != before

    careful = replace(plugin, confidential=(*plugin.confidential, before, after))
    role = (await tenant.plans())["ro"]["status"]["role"]
    # What the person's own environment says of other servers is not used.
    told = careful.run(
        "psql", "ro", *query, more={"PGPASSWORD": "wrong", "PGSERVICE": "nowhere", "PGPORT": "1"}
    )
    assert (told.code, told.out, told.err) == (0, f"{role}|0\n", "")
    environment = careful.run("psql", "ro", "--", "-c", r"\! env; cat /proc/$PPID/cmdline")
    assert "PGPASSFILE=" in environment.out
    passfile = re.search("^PGPASSFILE=(.*)$", environment.out, re.MULTILINE)
    assert passfile is not None
    assert not os.access(passfile[1], os.F_OK)
    # The terminal goes away: so do psql and the file.
    hang_up = r"\! echo $PGPASSFILE; kill -HUP $(cut -d ' ' -f 4 /proc/$PPID/stat)"
    hung_up = careful.run("psql", "ro", "--", "-c", hang_up)
    assert hung_up.code == 128 + signal.SIGHUP
    assert not os.access(hung_up.out.strip(), os.F_OK)
    killed = careful.run("psql", "ro", "--", "-c", r"\! kill -KILL $PPID")
    assert killed.code == 128 + signal.SIGKILL
    elsewhere = careful.run("psql", "ro", "--port", "1", *query)
    assert (elsewhere.code, "port 1 failed" in elsewhere.err) == (2, True)
    absent = replace(careful, path="/nonexistent").run("psql", "ro")
    assert (absent.code, "psql is not on PATH" in absent.err) == (WRONG, True)

    sid = (await tenant.plans())["ro"]["status"]["sid"]
    assert plugin.run("reconcile", "ro").code == FINE
    await tenant.until_plan("ro", lambda plan: plan["status"]["sid"] != sid, "another run")
    suspended = plugin.run("suspend", "ro")
    assert (suspended.code, "where Git has the manifest" in suspended.err) == (FINE, True)
    await tenant.until_plans(["ro"], "Suspended")
    assert plugin.run("status", "ro").code == WRONG
    alone = plugin.run("rotate", "ro", "--timeout", "1")
    assert (alone.code, "--timeout goes with --wait" in alone.err) == (USAGE, True)
    mixed_up = plugin.run("rotate", resource)
    assert (mixed_up.code, "is a HoopResource, and this is about" in mixed_up.err) == (WRONG, True)
    late = plugin.run("rotate", "hrp/ro", "--wait", "--timeout", "1")
    assert (late.code, "Suspended" in late.err) == (WRONG, True)
    assert plugin.run("resume", "ro").code == FINE
    await tenant.until_plans(["ro"])


async def test_doctor_names_what_the_admin_lacks_and_its_sql_helps(
    plugin: Plugin, tenant: Tenant, admin: Administrator, database: str, postgres: Server
) -> None:
    session = await admin.connect(database)
    steward = f"steward_{database}"
    name, password = sql.Identifier(steward), "only-of-this-test"
    await session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, password))
    resource = await tenant.resource(postgres, user=steward, password=password)
    try:
        await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
        careful = replace(plugin, confidential=(*plugin.confidential, password))
        # One remedy after the other makes way for the next one.
        told = careful.run("doctor", resource)
        for _ in range(5):
            _, mark, remedies = told.out.partition("-- SQL for an administrator")
            if not mark:
                break
            assert told.code == WRONG
            for remedy in remedies.splitlines()[1:]:
                await session.execute(remedy.encode())
            told = careful.run("doctor", resource)
        assert told.code == FINE, told
        assert f'admin "{steward}" (CREATEROLE)' in told.out
        assert f"ok    HoopRolePlan {plugin.namespace}/ro" in told.out
        await tenant.until_plans(["ro"])

        closed = careful.run("doctor", resource, "--port", "1")
        assert (closed.code, "ServerUnreachable" in closed.out) == (WRONG, True)
        await tenant.annotate("ro", abandon="true")
        await tenant.delete("ro")
        await tenant.until_gone("ro")
    finally:
        made = [sql.Identifier(role) for role in (steward, role_name(resource, "ro"))]
        await session.execute(
            sql.SQL("DROP OWNED BY {0} CASCADE; DROP ROLE {0}").format(sql.SQL(", ").join(made))
        )


def test_a_reference_is_followed_as_far_as_the_persons_own_settings_allow(
    plugin: Plugin, stack: Stack, postgres: Server
) -> None:
    env_vars = {"HOST": postgres.host, "PORT": str(postgres.port), "USER": postgres.user}
    manifest = {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopResource",
        "metadata": {"name": "refers"},
        "spec": {
            "type": "database",
            "subtype": "postgres",
            "envVars": {**env_vars, "envvar:PASS": "_envjson:SHOP:password"},
        },
    }
    cluster.kubectl(
        stack.kubeconfig, "--namespace", plugin.namespace, "apply", "-f-", manifest=json.dumps(manifest)
    )
    environment = {"SHOP": json.dumps({"password": postgres.password})}
    for command in ("doctor", "import"):
        refused = plugin.run(command, "refers", more=environment)
        assert (refused.code, "HOOP_ALLOWED_ENVJSON" in refused.out + refused.err) == (WRONG, True)
    allowed = {**environment, "HOOP_ALLOWED_ENVJSON": json.dumps({plugin.namespace: ["SHOP"]})}
    for command in ("doctor", "import"):
        assert plugin.run(command, "refers", more=allowed).code == FINE


async def test_a_plan_in_a_file_takes_what_it_lacks_from_the_cluster(
    plugin: Plugin, editor: Plugin, database: str, resource: str
) -> None:
    spec = {
        "resourceRef": {"name": resource},
        "type": "managed",
        "role": "ro",
        "scopes": [database],
        "privileges": ["SELECT"],
    }
    body = {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopRolePlan",
        "metadata": {"name": "ro"},
        "spec": spec,
    }
    shown = plugin.run("plan", "-f", "-", stdin=yaml.safe_dump(body))
    assert (shown.code, shown.err) == (FINE, "")
    assert "@@ the server @@\n+ CREATE ROLE " in shown.out
    assert "'********'" in shown.out
    spec["scopes"] = ["nowhere"]
    assert plugin.run("plan", "-f", "-", stdin=yaml.safe_dump(body)).code == WRONG
    refused = editor.run("plan", "-f", "-", stdin=yaml.safe_dump(body))
    assert (refused.code, "403 Forbidden: you (context " in refused.err) == (NO_CLUSTER, True)


async def test_names_are_completed_for_kubectl_and_by_the_script_for_bash(
    plugin: Plugin, tenant: Tenant, database: str, resource: str
) -> None:
    await tenant.plan("orders-ro", resource, scopes=[database], privileges=["SELECT"])
    kubectl = shutil.which("kubectl", path=str(SCRIPTS))
    assert kubectl is not None
    environment = {"PATH": f"{SCRIPTS}:{plugin.path}", "KUBECONFIG": str(plugin.kubeconfig)}

    def kubectl_says(*words: str) -> list[str]:
        return subprocess.run(  # noqa: S603 -- kubectl, as its own completion script calls it
            [kubectl, "__complete", "hoop", *words],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        ).stdout.splitlines()

    async def offered(says: Callable[..., list[str]], words: list[str], names: list[str]) -> None:
        """Wait until names are offered: on a busy machine a cluster may not have answered in time."""
        await eventually(
            lambda: asyncio.to_thread(lambda: says(*words) == names), what=f"{names} are offered"
        )

    plans, resources = (
        ["approve", "-n", plugin.namespace, "or"],
        ["doctor", "-n", plugin.namespace, ""],
    )
    await offered(kubectl_says, plans, ["orders-ro", ":4"])
    await offered(kubectl_says, resources, [resource, ":4"])
    assert kubectl_says("rec") == ["reconcile\tHave a plan run again now.", ":4"]

    page = (CHECKOUT / "docs/kubectl-hoop.md").read_text()
    (command,) = re.findall(r"^source <\(kubectl hoop completion bash\)", page, re.MULTILINE)

    def bash_says(*words: str) -> list[str]:
        """What bash offers for the last of some words."""
        asked = shlex.join(["kubectl-hoop", *words])
        script = f"""{command}
            [[ $(complete -p kubectl-hoop) =~ -F\\ ([a-z_]+) ]]
            COMP_WORDS=({asked}) COMP_CWORD={len(words)}
            ${{BASH_REMATCH[1]}} kubectl-hoop
            printf '%s\\n' "${{COMPREPLY[@]}}" """
        return subprocess.run(  # noqa: S603 -- what the page has a user type
            ["/bin/bash", "-euc", script],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        ).stdout.splitlines()

    await offered(bash_says, plans, ["orders-ro"])
    await offered(bash_says, resources, [resource])
    assert bash_says("rec") == ["reconcile"]


def test_whoever_impersonates_has_the_rights_of_whom_they_impersonate(
    plugin: Plugin, stack: Stack, tmp_path: Path
) -> None:
    config = kubeconfig.read(stack.kubeconfig)
    config["users"][0]["user"] |= {"as": "nobody", "as-groups": ["some", "others"]}
    path = tmp_path / "impersonating"
    kubeconfig.save(path, config)
    for told in (replace(plugin, kubeconfig=path).run("status"), plugin.run("status", "--as", "nobody")):
        assert (told.code, "403 Forbidden" in told.err) == (NO_CLUSTER, True), told
    assert (
        plugin.run("status", "--as", "root", "--as-group", "a", "--as-group", "system:masters").code == FINE
    )


def test_the_kubeconfig_decides_where_commands_go(plugin: Plugin, stack: Stack, tmp_path: Path) -> None:
    config = kubeconfig.read(stack.kubeconfig)
    context = config["contexts"][0]
    context["context"]["namespace"] = plugin.namespace
    second = tmp_path / "second"
    kubeconfig.save(second, {**config, "current-context": context["name"]})
    environment = {"PATH": plugin.path, "KUBECONFIG": f"/nonexistent:{second}"}
    told = subprocess.run(  # noqa: S603 -- our own program
        [plugin.program, "status"], capture_output=True, text=True, check=True, env=environment
    )
    assert told.stdout == f"There is no HoopResource and no HoopRolePlan in namespace {plugin.namespace}.\n"
    unknown = plugin.run("status", "--context", "elsewhere")
    assert (unknown.code, "elsewhere" in unknown.err) == (NO_CLUSTER, True)
    with Path("/dev/full").open("w") as full:
        lost = subprocess.run(  # noqa: S603 -- our own program
            [plugin.program, "status"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment,
        )
    assert (lost.returncode, lost.stderr.count("\n")) == (WRONG, 1)
    assert "cannot be written: [Errno 28]" in lost.stderr
    context["name"] = "dead"
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    kubeconfig.save(second, {**config, "current-context": "dead"})
    dead = replace(plugin, kubeconfig=second).run("status")
    assert (dead.code, dead.err.startswith("Kubernetes API: GET ")) == (NO_CLUSTER, True)
