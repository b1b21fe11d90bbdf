"""
rlhf.py: the whole experiment, from nothing to a policy that labelers prefer.

Paper: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", 3.1's tasks by
steps 1 to 3 of section 2: a language model rho, labels of its samples, a reward r, a policy pi.

    python rlhf.py                               sentiment, every stage
    python rlhf.py --task descriptiveness        the paper's second style task
    python rlhf.py --quick                       the same in miniature
    python rlhf.py sample --prompt "Mara the baker came to the harbor one morning."

In:  nothing, or --text and --labels     Out: a folder, out/<task>-seed<seed>/, see README.md
A stage whose result is in the folder, made by the same settings, is not run again.
"""

import argparse
import hashlib
import json
import math
import os
import random
import re
import sys
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import figures
import gpt
import reward
import stories
from figures import watch
from gpt import Complaint
from ppo import (Policy, cut_at, cut_queries, draw_from, period_rule, pick, ppo,
                 sample_finished)

STAGES = ["language_model", "labels", "reward_model", "policy", "evaluation"]


def option(stage, default, text):
    """A field of Config: the stage it first matters to, its default, and what --help says of it."""
    return field(default=default, metadata={"stage": stage, "help": text})


@dataclass
class Config:
    """Every setting. paper: the 774M runs. released: the released code, 124M. --help prints all."""
    seed: int = option("language_model", 0, "of all chance in the run")
    text: str = option("language_model", "", "a text file to learn from, instead of the stories")
    passages: int = option("language_model", 20000, "stories to write")
    share: float = option("language_model", 0.1, "of the passages, for the queries of the labels, "
                          "as much for the policy's and the evaluation's; the rest is for rho")
    vocabulary: int = option("language_model", 1536, "tokens of the BPE; GPT-2: 50,257")
    layers: int = option("language_model", 2, "paper: 36; released: 12")
    heads: int = option("language_model", 4, "paper: 20; released: 12")
    width: int = option("language_model", 128, "paper: 1280; released: 768")
    query_max: int = option("language_model", 14, "tokens of the longest query; paper: 64")
    response: int = option("language_model", 24, "tokens of a response; paper and released: 24")
    lm_steps: int = option("language_model", 2500, "steps of training rho")
    lm_batch: int = option("language_model", 16, "windows a step")
    lm_lr: float = option("language_model", 6e-3, "peak learning rate of rho")

    task: str = option("labels", "sentiment", "what labelers like: sentiment or descriptiveness")
    query_min: int = option("labels", 9, "tokens of the shortest query; paper: 32")
    labels: str = option("labels", "", "a file of comparisons to use, instead of simulated labels")
    n_labels: int = option("labels", 12000, "comparisons to train r on, a fifth as many held out; "
                           "paper: 5,000 and more; released: 4,992")
    temperature: float = option("labels", 0.7, "divides the logits; paper, released: 0.7")
    truncate_after: int = option("labels", 16, "a response is cut at its first period from this "
                                 "position on; paper and released: 16")

    reward_lr: float = option("reward_model", 1e-3, "falls to 0; paper: 1.77e-5; released: 5e-5")
    reward_batch: int = option("reward_model", 8, "comparisons a step; paper: 8; released: 32")

    episodes: int = option("policy", 24576, "paper: 2M; released: 1M")
    batch: int = option("policy", 128, "episodes an update; paper: 1024; released: 512")
    minibatches: int = option("policy", 1, "Adam steps an epoch; paper and released: 1")
    epochs: int = option("policy", 4, "passes over each batch; paper and released: 4")
    lr: float = option("policy", 2e-4, "falls to 0; paper: 1.41e-5; released: 1e-5")
    kl_target: float = option("policy", 3.0, "nats per response, or 0 for a fixed beta; paper: 10 "
                              "(sentiment), 6 (descriptiveness); released: 6")
    beta: float = option("policy", 0.3, "first price of a nat, in units of reward; released: 0.15")
    K: float = option("policy", 0.1, "how fast the controller moves beta, per update; paper: 0.1; "
                      "released: batch / 10,000, which is 0.051")
    clip: float = option("policy", 0.2, "of ratio and value; released: 0.2")
    lam: float = option("policy", 0.95, "GAE's lambda; released: 0.95")
    vf_coef: float = option("policy", 0.5, "weight of the value loss; PPO2: 0.5; released: 0.1")
    whiten_rewards: int = option("policy", 0, "1: divide rewards by their deviation, as released; "
                                 "0: leave them")

    evaluations: int = option("evaluation", 1024, "held-out queries of an evaluation; paper: 1024")
    supervised_lr: float = option("evaluation", 5e-4, "of the baseline: rho tuned on the winners")
    optimum_queries: int = option("evaluation", 64, "queries where the optimum is estimated")
    optimum_samples: int = option("evaluation", 512, "samples of rho for each of them")

    device: str = option("run", "", "cpu, cuda or mps; the best one present if not given")
    out: str = option("run", "", "folder of the run; out/<task>-seed<seed> if not given")


QUICK = dict(passages=4000, lm_steps=250, n_labels=500, episodes=1280, evaluations=128,
             optimum_queries=16, optimum_samples=128)


# --- files, and what need not be made again -------------------------------------------------------

def settings_of(cfg, stage):
    """All settings that the stage's result depends on, files by their content."""
    found = {}
    for f in fields(cfg):
        if f.metadata["stage"] in STAGES[:STAGES.index(stage) + 1]:
            found[f.name] = value = getattr(cfg, f.name)
            if f.name in ("text", "labels") and value:
                found[f.name] = hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return found


def write_json(path, value):
    gpt.write_whole(path, lambda name: Path(name).write_text(json.dumps(value, indent=1) + "\n"))


def read_json(path):
    """The dictionary that write_json wrote."""
    try:
        value = json.loads(Path(path).read_text())
    except ValueError:
        value = None
    if not isinstance(value, dict) or not value:
        raise Complaint(f"{path} is damaged; delete it to have it made again")
    return value


def read_note(path):
    """config.json: the settings of the run, and those by which each stage was made."""
    return {"stages": {}, **read_json(path)} if os.path.exists(path) else {"stages": {}}


def stage(cfg, name, artefact, make, load):
    """The stage's result: loaded if it was made by these settings, else made and remembered.

    Returns (result, seconds it took to make). make() writes the artefact."""
    path, note = os.path.join(cfg.out, artefact), os.path.join(cfg.out, "config.json")
    known = read_note(note)
    wanted = settings_of(cfg, name)
    if os.path.exists(path) and known["stages"].get(name, {}).get("settings") == wanted:
        print(f"{name}: kept, {path} was made by these settings")
        return load(path), known["stages"][name]["seconds"]
    for later in STAGES[STAGES.index(name):]:          # what was made from the old one is old too
        known["stages"].pop(later, None)
    write_json(note, known)                  # a run cut short here leaves nothing that looks whole
    torch.manual_seed(1000 * cfg.seed + STAGES.index(name))
    start = time.time()
    make(path)
    seconds = round(time.time() - start, 1)
    known["config"] = asdict(cfg)
    known["stages"][name] = {"settings": wanted, "seconds": seconds}
    write_json(note, known)
    return load(path), seconds


# --- the data -------------------------------------------------------------------------------------

def read_passages(cfg):
    """The passages of the small world, or pages of 40 sentences of --text; in four parts."""
    if cfg.text:
        try:
            text = " ".join(Path(cfg.text).read_bytes().decode("utf-8-sig").split())
        except UnicodeDecodeError as e:
            raise Complaint(f"{cfg.text}: not UTF-8 text ({e.reason}, byte {e.start})") from None
        sentences = re.split(r"(?<=\.) ", text)
        passages = [" ".join(sentences[i:i + 40]) for i in range(0, len(sentences), 40)]
    else:
        rng = random.Random(cfg.seed)
        passages = [stories.passage(rng) for _ in range(cfg.passages)]
    n, m = len(passages), int(cfg.share * len(passages))
    cuts = [n - 3 * m, n - 2 * m, n - m, n]
    return dict(zip(["train", "reward", "policy", "evaluation"],
                    [passages[a:b] for a, b in zip([0] + cuts, cuts)]))


def all_queries(cfg, parts, tokens):
    """The queries of the labels, of the policy and of the evaluation; no two parts share one, and
    rho was trained on none of them: {part: {length: (n, length)}}."""
    taken = set()
    queries = {part: cut_queries(parts[part], tokens, cfg.query_min, cfg.query_max, taken)
               for part in ("train", "evaluation", "reward", "policy")}
    del queries["train"]
    print("queries: " + ", ".join(f"{sum(map(len, q.values()))} for {part}"
                                  for part, q in queries.items()))
    if not all(queries.values()):
        raise Complaint(f"the text is too short: no query of {cfg.query_min} to {cfg.query_max} "
                        "tokens that starts and ends with a sentence can be cut from every part")
    return queries


# --- the stages -----------------------------------------------------------------------------------

def train_language_model(cfg, parts, path):
    """Step 0: rho, and the tokens it reads. Saved in `path`."""
    tokens = gpt.Tokens(gpt.learn_bpe("\n".join(" " + p for p in parts["train"]), cfg.vocabulary))
    rho = gpt.GPT(len(tokens.tokens), cfg.query_max + cfg.response, cfg.layers, cfg.heads,
                  cfg.width).to(cfg.device)
    windows, unseen = (gpt.windows(map(tokens.encode, parts[part]), tokens.period,
                                   rho.shape["context"]) for part in ("train", "evaluation"))
    if not len(windows) or not len(unseen):
        raise Complaint(f"the text is too short: no {rho.shape['context'] + 1} tokens from the "
                        "start of a sentence, in what rho reads or in what is held out")
    steps = gpt.fit("language_model", rho, gpt.batches_of(windows, cfg.lm_batch), cfg.lm_steps,
                    cfg.lm_lr)
    for _ in watch("language_model", steps, cfg.lm_steps, lambda loss: f"loss {loss:.3f}"):
        pass
    gpt.save_model(path, rho, tokens=[t.decode("latin-1") for t in tokens.tokens])


def load_gpt(path, device):
    """A GPT and its Tokens from a file written by save_model."""
    saved = gpt.load_saved(path, device)
    if not {"shape", "weights", "tokens"} <= set(saved):
        raise Complaint(f"{path} holds no language model; delete it to have it made again")
    model = fit_weights(gpt.GPT(**saved["shape"]), saved["weights"], path)
    return model.to(device), gpt.Tokens([t.encode("latin-1") for t in saved["tokens"]])


def collect_labels(cfg, rho, tokens, cut, queries, path):
    """Step 1: four samples of rho for each query, and which of them a labeler likes best."""
    if cfg.labels:
        gpt.write_whole(path, lambda name: Path(name).write_bytes(Path(cfg.labels).read_bytes()))
        return
    rng, questions = np.random.default_rng([cfg.seed, 1]), []
    picked = pick(queries, cfg.n_labels + cfg.n_labels // 5, again=True)
    groups = ((x, sample_finished(rho, x.to(cfg.device).repeat_interleave(4, dim=0), cfg.response,
                                   cfg.temperature, cut))
              for x in picked.values())
    for x, (y, length) in watch("labels", groups, len(picked), lambda g: f"{len(g[0])} queries"):
        texts = [tokens.decode(ids[:n]) for ids, n in zip(y.tolist(), length.tolist())]
        questions += [(tokens.decode(q), texts[4 * i:4 * i + 4]) for i, q in enumerate(x.tolist())]
    order = rng.permutation(len(questions))
    questions = [questions[i] for i in order]
    seen = {}                               # one query's questions side by side: held out together
    questions.sort(key=lambda question: seen.setdefault(question[0], len(seen)))
    p = stories.choice_probabilities(cfg.task, [samples for _, samples in questions])
    best = stories.choose(p, rng)[:, 0]
    lines = [reward.to_line(reward.Comparison(q, s, int(b))) for (q, s), b in zip(questions, best)]
    gpt.write_whole(path, lambda name: Path(name).write_text("".join(lines), "utf-8"))


def train_reward_model(cfg, rho, tokens, cut, comparisons, queries, path):
    """Step 2: r, of mean 0 and variance 1 on samples of rho after its one epoch (section 2), and
    before it, so that training starts at that scale (released code)."""
    r = reward.RewardModel(rho)
    samples, lengths = [], []
    for x in pick(queries, 1024).values():
        x = x.to(cfg.device)
        y, _, _ = gpt.sample(rho, x, cfg.response, cfg.temperature)
        lengths.append(x.size(1) + cut(y)[0])
        samples.append(F.pad(torch.cat([x, y], dim=1), (0, cfg.query_max - x.size(1))))
    samples, lengths = torch.cat(samples), torch.cat(lengths)
    reward.normalise(r, samples, lengths)
    data, length = reward.to_tokens(comparisons, tokens.encode, rho.shape["context"])
    best = torch.tensor([c.best for c in comparisons])
    steps = reward.train_reward(r, data, length, best, lr=cfg.reward_lr,
                                batch_size=cfg.reward_batch)
    for _ in watch("reward_model", steps, -(-len(best) // cfg.reward_batch), "loss {:.3f}".format):
        pass
    reward.normalise(r, samples, lengths)
    gpt.write_whole(path, lambda name: torch.save(r.state_dict(), name))


def load_onto(module, path, device):
    """The module with the weights that were saved at path."""
    return fit_weights(module, gpt.load_saved(path, device), path).to(device)


def fit_weights(module, weights, path):
    try:
        module.load_state_dict(weights)
    except (RuntimeError, TypeError):
        raise Complaint(f"{path} does not fit the model; delete it to have it made again") from None
    return module


def train_policy(cfg, rho, score, cut, queries, path):
    """Step 3: pi, by PPO against r with the KL to rho priced; a line of metrics for each update."""
    pi = Policy(rho)
    updates = ppo(pi, rho, score, draw_from(queries, cfg.device), cut=cut, episodes=cfg.episodes,
                  batch_size=cfg.batch, response=cfg.response, temperature=cfg.temperature,
                  lr=cfg.lr, epochs=cfg.epochs, minibatches=cfg.minibatches, clip=cfg.clip,
                  lam=cfg.lam, vf_coef=cfg.vf_coef, whiten_rewards=cfg.whiten_rewards,
                  beta=cfg.beta, kl_target=cfg.kl_target or None, K=cfg.K)
    show = "r {score:+.2f} | kl {kl:.2f} | beta {beta:.3f} | clip {clip_fraction:.1%}"
    with open(os.path.join(cfg.out, "metrics.jsonl"), "w") as file:
        total = -(-cfg.episodes // cfg.batch)
        for seen in watch("policy", updates, total, lambda seen: show.format(**seen)):
            file.write(json.dumps(seen) + "\n")
            file.flush()
    gpt.write_whole(path, lambda name: torch.save(pi.state_dict(), name))


def evaluate(cfg, rho, r, pi, tokens, cut, parts, queries, train, held_out, path):
    """Everything held out, beside its limit; samples.txt, figure.png and results.json."""
    log = [json.loads(line) for line in open(os.path.join(cfg.out, "metrics.jsonl"))]
    results = {"task": cfg.task, "seed": cfg.seed, "config": asdict(cfg), **figures.results(
        cfg, rho, r, pi, tokens, cut, parts, queries, train, held_out, log)}
    samples = figures.samples(cfg, rho, r, pi, tokens, cut, queries)
    gpt.write_whole(os.path.join(cfg.out, "samples.txt"),
                    lambda name: Path(name).write_text(samples, "utf-8"))
    gpt.write_whole(os.path.join(cfg.out, "figure.png"),
                    lambda name: figures.draw(results, log, name))
    write_json(path, results)


# --- the driver -----------------------------------------------------------------------------------

def run(cfg):
    """rho, steps 1 to 3 of section 2 and the evaluation, each kept in the run's folder."""
    os.makedirs(cfg.out, exist_ok=True)
    print(f"{cfg.task}, seed {cfg.seed}, on {cfg.device}, into {cfg.out}")
    seconds, parts = {}, read_passages(cfg)

    (rho, tokens), seconds["language_model"] = stage(
        cfg, "language_model", "rho.pt", lambda path: train_language_model(cfg, parts, path),
        lambda path: load_gpt(path, cfg.device))
    queries = all_queries(cfg, parts, tokens)
    cut = cut_at(tokens.period, cfg.truncate_after)

    (train, held_out), seconds["labels"] = stage(
        cfg, "labels", "labels.jsonl",
        lambda path: collect_labels(cfg, rho, tokens, cut, queries["reward"], path),
        reward.split_labels)

    r, seconds["reward_model"] = stage(
        cfg, "reward_model", "reward.pt",
        lambda path: train_reward_model(cfg, rho, tokens, cut, train, queries["reward"], path),
        lambda path: load_onto(reward.RewardModel(rho), path, cfg.device))
    score = period_rule(r, cut)

    pi, seconds["policy"] = stage(
        cfg, "policy", "policy.pt",
        lambda path: train_policy(cfg, rho, score, cut, queries["policy"], path),
        lambda path: load_onto(Policy(rho), path, cfg.device))

    results, seconds["evaluation"] = stage(
        cfg, "evaluation", "results.json",
        lambda path: evaluate(cfg, rho, r, pi, tokens, cut, parts, queries["evaluation"],
                              train, held_out, path),
        read_json)
    results["seconds"] = seconds
    results["policy"]["episodes_per_second"] = results["policy"]["episodes"] / seconds["policy"]
    write_json(os.path.join(cfg.out, "results.json"), results)
    blocks = Path(cfg.out, "samples.txt").read_text("utf-8").split("\n\n")
    print("\n" + "\n\n".join(blocks[:3]) + "\n\n" + figures.table(results))
    return results


def sample_command(cfg, prompt):
    """Zero-shot and fine-tuned continuations of a prompt, side by side, as the run made them."""
    stages = read_note(os.path.join(cfg.out, "config.json"))["stages"]
    if "policy" not in stages:
        raise Complaint(f"{cfg.out} holds no finished policy; run rlhf.py first, or give its --out")
    made = stages["policy"]["settings"]
    cfg = replace(cfg, **{key: made[key] for key in ("response", "temperature", "truncate_after")})
    rho, tokens = load_gpt(os.path.join(cfg.out, "rho.pt"), cfg.device)
    pi = load_onto(Policy(rho), os.path.join(cfg.out, "policy.pt"), cfg.device)
    x = torch.tensor([tokens.encode(prompt)], device=cfg.device)
    room = rho.shape["context"] - cfg.response
    if x.size(1) > room or not prompt.strip():
        raise Complaint(f"--prompt has {x.size(1)} tokens, but must have 1 to {room}")
    torch.manual_seed(cfg.seed)
    for name, model in (("zero-shot", rho), ("fine-tuned", pi.trunk)):
        y, length = sample_finished(model, x.expand(3, -1), cfg.response, cfg.temperature,
                                    cut_at(tokens.period, cfg.truncate_after))
        for ids, n in zip(y, length):
            print(f"{name:<11} {tokens.decode(ids[:n])}")


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
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv.pop(0) if argv and not argv[0].startswith("-") else "run"
    if command not in ("run", "sample"):
        raise Complaint(f"{command!r} is not a command: give sample, or none for the whole run")
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
    may_be_0 = ("seed", "kl_target", "truncate_after", "beta", "K", "vf_coef", "whiten_rewards")
    for f in fields(cfg):
        if f.type in (int, float):
            value = getattr(cfg, f.name)
            enough = value >= 0 if f.name in may_be_0 else value > 0
            need(enough and math.isfinite(value), f.name,
                 "0 or more" if f.name in may_be_0 else "above 0")
    need(cfg.seed < 2 ** 32, "seed", "below 4294967296")
    need(cfg.vocabulary >= 257, "vocabulary", "at least 257: the bytes and one merge")
    need(cfg.width % cfg.heads == 0, "width", f"a multiple of --heads, {cfg.heads}")
    need(cfg.query_min <= cfg.query_max, "query_min", f"at most --query_max, {cfg.query_max}")
    need(cfg.truncate_after < cfg.response, "truncate_after", f"below --response, {cfg.response}")
    need(cfg.share < 1 / 3, "share", "below a third, so that something is left for rho")
    need(cfg.minibatches <= cfg.batch, "minibatches", f"at most --batch, {cfg.batch}")
    need(cfg.n_labels >= 5, "n_labels", "at least 5")
    need(cfg.beta > 0 or not cfg.kl_target, "beta", "above 0, unless --kl_target is 0")
    if cfg.labels:
        reward.split_labels(cfg.labels)


def main(argv=None):
    """Run a command; 0, or 2 after one sentence on what the user can mend."""
    try:
        command, prompt, cfg = read_options(argv)
        if command == "sample":
            sample_command(cfg, prompt)
        else:
            run(cfg)
    except (KeyboardInterrupt, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)         # perhaps nobody reads any more
        print("rlhf.py: stopped; finished stages are kept for the same command", file=sys.stderr)
        return 2
    except (Complaint, OSError) as e:
        print(f"rlhf.py: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")        # a terminal that has not every letter
    sys.exit(main())
