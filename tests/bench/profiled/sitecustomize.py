"""Profiles the interpreter that finds this directory on its PYTHONPATH, by samples of the CPU time that it uses.

A sample is taken every few milliseconds of CPU time of the whole process and counted for every function on the main
thread's stack, so nothing is slowed down, and waiting does not count. `HOOP_BENCH_PROFILE` names the file that is
written when the interpreter ends.
"""

import atexit
import os
import signal
from collections import Counter
from pathlib import Path
from types import FrameType

INTERVAL_SECONDS = 0.004
LINES = 60

_inside: Counter[str] = Counter()
_below: Counter[str] = Counter()


def _sample(signum: int, frame: FrameType | None) -> None:
    del signum
    functions = []
    while frame is not None:
        functions.append(f"{frame.f_code.co_filename}:{frame.f_code.co_firstlineno} {frame.f_code.co_name}")
        frame = frame.f_back
    _inside[functions[0]] += 1
    _below.update(set(functions))


def _save() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    total = max(1, _inside.total())
    lines = [f"{total * INTERVAL_SECONDS:.1f} s of CPU time"]
    for title, counts in (("in the function and what it calls", _below), ("in the function itself", _inside)):
        lines += ["", f"Share {title}"]
        lines += [f"{count / total:7.1%}  {name}" for name, count in counts.most_common(LINES)]
    Path(os.environ["HOOP_BENCH_PROFILE"]).write_text("\n".join([*lines, ""]))


signal.signal(signal.SIGPROF, _sample)
signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)
atexit.register(_save)
