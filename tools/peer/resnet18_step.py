"""Reference point: one training step of torchvision's ResNet-18 (forward, cross-entropy, backward, SGD).

Random images and labels, 1000 classes. Prints one JSON line with the keys of the other peers.

    python resnet18_step.py --channels-last
"""
import argparse
import time

import torch
import torch.nn.functional as F
import torchvision

from timing import report

SIDE_PX = 224
CLASSES = 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--channels-last", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    network = torchvision.models.resnet18(weights=None).train()
    images = torch.randn(args.batch, 3, SIDE_PX, SIDE_PX)
    labels = torch.randint(0, CLASSES, (args.batch,))
    if args.channels_last:
        network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    times = []
    for step in range(args.warmup + args.steps):
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels)
        sgd.zero_grad(set_to_none=True)
        loss.backward()
        sgd.step()
        if step >= args.warmup:
            times.append((time.perf_counter() - started) * 1e3)
    report(args, (SIDE_PX, SIDE_PX), times)


if __name__ == "__main__":
    main()
