"""One substitution in the syntax tree of a function: what a mutant is.

`before` and `after` are Python: one expression, or statements that follow one another.  They are
compared as trees, so that neither layout nor comments nor the place of the function matter.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from copy import deepcopy
from textwrap import dedent

Code = ast.expr | list[ast.stmt]


def parsed(text: str) -> Code:
    """One expression, or statements.  Raises SyntaxError where the text is neither."""
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return ast.parse(dedent(text)).body


def statements(code: Code) -> list[ast.stmt]:
    return [ast.Expr(code)] if isinstance(code, ast.expr) else code


def functions(trees: Mapping[str, ast.Module]) -> dict[tuple[str, str], ast.FunctionDef]:
    """The functions at the top of modules, by file (without .py) and name."""
    return {
        (stem, node.name): node
        for stem, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def find(trees: Mapping[str, ast.Module], name: str) -> tuple[str, str]:
    """The file and name of a function `name`, or `file.name` where two files have one.

    Raises ValueError where there is no such function, or more than one.
    """
    found = [key for key in functions(trees) if name in (key[1], ".".join(key))]
    if len(found) != 1:
        where = f"are in {', '.join(stem for stem, _ in found)}" if found else "do not exist"
        raise ValueError(f"functions named {name} {where}: name exactly one")
    return found[0]


def replaced(function: ast.FunctionDef, before: str, after: str) -> ast.FunctionDef:
    """A copy of the function in which `before` is `after`.

    Raises ValueError unless `before` occurs exactly once.
    """
    copy, old, new = deepcopy(function), parsed(before), parsed(after)
    if isinstance(old, ast.expr) and isinstance(new, list):
        old = statements(old)  # an expression that is a statement
    places = list(expressions(copy, old) if isinstance(old, ast.expr) else runs(copy, old))
    if len(places) != 1:
        raise ValueError(f"`{before}` occurs {len(places)} times in {function.name}")
    parent, field, part = places[0]
    if isinstance(old, list):
        getattr(parent, field)[part] = statements(new)
    elif isinstance(part, int):
        getattr(parent, field)[part] = new
    else:
        setattr(parent, field, new)
    return ast.fix_missing_locations(copy)


Place = tuple[ast.AST, str, "int | slice | None"]  # a node, a field of it, and where in a list


def expressions(tree: ast.AST, wanted: ast.expr) -> Iterator[Place]:
    """Where an expression equal to `wanted` stands."""
    sought = ast.dump(wanted)
    for parent, field, part, child in children(tree):
        if isinstance(child, ast.expr) and ast.dump(child) == sought:
            yield parent, field, part


def runs(tree: ast.AST, wanted: list[ast.stmt]) -> Iterator[Place]:
    """Where statements equal to `wanted` follow one another."""
    sought, n = [ast.dump(s) for s in wanted], len(wanted)
    for parent in ast.walk(tree):
        for field in ("body", "orelse"):
            body = getattr(parent, field, None)
            if isinstance(body, list):
                dumps = [ast.dump(s) for s in body]
                for i in range(len(body) - n + 1):
                    if dumps[i : i + n] == sought:
                        yield parent, field, slice(i, i + n)


def children(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """Every node below the tree with its parent, the field, and the index if that is a list."""
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, ast.AST):
                yield parent, field, None, value
            elif isinstance(value, list):
                for i, child in enumerate(value):
                    if isinstance(child, ast.AST):
                        yield parent, field, i, child


def with_function(tree: ast.Module, new: ast.FunctionDef) -> str:
    """The text of a module in which `new` stands for the function of its name."""
    body = [
        new if isinstance(node, ast.FunctionDef) and node.name == new.name else node
        for node in tree.body
    ]
    return ast.unparse(ast.Module(body, tree.type_ignores)) + "\n"
