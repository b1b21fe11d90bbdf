"""
reward.py: r(x, y), learned from which of four responses a labeler liked best.

Paper: Ziegler et al. 2019, section 2 (eq. 1, normalization), 2.2, 2.4.
In:  rho, and comparisons: a query, four samples, the best one
Out: r, with mean 0 and variance 1 on samples of rho
Not here: simulated labelers (stories.py), people (extras/label.py), what r is for
(ppo.py)

Letters: N comparisons, of K samples each (four here, two in given pairs), B sequences, S
tokens of query and response together, C channels; b is the best of 0 .. K - 1.

Omitted: weight decay and gradient clipping, which the released code does not have either.
"""

import copy
import json
import math
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from gpt import check_finite, generate, generate_finished, set_learning_rate
from text import UserError, decode_responses, sample_queries


# --- comparisons and their file ---------------------------------------------------------

class Comparison(NamedTuple):
    query: str
    samples: list          # of four strings; of given pairs, two
    best: int              # 0 .. K - 1


def write_comparisons(path, comparisons):
    """One line of JSON for each, plain text that can be read and written by hand."""
    lines = [comparison_line(c) for c in comparisons]
    Path(path).write_text("".join(lines), "utf-8")


def comparison_line(c):
    samples = {f"sample{k}": sample for k, sample in enumerate(c.samples)}
    fields = {"query": c.query, **samples, "best": c.best}
    return json.dumps(fields, ensure_ascii=False) + "\n"


def parse_comparison(line):
    """The Comparison of one line; ValueError says what is wrong with it."""
    try:
        fields = json.loads(line)
        if "sample4" in fields:
            raise ValueError
        n = 4 if "sample2" in fields or "sample3" in fields else 2
        samples = [fields[f"sample{k}"] for k in range(n)]
        c = Comparison(fields["query"], samples, fields["best"])
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        what = f"{e} is missing" if isinstance(e, KeyError) else "not a comparison"
        raise ValueError(f'{what}; one is {{"query": ..., "sample0": ..., to "sample3": '
                         '..., "best": 0 to 3}, or of two samples; extras/convert.py '
                         'makes them of other layouts') from None
    for text in [c.query, *c.samples]:
        if not isinstance(text, str):
            raise ValueError("the query and the samples must be texts")
        text.encode()                # a ValueError where half a character stands alone
    if not c.query.strip():
        raise ValueError("the query is empty")   # a sample may be: rho may say nothing
    if type(c.best) is not int or not 0 <= c.best < n:
        raise ValueError(f"best is {c.best!r}, but must be one of 0 to {n - 1}")
    return c


def read_comparisons(path):
    """The comparisons of a labels.jsonl; a bad line is a UserError that names it."""
    try:
        lines = Path(path).read_text("utf-8-sig").split("\n")
    except ValueError as e:
        raise UserError(f"{path}: not UTF-8 text ({e})") from None
    comparisons = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            comparisons.append(parse_comparison(line))
        except ValueError as e:
            raise UserError(f"{path}, line {number}: {e}") from None
    check_comparisons(path, comparisons)
    return comparisons


def check_comparisons(path, comparisons):
    if not comparisons:
        raise UserError(f"{path}: no comparisons in this file")
    if len({len(c.samples) for c in comparisons}) > 1:
        raise UserError(f"{path}: some comparisons have two samples and some four")


def split_comparisons(path):
    """A file's comparisons to train on, and the last sixth, held out with its queries."""
    comparisons = read_comparisons(path)
    n_train = len(comparisons) - len(comparisons) // 6
    held_out = comparisons[n_train:]
    held_out_queries = {c.query for c in held_out}
    train = [c for c in comparisons[:n_train] if c.query not in held_out_queries]
    if not train or not held_out:
        raise UserError(f"{path}: {len(comparisons)} comparisons are too few; a sixth of "
                        "them is held out, and the rest must ask about other queries")
    return train, held_out


# --- what labelers are shown ------------------------------------------------------------

def generate_texts(model, query, n, sampling, tokenizer):
    """n finished responses to each query, as text: query (B, Q) -> B lists of n."""
    query = query.to(model.device)
    response, length, finished = generate_finished(model, query, sampling, n)
    if not finished.all():
        warnings.warn("some responses never ended at a period; they are shown whole")
    texts = decode_responses(response, length, tokenizer)
    return [texts[i:i + n] for i in range(0, len(texts), n)]


def shuffled_queries(queries, n):
    """n queries in random order, a list of tensors (Q,). Where there are fewer than n,
    some are asked more than once, side by side, so that at most one query stands on both
    sides of the cut that split_comparisons makes."""
    every = [query for group in queries.values() for query in group]
    order = torch.randperm(len(every))
    places = torch.arange(n) % len(every)                # 0, 1, ..., and again from 0
    return [every[i] for i in order[places.sort().values].tolist()]


def generate_questions(models, queries, n, sampling, tokenizer, progress):
    """n questions for labelers, (query, four samples) as texts, in random order.

    The samples are one model's, or two of each of two models in random places (2.3).
    progress wraps the batches, as tqdm would."""
    asked = shuffled_queries(queries, n)
    questions = [None] * n
    batches = []                         # of places in `asked`: one length, so no padding
    for length in queries:
        places = [i for i, query in enumerate(asked) if len(query) == length]
        batches += [places[start:start + 256] for start in range(0, len(places), 256)]
    for places in progress(batches):
        query = torch.stack([asked[i] for i in places])              # (B, Q)
        texts = [generate_texts(model, query, 4 // len(models), sampling, tokenizer)
                 for model in models]
        for row, i in enumerate(places):
            samples = [text for of_model in texts for text in of_model[row]]
            if len(models) > 1:
                samples = [samples[k] for k in torch.randperm(4).tolist()]
            questions[i] = tokenizer.decode(query[row].tolist()), samples
    return questions


# --- the model --------------------------------------------------------------------------

class RewardModel(nn.Module):
    """r(x, y): rho's trunk with a linear head, read at the last token of the response.

    A gain and a bias normalize it. The gain is trained with the rest, as in the released
    code; the bias gets no gradient, for eq. 1 knows only differences. The trunk is r's
    own, not pi's: labels are few and episodes many, so on one trunk r would have to go
    over its labels many times while pi learns, and would overfit (section 4.2)."""

    def __init__(self, rho):
        super().__init__()
        self.trunk = copy.deepcopy(rho)
        n_embd = rho.shape["n_embd"]
        self.head = nn.Linear(n_embd, 1, device=rho.device)
        # Random, not 0 as the value head: with 0 all scores would be equal, and normalize
        # would divide by a deviation of 0. released code: N(0, 1 / sqrt(d + 1)).
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(n_embd + 1))
        nn.init.zeros_(self.head.bias)
        self.gain = nn.Parameter(torch.ones((), device=rho.device))
        self.bias = nn.Parameter(torch.zeros((), device=rho.device))

    def unnormalized(self, tokens, lengths):
        """The head's output, before gain and bias. tokens (B, S), lengths (B,) -> (B,).

        Tokens beyond `lengths` change nothing, for attention only looks back."""
        h = self.trunk.hidden(tokens)                                # (B, S, C)
        rows = torch.arange(len(h), device=h.device)
        last = h[rows, lengths - 1]                                  # (B, C)
        return self.head(last)[:, 0]

    def forward(self, tokens, lengths):
        return self.gain * self.unnormalized(tokens, lengths) + self.bias


def best_of_four_loss(r, b):
    """Eq. 1, negated so that it falls: -log( exp r(x, y_b) / sum_i exp r(x, y_i) ).

    r (N, K), b (N,) -> nats. Only differences count; four equal scores cost log 4 =
    1.386. Of two, this is the loss of Bradley and Terry."""
    chosen = r.gather(1, b[:, None])[:, 0]                           # (N,)
    return (r.logsumexp(dim=1) - chosen).mean()


@torch.no_grad()
def score_in_batches(score, tokens, lengths, size=512):
    """score(tokens (B, S), lengths (B,)) -> (B,), some hundred sequences at a time."""
    parts = zip(tokens.split(size), lengths.split(size))
    return torch.cat([score(t, n) for t, n in parts])


# --- training and normalization ---------------------------------------------------------

def train_reward_model(r, tokens, lengths, best, lr, batches):
    """Train r in place, at a rate that falls linearly to 0; return each step's loss.

    tokens (N, K, S), lengths (N, K), best (N,), as `collate` makes them. batches: for
    each step, rows of these. One epoch, as in the paper: a second overfits."""
    device = r.trunk.device
    optimizer = torch.optim.Adam(r.parameters(), eps=1e-5, fused=True)
    losses = []
    for step, rows in enumerate(batches):
        set_learning_rate(optimizer, lr * (1 - step / len(batches)))
        n = lengths[rows]                                            # (B, K)
        t = tokens[rows, :, :n.max()]                                # (B, K, S)
        scores = r(t.flatten(0, 1).to(device), n.flatten().to(device)).view(n.shape)
        loss = best_of_four_loss(scores, best[rows].to(device))
        losses.append(loss.item())
        check_finite(loss.item(), "loss", f"reward model, step {step + 1}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return losses


def samples_of_rho(rho, queries, sampling, n=1024):
    """What r is normalized on: rho's responses to n queries. -> (n, S), lengths (n,).

    A response without an end is read at its last token, and gets no -1 here (as in the
    released code). So rho's mean reward is a little below 0."""
    T, temperature, truncate = sampling
    longest = max(queries)
    rows, lengths = [], []
    for query in sample_queries(queries, n).values():
        query = query.to(rho.device)
        response, _ = generate(rho, query, T, temperature)
        length, _ = truncate(response)
        padding = (0, longest - query.size(1))               # on the right, never read
        rows.append(F.pad(torch.cat([query, response], dim=1), padding))
        lengths.append(query.size(1) + length)
    return torch.cat(rows), torch.cat(lengths)


@torch.no_grad()
def normalize(r, tokens, lengths):
    """Section 2: set gain and bias so that r has mean 0 and variance 1 on samples of rho.

    Calling it twice on the same samples is a no-op: it measures the head's own output."""
    scores = score_in_batches(r.unnormalized, tokens, lengths)
    r.gain.copy_(1 / scores.std(unbiased=False))
    r.bias.copy_(-scores.mean() * r.gain)


@torch.no_grad()
def evaluate_reward_model(r, tokens, lengths, p):
    """Accuracy and loss of r on comparisons, as `collate` makes them, that it never saw.

    p (N, K): the probability that each option is chosen; where only the choice is known,
    1 for it. accuracy: how often r's favorite is chosen. loss: eq. 1, in nats."""
    device = r.trunk.device
    tokens, lengths, p = tokens.to(device), lengths.to(device), p.to(device)
    scores = score_in_batches(r, tokens.flatten(0, 1), lengths.flatten()).view(p.shape)
    favorite = scores.argmax(dim=1, keepdim=True)
    return {"accuracy": p.gather(1, favorite).mean().item(),
            "loss": -(p * scores.log_softmax(dim=1)).sum(dim=1).mean().item()}


# --- what PPO is given ------------------------------------------------------------------

def score_or_penalty(score, finished, penalty=-1.0):
    """Paper 3.1: a response that finds no end gets -1 in place of its score, which is one
    standard deviation below rho's mean. score (B,), finished (B,) -> (B,)."""
    return torch.where(finished, score, penalty)


def learned_reward(r, sampling):
    """The plain function reward(query, response) -> (B,) that PPO maximizes.

    It is given all T tokens of a response, and reads r where the response ends."""
    def reward(query, response):
        length, finished = sampling.truncate(response)
        tokens = torch.cat([query, response], dim=1)                 # (B, Q + T)
        return score_or_penalty(r(tokens, query.size(1) + length), finished)
    return reward
