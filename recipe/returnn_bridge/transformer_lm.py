"""Autoregressive LMs that RETURNN trained with its Torch backend: its TransformerDecoder with a checkpoint's weights.

    write_description("lm.yaml", checkpoint="epoch.100.pt", vocab="spm.model", behavior_version=24, model={
        "num_layers": 24, "model_dim": 1024, "num_heads": 8})
    lm = TransformerLm.load("lm.yaml")
    lm.log_probs([[5, 9, 12], [7]])                 # [2], log p of the pieces and the end of each sentence, nats

RETURNN's configurations are Python code, so what the network needs beyond its weights is given as plain data: `model`
holds the arguments of TransformerDecoder, as in the dict of `rf.build_dict`. Its classes can only be those of
`_CLASSES`, and the checkpoint is read without pickled objects.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from returnn_bridge.files import read_yaml, write_text
from returnn_bridge.vocab import Vocab

FORMAT = "returnn-lm"
SUFFIXES = (".yaml", ".yml")
"""How the name of a description ends."""
_KEYS = ("format", "checkpoint", "vocab", "behavior_version", "model")
_FILE = "a description of a RETURNN LM (`dlm returnnlm`)"
_DECODER = "returnn.frontend.decoder.transformer"
_CLASSES = {
    **dict.fromkeys(("TransformerDecoder", "TransformerDecoderLayer", "FeedForward", "FeedForwardGated"), _DECODER),
    **dict.fromkeys(("CausalSelfAttention", "RelPosCausalSelfAttention", "RotaryPosCausalSelfAttention"), "rf"),
    **dict.fromkeys(("LayerNorm", "RMSNorm", "sinusoidal_positional_encoding"), "rf"),
    **dict.fromkeys(("relu", "relu_square", "gelu", "silu", "swish"), "rf"),
}
"""Classes and functions that a description may name, and their modules; "rf" is returnn.frontend."""
_FIRST_VERSION = 16
"""The first behavior_version with a Torch backend."""
_MOST = {"num_layers": 1000, "model_dim": 65536}
_OF_THE_VOCABULARY = ("vocab_dim", "encoder_dim")


@dataclass(frozen=True)
class Description:
    """What a description file says, checked; its paths are relative to the file's folder."""

    checkpoint: Path
    """A checkpoint of RETURNN's Torch engine (.pt)."""
    vocab: Path
    """The SentencePiece model that the training data was encoded with."""
    behavior_version: int
    """`behavior_version` of the RETURNN configuration that trained the LM; it selects defaults of the network."""
    model: dict[str, Any]
    """Arguments of TransformerDecoder."""

    def digest(self) -> str:
        """16 hex digits of a hash over weights, vocabulary and settings."""
        whole = hashlib.sha256(repr((self.behavior_version, self.model)).encode())
        for path in (self.checkpoint, self.vocab):
            with open(path, "rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()[:16]


def read_description(path: str | os.PathLike[str]) -> Description:
    """Read a description file.

    ValueError for anything but the known keys with plain values and known classes; FileNotFoundError for a missing
    checkpoint or vocabulary.
    """
    return _description(read_yaml(path), path)


def _description(tree: dict[str, Any], path: str | os.PathLike[str]) -> Description:
    if tree.get("format") != FORMAT:
        raise ValueError(f"{path}: format {tree.get('format')!r}; expected {FORMAT!r}, {_FILE}")
    missing, unknown = [key for key in _KEYS if key not in tree], [key for key in tree if key not in _KEYS]
    if missing or unknown:
        raise ValueError(f"{path}: missing {missing}, unknown {unknown}; expected the keys {', '.join(_KEYS)}")
    version = tree["behavior_version"]
    if type(version) is not int or version < _FIRST_VERSION:
        raise ValueError(
            f"{path}: behavior_version {version!r}; expected that of RETURNN's configuration, from {_FIRST_VERSION} on"
        )
    for key in ("checkpoint", "vocab"):
        if not isinstance(tree[key], str):
            raise ValueError(f"{path}: {key} {tree[key]!r}; expected a path")
        if not (Path(path).parent / tree[key]).is_file():
            raise FileNotFoundError(f"{path}: {key} {tree[key]}: no such file")
    files = {key: Path(path).parent / tree[key] for key in ("checkpoint", "vocab")}
    return Description(**files, behavior_version=version, model=_network_options(tree["model"], str(path)))


def write_description(
    path: str | os.PathLike[str],
    *,
    checkpoint: str | os.PathLike[str],
    vocab: str | os.PathLike[str],
    behavior_version: int,
    model: dict[str, Any],
) -> TransformerLm:
    """Write a description, with absolute paths, and return the LM that it describes.

    ValueError, and nothing is written, unless the options build a network that the weights of the checkpoint fit.
    """
    import yaml

    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    tree = {
        "format": FORMAT,
        "checkpoint": os.path.abspath(checkpoint),
        "vocab": os.path.abspath(vocab),
        "behavior_version": behavior_version,
        "model": model,
    }
    lm = TransformerLm(_description(tree, path))
    write_text(path, yaml.safe_dump(tree, sort_keys=False))
    return lm


def _network_options(options: Any, where: str) -> dict[str, Any]:
    """The checked options of the decoder, with the full names of their classes."""
    if not isinstance(options, dict):
        raise ValueError(f"{where}: model {options!r}; expected the arguments of TransformerDecoder")
    checked = _checked(options, f"{where}: model")
    kind = checked.pop("class", f"{_DECODER}.TransformerDecoder")
    if kind != f"{_DECODER}.TransformerDecoder":
        raise ValueError(f"{where}: model.class {options['class']!r}; expected TransformerDecoder")
    for key in _OF_THE_VOCABULARY:
        if checked.pop(key, None) is not None:
            raise ValueError(f"{where}: model.{key} {options[key]!r}; expected no such option for a language model")
    for key, most in _MOST.items():
        if type(checked.get(key)) is not int or not 1 <= checked[key] <= most:
            raise ValueError(f"{where}: model.{key} {checked.get(key)!r}; expected a whole number of 1 ... {most}")
    return checked


def _checked(options: dict[Any, Any], where: str) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for key, value in options.items():
        place = f"{where}.{key}"
        if key == "class":
            module, _, name = str(value).rpartition(".")
            if name not in _CLASSES or (module not in ("", "rf") and not f"{module}.".startswith("returnn.frontend.")):
                raise ValueError(f"{place} {value!r}; expected one of {', '.join(_CLASSES)}")
            checked[key] = f"{_CLASSES[name]}.{name}"
        elif isinstance(value, dict):
            checked[str(key)] = _checked(value, place)
        elif value is None or isinstance(value, (bool, int, float)):
            checked[str(key)] = value
        else:
            raise ValueError(f"{place} {value!r}; expected a number, true, false, null or a mapping with a class")
    return checked


class TransformerLm:
    """A TransformerDecoder of RETURNN without an encoder, as a language model of SentencePiece pieces.

    A sentence begins with BOS and ends with EOS of the SentencePiece model. EOS begins it too if there is no BOS, as in
    RETURNN.
    """

    def __init__(self, description: Description, *, device: torch.device | str = "cpu"):
        """ValueError if the options, the checkpoint and the vocabulary do not fit together."""
        self.description, self.device = description, torch.device(device)
        self.vocab = Vocab.load(description.vocab)
        if self.vocab.eos_id >= self.vocab.num_pieces:
            raise ValueError(f"{description.vocab}: has no EOS piece; expected one, which ends a sentence")
        self.start = self.vocab.bos_id if self.vocab.bos_id < self.vocab.num_pieces else self.vocab.eos_id
        with self._returnn() as rf:
            self._pieces_dim = rf.Dim(self.vocab.num_pieces, name="pieces")
            self.network = self._load(rf)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> TransformerLm:
        """The LM of a description file; errors as in `read_description` and the constructor."""
        return cls(read_description(path), device=device)

    def log_probs(self, sentences: Sequence[Sequence[int]]) -> Tensor:
        """log p(pieces, EOS | BOS) of every sentence in one forward pass, float64 [B], nats."""
        lengths = torch.tensor([len(sentence) + 1 for sentence in sentences], dtype=torch.int32)
        # The network is causal, so what fills the rows on the right changes nothing before it.
        ids = torch.full((len(sentences), int(lengths.max()) + 1), self.vocab.eos_id, dtype=torch.int32)
        ids[:, 0] = self.start
        for row, sentence in zip(ids, sentences):
            row[1 : len(sentence) + 1] = torch.tensor(sentence, dtype=torch.int32)
        ids = ids.to(self.device)
        with self._returnn() as rf:
            batch = rf.Dim(len(sentences), name="batch")
            time = rf.Dim(rf.Tensor("lengths", [batch], "int32", raw_tensor=lengths), name="time")
            source = rf.Tensor("ids", [batch, time], "int32", sparse_dim=self._pieces_dim, raw_tensor=ids[:, :-1])
            state = self.network.default_initial_state(batch_dims=[batch])
            logits, _ = self.network(source, spatial_dim=time, encoder=None, state=state)
            raw = logits.copy_transpose((batch, time, self._pieces_dim)).raw_tensor
        found = raw.float().log_softmax(dim=-1).gather(2, ids[:, 1:, None].long())[..., 0].double()
        inside = torch.arange(found.shape[1], device=self.device) < lengths[:, None].to(self.device)
        return torch.where(inside, found, 0.0).sum(dim=1).cpu()

    @property
    def num_parameters(self) -> int:
        return sum(int(parameter.raw_tensor.numel()) for parameter in self.network.parameters())

    def _load(self, rf: Any) -> Any:
        from returnn.torch.frontend.bridge import rf_module_to_pt_module

        where = self.description.checkpoint
        options = dict(self.description.model)
        if options.get("embed_dim") is not None:
            options["embed_dim"] = rf.Dim(options["embed_dim"], name="embedding")
        try:
            options = {"class": f"{_DECODER}.TransformerDecoder", **options}
            network = rf.build_from_dict(options, encoder_dim=None, vocab_dim=self._pieces_dim)
        except (TypeError, AssertionError, AttributeError) as error:
            raise ValueError(f"model {self.description.model}: RETURNN refuses it ({_line(error)})") from None
        module = rf_module_to_pt_module(network).to(self.device).eval()
        try:
            module.load_state_dict(_weights(where))
        except RuntimeError as error:
            raise ValueError(
                f"{where}: does not fit the options and the {self.vocab.num_pieces} pieces ({_line(error)});"
                " expected those it was trained with"
            ) from None
        return network

    @contextmanager
    def _returnn(self) -> Iterator[Any]:
        """RETURNN's frontend on this device, with the behavior version of this LM for the block only."""
        # Nothing is compiled: for a scoring it takes longer than it saves (a minute for RETURNN's rotary embedding).
        os.environ.setdefault("RETURNN_FRONTEND_NATIVE_OPT", "0")
        import returnn.frontend as rf
        from returnn.util.basic import BehaviorVersion

        before = BehaviorVersion._get_state()
        BehaviorVersion._reset((self.description.behavior_version, 0))
        try:
            rf.select_backend_torch()
            eager = torch.compiler.set_stance("force_eager")
            with rf.set_default_device_ctx(str(self.device)), eager, torch.no_grad():
                yield rf
        finally:
            BehaviorVersion._reset(before)


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint of RETURNN's Torch engine. ValueError if it is none."""
    try:
        tree = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types
        raise ValueError(
            f"{checkpoint}: not a checkpoint of weights ({_line(error)}); expected one of RETURNN's Torch backend (.pt)"
        ) from None
    weights = tree.get("model") if isinstance(tree, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{checkpoint}: no weights under 'model'; expected a checkpoint of RETURNN's Torch backend")
    return weights


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
