"""The health checks of Argo CD, in the Lua that it runs them in: 5.1, with few libraries."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime, lua_type

CUSTOMIZATIONS = Path(__file__).parents[2] / "deploy/argocd/resource_customizations/hoop.dev"
MISSING_THERE = ("string", "math", "io", "debug", "require", "dofile", "loadfile", "package")


CASES = [
    pytest.param(
        tests.parent / case["inputPath"],
        case["healthStatus"],
        id=f"{tests.parent.name}-{Path(case['inputPath']).stem}",
    )
    for tests in sorted(CUSTOMIZATIONS.glob("*/health_test.yaml"))
    for case in yaml.safe_load(tests.read_text())["tests"]
]


def health(script: str, body: dict[str, Any]) -> dict[str, str]:
    """What a script says of an object, with the object in the global `obj` as Argo CD has it."""
    lua = LuaRuntime(unpack_returned_tuples=True)
    for library in MISSING_THERE:
        lua.globals()[library] = None
    lua.globals().obj = lua.table_from(body, recursive=True)
    returned = lua.execute(script)
    assert lua_type(returned) == "table"
    return dict(returned)


@pytest.mark.parametrize(("file", "expected"), CASES)
def test_an_object_has_the_health_that_its_status_tells(file: Path, expected: dict[str, str]) -> None:
    script = (file.parents[1] / "health.lua").read_text()
    assert health(script, yaml.safe_load(file.read_text())) == expected


def test_every_object_of_the_test_data_is_judged() -> None:
    judged = {case.values[0] for case in CASES}
    assert judged == set(CUSTOMIZATIONS.glob("*/testdata/*.yaml"))
