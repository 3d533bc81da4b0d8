"""Configuration trees of the reference run: one verdict for every key, nothing built by name, and all four modes on a small model."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import random_text
from diffusion_lm.commands.foreign_modes import run
from diffusion_lm.commands.services import Services
from diffusion_lm.commands.train import train as train_verb
from diffusion_lm.foreign import translate as compat
from diffusion_lm.foreign.rules import HONOURED, NO_EFFECT
from diffusion_lm.foreign.table import KEYS
from diffusion_lm.model import LanguageModel
from foreign_tree import callbacks, small_model
from rescore.estimators import build_estimator
from rescore.lms.generative_perplexity import open_judge
from rescore.lms.network import NetworkScorer
from rescore.nbest import read_nbest
from rescore.score_file import score_file
from returnn_bridge.audio.oggzip import Entry, build_ogg_zip

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"


def ogg_zip(name: str) -> dict[str, Any]:
    vocab = {"class": "SentencePieces", "model_file": "spm.model"}
    zips = {"class": "OggZipDataset", "path": [name], "use_cache_manager": True, "audio": None, "targets": vocab}
    zips |= {"fixed_random_seed": 1, "seq_ordering": "sorted_reverse", "fixed_random_subset": 140}
    return {
        "class": "MetaDataset",
        "datasets": {"ogg_zip": zips},
        "data_map": {"data": ["ogg_zip", "classes"]},
        "seq_order_control_dataset": "ogg_zip",
    }


def reference_tree() -> dict[str, Any]:
    """The keys of the reference run's tree, with paths of the test's folder."""
    corpus = {"class": "LmDataset", "corpus_file": ["a.txt", "b.txt"], "use_cache_manager": True}
    corpus |= {"orth_vocab": {"class": "SentencePieces", "model_file": "spm.model"}, "seq_end_symbol": None}
    corpus |= {"unknown_symbol": None, "partition_epoch": 20, "seq_ordering": "laplace:.1000"}
    return {
        "mode": "train",
        "diffusion": "absorbing_state",
        "backbone": "dit",
        "parameterization": "subs",
        "time_conditioning": True,
        "T": 0,
        "subs_masking": False,
        "behaviour_version": 1,
        "seed": 1,
        "loader": {
            "global_batch_size": 256,
            "eval_global_batch_size": 256,
            "batch_size": 256,
            "eval_batch_size": 64,
            "num_workers": 8,
            "pin_memory": True,
        },
        "sampling": {
            "predictor": "ddpm_cache",
            "steps": 1000,
            "noise_removal": True,
            "num_sample_batches": 2,
            "num_sample_log": 2,
            "semi_ar": False,
            "stride_length": 1,
            "num_strides": 1,
        },
        "training": {
            "ema": 0.9999,
            "antithetic_sampling": True,
            "importance_sampling": False,
            "sampling_eps": 1e-3,
            "change_of_variables": False,
        },
        "eval": {
            "checkpoint_path": "",
            "disable_ema": False,
            "compute_generative_perplexity": False,
            "perplexity_batch_size": 8,
            "compute_perplexity_on_sanity": False,
            "gen_ppl_eval_model_name_or_path": "gpt2-large",
            "generate_samples": True,
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
            "max_steps": 2_000_000,
            "log_every_n_steps": 10,
            "limit_train_batches": 1.0,
            "limit_val_batches": 1.0,
            "val_check_interval": 10_000,
        },
        "wandb": {
            "project": "text-diffusion",
            "notes": "none",
            "group": None,
            "job_type": None,
            "name": None,
            "id": "None_1",
            "tags": ["loglinear", "returnn"],
        },
        "checkpointing": {"save_dir": "run", "resume_from_ckpt": True, "resume_ckpt_path": "elsewhere/last.ckpt"},
        "rescore": {"hypothesis_file": "nbest.py.gz", "output_dir": "scored", "sampling_number": 10, "batch_size": 16},
        "callbacks": callbacks(save_top_k=1),
        "data": {
            "train": "returnn",
            "valid": "returnn",
            "tokenizer_name_or_path": "gpt2",
            "cache_dir": "elsewhere",
            "wrap": False,
            "streaming": False,
            "returnn_train_config": corpus,
            "returnn_valid_config": {"dev": ogg_zip("dev.zip"), "devtrain": ogg_zip("devtrain.zip")},
        },
        "model": small_model(length=128, tie_word_embeddings=False),
        "strategy": {"_target_": "lightning.pytorch.strategies.DDPStrategy", "find_unused_parameters": False},
        "noise": {"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20},
        "lr_scheduler": {"_target_": "transformers.get_constant_schedule_with_warmup", "num_warmup_steps": 2500},
        "returnn_batching_enabled": True,
        "returnn_batching": {"batch_size": 32768, "max_seqs": 256},
    }


def leaves(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [prefix[:-1]]
    return [key for name, item in tree.items() for key in leaves(item, f"{prefix}{name}.")]


def changed(*settings: str) -> dict[str, Any]:
    """The reference tree with dotted settings, new keys allowed anywhere."""
    tree = reference_tree()
    for setting in settings:
        key, _, value = setting.partition("=")
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = yaml.safe_load(value)
    return tree


def verdicts(made: compat.Translation) -> dict[str, tuple[str, str]]:
    return {note.key: (note.verdict, note.text) for note in made.notes}


SMALL = """trainer.accelerator=cpu trainer.precision=32 trainer.max_steps=6 trainer.val_check_interval=3 loader.num_workers=0 model.hidden_size=32
 model.cond_dim=16 model.n_blocks=2 model.n_heads=2 lr_scheduler.num_warmup_steps=2 returnn_batching.batch_size=200 training.ema=0.9
 callbacks.checkpoint_every_n_steps.every_n_train_steps=2""".split()


@pytest.fixture(scope="module")
def world(tmp_path_factory, vocab):
    """A folder with everything the tree of `reference_tree` names, and a model trained from it."""
    folder = tmp_path_factory.mktemp("compat")
    here = os.getcwd()
    os.chdir(folder)
    try:
        Path("spm.model").write_bytes(vocab.model_proto)
        for number, name in enumerate(("a.txt", "b.txt")):
            Path(name).write_text(random_text(150, seed=number))
        for number, name in enumerate(("dev", "devtrain")):
            lines = random_text(150, seed=7 + number).splitlines()
            build_ogg_zip(f"{name}.zip", [Entry(f"utt-{i}", line) for i, line in enumerate(lines)])
        nbest = {
            "utt-1": [(-1.5, "the king said"), (-2.5, "the kings aid"), (-1.5, "the king said")],
            "utt-2": [(-3.0, "")],
        }
        Path("nbest.py").write_text(repr(nbest))
        Path("reference.yaml").write_text(yaml.safe_dump(reference_tree(), sort_keys=False))
        run("reference.yaml", SMALL)
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def inside(world, monkeypatch):
    monkeypatch.chdir(world)
    return world


def score(hypothesis_file, output, model_folder, *, estimator, passes, seed, device):
    """What the `dlm` command provides."""
    scorer = NetworkScorer(model_folder, estimator=build_estimator(estimator, passes=passes), seed=seed, device=device)
    score_file([hypothesis_file], scorer, output)


# --- every key has one verdict


def test_every_key_of_the_tree_has_exactly_one_verdict():
    tree = reference_tree()
    assert [note.key for note in compat.translate(tree).notes] == leaves(tree)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference files are not here")
def test_the_reference_file_has_these_keys_and_a_verdict_for_each():
    tree = yaml.safe_load((REFERENCE / "mdlm_returnn_asr.yaml").read_text())
    assert compat.is_foreign(tree)
    assert sorted(leaves(tree)) == sorted(leaves(reference_tree()))
    made = compat.translate(tree)
    assert [note.key for note in made.notes] == leaves(tree)
    assert made.absent == ()


def test_our_own_configurations_are_not_foreign():
    assert not compat.is_foreign({"data": {}, "model": {}, "family": {}, "optim": {}, "trainer": {}, "seed": 1})


def test_tree_means_the_reference_experiment():
    """The preset that was written by hand for it says the same, data apart."""
    from dataclasses import replace

    from diffusion_lm import presets
    from diffusion_lm.families import SpecialIds, build_family

    made, preset = compat.translate(reference_tree()).config, presets.build("librispeech_masked")
    ids = SpecialIds(1, 1, 2, 3, 4)
    assert build_family(made.family, ids) == build_family(preset.family, ids)
    assert (made.model, made.optim, made.seed) == (preset.model, preset.optim, preset.seed)
    assert replace(made.trainer, accelerator="auto") == preset.trainer
    assert made.data.max_seq_length == 126, "BOS and EOS count in model.length"
    assert made.data.train["corpus_file"] == ["a.txt", "b.txt"]
    assert list(made.data.valid) == ["dev", "devtrain"]
    assert (made.data.vocab, made.data.batch_size, made.data.max_seqs) == ("spm.model", 32768, 256)


@pytest.mark.parametrize(
    ("setting", "target", "value"),
    [
        ("T=2000", "family.T", 2000),
        ("training.importance_sampling=true", "family.importance_sampling", True),
        ("trainer.gradient_clip_val=null", "trainer.gradient_clip", 0.0),
        ("trainer.precision=32-true", "trainer.precision", "32"),
        ("trainer.devices=2", "trainer.strategy", "ddp"),
        ("optim.lr=1e-3", "optim.lr", 1e-3),
        ("noise.type=cosine", "family.schedule", "cosine"),
        ("lr_scheduler._target_=transformers.get_cosine_schedule_with_warmup", "optim.schedule", "cosine"),
        ("callbacks.checkpoint_monitor.monitor=val_devtrain/ppl", "trainer.monitor", "val_devtrain/ppl"),
        ("trainer.limit_val_batches=5", "trainer.limit_val_batches", 5),
    ],
)
def test_honoured_keys_set_ours(setting, target, value):
    made = compat.translate(changed(setting))
    section, name = target.split(".")
    found = getattr(made.config, section)
    assert (found[name] if isinstance(found, dict) else getattr(found, name)) == value
    assert verdicts(made)[setting.partition("=")[0]][0] == HONOURED


def test_schedules_with_bounds_get_them():
    made = compat.translate(changed("noise.type=geometric"))
    assert made.config.family["schedule_options"] == {"sigma_min": 1e-4, "sigma_max": 20.0}
    assert verdicts(made)["noise.sigma_min"][0] == HONOURED
    assert verdicts(compat.translate(reference_tree()))["noise.sigma_min"][0] == NO_EFFECT


def test_batches_are_counted_by_one_of_the_two_rules():
    made = compat.translate(
        changed("returnn_batching_enabled=false", "loader.batch_size=64", "loader.global_batch_size=64")
    )
    assert made.config.data.max_seqs == 64
    assert made.config.data.batch_size >= 64 * made.config.data.max_seq_length, "it never binds"
    assert verdicts(made)["returnn_batching.max_seqs"][0] == NO_EFFECT
    assert verdicts(compat.translate(reference_tree()))["loader.batch_size"][0] == NO_EFFECT
    with pytest.raises(ValueError, match=r"loader\.global_batch_size: got 256; expected 64"):
        compat.translate(changed("returnn_batching_enabled=false", "loader.batch_size=64"))


def test_validation_interval_counts_batches_there_and_steps_here():
    made = compat.translate(changed("trainer.accumulate_grad_batches=4"))
    assert made.config.trainer.val_check_interval == 2500
    with pytest.raises(ValueError, match=r"trainer\.val_check_interval: got 10000"):
        compat.translate(changed("trainer.accumulate_grad_batches=3"))


def test_autoregressive_tree():
    made = compat.translate(changed("parameterization=ar", "backbone=ar"))
    assert made.config.family == {"name": "autoregressive"}
    assert verdicts(made)["T"][0] == verdicts(made)["noise.type"][0] == NO_EFFECT
    with pytest.raises(ValueError, match="backbone: got 'dit'"):
        compat.translate(changed("parameterization=ar"))


def test_trees_of_d3pm_and_sedd():
    made = compat.translate(changed("parameterization=d3pm", "T=1000", "subs_masking=true"))
    family = made.config.family
    assert (family["parameterization"], family["T"], family["subs_masking"]) == ("d3pm", 1000, True)
    assert verdicts(made)["parameterization"][0] == verdicts(made)["subs_masking"][0] == HONOURED
    assert compat.translate(changed("parameterization=sedd")).config.family["parameterization"] == "sedd"
    assert "parameterization" not in compat.translate(reference_tree()).config.family, "older runs go on"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["parameterization=sedd", "T=1000"], r"expected family.T 0, .* \(set by parameterization, T"),
        (["parameterization=sedd", "training.importance_sampling=true"], r"set by .*training\.importance_sampling"),
        (
            ["parameterization=sedd", "training.change_of_variables=true"],
            r"set by .*training\.change_of_variables",
        ),
        (["parameterization=sedd", "subs_masking=true"], "subs_masking: got True; it belongs"),
        (["parameterization=ar", "backbone=ar", "subs_masking=true"], "subs_masking: got True; it belongs"),
    ],
)
def test_what_d3pm_and_sedd_exclude(settings, message):
    with pytest.raises(ValueError, match=message):
        compat.translate(changed(*settings))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("mode=sample", "mode: got 'sample'; expected one of train, ppl_eval, sample_eval, rescore"),
        ("behaviour_version=2", "behaviour_version: got 2; expected 1"),
        ("behaviour_version=true", "behaviour_version: got True"),
        ("parameterization=x0", "parameterization: got 'x0'; expected one of subs, d3pm, sedd, ar"),
        ("parameterization=d3pm", r"expected family.T > 0.*\(set by parameterization, T\)"),
        ("subs_masking=true", "subs_masking: got True; it belongs to parameterization d3pm"),
        ("backbone=dimamba", "backbone: got 'dimamba'"),
        ("backbone=hf_dit", "backbone: got 'hf_dit'; code from a model hub is never run"),
        ("data.streaming=true", r"data\.streaming: got True"),
        ("data.train=openwebtext", r"data\.train: got 'openwebtext'"),
        ("noise.type=polynomial", r"noise\.type: got 'polynomial'"),
        ("model.type=dimamba", r"model\.type: got 'dimamba'"),
        ("model.tie_word_embeddings=true", r"model\.tie_word_embeddings: got True"),
        ("eval.disable_ema=true", r"eval\.disable_ema: got True; .*training.ema=0"),
        ("eval.compute_generative_perplexity=true", r"eval\.compute_generative_perplexity: got True"),
        ("rescore.normalize_per_sample=true", r"rescore\.normalize_per_sample: .*sample-norm"),
        ("callbacks.checkpoint_monitor.monitor=val/wer", r"checkpoint_monitor\.monitor: got 'val/wer'"),
        ("callbacks.checkpoint_monitor.mode=max", r"checkpoint_monitor\.mode: got 'max'"),
        ("trainer.precision=16", r"trainer\.precision: got 16"),
        ("trainer.limit_train_batches=0.1", r"trainer\.limit_train_batches: got 0\.1"),
        ("strategy._target_=lightning.pytorch.strategies.SingleDeviceStrategy", "DDPStrategy or .*FSDPStrategy"),
        ("optim.lr=fast", r"optim\.lr: got 'fast'; expected a number"),
        ("optim.lr=true", r"optim\.lr: got True; expected a number"),
        ("checkpointing.save_dir=${cwd:}", "expected a resolved tree"),
        ("loader=3", "loader: got 3; expected a section"),
        # what two keys can not mean together, said of ours, names theirs
        ("T=-1", r"\(set by T"),
        ("returnn_batching.max_seqs=0", r"\(set by returnn_batching\.max_seqs\)"),
        ("model.hidden_size=33", "hidden_size 33"),
        # unknown keys
        ("optim.lrr=1", r"unknown key 'optim\.lrr'; the nearest known one is 'optim\.lr'"),
        ("tranier.max_steps=1", r"unknown key 'tranier'"),
        ("data.returnn_train_config.corpus=x", r"data\.returnn_train_config: .*no option 'corpus'.*corpus_file"),
        ("data.returnn_valid_config.dev.datasets.ogg_zip.zip=x", r"data\.returnn_valid_config\.dev: .*'zip'"),
        (
            "data.returnn_valid_config={class: LmDataset}",
            r"data\.returnn_valid_config: .*one dataset dict for each name",
        ),
    ],
)
def test_refusals_name_the_key_the_value_and_what_is_possible(setting, message):
    with pytest.raises(ValueError, match=message) as caught:
        compat.translate(changed(setting))
    assert "\n" not in str(caught.value)


def test_two_ways_to_sample_times_exclude_each_other():
    both = changed("training.importance_sampling=true", "training.change_of_variables=true")
    with pytest.raises(ValueError, match=r"set by training\.importance_sampling, training\.change_of_variables"):
        compat.translate(both)


@pytest.mark.parametrize(
    "key",
    [
        "trainer._target_",
        "strategy._target_",
        "lr_scheduler._target_",
        "callbacks.checkpoint_monitor._target_",
        "callbacks.learning_rate_monitor._target_",
        "callbacks.another._target_",
        "model._target_",
        "_target_",
        "data.returnn_train_config._target_",
    ],
)
def test_no_class_is_taken_by_name(key, monkeypatch):
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("run"))
    with pytest.raises(ValueError, match="os.system|_target_|unknown key"):
        compat.translate(changed(f"{key}=os.system"))


@pytest.mark.parametrize("key", sorted(KEYS))
def test_no_value_of_a_wrong_kind_gets_through_as_a_crash(key):
    """Every key with values of every kind: a translation or a ValueError, never another exception."""
    for value in ([], {}, "x", -1, 0.5, True, None, [[1]]):
        tree = copy.deepcopy(reference_tree())
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
        with contextlib.suppress(ValueError):
            compat.translate(tree)


# --- the four modes


def test_training_leaves_a_model_and_its_tree(inside, capsys):
    """Trained by the fixture; the same command again has nothing left to do and ends in the same weights."""
    before = Path("run/model/model.safetensors").read_bytes()
    run("reference.yaml", SMALL)
    shown = capsys.readouterr().out
    assert Path("run/model/model.safetensors").read_bytes() == before
    model = LanguageModel.load("run/model")
    assert (model.backbone.hidden_size, model.backbone.num_blocks) == (32, 2)
    assert model.family.time_conditioning
    assert "val_devtrain/nll" in Path("run/scores.tsv").read_text().splitlines()[0]
    saved = Path("run/config_tree.txt").read_text()
    assert saved.startswith("CONFIG\n├── mode\n")
    assert saved in shown
    assert "behaviour_version\n│   └── 1\n" in saved
    assert "hidden_size: 32" in saved, "with the overrides"
    assert "noise.type loglinear has no such bound:\n      noise.sigma_min = 0.0001, noise.sigma_max" in saved


def test_perplexity_of_each_validation_set(inside, capsys):
    options = [*SMALL, "mode=ppl_eval", "eval.checkpoint_path=run/model"]
    run("reference.yaml", options, out="ppl")
    shown = capsys.readouterr().out
    assert "\ndev: perplexity " in shown
    assert "\ndevtrain: perplexity " in shown
    results = json.loads(Path("ppl/perplexity.json").read_text())
    assert {name: (result["sentences"], result["exact"]) for name, result in results.items()} == {
        "dev": (140, False),
        "devtrain": (140, False),
    }
    assert results["dev"]["standard_error"] > 0
    run("reference.yaml", [*options, "trainer.limit_val_batches=1", "returnn_batching.max_seqs=4"], out="short")
    assert json.loads(Path("short/perplexity.json").read_text())["dev"]["sentences"] == 4


def test_samples_and_their_perplexity_under_a_judge(inside, capsys, ar_folder):
    options = [
        *SMALL,
        "mode=sample_eval",
        "eval.checkpoint_path=run/model",
        "loader.eval_batch_size=6",
        "sampling.steps=20",
    ]
    run("reference.yaml", options, out="samples")
    shown = capsys.readouterr().out
    texts = Path("samples/samples.txt").read_text().splitlines()
    assert len(texts) == 12
    assert shown.count("\n" + texts[0]) == 1
    assert "entropy" in shown
    assert "generative perplexity: not computed" in shown
    run(
        "reference.yaml",
        [*options, f"eval.gen_ppl_eval_model_name_or_path={ar_folder}", "sampling.semi_ar=true"],
        out="more",
        services=Services(open_judge=open_judge),
    )
    assert "generative perplexity under" in capsys.readouterr().out
    with pytest.raises(ValueError, match="nothing is downloaded"):
        run("reference.yaml", [*options, "eval.compute_generative_perplexity=true"], out="no")
    assert not Path("no").exists()


def test_rescoring_keeps_keys_order_and_texts(inside):
    options = [*SMALL, "mode=rescore", "eval.checkpoint_path=run/model", "rescore.hypothesis_file=nbest.py"]
    run("reference.yaml", [*options, "rescore.output_dir=first"], services=Services(rescore=score))
    run("reference.yaml", [*options, "rescore.output_dir=second", "seed=2"], services=Services(rescore=score))
    first, second = (read_nbest(Path(name) / "lm_scores.py.gz") for name in ("first", "second"))
    expected = [("utt-1", ["the king said", "the kings aid", "the king said"]), ("utt-2", [""])]
    assert [(utterance.seq_tag, [hyp.text for hyp in utterance.hypotheses]) for utterance in first] == expected
    numbers = [[next(iter(hyp.scores.values())) for hyp in utterance.hypotheses] for utterance in first]
    assert numbers[0][0] == numbers[0][2] != numbers[0][1]
    assert numbers[1] == [0.0]
    again = [[next(iter(hyp.scores.values())) for hyp in utterance.hypotheses] for utterance in second]
    assert again[0][0] != numbers[0][0], "another seed"


def test_the_command_line_takes_the_tree(inside, capsys):
    settings = [*SMALL, "mode=rescore", "rescore.hypothesis_file=nbest.py", "rescore.output_dir=cli"]
    settings.append("eval.checkpoint_path=run/model")
    with pytest.raises(ValueError, match="it needs the `dlm` command"):
        train_verb(settings, config=Path("reference.yaml"))
    train_verb(settings, config=Path("reference.yaml"), services=Services(rescore=score))
    assert Path("cli/lm_scores.py.gz").is_file()
    train_verb(["trainer.accelerator=cpu"], config=Path("reference.yaml"), print_config=True)
    assert "CONFIG" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["trainer.max_stepss=3"], "max_steps"),
        (["checkpointing.save_dir=/PLACEHOLDER"], r"checkpointing\.save_dir: got '/PLACEHOLDER'"),
        (["data.returnn_train_config.corpus_file=[gone.txt]"], r"gone\.txt: no such file \(data\.returnn_train_config"),
        (["mode=ppl_eval"], r"eval\.checkpoint_path: got ''"),
        (["mode=ppl_eval", "eval.checkpoint_path=gone"], "gone"),
        (
            ["mode=rescore", "rescore.hypothesis_file=gone.py", "eval.checkpoint_path=run/model"],
            r"gone\.py: no such file",
        ),
        (
            ["mode=sample_eval", "eval.checkpoint_path=run/model", "sampling.predictor=euler"],
            "expected 'ddpm_cache' or 'ddpm'",
        ),
        (["mode=sample_eval", "eval.checkpoint_path=run/model", "sampling.steps=0"], r"sampling\.steps 0"),
        (["mode=ppl_eval", "eval.checkpoint_path=run/model", "data.returnn_valid_config=null"], "got no set"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(inside, options, message):
    before = sorted(Path().iterdir())
    with pytest.raises((ValueError, OSError), match=message):
        run("reference.yaml", [*SMALL, "checkpointing.save_dir=fresh", *options], services=Services(rescore=score))
    assert sorted(Path().iterdir()) == before


def test_a_foreign_vocabulary_is_an_error(inside, text_file, tmp_path):
    from returnn_bridge.vocab import train_vocab

    train_vocab([text_file], size=40, out=tmp_path)
    other = f"data.returnn_valid_config.dev.datasets.ogg_zip.targets.model_file={tmp_path / 'spm.model'}"
    with pytest.raises(ValueError, match="is not the vocabulary of data.returnn_train_config"):
        run("reference.yaml", [*SMALL, other], out="fresh")
    with pytest.raises(ValueError, match="is not the vocabulary of the model"):
        run("reference.yaml", [*SMALL, other, "mode=ppl_eval", "eval.checkpoint_path=run/model"], out="fresh")


def test_a_gpu_that_is_not_there_is_named_with_the_way_out(inside, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for mode in ("train", "ppl_eval"):
        with pytest.raises(ValueError, match=r"expected trainer\.accelerator=cpu"):
            run(
                "reference.yaml",
                [*SMALL, f"mode={mode}", "trainer.accelerator=cuda", "eval.checkpoint_path=run/model"],
                out="fresh",
            )


def test_a_run_is_not_continued_against_the_trees_will(inside):
    with pytest.raises(ValueError, match=r"checkpointing\.resume_from_ckpt: got false, but run holds a run"):
        run("reference.yaml", [*SMALL, "checkpointing.resume_from_ckpt=false"])


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference files are not here")
def test_the_reference_file_runs_in_all_modes(inside):
    """As it stands: only paths, sizes and the device are set."""
    vocabs = [
        "data.returnn_train_config.orth_vocab.model_file=spm.model",
        "data.returnn_train_config.corpus_file=[a.txt, b.txt]",
    ]
    for name in ("dev", "devtrain"):
        place = f"data.returnn_valid_config.{name}.datasets.ogg_zip"
        vocabs += [
            f"{place}.path=[{name}.zip]",
            f"{place}.targets.model_file=spm.model",
            f"{place}.fixed_random_subset=140",
        ]
    common = [*vocabs, *SMALL, "checkpointing.save_dir=reference", "eval.checkpoint_path=reference/model"]
    common += ["rescore.hypothesis_file=nbest.py", "rescore.output_dir=reference", "loader.eval_batch_size=3"]
    for mode in ("train", "ppl_eval", "sample_eval", "rescore"):
        run(REFERENCE / "mdlm_returnn_asr.yaml", [*common, f"mode={mode}"], services=Services(rescore=score))
    found = {path.name for path in Path("reference").iterdir()}
    assert found >= {"model", "best", "checkpoints", "scores.tsv", "perplexity.json", "samples.txt", "lm_scores.py.gz"}
    assert all(itertools.chain(found))
