"""Score a hypothesis file with one language model; killed at any moment, the same command goes on to the same bytes.

    run = score_file(["dev.py.gz"], scorer, "scores.jsonl")
    run.utterances, run.hypotheses, run.seconds

Results are appended to a hidden file beside `out`, a few utterances at a time, and get the final name only when complete. Its header holds
everything the scores depend on (a digest of the lists, the model, the estimator, the seed); results of other settings are never mixed.
What a run cost is no part of the result: it stands in `out`.cost.json.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.progress import Progress

from rescore.files import has_suffix, write_whole
from rescore.format_json import format_json_lines
from rescore.hypotheses import Hypothesis, NBestList
from rescore.nbest import read_metadata, read_nbest, read_sources, write_nbest
from rescore.scores import SequenceScore

GROUP = 8  # utterances that are scored together: fixed, so that an interruption can not change what shares a batch


class TextScorer(Protocol):
    """A language model that can score texts."""

    name: str

    def score_texts(self, seq_tag: str, texts: Sequence[str]) -> list[SequenceScore]: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ScoreRun:
    """What scoring a file gave and cost."""

    out: Path
    lists: list[NBestList]
    seconds: float
    passes: float
    """Network passes over all hypotheses that were run (equal inputs run once)."""

    @property
    def hypotheses(self) -> int:
        return sum(len(utterance.hypotheses) for utterance in self.lists)


def score_file(sources: Sequence[str], scorer: TextScorer, out: str | os.PathLike[str]) -> ScoreRun:
    """Add `scorer.name` to the scores of every hypothesis and write all of them to `out` (.jsonl or .jsonl.gz: all scores; .py(.gz): the new one).

    Nothing is dropped: the same utterances, order and texts come out. ValueError for unreadable lists, for a score name that is there
    already, and for an `out` that holds results of other settings.
    """
    target = Path(out)
    if not has_suffix(target, ".jsonl", ".py"):
        raise ValueError(
            f"{target}: unknown format for scores; expected a name ending in .jsonl or .py, with or without .gz"
        )
    lists = read_sources(sources)
    if scorer.name in lists[0].hypotheses[0].scores:
        raise ValueError(
            f"{sources[0]}: score {scorer.name!r} is there already; expected a new name (NAME=PATH for the model)"
        )
    header = {"lists": digest(lists), "scores": {scorer.name: scorer.describe()}}
    cost_file = target.with_name(target.name + ".cost.json")
    if target.exists():
        return _finished(target, header, cost_file)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    done = _resume(partial, header)
    cost = json.loads(cost_file.read_text()) if done and cost_file.is_file() else {"seconds": 0.0, "passes": 0}
    with open(partial, "ab") as file, Progress(transient=True) as progress:
        bar = progress.add_task(f"scoring with {scorer.name}", total=len(lists), completed=done)
        for start in range(done, len(lists), GROUP):
            began, passes_before = time.monotonic(), getattr(scorer, "rows_run", 0)
            group = [
                with_score(utterance, scorer.name, found)
                for utterance, found in _score(scorer, lists[start : start + GROUP])
            ]
            cost["seconds"] += time.monotonic() - began
            cost["passes"] += getattr(scorer, "rows_run", 0) - passes_before
            for line in list(format_json_lines(group))[1:]:
                file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
            with write_whole(cost_file) as write:
                write(json.dumps(cost) + "\n")
            progress.advance(bar, len(group))
    scored = read_nbest_hidden(partial)
    if target.name.endswith(".jsonl"):
        os.replace(partial, target)
    else:
        is_lines = has_suffix(target, ".jsonl")
        write_nbest(target, scored, score=None if is_lines else scorer.name, metadata=header if is_lines else None)
        os.unlink(partial)
    return ScoreRun(target, scored, cost["seconds"], cost["passes"])


def read_nbest_hidden(partial: Path) -> list[NBestList]:
    """The complete result before it has its name."""
    from rescore.format_json import iterate_json_lines

    return list(iterate_json_lines(partial))


def with_score(utterance: NBestList, name: str, scores: Sequence[SequenceScore]) -> NBestList:
    """The same list with one more score for each hypothesis."""
    hypotheses = tuple(
        Hypothesis(hyp.text, {**hyp.scores, name: score.log_prob}, {**hyp.details, name: score.details()})
        for hyp, score in zip(utterance.hypotheses, scores, strict=True)
    )
    return dataclasses.replace(utterance, hypotheses=hypotheses)


def digest(lists: Sequence[NBestList]) -> str:
    """16 hex digits that change with any tag, text, score or order."""
    state = hashlib.sha256()
    for line in format_json_lines(lists):
        state.update(line.encode())
    return state.hexdigest()[:16]


def _score(scorer: TextScorer, group: Sequence[NBestList]) -> Iterator[tuple[NBestList, list[SequenceScore]]]:
    """All texts of the group; in one call where the scorer can pool utterances into batches."""
    pooled = getattr(scorer, "score_lists", None)
    texts = [[hypothesis.text for hypothesis in utterance.hypotheses] for utterance in group]
    if pooled is not None:
        yield from zip(group, pooled([(utterance.seq_tag, rows) for utterance, rows in zip(group, texts)]), strict=True)
        return
    for utterance, rows in zip(group, texts):
        unique = list(dict.fromkeys(rows))
        found = dict(zip(unique, scorer.score_texts(utterance.seq_tag, unique), strict=True))
        yield utterance, [found[row] for row in rows]


def _resume(partial: Path, header: dict[str, Any]) -> int:
    """How many utterances of `partial` are complete; cuts off what is not, starts the file where there is none."""
    head = next(iter(format_json_lines([], header))).encode()
    data = partial.read_bytes() if partial.is_file() else b""
    if not data.startswith(head):
        if data and b"\n" in data:
            raise ValueError(
                f"{partial}: holds unfinished results of other settings; remove it to start again with these"
            )
        partial.write_bytes(head)
        return 0
    lines = data[len(head) :].split(b"\n")[:-1]  # behind the last line end there may be half a line
    complete = len(lines) - len(lines) % GROUP
    with open(partial, "r+b") as file:
        file.truncate(len(head) + sum(len(line) + 1 for line in lines[:complete]))
    return complete


def _finished(target: Path, header: dict[str, Any], cost_file: Path) -> ScoreRun:
    """What is there already, if it was made with the same settings."""
    if has_suffix(target, ".jsonl") and json.loads(json.dumps(header)) == read_metadata(target):
        cost = (
            json.loads(cost_file.read_text())
            if cost_file.is_file()
            else {"seconds": float("nan"), "passes": float("nan")}
        )
        print(f"{target}: complete already, nothing to do")
        return ScoreRun(target, read_nbest(target), cost["seconds"], cost["passes"])
    raise ValueError(f"{target}: exists and was made with other settings or lists; expected a new name (or remove it)")
