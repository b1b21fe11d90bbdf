"""
course.py: what all sessions share: one small run of the experiment, and how they draw.

In:  nothing        Out: out/course, made once; pictures, colored tokens, sliders
Not here: the checks of exercises (checks.py), how notebooks are made (build.py)
"""

import base64
import contextlib
import html
import io
import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import matplotlib.pyplot as plt
import torch
from IPython.display import display

import evaluate
import rlhf
from extras.paper_results import load_series
from reward import RewardModel, learned_reward, split_comparisons

OUT = ROOT / "out" / "course"
COMMAND = ["--quick", "--n_embd", "128", "--lm_lr", "6e-3", "--lm_steps", "800",
           "--n_labels", "1500", "--lr", "4e-4", "--supervised_lr", "0",
           "--out", str(OUT)]


# --- the run ----------------------------------------------------------------------------

class Stages(io.StringIO):
    """Of all that a run prints, lets through a line for each stage, as it ends."""

    def __init__(self, stream):
        super().__init__()
        self.stream = stream

    def write(self, text):
        if re.match(r"\d/5", text):
            print(text, file=self.stream, flush=True)
        return len(text)


def small_run():
    """The whole experiment in miniature: made in some minutes, or found in out/course.

    Returns its parts by name."""
    with contextlib.redirect_stdout(Stages(sys.stderr)):
        status = rlhf.main(COMMAND)
    if status != 0:
        raise RuntimeError(f"the run in {OUT} failed, for the reason above")
    cfg = rlhf.read_config_of(OUT)
    rho, tokenizer, queries, losses = rlhf.load_rho(OUT / "rho.pt", "cpu")
    sampling = rlhf.sampling_of(cfg, tokenizer)
    train, held_out = split_comparisons(OUT / "labels.jsonl")
    r = rlhf.load(RewardModel(rho), OUT / "reward.pt", "reward")
    lines = (OUT / "metrics.jsonl").read_text().splitlines()
    return SimpleNamespace(
        cfg=cfg, rho=rho, tokenizer=tokenizer, queries=queries, losses=losses,
        sampling=sampling, train=train, held_out=held_out, r=r,
        reward=learned_reward(r, sampling),
        true=evaluate.true_reward(cfg.task, tokenizer, sampling, held_out),
        log=[json.loads(line) for line in lines],
        results=json.loads((OUT / "results.json").read_text()),
        samples=(OUT / "samples.txt").read_text("utf-8").strip().split("\n\n")[1:])


class Progress:
    """A line of progress in a cell. As rlhf.py's, it wraps batches and gives them as they
    are: for rows in Progress("r")(batches)."""

    def __init__(self, title):
        self.title, self.note = title, ""

    def __call__(self, batches):
        self.batches = batches
        return self

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for done, batch in enumerate(self.batches, 1):
            yield batch
            if done % math.ceil(len(self) / 10) == 0:
                print(f"\r{self.title}: {done} of {len(self)}", end="", file=sys.stderr,
                      flush=True)
        print(file=sys.stderr)


# --- pictures ---------------------------------------------------------------------------

# Colors by role, the same in all sessions, and told apart by the color-blind too.
RHO = "#7f7f7f"
PI = "#0072b2"
REWARD = "#d55e00"           # r, what is learned
TRUE = "#009e73"             # what the labelers themselves think
VALUE = "#cc79a7"
LIMIT = "#000000"            # a target, or the best possible: dashed


def style():
    """How all sessions print and draw."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    torch.set_printoptions(precision=2, sci_mode=False)
    plt.rcParams.update({
        "figure.dpi": 90, "figure.figsize": (9, 3.2),
        "figure.constrained_layout.use": True,
        "font.size": 10, "axes.titlesize": 10, "axes.titlelocation": "left",
        "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
        "lines.linewidth": 1.8})


def at_end(ax, x, y, text, color, dx=4, dy=0):
    """Label a line where it ends, in its own color: no legend to look up."""
    ax.annotate(text, (x[-1], y[-1]), (dx, dy), textcoords="offset points", color=color,
                va="center", annotation_clip=False)


def limit(ax, value, text, x=1.0):
    """A dashed line at a target or at the best possible, named at its right."""
    ax.axhline(value, color=LIMIT, ls="--", lw=1.2, zorder=4)
    ax.annotate(text, (x, value), (0, 4), xycoords=ax.get_yaxis_transform(),
                textcoords="offset points", va="bottom", ha="right",
                bbox=dict(fc="white", ec="none", pad=0.5, alpha=0.7))


class LivePlot:
    """A picture of several panels that grows while a loop runs.

    panels: {key: (label of its axis, color, target or None)}."""

    def __init__(self, panels, x="update"):
        self.panels, self.x = panels, x
        self.log = []
        self.handle = None

    def add(self, stats):
        self.log.append(stats)
        fig = self.draw()
        if self.handle is None:
            self.handle = display(fig, display_id=True)
        else:
            self.handle.update(fig)
        plt.close(fig)

    def draw(self):
        fig, axes = plt.subplots(1, len(self.panels), figsize=(9, 2.6))
        for ax, (key, (name, color, target)) in zip(axes, self.panels.items()):
            ax.plot(range(len(self.log)), [stats[key] for stats in self.log], color=color)
            ax.set(xlabel=self.x, title=name)
            if target is not None:
                limit(ax, target, "target")
        return fig


def figure_1():
    """The paper's figure 1, with our files on its arrows."""
    fig, ax = plt.subplots(figsize=(9.6, 4.4))
    ax.set(xlim=(0, 96), ylim=(-3.5, 44))
    ax.axis("off")

    def box(x, y, text, color, file=""):
        ax.text(x, y, text, ha="center", va="center", linespacing=1.3,
                bbox=dict(boxstyle="round,pad=.6", fc="white", ec=color, lw=2))
        ax.text(x, y - 5.2, file, ha="center", family="monospace", size=9, color=PI)

    def arrow(start, end, above="", below="", bend=0.0):
        ax.annotate("", end, start, arrowprops=dict(
            arrowstyle="->", lw=1.4, connectionstyle=f"arc3,rad={bend}"))
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        ax.text(x, y + 1, above, ha="center", va="bottom")
        ax.text(x, y - 1, below, ha="center", va="top", family="monospace", size=9,
                color=PI)

    ax.text(0, 43, "The reward model learns what people like", weight="bold")
    box(5, 35, "query x", RHO, "text.py")
    box(25, 35, "language\nmodel rho", RHO, "gpt.py")
    box(49, 35, "labeler", TRUE, "stories.py")
    box(69, 35, "eq. 1", "black", "reward.py")
    box(88, 35, "reward\nmodel r", REWARD, "reward.py")
    arrow((9.5, 35), (19.5, 35))
    arrow((30.5, 35), (44.5, 35), "four y", "gpt.generate")
    arrow((53.5, 35), (65.5, 35), "the best, b")
    arrow((72.5, 35), (82.5, 35), "gradient")
    ax.text(0, 22, "The policy learns what the reward model likes", weight="bold")
    box(5, 12, "query x", RHO, "text.py")
    box(25, 12, "policy pi,\nfirst rho", PI)
    box(49, 12, "reward\nmodel r", REWARD)
    box(75, 12, "eq. 2: r, less beta\ntimes log pi - log rho", "black",
        "ppo.token_rewards")
    arrow((9.5, 12), (19.5, 12))
    arrow((30.5, 12), (43.5, 12), "one y", "ppo.rollout")
    arrow((54.5, 12), (64.5, 12), "r(x, y)")
    arrow((88, 28.5), (53, 15.5), bend=-0.15)
    arrow((66, 8.5), (26, 8.5), bend=-0.28)
    ax.text(46, -1.2, "GAE, PPO", ha="center", va="bottom")
    ax.text(46, -1.6, "ppo.ppo_update", ha="center", va="top", family="monospace", size=9,
            color=PI)
    return fig


# --- tokens in color, with values on hover ----------------------------------------------

class ColoredTokens:
    """Tokens on a background: orange above 0, blue below, full color at `scale`. Hovering
    shows `notes`. Where HTML is not shown, a text with the values takes its place.

    rows: lists of (token, value, note)."""

    def __init__(self, rows, scale, titles=None):
        self.rows, self.scale = rows, scale
        self.titles = titles or [""] * len(rows)

    def _repr_html_(self):
        lines = []
        for title, row in zip(self.titles, self.rows):
            spans = [self.span(*entry) for entry in row]
            lines.append(f"<div style='margin:.4em 0'><i>{html.escape(title)}</i><br>"
                         f"{''.join(spans)}</div>")
        return ("<div style='font-family:monospace;font-size:11pt;line-height:1.8'>"
                f"{''.join(lines)}</div>")

    def span(self, token, value, note):
        strength = min(1.0, abs(value) / self.scale)
        color = "213,94,0" if value > 0 else "0,114,178"
        return (f"<span title='{html.escape(note)}' style='padding:2px 0;"
                f"background:rgba({color},{0.75 * strength:.2f})'>"
                f"{html.escape(token).replace(' ', '&nbsp;')}</span><wbr>")

    def __repr__(self):
        lines = []
        for title, row in zip(self.titles, self.rows):
            lines.append(title)
            for token, value, note in row:
                lines.append(f"  {token!r:>14} {value:+.2f}   {note}")
        return "\n".join(lines)


class TokenTable:
    """A table of tokens: the darker a cell, the larger its value, from 0 to 1. Hovering
    shows a note.

    columns: names of the columns. rows: {name: list of (token, value, note)}."""

    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows

    def _repr_html_(self):
        cell = ("<td title='{}' style='background:rgba(0,114,178,{:.2f});"
                "padding:2px 5px'>{}</td>")
        lines = ["".join(f"<th>{html.escape(name)}</th>" for name in ["", *self.columns])]
        for name, row in self.rows.items():
            cells = [cell.format(html.escape(note), 0.7 * value, html.escape(token))
                     for token, value, note in row]
            lines.append(f"<th style='text-align:left'>{html.escape(name)}</th>"
                         + "".join(cells))
        rows = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table style='font-family:monospace;font-size:10pt'>{rows}</table>"

    def __repr__(self):
        lines = []
        for name, row in self.rows.items():
            lines.append(f"{name:<16}" + " ".join(f"{token}({value:.2f})"
                                                 for token, value, _ in row))
        return "\n".join(lines)


class Slider:
    """Pictures to leaf through. Where no script runs, all of them stand side by side.

    figures: {label: a figure}, closed here."""

    count = 0

    def __init__(self, name, figures):
        self.name, self.labels, self.pictures = name, list(figures), []
        for figure in figures.values():
            data = io.BytesIO()
            figure.savefig(data, dpi=90)
            plt.close(figure)
            self.pictures.append(base64.b64encode(data.getvalue()).decode())

    def _repr_html_(self):
        Slider.count += 1
        id = f"slider{Slider.count}"
        images = "".join(
            f"<img alt='{self.name} {label}' src='data:image/png;base64,{picture}'>"
            for label, picture in zip(self.labels, self.pictures))
        script = f"""
            const box = document.getElementById('{id}');
            const images = box.querySelectorAll('img');
            const range = box.querySelector('input');
            const show = () => {{
                images.forEach((image, i) =>
                    image.style.display = i == range.value ? 'block' : 'none');
                box.querySelector('b').textContent = images[range.value].alt;
            }};
            box.querySelector('p').style.display = 'block';
            range.oninput = show;
            show();"""
        return (f"<div id='{id}'><p style='display:none'><input type='range' min='0' "
                f"max='{len(self.labels) - 1}' value='0'> <b></b></p>{images}</div>"
                f"<script>(() => {{{script}}})()</script>")

    def __repr__(self):
        return f"{self.name}: {', '.join(map(str, self.labels))}"


# --- a person's choice ------------------------------------------------------------------

def ask(questions, saved):
    """Which of four is best? One input for each question, 1 to 4. Where nobody can be
    asked (a notebook that is run as a whole), the saved choices stand in."""
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None or not kernel._allow_stdin:
        return saved
    choices = []
    for k, c in enumerate(questions, 1):
        print(f"\n{k} of {len(questions)}   {c.query}")
        for i, sample in enumerate(c.samples, 1):
            print(f"   {i}  {sample}")
        answer = ""
        while answer not in ("1", "2", "3", "4"):
            answer = input("which is best, 1 to 4? ").strip()
        choices.append(int(answer))
    return choices


def get_ipython():
    from IPython import get_ipython
    return get_ipython()


# --- what was measured elsewhere --------------------------------------------------------

SHORT = {"a head on pi's trunk, as released": "as released",
         "the same, the head at 4e-3": "a faster head", "own trunk": "own trunk",
         "none: 4 responses to a query": "none"}


def which_critic(episodes):
    """The rows with so many episodes of extras/README.md's first tables of critics."""
    found = {}
    for line in (ROOT / "extras" / "README.md").read_text("utf-8").split("\n"):
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if cells[1:3] == ["episodes", "share"]:
            found[cells[0]] = rows = []
        elif len(cells) == 7 and cells[1] == f"{episodes:,}":
            explained = None if cells[4] == "-" else float(cells[4])
            rows.append({"name": cells[0], "short": SHORT[cells[0]], "EV": explained,
                         "share": float(cells[2].split()[0]), "nats": float(cells[3])})
    return found


def own_trunk_with_the_heads_settings():
    """The row of "Other settings" there: one run, descriptiveness."""
    for line in (ROOT / "extras" / "README.md").read_text("utf-8").split("\n"):
        if line.startswith("| own trunk, from rho | 4 x 1, 2e-4"):
            share, nats, EV = [float(cell) for cell in line.strip("|").split("|")[2:5]]
            return {"share": share, "nats": nats, "EV": EV}
    raise ValueError("extras/README.md has no such row")


def two_nights():
    """Section 4.4's runs of the first seed, by names that do not tell which is which."""
    series = load_series("section 4.4")
    return {"A": series["the reward's sign turned"][0], "B": series["as it should be"][0]}


def broken_runs():
    """{letter: {"log": [...], "sample": [query, response]}}, without the bugs' names."""
    found = json.loads((FOLDER / "broken_runs.json").read_text("utf-8"))
    return {letter: {"log": one["log"], "sample": one["sample"]}
            for letter, one in found.items()}
