"""Golden values of a whole review (ReviewKD) of a classifier whose maps are smaller than its teacher's, in float64.

    python3 tools/golden/review_chain.py tests/golden/review

Written from docs/METHODS.md with PyTorch's autograd, and not from the program. Inputs and parameters follow from the
generator of the golden values: maps of the student are streams 10, 11, .. from the finest, those of the teacher 20, 21, ..;
parameter number k, sorted by name, is stream 100 + k.
"""
import json
import pathlib
import sys

import torch
import torch.nn.functional as F

from meta_gradients import noise, write

IMAGES = 5
LEVELS = ("stage1", "stage2", "stage3", "embedding")
STUDENT = {"stage1": (6, 8), "stage2": (8, 4), "stage3": (12, 2), "embedding": (10, 1)}
TEACHER = {"stage1": (5, 16), "stage2": (7, 8), "stage3": (9, 4), "embedding": (9, 1)}
WIDTH = STUDENT["embedding"][0]


def shapes():
    found = {}
    for level in LEVELS:
        (inputs, _), (outputs, _) = STUDENT[level], TEACHER[level]
        for part, shape in (("reduce", (WIDTH, inputs, 1, 1)), ("expand", (outputs, WIDTH, 3, 3))):
            found[f"{level}.{part}.weight"] = shape
            found[f"{level}.{part}.bn.weight"] = found[f"{level}.{part}.bn.bias"] = shape[:1]
        if level != "embedding":
            found[f"{level}.attention.weight"], found[f"{level}.attention.bias"] = (2, 2 * WIDTH, 1, 1), (2,)
    return found


def filled():
    values = {}
    for k, (name, shape) in enumerate(sorted(shapes().items())):
        v = noise(100 + k, shape)
        if len(shape) > 1:
            v = v / torch.tensor(shape[1:]).prod().item() ** 0.5
        else:
            v = 1 + 0.1 * v if name.endswith("bn.weight") else 0.1 * v
        values[name] = v.float().double().requires_grad_()
    return values


def maps(stream, sides):
    tensors = {}
    for k, level in enumerate(LEVELS):
        width, side = sides[level]
        tensors[level] = noise(stream + k, (IMAGES, width, side, side)).float().double()
    return tensors


def conv_bn(x, p, name, padding):
    y = F.conv2d(x, p[name + ".weight"], padding=padding)
    return F.batch_norm(y, None, None, p[name + ".bn.weight"], p[name + ".bn.bias"], training=True, eps=1e-5)


def hcl(s, t):
    parts, weights = [F.mse_loss(s, t)], [1.0]
    for bins in (4, 2, 1):
        if bins < s.shape[2]:
            parts.append(F.mse_loss(F.adaptive_avg_pool2d(s, bins), F.adaptive_avg_pool2d(t, bins)))
            weights.append(weights[-1] / 2)
    return sum(w * p for w, p in zip(weights, parts)) / sum(weights)


def main(folder):
    p, student, teacher = filled(), maps(10, STUDENT), maps(20, TEACHER)
    student = {level: x.requires_grad_() for level, x in student.items()}
    above, losses = None, {}
    for level in reversed(LEVELS):
        x = conv_bn(student[level], p, level + ".reduce", 0)
        if above is not None:
            y = F.interpolate(above, x.shape[2:], mode="nearest")
            z = torch.sigmoid(F.conv2d(torch.cat([x, y], 1), p[level + ".attention.weight"], p[level + ".attention.bias"]))
            x = z[:, :1] * x + z[:, 1:] * y
        # Resized before the 3x3 convolution, and so passed on.
        above = F.interpolate(x, teacher[level].shape[2:], mode="nearest")
        losses[level] = hcl(conv_bn(above, p, level + ".expand", 1), teacher[level])
    sum(losses.values()).backward()
    attrs = dict(levels=list(LEVELS), images=IMAGES, student=STUDENT, teacher=TEACHER)
    attrs["losses"] = {level: loss.item() for level, loss in losses.items()}
    outputs, tensors = {}, {}
    for name, tensor in list(student.items()) + list(p.items()):
        tensors["review/" + name] = tensor.grad.float().contiguous()
        scale = tensor.grad.abs().max().item()
        outputs[name] = dict(shape=list(tensor.shape), dtype="float32", atol=2e-5 * scale)
    what = "losses by level, gradients of the student's maps and of the fusions, float64"
    case = dict(name="review", file="review.safetensors", what=what, attrs=attrs, inputs={}, outputs=outputs)
    folder.mkdir(exist_ok=True)
    write(folder / "review.safetensors", tensors)
    (folder / "index.json").write_text(json.dumps(dict(cases=[case]), indent=1) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
