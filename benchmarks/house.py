"""What a new layer kind or op would have to touch, counted in the source.

    python benchmarks/house.py [CHECKOUT] [--counts | --draw]

Prints, with their places: conditionals on the layer kind, hand-kept lists of ops, functions longer
than 60 lines, files longer than 400, import circles, and imports that go up the rooms of the house.
It reads text alone, so CHECKOUT may be of any age.  --draw prints the drawing of the house that
docs/architecture.md shows, from the imports themselves.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

FUNCTION, FILE, LIST = 60, 400, 3  # a longer function, a longer file, so many ops in one literal
CODE = ("refgss/**/*.py", "csrc/**/*.[ch]pp", "include/*.h", "benchmarks/*.py", "tests/**/*.py")
# what may import what: a room imports those below it, and those beside it
ROOMS = (
    "cli testing pytest_plugin",
    "studies training serve torch conformance bench",
    "model scores",
    "xla",
    "native",
    "reference",
    "layers ops checks config",
    "schemas standard files tensors text children",
)
# kernels implement what the headers of other rooms declare; nothing includes them
CPP_ROOMS = ("bindings", "abi", "kernels", "decoder", "layers", "conv ssm dense attention", "core")
# in C++ a kind shows by these words in a condition
CPP_KIND = re.compile(
    r"gated\(\)|(?:\.|->)[gd]ss\b|is_[gd]ss|REFGSS_LAYER_|layer(?:\.|->)kind|holds_alternative"
)
CPP_CONDITION = re.compile(r"\bif\b|\?|&&|\|\||\bswitch\b|\bcase\b")
CONTROL = re.compile(r"\s*(?:\}?\s*else\s+)?(?:if|for|while|switch|catch|else|do)\b")
FUNCTION_HEAD = re.compile(
    r"\)\s*(?:(?:const|noexcept|override|final|mutable)\s*)*(?:->[^;{}]+)?$|\)\s*:\s*\w.*[)}]\s*$",
    re.DOTALL,
)

Trees = Mapping[Path, ast.Module]


# --- the layer kind ----------------------------------------------------------------------------


def kinds(root: Path) -> list[str]:
    """Short names of the layer kinds: those of the configs that a language model may have."""
    classes = re.findall(r"^class (\w+)Config\b", (root / "refgss/config.py").read_text(), re.M)
    return [name.lower() for name in classes if name not in ("LM", "Layer")]


def asks_for_kind(node: ast.AST, names: list[str]) -> bool:
    """isinstance(x, GSSConfig), type(x) is GSSConfig, x == "gss_layer", op.startswith("dss")."""
    classes = {f"{name.upper()}Config".lower() for name in names}
    words = {form for n in names for form in (n, f"{n}_layer", f"{n}_layer_vjp")}

    def is_class(n: ast.AST) -> bool:
        name = n.attr if isinstance(n, ast.Attribute) else getattr(n, "id", "")
        return name.lower() in classes

    if isinstance(node, ast.Call):
        if getattr(node.func, "id", "") == "isinstance":
            return any(is_class(n) for n in ast.walk(node.args[1]))
        if isinstance(node.func, ast.Attribute) and node.func.attr == "startswith":
            of_form = getattr(node.func.value, "attr", "") == "method"  # the form, not the kind
            return not of_form and any(s.startswith(tuple(names)) for s in strings(node))
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        return any(is_class(s) for s in sides) or any(
            isinstance(s, ast.Constant) and s.value in words for s in sides
        )
    return False


def strings(node: ast.AST) -> list[str]:
    found = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return [value for value in found if isinstance(value, str)]


def flags(tree: ast.AST, names: list[str]) -> set[str]:
    """Names that hold an answer about the kind: `is_gss = isinstance(...)`."""
    return {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and asks_for_kind(node.value, names)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def kind_conditionals(root: Path, trees: Trees) -> Iterator[str]:
    names = kinds(root)
    for file, tree in trees.items():
        if "refgss" not in file.parts:
            continue
        held = flags(tree, names)
        for node in ast.walk(tree):
            tests = [node.test] if isinstance(node, ast.If | ast.IfExp) else []
            used = any(getattr(n, "id", "") in held for t in tests for n in ast.walk(t))
            if asks_for_kind(node, names) or used:
                yield f"{file}:{node.lineno}"  # type: ignore[attr-defined]
    for path in sorted(root.glob("csrc/**/*.[ch]pp")):
        for number, line in enumerate(plain(path.read_text()).splitlines(), 1):
            if CPP_KIND.search(line) and CPP_CONDITION.search(line):
                yield f"{path.relative_to(root)}:{number}"


# --- lists of ops ------------------------------------------------------------------------------


def op_lists(root: Path, trees: Trees) -> Iterator[str]:
    """Literals with three ops or more, but for the table of ops itself."""
    ops = set(re.findall(r'^    "(\w+)": _?[Oo]p\(', table_of_ops(root).read_text(), re.M))
    for file, tree in trees.items():
        if "refgss" not in file.parts or file.name == "ops.py":
            continue
        for node in ast.walk(tree):
            if len(named(node) & ops) >= LIST:
                yield f"{file}:{node.lineno}"  # type: ignore[attr-defined]
    for path in sorted(root.glob("csrc/**/*.[ch]pp")):
        for found in re.finditer(r"\{[^{};]*\}", path.read_text()):
            if len(set(re.findall(r'"(\w+)"', found[0])) & ops) >= LIST:
                line = path.read_text().count("\n", 0, found.start()) + 1
                yield f"{path.relative_to(root)}:{line}"


def table_of_ops(root: Path) -> Path:
    return next(p for f in ("ops.py", "conformance/ops.py") if (p := root / "refgss" / f).exists())


def named(node: ast.AST) -> set[str]:
    """What the elements of a literal name: strings, functions, firsts of tuples, words of text."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        words = node.value.split()  # "gelu dense".split(), but no prose
        return set(words) if all(re.fullmatch(r"\w+", w) for w in words) else set()
    if isinstance(node, ast.Dict):
        elements = [key for key in node.keys if key is not None]
    elif isinstance(node, ast.List | ast.Tuple | ast.Set):
        elements = list(node.elts)
    else:
        return set()
    found = set()
    for e in elements:
        first = e.elts[0] if isinstance(e, ast.Tuple | ast.List) and e.elts else e
        value = getattr(first, "value", None)
        found |= {value} if isinstance(value, str) else set()
        found.add(getattr(first, "attr", getattr(first, "id", "")))
    return found


# --- sizes -------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """C++ without comments, strings and preprocessor lines; all else stays on its line."""

    def blank(found: re.Match) -> str:
        return re.sub(r"[^\n]", " ", found[0])

    text = re.sub(
        r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', blank, text, flags=re.S
    )
    return re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, text, flags=re.M)


def cpp_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """(head, first line, lines) of every function that has a body, lambdas aside."""
    text, stack, head, parens = plain(text), [], 0, 0
    for i, char in enumerate(text):
        if char in "()":
            parens += 1 if char == "(" else -1
        elif char == ";" and parens == 0:
            head = i + 1
        elif char == "{":
            before = text[head:i]
            is_function = bool(FUNCTION_HEAD.search(before)) and not CONTROL.match(before)
            is_function &= parens == 0 and "=" not in re.sub(r"\(.*\)", "", before, flags=re.S)
            start = head + len(before) - len(before.lstrip())
            stack.append((before.strip() if is_function else "", start, parens))
            head, parens = i + 1, 0
        elif char == "}" and stack:
            name, start, parens = stack.pop()
            if name:
                first = text.count("\n", 0, start) + 1
                yield " ".join(name.split()), first, text.count("\n", start, i) + 1
            head = i + 1


def long_functions(root: Path, trees: Trees) -> Iterator[str]:
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION:
                    yield f"{file}:{node.lineno} {node.name}, {lines} lines"
    for path in sorted((*root.glob("csrc/**/*.[ch]pp"), *root.glob("include/*.h"))):
        for head, first, lines in cpp_functions(path.read_text()):
            if lines > FUNCTION:
                name = re.findall(r"([\w:~]+)\s*\(", head)
                yield f"{path.relative_to(root)}:{first} {name[0] if name else head}, {lines} lines"


def long_files(root: Path) -> Iterator[str]:
    for file in sorted({file for pattern in CODE for file in root.glob(pattern)}):
        lines = file.read_text().count("\n")
        if lines > FILE:
            yield f"{file.relative_to(root)}, {lines} lines"


# --- arrows ------------------------------------------------------------------------------------


def module_name(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def for_types(tree: ast.Module) -> Iterator[ast.AST]:
    """What stands under `if TYPE_CHECKING`, which never runs."""
    for node in tree.body:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            yield from ast.walk(node)


def python_arrows(trees: Trees) -> dict[str, set[str]]:
    """Module -> modules that it imports, at its top or inside a function; for types alone: none."""
    modules = {module_name(f): t for f, t in trees.items() if f.parts[0] == "refgss"}
    arrows: dict[str, set[str]] = {name: set() for name in modules}
    for name, tree in modules.items():
        for node in set(ast.walk(tree)) - set(for_types(tree)):
            if isinstance(node, ast.Import):
                arrows[name] |= {a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    # a module of the package, or what the package's __init__ defines
                    extension = alias.name == "_core"
                    arrows[name].add(inner if inner in modules or extension else node.module)
    return {name: (to & set(modules)) - {name} for name, to in arrows.items()}


def include_arrows(root: Path) -> dict[str, set[str]]:
    """File of csrc -> files of csrc that it includes."""
    files = {str(p.relative_to(root / "csrc")): p for p in root.glob("csrc/**/*.[ch]pp")}
    arrows: dict[str, set[str]] = {}
    for name, path in files.items():
        wanted = re.findall(r'^\s*#include "([^"]+)"', path.read_text(), re.M)
        beside = [str(Path(name).parent / w).removeprefix("./") for w in wanted]
        arrows[name] = {w for w in (*wanted, *beside) if w in files} - {name}
    return arrows


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Sets of two or more that reach each other."""
    reach: dict[str, set[str]] = {}
    for start in arrows:
        seen, todo = set(), [start]
        while todo:
            new = arrows.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        reach[start] = seen
    groups = {frozenset(b for b in reach[a] if a in reach.get(b, ())) for a in reach}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def between_rooms(arrows: Mapping[str, set[str]], room: Mapping[str, str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {name: set() for name in room.values()}
    for a, to in arrows.items():
        found[room[a]] |= {room[b] for b in to} - {room[a]}
    return found


def python_room(module: str) -> str:
    """The first name below refgss; the package itself is none."""
    return module.split(".")[1] if "." in module else ""


def upward(arrows: Mapping[str, set[str]], room: Mapping[str, str], rooms: tuple) -> Iterator[str]:
    """Imports from a room of a room above it."""
    rank = {name: i for i, row in enumerate(rooms) for name in row.split()}
    for a, to in sorted(arrows.items()):
        for b in sorted(to):
            if room[a] in rank and room[b] in rank and rank[room[b]] < rank[room[a]]:
                yield f"{a} -> {b}"


def arrows_of(root: Path, trees: Trees) -> tuple[list[str], list[str]]:
    """Circles, of modules, of headers and of rooms; and imports that go up."""
    python, cpp = python_arrows(trees), include_arrows(root)
    rooms = {m: python_room(m) for m in python}
    cpp_rooms = {f: Path(f).parts[0] if "/" in f else "" for f in cpp}
    found = circles(python) + circles(cpp)
    for arrows, room in ((python, rooms), (cpp, cpp_rooms)):
        inside = {a: {b for b in to if room[a] and room[b]} for a, to in arrows.items()}
        found += [["rooms:", *c] for c in circles(between_rooms(inside, room))]
    up = [*upward(python, rooms, ROOMS), *upward(cpp, cpp_rooms, CPP_ROOMS)]
    return [" ".join(c) for c in found], up


def drawing(arrows: Mapping[str, set[str]], room: Mapping[str, str], rooms: tuple) -> Iterator[str]:
    """A floor a line, the highest first; under it what each of its rooms imports."""
    known = {r for row in rooms for r in row.split()}
    inside = {
        a: {b for b in to if room[b] in known} for a, to in arrows.items() if room[a] in known
    }
    between = between_rooms(inside, {m: room[m] for m in arrows if room[m] in known})
    order = [name for row in rooms for name in row.split()]
    for row in rooms:
        if present := [name for name in row.split() if name in between]:
            yield "── " + ", ".join(present) + " " + "─" * (74 - len(", ".join(present)))
            for name in present:
                used = ", ".join(sorted(between[name], key=order.index))
                yield f"   {name:12} ↓ {used}" if used else f"   {name}"


def draw(root: Path, trees: Trees) -> None:
    python, cpp = python_arrows(trees), include_arrows(root)
    print("refgss/", *drawing(python, {m: python_room(m) for m in python}, ROOMS), sep="\n")
    cpp_rooms = {f: Path(f).parts[0] for f in cpp}
    print("\ncsrc/", *drawing(cpp, cpp_rooms, CPP_ROOMS), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("checkout", nargs="?", type=Path, default=here)
    parser.add_argument("--counts", action="store_true", help="Without the places.")
    parser.add_argument("--draw", action="store_true", help="The house in place of the counts.")
    options = parser.parse_args()
    root = options.checkout
    python = sorted({p for pattern in CODE if pattern.endswith(".py") for p in root.glob(pattern)})
    trees = {p.relative_to(root): ast.parse(p.read_text("utf-8")) for p in python}
    if options.draw:
        return draw(root, trees)
    round_about, up = arrows_of(root, trees)
    counted = {
        "conditionals on the layer kind": list(kind_conditionals(root, trees)),
        "hand-kept lists of ops": list(op_lists(root, trees)),
        f"functions longer than {FUNCTION} lines": list(long_functions(root, trees)),
        f"files longer than {FILE} lines": list(long_files(root)),
        "import circles": round_about,
        "imports that go up the rooms": up,
    }
    for what, places in counted.items():
        by_place = Counter(places)
        print(f"{len(places):4}  {what}")
        if not options.counts:
            print(
                *(f"      {p}" + f" ({n} times)" * (n > 1) for p, n in by_place.items()), sep="\n"
            )


if __name__ == "__main__":
    main()
