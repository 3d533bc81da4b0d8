"""The configuration of a training run: frozen dataclasses with checked values, and overrides by dotted names.

    config = apply_overrides(presets.build("demo_masked:tiny"), ["optim.lr=1e-3", "data.text=[a.txt.gz, b.txt.gz]"])
    config = from_dict(yaml.safe_load(text))            # unknown key -> ValueError naming the known ones
    to_dict(config)                                     # plain lists, dicts, numbers and strings again

An unknown key, a value of a wrong type and an impossible value are a ValueError that names the key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from diffusion_lm.backbones import NetworkConfig, config_class
from diffusion_lm.backbones.base import DEFAULT
from diffusion_lm.backbones.dit import DiTConfig
from diffusion_lm.backbones.flex import ATTENTIONS
from diffusion_lm.strict import build, plain, unknown_key
from returnn_bridge.files import quoted

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")

WANDB_KEYS = ("project", "name", "group", "id", "job_type", "notes", "tags")


@dataclass(frozen=True)
class DataConfig:
    """Text, vocabulary and RETURNN's batching rule."""

    vocab: str = ""
    """Vocabulary folder or SentencePiece .model file."""
    text: tuple[str, ...] = ()
    """Training text files (plain or .gz), read by an LmDataset."""
    valid_text: dict[str, str] = field(default_factory=dict)
    """Name -> text file (plain or .gz) of each validation set, read by an LmDataset."""
    partition_epoch: int = 1
    """Number of sub-epochs in one pass over `text`."""
    seq_ordering: str = "laplace:.1000"
    """RETURNN's ordering of the sentences of `text`."""
    train: dict[str, Any] = field(default_factory=dict)
    """A RETURNN dataset dict instead of `text`."""
    store: str = ""
    """Token store of the training text (`dlm tokenize`): a path, "none", or "" for the usual path if it exists.

    Batches are the same with and without it.
    """
    valid: dict[str, Any] = field(default_factory=dict)
    """Name -> RETURNN dataset dict instead of `valid_text`."""
    batch_size: int = 32768
    """Most tokens in a batch, padding counted (RETURNN's rule)."""
    max_seqs: int = 256
    """Most sentences in a batch."""
    max_seq_length: int = 128
    """Most pieces in a training sentence, without BOS and EOS; `too_long` applies to longer ones."""
    too_long: str = "drop"
    """One of "drop" (and count) and "crop" (a random window of max_seq_length pieces, drawn anew each sub-epoch)."""
    valid_too_long: str = "keep"
    """The same for validation: "keep" or "crop" (the same random window at every validation, as GIDD validates)."""
    wrap: bool = False
    """Pack documents into rows of max_seq_length + 2 tokens, for training and validation, instead of one sentence a
    row.
    """
    insert_train_eos: bool = True
    """With `wrap`, EOS after every training document."""
    insert_train_special: bool = True
    """With `wrap`, BOS and EOS around every training row."""
    insert_valid_eos: bool = True
    """The same for validation documents."""
    insert_valid_special: bool = True
    """The same for validation rows."""
    num_workers: int = 0
    """Number of processes that read data: 0 (the training process reads) or 1."""

    def __post_init__(self) -> None:
        if bool(self.text) == bool(self.train) and self.text:
            raise ValueError("data.text and data.train are both set; expected one of them")
        for name in ("batch_size", "max_seqs", "max_seq_length", "partition_epoch"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} {getattr(self, name)}: expected at least 1")
        if self.too_long not in ("drop", "crop"):
            raise ValueError(f"data.too_long {quoted(self.too_long)}; expected 'drop' or 'crop'")
        if self.valid_too_long not in ("keep", "crop"):
            raise ValueError(f"data.valid_too_long {quoted(self.valid_too_long)}; expected 'keep' or 'crop'")
        inserts = ("insert_train_eos", "insert_train_special", "insert_valid_eos", "insert_valid_special")
        if not self.wrap and (changed := [name for name in inserts if not getattr(self, name)]):
            raise ValueError(f"data.{changed[0]} false: it is for packed rows; expected data.wrap=true too")
        if self.wrap and "crop" in (self.too_long, self.valid_too_long):
            raise ValueError(
                "data.too_long or data.valid_too_long 'crop' with data.wrap true: rows are filled by documents of any "
                "length; expected the usual values"
            )
        if self.num_workers not in (0, 1):
            raise ValueError(
                f"data.num_workers {self.num_workers}: expected 0 or 1 (more would each load the whole corpus index)"
            )


@dataclass(frozen=True)
class OptimConfig:
    """AdamW on all parameters, and the learning-rate schedule."""

    lr: float = 3e-4
    """Learning rate after the warm-up."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""
    beta1: float = 0.9
    """Decay of AdamW's first moment."""
    beta2: float = 0.999
    """Decay of AdamW's second moment."""
    eps: float = 1e-8
    """Term that AdamW adds to the denominator."""
    schedule: str = "constant"
    """Learning rate after the warm-up: "constant" or "cosine" (to lr * final_factor at trainer.max_steps)."""
    warmup_steps: int = 2500
    """Number of optimizer steps over which the learning rate rises linearly from 0."""
    stable_steps: int = 0
    """For "cosine": number of optimizer steps at the full rate between the warm-up and the cosine."""
    final_factor: float = 0.0
    """Learning rate at the end of the cosine, as a share of `lr`."""

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"optim.schedule {quoted(self.schedule)}; expected 'constant' or 'cosine'")
        if self.lr <= 0 or self.warmup_steps < 0:
            raise ValueError(
                f"optim.lr {self.lr}, optim.warmup_steps {self.warmup_steps}: expected lr > 0 and warmup_steps >= 0"
            )
        if self.stable_steps < 0 or (self.stable_steps and self.schedule != "cosine"):
            raise ValueError(
                f"optim.stable_steps {self.stable_steps} with optim.schedule {self.schedule!r}: "
                "expected a number of steps before the decay of 'cosine', or 0"
            )


@dataclass(frozen=True)
class TrainerConfig:
    """Length of the training, devices, precision, validation and saving."""

    max_steps: int = 1000
    """Length of the training in optimizer steps."""
    val_check_interval: int = 1000
    """Optimizer steps between validations."""
    limit_val_batches: int | float = 1.0
    """Most batches of a validation set (int), or the fraction of its batches (float)."""
    save_every: int = 500
    """Optimizer steps between resume checkpoints."""
    accumulate_grad_batches: int = 1
    """Number of batches in an optimizer step, on each device."""
    gradient_clip: float = 1.0
    """Largest global norm of the gradients; 0 = no clipping."""
    precision: str = "32"
    """One of "32" and "bf16" (mixed)."""
    ema: float = 0.9999
    """Decay of the weight average; 0 = off."""
    accelerator: str = "auto"
    """One of "auto" (a GPU where there is one), "cpu", "gpu", "cuda", "mps" and "tpu"."""
    devices: int = 1
    """Number of devices on each node."""
    num_nodes: int = 1
    """Number of nodes."""
    strategy: str = "auto"
    """One of "auto", "ddp" (a copy of the network in every process) and "fsdp" (weights sharded over processes)."""
    activation_checkpointing: bool = False
    """Compute each block again in the backward pass instead of keeping its activations."""
    compile: bool = False
    """Compile the blocks with torch.compile; on a CPU it takes half a minute and training is a little slower."""
    attention: str = "sdpa"
    """One of "sdpa" (torch's scaled_dot_product_attention) and "flex" (compiled, without padding; needs a GPU)."""
    clip_search: dict[str, Any] = field(default_factory=dict)
    """Search the training times of a block model at each validation: {widths: [0.5, 0.7, 0.9], delta: 0.05}."""
    keep_last: int = 0
    """Number of last validations whose models are kept in kept/."""
    keep_best: int = 0
    """Number of best validations whose models are kept in kept/."""
    log_every: int = 50
    """Optimizer steps between log entries."""
    monitor: str = "val/nll"
    """Validation value that selects the best model, lower is better."""
    logger: str = "tensorboard"
    """One of "tensorboard", "wandb" and "none"."""
    wandb: dict[str, Any] = field(default_factory=dict)
    """For W&B: project (default diffusion-lm), name (that of the run folder), group, id, job_type, notes and tags."""

    def __post_init__(self) -> None:
        if self.accelerator not in ACCELERATORS:
            raise ValueError(
                f"trainer.accelerator {quoted(self.accelerator)}; expected one of {', '.join(ACCELERATORS)}"
            )
        if self.precision not in ("32", "bf16"):
            raise ValueError(f"trainer.precision {quoted(self.precision)}; expected '32' or 'bf16'")
        if self.logger not in ("tensorboard", "wandb", "none"):
            raise ValueError(f"trainer.logger {quoted(self.logger)}; expected 'tensorboard', 'wandb' or 'none'")
        self._check_wandb()
        if self.attention not in ATTENTIONS:
            raise ValueError(f"trainer.attention {quoted(self.attention)}; expected 'sdpa' or 'flex'")
        if self.strategy not in ("auto", "ddp", "fsdp"):
            raise ValueError(f"trainer.strategy {quoted(self.strategy)}; expected 'auto', 'ddp' or 'fsdp'")
        if self.keep_last < 0 or self.keep_best < 0:
            raise ValueError(
                f"trainer.keep_last {self.keep_last}, trainer.keep_best {self.keep_best}: expected numbers of models"
            )
        if not 0 <= self.ema < 1:
            raise ValueError(f"trainer.ema {self.ema}: expected a decay in [0, 1)")
        for name in (
            "max_steps",
            "val_check_interval",
            "save_every",
            "accumulate_grad_batches",
            "devices",
            "num_nodes",
            "log_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} {getattr(self, name)}: expected at least 1")

    def _check_wandb(self) -> None:
        if self.wandb and self.logger != "wandb":
            raise ValueError(f"trainer.wandb is set, but trainer.logger is {self.logger!r}; expected 'wandb'")
        for key, value in self.wandb.items():
            if key not in WANDB_KEYS:
                raise ValueError(unknown_key(f"trainer.wandb.{key}", str(key), WANDB_KEYS))
            fits = isinstance(value, list) if key == "tags" else isinstance(value, str)
            if not fits or not all(isinstance(item, str) for item in value):
                expected = "a list of texts" if key == "tags" else "text"
                raise ValueError(f"trainer.wandb.{key}: got {value!r}; expected {expected}")


@dataclass(frozen=True)
class TrainConfig:
    """The configuration of a training run."""

    data: DataConfig = DataConfig()
    """Data, vocabulary and batches."""
    model: NetworkConfig = DiTConfig()
    """Network; its key `network` selects the kind."""
    family: dict[str, Any] = field(default_factory=lambda: {"name": "masked"})
    """Family with its options: `name` and the fields of that class."""
    optim: OptimConfig = OptimConfig()
    """Optimiser and learning rate."""
    trainer: TrainerConfig = TrainerConfig()
    """Length, validation, checkpoints, devices."""
    init_from: str = ""
    """Model folder to take initial weights from; weights it lacks (adaLN, for example) are initialised as usual."""
    preload_from_files: dict[str, Any] = field(default_factory=dict)
    """Parts of other models to take initial weights from, as RETURNN's setting of this name (training/preload.py)."""
    seed: int = 1
    """Seed of initial weights, noise, dropout and random windows of long texts."""

    def __post_init__(self) -> None:
        begin = self.optim.warmup_steps + self.optim.stable_steps
        if self.optim.stable_steps and begin >= self.trainer.max_steps:
            raise ValueError(
                f"optim.stable_steps {self.optim.stable_steps}: the cosine would begin at step {begin}; "
                f"expected less than trainer.max_steps {self.trainer.max_steps}"
            )


def to_dict(config: Any) -> dict[str, Any]:
    """The configuration as dicts, lists, numbers and strings."""
    return plain(dataclasses.asdict(config))


def from_dict(tree: Mapping[str, Any]) -> TrainConfig:
    """The configuration in a plain dict. ValueError naming an unknown key or the key of a value of a wrong type."""
    model = tree.get("model") if isinstance(tree, Mapping) else None
    if not isinstance(model, Mapping):
        return build(TrainConfig, tree)
    kind = config_class(model.get("network", DEFAULT))
    return build(TrainConfig, {key: tree[key] for key in tree if key != "model"}, model=build(kind, model, "model."))


def apply_overrides(config: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """A copy of the configuration with `section.key=value` settings, whose values are YAML; later ones win.

    `model.network=NAME` for another network replaces the section `model` by the defaults of that network.
    """
    tree = to_dict(config)
    chosen = [text for key, _, text in (override.partition("=") for override in overrides) if key == "model.network"]
    if chosen and chosen[-1] != config.model.network:
        tree["model"] = to_dict(config_class(chosen[-1])())
    return from_dict(
        override_tree(
            tree,
            overrides,
            open_sections=(
                "family",
                "preload_from_files",
                "trainer.clip_search",
                "trainer.wandb",
                "data.train",
                "data.valid",
                "data.valid_text",
            ),
        )
    )


def override_tree(
    tree: dict[str, Any], overrides: Sequence[str], *, open_sections: Sequence[str] = ()
) -> dict[str, Any]:
    """Set `a.b.c=value` settings in a tree of dicts, which is edited in place and returned.

    ValueError for a key that is not in the tree, unless it is in one of `open_sections` (dotted names).
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ValueError(f"override {override!r}; expected section.key=value")
        try:
            value = parse_value(text)
        except yaml.YAMLError:
            raise ValueError(f"override {override!r}: the value is not valid YAML") from None
        parts = key.split(".")
        node = tree
        for depth, part in enumerate(parts):
            path = ".".join(parts[: depth + 1])
            is_open = any(path.startswith(section + ".") for section in open_sections)
            if part not in node and not is_open:
                raise ValueError(f"override {override!r}: {unknown_key(path, part, node)}")
            if depth == len(parts) - 1:
                node[part] = value
                break
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError(f"override {override!r}: {path} is a single value, not a section")
    return tree


def parse_value(text: str) -> Any:
    """Read a YAML scalar, list or dict; 3e-4 is a number here, although it is a string in YAML 1.1."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
