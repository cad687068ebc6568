"""`make e2e`: its suite holds on the servers of this run, and an API server takes what it puts into kind."""

import pytest

from integration.namespaces import NAMESPACED
from local import cluster, e2e, kind
from local.postgresql import Server
from local.stack import Stack

pytestmark = pytest.mark.version_independent


@pytest.mark.skipif(NAMESPACED, reason="it makes namespaces of its own")
def test_the_end_to_end_tests_pass_on_the_cluster_that_kubeconfig_names(
    operator: Stack, postgres: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    variables = {
        "KUBECONFIG": str(operator.kubeconfig),
        "PGHOST": postgres.host,
        "PGPORT": str(postgres.port),
        "PGUSER": postgres.user,
        "PGPASSWORD": postgres.password,
    }
    code = e2e.run_tests(variables)
    told = capfd.readouterr().out
    assert code == 0, told
    assert "the operator runs in no Pod" in told


def test_the_api_server_takes_the_postgresql_of_the_kind_cluster(stack: Stack, namespace: str) -> None:
    cluster.kubectl(
        stack.kubeconfig,
        *(f"--namespace={namespace}", "create", "--dry-run=server", "--validate=strict"),
        f"--filename={kind.E2E / 'postgresql.yaml'}",
    )
