#!/usr/bin/env python3
"""Prints AP and paired bootstrap intervals of the made-up detections of tests/compare.rs, by pycocotools alone,
and of its made-up classifiers, by numpy.

A resample is a data set with copies of the images that were drawn. Needs numpy and pycocotools; takes minutes.
"""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CLASSES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def data_set(numbers):
    """Images, boxes and two sets of detections, as `set` of tests/compare.rs makes them."""
    images, boxes, first, second = [], [], [], []
    for place_in_list, number in enumerate(numbers):
        image_id = place_in_list + 1
        images.append({"id": image_id, "width": 400, "height": 300})
        place = lambda index: [20 + 60 * index, 10 + 7 * number, 40, 36]
        category = lambda index: (number + index) % 2
        for index in range(1 + number % 4):
            box = {"id": len(boxes) + 1, "image_id": image_id, "category_id": 1 + category(index)}
            boxes.append(box | {"bbox": place(index), "area": 40 * 36, "iscrowd": 0})
        if number % 5 == 3:
            boxes[-1]["iscrowd"] = 1
        for index in range(2 + number % 3):
            x, y, width, height = place(index)
            kind = (3 * number + index) % 7
            score = 0.9 - 0.1 * index - 0.013 * kind - 0.0001 * number
            row = {"image_id": image_id, "category_id": 1 + (category(index) + (kind == 5)) % 2, "score": score}
            first.append(row | {"bbox": [x + (25 if kind == 2 else 3 * kind), y, width, height]})
            if kind != 4:
                second.append(row | {"bbox": [x + kind, y, width, height]})
    return images, boxes, first, second


def ap(images, boxes, detections):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": images, "annotations": boxes, "categories": CLASSES}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def hits():
    """Mean gain in top-1 over three seeds, as `hits` of tests/compare.rs makes them, and its interval."""
    image = np.arange(400)
    gains = sum(((11 * image + 2 * seed) % 8 < 5) * 1.0 - ((7 * image + seed) % 5 < 3) for seed in range(3)) / 3
    random = np.random.default_rng(1)
    resampled = [gains[random.integers(0, 400, 400)].mean() for _ in range(200_000)]
    print(gains.mean(), np.quantile(resampled, [0.025, 0.975]), (np.array(resampled) > 0).mean())


def main():
    hits()
    images, boxes, first, second = data_set(range(40))
    print(repr(ap(images, boxes, first)), repr(ap(images, boxes, second)))
    random = np.random.default_rng(0)
    differences = []
    for _ in range(400):
        images, boxes, first, second = data_set(random.integers(0, 40, 40))
        differences.append(ap(images, boxes, second) - ap(images, boxes, first))
    print(np.quantile(differences, [0.025, 0.975]))


if __name__ == "__main__":
    main()
