"""What the documents name is there: linked pages and headings, paths, functions, and every entry of a registry in its table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TREES = ("recipe/", "rescore/", "tests/", "benchmarks/", "config/", "docs/", "data/", ".ci/")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
STEP = re.compile(r"`((?:recipe|rescore)/[\w/]+\.py)`, ((?:`[\w.]+`(?:, | and )?)+)")


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def names_of(path: Path) -> set[str]:
    """Functions, classes, methods (`Class.method`) and constants that a module defines."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_of_this_repository_exist(page: Path) -> None:
    for path in re.findall(r"`([\w./-]+)`", prose(page)):
        if path.startswith(TREES) and "NAME" not in path:
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_walks_of_the_map_name_what_is_there() -> None:
    steps = [
        (path, name)
        for path, names in STEP.findall(prose(ROOT / "docs/map.md"))
        for name in re.findall(r"`([\w.]+)`", names)
    ]
    assert len(steps) > 30
    for path, name in steps:
        assert name in names_of(ROOT / path), f"{path}: {name}"


def test_the_map_has_every_folder() -> None:
    text = prose(ROOT / "docs/map.md")
    for package in ("recipe/returnn_bridge", "recipe/diffusion_lm", "rescore"):
        for module in (ROOT / package).rglob("*.py"):
            folder = module.parent.relative_to(ROOT).as_posix()
            assert f"| `{folder}/` |" in text, folder


def test_the_site_has_every_page() -> None:
    listed = re.findall(r"[\w/]+\.md$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert {ROOT / name for name in listed} == {*PAGES, ROOT / "benchmarks/README.md", ROOT / "data/demo/README.md"}


@pytest.mark.parametrize("number", range(6))
def test_the_lists_of_the_page_of_formats_are_read(number: int, tmp_path: Path) -> None:
    from rescore.nbest import read_nbest

    name, text = re.findall(r"```(lists\.\w+)\n(.*?)```", (ROOT / "docs/formats.md").read_text(), re.DOTALL)[number]
    (tmp_path / name).write_text(text)
    assert read_nbest(tmp_path / name)[0].seq_tag in ("dev/1", "000001")


def test_tables_have_every_entry_of_their_registry() -> None:
    from diffusion_lm.families import FAMILIES
    from diffusion_lm.presets import PRESETS, SUFFIXES
    from diffusion_lm.sampling import SAMPLERS
    from rescore.estimators import ESTIMATORS
    from rescore.nbest.formats import FORMATS
    from rescore.nbest.reference_formats import REFERENCE_FORMATS

    families = prose(ROOT / "docs/families.md")
    sizes = {"tiny", "medium", "fp32", "bf16"}
    assert not [name for name in SUFFIXES if name not in sizes and f"`:{name}`" not in families]
    assert not [name for name in FAMILIES if name not in families]
    assert not [name for kind in SAMPLERS.values() for name in kind if f"`{name}`" not in families]
    assert not [name for name in PRESETS if name not in families]
    for page, registry in (("estimators.md", ESTIMATORS), ("formats.md", FORMATS), ("formats.md", REFERENCE_FORMATS)):
        text = prose(ROOT / "docs" / page)
        assert not [name for name in registry if f"`{name}`" not in text], page


def test_the_page_of_settings_is_what_the_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    from diffusion_lm.commands.train import train

    train(explain=True)
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page, "expected: dlm train --explain > docs/configuration.md"
