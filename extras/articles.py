"""
extras/articles.py: a small world of articles, their summaries, and who judges them.

Paper: Ziegler et al. 2019, section 3.2, which has CNN/Daily Mail and TL;DR for it

In:  a random.Random      Out: articles, references, documents; what a summary says
Not here: models (summarize.py)

An article, its reference summary, and its first three sentences, "lead-3":

    hello and welcome. Nora called Otto. Ada looked after Max. Ben paid Zoe. ...
    Otto phoned by Nora. Max, whom Ada nursed. Zoe, hired by Ben.
    hello and welcome. Nora called Otto. Ada looked after Max.

Behind the text stands a table of facts, so that every sentence of every summary can be
checked. Omitted: several facts in a sentence; where and when; people who read.
"""

import re
from typing import NamedTuple

import numpy as np

import stories


# --- the world: articles, summaries, documents ------------------------------------------

class Fact(NamedTuple):
    who: str
    verb: str                # the article's word for it
    whom: str


class Article(NamedTuple):
    sentences: list          # of texts, without periods; a preamble may be the first
    facts: list              # what the others say, one fact each


def make_article(rng):
    """An article of five or six facts. rng: a random.Random.

    No person and no verb comes twice, so that each word of a fact tells which fact it
    is. In three articles of ten a preamble stands first."""
    n = rng.randint(5, 6)
    people = rng.sample(PEOPLE, 2 * n)
    verbs = rng.sample(list(VERBS), n)
    facts = [Fact(*words) for words in zip(people[:n], verbs, people[n:])]
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
    """A summary as people write one: three facts in other words."""
    return in_other_words(article, choose_places(article, rng), rng)


def choose_places(article, rng):
    """The places of three facts, in order: those that matter more often than others."""
    chances = [weight(place) for place in range(len(article.facts))]
    places = set()
    while len(places) < 3:
        places.update(rng.choices(range(len(chances)), chances))
    return sorted(places)


def in_other_words(article, places, rng):
    """The facts at these places as people tell them: mostly in other words than the
    article's, and the other person first."""
    sentences = []
    for place in places:
        who, verb, whom = article.facts[place]
        template = rng.choice(IN_OTHER_WORDS)
        word = rng.choice([verb, *VERBS[verb]])
        sentences.append(template.format(who=who, verb=word, whom=whom))
    return sentences


def extract(article, rng):
    """Three sentences from anywhere in the article, in any order, as they are.

    Three side by side would not do. Once the first has told where they start, the others
    can be copied by counting places; so a model can learn to count, and not that a word
    is followed by what followed it before."""
    return rng.sample(article.sentences, 3)


TLDR = "TL;DR:"              # paper: the query ends so
AGAIN = "again:"
SHARE_OF_SUMMARIES = 0.05    # here: documents that end in a summary
SHARE_OF_EXTRACTS = 0.12     # here: summaries that people did not write, but cut out
SHARE_OF_LISTS = 0.50        # here: of the other documents


def document(rng):
    """What rho reads: an article and its summary, an article that quotes itself, or
    lists of words."""
    if rng.random() < SHARE_OF_SUMMARIES:
        return document_with_summary(rng)
    if rng.random() < SHARE_OF_LISTS:
        return document_with_lists(rng)
    return document_with_quotes(rng)


def document_with_summary(rng):
    """A few summaries are extracts: so rho knows that a summary may be a quote."""
    article = make_article(rng)
    summary = reference(article, rng)
    if rng.random() < SHARE_OF_EXTRACTS:
        summary = extract(article, rng)
    return f"{text_of(article.sentences)} {TLDR} {text_of(summary)}"


def document_with_quotes(rng):
    """An article that is quoted twice."""
    article = make_article(rng)
    text = text_of(article.sentences)
    for _ in range(2):
        text += f" {AGAIN} {text_of(extract(article, rng))}"
    return text


def document_with_lists(rng):
    """The words of an article in any order, and pieces of that list.

    Here a small model learns to copy. Articles alone do not teach it: after "Nora" comes
    a verb, whatever stood before her name, so no verb need look at the word before it,
    and then no "Nora" of a quote can find her verb. In a list any word may follow any
    other, and only looking back tells which."""
    words = text_of(make_article(rng).sentences).replace(".", "").split()
    rng.shuffle(words)
    text = text_of([" ".join(words)])
    for _ in range(4):
        start = rng.randrange(len(words) - 5)
        text += f" {AGAIN} {text_of([' '.join(words[start:start + 5])])}"
    return text


# --- the reader -------------------------------------------------------------------------

class Claim(NamedTuple):
    """What a reader finds in one sentence of a summary."""
    fact: Fact               # None where the sentence says nothing that can be understood
    place: int               # of the fact in the article; None where it is not there
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
            return Fact(match["who"], verb, match["whom"]), article_form
    return None, False


def read_article(text):
    """The Article that a text tells."""
    sentences = sentences_of(text)
    facts = [fact for fact, _ in map(read_sentence, sentences) if fact is not None]
    return Article(sentences, facts)


def read_summary(article, summary):
    """The Claims of a summary, one for each sentence. Both are texts: any can be read,
    the good and the broken alike."""
    stands_in, facts = read_article(article)
    claims = []
    said = set()
    for sentence in sentences_of(summary):
        fact, article_form = read_sentence(sentence)
        what = sentence if fact is None else fact
        place = facts.index(fact) if fact in facts else None
        copied = sentence in stands_in
        claims.append(Claim(fact, place, article_form, copied, what in said))
        said.add(what)
    return claims


def with_wrong_verb(sentences, rng):
    """The same three sentences, but one tells of a verb that no other has: in the
    article's word where it had the article's word, in another where it had another."""
    wrong = list(sentences)
    i = rng.randrange(len(wrong))
    told = [read_sentence(sentence)[0].verb for sentence in sentences]
    verb = rng.choice([verb for verb in VERBS if verb not in told])
    word = next(word for word in MEANING if f" {word} " in f" {wrong[i]} ")
    if word not in VERBS:
        verb = rng.choice(VERBS[verb])
    wrong[i] = wrong[i].replace(word, verb)
    return wrong


# --- the labelers -----------------------------------------------------------------------

class Habits(NamedTuple):
    """How labelers work, in units of what the first fact is worth. Set once, by what they
    mean, before any model was trained."""
    check: float = 0.4       # q: how often a sentence not in the article is checked
    suspicion: float = 0.6   # s: the price of such a sentence where it is not checked
    false: float = 1.5       # the price of a false sentence that is checked
    repetition: float = 0.5  # the price of saying again what has been said
    nothing: float = 0.3     # the price of a sentence that says nothing
    copying: float = 0.0     # kappa: the price of a sentence that is copied


N_LABELERS = 10
# Labeler i values what happened to person j so many times as much as the labelers do on
# average. Without a taste of their own they would agree too often.
TASTE_SPREAD = 0.5


def tastes():
    """(10 labelers, people): the same in every run."""
    rng = np.random.default_rng(0)
    return rng.uniform(1 - TASTE_SPREAD, 1 + TASTE_SPREAD, (N_LABELERS, len(PEOPLE)))


def labeler_scores(claims, checked, habits):
    """What each labeler thinks of a summary: checked (..., 10, sentences) -> (..., 10).

    checked is 1 where labeler i checks a sentence, and 0 where not. It enters linearly,
    so with the probability q in place of 0 and 1 this is the expected score.

    A sentence that stands in the article is true, and needs no check. Any other true
    sentence has its worth too, whether it was checked or not; a false one has none, and
    is punished as false only where it was checked. What is said again, true or false,
    costs the repetition in place of that. And whatever it says: a copied sentence costs
    kappa, any other the suspicion, where it was not checked."""
    total = np.zeros(checked.shape[:-1])
    for j, claim in enumerate(claims):
        check = checked[..., j]                                      # (..., 10)
        if claim.repeated:
            total -= habits.repetition
        elif claim.fact is None:
            total -= habits.nothing
        elif claim.place is None:
            total -= habits.false * check
        else:
            total += weight(claim.place) * TASTES[:, PEOPLE.index(claim.fact.whom)]
        if claim.copied:
            total -= habits.copying
        else:
            total -= habits.suspicion * (1 - check)
    return total


def true_score(claims, habits):
    """What the labelers think of a summary on average: the true reward, a number."""
    checked = np.full((N_LABELERS, len(claims)), habits.check)
    return labeler_scores(claims, checked, habits).mean()


# Luce's rule at this temperature, so that two labelers agree on the best of four samples
# of rho as often as the paper's do on TL;DR: 46 % (table 9). Set once, on seed 0's rho.
TEMPERATURE = 0.83
DRAWS = 16                   # of what a labeler checks, to average over


def article_of(query):
    """The article's text, without the "TL;DR:" behind it."""
    return query.removesuffix(TLDR).strip()


def choice_probabilities(questions, habits, rng):
    """P(labeler i likes option k best), (n, 10, 4), as stories.choice_probabilities: the
    mean over what the labeler may check.

    questions: n pairs of a query and four summaries. rng: a NumPy generator."""
    p = np.empty((len(questions), N_LABELERS, 4))
    for n, (query, summaries) in enumerate(questions):
        scores = []
        for summary in summaries:
            claims = read_summary(article_of(query), summary)
            checked = rng.random((DRAWS, N_LABELERS, len(claims))) < habits.check
            scores.append(labeler_scores(claims, checked, habits))
        z = np.stack(scores, axis=-1) / TEMPERATURE                  # (DRAWS, 10, 4)
        p[n] = stories.softmax(z).mean(axis=0)
    return p


# --- the words --------------------------------------------------------------------------
# Verbs: the article's words, and what else references have for them. No word has a
# capital for standing first, so that it is one token wherever it stands.
#
# Sixteen people, of whom an article has ten or twelve. With many more, knowing who is in
# the article is worth so much that a small model learns that first, and is then slow to
# learn who stands beside whom. And what follows a name depends on the word before it,
# for both people of a fact have names. From that a model learns to copy the second name
# of a quote, and no more: for the verb see document_with_lists.

PEOPLE = """Ada Ben Cora Dan Emil Finn Greta Hugo Ivo Jane Max Nora Otto Rita Tess
Zoe""".split()

VERBS = {"called": ["phoned", "contacted", "buzzed"],
         "paid": ["hired", "funded", "tipped"],
         "met": ["greeted", "spotted", "welcomed"],
         "tricked": ["fooled", "duped", "deceived"],
         "looked after": ["nursed", "tended", "minded"],
         "bumped into": ["hit", "rammed", "struck"],
         "laughed at": ["mocked", "teased", "ridiculed"],
         "longed for": ["loved", "adored", "missed"]}

PREAMBLES = ["hello and welcome", "hi all", "hey everyone", "so here goes",
             "okay here is the news"]

IN_ARTICLE = "{who} {verb} {whom}"
IN_OTHER_WORDS = ["{whom} {verb} by {who}", "{whom}, whom {who} {verb}",
                  "{whom}, {verb} by {who}"]

MEANING = {word: verb for verb, others in VERBS.items() for word in [verb, *others]}
PATTERNS = [re.compile(template.format(who=f"(?P<who>{'|'.join(PEOPLE)})",
                                       verb=f"(?P<verb>{'|'.join(MEANING)})",
                                       whom=f"(?P<whom>{'|'.join(PEOPLE)})"))
            for template in [IN_ARTICLE, *IN_OTHER_WORDS]]
TASTES = tastes()
