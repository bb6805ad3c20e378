"""Golden gradients of L-MCL's meta step on networks with ReLUs: ResNet-8 beside ResNet-14, unrolled in float64.

In the cases `kinks` rounding moves some pre-activations across 0, whoever computes; in `away` none comes as near. Each with the
batch and with memories.

    python3 tools/golden/meta_gradients.py tests/golden/meta

Written from docs/METHODS.md with PyTorch's autograd, and not from the program. Weights and images follow from the
generator of the golden values: parameter number k of all trained ones, sorted by name, is stream 1000 + k; images are the
case's stream, the memories' rows streams 2 and 3, made unit. Each case has the errors of PyTorch's own float32 beside the
float64 truth: with oneDNN, without it, and with channels last.
"""
import json
import pathlib
import struct
import sys

import numpy
import torch
import torch.nn.functional as F

torch.set_num_threads(2)
WIDTH, CLASSES = 16, 10
DEPTHS = (8, 14)
REMEMBERED, COLUMNS = 28, 8
MOMENTUM, DECAY = 0.9, 5e-4
ALPHA, GAMMA, TAU, T = 0.1, 1.0, 0.1, 3.0
MASK = (1 << 64) - 1


def noise(stream, shape):
    """Elements of a stream of the generator: 24 bits in [-1, 1)."""
    with numpy.errstate(over="ignore"):
        z = numpy.arange(numpy.prod(shape), dtype=numpy.uint64)
        z += numpy.uint64(((stream + 1) * 0x9E3779B97F4A7C15) & MASK)
        z = (z ^ (z >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        z = (z ^ (z >> numpy.uint64(31))) >> numpy.uint64(40)
    return torch.from_numpy(z.astype(numpy.float64) / (1 << 23) - 1.0).reshape(shape)


def tail_shapes(prefix, depth, stage):
    """The stages behind `stage`, and the linear layer."""
    shapes, inputs = {}, (16, 16, 32, 64)[stage]
    for s in range(stage, 3):
        width = (16, 32, 64)[s]
        for b in range((depth - 2) // 6):
            at = f"{prefix}layer{s + 1}.{b}."
            shapes[at + "conv1.weight"] = (width, inputs, 3, 3)
            shapes[at + "conv2.weight"] = (width, width, 3, 3)
            norms = ["bn1", "bn2"]
            if inputs != width:
                shapes[at + "downsample.0.weight"] = (width, inputs, 1, 1)
                norms.append("downsample.1")
            for norm in norms:
                shapes[at + norm + ".weight"] = shapes[at + norm + ".bias"] = (width,)
            inputs = width
    shapes[prefix + "fc.weight"], shapes[prefix + "fc.bias"] = (CLASSES, 64), (CLASSES,)
    return shapes


def all_shapes():
    theta, phi = {}, {}
    for m, depth in enumerate(DEPTHS):
        theta[f"peer.{m}.conv1.weight"] = (16, 3, 3, 3)
        theta[f"peer.{m}.bn1.weight"] = theta[f"peer.{m}.bn1.bias"] = (16,)
        theta |= tail_shapes(f"peer.{m}.", depth, 0)
        for stage in (1, 2):
            theta |= tail_shapes(f"heads.{m}.branch.{stage}.", depth, stage)
        for l in range(3):
            for part, inputs in ((0, 64), (2, WIDTH)):
                theta[f"heads.{m}.embed.{l}.{part}.weight"] = (WIDTH, inputs)
                theta[f"heads.{m}.embed.{l}.{part}.bias"] = (WIDTH,)
            phi[f"match.{m}.{l}.weight"], phi[f"match.{m}.{l}.bias"] = (WIDTH, 64), (WIDTH,)
    return theta, phi


def filled():
    theta, phi = all_shapes()
    values = {}
    for k, name in enumerate(sorted(theta | phi)):
        shape = (theta | phi)[name]
        v = noise(1000 + k, shape)
        if len(shape) > 1:
            v = v / torch.tensor(shape[1:]).prod().item() ** 0.5
        elif name.endswith("weight"):
            v = 1 + 0.1 * v
        else:
            v = 0.1 * v
        values[name] = v.float().double()
    return {n: values[n] for n in theta}, {n: values[n] for n in phi}


def relu(x):
    """ReLU, which notes how near to 0 its inputs come."""
    relu.nearest = min(relu.nearest, x.detach().abs().min().item())
    return F.relu(x)


def norm(x, p, name):
    return F.batch_norm(x, None, None, p[name + ".weight"], p[name + ".bias"], training=True, eps=1e-5)


def run_tail(x, p, prefix, depth, stage):
    maps = []
    for s in range(stage, 3):
        for b in range((depth - 2) // 6):
            at = f"{prefix}layer{s + 1}.{b}."
            stride = 2 if s > 0 and b == 0 else 1
            y = relu(norm(F.conv2d(x, p[at + "conv1.weight"], stride=stride, padding=1), p, at + "bn1"))
            y = norm(F.conv2d(y, p[at + "conv2.weight"], padding=1), p, at + "bn2")
            if at + "downsample.0.weight" in p:
                x = norm(F.conv2d(x, p[at + "downsample.0.weight"], stride=stride), p, at + "downsample.1")
            x = relu(y + x)
        maps.append(x)
    f = x.mean((2, 3))
    return maps, f, F.linear(f, p[prefix + "fc.weight"], p[prefix + "fc.bias"])


def layers(x, p):
    """(features, logits, embedding) of every layer of every network."""
    found = []
    for m, depth in enumerate(DEPTHS):
        stem = relu(norm(F.conv2d(x, p[f"peer.{m}.conv1.weight"], padding=1), p, f"peer.{m}.bn1"))
        maps, *last = run_tail(stem, p, f"peer.{m}.", depth, 0)
        own = [run_tail(maps[s - 1], p, f"heads.{m}.branch.{s}.", depth, s)[1:] for s in (1, 2)] + [last]
        found.append([])
        for l, (f, z) in enumerate(own):
            at = f"heads.{m}.embed.{l}."
            u = F.linear(relu(F.linear(f, p[at + "0.weight"], p[at + "0.bias"])), p[at + "2.weight"], p[at + "2.bias"])
            found[-1].append((f, z, F.normalize(u)))
    return found


def klt(g, target, w):
    t = F.log_softmax(target.detach() / T, 1)
    return T * T * (w * (t.exp() * (t - F.log_softmax(g / T, 1))).sum(1)).mean()


def nce(g, labels, w):
    off = ~torch.eye(len(g), dtype=bool)
    positive = (labels[:, None] == labels[None]) & off
    logp = g - g.masked_fill(~off, -torch.inf).logsumexp(1, keepdim=True)
    return (w * -(logp * positive).sum(1) / positive.sum(1)).mean()


def first_columns(g, count, w):
    return (w * (g.logsumexp(1) - g[:, :count].mean(1))).mean()


def memories(dtype):
    rows = [noise(2 + m, (REMEMBERED, WIDTH)) for m in range(2)]
    return [(r / r.norm(dim=1, keepdim=True)).float().to(dtype) for r in rows]


def drawn(images):
    """The rows of the memories that each image is compared with: itself, one of its class, others."""
    return (5 * torch.arange(images)[:, None] + 11 * torch.arange(COLUMNS)) % REMEMBERED


def inner(x, labels, theta, phi, remembered):
    found, total = layers(x, theta), 0
    for l in range(3):
        for k in range(3):
            (f, _, u), (h, _, v) = found[0][l], found[1][k]
            a = F.linear(f, phi[f"match.0.{l}.weight"], phi[f"match.0.{l}.bias"])
            b = F.linear(h, phi[f"match.1.{k}.weight"], phi[f"match.1.{k}.bias"])
            w = F.cosine_similarity(a, b).sigmoid()
            if remembered:
                rows = [bank[drawn(len(x))] for bank in memories(x.dtype)]
                to = lambda e, m: torch.einsum("bd,bkd->bk", e, rows[m]) / TAU
                uu, vv, uv, vu = to(u, 0)[:, 1:], to(v, 1)[:, 1:], to(u, 1), to(v, 0)
                contrast = sum(first_columns(g, 1, w) for g in (uu, vv)) + sum(first_columns(g, 2, w) for g in (uv, vu))
            else:
                uu, vv, uv, vu = u @ u.T / TAU, v @ v.T / TAU, u @ v.T / TAU, v @ u.T / TAU
                contrast = nce(uu, labels, w) + nce(vv, labels, w) + nce(uv, labels, w) + nce(vu, labels, w)
            soft = klt(uu, vv, w) + klt(vv, uu, w) + klt(uv, vu, w) + klt(vu, uv, w)
            total = total + 2 * (ALPHA * contrast + GAMMA * soft)
    return total


def outer(x, labels, theta):
    return sum(F.cross_entropy(z, labels) for own in layers(x, theta) for _, z, _ in own)


def unrolled(case, dtype, layout=torch.contiguous_format):
    steps, lr, remembered = case["steps"], case["lr"], case["remembered"]
    relu.nearest = torch.inf
    theta, phi = filled()
    theta = {n: t.to(dtype).requires_grad_() for n, t in theta.items()}
    phi = {n: t.to(dtype).requires_grad_() for n, t in phi.items()}
    x = noise(case["stream"], (case["images"], 3, case["side"], case["side"])).to(dtype).contiguous(memory_format=layout)
    labels = torch.arange(case["images"]) % case["classes"]
    velocity = {n: torch.zeros_like(t) for n, t in theta.items()}
    for step in range(steps + 1):
        loss = inner(x, labels, theta, phi, remembered) if step < steps else outer(x, labels, theta)
        slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True, allow_unused=True)
        for (n, t), g in zip(list(theta.items()), slopes):
            velocity[n] = MOMENTUM * velocity[n] + DECAY * t + (0 if g is None else g)
            theta[n] = t - lr * velocity[n]
    loss = outer(x, labels, theta)
    return loss.item(), dict(zip(phi, torch.autograd.grad(loss, list(phi.values()))))


def write(path, tensors):
    header, body = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.numpy().astype("<f4").tobytes()
        header[name] = dict(dtype="F32", shape=list(tensor.shape), data_offsets=[len(body), len(body) + len(raw)])
        body += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def cases():
    kinks = dict(images=64, side=16, stream=1, classes=10, lr=0.05)
    away = dict(images=16, side=4, stream=10, classes=4, lr=0.01)
    return {
        "kinks/two_updates": dict(kinks, steps=2, remembered=False),
        "kinks/four_updates": dict(kinks, steps=4, remembered=False),
        "kinks/memories": dict(kinks, steps=2, remembered=True),
        "away/batch": dict(away, steps=2, remembered=False),
        "away/memories": dict(away, steps=2, remembered=True),
    }


def main(folder):
    entries, tensors = [], {}
    for name, case in cases().items():
        loss, exact = unrolled(case, torch.float64)
        nearest = relu.nearest
        flat = lambda g: torch.cat([t.double().flatten() for t in g.values()])
        errors = []
        for onednn, layout in [(True, torch.contiguous_format), (False, torch.contiguous_format), (True, torch.channels_last)]:
            with torch.backends.mkldnn.flags(enabled=onednn):
                _, single = unrolled(case, torch.float32, layout)
            errors.append(((flat(single) - flat(exact)).norm() / flat(exact).norm()).item())
        print(f"{name}: F {loss:.6f}, |g| {flat(exact).norm():.3e}, nearest pre-activation {nearest:.1e}, "
              f"float32 of PyTorch: {', '.join(f'{error:.2e}' for error in errors)}", flush=True)
        attrs = dict(case, loss=loss, torch_errors=errors, nearest=nearest)
        outputs = {}
        for n, g in exact.items():
            tensors[f"{name}/{n}"] = g.float().contiguous()
            outputs[n] = dict(shape=list(g.shape), dtype="float32")
        what = "dF/dphi through the unrolled updates, float64"
        entries.append(dict(name=name, file="meta.safetensors", what=what, attrs=attrs, inputs={}, outputs=outputs))
    folder.mkdir(exist_ok=True)
    write(folder / "meta.safetensors", tensors)
    settings = dict(width=WIDTH, momentum=MOMENTUM, weight_decay=DECAY, remembered=REMEMBERED, columns=COLUMNS)
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    (folder / "index.json").write_text(f'{{"settings": {json.dumps(settings)},\n"cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
