"""Chapter 22: answers and votes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from refgss.conformance.vectors.cases.calibration import case, i32, refuse
from refgss.conformance.vectors.cases.common import Case
from refgss.scores.answers import INVALID


def answers() -> Iterator[Case]:
    yield from extractions()
    yield from forms()
    yield from pairs()
    yield from votes()
    yield from refused_answers()


BEFORE, AFTER = "Final Answer: The final answer is", ". I hope it is correct."
TEXTS = {
    "plain": f"So x = 4.\n{BEFORE} $4${AFTER}",
    "cut": f"{BEFORE} $4$. ",
    "truncated": f"{BEFORE} $4$",
    "no-words": "The final answer is $4$.",
    "decimal": f"{BEFORE} 1.5{AFTER}",
    "two": f"{BEFORE} $4${AFTER}\n{BEFORE} $5${AFTER}",
    "two-on-a-line": f"{BEFORE} 4{AFTER} {BEFORE} 5{AFTER}",
    "next-line": f"{BEFORE}\n$4${AFTER}",
    "lines": f"{BEFORE} 4\n5{AFTER}\n{BEFORE} 6{AFTER}",
    "empty": f"{BEFORE} {AFTER}",
    "any-character": f"{BEFORE} 4! I hope it is correct?",
    "nested": f"{BEFORE} {BEFORE} 4{AFTER}",
    "nothing": "",
    "unicode": f"{BEFORE} 4 größer\u2003π\u2003{AFTER}",
}
BOXES = {
    "plain": "so \\boxed{5}.",
    "space": "\\boxed 5$ x",
    "last": "a \\boxed{1} b \\boxed{\\frac{1}{2}} c",
    "fbox": "\\fbox{3}",
    "fbox-after": "\\boxed{1} \\fbox{2}",
    "none": "none",
    "open": "\\boxed{1",
    "open-after": "\\boxed{2} \\boxed{1",
    "command": "\\boxedx{1}",
    "empty": "\\boxed{}",
}


def extractions() -> Iterator[Case]:
    for name, text in TEXTS.items():
        for which in ("first", "last"):
            for across in (False, True):
                yield case(
                    f"extract_answer/{name}-{which}{'-across' if across else ''}",
                    "ANS-1 ANS-2",
                    {},
                    text=text,
                    which=which,
                    across_lines=across,
                )
    for name, text in BOXES.items():
        yield case(f"boxed_answer/{name}", "ANS-3", {}, text=text)


FORMS = (
    *("x=5", "$\\frac12$", "\\frac12", "\\frac123", "\\sqrt2", "\\sqrt{2}", "\\sqrt[3]{2}"),
    *("100,000", "1,2", "1,234.5", "12,34", "10\\text{ units}", "$5$ dollars", "cost $5$ or $6$"),
    *("\\text{(A)}", "(A)", "\\textbf{(B)}", "\\boxed{7}", "\\left[2,5\\right)", "[2,5)"),
    *("\\left(3, 4\\right)", "90^\\circ", "90^{\\circ}", "5\\%", "0.5", ".5", "5.", "an apple"),
    *("a b", "\\mbox{cm}", "3 \\text{ cm}", "x \\in [1,2]", "2x+3=7", "a=b=c", "\\dfrac{3}{4}"),
    *("\\tfrac{3}{4}", "-\\frac{2}{3}", "12\\text{th}", "12\\mathrm{th}", "soft", "\\$3.50"),
    *("1\\,000", "1,\\!000", "1{,}000", "10^{\\text{th}}", "", "\\overline{AB}", "square root"),
    *("leftover", "\\leftarrow", "3.$", "2\\text{and}3", "2,\\text{and} 3", "\\text{\ns}"),
    *("\\text{m}^2", "one $1\n2$ two", "a $1$\nb $2$", "$\\frac{x}{y}$", "\\boxed{1} + \\boxed{2}"),
    *("\\text{", "٣", "\\frac", "\\frac1", "\\sqrt", "$$", "\\displaystyle 2", "6~km", "é = ö"),
    "\\text{A}x^{2}",
)


def forms() -> Iterator[Case]:
    for i, text in enumerate(FORMS):
        for rules, clause in (("as-published", "ANS-4"), ("refgss", "ANS-5")):
            yield case(f"normalize_answer/{i:02}-{rules}", clause, {}, text=text, rules=rules)


PAIRS = (
    *(("\\frac{1}{2}", "0.5"), ("\\frac12", "1/2"), ("0.5", ".5"), ("5", "5.0"), ("5.", "5")),
    *(("2x+3", "3+2x"), ("[2,5)", "[2,5)"), ("\\left[2,5\\right)", "[2,5)"), ("1,2", "2,1")),
    *(("100000", "100,000"), ("10\\%", "10"), ("10\\%", "0.1"), ("\\text{(A)}", "(A)")),
    *(("\\frac{-2}{3}", "-\\frac{2}{3}"), ("\\frac{2}{-3}", "-2/3"), ("+3", "3"), ("-3", "3")),
    *(("", ""), ("", "0"), ("\\frac{1}{0}", "\\frac{2}{0}"), ("1/0", "1/0"), ("-0", "0.0")),
    *(("5 cm", "5"), ("5 cm", "5 km"), ("5 cm^2", "5"), ("\\frac{1}{2}\\text{ ft}", "0.5")),
    *(("10 hours", "10 minutes"), ("0.1", "1/10"), ("0.3333333333333333", "1/3"), ("x", "X")),
    *(("1" + "0" * 30, "1" + "0" * 29 + "1"), ("1/3", "2/6"), ("1e3", "1000"), ("1/2/3", "1/6")),
)


def pairs() -> Iterator[Case]:
    for i, (first, second) in enumerate(PAIRS):
        for rules in ("as-published", "refgss"):
            for method, clause in (("identity", "ANS-6"), ("rational", "ANS-7")):
                yield case(
                    f"equivalent/{i:02}-{rules}-{method}",
                    clause,
                    {},
                    first=first,
                    second=second,
                    rules=rules,
                    method=method,
                )


LISTS = {
    "mixed": ["4", "3", INVALID, "4", "3", INVALID, INVALID, "5"],
    "invalid": [INVALID, INVALID],
    "late": ["1", "2", "2"],
    "tie": ["3", "1", "2", "1", "3", "2"],
    "one": ["π"],
    "case": ["a", "A", "A", "a", "b"],
    "spaces": ["1", "1 ", "1 "],
}


def votes() -> Iterator[Case]:
    for name, given in LISTS.items():
        for invalid in ("drop", "keep"):
            options: dict[str, Any] = {"answers": given, "invalid": invalid}
            for ties in ("first", "last"):
                yield case(f"vote/{name}-{invalid}-{ties}", "ANS-8", {}, ties=ties, **options)
            for gold in dict.fromkeys((given[0], given[-1], "2")):
                place = [*dict.fromkeys([*given, "2"])].index(gold)
                yield case(
                    f"vote_score/{name}-{invalid}-{place}", "ANS-9", {}, gold=gold, **options
                )
    for counts, right, without, ks in (
        ((6, 3, 1), 0, 0, (1, 2, 3, 5, 10)),
        ((3, 6, 1), 0, 0, (1, 2, 3, 5, 10)),
        ((4, 4, 2), 0, 0, (1, 2, 3, 5, 10)),
        ((4, 4, 2), 2, 3, (1, 4, 9, 13)),
        ((10,), 0, 0, (1, 10)),
        ((1,), 0, 5, (1, 3, 6)),
        ((5, 2), -1, 1, (1, 4)),
        ((60, 50, 40, 30, 20, 10, 5, 5, 5, 5, *(1,) * 26), 1, 0, (4, 64)),
    ):
        name = f"{'-'.join(map(str, counts[:4]))}-gold-{right}-invalid-{without}"
        for k in ks:
            tensors, options = {"counts": i32(*counts)}, {"gold": right, "invalid": without, "k": k}
            yield case(f"majority_at_k/{name}-{k}", "ANS-10", tensors, **options)
    for n, c, k in ((10, 6, 1), (10, 6, 3), (10, 0, 4), (10, 3, 8), (200, 1, 100), (256, 5, 64)):
        yield case(f"pass_at_k/{n}-{c}-{k}", "ANS-11", {}, n=n, c=c, k=k)


def refused_answers() -> Iterator[Case]:
    for n, c, k in ((10, 6, 0), (10, 6, 11), (10, 11, 1), (10, -1, 1), (0, 0, 1)):
        yield refuse(f"pass_at_k/{n}-{c}-{k}", "ANS-12", {}, n=n, c=c, k=k)
    for why, counts, gold, invalid, k in (
        ("no-k", (2, 1), 0, 0, 0),
        ("k", (2, 1), 0, 1, 5),
        ("count", (2, 0), 0, 0, 1),
        ("gold", (2, 1), 2, 0, 1),
        ("gold-below", (2, 1), -2, 0, 1),
        ("invalid", (2, 1), 0, -1, 1),
    ):
        tensors = {"counts": i32(*counts)}
        options = {"gold": gold, "invalid": invalid, "k": k}
        yield refuse(f"majority_at_k/{why}", "ANS-12", tensors, **options)
    for why, given in (("none", []), ("text", "abc"), ("numbers", [1, 2])):
        yield refuse(f"vote/{why}", "ANS-12", {}, answers=given, invalid="drop", ties="first")
        yield refuse(f"vote_score/{why}", "ANS-12", {}, answers=given, invalid="drop", gold="1")
    yield refuse("vote_score/gold", "ANS-12", {}, answers=["1"], invalid="drop", gold=1)
    yield refuse("vote/ties", "ANS-8", {}, answers=["1"], invalid="drop", ties="any")
    yield refuse("vote/invalid", "ANS-8", {}, answers=["1"], invalid="skip", ties="first")
    yield refuse("extract_answer/text", "ANS-12", {}, text=4, which="first", across_lines=False)
    yield refuse("extract_answer/which", "ANS-2", {}, text="", which="all", across_lines=False)
    yield refuse("boxed_answer/text", "ANS-12", {}, text=None)
    yield refuse("normalize_answer/text", "ANS-12", {}, text=["1"], rules="refgss")
    yield refuse("normalize_answer/rules", "ANS-4", {}, text="1", rules="mine")
    for why, pair in (("first", (1, "1")), ("second", ("1", 1))):
        both = {"first": pair[0], "second": pair[1], "rules": "refgss", "method": "identity"}
        yield refuse(f"equivalent/{why}", "ANS-12", {}, **both)
    both = {"first": "1", "second": "1", "rules": "refgss", "method": "float"}
    yield refuse("equivalent/method", "ANS-6", {}, **both)
