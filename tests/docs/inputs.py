"""Makes small files in the place of those that the documents' commands take from their reader."""

import shutil
import subprocess
from pathlib import Path

CLASSES = {"cat": "red-heart", "hedgehog": "green-star"}


def make(folder, root, target):
    """Writes them into `folder`; `root` is the repository, `target` cargo's folder of programs."""
    folder, root, target = Path(folder), Path(root), Path(target)
    checkpoint = target / "examples" / "random_checkpoint"
    # A folder is a checkpoint as well as a file is.
    for name in ("ViT-B-32.pt", "ViT-B-16.pt"):
        subprocess.run([checkpoint, "tiny", folder / name], check=True)
    # The hub's model, as a download leaves it in the cache of `commands.Runner`.
    model = folder.parent / "home" / ".cache/huggingface/hub/models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
    commit = "0" * 40
    shutil.copytree(folder / "ViT-B-32.pt", model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    samples = root / "assets" / "samples"
    # The random model calls everything a hedgehog: with more of them it is better than a guess, and can be calibrated.
    for place, counts in (("photos", (4, 20)), ("training-photos", (12, 12))):
        for (name, sample), count in zip(CLASSES.items(), counts):
            (folder / place / name).mkdir(parents=True)
            for number in range(count):
                shutil.copy(samples / f"{sample}.png", folder / place / name / f"{number}.png")
    (folder / "photos" / "other").mkdir()
    for count, sample in enumerate(sorted(samples.glob("blue-*.png"))):
        shutil.copy(sample, folder / "photos" / "other" / f"{count}.png")
    frames = (root / "assets" / "scenes.mjpeg").read_bytes()
    photo = frames[: frames.index(b"\xff\xd9") + 2]
    (folder / "photo.jpg").write_bytes(photo)
    shutil.copy(root / "tests/golden/foreign/f32.onnx", folder / "encoder.onnx")
