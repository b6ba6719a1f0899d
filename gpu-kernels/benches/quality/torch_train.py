"""Trains or judges a model in f32 by a plan of `compare.py`: transformers' Llama, PyTorch's AdamW and clipping, and Muon
where the plan says so.

    python torch_train.py train PLAN FOLDER TRAINED
    python torch_train.py judge PLAN FOLDER

Takes the plans, and prints the line of JSON, of the example `quality` of manta-gpu-kernels.
"""

import json
import sys
import time

import numpy
import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM

SEQUENCES_AT_ONCE = 16


def rows(path, length):
    return torch.from_numpy(numpy.fromfile(path, dtype="<u4").astype(numpy.int64)).view(-1, length + 1)


def losses(model, tokens, reduction):
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction=reduction)


def judge(model, tokens):
    with torch.no_grad():
        total = sum(losses(model, part, "sum").double().item() for part in tokens.split(SEQUENCES_AT_ONCE))
    return total / (len(tokens) * (tokens.shape[1] - 1))


def rate(optimizer, step):
    """The learning rate of a step, from 0: as `docs/arithmetic.md` has it, section 7."""
    highest, last = optimizer["learning_rate"], optimizer["final_fraction"]
    warmup, start, total = (optimizer[name] for name in ("warmup_steps", "decay_start_step", "total_steps"))
    if step < warmup:
        return highest * (step + 1) / warmup
    if step < start:
        return highest
    return highest * (1 - (1 - last) * (step - start) / (total - start))


class Muon:
    """Muon (Jordan et al. 2024) in f32, with steps of the size of AdamW's (Liu et al. 2025)."""

    def __init__(self, matrices, weight_decay):
        self.matrices, self.weight_decay = matrices, weight_decay
        self.momenta = [torch.zeros_like(matrix) for matrix in matrices]

    @torch.no_grad()
    def step(self, rate):
        for matrix, momentum in zip(self.matrices, self.momenta):
            momentum.lerp_(matrix.grad, 0.05)
            x = matrix.grad.lerp(momentum, 0.95)
            matrix.mul_(1 - rate * self.weight_decay)
            matrix.sub_(orthogonal(x / (x.norm() + 1e-7)), alpha=rate * 0.2 * max(x.shape) ** 0.5)


def orthogonal(x):
    if x.shape[0] > x.shape[1]:
        return orthogonal(x.T).T
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * (gram @ gram)) @ x
    return x


def train(model, plan):
    optimizer, arithmetic = plan["optimizer"], plan["arithmetic"]
    tokens = rows(plan["training"], arithmetic["sequence_length"])
    batches = tokens.split(arithmetic["micro_batch_sequences"])
    assert len(batches) >= optimizer["total_steps"], len(batches)
    parameters = list(model.parameters())
    of_blocks = [p for name, p in model.named_parameters() if p.dim() == 2 and name.startswith("model.layers.")]
    muon = Muon(of_blocks if optimizer.get("kind") == "muon" else [], optimizer["weight_decay"])
    orthogonalized = {id(matrix) for matrix in muon.matrices}
    matrices = [p for p in parameters if p.dim() == 2 and id(p) not in orthogonalized]
    groups = [
        dict(params=matrices, weight_decay=optimizer["weight_decay"]),
        dict(params=[p for p in parameters if p.dim() != 2], weight_decay=0.0),
    ]
    betas = (optimizer["beta1"], optimizer["beta2"])
    adam = torch.optim.AdamW(groups, lr=optimizer["learning_rate"], betas=betas, eps=optimizer["epsilon"])
    history = []
    for step in range(optimizer["total_steps"]):
        for group in adam.param_groups:
            group["lr"] = rate(optimizer, step)
        model.zero_grad(set_to_none=True)
        loss = losses(model, batches[step], "mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, optimizer["gradient_clip_norm"])
        adam.step()
        muon.step(rate(optimizer, step))
        history.append(loss.item())
    return history


def main():
    command, path, folder = sys.argv[1:4]
    plan = json.load(open(path))
    torch.set_num_threads(plan["threads"])
    started = time.perf_counter()
    model = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, attn_implementation="eager")
    validation = rows(plan["validation"], plan["arithmetic"]["sequence_length"])
    report = {}
    if command == "train":
        report["training"] = train(model, plan)
        report["seconds"] = time.perf_counter() - started
        model.save_pretrained(sys.argv[4])
    report["validation"] = judge(model, validation)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
