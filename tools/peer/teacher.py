"""Reference point: the teacher's part of a step in PyTorch. A frozen ResNet-101 with FPN, images to pyramid.

    python teacher.py --channels-last --folded
"""
import torch
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import timing

args = timing.flags(__doc__)
teacher = timing.prepare(resnet_fpn_backbone(backbone_name="resnet101", weights=None, trainable_layers=0), args)
images = torch.rand(args.batch, 3, args.height, args.width)
if args.channels_last:
    images = images.contiguous(memory_format=torch.channels_last)
mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
timing.measure(args, lambda: teacher((images - mean) / std))
