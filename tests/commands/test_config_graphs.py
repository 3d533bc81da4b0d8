"""The experiments in config/: the graphs build, their ids stay, and the reference experiment runs on small corpora of the right formats.

Recorded ids are those of the real Sisyphus. After a change that is meant to orphan finished work:

    PYTHONPATH=SISYPHUS:recipe:.:tests python tests/test_config_graphs.py > tests/data/job_ids.json
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

import sis_standin

REAL = sis_standin.install()

from sisyphus import tk  # noqa: E402

from config import demo, librispeech  # noqa: E402
from conftest import DEMO, random_text  # noqa: E402
from rescore.nbest import NBestList, read_nbest, write_nbest  # noqa: E402
from rescore.nbest.references import read_references, write_transcripts  # noqa: E402
from returnn_bridge.jobs import TrainVocabJob  # noqa: E402

RECORDED = Path(__file__).parents[1] / "data" / "job_ids.json"
EXPERIMENTS = {"demo": demo.py, "librispeech": librispeech.py}


@pytest.fixture
def graph(tmp_path):
    with sis_standin.setup(tmp_path):
        yield tmp_path


def ids_of(name: str) -> list[str]:
    EXPERIMENTS[name]()
    return sorted(map(sis_standin.job_id, sis_standin.jobs()))


def test_demo_graph(graph):
    demo.py()
    kinds = Counter(type(job).__name__ for job in sis_standin.jobs())
    assert kinds == {
        "TrainVocabJob": 1,
        "TrainLmJob": 2,
        "NgramJob": 1,
        "ScoreNbestJob": 8,
        "PerplexityJob": 4,
        "RescoreJob": 1,
    }
    assert {"demo/wer.md", "demo/report.html"} <= set(sis_standin.registered())


def test_demo_graph_has_the_rows_of_the_makefile():
    makefile = (Path(demo.__file__).parent.parent / "Makefile").read_text()
    for name, row in demo.ROWS.items():
        assert f'"{name}={row}"' in makefile


def test_librispeech_graph_with_its_placeholders(graph):
    librispeech.py()
    kinds = Counter(type(job).__name__ for job in sis_standin.jobs())
    assert kinds == {
        "BlissTextJob": 3,  # training transcripts, two dev sets
        "BuildOggZipJob": 3,
        "TrainVocabJob": 1,
        "TrainLmJob": 2,
        "NgramJob": 1,
        "PerplexityJob": 3,
        "ScoreNbestJob": 16,  # four models, four sets
        "TuneScalesJob": 7,  # one a row that has a free scale, all on one set
        "WerTableJob": 4,
        "ReportJob": 1,
    }
    outputs = set(sis_standin.registered())
    assert {f"librispeech/wer/{name}.md" for name in librispeech.SETS} | {"librispeech/wer.md"} <= outputs


def test_scales_come_from_the_tuning_set_only(graph):
    librispeech.py()
    for job in sis_standin.jobs():
        if type(job).__name__ == "TuneScalesJob":
            paths = [job.references.get_path(), job.nbest["am"].get_path()]
            assert all(f"/{librispeech.TUNE_ON}/" in path for path in paths)
            scored = [path.creator.nbest.get_path() for name, path in job.nbest.items() if name != "am"]
            assert all(f"/{librispeech.TUNE_ON}/" in path for path in scored)


def test_moving_the_corpora_moves_no_work(graph):
    before = set(ids_of("librispeech"))
    with sis_standin.setup(graph):
        moved = librispeech.Files(lm_text="/elsewhere/librispeech-lm-norm.txt.gz")
        librispeech.librispeech(moved)
        assert {sis_standin.job_id(job) for job in sis_standin.jobs()} == before


def test_files_may_be_paths_of_the_graph(graph):
    """As the outputs of i6_core's jobs, which have no name to cut."""
    upstream = TrainVocabJob([tk.Path("/some/text")], size=10)
    paths = {part: upstream.output_path(part) for part in librispeech.SETS}
    files = librispeech.Files(
        lm_text=upstream.output_path("lm.txt.gz"),
        train_corpus=upstream.output_path("train.xml.gz"),
        dev_corpora={"dev": upstream.output_path("dev.xml.gz")},
        nbest=paths,
        references=paths,
        spm_model=upstream.out_model,
        four_gram=upstream.output_path("4gram.arpa"),
    )
    librispeech.librispeech(files)
    kinds = Counter(type(job).__name__ for job in sis_standin.jobs())
    assert kinds["TrainVocabJob"] == 1 and "NgramJob" not in kinds
    scored = [job for job in sis_standin.jobs() if type(job).__name__ == "ScoreNbestJob"]
    assert {job.nbest.creator for job in scored} == {upstream}


@pytest.mark.sisyphus
@pytest.mark.skipif(not REAL, reason="no Sisyphus")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_ids_are_the_recorded_ones(graph, name):
    assert ids_of(name) == json.loads(RECORDED.read_text())[name]


@pytest.mark.slow
def test_librispeech_runs_on_small_corpora(graph):
    report = librispeech.librispeech(
        small_corpora(graph),
        vocab_size=44,
        changes={
            "model.hidden_size": 32,
            "model.num_blocks": 1,
            "model.num_heads": 2,
            "trainer.max_steps": 4,
            "trainer.val_check_interval": 2,
            "trainer.logger": "none",
            "data.num_workers": 0,
        },
        passes=4,
        num_shards=2,
        rqmt={"gpu": 0, "cpu": 1, "mem": 2, "time": 0.5},
    )
    assert sis_standin.run_all() == 41
    table = Path(report.out_table.get_path()).read_text()
    assert "| system | dev-clean | dev-other* | test-clean | test-other |" in table
    assert table.count("+ masked diffusion LM") == 2


def small_corpora(folder: Path) -> librispeech.Files:
    """A line of everything the experiment reads: gz text, Bliss XML with audio, RETURNN N-best lists and references."""
    with gzip.open(folder / "lm.txt.gz", "wt") as file:
        file.write(random_text(400, seed=1))
    audio = sorted((DEMO / "audio").iterdir())
    texts = random_text(12, seed=2).splitlines()
    for name in ("train", "dev-clean", "dev-other"):
        recordings = "".join(
            f'<recording name="{name}{number}" audio="{audio[number % len(audio)]}"><segment name="{name}{number}" start="0.0" end="1.0">'
            f"<orth> {text} </orth></segment></recording>\n"
            for number, text in enumerate(texts)
        )
        with gzip.open(folder / f"{name}.xml.gz", "wt") as file:
            file.write(f'<?xml version="1.0" encoding="utf8"?>\n<corpus name="{name}">\n{recordings}</corpus>\n')
    lists = read_nbest(DEMO / "dev.nbest.py.gz")[:10]
    references = read_references(DEMO / "dev.ref.py.gz")
    for name in librispeech.SETS:
        (folder / name).mkdir()
        write_nbest(folder / name / "output.py.gz", [NBestList(u.seq_tag, u.hypotheses[:3]) for u in lists])
        write_transcripts(folder / name / "references.py", {u.seq_tag: references[u.seq_tag] for u in lists})
    return librispeech.Files(
        lm_text=str(folder / "lm.txt.gz"),
        train_corpus=str(folder / "train.xml.gz"),
        dev_corpora={name: str(folder / f"{name}.xml.gz") for name in ("dev-clean", "dev-other")},
        nbest={name: str(folder / name / "output.py.gz") for name in librispeech.SETS},
        references={name: str(folder / name / "references.py") for name in librispeech.SETS},
    )


if __name__ == "__main__":
    if not REAL:
        sys.exit("the real Sisyphus is not importable; expected it on PYTHONPATH")
    found = {}
    for experiment in EXPERIMENTS:
        with tempfile.TemporaryDirectory() as temporary, sis_standin.setup(Path(temporary)):
            found[experiment] = ids_of(experiment)
    print(json.dumps(found, indent=1))
