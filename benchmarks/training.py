"""Measures a training step: speed against MDLM's code, profile, growth with the size, and losses without padding.

    python benchmarks/training.py speed --text train.txt.gz --vocab vocab --original PATH    # a checkout of MDLM
    python benchmarks/training.py profile --text train.txt.gz --vocab vocab
    python benchmarks/training.py grow --text train.txt.gz --vocab vocab --plot grow.svg
    python benchmarks/training.py curves --text train.txt.gz --vocab vocab --plot curves.svg

Everything runs on the CPU, with one thread unless `--threads` is given. Tokens are pieces, without padding, BOS and
EOS.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from training_parts.curves import curves
from training_parts.growth import PRESETS, grow, grow_one
from training_parts.profiling import share
from training_parts.speed import speed

PLACE = "https://github.com/kuleshov-group/mdlm"


def main() -> None:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--text", type=Path, required=True, help="sentences, plain or .gz")
    shared.add_argument("--vocab", type=Path, required=True)
    shared.add_argument("--threads", type=int, default=1)
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument(
        "--batch-size", type=int, default=6000, help="largest number of tokens in a batch, padding included"
    )
    data.add_argument("--max-seqs", type=int, default=128)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("speed", parents=[shared, data], help="tokens a second beside MDLM's own code")
    command.add_argument("--original", type=Path, required=True, metavar="PATH", help=f"checkout of {PLACE}")
    command.add_argument("--size", nargs="+", default=["256x4", "768x12"], metavar="WIDTHxBLOCKS")
    command.add_argument("--batches", type=int, default=12, help="number of batches, spread over 100")
    command.add_argument("--repeats", type=int, default=3)
    command.add_argument(
        "--rows", type=int, default=0, help="padded sentences whose memory a part of a step may take (default: all)"
    )
    command.add_argument("--pad-to", type=int, default=0, help="pad theirs to this length too, as its LM1B setup does")
    command.add_argument(
        "--no-time-conditioning", action="store_true", help="without time conditioning, as the published models"
    )
    command.set_defaults(run=speed)

    command = commands.add_parser(
        "profile", parents=[shared, data], help="share of the bf16 matrix rate, and time by operator"
    )
    command.add_argument("--size", nargs="+", default=["256x4", "768x12"], metavar="WIDTHxBLOCKS")
    command.add_argument("--batches", type=int, default=3)
    command.add_argument("--repeats", type=int, default=1)
    command.set_defaults(run=share)

    command = commands.add_parser("grow", parents=[shared], help="seconds and memory of tiny, small and medium")
    command.add_argument("--network", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    command.add_argument("--tokens", type=int, default=2000, help="largest number of tokens in a step")
    command.add_argument("--repeats", type=int, default=2)
    command.add_argument("--plot", type=Path, required=True, metavar="FILE.svg")
    command.set_defaults(run=grow)

    command = commands.add_parser("grow-one", parents=[shared], help="measure one network for grow, as JSON")
    command.add_argument("name", choices=list(PRESETS))
    command.add_argument("--tokens", type=int, default=2000)
    command.add_argument("--repeats", type=int, default=2)
    command.set_defaults(run=grow_one)

    command = commands.add_parser("curves", parents=[shared], help="losses of the padding-free and of a padded path")
    command.add_argument("--size", default="128x3", metavar="WIDTHxBLOCKS")
    command.add_argument("--steps", type=int, default=60)
    command.add_argument("--batch-size", type=int, default=1500)
    command.add_argument("--max-seqs", type=int, default=32)
    command.add_argument("--lr", type=float, default=1e-3)
    command.add_argument("--plot", type=Path, required=True, metavar="FILE.svg")
    command.set_defaults(run=curves)

    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.run(options)


if __name__ == "__main__":
    main()
