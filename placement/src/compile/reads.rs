//! What a block reads of its sources, and how it reaches them: what a changed row can make no difference to.
//!
//! A node that goes down changes the column `status` of one row. Most policies look a node's zone or capacity up and
//! never ask for its status: the row is none of their business, and finding that out costs less than following it.

use std::collections::BTreeSet;

use super::Compiler;
use super::resolved::{Block, Expr, Node};

/// The columns of one source that a block reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    /// In GROUP BY.
    pub keys: BTreeSet<usize>,
    /// In anything else, subqueries included.
    pub other: BTreeSet<usize>,
}

/// How rows of a block have bound its sources so far, a bit for each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bindings {
    /// As rows of their own.
    pub rows: u64,
    /// Looked up by a decision.
    pub lookups: u64,
}

impl Reads {
    /// Whether any of these columns is read.
    pub(super) fn any(&self, columns: &BTreeSet<usize>) -> bool {
        !self.keys.is_disjoint(columns) || !self.other.is_disjoint(columns)
    }
}

/// What a block reads of each of its sources; `goal` is what its rows or groups are judged by.
pub(super) fn reads_of(block: &Block, goal: Option<&Expr>) -> Vec<Reads> {
    let mut reads = vec![Reads::default(); block.sources.len()];
    for key in &block.keys {
        visit(key, 0, &mut |source, column| {
            reads[source].keys.insert(column);
        });
    }
    let mut note = |source: usize, column: usize| {
        reads[source].other.insert(column);
    };
    visit_rest(block, 0, &mut note);
    if let Some(goal) = goal {
        visit(goal, 0, &mut note);
    }
    reads
}

/// Everything of a block but its keys.
fn visit_rest(block: &Block, depth: u32, note: &mut dyn FnMut(usize, usize)) {
    let arguments = block.aggregates.iter().filter_map(|a| a.argument.as_ref());
    let outputs = block.outputs.iter().map(|(_, output)| output);
    let all = block.conditions.iter().chain(&block.having);
    for expr in all.chain(arguments).chain(outputs) {
        visit(expr, depth, note);
    }
}

/// The columns of the block `depth` levels up that an expression reads.
fn visit(expr: &Expr, depth: u32, note: &mut dyn FnMut(usize, usize)) {
    let mut inside = |block: &Block| {
        for key in &block.keys {
            visit(key, depth + 1, &mut *note);
        }
        visit_rest(block, depth + 1, &mut *note);
    };
    match &expr.node {
        Node::Column {
            level,
            source,
            column,
        } => {
            if *level == depth {
                note(*source, *column);
            }
        }
        Node::Apply(_, args) => args.iter().for_each(|arg| visit(arg, depth, note)),
        Node::InBlock(needle, block) => {
            inside(block);
            visit(needle, depth, note);
        }
        Node::Exists(block) | Node::Scalar(block) => inside(block),
        Node::Const(_) | Node::Key { .. } | Node::Aggregate(_) | Node::ConstantScalar(_) => {}
    }
}

impl Compiler {
    /// How a block has bound its sources.
    pub(super) fn bindings(&self, block: usize) -> Bindings {
        self.bindings.get(block).copied().unwrap_or_default()
    }

    pub(super) fn note_binding(&mut self, block: usize, note: impl FnOnce(&mut Bindings)) {
        if self.bindings.len() <= block {
            self.bindings.resize(block + 1, Bindings::default());
        }
        note(&mut self.bindings[block]);
    }
}
