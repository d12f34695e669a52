//! Times the 3 x 3 convolutions of CLIP's RN50 at 224 pixels and of MobileCLIP2-S0's stem at 256 pixels in f32, each shape by
//! itself, on synthetic weights and values, in one thread or as many as given.
//!
//!     cargo run --release -p pinhole-kernels --example float_convolution_shapes ITERATIONS [THREADS]
//!
//! A line per shape: the median time of a product for each tap, its multiply-adds per nanosecond, the median time of the form
//! that is chosen for the size of the image, and its ratio to the first.

mod convolutions;

use std::time::Instant;

use pinhole_kernels::{FloatConvolutionWeights, Nonlinearity, PackedFloatConvolution, Window};

/// Side of the image, inputs, outputs, stride.
const SHAPES: [[usize; 4]; 11] = [
    [224, 3, 32, 2],
    [112, 32, 32, 1],
    [112, 32, 64, 1],
    [56, 64, 64, 1],
    [56, 128, 128, 1],
    [28, 128, 128, 1],
    [28, 256, 256, 1],
    [14, 256, 256, 1],
    [14, 512, 512, 1],
    [7, 512, 512, 1],
    [256, 3, 64, 2],
];

/// Layers of a shape, so that weights come from where they do in a network.
const LAYERS: usize = 3;

fn main() {
    let header = "side  in out stride   each tap ms  MAC/ns   chosen ms  chosen / each tap";
    convolutions::for_each(&SHAPES, header, run);
}

fn run([side, inputs, outputs, stride]: [usize; 4], iterations: usize) {
    let window = Window {
        kernel: [3, 3],
        stride: [stride; 2],
        dilation: [1, 1],
        padding: [1; 4],
    };
    let values = |len: usize| -> Vec<f32> {
        let value = |i: usize| (i * 7919 % 251) as f32 / 125.0 - 1.0;
        (0..len).map(value).collect()
    };
    let weights = FloatConvolutionWeights {
        values: &values(outputs * inputs * 9),
        bias: Some(&vec![0.1; outputs]),
        outputs,
        inputs,
        groups: 1,
    };
    let x = values(side * side * inputs);
    let [height, width] = window.output([side; 2]).expect("a window that fits");
    let mut out = vec![0.0; height * width * outputs];
    // For an image of one pixel, no other form pays.
    let images = [[1; 2], [side; 2]];
    let layers = images.map(|image| {
        let packed = || PackedFloatConvolution::new(weights, window, image);
        std::array::from_fn::<_, LAYERS, _>(|_| packed())
    });
    let mut times = [vec![], vec![]];
    for _ in 0..iterations {
        for (times, layers) in times.iter_mut().zip(&layers) {
            for layer in layers {
                let start = Instant::now();
                layer.apply(&x, 1, [side; 2], Some(Nonlinearity::RELU), None, &mut out);
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let [each, chosen] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    let products = (height * width * outputs * inputs * 9) as f64;
    println!(
        "{side:4} {inputs:3} {outputs:3} {stride:6} {each:13.3} {:7.1} {chosen:11.3} {:18.2}",
        products / each * 1e-6,
        chosen / each
    );
}
