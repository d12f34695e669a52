"""Compares image encoders of other families with ONNX Runtime: encoders.py PINHOLE PINHOLE_EXPORT [NAME...]

Makes each encoder with random weights (tests/reference/random_encoders.py), transformers with outlier channels, exports it
with both exporters of torch.onnx in f32, and converts the files with `pinhole-export onnx`. Prints a table of the worst
cosine between `pinhole embed` and ONNX Runtime in f32, and between int8 and f32, on other pictures than int8 was calibrated
on. NAME is a part of the names below; default: all. Fails below a cosine of 0.9999 in f32 and 0.98 in int8.

Needs the packages of tests/reference/requirements.txt with onnxscript, and 6 GB of memory. Use a release build.
"""

import gc
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "reference"))

import random_encoders  # noqa: E402

import foreign  # noqa: E402
import given_text  # noqa: E402
from compare import pinhole_embeddings, pixels, worst_cosine  # noqa: E402
from pictures import picture  # noqa: E402

MIN_COSINE = {"f32": 0.9999, "int8": 0.98}
NAMES = ["MobileCLIP2-S0", "MobileCLIP2-S2", "PE-Core-T-16-384", "EVA02-B-16", "ConvNeXt-B", "DINOv2-S", "SigLIP-B-16"]
SAMPLES = [str(path) for path in random_encoders.SAMPLES[:3]]
CALIBRATION, GENERATED = 16, 5


def export(exporter, folder, file, bundle, *options):
    """Converts the file; an error message if that fails."""
    config = folder / "open_clip_config.json"
    command = [exporter, "onnx", "--encoder", file, "--preprocessing", config, *given_text.options(folder), *options]
    done = subprocess.run([*map(str, command), "--out", str(bundle)], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


class Table:
    def __init__(self):
        self.failed = 0
        print("| encoder | exporter | precision | worst cosine | |\n|---|---|---|---|---|")

    def row(self, name, exporter, precision, found):
        passed = isinstance(found, float) and found >= MIN_COSINE[precision]
        self.failed += not passed
        found = f"{found:.7f}" if isinstance(found, float) else found
        print(f"| {name} | {exporter} | {precision} | {found} | {'ok' if passed else 'FAILED'} |", flush=True)


def compare(pinhole, exporter, name, kind, work, table):
    """Compares work/encoder.onnx in f32 with ONNX Runtime; the torchscript one also in int8 with f32."""
    file, bundle = work / "encoder.onnx", work / "f32"
    error = export(exporter, work, file, bundle)
    if error:
        return table.row(name, kind, "f32", error)
    session = foreign.session(file, 2)
    expected = foreign.run(session, foreign.normalised(pixels(pinhole, bundle, SAMPLES), bundle, session))
    del session
    table.row(name, kind, "f32", worst_cosine(pinhole_embeddings(pinhole, bundle, SAMPLES), expected))
    if kind != "torchscript":
        return None
    ungated = ["--min-cosine", "0", "--min-agreement", "0"]
    error = export(exporter, work, file, work / "int8", "--precision", "int8", "--calibration", work / "calibration", *ungated)
    if error:
        return table.row(name, kind, "int8", error)
    images = [*SAMPLES, *sorted(str(path) for path in (work / "others").iterdir())]
    floats, ints = (pinhole_embeddings(pinhole, work / precision, images) for precision in ("f32", "int8"))
    return table.row(name, kind, "int8", worst_cosine(ints, floats))


def main(pinhole, exporter, parts):
    warnings.filterwarnings("ignore")
    names = [name for name in NAMES if not parts or any(part in name for part in parts)]
    if not names:
        sys.exit(f"error: NAME: expected parts of {', '.join(NAMES)}, found {' '.join(parts)}")
    table = Table()
    for name in names:
        encoder = random_encoders.create(name, outliers=True)
        size = random_encoders.embeddings(encoder.module, encoder.pixels()[:1]).shape[1]
        for kind in ("torchscript", "dynamo"):
            with tempfile.TemporaryDirectory() as work:
                work = Path(work)
                encoder.save_config(work)
                given_text.save(work, size)
                for i in range(CALIBRATION + GENERATED):
                    folder = work / ("calibration" if i < CALIBRATION else "others")
                    folder.mkdir(exist_ok=True)
                    picture(i).save(folder / f"{i}.png")
                try:
                    random_encoders.export(encoder.module, encoder.side, work / "encoder.onnx", kind, "n")
                except Exception as error:
                    # What the exporter itself cannot do is no fault of the conversion.
                    error = str(error).splitlines()[0]
                    print(f"| {name} | {kind} | f32 | torch.onnx.export: {error} | not exported |", flush=True)
                else:
                    compare(pinhole, exporter, name, kind, work, table)
        del encoder
        gc.collect()
    return table.failed


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(1 if main(*sys.argv[1:3], sys.argv[3:]) else 0)
