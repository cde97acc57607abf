"""Reports: the single truth, sealed; and the views that are made from it."""

import json
from datetime import date
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refgss.conformance import page, protocol, spec_folder, waivers
from refgss.conformance.badge import badge
from refgss.conformance.candidates import Capabilities
from refgss.conformance.clauses import read_clauses
from refgss.conformance.junit import junit
from refgss.conformance.report import (
    DamagedReportError,
    by_clause,
    close,
    header,
    must_clauses,
    read,
    write,
)
from refgss.conformance.vectors import VectorSet

CLAUSES = read_clauses(spec_folder())
ABOUT = Capabilities("my <gss> & co", "1.0", ("gelu",), ("f32",))
HEAD = header("python:my_gss", ABOUT, ["f32"], VectorSet("2026-11-23", "0" * 64, ()), 7)


def case(id="gelu/one", outcome="pass", **more):
    line = {"type": "case", "id": id, "op": "gelu", "precision": "f32"}
    line |= {"clauses": ["GSS-NRM-3"], "outcome": outcome, "seconds": 0.001}
    return line | more


def report(*cases):
    return close(HEAD, cases)


def test_what_is_written_is_what_is_read(tmp_path):
    found = report(case(), case("gelu/two", "wrong value", ratio="inf", detail="Λ\u2028\n"))
    write(found, tmp_path / "r")
    again = read(tmp_path / "r")
    assert (again.header, list(again.cases), again.footer) == (HEAD, [*found.cases], found.footer)


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        (["pass"], "conforms"),
        (["pass", "not claimed", "waived"], "conforms"),
        (["not claimed"], "does not conform"),
        (["waived"], "does not conform"),
        ([], "does not conform"),
        (["pass", "crashed"], "does not conform"),
        (["pass", "wrong on fresh input"], "does not conform"),
        (["wrong value", "garbage"], "broke the protocol"),
        (["pass", "out of order"], "broke the protocol"),
    ],
)
def test_verdicts(outcomes, verdict):
    assert report(*(case(f"gelu/{i}", o) for i, o in enumerate(outcomes))).verdict == verdict


def test_every_edit_and_every_truncation_is_noticed(tmp_path):
    write(report(case(), case("gelu/two", "wrong value", ratio=12.5)), tmp_path / "r")
    content = (tmp_path / "r").read_bytes()
    edits = [
        content.replace(b"12.5", b"0.5"),
        content.replace(b'"wrong value", "sec', b'"pass", "sec'),
        content.replace(b'"does not conform"', b'"conforms"'),
        content.replace(b'"seed": 7', b'"seed": 8'),
        b"".join(content.splitlines(keepends=True)[:-1]),
        b"".join(content.splitlines(keepends=True)[::2]),
        content + content,
        content[:-40],
        content.replace(b"\n", b"\n\n"),
        b"",
        b"\xff\xfe",
        b"[" * 100000,
        b'{"type": "footer"}\n',
        b"7\n",
    ]
    for edited in edits:
        assert edited != content
        (tmp_path / "r").write_bytes(edited)
        with pytest.raises(DamagedReportError):
            read(tmp_path / "r")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_fuzzed_report_is_refused_or_is_the_report(tmp_path, data):
    write(report(case(), case("gelu/two", "raised", detail="no")), tmp_path / "r")
    content = bytearray((tmp_path / "r").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        i = data.draw(st.integers(0, len(content) - 1))
        length = data.draw(st.integers(0, 20))
        content[i : i + length] = data.draw(st.binary(max_size=20))
    original = (tmp_path / "r").read_bytes()
    (tmp_path / "f").write_bytes(content)
    try:
        found = read(tmp_path / "f")
    except DamagedReportError:
        return
    assert bytes(content) == original and found.footer["counts"] == {"pass": 1, "raised": 1}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
messages = st.fixed_dictionaries(
    {"type": st.sampled_from(["hello", "capabilities", "case", "done", "error", "unclaimed"])},
    optional={
        "case": json_values | st.integers(1, 9),
        "protocol": json_values | st.just(1),
        "message": json_values | st.text(min_size=1),
        "ops": json_values | st.lists(st.text(min_size=1)),
        "name": json_values,
    },
)


@given(st.binary() | messages.map(lambda m: json.dumps(m).encode()))
def test_a_fuzzed_message_is_refused_or_fits_the_schema(line):
    try:
        message = protocol.decode(line)
    except protocol.ProtocolError as e:
        assert "\n" not in str(e)
        return
    assert protocol.decode(protocol.encode(message)) == message


@given(st.binary() | json_values.map(lambda v: json.dumps(v).encode()))
def test_fuzzed_waivers_are_refused_or_fit_the_schema(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "waivers"
    file.write_bytes(content)
    try:
        assert isinstance(waivers.read(file), list)
    except ValueError as e:
        assert str(e)


def waiver(id="gelu/two", expires="2030-01-01"):
    return waivers.Waiver(id, "known", "https://example.org/1", expires)


def test_waivers():
    cases = [case(), case("gelu/two", "wrong value")]
    today = date(2026, 11, 23)
    waived, stale = waivers.apply([waiver()], cases, today)
    assert not stale and [c["outcome"] for c in waived] == ["pass", "waived"]
    assert waived[1]["reason"] == "known (https://example.org/1)"
    assert report(*waived).verdict == "conforms"
    waived, stale = waivers.apply([waiver(expires="2026-11-22")], cases, today)
    assert "expired" in stale[0] and waived == cases
    waived, stale = waivers.apply([waiver("gelu/one")], cases, today)
    assert "nothing left to waive" in stale[0] and waived == cases
    _, stale = waivers.apply([waiver("dense/not-run")], cases, today)
    assert not stale


def test_unclaimed_counts_as_not_passed():
    found = report(case(), case("gelu/two", "not claimed", clauses=["GSS-NRM-1"]))
    passed, total = must_clauses(found, CLAUSES)
    assert passed == 1
    assert total == sum(c.level == "MUST" and c.judged_by_vectors for c in CLAUSES.values())
    assert f"1/{total} clauses" in badge(found, CLAUSES)


def test_a_clause_fails_if_one_of_its_cases_does():
    found = by_clause([case(), case("gelu/two", "wrong value", ratio=3.0), case("gelu/three")])
    assert found["GSS-NRM-3"].outcome == "failed"
    assert found["GSS-NRM-3"].worst["id"] == "gelu/two"


NASTY = case("gelu/two", "raised", detail="</script><b>\x00\x1b[31m ]]> & 'quoted' \U0001f600")


def test_junit_holds_every_case_and_any_text():
    root = ET.fromstring(junit([report(case(), NASTY, case("gelu/x", "not claimed"))]).encode())
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert suite.get("name") == "my <gss> & co 1.0"
    assert len(suite.findall("testcase/failure")) == 1


def test_the_page_holds_the_reports_and_no_markup_of_theirs():
    found = report(case(), NASTY)
    text = page.html([found], CLAUSES)
    start = text.index('id="data">') + len('id="data">')
    data = json.loads(text[start : text.index("</script>", start)])
    assert data["reports"][0]["cases"] == [case(), NASTY]
    assert [c["id"] for c in data["clauses"]] == [
        c.id for c in CLAUSES.values() if c.judged_by_vectors and c.level == "MUST"
    ]
    assert "http://" not in text and "https://" not in text


def test_the_badge_is_xml_and_escapes():
    root = ET.fromstring(badge(report(case()), CLAUSES))
    assert root.tag.endswith("svg") and "my <gss> & co" in root[0].text
