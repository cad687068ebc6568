"""What the document of the HTTP API promises: at least what hoop's own description of these paths does."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from hoop_operator.api.app import application
from hoop_operator.settings import Settings

RESOURCE = {"id", "name", "type", "subtype", "env_vars", "agent_id", "created_at", "updated_at"}
ROLE = {"name", "type", "subtype", "command", "agent_id", "secret"}
PLAN = {"privileges", "role", "scopes", "type", "resource_name", "rotate_password", "source_role"}
PLANNED = {"message", "resource_name", "role", "sid", "status"}
APPLIED = {"message", "resource_name", "sid", "status"}
HEALTH = {"output", "status"}
NOTHING: Mapping[str, set[str]] = MappingProxyType({})


class Promise(NamedTuple):
    """Fields of a request and of its answer, with those of what is in a field under its name."""

    success: int
    refusals: set[int]
    asked: Mapping[str, set[str]] = NOTHING
    answered: Mapping[str, set[str]] = NOTHING


HOOP = {
    "POST /api/resources": Promise(
        201,
        {400, 401, 403, 409, 500},
        {"": {"agent_id", "env_vars", "name", "roles", "subtype", "type"}, "roles": ROLE},
        {"": RESOURCE},
    ),
    "GET /api/resources": Promise(200, {401, 403, 422, 500}),
    "GET /api/resources/{name}": Promise(200, {401, 403, 404, 500}, answered={"": RESOURCE}),
    "PUT /api/resources/{name}": Promise(200, {400, 401, 403, 404, 500}, {"": {"env_vars"}}, {"": RESOURCE}),
    "DELETE /api/resources/{name}": Promise(204, {401, 403, 404, 500}),
    "GET /api/resources/{name}/health": Promise(200, {401, 403, 404, 500}, answered={"": HEALTH}),
    "POST /api/resources/health": Promise(
        200, {400, 401, 403, 500}, {"": {"names"}}, {"": {"results"}, "results": HEALTH | {"resource_name"}}
    ),
    "POST /api/resources/{name}/plan": Promise(
        200, {400, 401, 403, 404, 422, 500}, {"": PLAN}, {"": PLANNED}
    ),
    "POST /api/resources/plan": Promise(
        200, {400, 401, 403, 500}, {"": {"items"}, "items": PLAN}, {"": {"results"}, "results": PLANNED}
    ),
    "POST /api/resources/{name}/apply": Promise(200, {401, 403, 404, 422, 500}, {"": {"sid"}}, {"": APPLIED}),
    "POST /api/resources/apply": Promise(
        200,
        {401, 403, 500},
        {"": {"items"}, "items": {"resource_name", "sid"}},
        {"": {"results"}, "results": APPLIED},
    ),
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    cluster: Any = None
    return application(Settings(), cluster).openapi()


@pytest.mark.parametrize("request_line", HOOP)
def test_the_document_has_every_status_and_field_of_hoops_own(
    document: dict[str, Any], request_line: str
) -> None:
    method, path = request_line.split()
    promise, described = HOOP[request_line], document["paths"][path][method.lower()]
    responses = described["responses"]
    assert {str(status) for status in {promise.success, *promise.refusals}} <= responses.keys()
    for status in promise.refusals:
        assert fields_of(document, content(responses[str(status)]), "") == {"message"}
    for place, fields in promise.asked.items():
        assert fields <= fields_of(document, content(described["requestBody"]), place)
    for place, fields in promise.answered.items():
        assert fields <= fields_of(document, content(responses[str(promise.success)]), place)


def test_a_list_is_an_array_of_resources_or_a_page_of_them(document: dict[str, Any]) -> None:
    answer = content(document["paths"]["/api/resources"]["get"]["responses"]["200"])
    array, page = answer["anyOf"]
    assert fields_of(document, array["items"], "") >= RESOURCE
    assert fields_of(document, page, "") == {"pages", "data"}
    assert fields_of(document, page, "pages") == {"total", "page", "size"}
    assert fields_of(document, page, "data") >= RESOURCE


def content(described: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = described["content"]["application/json"]["schema"]
    return schema


def fields_of(document: dict[str, Any], schema: dict[str, Any], place: str) -> set[str]:
    """The fields of an object, or of what is in one of its fields, be that a list."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if place:
        inner = schema["properties"][place]
        return fields_of(document, inner.get("items", inner), "")
    return set(schema["properties"])
