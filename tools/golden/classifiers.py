"""Writes what PyTorch makes of every classifier for 32x32 pixels, and of the MobileNets for ImageNet.

    python3 tools/golden/classifiers.py tests/golden/classifiers.json     (torch, torchvision; about a minute)

The networks are defined here from the papers and the published weights' names, in f64. Tensor i of a network, in the byte
order of the names without batch norms' counters, is filled from stream 7000 + i of the generator of
tests/golden/lib.rs; the two images come from stream 6999. Stored: logits in inference and in training, the gradient of
the mean cross-entropy with labels 3 and 7, and tolerances: 20 times the error of PyTorch's own f32.
"""
import json
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)


def stream(number, count):
    gold, mask = 0x9E3779B97F4A7C15, np.uint64((1 << 64) - 1)
    with np.errstate(over="ignore"):
        z = np.uint64((number * gold + gold) & int(mask)) + np.arange(count, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**23 - 1


def conv(i, o, k=3, s=1, g=1, bias=False):
    return nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=bias)


class Basic(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(i, o, 3, s), nn.BatchNorm2d(o), conv(o, o), nn.BatchNorm2d(o)
        self.downsample = nn.Sequential(conv(i, o, 1, s), nn.BatchNorm2d(o)) if s != 1 or i != o else None

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet(nn.Module):
    def __init__(self, depth, widths):
        super().__init__()
        self.conv1, self.bn1 = conv(3, widths[0]), nn.BatchNorm2d(widths[0])
        for stage in range(3):
            blocks = [Basic(widths[stage] if b == 0 else widths[stage + 1], widths[stage + 1], 2 if stage and b == 0 else 1)
                      for b in range((depth - 2) // 6)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(widths[3], 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


class Bottleneck(nn.Module):
    def __init__(self, i, m, s, shortcut):
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(i, m, 1), nn.BatchNorm2d(m), conv(m, m, 3, s), nn.BatchNorm2d(m)
        self.conv3, self.bn3, self.by = conv(m, 4 * m, 1), nn.BatchNorm2d(4 * m), shortcut
        setattr(self, shortcut, nn.Sequential(conv(i, 4 * m, 1, s), nn.BatchNorm2d(4 * m)) if s != 1 or i != 4 * m else nn.Sequential())

    def forward(self, x):
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(y)) + getattr(self, self.by)(x))


class Bottlenecks(nn.Module):
    def __init__(self, width, counts, shortcut, head):
        super().__init__()
        self.conv1, self.bn1, i, self.stages, self.head = conv(3, width), nn.BatchNorm2d(width), width, len(counts), head
        for stage, count in enumerate(counts):
            blocks = []
            for b in range(count):
                blocks.append(Bottleneck(i, width << stage, 2 if stage and b == 0 else 1, shortcut))
                i = 4 * width << stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        setattr(self, head, nn.Linear(i, 10))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.bn1, self.conv1, self.bn2, self.conv2 = nn.BatchNorm2d(i), conv(i, o, 3, s), nn.BatchNorm2d(o), conv(o, o)
        self.convShortcut = conv(i, o, 1, s) if i != o else None

    def forward(self, x):
        y = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(y)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(y))))


class Stage(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class Wide(nn.Module):
    def __init__(self, depth, k):
        super().__init__()
        n, w = (depth - 4) // 6, [16, 16 * k, 32 * k, 64 * k]
        self.conv1 = conv(3, 16)
        self.block1, self.block2, self.block3 = (
            Stage([WideBlock(w[s] if b == 0 else w[s + 1], w[s + 1], 2 if s and b == 0 else 1) for b in range(n)]) for s in range(3))
        self.bn1, self.fc = nn.BatchNorm2d(w[3]), nn.Linear(w[3], 10)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))


class Vgg(nn.Module):
    def __init__(self, counts):
        super().__init__()
        i = 3
        for b, (n, w) in enumerate(zip(counts, (64, 128, 256, 512, 512))):
            layers = []
            for _ in range(n):
                layers += [conv(i, w, bias=True), nn.BatchNorm2d(w), nn.ReLU()]
                i = w
            setattr(self, f"block{b}", nn.Sequential(*layers[:-1]))
        self.classifier = nn.Linear(512, 10)

    def forward(self, x):
        for b in range(5):
            x = F.relu(getattr(self, f"block{b}")(x))
            x = F.max_pool2d(x, 2) if b < 3 else x
        return self.classifier(x.mean((2, 3)))


class Inverted(nn.Module):
    def __init__(self, i, o, s, t):
        super().__init__()
        self.adds, m = s == 1 and i == o, i * t
        self.conv = nn.Sequential(conv(i, m, 1), nn.BatchNorm2d(m), nn.ReLU(), conv(m, m, 3, s, m), nn.BatchNorm2d(m),
                                  nn.ReLU(), conv(m, o, 1), nn.BatchNorm2d(o))

    def forward(self, x):
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileHalf(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, i, rows = nn.Sequential(conv(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU()), 16, []
        for t, c, n, s in ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
            row = []
            for b in range(n):
                row.append(Inverted(i, c // 2, s if b == 0 else 1, t))
                i = c // 2
            rows.append(nn.Sequential(*row))
        self.blocks = nn.ModuleList(rows)
        self.conv2 = nn.Sequential(conv(i, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(1280, 10))

    def forward(self, x):
        x = self.conv1(x)
        for row in self.blocks:
            x = row(x)
        return self.classifier(self.conv2(x).mean((2, 3)))


def shuffle(x, g):
    n, c, h, w = x.shape
    return x.view(n, g, c // g, h, w).transpose(1, 2).reshape(n, c, h, w)


class UnitV1(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        m, self.g, self.s = o // 4, 1 if i == 24 else 3, s
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(i, m, 1, 1, self.g), nn.BatchNorm2d(m), conv(m, m, 3, s, m), nn.BatchNorm2d(m)
        self.conv3, self.bn3 = conv(m, o, 1, 1, 3), nn.BatchNorm2d(o)

    def forward(self, x):
        y = shuffle(F.relu(self.bn1(self.conv1(x))), self.g)
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1) if self.s == 2 else y + x)


class ShuffleV1(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, i = conv(3, 24, 1), nn.BatchNorm2d(24), 24
        for stage, (o, n) in enumerate(((240, 4), (480, 8), (960, 4))):
            units = [UnitV1(i if u == 0 else o, o - i if u == 0 else o, 2 if u == 0 else 1) for u in range(n)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*units))
            i = o
        self.linear = nn.Linear(960, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


class Down(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        m = o // 2
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(i, i, 3, 2, i), nn.BatchNorm2d(i), conv(i, m, 1), nn.BatchNorm2d(m)
        self.conv3, self.bn3, self.conv4, self.bn4 = conv(i, m, 1), nn.BatchNorm2d(m), conv(m, m, 3, 2, m), nn.BatchNorm2d(m)
        self.conv5, self.bn5 = conv(m, m, 1), nn.BatchNorm2d(m)

    def forward(self, x):
        a = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        b = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        return shuffle(torch.cat([a, F.relu(self.bn5(self.conv5(b)))], 1), 2)


class UnitV2(nn.Module):
    def __init__(self, c):
        super().__init__()
        m = c // 2
        self.conv1, self.bn1, self.conv2, self.bn2 = conv(m, m, 1), nn.BatchNorm2d(m), conv(m, m, 3, 1, m), nn.BatchNorm2d(m)
        self.conv3, self.bn3 = conv(m, m, 1), nn.BatchNorm2d(m)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        b = F.relu(self.bn3(self.conv3(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(b))))))))
        return shuffle(torch.cat([a, b], 1), 2)


class ShuffleV2(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, i = conv(3, 24, 1), nn.BatchNorm2d(24), 24
        for stage, (o, n) in enumerate(((116, 3), (232, 7), (464, 3))):
            setattr(self, f"layer{stage + 1}", nn.Sequential(Down(i, o), *(UnitV2(o) for _ in range(n))))
            i = o
        self.conv2, self.bn2, self.linear = conv(464, 1024, 1), nn.BatchNorm2d(1024), nn.Linear(1024, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))


class MobileV1(nn.Module):
    def __init__(self):
        super().__init__()
        layers, i = [nn.Sequential(conv(3, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU())], 32
        for o, s in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)) + ((512, 1),) * 5 + ((1024, 2), (1024, 1)):
            layers.append(nn.Sequential(conv(i, i, 3, s, i), nn.BatchNorm2d(i), nn.ReLU(), conv(i, o, 1), nn.BatchNorm2d(o), nn.ReLU()))
            i = o
        self.model, self.fc = nn.Sequential(*layers), nn.Linear(1024, 10)

    def forward(self, x):
        return self.fc(self.model(x).mean((2, 3)))


def mobile_v2():
    import torchvision
    return torchvision.models.mobilenet_v2(num_classes=10, dropout=0.0)


def mobile_v3():
    import torchvision
    return torchvision.models.mobilenet_v3_large(num_classes=10, dropout=0.0)


narrow, wide = (16, 16, 32, 64), (32, 64, 128, 256)
NETWORKS = {
    "resnet8": lambda: ResNet(8, narrow), "resnet20": lambda: ResNet(20, narrow), "resnet110": lambda: ResNet(110, narrow),
    "resnet8x4": lambda: ResNet(8, wide), "resnet32x4": lambda: ResNet(32, wide),
    "resnet110_bottleneck": lambda: Bottlenecks(16, (12, 12, 12), "downsample", "fc"),
    "cifar_resnet50": lambda: Bottlenecks(64, (3, 4, 6, 3), "shortcut", "linear"),
    "wrn_16_1": lambda: Wide(16, 1), "wrn_16_2": lambda: Wide(16, 2), "wrn_40_2": lambda: Wide(40, 2),
    "vgg8": lambda: Vgg((1, 1, 1, 1, 1)), "vgg13": lambda: Vgg((2, 2, 2, 2, 2)), "vgg19": lambda: Vgg((2, 2, 4, 4, 4)),
    "cifar_mobilenet_v2": MobileHalf, "shufflenet_v1": ShuffleV1, "shufflenet_v2": ShuffleV2,
    "mobilenet_v1": MobileV1, "mobilenet_v2": mobile_v2, "mobilenet_v3_large": mobile_v3,
}


def fill(network):
    state = network.state_dict()
    names = sorted((n for n in state if not n.endswith("num_batches_tracked")), key=str.encode)
    for number, name in enumerate(names):
        shape = state[name].shape
        v = torch.from_numpy(stream(7000 + number, int(np.prod(shape))).reshape(shape))
        if name.endswith("running_mean"):
            v = 0.1 * v
        elif name.endswith("running_var"):
            v = 1 + 0.5 * v.abs()
        elif name.endswith("weight") and len(shape) == 1:
            v = 1 + 0.1 * v
        elif len(shape) == 1:
            v = 0.1 * v
        else:
            v = v / np.sqrt(np.prod(shape[1:]))
        # As the tensors of the program: rounded to f32.
        state[name].copy_(v.float())
    return names


def run(network, names, side, dtype):
    network.to(dtype)
    x = torch.from_numpy(stream(6999, 2 * 3 * side * side).reshape(2, 3, side, side)).float().to(dtype)
    network.eval()
    with torch.no_grad():
        inference = network(x)
    network.train()
    logits = network(x)
    loss = F.cross_entropy(logits, torch.tensor([3, 7]))
    loss.backward()
    norms = [float(dict(network.named_parameters())[n].grad.double().norm()) for n in names]
    return [t.detach().double().flatten().tolist() for t in (inference, logits)] + [norms]


out = {}
for name, build in NETWORKS.items():
    side = 64 if name.startswith("mobilenet") else 32
    network = build().double()
    names = fill(network)
    parameters = sorted(n for n, _ in network.named_parameters())
    chosen = [parameters[i] for i in (0, len(parameters) // 3, 2 * len(parameters) // 3, len(parameters) - 1)]
    exact = run(network, chosen, side, torch.float64)
    tracked = next(tensor for tensor_name, tensor in network.state_dict().items() if "running_mean" in tensor_name).tolist()
    network = build().double()
    fill(network)
    single = run(network, chosen, side, torch.float32)
    case = {"side": side, "tensors": len(names), "gradients": chosen}
    for key, a, b in zip(("inference", "training", "norms"), exact, single):
        error = max(abs(p - q) for p, q in zip(a, b))
        scale = max(abs(p) for p in a)
        case[key] = [float(f"{v:.9g}") for v in a]
        case[key + "_tolerance"] = float(f"{max(20 * error, 1e-6 * scale):.3g}")
    if name == "mobilenet_v3_large":
        # Its batch norms have an epsilon and a momentum of their own.
        case["statistic"] = "features.0.1.running_mean"
        case["new_statistic"] = [float(f"{v:.9g}") for v in tracked]
    out[name] = case
    print(name, case["inference"][:2], case["training_tolerance"], case["norms"], case["norms_tolerance"], file=sys.stderr)
pathlib_path = sys.argv[1]
with open(pathlib_path, "w") as file:
    file.write(json.dumps(out, indent=0).replace(",\n", ", ").replace("[\n", "[").replace("\n]", "]") + "\n")
