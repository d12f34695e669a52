"""Runs a network of ncnn on one thread with benchncnn's options, weights (zeros) and input: count_ncnn.py PARAM SIDE RUNS

`ncnn` runs it under the emulator, where the difference of two numbers of runs excludes Python and loading.
"""

import sys

import ncnn

net = ncnn.Net()
options = net.opt
options.lightmode = True
options.num_threads = 1
options.use_winograd_convolution = options.use_sgemm_convolution = options.use_packing_layout = True
options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = True
options.use_int8_inference = options.use_int8_storage = options.use_int8_arithmetic = True
options.use_vulkan_compute = options.use_shader_pack8 = options.use_image_storage = False
if net.load_param(sys.argv[1]) != 0 or net.load_model(ncnn.DataReaderFromEmpty()) != 0:
    sys.exit(f"error: {sys.argv[1]}: ncnn cannot load it")
side = int(sys.argv[2])
image = ncnn.Mat(side, side, 3)
image.fill(0.01)
for _ in range(int(sys.argv[3])):
    extractor = net.create_extractor()
    for name in net.input_names():
        extractor.input(name, image)
    for name in net.output_names():
        status, out = extractor.extract(name)
        if status != 0:
            sys.exit(f"error: {sys.argv[1]}: ncnn cannot compute {name}")
    del out, extractor
