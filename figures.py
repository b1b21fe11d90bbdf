"""
figures.py: what a run leaves to look at: the figure, and the closing table.

In:  results.json's dictionary and the lines of metrics.jsonl      Out: figure.png, a table of text
Not here: any computation that the numbers depend on.
"""

import matplotlib
import numpy as np

matplotlib.use("Agg")    # draw into files, with or without a screen
import matplotlib.pyplot as plt


def draw(results, log, path):
    """One picture of a run: reward, KL and beta by episode, the KL-reward plane, win rates."""
    episode, score, kl, beta = ([m[key] for m in log] for key in ("episode", "score", "kl", "beta"))
    policy = results["policy"]
    fig, axes = plt.subplot_mosaic([["reward", "kl", "beta"], ["plane", "plane", "wins"]],
                                   figsize=(12, 7.2), layout="constrained")
    ax = axes["reward"]
    ax.plot(episode, score, color="C0", lw=1)
    ax.axhline(policy["zero_shot_reward"], color="gray", ls=":", label="zero-shot")
    ax.axhline(policy["optimal_reward"], color="black", ls="--", label="optimum at the final KL")
    ax.set(title="reward r(x, y)", xlabel="episodes", ylabel="standard deviations of rho")
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
    dots = ax.scatter(kl, score, c=episode, s=12, cmap="viridis", label="pi, batch by batch")
    fig.colorbar(dots, ax=ax, label="episodes")
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
    ax.set(title="win rate, majority of three labelers", xlabel="%, with 95 % interval",
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
            ("KL(pi, rho)", f"{p['kl']:.2f}", f"target {p['kl_target']:.2f}"),
            ("reward of pi", f"{p['reward']:+.2f}", f"zero-shot {p['zero_shot_reward']:+.2f}, "
             f"optimum at this KL {p['optimal_reward']:+.2f}")]
    rows += [(f"win rate, {key}", f"{w['mean']:.1%}", f"+/- {w['stderr']:.1%} of {w['n']}")
             for key, w in results["win_rate"].items()]
    rows += [("seconds", f"{sum(results['seconds'].values()):.0f}",
              ", ".join(f"{k} {v:.0f}" for k, v in results["seconds"].items()))]
    return "\n".join(f"{a:<34}{b:<30}{c}" for a, b, c in rows)
