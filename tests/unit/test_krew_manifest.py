"""The krew manifest follows the rules by which krew itself refuses one."""

import re
from typing import Any

import pytest
import yaml

from krew import archive

FILE = archive.MANIFEST


@pytest.fixture
def manifest() -> Any:
    return yaml.safe_load(FILE.read_text())


def test_the_manifest_follows_the_rules_of_krew(manifest: Any) -> None:
    # internal/index/validation/validate.go of krew.
    assert manifest["apiVersion"] == "krew.googlecontainertools.github.com/v1alpha2"
    assert manifest["kind"] == "Plugin"
    name = manifest["metadata"]["name"]
    assert re.fullmatch(r"[\w-]+", name)
    assert not name.startswith("kubectl-")
    assert FILE.stem == name
    spec = manifest["spec"]
    assert re.fullmatch(r"v\d+\.\d+\.\d+", spec["version"])
    # Its review guidelines: one short line, as `kubectl krew search` has no room for more.
    assert 0 < len(spec["shortDescription"]) <= 50
    assert "\n" not in spec["shortDescription"]
    assert spec["description"]
    platforms = [tuple(sorted(entry["selector"]["matchLabels"].items())) for entry in spec["platforms"]]
    assert len(set(platforms)) == len(platforms) > 0
    for entry in spec["platforms"]:
        assert re.fullmatch("[0-9a-f]{64}", entry["sha256"])
        assert entry["uri"].startswith("https://")
        assert entry["uri"].endswith(".tar.gz")
        assert entry["bin"] in {file["from"] for file in entry["files"]}
        assert all(file["to"] and ".." not in file["from"] + file["to"] for file in entry["files"])


def test_every_platform_of_the_manifest_is_one_that_an_archive_is_built_for(manifest: Any) -> None:
    spec = manifest["spec"]
    for entry in spec["platforms"]:
        labels = entry["selector"]["matchLabels"]
        assert f"{labels['os']}/{labels['arch']}" in archive.PLATFORMS
        assert entry["uri"].endswith(
            f"/{spec['version']}/kubectl-hoop-{labels['os']}-{labels['arch']}.tar.gz"
        )
    assert len(spec["platforms"]) == len(archive.PLATFORMS)
