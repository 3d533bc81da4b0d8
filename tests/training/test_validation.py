"""What happens at the end of a validation has one order, and callbacks keep their names in resume checkpoints."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import Callback

from diffusion_lm.families import SpecialIds, build_family
from diffusion_lm.training.clip_callback import ClipTraining
from diffusion_lm.training.interruption import StopRequest
from diffusion_lm.training.keeper import Keeper
from diffusion_lm.training.lightning_module import TrainingModule
from diffusion_lm.training.progress import Progress
from diffusion_lm.training.validation import validation_end
from training_runs import config_of

BLOCK = build_family({"name": "block", "block_size": 2}, SpecialIds(10, 10, 11, 12, 13))


@pytest.fixture
def callbacks(vocab_folder, text_file, tmp_path) -> tuple[Keeper, Progress, ClipTraining]:
    keeper = Keeper(tmp_path, config_of(vocab_folder, text_file), StopRequest())
    return keeper, Progress(10, print_lines=False), ClipTraining({}, BLOCK, 1)


def test_no_callback_acts_at_the_end_of_a_validation_but_by_the_list(callbacks):
    assert all(type(callback).on_validation_end is Callback.on_validation_end for callback in callbacks)


def test_models_are_exported_with_the_averaged_weights_and_checkpoints_written_with_the_others(callbacks):
    names = [step.__name__ for step in validation_end(*callbacks)]
    swap = names.index("swap_average_out")
    assert names[0] == "search" and {"append_scores", "export_best", "export_kept"} <= set(names[:swap])
    assert "save" in names[swap:] and names.count("swap_average_out") == 1


def test_the_module_runs_the_steps_in_their_order():
    seen = []
    module = SimpleNamespace(
        trainer="trainer", validation_end=[lambda *given: seen.append(1), lambda *given: seen.append(given)]
    )
    TrainingModule.on_validation_end(module)
    assert seen == [1, ("trainer", module)]


def test_checkpoints_of_earlier_versions_find_their_callbacks(callbacks):
    assert [callback.state_key for callback in callbacks] == ["Keeper", "Progress", "ClipTraining"]
