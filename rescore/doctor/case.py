"""What is examined: the files that are used together, read as far as they can be read, and a finding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from typing import Literal

from rescore.combination.scales import Scales
from rescore.lms.base import LanguageModelScorer
from rescore.nbest import iterate_nbest, read_sources, split_source
from rescore.nbest.references import read_references
from rescore.nbest.types import Hypothesis, NBestList
from rescore.wer import ErrorTable, error_table
from returnn_bridge.files import has_suffix, iterate_lines, quoted

_LINES = 200  # of a text that is looked at


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or may be."""

    severity: Literal["error", "warning"]
    """"error" if a table made from these files would be wrong or empty of meaning."""
    what: str
    """What was found."""
    where: str
    """The file, and where known the utterance and the rank, to look at."""
    advice: str
    """What to do."""
    check: str = ""
    """Name of the check, in `CHECKS`; filled in by `examine`."""

    def __str__(self) -> str:
        return f"{self.severity}: {self.check}: {self.where}: {self.what}; {self.advice}"


@dataclass(frozen=True)
class Source:
    """One N-best file."""

    path: str
    """Its path."""
    lists: Sequence[NBestList]
    """Its lists; scores may be nan or infinite."""

    def where(self, utterance: NBestList | None = None, rank: int = 0) -> str:
        """The place for a finding; ranks start at 1, 0 stands for the whole list."""
        spot = f": utterance {quoted(utterance.seq_tag)}" if utterance else ""
        return self.path + spot + (f", hypothesis {rank}" if rank else "")

    def hypotheses(self) -> Iterator[tuple[NBestList, int, Hypothesis]]:
        """(utterance, rank from 1, hypothesis) of all lists."""
        for utterance in self.lists:
            for rank, hypothesis in enumerate(utterance.hypotheses, 1):
                yield utterance, rank, hypothesis

    @cached_property
    def score_names(self) -> list[str]:
        """The names of the scores, as in the first hypothesis."""
        return list(self.lists[0].hypotheses[0].scores)

    @cached_property
    def words(self) -> set[str]:
        """All words of the hypotheses."""
        return {word for _, _, hypothesis in self.hypotheses() for word in hypothesis.text.split()}


@dataclass(frozen=True)
class Case:
    """Files that are used together."""

    sources: Sequence[Source]
    """The N-best files that could be read."""
    references: Mapping[str, str] | None = None
    """References by utterance."""
    references_path: str = ""
    """The file of the references, or the first N-best file if it holds them."""
    tests: Sequence[Source] = ()
    """N-best files of the test set, if `sources` are to tune on."""
    model: LanguageModelScorer | None = None
    """A language model whose unknown words are counted."""
    scales: Mapping[str, Scales] = field(default_factory=dict)
    """Tuned scales by the name of their row."""
    merged: Sequence[NBestList] = ()
    """The lists with the scores of all files; empty if the files do not fit together or a score is nan or +inf."""
    problems: Sequence[Finding] = ()
    """What reading the files found."""

    @cached_property
    def judged(self) -> list[NBestList]:
        """The lists of the first file that have references, with these."""
        known = self.references or {}
        lists = self.sources[0].lists if self.sources else []
        return [
            replace(utterance, reference=known[utterance.seq_tag]) for utterance in lists if utterance.seq_tag in known
        ]

    @cached_property
    def is_pieces(self) -> bool:
        """Whether the hypotheses are subword pieces and the references are words."""
        heads = self.judged[:100]
        return any("\u2581" in utterance.hypotheses[0].text for utterance in heads) and not any(
            "\u2581" in (utterance.reference or "") for utterance in heads
        )

    @cached_property
    def table(self) -> ErrorTable | None:
        """The word errors of `judged`; None if there are none to count."""
        if not any((utterance.reference or "").split() for utterance in self.judged) or self.is_pieces:
            return None
        return error_table(self.judged)

    def where_reference(self, utterance: NBestList) -> str:
        """The place of a reference, for a finding."""
        return f"{self.references_path}: utterance {quoted(utterance.seq_tag)}"


def read_case(
    nbest: Sequence[str],
    *,
    references: str = "",
    tests: Sequence[str] = (),
    model: LanguageModelScorer | None = None,
    scales: Mapping[str, Scales] | None = None,
    format: str | None = None,
) -> Case:
    """Read the files. What can not be read becomes a finding in `problems`; OSError for files that are not there.

    nbest, tests: N-best files as PATH or NAME=PATH. references: their file; "": those in the first N-best file, if
    any. format: the format of all N-best files; None: chosen by their suffixes.
    """
    problems: list[Finding] = []
    sources = list(_read(nbest, problems, format))
    known: Mapping[str, str] | None = None
    if references:
        try:
            known = read_references(references)
        except ValueError as error:
            problems.append(_unreadable(error, references, "give a file with one reference for each utterance"))
        problems += _as_text(references, sources)
    elif sources:
        known = {utt.seq_tag: utt.reference for utt in sources[0].lists if utt.reference is not None} or None
    merged: Sequence[NBestList] = ()
    usable = all(
        any(all(-inf < score < inf for score in hyp.scores.values()) for hyp in utt.hypotheses)
        and all(score < inf for hyp in utt.hypotheses for score in hyp.scores.values())
        for source in sources
        for utt in source.lists
    )
    if sources and usable and len(sources) == len(nbest):
        try:
            merged = read_sources(nbest, format=format)
        except ValueError as error:
            advice = "give files made from the same lists, each score under its own name"
            problems.append(Finding("error", str(error), sources[-1].path, advice, "files differ"))
    path = references or (sources[0].path if sources else "")
    return Case(sources, known, path, list(_read(tests, problems, format)), model, scales or {}, merged, problems)


def _read(nbest: Sequence[str], problems: list[Finding], format: str | None) -> Iterator[Source]:
    for item in nbest:
        name, path = split_source(item)
        try:
            yield Source(path, list(iterate_nbest(path, name=name, allow_non_finite=True, format=format)))
        except ValueError as error:
            problems.append(_unreadable(error, path, "mend the file, or name its format with --format"))


def _unreadable(error: ValueError, path: str, advice: str) -> Finding:
    message = str(error)
    place = message.split(": ")[0] if message.startswith(path) else path
    return Finding("error", message.removeprefix(place).removeprefix(": "), place, advice, "unreadable")


def _as_text(path: str, sources: Sequence[Source]) -> Iterator[Finding]:
    """Findings for a text file that holds sentences without names, or N-best lists, where each line should begin with
    the name of an utterance."""
    if not (has_suffix(path, ".txt") or path.rpartition("/")[2] == "text"):
        return
    lines = [(number, line.split()) for (number, line), _ in zip(iterate_lines(path), range(_LINES)) if line.split()]
    tags = {utterance.seq_tag for source in sources for utterance in source.lists}
    words = {word.lower() for source in sources for word in source.words}
    if lines and lines[0][1][0].startswith(("{", "[")):
        advice = "give it the suffix of its format, or convert it with `dlm convert`"
        yield Finding("error", "holds a dict or JSON, not lines of text", f"{path}:{lines[0][0]}", advice, "corpus")
    elif lines and not any(line[0] in tags for _, line in lines):
        number, line = lines[0]
        if 2 * sum(line[0].lower() in words for _, line in lines) > len(lines):
            what = f"looks like a text corpus: its lines begin with words ({quoted(line[0], 40)}), not with utterances"
            advice = "put the name of its utterance before each reference"
            yield Finding("error", what, f"{path}:{number}", advice, "corpus")
