"""The demo of `make demo` as a Sisyphus graph: small LMs, real N-best lists and a WER table, in a few minutes.

    sis manager config/demo.py

Results: output/demo/wer.md, output/demo/report.html. Settings and seeds are those of the Makefile, so the scores are
equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sisyphus import tk

from diffusion_lm.jobs import TrainLmJob
from rescore.jobs import NgramJob, PerplexityJob, RescoreJob, ScoreNbestJob
from returnn_bridge.jobs import TrainVocabJob

ROWS = {
    "acoustic only": "am:1",
    "first pass": "am:1,bigram:0.7,words:1",
    "+ 4-gram": "am:1,4gram,words",
    "+ AR LM": "am:1,ar,words",
    "+ masked diffusion LM": "am:1,masked,words",
    "+ AR and diffusion": "am:1,ar,masked,words",
    "+ 4-gram and diffusion": "am:1,4gram,masked,words",
    "+ masked diffusion LM, shipped": "am:1,long,words",
    "+ AR and diffusion, shipped": "am:1,ar,long,words",
    "+ 4-gram and diffusion, shipped": "am:1,4gram,long,words",
}


def py() -> None:
    """The entry point of `sis manager config/demo.py`."""
    demo()


def demo(
    changes: Mapping[str, Any] | None = None,
    *,
    name: str = "demo",
    num_shards: int = 2,
    rqmt: Mapping[str, Any] | None = None,
) -> RescoreJob:
    """Build the graph and return its last job.

    changes: settings of both trainings, such as {"trainer.max_steps": 30}. name: output folder of the results.
    num_shards: of each scoring. rqmt: changes to the requirements of trainings and scorings.
    """
    needs = {"gpu": 0, "cpu": 2, "mem": 4, "time": 1, **(rqmt or {})}
    text = [data("train.txt.gz")]
    vocab = TrainVocabJob(text, size=1000)
    vocab.rqmt.update({"mem": 4, "time": 1})
    settings = {
        "data.vocab": vocab.out_model,
        "data.text": text,
        "data.valid_text": {"dev": data("dev.txt")},
        **(changes or {}),
    }
    ar = TrainLmJob("demo_ar", settings)
    masked = TrainLmJob("demo_masked", {**settings, "init_from": ar.out_model})
    for kind, job in (("ar", ar), ("masked", masked)):
        job.rqmt.update(needs)
        job.add_alias(f"{name}/train/{kind}")
        tk.register_output(f"{name}/scores/{kind}.tsv", job.out_scores)
    ngram = NgramJob(text, order=4)
    ngram.rqmt.update({"mem": 4, "time": 1})

    models = {
        "4gram": (ngram.out_arpa, {}),
        "ar": (ar.out_model, {}),
        "masked": (masked.out_model, {"estimator": "strided", "passes": 6}),
        "long": (data("masked-long"), {"estimator": "strided", "passes": 6}),
    }
    sources = {
        part: {"am": data(f"{part}.nbest.py.gz"), "bigram": data(f"{part}.bigram.py.gz")} for part in ("dev", "test")
    }
    for lm, (model, how) in models.items():
        precision = "32" if lm == "4gram" else "bf16"
        for part, found in sources.items():
            job = ScoreNbestJob(found["am"], model, name=lm, precision=precision, num_shards=num_shards, **how)
            job.rqmt.update(needs)
            job.add_alias(f"{name}/score/{part}/{lm}")
            found[lm] = job.out_scores
        perplexity = PerplexityJob(model, [data("dev.txt")])
        perplexity.rqmt.update(needs)
        tk.register_output(f"{name}/perplexity/{lm}.json", perplexity.out_results)

    result = RescoreJob(
        tune=sources["dev"],
        tune_references=data("dev.ref.py.gz"),
        test=sources["test"],
        test_references=data("test.ref.py.gz"),
        rows=ROWS,
        baseline="first pass",
        title="Demo: 200 utterances, up to 60 hypotheses each",
    )
    result.rqmt.update({"mem": 4})
    result.add_alias(f"{name}/rescore")
    for suffix, path in result.out_tables.items():
        tk.register_output(f"{name}/wer{suffix}", path)
    tk.register_output(f"{name}/report.html", result.out_report)
    return result


def data(file: str) -> tk.Path:
    """A file of the demo data. Job ids depend on its name only, not on the location of the clone."""
    return tk.Path(f"data/demo/{file}", hash_overwrite=f"diffusion-lm-demo/{file}")
