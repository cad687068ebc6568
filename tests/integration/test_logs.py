"""The log of an operator, as a machine reads it."""

import json
from collections.abc import Callable, Mapping

from hoop_operator.cluster.api import KubernetesApi
from integration.operator_process import OperatorProcess
from integration.tenant import PATIENCE_SECONDS, Tenant
from local.postgresql import Server


async def test_every_line_is_json_and_every_line_about_a_run_names_its_object_sid_and_server(
    own_operator: Callable[[Mapping[str, str]], OperatorProcess],
    api: KubernetesApi,
    namespace: str,
    database: str,
    postgres: Server,
) -> None:
    operator = own_operator({"HOOP_RETRY_SECONDS_MAX": "1"})
    tenant = Tenant(api, namespace, operator.agent_id)
    resource = await tenant.resource(postgres, user=postgres.user, password=postgres.password)
    await operator.start()
    await tenant.plan("ro", resource, scopes=[database], privileges=["SELECT"])
    await tenant.plan("bad", resource, scopes=["nowhere"], privileges=["SELECT"])
    plans = await tenant.until_plans(["ro"]) | await tenant.until_plans(["bad"], "DatabaseNotFound")
    registered = (await tenant.resources())[resource]
    password = (await tenant.secret("ro"))["password"]
    await tenant.change("ro", deletionPolicy="Retain")
    await tenant.until_plans(["ro"])
    await tenant.delete("ro")
    await tenant.until_gone("ro")
    assert await operator.stop(PATIENCE_SECONDS) == 0

    lines = [json.loads(line) for line in operator.said().splitlines()]
    assert (
        f" starts as instance default: it serves resources of agent {operator.agent_id} in "
        in lines[0]["message"]
    )
    about_plans = [line for line in lines if line.get("object", {}).get("kind") == "HoopRolePlan"]
    runs = [
        line for line in about_plans if line["logger"] == "hoop_operator.reconcile.plans" and "reason" in line
    ]
    server = f"{postgres.host}:{postgres.port}"
    for name, reason in (("ro", "Applied"), ("bad", "DatabaseNotFound")):
        first, *_ = [line for line in runs if line["object"]["name"] == name]
        assert first["object"] == {"kind": "HoopRolePlan", "namespace": namespace, "name": name}
        assert (first["server"], first["trigger"], first["reason"]) == (server, "spec", reason)
        assert first["sid"] in [run["sid"] for run in plans[name]["status"]["history"]]
    assert {line["server"] for line in runs} == {server}
    assert all(line["sid"] for line in runs)
    registrations = [
        line for line in lines if line["logger"] == "hoop_operator.reconcile.resources" and "reason" in line
    ]
    assert registered["status"]["sid"] in [line["sid"] for line in registrations]
    assert {line["object"]["name"] for line in registrations} == {resource}
    assert registrations[-1]["server"] == server
    assert [line["message"] for line in about_plans if "stays on the server" in line["message"]]
    # What speaks of an object carries it.
    assert [line for line in lines if f"{namespace}/" in line["message"] and "object" not in line] == []
    assert password not in operator.said()
