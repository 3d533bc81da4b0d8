"""Model folders: what may be replaced, and that a file other than the one that was written is not believed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from conftest import DEMO, random_model
from diffusion_lm.locate import locate
from diffusion_lm.model import LanguageModel
from diffusion_lm.model_folder import made_by
from rescore.lms import NetworkScorer
from returnn_bridge.vocab import train_vocab


def edit_config(folder: Path, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def older(folder: Path) -> Path:
    """As earlier versions wrote it: without sizes and digests."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    del config["weights"], config["vocabulary"]
    file.write_text(json.dumps(config))
    return folder


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        LanguageModel.load(folder)
    assert "\n" not in str(caught.value)


def test_what_is_written_is_described_and_has_the_rights_of_the_umask(vocab, tmp_path):
    model = random_model(vocab)
    before = os.umask(0o027)
    try:
        folder = model.save(tmp_path / "model")
    finally:
        os.umask(before)
    config = json.loads((folder / "config.json").read_text())
    for section, name in (("weights", "model.safetensors"), ("vocabulary", "spm.model")):
        content = (folder / name).read_bytes()
        assert config[section] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert (folder / name).stat().st_mode & 0o777 == 0o640
    state = model.network.state_dict()
    assert (folder / "model.safetensors").read_bytes() == save(
        {name: value.contiguous() for name, value in state.items()}
    )
    assert folder.stat().st_mode & 0o777 == 0o750


def test_folders_without_digests_are_read_as_before(vocab, tmp_path):
    model = random_model(vocab)
    loaded = LanguageModel.load(older(model.save(tmp_path / "model")))
    assert all(
        torch.equal(value, model.network.state_dict()[name]) for name, value in loaded.network.state_dict().items()
    )
    assert LanguageModel.load(DEMO / "masked-long").facts["steps"] == 3500


def test_a_swapped_vocabulary_is_noticed(vocab, text_file, tmp_path):
    """With as many pieces under other ids."""
    folder = random_model(vocab).save(tmp_path / "model")
    lines = text_file.read_text().splitlines()
    (tmp_path / "other.txt").write_text("\n".join(line.replace("king", "gnik") for line in lines) + "\n")
    other = train_vocab([tmp_path / "other.txt"], size=vocab.num_pieces, out=tmp_path / "vocab")
    assert other.num_pieces == vocab.num_pieces and other != vocab
    shutil.copy(tmp_path / "vocab" / "spm.model", folder)
    refused(folder, r"spm\.model: .*expected the file that the model was saved with")


@pytest.mark.parametrize("same_size", [True, False])
def test_other_weights_are_noticed(vocab, tmp_path, same_size):
    folder = random_model(vocab).save(tmp_path / "model")
    random_model(vocab, seed=1).save(tmp_path / "other", dtype="float32" if same_size else "bfloat16")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    refused(folder, r"model\.safetensors: (other content|\d+ bytes).*config\.json beside it says")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_must_be_numbers(vocab, tmp_path, value):
    model = random_model(vocab)
    with torch.no_grad():
        model.network.blocks[1].mlp_in.bias[2:4] = value
    refused(
        model.save(tmp_path / "model"), r"model\.safetensors: blocks\.1\.mlp_in\.bias has 2 values that are nan or inf"
    )


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 1 << 20},
        {"hidden_size": 1 << 40, "num_heads": 1},
        {"hidden_size": 10**30, "num_heads": 1},
        {"num_blocks": 10**9},
        {"num_blocks": 3},
        {"num_blocks": 1},
        {"cond_dim": 1 << 40},
        {"hidden_size": "32"},
        {"hidden_size": 32.0},
        {"num_heads": True},
        {"num_heads": 0},
        {"depth": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("digests", [True, False])
def test_a_lying_size_is_refused_before_memory_is_asked_for(vocab, tmp_path, monkeypatch, sizes, digests):
    folder = random_model(vocab).save(tmp_path / "model")
    folder = folder if digests else older(folder)
    edit_config(folder, model=json.loads((folder / "config.json").read_text())["model"] | sizes)
    monkeypatch.setattr(LanguageModel, "build", lambda *_: pytest.fail("the network is built first"))
    refused(folder, r"(weights do not fit config\.json|config\.json: )")


def test_weights_of_another_kind_or_shape_are_refused(vocab, tmp_path):
    folder = older(random_model(vocab).save(tmp_path / "model"))
    state = load_file(folder / "model.safetensors")
    for change, message in (
        ({"head.bias": torch.zeros(3)}, r"head\.bias has the shape \[3\], expected \["),
        ({"head.bias": state["head.bias"].int()}, r"head\.bias is of type I32, expected one of F64, F32"),
        ({"extra": torch.zeros(1)}, "extra is in no such network"),
    ):
        save_file(state | change, folder / "model.safetensors")
        refused(folder, message)
    del state["head.bias"], state["head.weight"]
    save_file(state, folder / "model.safetensors")
    refused(folder, r"no head\.(bias|weight) and 1 more")


def test_a_folder_is_replaced_only_by_what_made_it(vocab, tmp_path):
    model = random_model(vocab)
    kinds = {
        "trained": {"steps": 3},
        "averaged": {"steps": 3, "averaged": []},
        "imported": {"imported": {"folder": "bd3lm"}},
        "": {"imported_by_hand": True},
    }
    for kind, facts in kinds.items():
        folder = model.save(tmp_path / f"model {kind}", facts=facts)
        assert [made for made in ("trained", "averaged", "imported") if made_by(made)(folder)] == (
            [kind] if kind else []
        )
        with pytest.raises(ValueError, match="exists and holds something else"):
            model.save(folder)
        if kind:
            model.save(folder, facts=facts, replaces=made_by(kind))
            (folder / "notes.txt").write_text("mine")
            with pytest.raises(ValueError, match="exists and holds something else"):
                model.save(folder, replaces=made_by(kind))
            assert (folder / "notes.txt").read_text() == "mine"
    model.save(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")
    (tmp_path / "link").symlink_to(tmp_path / "model trained")
    (tmp_path / "model trained" / "notes.txt").unlink()
    model.save(tmp_path / "link", facts={"steps": 4}, replaces=made_by("trained"))
    assert LanguageModel.load(tmp_path / "model trained").facts == {"steps": 4} and (tmp_path / "link").is_symlink()


def test_a_run_folder_stands_for_its_model(vocab, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"family": {}, "trainer": {}}')
    with pytest.raises(ValueError, match="a training run that has no model/ yet; expected a finished run$"):
        LanguageModel.load(run)
    model = random_model(vocab)
    model.save(run / "model")
    assert locate(run) == locate(run / "model") == run / "model"
    assert torch.equal(next(LanguageModel.load(run).network.parameters()), next(model.network.parameters()))
    assert NetworkScorer(run).name == NetworkScorer(run / "model").name == "run"
