"""Score a hypothesis file with one language model; killed at any moment, the same command goes on to the same bytes.

    run = score_file(["dev.py.gz"], scorer, "scores.jsonl")
    run.lists, run.hypotheses, run.seconds
    score_file(["dev.py.gz"], scorer, "part1.jsonl", shard=(0, 2)); score_file(["dev.py.gz"], scorer, "part2.jsonl", shard=(1, 2))
    merge_parts(["part1.jsonl", "part2.jsonl"], "scores.jsonl")         # the same bytes as scored in one go

Results are appended to a hidden file beside `out`, a few utterances at a time, and get the final name only when complete. Its header holds
everything the scores depend on (a digest of the lists, the model, the estimator, the seed); results of other settings are never mixed.
What a run cost is no part of the result: it stands in `out`.cost.json.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.progress import Progress

from rescore.format_json import format_json_lines, iterate_json_lines
from rescore.hypotheses import Hypothesis, NBestList
from rescore.nbest import read_metadata, read_nbest, read_sources, split_source, write_nbest
from rescore.scores import SequenceScore
from returnn_bridge.files import has_suffix, write_whole

SHARD = "shard"  # in the header of a part: its number, from 1, and how many there are
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


def score_file(
    sources: Sequence[str],
    scorer: TextScorer,
    out: str | os.PathLike[str],
    *,
    shard: tuple[int, int] | None = None,
    new_only: bool = False,
) -> ScoreRun:
    """Add `scorer.name` to the scores of every hypothesis and write all of them to `out` (.jsonl or .jsonl.gz: all scores; .py(.gz): the new one).

    Nothing is dropped: the same utterances, order and texts come out. `new_only`: a .jsonl, too, holds the new score alone, so that
    files of several models can be read together. `shard`: (index, count), the part of the utterances to score; it is cut between
    groups, so that `merge_parts` gives what one run would, and may be empty.
    ValueError for unreadable lists, for a score name that is there already, and for an `out` that holds results of other settings.
    """
    target = _score_target(out)
    if shard is not None and (not 0 <= shard[0] < shard[1] or not target.name.endswith(".jsonl")):
        raise ValueError(f"{target}: shard {shard}; expected (index, count), 0 <= index < count, and a name in .jsonl")
    lists = read_sources(sources)
    if scorer.name in lists[0].hypotheses[0].scores:
        raise ValueError(
            f"{sources[0]}: score {scorer.name!r} is there already; expected a new name (NAME=PATH for the model)"
        )
    header: dict[str, Any] = {"lists": digest(lists), "scores": {scorer.name: scorer.describe()}}
    if new_only:
        header["new_only"] = True
    if shard is not None:
        groups = -(-len(lists) // GROUP)
        first, last = (groups * place // shard[1] * GROUP for place in (shard[0], shard[0] + 1))
        lists = lists[first:last]
        header[SHARD] = [shard[0] + 1, shard[1]]
    cost_file = _cost_file(target)
    if target.exists():
        return _finished(target, header, cost_file)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    done = _resume(partial, header)
    cost = json.loads(cost_file.read_text()) if done and cost_file.is_file() else {"seconds": 0.0, "passes": 0}
    if not lists:  # an empty shard
        _append(partial, _head(header))
    with Progress(transient=True) as progress:
        bar = progress.add_task(f"scoring with {scorer.name}", total=len(lists), completed=done)
        for start in range(done, len(lists), GROUP):
            began, passes_before = time.monotonic(), getattr(scorer, "rows_run", 0)
            group = [
                with_score(utterance, scorer.name, found, alone=new_only)
                for utterance, found in _score(scorer, lists[start : start + GROUP])
            ]
            cost["seconds"] += time.monotonic() - began
            cost["passes"] += getattr(scorer, "rows_run", 0) - passes_before
            cost["done"] = (start + len(group)) / len(lists)
            lines = [line.encode() for line in list(format_json_lines(group))[1:]]
            _append(partial, b"".join(lines if start else [_head(header), *lines]))
            with write_whole(cost_file) as write:
                write(json.dumps(cost) + "\n")
            progress.advance(bar, len(group))
    scored = list(iterate_json_lines(partial)) if lists else []
    _publish(partial, target, scored, header, scorer.name)
    return ScoreRun(target, scored, cost["seconds"], cost["passes"])


def merge_parts(parts: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> ScoreRun:
    """Put the files of all shards together: the bytes that `score_file` without shards writes to `out`. The parts stay.

    ValueError if they are not all of the shards of one run, in any order.
    """
    target = _score_target(out)
    found: dict[int, Path] = {}
    first: dict[str, Any] = {}
    for part in map(Path, parts):
        header = read_metadata(part)
        index, count = header.pop(SHARD, (0, 0))
        if (found and (header, count) != (first["header"], first["count"])) or count != len(parts) or index in found:
            got = f"shard {index} of {count}" if count else "no shard"
            raise ValueError(f"{part}: {got}; expected the {len(parts)} shards of one run, each once")
        found[index], first = part, {"header": header, "count": count}
    header = first["header"]
    name = next(iter(header["scores"]))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with open(partial, "wb") as file:
        file.write(_head(header))
        for _, part in sorted(found.items()):
            file.writelines(itertools.islice(open(part, "rb"), 1, None))
        file.flush()
        os.fsync(file.fileno())
    costs = [json.loads(_cost_file(part).read_text()) for part in found.values() if _cost_file(part).is_file()]
    cost = {key: sum(entry[key] for entry in costs) for key in ("seconds", "passes")}
    with write_whole(_cost_file(target)) as write:
        write(json.dumps(cost) + "\n")
    scored = list(iterate_json_lines(partial))
    _publish(partial, target, scored, header, name)
    return ScoreRun(target, scored, cost["seconds"], cost["passes"])


def recorded(sources: Sequence[str]) -> dict[str, tuple[dict[str, Any], float | None]]:
    """What score files among the sources say of their new score: {name: (description of the model, seconds it took if known)}."""
    found = {}
    for source in sources:
        name, path = split_source(source)
        if not has_suffix(path, ".jsonl"):
            continue
        scores = read_metadata(path).get("scores", {})
        if isinstance(scores, dict) and len(scores) == 1:
            cost_file = _cost_file(Path(path))
            cost = json.loads(cost_file.read_text()) if cost_file.is_file() else {}
            ((own, facts),) = scores.items()
            found[name or own] = (facts, cost.get("seconds"))
    return found


def with_score(utterance: NBestList, name: str, scores: Sequence[SequenceScore], *, alone: bool = False) -> NBestList:
    """The same list with one more score for each hypothesis, or with that one alone."""
    hypotheses = tuple(
        Hypothesis(
            hyp.text,
            {**({} if alone else hyp.scores), name: score.log_prob},
            {**({} if alone else hyp.details), name: score.details()},
        )
        for hyp, score in zip(utterance.hypotheses, scores, strict=True)
    )
    return dataclasses.replace(utterance, hypotheses=hypotheses)


def digest(lists: Sequence[NBestList]) -> str:
    """16 hex digits that change with any tag, text, score or order."""
    state = hashlib.sha256()
    for line in format_json_lines(lists):
        state.update(line.encode())
    return state.hexdigest()[:16]


def _score_target(out: str | os.PathLike[str]) -> Path:
    target = Path(out)
    if not has_suffix(target, ".jsonl", ".py"):
        raise ValueError(
            f"{target}: unknown format for scores; expected a name ending in .jsonl or .py, with or without .gz"
        )
    return target


def _cost_file(target: Path) -> Path:
    return target.with_name(target.name + ".cost.json")


def _head(header: dict[str, Any]) -> bytes:
    return next(iter(format_json_lines([], header))).encode()


def _publish(partial: Path, target: Path, scored: list[NBestList], header: dict[str, Any], name: str) -> None:
    """The complete results in `partial` get their form and name."""
    if target.name.endswith(".jsonl"):
        os.replace(partial, target)
        return
    is_lines = has_suffix(target, ".jsonl")
    write_nbest(target, scored, score=None if is_lines else name, metadata=header if is_lines else None)
    os.unlink(partial)


def _score(scorer: TextScorer, group: Sequence[NBestList]) -> Iterator[tuple[NBestList, list[SequenceScore]]]:
    """All texts of the group; in one call where the scorer can pool utterances into batches."""
    whole = getattr(scorer, "score_utterances", None)  # one that looks at the other scores too
    if whole is not None:
        yield from zip(group, whole(group), strict=True)
        return
    pooled = getattr(scorer, "score_lists", None)
    texts = [[hypothesis.text for hypothesis in utterance.hypotheses] for utterance in group]
    if pooled is not None:
        yield from zip(group, pooled([(utterance.seq_tag, rows) for utterance, rows in zip(group, texts)]), strict=True)
        return
    for utterance, rows in zip(group, texts):
        unique = list(dict.fromkeys(rows))
        found = dict(zip(unique, scorer.score_texts(utterance.seq_tag, unique), strict=True))
        yield utterance, [found[row] for row in rows]


def _append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _resume(partial: Path, header: dict[str, Any]) -> int:
    """How many utterances of `partial` are complete; cuts off what is not, removes it where none is."""
    head = _head(header)
    data = partial.read_bytes() if partial.is_file() else b""
    if not data.startswith(head):
        if data.count(b"\n") > 1:
            raise ValueError(
                f"{partial}: holds unfinished results of other settings; remove it to start again with these"
            )
        partial.unlink(missing_ok=True)
        return 0
    lines = data[len(head) :].split(b"\n")[:-1]  # behind the last line end there may be half a line
    complete = len(lines) - len(lines) % GROUP
    if not complete:  # nothing to go on from
        partial.unlink()
        return 0
    with open(partial, "r+b") as file:
        file.truncate(len(head) + sum(len(line) + 1 for line in lines[:complete]))
    return complete


def _finished(target: Path, header: dict[str, Any], cost_file: Path) -> ScoreRun:
    """What is there already, if it was made with the same settings."""
    if not has_suffix(target, ".jsonl"):
        raise ValueError(
            f"{target}: exists, and its format can not say how it was made; expected a new name (or remove it)"
        )
    if json.loads(json.dumps(header)) == read_metadata(target):
        cost = (
            json.loads(cost_file.read_text())
            if cost_file.is_file()
            else {"seconds": float("nan"), "passes": float("nan")}
        )
        print(f"{target}: complete already, nothing to do")
        empty = SHARD in header and len(target.read_bytes().splitlines()) == 1
        return ScoreRun(target, [] if empty else read_nbest(target), cost["seconds"], cost["passes"])
    raise ValueError(f"{target}: exists and was made with other settings or lists; expected a new name (or remove it)")
