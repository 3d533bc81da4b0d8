"""SIGTERM, Ctrl-C and a time limit end a training with its state saved; going on gives the weights of an undisturbed run, bit for bit."""

from __future__ import annotations

import os
import signal

import pytest

from diffusion_lm import presets
from diffusion_lm.config import apply_overrides
from diffusion_lm.training.interruption import INTERRUPTED, TERMINATED, TIME_IS_UP, StopRequest
from diffusion_lm.training.run import Keeper, train


def config_of(vocab_folder, text_file, *more):
    return apply_overrides(
        presets.build("demo_ar:tiny"),
        [
            f"data.vocab={vocab_folder}",
            f"data.text=[{text_file}]",
            f"data.valid_text.dev={text_file}",
            "data.batch_size=600",
            "trainer.max_steps=8",
            "trainer.val_check_interval=4",
            "trainer.save_every=100",
            "trainer.logger=none",
            *more,
        ],
    )


def weights(folder):
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.fixture(autouse=True)
def _keep_handler():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# 3: between validations; 4: at one, which is waited for; with accumulation, the rest of the step is waited for.
@pytest.mark.parametrize(
    "step, accumulate, number, status",
    [
        (3, 1, signal.SIGTERM, TERMINATED),
        (4, 1, signal.SIGTERM, TERMINATED),
        (3, 2, signal.SIGTERM, TERMINATED),
        (3, 1, signal.SIGINT, INTERRUPTED),
    ],
)
def test_a_signal_saves_and_the_run_goes_on_to_the_same_weights(
    tmp_path, vocab_folder, text_file, monkeypatch, step, accumulate, number, status
):
    config = config_of(vocab_folder, text_file, f"trainer.accumulate_grad_batches={accumulate}")
    train(config, tmp_path / "whole")
    original = Keeper.on_train_batch_end
    sent = []

    def interrupted(self, trainer, module, *rest):
        # The last micro-batch before the step is complete, where there are several.
        if not sent and module.batches_done == step * accumulate - (accumulate - 1):
            sent.append(os.kill(os.getpid(), number))
        original(self, trainer, module, *rest)

    monkeypatch.setattr(Keeper, "on_train_batch_end", interrupted)
    with pytest.raises(SystemExit) as left:
        train(config, tmp_path / "stopped")
    assert left.value.code == status
    assert (tmp_path / "stopped/checkpoints/last.ckpt").is_file()
    assert not (tmp_path / "stopped/model").exists()
    train(config, tmp_path / "stopped")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    assert (tmp_path / "stopped/scores.tsv").read_text() == (tmp_path / "whole/scores.tsv").read_text()


def test_a_time_limit_is_kept_and_nothing_is_lost(tmp_path, vocab_folder, text_file):
    config = config_of(vocab_folder, text_file)
    train(config, tmp_path / "whole")
    calls = []
    while True:
        try:
            train(config, tmp_path / "slices", max_seconds=1e-3)
            break
        except SystemExit as left:
            calls += [left.code]
    # Steps 1, 2, 3, 5, 6, 7: it does not stop at a validation, and what is left after 7 is done.
    assert calls == [TIME_IS_UP] * 6
    assert weights(tmp_path / "slices") == weights(tmp_path / "whole")


def test_time_has_to_be_positive():
    with pytest.raises(ValueError, match="expected a positive number"):
        StopRequest(0)
