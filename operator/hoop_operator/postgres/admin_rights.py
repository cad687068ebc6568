"""What an admin may do about a role or an object, as expressions for the queries of the snapshots.

Those about roles are about the admin `a`, a role `r` and a membership `m`, and the others about an object `c`, as the
query around them names these.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import LiteralString

from hoop_operator.planner.model import ObjectKind

MAY_GRANT_BEFORE_16: LiteralString = """
       a.rolcreaterole OR pg_catalog.pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION')
"""
"""Whether the admin may grant and revoke membership in a role that is no superuser."""

MAY_GRANT: LiteralString = """
       EXISTS (SELECT FROM pg_catalog.pg_auth_members AS h
                WHERE h.roleid = r.oid AND h.admin_option AND pg_catalog.pg_has_role(h.member, 'USAGE'))
"""
"""The ADMIN option of a group whose rights the admin does not inherit lets it alter the role, and grant nothing."""

MAY_REVOKE: LiteralString = """
       pg_catalog.pg_has_role(m.roleid, 'MEMBER WITH ADMIN OPTION') AND pg_catalog.pg_has_role(m.grantor, 'USAGE')
"""
"""From version 16 on a membership is revoked as its grantor, whose rights the admin needs."""

MAY_ASSUME: LiteralString = """
       pg_catalog.pg_has_role(
           r.oid,
           CASE WHEN pg_catalog.current_setting('server_version_num')::pg_catalog.int4 < 160000 THEN 'MEMBER'
                ELSE 'SET' END)
"""
"""Whether SET ROLE is open to the admin: from version 16 on that is an option of each membership."""

CONTESTED: LiteralString = """
       pg_catalog.pg_has_role(c.owner, 'USAGE')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_roles AS r
                        WHERE r.rolname = current_user AND (r.rolsuper OR r.oid = c.owner))
       AND EXISTS (SELECT FROM pg_catalog.unnest(c.acl) AS i (item), LATERAL pg_catalog.aclexplode(ARRAY[i.item]) AS a
                    WHERE a.is_grantable AND a.grantee NOT IN (0, c.owner)
                      AND pg_catalog.pg_has_role(a.grantee, 'USAGE'))
"""
"""Whether the admin is not the owner, and has the owner's rights as well as grant options by another way."""


def contested_objects(found: Iterable[tuple[str, Iterable[int]]]) -> dict[ObjectKind, frozenset[int]]:
    """Return the OIDs of the objects that `CONTESTED` holds for, by their kind."""
    by_kind: dict[ObjectKind, set[int]] = defaultdict(set)
    for kind, oids in found:
        by_kind[ObjectKind(kind)].update(oids)
    return {kind: frozenset(oids) for kind, oids in by_kind.items()}
