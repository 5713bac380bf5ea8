"""Every use that our code makes of TensorRT, found by walking its syntax tree, against the bindings of one version.

Run in a process that imports that version: ``python uses.py FILE...`` prints a JSON object with what was checked and
what is wrong. Types follow from the bindings' own docstrings: what a call returns, and what it may be given.
"""

from __future__ import annotations

import ast
import enum
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorrt as trt

SAME = {"IParserError": "ParserError"}
"""What a docstring calls a class by another name than Python has for it."""

CORE = ("Builder", "OnnxParser", "Runtime", "ICudaEngine", "IExecutionContext", "IBuilderConfig", "INetworkDefinition",
        "ITimingCache", "ParserError", "IOptimizationProfile", "EngineInspector")  # fmt: skip

ORDINARY = {"name", "num_errors", "clear", "reset", "flags"}
"""Names that TensorRT's classes share with everybody's."""


@dataclass(frozen=True)
class Is:
    """What an expression is."""

    what: str
    """``value``: a real object of the bindings (module, class, enum member, function); ``instance``: of a real class;
    ``method``: of one; ``local``: an instance of a class of our own."""
    of: Any
    name: str = ""


@dataclass
class Report:
    used: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)


def main(files: list[str]) -> dict[str, Any]:
    report = Report()
    classes: dict[str, dict[str, ast.expr]] = {}
    trees = {file: ast.parse(Path(file).read_text(encoding="utf-8")) for file in files}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name] = _annotations(node)
    for file, tree in trees.items():
        _Walker(Path(file).name, report, classes).visit(tree)
    return {"version": trt.__version__, "used": sorted(report.used), "wrong": report.wrong}


def _annotations(node: ast.ClassDef) -> dict[str, ast.expr]:
    """Of a class of ours: the annotations of its attributes, and of what its methods return."""
    found = {}
    for one in ast.walk(node):
        if isinstance(one, ast.AnnAssign):
            if isinstance(one.target, ast.Name):
                found[one.target.id] = one.annotation
            elif isinstance(one.target, ast.Attribute):
                found[one.target.attr] = one.annotation
    for one in node.body:
        if isinstance(one, ast.FunctionDef) and one.returns is not None:
            found[f"{one.name}()"] = one.returns
    return found


class _Walker(ast.NodeVisitor):
    def __init__(self, file: str, report: Report, classes: dict[str, dict[str, ast.expr]]) -> None:
        self.file, self.report, self.classes = file, report, classes
        self.scopes: list[dict[str, Is]] = [{}]
        self.attributes: list[dict[str, Is]] = []
        self.own: list[str] = []

    # -- where names come from ----------------------------------------------------------------------------------------

    def visit_Import(self, node: ast.Import) -> None:
        for one in node.names:
            if one.name == "tensorrt":
                self.scopes[-1][one.asname or "tensorrt"] = Is("value", trt, "trt")

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            parent = self.type_of(base)
            if parent is not None and parent.what == "value":
                self.overrides(node, parent.of)
        self.own.append(node.name)
        self.attributes.append({})
        for one in ast.walk(node):  # attributes first: methods come in any order
            if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Attribute):
                target = one.targets[0]
                made = self.quietly(one.value)
                if isinstance(target.value, ast.Name) and target.value.id == "self" and made is not None:
                    self.attributes[-1][target.attr] = made
        self.generic_visit(node)
        self.attributes.pop()
        self.own.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        scope: dict[str, Is] = {}
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            if argument.arg == "self" and self.own:
                scope["self"] = Is("local", self.own[-1])
            elif argument.annotation is not None and (made := self.annotated(argument.annotation)) is not None:
                scope[argument.arg] = made
        self.scopes.append(scope)
        for one in node.body:
            self.visit(one)
        self.scopes.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        made = self.type_of(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name) and made is not None:
                self.scopes[-1][target.id] = made
            elif isinstance(target, ast.Attribute):
                self.assigned(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.type_of(node.value)

    def visit_For(self, node: ast.For) -> None:
        self.bind(node.target, node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.bind(node.target, node.iter)
        self.generic_visit(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self.comprehension(node.generators, node.key, node.value)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self.comprehension(node.generators, node.elt)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self.comprehension(node.generators, node.elt)

    def comprehension(self, generators: list[ast.comprehension], *parts: ast.expr) -> None:
        for one in generators:
            self.visit(one)
        for part in parts:
            self.visit(part)

    def bind(self, target: ast.expr, source: ast.expr) -> None:
        """``for x in (value,)`` and ``for x in things.values()`` of a dictionary whose annotation says of what."""
        if not isinstance(target, ast.Name):
            return
        made = self.type_of(source.elts[0]) if isinstance(source, ast.Tuple) and len(source.elts) == 1 else None
        if made is None and isinstance(source, ast.Call) and isinstance(source.func, ast.Attribute):
            inner = source.func.value
            if source.func.attr == "values" and isinstance(inner, ast.Attribute):
                made = self.element(inner)
        if made is not None:
            self.scopes[-1][target.id] = made

    def element(self, node: ast.Attribute) -> Is | None:
        """What a dictionary or list of ours holds, by its annotation."""
        owner = self.type_of(node.value)
        if owner is None or owner.what != "local":
            return None
        annotation = self.classes.get(owner.of, {}).get(node.attr)
        if isinstance(annotation, ast.Subscript):
            part = annotation.slice
            return self.annotated(part.elts[-1] if isinstance(part, ast.Tuple) else part)
        return None

    def annotated(self, node: ast.expr) -> Is | None:
        """An instance of what an annotation names."""
        if isinstance(node, ast.Name) and node.id in self.classes:
            return Is("local", node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trt":
            there = getattr(trt, node.attr, None)
            if there is None:
                self.wrong(node, f"trt.{node.attr} is not there")
                return None
            self.report.used.add(f"trt.{node.attr}")
            return Is("instance", there, node.attr)
        return None

    # -- what is done with them ---------------------------------------------------------------------------------------

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Call | ast.Attribute):
            self.type_of(node)
        else:
            super().generic_visit(node)

    def quietly(self, node: ast.expr) -> Is | None:
        report, self.report = self.report, Report()
        try:
            return self.type_of(node)
        finally:
            self.report = report

    def type_of(self, node: ast.AST) -> Is | None:
        if isinstance(node, ast.Name):
            if node.id == "trt":  # library() answers the module, wherever it is called
                return Is("value", trt, "trt")
            return next((scope[node.id] for scope in reversed(self.scopes) if node.id in scope), None)
        if isinstance(node, ast.Attribute):
            return self.attribute(node)
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.Subscript):
            self.visit(node.slice)
            if isinstance(node.value, ast.Attribute) and (made := self.element(node.value)) is not None:
                return made
            self.type_of(node.value)
            return None
        for child in ast.iter_child_nodes(node):
            self.visit(child)
        return None

    def attribute(self, node: ast.Attribute) -> Is | None:
        owner = self.type_of(node.value)
        if owner is None:
            for name in CORE:
                if (
                    node.attr not in ORDINARY
                    and hasattr(getattr(trt, name), node.attr)
                    and not node.attr.startswith("_")
                ):
                    self.wrong(
                        node, f".{node.attr} is a name of TensorRT's {name}, and of what it is used here is unclear"
                    )
                    break
            return None
        if owner.what == "local":
            known = self.attributes[-1].get(node.attr) if self.own and owner.of == self.own[-1] else None
            if known is None and (annotation := self.classes.get(owner.of, {}).get(node.attr)) is not None:
                known = self.annotated(annotation)
            return known or Is("own method", owner.of, node.attr)
        if owner.what not in ("value", "instance"):
            return None
        name = f"{owner.name}.{node.attr}"
        if not hasattr(owner.of, node.attr):
            self.wrong(node, f"{name} is not there")
            return None
        self.report.used.add(name)
        there = getattr(owner.of, node.attr)
        if owner.what == "value":
            if isinstance(there, property):
                return None
            return Is("value", there, name)
        return None if isinstance(there, property) else Is("method", there, name)

    def assigned(self, target: ast.Attribute) -> None:
        """A property that is set must have a setter."""
        owner = self.type_of(target.value)
        if owner is not None and owner.what == "instance":
            there = getattr(owner.of, target.attr, None)
            if not isinstance(there, property) or there.fset is None:
                self.wrong(target, f"{owner.name}.{target.attr} can't be set")
            else:
                self.report.used.add(f"{owner.name}.{target.attr}")

    def call(self, node: ast.Call) -> Is | None:
        function = self.type_of(node.func)
        given = [self.type_of(one) for one in node.args]
        keywords = {one.arg: self.type_of(one.value) for one in node.keywords if one.arg is not None}
        if function is None:
            return None
        if function.what == "own method":
            returned = self.classes.get(function.of, {}).get(f"{function.name}()")
            return None if returned is None else self.annotated(returned)
        if function.what == "value" and isinstance(function.of, type):
            if issubclass(function.of, enum.Enum):
                return None
            self.fits(node, function.name, signatures(function.of.__init__), given, keywords)
            return Is("instance", function.of, function.of.__name__)
        if function.what == "value" and not isinstance(node.func, ast.Attribute):
            return None
        if function.what == "value" and function.name.endswith(".__init__"):
            self.fits(node, function.name, signatures(function.of), given[1:], keywords)
            return None
        if (
            function.what == "value"
            and getattr(function.of, "__module__", "").startswith("tensorrt")
            and hasattr(function.of, "__code__")
        ):
            if len(given) > function.of.__code__.co_argcount:
                self.wrong(node, f"{function.name} takes {function.of.__code__.co_argcount} arguments")
            return None
        if function.what == "method":
            fitting = self.fits(node, function.name, signatures(function.of), given, keywords)
            if fitting is not None and (made := real(fitting.returns)) is not None:
                return Is("instance", made, made.__name__)
        return None

    def fits(
        self,
        node: ast.Call,
        name: str,
        offered: list[Signature],
        given: list[Is | None],
        keywords: dict[str, Is | None],
    ) -> Signature | None:
        if not offered:
            self.wrong(node, f"{name}: its docstring has no signature")
        problems = []
        for one in offered:
            problem = one.refuses(given, keywords)
            if problem is None:
                self.report.used.add(f"{name}()")
                return one
            problems.append(problem)
        self.wrong(node, f"{name}: {'; or '.join(problems)}")
        return None

    def overrides(self, node: ast.ClassDef, parent: type) -> None:
        """What we define in the place of the bindings' own must take what it is called with."""
        for one in node.body:
            theirs = getattr(parent, one.name, None) if isinstance(one, ast.FunctionDef) else None
            if theirs is None or one.name.startswith("__"):
                continue
            ours = [argument.arg for argument in one.args.args[1:]]
            wanted = [parameter.name for parameter in signatures(theirs)[0].parameters]
            if ours != wanted:
                self.wrong(one, f"{parent.__name__}.{one.name} is given {wanted}, and ours takes {ours}")
            self.report.used.add(f"{parent.__name__}.{one.name} overridden")

    def wrong(self, node: ast.AST, what: str) -> None:
        said = f"{self.file}:{getattr(node, 'lineno', '?')}: {what}"
        if said not in self.report.wrong:
            self.report.wrong.append(said)


# -- the bindings' docstrings -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    optional: bool


@dataclass(frozen=True)
class Signature:
    parameters: tuple[Parameter, ...]
    """Without self."""
    returns: str

    def refuses(self, given: list[Is | None], keywords: dict[str, Is | None]) -> str | None:
        if len(given) > len(self.parameters):
            return f"{len(given)} arguments, and it takes {len(self.parameters)}"
        names = [one.name for one in self.parameters]
        taken = dict(zip(names, given, strict=False))
        for name, value in keywords.items():
            if name not in names or name in taken:
                return f"no argument {name!r}"
            taken[name] = value
        for one in self.parameters:
            if one.name not in taken:
                if not one.optional:
                    return f"{one.name!r} is missing"
                continue
            value, wanted = taken[one.name], real(one.type)
            if value is None or wanted is None:
                continue
            found = type(value.of) if value.what == "value" else value.of
            if isinstance(found, type) and not issubclass(found, wanted):
                return f"{one.name!r} is {found.__name__}, and it takes {wanted.__name__}"
        return None


def signatures(function: Any) -> list[Signature]:
    found = []
    for line in (function.__doc__ or "").splitlines():
        matched = re.fullmatch(r"\s*(?:\d+\. )?\w+\((.*)\)(?: -> (.*))?", line.rstrip())
        if matched is None or "*args" in matched.group(1):  # the head of several signatures
            continue
        parts = [part for part in _split(matched.group(1)) if part]
        if parts and parts[0].split(":")[0].strip() == "self":
            parts = parts[1:]
        parameters = []
        for part in parts:
            name, _, rest = part.partition(":")
            kind, _, default = rest.partition(" = ")
            parameters.append(Parameter(name.strip(), kind.strip(), bool(default)))
        found.append(Signature(tuple(parameters), (matched.group(2) or "").strip()))
    return found


def _split(text: str) -> list[str]:
    """At commas that are not inside brackets."""
    parts, depth, part = [], 0, ""
    for letter in text:
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append(part.strip())
            part = ""
        else:
            part += letter
    return [*parts, part.strip()]


def real(name: str) -> type | None:
    """The class of the bindings that a docstring names."""
    last = re.split(r"\.|::", name.strip())[-1] if re.fullmatch(r"[\w.:]+", name.strip()) else ""
    parts = re.split(r"\.|::", name.strip())
    there = getattr(trt, SAME.get(last, last), None)
    if there is None and len(parts) > 1:  # ILogger.Severity
        there = getattr(getattr(trt, parts[-2], None), last, None)
    return there if isinstance(there, type) and there.__module__.startswith("tensorrt") else None


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
