"""Hatch's hook: README.md as the package's page shows it, where no file of the repository lies beside it.

Relative links and pictures lead to `Repository` of [project.urls] in pyproject.toml, once that is there. Until then a
link is its text, and a picture says where it lies.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: A picture or a link, what is shown of it, and where it leads. Links within the page, and whole URLs, are left alone.
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


class CustomMetadataHook(MetadataHookInterface):
    """Sets `readme`, which pyproject.toml calls dynamic."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put the page into the metadata."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository", "")
        metadata["readme"] = {"content-type": "text/markdown", "text": for_the_package(text, repository.rstrip("/"))}


def for_the_package(text: str, repository: str) -> str:
    """Return README.md's text with links that need no file beside it."""

    def absolute(found: re.Match[str]) -> str:
        picture, shown, target = found.groups()
        if repository:
            return f"{picture}[{shown}]({repository}/{'raw' if picture else 'blob'}/HEAD/{target})"
        return f"*(In the repository, as {target}: {shown}.)*" if picture else shown

    return LINK.sub(absolute, text)
