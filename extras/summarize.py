"""
extras/summarize.py: learning to summarize, and to copy, in a small world of its own.

Paper: Ziegler et al. 2019, section 3.2: tables 4 to 8, figures 5 to 7.

In:  the core; articles of this world      Out: rho, and how it copies and errs
Not here: anything that the core has: the model, its training, r, PPO

The paper's policies became "smart copiers": they copy whole sentences from the article,
and labelers like that better than the summaries people wrote. Why? Labelers were told to
punish what is wrong, and a sentence that stands in the article need not be checked. Here
a table of facts says what is true, so that every sentence of every summary is checked.

An article, its reference summary, and its first three sentences, "lead-3":

    hello and welcome. Nora mended rings. Otto sold pens. Ada lost keys. Max hid maps. ...
    of rings, Nora fixed some. as for pens, Otto traded them. maps got buried by Max.
    hello and welcome. Nora mended rings. Otto sold pens.

Omitted: several facts in a sentence; where and when; people who read.
"""

import random
import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import regex
import torch
import torch.nn.functional as F

from gpt import GPT, Sampling, generate, train_language_model
from text import SPLIT_PATTERN, Tokenizer, decode_responses


# --- the world: articles, summaries, documents ------------------------------------------

class Fact(NamedTuple):
    person: str
    verb: str                # the article's word for it
    thing: str


class Article(NamedTuple):
    sentences: list          # of texts, without their periods; a preamble may be the first
    facts: list              # what the others say, one fact each


def make_article(rng):
    """An article of five or six facts. rng: a random.Random.

    No person, verb or thing comes twice, so that each word of a fact tells which fact it
    is. In three articles of ten a preamble stands first."""
    n = rng.choice([5, 6])
    people = rng.sample(PEOPLE, n)
    verbs = rng.sample(list(VERBS), n)
    things = rng.sample(THINGS, n)
    facts = [Fact(*words) for words in zip(people, verbs, things)]
    sentences = [IN_ARTICLE.format(**fact._asdict()) for fact in facts]
    if rng.random() < 0.3:                   # paper: 13 % on TL;DR
        sentences.insert(0, rng.choice(PREAMBLES))
    return Article(sentences, facts)


def text_of(sentences):
    return " ".join(f"{sentence}." for sentence in sentences)


def weight(place):
    """How much the fact at this place matters, counted from 0: what is told first matters
    most, as in the news."""
    return 0.8 ** place


def reference(article, rng):
    """A summary as people write one: three facts, those that matter more often than the
    others, in words that the article does not use, and with the thing first."""
    chances = [weight(place) for place in range(len(article.facts))]
    places = set()
    while len(places) < 3:
        places.update(rng.choices(range(len(chances)), chances))
    sentences = []
    for place in sorted(places):
        person, verb, thing = article.facts[place]
        template = rng.choice(IN_OTHER_WORDS)
        synonym = rng.choice(VERBS[verb])
        sentences.append(template.format(person=person, verb=synonym, thing=thing))
    return sentences


def extract(article, rng):
    """Three sentences of the article that stand side by side, as they are."""
    start = rng.randrange(len(article.sentences) - 2)
    return article.sentences[start:start + 3]


TLDR = "TL;DR:"              # paper: the query ends so
AGAIN = "again:"
SHARE_OF_SUMMARIES = 0.10    # here: documents that end in a summary
SHARE_OF_EXTRACTS = 0.15     # here: summaries that people did not write, but cut out


def document(rng):
    """What rho reads: an article, and then a summary, or the article quoted twice.

    Quotes are where a small model learns to look back. A few summaries are extracts: from
    these rho knows that a summary may be a quote."""
    article = make_article(rng)
    text = text_of(article.sentences)
    if rng.random() >= SHARE_OF_SUMMARIES:
        for _ in range(2):
            text += f" {AGAIN} {text_of(extract(article, rng))}"
    elif rng.random() < SHARE_OF_EXTRACTS:
        text += f" {TLDR} {text_of(extract(article, rng))}"
    else:
        text += f" {TLDR} {text_of(reference(article, rng))}"
    return text


# --- the reader -------------------------------------------------------------------------

class Claim(NamedTuple):
    """What a reader finds in one sentence of a summary."""
    fact: Fact               # None where the sentence says nothing that can be understood
    place: int               # of the fact in the article's facts; None where it is false
    article_form: bool       # told as articles tell it, in their words
    copied: bool             # it stands in the article word for word
    repeated: bool           # an earlier sentence of the summary says the same


def sentences_of(text):
    """The sentences of a text, without their periods."""
    return [part.strip() for part in text.split(".") if part.strip()]


def read_sentence(sentence):
    """The fact that a sentence tells, or None, and whether in the article's form."""
    for pattern in PATTERNS:
        match = pattern.fullmatch(sentence)
        if match:
            verb = MEANING[match["verb"]]
            article_form = pattern is PATTERNS[0] and match["verb"] == verb
            return Fact(match["person"], verb, match["thing"]), article_form
    return None, False


def read_summary(article, summary):
    """The Claims of a summary, one for each sentence. Both are texts: any can be read,
    the good and the broken alike."""
    article = sentences_of(article)
    facts = [fact for fact, _ in map(read_sentence, article) if fact is not None]
    claims = []
    said = set()
    for sentence in sentences_of(summary):
        fact, article_form = read_sentence(sentence)
        what = sentence if fact is None else fact
        place = facts.index(fact) if fact in facts else None
        claims.append(Claim(fact, place, article_form, sentence in article, what in said))
        said.add(what)
    return claims


# --- the labelers -----------------------------------------------------------------------

class Habits(NamedTuple):
    """How labelers work, in units of what the first fact is worth. Set once, by what they
    mean, before any model was trained."""
    check: float = 0.4       # q: how often a sentence that is not in the article is checked
    suspicion: float = 0.6   # s: the price of such a sentence where it is not checked
    false: float = 1.5       # the price of a false sentence that is checked
    repetition: float = 0.5  # the price of saying again what has been said
    nothing: float = 0.3     # the price of a sentence that says nothing
    copying: float = 0.0     # kappa: the price of a sentence that is copied


N_LABELERS = 10
# Labeler i values a fact about thing j so many times as much as the labelers on average.
# Without a taste of their own they would agree too often.
TASTE_SPREAD = 0.5


def tastes():
    """(10 labelers, things): the same in every run."""
    rng = np.random.default_rng(0)
    return rng.uniform(1 - TASTE_SPREAD, 1 + TASTE_SPREAD, (N_LABELERS, len(THINGS)))


def labeler_scores(claims, checked, habits):
    """What each labeler thinks of a summary, (10,).

    checked (10, sentences): 1 where labeler i checks a sentence, 0 where not. It enters
    linearly, so with the probability q in place of 0 and 1 this is the expected score.

    A sentence that stands in the article is true, and needs no check."""
    total = np.zeros(N_LABELERS)
    for claim, check in zip(claims, checked.T):
        if claim.repeated:
            total -= habits.repetition
        elif claim.fact is None:
            total -= habits.nothing
        elif claim.place is None:
            total -= habits.false * check
        else:
            total += weight(claim.place) * TASTES[:, THINGS.index(claim.fact.thing)]
        if claim.copied:
            total -= habits.copying
        else:
            total -= habits.suspicion * (1 - check)
    return total


def true_score(claims, habits):
    """What the labelers think of a summary on average: the true reward, a number."""
    checked = np.full((N_LABELERS, len(claims)), habits.check)
    return labeler_scores(claims, checked, habits).mean()


# --- ROUGE ------------------------------------------------------------------------------

def words_of(text):
    return re.findall(r"\w+", text.lower())


def f1(matches, n_summary, n_reference):
    """The harmonic mean of matches / n_summary and matches / n_reference."""
    if matches == 0:
        return 0.0
    return 2 * matches / (n_summary + n_reference)


def rouge_n(summary, reference, n):
    """ROUGE-N (Lin 2004): F1 of the n-grams that two texts share, each as often as both
    have it."""
    counts = []
    for text in (summary, reference):
        words = words_of(text)
        counts.append(Counter(zip(*[words[i:] for i in range(n)])))
    matches = (counts[0] & counts[1]).total()
    return f1(matches, counts[0].total(), counts[1].total())


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

def word_tokenizer(documents):
    """A Tokenizer with one token for each word and mark of the documents: the world has
    some two hundred, and what is one word is then one thing to look back for."""
    pieces = set()
    for text in documents:
        pieces.update(regex.findall(SPLIT_PATTERN, " " + text))
    return Tokenizer(sorted(piece.encode() for piece in pieces))


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


def article_queries(articles, tokenizer):
    """The queries "article TL;DR:" by their length, {length: (n, length)}."""
    queries = {}
    for article in articles:
        ids = tokenizer.encode(f"{text_of(article.sentences)} {TLDR}")
        queries.setdefault(len(ids), []).append(ids)
    return {length: torch.tensor(queries[length]) for length in sorted(queries)}


def truncate_at_third_period(response, period):
    """A summary ends with its third sentence, so that all are about as long as lead-3.
    (Paper: at a newline, which stands between tokens 55 and 75.)

    response (B, T) -> length (B,), finished (B,), as text.truncate_at_period."""
    T = response.size(1)
    periods = (response == period).cumsum(dim=1)                     # (B, T)
    before_end = (periods < 3).sum(dim=1)                            # (B,)
    return (before_end + 1).clamp(max=T), before_end < T


# --- what a model copies, and where it errs ---------------------------------------------

def copying(articles, summaries):
    """How summaries copy and err. Texts, side by side -> shares between 0 and 1."""
    claims = [read_summary(*pair) for pair in zip(articles, summaries)]
    every = [claim for of_summary in claims for claim in of_summary]
    article_form = [claim for claim in every if claim.article_form]
    other_words = [claim for claim in every
                   if claim.fact is not None and not claim.article_form]
    accurate = [all(claim.copied or claim.place is not None for claim in of_summary)
                for of_summary in claims]
    return {"copied": share(claim.copied for claim in every),
            "article_form": len(article_form) / len(every),
            "faithful": share(claim.copied for claim in article_form),
            "paraphrases_true": share(claim.place is not None for claim in other_words),
            "understood": share(claim.fact is not None or claim.copied
                                for claim in every),
            "repeated": share(claim.repeated for claim in every),
            "accurate": share(accurate)}


def share(truths):
    """How many of some truths hold; nan where there are none."""
    truths = list(truths)
    if not truths:
        return float("nan")
    return sum(truths) / len(truths)


# --- the words --------------------------------------------------------------------------
# Verbs: the article's word, and the words that references have for it. No sentence starts
# with a capital, and things stand without "the", so that a word is one token wherever it
# stands, and every word of a fact matters.

PEOPLE = """Ada Ben Cora Dan Eva Finn Gus Hana Ivo Jane Kurt Lena Max Nora Otto Paul Rita
Sam Tess Udo Vera Will Yara Zoe Amos Beth Carl Dora Emil Flora Greta Hugo""".split()

THINGS = """rings pens keys maps lamps boats coats bells drums carts chairs clocks cups
dolls flags forks gloves hats jars kites knives ladders masks nets ovens pots ropes shoes
stamps tents toys wheels""".split()

VERBS = {"mended": ["fixed", "repaired", "patched"],
         "sold": ["traded", "vended", "peddled"],
         "bought": ["purchased", "acquired", "ordered"],
         "found": ["spotted", "discovered", "located"],
         "lost": ["misplaced", "mislaid", "dropped"],
         "hid": ["buried", "covered", "concealed"],
         "stole": ["swiped", "pinched", "snatched"],
         "painted": ["colored", "tinted", "decorated"],
         "broke": ["smashed", "cracked", "wrecked"],
         "cleaned": ["washed", "scrubbed", "polished"],
         "burned": ["scorched", "torched", "charred"],
         "drew": ["sketched", "pictured", "portrayed"],
         "counted": ["tallied", "numbered", "reckoned"],
         "carried": ["hauled", "moved", "lugged"],
         "liked": ["admired", "adored", "loved"],
         "made": ["built", "crafted", "created"]}

PREAMBLES = ["hello and welcome", "hi all", "hey everyone", "so here goes",
             "okay here is the news"]

IN_ARTICLE = "{person} {verb} {thing}"
IN_OTHER_WORDS = ["{thing} got {verb} by {person}",
                  "it was {thing} that {person} {verb}",
                  "of {thing}, {person} {verb} some",
                  "as for {thing}, {person} {verb} them"]

MEANING = {word: verb for verb, others in VERBS.items() for word in [verb, *others]}
PATTERNS = [re.compile(template.format(person=f"(?P<person>{'|'.join(PEOPLE)})",
                                       verb=f"(?P<verb>{'|'.join(MEANING)})",
                                       thing=f"(?P<thing>{'|'.join(THINGS)})"))
            for template in [IN_ARTICLE, *IN_OTHER_WORDS]]
TASTES = tastes()
