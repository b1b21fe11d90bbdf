# The source of session 1: see build.py.

# %% [markdown]
r"""
# 1. The language model as a policy

The whole course is this picture, figure 1 of the paper, with our files on its arrows. You will write the functions that do the work;
each is checked, and then the project runs on yours.
"""

# %% setup
import math

import torch
import torch.nn.functional as F
from IPython.display import display

import checks
import course
import gpt
import stories
from checks import check
from course import plt

course.style()
run = course.small_run()               # two to four minutes the first time
cfg, rho, tokenizer, sampling = run.cfg, run.rho, run.tokenizer, run.sampling
course.figure_1()
plt.show()

# %% [markdown]
r"""
What comes out, before and after: for a query the response of $\rho$ (*zero-shot*) and of a policy $\pi$ that has learned for a quarter of a minute what labelers like.
$r$ is the reward, *kl* what it cost to leave $\rho$. Nobody chose these.
"""

# %%
print("\n\n".join(run.samples[:3]))

# %% [markdown]
r"""
**What exactly is the distribution $\rho(y \mid x)$ that is sampled, scored and paid for?** It is a *policy*: its state is a text, its action the next token.

Before: the first paragraphs of section 2 of the paper, and 2.1; `gpt.py`, without the bodies of `attention` and `sample_next_token`. All $\log$ are natural, all losses in nats.

## Tokens in, probabilities out

$\rho$ has read small stories that a program wrote. A text is cut into tokens (nearly every word is one; the appendix shows how they are learned), and for each place $\rho$ gives a distribution over the next.
"""

# %%
query = "Mara the baker came to the harbor one morning."
ids = torch.tensor([tokenizer.encode(query + " Tom was")])               # (1, T)
with torch.no_grad():
    logits = rho(ids)                                                    # (1, T, V)
p = (logits[0, -1] / cfg.temperature).softmax(dim=-1)
show = lambda token: tokenizer.tokens[token].decode(errors="replace").strip()
print(f"{ids.size(1)} tokens; logits {tuple(logits.shape)}; after '... Tom was':")
for token in p.topk(5).indices.tolist():
    print(f"  {p[token]:.2f}  {show(token)}")

# %% [markdown]
r"""
## Exercise 1.1: draw a token

Difficulty 2 of 5 · importance 3 of 5 · 10 minutes

Given the log-probabilities of the next token, draw one for each row.

<details><summary>Hint</summary>

The cumulative sum of the probabilities cuts 0 to 1 into parts of their sizes. Throw a uniform number for *each* row; in which part does it land? `torch.searchsorted` with `right=True`. Mind the rounding: the last sum may be a little below 1. (`torch.multinomial` is allowed, but slower.)
</details>
"""

# %% exercise sample_next_token
def sample_next_token(logprobs):
    """logprobs (B, V) -> tokens (B, 1)."""
    # solution
    cumulative = logprobs.exp().cumsum(dim=-1)                       # (B, V)
    u = torch.rand(len(logprobs), 1) * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, u, right=True)
    return token.clamp(max=logprobs.size(1) - 1)
    # end

# %% check sample_next_token
check(sample_next_token)

# %% [markdown]
r"""
## Temperature, folded into the logits (2.1)

The paper divides the logits of $\rho$ by 0.7 and from then on *calls the result* $\rho$. Below 1 the likely gain and the tail loses. Slide it.
"""

# %%
@torch.no_grad()
def next_logprobs(text, temperature):
    h = rho.hidden(torch.tensor([tokenizer.encode(text)]))[0, -1]
    return gpt.next_token_logprobs(rho, h, temperature)                  # (V,)

temperatures = (0.3, 0.5, 0.7, 1.0, 1.5)
top = next_logprobs(query + " Tom was", 1.0).topk(10).indices
frames, entropy = {}, {}
for t in temperatures:
    logprobs = next_logprobs(query + " Tom was", t)
    entropy[t] = -(logprobs.exp() * logprobs).sum().item()
    fig, ax = plt.subplots(figsize=(8, 2.6))
    ax.bar(range(10), logprobs.exp()[top], color=course.PI)
    ax.set_xticks(range(10), [show(i) for i in top.tolist()])
    ax.set(title=f"temperature {t}: as uncertain as {math.exp(entropy[t]):.1f} equally "
                 "likely tokens", ylabel="probability", ylim=(0, 0.9),
           xlabel="next token after '... one morning. Tom was'")
    frames[t] = fig
display(course.Slider("temperature", frames))
print("entropy, nats:", *(f"{t}: {entropy[t]:.2f}" for t in temperatures))

# %% [markdown]
r"""
`gpt.generate` draws with your function now. Look for sentences that end well, for people who come from nowhere, for grammar that slips.
"""

# %%
ask = torch.tensor([tokenizer.encode(query)])
for t in temperatures:
    torch.manual_seed(1)
    response, _ = gpt.generate(rho, ask, cfg.response_length, t)
    print(f"{t}   {tokenizer.decode(response[0])}")

# %% [markdown]
r"""
## Which column says what

The output at column $t$ is about token $t + 1$. So the last token of the *query* predicts the first of the response, and the last of the response predicts nothing that was drawn.
"""

# %%
row = tokenizer.encode(query)[-3:] + tokenizer.encode("Tom was happy.")
print("column   holds      predicts")
for t, token in enumerate(row):
    after = show(row[t + 1]) if t + 1 < len(row) else "(nothing that was drawn)"
    part = "query" if t < 3 else "response"
    print(f"{t:4}     {show(token):<10} {after:<26} {part}")

# %% [markdown]
r"""
## Exercise 1.2: score a response

Difficulty 3 of 5 · importance 5 of 5 · 20 minutes

PPO will ask: how likely was this response for $\pi$, how likely for $\rho$? Write $\log p(y|x) = \sum_t \log p(y_t | x, y_{<t})$ from the logits of query and response read together.

<details><summary>Hint</summary>

$Q$ tokens of query: which columns predict the response's? Temperature first, then `log_softmax`, then `gather(-1, response[..., None])` picks what was said. One number for each row.
</details>
"""

# %% exercise score_response
def score_response(logits, query, response, temperature):
    """logits (B, Q + T, V), query (B, Q), response (B, T) -> log p(y|x), (B,)."""
    # solution
    Q = query.size(1)
    logprobs = F.log_softmax(logits[:, Q - 1:-1] / temperature, dim=-1)  # (B, T, V)
    return logprobs.gather(-1, response[..., None])[..., 0].sum(dim=1)
    # end

# %% check score_response
check(score_response)

# %% [markdown]
r"""
The sampler knows the log-probability of what it draws. Yours must be the same, or PPO's ratios would not start at 1 and the KL would be of two other distributions. What do the two classic mistakes cost?
"""

# %%
questions = run.queries["evaluation"][12][:64]                           # (64, 12)
torch.manual_seed(0)
response, drawn = gpt.generate(rho, questions, cfg.response_length, cfg.temperature)
with torch.no_grad():
    logits = rho(torch.cat([questions, response], dim=1))
scored = checks.score_response(logits, questions, response, cfg.temperature)
gap = (scored - drawn.sum(dim=1)).abs().max().item()
print(f"largest difference to what the sampler knew: {gap:.0e}")
print(f"log p of a response, mean:          {scored.mean():7.1f} nats")
late = checks.column_of_the_token(logits, questions, response, cfg.temperature)
print(f"  read one column too late:         {late.mean():7.1f}")
forgotten = checks.no_temperature(logits, questions, response, cfg.temperature)
print(f"  the temperature forgotten:        {forgotten.mean():7.1f}, "
      f"so that rho seems {(scored - forgotten).mean():.1f} nats from itself")

# %% [markdown]
r"""
## Exercise 1.3: attention

Difficulty 4 of 5 · importance 3 of 5 · 25 minutes

The only place where one position learns of another. Token $t$ asks with a query $q_t$; every token $s \le t$ answers with a key $k_s$; $t$ receives a mixture of the values $v_s$ with weights
$\mathrm{softmax}_s(q_t \cdot k_s / \sqrt{D})$. Write one head; the axes before the last two, batch and heads, come along by themselves.

<details><summary>Hint</summary>

`q @ k.transpose(-2, -1)` has all $q_t \cdot k_s$. What comes later gets $-\infty$, *before* softmax: `masked_fill`, with a mask by `torch.ones(T, S, dtype=torch.bool).triu(...)`. The $T$ tokens are the last of $S$: row $t$ is token $S - T + t$.
</details>
"""

# %% exercise attention
def attention(q, k, v):
    """q (..., T, D), k and v (..., S, D) -> (..., T, D)."""
    # solution
    T, S = q.size(-2), k.size(-2)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))         # (..., T, S)
    future = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)
    weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)
    return weights @ v
    # end

# %% check attention
check(attention)

# %% [markdown]
r"""
Leaf through $\rho$'s eight heads. A row is the token that asks and adds up to 1; white is a weight of 0. (With the identity matrix as $v$, the mixture *is* the weights.)
"""

# %%
@torch.no_grad()
def weights_of(ids):
    """The weights of all heads: ids (B, T) -> (layers, B, heads, T, T)."""
    caught = []
    hooks = [block.attn.c_attn.register_forward_hook(
        lambda module, given, out: caught.append(out)) for block in rho.h]
    rho(ids)
    for hook in hooks:
        hook.remove()
    (B, T), H = ids.shape, rho.shape["n_head"]
    found = []
    for out in caught:
        q, k, _ = out.view(B, T, 3, H, -1).permute(2, 0, 3, 1, 4)        # (B, H, T, D)
        found.append(gpt.attention(q, k, torch.eye(T).expand(B, H, T, T)))
    return torch.stack(found)

story = ("One autumn Tom stood by the muddy barn. Tom said that the tea was good. "
         "He was happy.")
ids = torch.tensor([tokenizer.encode(story)])
weights = weights_of(ids)[:, 0]        # (layers, heads, T, T)
labels = [show(i) for i in ids[0].tolist()]
frames = {}
for layer in range(2):
    for head in range(4):
        fig, ax = plt.subplots(figsize=(5.4, 4.8))
        ax.imshow(weights[layer, head], cmap="Blues", vmin=0, vmax=1)
        ax.set_xticks(range(len(labels)), labels, rotation=90)
        ax.set_yticks(range(len(labels)), labels)
        ax.set(title=f"layer {layer + 1}, head {head + 1}", xlabel="token that answers",
               ylabel="token that asks")
        frames[f"{layer + 1}.{head + 1}"] = fig
display(course.Slider("head", frames))

# %% [markdown]
r"""
Some heads look back at the person's first mention. Do they *look up the name* because a name is to come? Stand on the periods of held-out stories, and compare those before a name with the others. Which head looks most is chosen below, and how much it looks in either place is printed.
"""

# %%
people = {tokenizer.tokens.index(f" {name}".encode())
          for name in stories.POOLS["woman"] + stories.POOLS["man"]}
looks = {True: [], False: []}          # is a name to come?
begun = run.queries["evaluation"][12][:200]                              # (200, 12)
torch.manual_seed(0)
told, _ = gpt.generate(rho, begun, cfg.response_length, cfg.temperature)
told = torch.cat([begun, told], dim=1)                                   # (200, 36)
weights = weights_of(told)
for row, tokens in enumerate(told.tolist()):
    named = [i for i, token in enumerate(tokens) if token in people]
    if named:
        for i in range(named[0] + 1, len(tokens) - 1):
            if tokens[i] == tokenizer.period:
                to_first = weights[:, row, :, i, named[0]]               # (layers, heads)
                looks[tokens[i + 1] in people].append(to_first)
means = {name: torch.stack(rows).mean(dim=0) for name, rows in looks.items()}
layer, head = divmod(int(means[True].argmax()), 4)
print(f"layer {layer + 1}, head {head + 1}: weight of the first name at a period "
      f"before a name {means[True][layer, head]:.2f} ({len(looks[True])} places), "
      f"before another word {means[False][layer, head]:.2f} ({len(looks[False])})")

# %% [markdown]
r"""
About as much, name or not: a weight says where a head looks, not what for.

## The residual stream

Every block only *adds* to a token's state. So one can stop after any addition and ask what would be predicted. Columns are tokens, rows are stages; the darker, the more likely the token that really comes next. Hover for numbers. What does the embedding alone know? Which words need the second layer?
"""

# %%
@torch.no_grad()
def stages(ids):
    """The states after the embedding and after each addition, {name: (T, C)}."""
    added = {}
    hooks = []
    for layer, block in enumerate(rho.h, 1):
        for name, part in (("attention", block.attn), ("MLP", block.mlp)):
            key = f"+ {name} {layer}"
            hooks.append(part.register_forward_hook(
                lambda module, given, out, key=key: added.update({key: out})))
    rho(ids)
    for hook in hooks:
        hook.remove()
    x = rho.wte(ids) + rho.wpe.weight[:ids.size(1)]
    found = {"embedding": x[0]}
    for name, out in added.items():
        x = x + out
        found[name] = x[0]
    return found

rows = {}
for name, x in stages(ids).items():
    probabilities = gpt.next_token_logprobs(rho, rho.ln_f(x), 1.0).exp()     # (T, V)
    row = []
    for t in range(8, ids.size(1) - 1):
        right = probabilities[t, ids[0, t + 1]].item()
        guess = int(probabilities[t].argmax())
        row.append((show(guess), right, f"{labels[t]} -> {labels[t + 1]}: {right:.2f}"))
    rows[name] = row
display(course.TokenTable(labels[8:-1], rows))

# %% [markdown]
r"""
## The cache

Keys and values of what was read cannot change, since nobody sees the future. So each token is read once. Same seed, same tokens:
"""

# %%
@torch.no_grad()
def generate_uncached(query, T, temperature):
    """gpt.generate, but all is read again for each token."""
    tokens, n = query, 0
    for _ in range(T):
        n += tokens.size(1)
        logprobs = gpt.next_token_logprobs(rho, rho.hidden(tokens)[:, -1], temperature)
        tokens = torch.cat([tokens, gpt.sample_next_token(logprobs)], dim=1)
    return tokens[:, query.size(1):], n

torch.manual_seed(0)
slow, n = generate_uncached(questions, cfg.response_length, cfg.temperature)
print(f"rows that agree: {int((slow == response).all(dim=1).sum())} of {len(slow)}")
print(f"tokens read for a response: {n}, "
      f"cached {questions.size(1) + cfg.response_length - 1}")

# %% [markdown]
r"""
## How good is $\rho$?

Its loss, on stories that it has not read, beside two that know nothing of the order of words. (How low any model could get is in the appendix.)
"""

# %%
for name, loss in (("every token alike", math.log(cfg.vocab_size)),
                   ("how common it is", run.losses["unigram_loss"]),
                   ("rho", run.losses["loss"])):
    print(f"{name:18} {loss:.2f} nats a token, "
          f"as of {math.exp(loss):7.1f} equally likely")

# %% [markdown]
r"""
## To think about

1. Why divide the logits, instead of only *sampling* at 0.7 and scoring at 1? What would KL($\pi$, $\rho$) be before the first update?
2. Top-k sampling never draws the tail. What is $\log \rho$ of a token that $\pi$ draws and $\rho$ with top-k never would?
3. Measure the loss of $\rho$ *read at* 0.7. Is it lower than at 1? Why sample there all the same?
4. Set one head's part of `c_proj` to zero in a copy of $\rho$. Which cells of the table change?
"""
