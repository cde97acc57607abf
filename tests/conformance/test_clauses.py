"""Clauses are found where they are written and where they are named."""

import pytest

from refgss.conformance.clauses import cited, citing_functions, read_clauses
from refgss.standard import SPEC_VERSION, spec_folder


def test_clauses_are_read_in_order(tmp_path):
    (tmp_path / "02-b.md").write_text("**GSS-KER-1** (MAY) B.\n")
    (tmp_path / "01-a.md").write_text(
        "# A\n\n**GSS-CNV-1** (MUST) y = k ∗ u.\n\n> **GSS-CNV-2** (MUST) a quotation.\n"
    )
    (tmp_path / "README.md").write_text("**GSS-XXX-1** (MUST) no chapter.\n")
    found = read_clauses(tmp_path)
    assert list(found) == ["GSS-CNV-1", "GSS-KER-1"]
    assert (found["GSS-CNV-1"].text, found["GSS-CNV-1"].chapter) == ("y = k ∗ u.", "01-a")


def test_an_id_is_defined_once(tmp_path):
    (tmp_path / "01-a.md").write_text("**GSS-CNV-1** (MUST) A.\n\n**GSS-CNV-1** (MUST) B.\n")
    with pytest.raises(ValueError, match="GSS-CNV-1"):
        read_clauses(tmp_path)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("y.  Clauses: GSS-CNV-1.", ["GSS-CNV-1"]),
        ("Clauses: GSS-CNV-1, GSS-KER-2,\n    GSS-KER-3.", ["GSS-CNV-1", "GSS-KER-2", "GSS-KER-3"]),
        ("Clauses: GSS-INI-1..3.  More.", ["GSS-INI-1", "GSS-INI-2", "GSS-INI-3"]),
        ("Clauses: GSS-INI-9..GSS-INI-10, GSS-PAR-1.", ["GSS-INI-9", "GSS-INI-10", "GSS-PAR-1"]),
        ("See GSS-CNV-1.", []),
    ],
)
def test_citations(text, ids):
    assert cited(text) == ids


def test_every_clause_that_a_function_names_exists():
    import refgss

    named = citing_functions(spec_folder().parent / refgss.__name__)
    assert named.keys() <= read_clauses(spec_folder()).keys()


def test_the_version_of_the_standard_is_one():
    readme = (spec_folder() / "README.md").read_text()
    with (spec_folder() / "vectors/index.json").open() as f:
        head = f.readline()
    assert f"| spec | {SPEC_VERSION} |" in readme
    assert f'"refgss {SPEC_VERSION}, GSS-' in readme
    assert f'"spec": "{SPEC_VERSION}"' in head
