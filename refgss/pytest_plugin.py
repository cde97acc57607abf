"""pytest options that make a test of each vector, for tests that take the fixture `refgss_case`.

    pytest --refgss-candidate python:my_gss.py [--refgss-op OP] [--refgss-profile NAME]
           [--refgss-selection quick|default|thorough] [--refgss-waivers FILE]

Each can stand in the configuration instead: `refgss_candidate = "python:my_gss.py"`.  A waived
failure is an expected one (xfail) until the waiver's last day; a waived vector that passes fails.
pytest loads this file by its entry point; it imports nothing of refgss before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from refgss.conformance.candidates.claims import Candidate
    from refgss.conformance.judging.runner import Question

OPTIONS = {
    "candidate": "what to judge, as `refgss check --candidate` takes it",
    "op": "only this op; several with commas between",
    "profile": "f32, f64, paper or gss-pytorch; several with commas between",
    "selection": "quick (if not given), default or thorough",
    "waivers": "JSON file of known failures",
}
OPENED = pytest.StashKey["Candidate"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("refgss", "conformance to the GSS standard")
    for name, text in OPTIONS.items():
        group.addoption(f"--refgss-{name}", metavar=name.upper(), help=text)
        parser.addini(f"refgss_{name}", text)


def setting(config: pytest.Config, name: str) -> str:
    """An option of the command line, or else of the configuration; "" where it is in neither."""
    return str(config.getoption(f"--refgss-{name}") or config.getini(f"refgss_{name}") or "")


@dataclass(frozen=True)
class Case:
    """A vector at a precision, and the candidate that is asked."""

    candidate: Candidate
    question: Question

    def check(self) -> None:
        """Ask the candidate and judge the answer.

        Raises AssertionError where it is wrong; skips the test where it is not claimed.
        """
        from refgss.conformance.judging.compare import NEUTRAL, Outcome
        from refgss.conformance.judging.runner import ask
        from refgss.conformance.reports.failures import describe

        __tracebackhide__ = True  # the test failed, not this function
        record = ask(self.candidate, self.question)
        if record["outcome"] == Outcome.UNCLAIMED:
            pytest.skip("not claimed")
        if record["outcome"] not in NEUTRAL:
            clauses = ", ".join(record["clauses"])
            raise AssertionError(f"{describe(record)} ({clauses}; `refgss spec ID` prints them)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "refgss_case" not in metafunc.fixturenames:
        return
    questions = asked(metafunc.config)
    expected = waived(metafunc.config)
    params = []
    for q in questions:
        marks = [expected[q.vector.id]] if q.vector.id in expected else []
        params.append(pytest.param(q, id=f"{q.vector.id}-{q.precision}", marks=marks))
    metafunc.parametrize("refgss_case", params, indirect=True)


@pytest.fixture
def refgss_case(request: pytest.FixtureRequest) -> Case:
    """A `Case` for each vector that the options select: `refgss_case.check()` judges it."""
    return Case(candidate_of(request.config), request.param)


def candidate_of(config: pytest.Config) -> Candidate:
    """The candidate, opened once for all tests.  Raises UsageError where it cannot be."""
    from refgss.conformance.candidates.claims import CandidateError
    from refgss.conformance.candidates.targets import open_candidate

    if OPENED not in config.stash:
        spec = setting(config, "candidate")
        if not spec:
            raise pytest.UsageError(
                "say what to judge: --refgss-candidate python:my_gss.py, or refgss_candidate in "
                "the configuration"
            )
        try:
            candidate = open_candidate(spec)
        except (ValueError, CandidateError) as e:
            raise pytest.UsageError(f"--refgss-candidate: {e}") from e
        config.stash[OPENED] = candidate
        config.add_cleanup(candidate.close)
    return config.stash[OPENED]


def asked(config: pytest.Config) -> list[Question]:
    """The vectors of the options, of ops that the candidate claims."""
    from refgss.conformance import PROFILES
    from refgss.conformance.judging.runner import SELECTIONS, profiles_to_check, select
    from refgss.conformance.vectors.format import read_vectors
    from refgss.ops import CONTRACT
    from refgss.standard import spec_folder

    about = candidate_of(config).about
    ops = list(known(setting(config, "op"), CONTRACT, "op")) or sorted(about.offered)
    profiles = profiles_to_check(
        list(known(setting(config, "profile"), PROFILES, "profile")), about.profiles
    )
    selection = setting(config, "selection") or "quick"
    list(known(selection, SELECTIONS, "selection"))
    vectors = read_vectors(spec_folder() / "vectors").vectors
    questions = select(vectors, profiles, ops, (), selection)
    if not questions:
        raise pytest.UsageError("no vector fits these ops and profiles: choose less narrowly")
    return questions


def known(names: str, all_names: Any, kind: str) -> Iterator[str]:
    """The names between commas.  Raises UsageError for one that there is not."""
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name not in all_names:
            raise pytest.UsageError(
                f"--refgss-{kind}: there is no {name}, but {', '.join(all_names)}"
            )
        yield name


def waived(config: pytest.Config) -> dict[str, Any]:
    """By vector, the mark that a valid waiver gives."""
    from refgss.conformance.judging.waivers import read

    path = setting(config, "waivers")
    if not path:
        return {}
    try:
        waivers = read(Path(path))
    except (ValueError, OSError) as e:
        raise pytest.UsageError(f"--refgss-waivers: {e}") from e
    today = date.today()
    return {
        w.id: pytest.mark.xfail(reason=f"waived until {w.expires}: {w.reason}", strict=True)
        for w in waivers
        if date.fromisoformat(w.expires) >= today
    }
