"""Damage files that hold others, or have a layout of their own: gzip, safetensors, zip, checkpoints of torch, XML, HDF.

data, how = change_safetensors(random.Random(1), weights)           # a header that lies, weights cut off, types, shapes ...
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import random
import tempfile
import zipfile
from typing import Any

from .mutate_text import Mutation, change_bytes
from .mutate_trees import RAW, Pairs, Raw, at, change_json, change_tree, changed_value, dump_json, places, replaced


def change_gzip(rng: random.Random, content: bytes) -> Mutation:
    try:
        inner = gzip.decompress(content)
    except Exception:
        return change_bytes(rng, content)
    half = len(inner) // 2
    kind = rng.randrange(7)
    if kind == 0:
        return gzip.compress(inner[:half], mtime=0) + gzip.compress(inner[half:], mtime=0), "two gzip members"
    if kind == 1:
        return content + b"\0" * 512, "zeros behind the gzip data"
    if kind == 2:
        return content + content, "the gzip data twice"
    if kind == 3:
        return content[: rng.randrange(max(1, len(content)))], "gzip data cut off"
    if kind == 4:
        return inner, "no gzip data under this name"
    if kind == 5 and rng.random() < 0.1:
        return gzip.compress(inner + b" " * 20_000_000, 9, mtime=0), "20 MB of blanks packed"
    return change_bytes(rng, content)


def change_safetensors(rng: random.Random, content: bytes) -> Mutation:
    size = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    kind = rng.randrange(8)
    if kind == 0:
        length = rng.choice((0, 1, size - 1, size + 1, size + len(body), 1 << 40, (1 << 64) - 1, 100_000_000))
        return length.to_bytes(8, "little") + content[8:], f"header length {length}"
    if kind == 1:
        return content[: 8 + size + rng.randrange(len(body) + 1)], "weights cut off"
    if kind == 2:
        return content + b"\0" * rng.choice((1, 4, 4096)), "zeros behind the weights"
    if kind == 3:
        data, how = change_bytes(rng, body)
        return content[: 8 + size] + data, f"weights: {how}"
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    if kind == 4:
        entry = dict(header[name])
        entry["dtype"] = rng.choice(
            ("F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "F32", "C64", "F4", "", None)
        )
        header[name] = entry
        how = f"{name} of type {entry['dtype']}"
    elif kind == 5:
        entry = dict(header[name])
        shape = list(entry["shape"])
        entry["shape"] = rng.choice(
            (
                shape[::-1],
                [*shape, 1],
                [1, *shape],
                shape[1:],
                [10**6, *shape],
                [0],
                [1 << 62, 4],
                [-1],
                [],
                [1.5],
                None,
            )
        )
        header[name] = entry
        how = f"{name} of shape {entry['shape']}"
    elif kind == 6:
        other = rng.choice(names)
        header[name], header[other] = header[other], header[name]
        how = f"{name} and {other} swapped"
    else:
        header, how = change_tree(rng, header, RAW)
    written = dump_json(header).encode("utf-8", "surrogatepass")
    written += b" " * (-len(written) % 8)
    return len(written).to_bytes(8, "little") + written + body, how


def change_zip(rng: random.Random, content: bytes) -> Mutation:
    """Members of an archive: damaged, lost, twice, renamed, packed otherwise."""
    from .mutate import change_once  # a member is damaged by its own format

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    place = rng.randrange(len(members))
    info, data = members[place]
    kind = rng.randrange(7)
    how = f"{info.filename} "
    if kind in (0, 1, 2):
        data, what = change_once(rng, info.filename, data)
        how += what
    renamed = info.filename
    if kind == 3:
        renamed = rng.choice((info.filename + "x", "../" + info.filename, "/" + info.filename, "", "a" * 300))
        how += f"named {renamed[:40]!r}"
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (other, stored) in enumerate(members):
            if number == place and kind == 4:
                how += "lost"
                continue
            made = zipfile.ZipInfo(renamed if number == place else other.filename, (1980, 1, 1, 0, 0, 0))
            made.compress_type = packing if kind == 5 else other.compress_type
            archive.writestr(made, data if number == place else stored)
    if kind == 6:
        return change_bytes(rng, content)
    return buffer.getvalue(), how


def change_checkpoint(rng: random.Random, content: bytes) -> Mutation:
    """Of torch: the tree inside with one change, or the archive."""
    if rng.random() < 0.3:
        return change_zip(rng, content)
    import torch

    tree = torch.load(io.BytesIO(content), weights_only=True)
    paths = [path for path in places(tree) if path]
    path = rng.choice([path for path in paths if len(path) < 3] if rng.random() < 0.6 else paths)
    value = at(tree, path)
    if isinstance(value, torch.Tensor):
        new: Any = rng.choice(
            (
                value[..., None],
                value.double(),
                value.flatten()[:-1],
                value.new_full(value.shape, float("nan")) if value.is_floating_point() else value,
                None,
                3,
                value.tolist(),
            )
        )
        how = "another tensor"
    else:
        new, how = changed_value(rng, value, ("a",))
        if isinstance(new, Raw):
            new = str(new)[:1000]
        elif isinstance(new, Pairs):
            new = {}
    if rng.random() < 0.25:
        parent = dict(at(tree, path[:-1])) if isinstance(at(tree, path[:-1]), dict) else None
        if parent is not None:
            del parent[path[-1]]
            path, new, how = path[:-1], parent, f"lost {path[-1]!r}"
    buffer = io.BytesIO()
    torch.save(replaced(tree, path, new), buffer)
    return buffer.getvalue(), f"at {'.'.join(map(str, path))[:60]} {how}"


def change_xml(rng: random.Random, content: bytes) -> Mutation:
    from xml.etree import ElementTree

    text = content.decode("utf-8")
    if rng.random() < 0.25:
        bomb = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "lol"}">' for n in range(9))
        entities = (
            bomb,
            '<!ENTITY e8 SYSTEM "file:///etc/passwd">',
            '<!ENTITY e8 "x">',
            '<!ENTITY % p SYSTEM "x"> %p;',
        )
        entity = rng.choice(entities)
        head, _, rest = text.partition("?>")
        body = rest.replace("</orth>", "&e8;</orth>", 1)
        return f"{head}?><!DOCTYPE corpus [{entity}]>{body}".encode(), f"entity {entity[:30]}"
    root = ElementTree.fromstring(text)
    element = rng.choice(list(root.iter()))
    parent = next((other for other in root.iter() if element in list(other)), None)
    kind = rng.randrange(7)
    how = f"<{element.tag}> "
    if kind == 0 and element.attrib:
        key = rng.choice(sorted(element.attrib))
        element.set(
            key, rng.choice(("", "nan", "inf", "-1", "1e9", "0", "a/b", "../x", " ", "é", "5.0", "a\nb", "0.05"))
        )
        how += f"{key} {element.get(key)!r}"
    elif kind == 1 and element.attrib:
        key = rng.choice(sorted(element.attrib))
        del element.attrib[key]
        how += f"without {key}"
    elif kind == 2 and parent is not None:
        parent.remove(element)
        how += "lost"
    elif kind == 3 and parent is not None:
        parent.append(element)
        how += "twice"
    elif kind == 4:
        element.tag = rng.choice(("segment", "recording", "subcorpus", "include", "orth", "other", "corpus"))
        how += f"became <{element.tag}>"
    elif kind == 5:
        other = copy.deepcopy(rng.choice(list(root.iter())))
        element.append(other if rng.random() < 0.3 else ElementTree.Element("segment", {"name": "new"}))
        how += "with another element in it"
    else:
        element.text = rng.choice(("", "a  b", "\n", "é", "a" * 10_000, "[noise] <b>"))
        how += "another text"
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="utf-8"), how


def change_hdf(rng: random.Random, content: bytes) -> Mutation:
    import h5py
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.hdf")
        with open(path, "wb") as file:
            file.write(content)
        with h5py.File(path, "r+") as store:
            if rng.random() < 0.35:
                how = _hdf_attribute(rng, store, np, h5py)
            else:
                how = _hdf_dataset(rng, store, np, h5py)
        with open(path, "rb") as file:
            return file.read(), how


def _hdf_attribute(rng: random.Random, store: Any, np: Any, h5py: Any) -> str:
    name = rng.choice(sorted(store.attrs))
    value = store.attrs[name]
    if isinstance(value, str) and value.startswith("[") and rng.random() < 0.6:
        text, how = change_json(rng, value.encode())
        store.attrs[name] = text.decode("utf-8", "replace").replace("\0", "")[:60_000]
        return f"attribute {name} {how}"
    if rng.random() < 0.2:
        del store.attrs[name]
        return f"attribute {name} lost"
    odd = rng.choice(
        (0, -1, 2**40, 1.5, float("nan"), "a", b"a", "", [1, 2], np.zeros(0), h5py.Empty("f"), "é", True, [b"a", b"b"])
    )
    store.attrs[name] = odd
    return f"attribute {name} became {odd!r}"


def _hdf_dataset(rng: random.Random, store: Any, np: Any, h5py: Any) -> str:
    name = rng.choice(sorted(store))
    old = store[name][...]
    kind = rng.randrange(17)
    if kind == 0:
        del store[name]
        return f"{name} lost"
    if kind == 1:
        values = old.reshape(-1)
        place = rng.randrange(max(1, len(values)))
        if values.dtype.kind in "iu":
            odd = rng.choice((-1, 0, 2**15, 2**31 - 1, 60_000, 2**40))
            with np.errstate(all="ignore"):
                values[place : place + 1] = np.array([odd]).astype(values.dtype)
        store[name][...] = values.reshape(old.shape)
        return f"{name}[{place}] changed"
    del store[name]
    count = max(1, old.size)
    if kind == 2:
        store.create_dataset(name, data=old, chunks=True, compression="gzip")
    elif kind == 3:
        store.create_dataset(name, data=old, chunks=True)
    elif kind == 4:
        dtype = rng.choice((">i4", "<i8", "<u2", "<i4", "<f4", ">u2", "<f8", "i1", "<u8", "?"))
        store.create_dataset(name, data=old.astype(dtype) if old.dtype.kind in "iuf" else np.zeros(old.shape, dtype))
        return f"{name} of type {dtype}"
    elif kind == 5:
        store.create_dataset(name, data=[str(value) for value in range(min(count, 50))], dtype=h5py.string_dtype())
    elif kind == 6:
        made = store.create_dataset(name, (min(count, 50),), dtype=h5py.vlen_dtype(np.int32))
        made[0] = np.arange(3)
    elif kind == 7:
        store.create_dataset(name, (min(count, 50),), dtype=h5py.ref_dtype)
    elif kind == 8:
        layout = h5py.VirtualLayout(old.shape, old.dtype)
        layout[...] = h5py.VirtualSource("elsewhere.hdf", name, old.shape)
        store.create_virtual_dataset(name, layout)
    elif kind == 9:
        store.create_dataset(name, old.shape, old.dtype, external=[("outside", 0, h5py.h5f.UNLIMITED)])
    elif kind == 10:
        store.create_dataset(name, data=h5py.Empty(old.dtype))
    elif kind == 11:
        store.create_dataset(name, data=7)
    elif kind == 12:
        store.create_group(name)
    elif kind == 13:
        store[name] = rng.choice(
            (h5py.SoftLink("/nowhere"), h5py.ExternalLink("elsewhere.hdf", "/a"), h5py.SoftLink(f"/{name}"))
        )
    elif kind == 14:
        size = rng.choice((0, 1, len(old) - 1, len(old) + 1, len(old) + 3))
        store.create_dataset(name, data=np.resize(old, (max(0, size), *old.shape[1:])))
        return f"{name} of length {size}"
    elif kind == 15:
        store.create_dataset(name, (2**33, *old.shape[1:]), old.dtype)  # never written: the file does not grow
        return f"{name} of 2^33 items"
    else:
        store.create_dataset(name, data=old.reshape(-1, 1) if rng.random() < 0.5 else old[None])
    kinds = "compressed,chunked,,strings,vlen,references,virtual,external,empty,scalar,group,link,,,other shape".split(
        ","
    )
    return f"{name} {kinds[kind - 2]}"
