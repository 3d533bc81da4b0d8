"""RETURNN dataset dicts: builders for those of the reference run, strict checks, and opening the datasets.

    train = lm_dataset_dict(["novels.txt.gz", "transcripts.txt.gz"], "vocab", partition_epoch=20)
    dev = ogg_zip_dataset_dict(["dev.ogg.zip"], "vocab", fixed_random_subset=3000)
    dataset = init_dataset(train, num_tokens=10240)
    dataset.init_seq_order(epoch=1)                     # RETURNN counts sub-epochs from 1
    check_corpus("transcripts.txt")                     # ValueError for lines that RETURNN would silently lose or empty

RETURNN's trainer accepts these dicts unchanged. A dict from a configuration file can use only the classes and options
that are listed here, because RETURNN itself would import any class and evaluate strings.
"""

from __future__ import annotations

import difflib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from returnn_bridge.audio.oggzip import check_ogg_zips
from returnn_bridge.files import iterate_bytes, iterate_raw_lines
from returnn_bridge.native_cache import use_private_cache
from returnn_bridge.vocab import MODEL_FILE, sentence_pieces_file

_ORDER = (
    "seq_ordering partition_epoch repeat_epoch fixed_random_seed random_seed_offset seq_list_filter_file"
    " unique_seq_tags"
)
# Options by class. Not allowed: options that take code (post-processors) or unpickle, and audio features.
_OPTIONS = {
    "LmDataset": "corpus_file use_cache_manager skip_empty_lines orth_vocab seq_end_symbol unknown_symbol tag_prefix"
    " seq_list_file",
    "OggZipDataset": "path content_name audio targets use_cache_manager segment_file"
    " zip_audio_files_have_name_as_prefix resolve_symlink_for_name fixed_random_subset fixed_random_subset_seed",
    "MetaDataset": "datasets data_map seq_order_control_dataset seq_list_file",
    "HDFDataset": "files cache_byte_size use_cache_manager",
    "SentencePieces": "model_file add_bos add_eos reverse enable_sampling nbest_size alpha",
}
_DATASETS = ("LmDataset", "OggZipDataset", "MetaDataset", "HDFDataset")
_FILES = ("corpus_file", "path", "files", "model_file", "seq_list_file", "seq_list_filter_file", "segment_file")


def lm_dataset_dict(
    corpus_files: Sequence[str | os.PathLike[str]],
    spm_model: str | os.PathLike[str],
    *,
    partition_epoch: int = 1,
    seq_ordering: str = "laplace:.1000",
    use_cache_manager: bool = False,
) -> dict[str, Any]:
    """The dict of an LmDataset over text files (plain or .gz, one sentence per line).

    spm_model: SentencePiece .model file or a vocabulary folder. partition_epoch: sub-epochs in one pass over the text.
    seq_ordering: "laplace:.1000" sorts bins of about 1000 shuffled sentences by their length in bytes. The order
    depends on the sub-epoch only, so runs with different seeds see the same order.
    """
    if isinstance(corpus_files, (str, os.PathLike)):
        raise ValueError(f"corpus_files {str(corpus_files)!r}: expected a list of files")
    return {
        "class": "LmDataset",
        "corpus_file": [_file(path) for path in corpus_files],
        "use_cache_manager": use_cache_manager,
        "orth_vocab": _sentence_pieces(spm_model),
        "seq_end_symbol": None,
        "unknown_symbol": None,
        "partition_epoch": partition_epoch,
        "seq_ordering": seq_ordering,
    }


def ogg_zip_dataset_dict(
    zips: Sequence[str | os.PathLike[str]],
    spm_model: str | os.PathLike[str],
    *,
    fixed_random_subset: int | float | None = None,
    seq_ordering: str = "sorted_reverse",
    fixed_random_seed: int = 1,
    use_cache_manager: bool = False,
) -> dict[str, Any]:
    """The dict of the transcripts in OggZip files: a MetaDataset over an OggZipDataset without audio.

    fixed_random_subset: number of utterances (or their fraction) to use, the same ones in every epoch.
    seq_ordering: the orders by length sort by duration.
    """
    if isinstance(zips, (str, os.PathLike)):
        raise ValueError(f"zips {str(zips)!r}: expected a list of files")
    ogg_zip = {
        "class": "OggZipDataset",
        "path": [_file(path) for path in zips],
        "use_cache_manager": use_cache_manager,
        "audio": None,
        "targets": _sentence_pieces(spm_model),
        "fixed_random_seed": fixed_random_seed,
        "seq_ordering": seq_ordering,
        "fixed_random_subset": fixed_random_subset,
    }
    return {
        "class": "MetaDataset",
        "datasets": {"ogg_zip": ogg_zip},
        "data_map": {"data": ["ogg_zip", "classes"]},
        "seq_order_control_dataset": "ogg_zip",
    }


def _sentence_pieces(spm_model: str | os.PathLike[str]) -> dict[str, Any]:
    path = _file(spm_model)
    if isinstance(path, str):
        in_folder = sentence_pieces_file(path) != Path(path)
        path = os.path.join(path, MODEL_FILE) if in_folder else path
    return {"class": "SentencePieces", "model_file": path}


def _file(path: str | os.PathLike[str]) -> Any:
    """The path as a string. A path of a job graph stays unchanged, because its file is only known when the job runs."""
    return str(path) if isinstance(path, (str, Path)) else path


def init_dataset(opts: Mapping[str, Any], *, num_tokens: int, data_key: str = "data") -> Any:
    """Open the RETURNN dataset of a dict (checked by `plain_opts`); its index is read at the first `init_seq_order`.

    num_tokens: V, the number of pieces of the model's vocabulary. ValueError for a dataset with another number of
    pieces, FileNotFoundError for a missing file, ModuleNotFoundError for a package that RETURNN imports but does not
    install.
    """
    opts = plain_opts(opts)
    _check_files(opts)
    if "OggZipDataset" in _classes(opts) and not any(map(shutil.which, ("c++", "cpp", "clang++", "g++"))):
        raise OSError(
            "no C++ compiler (c++, clang++, g++) in PATH; OggZipDataset needs one,"
            " RETURNN compiles the reader of its text file"
        )
    _check_zips(opts)
    use_private_cache()
    try:
        import tree  # noqa: F401
        from returnn.datasets import init_dataset as returnn_init_dataset
        from returnn.log import log
    except ModuleNotFoundError as error:
        package = {"tree": "dm-tree"}.get(error.name or "", error.name)
        raise ModuleNotFoundError(
            f"RETURNN datasets need the package {package}: pip install {package}", name=error.name
        ) from None
    if not log.initialized:  # else every message goes to stdout, on every rank
        log.initialize(verbosity=[2])
    dataset = returnn_init_dataset(opts)
    if data_key not in dataset.num_outputs:
        known = ", ".join(sorted(dataset.num_outputs))
        raise ValueError(
            f"{opts['class']} has no data key {data_key!r};"
            f" expected one of {known} (a MetaDataset maps them with data_map)"
        )
    pieces = int(dataset.num_outputs[data_key][0])
    if pieces != num_tokens:
        raise ValueError(
            f"{opts['class']} encodes with {pieces} pieces; expected the {num_tokens} of the model's vocabulary"
        )
    return dataset


def plain_opts(opts: Mapping[str, Any]) -> dict[str, Any]:
    """A checked deep copy of a RETURNN dataset dict, with OmegaConf containers converted to plain ones.

    ValueError with the key for classes and options outside the lists above, values that are not plain data, pickle
    files, and vocabulary options that would change the ids (BOS, EOS, reversal, sampling).
    """
    omegaconf = sys.modules.get("omegaconf")
    if omegaconf is not None and omegaconf.OmegaConf.is_config(opts):
        opts = omegaconf.OmegaConf.to_container(opts, resolve=True)
    return _checked(opts, "dataset", _DATASETS)


def _checked(opts: Any, where: str, classes: tuple[str, ...]) -> dict[str, Any]:
    if type(opts) is not dict:
        raise ValueError(f"{where}: got {type(opts).__name__}; expected a plain dict with the key 'class'")
    kind = opts.get("class")
    if kind not in classes:
        raise ValueError(f"{where}: class {kind!r}; expected {' or '.join(classes)}")
    known = _OPTIONS[kind].split() + (_ORDER.split() if kind in _DATASETS else [])
    checked: dict[str, Any] = {"class": kind}
    for key, value in opts.items():
        if key == "class":
            continue
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{where}: {kind} has no option {key!r} here; {hint}")
        if key in ("orth_vocab", "targets"):
            checked[key] = _checked(value, f"{where}.{key}", ("SentencePieces",))
        elif key == "datasets":
            if type(value) is not dict or not value:
                raise ValueError(f"{where}.datasets: got {value!r}; expected a dict of datasets")
            checked[key] = {name: _checked(item, f"{where}.datasets.{name}", _DATASETS) for name, item in value.items()}
        else:
            checked[key] = _plain(value, f"{where}.{key}")
    _check_meaning(kind, checked, where)
    return checked


def _check_meaning(kind: str, opts: dict[str, Any], where: str) -> None:
    needed = {
        "LmDataset": ("corpus_file", "orth_vocab"),
        "OggZipDataset": ("path", "targets", "audio"),
        "MetaDataset": ("datasets", "data_map"),
        "HDFDataset": ("files",),
        "SentencePieces": ("model_file",),
    }
    for key in needed[kind]:
        if key not in opts:
            raise ValueError(f"{where}: {kind} without {key!r}; expected it to be set")
    if opts.get("audio") is not None:
        raise ValueError(f"{where}.audio: got {opts['audio']!r}; expected null, only the text is used")
    for key in ("add_bos", "add_eos", "reverse"):
        if opts.get(key):
            raise ValueError(f"{where}.{key}: expected false, the model adds BOS and EOS and reads every text forwards")
    if opts.get("enable_sampling"):
        raise ValueError(
            f"{where}.enable_sampling: expected false, sampled pieces would not be the same after a resume"
        )
    if kind == "MetaDataset":
        for key, target in opts["data_map"].items() if isinstance(opts["data_map"], dict) else [("", None)]:
            if not isinstance(target, list) or len(target) != 2 or target[0] not in opts["datasets"]:
                raise ValueError(
                    f"{where}.data_map {key!r}: got {target!r}; expected [dataset, its data key],"
                    f" dataset one of {', '.join(opts['datasets'])}"
                )
        control = opts.get("seq_order_control_dataset")
        if control is not None and control not in opts["datasets"]:
            raise ValueError(
                f"{where}.seq_order_control_dataset {control!r}; expected one of {', '.join(opts['datasets'])}"
            )


def _plain(value: Any, where: str) -> Any:
    """A copy of plain data (tuples become lists). ValueError for anything else."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, os.PathLike)):
        text = str(value)
        if text.endswith((".pkl", ".pkl.gz", ".pickle")):
            raise ValueError(f"{where}: {text}: pickle files can run code; expected a text file")
        return text
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if type(value) is dict:
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise ValueError(f"{where}: got {type(value).__name__}; expected plain data (numbers, strings, lists, dicts)")


def _walk(opts: dict[str, Any], where: str = "dataset") -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted key, dict) of the dict itself and of every nested dict that names a class."""
    yield where, opts
    for key in ("orth_vocab", "targets"):
        if key in opts:
            yield f"{where}.{key}", opts[key]
    for name, item in opts.get("datasets", {}).items():
        yield from _walk(item, f"{where}.datasets.{name}")


def _classes(opts: dict[str, Any]) -> set[str]:
    return {node["class"] for _, node in _walk(opts)}


def _file_list(value: Any) -> list[str]:
    return (
        []
        if value is None
        else [value]
        if isinstance(value, str)
        else list(value.values() if isinstance(value, dict) else value)
    )


def dataset_files(opts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(dotted key, path) of every file that a dataset dict reads.

    FileNotFoundError for a missing file, ValueError for an empty one.
    """
    opts = plain_opts(opts)
    _check_files(opts)
    return _files(opts)


def _files(opts: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (f"{where}.{key}", path) for where, node in _walk(opts) for key in _FILES for path in _file_list(node.get(key))
    ]


def _check_files(opts: dict[str, Any]) -> None:
    for key, path in _files(opts):
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{path}: no such file ({key})")
        if os.path.getsize(path) == 0:
            raise ValueError(f"{path}: empty file ({key}); expected some content")


def _check_zips(opts: dict[str, Any]) -> None:
    for _, node in _walk(opts):
        if node["class"] == "OggZipDataset":
            resolve = bool(node.get("resolve_symlink_for_name"))
            check_ogg_zips(_file_list(node["path"]), node.get("content_name"), resolve_symlinks=resolve)


@dataclass(frozen=True)
class CorpusReport:
    """Counts of a text file as LmDataset reads it."""

    lines: int
    """Lines with a sentence."""
    empty_lines: int
    """Lines that LmDataset skips."""
    missing_final_newline: bool
    """Only possible for .gz, where RETURNN keeps the last line nevertheless."""


def check_corpus(path: str | os.PathLike[str]) -> CorpusReport:
    """Read a text file (plain or .gz) and check that LmDataset would neither lose nor change a line of it.

    ValueError with file:line for text that is not UTF-8 or has a byte order mark, a broken .gz, a file without any
    sentence, and two kinds of lines of plain files: a last line without a line end, which RETURNN loses (a .gz keeps
    it), and a line of blanks only, which becomes an empty sentence (a .gz skips it). Empty lines are skipped in both
    and counted.
    """
    name = os.fspath(path)
    zipped = name.endswith(".gz")
    lines = empty = number = 0
    line = b""
    for number, line in iterate_raw_lines(name):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            where = f"{error.reason} at byte {error.start}"
            raise ValueError(f"{name}:{number}: not UTF-8 ({where}); expected UTF-8 text") from None
        if number == 1 and text.startswith("\ufeff"):
            raise ValueError(f"{name}:1: a byte order mark, which RETURNN takes for text; expected text without one")
        if text.strip():
            lines += 1
        elif line == b"\n" or (zipped and not line.strip()):
            empty += 1
        else:
            raise ValueError(
                f"{name}:{number}: a line of blanks only, which RETURNN makes an empty sentence;"
                " expected text or an empty line"
            )
    unfinished = bool(line) and not line.endswith(b"\n")
    if unfinished and not zipped:
        raise ValueError(
            f"{name}:{number}: no line end after the last line, which RETURNN would lose; expected a final newline"
        )
    if not lines:
        raise ValueError(f"{name}: no sentence in {number} lines; expected text, one sentence a line")
    return CorpusReport(lines, empty, unfinished)


def check_corpora(opts: Mapping[str, Any]) -> dict[str, CorpusReport]:
    """The `check_corpus` report of each text file that LmDatasets in a dataset dict read; Bliss corpora are skipped."""
    opts = plain_opts(opts)
    _check_files(opts)
    files = [
        path for _, node in _walk(opts) if node["class"] == "LmDataset" for path in _file_list(node["corpus_file"])
    ]
    return {path: check_corpus(path) for path in files if not is_xml(path)}


def is_xml(path: str) -> bool:
    """Whether LmDataset would read the file as a Bliss corpus."""
    try:
        return next(iterate_bytes(path)).startswith(b"<?xml ")
    except ValueError:
        return False  # check_corpus reports the error
