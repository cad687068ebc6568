"""The samples are what the API server takes, and together they leave no field unmentioned."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from local import cluster
from local.stack import CHECKOUT, Stack

pytestmark = pytest.mark.version_independent

SAMPLES = sorted((CHECKOUT / "deploy/samples").glob("*.yaml"))
KINDS = sorted((CHECKOUT / "crds").glob("*.yaml"))


def fields_of_schema(schema: dict[str, Any]) -> Iterator[str]:
    if "items" in schema:
        yield from fields_of_schema(schema["items"])
    for name, below in schema.get("properties", {}).items():
        yield name
        yield from (f"{name}.{field}" for field in fields_of_schema(below))


def fields_of_value(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from fields_of_value(item)
    if isinstance(value, dict):
        for name, below in value.items():
            yield name
            yield from (f"{name}.{field}" for field in fields_of_value(below))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_the_api_server_takes_the_sample(stack: Stack, namespace: str, sample: Path) -> None:
    objects = [document["metadata"]["name"] for document in yaml.safe_load_all(sample.read_text())]
    taken = cluster.kubectl(
        stack.kubeconfig,
        f"--namespace={namespace}",
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "--filename",
        sample,
    )
    assert [line.split(" ")[0].rpartition("/")[2] for line in taken.splitlines()] == objects


@pytest.mark.parametrize("crd", KINDS, ids=lambda crd: crd.stem)
def test_the_annotated_sample_shows_every_field_of_the_kind(crd: Path) -> None:
    kind = yaml.safe_load(crd.read_text())
    (version,) = kind["spec"]["versions"]
    known = set(fields_of_schema(version["schema"]["openAPIV3Schema"]["properties"]["spec"]))
    annotated = yaml.safe_load_all((CHECKOUT / "deploy/samples/annotated.yaml").read_text())
    mentioned = {
        field
        for document in annotated
        if document["kind"] == kind["spec"]["names"]["kind"]
        for field in fields_of_value(document["spec"])
    }
    assert known
    assert known - mentioned == set()
