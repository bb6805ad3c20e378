"""Golden values of 20 steps of PyTorch's AdamW and of its exponential moving average of weights.

    pip install torch
    python3 tools/golden/optimiser_cases.py detectors/kernels/tests/golden/optimisers

Parameters and gradients follow from the generator of the golden files (`tests/support/golden.rs`): gradients of step t are
stream `gradients` + t, element 0 of each is 0. Only what PyTorch made of them in float64 is stored, with an atol of
2e-6 of the largest value: 20 steps in f32 round no more than that.
"""
import json
import pathlib
import struct
import sys

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

STEPS = 20
torch.set_num_threads(1)


def values(stream, shape, scale):
    gold = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        z = np.uint64(stream) * gold + np.arange(int(np.prod(shape)), dtype=np.uint64) + gold
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    unit = (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1.0
    return torch.from_numpy((unit * scale).astype(np.float32).reshape(shape))


def gradient(case, step):
    g = values(case["gradients"] + step, case["shape"], case["gradient_scale"])
    g.view(-1)[0] = 0
    return g


def adamw(case, dtype):
    param = torch.nn.Parameter(values(case["param"], case["shape"], 1.0).to(dtype))
    optimiser = torch.optim.AdamW(
        [param],
        lr=case["lr"],
        betas=(case["beta1"], case["beta2"]),
        eps=case["eps"],
        weight_decay=case["weight_decay"],
        foreach=False,
    )
    out = {}
    for step in range(1, STEPS + 1):
        param.grad = gradient(case, step).to(dtype)
        optimiser.step()
        if step in (1, STEPS):
            out[f"param_{step}"] = param.detach().clone()
    state = optimiser.state[param]
    return out | {"first": state["exp_avg"], "second": state["exp_avg_sq"]}


class Weights(torch.nn.Module):
    def __init__(self, tensor):
        super().__init__()
        self.param = torch.nn.Parameter(tensor)


def ema(case):
    """The average starts as the first weights; those of step t are stream `gradients` + t."""
    weights = Weights(values(case["param"], case["shape"], 1.0).double())
    average = AveragedModel(weights, multi_avg_fn=get_ema_multi_avg_fn(case["decay"]))
    average.update_parameters(weights)
    for step in range(1, STEPS + 1):
        weights.param.data.copy_(gradient(case, step))
        average.update_parameters(weights)
    return {"average": average.module.param.detach()}


ADAMW = [
    ("defaults", dict(shape=[37], lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, gradient_scale=1.0)),
    ("no_decay", dict(shape=[5, 7], lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, gradient_scale=0.01)),
    ("convolution", dict(shape=[3, 4, 3, 2], lr=0.05, beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.1, gradient_scale=3.0)),
]
EMA = [
    ("vector", dict(shape=[41], decay=0.9, gradient_scale=1.0)),
    ("convolution", dict(shape=[3, 4, 3, 2], decay=0.999, gradient_scale=2.0)),
]


def main(target):
    cases, header, parts, offset = [], {}, [], 0
    stream = 2_700_000
    for kind, table in (("adamw", ADAMW), ("ema", EMA)):
        for name, attrs in table:
            attrs = attrs | {"steps": STEPS, "param": stream, "gradients": stream + 1}
            stream += 100
            out = adamw(attrs, torch.float64) if kind == "adamw" else ema(attrs)
            atols = {key: 2e-6 * float(value.abs().max()) for key, value in out.items()}
            if kind == "adamw":
                # The same steps in PyTorch's own f32 keep these tolerances.
                for key, value in adamw(attrs, torch.float32).items():
                    assert (value.double() - out[key]).abs().max() <= atols[key], (name, key)
            full = f"{kind}/{name}"
            outputs = {key: {"shape": list(value.shape), "atol": atols[key]} for key, value in out.items()}
            cases.append({"name": full, "file": "optimisers.safetensors", "attrs": attrs, "inputs": {}, "outputs": outputs})
            for key, value in out.items():
                raw = value.contiguous().to(torch.float32).numpy().tobytes()
                spot = [offset, offset + len(raw)]
                header[f"{full}/{key}"] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": spot}
                parts.append(raw)
                offset += len(raw)
    versions = {"torch": torch.__version__}
    index = {"format": 1, "made_by": "tools/golden/optimiser_cases.py", "versions": versions, "cases": cases}
    target.mkdir(parents=True, exist_ok=True)
    (target / "index.json").write_text(json.dumps(index, separators=(",", ":")) + "\n")
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (target / "optimisers.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
