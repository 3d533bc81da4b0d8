"""Checks that two checkouts of this project compute the same numbers to the last bit, as after a refactoring.

    python benchmarks/same_numbers.py OLD_TREE NEW_TREE --out FOLDER [--quick] [--only TEXT]

Both run through their command line only (TREE/.venv/bin/dlm), on small data cut from OLD_TREE/data/demo, with one
thread: trainings of every family and setting, interrupted runs of the old tree that the new one continues, samples,
scores by every estimator, tables, and foreign configuration trees. Weights are compared bit by bit, everything else
number by number. Additions of the new tree, headers of score files, times and versions are ignored.

Prints one line per comparison: `equal`, or the first difference with both values. The exit status is 1 if there is a
difference and 2 if a comparison fails. Results of the old tree stay in FOLDER/old for later runs, those of the new tree
are in FOLDER/new/NAME. GPUs, compiled code and Hugging Face models are left to the tests.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import monotonic

from same_numbers_parts.comparing import first_difference
from same_numbers_parts.data import make_data
from same_numbers_parts.foreign import foreign_items
from same_numbers_parts.item import Item, Places, digests
from same_numbers_parts.running import Tree, fill, locked, run_item
from same_numbers_parts.scorings import scoring_items
from same_numbers_parts.tables import table_items
from same_numbers_parts.trainings import training_items


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD_TREE", help="checkout with a .venv")
    parser.add_argument("new", type=Path, metavar="NEW_TREE", help="another checkout, or the same")
    parser.add_argument("--out", type=Path, default=Path("same_numbers"), help="folder for the results of both trees")
    parser.add_argument("--quick", action="store_true", help="a representative of each kind")
    parser.add_argument("--only", default="", metavar="TEXT", help="only items whose name contains this")
    options = parser.parse_args()
    out = options.out.resolve()
    try:
        old, new = Tree(options.old), Tree(options.new)
        places = Places(out / "data", out / "old")
        with locked(out):
            start = f"{old.state} {make_data(old.path / 'data' / 'demo', places.data)}"
        made = [*training_items(places), *scoring_items(places), *table_items(places), *foreign_items(places)]
        items = {item.name: item for item in made}
        chosen = [
            item for item in made if item.by_new and options.only in item.name and (item.quick or not options.quick)
        ]
        began = monotonic()
        ran = fill(old, _needed(items, chosen), digests(items, start), places.old)
        spent = f"{monotonic() - began:.0f} s, {old.end() if ran else 0:.0f} s of a core"
        print(f"{old.path}: {ran} items run in {spent}; the others were there", flush=True)
        began = monotonic()
        with locked(folder := out / "new" / "-".join(new.path.parts[1:])):
            found = [line for item in chosen for line in compare_item(new, item, places.old, folder)]
    except (ValueError, OSError) as error:
        print(f"same_numbers: {error}", file=sys.stderr)
        return 2
    differences = [line for line in found if not line.endswith("  equal")]
    print(f"{new.path}: {len(chosen)} items run in {monotonic() - began:.0f} s, {new.end():.0f} s of a core")
    print(f"{len(found)} comparisons, {len(differences)} differences")
    for line in differences:
        print(line)
    return 1 if differences else 0


def compare_item(tree: Tree, item: Item, old: Path, folder: Path) -> list[str]:
    """Run an item with the new tree; a line for its commands and one for each file."""
    results = [("commands", run_item(tree, item, folder))]
    left = old / (item.against or item.name), folder / item.name
    names = sorted({str(path.relative_to(side)) for side in left for glob in item.files for path in side.glob(glob)})
    for name in names:
        first, second = (side / name for side in left)
        if first.is_file() and second.is_file():
            results.append((name, first_difference(first, second)))
        else:
            results.append((name, f"is there for {'old' if first.is_file() else 'new'} only"))
    lines = [f"{item.name:24} {name:36}  {found or 'equal'}" for name, found in results]
    print("\n".join(lines), flush=True)
    return lines


def _needed(items: dict[str, Item], chosen: list[Item]) -> dict[str, Item]:
    """The chosen items and what they need, in order."""
    wanted: set[str] = set()
    waiting = [item.name for item in chosen]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += items[name].needs
    return {name: item for name, item in items.items() if name in wanted}


if __name__ == "__main__":
    sys.exit(main())
