"""A Hugging Face model folder: the files that are read, their fingerprint, and a model loaded from these files only.

    architecture = architecture_of(Path("models/gpt2"))         # "GPT2LMHeadModel"
    model, tokenizer = load_folder(Path("models/gpt2"), "causal", torch.device("cpu"), "32")
    fingerprint("models/gpt2")                                  # 16 hex digits

transformers looks for files of many names, some of them pickled, and config.json can name more. It is therefore given a
temporary folder with links to the files of `files_read` only, all of which are in the fingerprint, and a config.json
without the keys that select code. Links in the model's folder are followed (the hub's cache consists of them), because
only the content of the files matters.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from returnn_bridge.files import one_line, quoted, read_json_object

if TYPE_CHECKING:
    import torch

CAUSAL_ENDINGS = ("ForCausalLM", "LMHeadModel")
MASKED_ENDINGS = ("ForMaskedLM",)

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # index of weights in several files
TEXT_FILES = (".json", ".txt", ".model", ".codes")  # configurations and vocabularies
PICKLED = (".bin", ".pt", ".pth", ".ckpt")

_SHARD = re.compile(r"(?!shard-)[\w.-]+\.safetensors")  # transformers reads "shard-..." as a distributed checkpoint
# These keys select code: kernels of attention and of experts (also from the hub), and classes of the folder. Without
# them the library uses its defaults.
_CODE_KEYS = re.compile(r"_?(attn|experts)_implementation(_internal|_autoset)?|auto_map")
# These keys make the library read other files, or build another network than that of the weights.
_REFUSED_KEYS = (
    *("quantization_config", "compression_config", "fusion_config", "distributed_config"),
    *("transformers_weights", "configuration_files"),
)
# Sizes that can not be larger than the number of stored tensors, and than that of all their numbers.
_LAYERS = re.compile(r"(n|num)_(hidden_|encoder_|decoder_)?(layers?|blocks)")
_WIDTHS = re.compile(
    r".*(hidden|intermediate|vocab|embedding)_size|n_(embd|inner)|d_(model|ff|kv)|(ffn_|head_|hidden_)?dim|"
    r"(n|num)_(attention_|key_value_)?heads?|n_positions|n_ctx"
)
# File names in tokenizer_config.json. Files of `save_pretrained` are found by their standard names without them.
_FILE_KEYS = re.compile(r".*_files?|.*spm|vocab|merges|init_inputs|tokenizer_object|auto_map")


def architecture_of(folder: Path) -> str:
    """The class name in config.json. ValueError if it is not exactly one, or of a kind that can not be scored."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; expected one with config.json, a tokenizer and *.safetensors"
        )
    if not path.is_file():
        raise ValueError(f"{folder}: no config.json; expected a model folder as `save_pretrained` writes it")
    config = read_json_object(path, "that of a model", finite=False)
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(f"{path}: architectures is {quoted(names)}; expected a list with one class name")
    known = names[0].endswith(CAUSAL_ENDINGS + MASKED_ENDINGS)
    # XLM has one class for both kinds, and an encoder-decoder models pairs of texts.
    if not known or names[0].startswith(("XLMWith", "Flaubert")) or config.get("is_encoder_decoder"):
        kinds = ", ".join(f"...{ending}" for ending in CAUSAL_ENDINGS + MASKED_ENDINGS)
        raise ValueError(
            f"{path}: architecture {one_line(names[0])} is neither causal nor masked; expected one of {kinds}"
        )
    return names[0]


def files_read(folder: Path) -> list[str]:
    """Sorted names of the files that scores depend on: weights, configurations and vocabularies, directly in the
    folder."""
    weights = _weights(folder)
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.name in weights
        or (path.suffix in TEXT_FILES and not path.name.endswith(".index.json") and path.is_file())
    )


def fingerprint(folder: str | os.PathLike[str]) -> str:
    """16 hex digits that change when a file of the model or its tokenizer does."""
    digest = hashlib.sha256()
    for name in files_read(Path(folder)):
        with open(Path(folder) / name, "rb") as file:
            digest.update(name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def load_folder(folder: Path, kind: str, device: torch.device, precision: str) -> tuple[Any, Any]:
    """(model in evaluation mode, tokenizer) from local files. All errors are one-line ValueErrors."""
    names = files_read(folder)
    _check_tokenizer(folder, names)
    # Some models of the library download code from the hub if the package `kernels` is installed.
    os.environ.setdefault("USE_HUB_KERNELS", "NO")
    try:
        import transformers
    except ImportError as error:
        raise ValueError(
            f"{folder}: Hugging Face models need the transformers package ({error}); pip install transformers"
        ) from None
    import torch

    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers.configuration_utils").addFilter(_is_not_about_ids)
    auto_model = {"causal": transformers.AutoModelForCausalLM, "masked": transformers.AutoModelForMaskedLM}[kind]
    with _only(folder, names) as view:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(view, local_files_only=True, trust_remote_code=False)
            model, info = auto_model.from_pretrained(
                view,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32 if precision == "32" else torch.bfloat16,
            )
        except Exception as error:  # the library raises errors of many types: KeyError, OSError, SafetensorError ...
            reason = " ".join(str(error).replace(str(view), str(folder)).split()) or type(error).__name__
            raise ValueError(f"{folder}: transformers can not load it ({shorten(reason, 300)})") from error
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:  # the library would initialise them randomly
        raise ValueError(
            f"{folder}: {len(absent)} weights are missing or have another shape, the first is {absent[0]}; expected all"
        )
    broken = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        raise ValueError(
            f"{folder}: {len(broken)} weights hold nan or infinity in precision {precision}, the first is {broken[0]}; "
            "expected finite numbers"
        )
    if model.config._attn_implementation not in ("sdpa", "eager"):
        raise ValueError(f"{folder}: attention is {model.config._attn_implementation!r}; expected 'sdpa' or 'eager'")
    return model.eval().to(device), tokenizer


def shorten(text: str, most: int = 60) -> str:
    """The text, cut to `most` characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def _is_not_about_ids(record: logging.LogRecord) -> bool:
    """Filters warnings about special tokens beyond the vocabulary, because the scorers check the tokens they use."""
    return "token_id must be" not in record.getMessage()


@contextmanager
def _only(folder: Path, names: list[str]) -> Iterator[Path]:
    """A temporary folder with only these files, and without the configuration keys that refer to other files or
    code."""
    with tempfile.TemporaryDirectory(prefix="model-") as temporary:
        view = Path(temporary)
        for name in names:
            if name not in ("config.json", "tokenizer_config.json"):
                (view / name).symlink_to((folder / name).resolve())
        config = read_json_object(folder / "config.json", "that of a model", finite=False)
        _check_config(folder / "config.json", config)
        _check_sizes(folder, config)
        (view / "config.json").write_text(json.dumps(_without(config, _CODE_KEYS)), encoding="utf-8")
        if "tokenizer_config.json" in names:
            of_tokenizer = read_json_object(folder / "tokenizer_config.json", "that of a tokenizer", finite=False)
            kept = {key: value for key, value in of_tokenizer.items() if not _FILE_KEYS.fullmatch(key)}
            (view / "tokenizer_config.json").write_text(json.dumps(kept), encoding="utf-8")
        yield view


def _check_config(path: Path, config: dict[str, Any]) -> None:
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        raise ValueError(
            f"{path}: model_type is {quoted(config.get('model_type'))}; expected the name of a kind of model"
        )
    for section in _objects(config):
        for key in _REFUSED_KEYS:
            if section.get(key):
                raise ValueError(
                    f"{path}: {key} is {shorten(repr(section[key]))}; expected a configuration without it, "
                    "of a model whose weights are plain tensors"
                )


def _check_sizes(folder: Path, config: dict[str, Any]) -> None:
    """ValueError for a number of layers or a width in config.json that the stored weights can not be of.

    The library would build such a network before it looks at the weights, and memory or time would not suffice.
    """
    from safetensors import SafetensorError, safe_open

    tensors = values = 0
    for name in sorted(_weights(folder) - {INDEX}):
        try:
            with safe_open(folder / name, framework="pt") as stored:
                for key in stored.keys():  # noqa: SIM118  # not a mapping
                    tensors += 1
                    values += math.prod(stored.get_slice(key).get_shape())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{folder / name}: not readable ({one_line(error)}); expected safetensors") from None
    for section in _objects(config):
        for key, value in section.items():
            most = tensors if _LAYERS.fullmatch(key) else values if _WIDTHS.fullmatch(key) else None
            if most is not None and isinstance(value, int | float) and value > most:
                raise ValueError(
                    f"{folder / 'config.json'}: {key} is {quoted(value)}; expected a size of the stored weights, "
                    f"{tensors} tensors of {values} numbers"
                )


def _objects(tree: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in a tree."""
    if isinstance(tree, dict):
        yield tree
    if isinstance(tree, dict | list):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _objects(part)


def _without(tree: Any, keys: re.Pattern[str]) -> Any:
    if isinstance(tree, dict):
        return {key: _without(value, keys) for key, value in tree.items() if not keys.fullmatch(key)}
    return [_without(part, keys) for part in tree] if isinstance(tree, list) else tree


def _weights(folder: Path) -> set[str]:
    """Names of the files with the weights, and of their index if there is one. ValueError if they are not safetensors
    in this folder."""
    if (folder / WEIGHTS).is_file():
        return {WEIGHTS}
    path = folder / INDEX
    if not path.is_file():
        pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
        if not pickled:
            raise ValueError(f"{folder}: no weights as safetensors; expected {WEIGHTS} or {INDEX}")
        auto = "AutoModelForMaskedLM" if architecture_of(folder).endswith(MASKED_ENDINGS) else "AutoModelForCausalLM"
        raise ValueError(
            f"{folder}: no weights as safetensors; {', '.join(pickled)} is pickled data, which can run code, "
            "and is not "
            f"read; if you trust it, convert it: "
            f"transformers.{auto}.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )
    weight_map = read_json_object(path, "an index of weights").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{path}: weight_map is {shorten(repr(weight_map))}; expected a file name for each weight")
    for weight, name in weight_map.items():
        if not isinstance(name, str) or not _SHARD.fullmatch(name):
            raise ValueError(
                f"{path}: weight {weight} is in {shorten(repr(name))}; "
                "expected a file of this folder named *.safetensors"
            )
        if not (folder / name).is_file():
            raise ValueError(f"{path}: weight {weight} is in {name}, which is missing; expected all files of the index")
    return {INDEX, *weight_map.values()}


def _check_tokenizer(folder: Path, names: list[str]) -> None:
    # Without a vocabulary the library builds a tokenizer for which every text is empty; without merges, one that
    # spells.
    complete = {"vocab.json", "merges.txt"}.issubset(names) or any(
        name in ("tokenizer.json", "vocab.txt") or name.endswith(".model") for name in names
    )
    if not complete:
        raise ValueError(
            f"{folder}: no tokenizer; expected tokenizer.json, vocab.txt, a SentencePiece .model, "
            "or vocab.json and merges.txt"
        )
    if "adapter_config.json" in names:
        raise ValueError(f"{folder}: holds an adapter; expected a whole model (merge_and_unload, then save_pretrained)")
