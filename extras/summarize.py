"""
extras/summarize.py: learning to summarize, and to copy, in a small world of its own.

Paper: Ziegler et al. 2019, section 3.2: tables 4 to 8, figures 5 to 7.

In:  the core; articles.py      Out: policies, and how they copy and err
Not here: the articles, and labelers (articles.py)

    python -m extras.summarize run --seed 0       one seed, all policies
    python -m extras.summarize all                three seeds, the table, the pictures

The paper's policies became "smart copiers": they copy whole sentences from the article,
and labelers like that better than the summaries people wrote. Perhaps because they had to
punish what is wrong, and a sentence that stands in the article need not be checked? The
small world of articles.py knows what is true, so here every sentence can be checked.
"""

import argparse
import copy
import dataclasses
import json
import math
import random
import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex
import torch

import rlhf
import stories
from evaluate import reweighted, seeded
from extras.articles import (PREAMBLES, SHARE_OF_EXTRACTS, SHARE_OF_LISTS,
                             SHARE_OF_SUMMARIES, TEMPERATURE, TLDR, Habits, article_of,
                             choice_probabilities, choose_places, document,
                             in_other_words,
                             make_article, read_article, read_summary, reference,
                             sentences_of, text_of, true_score, with_wrong_verb)
from extras.paper import five_digits
from extras.paper_results import RESULTS
from extras.summarize_results import tell
from gpt import (GPT, Sampling, generate_finished, language_model_loss,
                 train_language_model)
from reward import (Comparison, RewardModel, evaluate_reward_model, generate_questions,
                    generate_texts, learned_reward, score_in_batches)
from text import (SPLIT_PATTERN, Tokenizer, UserError, collate, decode_responses,
                  query_batches, sample_queries)


# --- settings ---------------------------------------------------------------------------

# here: all of them, of rlhf.Config. What is not named is as it is there.
SETTINGS = dict(passages=60000, lm_steps=4000, lm_batch=32, lm_lr=3e-3, n_embd=128,
                response_length=21,          # paper: 75 tokens
                temperature=0.7,             # paper: 0.7 on TL;DR, 0.5 on CNN/DM
                n_labels=5000, reward_lr=5e-4, episodes=8192, optimum_queries=64)
QUICK = dict(quick=True, passages=2000, lm_steps=150, lm_lr=1e-2, n_embd=32, n_labels=200,
             episodes=512, optimum_queries=8, optimum_samples=64)
SUPERVISED = 2000    # here: articles with references; paper: all of the training set
N_ARTICLES = {"evaluation": 1024, "reward": 8000, "policy": 8000}     # paper: 1024
QUICK_ARTICLES = {"evaluation": 64, "reward": 300, "policy": 300}
SEEDS = 3


# --- ROUGE ------------------------------------------------------------------------------

def words_of(text):
    return re.findall(r"\w+", text.lower())


def ngrams_of(text, n):
    """A Counter of a text's n-grams of words."""
    words = words_of(text)
    return Counter(zip(*[words[i:] for i in range(n)]))


def f1(matches, n_summary, n_reference):
    """The harmonic mean of matches / n_summary and matches / n_reference."""
    if matches == 0:
        return 0.0
    return 2 * matches / (n_summary + n_reference)


def rouge_n(summary, reference, n):
    """ROUGE-N (Lin 2004): F1 of the n-grams that two texts share, each as often as both
    have it."""
    ours, theirs = ngrams_of(summary, n), ngrams_of(reference, n)
    return f1((ours & theirs).total(), ours.total(), theirs.total())


def rouge_l(summary, reference):
    """ROUGE-L: F1 of the longest common subsequence, words in the same order, with any
    others between them."""
    a, b = words_of(summary), words_of(reference)
    longest = [0] * (len(b) + 1)     # of what was read of a, and the first j words of b
    for word in a:
        above = longest
        longest = [0]
        for j, other in enumerate(b):
            if word == other:
                longest.append(above[j] + 1)
            else:
                longest.append(max(above[j + 1], longest[j]))
    return f1(longest[-1], len(a), len(b))


# --- rho --------------------------------------------------------------------------------

def query_of(article):
    """The text that asks for an article's summary."""
    return f"{text_of(article.sentences)} {TLDR}"


def word_tokenizer(documents):
    """A Tokenizer with one token for each word of the documents: the world has some 75,
    and what is one word is then one thing to look back for. (And the 256 bytes, for any
    other text.)"""
    pieces = set()
    for text in documents:
        pieces.update(regex.findall(SPLIT_PATTERN, " " + text))
    single = [bytes([b]) for b in range(256)]
    words = {piece.encode() for piece in pieces}
    return Tokenizer(single + sorted(words.difference(single)))


def windows_of(documents, tokenizer, T):
    """Documents as windows (N, T + 1), padded on the right, and which tokens are theirs,
    (N, T + 1)."""
    windows = torch.zeros(len(documents), T + 1, dtype=torch.long)
    loss_mask = torch.zeros(len(documents), T + 1, dtype=torch.bool)
    for n, text in enumerate(documents):
        ids = tokenizer.encode(text)
        windows[n, :len(ids)] = torch.tensor(ids)
        loss_mask[n, :len(ids)] = True
    return windows, loss_mask


def by_length(texts, tokenizer):
    """Queries, as tokens: {length: (n, length)}."""
    queries = {}
    for text in texts:
        ids = tokenizer.encode(text)
        queries.setdefault(len(ids), []).append(ids)
    return {length: torch.tensor(queries[length]) for length in sorted(queries)}


def make_queries(cfg, tokenizer):
    """New articles for each part of a run, {part: {length: (n, length)}}."""
    rng = random.Random(f"queries, seed {cfg.seed}")
    n_articles = QUICK_ARTICLES if cfg.quick else N_ARTICLES
    return {part: by_length([query_of(make_article(rng)) for _ in range(n)], tokenizer)
            for part, n in n_articles.items()}


def pretrain(cfg, progress):
    """rho, trained on cfg.passages documents; the tokenizer; queries; held-out losses."""
    rng = random.Random(f"documents, seed {cfg.seed}")
    documents = [document(rng) for _ in range(cfg.passages)]
    tokenizer = word_tokenizer(documents)
    queries = make_queries(cfg, tokenizer)
    longest = max(len(tokenizer.encode(text)) for text in documents)
    query_max = max(max(part) for part in queries.values())
    block_size = max(longest, query_max + cfg.response_length)
    windows, loss_mask = windows_of(documents, tokenizer, block_size)
    n_train = len(documents) - 1000                                  # the rest: held out
    rho = GPT(len(tokenizer.tokens), block_size, cfg.n_layer, cfg.n_head, cfg.n_embd)
    rho.to(cfg.device)
    batches = torch.randint(n_train, (cfg.lm_steps, cfg.lm_batch))
    train_language_model(rho, windows, loss_mask, progress(batches), cfg.lm_lr)
    losses = held_out_losses(rho, windows, loss_mask, n_train)
    return rho, tokenizer, queries, losses


@torch.no_grad()
def held_out_losses(rho, windows, loss_mask, n_train):
    """rho's loss on the windows from n_train on, and that of knowing only how common
    tokens are, in nats."""
    tokens = windows[:n_train][loss_mask[:n_train]]
    counts = torch.bincount(tokens, minlength=rho.shape["vocab_size"]) + 1.0
    unigram = (counts / counts.sum()).log()                          # (V,)
    windows, loss_mask = windows[n_train:], loss_mask[n_train:]
    loss = language_model_loss(rho, windows.to(rho.device), loss_mask.to(rho.device))
    later = windows[:, 1:][loss_mask[:, 1:]]
    return {"loss": loss.item(), "unigram_loss": -unigram[later].mean().item()}


def truncate_at_third_period(response, period):
    """A summary ends with its third sentence, so that all are about as long as lead-3.
    (Paper: at a newline, which stands between tokens 55 and 75.)

    response (B, T) -> length (B,), finished (B,), as text.truncate_at_period."""
    T = response.size(1)
    periods = (response == period).cumsum(dim=1)                     # (B, T)
    before_end = (periods < 3).sum(dim=1)                            # (B,)
    return (before_end + 1).clamp(max=T), before_end < T


# --- what a model copies, and where it errs ---------------------------------------------

def shown(query, tokenizer):
    """The queries (B, Q) as people see them: B articles."""
    return [article_of(tokenizer.decode(ids)) for ids in query.tolist()]


@torch.no_grad()
def sample_claims(model, queries, sampling, tokenizer, n=1, rewards=()):
    """What a reader finds in n summaries of each article, P lists of n Claims lists; and
    what each of the rewards gives them, a list of (P, n)."""
    claims = []
    scores = [[] for _ in rewards]
    for query in query_batches(queries, 64):
        query = query.to(model.device)
        response, length, _ = generate_finished(model, query, sampling, n)
        texts = decode_responses(response, length, tokenizer)
        for row, article in enumerate(shown(query, tokenizer)):
            summaries = texts[row * n:row * n + n]
            claims.append([read_summary(article, summary) for summary in summaries])
        query = query.repeat_interleave(n, dim=0)
        for of_reward, reward in zip(scores, rewards):
            of_reward.append(reward(query, response).view(-1, n).cpu())
    return claims, [torch.cat(of_reward) for of_reward in scores]


def copied_share(claims):
    """The share of a summary's sentences that are copied."""
    return sum(claim.copied for claim in claims) / max(len(claims), 1)


def false_share(claims):
    """The share of a summary's sentences that say what the article does not."""
    false = sum(claim.fact is not None and claim.place is None for claim in claims)
    return false / max(len(claims), 1)


def is_accurate(claims):
    """The summary says something, and nothing in it is false or cannot be understood.
    (Table 8's question.)"""
    if not claims:
        return False
    return all(claim.copied or claim.place is not None for claim in claims)


def copying(summaries):
    """How summaries copy and err: lists of Claims -> shares between 0 and 1."""
    every = [claim for claims in summaries for claim in claims]
    article_form = [claim for claim in every if claim.article_form]
    other_words = [claim for claim in every
                   if claim.fact is not None and not claim.article_form]
    return {"copied": share(claim.copied for claim in every),
            "article_form": share(claim.article_form for claim in every),
            "faithful": share(claim.copied for claim in article_form),
            "paraphrases_true": share(claim.place is not None for claim in other_words),
            "understood": share(claim.fact is not None or claim.copied
                                for claim in every),
            "repeated": share(claim.repeated for claim in every),
            "accurate": share(is_accurate(claims) for claims in summaries)}


def ngrams_copied(article, summary, n):
    """The share of a summary's n-grams that stand in the article (figure 5)."""
    counts, known = ngrams_of(summary, n), ngrams_of(article, n)
    return share(ngram in known for ngram in counts.elements())


def starts_alike(article, summary):
    """Whether a summary begins with the article's first three words (table 7)."""
    return words_of(summary)[:3] == words_of(article)[:3]


def has_preamble(article):
    return sentences_of(article)[0] in PREAMBLES


def share(numbers):
    """The mean of some numbers, or how many of some truths hold; nan where there are
    none."""
    numbers = list(numbers)
    if not numbers:
        return math.nan
    return sum(numbers) / len(numbers)


# --- the optimum ------------------------------------------------------------------------

class Judged(NamedTuple):
    """n samples of rho for each of P articles: (P, n) each."""
    scores: torch.Tensor     # the true reward
    copied: torch.Tensor     # the share of the sentences that are copied
    accurate: torch.Tensor   # 1.0 where the summary is, else 0.0
    false: torch.Tensor      # the share of the sentences that are false


def judge(claims, habits):
    """Claims, P lists of n -> Judged."""
    return Judged(
        torch.tensor([[true_score(c, habits) for c in row] for row in claims]),
        torch.tensor([[copied_share(c) for c in row] for row in claims]),
        torch.tensor([[float(is_accurate(c)) for c in row] for row in claims]),
        torch.tensor([[false_share(c) for c in row] for row in claims]))


def optimum(judged, beta):
    """What pi_opt = rho exp(true reward / beta) / Z does, from samples of rho. No policy
    is trained.

    bound: how much rho copies where it happens to be accurate, as a mean over the
    articles where it ever is. A reward of 1 for accuracy and else of 0 leads to no more
    copying than this."""
    scores, copied, accurate, false = judged
    weights = (scores / beta).softmax(dim=1)                         # (P, n)
    reward, kl, samples = reweighted(scores, beta)
    bound = (accurate * copied).sum(dim=1) / accurate.sum(dim=1)     # (P,), nan where 0
    bound = bound.nanmean()
    return {"beta": beta, "reward": reward.mean().item(), "kl": kl.mean().item(),
            "effective_samples": samples.mean().item(),
            "copied": (weights * copied).sum(dim=1).mean().item(),
            "accurate": (weights * accurate).sum(dim=1).mean().item(),
            "false": (weights * false).sum(dim=1).mean().item(),
            "bound": bound.item()}


def strongest_optimum(judged, least=20):
    """The optimum at the lowest beta at which so many samples still carry the weight."""
    found = None
    for beta in np.geomspace(4, 0.02, 60).tolist():
        at_beta = optimum(judged, beta)
        if at_beta["effective_samples"] < least:
            break
        found = at_beta
    return found


# --- r ----------------------------------------------------------------------------------

def label(questions, habits, rng):
    """Questions with the choice of one of ten labelers, as Comparisons; and how likely
    each option was to be chosen, (n, 10, 4). As stories' labelers, but they see the
    article."""
    p = choice_probabilities(questions, habits, rng)
    best = stories.choose(p, rng)[:, 0]
    comparisons = [Comparison(query, samples, int(b))
                   for (query, samples), b in zip(questions, best)]
    return comparisons, p


def reward_model_results(r, tokenizer, held_out, p):
    """r on comparisons that it was not trained on, beside the best that anybody could
    do."""
    tokens, lengths, _ = collate(held_out, tokenizer, r.trunk.shape["block_size"])
    mean = p.mean(axis=1)                                            # (n, 4)
    return {"agreement": stories.agreement(p), **stories.limits(mean),
            **evaluate_reward_model(r, tokens, lengths, torch.tensor(mean).float())}


def probes(r, tokenizer, rng, n=500):
    """Does r see form, or what is true? How often it prefers three facts as the article
    tells them to the same in other words; three true sentences to the same with one wrong
    verb; and what is true in other words to a copy but for one wrong verb."""
    pairs = {"copy over other words": [], "true copy over wrong verb": [],
             "true other words over wrong verb": [],
             "true other words over false copy": []}
    asked = []
    for _ in range(n):
        article = make_article(rng)
        places = choose_places(article, rng)
        facts = article.sentences[-len(article.facts):]              # no preamble
        copied = [facts[place] for place in places]
        told = in_other_words(article, places, rng)
        false_copy = with_wrong_verb(copied, rng)
        told_wrong = with_wrong_verb(told, rng)
        pairs["copy over other words"].append((copied, told))
        pairs["true copy over wrong verb"].append((copied, false_copy))
        pairs["true other words over wrong verb"].append((told, told_wrong))
        pairs["true other words over false copy"].append((told, false_copy))
        asked.append(query_of(article))
    return {name: share_preferred(r, tokenizer, asked, of_name)
            for name, of_name in pairs.items()}


def share_preferred(r, tokenizer, queries, pairs):
    """How often r gives the first of two summaries more than the second."""
    comparisons = [Comparison(query, [text_of(one), text_of(other)], 0)
                   for query, (one, other) in zip(queries, pairs)]
    tokens, lengths, _ = collate(comparisons, tokenizer, r.trunk.shape["block_size"])
    device = r.trunk.device
    scores = score_in_batches(r, tokens.flatten(0, 1).to(device),
                              lengths.flatten().to(device)).view(-1, 2)
    return (scores[:, 0] > scores[:, 1]).float().mean().item()


# --- the supervised baseline, and what everybody says -----------------------------------

def train_supervised(cfg, rho, tokenizer, progress, n):
    """A copy of rho, trained for one epoch on n new articles with the summaries that
    people wrote (2.2). Only the summary's tokens are learned."""
    rng = random.Random(f"supervised, seed {cfg.seed}")
    documents, starts = [], []
    for _ in range(n):
        article = make_article(rng)
        query = query_of(article)
        documents.append(f"{query} {text_of(reference(article, rng))}")
        starts.append(len(tokenizer.encode(query)))
    T = rho.shape["block_size"]
    windows, loss_mask = windows_of(documents, tokenizer, T)
    loss_mask &= torch.arange(T + 1) >= torch.tensor(starts)[:, None]
    model = copy.deepcopy(rho)
    batches = torch.randperm(n).split(cfg.lm_batch)
    train_language_model(model, windows, loss_mask, progress(batches), cfg.supervised_lr)
    return model


def summaries_by(model, queries, sampling, tokenizer):
    """Two summaries of each article, as texts, in the order of the queries."""
    summaries = []
    for query in query_batches(queries):
        summaries += generate_texts(model, query, 2, sampling, tokenizer)
    return summaries


def articles_of(queries, tokenizer):
    """The articles' texts, in the same order."""
    articles = []
    for query in query_batches(queries):
        articles += shown(query, tokenizer)
    return articles


def lead_3(article):
    """The article's first three sentences, a text. (A preamble is one of them.)"""
    return text_of(sentences_of(article)[:3])


def references_of(articles, rng):
    """Two summaries of each article as people write them, as texts."""
    summaries = []
    for article in map(read_article, articles):
        summaries.append([text_of(reference(article, rng)) for _ in range(2)])
    return summaries


def tables_of(articles, summaries, references):
    """A row of tables 4, 7 and 8 and of figures 5 and 6: numbers of one model's
    summaries. All lists have two texts for each article."""
    triples = [(article, ours, people_wrote)
               for article, pair, two in zip(articles, summaries, references)
               for ours, people_wrote in zip(pair, two)]
    found = copying([read_summary(article, ours) for article, ours, _ in triples])
    for n in (1, 2):
        found[f"rouge_{n}"] = share(rouge_n(ours, people_wrote, n)
                                    for _, ours, people_wrote in triples)
    found["rouge_l"] = share(rouge_l(ours, people_wrote)
                             for _, ours, people_wrote in triples)
    for n in range(1, 6):
        shares = [ngrams_copied(article, ours, n) for article, ours, _ in triples]
        # nan is a summary of fewer than n words.
        found[f"{n}-grams copied"] = share(a for a in shares if not math.isnan(a))
    found["starts_alike"] = share(starts_alike(article, ours)
                                  for article, ours, _ in triples)
    found["starts_alike_preamble"] = share(starts_alike(article, ours)
                                           for article, ours, _ in triples
                                           if has_preamble(article))
    return found


# --- win rates --------------------------------------------------------------------------

def vote(articles, ours, theirs, habits, rng):
    """evaluate.vote's protocol, for labelers who see the article. ours, theirs: for each
    article two summaries of a model, and two of its opponent."""
    questions = [(article, a + b) for article, a, b in zip(articles, ours, theirs)]
    p = choice_probabilities(questions, habits, rng)
    votes = stories.choose(p, rng, people=3) < 2                     # (n, 3)
    won = votes.sum(axis=1) >= 2
    return {"mean": float(won.mean()), "stderr": float(won.std() / math.sqrt(len(won))),
            "n": len(won)}


# --- a run ------------------------------------------------------------------------------

AS_SET = Habits()
CAREFUL = Habits(check=1.0, suspicion=0.0)           # check everything: truth counts


class Arm(NamedTuple):
    """How a policy comes about. By name: the model it starts from, which is also the one
    that its KL is measured to; the policy whose r it takes, if not one of its own; the
    policy that half of its labels are about, where they are online."""
    habits: Habits = AS_SET
    share_of_labels: float = 1.0
    start: str = "zero-shot"
    r_of: str = ""
    online: str = ""
    beta: float = 0.1        # paper: fixed, 0.1 on CNN/DM, 0.03 on TL;DR
    kl_target: float = 0.0   # nats; 0: beta is fixed


ARMS = {"RL": Arm(),
        "RL, 1/2 of the labels": Arm(share_of_labels=1 / 2),     # paper: 60k, 30k, 15k
        "RL, 1/4 of the labels": Arm(share_of_labels=1 / 4),
        "supervised + RL": Arm(start="supervised", r_of="RL"),
        "RL, careful labelers": Arm(habits=CAREFUL),
        "RL, online labels": Arm(online="RL, 1/2 of the labels"),
        "RL, beta 0.03": Arm(r_of="RL", beta=0.03),
        "RL, KL target 3": Arm(r_of="RL", beta=0.3, kl_target=3.0)}


class World(NamedTuple):
    """What all policies of a seed share. cfg.out holds it, and a folder for each."""
    cfg: rlhf.Config
    rho: GPT
    tokenizer: Tokenizer
    queries: dict            # {part: {length: (n, length)}}
    sampling: Sampling


def sampling_of(cfg, tokenizer):
    truncate = partial(truncate_at_third_period, period=tokenizer.period)
    return Sampling(cfg.response_length, cfg.temperature, truncate)


def load_or_make_world(cfg):
    """The World, and rho's losses."""
    path = Path(cfg.out, "rho.pt")
    if not path.exists():
        with rlhf.stage(cfg, "language_model") as progress:
            rlhf.save_rho(path, *pretrain(cfg, progress))
    rho, tokenizer, queries, losses = rlhf.load_rho(path, cfg.device)
    return World(cfg, rho, tokenizer, queries, sampling_of(cfg, tokenizer)), losses


def load_or_train_supervised(world):
    """The supervised baseline, a GPT, kept in supervised.pt."""
    path = Path(world.cfg.out, "supervised.pt")
    if not path.exists():
        seeded(world.cfg.seed, "supervised")
        progress = rlhf.Progress("supervised")
        model = train_supervised(world.cfg, world.rho, world.tokenizer, progress,
                                 SUPERVISED)
        rlhf.save(path, policy=model.state_dict())
    return load_policy(world, path)


def load_policy(world, path):
    """A GPT of rho's shape, from what was saved as a policy."""
    return rlhf.load(copy.deepcopy(world.rho), path, "policy")


def folder_of(world, name):
    """A policy's folder. Its name may not have a / in it."""
    folder = Path(world.cfg.out, name.replace("/", " of "))
    folder.mkdir(exist_ok=True)
    return folder


def load_or_ask(world, model, queries, n, path):
    """n questions about a model's samples, (query, four summaries) as texts."""
    if not path.exists():
        with rlhf.stage(world.cfg, "labels") as progress:
            questions = generate_questions([model], queries, n, world.sampling,
                                           world.tokenizer, progress)
        rlhf.write_json(path, {"questions": questions})
    return rlhf.read_json(path)["questions"]


def questions_of(world, name, models):
    """What the r of this policy learns from, and what it is measured on. That is the same
    for all policies of a seed, and the fewer questions are the first of the many. Online,
    the second half is about the same articles as otherwise, but about pi's summaries."""
    arm, n = ARMS[name], world.cfg.n_labels
    about_rho = load_or_ask(world, world.rho, world.queries["reward"], n + n // 5,
                            Path(world.cfg.out, "questions.json"))
    learned = about_rho[:int(arm.share_of_labels * n)]
    if arm.online:
        first, rest = learned[:n // 2], learned[n // 2:]
        queries = by_length([query for query, _ in rest], world.tokenizer)
        about_pi = load_or_ask(world, models[arm.online], queries, len(rest),
                               folder_of(world, name) / "questions.json")
        learned = first + about_pi
    return learned, about_rho[n:]


def load_or_train_reward(world, name, models):
    """The r of a policy. What is known of it is in reward.json."""
    folder = folder_of(world, name)
    path = folder / "reward.pt"
    if not path.exists():
        learned, held_out = questions_of(world, name, models)
        rng = seeded(world.cfg.seed, "choices")
        learned, _ = label(learned, ARMS[name].habits, rng)
        held_out, p = label(held_out, ARMS[name].habits, rng)
        with rlhf.stage(world.cfg, "reward_model") as progress:
            r = rlhf.train_reward(world.cfg, world.rho, world.tokenizer, learned,
                                  world.queries["reward"], world.sampling, progress)
        found = reward_model_results(r, world.tokenizer, held_out, p)
        rlhf.write_json(folder / "reward.json", found)
        rlhf.save(path, reward=r.state_dict())
    return load_reward(world, name)


def load_reward(world, name):
    """The RewardModel that was trained for the policy of this name."""
    path = folder_of(world, name) / "reward.pt"
    return rlhf.load(RewardModel(world.rho), path, "reward")


def load_or_train_policy(world, name, models):
    """A policy, a GPT: labels, r and PPO."""
    arm = ARMS[name]
    folder = folder_of(world, name)
    path = folder / "policy.pt"
    if not path.exists():
        r = load_or_train_reward(world, arm.r_of or name, models)
        cfg = dataclasses.replace(world.cfg, out=str(folder), beta=arm.beta,
                                  kl_target=arm.kl_target)
        with rlhf.stage(cfg, "policy") as progress:
            pi = rlhf.train_policy(cfg, models[arm.start],
                                   learned_reward(r, world.sampling), None,
                                   world.queries["policy"], world.sampling, progress)
        rlhf.save(path, policy=pi.trunk.state_dict())
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    return load_policy(world, path)


# Table 5's pairs, and careful labelers' policy.
PAIRS = [("RL", "zero-shot"), ("RL", "supervised"), ("RL", "lead-3"),
         ("RL", "supervised + RL"), ("RL", "RL, 1/2 of the labels"),
         ("RL", "RL, 1/4 of the labels"), ("RL, online labels", "RL"),
         ("RL", "reference"), ("lead-3", "supervised"), ("lead-3", "reference"),
         ("lead-3", "supervised + RL"), ("RL, careful labelers", "zero-shot"),
         ("RL", "RL, careful labelers")]


def run(cfg):
    """One seed: rho, the baselines, every policy, and all that is counted, in
    results.json. What is there from an earlier run is not made again."""
    Path(cfg.out).mkdir(parents=True, exist_ok=True)
    check_settings(cfg)
    world, losses = load_or_make_world(cfg)
    models = {"zero-shot": world.rho, "supervised": load_or_train_supervised(world)}
    for name in ARMS:
        models[name] = load_or_train_policy(world, name, models)
    results = {"seed": cfg.seed, "losses": losses, **count(world, models)}
    rlhf.write_json(Path(cfg.out, "results.json"), results)
    return results


def count(world, models):
    """The tables' numbers, the map's, and samples."""
    cfg, queries = world.cfg, world.queries["evaluation"]
    articles = articles_of(queries, world.tokenizer)
    people = random.Random(f"references, seed {cfg.seed}")
    references = references_of(articles, people)
    summaries = {}
    for name, model in models.items():
        seeded(cfg.seed, f"summaries by {name}")
        summaries[name] = summaries_by(model, queries, world.sampling, world.tokenizer)
    summaries["lead-3"] = [[lead_3(article)] * 2 for article in articles]
    summaries["reference"] = references_of(articles, people)
    rows = {name: tables_of(articles, texts, references)
            for name, texts in summaries.items()}
    for name in ARMS:
        rows[name]["kl"] = last_kl(folder_of(world, name) / "metrics.jsonl")
    wins = {}
    for one, other in PAIRS:
        rng = seeded(cfg.seed, f"votes, {one} over {other}")
        wins[f"{one} over {other}"] = vote(articles, summaries[one], summaries[other],
                                           AS_SET, rng)
    rewards = {}
    for name, arm in ARMS.items():
        if not arm.r_of:
            r = load_reward(world, name)
            rng = random.Random(f"probes, seed {cfg.seed}")
            rewards[name] = {**rlhf.read_json(folder_of(world, name) / "reward.json"),
                             **probes(r, world.tokenizer, rng)}
    return {"rows": rows, "win_rates": wins, "reward_models": rewards, **optima(world),
            "samples": some_samples(articles, summaries)}


def last_kl(path):
    """The mean KL of the last eight updates, in nats, to the model that pi started as."""
    lines = path.read_text("utf-8").splitlines()[-8:]
    return share(json.loads(line)["kl"] for line in lines)


def some_samples(articles, summaries, n=6):
    """For n articles, spread over their lengths: the article and what everybody says."""
    every = len(articles) // n
    return [{"article": articles[i],
             **{name: texts[i][0] for name, texts in summaries.items()}}
            for i in range(every // 2, every * n, every)]


# The map: how often labelers check, q, and how much they dislike what they did not check,
# s. And what turns it back: a price of copying, kappa, for the labelers as set.
GRID = [Habits(check=q, suspicion=s) for q in (0.1, 0.4, 1.0) for s in (0.0, 0.3, 0.6)]
PRICES = [AS_SET._replace(copying=kappa) for kappa in (0.3, 0.6, 0.9)]


def optima(world):
    """The strongest optimum that samples of rho can tell: of the labelers' own score, for
    each kind of labelers, and of what r learned from two kinds."""
    seeded(world.cfg.seed, "optimum")
    some = sample_queries(world.queries["evaluation"], world.cfg.optimum_queries)
    learned = ["RL", "RL, careful labelers"]
    rewards = [learned_reward(load_reward(world, name), world.sampling)
               for name in learned]
    claims, scores = sample_claims(world.rho, some, world.sampling, world.tokenizer,
                                   world.cfg.optimum_samples, rewards)
    of_labelers = [{"check": habits.check, "suspicion": habits.suspicion,
                    "copying": habits.copying, **strongest_optimum(judge(claims, habits))}
                   for habits in GRID + PRICES]
    judged = judge(claims, AS_SET)
    of_r = {name: strongest_optimum(judged._replace(scores=of_reward))
            for name, of_reward in zip(learned, scores)}
    return {"optima": of_labelers, "optima_of_r": of_r}


def check_settings(cfg):
    """Keep the settings in the folder, or refuse one that other settings made: what is
    there would be taken as it is."""
    given = {**dataclasses.asdict(cfg), "supervised": SUPERVISED,
             "articles": QUICK_ARTICLES if cfg.quick else N_ARTICLES,
             "habits": list(AS_SET), "labelers' temperature": TEMPERATURE,
             "shares": [SHARE_OF_SUMMARIES, SHARE_OF_EXTRACTS, SHARE_OF_LISTS]}
    del given["out"], given["device"]
    path = Path(cfg.out, "settings.json")
    if not path.exists():
        rlhf.write_json(path, given)
    kept = rlhf.read_json(path)
    for name, value in given.items():
        if kept.get(name) != value:
            raise UserError(f"{cfg.out} was made with {name} = {kept.get(name)}, not "
                            f"{value}; delete it, or move it away")


def config_of(seed, quick):
    """The Config of one seed, and the folder it runs in."""
    settings, home = SETTINGS, "out/summarize"
    if quick:
        settings, home = {**SETTINGS, **QUICK}, "out/summarize-quick"
    return rlhf.Config(**settings, seed=seed, device=rlhf.devices()[0],
                       out=f"{home}/seed{seed}")


def main(argv=None):
    """Run a command; return 0, or 2 after one sentence on what the user can mend."""
    try:
        command(argv)
        return 0
    except KeyboardInterrupt:
        print("\nsummarize.py: stopped; the same command goes on", file=sys.stderr)
    except (UserError, FloatingPointError, OSError) as e:
        print(f"summarize.py: {e}", file=sys.stderr)
    return 2


def command(argv):
    """run: one seed. all: SEEDS of them, and then the page. results: the page alone."""
    parser = argparse.ArgumentParser(prog="python -m extras.summarize")
    parser.add_argument("command", choices=["run", "all", "results"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="in miniature, no result")
    options = parser.parse_args(argv)
    if options.command == "run":
        run(config_of(options.seed, options.quick))
        return
    folder = RESULTS
    if options.quick:
        folder = Path("out/summarize-quick")
    if options.command == "all":
        seeds = [run(config_of(seed, options.quick)) for seed in range(SEEDS)]
        write_results(folder, seeds)
    tell(folder, options.quick)


def write_results(folder, seeds):
    """summaries.json: floats to five digits, and null where there is nothing to count."""
    text = json.dumps(five_digits({"settings": SETTINGS, "seeds": seeds}))
    rlhf.write_json(folder / "summaries.json",
                    json.loads(text, parse_constant=lambda nan: None))


if __name__ == "__main__":
    sys.exit(main())
