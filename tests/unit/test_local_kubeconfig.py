import pytest

from local import kubeconfig
from local.errors import StackError


def a_kubeconfig(context: str, server: str) -> dict[str, object]:
    return {
        "current-context": context,
        "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }


@pytest.mark.parametrize(
    ("context", "server"),
    [
        ("kind-hoop", "https://127.0.0.1:41233"),
        ("kind-hoop", "https://[::1]:41233"),
        ("kind-hoop", "https://localhost:41233"),
        ("k3d-hoop", "https://0.0.0.0:6550"),
        ("hoop-local", "https://127.0.0.1:39999"),
    ],
)
def test_a_throwaway_cluster_on_this_machine_is_used(context: str, server: str) -> None:
    kubeconfig.refuse_unless_throwaway(a_kubeconfig(context, server), "KUBECONFIG")


@pytest.mark.parametrize(
    ("context", "server"),
    [
        ("production", "https://127.0.0.1:6443"),
        ("kind-hoop", "https://10.0.0.7:6443"),
        ("kind-hoop", "https://127.0.0.1.example.com:6443"),
        ("kind-hoop", "https://localhost.example.com"),
        ("kind-hoop", "https://127.0.0.1@example.com:6443"),
        ("k3d-hoop", "nonsense"),
        ("my-kind-of-cluster", "https://localhost:6443"),
        ("hoop-local", "https://db.example.com"),
    ],
)
def test_any_other_cluster_is_refused_by_name_with_the_way_on(context: str, server: str) -> None:
    with pytest.raises(StackError) as refusal:
        kubeconfig.refuse_unless_throwaway(a_kubeconfig(context, server), "/home/me/config")
    message = str(refusal.value)
    assert context in message
    assert server in message
    assert "/home/me/config" in message
    assert "unset KUBECONFIG" in message


@pytest.mark.parametrize(
    ("environment", "chosen"),
    [
        ({}, None),
        ({"KUBECONFIG": ""}, None),
        ({"KUBECONFIG": "/a"}, "/a"),
        ({"HOOP_LOCAL_KUBECONFIG": "/b"}, "/b"),
        ({"KUBECONFIG": "/a", "HOOP_LOCAL_KUBECONFIG": "/b"}, "/b"),
    ],
)
def test_the_user_chooses_a_cluster_by_either_variable(
    environment: dict[str, str], chosen: str | None
) -> None:
    assert kubeconfig.chosen_by_user(environment) == chosen


def test_a_token_kubeconfig_keeps_the_cluster_and_nothing_of_the_admin() -> None:
    admin = a_kubeconfig("kind-hoop", "https://127.0.0.1:41233")
    config = kubeconfig.with_token(admin, "secret-token")
    assert config["clusters"][0]["cluster"] == {"server": "https://127.0.0.1:41233"}
    assert [user["user"] for user in config["users"]] == [{"token": "secret-token"}]
