"""
look.py: what there is to see of a run: its curves, its samples token by token, the
optimum at any price, what r learned.

Paper: Ziegler et al. 2019, 2 (eq. 2), 3.1.1 (the optimal policy), 3.1.2 (samples).
In:  the folder of a run, finished or at work      Out: numbers and texts for page.html
Not here: how they are drawn (page.html), how they are sent (page.py)

Letters: P queries, n samples of each, Q query tokens, T response tokens.

Omitted: the critic's values. A run does not keep its critic, and policies from elsewhere
have none: V is measured here, by what pi earns from a token on.
"""

import copy
import hashlib
import json
import math
import re
import threading
from collections import Counter, defaultdict
from typing import NamedTuple

import torch

import gpt
from evaluate import best_of_n_results, closing_table, sample_and_score, seeded
from gpt import generate, generate_finished, response_logprobs
from ppo import gae, mask_before, response_kl, token_rewards
from reward import Comparison, RewardModel, learned_reward, score_in_batches
from rlhf import (devices, load, load_rho, read_config_of, read_json, reading,
                  sampling_of, whole_file, write_json)
from text import (Tokenizer, UserError, collate, decode_responses, query_batches,
                  sample_queries)

QUERIES, SAMPLES = 16, 512       # of the optimum; some 1 MB of texts
PAIRS = 8                        # of these queries, shown with a sample of rho and of pi
CONTINUATIONS = 64               # of pi, for the value of each token
OF_PI = 64                       # samples of pi to each query
READ = 40                        # of rho's samples to each query, with words left out
OFTEN = 8                        # times that a word must be in these, for its mean change
VERSION = 2                      # of the layout of page.json
CURVES = ["episode", "score", "true", "kl", "beta"]
STAGES = {"rho.pt": "rho learns the language.", "labels.jsonl": "Questions are answered.",
          "reward.pt": "r learns from the labels.",
          "policy.pt": "The samples come when pi is trained."}
WORD = r"\w+(?:['-]\w+)*"
LARGEST_PAGE = 3_000_000         # bytes


class Models(NamedTuple):
    """What a run has learned, and how it samples."""
    rho: gpt.GPT
    pi: gpt.GPT
    r: RewardModel
    tokenizer: Tokenizer
    queries: dict
    sampling: gpt.Sampling
    beta: float            # the last one of the run
    lam: float             # GAE's lambda


def models_of(folder, device):
    """The Models of a run's folder, with the beta that its last update paid."""
    cfg = read_config_of(folder)
    rho, tokenizer, queries, _ = load_rho(folder / "rho.pt", device)
    pi = load(copy.deepcopy(rho), folder / "policy.pt", "policy")
    r = load(RewardModel(rho), folder / "reward.pt", "reward")
    with reading(folder / "metrics.jsonl"):
        beta = json.loads(metrics_of(folder)[-1])["beta"]
    return Models(rho, pi, r, tokenizer, queries["evaluation"],
                  sampling_of(cfg, tokenizer), beta, cfg.lam)


def metrics_of(folder):
    """The lines of metrics.jsonl; a last one that is still on its way is left out."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    with reading(path):
        return path.read_text("utf-8").split("\n")[:-1]


def curves_of(folder, lines):
    """What is drawn of some lines of metrics.jsonl: numbers that are finite."""
    curves = []
    with reading(folder / "metrics.jsonl"):
        for line in lines:
            stats = json.loads(line)
            row = {key: round(stats[key], 4) for key in CURVES
                   if key in stats and math.isfinite(stats[key])}
            if "episode" in row:
                curves.append(row)
    return curves


# --- samples, token by token ------------------------------------------------------------

def values_by_sampling(models, query, response, length):
    """V(x, y_<t) of the first `length` tokens: what pi earns from token t on, the price
    of its KL included, as a mean over continuations. query (1, Q), response (1, T) ->
    (1, T), 0 after the end."""
    T, temperature, truncate = models.sampling
    reward = learned_reward(models.r, models.sampling)
    values = torch.zeros(1, T, device=query.device)
    for t in range(length):
        start = torch.cat([query, response[:, :t]], dim=1)           # (1, Q + t)
        rest, logprobs = generate(models.pi, start, T - t, temperature, CONTINUATIONS)
        n = len(rest)
        ref_logprobs = response_logprobs(models.rho, start.expand(n, -1), rest,
                                         temperature)                # (n, T - t)
        whole = torch.cat([response[:, :t].expand(n, -1), rest], dim=1)
        mask = mask_before(truncate(whole)[0], T)[:, t:]
        kl = response_kl(logprobs, ref_logprobs, mask)
        score = reward(query.expand(n, -1), whole)
        values[0, t] = (score - models.beta * kl).mean()
    return values


def token_table(models, query, response, length):
    """A response, token by token: its text, what it cost, its reward (eq. 2), its value
    and its advantage, as PPO has them but for how V is known."""
    T, temperature, _ = models.sampling
    logprobs = response_logprobs(models.pi, query, response, temperature)    # (1, T)
    ref_logprobs = response_logprobs(models.rho, query, response, temperature)
    mask = mask_before(length, T)
    score = learned_reward(models.r, models.sampling)(query, response)       # (1,)
    rewards = token_rewards(score, logprobs, ref_logprobs, models.beta, mask)
    values = values_by_sampling(models, query, response, int(length))
    advantages = gae(rewards, values, models.lam)
    columns = {"pi": logprobs, "rho": ref_logprobs, "reward": rewards, "value": values,
               "advantage": advantages}
    rows = []
    for t, token in enumerate(response[0, :int(length)].tolist()):
        row = {"text": token_text(models.tokenizer, token)}
        for name, column in columns.items():
            row[name] = round(column[0, t].item(), 3)
        rows.append(row)
    cost = response_kl(logprobs, ref_logprobs, mask)     # of a sample of rho: no KL
    return {"r": round(score.item(), 3), "cost": round(cost.item(), 3), "tokens": rows}


def token_text(tokenizer, token):
    """Part of a letter, which is more than one byte, shows as a sign for it."""
    if token >= len(tokenizer.tokens):
        return ""
    return tokenizer.tokens[token].decode("utf-8", "replace")


# --- what r learned ---------------------------------------------------------------------

def attributions(models, query, text):
    """A response in pieces, [[piece, change], ...]: each word with r of the response less
    r with that word left out, and what stands between words with None.

    That is not what a word is worth elsewhere: r reads all of them together."""
    texts, pieces, at = [text], [], 0
    for match in re.finditer(WORD, text):
        pieces += [[text[at:match.start()], None], [match[0], 0.0]]
        at = match.end()
        left = " ".join((text[:match.start()] + text[at:]).split())
        texts.append(re.sub(r" (?=[.,;:!?])", "", left))     # rho never wrote " ."
    pieces.append([text[at:], None])
    rows = [Comparison(query, [changed], 0) for changed in texts]
    tokens, lengths, _ = collate(rows, models.tokenizer, models.rho.shape["block_size"])
    device = models.rho.device
    scores = score_in_batches(models.r, tokens[:, 0].to(device), lengths[:, 0].to(device))
    changes = iter((scores[0] - scores[1:]).tolist())
    return [[piece, None if change is None else round(next(changes), 3)]
            for piece, change in pieces if piece]


def word_table(models, queries, of_rho, of_pi):
    """[{word, change, n, rho, pi}, ...]: the mean change of r by each word, over the n
    times that samples of rho have it; and how often rho and pi say it, in 1,000 words.

    of_rho, of_pi: for each query, texts. Only words that are there OFTEN
    times or more."""
    changes = defaultdict(list)
    for query, texts in zip(queries, of_rho):
        for text in texts:
            for piece, change in attributions(models, query, text):
                if change is not None:
                    changes[piece.casefold()].append(change)
    counts = {"rho": Counter(), "pi": Counter()}
    for name, samples in (("rho", of_rho), ("pi", of_pi)):
        for texts in samples:
            for text in texts:
                counts[name].update(re.findall(WORD, text.casefold()))
    rows = []
    for word, of_word in changes.items():
        if len(of_word) >= OFTEN:
            row = {"word": word, "n": len(of_word),
                   "change": round(sum(of_word) / len(of_word), 3)}
            for name, of_model in counts.items():
                row[name] = round(1000 * of_model[word] / of_model.total(), 2)
            rows.append(row)
    return sorted(rows, key=lambda row: row["change"], reverse=True)


# --- all that a page shows --------------------------------------------------------------

@torch.no_grad()
def view_of(folder, device, say):
    """What a finished run's page needs beside its curves. say(sentence): what is done."""
    models = models_of(folder, device)
    seeded(read_config_of(folder).seed, "page")
    rewards = learned_reward(models.r, models.sampling), None
    batches = [query.to(models.rho.device) for query in
               query_batches(sample_queries(models.queries, QUERIES), size=1)]
    queries = [models.tokenizer.decode(query[0].tolist()) for query in batches]

    say("Sampling from rho and pi ...")
    of_rho = sample_and_score(models.rho, models.rho, rewards, batches, models.sampling,
                              SAMPLES)
    of_pi = sample_and_score(models.pi, models.rho, rewards, batches, models.sampling,
                             OF_PI)
    texts_of_rho = [texts_of(models, response) for response in of_rho.response]
    texts_of_pi = [texts_of(models, response) for response in of_pi.response]
    pairs = pairs_of(models, batches[:PAIRS], say)
    say("Leaving out words ...")
    words = word_table(models, queries, [texts[:READ] for texts in texts_of_rho],
                       texts_of_pi)
    return {"beta": models.beta, "lam": models.lam, "pairs": pairs, "words": words,
            "optimum": optimum_of(queries, texts_of_rho, of_rho.score),
            "best_of": best_of_n_results(of_rho, models.sampling, models.tokenizer),
            "pi": {"kl": of_pi.kl.mean().item(), "reward": of_pi.score.mean().item()},
            "rho": {"reward": of_rho.score.mean().item()}}


def pairs_of(models, batches, say):
    """For each query (1, Q) a sample of rho and one of pi, token by token and word by
    word."""
    pairs = []
    for i, query in enumerate(batches):
        say(f"Values, token by token: query {i + 1} of {len(batches)} ...")
        pair = {"query": models.tokenizer.decode(query[0].tolist())}
        for name, model in (("rho", models.rho), ("pi", models.pi)):
            response, length, _ = generate_finished(model, query, models.sampling)
            text, = texts_of(models, response)
            pair[name] = {**token_table(models, query, response, length),
                          "attributions": attributions(models, pair["query"], text)}
        pairs.append(pair)
    return pairs


def optimum_of(queries, texts_of_rho, scores):
    """What the optimum is reweighted from: samples of rho to each query, and their r."""
    return [{"query": query, "texts": texts, "r": rounded(score)}
            for query, texts, score in zip(queries, texts_of_rho, scores)]


def texts_of(models, response):
    """The responses (n, T) to their ends, each in one line."""
    length, _ = models.sampling.truncate(response)
    texts = decode_responses(response, length, models.tokenizer)
    return [" ".join(text.split()) for text in texts]


def rounded(column):
    return [round(value, 3) for value in column.tolist()]


class Look:
    """The folder of a run, as a page sees it. The view takes a while; it is made once,
    in a thread of its own, and kept in the folder."""

    def __init__(self, folder, device=""):
        self.folder, self.device = folder, device or devices()[0]
        self.cfg = read_config_of(folder)
        self.status, self.made = "", None
        self.lock = threading.Lock()
        self.thread = None

    def state(self, start):
        """The curves from line `start` on, and how far the rest is."""
        lines = metrics_of(self.folder)
        return {"title": f"{self.cfg.task}, seed {self.cfg.seed}", "lines": len(lines),
                "curves": curves_of(self.folder, lines[start:]),
                "kl_target": self.cfg.kl_target, **self.results(),
                "ready": self.view() is not None, "status": self.status}

    def results(self):
        """Of a run that has ended: its closing table, and the reward of rho, above which
        PPO's batches are drawn. r has mean 0 on other samples of rho."""
        path = self.folder / "results.json"
        if not path.exists():
            return {"table": None, "zero_shot": 0.0}
        with reading(path):
            results = read_json(path)
            return {"table": closing_table(results),
                    "zero_shot": results["policy"]["zero_shot_reward"]}

    def view(self):
        """The view, or None while it is made or cannot be made yet."""
        with self.lock:
            if self.made is None and self.thread is None:
                if (self.folder / "policy.pt").exists():
                    self.say("Reading the models ...")
                    self.thread = threading.Thread(target=self.make, daemon=True)
                    self.thread.start()
                else:
                    self.status = self.stage()
        return self.made

    def stage(self):
        """What a run at work is doing, by the first file that it has not written."""
        for name, sentence in STAGES.items():
            if not (self.folder / name).exists():
                return sentence
        return ""

    def make(self):
        """In a thread of its own, for it takes minutes: make the view, or say why not."""
        try:
            self.made = self.kept_view()
        except Exception as e:           # or the page would say for ever that it is made
            self.status = f"The samples could not be made: {e}"
            if not isinstance(e, (UserError, OSError)):
                raise

    def kept_view(self):
        """The view that lies in the folder, if it is of these models; else a new one."""
        path = self.folder / "page.json"
        digest = hashlib.sha256(f"version {VERSION}".encode())
        for name in ("rho.pt", "reward.pt", "policy.pt"):
            digest.update((self.folder / name).read_bytes())
        made_from = digest.hexdigest()
        if path.exists() and read_json(path).get("made_from") == made_from:
            self.status = ""
            return read_json(path)
        view = {"made_from": made_from, **view_of(self.folder, self.device, self.say)}
        self.status = ""
        try:
            write_json(path, view)
        except OSError:                          # a disk that is full, or only read from
            self.status = f"{path} cannot be written; next time all is drawn again."
        return view

    def say(self, sentence):
        self.status = f"The rest of this page is made, once, in some minutes. {sentence}"


def thinned(curves):
    """At most 2,000 updates, evenly, the last one among them."""
    every = max(1, math.ceil(len(curves) / 2000))
    return curves[(len(curves) - 1) % every::every]


def save_page(look, page, path):
    """The page with its run as one file, which opens without a server: page.html with the
    data where it otherwise has `null`. Where that is too large, with fewer samples."""
    if not (look.folder / "policy.pt").exists():
        raise UserError(f"{look.folder} holds no finished policy; run rlhf.py first")
    view = look.made = look.kept_view()
    state = look.state(0)
    state["curves"] = thinned(state["curves"])
    place = 'type="application/json">null<'
    assert page.count(place) == 1
    n = SAMPLES
    while True:
        optimum = [{**of_query, "texts": of_query["texts"][:n], "r": of_query["r"][:n]}
                   for of_query in view["optimum"]]
        with reading(look.folder / "page.json"):         # a number that is not finite
            data = json.dumps({"state": state, "view": {**view, "optimum": optimum}},
                              ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        # "<" could end the script element: a sample may contain markup.
        data = data.replace("<", "\\u003c")
        whole = page.replace(place, place.replace("null<", data + "<")).encode()
        if len(whole) <= LARGEST_PAGE:
            break
        if n == 1:
            raise UserError(f"{path} would have {len(whole) / 1e6:.1f} MB, above the "
                            f"{LARGEST_PAGE / 1e6:.1f} that a saved page may have")
        n //= 2
    with whole_file(path) as part:
        part.write_bytes(whole)
    return len(whole)
