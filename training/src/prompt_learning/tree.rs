//! The prompts of several classes as one tree: rows that begin alike exist once.
//!
//! A row of a causal tower depends on the rows before it and on nothing else. So the start of text and
//! a shared context before the names are computed once for all classes, as are the first tokens that
//! names have in common, and a row without any context before it is computed once for the whole
//! training. This holds wherever the name stands and whether contexts are shared or not: only the tree
//! differs.

use std::collections::HashMap;

use pinhole_model::PromptRow;

use crate::ops::tree::Paths;

/// What a node's row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Row {
    /// The embedding of a token.
    Token(u32),
    /// A context vector, counted over all contexts.
    Context(usize),
}

/// A node: its row, and its place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) row: Row,
    pub(super) position: usize,
}

/// A tree of prompts, in the order in which its rows are numbered.
#[derive(Debug)]
pub(super) struct Tree {
    /// Nodes with no context vector up to them: constant.
    pub(super) fixed: Vec<Node>,
    /// The others.
    pub(super) live: Vec<Node>,
    /// The live node, counted from the first live one, that each prompt is read at.
    pub(super) ends: Vec<usize>,
    /// For each fixed node, then for each live one, the nodes from the root to itself.
    paths: Vec<Vec<usize>>,
}

impl Tree {
    /// Joins prompts; `context` gives the number of a prompt's context vector.
    ///
    /// Each prompt has at least one context vector before its last row.
    pub(super) fn new(prompts: &[Vec<PromptRow>], context: impl Fn(usize, usize) -> usize) -> Tree {
        struct Found {
            node: Node,
            parent: Option<usize>,
            fixed: bool,
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
                    let before = parent.is_none_or(|p: usize| found[p].fixed);
                    found.push(Found {
                        node: Node { row, position },
                        parent,
                        fixed: before && matches!(row, Row::Token(_)),
                    });
                    found.len() - 1
                });
                parent = Some(next);
            }
            ends.extend(parent);
        }
        let fixed: Vec<usize> = (0..found.len()).filter(|&i| found[i].fixed).collect();
        let live: Vec<usize> = (0..found.len()).filter(|&i| !found[i].fixed).collect();
        let mut number = vec![0; found.len()];
        for (new, &old) in fixed.iter().chain(&live).enumerate() {
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
        Tree {
            paths: fixed.iter().chain(&live).map(path).collect(),
            ends: ends
                .into_iter()
                .map(|end| number[end].saturating_sub(fixed.len()))
                .collect(),
            fixed: fixed.iter().map(|&i| found[i].node).collect(),
            live: live.iter().map(|&i| found[i].node).collect(),
        }
    }

    /// What each fixed node sees.
    pub(super) fn fixed_paths(&self) -> Paths {
        Paths::new(self.paths[..self.fixed.len()].iter().map(Vec::as_slice))
    }

    /// What each live node sees, the fixed nodes being numbered first.
    pub(super) fn live_paths(&self) -> Paths {
        Paths::new(self.paths[self.fixed.len()..].iter().map(Vec::as_slice))
    }

    /// What the rows that are read see.
    pub(super) fn end_paths(&self) -> Paths {
        let path = |&end: &usize| self.paths[self.fixed.len() + end].as_slice();
        Paths::new(self.ends.iter().map(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pinhole_model::ClassPosition;
    use pinhole_prompts::{EOT, SOT, Tokenizer, prompt_rows};

    fn tree(names: &[&str], position: ClassPosition, own: bool) -> Tree {
        let rows = |name: &&str| prompt_rows(&Tokenizer::new(), name, 4, position, 77).unwrap();
        let rows: Vec<_> = names.iter().map(rows).collect();
        Tree::new(&rows, |class, i| if own { 4 * class + i } else { i })
    }

    fn sizes(tree: &Tree) -> (usize, usize) {
        (tree.fixed.len(), tree.live.len())
    }

    #[test]
    fn what_prompts_share_exists_once() {
        // One token each: red, circle, ring, cat, and the full stop and the end behind them.
        let names = ["red circle", "red ring", "cat"];
        let tail = 2 * 3;
        let end = tree(&names, ClassPosition::End, false);
        assert_eq!(sizes(&end), (1, 4 + 4 + tail));
        // Start, and the first half of the context.
        let middle = tree(&names, ClassPosition::Middle, false);
        assert_eq!(sizes(&middle), (1, 2 + 4 + 3 * 2 + tail));
        // Start and names are constant; each context has another name before it.
        let front = tree(&names, ClassPosition::Front, false);
        assert_eq!(sizes(&front), (1 + 4, 3 * 4 + tail));
        let own = tree(&names, ClassPosition::End, true);
        assert_eq!(sizes(&own), (1, 3 * 4 + 5 + tail));
    }

    #[test]
    fn every_path_is_the_prompt_that_it_ends() {
        let names = ["red circle", "red ring", "cat"];
        for (position, own) in [
            (ClassPosition::End, false),
            (ClassPosition::Middle, false),
            (ClassPosition::Front, false),
            (ClassPosition::Middle, true),
        ] {
            let tree = tree(&names, position, own);
            let nodes: Vec<Node> = [tree.fixed.clone(), tree.live.clone()].concat();
            for (class, (name, end)) in names.iter().zip(&tree.ends).enumerate() {
                let rows = prompt_rows(&Tokenizer::new(), name, 4, position, 77).unwrap();
                let path = &tree.paths[tree.fixed.len() + end];
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
