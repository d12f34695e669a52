//! Shapes of tensors by canonical name, whatever the file calls them.

use crate::names::Recipe;
use crate::{Error, StateDict};

/// Far above any model, and small enough that products do not overflow.
const MAX_DIMENSION: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 10;

/// The shapes of the tensors in a file.
pub(crate) struct Shapes<'a> {
    pub(crate) state: &'a StateDict,
    /// From a canonical name to the tensors in the file.
    pub(crate) recipe: &'a dyn Fn(&str) -> Recipe,
}

impl Shapes<'_> {
    /// Whether the file has a name with this beginning.
    pub(crate) fn any(&self, prefix: &str) -> bool {
        self.state.names().any(|name| name.starts_with(prefix))
    }

    /// Whether the file has a tensor of this canonical name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.state.info(&(self.recipe)(name).first()).is_some()
    }

    /// The canonical shape of a tensor with `N` dimensions, each of sensible size.
    pub(crate) fn dimensions<const N: usize>(&self, name: &str) -> Result<[usize; N], Error> {
        let path = self.state.path();
        let recipe = (self.recipe)(name);
        let (transposed, name) = (matches!(recipe, Recipe::Transposed(_)), recipe.first());
        let info = match self.state.checked_info(&name) {
            // No size is known yet, so only the number of dimensions can be stated.
            Err(Error::NoSuchTensor { .. }) => {
                return Err(Error::malformed(
                    path,
                    format!("tensor {name} is missing, expected {N} dimensions"),
                ));
            }
            info => info?,
        };
        let wrong = |expected: String| {
            Error::malformed(
                path,
                format!(
                    "tensor {name}: expected {expected}, found shape {:?}",
                    info.shape
                ),
            )
        };
        let mut shape: [usize; N] = without_leading_ones(&info.shape, N)
            .try_into()
            .map_err(|_| wrong(format!("{N} dimensions")))?;
        if shape.iter().any(|size| !(1..=MAX_DIMENSION).contains(size)) {
            return Err(wrong(format!("dimensions of 1 to {MAX_DIMENSION}")));
        }
        if transposed {
            shape.reverse();
        }
        Ok(shape)
    }

    /// Side of the square grid that has `rows` positions.
    pub(crate) fn square_grid(&self, rows: usize, name: &str) -> Result<usize, Error> {
        let side = rows.isqrt();
        if side * side != rows {
            return Err(Error::malformed(
                self.state.path(),
                format!("tensor {name}: expected a square number of rows, found {rows}"),
            ));
        }
        Ok(side)
    }

    pub(crate) fn matrix(&self, name: &str) -> Result<[usize; 2], Error> {
        self.dimensions(name)
    }

    /// Side of the square grid that has `rows` positions, one of them for the class or the mean.
    pub(crate) fn grid(&self, rows: usize, name: &str) -> Result<usize, Error> {
        let side = (rows - 1).isqrt();
        if side == 0 || side * side != rows - 1 {
            return Err(Error::malformed(
                self.state.path(),
                format!("tensor {name}: expected a square number of rows and one, found {rows}"),
            ));
        }
        Ok(side)
    }

    /// Refuses MLPs of another width than 4 x the transformer's.
    pub(crate) fn check_mlp(&self, transformer: &str) -> Result<(), Error> {
        let shape = |part: &str| match (self.recipe)(&format!(
            "{transformer}.resblocks.0.mlp.{part}.weight"
        )) {
            Recipe::Same(name) => self.state.info(&name).map(|info| info.shape.as_slice()),
            _ => None,
        };
        match (shape("c_fc"), shape("c_proj")) {
            (Some([inner, width]), Some([back, again]))
                if (inner, width) == (again, back) && *inner != width.saturating_mul(4) =>
            {
                let found =
                    format!("an MLP of {inner} in a transformer of width {width} (not 4 times)");
                Err(Error::unsupported(self.state.path(), found))
            }
            _ => Ok(()),
        }
    }

    /// The number of blocks named `prefix`, number, `.part`: one more than the highest number, so that
    /// the check of all tensors finds a block that is missing in the middle.
    pub(crate) fn layers(&self, prefix: &str, part: &str) -> Result<usize, Error> {
        let name = (self.recipe)(&format!("{prefix}0.{part}")).first();
        let prefix = name.split_once("0.").map_or("", |(prefix, _)| prefix);
        let layers = self
            .state
            .names()
            .filter_map(|name| {
                let (number, _) = name.strip_prefix(prefix)?.split_once('.')?;
                number.parse::<usize>().ok()
            })
            .max()
            .map_or(0, |last| last.saturating_add(1));
        if !(1..=MAX_LAYERS).contains(&layers) {
            return Err(Error::malformed(
                self.state.path(),
                format!("expected 1 to {MAX_LAYERS} layers named {prefix}*, found {layers}"),
            ));
        }
        Ok(layers)
    }
}

/// The shape without leading dimensions of 1 beyond `dimensions`: timm stores positions as [1, rows, width], and some
/// files numbers as `[1]`.
pub(crate) fn without_leading_ones(shape: &[usize], dimensions: usize) -> &[usize] {
    let surplus = shape.len().saturating_sub(dimensions);
    let ones = shape
        .iter()
        .take(surplus)
        .take_while(|size| **size == 1)
        .count();
    &shape[ones..]
}
