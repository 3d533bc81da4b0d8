"""The items that use scores: scales, tables, races, shards and conversions, also starting from old files."""

from __future__ import annotations

from same_numbers_parts.item import Copy, Cut, Item, Places, Run
from same_numbers_parts.trainings import LEFT, train_command

GROUP = 8  # utterances that `dlm score` appends at once


def table_items(places: Places) -> list[Item]:
    """All items of this module."""
    return [*_tables(places), *_rescoring(places), *_parts(places), *_stores(places)]


def _tables(places: Places) -> list[Item]:
    dev, test, refs = (places.text(name) for name in ("dev.am.py", "test.am.py", "dev.ref.py"))
    test_refs = places.text("test.ref.py")
    scored = places.old / "score.masked"
    auto, control = str(scored / "auto.jsonl"), str(scored / "control.jsonl")
    tune = (
        Run(("tune", control, "--refs", refs, "--out", "default.json")),
        Run(
            (
                "tune",
                auto,
                "--refs",
                refs,
                "--free",
                "lm:0:2",
                "--fixed",
                "am:0.5",
                "--fixed",
                "words:1",
                "--out",
                "chosen.json",
            )
        ),
        Run(
            (
                "tune",
                auto,
                f"bigram={places.text('dev.bigram.py')}",
                "--refs",
                refs,
                "--row",
                "am:1,lm,bigram,tokens:lm",
                "--out",
                "row.json",
            )
        ),
        Run(("tune", auto, "--refs", refs, "--out", "auto.json")),
    )
    options = ["--out", "wer.json", "--seed", "2", "--baseline", "given"]
    for scales in ("default.json", "given=am:1,lm:0.5,words:2", "chosen.json"):
        options += ["--scales", scales]
    for form in ("trn", "ctm", "py", "txt"):
        options += ["--transcripts", f"best.{form}"]
    wer = Run(("wer", control, "--refs", refs, *options))
    overview = Run(("overview", "dev=wer.json", "again=wer.json", "--out", "overview.json"))
    converted = tuple(
        Run(("convert", control, name, *options))
        for name, options in {"lm.py": ("--score", "lm"), "lm.json": ("--score", "lm"), "all.jsonl": ()}.items()
    )
    files = ("*.json", "best.*", "lm.py", "all.jsonl")
    tables = Item("tables", (*tune, wer, overview, *converted), files, needs=("score.masked",), quick=True)
    scales, calibrated = str(places.old / "tables" / "auto.json"), str(places.old / "calibration" / "usual.jsonl")
    masked, hybrid = places.model("masked"), places.model("hybrid")
    race = ("race", f"am={test}", "--model", f"lm={masked}")
    noise = (
        "race",
        f"am={test}",
        "--model",
        f"lm={hybrid}",
        "--estimator",
        "draws",
        "--passes",
        "8",
        "--replicates",
        "2",
    )
    races = (
        Run((*race, "--calibrate", f"am={dev}", "--scales", scales, "--out", "raced.jsonl")),
        Run((*race, "--calibrate", calibrated, "--scales", scales, "--out", "from-scores.jsonl")),
        Run(
            (
                *noise,
                "--ladder",
                "draws:2,draws:4",
                "--calibrate",
                f"am={dev}",
                "--scales",
                scales,
                "--out",
                "noise.jsonl",
            )
        ),
        Run(("wer", "raced.jsonl", "--refs", test_refs, "--scales", scales, "--out", "raced.wer.json")),
    )
    usual = Run(("score", f"am={dev}", "--model", f"lm={masked}", "--out", "usual.jsonl"))
    return [
        tables,
        Item("calibration", (usual,), ("usual.jsonl",), needs=("train.masked",)),
        Item(
            "race",
            races,
            ("*.jsonl", "*.race.json", "*.calibration/*.jsonl", "raced.wer.json"),
            needs=("tables", "calibration", "train.hybrid"),
        ),
    ]


def _rescoring(places: Places) -> list[Item]:
    """`dlm rescore` with models of every kind, and again by the new tree from the old tree's score files."""
    lms = {"masked": "@control:5", "ar": "", "hybrid": "@one-pass", "clip": "@draws:4"}
    arguments = ["rescore", "--replicates", "2", "--out", "out", "--lm", f"3gram={places.old / 'ngram' / '3gram.arpa'}"]
    for part in ("tune", "test"):
        name = "dev" if part == "tune" else "test"
        for source in ("am", "bigram"):
            arguments += [f"--{part}", f"{source}={places.text(f'{name}.{source}.py')}"]
        arguments += [f"--{part}-refs", places.text(f"{name}.ref.py")]
    for model, how in lms.items():
        arguments += ["--lm", f"{model}={places.model(model)}{how}"]
    run = Run(tuple(arguments))
    files = ("out/*.jsonl", "out/wer.json", "out/scales/*.json")
    needs = ("ngram", *(f"train.{model}" for model in lms))
    copies = tuple(
        Copy(places.old / "rescore" / "out" / name, f"out/{name}")
        for part in ("tune", "test")
        for model in ("3gram", "masked", "hybrid")
        for name in (f"{part}.{model}.jsonl", f"{part}.{model}.jsonl.cost.json")
    )
    again = Item("rescore.of-old", (*copies, run), files, needs=("rescore",), against="rescore", quick=True)
    return [Item("rescore", (run,), files, needs=needs, quick=True), again]


def _parts(places: Places) -> list[Item]:
    """Items for shards and for a scoring that the old tree began."""
    score = (
        "score",
        f"am={places.text('dev.am.py')}",
        "--model",
        f"lm={places.model('masked')}",
        "--estimator",
        "control",
    )
    score += ("--passes", "5", "--replicates", "2")
    shards = tuple(Run((*score, "--shard", f"{part}/2", "--out", f"{part}.jsonl")) for part in (1, 2))
    merge = Run(("merge", "1.jsonl", "2.jsonl", "--out", "merged.jsonl", "--out", "merged.py"))
    whole = places.old / "score.masked" / "control.jsonl"
    copies = tuple(
        Copy(places.old / "shards" / name, name)
        for part in "12"
        for name in (f"{part}.jsonl", f"{part}.jsonl.cost.json")
    )
    merged = ("merged.jsonl", "merged.py")
    goes_on = (Cut(whole, ".control.jsonl.partial", 1 + GROUP), Run((*score, "--out", "control.jsonl")))
    finished = (Copy(whole, "control.jsonl"), Run((*score, "--out", "control.jsonl")))
    one = ("control.jsonl",)
    needs = ("score.masked",)
    return [
        Item("shards", (*shards, merge), ("?.jsonl", *merged), needs=("train.masked",)),
        Item("merge.of-old", (*copies, merge), merged, needs=("shards",), against="shards"),
        Item("score.goes-on", goes_on, one, needs=needs, against="score.masked", quick=True),
        Item("score.is-complete", finished, one, needs=needs, against="score.masked"),
    ]


def _stores(places: Places) -> list[Item]:
    """Trainings from a token store: given by path, found beside the vocabulary, and made by the old tree."""
    settings = ("demo_masked:tiny:fp32", "data.text=[DATA/train.txt.gz]")
    tokenize = ("tokenize", places.text("train.txt.gz"), "--vocab")
    own = (
        Run((*tokenize, places.vocab, "--out", "train.hdf")),
        train_command(places, *settings, "data.store=train.hdf"),
    )
    copy = Copy(places.old / "vocab" / "vocab", "vocab")
    found = (copy, Run((*tokenize, "vocab")), train_command(places, *settings, "data.vocab=vocab"))
    given = train_command(places, *settings, f"data.store={places.old / 'store' / 'train.hdf'}")
    return [
        Item("store", own, LEFT, needs=("vocab",), quick=True),
        Item("store.found", found, LEFT, needs=("vocab",)),
        Item("store.of-old", (given,), LEFT, needs=("store",), against="store", quick=True),
    ]
