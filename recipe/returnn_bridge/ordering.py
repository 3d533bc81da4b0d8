"""Computes the sequence order of RETURNN's datasets, fast enough for tens of millions of sentences.

    sub_epoch_order(lm_dataset_opts, lengths, sub_epoch=3, shard=(0, 1))        # [n] sentence indices, int64

RETURNN sorts the complete epoch at the start of every sub-epoch and then takes a part of it. For the order "laplace"
(sorted by length within shuffled bins) only the bins of that part are sorted here, so that 40 million sentences start
in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from returnn_bridge.datasets import plain_opts
from returnn_bridge.native_cache import use_private_cache
from returnn_bridge.shuffle import shuffled

_OPTIONS = ("seq_ordering", "partition_epoch", "repeat_epoch", "fixed_random_seed", "random_seed_offset")


def sub_epoch_order(
    opts: Mapping[str, Any], lengths: NDArray[Any], *, sub_epoch: int, shard: tuple[int, int] = (0, 1)
) -> NDArray[np.int64]:
    """Indices [m] of the sentences of a sub-epoch (counted from 1), in the order of the RETURNN dataset dict `opts`.

    lengths: [n] the lengths of all sentences. ValueError for options that select sentences by their tags.
    """
    opts = plain_opts(opts)
    if opts.get("seq_list_filter_file") or opts.get("unique_seq_tags"):
        raise ValueError(
            "seq_list_filter_file and unique_seq_tags need the tags; expected an order by length or chance"
        )
    empty = _empty_dataset(opts, shard)
    if str(opts.get("seq_ordering", "")).startswith("laplace") and (empty.repeat_epoch or 1) == 1:
        return _laplace_part(empty, lengths, sub_epoch, shard)
    plain = np.asarray(lengths)
    plain = plain.view(np.ndarray)  # RETURNN checks the exact class, and a memory map is a subclass
    return np.asarray(empty.get_seq_order_for_epoch(sub_epoch, len(plain), plain.__getitem__), dtype=np.int64)


def _empty_dataset(opts: Mapping[str, Any], shard: tuple[int, int]) -> Any:
    """A RETURNN dataset that has only the ordering options of `opts`."""
    use_private_cache()
    from returnn.datasets.basic import Dataset

    class Empty(Dataset):
        def supports_sharding(self) -> bool:
            return True

    empty = Empty(**{key: opts[key] for key in _OPTIONS if opts.get(key) is not None})
    empty.set_sharding(shard_index=shard[0], num_shards=shard[1])
    return empty


def _laplace_part(empty: Any, lengths: NDArray[Any], sub_epoch: int, shard: tuple[int, int]) -> NDArray[np.int64]:
    """RETURNN's "laplace[:BINS|:.SIZE[:FIXED]]": shuffle, cut into bins, sort each by length, alternating direction."""
    size = len(lengths)
    arguments = str(empty.seq_ordering).split(":")[1:]
    if not arguments:
        bins = 2
    elif arguments[0].startswith("."):
        bins = max(size // int(arguments[0][1:]), 2)
    else:
        bins = int(arguments[0])
    seed = empty._get_random_seed_for_epoch(
        epoch=sub_epoch, num_epochs_fixed=int(arguments[1]) if len(arguments) > 1 else 1
    )
    parts = (empty.partition_epoch or 1) * shard[1]
    part = (sub_epoch - 1) % (empty.partition_epoch or 1) * shard[1] + shard[0]
    quotient, remainder = divmod(size, parts)
    first = part * quotient + min(part, remainder)
    last = first + quotient + (part < remainder)
    if first == last:
        return np.zeros(0, np.int64)
    return _sorted_bins(shuffled(seed, size), lengths, bins, first, last)


def _sorted_bins(members: NDArray[Any], lengths: NDArray[Any], bins: int, first: int, last: int) -> NDArray[np.int64]:
    """The members at indices first .. last - 1 of the final order; only bins that overlap these are sorted."""
    size = len(members)
    # Bin b begins at index b * size // bins; an index is in the last bin that begins there or before.
    numbers = range(((first + 1) * bins - 1) // size, (last * bins - 1) // size + 1)
    start, end = numbers.start * size // bins, numbers.stop * size // bins
    ordered = members[start:end].astype(np.int64)
    keys = np.asarray(lengths).view(np.ndarray)[ordered]  # slices of a memory map would be slow
    for number in numbers:
        part = slice(number * size // bins - start, (number + 1) * size // bins - start)
        ordered[part] = ordered[part][np.argsort(-keys[part] if number % 2 else keys[part], kind="stable")]
    return ordered[first - start : last - start]
