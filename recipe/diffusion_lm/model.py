"""A trained language model: family + network + vocabulary, as one self-contained folder.

    model = LanguageModel.load("run/model")
    model.family.nelbo(model.network, model.sentences(["he hoped there would be stew"]), draw)

What the folder holds is told in model_folder.py. Loading is strict: a missing, surplus or misshapen weight is an error, never a silent
random layer, and so are a file with other bytes than were saved and a weight that is nan or inf.
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

from diffusion_lm.backbones import Backbone, NetworkConfig, build_network, config_class
from diffusion_lm.backbones.base import DEFAULT
from diffusion_lm.families import Family, SpecialIds, build_family
from diffusion_lm.layout import Sentences
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
from returnn_bridge.files import whole_folder
from returnn_bridge.vocab import Vocabulary
from returnn_bridge.vocab.open import load_vocab, vocab_file

STORED_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LanguageModel:
    """Ready to score. `facts` is what training wrote about itself (steps, seed, text), free for people to read."""

    family: Family
    network: Backbone
    vocab: Vocabulary
    family_options: Mapping[str, Any]
    backbone: NetworkConfig
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def build(cls, family_options: Mapping[str, Any], backbone: NetworkConfig, vocab: Vocabulary) -> LanguageModel:
        """A model with fresh weights. The network's attention follows from the family."""
        family = build_family(family_options, special_ids(vocab))
        return cls(family, _network(family, backbone, vocab), vocab, dict(family_options), backbone)

    def with_family_options(self, changes: Mapping[str, Any]) -> LanguageModel:
        """The same network with other options of its family. ValueError for an unknown or impossible one."""
        options = {**self.family_options, **changes}
        family = build_family(options, special_ids(self.vocab))
        return dataclasses.replace(self, family=family, family_options=options)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    def sentences(self, texts: Sequence[str]) -> Sentences:
        """Framed ids of texts, on the model's device. Nothing is truncated."""
        return self.frame(self.vocab.encode_batch(texts))

    def frame(self, tokens: Sequence[Sequence[int]]) -> Sentences:
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
        """Write the folder whole or not at all. dtype 'bfloat16' halves its size.

        weights: instead of the network's own, where these are cut up over several processes. replaces: which folder at its place may go
        (`made_by`); ValueError for any other that holds something.
        """
        target = Path(folder)
        # A link stays, and the folder it leads to is written.
        with whole_folder(target.resolve() if target.is_symlink() else target, replaces=replaces) as temporary:
            stored = {
                name: value.detach().cpu().to(STORED_TYPES[dtype]).contiguous()
                for name, value in (weights or self.network.state_dict()).items()
            }
            content = serialize(stored)
            # Not save_file: its files are for the owner only, ours get the rights that the umask gives.
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
    def load(cls, folder: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> LanguageModel:
        """Read a folder that `save` wrote. Weights come back in float32, in evaluation mode. ValueError says what does not fit."""
        path = Path(folder)
        device = usable_device(device)
        config = read_config(path)
        vocab = load_vocab(path)
        check_vocab(path, config, vocab)
        for section in ("family", "model"):
            if not isinstance(config.get(section), dict):
                raise ValueError(f"{path / CONFIG}: no section {section!r}; expected the file that training wrote")
        backbone = _backbone(config["model"], path / CONFIG)
        _check_size(path, backbone, build_family(config["family"], special_ids(vocab)), vocab)
        weights = read_weights(path, config)
        with torch.random.fork_rng(devices=[]):  # loading must not move anyone's random state
            model = cls.build(config["family"], backbone, vocab)
        model.network.load_state_dict(weights)
        model.network.to(device).eval().requires_grad_(False)
        return dataclasses.replace(model, facts=config.get("facts", {}))


def _network(family: Family, backbone: NetworkConfig, vocab: Vocabulary) -> Backbone:
    return build_network(
        backbone, num_inputs=vocab.num_inputs, num_outputs=family.num_outputs, visibility=family.visibility
    )


def _backbone(section: Mapping[str, Any], file: Path) -> NetworkConfig:
    """The configuration of the network in a config.json; folders of earlier versions do not name it."""
    try:
        kind = config_class(section.get("network", DEFAULT))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    for field in dataclasses.fields(kind):
        value, usual = section.get(field.name, field.default), type(field.default)
        if type(value) is not usual and not (usual is float and type(value) is int):
            raise ValueError(f"{file}: model.{field.name} {value!r}; expected {usual.__name__}")
    try:
        return kind(**section)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: section 'model' does not fit ({error})") from None


def _check_size(path: Path, backbone: NetworkConfig, family: Family, vocab: Vocabulary) -> None:
    """The weights that are stored must be those of a network of this size, before there is one: a size is only a number in a file."""
    stored = count_weights(path / WEIGHTS)
    if backbone.min_tensors > stored:
        raise ValueError(
            f"{path / WEIGHTS}: weights do not fit {CONFIG} ({stored} tensors, expected at least {backbone.min_tensors})"
        )
    try:
        with torch.device("meta"):  # shapes without memory
            expected = _network(family, backbone, vocab).state_dict()
    except (RuntimeError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path / CONFIG}: section 'model' is of no network that can be built ({reason})") from None
    check_header(path / WEIGHTS, expected)


def usable_device(name: torch.device | str) -> torch.device:
    """The device of that name; ValueError if there is none."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(name)!r} can not be used here ({str(error).splitlines()[0]})") from None


def special_ids(vocab: Vocabulary) -> SpecialIds:
    return SpecialIds(vocab.num_pieces, vocab.mask_id, vocab.bos_id, vocab.eos_id, vocab.num_inputs)


def fingerprint(folder: str | os.PathLike[str]) -> str:
    """16 hex digits that change when the model (weights, configuration or vocabulary) does."""
    digest = hashlib.sha256()
    path = Path(folder)
    for part in (path / WEIGHTS, path / CONFIG, vocab_file(path)):
        with open(part, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
