"""See tests/conformance/teaching."""

import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

CLASSES, EXAMPLES, HELD_OUT, DRAWS = 10, 5, 15, 3
# Percentage points, of the mean of the draws.
BELOW_LOGISTIC_REGRESSION, LEAVE_ONE_OUT = 2.0, 5.0


def run(program, *arguments):
    return subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout


def embeddings(program, bundle, files):
    lines = run(program, "embed", bundle, *files, "--json").splitlines()
    found = {line["image"]: line["embedding"] for line in map(json.loads, lines)}
    return np.array([found[str(file)] for file in files])


def folders_of(held_out, root):
    for name, files in held_out.items():
        (root / name).mkdir(parents=True)
        for number, file in enumerate(files):
            (root / name / f"{number}{file.suffix}").symlink_to(file.resolve())


def draw(program, bundle, photos, seed, root):
    chosen = random.Random(seed)
    names = [f.name for f in sorted(photos.iterdir()) if f.is_dir() and len(list(f.iterdir())) >= EXAMPLES + HELD_OUT]
    names = sorted(chosen.sample(names, CLASSES))
    shown, held_out = {}, {}
    for name in names:
        files = chosen.sample(sorted((photos / name).iterdir()), EXAMPLES + HELD_OUT)
        shown[name], held_out[name] = files[:EXAMPLES], files[EXAMPLES:]
    folders_of(held_out, root / "held-out")
    evaluated = lambda folder: json.loads(run(program, "teach", folder, "--evaluate", root / "held-out", "--json"))

    taught = root / "taught"
    shutil.copytree(bundle, taught)
    old = [name for name in run(program, "classes", taught).splitlines() if name not in names]
    for name in names:
        if name not in run(program, "classes", taught).splitlines():
            run(program, "teach", taught, "--class", name)
    known = run(program, "classes", taught).splitlines()
    zero_shot = None
    if all(name in known for name in names):
        run(program, "teach", taught, "--remove", *old)
        zero_shot = evaluated(taught)["accuracy"]
        old = []
    for name, files in shown.items():
        lesson = json.loads(run(program, "teach", taught, "--class", name, *files, "--json"))
    if old:
        lesson = json.loads(run(program, "teach", taught, "--remove", *old, "--json"))
    answer = evaluated(taught)

    labels = lambda of: np.repeat(np.arange(CLASSES), [len(of[name]) for name in names])
    flat = lambda of: [file for name in names for file in of[name]]
    train, test = embeddings(program, bundle, flat(shown)), embeddings(program, bundle, flat(held_out))
    # As it comes, and with the strongest of the usual penalties for embeddings of norm 1.
    scores = {c: LogisticRegression(C=c, max_iter=5000).fit(train, labels(shown)).score(test, labels(held_out)) for c in (1.0, 100.0)}
    return {
        "head": lesson["head"],
        "leave-one-out": lesson["accuracy"],
        "taught": answer["accuracy"],
        "unknown": answer["unknown"],
        "zero-shot": zero_shot,
        "logistic regression": scores[1.0],
        "logistic regression, C = 100": scores[100.0],
    }


def main():
    program, bundle, photos = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    rows = []
    for seed in range(DRAWS):
        with tempfile.TemporaryDirectory() as root:
            rows.append(draw(program, bundle, photos, seed, Path(root)))
        print(", ".join(f"{k} {v if isinstance(v, str) else '-' if v is None else f'{100 * v:.1f} %'}" for k, v in rows[-1].items()), flush=True)
    mean = lambda key: 100 * sum(row[key] for row in rows) / len(rows)
    best = max(mean("logistic regression"), mean("logistic regression, C = 100"))
    below, apart = best - mean("taught"), abs(mean("leave-one-out") - mean("taught"))
    print(f"{below:.1f} points below logistic regression (at most {BELOW_LOGISTIC_REGRESSION}), leave-one-out {apart:.1f} points from held-out photos (at most {LEAVE_ONE_OUT})")
    worse = rows[0]["zero-shot"] is not None and mean("taught") < mean("zero-shot")
    sys.exit(below > BELOW_LOGISTIC_REGRESSION or apart > LEAVE_ONE_OUT or worse)


main()
