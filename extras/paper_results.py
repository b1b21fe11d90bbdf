"""
extras/paper_results.py: the results of extras/paper.py, read, drawn and told.

Run: python -m extras.paper figure 2 --redraw      the picture
     python -m extras.paper results                extras/results/README.md
In:  extras/results/NAME.json
Out: a picture; the text, where every number that can be computed is computed
Not here: the experiments, and how they are run (paper.py)

A result's JSON holds {"result", "command", "series": {label: [run, ...]}}, and a run
{"settings", "numbers", "curve", "frontier", "samples"}.
"""

import json
import math
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, StrMethodFormatter

RESULTS = Path(__file__).resolve().parent / "results"


# --- reading ----------------------------------------------------------------------------

def file_of(title, folder=RESULTS, ending="json"):
    return folder / f"{title.replace(' ', '_')}.{ending}"


def load_series(title, folder=RESULTS):
    """{label: [run, ...]} of a result."""
    series = json.loads(file_of(title, folder).read_text("utf-8"))["series"]
    for runs in series.values():
        for run in runs:
            add_nats(run)
    return series


def optimum_of(run):
    """The sampled optimum (3.1.1): KL, reward, effective samples, three arrays. They end
    where nothing was sampled."""
    _, gain, kl, samples = np.array(run["frontier"]).reshape(-1, 4).T
    return kl, run["numbers"]["policy.zero_shot_reward"] + gain, samples


def values_of(runs, key):
    return [run["numbers"][key] for run in runs]


def mean_of(runs, key):
    return float(np.mean(values_of(runs, key)))


def spread(runs, key, digits=2):
    """The mean of the runs, and their standard deviation; "-" where one does not know."""
    if not all(key in run["numbers"] for run in runs):
        return "-"
    values = values_of(runs, key)
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def but_for_the_seed(runs):
    """The runs in groups that differ only in their seed."""
    groups = {}
    for run in runs:
        settings = {**run["settings"], "seed": None}
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
    return list(groups.values())


def add_nats(run):
    """KL(pi, pi_opt) = (beta log Z - J(pi)) / beta, where J is r - beta KL, and beta log
    Z that of pi_opt (Korbak et al. 2022). At pi_opt's beta both spend the same KL."""
    numbers = run["numbers"]
    if "policy.optimal_gain" in numbers:
        left = numbers["policy.optimal_gain"] - numbers["policy.gain"]
        numbers["policy.nats_from_optimum"] = left / numbers["policy.optimal_beta"]


def with_setting(runs, name, value):
    return [run for run in runs if run["settings"][name] == value]


def standard_error(percent, n=1024):
    """Of a win rate over n questions, in percent."""
    return (percent * (100 - percent) / n) ** 0.5


def table(header, rows):
    """A table in Markdown, of rows of strings."""
    lines = ["| " + " | ".join(row) + " |" for row in [header, *rows]]
    lines.insert(1, "|---" * len(header) + "|")
    return "\n".join(lines)


# --- the scaling laws of over-optimization ----------------------------------------------
# Gao et al. 2022, eq. 1: with d = sqrt(KL), the true reward gains d (alpha - beta log d)
# by RL, and d (alpha - beta d) by best-of-n.

def law_of_rl(kl, alpha, beta):
    d = np.sqrt(kl)
    return d * (alpha - beta * np.log(d))


def law_of_best_of_n(kl, alpha, beta):
    d = np.sqrt(kl)
    return d * (alpha - beta * d)


LAWS = {"PPO": law_of_rl, "best-of-n": law_of_best_of_n}
FURTHEST_KL = 31             # in nats: what lies beyond is neither fitted nor drawn


def can_be_fitted(kl):
    """A sampled KL may be below 0, and then has no root."""
    return (kl > 0) & (kl <= FURTHEST_KL)


def fit_law(law, kl, gain):
    """alpha, beta and R^2 of the law that fits best, by least squares. kl, gain (n,)."""
    columns = np.stack([law(kl, 1, 0), law(kl, 0, 1)], axis=1)
    alpha, beta = np.linalg.lstsq(columns, gain, rcond=None)[0]
    errors = gain - law(kl, alpha, beta)
    r_squared = 1 - (errors ** 2).sum() / ((gain - gain.mean()) ** 2).sum()
    return alpha, beta, r_squared


def gains_of(optimizer, runs):
    """KL, gain in r and gain in the true reward over rho's, three arrays: of each run of
    PPO, or of each n of each run of best-of-n, whose KL is a bound."""
    rows = []
    for numbers in (run["numbers"] for run in runs):
        if optimizer == "PPO":           # all have one rho: its mean over all is firmer
            rows.append((numbers["policy.kl"],
                         numbers["policy.reward"]
                         - mean_of(runs, "policy.zero_shot_reward"),
                         numbers["policy.true_reward"]
                         - mean_of(runs, "policy.zero_shot_true_reward")))
        else:
            for key, kl_bound in numbers.items():
                if key.endswith(".kl_bound"):
                    n = key.removesuffix(".kl_bound")
                    rows.append((kl_bound, numbers[f"{n}.gain"],
                                 numbers[f"{n}.true_gain"]))
    return np.array(sorted(rows)).T


# --- pictures ---------------------------------------------------------------------------

@dataclass
class Panel:
    """One of the drawings of a picture."""
    kind: str                # "curves" over episodes, "points" over x, or "laws", fitted
                             # to gains over KL
    title: str
    lines: dict              # {legend: (label of a series, what is drawn of its runs)}
    xlabel: str = "episodes"
    ylabel: str = ""
    x: str = ""              # of points: a setting, or a number of results.json
    paper: dict = field(default_factory=dict)      # {legend: (x, y)}, the paper's points
    marks: dict = field(default_factory=dict)      # {legend: value}, straight lines
    levels: dict = field(default_factory=dict)     # {legend: (series, number)}, likewise
    optimum: str = ""        # "curve", or "at KL 3"
    joined: bool = True      # of points: a line through the means
    axes: dict = field(default_factory=dict)       # xscale, xlim, ... of matplotlib


# What means the same looks the same, here and in the paper's panel; without color too.
STYLE_OF = {
    "direct RL": 0, "5,000 labels": 1, "60k labels": 1, "1,667 labels": 2,
    "20k labels": 2, "417 labels": 3, "5k labels": 3, "direct RL, 32 times as long": 4,
    "optimum": 5, "sentiment": 0, "descriptiveness": 1, "two trunks": 0, "one trunk": 1,
    "offline": 0, "online": 1, "one trunk, held-out labels": 1,
    "one trunk, labels it learns from": 2}
STYLES = [dict(color="C0", marker="o", ls="-"), dict(color="C1", marker="s", ls="--"),
          dict(color="C2", marker="^", ls="-."), dict(color="C3", marker="D", ls=":"),
          dict(color="C4", marker="v", ls="-"), dict(color="black", marker="", ls="-")]


def style_of(legend, place):
    """How a line looks: by what it means, or by its place in the panel."""
    return {**STYLES[STYLE_OF.get(legend, place)], "mfc": "white", "ms": 5}


def draw_curves(ax, panel, series):
    """Over the episodes: the mean of a series' runs, and their range as a band."""
    for place, (legend, (label, key)) in enumerate(panel.lines.items()):
        runs = [run for run in series.get(label, []) if key in run["curve"]]
        if not runs:
            continue
        style = style_of(legend, place)
        x = np.array(runs[0]["curve"]["episode"])
        y = np.array([run["curve"][key] for run in runs], dtype=float)       # None: nan
        known = ~np.isnan(y).any(axis=0)
        x, y = x[known], y[:, known]
        ax.plot(x, y.mean(axis=0), label=legend, markevery=3, **style)
        ax.fill_between(x, y.min(axis=0), y.max(axis=0), color=style["color"], alpha=0.2,
                        lw=0)


def value_of(run, name):
    return {**run["settings"], **run["numbers"]}.get(name)


def draw_points(ax, panel, series):
    """Over a setting or number x: each run a dot, and a marker at the mean of those that
    differ only in their seed."""
    for place, (legend, (label, key)) in enumerate(panel.lines.items()):
        style = style_of(legend, place)
        means = []                                                   # (x, y)
        for runs in but_for_the_seed(series.get(label, [])):
            x = [value_of(run, panel.x) for run in runs]
            y = [value_of(run, key) for run in runs]
            means.append((np.mean(x), np.mean(y)))
            ax.plot(x, y, ".", color=style["color"], ms=3)
        if means:
            x, y = zip(*sorted(means))
            if not panel.joined:
                style = {**style, "ls": "", "ms": 7}
            ax.plot(x, y, label=legend, **style)


def draw_laws(ax, panel, series):
    """What an optimizer gains in r, open, and in the true reward, filled, with the law
    fitted to that. Runs beyond the axis are arrowheads at its edge, and not fitted."""
    for place, (optimizer, (label, _)) in enumerate(panel.lines.items()):
        if label not in series:
            continue
        kl, in_r, in_true = gains_of(optimizer, series[label])
        color, marker = STYLES[place]["color"], STYLES[place]["marker"]
        for far in np.flatnonzero(kl > FURTHEST_KL):
            ax.plot(FURTHEST_KL, in_r[far], ">", color=color, mfc="none", clip_on=False)
            ax.plot(FURTHEST_KL, in_true[far], ">", color=color, clip_on=False)
            ax.annotate(f"KL {kl[far]:.0f}", (FURTHEST_KL, in_true[far]), (-8, 0),
                        textcoords="offset points", ha="right", va="center", fontsize=8,
                        color=color)
        near = can_be_fitted(kl)
        kl, in_r, in_true = kl[near], in_r[near], in_true[near]
        ax.plot(kl, in_r, marker, color=color, mfc="none", alpha=0.5, ms=5,
                label=f"{optimizer}: r")
        ax.plot(kl, in_true, marker, color=color, ms=5, label=f"{optimizer}: true reward")
        if len(kl) > 2:
            law = LAWS[optimizer]
            alpha, beta, r_squared = fit_law(law, kl, in_true)
            x = np.linspace(kl.min(), kl.max(), 200)
            ax.plot(x, law(x, alpha, beta), color=color, lw=1,
                    ls=STYLES[place]["ls"], label=f"law: alpha {alpha:.2f}, beta "
                    f"{beta:.2f}, R\u00b2 {r_squared:.2f}")


def draw_optimum(ax, panel, series):
    """The best that anybody could do, sampled from rho; dotted where few of the samples
    carry the weight, and it comes out too low."""
    kl, reward, samples = optimum_of(series["optimum"][0])
    if panel.optimum == "at KL 3":
        ax.axhline(np.interp(3, kl, reward), color="k", lw=1, ls=":", label="optimum at "
                   f"KL 3, from {np.interp(3, kl, samples):.0f} samples: too low")
    else:
        firm = samples >= 100
        few = (samples < 120) & (samples >= 10)          # from where the firm line ends
        ax.plot(kl[firm], reward[firm], "k-", label="optimum")
        ax.plot(kl[few], reward[few], "k:",
                label="the same, from 10 to 100 samples: too low")


def draw_panel(ax, panel, series):
    """Draw one panel: its series, the paper's points, the optimum, the axes in words."""
    if panel.optimum and "optimum" in series:
        draw_optimum(ax, panel, series)
    if panel.kind == "curves":
        draw_curves(ax, panel, series)
    elif panel.kind == "points":
        draw_points(ax, panel, series)
    else:
        draw_laws(ax, panel, series)
    for place, (legend, (x, y)) in enumerate(panel.paper.items()):
        ax.plot(x, y, label=legend, **style_of(legend, place))
    for legend, value in panel.marks.items():
        ax.axhline(value, color="gray", ls="--", lw=1, label=legend, zorder=0)
    for place, (legend, (label, key)) in enumerate(panel.levels.items()):
        values = [value_of(run, key) for run in series.get(label, [])]
        if values:
            ax.axhline(np.mean(values), color=style_of(label, place)["color"], ls=":",
                       label=legend)
    ax.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    ax.set(**panel.axes)
    if panel.kind == "curves" or panel.xlabel == "labels":
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))           # 10k, 2M
    elif panel.axes.get("xscale") == "log":
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if panel.axes.get("yscale"):
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.minorticks_off()
    ax.title.set_fontsize(11)
    ax.spines[["top", "right"]].set_visible(False)
    # Below the axes, where it hides nothing.
    ax.legend(frameon=False, fontsize=8, ncol=2, loc="upper center",
              bbox_to_anchor=(0.5, -0.14))


def draw(panels, series):
    """The picture of an experiment, a matplotlib Figure, of the series of its JSON."""
    rows, columns = math.ceil(len(panels) / 3), min(3, len(panels))
    figure = Figure(figsize=(5.6 * columns, 4.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for ax, panel in zip(axes, panels):
        draw_panel(ax, panel, series)
    return figure


def stamp(figure, series):
    """Say across a picture that its runs are miniatures, and how small they are."""
    settings = [run["settings"] for runs in series.values() for run in runs]
    most = max(one.get("episodes", 0) for one in settings)
    text = f"MINIATURE\n{settings[0]['n_embd']} wide, {most} episodes"
    figure.text(0.5, 0.5, text, fontsize=40, color="red", alpha=0.3, ha="center",
                va="center", rotation=20)


# --- the text ---------------------------------------------------------------------------

def readme():
    """All of it, but for what has not been run."""
    results = {title: load_series(title) for title in SECTIONS if file_of(title).exists()}
    sections = [introduction(results)]
    sections += [SECTIONS[title](results) for title in results]
    text = "\n\n".join(section.strip() for section in sections)
    return "\n\n".join(wrapped(block) for block in text.split("\n\n")) + "\n"


def wrapped(block):
    """A paragraph in lines of 90 columns. What is not one stays as it is."""
    if block.startswith(("#", "|", "!", "- ", "    ")):
        return block
    return textwrap.fill(block, 90, break_long_words=False, break_on_hyphens=False)


def picture(title):
    return f"![{title}]({file_of(title, Path(), 'png')})"


def introduction(results):
    """The text before the first result: what was run, by which code, how to repeat it."""
    runs = [run for series in results.values() for of_label in series.values()
            for run in of_label]
    different = {json.dumps(run["settings"], sort_keys=True): run for run in runs}
    seconds = sum(value for run in different.values()
                  for key, value in run["numbers"].items() if key.startswith("seconds."))
    return f"""
# The paper's figures and tables

    python -m extras.paper figure 2            run what is missing, write JSON and PNG
    python -m extras.paper figure 2 --redraw   only the PNG, from the JSON, in seconds
    python -m extras.paper figure 2 --quick    in miniature, into out/paper-quick
    python -m extras.paper results             write this file, from the JSON files

The others: figure 3, figure 4, table 1, table 9, table 10, over-optimization, section
2.3, section 4.2, section 4.4, seeds and long runs. "all" runs all but the long runs. A
miniature is no result.

These are {len(runs)} runs, of which {len(different)} are different: a run that stands in
several results was made once. By their own clocks they took {seconds / 60:.0f} minutes,
two at a time, on two cores. All but those of `seeds` and the long ones have 8,192
episodes and a first beta of 0.3, half of the default's. Except in `seeds` all runs share
one rho, and those of a task draw from one set of 20,000 labels; their seeds are those of
r and pi. "±" is the
standard deviation over the seeds, three where nothing else is said. It does not say how
much another set of labels would change.

The labelers are ten simulated labelers, for sentiment assembled from human ratings of
words (VADER). Rewards are in standard deviations over samples of rho, KL is in nats per
response. A win rate over 1,024 questions has a standard error of
{standard_error(90):.1f} % near 90 %, {standard_error(80):.1f} % at 80 %, and
{standard_error(50):.1f} % at 50 %."""


def figure_2(results):
    """Figure 2 (3.1.1): true reward by episodes, direct RL and three sizes of labels."""
    series = results["figure 2"]

    def row(paper_label, paper, label):
        return [paper_label, paper, spread(series[label], "policy.true_reward")]
    rows = [row("direct RL on the true reward", "3.27 (3.23 to 3.29)", "direct RL"),
            row("60k / 5,000 labels", "3.08 (2.99 to 3.15)", "5,000 labels"),
            row("20k / 1,667 labels", "2.62 (2.58 to 2.69)", "1,667 labels"),
            row("5k / 417 labels", "2.03 (1.83 to 2.14)", "417 labels")]
    kl, reward, _ = optimum_of(series["optimum"][0])
    share = mean_of(series["direct RL"], "policy.true_reward") / np.interp(3, kl, reward)
    return f"""
## Figure 2: reward by episodes, from the true reward and from labels

{picture("figure 2")}

{table(["reward at the end", "paper (124M, KL 8, 2M episodes)",
        "here (KL 3, 8,192 episodes)"], rows)}

Here the unit is a standard deviation of rho's samples, in the paper a classifier's
log-odds. 5,000, 1,667 and 417 labels are a twelfth of the paper's. Three seeds here, five
in the paper. The order is the paper's, and no two ranges of seeds meet. Direct RL ends at
{share:.1%} of the sampled optimum's reward at KL 3.

One thing differs. In the paper the runs on 60k and 20k labels are ahead of direct RL
between some 100,000 and 200,000 episodes, and that on 60k still is at 500,000. Here
direct RL leads from some 1,000 on. It may be because the paper's labels always name the
option that its mock reward (a classifier of reviews) likes best, while ours come from
labelers of whom two agree on 38 % of the questions."""


def figure_3(results):
    """Figure 3 (3.1.1): true reward by KL, in nats, beside the sampled optimum."""
    series = results["figure 3"]
    labels = ["direct RL", "5,000 labels", "1,667 labels", "417 labels"]
    at_one_beta = {label: but_for_the_seed(series[label]) for label in labels}
    rows = []
    for place, of_direct_rl in enumerate(at_one_beta["direct RL"]):
        settings = of_direct_rl[0]["settings"]
        row = ["KL target 3" if settings["kl_target"] else f"beta {settings['beta']}"]
        for label in labels:
            at = at_one_beta[label][place]
            row.append(f"{mean_of(at, 'policy.true_reward'):.2f} at "
                       f"{mean_of(at, 'policy.kl'):.1f}")
        rows.append(row)
    kl, reward, _ = optimum_of(series["optimum"][0])
    shares = [run["numbers"]["policy.true_reward"]
              / np.interp(run["numbers"]["policy.kl"], kl, reward)
              for run in series["direct RL"] if run["numbers"]["policy.kl"] < 4]
    few = with_setting(series["417 labels"], "beta", 0.03)
    few = sorted(values_of(few, "policy.true_reward"))
    return f"""
## Figure 3: reward by KL

{picture("figure 3")}

{table(["", *labels], rows)}

True reward at the KL that was reached, means of three seeds. Below direct RL lie the
learned rewards, in the order of their labels, the wider apart the further pi is from rho,
as in the paper. In the paper even 32 times as many episodes leave direct RL well below
the optimum. Here it lies on it: up to a KL of 3 all runs of direct RL have
{min(shares):.1%} to {max(shares):.1%} of the sampled optimum's reward. That is dotted
where it rests on fewer than 100 effective samples, and comes out too low. In the paper
the learned rewards beat direct RL at KL 2 after equally many episodes. Here they do not,
as far as the runs at a KL of 1 to 1.5 and of 3 tell.

With 417 labels the seeds of r differ more than anything else: with a beta of 0.03 they
end at {few[0]:.2f}, {few[1]:.2f} and {few[2]:.2f}."""


def over_optimization(results):
    """Gao et al. 2022, eq. 1: two optimizers' gains by KL, and the laws fitted."""
    series = results["over-optimization"]
    fits, ends = [], []
    for label in ("5,000 labels", "1,667 labels", "417 labels"):
        row = [label]
        for optimizer, runs in (("PPO", series[label]),
                                ("best-of-n", series[f"best-of-n, {label}"])):
            kl, _, gain = gains_of(optimizer, runs)
            near = can_be_fitted(kl)
            alpha, beta, r_squared = fit_law(LAWS[optimizer], kl[near], gain[near])
            row += [f"{alpha:.2f}", f"{beta:.2f}", f"{r_squared:.2f} ({near.sum()})"]
        fits.append(row)
        free = with_setting(series[label], "beta", 0.0)
        ends.append([label, three_of(free, "policy.kl", 0),
                     three_of(free, "policy.reward"),
                     three_of(free, "policy.true_reward")])
    return f"""
## Over-optimization

{picture("over-optimization")}

{table(["r learned from", "PPO: alpha", "beta", "R² (points)", "best-of-n: alpha",
        "beta", "R² (points)"], fits)}

Gao et al. 2022 found that with d = sqrt(KL) the true reward gains d (alpha - beta log d)
by RL, and d (alpha - beta d) by best-of-n. Their beta is not ours, the price of a nat.
PPO's points are the runs of figure 3 and three without a price; best-of-n's are n = 2 to
512 for three seeds of r, on 64 queries each. Runs beyond a KL of {FURTHEST_KL} are
arrowheads, and are not fitted. A gain is a reward less rho's, whose mean is taken over all the runs.

More labels give a larger alpha, and at the same KL (of best-of-n a bound) both optimizers
gain about the same. The law of best-of-n fits everywhere, but its KL ends at 5 nats,
where hardly anything bends, and the nine points of a seed share their samples. That of RL
fails with 417 labels: there the seeds of r differ more than a curve through them says,
for what r has learned by chance decides what pi finds. And it bends most with 5,000
labels: there the true reward rises steeply, and then stands still near 2.8, as r itself
does, while direct RL goes on to 3.4 (figure 3).

What shows over-optimization is r beside the true reward. With 5,000 and 1,667 labels the
true reward gains even more than r, up to a KL of 20. With 417 labels r promises up to
four deviations, and the labelers see one to three. At the default's KL of 3 that gap is
0.2 to 0.7.

{table(["without a price of KL: three seeds of", "KL", "r", "true reward"], ends)}"""


def three_of(runs, key, digits=2):
    """The values of the runs, one after the other."""
    return ", ".join(f"{value:.{digits}f}" for value in values_of(runs, key))


def figure_4(results):
    """Figure 4 (3.1.2): win rate over zero-shot, in %, by number of labels."""
    series = results["figure 4"]
    key = "win_rate.zero_shot"
    papers = [(200, 51.9, 78.2), (1000, 84.4, 82.3), (5000, 87.9, 86.3),
              (20000, 87.1, 84.6)]
    rows = []
    for n, paper_sentiment, paper_descriptiveness in papers:
        sentiment = with_setting(series["sentiment"], "n_labels", n)
        descriptiveness = with_setting(series["descriptiveness"], "n_labels", n)
        rows.append([f"{n:,}",
                     f"{paper_sentiment} %", f"{spread(sentiment, key, 1)} %",
                     f"{paper_descriptiveness} %",
                     f"{spread(descriptiveness, key, 1)} %"])
    few = {task: mean_of(with_setting(series[task], "n_labels", 200), key)
           for task in series}
    return f"""
## Figure 4: win rate over zero-shot by number of labels

{picture("figure 4")}

{table(["labels", "sentiment, paper", "here", "descriptiveness, paper", "here"], rows)}

The spread is over three seeds of r and pi on one and the same set of labels, so it says
nothing of how much another set would change; with few labels that may be more than the
± here.

More labels are better here up to 5,000, where the ranges of the seeds do not meet.
20,000 bring another point, about as much as the seeds spread. In the paper they bring
nothing more; its one run each falls at 2,500 labels of descriptiveness, which its
footnote 5 blames on the randomness of RL. With 200 labels the paper has 78 % for descriptiveness and we
{few["descriptiveness"]:.0f} %, but for sentiment it has 52 % and we
{few["sentiment"]:.0f} %. So it is not simply that its GPT-2, which has read the web,
needs fewer labels than a model of six megabytes of stories. What makes the difference we
do not know."""


def table_1(results):
    """Table 1 (3.1.2): win rates of policies over each other, in %."""
    series = results["table 1"]

    def against(task, kind):
        return spread(series[f"{task}, {kind}"], "win_rate.against", 1) + " %"

    def zero_shot(task, kind):
        return spread(series[f"{task}, {kind}"], "win_rate.zero_shot", 1) + " %"
    rows = [["5k offline over zero-shot", "88 %", zero_shot("sentiment", "5k labels"),
             "86 %", zero_shot("descriptiveness", "5k labels")],
            ["mock reward over 5k offline", "23 %", against("sentiment", "mock reward"),
             "-", "-"],
            ["20k offline over 5k offline", "52 %", against("sentiment", "20k labels"),
             "53 %", against("descriptiveness", "20k labels")],
            ["5k online over 5k offline", "50 %", against("sentiment", "5k online"),
             "52 %", against("descriptiveness", "5k online")],
            ["mock reward over zero-shot", "-", zero_shot("sentiment", "mock reward"),
             "-", "-"]]
    mock = spread(series["sentiment, mock reward"], "reward_model.accuracy")
    learned = spread(series["sentiment, 5k labels"], "reward_model.accuracy")
    online_labels = series["sentiment, 5k online"][0]["numbers"]["labels.n"]
    online = {task: three_of(series[f"{task}, 5k online"], "win_rate.against", 1)
              for task in ("sentiment", "descriptiveness")}
    more = {task: three_of(series[f"{task}, 20k labels"], "win_rate.against", 1)
            for task in ("sentiment", "descriptiveness")}
    return f"""
## Table 1: policies against each other

{table(["win rate", "sentiment, paper", "here", "descriptiveness, paper", "here"], rows)}

A run is compared with the 5k run of its own seed. The online runs have asked for
{online_labels:,} labels at their end (section 2.3). They win {online["sentiment"]} % for
sentiment, {online["descriptiveness"]} % for descriptiveness: the seeds differ by more than
the means differ from 50 %, so online labels cannot be distinguished from offline ones, as
in the paper. 20,000 never lose: they win {more["sentiment"]} % and
{more["descriptiveness"]} %.

The mock reward is the logit of a classifier trained on 12,000 generated reviews of
goods (`reviews` in `extras/paper.py`). The paper's is a transformer of its own, trained
on Amazon's reviews. Theirs and ours know what praise is and not what the labelers like:
r of the reviews agrees with a labeler on {mock} of the questions (chance 0.25), r of
5,000 labels on {learned}. How far reviews carry is our choice, for we wrote them. A
first set, whose words told the stars for certain, carried nothing over (correlation
with the true reward 0.0, now 0.38), and was changed before any policy was trained on
it."""


def section_23(results):
    """Section 2.3: labels asked for online, of pi's samples, beside those of rho's."""
    series = results["section 2.3"]
    rows, differences = [], []
    for task in ("sentiment", "descriptiveness"):
        row = [task]
        for kind in ("offline", "online"):
            runs = series[f"{task}, {kind}"]
            row += [spread(runs, "policy.true_reward"), spread(runs, "policy.kl")]
        rows.append(row)
        offline, online = [mean_of(series[f"{task}, {kind}"], "policy.true_reward")
                           for kind in ("offline", "online")]
        differences.append(online - offline)
    n_labels = series["sentiment, online"][0]["numbers"]["labels.n"]
    online = [run["curve"]["kl"] for run in series["descriptiveness, online"]]
    furthest = np.mean(online, axis=0).max()
    return f"""
## Section 2.3: labels online

{picture("section 2.3")}

{table(["at the end", "offline, 5,000 labels: true reward", "KL",
        f"online, {n_labels:,} labels: true reward", "KL"], rows)}

r is trained 5 times (paper: 20), at equal steps of l(n), the paper's number of labels
after n episodes. The first time is on a quarter of them (the paper does not state how
many it begins with, its N0). Since the last step would fall on the
last episode, {5000 - n_labels:,} of the 5,000 are never asked for. All new labels are of
samples of pi as it is then; the paper also asks questions with two samples of rho and
two of pi.

With fewer labels the start is slower. In the middle the online runs lie higher, but
further from rho too (for descriptiveness at KL {furthest:.1f}): each new r is normalized
anew, and beta has to follow it. The end is the same: with online labels the true reward
differs by {differences[0]:+.2f} for sentiment and {differences[1]:+.2f} for
descriptiveness, and the seeds differ more. Online labels may ask about queries that are
held out, so r's accuracy is not compared here."""


def table_9(results):
    """Table 9 (2.4): how often two labelers choose the same of four."""
    series = results["table 9"]

    def row(name, paper, key):
        return [name, paper, spread(series["sentiment"], key),
                spread(series["descriptiveness"], key)]
    rows = [["chance", "0.25", "0.25", "0.25"],
            row("two labelers (paper: ± its sampling error)", "0.38 ± 0.02",
                "labels.agreement"),
            row("the same two without the noise of choice", "-",
                "labels.agreement_without_noise")]
    return f"""
## Table 9: agreement on the best of four

{table(["", "paper, sentiment", "here, sentiment", "here, descriptiveness"], rows)}

This number was not found but set. The temperature of the choice was fitted so that the
labelers of sentiment agree as the paper's do, and those of descriptiveness too, for
which the paper gives no number. Without that noise our labelers of sentiment, ten
simulated labelers assembled from human ratings of words, agree far better than people
who read stories. Labelers of descriptiveness all count the same words, and differ only
over ties."""


def table_10(results):
    """Table 10: pi without a KL penalty, paid the true reward or r."""
    series = results["table 10"]
    true, learned = series["true score"], series["5,000 labels"]
    rows = [["paper: the mock reward itself", "+8.0 (log-odds)", "the same", "-"],
            ["here: the true reward itself", spread(true, "policy.reward"), "the same",
             spread(true, "policy.kl", 0)],
            ["here: r of 5,000 labels", spread(learned, "policy.reward"),
             three_of(learned, "policy.true_reward"), spread(learned, "policy.kl", 0)]]
    return f"""
## Table 10: no KL penalty

{picture("table 10")}

{table(["at the end", "what pi is paid", "true reward", "KL"], rows)}

Paid the true reward, pi says "love beautiful love love love love love": gibberish, as in
the paper. Every word of praise counts, and the labelers, who see words and not sense,
prefer all of it to rho. People would not. Paid r of 5,000 labels, pi still speaks English
after 8,192 episodes, but each seed has found a sentence of its own, and says little else:
"He warmly wrote a beautiful letter of peace to Alma. Paul warmly wrote a beautiful letter
of peace to Alma." r has learned from sentences."""


def section_42(results):
    """Section 4.2: r and pi on one trunk, loss of r in nats, beside two trunks."""
    series = results["section 4.2"]

    def row(name, key, digits=2):
        return [name, spread(series["two trunks"], key, digits),
                spread(series["one trunk"], key, digits)]
    rows = [row("loss of r on held-out labels", "reward_model.loss"),
            row("accuracy of r on held-out labels", "reward_model.accuracy"),
            row("true reward of pi", "policy.true_reward"),
            row("win rate over zero-shot, %", "win_rate.zero_shot", 1)]
    return f"""
## Section 4.2: r and pi on one trunk

{picture("section 4.2")}

{table(["1,000 labels, at the end", "two trunks, one epoch", "one trunk, 8 epochs"],
       rows)}

On one trunk r needs many epochs to keep up with pi, and overfits, as the paper says:
its loss goes on falling on the labels it learns from, while that on held-out labels
stands still from a third of the run on. Pi learns later, and in the end reaches almost as
much. In the paper it did not work at all; the reward here may be simpler. r is normalized
after each update, so it cannot become over-confident. Without that its loss would show
more."""


def section_44(results):
    """Section 4.4: the reward's sign turned, and KL's too."""
    series = results["section 4.4"]
    rows = [[label, spread(runs, "policy.true_reward"), spread(runs, "policy.kl", 1),
             three_of(runs, "win_rate.zero_shot", 1)] for label, runs in series.items()]
    return f"""
## Section 4.4: the sign bug

{picture("section 4.4")}

{table(["at the end", "true reward", "KL", "win rates over zero-shot, %"], rows)}

With the reward's sign turned, and KL still a price, pi is as fluent as ever and as unkind
as it can be: "She wept over the dirty mossy dog by the chimney. Clara hated the dirty
drum and the hate it brought." That is what the authors found in the morning. They say
that the sign of KL was turned as well. If it was turned first and then that of the whole,
-(r + beta KL), KL was a price again, as in the second row. The paper does not say. Where
pi is paid for KL (third row) it runs to
{mean_of(series["both signs turned"], "policy.kl"):.0f} nats: "He noise noise noise noise
noise noise trouble". Both rewards are then near -1, for most responses find no period and
are paid -1.

The logged `score` rises in the second run as in the first; `true` tells them apart.
Tests of eq. 2 by hand, of the sign of KL, and of PPO's exact optimum would have caught
it; `test_rlhf.py` has them."""


SEEDS_ROWS = [               # name, the paper's, the number, its digits
    ("win rate over zero-shot, %", "88 / 86 (774M, table 1)", "win_rate.zero_shot", 1),
    ("win rate over supervised, %", "-", "win_rate.supervised", 1),
    ("supervised over zero-shot, %", "-", "win_rate.supervised_vs_zero_shot", 1),
    ("samples of the optimum over zero-shot, %", "-", "win_rate.optimum", 1),
    ("best of 4 over zero-shot, %", "-", "win_rate.best_of_4", 1),
    ("best of 64 over zero-shot, %", "-", "win_rate.best_of_64", 1),
    ("reward of pi", "1.85 (0.75 to 2.7) / 2.3 (1.0 to 3.6)", "policy.reward", 2),
    ("reward of rho", "-0.5 / -0.6 (many without a period)",
     "policy.zero_shot_reward", 2),
    ("true reward of pi", "-", "policy.true_reward", 2),
    ("gain of pi, queries of the optimum", "-", "policy.gain", 2),
    ("gain of the optimum at pi's KL", "-", "policy.optimal_gain", 2),
    ("gain of the best of 4", "-", "best_of_4.gain", 2),
    ("gain of the best of 64", "-", "best_of_64.gain", 2),
    ("share of the optimum's gain", "-", "policy.share_of_optimum", 3),
    ("standard error of a run's share", "-", "policy.share_stderr", 3),
    ("nats from pi to the optimum", "-", "policy.nats_from_optimum", 2),
    ("effective samples of the optimum", "-", "policy.optimal_effective_samples", 1),
    ("KL (target 3; there 6)", "6.0 / 6.0", "policy.kl", 2),
    ("beta at the end", "0.25 / 0.325", "policy.beta", 2),
    ("the optimum's beta at pi's KL", "-", "policy.optimal_beta", 2),
    ("in the three commonest frames: pi", "-", "policy.sameness", 2),
    ("the same of the optimum", "-", "policy.optimal_sameness", 2),
    ("the same of the best of 64", "-", "best_of_64.sameness", 2),
    ("the same of rho", "-", "policy.zero_shot_sameness", 2),
    ("accuracy of r", "-", "reward_model.accuracy", 3),
    ("best possible accuracy", "-", "reward_model.best_accuracy", 3),
    ("loss of r, held out (there training)", "1.23 / 0.93", "reward_model.loss", 3),
    ("best possible loss", "-", "reward_model.best_loss", 3),
    ("agreement of two labelers", "0.38 / - (table 9)", "labels.agreement", 3),
    ("loss of rho, nats per token", "-", "language_model.loss", 3),
    ("loss of a unigram model", "-", "language_model.unigram_loss", 3)]


def seeds(results):
    """The default run with five seeds, both tasks, beside the released code's."""
    series = results["seeds"]
    rows = [[name, paper, spread(series["sentiment"], key, digits),
             spread(series["descriptiveness"], key, digits)]
            for name, paper, key, digits in SEEDS_ROWS]
    return f"""
## Seeds: the default run

{picture("seeds")}

{table(["mean and deviation of 5 seeds", "paper's code at 124M, 10 seeds (by eye)",
        "sentiment", "descriptiveness"], rows)}

Rho, labels, r and pi all differ from seed to seed. The column of the released settings
is read off published plots of the reward in training, with one set of labels and other
queries, so that only the size of the spread invites comparison.

For sentiment pi comes to {mean_of(series["sentiment"], "policy.share_of_optimum"):.1%} of
the optimum's gain, an estimate that is some 1 % too high, and beta ends at the optimum's:
at this price pi is converged. For descriptiveness
{100 * (1 - mean_of(series["descriptiveness"], "policy.share_of_optimum")):.0f} % are
left, of which a third to a half is explained (see "Which critic" in the README of
extras). Pi wins as
often as samples of the optimum do (on 32 queries a seed, 16 questions about each). So
does the best of 64 samples of rho, at about the same KL and without training: who has a
reward model and can pay 64 samples an answer needs no PPO. What pi has learned costs
nothing when it is used.

KL is a price for leaving rho, not for saying one thing. Three of 124 frames make up
{100 * mean_of(series["sentiment"], "policy.sameness"):.0f} % of pi's sentences,
{100 * mean_of(series["sentiment"], "policy.zero_shot_sameness"):.0f} % of rho's, and
{100 * mean_of(series["sentiment"], "policy.optimal_sameness"):.0f} % of the optimum's:
so it is the objective's doing, not PPO's."""


def long_runs(results):
    """Direct RL for 98,304 episodes at KL target 1: does KL, in nats, stay there?"""
    runs = results["long runs"]["KL target 1"]
    furthest = max(max(run["curve"]["kl"]) for run in runs)
    return f"""
## Long runs

{picture("long runs")}

98,304 episodes of direct RL at KL target 1, five seeds. They end at KL
{spread(runs, "policy.kl")} with a true reward of {spread(runs, "policy.true_reward")};
no mean over a twenty-fourth of a run was above KL {furthest:.1f}."""


# The sections, each a function of all results {title: {label: [run, ...]}}, in the order
# of the text.
SECTIONS = {"figure 2": figure_2, "figure 3": figure_3,
            "over-optimization": over_optimization, "figure 4": figure_4,
            "table 1": table_1, "section 2.3": section_23, "table 9": table_9,
            "table 10": table_10, "section 4.2": section_42, "section 4.4": section_44,
            "seeds": seeds, "long runs": long_runs}
