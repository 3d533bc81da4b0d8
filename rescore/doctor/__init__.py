"""Checks of N-best lists and of what is used with them, for mistakes that make no error but a wrong table.

    case = read_case(["dev.py.gz"], references="dev.ref.py.gz")
    for finding in examine(case): print(finding)             # error: case: dev.ref.py.gz: utterance ...

    CHECKS.add("mine", my_check)                             # a function of the case that yields findings

A check is a function `(Case) -> Iterator[Finding]`, and its name in `CHECKS` is printed with its findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from rescore.doctor import lists, model, references, scales, scores
from rescore.doctor.case import Case, Finding, read_case
from returnn_bridge.registry import Registry

__all__ = ["CHECKS", "Case", "Finding", "examine", "read_case"]

Check = Callable[[Case], Iterator[Finding]]
CHECKS: Registry[Check] = Registry(
    "check",
    {
        "sign": scores.wrong_sign,
        "proportional": scores.proportional,
        "not finite": scores.not_finite,
        "constant": scores.constant,
        "counter": scores.counters,
        "duplicates": lists.duplicates,
        "padded": lists.padded,
        "cut": lists.cut,
        "empty": lists.empty,
        "markup": lists.markup,
        "utterances": references.other_utterances,
        "case": references.other_case,
        "punctuation": references.other_punctuation,
        "digits": references.other_digits,
        "pieces": references.pieces,
        "first pass": references.first_pass,
        "test set": references.tuned_on_test,
        "unknown words": model.unknown_words,
        "scales": scales.edge_or_flat,
    },
)


def examine(case: Case) -> list[Finding]:
    """What reading the files found, and then the findings of every check, errors first."""
    found = [
        *case.problems,
        *(replace(finding, check=name) for name, check in CHECKS.items() for finding in check(case)),
    ]
    return sorted(found, key=lambda finding: finding.severity != "error")
