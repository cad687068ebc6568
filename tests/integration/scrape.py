"""What an operator's /metrics says."""

import asyncio
import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

Series = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(port: int) -> Series:
    """The value of each series by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(await exposition(port))
        for sample in family.samples
    }


async def exposition(port: int) -> str:
    """All that is said, as it is."""
    return await asyncio.to_thread(_exposition, port)


def _exposition(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def series(found: Series, name: str, /, **labels: str) -> dict[frozenset[tuple[str, str]], float]:
    """The series of a name that have all of some labels, by their other labels."""
    wanted = frozenset(labels.items())
    return {
        having - wanted: value
        for (known, having), value in found.items()
        if known == name and having >= wanted
    }
