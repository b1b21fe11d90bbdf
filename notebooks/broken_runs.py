"""
broken_runs.py: a healthy run and six broken ones, for "What do these logs tell?"

    python notebooks/broken_runs.py          some minutes; writes broken_runs.json

In:  out/course        Out: broken_runs.json: of each run its log, and one of its samples
Not here: which run has which bug, in words for students (checks.py)

Each run is the loop of rlhf.py on the course's rho and r, with the course's seed. Of a
broken one a single function is exchanged for another that looks nearly the same.
"""

import contextlib
import json
from unittest import mock

import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import LinearLR

import course
import evaluate
import gpt
import ppo
from reward import learned_reward
from text import QuerySampler

PATH = course.FOLDER / "broken_runs.json"


# --- the bugs: functions that nearly do what they should --------------------------------

def score_at_the_first_token(score, logprobs, ref_logprobs, beta, response_mask):
    rewards = -beta * (logprobs - ref_logprobs) * response_mask
    rewards[:, 0] += score
    return rewards


def kl_is_paid_for(score, logprobs, ref_logprobs, beta, response_mask):
    return TOKEN_REWARDS(score, logprobs, ref_logprobs, -beta, response_mask)


def response_logprobs_at_1(model, query, response, temperature):
    return gpt.response_logprobs(model, query, response, 1.0)


def token_logprobs_at_1(model, h, token, temperature):
    return gpt.token_logprobs(model, h, token, 1.0)


def response_states_with_dropout(model, query, response):
    """Dropout behind every block, in training alone, where torch puts it by default."""
    if not torch.is_grad_enabled():
        return gpt.response_states(model, query, response)
    hooks = [block.register_forward_hook(lambda block, given, out: F.dropout(out, 0.1))
             for block in model.h]
    try:
        return gpt.response_states(model, query, response)
    finally:
        for hook in hooks:
            hook.remove()


class SamplerOfBeginnings(QuerySampler):
    def sample(self, batch_size, times=1):
        return super().sample(batch_size, times)[:, :6]


TOKEN_REWARDS = ppo.token_rewards
HEALTHY = "nothing"
# A letter for each, in no order that tells anything: its bug, and what is exchanged in
# ppo.py. Two are not in ppo.py.
BUGS = {
    "healthy": (HEALTHY, {}),
    "A": ("dropout is on", {"response_states": response_states_with_dropout}),
    "B": ("r is not normalized", {}),
    "C": ("the KL has the wrong sign", {"token_rewards": kl_is_paid_for}),
    "D": ("the query is cut wrong", {}),
    "E": ("the temperature is forgotten in scoring",
          {"response_logprobs": response_logprobs_at_1,
           "token_logprobs": token_logprobs_at_1}),
    "F": ("the score is at the wrong token", {"token_rewards": score_at_the_first_token})}


# --- the runs ---------------------------------------------------------------------------

def log_of(run, bug, exchanged):
    """The loop of rlhf.train_policy: {"log": [...], "sample": [query, response]}."""
    cfg, r, sampling = run.cfg, run.r, run.sampling
    sampler_class = QuerySampler
    if bug == "r is not normalized":
        # What a head says has the scale and the zero that chance gave it. These, five
        # deviations and two below, are ours.
        r = lambda tokens, lengths: 5 * run.r(tokens, lengths) - 2
    if bug == "the query is cut wrong":
        sampler_class = SamplerOfBeginnings
    reward = learned_reward(r, sampling)

    evaluate.seeded(cfg.seed, "policy")
    pi = ppo.Policy(run.rho)
    optimizer = ppo.policy_optimizer(pi, cfg)
    kl_control = ppo.AdaptiveKL(cfg.beta, cfg.kl_target, cfg.K)
    sampler = sampler_class(run.queries["policy"], "cpu")
    updates = cfg.episodes // cfg.batch_size
    to_zero = LinearLR(optimizer, 1.0, 0.0, updates)
    log = []
    with contextlib.ExitStack() as patches:
        for name, function in exchanged.items():
            patches.enter_context(mock.patch.object(ppo, name, function))
        for _ in range(updates):
            query = sampler.sample(cfg.batch_size)
            batch = ppo.rollout(pi, run.rho, reward, query, sampling)
            stats = ppo.ppo_update(pi, optimizer, batch, kl_control.beta, cfg)
            kl_control.update(stats["kl"])
            to_zero.step()
            _, finished = sampling.truncate(batch.response)
            stats["finished"] = finished.float().mean().item()
            stats["true"] = run.true(batch.query, batch.response).mean().item()
            log.append({key: round(value, 5) for key, value in stats.items()})
    length, _ = sampling.truncate(batch.response)
    sample = [run.tokenizer.decode(batch.query[0].tolist()),
              run.tokenizer.decode(batch.response[0, :length[0]].tolist())]
    return {"bug": bug, "log": log, "sample": sample}


def main():
    run = course.small_run()
    found = {}
    for letter, (bug, exchanged) in BUGS.items():
        found[letter] = log_of(run, bug, exchanged)
        print(letter, bug, flush=True)
    lines = [f'"{letter}": {json.dumps(one)}' for letter, one in found.items()]
    PATH.write_text("{" + ",\n".join(lines) + "}\n", "utf-8")


if __name__ == "__main__":
    main()
