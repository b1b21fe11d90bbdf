"""
rlhf.py: the whole experiment, from nothing to a policy that labelers prefer.

Paper: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", 3.1's tasks by
steps 1 to 3 of section 2: a language model rho, labels of its samples, a reward r, a policy pi.

    python rlhf.py                               sentiment, every stage
    python rlhf.py --task descriptiveness        the second style task; --quick: in miniature
    python rlhf.py sample --prompt "Mara the baker came to the harbor one morning."
    python rlhf.py label --out out/mine          a person picks the best of four
    python rlhf.py figure 2                      a figure or table of the paper: see figures.py

Out: a folder, out/<task>-seed<seed>/, see README.md. A stage whose result is in it, made by the
same settings, is not run again.
"""

import argparse
import json
import math
import os
import random
import shutil
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import figures
import files
import gpt
import reward
import stories
from files import STAGES, UserError, load, read_json, reading, save, stage, write_json
from gpt import watch
from ppo import (Policy, truncate_at_period, opinion_rule, period_rule, ppo, questions, samples,
                 side_by_side)
from text import (Tokens, batches_of, extract_queries, query_sampler, pages, split_passages, pick, read_text,
                  tokens_for, windows, write_tokens)


def option(stage, default, text):
    """A field of Config: the stage it first matters to, its default, and what --help says of it."""
    return field(default=default, metadata={"stage": stage, "help": text})


@dataclass
class Config:
    """Every setting. paper: the 774M runs. released: the released code, 124M. --help prints all."""
    seed: int = option("language_model", 0, "of all chance in the run")
    model: str = option("language_model", "", "rho.pt of another run, or gpt2, gpt2-medium, "
                        "-large, -xl (downloaded once), or a folder or file in their layout")
    tokenizer: str = option("language_model", "", "gpt2, or a folder with vocab.json")
    text: str = option("language_model", "", "a text or a folder of *.txt, instead of the stories")
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
    labels: str = option("labels", "", "a file of comparisons, instead of simulated labelers; "
                         "sentiment, descriptiveness: OpenAI's (downloaded once)")
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
    prompt: str = option("run", "", "what `sample` continues")
    policy: str = option("run", "", "policy.pt of a run: `label` shows two of its samples in four")
    answers: str = option("run", "", "file that `label` adds to; OUT/labels.jsonl if not given")


QUICK = dict(passages=4000, lm_steps=250, n_labels=500, episodes=1280, evaluations=128,
             optimum_queries=16, optimum_samples=128)
RELEASED = dict(query_min=32, query_max=64, n_labels=4992, reward_lr=5e-5, reward_batch=32,
                episodes=1000000, batch=512, lr=1e-5, K=0.0512, kl_target=6.0, beta=0.15,
                vf_coef=0.1, whiten_rewards=1, supervised_lr=1e-4)      # the last, and 32: here


# --- the stages, and the driver -------------------------------------------------------------------

class World(NamedTuple):
    """What the first stage leaves to all others."""
    rho: gpt.GPT
    tokens: Tokens
    queries: dict              # {part: {length: (n, length)}}, parts reward, policy, evaluation
    losses: dict               # of rho, held out
    how: tuple                 # responses are drawn: T, temperature, and where they are cut


def train_language_model(cfg, path):
    """Step 0: rho, the tokens it reads, and the queries it has not read. Saved in `path`."""
    if cfg.model.endswith(".pt"):
        return files.write_whole(path, lambda name: shutil.copyfile(cfg.model, name))
    rng, weights = random.Random(cfg.seed), cfg.model and gpt.weights_file(cfg.model)
    text = pages(read_text(cfg.text)) if cfg.text else [stories.passage(rng)
                                                              for _ in range(cfg.passages)]
    parts = split_passages(text, cfg.share)
    tokens = tokens_for(cfg.tokenizer, weights, parts["train"], cfg.vocabulary)
    queries = extract_queries(parts, tokens, cfg.query_min, cfg.query_max)
    del queries["train"]                                     # what rho has read asks nothing
    print("queries for", *(f"{part}: {sum(map(len, q.values()))}" for part, q in queries.items()))
    T = cfg.query_max + cfg.response
    rho = (gpt.GPT.from_pretrained(weights) if weights else gpt.GPT(
        len(tokens.tokens), T, cfg.layers, cfg.heads, cfg.width)).to(cfg.device)
    if not 0 <= rho.shape["vocabulary"] - len(tokens.tokens) < 128 or rho.shape["context"] < T:
        raise UserError(f"--model has {rho.shape['vocabulary']} tokens, its tokenizer "
                        f"{len(tokens.tokens)}; it has {rho.shape['context']} positions, "
                        f"--query_max and --response want {T}")
    seen, unseen = (windows(parts[part], tokens, T) for part in ("train", "evaluation"))
    if not all([*queries.values(), len(seen), len(unseen)]):
        raise UserError("the text is too short: each part of it must have whole sentences of "
                        f"{cfg.query_min} to {cfg.query_max} tokens, and {T + 1} tokens in a row")
    steps = gpt.fit("language_model", rho, batches_of(seen, cfg.lm_batch), cfg.lm_steps,
                    cfg.lm_lr)
    for _ in watch("language_model", steps, cfg.lm_steps, "loss {:.3f}".format):
        pass
    save(path, shape=rho.shape, weights=rho.state_dict(), queries=queries,
         tokens=[t.decode("latin-1") for t in tokens.tokens],
         losses=gpt.language_model_losses(rho, seen, unseen[:2000]))


def load_world(cfg, path):
    """The World from the file that train_language_model wrote."""
    with reading(path):
        saved = torch.load(path, map_location=cfg.device, weights_only=True)
        rho = gpt.GPT(**saved["shape"]).to(cfg.device)
        rho.load_state_dict(saved["weights"])
        tokens = Tokens([t.encode("latin-1") for t in saved["tokens"]])
        how = cfg.response, cfg.temperature, truncate_at_period(tokens.period, cfg.truncate_after)
        world = World(rho, tokens, saved["queries"], saved["losses"], how)
    room = rho.shape["context"] - max(map(max, world.queries.values()))
    if cfg.response > room:
        raise UserError(f"--response must be at most {room} with the queries of {path}")
    return world


def ask(cfg, world, model, n, rng):
    """Step 1: four samples of the model for each of n queries, and which of them a labeler likes
    best: n comparisons."""
    picked = pick(world.queries["reward"], n, again=True)
    asked = questions([model], picked, world.tokens.decode, rng, *world.how)
    p = stories.choice_probabilities(cfg.task, [texts for _, texts in asked])
    best = stories.choose(p, rng)[:, 0]
    return [files.Comparison(query, texts, int(b)) for (query, texts), b in zip(asked, best)]


def collect_labels(cfg, world, path):
    """The comparisons to train r on, and the held-out ones: a fifth as many, of other queries."""
    files.write_comparisons(path, reward.read_labels(cfg.labels) if cfg.labels else ask(
        cfg, world, world.rho, cfg.n_labels + cfg.n_labels // 5,
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
    """What becomes of r, in place, before the first and after each update of pi."""
    if cfg.shared:
        return reward.on_one_trunk(
            r, pi, world.rho, train, held_out[:512], world.tokens.encode, world.queries["reward"],
            world.how, lr=cfg.lr, batch_size=cfg.reward_batch, steps=cfg.epochs, updates=updates)
    rng = np.random.default_rng([cfg.seed, 3])
    return reward.online(r, train, lambda n: ask(cfg, world, pi.trunk, n, rng), lambda comparisons:
                         fit_reward(cfg, world, comparisons), cfg.n_labels, cfg.online, updates)


def train_policy(cfg, world, r, train, held_out, path):
    """Step 3: pi, by PPO against the reward with the KL to rho priced; a line of metrics for each
    update. r is saved with it, as it is at the end."""
    pi, (score, true), liked = Policy(world.rho), rewards(cfg, world, r, held_out), []

    def observed(x, y):
        liked.append(true(x, y).mean().item())
        return score(x, y)
    updates = ppo(
        pi, world.rho, observed, query_sampler(world.queries["policy"], cfg.device),
        cut=world.how[2], episodes=cfg.episodes, batch_size=cfg.batch, response=cfg.response,
        temperature=cfg.temperature, lr=cfg.lr, epochs=cfg.epochs, minibatches=cfg.minibatches,
        clip=cfg.clip, lam=cfg.lam, vf_coef=cfg.vf_coef, whiten_rewards=cfg.whiten_rewards,
        beta=cfg.beta, kl_target=cfg.kl_target or None, K=cfg.K)
    show = "r {score:+.2f} | kl {kl:.2f} | beta {beta:.3f} | clip {clip_fraction:.1%}".format_map
    total = -(-cfg.episodes // cfg.batch)
    along = learn_along(cfg, world, r, pi, train, held_out, total)
    next(along)
    with open(f"{cfg.out}/metrics.jsonl", "w") as file:
        for seen, told in zip(watch("policy", updates, total, show), along):
            file.write(json.dumps({**seen, "true": liked[-1], **told}) + "\n")
            file.flush()
    save(path, policy=pi.state_dict(), reward=r.state_dict())


def evaluate(cfg, world, r, pi, opponent, train, held_out, path):
    """Everything held out, beside its limit; samples.txt, figure.png and results.json."""
    log = [json.loads(line) for line in open(f"{cfg.out}/metrics.jsonl")]
    score, true = rewards(cfg, world, r, held_out)
    results = {"task": cfg.task, "seed": cfg.seed, "config": asdict(cfg), **figures.results(
        cfg, world, r, pi, opponent, score, true, train, held_out, log)}
    files.write_text(f"{cfg.out}/samples.txt", samples(world.rho, pi.trunk, score, pick(
        world.queries["evaluation"], 40), world.tokens.decode, *world.how))
    write_json(path, results)
    figures.draw(figures.plan()["panels"], {"": [figures.told(Path(cfg.out), {})]},
                 f"{cfg.out}/figure.png")


def first_stage(cfg):
    """The World of the run, made if need be."""
    os.makedirs(cfg.out, exist_ok=True)
    if cfg.model.endswith(".pt"):
        load_world(cfg, cfg.model)                           # or a complaint, and nothing is lost
    return stage(cfg, "language_model", "rho.pt", lambda path: train_language_model(cfg, path),
                 lambda path: load_world(cfg, path))


def run(cfg):
    """rho, steps 1 to 3 of section 2 and the evaluation, each kept in the run's folder."""
    print(f"{cfg.task}, seed {cfg.seed}, on {cfg.device}, into {cfg.out}")
    cfg = replace(cfg, labels=reward.labels_file(cfg.labels))
    if cfg.labels:
        reward.split_labels(cfg.labels)                      # or a complaint, and nothing is lost
    files.spare_answers(cfg)
    world = first_stage(cfg)
    opponent = load_policy(world, cfg.against)[0].trunk if cfg.against else None
    train, held_out = stage(cfg, "labels", "labels.jsonl", lambda path: collect_labels(
        cfg, world, path), reward.split_labels)
    train = train[:cfg.n_labels // 4 if cfg.online else cfg.n_labels]       # here: N0 is N / 4
    r = stage(cfg, "reward_model", "reward.pt", lambda path: train_reward_model(
        cfg, world, train, path), lambda path: load(path, "reward", reward.RewardModel(world.rho)))
    pi, r = stage(cfg, "policy", "policy.pt", lambda path: train_policy(
        cfg, world, r, train, held_out, path), lambda path: load_policy(world, path))
    results = stage(cfg, "evaluation", "results.json", lambda path: evaluate(
        cfg, world, r, pi, opponent, train, held_out, path), read_json)
    for name, model in (("rho", world.rho), ("r", r.trunk), ("pi", pi.trunk)):
        model.save_pretrained(f"{cfg.out}/{name}")   # for whatever else reads GPT-2
        write_tokens(f"{cfg.out}/{name}", world.tokens)
    made = read_json(f"{cfg.out}/config.json")["stages"]
    results["seconds"] = seconds = {name: made[name]["seconds"] for name in STAGES}
    results["policy"]["episodes_per_second"] = results["policy"]["episodes"] / seconds["policy"]
    write_json(f"{cfg.out}/results.json", results)
    blocks = Path(cfg.out, "samples.txt").read_text("utf-8").split("\n\n")
    print("\n" + "\n\n".join(blocks[:3]) + "\n\n" + figures.table(results))


def label_command(cfg):
    """A person at the terminal picks the best of four samples of rho, or of two of rho and two of a
    policy (2.3: with a person in the loop)."""
    note, answers = f"{cfg.out}/config.json", cfg.answers or f"{cfg.out}/labels.jsonl"
    if os.path.exists(answers) and not cfg.answers and "person" not in read_json(note, {}):
        raise UserError(f"{answers} holds the labels of a run; give another --out")
    world = first_stage(cfg)
    if not cfg.answers:
        write_json(note, {**read_json(note), "person": True})
    models = [world.rho, *(load(p, "policy", Policy(world.rho)).trunk for p in [cfg.policy] if p)]
    rho = files.digest(f"{cfg.out}/rho.pt")
    print(f"Which continuation is best? (--task {cfg.task})")
    reward.label(reward.questions_of(
        f"{cfg.out}/questions-{rho[:8]}{files.digest(cfg.policy)[:8]}.json", cfg.n_labels, cfg.seed,
        lambda n, rng: questions(models, pick(world.queries["reward"], n, again=True),
                                 world.tokens.decode, rng, *world.how)), answers)


def sample_command(cfg):
    """Zero-shot and fine-tuned continuations of a prompt, side by side, as the run made them."""
    note = read_json(f"{cfg.out}/config.json", {"stages": {}})
    if "policy" not in note["stages"]:
        raise UserError(f"{cfg.out} holds no finished policy; run rlhf.py first, or give its --out")
    cfg = replace(Config(**note["config"]), device=cfg.device, out=cfg.out, seed=cfg.seed,
                  prompt=cfg.prompt)
    world = load_world(cfg, f"{cfg.out}/rho.pt")
    pi, r = load_policy(world, f"{cfg.out}/policy.pt")
    x = torch.tensor([world.tokens.encode(cfg.prompt)], device=cfg.device)
    room = world.rho.shape["context"] - cfg.response
    if x.size(1) > room or not cfg.prompt.strip():
        raise UserError(f"--prompt must have some words, and at most {room} tokens")
    torch.manual_seed(cfg.seed)
    held_out = reward.split_labels(f"{cfg.out}/labels.jsonl")[1]
    print("\n\n".join(side_by_side(world.rho, pi.trunk, rewards(cfg, world, r, held_out)[0],
                                   x.expand(3, -1), world.tokens.decode, *world.how)))


def shape_of(cfg):
    """The shape of the model that the run starts with."""
    if cfg.model.endswith(".pt"):
        return load_world(cfg, cfg.model).rho.shape
    return gpt.shape_of(cfg.model) if cfg.model else dict(
        vocabulary=cfg.vocabulary, context=cfg.query_max + cfg.response, layers=cfg.layers,
        heads=cfg.heads, width=cfg.width)


def dry_run(cfg):
    """What would be run, and in what memory."""
    shape, updates = shape_of(cfg), -(-cfg.episodes // cfg.batch)
    peak = gpt.memory(shape, cfg.batch, cfg.query_max, cfg.response, cfg.minibatches)
    print(f"""on {cfg.device}, into {cfg.out}:
rho     {cfg.model or 'new'}, {shape}, {cfg.lm_steps} steps on {cfg.text or 'the stories'}
labels  {cfg.n_labels} labels, {cfg.labels or 'simulated'}
r       {-(-cfg.n_labels // cfg.reward_batch)} steps of {cfg.reward_batch} comparisons
pi      {updates} updates of {cfg.batch} episodes, {cfg.epochs} x {cfg.minibatches} steps each
memory  some {peak / 2 ** 30:.2f} GiB at its peak""")


def read_options(argv):
    """The command, a function, and its Config, of which every field is an option."""
    parser = files.Options(prog="rlhf.py", description=__doc__, allow_abbrev=False,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="every stage in miniature")
    parser.add_argument("--dry_run", action="store_true", help="say what would be run")
    groups = {name: parser.add_argument_group(name) for name in STAGES + ["run"]}
    for f in fields(Config):
        groups[f.metadata["stage"]].add_argument(
            f"--{f.name}", type=f.type, metavar=f.type.__name__,
            help=f"{f.metadata['help']} (here: {f.default!r})")
    command = argv.pop(0) if argv and not argv[0].startswith("-") else "run"
    given = {k: v for k, v in vars(parser.parse_args(argv)).items() if v is not None}
    quick, dry = given.pop("quick"), given.pop("dry_run")
    cfg = replace(Config(), **{"device": "cpu", **given})
    check(cfg)
    found = {"task": cfg.labels} if cfg.labels in stories.TASKS else {}
    if cfg.model and not cfg.model.endswith(".pt"):
        found |= {"lm_steps": 1000, "lm_lr": 5e-5}           # here
        found |= RELEASED if shape_of(cfg)["vocabulary"] == 50257 else {}
    found |= QUICK if quick else {"n_labels": 300} if command == "label" else {}
    if cfg.model and not cfg.text:
        found["lm_steps"] = 0                                # it stays as it is
    cfg = replace(Config(), **{**found, **given})
    check(cfg)
    cfg.device = cfg.device or gpt.devices()[0]
    cfg.out = cfg.out or f"out/{cfg.task}-seed{cfg.seed}" + "-quick" * quick
    commands = {"run": run, "sample": sample_command, "label": label_command}
    return dry_run if dry else commands[command], cfg


def check(cfg):
    """Refuse a setting that no run could use, before anything is trained."""
    def need(holds, name, what):
        if not holds:
            raise UserError(f"--{name} is {getattr(cfg, name)!r}, but must be {what}")
    need(cfg.task in stories.TASKS, "task", " or ".join(stories.TASKS))
    need(cfg.device in ["", *gpt.devices()], "device", f"present: {' or '.join(gpt.devices())}")
    need(cfg.reward.removeprefix("-") in ("learned", "true", "reviews"), "reward", "as in --help")
    may_be_0 = ("seed", "kl_target", "truncate_after", "K", "vf_coef", "whiten_rewards", "online",
                "shared", "supervised_lr", "optimum_queries", "lm_steps")
    for f in fields(cfg):
        if f.type in (int, float) and f.name != "beta":
            value, zero = getattr(cfg, f.name), f.name in may_be_0
            fine = 0 < value < math.inf or zero and value == 0
            need(fine, f.name, "0 or above" if zero else "above 0")
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
    names = {"model": gpt.GPT2, "tokenizer": ["gpt2"], "labels": stories.TASKS}
    for name in files.GIVEN:
        known, path = names.get(name, []), getattr(cfg, name)
        need(not path or path in known or os.path.exists(path), name, " or ".join(
            ["a file or folder that is there", *known]))


def main(argv=None):
    """Run a command; 0, or 2 after one sentence on what the user can mend."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv and argv[0] not in ("run", "sample", "label") and not argv[0].startswith("-"):
            print(files.agreement(argv)) if argv[0] == "agreement" else figures.command(argv)
        else:
            command, cfg = read_options(argv)
            command(cfg)
        return 0
    except (KeyboardInterrupt, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)         # perhaps nobody reads any more
        print("rlhf.py: stopped; finished stages and all answers are kept", file=sys.stderr)
    except (UserError, OSError) as e:
        print(f"rlhf.py: {e}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")        # a terminal that has not every letter
    sys.exit(main())
