from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_operator.cluster.namespaces import matches

keys = st.sampled_from(["team", "env", "tier"])
values = st.sampled_from(["a", "b", "c", ""])
labels_of_a_namespace = st.dictionaries(keys, values)


def expressions(operator: str, *values: str) -> dict[str, Any]:
    expression = {"key": "team", "operator": operator} | ({"values": list(values)} if values else {})
    return {"matchExpressions": [expression]}


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ({}, {}, True),
        ({}, {"team": "a"}, True),
        ({"matchLabels": None, "matchExpressions": None}, {"team": "a"}, True),
        ({"matchLabels": {"team": "a"}}, {"team": "a", "env": "x"}, True),
        ({"matchLabels": {"team": "a"}}, {"team": "b"}, False),
        ({"matchLabels": {"team": ""}}, {}, False),
        ({"matchLabels": {"team": "a", "env": "x"}}, {"team": "a"}, False),
        (expressions("In", "a", "b"), {"team": "b"}, True),
        (expressions("In", "a", "b"), {"team": "c"}, False),
        (expressions("In", "a"), {}, False),
        (expressions("NotIn", "a"), {"team": "b"}, True),
        (expressions("NotIn", "a"), {"team": "a"}, False),
        (expressions("NotIn", "a"), {}, True),
        (expressions("Exists"), {"team": ""}, True),
        (expressions("Exists"), {"env": "x"}, False),
        (expressions("DoesNotExist"), {"env": "x"}, True),
        (expressions("DoesNotExist"), {"team": "a"}, False),
        ({"matchLabels": {"env": "x"}} | expressions("In", "a"), {"env": "x", "team": "a"}, True),
        ({"matchLabels": {"env": "x"}} | expressions("In", "a"), {"env": "x", "team": "b"}, False),
        ({"matchLabels": {"env": "x"}} | expressions("In", "a"), {"env": "y", "team": "a"}, False),
    ],
)
def test_selector_reads_as_kubernetes_reads_it(
    selector: dict[str, Any], labels: dict[str, str], expected: bool
) -> None:
    assert matches(selector, labels) is expected


@given(labels=labels_of_a_namespace, listed=st.lists(values, min_size=1))
def test_opposite_operators_never_agree(labels: dict[str, str], listed: list[str]) -> None:
    assert matches(expressions("In", *listed), labels) is not matches(expressions("NotIn", *listed), labels)
    assert matches(expressions("Exists"), labels) is not matches(expressions("DoesNotExist"), labels)


def test_unknown_operator_is_never_taken_for_agreement() -> None:
    with pytest.raises(ValueError, match="Near"):
        matches(expressions("Near", "a"), {"team": "a"})
