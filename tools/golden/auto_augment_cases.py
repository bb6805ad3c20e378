"""Writes what Pillow and torchvision make of a small picture, for the tests of src/data/auto_augment.rs.

    python3 tools/golden/auto_augment_cases.py     (prints the table; needs torchvision)
"""
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, autoaugment

x, y = np.meshgrid(np.arange(8), np.arange(8))
picture = np.stack([x * 30 + y, 200 - y * 20 + x, x * y * 37 % 256], -1).astype(np.uint8)
space = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy.CIFAR10)._augmentation_space(10, (8, 8))

cases = [("ShearY", 8), ("ShearY", 7), ("TranslateX", 9), ("TranslateX", 8), ("TranslateY", 9), ("TranslateY", 3)]
cases += [("Rotate", 2), ("Brightness", 7), ("Brightness", 3), ("Color", 3), ("Color", 9), ("Contrast", 6)]
cases += [("Contrast", 7), ("Sharpness", 1), ("Sharpness", 5), ("Sharpness", 9), ("Posterize", 7), ("Solarize", 2)]
cases += [("Solarize", 8), ("AutoContrast", None), ("Equalize", None), ("Invert", None)]
rows = []
for name, level in cases:
    magnitudes, signed = space[name]
    for sign in (1.0, -1.0) if signed else (1.0,):
        magnitude = float(magnitudes[level]) * sign if level is not None else 0.0
        image = Image.fromarray(picture)
        out = autoaugment._apply_op(image, name, magnitude, InterpolationMode.NEAREST, None)
        flat = np.asarray(out).astype(np.uint64).ravel()
        total, weighted = int(flat.sum()), int((flat * np.arange(1, flat.size + 1, dtype=np.uint64)).sum())
        operation = name if level is None else f"{name}({level})"
        rows.append(f"({operation}, {sign}, ({total}, {weighted}))")
body = "".join(f"    {row},\n" for row in rows)
print(f"const PIL: [(Operation, f64, (u64, u64)); {len(rows)}] = [\n{body}];")
