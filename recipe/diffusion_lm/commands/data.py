"""The verbs that prepare training data: `dlm vocab`, `tokenize`, `bliss`, `oggzip`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from returnn_bridge.bar import progress_bar


def vocab(
    text: Annotated[list[Path], typer.Argument(help="Text files (plain or .gz), one sentence per line.")],
    out: Annotated[Path, typer.Option(help="Folder to write spm.model into.")],
    size: Annotated[int, typer.Option(help="Number of pieces.")] = 10240,
    model_type: Annotated[str, typer.Option(help="'unigram' or 'bpe'.")] = "unigram",
) -> None:
    """Train a SentencePiece vocabulary."""
    from returnn_bridge.vocab import train_vocab

    made = train_vocab(text, size=size, out=out, model_type=model_type)
    print(
        f"{out}: {made.num_pieces} pieces; mask {made.mask_id}, BOS {made.bos_id}, EOS {made.eos_id}, "
        f"padding {made.pad_id}"
    )


def tokenize(
    text: Annotated[
        list[Path], typer.Argument(help="Text files (plain or .gz), one sentence per line, in the order of data.text.")
    ],
    vocab: Annotated[Path, typer.Option(help="Vocabulary folder or SentencePiece .model file.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Token store (.hdf) for data.store. The default is beside the vocabulary, where training finds it."
        ),
    ] = None,
) -> None:
    """Tokenise training text once, for training and RETURNN's HDFDataset.

    The same command continues after an interruption.
    """
    from returnn_bridge.token_store import build_store, default_store

    out = out or default_store(text, vocab)
    complete = out.exists()
    with progress_bar() as bar:
        total = sum(path.stat().st_size for path in text if path.suffix != ".gz") if not complete else 0
        task = bar.add_task("tokenising", total=total or None)
        store = build_store(text, vocab, out, progress=lambda size: bar.advance(task, size))
    print(f"{out}: {'complete already, ' if complete else ''}{len(store)} sentences, {len(store.ids)} tokens")


def oggzip(
    audio: Annotated[
        Path,
        typer.Argument(
            help="Folder of .flac, .wav or .ogg files named by utterance, also in subfolders; "
            "or a Bliss corpus (.xml, .xml.gz)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Zip file to write.")],
    transcripts: Annotated[
        Path | None,
        typer.Option(
            help="File with lines 'utterance-id TEXT' (Kaldi text, LibriSpeech .trans.txt), plain or .gz; for a folder."
        ),
    ] = None,
    lower: Annotated[bool, typer.Option("--lower", help="Lower-case the transcripts.")] = False,
    text_only: Annotated[bool, typer.Option("--text-only", help="Leave the audio out; for a Bliss corpus.")] = False,
) -> None:
    """Build an OggZip for RETURNN's OggZipDataset from audio and transcripts."""
    from returnn_bridge.audio.bliss import build_bliss_ogg_zip
    from returnn_bridge.audio.oggzip import build_folder_ogg_zip

    if audio.is_file():
        if transcripts is not None:
            raise ValueError(f"--transcripts {transcripts}: a Bliss corpus has its own; expected a folder of audio")
        count = build_bliss_ogg_zip(audio, out, with_audio=not text_only, lower=lower)
        print(f"{out}: {count} utterances")
        return
    if text_only:
        raise ValueError(f"{audio}: --text-only is for a Bliss corpus; expected a .xml or .xml.gz file with it")
    if transcripts is None:
        raise ValueError(f"{audio}: no such Bliss corpus; for a folder of audio, --transcripts is missing")
    count, left_out = build_folder_ogg_zip(audio, transcripts, out, lower=lower)
    print(f"{out}: {count} utterances; {left_out} transcripts without audio left out")


def bliss(
    corpus: Annotated[Path, typer.Argument(help="Bliss corpus (.xml, .xml.gz).")],
    out: Annotated[
        Path,
        typer.Option(
            help="Text file to write, one sentence per line; if named .py, references by segment. Each can be .gz."
        ),
    ],
    lower: Annotated[bool, typer.Option("--lower", help="Lower-case the text.")] = False,
) -> None:
    """Write the text of a Bliss corpus, as lines to train on or as references."""
    from returnn_bridge.audio.bliss import write_bliss_text

    print(f"{out}: {write_bliss_text(corpus, out, lower=lower)} segments")
