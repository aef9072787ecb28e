//! One template for all groups of a bag.
//!
//! Where no group without rows can violate a policy (or add to its sum), empty groups cost nothing: the graph judges
//! the buckets that have rows, by one expression over folds and the constants of their names.

use std::collections::BTreeSet;

use super::Compiler;
use super::cells::{Target, Term};
use super::delta::rebuild;
use super::folded::KeyConstant;
use super::group::Grouping;
use super::join::Frame;
use super::policy::{Kind, Soft, SoftCell, model_error};
use super::resolved::{Block, Expr};
use crate::error::Result;
use crate::graph::{self, CmpOp, Fold, RootKind, Template};

impl Compiler {
    /// Compiles a policy over groups into one template; `false` if groups need expressions of their own.
    pub(super) fn compile_template(
        &mut self,
        policy: usize,
        block: &Block,
        goal: &Expr,
        grouping: &mut Grouping,
    ) -> Result<bool> {
        self.target = Target::Template(Vec::new());
        let built = self.template(policy, block, goal, grouping);
        let target = std::mem::replace(&mut self.target, Target::Graph);
        // What no template can say, expressions may: they raise the error if it is one.
        let Ok((term, constants)) = built else {
            return Ok(false);
        };
        let Target::Template(arena) = target else {
            return Ok(false);
        };
        let Some(template) = arena.get(term.node.0 as usize).cloned() else {
            return Ok(false);
        };
        let kind = self.policies[policy].kind;
        self.all_parts(grouping, block.place)?;
        let keys = self.key_count(grouping);
        let part_count = grouping.part_count();
        let mut part_rows = Vec::with_capacity(part_count as usize);
        for part in 0..part_count {
            part_rows.push(self.half_constants(
                grouping,
                &constants,
                part,
                0,
                false,
                block.place,
            )?);
        }
        let mut key_rows = Vec::with_capacity(keys as usize);
        for key in 0..keys {
            key_rows.push(self.half_constants(grouping, &constants, 0, key, true, block.place)?);
        }
        // Groups that the template cannot tell apart are judged once.
        let distinct = |rows: &[Vec<Option<i64>>]| {
            let mut rows = rows.to_vec();
            rows.sort_unstable();
            rows.dedup();
            rows
        };
        let parts = if reads(&template, Half::Part) {
            distinct(&part_rows)
        } else {
            vec![vec![]]
        };
        let columns = if reads(&template, Half::Key) {
            distinct(&key_rows)
        } else {
            vec![vec![]]
        };
        for part in &parts {
            for key in &columns {
                let Ok(value) = empty_value(&template, part, key) else {
                    return Ok(false);
                };
                let idle = match kind {
                    Kind::Hard => value != Some(0),
                    Kind::Soft { .. } => matches!(value, None | Some(0)),
                };
                if !idle {
                    return Ok(false);
                }
            }
        }
        let number = u32::try_from(policy).unwrap_or(u32::MAX);
        if reads(&template, Half::Part) {
            for (part, row) in (0..part_count).zip(&part_rows) {
                self.model
                    .set_part(grouping.bag, part, row)
                    .map_err(|e| model_error(block.place, &e))?;
            }
        }
        if reads(&template, Half::Key) {
            for (key, row) in (0..keys).zip(&key_rows) {
                self.model
                    .set_key(grouping.bag, key, row)
                    .map_err(|e| model_error(block.place, &e))?;
            }
        }
        self.policies[policy].template = Some(template.clone());
        match kind {
            Kind::Hard => {
                let kind = RootKind::Hard;
                let spec = graph::LazySpec {
                    policy: number,
                    kind,
                    template,
                };
                self.model
                    .add_lazy(grouping.bag, spec)
                    .map_err(|e| model_error(block.place, &e))?;
            }
            Kind::Soft { tier, weight } => {
                let cell = SoftCell::Lazy {
                    bag: grouping.bag,
                    template,
                };
                let place = goal.place;
                self.softs.push(Soft {
                    policy,
                    tier,
                    weight,
                    den: term.den,
                    place,
                    cell,
                });
            }
        }
        grouping.constants = Some(constants);
        Ok(true)
    }

    /// Tells the graph the constants of a part that came with new rows; `false` if the part, empty, would
    /// not satisfy the template.
    pub(super) fn introduce_part(
        &mut self,
        policy: usize,
        grouping: &Grouping,
        part: u32,
    ) -> Result<bool> {
        let (Some(template), Some(constants)) =
            (self.policies[policy].template.clone(), &grouping.constants)
        else {
            return Ok(false);
        };
        if !reads(&template, Half::Part) {
            return Ok(true);
        }
        let place = self.policies[policy].goal.place;
        if !self.is_whole(grouping, constants, (part, 0), false) {
            return Ok(false);
        }
        let row = self.half_constants(grouping, constants, part, 0, false, place)?;
        let kind = self.policies[policy].kind;
        let keys = if reads(&template, Half::Key) {
            self.key_count(grouping)
        } else {
            1
        };
        for key in 0..keys {
            let key_row = self.half_constants(grouping, constants, part, key, true, place)?;
            let idle = match (empty_value(&template, &row, &key_row), kind) {
                (Ok(value), Kind::Hard) => value != Some(0),
                (Ok(value), Kind::Soft { .. }) => matches!(value, None | Some(0)),
                (Err(()), _) => false,
            };
            if !idle {
                return Ok(false);
            }
        }
        self.model
            .set_part(grouping.bag, part, &row)
            .map_err(|e| model_error(place, &e))?;
        Ok(true)
    }

    /// Tells the graph the constants of groups whose component `component` has new names under these numbers; the
    /// problem must be compiled again if such a group, empty, would not satisfy the template.
    pub(super) fn introduce_names(
        &mut self,
        policy: usize,
        grouping: &Grouping,
        component: usize,
        numbers: &BTreeSet<u32>,
    ) -> Result<()> {
        let (Some(template), Some(constants)) =
            (self.policies[policy].template.clone(), &grouping.constants)
        else {
            return rebuild();
        };
        let keyed = grouping.components[component].keyed;
        let half = if keyed { Half::Key } else { Half::Part };
        if !reads(&template, half) {
            return Ok(());
        }
        let place = self.policies[policy].goal.place;
        let halves = |this: &Compiler, keyed: bool| -> Result<BTreeSet<Vec<Option<i64>>>> {
            let wanted = if keyed { Half::Key } else { Half::Part };
            if !reads(&template, wanted) {
                return Ok(BTreeSet::from([vec![]]));
            }
            let count = match keyed {
                true => this.key_count(grouping),
                false => grouping.part_count(),
            };
            (0..count)
                .map(|n| {
                    let (part, key) = if keyed { (0, n) } else { (n, 0) };
                    this.half_constants(grouping, constants, part, key, keyed, place)
                })
                .collect()
        };
        let others = halves(self, !keyed)?;
        let kind = self.policies[policy].kind;
        let (count, digit) = self.digits(grouping, component);
        for n in (0..count).filter(|&n| numbers.contains(&digit(n))) {
            let (part, key) = if keyed { (0, n) } else { (n, 0) };
            if !self.is_whole(grouping, constants, (part, key), keyed) {
                return rebuild();
            }
            let own = self.half_constants(grouping, constants, part, key, keyed, place)?;
            for other in &others {
                let (part, key) = if keyed { (other, &own) } else { (&own, other) };
                let idle = match (empty_value(&template, part, key), kind) {
                    (Ok(value), Kind::Hard) => value != Some(0),
                    (Ok(value), Kind::Soft { .. }) => matches!(value, None | Some(0)),
                    (Err(()), _) => false,
                };
                if !idle {
                    return rebuild();
                }
            }
            let told = match keyed {
                true => self.model.set_key(grouping.bag, n, &own),
                false => self.model.set_part(grouping.bag, n, &own),
            };
            told.map_err(|e| model_error(place, &e))?;
        }
        Ok(())
    }

    fn template(
        &mut self,
        policy: usize,
        block: &Block,
        goal: &Expr,
        grouping: &Grouping,
    ) -> Result<(Term, Vec<KeyConstant>)> {
        let (folded, constants) = self.template_folded(block, grouping)?;
        let frame = Frame {
            parent: None,
            block,
            bound: &[],
            folded: Some(&folded),
        };
        let mut cell = self.eval(goal, &frame)?;
        if let Some(having) = &block.having {
            let condition = self.eval(having, &frame)?;
            cell = self.under(policy, condition, cell, goal.place)?;
        }
        Ok((self.term(cell, goal.place)?, constants))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Part,
    Key,
}

/// Whether a template reads constants of parts, or of keys.
fn reads(template: &Template, half: Half) -> bool {
    match template {
        Template::Part(_) => half == Half::Part,
        Template::Key(_) => half == Half::Key,
        Template::Fold(_) | Template::Const(_) => false,
        Template::Neg(a) | Template::Not(a) | Template::IsNull(a) | Template::InSet(a, _) => {
            reads(a, half)
        }
        Template::Add(a, b)
        | Template::Sub(a, b)
        | Template::Mul(a, b)
        | Template::Div(a, b)
        | Template::Rem(a, b)
        | Template::Cmp(_, a, b) => reads(a, half) || reads(b, half),
        Template::And(list) | Template::Or(list) => list.iter().any(|t| reads(t, half)),
        Template::Ite(a, b, c) => reads(a, half) || reads(b, half) || reads(c, half),
    }
}

/// The value of a template on a group without rows; an error where it cannot be told.
fn empty_value(
    template: &Template,
    part: &[Option<i64>],
    key: &[Option<i64>],
) -> std::result::Result<Option<i128>, ()> {
    let of = |t: &Template| empty_value(t, part, key);
    let both = |a: &Template, b: &Template| Ok::<_, ()>((of(a)?).zip(of(b)?));
    let truth = |b: bool| Some(i128::from(b));
    Ok(match template {
        Template::Fold(Fold::CountRows | Fold::Count(_) | Fold::CountDistinct(_)) => Some(0),
        Template::Fold(Fold::Sum(_) | Fold::Min(_) | Fold::Max(_)) => None,
        Template::Part(i) => part.get(usize::from(*i)).ok_or(())?.map(i128::from),
        Template::Key(i) => key.get(usize::from(*i)).ok_or(())?.map(i128::from),
        Template::Const(n) => n.map(i128::from),
        Template::Neg(a) => of(a)?.map(|a| -a),
        Template::Add(a, b) => both(a, b)?.map(|(a, b)| a + b),
        Template::Sub(a, b) => both(a, b)?.map(|(a, b)| a - b),
        Template::Mul(a, b) => match both(a, b)? {
            None => None,
            Some((a, b)) => Some(a.checked_mul(b).ok_or(())?),
        },
        Template::Div(a, b) => both(a, b)?.and_then(|(a, b)| a.checked_div(b)),
        Template::Rem(a, b) => both(a, b)?.and_then(|(a, b)| a.checked_rem(b)),
        Template::Cmp(op, a, b) => both(a, b)?.map(|(a, b)| i128::from(holds(*op, a, b))),
        Template::And(list) | Template::Or(list) => {
            let absorbing = i128::from(matches!(template, Template::Or(_)));
            let mut result = Some(1 - absorbing);
            for t in list {
                match of(t)? {
                    None => result = None,
                    Some(v) if i128::from(v != 0) == absorbing => return Ok(Some(absorbing)),
                    Some(_) => {}
                }
            }
            result
        }
        Template::Not(a) => of(a)?.and_then(|a| truth(a == 0)),
        Template::IsNull(a) => truth(of(a)?.is_none()),
        Template::Ite(c, a, b) => match of(c)? {
            Some(c) if c != 0 => of(a)?,
            _ => of(b)?,
        },
        // The set is the graph's; what is not known is not assumed.
        Template::InSet(a, _) => match of(a)? {
            None => None,
            Some(_) => return Err(()),
        },
    })
}

fn holds(op: CmpOp, a: i128, b: i128) -> bool {
    op.holds(a, b)
}
