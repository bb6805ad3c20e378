"""Reference point: torchvision's Faster R-CNN with a ResNet-18 and FPN, images to detections.

The images have their size already and are not resized.

    python inference.py --channels-last --folded
"""
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import timing

CLASSES = 91  # with background

args = timing.flags(__doc__)
backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=0)
detector = FasterRCNN(backbone, num_classes=CLASSES).eval()
detector.transform.resize = lambda image, target: (image, target)
if args.channels_last:
    detector.to(memory_format=torch.channels_last)
detector.backbone = timing.prepare(detector.backbone, args)
images = list(torch.rand(args.batch, 3, args.height, args.width))
timing.measure(args, lambda: detector(images))
