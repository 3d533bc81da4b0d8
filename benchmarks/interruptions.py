"""Interrupts every verb of `dlm` in many ways, and checks that it then gives the same bytes or a one-line error.

    python benchmarks/interruptions.py --dlm .venv/bin/dlm --out interruptions              # ten minutes on two cores
    python benchmarks/interruptions.py --dlm .venv/bin/dlm --out interruptions --quick      # three minutes
    python benchmarks/interruptions.py --dlm .venv/bin/dlm --out interruptions --verb train --rounds 20 --seed 7

Each command first runs undisturbed. Then it runs in a new folder under each of these conditions:
- up to three signals in a row (SIGKILL, SIGTERM or SIGINT), each at a random time or before a random change of a file;
  then the same command is repeated until it ends;
- a disk that fills up (needs the right to mount a tmpfs);
- a folder without write permission, and one whose parents do not exist;
- a closed standard output;
- two processes at the same time.

Required are the bytes of the undisturbed run (except for what `outputs.SET_ASIDE` lists with reasons), no other files,
no incomplete file at a final name at any time, no traceback, and a documented exit status. Findings are printed and
saved in `findings.json`, with how to repeat them, and the exit status is then 1. Nothing of dlm is imported; only its
command line and its files are checked.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from interruptions_parts.commands import Command, chosen, commands
from interruptions_parts.inputs import prepare
from interruptions_parts.process import Runner
from interruptions_parts.trials import Report, Trials

DEMO = Path(__file__).resolve().parent.parent / "data" / "demo"
VARIANTS = ("score.jsonl.gz", "score.shard", "pretrained", "clip")  # left out by --quick: others write in the same way


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dlm", type=Path, required=True, help="the program, such as .venv/bin/dlm")
    parser.add_argument("--out", type=Path, required=True, help="working folder; earlier results are removed")
    parser.add_argument("--demo", type=Path, default=DEMO, help="folder of the demo data (default: data/demo)")
    parser.add_argument("--verb", action="append", default=[], help="run these only; also names such as score.py.gz")
    parser.add_argument(
        "--rounds", type=int, default=None, help="rounds of signals for each command (default: 3; 1 if quick)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="commands tried at the same time")
    parser.add_argument("--quick", action="store_true", help="fewer trials, and one of each kind of command")
    options = parser.parse_args()
    rounds = (1 if options.quick else 3) if options.rounds is None else options.rounds
    begin = time.monotonic()
    out: Path = options.out.absolute()
    _empty(out)
    inputs = prepare(options.dlm.absolute(), options.demo.absolute(), out / "inputs")
    print(f"inputs made in {time.monotonic() - begin:.0f} s", flush=True)
    wanted = [
        command
        for command in chosen(commands(inputs), options.verb)
        if options.verb or not options.quick or command.name not in VARIANTS
    ]
    one = partial(trial, out=out, dlm=options.dlm, seed=options.seed, rounds=rounds, quick=options.quick)
    reports: list[Report] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        # The longest first, so that no core waits at the end.
        order = sorted(wanted, key=lambda command: command.verb not in ("train", "rescore", "race"))
        for future in as_completed([pool.submit(one, command) for command in order]):
            reports.append(future.result())
            show(reports[-1])
            save(reports, out, f"--seed {options.seed} --rounds {rounds}")
    total = {name: sum(getattr(report, name) for report in reports) for name in ("rounds", "kills", "hits")}
    found = sum(len(report.findings) for report in reports)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{len(reports)} commands, {total['rounds']} rounds, {total['hits']} of {total['kills']} signals hit, "
        f"{found} findings in {sum(bool(report.findings) for report in reports)} commands, "
        f"{time.monotonic() - begin:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of a core; "
        f"seed {options.seed}; {out / 'findings.json'}"
    )
    return 1 if found else 0


def trial(command: Command, *, out: Path, dlm: Path, seed: int, rounds: int, quick: bool) -> Report:
    """Run all trials of one command."""
    trials = Trials(command, Runner(dlm, out / "logs" / command.name), out / "work", seed)
    if trials.undisturbed():
        trials.killed(rounds)
        trials.disk_full(1 if quick else 2)
        trials.read_only()
        trials.closed_pipe(buffered=not quick)
        trials.two_at_once(1 if quick else 2)
        if not quick:
            trials.missing_parent()
        if left := trials.runner.left_in_temporary():
            size = sum(path.stat().st_size for path in left)
            trials.report.notes.append(f"{len(left)} files, {size} bytes, stay in the system's temporary folder")
    return trials.report


def show(report: Report) -> None:
    """A line with the counts, and lines with what was found, skipped or noted."""
    print(report.line())
    for what, why in report.skipped.items():
        print(f"  skipped: {what}: {why}")
    for note in report.notes:
        print(f"  note: {note}")
    for finding in report.findings:
        plan = f" [{finding.plan}]" if finding.plan else ""
        print(f"  finding: {finding.trial}: {finding.kind}: {finding.what}{plan}")
    sys.stdout.flush()


def save(reports: list[Report], out: Path, settings: str) -> None:
    """Write all findings so far, with the options that repeat each."""
    saved = [
        {**dataclasses.asdict(finding), "repeat": f"--verb {finding.command} {settings}"}
        for report in reports
        for finding in report.findings
    ]
    (out / "findings.json").write_text(json.dumps(saved, indent=1) + "\n")


def _empty(out: Path) -> None:
    """Remove results of an earlier run from the folder. SystemExit if it holds any other files."""
    known = {"inputs", "logs", "work", "findings.json"}
    if out.is_dir() and {path.name for path in out.iterdir()} - known:
        raise SystemExit(f"--out {out}: holds other files; expected a new folder")
    for disk in out.glob("work/*"):
        if disk.is_mount():  # left by a run that was killed
            subprocess.run(["umount", str(disk)], check=True)
    for name in known - {"findings.json"}:
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    raise SystemExit(main())
