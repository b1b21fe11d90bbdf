"""
test_rlhf.py: worked examples to redo on paper, oracles, and the whole loop in miniature.

Run: python -m pytest test_rlhf.py            # the core alone; no network, no other package
"""

import collections
import copy
import dataclasses
import fcntl
import hashlib
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import evaluate
import gpt
import ppo
import reward
import rlhf
import stories
import text
from reward import Comparison

LOG4 = math.log(4)


def random_model(vocab_size=50, block_size=40):
    """A small GPT-2 whose every weight matters: far from its mild initial values."""
    torch.manual_seed(0)
    model = gpt.GPT(vocab_size=vocab_size, block_size=block_size, n_layer=2, n_head=2, n_embd=16)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


@pytest.fixture
def model():
    return random_model()


def tokens_of(B, T, V=50):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))


def whole(response):
    """A truncation that leaves every response as it is."""
    B, T = response.shape
    return torch.full((B,), T), torch.ones(B, dtype=torch.bool)


def passages(n, seed=0):
    rng = random.Random(seed)
    return [stories.passage(rng) for _ in range(n)]


def record(monkeypatch, name):
    """Put into the place of an optimizer one that moves nothing, and notes how it is used."""
    notes = types.SimpleNamespace(rates=[], norms=[])

    class Recorder(torch.optim.SGD):
        def __init__(self, params, **options):
            super().__init__(params, lr=options.get("lr", 0.0))
            notes.options, notes.groups = options, self.param_groups

        def step(self):
            grads = [p.grad for group in notes.groups for p in group["params"]]
            norm = torch.cat([grad.flatten() for grad in grads if grad is not None]).norm()
            notes.norms.append(norm.item())
            notes.rates.append([group["lr"] for group in notes.groups])
    monkeypatch.setattr(torch.optim, name, Recorder)
    return notes


# --- gpt.py -----------------------------------------------------------------------------

def test_attention_by_hand():
    # One head, D = 1. Token 0 sees itself: v0 = 2. Token 1: scores (0, log 3), weights (1/4, 3/4).
    q, k = torch.tensor([[[[1.0], [1.0]]]]), torch.tensor([[[[0.0], [math.log(3)]]]])
    v = torch.tensor([[[[2.0], [6.0]]]])
    assert torch.allclose(gpt.attention(q, k, v).flatten(), torch.tensor([2.0, 5.0]))


def test_attention_is_the_fused_kernels():
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=torch.Generator().manual_seed(0))
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(gpt.attention(q, k, v), fused, atol=1e-6)
    one = F.scaled_dot_product_attention(q[:, :, -1:], k, v)           # one new token sees all
    assert torch.allclose(gpt.attention(q[:, :, -1:], k, v), one, atol=1e-6)


def test_the_future_is_invisible(model):
    x = tokens_of(1, 12)
    y = x.clone()
    y[0, 8:] = 7
    assert torch.equal(model(x)[:, :8], model(y)[:, :8])
    assert not torch.allclose(model(x)[:, 8], model(y)[:, 8])


def test_more_tokens_than_positions_are_refused(model):
    with pytest.raises(AssertionError, match="41 tokens for 40 positions"):
        model(torch.zeros(1, 41, dtype=torch.long))
    with pytest.raises(AssertionError, match="41 tokens for 40 positions"):
        gpt.generate(model, tokens_of(1, 30), 20, 1.0)       # with a cache too


def test_parameter_names_are_those_of_the_published_checkpoint(model):
    block = ["ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias",
             "attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias",
             "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"]
    wanted = ["wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"]
    wanted += [f"h.{i}.{name}" for i in range(2) for name in block]
    assert sorted(dict(model.named_parameters())) == sorted(wanted)


def test_a_block_by_hand(model):
    # x + attn(ln_1 x), then + mlp(ln_2 .), with the tanh approximation of GELU.
    block, x = model.h[0], torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0))
    # Queries, keys and values lie side by side, of head 0 in channels 0 .. 7, of 1 in 8 .. 15.
    q, k, v = block.attn.c_attn(x)[..., :16], *block.attn.c_attn(x)[..., 16:].chunk(2, dim=-1)
    y = [gpt.attention(q[..., i:i + 8], k[..., i:i + 8], v[..., i:i + 8]) for i in (0, 8)]
    assert torch.allclose(block.attn(x), block.attn.c_proj(torch.cat(y, -1)), atol=1e-5)
    mid = x + block.attn(block.ln_1(x))
    u = block.mlp.c_fc(block.ln_2(mid))
    g = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u ** 3)))
    assert torch.allclose(block(x), mid + block.mlp.c_proj(g), atol=1e-5)
    exact = mid + block.mlp.c_proj(F.gelu(u))
    assert not torch.allclose(block(x), exact, atol=1e-5)


def test_the_model_by_hand(model):
    # Token and position added, the blocks, the last norm, the embedding again as output.
    x = tokens_of(2, 5)
    h = model.wte(x) + model.wpe(torch.arange(5))
    for block in model.h:
        h = block(h)
    assert torch.allclose(model(x), model.ln_f(h) @ model.wte.weight.T, atol=1e-5)


def test_initial_scale():
    # GPT-2's at 768 channels; what adds to the residual stream over sqrt(2 n_layer) = 2.
    m = gpt.GPT(vocab_size=2000, block_size=16, n_layer=2, n_head=4, n_embd=768)
    assert m.wte.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert m.wpe.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert m.h[0].attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert m.h[0].mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 2, rel=0.02)
    assert m.h[1].attn.c_attn.bias.abs().max() == 0
    # A wider model as at 768; a quarter of the width, and it is sqrt(4) times as large.
    wide = gpt.GPT(vocab_size=200, block_size=4, n_layer=0, n_head=4, n_embd=3072)
    assert wide.wte.weight.std().item() == pytest.approx(0.02, rel=0.02)
    narrow = gpt.GPT(vocab_size=2000, block_size=16, n_layer=2, n_head=4, n_embd=192)
    assert narrow.wte.weight.std().item() == pytest.approx(0.04, rel=0.02)


@torch.no_grad()
def generate_slowly(model, query, T, temperature):
    """The slow twin of gpt.generate: it reads everything again for each token."""
    tokens = query
    for _ in range(T):
        h = model.hidden(tokens)[:, -1]
        logprobs = gpt.next_token_logprobs(model, h, temperature)
        tokens = torch.cat([tokens, gpt.sample_next_token(logprobs)], dim=1)
    response = tokens[:, query.size(1):]
    return response, gpt.response_logprobs(model, query, response, temperature)


def test_the_cache_changes_nothing(model):
    x = tokens_of(64, 7)
    torch.manual_seed(3)
    y, logp = gpt.generate(model, x, 20, 0.7)
    torch.manual_seed(3)
    slow_y, slow_logp = generate_slowly(model, x, 20, 0.7)
    # A uniform number on a boundary may pick another token: rounding, once in thousands.
    same = (y == slow_y).all(dim=1)
    assert same.float().mean() > 0.95
    assert torch.allclose(logp[same], slow_logp[same], atol=1e-4)
    assert not torch.allclose(logp, gpt.response_logprobs(model, x, y, 1.0), atol=1e-2)


def test_a_query_is_read_once_for_all_its_responses(model):
    x = tokens_of(20, 7)
    torch.manual_seed(3)
    y, logp = gpt.generate(model, x, 9, 0.7, n=3)
    torch.manual_seed(3)
    one_by_one = gpt.generate(model, x.repeat_interleave(3, dim=0), 9, 0.7)
    same = (y == one_by_one[0]).all(dim=1)
    assert same.float().mean() > 0.9 and y.shape == (60, 9)
    assert torch.allclose(logp[same], one_by_one[1][same], atol=1e-4)
    assert not torch.equal(y[0], y[1]), "not the same one three times"
    torch.manual_seed(3)
    whole_ones = gpt.Sampling(9, 0.7, lambda y: (torch.full((len(y),), 9), torch.ones(len(y)) > 0))
    shown, _, _ = gpt.generate_finished(model, x, whole_ones, n=3)
    assert torch.equal(shown, y)


def test_temperature_divides_the_logits(model):
    h = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model.logits(h, 0.5), 2 * model.logits(h), atol=1e-4)
    sharp = gpt.next_token_logprobs(model, h, 0.5).exp()
    assert torch.allclose(sharp, (2 * model.logits(h)).softmax(-1), atol=1e-5)


def test_sample_next_token_follows_the_distribution(monkeypatch):
    torch.manual_seed(0)
    p = torch.tensor([0.5, 0.0, 0.2, 0.3])
    drawn = gpt.sample_next_token(p.log().expand(100_000, 4))[:, 0]
    share = torch.bincount(drawn, minlength=4) / 100_000
    assert share[1] == 0 and torch.allclose(share, p, atol=0.01)
    # The two ends of the interval, where rounding could pick what has no probability.
    monkeypatch.setattr(torch, "rand", lambda *size, **device: torch.zeros(*size))
    assert gpt.sample_next_token(torch.tensor([[0.0, 1.0]]).log()).tolist() == [[1]]
    monkeypatch.setattr(torch, "rand", lambda *size, **device: torch.ones(*size))
    assert gpt.sample_next_token(torch.tensor([[0.5, 0.5]]).log()).tolist() == [[1]]
    # Rounded so far down that they add up to 3/4, of which .8 is .6: the second.
    monkeypatch.setattr(torch, "rand", lambda *size, **device: torch.full(size, 0.8))
    assert gpt.sample_next_token(torch.tensor([[0.5, 0.25, 0.0]]).log()).tolist() == [[1]]


def test_the_trained_positions_are_the_response_tokens(model):
    # Q = 2, T = 3: positions 0 1 | 2 3 4. Token 2 is predicted by column 1, token 4 by column 3.
    assert gpt.response_positions(torch.arange(5)[None], 2).tolist() == [[1, 2, 3]]
    x, y = tokens_of(1, 4), tokens_of(1, 3)
    rows = model(torch.cat([x, y], dim=1)).log_softmax(-1)[0]
    by_hand = [rows[3 + t, y[0, t]].item() for t in range(3)]
    found = gpt.response_logprobs(model, x, y, 1.0)
    assert found[0].tolist() == pytest.approx(by_hand, abs=1e-5)
    h = gpt.response_states(model, x, y)
    assert torch.allclose(h, model.hidden(torch.cat([x, y], dim=1))[:, 3:6])


def test_a_response_is_drawn_again_until_it_finds_its_end(model):
    period = 7
    truncate = partial(text.truncate_at_period, period=period, after=2)
    torch.manual_seed(0)
    y, length, finished = gpt.generate_finished(
        model, tokens_of(6, 4), gpt.Sampling(20, 1.0, truncate), max_tries=500)
    assert finished.all() and (y[torch.arange(6), length - 1] == period).all()
    # A period that is no token is never found: the responses stay whole.
    never = gpt.Sampling(5, 1.0, partial(text.truncate_at_period, period=99, after=0))
    y, length, finished = gpt.generate_finished(model, tokens_of(3, 4), never, max_tries=2)
    assert y.shape == (3, 5) and length.tolist() == [5, 5, 5] and not finished.any()


def test_language_model_loss_by_hand(model):
    windows = tokens_of(2, 4)
    logprobs = model(windows[:, :-1]).log_softmax(-1)
    by_hand = [-logprobs[b, t, windows[b, t + 1]].item() for b in range(2) for t in range(3)]
    every = torch.ones(2, 4, dtype=torch.bool)
    loss = gpt.language_model_loss(model, windows, every)
    assert loss.item() == pytest.approx(np.mean(by_hand), abs=1e-4)
    # Only the last token of each row counts: the third and the sixth.
    last = torch.zeros(2, 4, dtype=torch.bool)
    last[:, -1] = True
    loss = gpt.language_model_loss(model, windows, last)
    assert loss.item() == pytest.approx((by_hand[2] + by_hand[5]) / 2, abs=1e-4)
    # At temperature 1/2 the logits are twice as large.
    sharp = F.cross_entropy(2 * model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    loss = gpt.language_model_loss(model, windows, every, temperature=0.5)
    assert loss.item() == pytest.approx(sharp.item(), rel=1e-4)


def test_warmup_by_hand():
    # 40 steps: the first 5 % are 2, at 1/2 and 1 of the peak, along a cosine that ends at 0.
    rate = [gpt.warmup_then_cosine(step, 40) for step in range(41)]
    assert rate[0] == pytest.approx(0.5)
    assert rate[1] == pytest.approx(0.5 * (1 + math.cos(math.pi / 40)))
    assert rate[20] == pytest.approx(0.5) and rate[40] == pytest.approx(0)
    assert gpt.warmup_then_cosine(0, 10) == 1, "of a few steps none is lost"


def test_how_rho_is_trained(model, monkeypatch):
    windows, every = tokens_of(2, 9), torch.ones(2, 9, dtype=torch.bool)
    notes = record(monkeypatch, "AdamW")

    def train(steps, temperature):
        batches = [torch.tensor([0, 1])] * steps
        return gpt.train_language_model(model, windows, every, batches, 3.0, temperature)
    loss = gpt.language_model_loss(model, windows, every, 0.5).item()
    assert train(40, 0.5) == pytest.approx([loss] * 40)
    assert np.allclose(notes.rates, [[3 * gpt.warmup_then_cosine(i, 40)] * 2 for i in range(40)])
    assert notes.norms == pytest.approx([1.0] * 40, abs=1e-4), "clipped"
    assert notes.options["betas"] == (0.9, 0.95)
    for group in notes.groups:
        assert all(group["weight_decay"] == 0.01 * (p.dim() == 2) for p in group["params"])
    train(2, 100.0)                                      # gradients too small for the clip
    assert notes.norms[-1] == pytest.approx(notes.norms[-2]) and notes.norms[-1] < 0.9


def test_language_model_learns_a_pattern():
    torch.manual_seed(0)
    m = gpt.GPT(vocab_size=8, block_size=12, n_layer=1, n_head=2, n_embd=16)
    windows = torch.arange(8).repeat(50).unfold(0, 13, 1)
    batches = torch.randint(len(windows), (60, 8))
    every = torch.ones_like(windows, dtype=torch.bool)
    losses = gpt.train_language_model(m, windows, every, batches, lr=1e-2)
    assert len(losses) == 60
    assert losses[0] == pytest.approx(math.log(8), abs=0.5) and losses[-1] < 0.1


def test_a_loss_that_is_not_finite_stops_training(model):
    model.wte.weight.data[3] = math.nan
    windows, every = torch.full((2, 6), 3), torch.ones(2, 6, dtype=torch.bool)
    with pytest.raises(FloatingPointError, match="language model, step 1: the loss is nan"):
        gpt.train_language_model(model, windows, every, [torch.tensor([0, 1])], lr=1e-3)
    with pytest.raises(FloatingPointError, match="there: the loss is -inf"):
        gpt.check_finite(-math.inf, "loss", "there")


# --- text.py ----------------------------------------------------------------------------

def test_bpe_by_hand():
    # "ab ab abc": " ab" and "ab" share the pair a-b, the most common; then " " + "ab".
    learned = text.train_bpe(["ab ab abc"], 258)
    assert learned[:256] == [bytes([b]) for b in range(256)]
    assert learned[256:] == [b"ab", b" ab"]
    assert text.merge_pair([b"a", b"b", b"c", b"a", b"b"], (b"a", b"b")) == [b"ab", b"c", b"ab"]
    assert text.merge_pair([b"a", b"a", b"a"], (b"a", b"a")) == [b"aa", b"a"]


def test_bpe_against_the_plain_algorithm():
    """Count all pairs anew for every merge: slow, and obviously right."""
    told = passages(10)
    words = [[bytes([b]) for b in piece.encode()]
             for passage in told
             for piece in text.regex.findall(text.SPLIT_PATTERN, " " + passage)]
    tokens = [bytes([b]) for b in range(256)]
    while len(tokens) < 300:
        counts = collections.Counter(pair for word in words for pair in zip(word, word[1:]))
        best = max(counts, key=lambda pair: (counts[pair], pair))
        words = [text.merge_pair(word, best) for word in words]
        if best[0] + best[1] not in tokens:
            tokens.append(best[0] + best[1])
    assert text.train_bpe(told, 300) == tokens


def test_any_text_survives_the_tokens():
    tokenizer = text.Tokenizer(text.train_bpe(["Mara walked to the harbor. " * 9], 300))
    odd = "Zoë's 3 naïve tests: \"done\" — 日本 ☂."
    assert tokenizer.decode(tokenizer.encode(odd)) == odd
    assert tokenizer.encode("the harbor") == tokenizer.encode(" the harbor ")
    # An id without bytes.
    assert tokenizer.decode(tokenizer.encode("Hi.") + [len(tokenizer.tokens)]) == "Hi."
    assert len(text.train_bpe(["a."], 1000)) < 260, "no pairs left, no more tokens"


def test_sentences_end_where_a_reader_would_say_so():
    said = 'He paid $3.50. "I know." said Tom. She fled... Late.'
    tokenizer = text.Tokenizer(text.train_bpe([], 256))
    ids = tokenizer.encode(said)
    bounds = tokenizer.sentence_bounds(ids)
    sentences = [tokenizer.decode(ids[a:b]) for a, b in zip(bounds, bounds[1:])]
    assert sentences == ["He paid $3.50.", '"I know." said Tom.', "She fled...", "Late."]


def test_what_rho_reads_by_hand():
    # A fifth of 11 is 2, three times: rho reads the first 5, and each other part has 2.
    parts = text.split_passages(list("abcdefghijk"), 0.2)
    assert parts == {"train": list("abcde"), "reward": list("fg"), "policy": list("hi"),
                     "evaluation": list("jk")}
    assert list(parts)[0] == "train", "what it has is taken from the others"


def test_windows_start_with_a_sentence_and_stay_in_their_passage():
    tokenizer = text.Tokenizer(text.train_bpe([], 256))
    windows = text.sentence_windows(["Ab. Cd. Ef.", "Ghij.", "Klm."], tokenizer, 5)
    assert [tokenizer.decode(row) for row in windows.tolist()] == ["Ab. C", "Cd. E", "Ghij."]
    assert windows.shape == (3, 6)
    with pytest.raises(text.UserError, match="no sentence of the text has 99 tokens behind it"):
        text.sentence_windows(["Ab."], tokenizer, 99)


def test_queries_by_hand():
    tokenizer = text.Tokenizer(text.train_bpe([], 256))      # a byte a token, and a space before
    parts = {"train": ["Ab. Cd. Efghi."], "policy": ["Cd. Jk. Cd. Ab."]}
    queries = text.extract_queries(parts, tokenizer, 4, 8)
    said = {name: {length: [tokenizer.decode(query) for query in group.tolist()]
                   for length, group in groups.items()} for name, groups in queries.items()}
    assert said == {"policy": {4: ["Jk."], 8: ["Cd. Jk.", "Jk. Cd.", "Cd. Ab."]}}
    with pytest.raises(text.UserError, match="for policy has no run of sentences of 9 to 26 tokens"):
        text.extract_queries({"train": [], "policy": ["Hi."]}, tokenizer, 9, 26)


def test_every_length_is_drawn_as_often_as_it_occurs():
    torch.manual_seed(0)
    queries = {3: torch.arange(300)[:, None].expand(-1, 3), 5: torch.zeros(100, 5)}
    sampler = text.QuerySampler(queries, "cpu")
    lengths = [sampler.sample(2).size(1) for _ in range(2000)]
    assert len(text.QuerySampler({3: queries[3]}, "cpu").sample(7).unique()) > 1
    assert sampler.sample(7).size(0) == 7
    assert lengths.count(3) / 2000 == pytest.approx(0.75, abs=0.04)
    picked = text.sample_queries(queries, 40)
    assert sum(map(len, picked.values())) == 40 and 20 <= len(picked[3]) <= 38
    assert len(text.sample_queries(queries, 400)[3].unique()) == 300, "none twice"
    one_each = {2: torch.tensor([[0, 0], [1, 1]]), 3: torch.tensor([[2, 2, 2]])}
    every = text.sample_queries(one_each, 7)
    assert sorted(x[0] for group in every.values() for x in group.tolist()) == [0, 1, 2]
    batches = text.query_batches(queries, 200)
    assert [tuple(b.shape) for b in batches] == [(200, 3), (100, 3), (100, 5)]


def test_truncation_by_hand():
    # Period 9, allowed from position 2 on.
    y = torch.tensor([[9, 1, 9, 9], [9, 9, 1, 1], [1, 1, 1, 9]])
    length, finished = text.truncate_at_period(y, period=9, after=2)
    assert length.tolist() == [3, 4, 4] and finished.tolist() == [True, False, True]


def test_collate_by_hand():
    tokenizer = types.SimpleNamespace(encode=lambda t: [int(word) for word in t.split()])
    asked = [Comparison("1 2", ["3", "4 5", "", "6"], 2), Comparison("7 8 9", ["1 2 3"] * 4, 0)]
    with pytest.warns(UserWarning, match="the model.s 5 positions: 4; their beg"):
        tokens, lengths, best = text.collate(asked, tokenizer, block_size=5)
    assert tokens[0].tolist() == [[1, 2, 3, 0, 0], [1, 2, 4, 5, 0],
                                  [1, 2, 0, 0, 0], [1, 2, 6, 0, 0]]
    assert tokens[1, 0].tolist() == [8, 9, 1, 2, 3], "six are too many; the beginning goes"
    assert lengths.tolist() == [[3, 4, 2, 3], [5] * 4] and best.tolist() == [2, 0]


# --- stories.py -------------------------------------------------------------------------

def test_stories_are_varied_and_deterministic():
    some = passages(1000)
    assert some == passages(1000) and some != passages(1000, seed=1)
    assert sum(len(frames) for frames in stories.FRAMES.values()) >= 100
    assert len(set(re.findall(r"[a-z']+", " ".join(some).lower()))) >= 600
    assert all(6 <= p.count(".") <= 12 for p in some)
    assert not any("{" in p or "  " in p for p in some)
    assert not re.search(r"\b[Aa] [aeiou]", " ".join(some))


def test_pronouns_have_their_person():
    # "he" or "him" needs a man who was named before it, "she" a woman.
    for p in passages(1000):
        known = set()
        for word in re.findall(r"[A-Za-z]+", p):
            if word in stories.POOLS["man"]:
                known.add("man")
            if word in stories.POOLS["woman"]:
                known.add("woman")
            if word.lower() in ("he", "him", "his"):
                assert "man" in known, p
            if word.lower() in ("she", "her"):
                assert "woman" in known, p


def test_a_good_mood_tells_good_things():
    def tone(p):
        return stories.sentiment(p).mean()
    scores = [tone(p.split(". ", 1)[1]) for p in passages(500)]
    halves = [(tone(". ".join(p.split(". ")[1:4])), tone(". ".join(p.split(". ")[4:7])))
              for p in passages(500)]
    assert np.std(scores) > 5, "passages differ"
    assert np.corrcoef(np.array(halves).T)[0, 1] > 0.1, "and a mood persists"


def test_sentiment_by_hand():
    def raters(word):
        return stories.RATINGS[word]
    assert (stories.sentiment("Mara was happy.") == raters("happy")).all()
    assert (stories.sentiment("Mara was not happy.") == -raters("happy")).all()
    assert (stories.sentiment("She was not. Happy days.") == raters("happy")).all()
    assert (stories.sentiment("never in all happy") == -raters("happy")).all(), "the third word"
    assert (stories.sentiment("never in all days happy") == raters("happy")).all(), "the fourth"
    assert (stories.sentiment("sad and sad") == 2 * raters("sad")).all()
    assert stories.sentiment("The of and.").tolist() == [0] * 10


def test_ratings_are_the_published_ones():
    lexicon = Path(__file__).parent.parent / "shared" / "data" / "vader_lexicon.txt"
    if not lexicon.exists():
        pytest.skip("the VADER lexicon is not here")
    published = {}
    for line in lexicon.read_text("utf-8").splitlines():
        fields = line.split("\t")
        published[fields[0]] = json.loads(fields[-1])
    assert len(stories.RATINGS) > 300
    for word, ratings in stories.RATINGS.items():
        assert ratings.tolist() == published[word], word


def test_descriptiveness_by_hand():
    assert stories.descriptiveness("The golden, dusty lantern was gone.").tolist() == [2] * 10


@pytest.fixture
def toy_task(monkeypatch):
    # The text "a" scores 3 log 2, all others 0; at temperature 3, P = (2, 1, 1, 1) / 5.
    monkeypatch.setitem(stories.SCORES, "toy", lambda t: np.full(10, 3 * math.log(2) * (t == "a")))
    monkeypatch.setitem(stories.TEMPERATURES, "toy", 3)


def test_choices_by_hand(toy_task):
    p = stories.choice_probabilities("toy", [["a", "b", "c", "d"]])
    assert p.shape == (1, 10, 4) and np.allclose(p, [0.4, 0.2, 0.2, 0.2])
    assert stories.agreement(p) == pytest.approx(0.4 ** 2 + 3 * 0.2 ** 2)
    limit = stories.limits(p.mean(axis=1).repeat(2, axis=0))
    entropy = -0.4 * math.log(0.4) - 0.6 * math.log(0.2)
    assert limit["best_accuracy"] == pytest.approx(0.4)
    assert limit["best_loss"] == pytest.approx(entropy, abs=1e-3)
    assert stories.limits(np.eye(4))["best_loss"] == pytest.approx(0), "not 0 log 0"
    picks = stories.choose(np.repeat(p, 20_000, axis=0), np.random.default_rng(0), people=3)
    assert picks.shape == (20_000, 3)
    assert np.allclose(np.bincount(picks.ravel()) / 60_000, p[0, 0], atol=0.01)
    assert (picks[:, 0] == picks[:, 1]).mean() == pytest.approx(0.28, abs=0.02), "each for himself"


@pytest.fixture
def two_minds(monkeypatch):
    # Half of the labelers like "a", the others "b": the mean P is (3, 3, 2, 2) / 10.
    half = 3 * math.log(2) * np.repeat([1, 0], 5)
    monkeypatch.setitem(stories.SCORES, "toy",
                        lambda t: half * (t == "a") + half[::-1] * (t == "b"))
    monkeypatch.setitem(stories.TEMPERATURES, "toy", 3)


@pytest.mark.parametrize("task", ["sentiment", "descriptiveness"])
def test_labelers_agree_about_as_often_as_people(task):
    said = [p.split(". ")[1] for p in passages(1200)]
    p = stories.choice_probabilities(task, np.reshape(said, (300, 4)).tolist())
    assert 0.3 < stories.agreement(p) < 0.4, "the paper's: 38 %"


def test_different_labelers_are_different_people():
    p = np.zeros((1, 2, 4))
    p[0, 0, 0] = p[0, 1, 1] = 1          # two people who never agree
    assert stories.agreement(p) == 0, "with himself everyone would agree"
    p = np.zeros((50, 4, 4))
    p[:, range(4), range(4)] = 1         # labeler i always chooses option i
    picks = stories.choose(p, np.random.default_rng(0), people=3)
    assert all(len(set(row)) == 3 for row in picks.tolist())
    assert len({tuple(row) for row in picks.tolist()}) > 10, "drawn anew for each question"


# --- reward.py --------------------------------------------------------------------------

def test_best_of_four_loss_by_hand():
    # exp r = (1, 2, 3, 4), b = 3: - log(4 / 10)
    r = torch.log(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    b = torch.tensor([3])
    assert reward.best_of_four_loss(r, b).item() == pytest.approx(-math.log(0.4))
    assert reward.best_of_four_loss(r + 5, b).item() == pytest.approx(-math.log(0.4), abs=1e-6)
    assert reward.best_of_four_loss(torch.zeros(1, 4), b).item() == pytest.approx(LOG4)
    both = reward.best_of_four_loss(torch.cat([r, r]), torch.tensor([3, 0]))
    assert both.item() == pytest.approx((-math.log(0.4) - math.log(0.1)) / 2), "a mean"


def test_gradients_against_finite_differences():
    torch.manual_seed(0)
    r = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0, 1, 2, 3, 0])
    assert torch.autograd.gradcheck(lambda r: reward.best_of_four_loss(r, b), r)
    old, A = torch.randn(2, 5, 3, dtype=torch.float64)
    logp = (old + 0.4 * torch.randn_like(old)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ppo.policy_loss(z, old, A, 0.2)[0], logp)
    value = (old + torch.randn_like(old)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: ppo.value_loss(v, old, A, 0.2), value)


def test_the_score_is_read_at_the_last_real_token(model):
    r = reward.RewardModel(model)
    tokens, lengths = tokens_of(3, 12), torch.tensor([5, 12, 9])
    last = model.hidden(tokens)[[0, 1, 2], [4, 11, 8]]
    assert torch.allclose(r.unnormalized(tokens, lengths), r.head(last)[:, 0], atol=1e-5)
    r.gain.data.fill_(3.0)
    r.bias.data.fill_(0.5)
    assert torch.allclose(r(tokens, lengths), 3 * r.unnormalized(tokens, lengths) + 0.5)


def test_reward_head_scale(model):
    torch.manual_seed(0)
    heads = torch.cat([reward.RewardModel(model).head.weight for _ in range(150)])
    assert heads.std().item() == pytest.approx(1 / math.sqrt(17), rel=0.05)


def test_heads_lie_where_rho_does_on_trunks_of_their_own(model):
    model.to("meta")                                         # a device that every machine has
    for with_head in (ppo.Policy(model), reward.RewardModel(model)):
        assert {p.device.type for p in with_head.parameters()} == {"meta"}
        assert not set(with_head.parameters()) & set(model.parameters())


def test_normalization_by_hand():
    # Scores 1 and 5: mean 3, deviation 2 of the population, so r = u / 2 - 3 / 2.
    r = types.SimpleNamespace(gain=torch.tensor(7.0), bias=torch.tensor(7.0),
                              unnormalized=lambda tokens, lengths: torch.tensor([1.0, 5.0]))
    reward.normalize(r, torch.zeros(2, 3), torch.ones(2))
    assert (r.gain.item(), r.bias.item()) == pytest.approx((0.5, -1.5)), "as if there were none"


def test_normalization_holds_on_fresh_samples(model):
    torch.manual_seed(0)
    r = reward.RewardModel(model)
    r.head.bias.data.fill_(5.0)
    queries = {5: tokens_of(1, 5).expand(4000, -1), 7: tokens_of(1, 7).expand(4000, -1)}
    truncate = partial(text.truncate_at_period, period=7, after=4)
    sampling = gpt.Sampling(8, 1.0, truncate)

    def fresh():
        return reward.samples_of_rho(model, queries, sampling, n=4000)
    first = fresh()
    assert first[0].shape == (4000, 15) and set(first[1].tolist()) == set(range(10, 16))
    cold, _ = reward.samples_of_rho(model, queries, sampling._replace(temperature=1e-3), n=20)
    assert len(cold.unique(dim=0)) < 10, "near 0 it says the same again and again, but for ties"
    reward.normalize(r, *first)
    scores = reward.score_in_batches(r, *fresh())
    assert scores.mean().item() == pytest.approx(0, abs=0.1)
    assert scores.std().item() == pytest.approx(1, abs=0.1)


def test_how_r_is_trained(model, monkeypatch):
    notes, r = record(monkeypatch, "Adam"), reward.RewardModel(model)
    tokens, lengths = tokens_of(12, 6).view(3, 4, 6), torch.full((3, 4), 6)
    best, batches = torch.tensor([0, 1, 2]), [torch.tensor([0, 1, 2])] * 4
    losses = reward.train_reward_model(r, tokens, lengths, best, 4.0, batches)
    assert notes.rates == [[4.0], [3.0], [2.0], [1.0]] and notes.options["eps"] == 1e-5
    assert notes.norms == pytest.approx([notes.norms[0]] * 4) and losses == [losses[0]] * 4
    assert any(p is r.gain for p in notes.groups[0]["params"])


def test_reward_model_learns_what_is_liked():
    torch.manual_seed(0)
    tokens, best = torch.randint(10, 50, (1200, 4, 6)), torch.randint(4, (1200,))
    tokens[torch.arange(1200), best, 3] = 7                  # everyone likes the one with token 7
    lengths, r = torch.full((1200, 4), 6), reward.RewardModel(gpt.GPT(50, 8, 1, 2, 32))
    batches = torch.randperm(1000).split(10)
    seen = tokens[:1000], lengths[:1000], best[:1000]
    losses = reward.train_reward_model(r, *seen, 1e-2, batches)
    unseen = tokens[1000:], lengths[1000:], F.one_hot(best[1000:], 4).float()
    found = reward.evaluate_reward_model(r, *unseen)
    assert len(losses) == 100 and losses[0] > 1
    assert found["accuracy"] > 0.95 and found["loss"] < 0.2


def test_accuracy_and_loss_of_r_by_hand(monkeypatch):
    # Scores (log 2, 0, 0, 0), so r says P = (2, 1, 1, 1) / 5; labelers choose (1/2, 1/2, 0, 0),
    # and in the second question the last for sure.
    r = types.SimpleNamespace(trunk=types.SimpleNamespace(device="cpu"))
    scores = torch.tensor([math.log(2), 0, 0, 0]).repeat(2)
    monkeypatch.setattr(reward, "score_in_batches", lambda r, tokens, lengths: scores)
    p = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1.0]])
    found = reward.evaluate_reward_model(r, torch.zeros(2, 4, 3), torch.ones(2, 4), p)
    assert found["accuracy"] == pytest.approx((0.5 + 0) / 2)
    first = -0.5 * math.log(2 / 5) - 0.5 * math.log(1 / 5)
    assert found["loss"] == pytest.approx((first - math.log(1 / 5)) / 2)


def test_comparisons_survive_their_file(tmp_path):
    c = Comparison("Zoë slept.", ["one.", "two \"2\".", "three\n\u2028li\x85nes.", ""], 2)
    path = tmp_path / "labels.jsonl"
    reward.write_comparisons(path, [c, c])
    assert reward.read_comparisons(path) == [c, c], "a sample may say nothing"
    line = reward.comparison_line(c)
    path.write_text("\ufeff" + line.strip() + "\r\n\n" + line, "utf-8")
    assert reward.read_comparisons(path) == [c, c]


GOOD = reward.comparison_line(Comparison("q", list("abcd"), 0))


@pytest.mark.parametrize("line, words", [
    ("not json", "line 2: not a comparison"), ("[1, 2]", "line 2: not a comparison"),
    ('{"query": "a", "sample0": "", "sample1": "", "sample2": "", "best": 0}', "sample3' is m"),
    ('{"query": "a", "sample0": "", "sample1": "", "sample3": "", "best": 0}', "sample2' is m"),
    ('{"query": "a"}', "sample0"), ("[" * 100_000, "line 2: not a comparison"),
    (GOOD.replace('"best": 0', '"best": 4'), "best is 4"),
    (GOOD.replace('"best": 0', '"best": true'), "best is True"),
    (GOOD.replace('"c"', "3"), "must be texts"),
    (GOOD.replace('"q"', '" "'), "the query is empty"),
    (GOOD.replace('"c"', '"\\ud800 a"'), "surrogates not allowed")])
def test_bad_labels_are_refused_with_their_line(tmp_path, line, words):
    path = tmp_path / "labels.jsonl"
    path.write_text(GOOD + line.rstrip("\n") + "\n")
    with pytest.raises(text.UserError, match=words) as caught:
        reward.read_comparisons(path)
    assert "labels.jsonl, line 2" in str(caught.value)


def test_pairs_are_comparisons_too(model, tmp_path):
    pairs = [Comparison("q", ["a", "b"], 1), Comparison("p", ["c", ""], 0)]
    path = tmp_path / "labels.jsonl"
    reward.write_comparisons(path, pairs)
    assert reward.read_comparisons(path) == pairs
    scores = torch.tensor([[1.0, 3.0], [2.0, 0.5]])
    by_hand = (math.log(1 + math.exp(1 - 3)) + math.log(1 + math.exp(0.5 - 2))) / 2
    loss = reward.best_of_four_loss(scores, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx(by_hand), "Bradley and Terry's"
    r = reward.RewardModel(model)
    tokens, lengths = tokens_of(8, 6).view(4, 2, 6), torch.full((4, 2), 6)
    losses = reward.train_reward_model(r, tokens, lengths, torch.tensor([0, 1, 1, 0]), 0.01,
                                       [torch.arange(4)] * 9)
    assert losses[-1] < losses[0]
    p = F.one_hot(torch.tensor([0, 1, 1, 0]), 2).float()
    assert 0 <= reward.evaluate_reward_model(r, tokens, lengths, p)["accuracy"] <= 1
    reward.write_comparisons(path, [*pairs, Comparison("q", list("abcd"), 0)])
    with pytest.raises(text.UserError, match="some comparisons have two samples and some four"):
        reward.read_comparisons(path)


def test_files_without_labels_are_refused(tmp_path):
    (tmp_path / "empty").write_text("\n\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name, words in (("empty", "no comparisons"), ("bytes", "not UTF-8")):
        with pytest.raises(text.UserError, match=words):
            reward.read_comparisons(tmp_path / name)


def test_what_is_held_out_asks_about_other_queries(tmp_path):
    path = tmp_path / "labels.jsonl"

    def ask(queries):
        reward.write_comparisons(path, [Comparison(q, list("abcd"), 0) for q in queries])
    ask("aabbccddeeff")
    train, held_out = reward.split_comparisons(path)
    assert [c.query for c in train] == list("aabbccddee") and len(held_out) == 2
    ask("aabbccdfeeff")                                     # one f among the others is left out
    assert [c.query for c in reward.split_comparisons(path)[0]] == list("aabbccdee")
    for too_few in ("abcde", "aaaaaaaa"):
        ask(too_few)
        with pytest.raises(text.UserError, match="too few"):
            reward.split_comparisons(path)


def test_queries_are_asked_as_evenly_as_can_be():
    queries = {2: torch.tensor([[0, 0], [1, 1]]), 3: torch.tensor([[2, 2, 2]])}
    torch.manual_seed(0)
    asked = [int(query[0]) for query in reward.shuffled_queries(queries, 7)]
    assert sorted(asked.count(i) for i in range(3)) == [2, 2, 3]
    assert len(list(itertools.groupby(asked))) == 3, "one after the other, to be held out together"
    assert len({int(query[0]) for query in reward.shuffled_queries(queries, 2)}) == 2
    orders = {tuple(int(q[0]) for q in reward.shuffled_queries(queries, 3)) for _ in range(99)}
    assert len(orders) == 6, "in any order"


def letters():
    """A tokenizer whose text is the ids, so that a test can read who said what."""
    return types.SimpleNamespace(decode=lambda ids: " ".join(str(int(i)) for i in ids))


def test_a_question_has_four_samples_of_one_model_or_two_of_each_of_two(monkeypatch):
    def say(model, query, n, sampling, tokenizer):
        return [[f"{model} {k}" for k in range(n)] for _ in query]
    monkeypatch.setattr(reward, "generate_texts", say)
    queries = {2: torch.tensor([[1, 1], [2, 2]]), 3: torch.tensor([[3, 3, 3]])}
    torch.manual_seed(0)
    one = reward.generate_questions(["rho"], queries, 3, None, letters(), iter)
    assert sorted(query for query, _ in one) == ["1 1", "2 2", "3 3 3"]
    assert all(samples == [f"rho {k}" for k in range(4)] for _, samples in one)
    two = reward.generate_questions(["rho", "pi"], queries, 300, None, letters(), iter)
    wanted = ["pi 0", "pi 1", "rho 0", "rho 1"]
    assert all(sorted(samples) == wanted for _, samples in two)
    first = [samples[0] for _, samples in two]
    assert all(40 < first.count(sample) < 110 for sample in wanted), "in random places"


def test_texts_are_the_finished_responses(model, monkeypatch):
    truncate = partial(text.truncate_at_period, period=7, after=2)
    torch.manual_seed(0)
    sampling = gpt.Sampling(30, 1.0, truncate)
    texts = reward.generate_texts(model, tokens_of(3, 4), 2, sampling, letters())
    assert [len(two) for two in texts] == [2, 2, 2]
    for said in itertools.chain(*texts):
        ids = said.split()
        assert len(ids) >= 3 and ids[-1] == "7" and "7" not in ids[2:-1]
    never = gpt.Sampling(5, 1.0, partial(text.truncate_at_period, period=99, after=0))
    with pytest.warns(UserWarning, match="shown whole"):
        reward.generate_texts(model, tokens_of(1, 4), 1, never, letters())
    # A model that says its query again: each query has its own responses.
    monkeypatch.setattr(reward, "generate_finished",
                        lambda model, query, sampling, n: (
                            query.repeat_interleave(n, 0), *whole(query.repeat(n, 1))))
    texts = reward.generate_texts(model, torch.tensor([[1, 2], [3, 4]]), 2, never, letters())
    assert texts == [["1 2", "1 2"], ["3 4", "3 4"]]


def test_a_response_without_an_end_gets_minus_one():
    seen = {}

    def r(tokens, lengths):
        seen["lengths"] = lengths.tolist()
        return torch.tensor([0.5, 0.6, 0.7])
    y = torch.tensor([[9, 1, 9, 9], [9, 9, 1, 1], [1, 1, 1, 9]])
    sampling = gpt.Sampling(4, 1.0, partial(text.truncate_at_period, period=9, after=2))
    score = reward.learned_reward(r, sampling)(torch.zeros(3, 5, dtype=torch.long), y)
    assert score.tolist() == pytest.approx([0.5, -1.0, 0.7]) and seen["lengths"] == [8, 9, 9]


# --- ppo.py -----------------------------------------------------------------------------

def test_eq_2_by_hand():
    # log pi - log rho = (.5, -.2, .1), beta = 2, r = 3: the sum is 3 - 2 (.4) = 2.2.
    logp, ref = torch.tensor([[-1.0, -1.2, -0.9]]), torch.tensor([[-1.5, -1.0, -1.0]])
    every = torch.ones(1, 3, dtype=torch.bool)
    rewards = ppo.token_rewards(torch.tensor([3.0]), logp, ref, 2.0, every)
    assert torch.allclose(rewards, torch.tensor([[-1.0, 0.4, 2.8]]))
    assert rewards.sum().item() == pytest.approx(2.2)
    # With its end after two tokens the third is not there: (-1, .4 + 3, 0).
    two = torch.tensor([[True, True, False]])
    rewards = ppo.token_rewards(torch.tensor([3.0]), logp, ref, 2.0, two)
    assert torch.allclose(rewards, torch.tensor([[-1.0, 3.4, 0.0]]))


def test_gae_by_hand():
    # lam = .5, V = (0, 1, 2), r = (0, 0, 3): delta = (1, 1, 1), so A2 = 1, A1 = 1.5, A0 = 1.75.
    A = ppo.gae(torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 1.0, 2.0]]), lam=0.5)
    assert A.tolist() == [[1.75, 1.5, 1.0]]
    # lam = 1: all that is still to come, less what was expected.
    A = ppo.gae(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4.0, 4.0, 4.0]]), lam=1.0)
    assert A.tolist() == [[2.0, 1.0, -1.0]]


def test_whitening_by_hand():
    # (1, 3): mean 2, population deviation 1.
    assert torch.allclose(ppo.whiten(torch.tensor([1.0, 3.0])), torch.tensor([-1.0, 1.0]))
    assert torch.allclose(ppo.whiten(torch.tensor([2.0, 2.0])), torch.zeros(2)), "not 0 / 0"


@pytest.mark.parametrize("ratio, advantage, loss, moves", [
    (1.5, 1.0, -1.2, False), (0.5, 1.0, -0.5, True),
    (1.5, -1.0, 1.5, True), (0.5, -1.0, 0.8, False)])
def test_the_clip_in_both_directions(ratio, advantage, loss, moves):
    # Clip .2. What went far enough the right way (1.5 for A > 0, .5 for A < 0) gets no gradient.
    logp = torch.tensor([[math.log(ratio)]], requires_grad=True)
    value, clipfrac = ppo.policy_loss(logp, torch.zeros(1, 1), torch.tensor([[advantage]]), 0.2)
    value.backward()
    assert value.item() == pytest.approx(loss)
    assert (logp.grad.abs().item() > 0) == moves and clipfrac.item() == float(not moves)


def test_policy_loss_and_clipfrac_are_means():
    logp = torch.tensor([math.log(1.5), 0.0])
    loss, clipfrac = ppo.policy_loss(logp, torch.zeros(2), torch.tensor([1.0, 1.0]), 0.2)
    assert loss.item() == pytest.approx((-1.2 - 1.0) / 2) and clipfrac.item() == 0.5


@pytest.mark.parametrize("value, old, returns, loss", [
    (1.0, 0.0, 2.0, 1.62),       # kept at .2: (.2 - 2)^2 / 2 is worse than (1 - 2)^2 / 2
    (-1.0, 0.0, 2.0, 4.5),       # kept at -.2, but -1 is worse: 9 / 2
    (2.0, 1.0, 3.0, 1.62),       # the old value 1: kept at 1.2, (1.2 - 3)^2 / 2
    (0.9, 1.0, 3.0, 2.205)])     # within .2 of the old one: 2.1^2 / 2
def test_value_loss_by_hand(value, old, returns, loss):
    twice = (torch.full((2,), number) for number in (value, old, returns))
    assert ppo.value_loss(*twice, 0.2).item() == pytest.approx(loss), "a mean"


@pytest.mark.parametrize("kl, beta", [
    (6.0, 1.0), (6.6, 1.01), (5.4, 0.99),
    (60.0, 1.02), (-60.0, 0.98)])        # 2 % an update at most
def test_the_controller_by_hand(kl, beta):
    control = ppo.AdaptiveKL(beta=2.0, target=6.0, K=0.1)
    control.update(kl)
    assert control.beta == pytest.approx(2 * beta)
    fixed = ppo.AdaptiveKL(beta=1.0, target=0, K=0.1)
    fixed.update(kl)
    assert fixed.beta == 1.0


def test_kl_has_the_right_sign():
    # pi = (.9, .1), rho = (.5, .5): KL(pi, rho) = .9 log 1.8 + .1 log .2 = .368, found by E_pi.
    p, q = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
    every = torch.ones(2, 1, dtype=torch.bool)
    rewards = ppo.token_rewards(torch.zeros(2), p.log()[:, None], q.log()[:, None], 1.0, every)
    assert -(p * rewards[:, 0]).sum().item() == pytest.approx(0.3681, abs=1e-4)
    kl = ppo.response_kl(p.log()[:, None], q.log()[:, None], every)
    assert (p * kl).sum().item() == pytest.approx(0.3681, abs=1e-4)


def test_masks_by_hand():
    assert ppo.mask_before(torch.tensor([1, 3]), 3).tolist() == [[True, False, False], [True] * 3]
    logp = torch.tensor([[0.5, 0.25, 8.0]])
    mask = torch.tensor([[True, True, False]])
    assert ppo.response_kl(logp, torch.zeros(1, 3), mask).tolist() == [0.75], "a sum to the end"


def settings(**changed):
    usual = dict(temperature=0.7, clip=0.2, lam=0.95, vf_coef=0.5, whiten_rewards=False,
                 epochs=4, minibatches=1, critic="own", group_size=4)
    return types.SimpleNamespace(**{**usual, **changed})


def first_token(query, response):
    return response[:, 0].float()


LENGTHS = torch.tensor([3, 8] * 32)


def end_at_lengths(response):
    length = LENGTHS[:len(response)]
    return length, length > 0


def start_of_ppo(model, truncate=whole, critic="own"):
    pi = ppo.Policy(model, critic)
    batch = ppo.rollout(pi, model, first_token, tokens_of(64, 5), gpt.Sampling(8, 0.7, truncate))
    return pi, batch


def test_before_training_kl_is_0_and_values_are_0(model):
    pi, batch = start_of_ppo(model)
    assert torch.allclose(batch.logprobs, batch.ref_logprobs, atol=1e-4)
    assert (batch.values == 0).all() and batch.response_mask.all()
    assert torch.equal(batch.score, batch.response[:, 0].float())
    pi.trunk.wte.weight.data += 0.3 * torch.randn(50, 16)
    again = ppo.rollout(pi, model, first_token, batch.query, gpt.Sampling(8, 0.7, whole))
    ref_logprobs = gpt.response_logprobs(model, again.query, again.response, 0.7)
    assert torch.allclose(again.ref_logprobs, ref_logprobs, atol=1e-4), "of rho"


@pytest.mark.parametrize("critic", ["own", "shared", "none"])
def test_what_the_critic_reads(model, critic):
    pi = ppo.Policy(model, critic)
    query, response = tokens_of(64, 5), tokens_of(64, 8)
    for p in pi.parameters():                            # its own trunk is no longer pi's
        p.data += 0.1 * torch.randn(p.shape)
    if critic == "none":
        assert pi.value_head is None and (pi.values(query, response) == 0).all()
        return
    assert (pi.value_trunk is pi.trunk) == (critic == "shared")
    read = pi.value_head(gpt.response_states(pi.value_trunk, query, response))[..., 0]
    assert torch.allclose(pi.values(query, response), read, atol=1e-4)
    h = gpt.response_states(pi.trunk, query, response)       # what pi knows of its own states
    assert torch.allclose(pi.values(query, response, h), read, atol=1e-4)
    if critic == "shared":
        assert not torch.allclose(pi.values(query, response, 0 * h), read, atol=1e-4), "used"


def test_pi_and_its_critic_learn_at_rates_of_their_own(model):
    cfg = types.SimpleNamespace(lr=0.1, critic_lr=0.2)
    for critic, n in [("own", 30), ("shared", 2), ("none", 0)]:
        pi = ppo.Policy(model, critic)
        of_pi, of_critic = ppo.policy_optimizer(pi, cfg).param_groups
        assert (of_pi["lr"], of_critic["lr"], of_pi["eps"]) == (0.1, 0.2, 1e-5)
        assert len(of_critic["params"]) == n and len(of_pi["params"]) == 28
        assert {*of_pi["params"], *of_critic["params"]} == {*pi.parameters()}


def test_leaving_one_out_by_hand():
    # Of 1, 2, 6 the others' means are 4, 3.5 and 1.5; alike, there is no advantage.
    total = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0])
    assert ppo.leave_one_out(total, 3).tolist() == [-3.0, -1.5, 4.5, 0, 0, 0]
    model = random_model()
    _, batch = start_of_ppo(model, end_at_lengths, "none")
    batch = batch._replace(ref_logprobs=batch.ref_logprobs - torch.randn(64, 8))
    mask = batch.response_mask
    advantages, _ = ppo.advantages_and_returns(batch, 0.1, settings(critic="none"))
    total = batch.score - 0.1 * ppo.response_kl(batch.logprobs, batch.ref_logprobs, mask)
    wanted = ppo.leave_one_out(total, 4)[:, None].expand(-1, 8)[mask]
    assert torch.allclose(advantages[mask], ppo.whiten(wanted), atol=1e-3), "of every token"
    assert (advantages[~mask] == 0).all()


def test_the_first_step_starts_at_ratio_1(model):
    pi, batch = start_of_ppo(model)
    # Against log-probabilities of the same forward pass the ratio is 1 to the last bit.
    logp = gpt.response_logprobs(pi.trunk, batch.query, batch.response, 0.7)
    batch = batch._replace(logprobs=logp.detach())
    advantages, returns = ppo.advantages_and_returns(batch, 0.1, settings())
    optimizer = torch.optim.Adam(pi.parameters(), lr=1e-3)
    first = ppo.ppo_step(pi, optimizer, batch, advantages, returns, settings())
    assert first["approx_kl"] == 0 and first["clipfrac"] == 0
    second = ppo.ppo_step(pi, optimizer, batch, advantages, returns, settings())
    now = gpt.response_logprobs(pi.trunk, batch.query, batch.response, 0.7)
    third = ppo.ppo_step(pi, optimizer, batch, advantages, returns, settings())
    assert second["approx_kl"] > 0
    by_hand = 0.5 * ((now - logp) ** 2).mean().item()
    assert third["approx_kl"] == pytest.approx(by_hand, rel=1e-3), "a mean over tokens"


@pytest.mark.parametrize("critic", ["own", "shared"])
def test_the_loss_of_a_step_by_hand(model, critic):
    pi, batch = start_of_ppo(model, end_at_lengths, critic)
    pi.value_head.weight.data.normal_(std=0.01)
    mask = batch.response_mask
    advantages, returns = ppo.advantages_and_returns(batch, 0.1, settings())
    sgd = torch.optim.SGD(pi.parameters(), lr=0.0)
    stats = ppo.ppo_step(pi, sgd, batch, advantages, returns, settings(vf_coef=0.25))
    found = [p.grad.clone() for p in pi.parameters()]
    logp = gpt.response_logprobs(pi.trunk, batch.query, batch.response, 0.7)
    ratio = (logp - batch.logprobs).exp()
    loss_pi = -(advantages * ratio)[mask].mean()         # no clip at ratio 1
    values = pi.values(batch.query, batch.response)
    loss_v = 0.5 * ((values - returns) ** 2)[mask].mean()
    assert stats["policy_loss"] == pytest.approx(loss_pi.item(), abs=1e-4)
    assert stats["value_loss"] == pytest.approx(loss_v.item(), rel=1e-4)
    wanted = torch.autograd.grad(loss_pi + 0.25 * loss_v, list(pi.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(found, wanted))
    # Further from the old policy than the clip.
    moved = batch._replace(logprobs=batch.logprobs + 0.1, values=batch.values - 0.3)
    stats = ppo.ppo_step(pi, sgd, moved, advantages, returns, settings(clip=0.05))
    loss, _ = ppo.policy_loss(logp[mask], moved.logprobs[mask], advantages[mask], 0.05)
    assert stats["policy_loss"] == pytest.approx(loss.item(), abs=1e-4) and stats["clipfrac"] > 0
    loss = ppo.value_loss(values[mask], moved.values[mask], returns[mask], 0.05)
    assert stats["value_loss"] == pytest.approx(loss.item(), rel=1e-4)


def test_returns_by_hand(model):
    _, batch = start_of_ppo(model)
    _, returns = ppo.advantages_and_returns(batch, 0.1, settings())
    mask = batch.response_mask
    plain = ppo.token_rewards(batch.score, batch.logprobs, batch.ref_logprobs, 0.1, mask)
    assert torch.allclose(returns, ppo.gae(plain, batch.values, 0.95), atol=1e-4), "values are 0"
    valued = batch._replace(values=torch.randn(64, 8))
    _, returns = ppo.advantages_and_returns(valued, 0.1, settings())
    wanted = ppo.gae(plain, valued.values, 0.95) + valued.values
    assert torch.allclose(returns, wanted, atol=1e-4)
    # As the released code: over their deviation, with the mean as it was.
    _, returns = ppo.advantages_and_returns(batch, 0.1, settings(whiten_rewards=True))
    white = plain.mean() + (plain - plain.mean()) / plain.std(unbiased=False)
    assert torch.allclose(returns, ppo.gae(white, batch.values, 0.95), atol=1e-3)


def test_what_lies_behind_the_end_is_not_there(model):
    pi, batch = start_of_ppo(model, end_at_lengths)
    sgd = torch.optim.SGD(pi.parameters(), lr=0.0)

    def step(response):
        changed = batch._replace(response=response,
                                 logprobs=batch.logprobs - 0.1 * (response != batch.response))
        advantages, returns = ppo.advantages_and_returns(changed, 0.1, settings())
        stats = ppo.ppo_step(pi, sgd, changed, advantages, returns, settings())
        return stats, [p.grad.clone() for p in pi.parameters()]
    other = batch.response.clone()
    other[0::2, 3:] = 7                                  # other tokens, behind the end only
    (stats, gradient), (stats_too, gradient_too) = step(batch.response), step(other)
    assert stats == pytest.approx(stats_too)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradient, gradient_too))
    other[1, 5] = (other[1, 5] + 1) % 50                 # one token that is there
    assert step(other)[0] != pytest.approx(stats)


def test_the_episode_ends_with_the_response(model):
    pi = ppo.Policy(model)
    pi.value_head.bias.data.fill_(0.5)                   # a value of 1/2 everywhere, but not there
    sampling = gpt.Sampling(8, 0.7, end_at_lengths)
    batch = ppo.rollout(pi, model, first_token, tokens_of(64, 5), sampling)
    mask = batch.response_mask
    assert mask.sum(1).tolist() == LENGTHS.tolist() and mask[:, :3].all()
    assert (batch.values[~mask] == 0).all() and (batch.values[mask] == 0.5).all()
    advantages, returns = ppo.advantages_and_returns(batch, 0.0, settings())
    rows = torch.arange(64)
    assert torch.allclose(returns[rows, LENGTHS - 1], batch.score), "nothing comes after the end"
    assert advantages[mask].mean().item() == pytest.approx(0, abs=1e-5)
    assert advantages[mask].std(unbiased=False).item() == pytest.approx(1, abs=1e-3)
    white = ppo.advantages_and_returns(batch, 0.1, settings(whiten_rewards=True))[1]
    assert torch.isfinite(white).all() and (white[~mask] == 0).all()


def test_an_update_has_as_many_minibatches_as_asked(model, monkeypatch):
    sizes, order = [], []

    def step(pi, optimizer, batch, advantages, returns, cfg):
        sizes.append(len(batch.query))
        order.extend(batch.score.tolist())
        assert torch.equal(advantages[:, 0], batch.score), "the same rows"
        assert torch.equal(returns[:, 0], 2 * batch.score)
        return {"policy_loss": float(len(sizes))}

    def credit(batch, beta, cfg):
        assert (beta, cfg.lam, cfg.whiten_rewards) == (0.1, 0.5, True)
        return batch.score[:, None].expand(-1, 8), 2 * batch.score[:, None].expand(-1, 8)
    monkeypatch.setattr(ppo, "ppo_step", step)
    monkeypatch.setattr(ppo, "advantages_and_returns", credit)
    pi = ppo.Policy(model)
    batch = ppo.rollout(pi, model, first_token, tokens_of(4, 5), gpt.Sampling(8, 0.7, whole))
    batch = batch._replace(score=torch.arange(4.0))
    cfg = settings(minibatches=3, epochs=2, lam=0.5, whiten_rewards=True)
    torch.manual_seed(0)
    stats = ppo.ppo_update(pi, None, batch, 0.1, cfg)
    assert sizes == [2, 1, 1, 2, 1, 1]
    assert sorted(order[:4]) == sorted(order[4:]) == [0, 1, 2, 3] and order[:4] != order[4:]
    assert stats["policy_loss"] == pytest.approx((1 + 2 + 3 + 4 + 5 + 6) / 6), "a mean"


def test_what_an_update_reports(model):
    pi, batch = start_of_ppo(model, end_at_lengths)
    pi.value_head.bias.data.fill_(0.5)
    batch = batch._replace(ref_logprobs=batch.ref_logprobs - 0.01 * torch.arange(8),
                           values=0.5 * batch.response_mask)
    optimizer = torch.optim.Adam(pi.parameters(), lr=1e-4)
    _, returns = ppo.advantages_and_returns(batch, 0.3, settings())
    stats = ppo.ppo_update(pi, optimizer, batch, 0.3, settings())
    log_ratio = batch.logprobs - batch.ref_logprobs
    kl = sum(log_ratio[i, :n].sum().item() for i, n in enumerate(LENGTHS)) / 64
    score = batch.response[:, 0].float().mean().item()
    assert stats["kl"] == pytest.approx(kl, abs=1e-4) and stats["score"] == pytest.approx(score)
    assert stats["beta"] == 0.3 and stats["total"] == pytest.approx(score - 0.3 * kl)
    mask = batch.response_mask
    unexplained = (returns - 0.5)[mask].var() / returns[mask].var()
    assert stats["explained_variance"] == pytest.approx(1 - unexplained.item(), abs=1e-4)
    assert stats["approx_kl"] > 0
    flat = batch._replace(score=torch.zeros(64), values=torch.zeros(64, 8))     # all returns 0
    stats = ppo.ppo_update(pi, optimizer, flat, 0.0, settings())
    assert stats["explained_variance"] == 0, "there is nothing to explain"


@pytest.mark.parametrize("beta, critic", [(0.5, "own"), (0.2, "shared"), (0.2, "none")])
def test_ppo_reaches_the_exact_optimum(beta, critic):
    """Five tokens, three steps: 125 responses, each with a random reward. The best objective
    E[r] - beta KL is beta log E_rho exp(r / beta), and pi_opt ~ rho exp(r / beta) has it."""
    torch.manual_seed(0)
    V, T = 5, 3
    rho = gpt.GPT(vocab_size=V, block_size=2 + T, n_layer=1, n_head=2, n_embd=32)
    every = torch.tensor(list(itertools.product(range(V), repeat=T)))
    r = torch.randn(V ** T)

    def score(query, response):
        return r[(response * torch.tensor([V * V, V, 1])).sum(1)]
    query = torch.tensor([[1, 2]])
    queries = query.expand(V ** T, -1)
    log_rho = gpt.response_logprobs(rho, queries, every, 1.0).sum(1).detach()
    pi = ppo.Policy(rho, critic)
    optimizer = torch.optim.Adam(pi.parameters(), lr=2e-3, eps=1e-5)
    for update in range(150):
        gpt.set_learning_rate(optimizer, 2e-3 * (1 - update / 150))
        batch = ppo.rollout(pi, rho, score, query.expand(256, -1), gpt.Sampling(T, 1.0, whole))
        cfg = settings(temperature=1.0, critic=critic)
        stats = ppo.ppo_update(pi, optimizer, batch, beta, cfg)
    told_of_v = {"value_loss", "explained_variance"} & set(stats)
    assert len(told_of_v) == (0 if critic == "none" else 2)
    log_pi = gpt.response_logprobs(pi.trunk, queries, every, 1.0).sum(1).detach()
    assert log_pi.exp().sum().item() == pytest.approx(1, abs=1e-4)
    reached = (log_pi.exp() * (r - beta * (log_pi - log_rho))).sum().item()
    start = (log_rho.exp() * r).sum().item()
    best = beta * torch.logsumexp(log_rho + r / beta, 0).item()
    assert start < 0.5 * best
    assert 0.98 * best <= reached <= best + 1e-6


def test_a_high_price_keeps_pi_near_rho(model):
    """At beta 30 returns are large, and so is the gradient of the value loss. A critic on
    pi's trunk drives pi away from rho, at a price that should hold it there."""
    def score(query, response):
        return (response[:, 0] % 3).float()
    kl = {}
    for critic in ("own", "shared"):
        torch.manual_seed(0)
        pi = ppo.Policy(model, critic)
        optimizer = ppo.policy_optimizer(pi, types.SimpleNamespace(lr=5e-3, critic_lr=5e-3))
        kls = []
        for _ in range(40):
            batch = ppo.rollout(pi, model, score, tokens_of(64, 5), gpt.Sampling(12, 0.7, whole))
            kls.append(ppo.ppo_update(pi, optimizer, batch, 30.0, settings())["kl"])
        kl[critic] = np.mean(kls[20:])
    assert kl["own"] < 0.2 < kl["shared"], kl


# --- evaluate.py ------------------------------------------------------------------------

def test_every_part_has_its_own_chance():
    first = evaluate.seeded(0, "a").random(), torch.rand(1).item()
    assert first == (evaluate.seeded(0, "a").random(), torch.rand(1).item())
    assert first[0] != evaluate.seeded(0, "b").random() != evaluate.seeded(1, "b").random()


def test_losses_of_rho_by_hand(model):
    train, test = tokens_of(30, 5, V=49), tokens_of(25, 4)           # token 49 is never read
    found = evaluate.language_model_losses(model, train, test)
    loss = gpt.language_model_loss(model, test, torch.ones(25, 4, dtype=torch.bool))
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-4)
    counts = np.bincount(train.flatten(), minlength=50) + 1          # each once more
    unigram = -np.log(counts / counts.sum())[test[:, 1:]].mean()     # the first has no past
    assert found["unigram_loss"] == pytest.approx(unigram)


def test_kl_and_rewards_are_those_of_the_response_to_its_end(model):
    pi = ppo.Policy(model).trunk
    pi.wte.weight.data += 0.3 * torch.randn(50, 16)
    sampling = gpt.Sampling(8, 0.7, end_at_lengths)
    batches = [tokens_of(64, 5), tokens_of(6, 7)]
    torch.manual_seed(0)
    drawn = [gpt.generate(pi, query, 8, 0.7) for query in batches]
    response, logp = (torch.cat([each[i] for each in drawn]) for i in (0, 1))
    ref = torch.cat([gpt.response_logprobs(model, query, y, 0.7)
                     for query, (y, _) in zip(batches, drawn)])
    lengths = [*LENGTHS, *LENGTHS[:6]]
    by_hand = sum((logp - ref)[i, :n].sum().item() for i, n in enumerate(lengths)) / 70

    def last_token(query, response):
        return response[:, -1].float()
    torch.manual_seed(0)
    rewards = [first_token, last_token]
    found = evaluate.sample_and_score(pi, model, rewards, batches, sampling)
    assert found.kl.mean().item() == pytest.approx(by_hand, abs=1e-4) and by_hand > 0.1
    assert torch.equal(found.response[:, 0], response)
    assert torch.equal(found.score[:, 0], response[:, 0].float())
    assert torch.equal(found.true[:, 0], response[:, -1].float())
    of_rho = evaluate.sample_and_score(model, model, rewards, batches, sampling)
    assert (of_rho.kl == 0).all()
    torch.manual_seed(0)
    asked = [tokens_of(1, 4), tokens_of(1, 6)]
    each = evaluate.sample_and_score(pi, model, rewards, asked, sampling, n=3)
    torch.manual_seed(0)
    first, _ = gpt.generate(pi, asked[0], 8, 0.7, n=3)
    assert torch.equal(each.response[0], first), "a row to each query"
    assert each.response.shape == (2, 3, 8) and each.score.shape == each.kl.shape == (2, 3)


def test_optimal_policy_by_hand():
    # Rewards 0 and log 3 at beta 1: weights (1/4, 3/4). Rewards alike: weights 1/2 each.
    scores = torch.tensor([[0.0, math.log(3)], [5.0, 5.0]], dtype=torch.float64)
    mean, kl, ess = evaluate.reweighted(scores, beta=1.0)
    assert mean.tolist() == pytest.approx([0.75 * math.log(3), 5])
    assert kl.tolist() == pytest.approx([0.25 * math.log(0.5) + 0.75 * math.log(1.5), 0])
    assert ess.tolist() == pytest.approx([1 / (1 / 16 + 9 / 16), 2])


def test_the_frontier_is_a_gain_over_rho():
    torch.manual_seed(0)
    scores = torch.randn(2, 300, dtype=torch.float64) + torch.tensor([[5.0], [-2.0]])
    rows = evaluate.optimal_frontier(scores)
    mean, kl, ess = evaluate.reweighted(scores, rows[40][0])
    gain = mean.mean().item() - scores.mean().item()
    assert rows[40][1:] == pytest.approx([gain, kl.mean().item(), ess.mean().item()])
    betas, gains, kls, samples = np.array(rows).T
    assert betas[0] == pytest.approx(20) and betas[-1] == pytest.approx(0.05)
    assert (np.diff(gains) >= -1e-9).all() and (np.diff(kls) >= -1e-9).all()
    assert gains[0] > 0 and samples[0] > samples[-1] >= 1 and kls[-1] <= math.log(300)
    assert evaluate.price_at(kls[40], rows) == pytest.approx(betas[40])
    assert betas[41] < evaluate.price_at((kls[40] + kls[41]) / 2, rows) < betas[40]
    assert evaluate.price_at(kls[-1] + 0.1, rows) is None, "beyond what was sampled"
    assert evaluate.price_at(kls[0] / 2, rows) is None, "where nothing is gained"
    assert evaluate.price_at(1.0, []) is None
    few = next(row[2] for row in rows if row[3] < 4)
    assert few < kls[-1] and evaluate.price_at(few, rows) is None, "on too few samples"


def test_the_share_by_hand():
    # 3 of 4 gained. Beside the share, queries are off by .5 and -.5: a deviation of .5,
    # over the root of 2 queries, over the mean best gain of 2.
    same = torch.tensor([1.0, 1.0])
    gain, best = torch.tensor([2.0, 1.0]), torch.tensor([2.0, 2.0])
    share, error = evaluate.share_of_optimum(gain, same, best, same, beta=0.5)
    assert share == pytest.approx(0.75) and error == pytest.approx(0.5 / math.sqrt(2) / 2)
    # Where all queries have the same share at the same KL, there is no error.
    share, error = evaluate.share_of_optimum(best, same, 2 * best, same, beta=0.5)
    assert share == pytest.approx(0.5) and error == pytest.approx(0)
    share, error = evaluate.share_of_optimum(gain[:1], same[:1], best[:1], same[:1], beta=0.5)
    assert (share, error) == (1, None), "one query has no spread"
    nothing = torch.tensor([0.01, 0.02])
    found = evaluate.share_of_optimum(5 * nothing, same, nothing, same, beta=0.5)
    assert found == (None, None), "noise over noise"


def test_the_error_of_the_share_is_its_deviation():
    """500 times 40 queries: where r is Gaussian of deviation s, the optimum gains s^2 / beta
    and spends s^2 / (2 beta^2). pi gains .8 of the best at a KL that varies by query."""
    torch.manual_seed(0)
    shares, errors = [], []
    for _ in range(500):
        size = 1 + 0.2 * torch.randn(40)                 # r's deviation, by query
        kl = 3 * (1 + 0.3 * torch.randn(40)) ** 2
        gain = 0.8 * (2 * kl) ** 0.5 * size
        beta = (size ** 2).mean().sqrt() / (2 * kl.mean()) ** 0.5
        best_gain, best_kl = size ** 2 / beta, size ** 2 / (2 * beta ** 2)
        share, error = evaluate.share_of_optimum(gain, kl, best_gain, best_kl, beta)
        shares.append(share), errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(shares), rel=0.15)


def test_best_of_n_by_hand():
    scores = torch.tensor([[1.0, 3, 2, 0, 9], [5, 4, 7, 8, 9]])      # two pairs, and one left
    assert evaluate.best_of(2, scores).tolist() == [[1, 2], [0, 3]]
    n = torch.arange(10).view(2, 5)
    samples = evaluate.Samples(n[..., None], scores, 10 * scores, scores)
    best = evaluate.columns_of(samples, evaluate.best_of(2, scores))
    assert best.score.tolist() == [[3, 2], [5, 8]] and best.true.tolist() == [[30, 20], [50, 80]]
    assert best.response[..., 0].tolist() == [[1, 2], [5, 8]]


def texts_of_numbers(texts):
    """A tokenizer and a truncation for responses of one token, each of which is a text."""
    tokenizer = types.SimpleNamespace(decode=lambda ids: texts[ids[0]])

    def truncate(response):
        return torch.ones(len(response), dtype=torch.long), torch.ones(len(response)) > 0
    return tokenizer, gpt.Sampling(1, 1.0, truncate)


def test_sameness_by_hand():
    texts = ["Tom and Ivy celebrated with joy and love that day. Ivy and Tom celebrated with "
             "joy and hope that night.", "Snow lay on the hills behind the mill.",
             "Tom told Ivy a story and they both laughed.", "Tom hugged Ivy by the gate "
             "before supper.", "mill mill mill"]
    tokenizer, sampling = texts_of_numbers(texts)
    frames = [stories.frame_of(sentence) for sentence in texts[0].split(". ")]
    assert frames == 2 * ["{N} and {o} celebrated with {joy} and {joy} that {time}"]
    assert stories.frame_of(texts[-1]) is None
    # Six sentences: one frame twice, three once, and one that is none. 4 of 6 at most.
    responses = torch.arange(5).view(1, 5, 1)
    assert evaluate.sameness(responses, sampling, tokenizer) == pytest.approx(4 / 6)
    assert evaluate.sameness(torch.tensor([[[4]]]), sampling, tokenizer) is None


def test_stories_are_made_of_frames():
    every = [s for passage in passages(40) for s in passage.split(". ")]
    assert all(stories.frame_of(sentence) for sentence in every)
    assert stories.frame_of("An old dog crossed the road to the mill.")


@pytest.mark.parametrize("size", [1.0, 3.0])
def test_what_is_told_of_pi_beside_the_optimum(size, monkeypatch):
    """Six responses, r known, pi any policy: KL(pi, pi_opt) can be summed."""
    torch.manual_seed(0)
    rho = torch.rand(6).double().softmax(0)
    r = size * torch.randn(6).double()
    pi = (rho.log() + r / size + 1.5 * torch.randn(6)).softmax(0)
    n = 100_000
    y_rho, y_pi = (torch.multinomial(p, n, replacement=True) for p in (rho, pi))
    of_rho = evaluate.Samples(y_rho[None, :, None], r[y_rho][None], 1 + 3 * r[y_rho][None],
                              torch.zeros(1, n))
    of_pi = evaluate.Samples(y_pi[None, :, None], r[y_pi][None], 1 + 3 * r[y_pi][None],
                             (pi / rho).log()[y_pi][None])
    tokenizer, sampling = texts_of_numbers(["no frame"] * 6)
    same = []
    monkeypatch.setattr(evaluate, "sameness", lambda response, *more: same.append(response))
    frontier = evaluate.optimal_frontier(of_rho.score)
    found = evaluate.beside_optimum(of_rho, of_pi, frontier, sampling, tokenizer)

    def optimum(beta):
        return (rho.log() + r / beta).softmax(0)
    best = optimum(found["optimal_beta"])
    kl = (pi * (pi / rho).log()).sum()
    best_kl = (best * (best / rho).log()).sum().item()
    assert best_kl == pytest.approx(kl.item(), abs=0.01), "the same KL"
    share = ((pi - rho) @ r / ((best - rho) @ r)).item()
    assert found["share_of_optimum"] == pytest.approx(share, abs=0.02)
    assert found["optimal_gain"] == pytest.approx(((best - rho) @ r).item(), abs=0.02)
    assert found["gain"] == pytest.approx(((pi - rho) @ r).item(), abs=0.02 * size)
    assert found["gain_kl"] == pytest.approx(kl.item(), abs=0.02)
    drawn = torch.bincount(same[0].flatten(), minlength=6) / n
    assert torch.allclose(drawn.double(), best, atol=0.01), "of samples of the optimum"
    assert evaluate.beside_optimum(of_rho, of_pi, [], sampling, tokenizer) == {}
    bests = evaluate.best_of_n_results(of_rho, sampling, tokenizer)
    assert [b["n"] for b in bests] == [2, 4, 16, 64]
    two = torch.maximum(r[:, None], r[None]).mul(rho[:, None] * rho[None]).sum()
    assert bests[0]["gain"] == pytest.approx((two - rho @ r).item(), abs=0.02 * size)
    assert bests[0]["true_gain"] == pytest.approx(3 * bests[0]["gain"])
    assert bests[0]["kl_bound"] == pytest.approx(math.log(2) - 0.5)


def test_a_win_is_the_majority_of_three(toy_task, monkeypatch):
    asked = {}

    def say(model, query, n, sampling, tokenizer):
        assert n == 2
        return [[model, "b"] for _ in query]
    monkeypatch.setattr(evaluate, "generate_texts", say)

    def choose(p, rng, people):
        asked.update(p=p, people=people)
        return np.array([[0, 1, 3], [0, 2, 3], [1, 1, 1], [2, 3, 2]])
    monkeypatch.setattr(stories, "choose", choose)
    batches = [torch.zeros(3, 5), torch.zeros(1, 7)]
    win = evaluate.win_rate("toy", "a", "c", batches, None, None, None)
    assert win["mean"] == 0.5 and win["n"] == 4, "the first and the third"
    assert win["stderr"] == pytest.approx(0.5 / 2) and asked["people"] == 3
    assert np.allclose(asked["p"][:, 0], [0.4, 0.2, 0.2, 0.2]), "ours stand first"


def test_the_true_reward_is_the_labelers_mean_score():
    asked = [Comparison("q", ["good.", "bad.", "one.", "two."], 0)]
    scores = [stories.sentiment(sample).mean() for sample in asked[0].samples]
    texts = {1: "good.", 2: "bad.", 3: "good"}
    tokenizer = types.SimpleNamespace(decode=lambda ids: "".join(texts[i] for i in ids))

    def truncate(response):                                                  # 3 has no period
        return torch.ones(len(response), dtype=torch.long), response[:, 0] != 3
    x = torch.tensor([[1, 2], [2, 2], [3, 2]])               # each ends after its first token
    true = evaluate.true_reward("sentiment", tokenizer, gpt.Sampling(1, 1.0, truncate), asked)
    z = (np.array(scores[:2]) - np.mean(scores)) / np.std(scores)
    assert true(x, x).tolist() == pytest.approx([*z, -1], abs=1e-5)
    dull = [Comparison("q", ["one."] * 4, 0)]                # no deviation at all
    true = evaluate.true_reward("sentiment", tokenizer, gpt.Sampling(1, 1.0, truncate), dull)
    assert true(x, x).tolist() == pytest.approx([*scores[:2], -1], abs=1e-5)


def test_the_supervised_baseline_learns_the_response_alone_at_its_temperature(model, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluate, "train_language_model", lambda *given: seen.append(given))
    tokenizer = types.SimpleNamespace(encode=lambda t: [int(word) for word in t.split()])
    short = Comparison("1 2 3", ["4 5", "6 7 8", "9", "9"], 1)
    long = Comparison(" ".join(["1"] * 60), ["4 5", "6 7 8", "9", "9"], 1)
    evaluate.train_supervised_baseline(model, [short, long] * 20, tokenizer, 0.7, 1e-3,
                                       lambda batches: batches)
    trained, windows, counted, batches, lr, temperature = seen[0]
    assert trained is not model and (lr, temperature) == (1e-3, 0.7)
    assert windows[0, :6].tolist() == [1, 2, 3, 6, 7, 8]
    assert counted[0].tolist() == [False] * 3 + [True] * 3 + [False] * 34
    assert counted[1].tolist() == [False] * 37 + [True] * 3, "its query loses its beginning"
    assert [len(rows) for rows in batches] == [32, 8]
    assert sorted(torch.cat(batches).tolist()) == list(range(40)) != torch.cat(batches).tolist()


def test_r_is_judged_against_the_labelers(two_minds, monkeypatch, model):
    seen = {}

    def judge(r, tokens, lengths, p):
        seen["p"] = p
        return {"accuracy": 0.3, "loss": 1.3}
    monkeypatch.setattr(evaluate, "evaluate_reward_model", judge)
    r = types.SimpleNamespace(trunk=model)
    tokenizer = types.SimpleNamespace(encode=lambda t: [1])
    held_out = [Comparison("q", list("abcd"), 2)] * 3
    simulated = types.SimpleNamespace(task="toy", labels="")
    found = evaluate.reward_model_results(simulated, r, tokenizer, held_out)
    # Of the 90 pairs of labelers 40 are of one mind.
    assert found["labels"]["agreement"] == pytest.approx((40 * 0.28 + 50 * 0.24) / 90)
    assert found["reward_model"]["n"] == 3
    assert found["reward_model"]["best_accuracy"] == pytest.approx(0.3)
    assert torch.allclose(seen["p"][0], torch.tensor([0.3, 0.3, 0.2, 0.2]))
    given = types.SimpleNamespace(task="toy", labels="mine.jsonl")
    found = evaluate.reward_model_results(given, r, tokenizer, held_out)
    assert found["labels"] == {"agreement": None, "source": "mine.jsonl"}
    assert found["reward_model"]["best_loss"] is None
    assert seen["p"].tolist() == [[0, 0, 1, 0]] * 3
    # A choice is of a text: where it stands does not matter.
    alike = [Comparison("q", ["a", "b", "a", "c"], 2), Comparison("q", ["a"] * 4, 3)]
    evaluate.reward_model_results(given, r, tokenizer, alike)
    assert seen["p"].tolist() == [[0.5, 0, 0.5, 0], [0.25] * 4]


def test_what_is_compared_with_what(monkeypatch):
    # pi: reward 2, true 1, KL 3. rho: .5 and .25. The optimum gains 3.
    def of(model, rewards, shape):
        assert rewards == ["r", "true"]
        score, true, kl = {"pi": (2.0, 1.0, 3.0), "rho": (0.5, 0.25, 0.0)}[model]
        response = torch.full((2, 16, 1), score)
        return evaluate.Samples(response, *[torch.full(shape, x) for x in (score, true, kl)])

    def beside(of_rho, of_pi, frontier, *more):
        assert (of_rho.score.tolist(), of_pi.score.tolist()) == ([[0.5] * 16] * 2, [[2.0] * 2] * 2)
        assert frontier == [[0.5] * 16] * 2
        return {"optimal_gain": 3.0, "share_of_optimum": 0.5}
    fakes = dict(
        sample_and_score=lambda model, rho, rewards, batches, s, n=1: of(
            model, rewards, (sum(map(len, batches)), n)),
        optimal_frontier=lambda scores: scores.tolist(),
        beside_optimum=beside,
        best_of_n_results=lambda of_rho, *more: of_rho.score.shape,
        sameness=lambda response, *more: (response[0, 0].item(), response.size(1)),
        train_supervised_baseline=lambda *given: "best",
        win_rate=lambda task, model, opponent, *more: [model, opponent])
    for name, fake in fakes.items():
        monkeypatch.setattr(evaluate, name, fake)

    def evaluated():
        return evaluate.evaluate(cfg, "rho", "pi", ["r", "true"], queries, None, None, [],
                                 rlhf.Progress(""))
    cfg = rlhf.Config(eval_queries=4, optimum_queries=2, optimum_samples=16)
    queries = {3: torch.zeros(9, 3, dtype=torch.long)}
    found = evaluated()
    assert found["policy"] == dict(
        kl=3.0, kl_target=3.0, reward=2.0, true_reward=1.0, zero_shot_reward=0.5,
        zero_shot_true_reward=0.25, optimal_gain=3.0, optimal_reward=3.5, share_of_optimum=0.5,
        sameness=(2.0, 16), zero_shot_sameness=(0.5, 2))
    assert found["best_of_n"] == (2, 16)
    assert found["win_rate"] == {"zero_shot": ["pi", "rho"], "supervised": ["pi", "best"],
                                 "supervised_vs_zero_shot": ["best", "rho"]}
    monkeypatch.setattr(evaluate, "sample_and_score", lambda *given: evaluate.Samples(
        None, *[torch.full((4,), math.nan)] * 3))
    with pytest.raises(FloatingPointError, match="evaluation: the KL is nan"):
        evaluated()


def test_side_by_side_by_hand(model):
    pi = ppo.Policy(model).trunk
    pi.wte.weight.data += 0.3 * torch.randn(50, 16)
    query, sampling = tokens_of(2, 5), gpt.Sampling(8, 0.7, end_at_lengths)
    torch.manual_seed(0)
    blocks = evaluate.side_by_side(model, pi, first_token, query, sampling, letters())
    torch.manual_seed(0)
    for line, (name, speaker) in enumerate([("zero-shot  ", model), ("fine-tuned ", pi)], 1):
        y, length, _ = gpt.generate_finished(speaker, query, sampling)
        log_ratio = (gpt.response_logprobs(speaker, query, y, 0.7)
                     - gpt.response_logprobs(model, query, y, 0.7))
        for i, n in enumerate(length.tolist()):
            kl, said = log_ratio[i, :n].sum().item(), letters().decode(y[i, :n])
            wanted = f"{name} r {y[i, 0].item():+.2f}  kl {kl:4.1f}  {said}"
            assert blocks[i].split("\n")[line] == wanted


# --- rlhf.py ----------------------------------------------------------------------------

TINY = ("--quick --device cpu --passages 500 --vocab_size 700 --lm_steps 25 --n_labels 40 "
        "--episodes 128 --batch_size 64 --eval_queries 16 --optimum_queries 4 "
        "--optimum_samples 16 "
        "--truncate_after 4").split()


GIVEN = {}                                   # what the functions of the run below were given


@pytest.fixture(scope="session")
def a_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"

    def noting(name, real):
        def noted(*given):
            GIVEN[name] = given
            return real(*given)
        return noted
    with pytest.MonkeyPatch.context() as patch:
        for name in ("new_model", "pretrain", "train_language_model", "language_model_losses",
                     "collect_comparisons", "train_reward", "true_reward", "train_policy",
                     "evaluate"):
            patch.setattr(rlhf, name, noting(name, getattr(rlhf, name)))
        assert rlhf.main(TINY + ["--out", str(out)]) == 0
    return out


@pytest.fixture
def copy_of_run(a_run, tmp_path):
    return Path(shutil.copytree(a_run, tmp_path / "out"))


def command_of(folder):
    return TINY + ["--out", str(folder)]


def results_of(folder):
    """The results but for the clock and the folder's name."""
    results = json.loads((folder / "results.json").read_text())
    results.pop("seconds")
    results["policy"].pop("episodes_per_second")
    results["config"].pop("out")
    return results


def contents(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def refused(argv, capsys):
    """The one sentence with which a command is refused."""
    capsys.readouterr()
    assert rlhf.main(argv) == 2
    said = capsys.readouterr().err
    said = said.removeprefix("\n")                           # below a line of progress
    assert said.startswith("rlhf.py: ") and said.count("\n") == 1 and "Traceback" not in said
    return said


def stopped(*args):
    raise KeyboardInterrupt


def test_a_run_leaves_all_its_files(a_run):
    assert set(contents(a_run)) == {
        "config.json", "seconds.json", "lock", "rho.pt", "labels.jsonl", "reward.pt", "policy.pt",
        "metrics.jsonl", "samples.txt", "figure.png", "results.json"}
    results = json.loads((a_run / "results.json").read_text())
    assert set(results["seconds"]) == set(rlhf.STAGES)
    assert set(results["policy"]) >= {
        "kl", "kl_target", "beta", "reward", "optimal_reward", "zero_shot_reward", "true_reward",
        "share_of_optimum", "episodes", "episodes_per_second"}
    assert results["language_model"]["loss"] < results["language_model"]["unigram_loss"]
    assert results["labels"]["n"] == 40 and results["policy"]["episodes"] == 128
    assert results["labels"]["source"] == "simulated" and results["labels"]["agreement"] > 0.25
    assert set(results["win_rate"]) == {"zero_shot", "supervised", "supervised_vs_zero_shot"}
    assert (a_run / "figure.png").read_bytes()[:4] == b"\x89PNG"
    log = [json.loads(line) for line in (a_run / "metrics.jsonl").read_text().splitlines()]
    assert [m["episode"] for m in log] == [64, 128] and log[0]["beta"] == 0.3 != log[1]["beta"]
    assert set(log[0]) == {"episode", "score", "true", "kl", "beta", "total", "clipfrac",
                           "approx_kl", "explained_variance", "policy_loss", "value_loss"}
    assert len(reward.read_comparisons(a_run / "labels.jsonl")) == 48, "a fifth more, held out"
    samples = (a_run / "samples.txt").read_text().split("\n\n")
    assert len(samples) == 41 and "drawn again" in samples[0].replace("\n", " ")
    rates = [json.loads((a_run / "config.json").read_text())[name] for name in ("lr", "quick")]
    assert rates == [1.2e-3, True]


def test_every_stage_is_given_its_own_part(a_run):
    _, _, tokenizer, parts, _ = GIVEN["pretrain"]
    assert GIVEN["new_model"][1] == parts["train"]
    rho, train, _, batches, lr = GIVEN["train_language_model"]
    assert rho.shape["block_size"] == 14 + 24 and lr == rlhf.QUICK["lm_lr"]
    assert torch.equal(train, text.sentence_windows(parts["train"], tokenizer, 38))
    assert (batches.batches.flatten().diff() < 0).any(), "at random"
    test = text.sentence_windows(parts["evaluation"], tokenizer, 38)
    assert torch.equal(GIVEN["language_model_losses"][2], test[:2000])
    queries = text.extract_queries(parts, tokenizer, 9, 14)
    for name, place, part in (("collect_comparisons", 3, "reward"), ("train_reward", 4, "reward"),
                              ("train_policy", 4, "policy"), ("evaluate", 4, "evaluation")):
        given = GIVEN[name][place]
        assert all(torch.equal(given[length], queries[part][length]) for length in queries[part])
    train, held_out = reward.split_comparisons(a_run / "labels.jsonl")
    assert len({c.best for c in train}) == 4
    assert GIVEN["train_reward"][3] == train and GIVEN["true_reward"][3] == held_out
    assert GIVEN["evaluate"][3] == list(GIVEN["train_policy"][2:4]), "learned, then true"
    length, temperature, truncate = GIVEN["train_policy"][5]
    assert (length, temperature, truncate.keywords["after"]) == (24, 0.7, 4)


def test_the_figure_and_the_table_by_hand(a_run, monkeypatch):
    # The optimum gains .5 and 2 over rho's 1. Three of four questions won: 75 +/- 1.96 %.
    results = json.loads((a_run / "results.json").read_text())
    results["frontier"] = [[9.0, 0.5, 0.1, 400.0], [1.0, 2.0, 1.5, 200.0]]
    results["policy"].update(zero_shot_reward=1.0, share_of_optimum=0.875, share_stderr=0.02,
                             gain=1.25, gain_kl=1.4, optimal_gain=1.5,
                             optimal_effective_samples=9.0, optimal_beta=0.25)
    results["best_of_n"] = [{"n": 2, "kl_bound": 0.193, "gain": 0.25},
                            {"n": 4, "kl_bound": 0.636, "gain": 0.5}]
    results["win_rate"] = {"zero_shot": {"mean": 0.75, "stderr": 0.01, "n": 9}}
    log = [json.loads(line) for line in (a_run / "metrics.jsonl").read_text().splitlines()]
    assert results["policy"]["beta"] == log[-1]["beta"]
    drawn = []
    monkeypatch.setattr(evaluate.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    evaluate.draw_figure(None, results, log)
    axes = {ax.get_title().split(",")[0]: ax for ax in drawn[0].axes}
    best, = [line for line in axes["What the distance buys"].lines
             if line.get_label().startswith("optimal policy")]
    assert best.get_xydata().tolist() == [[0.1, 1.5], [1.5, 3.0]]
    bars = [c for c in axes["Win rates"].containers if hasattr(c, "has_yerr")]
    interval = bars[0].lines[2][0].get_segments()[0][:, 1].tolist()
    assert interval == pytest.approx([75 - 1.96, 75 + 1.96])
    table = evaluate.closing_table(results)
    assert "share of the optimum's gain *  87.5% +/- 2.0%             on 9 effective samples" in table
    assert "the optimum's there 0.25 *" in table
    assert re.search(r"gain of pi in r \* +\+1\.25 at KL 1\.40 +the optimum's there \+1\.50", table)
    assert re.search(r"gain of the best of 4 \* +\+0\.50 +KL at most 0\.64", table)
    assert "best of 2 " not in table and "* on 4 queries, with 16 samples of rho for each" in table
    square, = [line for line in axes["What the distance buys"].lines
               if line.get_label().startswith("best of 2, 4 samples")]
    assert square.get_xydata().tolist() == [[0.193, 1.25], [0.636, 1.5]]
    star, = [line for line in axes["What the distance buys"].lines
             if line.get_label().startswith("pi at the end")]
    assert star.get_xydata().tolist() == [[1.4, 2.25]]
    assert "pi over zero-shot              75.0%" in table
    results["policy"]["share_stderr"] = None
    assert "share of the optimum's gain *  87.5%   " in evaluate.closing_table(results)
    results["policy"]["share_of_optimum"], results["frontier"] = None, []
    assert "optimum" not in evaluate.closing_table(results), "where it was not asked for"



def test_a_policy_that_ran_away_is_told_so(a_run):
    results = json.loads((a_run / "results.json").read_text())
    results["policy"].update(kl=5.9, kl_target=3.0)
    assert "WARNING" not in evaluate.closing_table(results)
    results["policy"].update(kl=6.1, share_of_optimum=None)
    table = evaluate.closing_table(results)
    assert "WARNING: KL is far above its target" in table and "unknown at this KL" in table
    results["policy"].update(kl=276.0, kl_target=0.0)
    assert "WARNING" not in evaluate.closing_table(results), "no target, no warning"


def test_a_stage_cut_off_is_made_anew_with_the_same_results(copy_of_run, a_run, capsys):
    (copy_of_run / "reward.pt").unlink()
    before = contents(copy_of_run)
    assert "policy.pt was made from a reward.pt that is gone" in refused(
        command_of(copy_of_run), capsys)
    assert contents(copy_of_run) == before
    for name in ("policy.pt", "results.json"):
        (copy_of_run / name).unlink()
    assert rlhf.main(command_of(copy_of_run)) == 0
    assert results_of(copy_of_run) == results_of(a_run)
    assert contents(copy_of_run)["rho.pt"] == contents(a_run)["rho.pt"]
    assert contents(copy_of_run)["metrics.jsonl"] == contents(a_run)["metrics.jsonl"]


def test_what_is_finished_is_not_made_again(copy_of_run, capsys):
    before = contents(copy_of_run)
    assert rlhf.main(command_of(copy_of_run)) == 0
    said = capsys.readouterr().out
    assert contents(copy_of_run) == before and "/5" not in said
    assert "MINIATURE" in said and "pi over zero-shot" in said


def test_a_folder_holds_one_run(copy_of_run, capsys):
    before = contents(copy_of_run)
    said = refused(command_of(copy_of_run) + ["--lr", "1e-3"], capsys)
    assert "--lr 0.0012, not 0.001; give another --out" in said
    assert "--rho" in said and "--labels" in said
    assert contents(copy_of_run) == before, "a refused command changes nothing"
    results = (copy_of_run / "results.json").read_bytes()
    (copy_of_run / "results.json").unlink()
    with open(copy_of_run / "lock", "w") as lock:            # as another process would
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another run is at work" in refused(command_of(copy_of_run), capsys)
    (copy_of_run / "results.json").write_bytes(results)
    (copy_of_run / "config.json").unlink()
    assert "no config.json" in refused(command_of(copy_of_run), capsys)
    before.pop("config.json")
    assert contents(copy_of_run) == before


def test_a_finished_run_is_only_read(copy_of_run, a_run, capsys):
    (copy_of_run / "lock").unlink()
    (copy_of_run / "lock").mkdir()                           # it could not be opened to write
    assert rlhf.main(command_of(copy_of_run)) == 0
    assert "pi over zero-shot" in capsys.readouterr().out
    (copy_of_run / "results.json").unlink()
    assert "lock" in refused(command_of(copy_of_run), capsys)


def test_a_folder_without_a_finished_stage_may_change_its_mind(tmp_path, monkeypatch):
    def stopped(cfg):
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(rlhf, "run", stopped)
        assert rlhf.main(command_of(tmp_path / "o")) == 2
    monkeypatch.setattr(rlhf, "run", lambda cfg: None)
    assert rlhf.main(command_of(tmp_path / "o") + ["--lm_steps", "1"]) == 0
    assert json.loads((tmp_path / "o" / "config.json").read_text())["lm_steps"] == 1


def test_a_run_from_the_parts_of_another(a_run, tmp_path, capsys):
    given = ["--rho", str(a_run / "rho.pt"), "--labels", str(a_run / "labels.jsonl")]
    more = ["--n_labels", "30", "--supervised_lr", "0", "--optimum_queries", "0", "--beta", "0",
            "--kl_target", "0"]
    assert rlhf.main(command_of(tmp_path / "o") + given + more) == 0
    files = contents(tmp_path / "o")
    assert files["rho.pt"] == contents(a_run)["rho.pt"]
    assert files["labels.jsonl"] == contents(a_run)["labels.jsonl"]
    results = results_of(tmp_path / "o")
    assert results["labels"] == {"agreement": None, "n": 30, "source": str(a_run / "labels.jsonl")}
    assert results["win_rate"] == {} and results["frontier"] == []
    policy = results["policy"]
    assert policy["true_reward"] is policy["zero_shot_true_reward"] is None, "nobody judges"
    said = capsys.readouterr().out
    assert "target none" in said and "optimum" not in said
    assert "reward model, 8 questions " in said and "true reward" not in said
    assert '"true"' not in (tmp_path / "o" / "metrics.jsonl").read_text()
    judged = command_of(tmp_path / "j") + given + more + ["--simulated_judge"]
    assert rlhf.main(judged) == 0
    results = results_of(tmp_path / "j")
    assert set(results["win_rate"]) == {"zero_shot"}
    assert isinstance(results["policy"]["true_reward"], float)
    assert "--response_length is 25, but must be at most 24" in refused(
        command_of(tmp_path / "p") + given + ["--response_length", "25"], capsys)
    assert "policy.pt is damaged" in refused(
        command_of(tmp_path / "p") + ["--rho", str(a_run / "policy.pt")], capsys)
    assert not (tmp_path / "p").exists()
    mine = tmp_path / "mine.jsonl"
    mine.write_text((a_run / "labels.jsonl").read_text())
    given = ["--rho", str(a_run / "rho.pt"), "--labels", str(mine)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlhf, "train_reward", stopped)         # cut off behind the copies
        assert rlhf.main(command_of(tmp_path / "q") + given) == 2
    mine.write_text(mine.read_text() + GOOD)
    assert "mine.jsonl has changed since" in refused(command_of(tmp_path / "q") + given, capsys)


def test_another_programs_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert "config.json is not a run's" in refused(command_of(tmp_path), capsys)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "gpt2"}'


def test_every_part_of_the_evaluation_draws_from_its_own_seed(copy_of_run, a_run):
    (copy_of_run / "results.json").unlink()
    config = json.loads((copy_of_run / "config.json").read_text())
    (copy_of_run / "config.json").write_text(json.dumps({**config, "optimum_queries": 2}))
    assert rlhf.main(command_of(copy_of_run) + ["--optimum_queries", "2"]) == 0
    mine, theirs = results_of(copy_of_run), results_of(a_run)
    assert mine["frontier"] != theirs["frontier"] and mine["win_rate"] == theirs["win_rate"]
    assert mine["policy"]["reward"] == theirs["policy"]["reward"]


def test_the_queries_of_samples_txt_are_the_same_on_every_machine(monkeypatch):
    asked = []

    def say(rho, pi, reward, query, sampling, tokenizer):
        torch.rand(rho)                                      # a model that draws as it likes
        asked[-1] += query.tolist()
        return [str(row) for row in query.tolist()]
    monkeypatch.setattr(evaluate, "side_by_side", say)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    queries = {3: torch.arange(300).view(100, 3), 4: torch.arange(400).view(100, 4)}
    texts = []
    for machine in (1, 7):

        class Model(int):
            device = "cpu"
        asked.append([])
        cfg = types.SimpleNamespace(seed=0)
        texts.append(evaluate.samples_text(cfg, Model(machine), None, None, queries, None, None))
    assert len(asked[0]) == 40 and asked[0] == asked[1] and texts[0] == texts[1]


def test_responses_of_one_token(tmp_path):
    given = ["--response_length", "1", "--truncate_after", "0", "--query_max", "30",
             "--optimum_queries", "0", "--supervised_lr", "0", "--eval_queries", "4"]
    assert rlhf.main(command_of(tmp_path / "o") + given) == 0
    assert len(reward.read_comparisons(tmp_path / "o" / "labels.jsonl")) == 48


@pytest.mark.parametrize("name, content", [
    ("rho.pt", b"damaged"), ("labels.jsonl", b"{}\n"), ("reward.pt", b""), ("policy.pt", None),
    ("config.json", b"[]"), ("metrics.jsonl", b"{}\n"), ("metrics.jsonl", b'{"episode": "a"}'),
    ("seconds.json", b'{"policy": "long"}'), ("results.json", b"{}"), ("samples.txt", b"\xff")])
def test_damaged_files_are_one_sentence(name, content, copy_of_run, capsys):
    if name not in ("results.json", "samples.txt"):
        (copy_of_run / "results.json").unlink()
    if content is None:
        torch.save([1], copy_of_run / name)
    else:
        (copy_of_run / name).write_bytes(content)
    assert name in refused(command_of(copy_of_run), capsys)


@pytest.mark.parametrize("change, words", [
    (lambda saved: saved["shape"].update(n_head=0), "n_head 0"),
    (lambda saved: saved["shape"].update(n_head=3), "3 heads"),
    (lambda saved: saved["shape"].update(n_layer=10 ** 9), "n_layer 1000000000"),
    (lambda saved: saved["shape"].update(vocab_size="many"), "vocab_size 'many'"),
    (lambda saved: saved["shape"].update(block_size=10 ** 9), "wpe.weight is not"),
    (lambda saved: saved["shape"].pop("n_embd"), "'n_embd' is missing"),
    (lambda saved: saved.pop("losses"), "losses"),
    (lambda saved: saved.update(extra=1), "extra"),
    (lambda saved: saved["tokens"].remove("."), "a byte that is no token"),
    (lambda saved: saved["tokens"].extend("ab" * 999), "more tokens than vocab_size"),
    (lambda saved: saved["tokens"].__setitem__(-1, "."), "a token twice"),
    (lambda saved: saved["queries"].pop("policy"), "'policy' is missing"),
    (lambda saved: saved["queries"]["policy"].clear(), "no queries for policy"),
    (lambda saved: saved["queries"]["reward"].update({9: torch.zeros(2, 8)}), "of 9 tokens"),
    (lambda saved: next(iter(saved["queries"]["evaluation"].values())).fill_(10 ** 6),
     "a query for evaluation with a token that is none"),
    (lambda saved: saved["weights"].pop("ln_f.bias"), "ln_f.bias"),
    (lambda saved: saved["losses"].update(loss=math.nan), "loss nan")])
def test_a_rho_whose_parts_do_not_fit(change, words, a_run, tmp_path, capsys):
    saved = torch.load(a_run / "rho.pt", weights_only=True)
    change(saved)
    torch.save(saved, tmp_path / "rho.pt")
    said = refused(command_of(tmp_path / "o") + ["--rho", str(tmp_path / "rho.pt")], capsys)
    assert "rho.pt is damaged" in said and words in said


@pytest.mark.parametrize("content", [b"a short note", b"", bytes(range(256)) * 9])
def test_what_is_no_file_of_tensors(content, a_run, tmp_path, capsys):
    (tmp_path / "n.pt").write_bytes(content)
    said = refused(command_of(tmp_path / "o") + ["--rho", str(tmp_path / "n.pt")], capsys)
    assert "n.pt is cut short, damaged, or not a file of tensors" in said
    assert "weights_only" not in said, "no advice to run what is in the file"


def test_a_run_of_another_version(copy_of_run, capsys):
    config = json.loads((copy_of_run / "config.json").read_text())
    for name, value in (("dropout", 0.1), ("lr", "fast"), ("seed", None)):
        (copy_of_run / "config.json").write_text(json.dumps({**config, name: value}))
        said = refused(["sample", "--out", str(copy_of_run), "--prompt", "Hi."], capsys)
        assert f"config.json: {name} {value!r} is no setting of this version" in said


def test_ctrl_c_during_the_imports_is_no_traceback(tmp_path):
    (tmp_path / "torch.py").write_text("import time; print(1, flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, Path(__file__).with_name("rlhf.py")],
                          env={**os.environ, "PYTHONPATH": str(tmp_path)}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        program.stdout.readline()                            # it imports torch, or would
        program.send_signal(signal.SIGINT)
        assert program.stderr.read() == ""
    assert program.returncode == -signal.SIGINT


def test_closed_streams_are_no_traceback(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert rlhf.main(["--task", "joy"]) == 2


def test_a_closed_input_asks_for_no_prompt(copy_of_run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert rlhf.main(["sample", "--out", str(copy_of_run)]) == 0


def test_a_full_disk_is_one_sentence(tmp_path):
    with pytest.raises(text.UserError, match="a.pt cannot be written whole; is the disk full"):
        with rlhf.whole_file(tmp_path / "a.pt") as part:
            part.write_text("so much found room")
            raise RuntimeError("unexpected pos")             # what torch.save says of it
    assert not list(tmp_path.iterdir()), "and takes no room"


def test_too_little_memory_is_one_sentence(copy_of_run, monkeypatch, capsys):
    (copy_of_run / "results.json").unlink()

    def run_short(*_):
        torch.empty(10 ** 15)                                # 4 petabytes
    monkeypatch.setattr(rlhf, "evaluate", run_short)
    assert "not enough memory for these settings" in refused(command_of(copy_of_run), capsys)


def test_other_errors_of_torch_are_shown_whole(tmp_path):
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        with rlhf.stage(rlhf.Config(out=str(tmp_path)), "policy"):
            torch.ones(2, 3) @ torch.ones(2, 3)


def test_how_often_a_run_is_saved_may_change(copy_of_run, capsys):
    command = command_of(copy_of_run)
    assert rlhf.main([*command, "--save_every", "1", "--keep_every", "1"]) == 0
    assert "--seed" in refused([*command, "--seed", "9"], capsys)


def test_of_given_labels_the_first_are_used_and_it_is_said(copy_of_run, tmp_path, capsys):
    out = tmp_path / "fewer"
    labels = ["--rho", str(copy_of_run / "rho.pt"), "--labels", str(copy_of_run / "labels.jsonl")]
    rlhf.main([*command_of(out), *labels, "--n_labels", "16"])
    assert "r learns from 16 of " in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text())["labels"]["n"] == 16


def test_what_is_not_finite_stops_the_run(copy_of_run, monkeypatch, capsys):
    (copy_of_run / "policy.pt").unlink()
    (copy_of_run / "results.json").unlink()
    monkeypatch.setattr(rlhf, "learned_reward",
                        lambda r, sampling: lambda x, y: torch.full((len(x),), math.nan))
    assert "policy, update 1 of 2: the score is nan" in refused(command_of(copy_of_run), capsys)
    assert not (copy_of_run / "policy.pt").exists()


def test_the_last_step_is_looked_at_too(model, tmp_path):
    # What is logged is from before an update's steps. Here there is but one, and it is wild.
    def one_step(lr):
        cfg = rlhf.Config(out=str(tmp_path), device="cpu", episodes=16, batch_size=16,
                          minibatches=1, lr=lr)
        return rlhf.train_policy(cfg, model, first_token, first_token, {5: tokens_of(9, 5)},
                                 gpt.Sampling(4, 0.7, whole), rlhf.Progress(""))
    one_step(lr=1e-4)
    with pytest.raises(FloatingPointError, match="policy, at the end: the log-probability is nan"):
        one_step(lr=1e30)


@pytest.mark.parametrize("options, words", [
    (["--lm_steps", "1", "--lm_lr", "1e38"], "language model, at the end: the held-out loss is"),
    (["--reward_batch", "99", "--reward_lr", "1e38"], "reward model, at the end: the mean")])
def test_the_last_step_of_rho_and_of_r_too(options, words, tmp_path, capsys):
    assert words in refused([*command_of(tmp_path / "o"), *options], capsys)


def test_a_stop_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stopped(cfg):
        raise KeyboardInterrupt
    monkeypatch.setattr(rlhf, "run", stopped)
    assert rlhf.main(command_of(tmp_path / "o")) == 2
    assert "stopped; finished stages are kept" in capsys.readouterr().err


@pytest.mark.parametrize("options, words", [
    (["--task", "joy"], "--task is 'joy', but must be sentiment or descriptiveness"),
    (["--labels", "/nowhere/a.jsonl"], "--labels is '/nowhere/a.jsonl', but must be a file"),
    (["--lr", "-1"], "--lr is -1.0, but must be above 0"),
    (["--lr", "nan"], "--lr is nan, but must be a finite number"),
    (["--episodes", "1" + "0" * 39], "but must be a finite number"),
    (["--reward_batch", "1" + "0" * 25], "but must be below 1e18"),
    (["--clip", "1e308"], "--clip is 1e+308, but must be a finite number"),
    (["--temperature", "1e-300"], "--temperature is 1e-300, but must be a finite number"),
    (["--seed", "-1"], "--seed is -1, but must be at least 0"),
    (["--vocab_size", "256"], "--vocab_size is 256, but must be at least 257"),
    (["--beta", "0"], "--beta is 0.0, but must be above 0, or --kl_target 0"),
    (["--n_embd", "130"], "--n_embd is 130, but must be a multiple of --n_head, 4"),
    (["--truncate_after", "24"], "--truncate_after is 24, but must be below"),
    (["--query_min", "30"], "--query_min is 30, but must be at most"),
    (["--share", "0.4"], "--share is 0.4, but must be below a third"),
    (["--minibatches", "999"], "--minibatches is 999, but must be at most"),
    (["--lam", "1.01"], "--lam is 1.01, but must be at most 1"),
    (["--K", "5"], "--K is 5.0, but must be below 5"),
    (["--critic", "mine"], "--critic is 'mine', but must be own or shared or none"),
    (["--critic", "none", "--group_size", "3"], "--batch_size is 128, but must be a multiple"),
    (["--device", "abacus"], "--device is 'abacus', but must be present: "),
    (["--passages", "3"], "3 passages are too few: a share of 0.1 of them is none"),
    (["--n_embd", "100000"], "GiB of memory and more, and this machine has"),
    (["--n_labels", "1000000000"], "GiB of memory and more, and this machine has"),
    (["--rho", __file__, "--text", __file__], "--text is"),
    (["--learning_rate", "1"], "unrecognized arguments: --learning_rate 1"),
    (["--lr", "fast"], "argument --lr: invalid float value: 'fast'")])
def test_what_the_user_can_mend_is_one_sentence(options, words, tmp_path, capsys):
    given = ["--quick", "--device", "cpu", "--out", str(tmp_path / "o")] + options
    assert words in refused(given, capsys)
    if "--passages" not in options:
        assert not (tmp_path / "o").exists()


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "file" in refused(command_of(tmp_path / "file" / "o"), capsys)


def test_help_explains_every_option_and_every_option_is_read(capsys):
    with pytest.raises(SystemExit):
        rlhf.main(["--help"])
    said = capsys.readouterr().out
    here = Path(__file__).parent
    code = "".join((here / f"{name}.py").read_text() for name in ("rlhf", "evaluate", "ppo"))
    for f in dataclasses.fields(rlhf.Config):
        assert f"--{f.name} " in said
        assert re.search(rf"cfg\.{f.name}\b|getattr\(cfg, name\)", code), f.name
    assert set(rlhf.QUICK) < {f.name for f in dataclasses.fields(rlhf.Config)}


def test_the_default_is_not_a_miniature(monkeypatch):
    cfg = rlhf.read_config(["--device", "cpu"])
    assert cfg == dataclasses.replace(rlhf.Config(), device="cpu", out="out/sentiment-seed0")
    quick = rlhf.read_config("--quick --lm_steps 7 --task descriptiveness --seed 2".split())
    assert (quick.lm_steps, quick.n_embd) == (7, 64)
    assert quick.out == "out/descriptiveness-seed2-quick"


def test_a_text_in_place_of_the_stories(tmp_path, monkeypatch):
    rng = random.Random(1)
    told = [stories.passage(rng).replace("Mara", "Zyzx") for _ in range(120)]
    (tmp_path / "novel.txt").write_text(" ".join(told))
    cfg = rlhf.read_config(["--text", str(tmp_path / "novel.txt"), "--n_embd", "64"])
    assert (cfg.vocab_size, cfg.response_length, cfg.n_embd) == (2048, 48, 64)
    assert cfg.lm_steps == 100, "for a short text"
    (tmp_path / "tome.txt").write_text("It was so. " * 60_000)
    by_size = rlhf.settings_of_text(tmp_path / "tome.txt")
    assert by_size["lm_steps"] == pytest.approx(60_000 * 11 / 1200, abs=2)

    monkeypatch.setattr(stories, "passage", None)
    given = ["--text", str(tmp_path / "novel.txt"), "--query_max", "30"]
    given += ["--response_length", "24", "--share", "0.2"]
    assert rlhf.main(command_of(tmp_path / "o") + given) == 0
    _, tokenizer, queries, _ = rlhf.load_rho(tmp_path / "o" / "rho.pt", "cpu")
    said = [tokenizer.decode(query.tolist()) for group in queries["policy"].values()
            for query in group]
    assert any("Zyzx" in query for query in said)


def test_progress_fits_its_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: types.SimpleNamespace(columns=50))
    clock = itertools.count()
    monkeypatch.setattr(rlhf.time, "time", lambda: float(next(clock)))
    bar = rlhf.Progress("1/5 language model")
    bar.note = "loss 3.141, and more than would fit into a line"
    batches = bar(["a", "b", "c", "d"])
    assert len(batches) == 4 and list(batches) == ["a", "b", "c", "d"]
    said = capsys.readouterr().out
    assert "\n" not in said and all(len(line) <= 49 for line in said.split("\r"))
    # The clock goes on by a second a batch: of four, one is done, and three are left.
    assert "[#####               ]    3 s" in said
    assert "[####################]    0 s" in said


def test_the_loop_of_ppo(model, monkeypatch, tmp_path):
    notes, rollouts = record(monkeypatch, "Adam"), []

    def roll(*given):
        rollouts.append((given, ppo.rollout(*given)))
        return rollouts[-1][1]
    monkeypatch.setattr(rlhf, "rollout", roll)
    update = rlhf.ppo_update                             # a KL of twice the target, every time
    monkeypatch.setattr(rlhf, "ppo_update", lambda *given: {**update(*given), "kl": 4.0})
    cfg = rlhf.Config(out=str(tmp_path), device="cpu", episodes=40, batch_size=16, epochs=1,
                      lr=3.0, critic_lr=6.0, beta=0.5, kl_target=2.0, minibatches=1)
    rlhf.train_policy(cfg, model, first_token, lambda x, y: y[:, 1] + 0.0, {5: tokens_of(9, 5)},
                      gpt.Sampling(4, 0.7, whole), rlhf.Progress(""))
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.allclose(notes.rates, [[3.0, 6.0], [2.0, 4.0], [1.0, 2.0]])
    assert [m["episode"] for m in log] == [16, 32, 48]
    assert [m["beta"] for m in log] == pytest.approx([0.5, 0.5 * 1.02, 0.5 * 1.02 ** 2])
    for m, ((_, rho, reward_of, query, _), batch) in zip(log, rollouts):
        assert rho is model and reward_of is first_token and len(query) == 16
        assert m["true"] == pytest.approx(batch.response[:, 1].float().mean().item())


@pytest.mark.parametrize("critic", ["own", "shared", "none"])
def test_ppo_goes_on_as_if_it_had_never_stopped(critic, model, tmp_path, monkeypatch):
    def train(folder):
        folder.mkdir(exist_ok=True)
        torch.manual_seed(5)                                 # as `stage` does
        cfg = rlhf.Config(out=str(folder), device="cpu", episodes=80, batch_size=16, lr=1e-2,
                          save_every=2, kl_target=1.0, critic=critic)
        pi = rlhf.train_policy(cfg, model, first_token, None, {5: tokens_of(99, 5)},
                               gpt.Sampling(4, 0.7, whole), rlhf.Progress(""))
        return pi.state_dict(), (folder / "metrics.jsonl").read_text()

    weights, log = train(tmp_path / "whole")
    update = rlhf.ppo_update
    for stop in range(5):                                    # within its update
        made = []

        def until_stopped(*given):
            if len(made) == stop:
                raise KeyboardInterrupt
            made.append(1)
            return update(*given)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(rlhf, "ppo_update", until_stopped)
            train(tmp_path / f"{stop}")
        made = []
        with monkeypatch.context() as patch:
            patch.setattr(rlhf, "ppo_update", lambda *given: (made.append(1), update(*given))[1])
            again, same_log = train(tmp_path / f"{stop}")
        assert len(made) == 5 - stop // 2 * 2, "on from the last checkpoint"
        assert same_log == log
        assert all(torch.equal(again[name], weights[name]) for name in weights)
    (tmp_path / "whole" / "metrics.jsonl").write_text("")
    with pytest.raises(text.UserError, match="has 0 lines, but checkpoint.pt is of update 4"):
        train(tmp_path / "whole")
    saved = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    torch.save({**saved, "device": "cuda"}, tmp_path / "whole" / "checkpoint.pt")
    with pytest.raises(text.UserError, match="was made with --device cuda; go on with that"):
        train(tmp_path / "whole")


def test_a_checkpoint_is_not_another_runs(copy_of_run):
    for name in rlhf.FILES:
        (copy_of_run / name).unlink()
    (copy_of_run / "checkpoint.pt").write_text("of an r that is gone")
    assert rlhf.main([*command_of(copy_of_run), "--seed", "5"]) == 0
    assert not (copy_of_run / "checkpoint.pt").exists()


def test_a_text_in_miniature_is_a_miniature(tmp_path):
    (tmp_path / "novel.txt").write_text("It was so. " * 60_000)
    cfg = rlhf.read_config(["--quick", "--text", str(tmp_path / "novel.txt")])
    assert (cfg.episodes, cfg.lm_steps, cfg.query_max) == (2560, 450, 80)


def test_policies_are_kept_on_the_way(model, tmp_path):
    cfg = rlhf.Config(out=str(tmp_path), device="cpu", episodes=64, batch_size=16, keep_every=2)
    pi = rlhf.train_policy(cfg, model, first_token, None, {5: tokens_of(99, 5)},
                           gpt.Sampling(4, 0.7, whole), rlhf.Progress(""))
    assert sorted(path.name for path in tmp_path.glob("policy-*")) == ["policy-2.pt", "policy-4.pt"]
    last = rlhf.load(copy.deepcopy(model), tmp_path / "policy-4.pt", "policy")
    assert torch.equal(last.wte.weight, pi.trunk.wte.weight)


def test_without_a_critic_a_query_has_several_responses(model, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(rlhf, "rollout", lambda pi, rho, reward, query, sampling: (
        asked.append(query), ppo.rollout(pi, rho, reward, query, sampling))[1])
    cfg = rlhf.Config(out=str(tmp_path), device="cpu", episodes=48, batch_size=24,
                      critic="none", group_size=3)
    pi = rlhf.train_policy(cfg, model, first_token, first_token, {5: tokens_of(99, 5)},
                           gpt.Sampling(4, 0.7, whole), rlhf.Progress(""))
    assert pi.value_head is None and [len(query) for query in asked[:2]] == [24, 24]
    in_threes = asked[0].view(8, 3, 5)
    assert (in_threes == in_threes[:, :1]).all() and len(asked[0].unique(dim=0)) > 5


def test_r_is_normalized_before_training_and_after(model, monkeypatch):
    done = []
    for name in ("normalize", "train_reward_model"):
        monkeypatch.setattr(rlhf, name, lambda *given, name=name: done.append((name, given)))
    cfg = rlhf.Config(reward_batch=4)
    encode = types.SimpleNamespace(encode=lambda t: [1])
    asked = [Comparison("q", list("abcd"), i % 4) for i in range(10)]
    rlhf.train_reward(cfg, model, encode, asked, {5: tokens_of(9, 5)},
                      gpt.Sampling(4, 0.7, whole), list)
    assert [name for name, _ in done] == ["normalize", "train_reward_model", "normalize"]
    _, _, _, best, lr, batches = done[1][1]
    assert lr == cfg.reward_lr and [len(rows) for rows in batches] == [4, 4, 2]
    assert sorted(torch.cat(batches).tolist()) == list(range(10)) != torch.cat(batches).tolist()


# --- rlhf.py sample ---------------------------------------------------------------------

PROMPT = "Mara was happy."


def sample(folder, *options):
    return rlhf.main(["sample", "--out", str(folder), *options])


def test_sample_says_what_rho_and_pi_do(a_run, capsys):
    def said(*options):
        capsys.readouterr()
        assert sample(a_run, "--prompt", PROMPT, *options) == 0
        return capsys.readouterr().out
    first = said("--n", "2", "--seed", "5")
    assert first.count("query       " + PROMPT) == 2
    assert first.count("zero-shot") == 2 and first.count("fine-tuned") == 2
    assert said("--n", "2", "--seed", "5") == first
    assert said("--n", "2", "--seed", "6") != first
    assert said("--n", "2", "--seed", "5", "--temperature", "0.1") != first
    assert said().count("zero-shot") == 3


def test_a_prompt_is_folded_into_one_line(a_run, capsys):
    assert sample(a_run, "--prompt", "Mara was\n  happy.\n") == 0
    assert capsys.readouterr().out.count(f"query       {PROMPT}\n") == 3


def test_sample_asks_again_and_again(a_run, monkeypatch, capsys):
    lines = iter([PROMPT, "", "word " * 99, "Mara saw a zzyzx."])

    def typed(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None
    monkeypatch.setattr("builtins.input", typed)
    assert sample(a_run, "--n", "1") == 0
    said = capsys.readouterr().out
    assert said.count("zero-shot") == 2 and "words that" not in said.split("fine-tuned")[0]
    assert "some words and at most" in said and re.search(r"this one has \d{3}", said)
    assert "warning: not in any query of this run:" in said and "zzyzx" in said


def test_sample_refuses_in_one_sentence(a_run, tmp_path, capsys):
    for options, words in ((["--prompt", "word " * 99], "this one has"),
                           (["--prompt", " "], "words"),
                           (["--prompt", PROMPT, "--n", "0"], "--n is 0"),
                           (["--prompt", PROMPT, "--n", "1" + "0" * 25], "from 1 to 10000"),
                           (["--prompt", PROMPT, "--seed", "-1"], "--seed is -1"),
                           (["--prompt", PROMPT, "--seed", str(2 ** 64)], "--seed is"),
                           (["--prompt", PROMPT, "--temperature", "0"], "--temperature is 0.0")):
        assert words in refused(["sample", "--out", str(a_run), *options], capsys)
    assert "no finished policy" in refused(["sample", "--out", str(tmp_path)], capsys)
