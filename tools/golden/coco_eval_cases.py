#!/usr/bin/env python3
"""Small COCO box evaluations with the numbers of the real pycocotools.

Writes a JSON list of cases: ground truth, results, options and what COCOeval makes of them.

    pip install pycocotools==2.0.11
    python tools/golden/coco_eval_cases.py tests/golden/coco_eval/cases.json
    python tools/golden/coco_eval_cases.py --random 400 more.json   # a wider sweep, by hand
"""
import argparse
import contextlib
import copy
import io
import json
import random

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def ground_truth(images, categories, annotations):
    """`annotations`: (image, category, xywh) and, as keywords, area, iscrowd, ignore."""
    rows = []
    for number, (image, category, box, extra) in enumerate(annotations, 1):
        row = {"id": number, "image_id": image, "category_id": category, "bbox": box,
               "area": box[2] * box[3], "iscrowd": 0}
        rows.append({**row, **extra})
    return {
        "images": [{"id": i, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in images],
        "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        "annotations": rows,
    }


def detections(rows):
    return [{"image_id": i, "category_id": c, "bbox": b, "score": s} for i, c, b, s in rows]


def index(dataset):
    coco = COCO()
    coco.dataset = copy.deepcopy(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def mean(values):
    values = values[values > -1]
    return float(np.mean(values)) if values.size else -1.0


def measure(case):
    """What pycocotools says. Its stats[0] is hard-wired to 100 detections; here it follows max_dets."""
    truth = index(case["gt"])
    found = copy.deepcopy(case["results"])
    if found:
        with contextlib.redirect_stdout(io.StringIO()):
            found = truth.loadRes(found)
    else:  # loadRes([]) raises an IndexError
        found = index({**case["gt"], "annotations": []})
    evaluation = COCOeval(truth, found, "bbox")
    params, options = evaluation.params, case["options"]
    params.maxDets = list(options.get("max_dets", params.maxDets))
    params.useCats = 0 if options.get("pooled") else 1
    if "image_ids" in options:
        params.imgIds = list(options["image_ids"])
    categories = list(params.catIds)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    stats = [float(x) for x in evaluation.stats]
    stats[0] = mean(precision[:, :, :, 0, 2])
    per_class = [] if options.get("pooled") else [
        {"category_id": c, "ap": mean(precision[:, :, k, 0, 2]),
         "ap50": mean(precision[0, :, k, 0, 2]), "ar100": mean(recall[:, k, 0, 2])}
        for k, c in enumerate(categories)]
    return {"stats": stats, "ap_per_iou": [mean(precision[t, :, :, 0, 2]) for t in range(10)],
            "per_class": per_class}


def case(name, gt, results, **options):
    made = {"name": name, "gt": gt, "results": results, "options": options}
    made["expected"] = measure(made)
    return made


def fixed():
    one = {"images": [1], "categories": [1]}
    yield case(
        "crowd absorbs any number of detections, and a plain box is preferred to it",
        ground_truth([1, 2], [1, 2], [
            (1, 1, [0, 0, 300, 300], {"iscrowd": 1}),
            (1, 1, [10, 10, 40, 40], {}),
            (2, 1, [50, 50, 20, 20], {}),
            (2, 2, [0, 0, 200, 200], {"iscrowd": 1})]),
        detections([
            (1, 1, [10, 10, 40, 40], 0.9), (1, 1, [100, 100, 30, 30], 0.95), (1, 1, [120, 100, 30, 30], 0.85),
            (1, 1, [290, 290, 30, 30], 0.8), (1, 1, [12, 10, 40, 40], 0.7), (2, 1, [50, 50, 20, 22], 0.6),
            (2, 2, [10, 10, 50, 50], 0.5), (2, 2, [400, 400, 50, 50], 0.4)]))
    yield case(
        "the ignore key says nothing: iscrowd decides",
        ground_truth(**one, annotations=[
            (1, 1, [10, 10, 40, 40], {"ignore": 1}), (1, 1, [100, 100, 40, 40], {"ignore": 0}),
            (1, 1, [200, 200, 40, 40], {"ignore": 0, "iscrowd": 1})]),
        detections([(1, 1, [10, 10, 40, 40], 0.9), (1, 1, [200, 200, 40, 40], 0.8), (1, 1, [300, 9, 9, 9], 0.7)]))
    yield case(
        "an area of exactly 32x32 is small and medium, 96x96 is medium and large",
        ground_truth([1], [1], [
            (1, 1, [0, 0, 32, 32], {}), (1, 1, [100, 0, 96, 96], {}), (1, 1, [0, 200, 32, 32], {"area": 1024.5}),
            (1, 1, [300, 0, 96, 96], {"area": 9215.5}), (1, 1, [300, 200, 16, 64], {"area": 1024})]),
        detections([
            (1, 1, [0, 0, 32, 32], 0.9), (1, 1, [100, 0, 96, 96], 0.8), (1, 1, [0, 200, 32, 32], 0.7),
            (1, 1, [300, 0, 96, 96], 0.6), (1, 1, [300, 200, 16, 64], 0.5), (1, 1, [500, 300, 32, 32], 0.85),
            (1, 1, [500, 100, 96, 96], 0.75), (1, 1, [600, 300, 64, 16], 0.65)]))
    many = [(1, 1, [5 * k % 600, 3 * k % 400, 20 + k % 7, 20], round(0.99 - 0.005 * k, 3)) for k in range(130)]
    yield case(
        "of more than 100 detections of one class in one image the best 100 count",
        ground_truth([1, 2], [1, 2], [
            (1, 1, many[0][2], {}), (1, 1, many[99][2], {}), (1, 1, many[100][2], {}), (1, 1, many[129][2], {}),
            (2, 1, [0, 0, 50, 50], {}), (1, 2, [9, 9, 50, 50], {})]),
        detections(many[::-1] + [(2, 1, [0, 0, 50, 50], 0.01), (1, 2, [9, 9, 50, 50], 0.5)]))
    yield case("no detections at all", ground_truth(**one, annotations=[(1, 1, [0, 0, 50, 50], {})]), [])
    yield case("nothing annotated anywhere", ground_truth([1, 2], [1, 3], []),
               detections([(1, 1, [0, 0, 50, 50], 0.9)]))
    yield case("only crowds annotated", ground_truth(**one, annotations=[(1, 1, [0, 0, 50, 50], {"iscrowd": 1})]),
               detections([(1, 1, [0, 0, 50, 50], 0.9)]))
    yield case(
        "an image without annotation makes false positives",
        ground_truth([1, 2, 3], [1], [(1, 1, [0, 0, 50, 50], {}), (3, 1, [0, 0, 50, 50], {})]),
        detections([(2, 1, [0, 0, 50, 50], 0.9), (1, 1, [0, 0, 50, 50], 0.8), (2, 1, [9, 9, 50, 50], 0.7),
                    (3, 1, [0, 0, 50, 50], 0.6)]))
    yield case(
        "tied scores keep their order in the file and the order of the image ids",
        ground_truth([7, 3, 5], [1], [
            (3, 1, [0, 0, 50, 50], {}), (5, 1, [0, 0, 50, 50], {}), (7, 1, [0, 0, 50, 50], {}),
            (7, 1, [20, 0, 50, 50], {})]),
        detections([
            (7, 1, [300, 0, 50, 50], 0.5), (7, 1, [10, 0, 50, 50], 0.5), (7, 1, [20, 0, 50, 50], 0.5),
            (5, 1, [5, 0, 50, 50], 0.5), (5, 1, [0, 0, 50, 50], 0.5), (3, 1, [200, 0, 50, 50], 0.5),
            (3, 1, [0, 0, 50, 50], 0.5), (3, 1, [0, 0, 50, 50], 0.0)]))
    yield case(
        "classes without truth, of unlisted ids, and annotations of unlisted images do not count",
        ground_truth([1, 2], [90, 1, 13], [
            (1, 1, [0, 0, 50, 50], {}), (9, 1, [0, 0, 50, 50], {}), (1, 44, [60, 60, 50, 50], {}),
            (2, 13, [0, 0, 50, 50], {})]),
        detections([(1, 1, [0, 0, 50, 50], 0.5), (1, 90, [0, 0, 50, 50], 0.9), (1, 44, [60, 60, 50, 50], 0.9),
                    (2, 1, [0, 0, 50, 50], 0.9)]))
    odd = ground_truth([1], [1], [
        (1, 1, [0, 0, 0, 0], {}), (1, 1, [10.25, 10.5, 0.125, 700.5], {}), (1, 1, [-20, -20, 40, 40], {}),
        (1, 1, [630, 470, 50, 50], {})])
    yield case(
        "boxes of no size, outside the image or of negative size",
        odd, detections([
            (1, 1, [0, 0, 0, 0], 0.9), (1, 1, [10.25, 10.5, 0.125, 700.5], 0.8), (1, 1, [-20, -20, 40, 40], 0.7),
            (1, 1, [640, 480, -10, -10], 0.65), (1, 1, [640, 480, 40, 40], 0.6), (1, 1, [630, 470, 50, 50], -0.5),
            (1, 1, [100, 100, -10, 20], 0.0)]))
    rng = random.Random(20240611)
    gt, results = scene(rng)
    yield case("a crowded scene", gt, results)
    yield case("a crowded scene, some of its images", gt, results, image_ids=[8, 2, 5, 2])
    yield case("a crowded scene, classes pooled", gt, results, pooled=True)
    yield case("a crowded scene, other detection limits", gt, results, max_dets=[2, 3, 5])
    yield case("a crowded scene, limits out of order, pooled, some images", gt, results,
               max_dets=[30, 1, 4], pooled=True, image_ids=[1, 3])


def scene(rng):
    """Many ties on purpose: coarse scores, boxes on a grid, areas at the borders, crowds, duplicates."""
    images, categories = [8, 1, 5, 2, 3], [3, 1, 17]
    box = lambda: [rng.randrange(0, 60, 8), rng.randrange(0, 60, 8), rng.choice([8, 16, 32, 96, 120.5]),
                   rng.choice([8, 32, 32, 96, 77.25])]
    truth = []
    for _ in range(rng.randint(10, 40)):
        extra = {"iscrowd": 1} if rng.random() < 0.15 else {}
        if rng.random() < 0.1:
            extra["area"] = rng.choice([1023.99, 1024, 9216, 9216.5])
        truth.append((rng.choice(images), rng.choice(categories), box(), extra))
    rows = []
    for _ in range(rng.randint(10, 70)):
        if rng.random() < 0.7:
            image, category, (x, y, w, h), _ = rng.choice(truth)
            jitter = [rng.choice([0, 0, 1, 3]) for _ in range(4)]
            rows.append((image, category, [x + jitter[0], y - jitter[1], w + jitter[2], h - jitter[3]],
                         rng.randint(0, 5) / 5))
        else:
            rows.append((rng.choice(images), rng.choice(categories), box(), rng.randint(0, 100) / 100))
    return ground_truth(images, categories, truth), detections(rows)


def randomised(count):
    for seed in range(count):
        rng = random.Random(seed)
        gt, results = scene(rng)
        options = {}
        if rng.random() < 0.3:
            options["pooled"] = True
        if rng.random() < 0.3:
            options["image_ids"] = [rng.choice([8, 1, 5, 2, 3]) for _ in range(rng.randint(1, 5))]
        if rng.random() < 0.3:
            options["max_dets"] = rng.choice([[1, 2, 3], [5, 2, 1], [1, 10, 300], [2, 2, 4]])
        yield case(f"random {seed}", gt, results, **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--random", type=int, default=0, help="this many random scenes instead of the fixed cases")
    parser.add_argument("out")
    arguments = parser.parse_args()
    cases = list(randomised(arguments.random) if arguments.random else fixed())
    with open(arguments.out, "w") as out:
        out.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
