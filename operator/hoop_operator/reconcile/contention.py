"""Others who change the same catalogs at the same moment: what fails because of them is tried anew, a few times.

Whoever tries anew looks and plans again: part of what failed may have been committed, and what the others did may have
made the rest wrong.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hoop_operator.errors import ServerError, StatementFailed

ATTEMPTS = 6
"""How often something is tried in one run; after that the run fails, and the clock has it made again."""

PAUSE_SECONDS = (0.01, 0.1)
"""Bounds of the pause between two attempts: those who met do not set out at the same moment again."""

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def is_worth_another(failure: ServerError, attempts: int) -> bool:
    """Whether something is to be tried anew, said after the pause before that.

    Parameters
    ----------
    failure
        What the last attempt failed with.
    attempts
        How many were left when it was made, itself included.
    """
    if attempts <= 1 or not isinstance(failure, StatementFailed) or not failure.is_transient:
        return False
    logger.info("Somebody else changes the same, looking again: %s", failure)
    await asyncio.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311 -- not for secrets
    return True


async def persist(attempt: Callable[[], Awaitable[T]]) -> T:
    """Make an attempt, anew as long as that is worth it, and return what the last one does.

    Raises
    ------
    ServerError
        What the last attempt failed with.
    """
    attempts = ATTEMPTS
    while True:
        try:
            return await attempt()
        except StatementFailed as failure:
            if not await is_worth_another(failure, attempts):
                raise
        attempts -= 1
