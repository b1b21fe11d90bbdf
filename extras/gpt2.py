"""
gpt2.py: GPT-2's published weights and tokens, in and out; your own text; OpenAI's labels.

Papers: Radford et al. 2019 (GPT-2); Ziegler et al. 2019, 2.1 (rho) and 2.4 (the labels).
In:  published weights, a text, OpenAI's labels, a finished run
Out: a rho.pt and a labels.jsonl for rlhf.py; folders that other readers of GPT-2 open

    python -m extras.gpt2 rho --weights gpt2 --text books --out out/gpt2.pt
    python -m extras.gpt2 labels sentiment --to out/released.jsonl
    python -m extras.gpt2 export out/sentiment-seed0

The first one prints the rlhf.py command to go on with; add `--labels out/released.jsonl`
to it.

Omitted: pickled objects. Weights are read with weights_only=True, which builds tensors
alone.
"""

import argparse
import copy
import http.client
import json
import math
import random
import re
import shlex
import shutil
import socket
import sys
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import tiktoken
import torch

import stories
from evaluate import seeded
from gpt import GPT
from reward import RewardModel, parse_comparison, write_comparisons
from rlhf import (TEXT, Config, Parser, Progress, check, devices, load, load_rho,
                  load_saved, new_model, open_closed_streams, pretrain, read_config_of,
                  reading, save_rho, settings_of_text, what_to_expect, whole_file,
                  write_json)
from text import END_OF_TEXT, Tokenizer, UserError, read_passages, split_passages

WEIGHTS = "https://huggingface.co/openai-community/{}/resolve/main/model.safetensors"
LABELS = ("https://openaipublic.blob.core.windows.net/lm-human-preferences/labels/{}/"
          "offline_5k.json")
GPT2 = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
GPT2_VOCAB_SIZE = 50257                          # with <|endoftext|>, the last
TOKENIZERS = ["tokenizer.json", "vocab.json", "encoder.json"]
NO_BYTES = re.compile(r"<\|(?:endoftext|unused\d+)\|>")     # names of ids without bytes

# released code: what it trains GPT-2 with. here: supervised_lr, and 32 for the shortest
# query.
RELEASED_QUERIES = dict(query_min=32, query_max=64)
RELEASED = dict(n_labels=4992, reward_lr=5e-5, reward_batch=32, episodes=1000000,
                batch_size=512, epochs=4, minibatches=1, lr=1e-5, critic="shared",
                critic_lr=1e-5, vf_coef=0.1, K=0.0512, kl_target=6.0, beta=0.15,
                whiten_rewards=True, supervised_lr=1e-4)


# --- what is downloaded -----------------------------------------------------------------

def download(url, read):
    """The path of a copy of the file, made once, in torch's hub cache. read(path) raises
    UserError where what came is not whole: then no copy is kept."""
    path = Path(torch.hub.get_dir(), *url.split("/")[3:])
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {url}")
    socket.setdefaulttimeout(60)                 # for a server that never answers
    try:
        with whole_file(path) as part:
            torch.hub.download_url_to_file(url, str(part))
            read(part)
    except (OSError, http.client.HTTPException, ValueError, UserError) as e:
        reason = " ".join(str(e).split())        # of some, several lines
        raise UserError(f"{url} cannot be downloaded ({reason}); fetch it by other means "
                        "and give the path of the file") from None
    return path


# --- safetensors: 8 bytes, a JSON header, the tensors' bytes ----------------------------

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16,
          "BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32,
          "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32,
          "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
          "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
          "F8_E5M2": torch.float8_e5m2}


class Entry(NamedTuple):
    """What the header says of a tensor; start and end count from the header's end."""
    dtype: torch.dtype
    shape: list
    start: int
    end: int


def read_header(file, path):
    """{name: Entry} of an open file, which is left where the tensors start."""
    size = path.stat().st_size
    n = int.from_bytes(file.read(8), "little")
    if size < 8 or 8 + n > size:
        raise UserError(f"{path}: {size} bytes, but the header alone should have {n}; "
                        "the file is cut short or not safetensors")
    entries = {}
    try:
        header = json.loads(file.read(n))
        for name, entry in header.items():
            if name != "__metadata__":
                dtype = DTYPES[entry["dtype"]]
                shape = [int(d) for d in entry["shape"]]
                start, end = entry["data_offsets"]
                entries[name] = Entry(dtype, shape, int(start), int(end))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError,
            OverflowError) as e:
        raise UserError(f"{path}: not a header of safetensors ({type(e).__name__}: {e})"
                        ) from None
    return entries


def read_safetensors(path):
    """{name: tensor}, every tensor inside the file and as long as its shape says."""
    tensors = {}
    with open(path, "rb") as file:
        entries = read_header(file, path)
        first = file.tell()
        room = path.stat().st_size - first
        for name, (dtype, shape, start, end) in entries.items():
            if not 0 <= start <= end <= room:
                raise UserError(f"{path}: {name} should lie at {start} to {end}, but the "
                                f"file has {room} bytes of tensors; it is cut short or "
                                "damaged")
            size = math.prod(shape) * dtype.itemsize
            sound = all(0 <= d < 2 ** 63 for d in shape)
            if not sound or size != end - start:
                raise UserError(f"{path}: {name} has {end - start} bytes, which is not "
                                f"{shape} of {dtype}")
            if start == end:                     # frombuffer takes no empty buffer
                tensors[name] = torch.empty(shape, dtype=dtype)
            else:
                file.seek(first + start)
                data = bytearray(file.read(end - start))
                tensors[name] = torch.frombuffer(data, dtype=dtype).reshape(shape)
    return tensors


def write_safetensors(path, tensors):
    """The same layout, in float32."""
    header = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        end = start + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape),
                        "data_offsets": [start, end]}
        start = end
    data = json.dumps(header).encode()
    data += b" " * (-len(data) % 8)              # tensors start at a multiple of 8
    with whole_file(path) as part, open(part, "wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        for tensor in tensors.values():
            file.write(tensor.detach().cpu().float().contiguous().numpy().tobytes())


# --- GPT-2's weights --------------------------------------------------------------------

# The published matrices are (in, out), torch's are (out, in).
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
BUFFERS = (".attn.bias", ".attn.masked_bias")    # causal masks, in old checkpoints
# What other programs put into the names, and what a name of GPT-2's begins with.
WRAPPERS = re.compile(r"_(?:fsdp_wrapped_module|checkpoint_wrapped_module|orig_mod)\.")
START = re.compile(r"(?:^|\.)(?=(?:wte|wpe|h\.\d+|ln_f|lm_head)\.)")
# Under these a training program saves the weights, beside its own state.
WEIGHTS_OF = ["model", "state_dict", "model_state_dict", "module"]
# What a config.json must say, where it says it: the model that gpt.py computes.
ALLOWED = {"model_type": ["gpt2"], "layer_norm_epsilon": [1e-5],
           "activation_function": ["gelu_new", "gelu_pytorch_tanh"],
           "scale_attn_weights": [True], "scale_attn_by_inverse_layer_idx": [False]}


def weights_file(name_or_path):
    """The file of weights that a name of GPT-2's (downloaded once), a folder or a path
    means. Of weights in several files it is their index."""
    path = Path(name_or_path)
    if name_or_path in GPT2 and not path.exists():
        return download(WEIGHTS.format(name_or_path), read_safetensors)
    if not path.is_dir():
        return path
    names = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
             "pytorch_model.bin.index.json"]
    for name in names:
        if (path / name).exists():
            return path / name
    raise UserError(f"{path}: none of {', '.join(names)} in this folder")


def read_saved(path):
    """{name: tensor, or whatever else was saved} of a file, or of all that an index
    names."""
    if path.suffix == ".json":
        with reading(path):
            shards = set(json.loads(path.read_text("utf-8-sig"))["weight_map"].values())
            if any(Path(shard).name != shard for shard in shards):
                raise ValueError("its files must lie beside it")
        saved = {}
        for shard in sorted(shards):
            saved.update(read_saved(path.parent / shard))
        return saved
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return load_saved(path)


def plain_name(name):
    """A tensor's name as GPT-2's published files have it: transformer.h.0.ln_1.weight is
    h.0.ln_1.weight. Other names stay as they are."""
    name = WRAPPERS.sub("", name)
    start = START.search(name)
    return name[start.end():] if start else name


def read_weights(path):
    """{GPT-2's name: float32 tensor}, and config: what the same file says of the shape.

    The file is in a published layout, or what a training program saved: there the
    weights are a dictionary under "model" or the like, and nanoGPT's shape that under
    "model_args". (nanoGPT's GELU is the exact one; by ours a log-probability differs by
    some .001.)"""
    saved, config = read_saved(path), {}
    with reading(path):
        for name in WEIGHTS_OF:
            if isinstance(saved.get(name), dict):
                config = dict(saved.get("model_args", {}))
                saved = saved[name]
        given = [name for name in saved if isinstance(saved[name], torch.Tensor)]
        if any(".lora_" in name for name in given):
            raise ValueError("an adapter (LoRA) lies beside the weights; merge it first")
        tensors = {plain_name(name): saved[name] for name in given}
        if len(tensors) < len(given):
            raise ValueError("two tensors have one name: two models in one file?")
        # One tensor has two names, and some programs keep it under the other.
        if "wte.weight" not in tensors and "lm_head.weight" in tensors:
            tensors["wte.weight"] = tensors["lm_head.weight"]
        if "wte.weight" not in tensors or "wpe.weight" not in tensors:
            some = ", ".join(list(saved)[:3])
            raise ValueError(f"no wte.weight and wpe.weight; there are {some}, ...")
        return tensors, config


def heads_of(config, n_embd, path):
    """The number of attention heads, which no tensor tells."""
    n_head = config.get("n_head", config.get("num_attention_heads"))
    if n_head is None and n_embd in (768, 1024, 1280, 1600):
        n_head = n_embd // 64                    # GPT-2's four sizes
    if n_head is None:
        raise UserError(f"{path}: nothing says how many heads its {n_embd} channels have;"
                        " a config.json beside it must give n_head")
    if type(n_head) is not int or n_head < 1 or n_embd % n_head:
        raise UserError(f"{path}: {n_head!r} heads cannot share {n_embd} channels")
    return n_head


def read_gpt2(path):
    """A GPT with published weights. Its shape is that of the tensors, its heads are
    config.json's. What belongs to no GPT-2 (a value head, a classifier, causal masks) is
    left out; biases that nanoGPT was told to do without are zero."""
    tensors, config = read_weights(path)
    beside = path.parent / "config.json"
    if beside.exists():
        with reading(beside):
            config = {**config, **json.loads(beside.read_text("utf-8-sig"))}
    odd = [name for name, values in ALLOWED.items()
           if config.get(name, values[0]) not in values]
    odd += [name for name in ("quantization_config", "lm_head.bias")
            if name in config or name in tensors]
    output_layer = tensors.pop("lm_head.weight", None)
    if output_layer is not None and not output_layer.equal(tensors["wte.weight"]):
        odd.append("lm_head: it is not the embedding")
    if odd:
        raise UserError(f"{path}: not a GPT-2 ({', '.join(odd)})")

    with reading(path):
        vocab_size, n_embd = tensors["wte.weight"].shape
        block_size = len(tensors["wpe.weight"])
        layers = {name.split(".")[1] for name in tensors if name.startswith("h.")}
        if config.get("n_layer", len(layers)) != len(layers):
            raise ValueError(f"{len(layers)} of {config['n_layer']} layers")
    n_head = heads_of(config, n_embd, path)
    with torch.device("meta"):                   # no time for initial values
        model = GPT(vocab_size, block_size, len(layers), n_head, n_embd)
    weights = {}
    for name in model.state_dict():
        if name in tensors:
            tensor = tensors.pop(name)
            if not tensor.is_floating_point() or tensor.is_sparse or tensor.is_meta:
                raise UserError(f"{path}: {name} does not hold plain numbers (it is "
                                f"{tensor.dtype}); save the model without quantization")
            weights[name] = tensor.float()
            if not weights[name].numel() or not weights[name].isfinite().all():
                raise UserError(f"{path}: {name} is empty or not finite")
        elif config.get("bias") is False and name.endswith(".bias"):
            weights[name] = torch.zeros_like(model.get_parameter(name), device="cpu")
    left = [name for name in tensors if not name.endswith(BUFFERS)]
    if left:
        print(f"left out of {path}, for GPT-2 has none: {', '.join(sorted(left))}")
    # nanoGPT keeps torch's (out, in). c_attn, which is not square, tells which it is.
    first = weights.get("h.0.attn.c_attn.weight")
    if first is not None and len(first) == n_embd:
        for name in weights:
            if name.endswith(TRANSPOSED):
                weights[name] = weights[name].T.contiguous()
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as e:
        reason = str(e).splitlines()[1].strip()
        raise UserError(f"{path}: not a GPT-2: {reason}") from None
    return model


def write_gpt2(folder, model, tokenizer, temperature):
    """Weights, shape, tokens, and how to sample: what opens GPT-2's folder opens this
    one, and says there what the model says here."""
    folder.mkdir(parents=True)
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensors[name] = tensor.T if name.endswith(TRANSPOSED) else tensor
    write_safetensors(folder / "model.safetensors", tensors)
    shape = dict(model.shape)
    shape["n_positions"] = shape.pop("block_size")
    # Dropout 0, for elsewhere the default is .1. No token starts, ends or fills up a
    # text, for elsewhere 50256 does by default.
    no_tokens = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)
    write_json(folder / "config.json", {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **shape,
        "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "resid_pdrop": 0.0,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, **no_tokens})
    write_json(folder / "generation_config.json", {
        "do_sample": True, "temperature": temperature, "top_k": 0, **no_tokens})
    # A text is encoded with the space before it, as our Tokenizer does.
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True,
        "model_max_length": model.shape["block_size"], "bos_token": None,
        "eos_token": None, "unk_token": None, "pad_token": None})
    write_tokenizer(folder, tokenizer)


# --- GPT-2's tokens ---------------------------------------------------------------------

@cache
def gpt2_tokenizer():
    """GPT-2's own tokens, from tiktoken. <|endoftext|>, 50256, is none of them."""
    try:
        encoding = tiktoken.get_encoding("gpt2")
    except Exception as e:       # of requests, which is tiktoken's and not ours to import
        raise UserError(f"GPT-2's tokens are not to be had ({type(e).__name__}): "
                        "tiktoken needs the network once, or a folder with them in "
                        "TIKTOKEN_CACHE_DIR") from None
    last = GPT2_VOCAB_SIZE - 1
    return Tokenizer([encoding.decode_single_token_bytes(i) for i in range(last)])


def bytes_to_unicode():
    """GPT-2's alphabet for the bytes of tokens in files: {byte: a printable
    character}."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    alphabet = {b: chr(b) for b in printable}
    for i, b in enumerate(others):
        alphabet[b] = chr(256 + i)
    return alphabet


def write_tokenizer(folder, tokenizer):
    """vocab.json and merges.txt. A token may have been merged from several pairs: all are
    listed, since for us only the merged bytes count."""
    alphabet = bytes_to_unicode()
    ids = {token: i for i, token in enumerate(tokenizer.tokens)}
    names = {token: "".join(alphabet[b] for b in token) for token in ids}
    merges = ["#version: 0.2"]
    for token in tokenizer.tokens:
        for i in range(1, len(token)):
            left, right = token[:i], token[i:]
            known = left in ids and right in ids
            if known and ids[left] < ids[token] and ids[right] < ids[token]:
                merges.append(f"{names[left]} {names[right]}")
    vocab = {}
    for i, token in enumerate(tokenizer.tokens):
        name = names[token]
        if not token:
            name = f"<|unused{i}|>" if END_OF_TEXT in vocab else END_OF_TEXT
        vocab[name] = i
    write_json(folder / "vocab.json", vocab)
    with whole_file(folder / "merges.txt") as part:
        part.write_text("\n".join(merges) + "\n", "utf-8")


def read_tokenizer(path):
    """The Tokenizer of a vocab.json, OpenAI's encoder.json, or the tokenizer.json that
    newer programs write. The order of the ids must be that of the merges, as in GPT-2."""
    with reading(path):
        ids = json.loads(path.read_text("utf-8-sig"))
        added = {}                               # these and the like stand for no bytes
        if isinstance(ids.get("model"), dict):   # in vocab.json it is a token, a number
            refuse_other_pieces(ids, path)
            added = {token["content"]: token["id"]
                     for token in ids.get("added_tokens", [])}
            # ["a", "b"], or "a b" as all wrote them before 2024.
            merges = [pair.split(" ") if isinstance(pair, str) else pair
                      for pair in ids["model"].get("merges", [])]
            ids = {**ids["model"]["vocab"], **added}
        else:
            merges = read_merges(path.parent)
        special = {name for name in ids if name in added or NO_BYTES.fullmatch(name)}
        if max(ids.values()) >= len(ids):
            raise ValueError("ids with gaps")
        byte_of = {letter: b for b, letter in bytes_to_unicode().items()}
        tokens = [b""] * (1 + max(ids.values()))
        for name, i in ids.items():
            if name not in special:
                tokens[i] = bytes(byte_of[letter] for letter in name)
        known = [token for token in tokens if token]
        if len(known) < len(set(ids) - special) or len(set(known)) < len(known):
            raise ValueError("two tokens have one id, or one token two")
        missing = {bytes([b]) for b in range(256)} - set(known)
        if missing:
            raise ValueError(f"{len(missing)} of the 256 bytes are no tokens")
        if merges is not None:
            merged = [ids["".join(pair)] for pair in merges]
            if merged != sorted(merged):
                raise ValueError("the ids are not in the order of the merges")
            pairs = {i for name, i in ids.items() if name not in special and name[1:]}
            if pairs - set(merged):
                raise ValueError(f"{len(pairs - set(merged))} tokens come from no merge")
        if not tokens[-1]:                       # <|endoftext|> at the end has no place
            tokens.pop()
        return Tokenizer(tokens)


def read_merges(folder):
    """The pairs of a merges.txt, or OpenAI's vocab.bpe, in their order; None without."""
    for name in ("merges.txt", "vocab.bpe"):
        if (folder / name).exists():
            lines = (folder / name).read_text("utf-8-sig").split("\n")
            pairs = [line.rstrip("\r").split(" ") for line in lines]
            return [pair for pair in pairs if len(pair) == 2 and pair[0] != "#version:"]
    return None


def refuse_other_pieces(saved, path):
    """UserError where a tokenizer.json makes other pieces of a text than GPT-2's does, or
    changes it first: it would give other ids."""
    pieces, model = saved.get("pre_tokenizer") or {}, saved["model"]
    if pieces.get("type") == "Sequence" and len(pieces["pretokenizers"]) == 1:
        pieces = pieces["pretokenizers"][0]
    after = saved.get("post_processor") or {}
    # Special tokens stand in no text; any other would be cut out of it, and so would "!".
    added = [token for token in saved.get("added_tokens", [])
             if token["content"] != END_OF_TEXT]
    special = [token for token in added
               if token.get("special", True) and len(token["content"]) > 1]
    as_gpt2 = {
        "normalizer": not saved.get("normalizer"),
        "added_tokens": special == added,
        "post_processor": after.get("type", "ByteLevel") == "ByteLevel",
        "pre_tokenizer": pieces.get("type") == "ByteLevel",
        "pre_tokenizer.use_regex": pieces.get("use_regex", True),
        "model.type": model.get("type", "BPE") == "BPE",
        "model.dropout": not model.get("dropout"),
        "model.continuing_subword_prefix": not model.get("continuing_subword_prefix"),
        "model.end_of_word_suffix": not model.get("end_of_word_suffix")}
    odd = [name for name, same in as_gpt2.items() if not same]
    if odd:
        raise UserError(f"{path}: a tokenizer that makes other pieces of a text than "
                        f"GPT-2's, by its {', '.join(odd)}, cannot be used here")


def choose_tokenizer(name, weights):
    """The Tokenizer that --tokenizer names, gpt2 or a folder; or that beside the weights;
    or GPT-2's with weights that have none; or None, for one has to be trained."""
    if name and name != "gpt2":
        folder = Path(name)
    elif weights and not name:
        folder = weights.parent
    else:
        folder = None
    if folder is not None:
        for file in TOKENIZERS:
            if (folder / file).exists():
                return read_tokenizer(folder / file)
        if name:
            raise UserError(f"{folder}: none of {', '.join(TOKENIZERS)} in this folder")
    return gpt2_tokenizer() if name or weights else None


# --- the labels that OpenAI released ----------------------------------------------------

PAD = 50259                  # behind the last token of a text; not one of GPT-2's
TEXTS = ["query", "sample0", "sample1", "sample2", "sample3"]


def strip_padding(ids):
    """GPT-2's token ids without the pads behind them; ValueError where one is none of
    GPT-2's."""
    while ids and ids[-1] == PAD:
        ids = ids[:-1]
    for i in ids:
        if type(i) is not int or not 0 <= i < GPT2_VOCAB_SIZE:
            raise ValueError(f"{i!r} is not one of GPT-2's tokens, 0 to 50256")
    return ids


def entry_comparison(entry, tokenizer):
    """The Comparison of an entry, whose texts are token ids; ValueError says what is
    wrong."""
    if isinstance(entry, dict) and all(type(entry.get(name)) is list for name in TEXTS):
        texts = {name: tokenizer.decode(strip_padding(entry[name])) for name in TEXTS}
        entry = {**entry, **texts}
    return parse_comparison(json.dumps(entry))


def read_labels(path, tokenizer):
    """The comparisons of a file as OpenAI released them: a JSON list. UserError names a
    bad entry by its number."""
    try:
        entries = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path}: the labels cannot be read ({e})") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: not a JSON list of comparisons, as OpenAI's labels are")
    comparisons = []
    for number, entry in enumerate(entries, 1):
        try:
            comparisons.append(entry_comparison(entry, tokenizer))
        except ValueError as e:
            raise UserError(f"{path}, entry {number}: {e}") from None
    return comparisons


# --- the commands -----------------------------------------------------------------------

def refuse_existing(path, option):
    if path.exists():
        raise UserError(f"{path} is there already; give another {option}")


def labels_command(options):
    """OpenAI's labels as a labels.jsonl."""
    path = Path(options.to)
    refuse_existing(path, "--to")
    read = partial(read_labels, tokenizer=gpt2_tokenizer())
    given = Path(options.labels)
    if options.labels in stories.SCORES and not given.exists():
        given = download(LABELS.format(options.labels), read)
    comparisons = read(given)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        write_comparisons(part, comparisons)
    print(f"{len(comparisons)} comparisons in {path}; rlhf.py takes them as --labels")


def export_command(options):
    """rho, the trunk of r, and pi of a finished run, each a folder in GPT-2's layout."""
    run = Path(options.run)
    to = Path(options.to or run)
    if not (run / "policy.pt").exists():
        raise UserError(f"{run} holds no finished policy; give the --out of a run")
    for name in ("rho", "r", "pi"):
        refuse_existing(to / name, "folder")
    cfg = read_config_of(run)
    rho, tokenizer, _, _ = load_rho(run / "rho.pt", "cpu")
    r = load(RewardModel(rho), run / "reward.pt", "reward")
    pi = load(copy.deepcopy(rho), run / "policy.pt", "policy")
    models = {"rho": rho, "r": r.trunk, "pi": pi}
    for name, model in models.items():
        part = to / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)              # of an export that stopped
        write_gpt2(part, model, tokenizer, cfg.temperature)
    for name in models:
        (to / f"{name}.part").rename(to / name)
    print(f"GPT-2's layout: {to / 'rho'}, {to / 'r'} and {to / 'pi'}")


def rho_settings(options, usual):
    """The Config of the options of `rho`. What is not given is as usual here, or else as
    in rlhf.py. UserError where no run could use it."""
    given = {f.name: getattr(options, f.name) for f in fields(Config)
             if getattr(options, f.name, None) is not None}
    cfg = replace(Config(), **{**usual, **given})
    cfg.truncate_after = min(cfg.truncate_after, cfg.response_length - 1)
    check(cfg)
    return cfg


def next_command(path, cfg, ppo):
    """What to go on with from a rho.pt: all that differs from rlhf.py's own settings."""
    names = ["seed", "device", "query_min", "query_max", "response_length",
             "truncate_after"]
    run = Config(rho=str(path), out=f"{path.with_suffix('')}-run", **ppo)
    run = replace(run, **{name: getattr(cfg, name) for name in names})
    words = ["python", "rlhf.py"]
    for f in fields(Config):
        value = getattr(run, f.name)
        if value != f.default:
            words.append(f"--{f.name}")
            if f.type is not bool:
                words.append(shlex.quote(str(value)))
    return " ".join(words)


def ask_command(path, cfg):
    """How to label samples of a rho.pt."""
    rho, to = shlex.quote(str(path)), shlex.quote(str(path.with_name("labels.jsonl")))
    return (f"python -m extras.label ask --rho {rho} --response_length "
            f"{cfg.response_length} --to {to}")


def rho_command(options):
    """A rho.pt: published weights or a new model, trained on a text, and queries from
    it."""
    path = Path(options.path)
    refuse_existing(path, "--out")
    usual, ppo = {}, {}
    if options.weights:
        usual = dict(lm_steps=1000 if options.text else 0, lm_lr=5e-5)
    elif options.text:
        usual = settings_of_text(Path(options.text))
        ppo = {name: usual[name] for name in ("kl_target", "beta", "episodes")}
    cfg = rho_settings(options, usual)           # before anything is downloaded
    if options.text:
        passages = read_passages(Path(options.text))
        if not options.weights:
            print(what_to_expect(passages))
    else:
        rng = random.Random(cfg.seed)
        passages = [stories.passage(rng) for _ in range(cfg.passages)]
    parts = split_passages(passages, cfg.share)
    device = cfg.device or devices()[0]

    seeded(cfg.seed, "language_model")           # so a new model is rlhf.py's, bit by bit
    if options.weights:
        weights = weights_file(options.weights)
        rho = read_gpt2(weights)
        tokenizer = choose_tokenizer(options.tokenizer, weights)
        if len(tokenizer.tokens) >= GPT2_VOCAB_SIZE - 1:     # some have added tokens
            ppo = RELEASED
            cfg = rho_settings(options, {**usual, **RELEASED_QUERIES})
    else:
        tokenizer = choose_tokenizer(options.tokenizer, None)
        if tokenizer is None:
            here = replace(cfg, device=device)
            rho, tokenizer = new_model(here, parts["train"])
        else:
            rho = GPT(len(tokenizer.tokens), cfg.query_max + cfg.response_length,
                      cfg.n_layer, cfg.n_head, cfg.n_embd)
    check_fit(rho, tokenizer, cfg)
    rho.to(device)
    progress = Progress("language model")
    queries, losses = pretrain(cfg, rho, tokenizer, parts, progress)
    progress.show(f"{progress.note}, unigram {losses['unigram_loss']:.3f}\n")
    for name, groups in queries.items():
        print(f"{sum(len(group) for group in groups.values())} queries for {name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_rho(path, rho, tokenizer, queries, losses)
    print(f"{path} is made. Go on with:\n\n{next_command(path, cfg, ppo)}")
    if options.text and not options.weights:
        print("\nLabels of your own, for its --labels (or in a browser: extras.page, "
              f"with a folder as --to):\n\n{ask_command(path, cfg)}")


def check_fit(rho, tokenizer, cfg):
    """Refuse tokens that are another model's, and queries longer than its positions."""
    vocab_size, block_size = rho.shape["vocab_size"], rho.shape["block_size"]
    n, T = len(tokenizer.tokens), cfg.query_max + cfg.response_length
    if not 0 <= vocab_size - n < 128:            # some leave room, to a multiple of 128
        raise UserError(f"the weights have {vocab_size} tokens, the tokenizer {n}; give "
                        "the weights' own --tokenizer")
    if block_size < T:
        raise UserError(f"the weights have {block_size} positions, but --query_max and "
                        f"--response_length want {T}")


# --- the command line -------------------------------------------------------------------

def add_rho_options(parser):
    """The options of `rho`. The name that rlhf.py has for one is understood too."""
    def add(name, kind, text, *others, **more):
        parser.add_argument(name, *others, type=kind, metavar=kind.__name__, help=text,
                            **more)

    known = {f.name: f for f in fields(Config)}
    add("--weights", str, f"{', '.join(GPT2)} (downloaded once), or a folder or file in "
        "their layout; a new model if not given")
    add("--text", str, "a file, or a folder of *.txt; stories if not given")
    add("--tokenizer", str, "gpt2, or a folder with tokenizer.json, vocab.json or "
        "encoder.json; if not given, the one beside the weights, else GPT-2's; with a "
        "new model, one trained on the text")
    add("--out", str, "the file to make (here: 'out/rho.pt')", dest="path",
        default="out/rho.pt")
    add("--steps", int, "of training (here: 2500 on stories, by its size on a text; "
        "with weights 1000 on a text, 0 without)", "--lm_steps", dest="lm_steps")
    add("--lr", float, "peak learning rate (here: 0.006 from nothing, 5e-05 with "
        "weights)", "--lm_lr", dest="lm_lr")
    add("--batch", int, "windows a step (here: 16)", "--lm_batch", dest="lm_batch")
    add("--query_min", int, "tokens of the shortest query (here: 9; text: 8; GPT-2: 32)")
    add("--query_max", int, "tokens of the longest query (here: 14; text: 80; GPT-2: 64)")
    for name in ("seed", "device", "passages", "share", "vocab_size", "n_layer", "n_head",
                 "n_embd", "response_length"):
        f = known[name]
        of_text = f"; text: {TEXT[name]!r}" if name in TEXT else ""
        add(f"--{name}", f.type, f"{f.metadata['help']} (here: {f.default!r}{of_text})")


def read_options(argv):
    """The options of a command line, with the function of its command."""
    parser = Parser(prog="python -m extras.gpt2", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="rho | labels | export")
    rho = commands.add_parser("rho", description=rho_command.__doc__, allow_abbrev=False)
    rho.set_defaults(command=rho_command)
    add_rho_options(rho)
    labels = commands.add_parser("labels", description=labels_command.__doc__,
                                 allow_abbrev=False)
    labels.set_defaults(command=labels_command)
    labels.add_argument("labels", help="sentiment or descriptiveness (downloaded once), "
                        "or a file as OpenAI released them")
    labels.add_argument("--to", required=True, help="the labels.jsonl to make")
    export = commands.add_parser("export", description=export_command.__doc__,
                                 allow_abbrev=False)
    export.set_defaults(command=export_command)
    export.add_argument("run", help="folder of a finished run")
    export.add_argument("to", nargs="?", help="where rho, r and pi are made; the run's "
                        "own folder if not given")
    return parser.parse_args(argv)


def main(argv=None):
    """Run a command; return 0, or 2 after one sentence on what the user can mend."""
    open_closed_streams()
    try:
        options = read_options(argv)
        options.command(options)
        return 0
    except KeyboardInterrupt:
        print("\nextras.gpt2: stopped; nothing is half written", file=sys.stderr)
    except (UserError, FloatingPointError, OSError) as e:
        print(f"extras.gpt2: {e}", file=sys.stderr)
    except MemoryError:
        print("extras.gpt2: there is not enough memory for this", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
