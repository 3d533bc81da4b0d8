"""A trained language model: family + network + vocabulary, as one self-contained folder.

    model = LanguageModel.load("run/model")
    model.family.nelbo(model.network, model.sentences(["he hoped there would be stew"]), draw)

The contents of the folder are described in model_folder.py. Loading is strict: a weight that is missing, unknown, of
another shape, nan or inf is an error, and so is a file with other bytes than were saved.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialize
from torch.overrides import TorchFunctionMode

from diffusion_lm.backbones import Backbone, NetworkConfig, build_network, config_class
from diffusion_lm.backbones.base import DEFAULT
from diffusion_lm.device import usable_device
from diffusion_lm.families import Family, SpecialIds, build_family
from diffusion_lm.layout import Sentences
from diffusion_lm.locate import locate
from diffusion_lm.model_folder import (
    CONFIG,
    FORMAT,
    WEIGHTS,
    check_header,
    check_vocab,
    count_weights,
    described,
    read_config,
    read_weights,
)
from returnn_bridge.files import named, one_line, quoted, whole_folder
from returnn_bridge.vocab import Vocabulary
from returnn_bridge.vocab.open import load_vocab, vocab_file

STORED_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LanguageModel:
    """A language model that can be trained, scored with and sampled from."""

    family: Family
    """Loss, bound and noise of the model."""
    network: Backbone
    """The network, with its weights."""
    vocab: Vocabulary
    """Vocabulary of input text."""
    family_options: Mapping[str, Any]
    """The section `family` of the configuration that `family` was built from."""
    backbone: NetworkConfig
    """The section `model` of the configuration that `network` was built from."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What training recorded about itself (steps, seed, text), for information."""

    @classmethod
    def build(cls, family_options: Mapping[str, Any], backbone: NetworkConfig, vocab: Vocabulary) -> LanguageModel:
        """A model with initial weights; the family determines the network's visibility and number of outputs."""
        family = build_family(family_options, special_ids(vocab))
        return cls(family, _network(family, backbone, vocab), vocab, dict(family_options), backbone)

    def with_family_options(self, changes: Mapping[str, Any]) -> LanguageModel:
        """The model with these options of its family changed and the same network. ValueError for an invalid option."""
        options = {**self.family_options, **changes}
        family = build_family(options, special_ids(self.vocab))
        return dataclasses.replace(self, family=family, family_options=options)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.network.parameters()).device

    @property
    def num_parameters(self) -> int:
        """Number of weights of the network."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def sentences(self, texts: Sequence[str]) -> Sentences:
        """Encode texts and add BOS and EOS; on the model's device. Nothing is truncated."""
        return self.frame(self.vocab.encode_batch(texts))

    def frame(self, tokens: Sequence[Sequence[int]]) -> Sentences:
        """Add BOS and EOS to lists of piece ids; on the model's device."""
        return Sentences.of(tokens, bos_id=self.vocab.bos_id, eos_id=self.vocab.eos_id).to(self.device)

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        dtype: str = "float32",
        facts: Mapping[str, Any] | None = None,
        weights: Mapping[str, torch.Tensor] | None = None,
        replaces: Callable[[Path], bool] | None = None,
    ) -> Path:
        """Write the model folder atomically and return its path.

        Args:
            folder: the model folder; ValueError if it exists, is not empty and `replaces` is not true of it.
            dtype: type of the stored weights, "float32" or "bfloat16".
            facts: facts to record instead of the model's.
            weights: full weights to store instead of the network's, which may be sharded over several processes.
            replaces: a test for existing folders that may be overwritten (`made_by`).
        """
        target = Path(folder)
        # A symbolic link is kept, and its target is written.
        with whole_folder(target.resolve() if target.is_symlink() else target, replaces=replaces) as temporary:
            stored = {
                name: value.detach().cpu().to(STORED_TYPES[dtype]).contiguous()
                for name, value in (weights or self.network.state_dict()).items()
            }
            content = serialize(stored)
            # Not save_file, because it makes files that only their owner can read; these follow the umask.
            (temporary / WEIGHTS).write_bytes(content)
            self.vocab.save(temporary)
            config = {
                "format": FORMAT,
                "version": 1,
                "family": dict(self.family_options),
                "model": self.backbone.section(),
                "num_pieces": self.vocab.num_pieces,
                "facts": dict(self.facts if facts is None else facts),
                "weights": described(content),
                "vocabulary": described(self.vocab.content),
            }
            (temporary / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: torch.device | str = "auto") -> LanguageModel:
        """Read a folder that `save` wrote, or `model/` of a run folder: weights in float32, in evaluation mode.

        ValueError for a folder that is incomplete, damaged or inconsistent, and for an unusable device.
        """
        path = locate(folder)
        device = usable_device(device)
        config = read_config(path)
        vocab = load_vocab(path)
        check_vocab(path, config, vocab)
        for section in ("family", "model", "facts"):
            if not isinstance(config.get(section, {} if section == "facts" else None), dict):
                raise ValueError(f"{path / CONFIG}: no section {section!r}; expected the file that training wrote")
        backbone = _backbone(config["model"], path / CONFIG)
        with named(path / CONFIG):
            family = build_family(config["family"], special_ids(vocab))
        _check_size(path, backbone, family, vocab)
        weights = read_weights(path, config)
        with torch.random.fork_rng(devices=[]):  # loading must not change the caller's random state
            model = cls.build(config["family"], backbone, vocab)
        model.network.load_state_dict(weights)
        model.network.to(device).eval().requires_grad_(False)
        return dataclasses.replace(model, facts=config.get("facts", {}))


def _network(family: Family, backbone: NetworkConfig, vocab: Vocabulary) -> Backbone:
    return build_network(
        backbone, num_inputs=vocab.num_inputs, num_outputs=family.num_outputs, visibility=family.visibility
    )


def _backbone(section: Mapping[str, Any], file: Path) -> NetworkConfig:
    """The network configuration in a config.json, whose `network` is absent in folders of earlier versions."""
    try:
        kind = config_class(section.get("network", DEFAULT))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    for field in dataclasses.fields(kind):
        value, usual = section.get(field.name, field.default), type(field.default)
        if type(value) is not usual and not (usual is float and type(value) is int):
            raise ValueError(f"{file}: model.{field.name} {quoted(value)}; expected {usual.__name__}")
    try:
        return kind(**section)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: section 'model' does not fit ({one_line(error)})") from None


def _check_size(path: Path, backbone: NetworkConfig, family: Family, vocab: Vocabulary) -> None:
    """ValueError if the stored weights do not fit a network of this size; checked before memory for it is allocated."""
    stored = count_weights(path / WEIGHTS)
    if backbone.min_tensors > stored:
        raise ValueError(
            f"{path / WEIGHTS}: weights do not fit {CONFIG} "
            f"({stored} tensors, expected at least {backbone.min_tensors})"
        )
    try:
        with torch.device("meta"), _NoInitialValues():  # shapes without memory
            expected = _network(family, backbone, vocab).state_dict()
    except (RuntimeError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path / CONFIG}: section 'model' is of no network that can be built ({reason})") from None
    check_header(path / WEIGHTS, expected)


class _NoInitialValues(TorchFunctionMode):
    """Leave new tensors as they are: on the meta device, random numbers make torch import its compiler (0.8 s)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def special_ids(vocab: Vocabulary) -> SpecialIds:
    """The ids and numbers of symbols of a vocabulary that a family needs."""
    return SpecialIds(vocab.num_pieces, vocab.mask_id, vocab.bos_id, vocab.eos_id, vocab.num_inputs)


def fingerprint(folder: str | os.PathLike[str]) -> str:
    """16 hex digits of a hash over weights, configuration and vocabulary of a model folder."""
    digest = hashlib.sha256()
    path = Path(folder)
    for part in (path / WEIGHTS, path / CONFIG, vocab_file(path)):
        with open(part, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
