"""
gpt.py: GPT-2 by hand: the model, its cache, sampling, log-probabilities, training.

Papers: Radford et al. 2019 (GPT-2); Ziegler et al. 2019, section 2.1 (temperature).
In:  tokens            Out: a language model, its samples, their log-probabilities
Not here: text (text.py), reward (reward.py), PPO (ppo.py), GPT-2's weights
(extras/gpt2.py)

Letters: B batch, Q query tokens, T response tokens (or any tokens), S tokens attended to,
V vocabulary, C channels (n_embd), H heads (n_head), D = C / H channels of one head.

Omitted: dropout (the paper turns it off; with it on, the PPO ratio would not start at 1);
padding and attention masks (all queries of a batch have one length); top-k and top-p
(they sample from another distribution than the one whose KL is measured); mixed
precision.
"""

import math
from typing import Callable, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F


# --- the model --------------------------------------------------------------------------

def attention(q, k, v):
    """softmax(q k^T / sqrt(D)) v, where every token sees itself and the past.

    q (B, H, T, D), k, v (B, H, S, D) -> (B, H, T, D). The T tokens are the last of S."""
    T, S = q.size(-2), k.size(-2)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))         # (B, H, T, S)
    future = torch.ones(T, S, dtype=torch.bool, device=q.device).triu(S - T + 1)
    # Row t of the last two axes is token S - T + t; the columns after it are its future.
    weights = scores.masked_fill(future, -math.inf).softmax(dim=-1)  # (B, H, T, S)
    return weights @ v


class CausalSelfAttention(nn.Module):
    def __init__(self, n_embd, n_head, layer):
        super().__init__()
        self.n_head = n_head
        self.layer = layer                                   # its place in the cache
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)

    def forward(self, x, kv_cache=None):
        """x (B, T, C) -> (B, T, C). With a cache, the tokens read before are seen too."""
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=-1)                    # (B, T, C) each
        q, k, v = (a.view(B, T, self.n_head, -1).transpose(1, 2) for a in (q, k, v))
        if kv_cache is not None:
            k, v = kv_cache.update(self.layer, k, v)                 # (B, H, S, D)
        y = attention(q, k, v)                                       # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, n_embd):
        super().__init__()
        self.c_fc = nn.Linear(n_embd, 4 * n_embd)
        self.c_proj = nn.Linear(4 * n_embd, n_embd)

    def forward(self, x):
        # The tanh approximation of GELU, as GPT-2. The exact one gives other logits.
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, n_embd, n_head, layer):
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd)
        self.attn = CausalSelfAttention(n_embd, n_head, layer)
        self.ln_2 = nn.LayerNorm(n_embd)
        self.mlp = MLP(n_embd)

    def forward(self, x, kv_cache=None):
        x = x + self.attn(self.ln_1(x), kv_cache)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2, with the parameter names of the published checkpoints. The output layer is
    the embedding again ("tied")."""

    def __init__(self, vocab_size, block_size, n_layer, n_head, n_embd):
        super().__init__()
        self.shape = dict(vocab_size=vocab_size, block_size=block_size, n_layer=n_layer,
                          n_head=n_head, n_embd=n_embd)
        self.wte = nn.Embedding(vocab_size, n_embd)          # of tokens
        self.wpe = nn.Embedding(block_size, n_embd)          # of positions
        self.h = nn.ModuleList(Block(n_embd, n_head, layer) for layer in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embd)
        self.init_weights()

    def init_weights(self):
        """GPT-2's: N(0, .02), positions N(0, .01), biases 0. Weights that add to the
        residual stream are divided by sqrt(2 n_layer), so that its variance does not grow
        with depth."""
        # here: below 768 channels all are multiplied by sqrt(768 / C). Otherwise
        # attention starts almost uniform, and a narrow model is slow to learn to copy
        # names from earlier sentences.
        std = 0.02 * math.sqrt(max(1, 768 / self.shape["n_embd"]))
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(p, std=std / math.sqrt(2 * self.shape["n_layer"]))
            elif name == "wpe.weight":
                nn.init.normal_(p, std=std / 2)
            elif p.dim() == 2:
                nn.init.normal_(p, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    @property
    def device(self):
        return self.wte.weight.device

    def hidden(self, tokens, kv_cache=None):
        """The hidden states after the last layer: tokens (B, T) -> (B, T, C). With a
        cache, the tokens continue those that it holds, and are added to them."""
        T = tokens.size(1)
        start = 0 if kv_cache is None else kv_cache.length
        block_size = self.shape["block_size"]
        assert start + T <= block_size, f"{start + T} tokens for {block_size} positions"
        x = self.wte(tokens) + self.wpe.weight[start:start + T]      # (B, T, C)
        for block in self.h:
            x = block(x, kv_cache)
        if kv_cache is not None:
            kv_cache.length += T         # only now: each layer wrote at the same place
        return self.ln_f(x)

    def logits(self, h, temperature=1.0):
        """Hidden states (..., C) -> logits / temperature (..., V)."""
        # h is divided, not the logits: it has fewer numbers.
        return F.linear(h / temperature, self.wte.weight)

    def forward(self, tokens):
        """tokens (B, T) -> logits (B, T, V); column t predicts token t + 1."""
        return self.logits(self.hidden(tokens))


class KVCache:
    """The keys and values of all tokens so far, so that each token is read only once."""

    def __init__(self, model, batch_size, max_length):
        shape = model.shape
        head_size = shape["n_embd"] // shape["n_head"]
        self.keys = model.wte.weight.new_empty(
            shape["n_layer"], batch_size, shape["n_head"], max_length, head_size)
        self.values = torch.empty_like(self.keys)
        self.length = 0                                              # tokens read so far

    def update(self, layer, k, v):
        """Store a layer's new k, v (B, H, T, D); return all so far (B, H, S, D)."""
        end = self.length + k.size(2)
        self.keys[layer, :, :, self.length:end] = k
        self.values[layer, :, :, self.length:end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def repeat(self, n):
        """Every row n times, side by side, for n continuations of each."""
        self.keys = self.keys.repeat_interleave(n, dim=1)
        self.values = self.values.repeat_interleave(n, dim=1)


# --- the distribution -------------------------------------------------------------------

def next_token_logprobs(model, h, temperature):
    """log pi(. | what h has read): h (..., C) -> (..., V).

    The one place where hidden states become the distribution that is sampled and scored.
    As in the paper (2.1), rho and pi are distributions at the sampling temperature."""
    return F.log_softmax(model.logits(h, temperature), dim=-1)


def sample_next_token(logprobs):
    """One token for each row: logprobs (B, V) -> (B, 1).

    It inverts the cumulative distribution at a uniform number. torch.multinomial does the
    same, but on a CPU takes five to eight times as long."""
    cumulative = logprobs.exp().cumsum(dim=-1)                       # (B, V)
    total = cumulative[:, -1:]                                       # 1, but for rounding
    u = torch.rand(len(logprobs), 1, device=logprobs.device) * total
    token = torch.searchsorted(cumulative, u, right=True)
    return token.clamp(max=logprobs.size(1) - 1)             # u may round up to the total


def response_positions(a, Q):
    """The columns that predict the response: a (B, Q + T, ...) -> (B, T, ...).

    Column t predicts token t + 1, so the response, at Q .. Q + T - 1, is predicted by
    columns Q - 1 .. Q + T - 2. Wherever a given response is scored, the shift is here;
    training a language model has its own, in language_model_loss."""
    return a[:, Q - 1:-1]


def response_states(model, query, response):
    """The hidden states that predict the response: (B, Q), (B, T) -> (B, T, C)."""
    h = model.hidden(torch.cat([query, response], dim=1))            # (B, Q + T, C)
    return response_positions(h, query.size(1))


def token_logprobs(model, h, token, temperature):
    """log pi(token | what h has read): h (..., C), token (...) -> (...)."""
    logprobs = next_token_logprobs(model, h, temperature)            # (..., V)
    return logprobs.gather(-1, token[..., None])[..., 0]


def response_logprobs(model, query, response, temperature):
    """log pi(y_t | x, y_<t) of every response token: (B, Q), (B, T) -> (B, T)."""
    h = response_states(model, query, response)
    return token_logprobs(model, h, response, temperature)


# --- sampling ---------------------------------------------------------------------------

class Sampling(NamedTuple):
    """How responses are drawn, the same for every model in a run."""
    response_length: int      # T: always so many tokens are drawn
    temperature: float        # divides the logits
    truncate: Callable        # text.truncate_at_period, or the like


@torch.no_grad()
def generate(model, query, response_length, temperature, n=1):
    """Sample n responses to each query, side by side:
    query (B, Q) -> response (B n, T), logprobs (B n, T), log pi(y_t | x, y_<t).

    Seed it with torch.manual_seed."""
    B, Q = query.shape
    T = response_length
    kv_cache = KVCache(model, B, Q + T - 1)                  # the last token is not read
    h = model.hidden(query, kv_cache)[:, -1]                         # (B, C)
    if n > 1:                            # a query is read once, for all its responses
        h = h.repeat_interleave(n, dim=0)
        kv_cache.repeat(n)
    response = query.new_empty(B * n, T)
    logprobs = torch.empty(B * n, T, device=query.device)
    for t in range(T):
        distribution = next_token_logprobs(model, h, temperature)    # (B n, V)
        token = sample_next_token(distribution)                      # (B n, 1)
        response[:, t] = token[:, 0]
        logprobs[:, t] = distribution.gather(1, token)[:, 0]
        if t + 1 < T:
            h = model.hidden(token, kv_cache)[:, -1]
    return response, logprobs


def generate_finished(model, query, sampling, n=1, max_tries=50):
    """Responses as people are shown them: drawn again until each finds its end (3.1).

    query (B, Q) -> response (B n, T), length (B n,), finished (B n,). One that never
    does, as with a policy that has run away, stays whole."""
    T, temperature, truncate = sampling
    response, _ = generate(model, query, T, temperature, n)
    query = query.repeat_interleave(n, dim=0)
    length, finished = truncate(response)
    for _ in range(max_tries):
        if finished.all():
            break
        response[~finished], _ = generate(model, query[~finished], T, temperature)
        length, finished = truncate(response)
    return response, length, finished


# --- training ---------------------------------------------------------------------------

def language_model_loss(model, windows, loss_mask, temperature=1.0):
    """Mean cross-entropy of each token, given those before it, in nats.

    windows (B, T + 1): tokens. loss_mask (B, T + 1): True for those that count in the
    mean; the first never does, for nothing stands before it."""
    mask = loss_mask[:, 1:]                                          # (B, T)
    h = model.hidden(windows[:, :-1])[mask]                          # (N, C)
    return F.cross_entropy(model.logits(h, temperature), windows[:, 1:][mask])


def set_learning_rate(optimizer, lr):
    for group in optimizer.param_groups:
        group["lr"] = lr


def warmup_then_cosine(step, steps, warmup=0.05):
    """The share of the peak learning rate at a step, counted from 0. It rises linearly
    over the first 5 % of the steps, and falls to 0 along a cosine over all of them."""
    rise = min(1.0, (step + 1) / (warmup * steps))
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def check_finite(value, name, where):
    """Stop at once where training has gone wrong, with a sentence that says where."""
    if not math.isfinite(value):
        raise FloatingPointError(f"{where}: the {name} is {value}; a smaller learning "
                                 "rate may help")


def train_language_model(model, windows, loss_mask, batches, lr, temperature=1.0):
    """Train in place; return each step's loss. The paper does not say how: AdamW with
    these betas, decay and clip at norm 1 is what small GPTs are usually trained with.

    windows, loss_mask (N, T + 1), as above. batches: for each step, rows of windows."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]        # biases, gains
    groups = [{"params": matrices, "weight_decay": 0.01},
              {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    losses = []
    for step, rows in enumerate(batches):
        set_learning_rate(optimizer, lr * warmup_then_cosine(step, len(batches)))
        loss = language_model_loss(model, windows[rows].to(model.device),
                                   loss_mask[rows].to(model.device), temperature)
        losses.append(loss.item())
        check_finite(loss.item(), "loss", f"language model, step {step + 1}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return losses
