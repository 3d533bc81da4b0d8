"""Imports the public code of MDLM, GIDD, Duo and BD3-LM from your checkouts, for parity.py.

    with imported(path, "diffusion", "noise_schedule") as (diffusion, noise_schedule):
        ...

None of that code is part of this project. Imports that a loss does not need (data loading, tokenizers, samplers,
state-space models) are replaced by empty stand-ins, and flash_attn by the two functions that are called, in torch.
Everything else is the original code, unchanged.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import lightning  # noqa: F401  # before any stand-in is in place
import torch
import torch.nn.functional as F
import torchmetrics  # noqa: F401
from torch import Tensor, nn

EMPTY = (
    *("datasets", "fsspec", "huggingface_hub", "hydra", "omegaconf", "requests", "timm", "tokenizers", "transformers"),
    *("causal_conv1d", "mamba_ssm", "dataloader", "metrics", "models.dimamba", "models.unet"),
)


class _Anything(type):
    """A class that can be a base class, be called with anything, and has any attribute."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)


def _anything(name: str) -> Any:
    def get(self: Any, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return _anything(attribute)

    def ignore(self: Any, *_: Any, **__: Any) -> None: ...

    return _Anything(name, (), {"__init__": ignore, "__getattr__": get})


class _EmptyModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _anything(name)


class _EmptyFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules in EMPTY and all their submodules."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in EMPTY):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


@contextmanager
def imported(path: Path, *names: str, flash: bool = True) -> Iterator[list[ModuleType]]:
    """Import the modules `names` of a checkout, and forget all its modules after the block: checkouts share names.

    Without `flash` there is no flash_attn, for code that then attends with torch by itself.
    """
    before = dict(sys.modules)
    for name in list(sys.modules):
        if name.split(".")[0] in {empty.split(".")[0] for empty in EMPTY} | {"flash_attn"}:
            del sys.modules[name]
    finder = _EmptyFinder()
    sys.meta_path.insert(0, finder)
    sys.path.insert(0, str(path))
    sys.modules.update(_flash_attn() if flash else {"flash_attn": None})  # type: ignore[dict-item]
    try:
        with warnings.catch_warnings(), mock.patch("torch.compile", _not_compiled):
            warnings.simplefilter("ignore")
            yield [importlib.import_module(name) for name in names]
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(str(path))
        for name in sys.modules.keys() - before.keys():
            del sys.modules[name]
        sys.modules.update(before)


def _not_compiled(*_: Any, **__: Any) -> Any:
    return lambda function: function


def _flash_attn() -> dict[str, ModuleType]:
    """The functions of flash_attn that the originals call: half-split rotary embedding, and attention within rows."""
    names = ("flash_attn", "flash_attn.layers", "flash_attn.layers.rotary", "flash_attn.flash_attn_interface")
    modules = {name: ModuleType(name) for name in names}
    root, layers, rotary, interface = modules.values()
    root.layers, layers.rotary, root.flash_attn_interface = layers, rotary, interface  # type: ignore[attr-defined]

    def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, L, heads, w], cos and sin [L, w / 2]."""
        first, second = x.chunk(2, dim=-1)
        cos, sin = cos[:, None], sin[:, None]
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)

    def rotate_packed(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        query, key, value = qkv.unbind(2)
        return torch.stack([rotate(query, cos, sin), rotate(key, cos, sin), value], dim=2)

    def attend(qkv: Tensor, ends: Tensor, longest: int, dropout: float, causal: bool = False) -> Tensor:
        """qkv [N, 3, heads, w]; ends [B + 1] where the rows begin and end."""
        if (
            len(qkv) == (len(ends) - 1) * longest
        ):  # rows of equal length: together, or their backward pass would be slow
            query, key, value = qkv.unflatten(0, (-1, longest)).permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
            return out.transpose(1, 2).flatten(0, 1)
        rows = []
        for first, last in zip(ends[:-1].tolist(), ends[1:].tolist()):
            query, key, value = qkv[first:last].permute(1, 2, 0, 3)
            rows.append(F.scaled_dot_product_attention(query, key, value, is_causal=causal).transpose(0, 1))
        return torch.cat(rows)

    rotary.apply_rotary_emb_qkv_, rotary.apply_rotary_emb_torch = rotate_packed, rotate  # type: ignore[attr-defined]
    interface.flash_attn_varlen_qkvpacked_func = attend  # type: ignore[attr-defined]
    return modules


class Settings(dict[str, Any]):
    """A configuration with nested values as attributes, like those of the originals."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Tokenizer:
    """A tokenizer with only what the losses need: the number of ids and the mask id."""

    def __init__(self, vocab_size: int, mask_id: int | None):
        self.vocab_size, self.mask_token_id, self.pad_token_id = vocab_size, mask_id, 0
        self.mask_token = None if mask_id is None else "[MASK]"

    def __len__(self) -> int:
        return self.vocab_size


@contextmanager
def drawing(*values: Tensor) -> Iterator[None]:
    """Make torch.rand return these tensors in order. It has to be called for exactly their shapes."""
    left = list(values)

    def rand(*shape: Any, **_: Any) -> Tensor:
        value = left.pop(0)
        assert tuple(value.shape) == tuple(shape[0] if isinstance(shape[0], tuple) else shape), (value.shape, shape)
        return value.clone()

    with mock.patch("torch.rand", rand):
        yield
    assert not left, f"{len(left)} of {len(values)} draws not asked for"


class Fixed(nn.Module):
    """A network of the originals that returns `logits` for any input."""

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.logits.clone()


def randomise(network: nn.Module, seed: int) -> None:
    """Set weights that make every layer matter, with logits of order 1; the original initialisation has zero layers."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            fresh = torch.randn(value.shape, generator=generator)
            if value.ndim == 2:
                value.copy_(fresh / value.shape[1] ** 0.5)
            else:
                value.copy_(0.2 * fresh + ("norm" in name))


def shared_weights(network: nn.Module, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The originals' parameters under our names."""
    theirs = dict(network.named_parameters())
    assert list(theirs) == list(names), f"parameters differ: {theirs.keys() ^ names.keys()}"
    return {ours: theirs[name].detach().clone() for name, ours in names.items()}
