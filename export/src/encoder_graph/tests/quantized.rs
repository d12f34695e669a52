//! What other programs quantised.

use pinhole::internal::attributes;
use tract_onnx::pb::{GraphProto, TensorProto, tensor_proto::DataType};

use super::{TestGraph, bytes, float, floats, graph, int8, parameter, values_of};
use crate::graph::proto::{
    float as of_float, int as of_integer, ints as integers, text as of_text,
};

/// d = x quantised to u8 and dequantised, with scale 0.5 and zero point 130.
fn pair() -> Vec<[&'static str; 3]> {
    vec![
        ["QuantizeLinear", "x s z", "q"],
        ["DequantizeLinear", "q s z", "d"],
    ]
}

fn scale_and_zero_point() -> Vec<TensorProto> {
    vec![float("s", 0.5), bytes("z", DataType::Uint8, &[], &[130])]
}

#[test]
fn quantize_dequantize_pairs() {
    let pair = graph(&pair(), &scale_and_zero_point()).with(|g| g.node("d").output[0] = "y".into());
    let params = |graph: &TestGraph| {
        let found = graph.becomes("FakeQuantize");
        assert_eq!(found.node[0].input[0], "x");
        let zero_point = parameter(&found, "x_zero_point").raw_data[0];
        (values_of(&found, "x_scale")[0], zero_point.cast_signed())
    };
    assert_eq!(params(&pair), (0.5, 2));
    let signed = bytes("z", DataType::Int8, &[1], &[3]);
    assert_eq!(params(&pair.constant(signed)), (0.5, 3));
    let none = pair.reading("q", "x s").reading("y", "q s");
    assert_eq!(params(&none), (0.5, -128));
    let type_of = |kind: DataType| none.attribute("q", of_integer("output_dtype", kind as i64));
    assert_eq!(params(&type_of(DataType::Uint8)), (0.5, -128));
    assert_eq!(params(&type_of(DataType::Int8)), (0.5, 0));
    type_of(DataType::Int16).fails(&["zero point", "8-bit"]);

    none.reading("y", "q s z")
        .fails(&["node of d", "of node of q", "found others"]);
    for scale in [0.0, -0.5, f32::NAN, f32::INFINITY] {
        let bad = pair.constant(float("s", scale));
        bad.fails(&["scale: expected a number above 0", &scale.to_string()]);
    }
    pair.constant(floats("s", &[2]))
        .fails(&["one constant value"]);
    pair.constant(floats("s", &[1, 2]))
        .fails(&["one constant value"]);
    let wide = bytes("z", DataType::Int32, &[], &[0; 4]);
    pair.constant(wide).fails(&["zero point", "8-bit"]);
    let two = bytes("z", DataType::Uint8, &[2], &[1, 1]);
    pair.constant(two).fails(&["zero point", "found several"]);
    // Each operator alone has the same limits.
    let alone = graph(&[["QuantizeLinear", "x s z", "y"]], &scale_and_zero_point());
    alone.stays();
    alone.constant(float("s", 0.0)).fails(&["above 0"]);
    let alone = graph(
        &[["DequantizeLinear", "x s z", "y"]],
        &scale_and_zero_point(),
    );
    alone.stays();
    alone.constant(float("s", 0.0)).fails(&["above 0"]);
}

/// Quantised constants that are not weights of products.
#[test]
fn constants_are_dequantised() {
    let plain = graph(
        &[["DequantizeLinear", "w s", "d"], ["Add", "x d", "y"]],
        &[int8("w", &[2, 3]), float("s", 0.5)],
    );
    let values = |graph: &TestGraph| {
        let found = graph.becomes("Add");
        let [d] = &found.initializer[..] else {
            panic!("{:?}", found.initializer)
        };
        let values = d.raw_data.as_chunks().0.iter();
        let values: Vec<f32> = values.map(|b| f32::from_le_bytes(*b)).collect();
        values
    };
    assert_eq!(values(&plain), [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]);
    let zero = plain
        .reading("d", "w s z")
        .constant(bytes("z", DataType::Int8, &[], &[1]));
    assert_eq!(values(&zero), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]);
    for (axis, scales, expected) in [
        (0, 2, [1.0, 2.0, 3.0, 8.0, 10.0, 12.0]),
        (1, 3, [1.0, 4.0, 9.0, 4.0, 10.0, 18.0]),
        (-1, 3, [1.0, 4.0, 9.0, 4.0, 10.0, 18.0]),
    ] {
        let channels = plain
            .constant(floats("s", &[scales]))
            .attribute("d", of_integer("axis", axis));
        assert_eq!(values(&channels), expected, "{axis}");
    }

    for axis in [0, 2, -3] {
        let channels = plain.constant(floats("s", &[3]));
        channels
            .attribute("d", of_integer("axis", axis))
            .fails(&["node of d", "x_scale"]);
    }
    plain.constant(floats("s", &[0])).fails(&["node of d"]);
    // Empty tensors.
    for (dims, scales) in [(&[2, 0][..], 1), (&[2, 0], 0), (&[0, 2], 2)] {
        let empty = plain
            .constant(int8("w", dims))
            .constant(floats("s", &[scales]));
        assert_eq!(values(&empty), [0.0; 0]);
    }
    let huge = bytes("w", DataType::Int8, &[0, 1 << 62, 4], &[]);
    let huge = plain.constant(huge).constant(floats("s", &[0]));
    let huge = huge.attribute("d", of_integer("axis", 0));
    assert_eq!(values(&huge), [0.0; 0]);
    let two = bytes("z", DataType::Int8, &[2], &[1, 1]);
    zero.constant(two).fails(&["x_zero_point"]);
    plain.reading("d", "w s computed").fails(&["x_zero_point"]);
    plain.reading("d", "w computed").fails(&["x_scale"]);
    plain.constant(floats("w", &[2])).fails(&["8 or 32 bits"]);
    plain
        .with(|g| g.node("d").domain = "other".into())
        .reading("d", "w computed")
        .stays();
    graph(&[["DequantizeLinear", "w s", "y"]], &plain.constants)
        .fails(&["output y", "found a constant"]);
}

/// A product of a fake-quantised x and an s8 weight [2, 3] with per-channel scales.
pub(super) fn static_product() -> TestGraph {
    let mut nodes = pair();
    nodes.extend([["DequantizeLinear", "w ws", "wd"], ["MatMul", "d wd", "y"]]);
    let mut constants = scale_and_zero_point();
    constants.extend([int8("w", &[2, 3]), floats("ws", &[3])]);
    graph(&nodes, &constants)
}

#[test]
fn products_of_fake_quantized_values() {
    let product = static_product();
    // The weight, [inputs, outputs].
    let weight = |graph: &TestGraph| {
        let found = graph.becomes("AffineLinear");
        assert_eq!(found.node[0].input[0], "x");
        assert_eq!(values_of(&found, "x_scale"), [0.5]);
        assert_eq!(values_of(&found, "scale").len(), 3);
        assert_eq!(values_of(&found, "bias").len(), 3);
        parameter(&found, "weight").raw_data.clone()
    };
    assert_eq!(weight(&product), [1, 2, 3, 4, 5, 6]);
    assert_eq!(weight(&product.constant(float("ws", 0.1))).len(), 6);
    let one = product.constant(floats("ws", &[1]));
    let one = one.attribute("wd", of_integer("axis", 0));
    assert_eq!(weight(&one).len(), 6);
    product
        .constant(bytes("w", DataType::Int32, &[2, 3], &[0; 24]))
        .becomes("FakeQuantize Linear");
    // Unsigned weights, whose zero point is 128 less.
    let unsigned = product.constant(bytes("w", DataType::Uint8, &[2, 3], &[128; 6]));
    assert_eq!(weight(&unsigned), [0; 6]);
    let found = unsigned.becomes("AffineLinear");
    assert_eq!(parameter(&found, "zero_point").raw_data, [0x80; 3]);
    // Scales along the input axis, or along a third axis.
    let square = product.constant(int8("w", &[3, 3]));
    assert_eq!(weight(&square), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let transposed = [1, 4, 7, 2, 5, 8, 3, 6, 9];
    let inputs = square.attribute("wd", of_integer("axis", 0));
    inputs.becomes("FakeQuantize Linear");
    product
        .constant(int8("w", &[1, 2, 3]))
        .attribute("wd", of_integer("axis", 2))
        .becomes("FakeQuantize MatMul");
    // A transposed weight.
    let behind = inputs.with(|g| {
        let at = g.nodes.len() - 1;
        let transpose = graph(&[["Transpose", "wd", "wt"]], &[]);
        g.nodes.splice(at..at, transpose.nodes);
        g.node("y").input[1] = "wt".into();
    });
    let right = behind.attribute("wt", integers("perm", &[1, 0]));
    assert_eq!(weight(&right), transposed);
    behind
        .attribute("wt", integers("perm", &[0, 1]))
        .becomes("FakeQuantize Linear");
    // Two readers, of the dequantised or of the quantised weight.
    product
        .then(&[["Add", "end wd", "y"]])
        .becomes("FakeQuantize MatMul Add");
    product
        .then(&[
            ["DequantizeLinear", "w ws", "other"],
            ["Add", "end other", "y"],
        ])
        .becomes("FakeQuantize Linear Add");

    let gemm = product
        .with(|g| g.node("y").op_type = "Gemm".into())
        .reading("y", "d wd bias")
        .constant(floats("bias", &[3]));
    assert_eq!(weight(&gemm).len(), 6);
    let found = gemm.becomes("AffineLinear");
    assert_eq!(values_of(&found, "bias"), [1.0, 2.0, 3.0]);
    for number in [1.0, 0.5] {
        for name in ["alpha", "beta"] {
            let gemm = gemm.attribute("y", of_float(name, number));
            match number {
                1.0 => gemm.becomes("AffineLinear"),
                _ => gemm.becomes("FakeQuantize Linear"),
            };
        }
    }
    gemm.attribute("y", of_integer("transA", 1))
        .becomes("FakeQuantize Gemm");
    let turned = gemm
        .constant(int8("w", &[3, 3]))
        .attribute("y", of_integer("transB", 1));
    turned.becomes("FakeQuantize Linear");
    let turned = turned.attribute("wd", of_integer("axis", 0));
    assert_eq!(weight(&turned), transposed);
    gemm.constant(floats("bias", &[3, 1]))
        .becomes("FakeQuantize Gemm");
    gemm.reading("y", "d wd computed")
        .becomes("FakeQuantize Gemm");
}

/// Convolutions after a fake quantisation and after DynamicQuantizeLinear.
#[test]
fn convolutions() {
    let mut nodes = pair();
    nodes.extend([["DequantizeLinear", "w ws", "wd"], ["Conv", "d wd", "y"]]);
    let mut constants = scale_and_zero_point();
    constants.extend([int8("w", &[2, 1, 3, 3]), floats("ws", &[2])]);
    let paired = graph(&nodes, &constants).attribute("wd", of_integer("axis", 0));
    let dynamic = graph(
        &[
            ["DynamicQuantizeLinear", "x", "q qs qz"],
            ["ConvInteger", "q w qz", "sums"],
            ["Cast", "sums", "cast"],
            ["Mul", "qs ws", "scales"],
            ["Mul", "cast scales", "y"],
        ],
        &constants,
    );
    for (graph, output, taken, left) in [
        (paired, "y", "AffineConvolution", "FakeQuantize Conv"),
        (
            dynamic,
            "sums",
            "DynamicAffineConvolution",
            "DynamicFakeQuantize Conv",
        ),
    ] {
        let found = graph.becomes(taken);
        assert_eq!(parameter(&found, "weight").dims, [2, 1, 3, 3]);
        let node = |found: &GraphProto| {
            let node = found.node.iter().find(|n| n.op_type == taken);
            node.unwrap().clone()
        };
        assert_eq!(attributes::integer(&node(&found), "group", 9), 1);
        for (name, default, values) in [
            ("strides", &[1, 1][..], &[3, 1][..]),
            ("dilations", &[1, 1], &[2, 5]),
            ("pads", &[0; 4], &[0, 1, 2, 128]),
        ] {
            assert_eq!(attributes::integers(&node(&found), name), default);
            let changed = graph
                .attribute(output, integers(name, values))
                .becomes(taken);
            assert_eq!(attributes::integers(&node(&changed), name), values);
        }
        let padded = graph.attribute(output, integers("pads", &[1, 1, 1, 1]));
        let valid = padded.attribute(output, of_text("auto_pad", "VALID"));
        let valid = valid.becomes(taken);
        assert_eq!(attributes::integers(&node(&valid), "pads"), [0; 4]);
        for (attribute, expected) in [
            (of_text("auto_pad", "NOTSET"), taken),
            (of_text("auto_pad", "SAME_UPPER"), left),
            (of_integer("group", 2), taken),
            (of_integer("group", 3), left),
            (of_integer("group", 0), left),
            (integers("pads", &[0, 0, 1, 129]), left),
            (integers("pads", &[0, 0, 1]), left),
            (integers("strides", &[1, 65]), left),
            (integers("dilations", &[1, 65]), left),
        ] {
            graph.attribute(output, attribute).becomes(expected);
        }
        for (dims, expected) in [
            ([2, 1, 3, 2], taken),
            ([2, 1, 1, 1], taken),
            ([2, 1, 64, 1], taken),
            ([2, 1, 65, 1], left),
        ] {
            graph.constant(int8("w", &dims)).becomes(expected);
        }
    }
}

#[test]
fn dynamic_products() {
    let product = graph(
        &[
            ["DynamicQuantizeLinear", "x", "q qs qz"],
            ["MatMulInteger", "q w qz wz", "sums"],
            ["Cast", "sums", "cast"],
            ["Mul", "qs ws", "scales"],
            ["Mul", "cast scales", "y"],
        ],
        &[
            int8("w", &[2, 3]),
            floats("ws", &[3]),
            bytes("wz", DataType::Int8, &[3], &[0, 1, 2]),
        ],
    );
    for (output, inputs) in [
        ("y", "cast scales"),
        ("y", "scales cast"),
        ("scales", "ws qs"),
    ] {
        let found = product
            .reading(output, inputs)
            .becomes("DynamicAffineLinear");
        assert_eq!(found.node[0].input[0], "x");
        assert_eq!(values_of(&found, "scale"), [1.0, 2.0, 3.0]);
        assert_eq!(parameter(&found, "zero_point").raw_data, [0, 1, 2]);
    }
    product.reading("sums", "q w other wz").stays();
    product.reading("sums", "q w").stays();
    product.reading("sums", "other w qz wz").stays();
    product.reading("scales", "other ws").stays();
    product.reading("scales", "qs computed").stays();
    product.constant(int8("w", &[1, 2, 3])).stays();
    product
        .reading("sums", "q w qz computed")
        .fails(&["node of sums", "zero point \"computed\""]);
    product.then(&[["Gather", "w end", "y"]]).stays();
}

/// The fused products of ONNX Runtime's domain com.microsoft.
#[test]
fn com_microsoft_products() {
    let mut constants = scale_and_zero_point();
    constants.extend([
        int8("w", &[2, 3]),
        floats("ws", &[3]),
        bytes("wz", DataType::Int8, &[3], &[0, 1, 2]),
        floats("bias", &[3]),
    ]);
    let own = |g: &mut TestGraph| g.node("y").domain = "com.microsoft".into();
    let one = graph(
        &[["DynamicQuantizeMatMul", "x w ws wz bias", "y"]],
        &constants,
    )
    .with(own);
    let two = graph(
        &[
            ["DynamicQuantizeLinear", "x", "q qs qz"],
            ["MatMulIntegerToFloat", "q w qs ws qz wz bias", "y"],
        ],
        &constants,
    )
    .with(own);
    for product in [&one, &two] {
        let found = product.becomes("DynamicAffineLinear");
        assert_eq!(found.node[0].input[0], "x");
        assert_eq!(values_of(&found, "bias"), [1.0, 2.0, 3.0]);
    }
    one.reading("y", "x w ws").becomes("DynamicAffineLinear");
    one.reading("y", "x w computed")
        .fails(&["node of y", "b_scale"]);
    one.reading("y", "x computed ws").fails(&["B: expected"]);
    one.reading("y", "x w ws wz computed").fails(&["bias"]);
    two.reading("y", "q w other ws qz").fails(&["a_scale"]);
    two.reading("y", "q w qs ws other").fails(&["a_scale"]);
    two.reading("y", "x w qs ws qz").fails(&["A: expected"]);
}

/// The integer kernels cannot represent 256 different weights of one output.
#[test]
fn weights_that_use_their_whole_range_are_multiplied_in_floating_point() {
    let wide = bytes("w", DataType::Int8, &[2, 3], &[0x80, 2, 3, 0x7f, 5, 6]);
    let found = static_product()
        .constant(wide.clone())
        .becomes("FakeQuantize Linear");
    assert_eq!(found.node[1].input[0], found.node[0].output[0]);
    let dynamic = graph(
        &[
            ["DynamicQuantizeLinear", "x", "q qs qz"],
            ["MatMulInteger", "q w qz", "sums"],
            ["Cast", "sums", "cast"],
            ["Mul", "qs ws", "scales"],
            ["Mul", "cast scales", "y"],
        ],
        &[wide, floats("ws", &[3])],
    );
    let found = dynamic.becomes("DynamicFakeQuantize Linear");
    assert_eq!(found.node[1].input[0], found.node[0].output[0]);
    let weight = &found.node[1].input[1];
    let weight = found.initializer.iter().find(|t| t.name == *weight);
    let values = weight.unwrap().raw_data.as_chunks().0.iter();
    let values: Vec<f32> = values.map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(values, [-128.0, 4.0, 9.0, 127.0, 10.0, 18.0]);
}

#[test]
fn functions_of_a_quantised_value_are_tables() {
    let mut nodes = pair();
    nodes.extend([["Sigmoid", "d", "gate"], ["Mul", "d gate", "y"]]);
    let gated = graph(&nodes, &scale_and_zero_point());
    let found = gated.becomes("QuantizedTable");
    assert_eq!(found.node[0].input[0], "x");
    let x = |i: usize| (i as f32 - 128.0 - 2.0) * 0.5;
    let values = values_of(&found, "values");
    for (i, &value) in values.iter().enumerate() {
        let expected = x(i) / (1.0 + (-x(i)).exp());
        assert!((value - expected).abs() < 1e-6, "{i}: {value}, {expected}");
    }
    assert_eq!(values.len(), 256);

    for (op, inputs, f) in [
        ("Tanh", "d", (|v| v.tanh()) as fn(f32) -> f32),
        ("Exp", "d", |v| v.exp()),
        ("Neg", "d", |v| -v),
        ("Relu", "d", |v| v.max(0.0)),
        ("Add", "d four", |v| v + 4.0),
        ("Add", "four d", |v| v + 4.0),
        ("Sub", "d four", |v| v - 4.0),
        ("Sub", "four d", |v| 4.0 - v),
        ("Mul", "four d", |v| v * 4.0),
        ("Div", "d four", |v| v / 4.0),
    ] {
        let mut nodes = pair();
        nodes.push([op, inputs, "y"]);
        let one = graph(&nodes, &scale_and_zero_point()).constant(float("four", 4.0));
        let found = one.becomes("QuantizedTable");
        for (i, &value) in values_of(&found, "values").iter().enumerate() {
            let expected = f(x(i));
            let near = (value - expected).abs() <= 1e-6 * expected.abs().max(1.0);
            assert!(near, "{op}: {value}, {expected}");
        }
    }
    // Not if a result is NaN: 0 / 0 at the zero point, roots of negative values.
    for (op, inputs) in [("Div", "d d"), ("Sqrt", "d")] {
        let mut nodes = pair();
        nodes.push([op, inputs, "y"]);
        graph(&nodes, &scale_and_zero_point()).becomes(&format!("FakeQuantize {op}"));
    }
    // Quantisations in between equal the kernels': half to even, clamped to 8 bits.
    let mut nodes = pair();
    nodes.extend([
        ["Mul", "d four", "m"],
        ["QuantizeLinear", "m t", "q2"],
        ["DequantizeLinear", "q2 t", "y"],
    ]);
    let between = graph(&nodes, &scale_and_zero_point())
        .constant(float("four", 4.0))
        .constant(float("t", 4.0));
    let found = between.becomes("QuantizedTable");
    for (i, &value) in values_of(&found, "values").iter().enumerate() {
        let expected = (x(i) * 4.0 / 4.0).round_ties_even().clamp(0.0, 255.0) * 4.0;
        assert_eq!(value, expected, "{i}");
    }

    // A single operator stays.
    graph(&pair(), &scale_and_zero_point())
        .with(|g| g.node("d").output[0] = "y".into())
        .becomes("FakeQuantize");
    // An intermediate value with other readers becomes a table of its own, if it replaces more than one operator.
    gated
        .then(&[["MatMul", "end d", "y"]])
        .becomes("FakeQuantize QuantizedTable MatMul");
    gated
        .then(&[["MatMul", "end gate", "y"]])
        .becomes("QuantizedTable QuantizedTable MatMul");
    // No table for a function of two values.
    let mut nodes = pair();
    nodes.extend([
        ["QuantizeLinear", "x2 s z", "q2"],
        ["DequantizeLinear", "q2 s z", "d2"],
        ["Mul", "d d2", "y"],
    ]);
    graph(&nodes, &scale_and_zero_point()).becomes("FakeQuantize FakeQuantize Mul");
    gated
        .reading("y", "other gate")
        .becomes("QuantizedTable Mul");
    gated
        .reading("y", "d some")
        .constant(floats("some", &[2]))
        .becomes("FakeQuantize Mul");
    gated
        .with(|g| g.node("gate").domain = "other".into())
        .becomes("FakeQuantize Sigmoid Mul");
}

/// A quantisation followed by an equal one.
#[test]
fn a_repeated_quantisation_is_removed() {
    let mut nodes = pair();
    nodes.extend([
        ["Reshape", "d shape", "r"],
        ["QuantizeLinear", "r s2 z", "q2"],
        ["DequantizeLinear", "q2 s2 z", "y"],
    ]);
    let shape = TensorProto {
        name: "shape".into(),
        data_type: DataType::Int64 as i32,
        dims: vec![1],
        raw_data: 6i64.to_le_bytes().to_vec(),
        ..Default::default()
    };
    let moved = graph(&nodes, &scale_and_zero_point()).constant(shape);
    let same = moved.constant(float("s2", 0.5));
    let found = same.becomes("Reshape FakeQuantize");
    assert_eq!(found.node[0].input[0], "x");
    moved
        .constant(float("s2", 0.25))
        .becomes("FakeQuantize Reshape FakeQuantize");
    // Another reader needs the first one.
    same.then(&[["MatMul", "end d", "y"]])
        .becomes("FakeQuantize Reshape FakeQuantize MatMul");
    // Two readers with equal quantisations.
    let mut nodes = pair();
    nodes.extend([
        ["QuantizeLinear", "d s z", "q2"],
        ["DequantizeLinear", "q2 s z", "a"],
        ["QuantizeLinear", "d s z", "q3"],
        ["DequantizeLinear", "q3 s z", "b"],
        ["MatMul", "a b", "y"],
    ]);
    graph(&nodes, &scale_and_zero_point()).becomes("FakeQuantize FakeQuantize MatMul");
    // A reader that computes.
    same.with(|g| g.node("r").op_type = "Softmax".into())
        .becomes("FakeQuantize Softmax FakeQuantize");
    same.with(|g| g.node("r").domain = "other".into())
        .becomes("FakeQuantize Reshape FakeQuantize");
    // Gather moves only its first input; Concat moves all.
    same.with(|g| g.node("r").op_type = "Gather".into())
        .reading("r", "shape d")
        .becomes("FakeQuantize Gather FakeQuantize");
    same.with(|g| g.node("r").op_type = "Concat".into())
        .reading("r", "other d")
        .becomes("Concat FakeQuantize");
    // All outputs must be quantised equally.
    let split = same.with(|g| {
        g.node("r").op_type = "Split".into();
        g.node("r").output.push("r2".into());
    });
    split
        .then(&[["MatMul", "end r2", "y"]])
        .becomes("FakeQuantize Split FakeQuantize MatMul");
}
