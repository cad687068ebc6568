"""Where kopf finds the API server."""

import kopf
import pytest

from hoop_operator.handlers.registry import _log_in


@pytest.mark.parametrize(
    ("host", "server"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
)
def test_a_pod_finds_it_by_its_environment_and_not_by_dns(
    monkeypatch: pytest.MonkeyPatch, host: str, server: str
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    by_name = kopf.ConnectionInfo(server="https://kubernetes.default.svc", token="a token")
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: by_name)
    assert _log_in() == kopf.ConnectionInfo(server=server, token="a token")
