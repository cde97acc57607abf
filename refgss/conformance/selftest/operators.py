"""Mutants that no author chose: every small change of every function of the reference.

Each operator below takes a node of the syntax tree and gives what may stand in its place, as tools
for mutation testing do.  Sentences of errors, docstrings and annotations are left alone.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from refgss.conformance.selftest.substitution import children, functions

OMITTED = ("__init__", "stages")  # files of names and probes: no mathematics
# what draws at random is advice (GSS-INI-5, GSS-INI-6); `readable` serves the enclosures
OMITTED_FUNCTIONS = ("gss_parameters", "dss_parameters", "readable")
COMPLEX = frozenset("lam c z p state dlam dz dstate slope dbbar dabar dweight weight".split())
COMPLEX_FILES = ("discretization", "kernel", "recurrence")
SHOWN = 70  # characters of code in a name


@dataclass(frozen=True)
class Generated:
    """One change of a function: `name` says where and what; `text` is the changed function."""

    name: str
    file: str
    function: str
    operator: str
    text: str


Change = tuple[str, ast.AST]  # the operator's name, what comes instead


def code(text: str, **holes: ast.AST) -> ast.expr:
    """The expression `text`, its names replaced by the trees of `holes`."""

    class Fill(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            return holes.get(node.id, node)

    filled = Fill().visit(ast.parse(text, mode="eval").body)
    assert isinstance(filled, ast.expr)
    return filled


ARITHMETIC: dict[type, tuple[str, ...]] = {
    ast.Add: ("a - b", "a * b", "a", "b"),
    ast.Sub: ("a + b", "b - a", "a", "b"),
    ast.Mult: ("a / b", "a + b", "a", "b"),
    ast.Div: ("a * b", "b / a", "a", "b"),
    ast.Pow: ("a * b", "a ** (b + 1)", "a"),
    ast.MatMult: ("b @ a", "a @ b * 2"),
    ast.FloorDiv: ("a / b", "a * b"),
    ast.BitOr: ("a", "b"),
}


def arithmetic(node: ast.BinOp) -> Iterator[Change]:
    """Another operator, exchanged operands, one operand alone."""
    for text in ARITHMETIC.get(type(node.op), ()):
        kind = "dropped term" if text in "ab" else "operator"
        yield kind, code(text, a=node.left, b=node.right)


COMPARED: dict[type, tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}


def comparison(node: ast.Compare) -> Iterator[Change]:
    """The bound included or excluded, and the opposite."""
    for i, op in enumerate(node.ops):
        for other in COMPARED[type(op)]:
            ops = [*node.ops[:i], other(), *node.ops[i + 1 :]]
            yield "comparison", ast.Compare(node.left, ops, node.comparators)


def constant(node: ast.Constant) -> Iterator[Change]:
    """One more, one less, twice, half, the other truth value."""
    x = node.value
    if isinstance(x, bool):
        yield "constant", ast.Constant(not x)
    elif isinstance(x, int):
        yield from (("constant", ast.Constant(y)) for y in (x + 1, x - 1))
    elif isinstance(x, float):
        yield from (("constant", ast.Constant(y)) for y in (2 * x, x / 2, x + 1))


def choice(node: ast.IfExp) -> Iterator[Change]:
    yield from (("choice", n) for n in (node.body, node.orelse))


def branch(node: ast.If) -> Iterator[Change]:
    for value in (True, False):
        yield "choice", ast.If(ast.Constant(value), node.body, node.orelse)


def logic(node: ast.BoolOp) -> Iterator[Change]:
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield "logic", ast.BoolOp(other, node.values)
    for i in range(len(node.values)):
        left = [v for j, v in enumerate(node.values) if j != i]
        yield "logic", left[0] if len(left) == 1 else ast.BoolOp(node.op, left)


def unary(node: ast.UnaryOp) -> Iterator[Change]:
    if not isinstance(node.operand, ast.Constant):
        yield "sign", node.operand


def limits(node: ast.Slice) -> Iterator[Change]:
    """A bound moved by one or left out, the order of the elements."""
    low, high, step = node.lower, node.upper, node.step
    if low is not None:
        yield "slice", ast.Slice(None, high, step)
        yield "slice", ast.Slice(code("a + 1", a=low), high, step)
    if high is not None:
        yield "slice", ast.Slice(low, None, step)
        for text in ("a + 1", "a - 1"):
            yield "slice", ast.Slice(low, code(text, a=high), step)
    if step is not None:
        yield "slice", ast.Slice(low, high, None)
    elif low is None and high is None:
        yield "slice", ast.Slice(None, None, code("-1"))


METHODS = {"sum": ("mean", "max"), "mean": ("sum", "max"), "max": ("min",), "min": ("max",)}
COMMUTATIVE = ("max", "min", "np.maximum", "np.minimum")
FUNCTIONS = {
    "maximum": ("minimum",),
    "expm1": ("exp",),
    "exp": ("expm1",),
    "log": ("log1p",),
    "sqrt": ("square",),
    "zeros": ("ones",),
    "zeros_like": ("ones_like",),
    "any": ("all",),
    "all": ("any",),
    "stack": ("concatenate",),
    "triu": ("tril",),
    "tril": ("triu",),
}


def called(node: ast.Call) -> Iterator[Change]:
    """Another function, a call or a keyword removed, neighbouring arguments exchanged."""
    function = node.func
    if isinstance(function, ast.Attribute):
        for name in (METHODS | FUNCTIONS).get(function.attr, ()):
            other = ast.Attribute(function.value, name, ast.Load())
            yield "reduction" if name in METHODS else "function", again(node, func=other)
        if not isinstance(function.value, ast.Name) or function.value.id not in ("np", "checks"):
            yield "removed call", function.value
    if len(node.args) == 1 and not isinstance(node.args[0], ast.GeneratorExp):
        yield "removed call", node.args[0]
    commutes = ast.unparse(function) in COMMUTATIVE
    for i, (x, y) in enumerate(zip(node.args, node.args[1:], strict=False)):
        if tells(x) and tells(y) and not commutes:
            args = [*node.args[:i], y, x, *node.args[i + 2 :]]
            yield "swapped arguments", again(node, args=args)
    for i in range(len(node.keywords)):
        left = [k for j, k in enumerate(node.keywords) if j != i]
        yield "dropped keyword", again(node, keywords=left)


def again(node: ast.Call, **fields: object) -> ast.Call:
    known: dict[str, Any] = {"func": node.func, "args": node.args, "keywords": node.keywords}
    return ast.Call(**known | fields)


def tells(argument: ast.expr) -> bool:
    """Whether an argument means more than a word in the sentence of an error."""
    return not (
        (isinstance(argument, ast.Constant) and isinstance(argument.value, str))
        or (isinstance(argument, ast.Name) and argument.id in ("op", "name", "what", "other"))
    )


def part(node: ast.Attribute) -> Iterator[Change]:
    if node.attr in ("real", "imag"):
        other = "imag" if node.attr == "real" else "real"
        yield "part", ast.Attribute(node.value, other, node.ctx)
    if node.attr == "T":
        yield "transpose", node.value


def assignment(node: ast.Assign) -> Iterator[Change]:
    """The value with the other sign or doubled; an assignment that changes a variable left out."""
    names = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
    target = node.targets[0]
    if isinstance(target, ast.Name):
        if target.id in names:
            yield "dropped statement", ast.Pass()
        if isinstance(node.value, ast.BinOp | ast.Call):
            yield "sign", ast.Assign(node.targets, code("-a", a=node.value))
            yield "factor", ast.Assign(node.targets, code("2 * a", a=node.value))


def returned(node: ast.Return) -> Iterator[Change]:
    """What is returned: each value with the other sign, doubled, or two of them exchanged."""
    values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    for i, value in enumerate(values):
        if isinstance(value, ast.BinOp | ast.Call | ast.Name):
            for kind, text in (("sign", "-a"), ("factor", "2 * a"), ("factor", "0 * a")):
                changed = [*values[:i], code(text, a=value), *values[i + 1 :]]
                yield kind, ast.Return(as_before(node, changed))
    for i in range(len(values) - 1):
        changed = [*values[:i], values[i + 1], values[i], *values[i + 2 :]]
        yield "swapped results", ast.Return(as_before(node, changed))


def as_before(node: ast.Return, values: list[ast.expr]) -> ast.expr:
    return ast.Tuple(values, ast.Load()) if isinstance(node.value, ast.Tuple) else values[0]


def statement(node: ast.Expr) -> Iterator[Change]:
    if isinstance(node.value, ast.Call):
        yield "dropped statement", ast.Pass()


def variable(node: ast.Name) -> Iterator[Change]:
    if node.id in COMPLEX and isinstance(node.ctx, ast.Load):
        yield "conjugation", code("np.conj(a)", a=node)


def shows(parent: ast.AST) -> bool:
    """Whether a conjugation can be seen there: not by a check, and not in a real part."""
    if isinstance(parent, ast.Attribute):
        return parent.attr not in ("real", "dtype", "shape", "ndim")
    return not (isinstance(parent, ast.Call) and ast.unparse(parent.func).startswith("checks."))


OPERATORS: Mapping[type, Callable[..., Iterator[Change]]] = {
    ast.BinOp: arithmetic,
    ast.Compare: comparison,
    ast.Constant: constant,
    ast.IfExp: choice,
    ast.If: branch,
    ast.BoolOp: logic,
    ast.UnaryOp: unary,
    ast.Slice: limits,
    ast.Call: called,
    ast.Attribute: part,
    ast.Assign: assignment,
    ast.Return: returned,
    ast.Expr: statement,
    ast.Name: variable,
}


def left_alone(function: ast.FunctionDef) -> set[int]:
    """The nodes that are sentences or types, by identity."""
    apart: list[ast.AST] = [*function.decorator_list, function.args]
    apart += [function.returns] if function.returns else []
    apart += [n for n in ast.walk(function) if isinstance(n, ast.Raise | ast.JoinedStr)]
    apart += [n.annotation for n in ast.walk(function) if isinstance(n, ast.AnnAssign)]
    return {id(node) for tree in apart for node in ast.walk(tree)}


def generate(trees: Mapping[str, ast.Module]) -> list[Generated]:
    """All mutants of all functions of the reference, no two alike, in the order of the text."""
    found = []
    for (file, name), function in functions(trees).items():
        if file not in OMITTED and "/" not in file and name not in OMITTED_FUNCTIONS:
            found += list(of_function(file, name, function))
    return found


def of_function(file: str, name: str, original: ast.FunctionDef) -> Iterator[Generated]:
    function, named = deepcopy(original), Counter[str]()
    seen, apart = {ast.unparse(function)}, left_alone(function)
    for parent, field, index, node in list(children(function)):
        if id(node) in apart:
            continue
        for operator, instead in OPERATORS.get(type(node), lambda _: ())(node):
            if operator == "conjugation" and not (file in COMPLEX_FILES and shows(parent)):
                continue
            put(parent, field, index, instead)
            text = ast.unparse(ast.fix_missing_locations(function))
            put(parent, field, index, node)
            if text in seen:
                continue
            seen.add(text)
            what = told(file, name, parent, node, instead)
            named[what] += 1
            what += f" #{named[what]}" if named[what] > 1 else ""
            yield Generated(what, file, name, operator, text)


def put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    """Make `node` the child of `parent` there."""
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def told(file: str, name: str, parent: ast.AST, node: ast.AST, instead: ast.AST) -> str:
    """`file.function: before → after`, with what surrounds a name or a number."""
    before, after = short(node), short(instead)
    inside = f" in {short(parent)}" if isinstance(parent, ast.expr) else ""
    return f"{file}.{name}: {before} → {after}{inside}"


def short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(node)).split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
