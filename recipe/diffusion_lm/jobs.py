"""Sisyphus job for training: `dlm train` with its checkpoint under output/, so that a preempted run continues.

    text = lm_dataset_dict([text_file], vocab, partition_epoch=20)
    job = TrainLmJob("librispeech_masked", {"data.vocab": vocab, "data.train": text})
    job.rqmt.update({"time": 72, "gpu": 1, "sbatch_args": ["--partition=gpu"]})         # no part of the hash
    job.out_model, job.out_best                                                         # model folders for rescore.jobs

Settings are plain data and paths of other jobs; the hash depends on them and on the preset.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sisyphus import Job, Task

from returnn_bridge.jobs import prepare_process, resolved

# Seconds reserved for saving at the end of a time limit. More than 0.1 h, below which Sisyphus would double the limit.
_SAVING = 660


class TrainLmJob(Job):
    """Trains a language model of any family (`dlm train`). An interrupted job continues to the same weights.

    The job requests `trainer.devices` GPUs and trains data-parallel on them; their number is part of the hash because
    it changes the batch. Set `rqmt["gpu"] = 0` to train without a GPU.
    """

    def __init__(self, preset: str, changes: dict[str, Any] | None = None) -> None:
        """
        :param preset: NAME or NAME:SUFFIX:SUFFIX (`dlm train --list-presets`)
        :param changes: settings that override the preset, by dotted name, such as
            {"optim.lr": 1e-3, "data.vocab": tk.Path}; values are plain data, paths, Variables and delayed operations,
            also nested
        """
        self.preset = preset
        self.changes = changes or {}
        self.devices = int(self.changes.get("trainer.devices", 1))
        if int(self.changes.get("trainer.num_nodes", 1)) != 1:
            raise ValueError("trainer.num_nodes: a Sisyphus job trains on one node; expected 1")

        self.out_run = self.output_path("run", directory=True)
        self.out_model = self.output_path("run/model")
        self.out_best = self.output_path("run/best")
        self.out_scores = self.output_path("run/scores.tsv")

        self.rqmt: dict[str, Any] = {"gpu": self.devices, "cpu": 4 * self.devices, "mem": 16 * self.devices, "time": 24}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from pathlib import Path

        from diffusion_lm.commands.train import train

        prepare_process(max(1, self.rqmt["cpu"] // self.devices))
        seconds = 3600 * self.rqmt["time"] - _SAVING
        limits = {"max_seconds": seconds} if seconds >= 3600 else {}  # with a short limit only SIGTERM stops the run
        if self.devices == 1:
            train(self.overrides(), preset=self.preset, out=Path(self.out_run.get_path()), **limits)
        else:
            self.run_verb(limits)

    def run_verb(self, limits: dict[str, float]) -> None:
        """Train in a subprocess, because Lightning starts further ranks by repeating the command line of the first."""
        import os
        import sys

        import diffusion_lm
        from diffusion_lm.training.interruption import run_command

        options = ["--preset", self.preset, "--out", self.out_run.get_path()]
        options += [f"--max-seconds={value}" for value in limits.values()]
        recipe = os.path.dirname(os.path.dirname(os.path.abspath(str(diffusion_lm.__file__))))
        python_path = os.pathsep.join(filter(None, [recipe, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": python_path}
        run_command([sys.executable, "-m", "diffusion_lm", "train", *options, *self.overrides()], environment)

    def overrides(self) -> list[str]:
        """The changes as `section.key=value` arguments of `dlm train`, values in JSON, which is valid YAML."""
        return [f"{key}={json.dumps(resolved(value))}" for key, value in self.changes.items()]

    def completed_fraction(self) -> float:
        """Fraction of the steps that are saved; while it grows, Sisyphus resubmits beyond its limit of attempts."""
        try:
            with open(self.out_run.get_path() + "/progress.json") as file:
                progress = json.load(file)
            return min(1.0, progress["step"] / progress["max_steps"])
        except (OSError, ValueError):
            return 0.0
