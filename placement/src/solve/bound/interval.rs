//! Intervals of expressions over everything that the decisions in scope can be.

use super::super::candidates::Candidates;
use super::range::{
    Guard, NOTHING, Range, TRUTH, UNKNOWN, comparison, constants, exactly, negated, product,
    quotient, remainder, sum,
};
use crate::graph::internal::{
    FxMap, Graph, Key, NIL, NULL, Op, State, UNSET, bucket_constant, is_special, widen,
};
use crate::graph::{Cell, Fold, MapId, Template, VarId};

/// As many rows as there can be of less than this add up without overflow.
const SUMMABLE: i128 = 1 << 90;

/// What the free rows of a part can add up to in any one bucket.
#[derive(Clone, Debug, Default)]
struct Reach {
    rows: i128,
    low: i128,
    high: i128,
    known: bool,
    /// What they add to each bucket at present.
    present: FxMap<u32, i128>,
    /// How many of them bring a value to each bucket at present.
    counted: FxMap<u32, i128>,
}

/// Where a template is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// On a bucket of which nothing is known, not even its constants.
    Unknown,
    Anywhere,
    /// A part and a key.
    Bucket(u32, u32),
}

pub(super) struct Intervals<'a> {
    pub(super) graph: &'a Graph,
    pub(super) state: &'a State,
    pub(super) candidates: &'a Candidates,
    known: FxMap<u32, Range>,
    reaches: FxMap<(u32, u32, u32), Reach>,
    over: FxMap<(u32, u8), OverRows>,
}

/// What one cell of a bag can be, and what any of its rows can add up to.
#[derive(Clone, Copy, Debug)]
struct OverRows {
    each: Range,
    sum_low: Option<i128>,
    sum_high: Option<i128>,
}

impl<'a> Intervals<'a> {
    pub(super) fn new(
        graph: &'a Graph,
        state: &'a State,
        candidates: &'a Candidates,
    ) -> Intervals<'a> {
        Intervals {
            graph,
            state,
            candidates,
            known: FxMap::default(),
            reaches: FxMap::default(),
            over: FxMap::default(),
        }
    }

    /// The least that a soft row can add to its tier; NULL adds 0.
    pub(super) fn least_term(&mut self, id: u32, weight: i64) -> Option<i128> {
        let range = self.range(id);
        if range.is_nothing() {
            return Some(0);
        }
        let end = if weight > 0 { range.low } else { range.high }?;
        let least = end.checked_mul(i128::from(weight))?;
        Some(if range.null { least.min(0) } else { least })
    }

    fn range(&mut self, id: u32) -> Range {
        if let Some(&range) = self.known.get(&id) {
            return range;
        }
        let range = self.compute(id);
        self.known.insert(id, range);
        range
    }

    /// What a column can be at a decision's values.
    fn image_range(&self, var: VarId, map: MapId) -> Range {
        let image = |value: u32| match value {
            UNSET => NULL,
            value => widen(self.graph.image(map, value)),
        };
        if !self.candidates.is_free(var) {
            return exactly(image(self.state.assignment[var.index()]));
        }
        let mut range = Range {
            low: None,
            high: None,
            null: false,
        };
        for &value in self.candidates.of(var) {
            match image(value) {
                NULL => range.null = true,
                image => {
                    range.low = Some(range.low.map_or(image, |low| low.min(image)));
                    range.high = Some(range.high.map_or(image, |high| high.max(image)));
                }
            }
        }
        range
    }

    fn compute(&mut self, id: u32) -> Range {
        let node = self.graph.nodes.get(id);
        match node.op {
            Op::Const => exactly(self.graph.nodes.constant(id).unwrap_or(NULL)),
            Op::Free => UNKNOWN,
            Op::Lookup => {
                let Some((var, map)) = self.graph.nodes.lookup(id) else {
                    return UNKNOWN;
                };
                self.image_range(var, map)
            }
            Op::Neg => negated(self.range(node.a)),
            Op::Add => sum(self.range(node.a), self.range(node.b)),
            Op::Sub => {
                let b = negated(self.range(node.b));
                let range = sum(self.range(node.a), b);
                if self.is_spread(node.a, node.b) {
                    let low = Some(range.low.unwrap_or(0).max(0));
                    return Range { low, ..range };
                }
                range
            }
            Op::Mul => product(self.range(node.a), self.range(node.b)),
            Op::Div => quotient(self.range(node.a), self.range(node.b)),
            Op::Rem => remainder(self.range(node.a), self.range(node.b)),
            Op::Cmp(op) => {
                let (a, b) = (self.range(node.a), self.range(node.b));
                comparison(op, a, b)
            }
            Op::IsNull => Range {
                high: Some(i128::from(self.range(node.a).null)),
                null: false,
                ..TRUTH
            },
            Op::And | Op::Or | Op::Not | Op::InSet => TRUTH,
            Op::Ite => {
                let (a, b) = (self.range(node.b), self.range(node.c));
                let cond = self.range(node.a);
                if cond.low == Some(1) && !cond.null {
                    return a;
                }
                if cond.high == Some(0) {
                    return b;
                }
                self.guard(id).chosen(a, b)
            }
            Op::Agg => {
                let agg = self.graph.nodes.aggs[node.a as usize];
                self.fold(agg.bag.0, agg.part, agg.key, agg.fold)
            }
        }
    }

    /// Whether `a - b` is a maximum less the minimum of the same rows.
    fn is_spread(&self, a: u32, b: u32) -> bool {
        let (a, b) = (self.graph.nodes.get(a), self.graph.nodes.get(b));
        if a.op != Op::Agg || b.op != Op::Agg {
            return false;
        }
        let aggs = &self.graph.nodes.aggs;
        let (a, b) = (aggs[a.a as usize], aggs[b.a as usize]);
        let (Fold::Max(of), Fold::Min(and)) = (a.fold, b.fold) else {
            return false;
        };
        (a.bag, a.part, a.key, of) == (b.bag, b.part, b.key, and)
    }

    /// What the condition of a choice says of what is chosen.
    fn guard(&self, id: u32) -> Guard {
        let node = self.graph.nodes.get(id);
        let test = self.graph.nodes.get(node.a);
        let then = self.graph.nodes.get(node.b);
        match test.op {
            Op::IsNull if test.a == node.c => Guard::NotNull,
            Op::Cmp(op) => {
                let is_zero = self.graph.nodes.constant(test.b) == Some(0);
                let difference = (then.op == Op::Sub).then_some((then.a, then.b));
                let (x, y) = (test.a, test.b);
                Guard::of(op, (x, y), (node.b, node.c), difference, is_zero)
            }
            _ => Guard::Nothing,
        }
    }

    pub(super) fn fold(&mut self, bag: u32, part: u32, key: u32, fold: Fold) -> Range {
        let graph = self.graph;
        match fold {
            Fold::CountRows | Fold::Count(_) | Fold::CountDistinct(_) => {
                let present = self.state.fold(graph, bag, part, key, Fold::CountRows);
                let reach = self.reach(bag, part, None);
                let sure = present - reach.present.get(&key).copied().unwrap_or(0);
                Range {
                    low: Some(if fold == Fold::CountRows { sure } else { 0 }),
                    high: Some(sure + reach.rows),
                    null: false,
                }
            }
            Fold::Sum(cell) => {
                let reach = self.reach(bag, part, Some(cell));
                let (low, high) = (reach.low, reach.high);
                let moving = reach.counted.get(&key).copied().unwrap_or(0);
                if !reach.known {
                    return UNKNOWN;
                }
                let base = self.fixed_sum(bag, part, key, cell);
                match base {
                    Some(base) => {
                        // A row that stays keeps the sum from being NULL.
                        let counted = self.state.fold(graph, bag, part, key, Fold::Count(cell));
                        Range {
                            low: Some(base + low),
                            high: Some(base + high),
                            null: counted <= moving,
                        }
                    }
                    None => UNKNOWN,
                }
            }
            Fold::Max(cell) | Fold::Min(cell) => self.extremum(bag, part, key, cell, fold),
        }
    }

    fn extremum(&mut self, bag: u32, part: u32, key: u32, cell: u8, fold: Fold) -> Range {
        let graph = self.graph;
        let data = &graph.bags.bag[bag as usize];
        let Some(rows) = data.parts.get(part as usize) else {
            return UNKNOWN;
        };
        let maximum = matches!(fold, Fold::Max(_));
        // A row that is there for sure bounds the extremum from one side; all that may be there, from the other.
        let (mut sure, mut far): (Option<i128>, Option<i128>) = (None, None);
        let (mut all_known, mut never_null) = (true, false);
        // What is there at all is at least the least of all.
        let (mut near, mut near_known): (Option<i128>, bool) = (None, true);
        for &row in rows {
            let info = &graph.bags.rows[row as usize];
            let here = match info.key {
                Key::Const(own) if own != key => continue,
                Key::Const(_) => info.cond == NIL,
                Key::Of(_, _) | Key::Expr(_) => false,
            };
            let range = self.cell_range(graph.bags.cells_of(row)[cell as usize]);
            let range = if maximum { range } else { negated(range) };
            match range.high {
                Some(high) => far = Some(far.map_or(high, |far| far.max(high))),
                None => all_known = false,
            }
            match range.low {
                Some(low) => near = Some(near.map_or(low, |near| near.min(low))),
                None => near_known = false,
            }
            if here && !range.null {
                never_null = true;
                if let Some(low) = range.low {
                    sure = Some(sure.map_or(low, |sure| sure.max(low)));
                }
            }
        }
        let near = near.filter(|_| near_known);
        let range = Range {
            low: sure.max(near),
            high: if all_known { far } else { None },
            null: !never_null,
        };
        if maximum { range } else { negated(range) }
    }

    /// The range of a template over one bucket of its bag, or over any.
    pub(super) fn template(&mut self, bag: u32, at: At, template: &Template) -> Range {
        let entry = &self.graph.bags.bag[bag as usize];
        match template {
            Template::Const(constant) => exactly(constant.map_or(NULL, i128::from)),
            Template::Fold(fold) => match (at, fold) {
                // Which rows give an extremum would be asked of all rows, for each bucket.
                (At::Bucket(part, key), Fold::CountRows | Fold::Count(_))
                | (At::Bucket(part, key), Fold::CountDistinct(_) | Fold::Sum(_)) => {
                    self.fold(bag, part, key, *fold)
                }
                (At::Unknown, _) => UNKNOWN,
                (At::Anywhere | At::Bucket(_, _), fold) => self.anywhere(bag, *fold),
            },
            Template::Part(index) => match at {
                At::Bucket(part, _) => exactly(bucket_constant(entry.part_constant(part, *index))),
                At::Anywhere => constants(&entry.part_constants, *index),
                At::Unknown => UNKNOWN,
            },
            Template::Key(index) => match at {
                At::Bucket(_, key) => exactly(bucket_constant(entry.key_constant(key, *index))),
                At::Anywhere => constants(&entry.key_constants, *index),
                At::Unknown => UNKNOWN,
            },
            Template::Cmp(op, a, b) => {
                comparison(*op, self.template(bag, at, a), self.template(bag, at, b))
            }
            Template::And(_) | Template::Or(_) | Template::Not(_) | Template::InSet(_, _) => TRUTH,
            Template::IsNull(a) => Range {
                high: Some(i128::from(self.template(bag, at, a).null)),
                null: false,
                ..TRUTH
            },
            Template::Ite(cond, a, b) => {
                let guard = match (&**cond, &**a) {
                    (Template::IsNull(tested), _) if tested == b => Guard::NotNull,
                    (Template::Cmp(op, x, y), then) => {
                        let difference = match then {
                            Template::Sub(x, y) => Some((&**x, &**y)),
                            _ => None,
                        };
                        let is_zero = **y == Template::Const(Some(0));
                        Guard::of(*op, (&**x, &**y), (then, &**b), difference, is_zero)
                    }
                    (_, _) => Guard::Nothing,
                };
                guard.chosen(self.template(bag, at, a), self.template(bag, at, b))
            }
            Template::Neg(a) => negated(self.template(bag, at, a)),
            Template::Add(a, b) => sum(self.template(bag, at, a), self.template(bag, at, b)),
            Template::Sub(a, b) => sum(
                self.template(bag, at, a),
                negated(self.template(bag, at, b)),
            ),
            Template::Mul(a, b) => product(self.template(bag, at, a), self.template(bag, at, b)),
            Template::Div(a, b) => quotient(self.template(bag, at, a), self.template(bag, at, b)),
            Template::Rem(a, b) => remainder(self.template(bag, at, a), self.template(bag, at, b)),
        }
    }

    /// The range of a fold over any bucket of its bag.
    fn anywhere(&mut self, bag: u32, fold: Fold) -> Range {
        match fold {
            Fold::CountRows | Fold::Count(_) | Fold::CountDistinct(_) => Range {
                low: Some(0),
                high: Some(i128::from(self.graph.bags.bag[bag as usize].row_count)),
                null: false,
            },
            Fold::Sum(cell) => {
                let over = self.over_rows(bag, cell);
                Range {
                    low: over.sum_low,
                    high: over.sum_high,
                    null: true,
                }
            }
            Fold::Min(cell) | Fold::Max(cell) => Range {
                null: true,
                ..self.over_rows(bag, cell).each
            },
        }
    }

    /// A cell over all rows of a bag, wherever they fall.
    fn over_rows(&mut self, bag: u32, cell: u8) -> OverRows {
        if let Some(&over) = self.over.get(&(bag, cell)) {
            return over;
        }
        let graph = self.graph;
        let mut over = OverRows {
            each: NOTHING,
            sum_low: Some(0),
            sum_high: Some(0),
        };
        let add =
            |sum: Option<i128>, by: Option<i128>| sum.zip(by).and_then(|(a, b)| a.checked_add(b));
        for &row in graph.bags.bag[bag as usize].parts.iter().flatten() {
            let range = self.cell_range(graph.bags.cells_of(row)[cell as usize]);
            over.each = Guard::Nothing.chosen(over.each, range);
            over.sum_low = add(over.sum_low, range.low.map(|low| low.min(0)));
            over.sum_high = add(over.sum_high, range.high.map(|high| high.max(0)));
        }
        self.over.insert((bag, cell), over);
        over
    }

    pub(super) fn cell_range(&mut self, cell: Cell) -> Range {
        match cell {
            Cell::Const(constant) => exactly(constant.map_or(NULL, i128::from)),
            Cell::Expr(id) => self.range(id.0),
            Cell::Lookup { var, map, times } => {
                let times = exactly(i128::from(times));
                product(self.image_range(var, map), times)
            }
        }
    }

    /// What the rows of a part that decisions move can add to one bucket, and what they add now.
    fn reach(&mut self, bag: u32, part: u32, cell: Option<u8>) -> &Reach {
        let name = (bag, part, cell.map_or(NIL, u32::from));
        if !self.reaches.contains_key(&name) {
            let reach = self.measure(bag, part, cell);
            self.reaches.insert(name, reach);
        }
        &self.reaches[&name]
    }

    fn measure(&mut self, bag: u32, part: u32, cell: Option<u8>) -> Reach {
        let graph = self.graph;
        let data = &graph.bags.bag[bag as usize];
        let mut reach = Reach {
            known: true,
            ..Reach::default()
        };
        let Some(rows) = data.parts.get(part as usize) else {
            return reach;
        };
        let scoped = data.expr_rows == 0 && self.candidates.vars.len() * 4 < rows.len();
        let moving: Vec<u32> = if scoped {
            // Few decisions in a large cluster: do not look at everybody else's rows.
            let vars = self.candidates.vars.iter();
            let mut moving: Vec<u32> = vars
                .flat_map(|&var| graph.bags.rows_of(var))
                .filter(|&row| {
                    let row = &graph.bags.rows[row as usize];
                    row.bag == bag && row.part == part
                })
                .collect();
            moving.sort_unstable();
            moving.dedup();
            moving
        } else {
            rows.iter()
                .copied()
                .filter(|&row| !self.is_fixed(row))
                .collect()
        };
        for row in moving {
            reach.rows += 1;
            let here = self.state.row_key(graph, row);
            let Some(cell) = cell else {
                if let Some(key) = here {
                    *reach.present.entry(key).or_insert(0) += 1;
                }
                continue;
            };
            let cell = graph.bags.cells_of(row)[cell as usize];
            let range = self.cell_range(cell);
            let (low, high) = (
                range.low.map(|low| low.min(0)),
                range.high.map(|high| high.max(0)),
            );
            match (low, high) {
                (Some(low), Some(high)) if low > -SUMMABLE && high < SUMMABLE => {
                    reach.low += low;
                    reach.high += high;
                }
                (_, _) => reach.known = false,
            }
            let value = self.state.cell(graph, cell);
            if let (Some(key), false) = (here, value == NULL) {
                *reach.present.entry(key).or_insert(0) += value;
                *reach.counted.entry(key).or_insert(0) += 1;
            }
        }
        reach
    }

    /// Whether a row stays where it is with the cells that it has.
    fn is_fixed(&self, row: u32) -> bool {
        let graph = self.graph;
        let data = &graph.bags.rows[row as usize];
        let free = |var| self.candidates.is_free(var);
        let key = match data.key {
            Key::Of(var, _) => free(var),
            Key::Const(_) => false,
            Key::Expr(_) => true,
        };
        !key && data.cond == NIL
            && graph.bags.cells_of(row).iter().all(|cell| match *cell {
                Cell::Const(_) => true,
                Cell::Lookup { var, .. } => !free(var),
                Cell::Expr(_) => false,
            })
    }

    /// The sum of the rows that stay; `None` when the bucket holds something that has no sum.
    pub(super) fn fixed_sum(&mut self, bag: u32, part: u32, key: u32, cell: u8) -> Option<i128> {
        let graph = self.graph;
        let present = self.state.fold(graph, bag, part, key, Fold::Sum(cell));
        let present = if present == NULL { 0 } else { present };
        let moving = self
            .reach(bag, part, Some(cell))
            .present
            .get(&key)
            .copied()
            .unwrap_or(0);
        if is_special(present) {
            None
        } else {
            Some(present - moving)
        }
    }
}
