"""Of a Hugging Face folder only safetensors and text are read, all of it is in the fingerprint, and nothing in it chooses code."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from huggingface_world import changed_config, copied, make_gpt2, save_bpe
from rescore.lms.huggingface import load_huggingface
from rescore.lms.huggingface_folder import files_read, fingerprint

transformers = pytest.importorskip("transformers")

TEXTS = ["the king said", "", "a child went to the king"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return make_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def sharded(gpt2, tmp_path_factory):
    """The same model with its weights in several files."""
    folder = copied(gpt2, tmp_path_factory.mktemp("sharded"))
    (folder / "model.safetensors").unlink()
    transformers.GPT2LMHeadModel.from_pretrained(gpt2).save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def scores_of(folder):
    return [score.log_prob for score in load_huggingface(folder).score_texts("u", TEXTS)]


class Bomb:
    """Ends the process when it is unpickled."""

    def __reduce__(self):
        return (exit, ("a pickled file was read",))


def add_bombs(folder: Path) -> None:
    """Files that transformers reads in preference to, or along with, safetensors in some version or other."""
    names = ["pytorch_model.bin", "pytorch_model-00001-of-00001.bin", ".metadata", "__0_0.distcp", "training_args.bin"]
    for name in names:
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    places = dict.fromkeys(load_file(folder / "model.safetensors"), "pytorch_model-00001-of-00001.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "shard-00000-model-00000-of-00001.safetensors").write_bytes(b"")
    (folder / "chat_template.jinja").write_text("{{")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("raise SystemExit('code of the folder was run')")


def test_the_fingerprint_changes_with_the_weights(gpt2, tmp_path):
    size = save_bpe(tmp_path, bos_token="<s>", eos_token="</s>")
    config = transformers.GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    torch.manual_seed(1)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert load_huggingface(tmp_path).describe()["model"] != load_huggingface(gpt2).describe()["model"]
    assert load_huggingface(gpt2).describe() == load_huggingface(gpt2).describe()


def test_several_files_of_weights_score_as_one(gpt2, sharded):
    assert scores_of(sharded) == scores_of(gpt2)


def test_the_fingerprint_changes_with_every_file_that_is_read(sharded, tmp_path):
    folder = copied(sharded, tmp_path)
    before = fingerprint(folder)
    names = files_read(folder)
    shards = {path.name for path in folder.glob("model-*.safetensors")}
    expected = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"} | shards
    assert expected <= set(names)
    for name in names:
        content = (folder / name).read_bytes()
        if name != "model.safetensors.index.json":  # which has to stay valid
            (folder / name).write_bytes(content + b" ")
            assert fingerprint(folder) != before
        (folder / name).write_bytes(content)
    for name in ("vocab.txt", "merges.txt", "added_tokens.json", "special_tokens_map.json", "spiece.model"):
        (folder / name).write_text("{}")
        assert fingerprint(folder) != before
        (folder / name).unlink()
    assert fingerprint(folder) == before


def test_files_outside_the_fingerprint_are_not_read(gpt2, tmp_path):
    folder = copied(gpt2, tmp_path)
    add_bombs(folder)
    assert fingerprint(folder) == fingerprint(gpt2)
    assert scores_of(folder) == scores_of(gpt2)


def test_links_as_in_the_cache_of_the_hub_are_followed(sharded, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for place, path in enumerate(sorted(sharded.iterdir())):
        (blobs / f"{place:040d}").write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{place:040d}")
    assert fingerprint(snapshot) == fingerprint(sharded)
    assert scores_of(snapshot) == scores_of(sharded)


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "someone/kernel"},
        {"_attn_implementation": "flash_attention_2", "experts_implementation": "deepgemm"},
        {"_attn_implementation_internal": "flex_attention"},
        {"auto_map": {"AutoConfig": "x.Y", "AutoModelForCausalLM": "x.Z"}},
        {"torch_dtype": "float16", "dtype": "bfloat16"},
        {"quantization_config": None},
    ],
)
def test_the_configuration_does_not_choose_code_or_precision(gpt2, tmp_path, changes):
    folder = copied(gpt2, tmp_path)
    (folder / "x.py").write_text("raise SystemExit('code of the folder was run')")
    changed_config(folder, **changes)
    assert scores_of(folder) == scores_of(gpt2)
    assert load_huggingface(folder).model.config._attn_implementation == "sdpa"


def test_the_configuration_of_the_tokenizer_does_not_choose_files(gpt2, tmp_path):
    folder, other = copied(gpt2, tmp_path), tmp_path / "other"
    other.mkdir()
    save_bpe(other, bos_token="<other>", eos_token="</other>")
    (other / "tokenizer.json").rename(other / "tokenizer.4.0.json")
    path = folder / "tokenizer_config.json"
    elsewhere = str(other / "tokenizer.4.0.json")
    names = {
        "tokenizer_file": elsewhere,
        "vocab_file": elsewhere,
        "fast_tokenizer_files": ["tokenizer.json", elsewhere],
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | names))
    assert scores_of(folder) == scores_of(gpt2)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "ln_1.weight" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def only_a_vocabulary(folder: Path) -> None:
    (folder / "vocab.json").write_text(
        json.dumps(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    )
    without_tokenizer(folder)


def with_index(**changes):
    """A folder whose weights are found through an index in which some weights lie elsewhere."""

    def spoil(folder: Path) -> None:
        names = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
        places = dict.fromkeys(names, "part.safetensors") | changes
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))

    return spoil


def with_value(value: float):
    def spoil(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights["transformer.h.1.ln_1.weight"][3] = value
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pickled, r"pytorch_model\.bin is pickled data.*AutoModelForCausalLM\.from_pretrained\(.*save_pretrained"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no weights as safetensors"),
        (truncated, r"not readable"),
        (without_a_weight, r"1 weights are missing.*ln_1\.weight"),
        (lambda folder: changed_config(folder, n_layer=3), r"weights are missing"),
        (lambda folder: changed_config(folder, n_embd=32), r"can not load it|another shape"),
        (
            lambda folder: changed_config(folder, n_layer=1 << 32),
            r"config\.json: n_layer is 4294967296; expected a size",
        ),
        (
            lambda folder: changed_config(folder, n_embd=1 << 40),
            r"config\.json: n_embd is 1099511627776; expected a size",
        ),
        (without_tokenizer, r"no tokenizer; expected tokenizer\.json"),
        (only_a_vocabulary, r"no tokenizer; expected .*vocab\.json and merges\.txt"),
        (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json:1: invalid JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), r"holds an adapter"),
        (
            with_index(a="pytorch_model.bin"),
            r"index\.json: weight a is in 'pytorch_model\.bin'; expected a file of this",
        ),
        (
            with_index(a="../part.safetensors"),
            r"weight a is in '\.\./part\.safetensors'; expected a file of this folder",
        ),
        (with_index(a="/part.safetensors"), r"weight a is in '/part\.safetensors'; expected a file of this folder"),
        (
            with_index(a="sub/part.safetensors"),
            r"weight a is in 'sub/part\.safetensors'; expected a file of this folder",
        ),
        (with_index(a="shard-00000-model-00000-of-00001.safetensors"), r"weight a is in 'shard-"),
        (with_index(a=3), r"weight a is in 3; expected a file of this folder"),
        (with_index(a="other.safetensors"), r"weight a is in other\.safetensors, which is missing; expected all files"),
        (with_value(float("nan")), r"1 weights hold nan or infinity.*transformer\.h\.1\.ln_1\.weight; expected finite"),
        (
            with_value(float("-inf")),
            r"1 weights hold nan or infinity.*transformer\.h\.1\.ln_1\.weight; expected finite",
        ),
        (lambda folder: changed_config(folder, quantization_config={"quant_method": "x"}), r"quantization_config is"),
        (lambda folder: changed_config(folder, text={"quantization_config": {"a": 1}}), r"quantization_config is"),
        (lambda folder: changed_config(folder, transformers_weights="x.safetensors"), r"transformers_weights is"),
        (lambda folder: changed_config(folder, configuration_files=["config.4.json"]), r"configuration_files is"),
        (lambda folder: changed_config(folder, model_type=None), r"model_type is None; expected the name of a kind"),
        (lambda folder: changed_config(folder, model_type="ours", auto_map={"AutoConfig": "x.Y"}), r"can not load it"),
    ],
)
def test_spoiled_folders_give_one_line_and_run_no_code(gpt2, tmp_path, spoil, message):
    folder = copied(gpt2, tmp_path)
    (folder / "x.py").write_text("raise SystemExit('code of the folder was run')")
    spoil(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load_huggingface(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
