"""`refgss vectors`: list, lint, certify and export the published vectors."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import click

from refgss.cli import terminal
from refgss.cli.arguments import CLAUSE, FOLDER, OP, nearest
from refgss.cli.exits import VECTORS, ExitError
from refgss.conformance.clauses import read_clauses
from refgss.conformance.vectors.format import (
    Vector,
    VectorSet,
    checked,
    read_file,
    read_vectors,
    write_vectors,
)
from refgss.conformance.vectors.format import lint as problems
from refgss.conformance.vectors.words import told
from refgss.files import atomic_write, filling
from refgss.ops import CONTRACT
from refgss.standard import spec_folder

if TYPE_CHECKING:
    from refgss.conformance.vectors.cases import Case

folder_option = click.option(
    "--vectors", "folder", type=FOLDER, help="Use the vectors in this folder."
)


def published() -> Path:
    return spec_folder() / "vectors"


@click.group(
    invoke_without_command=True, short_help="List, check, recompute or export the test vectors."
)
@click.pass_context
def vectors(context: click.Context) -> None:
    """List, check, recompute or export the test vectors; without a COMMAND, count them."""
    if context.invoked_subcommand is None:
        summarize(read_vectors(published()))


def summarize(found: VectorSet) -> None:
    """How many vectors there are of each op, and what to do with them."""
    terminal.say(f"{len(found.vectors)} vectors of {found.date} ({found.digest[:16]})")
    counts = Counter(v.op for v in found.vectors)
    refused = Counter(v.op for v in found.vectors if v.error)
    for op in CONTRACT:
        if counts[op]:
            more = f", {refused[op]} of them to be refused" if refused[op] else ""
            terminal.say(f"{counts[op]:6} {op}{more}")
    terminal.say("`refgss vectors list --op OP` lists them, `refgss vectors -h` names the commands")


@vectors.command("list")
@click.option("--op", type=OP, metavar="OP", help="List only this op.")
@click.option("--clause", type=CLAUSE, metavar="ID", help="List only this clause.")
@folder_option
def list_(op: str | None, clause: str | None, folder: Path | None) -> None:
    """List the vectors, one per line: id, clauses, flags, note."""
    for v in read_vectors(folder or published()).vectors:
        if op in (None, v.op) and (clause is None or clause in v.clauses):
            marks = [*v.flags, *(["must be refused"] if v.error else [])]
            about = "; ".join(filter(None, [", ".join(marks), v.note]))
            terminal.say(f"{v.id}  {' '.join(v.clauses)}  {about}".rstrip())


@vectors.command()
@click.argument("id")
@folder_option
def show(id: str, folder: Path | None) -> None:
    """Show a vector: its inputs and options, and each proven value with its budget."""
    found = {v.id: v for v in read_vectors(folder or published()).vectors}
    if id not in found:
        raise click.UsageError(
            f"there is no vector {id}: {nearest(id, found)}`refgss vectors list` lists them"
        )
    for line in told(found[id]):
        terminal.say(line)


@vectors.command(short_help="Check ids, clauses, hashes, radii and coverage.")
@folder_option
def lint(folder: Path | None) -> None:
    """Check ids, clauses, hashes and radii, and that every MUST clause is covered."""
    levels = {c.id: c.level for c in read_clauses(spec_folder()).values() if c.judged_by_vectors}
    folder = folder or published()
    found = read_vectors(folder)
    checked("index", read_file(folder, "index.json"))  # also that of the installed set
    wrong = problems(found.vectors, levels)
    for sentence in wrong:
        terminal.say(sentence)
    terminal.say(f"{len(found.vectors)} vectors of {found.date}, {len(wrong)} problems")
    if wrong:
        raise ExitError(VECTORS)


@vectors.command(short_help="Recompute all vectors and compare the bytes.")
@click.option("--write", is_flag=True, help="Replace the folder instead of comparing.")
@click.option("--add", is_flag=True, help="Only add the cases that are not published yet.")
@click.option("--date", help="Date of the new set, with --write or --add.")
@folder_option
def certify(write: bool, add: bool, date: str | None, folder: Path | None) -> None:
    """Recompute every vector and compare the bytes with the published ones.

    Published inputs are kept as they are; they are never drawn again.
    """
    from refgss.conformance.vectors.build import to_certify
    from refgss.conformance.vectors.cases import all_cases

    folder = folder or published()
    if (write or add) and date is None:
        raise click.UsageError("give --date YYYY-MM-DD for the new set")
    shipped = VectorSet("", "", ()) if write and not folder.exists() else read_vectors(folder)
    built = certified(to_certify(shipped.vectors, all_cases(), only_new=add))
    if write or add:
        whole = [*shipped.vectors, *built] if add else built
        write_vectors(folder, whole, date or shipped.date)
        terminal.say(f"certified {len(built)} vectors and wrote {len(whole)} to {folder}")
        return
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name)
        write_vectors(fresh, built, shipped.date)
        different = sorted(
            name
            for name in {f.name for f in (*fresh.iterdir(), *folder.iterdir())}
            if not same(fresh / name, folder / name)
        )
    for name in different:
        terminal.say(f"{name} is not what certification gives")
    terminal.say(f"{len(built)} vectors certified again, {len(different)} files differ")
    if different:
        raise ExitError(VECTORS)


def certified(cases: Sequence[Case]) -> list[Vector]:
    """The vectors of cases, certified by as many processes as there are cores."""
    from refgss.conformance.vectors.build import vector

    built = []
    with (
        ProcessPoolExecutor(os.cpu_count()) as pool,
        terminal.progress("certifying", len(cases)) as step,
    ):
        for v in pool.map(vector, cases, chunksize=4):
            built.append(v)
            step()
    return built


def same(a: Path, b: Path) -> bool:
    return a.exists() and b.exists() and a.read_bytes() == b.read_bytes()


@vectors.command(short_help="Copy the standard to a new folder.")
@click.argument("target", type=FOLDER)
def export(target: Path) -> None:
    """Copy vectors, schemas and chapters to the new folder TARGET, for use without refgss."""
    if target.exists() and any(target.iterdir()):
        raise click.UsageError(f"{target} is not empty: choose a new folder")
    read_vectors(published())  # never export what is damaged
    with filling(target) as folder:
        copy_standard(folder)
    terminal.say(f"exported the spec and its vectors to {target}")


def copy_standard(folder: Path) -> None:
    """Copy chapters, schemas and vectors.  Raises OSError."""
    for file in sorted(spec_folder().rglob("*")):
        if file.is_file() and file.suffix != ".py" and file.parent.name != "__pycache__":
            copy = folder / file.relative_to(spec_folder())
            copy.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(copy, file.read_bytes())
