"""Golden values of Pillow's antialiased bilinear resizing: of Pillow 11 and before, which resize along the rows first.

    pip install 'pillow<12'
    python3 tools/golden/pil_resize.py detectors/kernels/tests/golden

Images follow from the generator of the golden files (`tests/golden/lib.rs`): byte i of stream s is the upper
8 of its 24 bits. Only what Pillow made of them is stored.
"""
import json
import pathlib
import struct
import sys

import numpy as np
import PIL
from PIL import Image

# (height, width) of an image and of what becomes of it.
SIZES = [
    ((17, 23), (40, 31)),
    ((48, 64), (15, 20)),
    ((64, 48), (63, 49)),
    ((40, 90), (40, 33)),
    ((33, 20), (71, 20)),
    ((100, 3), (9, 7)),
    ((1, 9), (4, 30)),
    ((150, 150), (2, 1)),
]


def image(stream, height, width):
    gold = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        z = np.uint64(stream) * gold + np.arange(height * width * 3, dtype=np.uint64) + gold
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(56)).astype(np.uint8).reshape(height, width, 3)


def main(target):
    assert int(PIL.__version__.split(".")[0]) < 12, "later ones may go the other way round first, which rounds otherwise"
    cases, header, parts, offset = [], {}, [], 0
    for number, (size, to) in enumerate(SIZES):
        stream = 2_600_000 + number
        resized = np.asarray(Image.fromarray(image(stream, *size)).resize(to[::-1], Image.BILINEAR))
        name = f"pil_bilinear/{size[0]}x{size[1]}_to_{to[0]}x{to[1]}"
        cases.append(
            {
                "name": name,
                "file": "resize.safetensors",
                "attrs": {"stream": stream, "size": size, "to": to},
                "inputs": {},
                "outputs": {"out": {"shape": list(resized.shape), "exact": True}},
            }
        )
        raw = resized.tobytes()
        header[f"{name}/out"] = {"dtype": "U8", "shape": list(resized.shape), "data_offsets": [offset, offset + len(raw)]}
        parts.append(raw)
        offset += len(raw)
    index = {"format": 1, "made_by": "tools/golden/pil_resize.py", "versions": {"pillow": PIL.__version__}, "cases": cases}
    target.mkdir(parents=True, exist_ok=True)
    (target / "index.json").write_text(json.dumps(index, separators=(",", ":")) + "\n")
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (target / "resize.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
