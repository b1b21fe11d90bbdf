"""
evaluate.py: how good a run is, held out, beside the best that anybody could do.

Paper: Ziegler et al. 2019, 2.4 and 3.1.2 (win rates by vote), 3.1.1 (the optimal policy).
In:  rho, r, pi, held-out comparisons, queries     Out: numbers, samples, table, picture

Letters: B queries, T response tokens; P queries of the optimum, n samples of each.

The "true reward" is what the simulated labelers think of a text: the mean of their
scores, in standard deviations over samples of rho. r only estimates it.

`progress` (rlhf.py) only draws a bar: progress(batches) gives the batches as they are.

Omitted: people. Win rates are votes of the simulated labelers, those that r learned from.
With --labels r learned from others, and nobody is there to judge: the true reward is
None, and there are no win rates.
"""

import copy
import math
import zlib
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

import stories
from gpt import (check_finite, generate, generate_finished, language_model_loss,
                 response_logprobs, train_language_model)
from ppo import mask_before, response_kl
from reward import Comparison, evaluate_reward_model, generate_texts, score_or_penalty
from text import collate, decode_responses, query_batches, sample_queries


def seeded(seed, part):
    """Seed one part of a run, so that no part's draws move another's.

    Seeds torch, and returns a NumPy generator for the labelers' choices."""
    number = zlib.crc32(f"{part}, seed {seed}".encode())
    torch.manual_seed(number)
    return np.random.default_rng(number)


# --- rho --------------------------------------------------------------------------------

@torch.no_grad()
def language_model_losses(rho, train, test):
    """rho's held-out loss, and that of knowing only how common tokens are, in nats.

    train, test: windows (N, T + 1)."""
    total = 0.0
    for windows in test.to(rho.device).split(20):
        all_tokens = torch.ones_like(windows, dtype=torch.bool)
        loss = language_model_loss(rho, windows, all_tokens)
        total += loss.item() * len(windows)
    counts = torch.bincount(train.flatten(), minlength=rho.shape["vocab_size"]) + 1.0
    unigram = (counts / counts.sum()).log()                          # (V,)
    return {"loss": total / len(test),
            "unigram_loss": -unigram[test[:, 1:]].mean().item()}


# --- reward and KL ----------------------------------------------------------------------

def true_reward(task, tokenizer, sampling, comparisons):
    """A plain function (query, response) -> (B,), like the learned reward: the labelers'
    mean score, in standard deviations from its mean over these comparisons' samples."""
    score = stories.SCORES[task]
    known = np.array([score(text).mean() for c in comparisons for text in c.samples])
    mean, std = known.mean(), known.std()
    if std == 0:                         # another world's text, without one rated word
        std = 1.0

    def reward(query, response):
        length, finished = sampling.truncate(response)
        texts = decode_responses(response, length, tokenizer)
        scores = np.array([score(text).mean() for text in texts])
        scores = torch.tensor((scores - mean) / std).float().to(response.device)
        return score_or_penalty(scores, finished)
    return reward


class Samples(NamedTuple):
    """n responses to each of P queries, what they earn, and how far from rho they are."""
    response: torch.Tensor         # (P, n, T)
    score: torch.Tensor            # (P, n)  the learned reward r
    true: torch.Tensor             # (P, n)  the true reward; nan where nobody judges
    kl: torch.Tensor               # (P, n)  log pi(y|x) - log rho(y|x); their mean is KL


@torch.no_grad()
def sample_and_score(model, rho, rewards, batches, sampling, n=1):
    """The Samples of a model, n responses to each query.

    rewards: the learned and the true one, functions (query, response) -> (B,); the true
    one may be None. batches: queries (B, Q), P in all."""
    T, temperature, truncate = sampling
    reward, true = rewards
    parts = []
    for query in batches:
        query = query.to(rho.device)
        response, logprobs = generate(model, query, T, temperature, n)
        query = query.repeat_interleave(n, dim=0)
        ref_logprobs = logprobs
        if model is not rho:
            ref_logprobs = response_logprobs(rho, query, response, temperature)
        kl = response_kl(logprobs, ref_logprobs, mask_before(truncate(response)[0], T))
        score = reward(query, response)
        judged = true(query, response) if true else torch.full_like(score, math.nan)
        fields = [response, score, judged, kl]
        parts.append([field.unflatten(0, (-1, n)) for field in fields])
    return Samples(*[torch.cat(field) for field in zip(*parts)])


# --- the optimum ------------------------------------------------------------------------

def reweighted(scores, beta):
    """What the optimal policy, pi_opt(y|x) = rho(y|x) exp(r(x, y) / beta) / Z(x), gets:
    reward, KL in nats, effective sample size, (P,) each (3.1.1). No policy is trained.

    scores (P, n): r of n samples of rho for each of P queries. A sample has the weight
    w = exp(r / beta) / sum exp(r / beta); KL = E_w[log(n w)], ESS = 1 / sum w^2. Where
    the ESS is small, reward and KL come out too low (KL is at most log n), and so does
    the beta of a KL; a policy's share of the optimum comes out too high. At KL 3, with
    512 samples: the share by some 1 to 2 %, beta by some 3 %."""
    log_w = (scores / beta).log_softmax(dim=1)                       # (P, n)
    w = log_w.exp()
    reward = (w * scores).sum(dim=1)
    kl = (w * (log_w + math.log(scores.size(1)))).sum(dim=1)
    return reward, kl, 1 / (w ** 2).sum(dim=1)


def optimal_frontier(scores):
    """The best reward at any KL: rows [beta, gain over rho, KL, effective samples], from
    hardly any KL to more than the samples can tell. scores (P, n).

    The gain over rho, not the reward, for r's level differs from query to query."""
    rows = []
    for beta in np.geomspace(20, 0.05, 80).tolist():
        reward, kl, samples = reweighted(scores, beta)
        gain = reward.mean() - scores.mean()
        rows.append([beta, gain.item(), kl.mean().item(), samples.mean().item()])
    return rows


def price_at(kl, frontier):
    """beta*, the one price at which the optimal policy spends this KL, as a mean over the
    queries. It is the frontier's slope there: the reward that one more nat buys.

    None where the samples do not tell: at next to no KL, or where fewer than 4 effective
    samples carry the weight."""
    betas, _, kls, samples = np.array(frontier).reshape(-1, 4).T
    betas, kls = betas[samples >= 4], kls[samples >= 4]
    if len(kls) == 0 or not kls[0] < kl <= kls[-1]:
        return None
    return float(np.interp(kl, kls, betas))


def share_of_optimum(gain, kl, best_gain, best_kl, beta):
    """What pi gains over rho, as a share of what the optimum gains at pi's KL; and its
    standard error by the delta method, for all are means over the same P queries: (P,).

    pi's KL is a mean too, and one more nat would bring the optimum beta more. Of few
    queries the error comes out too low, of one it is None. None, None where the optimum
    gains less than 0.1 deviations: there the share is noise."""
    if best_gain.mean() < 0.1:
        return None, None
    share = gain.mean() / best_gain.mean()
    if len(gain) == 1:
        return share.item(), None
    best_at_kl = best_gain + beta * (kl - best_kl)                   # (P,)
    error = (gain - share * best_at_kl).std(unbiased=False) / len(gain) ** 0.5
    return share.item(), (error / best_gain.mean()).item()


def best_of(k, scores):
    """Where the best of each k samples lies: scores (P, n) -> columns (P, n // k).

    Best-of-k is the optimizer that needs no training: draw k, keep the best. Its KL is at
    most log k - (k - 1) / k (Beirami et al. 2024). But each answer costs k samples."""
    groups = scores[:, :scores.size(1) // k * k].view(len(scores), -1, k)
    first = torch.arange(groups.size(1), device=scores.device) * k
    return groups.argmax(dim=2) + first


def sameness(responses, sampling, tokenizer):
    """The share of sentences that come from the three frames used most. responses
    (P, n, T). None where no sentence is like those of stories.py.

    KL is a price for leaving rho, not for saying one thing: where three frames earn most,
    the optimum itself uses them."""
    response = responses.flatten(0, 1)
    length, _ = sampling.truncate(response)
    texts = decode_responses(response, length, tokenizer)
    frames = [stories.frame_of(sentence)
              for text in texts for sentence in text.strip(" .").split(".")]
    counts = Counter(frame for frame in frames if frame is not None)
    if not counts:
        return None
    return sum(count for _, count in counts.most_common(3)) / len(frames)


def columns_of(samples, columns):
    """The Samples (P, k) that stand in these columns (P, k) of Samples (P, n)."""
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    return Samples(*[field[rows, columns] for field in samples])


# --- win rates --------------------------------------------------------------------------

def win_rate(task, model, opponent, batches, sampling, tokenizer, rng):
    """How often labelers prefer one model's responses to another's."""
    questions = []
    for query in batches:
        ours = generate_texts(model, query, 2, sampling, tokenizer)
        theirs = generate_texts(opponent, query, 2, sampling, tokenizer)
        questions += [a + b for a, b in zip(ours, theirs)]
    return vote(task, questions, rng)


def vote(task, questions, rng):
    """The paper's protocol (2.4): a question has two responses of a model and then two of
    its opponent. The model wins if most of three labelers choose one of its two."""
    p = stories.choice_probabilities(task, questions)
    votes = stories.choose(p, rng, people=3) < 2                     # (n, 3)
    won = votes.sum(axis=1) >= 2
    return {"mean": float(won.mean()), "stderr": float(won.std() / math.sqrt(len(won))),
            "n": len(won)}


def train_supervised_baseline(rho, comparisons, tokenizer, temperature, lr, progress):
    """What labels give without RL: a copy of rho, trained for one epoch on the responses
    that labelers liked best. (The paper's baselines, for summaries only, learn from
    reference summaries.)

    They were sampled at a temperature, so the baseline is fitted at that temperature."""
    model = copy.deepcopy(rho)
    winners = [Comparison(c.query, [c.samples[c.best]], 0) for c in comparisons]
    tokens, lengths, _ = collate(winners, tokenizer, rho.shape["block_size"])
    tokens = tokens[:, 0]                                        # (N, S); lengths (N, 1)
    response = torch.tensor([[len(tokenizer.encode(c.samples[0]))] for c in winners])
    position = torch.arange(tokens.size(1))                          # (S,)
    in_response = (position >= lengths - response) & (position < lengths)    # (N, S)
    batches = progress(torch.randperm(len(tokens)).split(32))
    train_language_model(model, tokens, in_response, batches, lr, temperature)
    return model


# --- what results.json tells ------------------------------------------------------------

def reward_model_results(cfg, r, tokenizer, held_out):
    """r on held-out comparisons, beside the best that anyone could do against these
    labelers, and how often two of them agree. Given labels tell only the choices."""
    questions = [c.samples for c in held_out]
    if cfg.labels:
        # A choice is of a text. Where that stands twice, each place has half of it.
        p = np.array([[text == c.samples[c.best] for text in c.samples]
                      for c in held_out], dtype=float)               # (n, K)
        p /= p.sum(axis=1, keepdims=True)
        labels = {"agreement": None, "source": cfg.labels}
        limits = {"best_accuracy": None, "best_loss": None}
    else:
        by_labeler = stories.choice_probabilities(cfg.task, questions)
        p = by_labeler.mean(axis=1)                                  # (n, K)
        labels = {"agreement": stories.agreement(by_labeler), "source": "simulated"}
        limits = stories.limits(p)
    tokens, lengths, _ = collate(held_out, tokenizer, r.trunk.shape["block_size"])
    found = evaluate_reward_model(r, tokens, lengths, torch.tensor(p).float())
    return {"labels": labels, "reward_model": {**found, **limits, "n": len(held_out)}}


BEST_OF = [2, 4, 16, 64]


def beside_optimum(of_rho, of_pi, frontier, sampling, tokenizer):
    """pi and the optimum at pi's KL. of_rho (P, n), of_pi (P, m): Samples of the same
    queries. {} where the frontier does not reach."""
    kl = of_pi.kl.mean().item()
    beta = price_at(kl, frontier)
    if beta is None:
        return {}
    best, best_kl, samples = reweighted(of_rho.score, beta)          # (P,) each
    start = of_rho.score.mean(dim=1)
    gain, best_gain = of_pi.score.mean(dim=1) - start, best - start
    share, stderr = share_of_optimum(gain, of_pi.kl.mean(dim=1), best_gain, best_kl, beta)
    weights = (of_rho.score / beta).softmax(dim=1)                   # (P, n)
    drawn = torch.multinomial(weights, of_pi.score.size(1), replacement=True)
    of_optimum = columns_of(of_rho, drawn)
    return {"gain": gain.mean().item(), "gain_kl": kl,
            "optimal_gain": best_gain.mean().item(), "optimal_beta": beta,
            "optimal_effective_samples": samples.mean().item(),
            "optimal_sameness": sameness(of_optimum.response, sampling, tokenizer),
            "share_of_optimum": share, "share_stderr": stderr}


def best_of_n_results(of_rho, sampling, tokenizer):
    """What the best of k samples of rho earn, for each k that Samples (P, n) allow."""
    found = []
    for k in BEST_OF:
        if k <= of_rho.score.size(1):
            best = columns_of(of_rho, best_of(k, of_rho.score))
            found.append({"n": k, "kl_bound": math.log(k) - (k - 1) / k,
                          "gain": (best.score.mean() - of_rho.score.mean()).item(),
                          "true_gain": number(best.true.mean() - of_rho.true.mean()),
                          "sameness": sameness(best.response[:, :64], sampling,
                                               tokenizer)})
    return found


def rewards_and_kl(cfg, rho, pi, rewards, batches, sampling, progress):
    """Reward and KL of pi on queries that it has not seen, and rho's reward on them."""
    seeded(cfg.seed, "reward of pi")
    of_pi = sample_and_score(pi, rho, rewards, progress(batches), sampling)
    check_finite(of_pi.kl.mean().item(), "KL", "evaluation")
    seeded(cfg.seed, "reward of rho")
    of_rho = sample_and_score(rho, rho, rewards, progress(batches), sampling)
    return {"kl": of_pi.kl.mean().item(), "kl_target": cfg.kl_target,
            "reward": of_pi.score.mean().item(),
            "true_reward": number(of_pi.true.mean()),
            "zero_shot_reward": of_rho.score.mean().item(),
            "zero_shot_true_reward": number(of_rho.true.mean())}


def number(a):
    """A tensor of one element, as results.json has it: None where nothing is known."""
    return None if a.isnan() else a.item()


def evaluate(cfg, rho, pi, rewards, queries, sampling, tokenizer, train, progress):
    """What results.json tells of pi: reward and KL on `eval_queries`; on the
    `optimum_queries` what needs many samples of each; and win rates.

    rewards: the learned and the true one. queries {length: (n, length)}. train: the
    comparisons that the supervised baseline learns from."""
    seeded(cfg.seed, "evaluation queries")
    batches = query_batches(sample_queries(queries, cfg.eval_queries))
    single = query_batches(sample_queries(queries, cfg.optimum_queries), size=1)
    progress.note = "reward and KL"
    policy = rewards_and_kl(cfg, rho, pi, rewards, batches, sampling, progress)
    policy.update(optimal_reward=None, share_of_optimum=None)        # unless it is known

    frontier, best_of_n = [], []
    if single:
        progress.note = "the optimum"
        seeded(cfg.seed, "optimum")
        n, m = cfg.optimum_samples, math.ceil(cfg.optimum_samples / 8)
        of_rho = sample_and_score(rho, rho, rewards, progress(single), sampling, n)
        of_pi = sample_and_score(pi, rho, rewards, progress(single), sampling, m)
        frontier = optimal_frontier(of_rho.score)
        best_of_n = best_of_n_results(of_rho, sampling, tokenizer)
        policy.update(beside_optimum(of_rho, of_pi, frontier, sampling, tokenizer))
        policy["sameness"] = sameness(of_pi.response, sampling, tokenizer)
        policy["zero_shot_sameness"] = sameness(of_rho.response[:, :m], sampling,
                                                tokenizer)
    if "optimal_gain" in policy:
        policy["optimal_reward"] = policy["zero_shot_reward"] + policy["optimal_gain"]
    wins = {}
    if rewards[1] is not None:
        wins = win_rates(cfg, rho, pi, batches, sampling, tokenizer, train, progress)
    return {"policy": policy, "win_rate": wins, "frontier": frontier,
            "best_of_n": best_of_n}


PAIRS = {"zero_shot": "pi over zero-shot", "supervised": "pi over supervised",
         "supervised_vs_zero_shot": "supervised over zero-shot"}


def win_rates(cfg, rho, pi, batches, sampling, tokenizer, train, progress):
    """pi over rho; with a supervised baseline, also pi over it, and it over rho."""
    pairs = {"zero_shot": (pi, rho)}
    if cfg.supervised_lr:
        progress.note = "supervised baseline"
        seeded(cfg.seed, "supervised baseline")
        supervised = train_supervised_baseline(rho, train, tokenizer, cfg.temperature,
                                               cfg.supervised_lr, progress)
        pairs["supervised"] = pi, supervised
        pairs["supervised_vs_zero_shot"] = supervised, rho
    wins = {}
    for name, (model, opponent) in pairs.items():
        progress.note = PAIRS[name]
        rng = seeded(cfg.seed, f"win rate, {name}")
        wins[name] = win_rate(cfg.task, model, opponent, progress(batches), sampling,
                              tokenizer, rng)
    progress.note = ""
    return wins


# --- what a person sees -----------------------------------------------------------------

@torch.no_grad()
def side_by_side(rho, pi, reward, query, sampling, tokenizer):
    """What rho and pi say to each query (B, Q), as people are shown it: B texts.

    r is the reward of a response, kl its log pi(y|x) - log rho(y|x) in nats."""
    T, temperature, _ = sampling
    blocks = [[f"query       {tokenizer.decode(ids)}"] for ids in query.tolist()]
    for name, model in (("zero-shot", rho), ("fine-tuned", pi)):
        response, length, _ = generate_finished(model, query, sampling)
        logprobs = response_logprobs(model, query, response, temperature)
        ref_logprobs = response_logprobs(rho, query, response, temperature)
        kl = response_kl(logprobs, ref_logprobs, mask_before(length, T)).tolist()
        score = reward(query, response).tolist()
        for i, ids in enumerate(response.tolist()):
            text = " ".join(tokenizer.decode(ids[:length[i]]).split())   # in one line
            blocks[i].append(f"{name:<11} r {score[i]:+.2f}  kl {kl[i]:4.1f}  {text}")
    return ["\n".join(block) for block in blocks]


def samples_text(cfg, rho, pi, reward, queries, sampling, tokenizer):
    """samples.txt: 40 queries, the same on every machine, with what rho and pi say."""
    rng = seeded(cfg.seed, "samples")
    batches = query_batches(sample_queries(queries, 40))
    blocks = []
    for query in batches:
        blocks += side_by_side(rho, pi, reward, query.to(rho.device), sampling, tokenizer)
    order = rng.permutation(len(blocks))
    header = ("Nobody chose these. A response without a period where one is wanted was\n"
              "drawn again: labelers never see those. r: learned reward; kl: nats.")
    return "\n\n".join([header] + [blocks[i] for i in order]) + "\n"


def closing_table(results):
    """The results as a run prints them at its end: what, its value, what to compare."""
    lm, r, policy = results["language_model"], results["reward_model"], results["policy"]
    limits = ""
    if r["best_loss"] is not None:
        limits = f"best possible {r['best_accuracy']:.3f}, {r['best_loss']:.3f}"
    rows = [
        ("language model", f"loss {lm['loss']:.3f}", f"unigram {lm['unigram_loss']:.3f}"),
        (f"reward model, {r['n']} questions",
         f"accuracy {r['accuracy']:.3f}, loss {r['loss']:.3f}", limits),
        ("KL(pi, rho)", f"{policy['kl']:.2f} nats",
         f"target {policy['kl_target'] or 'none'}"),
        ("reward of pi", f"{policy['reward']:+.2f}",
         f"zero-shot {policy['zero_shot_reward']:+.2f}")]
    if policy["true_reward"] is not None:
        rows.append(("true reward of pi", f"{policy['true_reward']:+.2f}",
                     f"zero-shot {policy['zero_shot_true_reward']:+.2f}"))
    if policy["share_of_optimum"] is not None:
        share = f"{policy['share_of_optimum']:.1%}"
        if policy["share_stderr"] is not None:
            share += f" +/- {policy['share_stderr']:.1%}"
        rows += [("gain of pi in r *",
                  f"{policy['gain']:+.2f} at KL {policy['gain_kl']:.2f}",
                  f"the optimum's there {policy['optimal_gain']:+.2f}"),
                 ("share of the optimum's gain *", share,
                  f"on {policy['optimal_effective_samples']:.0f} effective samples"),
                 ("beta at the end", f"{policy['beta']:.2f}",
                  f"the optimum's there {policy['optimal_beta']:.2f} *")]
    elif results["frontier"]:
        rows.append(("share of the optimum's gain *", "unknown at this KL", ""))
    for best in results["best_of_n"]:
        if best["n"] in (4, 64):
            rows.append((f"gain of the best of {best['n']} *", f"{best['gain']:+.2f}",
                         f"KL at most {best['kl_bound']:.2f}"))
    if policy.get("sameness") is not None:
        rows.append(("pi's 3 commonest frames *",
                     f"{policy['sameness']:.0%} of sentences",
                     f"zero-shot {policy['zero_shot_sameness']:.0%}"))
    for name, win in results["win_rate"].items():
        mean, stderr = win["mean"], win["stderr"]
        rows.append((PAIRS[name], f"{mean:.1%} +/- {stderr:.1%}",
                     f"of {win['n']} questions"))
    rows.append(("seconds", f"{sum(results['seconds'].values()):.0f}", ""))
    lines = [f"{title:<31}{value:<27}{beside}".rstrip() for title, value, beside in rows]
    if results["frontier"]:
        config = results["config"]
        lines.append(f"* on {config['optimum_queries']} queries, with "
                     f"{config['optimum_samples']} samples of rho for each")
    if policy["kl_target"] and policy["kl"] > 2 * policy["kl_target"]:
        lines.append("WARNING: KL is far above its target. pi has run away; a smaller "
                     "--lr may help.")
    if results["config"]["quick"]:
        lines.insert(0, "A MINIATURE: it shows that everything runs, and is no result.")
    return "\n".join(lines)


def draw_figure(path, results, log):
    """figure.png: curves from metrics.jsonl, the KL-reward plane, the win rates."""
    figure = Figure(figsize=(12.5, 7.5), layout="constrained")
    axes = figure.subplot_mosaic("AABBCC\nDDDEEE")
    policy = results["policy"]
    episodes = [m["episode"] for m in log]
    scores, kls = [m["score"] for m in log], [m["kl"] for m in log]

    axes["A"].plot(episodes, scores, "C0-", label="learned reward r")
    if "true" in log[0]:
        axes["A"].plot(episodes, [m["true"] for m in log], "C1--", label="true reward")
    axes["A"].set(title="Reward", ylabel="standard deviations over rho")
    axes["B"].plot(episodes, kls, "C0-", label="KL(pi, rho)")
    if policy["kl_target"]:
        axes["B"].axhline(policy["kl_target"], color="k", ls=":", label="target")
    axes["B"].set(title="Distance from rho", ylabel="nats per response")
    axes["C"].plot(episodes, [m["beta"] for m in log], "C0-", label="beta")
    axes["C"].set(title="Price of KL", ylabel="reward per nat", ylim=0)

    draw_plane(axes["D"], results, kls, scores)
    draw_win_rates(axes["E"], results["win_rate"])
    for name in "ABC":
        axes[name].set_xlabel("episodes")
        axes[name].locator_params(axis="x", nbins=5)
        axes[name].legend(frameon=False, fontsize=8, loc="lower right")
    axes["D"].legend(frameon=False, fontsize=8, ncol=2, loc="upper center",
                     bbox_to_anchor=(0.5, -0.15))                    # hides no run
    for ax in axes.values():
        ax.spines[["top", "right"]].set_visible(False)
    miniature = ", in miniature" if results["config"]["quick"] else ""
    figure.suptitle(f"{results['task']}, seed {results['seed']}{miniature}")
    figure.savefig(path, dpi=110, format="png")


def draw_plane(ax, results, kls, scores):
    """KL across, r upward: pi on its way and at its end, the optimum, best-of-n."""
    policy = results["policy"]
    ax.plot(kls, scores, ".", color="0.7",
            label="pi while it learns: batches of other queries")
    start = policy["zero_shot_reward"]
    if "gain" not in policy:
        ax.plot(policy["kl"], policy["reward"], "C0*", ms=16, label="pi at the end")
    else:
        ax.plot(policy["gain_kl"], start + policy["gain"], "C0*", ms=16,
                label="pi at the end, on the optimum's queries")
    if results["frontier"]:
        bounds = [best["kl_bound"] for best in results["best_of_n"]]
        gains = [start + best["gain"] for best in results["best_of_n"]]
        sizes = ", ".join(str(best["n"]) for best in results["best_of_n"])
        ax.plot(bounds, gains, "C2s", mfc="none",
                label=f"best of {sizes} samples of rho: KL at most")
        _, gain, kl, samples = np.array(results["frontier"]).T
        best = start + gain
        ax.plot(kl[samples >= 100], best[samples >= 100], "k-",
                label="optimal policy, on 100 effective samples or more")
        weak = (samples < 120) & (samples >= 4)      # from where the firm line ends
        ax.plot(kl[weak], best[weak], "k:", label="the same, on 4 to 100: too low")
    ax.set(title="What the distance buys", xlabel="KL(pi, rho), nats per response",
           ylabel="learned reward r, standard deviations")


def draw_win_rates(ax, wins):
    """A bar for each pair of models, % of questions, with 1.96 standard errors."""
    heights = [100 * wins[name]["mean"] for name in wins]
    intervals = [1.96 * 100 * wins[name]["stderr"] for name in wins]
    names = [PAIRS[name].replace(" over ", " over\n") for name in wins]
    ax.bar(names, heights, yerr=intervals, capsize=6, width=0.5, color="0.75",
           edgecolor="k")
    for x, height in enumerate(heights):
        ax.annotate(f"{height:.0f} %", (x, 4), ha="center")
    ax.axhline(50, color="k", ls="--", lw=1)
    ax.set(title="Win rates, with 95 % intervals", ylabel="% of questions", ylim=(0, 100))
