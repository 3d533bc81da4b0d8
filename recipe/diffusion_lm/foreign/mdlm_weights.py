"""Convert the weights of the public DiT of MDLM (Sahoo et al., arXiv 2406.07524) for our DiT.

    state = read_checkpoint("model.safetensors")       # or a file that torch.load(weights_only=True) can read
    config, weights = network_weights(state)
    network = DiT(config, num_inputs=V, num_outputs=V, visibility="bidirectional")
    network.load_state_dict(weights)

The two networks compute the same function (docs/parity.md) with different names of the weights. Unknown names, missing
names and wrong shapes are errors. Nothing in a checkpoint is executed: a file that holds Python objects is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffusion_lm.backbones.dit import DiT, DiTConfig
from returnn_bridge.files import named, one_line

# Names in MDLM -> our names, in the order of the parameters in their optimizer and moving average.
BEFORE = {
    "vocab_embed.embedding": "embedding.weight",
    "sigma_map.mlp.0.weight": "noise.first.weight",
    "sigma_map.mlp.0.bias": "noise.first.bias",
    "sigma_map.mlp.2.weight": "noise.second.weight",
    "sigma_map.mlp.2.bias": "noise.second.bias",
}
BLOCK = {
    "norm1.weight": "norm_attention.weight",
    "attn_qkv.weight": "qkv.weight",
    "attn_out.weight": "attention_out.weight",
    "norm2.weight": "norm_mlp.weight",
    "mlp.0.weight": "mlp_in.weight",
    "mlp.0.bias": "mlp_in.bias",
    "mlp.2.weight": "mlp_out.weight",
    "mlp.2.bias": "mlp_out.bias",
    "adaLN_modulation.weight": "modulation.weight",
    "adaLN_modulation.bias": "modulation.bias",
}
AFTER = {
    "output_layer.norm_final.weight": "final_norm.weight",
    "output_layer.linear.weight": "head.weight",
    "output_layer.linear.bias": "head.bias",
    "output_layer.adaLN_modulation.weight": "final_modulation.weight",
    "output_layer.adaLN_modulation.bias": "final_modulation.bias",
}
FREQUENCIES = "rotary_emb.inv_freq"  # a buffer, no parameter; its length is half the width of a head


def parameter_names(num_blocks: int, *, conditioned: bool = True) -> dict[str, str]:
    """Map MDLM's parameter names to ours, in MDLM's order.

    Without `conditioned`, the names are those of its causal network.
    """
    blocks = {
        f"blocks.{number}.{theirs}": f"blocks.{number}.{ours}"
        for number in range(num_blocks)
        for theirs, ours in BLOCK.items()
    }
    names = BEFORE | blocks | AFTER
    return {
        theirs: ours
        for theirs, ours in names.items()
        if conditioned or not ("adaLN" in theirs or theirs.startswith("sigma_map"))
    }


def network_weights(
    state: Mapping[str, Tensor], *, num_heads: int | None = None, conditioned: bool = True
) -> tuple[DiTConfig, dict[str, Tensor]]:
    """Size and float32 weights of our DiT from the state dict of MDLM's; names may start with "backbone.".

    num_heads: only needed if the state dict has no rotary frequencies, from which it follows. conditioned: whether the
    network has a noise embedding. ValueError for unknown or missing names and for wrong shapes.
    """
    state = {name.removeprefix("backbone."): value for name, value in state.items()}
    blocks = {int(match[1]) for name in state if (match := re.match(r"blocks\.(\d+)\.", name))}
    names = parameter_names(len(blocks), conditioned=conditioned)
    surplus = sorted(state.keys() - names.keys() - {FREQUENCIES})
    missing = [name for name in names if name not in state]
    if surplus or missing:
        raise ValueError(
            f"not the weights of an MDLM DiT with{'' if conditioned else 'out'} noise embedding: "
            f"unknown {_few(surplus)}; missing {_few(missing)}"
        )
    matrices = ("vocab_embed.embedding", "output_layer.linear.weight", "sigma_map.mlp.0.weight")
    for name, value in ((name, state[name]) for name in (*matrices, FREQUENCIES) if name in state):
        if value.dim() != (2 if name in matrices else 1) or not value.numel():
            raise ValueError(f"{name}: shape {tuple(value.shape)}; expected a matrix, the frequencies a vector")
    width = state["vocab_embed.embedding"].shape[1]
    if FREQUENCIES in state:
        found = width // (2 * len(state[FREQUENCIES]))
        if num_heads not in (None, found):
            raise ValueError(
                f"num_heads {num_heads}: the rotary frequencies of this checkpoint are those of {found} heads"
            )
        num_heads = found
    if num_heads is None:
        raise ValueError(f"no {FREQUENCIES} in this state dict: give num_heads")
    config = DiTConfig(width, len(blocks), num_heads, adaln=conditioned)
    if conditioned:
        config = replace(config, cond_dim=state["sigma_map.mlp.0.weight"].shape[0])
    weights = {ours: state[theirs].detach().float() for theirs, ours in names.items()}
    _check_shapes(config, weights, {ours: theirs for theirs, ours in names.items()})
    return config, weights


def read_checkpoint(path: str | os.PathLike[str], *, ema: bool = True) -> dict[str, Tensor]:
    """Read the state dict of a .safetensors file or of a torch.save file, in which it may be under "state_dict".

    With `ema`, the moving average in checkpoint["ema"]["shadow_params"] replaces the weights if there is one, as in the
    original's evaluation. ValueError for a file that is not readable or does not hold a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected weights of an MDLM DiT")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: not readable ({one_line(error)}); expected a safetensors file") from None
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types
        raise ValueError(
            f"{path}: not a file of tensors alone ({one_line(error)}); where you trust it, save its 'state_dict' "
            "and 'ema' and read that file"
        ) from None
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(map(_is_entry, state.items())):
        raise ValueError(f"{path}: not a state dict; expected names and tensors, or a checkpoint with 'state_dict'")
    if ema and checkpoint.get("ema"):
        average = checkpoint["ema"].get("shadow_params") if isinstance(checkpoint["ema"], dict) else None
        if not isinstance(average, list) or not all(isinstance(value, Tensor) for value in average):
            raise ValueError(f"{path}: no list of tensors under 'ema', 'shadow_params'; expected the moving average")
        with named(path):
            return {**state, **_averaged(state, average)}
    return dict(state)


def _is_entry(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _averaged(state: Mapping[str, Tensor], shadow: Sequence[Tensor]) -> dict[str, Tensor]:
    """Name the parameters of the moving average, which lists them without names in the order of the network."""
    names = [name for name in state if not name.endswith(FREQUENCIES)]
    blocks = {match[1] for name in names if (match := re.search(r"blocks\.(\d+)\.", name))}
    order = list(parameter_names(len(blocks)))
    if [name.removeprefix("backbone.") for name in names] != order or len(shadow) != len(order):
        raise ValueError(
            f"moving average of {len(shadow)} parameters, {len(names)} weights, {len(order)} in this network: "
            "expected the same, in its order"
        )
    for name, value in zip(names, shadow):
        if state[name].shape != value.shape:
            raise ValueError(
                f"moving average of {name}: shape {tuple(value.shape)}; expected {tuple(state[name].shape)}"
            )
    return dict(zip(names, shadow))


def _check_shapes(config: DiTConfig, weights: Mapping[str, Tensor], theirs: Mapping[str, str]) -> None:
    with torch.device("meta"):
        inputs, outputs = len(weights["embedding.weight"]), len(weights["head.weight"])
        network = DiT(config, num_inputs=inputs, num_outputs=outputs, visibility="bidirectional")
    for name, expected in network.state_dict().items():
        if weights[name].shape != expected.shape:
            raise ValueError(
                f"{theirs[name]}: shape {tuple(weights[name].shape)}; "
                f"expected {tuple(expected.shape)} in a network of this size"
            )


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(one_line, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"
