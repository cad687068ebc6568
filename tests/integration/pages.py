"""The pages of the documentation, and the blocks in them that somebody may copy."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import SkipTest

from sybil import Document
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from local.stack import CHECKOUT

PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("deploy/*/README.md")])


def name_of(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


class Block(NamedTuple):
    line: int
    language: str
    text: str
    why_not: str
    """Why it is not run; empty where it is."""


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page that a shell or the API server understands."""
    parsers = [CodeBlockParser(language, lambda _: None) for language in ("sh", "yaml")]
    for example in Document.parse(str(page), *parsers, SkipParser()).examples():
        why_not = ""
        try:
            example.evaluate()
        except SkipTest as skipped:
            why_not = str(skipped)
        if language := example.region.lexemes.get("arguments"):  # the parser's name for it; a skip has none
            yield Block(example.line, language, example.parsed, why_not)
