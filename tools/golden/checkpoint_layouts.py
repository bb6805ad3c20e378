"""Checkpoints as trainers write them, around one small state dict: tests/golden/checkpoints/*.pth

    python tools/golden/checkpoint_layouts.py

Each holds `conv1.weight` (2, 3, 1, 1) and `fc.bias` (2), and what its trainer keeps beside them.
"""
import pathlib
import pickle

import torch

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests/golden/checkpoints"
STATE = {"conv1.weight": torch.arange(6.0).reshape(2, 3, 1, 1) / 4, "fc.bias": torch.tensor([-1.0, 0.5])}
OTHER = {name: tensor + 10 for name, tensor in STATE.items()}


def prefixed(prefix, state=STATE):
    return {prefix + name: tensor for name, tensor in state.items()}


MOMENTUM = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
LAYOUTS = {
    "plain": STATE,
    # pytorch/examples imagenet/main.py
    "imagenet_example": {
        "epoch": 90, "arch": "resnet18", "state_dict": prefixed("module."),
        "best_acc1": torch.tensor(69.5), "optimizer": MOMENTUM,
    },
    # PyTorch's tutorial on saving a general checkpoint
    "tutorial": {"epoch": 5, "model_state_dict": STATE, "optimizer_state_dict": MOMENTUM, "loss": torch.tensor(0.4)},
    # RepDistiller's and mdistiller's
    "repdistiller": {"epoch": 240, "model": STATE, "accuracy": torch.tensor(92.5)},
    "lightning": {"epoch": 1, "pytorch-lightning_version": "2.0", "state_dict": prefixed("model.")},
    "averaged_model": {"n_averaged": torch.tensor(7), **prefixed("module.")},
    "model_state": {"model_state": STATE, "rng": torch.zeros(8, dtype=torch.uint8)},
    "ema_alone": {"model_ema": STATE, "step": 3},
    "own_key": {"config": {"lr": 0.1}, "my_weights": STATE, "scale": torch.tensor(1.0)},
    "nested": {"checkpoint": {"state_dict": STATE, "epoch": 3}},
    # MMDetection's EMA hook keeps averages as buffers of the model.
    "mmdetection_ema": {
        "meta": {}, "state_dict": {**STATE, **{"ema_" + n.replace(".", "_"): t + 10 for n, t in STATE.items()}},
    },
    "with_ema": {"model": STATE, "model_ema": OTHER},
    "student_and_teacher": {"student": STATE, "teacher": OTHER},
    "one_dict_of_two": {**prefixed("student."), **prefixed("teacher.", OTHER)},
}

if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for name, layout in LAYOUTS.items():
        torch.save(layout, OUT / f"{name}.pth")
    torch.save(LAYOUTS["repdistiller"], OUT / "repdistiller_legacy.pth", _use_new_zipfile_serialization=False)
    # Detectron2's model zoo: a pickle of numpy arrays.
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    (OUT / "detectron2.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2"}, protocol=4))
