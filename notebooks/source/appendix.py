# The source of the appendix: see build.py.

# %% [markdown]
r"""
# Appendix: tokens, multiplications, and the entropy of a small world

Three things that the course takes for granted: where tokens come from, what a token costs, and how low the loss of *any* language model of these stories could be. Nothing is to be filled in.
"""

# %% setup
import math
import random

import torch
import torch.nn.functional as F

import course
import evaluate
import gpt
import stories
import text
from course import plt

course.style()
run = course.small_run()               # two to four minutes the first time
cfg, rho, tokenizer = run.cfg, run.rho, run.tokenizer
rng = random.Random(cfg.seed)          # the same seed writes the same stories again
passages = [stories.passage(rng) for _ in range(cfg.passages)]
parts = text.split_passages(passages, cfg.share)
story = parts["evaluation"][0]
print(story)

# %% [markdown]
r"""
## Byte-pair encoding

BPE starts with the 256 bytes and, again and again, makes one token of the most common pair of neighbors, within a word and the space before it. `text.merge_pair` is one such step on one word. Later merges never undo earlier ones, so the first $n$ tokens are those that would
have been learned with room for $n$. (`_` is a space.)
"""

# %%
print(text.merge_pair(["a", "b", "c", "a", "b"], ("a", "b")))
show = lambda token: token.decode("utf-8", "replace").replace(" ", "_")
print("the first 16 merges:", *map(show, tokenizer.tokens[256:272]))
print("the last 8:         ", *map(show, tokenizer.tokens[-8:]))
sentence = story.split(". ")[1] + "."
for n in (256, 300, 400, 700, 1536):
    t = text.Tokenizer(tokenizer.tokens[:n])
    ids = t.encode(sentence)
    print(f"{n:5} known, {len(ids):2} used:  " + "|".join(show(t.tokens[i]) for i in ids))

# %% [markdown]
r"""
A larger vocabulary gives shorter sequences, but a larger last matrix, and rarer tokens to learn each from.
"""

# %%
words = sum(len(passage.split()) for passage in parts["evaluation"])
periods = sum(passage.count(".") for passage in parts["evaluation"]) / words
sizes = [256, 280, 320, 400, 500, 700, 1000, 1300, 1536]
cost = []
for n in sizes:
    t = text.Tokenizer(tokenizer.tokens[:n])
    cost.append(sum(len(t.encode(passage)) for passage in parts["evaluation"]) / words)
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.plot(sizes, cost, "o-", color=course.PI)
course.limit(ax, 1 + periods, "one a word, one a period", x=0.345)
ax.set(xlabel="vocabulary (tokens)", ylabel="tokens per word", ylim=(0, 6))
plt.show()
print(f"tokens per word: {cost[0]:.2f} with bytes alone, {cost[-1]:.2f} with {sizes[-1]}")

# %% [markdown]
r"""
## What a token costs

A token that is read costs $12\,C^2$ multiply-adds in each layer (`c_attn` $3C^2$, `c_proj` $C^2$, the MLP $8C^2$) and $2\,C$ for each position it attends to; one that is predicted costs $VC$ for the logits. What the cache saves is reading the same again. torch counts what really runs (two operations a
multiply-add). Of attention it counts more than we do, for `gpt.attention` multiplies the masked half of the table too.
"""

# %%
from torch.utils.flop_counter import FlopCounterMode

def multiply_adds(shape, Q, T, cached):
    """(matrices, attention, logits) of sampling T tokens after Q."""
    L, C, V = shape["n_layer"], shape["n_embd"], shape["vocab_size"]
    if cached:                         # each token is read once, the last one never
        read = Q + T - 1
        pairs = read * (read + 1) // 2
    else:
        passes = range(Q, Q + T)
        read = sum(passes)
        pairs = sum(n * (n + 1) // 2 for n in passes)
    return 12 * L * C ** 2 * read, 2 * L * C * pairs, V * C * T

@torch.no_grad()
def generate_uncached(model, query, T, temperature):
    tokens = query
    for _ in range(T):
        h = model.hidden(tokens)[:, -1]
        logprobs = gpt.next_token_logprobs(model, h, temperature)
        tokens = torch.cat([tokens, gpt.sample_next_token(logprobs)], dim=1)
    return tokens

query = run.queries["evaluation"][12][:1]
for cached, sampler in ((True, gpt.generate), (False, generate_uncached)):
    with FlopCounterMode(display=False) as counter:
        sampler(rho, query, cfg.response_length, cfg.temperature)
    counted = {str(op).split(".")[-1]: n // 2
               for op, n in counter.get_flop_counts()["Global"].items()}
    ours = multiply_adds(rho.shape, query.size(1), cfg.response_length, cached)
    print(f"cached {cached!s:5}  ours:  " + ", ".join(
        f"{name} {n / 1e6:.1f} M" for name, n in
        zip(("matrices", "attention", "logits"), ours)))
    print("              torch: " + ", ".join(
        f"{name} {counted[op] / 1e6:.1f} M" for name, op in
        (("matrices", "addmm"), ("attention", "bmm"), ("logits", "mm"))))

# %% [markdown]
r"""
Reading each token once is linear in $T$ as long as the matrices cost more than attention; reading all again is quadratic.
"""

# %%
gpt2_774m = dict(vocab_size=50257, block_size=1024, n_layer=36, n_head=20, n_embd=1280)
fig, axes = plt.subplots(1, 2, figsize=(9, 3))
for ax, name, shape, Q, Ts in ((axes[0], "rho, query of 12", rho.shape, 12, range(1, 25)),
                               (axes[1], "GPT-2 774M, query of 64", gpt2_774m, 64,
                                range(1, 961))):
    for cached, color, label in ((False, course.REWARD, "all again"),
                                 (True, course.PI, "cached")):
        total = [sum(multiply_adds(shape, Q, T, cached)) for T in Ts]
        ax.loglog(Ts, total, color=color)
        ax.annotate(label, (Ts[-1], total[-1]), (-4, 6), textcoords="offset points",
                    color=color, ha="right")
    ax.set(title=name, xlabel="response (tokens)", ylabel="multiply-adds")
    ax.margins(y=0.15)
plt.show()
for T in (24, 960):
    slow = sum(multiply_adds(gpt2_774m, 64, T, cached=False))
    fast = sum(multiply_adds(gpt2_774m, 64, T, cached=True))
    print(f"774M, query of 64, response of {T}: "
          f"{slow / fast:.0f} times fewer with the cache")

# %% [markdown]
r"""
## How low could the loss be?

The loss of any model is $\mathbb{E}[-\log \rho] = \mathcal{H} + \mathrm{KL}(\text{world}, \rho)$: the world's own entropy, and what $\rho$ does not know. KL is never negative, so **the loss of a model, on text it has not read, is an upper bound of the entropy**, up to sampling error (taken between stories, for
the windows of one overlap). On text that it has read it bounds nothing, for that can be learned by heart.
"""

# %%
block_size = cfg.query_max + cfg.response_length
train, held_out = (text.sentence_windows(parts[part], tokenizer, block_size)
                   for part in ("train", "evaluation"))                  # (N, T + 1)
held_out = held_out[:2000]
V = cfg.vocab_size
losses = evaluate.language_model_losses(rho, train, held_out)
pairs = torch.bincount((train[:, :-1] * V + train[:, 1:]).flatten(), minlength=V * V)
common = torch.bincount(train.flatten(), minlength=V) + 1.0
common = common / common.sum()
pairs = pairs.view(V, V).float()
# 20 imagined followers of each token, so that no pair is impossible.
mixed = (pairs + 20 * common) / (pairs.sum(dim=1, keepdim=True) + 20)
bigram = -mixed[held_out[:, :-1], held_out[:, 1:]].log().mean().item()
for name, loss in (("uniform", math.log(V)), ("unigram", losses["unigram_loss"]),
                   ("bigram", bigram), ("rho", losses["loss"])):
    print(f"{name:8} {loss:.2f} nats a token, as of {math.exp(loss):6.1f} equally likely")

with torch.no_grad():
    target = held_out[:, 1:]
    surprise = F.cross_entropy(rho(held_out[:, :-1]).flatten(0, 1), target.flatten(),
                               reduction="none").view(target.shape)
window = surprise.mean(dim=1)
story_of = torch.cat([
    torch.full((len(text.sentence_windows([passage], tokenizer, block_size)),), k)
    for k, passage in enumerate(parts["evaluation"])])[:len(held_out)]
by_story = torch.stack([window[story_of == k].mean() for k in story_of.unique()])
error = by_story.std().item() / len(by_story) ** 0.5
print(f"upper bound: {window.mean():.2f} nats a token (standard error {error:.3f})")

# %% [markdown]
r"""
From below it can be bounded too, since we wrote the world. Every passage comes from draws of a `random.Random`; `Draws` adds up $-\log$ of the probabilities of those that the text shows: which frame each sentence has, and which words went in. Whoever is told all else (length, people, kept words,
mood, all tosses of coins) can only be less uncertain, so what is left is **a lower bound**. (It is of whole passages; of windows, where the first sentence weighs less, it would come out a little higher.)
"""

# %%
class Draws(random.Random):
    """Keeps -log p of each frame and word that is drawn; what may not be drawn again is
    no choice."""

    def __init__(self, seed):
        super().__init__(seed)
        self.costs, self.frames, self.last = [], set(), None

    def choices(self, tones, weights):           # good, plain or bad: the frame shows it
        drawn = super().choices(tones, weights)
        self.costs.append(-math.log(weights[tones.index(drawn[0])] / sum(weights)))
        return drawn

    def choice(self, pool):
        drawn = super().choice(pool)
        left = [v for v in pool if v not in self.frames and v != self.last]
        if drawn in left:
            self.costs.append(math.log(len(left)))
        if " " in drawn:
            self.frames.add(drawn)
        else:
            self.last = drawn
        return drawn

nats = n_tokens = 0
for seed in range(400):
    draws = Draws(seed)
    passage = stories.passage(draws)
    nats += sum(draws.costs[6:])       # before: kept words and names, which need not show
    n_tokens += len(tokenizer.encode(passage))
print(f"the world's entropy lies between {nats / n_tokens:.2f} and {window.mean():.2f} "
      "nats a token")

# %% [markdown]
r"""
In some places it is known almost exactly: the word for the time is drawn from ten, all equally likely. Where the world draws a word, $\rho$ must pay; where grammar decides, it pays nothing; where the passage has fixed the word, what it pays is its own ignorance.
"""

# %%
times = torch.tensor([tokenizer.tokens.index(f" {word}".encode())
                      for word in stories.POOLS["time"]])
before = torch.tensor([tokenizer.tokens.index(word) for word in (b" all", b" one")])
place = torch.isin(target, times) & torch.isin(held_out[:, :-1], before)
print(f"a word of time: rho {surprise[place].mean():.2f} nats, "
      f"log 10 = {math.log(10):.2f} ({int(place.sum())} places)")

ids = torch.tensor([tokenizer.encode(story)[:31]])
with torch.no_grad():
    cost = F.cross_entropy(rho(ids[:, :-1])[0], ids[0, 1:], reduction="none")
fig, ax = plt.subplots(figsize=(9, 3))
ax.bar(range(len(cost)), cost, color=course.PI)
course.limit(ax, math.log(10), "log 10")
words_read = [show(tokenizer.tokens[i]).strip("_") for i in ids[0, 1:]]
ax.set_xticks(range(len(cost)), words_read, rotation=90)
ax.set(ylabel="surprise of rho (nats)")
plt.show()

# %% [markdown]
r"""
**To try.** `Draws` does not count the tosses of `random()`: who acts, name or pronoun, adjective or none. Which of them can a reader still tell from the text, and at which odds do they fall?
"""
