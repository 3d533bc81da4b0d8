"""Valid configurations, models, vocabularies, n-grams and training data; see generate.py."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

from .ngram_files import arpa, kenlm_binary
from .readers import Stopped, product
from .world import AUDIO, Seed, World, folder_files, maker, sentences, single


@maker("config")
def _config(world: World) -> list[Seed]:
    import yaml

    trees = [world.settings(), world.settings("demo_masked:block4:tiny:fp32"), world.settings("demo_ar:tiny:fp32")]
    small = {
        "data": {"vocab": str(world.vocab), "text": str(world.text)},
        "family": {"name": "hybrid", "p_uniform": 0.1},
    }
    small |= {
        "model": {"hidden_size": 16, "num_blocks": 1, "num_heads": 2},
        "trainer": {"accelerator": "cpu", "logger": "none"},
    }
    return [Seed({"run.yaml": yaml.safe_dump(tree, sort_keys=False).encode()}, "run.yaml") for tree in (*trees, small)]


@maker("foreign_config")
def _foreign(world: World) -> list[Seed]:
    """The trees of tests/test_compat.py and tests/test_compat_block.py."""
    import yaml

    tests = Path(__file__).parents[1]
    sys.path[:0] = [str(tests), str(tests / "foreign")]
    try:
        from test_compat import reference_tree
        from test_compat_block import block_tree
    finally:
        del sys.path[:2]
    trees = []
    for tree in (reference_tree(), block_tree()):
        tree["data"]["tokenizer_name_or_path"] = str(world.vocab)
        if tree["data"].get("train") != "returnn":
            tree["data"]["train"], tree["data"]["valid"] = str(world.text), str(world.text)
        trees.append(tree)
    return [Seed({"tree.yaml": yaml.safe_dump(tree, sort_keys=False).encode()}, "tree.yaml") for tree in trees]


@maker("model")
def _models(world: World) -> list[Seed]:
    families: list[dict[str, Any]] = [
        {"name": "masked"},
        {"name": "autoregressive"},
        {"name": "hybrid", "p_uniform": 0.1},
    ]
    families.append({"name": "block", "block_size": 4})
    found = []
    for family in families:
        path = world.network(**family).save(world.folder / f"model_{family['name']}", facts={"steps": 3})
        found.append(Seed(folder_files(path), ""))
    path = world.network().save(world.folder / "model_bf16", dtype="bfloat16")
    return [*found, Seed(folder_files(path), "")]


@maker("preload")
def _preload(world: World) -> list[Seed]:
    return [Seed({"model.safetensors": (world.model / "model.safetensors").read_bytes()}, "")]


def _published_state(world: World) -> tuple[Any, dict[str, Any]]:
    """Names of MDLM's network, as its authors publish it."""
    import torch

    model = world.network(name="masked", score_eos=True)
    size, ours = model.backbone, model.network.state_dict()
    names = product("parameter_names")(size.num_blocks, conditioned=size.adaln)
    state = {f"backbone.{theirs}": ours[mine].clone() for theirs, mine in names.items()}
    width = size.hidden_size // size.num_heads
    state["backbone.rotary_emb.inv_freq"] = 10000.0 ** (-torch.arange(0, width, 2) / width)
    config = {
        "vocab_size": model.vocab.num_inputs,
        "model_length": 64,
        "hidden_dim": size.hidden_size,
        "model_type": "mdlm",
    }
    config |= {
        "cond_dim": size.cond_dim,
        "n_blocks": size.num_blocks,
        "n_heads": size.num_heads,
        "time_conditioning": False,
    }
    return state, config


@maker("published")
def _published(world: World) -> list[Seed]:
    import torch
    from safetensors.torch import save

    state, config = _published_state(world)
    block = {**config, "model_type": "bd3lm", "block_size": 4, "cross_attn": True, "adaln": True, "causal": False}
    more = {**state, "sampling_eps_min": torch.tensor(0.25), "sampling_eps_max": torch.tensor(0.75)}
    return [
        Seed({"model.safetensors": save(tensors), "config.json": json.dumps(tree).encode()}, "")
        for tensors, tree in ((state, config), (more, block))
    ]


@maker("torch_checkpoint")
def _torch_checkpoint(world: World) -> list[Seed]:
    import torch

    state, _ = _published_state(world)
    shadow = [value + 1 for name, value in state.items() if not name.endswith("inv_freq")]
    found = []
    for tree in (
        state,
        {"state_dict": state, "ema": {"decay": 0.99, "num_updates": 3, "shadow_params": shadow}, "step": 3},
    ):
        buffer = io.BytesIO()
        torch.save(tree, buffer)
        found.append(Seed({"last.ckpt": buffer.getvalue()}, "last.ckpt"))
    return found


@maker("checkpoint")
def _run_folder(world: World) -> list[Seed]:
    """A run that stopped at its second step, after a validation."""
    tree = world.settings(
        "demo_masked:tiny:fp32", "trainer.save_every=1", "data.partition_epoch=2", "trainer.keep_last=1"
    )
    config = product("from_dict")(tree)
    (world.folder / "run_config.json").write_text(json.dumps(tree))
    product("run_training")(config, world.folder / "run", stop_after=2)
    files = folder_files(world.folder / "run")
    kept = ("config.json", "checkpoints/last.ckpt", "scores.tsv", "sub_epochs.tsv", "progress.json")
    return [Seed({name: files[name] for name in kept if name in files}, "")]


@maker("vocab")
def _vocab(world: World) -> list[Seed]:
    return [Seed({"spm.model": (world.vocab / "spm.model").read_bytes()}, "")]


def _byte_pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import pre_tokenizers

    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("in", "g"), ("Ġ", "k"), ("Ġk", "ing"), ("s", "a")]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in merges), "<|endoftext|>"]
    return {piece: number for number, piece in enumerate(pieces)}, merges


@maker("tokenizer")
def _tokenizer(world: World) -> list[Seed]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pieces, merges = _byte_pieces()
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    lines = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n"
    settings = json.dumps({"add_prefix_space": False, "bos_token": "<|endoftext|>", "model_max_length": 1024}).encode()
    return [
        Seed({"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": settings}, ""),
        Seed(
            {
                "vocab.json": json.dumps(pieces).encode(),
                "merges.txt": lines.encode(),
                "tokenizer_config.json": settings,
            },
            "",
        ),
    ]


@maker("huggingface")
def _huggingface(world: World) -> list[Seed]:
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces, merges = _byte_pieces()
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    folder = world.folder / "huggingface"
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end).save_pretrained(
        folder
    )
    config = transformers.GPT2Config(vocab_size=len(pieces), n_embd=8, n_layer=1, n_head=2, n_positions=32)
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return [Seed(folder_files(folder), "")]


# ------------------------------------------------------------------------------------------------------------ n-grams


@maker("arpa")
def _arpa(world: World) -> list[Seed]:
    return [Seed({"lm.arpa": arpa(order).encode()}, "lm.arpa") for order in (2, 3)]


@maker("kenlm")
def _kenlm(world: World) -> list[Seed]:
    return [Seed({"lm.bin": kenlm_binary(order)}, "lm.bin") for order in (2, 3)]


# ------------------------------------------------------------------------------------------------------ training data


@maker("text")
def _text(world: World) -> list[Seed]:
    return single("input.txt", "\n".join(sentences(20)) + "\n", "the king\n\nZoë said  \n\n")


@maker("transcripts")
def _transcripts(world: World) -> list[Seed]:
    return single("trans.txt", "utt-1 HE HOPED\nutt-2\tthere would  be\n\nutt-3 Zoë\n")


@maker("bliss")
def _bliss(world: World) -> list[Seed]:
    segments = "".join(
        f'<segment name="s{number}" start="{number}.5" end="{number + 2}"><orth>the  king {number} <i/>said</orth></segment>\n'
        for number in range(3)
    )
    recordings = f'<recording name="r1" audio="a.wav">{segments}</recording><recording name="r2"><segment><orth>a</orth></segment></recording>'
    return single(
        "corpus.xml",
        f'<?xml version="1.0" encoding="utf-8"?>\n<corpus name="c">{recordings}</corpus>\n',
        f'<?xml version="1.0"?>\n<corpus name="c"><subcorpus name="d">{recordings}</subcorpus></corpus>',
    )


@maker("audio")
def _audio(world: World) -> list[Seed]:
    import numpy as np
    import soundfile

    samples = 0.5 * np.sin(np.arange(1600) / 7)
    found = []
    for kind in ("wav", "flac"):
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, 8000, format=kind.upper())
        found.append(Seed({f"audio.{kind}": buffer.getvalue()}, f"audio.{kind}"))
    # Not written here: an encoder of Ogg draws a number from the clock.
    return [*found, *(Seed({"audio.ogg": file.read_bytes()}, "audio.ogg") for file in sorted(AUDIO.glob("*.ogg"))[:1])]


@maker("oggzip")
def _ogg_zip(world: World) -> list[Seed]:
    assert world.vocab
    texts = sentences(6, seed=4)
    entry, zips = product("Entry"), []
    for name, audio in (("dev", None), ("train", next(iter(sorted(AUDIO.glob("*.ogg"))), None))):
        entries = [entry(f"rec/{number}", text, audio) for number, text in enumerate(texts[: 2 if audio else 6])]
        product("build_ogg_zip")(world.folder / f"{name}.zip", entries)
        zips.append(Seed({f"{name}.zip": (world.folder / f"{name}.zip").read_bytes()}, f"{name}.zip"))
    return zips


@maker("token_store")
def _store(world: World) -> list[Seed]:
    return [Seed({"tokens.hdf": world.store.read_bytes()}, "tokens.hdf")]


@maker("store_partial")
def _store_partial(world: World) -> list[Seed]:
    """What two blocks leave, the second with something behind it that was not finished."""
    import importlib

    assert world.store
    module = importlib.import_module(product("build_store").__module__)
    size, module.BLOCK = module.BLOCK, 40

    calls = []

    def stop(_: int) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Stopped

    try:
        product("build_store")([str(world.text)], world.vocab, world.folder / "part.hdf", progress=stop)
    except Stopped:
        pass
    finally:
        module.BLOCK = size
    files = {f"part.hdf.partial/{name}": data for name, data in folder_files(world.folder / "part.hdf.partial").items()}
    return [Seed(files, "part.hdf")]
