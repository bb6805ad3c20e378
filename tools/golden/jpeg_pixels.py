#!/usr/bin/env python3
"""JPEG files of every kind, and a hash of the pixels that Pillow (libjpeg-turbo) decodes them to.

Writes tests/golden/jpeg/*.jpg and tests/golden/jpeg/pixels.json: BLAKE3 of the RGB bytes, row by row.

    pip install pillow numpy blake3
    python tools/golden/jpeg_pixels.py tests/golden/jpeg
"""

import json
import sys
from pathlib import Path

import blake3
import numpy as np
from PIL import Image, ImageFile

ImageFile.MAXBLOCK = 1 << 22


def scene(width, height, seed):
    """Waves, saturated squares and noise: all of the decoder's range is needed."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([128 + 127 * np.sin(x / (7 + 3 * c) + y / (5 + 2 * c) + c) for c in range(3)], -1)
    squares = ((x // 13 + y // 9) % 2)[..., None] * np.array([255, 0, 255])
    mixed = np.where(random.random((height, width, 1)) < 0.3, squares, waves) + random.normal(0, 20, waves.shape)
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def as_ycck(file):
    """The same data, said to be YCCK by the last byte of Adobe's segment."""
    end = file.index(b"Adobe") + 12
    assert file[end - 1] == 0
    return file[: end - 1] + b"\x02" + file[end:]


def main(folder):
    hashes = {}

    def keep(name, image, edit=lambda file: file, **options):
        path = folder / f"{name}.jpg"
        image.save(path, **options)
        path.write_bytes(edit(path.read_bytes()))
        hashes[path.name] = blake3.blake3(Image.open(path).convert("RGB").tobytes()).hexdigest()

    image = scene(61, 43, 0)
    for chroma in ("4:4:4", "4:2:2", "4:2:0"):
        for progressive in (False, True):
            name = chroma.replace(":", "") + ("_progressive" if progressive else "")
            keep(name, image, quality=85, subsampling=chroma, progressive=progressive)
    keep("420_coarse", image, quality=20, subsampling="4:2:0")
    keep("444_finest", image, quality=100, subsampling="4:4:4")
    keep("grey", image.convert("L"), quality=85)
    keep("grey_progressive", image.convert("L"), quality=85, progressive=True)
    keep("cmyk", image.convert("CMYK"), quality=85)
    keep("ycck", image.convert("CMYK"), as_ycck, quality=85)
    keep("stored_as_rgb", image, quality=85, keep_rgb=True)
    keep("restarts", image, quality=85, restart_marker_blocks=3)
    keep("one_pixel", scene(1, 1, 1), quality=85)
    keep("narrow", scene(3, 70, 2), quality=85, subsampling="4:2:0")
    keep("flat", scene(70, 3, 3), quality=85, subsampling="4:2:2")
    (folder / "pixels.json").write_text(json.dumps(hashes, indent=1) + "\n")


main(Path(sys.argv[1]))
