"""The command: damage inputs of every kind, read them, and list what breaks the contract of a reader.

    python -m tests.fuzz.run --seconds 60 --seed 1                     # all kinds, the time shared among them
    python -m tests.fuzz.run --kind nbest_py --inputs 2000 --out found
    python -m tests.fuzz.run --kind nbest_py --seed 1 --only 1234       # one input again, here, with its traceback

A finding is printed when it is first seen; its smallest input is kept in OUT/KIND-NUMBER/ beside finding.json, and OUT/summary.json has the
counts. Exit status 1 where there is a finding.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # processes are forked: a library with threads of its own could wait for ever
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

from .readers import READERS  # noqa: E402
from .sandbox import CASE, Outcome, make_input, prepare, read_all, write_input  # noqa: E402
from .world import World  # noqa: E402


class Findings:
    """Distinct findings with the smallest input of each."""

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self.smallest: dict[tuple[str, str, str], Outcome] = {}
        self.times: Counter[tuple[str, str, str]] = Counter()

    def add(self, outcome: Outcome) -> bool:
        """Whether its input is the smallest so far."""
        self.times[outcome.key] += 1
        old = self.smallest.get(outcome.key)
        if old is None:
            print(
                f"{outcome.kind}: {outcome.sort} {outcome.error} {outcome.where} [{outcome.index}: {outcome.how[:80]}] {outcome.message[:160]}"
            )
            sys.stdout.flush()
        if old is not None and old.size <= outcome.size:
            return False
        self.smallest[outcome.key] = outcome
        return True

    def folder(self, outcome: Outcome) -> Path | None:
        if self.out is None:
            return None
        number = list(self.smallest).index(outcome.key)
        return self.out / f"{outcome.kind}-{number}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, help="in all; without it, --inputs")
    parser.add_argument("--inputs", type=int, help="for each kind (default: those of the test)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", choices=list(READERS), help="one or several; default: all")
    parser.add_argument("--out", type=Path, help="folder for the inputs of findings")
    parser.add_argument("--only", type=int, help="read this one input of --kind in this process")
    options = parser.parse_args(arguments)
    kinds = [kind for kind in options.kind or READERS if all(map(importlib.util.find_spec, READERS[kind].needs))]
    findings = Findings(options.out.resolve() if options.out else None)
    summary: dict[str, dict[str, float]] = {}
    scratch = Path(tempfile.mkdtemp(prefix="fuzz.", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    before = Path.cwd()
    os.chdir(scratch)  # all paths are relative, so that inputs that name a file are the same in every run
    try:
        Path("world").mkdir()
        world = World(Path("world"))
        for kind in kinds:
            if options.only is not None:
                return _again(kind, world, options.seed, options.only)
            seconds = options.seconds / len(kinds) if options.seconds else None
            count = options.inputs or (10**9 if seconds else READERS[kind].test_inputs)
            summary[kind] = _run(kind, world, range(count), options.seed, seconds, findings)
            _write(summary, findings)
    finally:
        os.chdir(before)
        shutil.rmtree(scratch, ignore_errors=True)
    _report(summary, findings)
    return 1 if findings.smallest else 0


def _run(
    kind: str, world: World, indices: range, seed: int, seconds: float | None, findings: Findings
) -> dict[str, float]:
    began = time.monotonic()
    seeds = prepare(kind, world)
    ready = time.monotonic()
    sorts: Counter[str] = Counter()
    for outcome in read_all(kind, seeds, world.folder, indices=indices, seed=seed, seconds=seconds):
        sorts[outcome.sort] += 1
        if outcome.is_finding and findings.add(outcome):
            folder = findings.folder(outcome)
            if folder is not None:
                write_input(folder, make_input(kind, seeds, seed, outcome.index)[0])
                (folder / "finding.json").write_text(json.dumps({**asdict(outcome), "seed": seed}, indent=1) + "\n")
    taken = time.monotonic() - ready
    total = sum(sorts.values())
    found = total - sorts["accepted"] - sorts["refused"]
    line = f"{kind:18s} {total:6d} inputs, {sorts['accepted']:5d} accepted, {sorts['refused']:5d} refused, {found:5d} findings"
    print(f"{line}; {total / max(taken, 1e-9):6.0f} a second, {ready - began:.1f} s to begin", flush=True)
    return {
        "inputs": total,
        "accepted": sorts["accepted"],
        "refused": sorts["refused"],
        "findings": found,
        "seconds": taken,
    }


def _again(kind: str, world: World, seed: int, index: int) -> int:
    seeds = prepare(kind, world)
    files, main_file, changed, how = make_input(kind, seeds, seed, index)
    write_input(CASE, files)
    print(f"{how}\n{(files.get(changed) or b'')[:2000]!r}", flush=True)
    print(READERS[kind].read(CASE / main_file, world.folder))
    return 0


def _report(summary: dict[str, dict[str, float]], findings: Findings) -> None:
    print(
        ", ".join(f"{value} {name}" for name, value in _total(summary).items()), f"({len(findings.smallest)} distinct)"
    )
    for sort, count in Counter(key[1].split(":")[0] for key in findings.smallest).most_common():
        print(f"  {count:3d} {sort}")


def _total(summary: dict[str, dict[str, float]]) -> dict[str, int]:
    names = ("inputs", "accepted", "refused", "findings")
    return {name: int(sum(entry[name] for entry in summary.values())) for name in names}


def _write(summary: dict[str, dict[str, float]], findings: Findings) -> None:
    """Counts and findings so far: behind every kind, for a run may be stopped."""
    if findings.out is None:
        return
    findings.out.mkdir(parents=True, exist_ok=True)
    listed = [
        {**asdict(outcome), "key": key, "times": findings.times[key], "folder": str(findings.folder(outcome))}
        for key, outcome in findings.smallest.items()
    ]
    values = {"kinds": summary, "total": _total(summary), "findings": listed}
    (findings.out / "summary.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
