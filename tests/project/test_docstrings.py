"""Every call that a docstring shows fits the signature of what it calls, and stands indented so that it reads as an example."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import textwrap
import types
import typing
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sis_standin

sis_standin.install()

ROOT = Path(__file__).parents[2]
PACKAGES = {ROOT / "recipe": ("diffusion_lm", "returnn_bridge"), ROOT: ("rescore",)}
MODULES = {
    ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__"): path
    for base, names in PACKAGES.items()
    for name in names
    for path in sorted((base / name).rglob("*.py"))
    if path.name != "__main__.py"
}
MADE_BY_NAME = ("build_estimator", "build_schedule", "build")  # their names in examples must exist: they are called
CUSTOMARY = {"model": "LanguageModel", "family": "Family", "estimator": "Estimator"}  # names of objects in examples


@dataclasses.dataclass(frozen=True)
class Example:
    """One call in a docstring, with what is known of the names before it."""

    module: str
    line: str
    call: ast.Call
    variables: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.module}: {self.line}"


def docstrings(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def parse(text: str) -> list[ast.stmt] | None:
    """The statements of a text, which may be a `with` or `for` without its block; None for what is no Python."""
    for code in (text, f"{text.split('  #')[0].rstrip()} ..."):
        try:
            return ast.parse(textwrap.dedent(code)).body
        except SyntaxError:
            continue
    return None


def calls(nodes: list[ast.stmt]) -> list[ast.Call]:
    return [node for statement in nodes for node in ast.walk(statement) if isinstance(node, ast.Call)]


def example_statements(docstring: str) -> Iterator[ast.stmt]:
    """Statements of indented paragraphs: of a paragraph as a whole if it is Python, else of its lines that are."""
    lines: list[str] = []
    for line in [*docstring.splitlines(), ""]:
        if line.startswith("    "):
            lines.append(line)
            continue
        whole = parse("\n".join(lines)) if lines else []
        for part in [whole] if whole is not None else [parse(line) for line in lines]:
            yield from part or []
        lines = []


def examples_of(module: str) -> Iterator[Example]:
    for docstring in docstrings(module):
        variables: dict[str, Any] = {}
        for statement in example_statements(docstring):
            for call in calls([statement]):
                yield Example(module, ast.unparse(call), call, dict(variables))
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                variables[statement.targets[0].id] = type_of(statement.value, module, variables)


# ------------------------------------------------------------------------------------------------ what a name stands for


def index() -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """(what is public in one module only, by name; methods of all classes, by name)."""
    found: dict[str, list[Any]] = defaultdict(list)
    methods: dict[str, list[Any]] = defaultdict(list)
    for name in MODULES:
        module = importlib.import_module(name)
        found[name.rpartition(".")[2]].append(module)
        for key, value in vars(module).items():
            if key.startswith("_") or getattr(value, "__module__", "") != name:
                continue
            found[key].append(value)
            if inspect.isclass(value):
                for method in dir(value):
                    if inspect.isroutine(getattr(value, method)) and ours(getattr(value, method)):
                        methods[method].append(as_of_an_instance(value, method))
    return {name: values[0] for name, values in found.items() if len(values) == 1}, methods


def ours(called: Any) -> bool:
    return getattr(called, "__module__", None) in MODULES


def as_of_an_instance(kind: type, method: str) -> Any:
    """The method as an instance offers it: without `self`, or as it is for static and class methods."""
    raw = inspect.getattr_static(kind, method)
    return types.MethodType(raw, object()) if inspect.isfunction(raw) else getattr(kind, method)


def annotation(owner: Any, name: str) -> Any:
    """The class that an annotation names; None where it names more than a class, or cannot be read without the imports of a checker."""
    if not ours(owner):
        return None
    try:
        kind = typing.get_type_hints(owner).get(name)
    except NameError:
        return None
    return kind if inspect.isclass(kind) else None


def meaning(name: str, module: str) -> Any:
    public, _ = INDEX
    return getattr(importlib.import_module(module), name, None) or public.get(name)


def type_of(node: ast.expr, module: str, variables: dict[str, Any]) -> Any:
    """The class of an expression's value, or None."""
    if isinstance(node, ast.Name):
        return variables.get(node.id) or meaning(CUSTOMARY.get(node.id, ""), module)
    if isinstance(node, ast.Attribute):
        owner = type_of(node.value, module, variables)
        member = inspect.getattr_static(owner, node.attr, None) if owner else None
        return annotation(member.fget, "return") if isinstance(member, property) else annotation(owner, node.attr)
    if isinstance(node, ast.Call):
        called = target(node.func, module, variables)
        return called if inspect.isclass(called) else annotation(called, "return")
    return None


def target(node: ast.expr, module: str, variables: dict[str, Any]) -> Any:
    """What is called: a function, a class, a method; None where that is not known."""
    if isinstance(node, ast.Name):
        return None if node.id in variables else meaning(node.id, module)
    if not isinstance(node, ast.Attribute):
        return None
    if isinstance(node.value, ast.Name) and node.value.id not in variables:
        owner = meaning(node.value.id, module)
        if inspect.ismodule(owner) and not hasattr(owner, node.attr):
            # A module may happen to have the name of an object in the example; one that is imported has to have it.
            assert not hasattr(importlib.import_module(module), node.value.id), f"{owner.__name__} has no {node.attr}"
            owner = None
        if inspect.isclass(owner) or inspect.ismodule(owner):
            assert hasattr(owner, node.attr), f"{owner.__name__} has no {node.attr}"
            return getattr(owner, node.attr)
    kind = type_of(node.value, module, variables)
    if not ours(kind):
        return None
    member = getattr(kind, node.attr, None)  # a subclass can have more
    return as_of_an_instance(kind, node.attr) if inspect.isroutine(member) else None


INDEX = index()
EXAMPLES = {module: list(examples_of(module)) for module in MODULES}


def bind(called: Any, call: ast.Call) -> None:
    """TypeError if the arguments do not fit, or a variable named as one parameter stands for another. `...`: some are left out."""
    positional = [part for part in call.args if not (isinstance(part, ast.Constant) and part.value is ...)]
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    signature = inspect.signature(called)
    partly = len(positional) < len(call.args) or any(isinstance(part, ast.Starred) for part in positional)
    if partly or len(keywords) < len(call.keywords):
        signature.bind_partial(*[part for part in positional if not isinstance(part, ast.Starred)], **keywords)
    else:
        bound = signature.bind(*positional, **keywords).arguments
        names = {name: value.id for name, value in bound.items() if isinstance(value, ast.Name)}
        for name, variable in names.items():
            if variable != name and variable in signature.parameters:
                raise TypeError(f"{variable!r} stands for {name!r}")


def candidates(example: Example) -> list[Any]:
    """What the call can mean: one thing, or for an object of unknown class all methods of that name; nothing for what is not ours."""
    called = target(example.call.func, example.module, example.variables)
    if called is not None:
        return [called]
    func = example.call.func
    if not isinstance(func, ast.Attribute):
        return []
    methods = INDEX[1].get(func.attr, [])
    known = ours(type_of(func.value, example.module, example.variables))
    assert methods or not known, f"{example}: no class of ours has a method {func.attr}"
    return methods


# ------------------------------------------------------------------------------------------------------------- the laws


@pytest.mark.parametrize("module", MODULES)
def test_calls_fit_the_signatures(module):
    for example in EXAMPLES[module]:
        problems = []
        found = candidates(example)
        for called in found:
            try:
                bind(called, example.call)
            except TypeError as error:
                problems.append(f"{example}: {error}")
        assert not found or len(problems) < len(found), problems[0]


@pytest.mark.parametrize("module", MODULES)
def test_names_of_presets_and_estimators_exist(module):
    for example in EXAMPLES[module]:
        called = target(example.call.func, example.module, example.variables)
        if ours(called) and called.__name__ in MADE_BY_NAME and example.call.args:
            try:
                arguments = [ast.literal_eval(part) for part in example.call.args]
                options = {str(part.arg): ast.literal_eval(part.value) for part in example.call.keywords}
            except ValueError:  # variables of the example
                continue
            called(*arguments, **options)


@pytest.mark.parametrize("module", MODULES)
def test_examples_stand_indented_after_a_blank_line(module):
    for docstring in docstrings(module):
        lines = docstring.splitlines()
        for before, line in zip(["", *lines], lines):
            shown = bool(calls(parse(line.strip()) or [])) and line.strip().partition("(")[0].strip() != ""
            assert not shown or line.startswith("    "), f"{module}: expected an indented example: {line}"
            begins = shown and before.strip() and not before.startswith("    ")
            assert not begins, f"{module}: expected a blank line before the example: {line}"


def test_most_calls_are_known():
    """Else the laws above say little."""
    checked = [example for group in EXAMPLES.values() for example in group if any(map(ours, candidates(example)))]
    assert len(checked) > 150
