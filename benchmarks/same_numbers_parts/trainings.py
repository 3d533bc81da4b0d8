"""The items that train for six steps: every family, loss, schedule, time sampling and trainer setting.

Each item trains a model, measures its perplexity and samples from it. If weights are bit-equal after several steps of
Adam, then so were all gradients. The network has dropout and a weight average;
validations and checkpoints come every second step, and the sub-epochs are shorter than the run.
"""

from __future__ import annotations

from same_numbers_parts.item import Copy, Item, Places, Run

# name: preset, then settings, of the family where no section is named. A * before the name: part of --quick.
# BOUND: train on the bound itself.
BOUND = "weighting=nelbo sampling_max=1"
TRAININGS = """
*masked             demo_masked:tiny:fp32
reference           librispeech_masked:tiny:fp32 data.num_workers=0
*time               demo_masked:tiny:fp32 time_conditioning=true sampling_max=1 model.adaln=true
nelbo               demo_masked:tiny:fp32 BOUND shift=false
independent-times   demo_masked:tiny:fp32 antithetic_sampling=false
importance          demo_masked:tiny:fp32 BOUND importance_sampling=true
variables           demo_masked:tiny:fp32 BOUND change_of_variables=true time_conditioning=true model.adaln=true
discrete            demo_masked:tiny:fp32 BOUND T=10
*score-eos          demo_masked:tiny:fp32 BOUND score_eos=true
linear              demo_masked:tiny:fp32 schedule=linear weighting=nelbo schedule_options.sigma_max=5
geometric           demo_masked:tiny:fp32 schedule=geometric weighting=nelbo schedule_options.sigma_min=0.01
cosine              demo_masked:tiny:fp32 schedule=cosine weighting=nelbo
cosine-squared      demo_masked:tiny:fp32 schedule=cosinesqr weighting=nelbo schedule_options.eps=0.01
d3pm                demo_masked:d3pm:tiny:fp32 sampling_max=1
d3pm-subs  demo_masked:d3pm:tiny:fp32 sampling_max=1 subs_masking=true T=20 time_conditioning=true model.adaln=true
sedd                demo_masked:sedd:tiny:fp32 sampling_max=1
*losses             demo_masked:adaptive:tiny:fp32 pi_min=0.3 policy_width=32
curriculum          demo_masked:adaptive:tiny:fp32 policy=curriculum curriculum_steps=6 policy_width=32 focus=3
tilted              demo_masked:adaptive:tiny:fp32 BOUND policy=tilted beta=1.5 policy_width=32 policy_layers=1
*hybrid             demo_masked:hybrid:tiny:fp32
hybrid-clip         demo_masked:hybrid:tiny:fp32 weighting=clip p_uniform=0.3 gamma=2 max_weight=5 min_weight=0.1
hybrid-nelbo        demo_masked:hybrid:tiny:fp32 weighting=nelbo time_conditioning=false shift=false
hybrid-mask-only    demo_masked:hybrid:tiny:fp32 p_uniform=0 antithetic_sampling=false
uniform             demo_masked:uniform:tiny:fp32
uniform-linear      demo_masked:uniform:tiny:fp32 schedule=linear time_eps=0.01 time_conditioning=false
*gaussian           demo_masked:uniform:tiny:fp32 curriculum_steps=4 gamma_min=-3 gamma_max=-1
block4              demo_masked:block4:tiny:fp32
block16             demo_masked:block16:tiny:fp32 antithetic_sampling=false
block-short-end     demo_masked:block4:tiny:fp32 fill_last=false schedule_options.eps=0
block-resample      demo_masked:block4:tiny:fp32 sampling_min=0.3 sampling_max=0.8 resample=true
block1              demo_masked:block4:tiny:fp32 block_size=1
*clip               demo_masked:block4:tiny:fp32 trainer.clip_search.widths=[0.5,0.9] trainer.clip_search.delta=0.1
*ar                 demo_ar:tiny:fp32
ar-other            demo_masked:ar:tiny:fp32 model.adaln=true optim.schedule=constant optim.weight_decay=0
*bf16-keep          demo_masked:tiny trainer.keep_last=2 trainer.keep_best=1 trainer.max_steps=8
bf16-hybrid         demo_masked:hybrid:tiny
bf16-block          demo_masked:block4:tiny
bf16-ar             demo_ar:tiny
*accumulate         demo_masked:tiny:fp32 trainer.accumulate_grad_batches=2
recompute           demo_masked:tiny:fp32 trainer.activation_checkpointing=true
recompute-block     demo_masked:block4:tiny:fp32 trainer.activation_checkpointing=true
no-average          demo_masked:tiny:fp32 trainer.ema=0 trainer.gradient_clip=0
constant            demo_masked:tiny:fp32 optim.schedule=constant optim.beta1=0.8 model.dropout=0.2 seed=2
crop                demo_masked:tiny:fp32 data.too_long=crop data.max_seq_length=12
drop                demo_masked:tiny:fp32 data.max_seq_length=30 data.text=[DATA/train.txt.gz,DATA/more.txt]
two-sets            demo_masked:tiny:fp32 data.valid_text.more=DATA/more.txt trainer.limit_val_batches=2
"""
# These start from the weights of another item's model. PARTS: of parts of it.
PARTS = "preload_from_files.ar"
FURTHER = """
from-ar             demo_masked:tiny:fp32 init_from=MODEL/ar
from-ar-adaln       demo_masked:hybrid:tiny:fp32 init_from=MODEL/ar
preload             demo_masked:tiny:fp32 PARTS.filename=MODEL/ar PARTS.ignore_params_prefixes=[blocks]
"""
PARALLEL = """
ddp                 demo_masked:tiny:fp32 trainer.devices=2 trainer.strategy=ddp trainer.accumulate_grad_batches=2
fsdp                demo_masked:tiny:fp32 trainer.devices=2 trainer.strategy=fsdp
"""
RESUMED = "*masked *losses curriculum hybrid *gaussian *clip ar accumulate *bf16-keep crop time two-sets".split()

SECTIONS = "data model optim trainer init_from preload_from_files seed".split()
COMMON = """trainer.max_steps=6 trainer.val_check_interval=2 trainer.save_every=2 trainer.log_every=2 trainer.ema=0.5
 trainer.accelerator=cpu trainer.logger=none data.batch_size=600 data.max_seqs=12 data.partition_epoch=6 optim.lr=0.01
 optim.warmup_steps=2 data.valid_text.dev=DATA/dev.txt data.text=[DATA/train.txt]""".split()

WEIGHTS = ("run/model/*.safetensors", "run/best/*.safetensors", "run/kept/*/*.safetensors")
LEFT = (*WEIGHTS, "run/scores.tsv", "run/sub_epochs.tsv")


def training_items(places: Places) -> list[Item]:
    """All trainings, a vocabulary, and runs that the new tree continues after an interruption of the old one."""
    vocab = Run(("vocab", places.text("train.txt"), "--size", "200", "--out", "vocab"))
    items = [Item("vocab", (vocab,), ("vocab/spm.model",), quick=True)]
    commands: dict[str, Run] = {}
    for table in (TRAININGS, FURTHER, PARALLEL):
        for line in table.strip().splitlines():
            marked, preset, *settings = line.replace("BOUND", BOUND).replace("PARTS", PARTS).split()
            name = marked.removeprefix("*")
            commands[name] = train_command(places, preset, *settings)
            needs = ("vocab", "train.ar") if table is FURTHER else ("vocab",)
            use = uses(places)
            files = (*LEFT, "run/best/config.json", "run/model/config.json", "perplexity.json", "samples.txt")
            items.append(Item(f"train.{name}", (commands[name], *use), files, needs=needs, quick=marked != name))
    for marked in RESUMED:
        name = marked.removeprefix("*")
        command, quick = commands[name], marked != name
        stop = Run((*command.arguments, "--max-seconds", "0.001"), status=75)
        # It stops after step 1, then after step 3, behind a validation.
        items.append(Item(f"stopped.{name}", (stop, stop), needs=("vocab",), quick=quick))
        copy = Copy(places.old / f"stopped.{name}" / "run", "run")
        needs = (f"stopped.{name}", f"train.{name}")
        items.append(Item(f"resume.{name}", (copy, command), LEFT, needs=needs, against=f"train.{name}", quick=quick))
    mean = Run(("average", *(f"{places.model('masked')}/../{folder}" for folder in ("model", "best")), "--out", "mean"))
    items.append(Item("average", (mean,), ("mean/*.safetensors",), needs=("train.masked",)))
    return items


def train_command(places: Places, preset: str, *settings: str) -> Run:
    """The `dlm train` command with the common settings, then these."""
    chosen = [f"data.vocab={places.vocab}", *COMMON, *settings]
    return Run(("train", "--preset", preset, "--out", "run", *(_filled(places, item) for item in chosen)))


def uses(places: Places) -> tuple[Run, Run]:
    """The commands for perplexity and samples of the model in run/."""
    measure = ("perplexity", "run/model", places.text("dev.txt"), "--passes", "2", "--out", "perplexity.json")
    draw = ("sample", "run/model", "--length", "7", "--count", "3", "--steps", "6", "--out", "samples.txt")
    return Run(measure), Run(draw)


def _filled(places: Places, setting: str) -> str:
    key, equals, value = setting.partition("=")
    if key.partition(".")[0] not in SECTIONS:
        key = f"family.{key}"
    if value.startswith("MODEL/"):
        value = places.model(value.removeprefix("MODEL/"))
    return key + equals + value.replace("DATA", str(places.data))
