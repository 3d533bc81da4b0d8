"""Score N-best files with one language model. A killed run can be resumed, and gives the same bytes in the end.

    run = score_file(["dev.py.gz"], scorer, "scores.jsonl")
    run.lists, run.hypotheses, run.seconds
    score_file(["dev.py.gz"], scorer, "part1.jsonl", shard=(0, 2))
    score_file(["dev.py.gz"], scorer, "part2.jsonl", shard=(1, 2))
    merge_parts(["part1.jsonl", "part2.jsonl"], "scores.jsonl")          # same bytes as without shards

Results are appended to a hidden file beside `out`, a few utterances at a time, and are written under the final name
only when complete. The header holds everything the scores depend on (a digest of the lists, the model, the estimator,
the seed), so that results of different settings are never mixed. `out` is locked: a second process that wants to write
it fails at once. The cost of a run and the counts of unknown words are not part of the result; they are in
`out`.cost.json (cost.py), with the header and the digest of a .py file, which can not hold a header.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rescore.cost import Cost, cost_file, read_cost, read_record, resumed_cost, write_cost
from rescore.lms.base import LanguageModelScorer
from rescore.nbest import read_metadata, read_nbest, read_sources, split_source, write_nbest
from rescore.nbest.formats.json_lines import FORMAT, format_json_lines, iterate_json_lines, write_json_lines
from rescore.nbest.types import Hypothesis, NBestList
from rescore.scores import NotFinite, SequenceScore, UnknownCounts
from returnn_bridge.bar import progress_bar
from returnn_bridge.digests import sha256_of
from returnn_bridge.files import check_outputs, has_suffix, lock, naming, quoted

SHARD = "shard"  # key in the header of a part: [its number, counted from 1, number of parts]
GROUP = 8  # utterances scored together; a constant, because an interruption must not change what shares a batch


@dataclass(frozen=True)
class ScoreRun:
    """The scored lists and what the scoring cost."""

    out: Path
    """Score file."""
    lists: list[NBestList]
    """Its lists, with the new score."""
    cost: Cost
    """What the scoring cost, over all its runs."""
    was_complete: bool = False
    """Whether the result existed before, so that nothing was computed."""

    @property
    def hypotheses(self) -> int:
        """Number of hypotheses in all lists."""
        return sum(len(utterance.hypotheses) for utterance in self.lists)

    @property
    def seconds(self) -> float:
        """Time that the scoring took."""
        return self.cost.seconds

    @property
    def passes(self) -> float:
        """Network passes run for all hypotheses; equal inputs are run once."""
        return self.cost.passes

    @property
    def unknown(self) -> UnknownCounts | None:
        """How much of the texts the model did not know; None if that is not recorded."""
        return self.cost.unknown

    def note(self) -> str:
        """A line which says that the result existed already; "" otherwise."""
        return f"{self.out}: complete already, nothing to do\n" if self.was_complete else ""


class Recorded(NamedTuple):
    """The metadata of the new score in a score file."""

    facts: dict[str, Any]
    """The description of the model."""
    seconds: float | None
    """Time it took to score the file, if known."""
    unknown: UnknownCounts | None = None
    """How much of the texts the model did not know, if recorded."""


def score_file(
    sources: Sequence[str],
    scorer: LanguageModelScorer,
    out: str | os.PathLike[str],
    *,
    shard: tuple[int, int] | None = None,
    new_only: bool = False,
    format: str | None = None,
) -> ScoreRun:
    """Score every hypothesis and write the lists with the new score `scorer.name` to `out`.

    A .jsonl holds all scores, a .py only the new one (each also .gz). Utterances, order and texts are kept. `new_only`:
    a .jsonl, too, holds only the new score, so that files of several models can be read together. `shard`: (index,
    count), the part of the utterances to score; it may be empty, and it is cut between groups so that `merge_parts`
    gives the same result as one run. `format`: name of the format of the sources. ValueError for unreadable lists, for
    a score name that the lists already have, for an `out` that holds results of other settings, is one of the sources
    or is being written by another process, and for a score that is not finite.
    """
    target = score_target(out)
    if shard is not None and (not 0 <= shard[0] < shard[1] or not target.name.endswith(".jsonl")):
        raise ValueError(f"{target}: shard {shard}; expected (index, count), 0 <= index < count, and a name in .jsonl")
    check_outputs([target], [split_source(source)[1] for source in sources])
    with lock(target):
        lists = read_sources(sources, format=format)
        if scorer.name in lists[0].hypotheses[0].scores:
            raise ValueError(
                f"{sources[0]}: its lists have a score {scorer.name!r}; expected another name (NAME=PATH for the model)"
            )
        header: dict[str, Any] = {"lists": digest(lists), "scores": {scorer.name: scorer.describe()}}
        if new_only:
            header["new_only"] = True
        if shard is not None:
            groups = -(-len(lists) // GROUP)
            first, last = (groups * index // shard[1] * GROUP for index in (shard[0], shard[0] + 1))
            lists = lists[first:last]
            header[SHARD] = [shard[0] + 1, shard[1]]
        if target.exists():
            return _finished(target, header, lists, scorer.name)
        return _score_rest(target, header, lists, scorer, new_only)


def _score_rest(
    target: Path, header: dict[str, Any], lists: Sequence[NBestList], scorer: LanguageModelScorer, new_only: bool
) -> ScoreRun:
    """Score the utterances that the hidden file does not hold yet, and write the complete result to `target`."""
    partial = _partial_of(target)
    done = _resume(partial, header, lists, scorer.name)
    cost = resumed_cost(target, done, Cost.nothing(scorer.unknown()))
    with progress_bar() as progress:
        bar = progress.add_task(f"scoring with {scorer.name}", total=len(lists), completed=done)
        for start in range(done, len(lists), GROUP):
            began, passes_before, unknown_before = time.monotonic(), scorer.passes_run, scorer.unknown()
            group = [
                with_score(utterance, scorer.name, found, alone=new_only)
                for utterance, found in _score(scorer, lists[start : start + GROUP])
            ]
            seconds, passes = time.monotonic() - began, scorer.passes_run - passes_before
            before, cost = cost, cost + Cost(seconds, passes, scorer.unknown() - unknown_before, len(group))
            write_cost(target, cost, total=len(lists), before=before)
            lines = [line.encode() for line in list(format_json_lines(group))[1:]]
            _append(partial, b"".join(lines if start else [_head(header), *lines]))
            progress.advance(bar, len(group))
    scored = list(iterate_json_lines(partial)) if lists else []
    if [utterance.seq_tag for utterance in scored] != [utterance.seq_tag for utterance in lists]:
        raise ValueError(
            f"{partial}: does not hold the utterances that were scored; expected one process at a time to write it"
        )
    _publish(target, scored, header, scorer.name)
    _write_final_cost(target, header, cost)
    partial.unlink(missing_ok=True)
    return ScoreRun(target, scored, cost)


def merge_parts(parts: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> ScoreRun:
    """Join the files of all shards into `out`, with the same bytes as `score_file` without shards. The parts are kept.

    ValueError if the parts, in any order, are not all shards of one run, if one is incomplete, if `out` is one of them,
    or if it exists with other content.
    """
    target = score_target(out)
    if not parts:
        raise ValueError(f"{target}: no part given; expected the files of all shards")
    check_outputs([target], parts)
    found: dict[int, Path] = {}
    first: dict[str, Any] = {}
    for part in map(Path, parts):
        header = read_metadata(part)
        index, count = _shard_of(header.pop(SHARD, None), part)
        if (found and (header, count) != (first["header"], first["count"])) or count != len(parts) or index in found:
            got = f"shard {index} of {count}" if count else "no shard"
            raise ValueError(f"{part}: {got}; expected the {len(parts)} shards of one run, each once")
        found[index], first = part, {"header": header, "count": count}
    header = first["header"]
    if not isinstance(header.get("scores"), dict) or len(header["scores"]) != 1:
        raise ValueError(f"{parts[0]}:1: scores is {quoted(header.get('scores'))}; expected the part of a scoring")
    (name,) = header["scores"]
    with lock(target):
        scored: list[NBestList] = []
        cost = Cost.nothing(None)
        for _, part in sorted(found.items()):
            lists = list(iterate_json_lines(part, may_be_empty=True))
            if lists:
                spent = read_cost(part) or Cost.nothing(None)
                cost = cost + spent if scored else spent
            scored += lists
        cost = dataclasses.replace(cost, utterances=len(scored))
        there = target.exists()
        if there and not _holds(target, scored, header, name):
            raise ValueError(f"{target}: exists and holds something else; expected a new name (or remove it)")
        if not there:
            cost_file(target).unlink(missing_ok=True)
            _publish(target, scored, header, name)
        if not cost_file(target).exists():
            _write_final_cost(target, header, cost)
    return ScoreRun(target, scored, cost, there)


def _shard_of(value: Any, part: Path) -> tuple[int, int]:
    """(its number, number of parts) in the header of a part; (0, 0) if there is none. ValueError for anything else."""
    if value is None:
        return 0, 0
    whole = isinstance(value, list) and len(value) == 2 and all(type(item) is int for item in value)
    if not whole or not 1 <= value[0] <= value[1]:
        raise ValueError(f"{part}:1: {SHARD} is {quoted(value)}; expected [number, number of parts], counted from 1")
    return value[0], value[1]


def recorded(sources: Sequence[str], *, format: str | None = None) -> dict[str, Recorded]:
    """The metadata of the new score of each score file among the sources, keyed by the name of the score."""
    found = {}
    for source in sources:
        name, path = split_source(source)
        scores = read_metadata(path, format=format).get("scores", {})
        if isinstance(scores, dict) and len(scores) == 1:
            cost = read_cost(Path(path))
            ((recorded_name, facts),) = scores.items()
            found[name or recorded_name] = (
                Recorded(facts, cost.seconds, cost.unknown) if cost else Recorded(facts, None)
            )
    return found


def with_score(utterance: NBestList, name: str, scores: Sequence[SequenceScore], *, alone: bool = False) -> NBestList:
    """The list with one more score for each hypothesis; `alone`: with only this score."""
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


def score_target(out: str | os.PathLike[str]) -> Path:
    """The path of a score file to be written. ValueError for a suffix other than .jsonl and .py."""
    target = Path(out)
    if not has_suffix(target, ".jsonl", ".py"):
        raise ValueError(
            f"{target}: unknown format for scores; expected a name ending in .jsonl or .py, with or without .gz"
        )
    return target


def _partial_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _head(header: dict[str, Any]) -> bytes:
    return next(iter(format_json_lines([], header))).encode()


def _publish(target: Path, scored: list[NBestList], header: dict[str, Any], name: str) -> None:
    """Write the complete results in their final format to `target`."""
    if has_suffix(target, ".jsonl"):
        write_json_lines(target, scored, header)
    else:
        write_nbest(target, scored, score=name)


def _holds(target: Path, scored: Sequence[NBestList], header: dict[str, Any], name: str) -> bool:
    """Whether an existing file has the content that `_publish` would write."""
    if has_suffix(target, ".jsonl"):
        same = _plain(header) == read_metadata(target)
        return same and list(iterate_json_lines(target, may_be_empty=not scored)) == scored
    alone = [
        (utterance.seq_tag, [(hyp.text, hyp.scores[name]) for hyp in utterance.hypotheses]) for utterance in scored
    ]
    return alone == [
        (utterance.seq_tag, [(hyp.text, hyp.scores[name]) for hyp in utterance.hypotheses])
        for utterance in read_nbest(target, name=name)
    ]


def _plain(header: dict[str, Any]) -> Any:
    """The header as it is after writing and reading JSON."""
    return json.loads(json.dumps(header))


def _score(scorer: LanguageModelScorer, group: Sequence[NBestList]) -> list[tuple[NBestList, list[SequenceScore]]]:
    """The utterances with their scores. ValueError naming model, utterance and rank for a score that is not finite."""
    try:
        return list(zip(group, scorer.score_group(group), strict=True))
    except NotFinite as error:
        raise ValueError(_describe_not_finite(scorer, group, error)) from None


def _describe_not_finite(scorer: LanguageModelScorer, group: Sequence[NBestList], error: NotFinite) -> str:
    """The error message for a score that is not finite: each text is scored alone to find the hypothesis at fault."""
    for utterance in group:
        for rank, hypothesis in enumerate(utterance.hypotheses, 1):
            try:
                scorer.score_texts(utterance.seq_tag, [hypothesis.text])
            except NotFinite as alone:
                return f"{scorer.source}: hypothesis {rank} of {utterance.seq_tag!r}, {hypothesis.text[:60]!r}: {alone}"
    among = f"{group[0].seq_tag!r} ... {group[-1].seq_tag!r}"
    return f"{scorer.source}: one of the hypotheses of the utterances {among}: {error}"


def _append(path: Path, data: bytes) -> None:
    with naming(path), open(path, "ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _resume(partial: Path, header: dict[str, Any], lists: Sequence[NBestList], name: str) -> int:
    """The number of utterances in `partial` that can be kept: all, or complete groups of them.

    The rest is cut off, and a file without any is removed. A killed process leaves the first lines of the results and
    perhaps half a line. Anything else, such as interleaved lines of two processes on a file system without locks, is
    scored again.
    """
    head = _head(header)
    data = partial.read_bytes() if partial.is_file() else b""
    if not data.startswith(head):
        if data.startswith(b"{") and FORMAT.encode() in data[:100] and data.count(b"\n") > 1:
            raise ValueError(
                f"{partial}: holds unfinished results of other settings; remove it to start again with these"
            )
        if data.count(b"\n") > 1:
            print(f"warning: {partial}: does not say what its lines are; they are scored again", file=sys.stderr)
        partial.unlink(missing_ok=True)
        return 0
    lines = data[len(head) :].split(b"\n")[:-1]  # the last element is "" or an incomplete line
    _cut(partial, head, lines)
    complete = 0
    try:
        for old, new in zip(lists, iterate_json_lines(partial, may_be_empty=True)):
            texts = ([hyp.text for hyp in utterance.hypotheses] for utterance in (old, new))
            if old.seq_tag != new.seq_tag or next(texts) != next(texts) or name not in new.hypotheses[0].scores:
                break
            complete += 1
    except ValueError:
        pass  # an unreadable line: only the lines before it can be kept
    if complete < len(lists):
        complete -= complete % GROUP
    if complete < len(lines):
        _cut(partial, head, lines[:complete])
    if not complete:
        partial.unlink()
    return complete


def _cut(partial: Path, head: bytes, lines: Sequence[bytes]) -> None:
    with open(partial, "r+b") as file:
        file.truncate(len(head) + sum(len(line) + 1 for line in lines))


def _finished(target: Path, header: dict[str, Any], lists: Sequence[NBestList], name: str) -> ScoreRun:
    """The existing result. ValueError if it is incomplete or was made with other settings or lists."""
    partial = _partial_of(target)
    ours = partial.is_file() and partial.read_bytes().startswith(_head(header))
    if has_suffix(target, ".jsonl"):
        if _plain(header) != read_metadata(target):
            raise _made_otherwise(target)
        scored = list(iterate_json_lines(target, may_be_empty=not lists))
        if [utterance.seq_tag for utterance in scored] != [utterance.seq_tag for utterance in lists]:
            raise ValueError(
                f"{target}: holds {len(scored)} utterances, not those of the lists; expected all {len(lists)} "
                "in their order (remove it to score them again)"
            )
    else:
        scored = _finished_py(target, header, lists, name, resumable=ours)
    if ours:  # killed between writing the result and recording its cost
        _write_final_cost(target, header, resumed_cost(target, len(lists), Cost.nothing(None)))
        partial.unlink(missing_ok=True)
    cost = read_cost(target) or Cost(float("nan"), float("nan"), None, len(lists))
    return ScoreRun(target, scored, cost, True)


def _finished_py(
    target: Path, header: dict[str, Any], lists: Sequence[NBestList], name: str, *, resumable: bool
) -> list[NBestList]:
    """The lists of an existing .py result, which does not hold its settings.

    They are in the record beside it, or, if the process was killed before writing that, in the header of the hidden
    file (`resumable`).
    """
    record = read_record(target)
    if record == _origin(target, header):
        return read_nbest(target, name=name)
    if resumable and lists and _resume(_partial_of(target), header, lists, name) == len(lists):
        scored = list(iterate_json_lines(_partial_of(target)))
        if _holds(target, scored, header, name):
            return scored
    if not isinstance(record, dict):
        raise ValueError(
            f"{target}: exists, and its format does not record how it was made; expected a new name (or remove it)"
        )
    if record.get("header") != _plain(header):
        raise _made_otherwise(target)
    raise ValueError(f"{target}: was changed after it was written; expected a new name (or remove it)")


def _origin(target: Path, header: dict[str, Any]) -> dict[str, Any]:
    """How a .py result was made, and which one it is."""
    return {"header": _plain(header), "sha256": sha256_of(target)}


def _write_final_cost(target: Path, header: dict[str, Any], cost: Cost) -> None:
    record = None if has_suffix(target, ".jsonl") else _origin(target, header)
    write_cost(target, cost, total=cost.utterances, record=record)


def _made_otherwise(target: Path) -> ValueError:
    return ValueError(f"{target}: exists and was made with other settings or lists; expected a new name (or remove it)")
