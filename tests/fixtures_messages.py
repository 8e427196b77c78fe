"""Every message that the product can say, read from its source: what errors, warnings and forms are made with.

A *template* is a message with ``…`` in place of what varies. Its *heading* is the part that says what was found, up to
the end of a sentence, by which docs/messages.md lists it.
"""

from __future__ import annotations

import ast
import builtins
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "labelprop_cvat"
LOCAL_SERVER = "backend/local_cvat/"
# Beside the error tree: what a command tells a person, what the form of an operator says, how stopped work ends, and
# what becomes part of such a message.
OTHERS = {"ArgumentTypeError", "Problem", "Stopped", "UsageError", "_LastingError", "_PassingError"}
SECOND = {"Problem", "UsageError"}  # whose message is the second argument
PLAIN = {"TypeError", "ValueError", "RuntimeError", "LookupError", "IndexError", "NotImplementedError"}
VARIES = "…"
LEAST_HEADING = 25


@dataclass(frozen=True)
class Message:
    """One message: its template, and the module (relative to the package, ``/`` between folders) that says it."""

    template: str
    module: str

    @property
    def heading(self) -> str:
        return heading(self.template)


def heading(template: str) -> str:
    """The first sentence of a template, or as many as hold ``LEAST_HEADING`` characters; without the full stop."""
    text = re.sub(r"\s+", " ", template).strip()
    for end in re.finditer(r"[.:;] (?=[A-Z…'\"])", text):
        said = text[: end.start()]
        if len(said.replace(VARIES, "").strip()) >= LEAST_HEADING and said.count("(") == said.count(")"):
            return said
    return text.rstrip(".")


@functools.cache
def messages() -> list[Message]:
    """All of them, outside of the local server, in the order of modules and lines, each template once a module."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
    errors = error_classes(trees.values())
    found: dict[Message, None] = {}
    for path, tree in trees.items():
        module = path.relative_to(PACKAGE).as_posix()
        if not module.startswith(LOCAL_SERVER):
            for template in _Reader(tree, errors).templates():
                if template.replace(VARIES, "").strip(" .:,;"):
                    found[Message(template, module)] = None
    return list(found)


def answers_of_the_local_server() -> list[str]:
    """What the local server refuses requests with: the sentences in its ``raise`` statements, sorted."""
    found = set()
    for path in sorted((PACKAGE / LOCAL_SERVER).rglob("*.py")):
        tree = ast.parse(path.read_text())
        reader = _Reader(tree, set())
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                found |= set(_sentences(node.exc, reader))
    return sorted(found, key=str.lower)


def error_classes(trees: Iterable[ast.Module]) -> set[str]:
    """The names of ``LabelPropError`` and of every class below it."""
    bases: dict[str, set[str]] = {
        node.name: {_last(base) for base in node.bases}
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
    found = {"LabelPropError"}
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found


def _sentences(call: ast.Call, reader: _Reader) -> Iterator[str]:
    """The strings with a blank in them among the arguments of a call, however deep."""
    waiting: list[ast.AST] = [*call.args, *(keyword.value for keyword in call.keywords)]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
            for text in reader.texts(node, None):
                if " " in text.strip() and text.replace(VARIES, "").strip():
                    yield _squeezed(text)
        else:
            waiting.extend(ast.iter_child_nodes(node))


Function = ast.FunctionDef | ast.AsyncFunctionDef


class _Reader:
    """The templates of one module."""

    def __init__(self, tree: ast.Module, errors: set[str]) -> None:
        self._errors = errors
        self._nodes = list(_inside(tree))
        self._functions = {node.name: node for _, node in self._nodes if isinstance(node, Function)}
        self._constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def templates(self) -> Iterator[str]:
        for function, node in self._nodes:
            if isinstance(node, ast.Call):
                yield from map(_squeezed, self._said_by(node, function))
            raised = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(raised, ast.Call) and raised.args and _last(raised.func) in PLAIN:
                yield from map(_squeezed, self.texts(raised.args[0], function))

    def _said_by(self, call: ast.Call, function: Function | None) -> list[str]:
        """The messages that a call makes, if it makes any."""
        name = _last(call.func)
        if not call.args:
            return []
        if isinstance(call.func, ast.Attribute) and name in ("warning", "warn") and "log" in ast.unparse(call.func):
            return [_percents(text) for text in self.texts(call.args[0], function)]
        if name == "warn" or name in OTHERS or self._is_error(call.func, function):
            return self.texts(call.args[1 if name in SECOND and len(call.args) > 1 else 0], function)
        return []

    def _is_error(self, called: ast.expr, function: Function | None) -> bool:
        """Whether something that is called is an error class, or a variable that holds one."""
        if _last(called) in self._errors:
            return True
        if not isinstance(called, ast.Name) or function is None or called.id in self._functions:
            return False
        if called.id in dir(builtins) or called.id[0].isupper():
            return False
        held = {_last(node) for value in _assigned(called.id, function) for node in ast.walk(value)}
        return bool(held & self._errors)

    def texts(self, node: ast.expr, function: Function | None, depth: int = 0) -> list[str]:
        """What an expression can say: more than one where a condition, a variable or a function decides."""
        if depth > 8:
            return [VARIES]
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else [VARIES]
        if isinstance(node, ast.JoinedStr):
            return ["".join(self._piece(piece) for piece in node.values)]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return ["".join(self.texts(side, function, depth + 1)[0] for side in (node.left, node.right))]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            return [_percents(text) for text in self.texts(node.left, function, depth + 1)]
        if isinstance(node, ast.IfExp):
            return self.texts(node.body, function, depth + 1) + self.texts(node.orelse, function, depth + 1)
        if isinstance(node, ast.Name):
            return self._named(node.id, function, depth) or [VARIES]
        if isinstance(node, ast.Call):
            return self._called(node, function, depth)
        return [VARIES]

    def _piece(self, piece: ast.expr) -> str:
        if isinstance(piece, ast.Constant):
            return str(piece.value)
        if isinstance(piece, ast.FormattedValue) and isinstance(piece.value, ast.Name):
            constant = self._constants.get(piece.value.id)
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                return repr(constant.value) if piece.conversion == ord("r") else constant.value
        return VARIES

    def _named(self, name: str, function: Function | None, depth: int) -> list[str]:
        if function is not None:
            values = _assigned(name, function)
            if values:
                return [text for value in values for text in self.texts(value, function, depth + 1)]
        constant = self._constants.get(name)
        return [] if constant is None else self.texts(constant, None, depth + 1)

    def _called(self, node: ast.Call, function: Function | None, depth: int) -> list[str]:
        name = _last(node.func)
        if isinstance(node.func, ast.Attribute) and name in ("rstrip", "strip", "format"):
            texts = self.texts(node.func.value, function, depth + 1)
            return [re.sub(r"\{[^}]*\}", VARIES, text) for text in texts] if name == "format" else texts
        inner = self._functions.get(name)
        if inner is None:
            return [VARIES]
        returned = [step.value for step in ast.walk(inner) if isinstance(step, ast.Return) and step.value is not None]
        return [text for value in returned for text in self.texts(value, inner, depth + 1)]


def _inside(tree: ast.Module) -> Iterator[tuple[Function | None, ast.AST]]:
    """Every node with the function around it, in the order of the source."""
    waiting: list[tuple[Function | None, ast.AST]] = [(None, tree)]
    while waiting:
        function, node = waiting.pop()
        yield function, node
        inner = node if isinstance(node, Function) else function
        waiting.extend((inner, child) for child in reversed(list(ast.iter_child_nodes(node))))


def _assigned(name: str, function: Function) -> list[ast.expr]:
    """What a function assigns to a variable, alone or beside others."""
    return _assignments(function).get(name, [])


@functools.cache
def _assignments(function: Function) -> dict[str, list[ast.expr]]:
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name):
                found.setdefault(target.id, []).append(node.value)
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for left, value in zip(target.elts, node.value.elts, strict=False):
                    if isinstance(left, ast.Name):
                        found.setdefault(left.id, []).append(value)
    return found


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _percents(text: str) -> str:
    return re.sub(r"%[-+ #0]*\d*(?:\.\d+)?[sdrfigxc]", VARIES, text).replace("%%", "%")


def _squeezed(text: str) -> str:
    return re.sub(rf"{VARIES}(?:\s*{VARIES})+", VARIES, re.sub(r"\s+", " ", text)).strip()
