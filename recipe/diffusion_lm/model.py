"""A trained language model: family + network + vocabulary, as one self-contained folder.

    model = LanguageModel.load("run/model")
    model.family.nelbo(model.network, model.sentences(["he hoped there would be stew"]), draw)

The folder holds `model.safetensors` (weights), `config.json` (family, size, facts about the training) and the vocabulary (`spm.model`,
or `tokenizer.json` with published weights).
Loading is strict: a missing, surplus or misshapen weight is an error, never a silent random layer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize

from diffusion_lm.backbones.dit import BackboneConfig, DiT
from diffusion_lm.families import Family, SpecialIds, build_family
from diffusion_lm.layout import Sentences
from returnn_bridge.files import read_json
from returnn_bridge.open_vocab import load_vocab, vocab_file
from returnn_bridge.vocab import Vocabulary

WEIGHTS, CONFIG, FORMAT = "model.safetensors", "config.json", "diffusion-lm"
STORED_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LanguageModel:
    """Ready to score. `facts` is what training wrote about itself (steps, seed, text), free for people to read."""

    family: Family
    network: DiT
    vocab: Vocabulary
    family_options: Mapping[str, Any]
    backbone: BackboneConfig
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def build(cls, family_options: Mapping[str, Any], backbone: BackboneConfig, vocab: Vocabulary) -> LanguageModel:
        """A model with fresh weights. The network's attention follows from the family."""
        family = build_family(family_options, special_ids(vocab))
        network = DiT(
            backbone, num_inputs=vocab.num_inputs, num_outputs=family.num_outputs, visibility=family.visibility
        )
        return cls(family, network, vocab, dict(family_options), backbone)

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
    ) -> Path:
        """Write the folder whole or not at all (an older one at its place is replaced). dtype 'bfloat16' halves its size.

        weights: instead of the network's own, where these are cut up over several processes.
        """
        target = Path(folder)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        stored = {
            name: value.detach().cpu().to(STORED_TYPES[dtype]).contiguous()
            for name, value in (weights or self.network.state_dict()).items()
        }
        # Not save_file: its files are for the owner only, ours get the rights that the umask gives.
        (temporary / WEIGHTS).write_bytes(serialize(stored))
        config = {
            "format": FORMAT,
            "version": 1,
            "family": dict(self.family_options),
            "model": dataclasses.asdict(self.backbone),
            "num_pieces": self.vocab.num_pieces,
            "facts": dict(self.facts if facts is None else facts),
        }
        (temporary / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
        self.vocab.save(temporary)
        if target.exists():
            old = target.with_name(f".{target.name}.{os.getpid()}.old")
            os.replace(target, old)
            os.replace(temporary, target)
            shutil.rmtree(old)
        else:
            os.replace(temporary, target)
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> LanguageModel:
        """Read a folder that `save` wrote. Weights come back in float32, in evaluation mode. ValueError says what does not fit."""
        path = Path(folder)
        device = usable_device(device)
        config = read_config(path)
        vocab = load_vocab(path)
        if vocab.num_pieces != config.get("num_pieces"):
            raise ValueError(
                f"{path}: the vocabulary has {vocab.num_pieces} pieces, the model was trained with {config.get('num_pieces')}; "
                "expected the vocabulary it was trained with"
            )
        for section in ("family", "model"):
            if not isinstance(config.get(section), dict):
                raise ValueError(f"{path / CONFIG}: no section {section!r}; expected the file that training wrote")
        try:
            backbone = BackboneConfig(**config["model"])
        except TypeError as error:
            raise ValueError(f"{path / CONFIG}: section 'model' does not fit ({error})") from None
        with torch.random.fork_rng(devices=[]):  # loading must not move anyone's random state
            model = cls.build(config["family"], backbone, vocab)
        try:
            weights = load_file(path / WEIGHTS)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{path / WEIGHTS}: not readable ({error}); expected the file that training wrote"
            ) from None
        try:
            model.network.load_state_dict({name: value.float() for name, value in weights.items()})
        except RuntimeError as error:
            first = " ".join(str(error).split())
            raise ValueError(f"{path / WEIGHTS}: weights do not fit config.json ({first[:300]})") from None
        model.network.to(device).eval().requires_grad_(False)
        return dataclasses.replace(model, facts=config.get("facts", {}))


def usable_device(name: torch.device | str) -> torch.device:
    """The device of that name; ValueError if there is none."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {str(name)!r} can not be used here ({str(error).splitlines()[0]})") from None


def special_ids(vocab: Vocabulary) -> SpecialIds:
    return SpecialIds(vocab.num_pieces, vocab.mask_id, vocab.bos_id, vocab.eos_id, vocab.num_inputs)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder, checked to be ours."""
    file = folder / CONFIG
    config = read_json(file, "a model folder that training wrote")
    if not isinstance(config, dict) or config.get("format") != FORMAT or config.get("version") != 1:
        raise ValueError(f"{file}: not a {FORMAT} version 1 model")
    return config


def fingerprint(folder: str | os.PathLike[str]) -> str:
    """16 hex digits that change when the model (weights, configuration or vocabulary) does."""
    digest = hashlib.sha256()
    path = Path(folder)
    for part in (path / WEIGHTS, path / CONFIG, vocab_file(path)):
        with open(part, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
