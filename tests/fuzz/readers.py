"""The table of everything that is read: for each kind the product's reader, and where there can be one an independent reader.

    reader = READERS["nbest_py"]
    value = reader.read(Path("case/input.py"), world)            # plain values; ValueError or OSError where the file is refused
    reader.reference(Path("case/input.py"), world) == value       # read by other code

This is the one file that imports the product (`PRODUCT` says what is where). `world` is a folder of things that are not damaged: text, a
vocabulary, lists (see generate.py). A reader may write into the folder of the case.
"""

from __future__ import annotations

import ast
import functools
import importlib
import io
import json
import math
import operator
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .independent import (
    SENTENCES,
    kaldi_line,
    lists_of_flat,
    lists_of_json_lines,
    lists_of_mlm,
    lists_of_py,
    ngram_scores,
    refs_of_json,
    refs_of_json_lines,
    refs_of_lines,
    refs_of_py,
    scales_of,
    sealed_lists,
    segments_of,
    store_values,
    table_of,
    text_lines,
    text_of,
    texts_by,
    texts_of,
    texts_of_world,
    tokenizer_of,
    trn_line,
    utterances_of,
    weights_of,
)

PRODUCT = {
    "rescore.nbest": "read_nbest iterate_nbest write_nbest read_sources",
    "rescore.nbest.types": "Hypothesis NBestList",
    "rescore.nbest.references": "read_references write_transcripts",
    "rescore.score_file": "score_file merge_parts recorded",
    "rescore.scores": "SequenceScore UnknownCounts",
    "rescore.lms.base": "LanguageModelScorer",
    "rescore.combination.scales": "Scales",
    "rescore.report.overview": "read_overview",
    "rescore.report.table": "ResultTable evaluate",
    "rescore.racing.race": "Race race_format=FORMAT",
    "rescore.lms.ngram": "NgramScorer",
    "rescore.lms.open": "open_scorer",
    "rescore.lms.options": "ScoringOptions",
    "rescore.lms.network": "NetworkScorer",
    "rescore.lms.huggingface": "load_huggingface",
    "rescore.commands.report": "wer",
    "diffusion_lm.commands.train": "train",
    "diffusion_lm.training.run": "run_training=train",
    "diffusion_lm.training.preload": "preload",
    "diffusion_lm.commands.foreign_modes": "run_tree=run",
    "diffusion_lm.foreign.translate": "read_tree translate",
    "diffusion_lm.foreign.published": "open_pretrained",
    "diffusion_lm.foreign.mdlm_weights": "read_checkpoint network_weights parameter_names",
    "diffusion_lm.config": "apply_overrides from_dict to_dict",
    "diffusion_lm.presets": "build_preset=build",
    "diffusion_lm.model": "LanguageModel",
    "diffusion_lm.backbones.dit": "DiTConfig",
    "returnn_bridge.files": "named",
    "returnn_bridge.vocab": "train_vocab read_lines",
    "returnn_bridge.vocab.open": "load_vocab",
    "returnn_bridge.token_store": "TokenStore build_store",
    "returnn_bridge.audio.bliss": "read_bliss write_bliss_text",
    "returnn_bridge.audio.oggzip": "Entry build_ogg_zip read_transcripts",
    "returnn_bridge.datasets": "ogg_zip_dataset_dict check_corpus",
    "returnn_bridge.batching": "ReturnnBatches",
}
PRODUCT_FOLDERS = ("recipe", "rescore")  # of the project's root: where a finding can be


def product(name: str) -> Any:
    """A function or class of the product, its module imported when it is asked for."""
    module, there = place_of(name)
    return getattr(importlib.import_module(module), there)


def place_of(name: str) -> tuple[str, str]:
    """(module, name in it) of one of the names above."""
    for module, names in PRODUCT.items():
        for entry in names.split():
            own, _, there = entry.partition("=")
            if own == name:
                return module, there or own
    raise KeyError(name)


class Differs(Exception):
    """A file was accepted, and what came of it is not what it says."""


@dataclass(frozen=True)
class Reader:
    """How one kind of input is read."""

    read: Callable[[Path, Path], Any]
    """(path of the case's main file or folder, world) -> plain values; all of the file's data, as far as it can be compared."""
    imports: tuple[str, ...] = ()
    """What it uses: names of `PRODUCT`, and modules of others."""
    reference: Callable[[Path, Path], Any] | None = None
    """The same values by independent code; an exception where the file is none."""
    strict: bool = True
    """Whether it is a finding that the product accepts what the reference refuses."""
    test_inputs: int = 400
    """How many inputs the test reads."""
    needs: tuple[str, ...] = ()
    """Packages that may not be installed."""
    group: int = 50
    """Inputs that one process reads."""


# ------------------------------------------------------------------------------------------------------ N-best lists


def plain_lists(lists: Any) -> list[Any]:
    return [
        [
            utterance.seq_tag,
            utterance.reference,
            [
                [hyp.text, dict(hyp.scores), {name: dict(detail) for name, detail in hyp.details.items()}]
                for hyp in utterance.hypotheses
            ],
        ]
        for utterance in lists
    ]


def read_lists(path: Path, world: Path) -> list[Any]:
    """Read, written in our own format and read again: the same."""
    lists = product("read_nbest")(path)
    value = plain_lists(lists)
    again = path.parent / "again.jsonl"
    try:
        product("write_nbest")(again, lists)
    except ValueError as error:  # a lone surrogate can be read from JSON but stand in no file
        if "surrogate" in str(error):
            return value
        raise
    if not same(plain_lists(product("read_nbest")(again)), value):
        raise Differs("written as .jsonl and read again it is another list")
    return value


# --------------------------------------------------------------------------------------------------------- references


def read_refs(path: Path, world: Path) -> list[Any]:
    references = product("read_references")(path)
    return [list(pair) for pair in references.items()]


# -------------------------------------------------------------------------------------------------- files of results


class Stopped(BaseException):
    """As a process that is killed."""


def count_characters(utterances: int = 1 << 30) -> Any:
    """A language model whose scores are numbers of characters; it may stop for ever behind some utterances."""

    class Characters(product("LanguageModelScorer")):  # type: ignore[misc]
        name = "lm"
        left = utterances

        def score_group(self, group: Any) -> Any:
            self.left -= len(group)
            if self.left < 0:
                raise Stopped
            score = product("SequenceScore")
            texts = [[hypothesis.text for hypothesis in utterance.hypotheses] for utterance in group]
            return [[score(-float(len(text)), 0.0, 1, len(text.split()), "log p") for text in row] for row in texts]

        def describe(self) -> dict[str, object]:
            return {"kind": "characters", "version": 1}

        def unknown(self) -> Any:
            return product("UnknownCounts")(0, 0, "words")

    return Characters()


def scores_of(scorer: Any, path: Path) -> list[float]:
    """Of the sentences, as a list is scored."""
    folder = path if path.is_dir() else path.parent
    hypotheses = tuple(product("Hypothesis")(text, {"am": 0.0}) for text in SENTENCES)
    product("write_nbest")(folder / "sentences.jsonl", [product("NBestList")("utterance", hypotheses)])
    run = product("score_file")([str(folder / "sentences.jsonl")], scorer, folder / "scored.jsonl")
    return [hypothesis.scores[scorer.name] for hypothesis in run.lists[0].hypotheses]


def score_lists(path: Path, world: Path) -> Any:
    """What scoring writes has the utterances and texts of what it read."""
    out = path.parent / "out.jsonl"
    product("score_file")([str(path)], count_characters(), out)
    return texts_of(plain_lists(product("read_nbest")(out)))


def read_scores(path: Path, world: Path) -> Any:
    lists = product("read_sources")([str(path)])
    known = product("recorded")([str(path)])
    for facts, seconds, *_ in known.values():
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float)):
            raise Differs(f"the seconds that scoring took are {seconds!r}"[:200])
        json.dumps(facts)
    return plain_lists(lists)


def resume_scoring(path: Path, world: Path) -> Any:
    """`path` is the result to be: what is unfinished lies beside it."""
    product("score_file")([str(world / "lists.jsonl")], count_characters(), path)
    return texts_of(plain_lists(product("read_nbest")(path)))


def merge(path: Path, world: Path) -> Any:
    out = path / "whole.jsonl"
    product("merge_parts")(sorted(path.glob("part*.jsonl")), out)
    return texts_of(plain_lists(product("read_nbest")(out)))


def read_scales(path: Path, world: Path) -> Any:
    value = product("Scales").load(path)
    return {"scores": dict(value.scores), "words": value.words, "tokens": dict(value.tokens)}


def read_table(path: Path, world: Path) -> Any:
    found = product("read_overview")([f"one={path}", f"two={world / 'table.json'}"])
    for text in (found.to_markdown(), found.to_csv(), found.to_latex(), found.to_json()):
        text.encode()
    return [[row["system"], row["wer_percent"]] for row in found.tables["one"]["rows"]]


def read_race(path: Path, world: Path) -> Any:
    race = product("Race").load(path)
    race.save(path.parent / "again.json")
    return json.loads((path.parent / "again.json").read_text())


def word_errors(path: Path, world: Path) -> Any:
    """The whole command on a damaged score file or its cost."""
    folder = path.parent
    with redirect_stdout(io.StringIO()):
        product("wer")(
            nbest=[str(path)],
            refs=world / "refs.py",
            scales=[str(world / "scales.json")],
            out=[folder / "table.json", folder / "table.md", folder / "table.tex", folder / "table.csv"],
            transcripts=[folder / "best.txt", folder / "best.py"],
        )
    return None


def word_errors_of_references(path: Path, world: Path) -> Any:
    with redirect_stdout(io.StringIO()):
        product("wer")(nbest=[str(world / "scores.jsonl")], refs=path, out=[path.parent / "table.json"])
    return None


# ----------------------------------------------------------------------------------------------------- configurations


class Reached(BaseException):
    """Training would begin now."""


def configure(path: Path, world: Path) -> Any:
    """`dlm train --config` up to the first step; what the run wrote down as its configuration has every value of the file."""
    import lightning

    def stop(*_: Any, **__: Any) -> None:
        raise Reached

    lightning.Trainer.fit = stop
    run = path.parent / "run"
    with redirect_stdout(io.StringIO()), suppress(Reached):
        product("train")(config=path, out=run)
    import yaml

    written = json.loads((run / "config.json").read_text())
    lost = list(_lost(yaml.safe_load(text_of(path)), written))
    if lost:
        raise Differs(f"of the file is not in config.json: {lost[0]}")
    return None


def _lost(tree: Any, other: Any, where: str = "") -> Iterator[str]:
    """Values that another tree lacks; a number may be a text there, and one value a list of one."""
    if isinstance(tree, dict):
        if not isinstance(other, dict):
            yield where
            return
        for key, value in tree.items():
            if key not in other and str(key) not in other:
                yield f"{where}.{key}"
            else:
                yield from _lost(value, other.get(key, other.get(str(key))), f"{where}.{key}")
        return
    if isinstance(other, list) and not isinstance(tree, list):
        other = other[0] if len(other) == 1 else other
    if isinstance(tree, list) and isinstance(other, list) and len(tree) == len(other):
        for place, (left, right) in enumerate(zip(tree, other)):
            yield from _lost(left, right, f"{where}[{place}]")
    elif not same(tree, other) and str(tree) != str(other) and not _same_number(tree, other):
        yield f"{where}: {str(tree)[:40]!r} is {str(other)[:40]!r}"


def _same_number(left: Any, right: Any) -> bool:
    """A whole number of many digits is the nearest float."""
    return type(left) is int and isinstance(right, float) and abs(left) < 1e300 and float(left) == right


def translate_tree(path: Path, world: Path) -> Any:
    with redirect_stdout(io.StringIO()):
        product("run_tree")(path, print_only=True)
    made = product("translate")(product("read_tree")(path))
    return sorted(note.key for note in made.notes)


# ------------------------------------------------------------------------------------------------ models, vocabularies


def read_model(path: Path, world: Path) -> Any:
    """Opened and used once; the weights are those of the file."""
    scorer = product("open_scorer")(f"lm={path}", product("ScoringOptions")(replicates=2), chosen=False)
    scores_of(scorer, path)
    return {name: value.flatten().tolist() for name, value in scorer.model.network.state_dict().items()}


TEXTS = ["the king said", "", "Zoë  went \U0001f600", "a", "<s> </s> <|endoftext|>"]


def read_vocab(path: Path, world: Path) -> Any:
    vocab = product("load_vocab")(path)
    ids = vocab.encode_batch(TEXTS)
    assert [vocab.mask_id, vocab.num_inputs, vocab.pad_id] and max(
        [0, *functools.reduce(operator.iadd, ids, [])]
    ) < vocab.num_inputs
    for row in ids:
        vocab.decode(row).encode()
        vocab.count_unknown(row)
    return None


def read_tokenizer(path: Path, world: Path) -> Any:
    read_vocab(path, world)
    model = json.loads(product("load_vocab")(path).content)["model"]
    return [
        sorted(model["vocab"].items()),
        [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]],
    ]


def read_published(path: Path, world: Path) -> Any:
    model = product("open_pretrained")(path, world / "vocab")
    assert model.sentences(["the king said"])
    return None


def read_torch(path: Path, world: Path) -> Any:
    with product("named")(path):
        product("network_weights")(product("read_checkpoint")(path))
    return None


def read_preload(path: Path, world: Path) -> Any:
    model = product("LanguageModel").load(world / "model")
    product("preload")(model, {"all": {"filename": str(path / "model.safetensors")}})
    return {name: value.flatten().tolist() for name, value in model.network.state_dict().items()}


def read_huggingface(path: Path, world: Path) -> Any:
    scores_of(product("load_huggingface")(path), path)
    return None


def resume_run(path: Path, world: Path) -> Any:
    """Continue a run by two steps."""
    config = product("from_dict")(json.loads((world / "run_config.json").read_text()))
    with redirect_stdout(io.StringIO()):
        product("run_training")(config, path)
    return None


# --------------------------------------------------------------------------------------------------------------- n-grams


def read_ngram(path: Path, world: Path) -> Any:
    return [round(score, 3) for score in scores_of(product("NgramScorer")(path), path)]


# ------------------------------------------------------------------------------------------------------ training data


def read_text(path: Path, world: Path) -> Any:
    """Sentences as training a vocabulary reads them; as training reads them there are as many."""
    report = product("check_corpus")(path)
    sentences = list(product("read_lines")([path]))
    if report.lines != len(sentences):
        raise Differs(f"{len(sentences)} sentences, check_corpus says {report.lines}")
    return sentences


def read_corpus_xml(path: Path, world: Path) -> Any:
    found = [[part.seq_tag, part.text, part.start, part.end] for part in product("read_bliss")(path)]
    product("write_bliss_text")(path, path.parent / "out.py")
    if product("read_references")(path.parent / "out.py") != {tag: text for tag, text, _, _ in found}:
        raise Differs("written as references and read again it is another text")
    return found


def read_ogg_zip(path: Path, world: Path) -> Any:
    opts = product("ogg_zip_dataset_dict")([path], world / "vocab")
    pieces = product("load_vocab")(world / "vocab").num_pieces
    found = []
    for batch in product("ReturnnBatches")(opts, num_tokens=pieces):
        found += [(tag, row[mask].tolist()) for tag, row, mask in zip(batch.seq_tags, batch.tokens, batch.valid)]
    return sorted(found)


def ids_of_zip(path: Path, world: Path) -> Any:
    vocab = product("load_vocab")(world / "vocab")
    with zipfile.ZipFile(path) as archive:
        entries = ast.literal_eval(archive.read(f"{path.stem}.txt").decode())
    tags = [entry.get("seq_name", entry.get("file")) for entry in entries]
    return sorted((tag, vocab.encode_batch([entry["text"]])[0]) for tag, entry in zip(tags, entries))


def read_audio(path: Path, world: Path) -> Any:
    product("build_ogg_zip")(path.parent / "out.zip", [product("Entry")("utterance", "the king", path)])
    return None


def read_utterances(path: Path, world: Path) -> Any:
    return [list(pair) for pair in product("read_transcripts")(path).items()]


def read_store(path: Path, world: Path) -> Any:
    """Opened as training does, and every sentence taken out."""
    import numpy as np

    store = product("TokenStore").open(path, corpus_files=[str(world / "corpus.txt")], spm_model=world / "vocab")
    sentences = np.arange(len(store))
    lengths = store.lengths(sentences).tolist()
    return [store.gather(sentences).tolist(), lengths, store.line_bytes.tolist(), store.num_pieces]


def finish_store(path: Path, world: Path) -> Any:
    """Go on with an unfinished store: the one that is made in one go."""
    store = product("build_store")([str(world / "corpus.txt")], world / "vocab", path)
    return [store.ids.tolist(), store.starts.tolist(), store.line_bytes.tolist()]


def whole_store(path: Path, world: Path) -> Any:
    store = product("TokenStore").open(world / "tokens.hdf")
    return [store.ids.tolist(), store.starts.tolist(), store.line_bytes.tolist()]


# ----------------------------------------------------------------------------------------------------------- the table


def same(left: Any, right: Any) -> bool:
    """Equal, nan being equal to itself, and no number equal to a truth value."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


# What a kind uses: names of the product, or modules of others with a dot or none of these names.
_MODEL = ("torch", "NetworkScorer", "open_scorer")
_TRAIN = (*_MODEL, "lightning", "run_training", "train", "yaml")
READERS: dict[str, Reader] = {
    "nbest_py": Reader(read_lists, ("read_nbest",), lists_of_py),
    "nbest_jsonl": Reader(read_lists, ("read_nbest",), lists_of_json_lines),
    "nbest_mlm": Reader(read_lists, ("read_nbest",), lists_of_mlm),
    "nbest_flat": Reader(read_lists, ("read_nbest",), lists_of_flat),
    "refs_py": Reader(read_refs, ("read_references",), refs_of_py),
    "refs_kaldi": Reader(read_refs, ("read_references",), refs_of_lines(kaldi_line)),
    "refs_trn": Reader(read_refs, ("read_references",), refs_of_lines(trn_line)),
    "refs_json": Reader(read_refs, ("read_references",), refs_of_json),
    "refs_jsonl": Reader(read_refs, ("read_references",), refs_of_json_lines),
    "scored": Reader(read_scores, ("score_file",), sealed_lists),
    "score_py": Reader(score_lists, ("score_file",), texts_by(lists_of_py)),
    "score_jsonl": Reader(score_lists, ("score_file",), texts_by(lists_of_json_lines)),
    "score_resume": Reader(resume_scoring, ("score_file",), texts_of_world),
    "score_merge": Reader(merge, ("score_file",), texts_of_world),
    "scales": Reader(read_scales, ("Scales",), scales_of),
    "overview": Reader(read_table, ("read_overview",), table_of),
    "race": Reader(read_race, ("Race",)),
    "wer": Reader(word_errors, ("wer", "evaluate"), test_inputs=150),
    "wer_refs": Reader(word_errors_of_references, ("wer", "evaluate"), test_inputs=100),
    "text": Reader(read_text, ("read_lines", "check_corpus"), text_lines),
    "transcripts": Reader(read_utterances, ("read_transcripts",), utterances_of),
    "bliss": Reader(read_corpus_xml, ("read_bliss", "read_references"), segments_of),
    "audio": Reader(read_audio, ("build_ogg_zip", "soundfile", "numpy")),
    "arpa": Reader(read_ngram, ("NgramScorer", "kenlm"), ngram_scores, strict=False, test_inputs=100),
    "kenlm": Reader(read_ngram, ("NgramScorer", "kenlm"), test_inputs=100),
    "vocab": Reader(read_vocab, ("load_vocab", "sentencepiece")),
    "tokenizer": Reader(
        read_tokenizer, ("load_vocab", "tokenizers"), tokenizer_of, strict=False, test_inputs=200, needs=("tokenizers",)
    ),
    "token_store": Reader(read_store, ("TokenStore", "h5py", "sentencepiece"), store_values),
    "store_partial": Reader(finish_store, ("build_store", "h5py", "sentencepiece"), whole_store),
    "foreign_config": Reader(translate_tree, (*_MODEL, "run_tree"), test_inputs=100),
    "model": Reader(read_model, _MODEL, weights_of, strict=False),
    "published": Reader(read_published, (*_MODEL, "open_pretrained"), test_inputs=300),
    "torch_checkpoint": Reader(read_torch, (*_MODEL, "read_checkpoint"), test_inputs=200),
    "preload": Reader(read_preload, (*_MODEL, "preload"), weights_of, strict=False, test_inputs=200),
    "oggzip": Reader(
        read_ogg_zip,
        (*_MODEL, "ReturnnBatches", "returnn.datasets.audio", "returnn.datasets.meta"),
        ids_of_zip,
        test_inputs=200,
    ),
    "config": Reader(configure, _TRAIN, test_inputs=150),
    "checkpoint": Reader(resume_run, (*_TRAIN, "returnn.datasets.lm"), test_inputs=80, group=10),
    "huggingface": Reader(
        read_huggingface,
        (*_MODEL, "transformers", "load_huggingface"),
        test_inputs=100,
        needs=("transformers", "tokenizers"),
    ),
}


def import_for(kind: str) -> None:
    """Everything that the kind's reader imports, before the processes that read are started."""
    for name in READERS[kind].imports:
        try:
            module, _ = place_of(name)
        except KeyError:
            module = name
        importlib.import_module(module)
