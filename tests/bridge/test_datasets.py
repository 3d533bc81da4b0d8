"""Dataset dicts: those of the reference run, and nothing else than data can come out of one."""

from __future__ import annotations

import builtins
import gzip
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from returnn_bridge.datasets import (
    CorpusReport,
    check_corpora,
    check_corpus,
    init_dataset,
    lm_dataset_dict,
    ogg_zip_dataset_dict,
    plain_opts,
)

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "mdlm_returnn_asr.yaml"


def shape(tree: Any) -> Any:
    """A dict's nested keys."""
    return {key: shape(value) for key, value in tree.items()} if isinstance(tree, dict) else None


@pytest.mark.skipif(not REFERENCE.is_file(), reason="needs the reference configuration beside the repository")
def test_builders_have_the_keys_and_settings_of_the_reference_run():
    data = yaml.safe_load(REFERENCE.read_text())["data"]
    train = lm_dataset_dict(["a", "b"], "m", partition_epoch=20, use_cache_manager=True)
    dev = ogg_zip_dataset_dict(["z"], "m", fixed_random_subset=3000, use_cache_manager=True)
    for own, theirs in ((train, data["returnn_train_config"]), (dev, data["returnn_valid_config"]["dev"])):
        assert shape(own) == shape(theirs)
    own, theirs = dict(dev["datasets"]["ogg_zip"]), dict(data["returnn_valid_config"]["dev"]["datasets"]["ogg_zip"])
    for tree in (own, theirs, train, data["returnn_train_config"]):
        for key in ("path", "targets", "corpus_file", "orth_vocab"):  # the places of another site
            tree.pop(key, None)
    assert own == theirs
    assert train == data["returnn_train_config"]
    for opts in data["returnn_valid_config"].values():
        plain_opts(opts)


def test_a_checked_dict_is_the_same_dict_but_a_copy(vocab_folder):
    opts = ogg_zip_dataset_dict(["a.zip"], vocab_folder, fixed_random_subset=10)
    checked = plain_opts(opts)
    assert checked == opts
    checked["datasets"]["ogg_zip"]["path"].append("b.zip")
    assert opts["datasets"]["ogg_zip"]["path"] == ["a.zip"]
    assert plain_opts({**opts, "data_map": {"data": ("ogg_zip", "classes")}}) == opts


LM = lm_dataset_dict(["a.txt"], "spm.model")
META = ogg_zip_dataset_dict(["a.zip"], "spm.model")


@pytest.mark.parametrize(
    "opts, message",
    [
        ({**LM, "class": "SprintDataset"}, "class 'SprintDataset'; expected LmDataset or"),
        ({"corpus_file": "a"}, "class None; expected"),
        ("LmDataset", "got str; expected a plain dict"),
        ({**LM, "seq_odering": "default"}, "no option 'seq_odering' here; did you mean 'seq_ordering'"),
        ({**LM, "orth_post_process": "english_cleaners"}, "no option 'orth_post_process'"),
        (
            {**LM, "orth_vocab": {"class": "Vocabulary", "vocab_file": "v"}},
            r"dataset.orth_vocab: class 'Vocabulary'; expected SentencePieces",
        ),
        ({**LM, "orth_vocab": "eval"}, r"dataset.orth_vocab: got str"),
        ({**LM, "orth_vocab": {**LM["orth_vocab"], "add_eos": True}}, "orth_vocab.add_eos: expected false"),
        ({**LM, "orth_vocab": {**LM["orth_vocab"], "enable_sampling": True}}, "enable_sampling: expected false"),
        ({**LM, "corpus_file": lambda: "a"}, "dataset.corpus_file: got function; expected plain data"),
        ({**LM, "seq_list_file": "tags.pkl.gz"}, "tags.pkl.gz: pickle files"),
        ({"class": "LmDataset", "corpus_file": "a"}, "without 'orth_vocab'"),
        ({"class": "HDFDataset"}, "without 'files'"),
        ({**META, "datasets": {"ogg_zip": "HDFDataset:a"}}, "dataset.datasets.ogg_zip: got str"),
        (
            {**META, "datasets": {"ogg_zip": {**META["datasets"]["ogg_zip"], "audio": {}}}},
            r"ogg_zip.audio: got \{\}; expected null",
        ),
        ({**META, "data_map": {"data": ["other", "classes"]}}, "data_map 'data': got .*one of ogg_zip"),
        ({**META, "data_map": "data"}, "data_map"),
        ({**META, "seq_order_control_dataset": "zip"}, "seq_order_control_dataset 'zip'; expected one of ogg_zip"),
    ],
)
def test_what_is_not_a_known_dataset_is_refused(opts, message):
    with pytest.raises(ValueError, match=message) as caught:
        plain_opts(opts)
    assert "\n" not in str(caught.value)


def test_a_single_path_instead_of_a_list_is_refused():
    with pytest.raises(ValueError, match="expected a list"):
        lm_dataset_dict("a.txt", "spm.model")
    with pytest.raises(ValueError, match="expected a list"):
        ogg_zip_dataset_dict("a.zip", "spm.model")


def test_omegaconf_containers_become_plain(monkeypatch):
    """OmegaConf need not be installed; its two functions in question are all that counts."""

    class Config(dict):
        pass

    omegaconf = types.ModuleType("omegaconf")
    omegaconf.OmegaConf = types.SimpleNamespace(  # type: ignore[attr-defined]
        is_config=lambda value: isinstance(value, Config),
        to_container=lambda value, resolve: dict(value) if resolve else None,
    )
    with pytest.raises(ValueError, match="got Config; expected a plain dict"):
        plain_opts(Config(LM))
    monkeypatch.setitem(sys.modules, "omegaconf", omegaconf)
    assert plain_opts(Config(LM)) == LM


def test_missing_and_empty_files_are_named(tmp_path, text_file, vocab_folder):
    for opts, message in (
        (
            lm_dataset_dict([text_file, tmp_path / "no.txt"], vocab_folder),
            r"no.txt: no such file \(dataset.corpus_file\)",
        ),
        (
            lm_dataset_dict([text_file], tmp_path / "no.model"),
            r"no.model: no such file \(dataset.orth_vocab.model_file\)",
        ),
        (
            ogg_zip_dataset_dict([tmp_path / "no.zip"], vocab_folder),
            r"no.zip: no such file \(dataset.datasets.ogg_zip.path\)",
        ),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            init_dataset(opts, num_tokens=48)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match="empty.txt: empty file"):
        init_dataset(lm_dataset_dict([tmp_path / "empty.txt"], vocab_folder), num_tokens=48)


def test_the_vocabulary_and_the_data_key_must_fit(text_file, vocab_folder, vocab):
    opts = lm_dataset_dict([text_file], vocab_folder)
    assert init_dataset(opts, num_tokens=vocab.num_pieces).num_outputs["data"][0] == vocab.num_pieces
    with pytest.raises(ValueError, match=f"encodes with {vocab.num_pieces} pieces; expected the 10240"):
        init_dataset(opts, num_tokens=10240)
    with pytest.raises(ValueError, match="no data key 'classes'; expected one of data"):
        init_dataset(opts, num_tokens=vocab.num_pieces, data_key="classes")


def test_packages_and_compiler_that_returnn_needs_are_explained(text_file, vocab_folder, tmp_path, monkeypatch):
    zipped = tmp_path / "a.zip"
    zipped.write_bytes(b"not read")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match=r"no C\+\+ compiler"):
        init_dataset(ogg_zip_dataset_dict([zipped], vocab_folder), num_tokens=48)

    original = builtins.__import__

    def no_tree(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "tree":
            raise ModuleNotFoundError("No module named 'tree'", name="tree")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_tree)
    with pytest.raises(ModuleNotFoundError, match="pip install dm-tree"):
        init_dataset(lm_dataset_dict([text_file], vocab_folder), num_tokens=48)


def test_opening_a_dataset_prints_nothing(text_file, vocab_folder, vocab, capfd):
    dataset = init_dataset(lm_dataset_dict([text_file], vocab_folder), num_tokens=vocab.num_pieces)
    dataset.init_seq_order(epoch=1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name, content, report",
    [
        ("a.txt", b"one\ntwo\n", CorpusReport(2, 0, False)),
        ("a.txt", b"one\n\n\ntwo\r\n", CorpusReport(2, 2, False)),
        ("a.txt.gz", b"one\n \n\ntwo", CorpusReport(2, 2, True)),
    ],
)
def test_a_good_corpus_is_counted_as_returnn_counts(tmp_path, vocab_folder, vocab, name, content, report):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert check_corpus(path) == report
    opts = lm_dataset_dict([path], vocab_folder)
    assert check_corpora(opts) == {str(path): report}
    assert init_dataset(opts, num_tokens=vocab.num_pieces).get_total_num_seqs() == report.lines


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"one\ntwo", "a.txt:2: no line end after the last line"),
        ("a.txt", b"one\n \t\ntwo\n", "a.txt:2: a line of blanks only"),
        ("a.txt", b"one\n\r\n", "a.txt:2: a line of blanks only"),
        (
            "a.txt.gz",
            b"one\n\xc2\xa0\n",
            "a.txt.gz:2: a line of blanks only",
        ),  # no-break space: blank for str, not for bytes
        ("a.txt", b"one\ntw\xff\n", "a.txt:2: not UTF-8 .* at byte 2"),
        ("a.txt", b"\n\n", "a.txt: no sentence in 2 lines"),
        ("a.txt", b"", "a.txt: no sentence in 0 lines"),
    ],
)
def test_what_returnn_would_lose_is_named_with_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(ValueError, match=message) as caught:
        check_corpus(path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [gzip.compress(b"one\n" * 1000)[:-9], b"not zipped\n", gzip.compress(b"one\n")[:10] + b"junk"]
)
def test_a_broken_gzip_is_one_line(tmp_path, vocab_folder, content):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(content)
    for check in (lambda: check_corpus(path), lambda: check_corpora(lm_dataset_dict([path], vocab_folder))):
        with pytest.raises(ValueError, match=r"a.txt.gz:\d+: broken gzip"):
            check()


def test_bliss_corpora_are_left_to_returnn(tmp_path, vocab_folder):
    path = tmp_path / "corpus.xml"
    path.write_text('<?xml version="1.0"?>\n<corpus name="c"></corpus>')
    assert check_corpora(lm_dataset_dict([path], vocab_folder)) == {}
