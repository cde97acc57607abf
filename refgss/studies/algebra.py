"""Equivalence by sympy, in a process of its own: nothing that is parsed there can hang this one.

    python -m refgss.studies.algebra

reads JSON lines [FIRST, SECOND] and answers each with true, false, or a text that says why it
cannot tell.  sympy and antlr4 are in refgss[math].
"""

from __future__ import annotations

import json
import re
import resource
import select
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from refgss.children import python
from refgss.tensors import ModelError

SECONDS = 5.0  # for a pair
START_SECONDS = 60.0  # importing sympy takes two on an idle machine
MOST_BYTES = 4 << 30
LONGEST = 400  # characters of an answer that is parsed
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")  # not a product of its letters
TIMED_OUT = "timed out"


class Algebra:
    """A child process that compares answers; ended and started again where it takes too long.

    `compared` counts the pairs by what was said of them.  Clauses: GSS-ANS-13.
    """

    def __init__(self, seconds: float = SECONDS):
        self.seconds = seconds
        self.child: subprocess.Popen[bytes] | None = None
        self.known: dict[tuple[str, str], bool] = {}
        self.compared = {"equal": 0, "different": 0, "undecided": 0, TIMED_OUT: 0}

    def equal(self, first: str, second: str) -> bool:
        """Whether the difference of two answers is 0; False where that cannot be told in time."""
        pair = (first, second)
        if pair not in self.known:
            self.known[pair] = self.ask(pair)
        return self.known[pair]

    def ask(self, pair: tuple[str, str]) -> bool:
        if any(len(text) > LONGEST or WORD.search(text) for text in pair):
            self.compared["undecided"] += 1
            return False
        found = self.answer(pair)
        kinds = {True: "equal", False: "different", TIMED_OUT: TIMED_OUT}
        self.compared[kinds.get(found, "undecided")] += 1
        return found is True

    def answer(self, pair: tuple[str, str]) -> Any:
        """What the child says; TIMED_OUT where it says nothing in time, or has died."""
        child = self.child or self.start()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(pair).encode() + b"\n")
            child.stdin.flush()
            ready = select.select([child.stdout], [], [], self.seconds)[0]
            line = child.stdout.readline() if ready else b""
        except OSError:
            line = b""
        if not line:
            self.close()
            return TIMED_OUT
        return json.loads(line)

    def start(self) -> subprocess.Popen[bytes]:
        """Raises ModelError where sympy is not installed."""
        command = python("-m", "refgss.studies.algebra")
        self.child = child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert child.stdout is not None
        ready = select.select([child.stdout], [], [], START_SECONDS)[0]
        if not ready or child.stdout.readline() != b'"ready"\n':
            self.close()
            raise ModelError("--equivalence sympy needs sympy and antlr4: install refgss[math]")
        return child

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            for stream in (self.child.stdin, self.child.stdout):
                if stream is not None:
                    stream.close()
            self.child = None


def answers(lines: Iterable[str], parse: Any, simplify: Any) -> Iterable[Any]:
    """For each pair whether its difference is 0, or why that cannot be told."""
    for line in lines:
        first, second = json.loads(line)
        try:
            difference = parse(first, strict=True) - parse(second, strict=True)
            yield bool(simplify(difference) == 0)
        except (Exception, RecursionError) as e:
            yield f"{type(e).__name__}"


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    from sympy import simplify
    from sympy.parsing.latex import parse_latex

    parse_latex("1", strict=True)  # so that antlr4 is asked for at once
    print(json.dumps("ready"), flush=True)
    for answer in answers(sys.stdin, parse_latex, simplify):
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
