"""
figures.py: what is reported of a run, and the paper's figures and tables made of many.

Paper: Ziegler et al. 2019, section 3.1.2 (win rates), figures 2 to 4, tables 1, 9 and 10.

    python rlhf.py figure 2            what is missing is run; then its JSON and PNG are written
    python rlhf.py figure 2 --redraw   the PNG from the JSON; --quick: all in miniature, into out/

No pi learns here: an experiment is rlhf.py with settings of notebooks/results/experiments.toml.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import torch

import files
import stories
from files import UserError
from ppo import frontier, mean_reward_and_kl, responses
from reward import evaluate_reward_model, supervised
from text import pick, collate

matplotlib.use("Agg")    # draw into files, with or without a screen
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "notebooks" / "results"


# --- the numbers ----------------------------------------------------------------------------------

def beside_limits(cfg, r, tokens, n, train, held_out):
    """How often labelers agree, by choice and by taste alone; and r on comparisons never trained
    on, beside the best that anyone can reach. Of labels from a file only the choice is known."""
    asked, learned = ([c.samples for c in part] for part in (held_out, train))
    if cfg.labels:
        agreement, p = {"agreement": None, "source": cfg.labels + (
            " and simulated labelers" * (cfg.online > 0))}, np.eye(4)[[c.best for c in held_out]]
        limits = {"best_accuracy": None, "best_loss": None}
    else:
        by_choice, by_taste = (stories.agreement(stories.choice_probabilities(
            cfg.task, learned, temperature)) for temperature in (None, 1e-6))
        agreement = {"agreement": by_choice, "agreement_without_noise": by_taste,
                     "source": "simulated labelers"}
        p = stories.choice_probabilities(cfg.task, asked).mean(1)                  # (n, 4)
        limits = stories.limits(cfg.task, asked)
    data, length, _ = collate(held_out, tokens.encode, r.trunk.shape["context"])
    seen = evaluate_reward_model(r, data, length, torch.tensor(p, dtype=torch.float32))
    return {"labels": {"n": n, **agreement},
            "reward_model": {**seen, **limits, "n": len(held_out)}}


def win_rate(cfg, world, model, other, queries):
    """The paper's protocol (2.4): two responses of each in one four-way comparison; that side
    wins of which the majority of three labelers chose a response."""
    questions = []
    for x in queries.values():
        ours, theirs = (responses(m, x.to(cfg.device), 2, world.tokens.decode, *world.how)
                        for m in (model, other))
        questions += [a + b for a, b in zip(ours, theirs)]
    p = stories.choice_probabilities(cfg.task, questions)
    votes = stories.choose(p, np.random.default_rng([cfg.seed, 2]), people=3) < 2  # (n, 3)
    won = votes.sum(1) >= 2
    return {"mean": float(won.mean()), "stderr": float(won.std() / len(won) ** 0.5), "n": len(won)}


def results(cfg, world, r, pi, opponent, score, true, train, held_out, log):
    """Everything that results.json tells of a run, held out, beside its limit."""
    rho, pi, queries = world.rho, pi.trunk, world.queries["evaluation"]
    picked, few = pick(queries, cfg.evaluations), pick(queries, cfg.optimum_queries)

    def both(x, y):
        return torch.stack([score(x, y), true(x, y)], dim=1)                       # (B, 2)
    (reached, reached_true), kl = mean_reward_and_kl(pi, rho, both, picked, *world.how)
    (zero_shot, zero_shot_true), _ = mean_reward_and_kl(rho, rho, both, picked, *world.how)
    optimum = frontier(rho, score, few, cfg.optimum_samples, *world.how[:2]) if few else []

    best, size = None, None               # beyond what was sampled, not the curve's last point
    if optimum and kl <= optimum[-1][2]:
        best, size = (float(np.interp(kl, *np.array(optimum).T[[2, column]])) for column in (1, 3))
    wins = {"zero_shot": win_rate(cfg, world, pi, rho, picked)}
    if cfg.supervised_lr:
        tuned = supervised(rho, train, world.tokens.encode, cfg.supervised_lr)
        wins.update(supervised=win_rate(cfg, world, pi, tuned, picked),
                    supervised_vs_zero_shot=win_rate(cfg, world, tuned, rho, picked))
    if opponent:
        wins["against"] = win_rate(cfg, world, pi, opponent, picked)
    return {
        "language_model": world.losses,
        **beside_limits(cfg, r, world.tokens, log[-1].get("labels", len(train)), train, held_out),
        "policy": {"kl": kl, "kl_target": cfg.kl_target, "beta": log[-1]["beta"], "reward": reached,
                   "optimal_reward": best and zero_shot + best, "optimal_effective_samples": size,
                   "share_of_optimum": best and (reached - zero_shot) / best,
                   "zero_shot_reward": zero_shot, "true_reward": reached_true,
                   "zero_shot_true_reward": zero_shot_true, "episodes": log[-1]["episode"]},
        "win_rate": wins,
        "frontier": optimum}


# --- what a person sees ---------------------------------------------------------------------------

def table(results):
    """The results as a person reads them at the end of a run."""
    lm, r, p, t = (results[key] for key in ("language_model", "reward_model", "policy", "seconds"))
    best = r["best_loss"] and f"best possible {r['best_accuracy']:.3f}, {r['best_loss']:.3f}"
    optimum = p["optimal_reward"] is not None and f"{p['optimal_reward']:+.2f}"
    rows = [("language model", f"loss {lm['loss']:.3f}", f"unigram {lm['unigram_loss']:.3f}"),
            ("reward model", f"accuracy {r['accuracy']:.3f}, loss {r['loss']:.3f}", best or ""),
            ("KL(pi, rho)", f"{p['kl']:.2f}", f"target {p['kl_target'] or 'none'}"),
            ("reward of pi, and true reward", f"{p['reward']:+.2f}, {p['true_reward']:+.2f}",
             f"zero-shot {p['zero_shot_reward']:+.2f}, optimum at this KL "
             f"{optimum or 'beyond what was sampled'}"),
            *((f"win rate, {key}", f"{w['mean']:.1%}", f"+/- {w['stderr']:.1%} of {w['n']}")
              for key, w in results["win_rate"].items()),
            ("seconds", f"{sum(t.values()):.0f}", ", ".join(f"{k} {v:.0f}" for k, v in t.items()))]
    return "\n".join(f"{a:<34}{b:<30}{c}" for a, b, c in rows)


# --- pictures -------------------------------------------------------------------------------------

STYLES = [{"ls": line, "marker": mark, "color": f"C{i}", "mfc": "none"} for i, (line, mark) in
          enumerate(zip(["-", "--", "-.", ":", "-", "--", "-."], "os^DvPX"))]


def told(path, settings):
    """What a picture may want of a run's folder; curves of 24 means, numbers of five digits."""
    results = json.loads((path / "results.json").read_text())
    log = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    numbers = {f"{part}.{key}": value for part, values in results.items()
               if isinstance(values, dict) and part != "config" for key, value in values.items()
               if type(value) in (int, float)}
    for name, win in results["win_rate"].items():
        numbers[f"win_rate.{name}"] = 100 * win["mean"]
    parts, curve = np.array_split(log, min(24, len(log))), {}
    for key in sorted({key for m in log for key in m} - {"policy_loss", "value_loss", "total"}):
        known = [[m[key] for m in part if key in m] for part in parts]
        curve[key] = [float(np.mean(part)) if part else None for part in known]
    found = {"settings": settings, "numbers": numbers, "curve": curve,
             "frontier": results["frontier"],
             "samples": (path / "samples.txt").read_text("utf-8").split("\n\n")[:2]}
    return json.loads(json.dumps(found), parse_float=lambda digits: float(f"{float(digits):.5g}"))


def optimum_of(run):
    """KL, reward and effective samples of the sampled optimum, arrays."""
    _, gain, kl, size = np.array(run["frontier"]).reshape(-1, 4).T
    return kl, run["numbers"]["policy.zero_shot_reward"] + gain, size


def points_of(runs, x, y):
    """{x: [y of each run]}, where x and y name a curve of the runs, or a number or a setting."""
    at = defaultdict(list)
    for run in runs:
        known = {**run["settings"], **run["numbers"], **run["curve"]}
        for a, b in zip(*(v if isinstance(v, list) else [v] for v in (known[x], known.get(y)))):
            if b is not None:
                at[a].append(b)
    return at


def draw(panels, series, path):
    """The panels, as experiments.toml describes them, of {label: runs}. Readable without colours:
    a line is the mean of the runs, the band their range."""
    rows, columns = -(-len(panels) // 3), min(3, len(panels))
    fig, axes = plt.subplots(rows, columns, squeeze=False, layout="constrained",
                             figsize=(5.2 * columns, 4 * rows))
    for ax in axes.flat[len(panels):]:
        ax.axis("off")
    for ax, panel in zip(axes.flat, panels):
        styles = iter(STYLES)
        if "optimum" in panel:
            kl, reward, size = optimum_of(next(iter(series.values()))[0])
            firm, loose = size >= 100, size >= 10
            if panel["optimum"] == "all":
                ax.plot(kl[firm], reward[firm], "k-", label="sampled optimum")
                ax.plot(kl[loose], reward[loose], "k:", label="on 10 to 100 effective samples")
            else:
                ax.axhline(np.interp(panel["optimum"], kl, reward), color="black", label="optimum, "
                           f"on {np.interp(panel['optimum'], kl, size):.0f} samples")
        shown = [(label, runs, y) for label, runs in series.items() for y in panel.get("y", [])
                 if label != "optimum" and label == panel.get("of", label)]
        for label, runs, y in shown:
            style, label = next(styles), y if len(panel["y"]) > 1 else label or y
            if "x" not in panel:
                values = [run["numbers"][y] for run in runs if y in run["numbers"]]
                ax.plot(values, [label] * len(values), **style | {"ls": ""})
                continue
            at = points_of(runs, panel["x"], y)
            ax.plot(list(at), [np.mean(v) for v in at.values()], label=label,
                    **style if len(at) < 12 else style | {"marker": None})
            ax.fill_between(list(at), *([f(v) for v in at.values()] for f in (min, max)),
                            color=style["color"], alpha=0.2, lw=0)
        for curve in panel.get("paper", []):
            named = isinstance(curve["y"][0], str)
            ax.plot(curve["x"], curve["y"], label=curve["label"], **(
                {"ls": "", "marker": "x", "color": "black", "ms": 9} if named else next(styles)))
        ax.set(**{key: panel[key] for key in panel.keys() - {"x", "y", "of", "optimum", "paper"}})
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=8)
    files.write_whole(path, lambda name: fig.savefig(name, dpi=110, format="png"))
    plt.close(fig)


# --- the paper's figures and tables: runs of rlhf.py with other settings --------------------------

def plan():
    """experiments.toml, its figures and tables gathered under "results"."""
    found = tomllib.loads((RESULTS / "experiments.toml").read_text("utf-8"))
    return {name: found.pop(name) for name in ("common", "world", "miniature", "panels")} | {
        "results": found}


def expand(options, plan):
    """A series' runs, the settings of each: one for every value of a list and for every seed."""
    options = {"task": "sentiment", **options}
    alone, n = options.pop("alone", False), options.pop("seeds", 1)
    base = plan["world"][options["task"]] if options.pop("world", False) else {}
    options = {**({} if alone else plan["common"]), **base, **options}
    lists = [key for key, value in options.items() if isinstance(value, list)]
    return [{**options, **dict(zip(lists, values)), "seed": seed}
            for values in itertools.product(*(options[key] for key in lists)) for seed in range(n)]


def needs(options, plan):
    """{option: (an earlier run's settings, the file of it that this one uses)}. Default runs and
    the first world use none, the second world uses rho, rivals labels too."""
    first, world = (expand({"world": True, "task": task}, plan)[0]
                    for task in ("sentiment", options["task"]))
    opponent = {**plan["common"], "task": options["task"], "n_labels": 5000, "seed": options["seed"]}
    found = [("model", (first, "rho.pt")), ("labels", (world, "labels.jsonl")),
             ("against", (opponent, "policy.pt"))]
    alone = "episodes" not in options or options == first
    return dict(found[:0 if alone else 1 if options == world else 2 if options == opponent else 3])


def folder(home, options):
    """Where a run lives: the name tells its settings."""
    return home / "-".join(f"{key}={value}" for key, value in sorted(options.items())
                           if key not in ("optimum_queries", "optimum_samples", "supervised_lr"))


def run_all(home, wanted, plan, quick):
    """The runs and those they need, as many at once as there are cores, with one thread each. What
    is there already, made by the same settings, is not run again."""
    level, failed = {}, []                   # {folder: (how many runs must come before, settings)}

    def add(options):
        before = 1 + max([add(o) for o, _ in needs(options, plan).values()], default=0)
        level[folder(home, options)] = before, options
        return before

    def launch(path):
        """One run of rlhf.py, by the settings of its folder; what it says goes into log.txt."""
        if failed:
            return
        files = needs(level[path][1], plan).items()
        options = {**level[path][1], **(plan["miniature"] if quick else {}), "out": path,
                   **{option: folder(home, o) / file for option, (o, file) in files}}
        path.mkdir(parents=True, exist_ok=True)
        with open(path / "log.txt", "w") as log:
            done = subprocess.run(
                [sys.executable, Path(__file__).with_name("rlhf.py"),
                 *(f"--{key}={value}" for key, value in options.items())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            return failed.append(f"a run failed ({done.returncode}); {path}/log.txt says why")
        del weight[path]
        minutes = (time.time() - start) / 60 * (whole / (whole - sum(weight.values())) - 1)
        print(f"{len(weight)} of {len(level)} runs and some {minutes:.0f} minutes left; done: "
              f"{path.name}", flush=True)
    list(map(add, wanted))
    weight = {path: 5000 + o.get("episodes", 50000) for path, (_, o) in level.items()}  # its time
    start, whole = time.time(), sum(weight.values())
    for now in sorted({n for n, _ in level.values()}):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(launch, [path for path in level if level[path][0] == now]))
    if failed:
        raise UserError(failed[0])


def rendered(template):
    """Every {{result | series | number | setting=value}} filled in: mean ± deviation."""
    def number(match):
        """What one {{...}} stands for: the mean of its runs, and their deviation."""
        title, label, key, *where = (word.strip() for word in match[1].split("|"))
        runs = [run for run in json.loads(file_of(title).read_text())["series"][label]
                if all(str(run["settings"][w.split("=")[0]]) == w.split("=")[1] for w in where)]
        values = [{**run["settings"], **run["numbers"]}[key] for run in runs]
        digits = sum(abs(np.mean(values)) < limit for limit in (20, 1000))
        spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{np.mean(values):.{digits}f}{spread}"
    return re.sub(r"\{\{(.+?)\}\}", number, template)


def with_results(readme):
    """The README with its results written anew, from results.md and the JSON files."""
    text = rendered((RESULTS / "results.md").read_text("utf-8"))
    return re.sub("(?s)(<!-- results -->\n).*(<!-- end of results -->)",
                  lambda marks: marks[1] + text + marks[2], readme)


def file_of(title, home=RESULTS, end="json"):
    return home / f"{title.replace(' ', '_')}.{end}"


def command(argv):
    """`python rlhf.py figure 2`, or another title in experiments.toml, or all; or results."""
    experiments, quick, redraw = plan(), "--quick" in argv, "--redraw" in argv
    title = " ".join(word for word in argv if word not in ("--quick", "--redraw"))
    if title == "results":
        path = Path(__file__).with_name("README.md")
        text = with_results(path.read_text("utf-8"))
        return files.write_text(path, text)
    chosen = {t: e for t, e in experiments["results"].items() if title in (t, "all")}
    if not chosen:
        raise UserError(f"{title!r} is not a command: sample, label, agreement, results, all, "
                        f"{', '.join(experiments['results'])}")
    home = Path("out", "figures" + "-quick" * quick)
    series = {t: {label: expand(options, experiments)[:2 if quick else None] for label, options in
                  list(e["series"].items())[:3 if quick else None]} for t, e in chosen.items()}
    if not redraw:
        run_all(home, [o for known in series.values() for runs in known.values() for o in runs],
                experiments, quick)
    for title, known in series.items():
        path, picture = (file_of(title, home if quick else RESULTS, end) for end in ("json", "png"))
        if not redraw:
            found = {name: [told(folder(home, o), o) for o in rs] for name, rs in known.items()}
            files.write_whole(path, lambda name: Path(name).write_text(json.dumps(
                {"result": title, "command": f"python rlhf.py {title}", "series": found})))
        draw(chosen[title]["panels"], json.loads(path.read_text())["series"], picture)
        print(f"{path}, {picture.name}")
