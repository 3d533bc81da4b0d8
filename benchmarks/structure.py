"""The structure of a checkout in numbers: files by folder, imports between modules, cycles, type checks, lines.

    python benchmarks/structure.py .                       # of this tree
    python benchmarks/structure.py ../before .             # of two trees, side by side

Only recipe/ and rescore/ are counted. An arrow is an import of one of their modules by another, at any level of the
file; a circle is a set of modules that all reach each other by arrows.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

PACKAGES = {"diffusion_lm": "recipe/diffusion_lm", "returnn_bridge": "recipe/returnn_bridge", "rescore": "rescore"}


def modules_of(root: Path) -> dict[str, Path]:
    """{dotted name: file} of every module of the product."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imported_names(path: Path) -> Iterable[str]:
    """The imports of a file at any level: "a.b" for `import a.b`, "a.b" and "a.b.c" for `from a.b import c`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows_of(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """{module: modules of the product that it imports}. A name from a package counts as its module where it is one."""
    arrows: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = {name for name in imported_names(path) if name in modules and name != module}
        # `from package import module` is an import of the module, not of everything else in the package's own file.
        arrows[module] = {name for name in found if not any(other.startswith(name + ".") for other in found)}
    return arrows


def circles_of(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Sets of modules that reach each other (strongly connected components with more than one module; Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in arrows.get(module, ()):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            circle = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(circle) > 1:
                found.append(sorted(circle))

    for module in arrows:
        if module not in index:
            visit(module)
    return found


def numbers_of(root: Path) -> dict[str, int]:
    """The figures of one tree, by name."""
    modules = modules_of(root)
    arrows = arrows_of(modules)
    texts = {module: path.read_text(encoding="utf-8") for module, path in modules.items()}
    outside = {module: text for module, text in texts.items() if not module.startswith("diffusion_lm.families")}

    def count(pattern: str, where: Mapping[str, str] = texts) -> int:
        return sum(len(re.findall(pattern, text)) for text in where.values())

    folders: dict[Path, int] = {}
    for path in modules.values():
        folders[path.parent] = folders.get(path.parent, 0) + 1
    return {
        "modules": len(modules),
        "folders": len(folders),
        "modules in the largest folder": max(folders.values()),
        "import arrows": sum(map(len, arrows.values())),
        "circles": len(circles_of(arrows)),
        "getattr and hasattr": count(r"\b(?:getattr|hasattr)\("),
        "isinstance of a family outside families": count(r"isinstance\([^()\n]*Family", outside),
        "Any in rescore": sum(
            len(re.findall(r"\bAny\b", text)) for module, text in texts.items() if module.startswith("rescore")
        ),
        "lines of code": sum(code_lines(text) for text in texts.values()),
        "lines with comments and docstrings": sum(text.count("\n") for text in texts.values()),
    }


def code_lines(text: str) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    tree = ast.parse(text)
    docstrings: set[int] = set()
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                docstrings.update(range(child.lineno, (child.end_lineno or child.lineno) + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and n not in docstrings for n, line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, default=[Path(".")], metavar="TREE", help="checkouts to compare")
    trees = parser.parse_args().trees
    for tree in trees:
        print(f"{tree}:")
        folders: dict[str, int] = {}
        for path in modules_of(tree).values():
            name = str(path.parent.relative_to(tree))
            folders[name] = folders.get(name, 0) + 1
        for name, count in sorted(folders.items()):
            print(f"  {count:3d} {name}/")
        for circle in circles_of(arrows_of(modules_of(tree))):
            print(f"  circle: {', '.join(circle)}")
    columns = [numbers_of(tree) for tree in trees]
    for name in columns[0]:
        print(f"{name:42s}" + "".join(f"{column[name]:8d}" for column in columns))


if __name__ == "__main__":
    main()
