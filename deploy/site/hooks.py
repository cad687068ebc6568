"""What the site has beside the pages of `docs/`: files elsewhere in the checkout that they link to, and mermaid.

Pages link to each other as they do in the checkout, so that they can be read there. On the site `docs/` is the root,
and every other file that is linked to has its path in the checkout.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from local.mermaid import mermaid

CHECKOUT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()(?!#|https?:)(?P<path>[^)#\s]+)")
MERMAID = "assets/mermaid.js"
RENAMED = {
    "README.md": "readme.md",  # by its own name it would be the start of the site
    "SECURITY.md": "security-policy.md",  # where case is not told apart it would be docs/security.md
}
"""By the path in the checkout: the path on the site."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Have every page load our mermaid, in place of the one that the theme would take from elsewhere."""
    config.extra_javascript.append(MERMAID)
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add mermaid, and all that is linked to outside of `docs/`, followed from page to page."""
    files.append(File.generated(config, MERMAID, abs_src_path=str(mermaid())))
    unread = [f"docs/{file.src_uri}" for file in files.documentation_pages()]
    while unread:
        page = unread.pop()
        for match in LINK.finditer((CHECKOUT / page).read_text(encoding="utf-8")):
            target = _target(match["path"], page)
            if files.get_file_from_path(_on_site(target)) is None and (CHECKOUT / target).is_file():
                files.append(_outside(config, target))
                if target.endswith(".md"):
                    unread.append(target)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Turn links that hold in the checkout into links that hold on the site."""
    source = os.path.relpath(page.file.abs_src_path or "", CHECKOUT)
    directory = posixpath.dirname(page.file.src_uri)
    return LINK.sub(
        lambda match: posixpath.relpath(_on_site(_target(match["path"], source)), directory or "."), markdown
    )


def _target(link: str, page: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def _on_site(path: str) -> str:
    return RENAMED.get(path, path.removeprefix("docs/"))


def _outside(config: MkDocsConfig, path: str) -> File:
    file = File.generated(config, _on_site(path), abs_src_path=str(CHECKOUT / path))
    file.inclusion = InclusionLevel.NOT_IN_NAV
    return file
