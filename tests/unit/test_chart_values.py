"""The chart's values are the operator's settings, each explained, and its version is the project's."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import yaml

from generated import CHART, described_values
from hoop_operator.settings import Settings

BESIDE = {"agent_id": "agentId", "watch_namespaces": "watchNamespaces"}
OF_THE_API = "api_"
"""Settings of the HTTP API begin with it."""

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
OF_KUBERNETES = {"resources", "podSecurityContext", "containerSecurityContext", "labels"}
"""Values whose keys are not the chart's own."""


def camel_case(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in OF_KUBERNETES:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key


def test_every_setting_of_the_operator_is_a_value_with_the_same_default() -> None:
    defaults = Settings.model_construct().model_dump()
    settings = {
        camel_case(name): value
        for name, value in defaults.items()
        if name not in BESIDE and not name.startswith(OF_THE_API)
    }
    assert VALUES["settings"] == settings
    assert all(not VALUES[value] for value in BESIDE.values())


def test_every_setting_of_the_http_api_is_a_value_with_the_same_default() -> None:
    defaults = Settings.model_construct().model_dump()
    settings = {
        camel_case(name.removeprefix(OF_THE_API)): value
        for name, value in defaults.items()
        if name.startswith(OF_THE_API)
    }
    # The namespace's default is the release's.
    assert {name: VALUES["api"][name] for name in settings} == {**settings, "namespace": ""}


def test_every_value_is_explained() -> None:
    explained = [path for path, _ in described_values((CHART / "values.yaml").read_text())]
    assert explained == [*leaves(VALUES)]


def test_the_chart_is_of_the_version_of_the_operator() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version("hoop-operator")


def test_artifact_hub_is_told_the_kinds_that_the_chart_has() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    told = yaml.safe_load(chart["annotations"]["artifacthub.io/crds"])
    kinds = [yaml.safe_load(file.read_text()) for file in (CHART / "files/crds").glob("*.yaml")]
    assert {(one["name"], one["kind"], one["version"]) for one in told} == {
        (kind["metadata"]["name"], kind["spec"]["names"]["kind"], version["name"])
        for kind in kinds
        for version in kind["spec"]["versions"]
    }
