"""
checks.py: is a student's function right, and if not, which mistake is it?

    from checks import check
    check(gae)

A function is tried on worked examples, which can be redone on paper, and on random input,
where it must do what the project's own does; of a loss the gradient is compared, too. If
it does something else, and one of the mistakes below does just that, the answer is the
lesson of that mistake; if not, it is the example. When it is right, it takes the place of
the project's own: what is run after that runs on the student's.

In:  a function of an exercise        Out: one line that says what is right or wrong
Not here: the exercises themselves (source/)

The project's functions stand in gpt.py, reward.py and ppo.py (of two exercises, here), so
whoever wants to copy can. Calling them by their names is refused, to prevent mix-ups; a
check is there to teach, and does not find out who wrote what.
"""

import inspect
import json
import math
import sys
from pathlib import Path
from typing import Any, Callable, NamedTuple

HERE = sys.modules[__name__]
ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import torch
import torch.nn.functional as F

import gpt
import ppo
import reward
import rlhf


class Example(NamedTuple):
    words: str             # what is given, as on paper
    arguments: tuple
    wanted: Any            # tensors, in the form in which Exercise.run returns them


class Mistake(NamedTuple):
    function: Callable
    lesson: str


class Exercise(NamedTuple):
    ours: Callable
    examples: list         # of Example
    random: Callable       # () -> arguments, drawn from torch's generator
    mistakes: list         # of Mistake
    places: list           # (module, name): where the student's takes the place of ours
    run: Callable = None   # (function, *arguments) -> results; None: the function itself
    atol: float = 1e-4
    loss: bool = False     # compare the gradient of the first result by argument 0, too


# --- what a check does ------------------------------------------------------------------

def check(function):
    """Print whether the function is right. If it is, the project runs on it from here on;
    if not, on its own."""
    exercise = EXERCISES[function.__name__]
    restore(exercise)
    complaint = complaint_about(function, exercise)
    if complaint is not None:
        print(f"not yet: {complaint}")
        print("(Until it is right, the project's own runs below.)")
        return
    for module, name in exercise.places:
        setattr(module, name, function)
    where = [f"{module.__name__}.{name}" for module, name in exercise.places]
    verb = "is" if len(where) == 1 else "are"
    print(f"right. From here on {' and '.join(where)} {verb} yours.")


def restore(exercise):
    for module, name in exercise.places:
        setattr(module, name, exercise.ours)


def complaint_about(function, exercise):
    """What is wrong with the function, in words; None if nothing is."""
    if function is exercise.ours:
        return "this is the project's own function; write yours"
    cases = list(exercise.examples)
    for seed in range(3):
        torch.manual_seed(seed)
        arguments = exercise.random()
        wanted = result_of(exercise.ours, exercise, arguments)
        cases.append(Example("random input", arguments, wanted))
    for comparison in (compare, compare_gradients):
        for case in cases:
            complaint = comparison(function, exercise, case)
            if complaint is not None:
                return complaint
    return None


def compare(function, exercise, example):
    """None where the function gives what is wanted; or else what to say."""
    try:
        given = result_of(function, exercise, example.arguments)
    except Refused as e:
        return str(e)
    except Exception as e:
        lesson = lesson_of(function, exercise)
        return lesson or f"on {example.words} it stops with {type(e).__name__}: {e}"
    wanted = example.wanted
    if given is None:
        return "it returns nothing; write it first"
    if alike(given, wanted, exercise.atol):
        return None
    lesson = lesson_of(function, exercise)
    if lesson is not None:
        return lesson
    if count_of(given) != count_of(wanted):
        return f"it gives {count_of(given)} in place of {count_of(wanted)}"
    if shape_of(given) != shape_of(wanted):
        return (f"on {example.words} it gives the shape {shape_of(given)}, and "
                f"{shape_of(wanted)} is wanted")
    if example.words == "random input":
        shape = shape_of(example.arguments[0])
        return (f"on the examples it is right, but on random input of shape {shape} it "
                "differs from ours")
    return (f"for {example.words} it gives {numbers_of(given)}, and "
            f"{numbers_of(wanted)} is right")


NO_GRADIENT = ("the loss is right, but torch cannot differentiate it, so nothing would "
               "be learned: no detach, no numpy, no floats on the way to it")


def compare_gradients(function, exercise, example):
    """None, or what is wrong: a loss with the right value may teach the wrong thing."""
    if not exercise.loss:
        return None
    given = gradient_of(function, exercise, example.arguments)
    if given is None:
        return NO_GRADIENT
    wanted = gradient_of(exercise.ours, exercise, example.arguments)
    if alike(given, wanted, exercise.atol):
        return None
    message = f"on {example.words} the loss is right, but its gradient is not"
    if example.words == "random input":
        return message
    return f"{message}: {numbers_of(given)}, and {numbers_of(wanted)} is right"


def gradient_of(function, exercise, arguments):
    """Of the loss by the first argument; None where torch finds no way back."""
    first = arguments[0].clone().requires_grad_()
    try:
        result = result_of(function, exercise, (first, *arguments[1:]))
        loss = result[0] if isinstance(result, tuple | list) else result
        return torch.autograd.grad(loss, first)[0]
    except (RuntimeError, TypeError):
        return None


def lesson_of(function, exercise):
    """The lesson of the mistake that does the same as the function, everywhere. If none
    does, and there are two results, of the mistake that gives the same wrong one."""
    for mistake in exercise.mistakes:
        if same_everywhere(function, mistake.function, exercise):
            return mistake.lesson
    if not isinstance(exercise.examples[0].wanted, tuple):
        return None
    for place in range(len(exercise.examples[0].wanted)):
        if same_everywhere(function, exercise.ours, exercise, place):
            continue
        for mistake in exercise.mistakes:
            if same_everywhere(function, mistake.function, exercise, place):
                return mistake.lesson
    return None


def same_everywhere(function, other, exercise, place=None):
    """Do both give the same, or (with a place) the same result in this place?"""
    every = [example.arguments for example in exercise.examples]
    for seed in range(3):
        torch.manual_seed(seed)
        every.append(exercise.random())
    for arguments in every:
        results = []
        for candidate in (function, other):
            try:
                result = result_of(candidate, exercise, arguments)
                if place is not None:
                    result = result[place]
                results.append(result)
            except Exception as e:
                results.append(type(e).__name__)
        if not alike(*results, exercise.atol):
            return False
    return True


class Refused(Exception):
    """The student's function is not even tried further, for the reason given."""


def refuse(*arguments, **named):
    raise Refused("it calls the project's own function; write it yourself")


def result_of(function, exercise, arguments):
    """What the function gives, on copies of the arguments, while ours is out of reach."""
    copies = [a.clone() if torch.is_tensor(a) else a for a in arguments]
    if function is not exercise.ours:
        for module, name in exercise.places:
            setattr(module, name, refuse)
    try:
        torch.manual_seed(0)
        if exercise.run is None:
            result = function(*copies)
        else:
            result = exercise.run(function, *copies)
    finally:
        restore(exercise)
    for name, before, after in zip(names_of_arguments(exercise), arguments, copies):
        if torch.is_tensor(before) and not torch.equal(before, after):
            raise Refused(f"it changes its argument {name}; work on a copy")
    if isinstance(result, float | int):
        result = torch.tensor(float(result))
    return result


def names_of_arguments(exercise):
    if exercise.run is None:
        return list(inspect.signature(exercise.ours).parameters)
    return list(inspect.signature(exercise.run).parameters)[1:]


def alike(a, b, atol):
    """Whether two results are the same to atol: tensors, tuples of them, or errors."""
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(alike(x, y, atol) for x, y in zip(a, b))
    if not (torch.is_tensor(a) and torch.is_tensor(b)):
        return isinstance(a, str) and a == b               # two errors of one kind
    if a.shape != b.shape:
        return False
    return torch.allclose(a.double(), b.double(), rtol=1e-3, atol=atol, equal_nan=True)


def count_of(a):
    if isinstance(a, tuple | list):
        return f"{len(a)} results"
    return "one result"


def shape_of(a):
    if isinstance(a, tuple | list):
        return ", ".join(str(shape_of(x)) for x in a)
    return tuple(a.shape) if torch.is_tensor(a) else type(a).__name__


def numbers_of(a):
    """A result as a student should read it: lists, with three decimals."""
    if isinstance(a, tuple | list):
        return " and ".join(numbers_of(x) for x in a)
    if not torch.is_tensor(a):
        return repr(a)
    rounded = (a.detach().double() * 1000).round() / 1000 + 0.0
    return str(rounded.tolist())


def between(low, high):
    """A whole number, drawn anew for each random input."""
    return int(torch.randint(low, high + 1, ()))


def uniform_between(low, high):
    return low + (high - low) * float(torch.rand(()))


# --- session 1: one attention head ------------------------------------------------------

def scores_and_future(q, k):
    T, S = q.size(-2), k.size(-2)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
    return scores, torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)


def without_scale(q, k, v):
    scores, future = scores_and_future(q, k)
    scores = scores * math.sqrt(q.size(-1))
    return scores.masked_fill(future, -math.inf).softmax(-1) @ v


def scaled_by_size(q, k, v):
    scores, future = scores_and_future(q, k)
    scores = scores / math.sqrt(q.size(-1))
    return scores.masked_fill(future, -math.inf).softmax(-1) @ v


def sees_the_future(q, k, v):
    scores, _ = scores_and_future(q, k)
    return scores.softmax(-1) @ v


def blind_to_itself(q, k, v):
    scores, _ = scores_and_future(q, k)
    T, S = scores.shape[-2:]
    hidden = torch.ones(T, S, dtype=torch.bool).triu(S - T)
    return scores.masked_fill(hidden, -math.inf).softmax(-1) @ v


def masked_with_zero(q, k, v):
    scores, future = scores_and_future(q, k)
    return scores.masked_fill(future, 0.0).softmax(-1) @ v


def masked_after_softmax(q, k, v):
    scores, future = scores_and_future(q, k)
    return scores.softmax(-1).masked_fill(future, 0.0) @ v


def as_if_from_the_first(q, k, v):
    scores, _ = scores_and_future(q, k)
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1) @ v


def softmax_over_those_who_ask(q, k, v):
    scores, future = scores_and_future(q, k)
    return scores.masked_fill(future, -math.inf).softmax(-2) @ v


def random_attention():
    T, S = [(4, 4), (2, 5), (1, 3)][int(torch.randint(3, ()))]
    B, D = between(1, 3), between(4, 9)
    q = torch.randn(B, 3, T, D)
    k, v = torch.randn(2, B, 3, S, D).unbind(0)
    return 2 * q, 2 * k, v


ATTENTION = Exercise(
    ours=gpt.attention,
    examples=[
        Example("two tokens with q = k = (2, 0, 0, 0), v = 1 and 3",
                (torch.tensor([[[[2.0, 0, 0, 0], [2.0, 0, 0, 0]]]]),
                 torch.tensor([[[[2.0, 0, 0, 0], [2.0, 0, 0, 0]]]]),
                 torch.tensor([[[[1.0], [3.0]]]])),
                torch.tensor([[[[1.0], [2.0]]]])),
        Example("a token with q = 2, keys 0 and (log 3) / 2, v = 0 and 4",
                (torch.tensor([[[[2.0]]]]),
                 torch.tensor([[[[0.0], [math.log(3) / 2]]]]),
                 torch.tensor([[[[0.0], [4.0]]]])),
                torch.tensor([[[[3.0]]]]))],
    random=random_attention,
    mistakes=[
        Mistake(without_scale, "the scores are not divided by sqrt(D). A sum of D "
                "products grows like sqrt(D), and softmax would become all or nothing"),
        Mistake(scaled_by_size, "the scores are divided by D; it is its square root by "
                "which a sum of D products grows"),
        Mistake(sees_the_future, "no mask: a token sees what comes after it, and could "
                "copy the answer instead of predicting it"),
        Mistake(blind_to_itself, "the mask is one too wide: a token must see itself, "
                "and the first one would see nothing at all (nan)"),
        Mistake(masked_with_zero, "a masked score of 0 still has the weight exp(0) = 1. "
                "What has no weight has the score -inf"),
        Mistake(masked_after_softmax, "masked after softmax: the future has had its "
                "share of the sum, so the weights left add up to less than 1"),
        Mistake(as_if_from_the_first, "right where T = S. With a cache the T tokens "
                "that ask are the last of S, so row t is token S - T + t"),
        Mistake(softmax_over_those_who_ask, "softmax over the wrong axis: each token "
                "that asks shares out a weight of 1 over those that answer, the last "
                "axis"),
    ],
    places=[(gpt, "attention")])


# --- session 1: draw a token ------------------------------------------------------------

DRAWS = 20_000


def frequencies(function, p):
    """How often each token is drawn, (V,), for probabilities p (V,)."""
    logprobs = p.log().expand(DRAWS, -1)
    token = function(logprobs)
    if token is None:
        return None
    if token.shape != (DRAWS, 1):
        return token                                       # complained of by its shape
    return torch.bincount(token[:, 0].clamp(min=0), minlength=len(p))[:10] / DRAWS


def greedy(logprobs):
    return logprobs.argmax(-1, keepdim=True)


def uniform(logprobs):
    return torch.randint(logprobs.size(1), (len(logprobs), 1))


def by_logprobs(logprobs):
    return torch.multinomial(-logprobs, 1)


def softmax_of_probabilities(logprobs):
    return torch.multinomial(logprobs.exp().softmax(-1), 1)


def one_too_far(logprobs):
    token = torch.multinomial(logprobs.exp(), 1) + 1
    return token.clamp(max=logprobs.size(1) - 1)


def one_number_for_all(logprobs):
    cumulative = logprobs.exp().cumsum(-1)
    u = torch.rand(()).expand(len(logprobs), 1)
    return torch.searchsorted(cumulative, u.contiguous(), right=True)


def without_the_sum(logprobs):
    u = torch.rand(len(logprobs), 1)
    return (logprobs.exp() < u).sum(-1, keepdim=True).clamp(max=logprobs.size(1) - 1)


def sharpened(logprobs):
    return torch.multinomial((2 * logprobs).softmax(-1), 1)


SAMPLE = Exercise(
    ours=gpt.sample_next_token,
    examples=[Example(f"the probabilities .5, .3, .2, in {DRAWS:,} draws",
                      (torch.tensor([0.5, 0.3, 0.2]),), torch.tensor([0.5, 0.3, 0.2]))],
    random=lambda: (torch.randn(between(4, 8)).softmax(0),),
    mistakes=[
        Mistake(greedy, "always the likeliest token. That is not a sample of the policy: "
                "nothing new is tried, and KL is of a distribution nobody draws from"),
        Mistake(uniform, "all tokens come equally often; the probabilities are not used"),
        Mistake(by_logprobs, "logprobs are logarithms; take their exponentials"),
        Mistake(softmax_of_probabilities, "softmax of probabilities flattens them: exp "
                "of logprobs is the distribution already"),
        Mistake(one_too_far, "one too far: u below the first cumulative probability "
                "means token 0"),
        Mistake(one_number_for_all, "one random number for the whole batch: every row "
                "would draw at the same u. Each row needs its own"),
        Mistake(without_the_sum, "u is compared with the probabilities; it must be "
                "compared with their cumulative sum, which cuts 0 to 1 into parts of "
                "their sizes"),
        Mistake(sharpened, "this draws from p squared, as at temperature 1/2. The "
                "temperature is in the logprobs already"),
    ],
    places=[(gpt, "sample_next_token")],
    run=frequencies, atol=0.015)


# --- session 1: the log-probability of a response ---------------------------------------

def score_response_ours(logits, query, response, temperature):
    Q = query.size(1)
    logprobs = F.log_softmax(logits[:, Q - 1:-1] / temperature, dim=-1)
    return logprobs.gather(-1, response[..., None])[..., 0].sum(dim=1)


score_response = score_response_ours


def score_with(logits, response, columns, temperature=1.0):
    logprobs = F.log_softmax(logits[:, columns] / temperature, dim=-1)
    return logprobs.gather(-1, response[..., None])[..., 0]


def no_temperature(logits, query, response, temperature):
    return score_with(logits, response, slice(query.size(1) - 1, -1)).sum(1)


def column_of_the_token(logits, query, response, temperature):
    return score_with(logits, response, slice(query.size(1), None), temperature).sum(1)


def mean_over_tokens(logits, query, response, temperature):
    return score_with(logits, response, slice(query.size(1) - 1, -1), temperature).mean(1)


def temperature_after_softmax(logits, query, response, temperature):
    return score_with(logits, response, slice(query.size(1) - 1, -1)).sum(1) / temperature


def logits_alone(logits, query, response, temperature):
    found = logits[:, query.size(1) - 1:-1] / temperature
    return found.gather(-1, response[..., None])[..., 0].sum(1)


def one_for_each_token(logits, query, response, temperature):
    return score_with(logits, response, slice(query.size(1) - 1, -1), temperature)


def probability(logits, query, response, temperature):
    return score_response_ours(logits, query, response, temperature).exp()


def times_temperature(logits, query, response, temperature):
    columns = slice(query.size(1) - 1, -1)
    return score_with(logits, response, columns, 1 / temperature).sum(1)


def random_scoring():
    B, Q, T, V = between(2, 5), between(2, 4), between(3, 6), 7
    query, response = torch.randint(V, (B, Q)), torch.randint(V, (B, T))
    temperature = uniform_between(0.5, 0.9)
    return 3 * torch.randn(B, Q + T, V), query, response, temperature


# One row: column 1 predicts the only token of the response; column 2 predicts what nobody
# has drawn.
SCORE_RESPONSE = Exercise(
    ours=score_response_ours,
    examples=[Example(
        "a query of 2 tokens, y = (1), logits 0 and log 3 at column 1, temperature 1",
        (torch.tensor([[[5.0, 0.0], [0.0, math.log(3)], [9.0, 0.0]]]),
         torch.tensor([[0, 0]]), torch.tensor([[1]]), 1.0),
        torch.tensor([math.log(3 / 4)]))],
    random=random_scoring,
    mistakes=[
        Mistake(no_temperature, "no temperature. The response was drawn from the logits "
                "divided by it, and is to be scored under what it was drawn from"),
        Mistake(column_of_the_token, "off by one: column t predicts token t + 1, so the "
                "first token of y is predicted by the last column of the query"),
        Mistake(mean_over_tokens, "the mean over the tokens: log of a product is a sum. "
                "With the mean, a long response would cost no more KL than a short one"),
        Mistake(temperature_after_softmax, "the temperature divides the logits, before "
                "softmax; after it the probabilities no longer add up to 1"),
        Mistake(logits_alone, "logits are not log-probabilities: log_softmax is missing"),
        Mistake(one_for_each_token, "one number for each token; a response is one "
                "event, so add its tokens up"),
        Mistake(probability, "the probability itself. Its logarithm is wanted: the "
                "probability of a long text is too small for float32"),
        Mistake(times_temperature, "the logits are multiplied by the temperature; below "
                "1 it makes the likely likelier, so divide"),
    ],
    places=[(HERE, "score_response")])


# --- session 2: eq. 1 -------------------------------------------------------------------

def not_negated(r, b):
    return -reward_loss(r, b)


def reward_loss(r, b):
    return (r.logsumexp(dim=1) - r.gather(1, b[:, None])[:, 0]).mean()


def sum_over_questions(r, b):
    return reward_loss(r, b) * len(b)


def counted_from_one(r, b):
    return reward_loss(r, (b - 1) % r.size(1))


def without_the_rest(r, b):
    return -r.gather(1, b[:, None]).mean()


def mean_inside_the_log(r, b):
    return reward_loss(r, b) - math.log(r.size(1))


def softmax_twice(r, b):
    return F.cross_entropy(r.softmax(dim=1), b)


def the_other_three(r, b):
    chosen = r.gather(1, b[:, None])[:, 0]
    others = r.masked_fill(F.one_hot(b, r.size(1)).bool(), -math.inf)
    return (others.logsumexp(dim=1) - chosen).mean()


def columns_of_every_row(r, b):
    return (r.logsumexp(dim=1) - r[:, b]).mean()


ONE_OF_EACH_ROW = ("`{0}[:, b]` takes these columns of every row. Each row has its own: "
                   "`{0}.gather(1, b[:, None])`")


def pairs_against_the_mean(r, b):
    chosen = r.gather(1, b[:, None])[:, 0]
    mean = (r.sum(dim=1) - chosen) / (r.size(1) - 1)
    return F.softplus(mean - chosen).mean()


def overflows(r, b):
    chosen = r.gather(1, b[:, None])[:, 0]
    return -(chosen.exp() / r.exp().sum(dim=1)).log().mean()


def probability_of_the_choice(r, b):
    return -r.softmax(dim=1).gather(1, b[:, None]).mean()


def random_choices():
    N = between(3, 7)
    return 2 * torch.randn(N, 4), torch.randint(4, (N,))


BEST_OF_FOUR = Exercise(
    ours=reward.best_of_four_loss,
    examples=[
        Example("r = (0, 0, 0, 0) and any b", (torch.zeros(1, 4), torch.tensor([2])),
                torch.tensor(math.log(4))),
        Example("r = (log 3, 0, 0, 0) twice, b = 0 and 1",
                (torch.tensor([[math.log(3), 0, 0, 0]] * 2), torch.tensor([0, 1])),
                torch.tensor((math.log(2) + math.log(6)) / 2)),
        Example("r = (1000, 0, 0, 0), b = 1",
                (torch.tensor([[1000.0, 0, 0, 0]]), torch.tensor([1])),
                torch.tensor(1000.0))],
    random=random_choices,
    mistakes=[
        Mistake(not_negated, "the sign: eq. 1 as printed is a log-likelihood, which "
                "grows. A loss must fall as r explains the choices, so negate it"),
        Mistake(sum_over_questions, "a sum over the questions; the expectation is a "
                "mean. With the sum, the step would grow with the batch"),
        Mistake(counted_from_one, "off by one: b counts from 0"),
        Mistake(without_the_rest, "only r of the chosen one. Then all rewards could grow "
                "together for ever: what counts is the chosen one beside all four"),
        Mistake(mean_inside_the_log, "a mean inside the logarithm: eq. 1 has the sum of "
                "the four exponentials, so four equal rewards cost log 4, not 0"),
        Mistake(softmax_twice, "softmax twice: cross_entropy takes scores, not "
                "probabilities"),
        Mistake(the_other_three, "the sum is over all four, the chosen one included. "
                "Without it the loss has no lower end"),
        Mistake(columns_of_every_row, ONE_OF_EACH_ROW.format("r")),
        Mistake(pairs_against_the_mean, "the chosen one against the mean of the others "
                "is a loss for pairs. Eq. 1 has each of the four in its sum"),
        Mistake(overflows, "exp(1000) is infinite in float32. logsumexp (or log_softmax) "
                "subtracts the largest score first"),
        Mistake(probability_of_the_choice, "the logarithm is missing: this is minus the "
                "probability of the choice, whose gradient dies where r is most wrong"),
    ],
    places=[(reward, "best_of_four_loss")], loss=True)


# --- session 2: normalization -----------------------------------------------------------

class StandInReward:
    """As much of a RewardModel as normalize needs. Its head's output is its tokens'."""

    def __init__(self, gain, bias):
        self.gain = torch.nn.Parameter(torch.tensor(float(gain)))
        self.bias = torch.nn.Parameter(torch.tensor(float(bias)))
        self.trunk, self.head = None, None

    def unnormalized(self, tokens, lengths):
        return tokens[torch.arange(len(tokens)), lengths - 1].float()

    def __call__(self, tokens, lengths):
        return self.gain * self.unnormalized(tokens, lengths) + self.bias

    forward = __call__


def gain_and_bias(function, tokens, lengths):
    """After one call and after a second: gain, bias, gain, bias."""
    r = StandInReward(gain=2.0, bias=-3.0)
    found = []
    for _ in range(2):
        function(r, tokens, lengths)
        found += [r.gain.detach().clone(), r.bias.detach().clone()]
    if found[0] == 2 and found[1] == -3:
        raise Refused("it leaves r.gain and r.bias as they are")
    return torch.stack(found).float()


def head_scores(r, tokens, lengths):
    with torch.no_grad():
        return r.unnormalized(tokens, lengths)


def set_to(r, gain, bias):
    with torch.no_grad():
        r.gain.copy_(gain)
        r.bias.copy_(bias)


def multiplied_by_std(r, tokens, lengths):
    scores = head_scores(r, tokens, lengths)
    set_to(r, scores.std(unbiased=False), -scores.mean() * scores.std(unbiased=False))


def divided_by_variance(r, tokens, lengths):
    scores = head_scores(r, tokens, lengths)
    gain = 1 / scores.var(unbiased=False)
    set_to(r, gain, -scores.mean() * gain)


def bias_without_gain(r, tokens, lengths):
    scores = head_scores(r, tokens, lengths)
    set_to(r, 1 / scores.std(unbiased=False), -scores.mean())


def bias_of_the_wrong_sign(r, tokens, lengths):
    scores = head_scores(r, tokens, lengths)
    gain = 1 / scores.std(unbiased=False)
    set_to(r, gain, scores.mean() * gain)


def measured_after_the_gain(r, tokens, lengths):
    with torch.no_grad():
        scores = r(tokens, lengths)
    gain = 1 / scores.std(unbiased=False)
    set_to(r, gain, -scores.mean() * gain)


def only_shifted(r, tokens, lengths):
    set_to(r, torch.tensor(1.0), -head_scores(r, tokens, lengths).mean())


def only_scaled(r, tokens, lengths):
    set_to(r, 1 / head_scores(r, tokens, lengths).std(unbiased=False), torch.tensor(0.0))


def read_at_the_padded_end(r, tokens, lengths):
    scores = head_scores(r, tokens, torch.full_like(lengths, tokens.size(1)))
    gain = 1 / scores.std(unbiased=False)
    set_to(r, gain, -scores.mean() * gain)


def random_samples():
    return torch.randint(1, 60, (2000, 4)), torch.randint(1, 5, (2000,))


NORMALIZE = Exercise(
    ours=reward.normalize,
    examples=[Example("1,000 times the outputs 3 and 7 of the head (mean 5, deviation 2)",
                      (torch.tensor([[3, 0], [0, 7]] * 1000),
                       torch.tensor([1, 2] * 1000)),
                      torch.tensor([0.5, -2.5, 0.5, -2.5]))],
    random=random_samples,
    mistakes=[
        Mistake(multiplied_by_std, "the gain multiplies, so it must be one over the "
                "deviation"),
        Mistake(divided_by_variance, "one over the variance; the deviation, its square "
                "root, has the unit of the scores"),
        Mistake(bias_without_gain, "the bias is added after the gain: so the mean, too, "
                "must be multiplied by the gain"),
        Mistake(bias_of_the_wrong_sign, "the sign of the bias: it must take the mean "
                "away"),
        Mistake(measured_after_the_gain, "this measures r with the gain and bias it has "
                "now. A second call would undo the first; measure the head's own "
                "output"),
        Mistake(only_shifted, "the mean is 0 now, the variance is not 1. Without a "
                "known scale beta, the price of a nat, means nothing"),
        Mistake(only_scaled, "the variance is 1 now, the mean is not 0. Then a response "
                "without a period, paid -1, might be the best there is"),
        Mistake(read_at_the_padded_end, "read at the padded end; the score stands at "
                "the last real token, which `lengths` tells"),
    ],
    places=[(reward, "normalize"), (rlhf, "normalize")],
    run=gain_and_bias, atol=1e-3)


# --- session 3: eq. 2 -------------------------------------------------------------------

def paid(score, logprobs, ref_logprobs, beta, mask, last):
    rewards = -beta * (logprobs - ref_logprobs) * mask
    rewards[torch.arange(len(score)), last] += score
    return rewards


def last_of(mask):
    return mask.sum(dim=1) - 1


def kl_with_the_wrong_sign(score, logprobs, ref_logprobs, beta, mask):
    return paid(score, logprobs, ref_logprobs, -beta, mask, last_of(mask))


def score_at_the_last_column(score, logprobs, ref_logprobs, beta, mask):
    return paid(score, logprobs, ref_logprobs, beta, mask,
                torch.full((len(score),), mask.size(1) - 1))


def score_one_too_late(score, logprobs, ref_logprobs, beta, mask):
    last = mask.sum(dim=1).clamp(max=mask.size(1) - 1)
    return paid(score, logprobs, ref_logprobs, beta, mask, last)


def score_beyond_the_tensor(score, logprobs, ref_logprobs, beta, mask):
    return paid(score, logprobs, ref_logprobs, beta, mask, mask.sum(dim=1))


def score_masked_away(score, logprobs, ref_logprobs, beta, mask):
    return score_at_the_last_column(score, logprobs, ref_logprobs, beta, mask) * mask


def score_in_place_of_the_price(score, logprobs, ref_logprobs, beta, mask):
    rewards = -beta * (logprobs - ref_logprobs) * mask
    rewards[torch.arange(len(score)), last_of(mask)] = score
    return rewards


def score_for_every_token(score, logprobs, ref_logprobs, beta, mask):
    return (score[:, None] - beta * (logprobs - ref_logprobs)) * mask


def score_in_every_row(score, logprobs, ref_logprobs, beta, mask):
    rewards = -beta * (logprobs - ref_logprobs) * mask
    rewards[:, last_of(mask)] += score
    return rewards


def score_in_every_real_row(score, logprobs, ref_logprobs, beta, mask):
    return score_in_every_row(score, logprobs, ref_logprobs, beta, mask) * mask


def paid_after_the_end(score, logprobs, ref_logprobs, beta, mask):
    return paid(score, logprobs, ref_logprobs, beta, torch.ones_like(mask), last_of(mask))


def kl_all_at_the_end(score, logprobs, ref_logprobs, beta, mask):
    kl = ((logprobs - ref_logprobs) * mask).sum(dim=1)
    none = torch.zeros_like(logprobs)
    return paid(score - beta * kl, none, none, beta, mask, last_of(mask))


def no_price(score, logprobs, ref_logprobs, beta, mask):
    return paid(score, logprobs, ref_logprobs, 1.0, mask, last_of(mask))


def mean_of_the_kl(score, logprobs, ref_logprobs, beta, mask):
    share = beta / mask.sum(dim=1, keepdim=True)
    return paid(score, logprobs, ref_logprobs, share, mask, last_of(mask))


def score_is_priced_too(score, logprobs, ref_logprobs, beta, mask):
    return paid(beta * score, logprobs, ref_logprobs, beta, mask, last_of(mask))


ROWS_AND_COLUMNS = ("`rewards[:, last]` takes these columns of every row. Each row has "
                    "its own: `rewards[torch.arange(B), last]`")


ONE_TOO_LATE = ("off by one: the mask has `length` tokens, the last at length - 1. One "
                "later the score is where no token is trained")


def random_episodes():
    """Arguments of token_rewards: score (B,), log-probabilities (B, T) of pi and of rho,
    beta, response_mask (B, T)."""
    B, T = between(3, 6), between(5, 8)
    length = torch.randint(1, T + 1, (B,))
    length[0] = T - 2
    length[1] = T
    beta = uniform_between(0.1, 0.8)
    return (torch.randn(B), -torch.rand(B, T), -torch.rand(B, T), beta,
            ppo.mask_before(length, T))


TOKEN_REWARDS = Exercise(
    ours=ppo.token_rewards,
    examples=[Example(
        "r = 1, log pi = (-.5, -1, -1, -3), log rho = (-1.5, -3, -1, -9), beta = .5, an "
        "end after three tokens",
        (torch.tensor([1.0]), torch.tensor([[-0.5, -1, -1, -3]]),
         torch.tensor([[-1.5, -3, -1, -9]]), 0.5,
         torch.tensor([[True, True, True, False]])),
        torch.tensor([[-0.5, -1.0, 1.0, 0.0]])),
        Example(
            "two responses, r = 1 and 5, log pi = log rho, ends after one token and two",
            (torch.tensor([1.0, 5.0]), -torch.ones(2, 3), -torch.ones(2, 3), 0.5,
             torch.tensor([[True, False, False], [True, True, False]])),
            torch.tensor([[1.0, 0.0, 0.0], [0.0, 5.0, 0.0]]))],
    random=random_episodes,
    mistakes=[
        Mistake(kl_with_the_wrong_sign, "the sign of the KL: this pays pi for leaving "
                "rho. Eq. 2 subtracts beta times (log pi - log rho)"),
        Mistake(score_at_the_last_column, "the score is at the last column of the "
                "tensor; it belongs to the last token before the end, which the mask "
                "tells"),
        Mistake(score_masked_away, "the score is put at the last column, and the mask "
                "takes it away again wherever the response ends earlier"),
        Mistake(score_one_too_late, ONE_TOO_LATE),
        Mistake(score_beyond_the_tensor, ONE_TOO_LATE),
        Mistake(score_in_place_of_the_price, "`=` overwrites what the last token pays; "
                "`+=` adds the score to it"),
        Mistake(score_for_every_token, "every token gets the whole score, so a response "
                "of 20 tokens is paid 20 times. r is a reward of the response, and "
                "comes once"),
        Mistake(score_in_every_row, ROWS_AND_COLUMNS),
        Mistake(score_in_every_real_row, ROWS_AND_COLUMNS),
        Mistake(paid_after_the_end, "tokens after the end pay too. Nobody sees them; "
                "here they are not part of y (the released code has them pay)"),
        Mistake(kl_all_at_the_end, "the sum is right, but all of the KL is paid at the "
                "end. Each token should pay for itself, so that it is known which one "
                "cost"),
        Mistake(no_price, "beta is missing: a nat costs beta, not 1"),
        Mistake(mean_of_the_kl, "the KL is divided by the length. Eq. 2 has the sum: "
                "log pi(y|x) is a sum over tokens"),
        Mistake(score_is_priced_too, "beta multiplies the KL alone, not the score"),
    ],
    places=[(ppo, "token_rewards")])


# --- session 3: GAE ---------------------------------------------------------------------

def recursion(rewards, values, lam, delta_of):
    """GAE from right to left, with a delta of one's own. rewards, values (B, T) ->
    advantages (B, T)."""
    advantages = torch.zeros_like(rewards)
    next_value = next_advantage = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.size(1))):
        delta = delta_of(rewards[:, t], next_value, values[:, t])
        next_advantage = delta + lam * next_advantage
        advantages[:, t] = next_advantage
        next_value = values[:, t]
    return advantages


def our_delta(reward, next_value, value):
    return reward + next_value - value


def no_lambda(rewards, values, lam):
    return recursion(rewards, values, 1.0, our_delta)


def one_step_only(rewards, values, lam):
    return recursion(rewards, values, 0.0, our_delta)


def values_exchanged(rewards, values, lam):
    return recursion(rewards, values, lam, lambda r, after, v: r + v - after)


def without_the_next_value(rewards, values, lam):
    return recursion(rewards, values, lam, lambda r, after, v: r - v)


def from_left_to_right(rewards, values, lam):
    """A mistake: past surprises are carried forward, not later ones back."""
    advantages = torch.zeros_like(rewards)
    carried = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.size(1)):
        after = values[:, t + 1] if t + 1 < rewards.size(1) else 0.0
        carried = rewards[:, t] + after - values[:, t] + lam * carried
        advantages[:, t] = carried
    return advantages


def lambda_as_discount(rewards, values, lam):
    return recursion(rewards, values, lam, lambda r, after, v: r + lam * after - v)


def returns_instead(rewards, values, lam):
    return recursion(rewards, values, lam, our_delta) + values


def last_value_goes_on(rewards, values, lam):
    rewards = rewards.clone()
    rewards[:, -1] += values[:, -1]
    return recursion(rewards, values, lam, our_delta)


def value_comes_round(rewards, values, lam):
    rewards = rewards.clone()
    rewards[:, -1] += values[:, 0]
    return recursion(rewards, values, lam, our_delta)


def value_of_the_next_row(rewards, values, lam):
    rewards = rewards.clone()
    rewards[:, -1] += values[:, 0].roll(-1)
    return recursion(rewards, values, lam, our_delta)


COMES_ROUND = ("the last token's next value is V_0: `roll` comes round. It must be 0")


def random_rewards_and_values():
    B, T = between(2, 5), between(3, 8)
    return torch.randn(B, T), torch.randn(B, T), uniform_between(0.3, 0.95)


def without_values(rewards, values, lam):
    return recursion(rewards, torch.zeros_like(values), lam, our_delta)


GAE = Exercise(
    ours=ppo.gae,
    examples=[Example("rewards (0, 0, 3), values (0, 1, 2), lambda = .5",
                      (torch.tensor([[0.0, 0.0, 3.0]]),
                       torch.tensor([[0.0, 1.0, 2.0]]), 0.5),
                      torch.tensor([[1.75, 1.5, 1.0]]))],
    random=random_rewards_and_values,
    mistakes=[
        Mistake(no_lambda, "lambda is not used: every token is praised in full for all "
                "that comes later, noise included"),
        Mistake(one_step_only, "this is delta alone. A_t = delta_t + lambda A_{t+1} "
                "hands praise on to the tokens before"),
        Mistake(values_exchanged, "V_t and V_{t+1} are exchanged: the surprise is what "
                "came and is still to come, less what was expected before"),
        Mistake(without_the_next_value, "V_{t+1} is missing: what is still to come "
                "counts too, or every token before the last seems a disappointment"),
        Mistake(from_left_to_right, "from left to right: A_t needs A_{t+1}, so start at "
                "the last token. As it is, a token is praised for what came before it"),
        Mistake(lambda_as_discount, "lambda multiplies the next advantage, not the next "
                "value. A factor there would be the discount gamma, which is 1 here"),
        Mistake(returns_instead, "these are the returns, A + V. The policy needs how "
                "much better than expected, not how much"),
        Mistake(last_value_goes_on, "after the last token nothing comes: V there is 0. "
                "Here the last value stands in for it, so the last token is never a "
                "surprise"),
        Mistake(value_comes_round, COMES_ROUND),
        Mistake(value_of_the_next_row, COMES_ROUND),
        Mistake(without_values, "the values are not used: without a baseline the noise "
                "of all that would have come anyway stays in"),
    ],
    places=[(ppo, "gae")])


# --- session 3: the clip ----------------------------------------------------------------

def losses_of(ratio, advantages, clip):
    return -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)


def policy_loss_with(combine, logprobs, old_logprobs, advantages, clip):
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped, clipped = losses_of(ratio, advantages, clip)
    return combine(unclipped, clipped).mean(), (clipped > unclipped).float().mean()


def the_better_of_two(*arguments):
    return policy_loss_with(torch.minimum, *arguments)


def always_clipped(*arguments):
    return policy_loss_with(lambda unclipped, clipped: clipped, *arguments)


def never_clipped(*arguments):
    return policy_loss_with(lambda unclipped, clipped: unclipped, *arguments)


def objective_not_loss(logprobs, old_logprobs, advantages, clip):
    loss, clipfrac = policy_loss_with(torch.maximum, logprobs, old_logprobs, advantages,
                                      clip)
    return -loss, clipfrac


def upper_side_only(logprobs, old_logprobs, advantages, clip):
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(max=1 + clip)
    return (torch.maximum(unclipped, clipped).mean(),
            (clipped > unclipped).float().mean())


def upside_down(logprobs, old_logprobs, advantages, clip):
    return policy_loss_with(torch.maximum, old_logprobs, logprobs, advantages, clip)


def ratio_of_logarithms(logprobs, old_logprobs, advantages, clip):
    unclipped, clipped = losses_of(logprobs / old_logprobs, advantages, clip)
    return (torch.maximum(unclipped, clipped).mean(),
            (clipped > unclipped).float().mean())


def sum_over_tokens(logprobs, old_logprobs, advantages, clip):
    loss, clipfrac = policy_loss_with(torch.maximum, logprobs, old_logprobs, advantages,
                                      clip)
    return loss * logprobs.numel(), clipfrac


def all_outside_counted(logprobs, old_logprobs, advantages, clip):
    loss, _ = policy_loss_with(torch.maximum, logprobs, old_logprobs, advantages, clip)
    ratio = torch.exp(logprobs - old_logprobs)
    return loss, ((ratio - 1).abs() > clip).float().mean()


def share_of_all_inside(logprobs, old_logprobs, advantages, clip):
    loss, _ = policy_loss_with(torch.maximum, logprobs, old_logprobs, advantages, clip)
    unclipped, clipped = losses_of(torch.exp(logprobs - old_logprobs), advantages, clip)
    return loss, (clipped >= unclipped).float().mean()


def count_of_clipped(logprobs, old_logprobs, advantages, clip):
    loss, share = policy_loss_with(torch.maximum, logprobs, old_logprobs, advantages,
                                   clip)
    return loss, share * logprobs.numel()


def larger_of_two_means(logprobs, old_logprobs, advantages, clip):
    unclipped, clipped = losses_of(torch.exp(logprobs - old_logprobs), advantages, clip)
    return (torch.maximum(unclipped.mean(), clipped.mean()),
            (clipped > unclipped).float().mean())


def mean_over_rows(logprobs, old_logprobs, advantages, clip):
    loss, share = policy_loss_with(torch.maximum, logprobs, old_logprobs, advantages,
                                   clip)
    return loss * logprobs.numel() / len(logprobs), share


def detached(logprobs, *others):
    return policy_loss_with(torch.maximum, logprobs.detach(), *others)


def by_numpy(logprobs, *others):
    return policy_loss_with(torch.maximum, torch.from_numpy(logprobs.numpy()), *others)


def random_tokens():
    """One row of tokens, or several."""
    shape = [(40,), (4, 10), (2, 15)][between(0, 2)]
    old = -torch.rand(shape) - 0.5
    clip = uniform_between(0.1, 0.4)
    return old + 0.4 * torch.randn(shape), old, torch.randn(shape), clip


POLICY_LOSS = Exercise(
    ours=ppo.policy_loss,
    examples=[
        Example("a ratio of 1.5, A = 1, clip .2",
                (torch.tensor([math.log(0.75)]), torch.tensor([math.log(0.5)]),
                 torch.tensor([1.0]), 0.2), (torch.tensor(-1.2), torch.tensor(1.0))),
        Example("a ratio of 1.5, A = -1, clip .2",
                (torch.tensor([math.log(0.75)]), torch.tensor([math.log(0.5)]),
                 torch.tensor([-1.0]), 0.2), (torch.tensor(1.5), torch.tensor(0.0))),
        Example("a ratio of .5, A = -1, clip .2",
                (torch.tensor([math.log(0.25)]), torch.tensor([math.log(0.5)]),
                 torch.tensor([-1.0]), 0.2), (torch.tensor(0.8), torch.tensor(1.0))),
        Example("a ratio of 1.1, A = 1, clip .2",
                (torch.tensor([math.log(0.55)]), torch.tensor([math.log(0.5)]),
                 torch.tensor([1.0]), 0.2), (torch.tensor(-1.1), torch.tensor(0.0)))],
    random=random_tokens,
    mistakes=[
        Mistake(the_better_of_two, "the smaller of the two losses. PPO is a pessimist: "
                "it takes the worse, so that going too far is never worth it"),
        Mistake(always_clipped, "this is the clipped term alone: a token that has gone "
                "the wrong way is never pulled back"),
        Mistake(never_clipped, "not clipped: nothing stops the steps on one batch from "
                "going as far as they like"),
        Mistake(objective_not_loss, "the sign: Schulman's eq. 7 is to be maximized, and "
                "the optimizer goes down. Negate it"),
        Mistake(upper_side_only, "clipped above only. A bad token (A < 0) is held at 1 "
                "- clip, so that it is not pushed to nothing in one update"),
        Mistake(upside_down, "the ratio is upside down: it is pi now over pi that "
                "sampled"),
        Mistake(ratio_of_logarithms, "a ratio of logarithms; the ratio of probabilities "
                "is exp(log pi - log pi_old)"),
        Mistake(sum_over_tokens, "a sum over the tokens, where a mean is wanted: the "
                "step would grow with the batch"),
        Mistake(all_outside_counted, "the loss is right. Clipped are only those whose "
                "gradient has stopped: outside on the side to which their advantage "
                "pushes"),
        Mistake(share_of_all_inside, "`>=` counts tokens inside the range too, where "
                "both losses are equal: strictly larger"),
        Mistake(count_of_clipped, "how many are clipped; the share is wanted, a mean"),
        Mistake(larger_of_two_means, "the larger of two means. Each token has a larger "
                "loss of its own: first `maximum`, then `mean`"),
        Mistake(mean_over_rows, "`len` counts rows, and a batch has many tokens to a "
                "row: `.mean()` counts them all"),
        Mistake(detached, NO_GRADIENT),
        Mistake(by_numpy, NO_GRADIENT),
    ],
    places=[(ppo, "policy_loss")], loss=True)


# --- session 4: the controller ----------------------------------------------------------

def betas_of(controller, beta, target, K, kls):
    """beta before and after each of these KLs."""
    kl_control = controller(beta, target, K)
    betas = [kl_control.beta]
    for kl in kls.tolist():
        kl_control.update(kl)
        betas.append(kl_control.beta)
    if len(set(betas)) == 1 and target > 0:
        raise Refused("`update` leaves self.beta as it is")
    return torch.tensor(betas, dtype=torch.double)


def controller_by(rule):
    """A class like AdaptiveKL, whose next beta is rule(beta, kl, target, K)."""
    class Controller:
        def __init__(self, beta, target, K):
            self.beta, self.target, self.K = beta, target, K

        def update(self, kl):
            if self.target > 0:
                self.beta = rule(self.beta, kl, self.target, self.K)
    return Controller


def clipped_error(kl, target):
    return min(0.2, max(-0.2, (kl - target) / target))


def random_kls():
    target = uniform_between(2.0, 8.0)
    return (uniform_between(0.2, 0.9), target, uniform_between(0.3, 0.8),
            2 * target * torch.rand(8))


CONTROLLER = Exercise(
    ours=ppo.AdaptiveKL,
    examples=[
        Example("beta before, and after a KL of 30 (beta = .3, target 3, K = .1),",
                (0.3, 3.0, 0.1, torch.tensor([30.0])),
                torch.tensor([0.3, 0.306], dtype=torch.double)),
        Example("beta before, and after a KL of 3.3, 30 and 0 (.3, target 3, K = .1),",
                (0.3, 3.0, 0.1, torch.tensor([3.3, 30.0, 0.0])),
                torch.tensor([0.3, 0.303, 0.30906, 0.3028788], dtype=torch.double)),
        Example("beta before and after, with a target of 0,",
                (0.3, 0.0, 0.1, torch.tensor([5.0])),
                torch.tensor([0.3, 0.3], dtype=torch.double))],
    random=random_kls,
    mistakes=[
        Mistake(controller_by(lambda beta, kl, target, K:
                              beta * (1 - K * clipped_error(kl, target))),
                "the sign: where KL is too large a nat must become dearer"),
        Mistake(controller_by(lambda beta, kl, target, K:
                              beta * (1 + K * (kl - target) / target)),
                "not clipped: one batch with a large KL would move beta out of all "
                "bounds"),
        Mistake(controller_by(lambda beta, kl, target, K:
                              beta * (1 + K * min(0.2, max(-0.2, kl - target)))),
                "the error is relative: (KL - target) / target, or a target of 6 would "
                "be steered twice as hard as one of 3"),
        Mistake(controller_by(lambda beta, kl, target, K:
                              beta + K * clipped_error(kl, target)),
                "beta is multiplied by 1 + K e, not moved by K e: a step should be a "
                "percentage of whatever beta is, and never make it negative"),
        Mistake(controller_by(lambda beta, kl, target, K:
                              beta * (1 + K * min(0.2, (kl - target) / target))),
                "clipped above only: a KL of 0, as at the start, would let beta fall by "
                "K"),
        Mistake(controller_by(lambda beta, kl, target, K:
                              beta * (1 + min(K, max(-K, (kl - target) / target)))),
                "clipped to -K .. K and not multiplied by K: the error is clipped to "
                "-.2 .. .2, and then multiplied"),
        Mistake(controller_by(lambda beta, kl, target, K:
                              beta * math.exp(K * clipped_error(kl, target))),
                "exp(K e): nearly the same, and found in other texts, but the paper's "
                "rule is 1 + K e"),
    ],
    places=[(ppo, "AdaptiveKL"), (rlhf, "AdaptiveKL")],
    run=betas_of, atol=1e-7)


# --- session 4: DPO ---------------------------------------------------------------------

def dpo_ours(logprobs, ref_logprobs, b, beta):
    implied = beta * (logprobs - ref_logprobs)
    return F.cross_entropy(implied, b)


dpo_loss = dpo_ours


def dpo_with(change):
    def loss(logprobs, ref_logprobs, b, beta):
        return F.cross_entropy(change(logprobs, ref_logprobs, beta), b)
    return loss


def columns_of_every_question(logprobs, ref_logprobs, b, beta):
    return columns_of_every_row(beta * (logprobs - ref_logprobs), b)


def random_policies():
    N = between(3, 7)
    return (-3 * torch.rand(N, 4), -3 * torch.rand(N, 4), torch.randint(4, (N,)),
            uniform_between(0.1, 0.8))


DPO = Exercise(
    ours=dpo_ours,
    examples=[
        Example("pi = rho, so that four implied rewards are equal",
                (-torch.ones(1, 4), -torch.ones(1, 4), torch.tensor([0]), 0.5),
                torch.tensor(math.log(4))),
        Example("log pi - log rho = (2 log 3, 0, 0, 0), beta = .5, b = 0",
                (torch.tensor([[2 * math.log(3) - 5, -5, -5, -5]]),
                 torch.full((1, 4), -5.0), torch.tensor([0]), 0.5),
                torch.tensor(math.log(2)))],
    random=random_policies,
    mistakes=[
        Mistake(dpo_with(lambda p, q, beta: beta * (q - p)), "the sign: r = beta (log "
                "pi - log rho) + a constant, so what is liked must become likelier "
                "than it is for rho"),
        Mistake(dpo_with(lambda p, q, beta: beta * p), "rho is missing: the implied "
                "reward is by how much pi differs from rho. As it is, what rho says "
                "rarely could never be liked"),
        Mistake(dpo_with(lambda p, q, beta: p - q), "beta is missing: it turns nats "
                "into reward"),
        Mistake(dpo_with(lambda p, q, beta: (p - q) / beta), "divided by beta: solve pi "
                "= rho exp(r / beta) / Z for r, and beta multiplies"),
        Mistake(dpo_with(lambda p, q, beta: beta * (p.exp() / q.exp())),
                "the ratio itself; its logarithm is wanted"),
        Mistake(lambda p, q, b, beta: -dpo_ours(p, q, b, beta),
                "the loss is eq. 1 negated, so that it falls"),
        Mistake(lambda p, q, b, beta: len(b) * dpo_ours(p, q, b, beta),
                "a sum over the questions, where eq. 1 has a mean"),
        Mistake(columns_of_every_question, ONE_OF_EACH_ROW.format("implied")),
        Mistake(lambda p, q, b, beta: dpo_ours(p.detach(), q, b, beta), NO_GRADIENT),
    ],
    places=[(HERE, "dpo_loss")], loss=True)


EXERCISES = {"attention": ATTENTION, "sample_next_token": SAMPLE,
             "score_response": SCORE_RESPONSE, "best_of_four_loss": BEST_OF_FOUR,
             "normalize": NORMALIZE, "token_rewards": TOKEN_REWARDS, "gae": GAE,
             "policy_loss": POLICY_LOSS, "AdaptiveKL": CONTROLLER, "dpo_loss": DPO}


# --- session 4: what do these logs tell? ------------------------------------------------
# For each bug, where in its log to look: said of a run to which another bug was given.
WHERE_TO_LOOK = {
    "dropout is on":
        "Look at the first update: KL is 0, so sampler and scorer agree, and yet "
        "approx_kl and clipfrac are far too large. Who moved, before any step was taken?",
    "r is not normalized":
        "Look at the score of rho, in the first update, and at KL beside its target: is "
        "beta, a price in units of reward, of any weight beside these scores?",
    "the KL has the wrong sign":
        "Look at beta and KL together: beta rises, as it should where KL is too large. "
        "Does KL obey?",
    "the query is cut wrong":
        "Look at `finished` in the first update, where pi is rho and nothing is learned "
        "yet. Then read its sample, the query first.",
    "the temperature is forgotten in scoring":
        "Look at KL in the first update: pi is rho there, so it must be 0. Session 1 "
        "measured how far rho seems from itself under one mistake. Which?",
    "the score is at the wrong token":
        "The score hardly rises, though KL is cheap, and explained_variance stays near "
        "0: whatever most tokens are paid for, it is not the score"}


def check_diagnosis(answers):
    """answers: {letter: the bug, in the words of WHERE_TO_LOOK}."""
    runs = json.loads((Path(__file__).resolve().parent / "broken_runs.json").read_text())
    wrong = []
    for letter, one in runs.items():
        given = answers.get(letter)
        if letter == "healthy" or given == one["bug"]:
            continue
        if given is None:
            wrong.append(f"not yet: {letter} has no diagnosis")
        elif given not in WHERE_TO_LOOK:
            wrong.append(f"not yet: {given!r} is none of the six")
        else:
            wrong.append(f"not yet: {letter} is not that. {WHERE_TO_LOOK[one['bug']]}")
    print("\n".join(wrong) or "right: all six")
