"""Translate the configuration tree of an MDLM, ASR-fork or BD3-LM run into our configuration. Nothing is run.

    tree = read_tree("mdlm_returnn_asr.yaml", ["checkpointing.save_dir=run", "model.hidden_size=32"])
    made = translate(tree)              # made.config: our TrainConfig; made.notes: the verdict on every key
    print(describe(tree, made))

Overrides are dotted keys of that tree. Every key is honoured, refused (with a ValueError that names it), compared with
the model that the mode loads, or listed as without effect with the reason (foreign/table.py). The modes of a tree are
run by commands/foreign_modes.py.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from rich.console import Console
from rich.syntax import Syntax
from rich.tree import Tree

from diffusion_lm.config import TrainConfig, from_dict, override_tree
from diffusion_lm.families import SpecialIds, build_family
from diffusion_lm.foreign.bd3lm import not_missed
from diffusion_lm.foreign.reading import read
from diffusion_lm.foreign.rules import COMPARED, HONOURED, NO_EFFECT, Note
from diffusion_lm.foreign.table import KEYS, OPTIONAL, SECTIONS
from returnn_bridge.files import read_yaml
from returnn_bridge.packing import Packing

FOREIGN = {
    "mode",
    "diffusion",
    "backbone",
    "parameterization",
    "noise",
    "checkpointing",
    "callbacks",
    "algo",
    "block_size",
}


@dataclass(frozen=True)
class SamplingSettings:
    """Section `sampling` of the tree, and the batch size of its loader."""

    predictor: str | None = None
    """Name of the sampler; None for the default of the family."""
    steps: int = 128
    """Number of reverse steps, of each block in a block model."""
    noise_removal: bool = True
    """Whether masks that remain after the last step are filled."""
    batch_size: int = 64
    """Number of sentences that are sampled at a time."""
    num_batches: int = 2
    """Number of such batches."""
    num_shown: int = 2
    """Number of samples that are printed."""
    semi_autoregressive: bool = False
    """Whether texts are sampled in windows, each given the end of the text before it."""
    stride: int = 1
    """Number of new pieces in each window after the first."""
    num_strides: int = 1
    """Number of windows after the first."""
    first_hitting: bool = True
    """For block models: one network run per token, instead of `steps` per block."""
    nucleus_p: float = 1.0
    """For block models: draw from the most probable symbols with this total probability."""
    fixed_length: bool = False
    """For models that draw EOS: samples go on behind it, up to exactly model.length tokens, BOS counted."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("num_batches", 1), ("num_shown", 0), ("stride", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"sampling.{name} {getattr(self, name)}: expected at least {least}")


@dataclass(frozen=True)
class RescoreSettings:
    """Section `rescore` of the tree."""

    hypothesis_file: str = ""
    """N-best file in RETURNN's format."""
    output_dir: str = ""
    """Folder for the result."""
    passes: int = 1
    """Number of network passes per hypothesis."""

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"rescore.passes {self.passes}: expected at least 1")


@dataclass(frozen=True)
class Translation:
    """The meaning of a tree in terms of our settings."""

    mode: str
    """What to do: train, ppl_eval, sample_eval or rescore."""
    config: TrainConfig
    """Configuration of the run."""
    sampling: SamplingSettings
    """Settings for mode sample_eval."""
    rescore: RescoreSettings
    """Settings for mode rescore."""
    notes: tuple[Note, ...]
    """Verdict on each key, in the order of the tree."""
    absent: tuple[str, ...]
    """Keys that would act in this mode but are not in the tree, so that our defaults apply."""
    save_dir: str
    """Folder of the run, from checkpointing.save_dir."""
    model: str
    """Model folder, from eval.checkpoint_path."""
    judge: str
    """Model for generative perplexity, or ""."""
    judge_wanted: bool
    """Whether the tree asks for generative perplexity."""
    resume: bool
    """Whether an existing run is continued."""
    packing: Packing | None
    """How validation documents are packed into rows in mode ppl_eval; None for one document per row."""
    likelihood: bool
    """Whether mode ppl_eval also computes the exact likelihood."""
    origin: Mapping[str, str]
    """Our setting -> key of the tree that set it."""


def is_foreign(tree: Mapping[str, Any]) -> bool:
    """Whether a configuration tree is foreign; our own configurations have none of these sections."""
    return not FOREIGN.isdisjoint(tree)


def translate(tree: Mapping[str, Any]) -> Translation:
    """Translate a resolved tree. ValueError that names the key if it is unknown or refused."""
    reading = read(tree)
    parts: dict[str, dict[str, Any]] = {
        "data": {},
        "model": {},
        "family": {"name": "masked"},
        "optim": {},
        "trainer": {},
    }
    others: dict[str, dict[str, Any]] = {"sampling": {}, "rescore": {}, "run": {}}
    for target, value in reading.settings.items():
        section, _, name = target.partition(".")
        if name:
            (parts | others)[section][name] = value
    try:
        top_level: dict[str, Any] = {name: reading.settings[name] for name in reading.settings if "." not in name}
        config = from_dict({**parts, **top_level})
        # A trial build, so that incompatible options raise errors now and not after the data is read.
        build_family(config.family, SpecialIds(num_pieces=1, mask_id=1, bos_id=2, eos_id=3, num_inputs=4))
        sampling, rescore = SamplingSettings(**others["sampling"]), RescoreSettings(**others["rescore"])
    except ValueError as error:
        raise ValueError(with_origin(str(error), reading.origin)) from None
    run_settings = others["run"]
    unneeded = {*OPTIONAL, *not_missed(reading)}
    quiet = {"wandb", "callbacks", "rescore", "eval", "checkpointing"}  # sections whose absence is not listed
    return Translation(
        mode=reading.mode,
        config=config,
        sampling=sampling,
        rescore=rescore,
        notes=tuple(reading.notes),
        absent=tuple(
            key
            for key in KEYS
            if reading.mode in KEYS[key].modes
            and key not in reading.leaves
            and quiet.isdisjoint(key.split("."))
            and key not in unneeded
        ),
        save_dir=run_settings.get("save_dir", ""),
        model=run_settings.get("model", ""),
        judge=run_settings.get("judge", ""),
        judge_wanted=bool(reading.leaves.get("eval.compute_generative_perplexity")),
        resume=run_settings.get("resume", True),
        packing=_packing(config, run_settings),
        likelihood=run_settings.get("likelihood", False),
        origin=reading.origin,
    )


def read_tree(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read the tree of a file and apply dotted overrides. An override may add a known key that the file lacks."""
    tree = read_yaml(path)
    for override in overrides:
        first = override.partition("=")[0].partition(".")[0]
        if first not in tree and (first in KEYS or first in SECTIONS):
            tree[first] = {} if first in SECTIONS else None
    return override_tree(tree, overrides, open_sections=sorted(SECTIONS))


def describe(tree: Mapping[str, Any], made: Translation) -> str:
    """Text with the tree as rich prints it, titled CONFIG, the keys that are compared with a model, those without
    effect by reason, and the absent ones. No line is cut off.
    """
    root = Tree("CONFIG", guide_style="dim")
    for name, value in tree.items():
        inside = yaml.safe_dump(value, sort_keys=False) if isinstance(value, (dict, list)) else str(value)
        root.add(str(name)).add(Syntax(inside.rstrip("\n"), "yaml", background_color="default"))
    longest = max(map(len, yaml.safe_dump(dict(tree), width=10_000).splitlines()))
    console = Console(file=io.StringIO(), width=longest + 40, no_color=True)
    console.print(root)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.rstrip() for line in shown.splitlines()]
    counts = Counter(note.verdict for note in made.notes)
    lines += ["", f"{counts[HONOURED]} keys honoured"]
    if counts[COMPARED]:
        lines += [f"{counts[COMPARED]} keys compared with the model in eval.checkpoint_path, which must agree:"]
        lines += _wrapped(note for note in made.notes if note.verdict == COMPARED)
    lines += [f"{counts[NO_EFFECT]} keys without effect:"]
    reasons = dict.fromkeys(note.text for note in made.notes if note.verdict == NO_EFFECT)
    for reason in reasons:
        lines += [f"  {reason}:"]
        lines += _wrapped(note for note in made.notes if (note.verdict, note.text) == (NO_EFFECT, reason))
    if made.absent:
        lines += ["", f"not in the tree, left at our defaults: {', '.join(made.absent)}"]
    return "\n".join(lines) + "\n"


def _wrapped(notes: Iterable[Note]) -> list[str]:
    """Keys with their values as a few lines, of which only one with a long value is longer than 120 characters."""
    lines = [""]
    for note in notes:
        item = f"{note.key} = {note.value}"
        if lines[-1] and len(lines[-1]) + len(item) > 112:
            lines.append("")
        lines[-1] += f", {item}" if lines[-1] else item
    return [f"      {line}" for line in lines]


def given(key: str, value: str) -> str:
    """Return a required path; ValueError if it is empty or still the placeholder of a printed tree."""
    if not value or "/PLACEHOLDER" in value:
        raise ValueError(f"{key}: got {value!r}; expected a path of yours, e.g. {key}=PATH behind the file's name")
    return value


def _packing(config: TrainConfig, settings: Mapping[str, Any]) -> Packing | None:
    how = {name: settings[name] for name in ("insert_eos", "insert_special") if name in settings}
    return Packing(config.data.max_seq_length + 2, **how) if settings.get("wrap") else None


def with_origin(message: str, origin: Mapping[str, str]) -> str:
    """Add to an error message about our settings the keys of the tree that set them."""
    named = [key for target, key in origin.items() if target in message and target != key]
    return f"{message} (set by {', '.join(dict.fromkeys(named))})" if named else message
