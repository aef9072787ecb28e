//! The cut bound: what must stand in a set of buckets because it can stand nowhere else.
//!
//! Order the buckets of a sum (the loads of the nodes) by how full they are, and take each prefix H. Every block of
//! decisions (a shard's replicas) has a least contribution to H: what is left of it when as much as its policies allow
//! stands outside. The sum of these is a load that H has to carry in every assignment, so its fullest bucket carries
//! at least what makes room for it. Where shards are domiciled in a region, the prefix that is the region gives
//! the bound that the average over the cluster misses by a fifth. Sound for any H: the order only decides how good.

use super::super::candidates::Candidates;
use super::interval::Intervals;
use super::prefix::{Apart, Prefix};
use crate::graph::internal::{FxMap, Graph, Key, NIL, NULL, Op, RootKind, State, is_special};
use crate::graph::{Cell, CmpOp, Fold, MapId, Template, VarId};
use crate::graph::{Plant, planted};

/// More buckets than this are not ordered into prefixes one by one.
const STEPS_MAX: usize = 20_000;

/// What is added up over the rows of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Weigh {
    /// A cell.
    Cell(u8),
    /// One for each row.
    Rows,
    /// One for each row whose cell is at least so much: of these a bucket takes a whole number.
    AtLeast(u8, i128),
}

impl Weigh {
    pub(super) fn of(fold: Fold) -> Option<Weigh> {
        match fold {
            Fold::Sum(cell) => Some(Weigh::Cell(cell)),
            Fold::CountRows => Some(Weigh::Rows),
            Fold::Count(_) | Fold::Min(_) | Fold::Max(_) | Fold::CountDistinct(_) => None,
        }
    }
}

/// `(factor × sum + offset) / divisor` of one bucket, truncated; increasing in the sum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) bag: u32,
    pub(super) part: u32,
    pub(super) key: u32,
    pub(super) weigh: Weigh,
    factor: i128,
    offset: i128,
    divisor: i128,
}

impl Form {
    /// The greatest sum at which the form is at most `limit`.
    pub(super) fn room(self, limit: i128) -> Option<i128> {
        // Truncation rounds towards 0: (x / d ≤ m) is x ≤ m·d + d − 1 for m ≥ 0, and x ≤ m·d below.
        let scaled = limit.checked_mul(self.divisor)?;
        let most = if limit >= 0 {
            scaled.checked_add(self.divisor - 1)?
        } else {
            scaled
        };
        Some(most.checked_sub(self.offset)?.div_euclid(self.factor))
    }
}

/// Blocks that are alike except for their weights.
pub(super) struct Class {
    pub(super) set: u32,
    pub(super) domain: usize,
    /// Members of each block.
    pub(super) count: usize,
    /// At most `.1` of a block on the values that share an entry of the column `.0`.
    pub(super) limits: Vec<(MapId, i64)>,
    /// `least[m]`: the sum over the blocks of their `m` lightest members.
    pub(super) least: Vec<i128>,
}

/// Classes by candidate set, members of a block, and limits.
type ClassIds = FxMap<(u32, usize, Vec<(MapId, i64)>), usize>;

/// A sum's decisions, as classes.
pub(super) struct Demand {
    pub(super) classes: Vec<Class>,
    pub(super) map: MapId,
}

/// What sums are made of, by bag, part and cell. It depends on the graph and the candidates alone, so a search that
/// asks for bounds again and again keeps it.
#[derive(Default)]
pub(crate) struct Demands(FxMap<Load, Option<std::rc::Rc<Demand>>>);

/// Bag, part, and what is added up.
pub(super) type Load = (u32, u32, Weigh);

pub(crate) struct Cuts<'a> {
    pub(super) graph: &'a Graph,
    pub(super) state: &'a State,
    pub(super) candidates: &'a Candidates,
    demands: &'a mut Demands,
    intervals: Intervals<'a>,
}

impl<'a> Cuts<'a> {
    pub(crate) fn new(
        graph: &'a Graph,
        state: &'a State,
        candidates: &'a Candidates,
        demands: &'a mut Demands,
    ) -> Cuts<'a> {
        Cuts {
            graph,
            state,
            candidates,
            demands,
            intervals: Intervals::new(graph, state, candidates),
        }
    }

    /// A lower bound of an expression that is a maximum of forms.
    pub(crate) fn expression(&mut self, id: u32) -> Option<i128> {
        let node = self.graph.nodes.get(id);
        if node.op != Op::Agg {
            return None;
        }
        let agg = self.graph.nodes.aggs[node.a as usize];
        let Fold::Max(cell) = agg.fold else {
            return None;
        };
        let bag = &self.graph.bags.bag[agg.bag.index()];
        let mut forms: Vec<Form> = Vec::new();
        for &row in bag.parts.get(agg.part as usize)? {
            let data = &self.graph.bags.rows[row as usize];
            if data.key != Key::Const(agg.key) || data.cond != NIL {
                continue;
            }
            if let Cell::Expr(id) = self.graph.bags.cells_of(row)[cell as usize] {
                forms.extend(self.form(id.0));
            }
        }
        let first = *forms.first()?;
        // One sum at a time; a maximum over several resources is bounded by each.
        forms.retain(|form| {
            (form.bag, form.part, form.weigh) == (first.bag, first.part, first.weigh)
        });
        self.maximum(&forms)
    }

    /// Recognises an increasing linear form of one bucket's sum.
    pub(super) fn form(&self, id: u32) -> Option<Form> {
        let node = self.graph.nodes.get(id);
        let constant = |id: u32| {
            self.graph
                .nodes
                .constant(id)
                .filter(|&value| !is_special(value))
        };
        match node.op {
            Op::Agg => {
                let agg = self.graph.nodes.aggs[node.a as usize];
                let weigh = Weigh::of(agg.fold)?;
                let (bag, part, key) = (agg.bag.0, agg.part, agg.key);
                Some(Form {
                    bag,
                    part,
                    key,
                    weigh,
                    factor: 1,
                    offset: 0,
                    divisor: 1,
                })
            }
            Op::Mul => {
                let (form, times) = match (constant(node.a), constant(node.b)) {
                    (Some(times), _) => (self.form(node.b)?, times),
                    (_, Some(times)) => (self.form(node.a)?, times),
                    (None, None) => return None,
                };
                (times > 0 && form.divisor == 1).then_some(Form {
                    factor: form.factor.checked_mul(times)?,
                    offset: form.offset.checked_mul(times)?,
                    ..form
                })
            }
            Op::Div => {
                let form = self.form(node.a)?;
                let divisor = constant(node.b)?;
                (divisor > 0 && form.divisor == 1).then_some(Form { divisor, ..form })
            }
            Op::Add | Op::Sub => {
                let form = self.form(node.a)?;
                let by = constant(node.b)?;
                let by = if node.op == Op::Add { by } else { -by };
                (form.divisor == 1).then_some(Form {
                    offset: form.offset.checked_add(by)?,
                    ..form
                })
            }
            // COALESCE(sum, 0): an empty bucket counts as 0, which is what a missing contribution is.
            Op::Ite => {
                let cond = self.graph.nodes.get(node.a);
                let tested = cond.op == Op::IsNull && constant(node.b) == Some(0);
                if tested && cond.a == node.c {
                    self.form(node.c)
                } else {
                    None
                }
            }
            Op::Const
            | Op::Lookup
            | Op::Neg
            | Op::Rem
            | Op::Cmp(_)
            | Op::And
            | Op::Or
            | Op::Not
            | Op::IsNull
            | Op::InSet
            | Op::Free => None,
        }
    }

    /// The least that the greatest of the forms can be.
    fn maximum(&mut self, forms: &[Form]) -> Option<i128> {
        let first = forms.first()?;
        let demand = self.demand((first.bag, first.part, first.weigh))?;
        let mut order: Vec<(i128, Form)> = forms
            .iter()
            .map(|&form| {
                let load = self.load((form.bag, form.part, form.weigh), form.key);
                let value = (load * form.factor + form.offset) / form.divisor;
                (value, form)
            })
            .collect();
        order.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.key.cmp(&b.1.key)));
        let incumbent = order.first()?.0;
        order.truncate(STEPS_MAX);
        let mut prefix = Prefix::new(self.graph, self.candidates, &demand);
        let mut best: Option<i128> = None;
        let mut inside: Vec<Form> = Vec::new();
        let mut uniform = true;
        for (_, form) in order {
            prefix.include(form.key);
            inside.push(form);
            uniform &= (form.factor, form.offset, form.divisor)
                == (first.factor, first.offset, first.divisor);
            let base = self.fixed((form.bag, form.part, form.weigh), form.key)?;
            prefix.fixed += base;
            let needed = prefix.needed(Apart::Known);
            if needed <= 0 {
                // Nothing has to stand here: the maximum may even be NULL.
                continue;
            }
            let fits = |limit: i128| -> Option<bool> {
                let room = if uniform {
                    first
                        .room(limit)?
                        .max(0)
                        .checked_mul(inside.len() as i128)?
                } else {
                    let mut room = 0_i128;
                    for form in &inside {
                        // An empty bucket carries nothing, whatever its form says.
                        room = room.checked_add(form.room(limit)?.max(0))?;
                    }
                    room
                };
                Some(room >= needed)
            };
            // Nothing above the incumbent can be a bound; nothing below the best so far is interesting.
            let floor = match best {
                Some(best) => best,
                None => {
                    let mut span = 1_i128;
                    let mut low = incumbent;
                    while fits(low)? {
                        low = low.checked_sub(span)?;
                        span = span.checked_mul(2)?;
                        if span > 1 << 100 {
                            return None;
                        }
                    }
                    low
                }
            };
            if fits(floor)? {
                continue;
            }
            let (mut low, mut high) = (floor, incumbent.max(floor + 1));
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                if fits(middle)? {
                    high = middle
                } else {
                    low = middle
                }
            }
            let high = if planted(Plant::BoldCut) {
                high + 1
            } else {
                high
            };
            best = Some(best.map_or(high, |best| best.max(high)));
        }
        best
    }

    /// What a bucket carries now; not known of what is only counted from a threshold on.
    pub(super) fn load(&self, (bag, part, weigh): Load, key: u32) -> i128 {
        let fold = match weigh {
            Weigh::Cell(cell) => Fold::Sum(cell),
            Weigh::Rows => Fold::CountRows,
            Weigh::AtLeast(_, _) => return 0,
        };
        let sum = self.state.fold(self.graph, bag, part, key, fold);
        if sum == NULL || is_special(sum) {
            0
        } else {
            sum
        }
    }

    /// What stays in a bucket whatever is decided.
    pub(super) fn fixed(&mut self, (bag, part, weigh): Load, key: u32) -> Option<i128> {
        match weigh {
            Weigh::Cell(cell) => self.intervals.fixed_sum(bag, part, key, cell),
            Weigh::Rows => self.intervals.fold(bag, part, key, Fold::CountRows).low,
            // At least nothing.
            Weigh::AtLeast(_, _) => Some(0),
        }
    }

    /// The decisions that a sum over buckets is made of. `None` where a cut would not be sound.
    pub(super) fn demand(&mut self, load: Load) -> Option<std::rc::Rc<Demand>> {
        if let Some(demand) = self.demands.0.get(&load) {
            return demand.clone();
        }
        let demand = self.collect(load).map(std::rc::Rc::new);
        self.demands.0.insert(load, demand.clone());
        demand
    }

    fn weight(&self, row: u32, weigh: Weigh) -> Option<i128> {
        let cell = |cell: u8| match self.graph.bags.cells_of(row)[cell as usize] {
            Cell::Const(weight) => Some(i128::from(weight.unwrap_or(0))),
            Cell::Lookup { .. } | Cell::Expr(_) => None,
        };
        match weigh {
            Weigh::Cell(index) => cell(index),
            Weigh::Rows => Some(1),
            Weigh::AtLeast(index, least) => Some(i128::from(cell(index)? >= least)),
        }
    }

    fn collect(&self, (bag, part, weigh): Load) -> Option<Demand> {
        let graph = self.graph;
        if graph.bags.bag[bag as usize].expr_rows > 0 {
            return None;
        }
        let mut map: Option<MapId> = None;
        // Members in scope of each block, in the order of their blocks.
        let mut members: Vec<(u32, VarId, i128)> = Vec::new();
        for &var in &self.candidates.vars {
            for row in graph.bags.rows_of(var) {
                let data = &graph.bags.rows[row as usize];
                if data.bag != bag || data.part != part {
                    continue;
                }
                let Key::Of(own, by) = data.key else {
                    return None;
                };
                let weight = self.weight(row, weigh)?;
                if own != var || weight < 0 || *map.get_or_insert(by) != by {
                    return None;
                }
                members.push((graph.vars.block[var.index()], var, weight));
            }
        }
        let map = map?;
        members.sort_by_key(|&(block, var, _)| (block, var));
        let mut classes: Vec<Class> = Vec::new();
        let mut ids = ClassIds::default();
        let mut at = 0;
        while at < members.len() {
            let block = members[at].0;
            let mut end = at;
            while end < members.len() && members[end].0 == block {
                end += 1;
            }
            let group = &members[at..end];
            at = end;
            let set = self.candidates.set_id(group[0].1);
            let alike = group
                .iter()
                .all(|&(_, var, _)| self.candidates.set_id(var) == set)
                && group.windows(2).all(|pair| pair[0].1 != pair[1].1);
            if alike {
                let vars: Vec<VarId> = group.iter().map(|&(_, var, _)| var).collect();
                let limits = block_limits(graph, &vars);
                let mut weights: Vec<i128> = group.iter().map(|&(_, _, weight)| weight).collect();
                weights.sort_unstable();
                add_block(
                    graph,
                    &mut classes,
                    &mut ids,
                    (set, limits, group[0].1),
                    &weights,
                );
            } else {
                for &(_, var, weight) in group {
                    let set = self.candidates.set_id(var);
                    add_block(
                        graph,
                        &mut classes,
                        &mut ids,
                        (set, Vec::new(), var),
                        &[weight],
                    );
                }
            }
        }
        Some(Demand { classes, map })
    }
}

/// The policies that keep members of a block apart: at most so many per entry of a column.
pub(crate) fn block_limits(graph: &Graph, vars: &[VarId]) -> Vec<(MapId, i64)> {
    let mut limits = Vec::new();
    for row in graph.bags.rows_of(vars[0]) {
        let data = &graph.bags.rows[row as usize];
        let bag = &graph.bags.bag[data.bag as usize];
        let Key::Of(_, map) = data.key else { continue };
        for lazy in &bag.lazies {
            let spec = &graph.bags.lazies[lazy.index()];
            let Some(most) = at_most(
                &spec.template,
                bag.part_constants
                    .get(data.part as usize)
                    .map(|constants| &**constants),
            ) else {
                continue;
            };
            let all_in = spec.kind == RootKind::Hard
                && vars.iter().all(|&var| {
                    graph.bags.rows_of(var).any(|row| {
                        let other = &graph.bags.rows[row as usize];
                        other.bag == data.bag
                            && other.part == data.part
                            && other.key == Key::Of(var, map)
                            && other.cond == NIL
                    })
                });
            if all_in {
                limits.push((map, most));
            }
        }
    }
    limits.sort_unstable();
    limits.dedup();
    limits
}

/// The limit of `count(*) <= constant`.
pub(super) fn at_most(template: &Template, part: Option<&[i64]>) -> Option<i64> {
    let Template::Cmp(op, a, b) = template else {
        return None;
    };
    if **a != Template::Fold(Fold::CountRows) {
        return None;
    }
    let limit = match **b {
        Template::Const(limit) => limit?,
        Template::Part(index) => *part?.get(index as usize)?,
        _ => return None,
    };
    match op {
        CmpOp::Le => Some(limit.max(0)),
        CmpOp::Lt => Some((limit - 1).max(0)),
        CmpOp::Eq | CmpOp::Ne | CmpOp::Gt | CmpOp::Ge => None,
    }
}

fn add_block(
    graph: &Graph,
    classes: &mut Vec<Class>,
    ids: &mut ClassIds,
    (set, limits, var): (u32, Vec<(MapId, i64)>, VarId),
    weights: &[i128],
) {
    let count = weights.len();
    let class = *ids.entry((set, count, limits.clone())).or_insert_with(|| {
        let domain = graph.vars.domain[var.index()].index();
        classes.push(Class {
            set,
            domain,
            count,
            limits,
            least: vec![0; count + 1],
        });
        classes.len() - 1
    });
    let mut sum = 0;
    for (index, weight) in weights.iter().enumerate() {
        sum += weight;
        classes[class].least[index + 1] += sum;
    }
}
