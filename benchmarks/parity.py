"""Per-token losses of the originals' own code beside ours: same weights, same ids, same noise (docs/parity.md).

    pip install einops==0.8.1
    python benchmarks/parity.py --mdlm PATH --gidd PATH --duo PATH --bd3lms PATH      # your checkouts

Comparisons without a checkout are skipped. Prints for each comparison the largest relative difference of any token.
`whole`: both networks and both losses in float32 on the CPU.
`formula`: both losses on the same logits in float64, which shows whether the formulas are the same, free of rounding.
"""

from __future__ import annotations

import argparse
import subprocess
import warnings
from pathlib import Path

import torch
from originals.inputs import Line
from originals.masked import compare_bd3lms, compare_mdlm
from originals.mixture import compare_duo, compare_gidd

COMPARISONS = {"mdlm": compare_mdlm, "gidd": compare_gidd, "duo": compare_duo, "bd3lms": compare_bd3lms}
PLACES = {  # and a file by which a checkout is known
    "mdlm": ("https://github.com/kuleshov-group/mdlm", "models/dimamba.py"),
    "gidd": ("https://github.com/dvruette/gidd", "gidd/loss.py"),
    "duo": ("https://github.com/s-sahoo/duo", "algo.py"),
    "bd3lms": ("https://github.com/kuleshov-group/bd3lms", "models/hf/modeling_bd3lm.py"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (place, _) in PLACES.items():
        parser.add_argument(f"--{name}", type=Path, metavar="PATH", help=f"checkout of {place}")
    given = vars(parser.parse_args())
    try:
        import einops  # noqa: F401
    except ImportError:
        parser.error("the originals need einops: pip install einops==0.8.1")
    torch.set_grad_enabled(False)
    warnings.simplefilter("ignore")  # of the originals, about old names in torch
    lines: list[Line] = []
    for name, compare in COMPARISONS.items():
        place, known_by = PLACES[name]
        if given[name] is None:
            print(f"{name}: skipped, no --{name} PATH ({place})")
            continue
        if not (given[name] / known_by).is_file():
            parser.error(f"--{name} {given[name]}: no {known_by} there; expected a checkout of {place}")
        print(f"{name}: commit {commit(given[name])}")
        lines += compare(given[name].resolve())
    if lines:
        show(lines)


def show(lines: list[Line]) -> None:
    """Print a Markdown table of the differences, then the figures without counterpart."""
    print("\n| original | what | whole, float32 | formula, float64 |\n|---|---|---:|---:|")
    for line in lines:
        if line.figure is None:
            whole, formula = ("" if value is None else f"{value:.1e}" for value in (line.whole, line.formula))
            print(f"| {line.original} | {line.what} | {whole} | {formula} |")
    print()
    for line in lines:
        if line.figure is not None:
            print(f"{line.original}: {line.what}: {line.figure}")


def commit(path: Path) -> str:
    """The commit that a checkout is at, as far as git can tell."""
    found = subprocess.run(["git", "-C", str(path), "log", "-1", "--format=%H"], capture_output=True, text=True)
    return found.stdout.strip() or "unknown (not a git checkout)"


if __name__ == "__main__":
    main()
