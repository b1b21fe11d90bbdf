"""
gpt.py: GPT-2, written by hand: the model, cached sampling, log-probabilities, BPE, training.

Papers: Radford et al. 2019 (GPT-2); Ziegler et al. 2019, section 2.1 (pretraining, temperature).
In:  a text           Out: rho, to sample from and score with         Not here: rewards, PPO

Letters: B batch, T tokens (of the response, after a query of Q), S tokens that attention looks at,
V vocabulary, C channels, H heads, D = C / H.

Deleted here: dropout (the paper turns it off, and with it on the PPO ratio would not start at 1),
padding and attention masks (all queries of a batch have one length), top-k and top-p (they sample
from another distribution than the one whose KL is paid).
"""

import math
import os
import sys
import time
from collections import Counter, defaultdict

import regex        # comes with tiktoken, and reads the same patterns
import tiktoken
import torch
import torch.nn as nn
import torch.nn.functional as F


class Complaint(Exception):
    """Something the user can mend: one sentence saying what is wrong, where, and what to do."""


# --- the model ------------------------------------------------------------------------------------

def attention(q, k, v):
    """softmax(q k^T / sqrt(D)) v, every token seeing itself and the past. Shapes (B, H, T, D).

    k and v may hold S - T earlier tokens in front of the T that q asks for. The shipped model runs
    F.scaled_dot_product_attention, which never stores the (T, S) table; a test holds them equal."""
    T, S = q.size(-2), k.size(-2)
    weights = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))                      # (B, H, T, S)
    future = torch.ones(T, S, dtype=torch.bool, device=q.device).triu(S - T + 1)   # (T, S)
    return weights.masked_fill(future, -math.inf).softmax(-1) @ v                  # (B, H, T, D)


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x, past):
        """x (B, T, C); past: None, or the function that stores k, v and returns all so far."""
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = past(k, v)                                                      # (B, H, S, D)
        # One new token sees all there is; a block of several is causal, with nothing before it.
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width),
                                  "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x, past=None):
        x = x + self.attn(self.ln_1(x), past)
        # GPT-2 was trained with the tanh approximation of GELU; the exact one gives other logits.
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2, with the parameter names of the published checkpoints, which store the four matrices
    of a block transposed: nothing else lies between."""

    def __init__(self, vocabulary, context, layers, heads, width):
        super().__init__()
        self.shape = dict(vocabulary=vocabulary, context=context, layers=layers, heads=heads,
                          width=width)
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(context, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        # GPT-2: N(0, .02), positions N(0, .01), biases 0; what adds to the residual stream divided
        # by sqrt(2 layers), so that its variance does not grow with depth. Below 768 channels all
        # times sqrt(768 / C), or attention starts almost uniform and learns to copy slowly.
        std = 0.02 * math.sqrt(max(1, 768 / width))
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(p, std=std / math.sqrt(2 * layers))
            elif p.dim() == 2:
                nn.init.normal_(p, std=std / 2 if name == "wpe.weight" else std)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def hidden(self, tokens, cache=None):
        """The last hidden states. tokens (B, T) -> (B, T, C). A cache holds those before."""
        n, T = cache.length if cache else 0, tokens.size(1)
        assert T == 1 or n == 0, f"{T} tokens at once after {n}: only one, or the first ones"
        assert n + T <= len(self.wpe.weight), f"no position for {n + T} tokens"
        x = self.wte(tokens) + self.wpe.weight[n:n + T]                            # (B, T, C)
        for layer, block in enumerate(self.h):
            x = block(x, cache.at(layer) if cache else None)
        if cache:
            cache.length += T
        return self.ln_f(x)

    def logits(self, h, temperature=1.0):
        """Hidden states (..., C) -> logits / temperature (..., V), by the tied embedding."""
        return F.linear(h / temperature, self.wte.weight)     # h has fewer numbers than the logits

    def forward(self, tokens):
        """tokens (B, T) -> logits (B, T, V)."""
        return self.logits(self.hidden(tokens))


# --- the distribution -----------------------------------------------------------------------------

def log_distribution(model, h, temperature):
    """log pi(. | what h has read), h (..., C) -> (..., V): the one place where hidden states become
    the distribution that is sampled and scored. "rho" is rho at this temperature (paper 2.1)."""
    return F.log_softmax(model.logits(h, temperature).float(), dim=-1)


def draw(log_pi):
    """One token of each row, log_pi (B, V) -> (B, 1): the cumulative distribution inverted at a
    uniform number, in a twentieth of the time of torch.multinomial on a CPU."""
    upto = log_pi.exp().cumsum(dim=-1)                                             # (B, V)
    u = torch.rand(len(upto), 1, device=upto.device) * upto[:, -1:]
    return torch.searchsorted(upto, u, right=True).clamp(max=upto.size(1) - 1)


def on_response(a, Q):
    """Column t predicts token t + 1, so the T response tokens are predicted by the columns
    Q - 1 .. Q + T - 2. a (B, Q + T, ...) -> (B, T, ...). The off-by-one lives only here."""
    return a[:, Q - 1:-1]


def score_tokens(model, x, y, temperature):
    """log pi(y_t | x, y_<t) and the states h that said so. x (B, Q), y (B, T) -> (B, T), (B, T, C).

    Only the response's positions pay for the product with the vocabulary."""
    h = on_response(model.hidden(torch.cat([x, y], dim=1)), x.size(1))             # (B, T, C)
    return log_distribution(model, h, temperature).gather(-1, y[..., None])[..., 0], h


# --- sampling -------------------------------------------------------------------------------------

class Cache:
    """The keys and values of all tokens read so far, in room set aside at the start."""

    def __init__(self, model, B, room):
        s, p = model.shape, model.wte.weight
        self.kv = p.new_empty(s["layers"], 2, B, s["heads"], room, s["width"] // s["heads"])
        self.length = 0

    def at(self, layer):
        """The function with which a layer stores k, v (B, H, T, D) and gets all (B, H, S, D)."""
        def past(k, v):
            S = self.length + k.size(2)
            self.kv[layer, 0, :, :, self.length:S] = k
            self.kv[layer, 1, :, :, self.length:S] = v
            return self.kv[layer, :, :, :, :S]
        return past


@torch.no_grad()
def sample(model, x, T, temperature=1.0):
    """T tokens after each query: x (B, Q) -> y (B, T), logp (B, T), h (B, T, C).

    logp is log pi(y_t | x, y_<t) and h the state that predicted y_t: what PPO needs of the sampler,
    so that no second forward pass is spent on it. Pure categorical sampling, no stop token; all
    chance comes from torch.manual_seed."""
    B, Q = x.shape
    y, logp = x.new_empty(B, T), torch.empty(B, T, device=x.device)
    h = torch.empty(B, T, model.shape["width"], device=x.device)
    cache, new = Cache(model, B, Q + T - 1), x
    for t in range(T):
        h[:, t] = model.hidden(new, cache)[:, -1]
        log_pi = log_distribution(model, h[:, t], temperature)                     # (B, V)
        new = draw(log_pi)                                                         # (B, 1)
        y[:, t], logp[:, t] = new[:, 0], log_pi.gather(1, new)[:, 0]
    return y, logp, h


@torch.no_grad()
def sample_uncached(model, x, T, temperature=1.0):
    """The slow twin of `sample`: reads all again for each token. Kept to compare with."""
    Q = x.size(1)
    for _ in range(T):
        log_pi = log_distribution(model, model.hidden(x)[:, -1], temperature)      # (B, V)
        x = torch.cat([x, draw(log_pi)], dim=1)
    return x[:, Q:], *score_tokens(model, x[:, :Q], x[:, Q:], temperature)


# --- tokens: byte-pair encoding -------------------------------------------------------------------

# GPT-2's pattern: a word with the space before it is one piece, and no token crosses pieces.
PIECES = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def merge(parts, pair):
    """Every occurrence of the pair made one: merge([a, b, c, a, b], (a, b)) = [ab, c, ab]."""
    merged = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def learn_bpe(text, vocabulary):
    """The tokens that byte-pair encoding learns from text: a list of at most `vocabulary` bytes.

    Starting from the 256 bytes, the commonest pair of neighbours becomes a token, again and again.
    Distinct pieces are counted once, and only those that hold the pair are touched."""
    pieces = Counter(regex.findall(PIECES, text))
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
            merged = merge(parts, pair)
            for p in zip(parts, parts[1:]):
                count[p] -= n
            for p in zip(merged, merged[1:]):
                count[p] += n
                where[p].add(i)
            words[i] = merged, n
        del count[pair]
    return list(tokens)


class Tokens:
    """Learned tokens, in their order, and tiktoken to run them. A text is encoded with the space
    that would stand before it, so that query and response meet as they would within a passage."""

    def __init__(self, tokens):
        self.tokens = tokens
        self.bpe = tiktoken.Encoding("learned", pat_str=PIECES, special_tokens={},
                                     mergeable_ranks={t: rank for rank, t in enumerate(tokens)})
        self.period = self.bpe.encode_ordinary(".")[0]

    def encode(self, text):
        return self.bpe.encode_ordinary(" " + text.strip())

    def decode(self, ids):
        return self.bpe.decode([int(i) for i in ids]).strip()


# --- training -------------------------------------------------------------------------------------

def next_token_loss(model, tokens, target):
    """Mean cross-entropy in nats. tokens (B, T), target (B, T), where -100 asks for nothing."""
    logits = model(tokens).flatten(0, 1).float()
    return F.cross_entropy(logits, target.flatten(), ignore_index=-100)


def sentence_starts(ids, period):
    """Where sentences start and, but for the 0, end: behind every period."""
    return [0] + [i + 1 for i, token in enumerate(ids) if token == period]


def windows(passages, period, T):
    """All runs of T + 1 tokens that begin where a sentence does, as every query will, and stay
    within their passage. passages: lists of ids -> (N, T + 1)."""
    return torch.tensor([ids[s:s + T + 1] for ids in passages for s in sentence_starts(ids, period)
                         if s + T < len(ids)])


def batches_of(windows, B):
    """Endless batches of random windows: tokens (B, T), target (B, T)."""
    while True:
        window = windows[torch.randint(len(windows), (B,))]                        # (B, T + 1)
        yield window[:, :-1], window[:, 1:]


def autocast(device):
    """bfloat16 on CUDA, where no ratio of probabilities is at stake; float32 elsewhere."""
    return torch.autocast("cuda", torch.bfloat16, enabled=torch.device(device).type == "cuda")


def fit(name, model, batches, steps, lr, warmup=0.05, weight_decay=0.01):
    """Train on `steps` batches of (tokens, target); yields the loss of each. AdamW, clipped at 1.

    The rate rises over the first `warmup` of the steps and falls to 0 along a cosine."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]     # biases and gains do not decay
    device = matrices[0].device
    optimiser = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)
    for step, (tokens, target) in zip(range(steps), batches):
        rise = min(1.0, (step + 1) / max(1, warmup * steps))
        for group in optimiser.param_groups:
            group["lr"] = lr * rise * 0.5 * (1 + math.cos(math.pi * step / steps))
        with autocast(device):
            loss = next_token_loss(model, tokens.to(device), target.to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if not math.isfinite(loss.item()):
            raise Complaint(f"{name}: the loss is {loss.item()} at step {step + 1} of {steps}; "
                            "a smaller learning rate is needed")
        yield loss.item()


def watch(name, steps, total, line):
    """Pass the steps of a generator on, with a line of progress and the time left."""
    start, shown, terminal = time.time(), time.time(), sys.stdout.isatty()
    for n, step in enumerate(steps, 1):
        now = time.time()
        if n == total or now - shown > (0.5 if terminal else 10):
            left = f"{(now - start) / n * (total - n):.0f} s left"
            text = f"{name}: {n}/{total} | {line(step)} | {left}"
            print("\r" * terminal + text.ljust(99 * terminal), end="\n"[terminal:], flush=True)
            shown = now
        yield step
    if terminal:
        print()


# --- files and devices ----------------------------------------------------------------------------

def write_whole(path, write):
    """write(temporary name), then rename: a file at `path` is never half a file."""
    try:
        write(f"{path}.part")
    except RuntimeError as e:                                # what torch.save says of a full disk
        raise Complaint(f"{path} cannot be written: {e}") from None
    os.replace(f"{path}.part", path)


def devices():
    """What is present here, the best first: CUDA, Apple's MPS, the CPU."""
    return [name for name in ("cuda", "mps") if getattr(torch, name).is_available()] + ["cpu"]
