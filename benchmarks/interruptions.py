"""Every verb, ended at any moment, twice at once, on a full disk, without rights, into a closed pipe: same bytes, or one line that says why.

    python benchmarks/interruptions.py --dlm .venv/bin/dlm --out interruptions              # some ten minutes on two cores
    python benchmarks/interruptions.py --dlm .venv/bin/dlm --out interruptions --quick      # some three
    python benchmarks/interruptions.py --dlm .venv/bin/dlm --out interruptions --verb tokenize --verb train --rounds 20 --seed 7

A command first runs undisturbed. Then, each time in a new folder: SIGKILL, SIGTERM or SIGINT, up to three in a row, at a random moment by
the clock or at one of the changes of its files, and the same command until it ends; a disk that fills up (needs the right to mount a tmpfs);
a folder that may not be written to; one whose parents are not there; a closed standard output; two processes at the same time.

Demanded are the bytes of the undisturbed run (but for what `outputs.SET_ASIDE` lists, with reasons), nothing left beside them, nothing
half-written at a final name at any time, no traceback, a documented exit status. Findings are printed and saved, with how to repeat
them, in `findings.json`; the status is 1 if there are any. Only the command line and the files are looked at: nothing is imported of dlm.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from interruptions_parts.commands import Command, chosen, commands
from interruptions_parts.inputs import prepare
from interruptions_parts.process import Runner
from interruptions_parts.trials import Finding, Report, Trials

DEMO = Path(__file__).resolve().parent.parent / "data" / "demo"
VARIANTS = ("score.jsonl.gz", "score.shard", "pretrained", "clip")  # left out by --quick: others write in the same way


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dlm", type=Path, required=True, help="the program, such as .venv/bin/dlm")
    parser.add_argument("--out", type=Path, required=True, help="folder to work in; what is in it from before goes")
    parser.add_argument("--demo", type=Path, default=DEMO, help="folder of the demo data (default: data/demo)")
    parser.add_argument("--verb", action="append", default=[], help="of these only; also names such as score.py.gz")
    parser.add_argument(
        "--rounds", type=int, default=None, help="with signals, for each command (default: 3; 1 if quick)"
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
            print(reports[-1].line(), flush=True)
    return summary(reports, out, options.seed, rounds, time.monotonic() - begin)


def trial(command: Command, *, out: Path, dlm: Path, seed: int, rounds: int, quick: bool) -> Report:
    """All trials of one command."""
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


def summary(reports: list[Report], out: Path, seed: int, rounds: int, seconds: float) -> int:
    """Print and save what was found; the exit status."""
    findings: list[Finding] = [finding for report in reports for finding in report.findings]
    for report in reports:
        for what, why in report.skipped.items():
            print(f"skipped: {report.command.name}: {what}: {why}")
        for note in report.notes:
            print(f"note: {report.command.name}: {note}")
    for finding in findings:
        plan = f" [{finding.plan}]" if finding.plan else ""
        print(f"finding: {finding.command}: {finding.trial}: {finding.kind}: {finding.what}{plan}")
    saved = [
        {
            **dataclasses.asdict(finding),
            "repeat": f"--verb {finding.command} --seed {seed} --rounds {rounds}",
        }
        for finding in findings
    ]
    (out / "findings.json").write_text(json.dumps(saved, indent=1) + "\n")
    total = {name: sum(getattr(report, name) for report in reports) for name in ("rounds", "kills", "hits")}
    print(
        f"{len(reports)} commands, {total['rounds']} rounds, {total['hits']} of {total['kills']} signals hit, "
        f"{len(findings)} findings in {sum(bool(report.findings) for report in reports)} commands, {seconds:.0f} s; "
        f"seed {seed}; {out / 'findings.json'}"
    )
    return 1 if findings else 0


def _empty(out: Path) -> None:
    """The folder may hold what an earlier run of this made, and nothing else."""
    own = {"inputs", "logs", "work", "findings.json"}
    if out.is_dir() and {path.name for path in out.iterdir()} - own:
        raise SystemExit(f"--out {out}: holds other files; expected a new folder")
    for disk in out.glob("work/*"):
        if disk.is_mount():  # of a run that was killed
            subprocess.run(["umount", str(disk)], check=True)
    for name in own - {"findings.json"}:
        shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)


if __name__ == "__main__":
    raise SystemExit(main())
