import html
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hoop_operator.crd import (
    HOOP_RESOURCE,
    HOOP_ROLE_PLAN,
    ComputedPlan,
    Condition,
    EnvFrom,
    Guardrails,
    HistoryEntry,
    HoopResourceSpec,
    HoopResourceStatus,
    HoopRolePlanSpec,
    HoopRolePlanStatus,
    LocalRef,
    Outcome,
    PlanType,
    Privilege,
    ResourceRef,
    ResourceRole,
    SecretTemplate,
)
from hoop_operator.crd import __main__ as generator
from hoop_operator.crd.common import MESSAGE_BYTES, stored_bytes
from hoop_operator.crd.reference import reference_page
from hoop_operator.crd.roleplan import STATEMENTS_BYTES
from hoop_operator.crd.schema import (
    CustomResource,
    NotStructuralError,
    custom_resource_definition,
    structural_schema,
)

CRDS = Path(__file__).parents[2] / "crds"
NOON = datetime(2026, 3, 1, 12, 0, 0, 987654, tzinfo=timezone(timedelta(hours=2)))

both_kinds = pytest.mark.parametrize(
    "resource", [HOOP_RESOURCE, HOOP_ROLE_PLAN], ids=lambda resource: resource.kind
)


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every schema below a node and the node itself, each with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for keyword, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if keyword in schema:
            yield from nodes(schema[keyword], path + mark)


def all_nodes(resource: CustomResource) -> list[tuple[str, dict[str, Any]]]:
    version = custom_resource_definition(resource)["spec"]["versions"][0]
    return list(nodes(version["schema"]["openAPIV3Schema"], resource.kind))


# The files


@both_kinds
def test_the_committed_file_is_what_the_models_generate(resource: CustomResource) -> None:
    assert (CRDS / f"{resource.plural}.yaml").read_text(encoding="utf-8") == generator.rendered(resource)


@both_kinds
def test_the_file_reads_back_as_the_definition(resource: CustomResource) -> None:
    assert yaml.safe_load(generator.rendered(resource)) == custom_resource_definition(resource)


def test_check_names_the_stale_file_and_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generator, "_CHECKOUT", tmp_path)
    for directory in ("crds", "docs"):
        (tmp_path / directory).mkdir()
    monkeypatch.setattr("sys.argv", ["crd"])
    assert generator.main() == 0
    monkeypatch.setattr("sys.argv", ["crd", "--check"])
    assert generator.main() == 0
    stale = tmp_path / "crds/hooproleplans.yaml"
    stale.write_text("edited by hand")
    assert generator.main() == 1
    message = capsys.readouterr().err
    assert str(stale) in message
    assert "python -m hoop_operator.crd" in message
    assert "hoopresources.yaml" not in message
    assert stale.read_text() == "edited by hand"


@both_kinds
def test_the_page_of_all_fields_has_every_name_choice_and_rule(resource: CustomResource) -> None:
    page = reference_page(resource)
    for path, node in [
        pair for model in (resource.spec, resource.status) for pair in nodes(structural_schema(model), "")
    ]:
        if path and not path.endswith(("[]", "{}")):
            assert f"| `{path[1:].replace('{}', '.*')}` |" in page
        for choice in node.get("enum", ()):
            assert f"`{choice}`" in page
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule["message"] in html.unescape(page).replace("\\", "")


def test_the_page_of_all_fields_has_defaults() -> None:
    assert "default: `Delete`; one of `Delete`, `Retain`" in reference_page(HOOP_ROLE_PLAN)


# What the API server and its users are told


@both_kinds
def test_every_field_and_every_object_is_described(resource: CustomResource) -> None:
    told_by_the_api_server = f"{resource.kind}.metadata"
    silent = [
        path
        for path, node in all_nodes(resource)
        if path != told_by_the_api_server
        and (not path.endswith(("[]", "{}")) or node["type"] == "object")
        and not node.get("description", "").endswith(".")
    ]
    assert silent == []


@both_kinds
def test_every_string_list_and_map_is_bounded(resource: CustomResource) -> None:
    def unbounded(node: dict[str, Any]) -> bool:
        if node["type"] == "string":
            return not ({"maxLength", "enum"} & node.keys() or node.get("format") == "date-time")
        if node["type"] == "array":
            return "maxItems" not in node
        return "additionalProperties" in node and "maxProperties" not in node

    beyond_the_spec = {f"{resource.kind}.{field}" for field in ("apiVersion", "kind", "metadata")}
    assert [
        path for path, node in all_nodes(resource) if path not in beyond_the_spec and unbounded(node)
    ] == []


@both_kinds
def test_nothing_is_filled_in_for_the_user(resource: CustomResource) -> None:
    assert [path for path, node in all_nodes(resource) if "default" in node] == []


@both_kinds
def test_lists_of_objects_say_how_they_merge(resource: CustomResource) -> None:
    assert [
        path
        for path, node in all_nodes(resource)
        if node["type"] == "array"
        and node["items"]["type"] == "object"
        and "x-kubernetes-list-type" not in node
    ] == []


@pytest.mark.parametrize(
    ("resource", "columns", "selectable"),
    [
        (
            HOOP_RESOURCE,
            ["Type", "Subtype", "Ready", "Reason", "Server version", "Plans", "Age", "Message"],
            [".spec.type", ".spec.subtype", ".spec.resourceName"],
        ),
        (
            HOOP_ROLE_PLAN,
            ["Resource", "Role", "Ready", "Reason", "Age", "Message"],
            [".spec.resourceRef.name", ".spec.type"],
        ),
    ],
    ids=["HoopResource", "HoopRolePlan"],
)
def test_what_kubectl_shows_and_selects_by(
    resource: CustomResource, columns: list[str], selectable: list[str]
) -> None:
    version = custom_resource_definition(resource)["spec"]["versions"][0]
    printed = version["additionalPrinterColumns"]
    assert [column["name"] for column in printed] == columns
    assert [column["name"] for column in printed if column.get("priority")] == ["Message"]
    assert [field["jsonPath"] for field in version["selectableFields"]] == selectable
    assert version["subresources"] == {"status": {}}


# The models


def test_a_spec_is_read_from_the_wire_and_unknown_fields_are_passed_over() -> None:
    spec = HoopRolePlanSpec.model_validate(
        {
            "resourceRef": {"name": "my-postgres"},
            "type": "managed",
            "role": "ro",
            "scopes": ["mydb", "otherdb.public"],
            "privileges": ["SELECT", "INSERT"],
            "addedInALaterVersion": True,
        }
    )
    assert spec == HoopRolePlanSpec(
        resource_ref=ResourceRef(name="my-postgres"),
        type=PlanType.MANAGED,
        role="ro",
        scopes=("mydb", "otherdb.public"),
        privileges=(Privilege.SELECT, Privilege.INSERT),
    )


def test_an_empty_guardrail_is_told_from_an_absent_one() -> None:
    guardrails = Guardrails.model_validate({"privileges": []})
    assert guardrails.privileges == ()
    assert guardrails.scopes is None


def test_whatever_may_hold_a_password_is_left_out_of_repr() -> None:
    resource = HoopResourceSpec.model_validate(
        {
            "type": "database",
            "subtype": "postgres",
            "envVars": {"PASS": "s3cret"},
            "roles": [{"name": "app", "secret": {"PASS": "s3cret"}}],
        }
    )
    template = SecretTemplate(data={"dsn": "s3cret"})
    assert resource.env_vars == resource.roles[0].secret == {"PASS": "s3cret"}
    assert "s3cret" not in repr(resource) + str(resource) + repr(template) + str(template)


@pytest.mark.parametrize(
    ("model", "invalid"),
    [
        (HoopResourceSpec, {"envVars": {"PASS": ["s3cret"]}}),
        (HoopResourceSpec, {"type": "database", "subtype": "postgres", "envVars": "s3cret"}),
        (ResourceRole, {"name": "app", "secret": {"PASS": {"s3cret": 1}}}),
        (SecretTemplate, {"data": ["s3cret"]}),
    ],
)
def test_a_validation_error_quotes_no_value(model: type[BaseModel], invalid: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(invalid)
    assert "s3cret" not in str(caught.value) + repr(caught.value)


def test_models_are_immutable() -> None:
    entry = EnvFrom(secret_ref=LocalRef(name="admin"))
    with pytest.raises(ValidationError, match="frozen"):
        entry.prefix = "PG_"  # type: ignore[misc]  # the very thing that must fail


def test_a_status_is_dumped_as_the_api_server_takes_it() -> None:
    status = HoopResourceStatus(
        status=Outcome.SUCCESS,
        message="",
        updated_at=NOON,
        conditions=(Condition(type="Ready", status="True", reason="Registered", last_transition_time=NOON),),
    )
    assert status.model_dump(mode="json", by_alias=True, exclude_none=True) == {
        "status": "success",
        "message": "",
        "updatedAt": "2026-03-01T10:00:00Z",
        "connections": [],
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Registered",
                "message": "",
                "lastTransitionTime": "2026-03-01T10:00:00Z",
            }
        ],
    }


def test_a_status_too_long_for_the_api_server_is_cut_and_not_refused() -> None:
    run = HistoryEntry(
        sid="s", trigger="spec", status=Outcome.FAILED, message="x" * 9999, started_at=NOON, finished_at=NOON
    )
    status = HoopRolePlanStatus(
        message="x" * 99999,
        history=(run,) * 12,
        plan=ComputedPlan(
            sid="s", checksum="c", statements=("GRANT " * 999,) * 999, count=999, computed_at=NOON
        ),
    )
    assert status.message is not None
    assert status.message.endswith("x…")
    assert stored_bytes(status.message) == MESSAGE_BYTES
    assert len(status.history) == 10
    assert status.history[0].message.endswith("x…")
    assert status.plan is not None
    assert sum(map(stored_bytes, status.plan.statements)) <= STATEMENTS_BYTES
    assert status.plan.statements[0].endswith("…")
    assert status.plan.count == 999


# The conversion


class Inner(BaseModel):
    """What it is when nothing else is said."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [{"rule": "inner"}]})

    kind: Literal["only"]


class Outer(BaseModel):
    """Wrapped over
    two lines.

    And a paragraph.
    """

    plain: Inner
    optional: Annotated[
        Inner | None,
        Field(
            description="Said of the field.",
            json_schema_extra={"x-kubernetes-validations": [{"rule": "outer"}]},
        ),
    ] = None
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    labels: dict[str, Annotated[str, Field(max_length=5)]] = {}


def test_references_optionals_constants_and_exclusive_bounds_become_structural() -> None:
    assert structural_schema(Outer) == {
        "type": "object",
        "description": "Wrapped over two lines.\nAnd a paragraph.",
        "required": ["plain"],
        "properties": {
            "plain": {
                "type": "object",
                "description": "What it is when nothing else is said.",
                "required": ["kind"],
                "properties": {"kind": {"type": "string", "enum": ["only"]}},
                "x-kubernetes-validations": [{"rule": "inner"}],
            },
            "optional": {
                "type": "object",
                "description": "Said of the field.",
                "required": ["kind"],
                "properties": {"kind": {"type": "string", "enum": ["only"]}},
                "x-kubernetes-validations": [{"rule": "inner"}, {"rule": "outer"}],
            },
            "share": {
                "type": "number",
                "minimum": 0,
                "exclusiveMinimum": True,
                "maximum": 1,
                "exclusiveMaximum": True,
            },
            "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 5}},
        },
    }


class Tree(BaseModel):
    branches: tuple["Tree", ...] = ()


class Undecided(BaseModel):
    port: int | str


class Pair(BaseModel):
    ends: tuple[int, int]


class AnyValues(BaseModel):
    values: dict[str, Any]


class Anything(BaseModel):
    value: Any


class PatternedKeys(BaseModel):
    values: dict[Annotated[str, Field(pattern="^a$")], str]


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (Tree, r"Tree\.branches\[\]: Tree contains itself"),
        (Undecided, r"Undecided\.port: a union of several types"),
        (Pair, r"Pair\.ends: a CRD's schema has no keyword 'prefixItems'"),
        (AnyValues, r"AnyValues\.values: values of any kind"),
        (Anything, r"Anything\.value: no type"),
        (PatternedKeys, r"PatternedKeys\.values: "),
    ],
)
def test_what_a_crd_cannot_express_is_refused_by_its_place(model: type[BaseModel], fault: str) -> None:
    with pytest.raises(NotStructuralError, match=fault):
        structural_schema(model)
