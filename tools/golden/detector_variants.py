"""Golden values of FCOS and of the detector variants that imported weights need, made with PyTorch and torchvision.

    python3 tools/golden/detector_variants.py detectors/tests/golden [CASE ...]     # or these alone, keeping the others

`fasterrcnn_v2`, `fasterrcnn_mobilenet_v3`, `retinanet_v2` and `fcos` are torchvision's own builders. The `detectron2_*` cases are torchvision's
detectors with Detectron2's conventions put in (its source read, not run): the stride of a bottleneck in its
first 1x1, anchors that are not rounded, with strides 4, 8, 16, ..., aligned RoIAlign with adaptive sampling and
no epsilon in the level of a RoI, P6 of C5, clipping after suppression. `mobilenet_v1` is written here;
`resnext50_32x4d` and `mobilenet_v3_large` are torchvision's.

Weights and images follow from the generator of the golden files (`tests/golden/lib.rs`), so that neither is
stored. float64 runs, stored as f32; tolerances are 5 to 20 times the error of PyTorch's own f32 run, or a floor.
"""
import copy
import json
import math
import pathlib
import struct
import sys

import numpy as np
import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN, RetinaNet, fcos_resnet50_fpn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2, retinanet_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, batched_nms, clip_boxes_to_image, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True, warn_only=True)


def generated(stream, count):
    """Elements of a stream of the counter-based generator, in [-1, 1)."""
    gold = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        z = np.uint64(stream) * gold + np.arange(count, dtype=np.uint64) + gold
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = (z ^ (z >> np.uint64(31))) >> np.uint64(40)
    return z.astype(np.float64) / 2**23 - 1


def tensor(stream, shape, scale, offset):
    values = generated(stream, math.prod(shape)) * scale + offset
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def weights(model, base, multiply):
    """The filled state dict: f32 values."""
    state = model.state_dict()
    names = sorted(name for name in state if not name.endswith("num_batches_tracked"))
    filled = {}
    for k, name in enumerate(names):
        shape = list(state[name].shape)
        v = generated(base + k, math.prod(shape))
        if name.endswith("running_mean"):
            v = 0.1 * v
        elif name.endswith("running_var"):
            v = 1 + 0.5 * np.abs(v)
        elif len(shape) == 1:
            v = 1 + 0.1 * v if name.endswith("weight") else 0.1 * v
        else:
            v = v / math.sqrt(math.prod(shape[1:])) * multiply.get(name, 1.0)
        filled[name] = torch.from_numpy(v.astype(np.float32).reshape(shape))
    return filled


def summary(t):
    t = t.detach().double().flatten()
    return torch.cat([t.mean()[None], t.std(unbiased=False)[None], t[:16]])


# ---- Detectron2's conventions ----


class ExactAnchors(AnchorGenerator):
    """Corners are not rounded; strides are the levels' own."""

    def __init__(self, sizes, ratios, strides):
        self.strides = strides
        super().__init__(sizes, (ratios,) * len(sizes))

    def generate_anchors(self, scales, aspect_ratios, dtype=torch.float32, device=None):
        cell = []
        for ratio in aspect_ratios:  # torchvision's order; Detectron2's own is size by size
            for size in scales:
                w = math.sqrt(size**2 / ratio)
                h = ratio * w
                cell.append([-w / 2, -h / 2, w / 2, h / 2])
        return torch.tensor(cell, dtype=torch.float32)

    def grid_anchors(self, grid_sizes, strides):
        own = [[torch.tensor(s), torch.tensor(s)] for s in self.strides]
        return super().grid_anchors(grid_sizes, own)


class AlignedPooler(MultiScaleRoIAlign):
    """ROIAlignV2 with adaptive sampling over p2 to p5."""

    def __init__(self):
        super().__init__(["0", "1", "2", "3"], 7, 0)

    def forward(self, x, boxes, image_shapes):
        maps = [x[str(k)] for k in range(4)]
        rois = torch.cat([torch.cat([b.new_full((len(b), 1), i), b], 1) for i, b in enumerate(boxes)])
        area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
        level = torch.floor(4 + torch.log2(area.sqrt() / 224 + sys.float_info.epsilon)).clamp(2, 5).long() - 2
        out = maps[0].new_zeros((len(rois), maps[0].shape[1], 7, 7))
        for k, feature in enumerate(maps):
            chosen = torch.where(level == k)[0]
            pooled = roi_align(feature, rois[chosen], (7, 7), 1 / 2 ** (k + 2), sampling_ratio=0, aligned=True)
            out = out.index_put((chosen,), pooled.to(out.dtype))
        return out


class LateClipping(RetinaNet):
    """Detections are clipped after suppression; empty ones go."""

    def postprocess_detections(self, head_outputs, anchors, image_shapes):
        detections = []
        for image, shape in enumerate(image_shapes):
            all_boxes, all_scores, all_labels = [], [], []
            levels = zip(head_outputs["cls_logits"], head_outputs["bbox_regression"], anchors[image])
            for logits, deltas, level_anchors in levels:
                logits, deltas = logits[image], deltas[image]
                scores = torch.sigmoid(logits).flatten()
                keep = torch.where(scores > self.score_thresh)[0]
                scores, order = scores[keep].sort(descending=True)
                scores, places = scores[: self.topk_candidates], keep[order[: self.topk_candidates]]
                anchor = places // logits.shape[-1]
                all_boxes.append(self.box_coder.decode_single(deltas[anchor], level_anchors[anchor]))
                all_scores.append(scores)
                all_labels.append(places % logits.shape[-1])
            boxes, scores, labels = map(torch.cat, (all_boxes, all_scores, all_labels))
            keep = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
            boxes, scores, labels = clip_boxes_to_image(boxes[keep], shape), scores[keep], labels[keep]
            keep = ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).nonzero()[:, 0]
            detections.append({"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]})
        return detections


def original_resnet50():
    """ResNet-50 whose bottlenecks have their stride in the first 1x1."""
    trunk = torchvision.models.resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    for stage in (trunk.layer2, trunk.layer3, trunk.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return trunk


RATIOS = (0.5, 1.0, 2.0)
SIDES = {"min_size": 64, "max_size": 128}
# Everything that is not "between" is sampled: nothing is left to chance.
ALL = {"box_batch_size_per_image": 1_000_000, "box_positive_fraction": 0.5, "rpn_batch_size_per_image": 1_000_000}
RPN = {
    "rpn_pre_nms_top_n_train": 200,
    "rpn_pre_nms_top_n_test": 150,
    "rpn_post_nms_top_n_train": 100,
    "rpn_post_nms_top_n_test": 60,
    "box_nms_thresh": 0.5,
    "box_detections_per_img": 100,
}
DENSE = {"topk_candidates": 300, "nms_thresh": 0.5, "detections_per_img": 100}


def fasterrcnn_v2(**config):
    return fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=5, **config)


def fasterrcnn_mobilenet_v3(**config):
    return fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None, num_classes=5, **config)


def retinanet_v2(**config):
    return retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=5, **config)


def fcos(**config):
    return fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5, **config)


def detectron2_fasterrcnn(**config):
    backbone = _resnet_fpn_extractor(original_resnet50(), 5)
    anchors = ExactAnchors(tuple((s,) for s in (32, 64, 128, 256, 512)), RATIOS, (4, 8, 16, 32, 64))
    pooler = AlignedPooler()
    return FasterRCNN(backbone, 5, rpn_anchor_generator=anchors, box_roi_pool=pooler, **config)


def detectron2_retinanet(**config):
    extra = LastLevelP6P7(2048, 256)
    backbone = _resnet_fpn_extractor(original_resnet50(), 5, returned_layers=[2, 3, 4], extra_blocks=extra)
    sizes = tuple(tuple(s * 2 ** (k / 3) for k in range(3)) for s in (32, 64, 128, 256, 512))
    anchors = ExactAnchors(sizes, RATIOS, (8, 16, 32, 64, 128))
    return LateClipping(backbone, 5, anchor_generator=anchors, **config)


TWO_STAGES = {
    "rpn.head.cls_logits.weight": 20.0,
    "rpn.head.bbox_pred.weight": 5.0,
    "roi_heads.box_predictor.cls_score.weight": 40.0,
    "roi_heads.box_predictor.bbox_pred.weight": 10.0,
}
V2_STAGES = TWO_STAGES | {
    "roi_heads.box_predictor.cls_score.weight": 30.0,
    "roi_heads.box_predictor.bbox_pred.weight": 8.0,
}
ONE_STAGE = {"head.classification_head.cls_logits.weight": 60.0, "head.regression_head.bbox_reg.weight": 10.0}
POINTS = {
    "head.classification_head.cls_logits.weight": 4.0,
    "head.regression_head.bbox_reg.weight": 2.0,
    "head.regression_head.bbox_ctrness.weight": 4.0,
}
V2_STAGE = {"head.classification_head.cls_logits.weight": 4.0, "head.regression_head.bbox_reg.weight": 1.0}

# Convolutions of the trunk keep the size of what they see: hard swish and squeeze-and-excitation are nothing near 0.
MOBILE = {
    name: 2.4
    for name, weight in fasterrcnn_mobilenet_v3().state_dict().items()
    if name.startswith("backbone.body.") and weight.dim() == 4
}

# name, builder, base stream, factors, config, gradients of, new statistics
DETECTORS = [
    (
        "detector/fasterrcnn_v2",
        fasterrcnn_v2,
        2_510_000,
        V2_STAGES,
        SIDES | ALL | RPN,
        [
            "backbone.body.conv1.weight",
            "backbone.body.layer3.0.conv2.weight",
            "backbone.fpn.inner_blocks.0.0.weight",
            "backbone.fpn.inner_blocks.3.1.bias",
            "backbone.fpn.layer_blocks.1.1.weight",
            "rpn.head.conv.0.0.weight",
            "rpn.head.conv.1.0.bias",
            "roi_heads.box_head.0.0.weight",
            "roi_heads.box_head.3.1.weight",
            "roi_heads.box_head.5.weight",
            "roi_heads.box_predictor.bbox_pred.bias",
        ],
        [
            "backbone.fpn.inner_blocks.0.1.running_mean",
            "backbone.fpn.layer_blocks.3.1.running_var",
            "roi_heads.box_head.0.1.running_mean",
            "roi_heads.box_head.3.1.running_var",
        ],
    ),
    (
        "detector/fasterrcnn_mobilenet_v3",
        fasterrcnn_mobilenet_v3,
        2_580_000,
        MOBILE | TWO_STAGES,
        ALL | RPN | {"min_size": 128, "max_size": 192},
        [
            "backbone.body.0.0.weight",
            "backbone.body.4.block.1.0.weight",
            "backbone.body.4.block.2.fc1.weight",
            "backbone.body.7.block.0.0.weight",
            "backbone.body.12.block.2.fc2.bias",
            "backbone.body.13.block.1.0.weight",
            "backbone.body.15.block.3.0.weight",
            "backbone.body.16.0.weight",
            "backbone.fpn.inner_blocks.0.0.weight",
            "backbone.fpn.inner_blocks.1.0.bias",
            "backbone.fpn.layer_blocks.0.0.weight",
            "backbone.fpn.layer_blocks.1.0.weight",
            "rpn.head.conv.0.0.weight",
            "rpn.head.cls_logits.bias",
            "rpn.head.bbox_pred.weight",
            "roi_heads.box_head.fc6.weight",
            "roi_heads.box_predictor.cls_score.bias",
            "roi_heads.box_predictor.bbox_pred.weight",
        ],
        [],
    ),
    (
        "detector/retinanet_v2",
        retinanet_v2,
        2_520_000,
        V2_STAGE,
        SIDES | DENSE,
        [
            "backbone.body.conv1.weight",
            "backbone.body.layer4.2.conv3.weight",
            "backbone.fpn.inner_blocks.2.0.weight",
            "backbone.fpn.extra_blocks.p6.weight",
            "backbone.fpn.extra_blocks.p7.bias",
            "head.classification_head.conv.0.0.weight",
            "head.classification_head.conv.3.1.weight",
            "head.classification_head.cls_logits.bias",
            "head.regression_head.conv.1.1.bias",
            "head.regression_head.conv.3.0.weight",
            "head.regression_head.bbox_reg.weight",
        ],
        [],
    ),
    (
        "detector/fcos",
        fcos,
        2_560_000,
        POINTS,
        SIDES | DENSE,
        [
            "backbone.body.conv1.weight",
            "backbone.body.layer4.2.conv3.weight",
            "backbone.fpn.inner_blocks.2.0.weight",
            "backbone.fpn.extra_blocks.p6.weight",
            "head.classification_head.conv.0.weight",
            "head.classification_head.conv.0.bias",
            "head.classification_head.conv.10.weight",
            "head.classification_head.cls_logits.bias",
            "head.regression_head.conv.1.bias",
            "head.regression_head.conv.9.weight",
            "head.regression_head.bbox_reg.weight",
            "head.regression_head.bbox_reg.bias",
            "head.regression_head.bbox_ctrness.weight",
        ],
        [],
    ),
    (
        "detector/detectron2_fasterrcnn",
        detectron2_fasterrcnn,
        2_530_000,
        TWO_STAGES,
        SIDES | ALL | RPN,
        [
            "backbone.body.conv1.weight",
            "backbone.body.layer2.0.conv1.weight",
            "backbone.body.layer3.0.conv2.weight",
            "backbone.body.layer4.0.downsample.0.weight",
            "backbone.fpn.layer_blocks.0.0.weight",
            "rpn.head.conv.0.0.weight",
            "rpn.head.bbox_pred.bias",
            "roi_heads.box_head.fc6.weight",
            "roi_heads.box_predictor.bbox_pred.weight",
        ],
        [],
    ),
    (
        "detector/detectron2_retinanet",
        detectron2_retinanet,
        2_540_000,
        ONE_STAGE,
        SIDES | DENSE,
        [
            "backbone.body.conv1.weight",
            "backbone.body.layer4.0.conv1.weight",
            "backbone.fpn.extra_blocks.p6.weight",
            "head.classification_head.conv.0.0.weight",
            "head.regression_head.bbox_reg.weight",
        ],
        [],
    ),
]

IMAGES = [(3, 90, 120), (3, 110, 70)]
BOXES = [
    [[9.3, 12.1, 61.7, 72.2], [48.5, 19.2, 112.1, 86.3], [4.2, 38.4, 31.9, 61.8]],
    [[6.4, 10.7, 58.3, 95.9], [30.1, 60.6, 66.8, 101.2]],
]
# No two anchors that are not rounded fit one of these equally well: with such a tie f32 and float64 match differently.
UNTIED_BOXES = [
    [[86.8, 13.8, 119.0, 72.8], [33.4, 5.2, 103.7, 40.2], [40.5, 35.9, 103.1, 71.4]],
    [[3.0, 52.5, 37.1, 91.6], [13.3, 3.8, 46.0, 41.1]],
]
LABELS = [[1, 3, 2], [4, 1]]


def boxes_of(name):
    return UNTIED_BOXES if "detectron2" in name else BOXES


def run(build, state, config, dtype, gradients, statistics, image_streams, boxes):
    """Everything that a case records, computed in `dtype`."""
    out = {}

    def made():
        model = build(**config)
        model.load_state_dict({k: v.clone() for k, v in state.items()}, strict=False)
        # Trained from random weights, a deep trunk's batch norms make chaos of the last digits: here they are frozen,
        # those of the pyramid and the heads train. (`train_step/resnet18` has the trunk's.)
        for layer in model.backbone.body.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.requires_grad_(False)
        return model.to(dtype)

    def training():
        model = made().train()
        model.backbone.body.eval()
        return model

    images = [tensor(s, shape, 0.5, 0.5).to(dtype) for s, shape in zip(image_streams, IMAGES)]
    targets = [
        {"boxes": torch.tensor(b, dtype=torch.float32).to(dtype), "labels": torch.tensor(l)} for b, l in zip(boxes, LABELS)
    ]
    model = training()
    losses = model(images, targets)
    for name, loss in losses.items():
        out[f"loss:{name}"] = loss.detach()
    sum(losses.values()).backward()
    total = 0.0
    for name, p in model.named_parameters():
        if p.grad is not None:
            total += float((p.grad.double() ** 2).sum())
        if name in gradients:
            out[f"gradnorm:{name}"] = p.grad.double().norm()
            out[f"gradfirst8:{name}"] = p.grad.flatten()[:8]
    out["gradnorm_all"] = torch.tensor(math.sqrt(total), dtype=torch.float64)
    after = model.state_dict()
    for name in statistics:
        out[f"new:{name}"] = after[name][:16]

    model = made().eval()
    seen = {}
    model.backbone.register_forward_hook(lambda _, i, o: seen.update(fpn=o))
    if hasattr(model, "rpn"):
        model.rpn.register_forward_hook(lambda _, i, o: seen.update(proposals=o[0]))
    else:
        model.head.register_forward_hook(lambda _, i, o: seen.update(head=o))
    with torch.no_grad():
        found = model(images)
    for name, level in seen["fpn"].items():
        out[f"fpn:{name}_summary"] = summary(level)
    for image, boxes in enumerate(seen.get("proposals", [])):
        out[f"proposals_image{image}"] = boxes
    if "head" in seen:
        out["cls_logits_summary"] = summary(seen["head"]["cls_logits"])
        out["bbox_regression_summary"] = summary(seen["head"]["bbox_regression"])
        if "bbox_ctrness" in seen["head"]:
            out["bbox_ctrness_summary"] = summary(seen["head"]["bbox_ctrness"])
    for image, d in enumerate(found):
        for key in ("boxes", "scores", "labels"):
            out[f"det{image}_{key}"] = d[key]
    return out


def tolerances(exact, single):
    """The allowed error of each output; None if the f32 run found something else."""
    allowed = {}
    for key, value in exact.items():
        other = single[key]
        if value.shape != other.shape:
            return None, f"{key}: {tuple(value.shape)} and {tuple(other.shape)}"
        if value.dtype == torch.int64:
            if not torch.equal(value, other):
                return None, f"{key} differs"
            allowed[key] = {"exact": True}
            continue
        largest = float(value.abs().max()) if value.numel() else 0.0
        error = float((value.double() - other.double()).abs().max()) if value.numel() else 0.0
        if error > (5e-2 if key.startswith("gradfirst8") else 1e-2) * largest:
            return None, f"{key}: f32 is off by {error:.2e} of {largest:.2e}"
        # A batch norm over the few values of these small maps passes the last digits on to all that is below it.
        floor = 1e-3 if key.startswith("grad") else 1e-4
        # Where f32 itself is far off (a ReLU that flips deep in the trunk), five times its error is enough.
        atol = max(min(20 * error, max(5 * error, 0.01 * largest)), floor * largest, 1e-9)
        allowed[key] = {"atol": float(f"{atol:.1e}")}
    return allowed, None


def above(out, threshold):
    """`out` without the detections that score lower."""
    out = dict(out)
    for i in range(2):
        kept = out[f"det{i}_scores"] > threshold
        for key in ("boxes", "scores", "labels"):
            out[f"det{i}_{key}"] = out[f"det{i}_{key}"][kept]
    return out


def threshold_key(config):
    return "box_score_thresh" if "rpn_pre_nms_top_n_test" in config else "score_thresh"


def detector_case(name, build, base, multiply, config, gradients, statistics):
    for attempt in range(20):
        image_streams = [base + 9_000 + 2 * attempt, base + 9_001 + 2 * attempt]
        state = weights(build(), base, multiply)
        key = threshold_key(config)
        config[key] = 0.0001
        run_in = lambda dtype: run(build, state, config, dtype, gradients, statistics, image_streams, boxes_of(name))
        exact, single = run_in(torch.float64), run_in(torch.float32)
        # The threshold lies in the widest gap that leaves some detections of both images. A higher one takes away
        # the lower-scoring detections and changes no other.
        ranked = sorted((float(s) for i in range(2) for s in exact[f"det{i}_scores"]), reverse=True)
        gaps = [(ranked[k] - ranked[k + 1], k) for k in range(8, min(30, len(ranked) - 1))]
        if not gaps:
            print(f"{name}: only {len(ranked)} detections", file=sys.stderr)
            continue
        gap, k = max(gaps)
        config[key] = float(f"{(ranked[k] + ranked[k + 1]) / 2:.6f}")
        exact, single = above(exact, config[key]), above(single, config[key])
        allowed, problem = tolerances(exact, single)
        counts = [len(exact[f"det{i}_scores"]) for i in range(2)]
        spread = [round(ranked[0], 4), round(ranked[-1], 4), gap]
        print(f"{name}: attempt {attempt}: {problem or 'agrees'}; detections {counts}, scores {spread}", file=sys.stderr)
        if allowed and min(counts) > 0:
            break
    else:
        raise SystemExit(f"{name}: no scene on which f32 and f64 agree; change its factors")
    inputs = {
        f"image{i}": {"shape": list(shape), "dtype": "float32", "stream": stream, "scale": 0.5, "offset": 0.5}
        for i, (shape, stream) in enumerate(zip(IMAGES, image_streams))
    }
    stored = {}
    for i in range(2):
        stored[f"gt{i}_boxes"] = torch.tensor(boxes_of(name)[i], dtype=torch.float32)
        stored[f"gt{i}_labels"] = torch.tensor(LABELS[i])
        inputs[f"gt{i}_boxes"] = {"shape": list(stored[f"gt{i}_boxes"].shape), "dtype": "float32"}
        inputs[f"gt{i}_labels"] = {"shape": list(stored[f"gt{i}_labels"].shape), "dtype": "int64"}
    attrs = {
        "base_stream": base,
        "multiply": multiply,
        "config": config,
        "weights": [[n, list(t.shape)] for n, t in state.items()],
    }
    return case(name, attrs, inputs, exact, allowed), stored | exact


def case(name, attrs, inputs, outputs, allowed):
    table = {k: {"shape": list(v.shape), **allowed[k]} for k, v in outputs.items()}
    return {"name": name, "file": "variants.safetensors", "attrs": attrs, "inputs": inputs, "outputs": table}


# ---- MobileNetV1 ----


class MobileNetV1(nn.Sequential):
    def __init__(self):
        def layer(inputs, outputs, stride):
            return nn.Sequential(
                nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
                nn.BatchNorm2d(inputs),
                nn.ReLU(),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            )

        first = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        widths = [32, 64, 128, 128, 256, 256] + [512] * 6 + [1024] * 2
        halving = {2, 4, 6, 12}
        rest = [layer(widths[i - 1], widths[i], 2 if i in halving else 1) for i in range(1, 14)]
        super().__init__(first, *rest)

    def forward(self, x):
        maps = []
        for index, layer in enumerate(self):
            x = layer(x)
            if index in (3, 5, 11, 13):
                maps.append(x)
        return maps


class ResNeXt50(IntermediateLayerGetter):
    """The maps of torchvision's `resnext50_32x4d` after layer1 to layer4."""

    def __init__(self):
        super().__init__(torchvision.models.resnext50_32x4d(weights=None), {f"layer{i}": str(i) for i in (1, 2, 3, 4)})

    def forward(self, x):
        return list(super().forward(x).values())


class MobileNetV3(IntermediateLayerGetter):
    """The maps of torchvision's `mobilenet_v3_large` after its layers 3, 6, 12 and 16, with PyTorch's batch norms."""

    def __init__(self):
        features = torchvision.models.mobilenet_v3_large(weights=None, norm_layer=nn.BatchNorm2d).features
        super().__init__(features, {"3": "0", "6": "1", "12": "2", "16": "3"})

    def forward(self, x):
        return list(super().forward(x).values())


def mobilenet_v3_case():
    gradients = ["0.0.weight", "1.block.0.0.weight", "4.block.0.0.weight", "4.block.1.0.weight", "4.block.2.fc1.weight"]
    gradients += ["4.block.2.fc1.bias", "4.block.2.fc2.weight", "6.block.2.fc2.bias", "6.block.3.1.weight"]
    gradients += ["7.block.0.0.weight", "7.block.1.1.bias", "11.block.2.fc1.weight", "12.block.1.0.weight"]
    statistics = ["0.1.running_mean", "4.block.1.1.running_var", "12.block.3.1.running_mean"]
    return trunk_case("trunk/mobilenet_v3_large", 2_590_000, MobileNetV3, gradients, statistics, maps=3)


def mobilenet_case():
    gradients = ["0.0.weight", "0.1.bias", "1.0.weight", "2.3.weight", "6.0.weight", "12.1.weight", "13.3.weight"]
    statistics = ["0.1.running_mean", "7.1.running_var", "13.4.running_mean"]
    return trunk_case("trunk/mobilenet_v1", 2_550_000, MobileNetV1, gradients, statistics)


def resnext_case():
    gradients = ["conv1.weight", "layer1.0.conv2.weight", "layer2.0.conv2.weight", "layer2.3.conv2.weight"]
    gradients += ["layer2.0.downsample.0.weight", "layer2.3.bn3.weight"]
    statistics = ["bn1.running_mean", "layer2.0.bn2.running_var", "layer2.3.bn3.running_mean"]
    # Gradients from the coarser maps are rounding noise in float32: norms over a dozen numbers, one behind the other.
    return trunk_case("trunk/resnext50_32x4d", 2_570_000, ResNeXt50, gradients, statistics, maps=2)


def trunk_case(name, base, build, gradients, statistics, maps=4):
    shape = (2, 3, 75, 101)
    multiply = {name: 2.4 for name, w in build().state_dict().items() if w.dim() == 4} if "v3" in name else {}
    state = weights(build(), base, multiply)

    def run(dtype):
        out, x = {}, tensor(base + 9_000, shape, 1.0, 0.0).to(dtype)
        model = build()
        model.load_state_dict({k: v.clone() for k, v in state.items()}, strict=False)
        model.to(dtype).eval()
        with torch.no_grad():
            for stage, level in zip((2, 3, 4, 5), model(x)):
                out[f"c{stage}_summary"] = summary(level)
        loss = 0.0
        for k, level in enumerate(model.train()(x)[:maps]):
            g = tensor(base + 9_001 + k, level.shape, 1.0, 0.0).to(dtype)
            loss = loss + (level * g).sum() / math.sqrt(level.numel())
        out["loss"] = loss.detach()
        loss.backward()
        for key, p in model.named_parameters():
            if key in gradients:
                out[f"gradnorm:{key}"] = p.grad.double().norm()
                out[f"gradfirst8:{key}"] = p.grad.flatten()[:8]
        squares = (float((p.grad.double() ** 2).sum()) for p in model.parameters() if p.grad is not None)
        out["gradnorm_all"] = torch.tensor(math.sqrt(sum(squares)), dtype=torch.float64)
        for key in statistics:
            out[f"new:{key}"] = model.state_dict()[key][:16]
        return out

    exact = run(torch.float64)
    allowed, problem = tolerances(exact, run(torch.float32))
    if problem:
        raise SystemExit(f"{name}: {problem}")
    inputs = {"x": {"shape": list(shape), "dtype": "float32", "stream": base + 9_000, "scale": 1.0, "offset": 0.0}}
    attrs = {
        "base_stream": base,
        "multiply": multiply,
        "map_streams": base + 9_001,
        "weights": [[n, list(t.shape)] for n, t in state.items()],
    }
    return case(name, attrs, inputs, exact, allowed), exact


def write_tensors(path, tensors):
    header, parts, offset = {}, [], 0
    for name, value in sorted(tensors.items()):
        value = value.detach()
        kind, value = ("I64", value) if value.dtype == torch.int64 else ("F32", value.float())
        raw = value.contiguous().numpy().tobytes()
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [offset, offset + len(raw)]}
        parts.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def write(target, cases, tensors):
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    index = {"format": 1, "made_by": "tools/golden/detector_variants.py", "versions": versions, "cases": cases}
    target.mkdir(parents=True, exist_ok=True)
    (target / "index.json").write_text(json.dumps(index, separators=(",", ":")) + "\n")
    write_tensors(target / "variants.safetensors", tensors)


def read(target):
    """The cases and tensors that an earlier run left."""
    raw = (target / "variants.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    kinds = {"F32": np.float32, "I64": np.int64}
    tensors = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        start, end = (8 + size + at for at in entry["data_offsets"])
        values = np.frombuffer(raw[start:end], kinds[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = torch.from_numpy(values.copy())
    return json.loads((target / "index.json").read_text())["cases"], tensors


def main(target, wanted):
    cases, tensors = read(target) if wanted else ([], {})
    cases = [entry for entry in cases if entry["name"] not in wanted]
    tensors = {key: value for key, value in tensors.items() if key.rsplit("/", 1)[0] not in wanted}
    makers = {"trunk/mobilenet_v1": mobilenet_case, "trunk/resnext50_32x4d": resnext_case}
    makers["trunk/mobilenet_v3_large"] = mobilenet_v3_case
    makers |= {entry[0]: lambda entry=entry: detector_case(*copy.deepcopy(entry)) for entry in DETECTORS}
    for name, make in makers.items():
        if wanted and name not in wanted:
            continue
        entry, values = make()
        print(entry["name"], file=sys.stderr)
        cases.append(entry)
        tensors |= {f"{entry['name']}/{key}": value for key, value in values.items()}
        write(target, cases, tensors)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
