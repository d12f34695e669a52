//! The families of image encoders: their sizes and tensors.

use std::fmt;

use crate::shapes::Shapes;

/// How the tokens of a vision transformer become the vector that is projected to the embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VitPooling {
    /// The class token (CLIP).
    #[default]
    ClassToken,
    /// The mean of the patches' tokens, each behind the last layer norm (open_clip's `pool_type: avg`).
    Average,
    /// The last layer norm of the mean of the patches' tokens (open_clip's `final_ln_after_pool`).
    AverageBeforeNorm,
}

/// The sizes of an image encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageEncoderConfig {
    /// A vision transformer (OpenAI's and open_clip's `VisionTransformer`).
    VisionTransformer {
        /// Side of the square image in pixels.
        image_size: u32,
        /// Side of a patch in pixels; divides `image_size`.
        patch_size: u32,
        /// Width of the residual stream.
        width: usize,
        /// Number of residual blocks.
        layers: usize,
        /// Attention heads; divides `width`.
        heads: usize,
        /// Width of the hidden layer of the MLPs; 4 x `width` in CLIP.
        mlp: usize,
        /// Whether a layer norm, `ln_pre`, comes before the blocks, as in CLIP.
        input_norm: bool,
        /// What is projected to the embedding.
        pooling: VitPooling,
    },
    /// SigLIP's vision transformer: no class token, a patch convolution with a bias, no norm before the
    /// blocks, epsilon 1e-6, and attention pooling by one learned query, whose width is the embedding's.
    SigLip {
        /// Side of the square image in pixels.
        image_size: u32,
        /// Side of a patch in pixels. What is left over of the image at the right and the bottom is not read.
        patch_size: u32,
        /// Width of the residual stream.
        width: usize,
        /// Number of residual blocks.
        layers: usize,
        /// Attention heads of the blocks and of the pooling; divides `width`.
        heads: usize,
        /// Width of the hidden layer of the MLPs of the blocks and of the pooling; 4 x `width` except in So400m.
        mlp: usize,
    },
    /// OpenAI's ResNet with a three-convolution stem, antialiased strides and attention pooling.
    ModifiedResNet {
        /// Side of the square image in pixels; a multiple of 32.
        image_size: u32,
        /// Bottlenecks in each of the four stages.
        layers: [usize; 4],
        /// Channels after the stem; the last stage has 32 x `width`.
        width: usize,
        /// Heads of the attention pool; divides 32 x `width`.
        heads: usize,
    },
    /// An encoder of timm in open_clip's models (`visual.trunk`). Its network is taken from an ONNX file; its tensors in a
    /// checkpoint are not read.
    Timm {
        /// Side of the square image in pixels.
        image_size: u32,
    },
}

impl ImageEncoderConfig {
    /// Side of the square image in pixels.
    pub fn image_size(&self) -> u32 {
        match self {
            Self::VisionTransformer { image_size, .. }
            | Self::SigLip { image_size, .. }
            | Self::ModifiedResNet { image_size, .. }
            | Self::Timm { image_size } => *image_size,
        }
    }

    /// Name of the family.
    pub fn family(&self) -> &'static str {
        match self {
            Self::VisionTransformer { .. } => "vision transformer",
            Self::SigLip { .. } => "SigLIP",
            Self::ModifiedResNet { .. } => "ModifiedResNet",
            Self::Timm { .. } => "encoder of timm",
        }
    }

    /// Whether a checkpoint's tensors are read as this encoder; otherwise it comes from an ONNX file.
    pub fn is_in_checkpoint(&self) -> bool {
        !matches!(self, Self::Timm { .. })
    }

    /// Epsilon of the layer norms of encoders that are read from checkpoints.
    pub fn epsilon(&self) -> f32 {
        match self {
            Self::VisionTransformer { .. } | Self::ModifiedResNet { .. } | Self::Timm { .. } => {
                1e-5
            }
            Self::SigLip { .. } => 1e-6,
        }
    }

    /// The usual name of an encoder of these sizes, such as "ViT-B/32"; the family and sizes if there is none.
    pub fn usual_name(&self) -> String {
        match *self {
            Self::VisionTransformer {
                patch_size,
                width,
                layers,
                ..
            } => match (width, layers) {
                (768, 12) => format!("ViT-B/{patch_size}"),
                (1024, 24) => format!("ViT-L/{patch_size}"),
                (1280, 32) => format!("ViT-H/{patch_size}"),
                _ => format!("ViT/{patch_size}, {layers} layers of {width}"),
            },
            Self::SigLip {
                patch_size,
                width,
                layers,
                ..
            } => match (width, layers) {
                (768, 12) => format!("SigLIP B/{patch_size}"),
                (1024, 24) => format!("SigLIP L/{patch_size}"),
                (1152, 27) => format!("SigLIP So400m/{patch_size}"),
                _ => format!("SigLIP/{patch_size}, {layers} layers of {width}"),
            },
            Self::ModifiedResNet { layers, width, .. } => match (layers, width) {
                ([3, 4, 6, 3], 64) => "RN50".into(),
                ([3, 4, 23, 3], 64) => "RN101".into(),
                ([4, 6, 10, 6], 80) => "RN50x4".into(),
                ([6, 8, 18, 8], 96) => "RN50x16".into(),
                ([3, 15, 36, 10], 128) => "RN50x64".into(),
                _ => format!("ModifiedResNet {layers:?}, {width} wide"),
            },
            Self::Timm { .. } => self.family().into(),
        }
    }

    /// Number of attention heads, and the width that they divide; `None` if no tensor depends on them.
    pub fn attention(&self) -> Option<(usize, usize)> {
        match self {
            Self::VisionTransformer { heads, width, .. } | Self::SigLip { heads, width, .. } => {
                Some((*heads, *width))
            }
            Self::ModifiedResNet { heads, width, .. } => Some((*heads, 32 * width)),
            Self::Timm { .. } => None,
        }
    }

    /// Number of transformer blocks; 0 for an encoder of convolutions.
    pub fn layers(&self) -> usize {
        match self {
            Self::VisionTransformer { layers, .. } | Self::SigLip { layers, .. } => *layers,
            Self::ModifiedResNet { .. } | Self::Timm { .. } => 0,
        }
    }

    /// Adds the encoder's tensors, for embeddings of this length.
    pub(crate) fn add_tensors(&self, embedding: usize, shapes: &mut Shapes) {
        match self {
            Self::VisionTransformer {
                image_size,
                patch_size,
                width,
                layers,
                mlp,
                input_norm,
                ..
            } => {
                let patch = *patch_size as usize;
                let grid = (image_size / patch_size) as usize;
                shapes.add("visual.class_embedding", &[*width]);
                shapes.add("visual.positional_embedding", &[grid * grid + 1, *width]);
                shapes.add("visual.proj", &[*width, embedding]);
                shapes.add("visual.conv1.weight", &[*width, 3, patch, patch]);
                if *input_norm {
                    shapes.add_with_bias("visual.ln_pre", &[*width]);
                }
                shapes.add_transformer("visual.transformer", *width, *mlp, *layers);
                shapes.add_with_bias("visual.ln_post", &[*width]);
            }
            Self::SigLip {
                image_size,
                patch_size,
                width,
                layers,
                mlp,
                ..
            } => {
                let (patch, w, mlp) = (*patch_size as usize, *width, *mlp);
                let grid = (image_size / patch_size) as usize;
                shapes.add_with_bias("visual.conv1", &[w, 3, patch, patch]);
                shapes.add("visual.positional_embedding", &[grid * grid, w]);
                shapes.add_transformer("visual.transformer", w, mlp, *layers);
                shapes.add_with_bias("visual.ln_post", &[w]);
                shapes.add("visual.attn_pool.probe", &[1, w]);
                shapes.add("visual.attn_pool.in_proj_weight", &[3 * w, w]);
                shapes.add("visual.attn_pool.in_proj_bias", &[3 * w]);
                shapes.add_with_bias("visual.attn_pool.out_proj", &[w, w]);
                shapes.add_with_bias("visual.attn_pool.ln", &[w]);
                shapes.add_with_bias("visual.attn_pool.mlp.c_fc", &[mlp, w]);
                shapes.add_with_bias("visual.attn_pool.mlp.c_proj", &[w, mlp]);
            }
            Self::ModifiedResNet {
                image_size,
                layers,
                width,
                ..
            } => add_resnet(*image_size as usize, layers, *width, embedding, shapes),
            Self::Timm { .. } => {}
        }
    }
}

fn add_resnet(
    image_size: usize,
    layers: &[usize; 4],
    width: usize,
    embedding: usize,
    shapes: &mut Shapes,
) {
    let (half, kernel) = (width / 2, 3);
    shapes.add_convolution("visual.conv1", "visual.bn1", [half, 3, kernel]);
    shapes.add_convolution("visual.conv2", "visual.bn2", [half, half, kernel]);
    shapes.add_convolution("visual.conv3", "visual.bn3", [width, half, kernel]);
    let mut inputs = width;
    for (stage, blocks) in layers.iter().enumerate() {
        let planes = width << stage;
        for block in 0..*blocks {
            let name = format!("visual.layer{}.{block}", stage + 1);
            for (i, sizes) in [
                [planes, inputs, 1],
                [planes, planes, 3],
                [4 * planes, planes, 1],
            ]
            .into_iter()
            .enumerate()
            {
                let (convolution, norm) = (
                    format!("{name}.conv{}", i + 1),
                    format!("{name}.bn{}", i + 1),
                );
                shapes.add_convolution(&convolution, &norm, sizes);
            }
            if block == 0 {
                let [convolution, norm] = [0, 1].map(|i| format!("{name}.downsample.{i}"));
                shapes.add_convolution(&convolution, &norm, [4 * planes, inputs, 1]);
            }
            inputs = 4 * planes;
        }
    }
    let grid = image_size / 32;
    shapes.add(
        "visual.attnpool.positional_embedding",
        &[grid * grid + 1, inputs],
    );
    for projection in ["k_proj", "q_proj", "v_proj"] {
        shapes.add_with_bias(&format!("visual.attnpool.{projection}"), &[inputs, inputs]);
    }
    shapes.add_with_bias("visual.attnpool.c_proj", &[embedding, inputs]);
}

impl fmt::Display for ImageEncoderConfig {
    /// The sizes in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VisionTransformer {
                image_size,
                patch_size,
                width,
                layers,
                heads,
                mlp,
                input_norm,
                pooling,
            } => {
                write!(f, "ViT of {layers} layers, width {width}, {heads} heads, ")?;
                if *mlp != 4 * width {
                    write!(f, "MLP {mlp}, ")?;
                }
                if !input_norm {
                    write!(f, "no norm before the blocks, ")?;
                }
                if *pooling != VitPooling::ClassToken {
                    write!(f, "average pooling, ")?;
                }
                write!(
                    f,
                    "patches of {patch_size} in images of {image_size} pixels"
                )
            }
            Self::SigLip {
                image_size,
                patch_size,
                width,
                layers,
                heads,
                mlp,
            } => {
                write!(
                    f,
                    "SigLIP's ViT of {layers} layers, width {width}, {heads} heads, "
                )?;
                if *mlp != 4 * width {
                    write!(f, "MLP {mlp}, ")?;
                }
                write!(
                    f,
                    "patches of {patch_size} in images of {image_size} pixels"
                )
            }
            Self::ModifiedResNet {
                image_size,
                layers,
                width,
                heads,
            } => write!(
                f,
                "ModifiedResNet of {layers:?} blocks, width {width}, {heads} heads, images of \
                 {image_size} pixels"
            ),
            Self::Timm { image_size } => {
                write!(f, "encoder of timm, images of {image_size} pixels")
            }
        }
    }
}
