"""Which existing role may become a plan's, and where adoption is offered as the remedy."""

from typing import Any

import pytest

from hoop_operator.errors import PlanReason
from hoop_operator.planner.adoption import conflict, role_to_take_over
from hoop_operator.planner.model import Adoption, Identity
from hoop_operator.planner.plan import plan_role
from unit.planning import ROLE, desired, role, server

UNCLAIMED = Adoption()
OLD = Identity("default", "shop", "old")
SUCCESSOR = Adoption(predecessor=OLD)
BLUE = Identity("blue", "shop", "old")


@pytest.mark.parametrize(
    ("adoption", "found", "words"),
    [
        (UNCLAIMED, {"comment": None, "superuser": True}, "it is a superuser"),
        (UNCLAIMED, {"comment": None, "supports_admin": True}, "depends on it"),
        (UNCLAIMED, {"comment": OLD.comment}, "belongs to the plan default/shop/old"),
        (UNCLAIMED, {"comment": BLUE.comment}, "belongs to the plan blue/shop/old"),
        (UNCLAIMED, {"comment": f" {OLD.comment}"}, "almost that of a plan"),
        (UNCLAIMED, {"comment": "Hoop.dev/role-plan:default/shop/old"}, "almost that of a plan"),
        (SUCCESSOR, {"comment": None}, "not created by this operator"),
        (SUCCESSOR, {"comment": BLUE.comment}, "belongs to the plan blue/shop/old"),
        (SUCCESSOR, {"comment": f"{OLD.comment}er"}, "belongs to the plan default/shop/older"),
        (SUCCESSOR, {"comment": OLD.comment, "superuser": True}, "it is a superuser"),
        (Adoption(OLD, "it still exists"), {"comment": OLD.comment}, "it still exists"),
        (None, {"comment": OLD.comment}, "belongs to the plan default/shop/old"),
        (None, {"comment": None}, "not created by this operator"),
    ],
)
def test_a_role_that_is_not_to_be_had_stays_untouched_and_it_is_said_why(
    adoption: Adoption | None, found: dict[str, Any], words: str
) -> None:
    asked = desired(["db"], ["SELECT"], adoption=adoption)
    planned = plan_role(asked, server(roles=[role(**found)]), {})
    assert planned.statements == ()
    assert planned.takes_over is None
    assert planned.problems[0][0] is PlanReason.ROLE_CONFLICT
    assert words in planned.problems[0][1]


def test_the_admin_itself_is_not_to_be_had() -> None:
    asked = desired(adoption=UNCLAIMED)
    assert "the admin itself" in (conflict(asked, server(roles=[role(comment=None)], admin=ROLE)) or "")


@pytest.mark.parametrize(
    ("adoption", "comment"),
    [(UNCLAIMED, None), (UNCLAIMED, "of the reporting team"), (SUCCESSOR, OLD.comment)],
)
def test_a_role_that_is_to_be_had_gets_the_comment_first_and_loses_what_a_plan_does_not_give(
    adoption: Adoption, comment: str | None
) -> None:
    found = role(comment=comment, login=False, createdb=True, replication=True)
    planned = plan_role(desired(adoption=adoption), server(roles=[found]), {})
    assert planned.problems == ()
    assert planned.takes_over == found
    assert [statement.text for statement in planned.statements] == [
        f"COMMENT ON ROLE \"{ROLE}\" IS 'hoop.dev/role-plan: default/shop/reader'",
        f'ALTER ROLE "{ROLE}" LOGIN',
        f'ALTER ROLE "{ROLE}" NOCREATEDB NOREPLICATION',
    ]


def test_a_role_is_taken_over_with_all_that_the_plan_asks_or_left_as_it_is() -> None:
    found = role(comment=None, createdb=True)
    planned = plan_role(desired(["gone"], ["SELECT"], adoption=UNCLAIMED), server(roles=[found]), {})
    assert [reason for reason, _ in planned.problems] == [PlanReason.DATABASE_NOT_FOUND]
    assert planned.statements == ()


def test_an_own_role_is_not_taken_over() -> None:
    for adoption in (UNCLAIMED, SUCCESSOR):
        assert role_to_take_over(desired(adoption=adoption), server(roles=[role()])) is None
    lost = role(comment=None, oid=7)
    assert role_to_take_over(desired(adoption=UNCLAIMED, known_oid=7), server(roles=[lost])) is None


@pytest.mark.parametrize(
    ("found", "remedy"),
    [
        ({"comment": None}, 'hoop.dev/adopt: "true"'),
        ({"comment": OLD.comment}, "hoop.dev/adopt: shop/old"),
        ({"comment": BLUE.comment}, None),
        ({"comment": f"{OLD.comment} "}, None),
        ({"comment": f"{OLD.comment}/er"}, None),
        ({"comment": None, "superuser": True}, None),
        ({"comment": None, "supports_admin": True}, None),
        ({"comment": OLD.comment, "superuser": True}, None),
        ({"comment": " hoop.dev/role-plan"}, None),
    ],
)
def test_adoption_is_offered_where_it_would_help(found: dict[str, Any], remedy: str | None) -> None:
    said = conflict(desired(), server(roles=[role(**found)])) or ""
    assert "choose another spec.role" in said
    assert (remedy in said) if remedy else ("adopt" not in said)


def test_an_administrator_is_asked_to_let_the_admin_administer_an_adopted_role_and_no_more() -> None:
    limited = server(
        roles=[role(comment=None, admin_option=False)],
        admin="clerk",
        admin_is_superuser=False,
        version=160000,
    )
    planned = plan_role(desired(adoption=UNCLAIMED), limited, {})
    (reason, message), *_ = planned.problems
    assert reason is PlanReason.INSUFFICIENT_PRIVILEGE
    assert message.endswith(f'GRANT "{ROLE}" TO "clerk" WITH ADMIN OPTION, INHERIT FALSE, SET FALSE;')
