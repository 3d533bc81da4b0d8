"""Jobs do what their verbs do, to the byte, and their ids hold no resources. With the real Sisyphus when it is importable, else the stand-in."""

from __future__ import annotations

import ast
import gzip
import hashlib
import inspect
import json
import math
from pathlib import Path

import pytest

import sis_standin

REAL = sis_standin.install()

from sisyphus import Task, tk  # noqa: E402

import diffusion_lm.jobs  # noqa: E402
import rescore.jobs  # noqa: E402
import returnn_bridge.jobs  # noqa: E402
from conftest import DEMO  # noqa: E402
from diffusion_lm.jobs import SampleJob, TrainLmJob  # noqa: E402
from rescore.commands.options import RESAMPLES  # noqa: E402
from rescore.jobs import (  # noqa: E402
    CombineNbestJob,
    LabelPriorJob,
    NgramJob,
    PerplexityJob,
    ReportJob,
    RescoreJob,
    ScoreNbestJob,
    TuneScalesJob,
    WerTableJob,
)
from rescore.nbest import read_nbest, write_nbest  # noqa: E402
from rescore.nbest.references import read_references, write_transcripts  # noqa: E402
from returnn_bridge.jobs import BlissTextJob, BuildOggZipJob, TokenStoreJob, TrainVocabJob, resolved  # noqa: E402

MODULES = (returnn_bridge.jobs, diffusion_lm.jobs, rescore.jobs)
JOBS = [kind for module in MODULES for name, kind in vars(module).items() if name.endswith("Job") and name != "Job"]
TINY = {
    "trainer.max_steps": 6,
    "trainer.val_check_interval": 3,
    "trainer.save_every": 2,
    "trainer.logger": "none",
    "model.hidden_size": 32,
    "model.num_blocks": 1,
    "model.num_heads": 2,
}


@pytest.fixture
def graph(tmp_path):
    with sis_standin.setup(tmp_path):
        yield tmp_path


@pytest.fixture
def lists(tmp_path):
    """The demo's first 20 test utterances, 4 hypotheses each, and their references."""
    found = read_nbest(DEMO / "test.nbest.py.gz")[:20]
    found = [type(utterance)(utterance.seq_tag, utterance.hypotheses[:4]) for utterance in found]
    write_nbest(tmp_path / "nbest.py.gz", found)
    references = read_references(DEMO / "test.ref.py.gz")
    write_transcripts(tmp_path / "refs.py", {utterance.seq_tag: references[utterance.seq_tag] for utterance in found})
    return tk.Path(str(tmp_path / "nbest.py.gz")), tk.Path(str(tmp_path / "refs.py"))


def digest(path) -> str:
    return hashlib.sha256(Path(path.get_path()).read_bytes()).hexdigest()


def test_jobs_keep_to_the_manners_of_i6_core():
    assert len(JOBS) == 16
    for kind in JOBS:
        tasks = [name for name in vars(kind) if name.startswith("run") or name == "merge"]
        assert tasks, kind
        assert ":param " in (kind.__init__.__doc__ or ""), kind
        source = inspect.getsource(kind.__init__)
        named = [line.strip().split("=")[0] for line in source.splitlines() if "self.output_path" in line]
        assert named and all(name.startswith("self.out_") for name in named), kind


def test_importing_jobs_imports_nothing_heavy():
    for module in MODULES:
        names = set()
        for node in ast.parse(Path(module.__file__).read_text()).body:
            names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module} if isinstance(node, ast.ImportFrom) else set()
        light = {"__future__", "json", "os", "sys", "typing", "collections.abc", "sisyphus", "returnn_bridge.jobs"}
        assert names <= light, module


def test_every_task_can_be_resumed_by_its_own_function(graph):
    for job in (TrainLmJob("demo_ar"), ScoreNbestJob(tk.Path("a.py"), tk.Path("m"), name="lm", num_shards=3)):
        for task in job.tasks():
            assert isinstance(task, Task)
            assert task._resume == task._start


def test_resources_are_no_part_of_the_id(graph):
    first = ScoreNbestJob(tk.Path("a.py"), tk.Path("m"), name="lm", num_shards=1)
    name = sis_standin.job_id(first)
    sis_standin.jobs()
    first.rqmt["time"] = 100
    second = ScoreNbestJob(tk.Path("a.py"), tk.Path("m"), name="lm", num_shards=7)
    assert sis_standin.job_id(second) == name
    assert sis_standin.job_id(ScoreNbestJob(tk.Path("a.py"), tk.Path("m"), name="lm", seed=2)) != name
    two = TrainLmJob("demo_ar", {"trainer.devices": 2})
    assert two.rqmt["gpu"] == 2, "the batch depends on the devices, so they are a setting and in the id"
    assert sis_standin.job_id(two) != sis_standin.job_id(TrainLmJob("demo_ar"))


def test_nodes_and_devices_are_numbers_and_requested(graph):
    job = TrainLmJob("demo_ar", {"trainer.num_nodes": 2, "trainer.devices": 4})
    assert (job.rqmt["multi_node_slots"], job.rqmt["gpu"]) == (2, 4)
    assert "multi_node_slots" not in TrainLmJob("demo_ar").rqmt
    for name in ("num_nodes", "devices"):
        with pytest.raises(ValueError, match=f"trainer.{name}: got str; expected a positive whole number"):
            TrainLmJob("demo_ar", {f"trainer.{name}": "2"})


def test_sampling(graph, model_folder):
    job = SampleJob(tk.Path(str(model_folder)), count=3, length=5, steps=4, seed=2)
    sis_standin.run_job(job)
    texts = gzip.open(job.out_text.get_path(), "rt").read().splitlines()
    pairs = ast.literal_eval(gzip.open(job.out_samples.get_path(), "rt").read())
    assert [text for [(_, text)] in pairs.values()] == texts and len(texts) == 3
    assert list(pairs) == ["sample-1", "sample-2", "sample-3"]
    assert all(0 <= entropy <= math.log(5) + 1e-9 for [(entropy, _)] in pairs.values())


def test_newer_options_keep_the_ids_at_their_defaults(graph):
    nbest, references = {"am": tk.Path("a.py")}, tk.Path("r.py")
    lists = {"tune": nbest, "tune_references": references, "test": nbest, "test_references": references}
    for make in (
        lambda **options: TuneScalesJob(nbest, references, row="am:1,words", **options),
        lambda **options: RescoreJob(**lists, rows={"a": "am:1,words"}, **options),
    ):
        plain = sis_standin.job_id(make())
        assert sis_standin.job_id(make(resamples=RESAMPLES, mbr=False, seed=1)) == plain
        assert len({plain, *(sis_standin.job_id(make(**new)) for new in ({"resamples": 0}, {"mbr": True}))}) == 3


def test_training_and_perplexity(graph, text_file):
    text = tk.Path(str(text_file))
    vocab = TrainVocabJob([text], size=44)
    job = TrainLmJob(
        "demo_ar", {**TINY, "data.vocab": vocab.out_model, "data.text": [text], "data.valid_text": {"dev": text}}
    )
    assert job.completed_fraction() == 0
    perplexity = PerplexityJob(job.out_model, [text])
    assert sis_standin.run_all() == 3
    assert job.completed_fraction() == 1
    before = digest(tk.Path(job.out_model.get_path() + "/model.safetensors"))
    sis_standin.run_job(job)  # as after a kill between the last step and Sisyphus' mark
    assert digest(tk.Path(job.out_model.get_path() + "/model.safetensors")) == before
    assert json.loads(Path(perplexity.out_results.get_path()).read_text())["exact"] is True
    assert len(Path(job.out_scores.get_path()).read_text().splitlines()) == 3


def test_training_from_a_token_store(graph, text_file):
    text = tk.Path(str(text_file))
    vocab = TrainVocabJob([text], size=44)
    store = TokenStoreJob([text], vocab.out_model)
    settings = {**TINY, "data.vocab": vocab.out_model, "data.text": [text], "data.valid_text": {"dev": text}}
    plain = TrainLmJob("demo_ar", settings)
    stored = TrainLmJob("demo_ar", {**settings, "data.store": store.out_store})
    assert sis_standin.run_all() == 4
    files = [tk.Path(job.out_model.get_path() + "/model.safetensors") for job in (plain, stored)]
    assert digest(files[0]) == digest(files[1])


def test_any_number_of_shards_gives_the_same_bytes(graph, lists, model_folder):
    found = {}
    for shards in (1, 2, 5):  # 20 utterances are 3 groups: with 5 shards, some are empty
        with sis_standin.setup(graph / str(shards) if (graph / str(shards)).mkdir() is None else graph):
            job = ScoreNbestJob(lists[0], tk.Path(str(model_folder)), name="masked", passes=8, num_shards=shards)
            assert job.completed_fraction() == 0
            sis_standin.run_job(job)
            found[shards] = digest(job.out_scores), digest(job.out_nbest)
            sis_standin.run_job(job)
            assert (digest(job.out_scores), digest(job.out_nbest)) == found[shards]
            new = read_nbest(job.out_nbest.get_path())
    assert len(set(found.values())) == 1
    old = read_nbest(lists[0].get_path())
    assert [(u.seq_tag, [h.text for h in u.hypotheses]) for u in new] == [
        (u.seq_tag, [h.text for h in u.hypotheses]) for u in old
    ]


def test_from_scores_to_tables(graph, lists, model_folder, ar_folder):
    nbest, references = lists
    sources = {"am": nbest}
    for name, model in (("masked", model_folder), ("ar", ar_folder)):
        sources[name] = ScoreNbestJob(nbest, tk.Path(str(model)), name=name).out_scores
    scales = TuneScalesJob(sources, references, row="am:1,masked,words").out_scales
    rows = {"alone": "am:1", "+ masked": scales}
    first = WerTableJob(sources, references, rows, baseline="alone", title="first")
    second = WerTableJob(sources, references, rows, baseline="alone", title="second")
    report = ReportJob({"one": first.out_json, "two": second.out_json}, tuned_on="one")
    whole = RescoreJob(
        tune=sources,
        tune_references=references,
        test=sources,
        test_references=references,
        rows={"alone": "am:1", "+ masked": "am:1,masked,words"},
    )
    assert sis_standin.run_all() == 7
    table = json.loads(Path(first.out_json.get_path()).read_text())
    assert [row["system"] for row in table["rows"]] == ["first in list", "alone", "+ masked", "oracle"]
    assert table["rows"][2]["seconds"] > 0 and table["metadata"]["models"]["masked"]["kind"] == "masked"
    same = json.loads(Path(whole.out_tables[".json"].get_path()).read_text())
    by_name = {row["system"]: row for row in same["rows"]}
    for row in table["rows"][1:]:
        assert by_name[row["system"]]["errors" if "errors" in row else "wer_percent"] == row["wer_percent"]
    lines = Path(report.out_table.get_path()).read_text()
    assert "| one* | two |" in lines and f"{table['rows'][2]['wer_percent']:.2f}" in lines
    assert Path(whole.out_report.get_path()).stat().st_size > 10_000
    best = read_references(first.out_transcripts.get_path())
    assert list(best) == [utterance.seq_tag for utterance in read_nbest(nbest.get_path())]


def test_results_are_variables_and_variables_are_settings(graph, lists, model_folder, text_file):
    """A tuned scale and its double go into tables, a combination, another tuning and a training as they are."""
    nbest, references = lists
    masked = ScoreNbestJob(nbest, tk.Path(str(model_folder)), name="masked")
    sources = {"am": nbest, "masked": masked.out_scores}
    tuned = TuneScalesJob(sources, references, row="am:1,masked,words")
    again = TuneScalesJob(sources, references, row={"am": 1, "masked": tuned.out_scale["masked"], "words": (-1, 1)})
    same = {"am": 1, **{name: tuned.out_scale[name] for name in ("masked", "words")}}
    rows = {"am": "am:1", "file": tuned.out_scales, "variables": same}
    table = WerTableJob(sources, references, rows)
    whole = RescoreJob(
        tune=sources,
        tune_references=references,
        test=sources,
        test_references=references,
        rows={"am": "am:1", "masked": "am:1,masked,words"},
    )
    combined = CombineNbestJob(sources, same)
    passes = ScoreNbestJob(combined.out_nbest, tk.Path(str(model_folder)), name="lm", passes=tuned.out_scale["am"])
    perplexity = PerplexityJob(NgramJob([tk.Path(str(text_file))], order=2).out_arpa, [tk.Path(str(text_file))])
    training = TrainLmJob("demo_ar", {"optim.lr": tuned.out_scale["am"]})
    assert training.completed_fraction() == 0
    for job in sis_standin.jobs():
        if job not in (passes, training):
            sis_standin.run_job(job)
    scales = json.loads(Path(tuned.out_scales.get_path()).read_text())
    assert {name: variable.get() for name, variable in tuned.out_scale.items()} == {
        **scales["scores"],
        "words": scales["words"],
    }
    assert again.out_scale["masked"].get() == tuned.out_scale["masked"].get()
    assert -1 <= again.out_scale["words"].get() <= 1
    percent = {
        row["system"]: row["wer_percent"] for row in json.loads(Path(table.out_json.get_path()).read_text())["rows"]
    }
    assert {row: variable.get() for row, variable in table.out_wer.items()} == {row: percent[row] for row in rows}
    assert table.out_wer["file"].get() == table.out_wer["variables"].get() == whole.out_wer["masked"].get()
    assert perplexity.out_perplexity_per_word.get() > 1
    assert training.overrides() == [f"optim.lr={tuned.out_scale['am'].get()}"]
    best = {
        utterance.seq_tag: max(utterance.hypotheses, key=lambda hypothesis: next(iter(hypothesis.scores.values()))).text
        for utterance in read_nbest(combined.out_nbest.get_path())
    }
    assert best == read_references(table.out_transcripts.get_path()), "the winners of the last row"


def test_a_label_prior_is_one_more_source(graph, lists, vocab, vocab_folder):
    (graph / "prior.txt").write_text("-2.5e+00\n" * vocab.num_pieces)
    job = LabelPriorJob(lists[0], tk.Path(str(graph / "prior.txt")), tk.Path(str(vocab_folder / "spm.model")))
    tuned = TuneScalesJob({"am": lists[0], "prior": job.out_nbest}, lists[1], row="am:1,prior")
    assert sis_standin.run_all() == 2
    for utterance in read_nbest(job.out_nbest.get_path(), name="prior"):
        for hypothesis in utterance.hypotheses:
            assert hypothesis.scores["prior"] == pytest.approx(-2.5 * len(vocab.encode(hypothesis.text)))
    assert -2 <= tuned.out_scale["prior"].get() <= 0


def test_ngram_bytes_are_those_of_the_verb(graph, text_file):
    from rescore.commands.ngram import ngram

    job = NgramJob([tk.Path(str(text_file))], order=2)
    sis_standin.run_job(job)
    ngram([text_file], graph / "verb.arpa", order=2)
    assert (graph / "verb.arpa").read_bytes() == Path(job.out_arpa.get_path()).read_bytes()


def test_bliss_jobs(graph):
    audio = sorted((DEMO / "audio").iterdir())[:2]
    body = "".join(
        f'<recording name="{path.stem}" audio="{path}"><segment name="1"><orth>\nTHE  TEXT\n</orth></segment></recording>'
        for path in audio
    )
    with gzip.open(graph / "c.xml.gz", "wt") as file:
        file.write(f'<?xml version="1.0"?><corpus name="c">{body}</corpus>')
    corpus = tk.Path(str(graph / "c.xml.gz"))
    text = BlissTextJob(corpus, lower=True)
    zips = [BuildOggZipJob(corpus, name=f"z{with_audio}", with_audio=with_audio) for with_audio in (True, False)]
    assert sis_standin.run_all() == 3
    assert gzip.open(text.out_text.get_path(), "rt").read() == "the text\n" * 2
    assert read_references(text.out_references.get_path()) == {f"c/{path.stem}/1": "the text" for path in audio}
    assert [Path(job.out_zip.get_path()).stat().st_size > 5000 for job in zips] == [True, False]


def test_paths_of_the_graph_become_strings_at_any_depth():
    path = tk.Path("/a/b")
    assert resolved({"x": [path, {"y": (path, 1)}], "z": "w"}) == {"x": ["/a/b", {"y": ["/a/b", 1]}], "z": "w"}


@pytest.mark.sisyphus
@pytest.mark.skipif(not REAL, reason="no Sisyphus")
def test_an_excluded_argument_keeps_the_id(graph):
    """What to do when a job gets a new argument (docs/cluster.md), shown on a twin of a job under the same name."""

    class Twin(NgramJob):
        __sis_hash_exclude__ = {"pruning": None}  # noqa: RUF012

        def __init__(self, text, *, order=4, pruning=None):
            super().__init__(text, order=order)

    plain = NgramJob([tk.Path("/a")], order=3)
    twins = [Twin([tk.Path("/a")], order=3, pruning=pruning) for pruning in (None, 1)]
    ids = [sis_standin.job_id(job).rpartition(".")[2] for job in (plain, *twins)]
    assert ids[0] == ids[1] != ids[2]
