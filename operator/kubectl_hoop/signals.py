"""How the plugin takes signals: the files that it has written for a while go with it, whatever it does just then."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""What ends a program from outside, as a terminal does that is closed."""

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def handling(signum: signal.Signals, handler: Handler | signal.Handlers) -> Iterator[None]:
    """Handle a signal so for a while; a program that is started meanwhile handles it as it always does."""
    before = signal.signal(signum, handler)
    try:
        yield
    finally:
        signal.signal(signum, before)


@contextmanager
def when_told_to_end(handler: Handler) -> Iterator[None]:
    """Handle each signal that ends a program so for a while. What is ignored, as by nohup, stays so."""
    with ExitStack() as handlers:
        for signum in ENDING:
            if signal.getsignal(signum) is not signal.SIG_IGN:
                handlers.enter_context(handling(signum, handler))
        yield


@contextmanager
def heard_at_once(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Have a loop see to what ends the program as soon as it comes, in the moment before a long wait, too."""
    with ExitStack() as handlers:
        for signum in ENDING:
            handler = signal.getsignal(signum)
            if callable(handler):
                loop.add_signal_handler(signum, handler, signum, None)
                handlers.callback(signal.signal, signum, handler)
                handlers.callback(loop.remove_signal_handler, signum)
        yield


@contextmanager
def leaving_no_files() -> Iterator[None]:
    """Have all temporary files in a directory of the person's alone that goes with the program, also by a signal.

    The loader of kubeconfigs has the person's private key in a file for a moment, and libpq reads keys from files.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="kubectl-hoop-") as directory:

        def end(signum: int, _frame: FrameType | None) -> None:
            shutil.rmtree(directory, ignore_errors=True)
            # Not an exception, which whatever runs just now may hold up or lose, and no core with the key in it.
            os._exit(128 + signum)

        tempfile.tempdir = directory
        try:
            with when_told_to_end(end):
                yield
        finally:
            tempfile.tempdir = before
