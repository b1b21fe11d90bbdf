"""
reward.py: r(x, y), learned from which of four responses a labeler liked best.

Paper: Ziegler et al. 2019, section 2, eq. 1, 2.2 and 2.3; 3.1.1 (the mock reward); 4.2 (one trunk).
In:  rho, comparisons (a query, four samples, the best)
Out: r, of mean 0 and variance 1 on samples of rho
Not here: the simulated labelers (stories.py), what the reward is used for (ppo.py).

Letters: N comparisons, S tokens of query and response together, C channels; b the best of 0 .. 3.

Deleted here: pairs, which carry less than a choice among four.
"""

import copy
import json
import math
import os
import shutil
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from files import (LABELS, Comparison, UserError, download, open_answers, read_comparisons,
                   reading, to_line, write_text)
from gpt import autocast, fit, sample, watch
from text import gpt2, pick, collate

try:
    import termios
    import tty
except ImportError:          # Windows: answers end with Enter
    termios = None


# --- comparisons ----------------------------------------------------------------------------------

def read_labels(path):
    """The comparisons of a file, ours or OpenAI's."""
    return read_comparisons(path, lambda ids: gpt2().decode(ids))


def labels_file(name_or_path):
    """The file of labels that sentiment or descriptiveness (OpenAI's, downloaded once) or a path
    stands for."""
    if name_or_path in ("sentiment", "descriptiveness") and not os.path.exists(name_or_path):
        return download(LABELS.format(name_or_path), read_labels)
    return name_or_path


def split_labels(path):
    """The comparisons to train on, and the last sixth, which is held out with its queries."""
    comparisons = read_labels(path)
    n = len(comparisons) - len(comparisons) // 6
    asked = {c.query for c in comparisons[n:]}
    train = [c for c in comparisons[:n] if c.query not in asked]
    if not asked or not train:
        raise UserError(f"{path}: {len(comparisons)} comparisons are too few; a sixth of them is "
                        "held out, and what is left must ask about other queries")
    return train, comparisons[n:]


# --- the model ------------------------------------------------------------------------------------

class RewardModel(nn.Module):
    """r(x, y): rho's trunk with a linear head, read at the last real token, and a gain and a bias
    that normalise it. The gain learns with the rest, as in the released code; both are set anew
    by `normalise`."""

    def __init__(self, rho):
        super().__init__()
        self.trunk = copy.deepcopy(rho)
        width, device = rho.shape["width"], rho.wte.weight.device
        self.head = nn.Linear(width, 1, device=device)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(width + 1))    # released code
        nn.init.zeros_(self.head.bias)
        self.gain = nn.Parameter(torch.ones((), device=device))
        self.bias = nn.Parameter(torch.zeros((), device=device))

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


def samples_of(rho, queries, T, temperature, cut, n=1024):
    """What r is normalised on: rho's responses to n queries, tokens (B, S), length (B,)."""
    longest, rows, lengths = max(queries), [], []
    for x in pick(queries, n).values():
        x = x.to(rho.wte.weight.device)
        y, _, _ = sample(rho, x, T, temperature)
        lengths.append(x.size(1) + cut(y)[0])
        rows.append(F.pad(torch.cat([x, y], dim=1), (0, longest - x.size(1))))
    return torch.cat(rows), torch.cat(lengths)


@torch.no_grad()
def normalize(r, tokens, length):
    """Set gain and bias so that r has mean 0 and variance 1 on these samples of rho (section 2).

    Asked again with the same samples it changes nothing: the head's own output is what counts."""
    raw = score_in_batches(r.raw, tokens, length)
    r.gain.copy_(1 / raw.std(unbiased=False))
    r.bias.copy_(-raw.mean() * r.gain)


def train_reward(r, tokens, length, best, *, lr, batch_size, epochs=1):
    """Epochs over the comparisons, the rate falling linearly to 0; yields each batch's loss.

    tokens (N, 4, S), length (N, 4), best (N,). A second epoch would overfit: see section 4.2. With
    one option instead of four it meets the score 0, and eq. 1 is a classifier's logistic loss."""
    optimizer = torch.optim.Adam(r.parameters(), lr=lr, eps=1e-5, fused=True)
    batches = [b for _ in range(epochs) for b in torch.randperm(len(best)).split(batch_size)]
    four = length.size(1)
    device = r.head.weight.device
    for step, rows in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / len(batches))
        n = length[rows]                                                           # (B, 4)
        t = tokens[rows][:, :, :n.max()]                                           # (B, 4, S)
        with autocast(device):
            scores = r(t.flatten(0, 1).to(device), n.flatten().to(device)).view(-1, four)
            scores = F.pad(scores, (int(four == 1), 0))
            loss = best_of_four_loss(scores.float(), best[rows].to(device))
        if not math.isfinite(loss.item()):
            raise UserError(f"reward model: the loss is {loss.item()} at step {step + 1} of "
                            f"{len(batches)}; a smaller --reward_lr is needed")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield loss.item()


def fit_reward(rho, comparisons, encode, queries, how, *, lr, batch_size):
    """A new r, of mean 0 and variance 1 on samples of rho after its one epoch (section 2), and
    before it, so that training starts at that scale (released code)."""
    r, level = RewardModel(rho), samples_of(rho, queries, *how)
    normalize(r, *level)
    data = collate(comparisons, encode, rho.shape["context"])
    steps = train_reward(r, *data, lr=lr, batch_size=batch_size)
    for _ in watch("reward_model", steps, -(-len(comparisons) // batch_size), "loss {:.3f}".format):
        pass
    normalize(r, *level)
    return r


def on_one_trunk(r, pi, rho, lessons, exam, encode, queries, how, *, lr, batch_size, steps,
                 updates):
    """Section 4.2: r reads pi's trunk and learns on it while pi does. Yields before the first and
    after each update of pi: r's mean loss in its own `steps` steps on the comparisons `lessons`,
    and now and then how it does on `exam`. It is normalised each time: pi's reward keeps its unit.
    """
    r.trunk, level = pi.trunk, samples_of(rho, queries, *how)
    data, (*held_out, best) = (collate(c, encode, rho.shape["context"]) for c in (lessons, exam))
    losses = train_reward(r, *data, lr=lr, batch_size=batch_size,
                          epochs=1 + updates * steps * batch_size // len(lessons))
    for n in range(updates + 1):
        told = {"reward_loss": sum(next(losses) for _ in range(steps)) / steps} if n else {}
        normalize(r, *level)
        if n % 8 == 0:
            seen = evaluate_reward_model(r, *held_out, F.one_hot(best, 4).float())
            told.update(held_out_loss=seen["loss"], held_out_accuracy=seen["accuracy"])
        yield told


def evaluate_reward_model(r, tokens, length, p):
    """Accuracy and loss of r on comparisons whose options are chosen with probability p (N, 4).

    Where only the choice made is known, p is 1 for it. accuracy: how often r's favourite is the
    choice. loss: eq. 1, in nats."""
    device = r.head.weight.device
    p, tokens, length = p.to(device), tokens.flatten(0, 1).to(device), length.flatten().to(device)
    scores = score_in_batches(r, tokens, length).view(-1, 4)
    log_p = scores.log_softmax(dim=1)
    favourite = scores.argmax(dim=1, keepdim=True)
    return {"accuracy": p.gather(1, favourite).mean().item(),
            "loss": -(p * log_p).sum(1).mean().item()}


# --- more labels: online, and a person's ----------------------------------------------------------

def labels_wanted(share, first, last):
    """Section 2.3: l(n) = N0 + (N - N0) (1 - (1 - n / N_pi)^2), how many labels there should be
    when the share n / N_pi of the episodes is over: `first` at the start, `last` at the end."""
    return round(first + (last - first) * (1 - (1 - share) ** 2))


def online(r, comparisons, ask, fit, last, times, updates):
    """Section 2.3: r, trained once already, is trained anew, in place, times - 1 times, at equal
    steps of l(n): ask(n) -> n comparisons, fit(all comparisons) -> r. Yields before the first and
    after each update of pi. With times 0 nothing is asked."""
    first = last // 4                                        # here; the paper does not state N0
    for n in range(updates + 1):
        wanted = labels_wanted(n / updates, first, last)
        now, then = ((k - first) * times // (last - first) for k in (len(comparisons), wanted))
        if now < then < times:
            comparisons = comparisons + ask(wanted - len(comparisons))
            r.load_state_dict(fit(comparisons).state_dict())
        yield {"labels": len(comparisons)}


def questions_of(path, n, seed, make):
    """The first n questions of a file, (query, four samples): the same tomorrow, and for somebody
    else. Where it has fewer, make(how many, rng) adds to it."""
    with reading(path):
        asked = json.loads(Path(path).read_text("utf-8")) if os.path.exists(path) else []
        if any([type(t) for t in (query, *four)] != [str] * 5 for query, four in asked):
            raise ValueError("not texts, four for each query")
    if len(asked) < n:
        torch.manual_seed(seed + len(asked))
        asked += make(n - len(asked), np.random.default_rng([seed, 4, len(asked)]))
        write_text(path, json.dumps(asked, ensure_ascii=False, indent=1))
    return asked[:n]


def key():
    """The next key, without Enter at a terminal; "" where there is no more."""
    if termios is None or not sys.stdin.isatty():
        return sys.stdin.read(1)
    was = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin, termios.TCSADRAIN)          # what was typed ahead is kept
        pressed = sys.stdin.read(1)
        return "" if pressed in "\x04\0" else pressed        # Ctrl-D; a 0 if before setcbreak
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, was)


def shown(question, title):
    """A question as a person reads it: the query and four numbered samples, wrapped, without what
    a terminal would take for a command."""
    width, lines = max(20, min(100, shutil.get_terminal_size().columns)), [f"\n{title}\n"]
    for k, text in enumerate([question[0], *question[1]]):
        text = "".join(c if c.isprintable() else " " for c in text)
        lines.append(textwrap.fill(text, width, initial_indent=f" {k}  " if k else "    ",
                                   subsequent_indent="    ") + "\n" * (k in (0, 4)))
    return "\n".join(lines)


def label(questions, path):
    """Ask a person for the best of each question's samples. Every answer is in the file at once:
    who is cut off loses none, and what is answered there is not asked again."""
    with open_answers(path) as file:
        known = [(c.query, *c.samples) for c in read_labels(path)] if os.path.getsize(path) else []
        left = [q for q in questions if (q[0], *q[1]) not in known]
        done, n, past, start = len(questions) - len(left), 0, [], time.time()
        while n < len(left):
            rest = (time.time() - start) / n * (len(left) - n) / 60 if n else None
            print(shown(left[n], f"question {done + n + 1} of {len(questions)}" + (
                "" if rest is None else f", some {rest:.0f} minutes left")))
            print("the best: 1 to 4 | s: skip | u: undo | q: quit > ", end="", flush=True)
            valid = ["", *"1234sq", *"u" * (past != [])]
            while (pressed := key().lower()) not in valid:
                pass
            print(pressed)
            if not pressed:
                raise UserError(f"the input has ended; what was answered is in {path}")
            if pressed == "q":
                break
            if pressed == "u":
                n, size = past.pop()
                file.truncate(size)
                continue
            past.append((n, file.seek(0, os.SEEK_END)))
            if pressed != "s":
                query, samples = left[n]
                file.write(to_line(Comparison(query, samples, int(pressed) - 1)).encode())
                file.flush()
                os.fsync(file.fileno())
            n += 1
    print(f"\n{len(read_labels(path)) if os.path.getsize(path) else 0} answers in {path}")


# --- the mock reward of section 3.1.1: a classifier of reviews ------------------------------------

GOODS = "kettle lamp quilt teapot suitcase blanket mirror carpet violin jacket".split()
REVIEWS = """{w} {goods}, {w} value|bought this {w} {goods} for my sister|{w} quality, {w} colour|
    the {goods} looks {w}|arrived today, {w} and {w}|{w} service, {w} box|works {w}|{w} overall"""
WORDS = ("excellent great perfect sturdy lovely wonderful useful beautiful good charming".split(),
         "useless cheap awful terrible broken defective poor disappointing dirty ugly".split())


def reviews(n, rng):
    """n short reviews in two lines, and best = 1 for 4 or 5 stars of 5, 0 for 1 or 2.

    Another domain than the stories: fragments about goods, each word of praise or blame as likely
    as the stars say. 12 of the 20 the stories have too; joy, grief and deeds are not among them."""
    def line(stars):
        """One review of so many stars, its words of praise or blame drawn as they say."""
        text = " ".join(rng.choice(REVIEWS.split("|")).split())
        text = text.replace("{goods}", rng.choice(GOODS))
        while "{w}" in text:
            words = WORDS[rng.random() > (stars - 0.5) / 5]
            text = text.replace("{w}", rng.choice(words), 1)
        return text.capitalize() + "."
    stars = [rng.choice((1, 2, 4, 5)) for _ in range(n)]
    return [Comparison(line(s), [line(s)], int(s > 3)) for s in stars]


# --- the supervised baseline ----------------------------------------------------------------------

def supervised(rho, comparisons, encode, lr, batch_size=32):
    """rho tuned, as a language model, for one epoch on the responses that labelers liked best.

    The paper has one for summaries only; here it shows what the labels give without RL."""
    model = copy.deepcopy(rho)
    winners = [Comparison(c.query, [c.samples[c.best]], 0) for c in comparisons]
    tokens, length, _ = collate(winners, encode, rho.shape["context"])
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
