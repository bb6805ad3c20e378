"""What the PyTorch peers share: their flags, frozen norms folded into convolutions, the clock, the JSON line.

Keys and flags are those of the other peers, so that tools/bench_vs_torch treats all alike.
"""
import argparse
import json
import resource
import statistics
import time

import torch
import torchvision
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops.misc import FrozenBatchNorm2d


def flags(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1344)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--folded", action="store_true", help="fold the frozen norms into their convolutions")
    parser.add_argument("--compile", action="store_true", help="torch.compile the trunk and its pyramid")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    return args


def prepare(backbone, args):
    """A ResNet-FPN in eval mode, as the flags want it."""
    backbone.eval()
    if args.folded:
        fold(backbone)
    if args.channels_last:
        backbone.to(memory_format=torch.channels_last)
    return torch.compile(backbone) if args.compile else backbone


def fold(module):
    """Folds every FrozenBatchNorm2d below `module` into the convolution that is defined right before it."""
    before = None
    for name, child in module.named_children():
        if isinstance(child, FrozenBatchNorm2d):
            bn = child
            before.weight, before.bias = fuse_conv_bn_weights(
                before.weight, before.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
            )
            setattr(module, name, torch.nn.Identity())
        elif isinstance(child, torch.nn.Conv2d):
            before = child
        else:
            fold(child)


def measure(args, run):
    """Times `run()` and prints one JSON line."""
    times = []
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
        for step in range(args.warmup + args.steps):
            started = time.perf_counter()
            run()
            if step >= args.warmup:
                times.append((time.perf_counter() - started) * 1e3)
    report(args, (args.height, args.width), times)


def report(args, size, times):
    """Prints the JSON line of steps that took `times`, in ms."""
    median = statistics.median(times)
    print(json.dumps({
        "engine": f"torch {torch.__version__} torchvision {torchvision.__version__}",
        "threads": args.threads,
        "size": size,
        "batch": args.batch,
        "bf16": args.bf16,
        "ms_median": round(median, 1),
        "ms_min": round(min(times), 1),
        "ms_max": round(max(times), 1),
        "images_per_s": round(args.batch * 1e3 / median, 4),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }))
