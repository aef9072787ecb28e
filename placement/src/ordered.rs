//! Plans, as answers show them: ordered steps from the present values to the decided ones.

use serde::Serialize;

use crate::answer::{PolicyRow, Status};
use crate::compile::Datum;
use crate::error::Result;
use crate::graph::VarId;
use crate::plan;
use crate::problem::{Problem, model_error};
use crate::solve;

type Object = serde_json::Map<String, serde_json::Value>;

/// What became of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanStatus {
    /// The steps lead to the decided values.
    Complete,
    /// Proved: no safe order exists.
    NoSafeOrder,
    /// None was found within the budget.
    NoneFound,
    /// Nothing to order: no assignment satisfies the hard policies.
    Infeasible,
    /// Nothing to order: none was found.
    Unknown,
}

impl PlanStatus {
    /// The exit code of the command.
    pub fn exit_code(self) -> u8 {
        match self {
            PlanStatus::Complete => 0,
            PlanStatus::NoSafeOrder | PlanStatus::NoneFound | PlanStatus::Infeasible => 3,
            PlanStatus::Unknown => 4,
        }
    }
}

/// One decision changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// The table.
    pub table: String,
    /// The row's primary key.
    pub key: Object,
    /// The decision column.
    pub column: String,
    /// Its value before.
    pub from: serde_json::Value,
    /// Its value after.
    pub to: serde_json::Value,
}

/// Ordered steps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// Whether they reach the decided values.
    pub status: PlanStatus,
    /// The changes of one step may run side by side and finish in any order.
    pub steps: Vec<Vec<Step>>,
    /// Hard policy rows in the way; of an infeasible problem, its core.
    pub blocked_by: Vec<PolicyRow>,
}

/// What a decision of one column shall become.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its table.
    pub table: String,
    /// The row's primary key, in key order.
    pub key: Vec<Datum>,
    /// The decision column.
    pub column: String,
    /// The value.
    pub value: Datum,
}

impl Problem {
    /// Decides, and orders the changes.
    pub fn plan(
        &mut self,
        solving: &solve::Config,
        planning: &plan::Config,
        abort: &mut dyn FnMut() -> bool,
    ) -> Result<Plan> {
        let outcome = solve::solve(&mut self.compiler.model, solve::Scope::All, solving, abort)
            .map_err(|e| model_error(&e))?;
        let answer = self.answer(&outcome);
        let stopped = match answer.status {
            Status::Optimal | Status::Feasible => None,
            Status::Infeasible => Some(PlanStatus::Infeasible),
            Status::Unknown => Some(PlanStatus::Unknown),
        };
        if let Some(status) = stopped {
            return Ok(Plan {
                status,
                steps: Vec::new(),
                blocked_by: answer.core,
            });
        }
        self.ordered(&outcome.values, planning)
    }

    /// Orders the changes from the present values to given ones, without deciding anything. A target whose row or value
    /// does not exist is an error; decisions without a target stay as they are.
    pub fn order(&mut self, targets: &[Target], planning: &plan::Config) -> Result<Plan> {
        let values = targets
            .iter()
            .map(|target| self.compiler.target(target))
            .collect::<Result<Vec<_>>>()?;
        self.ordered(&values, planning)
    }

    fn ordered(
        &mut self,
        values: &[(VarId, Option<u32>)],
        planning: &plan::Config,
    ) -> Result<Plan> {
        let plan =
            plan::plan(&mut self.compiler.model, values, planning).map_err(|e| model_error(&e))?;
        Ok(Plan {
            status: match plan.status {
                plan::Status::Complete => PlanStatus::Complete,
                plan::Status::NoSafeOrder => PlanStatus::NoSafeOrder,
                plan::Status::NoneFound => PlanStatus::NoneFound,
            },
            steps: plan.steps.iter().map(|step| self.shown(step)).collect(),
            blocked_by: plan
                .blocked_by
                .iter()
                .map(|&row| self.policy_row(row))
                .collect(),
        })
    }

    fn shown(&self, changes: &[plan::Change]) -> Vec<Step> {
        let mut out = Vec::new();
        for change in changes {
            let from = self.assignment(change.var, change.from);
            let to = self.assignment(change.var, change.to);
            for (from, to) in from.into_iter().zip(to) {
                out.push(Step {
                    table: to.table,
                    key: to.key,
                    column: to.column,
                    from: from.value,
                    to: to.value,
                });
            }
        }
        out
    }
}
