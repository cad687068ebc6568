from typing import Any

import pytest
from pydantic import ValidationError

from hoop_operator.api.problems import in_lines, problem_of
from hoop_operator.api.wire import PlanBatch, PlanRequest, ResourceRequest
from hoop_operator.cluster.api import failure

RESOURCE: dict[str, Any] = {"name": "shop", "type": "database", "env_vars": {"envvar:PASS": "c2VjcmV0"}}
PLAN: dict[str, Any] = {"type": "managed", "role": "ro", "scopes": ["shop"], "privileges": ["SELECT"]}


def refusal(model: type, body: Any) -> str:
    """What is answered to a body that the model does not take."""
    with pytest.raises(ValidationError) as raised:
        model.model_validate(body)  # type: ignore[attr-defined]
    return in_lines(raised.value.errors(include_url=False, include_input=False))


@pytest.mark.parametrize("field", ["name", "type", "env_vars"])
@pytest.mark.parametrize("value", [..., None, ""])
def test_a_resource_without_what_it_needs_is_refused_by_the_name_of_the_field(field: str, value: Any) -> None:
    body = {name: given for name, given in {**RESOURCE, field: value}.items() if given is not ...}
    assert refusal(ResourceRequest, body).startswith(f"{field}: ")


def test_there_is_a_line_for_every_field_at_fault_and_no_value() -> None:
    lines = refusal(ResourceRequest, {"type": "secret!", "env_vars": {"envvar:PASS": ["secret!"]}, "name": 5})
    assert len(lines.splitlines()) == 3
    assert "secret!" not in lines


@pytest.mark.parametrize("name", ["a/b", ".", "..", "x" * 129])
def test_a_name_that_no_url_could_hold_is_refused(name: str) -> None:
    assert refusal(ResourceRequest, {**RESOURCE, "name": name}).startswith("name: ")


def test_an_agent_id_is_a_uuid_or_nothing() -> None:
    assert "agent_id" in refusal(ResourceRequest, {**RESOURCE, "agent_id": "mine"})
    for nothing in ("", None):
        assert ResourceRequest.model_validate({**RESOURCE, "agent_id": nothing}).agent_id is None


def test_a_field_that_is_not_known_is_ignored() -> None:
    ResourceRequest.model_validate({**RESOURCE, "tags": ["x"], "roles": None, "subtype": ""})


def test_what_is_nested_too_deeply_to_be_looked_at_is_refused() -> None:
    nested: Any = "x"
    for _ in range(2000):
        nested = [nested]
    assert refusal(ResourceRequest, {**RESOURCE, "subtype": nested}) == "subtype: it is nested too deeply"


@pytest.mark.parametrize("field", ["type", "role", "scopes", "privileges"])
def test_a_plan_without_what_hoop_asks_for_is_refused(field: str) -> None:
    body = {name: given for name, given in PLAN.items() if name != field}
    assert refusal(PlanRequest, body) == f"{field}: Field required"


def test_a_privilege_in_other_letters_is_refused_in_the_words_of_hoop() -> None:
    assert refusal(PlanRequest, {**PLAN, "privileges": ["SELECT", "select", "OWN"]}) == (
        "privileges: found unsupported privileges=[select OWN]"
    )


def test_a_table_is_no_scope() -> None:
    assert "grants are made on whole schemas" in refusal(
        PlanRequest, {**PLAN, "scopes": ["shop.public.orders"]}
    )
    PlanRequest.model_validate({**PLAN, "scopes": ['"my.shop".public']})


@pytest.mark.parametrize(
    "items", [[], [PLAN], [{**PLAN, "resource_name": ""}], [{**PLAN, "resource_name": "shop"}] * 101]
)
def test_a_batch_has_items_and_each_of_them_a_resource(items: list[Any]) -> None:
    assert refusal(PlanBatch, {"items": items}).startswith("items")


@pytest.mark.parametrize(
    ("status", "answered"),
    [(400, 400), (401, 401), (403, 403), (404, 404), (409, 409), (422, 400), (429, 503), (500, 503)],
)
def test_what_the_kubernetes_api_says_is_passed_on(status: int, answered: int) -> None:
    assert problem_of(failure("POST", "/apis", status, {"details": {"name": "a"}})).status == answered


def test_what_is_wrong_with_single_fields_is_told_in_the_words_of_the_kubernetes_api() -> None:
    causes = [{"field": "spec.roles", "message": "too many"}, {"field": "spec.type", "message": "unknown"}]
    error = failure("POST", "/hoopresources", 422, {"message": "all", "details": {"causes": causes}})
    assert problem_of(error).message == "roles: too many\ntype: unknown"
    assert "too many" not in str(error)
