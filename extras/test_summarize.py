"""
Tests of extras/summarize.py: worked examples to redo on paper.

Run: python -m pytest extras/test_summarize.py
"""

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch

from extras import summarize
from extras.summarize import Article, Claim, Fact, Habits

FACTS = [Fact("Nora", "mended", "rings"), Fact("Otto", "sold", "pens"),
         Fact("Ada", "lost", "keys"), Fact("Max", "hid", "maps"),
         Fact("Zoe", "drew", "boats")]
ARTICLE = ("hello and welcome. Nora mended rings. Otto sold pens. Ada lost keys. "
           "Max hid maps. Zoe drew boats.")
COPY = "Nora mended rings. Otto sold pens. Ada lost keys."
PARAPHRASE = ("of rings, Nora fixed some. pens got traded by Otto. "
              "it was keys that Ada misplaced.")


def article():
    return Article(summarize.sentences_of(ARTICLE), FACTS)


# --- the world --------------------------------------------------------------------------

def test_an_article_says_each_word_once_and_can_be_read_back():
    rng = random.Random(0)
    lengths = Counter()
    for _ in range(300):
        made = summarize.make_article(rng)
        words = [word for fact in made.facts for word in fact]
        assert len(set(words)) == len(words)
        read = [summarize.read_sentence(sentence) for sentence in made.sentences]
        if len(made.sentences) > len(made.facts):
            assert made.sentences[0] in summarize.PREAMBLES
            assert read.pop(0) == (None, False)
        assert read == [(fact, True) for fact in made.facts]
        lengths[len(made.facts), len(made.sentences)] += 1
    assert set(lengths) == {(5, 5), (5, 6), (6, 6), (6, 7)}
    assert 0.2 < (lengths[5, 6] + lengths[6, 7]) / 300 < 0.4         # 30 % +/- 3 errors


def test_a_reference_is_true_and_in_other_words():
    rng = random.Random(0)
    first, last = 0, 0
    for _ in range(300):
        summary = summarize.text_of(summarize.reference(article(), rng))
        claims = summarize.read_summary(ARTICLE, summary)
        places = [claim.place for claim in claims]
        assert len(places) == 3 and places == sorted(set(places))
        assert not any(claim.article_form or claim.copied or claim.repeated
                       for claim in claims)
        first += places[0] == 0
        last += places[2] == 4
    assert first > last + 50                     # what is told first matters more


def test_an_extract_is_three_sentences_side_by_side():
    rng = random.Random(0)
    extracts = [summarize.text_of(summarize.extract(article(), rng)) for _ in range(200)]
    assert all(f" {text}" in f" {ARTICLE}" for text in extracts)
    assert len(set(extracts)) == 4               # of six sentences


def test_a_document_ends_in_a_summary_or_quotes_itself_twice():
    rng = random.Random(0)
    ends = Counter()
    for _ in range(2000):
        text = summarize.document(rng)
        if summarize.TLDR in text:
            before, summary = text.split(f" {summarize.TLDR} ")
            claims = summarize.read_summary(before, summary)
            ends["extract" if claims[-1].copied else "reference"] += 1
        else:
            before, *quotes = text.split(f" {summarize.AGAIN} ")
            assert len(quotes) == 2 and all(quote in before for quote in quotes)
            ends["quotes"] += 1
    n = ends["extract"] + ends["reference"]
    assert abs(n / 2000 - summarize.SHARE_OF_SUMMARIES) < 0.025      # 3.5 errors
    assert abs(ends["extract"] / n - summarize.SHARE_OF_EXTRACTS) < 0.1


def test_a_synonym_belongs_to_one_verb():
    words = [word for verb, others in summarize.VERBS.items() for word in [verb, *others]]
    assert len(set(words)) == len(words) == len(summarize.MEANING)
    everything = [*words, *summarize.PEOPLE, *summarize.THINGS]
    assert len(set(everything)) == len(everything)


# --- the reader -------------------------------------------------------------------------

@pytest.mark.parametrize("sentence, fact, article_form", [
    ("Nora mended rings", FACTS[0], True),
    ("Nora fixed rings", FACTS[0], False),               # the form, in another word
    ("rings got mended by Nora", FACTS[0], False),
    ("it was rings that Nora patched", FACTS[0], False),
    ("of rings, Nora repaired some", FACTS[0], False),
    ("as for rings, Nora fixed them", FACTS[0], False),
    ("Nora mended", None, False), ("rings mended Nora", None, False),
    ("Nora mended rings pens", None, False), ("hello and welcome", None, False)])
def test_a_sentence_is_read(sentence, fact, article_form):
    assert summarize.read_sentence(sentence) == (fact, article_form)


def test_every_claim_of_a_summary_is_found():
    # Otto mended nothing; the second mention of a fact repeats it in whatever words.
    summary = ("Nora mended rings. Otto mended pens. of rings, Nora fixed some. "
               "hello and welcome. Nora rings. hello and welcome.")
    mended_pens = Fact("Otto", "mended", "pens")
    assert summarize.read_summary(ARTICLE, summary) == [
        Claim(FACTS[0], 0, True, True, False),
        Claim(mended_pens, None, True, False, False),
        Claim(FACTS[0], 0, False, False, True),
        Claim(None, None, False, True, False),
        Claim(None, None, False, False, False),
        Claim(None, None, False, True, True)]


def test_copying_by_hand():
    # Six sentences: the three of COPY, copied; one in article form, but false; one true
    # and one false in other words. The first summary is accurate, the second is not.
    mixed = "Otto mended pens. of maps, Max buried some. of boats, Nora drew some."
    found = summarize.copying([ARTICLE, ARTICLE], [COPY, mixed])
    assert found == {"copied": 3 / 6, "article_form": 4 / 6, "faithful": 3 / 4,
                     "paraphrases_true": 1 / 2, "understood": 1, "repeated": 0,
                     "accurate": 1 / 2}
    assert math.isnan(summarize.copying([ARTICLE], ["so it is."])["faithful"])


# --- the labelers -----------------------------------------------------------------------

@pytest.fixture
def no_tastes(monkeypatch):
    """Labelers for whom all things matter alike."""
    monkeypatch.setattr(summarize, "TASTES",
                        np.ones((summarize.N_LABELERS, len(summarize.THINGS))))


@pytest.mark.parametrize("summary, checked, score", [
    (COPY, 0, 1 + 0.8 + 0.64), (COPY, 1, 1 + 0.8 + 0.64),    # a copy needs no check
    (PARAPHRASE, 1, 1 + 0.8 + 0.64),
    (PARAPHRASE, 0, 1 + 0.8 + 0.64 - 3 * 0.6),               # not checked: suspicion
    ("Otto sold rings.", 1, -1.5), ("Otto sold rings.", 0, -0.6),
    ("Nora mended rings. Nora mended rings.", 1, 1 - 0.5),
    ("hello and welcome.", 0, -0.3), ("so it is.", 0, -0.3 - 0.6)])
def test_a_labelers_score_by_hand(no_tastes, summary, checked, score):
    claims = summarize.read_summary(ARTICLE, summary)
    checks = np.full((10, len(claims)), checked)
    assert np.allclose(summarize.labeler_scores(claims, checks, Habits()), score)


def test_the_true_score_by_hand(no_tastes):
    # q = .4, s = .6: a sentence that is not copied costs .6 * .6 = .36 in suspicion, and
    # .4 * 1.5 = .6 more where it is false. With q = 1 and s = 0 only truth counts.
    def score(summary, habits=Habits()):
        return summarize.true_score(summarize.read_summary(ARTICLE, summary), habits)
    assert score(PARAPHRASE) == pytest.approx(2.44 - 3 * 0.36)
    assert score("Otto sold rings.") == pytest.approx(-0.96)
    careful = Habits(check=1.0, suspicion=0.0)
    assert score(PARAPHRASE, careful) == score(COPY, careful) == pytest.approx(2.44)
    assert score(COPY, Habits(copying=0.5)) == pytest.approx(2.44 - 1.5)


def test_a_taste_is_for_a_thing(monkeypatch):
    taste = np.ones((10, len(summarize.THINGS)))
    taste[3, summarize.THINGS.index("rings")] = 1.5
    monkeypatch.setattr(summarize, "TASTES", taste)
    claims = summarize.read_summary(ARTICLE, "Nora mended rings. Otto sold pens.")
    scores = summarize.labeler_scores(claims, np.zeros((10, 2)), Habits())
    assert scores[3] == pytest.approx(1.5 + 0.8) and scores[4] == pytest.approx(1.8)


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
    tokenizer = summarize.word_tokenizer([ARTICLE, f"a {summarize.TLDR}"])
    ids = tokenizer.encode(COPY)
    assert len(ids) == 12 and ids.count(tokenizer.period) == 3
    assert tokenizer.decode(ids) == COPY


def test_windows_end_where_documents_do():
    tokenizer = summarize.word_tokenizer([ARTICLE])
    windows, mask = summarize.windows_of(["Nora mended rings.", "hello."], tokenizer, 5)
    assert windows.shape == mask.shape == (2, 6) and mask.sum(dim=1).tolist() == [4, 2]
    assert tokenizer.decode(windows[1, :2].tolist()) == "hello."


def test_a_query_is_an_article_and_tldr():
    rng = random.Random(0)
    articles = [summarize.make_article(rng) for _ in range(20)]
    texts = [f"{summarize.text_of(made.sentences)} {summarize.TLDR}" for made in articles]
    tokenizer = summarize.word_tokenizer(texts)
    queries = summarize.article_queries(articles, tokenizer)
    decoded = [tokenizer.decode(row) for group in queries.values() for row in group]
    assert sorted(decoded) == sorted(texts)
    assert list(queries) == sorted(queries)


def test_a_summary_ends_with_its_third_sentence():
    # 7 is the period. Three by position 4; two only; three in a row at the start.
    response = torch.tensor([[1, 7, 2, 7, 7, 7], [7, 1, 7, 1, 1, 1], [7, 7, 7, 1, 1, 1]])
    length, finished = summarize.truncate_at_third_period(response, 7)
    assert length.tolist() == [5, 6, 3] and finished.tolist() == [True, False, True]
