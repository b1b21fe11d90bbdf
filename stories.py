"""
stories.py: a small world to write about, and the people who judge what is written.

Paper: Ziegler et al. 2019, section 3.1 (BookCorpus, here passages) and 2.4 (Scale AI's labelers).
In:  a random.Random                   Out: passages of 6 to 12 sentences, and labelers of any text
Not here: anything that learns. The only randomness is that of the generator passed in.

A passage keeps two people, a place, a thing, an animal, a tree, a mood and a liking for detail.
The two people differ in gender, so that every pronoun has one referent and a reader can check it.
"""

import random
import re

import numpy as np

# --- the world ------------------------------------------------------------------------------------
# A slot {in braces} is filled by the scene: a person, a thing kept for the passage, or a fresh word
# of the pool of that name. {d} is a descriptive adjective and {ly} an adverb, there or not as
# the passage is more or less detailed. Upper case begins a sentence.
#   N m M: the subject, Mara or a pronoun (She, she, her)    n nm ns: she, her, her
#   O o: the other one, Tom or a pronoun (he, him)           om os: him, his

FRAMES = {tone: frames.replace("\n", "|").strip("|").split("|") for tone, frames in dict(opening="""
{N} lived near the {place} with a {d}{animal}|{N} came to the {place} one {d}{time}
One {time} {N} stood by the {d}{place}|In the {place} {N} was busy with a {d}{thing}""",

good="""
{N} smiled at {o} and gave {om} a {nice} {d}{item}
{N} laughed and danced across the {place} with {o}
{N} felt {good} when {O} praised {ns} {d}{thing}|It was a {nice} morning and {m} was {good}
{N} {kindly} shared the {d}{food} with {o}|{N} hugged {o} and thanked {om} for the {nice} {food}
The {d}{animal} was {good} to see {M} again|{N} kissed {o} under the {d}{tree}
{N} loved the {d}{thing} and the {joy} it brought
There was {joy} and {joy} in the {place} that {time}
{N} won the {nice} {item} and shouted for joy|{N} found the {d}{item} safe behind the {spot}
{N} sang a {nice} song for {o} in the {place}|{N} knew that {O} trusted {nm} and felt {good}
{N} told {o} a funny story and they both laughed
The party in the {place} was {nice} and full of {joy}|{N} said that the {d}{food} was {nice}
{N} promised to help {o} paint the {d}{spot}|{N} dreamed of {joy} and woke up {good}
{N} thanked {o} for {os} {joy} and {joy}|{N} {praised} {o} with {joy} in {ns} eyes
{N} {praised} {o} and called {om} a true friend|{N} was not {bad} any more
{N} never felt {bad} beside {o}|The {d}{tree} looked {nice} to {M}
{N} and {o} celebrated with {d}{food} and {d}{food}
{N} {praised} the {animal} and {kindly} fed it|Everyone in the {place} {praised} {M}
{N} wrote a {nice} letter to {o} full of {joy}
A {d}rainbow over the {place} filled {M} with {joy}|{N} {kindly} {praised} {o} before supper
The {nice} music from the {place} made {M} {good}|{N} was {good} and {good} all {time}
{N} fixed the {d}{item} and {o} was {good}|What a {nice} {d}{thing} it was
{N} had {joy} enough for the whole {place}|{N} thought that {O} was {nice} and {good}
{N} {kindly} carried the {d}{animal} home|The {role} was {nice} and {kindly} offered {M} {food}""",

plain="""
{N} walked{ly} to the {place} with the {d}{thing}|{N} put the {d}{item} on the {d}{spot}
The {d}{animal} slept{ly} beside the {d}{spot}|{N} asked {o} about the {d}{item}
{N} opened the {d}{spot} and looked inside|{N} and {o} sat{ly} under the {d}{tree}
A {d}wind moved{ly} through the {d}{tree}|{N} bought {d}{food} at the {place}
Rain fell{ly} on the {d}roof of the {place}|{N} counted the {d}{things} one by one
{N} followed the {d}{animal} around the {place}|{N} carried the {d}{item} back to {o}
The {d}light of the {d}{item} lay on the floor|{N} waited{ly} near the {d}{spot}
{N} cooked {d}{food} and set the table|{N} heard a {d}bell from the {place}
{N} wrapped the {d}{item} in {d}cloth|The road to the {place} was {adj} and {adj}
{N} showed the {d}{thing} to {o}|{N} mended the {d}{item} with {d}string
{N} picked a {d}leaf from the {d}{tree}|Snow lay{ly} on the {d}hills by the {place}
{N} turned{ly} and saw {o} by the {d}{spot}|The {animal} had {d}eyes and a {d}tail
{N} drew a {d}{animal} on {d}paper|{N} swept the floor of the {place}
{N} climbed the {d}stairs with the {thing}|{N} talked{ly} with {o} about the {animal}
A {d}{animal} crossed the {d}road|Behind the {place} grew a {d}{d}{tree}
{N} washed the {d}{item} in {d}water|{N} wore a {d}{d}{wear} to the {place}
The {d}{d}sky hung{ly} over the {place}|{N} kept the {d}{thing} under the bed
{N} rowed{ly} past the {d}{place}|The {d}smell of {d}{food} filled the room
{N} told {o} where the {d}{item} was|{N} hung {ns} {d}{wear} by the {spot}
The {d}{d}moon rose{ly} behind the {d}{tree}|{N} planted a {d}{tree} by the {place}
{N} traded the {d}{item} for {d}{food}|{N} woke early and fed the {animal}""",

bad="""
{N} cried alone behind the {d}{spot}|{N} lost the {d}{item} and felt {bad}
{N} {hurt} {o} and broke the {d}{item}|It was a {nasty} evening and {m} was {bad}
{N} {cruelly} threw the {nasty} {food} at {o}|{N} was {bad} and {bad} all {time}
A thief took the {d}{item} from {M}|The {animal} was sick and {m} was {bad}
There was {woe} and {woe} in the {place} that {time}|{N} said that the {d}{food} was {nasty}
{N} {hurt} {o} and called {om} a liar|{N} hated the {d}{thing} and the {woe} it brought
{N} was not {good} and did not smile|{N} had no {joy} left|{N} did not help {o} that {time}
The {nasty} smell of the {place} made {M} {bad}|{N} argued {cruelly} with {o} about the {thing}
{N} {hurt} the {animal} and it ran away in fear|{N} wept when {O} {hurt} {nm}
A fire ruined the {d}{spot} of the {place}|{N} {hurt} {o} with {woe} in {ns} voice
{N} dreamed of {woe} and woke up {bad}|{N} {cruelly} {hurt} {o} before supper
Everyone in the {place} {hurt} {M}|{N} wrote a {nasty} letter to {o} full of {woe}
The {d}{food} tasted {nasty} and {bad} tears fell|{N} failed to mend the {nasty} {item}
{N} feared the {nasty} {d}{place} in the dark|{N} blamed {o} for {os} {woe} and {woe}
The {nasty} noise from the {place} made {M} {bad}|{N} sat{ly} in the {place} with {ns} {woe}
{N} fought with {o} over the {nasty} {item}|What a {nasty} {d}{thing} it was
{N} fell on the {d}stairs and screamed in pain|{N} never felt {good} beside {o}
A {nasty} {d}storm filled {M} with {woe}|{N} thought that {O} was {nasty} and {bad}
{N} was too {bad} to eat the {d}{food}|The {role} was {nasty} and {cruelly} {hurt} {M}
{N} wept over the dead {d}{animal}|The {d}{tree} looked {nasty} to {M}""").items()}

POOLS = {name: words.split() for name, words in dict(
    woman="Mara Lucy Anna Nora Ivy Rosa Edith Clara Hanna Stella Greta Alma Ruth Vera",
    man="Tom Henry Oscar Peter Felix Hugo Simon Walter Jonas Emil Arthur Victor Otto Paul",
    role="""baker sailor teacher doctor farmer painter weaver miller gardener tailor nurse carpenter
        librarian shepherd cook clockmaker potter ferryman""",
    place="""harbor orchard market mill library garden kitchen chapel station lighthouse bakery
        meadow barn bridge inn workshop school cottage forest square castle stable""",
    item="""lantern letter basket violin clock ring kite map drum quilt kettle mirror candle book
        umbrella flute box painting key ladder teapot telescope compass saddle trumpet globe""",
    things="stones buttons coins feathers shells marbles chestnuts pebbles keys bottles jars nails",
    animal="dog cat goat gull horse crow hen fox donkey rabbit goose owl pony sparrow lamb pig",
    food="soup bread cheese tea porridge cake stew honey fish pie jam butter cider toast rice",
    spot="door window fence stove cupboard bench gate wall shelf chimney well cart desk fireplace",
    tree="oak willow pine birch maple elm cherry hedge rosebush vine",
    wear="coat scarf hat shawl apron cloak jacket dress sweater",
    time="morning evening day night afternoon winter summer autumn spring week",
    adj="""golden silver red blue green grey crimson purple yellow black white brown orange pink
        dusty silken sandy smooth rough glowing gleaming tiny round crooked pale dim misty salty
        smoky fragrant mossy crisp damp icy shimmering striped faded glossy heavy slender rusty
        woolly speckled muddy shadowy weathered ancient old huge thick soft earthy dark cold""",
    adv="slowly softly quietly silently lightly steadily faintly dimly loudly gracefully lazily",
    good="""happy glad proud cheerful merry joyful delighted hopeful calm brave grateful thankful
        lucky pleased excited relaxed peaceful eager confident playful carefree loved""",
    bad="""sad angry lonely miserable jealous scared tired ashamed worried upset nervous hopeless
        gloomy guilty hurt furious weary helpless desperate anxious heartbroken troubled bitter""",
    nice="""lovely beautiful wonderful sweet pretty fine perfect charming splendid delightful great
        good excellent nice marvelous brilliant elegant precious fresh warm bright""",
    nasty="""ugly awful terrible horrible dirty nasty broken bad cruel poor rotten dreadful
        worthless dull disgusting grim boring damaged vile stinking""",
    joy="""joy love hope peace laughter kindness friendship happiness comfort delight pride courage
        trust warmth beauty pleasure grace harmony gratitude""",
    woe="""grief fear pain anger sorrow shame trouble misery hate despair envy doubt danger
        loneliness worry sadness guilt agony gloom horror regret rage""",
    kindly="""happily gladly gently kindly cheerfully warmly proudly sweetly bravely calmly joyfully
        tenderly generously""",
    cruelly="""sadly angrily bitterly cruelly nervously rudely miserably hopelessly badly fearfully
        jealously weakly""",
    praised="""thanked hugged praised trusted loved welcomed comforted encouraged forgave admired
        rescued saved cheered supported protected""",
    hurt="""blamed mocked insulted hurt ignored cheated hated betrayed threatened abandoned rejected
        accused punished attacked annoyed deceived bullied frightened""",
).items()}


class Scene(dict):
    """What a passage keeps. A slot that is not kept is drawn afresh, no word twice running."""

    def __init__(self, rng):
        self.rng, self.last = rng, None
        self.mood = rng.uniform(-1, 1)       # -1 all goes badly, 1 all goes well
        self.detail = rng.random()           # the chance that a {d} or {ly} is there
        self["thing"] = self["item"]
        for slot in ("place", "animal", "tree"):
            self[slot] = self[slot]
        self.people = [(self["woman"], "she", "her", "her"), (self["man"], "he", "him", "his")]
        rng.shuffle(self.people)
        self.known, self.topic = set(), None

    def __missing__(self, slot):
        if slot == "d":
            return self["adj"] + " " if self.rng.random() < self.detail else ""
        if slot == "ly":
            return " " + self["adv"] if self.rng.random() < self.detail else ""
        while (word := self.rng.choice(POOLS[slot])) == self.last:
            pass
        self.last = word
        return word

    def mention(self, person):
        """A name, with the trade where the person is new to the reader, or None for a pronoun."""
        if person not in self.known:
            self.known.add(person)
            return f"{person[0]} the {self['role']}"
        # Names are kept common: copying one is what a small model is slowest to learn, and it
        # learns it within a minute only where there is much to copy.
        pronoun = self.rng.random() < (0.35 if person == self.topic else 0.1)
        return None if pronoun else person[0]

    def sentence(self, frame, subject, other):
        """The frame filled in, a capital at its front and a period at its end."""
        _, he, him, his = subject
        self.update(n=he, nm=him, ns=his, om=other[2], os=other[3])
        if re.search("{[NmM]}", frame):
            named = self.mention(subject)
            self.update(N=named or he, m=named or he, M=named or him)
            self.topic = subject
        if re.search("{[Oo]}", frame):
            named = self.mention(other)
            self.update(O=named or other[1], o=named or other[2])
        text = frame.format_map(self)
        return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text[0].upper() + text[1:]) + "."


def passage(rng):
    """A passage of 6 to 12 sentences. rng: a random.Random, the only source of chance."""
    scene = Scene(rng)
    lines, told = [], set()
    for _ in range(rng.randint(6, 12)):
        subject, other = scene.people if rng.random() < 0.7 else scene.people[::-1]
        weights = [np.exp(1.5 * scene.mood), 1.0, np.exp(-1.5 * scene.mood)]
        tone = rng.choices(["good", "plain", "bad"], weights)[0] if lines else "opening"
        while (frame := rng.choice(FRAMES[tone])) in told:
            pass
        told.add(frame)
        lines.append(scene.sentence(frame, subject, other))
        scene.mood = min(1, max(-1, scene.mood + rng.gauss(0, 0.3)))
    return " ".join(lines)


# --- the labelers ---------------------------------------------------------------------------------
# Ten people rated each word from -4 to 4, here as digits 0 to 8: numbers from the VADER lexicon
# (Hutto & Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
# Text", ICWSM 2014; MIT licence), for the words of the stories and the commonest of English novels.
# A word that nobody rated counts 0.

RATINGS = {word: np.array([int(c) - 4 for c in digits]) for word, digits in re.findall(
    r"(\S+) (\d{10})", """
abandoned 3312303113  accused 2326212235  admiral 4457766464  admiration 7557767777
admired 8666667756  advantage 5655645455  affected 3242446252  affection 7667857666
agitation 2353232352  agony 1320234133  agreeable 6565666666  agreed 5565565455  alarm 3322223522
allow 4445665564  alone 2333234334  anger 3212002300  angrily 2322232222  angry 2231320211
annoyed 1351332222  anxiety 2221731663  anxious 3233433333  argued 2233332223  ashamed 1112252032
assure 5555655666  attachment 6456755644  attacked 2722111022  awful 2211218111  bad 1201221222
badly 2123121232  beautiful 6767678877  beauty 7767886676  best 6887877777  betrayed 2111001121
better 6565576676  bitter 2223223222  bitterly 2233221221  blamed 2222122213  boring 3333323322
brave 6787576666  bravely 5766686667  bright 6656565776  brilliant 6776778677  broke 2222322322
broken 2222123122  bullied 0002200122  calm 5545676555  calmly 4457665565  care 6565667777
carefree 5566665567  celebrated 6776787757  certain 5464665555  certainly 7645754556
charming 7777776767  cheated 2022221222  cheered 6778656666  cheerful 7676668676
cheerfully 7666575757  clear 6554756864  comfort 5756556556  comfortable 5676677766
comforted 6664666666  confidence 7777566666  confident 5776757657  consent 4455565645
convinced 6556566657  courage 6756767756  cried 3132224232  cruel 2030302110  cruelly 1111112211
damaged 2223232212  danger 1321112320  dead 0030010210  dear 7766665256  dearest 5677667787
death 1001133011  deceived 5113322202  delight 6788767767  delighted 7767657666
delightful 8767776677  desire 5565775665  despair 6313151511  desperate 2325321135
determined 2576667555  difficulties 3233323333  dignity 4765656756  dirty 2333223111
disappointed 3122133211  disappointment 1303131221  disgusting 1210313032  distress 3221101222
doubt 3322332322  dreadful 0226303410  dull 2223222332  eager 5756665555  ease 5554656775
easy 5865575765  elegant 6665856766  encouraged 5666665555  engaged 5566546785
engagement 4478865666  enjoyment 6767676777  envy 2332333532  evil 0001103010
excellent 6777767668  excited 5565656556  failed 2132231102  fair 4556855555  favour 6567666566
fear 2121232122  feared 2123121222  fearfully 2223310212  feeling 4447464444  fine 5456555544
fire 2404233404  fond 6767557655  forced 3211322222  forgave 6656535666  forget 3333433423
fought 2323433331  fresh 6655556555  friend 6676775666  friends 7766656666  friendship 5665766666
frightened 2133221322  funny 7665665666  furious 1110005212  generously 7765655656
gently 6665577657  giving 5575567464  glad 7656665766  gladly 6656556555  gloom 0211212221
gloomy 6322235263  good 6557686655  grace 6566566666  gracefully 7765766677  grateful 6756667566
gratitude 6675676776  great 6888777767  greater 6565666546  greatest 7877788668  grey 4454445444
grief 2312112222  grim 2011221121  guilt 3163323233  guilty 3221223223  hand 6657678566
handsome 6666678566  happily 8568676677  happiness 6777766767  happy 6668687866
harmony 6666566655  hate 0100222231  hated 1101211001  heart 7787867877  heartbroken 0110110111
help 7656567555  helpless 2122213232  honour 6766678876  hope 7665665666  hoped 5655665666
hopeful 6557776767  hopeless 1111731122  hopelessly 1022322222  horrible 2212201122
horror 1300013212  huge 4664466656  hugged 6666755646  humour 5668655776  hurt 1122012322
ignored 2323323333  ill 2423022232  importance 6567565465  improved 7567675666
insulted 2222122211  interest 6775578564  interesting 5657555766  jealous 2212123322
jealously 3130223222  join 6656545645  joy 7678777577  joyful 7677678777  joyfully 6677667866
justice 7656768865  kind 6677677657  kindly 6667666667  kindness 6577656666  kissed 6855567455
laughed 6675656676  laughter 6766667576  leave 5334436343  liar 3211221311  like 5666575555
liked 6656657566  loneliness 2231223232  lonely 3223333222  loss 3233322333  lost 3323322333
love 7777777887  loved 7786687677  lovely 6777678767  low 3333323243  lucky 6555765667
marvelous 6676778787  matter 4444444544  matters 4444544444  merry 6866777765
miserable 2211013251  miserably 2311013251  misery 2211211111  miss 3333236623
mistaken 2322333133  mocked 2232212553  nasty 1320113201  natural 6445576675  nervous 3332233433
nervously 3333328333  nice 7556657566  odd 3323332323  opportunity 6666756556  pain 2122222220
painful 2331033222  party 7665765555  peace 7658678576  peaceful 8656667666  perfect 6867867676
perfectly 7887777777  pity 2233333333  play 6455565855  playful 8666555666  pleasant 6777656676
pleased 6666556766  pleasing 6766668856  pleasure 8876676577  poor 2230242022  praise 6877657767
praised 7666675766  pray 4765553756  precious 7777757767  pretty 7666756667  pride 4666753665
promise 5455665566  promised 6554466766  protected 5567666576  proud 6766666666
proudly 6677677767  punished 2232222212  rage 1221103211  reached 5444554544  ready 6554665558
regret 2222313322  rejected 1211222222  relaxed 6757775657  rescued 7662765856  respect 6666776656
rich 6768876666  rotten 2131131212  rudely 1213202232  ruined 1223221132  sad 3322121203
sadly 2223212332  sadness 2322222222  safe 6566666666  satisfaction 5768655566
satisfied 6665567566  saved 5666576656  scared 3321213222  screamed 2123322354  serious 4343344444
shame 2221132222  share 4556665546  shared 6665655555  sick 3212201222  smile 6555667555
smiled 7676567876  smiling 6555678585  sorrow 2223212011  sorry 3432338533  spirit 4456754444
spite 2212120312  splendid 8678667578  stable 5664565564  stinking 2021132311  stopped 3333233344
strange 4334243243  strength 5667677666  strong 7677557667  struck 3234223353
suffering 2312321131  supported 6565565555  sure 5575565555  surprise 4646745564
surprised 6444466564  sweet 5666776566  sweetly 5666665777  tears 4223322553  temper 3222222232
tenderly 6565765675  tenderness 6656666566  terrible 3123132202  thank 7554556756
thanked 5755558865  thankful 8667687766  thief 1222202212  threatened 2212232132  tired 2321213322
trouble 2233123232  troubled 2223212222  true 6554587585  trust 4877856657  trusted 7665856675
truth 6545547755  ugly 1232031221  upset 3322332222  vain 2321233222  value 6745574646
vanity 2114236633  vile 0200211120  want 4245636544  warm 5445565654  warmly 6565656567
warmth 6666566766  weakly 2222033332  weary 2321433245  welcomed 5566565655  well 4464645576
wept 1211314331  wish 6554657685  wishes 4454546464  wishing 6554445565  won 7866688666
wonderful 6776866786  worried 3333321433  worry 2131323222  worse 2231023222  worth 4455655744
worthless 1310313333  wrong 2222003332  yes 5665557756
""")}

NEGATIONS = set("not no never nor nobody nothing without cannot didn't wasn't don't".split())
DESCRIPTIVE = set(POOLS["adj"] + POOLS["adv"] + """
    bright warm fresh sweet sour bitter rainbow light shadow wind rain snow moon sky hills leaf
    smell noise music voice tail eyes cloth paper string water roof evening narrow low wild tall
    broad dry wet loud silent sharp gentle lofty dreary sunny cloudy clear gay shining
    rich""".split())


def words_of(text):
    return re.findall(r"[a-z']+|[.!?;]", text.lower())      # the marks end a sentence


def sentiment(text):
    """What each of the ten raters feels: the sum of their ratings of its words. text -> (10,).

    One of NEGATIONS turns the sign of the next three words of its sentence: "not very happy"."""
    total, turned = np.zeros(10), 0
    for word in words_of(text):
        if word in NEGATIONS:
            turned = 4
        elif word in ".!?;":
            turned = 0
        elif word in RATINGS:
            total += RATINGS[word] * (-1 if turned > 0 else 1)
        turned -= 1
    return total


def descriptiveness(text):
    """The number of sensory and descriptive words, on which all ten agree. text -> (10,)."""
    return np.full(10, float(sum(word in DESCRIPTIVE for word in words_of(text))))


# Luce's rule: P(k) ~ exp(score_k / temperature). One temperature a task, set once on samples of rho
# so that two labelers agree on the best of four as often as the paper's did, 38 % (table 9).
TASKS = {"sentiment": (sentiment, 5.6), "descriptiveness": (descriptiveness, 1.23)}


def choice_probabilities(task, questions, temperature=None):
    """P(labeler i likes option k best). questions: n lists of 4 texts -> (n, 10, 4).

    At temperature near 0 people choose by score alone, and what they disagree about is taste."""
    score, usual = TASKS[task]
    temperature = temperature or usual
    s = np.array([[score(text) for text in options] for options in questions]).transpose(0, 2, 1)
    p = np.exp((s - s.max(-1, keepdims=True)) / temperature)
    return p / p.sum(-1, keepdims=True)


def choose(p, rng, people=1):
    """The choices of different labelers, drawn for each question. p (n, 10, 4) -> (n, people)."""
    who = rng.permuted(np.tile(np.arange(p.shape[1]), (len(p), 1)), axis=1)[:, :people]
    p = np.take_along_axis(p, who[..., None], axis=1)                        # (n, people, 4)
    return (rng.random(p.shape[:2] + (1,)) > p.cumsum(-1)[..., :-1]).sum(-1)  # (n, people)


def agreement(p):
    """How often two different labelers like the same option best, in expectation. p (n, 10, 4)."""
    n = p.shape[1]
    same = (p.sum(1) ** 2).sum(-1) - (p ** 2).sum((1, 2))    # over all ordered pairs of people
    return float(same.mean() / (n * (n - 1)))


def limits(task, questions):
    """What no reward model can beat against these labelers, on these questions.

    best_accuracy: the most likely choice of a labeler drawn at random, which is exact.
    best_loss: softmax(mean score / temperature) at the temperature that suits it best, in nats."""
    p = choice_probabilities(task, questions).mean(1)                              # (n, 4)
    s = np.array([[TASKS[task][0](text).mean() for text in four] for four in questions])

    def loss(temperature):
        z = s / temperature
        return (np.logaddexp.reduce(z, axis=1) - (p * z).sum(1)).mean()
    return {"best_accuracy": float(p.max(1).mean()),
            "best_loss": float(min(loss(t) for t in np.geomspace(0.1, 100, 300)))}
