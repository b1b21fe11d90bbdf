"""
ppo.py: proximal policy optimization of a language model, at a price for leaving rho.

Papers: Ziegler et al. 2019, 2 (eq. 2), 2.2; Schulman et al. 2017 (PPO), 2016 (GAE);
Kool et al. 2019, Ahmadian et al. 2024 (without a critic).
In:  rho, a plain function reward(query, response) -> (B,), queries     Out: a policy pi
Not here: where the reward comes from (reward.py), the loop over updates (rlhf.py)

Letters: B batch, Q query tokens, T response tokens, C channels; N the response tokens of
a batch, without those after the ends; beta the price of one nat of KL(pi, rho), in units
of reward. Column t of a (B, T) belongs to the response token y_t. The value there is
V(x, y_<t), given before y_t was drawn.

Omitted: an entropy bonus (the KL term is one already); gradient clipping (PPO2 clips at
norm 0.5, the released code does not); the discount (gamma is 1 in paper and code).

Departures from the released code. The episode ends where the response is truncated: what
was sampled after that enters neither eq. 2, nor GAE, nor the losses. (There, all tokens
are paid for and trained, although nobody ever sees those after the period.) The value
function has a trunk and a rate of its own: see Policy. Advantages are whitened over the
batch, not over each minibatch. (Settings that differ: the README's table.)
"""

import copy
from typing import NamedTuple

import torch
import torch.nn as nn

from gpt import generate, response_logprobs, response_states, token_logprobs

CRITICS = ["own", "shared", "none"]


class Policy(nn.Module):
    """pi, a trunk; and its critic, the value function V, a head on a trunk.

    critic: with "own", V's trunk is its own, and starts as rho. With "shared" it is pi's,
    as in the released code. With "none" there is no V (see leave_one_out).

    Why not shared, as released? V must learn fast, and pi slowly. With one trunk at pi's
    rate, V foresaw some .3 to .6 of the returns' variance, with its own .8 to .9, and pi
    came that much closer to the optimum (extras/README.md, "Which critic"). And where
    returns are large, at a high beta, V's gradient on a shared trunk drives pi away."""

    def __init__(self, rho, critic="own"):
        super().__init__()
        self.trunk = copy.deepcopy(rho)
        self.value_trunk, self.value_head = None, None
        if critic != "none":
            self.value_trunk = self.trunk if critic == "shared" else copy.deepcopy(rho)
            self.value_head = nn.Linear(rho.shape["n_embd"], 1, device=rho.device)
            # The value starts at 0 everywhere: a random one would be noise in the first
            # advantages.
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def values(self, query, response, h=None):
        """V(x, y_<t) of every response token: (B, Q), (B, T) -> (B, T). h (B, T, C): pi's
        states there, if they are known, so that a shared trunk need not read again."""
        if self.value_head is None:
            return torch.zeros(response.shape, device=response.device)
        if h is None or self.value_trunk is not self.trunk:
            h = response_states(self.value_trunk, query, response)
        return self.value_head(h)[..., 0]


def policy_optimizer(pi, cfg):
    """Adam, on pi's trunk at one rate, on what V has of its own at another."""
    of_v = [p for name, p in pi.named_parameters() if not name.startswith("trunk.")]
    groups = [{"params": list(pi.trunk.parameters()), "lr": cfg.lr},
              {"params": of_v, "lr": cfg.critic_lr}]
    return torch.optim.Adam(groups, eps=1e-5, fused=True)


# --- the mathematics: functions of tensors ----------------------------------------------

def token_rewards(score, logprobs, ref_logprobs, beta, response_mask):
    """Eq. 2, R(x, y) = r(x, y) - beta log(pi(y|x) / rho(y|x)), paid one token at a time.

    score (B,), all others (B, T) -> (B, T). Every token pays for its own log-ratio, and
    r(x, y) arrives with the last one. After the end of the response all is 0."""
    rewards = -beta * (logprobs - ref_logprobs) * response_mask      # (B, T)
    last = response_mask.sum(dim=1) - 1                              # (B,)
    rewards[torch.arange(len(score)), last] += score
    return rewards


def gae(rewards, values, lam):
    """Generalized advantage estimation (Schulman et al. 2016, eq. 16), with gamma = 1.

    rewards, values (B, T) -> advantages (B, T):  A_t = delta_t + lam A_{t+1}, where
    delta_t = reward_t + V_{t+1} - V_t. After the last token V and A are 0; so they are
    after the end of a response, because rewards and values are 0 there.

    With lam = 1, A_t is all reward from t on less V_t: right on average, but noisy. With
    lam = 0 it is one step, delta_t: calm, but right only if V is. 0.95 lies between."""
    advantages = torch.zeros_like(rewards)
    next_value = torch.zeros_like(rewards[:, 0])                     # (B,)
    next_advantage = torch.zeros_like(rewards[:, 0])                 # (B,)
    for t in reversed(range(rewards.size(1))):
        delta = rewards[:, t] + next_value - values[:, t]
        next_advantage = delta + lam * next_advantage
        advantages[:, t] = next_advantage
        next_value = values[:, t]
    return advantages


def leave_one_out(total, n):
    """The advantage without a critic: a response's total reward, KL penalty included,
    less the mean total of the others to the same query. All its tokens have it.

    total (B,), n to a query, side by side -> (B,). (Kool et al. 2019; REINFORCE with it
    is RLOO, Ahmadian et al. 2024.)"""
    total = total.view(-1, n)                                        # (B / n, n)
    mean_of_others = (total.sum(dim=1, keepdim=True) - total) / (n - 1)
    return (total - mean_of_others).flatten()


def whiten(a):
    """Shifted and scaled to mean 0 and standard deviation 1. Any shape.

    released code: the population's variance, with 1e-8 under the root."""
    return (a - a.mean()) * torch.rsqrt(a.var(unbiased=False) + 1e-8)


def explained_variance(values, returns):
    """The share of the returns' variance that the values foresaw: 1 is all, 0 is none, or
    nothing to foresee. Both of one shape -> a number."""
    variance = returns.var(unbiased=False).item()
    if variance < 1e-8:
        return 0.0
    return 1 - (returns - values).var(unbiased=False).item() / variance


def policy_loss(logprobs, old_logprobs, advantages, clip):
    """PPO's clipped objective (Schulman et al. 2017, eq. 7), negated, and the share
    clipped.

    All of one shape -> two scalars. The loss is the larger of two: with the ratio
    pi / pi_old as it is, and with it kept within 1 - clip .. 1 + clip. A token whose
    probability has moved further than that in its advantage's direction has no gradient
    any more. One that has moved against it keeps its gradient, and is brought back.

    A ratio of 1.5 at clip .2: A = 1 costs max(-1.5, -1.2) = -1.2, without a gradient;
    A = -1 costs max(1.5, 1.2) = 1.5, with one."""
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + clip)
    clipfrac = (clipped > unclipped).float().mean()
    return torch.maximum(unclipped, clipped).mean(), clipfrac


def value_loss(values, old_values, returns, clip):
    """Half the squared error of the value, or of the value kept within `clip` of the old
    one, whichever is worse. All of one shape -> scalar.

    Once a value has moved toward its return by more than `clip`, the term kept near is
    the larger one, and it is constant: so within an update a value moves by little more
    than `clip`. The half, with vf_coef on top, is PPO2's convention."""
    near_old = old_values + (values - old_values).clamp(-clip, clip)
    squared_error = torch.maximum((values - returns) ** 2, (near_old - returns) ** 2)
    return 0.5 * squared_error.mean()


class AdaptiveKL:
    """The price of a nat, moved until KL is at its target: section 2.2's controller.

    kl: the batch's mean of response_kl (below), in nats per response: sampled, and of the
    policy before this batch's steps. target: in nats too; 0 leaves beta as it is. At
    K = 0.1, beta moves by at most 2 % an update."""

    def __init__(self, beta, target, K):
        self.beta, self.target, self.K = beta, target, K

    def update(self, kl):
        """e = clip((KL - target) / target, -0.2, 0.2);  beta <- beta (1 + K e)."""
        if self.target > 0:
            error = (kl - self.target) / self.target
            error = min(0.2, max(-0.2, error))
            self.beta *= 1 + self.K * error


# --- one batch of episodes --------------------------------------------------------------

class Rollout(NamedTuple):
    """A batch of episodes, as seen by the policy that sampled it."""
    query: torch.Tensor            # (B, Q)
    response: torch.Tensor         # (B, T)
    response_mask: torch.Tensor    # (B, T)  True for the tokens before the response's end
    logprobs: torch.Tensor         # (B, T)  log pi(y_t | x, y_<t)
    ref_logprobs: torch.Tensor     # (B, T)  the same of rho, the reference
    values: torch.Tensor           # (B, T)  V(x, y_<t), and 0 after the end
    score: torch.Tensor            # (B,)    r(x, y)


def mask_before(length, T):
    """True at the positions before `length`: (B,) -> (B, T)."""
    return torch.arange(T, device=length.device) < length[:, None]


def response_kl(logprobs, ref_logprobs, response_mask):
    """log pi(y|x) - log rho(y|x), in nats: (B, T) each -> (B,).

    Its mean over y ~ pi is KL(pi, rho). One response, or one batch, may be below 0."""
    return ((logprobs - ref_logprobs) * response_mask).sum(dim=1)


@torch.no_grad()
def rollout(pi, rho, reward, query, sampling):
    """Sample a response to each query, ask rho how likely it was, and have it scored."""
    T, temperature, truncate = sampling
    response, logprobs = generate(pi.trunk, query, T, temperature)
    ref_logprobs = response_logprobs(rho, query, response, temperature)
    length, _ = truncate(response)
    response_mask = mask_before(length, T)
    values = pi.values(query, response) * response_mask           # (B, T)
    score = reward(query, response)
    return Rollout(query, response, response_mask, logprobs, ref_logprobs, values, score)


def advantages_and_returns(batch, beta, cfg):
    """The whitened advantages, for the policy loss, and the returns, which the values are
    to meet: advantage (before whitening) + value. (B, T) each, 0 after the end."""
    mask = batch.response_mask
    rewards = token_rewards(batch.score, batch.logprobs, batch.ref_logprobs, beta, mask)
    if cfg.whiten_rewards:               # released code: to deviation 1, the mean kept
        mean = rewards[mask].mean()
        rewards[mask] = whiten(rewards[mask]) + mean
    if cfg.critic == "none":
        advantages = leave_one_out(rewards.sum(dim=1), cfg.group_size)[:, None] * mask
    else:
        advantages = gae(rewards, batch.values, cfg.lam)
    returns = advantages + batch.values
    advantages[mask] = whiten(advantages[mask])
    return advantages, returns


# --- one update -------------------------------------------------------------------------

def ppo_step(pi, optimizer, batch, advantages, returns, cfg):
    """One Adam step on a minibatch. Returns losses and diagnostics, from before it."""
    mask = batch.response_mask
    old_logprobs = batch.logprobs[mask]                              # (N,)
    h = response_states(pi.trunk, batch.query, batch.response)       # (B, T, C)
    logprobs = token_logprobs(pi.trunk, h[mask], batch.response[mask], cfg.temperature)
    loss, clipfrac = policy_loss(logprobs, old_logprobs, advantages[mask], cfg.clip)
    # The size of the update, about KL(pi_old, pi) per token; not the KL to rho.
    approx_kl = 0.5 * ((logprobs - old_logprobs) ** 2).mean()
    stats = {"policy_loss": loss.item(), "clipfrac": clipfrac.item(),
             "approx_kl": approx_kl.item()}
    if pi.value_head is not None:
        values = pi.values(batch.query, batch.response, h)[mask]     # (N,)
        loss_v = value_loss(values, batch.values[mask], returns[mask], cfg.clip)
        stats["value_loss"] = loss_v.item()
        # vf_coef weighs V against pi on a shared trunk. For a V with its own, Adam
        # divides it out again, but where gradients are as small as its epsilon.
        loss = loss + cfg.vf_coef * loss_v
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return stats


def ppo_update(pi, optimizer, batch, beta, cfg):
    """Some epochs over one batch, in place. Returns what metrics.jsonl reports of it.

    cfg is rlhf.py's Config; of it critic, group_size, lam, whiten_rewards, epochs,
    minibatches, temperature, clip and vf_coef are used here."""
    advantages, returns = advantages_and_returns(batch, beta, cfg)
    steps = []
    for _ in range(cfg.epochs):
        order = torch.randperm(len(batch.query), device=batch.query.device)
        for rows in order.tensor_split(cfg.minibatches):
            minibatch = Rollout(*[field[rows] for field in batch])
            steps.append(ppo_step(pi, optimizer, minibatch, advantages[rows],
                                  returns[rows], cfg))

    mask = batch.response_mask
    score = batch.score.mean().item()
    kl = response_kl(batch.logprobs, batch.ref_logprobs, mask).mean().item()
    stats = {"score": score, "kl": kl, "beta": beta, "total": score - beta * kl}
    if pi.value_head is not None:
        foreseen = explained_variance(batch.values[mask], returns[mask])
        stats["explained_variance"] = foreseen
    for key in steps[0]:
        stats[key] = sum(step[key] for step in steps) / len(steps)
    return stats
