"""Splits the golden models down to what fits in the repository (below 1 MiB).

    python3 tools/golden/copy_models.py SOURCE/golden tests/golden

Left out: inputs that follow from the generator (the loader computes them). trunk/resnet18, which has whole feature
maps, gets a file of its own.
"""
import json
import math
import pathlib
import struct
import sys


def generated(spec):
    """The bytes of an input that follows from the counter-based generator."""
    gold, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1

    def value(i):
        z = (spec["stream"] * gold + i + gold) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return ((z ^ (z >> 31)) >> 40) / 2**23 - 1

    count = math.prod(spec["shape"])
    return struct.pack(f"<{count}f", *(value(i) * spec["scale"] + spec["offset"] for i in range(count)))


def main(source, target):
    index = json.loads((source / "index.json").read_text())
    raw = (source / "models.safetensors").read_bytes()
    header_size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + header_size])
    body = raw[8 + header_size :]

    skipped = set()
    for case in index["cases"]:
        if case["file"] == "models.safetensors":
            for key, spec in case["inputs"].items():
                name = f"{case['name']}/{key}"
                if "stream" in spec and body[slice(*header[name]["data_offsets"])] == generated(spec):
                    skipped.add(name)

    def write(name, keep):
        kept, parts, offset = {}, [], 0
        for key, entry in sorted(header.items(), key=lambda item: item[1].get("data_offsets", [-1])[0]):
            if key == "__metadata__" or key in skipped or not keep(key):
                continue
            start, end = entry["data_offsets"]
            parts.append(body[start:end])
            kept[key] = dict(entry, data_offsets=[offset, offset + end - start])
            offset += end - start
        text = json.dumps(kept, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        out = struct.pack("<Q", len(text)) + text + b"".join(parts)
        assert len(out) < 1 << 20, f"{name}: {len(out)} bytes: leave out more"
        (target / name).write_bytes(out)

    apart = "trunk/resnet18"
    write("models.safetensors", lambda key: not key.startswith(f"{apart}/"))
    write("trunk_resnet18.safetensors", lambda key: key.startswith(f"{apart}/"))
    text = (source / "index.json").read_text()
    before = f'"name":"{apart}",\n"file":"models.safetensors"'
    assert text.count(before) == 1
    (target / "index.json").write_text(text.replace(before, before.replace("models", "trunk_resnet18")))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
