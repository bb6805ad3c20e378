#!/usr/bin/env python3
"""Text that pycocotools' COCOeval.summarize() prints of a ground truth and a results file.

    pip install pycocotools==2.0.11
    python tools/golden/coco_summary.py GT.json RESULTS.json > tests/golden/coco_eval/NAME_summary.txt
    python tools/golden/coco_summary.py tests/golden/coco_eval/cases.json "a crowded scene" > ...

With a file of cases the second argument names one of them.
"""
import contextlib
import io
import json
import sys
import tempfile

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def summary(truth, results):
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO(truth)
        evaluation = COCOeval(gt, gt.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    evaluation.summarize()


def main(truth, results):
    content = json.load(open(truth))
    if isinstance(content, dict):
        return summary(truth, results)
    case = next(case for case in content if case["name"] == results)
    with tempfile.TemporaryDirectory() as folder:
        for name in ["gt", "results"]:
            json.dump(case[name], open(f"{folder}/{name}", "w"))
        summary(f"{folder}/gt", f"{folder}/results")


if __name__ == "__main__":
    main(*sys.argv[1:])
