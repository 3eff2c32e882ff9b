"""What the site needs of files that lie outside `docs/`: pages link to them as they do in the repository.

A link to `../benchmarks/results/x.csv` works where a page is read as a file. For the site each such file is copied in
beside the pages, under the same path, and the link loses its `../`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()((?:\.\./)+[^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of their folder; Markdown files become pages, with their own such links."""
    pending = [page for page in files.documentation_pages() if page.src_uri.endswith(".md")]
    while pending:
        page = pending.pop()
        for target in _outside(page):
            if files.get_file_from_path(target) is None:
                added = File.generated(config, target, abs_src_path=str(ROOT / target))
                added.inclusion = InclusionLevel.NOT_IN_NAV
                files.append(added)
                if target.endswith(".md"):
                    pending.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links out of the folder at the copies."""

    def rewritten(match: re.Match) -> str:
        target = _target(page.file, match[2])
        return match[1] + (posixpath.relpath(target, posixpath.dirname(page.file.src_uri)) if target else match[2])

    return LINK.sub(rewritten, markdown)


def _outside(page: File) -> list[str]:
    targets = [_target(page, link) for link in (match[2] for match in LINK.finditer(page.content_string))]
    return [target for target in targets if target is not None]


def _target(page: File, link: str) -> str | None:
    """Path from the repository's root of a link that leaves `docs/`; None of one that stays."""
    folder = posixpath.dirname(page.src_uri)
    inside = (ROOT / "docs" / page.src_uri).exists()
    path = posixpath.normpath(posixpath.join("docs" if inside else "", folder, link))
    return None if path.startswith("docs/") else path
