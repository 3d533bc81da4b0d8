"""The folder of a training run: locking it, and checking that a continued run has the same configuration and inputs.

    inputs = describe_inputs(vocab, train_opts, valid_opts, digests)    # sizes and digests, for inputs.json
    with only_writer(folder, config.trainer) as first:                  # ValueError while another training holds it
        checkpoint = claim(folder, config, vocab, inputs, write=first)  # None: a new run; ValueError for a conflict

A folder without results is used for a new run. A folder with results accepts no other configuration, except for a
larger `trainer.max_steps`, and a run continues from a checkpoint only with the vocabulary and text it was started with,
compared by content and not by file name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffusion_lm.config import TrainConfig, TrainerConfig, from_dict, to_dict
from diffusion_lm.model_folder import described, made_by
from diffusion_lm.training.keeper import kept_models
from returnn_bridge.datasets import dataset_files
from returnn_bridge.digests import Digests
from returnn_bridge.files import check_replaceable, lock, read_json_object, write_text
from returnn_bridge.vocab import Vocab

CONFIG, INPUTS = "config.json", "inputs.json"
# Results that a new run must not overwrite; a directory counts as a result if it is not empty.
RESULTS = ("model", "best", "kept", "checkpoints", "scores.tsv", "sub_epochs.tsv", "progress.json")
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


@contextmanager
def only_writer(folder: Path, options: TrainerConfig) -> Iterator[bool]:
    """Lock the run folder in the first process of the run. Yields whether this process is the first, which writes."""
    # A run of one process ignores these variables: several such runs may share a Slurm step, for instance.
    several = options.devices * options.num_nodes > 1
    if several and any(os.environ.get(name, "0") != "0" for name in _RANKS):
        yield False
        return
    with lock(folder / "run"):
        yield True


def describe_inputs(
    vocab: Vocab, train_opts: Mapping[str, Any], valid_opts: Mapping[str, Mapping[str, Any]], digests: Digests
) -> dict[str, Any]:
    """Size and sha256 of the vocabulary and of every file that training and validation read.

    ValueError for a dataset that encodes with another vocabulary, because its ids would stand for other pieces.
    """
    files: dict[str, Any] = {}
    for name, opts in {
        "data.train": train_opts,
        **{f"data.valid.{name}": opts for name, opts in valid_opts.items()},
    }.items():
        for key, path in dataset_files(opts):
            where = key.replace("dataset", name, 1)
            if key.endswith(".model_file"):
                if Path(path).read_bytes() != vocab.content:
                    raise ValueError(f"{path}: not the vocabulary of data.vocab ({where}); expected the same file")
            elif path not in files:
                files[path] = {"bytes": os.path.getsize(path), "sha256": digests.of(path)}
    return {"vocabulary": described(vocab.content), "files": files}


def claim(folder: Path, config: TrainConfig, vocab: Vocab, inputs: Mapping[str, Any], *, write: bool) -> Path | None:
    """Return the checkpoint to continue from, or None for a new run. ValueError if results would be replaced or mixed.

    write: write config.json, inputs.json and the vocabulary; False in all processes but the first, which only check.
    """
    held = results_in(folder)
    changed = _changed(folder / CONFIG, config)
    if changed is None and held:
        raise ValueError(f"{folder}: holds {', '.join(held)} but no {CONFIG} of a run; expected a new folder")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    resumes = checkpoint.is_file()
    longer = resumes and changed == ["trainer.max_steps"] and config.trainer.max_steps > _steps_begun(folder)
    if changed and held and not longer:
        raise ValueError(
            f"{folder} holds a run of another configuration ({', '.join(changed[:5])} differ; "
            f"it has {', '.join(held)}); expected the same one (trainer.max_steps may be raised), or a new folder"
        )
    if held and not resumes and not _ended_before_its_first_checkpoint(folder, held):
        raise ValueError(
            f"{folder}: holds {', '.join(held)} of a run, but not its checkpoint {checkpoint.relative_to(folder)}; "
            "expected a new folder, a run that begins here would replace them"
        )
    copy = folder / "vocab" / vocab.file_name
    other_vocab = copy.is_file() and copy.read_bytes() != vocab.content
    if resumes and other_vocab:
        raise ValueError(
            f"{folder} holds a run with another vocabulary (its own copy is {copy}); "
            "expected that one as data.vocab, or a new folder"
        )
    # A run without results may change its vocabulary, but without config.json this folder is not a run's.
    if changed is None and other_vocab:
        raise ValueError(
            f"{copy}: another vocabulary than data.vocab, which a run would replace; expected a new folder"
        )
    if resumes and (folder / INPUTS).is_file():
        _check_inputs(folder, inputs)
    for model in (folder / "model", folder / "best", *kept_models(folder).values()):
        check_replaceable(model, made_by("trained"))
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        if not resumes or longer:
            write_text(folder / CONFIG, json.dumps(to_dict(config), indent=1) + "\n")
        if not resumes or not (folder / INPUTS).is_file():  # earlier versions did not write inputs.json
            write_text(folder / INPUTS, json.dumps(inputs, indent=1) + "\n")
        vocab.save(folder / "vocab")
    return checkpoint if resumes else None


def results_in(folder: Path) -> list[str]:
    """Names in `RESULTS` that a folder has. Hidden files do not count, because a killed process may leave some."""
    found = []
    for name in RESULTS:
        path = folder / name
        if path.is_file() or (path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir())):
            found.append(name)
    return found


def _changed(path: Path, config: TrainConfig) -> list[str] | None:
    """Dotted names of the settings that differ from those in config.json at `path`; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        # Settings added after the run was started get their defaults.
        old = _settings_of_run(to_dict(from_dict(read_json_object(path))))
    except ValueError as error:
        raise ValueError(f"{path}: not the configuration of a run ({error}); expected a new folder") from None
    new = _settings_of_run(to_dict(config))
    return [key for key in sorted({**old, **new}) if old.get(key) != new.get(key)]


def _steps_begun(folder: Path) -> int:
    """`trainer.max_steps` that the run in a folder was started with."""
    return from_dict(read_json_object(folder / CONFIG)).trainer.max_steps


def _settings_of_run(tree: dict[str, Any]) -> dict[str, Any]:
    """Settings that must not change in a run, by dotted name: all but data.store, which does not affect batches."""
    return {key: value for key, value in _flat(tree).items() if key != "data.store"}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    items: dict[str, Any] = {}
    for key, value in tree.items():
        items.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return items


def _ended_before_its_first_checkpoint(folder: Path, held: list[str]) -> bool:
    """Whether the results are from a run that was killed in its first validation, before its first checkpoint.

    Such a run starts again and writes the same results. (A run that had a checkpoint has progress.json.)
    """
    scores = folder / "scores.tsv"
    validations = len(scores.read_text().splitlines()) - 1 if scores.is_file() else 0
    return not {"model", "checkpoints", "progress.json"} & set(held) and validations <= 1


def _check_inputs(folder: Path, inputs: Mapping[str, Any]) -> None:
    """ValueError naming the first input whose content has changed since the run was started."""
    path = folder / INPUTS
    begun = read_json_object(path, "what training wrote")
    if not isinstance(begun.get("vocabulary"), dict) or not isinstance(begun.get("files"), dict):
        raise ValueError(f"{path}: no sections vocabulary and files; expected the file that training wrote")
    if _difference(begun["vocabulary"], inputs["vocabulary"]):
        raise ValueError(
            f"{folder} holds a run with another vocabulary ({path} says which); expected that one, or a new folder"
        )
    for name, now in inputs["files"].items():
        if difference := _difference(begun["files"].get(name, {}), now):
            raise ValueError(
                f"{name}: {difference} when the run in {folder} was begun; expected the same content, or a new folder"
            )


def _difference(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How two descriptions of a file differ in the keys they share, as part of a message; "" if they agree."""
    different = [key for key in now if key in begun and begun[key] != now[key]]
    if "bytes" in different:
        return f"{now['bytes']} bytes, but {begun['bytes']}"
    return "other content than" if different else ""
