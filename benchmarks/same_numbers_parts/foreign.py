"""Configuration trees of MDLM and BD3-LM runs in all modes, the configurations of presets, and corpora in Bliss."""

from __future__ import annotations

from same_numbers_parts.item import Item, Places, Run

PRESETS = "demo_ar demo_masked librispeech_masked".split()
SUFFIXES = "adaptive ar bf16 block16 block4 d3pm fp32 hybrid medium sedd tiny uniform".split()

SMALL = """trainer.accelerator=cpu trainer.precision=32 trainer.max_steps=4 trainer.val_check_interval=2
 loader.num_workers=0 model.hidden_size=32 model.cond_dim=16 model.n_blocks=2 model.n_heads=2 optim.lr=0.01
 lr_scheduler.num_warmup_steps=2 training.ema=0.5""".split()
MDLM = """returnn_batching.batch_size=400 callbacks.checkpoint_every_n_steps.every_n_train_steps=2
 checkpointing.save_dir=run data.returnn_train_config.corpus_file=[DATA/train.txt,DATA/more.txt]
 data.returnn_train_config.orth_vocab.model_file=VOCAB
 data.returnn_valid_config.dev.datasets.ogg_zip.path=[ZIP]
 data.returnn_valid_config.dev.datasets.ogg_zip.targets.model_file=VOCAB loader.eval_batch_size=3 sampling.steps=8
 rescore.hypothesis_file=DATA/test.am.py rescore.output_dir=scored rescore.sampling_number=3""".split()
BLOCKS = """loader.batch_size=8 loader.global_batch_size=8 loader.eval_batch_size=3 model.length=64
 data.train=DATA/train.txt data.valid=DATA/dev.txt data.tokenizer_name_or_path=VOCAB""".split()
# What trees of other algorithms say instead, as BD3-LM writes them.
ALGORITHMS = {
    "bd3lm": "",
    "mdlm": """algo.name=mdlm algo.cross_attn=false algo.var_min=false block_size=64
     algo.sampler=analytic""",
    "sedd": """algo.name=sedd algo.parameterization=sedd algo.time_conditioning=true algo.cross_attn=false
     algo.sampler=analytic block_size=64""",
    "ar": """algo.name=ar algo.parameterization=ar algo.causal_attention=true algo.ignore_bos=false
     algo.cross_attn=false algo.sampler=ar""",
    "clip": "algo.clip_search_widths=[0.5,0.9] algo.clip_search_delta=0.1 training.resample=true",
}
TRAINED = ("run/model/*.safetensors", "run/best/*.safetensors", "run/scores.tsv", "run/sub_epochs.tsv")


def foreign_items(places: Places) -> list[Item]:
    return [*_configurations(places), *_corpora(places), _mdlm(places), *_blocks(places)]


def _configurations(places: Places) -> list[Item]:
    names = [*PRESETS, *(f"{preset}:{suffix}" for preset in PRESETS[1:] for suffix in SUFFIXES)]
    steps = tuple(Run(("train", "--preset", name, "--print-config"), out=f"{name}.config") for name in names)
    return [Item("configurations", steps, ("*.config",), quick=True)]


def _corpora(places: Places) -> list[Item]:
    corpus = places.text("dev.xml")
    steps = (
        Run(("oggzip", corpus, "--text-only", "--out", "dev.zip")),
        Run(("bliss", corpus, "--out", "dev.txt")),
        Run(("bliss", corpus, "--out", "dev.py")),
    )
    return [Item("corpora", steps, ("dev.txt", "dev.py"), quick=True)]


def _mdlm(places: Places) -> Item:
    settings = [*SMALL, *(_filled(places, item) for item in MDLM)]
    command = ("train", "--config", places.text("mdlm.yaml"), *settings)
    trained = (*command, "eval.checkpoint_path=run/model")
    steps = (
        Run((*command, "--print-config"), out="tree.config"),
        Run(command),
        Run((*trained, "mode=ppl_eval", "checkpointing.save_dir=perplexity")),
        Run((*trained, "mode=sample_eval", "checkpointing.save_dir=samples")),
        Run(
            (
                *trained,
                "mode=sample_eval",
                "checkpointing.save_dir=sliding",
                "sampling.semi_ar=true",
                "sampling.stride_length=2",
            )
        ),
        Run((*trained, "mode=rescore")),
    )
    files = (*TRAINED, "tree.config", "perplexity/*.json", "samples/*.txt", "sliding/samples.txt", "scored/*.py.gz")
    return Item("foreign.mdlm", steps, files, needs=("vocab", "corpora"), quick=True)


def _blocks(places: Places) -> list[Item]:
    items = []
    for name, own in ALGORITHMS.items():
        settings = [*SMALL, *(_filled(places, item) for item in BLOCKS), *own.split(), "checkpointing.save_dir=run"]
        command = ("train", "--config", places.text("bd3lm.yaml"), *settings)
        training = (*command, "mode=train", "data.wrap=false")
        trained = (*command, "eval.checkpoint_path=run/model")
        steps = [
            Run((*training, "--print-config"), out="tree.config"),
            Run(training),
            Run((*trained, "mode=ppl_eval", "checkpointing.save_dir=packed")),
            Run((*trained, "mode=ppl_eval", "data.wrap=false", "checkpointing.save_dir=lines")),
            Run(
                (
                    *trained,
                    "mode=sample_eval",
                    "checkpointing.save_dir=samples",
                    "algo.T=6",
                    "sampling.first_hitting=false",
                )
            ),
        ]
        if name == "bd3lm":
            hitting = (*trained, "mode=sample_eval", "checkpointing.save_dir=hitting", "sampling.nucleus_p=0.9")
            steps.append(Run(hitting))
        files = (*TRAINED, "tree.config", "*/perplexity.json", "*/samples.txt")
        items.append(Item(f"foreign.{name}-of-bd3lm", tuple(steps), files, needs=("vocab",), quick=name == "bd3lm"))
    return items


def _filled(places: Places, setting: str) -> str:
    zip_file = str(places.old / "corpora" / "dev.zip")
    vocab = f"{places.vocab}/spm.model"
    return setting.replace("DATA", str(places.data)).replace("VOCAB", vocab).replace("[ZIP]", f"[{zip_file}]")
