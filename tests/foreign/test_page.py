"""docs/foreign.md: the verdict on every key of the reference trees in every mode, as the program gives it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_compat import reference_tree, verdicts
from test_compat_block import TEXT, block_tree
from test_keys_by_mode import put

from diffusion_lm.foreign.rows import MODES
from diffusion_lm.foreign.rules import COMPARED, HONOURED, NO_EFFECT
from diffusion_lm.foreign.translate import translate

PAGE = Path(__file__).parents[2] / "docs" / "foreign.md"
SIGNS = {HONOURED: "acts", COMPARED: "compared"}


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, vocab: Any) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(tmp_path)
    Path("spm.model").write_bytes(vocab.model_proto)
    for name in ("train.txt", "valid.txt"):
        Path(name).write_text("a\n")
    yield
    os.chdir(before)


def table(tree: dict[str, Any], modes: list[str]) -> list[str]:
    """Keys of one section with the same verdicts in one row; RETURNN's dataset dicts as one key."""
    signs: dict[str, list[str]] = {}
    for mode in modes:
        put(tree, "mode", mode)
        for key, (verdict, _) in verdicts(translate(tree)).items():
            name = ".".join(key.split(".")[:2])
            of_key = signs.setdefault(name, ["-"] * len(modes))
            if verdict != NO_EFFECT:
                of_key[modes.index(mode)] = SIGNS[verdict]
    rows: dict[tuple[str, ...], list[str]] = {}
    for key, found in signs.items():
        section = key.rpartition(".")[0]
        rows.setdefault((section, *found), []).append(key.removeprefix(f"{section}."))
    lines = [f"| section | keys | {' | '.join(modes)} |", "|" + "---|" * (2 + len(modes))]
    for (section, *found), keys in rows.items():
        lines.append(f"| {section} | {', '.join(keys)} | {' | '.join(found)} |")
    return lines


def test_the_page_holds_the_verdicts_on_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # W&B is there
    block = block_tree()
    for setting in TEXT:
        key, _, value = setting.partition("=")
        put(block, key, value)
    page = PAGE.read_text()
    for lines in (table(reference_tree(), list(MODES)), table(block, [mode for mode in MODES if mode != "rescore"])):
        expected = "\n".join(lines)
        assert expected in page, f"docs/foreign.md lacks this table:\n{expected}"
