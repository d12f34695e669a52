//! Times the convolutions of ResNet-50 at 224 pixels and of MobileCLIP2-S0 at 256 pixels, each shape by itself, on synthetic
//! weights and values, in one thread or as many as given.
//!
//!     cargo run --release -p pinhole-kernels --example convolution_shapes ITERATIONS [THREADS]
//!
//! A line per shape: the least time of an iteration from f32 to f32, its multiply-adds per nanosecond, and the share of that
//! time that the same takes from bytes to bytes; for comparison the multiply-adds of the f32 matrix product of the same size
//! (without gathering its rows), and the ratio of both.

mod convolutions;

use std::time::Instant;

use pinhole_kernels::{
    Affine, ConvolutionInput, ConvolutionOutput, ConvolutionWeights, ImageLayout, Nonlinearity,
    PackedConvolution, PackedLinear, Window,
};

/// Side of the image, inputs, outputs, groups, kernel, stride.
const SHAPES: [[usize; 6]; 18] = [
    [224, 3, 64, 1, 7, 2],
    [56, 64, 64, 1, 1, 1],
    [56, 64, 64, 1, 3, 1],
    [56, 64, 256, 1, 1, 1],
    [28, 128, 128, 1, 3, 1],
    [28, 128, 512, 1, 1, 1],
    [14, 256, 256, 1, 3, 1],
    [14, 256, 1024, 1, 1, 1],
    [14, 512, 512, 1, 3, 2],
    [7, 512, 512, 1, 3, 1],
    [7, 512, 2048, 1, 1, 1],
    [64, 64, 64, 64, 3, 1],
    [64, 64, 64, 64, 7, 1],
    [32, 128, 128, 128, 7, 1],
    [64, 64, 128, 64, 7, 2],
    [16, 256, 256, 256, 7, 1],
    [8, 512, 512, 512, 7, 1],
    [64, 64, 192, 1, 1, 1],
];

fn main() {
    let header = "side in out groups kernel stride     ms  MAC/ns  bytes time / int8  f32 MAC/ns  f32 time / int8";
    convolutions::for_each(&SHAPES, header, run);
}

fn run([side, inputs, outputs, groups, kernel, stride]: [usize; 6], iterations: usize) {
    let window = Window {
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1; 2],
        padding: [kernel / 2; 4],
    };
    let k = inputs / groups * kernel * kernel;
    let weight: Vec<i8> = (0..outputs * k)
        .map(|i| ((i * 7919 % 255) as i16 - 127) as i8)
        .collect();
    let weights = ConvolutionWeights {
        values: &weight,
        scales: &vec![0.0004; outputs],
        zero_points: &[],
        bias: Some(&vec![0.1; outputs]),
        outputs,
        inputs,
        groups,
    };
    let layer = PackedConvolution::new(weights, window).expect("few inputs");
    let x = values(side * side * inputs);
    let [height, width] = window.output([side; 2]).expect("a window that fits");
    let pixels = height * width;
    let mut out = vec![0.0; pixels * outputs];
    let by = Affine {
        scale: 0.01,
        zero_point: -128,
    };
    let layouts = [ImageLayout::ChannelsLast; 2];
    let relu = Some(Nonlinearity::RELU);
    let int8 = least(iterations, || {
        let x = ConvolutionInput::F32(&x, std::slice::from_ref(&by));
        let out = ConvolutionOutput::F32(&mut out);
        layer.apply(x, [side; 2], layouts, relu, None, out);
    });
    let from: Vec<u8> = x.iter().map(|x| (x * 100.0) as u8).collect();
    let mut to = vec![0; pixels * outputs];
    let bytes = least(iterations, || {
        let x = ConvolutionInput::Bytes(&from, 1, by);
        let out = ConvolutionOutput::Bytes(&mut to, by);
        layer.apply(x, [side; 2], layouts, relu, None, out);
    });
    let macs = (pixels * outputs * k) as f64 / 1e9;
    let size = format!("{side:4} {inputs:3} {outputs:4} {groups:4} {kernel:2} {stride}");
    if groups > 1 {
        return println!(
            "{size} {:9.3} {:7.1} {:5.2}",
            int8 * 1e3,
            macs / int8,
            bytes / int8
        );
    }
    let linear = PackedLinear::from_out_in(&values(outputs * k), outputs, k, None);
    let rows = values(pixels * k);
    let float = least(iterations, || {
        linear.apply(&rows, pixels, None, None, &mut out)
    });
    println!(
        "{size} {:9.3} {:7.1} {:5.2} {:7.1} {:5.2}",
        int8 * 1e3,
        macs / int8,
        bytes / int8,
        macs / float,
        float / int8
    );
}

/// The least time of a call in seconds.
fn least(iterations: usize, mut call: impl FnMut()) -> f64 {
    let times = (0..iterations.max(1)).map(|_| {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

/// In -0.5 .. 0.5.
fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5)
        .collect()
}
