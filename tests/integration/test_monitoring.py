"""Alerts and dashboard, read by Prometheus' own engine."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from local.promtool import promtool

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"

pytestmark = pytest.mark.version_independent


def run(*arguments: str | Path) -> str:
    done = subprocess.run(  # noqa: S603 -- our own build of it
        [promtool(), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_alert_fires_when_it_shall_and_only_then() -> None:
    assert "SUCCESS" in run("check", "rules", "--lint=all", "--lint-fatal", MONITORING / "alerts.yaml")
    assert "SUCCESS" in run("test", "rules", MONITORING / "tests/alerts.yaml")


def test_every_alert_is_seen_to_fire_and_to_be_silent() -> None:
    alerts = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    names = {rule["alert"] for group in alerts["groups"] for rule in group["rules"]}
    told: dict[str, set[bool]] = {name: set() for name in names}
    for test in yaml.safe_load((MONITORING / "tests/alerts.yaml").read_text())["tests"]:
        for case in test.get("alert_rule_test", ()):
            told[case["alertname"]].add(bool(case.get("exp_alerts")))
    assert {name: seen for name, seen in told.items() if seen != {True, False}} == {}


def test_every_expression_of_the_dashboard_can_be_evaluated(tmp_path: Path) -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    rules = [
        {
            "record": f"dashboard:expression:{number}",
            "expr": expression.replace("$__rate_interval", "5m").replace("$namespace", ".*"),
        }
        for number, expression in enumerate(expressions)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(expressions)} rules found" in run("check", "rules", path)
