//! What a script of policies declares, read without any state.

use serde::{Deserialize, Serialize};

use crate::dialect::ast::{Goal, Sense, Statement};
use crate::dialect::parse;
use crate::error::{Error, ErrorKind, Result, Source};

/// How a constraint binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum Force {
    /// Every row must hold, in every step of a plan.
    Hard,
    /// The sum over its rows is made small.
    Soft {
        /// Lower tiers come first.
        tier: u32,
        /// Its weight in the tier; negative: the sum is made large.
        weight: i64,
    },
}

/// A constraint that a script declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    /// Its name.
    pub name: String,
    /// How it binds.
    #[serde(flatten)]
    pub force: Force,
}

/// The constraints of a script of policies, in their order. A script that changes tables or rows is an error: policies
/// say what shall be, not what is.
pub fn constraints(script: &str) -> Result<Vec<Constraint>> {
    let mut found = Vec::new();
    for statement in parse(script, Source::Policies)? {
        match statement {
            Statement::Constraint(constraint) => found.push(Constraint {
                name: constraint.name,
                force: match constraint.goal {
                    Goal::Check { .. } => Force::Hard,
                    Goal::Objective {
                        sense,
                        weight,
                        tier,
                        ..
                    } => Force::Soft {
                        tier,
                        weight: match sense {
                            Sense::Minimize => weight,
                            Sense::Maximize => -weight,
                        },
                    },
                },
            }),
            Statement::View(_) => {}
            Statement::Table { place, .. } | Statement::Data { place, .. } => {
                let message = "a policy creates views and constraints only: tables and rows are the cluster's";
                return Err(Error::at(ErrorKind::Unsupported, place, message));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_are_listed_and_rows_cannot_be_changed() {
        let script = "CREATE VIEW v AS SELECT node_id FROM nodes;\n\
             CREATE CONSTRAINT a AS SELECT * FROM replicas CHECK slot < 3;\n\
             CREATE CONSTRAINT b AS SELECT * FROM replicas MAXIMIZE slot WEIGHT 2 TIER 4;";
        let found = constraints(script).expect("it is sound");
        let expected = [
            ("a", Force::Hard),
            (
                "b",
                Force::Soft {
                    tier: 4,
                    weight: -2,
                },
            ),
        ];
        let expected = expected.map(|(name, force)| Constraint {
            name: name.to_owned(),
            force,
        });
        assert_eq!(found, expected);
        let error = constraints("CREATE VIEW v AS SELECT 1;\n  DELETE FROM nodes;");
        let error = error.expect_err("rows are not a policy's");
        let place = error.place.expect("it has a place");
        assert_eq!((place.line, place.column), (2, 3), "{error}");
    }
}
