"""Open published BD3-LM and MDLM folders (model.safetensors and config.json) as our models, without running their code.

    model = open_pretrained("bd3lm-owt-block_size4", "gpt2")                 # a LanguageModel
    import_pretrained("bd3lm-owt-block_size4", "gpt2", "model")             # written as a model folder

The network is the same function with other names of the weights (mdlm_weights.py); size, attention and block size must
agree with config.json. The vocabulary must be the tokenizer that the model was trained with. Published models use
GPT-2's, which is not in their folder: give a folder with its tokenizer.json, or with vocab.json and merges.txt
(returnn_bridge/vocab/bpe.py). Only the number of ids can be checked, so measure the perplexity of some text first.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_lm.backbones.dit import DiTConfig
from diffusion_lm.device import usable_device
from diffusion_lm.foreign.mdlm_weights import FREQUENCIES, network_weights, read_checkpoint
from diffusion_lm.model import LanguageModel
from diffusion_lm.model_folder import CONFIG, WEIGHTS, check_finite, made_by
from returnn_bridge.files import check_replaceable, is_finite, named, quoted, read_json
from returnn_bridge.vocab.open import load_vocab

TYPES = ("bd3lm", "mdlm")
# Entries of a published state dict that are no parameters: the interval of training times, and attention masks.
INTERVAL = ("sampling_eps_min", "sampling_eps_max")
BUFFERS = (*INTERVAL, "backbone.block_diff_mask", "backbone.mask")


def is_pretrained(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a published model rather than one of ours."""
    file = Path(folder) / CONFIG
    try:
        config = read_json(file) if file.is_file() else None
    except ValueError:
        return False
    return isinstance(config, dict) and config.get("model_type") in TYPES


def open_pretrained(
    folder: str | os.PathLike[str], vocab: str | os.PathLike[str], *, device: torch.device | str = "cpu"
) -> LanguageModel:
    """Open a published model with the vocabulary that it was trained with (folder or file).

    ValueError if they do not fit.
    """
    path = Path(folder)
    device = usable_device(device)
    config = _config(path)
    state = read_checkpoint(path / WEIGHTS)
    check_finite({name: value for name, value in state.items() if name not in BUFFERS}, path / WEIGHTS)
    kept = {name: value for name, value in state.items() if name not in BUFFERS}
    with named(path / WEIGHTS):
        backbone, weights = network_weights(
            kept, num_heads=_whole(config, "n_heads", path), conditioned=config.get("adaln", True)
        )
    _check_size(config, backbone, weights, path)
    _check_frequencies(kept, path)
    pieces = load_vocab(vocab)
    ids = len(weights["embedding.weight"])
    if (pieces.num_inputs, pieces.mask_id) != (ids, ids - 1):
        raise ValueError(
            f"{path}: weights for {ids} ids, the mask being the last; {vocab} has {pieces.num_inputs} "
            f"with mask {pieces.mask_id} ({pieces.num_pieces} pieces); expected the vocabulary it was trained with, "
            f"BOS and EOS among its {ids - 1} pieces"
        )
    with torch.random.fork_rng(devices=[]), named(path / CONFIG):
        model = LanguageModel.build(_family(config, path), backbone, pieces)
    model.network.load_state_dict(weights)
    model.network.to(device).eval().requires_grad_(False)
    facts: dict[str, Any] = {"imported": {"folder": path.resolve().name, "model_type": config["model_type"]}}
    if all(name in state for name in INTERVAL):
        times = [state[name].flatten().tolist() for name in INTERVAL]
        if not all(len(time) == 1 and is_finite(time[0]) for time in times):
            raise ValueError(f"{path / WEIGHTS}: {', '.join(INTERVAL)} are {quoted(times)}; expected one number each")
        facts["trained_times"] = [float(time) for (time,) in times]
    return dataclasses.replace(model, facts=facts)


def import_pretrained(
    folder: str | os.PathLike[str],
    vocab: str | os.PathLike[str],
    out: str | os.PathLike[str],
    look: Callable[[LanguageModel], object] | None = None,
) -> LanguageModel:
    """Convert a published model into a model folder at `out`, which may only replace an earlier import. look: called
    before writing.
    """
    replaces = made_by("imported")
    check_replaceable(Path(out), replaces)
    model = open_pretrained(folder, vocab)
    if look is not None:
        look(model)
    model.save(out, replaces=replaces)
    return model


def _config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    config = read_json(file, "the folder of a published BD3-LM or MDLM model")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in TYPES:
        raise ValueError(f"{file}: model_type {quoted(kind)}; expected one of {', '.join(TYPES)}")
    for name in ("adaln", "causal", "cross_attn", "time_conditioning"):
        if not isinstance(config.get(name, False), bool):
            raise ValueError(f"{file}: {name} {quoted(config[name])}; expected true or false")
    return config


def _family(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Options of the family of a published network. All of them mask every position but the first."""
    if config.get("causal", False):
        raise ValueError(f"{path / CONFIG}: causal true; networks from left to right are not imported")
    conditioned = bool(config.get("time_conditioning", False))
    if config["model_type"] == "bd3lm" and config.get("cross_attn", True):
        size = _whole(config, "block_size", path)
        family: dict[str, Any] = {"name": "block", "block_size": size, "time_conditioning": conditioned}
        return family if size == 1 else family | {"schedule_options": {"eps": 0.0}}
    return {"name": "masked", "score_eos": True, "time_conditioning": conditioned}


def _whole(config: Mapping[str, Any], name: str, path: Path) -> int:
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"{path / CONFIG}: {name} {quoted(value)}; expected a whole number of at least 1")
    return value


def _check_size(config: Mapping[str, Any], backbone: DiTConfig, weights: Mapping[str, Tensor], path: Path) -> None:
    found = {"hidden_dim": backbone.hidden_size, "n_blocks": backbone.num_blocks}
    found["vocab_size"] = len(weights["embedding.weight"])
    if backbone.adaln:
        found["cond_dim"] = backbone.cond_dim
    for name, value in found.items():
        if _whole(config, name, path) != value:
            raise ValueError(f"{path}: {CONFIG} says {name} {quoted(config[name])}, the weights are those of {value}")


def _check_frequencies(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError if the rotary frequencies differ from those that our network computes."""
    for name, value in state.items():
        if name.endswith(FREQUENCIES):
            expected = 10000.0 ** (-torch.arange(len(value)) / len(value))
            if not torch.allclose(value.float(), expected, rtol=1e-2):
                raise ValueError(f"{path}: {name} are not the rotary frequencies of base 10000; expected those")
