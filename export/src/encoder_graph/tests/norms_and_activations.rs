//! Layer norms and activation functions.

use pinhole::internal::attributes::float as float_of;
use tract_onnx::pb::tensor_proto::DataType;

use super::quantized::static_product;
use super::{float, floats, graph, values_of};
use crate::graph::proto::{float as of_float, int as of_integer, ints as integers};

#[test]
fn layer_norm_operator() {
    let norm = graph(
        &[["LayerNormalization", "x gain bias", "y"]],
        &[floats("gain", &[2]), floats("bias", &[2])],
    );
    norm.becomes("LayerNorm");
    norm.attribute("y", of_integer("axis", -1))
        .becomes("LayerNorm");
    norm.attribute("y", of_integer("axis", 1)).stays();
    for epsilon in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        norm.attribute("y", of_float("epsilon", epsilon)).stays();
    }
    norm.constant(floats("bias", &[1])).stays();
    norm.of_shape(&[3, 2]).becomes("LayerNorm");
    let one = norm.constant(floats("gain", &[1]));
    let one = one.constant(floats("bias", &[1]));
    one.of_shape(&[3, 2]).stays();
    let two = norm.constant(floats("gain", &[1, 2]));
    two.stays();
    two.constant(floats("bias", &[1, 2])).stays();
    norm.reading("y", "x gain computed").stays();
    norm.reading("y", "x gain").stays();
    norm.with(|g| g.node("y").output.push("mean".into()))
        .stays();
    norm.with(|g| g.node("y").domain = "other".into()).stays();
}

#[test]
fn decomposed_layer_norm() {
    let norm = graph(
        &[
            ["ReduceMean", "x", "mean"],
            ["Sub", "x mean", "centred"],
            ["Pow", "centred two", "squares"],
            ["ReduceMean", "squares", "variance"],
            ["Add", "variance epsilon", "sum"],
            ["Sqrt", "sum", "root"],
            ["Div", "centred root", "normed"],
            ["Mul", "normed gain", "scaled"],
            ["Add", "scaled bias", "y"],
        ],
        &[
            float("two", 2.0),
            float("epsilon", 1e-5),
            floats("gain", &[2]),
            floats("bias", &[2]),
        ],
    );
    let norm = norm
        .attribute("mean", integers("axes", &[-1]))
        .attribute("variance", integers("axes", &[-1]));
    let found = norm.becomes("LayerNorm");
    assert_eq!(found.node[0].input[0], "x");
    assert_eq!(float_of(&found.node[0], "epsilon", 0.0), 1e-5);
    assert_eq!(values_of(&found, "gain"), [1.0, 2.0]);
    for (output, inputs) in [
        ("y", "bias scaled"),
        ("scaled", "gain normed"),
        ("sum", "epsilon variance"),
    ] {
        norm.reading(output, inputs).becomes("LayerNorm");
    }
    let squared = norm.with(|g| g.node("squares").op_type = "Mul".into());
    squared
        .reading("squares", "centred centred")
        .becomes("LayerNorm");
    squared.reading("squares", "centred x").stays();
    norm.reading("squares", "x two").stays();
    norm.constant(float("two", 3.0)).stays();
    norm.reading("centred", "z mean").stays();
    norm.reading("centred", "mean x").stays();
    norm.reading("normed", "root centred").stays();
    norm.reading("normed", "x root").stays();
    norm.constant(float("epsilon", 0.0)).stays();
    norm.constant(floats("epsilon", &[2])).stays();
    for output in ["mean", "variance"] {
        norm.attribute(output, integers("axes", &[1])).stays();
        norm.attribute(output, integers("axes", &[1, -1])).stays();
        norm.attribute(output, of_integer("keepdims", 0)).stays();
    }
}

/// y = x * sigmoid(1.702 x).
fn quick_gelu() -> Vec<[&'static str; 3]> {
    vec![
        ["Mul", "x factor", "inner"],
        ["Sigmoid", "inner", "gate"],
        ["Mul", "x gate", "y"],
    ]
}

#[test]
fn decomposed_quick_gelu() {
    let factor = [float("factor", 1.702)];
    let gelu = graph(&quick_gelu(), &factor);
    for inputs in ["x factor", "factor x"] {
        let gelu = gelu.reading("inner", inputs);
        gelu.becomes("ActivateQuickGelu");
        gelu.reading("y", "gate x").becomes("ActivateQuickGelu");
        gelu.reading("y", "z gate").stays();
    }
    gelu.constant(float("factor", 1.7)).stays();
    gelu.with(|g| g.node("gate").op_type = "Tanh".into())
        .stays();
    gelu.with(|g| g.node("y").op_type = "Div".into()).stays();
    gelu.with(|g| g.node("y").domain = "other".into()).stays();
}

/// x / 2 * (1 + erf(x / sqrt 2)) in every order.
#[test]
fn decomposed_gelu() {
    let constants = [
        float("half", 0.5),
        float("one", 1.0),
        float("root", std::f32::consts::SQRT_2),
        float("inverse", std::f32::consts::FRAC_1_SQRT_2),
    ];
    let mut orders = 0;
    for (inner, outer) in [
        ("x half", "erf"),
        ("x erf", "half"),
        ("half erf", "x"),
        ("half x", "erf"),
        ("erf x", "half"),
        ("erf half", "x"),
    ] {
        for last in [format!("inner {outer}"), format!("{outer} inner")] {
            for (scaling, scaled) in [
                ("Div", "x root"),
                ("Mul", "x inverse"),
                ("Mul", "inverse x"),
            ] {
                for sum in ["e one", "one e"] {
                    let gelu = graph(
                        &[
                            [scaling, scaled, "scaled"],
                            ["Erf", "scaled", "e"],
                            ["Add", sum, "erf"],
                            ["Mul", inner, "inner"],
                            ["Mul", &last, "y"],
                        ],
                        &constants,
                    );
                    gelu.becomes("ActivateGelu");
                    orders += 1;
                    gelu.constant(float("half", 0.4)).stays();
                    gelu.constant(float("one", 2.0)).stays();
                    let other = scaled.replace('x', "z");
                    gelu.reading("scaled", &other).stays();
                    let other = ["root", "inverse"].map(|name| float(name, 1.2));
                    let [root, inverse] = other;
                    gelu.constant(root).constant(inverse).stays();
                }
            }
        }
    }
    assert_eq!(orders, 72);
    let swapped = graph(
        &[
            ["Div", "root x", "scaled"],
            ["Erf", "scaled", "e"],
            ["Add", "e one", "erf"],
            ["Mul", "x half", "inner"],
            ["Mul", "inner erf", "y"],
        ],
        &constants,
    );
    swapped.stays();
}

#[test]
fn activations_are_merged_into_the_preceding_product() {
    let mut nodes = vec![["MatMul", "input w", "x"]];
    nodes.extend(quick_gelu());
    let constants = [float("factor", 1.702), floats("w", &[2, 3])];
    graph(&nodes, &constants).becomes("LinearQuickGelu");
    let gelu = graph(
        &[
            ["MatMul", "input w", "x"],
            ["Div", "x root", "scaled"],
            ["Erf", "scaled", "e"],
            ["Add", "e one", "erf"],
            ["Mul", "x half", "inner"],
            ["Mul", "inner erf", "y"],
        ],
        &[
            floats("w", &[2, 3]),
            float("half", 0.5),
            float("one", 1.0),
            float("root", std::f32::consts::SQRT_2),
        ],
    );
    gelu.becomes("LinearGelu");
    // After a Reshape, which then follows.
    let mut reshaped = vec![
        ["MatMul", "input w", "product"],
        ["Reshape", "product shape", "x"],
    ];
    reshaped.extend(quick_gelu());
    let reshaped = graph(&reshaped, &constants);
    let found = reshaped.becomes("LinearQuickGelu Reshape");
    assert_eq!(found.node[1].input[0], found.node[0].output[0]);
    // The product or the reshaped value has another reader.
    for read in ["product", "x"] {
        reshaped
            .then(&[["Add", &format!("end {read}"), "y"]])
            .becomes("Linear Reshape ActivateQuickGelu Add");
    }
    // So has a value between, which is not that of the product.
    graph(&nodes, &constants)
        .then(&[["Add", "end gate", "y"]])
        .becomes("Linear Mul Sigmoid ActivateQuickGelu Add");
    // A product takes only one activation function.
    let second = [
        ["Mul", "end factor", "inner2"],
        ["Sigmoid", "inner2", "gate2"],
        ["Mul", "end gate2", "y"],
    ];
    graph(&nodes, &constants)
        .then(&second)
        .becomes("LinearQuickGelu ActivateQuickGelu");
    let activated = static_product().constant(float("factor", 1.702)).then(&[
        ["Mul", "end factor", "inner"],
        ["Sigmoid", "inner", "gate"],
        ["Mul", "end gate", "y"],
    ]);
    activated.becomes("AffineLinearQuickGelu");
    activated
        .with(|g| g.node("end").output[0] = "x1".into())
        .reading("inner", "x1 factor")
        .reading("y", "x1 gate")
        .then(&second)
        .becomes("AffineLinearQuickGelu ActivateQuickGelu");
}

#[test]
fn pixel_normalization() {
    let pixels = graph(
        &[
            ["Cast", "pixels", "float"],
            ["Mul", "float scale", "scaled"],
            ["Add", "scaled offset", "moved"],
            ["Transpose", "moved", "y"],
        ],
        &[floats("scale", &[3]), floats("offset", &[3])],
    );
    let float = DataType::Float as i64;
    let pixels = pixels
        .attribute("float", of_integer("to", float))
        .attribute("y", integers("perm", &[0, 3, 1, 2]));
    let found = pixels.becomes("NormalizePixels");
    assert_eq!(values_of(&found, "scale"), [1.0, 2.0, 3.0]);
    pixels
        .attribute("y", integers("perm", &[0, 2, 3, 1]))
        .stays();
    let half = DataType::Float16 as i64;
    pixels.attribute("float", of_integer("to", half)).stays();
    pixels.reading("float", "other").stays();
    pixels.reading("scaled", "scale float").stays();
    for name in ["scale", "offset"] {
        pixels.constant(floats(name, &[1])).stays();
        pixels.constant(floats(name, &[1, 3])).stays();
    }
    pixels.reading("moved", "scaled computed").stays();
}
