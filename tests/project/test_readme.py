"""Every block of the README, and then of the pages with commands, runs in one folder with small files of the names they use."""

from __future__ import annotations

import gzip
import itertools
import re
import shlex
from pathlib import Path

import pytest

from conftest import DEMO, random_text
from rescore.cli import main
from rescore.nbest import read_nbest, write_nbest
from rescore.nbest.references import read_references, write_transcripts

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = ["README.md", "docs/families.md", "docs/data.md"]
SHORT_PAGES = ["docs/rescoring.md", "docs/coming_from.md"]
SMALL = [
    "model.hidden_size=32",
    "model.num_blocks=1",
    "model.num_heads=2",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "trainer.logger=none",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The demo's first utterances under the names of the pages."""
    (tmp_path / "train.txt.gz").symlink_to(DEMO / "train.txt.gz")
    (tmp_path / "dev.txt").write_text(random_text(20))
    (tmp_path / "audio").symlink_to(DEMO / "audio")
    spoken = {tag.removeprefix("web-test/"): text for tag, text in read_references(DEMO / "test.ref.py.gz").items()}
    write_transcripts(tmp_path / "audio.txt", {path.stem: spoken[path.stem] for path in (DEMO / "audio").iterdir()})
    for name in ("dev", "test"):
        references = read_references(DEMO / f"{name}.ref.py.gz")
        tags = list(references)[:4]
        write_transcripts(tmp_path / f"{name}.ref.py.gz", {tag: references[tag] for tag in tags})
        for kind, target in (("nbest", f"{name}.py.gz"), ("bigram", f"{name}.bigram.py.gz")):
            lists = [utterance for utterance in read_nbest(DEMO / f"{name}.{kind}.py.gz") if utterance.seq_tag in tags]
            write_nbest(
                tmp_path / target, [type(lists[0])(utt.seq_tag, utt.hypotheses[:6]) for utt in lists], score="am"
            )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_blocks(pages, capsys) -> int:
    """Run the blocks of the pages in order; the number of commands."""
    blocks = [
        (page, kind, block)
        for page in pages
        for kind, block in re.findall(r"```(bash|python)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    ]
    ran = 0
    for page, kind, block in blocks:
        if kind == "python":
            exec(compile(block, page, "exec"), {})
            continue
        for line in block.replace("\\\n", " ").strip().splitlines():
            program, *arguments = shlex.split(line)
            assert program == "dlm"
            if arguments[0] == "train":
                arguments += SMALL  # the same command, a smaller network and fewer steps
            with pytest.raises(SystemExit) as stopped:
                main(arguments)
            assert stopped.value.code == 0, f"{page}: {line}: {capsys.readouterr()}"
            ran += 1
    return ran


def test_every_block_runs(folder, capsys):
    assert run_blocks(PAGES, capsys) >= 20
    assert (folder / "rescored" / "report.html").stat().st_size > 10_000
    assert (folder / "masked.py.gz").exists()


def test_every_block_runs_with_the_shipped_model(folder, capsys):
    demo = folder / "data" / "demo"
    demo.mkdir(parents=True)
    (demo / "masked-long").symlink_to(DEMO / "masked-long")
    with gzip.open(DEMO / "train.txt.gz") as whole, gzip.open(demo / "train.txt.gz", "wb") as beginning:
        beginning.writelines(itertools.islice(whole, 3000))
    assert run_blocks(SHORT_PAGES, capsys) >= 10
    rows = (folder / "rescored_demo" / "wer.md").read_text()
    assert all(f"| {row} " in rows for row in ("first in list", "am only", "all given scores", "+ 3gram and masked ‡"))


def test_the_smallest_list_is_read(tmp_path):
    (table,) = re.findall(r"```csv\n(.*?)```", (ROOT / "docs/rescoring.md").read_text(), re.DOTALL)
    (tmp_path / "lists.csv").write_text(table)
    assert read_nbest(tmp_path / "lists.csv")[0].hypotheses[1].scores == {"am": -3.9, "lm": -9.9}


def test_readme_names_every_verb():
    from rescore.cli import all_commands

    for command in all_commands():
        assert f"dlm {command.__name__}" in README, command.__name__
