"""
rlhf.py: the whole experiment, from nothing to a policy that labelers prefer.

Paper: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", 3.1's tasks by
steps 1 to 3 of section 2: a language model rho, labels of its samples, a reward r, a policy pi.

    python rlhf.py                               sentiment, every stage
    python rlhf.py --task descriptiveness        the second style task; --quick: in miniature
    python rlhf.py sample --prompt "Mara the baker came to the harbor one morning."
    python rlhf.py figure 2                      a figure or table of the paper: see figures.py

Out: a folder, out/<task>-seed<seed>/, see README.md. A stage whose result is in it, made by the
same settings, is not run again.
"""

import argparse
import hashlib
import json
import math
import os
import pickle
import random
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import figures
import gpt
import reward
import stories
from gpt import Complaint, watch
from ppo import (Policy, cut_at, opinion_rule, period_rule, ppo, questions, samples,
                 side_by_side)

STAGES = ["language_model", "labels", "reward_model", "policy", "evaluation"]


def option(stage, default, text):
    """A field of Config: the stage it first matters to, its default, and what --help says of it."""
    return field(default=default, metadata={"stage": stage, "help": text})


@dataclass
class Config:
    """Every setting. paper: the 774M runs. released: the released code, 124M. --help prints all."""
    seed: int = option("language_model", 0, "of all chance in the run")
    model: str = option("language_model", "", "rho.pt of another run, instead of training one")
    text: str = option("language_model", "", "a text file to learn from, instead of the stories")
    passages: int = option("language_model", 20000, "stories to write")
    share: float = option("language_model", 0.1, "of the text, each for labels, pi, evaluation")
    vocabulary: int = option("language_model", 1536, "tokens of the BPE; GPT-2: 50,257")
    layers: int = option("language_model", 2, "paper: 36; released: 12")
    heads: int = option("language_model", 4, "paper: 20; released: 12")
    width: int = option("language_model", 128, "paper: 1280; released: 768")
    query_min: int = option("language_model", 9, "tokens of the shortest query; paper: 32")
    query_max: int = option("language_model", 14, "tokens of the longest query; paper: 64")
    response: int = option("language_model", 24, "tokens of a response; paper and released: 24")
    lm_steps: int = option("language_model", 2500, "steps of training rho")
    lm_batch: int = option("language_model", 16, "windows a step")
    lm_lr: float = option("language_model", 6e-3, "peak learning rate of rho")

    task: str = option("labels", "sentiment", "what labelers like: sentiment or descriptiveness")
    labels: str = option("labels", "", "a file of comparisons, instead of simulated labelers")
    n_labels: int = option("labels", 12000, "to train r on, of --labels at most; paper: 5,000 on")
    temperature: float = option("labels", 0.7, "divides the logits; paper, released: 0.7")
    truncate_after: int = option("labels", 16, "y ends at a period from here on; paper: 16")

    reward: str = option("reward_model", "learned", "or true, reviews; with a minus: section 4.4")
    reward_lr: float = option("reward_model", 1e-3, "falls to 0; paper: 1.77e-5; released: 5e-5")
    reward_batch: int = option("reward_model", 8, "comparisons a step; paper: 8; released: 32")
    online: int = option("reward_model", 0, "times r is trained, once before pi is; paper: 20")

    shared: int = option("policy", 0, "1: r and pi on one trunk, which the paper advises against")
    episodes: int = option("policy", 24576, "paper: 2M; released: 1M")
    batch: int = option("policy", 128, "episodes an update; paper: 1024; released: 512")
    minibatches: int = option("policy", 1, "Adam steps an epoch; paper and released: 1")
    epochs: int = option("policy", 4, "passes over each batch; paper and released: 4")
    lr: float = option("policy", 2e-4, "falls to 0; paper: 1.41e-5; released: 1e-5")
    kl_target: float = option("policy", 3.0, "nats; 0: fixed beta; paper: 10, 6; released: 6")
    beta: float = option("policy", 0.3, "first price of a nat, in units of reward; released: 0.15")
    K: float = option("policy", 0.1, "step of beta; paper: 0.1; released: batch / 10,000 = 0.051")
    clip: float = option("policy", 0.2, "of ratio and value; released: 0.2")
    lam: float = option("policy", 0.95, "GAE's lambda; released: 0.95")
    vf_coef: float = option("policy", 0.5, "weight of the value loss; PPO2: 0.5; released: 0.1")
    whiten_rewards: int = option("policy", 0, "1: divide rewards by their deviation, as released")

    against: str = option("evaluation", "", "policy.pt of another run, to be compared with")
    evaluations: int = option("evaluation", 1024, "held-out queries of an evaluation; paper: 1024")
    supervised_lr: float = option("evaluation", 5e-4, "of rho tuned on the winners; 0: no baseline")
    optimum_queries: int = option("evaluation", 64, "where the optimum is estimated; 0: nowhere")
    optimum_samples: int = option("evaluation", 512, "samples of rho for each of them")
    device: str = option("run", "", "cpu, cuda or mps; the best one present if not given")
    out: str = option("run", "", "folder of the run; out/<task>-seed<seed> if not given")


QUICK = dict(passages=4000, lm_steps=250, n_labels=500, episodes=1280, evaluations=128,
             optimum_queries=16, optimum_samples=128)


# --- files, and what need not be made again -------------------------------------------------------

def settings_of(cfg, stage):
    """All settings that the stage's result depends on, files by their content."""
    before = STAGES[:STAGES.index(stage) + 1]
    found = {f.name: getattr(cfg, f.name) for f in fields(cfg) if f.metadata["stage"] in before}
    for name in {"model", "text", "labels", "against"} & found.keys():
        if found[name]:
            found[name] = hashlib.sha256(Path(found[name]).read_bytes()).hexdigest()
    return found


@contextmanager
def reading(path):
    """Whatever is wrong with a file that a run has written, it is one sentence."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError,
            pickle.UnpicklingError) as e:
        raise Complaint(f"{path}: damaged or of another model ({type(e).__name__}); delete it to "
                        "have it made again, if it is the run's own") from None


def save(path, **parts):
    gpt.write_whole(path, lambda name: torch.save(parts, name))


def load(path, part, module):
    """The module, where it is, with the weights that `save` saved under this name."""
    with reading(path):
        module.load_state_dict(torch.load(path, weights_only=True, map_location="cpu")[part])
    return module


def write_json(path, value):
    gpt.write_whole(path, lambda name: Path(name).write_text(json.dumps(value, indent=1) + "\n"))


def read_json(path, default=None):
    """A file that write_json wrote; all of them hold the run's settings."""
    if default is not None and not os.path.exists(path):
        return default
    with reading(path):
        found = json.loads(Path(path).read_text())
        return found | {"config": found["config"]}


def stage(cfg, name, artefact, make, load, given=""):
    """The stage's result: loaded if it was made by these settings, else made and remembered.
    make(path) writes the artefact, or it is the `given` file; load(path) reads it."""
    path, note = os.path.join(cfg.out, artefact), os.path.join(cfg.out, "config.json")
    known, wanted = read_json(note, {"stages": {}}), settings_of(cfg, name)
    if os.path.exists(path) and known["stages"].get(name, {}).get("settings") == wanted:
        print(f"{name}: kept, {path} was made by these settings")
        with reading(path):
            return load(path)
    if given:
        load(given)                                          # or a complaint, and nothing is lost
        make = lambda path: gpt.write_whole(
            path, lambda name: Path(name).write_bytes(Path(given).read_bytes()))
    known["config"] = asdict(cfg)
    for later in STAGES[STAGES.index(name):]:          # what was made from the old one is old too
        known["stages"].pop(later, None)
    write_json(note, known)                  # a run cut short here leaves nothing that looks whole
    torch.manual_seed(1000 * cfg.seed + STAGES.index(name))
    start = time.time()
    make(path)
    known["stages"][name] = {"settings": wanted, "seconds": round(time.time() - start, 1) or 0.1}
    write_json(note, known)
    return load(path)


# --- the stages, and the driver -------------------------------------------------------------------

class World(NamedTuple):
    """What the first stage leaves to all others."""
    rho: gpt.GPT
    tokens: gpt.Tokens
    queries: dict              # {part: {length: (n, length)}}, parts reward, policy, evaluation
    losses: dict               # of rho, held out
    how: tuple                 # responses are drawn: T, temperature, and where they are cut


def train_language_model(cfg, path):
    """Step 0: rho, the tokens it reads, and the queries it has not read. Saved in `path`."""
    rng = random.Random(cfg.seed)
    text = reward.pages(cfg.text) if cfg.text else [stories.passage(rng)
                                                    for _ in range(cfg.passages)]
    a, b, c, d = (len(text) - k * int(cfg.share * len(text)) for k in (3, 2, 1, 0))
    parts = {"train": text[:a], "evaluation": text[c:d], "reward": text[a:b], "policy": text[b:c]}
    tokens = gpt.Tokens(gpt.learn_bpe("\n".join(" " + p for p in text[:a]), cfg.vocabulary))
    queries = reward.cut_queries(parts, tokens, cfg.query_min, cfg.query_max)
    del queries["train"]                                     # what rho has read asks nothing
    print("queries for", *(f"{part}: {sum(map(len, q.values()))}" for part, q in queries.items()))
    rho = gpt.GPT(len(tokens.tokens), cfg.query_max + cfg.response, cfg.layers, cfg.heads,
                  cfg.width).to(cfg.device)
    windows, unseen = (gpt.windows(map(tokens.encode, parts[part]), tokens.period,
                                   rho.shape["context"]) for part in ("train", "evaluation"))
    if not all([*queries.values(), len(windows), len(unseen)]):
        raise Complaint(f"the text is too short: each part of it must have whole sentences of "
                        f"{cfg.query_min} to {cfg.query_max} tokens, and after the start of a "
                        f"sentence {rho.shape['context'] + 1} tokens")
    steps = gpt.fit("language_model", rho, gpt.batches_of(windows, cfg.lm_batch), cfg.lm_steps,
                    cfg.lm_lr)
    for _ in watch("language_model", steps, cfg.lm_steps, "loss {:.3f}".format):
        pass
    save(path, shape=rho.shape, weights=rho.state_dict(), queries=queries,
         tokens=[t.decode("latin-1") for t in tokens.tokens],
         losses=figures.language_model_losses(rho, windows, unseen[:2000]))


def load_world(cfg, path):
    """The World from the file that train_language_model wrote."""
    with reading(path):
        saved = torch.load(path, map_location=cfg.device, weights_only=True)
        rho = gpt.GPT(**saved["shape"]).to(cfg.device)
        rho.load_state_dict(saved["weights"])
        tokens = gpt.Tokens([t.encode("latin-1") for t in saved["tokens"]])
        how = cfg.response, cfg.temperature, cut_at(tokens.period, cfg.truncate_after)
        world = World(rho, tokens, saved["queries"], saved["losses"], how)
    room = rho.shape["context"] - max(map(max, world.queries.values()))
    if cfg.response > room:
        raise Complaint(f"--response must be at most {room} with the queries of {path}")
    return world


def ask(cfg, world, model, n, rng):
    """Step 1: four samples of the model for each of n queries, and which of them a labeler likes
    best: n comparisons."""
    picked = reward.pick(world.queries["reward"], n, again=True)
    asked = questions(model, picked, world.tokens.decode, rng, *world.how)
    p = stories.choice_probabilities(cfg.task, [texts for _, texts in asked])
    best = stories.choose(p, rng)[:, 0]
    return [reward.Comparison(query, texts, int(b)) for (query, texts), b in zip(asked, best)]


def collect_labels(cfg, world, path):
    """The comparisons to train r on, and the held-out ones: a fifth as many, of other queries."""
    reward.write_comparisons(path, ask(cfg, world, world.rho, cfg.n_labels + cfg.n_labels // 5,
                                       np.random.default_rng([cfg.seed, 1])))


def fit_reward(cfg, world, comparisons):
    """Step 2: r."""
    return reward.fit_reward(world.rho, comparisons, world.tokens.encode, world.queries["reward"],
                             world.how, lr=cfg.reward_lr, batch_size=cfg.reward_batch)


def train_reward_model(cfg, world, train, path):
    """The r that pi starts with; one batch where pi is paid the true score and r is not used."""
    lessons = {"reviews": reward.reviews(cfg.n_labels, random.Random(cfg.seed)),
               "true": train[:cfg.reward_batch]}.get(cfg.reward.removeprefix("-"), train)
    save(path, reward=fit_reward(cfg, world, lessons).state_dict())


def load_policy(world, path):
    return (load(path, "policy", Policy(world.rho)),
            load(path, "reward", reward.RewardModel(world.rho)))


def rewards(cfg, world, r, held_out):
    """Two functions (x, y) -> (B,): what pi is paid, and the labelers' mean score, in deviations
    from its mean over the samples of rho that are held out."""
    opinion, cut = stories.TASKS[cfg.task][0], world.how[2]
    known = np.array([opinion(text).mean() for c in held_out for text in c.samples])
    sign = -1 if cfg.reward.startswith("-") else 1
    true, paid = (opinion_rule(opinion, world.tokens.decode, cut, known.mean(),
                               turned * (known.std() or 1)) for turned in (1, sign))
    learned = period_rule(lambda tokens, length: sign * r(tokens, length), cut)
    return paid if cfg.reward.endswith("true") else learned, true


def learn_along(cfg, world, r, pi, train, held_out, updates):
    """What becomes of r, in place, before the first and after each update of pi. --online (2.3): at
    equal steps of l(n) labelers see samples of pi and r is trained anew, on all labels so far."""
    first, last, rng = cfg.n_labels // 4, cfg.n_labels, np.random.default_rng([cfg.seed, 3])
    if cfg.shared:
        yield from reward.on_one_trunk(
            r, pi, world.rho, train, held_out[:512], world.tokens.encode, world.queries["reward"],
            world.how, lr=cfg.lr, batch_size=cfg.reward_batch, steps=cfg.epochs, updates=updates)
        return
    for n in range(updates + 1):
        wanted = reward.labels_wanted(n / updates, first, last)
        now, then = ((k - first) * cfg.online // (last - first) for k in (len(train), wanted))
        if now < then < cfg.online:
            train = train + ask(cfg, world, pi.trunk, wanted - len(train), rng)
            r.load_state_dict(fit_reward(cfg, world, train).state_dict())
        yield {"labels": len(train)}


def train_policy(cfg, world, r, train, held_out, path):
    """Step 3: pi, by PPO against the reward with the KL to rho priced; a line of metrics for each
    update. r is saved with it, as it is at the end."""
    pi, (score, true), liked = Policy(world.rho), rewards(cfg, world, r, held_out), []

    def observed(x, y):
        liked.append(true(x, y).mean().item())
        return score(x, y)
    updates = ppo(
        pi, world.rho, observed, reward.draw_from(world.queries["policy"], cfg.device),
        cut=world.how[2], episodes=cfg.episodes, batch_size=cfg.batch, response=cfg.response,
        temperature=cfg.temperature, lr=cfg.lr, epochs=cfg.epochs, minibatches=cfg.minibatches,
        clip=cfg.clip, lam=cfg.lam, vf_coef=cfg.vf_coef, whiten_rewards=cfg.whiten_rewards,
        beta=cfg.beta, kl_target=cfg.kl_target or None, K=cfg.K)
    show = "r {score:+.2f} | kl {kl:.2f} | beta {beta:.3f} | clip {clip_fraction:.1%}".format_map
    total = -(-cfg.episodes // cfg.batch)
    along = learn_along(cfg, world, r, pi, train, held_out, total)
    next(along)
    with open(os.path.join(cfg.out, "metrics.jsonl"), "w") as file:
        for seen, told in zip(watch("policy", updates, total, show), along):
            file.write(json.dumps({**seen, "true": liked[-1], **told}) + "\n")
            file.flush()
    save(path, policy=pi.state_dict(), reward=r.state_dict())


def evaluate(cfg, world, r, pi, train, held_out, path):
    """Everything held out, beside its limit; samples.txt, figure.png and results.json."""
    log = [json.loads(line) for line in open(os.path.join(cfg.out, "metrics.jsonl"))]
    score, true = rewards(cfg, world, r, held_out)
    results = {"task": cfg.task, "seed": cfg.seed, "config": asdict(cfg), **figures.results(
        cfg, world, r, pi, lambda: load_policy(world, cfg.against)[0].trunk, score, true, train,
        held_out, log)}
    text = samples(world.rho, pi.trunk, score, reward.pick(world.queries["evaluation"], 40),
                   world.tokens.decode, *world.how)
    gpt.write_whole(os.path.join(cfg.out, "samples.txt"),
                    lambda name: Path(name).write_text(text, "utf-8"))
    write_json(path, results)
    figures.draw(figures.plan()["panels"], {"": [figures.told(Path(cfg.out), {})]},
                 os.path.join(cfg.out, "figure.png"))


def run(cfg):
    """rho, steps 1 to 3 of section 2 and the evaluation, each kept in the run's folder."""
    os.makedirs(cfg.out, exist_ok=True)
    print(f"{cfg.task}, seed {cfg.seed}, on {cfg.device}, into {cfg.out}")
    world = stage(cfg, "language_model", "rho.pt", lambda path: train_language_model(cfg, path),
                  lambda path: load_world(cfg, path), cfg.model)
    train, held_out = stage(cfg, "labels", "labels.jsonl", lambda path: collect_labels(
        cfg, world, path), reward.split_labels, cfg.labels)
    train = train[:cfg.n_labels // 4 if cfg.online else cfg.n_labels]       # here: N0 is N / 4
    r = stage(cfg, "reward_model", "reward.pt", lambda path: train_reward_model(
        cfg, world, train, path), lambda path: load(path, "reward", reward.RewardModel(world.rho)))
    pi, r = stage(cfg, "policy", "policy.pt", lambda path: train_policy(
        cfg, world, r, train, held_out, path), lambda path: load_policy(world, path))
    results = stage(cfg, "evaluation", "results.json", lambda path: evaluate(
        cfg, world, r, pi, train, held_out, path), read_json)
    made = read_json(os.path.join(cfg.out, "config.json"))["stages"]
    results["seconds"] = seconds = {name: made[name]["seconds"] for name in STAGES}
    results["policy"]["episodes_per_second"] = results["policy"]["episodes"] / seconds["policy"]
    write_json(os.path.join(cfg.out, "results.json"), results)
    blocks = Path(cfg.out, "samples.txt").read_text("utf-8").split("\n\n")
    print("\n" + "\n\n".join(blocks[:3]) + "\n\n" + figures.table(results))


def sample_command(cfg, prompt):
    """Zero-shot and fine-tuned continuations of a prompt, side by side, as the run made them."""
    note = read_json(os.path.join(cfg.out, "config.json"), {"stages": {}})
    if "policy" not in note["stages"]:
        raise Complaint(f"{cfg.out} holds no finished policy; run rlhf.py first, or give its --out")
    cfg = replace(Config(**note["config"]), device=cfg.device, out=cfg.out, seed=cfg.seed)
    world = load_world(cfg, os.path.join(cfg.out, "rho.pt"))
    pi, r = load_policy(world, os.path.join(cfg.out, "policy.pt"))
    x = torch.tensor([world.tokens.encode(prompt)], device=cfg.device)
    room = world.rho.shape["context"] - cfg.response
    if x.size(1) > room or not prompt.strip():
        raise Complaint(f"--prompt has {x.size(1)} tokens, but must have 1 to {room}")
    torch.manual_seed(cfg.seed)
    held_out = reward.split_labels(os.path.join(cfg.out, "labels.jsonl"))[1]
    print("\n\n".join(side_by_side(world.rho, pi.trunk, rewards(cfg, world, r, held_out)[0],
                                   x.expand(3, -1), world.tokens.decode, *world.how)))


def read_options(argv):
    """The command and its Config: every field is an option, and a wrong value is one sentence."""
    parser = argparse.ArgumentParser(prog="rlhf.py", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every stage in miniature")
    parser.add_argument("--prompt", default="", help="what `sample` continues")
    groups = {name: parser.add_argument_group(name) for name in STAGES + ["run"]}
    for f in fields(Config):
        groups[f.metadata["stage"]].add_argument(
            f"--{f.name}", type=f.type, metavar=f.type.__name__,
            help=f"{f.metadata['help']} (here: {f.default!r})")
    command = argv.pop(0) if argv and not argv[0].startswith("-") else "run"
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    quick, prompt = given.pop("quick"), given.pop("prompt")
    cfg = replace(Config(), **{**(QUICK if quick else {}), **given})
    check(cfg)
    cfg.device = cfg.device or gpt.devices()[0]
    cfg.out = cfg.out or f"out/{cfg.task}-seed{cfg.seed}" + "-quick" * quick
    return command, prompt, cfg


def check(cfg):
    """Refuse a setting that no run could use, before anything is trained."""
    def need(holds, name, what):
        if not holds:
            raise Complaint(f"--{name} is {getattr(cfg, name)!r}, but must be {what}")
    need(cfg.task in stories.TASKS, "task", " or ".join(stories.TASKS))
    need(cfg.device in ["", *gpt.devices()], "device", f"present: {' or '.join(gpt.devices())}")
    need(cfg.reward.removeprefix("-") in ("learned", "true", "reviews"), "reward", "as in --help")
    may_be_0 = ("seed", "kl_target", "truncate_after", "K", "vf_coef", "whiten_rewards", "online",
                "shared", "supervised_lr", "optimum_queries")
    for f in fields(cfg):
        if f.type in (int, float) and f.name != "beta":
            least = "0 or more" if f.name in may_be_0 else "above 0"
            enough = getattr(cfg, f.name) >= (0 if f.name in may_be_0 else sys.float_info.min)
            need(enough and math.isfinite(getattr(cfg, f.name)), f.name, least)
    need(cfg.seed < 2 ** 32, "seed", "below 4294967296")
    need(cfg.vocabulary >= 257, "vocabulary", "at least 257: the bytes and one merge")
    need(cfg.width % cfg.heads == 0, "width", f"a multiple of --heads, {cfg.heads}")
    need(cfg.query_min <= cfg.query_max, "query_min", f"at most --query_max, {cfg.query_max}")
    need(cfg.truncate_after < cfg.response, "truncate_after", f"below --response, {cfg.response}")
    need(cfg.share < 1 / 3, "share", "below a third, so that something is left for rho")
    need(cfg.minibatches <= cfg.batch, "minibatches", f"at most --batch, {cfg.batch}")
    need(cfg.n_labels >= 5, "n_labels", "at least 5")
    need(math.isfinite(cfg.beta) and (cfg.beta or not cfg.kl_target), "beta", "finite and not 0")
    need("learned" in cfg.reward or not cfg.online + cfg.shared, "reward", "learned: r learns on")
    need(not (cfg.online and cfg.shared), "shared", "0 with --online")
    settings_of(cfg, "evaluation")                           # all files are there
    if cfg.labels:
        reward.split_labels(cfg.labels)


def main(argv=None):
    """Run a command; 0, or 2 after one sentence on what the user can mend."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and argv[0] not in ("run", "sample") and not argv[0].startswith("-"):
            figures.command(argv)
        else:
            command, prompt, cfg = read_options(argv)
            sample_command(cfg, prompt) if command == "sample" else run(cfg)
        return 0
    except (KeyboardInterrupt, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)         # perhaps nobody reads any more
        print("rlhf.py: stopped; finished stages are kept for the same command", file=sys.stderr)
    except (Complaint, OSError) as e:
        print(f"rlhf.py: {e}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")        # a terminal that has not every letter
    sys.exit(main())
