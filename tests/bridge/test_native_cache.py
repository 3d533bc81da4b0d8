"""RETURNN compiles and loads code in a folder of its user only, whatever others have put elsewhere."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from returnn_bridge import native_cache
from returnn_bridge.audio.oggzip import Entry, build_ogg_zip
from returnn_bridge.datasets import init_dataset, ogg_zip_dataset_dict
from returnn_bridge.native_cache import use_private_cache

BRIDGE = Path(native_cache.__file__).parent


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RETURNN_CACHE_DIR", "")  # so that it is put back, too
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_the_folder_is_made_for_its_user_alone(place):
    before = os.umask(0)
    try:
        folder = use_private_cache()
    finally:
        os.umask(before)
    assert folder == place / "cache" / "diffusion-lm" / "returnn" == Path(os.environ["RETURNN_CACHE_DIR"])
    assert [stat.S_IMODE(found.stat().st_mode) for found in (folder, folder.parent)] == [0o700, 0o700]
    assert use_private_cache() == folder


def test_a_folder_that_is_named_is_taken_and_checked(place, monkeypatch):
    own = place / "own"
    own.mkdir(mode=0o755)
    (place / "link").symlink_to(own)
    monkeypatch.setenv("RETURNN_CACHE_DIR", str(place / "link"))
    assert use_private_cache() == own
    for mode in (0o775, 0o757, 0o777):
        own.chmod(mode)
        with pytest.raises(
            ValueError, match=rf"own: others can write to it \(mode {mode:o}\); expected a folder"
        ) as caught:
            use_private_cache()
        assert "\n" not in str(caught.value)
    own.chmod(0o755)
    place.chmod(0o777)
    with pytest.raises(ValueError, match="everybody can write to"):
        use_private_cache()
    place.chmod(0o1777)
    assert use_private_cache() == own
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ValueError, match="own: belongs to user"):
        use_private_cache()


def test_without_a_home_the_folder_is_a_temporary_one(place, monkeypatch, capsys):
    (place / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "file"))
    folder = use_private_cache()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "RETURNN compiles for this process only" in capsys.readouterr().err
    folder.rmdir()


def test_code_that_lies_in_the_shared_folder_is_not_run(place, monkeypatch, vocab_folder, vocab):
    """RETURNN evaluates info.py of the folder that it would choose by itself: one that says who ran it must stay silent."""
    build_ogg_zip(place / "a.zip", [Entry("a", "the king")])
    monkeypatch.setenv("TMPDIR", str(place / "shared"))
    script = (
        "from returnn.util.literal_py_to_pickle import _get_native_lib_filename as name\n"
        "import returnn.util.native_code_compiler as compiler\n"
        "compiler.NativeCodeCompiler.get_lib_filename = lambda self: self._mod_path\n"
        "print(name())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RETURNN_CACHE_DIR"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    planted = Path(done.stdout.splitlines()[-1])
    assert planted.is_relative_to(place / "shared")
    planted.mkdir(parents=True)
    (planted / "pytopickle.so").write_bytes(b"")
    (planted / "info.py").write_text(f"open({str(place / 'ran')!r}, 'w')")
    script = (
        "import sys\nfrom returnn_bridge.datasets import init_dataset, ogg_zip_dataset_dict\n"
        "data = init_dataset(ogg_zip_dataset_dict([sys.argv[1]], sys.argv[2]), num_tokens=int(sys.argv[3]))\n"
        "data.init_seq_order(epoch=1)\nprint(data.num_seqs)"
    )
    environment["PYTHONPATH"] = str(BRIDGE.parent)
    command = [sys.executable, "-c", script, str(place / "a.zip"), str(vocab_folder), str(vocab.num_pieces)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not (place / "ran").exists()
    assert done.stdout.splitlines()[-1:] == ["1"], done.stderr
    assert list((place / "cache" / "diffusion-lm" / "returnn").rglob("pytopickle.so"))


def test_a_refused_folder_stops_a_dataset(place, monkeypatch, vocab_folder, vocab):
    build_ogg_zip(place / "a.zip", [Entry("a", "the king")])
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    monkeypatch.setenv("RETURNN_CACHE_DIR", str(place / "open"))
    with pytest.raises(ValueError, match="open: others can write to it"):
        init_dataset(ogg_zip_dataset_dict([place / "a.zip"], vocab_folder), num_tokens=vocab.num_pieces)


@pytest.mark.parametrize("module", ["datasets.py", "ordering.py"])
def test_whoever_opens_a_dataset_chooses_the_folder_first(module):
    """In every function that imports RETURNN; batching.py reads what init_dataset opened."""
    for function in ast.walk(ast.parse((BRIDGE / module).read_text())):
        if isinstance(function, ast.FunctionDef):
            nodes = list(ast.walk(function))
            imports = [
                node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and "returnn." in f"{node.module}."
            ]
            calls = [
                node.lineno
                for node in nodes
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "use_private_cache"
            ]
            assert not imports or (calls and min(calls) < min(imports)), function.name
