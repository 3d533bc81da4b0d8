"""The index of an OggZip: what is accepted means the same to RETURNN and to Python, anything else is refused with its line."""

from __future__ import annotations

import ast

import pytest

from returnn_bridge.audio.ogg_index import check_index
from returnn_bridge.native_cache import use_private_cache

ENTRY = {"text": "a b", "duration": 1.5, "seq_name": "u"}


def test_what_is_accepted_means_the_same_to_returnn_and_to_python():
    use_private_cache()
    from returnn.util.literal_py_to_pickle import literal_eval

    signs = [chr(point) for first in (0, 0x2020, 0xD7D0, 0xE000, 0x1F600) for point in range(first, first + 40)]
    texts = ["", "it's", 'it\'s "so"', *(f"{sign} {sign}x" for sign in signs)]
    entries = [
        {"text": text, "duration": number / 7, "seq_name": f"u/{text!r}", "file": None, "n": number - 3}
        for number, text in enumerate(texts)
    ]
    for content in (repr(entries), ascii(entries), "[\n" + ",\n".join(map(repr, entries)) + ",\n]\n"):
        data = content.encode()
        check_index(data, "a.txt")
        assert literal_eval(data) == ast.literal_eval(content) == entries


@pytest.mark.parametrize(
    "change",
    [
        ("1.5", "-"),
        ("1.5", "99999999999999999999"),
        ("1.5", "15"),
        ("1.5", "1e5"),
        ("1.5", "'1.5'"),
        ("a b", "\\ud800"),
        ("a b", "\\a"),
        ("a b", "a\nb"),
        ("'a b'", "'a' 'b'"),
        ("'a b'", "None"),
        ("'text'", "'words'"),
        ("'seq_name'", "'text'"),
        ("'seq_name'", "'name'"),
        ("'w'", "'u'"),
        ("{", "("),
        ("}, {", "} {"),
        ("]", ""),
        ("]", "]]"),
        ("[", "[["),
    ],
)
def test_anything_else_is_refused_with_its_line(change):
    content = "[\n" + repr([ENTRY, {**ENTRY, "seq_name": "w"}])[1:]
    check_index(content.encode(), "a.txt")
    assert change[0] in content
    with pytest.raises(ValueError, match=r"^a\.txt:\d: .*; expected") as caught:
        check_index(content.replace(*change).encode(), "a.txt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{}"])
def test_an_empty_index_and_other_bytes_are_refused(content):
    with pytest.raises(ValueError, match=r"^a\.txt:1: .*; expected"):
        check_index(content, "a.txt")
