"""
extras/summarize_results.py: the results of extras/summarize.py, drawn and told.

Run: python -m extras.summarize results
In:  extras/results/summaries.json
Out: beside it, summaries.md and two pictures
Not here: the experiment (summarize.py)
"""

import json

import numpy as np
from matplotlib.figure import Figure

from extras.paper_results import table

# The paper's numbers, TL;DR and CNN/Daily Mail. Copied sentences: 100 less figure 6's
# novel ones. First three words: table 7. Accurate: table 8, of 30. ROUGE: table 4.
PAPER_COPIED = {"zero-shot": (3.7, 8.3), "RL": (71.0, 97.5), "supervised": (3.1, 16.4),
                "supervised + RL": (6.0, 30.4), "reference": (1.1, 3.3)}
PAPER_STARTS = {"zero-shot": (1.3, 10.4), "RL": (28.3, 77.6), "supervised": (1.5, 9.4),
                "supervised + RL": (7.9, 16.6), "reference": (0.6, 5.1)}
PAPER_ACCURATE = {"zero-shot": (20, 20), "RL": (87, 97), "supervised": (27, 63),
                  "supervised + RL": (37, 67)}
PAPER_ROUGE = {"lead-3": ("17.4, 3.2, 14.6", "40.4, 17.7, 36.6"),
               "zero-shot": ("15.9, 2.3, 13.5", "28.4, 8.3, 25.2"),
               "supervised": ("17.5, 3.1, 15.0", "39.5, 17.0, 36.7"),
               "supervised + RL": ("18.4, 3.5, 15.5", "40.1, 17.6, 37.1"),
               "RL": ("16.8, 2.9, 14.0", "37.4, 15.5, 33.3"),
               "RL, 1/2 of the labels": ("16.4, 2.9, 13.7", "35.6, 13.7, 31.4"),
               "RL, 1/4 of the labels": ("15.3, 2.2, 12.9", "38.5, 16.0, 34.5")}
PAPER_WINS = {"RL over zero-shot": (96, 91), "RL over supervised": (97, 80),
              "RL over lead-3": (45, 40), "RL over supervised + RL": (80, 74),
              "RL over RL, 1/2 of the labels": (40, 62),
              "RL over RL, 1/4 of the labels": (79, 47), "RL over reference": (96, 84),
              "lead-3 over supervised": (97, 89), "lead-3 over reference": (97, 89),
              "lead-3 over supervised + RL": (75, 85)}


# --- numbers of several seeds -----------------------------------------------------------

def percent(values):
    """Shares -> "71 ± 3": mean and standard deviation over the seeds, in percent."""
    values = 100 * np.array(values, dtype=float)
    if len(values) == 1:
        return f"{values[0]:.0f}"
    return f"{values.mean():.0f} ± {values.std(ddof=1):.0f}"


def of_row(seeds, name, key):
    return [seed["rows"][name][key] for seed in seeds]


def names_of(seeds):
    """All who summarize, the models first."""
    return list(seeds[0]["rows"])


def two(pair):
    """The paper's two numbers, where it has them."""
    if pair is None:
        return "-"
    return f"{pair[0]}; {pair[1]}"


def optimum_at(seed, check, suspicion, copying=0.0):
    for optimum in seed["optima"]:
        if (optimum["check"], optimum["suspicion"], optimum["copying"]) == (
                check, suspicion, copying):
            return optimum
    raise KeyError((check, suspicion, copying))


# --- the page ---------------------------------------------------------------------------

def page(seeds):
    return "\n\n".join([
        "# Learning to summarize, and to copy (section 3.2)",
        "![copied](summaries.png)", copying_table(seeds), rouge_table(seeds),
        win_table(seeds), reward_table(seeds),
        "![the map](summaries_map.png)", map_table(seeds),
        "```\n" + samples_text(seeds) + "\n```"]) + "\n"


# --- tables -----------------------------------------------------------------------------

def copying_table(seeds):
    header = ["%", "sentences copied: paper", "here", "first three words: paper", "here",
              "here, with a preamble", "accurate summaries: paper", "here"]
    rows = []
    for name in names_of(seeds):
        rows.append([name, two(PAPER_COPIED.get(name)),
                     percent(of_row(seeds, name, "copied")),
                     two(PAPER_STARTS.get(name)),
                     percent(of_row(seeds, name, "starts_alike")),
                     percent(of_row(seeds, name, "starts_alike_preamble")),
                     two(PAPER_ACCURATE.get(name)),
                     percent(of_row(seeds, name, "accurate"))])
    return table(header, rows)


def rouge_table(seeds):
    header = ["ROUGE-1, -2, -L", "TL;DR", "CNN/DM", "here"]
    rows = []
    for name in names_of(seeds):
        ours = [100 * np.mean(of_row(seeds, name, key))
                for key in ("rouge_1", "rouge_2", "rouge_l")]
        paper = PAPER_ROUGE.get(name, ("-", "-"))
        rows.append([name, *paper, ", ".join(f"{number:.1f}" for number in ours)])
    return table(header, rows)


def win_table(seeds):
    header = ["% of votes for the first", "paper: TL;DR; CNN/DM", "here"]
    rows = []
    for pair in seeds[0]["win_rates"]:
        ours = [seed["win_rates"][pair]["mean"] for seed in seeds]
        rows.append([pair, two(PAPER_WINS.get(pair)), percent(ours)])
    return table(header, rows)


def reward_table(seeds):
    header = ["%", "two labelers agree", "accuracy of r", "the best possible",
              "copy over reference", "true copy over wrong verb",
              "true reference over wrong verb"]
    keys = ["agreement", "accuracy", "best_accuracy", *header[4:]]
    rows = []
    for name in seeds[0]["reward_models"]:
        of_arm = [seed["reward_models"][name] for seed in seeds]
        rows.append([name, *[percent([r[key] for r in of_arm]) for key in keys]])
    return table(header, rows)


def map_table(seeds):
    header = ["q, checked", "s, suspicion", "kappa", "copied", "accurate",
              "false and not noticed", "bound"]
    rows = []
    for one in seeds[0]["optima"]:
        key = one["check"], one["suspicion"], one["copying"]
        found = [optimum_at(seed, *key) for seed in seeds]
        missed = [(1 - one["check"]) * optimum["false"] for optimum in found]
        rows.append([*[f"{number:g}" for number in key],
                     percent([optimum["copied"] for optimum in found]),
                     percent([optimum["accurate"] for optimum in found]),
                     percent(missed), percent([optimum["bound"] for optimum in found])])
    return table(header, rows)


def samples_text(seeds):
    lines = []
    for sample in seeds[0]["samples"]:
        for name in ("article", "reference", "lead-3", "zero-shot", "supervised", "RL"):
            lines.append(f"{name + ':':<12}{sample[name]}")
        lines.append("")
    return "\n".join(lines).strip()


def tell(folder):
    """Read summaries.json, and write the text and the pictures."""
    seeds = json.loads((folder / "summaries.json").read_text("utf-8"))["seeds"]
    draw_copying(folder / "summaries.png", seeds)
    draw_map(folder / "summaries_map.png", seeds)
    (folder / "summaries.md").write_text(page(seeds), "utf-8")


# --- pictures ---------------------------------------------------------------------------

def draw_copying(path, seeds):
    """Figures 5 and 6: sentences copied, and n-grams by length."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = [name for name in names_of(seeds) if name in PAPER_COPIED]
    for i, name in enumerate(names):
        ours = 100 * np.array(of_row(seeds, name, "copied"))
        left.bar(i, ours.mean(), 0.6, color="C0", alpha=0.6)
        left.plot([i] * len(ours), ours, "k.", ms=4)
        left.plot([i, i], PAPER_COPIED[name], "C1D", ms=6)
    left.plot([], [], "C1D", label="paper: TL;DR and CNN/DM")
    left.plot([], [], "k.", label="here, each seed")
    left.set_xticks(range(len(names)), names, rotation=20)
    left.set_ylabel("sentences copied, %")
    left.legend(frameon=False)
    for name in names:
        shares = [100 * np.mean(of_row(seeds, name, f"{n}-grams copied"))
                  for n in range(1, 6)]
        right.plot(range(1, 6), shares, "o-", label=name)
    right.set_xticks(range(1, 6))
    right.set_xlabel("words in a row")
    right.set_ylabel("also in the article, %")
    right.legend(frameon=False)
    figure.savefig(path, dpi=110)


def draw_map(path, seeds):
    """What the optimal policy copies, by q and s; and by the price kappa."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    checks = sorted({optimum["check"] for optimum in seeds[0]["optima"]})
    suspicions = sorted({optimum["suspicion"] for optimum in seeds[0]["optima"]})
    copied = np.array([[np.mean([optimum_at(seed, q, s)["copied"] for seed in seeds])
                        for q in checks] for s in suspicions])
    left.imshow(100 * copied, origin="lower", vmin=0, vmax=100, cmap="Blues", alpha=0.7)
    for row, of_suspicion in enumerate(copied):
        for column, value in enumerate(of_suspicion):
            left.text(column, row, f"{100 * value:.0f} %", ha="center", va="center")
    left.set_xticks(range(len(checks)), checks)
    left.set_yticks(range(len(suspicions)), suspicions)
    left.set_xlabel("q: how often what is not copied is checked")
    left.set_ylabel("s: suspicion of what is not")
    left.set_title("sentences that the optimum copies", fontsize=10)
    priced = [optimum for optimum in seeds[0]["optima"] if optimum["copying"] > 0]
    check, suspicion = priced[0]["check"], priced[0]["suspicion"]
    kappas = [0.0] + [optimum["copying"] for optimum in priced]
    for key, label in (("copied", "copied"), ("accurate", "summaries accurate")):
        right.plot(kappas, [100 * np.mean([optimum_at(seed, check, suspicion, kappa)[key]
                                           for seed in seeds]) for kappa in kappas],
                   "o-", label=label)
    right.set_xlabel("kappa: the price of a copied sentence")
    right.set_ylabel("%")
    right.set_ylim(0, 103)
    right.set_title(f"labelers as set, q = {check}, s = {suspicion}", fontsize=10)
    right.legend(frameon=False)
    figure.savefig(path, dpi=110)
