"""Small things many tests need: a vocabulary, models with random weights, a little text."""

from __future__ import annotations

import json
import random
from pathlib import Path

import hypothesis
import pytest
import torch

from diffusion_lm.backbones.dit import DiTConfig
from diffusion_lm.model import LanguageModel
from rescore.nbest.types import Hypothesis, NBestList
from returnn_bridge.vocab import Vocab, train_vocab

# A test says what is true, not how fast: on a busy machine a single example can take long.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

DEMO = Path(__file__).parent.parent / "data" / "demo"
WORDS = "the a of and king house river said went came great little old man woman child stone tree in to was with he she".split()
TINY = DiTConfig(hidden_size=32, num_blocks=2, num_heads=2, cond_dim=16, dropout=0.1)


def utterances_of(texts: dict[str, list[str]]) -> list[NBestList]:
    """Lists without scores, from the texts of each utterance."""
    return [NBestList(tag, tuple(Hypothesis(text) for text in own)) for tag, own in texts.items()]


def random_text(lines: int, seed: int = 0) -> str:
    """Sentences of 3 to 14 words."""
    generator = random.Random(seed)
    return "".join(" ".join(generator.choices(WORDS, k=generator.randint(3, 14))) + "\n" for _ in range(lines))


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "train.txt"
    path.write_text(random_text(600))
    return path


@pytest.fixture(scope="session")
def vocab_folder(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocab")
    train_vocab([text_file], size=44, out=folder)
    return folder


@pytest.fixture(scope="session")
def vocab(vocab_folder: Path) -> Vocab:
    return Vocab.load(vocab_folder)


def random_model(vocab: Vocab, family: dict | None = None, seed: int = 0, backbone: DiTConfig = TINY) -> LanguageModel:
    """Weights large enough that scores differ; a fresh network would answer uniformly."""
    model = LanguageModel.build(family or {"name": "masked"}, backbone, vocab)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.network.eval()
    return model


@pytest.fixture(scope="session")
def model_folder(vocab: Vocab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(vocab).save(tmp_path_factory.mktemp("models") / "masked")


@pytest.fixture(scope="session")
def ar_folder(vocab: Vocab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model(vocab, {"name": "autoregressive"}).save(tmp_path_factory.mktemp("models") / "ar")


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of GPT-2's kind (bytes, 60 merges, <|endoftext|> last): tokenizer.json as its own library writes it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=256 + 60, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(random_text(200).splitlines(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = model["vocab"] | {"<|endoftext|>": len(model["vocab"])}
    tokenizer.model = models.BPE(vocab=vocab, merges=[tuple(pair) for pair in model["merges"]])
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=True)])
    tokenizer.post_processor, tokenizer.decoder = processors.ByteLevel(trim_offsets=False), decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("gpt2")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def gpt2_pair(gpt2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tokenizer in GPT-2's own two files."""
    model = json.loads((gpt2_folder / "tokenizer.json").read_text())["model"]
    folder = tmp_path_factory.mktemp("gpt2_pair")
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
