"""
label.py: a person picks the best of four at a terminal, where there is no browser.

Paper: Ziegler et al. 2019, 2.3 and 2.4.
In:  a rho.pt, perhaps a policy.pt, a person      Out: a labels.jsonl for rlhf.py --labels
Not here: the page for a browser (page.py); questions, answers, agreement (questions.py)

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
import shutil
import sys
import textwrap
import time
import unicodedata
from functools import partial
from pathlib import Path

from extras.questions import (MOST_QUESTIONS, WORDING, Answers, add_sampling_options,
                              agreement, check_number, choices_of, config_of, key_of,
                              make_questions, questions_file, questions_of)
from reward import Comparison, read_comparisons
from rlhf import Parser, Progress, open_closed_streams
from text import UserError


# --- a person at the terminal -----------------------------------------------------------

def shown(query, samples, title):
    """A question as a person reads it: the query and four numbered samples, wrapped."""
    width = max(20, min(100, shutil.get_terminal_size().columns))
    lines = []
    for number, text in enumerate([query, *samples]):
        label = f" {number}  " if number else "    "
        # Without the characters that a terminal takes for commands.
        text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
        lines.append(textwrap.fill(text.strip() or "(nothing)", width,
                                   initial_indent=label, subsequent_indent="    "))
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


def ask(questions, answers):
    """Ask a person for the best of each question's samples that he has not answered, and
    add it to his file."""
    left = [q for q in questions if key_of(q.query, q.samples) not in answers.comparisons]
    done = len(questions) - len(left)
    skipped = []                         # for each question of today, whether it was
    started = time.time()
    while len(skipped) < len(left):
        n = len(skipped)
        title = f"question {done + n + 1} of {len(questions)}"
        if n > 0:
            minutes = (time.time() - started) / n * (len(left) - n) / 60
            title += f", some {minutes:.0f} minutes left"
        query, samples, _ = left[n]
        print(shown(query, samples, title))
        answer = read_answer()
        if answer == "q":
            break
        if answer == "s":
            skipped.append(True)
        elif answer == "u" and not skipped:
            print("there is nothing to take back")
        elif answer == "u":
            if not skipped.pop():
                answers.undo()
        else:
            answers.add(Comparison(query, samples, int(answer) - 1))
            skipped.append(False)


# --- the commands -----------------------------------------------------------------------

def ask_command(options):
    """A person picks the best of four samples of rho, or of two of rho and two of a
    policy. The answers are added to the file --to."""
    cfg, path = config_of(options), Path(options.to)
    check_number("n", options.n, MOST_QUESTIONS)
    policies = ["", options.policy] if options.policy else [""]
    answers = Answers(path)
    make = partial(make_questions, cfg, policies, "reward", Progress("questions"))
    file = questions_file(path.parent, cfg, policies, "reward")
    questions = questions_of(file, options.n, make)
    print(f"\n{WORDING[cfg.task]}")
    try:
        ask(questions, answers)
    finally:
        answers.close()
    print(f"\n{len(answers.comparisons)} answers in {path}")


def comparisons_of(path):
    """{question: Comparison} of a file in which nobody may contradict himself."""
    comparisons = {}
    for c in read_comparisons(path):
        earlier = comparisons.setdefault(key_of(c.query, c.samples), c)
        if earlier.samples[earlier.best] != c.samples[c.best]:
            raise UserError(f"{path}: answers one question twice, and differently: "
                            f"{c.query}")
    return comparisons


def agreement_command(options):
    """How often two people, by their files, chose the same text where both were asked,
    with its 95 % interval."""
    both = {1: comparisons_of(options.a), 2: comparisons_of(options.b)}
    result = agreement(choices_of(both))
    if result is None:
        raise UserError(f"{options.a} and {options.b} have no question in common")
    alike, n = round(result["mean"] * result["n"]), result["n"]
    samples = len(next(iter(both[1].values())).samples)      # of a question: four, or two
    print(f"{options.a} and {options.b} agree on {alike} of {n} questions, "
          f"{result['mean']:.1%} ({result['low']:.1%} to {result['high']:.1%}); chance "
          f"is at least {100 // samples} %")


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
    add_sampling_options(asking)
    compare = commands.add_parser("agreement", description=agreement_command.__doc__,
                                  allow_abbrev=False)
    compare.set_defaults(command=agreement_command)
    compare.add_argument("a", help="a labels.jsonl")
    compare.add_argument("b", help="another person's")
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
