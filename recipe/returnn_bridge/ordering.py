"""The order of RETURNN's datasets for any number of sentences.

    sub_epoch_order(lm_dataset_opts, lengths, sub_epoch=3, shard=(0, 1))        # [n] places of the sentences, int64

RETURNN sorts a whole pass over the corpus at the start of every sub-epoch and then takes a part of it. For its usual order by length
within shuffled bins, "laplace", only the bins of the part are sorted here, which makes 40 million sentences start in seconds.
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
    """Places of the sentences of a sub-epoch (from 1), as the dataset of the dict `opts` orders sentences of these lengths [n].

    ValueError for options that choose sentences by their tags.
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
    plain = plain.view(np.ndarray)  # not a memory map: RETURNN recognises arrays by their class
    return np.asarray(empty.get_seq_order_for_epoch(sub_epoch, len(plain), plain.__getitem__), dtype=np.int64)


def _empty_dataset(opts: Mapping[str, Any], shard: tuple[int, int]) -> Any:
    """A dataset that holds nothing but its ordering options."""
    use_private_cache()
    from returnn.datasets.basic import Dataset

    class Empty(Dataset):
        def supports_sharding(self) -> bool:
            return True

    empty = Empty(**{key: opts[key] for key in _OPTIONS if opts.get(key) is not None})
    empty.set_sharding(shard_index=shard[0], num_shards=shard[1])
    return empty


def _laplace_part(empty: Any, lengths: NDArray[Any], sub_epoch: int, shard: tuple[int, int]) -> NDArray[np.int64]:
    """RETURNN's "laplace[:BINS|:.SIZE[:FIXED]]": shuffle, cut into bins, sort each by length, up and down in turn."""
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
    whole, rest = divmod(size, parts)
    first = part * whole + min(part, rest)
    last = first + whole + (part < rest)
    if first == last:
        return np.zeros(0, np.int64)
    return _sorted_bins(shuffled(seed, size), lengths, bins, first, last)


def _sorted_bins(members: NDArray[Any], lengths: NDArray[Any], bins: int, first: int, last: int) -> NDArray[np.int64]:
    """The members at the places first .. last - 1 when each bin is sorted; only bins that hold such places are."""
    size = len(members)
    # Bin b begins at b * size // bins; a place is in the last bin that begins there or before.
    numbers = range(((first + 1) * bins - 1) // size, (last * bins - 1) // size + 1)
    start, end = numbers.start * size // bins, numbers.stop * size // bins
    found = members[start:end].astype(np.int64)
    keys = np.asarray(lengths).view(np.ndarray)[found]  # a memory map would look at every slice taken below
    for number in numbers:
        own = slice(number * size // bins - start, (number + 1) * size // bins - start)
        found[own] = found[own][np.argsort(-keys[own] if number % 2 else keys[own], kind="stable")]
    return found[first - start : last - start]
