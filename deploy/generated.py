"""Writes what is generated below `deploy/`, or with `--check` tells what of it is stale.

The chart's copies of the kinds, alerts and dashboard, since a chart holds all of its files itself; the descriptions and
settings in the schema of its values; the table of values in its README; and the plain manifests, which are the chart
rendered with its defaults. And Argo CD's health checks in the form of its ConfigMap.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from hoop_operator.settings import Settings
from local.helm import helm

DEPLOY = Path(__file__).parent
CHART = DEPLOY / "chart"
MANIFESTS = DEPLOY / "manifests"
ARGO_CD = DEPLOY / "argocd"
RELEASE, NAMESPACE = "hoop-operator", "hoop-system"

COPIES = {
    "files/crds/hoopresources.yaml": "../crds/hoopresources.yaml",
    "files/crds/hooproleplans.yaml": "../crds/hooproleplans.yaml",
    "files/alerts.yaml": "monitoring/alerts.yaml",
    "files/dashboard.json": "monitoring/dashboard.json",
}
"""By the path in the chart: the path from here."""

TEMPLATES = {
    "crds.yaml": "crds.yaml",
    "serviceaccount.yaml": "rbac.yaml",
    "rbac.yaml": "rbac.yaml",
    "user-roles.yaml": "rbac.yaml",
    "admission-policy.yaml": "admission-policy.yaml",
    "deployment.yaml": "operator.yaml",
    "poddisruptionbudget.yaml": "operator.yaml",
    "service.yaml": "operator.yaml",
}
"""By the template in the chart: the manifest that it goes to. Read in the order of their names, the namespace comes
before what is in it."""

HEADER = "# Generated from deploy/chart by `make manifests`: change that, not this.\n"

NAMESPACE_MANIFEST = f"""\
{HEADER}apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""

OF_HELM = re.compile(r" *(?:app\.kubernetes\.io/managed-by: Helm|helm\.sh/chart: .*)\n")
DESCRIPTION = "# -- "
SETTINGS_BESIDE = {
    "agent_id",
    "watch_namespaces",
    "api_namespace",
    "api_port",
    "api_plan_applies",
    "api_wait_seconds",
}
"""Settings that are values of their own: the operator's rights follow from them, or they are another Deployment's."""
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"


def sources() -> dict[Path, str]:
    """Return the text of the generated files that need no rendered chart, by their path."""
    files = {CHART / copy: (DEPLOY / original).read_text() for copy, original in COPIES.items()}
    files[ARGO_CD / "argocd-cm.yaml"] = argocd_settings()
    schema = CHART / "values.schema.json"
    files[schema] = json.dumps(with_settings(json.loads(schema.read_text())), indent=2) + "\n"
    return files


def results() -> dict[Path, str]:
    """Return the text of what is made of the chart as it is on disk, by its path."""
    readme = CHART / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    table = before + BEGIN + values_table() + END + rest.partition(END)[2]
    return {readme: table, **{MANIFESTS / name: text for name, text in manifests().items()}}


def manifests() -> dict[str, str]:
    """Return the plain manifests by their name: all that the chart renders, without what is Helm's own."""
    rendered = render("--set=crds.keep=false")
    found = {"namespace.yaml": NAMESPACE_MANIFEST}
    for document in rendered.split("---\n# Source: hoop-operator/templates/")[1:]:
        template, _, text = document.partition("\n")
        name = TEMPLATES[template]
        found.setdefault(name, HEADER)
        found[name] += f"---\n{OF_HELM.sub('', text).strip()}\n"
    resources = "".join(f"  - {name}\n" for name in sorted(found))
    # Of this name, for `kubectl apply -f` takes every .yaml of a folder for an object.
    found["Kustomization"] = (
        f"{HEADER}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{resources}"
    )
    return found


def argocd_settings() -> str:
    """Return the ConfigMap of Argo CD's settings with the health checks."""
    lines = [
        "# Generated from resource_customizations by `make manifests`: change that, not this.\n",
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: argocd-cm\ndata:\n",
    ]
    for script in sorted(ARGO_CD.glob("resource_customizations/*/*/health.lua")):
        group, kind = script.parts[-3:-1]
        lines.append(f"  resource.customizations.health.{group}_{kind}: |\n")
        lines += (f"    {line}".rstrip() + "\n" for line in script.read_text().splitlines())
    return "".join(lines)


def render(*arguments: str, major: int = 4, release: str = RELEASE) -> str:
    """Return what `helm template` makes of a release of the chart in the namespace of the manifests.

    Raises
    ------
    subprocess.CalledProcessError
        Helm refused; `stderr` has what it said.
    """
    command = [str(helm(major)), "template", release, str(CHART), f"--namespace={NAMESPACE}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 -- our own Helm
    return done.stdout


def with_settings(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the chart's values with the operator's own settings, and all descriptions, filled in."""
    properties = {}
    for name, field in Settings.model_json_schema()["properties"].items():
        if name in SETTINGS_BESIDE:
            continue
        first, *others = name.split("_")
        properties[first + "".join(map(str.capitalize, others))] = {
            key: value for key, value in field.items() if key not in {"title", "default"}
        }
    schema["properties"]["settings"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }
    for path, description in described_values((CHART / "values.yaml").read_text()):
        place = schema
        for part in path.split("."):
            place = place["properties"][part]
        place["description"] = description.replace("`", "")
    require(schema, yaml.safe_load((CHART / "values.yaml").read_text()))
    return schema


def require(schema: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Have a schema ask for every key that has a default: Helm drops a key that a user sets to null."""
    schema["required"] = [key for key, default in defaults.items() if default is not None]
    for key, default in defaults.items():
        if isinstance(default, dict) and "properties" in schema["properties"][key]:
            require(schema["properties"][key], default)


def values_table() -> str:
    """Return the Markdown table of the chart's values: every value with a comment that begins with `# --`."""
    text = (CHART / "values.yaml").read_text()
    defaults = yaml.safe_load(text)
    lines = ["\n| Value | Default | Meaning |\n|---|---|---|\n"]
    for key, description in described_values(text):
        value = defaults
        for part in key.split("."):
            value = value[part]
        default = '""' if value is None else yaml.safe_dump(value, default_flow_style=True, width=1000)
        shown = default.removesuffix("\n").removesuffix("\n...").replace("'", '"')
        lines.append(f"| `{key}` | `{shown}` | {description} |\n")
    return "".join([*lines, "\n"])


def described_values(text: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted path and the description of every value that has one."""
    path: list[str] = []
    description: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(DESCRIPTION):
            description = [stripped.removeprefix(DESCRIPTION)]
        elif stripped.startswith("# ") and description:
            description.append(stripped.removeprefix("# "))
        elif found := re.match(r"( *)(\w+):", line):
            path[len(found[1]) // 2 :] = [found[2]]
            if description:
                yield ".".join(path), " ".join(description)
            description = []


def main() -> int:
    """Write or check the files; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m generated", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, fail if a file is not up to date"
    )
    check_only = parser.parse_args().check
    for files in (sources, results):
        stale = {
            path: text for path, text in files().items() if not path.exists() or path.read_text() != text
        }
        for path, text in stale.items():
            if check_only:
                sys.stderr.write(f"{path} is stale: run `make manifests` and commit what it writes\n")
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        if check_only and stale:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
