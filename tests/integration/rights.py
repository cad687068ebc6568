"""Rights in the cluster that a test gives or takes."""

import time
from collections.abc import Callable

from integration.tenant import PATIENCE_SECONDS, POLL_SECONDS


def until_in_force(holds: Callable[[], bool]) -> None:
    """Wait for the API server to act on rights, or a policy, that were changed just now."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "what was changed is not in force"
        time.sleep(POLL_SECONDS)
