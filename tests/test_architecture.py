"""docs/architecture.md names files that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_file_that_it_names_exists():
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    named = set(re.findall(r"`([\w/]+\.(?:py|cpp|md))`", text))
    folders = ("refgss", "csrc", "spec", "benchmarks")
    files = [f"/{p.relative_to(ROOT)}" for folder in folders for p in (ROOT / folder).rglob("*.*")]
    assert len(named) > 25
    lost = {name for name in named if not any(file.endswith(f"/{name}") for file in files)}
    assert lost <= {"spec/NN-name.md", "NN-name.md"}, lost
