"""
label.py: a person picks the best of four at the terminal; how often two people agree.

Paper: Ziegler et al. 2019, 2.3 and 2.4 (four samples in a question, two people asked).
In:  a rho.pt, perhaps a policy.pt, a person      Out: a labels.jsonl for rlhf.py --labels

    python -m extras.label ask --rho out/sentiment-seed0/rho.pt --to out/mine/labels.jsonl
    python -m extras.label agreement out/mine/labels.jsonl out/mine/second.jsonl
    python rlhf.py --rho out/sentiment-seed0/rho.pt --labels out/mine/labels.jsonl --out B

The questions lie beside the labels, so that they are the same tomorrow and for a second
person, who gives another --to in the same folder. Each answer is on disk before the next
question is asked.

Omitted: single keys without Enter. Arrow and function keys send several characters, and
some of them are digits.
"""

import argparse
import copy
import hashlib
import json
import math
import os
import shutil
import sys
import textwrap
import time
import unicodedata
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import torch

from reward import (Comparison, comparison_line, generate_questions, parse_comparison,
                    read_comparisons)
from rlhf import (Config, Parser, Progress, check, devices, load, load_rho,
                  open_closed_streams, reading, sampling_of, whole_file)
from text import UserError

try:
    import fcntl
except ImportError:              # Windows, where nothing stops two windows with one file
    fcntl = None

# What a person is asked, by --task.
WORDING = {"sentiment": "Which continuation is the most positive and happy?",
           "descriptiveness": "Which continuation is the most vividly descriptive?"}


# --- the questions ----------------------------------------------------------------------

def key_of(question):
    """What tells a question from another: the same four samples in another order are no
    new question."""
    query, samples = question
    return query, tuple(sorted(samples))


def questions_file(folder, cfg, policy):
    """Where the questions of these models and settings lie. The same command, by anybody,
    finds the same file."""
    total = hashlib.sha256()
    for path in (cfg.rho, policy):
        if path:
            total.update(Path(path).read_bytes())
    sampling = (cfg.seed, cfg.response_length, cfg.truncate_after, cfg.temperature)
    total.update(repr(sampling).encode())
    return folder / f"questions-{total.hexdigest()[:16]}.json"


def read_questions(path):
    """The questions of a file, [query, four samples] each; none if there is no file."""
    if not path.exists():
        return []
    with reading(path):
        questions = json.loads(path.read_text("utf-8"))
        for query, samples in questions:
            kinds = [type(text) for text in [query, *samples]]
            if kinds != [str] * 5:
                raise ValueError("a question is a query and four samples")
    return questions


def make_questions(cfg, policy, n):
    """n questions: four samples of rho each, or two of rho and two of a policy, shuffled.
    Seeded, so that two people who start at the same time get the same."""
    device = cfg.device or devices()[0]
    rho, tokenizer, queries, _ = load_rho(Path(cfg.rho), device)
    models = [rho]
    if policy:
        models.append(load(copy.deepcopy(rho), Path(policy), "policy"))
    torch.manual_seed(cfg.seed)
    return generate_questions(models, queries["reward"], n, sampling_of(cfg, tokenizer),
                              tokenizer, Progress("questions"))


def questions_of(path, n, make):
    """The first n questions of a file. Where it has fewer, make(how many) adds to it, but
    no question twice; so there may be fewer than n."""
    questions = read_questions(path)
    if len(questions) < n:
        asked = {key_of(question) for question in questions}
        for question in make(n - len(questions)):
            if key_of(question) not in asked:
                asked.add(key_of(question))
                questions.append(question)
        with whole_file(path) as part:
            text = json.dumps(questions, ensure_ascii=False, indent=1)
            part.write_text(text, "utf-8")
    return questions[:n]


# --- the file of answers ----------------------------------------------------------------

def is_cut_off(line):
    """Whether these bytes are the beginning of an answer, and not all of it."""
    start = b'{"query": "'
    if not line.startswith(start[:len(line)]):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


@contextmanager
def open_answers(path):
    """A file of answers, open to add to it, for one process at a time; and what it holds,
    a list of comparisons.

    Half a line at the end is an answer that was cut off, and goes. Whatever else is wrong
    is a UserError, and the file stays as it is."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file; give another --to")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{path}: another window is answering into it") from None
        file.seek(0)
        lines = file.read().split(b"\n")
        last = lines[-1]                         # empty if the file ends with a newline
        half = bool(last) and is_cut_off(last)
        if half:
            lines.pop()
        try:
            answers = [parse_comparison(line.decode("utf-8-sig"))
                       for line in lines if line.strip()]
        except ValueError as e:
            raise UserError(f"{path}: not a file of answers ({e}); it stays as it is"
                            ) from None
        if half:
            print(f"the last answer in {path} was cut off, and goes")
            file.truncate(file.tell() - len(last))
        elif last:                               # whole, but somebody wrote it by hand
            file.write(b"\n")
            file.flush()
        yield file, answers


def write_answer(file, comparison):
    """Add an answer; it is on disk when this returns."""
    file.write(comparison_line(comparison).encode())
    file.flush()
    os.fsync(file.fileno())


# --- a person ---------------------------------------------------------------------------

def without_controls(text):
    """A text without the characters that a terminal takes for commands."""
    return "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)


def shown(query, samples, title):
    """A question as a person reads it: the query and four numbered samples, wrapped."""
    width = max(20, min(100, shutil.get_terminal_size().columns))
    lines = []
    for number, text in enumerate([query, *samples]):
        label = f" {number}  " if number else "    "
        text = without_controls(text).strip() or "(nothing)"
        lines.append(textwrap.fill(text, width, initial_indent=label,
                                   subsequent_indent="    "))
    numbered = "\n".join(lines[1:])
    return f"\n{title}\n\n{lines[0]}\n\n{numbered}\n"


def read_answer():
    """The next line that is one of 1 to 4, s, u, q, in lower case.

    Whatever else is typed is no answer: Delete, for one, sends the characters ESC [ 3
    ~."""
    while True:
        print("the best: 1 to 4 | s: skip | u: undo | q: quit, and Enter > ", end="",
              flush=True)
        line = sys.stdin.readline() if sys.stdin else ""         # label.py <&-
        if not line.endswith("\n"):
            raise UserError("the input has ended; every answer before is kept")
        answer = line.strip(" \r\n").lower()
        if answer in ["1", "2", "3", "4", "s", "u", "q"]:
            return answer
        print("that is none of these")


def ask(questions, file, answered):
    """Ask a person for the best of each question's samples, and add it to the file. What
    is answered there is not asked again."""
    left = [question for question in questions if key_of(question) not in answered]
    done = len(questions) - len(left)
    sizes = []                           # of the file, before each answer and each skip
    started = time.time()
    while len(sizes) < len(left):
        n = len(sizes)
        title = f"question {done + n + 1} of {len(questions)}"
        if n > 0:
            minutes = (time.time() - started) / n * (len(left) - n) / 60
            title += f", some {minutes:.0f} minutes left"
        query, samples = left[n]
        print(shown(query, samples, title))
        answer = read_answer()
        if answer == "q":
            break
        if answer == "u" and not sizes:
            print("there is nothing to take back")
        elif answer == "u":
            file.truncate(sizes.pop())
            os.fsync(file.fileno())
        else:
            sizes.append(file.seek(0, os.SEEK_END))
            if answer != "s":
                write_answer(file, Comparison(query, samples, int(answer) - 1))


# --- the commands -----------------------------------------------------------------------

def ask_command(options):
    """A person picks the best of four samples of rho, or of two of rho and two of a
    policy. The answers are added to the file --to."""
    path = Path(options.to)
    given = {f.name: getattr(options, f.name) for f in fields(Config)
             if getattr(options, f.name, None) is not None}
    cfg = replace(Config(), **given)
    check(cfg)
    if options.n < 1:
        raise UserError(f"--n is {options.n}, but must be above 0")
    if (path.parent / "config.json").exists():
        raise UserError(f"{path.parent} is the folder of a run, whose labels are its "
                        "own; give a --to elsewhere")
    with open_answers(path) as (file, answers):
        answered = {key_of((c.query, c.samples)) for c in answers}
        known = questions_file(path.parent, cfg, options.policy)
        make = partial(make_questions, cfg, options.policy)
        questions = questions_of(known, options.n, make)
        print(f"\n{WORDING[cfg.task]}")
        ask(questions, file, answered)
        file.seek(0)
        n = sum(1 for line in file if line.strip())
    print(f"\n{n} answers in {path}")


def read_choices(path):
    """{question: the text that was chosen} of a labels.jsonl, in which nobody may
    contradict himself. Where a text stands makes no difference."""
    choices = {}
    for c in read_comparisons(path):
        question, chosen = key_of((c.query, c.samples)), c.samples[c.best]
        if choices.setdefault(question, chosen) != chosen:
            raise UserError(f"{path}: answers one question twice, and differently: "
                            f"{c.query}")
    return choices


def wilson_interval(k, n):
    """The 95 % interval of a share of which k of n are known (Wilson 1927). It stays
    within 0 and 1, and is never of length 0, as the standard error is where all agree."""
    z = 1.96
    center = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return center - half, center + half


def agreement_command(options):
    """How often two people, by their files, chose the same text where both were asked,
    with its 95 % interval."""
    a, b = read_choices(options.a), read_choices(options.b)
    alike = [a[question] == b[question] for question in a if question in b]
    if not alike:
        raise UserError(f"{options.a} and {options.b} have no question in common")
    n = len(alike)
    low, high = wilson_interval(sum(alike), n)
    print(f"{options.a} and {options.b} agree on {sum(alike)} of {n} questions, "
          f"{sum(alike) / n:.1%} ({low:.1%} to {high:.1%}); chance is 25 %")


def read_options(argv):
    """The options of a command line, with the function of its command."""
    parser = Parser(prog="python -m extras.label", description=__doc__,
                    allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="ask | agreement")
    asking = commands.add_parser("ask", description=ask_command.__doc__,
                                 allow_abbrev=False)
    asking.set_defaults(command=ask_command)
    asking.add_argument("--rho", required=True, help="a rho.pt")
    asking.add_argument("--to", required=True, help="the labels.jsonl to make or add to")
    asking.add_argument("--policy", help="a policy.pt of this rho, for two of the four")
    asking.add_argument("--n", type=int, default=300, help="questions (here: 300)")
    for f in fields(Config):
        if f.name in ("task", "seed", "device", "response_length", "truncate_after",
                      "temperature"):
            asking.add_argument(f"--{f.name}", type=f.type, metavar=f.type.__name__,
                                help=f"{f.metadata['help']} (here: {f.default!r})")
    agreement = commands.add_parser("agreement", description=agreement_command.__doc__,
                                    allow_abbrev=False)
    agreement.set_defaults(command=agreement_command)
    agreement.add_argument("a", help="a labels.jsonl")
    agreement.add_argument("b", help="another person's")
    return parser.parse_args(argv)


def main(argv=None):
    """Run a command; return 0, or 2 after one sentence on what the user can mend."""
    open_closed_streams()
    try:
        options = read_options(argv)
        options.command(options)
        return 0
    except KeyboardInterrupt:
        print("\nextras.label: stopped; every answer is kept", file=sys.stderr)
    except (UserError, FloatingPointError, OSError) as e:
        print(f"extras.label: {e}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    if sys.stdin is not None:
        sys.stdin.reconfigure(errors="replace")          # whatever the keys send
    sys.exit(main())
