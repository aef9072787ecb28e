//! The dialect: SQL with `CREATE CONSTRAINT`.
//!
//! ```text
//! CREATE [OR REPLACE] CONSTRAINT name AS SELECT … CHECK expr [DEFERRABLE]
//! CREATE [OR REPLACE] CONSTRAINT name AS SELECT … MINIMIZE|MAXIMIZE expr [WEIGHT n] [TIER n]
//! ```
//!
//! A script is cut into statements without being tokenised ([`split`]), because a state may hold millions
//! of rows that are SQLite's business alone. Statements that are ours (tables with decision columns, views,
//! constraints) are tokenised and parsed by `sqlparser`, then lowered into the tree of [`ast`], which has
//! no room for a construct that the dialect does not support: the refusal names it and its line and column.
//!
//! Nesting is bounded by the parser's own recursion limit, and the length of operator chains by
//! [`OPERATORS_MAX`], so that no text can exhaust the stack here or in the recursive passes behind.

pub mod ast;
mod lower;
mod script;
mod split;

pub use script::{DECISION_PREFIX, parse};

/// Operators in one statement: bounds the depth of a left-deep chain.
pub const OPERATORS_MAX: usize = 400;
/// Tokens in one statement of ours.
pub const TOKENS_MAX: usize = 200_000;
/// Nesting of parentheses, subqueries and prefix operators that the parser follows.
pub const NESTING_MAX: usize = 40;
