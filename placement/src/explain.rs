//! Why is it there, and not elsewhere: every alternative of one decision, with what it would break or cost.

use serde::Serialize;

use crate::answer::{Number, PolicyRow};
use crate::error::{Error, ErrorKind, Result};
use crate::judge::Decision;
use crate::problem::{Problem, model_error};

type Object = serde_json::Map<String, serde_json::Value>;

/// What one alternative would change in a tier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// The tier.
    pub tier: u32,
    /// The change of its sum; negative is better.
    pub change: Number,
}

/// One value that the decision could have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alternative {
    /// The value; of several columns, the values in their order.
    pub value: serde_json::Value,
    /// Hard policy rows that would fail, or fail by more.
    pub violates: Vec<PolicyRow>,
    /// Hard policy rows that fail now and would hold, or fail by less.
    pub repairs: Vec<PolicyRow>,
    /// What it would cost; tiers without a change are left out.
    pub tiers: Vec<Cost>,
}

/// The alternatives of one decision, all others being where they are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The table.
    pub table: String,
    /// The row.
    pub key: Object,
    /// The decision column; of a tuple, the first.
    pub column: String,
    /// Where it is.
    pub current: serde_json::Value,
    /// Hard policy rows that fail now.
    pub failing: Vec<PolicyRow>,
    /// Every value that it could have but has not, best first.
    pub alternatives: Vec<Alternative>,
}

fn one(mut values: Vec<serde_json::Value>) -> serde_json::Value {
    match values.len() {
        1 => values.remove(0),
        _ => serde_json::Value::Array(values),
    }
}

impl Problem {
    /// Explains the decision of the row of `table` whose primary key is `key` (`column` where it has several).
    pub fn explain(
        &mut self,
        table: &str,
        key: &Object,
        column: Option<&str>,
    ) -> Result<Explanation> {
        let decision = self.decision_of(table, key, column)?;
        self.compiler.model.refresh().map_err(|e| model_error(&e))?;
        let failing = self.judgement().broken;
        let mut alternatives = Vec::new();
        let values = (0..decision.values.len()).map(Some);
        let null = decision.nullable.then_some(None);
        for index in values
            .chain(null)
            .filter(|&index| index != decision.current)
        {
            let (order, alternative) = self.alternative(&decision, index)?;
            alternatives.push((alternative.violates.len(), order, alternative));
        }
        alternatives.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        Ok(Explanation {
            table: decision.table,
            key: decision.key,
            column: decision.columns.first().cloned().unwrap_or_default(),
            current: match decision.current {
                Some(current) => one(decision.choices[current].clone()),
                None => serde_json::Value::Null,
            },
            failing,
            alternatives: alternatives.into_iter().map(|(_, _, a)| a).collect(),
        })
    }

    /// The decision that a table, a key and a column name.
    fn decision_of(&self, table: &str, key: &Object, column: Option<&str>) -> Result<Decision> {
        let decisions = self.decisions();
        let same_key = |other: &Object| {
            key.len() == other.len()
                && other.iter().all(|(name, value)| {
                    key.iter()
                        .any(|(n, v)| n.eq_ignore_ascii_case(name) && v == value)
                })
        };
        let found = decisions.into_iter().find(|d| {
            d.table.eq_ignore_ascii_case(table)
                && same_key(&d.key)
                && column.is_none_or(|c| d.columns.iter().any(|own| own.eq_ignore_ascii_case(c)))
        });
        if let Some(decision) = found {
            return Ok(decision);
        }
        let of_table = self.decisions();
        let mut of_table = of_table
            .iter()
            .filter(|d| d.table.eq_ignore_ascii_case(table));
        let has = |d: &Decision, c: &str| d.columns.iter().any(|own| own.eq_ignore_ascii_case(c));
        let message = match (of_table.next(), column) {
            (None, _) => format!("no row of {table} has a decision"),
            (Some(first), Some(column))
                if !has(first, column) && !of_table.any(|d| has(d, column)) =>
            {
                format!("{table} has no decision column {column}")
            }
            (Some(_), _) => {
                let key = serde_json::Value::Object(key.clone());
                format!("no decision in {table} where {key}; the whole primary key is needed")
            }
        };
        Err(Error::bare(ErrorKind::Name, message))
    }

    /// What a decision would do with another of its values (`None`: NULL), and by what that is sorted.
    fn alternative(
        &mut self,
        decision: &Decision,
        index: Option<usize>,
    ) -> Result<(Vec<i128>, Alternative)> {
        let value = index.map(|index| decision.values[index]);
        let probe = self
            .compiler
            .model
            .probe(&[(decision.var, value)])
            .map_err(|e| model_error(&e))?;
        let rows = |list: &[crate::graph::Violation]| {
            list.iter()
                .map(|v| self.policy_row(v.source))
                .collect::<Vec<_>>()
        };
        let cost = |&(tier, change): &(u32, i128)| {
            (change != 0).then(|| Cost {
                tier,
                change: self.tier_number(tier, change),
            })
        };
        let order: Vec<i128> = probe.tiers.iter().map(|(_, change)| *change).collect();
        let alternative = Alternative {
            value: match index {
                Some(index) => one(decision.choices[index].clone()),
                None => serde_json::Value::Null,
            },
            violates: rows(&probe.broken),
            repairs: rows(&probe.repaired),
            tiers: probe.tiers.iter().filter_map(cost).collect(),
        };
        Ok((order, alternative))
    }
}
