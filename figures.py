"""
figures.py: what is reported of a run: its numbers, samples, figure and closing table.

Paper: Ziegler et al. 2019, section 3.1.2 (win rates), figure 3 (the KL-reward plane), table 9.
In:  rho, r, pi and what is held out        Out: results.json's dictionary, and ways to look at it
Not here: anything that learns, but for the supervised baseline that pi is compared with.
"""

import sys
import time

import matplotlib
import numpy as np
import torch

import gpt
import stories
from ppo import frontier, measure, period_rule, pick, real_tokens, sample_finished
from reward import judge, supervised, to_tokens

matplotlib.use("Agg")    # draw into files, with or without a screen
import matplotlib.pyplot as plt


# --- the numbers ----------------------------------------------------------------------------------

@torch.no_grad()
def language_model_results(rho, tokens, parts):
    """Held-out loss per token, and that of a model that knows only how common each token is."""
    train, test = (gpt.windows(map(tokens.encode, parts[part]), tokens.period, rho.shape["context"])
                   for part in ("train", "evaluation"))
    test = test[:2000]
    losses = [gpt.next_token_loss(rho, w[:, :-1], w[:, 1:]).item()
              for w in test.to(rho.wte.weight.device).split(200)]
    count = torch.bincount(train.flatten(), minlength=len(tokens.tokens)) + 1.0
    unigram = -(count / count.sum()).log()[test[:, 1:]].mean().item()
    return {"loss": float(np.mean(losses)), "unigram_loss": unigram}


def label_results(cfg, comparisons):
    """How often two labelers agree: by choice, and with the choice noise taken away."""
    if cfg.labels:
        return {"n": len(comparisons), "agreement": None, "source": cfg.labels}
    questions = [c.samples for c in comparisons]
    p, taste = (stories.choice_probabilities(cfg.task, questions, t) for t in (None, 1e-6))
    return {"n": len(comparisons), "agreement": stories.agreement(p),
            "agreement_without_noise": stories.agreement(taste), "source": "simulated labelers"}


def reward_model_results(cfg, r, tokens, held_out):
    """Accuracy and loss on comparisons never trained on, beside the best that anyone can reach."""
    questions = [c.samples for c in held_out]
    if cfg.labels:
        p = np.eye(4)[[c.best for c in held_out]]
        limits = {"best_accuracy": None, "best_loss": None}
    else:
        p = stories.choice_probabilities(cfg.task, questions).mean(1)              # (n, 4)
        limits = stories.limits(cfg.task, questions)
    data, length = to_tokens(held_out, tokens.encode, r.trunk.shape["context"])
    seen = judge(r, data.to(cfg.device), length.to(cfg.device),
                 torch.tensor(p, dtype=torch.float32, device=cfg.device))
    return {**seen, **limits, "n": len(held_out)}


def win_rate(cfg, model, other, queries, tokens, cut):
    """The paper's protocol (2.4): two responses of each in one four-way comparison; that side
    wins of which the majority of three labelers chose a response."""
    questions = []
    for x in queries.values():
        sides = []
        for m in (model, other):
            twice = x.to(cfg.device).repeat_interleave(2, dim=0)
            y, length = sample_finished(m, twice, cfg.response, cfg.temperature, cut)
            sides.append([tokens.decode(ids[:n]) for ids, n in zip(y.tolist(), length.tolist())])
        questions += [sides[0][i:i + 2] + sides[1][i:i + 2] for i in range(0, 2 * len(x), 2)]
    p = stories.choice_probabilities(cfg.task, questions)
    votes = stories.choose(p, np.random.default_rng([cfg.seed, 2]), people=3) < 2  # (n, 3)
    won = votes.sum(1) >= 2
    n = len(won)
    return {"mean": float(won.mean()), "stderr": float(won.std() / n ** 0.5), "n": n}


def results(cfg, rho, r, pi, tokens, cut, parts, queries, train, held_out, log):
    """Everything that results.json tells of a run, held out, beside its limit."""
    score = period_rule(r, cut)
    picked, few = pick(queries, cfg.evaluations), pick(queries, cfg.optimum_queries)
    settings = cfg.response, cfg.temperature
    reached, kl = measure(pi.trunk, rho, score, cut, picked, *settings)
    zero_shot, _ = measure(rho, rho, score, cut, picked, *settings)
    optimum = frontier(rho, score, few, cfg.optimum_samples, *settings)
    _, gains, kls, sizes = zip(*optimum)

    def optimal(of):      # at pi's KL; beyond what was sampled None, not the curve's last point
        return float(np.interp(kl, kls, of)) if kl <= kls[-1] else None
    gain = optimal(gains)
    tuned = supervised(rho, train, tokens.encode, cfg.supervised_lr)
    return {
        "language_model": language_model_results(rho, tokens, parts),
        "labels": label_results(cfg, train),
        "reward_model": reward_model_results(cfg, r, tokens, held_out),
        "policy": {"kl": kl, "kl_target": cfg.kl_target, "beta": log[-1]["beta"], "reward": reached,
                   "optimal_reward": None if gain is None else zero_shot + gain,
                   "optimal_effective_samples": optimal(sizes),
                   "zero_shot_reward": zero_shot, "episodes": log[-1]["episode"]},
        "win_rate": {"zero_shot": win_rate(cfg, pi.trunk, rho, picked, tokens, cut),
                     "supervised": win_rate(cfg, pi.trunk, tuned, picked, tokens, cut),
                     "supervised_vs_zero_shot": win_rate(cfg, tuned, rho, picked, tokens, cut)},
        "frontier": optimum}


# --- what a person sees ---------------------------------------------------------------------------

def watch(name, steps, total, line):
    """Pass the steps of a generator on, with a line of progress and the time left."""
    start = shown = time.time()
    terminal = sys.stdout.isatty()
    for n, step in enumerate(steps, 1):
        now = time.time()
        if n == total or now - shown > (0.5 if terminal else 10):
            left = (now - start) / n * (total - n)
            text = f"{name}: {n}/{total} | {line(step)} | {left:.0f} s left"
            front, end = ("\r", "") if terminal else ("", "\n")
            print(front + text.ljust(99 * terminal), end=end, flush=True)
            shown = now
        yield step
    if terminal:
        print()


def samples(cfg, rho, r, pi, tokens, cut, queries):
    """The same 40 queries continued by rho and by pi, with r and KL, as one text."""
    score, blocks = period_rule(r, cut), []
    for x in pick(queries, 40).values():
        x = x.to(cfg.device)
        lines = [[f"query       {tokens.decode(q)}"] for q in x.tolist()]
        for name, model in (("zero-shot", rho), ("fine-tuned", pi.trunk)):
            y, length = sample_finished(model, x, cfg.response, cfg.temperature, cut)
            logp, logp_rho = (gpt.score_tokens(m, x, y, cfg.temperature)[0] for m in (model, rho))
            rows = zip(lines, y.tolist(), length.tolist(), score(x, y).tolist(),
                       ((logp - logp_rho) * real_tokens(length, y.size(1))).sum(1).tolist())
            for block, ids, n, reward, kl in rows:
                block.append(f"{name:<11} r {reward:+.2f}  kl {kl:4.1f}  {tokens.decode(ids[:n])}")
        blocks += ["\n".join(block) for block in lines]
    return "\n\n".join(blocks[i] for i in torch.randperm(len(blocks))) + "\n"


def draw(results, log, path):
    """One picture of a run: reward, KL and beta by episode, the KL-reward plane, win rates."""
    episode, score, kl, beta = ([m[key] for m in log] for key in ("episode", "score", "kl", "beta"))
    policy = results["policy"]
    fig, axes = plt.subplot_mosaic([["reward", "kl", "beta"], ["plane", "plane", "wins"]],
                                   figsize=(12, 7.2), layout="constrained")
    ax = axes["reward"]
    ax.plot(episode, score, color="C0", lw=1)
    ax.axhline(policy["zero_shot_reward"], color="gray", ls=":", label="zero-shot")
    if policy["optimal_reward"] is not None:
        ax.axhline(policy["optimal_reward"], color="black", ls="--", label="optimum at the last KL")
    ax.set(title="reward r(x, y)", xlabel="episodes", ylabel="standard deviations over rho")
    ax.legend(frameon=False)
    ax = axes["kl"]
    ax.plot(episode, kl, color="C1", lw=1)
    if policy["kl_target"]:
        ax.axhline(policy["kl_target"], color="black", ls="--", label="target")
        ax.legend(frameon=False)
    ax.set(title="KL(pi, rho)", xlabel="episodes", ylabel="nats per response", ylim=(0, None))
    axes["beta"].plot(episode, beta, color="C2")
    axes["beta"].set(title="beta, the price of a nat", xlabel="episodes", ylabel="reward per nat",
                     ylim=(0, None))
    ax, base = axes["plane"], policy["zero_shot_reward"]
    points = np.array([(k, base + gain, ess) for _, gain, k, ess in results["frontier"]])
    firm = points[:, 2] >= 10
    ax.plot(points[:, 0], points[:, 1], color="black", ls=":", label="optimum, on under 10 samples")
    ax.plot(points[firm, 0], points[firm, 1], color="black", lw=2,
            label="optimum, rho exp(r / beta)")
    ax.scatter(kl, score, color="C0", alpha=0.25, s=8, label="pi, batch by batch")
    w = max(1, len(log) // 20)                  # the path: means of a twentieth of the run
    smooth = [np.convolve(a, np.ones(w) / w, "valid") for a in (kl, score)]
    ax.plot(*smooth, color="C0", lw=2, label="its running mean")
    ax.plot(policy["kl"], policy["reward"], "r*", ms=15, label="pi at the end, held out")
    ax.set(title="how far from rho, and what for", xlabel="KL(pi, rho), nats per response",
           ylabel="reward", xlim=(-0.1, 1.5 * max(policy["kl"], policy["kl_target"], 1)))
    ax.legend(frameon=False, loc="lower right")
    ax, wins = axes["wins"], results["win_rate"]
    names = {"zero_shot": "pi : zero-shot", "supervised": "pi : supervised",
             "supervised_vs_zero_shot": "supervised :\nzero-shot"}
    for row, (key, name) in enumerate(names.items()):
        ax.barh(row, 100 * wins[key]["mean"], xerr=196 * wins[key]["stderr"], color=f"C{row}")
        ax.text(3, row, f"{name}  {wins[key]['mean']:.1%}", va="center", color="white")
    ax.axvline(50, color="black", lw=1)
    ax.set(title="win rate, by three simulated labelers", xlabel="%, with 95 % interval",
           xlim=(0, 100), yticks=[])
    fig.suptitle(f"{results['task']}, seed {results['seed']}")
    fig.savefig(path, dpi=110, format="png")
    plt.close(fig)


def table(results):
    """The results as a person reads them at the end of a run."""
    lm, r, p = (results[key] for key in ("language_model", "reward_model", "policy"))
    best = "" if r["best_loss"] is None else (f"best possible {r['best_accuracy']:.3f}, "
                                              f"{r['best_loss']:.3f}")
    rows = [("language model", f"loss {lm['loss']:.3f}", f"unigram {lm['unigram_loss']:.3f}"),
            ("reward model", f"accuracy {r['accuracy']:.3f}, loss {r['loss']:.3f}", best),
            ("KL(pi, rho)", f"{p['kl']:.2f}",
             f"target {p['kl_target']:.2f}" if p["kl_target"] else "beta was fixed"),
            ("reward of pi", f"{p['reward']:+.2f}", f"zero-shot {p['zero_shot_reward']:+.2f}, "
             "optimum at this KL " + ("beyond what was sampled" if p["optimal_reward"] is None else
                                      f"{p['optimal_reward']:+.2f}"))]
    rows += [(f"win rate, {key}", f"{w['mean']:.1%}", f"+/- {w['stderr']:.1%} of {w['n']}")
             for key, w in results["win_rate"].items()]
    rows += [("seconds", f"{sum(results['seconds'].values()):.0f}",
              ", ".join(f"{k} {v:.0f}" for k, v in results["seconds"].items()))]
    return "\n".join(f"{a:<34}{b:<30}{c}" for a, b, c in rows)
