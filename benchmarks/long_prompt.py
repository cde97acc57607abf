"""A prompt of a million tokens through `refgss generate`: speed, and memory that does not grow.

    python benchmarks/long_prompt.py [MODEL.safetensors]

The prompt is the Python standard library, over and over, through a pipe.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

from refgss.children import python

COMMAND = "import resource, sys; from refgss.cli import run; code = run(sys.argv[1:]); "
COMMAND += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); "
COMMAND += "sys.exit(code)"
UNIT = 1 if sys.platform == "darwin" else 1024
LENGTHS = (1_000, 100_000, 1_000_000)


def library(length):
    """So many bytes of source."""
    text = bytearray()
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    while len(text) < length:
        for file in files:
            text += file.read_bytes()
            if len(text) >= length:
                break
    return bytes(text[:length])


def main():
    print("   tokens  peak memory (MB)  what the command reports")
    for length in LENGTHS:
        arguments = ["generate", *sys.argv[1:], "--tokens", "200", "--temperature", "0"]
        done = subprocess.run(
            python("-c", COMMAND, *arguments),
            input=library(length),
            capture_output=True,
            check=True,
        )
        *report, peak = done.stderr.decode().splitlines()
        print(f"{length:9}  {int(peak) * UNIT / 1e6:16.1f}  {'; '.join(report)}", flush=True)


if __name__ == "__main__":
    main()
