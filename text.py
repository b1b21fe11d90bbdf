"""
text.py: from text to tokens and back: byte-pair encoding, passages, windows, queries.

Papers: Sennrich et al. 2016 (BPE for words); Radford et al. 2019, 2.2 (of bytes); Ziegler et al.
2019, 3.1 (queries begin and end at a period).
In:  passages, a list of texts       Out: what rho learns from, and queries it has not read

Letters: T tokens, N windows or queries.

Deleted here: a token for the end of a text. Nothing is sampled or scored beyond its passage.
"""

import json
import os
import re
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import regex        # comes with tiktoken, and reads the same patterns
import tiktoken
import torch

import files
from files import UserError


# --- byte-pair encoding ---------------------------------------------------------------------------

# GPT-2's pattern: a word with the space before it is one piece, and no token crosses pieces.
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def merge_pair(parts, pair):
    """Every occurrence of the pair made one: merge([a, b, c, a, b], (a, b)) = [ab, c, ab]."""
    merged = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def train_bpe(passages, vocabulary):
    """The tokens that byte-pair encoding learns from texts: a list of at most `vocabulary` bytes.

    Starting from the 256 bytes, the commonest pair of neighbours becomes a token, again and again.
    Distinct pieces are counted once, and only those that hold the pair are touched."""
    pieces = Counter()
    for passage in passages:
        pieces.update(regex.findall(SPLIT_PATTERN, " " + passage))
    words = [([bytes([b]) for b in piece.encode()], n) for piece, n in pieces.items()]
    count, where = Counter(), defaultdict(set)
    for i, (parts, n) in enumerate(words):
        for pair in zip(parts, parts[1:]):
            count[pair] += n
            where[pair].add(i)
    tokens = {bytes([b]): b for b in range(256)}
    while len(tokens) < vocabulary and count.total() > 0:
        pair = max(count, key=lambda p: (count[p], p))
        tokens.setdefault(pair[0] + pair[1], len(tokens))
        for i in where.pop(pair):
            parts, n = words[i]
            merged = merge_pair(parts, pair)
            for p in zip(parts, parts[1:]):
                count[p] -= n
            for p in zip(merged, merged[1:]):
                count[p] += n
                where[p].add(i)
            words[i] = merged, n
        del count[pair]
    return list(tokens)


class Tokens:
    """Tokens, in their order, and tiktoken to run them. A text is encoded with the space that would
    stand before it, so that query and response meet as they would within a passage."""

    def __init__(self, tokens):
        self.tokens = tokens                                 # of bytes; the id is the place
        self.bpe = tiktoken.Encoding("ours", pat_str=SPLIT_PATTERN, special_tokens={},
                                     mergeable_ranks={t: rank for rank, t in enumerate(tokens)})
        self.period = tokens.index(b".")

    def encode(self, text):
        return self.bpe.encode_ordinary(" " + text.strip())

    def decode(self, ids):
        """What has no bytes is not shown: GPT-2's <|endoftext|>, and room left in a vocabulary."""
        return self.bpe.decode([int(i) for i in ids if i < len(self.tokens)]).strip()

    def sentence_starts(self, ids):
        """Where sentences start and, but for the 0, end: behind every period that has a space or
        nothing after it. So 3.14 is no end, nor is the period before a quotation mark."""
        return [0] + [i + 1 for i, token in enumerate(ids) if token == self.period and (
            i + 1 == len(ids) or self.tokens[ids[i + 1]].startswith(b" "))]


# --- GPT-2's tokens, and its two files ------------------------------------------------------------

@cache
def gpt2():
    """GPT-2's own tokens, from tiktoken. Its <|endoftext|>, 50256, is none of them."""
    try:
        bpe = tiktoken.get_encoding("gpt2")
    except Exception as e:         # requests' errors, and requests is not in requirements.txt
        raise UserError(f"GPT-2's tokens are not to be had ({type(e).__name__}): tiktoken needs "
                        "the network once, or a folder with them in TIKTOKEN_CACHE_DIR"
                        ) from None
    return Tokens([bpe.decode_single_token_bytes(i) for i in range(50256)])


def bytes_to_unicode():
    """GPT-2's alphabet for bytes in its files: {byte: a printable character}."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


def write_tokens(folder, tokens):
    """vocab.json and merges.txt, which other readers of GPT-2's tokens open. A token may have been
    merged from several pairs: all are given, since here only the merged bytes count."""
    rank, letter = {t: i for i, t in enumerate(tokens.tokens)}, bytes_to_unicode()
    name = {t: "".join(letter[b] for b in t) for t in tokens.tokens}
    pairs = [(t[:i], t[i:]) for t in tokens.tokens for i in range(1, len(t))]
    merges = [f"{name[a]} {name[b]}" for a, b in pairs
              if max(rank.get(a, len(rank)), rank.get(b, len(rank))) < rank[a + b]]
    files.write_json(os.path.join(folder, "vocab.json"), {name[t]: i for t, i in rank.items()})
    files.write_text(os.path.join(folder, "merges.txt"), "\n".join(["#version: 0.2", *merges, ""]))


def read_tokens(path):
    """The tokens of a vocab.json, or of the tokenizer.json that newer readers write, whose order is
    that of the merges, as GPT-2's and ours is."""
    byte = {letter: b for b, letter in bytes_to_unicode().items()}
    with files.reading(path):
        found = json.loads(Path(path).read_text("utf-8-sig"))
        found = found["model"]["vocab"] if type(found.get("model")) is dict else found
        ids = {k: v for k, v in found.items() if k != "<|endoftext|>"}
        tokens = [bytes(byte[letter] for letter in name) for name in sorted(ids, key=ids.get)]
        if sorted(ids.values()) != list(range(len(ids))) or len({*map(len, tokens)} & {0}) or (
                sum(len(t) == 1 for t in tokens) != 256):
            raise ValueError("ids with gaps, or not every byte is a token")
        return Tokens(tokens)


def tokens_for(tokenizer, weights, passages, vocabulary):
    """The Tokens of a named tokenizer (gpt2, or a folder), or those beside a file of weights, or
    GPT-2's where there are weights, or, where there are none, tokens learned from the passages."""
    folder = Path(tokenizer or os.path.dirname(weights))
    beside = [p for p in (folder / "vocab.json", folder / "tokenizer.json") if p.exists()]
    if tokenizer != "gpt2" and (tokenizer or weights and beside):
        if not beside:
            raise UserError(f"{folder}: no vocab.json or tokenizer.json in this folder")
        return read_tokens(beside[0])
    return gpt2() if tokenizer or weights else Tokens(train_bpe(passages, vocabulary))


# --- passages, and windows of them ----------------------------------------------------------------

def read_text(path):
    """What a file says, or all files *.txt of a folder and of those in it, in one line."""
    paths = [path]
    if os.path.isdir(path):
        paths = sorted(Path(path).rglob("*.txt"))
        if not paths:
            raise UserError(f"{path}: no file *.txt in this folder")
    texts = []
    for path in paths:
        try:
            text = Path(path).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as e:
            raise UserError(f"{path}: not UTF-8 text ({e.reason}, byte {e.start})") from None
        if "\0" in text:
            raise UserError(f"{path}: not a text, it has a zero at character {text.index(chr(0))}")
        texts.append(" ".join(text.split()))
    return " ".join(texts)


# Their periods end no sentence, and are left out as the English do: Mr Elliot, J R Hartley, eg. Now
# and then an etc. or a plan B. does end one, and I. often; only that one is kept.
NO_END = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Rev|Capt|Col|Gen|Hon|Esq|vs|etc|e\.g|i\.e|"
                    r"[A-HJ-Z])\.(?= )")


def pages(text, sentences=40):
    """A text as passages of so many sentences, for want of the author's own."""
    parts = re.split(r"(?<=\.) ", NO_END.sub(lambda m: m[0].replace(".", ""), text))
    return [" ".join(parts[i:i + sentences]) for i in range(0, len(parts), sentences)]


def split_passages(passages, share):
    """What rho reads and, of so large a share each, three parts that it does not: {name: passages}.
    """
    a, b, c = (len(passages) - k * int(share * len(passages)) for k in (3, 2, 1))
    return {"train": passages[:a], "evaluation": passages[c:], "reward": passages[a:b],
            "policy": passages[b:c]}


def windows(passages, tokens, T):
    """All runs of T + 1 tokens that begin where a sentence does, as every query will, and stay
    within their passage. passages: texts -> (N, T + 1)."""
    return torch.tensor([ids[s:s + T + 1] for ids in map(tokens.encode, passages)
                         for s in tokens.sentence_starts(ids) if s + T < len(ids)])


def batches_of(windows, B):
    """Endless batches of random windows: tokens (B, T), target (B, T)."""
    while True:
        window = windows[torch.randint(len(windows), (B,))]                        # (B, T + 1)
        yield window[:, :-1], window[:, 1:]


# --- queries --------------------------------------------------------------------------------------

def extract_queries(parts, tokens, shortest, longest):
    """All runs of whole sentences of a permitted length, none twice and none in two parts.

    parts: {name: passages} -> {name: {length: (n, length)}}. What stands in an earlier part is not
    taken for a later one; with what rho reads as the first, no query has been read by it."""
    taken, found = set(), {}
    for name, passages in parts.items():
        queries = defaultdict(list)
        for passage in passages:
            ids = tokens.encode(passage)
            starts = tokens.sentence_starts(ids)
            for i, start in enumerate(starts):
                for end in starts[i + 1:]:
                    query = tuple(ids[start:end])
                    if len(query) > longest:
                        break
                    if len(query) >= shortest and query not in taken:
                        taken.add(query)
                        queries[end - start].append(query)
        found[name] = {length: torch.tensor(queries[length]) for length in sorted(queries)}
    return found


def pick(queries, n, again=False):
    """n different queries at random, all lengths in proportion: {length: (m, length)}.

    Where there are fewer than n it is all of them, or with `again` all as often as it takes."""
    total = sum(map(len, queries.values()))
    chosen = torch.randperm(total).repeat(-(-n // total) if again else 1)[:n]
    start, picked = 0, {}
    for length, x in queries.items():
        mine = chosen[(chosen >= start) & (chosen < start + len(x))] - start
        start += len(x)
        if len(mine):
            picked[length] = x[mine]
    return picked


def query_sampler(queries, device):
    """The function draw(B): B queries of one length, each length as often as it occurs."""
    weights = torch.tensor([float(len(x)) for x in queries.values()])
    groups = list(queries.values())

    def draw(B):
        x = groups[int(torch.multinomial(weights, 1))]
        return x[torch.randint(len(x), (B,))].to(device)
    return draw


def collate(comparisons, encode, context):
    """Comparisons as tokens (N, 4, S), padded on the right, the length of each (N, 4), best (N,).

    encode(text) -> a list of ids. What is longer than the model's context loses its beginning."""
    rows = [[(encode(c.query) + encode(s))[-context:] for s in c.samples] for c in comparisons]
    length = torch.tensor([[len(ids) for ids in four] for four in rows])           # (N, 4)
    tokens = torch.zeros(*length.shape, int(length.max()), dtype=torch.long)       # (N, 4, S)
    for n, four in enumerate(rows):
        for k, ids in enumerate(four):
            tokens[n, k, :len(ids)] = torch.tensor(ids)
    return tokens, length, torch.tensor([c.best for c in comparisons])
