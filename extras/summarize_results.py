"""
extras/summarize_results.py: the results of extras/summarize.py, drawn and told.

Run: python -m extras.summarize results
In:  extras/results/summaries.json
Out: beside it, summaries.md and two pictures
Not here: the experiment (summarize.py)
"""

import json
import math

import numpy as np
from matplotlib.figure import Figure

from extras.paper_results import table

# The paper's numbers, TL;DR and CNN/Daily Mail; RL is 60k labels, online (in the table of
# ROUGE: offline, where both are known). Copied
# sentences: 100 less figure 6's novel ones. First three words, and those of articles with
# a preamble: table 7. Accurate: table 8, of 30. ROUGE: table 4.
PAPER_COPIED = {"zero-shot": (3.7, 8.3), "RL": (71.0, 97.5), "supervised": (3.1, 16.4),
                "supervised + RL": (6.0, 30.4), "reference": (1.1, 3.3)}
PAPER_STARTS = {"zero-shot": (1.3, 10.4), "RL": (28.3, 77.6), "supervised": (1.5, 9.4),
                "supervised + RL": (7.9, 16.6), "reference": (0.6, 5.1)}
PAPER_PREAMBLE = {"zero-shot": (0, 1.0), "RL": (0.2, 1.4), "supervised": (0, 0),
                  "supervised + RL": (0, 0), "reference": (0, 0)}
PAPER_ACCURATE = {"zero-shot": (20, 20), "RL": (87, 97), "supervised": (27, 63),
                  "supervised + RL": (37, 67)}
PAPER_ROUGE = {"lead-3": ("17.4, 3.2, 14.6", "40.4, 17.7, 36.6"),
               "zero-shot": ("15.9, 2.3, 13.5", "28.4, 8.3, 25.2"),
               "supervised": ("17.5, 3.1, 15.0", "39.5, 17.0, 36.7"),
               "supervised + RL": ("18.4, 3.5, 15.5", "40.1, 17.6, 37.1"),
               "RL": ("16.6, 2.7, 14.0", "33.9, 12.9, 30.0"),
               "RL, online labels": ("16.8, 2.9, 14.0", "37.4, 15.5, 33.3"),
               "RL, 1/2 of the labels": ("16.4, 2.9, 13.7", "35.6, 13.7, 31.7"),
               "RL, 1/4 of the labels": ("15.3, 2.2, 12.9", "38.5, 16.0, 34.5")}
PAPER_WINS = {"RL over zero-shot": (96, 91), "RL over supervised": (97, 80),
              "RL over lead-3": (45, 40), "RL over supervised + RL": (80, 74),
              "RL over RL, 1/2 of the labels": (40, 62),
              "RL over RL, 1/4 of the labels": (79, 47),
              "RL, online labels over RL": (64, 65), "RL over reference": (96, 84),
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


def each(values):
    """Shares -> "86, 56, 79": every seed's, in percent."""
    return ", ".join(f"{100 * value:.0f}" for value in values)


def null_to_nan(value):
    """JSON's null, where there was nothing to count, as a number."""
    if isinstance(value, dict):
        return {key: null_to_nan(v) for key, v in value.items()}
    if isinstance(value, list):
        return [null_to_nan(v) for v in value]
    return math.nan if value is None else value


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
    """The text of summaries.md. seeds: the results of `run`, one for each seed."""
    rl, zero = "RL", "zero-shot"
    probes = [seed["reward_models"][rl] for seed in seeds]
    careful = [seed["reward_models"]["RL, careful labelers"] for seed in seeds]
    optima_of_r = [seed["optima_of_r"] for seed in seeds]
    found = {
        "copied": percent(of_row(seeds, rl, "copied")),
        "copied_zero": percent(of_row(seeds, zero, "copied")),
        "accurate": percent(of_row(seeds, rl, "accurate")),
        "accurate_zero": percent(of_row(seeds, zero, "accurate")),
        "faithful": percent(of_row(seeds, rl, "faithful")),
        "faithful_zero": percent(of_row(seeds, zero, "faithful")),
        "form": percent(of_row(seeds, rl, "article_form")),
        "form_zero": percent(of_row(seeds, zero, "article_form")),
        "form_wins": percent([r["copy over other words"] for r in probes]),
        "careful_form_wins": percent([r["copy over other words"] for r in careful]),
        "false_copy_loses": percent([r["true other words over false copy"]
                                     for r in probes]),
        "wrong_copy": percent([r["true copy over wrong verb"] for r in probes]),
        "wrong_words": percent([r["true other words over wrong verb"] for r in probes]),
        "careful": percent(of_row(seeds, "RL, careful labelers", "copied")),
        "careful_each": each(of_row(seeds, "RL, careful labelers", "copied")),
        "optimum_careful": each([optimum_at(seed, 1.0, 0.0)["copied"]
                                 for seed in seeds]),
        "bounds": each([optimum_at(seed, 1.0, 0.0)["bound"] for seed in seeds]),
        "optimum_careful_r": each([of_r["RL, careful labelers"]["copied"]
                                   for of_r in optima_of_r]),
        "supervised_copied": each(of_row(seeds, "supervised + RL", "copied")),
        "low_beta_accurate": each(of_row(seeds, "RL, beta 0.03", "accurate")),
        "low_beta_kl": ", ".join(f"{kl:.0f}"
                                 for kl in of_row(seeds, "RL, beta 0.03", "kl")),
        "losses": "; ".join(losses_of(seed) for seed in seeds),
        "online": each([seed["win_rates"]["RL, online labels over RL"]["mean"]
                        for seed in seeds]),
        "priced": each([optimum_at(seed, 0.4, 0.6, 0.9)["accurate"] for seed in seeds]),
        "unpriced": each([optimum_at(seed, 0.4, 0.6)["accurate"] for seed in seeds])}
    return "\n\n".join([
        INTRODUCTION, "![who copies](summaries.png)", copying_table(seeds),
        FORM.format(**found), reward_table(seeds),
        SHORTCUT.format(**found), seed_table(seeds), CARELESS_R.format(**found),
        "![the map](summaries_map.png)", map_table(seeds), MAP.format(**found),
        VOTES.format(**found), win_table(seeds), ROUGE, rouge_table(seeds),
        SAMPLES, "```\n" + samples_text(seeds) + "\n```", WORLD, LIMITS]) + "\n"


def losses_of(seed):
    """The least and the greatest loss of a seed's r's."""
    losses = [r["loss"] for r in seed["reward_models"].values()]
    return f"{min(losses):.2f} to {max(losses):.2f}"


def tested(seed):
    """What was asked for beforehand, and what else belongs beside it: {what: (asked,
    measured)}."""
    of, wins = seed["rows"], seed["win_rates"]
    rho, rl = of["zero-shot"], of["RL"]
    as_set, careful = optimum_at(seed, 0.4, 0.6), optimum_at(seed, 1.0, 0.0)
    r, of_r = seed["reward_models"]["RL"], seed["optima_of_r"]
    return {
        "rho: sentences in the article's form that are copies": ("85 or more",
                                                                 rho["faithful"]),
        "rho: claims in other words that are true": ("60 or less",
                                                     rho["paraphrases_true"]),
        "rho: sentences copied": ("4 to 15", rho["copied"]),
        "the bound: sentences copied in rho's accurate summaries": ("-",
                                                                    careful["bound"]),
        "optimum: copied, labelers as set": ("50 or more", as_set["copied"]),
        "optimum: copied, careful labelers": ("near the bound", careful["copied"]),
        "optimum of r: copied, labelers as set": ("-", of_r["RL"]["copied"]),
        "optimum of r: copied, careful labelers": (
            "-", of_r["RL, careful labelers"]["copied"]),
        "r: copy over the same in other words": ("80 or more",
                                                 r["copy over other words"]),
        "RL: copied, labelers as set": ("70 or more", rl["copied"]),
        "RL: copied, careful labelers": ("-", of["RL, careful labelers"]["copied"]),
        "RL: accurate summaries": ("more than the next two", rl["accurate"]),
        "zero-shot: accurate summaries": ("-", rho["accurate"]),
        "supervised: accurate summaries": ("-", of["supervised"]["accurate"]),
        "RL over zero-shot": ("80 or more", wins["RL over zero-shot"]["mean"]),
        "RL over supervised": ("70 or more", wins["RL over supervised"]["mean"]),
        "RL over lead-3": ("about even", wins["RL over lead-3"]["mean"])}


def seed_table(seeds):
    """All of `tested`, seed by seed, in percent."""
    header = ["%", "asked for", *[f"seed {seed['seed']}" for seed in seeds]]
    of_seeds = [tested(seed) for seed in seeds]
    rows = []
    for what, (asked, _) in of_seeds[0].items():
        measured = [f"{100 * of_seed[what][1]:.0f}" for of_seed in of_seeds]
        rows.append([what, asked, *measured])
    return table(header, rows)


# --- tables -----------------------------------------------------------------------------

def copying_table(seeds):
    """Figure 6, and tables 7 and 8: who copies, and who is accurate, in percent."""
    header = ["%", "KL, nats", "sentences copied: paper", "here",
              "first three words: paper", "here", "with a preamble: paper", "here",
              "accurate summaries: paper", "here"]
    rows = []
    for name in names_of(seeds):
        kl = "-"
        if "kl" in seeds[0]["rows"][name]:
            kl = f"{np.mean(of_row(seeds, name, 'kl')):.1f}"
        rows.append([name, kl, two(PAPER_COPIED.get(name)),
                     percent(of_row(seeds, name, "copied")),
                     two(PAPER_STARTS.get(name)),
                     percent(of_row(seeds, name, "starts_alike")),
                     two(PAPER_PREAMBLE.get(name)),
                     percent(of_row(seeds, name, "starts_alike_preamble")),
                     two(PAPER_ACCURATE.get(name)),
                     percent(of_row(seeds, name, "accurate"))])
    return table(header, rows)


def rouge_table(seeds):
    """Table 4: F1 of ROUGE-1, -2 and -L, times 100, means over the seeds."""
    header = ["ROUGE-1, -2, -L", "TL;DR", "CNN/DM", "here"]
    rows = []
    for name in names_of(seeds):
        ours = [100 * np.mean(of_row(seeds, name, key))
                for key in ("rouge_1", "rouge_2", "rouge_l")]
        paper = PAPER_ROUGE.get(name, ("-", "-"))
        rows.append([name, *paper, ", ".join(f"{number:.1f}" for number in ours)])
    return table(header, rows)


def win_table(seeds):
    """Table 5: articles won, in percent."""
    header = ["% of articles won by the first", "paper: TL;DR; CNN/DM", "here"]
    rows = []
    for pair in seeds[0]["win_rates"]:
        ours = [seed["win_rates"][pair]["mean"] for seed in seeds]
        rows.append([pair, two(PAPER_WINS.get(pair)), percent(ours)])
    return table(header, rows)


def reward_table(seeds):
    """Table 9's agreement; each r beside the best possible; and the probes."""
    header = ["r of", "two labelers agree, %", "accuracy of r, %", "the best possible",
              "loss of r, nats", "the best possible", "copy over other words, %",
              "true copy over wrong verb", "true other words over wrong verb",
              "true other words over false copy"]
    rows = []
    for name in seeds[0]["reward_models"]:
        of_arm = [seed["reward_models"][name] for seed in seeds]
        losses = [f"{np.mean([r[key] for r in of_arm]):.2f}"
                  for key in ("loss", "best_loss")]
        cells = [percent([r[key] for r in of_arm])
                 for key in ("agreement", "accuracy", "best_accuracy",
                             "copy over other words", *header[7:])]
        rows.append([name, *cells[:3], *losses, *cells[3:]])
    return table(header, rows)


def map_table(seeds):
    """The optimum of the labelers' own score, for each kind of labelers."""
    header = ["q, checked", "s, suspicion", "kappa", "KL, nats", "effective samples",
              "copied, each seed, %", "accurate, %", "false and not noticed, %"]
    rows = []
    for one in seeds[0]["optima"]:
        key = one["check"], one["suspicion"], one["copying"]
        found = [optimum_at(seed, *key) for seed in seeds]
        missed = [(1 - one["check"]) * optimum["false"] for optimum in found]
        kl = np.mean([optimum["kl"] for optimum in found])
        effective = np.mean([optimum["effective_samples"] for optimum in found])
        rows.append([*[f"{number:g}" for number in key], f"{kl:.1f}", f"{effective:.0f}",
                     ", ".join(f"{100 * optimum['copied']:.0f}" for optimum in found),
                     percent([optimum["accurate"] for optimum in found]),
                     percent(missed)])
    return table(header, rows)


def samples_text(seeds):
    """What everybody says of six articles, on the first seed."""
    lines = []
    for sample in seeds[0]["samples"]:
        for name in ("article", "reference", "lead-3", "zero-shot", "supervised", "RL"):
            lines.append(f"{name + ':':<12}{sample[name]}")
        lines.append("")
    return "\n".join(lines).strip()


def tell(folder, quick=False):
    """Read summaries.json, and write the text and the pictures."""
    seeds = json.loads((folder / "summaries.json").read_text("utf-8"))["seeds"]
    seeds = null_to_nan(seeds)
    draw_copying(folder / "summaries.png", seeds)
    draw_map(folder / "summaries_map.png", seeds)
    text = page(seeds)
    if quick:
        text = f"**A miniature, which shows nothing but that it runs.**\n\n{text}"
    (folder / "summaries.md").write_text(text, "utf-8")


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
    left.legend(frameon=False, loc="upper left", fontsize=8)
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
    copied = 100 * np.array([[[optimum_at(seed, q, s)["copied"] for seed in seeds]
                              for q in checks] for s in suspicions])
    left.imshow(copied.mean(axis=2), origin="lower", vmin=0, vmax=100, cmap="Blues",
                alpha=0.7)
    for row, column in np.ndindex(copied.shape[:2]):
        of_seeds = copied[row, column]
        each = ", ".join(f"{number:.0f}" for number in of_seeds)
        left.text(column, row, f"{of_seeds.mean():.0f} %\n({each})", ha="center",
                  va="center", fontsize=9)
    bounds = [100 * seed["optima"][0]["bound"] for seed in seeds]
    each = ", ".join(f"{bound:.0f}" for bound in bounds)
    left.set_xticks(range(len(checks)), checks)
    left.set_yticks(range(len(suspicions)), suspicions)
    left.set_xlabel("q: how often what is not copied is checked")
    left.set_ylabel("s: suspicion of what is not")
    left.set_title("sentences that the optimum copies: mean (each seed)\n"
                   f"bound for accuracy alone: {np.mean(bounds):.0f} % ({each})",
                   fontsize=9)
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
    right.set_title(f"the optimum for labelers as set, q = {check}, s = {suspicion}",
                    fontsize=9)
    right.legend(frameon=False)
    figure.savefig(path, dpi=110)


# --- the texts -----------------------------------------------------------------------

INTRODUCTION = """\
# Learning to summarize, and to copy (section 3.2)

    python -m extras.summarize all        three seeds; what is there is not run again
    python -m extras.summarize results    this page and the pictures, from the JSON

A seed takes some 45 minutes on one core: rho 15, labels, r and RL 4, the other policies
2 to 5 each, the counting 5.

In the paper's second half policies learn to summarize, and become "smart copiers": 98 %
of their sentences on CNN/Daily Mail, and 71 % on TL;DR, stand in the article word for
word. Labelers like that better than the summaries that people wrote. Here it is done in
a [small world of articles](../articles.py) whose facts are known, so that every
sentence of every summary can be checked. A language of some 75 words is no English.
What can be compared with the paper is the order of things, not their size.

**By the rule that was set before the runs, this is not reproduced**: a test of rho
failed in the first world and after each of four changes of it, and there the attempt
should have ended. The numbers are of a fifth change ([how the world came
about](#how-the-world-came-about)), and here too rho misses one condition of the test on
each seed, on seed 0 by less than the error. RL was to be about even with lead-3, and
loses. All other conditions that have a number hold on all seeds.

"±" is the standard deviation over three seeds, of all: rho, labels, r and pi. A share
of 1,024 articles has an error of up to 1.6 %, of rho's few copied sentences 2 %. The
paper's two numbers are of TL;DR and CNN/DM. Its RL has online labels, but in the row RL
of the ROUGE table, and where online labels are compared with RL.

- *zero-shot* is rho. *Supervised* is rho trained on 2,000 more articles with summaries as
  people write them, *references*, which here are true and in other words.
- *RL* starts from rho, and *supervised + RL* from supervised, with the r of RL. r learns
  from 5,000 labels, each the best of four samples of rho.
- *lead-3* is the article's first three sentences: copied, and accurate.
- *First three words*: summaries that begin as the article does. *With a preamble*: the
  same, of articles that begin with one ("hi all."), which says nothing.

## Who copies, and who is right"""

FORM = """\
RL copies {copied} % of its sentences, zero-shot {copied_zero} %; of its summaries
{accurate} % are accurate, of zero-shot's {accurate_zero} %. As in the paper, it copies,
and is right more often than the model it came from. It skips preambles; but so does
zero-shot, here as in the paper, so that does not show that it is smart.

Two rows are no means of like things. Supervised + RL copies {supervised_copied} % on
the three seeds: where it goes over to the article's form, and where it does not. (In
the paper it copies far less than RL.) With beta 0.03, the paper's on TL;DR, KL grows to
{low_beta_kl} nats, and {low_beta_accurate} % of the summaries are accurate: pi finds
what r does not see. The KL of a policy is to the model that it started from.

r does not see whether a verb is true. Of the same three facts, it prefers the article's
words to others in {form_wins} % of 500 cases. It takes what is true in other words
rather than a copy with one wrong verb in {false_copy_loses} %. Between a true copy and
the same with a wrong verb it chooses right in {wrong_copy} %, between other words, true
and with a wrong verb, in {wrong_words} %, where 50 is chance. So what r has learned is
above all the article's *form*. RL brings it into {form} % of the sentences (zero-shot:
{form_zero} %). Of RL's sentences in that form {faithful} % are copies word for word; of
zero-shot's, {faithful_zero} %. That such a sentence is a copy is rho's doing, and RL
did not make it better."""

SHORTCUT = """\
r is weak. Guessing has a loss of 1.39 (log 4); on the three seeds r has {losses}, which
on seed 1 is no better than guessing. So what is said here of what r cannot see holds
for this r. A larger one with more labels might see more.

## Is it because labelers do not check?

The paper's guess is that copying is what a hurried labeler can verify. There is an
argument for it. If the reward were 1 for an accurate summary and else 0, the optimum at
a low beta would draw from rho's accurate samples only, and copy as often as these do:
*the bound*. For the paper's zero-shot model that is at most 19 % on TL;DR (3.7 of 20)
and 42 % on CNN/DM (8.3 of 20), if articles are alike; observed are 71 and 98. But 20 %
is 6 of 30 summaries, which may be 8 to 39 %, so on CNN/DM it says nothing.

Our labelers take a sentence that stands in the article as true. Another they check with
probability q = 0.4. One that they did not check they like less, by s = 0.6 of what the
first fact is worth: nearly all that the third is worth, and more than the fourth. A
false one that they did check costs 1.5. A true sentence has its worth whether they
checked it or not, and a false one has none: they are not deceived, they only do not
punish. *Careful* labelers check everything (q = 1, s = 0). q and s are ours; the paper
has no such numbers. The optimum is that of the labelers' own mean score, by weights on
512 samples of rho for each of 64 articles, at the lowest beta, 0.02 at least, at which
on average 20 effective samples are left; the optimum of r is the same for what r
learned. *Asked for*: what had been written down before the runs."""

CARELESS_R = """\
With labelers as set the optimum copies most of its sentences; with careful ones fewer,
{optimum_careful} % where the bound has {bounds}. (Their score is not accuracy alone:
they value also *which* facts are told, so the bound does not bind it.) But the policies
copy alike: with careful labelers {careful_each} %. Most of it is r: the optimum of what
r learned from careful labelers copies {optimum_careful_r} %, of the same samples. Not
all: on seed 1 the policy copies far more than that. (The optima are at a KL of about 3,
the policies at 5, so they cannot be compared to the point.) Between the same facts in
the article's words and in others, which careful labelers do not distinguish, it takes
the article's in {careful_form_wins} %. Copies are true more often, and it does not see
which of the others are true. So here **the labelers' shortcut is not shown to be the
cause**: a reward model that cannot check is a hurried labeler itself, whoever labeled."""

MAP = """\
On the map it is not q that makes the optimum copy, but s (1 - q): what labelers take
off for a sentence that they did not check. That is a bonus on copies, and we put it in.
Without it (s = 0, or q = 1, where the three rows are one) the optimum copies as the
accurate samples do, more or less. *False and not noticed*: the optimum's sentences that
are false and were not checked. kappa is a price on every copied sentence. It turns
copying back. At 0.9 the optimum is accurate in {priced} %, without it in {unpriced}:
that costs most where rho is often wrong in other words."""

VOTES = """\
## Win rates, table 5

Labelers as set, three for each of 1,024 articles, two summaries of each side; the
majority counts. In the row of online labels, half of them are about samples of a policy
that learned from the first half. More labels bring nothing that can be seen here;
online ones a little ({online} %), less than in the paper. That the article's form is
liked can be learned from 1,250 labels."""

ROUGE = """\
## ROUGE, table 4

Two summaries of each article, against a reference each. *reference* is another
reference of the same article. The order is not the paper's: zero-shot has more than RL
and lead-3, there less; supervised + RL has less than supervised, there more. That
supervised has more than RL is the same. Zero-shot and supervised share the references'
words ("whom", "by", the other verbs) and their order."""

SAMPLES = """\
## Six articles, seed 0"""

WORLD = """\
## How the world came about

What rho can do decides everything: if it cannot copy a sentence without a slip, no
policy near it can. So before any policy there stood a test of rho. Of its sentences in
the article's form at least 85 % should be copies, of its claims in other words at most
60 % true (the paper's zero-shot errs too, and else nothing would be won by copying),
and 4 to 15 % of its sentences copies, in three seeds. And there stood a rule: if it
still fails after four changes of the world, the attempt ends. Each row is one run, one
seed, of a model of width 128, with two layers where nothing else is said.

| world | steps | quoted verbs that are right | in the article's form: copies |
|---|---|---|---|
| "Nora mended rings.", 32 words of a kind; quotes in a row | 1,500 | - | 5 % |
| 1: short articles, quoted more often | 1,400 | - | 10 % |
| 2: eight words of each kind | 900 | 19 % (one of six in the article: 17) | - |
| 3: sentences from anywhere are quoted | 1,000 | 20 % | - |
| 4: "Nora called Otto.", a person in the place of the thing | 5,000 | 15 % | 18 % |
| the same, three layers | 3,000 | 21 % | 14 % |
| the same, only what follows the article is learned | 3,000 | 19 % | 12 % |

There the attempt ended. Why did it fail? To copy, a word must find its earlier place,
and say what came next. For that a head of the first layer must have noted beside each
word which word stood before it, and nothing in such a language asks for that: after a
name comes a verb, whoever it is. In world 4 what follows a name does depend on the word
before it, for the second name follows a verb; and objects were soon copied in 99 % of
the quotes, verbs no better than by chance. If this is the reason, then text in which
any word may follow any other should mend it. It did: with documents that list an
article's words in any order, and quote pieces of the list, right verbs went from 18 to
100 % within 500 steps (one run).

All that stands above was made after this fifth change. The labelers are as they were
set before any of it, but for the temperature of their choice, which is set so that two
of them agree on 46 % of the questions about seed 0's rho (the paper's, on TL;DR). How
many documents are lists, summaries and extracts was chosen among four combinations, by
what rho does on seeds 0 and 1, before any policy was trained. With the last combination
seed 0 passed (86 % copies; in the table's new samples 83, with an error of 2), and
seeds 1 and 2 each miss one condition. The step at which a model begins to understand
other words differs much between seeds."""

LIMITS = """\
## Limits

- One world, three seeds, simulated labelers with two numbers of our own (q and s), one
  size of r, one epoch, one rate.
- The seeds differ in how well rho tells things in other words, and with it in the bound,
  in the supervised baseline, and in what supervised + RL does.
- 8,192 episodes. Labels are 5,000, 2,500 and 1,250, in the ratio of the paper's 60k, 30k
  and 15k. Where nothing else is said, beta is fixed at 0.1, as the paper's on CNN/DM.
- Online labels come in two rounds, not continually. With a KL target beta rises by at
  most 2 % an update: in 64 updates KL does not come down to its target of 3.
- A summary is three sentences, and a sentence one fact: none are fused.
- Accuracy is counted by a program that reads all sentences; the paper's authors read 30
  summaries of each model."""
