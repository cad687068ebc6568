"""Profiles the interpreter that finds this directory on its PYTHONPATH, by the CPU time of its main thread.

`HOOP_BENCH_PROFILE` names the file that the profile is written to when the interpreter ends.
"""

import atexit
import cProfile
import os
import time

_profile = cProfile.Profile(time.thread_time)


def _save() -> None:
    _profile.disable()
    _profile.dump_stats(os.environ["HOOP_BENCH_PROFILE"])


atexit.register(_save)
_profile.enable()
