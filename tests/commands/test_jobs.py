"""Jobs do what their verbs do, to the byte, and their ids hold no resources. With the real Sisyphus when it is importable, else the stand-in."""

from __future__ import annotations

import ast
import gzip
import hashlib
import inspect
import json
from pathlib import Path

import pytest

import sis_standin

REAL = sis_standin.install()

from sisyphus import Task, tk  # noqa: E402

import diffusion_lm.jobs  # noqa: E402
import rescore.jobs  # noqa: E402
import returnn_bridge.jobs  # noqa: E402
from conftest import DEMO  # noqa: E402
from diffusion_lm.jobs import TrainLmJob  # noqa: E402
from rescore.commands.options import RESAMPLES  # noqa: E402
from rescore.jobs import (  # noqa: E402
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
    assert len(JOBS) == 12
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


def test_a_job_is_on_one_node(graph):
    with pytest.raises(ValueError, match="one node"):
        TrainLmJob("demo_ar", {"trainer.num_nodes": 2})


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
