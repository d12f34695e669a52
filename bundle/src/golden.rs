//! `golden/embeddings.json`: the exporter's embeddings, for a self-test on the board.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Images in `golden/` and the exporter's embeddings of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Lowest cosine between the board's embedding and the exporter's that passes.
    pub min_cosine: f32,
    /// The images, at least one.
    pub images: Vec<GoldenImage>,
}

/// One golden image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenImage {
    /// Path inside the bundle.
    pub file: String,
    /// The exporter's embedding, `[D]`, L2-normalised.
    pub embedding: Vec<f32>,
}

impl Golden {
    pub(crate) fn from_bytes(
        path: &Path,
        bytes: &[u8],
        embedding_size: usize,
    ) -> Result<Self, Error> {
        let golden: Self = pinhole_fs::from_json(bytes).map_err(|e| Error::Malformed {
            path: path.to_owned(),
            expected: "valid golden embeddings",
            reason: e.to_string(),
        })?;
        if !(0.0..=1.0).contains(&golden.min_cosine) {
            return Err(Error::field(
                path,
                "min_cosine",
                "0 to 1",
                golden.min_cosine,
            ));
        }
        if golden.images.is_empty() {
            return Err(Error::field(path, "images", "at least one image", "none"));
        }
        for (i, image) in golden.images.iter().enumerate() {
            let field = format!("images[{i}].embedding");
            if image.embedding.len() != embedding_size {
                return Err(Error::field(
                    path,
                    field,
                    format!("{embedding_size} numbers"),
                    format!("{}", image.embedding.len()),
                ));
            }
            if image.embedding.iter().any(|v| !v.is_finite()) {
                return Err(Error::field(
                    path,
                    field,
                    "finite numbers",
                    "NaN or infinity",
                ));
            }
        }
        Ok(golden)
    }
}
