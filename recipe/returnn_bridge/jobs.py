"""Sisyphus jobs for text and data: vocabulary, token store, text of Bliss corpora, OggZips.

    vocab = TrainVocabJob([tk.Path("train.txt.gz")], size=10240).out_model
    train = lm_dataset_dict([tk.Path("train.txt.gz")], vocab, partition_epoch=20)       # not a job, a dict with paths

Each job runs one function that is also a `dlm` command. Inputs may be any tk.Path, also an output of an i6_core job.
The attribute `rqmt` (time, memory, GPUs) may be changed and is not part of the hash. The names of these modules and
classes are part of the ids of finished jobs and must not change.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

from sisyphus import Job, Task, tk


def resolved(value: Any) -> Any:
    """A copy of nested dicts and lists with the values of the graph's paths, Variables and delayed operations.

    The value of a path is its string. Only call this while a job runs.
    """
    if isinstance(value, dict):
        return {key: resolved(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [resolved(item) for item in value]
    return value.get() if hasattr(value, "get") else value


def prepare_process(cpus: int) -> None:
    """Set the number of threads to the requested CPUs and put the recipe folder on `sys.path`.

    Call this before torch is imported, because torch reads the number of threads once: with Sisyphus' setting it would
    be 1, without any setting all cores of the node. Data loader processes inherit `sys.path` but not Sisyphus' import
    hook.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(min(cpus, len(os.sched_getaffinity(0))))
    # Waiting threads sleep, as with the command line, because other jobs of the node need the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    recipe = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if recipe not in sys.path:
        sys.path.append(recipe)


class TrainVocabJob(Job):
    """Trains a SentencePiece vocabulary (`dlm vocab`)."""

    def __init__(self, text: list[tk.Path], *, size: int, model_type: str = "unigram") -> None:
        """
        :param text: files, plain or .gz, one sentence per line
        :param size: number of pieces
        :param model_type: "unigram" or "bpe"
        """
        self.text = text
        self.size = size
        self.model_type = model_type

        self.out_model = self.output_path("spm.model")

        self.rqmt = {"cpu": 1, "mem": 16, "time": 4}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from returnn_bridge.vocab import train_vocab

        folder = self.out_model.get_path().rpartition("/")[0]
        train_vocab(resolved(self.text), size=self.size, out=folder, model_type=self.model_type)


class TokenStoreJob(Job):
    """Tokenises training text once (`dlm tokenize`), for `data.store` of TrainLmJob."""

    def __init__(self, text: list[tk.Path], vocab: tk.Path) -> None:
        """
        :param text: files, plain or .gz, one sentence per line; the same files in the same order as data.text
        :param vocab: SentencePiece model
        """
        self.text = text
        self.vocab = vocab

        self.out_store = self.output_path("tokens.hdf")

        self.rqmt = {"cpu": 1, "mem": 8, "time": 8}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from returnn_bridge.token_store import build_store

        build_store(resolved(self.text), self.vocab.get_path(), self.out_store.get_path())


class BlissTextJob(Job):
    """Writes the text of a Bliss corpus (`dlm bliss`): lines for an LmDataset, and references by segment."""

    def __init__(self, corpus: tk.Path, *, lower: bool = False) -> None:
        """
        :param corpus: Bliss corpus, .xml or .xml.gz
        :param lower: write lower case
        """
        self.corpus = corpus
        self.lower = lower

        self.out_text = self.output_path("text.txt.gz")
        self.out_references = self.output_path("references.py.gz")

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", mini_task=True)

    def run(self) -> None:
        from returnn_bridge.audio.bliss import write_bliss_text

        for out in (self.out_text, self.out_references):
            write_bliss_text(self.corpus.get_path(), out.get_path(), lower=self.lower)


class BuildOggZipJob(Job):
    """Builds the zip of an OggZipDataset from a Bliss corpus (`dlm oggzip`)."""

    def __init__(self, corpus: tk.Path, *, name: str = "out", with_audio: bool = True, lower: bool = False) -> None:
        """
        :param corpus: Bliss corpus, .xml or .xml.gz
        :param name: name of the zip without .zip; RETURNN finds the entries by it
        :param with_audio: False stores text and durations only, which suffice for a language model
        :param lower: write lower case
        """
        self.corpus = corpus
        self.with_audio = with_audio
        self.lower = lower

        self.out_zip = self.output_path(f"{name}.zip")

        self.rqmt = {"cpu": 1, "mem": 4, "time": 8 if with_audio else 1}

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", rqmt=self.rqmt)

    def run(self) -> None:
        from returnn_bridge.audio.bliss import build_bliss_ogg_zip

        build_bliss_ogg_zip(
            self.corpus.get_path(), self.out_zip.get_path(), with_audio=self.with_audio, lower=self.lower
        )


class ReturnnLmJob(Job):
    """Describes an autoregressive LM that RETURNN trained (`dlm returnnlm`), as a model for ScoreNbestJob."""

    def __init__(self, checkpoint: tk.Path, vocab: tk.Path, *, behavior_version: int, network: dict[str, Any]) -> None:
        """
        :param checkpoint: checkpoint of RETURNN's Torch backend (.pt)
        :param vocab: SentencePiece model that the LM was trained with
        :param behavior_version: that of the RETURNN configuration
        :param network: arguments of RETURNN's TransformerDecoder, plain data as `rf.build_dict` writes it
        """
        self.checkpoint = checkpoint
        self.vocab = vocab
        self.behavior_version = behavior_version
        self.network = network

        self.out_model = self.output_path("lm.yaml")

    def tasks(self) -> Iterator[Task]:
        yield Task("run", resume="run", mini_task=True)

    def run(self) -> None:
        from returnn_bridge.transformer_lm import write_description

        write_description(
            self.out_model.get_path(),
            checkpoint=self.checkpoint.get_path(),
            vocab=self.vocab.get_path(),
            behavior_version=self.behavior_version,
            model=self.network,
        )
