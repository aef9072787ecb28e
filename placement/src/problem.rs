//! A problem: state and policies, compiled; what is asked of it.

use std::collections::BTreeMap;

use crate::answer::{Answer, Assignment, Number, PolicyRow, Stats, Status, Tier};
use crate::compile::{Change, Compiler, Datum, Goals, Warning};
use crate::error::{Error, ErrorKind, Result, Source};
use crate::graph::{ModelError, RowRef, VarId};
use crate::solve;
use crate::tables::Value;

/// Tables and policies, compiled into an expression graph that lives as long as the problem does.
#[derive(Debug)]
pub struct Problem {
    pub(crate) compiler: Compiler,
}

/// The decisions that changes touched.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    /// `None`: all, because everything was compiled again.
    vars: Option<Vec<VarId>>,
}

impl Touched {
    /// Whether changes could be followed by keys.
    pub fn is_scoped(&self) -> bool {
        self.vars.is_some()
    }

    /// Adds what other changes touched.
    pub fn extend(&mut self, other: Touched) {
        match (&mut self.vars, other.vars) {
            (Some(vars), Some(more)) => {
                vars.extend(more);
                vars.sort_unstable();
                vars.dedup();
            }
            (vars, _) => *vars = None,
        }
    }
}

pub(crate) fn model_error(e: &ModelError) -> Error {
    Error::bare(ErrorKind::Arithmetic, e.to_string())
}

impl Problem {
    /// Compiles `policies` over `state`; both are scripts of the dialect.
    pub fn load(state: &str, policies: &str) -> Result<Problem> {
        Problem::load_scripts(&[(state, Source::State), (policies, Source::Policies)])
    }

    /// Compiles several scripts, taken in their order; the places of errors count in each script by itself.
    pub fn load_scripts(scripts: &[(&str, Source)]) -> Result<Problem> {
        Ok(Problem {
            compiler: Compiler::load(scripts, Goals::All)?,
        })
    }

    /// Decides all decisions. `abort` is asked now and then whether time is up.
    pub fn solve(
        &mut self,
        config: &solve::Config,
        abort: &mut dyn FnMut() -> bool,
    ) -> Result<Answer> {
        self.solve_in(solve::Scope::All, config, abort)
    }

    /// Hints on policies that were accepted.
    pub fn warnings(&self) -> &[Warning] {
        &self.compiler.warnings
    }

    /// Applies changes of rows. What they leave to decide is returned: pass it to [`Problem::solve_scoped`].
    ///
    /// On an error the tables may hold some of the changes, and the problem must be loaded again.
    pub fn apply(&mut self, changes: &[Change]) -> Result<Touched> {
        let applied = self.compiler.apply_changes(changes)?;
        let vars = match applied.rebuilt {
            false => Some(applied.touched.into_iter().collect()),
            true => None,
        };
        Ok(Touched { vars })
    }

    /// The decisions of rows, given by table and primary key, as if changes had touched them. A row that does not exist
    /// has none.
    pub fn touch<'a>(
        &mut self,
        rows: impl IntoIterator<Item = (&'a str, Vec<Datum>)>,
    ) -> Result<Touched> {
        let mut vars = Vec::new();
        for (table, key) in rows {
            vars.extend(self.compiler.decisions_of(table, &key)?);
        }
        vars.sort_unstable();
        vars.dedup();
        Ok(Touched { vars: Some(vars) })
    }

    /// Decides only what changes touched, together with what has no valid place; the rest stays where it is.
    pub fn solve_scoped(
        &mut self,
        touched: &Touched,
        config: &solve::Config,
        abort: &mut dyn FnMut() -> bool,
    ) -> Result<Answer> {
        match &touched.vars {
            Some(vars) => self.solve_in(solve::Scope::Vars(vars), config, abort),
            None => self.solve_in(solve::Scope::All, config, abort),
        }
    }

    pub(crate) fn solve_in(
        &mut self,
        scope: solve::Scope<'_>,
        config: &solve::Config,
        abort: &mut dyn FnMut() -> bool,
    ) -> Result<Answer> {
        let outcome = solve::solve(&mut self.compiler.model, scope, config, abort)
            .map_err(|e| model_error(&e))?;
        Ok(self.answer(&outcome))
    }

    pub(crate) fn answer(&self, outcome: &solve::Outcome) -> Answer {
        let status = match outcome.status {
            solve::Status::Optimal => Status::Optimal,
            solve::Status::Feasible => Status::Feasible,
            solve::Status::Infeasible => Status::Infeasible,
            solve::Status::Unknown => Status::Unknown,
        };
        let decided = matches!(status, Status::Optimal | Status::Feasible);
        let tiers = outcome.tiers.iter().map(|t| Tier {
            tier: t.tier,
            value: self.tier_number(t.tier, t.value),
            bound: t.bound.map(|bound| self.tier_number(t.tier, bound)),
        });
        let core = outcome.core.as_ref();
        let rows = core.map_or(&[][..], |c| &c.rows);
        let shortage = core.and_then(|c| c.shortage);
        Answer {
            status,
            tiers: if decided { tiers.collect() } else { Vec::new() },
            assignments: if decided {
                self.assignments(&outcome.values)
            } else {
                Vec::new()
            },
            relaxed: if decided {
                Vec::new()
            } else {
                self.assignments(&outcome.values)
            },
            core: rows.iter().map(|&row| self.policy_row(row)).collect(),
            core_minimal: core.is_some_and(|c| c.minimal),
            needed: shortage.map(|s| s.needed),
            available: shortage.map(|s| s.available),
            solutions: outcome
                .solutions
                .iter()
                .map(|s| self.assignments(s))
                .collect(),
            solutions_complete: outcome.solutions_complete,
            stats: Stats {
                variables: self.compiler.model.vars().count() as u64,
                expressions: self.compiler.model.expression_count(),
                evaluations: outcome.evaluations,
                compile_ms: 0.0,
                solve_ms: 0.0,
            },
        }
    }

    /// A sum of a tier in the units of its policies.
    pub(crate) fn tier_number(&self, tier: u32, sum: i128) -> Number {
        let den = self.compiler.tier_dens.get(&tier).copied().unwrap_or(1);
        Number::new(sum, den)
    }

    /// A policy row as answers name it.
    pub(crate) fn policy_row(&self, source: RowRef) -> PolicyRow {
        let (policy, row) = self.compiler.row_of(source);
        let json = |(name, value): (String, Value)| (name, self.compiler.symbols.json(value));
        PolicyRow {
            policy,
            row: row.into_iter().map(json).collect(),
        }
    }

    /// The assignments of variables, in key order of their tables; a tuple decision gives one per column.
    pub(crate) fn assignments(&self, values: &[(VarId, Option<u32>)]) -> Vec<Assignment> {
        let mut ordered: BTreeMap<(usize, u32, usize), (VarId, Option<u32>)> = BTreeMap::new();
        for &(var, value) in values {
            let of = self.compiler.variables[var.index()];
            ordered.insert((of.mirror, of.slot, of.decision), (var, value));
        }
        let mut out = Vec::with_capacity(ordered.len());
        for (var, value) in ordered.into_values() {
            out.extend(self.assignment(var, value));
        }
        out
    }

    pub(crate) fn assignment(&self, var: VarId, value: Option<u32>) -> Vec<Assignment> {
        let compiler = &self.compiler;
        let of = compiler.variables[var.index()];
        let entry = &compiler.mirrors[of.mirror];
        let schema = &entry.mirror.schema;
        let decision = &entry.decisions[of.decision];
        let current = compiler.model.current(var);
        let key: serde_json::Map<String, serde_json::Value> = self.key_of(of.mirror, of.slot);
        let show = |value: Option<u32>, column: usize| {
            let row = value.and_then(|v| compiler.mirrors[decision.mirror].mirror.row(v));
            row.map_or(serde_json::Value::Null, |row| {
                compiler.symbols.json(row[column])
            })
        };
        decision
            .columns
            .iter()
            .map(|column| Assignment {
                table: schema.name.clone(),
                key: key.clone(),
                column: schema.columns[column.column].name.clone(),
                current: show(current, column.domain_column),
                value: show(value, column.domain_column),
            })
            .collect()
    }

    pub(crate) fn key_of(
        &self,
        mirror: usize,
        slot: u32,
    ) -> serde_json::Map<String, serde_json::Value> {
        let entry = &self.compiler.mirrors[mirror];
        let schema = &entry.mirror.schema;
        let Some(row) = entry.mirror.row(slot) else {
            return serde_json::Map::new();
        };
        let json = |&c: &usize| {
            (
                schema.columns[c].name.clone(),
                self.compiler.symbols.json(row[c]),
            )
        };
        schema.primary_key.iter().map(json).collect()
    }
}
