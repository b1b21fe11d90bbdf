# The source of session 4: see build.py.

# %% [markdown]
r"""
# 4. The experiment, and how it goes wrong

All parts are there: $\rho$, labels, $r$, $\pi$. **What keeps $\pi$ near $\rho$, what is the best that could be had there, and would you notice if a run had gone wrong?**

Before: sections 2.2 (the controller), 3.1.1, 4 and table 10 of the paper; `rlhf.py` and `evaluate.py`. $\beta$ is the price, in reward, of a nat of KL($\pi$, $\rho$); rewards are in standard deviations over samples of $\rho$.
"""

# %% setup
import copy
import random
import statistics

import numpy as np
import torch

import checks
import course
import evaluate
import gpt
import ppo
import rlhf
from checks import check, check_diagnosis
from course import plt
from extras.paper_results import load_series
from text import collate, query_batches, sample_queries

course.style()
run = course.small_run()               # two to four minutes the first time
cfg, rho, tokenizer, sampling = run.cfg, run.rho, run.tokenizer, run.sampling

# %% [markdown]
r"""
## Exercise 4.1: a thermostat

Difficulty 2 of 5 · importance 4 of 5 · 15 minutes

Nobody knows beforehand which $\beta$ leads to a KL of, say, 3 nats. So the paper names the KL and lets $\beta$ follow (2.2): with the error
$e = \mathrm{clip}(\frac{KL - target}{target}, -0.2, 0.2)$, $\beta \leftarrow \beta (1 + K e)$. A target of 0 leaves $\beta$ as it is.

<details><summary>Hint</summary>

`min(0.2, max(-0.2, error))`. Which way must $\beta$ go where KL is too large? On paper: $\beta = .3$, target 3, $K = .1$ and a KL of 30 give $\beta = .306$.
</details>
"""

# %% exercise AdaptiveKL
class AdaptiveKL:
    """The price of a nat, moved until KL is at its target."""

    def __init__(self, beta, target, K):
        self.beta, self.target, self.K = beta, target, K

    def update(self, kl):
        # solution
        if self.target > 0:
            error = (kl - self.target) / self.target
            error = min(0.2, max(-0.2, error))
            self.beta *= 1 + self.K * error
        # end

# %% check AdaptiveKL
check(AdaptiveKL)

# %% [markdown]
r"""
Which $K$? Let a simple room stand in for PPO: at a fixed $\beta$ its KL goes to $1 / (2 \beta^2)$, a fifth of the way in each update (where $\pi_{opt}$ would be, if $r$ over $\rho$ were normal with deviation 1). $\beta$
starts far too low. First the controller sees the true KL; then, as in life, a mean of a batch's log-ratios, each a matter of chance: here with an error of .3 nats. Guess first which $K$ is best, in either.
"""

# %%
def room(K, noise, seed=0, updates=192, beta=0.15, target=3.0):
    """The true KL, update by update."""
    rng = random.Random(seed)
    kl_control = ppo.AdaptiveKL(beta, target, K)
    kl, kls = 0.0, []
    for _ in range(updates):
        kl += (1 / (2 * kl_control.beta ** 2) - kl) / 5
        kls.append(kl)
        kl_control.update(kl + rng.gauss(0, noise))
    return kls

def off(kls):                          # how far from the target, on average
    return statistics.mean(abs(kl - 3) for kl in kls)

fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
colors = {0.0128: course.RHO, 2.0: course.REWARD, 0.1: course.PI}
for ax, noise in zip(axes, (0.0, 0.3)):
    for K, color in colors.items():
        ax.plot(room(K, noise), color=color, lw=3.5 if K == 2 else 1.5)
    course.limit(ax, 3, "target")
    ax.set(title=f"KL seen with an error of {noise:g} nats", xlabel="update",
           xlim=(0, 235), ylim=(0, 23))
    ax.text(90, 17.6, "K = .0128 (batch / 10,000)", color=course.RHO)
    ax.text(42, 8, "K = .1, the paper's", color=course.PI)
    ax.text(100, 0.3, "K = 2 (thick)", color=course.REWARD)
axes[0].set_ylabel("KL (nats)")
plt.show()
print(f"highest KL with noise: K = .1 {max(room(0.1, 0.3)):.0f}, "
      f"K = 2 {max(room(2.0, 0.3)):.0f} nats")
print("mean |KL - 3| of 20 rooms   all updates   the second half")
for noise in (0.0, 0.3):
    for K in colors:
        runs = [room(K, noise, seed) for seed in range(20)]
        whole = statistics.mean(off(kls) for kls in runs)
        late = statistics.mean(off(kls[96:]) for kls in runs)
        print(f"noise {noise:.1f}, K = {K:<6g}        {whole:5.2f}            "
              f"{late:5.2f}")

# %% [markdown]
r"""
Without noise the eager controller looks best. With noise $K = 2$ is soon near and never at rest: an error of .3 nats moves $\beta$ by 20 % (at $K = .1$ by 1 %). $K = .1$ overshoots, to 16 nats, then rests. It is a trade. Over all updates $K = 2$ still wins, .46 against 1.77, for $\beta$ began far too low; in the second half it is off by .41, and $K = .1$ by .07. The released rule, batch / 10,000, is made for batches of 512 and a million episodes, and would hardly turn the knob in 192 updates of 128.

## How far could any policy get? (3.1.1)

At a fixed $\beta$ the best policy is known (session 3), $\pi_{opt}(y|x) = \rho(y|x)\, e^{r(x, y) / \beta} / Z(x)$. For stories nobody can sum over all $y$, but samples of $\rho$, weighted by $e^{r / \beta}$, stand in for it. Beside it the optimizer that
needs no training: of $n$ samples of $\rho$ keep the one that $r$ likes best. Its KL is at most $\log n - (n - 1) / n$.
"""

# %%
policy, frontier = run.results["policy"], np.array(run.results["frontier"])
_, gain, kl, effective = frontier.T
solid = effective >= 10                # below that, too few samples carry the weight
fig, ax = plt.subplots(figsize=(7, 3.4))
ax.plot(kl, gain, color=course.LIMIT, ls="--", lw=1.2)
ax.plot(kl[solid], gain[solid], color=course.LIMIT)
ax.annotate("optimum (dashed: of few samples)", (kl[-1], gain[-1]), (0, 7),
            textcoords="offset points", ha="right")
for one in run.results["best_of_n"]:
    ax.plot(one["kl_bound"], one["gain"], "s", color=course.RHO)
    ax.annotate(f"best of {one['n']}", (one["kl_bound"], one["gain"]), (7, -10),
                textcoords="offset points", color=course.RHO)
ax.plot(policy["gain_kl"], policy["gain"], "o", color=course.PI, ms=8)
ax.annotate("pi, after 20 updates", (policy["gain_kl"], policy["gain"]), (9, -6),
            textcoords="offset points", color=course.PI)
ax.set(xlabel="KL from rho (nats; of best of n, its bound)", xlim=(0, 5),
       ylabel="gain in r (deviations)", ylim=(0, 1.15 * gain.max()))
plt.show()
print(f"pi gains {policy['gain']:.2f} at {policy['gain_kl']:.2f} nats, the optimum there "
      f"{policy['optimal_gain']:.2f}: a share of {policy['share_of_optimum']:.0%}")
print("(20 updates; the default has 128) default run, 5 seeds: a share of", ", ".join(
    f"{one['numbers']['policy.share_of_optimum']:.1%}" for one in
    load_series("seeds")["sentiment"]))

# %% [markdown]
r"""
## What the price does not buy: variety

KL is a price for leaving $\rho$, not for saying one thing. A *frame* is what a sentence of these stories is made from. Who uses the same few?
"""

# %%
three = {"rho": policy["zero_shot_sameness"], "pi": policy["sameness"],
         "optimum at pi's KL": policy["optimal_sameness"]}
three |= {f"best of {one['n']}": one["sameness"] for one in run.results["best_of_n"]}
fig, ax = plt.subplots(figsize=(7, 2.4))
colors = [course.RHO, course.PI, course.LIMIT] + [course.RHO] * 4
ax.barh(list(three), three.values(), color=colors)
for i, share in enumerate(three.values()):
    ax.text(share, i, f" {share:.0%}", va="center")
ax.invert_yaxis()
ax.set(xlabel="share of sentences in the three commonest of 124 frames")
plt.show()

# %% [markdown]
r"""
The optimum does it too: it is what the objective asks for, not a fault of PPO.

## Over-optimization

$r$ was learned from samples of $\rho$. Far from $\rho$ it is asked about texts it never saw. Below, means of three seeds from `extras/results`, at several prices of KL.
"""

# %%
over = load_series("over-optimization")
fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
for ax, label in zip(axes, ("5,000 labels", "417 labels")):
    by_price = {}
    for one in over[label]:
        by_price.setdefault(one["settings"]["beta"], []).append(one["numbers"])
    rows = sorted([np.mean([n[f"policy.{key}"] for n in numbers])
                   for key in ("kl", "reward", "true_reward")]
                  for numbers in by_price.values())
    kls, promised, true = zip(*rows)
    ax.plot(kls, promised, "o-", color=course.REWARD)
    ax.plot(kls, true, "o-", color=course.TRUE)
    above, below = (4, 6), (4, -14)
    for ys, others, name, color in ((promised, true, "r", course.REWARD),
                                    (true, promised, "true reward", course.TRUE)):
        offset = above if ys[3] > others[3] else below
        ax.annotate(name, (kls[3], ys[3]), offset, textcoords="offset points",
                    color=color)
    ax.set(title=f"r of {label}", xlabel="KL (nats)", xlim=(0, 46))
    print(f"r of {label:13}",
          *(f"KL {a:4.1f}: {b:.2f}, true {c:.2f};" for a, b, c in rows))
axes[0].set_ylabel("deviations over rho")
plt.show()

# %% [markdown]
r"""
An $r$ of few labels promises what the labelers do not see: already at .9 nats half as much again as there is (.77 against .51), at 23.5 twice. The true reward still rises there, but far more slowly than $r$ promises. On the left $r$ promises too little up to 11.7 nats; from there on the true reward falls, while $r$ still rises. So a price of KL does not make $r$ right; it limits how far $\pi$ goes on its word. (On the right, from 12.9 nats on, a point is the mean of seeds that lie far apart.)

## The sign bug, blind (4.4)

One night the sign of the reward was turned in the authors' code, and that of the KL with it (in ours $r$'s alone; both: homework 2), and in the morning $\pi$ was as vile as it could be. Here are two runs of ours. In one of them the sign of $r$ is turned. Below is all that a log can show where nobody knows the true reward. **Which one is it?** Write your answer down before you go on.
"""

# %%
two = course.two_nights()                      # {"A": a run, "B": a run}
fig, axes = plt.subplots(1, 3, figsize=(9, 2.5))
for ax, (key, unit) in zip(axes, (("score", "r as logged"), ("kl", "KL (nats)"),
                                  ("beta", "beta (reward per nat)"))):
    last = {name: one["curve"][key][-1] for name, one in two.items()}
    for (name, one), color in zip(two.items(), (course.PI, course.VALUE)):
        x = np.array(one["curve"]["episode"]) / 1000
        ax.plot(x, one["curve"][key], color=color)
        course.at_end(ax, x, one["curve"][key], name, color,
                      dy=6 if last[name] == max(last.values()) else -6)
    ax.set(title=unit, xlabel="thousand episodes")
plt.show()

# %%
for name, one in two.items():
    print(f"{name}: score {one['curve']['score'][-1]:+.2f}, "
          f"true {one['curve']['true'][-1]:+.2f}, KL {one['curve']['kl'][-1]:.1f}")
    print(one["samples"][0].split("\n")[-1] + "\n")

# %% [markdown]
r"""
Nothing in the log tells. One person who reads five samples can.

## Exercise 4.2: what do these logs tell?

Difficulty 4 of 5 · importance 5 of 5 · 30 minutes

Six runs, each with one bug, beside a healthy one (gray). They were made by `broken_runs.py`, on the course's $\rho$ and $r$. Give each its bug. (clipfrac: the share of tokens clipped; approx_kl: how far $\pi$ moved from what sampled; both are means over four steps. explained_variance: the share of the returns' variance that $V$ foresaw. finished: the share of responses with a period.) What would you look at first, in a run of your own?

<details><summary>Hint</summary>

Four of the six show in the *first* update, where $\pi$ still is $\rho$: KL must be 0 there, few tokens clipped, the score about 0, nearly all responses finished. In the rollout $\log \pi$ comes from the sampler itself, $\log \rho$ from a scorer. For the others ask who moves and who does not. And read the samples.
</details>
"""

# %%
broken = course.broken_runs()
healthy = broken.pop("healthy")
fig, axes = plt.subplots(3, 6, figsize=(9.4, 5.2), sharex=True, sharey="row")
for column, (letter, one) in zip(axes.T, broken.items()):
    for ax, key, color in zip(column, ("score", "kl", "beta"),
                              (course.REWARD, course.PI, course.VALUE)):
        ax.plot([line[key] for line in healthy["log"]], color="0.8", lw=5)
        ax.plot([line[key] for line in one["log"]], color=color)
    column[0].set_title(letter)
    highest = max(line["kl"] for line in one["log"])
    if highest > 9:
        column[1].text(9, 7.6, f"to {highest:.0f}", color=course.PI)
axes[1, 0].set_ylim(-0.4, 9)
for ax, name in zip(axes[:, 0], ("score", "KL (nats)", "beta")):
    ax.set_ylabel(name)
axes[2, 2].set_xlabel("update")
plt.show()
keys = ["score", "kl", "clipfrac", "approx_kl", "explained_variance", "finished"]
widths = {key: max(9, len(key) + 2) for key in keys}
for when, line in (("first update", 0), ("last update", -1)):
    print(f"{when:13}" + "".join(f"{key:>{widths[key]}}" for key in keys))
    for letter, one in {"healthy": healthy, **broken}.items():
        values = {key: round(one["log"][line][key], 4) + 0.0 for key in keys}
        print(f"{letter:13}" + "".join(f"{values[key]:{widths[key]}.4f}" for key in keys))
for letter, one in {"healthy": healthy, **broken}.items():
    print(f"\n{letter}: {one['sample'][0]}\n   -> {one['sample'][1]}")

# %% exercise diagnosis
bugs = ["the score is at the wrong token", "the temperature is forgotten in scoring",
        "dropout is on", "the KL has the wrong sign", "r is not normalized",
        "the query is cut wrong"]
# In the place of each None, one of the bugs.
answers = {"A": None, "B": None, "C": None, "D": None, "E": None, "F": None}
# solution
answers = {"A": "dropout is on", "B": "r is not normalized",
           "C": "the KL has the wrong sign", "D": "the query is cut wrong",
           "E": "the temperature is forgotten in scoring",
           "F": "the score is at the wrong token"}
# end

# %% check diagnosis
check_diagnosis(answers)

# %% [markdown]
r"""
## Exercise 4.3: without a reward model

Difficulty 4 of 5 · importance 3 of 5 · 30 minutes

Solve the optimum for $r$: $\; r(x, y) = \beta \log \frac{\pi_{opt}(y|x)}{\rho(y|x)} + \beta \log Z(x)$. So every policy is the optimum of *some* reward, its implied one. Put that into eq. 1: the choice is among responses to one $x$, so $Z(x)$ falls out, and what is left is a loss for $\pi$ itself. No $r$, no sampling, no critic. That is DPO
(Rafailov et al. 2023), there with pairs. Write it for four.

<details><summary>Hint</summary>

It is eq. 1 with the implied rewards, $\beta (\log \pi - \log \rho)$, in the place of $r$. You have written eq. 1.
</details>
"""

# %% exercise dpo_loss
def dpo_loss(logprobs, ref_logprobs, b, beta):
    """log pi(y|x), log rho(y|x) of four responses, (N, 4); b (N,): which was
    chosen -> the mean loss."""
    # solution
    implied = beta * (logprobs - ref_logprobs)                       # (N, 4)
    return (implied.logsumexp(dim=1) - implied.gather(1, b[:, None])[:, 0]).mean()
    # end

# %% check dpo_loss
check(dpo_loss)

# %% [markdown]
r"""
Where choices are many, labelers choose as eq. 1 says and $\pi$ can be anything, it must find $\pi_{opt}$. In a world of 25 responses it does. On stories, 1,500 choices of noisy labelers must suffice (half a minute of training); beside it PPO's $\pi$, which had an $r$ of the same labels and 2,560 episodes.
"""

# %%
torch.manual_seed(0)
log_rho, r = torch.randn(25).log_softmax(dim=0), torch.randn(25)
beta = 0.5
theta = log_rho.clone().requires_grad_()
optimizer = torch.optim.Adam([theta], lr=0.05)
log_opt = (log_rho + r / beta).log_softmax(dim=0)
y = torch.multinomial(log_rho.exp(), 4 * 20_000, replacement=True).view(-1, 4)
b = torch.multinomial(r[y].softmax(dim=1), 1)[:, 0]        # labelers with no other noise
for step in course.Progress("DPO in a world of 25")(range(200)):
    loss = checks.dpo_loss(theta.log_softmax(dim=0)[y], log_rho[y], b, beta)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
log_pi = theta.detach().log_softmax(dim=0)
for name, log_p in (("rho", log_rho), ("pi by DPO", log_pi)):
    nats = (log_p.exp() * (log_p - log_opt)).sum().item()
    print(f"KL({name}, pi_opt) = {nats:.4f} nats")

# %%
def response_scores(model, tokens, lengths, starts):
    """log p(y|x): tokens (B, S); y stands at starts .. lengths - 1 -> (B,)."""
    place = torch.arange(1, tokens.size(1))
    inside = (place >= starts[:, None]) & (place < lengths[:, None])
    h = model.hidden(tokens[:, :-1])[inside]                   # no more than is needed
    logprobs = torch.zeros(inside.shape)
    logprobs[inside] = gpt.token_logprobs(model, h, tokens[:, 1:][inside],
                                          cfg.temperature)
    return logprobs.sum(dim=1)

tokens, lengths, best = collate(run.train, tokenizer, rho.shape["block_size"])
starts = torch.tensor([len(tokenizer.encode(c.query)) for c in run.train])
starts = starts[:, None].expand(-1, 4)

def train_dpo(beta, lr=4e-4):
    torch.manual_seed(0)
    pi = copy.deepcopy(rho)
    optimizer = torch.optim.Adam(pi.parameters(), eps=1e-5)
    batches = torch.randperm(len(best)).split(8)
    for step, rows in enumerate(course.Progress("DPO")(batches)):
        gpt.set_learning_rate(optimizer, lr * (1 - step / len(batches)))
        four = [a[rows].flatten(0, 1) for a in (tokens, lengths, starts)]
        now = response_scores(pi, *four).view(-1, 4)
        with torch.no_grad():
            reference = response_scores(rho, *four).view(-1, 4)
        loss = checks.dpo_loss(now, reference, best[rows], beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return pi

policies = {"PPO": rlhf.load(copy.deepcopy(rho), course.OUT / "policy.pt", "policy"),
            "DPO": train_dpo(beta=0.2)}
print(f"{len(run.train):,} labels of four, {4 * len(run.train):,} texts; "
      f"PPO had {cfg.episodes:,} episodes")
queries = sample_queries(run.queries["evaluation"], 256)
for name, pi in policies.items():
    torch.manual_seed(1)
    found = evaluate.sample_and_score(pi, rho, [run.reward, run.true],
                                      query_batches(queries), sampling)
    print(f"{name:4} r {found.score.mean():+.2f}   true {found.true.mean():+.2f}   "
          f"KL {found.kl.mean():5.2f}")

# %% [markdown]
r"""
DPO gains less than PPO here, by r and by the true reward, at about as many nats. It has seen 6,000 texts of $\rho$, and never one of its own.

## After 2019

The recipe stayed; nearly every part was exchanged.

- **Summaries and assistants.** Stiennon et al. 2020 made the summaries work that are section 3.2 here, with better labels and a larger $r$. InstructGPT (Ouyang et al. 2022) and Bai et al. 2022 first tune on demonstrations; $\rho$ is then that model. Pairs, or rankings of several, took the place of the best of four.
- **The critic** got a trunk of its own, as in this course, and was then left out: RLOO (Ahmadian et al. 2024) and GRPO (Shao et al. 2024) take the mean of several responses to one prompt as the baseline.
- **Without RL.** Best-of-$n$ and tuning on its winners; DPO and its relatives. They learn from fixed comparisons; PPO's samples are $\pi$'s own, from wherever it has got to.
- **The price of KL** is mostly a fixed $\beta$; the controller went out of use. Some put the KL into the loss in the place of the reward.
- **Over-optimization** got its laws (Gao et al. 2022), and labels of models took the place of many people's (Bai et al. 2022b, constitutional AI).
- **Rewards that can be checked**, such as an answer in mathematics or a test that runs, need no $r$, and can bear more optimization.

What has not changed: someone decides what is better, and a policy finds out what that decision has overlooked.

## Homework

1. `python -m extras.paper figure 2` (or 3, 4) draws the paper's figures from stored runs; the texts are in `extras/results/README.md`. For each: which of the paper's findings are here, which are not, and what would you try?
2. Turn both signs, that of $r$ and that of the KL (`broken_runs.py` shows how to exchange a function). Predict the score, the true reward and the KL first.
3. Halve $\beta$ again and again at `kl_target` 0, and read ten samples of each. Where would *you* stop? Where does the true reward say so?
4. What did $\pi$ learn in your runs that nobody asked for? What would you have labelers look at?
5. In `extras/results/summaries.md` policies learn to summarize (section 3.2), and copy. On its map, is it $q$ or $s$ that makes the optimum copy? Why does PPO copy for both kinds of labelers? What would you tell the labelers, and which number says that it helps?
"""
