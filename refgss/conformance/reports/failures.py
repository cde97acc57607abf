"""One failure in one line, and what went wrong without any number to compare."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from refgss.conformance.judging.compare import Outcome
from refgss.conformance.judging.runner import Record
from refgss.text import printable

# no number came: what the clauses say about numbers does not apply
NO_NUMBERS = frozenset(
    {Outcome.RAISED, Outcome.CRASHED, Outcome.TIMED_OUT, Outcome.GARBAGE, Outcome.OUT_OF_ORDER}
)
DIGITS = {"f32": 9, "f64": 17}  # that tell any two numbers apart


def without_numbers(cases: Sequence[Record]) -> Text:
    """One line for each distinct exception, crash or time-out: how often, and the first case."""
    found: dict[tuple[str, str], list[Record]] = {}
    for case in cases:
        if case["outcome"] in NO_NUMBERS:
            found.setdefault((case["outcome"], case.get("detail", "")), []).append(case)
    text = Text()
    for (outcome, detail), members in sorted(found.items(), key=lambda item: -len(item[1])):
        first = members[0]
        text.append(f"{outcome}", "bold red")
        text.append(f" in {len(members)} case{'s' if len(members) > 1 else ''}")
        text.append(f": {printable(detail)}\n" if detail else "\n")
        where = f"{first['id']} ({first['precision']}){of(first)}"
        text.append(f"    first: {where}\n", "dim")
    return text


def describe(case: Record) -> str:
    """One failure in one line: where, on what, what was got, what is proven."""
    text = f"{case['id']} ({case['precision']}){of(case)}: {case['outcome']}"
    if "index" in case:
        where = f"{printable(case.get('output', ''))}[{', '.join(map(str, case['index']))}]"
        digits = DIGITS[case["precision"]]
        got, proven = number(case.get("got"), digits), number(case.get("expected"), digits)
        text += f", {where} is {got}, proven {proven}{difference(case)}"
        text += f" ± {number(case.get('budget'), 2)}: error/budget {number(case.get('ratio'), 3)}"
    return f"{text}; {printable(case['detail'])}" if case.get("detail") else text


def of(case: Record) -> str:
    """The shapes and options of a case, where the record has them."""
    return f" with {printable(case['inputs'])}" if case.get("inputs") else ""


def difference(case: Record) -> str:
    """How far apart two numbers are, where both are numbers."""
    got, proven = case.get("got"), case.get("expected")
    if isinstance(got, int | float) and isinstance(proven, int | float) and got != proven:
        return f" (off by {number(got - proven, 3)})"
    return ""


def number(x: float | str | None, digits: int = 9) -> str:
    return f"{x:.{digits}g}" if isinstance(x, int | float) else x or "?"
