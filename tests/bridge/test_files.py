"""Files are read with the line in every error and written whole; nothing that exists is lost."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from returnn_bridge import files
from returnn_bridge.files import (
    iterate_lines,
    iterate_raw_lines,
    lock,
    named,
    quoted,
    read_json_object,
    read_yaml,
    scratch_folder,
    sweep,
    whole_file,
    whole_folder,
    write_text,
)


@given(st.lists(st.sampled_from(["a", "b\rc", "", "\u2028d", "ä" * 300])), st.booleans(), st.integers(1, 400))
def test_lines_are_those_of_a_split_whatever_the_pieces_read(tmp_path_factory, lines, ended, width):
    path = tmp_path_factory.mktemp("lines") / "text"
    text = "\n".join(lines) + ("\n" if ended and lines else "")
    path.write_bytes(text.encode())
    expected = text.split("\n")
    expected = expected[:-1] if not expected[-1] else expected
    before, files._CHUNK_BYTES = files._CHUNK_BYTES, width
    try:
        assert list(iterate_lines(path)) == list(enumerate((line.removesuffix("\r") for line in expected), start=1))
        raw = [line for _, line in iterate_raw_lines(path)]
        assert b"".join(raw) == text.encode() and len(raw) == len(expected)
        assert all(line.endswith(b"\n") for line in raw[:-1])
    finally:
        files._CHUNK_BYTES = before


def test_a_failed_block_leaves_what_was_there(tmp_path):
    target = tmp_path / "a" / "text.gz"
    write_text(target, "old")
    with pytest.raises(ZeroDivisionError), whole_file(target) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert gzip.decompress(target.read_bytes()) == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["text.gz"]


def test_a_device_or_a_folder_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(ValueError, match=f"{name}: is no regular file"):
            write_text(tmp_path / name, "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, whole_file(tmp_path / "text"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "text")


def test_a_folder_of_something_else_is_not_replaced(tmp_path):
    target = tmp_path / "run"
    target.mkdir()
    (target / "work").write_text("of a week")
    for replaces in (None, lambda folder: (folder / "mine").exists()):
        with (
            pytest.raises(ValueError, match=r"run: exists and holds something else \(work\)"),
            whole_folder(target, replaces=replaces),
        ):
            raise AssertionError("the block must not run")
    assert (target / "work").read_text() == "of a week"
    (target / "mine").touch()
    with whole_folder(target, replaces=lambda folder: (folder / "mine").exists()) as temporary:
        (temporary / "mine").write_text("new")
    assert [path.name for path in target.iterdir()] == ["mine"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_dead_process_left_is_removed_or_put_back(tmp_path):
    target, host = tmp_path / "model", files._host()
    left = [tmp_path / f".model.{host}-{dead_process()}-1.tmp", tmp_path / f".model.{host}-{dead_process()}-2.old"]
    for folder in left:
        folder.mkdir()
        (folder / "weights").write_text(folder.suffix)
    of_another = tmp_path / f".model.elsewhere-{dead_process()}-1.tmp"
    alive = tmp_path / f".model.{host}-{os.getpid()}-1.tmp"
    for path in (of_another, alive):
        path.touch()
    sweep(target)
    assert (target / "weights").read_text() == ".old"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([of_another.name, alive.name, "model"])


def test_one_writer_at_a_time_and_a_killed_one_leaves_the_lock_free(tmp_path):
    target = tmp_path / "out.jsonl"
    code = f"""
import sys, time
sys.path.insert(0, {str(files.__file__.rsplit("/", 2)[0])!r})
from returnn_bridge.files import lock
with lock({str(target)!r}):
    print("held", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=rf"out.jsonl: process {process.pid} on .* is writing it"), lock(target):
        raise AssertionError("the block must not run")
    process.kill()
    process.wait()
    with lock(target):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r":3: not valid YAML \(the key 'a' comes twice"),
        ("a: [\n", r":2: not valid YAML"),
        ("- a\n", "got list; expected a mapping"),
        ("a: !!python/object/apply:os.system [ls]\n", ":1: not valid YAML"),
        ("a: &a [*a]\n", "aliases expand"),
        (
            "\n".join([f"a0: &a0 [{'x, ' * 9}]", *(f"a{i + 1}: &a{i + 1} [{f'*a{i}, ' * 9}]" for i in range(9))]),
            "aliases",
        ),
    ],
)
def test_yaml_that_is_no_configuration_is_one_line_with_the_file(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_json_errors_name_file_and_line(tmp_path):
    path = tmp_path / "x.json"
    for text, message in (
        ('{\n"a": }', "x.json:2: invalid JSON"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("[1]", "got list"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_json_object(path)
    with pytest.raises(FileNotFoundError, match="expected scales"):
        read_json_object(tmp_path / "none.json", "scales")


def test_a_scratch_folder_goes_with_its_block_and_that_of_a_killed_process_with_the_next(tmp_path):
    target = tmp_path / "made" / "model"
    script = (
        "import os, sys\nfrom returnn_bridge.files import scratch_folder\n"
        "with scratch_folder(sys.argv[1]) as folder:\n    (folder / 'half').touch()\n    os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, str(target)], env={**os.environ, "PYTHONPATH": "recipe"}, check=False)
    (left,) = target.parent.iterdir()
    with scratch_folder(target) as folder:
        assert folder.parent == target.parent and not left.exists()
        (folder / "work").touch()
    assert not list(target.parent.iterdir())
    with pytest.raises(ZeroDivisionError), scratch_folder(target) as folder:
        (folder / "work").write_text(f"{1 / 0}")
    assert not list(target.parent.iterdir())


def test_a_folder_is_written_where_a_link_points_and_the_link_stays(tmp_path):
    real, link = tmp_path / "disk" / "model", tmp_path / "model"
    real.mkdir(parents=True)
    link.symlink_to(real)
    for content in ("first", "second"):
        with whole_folder(link, replaces=lambda folder: (folder / "weights").is_file()) as temporary:
            (temporary / "weights").write_text(content)
        assert link.is_symlink() and (real / "weights").read_text() == content
        assert sorted(tmp_path.rglob("*")) == sorted([real.parent, real, link, real / "weights"])
    dangling = tmp_path / "nowhere"
    dangling.symlink_to(tmp_path / "missing")
    with pytest.raises(ValueError, match="nowhere: is a file"), whole_folder(dangling):
        raise AssertionError("the block must not run")


@pytest.mark.parametrize("writer", [files.naming, files.whole_file, files.scratch_folder, files.whole_folder])
def test_a_full_disk_is_an_error_that_names_what_is_written(tmp_path, writer):
    with pytest.raises(OSError, match="No space left") as caught, writer(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "out") and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": [1, NaN]}', "got nan in 'a'; expected a finite number"),
        ('{"a": {"b": 1e999}}', r"got inf in 'a\.b'; expected a finite number"),
        ('{"a": 1' + "0" * 400 + "}", "in 'a'; expected a finite number"),
        ('{"a": "\\ud83d"}', r"lone surrogate \\ud83d; expected Unicode text"),
        ("[" * 100_000, "nested too deeply"),
        ('{"' + "k" * 20_000 + '": 1, "' + "k" * 20_000 + '": 2}', "given twice"),
    ],
)
def test_json_that_no_other_file_could_hold_is_refused_in_a_short_line(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_json_object(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_pair_of_surrogates_in_json_is_one_character(tmp_path):
    (tmp_path / "a.json").write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json_object(tmp_path / "a.json") == {"a": "\U0001f600"}


def test_merges_of_merges_in_yaml_are_the_union_of_their_keys(tmp_path):
    """PyYAML keeps the pairs of every merge: these would be 10 ** 20 of them."""
    path = tmp_path / "a.yaml"
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}], y: {n}}}" for n in range(1, 21)]
    path.write_text("\n".join(lines))
    assert read_yaml(path)["a20"] == {"x": 1, "y": 20}
    path.write_text("a: &a {x: 1, y: 1}\nb: {<<: [*a, {x: 2, z: 2}], y: 3}")
    assert read_yaml(path)["b"] == {"x": 1, "y": 3, "z": 2}
    path.write_text("a: &a {" + ", ".join(f"k{n}: 1" for n in range(500)) + "}\nb: {<<: [" + "*a, " * 500 + "]}")
    with pytest.raises(ValueError, match=r"a\.yaml: merges of over 100000 keys"):
        read_yaml(path)
    path.write_text("a: {<<: {x: 1, x: 2}}")
    with pytest.raises(ValueError, match=r"a\.yaml:1: .*'x' comes twice"):
        read_yaml(path)


def test_an_error_gets_the_name_of_its_file_once(tmp_path):
    with pytest.raises(ValueError, match=r"^a\.yaml: wrong$"), named("a.yaml"):
        raise ValueError("wrong")
    with pytest.raises(ValueError, match=r"^a\.yaml:3: wrong$"), named("a.yaml"):
        raise ValueError("a.yaml:3: wrong")


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_is_quoted_is_one_line_of_limited_length(value):
    assert len(quoted(value, 20)) <= 20 and len(quoted(value, 20).splitlines()) == 1
