"""What mkdocs.yml needs beside Markdown: README as the first page, the chapters of spec/, anchors.

Nothing is written twice: the README, the standard and the pages of docs/ are the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
CLAUSE = re.compile(r"^\*\*(GSS-[A-Z]+-\d+)\*\* \((MUST|SHOULD|MAY)\)", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")
SHOWN = {"README.md": "index.md"}  # where a file of the repository stands on the site


def on_files(files: Files, config: Any) -> Files:
    """Add the chapters, as spec/NAME.md."""
    for path in sorted((ROOT / "spec").glob("*.md")):
        files.append(File.generated(config, f"spec/{path.name}", content=path.read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """The README for the first page; links between files of the repository as links of the site."""
    here = page.file.src_uri
    at = here if here.startswith("spec/") else f"docs/{here}"
    if here == "index.md":
        markdown, at = (ROOT / "README.md").read_text("utf-8"), "README.md"

    def link(found: re.Match[str]) -> str:
        text, path, anchor = found[1], found[2], found[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(at), path))
        shown = SHOWN.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(shown) is None:  # of the repository, and not of the site
            return text
        return f"[{text}]({posixpath.relpath(shown, posixpath.dirname(here) or '.')}{anchor})"

    markdown = LINK.sub(link, markdown)
    return CLAUSE.sub(r'<a id="\1"></a>**\1** (\2)', markdown)
