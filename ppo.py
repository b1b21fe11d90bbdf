"""
ppo.py: proximal policy optimisation of a language model against any reward, not far from rho.

Papers: Ziegler et al. 2019, section 2, eq. 2, 2.2, 3.1 (the period rule) and 3.1.1 (the optimum);
Schulman et al. 2017 (PPO), 2016 (GAE).
In:  rho, a plain function score(x, y) -> (B,), queries         Out: a policy pi
Not here: where the score comes from (reward.py), what it is good for (rlhf.py).

Letters: B batch, Q query tokens, T response tokens; x query, y response; beta the price of one nat
of KL(pi, rho) in units of reward. Column t of a (B, T) belongs to token y_t; the value there is
V(x, y_<t), said before y_t was drawn.

Deleted here: an entropy bonus and gradient clipping (PPO2 clips at norm .5, the released code has
neither), the discount (gamma is 1 in paper and code). A response ends where it is cut, and so does
the episode: what the sampler wrote behind the cut is not there for eq. 2, GAE or the losses
(released code: it is).
"""

import copy
import math
from typing import NamedTuple

import torch
import torch.nn as nn

from files import UserError
from gpt import sample, response_logprobs, watch


class Policy(nn.Module):
    """pi and its value function on one trunk, as in the released code; the value starts at 0."""

    def __init__(self, rho):
        super().__init__()
        self.trunk = copy.deepcopy(rho)
        self.value = nn.Linear(rho.shape["width"], 1, device=rho.wte.weight.device)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)


# --- the mathematics: functions of tensors --------------------------------------------------------

def token_rewards(score, logp, ref_logprobs, beta, real):
    """Eq. 2, R(x, y) = r(x, y) - beta log(pi(y|x) / rho(y|x)), paid one token at a time.

    score (B,), logp and logp_rho (B, T) -> (B, T). real (B, T): where y still is when it is cut;
    r(x, y) arrives with its last token, and what was cut away costs nothing."""
    reward = -beta * (logp - ref_logprobs) * real                                      # (B, T)
    reward[torch.arange(len(score)), real.sum(1) - 1] += score
    return reward


def whiten(a, keep_mean=False):
    """a over its standard deviation, with mean 0 or, where asked, its own mean. Any shape.

    Released code: the population's variance, and 1e-8 inside the root."""
    white = (a - a.mean()) * torch.rsqrt(a.var(unbiased=False) + 1e-8)
    return white + a.mean() if keep_mean else white


def gae(reward, value, lam):
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) at gamma = 1.

    reward, value (B, T) -> advantage (B, T): A_t = delta_t + lam A_{t+1}, where
    delta_t = reward_t + V_{t+1} - V_t. The episode ends after T, so V_T = A_T = 0; and where y was
    cut before, because reward and value are 0 behind the cut."""
    advantage = torch.zeros_like(reward)
    next_value = next_advantage = torch.zeros_like(reward[:, 0])
    for t in reversed(range(reward.size(1))):
        delta = reward[:, t] + next_value - value[:, t]
        next_advantage = advantage[:, t] = delta + lam * next_advantage
        next_value = value[:, t]
    return advantage


def policy_loss(logp, old_logp, advantage, clip):
    """PPO's clipped objective (Schulman et al. 2017, eq. 7), negated; and the share cut.

    All of any one shape. The worse of two: the ratio as it is, and the ratio held to 1 - clip ..
    1 + clip. So there is nothing to gain from moving a token's probability further than that, and
    all of it to lose."""
    ratio = torch.exp(logp - old_logp)                                             # (B, T)
    plain = -advantage * ratio
    clipped = -advantage * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, clipped).mean(), (clipped > plain).float().mean()


def value_loss(value, old_value, returns, clip):
    """Half the squared error, of the value or of the value held near the old one: the worse."""
    held = old_value + (value - old_value).clamp(-clip, clip)
    return 0.5 * torch.maximum((value - returns) ** 2, (held - returns) ** 2).mean()


def next_beta(beta, kl, target, K):
    """Section 2.2: e = clip((KL - target) / target, -.2, .2), and beta grows by the factor 1 + K e.

    kl, target: nats per response."""
    error = min(0.2, max(-0.2, (kl - target) / target))
    return beta * (1 + K * error)


# --- the period rule ------------------------------------------------------------------------------

def truncate_at_period(period, after):
    """The function that says where responses are cut: after the first period at or beyond position
    `after`, from 0. cut(y (B, T)) -> length (B,), found (B,); with no such period length is T."""
    def cut(y):
        at = torch.arange(y.size(1), device=y.device).expand_as(y)                 # (B, T)
        end = torch.where((y == period) & (at >= after), at, y.size(1)).amin(dim=1)
        return (end + 1).clamp(max=y.size(1)), end < y.size(1)
    return cut


def whole(y):
    """For tasks without the period rule: every response is whole."""
    return y.new_full((len(y),), y.size(1)), y.new_ones(len(y), dtype=torch.bool)


def response_mask(length, T):
    """Which tokens are still there when the response is cut. length (B,) -> (B, T), of booleans."""
    return torch.arange(T, device=length.device) < length[:, None]


def period_rule(r, cut, penalty=-1.0):
    """The paper's score: r of the response as it is cut, or -1 where it could not be cut.

    r(tokens (B, Q + T), length (B,)) -> (B,). Attention is causal, so what stands behind the
    period need not be erased for r."""
    def score(x, y):
        length, found = cut(y)
        return torch.where(found, r(torch.cat([x, y], dim=1), x.size(1) + length), penalty)
    return score


def opinion_rule(opinion, decode, cut, mean, deviation, penalty=-1.0):
    """The same with the scores of people instead of r: (their mean - mean) / deviation.

    opinion(text) -> one number from each of them. They see the response as it is cut."""
    def score(x, y):
        length, found = cut(y)
        liked = torch.tensor([opinion(decode(ids[:n])).mean() for ids, n in zip(
            y.tolist(), length.tolist())], dtype=torch.float32, device=y.device)
        return torch.where(found, (liked - mean) / deviation, penalty)
    return score


def sample_finished(model, x, T, temperature, cut, size=1024, tries=50):
    """Responses as people are shown them: sampled again until each can be cut (paper 3.1), and
    said and shown whole if it never can, as by a pi that has run away.

    x (B, Q) -> y (B, T), length (B,). At most `size` rows at a time."""
    ys, lengths = [], []
    for rows in x.split(size):
        y, _, _ = sample(model, rows, T, temperature)
        for _ in range(tries):
            length, found = cut(y)
            if found.all():
                break
            y[~found] = sample(model, rows[~found], T, temperature)[0]
        else:
            length, found = cut(y)
            print(f"{int((~found).sum())} of {len(y)} responses have no period where one is wanted "
                  f"in {tries} tries, and are left whole")
        ys.append(y)
        lengths.append(length)
    return torch.cat(ys), torch.cat(lengths)


def responses(model, x, n, decode, *how):
    """n finished responses to each query, as texts: x (B, Q) -> a list of B lists of n.

    how: T, temperature, cut, as for sample_finished."""
    y, length = sample_finished(model, x.repeat_interleave(n, dim=0), *how)
    texts = [decode(ids[:k]) for ids, k in zip(y.tolist(), length.tolist())]
    return [texts[i:i + n] for i in range(0, len(texts), n)]


def questions(models, queries, decode, rng, *how):
    """Each query with four responses, as texts: of one model, or two of each of two, shuffled. In
    random order but for those of one query, which stand side by side, to be held out together."""
    def answers(x):
        parts = [responses(m, x.to(m.wte.weight.device), 4 // len(models), decode, *how)
                 for m in models]
        four = [sum(texts, []) for texts in zip(*parts)]
        return x, four if len(models) == 1 else [[t[i] for i in rng.permutation(4)] for t in four]
    steps, found, seen = map(answers, queries.values()), [], {}
    for x, texts in watch("questions", steps, len(queries), lambda s: f"{len(s[0])} queries"):
        found += zip(map(decode, x.tolist()), texts)
    found = [found[i] for i in rng.permutation(len(found))]
    return sorted(found, key=lambda question: seen.setdefault(question[0], len(seen)))


# --- PPO ------------------------------------------------------------------------------------------

class Rollout(NamedTuple):
    """One batch of episodes, as the policy that sampled it saw them."""
    x: torch.Tensor              # (B, Q)
    y: torch.Tensor              # (B, T)
    logp: torch.Tensor           # (B, T)  log pi(y_t | x, y_<t)
    ref_logprobs: torch.Tensor       # (B, T)  the same of rho, which is never trained
    value: torch.Tensor          # (B, T)  V(x, y_<t), 0 where y is cut away
    score: torch.Tensor          # (B,)    r(x, y)
    real: torch.Tensor           # (B, T)  whether the token is still there when y is cut


@torch.no_grad()
def rollout(pi, rho, score, cut, x, T, temperature):
    """Sample a response to each query, ask rho how likely it was, and have it scored."""
    y, logp, h = sample(pi.trunk, x, T, temperature)
    ref_logprobs, _ = response_logprobs(rho, x, y, temperature)
    real = response_mask(cut(y)[0], T)
    return Rollout(x, y, logp, ref_logprobs, pi.value(h)[..., 0] * real, score(x, y), real)


def advantages_and_returns(batch, beta, lam, whiten_rewards):
    """What a batch asks for: whitened advantages, and the returns that the values should have been.

    Released code: rewards too are divided by their deviation, their mean kept."""
    real = batch.real
    reward = token_rewards(batch.score, batch.logp, batch.ref_logprobs, beta, real)
    if whiten_rewards:
        reward[real] = whiten(reward[real], keep_mean=True)
    advantage = gae(reward, batch.value, lam)
    returns = advantage + batch.value
    advantage[real] = whiten(advantage[real])
    return advantage, returns


def ppo_step(pi, optimizer, batch, advantage, returns, temperature, clip, vf_coef):
    """One Adam step on a minibatch of rows. Returns what was seen before the step, as numbers."""
    real = batch.real                                        # from here on N real tokens in a row
    logp, h = response_logprobs(pi.trunk, batch.x, batch.y, temperature)
    logp, old_logp, value = logp[real], batch.logp[real], pi.value(h[real])[:, 0]  # (N,)
    loss_pi, held = policy_loss(logp, old_logp, advantage[real], clip)
    loss_v = value_loss(value, batch.value[real], returns[real], clip)
    loss = loss_pi + vf_coef * loss_v
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return {"policy_loss": loss_pi.item(), "value_loss": loss_v.item(),
            "clip_fraction": held.item(), "approx_kl": 0.5 * ((logp - old_logp) ** 2).mean().item()}


def ppo(pi, rho, score, draw, *, cut=whole, episodes, batch_size, response, temperature, lr,
        epochs=4, minibatches=1, clip=0.2, lam=0.95, vf_coef=0.5, whiten_rewards=False,
        beta=0.3, kl_target=None, K=0.1):
    """Improve pi in place; yields a dict of measurements after each batch of episodes.

    draw(B) -> x (B, Q), queries of one length. score(x (B, Q), y (B, T)) -> (B,) is given all that
    was sampled; where the task cuts responses (see cut_at), it too must look no further.
    kl_target: nats per response, or None for a fixed beta. The rate falls linearly to 0."""
    optimizer = torch.optim.Adam(pi.parameters(), lr=lr, eps=1e-5, fused=True)
    updates = -(-episodes // batch_size)
    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - update / updates)
        batch = rollout(pi, rho, score, cut, draw(batch_size), response, temperature)
        advantage, returns = advantages_and_returns(batch, beta, lam, whiten_rewards)
        steps = []
        for _ in range(epochs):
            order = torch.randperm(batch_size, device=batch.x.device)
            for rows in order.tensor_split(minibatches):
                part = Rollout(*(a[rows] for a in batch))
                steps.append(ppo_step(pi, optimizer, part, advantage[rows], returns[rows],
                                     temperature, clip, vf_coef))
        real, mean = batch.real, batch.score.mean().item()
        # In nats per response, from one sample each: log pi(y|x) - log rho(y|x).
        kl = ((batch.logp - batch.ref_logprobs) * real).sum(1).mean().item()
        unforeseen = (returns - batch.value)[real].var() / returns[real].var().clamp(min=1e-8)
        seen = {"episode": (update + 1) * batch_size, "score": mean, "kl": kl, "beta": beta,
                "total": mean - beta * kl, "explained_variance": 1 - unforeseen.item(),
                **{key: sum(s[key] for s in steps) / len(steps) for key in steps[0]}}
        if not all(math.isfinite(v) for v in seen.values()):
            raise UserError(f"policy: update {update + 1} of {updates} is not finite ({seen}); "
                            "a smaller --lr, or a look at the reward, is needed")
        yield seen
        if kl_target is not None:
            beta = next_beta(beta, kl, kl_target, K)


# --- measured, and against the limit --------------------------------------------------------------

@torch.no_grad()
def mean_reward_and_kl(model, rho, score, queries, T, temperature, cut):
    """Mean reward, and KL to rho in nats, of the model's responses to the queries.

    score(x, y) -> (B,), or (B, k) for k rewards at a time."""
    scores, kls = [], []
    for x in queries.values():
        x = x.to(rho.wte.weight.device)
        y, logp, _ = sample(model, x, T, temperature)
        log_ratio = logp - response_logprobs(rho, x, y, temperature)[0]                 # (B, T)
        kls.append((log_ratio * response_mask(cut(y)[0], T)).sum(1))
        scores.append(score(x, y))
    return torch.cat(scores).mean(0).tolist(), torch.cat(kls).mean().item()


def reweighted(scores, beta):
    """What pi_opt(y|x) ~ rho(y|x) exp(r(x, y) / beta) reaches (section 3.1.1), no policy trained.

    scores (P, n): r of n samples of rho for each of P queries. -> reward, KL in nats, effective
    sample size. Samples reweighted by w ~ exp(r / beta): KL = E_w[log(n w)], ESS = 1 / sum w^2.
    Where the ESS is small reward and KL come out too low: KL cannot exceed log n."""
    log_w = (scores / beta).log_softmax(dim=1)                                     # (P, n)
    w = log_w.exp()
    return ((w * scores).sum(1).mean().item(),
            (w * (log_w + math.log(scores.size(1)))).sum(1).mean().item(),
            (1 / (w ** 2).sum(1)).mean().item())


@torch.no_grad()
def frontier(rho, score, queries, n, T, temperature):
    """Section 3.1.1's limit, from n samples of rho a query: rows (beta, gain on rho, KL, ESS).

    The gain, and not the reward, because the level of r differs from query to query and the rest of
    an evaluation has other queries."""
    scores = []
    for x in queries.values():
        for row in x.to(rho.wte.weight.device):
            x_row = row.expand(n, -1)
            y, _, _ = sample(rho, x_row, T, temperature)
            scores.append(score(x_row, y))
    scores = torch.stack(scores).cpu().double()                                    # (P, n)
    rows = []
    for beta in torch.logspace(1.3, -1.3, 80):                                     # 20 to 0.05
        gained, kl, ess = reweighted(scores, beta.item())
        rows.append([beta.item(), gained - scores.mean().item(), kl, ess])
    return rows


@torch.no_grad()
def side_by_side(rho, pi, score, x, decode, T, temperature, cut):
    """For each query what rho and pi say, as people are shown it, with the score and log pi(y|x) -
    log rho(y|x): a list of texts of three lines."""
    blocks = [[f"query       {decode(query)}"] for query in x.tolist()]
    for name, model in (("zero-shot", rho), ("fine-tuned", pi)):
        y, length = sample_finished(model, x, T, temperature, cut)
        logp, ref_logprobs = (response_logprobs(m, x, y, temperature)[0] for m in (model, rho))
        kl = ((logp - ref_logprobs) * response_mask(length, T)).sum(1)
        for block, r, nats, ids, n in zip(blocks, score(x, y), kl, y.tolist(), length):
            block.append(f"{name:<11} r {r:+.2f}  kl {nats:4.1f}  {decode(ids[:n])}")
    return ["\n".join(block) for block in blocks]


def samples(rho, pi, score, queries, decode, *how):
    """The same for all the queries, in random order, as one text."""
    blocks = [block for x in queries.values() for block in side_by_side(
        rho, pi, score, x.to(rho.wte.weight.device), decode, *how)]
    return "\n\n".join(blocks[i] for i in torch.randperm(len(blocks))) + "\n"
