"""What benchmarks/same_numbers.py calls equal: every bit of a weight, every digit of a number, and nothing less."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.same_numbers_parts.comparing import first_difference, of_more_lines, of_values


def test_one_bit_of_one_weight_is_a_difference(tmp_path):
    weights = {"a": torch.zeros(2, 3), "b": torch.arange(4.0)}
    for name in ("old", "same", "new"):
        changed = {key: value.clone() for key, value in weights.items()}
        if name == "new":
            changed["b"][2] = torch.nextafter(torch.tensor(2.0), torch.tensor(3.0))
        save_file(changed, tmp_path / f"{name}.safetensors")
    old = tmp_path / "old.safetensors"
    assert first_difference(old, tmp_path / "same.safetensors") == ""
    found = first_difference(old, tmp_path / "new.safetensors")
    assert found == "b value 2 of [4]: 2.0 and 2.000000238418579; 1 of 2 tensors differ"


def test_another_sign_of_zero_another_shape_and_another_name_are_differences(tmp_path):
    stored = {"old": ("a", torch.zeros(2)), "sign": ("a", -torch.zeros(2)), "shape": ("a", torch.zeros(2, 1))}
    for name, (key, value) in (stored | {"name": ("b", torch.zeros(2))}).items():
        save_file({key: value}, tmp_path / f"{name}.safetensors")
    for name in ("sign", "shape", "name"):
        assert first_difference(tmp_path / "old.safetensors", tmp_path / f"{name}.safetensors"), name


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1.5}, {"a": 1.5, "more": 2}, ""),
        ({"a": 1.5, "b": 2}, {"a": 1.5}, "b: 2 and nothing"),
        ({"a": [{"b": 0.1}]}, {"a": [{"b": math.nextafter(0.1, 1)}]}, "a [0], b: 0.1 and 0.10000000000000002"),
        ({"a": math.nan}, {"a": math.nan}, ""),
        ({"seconds": 1.0}, {"seconds": 2.0}, ""),
        ([1, 2], [1, 2, 3], "value: [1, 2] and [1, 2, 3]"),
    ],
)
def test_what_was_said_has_to_be_said_again(old, new, expected):
    assert of_values(old, new) == expected


def test_forms_of_files(tmp_path):
    """A header of a score file and a new column are no difference; a digit of any other line is."""
    lines = [json.dumps({"format": "nbest-jsonl"}), json.dumps({"id": "u", "hyps": [{"scores": {"lm": -1.25}}]})]
    _write(tmp_path, "s.jsonl", "\n".join(lines), "\n".join(['{"format": 2}', *lines[1:]]))
    assert _found(tmp_path, "s.jsonl") == ""
    _write(tmp_path, "s.jsonl", "\n".join(lines), "\n".join(lines).replace("1.25", "1.26"))
    assert _found(tmp_path, "s.jsonl") == "[0], hyps [0], scores, lm: -1.25 and -1.26"
    _write(tmp_path, "t.tsv", "step\tnll\n2\t5.1", "step\tnew\tnll\n2\t0\t5.1")
    assert _found(tmp_path, "t.tsv") == ""
    _write(tmp_path, "t.tsv", "step\tnll\n2\t5.1", "step\tnll\n2\t5.2")
    assert _found(tmp_path, "t.tsv") == "[0], nll: '5.1' and '5.2'"
    for side in ("old", "new"):
        (tmp_path / side / "x.py.gz").write_bytes(gzip.compress(side.encode()))
    assert _found(tmp_path, "x.py.gz") == "line 1: 'old' and 'new'"


def test_a_configuration_may_have_more_lines():
    assert of_more_lines(["a: 1", "b: 2"], ["a: 1", "new: 3", "b: 2"]) == ""
    assert of_more_lines(["a: 1", "b: 2"], ["b: 2", "a: 1"]) == "line 2: 'b: 2' and 'a: 1'"


def _write(folder: Path, name: str, old: str, new: str) -> None:
    for side, text in (("old", old), ("new", new)):
        (folder / side).mkdir(exist_ok=True)
        (folder / side / name).write_text(text + "\n")


def _found(folder: Path, name: str) -> str:
    return first_difference(folder / "old" / name, folder / "new" / name)
