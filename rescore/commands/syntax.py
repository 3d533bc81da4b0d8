"""The small languages of options: NAME=PATH, NAME=PATH@ESTIMATOR:PASSES, NAME=SOURCE:SCALE,..., NUMBER/COUNT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rescore.combination.scales import Scales


def list_files(sources: Sequence[str]) -> list[str]:
    """The files of PATH or NAME=PATH."""
    from rescore.nbest import split_source

    return [split_source(source)[1] for source in sources]


def scales_file(item: str) -> str:
    """The file that an option `--scales` names, as in `parse_scales`; "" if it gives its scales itself."""
    rest = item.rpartition("=")[2]
    return next((path for path in (item, rest) if Path(path).is_file()), "")


def parse_shard(text: str) -> tuple[int, int] | None:
    """(index from 0, count) of "NUMBER/COUNT"."""
    if not text:
        return None
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ValueError(f"--shard {text!r}; expected NUMBER/COUNT with 1 <= NUMBER <= COUNT")
    return int(number) - 1, int(count)


def parse_scales(item: str) -> tuple[str, Scales]:
    """(name of the row, scales) of FILE, NAME=FILE or NAME=SOURCE:SCALE,SOURCE:SCALE."""
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
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--lm {item}: {text!r} passes; expected a whole number") from None
