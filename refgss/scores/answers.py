"""Chapter 22, answers: taken out of texts, brought to one form, and compared.  All are strings."""

from __future__ import annotations

import re
from bisect import bisect_left
from fractions import Fraction

from refgss.scores.arguments import check_choice, check_text

INVALID = "[invalidanswer]"
RULES = ("as-published", "refgss")
METHODS = ("identity", "rational")


def extract_answer(text, *, which, across_lines):
    """What stands between the sentences of Minerva's prompt; INVALID where they do not.

    Clauses: GSS-ANS-1, GSS-ANS-2.
    """
    check_text("text", text)
    check_choice("which", which, ("first", "last"))
    text += "I hope it is correct."  # the words that end generation
    anything = re.DOTALL if across_lines else 0  # each "." of the pattern stands for anything
    ends = [m.start() for m in re.finditer("(?=. I hope it is correct.)", text, anything)]
    found, done = [], 0
    for start in re.finditer("Final Answer: The final answer is", text):
        at = bisect_left(ends, start.end())
        if start.start() < done or at == len(ends):
            continue
        answer = text[start.end() : ends[at]]
        if across_lines or "\n" not in answer:
            found.append(answer.strip())
            done = ends[at] + len(". I hope it is correct.")
    return (found[0] if which == "first" else found[-1]) if found else INVALID


def boxed_answer(text):
    """What the last \\boxed or \\fbox holds, and whether there is one.

    Clauses: GSS-ANS-3.
    """
    check_text("text", text)
    starts = [m for m in re.finditer(r"\\(?:boxed|fbox)(?=[ {])", text)]
    if not starts:
        return "", 0
    rest = text[starts[-1].end() :]
    if rest.startswith(" "):
        return rest[1:].split("$")[0], 1
    end = closing_brace(rest)
    return ("", 0) if end is None else (rest[1:end], 1)


def closing_brace(text):
    """Where the brace ends with which the text begins; None where it does not.

    Clauses: GSS-ANS-3.
    """
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "{") - (c == "}")
        if depth == 0:
            return i
    return None


def normalize_answer(text, *, rules):
    """An answer in the form in which it is compared.  Clauses: GSS-ANS-4, GSS-ANS-5."""
    check_text("text", text)
    check_choice("rules", rules, RULES)
    return as_published(text) if rules == "as-published" else of_refgss(text)


# --- the rules of Minerva's appendix D ---------------------------------------------------------

REPLACED = (
    *(("an ", ""), ("a ", ""), (".$", "$"), (r"\$", ""), ("\\ ", ""), (" ", "")),
    *(("mbox", "text"), (r",\text{and}", ","), (r"\text{and}", ","), (r"\text{m}", r"\text{}")),
)
REMOVED = (
    "square ways integers dollars mph inches ft hours km units \\ldots sue points feet minutes "
    "digits cents degrees cm gm pounds meters meals edges students childrentickets multiples "
    r"\text{s} \text{.} \text{!s} \text{}^2 \text{}^3 \text{!} \text{} \mathrm{th} ^\circ ^{\circ} "
    r'\; ,\! {,} " \dots'
)


def as_published(text):
    """Total on strings, and lossy: "soft" becomes "so".  Clauses: GSS-ANS-4."""
    text = text.split("=")[-1]
    for before, after in REPLACED:
        text = text.replace(before, after)
    for word in REMOVED.replace(r"\text{!", "\\text{\n").split(" "):
        text = text.replace(word, "")
    text = "\n".join(unwrapped(line) for line in text.split("\n"))
    text = re.sub(r"frac([^{])(.)", r"frac{\1}{\2}", text)
    text = re.sub(r"sqrt([^{])", r"sqrt{\1}", text)
    text = text.replace("$", "")
    return text.replace(",", "") if text.replace(",", "").isdigit() else text


def unwrapped(line):
    """What a line has between its first dollars, without \\text, \\textbf, \\overline and \\boxed.

    Clauses: GSS-ANS-4.
    """
    if line.count("$") >= 2:
        line = f"${line.split('$')[1]}$"
    for command in ("text", "textbf", "overline", "boxed"):
        last = line.rfind("}") + 1  # where nothing closes, nothing is looked for
        inner = "(.*)" if command == "boxed" else "([^}]*)"
        line = re.sub(rf"\\{command}\{{{inner}\}}", r"\1", line[:last]) + line[last:]
    return line


# --- ours ----------------------------------------------------------------------------------------

UNITS = (
    "cents cm degrees digits dollars edges feet ft gm hours inches integers km meals meters "
    "minutes mph multiples points pounds square students units ways"
)
SPACES = re.compile(r"\\[,;:!]|\\ |~|\s+")
UNIT = re.compile(rf"(?<=[0-9}})])(?:{'|'.join(UNITS.split())})(?:\^\{{?[23]\}}?)?$")
THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?")


def of_refgss(text):
    """Whole commands and words only, and nothing that changes a value.  Clauses: GSS-ANS-5."""
    if (math := re.fullmatch(r"[^$]*\$([^$]+)\$[^$]*", text)) is not None:
        text = math[1]
    text = re.sub(r"\\(left|right|displaystyle)(?![A-Za-z])", "", text)
    text = re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", text)
    text = re.sub(r"\\(?:text|mbox|textbf|mathrm|boxed|fbox)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\^(\\circ|\{\\circ\})(?![A-Za-z])|\\\$|\{,\}", "", text)
    text = SPACES.sub("", text).rstrip(".")
    if (named := re.fullmatch(r"[A-Za-z]=([^=]+)", text)) is not None:
        text = named[1]
    text = re.sub(r"\\frac([0-9A-Za-z])([0-9A-Za-z])(?![0-9A-Za-z])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt([0-9A-Za-z])(?![0-9A-Za-z])", r"\\sqrt{\1}", text)
    return text.replace(",", "") if THOUSANDS.fullmatch(text) else text


# --- equivalence ---------------------------------------------------------------------------------

MOST_DIGITS = 400  # of a number that is compared by value
SIGNED, NUMBER = r"([+-]?)", r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
DECIMAL = re.compile(rf"{SIGNED}{NUMBER}")
SLASH = re.compile(r"([+-]?)([0-9]+)/([0-9]+)")
FRACTION = re.compile(r"([+-]?)\\frac\{([+-]?[0-9]+)\}\{([+-]?[0-9]+)\}")


def equivalent(first, second, *, rules, method):
    """1 where two answers are the same, as far as the method can tell, else 0.

    Clauses: GSS-ANS-6, GSS-ANS-7, GSS-ANS-12.
    """
    check_choice("method", method, METHODS)
    a, b = (normalize_answer(x, rules=rules) for x in (first, second))
    if a == b:
        return 1
    if method == "identity":
        return 0
    if bool(UNIT.search(a)) != bool(UNIT.search(b)):  # a unit that only one of them names
        a, b = (UNIT.sub("", x) for x in (a, b))
    values = rational(a), rational(b)
    return int(a == b or (None not in values and values[0] == values[1]))


def rational(text):
    """The value of an integer, a decimal or a fraction; None of anything else.

    Clauses: GSS-ANS-7.
    """
    if len(text) > MOST_DIGITS:
        return None
    if (m := DECIMAL.fullmatch(text)) is not None:
        sign, above, below = m[1], Fraction(m[2].rstrip(".")), Fraction(1)
    elif (m := SLASH.fullmatch(text) or FRACTION.fullmatch(text)) is not None:
        sign, above, below = m[1], Fraction(m[2]), Fraction(m[3])
    else:
        return None
    if below == 0:
        return None
    return (-1 if sign == "-" else 1) * above / below
