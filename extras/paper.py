"""
extras/paper.py: the paper's figures and tables, made of a hundred small runs.

Paper: Ziegler et al. 2019, figures 2 to 4, tables 1, 9, 10, sections 2.3, 4.2 and 4.4.

    python -m extras.paper figure 2            run what is missing, write JSON and PNG
    python -m extras.paper figure 2 --redraw   only the PNG, from the JSON
    python -m extras.paper figure 2 --quick    in miniature, into out/paper-quick
    python -m extras.paper results             write extras/results/README.md

The others: figure 3, figure 4, table 1, table 9, table 10, over-optimization,
section 2.3, section 4.2, section 4.4, seeds; all of these; and long runs.

In:  the core     Out: extras/results/NAME.json and NAME.png; each run in out/paper/
Not here: how the results are drawn and told (paper_results.py)

First the table of the experiments, then the loops in which the paper's variants differ
from rlhf.train_policy, then the running.

All runs but those of `seeds` share one rho, and those of a task 20,000 labels of its
samples: the task's "world". Their seeds are those of r and pi. Runs use the CPU, one
thread each, as many at once as it has cores.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import LinearLR

import rlhf
import stories
from evaluate import (BEST_OF, best_of, evaluate, optimal_frontier, reward_model_results,
                      sample_and_score, samples_text, seeded, true_reward,
                      vote, win_rate)
from extras.paper_results import (RESULTS, Panel, draw, file_of, load_series, readme,
                                  stamp)
from gpt import GPT, Sampling, check_finite, generate, set_learning_rate
from ppo import AdaptiveKL, Policy, policy_optimizer, ppo_update, rollout
from reward import (Comparison, RewardModel, best_of_four_loss, generate_questions,
                    learned_reward, normalize, samples_of_rho, split_comparisons,
                    write_comparisons)
from text import (QuerySampler, Tokenizer, UserError, collate, decode_responses,
                  query_batches, sample_queries, split_passages)

ROOT = Path(__file__).resolve().parent.parent


# --- the experiments --------------------------------------------------------------------

class Run(NamedTuple):
    variant: str             # how pi is trained: a name in VARIANTS below
    settings: dict           # of rlhf.Config, where they are not the default


def runs(variant, seeds=3, **settings):
    """The runs of a series, one for each seed 0 .. seeds - 1."""
    # Half of the default's episodes, for there are many runs; extras/README.md, "Which
    # critic", has what that costs. And half of its first beta: from 0.6, by 2 % an update
    # at most, it would come to where KL is at its target only in the last of 64 updates.
    common = dict(task="sentiment", episodes=8192, beta=0.3, kl_target=3.0,
                  optimum_queries=0, supervised_lr=0.0)
    return [Run(variant, {**common, **settings, "seed": seed}) for seed in range(seeds)]


def runs_over_kl(betas, variant, **settings):
    """The runs of a series at KL target 3, and at each fixed beta, which takes pi as far
    from rho as its reward is worth. For those half of the evaluation's queries do."""
    series = runs(variant, **settings)
    for beta in betas:
        series += runs(variant, **settings, beta=beta, kl_target=0.0, eval_queries=512)
    return series


def world_run(task):
    """The run that makes a task's rho and labels. No pi is trained, and only for
    sentiment, figures 2 and 3, is the optimum sampled."""
    n_queries = {"sentiment": 64, "descriptiveness": 0}
    settings = dict(task=task, seed=0, n_labels=20000, optimum_samples=4096)
    return Run("world", {**settings, "optimum_queries": n_queries[task]})


def default_runs(task):
    """rlhf.py as it comes, whose rho and labels differ from seed to seed too."""
    return [Run("default", {"task": task, "seed": seed}) for seed in range(5)]


class Experiment(NamedTuple):
    series: dict             # {label: its runs}
    panels: list


def same(labels, number):
    """The lines of a panel that draws the same of every series."""
    return {label: (label, number) for label in labels}


TRUE = "true reward, standard deviations over rho"
LOG_ODDS = "true reward, log-odds of a classifier"
KL = "KL(pi, rho), nats per response"
WIN_RATE = "win rate, % of questions"
EVEN = {"50 %: no better than the other": 50}

TASKS = ["sentiment", "descriptiveness"]
LABELS = {"5,000 labels": 5000, "1,667 labels": 1667, "417 labels": 417}
BETAS = [0.4, 0.08, 0.03]
N_LABELS = [200, 1000, 5000, 20000]
PAPERS_N_LABELS = [200, 500, 1000, 2500, 5000, 10000, 20000]
PAPERS_EPISODES = [10e3, 50e3, 100e3, 200e3, 300e3, 500e3, 1e6, 2e6]
PAPERS_KL = [2, 4, 6, 8, 12, 16, 20]

# The paper's figures 2 to 4 were read from their vector drawings.
PAPERS_FIGURE_2 = {
    "direct RL": (PAPERS_EPISODES, [0.31, 1.00, 1.12, 1.64, 2.43, 2.86, 3.11, 3.27]),
    "60k labels": (PAPERS_EPISODES, [0.35, 0.87, 1.30, 2.58, 2.76, 2.88, 3.00, 3.08]),
    "20k labels": (PAPERS_EPISODES, [0.38, 0.92, 1.23, 2.20, 2.40, 2.48, 2.56, 2.62]),
    "5k labels": (PAPERS_EPISODES, [0.38, 0.83, 0.96, 1.59, 1.90, 1.97, 2.03, 2.03])}
PAPERS_FIGURE_3 = {
    "optimum": ([2, 4, 6, 7.83], [2.29, 3.32, 4.10, 4.63]),
    "direct RL, 32 times as long":
        (PAPERS_KL, [1.33, 2.40, 3.21, 3.91, 4.99, 5.80, 6.38]),
    "direct RL": (PAPERS_KL, [0.63, 1.55, 2.51, 3.26, 4.41, 5.31, 5.99]),
    "60k labels": (PAPERS_KL, [1.02, 1.88, 2.50, 3.05, 3.89, 4.69, 5.14]),
    "20k labels": (PAPERS_KL, [1.03, 1.70, 2.20, 2.58, 3.46, 3.90, 4.08]),
    "5k labels": (PAPERS_KL, [0.84, 1.39, 1.75, 2.02, 2.32, 2.66, 2.80])}
PAPERS_FIGURE_4 = {
    "sentiment": (PAPERS_N_LABELS, [51.9, 74.9, 84.4, 86.2, 87.9, 86.8, 87.1]),
    "descriptiveness": (PAPERS_N_LABELS, [78.2, 76.2, 82.3, 72.7, 86.3, 86.3, 84.6])}

EXPERIMENTS = {}

EXPERIMENTS["figure 2"] = Experiment(
    {"optimum": [world_run("sentiment")],
     "direct RL": runs("direct RL"),
     **{label: runs("labels", n_labels=n) for label, n in LABELS.items()}},
    [Panel("curves", "here: KL target 3, mean and range of 3 seeds",
           same(["direct RL", *LABELS], "true"), ylabel=TRUE, optimum="at KL 3"),
     Panel("curves", "paper: 124M parameters, KL target 8, mean of 5 seeds", {},
           ylabel=LOG_ODDS, paper=PAPERS_FIGURE_2)])

# The paper sets a KL target for each point. Here the first three runs of a series have
# target 3, as in figure 2, and the others a fixed beta, for 64 updates would not bring it
# down to what a target of 12 needs.
EXPERIMENTS["figure 3"] = Experiment(
    {"optimum": [world_run("sentiment")],
     "direct RL": runs_over_kl(BETAS, "direct RL"),
     **{label: runs_over_kl(BETAS, "labels", n_labels=n)
        for label, n in LABELS.items()}},
    [Panel("points", "here: 3 seeds at each beta, and their mean",
           same(["direct RL", *LABELS], "policy.true_reward"),
           x="policy.kl", xlabel=KL, ylabel=TRUE, optimum="curve",
           axes=dict(xlim=(0, 31), ylim=(0, 4)), joined=False),
     Panel("points", "paper: 124M parameters, one run a point", {}, xlabel=KL,
           ylabel=LOG_ODDS, paper=PAPERS_FIGURE_3,
           axes=dict(xlim=(0, 21), ylim=(0, 6.8)))])

# The same runs, those with beta 0, and the optimizer that needs no training.
EXPERIMENTS["over-optimization"] = Experiment(
    {**{label: runs_over_kl([*BETAS, 0.0], "labels", n_labels=n)
        for label, n in LABELS.items()},
     **{f"best-of-n, {label}": runs("best of n", n_labels=n, optimum_queries=64,
                                    optimum_samples=1024)
        for label, n in LABELS.items()}},
    [Panel("laws", f"r learned from {label}",
           {"PPO": (label, ""), "best-of-n": (f"best-of-n, {label}", "")},
           xlabel=KL, ylabel="gain over rho, standard deviations",
           axes=dict(xlim=(0, 31), ylim=(0, 4.6)))
     for label in LABELS])

EXPERIMENTS["figure 4"] = Experiment(
    {task: [run for n in N_LABELS for run in runs("labels", task=task, n_labels=n)]
     for task in TASKS},
    [Panel("points", "here: 3 seeds and their mean, one set of labels",
           same(TASKS, "win_rate.zero_shot"),
           x="n_labels", xlabel="labels", ylabel=f"{WIN_RATE}, over zero-shot",
           marks=EVEN, axes=dict(xscale="log", ylim=(0, 100), xticks=N_LABELS)),
     Panel("points", "paper: 774M parameters, one run each", {},
           xlabel="labels", ylabel=f"{WIN_RATE}, over zero-shot", paper=PAPERS_FIGURE_4,
           marks=EVEN, axes=dict(xscale="log", ylim=(0, 100), xticks=N_LABELS))])

# The mock reward learns from as many reviews as n_labels says by default: 12,000.
TABLE_1 = {
    "sentiment, mock reward": runs("mock reward"),
    "sentiment, 20k labels": runs("labels", n_labels=20000),
    "sentiment, 5k labels": runs("labels", n_labels=5000),
    "sentiment, 5k online": runs("labels online", n_labels=5000),
    "descriptiveness, 20k labels":
        runs("labels", task="descriptiveness", n_labels=20000),
    "descriptiveness, 5k labels":
        runs("labels", task="descriptiveness", n_labels=5000),
    "descriptiveness, 5k online":
        runs("labels online", task="descriptiveness", n_labels=5000)}
EXPERIMENTS["table 1"] = Experiment(TABLE_1, [])

EXPERIMENTS["section 2.3"] = Experiment(
    {"sentiment, offline": runs("labels", n_labels=5000),
     "sentiment, online": runs("labels online", n_labels=5000),
     "descriptiveness, offline":
         runs("labels", task="descriptiveness", n_labels=5000),
     "descriptiveness, online":
         runs("labels online", task="descriptiveness", n_labels=5000)},
    [Panel("curves", f"{task}: mean and range of 3 seeds",
           {"offline": (f"{task}, offline", "true"),
            "online": (f"{task}, online", "true")},
           ylabel=TRUE, axes=dict(ylim=(0, 3.7)))
     for task in TASKS]
    + [Panel("curves", "descriptiveness: distance from rho",
             {"offline": ("descriptiveness, offline", "kl"),
              "online": ("descriptiveness, online", "kl")},
             ylabel=KL, marks={"KL target": 3})])

EXPERIMENTS["table 9"] = Experiment(
    {"sentiment": [world_run("sentiment")],
     "descriptiveness": [world_run("descriptiveness")]},
    [])

PAID_TRUE, PAID_R = "paid the true reward", "paid r of 5,000 labels"
NO_KL_PENALTY = {PAID_TRUE: "true score", PAID_R: "5,000 labels"}
EXPERIMENTS["table 10"] = Experiment(
    {"true score": runs("direct RL", beta=0.0, kl_target=0.0, eval_queries=512),
     "5,000 labels": runs("labels", n_labels=5000, beta=0.0, kl_target=0.0,
                          eval_queries=512)},
    [Panel("curves", title,
           {legend: (label, key) for legend, label in NO_KL_PENALTY.items()},
           ylabel=ylabel)
     for title, key, ylabel in [
         ("what pi is paid", "score", "reward, standard deviations over rho"),
         ("what the labelers think", "true", TRUE),
         ("distance from rho", "kl", KL)]])

# Eight epochs of 1,000 labels: four steps of 32 in each of 64 updates, for r must keep
# up with a trunk that moves.
TRUNKS = ["two trunks", "one trunk"]
EXPERIMENTS["section 4.2"] = Experiment(
    {"two trunks": runs("labels", n_labels=1000),
     "one trunk": runs("one trunk", n_labels=1000, reward_batch=32)},
    [Panel("curves", "loss of r: mean and range of 3 seeds",
           {"one trunk, labels it learns from": ("one trunk", "reward_loss"),
            "one trunk, held-out labels": ("one trunk", "held_out_loss")},
           ylabel="loss, nats",
           levels={"two trunks, held-out labels": ("two trunks", "reward_model.loss")}),
     Panel("curves", "accuracy of r on held-out labels",
           {"one trunk, held-out labels": ("one trunk", "held_out_accuracy")},
           ylabel="share of questions", marks={"chance": 0.25},
           levels={"two trunks, held-out labels":
                   ("two trunks", "reward_model.accuracy")}),
     Panel("curves", "what the labelers think of pi", same(TRUNKS, "true"),
           ylabel=TRUE)])

SIGNS = ["as it should be", "the reward's sign turned", "both signs turned"]
EXPERIMENTS["section 4.4"] = Experiment(
    {"as it should be": runs("labels", n_labels=5000),
     "the reward's sign turned": runs("reward's sign", n_labels=5000),
     "both signs turned": runs("both signs", n_labels=5000)},
    [Panel("curves", "what the labelers think: mean and range of 3 seeds",
           same(SIGNS, "true"), ylabel=TRUE),
     Panel("curves", "distance from rho", same(SIGNS, "kl"),
           ylabel=f"{KL}, logarithmic from 2 on", marks={"KL target": 3},
           axes=dict(yscale="symlog", ylim=(0, 1000), yticks=[0, 1, 3, 10, 100, 1000]))])

EXPERIMENTS["seeds"] = Experiment(
    {task: default_runs(task) for task in TASKS},
    [Panel("curves", "true reward: mean and range of 5 seeds", same(TASKS, "true"),
           ylabel=TRUE),
     Panel("curves", "distance from rho", same(TASKS, "kl"), ylabel=KL,
           marks={"KL target": 3}),
     Panel("curves", "beta, the price of KL", same(TASKS, "beta"), ylabel="beta",
           levels={f"{task}: the optimum's at pi's KL": (task, "policy.optimal_beta")
                   for task in TASKS},
           axes=dict(ylim=(0, 0.7)))])


# With the critic on pi's trunk one such run went to 98 nats. `all` leaves these out.
EXPERIMENTS["long runs"] = Experiment(
    {"KL target 1": runs("direct RL", seeds=5, episodes=98304, kl_target=1.0)},
    [Panel("curves", "98,304 episodes, KL target 1: mean and range of 5 seeds",
           {"direct RL": ("KL target 1", "kl")}, ylabel=KL, marks={"KL target": 1},
           axes=dict(ylim=(0, 2.2)))])


def miniature(run):
    """The same run so small that it is no result, only a test that everything works."""
    settings = {**run.settings, **dict(
        passages=600, lm_steps=150, lm_lr=1e-2, n_embd=32, vocab_size=700,
        episodes=256, eval_queries=24)}
    settings["n_labels"] = max(20, run.settings.get("n_labels", 12000) // 50)
    if run.variant in ("world", "default", "best of n"):
        settings.update(optimum_queries=min(4, run.settings.get("optimum_queries", 4)),
                        optimum_samples=32)
    return Run(run.variant, settings)


# --- the world: what the runs of a task share -------------------------------------------

class World(NamedTuple):
    folder: Path
    rho: GPT
    tokenizer: Tokenizer
    queries: dict            # {part: {length: (n, length)}}
    sampling: Sampling
    train: list              # comparisons, n_labels of them
    held_out: list
    true: Callable           # the labelers' mean score: (query, response) -> (B,)
    losses: dict             # of rho


def load_world(cfg, folder):
    """rho, tokenizer, queries and comparisons of the world that a task's runs share."""
    rho, tokenizer, queries, losses = rlhf.load_rho(folder / "rho.pt", cfg.device)
    sampling = rlhf.sampling_of(cfg, tokenizer)
    train, held_out = split_comparisons(folder / "labels.jsonl")
    true = true_reward(cfg.task, tokenizer, sampling, held_out)
    return World(folder, rho, tokenizer, queries, sampling, train[:cfg.n_labels],
                 held_out, true, losses)


def make_world(cfg, first=None):
    """rho.pt, of the folder `first` where there is one; labels.jsonl; and results.json:
    how often labelers agree (table 9), and the optimum (figures 2 and 3)."""
    folder = Path(cfg.out)
    for of_old_labels in folder.glob("reward-*.pt"):
        of_old_labels.unlink()
    if first is None:
        with rlhf.stage(cfg, "language_model") as progress:
            rng = random.Random(cfg.seed)
            passages = [stories.passage(rng) for _ in range(cfg.passages)]
            parts = split_passages(passages, cfg.share)
            rho, tokenizer = rlhf.new_model(cfg, parts["train"])
            queries, losses = rlhf.pretrain(cfg, rho, tokenizer, parts, progress)
            rlhf.save_rho(folder / "rho.pt", rho, tokenizer, queries, losses)
    else:
        shutil.copyfile(first / "rho.pt", folder / "rho.pt")
    rho, tokenizer, queries, losses = rlhf.load_rho(folder / "rho.pt", cfg.device)
    sampling = rlhf.sampling_of(cfg, tokenizer)
    with rlhf.stage(cfg, "labels") as progress:
        comparisons = rlhf.collect_comparisons(cfg, rho, tokenizer, queries["reward"],
                                               sampling, progress)
        write_comparisons(folder / "labels.jsonl", comparisons)
    made = load_world(cfg, folder)

    scores = stories.scores_of(cfg.task, [c.samples for c in made.train])
    by_choice = stories.softmax(scores / stories.TEMPERATURES[cfg.task])
    by_taste = stories.softmax(scores / 1e-6)        # without noise; ties share alike
    labels = {"n": len(made.train), "agreement": stories.agreement(by_choice),
              "agreement_without_noise": stories.agreement(by_taste)}
    with rlhf.stage(cfg, "evaluation") as progress:
        unseen = queries["evaluation"]
        batches = query_batches(sample_queries(unseen, cfg.eval_queries))
        few = query_batches(sample_queries(unseen, cfg.optimum_queries), size=1)
        rewards = [made.true, made.true]
        zero_shot = sample_and_score(rho, rho, rewards, batches, sampling)
        zero_shot = zero_shot.true.mean().item()
        frontier = []
        if few:
            samples = sample_and_score(rho, rho, rewards, progress(few), sampling,
                                       cfg.optimum_samples)
            frontier = optimal_frontier(samples.true)
    policy = {"zero_shot_reward": zero_shot, "zero_shot_true_reward": zero_shot}
    write_results(cfg, {"language_model": losses, "labels": labels, "policy": policy,
                        "win_rate": {}, "frontier": frontier})


# --- the variants -----------------------------------------------------------------------
# Each trains a pi. Where only the reward differs, rlhf.train_policy is called with
# another one. Else its ten lines stand here once more, with a difference.

class Trained(NamedTuple):
    pi: GPT
    reward: Callable         # what pi was paid, at the end: (query, response) -> (B,)
    r: RewardModel           # None, where none is learned


def no_progress(batches):
    """In the place of a progress bar, for what is trained within a loop."""
    return batches


def train_r(cfg, world, comparisons, progress=no_progress):
    return rlhf.train_reward(cfg, world.rho, world.tokenizer, comparisons,
                             world.queries["reward"], world.sampling, progress)


def load_or_train_r(cfg, world, comparisons):
    """The r of so many labels and this seed. A dozen runs use it: the first one leaves it
    in the world's folder, for the others."""
    name = f"{len(comparisons)}-labels-{cfg.reward_lr}-{cfg.reward_batch}-seed-{cfg.seed}"
    path = world.folder / f"reward-{name}.pt"
    if path.exists():
        return rlhf.load(RewardModel(world.rho), path, "reward")
    with rlhf.stage(cfg, "reward_model") as progress:
        r = train_r(cfg, world, comparisons, progress)
    made = Path(cfg.out, "reward.pt")    # whole at once there: two runs may both train it
    rlhf.save(made, reward=r.state_dict())
    os.replace(made, path)
    return r


def train_policy(cfg, world, reward):
    with rlhf.stage(cfg, "policy") as progress:
        pi = rlhf.train_policy(cfg, world.rho, reward, world.true,
                               world.queries["policy"], world.sampling, progress)
    return pi.trunk


def write_metrics(metrics, cfg, world, update, batch, stats):
    """The line of an update in metrics.jsonl, as rlhf.train_policy writes it."""
    for key, value in stats.items():
        check_finite(value, key, f"policy, update {update + 1}")
    stats["episode"] = (update + 1) * cfg.batch_size
    stats["true"] = world.true(batch.query, batch.response).mean().item()
    metrics.write(json.dumps(stats) + "\n")


def offline_labels(cfg, world):
    """The paper's method: r from labels of rho's samples, then pi from r."""
    r = load_or_train_r(cfg, world, world.train)
    reward = learned_reward(r, world.sampling)
    return Trained(train_policy(cfg, world, reward), reward, r)


def direct_rl(cfg, world):
    """3.1.1: pi is paid the true reward. Nothing is learned from labels."""
    return Trained(train_policy(cfg, world, world.true), world.true, None)


# Section 3.1.1: the mock reward, a classifier of reviews. The paper's are Amazon's.

GOODS = "kettle lamp quilt teapot suitcase blanket mirror carpet violin jacket".split()
REVIEWS = ["{word} {goods}, {word} value", "bought this {word} {goods} for my sister",
           "{word} quality, {word} color", "the {goods} looks {word}",
           "arrived today, {word} and {word}", "{word} service, {word} box",
           "works {word}", "{word} overall"]
PRAISE = """excellent great perfect sturdy lovely wonderful useful beautiful good
    charming""".split()
BLAME = """useless cheap awful terrible broken defective poor disappointing dirty
    ugly""".split()


def review(stars, rng):
    """One line. Each word in it is praise as often as the stars, 1 to 5, say."""
    words = []
    template = rng.choice(REVIEWS).replace("{goods}", rng.choice(GOODS))
    for part in template.split("{word}"):
        liked = rng.random() < (stars - 0.5) / 5
        words += [part, rng.choice(PRAISE if liked else BLAME)]
    return "".join(words[:-1]).capitalize() + "."


def reviews(n, rng):
    """n reviews of two lines, as Comparisons with one sample: best is 1 for 4 or 5
    stars, 0 for 1 or 2. rng: a random.Random.

    Another domain than the stories: fragments about goods. 12 of the 20 words of praise
    and blame are in the stories too; joy, grief and deeds are not among them."""
    made = []
    for _ in range(n):
        stars = rng.choice([1, 2, 4, 5])
        made.append(Comparison(review(stars, rng), [review(stars, rng)], int(stars > 3)))
    return made


def train_classifier(r, tokens, lengths, liked, lr, batches):
    """Train r in place so that the logit r(x) tells what is liked, by binary
    cross-entropy; return each step's loss. tokens (N, S), lengths and liked (N,)."""
    optimizer = torch.optim.Adam(r.parameters(), eps=1e-5, fused=True)
    losses = []
    for step, rows in enumerate(batches):
        set_learning_rate(optimizer, lr * (1 - step / len(batches)))
        logits = r(tokens[rows], lengths[rows])                      # (B,)
        loss = F.binary_cross_entropy_with_logits(logits, liked[rows].float())
        losses.append(loss.item())
        check_finite(loss.item(), "loss", f"classifier, step {step + 1}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return losses


def mock_reward(cfg, world):
    """3.1.1: r is the logit of a classifier of reviews; no labeler is asked. It is
    normalized as any r, so that KL has the same price."""
    with rlhf.stage(cfg, "reward_model") as progress:
        r = RewardModel(world.rho)
        samples = samples_of_rho(world.rho, world.queries["reward"], world.sampling)
        normalize(r, *samples)
        tokens, lengths, liked = collate(reviews(cfg.n_labels, random.Random(cfg.seed)),
                                         world.tokenizer, world.rho.shape["block_size"])
        batches = progress(torch.randperm(len(liked)).split(cfg.reward_batch))
        train_classifier(r, tokens[:, 0], lengths[:, 0], liked, cfg.reward_lr, batches)
        normalize(r, *samples)
    reward = learned_reward(r, world.sampling)
    return Trained(train_policy(cfg, world, reward), reward, r)


# Section 2.3: labels online.

def labels_wanted(share, first, last):
    """l(n) = N0 + (N - N0) (1 - (1 - n / N_pi)^2): how many labels there should be when
    the share n / N_pi of the episodes is over, N0 = first at the start, N = last at the
    end."""
    return round(first + (last - first) * (1 - (1 - share) ** 2))


def ask_labelers(cfg, world, model, n, rng):
    """n comparisons of the model's samples."""
    questions = generate_questions([model], world.queries["reward"], n, world.sampling,
                                   world.tokenizer, no_progress)
    p = stories.choice_probabilities(cfg.task, [samples for _, samples in questions])
    best = stories.choose(p, rng)[:, 0]
    return [Comparison(query, samples, int(b))
            for (query, samples), b in zip(questions, best)]


def labels_online(cfg, world, times=5):
    """2.3: r is trained `times` times (paper: 20) at equal steps of l(n), each time from
    scratch on all labels so far. New labels are of pi's samples as it is then."""
    first = cfg.n_labels // 4                        # here; the paper's N0 is not told
    step = (cfg.n_labels - first) / times
    comparisons = world.train[:first]
    r = load_or_train_r(cfg, world, comparisons)
    trained = 1                                                      # so many times
    reward = learned_reward(r, world.sampling)
    pi = Policy(world.rho, cfg.critic)
    kl_control = AdaptiveKL(cfg.beta, cfg.kl_target, cfg.K)
    optimizer = policy_optimizer(pi, cfg)
    sampler = QuerySampler(world.queries["policy"], cfg.device)
    updates = math.ceil(cfg.episodes / cfg.batch_size)
    to_zero = LinearLR(optimizer, 1.0, 0.0, updates)
    with rlhf.stage(cfg, "policy"), open(f"{cfg.out}/metrics.jsonl", "w") as metrics:
        rng = seeded(cfg.seed, "labels online")
        for update in range(updates):
            wanted = labels_wanted(update / updates, first, cfg.n_labels)
            due = 1 + int((wanted - first) / step)
            if due > trained:
                new = wanted - len(comparisons)
                comparisons = comparisons + ask_labelers(cfg, world, pi.trunk, new, rng)
                r = train_r(cfg, world, comparisons)
                reward = learned_reward(r, world.sampling)
                trained = due

            query = sampler.sample(cfg.batch_size)
            batch = rollout(pi, world.rho, reward, query, world.sampling)
            stats = ppo_update(pi, optimizer, batch, kl_control.beta, cfg)
            kl_control.update(stats["kl"])
            to_zero.step()
            stats["labels"] = len(comparisons)
            write_metrics(metrics, cfg, world, update, batch, stats)
    return Trained(pi.trunk, reward, r)


# Section 4.2: r and pi on one trunk.

def reward_step(r, optimizer, data, rows):
    """One Adam step on eq. 1, as in reward.train_reward_model; its loss. data: tokens
    (N, 4, S), lengths (N, 4), best (N,)."""
    tokens, lengths, best = data
    scores = r(tokens[rows].flatten(0, 1), lengths[rows].flatten()).view(-1, 4)
    loss = best_of_four_loss(scores, best[rows])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def batches_of_epochs(n, batch_size, steps):
    """The rows of so many steps: as many epochs as it takes, each in its own order."""
    batches = []
    while len(batches) < steps:
        batches += torch.randperm(n).split(batch_size)
    return batches[:steps]


def one_trunk(cfg, world):
    """4.2: r reads pi's trunk, and both train it: r takes as many steps an update as pi,
    at pi's rate. So 1,000 labels are seen in many epochs."""
    pi = Policy(world.rho, cfg.critic)
    block_size = world.rho.shape["block_size"]
    data = collate(world.train, world.tokenizer, block_size)
    kl_control = AdaptiveKL(cfg.beta, cfg.kl_target, cfg.K)
    optimizer = policy_optimizer(pi, cfg)
    sampler = QuerySampler(world.queries["policy"], cfg.device)
    updates = math.ceil(cfg.episodes / cfg.batch_size)
    to_zero = LinearLR(optimizer, 1.0, 0.0, updates)
    with rlhf.stage(cfg, "policy"), open(f"{cfg.out}/metrics.jsonl", "w") as metrics:
        r = RewardModel(world.rho)               # here, where the seed is set: its head
        r.trunk = pi.trunk                       # is random
        reward = learned_reward(r, world.sampling)
        reward_optimizer = torch.optim.Adam(r.parameters(), eps=1e-5, fused=True)
        samples = samples_of_rho(world.rho, world.queries["reward"], world.sampling)
        per_update = cfg.epochs * cfg.minibatches
        batches = batches_of_epochs(len(world.train), cfg.reward_batch,
                                    updates * per_update)
        normalize(r, *samples)
        for update in range(updates):
            query = sampler.sample(cfg.batch_size)
            batch = rollout(pi, world.rho, reward, query, world.sampling)
            stats = ppo_update(pi, optimizer, batch, kl_control.beta, cfg)
            kl_control.update(stats["kl"])
            to_zero.step()

            set_learning_rate(reward_optimizer, cfg.lr * (1 - update / updates))
            losses = [reward_step(r, reward_optimizer, data, rows)
                      for rows in batches[update * per_update:(update + 1) * per_update]]
            normalize(r, *samples)       # the trunk has moved; KL keeps its price
            stats["reward_loss"] = sum(losses) / len(losses)
            if (update + 1) % 8 == 0 or update + 1 == updates:
                found = reward_model_results(cfg, r, world.tokenizer, world.held_out)
                stats["held_out_loss"] = found["reward_model"]["loss"]
                stats["held_out_accuracy"] = found["reward_model"]["accuracy"]
            write_metrics(metrics, cfg, world, update, batch, stats)
    return Trained(pi.trunk, reward, r)


# Section 4.4: the sign bug.

def sign_bug(cfg, world, sign_of_kl):
    """4.4: pi is paid -r. With sign_of_kl = -1 it is paid for KL too, where beta is
    negative, and the controller makes that more while KL is above its target."""
    r = load_or_train_r(cfg, world, world.train)

    def minus_r(tokens, lengths):
        return -r(tokens, lengths)
    reward = learned_reward(minus_r, world.sampling)     # without an end still -1
    pi = train_policy(replace(cfg, beta=sign_of_kl * cfg.beta), world, reward)
    return Trained(pi, reward, r)


def rewards_sign(cfg, world):
    return sign_bug(cfg, world, sign_of_kl=1)


def both_signs(cfg, world):
    return sign_bug(cfg, world, sign_of_kl=-1)


VARIANTS = {"labels": offline_labels, "direct RL": direct_rl, "mock reward": mock_reward,
            "labels online": labels_online, "one trunk": one_trunk,
            "reward's sign": rewards_sign, "both signs": both_signs}


# --- what needs no training -------------------------------------------------------------

def best_of_n_curve(scores, true):
    """What the best by r of n samples gains over rho, in r and in the true reward, for
    n = 2, 4, ... up to half of the m samples of each of P queries. scores, true (P, m).

    Any n of the m samples count. In r's order the i-th of them is the best of n with a
    probability proportional to C(i - 1, n - 1)."""
    m = scores.size(1)
    order = scores.argsort(dim=1)                                    # the best last
    scores = scores.gather(1, order).double()
    true = true.gather(1, order).double()
    curve = []
    for n in [2 ** k for k in range(1, int(math.log2(m)))]:
        i = torch.arange(n, m + 1, dtype=torch.double)
        # C(i - 1, n - 1), up to a factor: by log Gamma, for it is huge.
        p = (torch.lgamma(i) - torch.lgamma(i - n + 1)).softmax(0)   # (m - n + 1,)
        best, best_true = scores[:, n - 1:] @ p, true[:, n - 1:] @ p         # (P,) each
        curve.append({"n": n, "kl_bound": math.log(n) - (n - 1) / n,
                      "gain": (best.mean() - scores.mean()).item(),
                      "true_gain": (best_true.mean() - true.mean()).item()})
    return curve


def run_best_of_n(cfg, world_folder):
    """Train r, the same as that of the runs of its seed, and let it choose among samples
    of rho."""
    world = load_world(cfg, world_folder)
    r = load_or_train_r(cfg, world, world.train)
    with rlhf.stage(cfg, "evaluation") as progress:
        queries = sample_queries(world.queries["evaluation"], cfg.optimum_queries)
        single = query_batches(queries, size=1)
        rewards = [learned_reward(r, world.sampling), world.true]
        samples = sample_and_score(world.rho, world.rho, rewards, progress(single),
                                   world.sampling, cfg.optimum_samples)
    write_results(cfg, {"labels": {"n": len(world.train)}, "win_rate": {}, "frontier": [],
                        "best_of_n": best_of_n_curve(samples.score, samples.true)})


@torch.no_grad()
def win_rates_without_training(cfg, rho, reward, beta, queries, sampling, tokenizer):
    """How often samples of the optimal policy at the price beta (rho's, drawn by their
    weights) and of best-of-n would win over zero-shot, %.

    By pi's protocol, on samples that find their end, 16 questions to a query."""
    rng = seeded(cfg.seed, "without training")
    T, temperature, truncate = sampling
    questions = {}
    for query in query_batches(sample_queries(queries, cfg.optimum_queries), size=1):
        query = query.to(rho.device)
        response, _ = generate(rho, query, T, temperature, cfg.optimum_samples)
        length, finished = truncate(response)
        scores = reward(query.expand(len(response), -1), response)[finished]     # (n,)
        texts = decode_responses(response[finished], length[finished], tokenizer)
        weights = stories.softmax(scores.double().numpy() / beta)
        drawn = {"optimum": rng.choice(len(texts), 32, p=weights)}
        for n in BEST_OF:
            if n <= len(texts):
                best = best_of(n, scores[None])[0].numpy()
                drawn[f"best_of_{n}"] = rng.choice(best, 32)
        for name, ours in drawn.items():
            theirs = rng.choice(len(texts), 32)
            of_query = [[texts[i] for i in [*ours[k:k + 2], *theirs[k:k + 2]]]
                        for k in range(0, 32, 2)]
            questions.setdefault(name, []).extend(of_query)
    return {name: 100 * vote(cfg.task, asked, rng)["mean"]
            for name, asked in questions.items()}


# --- one run ----------------------------------------------------------------------------

def run_variant(cfg, variant, world_folder, opponent_folder=None):
    """Train a pi, and write what it came to; in table 1 beside an opponent, the pi of
    5,000 labels and the same seed."""
    world = load_world(cfg, world_folder)
    pi, reward, r = VARIANTS[variant](cfg, world)
    rho, tokenizer, sampling = world.rho, world.tokenizer, world.sampling
    unseen = world.queries["evaluation"]
    with rlhf.stage(cfg, "evaluation") as progress:
        results = {"language_model": world.losses, "labels": {"n": len(world.train)}}
        if r is not None and cfg.kl_target > 0:  # at a fixed beta r is that of such a run
            results.update(reward_model_results(cfg, r, tokenizer, world.held_out))
        results.update(evaluate(cfg, rho, pi, [reward, world.true], unseen, sampling,
                                tokenizer, world.train, progress))
        if opponent_folder is not None:
            opponent = rlhf.load(GPT(**rho.shape), opponent_folder / "policy.pt",
                                 "policy")
            seeded(cfg.seed, "evaluation queries")       # the same ones as in evaluate
            batches = query_batches(sample_queries(unseen, cfg.eval_queries))
            rng = seeded(cfg.seed, "win rate, against")
            against = win_rate(cfg.task, pi, opponent, batches, sampling, tokenizer, rng)
            results["win_rate"]["against"] = against
    log = metrics_of(Path(cfg.out))
    results["policy"].update(beta=log[-1]["beta"], episodes=log[-1]["episode"])
    results["labels"]["n"] = log[-1].get("labels", len(world.train))
    if variant in ("direct RL", "mock reward"):
        results["labels"]["n"] = 0                   # no labeler was asked
    rlhf.save(Path(cfg.out, "policy.pt"), policy=pi.state_dict())
    Path(cfg.out, "samples.txt").write_text(
        samples_text(cfg, rho, pi, reward, unseen, sampling, tokenizer), "utf-8")
    write_results(cfg, results)


def write_results(cfg, results):
    """results.json last: with it the run is whole."""
    folder = Path(cfg.out)
    results = {"task": cfg.task, "seed": cfg.seed, "config": asdict(cfg), **results,
               "seconds": rlhf.read_json(folder / "seconds.json")}
    rlhf.write_json(folder / "results.json", results)


def add_win_rates(cfg):
    """Beside a default run's results.json: what a pi_opt and best-of-n would win."""
    folder = Path(cfg.out)
    rho, tokenizer, queries, _ = rlhf.load_rho(folder / "rho.pt", cfg.device)
    sampling = rlhf.sampling_of(cfg, tokenizer)
    r = rlhf.load(RewardModel(rho), folder / "reward.pt", "reward")
    beta = rlhf.read_json(folder / "results.json")["policy"].get("optimal_beta")
    found = {}
    if beta is not None:
        found = win_rates_without_training(cfg, rho, learned_reward(r, sampling), beta,
                                           queries["evaluation"], sampling, tokenizer)
    rlhf.write_json(folder / "without_training.json", found)


def run_one(folder):
    """In a process of its own, see `start`: the run that run.json describes."""
    plan = rlhf.read_json(folder / "run.json")
    with rlhf.reading(folder / "run.json"):
        cfg = rlhf.Config(**plan["config"])
        needs = [Path(path) for path in plan["needs"]]
    if plan["variant"] == "default":
        with rlhf.run_folder(cfg):
            rlhf.run(cfg)
        add_win_rates(cfg)
    elif plan["variant"] == "world":
        make_world(cfg, *needs)
    elif plan["variant"] == "best of n":
        run_best_of_n(cfg, *needs)
    else:
        run_variant(cfg, plan["variant"], *needs)


# --- many runs --------------------------------------------------------------------------

def needs_of(run):
    """The runs that must come before: for a second world the first, which makes rho; for
    a variant its world, and in table 1 the opponent."""
    task, seed = run.settings["task"], run.settings["seed"]
    if run.variant == "default" or run == world_run("sentiment"):
        return []
    if run.variant == "world":
        return [world_run("sentiment")]
    opponent = runs("labels", seeds=seed + 1, task=task, n_labels=5000)[seed]
    in_table_1 = any(run in series for series in TABLE_1.values())
    if in_table_1 and run != opponent:
        return [world_run(task), opponent]
    return [world_run(task)]


def folder_of(run, home):
    """A run's folder is named by its settings."""
    hidden = ("optimum_queries", "optimum_samples", "supervised_lr")
    settings = [f"{key}={value}" for key, value in sorted(run.settings.items())
                if key not in hidden]
    return home / "-".join([run.variant.replace(" ", "_").replace("'", ""), *settings])


def plan_of(run, home, quick):
    """What run.json tells: the variant, the whole Config, the folders that it needs."""
    settings = miniature(run).settings if quick else run.settings
    out = str(folder_of(run, home))
    cfg = rlhf.Config(**settings, out=out, device="cpu")
    needs = [str(folder_of(before, home)) for before in needs_of(run)]
    return {"variant": run.variant, "config": asdict(cfg), "needs": needs}


def is_finished(run, home, quick):
    """A run is not run again if it is whole, was made by these settings, and after the
    runs that it needs."""
    made = folder_of(run, home) / "results.json"
    if not made.exists():
        return False
    for need in needs_of(run):
        before = folder_of(need, home) / "results.json"
        if not before.exists() or before.stat().st_mtime > made.stat().st_mtime:
            return False
    if run.variant == "default" and not (made.parent / "without_training.json").exists():
        return False
    plan, wanted = rlhf.read_json(made.parent / "run.json"), plan_of(run, home, quick)
    for config in (plan["config"], wanted["config"]):
        config["out"] = ""                               # the folder may have been moved
    return plan["config"] == wanted["config"]


def with_needs(wanted):
    """The runs, and before each those that it needs; no run twice."""
    ordered = []
    for run in wanted:
        for one in [*with_needs(needs_of(run)), run]:
            if one not in ordered:
                ordered.append(one)
    return ordered


def start(run, home, quick):
    """A process for the run. What it says goes into log.txt."""
    folder = folder_of(run, home)
    plan = plan_of(run, home, quick)
    if (folder / "run.json").exists() and rlhf.read_json(folder / "run.json") != plan:
        shutil.rmtree(folder)                            # made by other settings
    folder.mkdir(parents=True, exist_ok=True)
    rlhf.write_json(folder / "run.json", plan)
    with open(folder / "log.txt", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "extras.paper", "run", str(folder)], cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"})


def cost(run):
    """About how long a run takes, in episodes of PPO."""
    beside_ppo = {"default": 60000, "world": 60000}      # rho, labels, r
    return run.settings.get("episodes", 0) + beside_ppo.get(run.variant, 2000)


def run_all(wanted, home, quick):
    """All runs that are missing, as many at once as there are cores. Of a failed run the
    log is named, once those beside it are through."""
    waiting = [run for run in with_needs(wanted) if not is_finished(run, home, quick)]
    n, total, done = len(waiting), sum(cost(run) for run in waiting), 0
    started, failed = time.time(), []
    running = []                                                     # (run, process)
    try:
        while running or waiting:
            for run in list(waiting):
                busy = len(running) == os.cpu_count()
                unfinished = waiting + [other for other, _ in running]
                if not busy and not any(need in unfinished for need in needs_of(run)):
                    waiting.remove(run)
                    running.append((run, start(run, home, quick)))
            time.sleep(0.2)
            for run, process in list(running):
                if process.poll() is None:
                    continue
                running.remove((run, process))
                if process.returncode != 0:
                    failed.append(str(folder_of(run, home) / "log.txt"))
                    waiting = []
                    continue
                done += cost(run)
                minutes = (time.time() - started) / 60 * (total / done - 1)
                left = len(waiting) + len(running)
                print(f"{left} of {n} runs and some {minutes:.0f} minutes left; done: "
                      f"{folder_of(run, home).name}", flush=True)
    finally:                                         # Ctrl-C stops the children too
        for _, process in running:
            process.terminate()
        for _, process in running:
            process.wait()
    if failed:
        raise UserError(f"a run failed; {' and '.join(failed)} says why")


# --- a result's JSON --------------------------------------------------------------------

def metrics_of(folder):
    path = folder / "metrics.jsonl"
    if not path.exists():                                            # of a world
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def curve_of(log, points=24):
    """{key: means over some 24 equal parts of the run}; None where nothing was noted."""
    curve = {}
    keys = {key for line in log for key in line}
    for key in sorted(keys):
        curve[key] = []
        for part in np.array_split(np.arange(len(log)), min(points, len(log))):
            values = [log[i][key] for i in part if key in log[i]]
            curve[key].append(float(np.mean(values)) if values else None)
    return curve


def summary_of(run, home, quick):
    """What the JSON keeps of a run."""
    folder = folder_of(run, home)
    results = rlhf.read_json(folder / "results.json")
    numbers = {}
    for part in ("language_model", "labels", "reward_model", "policy", "seconds"):
        for key, value in results.get(part, {}).items():
            if isinstance(value, (int, float)):
                numbers[f"{part}.{key}"] = value
    for name, win in results["win_rate"].items():
        numbers[f"win_rate.{name}"] = 100 * win["mean"]              # %
    for best in results.get("best_of_n", []):
        for key, value in best.items():
            if value is not None:
                numbers[f"best_of_{best['n']}.{key}"] = value
    if run.variant == "default":
        for name, win in rlhf.read_json(folder / "without_training.json").items():
            numbers[f"win_rate.{name}"] = win
    samples = []
    if (folder / "samples.txt").exists():
        samples = (folder / "samples.txt").read_text("utf-8").strip().split("\n\n")[1:3]
    settings = miniature(run).settings if quick else run.settings
    return {"settings": {"variant": run.variant, **settings}, "numbers": numbers,
            "curve": curve_of(metrics_of(folder)), "frontier": results["frontier"],
            "samples": samples}


def five_digits(value):
    """The value with every float in it to five digits."""
    if isinstance(value, dict):
        return {key: five_digits(v) for key, v in value.items()}
    if isinstance(value, list):
        return [five_digits(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def series_of(title, quick):
    """{label: its runs}; in miniature the first and the last of each series."""
    series = EXPERIMENTS[title].series
    if quick:
        series = {label: first_and_last(of_label) for label, of_label in series.items()}
    return series


def first_and_last(of_label):
    return [of_label[0]] if len(of_label) == 1 else [of_label[0], of_label[-1]]


def write_summary(title, folder, home, quick):
    """The JSON of an experiment whose runs are finished."""
    summaries = {label: [summary_of(run, home, quick) for run in of_label]
                 for label, of_label in series_of(title, quick).items()}
    content = {"result": title, "command": f"python -m extras.paper {title}",
               "series": five_digits(summaries)}
    with rlhf.whole_file(file_of(title, folder)) as part:
        part.write_text(json.dumps(content) + "\n", "utf-8")


# --- the command line -------------------------------------------------------------------

def main(argv=None):
    """Run a command; return 0, or 2 after one sentence on what the user can mend."""
    try:
        command(list(sys.argv[1:] if argv is None else argv))
        return 0
    except KeyboardInterrupt:
        print("\npaper.py: stopped; the same command goes on", file=sys.stderr)
    except (UserError, FloatingPointError, OSError) as e:
        print(f"paper.py: {e}", file=sys.stderr)
    return 2


def command(argv):
    """Run what the words of the command line name. UserError where it is nothing."""
    parser = rlhf.Parser(prog="python -m extras.paper", description=__doc__,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", help="figure 2, or another one of the above")
    parser.add_argument("--redraw", action="store_true", help="draw from the JSON alone")
    parser.add_argument("--quick", action="store_true", help="all of it in miniature")
    options = parser.parse_args(argv)
    what = " ".join(options.what)
    if options.what[0] == "run" and len(options.what) == 2:          # see `start`
        run_one(Path(options.what[1]))
    elif what == "results":
        with rlhf.reading(RESULTS):
            told = readme()
        with rlhf.whole_file(RESULTS / "README.md") as part:
            part.write_text(told, "utf-8")
        print(RESULTS / "README.md")
    else:
        make_all(what, options.redraw, options.quick)


def make_all(what, redraw, quick):
    """The JSON, unless it is there to be drawn again, and the PNG of an experiment or of
    all."""
    titles = [what]
    if what == "all":
        titles = [title for title in EXPERIMENTS if title != "long runs"]
    if titles[0] not in EXPERIMENTS:
        known = ", ".join([*EXPERIMENTS, "all", "results"])
        raise UserError(f"{what!r} is not one of: {known}")
    folder = Path("out", "paper-quick") if quick else RESULTS
    home = Path("out", "paper-quick" if quick else "paper").resolve()
    if not redraw:           # all at once: no core waits for the last run of a figure
        run_all([run for title in titles for of_label in series_of(title, quick).values()
                 for run in of_label], home, quick)
    for title in titles:
        if not redraw:
            write_summary(title, folder, home, quick)
        if EXPERIMENTS[title].panels:
            with rlhf.reading(file_of(title, folder)):
                series = load_series(title, folder)
            with rlhf.whole_file(file_of(title, folder, "png")) as part:
                figure = draw(EXPERIMENTS[title].panels, series)
                if quick:
                    stamp(figure, series)
                figure.savefig(part, dpi=110, format="png")
        print(file_of(title, folder))


if __name__ == "__main__":
    sys.exit(main())
