"""What `_aws:` and `_envjson:` references of a resource come to."""

import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from integration.administrator import Administrator
from integration.aws import OTHER_REGION, POD_IDENTITY, REGION, ROLE, Aws
from integration.namespaces import CLUSTER_WIDE, Namespaces
from integration.operator_process import OperatorProcess
from integration.registrant import CONFIDENTIAL, Registrant
from integration.tenant import PATIENCE_SECONDS, eventually, ready, roles_of
from local.postgresql import Server

pytestmark = pytest.mark.version_independent

ALLOWED = ["shop/*", f"arn:aws:secretsmanager:{OTHER_REGION}:123456789012:secret:shop/*"]
TOKEN = f"{CONFIDENTIAL}.token.of.the.service.account"
IRSA = {"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"}
THING: dict[str, Any] = {"type": "custom", "subtype": "thing", "envVars": {"A": "1"}}
"""A resource that is registered as soon as its roles are."""


@pytest.fixture(scope="module")
async def aws(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Aws]:
    aws = Aws(tmp_path_factory.mktemp("aws") / "moto.log")
    await aws.open()
    yield aws
    await aws.close()


@pytest.fixture(scope="module")
def surroundings(aws: Aws, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings and environment of an operator in a Pod whose service account has an AWS role (IRSA)."""
    token = tmp_path_factory.mktemp("irsa") / "token"
    token.write_text(TOKEN)
    return {
        "AWS_ENDPOINT_URL": aws.url,
        "AWS_ROLE_ARN": ROLE,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOOP_AWS_REGION": REGION,
        "HOOP_ALLOWED_AWS_SECRETS": json.dumps({"test-*": ALLOWED}),
        "HOOP_ALLOWED_ENVJSON": json.dumps({"test-*": ["SHOP_DB"]}),
        "SHOP_DB": json.dumps({"token": f"{CONFIDENTIAL}-environment"}),
        "OTHER_DB": json.dumps({"token": f"{CONFIDENTIAL}-other"}),
        "HOOP_RETRY_SECONDS_MAX": "1",
        "HOOP_LOG_LEVEL": "DEBUG",
    }


@pytest.fixture(scope="module")
async def referring_operator(
    operator_kubeconfig: Path,
    surroundings: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    namespaces: Namespaces,
) -> AsyncIterator[OperatorProcess]:
    """An operator that looks only at what somebody tells it of."""
    settings = {**surroundings, **namespaces.of_the_run, "HOOP_DRIFT_INTERVAL_SECONDS": "3600"}
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    process = OperatorProcess(operator_kubeconfig, log, settings)
    await process.start()
    yield process
    process.bury()


async def no_value_was_told(process: OperatorProcess, api: KubernetesApi, namespace: str) -> None:
    told = [process.said()]
    for path in (paths.events(namespace), paths.hoop_resources(namespace), paths.hoop_role_plans(namespace)):
        items = (await api.get(path))["items"]
        told += [json.dumps({"note": item.get("note"), "status": item.get("status")}) for item in items]
    assert "DEBUG" in told[0]
    for text in told:
        assert CONFIDENTIAL not in text


@pytest.fixture
async def registrant(
    referring_operator: OperatorProcess, api: KubernetesApi, namespace: str
) -> AsyncIterator[Registrant]:
    yield Registrant(api, namespace, referring_operator.agent_id)
    await no_value_was_told(referring_operator, api, namespace)


@pytest.fixture
def prefix() -> str:
    """What the names of a test's secrets begin with."""
    return f"shop/{secrets.token_hex(4)}"


class Login:
    """An administrator whose password is changed as somebody who rotates it would."""

    def __init__(self, admin: Administrator, server: Server) -> None:
        self.name = f"admin_{secrets.token_hex(4)}"
        self._admin = admin
        self._server = server

    async def set_password(self) -> str:
        """Give it a new password; return what a secret says of it."""
        password = f"{CONFIDENTIAL}-{secrets.token_hex(8)}"
        session = await self._admin.connect()
        exists = await session.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [self.name])
        statement = (
            "ALTER ROLE {} PASSWORD {}" if exists.rowcount else "CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}"
        )
        await session.execute(sql.SQL(statement).format(sql.Identifier(self.name), password))
        login = {
            "host": self._server.host,
            "port": self._server.port,
            "username": self.name,
            "password": password,
        }
        return json.dumps(login)


@pytest.fixture
async def login(admin: Administrator, postgres: Server) -> AsyncIterator[Login]:
    login = Login(admin, postgres)
    yield login
    session = await admin.connect()
    await session.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(login.name)))


def database_at(secret: str) -> dict[str, str]:
    keys = {"HOST": "host", "PORT": "port", "USER": "username", "PASS": "password"}
    return {f"envvar:{name}": f"_aws:{secret}:{key}" for name, key in keys.items()}


async def test_every_form_of_secret_is_found_and_each_is_asked_for_once(
    registrant: Registrant, aws: Aws, login: Login, prefix: str
) -> None:
    # What the two programs import for the first secret takes them longer than the operator waits for any other.
    await aws.create(f"{prefix}/first", SecretString=CONFIDENTIAL)
    first = {"envvar:FIRST": f"_aws:{prefix}/first:SecretString"}
    await registrant.register("first", **THING, roles=[{"name": "app", "secret": first}])
    await registrant.until("first", "Registered")
    arn = await aws.create(f"{prefix}/db", region=OTHER_REGION, SecretString=await login.set_password())
    await aws.create(f"{prefix}/plain", SecretString=f"{CONFIDENTIAL} plain")
    await aws.create(f"{prefix}/binary", SecretBinary=f"{CONFIDENTIAL} binary".encode())
    wanted = {
        "envvar:PLAIN": f"_aws:{prefix}/plain:SecretString",
        "filesystem:BINARY": f"_aws:{prefix}/binary:SecretBinary",
        "envvar:TOKEN": "_envjson:SHOP_DB:token",
        "LITERAL": "_aws:no:reference",
    }
    await registrant.register("db", envVars=database_at(arn), roles=[{"name": "app", "secret": wanted}])
    await registrant.until("db", "Registered")
    found = await registrant.read_secret("db-app-connection")
    assert found is not None
    assert found["data"] == {
        "PLAIN": f"{CONFIDENTIAL} plain",
        "BINARY": f"{CONFIDENTIAL} binary",
        "TOKEN": f"{CONFIDENTIAL}-environment",
        "LITERAL": "_aws:no:reference",
    }
    assert found["metadata"]["annotations"]["hoop.dev/files"] == "BINARY"
    assert aws.reads[arn] == 1
    # The operator's own credentials came by its service account's token.
    assert any(
        "AssumeRoleWithWebIdentity" in request and "hoop-operator" in request for request in aws.logins
    )
    assert await registrant.resource_events("db") == []


async def test_all_that_comes_to_nothing_is_told_at_once_by_name_and_gets_well_by_itself(
    registrant: Registrant, aws: Aws, prefix: str
) -> None:
    for name in ("json", "going", "throttled", "denied"):
        await aws.create(f"{prefix}/{name}", SecretString=f'{{"here": "{CONFIDENTIAL}"}}')
    await aws.create(f"{prefix}/plain", SecretString=CONFIDENTIAL)
    await aws.create("other/db", SecretString='{"x": "1"}')
    await aws.delete(f"{prefix}/going")
    aws.refusals = {f"{prefix}/throttled": "ThrottlingException", f"{prefix}/denied": "AccessDeniedException"}
    secret = {
        "envvar:A": f"_aws:{prefix}/absent:here",
        "envvar:B": f"_aws:{prefix}/json:gone",
        "envvar:C": f"_aws:{prefix}/plain:here",
        "envvar:D": f"_aws:{prefix}/going:here",
        "envvar:E": f"_aws:{prefix}/throttled:here",
        "envvar:F": f"_aws:{prefix}/denied:here",
        "envvar:G": "_aws:other/db:x",
        "envvar:H": "_envjson:OTHER_DB:token",
        "envvar:I": "_envjson:SHOP_DB:gone",
    }
    await registrant.register("thing", **THING, roles=[{"name": "app", "secret": secret}])
    status = await registrant.until("thing", "CredentialsUnresolved")
    for part in (
        f"secret {prefix}/absent: it does not exist; create it",
        f'secret {prefix}/json: its JSON object has no value for the key "gone"',
        f"secret {prefix}/plain: it is no JSON object",
        f"secret {prefix}/going: it is being deleted",
        f"secret {prefix}/throttled: AWS takes no more requests for now (ThrottlingException)",
        f"secret {prefix}/denied: the operator's AWS role may not read it; allow that role",
        "may not refer to the AWS secret other/db; have the operator's setting HOOP_ALLOWED_AWS_SECRETS",
        "may not refer to the environment variable OTHER_DB; have the operator's setting HOOP_ALLOWED_ENVJSON",
        'environment variable SHOP_DB: its JSON object has no value for the key "gone"',
    ):
        assert part in status["message"]
    assert 'spec.roles[app].secret["envvar:A"]' in status["message"]
    assert aws.reads["other/db"] == 0
    assert await registrant.read_secret("thing-app-connection") is None
    aws.refusals = {}
    healed = {"envvar:E": secret["envvar:E"], "envvar:F": secret["envvar:F"]}
    await registrant.change_resource("thing", roles=[{"name": "app", "secret": healed}])
    await registrant.until("thing", "Registered")


async def test_what_aws_takes_no_requests_for_keeps_the_secret_that_there_is(
    registrant: Registrant, aws: Aws, prefix: str
) -> None:
    await aws.create(f"{prefix}/x", SecretString=CONFIDENTIAL)
    secret = {"envvar:X": f"_aws:{prefix}/x:SecretString"}
    await registrant.register("thing", **THING, roles=[{"name": "app", "secret": secret}])
    await registrant.until("thing", "Registered")
    aws.refusals = {f"{prefix}/x": "ThrottlingException"}

    async def throttled() -> bool:
        # Until the answer of before is forgotten.
        await registrant.annotate_resource("thing", secrets.token_hex(4))
        status = (await registrant.see("thing"))["status"]
        return "ThrottlingException" in status["message"]

    await eventually(throttled, what="the throttled secret is unresolved")
    found = await registrant.read_secret("thing-app-connection")
    assert found is not None
    assert found["data"] == {"X": CONFIDENTIAL}
    aws.refusals = {}
    await registrant.until("thing", "Registered")


async def test_a_password_rotated_at_its_source_is_looked_up_when_the_server_refuses_the_old_one(
    registrant: Registrant, aws: Aws, login: Login, prefix: str
) -> None:
    await aws.create(prefix, SecretString=await login.set_password())
    await registrant.register("db", envVars=database_at(prefix))
    await registrant.until("db", "Registered")
    await aws.change(prefix, SecretString=await login.set_password())
    await registrant.annotate_resource("db", "1")

    async def looked_up() -> bool:
        return aws.reads[prefix] == 2

    await eventually(looked_up, what="the secret is read again")
    await registrant.until("db", "Registered")
    assert await registrant.resource_events("db") == []


async def test_a_change_at_the_source_is_noticed_on_the_drift_clock(
    own_operator: Callable[[Mapping[str, str]], OperatorProcess],
    surroundings: Mapping[str, str],
    api: KubernetesApi,
    namespace: str,
    aws: Aws,
    login: Login,
    prefix: str,
) -> None:
    pod_identity = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{aws.url}{POD_IDENTITY}",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": surroundings["AWS_WEB_IDENTITY_TOKEN_FILE"],
    }
    others = {name: value for name, value in surroundings.items() if name not in IRSA}
    process = own_operator({**others, **pod_identity, "HOOP_DRIFT_INTERVAL_SECONDS": "1"})
    registrant = Registrant(api, namespace, process.agent_id)
    await process.start()
    await aws.create(f"{prefix}/db", SecretString=await login.set_password())
    await aws.create(f"{prefix}/x", SecretString=f"{CONFIDENTIAL} before")
    roles = [{"name": "app", "secret": {"envvar:X": f"_aws:{prefix}/x:SecretString"}}]
    await registrant.register("db", envVars=database_at(f"{prefix}/db"), roles=roles)
    await registrant.register("thing", **THING, roles=roles)
    for name in ("db", "thing"):
        await registrant.until(name, "Registered")
    await aws.change(f"{prefix}/x", SecretString=f"{CONFIDENTIAL} after")

    async def hold_the_new_value() -> bool:
        found = [await registrant.read_secret(f"{name}-app-connection") for name in ("db", "thing")]
        return all(secret and secret["data"] == {"X": f"{CONFIDENTIAL} after"} for secret in found)

    await eventually(hold_the_new_value, what="both Secrets hold the new value")
    assert set(aws.pod_tokens) == {TOKEN}
    await no_value_was_told(process, api, namespace)


@CLUSTER_WIDE
async def test_a_role_is_not_left_behind_in_a_namespace_that_goes_while_aws_gives_nothing_out(
    own_operator: Callable[[Mapping[str, str]], OperatorProcess],
    surroundings: Mapping[str, str],
    api: KubernetesApi,
    namespace: str,
    aws: Aws,
    admin: Administrator,
    database: str,
    login: Login,
    prefix: str,
) -> None:
    process = own_operator(surroundings)
    registrant = Registrant(api, namespace, process.agent_id)
    await process.start()
    await aws.create(prefix, SecretString=await login.set_password())
    await registrant.register("db", envVars=database_at(prefix))
    await registrant.plan("ro", "db", scopes=[database], privileges=["SELECT"])
    await registrant.until_plans(["ro"])
    process.kill()
    aws.refusals = {prefix: "ThrottlingException"}
    await api.delete(f"/api/v1/namespaces/{namespace}")
    await registrant.delete("ro")
    await process.start()
    await registrant.until_plan("ro", lambda plan: ready(plan)[0] == "ResourceNotReady", "the plan waits")
    session = await admin.connect()
    assert len(await roles_of(session, namespace, "ro")) == 1
    aws.refusals = {}
    await registrant.until_gone("ro")
    assert await roles_of(session, namespace, "ro") == []


async def test_an_aws_that_does_not_answer_keeps_nobody_else_waiting(
    own_operator: Callable[[Mapping[str, str]], OperatorProcess],
    surroundings: Mapping[str, str],
    api: KubernetesApi,
    new_namespace: Callable[[], str],
    aws: Aws,
    prefix: str,
) -> None:
    namespace, others = new_namespace(), new_namespace()
    process = own_operator(surroundings)
    registrant = Registrant(api, namespace, process.agent_id)
    neighbour = Registrant(api, others, process.agent_id)
    await aws.create(f"{prefix}/answered", SecretString=CONFIDENTIAL)
    await process.start()
    # Four at a time are asked for, each for six seconds or more: together longer than anybody is waited for below.
    for number in range(48):
        aws.silent.add(f"{prefix}/{number}")
        secret = {"envvar:X": f"_aws:{prefix}/{number}:SecretString"}
        await registrant.register(f"silent-{number}", **THING, roles=[{"name": "app", "secret": secret}])

    async def asked() -> bool:
        return bool(aws.silent.intersection(aws.reads))

    await eventually(asked, what="AWS is asked")
    await registrant.register("other", **THING)
    await registrant.until("other", "Registered")
    answered = {"envvar:X": f"_aws:{prefix}/answered:SecretString"}
    await neighbour.register("neighbour", **THING, roles=[{"name": "app", "secret": answered}])
    await neighbour.until("neighbour", "Registered")
    await registrant.until("silent-0", "CredentialsUnresolved", f"secret {prefix}/0: AWS")
    await eventually(process.alive, what="it is alive")
    assert await process.stop(PATIENCE_SECONDS) == 0
