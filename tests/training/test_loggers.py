"""Logging to Weights & Biases: the options arrive, and a continued training goes on in the same W&B run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffusion_lm.config import TrainerConfig, apply_overrides
from diffusion_lm.foreign.translate import translate
from diffusion_lm.presets import build
from diffusion_lm.training import loggers
from training_runs import config_of

OPTIONS = {"project": "text", "name": "first", "group": "masked", "job_type": "train", "notes": "n", "tags": ["a", "b"]}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of all W&B loggers that are built."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(loggers, "WandbLogger", lambda **given: calls.append(given))
    return calls


def test_all_options_reach_the_logger_and_the_id_stays(tmp_path: Path, started: list[dict[str, Any]]) -> None:
    for _ in range(2):
        loggers.build_logger(TrainerConfig(logger="wandb", wandb=OPTIONS), tmp_path / "run")
    loggers.build_logger(TrainerConfig(logger="wandb"), tmp_path / "other")
    first, again, other = started
    assert first == again == {**OPTIONS, "save_dir": str(tmp_path / "run"), "id": first["id"]}
    assert (other["project"], other["name"]) == ("diffusion-lm", "other")
    assert other["id"] != first["id"]
    loggers.build_logger(TrainerConfig(logger="wandb", wandb={"id": "mine"}), tmp_path / "run")
    assert started[-1]["id"] == "mine"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.wandb.project=p", "trainer.wandb is set, but trainer.logger is 'tensorboard'"),
        ("trainer.wandb.entity=p", "unknown key 'trainer.wandb.entity'"),
        ("trainer.wandb.tags=p", "trainer.wandb.tags: got 'p'; expected a list of texts"),
        ("trainer.wandb.group=3", "trainer.wandb.group: got 3; expected text"),
    ],
)
def test_options_that_do_not_fit_are_named(override: str, message: str) -> None:
    logger = [] if "is set" in message else ["trainer.logger=wandb"]
    with pytest.raises(ValueError, match=message):
        apply_overrides(build("demo_masked"), [*logger, override])


def test_a_foreign_tree_passes_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"mode": "train", "parameterization": "subs", "wandb": {**OPTIONS, "id": "run_1", "entity": None}}
    del tree["wandb"]["entity"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "wandb")
    made = translate(tree)
    assert (made.config.trainer.logger, made.config.trainer.wandb) == ("wandb", {**OPTIONS, "id": "run_1"})
    assert {note.verdict for note in made.notes if note.key.startswith("wandb")} == {"honoured"}
    assert translate({**tree, "mode": "ppl_eval"}).config.trainer.wandb == {}


def test_two_calls_of_a_training_are_one_wandb_run(
    vocab_folder: Path, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the package itself, offline: both calls start a run of the same id, project, name, group, notes and tags."""
    wandb = pytest.importorskip("wandb")
    from diffusion_lm.training.run import train

    monkeypatch.setenv("WANDB_MODE", "offline")
    options = ["trainer.logger=wandb", f"trainer.wandb={json.dumps(OPTIONS)}", "trainer.max_steps=4"]
    config, found = config_of(vocab_folder, text_file, *options), []
    for stop_after in (2, None):
        train(config, tmp_path / "run", stop_after=stop_after)
        run = wandb.run
        found.append({name: getattr(run, name) for name in ("project", "name", "group", "job_type", "notes", "id")})
        assert list(run.tags) == OPTIONS["tags"]
        wandb.finish()
    kept = (tmp_path / "run" / "wandb_id").read_text().strip()
    assert found == 2 * [{"id": kept, **{name: value for name, value in OPTIONS.items() if name != "tags"}}]
    assert list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{kept}"))
