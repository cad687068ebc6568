from typing import Any

from hoop_operator.cluster.secrets import Owner, decode

PASSWORD = "tell-nobody"
PASSWORD_ENCODED = "dGVsbC1ub2JvZHk="


def body(**changes: Any) -> dict[str, Any]:
    metadata = {"namespace": "a", "name": "b", "uid": "u-1", "resourceVersion": "7"}
    return {"metadata": metadata, "type": "Opaque", "data": {"password": PASSWORD_ENCODED}} | changes


def test_values_are_decoded_to_bytes() -> None:
    secret = decode(body(data={"password": PASSWORD_ENCODED, "binary": "/wA=", "empty": ""}))

    assert secret.data == {"password": PASSWORD.encode(), "binary": b"\xff\x00", "empty": b""}


def test_secret_of_the_barest_kind_is_read() -> None:
    secret = decode({"metadata": body()["metadata"]})

    assert (secret.namespace, secret.name, secret.uid, secret.resource_version) == ("a", "b", "u-1", "7")
    assert (secret.data, secret.labels, secret.annotations) == ({}, {}, {})
    assert secret.type == "Opaque"
    assert secret.owner is None
    assert secret.deleting is False


def test_only_the_controller_is_the_owner() -> None:
    bystander = {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u-2"}
    controller = Owner("HoopRolePlan", "ro", "u-3").reference()
    metadata = body()["metadata"]

    assert decode(body(metadata=metadata | {"ownerReferences": [bystander]})).owner is None
    assert decode(body(metadata=metadata | {"ownerReferences": [bystander, controller]})).owner == Owner(
        "HoopRolePlan", "ro", "u-3"
    )


def test_secret_on_its_way_out_says_so() -> None:
    metadata = body()["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}

    assert decode(body(metadata=metadata)).deleting is True


def test_repr_shows_no_value_not_even_kubectls_copy() -> None:
    copy = {"kubectl.kubernetes.io/last-applied-configuration": f'{{"data":{{"p":"{PASSWORD_ENCODED}"}}}}'}
    secret = decode(body(metadata=body()["metadata"] | {"annotations": copy}))

    assert secret.annotations == copy
    assert PASSWORD not in repr(secret)
    assert PASSWORD_ENCODED not in repr(secret)
