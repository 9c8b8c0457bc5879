"""The fastest training step we could write by hand for one shape, for `bench_pretraining_cpu.py`.

All layers are one compiled function of plain tensors; attention goes in blocks of queries, the
loss in chunks that give their gradients at once, and freed memory is kept, as in the pipeline. It
has no ranks, schedules, checkpoints, history or checks.
"""

import torch
import torch.nn.functional as F
from pretraining_peers import batch, serve

from pipeline.model.attention import causal_attention
from pipeline.train.processor import kept_memory, precision_of_products

CHUNKS = 4


def ceiling(shape):
    width, layers, heads = shape["width"], shape["layers"], shape["heads"]
    size, length = width // heads, shape["length"]
    half = precision_of_products(shape["precision"], torch.device("cpu")) == "bf16"
    generator = torch.Generator().manual_seed(0)

    def drawn(rows, columns):
        made = torch.randn(rows, columns, generator=generator) * columns**-0.5
        return made.requires_grad_()

    embed, head = drawn(shape["vocabulary"], width), drawn(shape["vocabulary"], width)
    weights = [
        (
            drawn(3 * width, width),
            drawn(width, width),
            drawn(2 * shape["inner"], width),
            drawn(width, shape["inner"]),
        )
        for _ in range(layers)
    ]
    angles = torch.arange(length)[:, None] * 10000.0 ** -(torch.arange(0, size, 2) / size)
    cos, sin = angles.cos(), angles.sin()

    def turned(x):
        first, second = x.float().chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)

    def layer(x, query_key_value, out, up, down):
        rows = len(x)
        normed = F.layer_norm(x, (width,))
        q, k, v = (
            each.view(rows, length, heads, size).transpose(1, 2)
            for each in F.linear(normed, query_key_value).chunk(3, -1)
        )
        q, k = turned(q), turned(k)
        if q.dtype == torch.float32:
            mixed = causal_attention(*(each.flatten(0, 1) for each in (q, k, v))).view_as(q)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.linear(mixed.transpose(1, 2).reshape(rows, length, width), out)
        value, gate = F.linear(F.layer_norm(x, (width,)), up).chunk(2, -1)
        return x + F.linear(F.silu(gate) * value, down)

    @torch.compile(fullgraph=True)
    def hidden(ids):
        x = F.embedding(ids, embed)
        for each in weights:
            x = layer(x, *each)
        return F.layer_norm(x, (width,))

    @torch.compile(fullgraph=True)
    def chunk(rows, targets, matrix, matrix_grad):
        logits = (rows @ matrix.T).float()
        shares = logits.softmax(-1)
        loss = (logits.logsumexp(-1) - logits.gather(-1, targets[:, None])[:, 0]).sum()
        wanted = torch.arange(matrix.shape[0])[None] == targets[:, None]
        grad = (shares - wanted.float()).to(rows.dtype)
        matrix_grad += grad.T @ rows
        return loss, grad @ matrix

    parameters = [embed, head, *(each for layer in weights for each in layer)]
    optimizer = torch.optim.AdamW(
        parameters, lr=1e-3, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, fused=True
    )
    head.grad = torch.zeros_like(head)

    def step(number):
        ids = batch(shape, number)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            made = hidden(ids)
        rows, targets = made[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        kept = rows.detach()
        matrix = head.detach().to(kept.dtype)
        head.grad.zero_()
        total, grads = 0.0, []
        for some, those in zip(kept.chunk(CHUNKS), targets.chunk(CHUNKS), strict=True):
            loss, grad = chunk(some, those, matrix, head.grad)
            total += loss.detach()
            grads.append(grad)
        scale = 1 / len(targets)
        head.grad.mul_(scale)
        rows.backward(torch.cat(grads).mul_(scale))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        for each in parameters:
            if each is not head:
                each.grad = None
        return total * scale

    with kept_memory():
        serve(step)
