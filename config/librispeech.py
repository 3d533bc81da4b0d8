"""The reference experiment on LibriSpeech: WER of a masked diffusion LM, its PLL, an AR LM and a 4-gram on four sets.

    sis manager config/librispeech.py           # after setting the paths below

Results: output/librispeech/wer.md (all sets), output/librispeech/wer/SET.md, output/librispeech/perplexity/. Scales are
tuned on TUNE_ON only. All texts must have LibriSpeech's normal form (upper case, no punctuation), and N-best lists hold
words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sisyphus import tk

from diffusion_lm.jobs import TrainLmJob
from rescore.jobs import NgramJob, PerplexityJob, ReportJob, ScoreNbestJob, TuneScalesJob, WerTableJob
from returnn_bridge.datasets import lm_dataset_dict, ogg_zip_dataset_dict
from returnn_bridge.jobs import BlissTextJob, BuildOggZipJob, TrainVocabJob

SETS = ("dev-clean", "dev-other", "test-clean", "test-other")
TUNE_ON = "dev-other"
CORPORA = "/path/to/LibriSpeech"
RECOGNITION = "/path/to/recognition"


File = str | tk.Path


@dataclass(frozen=True)
class Files:
    """The input files of the experiment: names, or paths of the graph such as the outputs of i6_core's jobs."""

    lm_text: File = f"{CORPORA}/librispeech-lm-norm.txt.gz"
    """One sentence per line."""
    train_corpus: File = f"{CORPORA}/train-other-960.xml.gz"
    """Bliss corpus; its transcripts are training text too, and a part of them is the validation set devtrain."""
    dev_corpora: Mapping[str, File] = field(
        default_factory=lambda: {name: f"{CORPORA}/{name}.xml.gz" for name in ("dev-clean", "dev-other")}
    )
    nbest: Mapping[str, File] = field(
        default_factory=lambda: {name: f"{RECOGNITION}/{name}/output.py.gz" for name in SETS}
    )
    """RETURNN search output, of words."""
    references: Mapping[str, File] = field(
        default_factory=lambda: {name: f"{RECOGNITION}/{name}/references.py.gz" for name in SETS}
    )
    """{seq_tag: text}, as BlissTextJob and i6_core's CorpusToTextDictJob write it."""
    spm_model: File = ""
    """A SentencePiece model to use instead of training one."""
    four_gram: File = ""
    """An ARPA or KenLM file to use instead of training one."""


ROWS = {
    "recogniser": "am:1",
    "+ 4-gram": "am:1,4gram,words",
    "+ AR LM": "am:1,ar,words",
    "+ masked diffusion LM": "am:1,masked,words",
    "+ masked diffusion LM, PLL": "am:1,pll,words",
    "+ AR and 4-gram": "am:1,4gram,ar,words",
    "+ AR and diffusion": "am:1,ar,masked,words",
    "+ 4-gram, AR and diffusion": "am:1,4gram,ar,masked,words",
}


def py() -> None:
    """The entry point of `sis manager config/librispeech.py`."""
    librispeech()


def librispeech(
    files: Files | None = None,
    *,
    vocab_size: int = 10_240,
    changes: Mapping[str, Any] | None = None,
    passes: int = 16,
    num_shards: int = 16,
    rqmt: Mapping[str, Any] | None = None,
    name: str = "librispeech",
) -> ReportJob:
    """Build the graph and return its last job.

    changes: settings of both trainings. passes: network passes of the ELBO. num_shards: of each scoring.
    rqmt: changes to the requirements of trainings and scorings (one GPU). name: output folder of the results.
    """
    files = files or Files()
    transcripts = BlissTextJob(corpus(files.train_corpus)).out_text
    text = [corpus(files.lm_text), transcripts]
    if files.spm_model != "":
        spm = given(files.spm_model)
    else:
        spm = TrainVocabJob(text, size=vocab_size).out_model
    settings = {**data_settings(files, text, spm), **(changes or {})}

    ar = TrainLmJob("librispeech_masked:ar", settings)
    masked = TrainLmJob("librispeech_masked", settings)
    for kind, job in (("ar", ar), ("masked", masked)):
        job.rqmt.update({"time": 168, "mem": 32, **(rqmt or {})})
        job.add_alias(f"{name}/train/{kind}")
        tk.register_output(f"{name}/scores/{kind}.tsv", job.out_scores)
        tk.register_output(f"{name}/model/{kind}", job.out_model)
    if files.four_gram != "":
        four_gram = given(files.four_gram)
    else:
        ngram = NgramJob(text, order=4)
        ngram.rqmt.update({"mem": 128, "time": 24})
        four_gram = ngram.out_arpa

    models: dict[str, tuple[tk.Path, dict[str, Any]]] = {
        "4gram": (four_gram, {}),
        "ar": (ar.out_model, {"precision": "bf16"}),
        "masked": (masked.out_model, {"precision": "bf16", "estimator": "control", "passes": passes}),
        "pll": (masked.out_model, {"precision": "bf16", "estimator": "pll"}),
    }
    dev_texts = [BlissTextJob(corpus(path)).out_text for part, path in files.dev_corpora.items()]
    for lm in ("4gram", "ar", "masked"):
        perplexity = PerplexityJob(models[lm][0], dev_texts)
        perplexity.rqmt.update(rqmt or {"gpu": int(lm != "4gram")})
        tk.register_output(f"{name}/perplexity/{lm}.json", perplexity.out_results)

    sources = {part: {"am": given(path)} for part, path in files.nbest.items()}
    for part, found in sources.items():
        for lm, (model, how) in models.items():
            score = ScoreNbestJob(found["am"], model, name=lm, num_shards=num_shards, **how)
            score.rqmt.update(rqmt or {"gpu": int(lm != "4gram")})
            score.add_alias(f"{name}/score/{part}/{lm}")
            tk.register_output(f"{name}/nbest/{part}.{lm}.py.gz", score.out_nbest)
            found[lm] = score.out_scores
    return tables(files, sources, name)


def data_settings(files: Files, text: list[tk.Path], spm: tk.Path) -> dict[str, Any]:
    """The data settings: text as an LmDataset with 20 sub-epochs; dev sets and 3,000 training utterances as OggZips."""
    dev = [BuildOggZipJob(corpus(path), name=part).out_zip for part, path in files.dev_corpora.items()]
    devtrain = BuildOggZipJob(corpus(files.train_corpus), name="train", with_audio=False).out_zip
    return {
        "data.vocab": spm,
        "data.train": lm_dataset_dict(text, spm, partition_epoch=20, seq_ordering="laplace:.1000"),
        "data.valid": {
            "dev": ogg_zip_dataset_dict(dev, spm, fixed_random_subset=3000),
            "devtrain": ogg_zip_dataset_dict([devtrain], spm, fixed_random_subset=3000),
        },
    }


def tables(files: Files, sources: Mapping[str, Mapping[str, tk.Path]], name: str) -> ReportJob:
    """Tune scales on TUNE_ON, and build a table for each set and one of all sets."""
    rows: dict[str, tk.Path | str] = {}
    for row, wanted in ROWS.items():
        used = [part.partition(":")[0] for part in wanted.split(",")]
        if all(":" in part for part in wanted.split(",")):
            rows[row] = wanted
            continue
        lists = {lm: path for lm, path in sources[TUNE_ON].items() if lm in used}
        scales = TuneScalesJob(lists, given(files.references[TUNE_ON]), row=wanted)
        scales.add_alias(f"{name}/tune/{'-'.join(used)}")
        rows[row] = scales.out_scales
    found = {}
    for part, lists in sources.items():
        table = WerTableJob(
            dict(lists),
            given(files.references[part]),
            rows,
            baseline="+ AR LM",
            title=f"LibriSpeech {part}, scales from {TUNE_ON}",
        )
        table.add_alias(f"{name}/wer/{part}")
        tk.register_output(f"{name}/wer/{part}.md", table.out_table)
        tk.register_output(f"{name}/wer/{part}.csv", table.out_tables[".csv"])
        found[part] = table.out_json
    report = ReportJob(found, title="LibriSpeech, WER %", tuned_on=TUNE_ON)
    for suffix, path in report.out_tables.items():
        tk.register_output(f"{name}/wer{suffix}", path)
    return report


def corpus(path: File) -> tk.Path:
    """A file of LibriSpeech. A name is identified by its last part, so that moving the file does not change job ids.

    Recogniser output is identified by its full path instead, because that of different recognisers has the same name.
    """
    if isinstance(path, str):
        return tk.Path(path, hash_overwrite=f"librispeech/{path.rpartition('/')[2]}")
    return path


def given(path: File) -> tk.Path:
    """A file that is identified by its full path, or by the job that makes it."""
    return tk.Path(path) if isinstance(path, str) else path
