"""The commands that are interrupted: every verb of `dlm` that leaves files, and one that only prints.

    for command in commands(inputs): command.name, command.arguments

Each runs in a new folder and writes to `out/` there; inputs are given by absolute paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

from interruptions_parts.inputs import PIECES, Inputs


@dataclass(frozen=True)
class Command:
    """A command line and facts about its outputs."""

    name: str
    arguments: tuple[str, ...]
    growing: tuple[str, ...] = ()
    """Patterns of files that hold a complete earlier state while the command runs."""
    prints: bool = False
    """Whether the result is printed and there are no files."""

    @property
    def verb(self) -> str:
        return self.arguments[0]

    def grows(self, file: str) -> bool:
        return any(fnmatch(file, pattern) for pattern in self.growing)


RUN = ("out/checkpoints/*", "out/progress.json", "out/*.tsv", "out/best/*", "out/kept/*", "out/config.json")
COST = ("*.cost.json",)
ROW = "+ masked=am:1,masked,words"


def commands(made: Inputs) -> list[Command]:
    found: list[Command] = []

    def add(name: str, *arguments: object, **facts: object) -> None:
        found.append(Command(name, tuple(map(str, arguments)), **facts))  # type: ignore[arg-type]

    am, model, refs = f"am={made.lists}", f"masked={made.masked}", ("--refs", made.refs)
    settings = made.train_settings()
    add("vocab", "vocab", made.text, "--size", PIECES, "--out", "out/vocab")
    add("tokenize", "tokenize", made.corpus, "--vocab", made.vocab, "--out", "out/store.hdf")
    add("bliss", "bliss", made.bliss, "--out", "out/text.txt.gz")
    add("oggzip", "oggzip", made.audio, "--transcripts", made.transcripts, "--out", "out/dev.zip")
    add("ngram", "ngram", made.text, "--order", 3, "--out", "out/3gram.arpa")
    add("train", "train", "--preset", "demo_masked:tiny", "--out", "out", *settings, growing=RUN)
    add("average", "average", *made.kept, "--out", "out/averaged")
    add("pretrained", "pretrained", made.published, "--vocab", made.vocab, "--out", "out/model")
    add("perplexity", "perplexity", made.masked, made.valid, "--passes", 4, "--out", "out/perplexity.json")
    add("sample", "sample", made.masked, "--length", 10, "--count", 5, "--steps", 30, "--out", "out/sample.txt")
    add("clip", "clip", made.block, made.valid, "--width", 0.5, prints=True)
    score = ("score", am, "--model", model, "--out")
    add("score.jsonl", *score, "out/scored.jsonl", growing=COST)
    add("score.jsonl.gz", *score, "out/scored.jsonl.gz", growing=COST)
    add("score.py.gz", *score, "out/scored.py.gz", growing=COST)
    add("score.ngram", "score", am, "--model", f"3gram={made.ngram}", "--out", "out/scored.jsonl", growing=COST)
    add("score.shard", *score, "out/part2.jsonl", "--shard", "2/2", growing=COST)
    add("merge", "merge", *made.parts, "--out", "out/merged.jsonl", "--out", "out/merged.py.gz")
    calibrated = ("--calibrate", made.scored, "--scales", made.scales)
    add("race", "race", am, "--model", model, *calibrated, "--out", "out/raced.jsonl", growing=COST)
    add("tune", "tune", made.scored, *refs, "--out", "out/scales.json")
    tables = [part for suffix in ("md", "csv", "json", "tex") for part in ("--out", f"out/wer.{suffix}")]
    best = ("--transcripts", "out/best.trn", "--transcripts", "out/best.py.gz")
    add("wer", "wer", made.scored, *refs, "--scales", f"masked={made.scales}", *tables, *best)
    add("overview", "overview", f"dev={made.table}", "--out", "out/overview.md", "--out", "out/overview.json")
    both = [f"{kind}{rest}" for kind in ("tune", "test") for rest in ("", "-refs")]
    sets = [part for name, value in zip(both, (am, made.refs) * 2) for part in (f"--{name}", value)]
    lms = ("--lm", model, "--lm", f"3gram={made.ngram}", "--row", "am only=am:1", "--row", ROW)
    add("rescore", "rescore", *sets, *lms, "--out", "out", growing=COST)
    add("convert", "convert", made.scored, "out/converted.py.gz", "--score", "masked")
    return found


def chosen(all_commands: list[Command], verbs: list[str]) -> list[Command]:
    """The commands with these verbs or names, or all if none are given."""

    def known(command: Command) -> set[str]:
        return {command.verb, command.name}

    for verb in verbs:
        if not any(verb in known(command) for command in all_commands):
            names = ", ".join(command.name for command in all_commands)
            raise SystemExit(f"--verb {verb}: no such verb; expected one of {names}")
    return [command for command in all_commands if not verbs or known(command) & set(verbs)]
