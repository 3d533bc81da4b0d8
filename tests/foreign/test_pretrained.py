"""Published folders: every name both ways, config.json against the weights, the same function, the verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from test_compat_block import SAMPLES, SMALL, block_tree

from conftest import random_model, random_text
from diffusion_lm.backbones.dit import DiTConfig
from diffusion_lm.commands.foreign_modes import run
from diffusion_lm.foreign.mdlm_weights import parameter_names
from diffusion_lm.foreign.published import import_pretrained, is_pretrained, open_pretrained
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling import sample
from rescore.cli import main
from returnn_bridge.vocab.open import load_vocab

BLOCK = {"name": "block", "block_size": 4, "schedule_options": {"eps": 0.0}}
SIZE = DiTConfig(hidden_size=24, num_blocks=2, num_heads=2, cond_dim=8)
SIZE_KEYS = ["model.hidden_size=24", "model.cond_dim=8"]  # of a tree, beside those in SMALL


def publish(model: LanguageModel, folder: Path, **changes) -> Path:
    """A model as its authors would have published it: our names mapped back."""
    folder.mkdir()
    size = model.backbone
    ours = model.network.state_dict()
    names = parameter_names(size.num_blocks, conditioned=size.adaln)
    state = {f"backbone.{theirs}": ours[mine].clone() for theirs, mine in names.items()}
    width = size.hidden_size // size.num_heads
    state["backbone.rotary_emb.inv_freq"] = 10000.0 ** (-torch.arange(0, width, 2) / width)
    config = {"vocab_size": model.vocab.num_inputs, "model_length": 64, "hidden_dim": size.hidden_size}
    config |= {"cond_dim": size.cond_dim, "n_blocks": size.num_blocks, "n_heads": size.num_heads, "dropout": 0.1}
    config |= {"time_conditioning": False, "auto_map": {"AutoConfig": "code.Config"}}
    if model.family_options["name"] == "block":
        state |= {"sampling_eps_min": torch.tensor(0.25), "sampling_eps_max": torch.tensor(0.75)}
        config |= {"model_type": "bd3lm", "block_size": model.family_options["block_size"], "cross_attn": True}
        config |= {"adaln": size.adaln, "causal": False, "attn_backend": "flex", "var_min": True}
    else:
        config["model_type"] = "mdlm"
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.fixture
def published(vocab, tmp_path):
    """BOS and EOS are pieces of this vocabulary, so the mask is the last id, as in published models."""
    model = random_model(vocab, BLOCK, backbone=SIZE)
    vocab.save(tmp_path / "vocab")
    return model, publish(model, tmp_path / "published"), tmp_path / "vocab"


def logits(model: LanguageModel) -> torch.Tensor:
    sentences = model.sentences(["the king said", "a little house"])
    context = sentences.ids if model.family_options["name"] == "block" else None
    return model.network(sentences.ids, sentences.layout, context=context)


@pytest.mark.parametrize("adaln", [True, False])
def test_a_block_model_computes_the_same(vocab, tmp_path, adaln):
    size = DiTConfig(hidden_size=24, num_blocks=2, num_heads=2, cond_dim=8 if adaln else 128, adaln=adaln)
    model = random_model(vocab, BLOCK, backbone=size)
    folder = publish(model, tmp_path / "published")
    assert is_pretrained(folder)
    vocab.save(tmp_path)
    import_pretrained(folder, tmp_path, tmp_path / "ours")
    assert not is_pretrained(tmp_path / "ours")
    again = LanguageModel.load(tmp_path / "ours")
    assert torch.equal(logits(again), logits(model))
    assert again.family == model.family
    assert again.facts["trained_times"] == [0.25, 0.75]


def test_a_masked_model_computes_the_same(vocab, tmp_path):
    model = random_model(vocab, {"name": "masked", "score_eos": True}, backbone=SIZE)
    vocab.save(tmp_path)
    again = open_pretrained(publish(model, tmp_path / "published"), tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert again.family == model.family


@pytest.mark.parametrize(("size", "own"), [(43, True), (42, False), (44, False)])
def test_the_vocabulary_must_have_as_many_ids(published, text_file, tmp_path, size, own):
    import sentencepiece

    ends = {} if own else {"bos_id": -1, "eos_id": -1}  # behind the mask then
    prefix = tmp_path / "other"
    sentencepiece.SentencePieceTrainer.Train(
        input=str(text_file), model_prefix=str(prefix), vocab_size=size, minloglevel=2, **ends
    )
    with pytest.raises(ValueError, match="weights for 45 ids, the mask being the last"):
        open_pretrained(published[1], f"{prefix}.model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 4}, "those of 2 heads"),
        ({"hidden_dim": 48}, "says hidden_dim 48, the weights are those of 24"),
        ({"cond_dim": 9}, "cond_dim 9"),
        ({"vocab_size": 50258}, "vocab_size 50258"),
        ({"n_blocks": None}, "n_blocks None"),
        ({"block_size": 0}, "block_size 0"),
        ({"causal": True}, "causal true"),
        ({"adaln": False}, "without noise embedding: unknown"),
        ({"adaln": "yes"}, "adaln 'yes'"),
        ({"time_conditioning": True}, "time_conditioning"),
        ({"model_type": "gpt2"}, "model_type 'gpt2'; expected one of bd3lm, mdlm"),
    ],
)
def test_config_and_weights_must_agree(published, change, message):
    _, folder, vocab = published
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        open_pretrained(folder, vocab)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state.pop("backbone.blocks.1.mlp.0.weight"), r"missing blocks\.1\.mlp\.0\.weight"),
        (lambda state: state.update({"backbone.blocks.1.norm3.weight": torch.ones(2)}), r"unknown blocks\.1\.norm3"),
        (lambda state: state.update({"position": torch.ones(2)}), "unknown position"),
        (lambda state: state["backbone.rotary_emb.inv_freq"].mul_(2), "base 10000"),
    ],
)
def test_weights_are_strict_both_ways(published, edit, message):
    _, folder, vocab = published
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        open_pretrained(folder, vocab)


def test_the_verb_checks_before_it_writes(published, tmp_path, capsys):
    _, folder, vocab = published
    text = tmp_path / "check.txt"
    command = ["pretrained", str(folder), "--vocab", str(vocab), "--out", str(tmp_path / "ours"), "--check", str(text)]
    assert status(command) == 1
    assert "check.txt" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()
    text.write_text(random_text(5))
    assert status(command) == 0
    shown = capsys.readouterr().out
    assert "upper bound" in shown
    assert "knows nothing has 44 per piece" in shown
    assert LanguageModel.load(tmp_path / "ours").family_options["block_size"] == 4


@pytest.mark.parametrize("name", ["block", "masked"])
def test_weights_of_gpt2s_tokenizer_from_the_published_folder_to_a_list(
    gpt2_folder, gpt2_pair, tmp_path, monkeypatch, capsys, name
):
    """Both forms of the tokenizer make the same scores, and these are the published network's own."""
    vocab = load_vocab(gpt2_folder)
    options = BLOCK if name == "block" else {"name": "masked", "score_eos": True}
    model = random_model(vocab, options, backbone=SIZE)
    with torch.no_grad():
        model.network.head.bias[vocab.encode("\n")[0]] += 4.0  # samples have line ends in them
    publish(model, tmp_path / "published")
    assert json.loads((tmp_path / "published" / "config.json").read_text())["vocab_size"] == vocab.num_pieces + 1
    monkeypatch.chdir(tmp_path)
    Path("check.txt").write_text(random_text(5))
    Path("nbest.py").write_text(
        "{'a': [(-1.0, 'the king said'), (-2.0, 'The king said'), (-3.0, '')], 'b': [(-1.0, 'Zoë')]}\n"
    )
    for out, folder in (("ours", gpt2_folder), ("other", gpt2_pair)):
        check = ["--check", "check.txt"] if out == "ours" else []
        assert status(["pretrained", "published", "--vocab", str(folder), "--out", out, *check]) == 0
        command = ["score", "am=nbest.py", "--model", f"lm={out}", "--estimator", "draws" if name == "block" else "pll"]
        assert status([*command, "--out", f"{out}.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "perplexity" in shown and f"knows nothing has {vocab.num_pieces} per piece" in shown
    assert "0 unknown" in shown
    assert torch.equal(logits(LanguageModel.load("ours")), logits(model))
    scores = [
        [json.loads(line) for line in Path(f"{out}.jsonl").read_text().splitlines()[1:]] for out in ("ours", "other")
    ]
    assert scores[0] == scores[1]
    assert status(["perplexity", "ours", "check.txt"]) == 0
    assert status(["sample", "ours", "--length", "12", "--count", "4", "--steps", "4", "--out", "samples.txt"]) == 0
    assert len(Path("samples.txt").read_text().splitlines()) == 4
    raw = sample(model, [12] * 4, steps=4).tokens
    assert any("\n" in vocab.decode(tokens) for tokens in raw)
    assert status(["average", "ours", "ours", "--out", "mean"]) == 0
    assert LanguageModel.load("mean").vocab == vocab


def test_the_tokenizer_must_have_as_many_ids(gpt2_folder, published, tmp_path):
    with pytest.raises(ValueError, match="weights for 45 ids.* has 318 with mask 317") as caught:
        open_pretrained(published[1], gpt2_folder)
    assert "\n" not in str(caught.value)


def status(command: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(command)
    return int(stopped.value.code or 0)


def test_a_tree_samples_from_weights_of_gpt2s_tokenizer(gpt2_folder, tmp_path, monkeypatch):
    """Text of a tree goes through RETURNN, which has no class for the tokenizer: refused in one line where text is read."""
    publish(random_model(load_vocab(gpt2_folder), BLOCK, backbone=SIZE), tmp_path / "published")
    monkeypatch.chdir(tmp_path)
    Path("valid.txt").write_text(random_text(30))
    Path("tree.yaml").write_text(yaml.safe_dump(block_tree(), sort_keys=False))
    options = [*SMALL, *SIZE_KEYS, "data.train=openwebtext-train", f"data.tokenizer_name_or_path={gpt2_folder}"]
    options += ["eval.checkpoint_path=published"]
    run("tree.yaml", [*options, SAMPLES, "data.valid=openwebtext-valid"], out="run")
    assert len(Path("run/samples.txt").read_text().splitlines()) == 3
    with pytest.raises(ValueError, match="byte-level BPE tokenizer.*expected a SentencePiece model"):
        run("tree.yaml", options, out="run")


def test_a_tree_reads_a_published_folder(published, tmp_path, monkeypatch):
    model, folder, vocab = published
    monkeypatch.chdir(tmp_path)
    Path("valid.txt").write_text(random_text(30))
    Path("tree.yaml").write_text(yaml.safe_dump(block_tree(), sort_keys=False))
    options = [*SMALL, *SIZE_KEYS, "data.train=openwebtext-train", f"data.tokenizer_name_or_path={vocab}"]
    options += [f"eval.checkpoint_path={folder}"]
    run("tree.yaml", options, out="first")
    run("tree.yaml", [*options, SAMPLES], out="first")
    model.save("ours")
    run("tree.yaml", [*options, "eval.checkpoint_path=ours"], out="second")
    assert Path("first/perplexity.json").read_text() == Path("second/perplexity.json").read_text()
    assert len(Path("first/samples.txt").read_text().splitlines()) == 3


def test_only_an_earlier_import_is_replaced(published, vocab, tmp_path, monkeypatch, capsys):
    """And that is said before the published weights are read."""
    _, folder, vocab_folder = published
    trained = random_model(vocab).save(tmp_path / "run" / "model", facts={"steps": 3})
    mean = random_model(vocab).save(tmp_path / "mean", facts={"imported": {"folder": "published"}, "averaged": []})
    command = ["pretrained", str(folder), "--vocab", str(vocab_folder), "--out"]
    for _ in range(2):
        assert status([*command, str(tmp_path / "ours")]) == 0
    assert LanguageModel.load(tmp_path / "ours").facts["imported"] == {"folder": "published", "model_type": "bd3lm"}
    capsys.readouterr()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(
        "diffusion_lm.foreign.published.read_checkpoint", lambda _: pytest.fail("weights are read first")
    )
    for out in (tmp_path / "run", trained, mean, folder, vocab_folder):
        assert status([*command, str(out)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{out}: exists and holds something else" in line
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_published_weights_must_be_numbers(published):
    _, folder, vocab_folder = published
    state = load_file(folder / "model.safetensors")
    state["backbone.blocks.1.mlp.0.weight"][3, 4] = torch.inf
    save_file(state, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"model\.safetensors: .*blocks\.1\.mlp\.0\.weight has 1 values that are nan or inf"
    ):
        open_pretrained(folder, vocab_folder)
