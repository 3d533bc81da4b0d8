"""Who may import whom (docs/map.md), read from the source."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.structure import arrows_of, circles_of, modules_of

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "returnn_bridge": ROOT / "recipe/returnn_bridge",
    "diffusion_lm": ROOT / "recipe/diffusion_lm",
    "rescore": ROOT / "rescore",
}
MODULES = {
    f"{package}.{path.relative_to(folder).with_suffix('').as_posix().replace('/', '.')}".removesuffix(".__init__"): path
    for package, folder in PACKAGES.items()
    for path in sorted(folder.rglob("*.py"))
}
MATHS = (
    "diffusion_lm.schedule",
    "diffusion_lm.draws",
    "diffusion_lm.process",
    "diffusion_lm.layout",
    "diffusion_lm.families",
    "rescore.estimators",
)
PLUMBING = (
    "lightning",
    "returnn",
    "sisyphus",
    "diffusion_lm.backbones",
    "diffusion_lm.config",
    "diffusion_lm.training.run",
    "returnn_bridge",
)
# N-best lists, scales and tables work where torch is not installed.
LAPTOP = ("rescore.nbest", "rescore.combination", "rescore.report", "rescore.wer", "rescore.scores")
LIGHT = {"returnn_bridge.files", "returnn_bridge.registry", "returnn_bridge.bar"}
TRAINERS = ("diffusion_lm.training", "returnn_bridge.datamodule")
HEAVY = {"torch", "lightning", "returnn", "kenlm", "transformers", "matplotlib", "sentencepiece", "tokenizers"}


def imports(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def test_every_package_is_in_the_wheel():
    listed = {
        line.strip() for line in (ROOT / "setup.cfg").read_text().split("packages =")[1].split("package_dir")[0].split()
    }
    assert listed == {name for name, path in MODULES.items() if path.name == "__init__.py"}


def test_no_module_reaches_itself():
    assert circles_of(arrows_of(modules_of(ROOT))) == []


def starts(name: str, prefixes: tuple[str, ...] | set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@pytest.mark.parametrize("module", MODULES)
def test_imports_keep_to_the_layers(module):
    found = set(imports(MODULES[module]))
    if starts(module, ("returnn_bridge",)):
        assert not [name for name in found if starts(name, ("diffusion_lm", "rescore"))]
    else:
        assert not [name for name in found if starts(name, ("returnn",))], "returnn is imported by the bridge alone"
    if starts(module, ("diffusion_lm",)):
        assert not [name for name in found if starts(name, ("rescore",))]
    if starts(module, MATHS):
        assert not [name for name in found - LIGHT if starts(name, PLUMBING)]
    if starts(module, ("diffusion_lm.backbones",)):
        assert not [name for name in found if starts(name, ("diffusion_lm.families",))]
    if not starts(module, TRAINERS):
        assert not [name for name in found if starts(name, ("lightning",))]
    if not module.endswith(".jobs"):
        assert not [name for name in found if starts(name, ("sisyphus", "i6_core"))]
    if starts(module, LAPTOP):
        assert not [name for name in found - LIGHT if starts(name, ("torch", "diffusion_lm", "returnn_bridge"))]


@pytest.mark.parametrize(
    "module",
    [
        "rescore.cli",
        "rescore.commands",
        "diffusion_lm.commands",
        "diffusion_lm.commands.runner",
        "rescore.pipeline",
        "returnn_bridge.jobs",
        "diffusion_lm.jobs",
        "rescore.jobs",
    ],
)
def test_the_command_line_starts_without_heavy_imports(module):
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in MODULES and name not in seen:
            seen.add(name)
            todo += [*imports(MODULES[name], top_level_only=True), name.rpartition(".")[0]]
        assert not starts(name, HEAVY), f"{module} reaches {name}"


def test_scoring_starts_without_a_compiler():
    """torch loads its own as soon as something is decorated for it: 0.8 s and 70 MB."""
    model = ROOT / "data" / "demo" / "masked-long"
    code = (
        f"import sys; from rescore.lms import NetworkScorer; NetworkScorer({str(model)!r}).score_texts('u', ['a b']); "
    )
    code += "print('torch' in sys.modules, 'torch._dynamo' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment, check=True)
    assert found.stdout.split() == ["True", "False"]


NAMES = r"[\"'](?:masked|adaptive|autoregressive|uniform|hybrid|block)[\"']"
COMPARES = rf"(?:family|name)[\"'\])]* *(?:[=!]=|in \() *{NAMES}"


def test_family_names_are_looked_at_in_one_place():
    """What differs between families is asked of the family. Foreign trees name families of their own, which become ours."""
    for text in (
        "family == 'block'",
        'options["name"] != "masked"',
        "options['name'] == 'block'",
        "name in ('masked',",
    ):
        assert re.search(COMPARES, text), text
    for module, path in MODULES.items():
        if not starts(module, ("diffusion_lm.families", "diffusion_lm.foreign")):
            assert not re.search(COMPARES, path.read_text()), module


def test_nobody_asks_of_which_class_a_family_is():
    for module, path in MODULES.items():
        if not module.startswith("diffusion_lm.families"):
            assert not re.search(r"isinstance\([^()]*[fF]amily|getattr\([^()]*family", path.read_text()), module


def test_importing_a_module_does_nothing():
    """At the top of a module names are defined: nothing is run for its effect, and nothing of another module is set or added to."""
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            where = f"{module}:{node.lineno} does something when it is imported: {ast.unparse(node)[:60]}"
            if isinstance(node, ast.Expr):
                assert isinstance(node.value, ast.Constant), where
            elif isinstance(node, ast.If):
                assert ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"), where
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                assert all(isinstance(target, ast.Name | ast.Tuple) for target in targets), where
                calls = [ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)]
                assert not [
                    name for name in calls if re.search(r"(^|\.)(open|add|append|update|register|read_\w+)$", name)
                ], where
            else:
                definitions = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
                assert isinstance(node, definitions), where


def test_no_file_can_execute_its_input():
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), path
        assert not {"pickle", "marshal", "shelve", "dill"} & set(imports(path)), path
