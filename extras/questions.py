"""
questions.py: what people are asked, their answers on disk, and how often they agree.

Paper: Ziegler et al. 2019, 2.3 and 2.4 (four samples in a question, several people
asked), 3.1.2 (two policies, two samples of each).
In:  a rho.pt, perhaps policies      Out: a file of questions; a file of answers for each
person, in the layout of labels.jsonl
Not here: how people are asked, in a browser (page.py) or at a terminal (label.py)
"""

import copy
import errno
import hashlib
import json
import math
import os
import threading
from collections import Counter
from dataclasses import fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import torch

from evaluate import seeded
from reward import (Comparison, comparison_line, generate_texts, parse_comparison,
                    shuffled_queries)
from rlhf import (Config, check, devices, load, load_rho, reading, sampling_of,
                  whole_file)
from text import UserError

try:
    import fcntl
except ImportError:              # Windows, where nothing stops two windows with one file
    fcntl = None

# What a person is asked, by task, where nobody gives other words.
WORDING = {"sentiment": "Which continuation is the most positive and happy?",
           "descriptiveness": "Which continuation is the most vividly descriptive?"}

MOST_QUESTIONS = 100_000         # some hours of sampling; a number above is a slip
LABELS = "labels.jsonl"          # what the page makes of everybody's answers
PAGE_LOCK = "page.lock"          # in a folder where it does


# --- the questions ----------------------------------------------------------------------

class Question(NamedTuple):
    query: str
    samples: list          # of four strings
    models: list           # whose each sample is: 0 or 1


def key_of(query, samples):
    """What tells a question from another: the same four samples in another order are no
    new question."""
    text = json.dumps([query, sorted(samples)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def questions_file(folder, cfg, policies, part):
    """Where the questions of these models and settings lie. The same command, by anybody,
    finds the same file. policies: paths of policy.pt, or "" for rho itself."""
    digest = hashlib.sha256()
    for path in (cfg.rho, *policies):
        if path:
            digest.update(Path(path).read_bytes())
        digest.update(b"|")
    sampling = (part, cfg.seed, cfg.response_length, cfg.truncate_after, cfg.temperature)
    digest.update(repr(sampling).encode())
    return folder / f"questions-{digest.hexdigest()[:16]}.json"


def read_questions(path):
    """The questions of a file; none if there is no file."""
    if not path.exists():
        return []
    with reading(path):
        rows = json.loads(path.read_text("utf-8"))
        if not isinstance(rows, list):
            raise ValueError("not a list of questions")
        questions = [Question(**row) for row in rows]
        for q in questions:
            if len(q.samples) != 4 or len(q.models) != 4:
                raise ValueError("a question has four samples, and four models")
            if not all(isinstance(text, str) for text in [q.query, *q.samples]):
                raise ValueError("a query and a sample are texts")
            if not all(model in (0, 1) for model in q.models):
                raise ValueError("a model is 0 or 1")
            parse_comparison(comparison_line(Comparison(q.query, q.samples, 0)))
        return questions


def make_questions(cfg, policies, part, progress, n, earlier):
    """n questions: four samples of one model, or two of each of two, shuffled.

    policies: a path of policy.pt for each model, or "" for rho itself. part: of rho.pt's
    queries. earlier: how many questions there are; seeded by it, so that two people who
    start at the same time get the same."""
    device = cfg.device or devices()[0]
    rho, tokenizer, queries, _ = load_rho(Path(cfg.rho), device)
    models = [load_policy(cfg.rho, rho, Path(path)) if path else rho
              for path in policies]
    sampling = sampling_of(cfg, tokenizer)
    seeded(cfg.seed, f"questions from {earlier}")
    by_length = {}
    for query in shuffled_queries(queries[part], n):
        by_length.setdefault(len(query), []).append(query)
    batches = [batch for same in by_length.values()
               for batch in torch.stack(same).split(256)]
    questions = []
    for query in progress(batches):                                  # (B, Q)
        texts = [generate_texts(model, query, 4 // len(models), sampling, tokenizer)
                 for model in models]
        for row, ids in enumerate(query.tolist()):
            samples, whose = [], []
            for model, of_model in enumerate(texts):
                samples += of_model[row]
                whose += [model] * len(of_model[row])
            order = torch.randperm(4).tolist()
            questions.append(Question(tokenizer.decode(ids), [samples[k] for k in order],
                                      [whose[k] for k in order]))
    return [questions[i] for i in torch.randperm(n).tolist()]


def load_policy(rho_path, rho, path):
    """A policy of this rho. One beside which another rho lies is refused: on this one's
    tokens it would write nothing that means anything."""
    beside = path.with_name("rho.pt")
    if beside.exists() and not beside.samefile(rho_path):
        ours, theirs = rho.state_dict(), load_rho(beside, rho.device)[0].state_dict()
        same = ours.keys() == theirs.keys()
        if not same or not all(torch.equal(ours[name], theirs[name]) for name in ours):
            raise UserError(f"{path} was trained from another rho, {beside}, not from "
                            f"{rho_path}")
    return load(copy.deepcopy(rho), path, "policy")


def questions_of(path, n, make):
    """The first n questions of a file. Where it has fewer, make(how many, how many there
    are) adds to it, but no question twice; so there may be fewer than n."""
    questions = read_questions(path)
    if len(questions) < n:
        known = {key_of(q.query, q.samples) for q in questions}
        for q in make(n - len(questions), len(questions)):
            key = key_of(q.query, q.samples)
            if key not in known:
                known.add(key)
                questions.append(q)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            text = json.dumps([q._asdict() for q in questions], ensure_ascii=False,
                              indent=1)
            part.write_text(text, "utf-8")
    return questions[:n]


# --- a person's answers -----------------------------------------------------------------

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


class Answers:
    """A person's file of answers, open to add to it, for one process at a time.

    comparisons: {key_of: Comparison}, the last answered last. An answer is on disk when
    `add` returns."""

    def __init__(self, path):
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a file; give another --to")
        refuse_folder_of_run(path.parent)
        if path.name == LABELS and (path.parent / PAGE_LOCK).exists():
            raise UserError(f"{path} is what the page makes of everybody's answers; give "
                            "a --to of your own beside it, such as NAME.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.lock = threading.Lock()
        self.file = open(path, "ab+", buffering=0)
        try:
            if fcntl is not None:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.read()
        except BlockingIOError:
            self.file.close()
            raise UserError(f"{path}: another window is answering into it") from None
        except UserError:
            self.file.close()
            raise

    def read(self):
        """Read what is there. Half a line at the end is an answer that was cut off, and
        goes. Whatever else is wrong is a UserError, and the file stays as it is."""
        self.file.seek(0)
        lines = self.file.read().split(b"\n")
        last = lines[-1]                         # empty if the file ends with a newline
        half = bool(last) and is_cut_off(last)
        if half:
            lines.pop()
        self.comparisons, self.starts = {}, []
        at = 0
        for line in lines:
            if line.strip():
                self.remember(parse_line(self.path, line), at)
            at += len(line) + 1
        if half:
            print(f"the last answer in {self.path} was cut off, and goes")
            self.file.truncate(self.file.tell() - len(last))
        elif last:                               # whole, but somebody wrote it by hand
            self.file.write(b"\n")
        self.end = self.file.seek(0, os.SEEK_END)

    def check_untouched(self):
        """What another program did to the file since is not written over, nor is an
        answer lost in a file that is no longer there."""
        here = os.fstat(self.file.fileno())
        is_there = self.path.exists() and os.path.samestat(os.stat(self.path), here)
        if not is_there or here.st_size != self.end:
            raise UserError(f"{self.path} was moved, deleted or changed by another "
                            "program; nothing was written; start this one again")

    def remember(self, comparison, start):
        """Take up an answer whose line begins at byte `start` of the file."""
        if len(comparison.samples) != 4:
            raise UserError(f"{self.path}: its questions have two samples, and no file "
                            "may have both kinds; give another --to")
        key = key_of(comparison.query, comparison.samples)
        if key in self.comparisons:
            raise UserError(f"{self.path}: answers one question twice: "
                            f"{comparison.query}")
        self.comparisons[key] = comparison
        self.starts.append(start)                # of its line, for `undo`

    def add(self, comparison):
        """Write an answer. Where the disk is full nothing of it stays."""
        line = comparison_line(comparison).encode()
        self.check_untouched()
        start = self.end
        try:
            if self.file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(self.file.fileno())
        except OSError:
            self.file.truncate(start)
            raise
        self.end += len(line)
        self.remember(comparison, start)

    def undo(self):
        """Take the last answer back, of today or of earlier. None if there is none."""
        if not self.comparisons:
            return None
        self.check_untouched()
        self.end = self.starts.pop()
        self.file.truncate(self.end)
        _, comparison = self.comparisons.popitem()
        os.fsync(self.file.fileno())     # last: the line is gone, whatever this says
        return comparison

    def close(self):
        self.file.close()


def refuse_folder_of_run(folder):
    if (folder / "config.json").exists():
        raise UserError(f"{folder} is the folder of a run, whose labels are its own; "
                        "give a --to elsewhere")


def parse_line(path, line):
    try:
        return parse_comparison(line.decode("utf-8-sig"))
    except ValueError as e:
        raise UserError(f"{path}: not a file of answers ({e}); it stays as it is"
                        ) from None


# --- many people's answers --------------------------------------------------------------

def choices_of(people):
    """{question: {name: the text chosen}}, of {name: {question: Comparison}}. Where a
    text stands among the four makes no difference."""
    choices = {}
    for name, comparisons in people.items():
        for key, c in comparisons.items():
            choices.setdefault(key, {})[name] = c.samples[c.best]
    return choices


def merged(people):
    """One list of comparisons, no question twice, of {name: {question: Comparison}}.

    Where several people answered, what most of them chose; of equals, what stands first.
    Everybody's first answer comes first, then the second ones, so that the end of the
    list, which rlhf.py holds out, is of everybody."""
    choices = choices_of(people)
    comparisons = {}
    for turn in zip_longest(*[list(of_one.items()) for of_one in people.values()]):
        for answer in turn:
            if answer is not None:
                key, c = answer
                texts = list(choices[key].values())
                votes = [texts.count(text) for text in c.samples]
                comparisons.setdefault(key, c._replace(best=votes.index(max(votes))))
    return list(comparisons.values())


def wilson_interval(k, n):
    """Wilson's 95 % interval (1927) of a proportion: k successes in n trials. It stays
    within 0 and 1, and is never of length 0, as the standard error is where all agree.
    With shares in place of 0 and 1 it is too wide, never too narrow."""
    z = 1.96
    center = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return center - half, center + half


def mean_with_interval(shares):
    """The mean of a share in each of n questions; None of no question.

    n is the number of questions, however many people answered them: their answers to one
    question depend on each other."""
    if not shares:
        return None
    low, high = wilson_interval(sum(shares), len(shares))
    return {"mean": sum(shares) / len(shares), "low": low, "high": high, "n": len(shares)}


def agreement(choices, name=None):
    """How often two people chose the same text (2.4, table 9), over the questions that
    two or more answered: any two, or one of them and any other."""
    shares = []
    for of_question in choices.values():
        others = len(of_question) - 1
        counts = Counter(of_question.values())
        if others == 0:
            continue
        if name is None:
            alike = sum(count * (count - 1) for count in counts.values())
            shares.append(alike / (others * (others + 1)))
        elif name in of_question:
            shares.append((counts[of_question[name]] - 1) / others)
    return mean_with_interval(shares)


def win_rate(choices, questions, name=None):
    """How often the first of two models wins (3.1.2): by one person's votes, or in each
    question by most of the votes. questions {key: Question}.

    A text that both models wrote counts half for each, and so does a draw of votes."""
    wins = []
    for key, of_question in choices.items():
        if key not in questions or name not in (None, *of_question):
            continue
        texts = of_question.values() if name is None else [of_question[name]]
        share = sum(share_of_first(questions[key], text) for text in texts) / len(texts)
        if share == 0.5:
            wins.append(0.5)
        else:
            wins.append(float(share > 0.5))
    return mean_with_interval(wins)


def share_of_first(question, text):
    """1 for a text of the first model, 0 of the second; half for one that both wrote,
    however often each did: nobody can tell whose he chose."""
    whose = {model for sample, model in zip(question.samples, question.models)
             if sample == text}
    if len(whose) == 2:
        return 0.5
    return 1.0 if whose == {0} else 0.0


# --- options that both programs have ----------------------------------------------------

SAMPLING = ["task", "seed", "device", "response_length", "truncate_after", "temperature"]


def add_sampling_options(parser, instead=""):
    """Those of rlhf.py that say how samples are drawn. instead: what a setting is where
    it is not given, if not always rlhf.py's."""
    for f in fields(Config):
        if f.name in SAMPLING:
            usual = f"here: {f.default!r}"
            if instead and f.name != "device":
                usual = f"{instead}{f.default!r}"
            parser.add_argument(f"--{f.name}", type=f.type, metavar=f.type.__name__,
                                help=f"{f.metadata['help']} ({usual})")


def check_number(name, value, most):
    if not 1 <= value <= most:
        raise UserError(f"--{name} is {value}, but must be from 1 to {most:,}")


def config_of(options, cfg=Config()):
    """A Config with the options that are given in place of cfg's."""
    given = {name: getattr(options, name) for name in ["rho", *SAMPLING]
             if getattr(options, name) is not None}
    cfg = replace(cfg, **given)
    check(cfg)
    return cfg
