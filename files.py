"""
files.py: everything read and written: never half a file, nothing executed, one sentence if wrong.

Layouts: safetensors (8 bytes, a JSON header, raw tensors); comparisons as JSON Lines, or as OpenAI
released theirs, a JSON list with token ids (github.com/openai/lm-human-preferences).
In:  names, paths, addresses         Out: tensors, texts, comparisons
Not here: which weights belong where (gpt.py), what becomes of a text (text.py)

Deleted here: pickles. Weights are read with weights_only=True, which builds tensors and no objects.
"""

import argparse
import hashlib
import json
import math
import os
import pickle
import time
import urllib.error
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import NamedTuple

import torch

try:
    import fcntl
except ImportError:              # Windows: nothing keeps two windows from one file of answers
    fcntl = None

WEIGHTS = "https://huggingface.co/openai-community/{}/resolve/main/model.safetensors"
LABELS = ("https://openaipublic.blob.core.windows.net/lm-human-preferences/labels/{}/"
          "offline_5k.json")


class UserError(Exception):
    """Something the user can mend: one sentence saying what is wrong, where, and what to do."""


class Options(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; --help explains the options")


def write_whole(path, write):
    """write(temporary name), then rename: a file at `path` is never half a file."""
    try:
        write(f"{path}.part")
    except RuntimeError as e:                                # what torch.save says of a full disk
        raise UserError(f"{path} cannot be written: {e}") from None
    os.replace(f"{path}.part", path)


def digest(path):
    """A name for all that a file holds, or every file of a folder; what is no path, as it is."""
    if not os.path.exists(path):
        return path
    parts = sorted(p for p in Path(path).rglob("*") if p.is_file()) if os.path.isdir(path) else [
        Path(path)]
    total = hashlib.sha256()
    for part in parts:
        total.update(part.read_bytes())
    return total.hexdigest()


# --- what a run keeps -----------------------------------------------------------------------------

@contextmanager
def reading(path):
    """Whatever is wrong with a file, it is one sentence."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError,
            pickle.UnpicklingError) as e:
        why = (str(e).strip().splitlines() or [""])[0]
        raise UserError(f"{path}: damaged, or not what it should be ({type(e).__name__}: {why})"
                        ) from None


def save(path, **parts):
    write_whole(path, lambda name: torch.save(parts, name))


def load(path, part, module):
    """The module, where it is, with the weights that `save` saved under this name."""
    with reading(path):
        module.load_state_dict(torch.load(path, weights_only=True, map_location="cpu")[part])
    return module


def write_text(path, text):
    write_whole(path, lambda name: Path(name).write_text(text, "utf-8"))


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path, default=None):
    """The config.json or results.json of a run; both hold its settings."""
    if default is not None and not os.path.exists(path):
        return default
    with reading(path):
        found = json.loads(Path(path).read_text())
        found["config"]                                      # or a KeyError: it is not a run's
        return found


STAGES = ["language_model", "labels", "reward_model", "policy", "evaluation"]
GIVEN = ("model", "tokenizer", "text", "labels", "against", "policy")  # the options that name files


def settings_of(cfg, stage):
    """All settings that the stage's result depends on, files by their content."""
    before = STAGES[:STAGES.index(stage) + 1]
    found = {f.name: getattr(cfg, f.name) for f in fields(cfg) if f.metadata["stage"] in before}
    return {name: digest(value) if name in GIVEN and value else value
            for name, value in found.items()}


def stage(cfg, name, artefact, make, load):
    """The stage's result: loaded if it was made by these settings, else made and remembered.
    make(path) writes the artefact, load(path) reads it."""
    path, note = os.path.join(cfg.out, artefact), os.path.join(cfg.out, "config.json")
    known, wanted = read_json(note, {"stages": {}}), settings_of(cfg, name)
    if os.path.exists(path) and known["stages"].get(name, {}).get("settings") == wanted:
        print(f"{name}: kept, {path} was made by these settings")
        try:
            with reading(path):
                return load(path)
        except UserError as e:
            raise UserError(f"{e}; delete it to have it made again") from None
    known["config"] = asdict(cfg)
    for later in STAGES[STAGES.index(name):]:          # what was made from the old one is old too
        known["stages"].pop(later, None)
    write_json(note, known)                  # a run cut short here leaves nothing that looks whole
    torch.manual_seed(1000 * cfg.seed + STAGES.index(name))
    start = time.time()
    make(path)
    known["stages"][name] = {"settings": wanted, "seconds": round(time.time() - start, 1) or 0.1}
    write_json(note, known)
    return load(path)


def spare_answers(cfg):
    """Refuse to write labels over those of a person, or of nobody knows whom."""
    kept, note = os.path.join(cfg.out, "labels.jsonl"), os.path.join(cfg.out, "config.json")
    if os.path.exists(kept) and "person" in read_json(note, {"person": True}) and not (
            cfg.labels and os.path.samefile(kept, cfg.labels)):
        raise UserError(f"{kept} may hold a person's answers; give another --out, or these as "
                        "--labels")


# --- what is downloaded ---------------------------------------------------------------------------

def download(url, read):
    """The path of a copy of the file, in torch's hub cache, made once. read(path) raises Complaint
    where what came is not whole: then there is no copy."""
    path = os.path.join(torch.hub.get_dir(), *url.split("/")[3:])

    def fetch(part):
        print(f"downloading {url}")
        torch.hub.download_url_to_file(url, part)
        read(part)
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            write_whole(path, fetch)
        except (urllib.error.URLError, UserError) as e:
            raise UserError(f"{url} cannot be downloaded ({e}); fetch it by other means and give "
                            "the path of the file") from None
    return path


# --- weights --------------------------------------------------------------------------------------

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8,
          "BOOL": torch.bool}


def read_safetensors(path):
    """{name: tensor}, every tensor inside the file and as long as its shape says."""
    with open(path, "rb") as file:
        size, n = os.path.getsize(path), int.from_bytes(file.read(8), "little")
        if size < 8 or 8 + n > size:
            raise UserError(f"{path}: {size} bytes, but the header alone should have {n}; the file "
                            "is cut short or not safetensors")
        try:
            header = json.loads(file.read(n))
            found = {name: (DTYPES[t["dtype"]], [int(d) for d in t["shape"]],
                            *map(int, t["data_offsets"]))
                     for name, t in header.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
            raise UserError(f"{path}: not a header of safetensors ({type(e).__name__}: {e})"
                            ) from None
        tensors = {}
        for name, (dtype, shape, start, end, *_) in found.items():
            if not 0 <= start <= end <= size - 8 - n:
                raise UserError(f"{path}: {name} should lie at {start} to {end}, but the file has "
                                f"{size - 8 - n} bytes of tensors; it is cut short or damaged")
            if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != end - start:
                raise UserError(f"{path}: {name} has {end - start} bytes, which is not {shape} of "
                                f"{dtype}")
            file.seek(8 + n + start)
            data = bytearray(file.read(end - start))
            tensors[name] = (torch.frombuffer(data, dtype=dtype) if data else
                             torch.empty(0, dtype=dtype)).reshape(shape)
    return tensors


def write_safetensors(path, tensors):
    """The same layout, in float32."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(t.shape),
                        "data_offsets": [at, at := at + 4 * t.numel()]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)                          # tensors begin at a multiple of 8

    def write(name):
        with open(name, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for t in tensors.values():
                file.write(t.detach().cpu().float().contiguous().numpy().tobytes())
    write_whole(path, write)


def read_weights(path):
    """{name: tensor} of a file in either published layout."""
    if str(path).endswith(".safetensors"):
        return read_safetensors(path)
    with reading(path):
        return dict(torch.load(path, weights_only=True, map_location="cpu"))


# --- comparisons ----------------------------------------------------------------------------------

class Comparison(NamedTuple):
    query: str
    samples: list        # of four strings
    best: int            # 0 .. 3


def to_line(c):
    """A comparison as one line of JSON, plain text that can be read and written by hand."""
    return json.dumps({"query": c.query, **{f"sample{k}": s for k, s in enumerate(c.samples)},
                       "best": c.best}, ensure_ascii=False) + "\n"


def write_comparisons(path, comparisons):
    write_text(path, "".join(map(to_line, comparisons)))


PAD = 50259              # behind the last token, in OpenAI's labels; GPT-2 has ids up to 50256


def read_comparisons(path, decode=None):
    """The comparisons of a file, ours or OpenAI's, whose ids decode(ids) turns into text. Raises
    Complaint with the line, or the number, of the first bad one."""
    try:
        text = Path(path).read_text("utf-8-sig")
        lists = text.lstrip().startswith("[")
        items = json.loads(text) if lists else [t for t in text.split("\n")]
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{path}: the labels cannot be read ({e})") from None
    comparisons = []
    for number, item in enumerate(items, 1):
        if not lists and not item.strip():
            continue
        where = f"{path}, {'entry' if lists else 'line'} {number}"
        try:
            item = item if lists else json.loads(item)
            json.dumps(item, ensure_ascii=False).encode()    # or it could not be written again
            texts = [item["query"]] + [item[f"sample{k}"] for k in range(4)]
            best = item["best"]
        except (ValueError, TypeError, KeyError, RecursionError) as e:
            raise UserError(f"{where}: not a comparison ({type(e).__name__}: {e}); one is "
                            '{"query": ..., "sample0": ..., to "sample3": ..., "best": 0 to 3}'
                            ) from None
        if decode and lists and all(isinstance(t, list) for t in texts):
            texts = [decode(real_ids(ids, where)) for ids in texts]
        if not all(isinstance(t, str) and t.strip() for t in texts):
            raise UserError(f"{where}: the query and the four samples must be texts, none empty")
        if type(best) is not int or not 0 <= best <= 3:
            raise UserError(f"{where}: best is {best!r}, but must be 0, 1, 2 or 3")
        comparisons.append(Comparison(texts[0], texts[1:], best))
    if not comparisons:
        raise UserError(f"{path}: no comparisons in this file")
    return comparisons


def real_ids(ids, where):
    """GPT-2's token ids without the pads behind them."""
    while ids and ids[-1] == PAD:
        ids = ids[:-1]
    wrong = [i for i in ids if type(i) is not int or not 0 <= i < 50257]
    if wrong:
        raise UserError(f"{where}: {wrong[0]!r} is not one of GPT-2's tokens, 0 to 50256")
    return ids


def agreement(words):
    """A sentence: how often two people, by their files, chose alike where both were asked. words:
    agreement, a path, a path."""
    if len(words) != 3:
        raise UserError("agreement needs two files: rlhf.py agreement A.jsonl B.jsonl")
    _, a, b = words
    best = [{}, {}]
    for path, known in zip((a, b), best):
        for c in read_comparisons(path):
            if known.setdefault((c.query, *c.samples), c.best) != c.best:
                raise UserError(f"{path}: answers one question twice, and differently: {c.query}")
    both = [best[0][question] == best[1][question] for question in best[0].keys() & best[1].keys()]
    if not both:
        raise UserError(f"{a} and {b} have no question in common")
    rate = sum(both) / len(both)
    return (f"{a} and {b} agree on {sum(both)} of {len(both)} questions, {rate:.1%} "
            f"+/- {math.sqrt(rate * (1 - rate) / len(both)):.1%}; chance is 25 %")


def open_answers(path):
    """A file of answers, opened to add to it by one window at a time. Half a line is an answer that
    was cut off, and goes; whatever else is wrong is a Complaint, and the file stays as it is."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path}: not a file; give another for the answers")
    file = open(path, "ab+")
    try:
        fcntl and fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"{path}: another window is answering into it") from None
    file.seek(0)
    *lines, last = file.read().split(b"\n")
    try:
        [json.loads(line) for line in lines if line.strip()]
        if lines[:1] and lines[0].lstrip().startswith(b"["):
            raise ValueError("a list, to which no line can be added")
        if last.strip():
            try:
                json.loads(last)
                file.write(b"\n")                            # whole, and written by hand
            except ValueError:
                if not last.startswith(b"{"):
                    raise
                file.truncate(file.seek(0, os.SEEK_END) - len(last))
            file.flush()
    except ValueError as e:
        raise UserError(f"{path}: not a file of answers ({e}); it stays as it is") from None
    return file
