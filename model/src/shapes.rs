//! Names and shapes of tensors, collected block by block.

/// Canonical names and shapes of a model's tensors, in order.
#[derive(Default)]
pub(crate) struct Shapes(pub(crate) Vec<(String, Vec<usize>)>);

impl Shapes {
    pub(crate) fn add(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.push((name.into(), shape.to_vec()));
    }

    /// A weight of this shape with a bias of its first dimension: a layer norm or a linear layer.
    pub(crate) fn add_with_bias(&mut self, name: &str, weight: &[usize]) {
        self.add(format!("{name}.weight"), weight);
        self.add(format!("{name}.bias"), &weight[..1]);
    }

    /// The residual blocks of a transformer, whose MLPs have a hidden layer of width `mlp`.
    pub(crate) fn add_transformer(&mut self, name: &str, width: usize, mlp: usize, layers: usize) {
        for layer in 0..layers {
            let block = format!("{name}.resblocks.{layer}");
            self.add_with_bias(&format!("{block}.ln_1"), &[width]);
            self.add(format!("{block}.attn.in_proj_weight"), &[3 * width, width]);
            self.add(format!("{block}.attn.in_proj_bias"), &[3 * width]);
            self.add_with_bias(&format!("{block}.attn.out_proj"), &[width, width]);
            self.add_with_bias(&format!("{block}.ln_2"), &[width]);
            self.add_with_bias(&format!("{block}.mlp.c_fc"), &[mlp, width]);
            self.add_with_bias(&format!("{block}.mlp.c_proj"), &[width, mlp]);
        }
    }

    /// A convolution without bias and the batch norm after it.
    pub(crate) fn add_convolution(
        &mut self,
        convolution: &str,
        norm: &str,
        [outputs, inputs, kernel]: [usize; 3],
    ) {
        self.add(
            format!("{convolution}.weight"),
            &[outputs, inputs, kernel, kernel],
        );
        self.add_with_bias(norm, &[outputs]);
        self.add(format!("{norm}.running_mean"), &[outputs]);
        self.add(format!("{norm}.running_var"), &[outputs]);
    }
}
