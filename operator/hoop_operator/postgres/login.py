"""One attempt to log in, in a process of its own.

How long a login computes is up to the role: it may store a verifier of two billion iterations for itself, and libpq
does not stop while it computes. So this is a script. It reads libpq's parameters as JSON, so that no password is in the
process list, and writes what kept the session from being opened; nothing means that it was open. A login that computes
for longer than a second is ended by the signal SIGXCPU.
"""

import json
import math
import resource
import sys

import psycopg

CPU_SECONDS = 1


def main() -> None:
    """Log in and out again."""
    parameters = json.load(sys.stdin)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(usage.ru_utime + usage.ru_stime) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    try:
        psycopg.connect(**parameters).close()
    except psycopg.Error as error:
        sys.stdout.write(str(error))


if __name__ == "__main__":
    main()
