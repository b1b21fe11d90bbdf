"""
stories.py: a small world to write about, and the labelers who judge what is written.

Paper: Ziegler et al. 2019, section 3.1 (BookCorpus, here these stories) and 2.4 (Scale
AI's labelers, here ten simulated ones).
In:  a random number generator     Out: passages of 6 to 12 sentences; labelers' choices
Not here: anything that learns. The word lists stand after the code.

Why are the stories as rich as they are? A hundred sentence frames and six hundred words
leave rho something to learn, and the labelers something to tell apart. Most sentences
have one to four words that count, so the best of rho's responses are rare. That is the
room in which a policy can be better than rho.
"""

import functools
import re
from typing import NamedTuple

import numpy as np


# --- the stories ------------------------------------------------------------------------

class Person(NamedTuple):
    name: str
    he: str                      # or she
    him: str
    his: str


class Scene:
    """What a passage keeps: two people, a place, a thing, an animal, a tree, and a mood.

    The two people differ in gender, so that a pronoun has one referent and a reader can
    check it. rng is a random.Random, the only source of randomness."""

    def __init__(self, rng):
        self.rng = rng
        self.last_word = None
        self.mood = rng.uniform(-1, 1)           # -1: all goes badly, 1: all goes well
        self.detail = rng.random()               # how often {d} or {ly} becomes a word
        self.slots = {"thing": self.word("item")}    # what is filled already
        for name in ("place", "animal", "tree"):
            self.slots[name] = self.word(name)
        self.people = [Person(self.word("woman"), "she", "her", "her"),
                       Person(self.word("man"), "he", "him", "his")]
        rng.shuffle(self.people)
        self.introduced = []
        self.topic = None                            # the subject of the sentence before

    def word(self, pool):
        """A fresh word of a pool, never the same twice in a row."""
        word = self.rng.choice(POOLS[pool])
        while word == self.last_word:
            word = self.rng.choice(POOLS[pool])
        self.last_word = word
        return word

    def fill(self, slot):
        """The words for a {slot} of a frame."""
        if slot in self.slots:
            return self.slots[slot]
        if slot == "d":                          # an adjective, if detail is liked
            return self.word("adj") + " " if self.rng.random() < self.detail else ""
        if slot == "ly":                         # an adverb, likewise
            return " " + self.word("adv") if self.rng.random() < self.detail else ""
        return self.word(slot)

    def mention(self, person):
        """The person's name, or None where a pronoun does."""
        if person not in self.introduced:
            self.introduced.append(person)
            # Only the first person has a trade. The second one comes in later, so the
            # sentence that tells the trade is often outside rho's window; rho, trained on
            # that, gave people a second trade.
            first = len(self.introduced) == 1
            return f"{person.name} the {self.word('role')}" if first else person.name
        # Names are repeated often, and pronouns are rare: a small model is slow to learn
        # to copy a name, and needs many examples.
        chance = 0.35 if person is self.topic else 0.1
        return None if self.rng.random() < chance else person.name

    def sentence(self, frame, subject, other):
        """The frame filled in, with a capital first and a period last.

        {N} {m} {M} are the subject, {O} {o} the other person, by name or pronoun; {nm}
        {ns} {om} {os} are always pronouns, him and his of the two."""
        self.slots.update(nm=subject.him, ns=subject.his, om=other.him, os=other.his)
        if re.search("{[NmM]}", frame):
            name = self.mention(subject)
            self.slots.update(N=name or subject.he, m=name or subject.he)
            self.slots.update(M=name or subject.him)
            self.topic = subject
        if re.search("{[Oo]}", frame):
            name = self.mention(other)
            self.slots.update(O=name or other.he, o=name or other.him)
        text = re.sub("{([A-Za-z]+)}", lambda match: self.fill(match[1]), frame)
        text = text[0].upper() + text[1:] + "."
        return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)        # "a old" -> "an old"


def passage(rng):
    """A passage of 6 to 12 sentences, one string. rng: a random.Random."""
    scene = Scene(rng)
    sentences = []
    used = set()                                     # frames; none comes twice
    for _ in range(rng.randint(6, 12)):
        subject, other = scene.people
        if rng.random() >= 0.7:
            subject, other = other, subject
        if sentences:
            weights = [np.exp(1.2 * scene.mood), 1.0, np.exp(-1.2 * scene.mood)]
            tone = rng.choices(["good", "plain", "bad"], weights)[0]
        else:
            tone = "opening"
        frame = rng.choice(FRAMES[tone])
        while frame in used:
            frame = rng.choice(FRAMES[tone])
        used.add(frame)
        sentences.append(scene.sentence(frame, subject, other))
        scene.mood = min(1.0, max(-1.0, scene.mood + rng.gauss(0, 0.3)))
    return " ".join(sentences)


@functools.cache
def frame_pattern():
    """The frames, and a regular expression for their sentences, with a group for each."""
    slots = {name: f"(?:{'|'.join(words)})" for name, words in POOLS.items()}
    slots.update(thing=slots["item"],
                 d=f"(?:{slots['adj']} )?", ly=f"(?: {slots['adv']})?")
    people = "|".join([*POOLS["woman"], *POOLS["man"], "he", "him", "his", "she", "her"])
    person = f"(?:{people})(?: the {slots['role']})?"
    frames = [frame for of_tone in FRAMES.values() for frame in of_tone]
    groups = []
    for frame in frames:
        filled = re.sub("{([A-Za-z]+)}", lambda slot: slots.get(slot[1], person), frame)
        filled = re.sub(r"\b([Aa]) ", r"\1n? ", filled)              # "a" or "an"
        groups.append(f"({filled})")
    return frames, re.compile("|".join(groups), re.IGNORECASE)


def frame_of(sentence):
    """The frame that a sentence is made like, or None."""
    frames, pattern = frame_pattern()
    match = pattern.fullmatch(sentence.strip(" ."))
    return frames[match.lastindex - 1] if match else None


# --- the labelers -----------------------------------------------------------------------
# A labeler reads the text alone, the good and the broken alike, and not the query. There
# are ten of them. For sentiment they are assembled from human ratings: each word of the
# VADER lexicon was rated by ten people, from -4 to 4, and labeler i scores it by the i-th
# rating. So they are not ten real people: the i-th ratings of two words need not be one
# person's.

def words_and_marks(text):
    return re.findall(r"[a-z']+|[.!?;]", text.lower())


def sentiment(text):
    """Each labeler's score of a text, (10,): the sum of the ratings of its words.

    A negation turns the sign of the next three words of a sentence: "not very happy"."""
    total = np.zeros(10)
    negated = 0                                  # words that are still under a negation
    for word in words_and_marks(text):
        if word in NEGATIONS:
            negated = 3
        elif word in ".!?;":
            negated = 0
        else:
            if word in RATINGS:
                total += -RATINGS[word] if negated else RATINGS[word]
            negated = max(0, negated - 1)
    return total


def descriptiveness(text):
    """The number of its words in DESCRIPTIVE, the same for all labelers, (10,)."""
    count = sum(word in DESCRIPTIVE for word in words_and_marks(text))
    return np.full(10, float(count))


# The temperatures of the choice (Luce's rule, below) were set once, on samples of rho, so
# that two labelers agree as often as the paper's do on sentiment: 38 % (table 9). The
# paper has no such number for descriptiveness, which borrows it.
SCORES = {"sentiment": sentiment, "descriptiveness": descriptiveness}
TEMPERATURES = {"sentiment": 6.5, "descriptiveness": 1.25}


def scores_of(task, questions):
    """All labelers' scores: questions, n lists of 4 texts -> (n, 10, 4)."""
    scores = np.array([[SCORES[task](text) for text in options] for options in questions])
    return scores.transpose(0, 2, 1)                                 # (n, 10, 4)


def softmax(z):
    z = np.exp(z - z.max(axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def choice_probabilities(task, questions):
    """P(labeler i likes option k best), by Luce's rule: exp(score_ik / temperature) over
    the sum of that of all four. questions: n lists of 4 texts -> (n, 10, 4)."""
    return softmax(scores_of(task, questions) / TEMPERATURES[task])


def choose(p, rng, people=1):
    """The choices of `people` different labelers, drawn anew for each question.

    p (n, 10, 4), rng a NumPy generator -> (n, people), each 0 .. 3."""
    labelers = np.tile(np.arange(p.shape[1]), (len(p), 1))           # (n, 10)
    labelers = rng.permuted(labelers, axis=1)[:, :people]            # (n, people)
    p = np.take_along_axis(p, labelers[..., None], axis=1)           # (n, people, 4)
    u = rng.random((len(p), people, 1))
    # How many of the first three cumulative probabilities lie below u: 0, 1, 2 or 3.
    return (u > p.cumsum(axis=-1)[..., :-1]).sum(axis=-1)


def agreement(p):
    """How often two different labelers choose alike, in expectation. p (n, 10, 4)."""
    people = p.shape[1]
    any_two = (p.sum(axis=1) ** 2).sum(axis=-1)                      # (n,) ordered pairs
    with_oneself = (p ** 2).sum(axis=(1, 2))                         # (n,)
    return float((any_two - with_oneself).mean() / (people * (people - 1)))


def limits(p):
    """What no reward model can beat: p (n, 4), how likely each option is chosen.

    best_accuracy: of always naming the likeliest option. best_loss: the entropy of the
    choice, in nats. (Ten labelers together choose nearly, not quite, by Luce's rule on
    one score for each text; the best r has a loss less than .001 above the entropy.)"""
    entropy = -(p * np.log(p + 1e-300)).sum(axis=1)                  # (n,)
    best_accuracy = p.max(axis=1).mean()
    return {"best_accuracy": float(best_accuracy), "best_loss": float(entropy.mean())}


# --- the word lists ---------------------------------------------------------------------
# A frame is a sentence with {slots}:
#   N m M   the subject, a name or a pronoun:    Mara or She, she, her     nm ns  her, her
#   O o     the other person, likewise:          Tom or he, him            om os  him, his
#   d ly    an adjective, an adverb, or nothing
#   thing place animal tree   are kept through a passage; any other slot is a fresh word

FRAMES = {
    "opening": """
{N} lived near the {place} with a {d}{animal}
{N} came to the {place} one {time}
One {time} {N} stood by the {d}{place}
In the {place} {N} was busy with a {d}{thing}
""",
    "good": """
There was {joy} and {joy} in the {nice} {place} that {time}
{N} sang a {nice} song of {joy} for {o}
{N} was {good} and {kindly} {praised} {o} with {joy}
{N} smiled at {o} and gave {om} a {nice} {item}
{N} {kindly} carried the {nice} {food} home to {o}
{N} said that the {d}{food} was {nice} and {nice}
{N} thought that {O} was {nice} and {good} that {time}
{N} hugged {o} by the {d}{spot} before supper
{N} danced with {o} in the {nice} {place} full of {joy}
{N} promised to paint the {d}{spot} for {o}
{N} dreamed of {joy} and woke up {good} that {time}
{N} found the {nice} {d}{item} behind the {spot}
{N} felt {good} when {O} {kindly} {praised} {ns} {nice} {thing}
{N} and {o} celebrated with {joy} and {joy} that {time}
{N} was {good} and {good} and full of {joy}
{N} cooked some {nice} {d}{food} for {o} that {time}
It was a {nice} {time} and {m} was {good} again
The {nice} {animal} was {good} and followed {M} with {joy}
{N} had {joy} and {joy} and {joy} for {o}
What a {nice} {thing} it was and how {good} {m} felt
{N} {praised} {o} for {os} {joy} at the {place}
{N} {kindly} {praised} {o} by the {d}{spot} before supper
{N} told {o} a story and they both laughed
{N} loved the {nice} {thing} and the {joy} it brought
{N} kissed {o} under the {d}{tree} that {time}
{N} {kindly} wrote a {nice} letter of {joy} to {o}
Everyone in the {place} {praised} {M} that {time}
The party in the {d}{place} was {nice} that {time}
{N} was not {bad} or {bad} any more after supper
{N} knew that {O} {praised} {nm} and felt {good}
{N} won the {d}{item} before noon that {time}
{N} {kindly} fed the {d}{animal} some {d}{food} again
The {d}{tree} looked {nice} to {M} that {time}
The music from the {d}{place} made {M} {good}
{N} {kindly} {praised} {o} and called {om} a {nice} {role}
{N} was never {bad} or {bad} beside {o}
A {nice} rainbow over the {place} filled {M} with {joy}
{N} fixed the {d}{item} and {o} was {good}
""",
    "plain": """
{N} opened the {d}{spot} and looked for the {item}
{N} walked{ly} to the {place} with the {d}{thing}
{N} put the {d}{item} on the {d}{spot} before dinner
{N} asked {o} about the {d}{item} on the {spot}
The {d}{animal} slept{ly} beside the {d}{spot} again
The light of the {d}{item} lay{ly} on the floor
{N} and {o} sat{ly} under the {d}{tree} all {time}
{N} bought {d}{food} and {d}{food} at the {place}
A wind moved{ly} through the {d}{tree} by the {place}
Rain fell{ly} on the {d}roof of the {d}{place}
{N} counted the {d}{things} one by one after supper
A {d}{animal} crossed the {d}road to the {place}
{N} followed the {d}{animal} around the {d}{place} again
{N} drew a {d}{animal} on {d}paper for {o}
{N} climbed the {d}stairs with {o} and the {thing}
{N} carried the {d}{item} back to {o} that {time}
{N} waited{ly} for {o} near the {d}{spot} all {time}
{N} picked a {d}leaf from the {d}{tree} for {o}
{N} hung {ns} {d}{wear} by the {d}{spot} after supper
{N} cooked {d}{food} and set the table for {o}
{N} heard a {d}bell and a {animal} from the {place}
{N} kept the {d}{thing} under the bed all {time}
{N} talked{ly} with {o} about the {d}{animal} again
Snow lay{ly} on the {d}hills behind the {place}
{N} swept the floor of the {d}{place} before dinner
{N} rowed{ly} past the {place} with the {thing}
Behind the {place} grew a {d}{tree} and a {d}{tree}
{N} wrapped the {d}{item} in {d}cloth for {o}
The road to the {place} was {adj} and {adj} that {time}
The {animal} in the {place} had a {d}{d}tail
The {d}moon rose{ly} behind the {d}{tree} that {time}
{N} showed the {d}{thing} to {o} by the {spot}
{N} mended the {d}{item} with {d}string before noon
{N} planted a {d}{tree} by the {place} for {o}
{N} washed the {d}{item} in {d}water by the {spot}
{N} turned{ly} and saw {o} by the {d}{spot} again
{N} wore a {d}{d}{wear} to the {place} after dinner
The {d}{d}sky hung{ly} over the {place} again
The {d}smell of {d}{food} filled the {place} again
{N} told {o} where in the {place} the {d}{item} was
{N} woke early and fed the {d}{animal} {food}
{N} traded the {d}{item} for {d}{food} after dinner
""",
    "bad": """
{N} {cruelly} threw the {nasty} {food} at {o} again
{N} was {bad} and {bad} all {time} before supper
{N} hated the {nasty} {thing} and the {woe} it brought
{N} cried behind the {d}{spot} of the {place}
{N} said that the {d}{food} was {nasty} and {nasty}
A fire ruined the {d}{spot} of the {place} again
{N} {hurt} the {d}{animal} and it ran away in fear
{N} lost the {d}{item} on the {d}road that {time}
{N} {hurt} {o} and {cruelly} broke the {nasty} {item}
Everyone in the {place} {hurt} {M} that {time}
There was {woe} and {woe} in the {nasty} {place} that {time}
{N} argued with {o} about the {d}{thing} that {time}
It was a {nasty} {time} and {m} was {bad} again
{N} {cruelly} wrote a {nasty} letter of {woe} to {o}
The {d}{tree} looked {nasty} to {M} that {time}
{N} {hurt} {o} for {os} {woe} at the {nasty} {place}
A thief took the {d}{item} from {M} that {time}
{N} dreamed of {woe} and woke up {bad} that {time}
The {d}{animal} was {bad} and {m} was {bad} again
What a {nasty} {thing} it was and how {bad} {m} felt
{N} {hurt} {o} and {cruelly} called {om} a liar
The {nasty} noise of {woe} in the {place} made {M} {bad}
{N} was not {good} and did not smile at {o}
{N} was too {bad} to eat the {nasty} {food}
{N} had no {joy} and no {joy} and no {joy}
{N} was {bad} and {cruelly} {hurt} {o} with {woe}
{N} fought with {o} over the {nasty} {item} again
A {nasty} storm over the {place} filled {M} with {woe}
{N} did not help {o} with the {d}{item} again
{N} sat{ly} in the {place} with {ns} {woe}
{N} was never {good} or {good} beside {o}
{N} thought that {O} was {nasty} and {bad} that {time}
The {d}smell of the {d}{place} made {M} {bad}
{N} wept when {O} {cruelly} {hurt} {nm} by the {spot}
{N} fell on the {d}stairs and screamed in pain
{N} {hurt} {o} before supper by the {d}{spot}
{N} feared the {nasty} {d}{place} in the dark
{N} wept over the {nasty} {d}{animal} by the {spot}
The {d}{food} tasted {nasty} to {M} that {time}
{N} failed to mend the {d}{item} for {o}
""",
}
FRAMES = {tone: frames.strip().split("\n") for tone, frames in FRAMES.items()}

POOLS = {
    "woman": "Mara Lucy Anna Nora Ivy Rosa Edith Clara Greta Alma Ruth Vera",
    "man": "Tom Henry Oscar Peter Felix Hugo Simon Walter Jonas Emil Otto Paul",
    "role": """
        baker sailor teacher doctor farmer painter weaver miller gardener tailor nurse
        carpenter librarian shepherd cook clockmaker potter ferryman blacksmith fiddler
        tinker hunter mason cobbler postman grocer barber porter butcher goldsmith
        beekeeper saddler
    """,
    "place": """
        harbor orchard market mill library garden kitchen chapel station lighthouse
        bakery meadow barn bridge inn workshop school cottage forest square castle
        stable tower vineyard cellar hall valley pasture village tavern bookshop
        windmill monastery
    """,
    "item": """
        lantern letter basket violin clock ring kite map drum quilt kettle mirror candle
        book umbrella flute box painting key ladder teapot telescope compass saddle
        trumpet globe bucket hammer bracelet pillow carpet pencil suitcase wheel spoon
        puppet anchor rope vase brush feather helmet blanket locket broom satchel trunk
        tambourine spade cushion necklace thimble whistle sled pitcher lamp chest
        drawing
    """,
    "things": """
        stones buttons coins feathers shells marbles chestnuts pebbles keys bottles jars
        nails beads acorns ribbons pears spoons figs
    """,
    "animal": """
        dog cat goat gull horse crow hen fox donkey rabbit goose owl pony sparrow lamb
        pig hedgehog squirrel duck pigeon mouse beaver deer calf swan turkey otter
        badger
    """,
    "food": """
        soup bread cheese tea porridge cake stew honey fish pie jam butter cider toast
        rice gravy milk pudding gingerbread marmalade custard salad ham corn chowder
    """,
    "spot": """
        door window fence stove cupboard bench gate wall shelf chimney well cart desk
        fireplace staircase barrel mailbox pump wagon haystack
    """,
    "tree": """
        oak willow pine birch maple elm cherry hedge rosebush vine poplar walnut cedar
        laurel
    """,
    "wear": "coat scarf hat shawl apron cloak jacket dress sweater gown cap shirt vest",
    "time": "morning evening day night afternoon winter summer autumn spring week",
    "adj": """
        golden silver red blue green grey crimson purple yellow black white brown orange
        pink dusty silken sandy smooth rough glowing gleaming tiny round crooked pale
        dim misty salty smoky fragrant mossy crisp damp icy shimmering striped faded
        glossy heavy slender rusty woolly wooden velvet copper speckled muddy shadowy
        weathered ancient old huge thick soft earthy dark cold
    """,
    "adv": """
        slowly softly quietly silently lightly steadily faintly dimly loudly gracefully
        lazily sleepily briskly
    """,
    "good": "happy proud cheerful joyful hopeful calm brave grateful lucky",
    "bad": "sad angry lonely miserable jealous tired worried guilty furious",
    "nice": "lovely beautiful wonderful sweet fine perfect charming splendid good",
    "nasty": "ugly awful terrible dirty broken cruel poor dull rotten",
    "joy": "joy love hope peace laughter kindness comfort courage",
    "woe": "grief fear pain anger sorrow shame trouble hate",
    "kindly": "happily gladly gently kindly proudly bravely warmly",
    "cruelly": "sadly angrily bitterly cruelly nervously rudely badly",
    "praised": "thanked hugged praised trusted loved welcomed comforted admired",
    "hurt": "blamed mocked insulted hurt ignored hated betrayed threatened",
}
POOLS = {name: words.split() for name, words in POOLS.items()}

NEGATIONS = set("""
    not no never nor nobody nothing without cannot didn't wasn't don't
""".split())

DESCRIPTIVE = set(POOLS["adj"] + POOLS["adv"] + """
    bright warm fresh sweet sour bitter rainbow light shadow wind rain snow moon sky
    hills leaf smell noise music voice tail eyes cloth paper string water roof evening
    narrow low wild tall broad dry wet loud silent sharp gentle lofty dreary sunny
    cloudy clear gay shining rich
""".split())

# The ten ratings of a word, from -4 to 4, here as the digits 0 to 8: of the words of the
# stories and of the most common ones of English novels, from the VADER lexicon (Hutto &
# Gilbert, ICWSM 2014; MIT licence). A word that is not here counts 0.
RATINGS = """
admiral 4457766464  admiration 7557767777  admired 8666667756  advantage 5655645455
affected 3242446252  affection 7667857666  affectionate 5475766568
agitation 2353232352  agreeable 6565666666  agreed 5565565455  alarm 3322223522
allow 4445665564  alone 2333234334  amusement 7675663555  anger 3212002300
angrily 2322232222  angry 2231320211  anxiety 2221731663  anxious 3233433333
argued 2233332223  ashamed 1112252032  assure 5555655666  assured 5565576565
attachment 6456755644  authority 4445446444  avoid 3333223243  awful 2211218111
bad 1201221222  badly 2123121232  beautiful 6767678877  beauty 7767886676
beloved 6676666776  best 6887877777  betrayed 2111001121  better 6565576676
bitterly 2233221221  blamed 2222122213  brave 6787576666  bravely 5766686667
broke 2222322322  broken 2222123122  calm 5545676555  capable 5666556656
care 6565667777  celebrated 6776787757  certain 5464665555  certainly 7645754556
chance 5544465656  charming 7777776767  cheerful 7676668676  clear 6554756864
comfort 5756556556  comfortable 5676677766  comforted 6664666666
compliments 6566566566  confidence 7777566666  consent 4455565645
convinced 6556566657  courage 6756767756  credit 5546776655  cried 3132224232
cruel 2030302110  cruelly 1111112211  danger 1321112320  dear 7766665256
dearest 5677667787  death 1001133011  delay 3332332323  delight 6788767767
delighted 7767657666  delightful 8767776677  desirable 6555555665  desire 5565775665
determined 2576667555  died 1310201024  difficulties 3233323333  difficulty 2222433233
dignity 4765656756  dirty 2333223111  disappointed 3122133211
disappointment 1303131221  distress 3221101222  doubt 3322332322  dreadful 0226303410
dull 2223222332  eager 5756665555  eagerly 4566666566  ease 5554656775
easily 6556565655  easy 5865575765  engaged 5566546785  engagement 4478865666
enjoyment 6767676777  escape 6445454744  evil 0001103010  excellent 6777767668
excite 5665648876  failed 2132231102  fair 4556855555  favour 6567666566
fear 2121232122  feared 2123121222  fears 2212233232  feeling 4447464444
fine 5456555544  fire 2404233404  fit 6564865555  fond 6767557655  forced 3211322222
forget 3333433423  fought 2323433331  fresh 6655556555  friend 6676775666
friends 7766656666  friendship 5665766666  furious 1110005212  gained 6565576565
gentle 6665676656  gently 6665577657  giving 5575567464  glad 7656665766
gladly 6656556555  god 4445474748  good 6557686655  gracefully 7765766677
grateful 6756667566  gratitude 6675676776  great 6888777767  greater 6565666546
greatest 7877788668  grey 4454445444  grief 2312112222  growing 4556544554
guilty 3221223223  hand 6657678566  handsome 6666678566  happily 8568676677
happiness 6777766767  happy 6668687866  hard 4343452326  hate 0100222231
hated 1101211001  heart 7787867877  help 7656567555  heroine 4688777767
honour 6766678876  hope 7665665666  hoped 5655665666  hopeful 6557776767
hopes 5756665666  huge 4664466656  hugged 6666755646  humour 5668655776
hurt 1122012322  ignored 2323323333  ill 2423022232  importance 6567565465
important 4446544764  improved 7567675666  indifference 4344452444
insulted 2222122211  intelligence 7665777664  interest 6775578564
interesting 5657555766  jealous 2212123322  join 6656545645  joy 7678777577
joyful 7677678777  justice 7656768865  kind 6677677657  kindly 6667666667
kindness 6577656666  kissed 6855567455  laughed 6675656676  laughter 6766667576
leave 5334436343  liar 3211221311  like 5666575555  liked 6656657566
lonely 3223333222  lose 3232322222  loss 3233322333  lost 3323322333  love 7777777887
loved 7786687677  lovely 6777678767  low 3333323243  lucky 6555765667
matter 4444444544  matters 4444544444  miserable 2211013251  misery 2211211111
miss 3333236623  mistaken 2322333133  mocked 2232212553  natural 6445576675
nervously 3333328333  nice 7556657566  number 4454464444  odd 3323332323
opportunity 6666756556  pain 2122222220  painful 2331033222  party 7665765555
pay 4414444434  peace 7658678576  perfect 6867867676  perfectly 7887777777
pity 2233333333  play 6455565855  pleasant 6777656676  pleased 6666556766
pleasing 6766668856  pleasure 8876676577  poor 2230242022  praise 6877657767
praised 7666675766  pray 4765553756  pretty 7666756667  prevent 2544363644
prevented 4346444444  pride 4666753665  promise 5455665566  promised 6554466766
proud 6766666666  proudly 6677677767  reach 4444444544  reached 5444554544
ready 6554665558  regret 2222313322  respect 6666776656  rich 6768876666
rotten 2131131212  rudely 1213202232  ruined 1223221132  sad 3322121203
sadly 2223212332  safe 6566666666  satisfaction 5768655566  satisfied 6665567566
screamed 2123322354  secure 5655655665  serious 4343344444  severe 1205216331
shame 2221132222  share 4556665546  sick 3212201222  smile 6555667555
smiled 7676567876  smiling 6555678585  sorrow 2223212011  sorry 3432338533
spirit 4456754444  spite 2212120312  splendid 8678667578  stable 5664565564
stopped 3333233344  strange 4334243243  strength 5667677666  strong 7677557667
struck 3234223353  suffered 1231213122  suffering 2312321131  superior 6757747787
support 5556577755  sure 5575565555  surprise 4646745564  surprised 6444466564
sweet 5666776566  temper 3222222232  tenderness 6656666566  terrible 3123132202
thank 7554556756  thanked 5755558865  thief 1222202212  threatened 2212232132
tired 2321213322  trouble 2233123232  true 6554587585  truly 8756655566
trust 4877856657  trusted 7665856675  truth 6545547755  ugly 1232031221
useful 6556686566  vain 2321233222  value 6745574646  vanity 2114236633
want 4245636544  warm 5445565654  warmly 6565656567  welcome 5765666676
welcomed 5566565655  well 4464645576  wept 1211314331  wish 6554657685
wishes 4454546464  wishing 6554445565  won 7866688666  wonderful 6776866786
worried 3333321433  worse 2231023222  worth 4455655744  wrong 2222003332
yes 5665557756
"""
RATINGS = {word: np.array([int(digit) - 4 for digit in digits])
           for word, digits in re.findall(r"(\S+) (\d{10})", RATINGS)}
