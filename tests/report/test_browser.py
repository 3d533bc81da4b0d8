"""The page in a browser: the address chooses rows, order and words, and only the first cards are drawn."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rescore.combination.scales import Scales
from rescore.nbest.types import Hypothesis, NBestList
from rescore.report.page import write_report
from rescore.report.result import RescoreResult
from rescore.report.table import ResultTable, evaluate

BROWSER = shutil.which("chromium")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_the_address_chooses_what_is_shown(tmp_path: Path) -> None:
    """40 of 80 utterances hold the word; the longest comes first, with the shares of both rows, and nothing is said on
    the console."""
    assert BROWSER is not None
    lists = [
        NBestList(
            f"u{number}",
            (
                Hypothesis(f"a {word} </script>", {"am": 2.0, "lm": 0.0}),
                Hypothesis(f"b {word}", {"am": 0.0, "lm": 3.0}),
            ),
            f"b {word}" + " c" * number,
        )
        for number, word in enumerate(["even", "<odd>"] * 40)
    ]
    scales = {"am": Scales({"am": 1.0}), "lm & am": Scales({"am": 1.0, "lm": 2.0}), "lm": Scales({"lm": 1.0})}
    table = ResultTable("t", evaluate(lists, scales, baseline="am", seed=1), baseline="am")
    write_report(tmp_path / "report.html", RescoreResult(table, {}, scales, lists, lists))
    address = (tmp_path / "report.html").as_uri()
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    state = "#before=am&after=lm+%26+am&verdict=better&sort=long&find=%3COdd%3E"
    run = subprocess.run([*command, address + state], capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in run.stderr
    page = re.sub("<noscript>.*?</noscript>", "", run.stdout, flags=re.DOTALL)
    cards = re.findall("<article.*?</article>", page, re.DOTALL)
    assert ">40 utterances</output>" in page and len(cards) == 15
    assert [re.search("<code>(.*?)</code>", card).group(1) for card in cards[:2]] == ["u79", "u77"]  # type: ignore[union-attr]
    assert "lm +6.00" in cards[0] and "am −2.00" in cards[0] and "= <b>+4.00</b>" in cards[0]
    assert "Show 15 more of 25" in page and re.search('id="nothing" hidden', page)
