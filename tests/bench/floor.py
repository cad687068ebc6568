"""The least that a run could cost: the same writes by plain clients that look at nothing and decide nothing."""

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import psycopg

from bench.client import AT_ONCE, JSON_PATCH, MERGE_PATCH, Client
from bench.measure import Query
from hoop_operator.postgres import scram
from local.postgresql import Server

FINALIZER = "hoop.dev/operator"
VERIFIER = scram.make_verifier("what it stands for does not matter")
REDACTED = re.compile(r"'\*+'")
DATABASE_NOTE = re.compile(r"^/\* .*? \*/ ")


@dataclass(frozen=True)
class Written:
    """What the operator wrote for a number of plans."""

    database: str
    plans: Sequence[Mapping[str, Any]]
    secrets: Sequence[Mapping[str, Any]]
    transactions: Sequence[Sequence[str]]
    """Each with its queries, from BEGIN to COMMIT, merged as the operator merges."""

    def one_by_one(self) -> list[list[str]]:
        """The same effect without merging: a transaction per plan, a query per statement."""
        transactions = []
        for plan in self.plans:
            texts = [DATABASE_NOTE.sub("", text) for text in plan["status"]["plan"]["statements"]]
            transactions.append(["BEGIN", *(REDACTED.sub(f"'{VERIFIER}'", text) for text in texts), "COMMIT"])
        return transactions


def write_transactions(log: Iterable[Query]) -> list[list[str]]:
    """The transactions of PostgreSQL's log that were opened to write and committed, in the order of their commits.

    What they read is left out.
    """
    transactions: list[list[str]] = []
    open_: dict[int, list[str]] = defaultdict(list)
    for query in log:
        if query.text.startswith("BEGIN"):
            open_.pop(query.pid, None)
            if "READ WRITE" not in query.text:
                continue
        elif query.pid not in open_ or query.text.lstrip().startswith("SELECT"):
            continue
        open_[query.pid].append(query.text)
        if query.text == "COMMIT":
            transactions.append(open_.pop(query.pid))
    return transactions


async def send_sql(
    server: Server, written: Written, transactions: Iterable[Sequence[str]], database: str
) -> None:
    """Run transactions on one connection, for roles and a database of other names."""

    def renamed(text: str) -> str:
        return text.replace(f'"{written.database}"', f'"{database}"').replace(
            f"hoopdev_{written.database}_", f"hoopdev_{database}_"
        )

    async with await psycopg.AsyncConnection.connect(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        dbname=database,
        autocommit=True,
    ) as connection:
        for transaction in transactions:
            for query in transaction:
                await connection.execute(renamed(query).encode())


async def send_api_writes(admin: Client, operator: Client, written: Written, namespace: str) -> None:
    """Create the plans in another namespace, and make for each the three writes that the operator makes."""
    slots = asyncio.Semaphore(AT_ONCE)
    plans_path = f"/apis/hoop.dev/v1alpha1/namespaces/{namespace}/hooproleplans"

    async def write(plan: Mapping[str, Any], secret: Mapping[str, Any]) -> None:
        name = plan["metadata"]["name"]
        new = {key: plan[key] for key in ("apiVersion", "kind", "spec")}
        async with slots:
            created = await admin.create(plans_path, {**new, "metadata": {"name": name}})
        finalizer = {"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}
        async with slots:
            await operator.patch(f"{plans_path}/{name}", [finalizer], JSON_PATCH)
        credentials = _for_other_owner(secret, created)
        async with slots:
            await operator.create(f"/api/v1/namespaces/{namespace}/secrets", credentials)
        async with slots:
            await operator.patch(f"{plans_path}/{name}/status", {"status": plan["status"]}, MERGE_PATCH)

    await asyncio.gather(*map(write, written.plans, written.secrets))


def _for_other_owner(secret: Mapping[str, Any], owner: Mapping[str, Any]) -> dict[str, Any]:
    metadata = deepcopy(
        {key: secret["metadata"][key] for key in ("name", "labels", "annotations", "ownerReferences")}
    )
    metadata["ownerReferences"][0]["uid"] = owner["metadata"]["uid"]  # or the garbage collector takes it away
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        **{k: secret[k] for k in ("type", "data")},
    }
