//! The prompts of several classes as one tree (a trie): common prefixes exist once.
//!
//! With causal attention a row depends only on the rows before it. So the start of text, a shared context
//! before the names, and the first tokens that names have in common are computed once for all classes, and
//! rows before the first context vector once for the whole training. This holds for every class position and
//! for class-specific contexts; only the tree differs.

use std::collections::HashMap;

use pinhole_model::PromptRow;

use crate::ops::tree_attention::TreeMask;

/// The content of a node's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Row {
    /// The embedding of a token.
    Token(u32),
    /// The index of a context vector among all contexts.
    Context(usize),
}

/// A node: its row and its position in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) row: Row,
    pub(super) position: usize,
}

/// A tree of prompts. Rows are numbered in the order of `constant`, then `live`.
#[derive(Debug)]
pub(super) struct PromptTree {
    /// Nodes without a context vector on their path.
    pub(super) constant: Vec<Node>,
    /// The others.
    pub(super) live: Vec<Node>,
    /// The index in `live` of each prompt's last row, from which its embedding is read.
    pub(super) ends: Vec<usize>,
    /// For each constant node, then for each live one, the nodes from the root to itself.
    paths: Vec<Vec<usize>>,
}

impl PromptTree {
    /// Builds the tree; `context` gives the index, among all context vectors, of a prompt's context vector.
    ///
    /// Each prompt must have a context vector before its last row.
    pub(super) fn new(
        prompts: &[Vec<PromptRow>],
        context: impl Fn(usize, usize) -> usize,
    ) -> PromptTree {
        struct Found {
            node: Node,
            parent: Option<usize>,
            constant: bool,
        }
        let mut found: Vec<Found> = Vec::new();
        let mut children: HashMap<(Option<usize>, Row), usize> = HashMap::new();
        let mut ends = Vec::with_capacity(prompts.len());
        for (prompt, rows) in prompts.iter().enumerate() {
            let mut parent = None;
            for (position, row) in rows.iter().enumerate() {
                let row = match *row {
                    PromptRow::Token(id) => Row::Token(id),
                    PromptRow::Context(i) => Row::Context(context(prompt, i)),
                };
                let next = *children.entry((parent, row)).or_insert_with(|| {
                    let before = parent.is_none_or(|p: usize| found[p].constant);
                    found.push(Found {
                        node: Node { row, position },
                        parent,
                        constant: before && matches!(row, Row::Token(_)),
                    });
                    found.len() - 1
                });
                parent = Some(next);
            }
            ends.extend(parent);
        }
        let constant: Vec<usize> = (0..found.len()).filter(|&i| found[i].constant).collect();
        let live: Vec<usize> = (0..found.len()).filter(|&i| !found[i].constant).collect();
        let mut number = vec![0; found.len()];
        for (new, &old) in constant.iter().chain(&live).enumerate() {
            number[old] = new;
        }
        let path = |&node: &usize| {
            let mut path = Vec::new();
            let mut at = Some(node);
            while let Some(i) = at {
                path.push(number[i]);
                at = found[i].parent;
            }
            path.reverse();
            path
        };
        PromptTree {
            paths: constant.iter().chain(&live).map(path).collect(),
            ends: ends
                .into_iter()
                .map(|end| number[end].saturating_sub(constant.len()))
                .collect(),
            constant: constant.iter().map(|&i| found[i].node).collect(),
            live: live.iter().map(|&i| found[i].node).collect(),
        }
    }

    /// The rows that each constant node attends to.
    pub(super) fn constant_mask(&self) -> TreeMask {
        TreeMask::new(self.paths[..self.constant.len()].iter().map(Vec::as_slice))
    }

    /// The rows that each live node attends to.
    pub(super) fn live_mask(&self) -> TreeMask {
        TreeMask::new(self.paths[self.constant.len()..].iter().map(Vec::as_slice))
    }

    /// The rows that the last rows attend to.
    pub(super) fn end_mask(&self) -> TreeMask {
        let path = |&end: &usize| self.paths[self.constant.len() + end].as_slice();
        TreeMask::new(self.ends.iter().map(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinhole_model::ClassPosition;
    use pinhole_prompts::{EOT, SOT, Tokenizer, prompt_rows};

    fn tree(names: &[&str], position: ClassPosition, own: bool) -> PromptTree {
        let rows = |name: &&str| prompt_rows(&Tokenizer::new(), name, 4, position, 77).unwrap();
        let rows: Vec<_> = names.iter().map(rows).collect();
        PromptTree::new(&rows, |class, i| if own { 4 * class + i } else { i })
    }

    fn sizes(tree: &PromptTree) -> (usize, usize) {
        (tree.constant.len(), tree.live.len())
    }

    #[test]
    fn common_prefixes_exist_once() {
        // One token each: red, circle, ring, cat, and after them the full stop and the end of text.
        let names = ["red circle", "red ring", "cat"];
        let tail = 2 * 3;
        let end = tree(&names, ClassPosition::End, false);
        assert_eq!(sizes(&end), (1, 4 + 4 + tail));
        // Start, and the first half of the context.
        let middle = tree(&names, ClassPosition::Middle, false);
        assert_eq!(sizes(&middle), (1, 2 + 4 + 3 * 2 + tail));
        // Start and names are constant; each context follows another name.
        let front = tree(&names, ClassPosition::Front, false);
        assert_eq!(sizes(&front), (1 + 4, 3 * 4 + tail));
        let own = tree(&names, ClassPosition::End, true);
        assert_eq!(sizes(&own), (1, 3 * 4 + 5 + tail));
    }

    #[test]
    fn the_path_of_each_end_is_its_prompt() {
        let names = ["red circle", "red ring", "cat"];
        for (position, own) in [
            (ClassPosition::End, false),
            (ClassPosition::Middle, false),
            (ClassPosition::Front, false),
            (ClassPosition::Middle, true),
        ] {
            let tree = tree(&names, position, own);
            let nodes: Vec<Node> = [tree.constant.clone(), tree.live.clone()].concat();
            for (class, (name, end)) in names.iter().zip(&tree.ends).enumerate() {
                let rows = prompt_rows(&Tokenizer::new(), name, 4, position, 77).unwrap();
                let path = &tree.paths[tree.constant.len() + end];
                assert_eq!(path.len(), rows.len());
                for (place, (&node, row)) in path.iter().zip(&rows).enumerate() {
                    assert_eq!(nodes[node].position, place);
                    let row = match *row {
                        PromptRow::Token(id) => Row::Token(id),
                        PromptRow::Context(i) if own => Row::Context(4 * class + i),
                        PromptRow::Context(i) => Row::Context(i),
                    };
                    assert_eq!(nodes[node].row, row);
                }
                assert_eq!(nodes[path[0]].row, Row::Token(SOT));
                assert_eq!(tree.live[*end].row, Row::Token(EOT));
            }
        }
    }
}
