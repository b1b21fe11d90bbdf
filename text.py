"""
text.py: from text to tokens and back: BPE, sentences, queries, and where a response ends.

Papers: Sennrich et al. 2016 (BPE for words); Radford et al. 2019, 2.2 (BPE of bytes);
Ziegler et al. 2019, 3.1 (queries start and end at a period, responses end at one).
In:  passages, a list of texts, or text files
Out: windows to train on, queries, comparisons as tokens

Letters: B batch, N windows or comparisons, Q query tokens, T response tokens, S tokens of
both.

Omitted: a token for the end of a text. rho learns from windows that lie within one
passage, and a query with its response is no longer than a window.
"""

import warnings
from collections import Counter, defaultdict

import regex        # comes with tiktoken, and knows the \p{L} of GPT-2's pattern
import tiktoken
import torch


class UserError(Exception):
    """Something the user can mend: one sentence on what is wrong, where, what to do."""


# --- byte-pair encoding -----------------------------------------------------------------

# GPT-2's: a word and the space before it are one piece, and no token crosses pieces.
SPLIT_PATTERN = (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
                 r"|\s+(?!\S)|\s+")


def merge_pair(parts, pair):
    """Join every occurrence of the pair: [a, b, c, a, b] and (a, b) give [ab, c, ab]."""
    merged = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def train_bpe(passages, vocab_size):
    """The tokens that byte-pair encoding learns: a list of at most vocab_size byte
    strings.

    It starts with the 256 bytes. Again and again, the most common pair of neighbors
    becomes a token. Equal pieces are counted once, and a merge touches only the pieces
    that hold its pair."""
    counts = Counter()
    for passage in passages:
        counts.update(regex.findall(SPLIT_PATTERN, " " + passage))
    pieces = [[bytes([b]) for b in piece.encode()] for piece in counts]
    piece_counts = list(counts.values())
    pair_counts = Counter()
    pieces_with = defaultdict(set)                       # pair -> its pieces
    for i, parts in enumerate(pieces):
        for pair in zip(parts, parts[1:]):
            pair_counts[pair] += piece_counts[i]
            pieces_with[pair].add(i)

    tokens = [bytes([b]) for b in range(256)]
    while len(tokens) < vocab_size and pair_counts.total() > 0:
        # Ties go to the pair that sorts last, so that all machines learn the same tokens.
        best = max(pair_counts, key=lambda pair: (pair_counts[pair], pair))
        tokens.append(best[0] + best[1])
        for i in pieces_with.pop(best):
            before, after = pieces[i], merge_pair(pieces[i], best)
            for pair in zip(before, before[1:]):
                pair_counts[pair] -= piece_counts[i]
            for pair in zip(after, after[1:]):
                pair_counts[pair] += piece_counts[i]
                pieces_with[pair].add(i)
            pieces[i] = after
        del pair_counts[best]                # it is in no piece any more
    return tokens


class Tokenizer:
    """Text to token ids and back. A text is encoded with the space that would stand
    before it, so that query and response meet as they would within a passage."""

    def __init__(self, tokens):
        self.tokens = tokens                     # byte strings; a token's id is its place
        self.period = tokens.index(b".")
        # An id without bytes (another program's <|endoftext|>) is never the result.
        ranks = {token: rank for rank, token in enumerate(tokens) if token}
        # tiktoken applies the merges in the order of their ranks, as training found them.
        self.encoding = tiktoken.Encoding(
            "ours", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text):
        return self.encoding.encode_ordinary(" " + text.strip())

    def decode(self, ids):
        """Ids without bytes (GPT-2's <|endoftext|>, spare room) show nothing."""
        known = [int(i) for i in ids if i < len(self.tokens) and self.tokens[i]]
        return self.encoding.decode(known).strip()

    def sentence_bounds(self, ids):
        """Where sentences start and end: 0, and after every period that a space or
        nothing follows. So neither 3.14 nor a period before a quotation mark ends one."""
        bounds = [0]
        for i, token in enumerate(ids):
            if token == self.period:
                last = i + 1 == len(ids)
                if last or self.tokens[ids[i + 1]].startswith(b" "):
                    bounds.append(i + 1)
        return bounds


# --- a text of your own, in place of the stories ----------------------------------------

END_OF_TEXT = "<|endoftext|>"            # parts documents; see `read_documents`
# The periods of these end no sentence and are left out, as British print does: Mr Elliot,
# J R Hartley, eg. An "etc." or "plan B." that does end one is lost; "I." often does, and
# is kept.
ABBREVIATIONS = regex.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Rev|Capt|Col|Gen|Hon|Esq|"
                              r"vs|etc|e\.g|i\.e|(?!I)\p{Lu})\.(?= )")


def read_documents(path):
    """The documents of a file, or of all the files *.txt in a folder and its folders,
    each with its white space reduced to single spaces. A file is one document, or
    several with <|endoftext|> between them.

    Names that start with a period are other programs' files, and are skipped."""
    paths = [path]
    if path.is_dir():
        paths = [file for file in sorted(path.rglob("*"))
                 if file.suffix.lower() == ".txt" and file.is_file() and not
                 any(name.startswith(".") for name in file.relative_to(path).parts)]
    elif path.exists() and not path.is_file():
        raise UserError(f"{path}: not a file, and it has to be read twice; save it first")
    if not paths:
        raise UserError(f"{path}: no file *.txt in this folder")
    documents = []
    for file in paths:
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as e:
            raise UserError(f"{file}: not UTF-8 text ({e.reason}, byte {e.start})"
                            ) from None
        if "\0" in text:
            raise UserError(f"{file}: not a text, character {text.index(chr(0))} is a "
                            "zero byte")
        documents += [" ".join(part.split()) for part in text.split(END_OF_TEXT)]
    return [document for document in documents if document]


def split_into_passages(document, sentences=40):
    """A document as passages of so many sentences, for plain text marks no chapters."""
    document = regex.sub(r" \.(?= |$)", ".", document)           # spaces before periods
    document = ABBREVIATIONS.sub(lambda match: match[0].replace(".", ""), document)
    parts = regex.split(r"(?<=\.) ", document)
    return [" ".join(parts[i:i + sentences]) for i in range(0, len(parts), sentences)]


def read_passages(path):
    """The passages of a text file, or of all those of a folder; UserError where too few
    of its sentences end in a period, the one mark that ends a sentence here."""
    passages = []
    for document in read_documents(path):
        passages += split_into_passages(document)
    # Behind another mark a period is a part of its token, as in "...".
    end = regex.compile(r"(?<![^\s\p{L}\p{N}])\.(?= |$)")
    n = sum(len(end.findall(passage)) for passage in passages)
    if n < 100:
        counts = {mark: sum(passage.count(mark) for passage in passages)
                  for mark in ".?!;…。．｡？！।॥؟۔։።"}
        all_periods = counts.pop(".")
        others = ", ".join(f"{count:,} {mark}" for mark, count in counts.items() if count)
        raise UserError(f"{path}: {n} of its {all_periods:,} periods stand between a "
                        "word and a space, and so end a sentence; at least 100 must, and "
                        f"no other mark ends one (there are: {others or 'none'})")
    return passages


# --- what rho learns from, and queries it has not read ----------------------------------

def split_passages(passages, share):
    """{name: passages}: those that rho reads, and three parts that it does not, each
    `share` of all. A query that occurs in two parts is kept only in the earlier one (see
    extract_queries), so evaluation stands before the two parts that learn."""
    n = int(share * len(passages))
    if n == 0:
        raise UserError(f"{len(passages)} passages are too few: a share of {share} of "
                        "them is none")
    read = len(passages) - 3 * n
    return {"train": passages[:read],
            "evaluation": passages[read + 2 * n:],
            "reward": passages[read:read + n],
            "policy": passages[read + n:read + 2 * n]}


def sentence_windows(passages, tokenizer, T):
    """All runs of T + 1 tokens that start where a sentence does, as every query will, and
    stay within their passage: (N, T + 1)."""
    windows = []
    for passage in passages:
        ids = tokenizer.encode(passage)
        for start in tokenizer.sentence_bounds(ids):
            if start + T < len(ids):
                windows.append(ids[start:start + T + 1])
    if not windows:
        raise UserError(f"no sentence of the text has {T} tokens behind it in its passage"
                        f", which are needed to train on; give a longer text, or a "
                        "smaller --query_max or --response_length")
    return torch.tensor(windows)


def extract_queries(parts, tokenizer, shortest, longest):
    """All runs of whole sentences of `shortest` to `longest` tokens, none in two parts.

    parts {name: passages} -> {name: {length: (n, length)}}. A run that an earlier part
    has is left out of the later ones. "train" comes first, and is not returned: rho has
    read none of the queries."""
    seen = set()
    queries = {}
    for name, passages in parts.items():
        found = defaultdict(list)                          # by length
        for passage in passages:
            ids = tokenizer.encode(passage)
            bounds = tokenizer.sentence_bounds(ids)
            for i, start in enumerate(bounds):
                for end in bounds[i + 1:]:
                    if end - start > longest:
                        break
                    query = tuple(ids[start:end])
                    if len(query) >= shortest and query not in seen:
                        seen.add(query)
                        found[len(query)].append(query)
        if not found and name != "train":
            raise UserError(f"the part of the text for {name} has no run of sentences of "
                            f"{shortest} to {longest} tokens; give a longer text, or "
                            "other --query_min and --query_max")
        queries[name] = {length: torch.tensor(found[length]) for length in sorted(found)}
    del queries["train"]
    return queries


def sample_queries(queries, n):
    """n different queries at random, or all if there are fewer: {length: (m, length)}."""
    every = [query for group in queries.values() for query in group]
    picked = defaultdict(list)                           # by length
    for i in torch.randperm(len(every))[:n].tolist():
        picked[len(every[i])].append(every[i])
    return {length: torch.stack(picked[length]) for length in sorted(picked)}


def query_batches(queries, size=512):
    """The queries as tensors (B, Q) of at most `size` rows, each of one length."""
    return [batch for group in queries.values() for batch in group.split(size)]


class QuerySampler:
    """Draws batches for PPO. A batch has one length, so that nothing needs padding, and
    each length comes as often as it occurs among the queries."""

    def __init__(self, queries, device):
        self.groups = list(queries.values())
        self.weights = torch.tensor([float(len(group)) for group in self.groups])
        self.device = device

    def sample(self, batch_size, times=1):
        """Queries (B, Q), drawn with replacement, each so many times, side by side."""
        group = self.groups[int(torch.multinomial(self.weights, 1))]
        rows = torch.randint(len(group), (batch_size // times,))
        return group[rows.repeat_interleave(times)].to(self.device)


# --- responses --------------------------------------------------------------------------

def truncate_at_period(response, period, after):
    """Paper 3.1: a response ends at its first period at position `after` or later.

    response (B, T) -> length (B,), finished (B,). Without such a period, length is T.
    Positions count from 0."""
    T = response.size(1)
    position = torch.arange(T, device=response.device)
    ends_here = (response == period) & (position >= after)           # (B, T)
    end = torch.where(ends_here, position, T).amin(dim=1)            # (B,) T: nowhere
    return (end + 1).clamp(max=T), end < T


def decode_responses(response, length, tokenizer):
    """The responses to their ends, as B texts: response (B, T), length (B,)."""
    return [tokenizer.decode(ids[:end])
            for ids, end in zip(response.tolist(), length.tolist())]


def collate(comparisons, tokenizer, block_size):
    """Comparisons (see reward.py) as tokens (N, K, S), padded on the right, their lengths
    (N, K), and best (N,).

    What is longer than the model's block_size loses its beginning, with a warning."""
    rows, too_long = [], 0
    for c in comparisons:
        query = tokenizer.encode(c.query)
        both = [query + tokenizer.encode(sample) for sample in c.samples]
        too_long += sum(len(ids) > block_size for ids in both)
        rows.append([ids[-block_size:] for ids in both])
    if too_long:
        warnings.warn("samples that with their queries are longer than the model's "
                      f"{block_size} positions: {too_long}; their beginnings are lost")
    lengths = torch.tensor([[len(ids) for ids in row] for row in rows])
    tokens = torch.zeros(*lengths.shape, int(lengths.max()), dtype=torch.long)
    for n, row in enumerate(rows):
        for k, ids in enumerate(row):
            tokens[n, k, :len(ids)] = torch.tensor(ids)
    return tokens, lengths, torch.tensor([c.best for c in comparisons])
