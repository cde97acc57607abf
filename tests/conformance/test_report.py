"""Reports: the single truth, sealed; and the views that are made from it."""

import json
from datetime import date
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refgss import schemas
from refgss.cli import run, terminal
from refgss.conformance.candidates import protocol
from refgss.conformance.candidates.claims import Capabilities
from refgss.conformance.clauses import read_clauses
from refgss.conformance.judging import waivers
from refgss.conformance.judging.compare import Outcome
from refgss.conformance.reports import page
from refgss.conformance.reports.badge import badge
from refgss.conformance.reports.junit import junit
from refgss.conformance.reports.report import (
    DamagedReportError,
    by_clause,
    close,
    header,
    must_clauses,
    read,
    write,
)
from refgss.conformance.vectors.format import VectorSet
from refgss.standard import spec_folder

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
        found = waivers.read(file)
    except ValueError as e:
        assert str(e)
        return
    waivers.apply(found, [case()], date(2026, 11, 23))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"expires": "2026-13-45"}, "no day"),
        ({"expires": "2026-11-23\n"}, "no day"),
        ({"id": "gelu/two"}, "waived twice"),
        ({"reason": ""}, "reason"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_waivers_that_mean_nothing_are_refused(tmp_path, changes, says):
    good = vars(waiver())
    entries = [good, good | {"id": "gelu/one"} | changes]
    (tmp_path / "w").write_text(json.dumps({"waivers": entries}))
    with pytest.raises(ValueError, match=says):
        waivers.read(tmp_path / "w")


# Reports that fit the schema and are sealed as they should be, and are odd all the same.
numbers = st.integers(-(10**17), 10**17) | st.floats(allow_nan=False, allow_infinity=False)
numbers_or_words = numbers | st.sampled_from(["nan", "inf", "-inf"])
clause_ids = st.sampled_from(["GSS-NRM-3", "GSS-CNF-6", "GSS-XYZ-999"])
odd_cases = st.fixed_dictionaries(
    {
        "type": st.just("case"),
        "id": st.sampled_from(["gelu/one", "gelu/two", "x/y"]),
        "op": st.text(min_size=1),
        "precision": st.sampled_from(["f32", "f64"]),
        "clauses": st.lists(clause_ids, unique=True),
        "outcome": st.sampled_from([str(o) for o in Outcome]),
        "seconds": st.floats(0, 1e300),
    },
    optional={name: numbers_or_words for name in ("ratio", "got", "expected", "budget")}
    | {"output": st.text(), "index": st.lists(st.integers(0, 9), max_size=3)}
    | {"detail": st.text(), "reason": st.text(), "fresh": st.just(True)},
)
suspects = st.lists(st.fixed_dictionaries({"clause": clause_ids, "reason": st.text()}), max_size=2)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(odd_cases, max_size=4), suspects, st.text(min_size=1), st.text())
def test_every_view_shows_every_report_that_is_read(
    tmp_path, capsys, cases, suspects, name, version
):
    about = Capabilities(name, version, (name,), (name,))
    head = header(name, about, ["f32"], VectorSet("2026-11-23", "0" * 64, ()), 7)
    write(close(head, cases, suspects), tmp_path / "r")
    found = read(tmp_path / "r")
    assert [*found.cases] == cases
    ET.fromstring(junit([found]).encode())
    ET.fromstring(badge(found, CLAUSES))
    page.html([found], CLAUSES)
    terminal.show(found, CLAUSES)
    assert terminal_safe(capsys.readouterr().out)
    for command in (["verify"], ["report"], ["diff", tmp_path / "r"]):
        assert run([*map(str, command), str(tmp_path / "r")]) in (0, 1, 3)
        assert terminal_safe(capsys.readouterr().out)


def terminal_safe(text):
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": 1' + "0" * 400 + "}",
        '{"a": 1, "a": 2}',
        "[" * 100000,
        '{"a": "\\ud800"}',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        "",
    ],
)
def test_json_that_readers_may_take_differently_is_refused(text):
    with pytest.raises(ValueError):
        schemas.parse(text)


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
    drawn = [
        *cases,
        case("gelu/two.fresh-7", "wrong on fresh input"),
        case("gelu/twofold", "raised"),
    ]
    waived, stale = waivers.apply([waiver()], drawn, today)
    assert not stale
    assert [c["outcome"] for c in waived] == ["pass", "waived", "waived", "raised"]


def test_unclaimed_counts_as_not_passed():
    found = report(case(), case("gelu/two", "not claimed", clauses=["GSS-NRM-1"]))
    passed, total = must_clauses(found, CLAUSES)
    assert passed == 1
    due = [c for c in CLAUSES.values() if c.judged_by_vectors and not c.of_scores]
    assert total == sum(c.level == "MUST" for c in due)
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
