# The source of session 3: see build.py.

# %% [markdown]
r"""
# 3. From REINFORCE to PPO

A language model $\rho$ and a reward $r(x,y)$ are given. **How does a policy $\pi$, which starts as $\rho$, come to earn more of $r$,
if all it can do is say something and be told what it was worth?**

Before: sections 2 (eq. 2) and 2.2 of the paper. Of probability: an expectation, and a KL divergence. After: `ppo.py`, most of which you
will have written. The *advantage* $A$ of a thing said is how much better than expected it turned out; $\beta$ is the price of a nat of KL($\pi$, $\rho$).
"""

# %% setup
import itertools
from dataclasses import replace

import torch
from IPython.display import display
from torch.optim.lr_scheduler import LinearLR

import course
import evaluate
import gpt
import ppo
from checks import check
from course import plt
from text import QuerySampler

course.style()
run = course.small_run()               # two to four minutes the first time
cfg, rho, tokenizer, sampling = run.cfg, run.rho, run.tokenizer, run.sampling
reward = run.reward

# %% [markdown]
r"""
## A world of 25 responses

Five words, two to a response, one query. Here every expectation is a sum, so we can see what sampling gets wrong. A tiny GPT is $\rho$; each response has a random reward.
Our first policy is a table `theta` of 25 numbers, $\pi=\mathrm{softmax}(\theta)$.
"""

# %%
torch.manual_seed(0)
tiny = gpt.GPT(vocab_size=5, block_size=4, n_layer=1, n_head=2, n_embd=32)
every = torch.tensor(list(itertools.product(range(5), repeat=2)))        # (25, 2)
names = ["".join("abcde"[word] for word in y) for y in every.tolist()]
r = torch.randn(25)                                                      # r of each
tiny_query = torch.tensor([[1, 2]])

@torch.no_grad()
def log_p(model):                      # log p(y | x) of all 25
    query = tiny_query.expand(25, -1)
    return gpt.response_logprobs(model, query, every, temperature=1.0).sum(dim=1)

log_rho = log_p(tiny)
theta = log_rho.clone().requires_grad_()
print(f"E[r] under rho: {(log_rho.exp() * r).sum():.3f}; the best response, "
      f"{names[r.argmax()]}, has r = {r.max():.2f}")

# %% [markdown]
r"""
## Why not simply backpropagate?

Supervised learning would follow the derivative of $r(y)$ by $\theta$. But $y$ is *drawn*: an integer, which does not move a little when
$\theta$ does. The chain is cut:
"""

# %%
y = torch.multinomial(theta.softmax(dim=0), num_samples=1)
print(f"y = {names[y]}, r(y) = {r[y].item():.2f}; depends on theta, says torch:",
      r[y].requires_grad)

# %% [markdown]
r"""
What does move with $\theta$ is how *often* each $y$ is drawn:

$$\nabla\mathbb{E}[r]=\sum_y r(y)\,\nabla\pi(y)=\sum_y \pi(y)\,r(y)\,\nabla\log\pi(y)=\mathbb{E}\,[\,r(y)\,\nabla\log\pi(y)\,],$$

because $\nabla\pi=\pi\nabla\log\pi$. The last form is an expectation over what $\pi$ says, so it can be sampled: say something; if it was
good, make it likelier. That is REINFORCE (Williams 1992). Nobody differentiates $r$, which may be a person.

For a softmax, $\nabla\log\pi(y)$ is one-hot of $y$ less $\pi$. Three ways to the same gradient:
"""

# %%
expected = (theta.softmax(dim=0) * r).sum()
exact, = torch.autograd.grad(expected, theta)              # knows all 25 rewards

def sampled(n, baseline=0.0, shift=0.0):
    """n one-sample gradients (n, 25). shift: added to every reward."""
    p = theta.detach().softmax(dim=0)
    y = torch.multinomial(p, n, replacement=True)
    grad_log_pi = torch.nn.functional.one_hot(y, 25) - p
    return (r[y] + shift - baseline)[:, None] * grad_log_pi

def error(estimate):                   # relative to the exact gradient
    return ((estimate - exact).norm() / exact.norm()).item()

p = theta.detach().softmax(dim=0)
print(f"the formula, summed over all 25: error {error(p * (r - expected.detach())):.4f}")
torch.manual_seed(0)
for n in (10, 100, 1000, 10_000):
    print(f"mean of {n:6,} samples:         error {error(sampled(n).mean(dim=0)):.4f}")

# %% [markdown]
r"""
## The baseline

Add 3 to every reward. Some responses are still better than others; but now *everything* that is said is made likelier, and what is not said suffers. In
the mean it evens out, since $\mathbb{E}[\nabla\log\pi]=\sum\nabla\pi=\nabla1=0$: any constant may be subtracted from $r$. The noise it leaves is another matter.
"""

# %%
torch.manual_seed(0)
cases = {"r": (0.0, 0.0), "r + 3": (0.0, 3.0),
         "r + 3, less its mean": (expected.item() + 3, 3.0)}
noise = {}
for name, (baseline, shift) in cases.items():
    gradients = sampled(20_000, baseline, shift)
    noise[name] = gradients.var(dim=0).sum().item()
    print(f"{name:21} error of the mean {error(gradients.mean(dim=0)):.2f}, "
          f"variance of one sample {noise[name]:6.2f}")

fig, ax = plt.subplots(figsize=(7, 1.8))
ax.barh(list(noise), noise.values(), color=[course.RHO, course.REWARD, course.PI])
for i, value in enumerate(noise.values()):
    ax.text(value, i, f" {value:.1f}", va="center")
ax.set(xlabel="variance of a one-sample gradient")
ax.invert_yaxis()
plt.show()

# %% [markdown]
r"""
## The ratio and the clip

Samples are dear: why not take several steps on the same? After the first, $\pi$ is no longer what drew them. Weighting each by the ratio $\pi(y) / \pi_{old}(y)$
makes up for that, for $\mathbb{E}_{\pi_{old}}[\frac{\pi}{\pi_{old}} A]=\sum\pi A=\mathbb{E}_\pi[A]$: exact in the mean, but noisier the further $\pi$ goes. At 1 its gradient *is* $A \nabla\log\pi$. A few steps on, $\pi$ chases the noise of the few samples it has. PPO (Schulman et al. 2017, eq. 7) stops a sample's pull once its
ratio has gone far enough **in its advantage's direction**.

## Exercise 3.1: the clipped loss

Difficulty 3 of 5 · importance 5 of 5 · 20 minutes

The objective of a token is the *smaller* of $A \cdot$ ratio and $A \cdot$ (ratio kept within $1-\epsilon .. 1+\epsilon$). Return its negated mean, and the share of tokens whose
gradient the clip has stopped.

<details><summary>Hint</summary>

Negated, the smaller becomes the larger: `torch.maximum` of two losses. The clip has stopped a token where the clipped loss is *strictly* larger.
On paper, $\epsilon=.2$, ratio 1.5: $A=1$ costs $-1.2$, stopped; $A=-1$ costs $1.5$, not stopped, for it should come back.
</details>
"""

# %% exercise policy_loss
def policy_loss(logprobs, old_logprobs, advantages, clip):
    """log pi of each token, now and when it was drawn, and its A, all of one shape ->
    the loss and the share clipped, two tensors of shape ()."""
    # solution
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    clipfrac = (clipped > unclipped).float().mean()
    return torch.maximum(unclipped, clipped).mean(), clipfrac
    # end

# %% check policy_loss
check(policy_loss)

# %%
ratio = torch.linspace(0.4, 1.6, 121)
fig, axes = plt.subplots(1, 2, figsize=(9, 2.8))
for ax, A in zip(axes, (1.0, -1.0)):
    each = [-ppo.policy_loss(one, torch.zeros(()), torch.tensor(A), 0.2)[0]
            for one in ratio.log()]
    ax.plot(ratio, A * ratio, color=course.RHO, ls=":")
    ax.plot(ratio, each, color=course.PI)
    flat = (ratio > 1.2) if A > 0 else (ratio < 0.8)
    ax.fill_between(ratio, A - 0.7, A + 0.7, where=flat, color="0.92")
    ax.text(1.4 if A > 0 else 0.6, A - 0.55, "no gradient", ha="center")
    ax.set(title=f"A = {A:+.0f}", xlabel="ratio pi(y) / pi_old(y)",
           ylabel="A x ratio", ylim=(A - 0.7, A + 0.7))
axes[0].text(1.45, 1.55, "unclipped", color=course.RHO, ha="right")
axes[0].text(1.58, 1.08, "PPO", color=course.PI, ha="right")
axes[1].text(0.6, -0.5, "unclipped", color=course.RHO)
axes[1].text(0.42, -0.92, "PPO", color=course.PI)
plt.show()

# %% [markdown]
r"""
Left of 0.8 with $A > 0$ the line is not flat: what has gone the wrong way is pulled back. That is what the minimum is for.

Now the four, each with one idea more than the last, on $\mathbb{E}[r]-\beta\,$KL with $\beta=.5$: 200 learners each, 16 samples an update. The best that any policy can do
is known (paper 3.1.1). For $\pi_{opt}=\rho\,e^{r / \beta} / Z$ with $Z=\sum_y \rho\,e^{r / \beta}$, put $r=\beta\log\frac{\pi_{opt}}{\rho}+\beta\log Z$ into the objective:

$$\mathbb{E}_\pi[r]-\beta\,\mathrm{KL}(\pi,\rho)=\beta\log Z-\beta\,\mathrm{KL}(\pi,\pi_{opt}).$$

A KL is never negative, and is 0 only at $\pi=\pi_{opt}$. So the best is $\beta\log Z$.
"""

# %%
beta = 0.5
best = beta * torch.logsumexp(log_rho + r / beta, dim=0).item()          # beta log Z

def objective(log_pi):
    return (log_pi.exp() * (r - beta * (log_pi - log_rho))).sum(dim=-1)

def learn(loss_of, steps, learners=200, updates=40, rate=0.15):
    """The mean objective of many learners before each update, all 25 counted."""
    torch.manual_seed(0)
    theta = log_rho.repeat(learners, 1).requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=rate)
    curve = []
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = rate * (1 - update / updates)
        log_pi = theta.detach().log_softmax(dim=1)
        curve.append(objective(log_pi).mean().item())
        y = torch.multinomial(log_pi.exp(), 16, replacement=True)        # (learners, 16)
        old = log_pi.gather(1, y)
        R = r[y] - beta * (old - log_rho[y])                             # held fixed: 3.2
        A = R - R.mean(dim=1, keepdim=True)    # of 16, its own too: 15/16 of the step
        for _ in range(steps):
            now = theta.log_softmax(dim=1).gather(1, y)
            loss = loss_of(now, old, R, A)
            optimizer.zero_grad()
            (learners * loss).backward()
            optimizer.step()
    return curve

reinforce = lambda now, old, R, A: -(now * (R + 3)).mean()
with_baseline = lambda now, old, R, A: -(now * A).mean()
with_ratio = lambda now, old, R, A: -((now - old).exp() * A).mean()
clipped = lambda now, old, R, A: ppo.policy_loss(now, old, A, clip=0.2)[0]
curves = {"REINFORCE, r + 3": learn(reinforce, steps=1),
          "less a baseline": learn(with_baseline, steps=1),
          "8 steps, unclipped": learn(with_ratio, steps=8),
          "8 steps, clipped": learn(clipped, steps=8)}
fig, ax = plt.subplots(figsize=(8, 3.2))
colors = [course.RHO, course.VALUE, course.REWARD, course.PI]
for (name, curve), color in zip(curves.items(), colors):
    ax.plot(curve, color=color)
    aside = {"8 steps, clipped": 4, "8 steps, unclipped": -6}.get(name, 0)
    course.at_end(ax, range(len(curve)), curve, name, color, dy=aside)
course.limit(ax, best, "best possible", x=0.25)
ax.set(xlabel="update (16 samples each)", ylabel="E[r] - beta KL", xlim=(0, 39),
       ylim=(None, best + 0.06))
plt.show()
for name, curve in curves.items():
    print(f"{name:18} after 10 updates {curve[10]:+.3f}, after 39 {curve[39]:+.3f}")
print(f"best possible {best:.3f}")
slow = [learn(loss_of, steps=8, rate=0.03)[39] for loss_of in (with_ratio, clipped)]
print(f"8 steps at a fifth of the rate: unclipped {slow[0]:+.3f}, clipped {slow[1]:+.3f}")

# %% [markdown]
r"""
Eight steps learn faster; without the clip they learn the noise of 16 samples. At a small enough rate the clip has little to do. The baseline's gain here is that of the added 3.

## Exercise 3.2: eq. 2, a token at a time

Difficulty 3 of 5 · importance 5 of 5 · 20 minutes

$R(x,y)=r(x,y)-\beta\log\frac{\pi(y|x)}{\rho(y|x)}$. Without its price $\pi$ would leave $\rho$, and so the texts from which $r$ was learned. Why in the reward, and not as a loss? Differentiate the sampled log-ratio, and the mean gradient is $\beta\,\mathbb{E}[\nabla\log\pi]=0$: no pull at all. So $R$ may be held fixed, though it contains $\pi$; paid as a reward, the KL pulls like any other.

A response is many tokens, and $\log\pi(y|x)$ is a sum over them. So each token pays for its own log-ratio,
and $r$ arrives with the response's last token (its period, if it has one), the last where `response_mask` is true: it is a reward of the whole response, so no token may come after it. After it all is 0.

<details><summary>Hint</summary>

`response_mask.sum(dim=1) - 1` is the place of the last token of each row; `rewards[torch.arange(B), last] += score`. Check: each row's sum must be eq. 2.
</details>
"""

# %% exercise token_rewards
def token_rewards(score, logprobs, ref_logprobs, beta, response_mask):
    """score: r of each response (B,). log pi, log rho and the mask of its tokens (B, T)
    -> the reward of each token, (B, T)."""
    # solution
    rewards = -beta * (logprobs - ref_logprobs) * response_mask      # (B, T)
    last = response_mask.sum(dim=1) - 1                              # (B,)
    rewards[torch.arange(len(score)), last] += score
    return rewards
    # end

# %% check token_rewards
check(token_rewards)

# %% [markdown]
r"""
## Exercise 3.3: which token has earned it?

Difficulty 3 of 5 · importance 4 of 5 · 25 minutes

A *critic* $V_t$, a second network, says before token $t$ what reward is still to come. The surprise of token $t$, whose reward is $R_t$ (from 3.2), is $\delta_t=R_t+V_{t+1}-V_t$; after the last token
$V$ is 0. Generalized advantage estimation (Schulman et al. 2016) hands a share $\lambda$ of it back: $A_t=\delta_t+\lambda A_{t+1}$.
With $\lambda=1$, $A_t$ is all that came from $t$ on, less $V_t$: right, but noisy. With $\lambda=0$ it is one step: calm, but only as right as $V$.

Why may $V_t$ be subtracted? What was paid before token $t$ does not depend on it, so only what comes after counts. And a baseline may depend on all that was said before $t$: given that, $\mathbb{E}[\nabla\log\pi(y_t)]$ is still 0. After a response's end rewards and values are already 0, so no mask is needed.

<details><summary>Hint</summary>

Go from the last token to the first, and carry two numbers along: the value and the advantage of the token after. On paper: rewards (0, 0, 3), values (0, 1, 2), $\lambda=.5$ give (1.75, 1.5, 1).
</details>
"""

# %% exercise gae
def gae(rewards, values, lam):
    """rewards, values (B, T) -> advantages (B, T)."""
    # solution
    advantages = torch.zeros_like(rewards)
    next_value = torch.zeros_like(rewards[:, 0])                     # (B,)
    next_advantage = torch.zeros_like(rewards[:, 0])                 # (B,)
    for t in reversed(range(rewards.size(1))):
        delta = rewards[:, t] + next_value - values[:, t]
        next_advantage = delta + lam * next_advantage
        advantages[:, t] = next_advantage
        next_value = values[:, t]
    return advantages
    # end

# %% check gae
check(gae)

# %% [markdown]
r"""
A reward of 1 after 24 tokens; a critic that knows nothing, and one that sees at token 10 that it will be good. Slide $\lambda$: who is praised?
"""

# %%
R = torch.zeros(1, 24)
R[0, -1] = 1.0
critics = {"V = 0": torch.zeros(1, 24),
           "V = .2 up to token 10, then .9":
               torch.where(torch.arange(24) <= 10, 0.2, 0.9)[None]}
frames = {}
for lam in (0.0, 0.5, 0.8, 0.95, 1.0):
    fig, axes = plt.subplots(1, 2, figsize=(8, 2.3), sharey=True)
    for ax, (title, values) in zip(axes, critics.items()):
        ax.bar(range(24), ppo.gae(R, values, lam)[0], color=course.PI)
        ax.set(title=f"{title}; lambda = {lam:g}", xlabel="token of the response",
               ylim=(0, 1.05))
    axes[0].set_ylabel("A (reward)")
    frames[lam] = fig
display(course.Slider("lambda", frames))

# %% [markdown]
r"""
## PPO reaches the optimum of the world of 25

The project's `ppo_update`, which runs on your three functions, with the tiny GPT as $\pi$ and a critic: 60 updates of 256 samples. It knows nothing of the formula for $\pi_{opt}$.
"""

# %%
def whole(response):                   # in the place of truncate: all of it counts
    B, T = response.shape
    return torch.full((B,), T), torch.ones(B, dtype=torch.bool)

def tiny_reward(query, response):
    return r[5 * response[:, 0] + response[:, 1]]

threads = torch.get_num_threads()
torch.set_num_threads(1)               # the smallest models are fastest on one core
torch.manual_seed(0)
tiny_sampling = gpt.Sampling(response_length=2, temperature=1.0, truncate=whole)
tiny_cfg = replace(cfg, temperature=1.0, epochs=4, minibatches=1)
student, path = ppo.Policy(tiny), []
optimizer = torch.optim.Adam(student.parameters(), eps=1e-5)
for update in course.Progress("PPO")(range(60)):
    gpt.set_learning_rate(optimizer, 4e-3 * (1 - update / 60))
    batch = ppo.rollout(student, tiny, tiny_reward, tiny_query.expand(256, -1),
                        tiny_sampling)
    ppo.ppo_update(student, optimizer, batch, beta, tiny_cfg)
    path.append(objective(log_p(student.trunk)).item())
torch.set_num_threads(threads)

log_pi, log_opt = log_p(student.trunk), (log_rho + r / beta).log_softmax(dim=0)
order = log_opt.argsort(descending=True)
fig, (left, right) = plt.subplots(1, 2, width_ratios=[3, 2])
left.semilogy(log_opt[order].exp(), "o", color=course.LIMIT, mfc="none", ms=9)
left.semilogy(log_pi[order].exp(), "o", color=course.PI, ms=4)
left.semilogy(log_rho[order].exp(), "x", color=course.RHO)
for text, color, height in (("pi by PPO", course.PI, 0.95), ("rho", course.RHO, 0.75),
                            ("optimum (rings)", course.LIMIT, 0.85)):
    left.text(0.97, height, text, color=color, transform=left.transAxes, ha="right")
left.set_xticks(range(25), [names[i] for i in order], rotation=90)
left.set(xlabel="response", ylabel="probability")
right.plot(path, color=course.PI)
course.limit(right, best, "best possible")
right.set(xlabel="update", ylabel="E[r] - beta KL", ylim=(None, best + 0.05))
plt.show()
kl = (log_pi.exp() * (log_pi - log_opt)).sum().item()
print(f"E[r] - beta KL: rho {objective(log_rho):.3f}, PPO {path[-1]:.3f}, "
      f"best {best:.3f}; KL(pi, pi_opt) = {kl:.3f} nats")

# %% [markdown]
r"""
## The loop

And now on stories. Everything that `rlhf.py` does to $\pi$ stands in this cell: say something, score it, price it, ask which token earned it, take four steps on quarters of the batch; then the new price (session 4). $V$'s loss is clipped the same way, and weighs `vf_coef`. Twenty updates are too few for KL to reach its target, so $\beta$ only falls.
`say` asks the same two questions before some updates.
"""

# %%
sampler = QuerySampler(run.queries["policy"], "cpu")
two = run.queries["evaluation"][11][[3, 40]]               # two queries of 11 tokens
said = {}

@torch.no_grad()
def say(pi):
    with torch.random.fork_rng():      # the loop's own chance stays as it is
        torch.manual_seed(1)
        response, length, _ = gpt.generate_finished(pi.trunk, two, sampling)
        texts = [tokenizer.decode(ids[:n]) for ids, n in zip(response.tolist(), length)]
        return texts, reward(two, response).tolist()

# %%
updates = cfg.episodes // cfg.batch_size
plot = course.LivePlot({"score": ("r of the batch", course.REWARD, None),
                        "kl": ("KL (nats)", course.PI, cfg.kl_target),
                        "beta": ("beta (reward per nat)", course.VALUE, None)})
evaluate.seeded(cfg.seed, "policy")
pi = ppo.Policy(rho)
optimizer = ppo.policy_optimizer(pi, cfg)
to_zero = LinearLR(optimizer, 1.0, 0.0, updates)
kl_control = ppo.AdaptiveKL(cfg.beta, cfg.kl_target, cfg.K)
for update in range(updates):
    if update % 5 == 0:
        said[update] = say(pi)
    query = sampler.sample(cfg.batch_size)
    batch = ppo.rollout(pi, rho, reward, query, sampling)
    mask = batch.response_mask
    rewards = ppo.token_rewards(batch.score, batch.logprobs, batch.ref_logprobs,
                                kl_control.beta, mask)
    advantages = ppo.gae(rewards, batch.values, cfg.lam)
    returns = advantages + batch.values              # what V should have said
    advantages[mask] = ppo.whiten(advantages[mask])  # mean 0, variance 1: known steps
    for rows in torch.randperm(len(query)).tensor_split(cfg.minibatches):
        kept = mask[rows]
        h = gpt.response_states(pi.trunk, query[rows], batch.response[rows])
        now = gpt.token_logprobs(pi.trunk, h[kept], batch.response[rows][kept],
                                 cfg.temperature)
        values = pi.values(query[rows], batch.response[rows], h)[kept]
        loss, _ = ppo.policy_loss(now, batch.logprobs[rows][kept], advantages[rows][kept],
                                  cfg.clip)
        loss_v = ppo.value_loss(values, batch.values[rows][kept], returns[rows][kept],
                                cfg.clip)
        optimizer.zero_grad(set_to_none=True)
        (loss + cfg.vf_coef * loss_v).backward()
        optimizer.step()
    kl = ppo.response_kl(batch.logprobs, batch.ref_logprobs, mask).mean().item()
    plot.add({"score": batch.score.mean().item(), "kl": kl, "beta": kl_control.beta})
    kl_control.update(kl)
    to_zero.step()
said[updates] = say(pi)

# %% [markdown]
r"""
Is it `rlhf.py`'s? The course's run was made by that script, from the same seed. (A sum in another order is rounded differently. One day that makes another token, and from there two runs part.)
"""

# %%
for key in ("score", "kl", "beta"):
    gaps = [abs(ours[key] - theirs[key]) for ours, theirs in zip(plot.log, run.log)]
    same = next((i for i, gap in enumerate(gaps) if gap > 1e-4), updates)
    print(f"{key:5} is that of the run's own log in the first {same} of {updates} "
          f"updates; largest difference {max(gaps):.0e}")

# %%
for i in range(2):
    print(tokenizer.decode(two[i].tolist()))
    for update, (texts, scores) in said.items():
        print(f"  before update {update:2}   r {scores[i]:+.2f}   {texts[i]}")
    print()

# %% [markdown]
r"""
## What the critic says

One response of $\pi$, of 64 the one with the largest surprise before its last token. $V$: expected before the token; $\delta$: its surprise; $A$: its praise. Orange is above 0, blue below; hover for numbers. With $\lambda=.95$ the last surprise reaches back over the whole response, so compare $\delta$. Where did the critic change its mind?
"""

# %%
torch.manual_seed(4)
batch = ppo.rollout(pi, rho, reward, sampler.sample(64), sampling)
mask = batch.response_mask
rewards = ppo.token_rewards(batch.score, batch.logprobs, batch.ref_logprobs,
                            kl_control.beta, mask)
next_values = torch.cat([batch.values[:, 1:], torch.zeros(64, 1)], dim=1)
delta = rewards + next_values - batch.values
A = ppo.gae(rewards, batch.values, cfg.lam)
before_last = mask[:, 1:]              # true where the next token is in the response
i = int((delta[:, :-1].abs() * before_last).amax(dim=1).argmax())
n = int(mask[i].sum())
words = [tokenizer.tokens[t].decode(errors="replace") for t in batch.response[i, :n]]
notes = [f"V {v:+.2f}, paid {p:+.2f}, delta {d:+.2f}, A {a:+.2f}" for v, p, d, a in
         zip(batch.values[i], rewards[i], delta[i], A[i])]
rows = [list(zip(words, row[i, :n].tolist(), notes)) for row in (batch.values, delta, A)]
print("after:", tokenizer.decode(batch.query[i].tolist()), f"r = {batch.score[i]:+.2f}")
display(course.ColoredTokens(rows, scale=1.5, titles=["V", "delta", "A"]))
explained = [stats["explained_variance"] for stats in run.log]
print(f"share of the returns' variance that V foresaw: {explained[0]:.2f} in the first "
      f"update, {explained[-1]:.2f} in the last")

# %% [markdown]
r"""
## What a slow critic costs

In the released code $V$ is a head on $\pi$'s trunk (the transformer below the heads) and learns at $\pi$'s rate. Measured on default runs (`extras/README.md`, "Which critic": three worlds each, 12,288 episodes). EV: the share of variance that $V$ foresaw; share: what $\pi$ got of the optimum's gain. The two heads ran with other settings, too (four epochs of whole batches, half of $\pi$'s rate and of the first $\beta$); the ring is an own trunk with those, in one run.
"""

# %%
critic = course.which_critic(12_288)
fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharex=True)
for ax, (task, rows) in zip(axes, critic.items()):
    known = [(row["EV"], row["share"]) for row in rows if row["EV"] is not None]
    ax.plot(*zip(*known), "o", color=course.VALUE)
    for row in rows:
        if row["EV"] is None:
            course.limit(ax, row["share"], "no critic", x=0.3)
        else:
            offset = (6, -4)
            if row["short"] == "own trunk":
                offset = (-62, -4) if task == "sentiment" else (-58, -16)
            ax.annotate(row["short"], (row["EV"], row["share"]), offset,
                        textcoords="offset points")
        EV = "none" if row["EV"] is None else f"{row['EV']:.2f}"
        print(f"{task:16} {row['name']:38} share {row['share']:.3f}, EV {EV}, "
              f"{row['nats']:.2f} nats from the optimum")
    ax.set(title=task, xlabel="EV of the critic", xlim=(0.2, 1))
    ax.margins(y=0.2)
same = course.own_trunk_with_the_heads_settings()
axes[1].plot(same["EV"], same["share"], "o", color=course.VALUE, mfc="none")
print(f"{'descriptiveness':16} {'own trunk, with the settings of the heads':38} share "
      f"{same['share']:.3f}, EV {same['EV']:.2f}, {same['nats']:.2f} nats from the optimum")
axes[0].set_ylabel("share of the optimum's gain")
plt.show()

# %% [markdown]
r"""
A critic that learns too slowly is no baseline, and $\pi$ pays nats for steps into noise. With a trunk and a rate of its own it keeps up. The mean of the other responses to the same query is nearly as good, and needs no critic.

## To think about

1. $\lambda=1$ and $V=0$: which of the four learners above is that (before whitening, with a response as one action)?
2. Why is $r$ paid at the last token, and the KL at each? Would the optimum change if all came at the end? Would learning?
3. Why may the log-ratio of one response be negative, and KL($\pi$, $\rho$) not?
4. Before the first step of an update every ratio is 1 and the policy loss over the whole batch, with whitened advantages, 0. Why is its gradient not 0? What would a ratio that is *not* 1 there tell you?
5. Give `learn` a rate of .5, and 40 steps. What does the clip still prevent, and what not?
"""
