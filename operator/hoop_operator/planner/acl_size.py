"""How many grantees fit into an ACL, which PostgreSQL keeps in one row of a catalog."""

from hoop_operator.planner.model import CrowdedAcl

ENTRIES_KEPT_FREE = 500
"""Room that stays in a crowded ACL, for all the plans of a turn are planned against the same look."""

GRANTEE_LIMIT_REMEDY = (
    "grant the privileges once to a group role (NOLOGIN), and give every login a plan of type external with that role "
    "as its spec.sourceRole"
)


def is_full(acl: CrowdedAcl) -> bool:
    """Whether an ACL takes no further grantee."""
    return acl.entries + ENTRIES_KEPT_FREE > acl.capacity


def full_acl_message(what: str, acl: CrowdedAcl) -> str:
    """In words, that an object has as many grantees as it can have, with the remedy."""
    return (
        f"{what} has {acl.entries} grantees already, and about {acl.capacity} are the limit, for PostgreSQL keeps them "
        f"all in one row (some room stays free for plans that are applied at the same time); {GRANTEE_LIMIT_REMEDY}"
    )
