"""What the Dockerfile says, for tests that try it without a container engine."""

import json
import re
import shlex

from local.stack import CHECKOUT

TEXT = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8")
STAGES = re.split(r"^FROM ", re.sub(r"^#.*\n", "", TEXT.replace("\\\n", ""), flags=re.MULTILINE), flags=re.M)[
    1:
]
BUILD, IMAGE = STAGES


def instructions(stage: str, name: str) -> list[str]:
    """What stands behind every instruction of a name in a stage."""
    return re.findall(rf"^{name}\s+(.+)$", stage, re.MULTILINE)


def only(stage: str, name: str) -> str:
    """What stands behind the only instruction of a name in a stage."""
    (text,) = instructions(stage, name)
    return str(text)


def environment() -> dict[str, str]:
    """The variables that the image sets."""
    return dict(pair.split("=", 1) for line in instructions(IMAGE, "ENV") for pair in shlex.split(line))


def command() -> list[str]:
    """What a container runs when it is not told otherwise."""
    return [*json.loads(only(IMAGE, "ENTRYPOINT")), *json.loads(only(IMAGE, "CMD"))]


def health_check() -> list[str]:
    """What a container engine runs to ask whether the container is healthy."""
    words: list[str] = json.loads(only(IMAGE, "HEALTHCHECK").partition("CMD ")[2])
    return words


def lay_out(interpreter: str, arch: str, directory: str) -> list[str]:
    """The command that makes what the image adds to its base, elsewhere and for an architecture."""
    words = {"python": interpreter, "$TARGETARCH": arch, "/out": directory}
    return [words.get(word, word) for word in shlex.split(only(BUILD, "RUN"))]
