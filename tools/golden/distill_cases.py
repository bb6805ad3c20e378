"""Golden values of distillation losses that the large golden set has no case for.

    python3 tools/golden/distill_cases.py tests/golden/own

Float64 PyTorch, written from the formulas in docs/METHODS.md and not from the program; inputs are f32 numbers. Writes
index.json and distill.safetensors in the form of the large set, with an atol of 2e-5 of the largest value (at least of a hundredth of the case's largest).
"""
import json
import pathlib
import struct
import sys

import torch
import torch.nn.functional as F

torch.set_num_threads(1)


def noise(seed, *shape, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=generator, dtype=torch.float32) * 2 - 1) * scale


CASES = []


def case(name, what, attrs, inputs, loss, tracked):
    """`loss` of the f64 inputs is a scalar, or a dict of which `loss` is the scalar that gradients are of."""
    exact = {k: v.double().requires_grad_(k in tracked) if v.is_floating_point() else v for k, v in inputs.items()}
    result = loss(**exact)
    outputs = result if isinstance(result, dict) else {"loss": result}
    outputs["loss"].backward()
    out = {k: v.detach() for k, v in outputs.items()}
    out |= {f"grad_{k}": exact[k].grad for k in tracked}
    CASES.append((name, what, attrs, inputs, out))


def ka(x, y):
    k, l = x @ x.T, y @ y.T
    return (k * l).sum() / torch.sqrt((k * k).sum() * (l * l).sum())


def icd_student_anchors(s, t, theta):
    z = theta.exp().clamp(0, 10) * F.normalize(s) @ F.normalize(t).T
    p, q = F.log_softmax(z, 1), F.log_softmax(z.T, 1)
    return (p.exp() * (p - q)).sum() / len(z)


def dist_sigmoid(teacher, student):
    def pearson(a, b):
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)

    t, s = (teacher / 2).sigmoid(), (student / 2).sigmoid()
    inter, intra = 4 * (1 - pearson(s, t).mean()), 4 * (1 - pearson(s.T, t.T).mean())
    return {"loss": inter + intra, "inter": inter, "intra": intra}


def icl_included(u, v, labels):
    def nce(g):
        positive = (labels[:, None] == labels[None]).double()
        return -((positive * F.log_softmax(g, 1)).sum(1) / positive.sum(1)).mean()

    return nce(u @ v.T / 0.5) + nce(v @ u.T / 0.5)


def memory_contrast(u, memory, drawn, weights):
    g = torch.einsum("bd,bkd->bk", u, memory[drawn]) / 0.07
    return (-F.log_softmax(g, 1)[:, :2].mean(1) * weights).mean()


def context_block(x, p):
    n, c, h, w = x.shape
    mask = F.conv2d(x, p["attention.weight"], p["attention.bias"]).view(n, 1, h * w).softmax(2)
    seen = (x.view(n, c, h * w) * mask).sum(2)
    y = F.linear(seen, p["reduce.weight"], p["reduce.bias"])
    y = F.layer_norm(y, y.shape[1:], p["norm.weight"], p["norm.bias"]).relu()
    return x + F.linear(y, p["expand.weight"], p["expand.bias"])[:, :, None, None]


def fgd_context(teacher, student, **params):
    side = lambda name: {k[len(name) + 1 :].replace("__", "."): v for k, v in params.items() if k.startswith(name)}
    own, theirs = context_block(student, side("student")), context_block(teacher, side("teacher"))
    return ((own - theirs) ** 2).sum() / len(student)


def regressor(teacher, student, weight, scale, shift):
    y = F.batch_norm(F.conv2d(student, weight), None, None, scale, shift, training=True, eps=1e-5).relu()
    return F.mse_loss(y, teacher)


def crossed_points(logits, distances, teacher_logits, teacher_distances, counts, divisor):
    q = teacher_logits.sigmoid()
    difference = (logits.sigmoid() - q).abs() * F.binary_cross_entropy_with_logits(logits, q, reduction="none")
    by_class = (difference.sum(1) * counts).sum() / divisor
    area = lambda d: (d[:, 0] + d[:, 2]) * (d[:, 1] + d[:, 3])
    inner = torch.minimum(distances, teacher_distances)
    union = area(distances) + area(teacher_distances) - area(inner)
    iou = (area(inner) / union.clamp(min=1e-6)).clamp(min=1e-6)
    by_box = (-iou.log() * q.max(1).values * counts).sum() / divisor
    return {"loss": by_class + by_box, "loss_cls": by_class, "loss_reg": by_box}


def points():
    """Distances from points with what is no accident of random numbers: a box without width, one that is the teacher's."""
    student, teacher = noise(51, 9, 4).abs() * 3, noise(52, 9, 4).abs() * 3
    student[1, [0, 2]], student[2] = 0, teacher[2]
    return student, teacher


def main(folder):
    case("fcka/features", "1 - ka of the flattened maps", {}, {"teacher": noise(1, 6, 4, 3, 5), "student": noise(2, 6, 3, 2, 2)},
         lambda teacher, student: 1 - ka(teacher.flatten(1), student.flatten(1)), ["student"])
    case("icd/student_anchors", "mean_i KL(P_i || Q_i)", {}, {"s": noise(3, 7, 5), "t": noise(4, 7, 5), "theta": torch.tensor([0.9])},
         lambda s, t, theta: icd_student_anchors(s, t, theta[0]), ["s", "t", "theta"])
    case("dist/sigmoid", "DIST of sigmoids, tau 2", {"tau": 2.0}, {"teacher": noise(5, 7, 4, scale=3.0), "student": noise(6, 7, 4, scale=3.0)},
         dist_sigmoid, ["student"])
    case("mcl/icl_included", "ICL whose positives and denominators include the image itself, tau 0.5", {"tau": 0.5},
         {"u": F.normalize(noise(10, 6, 5)), "v": F.normalize(noise(11, 6, 5)), "labels": torch.tensor([0, 0, 1, 2, 1, 3])},
         icl_included, ["u", "v"])
    case("memory", "contrast with a memory: the first 2 of 6 columns are positives, tau 0.07", {"tau": 0.07, "positives": 2},
         {"u": F.normalize(noise(12, 4, 5)), "memory": F.normalize(noise(13, 20, 5)),
          "drawn": torch.randint(0, 20, (4, 6), generator=torch.Generator().manual_seed(1)), "weights": noise(14, 4).abs()},
         memory_contrast, ["u", "weights"])
    shapes = {"attention__weight": (1, 6, 1, 1), "attention__bias": (1,), "reduce__weight": (3, 6), "reduce__bias": (3,),
              "norm__weight": (3,), "norm__bias": (3,), "expand__weight": (6, 3), "expand__bias": (6,)}
    params = {f"{side}_{name}": noise(20 + i + 10 * j, *shape) for j, side in enumerate(["student", "teacher"])
              for i, (name, shape) in enumerate(shapes.items())}
    case("fgd/context", "FGD's context term; side_layer__weight are the blocks' parameters", {},
         {"teacher": noise(15, 2, 6, 4, 5), "student": noise(16, 2, 6, 4, 5), **params}, fgd_context, ["student", *params])
    case("fitnet/conv_bn_relu", "MSE through a 1x1 convolution, batch norm, ReLU", {},
         {"teacher": noise(17, 2, 6, 4, 5), "student": noise(18, 2, 3, 4, 5), "weight": noise(19, 6, 3, 1, 1),
          "scale": 1 + noise(40, 6, scale=0.1), "shift": noise(41, 6, scale=0.1)}, regressor, ["student", "weight", "scale", "shift"])
    student, teacher = points()
    counts = torch.tensor([1.0, 1, 1, 1, 0, 1, 1, 1, 1])
    case("cross_kd/points", "CrossKD's losses for FCOS: quality focal loss with beta 1, -ln IoU of boxes around one point each weighted by the "
         "teacher's confidence, both over the sum of the positive points' centerness; row 1 has no width, row 2 is the teacher's, row 4 does not count",
         {"divisor": 1.7}, {"logits": noise(53, 9, 3, scale=3.0), "distances": student, "teacher_logits": noise(54, 9, 3, scale=3.0),
         "teacher_distances": teacher, "counts": counts}, lambda **tensors: crossed_points(**tensors, divisor=1.7), ["logits", "distances"])
    write(pathlib.Path(folder))


def write(folder):
    index, header, body = [], {}, b""
    for name, what, attrs, inputs, outputs in CASES:
        # A gradient that is 0 for a reason is one only up to the rounding of what cancels.
        least = 0.01 * max(tensor.abs().max().item() for tensor in outputs.values())
        entry = {"name": name, "file": "distill.safetensors", "what": what, "attrs": attrs, "inputs": {}, "outputs": {}}
        for kind, tensors in [("inputs", inputs), ("outputs", outputs)]:
            for key, tensor in tensors.items():
                integer = not tensor.is_floating_point()
                data = tensor.contiguous().numpy().astype("<i8" if integer else "<f4").tobytes()
                header[f"{name}/{key}"] = {"dtype": "I64" if integer else "F32", "shape": list(tensor.shape),
                                           "data_offsets": [len(body), len(body) + len(data)]}
                body += data
                entry[kind][key] = {"shape": list(tensor.shape), "dtype": "int64" if integer else "float32"}
                if kind == "outputs":
                    entry[kind][key]["atol"] = float(f"{2e-5 * max(tensor.abs().max().item(), least):.1e}")
        index.append(entry)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "distill.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)
    (folder / "index.json").write_text(json.dumps({"cases": index}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
