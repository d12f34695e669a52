"""Embeds an image RUNS times with ONNX Runtime on one thread: count_peer.py FILE.onnx PIXELS.npy RUNS

`count` runs it under the emulator, where the difference of two numbers of runs excludes Python and opening the file.
"""

import sys

import numpy
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
pixels = numpy.load(sys.argv[2], mmap_mode="r")[:1]
for _ in range(int(sys.argv[3])):
    session.run(None, {"pixels": pixels})
