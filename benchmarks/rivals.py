"""Every speed and error that the README states: python benchmarks/rivals.py [WORK ...].

Prints the tables of refgss.bench and, with --json, one JSON document per line.
"""

import argparse

from refgss.bench import WORKS, run

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("works", nargs="*", default=list(WORKS), metavar="WORK")
parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
parser.add_argument("--seconds", type=float, default=2.0)
parser.add_argument("--json", action="store_true")
options = parser.parse_args()

for work in options.works:
    for threads in options.threads:
        report = run(work, threads=threads, seconds=options.seconds)
        print(report.json() if options.json else report.table() + "\n", flush=True)
