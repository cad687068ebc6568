"""What a registration says on its resource."""

from datetime import UTC, datetime

from hoop_operator.crd.common import MESSAGE_BYTES, stored_bytes
from hoop_operator.errors import ResourceReason
from hoop_operator.reconcile.objects import Resource
from hoop_operator.reconcile.register import Registration, resource_status

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


def test_however_much_is_wrong_the_status_fits() -> None:
    spec = {"type": "database", "subtype": "postgres", "envVarsFrom": [{"secretRef": {"name": "admin"}}]}
    metadata = {
        "namespace": "shop",
        "name": "pg",
        "uid": "u-1",
        "generation": 1,
        "resourceVersion": "1",
    }
    resource = Resource.parse({"metadata": metadata, "spec": spec})
    registration = Registration(resource, ResourceReason.CREDENTIALS_INVALID, "it is not base64; " * 10_000)
    status = resource_status(registration, resource, 0, None, NOW)
    assert status is not None
    texts = [status["message"], *(condition["message"] for condition in status["conditions"])]
    assert max(map(stored_bytes, texts)) == MESSAGE_BYTES
