"""Plans whose roles have to be given what another plan's role may create from now on."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress

from hoop_operator.crd import Privilege
from hoop_operator.credentials.connection import Endpoint
from hoop_operator.planner.scopes import Scope, parse_scope
from hoop_operator.reconcile.memory import Memory
from hoop_operator.reconcile.objects import Key, Plan
from hoop_operator.reconcile.run import Run


def neighbours_of_creators(memory: Memory, endpoint: Endpoint, runs: Sequence[Run]) -> Iterator[Key]:
    """The plans of a server that share a schema with a role that came to be able to create objects there.

    Parameters
    ----------
    memory
        All plans that are known.
    endpoint
        The server on which the runs were made.
    runs
        What was done there.
    """
    creators: dict[Scope, set[Key]] = defaultdict(set)
    for run in runs:
        if run.done and Privilege.CREATE in run.plan.spec.privileges:
            for scope in _scopes(run.plan):
                creators[scope].add(run.plan.key)
    if not creators:
        return
    for resource in memory.resources_at(endpoint):
        for plan in memory.plans_of(resource):
            if {key for scope in _scopes(plan) for key in creators.get(scope, ())} - {plan.key}:
                yield plan.key


def _scopes(plan: Plan) -> Iterator[Scope]:
    """The scopes of a plan as far as they can be read."""
    for text in plan.spec.scopes:
        with suppress(ValueError):
            yield parse_scope(text)
