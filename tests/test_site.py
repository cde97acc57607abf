"""The documentation site builds without a warning, and every clause has an address on it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from refgss.conformance.clauses import read_clauses
from refgss.standard import spec_folder

ROOT = Path(__file__).parents[1]


def test_the_site_builds_and_clauses_have_addresses(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = "".join(p.read_text("utf-8") for p in tmp_path.rglob("spec/*/index.html"))
    clauses = read_clauses(spec_folder())
    assert len(clauses) > 100
    assert [c for c in clauses if f'id="{c}"' not in pages] == []
    api = (tmp_path / "api" / "index.html").read_text("utf-8")
    assert "refgss.testing.assert_conforms" in api
