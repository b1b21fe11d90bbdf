"""
test_notebooks.py: the course does what it says. Its notebooks come from their sources,
its checks tell right from wrong, its loop is rlhf.py's, and its solutions run.

The last of these takes some minutes, and makes out/course if it is not there. Skipped
where nbformat, nbclient or ipykernel is not installed.
"""

import json
import math
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("nbformat", reason="nbformat is not installed")
pytest.importorskip("IPython", reason="IPython is not installed")
FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

import matplotlib

matplotlib.use("Agg")                    # no window, where the course draws

import build
import checks
import course
import evaluate
import gpt
import nbformat
import ppo
import reward
import rlhf
from text import QuerySampler, truncate_at_period

SESSIONS = [path for path in build.SOURCES if path.stem[0].isdigit()]
EXERCISES = [(path, cell) for path in build.SOURCES for cell in build.read_cells(path)
             if cell.kind == "exercise"]


def name_of(value):
    return value.stem if isinstance(value, Path) else value.name


@pytest.fixture(autouse=True)
def the_projects_own_functions():
    """Whatever a test puts in their place, they are back after it."""
    yield
    for exercise in checks.EXERCISES.values():
        checks.restore(exercise)


# --- sources and notebooks --------------------------------------------------------------

def test_a_blank_and_its_solution_by_hand():
    source = "def f(x):\n    # solution\n    y = x\n    return y\n    # end\n"
    assert build.blank(source) == "def f(x):\n    # Your lines here.\n    ..."
    assert build.solved(source) == "def f(x):\n    y = x\n    return y"


@pytest.mark.parametrize("path", build.SOURCES, ids=name_of)
def test_exercises_come_from_their_source_without_outputs(path):
    ours = nbformat.read(FOLDER / f"{path.stem}.ipynb", as_version=4)
    assert ours == build.notebook(path, build.blank), "run notebooks/build.py"
    assert not any(cell.get("outputs") for cell in ours.cells)


@pytest.mark.parametrize("path", build.SOURCES, ids=name_of)
def test_solutions_come_from_their_source_and_ran(path):
    solution = nbformat.read(FOLDER / "solutions" / f"{path.stem}.ipynb", as_version=4)
    wanted = build.notebook(path, build.solved)
    assert ([(cell.cell_type, cell.source, cell.metadata) for cell in solution.cells]
            == [(cell.cell_type, cell.source, cell.metadata) for cell in wanted.cells])
    outputs = [out for cell in solution.cells for out in cell.get("outputs", [])]
    assert outputs
    assert not any(out.output_type == "error" for out in outputs)


@pytest.mark.parametrize("path", SESSIONS, ids=name_of)
def test_a_session_is_no_longer_than_two_hours_allow(path):
    cells = build.read_cells(path)
    prose = " ".join(cell.source for cell in cells if cell.kind == "markdown")
    code = "\n".join(cell.source for cell in cells if cell.kind != "markdown")
    assert len(cells) <= 40
    assert len(prose.split()) <= 1500
    assert len(re.findall(r"^\s*assert\b", code, re.MULTILINE)) <= 40


@pytest.mark.parametrize("path", SESSIONS, ids=name_of)
def test_an_exercise_says_how_hard_it_is_and_has_a_hint(path):
    cells = build.read_cells(path)
    places = [i for i, cell in enumerate(cells) if cell.kind == "exercise"]
    assert places
    for i in places:
        before = [cell.source for cell in cells[:i] if cell.kind == "markdown"][-1]
        assert re.search(r"Difficulty \d of 5 · importance \d of 5 · \d+ minutes", before)
        assert "<summary>Hint</summary>" in before
        assert cells[i + 1].kind == "check" and cells[i + 1].name == cells[i].name


def test_every_blank_of_the_course_is_there():
    written = {cell.name for _, cell in EXERCISES}
    assert written == set(checks.EXERCISES) | {"diagnosis"}


# --- checks -----------------------------------------------------------------------------

def defined(source):
    """What a cell of an exercise defines."""
    names = {"torch": torch, "F": F, "math": math}
    exec(source, names)
    return names


def verdict(cell, source, capsys):
    names = defined(source)
    capsys.readouterr()
    if cell.name == "diagnosis":
        checks.check_diagnosis(names["answers"])
    else:
        checks.check(names[cell.name])
    return capsys.readouterr().out


@pytest.mark.parametrize("cell", [cell for _, cell in EXERCISES], ids=name_of)
def test_a_blank_fails_and_its_solution_passes(cell, capsys):
    assert verdict(cell, build.blank(cell.source), capsys).startswith("not yet")
    assert verdict(cell, build.solved(cell.source), capsys).startswith("right")
    assert verdict(cell, build.blank(cell.source), capsys).startswith("not yet")


@pytest.mark.parametrize("name", checks.EXERCISES)
def test_wrong_variants_are_refused_each_by_its_own_lesson(name):
    exercise = checks.EXERCISES[name]
    assert len(exercise.mistakes) >= 5
    for mistake in exercise.mistakes:
        assert checks.complaint_about(mistake.function, exercise) == mistake.lesson


@pytest.mark.parametrize("name", checks.EXERCISES)
def test_examples_are_right(name):
    exercise = checks.EXERCISES[name]
    for example in exercise.examples:
        found = checks.result_of(exercise.ours, exercise, example.arguments)
        assert checks.alike(found, example.wanted, exercise.atol), example.words


def test_a_mistake_that_nobody_foresaw_is_refused_too():
    complaint = checks.complaint_about(lambda r, b: r.mean(), checks.BEST_OF_FOUR)
    assert complaint == "for r = (0, 0, 0, 0) and any b it gives 0.0, and 1.386 is right"
    complaint = checks.complaint_about(lambda q, k, v: missing, checks.ATTENTION)
    assert "it stops with NameError: name 'missing' is not defined" in complaint


def test_a_wrong_shape_is_named():
    complaint = checks.complaint_about(
        lambda logprobs: torch.multinomial(logprobs.exp(), 1)[:, 0], checks.SAMPLE)
    assert "(20000,)" in complaint


def test_a_missing_result_and_an_update_of_nothing_are_named():
    complaint = checks.complaint_about(lambda *given: ppo.policy_loss(*given)[0],
                                       checks.POLICY_LOSS)
    assert complaint == "it calls the project's own function; write it yourself"
    complaint = checks.complaint_about(lambda now, old, A, clip: -A.mean(),
                                       checks.POLICY_LOSS)
    assert complaint == "it gives one result in place of 2 results"

    class Idle:
        def __init__(self, beta, target, K):
            self.beta = beta

        def update(self, kl):
            return self.beta * 1.02

    complaint = checks.complaint_about(Idle, checks.CONTROLLER)
    assert complaint == "`update` leaves self.beta as it is"
    complaint = checks.complaint_about(lambda r, tokens, lengths: (1.0, 0.0),
                                       checks.NORMALIZE)
    assert complaint == "it leaves r.gain and r.bias as they are"


def test_the_students_function_takes_the_place_of_ours(capsys):
    def gae(rewards, values, lam):
        return ours(rewards, values, lam)

    ours = ppo.gae
    checks.check(gae)
    assert ppo.gae is gae
    gae_that_is_wrong = checks.no_lambda
    gae_that_is_wrong.__name__ = "gae"
    checks.check(gae_that_is_wrong)
    assert ppo.gae is ours
    checks.check(ours)
    assert "the project's own function" in capsys.readouterr().out


def test_a_gradient_that_is_wrong_is_found_and_named():
    def turned(now, old, A, clip):
        right, share = ppo_policy_loss(now, old, A, clip)
        return 2 * right.detach() - right, share

    ppo_policy_loss = ppo.policy_loss
    complaint = checks.complaint_about(turned, checks.POLICY_LOSS)
    assert complaint == ("on a ratio of 1.5, A = -1, clip .2 the loss is right, but its "
                         "gradient is not: [-1.5], and [1.5] is right")

    def by_lists(now, old, A, clip):
        change = (now - old).flatten().tolist()
        ratio = [math.exp(one) for one in change]
        pairs = [(-a * r, -a * min(1 + clip, max(1 - clip, r)))
                 for a, r in zip(A.flatten().tolist(), ratio)]
        return (torch.tensor(sum(max(pair) for pair in pairs) / len(pairs)),
                torch.tensor(sum(c > u for u, c in pairs) / len(pairs)))

    complaint = checks.complaint_about(by_lists, checks.POLICY_LOSS)
    assert complaint == checks.NO_GRADIENT


def test_a_wrong_loss_gets_its_lesson_whatever_share_comes_with_it():
    def clipped_term(now, old, A, clip):
        ratio = torch.exp(now - old)
        return (-A * ratio.clamp(1 - clip, 1 + clip)).mean(), torch.zeros(())

    complaint = checks.complaint_about(clipped_term, checks.POLICY_LOSS)
    assert complaint.startswith("this is the clipped term alone:")

    def smaller(now, old, A, clip):
        unclipped, clipped = checks.losses_of(torch.exp(now - old), A, clip)
        return (torch.minimum(unclipped, clipped).mean(),
                (clipped < unclipped).float().mean())

    complaint = checks.complaint_about(smaller, checks.POLICY_LOSS)
    assert complaint.startswith("the smaller of the two losses.")


def test_arguments_must_stay_as_they_are():
    def in_place(score, logprobs, ref_logprobs, beta, mask):
        rewards = logprobs
        rewards -= ref_logprobs
        rewards *= -beta * mask
        rewards[torch.arange(len(score)), mask.sum(dim=1) - 1] += score
        return rewards

    complaint = checks.complaint_about(in_place, checks.TOKEN_REWARDS)
    assert complaint == "it changes its argument logprobs; work on a copy"


def test_constants_of_the_examples_do_not_pass():
    def always_fifth(now, old, A, clip):
        return ours(now, old, A, 0.2)

    ours = ppo.policy_loss
    assert "random input" in checks.complaint_about(always_fifth, checks.POLICY_LOSS)
    theirs = ppo.gae
    for lam in (0.5, 0.8, 0.95):
        fixed = lambda rewards, values, _: theirs(rewards, values, lam)
        assert checks.complaint_about(fixed, checks.GAE) is not None
    controller = ppo.AdaptiveKL
    fixed = lambda beta, target, K: controller(beta, 3.0 if target else 0.0, 0.1)
    assert "random input" in checks.complaint_about(fixed, checks.CONTROLLER)


def test_calling_ours_is_refused():
    complaint = checks.complaint_about(lambda *given: ppo.gae(*given), checks.GAE)
    assert complaint == "it calls the project's own function; write it yourself"


# --- logs -------------------------------------------------------------------------------

def test_each_wrong_diagnosis_is_told_where_to_look(capsys):
    runs = json.loads((FOLDER / "broken_runs.json").read_text("utf-8"))
    bugs = {letter: one["bug"] for letter, one in runs.items() if letter != "healthy"}
    assert set(bugs.values()) == set(checks.WHERE_TO_LOOK)
    for letter in bugs:
        for wrong in checks.WHERE_TO_LOOK:
            checks.check_diagnosis({**bugs, letter: wrong})
            said = capsys.readouterr().out
            if wrong == bugs[letter]:
                assert said == "right: all six\n"
            else:
                assert said == (f"not yet: {letter} is not that. "
                                f"{checks.WHERE_TO_LOOK[bugs[letter]]}\n")


def test_the_logs_show_what_students_are_told():
    runs = json.loads((FOLDER / "broken_runs.json").read_text("utf-8"))
    logs = {one["bug"]: one["log"] for one in runs.values()}
    healthy = logs["nothing"]
    assert abs(healthy[0]["kl"]) < 0.01 and healthy[0]["approx_kl"] < 0.05
    dropout = logs["dropout is on"][0]
    assert abs(dropout["kl"]) < 0.01
    assert dropout["approx_kl"] > 3 * healthy[0]["approx_kl"]
    assert 0.3 < logs["the temperature is forgotten in scoring"][0]["kl"] < 3
    assert logs["r is not normalized"][0]["score"] < -1.5
    assert logs["r is not normalized"][-1]["kl"] > 1.3 * 3 > 3 > healthy[-1]["kl"]
    paid = logs["the KL has the wrong sign"]
    assert paid[-1]["kl"] > 20 and paid[-1]["beta"] > paid[0]["beta"]
    cut = logs["the query is cut wrong"]
    assert abs(cut[0]["kl"]) < 0.01 and cut[0]["finished"] < 0.7 < healthy[0]["finished"]
    wrong_token = logs["the score is at the wrong token"]
    assert wrong_token[-1]["score"] < 0.5 * healthy[-1]["score"]
    assert wrong_token[-1]["explained_variance"] < 0.3


# --- the loop ---------------------------------------------------------------------------

def test_the_loop_of_session_3_is_rlhfs(tmp_path):
    """The cell as it stands, and rlhf.train_policy, from the same seed: equal logs."""
    torch.manual_seed(0)
    rho = gpt.GPT(vocab_size=50, block_size=20, n_layer=1, n_head=2, n_embd=16)
    queries = {n: torch.randint(50, (30, n)) for n in (3, 5)}
    truncate = partial(truncate_at_period, period=7, after=4)
    sampling = gpt.Sampling(response_length=8, temperature=0.7, truncate=truncate)
    cfg = rlhf.Config(episodes=96, batch_size=16, kl_target=0.05, out=str(tmp_path),
                      device="cpu")

    def even_tokens(query, response):
        return (response % 2 == 0).float().mean(dim=1)

    loop, = [cell.source for cell in build.read_cells(FOLDER / "source" / "3_ppo.py")
             if "to_zero = LinearLR(" in cell.source]
    log = []
    names = {"torch": torch, "ppo": ppo, "gpt": gpt, "evaluate": evaluate, "cfg": cfg,
             "rho": rho, "reward": even_tokens, "sampling": sampling, "said": {},
             "sampler": QuerySampler(queries, "cpu"), "say": lambda pi: None,
             "LinearLR": rlhf.LinearLR,
             "course": SimpleNamespace(
                 PI="", REWARD="", VALUE="",
                 LivePlot=lambda panels: SimpleNamespace(add=log.append, log=log))}
    exec(loop, names)

    evaluate.seeded(cfg.seed, "policy")
    rlhf.train_policy(cfg, rho, even_tokens, None, queries, sampling, rlhf.Progress(""))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    theirs = [json.loads(line) for line in lines]
    assert len(theirs) == len(log) == 6
    assert theirs[-1]["kl"] > 0
    for ours, line in zip(log, theirs):
        assert ours == {key: pytest.approx(line[key], rel=1e-6, abs=1e-9) for key in ours}
    lines = [line for line in loop.split("\n") if line.strip()]
    body = [line for line in lines[lines.index("for update in range(updates):") + 1:]]
    assert len(body) <= 32


# --- solutions --------------------------------------------------------------------------

def printed(book):
    """What the cells of a notebook printed."""
    texts = []
    for cell in book.cells:
        for out in cell.get("outputs", []):
            texts.append(out.get("text", ""))
            texts.append(out.get("data", {}).get("text/plain", ""))
    return "\n".join(texts)


# Numbers in the prose that nothing prints: the paper's, or such as a reader chooses; and
# those of sections and exercises, which only look like decimals.
CITED = {"38 %": "the paper, table 9", "30 %": "a setting of a homework"}
CITED |= dict.fromkeys(["2.1", "2.2", "2.4", "3.1", "3.2", "4.4"], "a section")
CITED |= dict.fromkeys(["1.1", "1.2", "1.3", "3.3", "4.1", "4.2", "4.3"], "an exercise")
NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+|\d*\.\d+|\d+(?= ?\\?%))(?: ?\\?%)?"


def numbers_in(words):
    """Decimals, percentages, and thousands with a comma."""
    return [number.replace("\\", "") for number in re.findall(NUMBER, words)]


def without_a_source(prose, sources):
    """The numbers of the prose that stand nowhere in the sources."""
    known = set()
    for number in re.findall(r"\d[\d,_]*\.?\d*|\.\d+", sources):
        number = number.replace(",", "").replace("_", "").rstrip(".")
        known.add(float(number))
    missing = []
    for number in numbers_in(prose):
        value = abs(float(number.strip(" %").replace(",", "")))
        if number not in CITED and value not in known:
            missing.append(number)
    return missing


def test_a_number_without_a_source_is_found():
    prose = "r has .73 of it, or 12 %, of 1,500"
    assert without_a_source(prose, "a 0.73 b 12%") == ["1,500"]
    assert without_a_source("two of 3, version 2.1", "2.1") == []
    assert without_a_source("it is 0.41", "it is 0.42") == ["0.41"]


def value_after(words, text):
    return float(re.search(re.escape(words) + r"\s*([-+]?\d*\.?\d+(?:e-?\d+)?)", text)[1])


def facts_of_1(said):
    assert value_after("rows that agree:", said) > 50
    before, other = re.search(r"before a name (\.?\d+\.\d+) .*another word (\d+\.\d+)",
                              said).groups()
    assert abs(float(before) - float(other)) < 0.2
    assert value_after("largest difference to what the sampler knew:", said) < 1e-2


def facts_of_2(said):
    assert value_after("read at the last real token  by", said) == 0
    assert value_after("read at the padded end       by", said) > 0.05
    assert value_after("correlation of r and the true reward:", said) > 0.6
    losses = re.findall(r"epochs: \d; loss (\d\.\d+) on the labels, in the last, "
                        r"and (\d\.\d+) held out", said)
    seen, unseen = zip(*[(float(a), float(b)) for a, b in losses])
    assert seen[0] > seen[1] > seen[2] and unseen[2] > unseen[0]


def facts_of_3(said):
    noise = [float(v) for v in re.findall(r"variance of one sample +(\d+\.\d+)", said)]
    assert noise[1] > 5 * noise[2]
    after = {name: (float(a), float(b)) for name, a, b in re.findall(
        r"(REINFORCE, r \+ 3|less a baseline|8 steps, \w+) +after 10 updates ([-+.\d]+), "
        r"after 39 ([-+.\d]+)", said)}
    assert after["REINFORCE, r + 3"][1] < after["less a baseline"][1]
    assert after["8 steps, unclipped"][1] < after["8 steps, clipped"][1]
    assert after["8 steps, clipped"][0] > after["less a baseline"][0]
    assert after["8 steps, clipped"][1] > after["less a baseline"][1]
    slow = re.search(r"rate: unclipped ([-+.\d]+), clipped ([-+.\d]+)", said).groups()
    assert abs(float(slow[0]) - float(slow[1])) < 0.01
    reached, best = re.search(r"PPO (\d\.\d+), best (\d\.\d+);", said).groups()
    assert float(reached) > 0.97 * float(best)


def facts_of_4(said):
    rooms = {(noise, K): (float(a), float(b)) for noise, K, a, b in re.findall(
        r"noise (\d\.\d), K = (\S+) +(\d+\.\d+) +(\d+\.\d+)", said)}
    assert rooms["0.0", "2"][0] < rooms["0.0", "0.1"][0]
    assert rooms["0.3", "2"][1] > 3 * rooms["0.3", "0.1"][1]
    assert value_after("KL(pi by DPO, pi_opt) =", said) < 0.05
    assert value_after("KL(rho, pi_opt) =", said) > 0.2
    assert abs(value_after("highest KL with noise: K = .1", said) - 16) < 1
    (r, true, kl), (r_dpo, true_dpo, kl_dpo) = [
        [float(v) for v in row] for row in re.findall(
            r"(?:PPO|DPO)  r ([-+.\d]+)   true ([-+.\d]+)   KL +(\d+\.\d+)", said)]
    assert r > r_dpo > 0 and true > true_dpo > 0 and 0.7 < kl_dpo / kl < 1.6
    a, b = re.findall(r"true ([-+]\d\.\d+), KL \d", said)
    assert float(a) < 0 < float(b)


def facts_of_appendix(said):
    low, high = re.search(r"entropy lies between (\d\.\d+) and (\d\.\d+)", said).groups()
    assert float(low) < float(high)


FACTS = {"1": facts_of_1, "2": facts_of_2, "3": facts_of_3, "4": facts_of_4,
         "a": facts_of_appendix}


@pytest.mark.parametrize("path", build.SOURCES, ids=name_of)
def test_a_solution_runs_and_shows_what_its_prose_says(path):
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    book = build.run(build.notebook(path, build.solved), FOLDER / "solutions")
    for cell in book.cells:
        if "check" in cell.metadata.get("tags", []):
            assert cell.outputs[0].text.startswith("right")
    said = printed(book)
    prose = "\n".join(c.source for c in book.cells if c.cell_type == "markdown")
    code = "\n".join(c.source for c in book.cells if c.cell_type == "code")
    examples = (FOLDER / "checks.py").read_text("utf-8")
    assert without_a_source(prose, said + code + examples) == []
    FACTS[path.stem[0]](said)
