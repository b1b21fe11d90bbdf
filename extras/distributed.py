"""
distributed.py: rlhf.py with PPO on several processes, for a machine that is outgrown.

Papers: Ziegler et al. 2019, 2.2 (PPO). The released code ran on 8 GPUs in this way.
In:  rlhf.py's options     Out: rlhf.py's folder of a run, and distributed.json there

    torchrun --nproc_per_node 2 -m extras.distributed --out out/two

Process 0 ("rank 0") runs rlhf.py. When PPO's turn comes, all join in: each samples and
scores its own share of the batch, with its own seed, and trains its own copy of pi and V.
After every backward pass their gradients are averaged, so the copies stay the same. The
reward and the KL that move beta are of all ranks; rank 0 writes. It runs on GPUs where
every process of a machine has one (by NCCL), else on CPUs (gloo), whatever --device says.

What differs from one process: rewards and advantages are whitened over a rank's share, as
in the released code, not over the batch; and a mean over the tokens of a minibatch is a
mean of the ranks' means, which weighs a rank with shorter responses a little more. With
`--micro_batches` each rank's minibatch is read in parts, whose gradients add up to that
of the whole: less memory, the same mathematics. With `--bfloat16` the models compute in
bfloat16, their weights stay float32: on a GPU much faster (on a CPU slower). The
sampler's and the scorer's probabilities then agree less well.

Omitted: a model that does not fit on one device; checkpoints of PPO (rlhf.py's are of one
process). A stopped run starts PPO again, by the same torchrun command: rlhf.py alone
would train pi in one process.
"""

import argparse
import json
import math
import os
import sys
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.optim.lr_scheduler import LinearLR

import ppo
import rlhf
from evaluate import seeded, true_reward
from gpt import check_finite, response_states, token_logprobs
from ppo import (AdaptiveKL, Policy, Rollout, policy_loss, policy_optimizer, rollout,
                 value_loss)
from reward import RewardModel, learned_reward, split_comparisons
from text import QuerySampler, UserError


TORCHRUNS = ["LOCAL_RANK", "LOCAL_WORLD_SIZE", "RANK", "WORLD_SIZE", "MASTER_PORT"]


# --- what several processes add ---------------------------------------------------------

def average_gradients(model):
    """From now on, every gradient is the mean over the ranks as soon as it is there.

    Gradients that add up over micro-batches are averaged each time: what was averaged
    before is the same on all ranks, and stays as it is."""
    def average(p):
        dist.all_reduce(p.grad)
        p.grad /= dist.get_world_size()
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(average)


def mean_over_ranks(stats, device):
    """{name: number}, each the mean of what the ranks have."""
    values = torch.tensor(list(stats.values()), dtype=torch.float64, device=device)
    dist.all_reduce(values)
    return dict(zip(stats, (values / dist.get_world_size()).tolist()))


def micro_batch_step(pi, optimizer, batch, advantages, returns, cfg, n):
    """ppo.ppo_step, but a minibatch is read in n parts. The loss of a part is weighted by
    its share of the tokens, so that the gradients add up to that of the whole."""
    optimizer.zero_grad(set_to_none=True)
    total = batch.response_mask.sum().item()
    sums = Counter()
    for rows in torch.arange(len(batch.query)).tensor_split(n):
        part = Rollout(*[field[rows] for field in batch])
        mask = part.response_mask
        old_logprobs = part.logprobs[mask]                           # (N,)
        h = response_states(pi.trunk, part.query, part.response)     # (B, T, C)
        logprobs = token_logprobs(pi.trunk, h[mask], part.response[mask], cfg.temperature)
        loss, clipfrac = policy_loss(logprobs, old_logprobs, advantages[rows][mask],
                                     cfg.clip)
        approx_kl = 0.5 * ((logprobs - old_logprobs) ** 2).mean()
        share = mask.sum().item() / total
        sums["policy_loss"] += share * loss.item()
        sums["clipfrac"] += share * clipfrac.item()
        sums["approx_kl"] += share * approx_kl.item()
        if pi.value_head is not None:
            values = pi.values(part.query, part.response, h)[mask]   # (N,)
            loss_v = value_loss(values, part.values[mask], returns[rows][mask], cfg.clip)
            sums["value_loss"] += share * loss_v.item()
            loss = loss + cfg.vf_coef * loss_v
        (share * loss).backward()
    optimizer.step()
    return sums


# --- PPO --------------------------------------------------------------------------------

def train_policy(cfg, rho, reward, true, queries, sampling, progress):
    """rlhf.train_policy, on every rank at once; the same arguments, the same result."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    share = replace(cfg, batch_size=cfg.batch_size // ranks)
    seeded(cfg.seed, f"policy, rank {rank}")
    pi = Policy(rho, cfg.critic)                 # the same on all ranks: rho, and V = 0
    average_gradients(pi)
    kl_control = AdaptiveKL(cfg.beta, cfg.kl_target, cfg.K)
    optimizer = policy_optimizer(pi, cfg)
    sampler = QuerySampler(queries, rho.device)
    group_size = cfg.group_size if cfg.critic == "none" else 1
    updates = math.ceil(cfg.episodes / cfg.batch_size)
    to_zero = LinearLR(optimizer, 1.0, 0.0, updates)
    path = os.devnull
    if rank == 0:
        path = Path(cfg.out, "metrics.jsonl")
        Path(cfg.out, "checkpoint.pt").unlink(missing_ok=True)   # of one process
    with open(path, "w") as metrics:
        for update in progress(range(updates)):
            query = sampler.sample(share.batch_size, group_size)
            batch = rollout(pi, rho, reward, query, sampling)
            stats = ppo.ppo_update(pi, optimizer, batch, kl_control.beta, share)
            if true is not None:
                stats["true"] = true(batch.query, batch.response).mean().item()
            stats = mean_over_ranks(stats, rho.device)
            kl_control.update(stats["kl"])
            to_zero.step()

            for key, value in stats.items():
                check_finite(value, key, f"policy, update {update + 1} of {updates}")
            stats["episode"] = (update + 1) * cfg.batch_size
            metrics.write(json.dumps(stats) + "\n")
            metrics.flush()
            progress.note = f"r {stats['score']:+.2f}, KL {stats['kl']:.2f}"

    # What an update reports is from before its steps. So: is pi sound after the last?
    query = sampler.sample(share.batch_size, group_size)
    batch = rollout(pi, rho, reward, query, sampling)
    check_finite(batch.logprobs.mean().item(), "log-probability", "policy, at the end")
    return pi


def join_in(cfg):
    """What all ranks but the first do: wait until r is there, and train pi with it."""
    dist.barrier()
    folder = Path(cfg.out)
    rho, tokenizer, queries, _ = rlhf.load_rho(folder / "rho.pt", cfg.device)
    sampling = rlhf.sampling_of(cfg, tokenizer)
    r = rlhf.load(RewardModel(rho), folder / "reward.pt", "reward")
    _, held_out = split_comparisons(folder / "labels.jsonl")
    true = None
    if cfg.simulated_judge or not cfg.labels:
        true = true_reward(cfg.task, tokenizer, sampling, held_out)
    train_policy(cfg, rho, learned_reward(r, sampling), true, queries["policy"], sampling,
                 rlhf.Progress(""))


def same_processes(path, options):
    """A run goes on with the processes and the options that it was started with, which
    config.json does not hold. UserError where they differ."""
    if not path.exists():
        rlhf.write_json(path, options)
    saved = rlhf.read_json(path)
    for name, value in options.items():
        if saved.get(name) != value:
            raise UserError(f"{path.parent} holds a run with {saved.get(name)!r} for "
                            f"{name}, not {value!r}; give another --out")


def lead(cfg, options):
    """What rank 0 does: rlhf.py, but for PPO, for which it calls the others."""
    def call_the_others(*arguments):
        dist.barrier()
        return train_policy(*arguments)
    rlhf.train_policy = call_the_others
    with rlhf.run_folder(cfg):
        if not Path(cfg.out, "policy.pt").exists():
            same_processes(Path(cfg.out, "distributed.json"),
                           {"processes": dist.get_world_size(), **vars(options)})
        rlhf.run(cfg)


# --- the command line -------------------------------------------------------------------

def read_options(argv):
    """The options of this file, and rlhf.py's Config, checked against the processes."""
    parser = rlhf.Parser(prog="torchrun --nproc_per_node N -m extras.distributed",
                         description=__doc__, allow_abbrev=False,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro_batches", type=int, default=1,
                        help="parts in which a rank reads its minibatch (here: 1)")
    parser.add_argument("--bfloat16", action="store_true",
                        help="compute in bfloat16")
    options, rest = parser.parse_known_args(argv)
    cfg = rlhf.read_config(rest)
    ranks = dist.get_world_size()
    if cfg.batch_size % (ranks * cfg.minibatches):
        raise UserError(f"--batch_size is {cfg.batch_size}, but must be a multiple of "
                        f"{ranks} processes x {cfg.minibatches} minibatches")
    if cfg.critic == "none" and cfg.batch_size % (ranks * cfg.group_size):
        raise UserError(f"--batch_size is {cfg.batch_size}, but must be a multiple of "
                        f"{ranks} processes x --group_size {cfg.group_size}")
    rows = cfg.batch_size // (ranks * cfg.minibatches)
    if not 1 <= options.micro_batches <= rows:
        raise UserError(f"--micro_batches is {options.micro_batches}, but must be from 1 "
                        f"to {rows}, the rows of a minibatch")
    if cfg.keep_every:
        raise UserError("--keep_every is not here; leave it out")
    return options, cfg


def main(argv=None):
    """Run on this rank; return 0, or 2 after one sentence."""
    try:
        if not all(os.environ.get(name, "").isdecimal() for name in TORCHRUNS):
            raise UserError("start it with torchrun --nproc_per_node N -m "
                            "extras.distributed; its options are --micro_batches, "
                            "--bfloat16 and those of python rlhf.py --help")
        local_rank = int(os.environ["LOCAL_RANK"])
        gpus = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
        if int(os.environ["RANK"]) > 0:
            sys.stdout = open(os.devnull, "w")   # one bar is enough
        # Rank 0's stages before PPO may take days, in which the others wait.
        device = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
        if gpus:
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if gpus else "gloo", timeout=timedelta(days=30),
                                device_id=device if gpus else None)
        options, cfg = read_options(argv)
        cfg = replace(cfg, device=device.type)
        if options.micro_batches > 1:
            ppo.ppo_step = partial(micro_batch_step, n=options.micro_batches)
        policy_is_done = Path(cfg.out, "policy.pt").exists()
        dist.barrier()                           # all have looked before rank 0 goes on
        # Without its cache, which would keep the weights as they were before training.
        with torch.autocast(device.type, torch.bfloat16, enabled=options.bfloat16,
                            cache_enabled=False):
            if dist.get_rank() == 0:
                lead(cfg, options)
            elif not policy_is_done:
                join_in(cfg)
        dist.destroy_process_group()
        return 0
    except KeyboardInterrupt:
        print("\nextras.distributed: stopped", file=sys.stderr)
    except (UserError, FloatingPointError, OSError, ValueError, dist.DistError) as e:
        print(f"extras.distributed: {e}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
