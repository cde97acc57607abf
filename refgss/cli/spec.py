"""`refgss spec`: a clause with its functions, vectors and mutants; all clauses; what is covered."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from rich import box
from rich.table import Table
from rich.text import Text

import refgss
from refgss.cli import terminal
from refgss.cli.arguments import nearest
from refgss.cli.exits import NOT_CONFORMING, ExitError
from refgss.conformance.clauses import Clause, citing_functions, read_clauses
from refgss.conformance.definition import definition
from refgss.conformance.vectors.format import read_vectors
from refgss.ops import CONTRACT, Op
from refgss.standard import spec_folder

TEXT = ("reference.", "scores.", "checks.")  # a backend that names a clause is no definition of it


@dataclass(frozen=True)
class Coverage:
    """What stands behind each clause, by its id."""

    functions: Mapping[
        str, list[str]
    ]  # where vectors judge: of the reference, scores and checks.py
    vectors: Mapping[str, list[str]]
    mutants: Mapping[str, list[str]]  # killed ones only

    def missing(self, clause: Clause) -> list[str]:
        """The kinds of support that a clause lacks.  Clauses: GSS-CNF-9."""
        if not required(clause):
            return []
        kinds = {"function": self.functions, "vector": self.vectors, "killed mutant": self.mutants}
        return [kind for kind, support in kinds.items() if not support.get(clause.id)]


def required(clause: Clause) -> bool:
    """Whether a clause must have a function, a vector and a killed mutant."""
    return clause.level == "MUST" and clause.judged_by_vectors


def coverage() -> Coverage:
    """Read from the docstrings, the vectors and the mutant table."""
    folder = spec_folder()
    vectors = defaultdict(list)
    for v in read_vectors(folder / "vectors").vectors:
        for id in v.clauses:
            vectors[id].append(v.id)
    judged = {id for id, clause in read_clauses(folder).items() if clause.judged_by_vectors}
    functions = {
        id: [f for f in found if f.startswith(TEXT)] if id in judged else found
        for id, found in citing_functions(Path(refgss.__file__).parent).items()
    }
    return Coverage(functions, vectors, killed_mutants(folder / "mutants.json"))


def killed_mutants(table: Path) -> dict[str, list[str]]:
    """The names of killed mutants by the clause that each violates."""
    killed = defaultdict(list)
    if table.exists():
        for mutant in json.loads(table.read_text("utf-8")):
            if mutant["status"] == "killed":
                killed[mutant["clause"]].append(mutant["name"])
    return killed


@click.command(short_help="Look up a clause, an area or an op of the standard.")
@click.argument("name", required=False, metavar="[ID | AREA | OP]")
@click.option("--list", "every", is_flag=True, help="List all clauses.")
@click.option("--ops", "signatures", is_flag=True, help="List all ops with their signatures.")
@click.option(
    "--coverage",
    "covered",
    is_flag=True,
    help="Show the functions, vectors and mutants of each MUST clause.",
)
def spec(name: str | None, every: bool, signatures: bool, covered: bool) -> None:
    """Look up a clause (GSS-KER-1), an area (GSS-LAY) or an op (gss_layer) of the standard."""
    if sum((name is not None, every, signatures, covered)) != 1:
        raise click.UsageError("give a clause such as GSS-KER-1, or --list, --ops or --coverage")
    clauses = read_clauses(spec_folder())
    if signatures:
        show_ops(CONTRACT)
    elif every:
        show_list(clauses)
    elif covered:
        show_coverage(clauses, coverage())
    elif name is not None:
        show_named(name, clauses)


def show_named(name: str, clauses: Mapping[str, Clause]) -> None:
    """The clause, the op, or the area of clauses of this name."""
    upper = name.upper()
    area = f"GSS-{upper.removeprefix('GSS-').rstrip('-')}-"
    of_area = {id: clause for id, clause in clauses.items() if id.startswith(area)}
    if upper in clauses:
        show_clause(clauses[upper], coverage())
    elif name.lower() in CONTRACT:
        show_op(name.lower(), clauses, coverage())
    elif of_area:
        show_list(of_area)
    else:
        areas = {id.rpartition("-")[0] for id in clauses}
        guess = nearest(name, (*clauses, *areas, *CONTRACT))
        raise click.UsageError(
            f"there is no clause, area or op {name}: {guess}`refgss spec --list` and `--ops` list "
            "what there is"
        )


def show_op(op: str, clauses: Mapping[str, Clause], behind: Coverage) -> None:
    """An op: its signature, the clauses that its function names, and its vectors."""
    show_ops({op: CONTRACT[op]})
    for clause in clauses.values():
        functions = behind.functions.get(clause.id, ())
        if any(f.rpartition(".")[2] == op for f in functions):
            terminal.say(f"{clause.id} ({clause.level}) {clause.text}")
    found = sorted({id for ids in behind.vectors.values() for id in ids if id.startswith(f"{op}/")})
    terminal.say(f"vectors: {', '.join(found) or 'none'}")


def show_ops(ops: Mapping[str, Op]) -> None:
    """Each op as Python sees it, with the first line of the reference's docstring."""
    for name, op in ops.items():
        keywords = ["*", *op.keywords] if op.keywords else []
        arguments = ", ".join((*op.arguments, *keywords))
        terminal.say(f"{name}({arguments}) -> {', '.join(op.outputs)}", bold=True)
        terminal.say(
            f"    {(getattr(definition(name), name).__doc__ or '').strip().splitlines()[0]}"
        )


def show_list(clauses: Mapping[str, Clause]) -> None:
    chapter = None
    for clause in clauses.values():
        if clause.chapter != chapter:
            chapter = clause.chapter
            terminal.say()
            terminal.say(chapter, bold=True)
        terminal.say(f"{clause.id} ({clause.level}) {clause.text}")


def show_clause(clause: Clause, behind: Coverage) -> None:
    terminal.say(f"{clause.id} ({clause.level}), chapter {clause.chapter}", bold=True)
    terminal.say(clause.text)
    terminal.say()
    support = {"functions": behind.functions}
    if clause.judged_by_vectors:
        support |= {"vectors": behind.vectors, "killed mutants": behind.mutants}
    for kind, found in support.items():
        terminal.say(f"{kind}: {', '.join(found.get(clause.id, [])) or 'none'}")


def show_coverage(clauses: Mapping[str, Clause], behind: Coverage) -> None:
    """A table of the MUST clauses.  Leaves with 1 where one of them lacks support."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("clause", "functions", "vectors", "killed mutants", "missing"):
        table.add_column(heading, justify="left" if heading in ("clause", "missing") else "right")
    must = [clause for clause in clauses.values() if required(clause)]
    for clause in must:
        missing = behind.missing(clause)
        counts = [len(k.get(clause.id, [])) for k in (behind.functions, behind.vectors)]
        counts.append(len(behind.mutants.get(clause.id, [])))
        table.add_row(clause.id, *map(str, counts), Text(", ".join(missing), "red"))
    terminal.console().print(table)
    bare = [clause for clause in must if behind.missing(clause)]
    unknown = sorted(behind.functions.keys() - clauses.keys())
    for id in unknown:
        terminal.say(f"{id} is named by {', '.join(behind.functions[id])}, and is no clause")
    terminal.say(
        f"{len(must) - len(bare)} of {len(must)} MUST clauses that vectors judge are covered"
    )
    if bare or unknown:
        raise ExitError(NOT_CONFORMING)
