"""
reward.py: r(x, y), learned from which of four responses a labeler liked best.

Paper: Ziegler et al. 2019, section 2, eq. 1, and 2.2.
In:  rho, comparisons (a query, four samples, the best)
Out: r, of mean 0 and variance 1 on samples of rho
Not here: where the labels come from (stories.py), what the reward is used for (ppo.py).

Letters: N comparisons, S tokens of query and response together, C channels; b the best of 0 .. 3.

Deleted here: a trunk shared with the policy, which overfits (paper 4.2); pairs, which carry less
than a choice among four.
"""

import copy
import json
import math
from typing import NamedTuple

import torch
import torch.nn as nn

from gpt import Complaint, autocast, fit


# --- comparisons and their file -------------------------------------------------------------------

class Comparison(NamedTuple):
    query: str
    samples: list        # of four strings
    best: int            # 0 .. 3


def to_line(c):
    """A comparison as one line of JSON, plain text that can be read and written by hand."""
    return json.dumps({"query": c.query, **{f"sample{k}": s for k, s in enumerate(c.samples)},
                       "best": c.best}, ensure_ascii=False) + "\n"


def read_comparisons(path):
    """The comparisons of a JSON Lines file. Raises Complaint with the line of the first bad one."""
    comparisons = []
    try:
        lines = open(path, encoding="utf-8-sig", newline="\n").readlines()
    except (OSError, UnicodeDecodeError) as e:
        raise Complaint(f"{path}: the labels cannot be read ({e})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            item = json.loads(line)
            texts = [item["query"]] + [item[f"sample{k}"] for k in range(4)]
            best = item["best"]
        except (ValueError, TypeError, KeyError, RecursionError) as e:
            raise Complaint(f"{where}: not a comparison ({type(e).__name__}: {e}); a line is "
                            '{"query": ..., "sample0": ..., to "sample3": ..., "best": 0 to 3}'
                            ) from None
        if not all(isinstance(t, str) and t.strip() for t in texts):
            raise Complaint(f"{where}: the query and the four samples must be texts, none empty")
        if type(best) is not int or not 0 <= best <= 3:
            raise Complaint(f"{where}: best is {best!r}, but must be 0, 1, 2 or 3")
        comparisons.append(Comparison(texts[0], texts[1:], best))
    if not comparisons:
        raise Complaint(f"{path}: no comparisons in this file")
    return comparisons


def split_labels(path):
    """The comparisons to train on, and the last sixth, which is held out with its queries."""
    comparisons = read_comparisons(path)
    n = len(comparisons) - len(comparisons) // 6
    asked = {c.query for c in comparisons[n:]}
    train = [c for c in comparisons[:n] if c.query not in asked]
    if not asked or not train:
        raise Complaint(f"{path}: {len(comparisons)} comparisons are too few; a sixth of them is "
                        "held out, and what is left must ask about other queries")
    return train, comparisons[n:]


def to_tokens(comparisons, encode, context):
    """Comparisons as tokens (N, 4, S), padded on the right, and the length of each (N, 4).

    encode(text) -> a list of ids. What is longer than the model's context loses its beginning."""
    rows = [[(encode(c.query) + encode(s))[-context:] for s in c.samples] for c in comparisons]
    length = torch.tensor([[len(ids) for ids in four] for four in rows])           # (N, 4)
    tokens = torch.zeros(*length.shape, int(length.max()), dtype=torch.long)       # (N, 4, S)
    for n, four in enumerate(rows):
        for k, ids in enumerate(four):
            tokens[n, k, :len(ids)] = torch.tensor(ids)
    return tokens, length


# --- the model ------------------------------------------------------------------------------------

class RewardModel(nn.Module):
    """r(x, y): rho's trunk with a linear head, read at the last real token, and a gain and a bias
    that normalise it. The gain learns with the rest, as in the released code; both are set anew
    by `normalise`."""

    def __init__(self, rho):
        super().__init__()
        self.trunk = copy.deepcopy(rho)
        width = rho.shape["width"]
        self.head = nn.Linear(width, 1)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(width + 1))    # released code
        nn.init.zeros_(self.head.bias)
        self.gain = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))

    def raw(self, tokens, length):
        """The head's output before gain and bias. tokens (B, S), length (B,) -> (B,).

        What stands beyond `length` changes nothing, because attention only looks back."""
        h = self.trunk.hidden(tokens)                                              # (B, S, C)
        last = h[torch.arange(len(h), device=h.device), length - 1]                # (B, C)
        return self.head(last)[:, 0]

    def forward(self, tokens, length):
        return self.gain * self.raw(tokens, length) + self.bias


def best_of_four_loss(r, b):
    """Eq. 1, negated so that it falls: - log( exp r(x, y_b) / sum_i exp r(x, y_i) ), in nats.

    r (N, 4), b (N,) -> scalar. Only differences count; four equal scores cost log 4 = 1.386."""
    chosen = r.gather(1, b[:, None])[:, 0]                                         # (N,)
    return (r.logsumexp(dim=1) - chosen).mean()


@torch.no_grad()
def score_in_batches(r, tokens, length, size=512):
    """r(tokens (B, S), length (B,)) -> (B,), a few hundred sequences at a time."""
    return torch.cat([r(t, n) for t, n in zip(tokens.split(size), length.split(size))])


@torch.no_grad()
def normalise(r, tokens, length):
    """Set gain and bias so that r has mean 0 and variance 1 on these samples of rho (section 2).

    Asked again with the same samples it changes nothing: the head's own output is what counts."""
    raw = score_in_batches(r.raw, tokens, length)
    r.gain.copy_(1 / raw.std(unbiased=False))
    r.bias.copy_(-raw.mean() * r.gain)


def train_reward(r, tokens, length, best, *, lr, batch_size):
    """One epoch over the comparisons, the rate falling linearly to 0; yields each batch's loss.

    tokens (N, 4, S), length (N, 4), best (N,). One epoch only: a second one would overfit."""
    optimiser = torch.optim.Adam(r.parameters(), lr=lr, eps=1e-5, fused=True)
    batches = torch.randperm(len(best)).split(batch_size)
    device = r.head.weight.device
    for step, rows in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 - step / len(batches))
        n = length[rows]                                                           # (B, 4)
        t = tokens[rows][:, :, :n.max()]                                           # (B, 4, S)
        with autocast(device):
            scores = r(t.flatten(0, 1).to(device), n.flatten().to(device)).view(-1, 4)
            loss = best_of_four_loss(scores.float(), best[rows].to(device))
        if not math.isfinite(loss.item()):
            raise Complaint(f"reward model: the loss is {loss.item()} at step {step + 1} of "
                            f"{len(batches)}; a smaller --reward_lr is needed")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        yield loss.item()


def judge(r, tokens, length, p):
    """Accuracy and loss of r on comparisons whose options are chosen with probability p (N, 4).

    Where only the choice made is known, p is 1 for it. accuracy: how often r's favourite is the
    choice. loss: eq. 1, in nats."""
    scores = score_in_batches(r, tokens.flatten(0, 1), length.flatten()).view(-1, 4)
    log_p = scores.log_softmax(dim=1)
    favourite = scores.argmax(dim=1, keepdim=True)
    return {"accuracy": p.gather(1, favourite).mean().item(),
            "loss": -(p * log_p).sum(1).mean().item()}


# --- the supervised baseline ----------------------------------------------------------------------

def supervised(rho, comparisons, encode, lr, batch_size=32):
    """rho tuned, as a language model, for one epoch on the responses that labelers liked best.

    The paper has one for summaries only; here it shows what the labels give without RL."""
    model = copy.deepcopy(rho)
    winners = [Comparison(c.query, [c.samples[c.best]], 0) for c in comparisons]
    tokens, length = to_tokens(winners, encode, rho.shape["context"])
    tokens, length = tokens[:, 0], length[:, 0]                                    # (N, S), (N,)
    response = torch.tensor([len(encode(c.samples[0])) for c in winners])          # (N,)
    at = torch.arange(1, tokens.size(1))
    answer = (at >= (length - response)[:, None]) & (at < length[:, None])         # not the query
    target = torch.where(answer, tokens[:, 1:], -100)                              # (N, S - 1)
    batches = torch.randperm(len(tokens)).split(batch_size)
    for _ in fit("supervised baseline", model, ((tokens[i, :-1], target[i]) for i in batches),
                 len(batches), lr):
        pass
    return model
