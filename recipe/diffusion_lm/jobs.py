"""Sisyphus jobs for training and sampling. A training keeps its checkpoint under output/, so a preempted run continues.

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

from sisyphus import Job, Task, tk

from returnn_bridge.jobs import prepare_process, resolved

# Seconds reserved for saving at the end of a time limit. More than 0.1 h, below which Sisyphus would double the limit.
_SAVING = 660


class TrainLmJob(Job):
    """Trains a language model of any family (`dlm train`). An interrupted job continues to the same weights.

    The job requests `trainer.devices` GPUs on each of `trainer.num_nodes` nodes and trains data-parallel on them; their
    numbers are part of the hash because they change the batch. Set `rqmt["gpu"] = 0` to train without a GPU. Several
    nodes need Slurm and the settings.py of this project.
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
        self.devices, self.nodes = (self.changes.get(f"trainer.{name}", 1) for name in ("devices", "num_nodes"))
        for name, value in (("devices", self.devices), ("num_nodes", self.nodes)):
            if type(value) is not int or value < 1:
                raise ValueError(f"trainer.{name}: got {type(value).__name__}; expected a positive whole number")

        self.out_run = self.output_path("run", directory=True)
        self.out_model = self.output_path("run/model")
        self.out_best = self.output_path("run/best")
        self.out_scores = self.output_path("run/scores.tsv")

        self.rqmt: dict[str, Any] = {"gpu": self.devices, "cpu": 4 * self.devices, "mem": 16 * self.devices, "time": 24}
        if self.nodes > 1:
            self.rqmt["multi_node_slots"] = self.nodes  # all other requirements are those of each node

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from pathlib import Path

        from diffusion_lm.commands.train import train

        prepare_process(max(1, self.rqmt["cpu"] // self.devices))
        seconds = 3600 * self.rqmt["time"] - _SAVING
        limits = {"max_seconds": seconds} if seconds >= 3600 else {}  # with a short limit only SIGTERM stops the run
        if self.devices * self.nodes == 1:
            train(self.overrides(), preset=self.preset, out=Path(self.out_run.get_path()), **limits)
        else:
            self.run_verb(limits)

    def run_verb(self, limits: dict[str, float]) -> None:
        """Train in a subprocess, because Lightning starts further ranks by repeating the command line of the first."""
        import os
        import sys

        import diffusion_lm
        from diffusion_lm.training.interruption import run_command
        from diffusion_lm.training.nodes import node_environment

        options = ["--preset", self.preset, "--out", self.out_run.get_path()]
        options += [f"--max-seconds={value}" for value in limits.values()]
        recipe = os.path.dirname(os.path.dirname(os.path.abspath(str(diffusion_lm.__file__))))
        python_path = os.pathsep.join(filter(None, [recipe, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": python_path}
        if self.nodes > 1:
            environment |= node_environment(os.environ)
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


class SampleJob(Job):
    """Draws sentences from a model (`dlm sample`)."""

    def __init__(
        self,
        model: tk.Path,
        *,
        count: int,
        length: int = 0,
        like: tk.Path | None = None,
        predictor: str | None = None,
        steps: int = 1000,
        nucleus: float = 1.0,
        self_correct: int = 0,
        seed: int = 1,
    ) -> None:
        """
        :param model: model folder
        :param count: number of sentences
        :param length: pieces per sentence (the maximum for an autoregressive or a block model), unless `like` is given
        :param like: text file whose lengths of sentences are drawn from
        :param predictor: sampler; None: the default of the family
        :param steps: reverse steps of a diffusion model
        :param nucleus: total probability of the pieces that are drawn from; for a block model
        :param self_correct: largest number of self-correction rounds; for a uniform or hybrid model
        :param seed: seed of all random numbers
        """
        self.model = model
        self.like = like
        self.options: dict[str, Any] = {"count": count, "length": length, "predictor": predictor, "steps": steps}
        self.options |= {"nucleus": nucleus, "self_correct": self_correct, "seed": seed}

        self.out_text = self.output_path("samples.txt.gz")
        self.out_samples = self.output_path("samples.py.gz")

        self.rqmt: dict[str, Any] = {"cpu": 2, "mem": 8, "time": 4}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from pathlib import Path

        from diffusion_lm.commands.sample import sample

        prepare_process(self.rqmt["cpu"])
        sample(
            Path(self.model.get_path()),
            **resolved(self.options),
            like=None if self.like is None else Path(self.like.get_path()),
            device="cuda" if self.rqmt.get("gpu") else "cpu",
            out=[Path(self.out_text.get_path()), Path(self.out_samples.get_path())],
        )
