"""
gpt.py: GPT-2, written by hand: the model, its weights, sampling, log-probabilities, training.

Papers: Radford et al. 2019 (GPT-2); Ziegler et al. 2019, section 2.1 (pretraining, temperature).
In:  windows of tokens, or published weights         Out: rho         Not here: text, rewards, PPO

Letters: B batch, T tokens (of the response, after a query of Q), S tokens that attention looks at,
V vocabulary, C channels, H heads, D = C / H.

Deleted here: dropout (the paper turns it off, and with it on the PPO ratio would not start at 1),
padding and attention masks (all queries of a batch have one length), top-k and top-p (they sample
from another distribution than the one whose KL is paid).
"""

import json
import math
import os
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

import files
from files import UserError


# --- the model ------------------------------------------------------------------------------------

def attention(q, k, v):
    """softmax(q k^T / sqrt(D)) v, every token seeing itself and the past. Shapes (B, H, T, D).

    k and v may hold S - T earlier tokens in front of the T that q asks for. The shipped model runs
    F.scaled_dot_product_attention, which never stores the (T, S) table; a test holds them equal."""
    T, S = q.size(-2), k.size(-2)
    weights = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))                      # (B, H, T, S)
    future = torch.ones(T, S, dtype=torch.bool, device=q.device).triu(S - T + 1)   # (T, S)
    return weights.masked_fill(future, -math.inf).softmax(-1) @ v                  # (B, H, T, D)


class CausalSelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x, past):
        """x (B, T, C); past: None, or the function that stores k, v and returns all so far."""
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = past(k, v)                                                      # (B, H, S, D)
        # One new token sees all there is; a block of several is causal, with nothing before it.
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalSelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width),
                                  "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x, past=None):
        x = x + self.attn(self.ln_1(x), past)
        # GPT-2 was trained with the tanh approximation of GELU; the exact one gives other logits.
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2, with the parameter names of the published checkpoints, which store the four matrices
    of a block transposed and tie the output layer to the embedding: nothing else lies between."""

    def __init__(self, vocabulary, context, layers, heads, width):
        super().__init__()
        self.shape = dict(vocabulary=vocabulary, context=context, layers=layers, heads=heads,
                          width=width)
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(context, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        # GPT-2: N(0, .02), positions N(0, .01), biases 0; what adds to the residual stream divided
        # by sqrt(2 layers), so that its variance does not grow with depth. Below 768 channels all
        # times sqrt(768 / C), or attention starts almost uniform and learns to copy slowly.
        std = 0.02 * math.sqrt(max(1, 768 / width))
        for name, p in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(p, std=std / math.sqrt(2 * layers))
            elif p.dim() == 2:
                nn.init.normal_(p, std=std / 2 if name == "wpe.weight" else std)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def hidden(self, tokens, cache=None):
        """The last hidden states. tokens (B, T) -> (B, T, C). A cache holds those before."""
        n, T = cache.length if cache else 0, tokens.size(1)
        assert T == 1 or n == 0, f"{T} tokens at once after {n}: only one, or the first ones"
        assert n + T <= len(self.wpe.weight), f"no position for {n + T} tokens"
        x = self.wte(tokens) + self.wpe.weight[n:n + T]                            # (B, T, C)
        for layer, block in enumerate(self.h):
            x = block(x, cache.at(layer) if cache else None)
        if cache:
            cache.length += T
        return self.ln_f(x)

    def logits(self, h, temperature=1.0):
        """Hidden states (..., C) -> logits / temperature (..., V), by the tied embedding."""
        return F.linear(h / temperature, self.wte.weight)     # h has fewer numbers than the logits

    def forward(self, tokens):
        """tokens (B, T) -> logits (B, T, V)."""
        return self.logits(self.hidden(tokens))

    @classmethod
    def from_pretrained(cls, name_or_path):
        """A GPT with published weights: gpt2, gpt2-medium, gpt2-large, gpt2-xl, or a folder or file
        in their layout. The shape is the tensors'; heads are config.json's, or have 64 channels."""
        path = weights_file(name_or_path)
        beside, config = os.path.join(os.path.dirname(path), "config.json"), {}
        if os.path.exists(beside):
            with files.reading(beside), open(beside, encoding="utf-8-sig") as file:
                config = dict(json.load(file))
        with files.reading(path):
            found = {name.removeprefix("transformer."): tensor.float() for name, tensor in
                     files.read_weights(path).items() if not name.endswith(BUFFERS)}
            vocabulary, width, context = *found["wte.weight"].shape, len(found["wpe.weight"])
            if not all(t.numel() and t.isfinite().all() for t in found.values()):
                raise ValueError("a tensor is empty or not finite")
            untied = found.pop("lm_head.weight", found["wte.weight"])
        layers = len({name.split(".")[1] for name in found if name.startswith("h.")})
        heads = config.get("n_head", max(1, width // 64))
        odd = [key for key, usual in USUAL.items() if config.get(key, usual[0]) not in usual]
        odd += ["lm_head: it is not the embedding"] * (not untied.equal(found["wte.weight"]))
        if odd or type(heads) is not int or heads < 1 or width % heads:
            raise UserError(f"{path}: not a GPT-2 ({', '.join(odd) or f'{heads!r} heads'})")
        with torch.device("meta"):                           # no time for initial values
            model = cls(vocabulary, context, layers, heads, width)
        try:
            model.load_state_dict({name: t.T.contiguous() if name.endswith(TRANSPOSED) else t
                                   for name, t in found.items()}, assign=True)
        except RuntimeError as e:
            raise UserError(f"{path}: not a GPT-2: {str(e).splitlines()[1].strip()}") from None
        return model

    def save_pretrained(self, folder):
        """The same layout: what opens GPT-2's folder opens this one."""
        s = self.shape
        os.makedirs(folder, exist_ok=True)
        files.write_safetensors(os.path.join(folder, "model.safetensors"), {
            name: t.T if name.endswith(TRANSPOSED) else t for name, t in self.state_dict().items()})
        files.write_json(os.path.join(folder, "config.json"), {
            "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "layer_norm_epsilon": 1e-5,
            "vocab_size": s["vocabulary"], "n_positions": s["context"], "n_embd": s["width"],
            "n_layer": s["layers"], "n_head": s["heads"], "activation_function": "gelu_new",
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "eos_token_id": None})


# --- published weights ----------------------------------------------------------------------------

# GPT-2's four sizes, all with 64 channels a head.
GPT2 = {name: dict(vocabulary=50257, context=1024, layers=n, heads=width // 64, width=width)
        for name, n, width in (("gpt2", 12, 768), ("gpt2-medium", 24, 1024),
                               ("gpt2-large", 36, 1280), ("gpt2-xl", 48, 1600))}
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
USUAL = {"model_type": ("gpt2",), "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
         "layer_norm_epsilon": (1e-5,), "scale_attn_weights": (True,),
         "scale_attn_by_inverse_layer_idx": (False,)}
BUFFERS = (".attn.bias", ".attn.masked_bias")    # the causal mask, which old checkpoints hold too


def weights_file(name_or_path):
    """The file of weights that a name of GPT-2 (downloaded once), a folder or a path stands for."""
    if name_or_path in GPT2 and not os.path.exists(name_or_path):
        return files.download(files.WEIGHTS.format(name_or_path), files.read_safetensors)
    if not os.path.isdir(name_or_path):
        return name_or_path
    for name in ("model.safetensors", "pytorch_model.bin"):
        if os.path.exists(path := os.path.join(name_or_path, name)):
            return path
    raise UserError(f"{name_or_path}: no model.safetensors or pytorch_model.bin in this folder")


def shape_of(name_or_path):
    """The shape of published weights; that of a name without a download."""
    if name_or_path in GPT2 and not os.path.exists(name_or_path):
        return GPT2[name_or_path]
    return GPT.from_pretrained(name_or_path).shape


def memory(shape, B, Q, T, minibatches=1):
    """Bytes that PPO takes at its peak, about: rho, r, pi, gradients, Adam's two means, and what a
    step needs on its rows of the batch, or sampling on all."""
    with torch.device("meta"):
        weights = sum(p.numel() for p in GPT(**shape).parameters())
    body, ends = (Q + T) * shape["layers"] * shape["width"], T * shape["vocabulary"]
    step = 17 * body + 3 * ends       # LayerNorms 4, q, k, v 3, attention 2, the GELU 8 C a token
    return 4 * (6 * weights + max(-(-B // minibatches) * step, B * 2 * (body + ends)))


# --- the distribution -----------------------------------------------------------------------------

def next_token_logprobs(model, h, temperature):
    """log pi(. | what h has read), h (..., C) -> (..., V): the one place where hidden states become
    the distribution that is sampled and scored. "rho" is rho at this temperature (paper 2.1)."""
    return F.log_softmax(model.logits(h, temperature).float(), dim=-1)


def sample_next_token(log_pi):
    """One token of each row, log_pi (B, V) -> (B, 1): the cumulative distribution inverted at a
    uniform number, in a twentieth of the time of torch.multinomial on a CPU."""
    upto = log_pi.exp().cumsum(dim=-1)                                             # (B, V)
    u = torch.rand(len(upto), 1, device=upto.device) * upto[:, -1:]
    return torch.searchsorted(upto, u, right=True).clamp(max=upto.size(1) - 1)


def response_positions(a, Q):
    """Column t predicts token t + 1, so the T response tokens are predicted by the columns
    Q - 1 .. Q + T - 2. a (B, Q + T, ...) -> (B, T, ...). The off-by-one lives only here."""
    return a[:, Q - 1:-1]


def response_logprobs(model, x, y, temperature):
    """log pi(y_t | x, y_<t) and the states h that said so. x (B, Q), y (B, T) -> (B, T), (B, T, C).

    Only the response's positions pay for the product with the vocabulary."""
    h = response_positions(model.hidden(torch.cat([x, y], dim=1)), x.size(1))             # (B, T, C)
    return next_token_logprobs(model, h, temperature).gather(-1, y[..., None])[..., 0], h


# --- sampling -------------------------------------------------------------------------------------

class Cache:
    """The keys and values of all tokens read so far, in room set aside at the start."""

    def __init__(self, model, B, room):
        s, p = model.shape, model.wte.weight
        self.kv = p.new_empty(s["layers"], 2, B, s["heads"], room, s["width"] // s["heads"])
        self.length = 0

    def at(self, layer):
        """The function with which a layer stores k, v (B, H, T, D) and gets all (B, H, S, D)."""
        def past(k, v):
            S = self.length + k.size(2)
            self.kv[layer, 0, :, :, self.length:S] = k
            self.kv[layer, 1, :, :, self.length:S] = v
            return self.kv[layer, :, :, :, :S]
        return past


@torch.no_grad()
def sample(model, x, T, temperature=1.0):
    """T tokens after each query: x (B, Q) -> y (B, T), logp (B, T), h (B, T, C).

    logp is log pi(y_t | x, y_<t) and h the state that predicted y_t: what PPO needs of the sampler,
    so that no second forward pass is spent on it. Pure categorical sampling, no stop token; all
    chance comes from torch.manual_seed."""
    B, Q = x.shape
    y, logp = x.new_empty(B, T), torch.empty(B, T, device=x.device)
    h = torch.empty(B, T, model.shape["width"], device=x.device)
    cache, new = Cache(model, B, Q + T - 1), x
    for t in range(T):
        h[:, t] = model.hidden(new, cache)[:, -1]
        log_pi = next_token_logprobs(model, h[:, t], temperature)                     # (B, V)
        new = sample_next_token(log_pi)                                                         # (B, 1)
        y[:, t], logp[:, t] = new[:, 0], log_pi.gather(1, new)[:, 0]
    return y, logp, h


@torch.no_grad()
def sample_uncached(model, x, T, temperature=1.0):
    """The slow twin of `sample`: reads all again for each token. Kept to compare with."""
    Q = x.size(1)
    for _ in range(T):
        log_pi = next_token_logprobs(model, model.hidden(x)[:, -1], temperature)      # (B, V)
        x = torch.cat([x, sample_next_token(log_pi)], dim=1)
    return x[:, Q:], *response_logprobs(model, x[:, :Q], x[:, Q:], temperature)


# --- training -------------------------------------------------------------------------------------

def next_token_loss(model, tokens, target):
    """Mean cross-entropy in nats. tokens (B, T), target (B, T), where -100 asks for nothing."""
    logits = model(tokens).flatten(0, 1).float()
    return F.cross_entropy(logits, target.flatten(), ignore_index=-100)


@torch.no_grad()
def language_model_losses(rho, train, test):
    """Held-out loss a token, and that of knowing only how common tokens are. Windows (N, T + 1)."""
    losses = [next_token_loss(rho, w[:, :-1], w[:, 1:])
              for w in test.to(rho.wte.weight.device).split(20)]
    count = torch.bincount(train.flatten(), minlength=rho.shape["vocabulary"]) + 1.0
    unigram = -(count / count.sum()).log()[test[:, 1:]].mean().item()
    return {"loss": torch.stack(losses).mean().item(), "unigram_loss": unigram}


def autocast(device):
    """bfloat16 on CUDA, where no ratio of probabilities is at stake; float32 elsewhere."""
    return torch.autocast("cuda", torch.bfloat16, enabled=torch.device(device).type == "cuda")


def fit(name, model, batches, steps, lr, warmup=0.05, weight_decay=0.01):
    """Train on `steps` batches of (tokens, target); yields the loss of each. AdamW, clipped at 1.

    The rate rises over the first `warmup` of the steps and falls to 0 along a cosine."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]     # biases and gains do not decay
    device = matrices[0].device
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)
    for step, (tokens, target) in zip(range(steps), batches):
        rise = min(1.0, (step + 1) / max(1, warmup * steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * rise * 0.5 * (1 + math.cos(math.pi * step / steps))
        with autocast(device):
            loss = next_token_loss(model, tokens.to(device), target.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if not math.isfinite(loss.item()):
            raise UserError(f"{name}: the loss is {loss.item()} at step {step + 1} of {steps}; "
                            "a smaller learning rate is needed")
        yield loss.item()


def watch(name, steps, total, line):
    """Pass the steps of a generator on, with a line of progress and the time left."""
    start, shown, terminal = time.time(), time.time(), sys.stdout.isatty()
    for n, step in enumerate(steps, 1):
        now = time.time()
        if n == total or now - shown > (0.5 if terminal else 10):
            left = (now - start) / n * (total - n)
            text = f"{name}: {n}/{total} | {line(step)} | {left:.0f} s left"
            print("\r" * terminal + text.ljust(99 * terminal), end="\n"[terminal:], flush=True)
            shown = now
        yield step
    if terminal:
        print()


def devices():
    """What is present here, the best first: CUDA, Apple's MPS, the CPU."""
    return [name for name in ("cuda", "mps") if getattr(torch, name).is_available()] + ["cpu"]
