"""Parsers of option values: NAME=PATH, NAME=PATH@ESTIMATOR:PASSES, NAME=SOURCE:SCALE,... and NUMBER/COUNT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rescore.combination.scales import Scales


def list_files(sources: Sequence[str]) -> list[str]:
    """The path of each source, which is PATH or NAME=PATH."""
    from rescore.nbest import split_source

    return [split_source(source)[1] for source in sources]


def scales_file(item: str) -> str:
    """The file that a value of `--scales` names, or "" if the value holds the scales themselves; see `parse_scales`."""
    rest = item.rpartition("=")[2]
    return next((path for path in (item, rest) if Path(path).is_file()), "")


def parse_shard(text: str) -> tuple[int, int] | None:
    """(index from 0, count) of "NUMBER/COUNT"; None for "". ValueError for anything else."""
    if not text:
        return None
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard {text!r}; expected NUMBER/COUNT with 1 <= NUMBER <= COUNT")
    return int(number) - 1, int(count)


def parse_scales(item: str) -> tuple[str, Scales]:
    """(name of the row, scales) of FILE, NAME=FILE or NAME=SOURCE:SCALE,SOURCE:SCALE. ValueError for anything else."""
    from rescore.combination.rows import RowSpec
    from rescore.combination.scales import Scales

    name, equals, rest = item.rpartition("=")
    if not equals or Path(item).is_file():
        return Path(item).stem, Scales.load(item)
    if Path(rest).is_file() or rest.endswith(".json"):
        return name, Scales.load(rest)
    row = RowSpec.parse(item)
    if row.free:
        raise ValueError(f"--scales {item}: {next(iter(row.free))!r} has no scale; expected SOURCE:SCALE for each")
    return name, Scales.from_named(row.fixed)


def parse_passes(item: str, text: str) -> int | None:
    """The number of passes in an option `--lm`; None for "". ValueError, with the option `item`, for anything else."""
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--lm {item}: {text!r} passes; expected a whole number") from None
