"""Memory, file descriptors and threads of a training over its steps: a table, and an error where memory grows.

    tools/soak memory [STEPS] [TASK ...]

Tasks: detection, classification, cohort; all of them by default, 3,000 steps each, on data that is made here. Resident
memory is what the kernel says (`VmRSS`), sampled as the log grows. It moves up and down by some MiB within a step, as
large pages come and go, so growth is the median of the slopes between all pairs of samples after a warm-up of a third of
the steps (Theil and Sen). It must stay below 1 MiB per 1,000 steps.
"""

import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

LIMIT = 1.0
EVERY = 10

SHARED = """
seed = 3
output = "runs"
[train]
batch_size = {batch}
log_every = 10
eval_every = {eval}
checkpoint_every = 500
[eval]
batch_size = 2
"""

DETECTION = """
[detector]
architecture = "faster_rcnn"
fpn_channels = 16
anchor_sizes = [[8.0], [16.0], [32.0], [64.0], [128.0]]
[detector.rpn]
pre_nms_top_n_train = 60
post_nms_top_n_train = 30
pre_nms_top_n_test = 40
post_nms_top_n_test = 20
batch_per_image = 16
[detector.roi]
batch_per_image = 16
head_width = 32
score_threshold = 0.01
[input]
short_side_px = [64]
long_side_px = 64
[data]
kind = "synth"
root = "data"
[data.synth]
images_train = 10
images_val = 4
image_size_px = 64
classes = 3
[student]
backbone = "resnet18"
width = 8
norm = "bn"
[optim]
lr = 0.002
[schedule]
steps = {steps}
kind = "constant"
"""

DISTILLED = """
[teacher]
backbone = "resnet18"
width = 16
norm = "bn"
train = "teacher.toml"
[[distill]]
method = "ckd"
at = "roi_logits"
weight = 0.5
[[distill]]
method = "rcka"
levels = ["p2", "p3"]
weight = 1.0
patch = 4
"""

CIFAR = """
[data]
kind = "cifar10"
root = "colours"
[optim]
lr = 0.01
[schedule]
steps = {steps}
kind = "cosine"
"""

TASKS = {
    "detection": (2, DETECTION + DISTILLED, ""),
    "classification": (8, CIFAR + '[student]\nnetwork = "resnet8"\n', 'task = "classify"\n'),
    "cohort": (
        8,
        CIFAR + '[[peer]]\nnetwork = "resnet8"\n[[peer]]\nnetwork = "resnet8"\n'
        '[cohort]\nmethod = "mcl"\nwidth = 16\n',
        'task = "cohort"\n',
    ),
}


def write_colours(root):
    """CIFAR-10's binary form: images whose class is their colour, with noise."""
    root.mkdir(parents=True)

    def rows(images):
        for image in images:
            label = image * 7 % 10
            tones = [25 * label, 255 - 25 * label, 17 * (label % 5)]
            noise = [(image * 3079 + place) * 2654435761 % 64 for place in range(3072)]
            yield bytes([label] + [min(255, tones[place // 1024] + noise[place]) for place in range(3072)])

    for name, images in [("data_batch_1", range(20)), ("data_batch_2", range(20, 28)), ("test_batch", range(100, 120))]:
        (root / f"{name}.bin").write_bytes(b"".join(rows(images)))


def step_of(log):
    """Newest step in a log, 0 without any."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.path.getsize(log) - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        try:
            step = json.loads(line).get("step")
        except ValueError:
            continue
        if isinstance(step, int):
            return step
    return 0


def sample(pid):
    """MiB resident, file descriptors, threads."""
    status = dict(
        line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    return int(status["VmRSS"].split()[0]) / 1024, len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"])


def train(program, folder, task, steps):
    """Samples of one training: (step, MiB, file descriptors, threads)."""
    batch, body, head = TASKS[task]
    text = head + SHARED.format(batch=batch, eval=max(steps // 6, 1)).replace("seed = 3", f'name = "{task}"\nseed = 3')
    (folder / f"{task}.toml").write_text(text + body.format(steps=steps))
    (folder / "teacher.toml").write_text(
        (text + DETECTION.format(steps=2)).replace("width = 8", "width = 16").replace(f'"{task}"', '"teacher"')
    )
    command = [program, "train", f"{task}.toml", "--quiet"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    samples, seen = [], 0
    log = folder / "runs" / task / "log.jsonl"
    while process.poll() is None:
        step = step_of(log)
        if step >= seen + EVERY:
            seen = step
            try:
                samples.append((step, *sample(process.pid)))
            except (FileNotFoundError, ProcessLookupError, KeyError):
                break
        time.sleep(0.02)
    if process.wait() != 0:
        sys.exit(f"{task}: the training ended with {process.returncode}")
    return samples


def slope(samples):
    """MiB per 1,000 steps: the median over all pairs of samples."""
    pairs = itertools.combinations([s[:2] for s in samples], 2)
    return 1000 * statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs)


def spread(values):
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def main():
    steps = int(sys.argv[2])
    tasks = sys.argv[3:] or list(TASKS)
    failed = []
    print("| task | steps | median RSS in the second third, MiB | in the last third, MiB | growth, MiB per 1,000 steps | descriptors | threads |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_colours(folder / "colours" / "cifar-10-batches-bin")
        for task in tasks:
            samples = train(os.path.abspath(sys.argv[1]), folder, task, steps)
            if path := os.environ.get("SOAK_SAMPLES"):
                pathlib.Path(path, f"{task}.json").write_text(json.dumps(samples))
            late = [s for s in samples if s[0] >= steps / 3]
            middle = statistics.median(s[1] for s in late if s[0] < 2 * steps / 3)
            end = statistics.median(s[1] for s in late if s[0] >= 2 * steps / 3)
            growth = slope(late)
            descriptors, threads = spread([s[2] for s in late]), spread([s[3] for s in late])
            print(
                f"| {task} | {steps} | {middle:.1f} | {end:.1f} | {growth:.2f} | {descriptors} | {threads} |",
                flush=True,
            )
            if growth >= LIMIT:
                failed.append(f"{task} grows by {growth:.2f} MiB per 1,000 steps")
    if failed:
        sys.exit("; ".join(failed))


if __name__ == "__main__":
    main()
