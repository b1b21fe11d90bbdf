"""
rlhf.py: the whole experiment, from nothing to a policy that labelers prefer.

Paper: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences":
stylistic continuation, the tasks of section 3.1, by the steps of section 2.

    python rlhf.py                               sentiment, every stage
    python rlhf.py --task descriptiveness        the second style task
    python rlhf.py --quick                       all of it in miniature, 40 seconds
    python rlhf.py sample --prompt "Mara the baker came to the harbor one morning."

A run leaves rho.pt, labels.jsonl, reward.pt, policy.pt, metrics.jsonl, samples.txt,
figure.png and results.json in its folder, out/<task>-seed<seed>. After a stop, the same
command keeps the stages that are done, and starts again at the one that was cut off; PPO
goes on from its last checkpoint.
"""

import argparse
import copy
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path

if __name__ == "__main__":           # Ctrl-C in the seconds of the imports just ends it
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import torch
from torch.optim.lr_scheduler import LinearLR

import stories
from evaluate import (closing_table, draw_figure, evaluate, language_model_losses,
                      reward_model_results, samples_text, seeded, side_by_side,
                      true_reward)
from gpt import GPT, Sampling, check_finite, train_language_model
from ppo import CRITICS, AdaptiveKL, Policy, policy_optimizer, ppo_update, rollout
from reward import (Comparison, RewardModel, generate_questions, learned_reward,
                    normalize, samples_of_rho, split_comparisons, train_reward_model,
                    write_comparisons)
from text import (QuerySampler, Tokenizer, UserError, collate, extract_queries,
                  query_batches, read_passages, sentence_windows, split_passages,
                  train_bpe, truncate_at_period)

try:
    import fcntl
except ImportError:                  # Windows, where nothing stops two runs in one folder
    fcntl = None


# --- settings ---------------------------------------------------------------------------

def setting(default, help, least=None):
    """A field of Config. A number must be at least `least`, or else above 0."""
    return field(default=default, metadata={"help": help, "least": least})


@dataclass
class Config:
    """Every setting. paper: the 774M runs of the style tasks; released: the released
    code; PPO2: the defaults of OpenAI's baselines, to which the paper refers."""
    task: str = setting("sentiment", "sentiment or descriptiveness: what labelers like")
    seed: int = setting(0, "seed of all randomness", least=0)
    out: str = setting("", "folder of the run; out/<task>-seed<seed> if not given")
    device: str = setting("", "cpu, cuda or mps; the best one present if not given")
    quick: bool = setting(False, "every stage in miniature")
    rho: str = setting("", "a rho.pt to start from, with its shape, tokens, queries")
    labels: str = setting("", "a labels.jsonl for r, in place of simulated labels")
    text: str = setting("", "a file, or a folder of *.txt, for rho to read, not stories")
    simulated_judge: bool = setting(False, "with --labels: simulated labelers vote too")

    passages: int = setting(20000, "stories to write")
    share: float = setting(0.1, "part of the stories for each of r, pi, evaluation")
    vocab_size: int = setting(1536, "tokens of the BPE; paper: 50,257", least=257)
    n_layer: int = setting(2, "blocks of the model; paper: 36; released: 12")
    n_head: int = setting(4, "attention heads; paper: 20; released: 12")
    n_embd: int = setting(128, "channels; paper: 1280; released: 768")
    lm_steps: int = setting(2500, "steps of training rho; paper: not stated", least=0)
    lm_batch: int = setting(16, "windows a step; paper: not stated")
    lm_lr: float = setting(6e-3, "peak learning rate of rho; paper: not stated")

    query_min: int = setting(9, "tokens of the shortest query; paper: 32")
    query_max: int = setting(14, "tokens of the longest query; paper and released: 64")
    response_length: int = setting(24, "tokens of a response; paper and released: 24")
    truncate_after: int = setting(16, "y ends at a period from here; paper: 16", least=0)
    temperature: float = setting(0.7, "divides the logits; paper and released: 0.7")

    n_labels: int = setting(12000, "for r; paper: 5k to 20k; released: 4,992", least=5)
    reward_lr: float = setting(1e-3, "r's rate, to 0; paper: 1.77e-5; released: 5e-5")
    reward_batch: int = setting(8, "comparisons a step; paper: 8; released: 32")

    episodes: int = setting(16384, "responses pi learns from; paper: 2M; released: 1M")
    batch_size: int = setting(128, "episodes an update; paper: 1024; released: 512")
    # here: four steps on a quarter of a batch each, not four on all of it. With higher
    # rates they bring pi as far, in a third of the time.
    epochs: int = setting(1, "passes over a batch; paper and released: 4")
    minibatches: int = setting(4, "Adam steps an epoch; paper and released: 1")
    lr: float = setting(4e-4, "pi's rate, falls to 0; paper: 1.41e-5; released: 1e-5")
    critic: str = setting("own", "own trunk for V; released: shared; none: leave-one-out")
    critic_lr: float = setting(4e-3, "V's rate, falls to 0; released: pi's")
    group_size: int = setting(4, "responses to a query, where --critic is none", least=2)
    # here: a KL target of 3 nats, for the optimum, which is weighted samples of rho, is
    # known only up to there; and K = 0.1 as in the paper, a step per update. The released
    # rule, batch / 10,000, would hardly move beta at a batch of 128.
    kl_target: float = setting(3.0, "nats; 0: fixed; paper: 10, 6; released: 6", least=0)
    # here: above where it ends, so that KL does not run past its target while V is new.
    beta: float = setting(0.6, "first price of a nat, in reward; released: 0.15", least=0)
    K: float = setting(0.1, "step of beta; paper: 0.1; released: 0.051", least=0)
    clip: float = setting(0.2, "PPO's, of ratio and value; PPO2 and released: 0.2")
    lam: float = setting(0.95, "GAE's lambda; PPO2 and released: 0.95", least=0)
    vf_coef: float = setting(0.5, "of the value loss; PPO2: 0.5; released: 0.1", least=0)
    whiten_rewards: bool = setting(False, "scale rewards to deviation 1; released: yes")
    save_every: int = setting(16, "updates between checkpoints of PPO; 0: none", least=0)
    keep_every: int = setting(0, "updates between policies kept; 0: the last", least=0)

    eval_queries: int = setting(1024, "held-out queries of an evaluation; paper: 1024")
    supervised_lr: float = setting(5e-4, "of the supervised baseline; 0: none", least=0)
    optimum_queries: int = setting(32, "to estimate the optimum on; 0: none", least=0)
    optimum_samples: int = setting(512, "samples of rho for each of them")


QUICK = dict(n_embd=64, passages=2500, lm_steps=450, lm_lr=1e-2, n_labels=1000,
             episodes=2560, lr=1.2e-3, beta=0.3, eval_queries=256, optimum_queries=16,
             optimum_samples=128)


# here: for --text. A novel's sentences are longer than the stories'.
TEXT = dict(share=0.15, vocab_size=2048, query_min=8, query_max=80, response_length=48,
            kl_target=6.0, beta=0.1, episodes=8192)


# --- the five stages --------------------------------------------------------------------

def new_model(cfg, passages):
    """rho before its training, and the tokenizer that the passages teach."""
    tokenizer = Tokenizer(train_bpe(passages, cfg.vocab_size))
    block_size = cfg.query_max + cfg.response_length
    rho = GPT(len(tokenizer.tokens), block_size, cfg.n_layer, cfg.n_head, cfg.n_embd)
    return rho.to(cfg.device), tokenizer


def pretrain(cfg, rho, tokenizer, parts, progress):
    """2.1: train rho on the passages of parts["train"]; take queries from the others.

    -> queries {part: {length: (n, length)}}, rho's held-out losses."""
    queries = extract_queries(parts, tokenizer, cfg.query_min, cfg.query_max)
    T = cfg.query_max + cfg.response_length
    train = sentence_windows(parts["train"], tokenizer, T)           # (N, T + 1)
    test = sentence_windows(parts["evaluation"], tokenizer, T)[:2000]
    batches = torch.randint(len(train), (cfg.lm_steps, cfg.lm_batch))
    all_tokens = torch.ones_like(train, dtype=torch.bool)
    train_language_model(rho, train, all_tokens, progress(batches), cfg.lm_lr)
    losses = language_model_losses(rho, train, test)
    check_finite(losses["loss"], "held-out loss", "language model, at the end")
    progress.note = f"loss {losses['loss']:.3f}"
    return queries, losses


def collect_comparisons(cfg, rho, tokenizer, queries, sampling, progress):
    """2.4: ask simulated labelers which of four samples of rho is best: n_labels times to
    train r, and a fifth as often again, about other queries, to see how good it is."""
    rng = seeded(cfg.seed, "labels")         # as `stage` did; here for the choices
    n = cfg.n_labels + cfg.n_labels // 5
    questions = generate_questions([rho], queries, n, sampling, tokenizer, progress)
    p = stories.choice_probabilities(cfg.task, [samples for _, samples in questions])
    best = stories.choose(p, rng)[:, 0]
    return [Comparison(query, samples, int(b))
            for (query, samples), b in zip(questions, best)]


def train_reward(cfg, rho, tokenizer, comparisons, queries, sampling, progress):
    """Eq. 1: r, trained for one epoch. It is normalized on samples of rho after training
    (paper), and before, so that training starts at that scale (released code)."""
    r = RewardModel(rho)
    samples = samples_of_rho(rho, queries, sampling)
    normalize(r, *samples)
    tokens, lengths, best = collate(comparisons, tokenizer, rho.shape["block_size"])
    batches = progress(torch.randperm(len(best)).split(cfg.reward_batch))
    train_reward_model(r, tokens, lengths, best, cfg.reward_lr, batches)
    normalize(r, *samples)
    check_finite(r.bias.item(), "mean score of rho", "reward model, at the end")
    return r


def train_policy(cfg, rho, reward, true, queries, sampling, progress):
    """Eq. 2, 2.2: pi, by PPO. Every update leaves a line in metrics.jsonl.

    true may be None, where nobody is there to judge. After a stop it goes on from the
    last checkpoint, and ends as if it had never stopped."""
    pi = Policy(rho, cfg.critic)
    kl_control = AdaptiveKL(cfg.beta, cfg.kl_target, cfg.K)
    optimizer = policy_optimizer(pi, cfg)
    sampler = QuerySampler(queries, cfg.device)
    group_size = cfg.group_size if cfg.critic == "none" else 1
    updates = math.ceil(cfg.episodes / cfg.batch_size)
    to_zero = LinearLR(optimizer, 1.0, 0.0, updates)
    folder = Path(cfg.out)
    done = 0
    if (folder / "checkpoint.pt").exists():
        done = load_checkpoint(folder, pi, optimizer, to_zero, kl_control, progress)
    with open_metrics(folder / "metrics.jsonl", done) as metrics:
        for update in progress(range(done, updates)):
            query = sampler.sample(cfg.batch_size, group_size)
            batch = rollout(pi, rho, reward, query, sampling)
            stats = ppo_update(pi, optimizer, batch, kl_control.beta, cfg)
            kl_control.update(stats["kl"])
            to_zero.step()

            for key, value in stats.items():
                check_finite(value, key, f"policy, update {update + 1} of {updates}")
            stats["episode"] = (update + 1) * cfg.batch_size
            if true is not None:
                stats["true"] = true(batch.query, batch.response).mean().item()
            metrics.write(json.dumps(stats) + "\n")
            metrics.flush()
            progress.note = f"r {stats['score']:+.2f}, KL {stats['kl']:.2f}"
            done = update + 1
            if cfg.save_every and done % cfg.save_every == 0:
                save_checkpoint(folder, done, pi, optimizer, to_zero, kl_control,
                                progress)
            if cfg.keep_every and done % cfg.keep_every == 0:
                save(folder / f"policy-{done}.pt", policy=pi.trunk.state_dict())

    # What an update reports is from before its steps. So: is pi sound after the last?
    batch = rollout(pi, rho, reward, sampler.sample(cfg.batch_size, group_size), sampling)
    check_finite(batch.logprobs.mean().item(), "log-probability", "policy, at the end")
    return pi


def save_checkpoint(folder, done, pi, optimizer, to_zero, kl_control, progress):
    """checkpoint.pt: all that PPO needs to go on after `done` updates."""
    save(folder / "checkpoint.pt", done=done, policy=pi.state_dict(),
         optimizer=optimizer.state_dict(), schedule=to_zero.state_dict(),
         beta=kl_control.beta, device=pi.trunk.device.type,
         random=random_state(pi.trunk.device), seconds=time.time() - progress.started)


def load_checkpoint(folder, pi, optimizer, to_zero, kl_control, progress):
    """Everything as save_checkpoint found it. -> the number of updates that are done."""
    path = folder / "checkpoint.pt"
    with reading(path):
        saved = load_saved(path)
        if saved["device"] != pi.trunk.device.type:
            raise UserError(f"{path} was made with --device {saved['device']}; go on "
                            "with that, or delete it to start PPO again")
        pi.load_state_dict(saved["policy"])
        optimizer.load_state_dict(saved["optimizer"])
        to_zero.load_state_dict(saved["schedule"])
        kl_control.beta = saved["beta"]
        torch.set_rng_state(saved["random"][0])
        if saved["device"] == "cuda":
            torch.cuda.set_rng_state(saved["random"][1])
        elif saved["device"] == "mps":
            torch.mps.set_rng_state(saved["random"][1])
        progress.started -= saved["seconds"]
        if type(saved["done"]) is not int or not 0 < kl_control.beta < math.inf:
            raise ValueError("update or beta")
        return saved["done"]


def random_state(device):
    """The generators' states, as bytes (n,): the CPU's, and that of a GPU if there is
    one, which samples there."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state())
    elif device.type == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def open_metrics(path, done):
    """metrics.jsonl, open to add to the lines of the updates that are done."""
    lines = []
    if done:
        with reading(path):
            lines = path.read_text("utf-8").splitlines(keepends=True)
    if len(lines) < done:
        raise UserError(f"{path} has {len(lines)} lines, but checkpoint.pt is of update "
                        f"{done}; delete checkpoint.pt to start PPO again")
    with whole_file(path) as part:
        part.write_text("".join(lines[:done]))
    return open(path, "a")


# --- a run ------------------------------------------------------------------------------

STAGES = ["language_model", "labels", "reward_model", "policy", "evaluation"]
FILES = ["rho.pt", "labels.jsonl", "reward.pt", "policy.pt", "results.json"]   # one each


def run(cfg):
    """The paper's experiment. A stage whose file is in the folder is not run again."""
    folder = Path(cfg.out)
    if cfg.rho:
        copy_once(cfg.rho, folder / "rho.pt")
    if not (folder / "rho.pt").exists():
        with stage(cfg, "language_model") as progress:
            parts = split_passages(passages_of(cfg), cfg.share)
            rho, tokenizer = new_model(cfg, parts["train"])
            queries, losses = pretrain(cfg, rho, tokenizer, parts, progress)
            save_rho(folder / "rho.pt", rho, tokenizer, queries, losses)
    rho, tokenizer, queries, losses = load_rho(folder / "rho.pt", cfg.device)
    sampling = sampling_of(cfg, tokenizer)

    if cfg.labels:
        copy_once(cfg.labels, folder / "labels.jsonl")
    if not (folder / "labels.jsonl").exists():
        with stage(cfg, "labels") as progress:
            comparisons = collect_comparisons(cfg, rho, tokenizer, queries["reward"],
                                              sampling, progress)
            with whole_file(folder / "labels.jsonl") as part:
                write_comparisons(part, comparisons)
    train, held_out = split_comparisons(folder / "labels.jsonl")
    if len(train) > cfg.n_labels:            # only where a file is given
        print(f"r learns from {cfg.n_labels:,} of {len(train):,} comparisons; --n_labels "
              "takes more")
        train = train[:cfg.n_labels]

    if not (folder / "reward.pt").exists():
        (folder / "checkpoint.pt").unlink(missing_ok=True)   # of an r that is gone
        with stage(cfg, "reward_model") as progress:
            r = train_reward(cfg, rho, tokenizer, train, queries["reward"], sampling,
                             progress)
            save(folder / "reward.pt", reward=r.state_dict())
    r = load(RewardModel(rho), folder / "reward.pt", "reward")
    reward = learned_reward(r, sampling)
    true = None              # a person's labels are not judged by simulated labelers
    if cfg.simulated_judge or not cfg.labels:
        true = true_reward(cfg.task, tokenizer, sampling, held_out)

    if not (folder / "policy.pt").exists():
        with stage(cfg, "policy") as progress:
            pi = train_policy(cfg, rho, reward, true, queries["policy"], sampling,
                              progress)
            save(folder / "policy.pt", policy=pi.trunk.state_dict())
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    pi = load(copy.deepcopy(rho), folder / "policy.pt", "policy")

    if not (folder / "results.json").exists():
        unseen = queries["evaluation"]
        with stage(cfg, "evaluation") as progress:
            results = {"task": cfg.task, "seed": cfg.seed, "config": asdict(cfg),
                       "language_model": losses,
                       **reward_model_results(cfg, r, tokenizer, held_out),
                       **evaluate(cfg, rho, pi, [reward, true], unseen, sampling,
                                  tokenizer, train, progress)}
            samples = samples_text(cfg, rho, pi, reward, unseen, sampling, tokenizer)
        results["labels"]["n"] = len(train)
        write_results(folder, results, samples)
    print_results(folder)


def passages_of(cfg):
    """What rho learns from: the text that is given, or stories."""
    if cfg.text:
        passages = read_passages(Path(cfg.text))
        print(what_to_expect(passages))
        return passages
    rng = random.Random(cfg.seed)
    return [stories.passage(rng) for _ in range(cfg.passages)]


def write_results(folder, results, samples):
    """What a person looks at; results.json last, for with it the run is whole."""
    with reading(folder / "metrics.jsonl"):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        log = [json.loads(line) for line in lines]
        for line in log:
            for name in ("episode", "score", "kl", "beta"):
                float(line[name])
        beta, episodes = log[-1]["beta"], log[-1]["episode"]
    with reading(folder / "seconds.json"):
        seconds = read_json(folder / "seconds.json")     # not of stages that were given
        seconds = {name: float(seconds.get(name, 0.0)) for name in STAGES}
    results["seconds"] = seconds
    results["policy"].update(beta=beta, episodes=episodes, episodes_per_second=None)
    if seconds["policy"] > 0:
        results["policy"]["episodes_per_second"] = episodes / seconds["policy"]
    with whole_file(folder / "samples.txt") as part:
        part.write_text(samples, "utf-8")
    with whole_file(folder / "figure.png") as part:
        draw_figure(part, results, log)
    write_json(folder / "results.json", results)


def print_results(folder):
    """What a run says at its end: three samples, and the table."""
    results = read_json(folder / "results.json")
    with reading(folder / "results.json"):
        table = closing_table(results)
    with reading(folder / "samples.txt"):
        blocks = (folder / "samples.txt").read_text("utf-8").split("\n\n")
    print("", *blocks[1:4], table, sep="\n\n")
    print(f"\nThe picture is {folder}/figure.png; 40 samples are in {folder}/samples.txt")


def sampling_of(cfg, tokenizer):
    truncate = partial(truncate_at_period, period=tokenizer.period,
                       after=cfg.truncate_after)
    return Sampling(cfg.response_length, cfg.temperature, truncate)


@contextmanager
def stage(cfg, name):
    """Seed a stage, show its progress, and keep the seconds it took."""
    seeded(cfg.seed, name)
    progress = Progress(f"{STAGES.index(name) + 1}/5 {name.replace('_', ' ')}")
    try:
        yield progress
    except RuntimeError as e:                # torch's, where a CPU or GPU has no more
        if "allocate" not in str(e):
            raise
        raise UserError("there is not enough memory for these settings") from None
    seconds = time.time() - progress.started
    progress.show(f"{seconds:5.0f} s  {progress.note}")
    print()
    path = Path(cfg.out, "seconds.json")
    earlier = read_json(path) if path.exists() else {}
    write_json(path, {**earlier, name: round(seconds, 1)})


class Progress:
    """The line of a stage. It wraps batches as tqdm does: progress(batches) gives them as
    they are, while a terminal shows how many are done, and the time left."""

    def __init__(self, title):
        self.title, self.note = title, ""
        self.started = time.time()

    def __call__(self, batches):
        self.batches = batches
        return self

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        started = shown = time.time()
        for done, batch in enumerate(self.batches, 1):
            yield batch
            now = time.time()
            if sys.stdout.isatty() and now - shown > 0.2:
                left = (now - started) * (len(self) / done - 1)
                bar = "#" * (20 * done // len(self))
                self.show(f"[{bar:<20}] {left:4.0f} s left  {self.note}")
                shown = now

    def show(self, text):
        """Write the line: at a terminal over the last one, no longer than it is wide."""
        line = f"{self.title:<18} {text}"
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            line = "\r" + " " * width + "\r" + line[:width]
        print(line, end="", flush=True)


# --- the folder of a run, and its files -------------------------------------------------

@contextmanager
def run_folder(cfg):
    """Make the folder of a run, or go on in the one that is there: if it was made by
    these settings, and no other process is at work in it. What is done stays."""
    folder = Path(cfg.out)
    folder.mkdir(parents=True, exist_ok=True)
    finished = (folder / "results.json").exists()        # only read, from any disk
    with open(os.devnull if finished else folder / "lock", "w") as lock:
        try:                                             # released when the process ends
            if fcntl is not None and not finished:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is at work in {folder}; wait for it, or give "
                            "another --out") from None
        if any((folder / name).exists() for name in FILES):
            refuse_another_run(cfg, folder)
        else:                                            # new, or no stage is done yet
            config = folder / "config.json"
            # Not over the config.json of another program, of weights say.
            if config.exists() and "kl_target" not in read_json(config):
                raise UserError(f"{config} is not a run's; give another --out")
            write_json(config, asdict(cfg))
        yield


# Settings that change no result of a run, so that it may go on with others.
NOT_BINDING = ("out", "device", "save_every", "keep_every")


def refuse_another_run(cfg, folder):
    """UserError where the folder's run has other settings, or a file that was made from
    one that is gone."""
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} holds files of a run but no config.json to say of "
                        "which; give another --out")
    theirs = read_json(folder / "config.json")
    for name, value in asdict(cfg).items():
        if name not in NOT_BINDING and theirs.get(name) != value:
            raise UserError(
                f"{folder} holds a run with --{name} {theirs.get(name)!r}, not {value!r};"
                f" give another --out, and --rho {folder}/rho.pt or --labels "
                f"{folder}/labels.jsonl to start from its parts")
    for earlier, later in zip(FILES, FILES[1:]):
        if (folder / later).exists() and not (folder / earlier).exists():
            raise UserError(f"{folder}/{later} was made from a {earlier} that is gone; "
                            "delete it and what was made after it, or give another --out")


@contextmanager
def whole_file(path):
    """A name to write to. Only when all is written does the file get its own name: what
    lies under that is whole."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        os.replace(part, path)
    except RuntimeError:                                 # torch.save's, on a full disk
        raise UserError(f"{path} cannot be written whole; is the disk full?") from None
    finally:
        part.unlink(missing_ok=True)                     # of what was not written whole


@contextmanager
def reading(path):
    """Any error in reading a file becomes one sentence that names the file."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as e:                   # json's, torch's; or a missing key
        lines = str(e).strip().splitlines() or [type(e).__name__]
        reason = lines[0]
        if isinstance(e, KeyError):
            reason = f"{lines[0]} is missing"
        elif lines[0].endswith(":") and len(lines) > 1:          # load_state_dict's
            reason = lines[1].strip()
        raise UserError(f"{path} is damaged, or not what it should be ({reason}); if a "
                        "run made it, delete it and run again") from None


def copy_once(given, path):
    """A run has its own copy of a file that it is given, and stays with it."""
    if not path.exists():
        with whole_file(path) as part:
            shutil.copyfile(given, part)
    elif path.read_bytes() != Path(given).read_bytes():
        raise UserError(f"{given} has changed since {path} was copied from it; give "
                        "another --out")


def write_json(path, value):
    with whole_file(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


def read_json(path):
    with reading(path):
        return {**json.loads(path.read_text("utf-8"))}       # or a TypeError: no object


def save(path, **parts):
    with whole_file(path) as part:
        torch.save(parts, part)


def load_saved(path):
    """The dictionary in a file of torch.save's, if it holds data alone: nothing that is
    pickled in it is run."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as e:       # torch's own words advise to run what is in the file
        if isinstance(e, OSError) and e.filename:        # not there, or not readable
            raise
        saved = None
    if not isinstance(saved, dict):
        raise UserError(f"{path} is cut short, damaged, or not a file of tensors alone "
                        "as torch.save writes it")
    return saved


def load(module, path, key):
    """The module with the weights that `save` saved under this key."""
    with reading(path):
        module.load_state_dict(load_saved(path)[key])
    return module


def save_rho(path, rho, tokenizer, queries, losses):
    """rho.pt: a model, its shape, its tokens, queries {part: {length: (n, length)}}."""
    tokens = [token.decode("latin-1") for token in tokenizer.tokens]   # a letter a byte
    save(path, shape=rho.shape, weights=rho.state_dict(), tokens=tokens, queries=queries,
         losses=losses)


def load_rho(path, device):
    """What save_rho saved, the model on the device."""
    with reading(path):
        saved = load_saved(path)
        check_rho(**saved)
        rho = GPT(**saved["shape"]).to(device)
        rho.load_state_dict(saved["weights"])
        tokenizer = Tokenizer([token.encode("latin-1") for token in saved["tokens"]])
        return rho, tokenizer, saved["queries"], saved["losses"]


def check_rho(shape, weights, tokens, queries, losses):
    """ValueError where the parts of a rho.pt do not fit; all else can then trust it."""
    def need(holds, what):
        if not holds:
            raise ValueError(what)

    for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
        need(type(shape[name]) is int and shape[name] > 0, f"{name} {shape[name]!r}")
    need(shape["n_embd"] % shape["n_head"] == 0, f"{shape['n_head']} heads")
    layers = {name.split(".")[1] for name in weights if name.startswith("h.")}
    need(len(layers) == shape["n_layer"], f"n_layer {shape['n_layer']}")
    for name, size in (("wte.weight", "vocab_size"), ("wpe.weight", "block_size")):
        wanted = (shape[size], shape["n_embd"])
        need(weights[name].shape == wanted, f"{name} is not {wanted}")
    known = {token.encode("latin-1") for token in tokens}
    need(len(tokens) <= shape["vocab_size"], "more tokens than vocab_size")
    need(known >= {bytes([b]) for b in range(256)}, "a byte that is no token")
    need(len(known - {b""}) == sum(token != "" for token in tokens), "a token twice")
    for part in ("reward", "policy", "evaluation"):
        need(len(queries[part]) > 0, f"no queries for {part}")
        for length, group in queries[part].items():
            need(group.dtype == torch.long and group.dim() == 2 and len(group) > 0
                 and 0 < length == group.size(1) < shape["block_size"],
                 f"queries of {length} tokens for {part}")
            need(0 <= group.min() and group.max() < shape["vocab_size"],
                 f"a query for {part} with a token that is none")
    for name in ("loss", "unigram_loss"):
        need(math.isfinite(losses[name]), f"{name} {losses[name]!r}")


def read_config_of(folder):
    """The Config of a run that is there. UserError names what is none of its settings."""
    path = folder / "config.json"
    saved = read_json(path)
    known = {f.name: f for f in fields(Config)}
    for name, value in saved.items():
        kind = known[name].type if name in known else ()
        if kind is float:
            kind = (float, int)
        if not isinstance(value, kind):
            raise UserError(f"{path}: {name} {value!r} is no setting of this version")
    return Config(**saved)


# --- the command line -------------------------------------------------------------------

class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; --help explains the options")


def devices():
    """What is present, the best first: CUDA, Apple's MPS, the CPU."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    return [name for name in present if present[name]] + ["cpu"]


def read_config(argv):
    """The Config of a command line; --quick changes the settings that are not given."""
    parser = Parser(prog="rlhf.py", usage="%(prog)s [options]", description=__doc__,
                    allow_abbrev=False, argument_default=argparse.SUPPRESS,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(Config):
        text = f"{f.metadata['help']} (here: {f.default!r})"
        if f.type is bool:
            parser.add_argument(f"--{f.name}", action="store_true", help=text)
        else:
            kind = f.type.__name__
            parser.add_argument(f"--{f.name}", type=f.type, metavar=kind, help=text)
    given = vars(parser.parse_args(argv))                # only what was given
    preset = QUICK if given.get("quick") else {}
    if given.get("text") and not given.get("rho"):
        preset = {**settings_of_text(Path(given["text"])), **preset}
    cfg = Config(**{**preset, **given})
    check(cfg)
    folder = f"out/{cfg.task}-seed{cfg.seed}"
    if cfg.quick:
        folder += "-quick"
    cfg = replace(cfg, device=cfg.device or devices()[0], out=cfg.out or folder)
    check_memory(cfg)
    return cfg


def settings_of_text(path):
    """The settings for a text, where the command line gives none. here: a step of
    training for each 1,200 characters, 100 to 2,500 of them; a novel has some 400."""
    characters = sum(len(passage) for passage in read_passages(path))
    return {**TEXT, "lm_steps": min(2500, max(100, characters // 1200))}


def what_to_expect(passages):
    """Said before rho reads a text of one's own."""
    millions = sum(len(passage) for passage in passages) / 1e6
    return (f"{millions:.1f} million characters, to learn to write from. From a novel, "
            "half a million, rho learns words and turns of phrase, but few sentences "
            "that make sense")


def least_memory(cfg):
    """Bytes that a run on the CPU takes at the least: its models, texts and rows of
    batches, without what a backward pass keeps."""
    S = cfg.query_max + cfg.response_length
    weights = (12 * cfg.n_layer * cfg.n_embd + cfg.vocab_size + S) * cfg.n_embd
    # rho and r once; pi, and a V of its own, with gradients and Adam's two averages.
    copies = 10 if cfg.critic == "own" else 6
    models = 4 * weights * copies
    texts = cfg.n_labels * (40 * S + 1000)
    if not cfg.text:
        texts += cfg.passages * 4000
    batches = 8 * cfg.lm_steps * cfg.lm_batch
    scoring = 4 * cfg.batch_size * cfg.response_length * cfg.vocab_size
    return models + texts + batches + scoring


def check_memory(cfg):
    """Refuse what this machine could never hold. (Of a --rho the shape is not known.)"""
    if cfg.rho or cfg.device != "cpu" or not hasattr(os, "sysconf"):     # or on Windows
        return
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if least_memory(cfg) > ram:
        raise UserError(f"these settings take {least_memory(cfg) / 2**30:,.0f} GiB of "
                        f"memory and more, and this machine has {ram / 2**30:,.0f}")


def check(cfg):
    """Refuse what no run could use, before anything is trained or written."""
    def need(holds, name, what):
        if not holds:
            raise UserError(f"--{name} is {getattr(cfg, name)!r}, but must be {what}")

    for f in fields(cfg):
        value, least = getattr(cfg, f.name), f.metadata["least"]
        if f.type in (int, float):
            need(value == 0 or 1e-38 < abs(value) < 3e38, f.name,
                 "a finite number, 0 or from 1e-38 to 3e38")
            need(f.type is float or value < 10 ** 18, f.name, "below 1e18")
            if least is None:
                need(value > 0, f.name, "above 0")
            else:
                need(value >= least, f.name, f"at least {least}")
    need(cfg.task in stories.SCORES, "task", " or ".join(stories.SCORES))
    need(cfg.device in ["", *devices()], "device", f"present: {' or '.join(devices())}")
    need(cfg.n_embd % cfg.n_head == 0, "n_embd", f"a multiple of --n_head, {cfg.n_head}")
    need(cfg.share < 1 / 3, "share", "below a third, so that something is left for rho")
    need(cfg.query_min <= cfg.query_max, "query_min",
         f"at most --query_max, {cfg.query_max}")
    need(cfg.truncate_after < cfg.response_length, "truncate_after",
         f"below --response_length, {cfg.response_length}")
    need(cfg.minibatches <= cfg.batch_size, "minibatches",
         f"at most --batch_size, {cfg.batch_size}")
    need(cfg.critic in CRITICS, "critic", " or ".join(CRITICS))
    need(cfg.batch_size % cfg.group_size == 0 or cfg.critic != "none", "batch_size",
         f"a multiple of --group_size, {cfg.group_size}")
    need(cfg.lam <= 1, "lam", "at most 1")
    need(cfg.K < 5, "K", "below 5, or beta could turn its sign: 1 + K e, with e >= -0.2")
    need(cfg.beta > 0 or cfg.kl_target == 0, "beta", "above 0, or --kl_target 0")
    for name in ("rho", "labels"):
        path = getattr(cfg, name)
        need(not path or Path(path).is_file(), name, "a file that is there")
    need(not cfg.text or not cfg.rho, "text", "left out with --rho, which has read one")
    if cfg.labels:
        split_comparisons(cfg.labels)                    # says what is wrong, if anything
    if cfg.rho:
        rho, _, queries, _ = load_rho(Path(cfg.rho), "cpu")
        room = rho.shape["block_size"] - max(max(part) for part in queries.values())
        need(cfg.response_length <= room, "response_length",
             f"at most {room} with the queries of {cfg.rho}")


def sample_command(argv):
    """What rho and pi of a finished run say to a prompt, side by side."""
    parser = Parser(prog="rlhf.py sample", description=sample_command.__doc__,
                    allow_abbrev=False)
    parser.add_argument("--out", default="out/sentiment-seed0", help="folder of the run")
    parser.add_argument("--prompt", help="what to continue; you are asked if not given")
    parser.add_argument("--n", type=int, default=3, help="continuations by each model")
    parser.add_argument("--temperature", type=float, help="the run's own if not given")
    parser.add_argument("--seed", type=int, default=0, help="seed of all randomness")
    options = parser.parse_args(argv)
    folder = Path(options.out)
    if not (folder / "policy.pt").exists():
        raise UserError(f"{folder} holds no finished policy; run rlhf.py first, or give "
                        "the --out of a run")
    cfg = read_config_of(folder)
    if options.temperature is not None:
        cfg = replace(cfg, temperature=options.temperature)
    # Without the files that it was made from: they are not needed, and may be gone.
    check(replace(cfg, rho="", labels="", text="", device=""))
    if not 1 <= options.n <= 10000:
        raise UserError(f"--n is {options.n}, but must be from 1 to 10000")
    if not 0 <= options.seed < 2 ** 63:
        raise UserError(f"--seed is {options.seed}, but must be from 0 to 2^63 - 1")

    rho, tokenizer, queries, _ = load_rho(folder / "rho.pt", "cpu")
    pi = load(copy.deepcopy(rho), folder / "policy.pt", "policy")
    r = load(RewardModel(rho), folder / "reward.pt", "reward")
    sampling = sampling_of(cfg, tokenizer)
    reward = learned_reward(r, sampling)
    room = rho.shape["block_size"] - cfg.response_length
    known = set()                            # words of pi's queries: a part of rho's text
    for query in query_batches(queries["policy"], size=1):
        known.update(re.findall(r"\w+", tokenizer.decode(query[0].tolist())))

    torch.manual_seed(options.seed)
    prompts = [options.prompt] if options.prompt is not None else typed_prompts()
    for prompt in prompts:
        prompt = " ".join(prompt.split())        # in one line, as all that rho has read
        ids = tokenizer.encode(prompt)
        if not prompt or len(ids) > room:
            complaint = (f"a prompt must have some words and at most {room} tokens; this "
                         f"one has {len(ids)}")
            if options.prompt is not None:
                raise UserError(complaint)
            print(complaint)
            continue
        unknown = [word for word in re.findall(r"\w+", prompt) if word not in known]
        if unknown:
            print("warning: not in any query of this run:", *unknown)
        query = torch.tensor([ids]).expand(options.n, -1)
        print(*side_by_side(rho, pi, reward, query, sampling, tokenizer), sep="\n\n")


def typed_prompts():
    """What a person types, line by line, until Ctrl-D."""
    while True:
        try:
            yield input("prompt: ")
        except EOFError:
            return


def main(argv=None):
    """Run a command; return 0, or 2 after one sentence on what the user can mend."""
    argv = list(sys.argv[1:] if argv is None else argv)
    open_closed_streams()
    try:
        if argv[:1] == ["sample"]:
            sample_command(argv[1:])
        else:
            cfg = read_config(argv)
            with run_folder(cfg):
                run(cfg)
        return 0
    except KeyboardInterrupt:
        print("\nrlhf.py: stopped; finished stages are kept", file=sys.stderr)
    except FloatingPointError as e:
        print(f"\nrlhf.py: {e}", file=sys.stderr)        # below the line of progress
    except (UserError, OSError) as e:
        print(f"rlhf.py: {e}", file=sys.stderr)
    except MemoryError:
        print("rlhf.py: there is not enough memory for these settings", file=sys.stderr)
    return 2


def open_closed_streams():
    """So that printing and typing never fail: a closed stream (rlhf.py >&-) is replaced,
    a letter that the terminal lacks is escaped."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if sys.stdin is None:
        sys.stdin = open(os.devnull)
    if hasattr(sys.stdout, "reconfigure"):       # for a terminal without every letter
        sys.stdout.reconfigure(errors="backslashreplace")
    if hasattr(sys.stdin, "reconfigure"):        # for input that is not UTF-8
        sys.stdin.reconfigure(errors="replace")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
