"""hoop's HTTP API as its clients meet it, over the real API server, the operator of the suite and a real PostgreSQL."""

import base64
import secrets
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from integration.http_api import Client, HttpApi, encoded
from local.postgresql import Server
from local.stack import Stack

pytestmark = pytest.mark.version_independent


@pytest.fixture(scope="module")
async def http_api(
    operator: Stack, postgres: Server, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[HttpApi]:
    """The API in a namespace of its own; afterwards no password and no token is in its log."""
    api = HttpApi(operator, tmp_path_factory.mktemp("http-api") / "log", HOOP_API_WAIT_SECONDS="15")
    await api.start()
    yield api
    said = api.log.read_text()
    api.close()
    for confidential in (postgres.password, encoded(postgres.password), *api.tokens.values()):
        assert confidential not in said


@pytest.fixture
def admin_client(http_api: HttpApi) -> Client:
    return http_api.as_("admin")


@pytest.fixture
async def shop(admin_client: Client, postgres: Server) -> str:
    """A resource."""
    name = f"shop-{secrets.token_hex(4)}"
    await admin_client.register(name, postgres)
    return name


def plan_of(database: str, **more: Any) -> dict[str, Any]:
    return {"type": "managed", "role": "ro", "scopes": [database], "privileges": ["SELECT"], **more}


async def credentials(api: KubernetesApi, http_api: HttpApi, message: str) -> dict[str, str]:
    """What is in the Secret that an apply told of."""
    name = message.partition(" Secret ")[2].partition(" ")[0]
    body = await api.get(paths.secret(http_api.namespace, name))
    return {key: base64.b64decode(value).decode() for key, value in body["data"].items()}


async def log_in(values: dict[str, str]) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(
        host=values["host"],
        port=values["port"],
        user=values["username"],
        password=values["password"],
        dbname=values["database"],
        autocommit=True,
    )


async def test_a_client_of_hoop_registers_plans_applies_rotates_reads_back_and_deletes(
    http_api: HttpApi, admin_client: Client, postgres: Server, api: KubernetesApi, database: str
) -> None:
    made = await admin_client.register("My Shop!", postgres, roles=[])
    assert made["name"] == "My Shop!"
    assert {"id", "created_at", "updated_at", "agent_id"} <= set(made)
    assert set(made["env_vars"].values()) == {"********"}
    assert (await admin_client.get("/My%20Shop!"))["id"] == made["id"]
    assert [item["name"] for item in await admin_client.get("")] == ["My Shop!"]
    health = await admin_client.get("/My%20Shop!/health")
    assert (health["status"], health["output"][:11]) == ("success", "PostgreSQL ")

    planned = await admin_client.post("/My%20Shop!/plan", plan_of(database))
    assert (planned["status"], planned["resource_name"]) == ("success", "My Shop!")
    assert planned["role"].startswith("hoopdev_my_shop_ro_")
    assert "CREATE ROLE" in planned["message"]
    assert await exists(postgres, planned["role"]) is False

    applied = await admin_client.post("/My%20Shop!/apply", {"sid": planned["sid"]})
    assert applied["status"] == "success", applied
    assert applied["sid"] != planned["sid"]
    values = await credentials(api, http_api, applied["message"])
    async with await log_in(values) as session:
        await session.execute("SELECT FROM orders")
    again = await admin_client.post("/My%20Shop!/apply", {"sid": planned["sid"]})
    assert (again["status"], again["message"].partition(".")[0]) == (
        "failed",
        "The current database state does not match the desired migration state",
    )

    rotating = await admin_client.post("/My%20Shop!/plan", plan_of(database, rotate_password=True))
    assert rotating["status"] == "success"
    assert await credentials(api, http_api, applied["message"]) == values
    rotated = await admin_client.post("/My%20Shop!/apply", {"sid": rotating["sid"]})
    assert rotated["status"] == "success", rotated
    fresh = await credentials(api, http_api, rotated["message"])
    assert fresh["password"] != values["password"]
    async with await log_in(fresh):
        pass
    again = await admin_client.post("/My%20Shop!/apply", {"sid": rotating["sid"]})
    assert again["status"] == "skipped"

    refused = await admin_client.call("DELETE", "/My%20Shop!")
    assert refused.status == 403
    assert refused.message.startswith("cannot delete resource with existing connections")


async def exists(server: Server, role: str) -> bool:
    async with await psycopg.AsyncConnection.connect(
        host=server.host, port=server.port, user=server.user, password=server.password, dbname="postgres"
    ) as session:
        rows = await session.execute("SELECT FROM pg_catalog.pg_roles WHERE rolname = %s", (role,))
        return rows.rowcount > 0
