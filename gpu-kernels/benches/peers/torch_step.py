#!/usr/bin/env python3
"""The training step that `examples/step_speed` times, in plain PyTorch f32.

    torch_step.py MODEL VOCABULARY THREADS STEPS   # small|medium, as step_speed

Same architecture (Llama: RMSNorm, rotary embedding, grouped-query causal attention,
SwiGLU), same micro-batch (4 sequences of 256 tokens), AdamW, clipping of the gradient's
norm, one micro-batch a step. With `--serve` it times one step for every line on its
standard input and answers with `{"wall_ns": …, "processor_ns": …}`, so that a driver can
take turns with it; without, it prints medians.
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

SEQUENCES, LENGTH, HEAD_DIM, WARM_UP = 4, 256, 64, 2
MODELS = {"small": (384, 1024, 6, 6, 3), "medium": (512, 1408, 8, 8, 4)}


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


def turn(x, cosines, sines):
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat((-second, first), dim=-1) * sines


class Block(nn.Module):
    def __init__(self, hidden, inner, heads, key_heads):
        super().__init__()
        self.heads, self.key_heads = heads, key_heads
        self.input_norm, self.attention_norm = RmsNorm(hidden), RmsNorm(hidden)
        self.query_key_value = nn.Linear(hidden, (heads + 2 * key_heads) * HEAD_DIM, bias=False)
        self.output = nn.Linear(heads * HEAD_DIM, hidden, bias=False)
        self.gate_up = nn.Linear(hidden, 2 * inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x, cosines, sines, mask):
        sequences, length, _ = x.shape
        joint = self.query_key_value(self.input_norm(x)).view(sequences, length, -1, HEAD_DIM).transpose(1, 2)
        q, k, v = joint.split((self.heads, self.key_heads, self.key_heads), dim=1)
        q, k = turn(q, cosines, sines), turn(k, cosines, sines)
        group = self.heads // self.key_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(HEAD_DIM)) + mask
        attended = (scores.softmax(-1) @ v).transpose(1, 2).reshape(sequences, length, -1)
        x = x + self.output(attended)
        gate, up = self.gate_up(self.attention_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self, vocabulary, hidden, inner, layers, heads, key_heads):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.blocks = nn.ModuleList(Block(hidden, inner, heads, key_heads) for _ in range(layers))
        self.norm = RmsNorm(hidden)
        self.head = nn.Linear(hidden, vocabulary, bias=False)
        frequencies = 10_000.0 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.outer(torch.arange(LENGTH), frequencies).repeat(1, 2)
        self.register_buffer("cosines", angles.cos())
        self.register_buffer("sines", angles.sin())
        self.register_buffer("mask", torch.full((LENGTH, LENGTH), -math.inf).triu(1))
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cosines, self.sines, self.mask)
        return self.head(self.norm(x))


def main():
    arguments = [word for word in sys.argv[1:] if word != "--serve"]
    name, vocabulary, threads, steps = arguments[0], *map(int, arguments[1:4])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model = Decoder(vocabulary, *MODELS[name])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    place = torch.arange(SEQUENCES * (LENGTH + 1))

    def step(number):
        at = place + number * 7919
        tokens = ((at * at // 3 + at // 5) % vocabulary).view(SEQUENCES, LENGTH + 1)
        start, processor = time.perf_counter_ns(), time.process_time_ns()
        optimizer.zero_grad(set_to_none=True)
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return {
            "wall_ns": time.perf_counter_ns() - start,
            "processor_ns": time.process_time_ns() - processor,
            "loss": loss.item(),
        }

    for number in range(WARM_UP):
        step(number)
    if "--serve" in sys.argv:
        ready = {"torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters())}
        print(json.dumps(ready), flush=True)
        for number, _ in enumerate(sys.stdin):
            print(json.dumps(step(WARM_UP + number)), flush=True)
        return
    samples = [step(WARM_UP + number) for number in range(steps)]
    for part in ("processor_ns", "wall_ns"):
        print(part, sorted(sample[part] for sample in samples)[steps // 2] / 1e6, "ms")
    print("loss", [round(sample["loss"], 3) for sample in samples])


if __name__ == "__main__":
    main()
