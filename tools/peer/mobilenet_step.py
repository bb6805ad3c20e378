"""Reference point: one detector-distillation training step in PyTorch whose student is a MobileNetV2.

The work of torch_detection_step.py, which makes it: a frozen Faster R-CNN with a ResNet-50 and FPN teaches one with
torchvision's MobileNetV2. The student's pyramid takes the last layer before each halving of the resolution
(features 3, 6, 13 and 18), as ckd-det does; torchvision's own would take other layers.

    python mobilenet_step.py --batch 1 --channels-last
    python mobilenet_step.py --peer-dir ../shared/peer
"""
import argparse
import sys
from pathlib import Path

from torchvision.models import mobilenet_v2
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.misc import FrozenBatchNorm2d

ROOT = Path(__file__).resolve().parent.parent.parent
STUDENT = "mobilenet_v2"
# The first layer of each stage but the stem, and what follows the last.
STAGES = [2, 4, 7, 14, 19]
TAPS = {"3": "0", "6": "1", "13": "2", "18": "3"}


def main():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--peer-dir", type=Path, default=ROOT / "../shared/peer")
    args, rest = parser.parse_known_args()
    sys.path.insert(0, str(args.peer_dir))
    import torch_detection_step as step

    of_resnets = step.build

    def build(arch, backbone, classes, trainable, size):
        if backbone != STUDENT:
            return of_resnets(arch, backbone, classes, trainable, size)
        return detector(classes, trainable, size)

    step.build = build
    # All but the stem and the first stage train, as with freeze_at = 2.
    sys.argv[1:] = ["--teacher", "resnet50", "--student", STUDENT, "--trainable", "3", *rest]
    step.main()


def detector(classes, trainable, size):
    """`trainable` stages from the top learn, as of a ResNet: 3 = freeze_at 2."""
    features = mobilenet_v2(weights=None, norm_layer=FrozenBatchNorm2d).features
    for layer in features[: STAGES[len(STAGES) - 1 - trainable]]:
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
    channels = [features[int(tap)].out_channels for tap in TAPS]
    body = BackboneWithFPN(features, TAPS, channels, 256)
    return FasterRCNN(body, num_classes=classes, min_size=min(size), max_size=max(size))


if __name__ == "__main__":
    main()
