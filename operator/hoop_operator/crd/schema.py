"""From a pydantic model to the CustomResourceDefinition that the API server takes.

A CRD's schema is a subset of OpenAPI 3.0 ("structural schema") while pydantic writes JSON Schema 2020-12.
What has no equal there is refused here: a keyword that the API server drops in silence would be a check that
does not happen.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.config import JsonDict

from hoop_operator.crd.common import GROUP, VERSION, checked

JsonSchema = dict[str, Any]

_KEPT = frozenset(
    {
        "type",
        "format",
        "description",
        "enum",
        "pattern",
        "minimum",
        "maximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        "required",
    }
)

# `default` stays with the models: one that the API server fills in shows up as drift from what is in Git.
_DROPPED = frozenset({"title", "default"})


class NotStructuralError(ValueError):
    """A model says something that a CRD's schema cannot express; the text names the place."""


@dataclass(frozen=True)
class PrinterColumn:
    """A column of `kubectl get`; one of priority 1 shows with `-o wide` only."""

    name: str
    json_path: str
    type: Literal["string", "integer", "date"] = "string"
    priority: int = 0


@dataclass(frozen=True)
class CustomResource:
    """All that the API server has to know about a kind."""

    kind: str
    short_name: str
    description: str
    spec: type[BaseModel]
    status: type[BaseModel]
    columns: tuple[PrinterColumn, ...]
    selectable_fields: tuple[str, ...]
    rules: tuple[JsonDict, ...]
    """CEL rules that need `metadata.name`, which is in reach at the root of an object only."""

    @property
    def singular(self) -> str:
        """Name of one object on the command line."""
        return self.kind.lower()

    @property
    def plural(self) -> str:
        """Name of the kind in URLs."""
        return f"{self.singular}s"


def structural_schema(model: type[BaseModel]) -> JsonSchema:
    """Return the structural schema of `model`, self-contained.

    Raises
    ------
    NotStructuralError
        The model is recursive, or uses a union or a keyword that no CRD can express.
    """
    schema = model.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.pop("$defs", {})
    return _structural(schema, definitions, path=model.__name__, open_refs=())


def custom_resource_definition(resource: CustomResource) -> JsonSchema:
    """Return the CustomResourceDefinition of a kind, as plain data."""
    root: JsonSchema = {
        "type": "object",
        "description": resource.description,
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}."},
            "kind": {"type": "string", "description": f"{resource.kind}."},
            "metadata": {"type": "object"},
            "spec": structural_schema(resource.spec),
            "status": structural_schema(resource.status),
        },
        "required": ["spec"],
    }
    if resource.rules:
        root |= deepcopy(checked(*resource.rules))
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.singular,
                "shortNames": [resource.short_name],
                "categories": ["hoop"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_printer_column(column) for column in resource.columns],
                    "selectableFields": [{"jsonPath": path} for path in resource.selectable_fields],
                    "schema": {"openAPIV3Schema": root},
                }
            ],
        },
    }


def _printer_column(column: PrinterColumn) -> JsonSchema:
    entry: JsonSchema = {"name": column.name, "type": column.type, "jsonPath": column.json_path}
    if column.priority:
        entry["priority"] = column.priority
    return entry


def _structural(
    schema: JsonSchema, definitions: dict[str, JsonSchema], path: str, open_refs: tuple[str, ...]
) -> JsonSchema:
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        if name in open_refs:
            raise NotStructuralError(f"{path}: {name} contains itself; a CRD's schema has no recursion")
        merged = _merged(definitions[name], schema, without="$ref")
        return _structural(merged, definitions, path, (*open_refs, name))
    if "anyOf" in schema:
        choices = [choice for choice in schema["anyOf"] if choice != {"type": "null"}]
        if len(choices) != 1:
            raise NotStructuralError(f"{path}: a union of several types; only `X | None` can be expressed")
        return _structural(_merged(choices[0], schema, without="anyOf"), definitions, path, open_refs)
    result: JsonSchema = {}
    for keyword, value in schema.items():
        if keyword in _DROPPED:
            continue
        if keyword == "description":
            result[keyword] = _reflowed(value)
        elif keyword in _KEPT or keyword.startswith("x-kubernetes-"):
            result[keyword] = deepcopy(value)
        elif keyword == "const":
            result["enum"] = [value]
        elif keyword == "exclusiveMinimum":
            result |= {"minimum": value, "exclusiveMinimum": True}
        elif keyword == "exclusiveMaximum":
            result |= {"maximum": value, "exclusiveMaximum": True}
        elif keyword == "properties":
            result[keyword] = {
                name: _structural(child, definitions, f"{path}.{name}", open_refs)
                for name, child in value.items()
            }
        elif keyword == "items":
            result[keyword] = _structural(value, definitions, f"{path}[]", open_refs)
        elif keyword == "additionalProperties":
            if isinstance(value, bool):
                raise NotStructuralError(f"{path}: values of any kind; the API server would prune them all")
            result[keyword] = _structural(value, definitions, f"{path}{{}}", open_refs)
        else:
            raise NotStructuralError(f"{path}: a CRD's schema has no keyword {keyword!r}")
    if "type" not in result:
        raise NotStructuralError(f"{path}: no type; a CRD's schema needs one everywhere")
    return dict(sorted(result.items()))


def _merged(inner: JsonSchema, outer: JsonSchema, *, without: str) -> JsonSchema:
    """Lay the keywords beside a `$ref` or `anyOf` over what it stands for; the rules of both hold."""
    beside = {keyword: value for keyword, value in outer.items() if keyword != without}
    rules = inner.get("x-kubernetes-validations", []) + beside.get("x-kubernetes-validations", [])
    return inner | beside | ({"x-kubernetes-validations": rules} if rules else {})


def _reflowed(text: str) -> str:
    """One line per paragraph: where the source wraps its lines is no matter of the reader's."""
    return "\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
