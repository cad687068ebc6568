"""The documentation says of the code what is so, and leaves out nothing that a user may meet."""

import ast
import json
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from hoop_operator.crd import (
    OUTPUT_SECRET_KEYS,
    HoopResourceSpec,
    HoopResourceStatus,
    HoopRolePlanSpec,
    HoopRolePlanStatus,
    KubernetesModel,
    Privilege,
)
from hoop_operator.credentials.sources import ENDPOINT_SPELLING, SPELLINGS
from hoop_operator.errors import PlanReason, ResourceReason
from hoop_operator.planner.model import ObjectKind
from hoop_operator.planner.privileges import object_privileges
from hoop_operator.planner.roles import DANGEROUS_ROLES
from hoop_operator.reconcile.denied import ACCESS_DENIED
from hoop_operator.settings import Settings

ROOT = Path(__file__).parents[2]
SOURCE = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("operator/hoop_operator/**/*.py"))
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

FENCED = re.compile(r"^( *)```(?P<language>\w*)\n(?P<text>.*?)^\1```$", re.DOTALL | re.MULTILINE)
CODE_SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]+\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
REGISTRY_HOSTS = re.compile(
    r"\b(?:pypi|pythonhosted|npmjs|crates|rubygems)\.(?:org|com|io)|proxy\.golang|\b(?:quay|docker|k8s)\.io/"
)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return FENCED.sub("", text)


def blocks(text: str, language: str) -> list[str]:
    return [match["text"] for match in FENCED.finditer(text) if match["language"] == language]


def code_spans(text: str) -> set[str]:
    return set(CODE_SPAN.findall(prose(text)))


def words_in_code(text: str) -> set[str]:
    """Every name that stands in code somewhere in the prose, `binding.name` being two."""
    return {word for span in code_spans(text) for word in re.findall(r"\w+", span)}


def anchors(text: str) -> set[str]:
    """What GitHub makes of a page's headings."""
    titles = [title.replace("`", "").lower() for title in HEADING.findall(prose(text))]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def section(text: str, title: str) -> str:
    """What stands below a heading, up to the next one of the same level; a comment in a block of code is none."""
    outline = FENCED.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    heading = re.search(rf"^(#+) {re.escape(title)}$", outline, re.MULTILINE)
    assert heading, f"there is no heading {title!r}"
    following = re.compile(rf"^#{{1,{len(heading[1])}}} ", re.MULTILINE).search(outline, heading.end())
    return text[heading.end() : following.start() if following else None]


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {index for index, line in enumerate(lines) if re.fullmatch(r"[|\- ]+", line)}
    heads |= {index - 1 for index in heads}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for index, line in enumerate(lines)
        if index not in heads
    ]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in get_args(annotation):
        yield from models_in(argument)


def fields_of(model: type[BaseModel]) -> Iterator[str]:
    """Name of every field of a model and of the models below it, as YAML spells it."""
    for name, field in model.model_fields.items():
        yield field.alias or name
        for below in models_in(field.annotation):
            if below.__name__ != "Condition":  # the same for every kind in Kubernetes, and explained there
                yield from fields_of(below)


# The pages


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for match in LINK.finditer(prose(page.read_text(encoding="utf-8"))):
        target, _, anchor = match["target"].partition("#")
        if "://" in target:
            assert target.startswith("https://"), target
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{match['target']}: there is no {path}"
        assert path.is_relative_to(ROOT), match["target"]
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), match["target"]


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = {match["target"].partition("#")[0] for match in LINK.finditer(read("README.md"))}
    linked |= {f"docs/{match['target'].partition('#')[0]}" for match in LINK.finditer(read("docs/index.md"))}
    assert {str(page.relative_to(ROOT)) for page in PAGES} - {"README.md"} <= linked


@pytest.mark.parametrize(
    "path",
    [*(str(page.relative_to(ROOT)) for page in PAGES), "LICENSE", ".ci/run", ".github/workflows/ci.yml"],
)
def test_no_package_registry_is_named(path: str) -> None:
    assert not REGISTRY_HOSTS.search(read(path))


@each_page
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", read("Makefile"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    in_code = [*code_spans(text), *blocks(text, "sh")]
    named = {name for code in in_code for name in re.findall(r"^make ([a-z][a-z0-9-]*)", code, re.MULTILINE)}
    assert named <= targets


@each_page
def test_every_example_is_an_object_of_its_kind(page: Path) -> None:
    specs: dict[str, type[KubernetesModel]] = {
        "HoopResource": HoopResourceSpec,
        "HoopRolePlan": HoopRolePlanSpec,
    }
    for block in blocks(page.read_text(encoding="utf-8"), "yaml"):
        for example in yaml.safe_load_all(block):
            if not example["apiVersion"].startswith("hoop.dev/"):
                continue
            parsed = specs[example["kind"]].model_validate(example["spec"])
            assert parsed.model_dump(mode="json", by_alias=True, exclude_unset=True) == example["spec"]


# What a user may meet


@pytest.mark.parametrize(
    ("path", "reasons"), [("docs/resources.md", ResourceReason), ("docs/plans.md", PlanReason)]
)
def test_every_reason_is_explained_with_cause_and_remedy(path: str, reasons: type[StrEnum]) -> None:
    explained = {
        reason.strip("`"): texts for reason, *texts in rows(section(read(path), "Reasons of `Ready`"))
    }
    assert explained.keys() == set(reasons)
    for reason, texts in explained.items():
        assert len(texts) == 2, reason
        assert all(texts), reason


def test_what_troubleshooting_quotes_can_be_met() -> None:
    words_of_server_and_system = {
        "Connection refused",
        "certificate",
        'database "…" does not exist',
        "lock timeout",
        "remaining connection slots",
        "row is too big",
        "statement timeout",
        "too many clients",
    }
    text = read("docs/troubleshooting.md")
    events = rows(section(text, "Events without a reason of their own"))
    assert [event for event, _ in events if f'"{event.strip("`")}"' not in SOURCE] == []
    quoted = {part for cell, *_ in rows(text) for part in CODE_SPAN.findall(cell)}
    assert {part for part in quoted - words_of_server_and_system if part not in SOURCE} == set()


def test_every_reason_has_its_place_in_troubleshooting() -> None:
    headings = set(HEADING.findall(read("docs/troubleshooting.md")))
    assert {*ResourceReason, *PlanReason} <= headings


def reasons_in_code(call: str, argument: int) -> set[str]:
    """The reasons that are written out in the calls of a function, where they are its argument of that number."""
    return {
        word.value
        for path in ROOT.glob("operator/hoop_operator/**/*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == call
        for word in ast.walk(node.args[argument])
        if isinstance(word, ast.Constant) and isinstance(word.value, str)
    }


def test_the_page_of_reasons_has_every_reason_there_is_and_no_other() -> None:
    ready, conditions, events = (
        {reason.strip("[`").partition("`")[0] for reason, *_ in rows(section(read("docs/reasons.md"), title))}
        for title in ("Of Ready", "Of the other conditions", "Of events")
    )
    assert ready == {*ResourceReason, *PlanReason}
    assert conditions - reasons_in_code("say", 2) <= {ResourceReason.IN_USE}
    assert reasons_in_code("say", 2) <= conditions
    assert events == reasons_in_code("Announcement", 1) | {ACCESS_DENIED}


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("docs/resources.md", HoopResourceSpec),
        ("docs/resources.md", HoopResourceStatus),
        ("docs/plans.md", HoopRolePlanSpec),
        ("docs/plans.md", HoopRolePlanStatus),
    ],
)
def test_every_field_is_mentioned(path: str, model: type[BaseModel]) -> None:
    assert set(fields_of(model)) - words_in_code(read(path)) == set()


def test_every_setting_is_explained_with_its_default() -> None:
    explained = {name.strip("`"): (default, text) for name, default, text in rows(read("docs/settings.md"))}
    defaults = {
        f"HOOP_{name.upper()}": f"`{json.dumps(field.default)}`"
        for name, field in Settings.model_fields.items()
    }
    assert {name: default for name, (default, _) in explained.items()} == defaults
    assert all(text for _, text in explained.values())


def test_every_setting_is_read_somewhere() -> None:
    unread = {name for name in Settings.model_fields if f"ettings.{name}" not in SOURCE}
    assert unread == set()


@each_page
def test_no_setting_is_named_that_does_not_exist(page: Path) -> None:
    named = set(re.findall(r"\bHOOP_[A-Z_]+[A-Z]\b", page.read_text(encoding="utf-8")))
    assert named <= {f"HOOP_{name.upper()}" for name in Settings.model_fields}


def test_the_table_of_privileges_is_what_the_planner_grants() -> None:
    columns = (ObjectKind.TABLE, ObjectKind.SEQUENCE, ObjectKind.ROUTINE, ObjectKind.SCHEMA)
    every_role_has = {"USAGE"}  # on the schema, whatever the privileges
    explained = {
        name.strip("`"): [set(filter(None, cell.split(", "))) for cell in cells]
        for name, *cells in rows(section(read("docs/privileges.md"), "What is granted"))
    }
    granted = {
        privilege.value: [
            set(object_privileges([privilege]).get(kind, ()))
            - (every_role_has if kind is ObjectKind.SCHEMA else set())
            for kind in columns
        ]
        for privilege in Privilege
    }
    assert explained == granted


def test_every_key_of_the_output_secret_is_explained() -> None:
    explained = [cell for cell, _ in rows(section(read("docs/plans.md"), "Output Secret"))]
    assert {key for cell in explained for key in CODE_SPAN.findall(cell)} == set(OUTPUT_SECRET_KEYS)


def test_every_spelling_of_a_connection_variable_is_listed_in_the_order_in_which_it_counts() -> None:
    remarks = {":port", "*", "postgres"}
    listed = {
        name: [key for key in CODE_SPAN.findall(cells[-1]) if key not in remarks]
        for cell, *cells in rows(section(read("docs/resources.md"), "Connection variables"))
        if (name := cell.strip("`")) in SPELLINGS
    }
    understood = {name: [*spellings[1:]] for name, spellings in SPELLINGS.items()}
    understood["HOST"].append(ENDPOINT_SPELLING)
    assert listed == understood


# What the operator can do


def test_every_dangerous_source_role_is_listed() -> None:
    assert code_spans(section(read("docs/security.md"), "Dangerous source roles")) >= DANGEROUS_ROLES


def test_the_operators_rights_are_those_of_its_cluster_role() -> None:
    (role,) = (
        manifest
        for manifest in yaml.safe_load_all(read("deploy/manifests/rbac.yaml"))
        if manifest["kind"] == "ClusterRole" and manifest["metadata"]["name"] == "hoop-system:hoop-operator"
    )
    explained = [verbs for _, verbs, _ in rows(section(read("docs/security.md"), "What the operator can do"))]
    assert explained == [", ".join(rule["verbs"]) for rule in role["rules"]]


# How a change is proven


def names_of_tests(files: str) -> list[str]:
    return [
        name
        for path in ROOT.glob(files)
        for name in re.findall(
            r"^ *(?:async )?def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    ]


@pytest.mark.parametrize("page", ["docs/promises.md", "docs/resilience.md"])
def test_every_promise_names_tests_that_there_are(page: str) -> None:
    defined = names_of_tests("tests/**/test_*.py")
    for promise, *_, tests in rows(read(page)):
        named = CODE_SPAN.findall(tests)
        assert named, promise
        assert [name for name in named if defined.count(name) != 1] == [], promise


def test_everything_that_is_tried_against_the_operator_stands_in_the_table_of_it() -> None:
    tried = {
        name
        for file in ("crash", "faults", "outages")
        for name in names_of_tests(f"tests/integration/test_{file}.py")
    }
    assert tried <= code_spans(read("docs/resilience.md"))


def test_the_layout_that_contributors_read_names_what_there_is() -> None:
    (layout,) = blocks(section(read("CONTRIBUTING.md"), "How the house is laid out"), "text")
    package = ROOT / "operator/hoop_operator"
    named = [
        (package if line.startswith("  ") else ROOT) / name
        for line in layout.splitlines()
        for name in re.findall(r"(?:^|(?<= ))[\w/.]+(?:/|\.py|\.yaml)(?= |$)", line)
    ]
    assert [path for path in named if not path.exists()] == []
    assert {path for path in package.iterdir() if path.name[0] not in "._"} <= {*named}


def test_continuous_integration_checks_and_then_runs_the_test_command_of_the_readme() -> None:
    commands = [command.strip() for command in blocks(section(read("README.md"), "Try it"), "sh")]
    assert commands == ["make demo", "make test"]
    script = [line for line in read(".ci/run").splitlines() if line.startswith("make ")]
    matrix = ['make test-matrix VERSIONS="14 15 16"', "make test-matrix VERSIONS=17 RBAC=namespaced"]
    assert script == ["make check", commands[1], *matrix]
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    assert ".ci/run" in [step.get("run") for step in workflow["jobs"]["test"]["steps"]]
    assert workflow["permissions"] == {}
    assert [job["permissions"] for job in workflow["jobs"].values()] == [{"contents": "read"}] * 2


def test_the_job_that_may_write_a_release_runs_nothing_of_the_checkout() -> None:
    jobs = yaml.safe_load(read(".github/workflows/release.yml"))["jobs"]
    assert [name for name, job in jobs.items() if job["permissions"].get("contents") == "write"] == [
        "release"
    ]
    assert jobs["release"]["permissions"] == dict.fromkeys(("contents", "id-token", "attestations"), "write")
    assert not any("actions/checkout" in step.get("uses", "") for step in jobs["release"]["steps"])
    assert {"publish", "files"} == {*jobs["release"]["needs"]}
