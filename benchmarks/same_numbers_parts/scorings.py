"""The items that score with every estimator of a model, measure perplexities and sample with every predictor.

Both trees use the models that the old one trained, so that only scoring, sampling and reading old model folders are
compared.
"""

from __future__ import annotations

from same_numbers_parts.item import Item, Places, Run

MASKS = """plain:4 pairs:5 systematic-k:4 fixed-k:4 control:5 sample-norm:4 global-norm:4 coupled:4 pll strided:3
 contrast:3 contrast:chain order:l2r order:confidence auto""".split()
SOME_MASKS = "control:5 pll strided:2 auto".split()
NOISE = "draws:4 one-pass auto".split()
# Models, and the estimators each takes. * marks what is part of --quick.
SCORED = {
    "*masked": MASKS,
    "time": MASKS,
    "score-eos": MASKS,
    "discrete": SOME_MASKS,
    "variables": SOME_MASKS,
    "linear": SOME_MASKS,
    "d3pm-subs": SOME_MASKS,
    "sedd": SOME_MASKS,
    "losses": SOME_MASKS,
    "*hybrid": NOISE,
    "hybrid-mask-only": ["draws:4", "auto"],
    "hybrid-nelbo": NOISE,
    "*gaussian": NOISE,
    "uniform-linear": NOISE,
    "*clip": ["draws:4", "auto"],
    "block16": ["draws:4", "auto"],
    "block-short-end": ["draws:4", "auto"],
    "block1": ["auto"],
    "*ar": ["auto"],
}
# Other settings of scoring, with the masked model.
SETTINGS = {
    "bf16": "am=DATA/test.am.py --precision bf16",
    "batches": "am=DATA/test.am.py --batch-tokens 100 --estimator plain --passes 3",
    "seed": "am=DATA/test.am.py --seed 7 --estimator control --passes 7 --replicates 3",
    "pieces": "am=DATA/test.pieces.py --pieces",
    "new-only": "am=DATA/test.am.py bigram=DATA/test.bigram.py --new-only",
    "exact": "am=DATA/test.short.py --estimator exact",
}
FEW = "--steps 8 --count 4"
SAMPLED = {
    "*masked": "ddpm_cache ddpm analytic certain-first uncertain-first".split(),
    "time": "ddpm_cache analytic certain-first".split(),
    "score-eos": "ddpm_cache ddpm analytic".split(),
    "variables": ["ddpm_cache"],
    "cosine": ["ddpm_cache"],
    "sedd": ["analytic"],
    "*hybrid": "ancestral greedy-tail".split(),
    "*gaussian": "ancestral greedy-tail".split(),
    "uniform-linear": ["ancestral"],
    "*clip": "first-hitting ancestral".split(),
    "block16": "first-hitting ancestral".split(),
    "*ar": [""],
}


def scoring_items(places: Places) -> list[Item]:
    """One item for each model."""
    return [*_scores(places), *_samples(places)]


def _scores(places: Places) -> list[Item]:
    items = []
    for marked, estimators in SCORED.items():
        name = marked.removeprefix("*")
        files = ("*.jsonl", "*.cost.json")
        steps = tuple(
            _score(places, places.model(name), how, "dev" if name == "masked" else "test") for how in estimators
        )
        items.append(Item(f"score.{name}", steps, files, needs=(f"train.{name}",), quick=marked != name))
    steps = tuple(
        Run(("score", *_words(places, options), "--model", f"lm={places.model('masked')}", "--out", f"{name}.jsonl"))
        for name, options in SETTINGS.items()
    )
    items.append(Item("score.settings", steps, ("*.jsonl", "*.cost.json"), needs=("train.masked",), quick=True))
    shipped = str(places.data / "masked-long")
    measure = Run(("perplexity", shipped, places.text("dev.txt"), "--passes", "3", "--seed", "2", "--out", "dev.json"))
    for name, estimators in {"usual": SOME_MASKS, "others": [how for how in MASKS if how not in SOME_MASKS]}.items():
        steps = tuple(_score(places, shipped, how, "test") for how in estimators)
        files = ("*.jsonl", "*.json")
        items.append(Item(f"score.shipped.{name}", (*steps, measure), files, quick=name == "usual"))
    ngram = (
        Run(("ngram", places.text("train.txt"), "--order", "3", "--out", "3gram.arpa")),
        Run(("perplexity", "3gram.arpa", places.text("dev.txt"), "--out", "dev.json")),
        _score(places, "3gram.arpa", "auto", "test"),
    )
    items.append(Item("ngram", ngram, ("*.arpa", "dev.json", "*.jsonl"), quick=True))
    return items


def _score(places: Places, model: str, how: str, part: str) -> Run:
    """With an estimator, NAME or NAME:PASSES; some names have a colon themselves."""
    name, passes = how, ""
    if how.rpartition(":")[2].isdigit():
        name, _, passes = how.rpartition(":")
    options = ["--estimator", name, *(["--passes", passes] if passes else []), "--replicates", "2"]
    lists = f"am={places.text(f'{part}.am.py')}"
    return Run(("score", lists, "--model", f"lm={model}", *options, "--out", f"{name.replace(':', '-')}.jsonl"))


def _samples(places: Places) -> list[Item]:
    items = []
    for marked, predictors in SAMPLED.items():
        name = marked.removeprefix("*")
        steps = []
        for predictor in predictors:
            chosen = ["--predictor", predictor] if predictor else []
            more = ["--self-correct", "3"] if predictor == "ancestral" and name in ("hybrid", "gaussian") else []
            more += ["--nucleus", "0.8"] if predictor == "ancestral" and name == "block16" else []
            wanted = [*FEW.split(), "--like", places.text("dev.txt"), *chosen, *more]
            out = predictor or "sample"
            steps.append(Run(("sample", places.model(name), *wanted, "--out", f"{out}.txt"), out=f"{out}.said.txt"))
        items.append(Item(f"sample.{name}", tuple(steps), ("*.txt",), needs=(f"train.{name}",), quick=marked != name))
    arguments = ("sample", places.model("ar"), "--length", "9", "--seed", "3", "--judge")
    steps = [
        Run((*arguments, judge), out=f"{place}.txt") for place, judge in enumerate((places.model("ar"), _arpa(places)))
    ]
    items.append(Item("judge", tuple(steps), ("*.txt",), needs=("train.ar", "ngram")))
    return items


def _arpa(places: Places) -> str:
    return str(places.old / "ngram" / "3gram.arpa")


def _words(places: Places, options: str) -> list[str]:
    return options.replace("DATA", str(places.data)).split()
