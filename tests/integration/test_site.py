"""The site that is made of the documentation is whole, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from local.stack import CHECKOUT

pytestmark = pytest.mark.version_independent

LOADED = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?P<address>[^"]+)"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    subprocess.run(  # noqa: S603 -- our own site
        [Path(sysconfig.get_path("scripts")) / "mkdocs", "build", "--site-dir", directory],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": "deploy", "NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )
    return directory


def test_a_page_loads_what_the_site_has_and_nothing_else(site: Path) -> None:
    pages = [*site.rglob("index.html")]
    assert len(pages) > len([*CHECKOUT.glob("docs/*.md")])
    for page in pages:
        for match in LOADED.finditer(page.read_text(encoding="utf-8")):
            target = (page.parent / match["address"].partition("#")[0]).resolve()
            assert target.exists(), f"{page.relative_to(site)}: {match['address']}"
            assert target.is_relative_to(site), match["address"]


def test_diagrams_are_drawn_by_the_sites_own_mermaid(site: Path) -> None:
    page = (site / "design/index.html").read_text(encoding="utf-8")
    assert '<pre class="mermaid">' in page
    assert '<script src="../assets/mermaid.js">' in page
    assert 'globalThis["mermaid"]' in (site / "assets/mermaid.js").read_text(encoding="utf-8")


def test_files_of_the_checkout_that_pages_link_to_are_on_the_site(site: Path) -> None:
    for path in ("CONTRIBUTING/index.html", "deploy/samples/my-postgres.yaml", "LICENSE"):
        assert (site / path).exists(), path
