"""Times one peer on one file: time_peer.py onnxruntime|openvino FILE.onnx PIXELS.npy THREADS RUNS [embeddings]

Prints one JSON object: milliseconds of opening the file (`open_ms`) and of each run on the first image (`run_ms`),
the peak memory of the whole process after that (`peak_bytes`), and, on request, the embeddings of all images.
Each measurement runs in a process of its own, so that no spinning thread disturbs the next one.
"""

import json
import resource
import sys
import time

import numpy


def onnxruntime_session(path, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    opened = time.perf_counter() - start
    return opened, lambda pixels: session.run(None, {"pixels": pixels})[0]


def openvino_request(path, threads):
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # By default it computes f32 files in bf16 if the processor supports that; 8-bit files are slower with it.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    start = time.perf_counter()
    request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()
    opened = time.perf_counter() - start
    return opened, lambda pixels: request.infer([pixels])[0]


PEERS = {"onnxruntime": onnxruntime_session, "openvino": openvino_request}


def main(peer, path, pixels, threads, runs, embeddings=None):
    pixels = numpy.load(pixels)
    opened, run = PEERS[peer](path, int(threads))
    times = []
    for _ in range(int(runs)):
        start = time.perf_counter()
        run(pixels[:1])
        times.append(1e3 * (time.perf_counter() - start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"open_ms": 1e3 * opened, "run_ms": times, "peak_bytes": peak}
    if embeddings:
        result["embeddings"] = [run(pixels[i : i + 1])[0].tolist() for i in range(len(pixels))]
    print(json.dumps(result))


if __name__ == "__main__":
    if len(sys.argv) not in (6, 7) or sys.argv[1] not in PEERS:
        sys.exit(__doc__)
    main(*sys.argv[1:])
