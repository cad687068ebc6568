"""How the plugin takes signals: all that it has open or has written for a while goes with it."""

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What ends a program from outside, as a terminal does that is closed."""

AGAIN_SECONDS = 5.0


@contextmanager
def handling(
    signum: signal.Signals, handler: Callable[[int, FrameType | None], object] | signal.Handlers
) -> Iterator[None]:
    """Handle a signal so for a while; a program that is started meanwhile handles it as it always does."""
    before = signal.signal(signum, handler)
    try:
        yield
    finally:
        signal.signal(signum, before)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Make of signals that end a program an exit, before which all that is open is closed and its files go.

    The loader of kubeconfigs has the person's private key in a file until the interpreter ends. What is ignored, as
    by nohup, stays so.
    """
    with ExitStack() as handlers:
        for signum in ENDING:
            if signal.getsignal(signum) is signal.SIG_DFL:
                handlers.enter_context(handling(signum, _end))
        yield


def _end(signum: int, _frame: FrameType | None) -> None:
    # What is raised within a destructor is lost, and what is being closed may not end: then it is raised again.
    signal.signal(signal.SIGALRM, lambda _, frame: _end(signum, frame))
    signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
    raise SystemExit(128 + signum)
