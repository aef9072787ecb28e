//! Judging an assignment as it is: which policy rows it breaks, and what it costs in which tier.
//!
//! This is the twin that tests compare with SQLite, and what explanations are made of.

use crate::answer::{Number, PolicyRow};
use crate::error::Result;
use crate::graph::VarId;
use crate::problem::{Problem, model_error};

/// A decision with all that it may become.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The table.
    pub table: String,
    /// The row's primary key.
    pub key: serde_json::Map<String, serde_json::Value>,
    /// The columns decided together; one, unless it is a tuple.
    pub columns: Vec<String>,
    /// The choices, each with a value per column.
    pub choices: Vec<Vec<serde_json::Value>>,
    /// Whether it may also be NULL.
    pub nullable: bool,
    /// The present choice.
    pub current: Option<usize>,
    pub(crate) var: VarId,
    pub(crate) values: Vec<u32>,
}

/// What an assignment is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Hard policy rows that it breaks.
    pub broken: Vec<PolicyRow>,
    /// The sum of each declared tier.
    pub tiers: Vec<(u32, Number)>,
}

impl Problem {
    /// All decisions, in key order of their tables.
    pub fn decisions(&self) -> Vec<Decision> {
        let compiler = &self.compiler;
        let mut out = Vec::new();
        for (number, entry) in compiler.mirrors.iter().enumerate() {
            for slot in entry.mirror.occupied() {
                for (index, decision) in entry.decisions.iter().enumerate() {
                    let Some(var) = decision.vars.get(slot as usize).copied().flatten() else {
                        continue;
                    };
                    let values = compiler.values_of(number, index, slot);
                    let domain = &compiler.mirrors[decision.mirror].mirror;
                    let show = |&value: &u32| {
                        let row = domain.row(value).unwrap_or_default();
                        let columns = decision.columns.iter();
                        columns
                            .map(|c| compiler.symbols.json(row[c.domain_column]))
                            .collect()
                    };
                    let schema = &entry.mirror.schema;
                    let current = compiler.model.current(var);
                    out.push(Decision {
                        table: schema.name.clone(),
                        key: self.key_of(number, slot),
                        columns: decision
                            .columns
                            .iter()
                            .map(|c| schema.columns[c.column].name.clone())
                            .collect(),
                        choices: values.iter().map(show).collect(),
                        nullable: compiler.is_nullable(var),
                        current: values.iter().position(|v| Some(*v) == current),
                        var,
                        values,
                    });
                }
            }
        }
        out
    }

    /// Judges the assignment that gives each of `decisions` the choice at its position in `choices`.
    pub fn judge(
        &mut self,
        decisions: &[Decision],
        choices: &[Option<usize>],
    ) -> Result<Judgement> {
        let model = &mut self.compiler.model;
        model.refresh().map_err(|e| model_error(&e))?;
        let before: Vec<Option<u32>> = decisions.iter().map(|d| model.current(d.var)).collect();
        for (decision, choice) in decisions.iter().zip(choices) {
            let value = choice.and_then(|c| decision.values.get(c).copied());
            model.suppose(decision.var, value);
        }
        let judged = model.refresh().map_err(|e| model_error(&e));
        let judgement = self.judgement();
        let model = &mut self.compiler.model;
        for (decision, value) in decisions.iter().zip(before) {
            model.suppose(decision.var, value);
        }
        model.refresh().map_err(|e| model_error(&e))?;
        judged.map(|()| judgement)
    }

    /// The hard policy rows that the present values break.
    pub fn broken(&mut self) -> Result<Vec<PolicyRow>> {
        self.compiler.model.refresh().map_err(|e| model_error(&e))?;
        Ok(self.judgement().broken)
    }

    /// What the present values are worth.
    pub fn present(&mut self) -> Result<Judgement> {
        self.compiler.model.refresh().map_err(|e| model_error(&e))?;
        Ok(self.judgement())
    }

    /// The judgement of the present values.
    pub(crate) fn judgement(&self) -> Judgement {
        let model = &self.compiler.model;
        let broken = model
            .violations()
            .iter()
            .map(|v| self.policy_row(v.source))
            .collect();
        let tiers = model.tiers().into_iter();
        Judgement {
            broken,
            tiers: tiers
                .map(|(t, sum)| (t, self.tier_number(t, sum)))
                .collect(),
        }
    }
}
