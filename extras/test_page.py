"""
test_page.py: people who label and compare, at a terminal and in a browser; a run.

Run: python -m pytest extras/test_page.py

The tests in a browser need Chromium and chromedriver, and pip install selenium. Where
these are absent they are skipped.
"""

import http.client
import io
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import rlhf
from evaluate import reweighted
from extras import label, look, page, questions
from extras.questions import Answers, Question, key_of
from reward import Comparison, comparison_line, read_comparisons, write_comparisons
from text import UserError

ROOT = Path(__file__).parents[1]
CPU = ["--device", "cpu"]
# A model that has learned so little ends few responses where it should: with 0, anywhere.
TINY = ("--passages 400 --vocab_size 500 --query_min 5 --n_embd 16 --n_head 2 "
        "--device cpu --lm_steps 60 --lm_batch 8 --n_labels 60 --truncate_after 0 "
        "--episodes 64 --batch_size 32 --eval_queries 12 --optimum_queries 2 "
        "--optimum_samples 8").split()
QUESTIONS = [Question(f"Query {i}.", [f"Sample {i} {k}." for k in range(4)], [0] * 4)
             for i in range(5)]
MANY = [Question(f"Query {i}.", [f"Sample {i} {k}." for k in range(4)], [0, 1, 1, 0])
        for i in range(30)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """These models are so small that a second thread would only wait for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert rlhf.main([*TINY, "--out", str(out)]) == 0
    return out


FEWER_SAMPLES = {"QUERIES": 3, "SAMPLES": 64, "PAIRS": 2, "CONTINUATIONS": 4, "OF_PI": 4,
                 "READ": 4, "OFTEN": 1}


@pytest.fixture
def small_look(monkeypatch):
    for name, n in FEWER_SAMPLES.items():
        monkeypatch.setattr(look, name, n)


@pytest.fixture(scope="module")
def a_viewed_run(a_run, tmp_path_factory):
    """A run whose view is made."""
    run = tmp_path_factory.mktemp("viewed") / "run"
    shutil.copytree(a_run, run)
    with pytest.MonkeyPatch.context() as patch:
        for name, n in FEWER_SAMPLES.items():
            patch.setattr(look, name, n)
        look.Look(run).kept_view()
    return run


def one_sentence(capsys):
    """What was said on stderr, which must be one sentence and no traceback."""
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said, said
    return said


# --- questions, and a person's file of answers ------------------------------------------

def comparison(i, best):
    return Comparison(QUESTIONS[i].query, QUESTIONS[i].samples, best)


def test_an_answer_is_on_disk_when_add_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(questions.os, "fsync", synced.append)
    answers = Answers(tmp_path / "l")
    for i in (0, 1):
        answers.add(comparison(i, i))
        assert (tmp_path / "l").read_text().count("\n") == i + 1 == len(synced)
    answers.undo()
    assert read_comparisons(tmp_path / "l") == [comparison(0, 0)] and len(synced) == 3

    def full(fd):
        raise OSError(28, "No space left on device")
    answers.add(comparison(1, 1))
    monkeypatch.setattr(questions.os, "fsync", full)
    with pytest.raises(OSError):
        answers.undo()
    assert list(answers.comparisons.values()) == read_comparisons(tmp_path / "l"), (
        "whatever fsync says, the line is gone")
    monkeypatch.setattr(questions.os, "fsync", synced.append)
    answers.add(comparison(2, 2))
    assert [answers.undo(), answers.undo()] == [comparison(2, 2), comparison(0, 0)]
    assert answers.undo() is None and (tmp_path / "l").read_bytes() == b""


@pytest.mark.parametrize("change", ["moved", "replaced", "edited"])
def test_a_file_that_another_program_changes_is_not_written_over(change, tmp_path):
    path = tmp_path / "l"
    answers = Answers(path)
    answers.add(comparison(0, 0))
    answers.add(comparison(1, 1))
    if change == "moved":
        path.rename(tmp_path / "elsewhere")
    elif change == "replaced":
        path.rename(tmp_path / "elsewhere")
        shutil.copy(tmp_path / "elsewhere", path)
    else:
        with open(path, "a") as file:
            file.write(comparison_line(comparison(2, 2)))
    before = path.read_bytes() if path.exists() else None
    for action in (answers.undo, lambda: answers.add(comparison(3, 3))):
        with pytest.raises(UserError, match="was moved, deleted or changed"):
            action()
    assert (path.read_bytes() if path.exists() else None) == before


def test_undo_after_a_restart_to_the_very_first(tmp_path):
    lines = [comparison_line(comparison(i, 1)) for i in range(3)]
    (tmp_path / "l").write_text(lines[0] + "\n" + lines[1] + lines[2])     # a blank line
    answers = Answers(tmp_path / "l")
    assert answers.undo() == comparison(2, 1)
    answers.close()
    answers = Answers(tmp_path / "l")
    assert [answers.undo(), answers.undo(), answers.undo()] == [
        comparison(1, 1), comparison(0, 1), None]
    assert (tmp_path / "l").read_bytes() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_leaves_no_half_an_answer(tmp_path, monkeypatch):
    answers = Answers(tmp_path / "l")
    answers.add(comparison(0, 0))
    before = (tmp_path / "l").read_bytes()

    class Full:
        """A file with room for ten more bytes."""
        def __init__(self, file):
            self.file = file

        def write(self, line):
            return self.file.write(line[:10])

        def __getattr__(self, name):
            return getattr(self.file, name)
    there, answers.file = answers.file, Full(answers.file)
    with pytest.raises(OSError, match="No space left"):
        answers.add(comparison(1, 1))
    assert (tmp_path / "l").read_bytes() == before
    answers.file = there
    answers.add(comparison(1, 1))
    assert read_comparisons(tmp_path / "l") == [comparison(0, 0), comparison(1, 1)]


def test_half_a_line_is_an_answer_that_was_cut_off(tmp_path):
    path = tmp_path / "labels.jsonl"
    lines = [comparison_line(Comparison(q.query.replace("Q", "É"), q.samples, 2))
             for q in QUESTIONS]
    data = lines[1].encode()
    for end in (1, 8, 12, data.index("É".encode()) + 1, -9):     # one within a character
        path.write_bytes(lines[0].encode() + data[:end])
        answers = Answers(path)
        assert [c.best for c in answers.comparisons.values()] == [2]
        answers.close()
        assert path.read_text("utf-8") == lines[0]
    path.write_text(lines[0] + lines[1].rstrip(), "utf-8")
    answers = Answers(path)
    answers.add(comparison(2, 0))
    assert [c.best for c in read_comparisons(path)] == [2, 2, 0], "a whole line stays"


@pytest.mark.parametrize("content", [
    b"my notes", b"[1]\n", b'{"a": 1}\nnotes\n{"b', b'{"a": 1}\n{"b', b"\x00\xff\n{",
    b"{notes", b'{"query": "x"}\n', 2 * comparison_line(comparison(0, 0)).encode(),
    comparison_line(Comparison("Pairs.", ["a", "b"], 1)).encode()])
def test_a_file_that_holds_no_answers_stays_as_it_is(content, tmp_path):
    (tmp_path / "l").write_bytes(content)
    with pytest.raises(UserError, match="not a file of answers|one question twice|"
                       "have two samples"):
        Answers(tmp_path / "l")
    assert (tmp_path / "l").read_bytes() == content
    with pytest.raises(UserError, match="is not a file; give another"):
        Answers(tmp_path)


@pytest.mark.skipif(questions.fcntl is None, reason="no locks here")
def test_one_program_at_a_time_in_a_file(tmp_path):
    answers = Answers(tmp_path / "l")
    with pytest.raises(UserError, match="another window"):
        Answers(tmp_path / "l")
    answers.close()
    Answers(tmp_path / "l").close()


@pytest.mark.parametrize("content", [
    "3", "{}", "[{}]", '[["q", ["a", "b", "c", "d"]]]', '[{"query": "q"',
    '[{"query": "\\ud800", "samples": ["a", "b", "c", "d"], "models": [0, 0, 0, 0]}]',
    '[{"query": " ", "samples": ["a", "b", "c", "d"], "models": [0, 0, 0, 0]}]',
    '[{"query": "q", "samples": ["a"], "models": [0]}]',
    '[{"query": "q", "samples": [1, 2, 3, 4], "models": [0, 0, 0, 0]}]',
    '[{"query": "q", "samples": ["a", "b", "c", "d"], "models": [0, 0, 0]}]',
    '[{"query": "q", "samples": ["a", "b", "c", "d"], "models": [0, 0, 0, 2]}]',
    '[{"query": "q", "samples": ["a", "b", "c", "d"], "models": "0000"}]'])
def test_damaged_questions_are_refused(content, tmp_path):
    (tmp_path / "q.json").write_text(content)
    with pytest.raises(UserError, match="q.json is damaged"):
        questions.questions_of(tmp_path / "q.json", 1, None)


def test_no_question_twice_in_a_file(tmp_path):
    path = tmp_path / "q.json"
    shuffled = QUESTIONS[0]._replace(samples=QUESTIONS[0].samples[::-1])
    made = questions.questions_of(
        path, 9, lambda n, earlier: [*QUESTIONS[:2], QUESTIONS[1], shuffled])
    assert made == QUESTIONS[:2], "fewer than asked for: the file holds what there is"
    asked = []

    def more(n, earlier):
        asked.append((n, earlier))
        return [QUESTIONS[0], QUESTIONS[4]]
    assert questions.questions_of(path, 4, more) == [*QUESTIONS[:2], QUESTIONS[4]]
    assert asked == [(2, 2)]
    assert questions.questions_of(path, 2, None) == QUESTIONS[:2]


def test_two_models_give_four_samples_in_random_places(a_run, monkeypatch):
    models = []

    def told(model, query, n, sampling, tokenizer):
        if not any(model is known for known in models):
            models.append(model)
        name = "rho" if model is models[0] else "pi"
        return [[f"{name} {i}" for i in range(n)] for _ in query]
    monkeypatch.setattr(questions, "generate_texts", told)
    cfg = rlhf.Config(rho=str(a_run / "rho.pt"), device="cpu", truncate_after=0)
    policies = ["", str(a_run / "policy.pt")]
    made = questions.make_questions(cfg, policies, "reward", list, 60, 0)
    for _, samples, whose in made:
        assert sorted(samples) == ["pi 0", "pi 1", "rho 0", "rho 1"]
        names = [["rho", "pi"][model] for model in whose]
        assert names == [text.split()[0] for text in samples]
    assert len({tuple(whose) for _, _, whose in made}) == 6, "all orders of two and two"
    models.clear()
    for _, samples, whose in questions.make_questions(cfg, [""], "reward", list, 6, 0):
        assert sorted(samples) == ["rho 0", "rho 1", "rho 2", "rho 3"]
        assert whose == [0] * 4


def test_a_policy_of_another_rho_is_refused(a_run, tmp_path):
    cfg = rlhf.Config(rho=str(a_run / "rho.pt"), device="cpu", truncate_after=0)
    for name in ("rho.pt", "policy.pt"):
        shutil.copy(a_run / name, tmp_path)
    policies = ["", str(tmp_path / "policy.pt")]
    assert questions.make_questions(cfg, policies, "reward", list, 1, 0), "a copy is none"
    saved = torch.load(tmp_path / "rho.pt", weights_only=True)
    saved["weights"]["wte.weight"] += 0.01
    torch.save(saved, tmp_path / "rho.pt")
    with pytest.raises(UserError, match="was trained from another rho"):
        questions.make_questions(cfg, policies, "reward", list, 1, 0)


# --- agreement and win rates, by hand ---------------------------------------------------

def test_agreement_of_two_and_of_three():
    # Query 1: a, b, c choose x, x, y: one pair of three agrees. Query 2: a, b agree.
    choices = {1: {"a": "x", "b": "x", "c": "y"}, 2: {"a": "z", "b": "z"}, 3: {"a": "w"}}
    of_all = questions.agreement(choices)
    assert of_all["mean"] == pytest.approx((1 / 3 + 1) / 2) and of_all["n"] == 2
    assert questions.agreement(choices, "a")["mean"] == pytest.approx((1 / 2 + 1) / 2)
    assert questions.agreement(choices, "c")["mean"] == 0
    assert questions.agreement({3: {"a": "w"}}) is None
    at_none = questions.agreement({1: {"a": "x", "b": "y"}})
    assert at_none["low"] == pytest.approx(0) and at_none["high"] > 0.7, "never 0 to 0"


def test_equal_texts_count_as_equal_wherever_they_stand():
    samples = ["It rained.", "It snowed.", "It rained.", "It was hot."]
    people = {"a": {1: Comparison("Tom left.", samples, 0)},
              "b": {1: Comparison("Tom left.", samples, 2)}}
    assert questions.agreement(questions.choices_of(people))["mean"] == 1
    assert key_of("Tom left.", samples) == key_of("Tom left.", samples[::-1])


def test_win_rates_by_one_and_by_most():
    asked = {i: Question("Q.", ["a", "b", "c", "b"], [0, 0, 1, 1]) for i in range(4)}
    choices = {0: {"Ann": "a", "Bob": "c", "Cy": "a"}, 1: {"Ann": "c"}, 2: {"Ann": "b"},
               3: {"Bob": "a", "Cy": "c"}, "another poll's": {"Ann": "a"}}
    mine = questions.win_rate(choices, asked, "Ann")
    assert mine["n"] == 3 and mine["mean"] == pytest.approx((1 + 0 + .5) / 3)
    of_all = questions.win_rate(choices, asked)
    assert of_all["n"] == 4 and of_all["mean"] == pytest.approx((1 + 0 + .5 + .5) / 4)
    assert questions.win_rate(choices, asked, "Dan") is None
    # Model 0 wrote "b" twice and model 1 once: whose she chose, nobody can tell.
    asked = {0: Question("Q.", ["b", "b", "b", "c"], [0, 0, 1, 1])}
    assert questions.win_rate({0: {"Ann": "b"}}, asked)["mean"] == 0.5
    assert questions.win_rate({0: {"Ann": "c"}}, asked)["mean"] == 0


def test_merged_answers_have_no_question_twice():
    def of(*answers):
        return {key_of(*QUESTIONS[i][:2]): comparison(i, best) for i, best in answers}
    people = {"a": of((0, 1), (1, 2), (4, 0)), "b": of((0, 3), (2, 2)), "c": of((0, 3)),
              "d": {}}
    assert questions.merged(people) == [comparison(0, 3), comparison(1, 2),
                                        comparison(2, 2), comparison(4, 0)]
    people = {"a": of((0, 3)), "b": of((0, 1))}
    assert questions.merged(people) == [comparison(0, 1)], "of equals, what stands first"


def test_wilsons_interval_by_hand():
    # z^2 = 3.8416. 0 of 10: 0 to 3.8416 / 13.8416; 8 of 10: Wilson's .490 to .943.
    assert questions.wilson_interval(0, 10) == pytest.approx((0, 0.27754), abs=1e-4)
    assert questions.wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


# --- a person at the terminal -----------------------------------------------------------

def typed(keys, path, monkeypatch, asked=QUESTIONS):
    """The person's file after these words, an Enter behind each."""
    lines = "".join(key + "\n" for key in keys.split(" "))
    monkeypatch.setattr(label.sys, "stdin", io.StringIO(lines))
    answers = Answers(path)
    try:
        label.ask(asked, answers)
    finally:
        answers.close()
    return read_comparisons(path) if path.stat().st_size else []


def test_answers_skips_and_second_thoughts(tmp_path, monkeypatch, capsys):
    path = tmp_path / "labels.jsonl"
    # u before any answer does nothing; question 1 is skipped; the answer to 2 is taken
    # back.
    assert typed("u 1 s 3 u 4 q", path, monkeypatch) == [
        comparison(0, 0), comparison(2, 3)]
    said = capsys.readouterr().out
    assert "question 4 of 5, some 0 minutes left" in said
    assert "nothing to take back" in said
    # Begun again: the open questions, what was skipped among them; u takes a skip back.
    assert typed("2 s u 2 4", path, monkeypatch)[2:] == [
        comparison(1, 1), comparison(3, 1), comparison(4, 3)]
    said = capsys.readouterr().out
    assert "question 3 of 5" in said and "Query 0" not in said


def test_upper_case_is_understood(tmp_path, monkeypatch):
    assert typed("1 S 3 U 4 Q", tmp_path / "l", monkeypatch) == [
        comparison(0, 0), comparison(2, 3)]


@pytest.mark.parametrize("keys", [
    "\x1b[3~", "\x1b[4~", "\x1b[F", "\x1b[15~", "\x1b1", "\x1b[1~", "\x1b[A", "\x1bOP",
    "", "12", "0", "5", "sq", "1.", "one", "１", "²", "\x7f", "\x001", "\x1c1", "ſ",
    "\ufffd"])
def test_what_is_no_answer_writes_nothing(keys, tmp_path, monkeypatch, capsys):
    # Delete, End twice, F5, Alt-1, Home, an arrow, F1: several characters, digits among
    # them.
    assert typed(f"{keys} q", tmp_path / "l", monkeypatch) == []
    assert capsys.readouterr().out.count("question 1 of 5") == 1, "and asks on"


def test_input_that_ends_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(label.sys, "stdin", io.StringIO("1\n3\n2"))
    answers = Answers(tmp_path / "l")
    with pytest.raises(UserError, match="the input has ended"):
        label.ask(QUESTIONS, answers)
    assert [c.best for c in read_comparisons(tmp_path / "l")] == [0, 2], "2 had no Enter"


def test_what_a_terminal_would_obey_is_not_shown():
    said = label.shown("\x1b[2J", ["\x07a", "b\x9b1m", "", "d\u00ad\u200d"], "title")
    assert "\x1b" not in said and "\x07" not in said and "\x9b" not in said
    assert "d\u00ad\u200d" in said, "soft hyphens and joiners are no commands"
    assert " 3  (nothing)" in said


def test_a_question_is_wrapped_to_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    query, samples, _ = QUESTIONS[0]
    said = label.shown("word " * 30, [*samples[:3], "long" * 30], "title")
    assert max(len(line) for line in said.split("\n")) <= 40
    assert said.index(" 1  Sample 0 0.") < said.index(" 4  longlong")


@pytest.fixture
def answers(monkeypatch):
    """answers("1 2 q"): what the next command reads."""
    def give(keys):
        lines = "".join(key + "\n" for key in keys.split(" "))
        monkeypatch.setattr(label.sys, "stdin", io.StringIO(lines))
    return give


def test_a_second_person_is_asked_the_same_and_rlhf_reads_it(a_run, tmp_path, answers,
                                                             capsys):
    rho = str(a_run / "rho.pt")
    mine, second = tmp_path / "mine" / "labels.jsonl", tmp_path / "mine" / "second.jsonl"
    common = ["ask", "--rho", rho, "--truncate_after", "0", *CPU]
    for keys, path in (("1 1 1 1 1", mine), ("1 2 3 4 1", second)):
        answers(keys)
        assert label.main([*common, "--n", "5", "--to", str(path)]) == 0
    answers(" ".join("1" * 19))
    assert label.main([*common, "--n", "24", "--to", str(mine)]) == 0
    said = capsys.readouterr().out
    assert "question 6 of 24" in said, "more questions, and the first ones stay"
    assert "24 answers in" in said and "most positive and happy" in said
    assert len(list(mine.parent.glob("questions-*.json"))) == 1
    # Of rho and pi, or at another temperature: other questions, in another file.
    answers("q")
    common += ["--n", "5", "--to", str(second)]
    assert label.main([*common, "--policy", str(a_run / "policy.pt")]) == 0
    answers("q")
    assert label.main([*common, "--temperature", "1"]) == 0
    assert len(list(mine.parent.glob("questions-*.json"))) == 3
    capsys.readouterr()
    assert label.main(["agreement", str(mine), str(second)]) == 0
    assert "agree on 2 of 5 questions" in capsys.readouterr().out
    given = [*TINY, "--rho", rho, "--labels", str(mine), "--out", str(tmp_path / "run")]
    assert rlhf.main(given) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["labels"]["n"] <= 20 and results["reward_model"]["n"] == 4


def test_a_runs_labels_are_not_added_to(a_run, tmp_path, capsys):
    before = (a_run / "labels.jsonl").read_bytes()
    given = ["ask", "--rho", str(a_run / "rho.pt"), *CPU, "--to"]
    assert label.main([*given, str(a_run / "labels.jsonl")]) == 2
    assert "the folder of a run" in one_sentence(capsys)
    assert (a_run / "labels.jsonl").read_bytes() == before
    assert label.main([*given, str(tmp_path / "l"), "--n", "0"]) == 2
    assert "--n is 0" in one_sentence(capsys)
    for name in ("--n", "--seed"):
        assert label.main([*given, str(tmp_path / "l"), name, "9" * 25]) == 2
        assert f"{name} is 999" in one_sentence(capsys)
    pairs = tmp_path / "pairs.jsonl"
    write_comparisons(pairs, [Comparison("Query.", ["a", "b"], 1)])
    before = pairs.read_bytes()
    assert label.main([*given, str(pairs)]) == 2
    assert "have two samples" in one_sentence(capsys) and pairs.read_bytes() == before
    assert label.main([*given, str(tmp_path / "l"), "--policy", str(tmp_path / "p")]) == 2
    assert "No such file" in one_sentence(capsys)


def test_agreement_of_two_files(tmp_path, capsys):
    for name, best in (("a", [0, 1, 2, 3]), ("b", [0, 1, 3, 2]), ("c", [0])):
        write_comparisons(tmp_path / name, [comparison(i, b) for i, b in enumerate(best)])
    both = (tmp_path / "a").read_text() + (tmp_path / "b").read_text()
    (tmp_path / "d").write_text(both)
    write_comparisons(tmp_path / "e", [Comparison("Query 0.", list("wxyz"), 0)])
    paths = {name: str(tmp_path / name) for name in "abcde"}
    assert label.main(["agreement", paths["a"], paths["b"]]) == 0
    said = capsys.readouterr().out
    assert ("agree on 2 of 4 questions, 50.0% (15.0% to 85.0%); chance is at least 25 %"
            in said)
    assert label.main(["agreement", paths["a"], paths["c"]]) == 0
    assert "1 of 1 questions, 100.0% (20.7% to 100.0%)" in capsys.readouterr().out
    pairs = [Comparison(f"Query {i}.", ["x", "y"], 0) for i in range(3)]
    write_comparisons(tmp_path / "pairs", pairs)
    assert label.main(["agreement", *2 * [str(tmp_path / "pairs")]]) == 0
    said = capsys.readouterr().out
    assert "agree on 3 of 3 questions" in said
    assert said.endswith("chance is at least 50 %\n")
    for words, pair in (("answers one question twice", [paths["a"], paths["d"]]),
                        ("no question in common", [paths["a"], paths["e"]]),
                        ("required", [paths["a"]])):
        assert label.main(["agreement", *pair]) == 2
        assert words in one_sentence(capsys)


class Terminal:
    """label.py at the other end of a pseudo-terminal."""

    def __init__(self, options):
        self.pid, self.fd = pytest.importorskip("pty").fork()
        if self.pid == 0:
            os.environ["OMP_NUM_THREADS"] = "1"
            os.chdir(ROOT)
            command = [sys.executable, "-m", "extras.label", *options]
            os.execv(sys.executable, command)
        self.seen = ""

    def until(self, words):
        """What is shown up to these words."""
        while words not in self.seen:
            assert select.select([self.fd], [], [], 60)[0], self.seen
            try:
                self.seen += os.read(self.fd, 4096).decode()
            except OSError:                              # closed: the program has ended
                break
        shown, found, self.seen = self.seen.partition(words)
        assert found, f"{words!r} not in {shown}"
        return shown

    def status(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_person_answers_is_killed_and_goes_on(a_run, tmp_path):
    to, prompt = tmp_path / "labels.jsonl", "and Enter > "
    options = ["ask", "--rho", str(a_run / "rho.pt"), "--truncate_after", "0", *CPU,
               "--to", str(to), "--n", "6"]
    person = Terminal(options)
    first = person.until(prompt)
    assert "question 1 of 6" in first and all(f" {k}  " in first for k in (1, 2, 3, 4))
    os.write(person.fd, b"\x1b[3~\n2\n")                     # Delete is no answer
    person.until("none of these")
    person.until("question 2 of 6")
    os.kill(person.pid, signal.SIGKILL)
    assert person.status() == -signal.SIGKILL
    assert [c.best for c in read_comparisons(to)] == [1]
    person = Terminal(options)
    os.write(person.fd, b"1\n3\n4\n")                        # typed ahead
    person.until("question 5 of 6")
    os.write(person.fd, b"\x04")                             # Ctrl-D
    person.until("the input has ended")
    assert person.status() == 2
    assert [c.best for c in read_comparisons(to)] == [1, 0, 2, 3]


# --- the server -------------------------------------------------------------------------

class Client:
    """A browser's side of the protocol: one connection, opened again when it breaks."""

    def __init__(self, port, **headers):
        self.port, self.headers = port, headers
        self.connection = None

    def send(self, method, path, data=None, **headers):
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port,
                                                         timeout=30)
        try:
            self.connection.request(method, path, data, {**self.headers, **headers})
            response = self.connection.getresponse()
            return response.status, response.read()
        except BaseException:
            self.connection.close()
            self.connection = None
            raise

    def ask(self, what, **body):
        """The reply to a request that is answered."""
        status, reply = self.send("POST", f"/api/{what}", json.dumps(body).encode(),
                                  **{"Content-Type": "application/json"})
        assert status == 200, (status, reply)
        return json.loads(reply)


class ServerToClose(page.Server):
    """One whose connections end with it, as those of a process do."""

    def process_request(self, request, client_address):
        self.connections = [*getattr(self, "connections", []), request]
        super().process_request(request, client_address)

    def close_connections(self):
        for connection in getattr(self, "connections", []):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:                      # it has ended
                pass


class Served:
    """A page that is served in a thread of the tests. close() and Served() again: a
    restart."""

    def __init__(self, folder, asked=QUESTIONS, n=5, code=None, look=None,
                 models=("rho",), port=0):
        self.people = page.People(folder)
        self.poll = page.Poll(asked, self.people, n, "Which?\nRead.", list(models))
        title = "label" if len(models) == 1 else "compare"
        site = page.Site({title: self.poll}, look, code, "python rlhf.py")
        self.server = ServerToClose(("127.0.0.1", port), site)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        if self.server is None:
            return
        self.server.shutdown()
        self.server.close_connections()
        self.server.server_close()
        self.people.write_labels()
        for answers in self.people.answers.values():
            answers.close()
        self.server = None


@pytest.fixture
def serve(tmp_path):
    """serve(...): a Served in tmp_path; the one before is closed."""
    there = []

    def start(**options):
        while there:
            there.pop().close()
        there.append(Served(tmp_path, **options))
        return there[0]
    yield start
    while there:
        there.pop().close()


def test_a_person_labels_and_rlhf_reads_it(serve, tmp_path):
    asked = [q._replace(samples=["", *q.samples[1:]]) for q in QUESTIONS]    # blank ones
    served = serve(asked=asked)
    client = Client(served.port)
    state = client.ask("next", poll="label", name="Ann")
    assert (state["done"], state["n"], state["last"]) == (0, 5, None)
    for i in range(5):
        key, samples = state["question"]["id"], state["question"]["samples"]
        state = client.ask("answer", poll="label", name="Ann", id=key, best=i % 4)
        on_disk = read_comparisons(tmp_path / "ann.jsonl")
        assert len(on_disk) == i + 1 == state["done"], "on disk before the next one shows"
        assert on_disk[-1].samples == samples and on_disk[-1].best == i % 4
    assert state["question"] is None
    served.people.write_labels()
    assert read_comparisons(tmp_path / "labels.jsonl") == on_disk
    serve()                                      # the page, too, reads what it wrote


def test_labels_are_written_soon_after_an_answer(serve, tmp_path):
    served = serve()
    threading.Thread(target=served.people.keep_labels, daemon=True).start()
    client = Client(served.port)
    state = client.ask("next", poll="label", name="Ann")
    key = state["question"]["id"]
    client.ask("answer", poll="label", name="Ann", id=key, best=1)
    wait_until(lambda: (tmp_path / "labels.jsonl").exists()
               and len(read_comparisons(tmp_path / "labels.jsonl")) == 1)
    client.ask("undo", poll="label", name="Ann", id=key)
    wait_until(lambda: (tmp_path / "labels.jsonl").read_bytes() == b"")


def test_labels_that_cannot_be_written_are_said_once(serve, tmp_path, capsys):
    served = serve()
    in_the_way = tmp_path / "labels.jsonl"
    in_the_way.mkdir()
    (in_the_way / "x").touch()
    threading.Thread(target=served.people.keep_labels, daemon=True).start()
    served.people.changed.set()
    time.sleep(1.5)
    assert capsys.readouterr().err.count("could not be written") == 1
    shutil.rmtree(in_the_way)
    wait_until(in_the_way.exists)


def wait_until(holds, seconds=30):
    until = time.time() + seconds
    while not holds():
        assert time.time() < until
        time.sleep(0.02)


def test_an_answer_sent_twice_and_two_windows(serve, tmp_path):
    client = Client(serve().port)
    person = {"poll": "label", "name": "Ann"}
    first = client.ask("next", **person)["question"]
    assert client.ask("next", **person)["question"] == first, "a second window has it too"
    other = client.ask("answer", **person, id=first["id"], best=2)
    again = client.ask("answer", **person, id=first["id"], best=2)
    assert again == other and other["note"] == "", "sent again, for no reply had come"
    contrary = client.ask("answer", **person, id=first["id"], best=0)
    assert "The first answer stands" in contrary["note"]
    assert contrary["question"] == other["question"]
    assert [c.best for c in read_comparisons(tmp_path / "ann.jsonl")] == [2]


def test_undo_also_after_a_restart_and_never_twice(serve, tmp_path):
    client = Client(serve().port)
    person = {"poll": "label", "name": "Ann"}
    keys = []
    for best in (0, 1, 2):
        keys.append(client.ask("next", **person)["question"]["id"])
        client.ask("answer", **person, id=keys[-1], best=best)
    client = Client(serve().port)
    state = client.ask("next", **person)
    assert state["done"] == 3 and state["last"] == keys[2]
    for _ in range(2):                           # sent again, for no reply had come
        state = client.ask("undo", **person, id=keys[2])
        assert state["question"]["id"] == keys[2], "it is asked again"
        assert state["last"] == keys[1] and state["done"] == 2
    state = client.ask("undo", **person, id=keys[1])
    assert [c.best for c in read_comparisons(tmp_path / "ann.jsonl")] == [0]
    assert state["last"] == keys[0]


def test_skipped_questions_come_last(serve):
    client = Client(serve().port)
    person = {"poll": "label", "name": "Ann"}
    skipped = [client.ask("next", **person)["question"]["id"]]
    for _ in range(4):
        state = client.ask("next", **person, skipped=skipped)
        assert state["question"]["id"] not in skipped
        state = client.ask("answer", **person, id=state["question"]["id"], best=0,
                           skipped=skipped)
    assert state["question"] is None and state["done"] == 4
    shown = client.ask("next", **person, show=skipped[0])
    assert shown["question"]["id"] == skipped[0]


def test_people_share_every_fifth_question(serve):
    asked = [Question(f"Query {i}.", [f"{i} {k}" for k in range(4)], [0] * 4)
             for i in range(2 + 3 * 8)]
    client = Client(serve(asked=asked, n=10).port)
    order = {name: [] for name in ("ann", "bob", "cy")}
    for _ in range(10):                          # in turn
        for name, keys in order.items():
            keys.append(client.ask("next", poll="label", name=name)["question"]["id"])
            client.ask("answer", poll="label", name=name, id=keys[-1], best=0)
    common = [key_of(q.query, q.samples) for q in asked[:2]]
    for keys in order.values():
        assert [keys[0], keys[5]] == common
    own = [key for keys in order.values() for key in keys if key not in common]
    assert len(own) == len(set(own)) == 24, "and no other question twice"
    found = client.ask("results", poll="label", name="ann")
    assert found["agreement"]["n"] == 2 and found["agreement"]["mean"] == 1
    assert found["people"] == 3
    # A fourth person, who was not expected: questions that others have.
    state = client.ask("next", poll="label", name="dee")
    for _ in range(10):
        state = client.ask("answer", poll="label", name="dee", id=state["question"]["id"],
                           best=1)
    assert state["done"] == 10


def test_votes_and_their_win_rate(serve, tmp_path):
    asked = [q._replace(models=[0, 1, 1, 0]) for q in QUESTIONS]
    client = Client(serve(asked=asked, models=("pi", "rho")).port)
    for name, votes in (("ann", [0, 3, 0, 1, 0]), ("bob", [1, 1, 0, 1, 1])):
        for best in votes:
            state = client.ask("next", poll="compare", name=name)
            assert "models" not in json.dumps(state), "blind"
            client.ask("answer", poll="compare", name=name, id=state["question"]["id"],
                       best=best)
    found = client.ask("results", poll="compare", name="ann")
    assert found["win_rate"]["mean"] == 0.8 and found["win_rate"]["n"] == 5
    assert found["win_rate_of_all"]["n"] == 5
    low, high = questions.wilson_interval(4, 5)
    assert (found["win_rate"]["low"], found["win_rate"]["high"]) == (low, high)


def test_no_result_tells_whose_sample_a_vote_was_for(serve):
    client = Client(serve(asked=MANY, n=25, models=("pi", "rho")).port)
    for name in ("bob", "ann"):
        told = []
        for votes in range(26):
            found = client.ask("results", poll="compare", name=name)
            n = found["win_rate"]["n"] if found["win_rate"] else 0
            told.append(n)
            assert (found["win_rate_of_all"] is not None) == (votes == 25)
            state = client.ask("next", poll="compare", name=name)
            if state["question"]:
                client.ask("answer", poll="compare", name=name,
                           id=state["question"]["id"], best=votes % 4)
        assert told == [0] * 10 + [10] * 10 + [20] * 5 + [25]


LONG = json.dumps({"poll": "label", "name": "a", "skipped": ["x" * 99_999]}).encode()
ANN = {"poll": "label", "name": "Ann"}


@pytest.mark.parametrize("path, body, status, words", [
    ("/api/next", b"{", 400, "not JSON"), ("/api/next", b"\xff", 400, "not JSON"),
    ("/api/next", b"[" * 50_000, 400, "not JSON"),
    ("/api/next", b"[]", 400, "JSON object"),
    ("/api/next", LONG, 413, "at most 100,000 bytes"),
    ("/api/next", {}, 400, "poll must be a text"),
    ("/api/next", {"poll": "label"}, 400, "name must be a text"),
    ("/api/next", {"poll": "x", "name": "a"}, 404, "no such poll"),
    ("/api/next", {"poll": ["label"], "name": "a"}, 400, "poll must be a text"),
    ("/api/next", {**ANN, "skipped": "x"}, 400, "skipped must be a list"),
    ("/api/next", {**ANN, "skipped": [["x"]]}, 400, "skipped must be a list"),
    ("/api/next", {**ANN, "show": 3}, 400, "show must be a text"),
    ("/api/answer", ANN, 400, "id must be a text"),
    ("/api/answer", {**ANN, "id": "x", "best": "1"}, 400, "best must be"),
    ("/api/answer", {**ANN, "id": "x", "best": True}, 400, "best must be"),
    ("/api/answer", {**ANN, "id": "x", "best": 4}, 400, "best must be"),
    ("/api/answer", {**ANN, "id": "x", "best": -1}, 400, "best must be"),
    ("/api/nothing", ANN, 404, "nothing at this address"),
    ("/../../etc/passwd", ANN, 404, "nothing at this address")])
def test_requests_that_cannot_be_answered(path, body, status, words, serve, tmp_path):
    client = Client(serve().port)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    got, reply = client.send("POST", path, data, **{"Content-Type": "application/json"})
    sentence = json.loads(reply)["error"]
    assert got == status and words in sentence and sentence.endswith("."), reply
    assert client.ask("next", **ANN)["done"] == 0, "and the next one is answered"
    assert not (tmp_path / "ann.jsonl").read_bytes()


def test_an_answer_to_a_question_of_another_day(serve, tmp_path):
    state = Client(serve().port).ask("answer", **ANN, id="x", best=1)
    assert "not one of today's" in state["note"] and state["question"]
    assert (tmp_path / "ann.jsonl").read_bytes() == b""


@pytest.mark.parametrize("name", [
    "", " ", "../x", "a/b", "a\\b", ".hidden", "-x", "a\0b", "labels", "LABELS", "a" * 41,
    "a.", "Con", "nul.x", "com1", "<b>", "a\nb\r\nc:d", "\ud800"])
def test_names_that_no_file_should_have(name, serve, tmp_path):
    client = Client(serve().port)
    data = json.dumps({"poll": "label", "name": name}).encode()
    status, reply = client.send("POST", "/api/next", data,
                                **{"Content-Type": "application/json"})
    assert status == 400 and "A name has" in json.loads(reply)["error"]
    assert list(tmp_path.glob("**/*.jsonl")) == []


def test_one_person_however_he_writes_his_name(serve, tmp_path):
    client = Client(serve().port)
    for name in ("José", "JOSÉ", "Jose\u0301", "  josé "):
        client.ask("next", poll="label", name=name)
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["josé.jsonl"]


@pytest.mark.parametrize("name, file", [
    ("İbrahim", "ibrahim"), ("O\u2019Brien", "o'brien"), ("J. Smith", "j. smith"),
    ("अनिता", "अनिता"), ("กิตติ", "กิตติ"), ("Connie", "connie"), ("Żaneta", "żaneta")])
def test_names_that_people_have(name, file, serve, tmp_path):
    Client(serve().port).ask("next", poll="label", name=name)
    assert [path.name for path in tmp_path.glob("*.jsonl")] == [f"{file}.jsonl"]


def test_a_file_put_there_by_hand_is_its_persons(tmp_path):
    write_comparisons(tmp_path / "Anna.jsonl", [comparison(0, 1)])
    write_comparisons(tmp_path / "-x.jsonl", [comparison(1, 1)])
    people = page.People(tmp_path)
    assert len(people.of(page.checked_name("anna")).comparisons) == 1
    assert list(people.comparisons()) == ["-x", "anna"], "what nobody is called counts"
    for answers in people.answers.values():
        answers.close()
    write_comparisons(tmp_path / "anna.jsonl", [comparison(0, 1)])
    if len(list(tmp_path.glob("*.jsonl"))) == 3:         # not where case counts for none
        with pytest.raises(UserError, match="are of one name"):
            page.People(tmp_path)


def test_other_sites_and_strangers(serve):
    served = serve()
    client = Client(served.port)
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        status, _ = client.send("POST", "/api/next", json.dumps(ANN).encode(),
                                **{"Content-Type": kind})
        assert status == 415, "another site's form"
    for path in ("/", "/api/about"):
        assert client.send("GET", path, Host="evil.example:80")[0] == 403, "its name"
        assert client.send("GET", path, Host=f"localhost:{served.port}")[0] == 200
    client = Client(serve(code="abc").port)
    assert client.send("GET", "/")[0] == 200, "the page itself asks for the code"
    for given in ({}, {"X-Code": "abd"}, {"X-Code": "é"}):
        given = {key: value.encode("utf-8") for key, value in given.items()}
        for path in ("/api/about", "/api/run", "/api/view"):
            assert client.send("GET", path, **given)[0] == 401
    status, _ = client.send("POST", "/api/next", json.dumps(ANN).encode(),
                            **{"Content-Type": "application/json"})
    assert status == 401
    assert client.send("GET", "/api/about", **{"X-Code": "abc"})[0] == 200


def test_a_request_without_a_length_and_one_that_ends_early(serve):
    served = serve()
    for head in (b"Transfer-Encoding: chunked\r\n", b"Content-Length: -5\r\n", b""):
        with socket.create_connection(("127.0.0.1", served.port)) as there:
            there.sendall(b"POST /api/next HTTP/1.1\r\nHost: localhost\r\n" + head
                          + b"\r\n")
            assert there.recv(1000).startswith(b"HTTP/1.1 411")
    with socket.create_connection(("127.0.0.1", served.port)) as there:
        there.sendall(b"POST /api/next HTTP/1.1\r\nHost: localhost\r\n"
                      b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
    assert Client(served.port).ask("next", **ANN)["done"] == 0


def test_a_full_disk_is_said_and_the_answer_is_taken_later(serve, tmp_path, monkeypatch):
    client = Client(serve().port)
    key = client.ask("next", **ANN)["question"]["id"]

    def full(fd):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(questions.os, "fsync", full)
    data = json.dumps({**ANN, "id": key, "best": 1}).encode()
    status, reply = client.send("POST", "/api/answer", data,
                                **{"Content-Type": "application/json"})
    assert status == 507 and "No space left on device" in json.loads(reply)["error"]
    assert (tmp_path / "ann.jsonl").read_bytes() == b""
    monkeypatch.undo()
    assert client.ask("answer", **ANN, id=key, best=1)["done"] == 1


def test_a_fault_of_the_server_is_said(serve, tmp_path, monkeypatch, capsys):
    served = serve()
    client = Client(served.port)

    def fails(*arguments):
        raise ZeroDivisionError("division by zero")
    monkeypatch.setattr(served.poll, "next_question", fails)
    data = json.dumps(ANN).encode()
    status, reply = client.send("POST", "/api/next", data,
                                **{"Content-Type": "application/json"})
    assert status == 500 and "division by zero" in json.loads(reply)["error"]
    wait_until(lambda: "Traceback" in capsys.readouterr().err)
    monkeypatch.undo()
    assert client.ask("next", **ANN)["done"] == 0

    def unreadable(self):
        raise OSError(5, "Input/output error")
    monkeypatch.setattr(page.Site, "about", unreadable)
    status, reply = client.send("GET", "/api/about")
    sentence = json.loads(reply)["error"]
    assert status == 500 and "Input/output" in sentence and "written" not in sentence


def test_a_file_that_another_program_has_open(serve, tmp_path):
    client = Client(serve().port)
    terminal = Answers(tmp_path / "bob.jsonl")
    data = json.dumps({"poll": "label", "name": "bob"}).encode()
    status, reply = client.send("POST", "/api/next", data,
                                **{"Content-Type": "application/json"})
    terminal.close()
    if questions.fcntl is not None:
        assert status == 409 and "another window" in json.loads(reply)["error"]


def test_several_thousand_answers_stay_fast(serve, tmp_path):
    words = "word " * 20
    asked = [Question(f"Query {i}.", [f"{i} {k} {words}" for k in range(4)], [0] * 4)
             for i in range(6000)]
    for one in range(10):
        lines = [comparison_line(Comparison(q.query, q.samples, 1))
                 for q in asked[600 * one:600 * one + 500]]
        (tmp_path / f"person {one}.jsonl").write_text("".join(lines))
    served = serve(asked=asked, n=600)
    threading.Thread(target=served.people.keep_labels, daemon=True).start()
    client, times = Client(served.port), []
    state = client.ask("next", poll="label", name="person 3")
    assert state["done"] == 500
    for _ in range(60):
        started = time.perf_counter()
        state = client.ask("answer", poll="label", name="person 3",
                           id=state["question"]["id"], best=0)
        times.append(time.perf_counter() - started)
    assert statistics.median(times) < 0.05, f"{1000 * statistics.median(times):.0f} ms"


# --- the command, killed again and again ------------------------------------------------

class Page:
    """python -m extras.page in a process of its own."""

    def __init__(self, *options, port=0):
        command = [sys.executable, "-m", "extras.page", *options, "--port", str(port)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE,
                                        text=True, env=environment)
        self.said = self.process.stdout.readline()
        found = re.search(r":(\d+)/", self.said)
        assert found, f"it said {self.said!r}"
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}/"

    def kill(self):
        self.process.kill()
        self.process.wait()


def simulated_person(name, n, port, think, times, problems):
    """Answer n questions and wait for the server where it is away, as the page does."""
    rng = random.Random(name)
    client = Client(port)

    def until_answered(what, **body):
        for _ in range(3000):
            started = time.perf_counter()
            try:
                reply = client.ask(what, poll="label", name=name, **body)
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)
                continue
            times.append(time.perf_counter() - started)
            return reply
        raise AssertionError("the server never came back")

    try:
        state = until_answered("next")
        for done in range(n):
            assert state["done"] == done, f"{name}: {state['done']} of {done}"
            time.sleep(rng.expovariate(1 / think))
            key, best = state["question"]["id"], rng.randrange(4)
            if rng.random() < 0.05:              # a second thought
                state = until_answered("answer", id=key, best=rng.randrange(4))
                state = until_answered("undo", id=key)
            state = until_answered("answer", id=key, best=best)
        assert state["question"] is None
    except Exception as e:
        problems.append(f"{name}: {e!r}")


def label_and_be_killed(rho, folder, people, n, kills, think):
    """So many people at once, and so many kills of the server: the response times."""
    options = ["--rho", str(rho), "--truncate_after", "0", *CPU, "--to", str(folder),
               "--n", str(n), "--people", str(people)]
    server = Page(*options)
    times, problems = [], []
    names = [f"person {i}" for i in range(people)]
    threads = [threading.Thread(target=simulated_person,
                                args=[name, n, server.port, think, times, problems])
               for name in names]
    for thread in threads:
        thread.start()
    for kill in range(kills):
        time.sleep(random.Random(kill).uniform(0.2, 2) * think)
        server.kill()
        server = Page(*options, port=server.port)
    for thread in threads:
        thread.join()
    final = Client(server.port).ask("results", poll="label", name=names[0])
    time.sleep(2)                                # labels.jsonl is written soon after
    server.kill()
    assert not problems, problems
    check_nothing_lost_or_doubled(folder, names, n, final)
    return times


def check_nothing_lost_or_doubled(folder, names, n, final):
    everybody = set()
    for name in names:
        comparisons = read_comparisons(folder / f"{name}.jsonl")
        keys = {key_of(c.query, c.samples) for c in comparisons}
        assert len(keys) == len(comparisons) == n, name
        everybody |= keys
    labels = read_comparisons(folder / "labels.jsonl")
    keys = [key_of(c.query, c.samples) for c in labels]
    assert len(keys) == len(set(keys)) and set(keys) == everybody
    common = n // 5
    assert final["agreement"]["n"] >= common and final["people"] == len(names)


def test_kills_lose_and_double_no_answer(a_run, tmp_path):
    # In full, as many as a class: PEOPLE=30 QUESTIONS=40 KILLS=20 (some minutes).
    people, n, kills = [int(os.environ.get(name, usual)) for name, usual in
                        (("PEOPLE", 6), ("QUESTIONS", 10), ("KILLS", 3))]
    think = float(os.environ.get("THINK", 0.3))
    times = label_and_be_killed(a_run / "rho.pt", tmp_path / "class", people, n, kills,
                                think)
    median = 1000 * statistics.median(times)
    most = 1000 * sorted(times)[int(0.95 * len(times))]
    print(f"{people} people, {n} questions, {kills} kills: median response "
          f"{median:.1f} ms, 95 % below {most:.1f} ms")
    assert median < 50


def test_what_the_user_can_mend_is_one_sentence(a_run, tmp_path, capsys):
    rho, to = str(a_run / "rho.pt"), tmp_path / "mine"
    to.mkdir()
    write_comparisons(to / "labels.jsonl", [comparison(0, 0)])
    before = (to / "labels.jsonl").read_bytes()
    (to / "notes.html").write_text("<p>mine</p>")
    label_alone = ["--rho", rho, "--to", str(tmp_path / "new"), *CPU]
    for words, options in (
            ("--out of a run", []), ("--rho and a --to", ["--rho", rho]),
            ("--out of a run", ["--save", "x.html"]),
            ("is not the folder of a run", ["--out", str(tmp_path / "nowhere")]),
            ("was not made by a page", ["--rho", rho, "--to", str(to), *CPU]),
            ("the folder of a run", ["--rho", rho, "--to", str(a_run), *CPU]),
            ("--n is 0", [*label_alone, "--n", "0"]),
            ("--people is -1", [*label_alone, "--people", "-1"]),
            ("--n is 99", [*label_alone, "--n", "9" * 25]),
            ("from 1 to 3,333", [*label_alone, "--n", "4000", "--people", "30"]),
            ("--people is 99", [*label_alone, "--people", "9" * 25]),
            ("--seed is 99", [*label_alone, "--seed", "9" * 25]),
            ("--port is 99", [*label_alone, "--port", "9" * 25]),
            ("needs a --policy", [*label_alone, "--opponent", "x"]),
            ("No such file", [*label_alone, "--policy", str(tmp_path / "p.pt")]),
            ("No such file", [*label_alone, "--instructions", "nothing.txt"]),
            ("--port is 99999", [*label_alone, "--port", "99999"]),
            ("--code must be", [*label_alone, "--code", "é"]),
            ("--code must be", [*label_alone, "--code", "a b"]),
            ("ends with .html", ["--out", str(a_run), "--save",
                                 str(a_run / "policy.pt")]),
            ("is not a page", ["--out", str(a_run), "--save", str(to / "notes.html")]),
            ("give another --port", [*label_alone, "--host", "192.0.2.1", "--n", "1",
                                     "--truncate_after", "0"]),
            ("--help", ["--shade", "red"])):
        assert page.main(options) == 2
        assert words in one_sentence(capsys), words
    assert (to / "labels.jsonl").read_bytes() == before
    assert not (a_run / "page.lock").exists()


def test_help_tells_what_a_setting_is_if_not_given(capsys):
    for main, words in ((page.main, "(the run's; without one, 24)"),
                        (lambda argv: label.main(["ask", *argv]), "(here: 24)")):
        with pytest.raises(SystemExit):
            main(["--help"])
        assert words in " ".join(capsys.readouterr().out.split())


def test_one_page_at_a_time_and_it_keeps_to_its_folder(a_run, tmp_path, capsys):
    options = ["--rho", str(a_run / "rho.pt"), "--to", str(tmp_path), *CPU, "--n", "2",
               "--truncate_after", "0"]
    server = Page(*options)
    try:
        if page.fcntl is not None:
            assert page.main([*options, "--port", "0"]) == 2
            assert "another page is at work" in one_sentence(capsys)
        with pytest.raises(UserError, match="what the page makes"):
            Answers(tmp_path / "labels.jsonl")
    finally:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=30) == 2


def test_a_network_page_asks_for_a_code_that_stays(tmp_path):
    options = page.read_options(["--rho", "r", "--to", str(tmp_path), "--host",
                                 "0.0.0.0"])
    (tmp_path / "code.txt").write_text("\n")             # as of a full disk
    code = page.code_of(options, tmp_path)
    assert re.fullmatch("[a-z]{8}", code) and page.code_of(options, tmp_path) == code
    assert (tmp_path / "code.txt").stat().st_mode & 0o077 == 0, "for nobody else"
    options.code = "mine"
    assert page.code_of(options, tmp_path) == "mine"
    options.host = "127.0.0.1"
    assert page.code_of(options, tmp_path) == "mine", "who gives one is asked for it"
    options.code = ""
    assert page.code_of(options, tmp_path) is None


def test_the_address_is_one_that_can_be_opened():
    assert page.address_of("127.0.0.1", 8000, None) == "http://127.0.0.1:8000/"
    assert page.address_of("::1", 8000, None) == "http://[::1]:8000/"
    assert page.address_of("192.168.0.7", 80, "a b&c") == (
        "http://192.168.0.7:80/?code=a%20b%26c")
    assert page.address_of("fd00::7", 80, "a") == "http://[fd00::7]:80/?code=a"
    here = socket.gethostname()
    for host in ("0.0.0.0", "::"):
        assert page.address_of(host, 80, "a") == f"http://{here}:80/?code=a"


def test_instructions_are_a_file_or_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("what to do.txt").write_text("Be kind.", "utf-8")
    assert page.read_instructions("what to do.txt") == "Be kind."
    cyrillic = "Выберите лучшее продолжение. " * 10
    for words in ("", "Choose the best.", cyrillic, "Glücklicher?", "最も幸せなもの"):
        assert page.read_instructions(words) == words.strip()
    assert page.read_instructions(" \n") == ""
    with pytest.raises(OSError, match="No such file"):
        page.read_instructions("what.txt")
    for name in ("latin.txt", "what to do.txt"):
        Path(name).write_bytes(b"Caf\xe9")
        with pytest.raises(UserError, match="not UTF-8 text"):
            page.read_instructions(name)


def test_the_training_command_has_the_task():
    cfg = rlhf.Config(rho="rho.pt", task="descriptiveness", temperature=1.0)
    command = page.train_command(cfg, Path("class"))
    assert "--task descriptiveness" in command and "--temperature 1.0" in command
    assert "--response_length" not in command


def polls_of(options, a_run):
    options = page.read_options([*options, "--n", "5"])
    cfg = rlhf.read_config_of(a_run)
    cfg.rho = str(a_run / "rho.pt")
    return page.make_polls(options, cfg, page.People(Path(options.to)))


def test_votes_are_labels_only_with_policy(a_run, tmp_path):
    run, to = ["--out", str(a_run)], ["--to", str(tmp_path)]
    polls = polls_of([*run, *to], a_run)
    assert polls["compare"].people.folder == tmp_path / "votes"
    rho, tokenizer, queries, _ = rlhf.load_rho(a_run / "rho.pt", "cpu")

    def texts(part):
        return {tokenizer.decode(query.tolist())
                for group in queries[part].values() for query in group}
    assert {q.query for q in polls["compare"].questions.values()} <= texts("evaluation")
    assert {q.query for q in polls["label"].questions.values()} <= texts("reward")
    policy = str(a_run / "policy.pt")
    polls = polls_of([*run, *to, "--policy", policy, "--opponent", policy], a_run)
    assert polls["compare"].people is polls["label"].people
    assert {q.query for q in polls["compare"].questions.values()} <= texts("reward")
    assert polls["compare"].models == [policy, policy]
    assert sorted(next(iter(polls["compare"].questions.values())).models) == [0, 0, 1, 1]
    # A vote is in the same file as the labels, and counts there.
    polls["label"].answer("ann", next(iter(polls["label"].questions)), 0, ())
    polls["compare"].answer("ann", next(iter(polls["compare"].questions)), 3, ())
    assert len(read_comparisons(tmp_path / "ann.jsonl")) == 2
    for poll in polls.values():
        assert poll.state("ann")["done"] == 1
    assert polls["label"].state("ann")["last"] is None, "the last one is the other poll's"
    to = ["--to", str(tmp_path / "label alone")]
    assert "compare" not in polls_of(["--rho", str(a_run / "rho.pt"), *to], a_run)


# --- a run looked at --------------------------------------------------------------------

def test_values_by_sampling_are_what_pi_earns(a_run, monkeypatch):
    # Before the last token V is known without sampling: a mean over the vocabulary.
    models = look.models_of(a_run, "cpu")
    sampling = models.sampling._replace(response_length=3)
    models = models._replace(sampling=sampling, beta=2.0)
    T, temperature, truncate = models.sampling
    torch.manual_seed(0)
    with torch.no_grad():
        for p in models.pi.parameters():         # far from rho, so that KL counts
            p += 0.2 * torch.randn_like(p)
        query = next(iter(models.queries.values()))[:1]
        response, _ = look.generate(models.pi, query, T, temperature)
        length = torch.tensor([T])
        start = torch.cat([query, response[:, :-1]], dim=1)
        logp = look.gpt.next_token_logprobs(models.pi, models.pi.hidden(start)[:, -1],
                                            temperature)[0]
        ref = look.gpt.next_token_logprobs(models.rho, models.rho.hidden(start)[:, -1],
                                           temperature)[0]
        reward = look.learned_reward(models.r, models.sampling)
        every = torch.arange(len(logp))[:, None]
        whole = torch.cat([response[:, :-1].expand(len(logp), -1), every], dim=1)
        earned = reward(query.expand(len(logp), -1), whole) - models.beta * (logp - ref)
        exact = (logp.exp() * earned).sum().item()
        assert models.beta * (logp.exp() * (logp - ref)).sum() > 0.5
        monkeypatch.setattr(look, "CONTINUATIONS", 4000)
        values = look.values_by_sampling(models, query, response, T)
    if truncate(response[:, :-1])[1].item():
        pytest.skip("this response ended before its last token")
    assert values.shape == (1, T) and length.item() == T
    assert values[0, -1].item() == pytest.approx(exact, abs=0.2)


def test_token_tables_add_up(a_run, small_look):
    models = look.models_of(a_run, "cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        query = next(iter(models.queries.values()))[:1]
        response, length, _ = look.generate_finished(models.pi, query, models.sampling)
        table = look.token_table(models, query, response, length)
    assert "".join(row["text"] for row in table["tokens"]).strip() == look.texts_of(
        models, response)[0]
    cost = sum(row["pi"] - row["rho"] for row in table["tokens"])
    assert cost == pytest.approx(table["cost"], abs=0.02)
    total = sum(row["reward"] for row in table["tokens"])
    assert total == pytest.approx(table["r"] - models.beta * table["cost"], abs=0.02)


def test_attributions_are_r_with_and_without_a_word(a_run):
    models = look.models_of(a_run, "cpu")
    pieces = look.attributions(models, "He left.", "She didn't smile, but ran.")
    assert "".join(piece for piece, _ in pieces) == "She didn't smile, but ran."
    assert [piece for piece, change in pieces if change is not None] == [
        "She", "didn't", "smile", "but", "ran"]

    def r(text):
        ids = models.tokenizer.encode("He left.") + models.tokenizer.encode(text)
        return models.r(torch.tensor([ids]), torch.tensor([len(ids)])).item()
    changes = {piece: change for piece, change in pieces}
    assert changes["smile"] == pytest.approx(
        r("She didn't smile, but ran.") - r("She didn't, but ran."), abs=0.002)
    assert changes["ran"] == pytest.approx(
        r("She didn't smile, but ran.") - r("She didn't smile, but."), abs=0.002), (
        'not "but .", which rho never wrote')


def test_a_view_is_made_once_and_again_for_other_models(a_run, small_look, tmp_path,
                                                        monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(a_run, run)
    looked = look.Look(run)
    made = looked.kept_view()
    assert (run / "page.json").exists()
    assert len(made["optimum"]) == 3 and len(made["pairs"]) == 2
    assert {len(of_query["texts"]) for of_query in made["optimum"]} == {64}
    assert [best["n"] for best in made["best_of"]] == [2, 4, 16, 64]
    assert [pair["query"] for pair in made["pairs"]] == [
        of_query["query"] for of_query in made["optimum"][:2]]
    said = []
    looked.say = said.append
    assert looked.kept_view() == json.loads(json.dumps(made)) and not said
    weights = torch.load(run / "policy.pt", weights_only=True)
    weights["policy"]["wte.weight"] += 0.01
    torch.save(weights, run / "policy.pt")
    looked.kept_view()
    assert said, "another policy"
    said.clear()
    looked.kept_view()
    assert not said
    monkeypatch.setattr(look, "VERSION", 0)
    looked.kept_view()
    assert said, "another layout of page.json"


def test_what_goes_wrong_with_a_view_is_said(a_run, monkeypatch):
    for error in (UserError("r is damaged"), RuntimeError("out of memory")):
        looked = look.Look(a_run)

        def fails(of_look=None, error=error):
            raise error
        monkeypatch.setattr(looked, "kept_view", fails)
        monkeypatch.setattr(threading, "excepthook", lambda hook: None)
        assert not looked.state(0)["ready"]
        looked.thread.join()
        assert looked.state(0)["status"] == f"The samples could not be made: {error}"


def test_the_device_that_is_given_is_the_views(a_run, tmp_path, monkeypatch, capsys):
    devices = []

    def view_of(folder, device, say):
        devices.append(device)
        return {"optimum": []}
    monkeypatch.setattr(look, "view_of", view_of)
    monkeypatch.setattr(look, "devices", lambda: ["another", "cpu"])
    run, to = tmp_path / "run", str(tmp_path / "run.html")
    shutil.copytree(a_run, run)
    (run / "page.json").unlink(missing_ok=True)
    assert page.main(["--out", str(run), "--save", to, *CPU]) == 0
    (run / "page.json").unlink()
    assert page.main(["--out", str(run), "--save", to]) == 0
    assert devices == ["cpu", "another"]
    capsys.readouterr()
    assert page.main(["--out", str(run), "--save", to, "--device", "abacus"]) == 2
    assert "--device is 'abacus'" in one_sentence(capsys)


def test_a_thinned_run_keeps_its_end():
    for n in (0, 1, 1999, 2000, 2001, 3999, 12345):
        kept = look.thinned(list(range(n)))
        assert len(kept) <= 2000 and kept[-1:] == list(range(n))[-1:]
        assert n > 2000 or len(kept) == n


def test_a_run_at_work_has_its_curves(a_run, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(a_run / "config.json", run)
    looked = look.Look(run)
    assert looked.state(0)["lines"] == 0 and not looked.state(0)["ready"]
    for name, stage in (("rho.pt", "language"), ("labels.jsonl", "answered"),
                        ("reward.pt", "from the labels")):
        assert stage in looked.state(0)["status"]
        shutil.copy(a_run / name, run)
    lines = (a_run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text(lines[0] + "\n" + lines[1][:30])
    state = looked.state(0)
    assert state["lines"] == 1, "half a line waits"
    assert state["curves"][0]["episode"] == 32
    (run / "metrics.jsonl").write_text(lines[0] + "\n" + lines[1] + "\n")
    assert [line["episode"] for line in looked.state(1)["curves"]] == [64]
    assert "when pi is trained" in state["status"]


def test_numbers_that_are_not_finite_are_not_drawn(a_run, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(a_run / "config.json", run)
    lines = ['{"episode": 32, "score": NaN, "kl": 1}', "{}", "[1, 2]",
             '{"episode": 64, "kl": Infinity}', '{"episode": NaN}']
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    state = look.Look(run).state(0)
    assert state["curves"] == [{"episode": 32, "kl": 1}, {"episode": 64}]
    assert state["lines"] == 5
    (run / "metrics.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="metrics.jsonl is damaged"):
        look.Look(run).state(0)


def test_what_is_being_made_is_said_from_the_start(a_run, small_look, tmp_path,
                                                   monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(a_run, run)
    looked, said, go_on = look.Look(run), [], threading.Event()
    monkeypatch.setattr(looked, "make", go_on.wait)
    state = looked.state(0)
    assert not state["ready"] and "made, once" in state["status"]
    go_on.set()
    monkeypatch.setattr(looked, "say", said.append)
    looked.kept_view()
    assert said[0].startswith("Sampling") and looked.status == ""
    assert [line for line in said if "query 2 of 2" in line]


def test_a_saved_page_is_one_small_file(a_run, small_look, tmp_path, capsys, monkeypatch):
    to = tmp_path / "run.html"
    (a_run / "page.json").unlink(missing_ok=True)
    assert page.main(["--out", str(a_run), "--save", str(to)]) == 0
    assert "query 2 of 2" in capsys.readouterr().out, "how far it is"
    html = to.read_text("utf-8")
    data = re.search(r'type="application/json">(.*?)</script>', html, re.DOTALL)[1]
    data = json.loads(data)
    assert len(data["state"]["curves"]) == 2
    assert data["state"]["ready"] and data["state"]["status"] == ""
    assert len(data["view"]["optimum"][0]["r"]) == 64
    elsewhere = html.replace("http://www.w3.org/2000/svg", "")       # only a name
    assert "http" not in elsewhere, "nothing is loaded"
    monkeypatch.setattr(look, "LARGEST_PAGE", len(html.encode()) - 1)
    assert page.main(["--out", str(a_run), "--save", str(to)]) == 0
    assert to.stat().st_size < len(html.encode()), "with fewer samples"
    monkeypatch.setattr(look, "LARGEST_PAGE", 10_000)
    capsys.readouterr()
    assert page.main(["--out", str(a_run), "--save", str(to)]) == 2
    assert "above the 0.0 that a saved page may have" in one_sentence(capsys)
    monkeypatch.undo()
    assert page.main(["--out", str(tmp_path), "--save", str(to)]) == 2
    one_sentence(capsys)


# --- in a browser -----------------------------------------------------------------------

FLAGS = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
         "--disable-background-networking --disable-component-update --disable-sync "
         "--window-size=1200,900").split()


def chromium():
    """Chromium and its driver from the system's packages, and selenium, or a skip."""
    selenium = pytest.importorskip("selenium.webdriver", reason="no selenium here")
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no chromium and chromedriver here")
    return selenium, binary, driver


@pytest.fixture(scope="module")
def one_browser(tmp_path_factory):
    selenium, binary, driver = chromium()
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    browser = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield browser
    browser.quit()


class Window:
    """The browser as a person uses it."""

    def __init__(self, browser):
        self.browser = browser

    def open(self, url):
        self.browser.get("about:blank")          # so that only a # that differs loads too
        self.browser.get(url)

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def text(self, name):
        return self.run("return document.getElementById(arguments[0]).textContent", name)

    def visible(self, name):
        return any(found.is_displayed()
                   for found in self.browser.find_elements("id", name))

    def keys(self, keys):
        """Keys, as they come to whatever has the focus."""
        self.browser.switch_to.active_element.send_keys(keys)

    def key(self, key):
        """One key on the page of a question, and what comes of it."""
        before = self.text("query") + self.text("count")
        self.keys(key)
        wait_until(lambda: self.text("query") + self.text("count") != before)

    def start_as(self, name):
        wait_until(lambda: self.visible("name"))
        self.keys(f"{name}\n")
        wait_until(lambda: self.visible("poll"))

    def size(self, width, height, dark=False):
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1,
            "mobile": width < 500})
        scheme = "dark" if dark else "light"
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def no_errors(self):
        serious = [entry for entry in self.browser.get_log("browser")
                   if entry["level"] == "SEVERE"]
        assert not serious, serious


@pytest.fixture
def window(one_browser):
    window = Window(one_browser)
    window.size(1200, 900)
    one_browser.get_log("browser")               # of earlier tests
    yield window
    one_browser.get("data:text/html,")


def test_twenty_labels_by_keys(window, serve, tmp_path):
    served = serve(asked=MANY, n=25)
    window.open(served.url)
    window.start_as("Ann")
    expected = []
    for i in range(20):
        key = "1234"[i % 4]
        query = window.text("query")
        expected.append((query, i % 4))
        window.key(key)
        on_disk = read_comparisons(tmp_path / "ann.jsonl")
        assert [(c.query, c.best) for c in on_disk] == expected
    assert window.text("count").startswith("question 21 of 25, less than a minute left")
    window.key("u")
    assert window.text("query") == expected[-1][0], "asked again"
    window.key("s")
    window.key("u")                              # takes the skip back
    assert window.text("query") == expected[-1][0]
    serve(asked=MANY, n=25, port=served.port)    # the server and the page begin anew
    window.open(served.url)
    wait_until(lambda: window.visible("poll"))
    assert window.text("count") == "question 20 of 25"
    assert "Ann" in window.text("me"), "who knows the name still"
    window.key("u")
    assert window.text("query") == expected[-2][0]
    expected = expected[:-2]
    for key in "431243":
        expected.append((window.text("query"), int(key) - 1))
        window.key(key)
    window.key("s")                              # the last: 24 are answered
    assert window.text("count").startswith("question 25 of 25")
    expected.append((window.text("query"), 0))
    window.key("1")
    wait_until(lambda: window.visible("result"))
    assert "ann.jsonl" in window.text("result") and "25 of 25" in window.text("count")
    on_disk = read_comparisons(tmp_path / "ann.jsonl")
    assert [(c.query, c.best) for c in on_disk] == expected
    window.no_errors()


def test_on_a_phone_the_next_question_is_in_sight(window, serve):
    window.size(390, 400)
    window.open(serve().url)
    window.start_as("Ann")
    is_open = "return document.getElementById('instructions').open"
    assert window.run(is_open)
    window.run("scrollTo(0, document.body.scrollHeight)")
    window.key("4")
    assert not window.run(is_open), "what to choose by was read"
    window.run("scrollTo(0, document.body.scrollHeight)")
    place = "return document.getElementById('query').getBoundingClientRect().top"
    assert window.run(place) < 0
    window.key("4")
    assert -1 <= window.run(place) < 300
    window.size(1200, 900)


def test_who_has_gone_elsewhere_stays_there(window, serve, looked_at, tmp_path):
    served = serve(look=looked_at)
    window.open(served.url)
    window.start_as("Ann")
    served.close()
    window.keys("3")
    wait_until(lambda: window.visible("trouble"))
    window.browser.find_element("link text", "Look at a run").click()
    there = Served(tmp_path, port=served.port, look=looked_at)
    wait_until(lambda: (tmp_path / "ann.jsonl").read_bytes())
    wait_until(lambda: window.visible("view"))
    time.sleep(0.3)
    assert not window.visible("poll")
    window.browser.find_element("link text", "Label").click()
    wait_until(lambda: window.text("count") == "question 2 of 5")
    there.close()


def test_only_the_skipped_are_left(window, serve, tmp_path):
    window.open(serve().url)
    window.start_as("Bo")
    for key in "s1234":
        window.key(key)
    wait_until(lambda: window.visible("again"))
    window.browser.find_element("id", "again").click()
    wait_until(lambda: window.visible("question"))
    window.key("2")
    wait_until(lambda: window.text("count") == "5 of 5 answered")
    window.no_errors()


def test_keys_that_mean_something_else(window, serve, tmp_path):
    from selenium.webdriver.common.keys import Keys
    window.open(serve().url)
    window.start_as("Ann")
    query = window.text("query")
    for keys in (Keys.F1, Keys.CONTROL + "1" + Keys.NULL, Keys.ALT + "2" + Keys.NULL,
                 Keys.DELETE, Keys.ARROW_LEFT, "5", "x"):
        window.keys(keys)
    held = "new KeyboardEvent('keydown', {key: '1', repeat: true, bubbles: true})"
    window.run(f"document.body.dispatchEvent({held})")
    time.sleep(0.3)
    assert window.text("query") == query and not (tmp_path / "ann.jsonl").read_bytes()
    # Tab and Enter choose, too.
    for _ in range(20):
        window.keys(Keys.TAB)
        if "Sample" in window.run("return document.activeElement.textContent"):
            break
    window.key(Keys.ENTER)
    assert len(read_comparisons(tmp_path / "ann.jsonl")) == 1
    # And the next Tab goes to the next question's first sample.
    assert window.run("return document.activeElement.id") == "query"
    window.keys(Keys.TAB)
    assert window.run("return document.activeElement.textContent").startswith("1Sample")


def test_ten_votes_and_their_win_rate(window, serve, tmp_path):
    served = serve(asked=MANY, n=10, models=("pi", "rho"))
    window.open(served.url + "#compare")
    window.start_as("Ann")
    assert "Two of the four are by pi, two by rho" in window.text("purpose")
    window.keys("r")
    wait_until(lambda: "shows after 10 votes" in window.text("result"))
    sources = {q.query: q.models for q in MANY}
    won = 0
    for i in range(10):
        won += sources[window.text("query")][i % 3] == 0
        window.key("123"[i % 3])
    wait_until(lambda: window.visible("result"))
    low, high = questions.wilson_interval(won, 10)
    said = window.text("result").replace("\u00a0", " ")
    assert (f"pi wins over rho in {10 * won} % (95 % interval {100 * low:.0f} % to "
            f"{100 * high:.0f} %) of 10 questions") in said
    window.no_errors()


def test_a_double_click_and_a_key_held_down_do_one_thing(window, serve, tmp_path):
    window.open(serve(asked=MANY, n=10).url)
    window.start_as("Ann")
    labels = tmp_path / "ann.jsonl"
    for n in (1, 2, 3):
        time.sleep(0.5)
        window.run("document.querySelector('#choices button').click()")
        count = f"question {n + 1} "
        wait_until(lambda: window.text("count").startswith(count))
        window.run("document.querySelector('#choices button').click()")
        time.sleep(0.1)
        assert len(read_comparisons(labels)) == n, "nobody has read the second question"
    time.sleep(0.5)
    window.run("document.getElementById('undo').click()")
    wait_until(lambda: window.text("count").startswith("question 3 "))
    window.run("document.getElementById('undo').click()")
    time.sleep(0.1)
    assert len(read_comparisons(labels)) == 2
    held = """
        const event = new KeyboardEvent("keydown", {key: "Enter", repeat: true,
                                                    bubbles: true, cancelable: true});
        document.getElementById("undo").dispatchEvent(event);
        return event.defaultPrevented;"""
    assert window.run(held)


def test_a_result_that_comes_late_does_not_stand_over_the_next_question(window, serve):
    window.open(serve().url)
    window.start_as("Ann")
    window.run("""
        const send = fetch;
        fetch = async (path, ...rest) => {
          if (path === "/api/results") await sleep(1);
          return send(path, ...rest);
        };""")
    window.keys("r")
    window.key("1")
    time.sleep(1.5)
    assert not window.visible("result")


def test_a_browser_that_keeps_nothing(window, serve):
    refuse = """
        for (const kind of ["localStorage", "sessionStorage"]) {
          Object.defineProperty(window, kind, {get() { throw new Error("refused"); }});
        }"""
    command = "Page.addScriptToEvaluateOnNewDocument"
    script = window.browser.execute_cdp_cmd(command, {"source": refuse})
    try:
        window.open(serve(code="sesame").url)
        wait_until(lambda: window.visible("code"))
        window.keys("Ann\tsesame\n")
        wait_until(lambda: window.visible("poll"))
        window.key("s")
        window.key("1")
    finally:
        window.browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_texts_without_spaces_stay_on_the_page(window, serve):
    samples = ["x" * 400, "幸" * 200, "\u202eright to left", "short"]
    asked = [Question("y" * 300, samples, [0] * 4)]
    window.size(390, 800)
    window.open(serve(asked=asked, n=1).url)
    window.start_as("Ann")
    assert window.run("return document.documentElement.scrollWidth") <= 390
    window.size(1200, 900)


def test_an_answer_that_is_no_json_is_said(window, serve):
    window.open(serve().url)
    window.start_as("Ann")
    window.run("fetch = async () => new Response('<p>proxy</p>')")
    window.keys("1")
    wait_until(lambda: "not one of this page" in window.text("note"))


BAD = ("</script><script>document.title = 'bad'</script>"
       "<img src=x onerror=\"document.title = 'bad'\">")


def test_a_sample_that_is_markup_is_text(window, serve):
    samples = [BAD, "", "<b>b</b>", "&amp;"]
    asked = [Question(f"{BAD} {i}", samples, [0] * 4) for i in range(2)]
    window.open(serve(asked=asked, n=2).url)
    window.start_as("Ann")
    assert window.run("return document.querySelector('#choices span').textContent") == BAD
    assert window.run("return document.querySelector('#poll img, #poll b')") is None
    assert "(nothing)" in window.text("choices") and "&amp;" in window.text("choices")
    window.key("1")
    assert window.browser.title != "bad"


def test_a_server_that_is_away_is_waited_for(window, serve, tmp_path):
    served = serve()
    window.open(served.url)
    window.start_as("Ann")
    served.close()
    query = window.text("query")
    window.keys("3")
    wait_until(lambda: window.visible("trouble"))
    assert "Nothing is lost" in window.text("trouble")
    window.keys("4")                             # waits for the first: it is no answer
    there = Served(tmp_path, port=served.port)
    wait_until(lambda: window.text("query") != query)
    answer, = read_comparisons(tmp_path / "ann.jsonl")
    assert (answer.query, answer.best) == (query, 2)
    there.close()


def test_a_key_waits_for_the_answer_before_it(window, serve, tmp_path):
    window.open(serve().url)
    window.start_as("Ann")
    query = window.text("query")
    sent = window.run("""
        let sent = 0;
        const send = fetch;
        fetch = (...request) => { sent += 1; return send(...request); };
        for (const key of ["3", "4", "s", "u"]) {
          document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
        }
        return sent;""")
    wait_until(lambda: window.text("query") != query)
    answer, = read_comparisons(tmp_path / "ann.jsonl")
    assert sent == 1 and answer.best == 2


def test_a_full_disk_is_said_on_the_page(window, serve, tmp_path, monkeypatch):
    window.open(serve().url)
    window.start_as("Ann")

    def full(fd):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(questions.os, "fsync", full)
    window.keys("1")
    wait_until(lambda: "No space left" in window.text("note"))
    monkeypatch.undo()
    window.key("1")
    assert len(read_comparisons(tmp_path / "ann.jsonl")) == 1


def test_a_code_is_asked_for(window, serve):
    window.open(serve(code="sesame").url)
    wait_until(lambda: window.visible("code"))
    window.keys("Ann\tnot this\n")
    wait_until(lambda: "not the code" in window.text("trouble"))
    window.run("trouble('')")
    window.keys("\tпароль\n")                            # no header has such letters
    wait_until(lambda: "not the code" in window.text("trouble"))
    window.keys("\tsesame\n")
    wait_until(lambda: window.visible("poll"))
    window.open(serve(code="other").url + "?code=other")     # as a link to share
    window.start_as("Ann")
    window.open(serve(code="third").url + "?code=other")     # one of yesterday
    wait_until(lambda: window.visible("code"))
    window.keys("Ann\tthird\n")
    wait_until(lambda: window.visible("poll"))


@pytest.fixture
def looked_at(a_viewed_run):
    """A Look at it."""
    looked = look.Look(a_viewed_run)
    looked.made = looked.kept_view()
    return looked


def check_slider(window, view):
    """The slider's numbers are evaluate.reweighted's, and its text has most weight."""
    r = torch.tensor([of_query["r"] for of_query in view["optimum"]])
    texts = []
    for place in (90, 45, 10):
        window.run("const slider = document.getElementById('beta');"
                   "slider.value = arguments[0];"
                   "slider.dispatchEvent(new Event('input'))", place)
        beta = 0.05 * 400 ** (place / 100)
        reward, kl, samples = [column.mean().item() for column in reweighted(r, beta)]
        shown = [float(window.text(name).replace("\u2212", "-"))
                 for name in ("beta-now", "reward-now", "kl-now", "samples-now")]
        assert shown[0] == pytest.approx(beta, abs=0.06)
        assert shown[1] == pytest.approx(reward, abs=0.006)
        assert shown[2] == pytest.approx(kl, abs=0.006)
        assert shown[3] == pytest.approx(samples, abs=0.51)
        texts.append(window.text("optimum-texts"))
    # exp(1000 / 0.5) is no number; exp(-1 / 0.5) is.
    weights = window.run("return weightsOf([1000, 1001], 0.5)")
    assert weights == pytest.approx([0.1192, 0.8808], abs=1e-4)
    assert "Fewer than 100" in window.text("weak"), "64 there are"
    best = view["optimum"][0]["texts"][int(r[0].argmax())]
    assert texts[-1].startswith(best) and texts[0] != texts[-1]


def test_a_run_is_looked_at(window, serve, looked_at):
    from selenium.webdriver.common.keys import Keys
    window.open(serve(look=looked_at).url + "#look")
    wait_until(lambda: window.visible("view"))
    for name in ("reward-curve", "kl-curve", "beta-curve", "plane"):
        assert window.browser.find_elements("css selector", f"#{name} .curve"), name
    assert "target 3" in window.text("kl-curve") and "nats" in window.text("kl-curve")
    view = looked_at.made
    check_slider(window, view)
    # PPO's path is drawn above rho's reward, which is known when the run has ended.
    paths = "return document.querySelectorAll('#plane .curve[style*=\"--pi\"]').length"
    assert window.run(paths) == 1 and "PPO" in window.text("plane-legend")
    at_work = {**looked_at.state(0), "table": None, "zero_shot": 0.0}
    window.run("showRun(arguments[0]); drawAll()", at_work)
    assert window.run(paths) == 0 and "PPO" not in window.text("plane-legend")
    window.run("showRun(arguments[0]); drawAll()", looked_at.state(0))
    # A token's numbers, by the mouse and by the keys.
    tokens = view["pairs"][0]["pi"]["tokens"]
    spans = window.browser.find_elements("css selector", "#tokens-pi span")
    assert [span.get_property("textContent").strip() for span in spans] == [
        token["text"].strip() for token in tokens]
    webdriver, _, _ = chromium()
    webdriver.ActionChains(window.browser).move_to_element(spans[1]).perform()
    wait_until(lambda: f"value before it {tokens[1]['value']:+.2f}".replace("-", "\u2212")
               in window.text("token"))
    window.run("document.querySelector('#tokens-pi span').focus()")
    window.keys(Keys.ARROW_RIGHT + Keys.ARROW_RIGHT)
    cost = f"costs {tokens[2]['pi'] - tokens[2]['rho']:.2f} nats".replace("-0.00", "0.00")
    assert cost.replace("-", "\u2212") in window.text("token")
    window.run("document.querySelector('input[value=advantage]').click()")
    assert "GAE" in window.text("color-meaning")
    assert f"lambda {view['lam']}" in window.text("color-meaning")
    window.run("document.querySelector('input[value=reward]').click()")
    assert f"\u2212{view['beta']:.3f} (the run" in window.text("color-meaning")
    assert (window.text("scale-low"), window.text("scale-high")) == ("\u22121", "+1")
    query = window.text("optimum-query")
    window.browser.find_element("id", "next").click()
    assert window.text("optimum-query") == view["optimum"][1]["query"] != query
    # The optimum has more queries than there are pairs.
    assert len(view["optimum"]) > len(view["pairs"])
    window.run("const select = document.getElementById('optimum-which');"
               "select.value = 2; select.dispatchEvent(new Event('change'))")
    assert window.text("optimum-query") == view["optimum"][2]["query"]
    assert "change" in window.text("raise") and "times" in window.text("raise")
    # The firm part of the frontier ends where the dotted one begins.
    samples = "[512, 120, 99, 101, 3].map(samples => ({samples}))"
    parts = window.run(f"return splitAtFirm({samples})")
    assert [[row["samples"] for row in part] for part in parts] == [
        [512, 120, 99], [99, 101, 3]]
    assert window.run("return splitAtFirm([{samples: 512}])") == [[{"samples": 512}], []]
    assert "pi over zero-shot" in window.text("table")
    window.no_errors()


@pytest.mark.parametrize("width", [390, 1200, 1920])
def test_labels_in_the_plane_stand_clear_of_each_other(width, window, serve, looked_at):
    window.size(width, 900)
    window.open(serve(look=looked_at).url + "#look")
    wait_until(lambda: window.visible("view"))
    # The default run's: pi ends beside the best of 64.
    best_of = [{"n": n, "kl_bound": kl, "gain": gain} for n, kl, gain in (
        (2, 0.19, 0.53), (4, 0.64, 0.95), (16, 1.84, 1.58), (64, 3.17, 2.03))]
    window.run("view.best_of = arguments[0]; view.rho.reward = 0;"
               "view.pi = {kl: 2.97, reward: 1.97}; drawOptimum()", best_of)
    labels = window.run("""
        return [...document.querySelectorAll("#plane .mark")].map(label => {
          const {left, right, top, bottom} = label.getBoundingClientRect();
          return [label.textContent, left, right, top + 4, bottom - 4];
        }).filter(([text]) => text);""")
    assert sorted(label[0] for label in labels) == ["16", "2", "4", "64", "pi", "rho"]
    for i, (a, left, right, top, bottom) in enumerate(labels):
        for b, left_b, right_b, top_b, bottom_b in labels[:i]:
            beside = right <= left_b or right_b <= left
            above = bottom <= top_b or bottom_b <= top
            assert beside or above, (a, b)
    window.size(1200, 900)


def test_a_run_at_work_is_watched(window, serve, a_run, tmp_path):
    run = tmp_path / "at work"
    run.mkdir()
    shutil.copy(a_run / "config.json", run)
    lines = (a_run / "metrics.jsonl").read_text().splitlines()
    window.open(serve(look=look.Look(run)).url + "#look")
    wait_until(lambda: "No update" in window.text("status"))
    for n in (1, 2):
        (run / "metrics.jsonl").write_text("\n".join(lines[:n]) + "\n")
        wait_until(lambda: f"episode {32 * n}." in window.text("status"))
    (run / "metrics.jsonl").write_text(lines[0] + "\n")      # as after a checkpoint
    wait_until(lambda: "episode 32." in window.text("status"))
    window.no_errors()


def test_a_saved_page_needs_no_server(window, looked_at, tmp_path):
    view = json.loads(json.dumps(looked_at.made))
    view["optimum"][0]["query"] = BAD
    view["optimum"][0]["texts"] = [BAD + text for text in view["optimum"][0]["texts"]]
    view["pairs"][0]["pi"]["tokens"][0]["text"] = BAD
    looked_at.made = view
    looked_at.kept_view = lambda: view
    to = tmp_path / "run.html"
    look.save_page(looked_at, page.PAGE.read_text("utf-8"), to)
    window.open(to.as_uri())
    wait_until(lambda: window.visible("view"))
    check_slider(window, view)
    assert not window.run("return [...document.querySelectorAll('header a')].some("
                          "a => a.hash !== '#look' && !a.hidden)")
    assert window.browser.title != "bad" and BAD in window.text("tokens-pi")
    window.no_errors()


# The contrast of each text with what is behind it, and its size, for all that is shown.
READABLE = """
const numbers = color => color.match(/[0-9.]+/g).map(Number);
const light = ([r, g, b]) => [.2126, .7152, .0722].reduce((sum, share, i) => {
  const c = [r, g, b][i] / 255;
  return sum + share * (c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
}, 0);
function behind(element) {
  const layers = [];
  for (; element; element = element.parentElement) {
    const color = numbers(getComputedStyle(element).backgroundColor);
    layers.push([...color.slice(0, 3), color.length > 3 ? color[3] : 1]);
  }
  return layers.reverse().reduce((below, [r, g, b, a]) =>
    [r, g, b].map((c, i) => a * c + (1 - a) * below[i]), [255, 255, 255]);
}
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !element.getClientRects().length || element.closest(":disabled")) continue;
  const style = getComputedStyle(element);
  const svg = element instanceof SVGElement;
  const [a, b] = [light(numbers(svg ? style.fill : style.color)), light(behind(element))];
  const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (contrast < 4.5 || parseFloat(style.fontSize) < 16) {
    const start = element.textContent.slice(0, 40);
    found.push(`${start}: ${contrast.toFixed(2)}, ${style.fontSize}`);
  }
}
return found;
"""


@pytest.mark.parametrize("width, height, dark", [
    (1200, 900, False), (1200, 900, True), (360, 740, False), (1920, 1080, False)])
def test_every_view_is_readable(width, height, dark, window, serve, looked_at):
    window.size(width, height, dark)
    served = serve(asked=MANY, n=10, look=looked_at, models=("pi", "rho"))
    window.open(served.url + "#compare")
    window.start_as("Ann")
    for view in ("compare", "look"):
        window.open(served.url + "#" + view)
        wait_until(lambda: window.visible("view" if view == "look" else "poll"))
        assert window.run(READABLE) == []
        assert window.run("return document.documentElement.scrollWidth") <= width
    heights = window.run("return [...document.querySelectorAll('#raise th[scope=row]')]"
                         ".map(word => word.offsetHeight)")
    assert heights and max(heights) < 50, "no word of the table is broken"
    window.size(1200, 900)
