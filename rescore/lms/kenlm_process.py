"""KenLM in a process of its own, because it believes every number in a binary file.

    model = KenlmProcess("lm.bin")
    model.score(["he hoped there would be stew"])      # [(log10 probability with BOS and EOS, unknown words), ...]
    model.words(["he hoped"])                          # [[(log10 probability, is unknown), ...], ...], with the end

A damaged file makes KenLM end its process, go on for ever or take all memory, in some files at certain words only. Here
that is a ValueError with the path: the process has limits of processor time and memory. It costs about 0.05 s at the
start and 0.1 ms for a call.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_SECONDS = 10  # of processor time for one call
_BYTES_A_SECOND = 1 << 20  # of the file, while it is read: a twentieth of what KenLM needs for text
_MEMORY, _MEMORY_FACTOR = 1 << 30, 64  # address space: one GiB, and 64 times the file, which may be compressed
_LONGEST = 300  # characters of KenLM's own message, which quotes lines of the file
_EXPECTED = "expected an ARPA file, or the file that KenLM's build_binary wrote"


class KenlmProcess:
    """A model that was loaded in a process of its own. It ends with this object."""

    order: int
    unheard: str
    """A word that the model does not know."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """ValueError for a file that KenLM can not read, or that gives probabilities whose sum is over 1."""
        self.path = Path(path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, os.fspath(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        weakref.finalize(self, _end, self._process)
        self.order, self.unheard = self._answer()

    def score(self, texts: list[str]) -> list[tuple[float, int]]:
        """(log10 probability with BOS and EOS, number of unknown words) of each text, words separated by blanks."""
        return [(log_prob, unknown) for log_prob, unknown in self._ask("score", texts)]

    def words(self, texts: list[str]) -> list[list[tuple[float, bool]]]:
        """(log10 probability, whether it is unknown) of each word of each text, and of the sentence end behind them."""
        return [[(log_prob, unknown) for log_prob, unknown in words] for words in self._ask("words", texts)]

    def _ask(self, what: str, texts: list[str]) -> list[Any]:
        with suppress(BrokenPipeError):  # it has ended, and the answer says how
            self._send(self._process.stdin, [what, texts])
        return list(self._answer())

    @staticmethod
    def _send(stream: IO[bytes] | None, value: Any) -> None:
        assert stream is not None, "the process was started with pipes"
        stream.write(json.dumps(value).encode() + b"\n")
        stream.flush()

    def _answer(self) -> Any:
        assert self._process.stdout is not None, "the process was started with pipes"
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            status = self._process.wait()
            if status == -signal.SIGXCPU:
                raise ValueError(f"{self.path}: KenLM does not end with it; {_EXPECTED}")
            how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
            raise ValueError(f"{self.path}: KenLM dies of it ({how}); {_EXPECTED}")
        answer = json.loads(line)
        if isinstance(answer, dict):
            raise ValueError(f"{self.path}: KenLM can not read it ({answer['error']}); {_EXPECTED}")
        return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()  # it ends when there is nothing more to read
    process.wait()


def _serve(path: str) -> None:
    """In the process: load the model, then answer one line for each line. An answer that is a dict is an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks is interrupted, and then this one ends
    size = os.path.getsize(path)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, _MEMORY + _MEMORY_FACTOR * size)
    try:
        _limit_time(_SECONDS + size // _BYTES_A_SECOND)
        model = _load(path)
        unheard = _unheard(model)
        KenlmProcess._send(sys.stdout.buffer, [model.order, unheard])
        for line in sys.stdin.buffer:
            _limit_time(_SECONDS)
            what, texts = json.loads(line)
            one = _score if what == "score" else _words
            KenlmProcess._send(sys.stdout.buffer, [one(model, text) for text in texts])
    except (OSError, ValueError, MemoryError, RuntimeError) as error:
        message = str(error)
        if isinstance(error, UnicodeDecodeError):  # KenLM's message quotes bytes of the file
            message = error.object.decode("utf-8", "backslashreplace")
        text = " ".join(message.split())
        KenlmProcess._send(sys.stdout.buffer, {"error": text[:_LONGEST] or type(error).__name__})


def _load(path: str) -> Any:
    import kenlm

    settings = kenlm.Config()
    settings.show_progress = False
    settings.arpa_complain = kenlm.ARPALoadComplain.NONE
    return kenlm.Model(path, settings)


def _unheard(model: Any) -> str:
    """A word that the model does not know.

    ValueError if the probabilities of this word and of the sentence end at the begin of a sentence have a sum over 1,
    as in a file of zeros.
    """
    number = 0
    while (word := f"<word-{number}>") in model:
        number += 1
    total = sum(10 ** next(model.full_scores(text, bos=True, eos=True))[0] for text in ("", word))
    if not total < 1.001:
        raise ValueError(f"an unknown word and the sentence end have probabilities whose sum is {total:.3g}")
    return word


def _score(model: Any, text: str) -> tuple[float, int]:
    return model.score(text, bos=True, eos=True), sum(word not in model for word in text.split(" ") if word)


def _words(model: Any, text: str) -> list[tuple[float, bool]]:
    return [(log_prob, unknown) for log_prob, _, unknown in model.full_scores(text, bos=True, eos=True)]


def _limit(kind: int, value: int) -> None:
    """Lower a limit, or raise it again to what it may be at most."""
    most = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def _limit_time(seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)


if __name__ == "__main__":
    _serve(sys.argv[1])
