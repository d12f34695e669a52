//! A hash that identifies the inputs of a result.

/// FNV-1a with 64 bits (Fowler, Noll and Vo), equal on every machine. It detects mistakes, not
/// forgeries.
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// A text and its end.
    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
        self.bytes(b"\0");
    }

    pub(crate) fn numbers(&mut self, values: impl IntoIterator<Item = f32>) {
        for value in values {
            self.bytes(&value.to_le_bytes());
        }
    }

    /// The hash.
    pub(crate) fn value(&self) -> u64 {
        self.0
    }

    /// The hash as 16 hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        format!("{:016x}", self.0)
    }
}
