"""Sisyphus jobs for N-best lists: n-gram training, scoring in array jobs, tuning, tables. Each runs one `dlm` verb.

    scored = ScoreNbestJob(nbest, model=train.out_model, name="masked", estimator="control", passes=17, num_shards=16)
    scales = TuneScalesJob({"am": nbest, "masked": scored.out_scores}, references, row="am:1,masked,words").out_scales
    table = WerTableJob({"am": test, "masked": test_scored.out_scores}, test_references, {"+ masked": scales})

`out_nbest` of ScoreNbestJob has the tags, texts and order of its input with the new score. It is meant for
SearchCombineScoresJob of i6_experiments, i6_core's SearchTakeBestJob and RETURNN's torch_scale_tuning.py. Outputs that
are numbers (`out_wer`, `out_scale`) are Variables. Requirements (time, memory, GPUs) are in the attribute `rqmt`, which
is not hashed; a job that requires a GPU scores on it. Modules and classes must not be renamed, because their names are
part of the hashes of finished jobs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from sisyphus import Job, Task, tk

from returnn_bridge.jobs import prepare_process, resolved

_TABLES = (".md", ".csv", ".json", ".tex")


def _named(sources: dict[str, tk.Path]) -> list[str]:
    """The sources as NAME=PATH, which is how the verbs take them."""
    return [f"{name}={path.get_path()}" for name, path in sources.items()]


def _sources(row: Any) -> list[str]:
    """The names of the sources in a row of TuneScalesJob."""
    if isinstance(row, dict):
        return list(row)
    terms = [term.strip() for term in row.split(",")]
    heads = ["tokens:" if term.startswith("tokens:") else "" for term in terms]
    return [head + term.removeprefix(head).partition(":")[0] for head, term in zip(heads, terms)]


def _terms(row: Any) -> str:
    """A row or its scales as the verbs take them, a file or SOURCE:NUMBER,... from a dict {source: number}.

    Several numbers are a range to tune in, and None is the default range.
    """
    found = resolved(row)
    if not isinstance(found, dict):
        return str(found)
    numbers = {name: value if isinstance(value, list) else [value] for name, value in found.items()}
    return ",".join(
        ":".join([name, *(str(number) for number in own if number is not None)]) for name, own in numbers.items()
    )


def _set_wer(variables: dict[str, tk.Variable], table: tk.Path) -> None:
    """Set a Variable for each row of a WER table in JSON."""
    with open(table.get_path()) as file:
        rows = json.load(file)["rows"]
    for row in rows:
        if row["system"] in variables:
            variables[row["system"]].set(row["wer_percent"])


class NgramJob(Job):
    """Trains a Kneser-Ney n-gram (`dlm ngram`)."""

    def __init__(self, text: list[tk.Path], *, order: int = 4) -> None:
        """
        :param text: text files, plain or .gz, one sentence per line
        :param order: number of words in the longest n-grams
        """
        self.text = text
        self.order = order

        self.out_arpa = self.output_path("lm.arpa")

        self.rqmt = {"cpu": 1, "mem": 16, "time": 8}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from pathlib import Path

        from rescore.commands.ngram import ngram

        ngram([Path(path) for path in resolved(self.text)], Path(self.out_arpa.get_path()), order=self.order)


class PerplexityJob(Job):
    """Measures the perplexity of text with any LM (`dlm perplexity`): exact, or a bound with its standard error."""

    def __init__(self, model: tk.Path, text: list[tk.Path], *, passes: int = 8, seed: int = 1) -> None:
        """
        :param model: model folder, ARPA or KenLM file, or `out_model` of a ReturnnLmJob
        :param text: text files, plain or .gz, one sentence per line
        :param passes: network passes per sentence, for models that only give a bound
        :param seed: seed of the random masks and noise
        """
        self.model = model
        self.text = text
        self.passes = passes
        self.seed = seed

        self.out_results = self.output_path("perplexity.json")
        self.out_perplexity_per_word = self.output_var("perplexity_per_word")

        self.rqmt = {"cpu": 2, "mem": 8, "time": 2}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from pathlib import Path

        from rescore.commands.perplexity import perplexity

        prepare_process(self.rqmt["cpu"])
        perplexity(
            Path(self.model.get_path()),
            [Path(path) for path in resolved(self.text)],
            passes=resolved(self.passes),
            seed=resolved(self.seed),
            device="cuda" if self.rqmt.get("gpu") else "cpu",
            out=Path(self.out_results.get_path()),
        )
        with open(self.out_results.get_path()) as file:
            self.out_perplexity_per_word.set(json.load(file)["perplexity_per_word"])


class ScoreNbestJob(Job):
    """Scores every hypothesis with an LM (`dlm score`), in an array of tasks whose results are joined (`dlm merge`).

    The result has the same bytes for any number of shards and after any interruption. A killed task resumes with the
    group of utterances that it was scoring.
    """

    def __init__(
        self,
        nbest: tk.Path,
        model: tk.Path,
        *,
        name: str,
        estimator: str = "auto",
        passes: int | None = None,
        replicates: int = 4,
        seed: int = 1,
        precision: str = "32",
        batch_tokens: int | None = None,
        pieces: bool = False,
        num_shards: int = 1,
    ) -> None:
        """
        :param nbest: N-best file (.py, .jsonl, .json, each also .gz)
        :param model: model folder of this package, ARPA or KenLM file, Hugging Face folder, or `out_model` of a
            ReturnnLmJob
        :param name: name of the new score
        :param estimator: estimator for the scores of a diffusion model (`dlm estimators`)
        :param passes: network passes per hypothesis; None: the default of the estimator
        :param replicates: independent repetitions that the passes are divided into; they give the standard error
        :param seed: seed of the random masks and noise
        :param precision: precision of the network, "32" or "bf16"
        :param batch_tokens: maximum number of tokens in one forward pass; None: the default of the device
        :param pieces: the texts are space-separated SentencePiece pieces
        :param num_shards: number of tasks in the array; not hashed
        """
        self.nbest = nbest
        self.model = model
        self.options: dict[str, Any] = {
            "estimator": estimator,
            "passes": passes,
            "replicates": replicates,
            "seed": seed,
        }
        self.options |= {"precision": precision, "batch_tokens": batch_tokens, "pieces": pieces}
        self.name = name
        self.num_shards = num_shards

        self.out_scores = self.output_path("scores.jsonl.gz")
        self.out_nbest = self.output_path("nbest.py.gz")

        self.rqmt: dict[str, Any] = {"cpu": 2, "mem": 8, "time": 4}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt, args=range(1, self.num_shards + 1))
        yield Task("merge", resume="merge", mini_task=True)

    def run(self, number: int) -> None:
        from pathlib import Path

        from rescore.commands.score import score
        from rescore.lms.options import ScoringOptions

        prepare_process(self.rqmt["cpu"])
        score(
            [self.nbest.get_path()],
            f"{self.name}={self.model.get_path()}",
            Path(self._part(number)),
            ScoringOptions(**resolved(self.options), device="cuda" if self.rqmt.get("gpu") else "cpu"),
            new_only=True,
            shard=f"{number}/{self.num_shards}",
        )

    def merge(self) -> None:
        from pathlib import Path

        from rescore.commands.score import merge

        parts = [Path(self._part(number)) for number in range(1, self.num_shards + 1)]
        merge(parts, [Path(self.out_scores.get_path()), Path(self.out_nbest.get_path())])

    def completed_fraction(self) -> float:
        """Share of the utterances that are scored, from 0 to 1."""
        done = 0.0
        for number in range(1, self.num_shards + 1):
            try:
                with open(self._part(number) + ".cost.json") as file:
                    done += json.load(file)["done"]
            except (OSError, ValueError, KeyError):
                continue
        return min(1.0, done / self.num_shards)

    def _part(self, number: int) -> str:
        # In work/, because Sisyphus keeps that folder until the job is finished.
        folder = self.out_scores.get_path().rpartition("/")[0].rpartition("/")[0]
        return f"{folder}/work/part{number}of{self.num_shards}.jsonl"

    @classmethod
    def hash(cls, parsed_args: dict[str, Any]) -> str:
        return super().hash({key: value for key, value in parsed_args.items() if key != "num_shards"})


class LabelPriorJob(Job):
    """Scores every hypothesis with the prior of the recogniser's labels (`dlm prior`)."""

    def __init__(
        self, nbest: tk.Path, prior: tk.Path, vocab: tk.Path, *, probabilities: bool = False, pieces: bool = False
    ) -> None:
        """
        :param nbest: N-best file (.py, .jsonl, .json, each also .gz)
        :param prior: text file with the log-prior of each piece, in the order of the vocabulary
        :param vocab: SentencePiece model of the recogniser's labels
        :param probabilities: the file has probabilities instead of their logarithms
        :param pieces: the texts are space-separated pieces
        """
        self.nbest = nbest
        self.prior = prior
        self.vocab = vocab
        self.probabilities = probabilities
        self.pieces = pieces

        self.out_nbest = self.output_path("nbest.py.gz")

        self.rqmt = {"cpu": 1, "mem": 4, "time": 1}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from pathlib import Path

        from rescore.commands.score import prior

        prior(
            [self.nbest.get_path()],
            Path(self.prior.get_path()),
            Path(self.vocab.get_path()),
            Path(self.out_nbest.get_path()),
            probabilities=self.probabilities,
            pieces=self.pieces,
        )


class TuneScalesJob(Job):
    """Tunes the scales of one row for few word errors (`dlm tune`)."""

    __sis_hash_exclude__: ClassVar[dict[str, Any]] = {"resamples": 50, "mbr": False, "seed": 1}

    def __init__(
        self,
        nbest: dict[str, tk.Path],
        references: tk.Path,
        *,
        row: str | dict[str, Any],
        resamples: int = 50,
        mbr: bool = False,
        seed: int = 1,
    ) -> None:
        """
        :param nbest: aligned N-best files, keyed by the name of their score
        :param references: .py, Kaldi text, .trn or .json
        :param row: terms joined by commas: SOURCE:SCALE for a fixed scale, SOURCE or SOURCE:LOW:HIGH for one to tune.
            Or a dict {source: scale, None or (low, high)}, whose numbers may be Variables and delayed operations.
        :param resamples: bootstrap resamples over which the scales are averaged; 0: the scales with the fewest errors
        :param mbr: tune a posterior as well, for the choice by expected errors
        :param seed: seed of the resamples
        """
        self.nbest = nbest
        self.references = references
        self.row = row
        self.resamples = resamples
        self.mbr = mbr
        self.seed = seed

        self.out_scales = self.output_path("scales.json")
        self.out_scale = {source: self.output_var(f"scale_{source.replace(':', '_')}") for source in _sources(row)}

        self.rqmt = {"cpu": 1, "mem": 8, "time": 1}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from pathlib import Path

        from rescore.commands.tune import tune

        tune(
            _named(self.nbest),
            Path(self.references.get_path()),
            Path(self.out_scales.get_path()),
            row=_terms(self.row),
            resamples=self.resamples,
            mbr=self.mbr,
            seed=self.seed,
        )
        with open(self.out_scales.get_path()) as file:
            scales = json.load(file)
        named = {**scales["scores"], "words": scales["words"]}
        named |= {f"tokens:{source}": value for source, value in scales["tokens"].items()}
        for source, variable in self.out_scale.items():
            variable.set(named[source])


class WerTableJob(Job):
    """Measures the WER of rows with given scales on one set (`dlm wer`)."""

    def __init__(
        self,
        nbest: dict[str, tk.Path],
        references: tk.Path,
        rows: dict[str, Any],
        *,
        baseline: str = "",
        title: str = "WER",
        seed: int = 1,
    ) -> None:
        """
        :param nbest: aligned N-best files, keyed by the name of their score
        :param references: .py, Kaldi text, .trn or .json
        :param rows: keyed by the name of the row: `out_scales` of a TuneScalesJob, "SOURCE:SCALE,SOURCE:SCALE", or
            {source: scale}; scales may be Variables and delayed operations
        :param baseline: row that the changes are measured against; "": the first hypotheses as listed
        :param title: title of the table
        :param seed: seed of the bootstrap
        """
        self.nbest = nbest
        self.references = references
        self.rows = rows
        self.baseline = baseline
        self.title = title
        self.seed = seed

        self.out_tables = {suffix: self.output_path(f"wer{suffix}") for suffix in _TABLES}
        self.out_table = self.out_tables[".md"]
        self.out_json = self.out_tables[".json"]
        self.out_wer = {row: self.output_var(f"wer_percent_{number}") for number, row in enumerate(rows)}
        self.out_ctm = self.output_path("best.ctm")
        self.out_transcripts = self.output_path("best.py.gz")

        self.rqmt = {"cpu": 1, "mem": 8, "time": 1}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from pathlib import Path

        from rescore.commands.report import wer

        wer(
            _named(self.nbest),
            Path(self.references.get_path()),
            scales=[f"{name}={_terms(scales)}" for name, scales in self.rows.items()],
            out=[Path(path.get_path()) for path in self.out_tables.values()],
            transcripts=[Path(self.out_ctm.get_path()), Path(self.out_transcripts.get_path())],
            baseline=self.baseline,
            title=self.title,
            seed=self.seed,
        )
        _set_wer(self.out_wer, self.out_json)


class RescoreJob(Job):
    """Tunes every row on one set and reports on another (`dlm rescore`), in tables and an HTML page."""

    __sis_hash_exclude__: ClassVar[dict[str, Any]] = {"resamples": 50, "mbr": False}

    def __init__(
        self,
        *,
        tune: dict[str, tk.Path],
        tune_references: tk.Path,
        test: dict[str, tk.Path],
        test_references: tk.Path,
        rows: dict[str, str],
        baseline: str = "",
        title: str = "WER",
        seed: int = 1,
        resamples: int = 50,
        mbr: bool = False,
    ) -> None:
        """
        :param tune: aligned N-best files to tune on, keyed by the name of their score: the recogniser's file and
            `out_scores` of ScoreNbestJobs
        :param tune_references: .py, Kaldi text, .trn or .json
        :param test: N-best files to report on, as for `tune`
        :param test_references: .py, Kaldi text, .trn or .json
        :param rows: keyed by the name of the row: SOURCE:SCALE, SOURCE or SOURCE:LOW:HIGH, joined by commas
        :param baseline: row that the changes are measured against; "": the recogniser's order, "first in list"
        :param title: title of the table
        :param seed: seed of the bootstrap
        :param resamples: bootstrap resamples over which the scales are averaged; 0: the scales with the fewest errors
        :param mbr: choose by expected errors in rows with tuned scales
        """
        self.tune = tune
        self.tune_references = tune_references
        self.test = test
        self.test_references = test_references
        self.rows = rows
        self.baseline = baseline
        self.title = title
        self.seed = seed
        self.resamples = resamples
        self.mbr = mbr

        self.out_folder = self.output_path("rescore", directory=True)
        self.out_tables = {suffix: self.output_path(f"rescore/wer{suffix}") for suffix in _TABLES}
        self.out_table = self.out_tables[".md"]
        self.out_report = self.output_path("rescore/report.html")
        self.out_scales = self.output_path("rescore/scales")
        self.out_wer = {row: self.output_var(f"wer_percent_{number}") for number, row in enumerate(rows)}

        self.rqmt = {"cpu": 1, "mem": 8, "time": 1}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from pathlib import Path

        from rescore.commands.rescore import rescore
        from rescore.lms.options import ScoringOptions

        rescore(
            tune=_named(self.tune),
            tune_refs=Path(self.tune_references.get_path()),
            test=_named(self.test),
            test_refs=Path(self.test_references.get_path()),
            out=Path(self.out_folder.get_path()),
            row=[f"{name}={row}" for name, row in self.rows.items()],
            baseline=self.baseline,
            title=self.title,
            resamples=self.resamples,
            mbr=self.mbr,
            scoring=ScoringOptions(seed=self.seed),
        )
        _set_wer(self.out_wer, self.out_tables[".json"])


class CombineNbestJob(Job):
    """Writes all hypotheses with their combined score (`dlm combine`), as a first pass for further rescoring."""

    def __init__(self, nbest: dict[str, tk.Path], scales: Any) -> None:
        """
        :param nbest: aligned N-best files, keyed by the name of their score
        :param scales: `out_scales` of a TuneScalesJob, "SOURCE:SCALE,SOURCE:SCALE", or {source: scale}; scales may be
            Variables and delayed operations
        """
        self.nbest = nbest
        self.scales = scales

        self.out_nbest = self.output_path("nbest.py.gz")

        self.rqmt = {"cpu": 1, "mem": 8, "time": 1}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from pathlib import Path

        from rescore.commands.lists import combine

        combine(_named(self.nbest), Path(self.out_nbest.get_path()), scales=_terms(self.scales))


class ReportJob(Job):
    """Puts the WER tables of several sets side by side (`dlm overview`)."""

    def __init__(self, tables: dict[str, tk.Path], *, title: str = "WER %", tuned_on: str = "") -> None:
        """
        :param tables: `out_json` of WerTableJobs with the same rows, keyed by the name of the set
        :param title: title of the table
        :param tuned_on: name of the set that the scales were tuned on
        """
        self.tables = tables
        self.title = title
        self.tuned_on = tuned_on

        self.out_tables = {suffix: self.output_path(f"overview{suffix}") for suffix in _TABLES}
        self.out_table = self.out_tables[".md"]

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", mini_task=True)

    def run(self) -> None:
        from pathlib import Path

        from rescore.commands.report import overview

        out = [Path(path.get_path()) for path in self.out_tables.values()]
        overview(_named(self.tables), out, title=self.title, tuned_on=self.tuned_on)
