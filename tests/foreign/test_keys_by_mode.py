"""Every key in every mode: an honoured one changes the settings or is refused, one without effect can be left out, and
one that is compared is refused when the model contradicts it. What the settings do is seen by running the modes."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_compat import leaves, reference_tree, score, verdicts
from test_compat_block import AR, MDLM, block_tree

from conftest import random_model, random_text
from diffusion_lm.commands.foreign_modes import run
from diffusion_lm.commands.services import Services
from diffusion_lm.foreign.agreement import check_agreement
from diffusion_lm.foreign.rows import EVALUATION
from diffusion_lm.foreign.rules import COMPARED, HONOURED, NO_EFFECT
from diffusion_lm.foreign.translate import Translation, translate
from returnn_bridge.datasets import lm_dataset_dict

SMALL = """trainer.accelerator=cpu model.hidden_size=32 model.cond_dim=16 model.n_blocks=2 model.n_heads=2
 loader.eval_batch_size=2 loader.num_workers=0 trainer.val_check_interval=4 returnn_batching.max_seqs=9""".split()
TEXT = ["data.train=train.txt", "data.valid=valid.txt", "data.tokenizer_name_or_path=spm.model", "model.length=64"]
DISCRETE = ["parameterization=d3pm", "T=50", "subs_masking=true"]
PARTS = ["trainer.limit_val_batches=1", "returnn_batching.max_seqs=3", "sampling.semi_ar=true", "noise.type=linear"]
PARTS += ["noise.sigma_min=1"]  # so much noise at the end that the removal of noise shows
SEARCH = ["data.wrap=false", "algo.clip_search_widths=[0.5]", "training.sampling_eps_min=0.3"]

# Trees with what makes as many keys as possible act: (builder, settings, modes).
TREES = {
    "mdlm": (reference_tree, [], ("train", *EVALUATION)),
    "d3pm": (reference_tree, DISCRETE, ("train", "ppl_eval")),
    "parts": (reference_tree, PARTS, ("ppl_eval", "sample_eval")),
    "rows": (reference_tree, ["returnn_batching_enabled=false", "loader.global_batch_size=256"], ("train",)),
    "ar": (reference_tree, ["parameterization=ar", "backbone=ar"], ("train", "sample_eval")),
    "bd3lm": (block_tree, TEXT, ("ppl_eval", "sample_eval")),
    "bd3lm search": (block_tree, [*TEXT, *SEARCH], ("train",)),
    "bd3lm packed": (block_tree, TEXT, ("train",)),
    "packed": (reference_tree, ["data.wrap=true"], ("train",)),
    "bd3lm steps": (block_tree, [*TEXT, "sampling.first_hitting=false", "algo.T=9"], ("sample_eval",)),
    "bd3lm one": (block_tree, [*TEXT, "block_size=1"], ("ppl_eval",)),
    "bd3lm as mdlm": (
        block_tree,
        [*TEXT, *MDLM, "block_size=64", "sampling.first_hitting=false", "algo.T=9", "algo.sampler=analytic"],
        ("sample_eval",),
    ),
    "bd3lm as ar": (block_tree, [*TEXT, *AR, "sampling.first_hitting=false"], ("ppl_eval",)),
}
CASES = [(name, mode) for name, (_, _, modes) in TREES.items() for mode in modes]

# Another value of a key; for all others it follows from the type.
OTHER: dict[str, Any] = {
    "backbone": "ar",
    "parameterization": "sedd",
    "algo.name": "mdlm",
    "noise.type": "cosine",
    "sampling.predictor": "ddpm",
    "model.n_heads": 4,
    "model.hidden_size": 64,
    "model.length": 40,
    "block_size": 2,
    "sampling.steps": 1,
    "returnn_batching.batch_size": 1,
    "trainer.precision": 32,
    "trainer.accelerator": "cuda",
    "trainer.val_check_interval": 8,
    "loader.num_workers": 1,
    "trainer.limit_val_batches": 2,
    "lr_scheduler._target_": "transformers.get_cosine_schedule_with_warmup",
    "callbacks.checkpoint_monitor.monitor": "val/ppl",
    "checkpointing.resume_ckpt_path": "spm.model",
    "eval.gen_ppl_eval_model_name_or_path": "other",
    "data.train": "valid.txt",
    "data.valid": "train.txt",
    "algo.clip_search_widths": [0.4],
    "algo.sampler": "analytic",
    "wandb": {"project": "p"},
    "wandb.tags": ["other"],
    "model.attn_backend": "sdpa",
}


def other(key: str, value: Any) -> Any:
    """A value of the same kind that is not this one."""
    if OTHER.get(key, value) != value:
        return OTHER[key]
    if key == "mode":
        return "sample_eval" if value == "ppl_eval" else "ppl_eval"
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * 2 + 1 if isinstance(value, int) else value / 2
    return ["other"] if isinstance(value, list) else "other"


def tree_of(name: str, mode: str) -> dict[str, Any]:
    build, settings, _ = TREES[name]
    tree = build()
    tree["eval"]["checkpoint_path"] = "model"
    for setting in [*SMALL, f"mode={mode}", *settings]:
        key, _, value = setting.partition("=")
        put(tree, key, yaml.safe_load(value))
    return tree


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[last] = value


def changed(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    put(tree, key, value)
    return tree


def meaning(made: Translation) -> list[Any]:
    """All that a mode can act on."""
    hidden = ("notes", "absent", "origin")
    return [getattr(made, field.name) for field in dataclasses.fields(made) if field.name not in hidden]


@pytest.fixture(scope="module", autouse=True)
def inside(tmp_path_factory: pytest.TempPathFactory, vocab: Any) -> Iterator[None]:
    """A folder with text, a vocabulary and lists, and for each family a model that the trees fit."""
    folder, before = tmp_path_factory.mktemp("keys"), os.getcwd()
    os.chdir(folder)
    Path("spm.model").write_bytes(vocab.model_proto)
    Path("train.txt").write_text(random_text(20))
    Path("valid.txt").write_text(random_text(12, seed=7))
    yield
    os.chdir(before)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_each_key_does_what_its_verdict_says(name: str, mode: str, vocab: Any) -> None:
    tree = tree_of(name, mode)
    made = translate(tree)
    model = random_model(vocab, made.config.family, backbone=made.config.model) if mode != "train" else None
    if model is not None:
        check_agreement(made, model, "model")
    for note in made.notes:
        if note.text.startswith("RETURNN ignores it"):  # an option of a dataset that is passed on as it is
            continue
        with contextlib.suppress(ValueError):  # refused: one of the things that may happen
            again = translate(changed(tree, note.key, other(note.key, note.value)))
            if verdicts(again).get(note.key, ("a section now", ""))[0] != note.verdict:
                continue
            if note.verdict == COMPARED:
                assert model is not None
                check_agreement(again, model, "model")
                pytest.fail(f"{note}: {other(note.key, note.value)} is taken for that of the model")
            assert (meaning(again) == meaning(made)) == (note.verdict == NO_EFFECT), note


# --- what is honoured in a mode that evaluates shows in what it prints and writes

RUNS = [("parts", "ppl_eval"), ("parts", "sample_eval"), ("mdlm", "rescore")]
RUNS += [("bd3lm", "ppl_eval"), ("bd3lm steps", "sample_eval")]
SHORT = ["sampling.steps=6", "sampling.num_sample_batches=1", "sampling.num_sample_log=1", "algo.T=2"]
SHORT += ["returnn_batching.max_seqs=2", "loader.batch_size=5", "loader.global_batch_size=5"]


def result(tree: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[Any]:
    """What a run prints behind its tree, and the files it writes."""
    shutil.rmtree("run", ignore_errors=True)
    Path("tree.yaml").write_text(yaml.safe_dump(tree))
    capsys.readouterr()
    run("tree.yaml", services=Services(rescore=score))
    shown = capsys.readouterr().out
    printed = shown.removeprefix(Path(tree["checkpointing"]["save_dir"], "config_tree.txt").read_text())
    files = [path for path in sorted(Path("run").rglob("*")) if path.is_file() and path.name != "config_tree.txt"]
    return [printed, *((path, path.read_bytes()) for path in files)]


@pytest.mark.parametrize(("name", "mode"), RUNS)
def test_honoured_keys_change_the_result(
    name: str, mode: str, vocab: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tree_of(name, mode)
    for setting in SHORT:
        key, _, value = setting.partition("=")
        if key in leaves(tree):
            put(tree, key, yaml.safe_load(value))
    for name, lines in (("dev", "valid.txt"), ("devtrain", "train.txt")):
        if "returnn_valid_config" in tree["data"]:
            tree["data"]["returnn_valid_config"][name] = lm_dataset_dict([lines], "spm.model", seq_ordering="default")
    put(tree, "rescore.output_dir", "run")
    put(tree, "rescore.hypothesis_file", "nbest.py")
    Path("nbest.py").write_text(repr({"utt-1": [(-1.5, "the king said"), (-2.5, "the kings aid")]}))
    made = translate(tree)
    shutil.rmtree("model", ignore_errors=True)
    random_model(vocab, made.config.family, backbone=made.config.model).save("model")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = result(tree, capsys)
    for note in made.notes:
        if note.verdict == HONOURED and "_config." not in note.key:
            with contextlib.suppress(ValueError, OSError):
                assert result(changed(tree, note.key, other(note.key, note.value)), capsys) != before, note
