"""
Tests of extras/summarize.py and articles.py: worked examples to redo on paper.

Run: python -m pytest extras/test_summarize.py
"""

import copy
import dataclasses
import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import rlhf
from extras import articles as world
from extras import summarize
from extras.articles import Article, Claim, Fact, Habits
from extras.paper_results import RESULTS
from extras.summarize_results import null_to_nan, page, percent, tell
from gpt import GPT
from reward import RewardModel, generate_questions
from text import UserError

FACTS = [Fact("Nora", "called", "Otto"), Fact("Ada", "looked after", "Max"),
         Fact("Ben", "paid", "Zoe"), Fact("Rita", "tricked", "Hugo"),
         Fact("Ivo", "met", "Jane")]
ARTICLE = ("hello and welcome. Nora called Otto. Ada looked after Max. Ben paid Zoe. "
           "Rita tricked Hugo. Ivo met Jane.")
COPY = "Nora called Otto. Ada looked after Max. Ben paid Zoe."
PARAPHRASE = "Otto, whom Nora phoned. Max nursed by Ada. Zoe, tipped by Ben."


def read(summary):
    return world.read_summary(ARTICLE, summary)


@pytest.fixture(scope="module")
def small_world():
    """A rho that has learned which words are common, and no more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    few = dict.fromkeys(summarize.N_ARTICLES, 20)
    cfg = rlhf.Config(**{**summarize.SETTINGS, "passages": 1300, "lm_steps": 80,
                         "n_embd": 16, "lm_lr": 2e-2, "n_labels": 20, "device": "cpu"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summarize, "N_ARTICLES", few)
        torch.manual_seed(0)
        yield cfg, *summarize.pretrain(cfg, as_it_is)
    torch.set_num_threads(threads)


def as_it_is(batches):
    return batches


def article():
    return Article(world.sentences_of(ARTICLE), FACTS)


# --- the world --------------------------------------------------------------------------

def test_an_article_says_each_word_once_and_can_be_read_back():
    rng = random.Random(0)
    lengths = Counter()
    for _ in range(300):
        made = world.make_article(rng)
        words = [word for fact in made.facts for word in fact]
        assert len(set(words)) == len(words)
        read = [world.read_sentence(sentence) for sentence in made.sentences]
        if len(made.sentences) > len(made.facts):
            assert made.sentences[0] in world.PREAMBLES
            assert read.pop(0) == (None, False)
        assert read == [(fact, True) for fact in made.facts]
        lengths[len(made.facts), len(made.sentences)] += 1
    assert set(lengths) == {(5, 5), (5, 6), (6, 6), (6, 7)}
    assert 0.2 < (lengths[5, 6] + lengths[6, 7]) / 300 < 0.4         # 30 % +/- 3 errors


def test_a_reference_is_true_and_in_other_words():
    rng = random.Random(0)
    first, last = 0, 0
    for _ in range(300):
        summary = world.text_of(world.reference(article(), rng))
        claims = read(summary)
        places = [claim.place for claim in claims]
        assert len(places) == 3 and places == sorted(set(places))
        assert not any(claim.article_form or claim.copied or claim.repeated
                       for claim in claims)
        first += places[0] == 0
        last += places[2] == 4
    assert first > last + 50                     # what is told first matters more


def test_an_extract_is_three_sentences_in_any_order():
    rng = random.Random(0)
    extracts = [tuple(world.extract(article(), rng)) for _ in range(2000)]
    for sentences in extracts:
        assert len(set(sentences)) == 3 and set(sentences) <= set(article().sentences)
    assert len(set(extracts)) == 6 * 5 * 4


def test_a_document_ends_in_a_summary_or_quotes_itself():
    rng = random.Random(0)
    ends = Counter()
    for _ in range(4000):
        text = world.document(rng)
        if world.TLDR in text:
            before, summary = text.split(f" {world.TLDR} ")
            claims = world.read_summary(before, summary)
            ends["extract" if claims[-1].copied else "reference"] += 1
            continue
        before, *quotes = text.split(f" {world.AGAIN} ")
        if len(quotes) == 2:
            assert all(claim.copied for quote in quotes
                       for claim in world.read_summary(before, quote))
            ends["quotes"] += 1
        else:
            # Pieces of five words of a list in which each word stands once, but for the
            # second words of verbs, and those of preambles.
            assert len(quotes) == 4
            for quote in quotes:
                assert quote.endswith(".") and len(quote.split()) == 5
                assert f" {quote[:-1]} " in f" {before[:-1]} "
            ends["lists"] += 1
    n = ends["extract"] + ends["reference"]
    assert abs(n / 4000 - world.SHARE_OF_SUMMARIES) < 0.015      # 4 errors
    assert abs(ends["extract"] / n - world.SHARE_OF_EXTRACTS) < 0.09     # 4 errors
    assert abs(ends["lists"] / (4000 - n) - world.SHARE_OF_LISTS) < 0.035


def test_a_synonym_belongs_to_one_verb():
    words = [word for verb, others in world.VERBS.items() for word in [verb, *others]]
    assert len(set(words)) == len(words) == len(world.MEANING)
    everything = [*words, *world.PEOPLE]
    assert len(set(everything)) == len(everything)


# --- the reader -------------------------------------------------------------------------

@pytest.mark.parametrize("sentence, fact, article_form", [
    ("Nora called Otto", FACTS[0], True), ("Ada looked after Max", FACTS[1], True),
    ("Nora phoned Otto", FACTS[0], False),               # the form, in another word
    ("Otto called Nora", Fact("Otto", "called", "Nora"), True),
    ("Otto phoned by Nora", FACTS[0], False), ("Otto, buzzed by Nora", FACTS[0], False),
    ("Max, whom Ada looked after", FACTS[1], False),
    ("Nora called", None, False), ("called Nora Otto", None, False),
    ("Nora called Otto Ada", None, False), ("Ada looked Max", None, False),
    ("hello and welcome", None, False)])
def test_a_sentence_is_read(sentence, fact, article_form):
    assert world.read_sentence(sentence) == (fact, article_form)


def test_every_claim_of_a_summary_is_found():
    # Otto called nobody; the second mention of a fact repeats it in whatever words.
    summary = ("Nora called Otto. Otto called Ada. Otto phoned by Nora. "
               "hello and welcome. Nora Otto. hello and welcome.")
    otto_called = Fact("Otto", "called", "Ada")
    assert read(summary) == [
        Claim(FACTS[0], 0, True, True, False),
        Claim(otto_called, None, True, False, False),
        Claim(FACTS[0], 0, False, False, True),
        Claim(None, None, False, True, False),
        Claim(None, None, False, False, False),
        Claim(None, None, False, True, True)]


def test_copying_by_hand():
    # Six sentences: the three of COPY, copied; one in article form, but false; one true
    # and one false in other words. The first summary is accurate, the second is not.
    mixed = "Otto called Ada. Hugo fooled by Max. Hugo, whom Rita duped."
    found = summarize.copying([read(COPY), read(mixed)])
    assert found == {"copied": 3 / 6, "article_form": 4 / 6, "faithful": 3 / 4,
                     "paraphrases_true": 1 / 2, "understood": 1, "repeated": 0,
                     "accurate": 1 / 2}
    assert math.isnan(summarize.copying([read("so it is.")])["faithful"])


def test_ngrams_and_first_words_by_hand():
    # Of "Nora called Otto. Ben paid Jane." the words are all in the article; of the five
    # pairs "Otto Ben" and "paid Jane" are not; of the four triples only the first is.
    mixed = "Nora called Otto. Ben paid Jane."
    shares = [summarize.ngrams_copied(ARTICLE, mixed, n) for n in (1, 2, 3)]
    assert shares == [1, 3 / 5, 1 / 4]
    assert summarize.has_preamble(ARTICLE) and not summarize.has_preamble(COPY)
    assert summarize.starts_alike(ARTICLE, "hello and welcome. Ben paid Zoe.")
    assert not summarize.starts_alike(ARTICLE, COPY)
    assert summarize.starts_alike(COPY, mixed)


# --- the labelers -----------------------------------------------------------------------

@pytest.fixture
def no_tastes(monkeypatch):
    """Labelers for whom all people matter alike."""
    monkeypatch.setattr(world, "TASTES",
                        np.ones((world.N_LABELERS, len(world.PEOPLE))))


@pytest.mark.parametrize("summary, checked, score", [
    (COPY, 0, 1 + 0.8 + 0.64), (COPY, 1, 1 + 0.8 + 0.64),    # a copy needs no check
    (PARAPHRASE, 1, 1 + 0.8 + 0.64),
    (PARAPHRASE, 0, 1 + 0.8 + 0.64 - 3 * 0.6),               # not checked: suspicion
    ("Otto paid Ada.", 1, -1.5), ("Otto paid Ada.", 0, -0.6),
    ("Nora called Otto. Nora called Otto.", 1, 1 - 0.5),
    ("hello and welcome.", 0, -0.3), ("so it is.", 0, -0.3 - 0.6)])
def test_a_labelers_score_by_hand(no_tastes, summary, checked, score):
    claims = read(summary)
    checks = np.full((10, len(claims)), checked)
    assert np.allclose(world.labeler_scores(claims, checks, Habits()), score)


def test_the_true_score_by_hand(no_tastes):
    # q = .4, s = .6: a sentence that is not copied costs .6 * .6 = .36 in suspicion, and
    # .4 * 1.5 = .6 more where it is false. With q = 1 and s = 0 only truth counts.
    def score(summary, habits=Habits()):
        return world.true_score(read(summary), habits)
    assert score(PARAPHRASE) == pytest.approx(2.44 - 3 * 0.36)
    assert score("Otto paid Ada.") == pytest.approx(-0.96)
    careful = Habits(check=1.0, suspicion=0.0)
    assert score(PARAPHRASE, careful) == score(COPY, careful) == pytest.approx(2.44)
    assert score(COPY, Habits(copying=0.5)) == pytest.approx(2.44 - 1.5)


def test_a_taste_is_for_a_person(monkeypatch):
    taste = np.ones((10, len(world.PEOPLE)))
    taste[3, world.PEOPLE.index("Otto")] = 1.5
    monkeypatch.setattr(world, "TASTES", taste)
    claims = read("Nora called Otto. Ada looked after Max.")
    scores = world.labeler_scores(claims, np.zeros((10, 2)), Habits())
    assert scores[3] == pytest.approx(1.5 + 0.8) and scores[4] == pytest.approx(1.8)


def test_a_labeler_chooses_by_luces_rule_over_what_is_checked(no_tastes, monkeypatch):
    # Three copies of one fact worth 1, and one false sentence: -1.5 if checked, else -.6.
    monkeypatch.setattr(world, "TEMPERATURE", 2.0)
    monkeypatch.setattr(world, "DRAWS", 4000)
    options = ["Nora called Otto."] * 3 + ["Otto paid Ada."]
    question = f"{ARTICLE} {world.TLDR}", options
    p = world.choice_probabilities([question], Habits(), np.random.default_rng(0))
    checked = math.exp(-1.5 / 2) / (3 * math.exp(1 / 2) + math.exp(-1.5 / 2))
    trusted = math.exp(-0.6 / 2) / (3 * math.exp(1 / 2) + math.exp(-0.6 / 2))
    assert p.shape == (1, 10, 4) and np.allclose(p.sum(axis=-1), 1)
    assert np.allclose(p[0, :, 3], 0.4 * checked + 0.6 * trusted, atol=0.004)


# --- the optimum ------------------------------------------------------------------------

def test_the_optimum_by_hand(no_tastes):
    # One article, three samples. With q = 1, s = 0 and beta = 1.64 / log 4, the copy,
    # worth 2.44, has 4 times the weight of what is worth .8: 4 / 6 of all.
    careful = Habits(check=1.0, suspicion=0.0)
    samples = [read(COPY), read("Max nursed by Ada."), read("Ada nursed Max.")]
    found = summarize.optimum(summarize.judge([samples], careful), 1.64 / math.log(4))
    assert found["copied"] == pytest.approx(4 / 6)
    assert found["accurate"] == pytest.approx(1)
    assert found["reward"] == pytest.approx((4 * 2.44 + 2 * 0.8) / 6)
    assert found["effective_samples"] == pytest.approx(36 / 18)
    assert found["bound"] == pytest.approx(1 / 3)
    # What is false is not in the bound: now half of the accurate samples are copies.
    samples = [read(COPY), read("Max nursed by Ada."), read("Ada paid Max.")]
    found = summarize.optimum(summarize.judge([samples], Habits()), 1e9)
    assert found["bound"] == pytest.approx(1 / 2)
    assert found["copied"] == pytest.approx(1 / 3)
    assert found["accurate"] == pytest.approx(2 / 3)
    # Nor is what a summary copies beside something false.
    half = [read("Nora called Otto. Ada paid Max."), read("Max nursed by Ada.")]
    assert summarize.optimum(summarize.judge([half], Habits()), 1e9)["bound"] == 0
    # A mean over articles, however often rho is accurate there; of one where it never is,
    # nothing is known.
    always = [read(COPY)] * 3
    never = [read("Ada paid Max.")] * 3
    judged = summarize.judge([samples, always, never], Habits())
    assert summarize.optimum(judged, 1e9)["bound"] == pytest.approx((1 / 2 + 1) / 2)


def test_the_strongest_optimum_has_the_samples_asked_for(no_tastes):
    samples = [read(COPY)] * 10 + [read("Otto paid Ada.")] * 20
    judged = summarize.judge([samples], Habits())
    found = summarize.strongest_optimum(judged, least=11)
    assert 11 <= found["effective_samples"] < 13 and found["copied"] > 0.9


# --- ROUGE ------------------------------------------------------------------------------

def test_rouge_by_hand():
    # "the cat sat" and "the cat ate the rat": words the, cat in common: of 3 and of 5, so
    # F1 = 2 * 2 / 8. Pairs: "the cat" of 2 and of 4: 2 * 1 / 6. In order: the cat.
    a, b = "the cat sat.", "The cat ate the rat."
    assert summarize.rouge_n(a, b, 1) == 2 * 2 / 8
    assert summarize.rouge_n(a, b, 2) == 2 * 1 / 6
    assert summarize.rouge_l(a, b) == 2 * 2 / 8
    # Each word counts as often as both have it; a subsequence keeps the order.
    assert summarize.rouge_n("a a a", "a b", 1) == 2 * 1 / 5
    assert summarize.rouge_n("b a", "a b", 1) == 1
    assert summarize.rouge_l("b a", "a b") == 2 * 1 / 4
    assert summarize.rouge_l("a x b y c", "a b z c") == 2 * 3 / 9
    assert summarize.rouge_n("a", "b", 1) == summarize.rouge_l("", "b") == 0
    assert summarize.rouge_n("a", "a", 2) == 0               # no pairs at all


# --- rho --------------------------------------------------------------------------------

def test_each_word_is_one_token():
    tokenizer = summarize.word_tokenizer([ARTICLE, f"a {world.TLDR}"])
    ids = tokenizer.encode(COPY)
    assert min(i for i in ids if i != tokenizer.period) >= 256       # none is a byte
    assert len(ids) == 13 and ids.count(tokenizer.period) == 3
    assert tokenizer.decode(ids) == COPY


def test_windows_end_where_documents_do():
    tokenizer = summarize.word_tokenizer([ARTICLE])
    windows, mask = summarize.windows_of(["Nora called Otto.", "hello."], tokenizer, 5)
    assert windows.shape == mask.shape == (2, 6) and mask.sum(dim=1).tolist() == [4, 2]
    assert tokenizer.decode(windows[1, :2].tolist()) == "hello."


def test_rho_is_trained_on_documents_and_asked_about_new_articles(small_world):
    cfg, rho, tokenizer, queries, losses = small_world
    assert losses["loss"] < losses["unigram_loss"] < math.log(rho.shape["vocab_size"])
    asked = {tokenizer.decode(row) for part in queries.values()
             for group in part.values() for row in group}
    assert len(asked) == 60
    longest = max(length for part in queries.values() for length in part)
    assert longest + cfg.response_length <= rho.shape["block_size"]


def test_padding_is_neither_learned_nor_counted():
    windows, mask = torch.tensor([[1, 2, 0], [1, 2, 3]]), torch.ones(2, 3).bool()
    mask[0, 2] = False
    rho = GPT(4, 3, 1, 1, 4)
    with torch.no_grad():
        rho.wte.weight.zero_()                   # knows nothing: log 4 for every token
    losses = summarize.held_out_losses(rho, windows, mask, 1)
    # Of the first window 1 and 2 count: with one added to each, 0 to 3 have the counts
    # 1, 2, 2, 1 of 6. Held out are 2 and 3.
    assert losses["loss"] == pytest.approx(math.log(4))
    assert losses["unigram_loss"] == pytest.approx((math.log(6 / 2) + math.log(6)) / 2)


def test_a_query_is_an_article_and_tldr():
    rng = random.Random(0)
    articles = [world.make_article(rng) for _ in range(20)]
    texts = [f"{world.text_of(made.sentences)} {world.TLDR}" for made in articles]
    tokenizer = summarize.word_tokenizer(texts)
    queries = summarize.by_length([summarize.query_of(made) for made in articles],
                                  tokenizer)
    decoded = [tokenizer.decode(row) for group in queries.values() for row in group]
    assert sorted(decoded) == sorted(texts)
    assert list(queries) == sorted(queries)


def test_a_summary_ends_with_its_third_sentence():
    # 7 is the period. Three by position 4; two only; three in a row at the start.
    response = torch.tensor([[1, 7, 2, 7, 7, 7], [7, 1, 7, 1, 1, 1], [7, 7, 7, 1, 1, 1]])
    length, finished = summarize.truncate_at_third_period(response, 7)
    assert length.tolist() == [5, 6, 3] and finished.tolist() == [True, False, True]


def test_a_sampled_summary_is_read_beside_its_own_article(small_world, monkeypatch):
    # Whatever the model says, here it says the first three sentences of the query.
    cfg, rho, tokenizer, queries, _ = small_world

    def lead_3(model, query, sampling, n):
        response = query[:, :21].repeat_interleave(n, dim=0)
        length, finished = sampling.truncate(response)
        return response, length, finished
    monkeypatch.setattr(summarize, "generate_finished", lead_3)
    sampling = summarize.sampling_of(cfg, tokenizer)
    rewards = [lambda query, response: query[:, 0] - response[:, 1] + 0.5]
    claims, scores = summarize.sample_claims(rho, queries["policy"], sampling, tokenizer,
                                             2, rewards)
    expected = [row[0] - row[1] + 0.5 for row in
                torch.cat([group[:, :2] for group in queries["policy"].values()])]
    assert torch.equal(scores[0], torch.stack(expected)[:, None].repeat(1, 2))
    assert len(claims) == 20 and all(len(of_one) == 2 for of_one in claims)
    assert all(len(summary) == 3 for of_one in claims for summary in of_one)
    found = summarize.copying([summary for of_one in claims for summary in of_one])
    assert found["copied"] == found["accurate"] == 1


# --- r ----------------------------------------------------------------------------------

def test_labelers_see_the_article(small_world):
    cfg, rho, tokenizer, queries, _ = small_world
    sampling = summarize.sampling_of(cfg, tokenizer)
    questions = generate_questions([rho], queries["reward"], 24, sampling, tokenizer,
                                   as_it_is)
    rng = np.random.default_rng(0)
    comparisons, of_rho = summarize.label(questions, Habits(), rng)
    assert len(comparisons) == 24 and of_rho.shape == (24, 10, 4)
    assert all(c.query.endswith(world.TLDR) for c in comparisons)
    own, another = ARTICLE, "Otto met Nora. Max paid Ada. Zoe called Ben."
    summaries = [COPY, PARAPHRASE, "Otto met Nora. Max paid Ada.", "Zoe called Ben."]
    p = [summarize.label([(f"{text} {world.TLDR}", summaries)], Habits(), rng)[1].mean(axis=1)
         for text in (own, another)]
    assert p[0].argmax() == 0 and p[1].argmax() == 2     # they see the article
    assert all(len(world.sentences_of(text)) <= 3
               for c in comparisons for text in c.samples)
    r = RewardModel(rho)
    found = summarize.reward_model_results(r, tokenizer, comparisons, of_rho)
    assert found["accuracy"] <= found["best_accuracy"] + 1e-6
    assert found["loss"] >= found["best_loss"]


def test_one_verb_is_wrong_and_the_form_is_kept():
    rng = random.Random(0)
    mixed = "Otto called by Nora. Max nursed by Ada. Zoe, tipped by Ben."
    for text in (COPY, PARAPHRASE, mixed):
        for _ in range(20):
            right = world.sentences_of(text)
            wrong = world.with_wrong_verb(right, rng)
            changed = [i for i in range(3) if wrong[i] != right[i]]
            claims = read(world.text_of(wrong))
            false = [i for i in range(3) if claims[i].place is None]
            assert len(changed) == 1 and changed == false
            i = changed[0]
            assert claims[i].fact.verb not in ("called", "looked after", "paid")
            assert claims[i].article_form == (text == COPY)
            # An article's word for an article's word, another for another.
            in_articles = [any(f" {verb} " in f" {sentence} " for verb in world.VERBS)
                           for sentence in (right[i], wrong[i])]
            assert in_articles[0] == in_articles[1]


class Known(RewardModel):
    """r counts true claims, and a little more for article form; `sign` may turn it."""

    def forward(self, tokens, lengths):
        scores = []
        for ids, length in zip(tokens.tolist(), lengths.tolist()):
            text = self.tokenizer.decode(ids[:length])
            claims = world.read_summary(*text.split(world.TLDR))
            scores.append(sum((claim.place is not None) + 0.1 * claim.article_form
                              for claim in claims))
        return self.sign * torch.tensor(scores)


@pytest.mark.parametrize("sign", [1, -1])
def test_probes_by_a_reward_that_is_known(small_world, sign):
    _, rho, tokenizer, _, _ = small_world
    r = Known(rho)
    r.tokenizer, r.sign = tokenizer, sign
    found = summarize.probes(r, tokenizer, random.Random(0), n=10)
    assert set(found.values()) == {1.0 if sign == 1 else 0.0} and len(found) == 4


def test_a_reward_that_sees_form_alone(small_world):
    """It always takes the article's words, also against the truth, and is no judge of
    verbs: scores are equal, and none is preferred."""
    class Form(Known):
        def forward(self, tokens, lengths):
            claims = [world.read_summary(*self.tokenizer.decode(ids[:n]).split(world.TLDR))
                      for ids, n in zip(tokens.tolist(), lengths.tolist())]
            return torch.tensor([sum(claim.article_form for claim in of_one) + 0.0
                                 for of_one in claims])
    _, rho, tokenizer, _, _ = small_world
    r = Form(rho)
    r.tokenizer = tokenizer
    assert summarize.probes(r, tokenizer, random.Random(0), n=10) == {
        "copy over other words": 1, "true copy over wrong verb": 0,
        "true other words over wrong verb": 0, "true other words over false copy": 0}


def test_what_each_r_learns_from(small_world, monkeypatch):
    """Shares of one set of questions; online, the rest about pi, of the same articles;
    and always the same held-out questions, which no r has seen."""
    cfg, rho, tokenizer, queries, _ = small_world
    of_world = summarize.World(cfg, rho, tokenizer, queries, None)
    about_rho = [[f"{summarize.query_of(world.make_article(random.Random(i)))}", ["rho"]]
                 for i in range(24)]                     # cfg.n_labels is 20

    def load_or_ask(of, model, some_queries, n, path):
        if model is rho:
            return about_rho[:n]
        texts = [tokenizer.decode(row) for rows in some_queries.values() for row in rows]
        return [[text, ["pi"]] for text in texts[:n]]
    monkeypatch.setattr(summarize, "load_or_ask", load_or_ask)
    monkeypatch.setattr(summarize, "folder_of", lambda of, name: Path(name))
    for name, n in (("RL", 20), ("RL, 1/2 of the labels", 10), ("RL, 1/4 of the labels", 5),
                    ("RL, careful labelers", 20)):
        learned, held_out = summarize.questions_of(of_world, name, {})
        assert learned == about_rho[:n] and held_out == about_rho[20:]
    models = {"RL, 1/2 of the labels": "pi"}
    learned, held_out = summarize.questions_of(of_world, "RL, online labels", models)
    assert learned[:10] == about_rho[:10] and held_out == about_rho[20:]
    assert [samples for _, samples in learned[10:]] == [["pi"]] * 10
    assert ({query for query, _ in learned[10:]} == {query for query, _ in about_rho[10:20]})


# --- the supervised baseline, and what everybody says -----------------------------------

def test_only_the_summary_is_learned(small_world, monkeypatch):
    cfg, rho, tokenizer, _, _ = small_world
    learned = []

    def look(model, windows, loss_mask, batches, lr):
        learned.extend(tokenizer.decode(row[mask].tolist())
                       for row, mask in zip(windows, loss_mask))
    monkeypatch.setattr(summarize, "train_language_model", look)
    summarize.train_supervised(cfg, rho, tokenizer, as_it_is, n=5)
    assert len(learned) == 5
    for text in learned:
        claims = [world.read_sentence(part) for part in world.sentences_of(text)]
        assert len(claims) == 3
        assert all(fact is not None and not form for fact, form in claims)


def test_tables_by_hand(no_tastes):
    # Two articles that are alike, one without its preamble; lead-3 is all copied, and the
    # preamble is one of its sentences. The reference is PARAPHRASE: of its 12 words
    # lead-3 has six (Nora Otto Ada Max Ben Zoe) where all three facts are told.
    articles = [ARTICLE.removeprefix("hello and welcome. "), ARTICLE]
    summaries = [[summarize.lead_3(text)] * 2 for text in articles]
    assert summaries[0][0] == COPY
    found = summarize.tables_of(articles, summaries, [[PARAPHRASE] * 2] * 2)
    assert found["copied"] == found["accurate"] == found["starts_alike"] == 1
    assert found["starts_alike_preamble"] == found["3-grams copied"] == 1
    n = len(summarize.words_of(PARAPHRASE))
    both = (2 * 6 / (10 + n) + 2 * 4 / (10 + n)) / 2
    assert n == 12 and found["rouge_1"] == pytest.approx(both)
    assert found["rouge_2"] == 0
    references = summarize.references_of(articles, random.Random(0))
    for text, pair in zip(articles, references):
        assert all(summarize.is_accurate(world.read_summary(text, summary))
                   for summary in pair)


# --- win rates --------------------------------------------------------------------------

def test_votes_are_for_the_better_summary(no_tastes, monkeypatch):
    monkeypatch.setattr(world, "TEMPERATURE", 0.05)
    articles = [f"{ARTICLE} {world.TLDR}"] * 40
    copies, nothing = [[COPY, COPY]] * 40, [["hello and welcome."] * 2] * 40
    rng = np.random.default_rng(0)
    won = summarize.vote(articles, copies, nothing, Habits(), rng)
    assert won == {"mean": 1, "stderr": 0, "n": 40}
    assert summarize.vote(articles, nothing, copies, Habits(), rng)["mean"] == 0


# --- a run, and what is told of it ------------------------------------------------------

@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """Every policy of one seed, of next to no training."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("summarize")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summarize, "QUICK_ARTICLES", dict.fromkeys(summarize.N_ARTICLES, 40))
        patch.setattr(summarize, "SUPERVISED", 64)
        cfg = rlhf.Config(**{**summarize.SETTINGS, **summarize.QUICK, "passages": 1300,
                             "lm_steps": 80, "n_embd": 16, "lm_lr": 2e-2, "n_labels": 40,
                             "device": "cpu", "episodes": 256, "optimum_samples": 32,
                             "out": str(home)})
        results = summarize.run(cfg)
        yield cfg, results
    torch.set_num_threads(threads)


def test_a_run_counts_everybody(tiny_run):
    cfg, results = tiny_run
    everybody = {"zero-shot", "supervised", *summarize.ARMS, "lead-3", "reference"}
    assert set(results["rows"]) == everybody
    assert results["rows"]["lead-3"]["copied"] == 1
    assert results["rows"]["reference"]["accurate"] == 1
    assert results["rows"]["reference"]["copied"] == 0
    assert results["win_rates"]["lead-3 over supervised"]["mean"] > 0.9
    assert set(results["reward_models"]) == {
        name for name, arm in summarize.ARMS.items() if not arm.r_of}
    assert 0 < results["rows"]["RL"]["kl"] < 5
    assert len(results["optima"]) == len(summarize.GRID) + len(summarize.PRICES)
    assert all(set(sample) == {"article", *everybody} for sample in results["samples"])


def test_arms_differ_where_they_say(tiny_run):
    """Each policy is its own; fewer, careful or online labels make another r; beta moves
    only where there is a target."""
    cfg, _ = tiny_run
    weights, rewards = {}, {}
    for name, arm in summarize.ARMS.items():
        folder = Path(cfg.out, name.replace("/", " of "))
        weights[name] = torch.load(folder / "policy.pt")["policy"]["wte.weight"]
        if not arm.r_of:
            rewards[name] = torch.load(folder / "reward.pt")["reward"]["head.weight"]
    for by_name in (weights, rewards):
        different = {tuple(weight.flatten().tolist()) for weight in by_name.values()}
        assert len(different) == len(by_name)
    betas = {}
    for name in summarize.ARMS:
        folder = Path(cfg.out, name.replace("/", " of "))
        lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
        betas[name] = [json.loads(line)["beta"] for line in lines]
    assert betas["RL"] == [0.1, 0.1] and betas["RL, beta 0.03"] == [0.03, 0.03]
    assert betas["RL, KL target 3"] == [0.3, pytest.approx(0.3 * 0.98)]


def test_what_is_there_is_not_run_again(tiny_run, monkeypatch):
    cfg, _ = tiny_run
    for name in ("pretrain", "train_supervised", "generate_questions", "label"):
        monkeypatch.setattr(summarize, name, None)
    monkeypatch.setattr(rlhf, "train_policy", None)
    models = {}
    monkeypatch.setattr(summarize, "count", lambda world, of: models.update(of) or {})
    summarize.run(cfg)
    assert set(models) == {"zero-shot", "supervised", *summarize.ARMS}


def test_a_folder_of_other_settings_is_refused(tiny_run, tmp_path, capsys, monkeypatch):
    cfg, _ = tiny_run
    with pytest.raises(UserError, match="with n_labels = 40, not 41"):
        summarize.check_settings(dataclasses.replace(cfg, n_labels=41))
    monkeypatch.setattr(summarize, "SUPERVISED", 65)
    with pytest.raises(UserError, match="with supervised = 64, not 65"):
        summarize.check_settings(cfg)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(summarize, "run", lambda cfg: summarize.check_settings(cfg))
    folder = Path("out/summarize-quick/seed0")
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text('{"seed": 7}')
    assert summarize.main(["run", "--quick"]) == 2
    assert capsys.readouterr().err.startswith("summarize.py: out/summarize-quick/seed0 was")


def test_the_page_tells_every_number(tiny_run, tmp_path):
    _, results = tiny_run
    other = copy.deepcopy(results)
    other["rows"]["supervised"]["accurate"] = results["rows"]["supervised"]["accurate"] + 0.2
    summarize.write_results(tmp_path, [results, other])
    assert "NaN" not in (tmp_path / "summaries.json").read_text("utf-8")
    tell(tmp_path)
    text = (tmp_path / "summaries.md").read_text("utf-8")
    assert "| lead-3 | - | - | 100 ± 0 |" in text
    row = next(line for line in text.splitlines() if line.startswith("| supervised |"))
    accurate = 100 * results["rows"]["supervised"]["accurate"] + 10
    assert row.endswith(f"| 27; 63 | {accurate:.0f} ± 14 |")
    for pair in results["win_rates"]:
        assert f"| {pair} |" in text
    for sample in results["samples"]:
        assert sample["article"] in text and sample["RL"] in text
    for picture in ("summaries.png", "summaries_map.png"):
        assert (tmp_path / picture).stat().st_size > 10000


def test_percent_of_several_seeds():
    assert percent([0.5, 0.6, 0.7]) == "60 ± 10"
    assert percent([0.123]) == "12"


def test_the_page_comes_from_its_numbers():
    text = (RESULTS / "summaries.json").read_text("utf-8")
    seeds = json.loads(text)["seeds"]
    assert (RESULTS / "summaries.md").read_text("utf-8") == page(null_to_nan(seeds))
    assert len(seeds) == summarize.SEEDS
