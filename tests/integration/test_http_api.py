"""hoop's HTTP API as its clients meet it, over the real API server, the operator of the suite and a real PostgreSQL."""

import asyncio
import base64
import contextlib
import io
import secrets
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiohttp import web

from hoop_operator.cluster import paths
from hoop_operator.cluster.api import KubernetesApi
from hoop_operator.errors import ObjectNotFound
from integration.administrator import Administrator
from integration.api_proxy import ApiProxy, BrokenOff, PassOn, let_pass, refusal
from integration.http_api import Answer, Client, HttpApi, encoded, env_vars, gathered
from integration.namespaces import Namespaces
from integration.tenant import eventually, ready
from local.postgresql import Server
from local.stack import Stack

pytestmark = pytest.mark.version_independent

STALE = "The current database state does not match the desired migration state. Plan again, and apply that."
GIVES_A_NEW_PASSWORD = "-- gives the role a new password when applied"


@pytest.fixture(scope="module")
async def http_api(
    operator: Stack, postgres: Server, namespaces: Namespaces, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[HttpApi]:
    """The API in a namespace of its own; afterwards no password and no token is in its log."""
    api = HttpApi(operator, tmp_path_factory.mktemp("http-api") / "log")
    await api.start(namespaces.take(shared=True))
    yield api
    said = api.log.read_text()
    api.bury()
    namespaces.give_back(api.namespace)
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
    assert (again["status"], again["message"]) == ("skipped", f"applied already, by the run {applied['sid']}")

    rotating = await admin_client.post("/My%20Shop!/plan", plan_of(database, rotate_password=True))
    assert (rotating["status"], rotating["message"]) == ("success", GIVES_A_NEW_PASSWORD)
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


async def test_credentials_are_in_secrets_of_the_resource_alone_and_are_replaced_whole(
    http_api: HttpApi, admin_client: Client, postgres: Server, api: KubernetesApi
) -> None:
    name = f"vault-{secrets.token_hex(4)}"
    role = {"name": "web", "secret": {"envvar:TOKEN": encoded("t0k3n"), "filesystem:KEY": encoded("k3y")}}
    await admin_client.register(name, postgres, roles=[role])
    path = paths.hoop_resource(http_api.namespace, name)
    body = await api.get(path)
    for confidential in (postgres.password, encoded(postgres.password), "t0k3n", encoded("t0k3n")):
        assert confidential not in str(body)
    assert body["spec"]["envVarsFrom"] == [{"secretRef": {"name": f"{name}-env-vars"}}]

    async def data(secret: str) -> tuple[dict[str, str], Any]:
        found = await api.get(paths.secret(http_api.namespace, secret))
        return found.get("data", {}), found["metadata"]

    values, metadata = await data(f"{name}-env-vars")
    assert values["PASS"] == encoded(postgres.password)
    assert [owner["uid"] for owner in metadata["ownerReferences"]] == [body["metadata"]["uid"]]

    async def handed_on() -> bool:
        with contextlib.suppress(ObjectNotFound):
            handed, about = await data(f"{name}-web-connection")
            return (handed, about["annotations"]["hoop.dev/files"]) == (
                {"TOKEN": encoded("t0k3n"), "KEY": encoded("k3y")},
                "KEY",
            )
        return False

    await eventually(handed_on, what="the role has its Secret")

    change: dict[str, Any] = {
        "type": "database",
        "subtype": "postgres",
        "env_vars": env_vars(postgres, "another"),
    }
    del change["env_vars"]["envvar:PORT"]
    answer = await admin_client.call("PUT", f"/{name}", change)
    assert (answer.status, set(answer.json["env_vars"])) == (
        200,
        {"envvar:HOST", "envvar:USER", "envvar:PASS"},
    )
    body = await api.get(path)
    assert answer.json["updated_at"] == body["status"]["updatedAt"]
    assert body["status"]["observedGeneration"] == body["metadata"]["generation"]
    [source] = body["spec"]["envVarsFrom"]
    values, metadata = await data(source["secretRef"]["name"])
    assert set(values) == {"HOST", "USER", "PASS"}
    assert [owner["uid"] for owner in metadata["ownerReferences"]] == [body["metadata"]["uid"]]
    with pytest.raises(ObjectNotFound):
        await data(f"{name}-env-vars")
    assert (await admin_client.get(f"/{name}/health"))["status"] == "failed"
    shown = {**change, "env_vars": answer.json["env_vars"]}
    assert (await admin_client.call("PUT", f"/{name}", shown)).status == 400
    assert (await admin_client.call("PUT", f"/{name}", {**change, "subtype": "mysql"})).status == 403

    assert (await admin_client.call("DELETE", f"/{name}")).status == 204
    assert (await admin_client.call("GET", f"/{name}")).message == "resource not found"
    assert (await admin_client.call("DELETE", f"/{name}")).status == 404


async def test_references_stay_in_the_object_and_are_followed_as_far_as_the_operator_is_allowed_to(
    http_api: HttpApi, admin_client: Client, postgres: Server, api: KubernetesApi
) -> None:
    name = f"refers-{secrets.token_hex(4)}"
    variables = env_vars(postgres) | {"envvar:PASS": "_aws:shop/db:password"}
    role = {"name": "web", "secret": {"filesystem:KEY": "_envjson:SHOP:key"}}
    body = {"name": name, "type": "database", "subtype": "postgres", "env_vars": variables, "roles": [role]}
    made = await admin_client.post("", body, 201)
    assert made["env_vars"] == dict.fromkeys(variables, "********")
    spec = (await api.get(paths.hoop_resource(http_api.namespace, name)))["spec"]
    assert spec["envVars"] == {"envvar:PASS": "_aws:shop/db:password"}
    assert [(given["secret"], "secretFrom" in given) for given in spec["roles"]] == [(role["secret"], False)]
    health = await admin_client.get(f"/{name}/health")
    assert health["status"] == "failed"
    for part in ("CredentialsUnresolved", "HOOP_ALLOWED_AWS_SECRETS", "HOOP_ALLOWED_ENVJSON"):
        assert part in health["output"]

    malformed = body | {"name": "malformed", "env_vars": variables | {"envvar:PASS": "_aws:shop/db"}}
    refused = await admin_client.call("POST", "", malformed)
    assert (refused.status, "_aws:SECRET:KEY" in refused.message) == (400, True)
    change = {"type": "database", "subtype": "postgres", "env_vars": env_vars(postgres)}
    assert (await admin_client.call("PUT", f"/{name}", change)).status == 200
    spec = (await api.get(paths.hoop_resource(http_api.namespace, name)))["spec"]
    assert not spec.get("envVars")


async def test_what_belongs_to_somebody_else_stays_untouched(
    http_api: HttpApi, admin_client: Client, postgres: Server, api: KubernetesApi
) -> None:
    name = f"taken-{secrets.token_hex(4)}"
    owner = {"kind": "HoopResource", "name": name, "uid": "11111111-1111-4111-8111-111111111111"}
    metadata = {
        "name": f"{name}-env-vars",
        "ownerReferences": [{"apiVersion": "example.org/v1", "controller": True, **owner}],
    }
    mine = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
    await api.create(paths.secrets(http_api.namespace), mine)
    body = {"name": name, "type": "database", "subtype": "postgres", "env_vars": env_vars(postgres)}
    refused = await admin_client.call("POST", "", body)
    assert (refused.status, refused.message[:40]) == (409, f"Secret {name}-env-vars exists already"[:40])

    async def taken_back() -> bool:
        return (await admin_client.call("GET", f"/{name}")).status == 404

    await eventually(taken_back, what="there is no resource without its credentials")


async def test_lists_have_pages_and_names_are_taken_once(
    admin_client: Client, postgres: Server, shop: str
) -> None:
    body = {"name": shop, "type": "database", "subtype": "postgres", "env_vars": env_vars(postgres)}
    taken = await admin_client.call("POST", "", body)
    assert (taken.status, taken.message) == (409, "resource name already exists")
    everything = await admin_client.get("")
    assert [item["name"] for item in everything] == sorted(item["name"] for item in everything)
    page = await admin_client.get("?page=1&page_size=1")
    assert page["pages"] == {"total": len(everything), "page": 1, "size": 1}
    assert page["data"] == everything[:1]
    assert (await admin_client.call("GET", "?page_size=101")).status == 422


async def test_health_names_what_is_missing(admin_client: Client, shop: str) -> None:
    body = {
        "name": "bare",
        "type": "database",
        "subtype": "postgres",
        "env_vars": {"envvar:DB": encoded("x")},
    }
    await admin_client.post("", body, 201)
    results = (await admin_client.post("/health", {"names": ["bare", "absent", shop]}))["results"]
    assert [result["status"] for result in results] == ["failed", "failed", "success"]
    assert "missing required credentials" in results[0]["output"]
    assert "HOST" in results[0]["output"]
    assert results[1] == {"resource_name": "absent", "output": "resource not found", "status": "failed"}
    refused = await admin_client.call("POST", "/bare/plan", plan_of("postgres"))
    assert refused.status == 422
    assert refused.message.startswith("resource is missing required credentials: ")
    assert (await admin_client.call("POST", "/health", {"names": []})).status == 400
    assert (await admin_client.call("DELETE", "/bare")).status == 204


async def test_a_plan_is_made_on_what_there_is_and_leaves_nothing_behind_otherwise(
    http_api: HttpApi, admin_client: Client, api: KubernetesApi
) -> None:
    other = {"name": "files", "type": "custom", "subtype": "tcp", "env_vars": {"HOST": "x"}}
    await admin_client.post("", other, 201)
    for client in (admin_client, http_api.as_("edit")):
        absent = await client.call("POST", "/absent/plan", plan_of("postgres"))
        assert (absent.status, absent.message[:18]) == (404, "resource not found")
        assert (await client.call("POST", "/files/plan", plan_of("postgres"))).status == 422
    plans = (await api.get(paths.hoop_role_plans(http_api.namespace)))["items"]
    assert [plan for plan in plans if plan["spec"]["resourceRef"]["name"] in {"absent", "files"}] == []


async def test_rights_are_those_of_the_caller(
    http_api: HttpApi, admin_client: Client, shop: str, database: str
) -> None:
    for token, status in ((None, 401), ("nonsense", 401), (http_api.tokens["nobody"], 403)):
        answer = await http_api.call("GET", "/api/resources", token=token)
        assert (answer.status, answer.message[:13]) == (status, "access denied")
    view, edit = http_api.as_("view"), http_api.as_("edit")
    assert (await view.call("GET", f"/{shop}")).status == 403
    assert (await view.call("POST", f"/{shop}/plan", plan_of(database))).status == 403
    planned = await edit.post(f"/{shop}/plan", plan_of(database))
    assert planned["status"] == "success"
    refused = await edit.call("POST", f"/{shop}/apply", {"sid": planned["sid"]})
    assert (refused.status, "hoop-approve" in refused.message) == (403, True)
    both = {"items": [{"resource_name": shop, "sid": planned["sid"]}, {"resource_name": shop, "sid": "none"}]}
    assert [item["status"] for item in (await edit.post("/apply", both))["results"]] == ["failed", "failed"]
    assert (await http_api.as_("nobody").call("POST", "/apply", both)).status == 200
    assert (await http_api.call("POST", "/api/resources/apply", both, token="nonsense")).status == 401
    applied = await admin_client.post(f"/{shop}/apply", {"sid": planned["sid"]})
    assert applied["status"] == "success"


async def test_only_what_is_still_due_and_of_that_resource_is_applied(
    admin_client: Client, postgres: Server, shop: str, database: str, admin: Administrator
) -> None:
    other = f"{shop}-other"
    await admin_client.register(other, postgres)
    first = await admin_client.post(f"/{shop}/plan", plan_of(database))
    for path in (f"/{other}/apply", "/absent/apply"):
        assert (await admin_client.call("POST", path, {"sid": first["sid"]})).status == 404
    same = await admin_client.post(f"/{shop}/plan", plan_of(database))
    assert same["sid"] != first["sid"]
    wider = await admin_client.post(f"/{shop}/plan", plan_of(database, privileges=["SELECT", "INSERT"]))
    stale = await admin_client.post(f"/{shop}/apply", {"sid": first["sid"]})
    assert (stale["status"], stale["message"][:26]) == ("failed", "The current database state")
    assert (await admin_client.post(f"/{shop}/apply", {"sid": wider["sid"]}))["status"] == "success"
    in_sync = await admin_client.post(f"/{shop}/plan", plan_of(database, privileges=["INSERT", "SELECT"]))
    assert (in_sync["status"], in_sync["message"]) == ("success", "nothing to do")
    assert (await admin_client.post(f"/{shop}/apply", {"sid": in_sync["sid"]}))["status"] == "skipped"

    narrower = await admin_client.post(f"/{shop}/plan", plan_of(database))
    assert "REVOKE" in narrower["message"]
    session = await admin.connect(database)
    await session.execute(f'REVOKE ALL ON ALL TABLES IN SCHEMA public FROM "{wider["role"]}"')
    outdated = await admin_client.post(f"/{shop}/apply", {"sid": narrower["sid"]})
    assert (outdated["status"], outdated["message"][:26]) == ("failed", "The current database state")


async def test_a_plan_is_found_where_the_api_server_selects_by_none_of_its_fields(
    behind_proxy: tuple[HttpApi, ApiProxy], admin_client: Client, shop: str, database: str
) -> None:
    behind, proxy = behind_proxy

    async def like_kubernetes_1_30(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        if "spec." in request.query.get("fieldSelector", ""):
            return refusal(400, "BadRequest")
        return await pass_on()

    proxy.interfere = like_kubernetes_1_30
    planned = await admin_client.post(f"/{shop}/plan", plan_of(database))
    applied = await behind.as_("admin").post(f"/{shop}/apply", {"sid": planned["sid"]})
    assert applied["status"] == "success"


async def test_an_approval_that_was_not_used_is_withdrawn_by_the_next_plan(
    http_api: HttpApi, admin_client: Client, shop: str, database: str, api: KubernetesApi
) -> None:
    path = paths.hoop_role_plan(http_api.namespace, f"{shop}.ro")
    planned = await admin_client.post(f"/{shop}/plan", plan_of(database))
    checksum = (await api.get(path))["status"]["plan"]["checksum"]
    approved = {"hoop.dev/approve": checksum}
    await api.merge_patch(path, {"spec": {"suspend": True}, "metadata": {"annotations": approved}})

    async def suspended() -> bool:
        return ready(await api.get(path))[0] == "Suspended"

    await eventually(suspended, what="it is suspended")
    for request, body in (("apply", {"sid": planned["sid"]}), ("plan", plan_of(database))):
        told = await admin_client.post(f"/{shop}/{request}", body)
        assert (told["status"], told["message"][:20]) == ("failed", "spec.suspend is true")
    await api.merge_patch(path, {"spec": {"suspend": None}})

    async def reason() -> str:
        return ready(await api.get(path))[0].replace("Suspended", "")

    assert await eventually(reason, what="it goes on") == "PendingApproval"


async def test_a_batch_is_planned_and_applied_at_the_same_time_with_its_failures_embedded(
    admin_client: Client, shop: str, database: str
) -> None:
    items = [{**plan_of(database), "resource_name": shop, "role": f"r{number}"} for number in range(5)]
    items += [
        {**plan_of("absent"), "resource_name": shop, "role": "bad"},
        {**plan_of(database), "resource_name": "absent"},
        {**plan_of(database), "resource_name": shop, "type": "external"},
    ]
    results = (await admin_client.post("/plan", {"items": items}))["results"]
    assert [result["status"] for result in results] == ["success"] * 5 + ["failed"] * 3
    assert "absent" in results[5]["message"]
    assert results[7]["message"] == "source_role is required for type=external"
    sids = [{"resource_name": shop, "sid": result["sid"]} for result in results[:5]]
    applied = (await admin_client.post("/apply", {"items": sids}))["results"]
    assert [result["status"] for result in applied] == ["success"] * 5, applied
    for wrong in ({**items[0], "privileges": ["select"]}, plan_of(database)):
        assert (await admin_client.call("POST", "/plan", {"items": [items[0], wrong]})).status == 400


async def test_requests_for_one_role_at_the_same_time_are_all_answered(
    admin_client: Client, shop: str, database: str
) -> None:
    same = await gathered(*(admin_client.call("POST", f"/{shop}/plan", plan_of(database)) for _ in range(8)))
    assert {answer.status for answer in same} == {200}
    assert {answer.json["status"] for answer in same} == {"success"}


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"scopes": [""]}, "scope"),
        ({"scopes": [".public"]}, "scope"),
        ({"scopes": ["a.b.c.d"]}, "scope"),
        ({"type": "other"}, "type"),
        ({"role": "___"}, "role"),
        ({"role": "a" * 45}, "role"),
        ({"privileges": ["SELECT", "read"]}, "found unsupported privileges=[read]"),
    ],
)
async def test_what_cannot_be_meant_is_refused_by_the_name_of_the_field(
    admin_client: Client, shop: str, body: dict[str, Any], part: str
) -> None:
    refused = await admin_client.call("POST", f"/{shop}/plan", plan_of("shop", **body))
    assert refused.status == 400
    assert part in refused.message


async def test_a_request_has_an_id_a_limit_and_an_answer_that_nobody_keeps(http_api: HttpApi) -> None:
    answer = await http_api.call("GET", "/api/resources", headers={"X-Request-Id": "mine-1"})
    assert (answer.status, answer.headers["X-Request-Id"]) == (401, "mine-1")
    assert answer.headers["Cache-Control"] == "no-store"

    async def logged() -> bool:
        return '"request_id": "mine-1"' in http_api.log.read_text()

    await eventually(logged, what="the line in the log has the id")
    forged = await http_api.call("GET", "/api/resources", headers={"X-Request-Id": 'x", "y'})
    assert len(forged.headers["X-Request-Id"]) == 36
    large = b'{"names": ["' + b"x" * 2**20 + b'"]}'
    token = http_api.tokens["admin"]
    assert (
        await http_api.call("POST", "/api/resources/health", token=token, raw=io.BytesIO(large))
    ).status == 413

    json_type = {"Content-Type": "application/json"}
    broken = await http_api.call(
        "POST", "/api/resources/health", token=token, raw=b'{"names": ', headers=json_type
    )
    assert (broken.status, broken.message) == (400, "the body is not JSON, from character 10 on")

    async def piecemeal() -> AsyncIterator[bytes]:
        yield large

    streamed = await http_api.call(
        "POST", "/api/resources/health", token=token, raw=piecemeal(), headers=json_type
    )
    assert streamed.status == 413
    assert (await http_api.call("GET", "/api/nothing", token=token)).message == "Not Found"
    assert (await http_api.call("GET", "/livez")).status == 200


async def test_by_a_setting_plan_applies_at_once(
    http_api: HttpApi, operator: Stack, tmp_path: Path, shop: str, database: str
) -> None:
    eager = HttpApi(operator, tmp_path / "log", HOOP_API_PLAN_APPLIES="true")
    await eager.start_beside(http_api)
    try:
        client = eager.as_("admin")
        planned = await client.post(f"/{shop}/plan", plan_of(database, role="eager"))
        assert planned["status"] == "success"
        applied = await client.post(f"/{shop}/apply", {"sid": planned["sid"]})
        assert (applied["status"], applied["message"]) == ("skipped", "applied already")
    finally:
        eager.bury()


async def test_where_no_operator_answers_the_wait_has_an_end_and_nothing_stays_approved(
    http_api: HttpApi,
    operator: Stack,
    postgres: Server,
    api: KubernetesApi,
    admin_client: Client,
    tmp_path: Path,
    shop: str,
    database: str,
) -> None:
    agent = "6f1c9a52-3a0e-4d0f-9a53-0a3f2f0d8b11"
    lonely = HttpApi(operator, tmp_path / "log", HOOP_API_WAIT_SECONDS="1", HOOP_AGENT_ID=agent)
    await lonely.start_beside(http_api)
    try:
        client = lonely.as_("admin")
        made = await client.register("lonely", postgres)
        assert made["agent_id"] == agent
        planned = await client.post("/lonely/plan", plan_of("postgres"))
        assert (planned["status"], planned["sid"]) == ("failed", "")
        assert f"no operator with HOOP_AGENT_ID={agent} has answered within 1 s" in planned["message"]

        planned = await admin_client.post(f"/{shop}/plan", plan_of(database))
        change = {"type": "database", "subtype": "postgres", "env_vars": env_vars(postgres)}
        assert (await client.call("PUT", f"/{shop}", change | {"agent_id": agent})).status == 200
        applied = await client.post(f"/{shop}/apply", {"sid": planned["sid"]})
        assert (applied["status"], applied["sid"]) == ("failed", "")
        assert "what was approved is not approved any more" in applied["message"]
        assert "hoop.dev/approve" not in await annotations_of(api, http_api, f"{shop}.ro")
    finally:
        lonely.bury()


async def test_no_input_brings_the_server_down_and_every_answer_is_as_described(
    http_api: HttpApi, tmp_path: Path, shop: str, database: str
) -> None:
    planned = await http_api.as_("admin").post(f"/{shop}/plan", plan_of(database))
    assert planned["status"] == "success"
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS)
    process = await asyncio.create_subprocess_exec(
        Path(sysconfig.get_path("scripts")) / "schemathesis",
        "run",
        f"{http_api.url}/openapi.json",
        cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), "API_TOKEN": http_api.tokens["admin"], "KNOWN_NAME": shop},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    assert " 500 in " not in http_api.log.read_text()


SCHEMATHESIS = """
headers = { Authorization = "Bearer ${API_TOKEN}" }
request-timeout = 60
color = false
[parameters]
"path.name" = "${KNOWN_NAME}"
[generation]
max-examples = 6
deterministic = true
database = "none"
[checks]
positive_data_acceptance.enabled = false
allow_header_conformance.enabled = false
"""
"""Not checked: that whatever the schema allows is accepted, for the API server has the last word; and `Allow`, which
names methods of /api/resources/{name} at /api/resources/plan as well, where a resource may be called so."""


# Resources


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"env_vars": {"PASS": "********"}}, 'env_vars["PASS"]: ******** is what answers show'),
        ({"env_vars": {"HOST": "\ud800"}}, 'env_vars["HOST"]: half a UTF-16 surrogate'),
        ({"env_vars": {"HO\ud800ST": "x"}}, "env_vars[a key]: half a UTF-16 surrogate"),
        ({"roles": [{"name": "web", "secret": {"KEY": "********"}}]}, 'roles.0.secret["KEY"]: ********'),
        ({"name": " "}, "name: a name has more than blanks"),
        ({"subtype": None}, "subtype: Invalid value: subtype of a database is one of postgres"),
        (None, "the body must be a JSON object, and is empty"),
    ],
)
async def test_what_would_be_no_resource_is_refused_by_the_name_of_the_field(
    admin_client: Client, change: dict[str, Any] | None, said: str
) -> None:
    body = {"name": "never", "type": "database", "subtype": "postgres", "env_vars": {"HOST": "x"}}
    refused = await admin_client.call("POST", "", None if change is None else {**body, **change})
    assert (refused.status, refused.message[: len(said)]) == (400, said)
    assert (await admin_client.call("GET", "/never")).status == 404


async def test_a_resource_that_was_read_cannot_overwrite_its_credentials_by_being_sent_back(
    admin_client: Client, postgres: Server
) -> None:
    name = f"bare-{secrets.token_hex(4)}"
    literal = {key.removeprefix("envvar:"): value for key, value in env_vars(postgres).items()}
    literal = {key: base64.b64decode(value).decode() for key, value in literal.items()}
    await admin_client.register(name, postgres, env_vars=literal)
    shown = await admin_client.get(f"/{name}")
    refused = await admin_client.call("PUT", f"/{name}", shown)
    assert (refused.status, "send the value itself" in refused.message) == (400, True)
    renamed = await admin_client.call("PUT", f"/{name}", {**shown, "name": "x", "env_vars": literal})
    assert (renamed.status, renamed.message[:5]) == (400, "name:")
    assert (await admin_client.get(f"/{name}/health"))["status"] == "success"


@pytest.mark.parametrize("end", ["refused", "not answered", "interrupted"])
async def test_a_put_that_does_not_get_through_leaves_the_resource_its_credentials(
    http_api: HttpApi,
    operator: Stack,
    operator_kubeconfig: Path,
    tmp_path: Path,
    shop: str,
    postgres: Server,
    api: KubernetesApi,
    end: str,
) -> None:
    path = paths.hoop_resource(http_api.namespace, shop)

    async def interfering(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        if request.method != "PATCH" or "/hoopresources/" not in request.path:
            return await pass_on()
        if end == "refused":
            return refusal(403, "Forbidden")
        if end == "interrupted":
            proxy.interfere = let_pass
            await api.merge_patch(paths.status(path), {"status": {"message": "changed meanwhile"}})
            return await pass_on()
        await pass_on()
        raise BrokenOff

    proxy = ApiProxy(operator_kubeconfig)
    proxy.interfere = interfering
    await proxy.open()
    kubeconfig = proxy.save_kubeconfig(tmp_path / "kubeconfig")
    beside = HttpApi(
        operator,
        tmp_path / "log",
        KUBECONFIG=str(kubeconfig),
        HOOP_API_NAMESPCE="x",
        HOOP_API_WAIT_SECONDS="1",
    )
    await beside.start_beside(http_api)

    async def held() -> dict[str, str]:
        [source] = (await api.get(path))["spec"]["envVarsFrom"]
        data: dict[str, str] = (await api.get(paths.secret(http_api.namespace, source["secretRef"]["name"])))[
            "data"
        ]
        return data

    async def secrets_of() -> list[str]:
        items = (await api.get(paths.secrets(http_api.namespace)))["items"]
        return [name for item in items if (name := item["metadata"]["name"]).startswith(f"{shop}-")]

    try:
        before, names = await held(), await secrets_of()
        change = {"type": "database", "subtype": "postgres", "env_vars": env_vars(postgres, "another")}
        answer = await beside.as_("admin").call("PUT", f"/{shop}", change)
        status, password = {
            "refused": (403, postgres.password),
            "not answered": (503, "another"),
            "interrupted": (200, "another"),
        }[end]
        assert answer.status == status
        assert (await held())["PASS"] == encoded(password)
        if end == "refused":
            assert (await held(), await secrets_of()) == (before, names)
        if end == "interrupted":
            assert len(await secrets_of()) == 1
        log = beside.log.read_text()
        assert f"Serving namespace {http_api.namespace} of http://127.0.0.1:" in log
        assert "HOOP_API_NAMESPCE: there is no such setting" in log
        if end == "not answered":
            assert '"WARNING"' in log
            assert "Kubernetes API: PATCH" in log
    finally:
        beside.bury()
        await proxy.close()


async def test_a_resource_whose_making_was_interrupted_can_be_made_anew(
    http_api: HttpApi, admin_client: Client, postgres: Server, api: KubernetesApi
) -> None:
    name = f"killed-{secrets.token_hex(4)}"
    roles = [{"name": "web", "secret": {"TOKEN": "x"}}]
    body = {
        "name": name,
        "type": "database",
        "subtype": "postgres",
        "env_vars": env_vars(postgres),
        "roles": roles,
    }
    for secret in (f"{name}-env-vars", f"{name}.web-secret"):
        await admin_client.post("", body, 201)
        await api.delete(paths.secret(http_api.namespace, secret))
        taken = await admin_client.call("POST", "", body)
        assert (taken.status, "was interrupted, delete it" in taken.message) == (409, True)
        assert (await admin_client.call("DELETE", f"/{name}")).status == 204


async def test_of_puts_at_the_same_time_one_wins_as_a_whole(
    http_api: HttpApi, admin_client: Client, api: KubernetesApi
) -> None:
    def body(which: str) -> dict[str, Any]:
        variables = {"HOST": f"{which}.invalid", "USER": "u", "envvar:PASS": f"_aws:{which}/db:password"}
        return {"type": "database", "subtype": "postgres", "env_vars": variables}

    name = f"two-{secrets.token_hex(4)}"
    await admin_client.post("", {"name": name, **body("z")}, 201)
    for _ in range(3):
        calls = (admin_client.call("PUT", f"/{name}", body(which)) for which in "ab")
        answers = await gathered(*calls)
        assert {answer.status for answer in answers} <= {200, 409}
        spec = (await api.get(paths.hoop_resource(http_api.namespace, name)))["spec"]
        [source] = spec["envVarsFrom"]
        data = (await api.get(paths.secret(http_api.namespace, source["secretRef"]["name"])))["data"]
        which = base64.b64decode(data["HOST"]).decode()[0]
        assert spec["envVars"] == {"envvar:PASS": f"_aws:{which}/db:password"}
    assert (await admin_client.call("DELETE", f"/{name}")).status == 204


async def test_a_resource_is_not_deleted_right_after_an_apply(
    http_api: HttpApi, admin_client: Client, shop: str, database: str, api: KubernetesApi
) -> None:
    planned = await admin_client.post(f"/{shop}/plan", plan_of(database))
    applied = await admin_client.post(f"/{shop}/apply", {"sid": planned["sid"]})
    refused = await admin_client.call("DELETE", f"/{shop}")
    assert (applied["status"], refused.status) == ("success", 403)
    assert refused.message.startswith("cannot delete resource with existing connections")
    assert f"kubectl -n {http_api.namespace} delete hrp {shop}.ro" in refused.message
    body = await api.get(paths.hoop_resource(http_api.namespace, shop))
    assert "deletionTimestamp" not in body["metadata"]


async def test_a_resource_is_not_deleted_while_an_apply_is_at_work(
    behind_proxy: tuple[HttpApi, ApiProxy], admin_client: Client, shop: str, database: str, postgres: Server
) -> None:
    behind, proxy = behind_proxy
    deletions: list[asyncio.Task[Answer]] = []

    async def delete(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        approves = request.method == "PATCH" and b"hoop.dev/approve" in await request.read()
        answer = await pass_on()
        if approves and not deletions:
            deletions.append(asyncio.create_task(admin_client.call("DELETE", f"/{shop}")))
        return answer

    planned = await admin_client.post(f"/{shop}/plan", plan_of(database))
    proxy.interfere = delete
    applied = await behind.as_("admin").post(f"/{shop}/apply", {"sid": planned["sid"]})
    assert (applied["status"], (await deletions[0]).status) == ("success", 403)
    assert await exists(postgres, planned["role"])


async def test_a_resource_is_met_by_its_name_and_by_no_other_one(
    http_api: HttpApi, admin_client: Client, api: KubernetesApi, postgres: Server, database: str
) -> None:
    suffix = secrets.token_hex(4)
    staging, production = f"staging-{suffix}", f"production-{suffix}"
    variables = {key.removeprefix("envvar:"): value for key, value in env_vars(postgres).items()}
    variables = {key: base64.b64decode(value).decode() for key, value in variables.items()}

    async def by_hand(object_named: str, name: str) -> None:
        spec = {"type": "database", "subtype": "postgres", "resourceName": name, "envVars": variables}
        body = {"apiVersion": "hoop.dev/v1alpha1", "kind": "HoopResource", "metadata": {"name": object_named}}
        await api.create(paths.hoop_resources(http_api.namespace), {**body, "spec": spec})

    await by_hand(staging, production)
    taken = await admin_client.call(
        "POST", "", {"name": staging, "type": "custom", "subtype": "x", "env_vars": variables}
    )
    assert (taken.status, production in taken.message) == (409, True)
    assert (await admin_client.call("GET", f"/{staging}")).status == 404
    assert (await admin_client.call("POST", f"/{staging}/plan", plan_of(database))).status == 404
    guessed = await http_api.as_("edit").call("POST", f"/{staging}/plan", plan_of(database))
    assert (guessed.status, "goes by another name" in guessed.message) == (409, True)
    for object_named in ("a", "b"):
        await by_hand(f"{object_named}-{suffix}", staging)
    for path in (f"/{staging}", f"/{staging}/health"):
        ambiguous = await admin_client.call("GET", path)
        assert (ambiguous.status, f"a-{suffix} and b-{suffix}" in ambiguous.message) == (409, True)
    [result] = (await admin_client.post("/health", {"names": [staging]}))["results"]
    assert (result["status"], f"a-{suffix} and b-{suffix}" in result["output"]) == ("failed", True)


async def test_an_agent_id_that_nobody_has_is_named(
    admin_client: Client, postgres: Server, database: str
) -> None:
    agent = "1d0f9a53-6f1c-4a0e-9a52-8b110a3f2f0d"
    name = f"gateway-{secrets.token_hex(4)}"
    await admin_client.register(name, postgres, agent_id=agent)
    health = await admin_client.get(f"/{name}/health")
    refused = await admin_client.call("POST", f"/{name}/plan", plan_of(database))
    assert (health["status"], refused.status) == ("failed", 422)
    for said in (health["output"], refused.message):
        assert said.startswith(f"agent_id {agent}: no operator with that HOOP_AGENT_ID")
    assert (await admin_client.call("DELETE", f"/{name}")).status == 204


async def test_a_body_is_json_whether_a_client_says_so_or_not(http_api: HttpApi) -> None:
    token, body = http_api.tokens["admin"], b'{"names": ["absent"]}'

    async def asked(path: str, kind: str, token: str) -> int:
        headers = {"Content-Type": kind} if kind else {}
        answer = await http_api.call("POST", f"/api/resources{path}", token=token, raw=body, headers=headers)
        return answer.status

    for kind in ("application/x-www-form-urlencoded", "application/json; charset=utf-8"):
        assert await asked("/health", kind, token) == 200
    assert await asked("/health", "text/plain", token) == 415
    # No redirect to an address that the client itself has named, and by plain HTTP.
    assert await asked("/health/", "application/json", token) == 404


@pytest.fixture
async def behind_proxy(
    http_api: HttpApi, operator: Stack, operator_kubeconfig: Path, tmp_path: Path
) -> AsyncIterator[tuple[HttpApi, ApiProxy]]:
    """Another process of the API, and what stands between it and the API server."""
    proxy = ApiProxy(operator_kubeconfig)
    await proxy.open()
    kubeconfig = proxy.save_kubeconfig(tmp_path / "kubeconfig")
    behind = HttpApi(operator, tmp_path / "log", KUBECONFIG=str(kubeconfig))
    await behind.start_beside(http_api)
    yield behind, proxy
    behind.bury()
    await proxy.close()


async def annotations_of(api: KubernetesApi, http_api: HttpApi, plan: str) -> dict[str, str]:
    body = await api.get(paths.hoop_role_plan(http_api.namespace, plan))
    return dict(body["metadata"]["annotations"])


async def test_an_approval_lands_on_nothing_but_the_plan_that_was_checked(
    http_api: HttpApi,
    behind_proxy: tuple[HttpApi, ApiProxy],
    admin_client: Client,
    api: KubernetesApi,
    shop: str,
    database: str,
) -> None:
    behind, proxy = behind_proxy
    planned = await admin_client.post(f"/{shop}/plan", plan_of(database))
    wider = plan_of(database, privileges=["SELECT", "DELETE"], rotate_password=True)
    overtaken: list[Any] = []

    async def overtake(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        if request.method == "PATCH" and b"hoop.dev/approve" in await request.read() and not overtaken:
            overtaken.append(await http_api.as_("edit").post(f"/{shop}/plan", wider))
        return await pass_on()

    proxy.interfere = overtake
    applied = await behind.as_("admin").post(f"/{shop}/apply", {"sid": planned["sid"]})
    assert (applied["status"], applied["message"]) == ("failed", STALE)
    left = await annotations_of(api, http_api, f"{shop}.ro")
    assert ("hoop.dev/approve" in left, "hoop.dev/rotate-on-apply" in left) == (False, True)
    assert (await admin_client.post(f"/{shop}/apply", {"sid": overtaken[0]["sid"]}))["status"] == "success"


@pytest.mark.parametrize("changed", ["the tables", "the server behind the resource"])
async def test_what_was_answered_to_have_failed_is_not_applied_later(
    http_api: HttpApi,
    admin_client: Client,
    api: KubernetesApi,
    admin: Administrator,
    postgres: Server,
    shop: str,
    database: str,
    changed: str,
) -> None:
    planned = await admin_client.post(f"/{shop}/plan", plan_of(database))
    session = await admin.connect(database)
    if changed == "the tables":
        await session.execute("CREATE TABLE extra (i int)")
    else:
        elsewhere = env_vars(postgres) | {"envvar:HOST": encoded("localhost")}
        change = {"type": "database", "subtype": "postgres", "env_vars": elsewhere}
        assert (await admin_client.call("PUT", f"/{shop}", change)).status == 200

        async def connected() -> bool:
            body = await api.get(paths.hoop_resource(http_api.namespace, shop))
            status = body["status"]
            return (status["observedGeneration"], ready(body)[0]) == (
                body["metadata"]["generation"],
                "Registered",
            )

        await eventually(connected, what="the operator has looked at the other server")
    applied = await admin_client.post(f"/{shop}/apply", {"sid": planned["sid"]})
    assert (applied["status"], applied["message"]) == ("failed", STALE)
    assert "hoop.dev/approve" not in await annotations_of(api, http_api, f"{shop}.ro")
    assert await exists(postgres, planned["role"]) is False


async def test_a_sid_stands_for_what_its_own_request_asked_for(
    http_api: HttpApi,
    admin_client: Client,
    api: KubernetesApi,
    admin: Administrator,
    shop: str,
    database: str,
) -> None:
    empty = await admin.create_database()
    reads = await admin_client.post(f"/{shop}/plan", plan_of(empty, role="st"))
    writes = await admin_client.post(
        f"/{shop}/plan", plan_of(empty, role="st", privileges=["SELECT", "INSERT"])
    )
    assert reads["message"] == writes["message"]
    applied = await admin_client.post(f"/{shop}/apply", {"sid": reads["sid"]})
    assert (applied["status"], applied["message"]) == ("failed", STALE)
    assert (await admin_client.post(f"/{shop}/apply", {"sid": writes["sid"]}))["status"] == "success"

    created = await admin_client.post(f"/{shop}/plan", plan_of(database, rotate_password=True))
    assert GIVES_A_NEW_PASSWORD not in created["message"]
    applied = await admin_client.post(f"/{shop}/apply", {"sid": created["sid"]})
    before = await credentials(api, http_api, applied["message"])
    wider = plan_of(database, privileges=["SELECT", "INSERT"])
    keeps = await admin_client.post(f"/{shop}/plan", wider)
    rotates = await admin_client.post(f"/{shop}/plan", wider | {"rotate_password": True})
    assert rotates["message"] == f"{keeps['message']}\n{GIVES_A_NEW_PASSWORD}"
    passwords = []
    for sid, status in ((keeps, "success"), (keeps, "skipped"), (rotates, "success"), (rotates, "skipped")):
        assert (await admin_client.post(f"/{shop}/apply", {"sid": sid["sid"]}))["status"] == status
        passwords.append((await credentials(api, http_api, applied["message"]))["password"])
    assert passwords[0] == passwords[1] == before["password"]
    assert passwords[1] != passwords[2] == passwords[3]


async def test_an_item_of_a_batch_that_cannot_be_meant_fails_alone(
    admin_client: Client, shop: str, database: str
) -> None:
    good = {**plan_of(database), "resource_name": shop}
    items = [
        good,
        {**good, "role": "a" * 45},
        {**good, "role": "other", "scopes": ["a.b.c"]},
        {**good, "rotate_password": True},
    ]
    results = (await admin_client.post("/plan", {"items": items}))["results"]
    assert [result["status"] for result in results] == ["success", "failed", "failed", "failed"]
    assert [result["message"].partition(":")[0] for result in results[1:]] == ["role", "scopes", "role"]
    assert f"item 0 plans ro of {shop} already" in results[3]["message"]
    sids = [{"resource_name": shop, "sid": result["sid"]} for result in results]
    applied = (await admin_client.post("/apply", {"items": sids}))["results"]
    assert [result["status"] for result in applied] == ["success", "failed", "failed", "failed"]


async def test_plans_that_never_came_to_a_role_go_with_their_resource_whoever_writes_on_them(
    http_api: HttpApi,
    behind_proxy: tuple[HttpApi, ApiProxy],
    admin_client: Client,
    api: KubernetesApi,
    shop: str,
    database: str,
) -> None:
    behind, proxy = behind_proxy
    written: list[str] = []

    async def write_before(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        if request.method == "DELETE" and "hooproleplans" in request.path and not written:
            written.append(request.path)
            await api.merge_patch(request.path, {"metadata": {"annotations": {"example.com/note": "mine"}}})
        return await pass_on()

    proxy.interfere = write_before
    for body in (plan_of(database), plan_of("absent", role="typo")):
        await admin_client.post(f"/{shop}/plan", body)
    await api.create(paths.hoop_role_plans(http_api.namespace), plan_object(f"{shop}-mine", {"name": shop}))
    assert (await behind.as_("admin").call("DELETE", f"/{shop}")).status == 204
    plans = (await api.get(paths.hoop_role_plans(http_api.namespace)))["items"]
    left = [plan["metadata"]["name"] for plan in plans if plan["spec"]["resourceRef"]["name"] == shop]
    assert left == [f"{shop}-mine"]


async def test_a_plan_that_somebody_made_for_another_resource_is_refused(
    http_api: HttpApi, admin_client: Client, api: KubernetesApi, shop: str, database: str
) -> None:
    elsewhere = plan_object(f"{shop}.ro", {"name": shop, "namespace": "elsewhere"})
    await api.create(paths.hoop_role_plans(http_api.namespace), elsewhere)
    refused = await admin_client.call("POST", f"/{shop}/plan", plan_of(database))
    assert (refused.status, f"is for HoopResource elsewhere/{shop}" in refused.message) == (409, True)


async def test_a_token_that_is_not_known_asks_the_api_server_once_whatever_the_batch(
    behind_proxy: tuple[HttpApi, ApiProxy],
) -> None:
    behind, proxy = behind_proxy
    asked: list[str] = []

    async def note(request: web.Request, pass_on: PassOn) -> web.StreamResponse:
        asked.append(request.path)
        return await pass_on()

    proxy.interfere = note
    plans = [{**plan_of("shop"), "resource_name": f"r{number}"} for number in range(20)]
    applies = [{"resource_name": f"r{number}", "sid": "x"} for number in range(20)]
    for path, items in (("plan", plans), ("apply", applies)):
        asked.clear()
        answer = await behind.call("POST", f"/api/resources/{path}", {"items": items}, token="nonsense")
        assert (answer.status, len(asked)) == (401, 1)


def plan_object(name: str, reference: dict[str, str]) -> dict[str, Any]:
    """A HoopRolePlan that somebody makes by hand."""
    asked = {"type": "managed", "role": "ro", "scopes": ["postgres"], "privileges": ["SELECT"]}
    return {
        "apiVersion": "hoop.dev/v1alpha1",
        "kind": "HoopRolePlan",
        "metadata": {"name": name},
        "spec": {"resourceRef": reference, "approval": "Manual", **asked},
    }


async def exists(server: Server, role: str) -> bool:
    async with await psycopg.AsyncConnection.connect(
        host=server.host, port=server.port, user=server.user, password=server.password, dbname="postgres"
    ) as session:
        rows = await session.execute("SELECT FROM pg_catalog.pg_roles WHERE rolname = %s", (role,))
        return rows.rowcount > 0
