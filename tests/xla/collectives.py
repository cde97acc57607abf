"""What a compiled program sends from device to device, read from its text."""

import re

COLLECTIVE = re.compile(
    r"= (.*?) (?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter|"
    r"collective-broadcast|send|recv)(?:-start)?\("
)


def shapes_moved(compiled):
    """The shape of every array that a collective of the compiled program returns."""
    found = []
    for line in compiled.as_text().splitlines():
        if match := COLLECTIVE.search(line):
            for shape in re.findall(r"\w+\[([\d,]*)\]", match[1]):
                found.append(tuple(int(n) for n in shape.split(",") if n))
    return found
