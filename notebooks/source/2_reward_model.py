# The source of session 2: see build.py.

# %% [markdown]
r"""
# 2. The reward: what a choice among four teaches

A person reads a query and four continuations, and says which is best: a number from 0 to 3. **How does a network
$r(x, y)$ learn from such numbers what people like, how much does one of them tell, and how good can $r$ become
where people disagree?**

Before: section 2 of the paper up to the normalization of $r$, 2.2, 2.4, table 9; `stories.py` from the labelers on; `reward.py`,
but leave the bodies of `best_of_four_loss` and `normalize` unread: you will write them. In the letters of the paper,
$x$ is a query, $y$ a response, $b$ the choice, $\rho$ the language model.
"""

# %% setup
import math

import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import display

import course
import reward
import rlhf
import stories
from checks import check
from course import plt
from text import collate

course.style()
run = course.small_run()               # two to four minutes the first time
cfg, rho, tokenizer, sampling = run.cfg, run.rho, run.tokenizer, run.sampling
train, held_out = run.train, run.held_out
print(f"{len(train):,} comparisons to learn from, {len(held_out)} held out")

# %% [markdown]
r"""
## 2.4 Label

Ten questions of $\rho$'s. Set `ME = True`, run the cell, and type 1 to 4 for what *you* like best. (At a terminal `python -m extras.label`
asks the same.) Otherwise the happiest of each four stands in for you.
"""

# %%
ME = False
questions = train[:10]
happiest = [1 + int(np.argmax([stories.sentiment(y).mean() for y in c.samples]))
            for c in questions]
choices = course.ask(questions, happiest) if ME else happiest
print(questions[0].query)
for k, sample in enumerate(questions[0].samples, 1):
    print(f"{'*' if k == choices[0] else ' '} {k}  {sample}")

# %% [markdown]
r"""
Our ten labelers are assembled from human ratings of words, from -4 to 4. They add up the words of a text and choose by
Luce's rule, $P(b) = e^{s_b / t} / \sum_i e^{s_i / t}$, where $t$ stands for moods and slips. It was set so that two of them agree as often as two of the
paper's do on sentiment, 38 % (table 9).
"""

# %%
t = stories.TEMPERATURES["sentiment"]
asked = [c.samples for c in held_out]

def chances(questions, temperature=t):           # P(labeler likes option k best)
    scores = stories.scores_of("sentiment", questions)
    return stories.softmax(scores / temperature)                         # (n, 10, 4)

p = torch.tensor(chances(asked).mean(axis=1)).float()                    # (n, 4)
print(f"two labelers agree on {stories.agreement(chances(asked)):.0%} of the questions, "
      f"without noise on {stories.agreement(chances(asked, 1e-6)):.0%}")

scores = stories.scores_of("sentiment", [questions[0].samples])[0].mean(axis=0)
chosen = chances([questions[0].samples])[0].mean(axis=0)
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 2.4))
left.barh(range(1, 5), scores, color=course.TRUE)
left.set(title="the question above: mean score", xlabel="sum of ratings")
right.barh(range(1, 5), chosen, color=course.REWARD)
right.axvline(0.25, color=course.LIMIT, ls="--", lw=1.2)
right.text(0.25, 0.42, " chance", va="center")
right.set(title="probability of being chosen", xlim=(0, 1))
for ax in (left, right):
    ax.set(yticks=range(1, 5), ylabel="option", ylim=(4.6, 0.2))
plt.show()

# %% [markdown]
r"""
## Exercise 2.1: eq. 1

Difficulty 2 of 5 · importance 5 of 5 · 15 minutes

The paper gives $r$ the labelers' own rule: it explains a choice by softmax over its four rewards, and is trained to make likely
the choices that were made. Write eq. 1 **negated**, so that it falls. It should survive rewards a thousand apart.

<details><summary>Hint</summary>

$-\log \frac{e^{r_b}}{\sum_i e^{r_i}} = \log \sum_i e^{r_i} - r_b$. `Tensor.gather` picks $r_b$ from each row, `Tensor.logsumexp` does not overflow.
By hand: four equal rewards cost $\log 4$. Which part of a mean over $N$ questions is one question?
</details>
"""

# %% exercise best_of_four_loss
def best_of_four_loss(r, b):
    """r (N, 4): rewards; b (N,): which was chosen, 0 to 3 -> the mean loss, in nats."""
    # solution
    chosen = r.gather(1, b[:, None])[:, 0]                           # (N,)
    return (r.logsumexp(dim=1) - chosen).mean()
    # end

# %% check best_of_four_loss
check(best_of_four_loss)

# %% [markdown]
r"""
Its derivative by $r_k$ is $\mathrm{softmax}(r)_k - [k = b]$: a step pushes each option down by the probability that $r$ gives it, and the
chosen one up by 1. The four add up to 0, so the zero of $r$ is left open. Its scale is not: twice $r$ is a surer model.
"""

# %%
r4 = torch.tensor([[1.0, 0.0, -1.0, 2.0]], requires_grad=True)
b = torch.tensor([1])
loss = reward.best_of_four_loss(r4, b)
loss.backward()
by_hand = r4.detach().softmax(dim=1) - F.one_hot(b, 4)
print("by autograd         ", *(f"{v:+.2f}" for v in r4.grad[0]))
print("softmax less one-hot", *(f"{v:+.2f}" for v in by_hand[0]))
for name, changed in (("r", r4), ("r + 100", r4 + 100), ("2 r", 2 * r4)):
    print(f"loss of {name:8} {reward.best_of_four_loss(changed, b).item():.3f}")

# %% [markdown]
r"""
## Why four options

Whoever names the best of four can say $\log 4$ nats; of two, half as much. What a *noisy* choice tells about the texts is what
is left after its noise, $\log k - H(b)$. We know the labelers' probabilities, so both can be computed.
"""

# %%
def information(questions, temperature):         # nats a label, of a random labeler
    p = chances(questions, temperature).mean(axis=1)
    return math.log(p.shape[1]) + (p * np.log(p + 1e-30)).sum(axis=1).mean()

fours = [c.samples for c in train[:500]]
twos = [[y[i], y[j]] for y in fours for i in range(4) for j in range(i)]
temperatures = [0.5, 1, 2, 4, 6.5, 12, 25]
told = {k: [information(options, v) for v in temperatures]
        for k, options in ((4, fours), (2, twos))}
fig, ax = plt.subplots(figsize=(6, 2.8))
for k, color in ((4, course.REWARD), (2, course.RHO)):
    ax.semilogx(temperatures, told[k], "o-", color=color)
    ax.annotate(f"best of {k}", (temperatures[1], told[k][1]), (6, 6),
                textcoords="offset points", color=color)
ax.axvline(t, color=course.LIMIT, ls=":", lw=1.2)
ax.text(t, 1.0, " our labelers")
ax.set(xlabel="noise of the labelers: t (points of score)", ylabel="nats a label")
plt.show()
ours = temperatures.index(t)
i4, i2 = told[4][ours], told[2][ours]
print(f"a choice of four tells {i4:.2f} nats, of two {i2:.2f}: "
      f"{i4 / i2:.2f} times as much")
print(f"ten of four: {10 * i4:.1f} nats at this noise; "
      f"from somebody without noise at most 10 log 4 = {10 * math.log(4):.1f}")

# %% [markdown]
r"""
## The head

$r$ is a copy of $\rho$ with a linear head on the state of the **last real token**, which has seen all of $x$ and $y$. Texts are padded
on the right. What stands in the padding changes nothing, if one reads at the right place.
"""

# %%
torch.manual_seed(0)
untrained = reward.RewardModel(rho)
tokens, lengths, _ = collate(held_out[:8], tokenizer, rho.shape["block_size"])
tokens, lengths = tokens.flatten(0, 1), lengths.flatten()                # (32, S), (32,)
padding = torch.arange(tokens.size(1)) >= lengths[:, None]
rubbish = torch.where(padding, torch.randint(0, 1000, tokens.shape), tokens)
ends = torch.full_like(lengths, tokens.size(1))
with torch.no_grad():
    for where, places in (("the last real token", lengths), ("the padded end", ends)):
        change = untrained(tokens, places) - untrained(rubbish, places)
        print(f"other padding changes r, read at {where:20} by {change.abs().mean():.3f}")

# %% [markdown]
r"""
## Exercise 2.2: normalization

Difficulty 2 of 5 · importance 4 of 5 · 15 minutes

$r$ is `gain * unnormalized + bias`. Set both so that $r$ has mean 0 and variance 1 on samples of $\rho$; then $\beta$, the price of a nat of
KL, means the same in every run, and the -1 for a response without a period is one deviation below $\rho$'s mean. A second call should change nothing.

<details><summary>Hint</summary>

Measure `r.unnormalized(tokens, lengths)`, not `r(tokens, lengths)`. `r.gain.copy_(...)` sets a parameter in place, under
`torch.no_grad()`. Take the population's deviation, `std(unbiased=False)`. Then solve: gain * mean + bias = 0.
</details>
"""

# %% exercise normalize
@torch.no_grad()
def normalize(r, tokens, lengths):
    """Set r.gain and r.bias. tokens (n, S), lengths (n,): samples of rho."""
    # solution
    scores = r.unnormalized(tokens, lengths)
    r.gain.copy_(1 / scores.std(unbiased=False))
    r.bias.copy_(-scores.mean() * r.gain)
    # end

# %% check normalize
check(normalize)

# %% [markdown]
r"""
## The real thing

`rlhf.train_reward` now learns from the labels, one epoch, with your loss and your normalization. Nobody can foresee a noisy
choice, so beside it stands the best possible: the accuracy of always naming the likeliest option, and the entropy of the choice.
Is it odd that $r$ is right more often than two labelers agree? They agree on $\sum_k p_k^2$, whoever names the likeliest is right on $\max_k p_k$, which is never less.
"""

# %%
exam_tokens, exam_lengths, _ = collate(held_out, tokenizer, rho.shape["block_size"])

def exam(r):                                     # on the held-out questions
    return reward.evaluate_reward_model(r, exam_tokens, exam_lengths, p)

torch.manual_seed(1)
r = rlhf.train_reward(cfg, rho, tokenizer, train, run.queries["reward"], sampling,
                      course.Progress(f"r on {len(train):,} labels"))
best = stories.limits(p.double().numpy())
found = exam(r)
print(f"chance          accuracy .250, loss {math.log(4):.3f}")
print(f"your r          accuracy {found['accuracy']:.3f}, loss {found['loss']:.3f}")
print(f"best possible   accuracy {best['best_accuracy']:.3f}, "
      f"loss {best['best_loss']:.3f}")

# %% [markdown]
r"""
## What $r$ learned

Against what the labelers themselves think, on samples it has never seen. Where does it err? Read the two that it overrates most.
"""

# %%
import evaluate
from text import query_batches, sample_queries

torch.manual_seed(0)
batches = query_batches(sample_queries(run.queries["evaluation"], 400))
rewards = [reward.learned_reward(r, sampling), run.true]
samples = evaluate.sample_and_score(rho, rho, rewards, batches, sampling)
learned, true = samples.score[:, 0], samples.true[:, 0]
fig, ax = plt.subplots(figsize=(4.6, 4))
ax.plot([-3, 3.5], [-3, 3.5], color=course.LIMIT, ls="--", lw=1.2)
ax.text(3.4, 3.1, "r = true", ha="right", va="top", rotation=45, rotation_mode="anchor")
ax.plot(true, learned, "o", color=course.REWARD, ms=4, alpha=0.5)
ax.set(xlabel="true reward (deviations over rho)", ylabel="r (deviations over rho)")
plt.show()
correlation = torch.corrcoef(torch.stack([true, learned]))[0, 1].item()
print(f"correlation of r and the true reward: {correlation:.2f}")
length, _ = sampling.truncate(samples.response[:, 0])
for i in (learned - true).topk(2).indices.tolist():
    text = tokenizer.decode(samples.response[i, 0, :length[i]])
    print(f"r {learned[i]:+.1f}, true {true[i]:+.1f}   {text}")

# %% [markdown]
r"""
Which words make $r$? Leave out one token at a time: how much does $r$ fall? Orange words raise it, blue ones lower it; hover for the numbers, with the labelers'
mean rating of the word. Has $r$ understood "not"?
"""

# %%
@torch.no_grad()
def attributed(text):
    ids = tokenizer.encode(text)
    n = torch.tensor([len(ids)])
    whole = r(torch.tensor([ids]), n)
    without = torch.tensor([ids[:i] + ids[i + 1:] for i in range(len(ids))])
    falls = whole - r(without, n.expand(len(ids)) - 1)
    row = []
    for token, fall in zip(ids, falls.tolist()):
        word = tokenizer.tokens[token].decode(errors="replace")
        rating = stories.sentiment(word).mean()
        row.append((word, fall, f"r {fall:+.2f}, labelers {rating:+.1f}"))
    return row, f"r = {whole.item():+.2f}"

texts = ["Mara was happy and hugged Tom by the gate. "
         "There was joy and peace in the lovely barn.",
         "Mara was not happy and hated Tom by the gate. "
         "There was joy and peace in the ugly barn.",
         "Mara was not sad or guilty any more after supper. "
         "Tom kept the rope under the bed."]
rows, titles = zip(*[attributed(text) for text in texts])
display(course.ColoredTokens(rows, scale=1.0, titles=titles))

# %% [markdown]
r"""
## How many labels?

Two runs each on 100 and 400 labels, with another head and other comparisons; on all of them the $r$ of the course's run and yours.
The spread of the dots is what one run's luck can do.
"""

# %%
about_rho = reward.samples_of_rho(rho, run.queries["reward"], sampling, n=256)

def trained(n, seed, epochs=1):
    """An r of n labels, examined; `seen` is its loss on them in the last epoch."""
    torch.manual_seed(seed)
    model = reward.RewardModel(rho)
    reward.normalize(model, *about_rho)
    some = [train[i] for i in torch.randperm(len(train))[:n].tolist()]
    data = collate(some, tokenizer, rho.shape["block_size"])
    rows = []
    for _ in range(epochs):
        rows += torch.randperm(n).split(cfg.reward_batch)
    batches = course.Progress(f"{n} labels, epochs: {epochs}")(rows)
    losses = reward.train_reward_model(model, *data, cfg.reward_lr, batches)
    return {**exam(model), "seen": np.mean(losses[-(len(rows) // epochs):])}

accuracies = {n: [trained(n, seed)["accuracy"] for seed in range(2)] for n in (100, 400)}
accuracies[len(train)] = [exam(run.r)["accuracy"], found["accuracy"]]

fig, ax = plt.subplots(figsize=(6, 2.8))
means = [np.mean(accuracies[n]) for n in accuracies]
ax.semilogx(list(accuracies), means, color=course.REWARD)
for n, found_of in accuracies.items():
    ax.plot([n] * len(found_of), found_of, "o", color=course.REWARD, mfc="white")
course.limit(ax, best["best_accuracy"], "best possible", x=0.3)
course.limit(ax, 0.25, "chance")
ax.set(xlabel="labels", ylabel="held-out accuracy", xticks=list(accuracies),
       xticklabels=[f"{n:,}" for n in accuracies], ylim=(0.22, 0.54))
ax.minorticks_off()
plt.show()
for n, mean in zip(accuracies, means):
    print(f"{n:5,} labels: accuracy {mean:.3f}, mean of {len(accuracies[n])}")

# %% [markdown]
r"""
## One epoch, or more

The paper makes one pass over the labels. What do more do? The loss on the labels that are learned from goes on falling. What matters is the other one. (On 200 labels: the fewer, the sooner it shows.)
"""

# %%
by_epochs = {epochs: trained(200, seed=2, epochs=epochs) for epochs in (1, 2, 4)}
fig, ax = plt.subplots(figsize=(6, 2.8))
for key, name, color in (("seen", "labels learned from", course.RHO),
                         ("loss", "held-out labels", course.REWARD)):
    losses = [one[key] for one in by_epochs.values()]
    ax.plot(list(by_epochs), losses, "o-", color=color)
    course.at_end(ax, list(by_epochs), losses, name, color, dx=8)
course.limit(ax, best["best_loss"], "best possible, held out")
ax.set(xlabel="epochs", ylabel="loss (nats)", xticks=list(by_epochs), xlim=(0.8, 5.6))
plt.show()
for epochs, one in by_epochs.items():
    print(f"epochs: {epochs}; loss {one['seen']:.3f} on the labels, in the last, and "
          f"{one['loss']:.3f} held out")

# %% [markdown]
r"""
And your ten labels? An $r$ learns them by heart in ten epochs, and that tells it little (see the nats above). How far does its accuracy move from chance?
"""

# %%
torch.manual_seed(3)
mine = reward.RewardModel(rho)
data = collate([c._replace(best=k - 1) for c, k in zip(questions, choices)], tokenizer,
               rho.shape["block_size"])
rows = [batch for _ in range(10) for batch in torch.randperm(10).split(2)]
before = exam(mine)["accuracy"]
losses = reward.train_reward_model(mine, *data, cfg.reward_lr, rows)
print(f"loss on the ten: {np.mean(losses[:5]):.2f} in the first epoch, "
      f"{np.mean(losses[-5:]):.2f} in the tenth")
print(f"held-out accuracy: {before:.3f} before, {exam(mine)['accuracy']:.3f} after, "
      f"{found['accuracy']:.3f} on {len(train):,} labels")

# %% [markdown]
r"""
## To think about

1. What would the labelers' accuracy be as a "reward model" of one another, and why is a reward model better?
2. Somebody normalizes $r$ on samples of $\pi$ instead of $\rho$, anew after each update. What does $\beta$ mean then?
3. Of two options eq. 1 is the loss of Bradley and Terry, $-\log \sigma(r_b - r_a)$. Show it. What do pairs cost you for the same information, if reading a text takes a minute?
4. Choose at random in 30 % of `train` (`c._replace(best=...)`). What does $r$ lose: its order, or its scale?
"""
