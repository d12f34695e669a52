//! The element types of tensors, by the number that protobuf has for each.

use std::fmt;

/// A tensor's element type. The numbers are those of `TensorProto.DataType` in onnx.proto, of which tract's copy knows
/// the first 20.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ElementType {
    Float32,
    Float16,
    BFloat16,
    Float64,
    Int8,
    UInt8,
    Int16,
    UInt16,
    Int32,
    UInt32,
    Int64,
    UInt64,
    Bool,
    Text,
    Complex(&'static str),
    /// Floats of eight bits.
    Float8(&'static str),
    /// Fewer than eight bits.
    FewBits(&'static str),
    /// No type, or one that this version does not know.
    Unknown,
}

impl ElementType {
    pub(super) fn of(number: i32) -> ElementType {
        use ElementType::*;
        match number {
            1 => Float32,
            2 => UInt8,
            3 => Int8,
            4 => UInt16,
            5 => Int16,
            6 => Int32,
            7 => Int64,
            8 => Text,
            9 => Bool,
            10 => Float16,
            11 => Float64,
            12 => UInt32,
            13 => UInt64,
            14 => Complex("complex64"),
            15 => Complex("complex128"),
            16 => BFloat16,
            17 => Float8("float8e4m3fn"),
            18 => Float8("float8e4m3fnuz"),
            19 => Float8("float8e5m2"),
            20 => Float8("float8e5m2fnuz"),
            21 => FewBits("uint4"),
            22 => FewBits("int4"),
            23 => FewBits("float4e2m1"),
            24 => Float8("float8e8m0"),
            25 => FewBits("uint2"),
            26 => FewBits("int2"),
            _ => Unknown,
        }
    }

    /// Whether it is computed in f32.
    pub(super) fn is_float(self) -> bool {
        use ElementType::*;
        matches!(self, Float32 | Float16 | BFloat16 | Float64)
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ElementType::*;
        f.write_str(match self {
            Float32 => "f32",
            Float16 => "f16",
            BFloat16 => "bf16",
            Float64 => "f64",
            Int8 => "int8",
            UInt8 => "uint8",
            Int16 => "int16",
            UInt16 => "uint16",
            Int32 => "int32",
            UInt32 => "uint32",
            Int64 => "int64",
            UInt64 => "uint64",
            Bool => "bool",
            Text => "text",
            Complex(name) | Float8(name) | FewBits(name) => name,
            Unknown => "an unknown type",
        })
    }
}
