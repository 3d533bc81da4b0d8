"""The verbs that use models: `dlm score`, `merge`, `race`, `tune`, `wer`, `overview`, `rescore`, `ngram`, `convert`. Each is a plain function."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from diffusion_lm.commands import models as model_commands
from diffusion_lm.commands.runner import Command
from rescore.commands.options import (
    BatchTokens,
    Device,
    Estimator,
    ListFormat,
    Passes,
    Pieces,
    Precision,
    Replicates,
    Seed,
    Sources,
)
from rescore.commands.race import race
from rescore.lms.open import describe_short, open_scorer
from returnn_bridge.files import check_outputs, lock, write_text


def score(
    nbest: Sources,
    model: Annotated[
        str,
        typer.Option(
            help="Model folder of ours, .arpa / KenLM file, or Hugging Face folder; NAME=PATH names its score."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Result: .jsonl (all scores) or .py (the new score alone), also .gz.")],
    estimator: Estimator = "auto",
    passes: Passes = None,
    replicates: Replicates = 4,
    seed: Seed = 1,
    device: Device = "cpu",
    precision: Precision = "32",
    batch_tokens: BatchTokens = None,
    pieces: Pieces = False,
    new_only: Annotated[
        bool, typer.Option("--new-only", help="A .jsonl holds the new score alone, to be read together with others.")
    ] = False,
    shard: Annotated[str, typer.Option(help="NUMBER/COUNT, such as 2/8: score that part only, for `dlm merge`.")] = "",
    list_format: ListFormat = None,
) -> None:
    """Score every hypothesis with a language model. Interrupted, the same command goes on to the same bytes."""
    from rescore.score_file import score_file

    check_outputs([out], [*list_files(nbest), *list_files([model])])
    scorer = open_scorer(
        model,
        estimator=estimator,
        passes=passes,
        replicates=replicates,
        seed=seed,
        device=device,
        precision=precision,
        batch_tokens=batch_tokens,
        pieces=pieces,
    )
    run = score_file(nbest, scorer, out, shard=parse_shard(shard), new_only=new_only, format=list_format)
    unknown = "" if run.unknown is None else f", unknown to the model: {run.unknown}"
    print(
        f"{run.note()}{run.out}: {len(run.lists)} utterances, {run.hypotheses} hypotheses, {run.seconds:.1f} s, "
        f"{describe_short(scorer)}{unknown}"
    )


def merge(
    parts: Annotated[list[Path], typer.Argument(help="The files of all shards of `dlm score --shard`.")],
    out: Annotated[list[Path], typer.Option(help="Result, as of `dlm score`; several forms may be given.")],
) -> None:
    """Put the parts of a sharded scoring together: the same bytes as scored in one go."""
    from rescore.score_file import merge_parts, score_target

    check_outputs(map(score_target, out), parts)
    runs = [merge_parts(parts, target) for target in out]
    for run in runs:
        print(f"{run.note()}{run.out}: {len(run.lists)} utterances, {run.hypotheses} hypotheses, {run.seconds:.1f} s")


def perplexity(
    model: Annotated[Path, typer.Argument(help="Model folder, or an .arpa / KenLM file.")],
    text: Annotated[list[Path], typer.Argument(help="Text files (plain or .gz), one sentence a line.")],
    passes: Annotated[int, typer.Option(help="Network passes per sentence for a bound (at least 2).")] = 8,
    seed: Seed = 1,
    device: Device = "cpu",
    batch_tokens: BatchTokens = None,
    out: Annotated[Path | None, typer.Option(help="Also write the result as JSON here.")] = None,
) -> None:
    """Perplexity of text: exact for autoregressive models and n-grams, a bound with its error bar for diffusion models."""
    if model.is_file():
        from rescore.lms.ngram import ngram_perplexity

        check_outputs([] if out is None else [out], [model, *text])
        result = ngram_perplexity(model, text)
        if out is not None:
            values = {**result.__dict__, "perplexity_per_word": result.per_word}
            write_text(out, json.dumps(values, indent=1) + "\n")
        print(result.summary())
        return
    from rescore.lms.network import usual_batch_tokens

    budget = usual_batch_tokens(device) if batch_tokens is None else batch_tokens
    model_commands.perplexity(model, text, passes=passes, seed=seed, device=device, batch_tokens=budget, out=out)


def estimators() -> None:
    """List the ways to measure a diffusion score, their targets and whether they are unbiased."""
    from rescore.estimators import ESTIMATORS

    for name, kind in ESTIMATORS.items():
        bias = "unbiased" if kind.unbiased else "biased"
        first = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        passes = kind.usual_passes or kind.cost
        print(f"{name:16s} target {kind.target}, {bias}, passes: {passes}. {first}")


def tune(
    nbest: Sources,
    refs: Annotated[Path, typer.Option(help="References: .py, Kaldi's text or .txt, .trn, .stm, .ctm, .json, .jsonl.")],
    out: Annotated[Path, typer.Option(help="Scales as JSON.")],
    free: Annotated[
        list[str] | None,
        typer.Option(
            help="SOURCE or SOURCE:LOW:HIGH to tune (default: all but the first, and words). Without a range: "
            "0 ... 3, words and tokens:SOURCE -10 ... 10, a score named prior -2 ... 0."
        ),
    ] = None,
    fixed: Annotated[
        list[str] | None, typer.Option(help="SOURCE:SCALE that stays (default: the first source with 1).")
    ] = None,
    row: Annotated[str, typer.Option(help="All in one instead: SOURCE:SCALE,SOURCE,... as in `dlm rescore`.")] = "",
    list_format: ListFormat = None,
) -> None:
    """Choose the scales with the fewest word errors: exact line searches, no grid step to miss a minimum."""
    from rescore.combination import tuning
    from rescore.combination.rows import RowSpec
    from rescore.combination.scales import WORDS
    from rescore.nbest import check_no_lists, read_sources
    from rescore.nbest.references import attach_reference_file
    from rescore.report.table import format_scales

    if row and (free or fixed):
        raise ValueError(f"--row {row} and --free or --fixed; expected one of the two ways to say it")
    check_outputs([out], [*list_files(nbest), refs])
    check_no_lists([out])
    lists = attach_reference_file(read_sources(nbest, format=list_format), refs)
    names = list(lists[0].hypotheses[0].scores)
    given = RowSpec.from_terms("fixed", ",".join(fixed).split(",")).fixed if fixed else {names[0]: 1.0}
    terms = ",".join(free).split(",") if free else [name for name in [*names, WORDS] if name not in given]
    chosen = RowSpec.from_terms("free", terms).free
    if len(given) < len(fixed or []):
        raise ValueError(f"--fixed {' '.join(fixed or [])}; expected SOURCE:SCALE, each source once")
    if len(chosen) < len(free or []):
        raise ValueError(f"--free {' '.join(free or [])}; expected SOURCE or SOURCE:LOW:HIGH, each source once")
    spec = RowSpec.from_terms("tuned", row.split(",")) if row else RowSpec("tuned", given, chosen)
    result = tuning.tune(lists, free=spec.free, fixed=spec.fixed)
    result.scales.save(out)
    print(f"{out}: WER {result.wer_percent:.2f} % on {len(lists)} utterances with {format_scales(result.scales)}")
    for note in spec.notes():
        print(note)
    for warning in result.warnings:
        print(f"warning: {warning}")


def wer(
    nbest: Sources,
    refs: Annotated[Path, typer.Option(help="References: .py, Kaldi's text or .txt, .trn, .stm, .ctm, .json, .jsonl.")],
    scales: Annotated[
        list[str] | None,
        typer.Option(
            help="Scales as a row: a file of `dlm tune`, NAME=FILE, or given as NAME=SOURCE:SCALE,SOURCE:SCALE "
            "(default: the first hypotheses as listed)."
        ),
    ] = None,
    out: Annotated[
        list[Path] | None, typer.Option(help="Also write the table: .md, .csv, .json or .tex; several may be given.")
    ] = None,
    transcripts: Annotated[
        list[Path] | None,
        typer.Option(help="Write the winners of the last row: .trn, .ctm, .stm, .txt, .py; several may be given."),
    ] = None,
    baseline: Annotated[str, typer.Option(help="Row that the changes are against (default: the first).")] = "",
    title: Annotated[str, typer.Option(help="Of the table.")] = "WER",
    seed: Seed = 1,
    list_format: ListFormat = None,
) -> None:
    """Word error rate table: S/D/I, oracle, paired bootstrap intervals against the first row."""
    from rescore.combination.rows import check_row_name
    from rescore.combination.scales import Scales, best_texts
    from rescore.nbest import check_no_lists, read_sources
    from rescore.nbest.reference_formats import transcript_format
    from rescore.nbest.references import attach_reference_file, check_transcripts, write_transcripts
    from rescore.pipeline import seconds_of, unknown_in
    from rescore.report.table import ResultTable, evaluate, table_suffix
    from rescore.score_file import recorded

    for path in out or []:
        table_suffix(path)
    for path in transcripts or []:
        transcript_format(path)
    outputs = [*(out or []), *(transcripts or [])]
    check_outputs(outputs, [*list_files(nbest), refs, *filter(None, map(scales_file, scales or []))])
    check_no_lists(outputs)
    lists = attach_reference_file(read_sources(nbest, format=list_format), refs)
    rows = {"first in list": Scales({next(iter(lists[0].hypotheses[0].scores)): 0.0})}
    for item in scales or []:
        name, row_scales = parse_scales(item)
        check_row_name(name)
        if name in rows:
            raise ValueError(f"--scales {item}: a row named {name!r} is there already; expected different names")
        rows[name] = row_scales
    known = recorded(nbest, format=list_format)
    measured = evaluate(lists, rows, baseline=baseline or "first in list", seed=seed, seconds=seconds_of(rows, known))
    table = ResultTable(
        title,
        measured,
        baseline=baseline or "first in list",
        scales_from="as given",
        metadata={
            "nbest": nbest,
            "refs": str(refs),
            "seed": seed,
            "models": {name: record.facts for name, record in known.items()},
        },
        unknown=unknown_in(known),
    )
    best = best_texts(lists, list(rows.values())[-1])
    for path in transcripts or []:
        check_transcripts(path, best)
    for path in out or []:
        table.save(path)
    for path in transcripts or []:
        write_transcripts(path, best)
    print(table.to_markdown())


def rescore(
    tune: Annotated[
        list[str], typer.Option(help="N-best lists to tune scales on; several aligned files as NAME=PATH.")
    ],
    tune_refs: Annotated[Path, typer.Option(help="Their references.")],
    test: Annotated[list[str], typer.Option(help="N-best lists to report on.")],
    test_refs: Annotated[Path, typer.Option(help="Their references.")],
    out: Annotated[Path, typer.Option(help="Folder for scores, scales, tables and the report.")],
    lm: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH of a language model, with @ESTIMATOR[:PASSES] after it if wanted."),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(
            help="A row of the table: NAME=SOURCE:SCALE,SOURCE,SOURCE:LOW:HIGH,... (default: each LM and each pair). A source "
            "without a scale is tuned, within 0 ... 3, words and tokens:SOURCE -10 ... 10, a score named prior -2 ... 0."
        ),
    ] = None,
    baseline: Annotated[str, typer.Option(help="Row that the changes are measured against (default: the first).")] = "",
    title: Annotated[str, typer.Option(help="Of the table.")] = "WER",
    estimator: Estimator = "auto",
    passes: Passes = None,
    replicates: Replicates = 4,
    seed: Seed = 1,
    device: Device = "cpu",
    precision: Precision = "32",
    batch_tokens: BatchTokens = None,
    pieces: Pieces = False,
    list_format: ListFormat = None,
) -> None:
    """Score, tune and report in one go: lists and language models in, a WER table and an HTML report out."""
    from rescore import pipeline
    from rescore.combination.rows import RowSpec, file_name
    from rescore.nbest import split_source
    from rescore.report.page import write_report
    from rescore.report.table import TABLE_SUFFIXES

    rows = [RowSpec.parse(text) for text in row or []]
    scorers = {}
    inputs: list[str | Path] = [*list_files([*tune, *test]), tune_refs, test_refs]
    for item in lm or []:
        path, at, how = ("", "", "") if os.path.exists(split_source(item)[1]) else item.rpartition("@")
        own_estimator, _, count = how.partition(":")
        inputs += list_files([path if at else item])
        scorer = open_scorer(
            path if at else item,
            estimator=own_estimator if at else estimator,
            passes=parse_passes(item, count) if at else passes,
            replicates=replicates,
            seed=seed,
            device=device,
            precision=precision,
            batch_tokens=batch_tokens,
            pieces=pieces,
            chosen=bool(at),
        )
        if scorer.name in scorers:
            raise ValueError(f"--lm {item}: the name {scorer.name!r} is taken; expected NAME=PATH with different names")
        scorers[scorer.name] = scorer
    check_outputs(pipeline.output_files(out, list(scorers)), inputs)
    with lock(out / "report.html"):  # the files of two runs in one folder would belong to different tables
        result = pipeline.rescore(
            tune_sources=tune,
            tune_references=tune_refs,
            test_sources=test,
            test_references=test_refs,
            lms=scorers,
            out=out,
            rows=rows,
            baseline=baseline,
            seed=seed,
            title=title,
            command=shlex.join(["dlm", *sys.argv[1:]]),
            format=list_format,
        )
        (out / "scales").mkdir(exist_ok=True)
        for name, scales in result.scales.items():
            scales.save(out / "scales" / f"{file_name(name)}.json")
        for suffix in TABLE_SUFFIXES:
            result.table.save(out / f"wer{suffix}")
        write_report(out / "report.html", result)
    for note in result.notes:
        print(note)
    print(result.table.to_markdown())
    for name, tuned in result.tuned.items():
        for warning in tuned.warnings:
            print(f"warning: row {name!r}: {warning}")
    print(f"\nreport: {out / 'report.html'}")


def ngram(
    text: Annotated[list[Path], typer.Argument(help="Text files (plain or .gz), one sentence a line.")],
    out: Annotated[Path, typer.Option(help="ARPA file.")],
    order: Annotated[int, typer.Option(help="Longest n-gram.")] = 4,
) -> None:
    """Train a Kneser-Ney n-gram, the baseline every neural LM has to beat."""
    from rescore.lms.ngram import train_ngram

    check_outputs([out], text)
    train_ngram(text, order=order, out=out)
    print(f"{out}: {order}-gram")


def overview(
    tables: Annotated[
        list[str], typer.Argument(help="Tables in .json of the same rows, each as SET=FILE; one column a set.")
    ],
    out: Annotated[list[Path], typer.Option(help="Result: .md, .csv, .json or .tex; several may be given.")],
    title: Annotated[str, typer.Option(help="Of the table.")] = "WER %",
    tuned_on: Annotated[str, typer.Option(help="The set that the scales are from; it gets a mark.")] = "",
) -> None:
    """Put the WER tables of several sets side by side."""
    from rescore.nbest import check_no_lists
    from rescore.report.overview import read_overview
    from rescore.report.table import table_suffix

    for path in out:
        table_suffix(path)
    check_outputs(out, [item.partition("=")[2] for item in tables])
    check_no_lists(out)
    found = read_overview(tables, title=title, tuned_on=tuned_on)
    for path in out:
        found.save(path)
    print(found.to_markdown())


def convert(
    source: Annotated[str, typer.Argument(help="N-best file, PATH or NAME=PATH.")],
    target: Annotated[Path, typer.Argument(help="Where to: .py, .jsonl, .json (mlm-scoring), each also .gz.")],
    score: Annotated[
        str | None, typer.Option(help="Which score, for formats that hold one (default: the only one).")
    ] = None,
    list_format: ListFormat = None,
    to_format: Annotated[
        str | None,
        typer.Option(
            help="Format of the file written: returnn-py, json-lines or mlm-scoring (default: by the suffix)."
        ),
    ] = None,
) -> None:
    """Convert an N-best file: the same utterances, order and texts, floats with all their digits (nan and inf from .py to .py)."""
    from rescore.nbest import iterate_nbest, split_source, write_nbest
    from rescore.nbest.formats import format_to_write

    name, path = split_source(source)
    check_outputs([target], [path])
    odd = format_to_write(target, to_format).non_finite
    lists = iterate_nbest(path, name=name, allow_non_finite=odd, format=list_format)
    write_nbest(target, lists, score=score, allow_non_finite=odd, format=to_format)
    print(f"{target}: written")


def list_files(sources: Sequence[str]) -> list[str]:
    """The files of PATH or NAME=PATH."""
    from rescore.nbest import split_source

    return [split_source(source)[1] for source in sources]


def scales_file(item: str) -> str:
    """The file that an option `--scales` names, as in `parse_scales`; "" if it gives its scales itself."""
    rest = item.rpartition("=")[2]
    return next((path for path in (item, rest) if Path(path).is_file()), "")


def parse_shard(text: str) -> tuple[int, int] | None:
    """(index from 0, count) of "NUMBER/COUNT"."""
    if not text:
        return None
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard {text!r}; expected NUMBER/COUNT with 1 <= NUMBER <= COUNT")
    return int(number) - 1, int(count)


def parse_scales(item: str) -> tuple[str, Any]:
    """(name of the row, scales) of FILE, NAME=FILE or NAME=SOURCE:SCALE,SOURCE:SCALE."""
    from rescore.combination.rows import RowSpec
    from rescore.combination.scales import Scales

    name, equals, rest = item.rpartition("=")
    if not equals or Path(item).is_file():
        return Path(item).stem, Scales.load(item)
    if Path(rest).is_file() or rest.endswith(".json"):
        return name, Scales.load(rest)
    row = RowSpec.parse(item)
    if row.free:
        raise ValueError(f"--scales {item}: {next(iter(row.free))!r} has no scale; expected SOURCE:SCALE for each")
    return name, Scales.from_named(row.fixed)


def parse_passes(item: str, text: str) -> int | None:
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--lm {item}: {text!r} passes; expected a whole number") from None


def rescore_mode(
    hypothesis_file: str, output: Path, model_folder: str, *, estimator: str, passes: int, seed: int, device: str
) -> None:
    """Mode `rescore` of a configuration of the MDLM kind: new scores for a RETURNN N-best file, in its form."""
    from rescore.nbest import iterate_nbest
    from rescore.score_file import score_file

    # RETURNN writes the labels of the recogniser, which may be pieces or words.
    pieces = any(
        "▁" in hypothesis.text for utterance in iterate_nbest(hypothesis_file) for hypothesis in utterance.hypotheses
    )
    scorer = open_scorer(
        model_folder,
        estimator=estimator,
        passes=passes,
        replicates=1,
        pieces=pieces,
        seed=seed,
        chosen=False,
        device=device,
    )
    run = score_file([hypothesis_file], scorer, output)
    print(
        f"{run.out}: {len(run.lists)} utterances, {run.hypotheses} hypotheses, {run.seconds:.1f} s, {describe_short(scorer)}"
    )


def judge_mode(model: str, *, device: str) -> Callable[[Sequence[str]], str]:
    """What measures the generative perplexity of samples."""
    from rescore.lms.generative_perplexity import open_judge

    return open_judge(model, device=device)


model_commands.provide_rescore(rescore_mode)
model_commands.provide_judge(judge_mode)

COMMANDS: list[Command] = [score, merge, race, tune, wer, overview, rescore, ngram, convert, estimators]
ALL_COMMANDS: list[Command] = [
    *(c for c in model_commands.COMMANDS if c is not model_commands.perplexity),
    perplexity,
    *COMMANDS,
]
