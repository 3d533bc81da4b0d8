"""Configuration trees of BD3-LM: one verdict for every key and value, packed rows, and three modes on a small model."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import random_model, random_text
from diffusion_lm.commands.foreign_modes import run
from diffusion_lm.evaluate import evaluate_packed, evaluate_text, evaluate_tokens
from diffusion_lm.foreign import translate as compat
from diffusion_lm.foreign.bd3lm import KEYS, MOVED
from diffusion_lm.foreign.rules import COMPARED, HONOURED, NO_EFFECT
from diffusion_lm.model import LanguageModel
from foreign_tree import callbacks, small_model
from returnn_bridge.packing import Packing, pack
from returnn_bridge.vocab import train_vocab

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "bd3lm_ppl_eval.yaml"
TEXT = ["data.train=train.txt", "data.valid=valid.txt", "data.tokenizer_name_or_path=spm.model"]


def block_tree() -> dict[str, Any]:
    """The keys of the reference run's tree and its values, paths apart."""
    return {
        "mode": "ppl_eval",
        "diffusion": "absorbing_state",
        "seed": 1,
        "block_size": 4,
        "loader": {
            "global_batch_size": 512,
            "eval_global_batch_size": 512,
            "batch_size": 512,
            "eval_batch_size": 16,
            "num_workers": 128,
            "pin_memory": True,
        },
        "sampling": {
            "noise_removal": False,
            "num_sample_batches": 1,
            "var_length": False,
            "logdir": "./samples",
            "nucleus_p": 1.0,
            "first_hitting": True,
            "kv_cache": False,
        },
        "training": {
            "ema": 0.9999,
            "antithetic_sampling": True,
            "sampling_eps": 1e-3,
            "coeff_clip": -1.0,
            "resample": False,
            "sampling_eps_min": 1e-3,
            "sampling_eps_max": 1.0,
            "from_pretrained": None,
            "eval_nll": True,
        },
        "eval": {
            "checkpoint_path": "someone/bd3lm",
            "disable_ema": False,
            "perplexity_batch_size": 8,
            "compute_perplexity_on_sanity": False,
            "gen_ppl_eval_model_name_or_path": "gpt2-large",
            "generate_samples": False,
        },
        "optim": {"weight_decay": 0, "lr": 3e-4, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
        "trainer": {
            "_target_": "lightning.Trainer",
            "accelerator": "cuda",
            "num_nodes": 1,
            "devices": 1,
            "accumulate_grad_batches": 1,
            "gradient_clip_val": 1.0,
            "precision": "bf16",
            "num_sanity_val_steps": 2,
            "max_steps": 1_000_000,
            "log_every_n_steps": 1000,
            "limit_train_batches": 1.0,
            "limit_val_batches": 1.0,
            "val_check_interval": 10_000,
        },
        "wandb": None,
        "checkpointing": {"save_dir": "run", "resume_from_ckpt": True, "resume_ckpt_path": "elsewhere/last.ckpt"},
        "callbacks": callbacks(save_top_k=-1),
        "data": {
            "train": "openwebtext-train",
            "valid": "openwebtext-valid",
            "tokenizer_name_or_path": "gpt2",
            "cache_dir": "elsewhere",
            "wrap": True,
            "streaming": False,
            "insert_train_eos": True,
            "insert_valid_eos": True,
            "insert_train_special": True,
            "insert_valid_special": False,
        },
        "model": small_model(length=1024, tie_word_embeddings=True, adaln=False, attn_backend="flex"),
        "strategy": {"_target_": "lightning.pytorch.strategies.DDPStrategy", "find_unused_parameters": False},
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
        "lr_scheduler": {"_target_": "transformers.get_constant_schedule_with_warmup", "num_warmup_steps": 2500},
        "algo": {
            "name": "bd3lm",
            "backbone": "hf_dit",
            "parameterization": "subs",
            "time_conditioning": False,
            "T": 0,
            "causal_attention": False,
            "dropout": 0.0,
            "ignore_bos": True,
            "cross_attn": True,
            "var_min": True,
            "clip_search_delta": 0.05,
            "clip_search_widths": [],
            "fix_clipping": False,
            "sampler": "semi_ar",
            "mdlm_loss_scale": False,
        },
    }


# What the other algorithms' trees say instead.
MDLM = "algo.name=mdlm algo.cross_attn=false algo.var_min=false block_size=1024".split()
SEDD = "algo.name=sedd algo.parameterization=sedd algo.time_conditioning=true algo.cross_attn=false algo.sampler=analytic block_size=1024".split()
AR = "algo.name=ar algo.parameterization=ar algo.causal_attention=true algo.ignore_bos=false algo.cross_attn=false algo.sampler=ar".split()
SAMPLES = "mode=sample_eval"
TRAIN = ["mode=train", "data.wrap=false"]


def leaves(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [prefix[:-1]]
    return [key for name, item in tree.items() for key in leaves(item, f"{prefix}{name}.")]


@pytest.fixture(scope="module")
def world(tmp_path_factory, vocab):
    """A folder with text, a vocabulary and the tree."""
    folder = tmp_path_factory.mktemp("compat_block")
    (folder / "spm.model").write_bytes(vocab.model_proto)
    (folder / "train.txt").write_text(random_text(150))
    (folder / "valid.txt").write_text(random_text(60, seed=7))
    (folder / "tree.yaml").write_text(yaml.safe_dump(block_tree(), sort_keys=False))
    return folder


@pytest.fixture
def inside(world, monkeypatch):
    monkeypatch.chdir(world)
    return world


def changed(*settings: str) -> dict[str, Any]:
    """The tree with local text and dotted settings, new keys allowed anywhere."""
    tree = block_tree()
    for setting in [*TEXT, *settings]:
        key, _, value = setting.partition("=")
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = yaml.safe_load(value)
    return tree


def verdicts(made: compat.Translation) -> dict[str, tuple[str, str]]:
    return {note.key: (note.verdict, note.text) for note in made.notes}


# --- every key has one verdict


@pytest.mark.parametrize("mode", ["train", "ppl_eval", "sample_eval"])
def test_every_key_of_the_tree_has_exactly_one_verdict(inside, mode):
    tree = changed(f"mode={mode}", *(["data.wrap=false"] if mode == "train" else []))
    made = compat.translate(tree)
    assert [note.key for note in made.notes] == leaves(tree)
    assert made.absent == ()
    compared = {"name": "block", "block_size": 4, "sampling_eps": 1e-3, "time_conditioning": False}
    compared |= {"schedule": "loglinear", "schedule_options": {"eps": 0.0}}
    trained = {"antithetic_sampling": True, "resample": False, "sampling_min": 1e-3, "sampling_max": 1.0}
    assert made.config.family == (compared | trained if mode == "train" else compared)


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the reference files are not here")
def test_the_reference_file_has_these_keys_and_a_verdict_for_each(inside):
    tree = yaml.safe_load(REFERENCE.read_text())
    assert compat.is_foreign(tree)
    assert sorted(leaves(tree)) == sorted(leaves(block_tree()))
    tree["data"] |= {"valid": "valid.txt", "tokenizer_name_or_path": "spm.model"}
    assert [note.key for note in compat.translate(tree).notes] == leaves(tree)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (MDLM, {"name": "masked", "score_eos": True, "schedule_options": {"eps": 0.0}, "parameterization": None}),
        (
            [*MDLM, "algo.time_conditioning=true"],
            {"name": "masked", "time_conditioning": True, "schedule_options": None},
        ),
        (SEDD, {"name": "masked", "parameterization": "sedd", "time_conditioning": True, "score_eos": True}),
        (["block_size=1"], {"name": "block", "block_size": 1, "sampling_eps": None, "schedule_options": None}),
        (["block_size=1024"], {"name": "block", "block_size": 1024}),
        (["algo.mdlm_loss_scale=true"], {"name": "block", "schedule_options": None}),
        (
            ["training.sampling_eps_min=0.3", "training.sampling_eps_max=0.8", "training.resample=true"],
            {"sampling_min": 0.3, "sampling_max": 0.8, "resample": True},
        ),
    ],
)
def test_algorithms_are_families(inside, settings, expected):
    family = compat.translate(changed(*TRAIN, *settings)).config.family
    assert {name: family.get(name) for name in expected} == expected


def test_an_autoregressive_tree(inside):
    made = compat.translate(changed(*TRAIN, *AR))
    assert made.config.family == {"name": "autoregressive"}
    assert verdicts(made)["noise.type"][0] == NO_EFFECT
    assert verdicts(made)["algo.name"][0] == HONOURED


@pytest.mark.parametrize(
    ("settings", "key", "verdict", "text"),
    [
        (["block_size=1"], "training.eval_nll", HONOURED, "exact"),
        (["block_size=1", "training.eval_nll=false"], "training.eval_nll", NO_EFFECT, "exact"),
        (["block_size=1"], "noise.type", NO_EFFECT, "every token is masked"),
        ([], "training.eval_nll", HONOURED, "beside the bound"),
        (["training.eval_nll=false", "block_size=16"], "training.eval_nll", HONOURED, "the bound alone"),
        (["mode=train"], "training.eval_nll", NO_EFFECT, "ppl_eval only"),
        (MDLM, "training.eval_nll", NO_EFFECT, "by its bound"),
        ([], "training.coeff_clip", NO_EFFECT, "never reads"),
        ([*TRAIN, "training.resample=true"], "training.resample", NO_EFFECT, "nothing to redraw"),
        (["training.resample=true"], "training.resample", NO_EFFECT, "mode train only"),
        ([*TRAIN, *MDLM], "training.sampling_eps_min", NO_EFFECT, "bd3lm"),
        (["training.from_pretrained=x"], "training.from_pretrained", NO_EFFECT, "mode train"),
        ([], "algo.backbone", NO_EFFECT, "no code of a published"),
        (["algo.backbone=dit"], "algo.backbone", NO_EFFECT, "reference transformer"),
        ([*AR, "algo.backbone=ar"], "algo.backbone", NO_EFFECT, "reference transformer"),
        ([], "algo.name", COMPARED, "family.name block"),
        ([], "block_size", COMPARED, "family.block_size"),
        (["algo.clip_search_widths=[0.5, 0.6]"], "algo.clip_search_widths", NO_EFFECT, "mode train only"),
        ([*TRAIN, "algo.clip_search_widths=[0.5]"], "algo.clip_search_delta", HONOURED, "clip_search.delta"),
        ([*TRAIN, "algo.clip_search_widths=[0.5]"], "algo.var_min", HONOURED, "clip_search"),
        (TRAIN, "algo.clip_search_delta", NO_EFFECT, "algo.clip_search_widths is []: no search"),
        ([*TRAIN, *MDLM, "algo.clip_search_widths=[0.5]"], "algo.clip_search_widths", NO_EFFECT, "bd3lm"),
        (
            [*TRAIN, "algo.fix_clipping=true", "algo.clip_search_widths=[0.5]"],
            "algo.fix_clipping",
            HONOURED,
            "no trainer.clip_search",
        ),
        (["algo.dropout=0.1"], "algo.dropout", NO_EFFECT, "model.dropout"),
        (["model.adaln=true"], "model.adaln", NO_EFFECT, "always"),
        (["model.attn_backend=sdpa"], "model.attn_backend", NO_EFFECT, "mode train"),
        ([*TRAIN, "model.attn_backend=flash_attn"], "model.attn_backend", NO_EFFECT, "the same"),
        (TRAIN, "model.attn_backend", HONOURED, "trainer.attention flex"),
        ([*TRAIN, "trainer.accelerator=cpu"], "model.attn_backend", NO_EFFECT, "on a CPU"),
        ([*TRAIN, "model.attn_backend=sdpa"], "model.attn_backend", NO_EFFECT, "the same"),
        (["model.tie_word_embeddings=false"], "model.tie_word_embeddings", NO_EFFECT, "apart"),
        ([SAMPLES], "model.attn_backend", NO_EFFECT, "mode train"),
        ([SAMPLES, "sampling.kv_cache=true"], "sampling.kv_cache", NO_EFFECT, "always kept"),
        ([SAMPLES, "sampling.var_length=true"], "sampling.var_length", HONOURED, "EOS"),
        ([SAMPLES], "sampling.var_length", HONOURED, "a sample has model.length tokens"),
        ([SAMPLES], "sampling.first_hitting", HONOURED, "every token"),
        ([SAMPLES, "sampling.nucleus_p=0.9"], "sampling.nucleus_p", HONOURED, "probab"),
        ([SAMPLES], "algo.T", NO_EFFECT, "first_hitting"),
        ([SAMPLES, "sampling.first_hitting=false", "algo.T=50"], "algo.T", HONOURED, "steps"),
        ([SAMPLES], "sampling.logdir", NO_EFFECT, "samples.txt"),
        ([SAMPLES], "sampling.noise_removal", NO_EFFECT, "analytic"),
        ([SAMPLES, "data.valid=openwebtext-valid"], "data.valid", NO_EFFECT, "no validation set is read"),
        (["data.train=openwebtext-train"], "data.train", NO_EFFECT, "mode train"),
        ([SAMPLES, *SEDD, "sampling.first_hitting=false", "algo.T=9"], "sampling.noise_removal", HONOURED, "noise"),
        ([SAMPLES], "data.wrap", NO_EFFECT, "ppl_eval"),
        (["data.wrap=false"], "data.insert_valid_eos", NO_EFFECT, "packed"),
        ([], "data.insert_valid_eos", HONOURED, "EOS behind"),
        ([], "data.insert_valid_special", HONOURED, "no BOS"),
        ([], "data.insert_train_special", NO_EFFECT, "no training rows"),
        (["mode=train", "data.insert_train_special=false"], "data.insert_train_special", HONOURED, "no BOS"),
        (["mode=train"], "data.wrap", HONOURED, "cut into rows"),
        (TRAIN, "data.insert_train_special", NO_EFFECT, "packed rows"),
    ],
)
def test_allowed_values(inside, settings, key, verdict, text):
    found = verdicts(compat.translate(changed(*settings)))[key]
    assert found[0] == verdict
    assert text in found[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["algo.name=udlm"], r"algo\.name: got 'udlm'; expected one of bd3lm, mdlm, sedd, ar"),
        (["algo.name=null"], r"algo\.name: got None"),
        (["mode=rescore"], "mode: got 'rescore'; BD3-LM has train, ppl_eval and sample_eval; `dlm score`"),
        (["algo=bd3lm"], "algo: got 'bd3lm'; expected a section"),
        (["block_size=3"], r"block_size: got 3; expected a divisor of model\.length 1024"),
        (["block_size=0"], "block_size: got 0"),
        ([*MDLM, "block_size=4"], "block_size: got 4; algo.name mdlm has one block"),
        (["algo.backbone=dimamba"], "Mamba"),
        (["algo.backbone=ar"], r"algo\.backbone: got 'ar'"),
        (["algo.parameterization=sedd"], r"algo\.parameterization: got 'sedd'; expected 'subs'"),
        (["algo.time_conditioning=true"], r"algo\.time_conditioning: got True; expected false"),
        ([*SEDD, "algo.time_conditioning=false"], "expected true with algo.name sedd"),
        ([*AR, "algo.time_conditioning=true"], "expected false with algo.name ar"),
        (["algo.causal_attention=true"], r"algo\.causal_attention: got True"),
        (["algo.ignore_bos=false"], r"algo\.ignore_bos: got False"),
        (["algo.cross_attn=false"], r"algo\.cross_attn: got False; expected true"),
        ([SAMPLES, "algo.sampler=analytic"], r"algo\.sampler: got 'analytic'; expected 'semi_ar'"),
        ([*TRAIN, "algo.clip_search_widths=[2]"], "widths in"),
        ([*TRAIN, "algo.clip_search_widths=[0.5]", "algo.clip_search_delta=2"], "number in"),
        (["block_size=16"], r"eval_nll: got True; .*65,535 runs a row.*at most 8 tokens.*expected false"),
        ([SAMPLES, "sampling.first_hitting=false"], r"algo\.T: got 0; .*algo\.T=5000"),
        ([SAMPLES, *MDLM, "algo.T=10"], r"sampling\.first_hitting: got True; it is the sampler of blocks"),
        ([SAMPLES, "sampling.nucleus_p=0"], r"sampling\.nucleus_p: got 0"),
        ([SAMPLES, *AR, "sampling.nucleus_p=0.5"], r"sampling\.nucleus_p: got 0\.5"),
        ([*MDLM, "sampling.kv_cache=true"], r"sampling\.kv_cache: got True"),
        ([*TRAIN, *MDLM, "training.sampling_eps_max=0.5"], r"sampling_eps_max: got 0\.5"),
        ([*TRAIN, *MDLM, "training.resample=true"], r"training\.resample: got True"),
        ([*TRAIN, "training.sampling_eps_max=0.001"], r"set by .*training\.sampling_eps_max"),
        ([*TRAIN, "training.from_pretrained=a/b"], "nothing is downloaded"),
        ([*TRAIN, "model.attn_backend=xformers"], "attn_backend"),
        ([*AR, "model.adaln=true"], r"model\.adaln: got True"),
        (
            ["data.valid=openwebtext-valid"],
            r"data\.valid: got 'openwebtext-valid'; .*nothing is downloaded; .*data\.valid=FILE",
        ),
        ([*TRAIN, "data.train=openwebtext-train"], r"data\.train: got 'openwebtext-train'"),
        (["data.tokenizer_name_or_path=gpt2"], "got 'gpt2'; .*SentencePiece"),
        (["data.returnn_valid_config={dev: {class: LmDataset}}"], "there is data.returnn_valid_config too"),
        (["parameterization=subs"], r"parameterization: got 'subs'; .*algo\.parameterization"),
        (["sampling.steps=3"], r"sampling\.steps: got 3; .*algo\.T"),
    ],
)
def test_refusals_name_the_key_the_value_and_what_is_possible(inside, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        compat.translate(changed(*settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", sorted({*KEYS, *MOVED, "data.train", "data.valid", "data.tokenizer_name_or_path", "data.wrap"})
)
def test_no_value_of_a_wrong_kind_gets_through_as_a_crash(inside, key):
    for mode in ("train", "ppl_eval", "sample_eval"):
        for value in ([], {}, "x", -1, 0.5, True, None, [[1]], [{}], float("nan")):
            tree = copy.deepcopy(changed(f"mode={mode}", "data.wrap=false"))
            *sections, name = key.split(".")
            node = tree
            for section in sections:
                node = node.setdefault(section, {})
            node[name] = value
            with contextlib.suppress(ValueError):
                compat.translate(tree)


def test_keys_of_blocks_need_an_algorithm():
    with pytest.raises(ValueError, match=r"algo\.name: got None"):
        compat.translate({"mode": "train", "parameterization": "subs", "block_size": 4})


# --- packed rows


def test_packing_loses_only_what_it_counts():
    documents = [[5, 6, 7], [8], [], [9, 5, 6]]
    plain = pack(documents, Packing(4, insert_special=False), bos_id=1, eos_id=2)
    assert (plain.rows, plain.documents, plain.left_over) == ([[5, 6, 7, 2], [8, 2, 2, 9]], 4, 3)
    framed = pack(documents, Packing(4, insert_eos=False), bos_id=1, eos_id=2)
    assert framed.rows == [[1, 5, 6, 2], [1, 7, 8, 2], [1, 9, 5, 2]]
    assert framed.left_over == 1
    with pytest.raises(ValueError, match="do not fill a packed row"):
        pack(documents, Packing(64), bos_id=1, eos_id=2)


@pytest.mark.parametrize("name", ["block", "autoregressive"])
def test_a_packed_row_that_is_a_sentence_has_its_perplexity(vocab, name):
    """Exact models: BOS, 6 pieces and EOS as a packed row are scored as the sentence is."""
    options = {"name": "block", "block_size": 1} if name == "block" else {"name": name}
    model = random_model(vocab, options)
    documents = [vocab.encode("the king said and the man went")[:6], vocab.encode("a little old house")[:6]]
    assert [len(row) for row in documents] == [6, 6]
    packed = pack(documents, Packing(8, insert_eos=False), bos_id=vocab.bos_id, eos_id=vocab.eos_id)
    found, sentence = evaluate_packed(model, packed), evaluate_tokens(model, documents)
    assert math.isclose(found.nelbo, sentence.nelbo, rel_tol=1e-6)
    assert (found.tokens, found.exact) == (sentence.tokens, True)
    assert found.per_word == pytest.approx(sentence.per_word)


def test_a_model_without_ends_takes_no_packed_rows(vocab):
    packed = pack([[5] * 9], Packing(8), bos_id=vocab.bos_id, eos_id=vocab.eos_id)
    with pytest.raises(ValueError, match=r"expected data\.wrap=false"):
        evaluate_packed(random_model(vocab), packed)


def test_flex_attention_is_asked_of_training_alone_and_refused_by_its_key(inside, monkeypatch):
    train = TRAIN
    assert compat.translate(changed(*train)).config.trainer.attention == "flex"
    for others in ([], [*train, "trainer.accelerator=cpu"], [*train, "model.attn_backend=flash_attn"]):
        assert compat.translate(changed(*others)).config.trainer.attention == "sdpa"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    narrow = [*SMALL, *train, "trainer.accelerator=cuda", "model.n_heads=4"]
    message = r"heads of width 8 .*trainer\.attention=sdpa \(set by model\.n_heads, model\.attn_backend\)"
    with pytest.raises(ValueError, match=message):
        run("tree.yaml", narrow, out="no")
    assert not Path("no").exists()


# --- the modes

SMALL = """trainer.accelerator=cpu trainer.precision=32 trainer.max_steps=4 trainer.val_check_interval=2 loader.num_workers=0 loader.batch_size=8
 loader.global_batch_size=8 loader.eval_batch_size=3 model.hidden_size=32 model.cond_dim=16 model.n_blocks=2 model.n_heads=2 model.length=64
 lr_scheduler.num_warmup_steps=2 training.ema=0.9 data.train=train.txt data.valid=valid.txt data.tokenizer_name_or_path=spm.model""".split()


@pytest.fixture(scope="module")
def trained(world):
    here = os.getcwd()
    os.chdir(world)
    try:
        run("tree.yaml", [*SMALL, "mode=train", "data.wrap=false"])
    finally:
        os.chdir(here)
    return "run/model"


def test_training_on_packed_rows(inside, capsys):
    """The tree as it stands, but for its data, on the rows that it says."""
    run("tree.yaml", [*SMALL, "mode=train", "training.eval_nll=true", "trainer.max_steps=2"], out="rows")
    config = json.loads(Path("rows/config.json").read_text())["data"]
    assert config["wrap"] and config["insert_train_special"] and not config["insert_valid_special"]
    assert config["train"]["seq_ordering"] == "random"
    assert json.loads(Path("rows/model/config.json").read_text())["facts"]["tokens"] == 2 * 8 * 64


def test_training_makes_a_block_model(inside, trained):
    model = LanguageModel.load(trained)
    assert (model.family_options["name"], model.family_options["block_size"]) == ("block", 4)
    assert "val_valid/nll" in Path("run/scores.tsv").read_text()


def test_perplexity_of_packed_rows_and_of_sentences(inside, trained, capsys):
    options = [*SMALL, f"eval.checkpoint_path={trained}"]
    run("tree.yaml", options, out="packed")
    shown = capsys.readouterr().out
    assert "valid: 60 documents in " in shown
    packed = json.loads(Path("packed/perplexity.json").read_text())["valid"]
    assert packed["tokens"] == 63 * packed["sentences"], "all but the first token of a row"
    assert packed["standard_error"] > 0
    exact = json.loads(Path("packed/perplexity.json").read_text())["valid/exact"]
    assert exact["exact"] and exact["tokens"] == packed["tokens"]
    assert exact["nelbo"] < packed["nelbo"] + 3 * packed["standard_error"]
    run("tree.yaml", [*options, "data.wrap=false"], out="sentences")
    assert json.loads(Path("sentences/perplexity.json").read_text())["valid"]["sentences"] == 60


def test_perplexity_with_blocks_of_one_token_is_exact(inside, vocab):
    model = random_model(vocab, {"name": "block", "block_size": 1})
    model.save("single")
    options = [*SMALL, "block_size=1", "eval.checkpoint_path=single"]
    run("tree.yaml", options, out="exact")
    assert json.loads(Path("exact/perplexity.json").read_text())["valid"]["exact"]
    run("tree.yaml", [*options, "data.wrap=false"], out="lines")
    lines, whole = json.loads(Path("lines/perplexity.json").read_text())["valid"], evaluate_text(model, ["valid.txt"])
    assert lines["nelbo"] == pytest.approx(whole.nelbo, rel=1e-6)
    assert (lines["tokens"], lines["words"], lines["sentences"]) == (whole.tokens, whole.words, whole.sentences)


def test_another_vocabulary_is_refused(inside, trained, text_file, tmp_path):
    train_vocab([text_file], size=40, out=tmp_path)
    options = [*SMALL, f"eval.checkpoint_path={trained}", f"data.tokenizer_name_or_path={tmp_path}"]
    with pytest.raises(ValueError, match=r"data\.tokenizer_name_or_path: \S+ is not the vocabulary of run/model"):
        run("tree.yaml", options, out="no")
    assert not Path("no").exists()


def test_samples(inside, trained, capsys):
    options = [*SMALL, SAMPLES, f"eval.checkpoint_path={trained}", "sampling.num_sample_batches=2"]
    run("tree.yaml", options, out="hitting")
    first = Path("hitting/samples.txt").read_text().splitlines()
    assert len(first) == 6
    run("tree.yaml", [*options, "sampling.var_length=true"], out="variable")
    shorter = Path("variable/samples.txt").read_text().splitlines()
    assert all(long.startswith(short) for long, short in zip(first, shorter))
    assert sum(map(len, first)) > sum(map(len, shorter)), "they go on behind EOS"
    run(
        "tree.yaml",
        [*options, "sampling.kv_cache=true", "loader.eval_batch_size=6", "sampling.num_sample_batches=1"],
        out="cached",
    )
    assert Path("cached/samples.txt").read_text().splitlines() == first, "batches and the cache do not matter"
    run("tree.yaml", [*options, "sampling.first_hitting=false", "algo.T=1"], out="one_step")
    run("tree.yaml", [*options, "sampling.nucleus_p=1e-9"], out="greedy")
    assert Path("greedy/samples.txt").read_text().splitlines() != first
    shown = capsys.readouterr().out
    passes = {found[1]: float(found[2]) for found in re.finditer(r"in (\w+)/samples.txt.*?([0-9.]+) passes", shown)}
    assert passes["one_step"] < passes["hitting"] == passes["cached"]
    assert "generative perplexity: not computed" in shown


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ([*AR, "sampling.first_hitting=false"], {"name": "autoregressive"}),
        (
            [*MDLM, "block_size=64", "sampling.first_hitting=false", "algo.T=9"],
            {"name": "masked", "score_eos": True, "schedule_options": {"eps": 0.0}},
        ),
    ],
)
def test_samples_of_the_other_algorithms(inside, vocab, settings, options):
    folder = random_model(vocab, options).save(f"{options['name']}_model")
    run("tree.yaml", [*SMALL, SAMPLES, *settings, f"eval.checkpoint_path={folder}"], out=f"{options['name']}_samples")
    assert len(Path(f"{options['name']}_samples/samples.txt").read_text().splitlines()) == 3


def test_a_model_of_another_block_size_is_refused(inside, trained):
    for settings, message in [
        (["block_size=8"], r"block_size: got 8, which means family\.block_size 8, but run/model has 4"),
        (
            ["eval.checkpoint_path=someone/bd3lm"],
            r"someone/bd3lm: no such folder \(eval\.checkpoint_path\), and nothing is downloaded",
        ),
    ]:
        with pytest.raises((ValueError, OSError), match=message):
            run("tree.yaml", [*SMALL, f"eval.checkpoint_path={trained}", *settings], out="no")
    assert not Path("no").exists()


def test_training_starts_from_another_model(inside, trained):
    options = [*SMALL, *TRAIN, "block_size=8", f"training.from_pretrained={trained}"]
    run("tree.yaml", options, out="finer")
    assert LanguageModel.load("finer/model").family_options["block_size"] == 8


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the reference files are not here")
def test_the_reference_file_runs_in_three_modes(inside):
    """As it stands: only paths, sizes and the device are set (and data.wrap for training, which reads one sentence a row)."""
    common = [*SMALL, "checkpointing.save_dir=reference", "eval.checkpoint_path=reference/model"]
    run(REFERENCE, [*common, "mode=train", "data.wrap=false"])
    run(REFERENCE, common)
    run(REFERENCE, [*common, SAMPLES])
    found = {path.name for path in Path("reference").iterdir()}
    assert found >= {"model", "scores.tsv", "perplexity.json", "samples.txt"}
