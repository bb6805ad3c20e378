"""The rival of `benches/loader.rs`: torchvision's loading of detection images, on one thread.

Reads a line, makes one pass over the images, and answers with one JSON line, until the input ends: so the
benchmark can alternate with its own passes. Every variant does the work of one training step's input, batches of
`--images-per-batch` images in the order of their names:

    tensor  decode_jpeg, then GeneralizedRCNNTransform (normalise, bilinear to 800/1333, pad to a multiple of 32)
    pil     the same after PIL: what torchvision's CocoDetection and to_tensor give
    v2      decode_jpeg, v2.Resize of the bytes (its fast path, antialiased: other pixels), to f32, normalise, pad

    python tools/peer_loader.py --images DIR [--variants tensor,pil,v2] < lines

Needs: torch, torchvision, pillow.
"""

import argparse
import json
import pathlib
import sys
import time

import torch
import torchvision
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2
from torchvision.transforms.functional import convert_image_dtype, to_tensor

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def tensor(path):
    return convert_image_dtype(decode_jpeg(read_file(path), mode=ImageReadMode.RGB), torch.float32)


def pil(path):
    return to_tensor(Image.open(path).convert("RGB"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", required=True)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--images-per-batch", type=int, default=2)
    parser.add_argument("--short-side", type=int, default=800)
    parser.add_argument("--long-side", type=int, default=1333)
    parser.add_argument("--variants", default="tensor,pil,v2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(str(path) for path in pathlib.Path(args.images).iterdir() if path.suffix == ".jpg")
    paths = paths[: args.limit or None]

    detection = GeneralizedRCNNTransform(args.short_side, args.long_side, MEAN, STD)
    resize = v2.Resize(args.short_side, max_size=args.long_side, antialias=True)
    scale = v2.ToDtype(torch.float32, scale=True)
    normalise = v2.Normalize(MEAN, STD, inplace=True)

    def bytes_resized(path):
        return normalise(scale(resize(decode_jpeg(read_file(path), mode=ImageReadMode.RGB))))

    batches = {
        "tensor": lambda batch: detection([tensor(path) for path in batch])[0].tensors,
        "pil": lambda batch: detection([pil(path) for path in batch])[0].tensors,
        "v2": lambda batch: detection.batch_images([bytes_resized(path) for path in batch]),
    }

    def one_pass(batch_of):
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad():
            for start in range(0, len(paths), args.images_per_batch):
                batch_of(paths[start : start + args.images_per_batch])
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}

    for _ in sys.stdin:
        passes = {name: one_pass(batches[name]) for name in args.variants.split(",")}
        answer = {"images": len(paths), "torchvision": torchvision.__version__, "passes": passes}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
