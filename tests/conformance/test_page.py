"""The HTML page in a real browser: no error, and its filter and details work."""

import html
import json
import re
import shutil
import subprocess

import pytest

from refgss.conformance.candidates.claims import Capabilities
from refgss.conformance.clauses import read_clauses
from refgss.conformance.reports import page
from refgss.conformance.reports.report import close, header
from refgss.conformance.vectors.format import VectorSet
from refgss.standard import spec_folder

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")

CASE = {"type": "case", "op": "gelu", "precision": "f32", "seconds": 0.001}
GOOD = {**CASE, "id": "gelu/good", "clauses": ["GSS-NRM-3"], "outcome": "pass", "ratio": 0.25}
WORST = {"output": "y", "index": [1, 2], "got": "nan", "expected": 0.5, "budget": 1e-7}
BAD = {**CASE, "id": "gelu/bad", "clauses": ["GSS-NRM-3"], "outcome": "non-finite", "ratio": "inf"}
REFUSAL = {**CASE, "id": "gelu/no", "clauses": ["GSS-NFI-1"], "outcome": "raised"}
NASTY = "</script><script>document.title='owned'</script>"

PROBE = """<script>
const seen = { errors };
const buttons = () => [...document.querySelectorAll("td.cell button:enabled")];
const shown = () => document.getElementById("shown").textContent;
const filter = document.getElementById("filter");
seen.cells = buttons().map(b => b.textContent);
seen.all = shown();
document.getElementById("failures").checked = true;
filter.dispatchEvent(new Event("input"));
seen.failures = shown();
document.getElementById("text").value = "gelu  returns";
filter.dispatchEvent(new Event("input"));
seen.words = shown();
buttons().at(-1).click();
const details = document.getElementById("details");
seen.details = details.innerText;
document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
seen.closed = details.hidden;
document.querySelector(".suspects a").click();
seen.suspect = [document.getElementById("text").value, shown()];
seen.verdicts = document.getElementById("verdicts").innerText;
seen.colours = buttons().map(b => getComputedStyle(b).backgroundColor);
seen.requests = performance.getEntriesByType("resource").map(e => e.name);
seen.title = document.title;
const pre = document.createElement("pre");
pre.id = "seen";
pre.textContent = JSON.stringify(seen);
document.body.append(pre);
</script>"""


def browse(tmp_path, text):
    """What the probe sees after the page's own script has run, and what went to the console."""
    catch = "<head><script>const errors = []; onerror = e => { errors.push(String(e)); };</script>"
    file = tmp_path / "page.html"
    file.write_text(text.replace("<head>", catch).replace("</body>", PROBE + "</body>"))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
    done = subprocess.run([*command, file.as_uri()], capture_output=True, timeout=120, check=True)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout.decode(), re.DOTALL)
    console = [line for line in done.stderr.decode().splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])) | {"console": console}


def test_filter_and_details(tmp_path):
    vectors = VectorSet("2026-11-23", "0" * 64, ())
    suspects = [{"clause": "GSS-NRM-3", "reason": NASTY}]
    reports = [
        close(
            header("x", Capabilities(name, "", ("gelu",), ("f32",)), ["f32"], vectors, 1),
            cases,
            reasons,
        )
        for name, cases, reasons in [
            ("good", [GOOD], []),
            (NASTY, [GOOD, BAD | WORST | {"detail": NASTY}, REFUSAL], suspects),
        ]
    ]
    clauses = read_clauses(spec_folder())
    seen = browse(tmp_path, page.html(reports, clauses))
    must = sum(c.level == "MUST" and c.judged_by_vectors for c in clauses.values())
    assert seen["errors"] == seen["console"] == seen["requests"] == []
    assert sorted(seen["cells"]) == sorted(["✓ 0.25", "✗ inf", "✗ raised"])
    assert seen["all"] == f"{must} of {must} clauses"
    assert seen["failures"] == f"2 of {must} clauses"
    assert seen["words"] == f"1 of {must} clauses"
    assert "gelu/bad" in seen["details"] and "y[1, 2]" in seen["details"]
    assert NASTY in seen["details"] and seen["title"] == "refgss conformance"
    assert seen["closed"] and seen["suspect"] == ["GSS-NRM-3", f"1 of {must} clauses"]
    assert f"1 of {must} clauses pass, 0 fail" in seen["verdicts"]
    assert f"0 of {must} clauses pass, 2 fail" in seen["verdicts"]
    assert len(set(seen["colours"])) == 2, "passed and failed look different"
