"""Golden values of parameter groups: 20 steps of PyTorch's AdamW and SGD over three groups with clipping, a falling
learning rate, a parameter that has no gradient at times, and the average of the weights after each step.

    pip install torch
    python3 tools/golden/optimiser_groups.py tests/golden/own/optimiser_groups.json

Everything is float64 but begins with numbers that f32 holds exactly. `tests/optim.rs` reads the file.
"""
import json
import pathlib
import sys

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

STEPS, DECAY, CLIP = 20, 0.9, 1.0
SETTINGS = {
    "adamw": dict(weight_decay=0.05, betas=(0.8, 0.95), eps=1e-6),
    "sgd": dict(weight_decay=0.05, momentum=0.9, nesterov=True),
}


class Net(torch.nn.Module):
    def __init__(self, generator):
        super().__init__()
        draw = lambda *shape: torch.randn(*shape, generator=generator).double()
        self.backbone = torch.nn.Parameter(draw(2, 3))
        self.norm = torch.nn.Parameter(draw(4))
        self.head = torch.nn.Parameter(draw(3, 2))


def run(kind):
    generator = torch.Generator().manual_seed(7)
    net = Net(generator)
    groups = [
        {"params": [net.backbone], "factor": 0.1},
        {"params": [net.norm], "factor": 1.0, "weight_decay": 0.0},
        {"params": [net.head], "factor": 1.0},
    ]
    rule = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[kind]
    optimiser = rule(groups, lr=0.02, **SETTINGS[kind])
    average = AveragedModel(net, avg_fn=get_ema_avg_fn(DECAY))
    names = dict(net.named_parameters())
    start = {name: param.detach().flatten().tolist() for name, param in names.items()}
    steps = []
    for step in range(STEPS):
        lr = 0.02 * (1 - step / 25)
        for group in optimiser.param_groups:
            group["lr"] = lr * group["factor"]
        gradients = {}
        for name, param in names.items():
            gradient = torch.randn(param.shape, generator=generator).double()
            # In steps 3 and 4 nothing depends on the head.
            param.grad = None if name == "head" and step in (3, 4) else gradient.clone()
            gradients[name] = None if param.grad is None else gradient.flatten().tolist()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP).item()
        optimiser.step()
        average.update_parameters(net)
        steps.append({"lr": lr, "gradients": gradients, "norm": norm})
    averaged = dict(average.module.named_parameters())
    return {
        "start": start,
        "steps": steps,
        "weights": {name: param.detach().flatten().tolist() for name, param in names.items()},
        "average": {name: param.detach().flatten().tolist() for name, param in averaged.items()},
    }


if __name__ == "__main__":
    document = {"torch": torch.__version__, "decay": DECAY, "clip": CLIP, "cases": {kind: run(kind) for kind in SETTINGS}}
    pathlib.Path(sys.argv[1]).write_text(json.dumps(document, separators=(",", ":")) + "\n")
