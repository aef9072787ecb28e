//! Intervals of expressions over everything that the decisions in scope can be.

use super::super::candidates::Candidates;
use crate::graph::internal::{
    FxMap, Graph, Key, LazyData, NIL, NULL, Op, State, UNSET, Val, is_special, widen,
};
use crate::graph::{Cell, CmpOp, Fold, Template};

/// Values between two bounds, and perhaps NULL. `None` bounds mean: not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub low: Option<i128>,
    pub high: Option<i128>,
    pub null: bool,
}

const UNKNOWN: Range = Range {
    low: None,
    high: None,
    null: true,
};
const TRUTH: Range = Range {
    low: Some(0),
    high: Some(1),
    null: true,
};

fn exactly(value: Val) -> Range {
    if is_special(value) {
        UNKNOWN
    } else {
        Range {
            low: Some(value),
            high: Some(value),
            null: false,
        }
    }
}

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

pub(super) struct Intervals<'a> {
    graph: &'a Graph,
    state: &'a State,
    candidates: &'a Candidates,
    known: FxMap<u32, Range>,
    reaches: FxMap<(u32, u32, u32), Reach>,
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
        }
    }

    /// The least that a soft row can add to its tier; NULL adds 0.
    pub(super) fn least_term(&mut self, id: u32, weight: i64) -> Option<i128> {
        let range = self.range(id);
        let end = if weight > 0 { range.low } else { range.high }?;
        let least = end.checked_mul(i128::from(weight))?;
        Some(if range.null { least.min(0) } else { least })
    }

    /// The least that a soft policy over buckets can add to its tier.
    pub(super) fn least_lazy(&mut self, lazy: &LazyData, weight: i64) -> Option<i128> {
        let bag = &self.graph.bags.bag[lazy.bag.index()];
        let range = template_range(&lazy.template);
        let end = if weight > 0 { range.low } else { range.high }?;
        let each = end.checked_mul(i128::from(weight))?.min(0);
        each.checked_mul(i128::from(bag.row_count))
    }

    fn range(&mut self, id: u32) -> Range {
        if let Some(&range) = self.known.get(&id) {
            return range;
        }
        let range = self.compute(id);
        self.known.insert(id, range);
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
                if !self.candidates.is_free(var) {
                    return exactly(self.state.evaluate(self.graph, id));
                }
                let mut range = Range {
                    low: None,
                    high: None,
                    null: false,
                };
                for &value in self.candidates.of(var) {
                    let image = if value == UNSET {
                        NULL
                    } else {
                        widen(self.graph.image(map, value))
                    };
                    if image == NULL {
                        range.null = true;
                    } else {
                        range.low = Some(range.low.map_or(image, |low| low.min(image)));
                        range.high = Some(range.high.map_or(image, |high| high.max(image)));
                    }
                }
                range
            }
            Op::Neg => negated(self.range(node.a)),
            Op::Add => sum(self.range(node.a), self.range(node.b)),
            Op::Sub => {
                let b = negated(self.range(node.b));
                sum(self.range(node.a), b)
            }
            Op::Mul => product(self.range(node.a), self.range(node.b)),
            Op::Div => {
                let (a, b) = (self.range(node.a), self.range(node.b));
                match (b.low, b.high) {
                    (Some(divisor), Some(high)) if divisor == high && divisor > 0 => Range {
                        low: a.low.map(|low| low / divisor),
                        high: a.high.map(|high| high / divisor),
                        null: a.null || b.null,
                    },
                    (_, _) => UNKNOWN,
                }
            }
            Op::Rem => UNKNOWN,
            Op::Cmp(op) => {
                let (a, b) = (self.range(node.a), self.range(node.b));
                comparison(op, a, b)
            }
            Op::And | Op::Or | Op::Not | Op::IsNull | Op::InSet => TRUTH,
            Op::Ite => {
                let (a, b) = (self.range(node.b), self.range(node.c));
                let cond = self.range(node.a);
                if cond.low == Some(1) && !cond.null {
                    return a;
                }
                if cond.high == Some(0) {
                    return b;
                }
                // `case when x > y then x - y else 0 end` is never negative: look at the guard.
                let guarded = self.guarded_difference(id).unwrap_or(a);
                Range {
                    low: guarded.low.zip(b.low).map(|(a, b)| a.min(b)),
                    high: a.high.zip(b.high).map(|(a, b)| a.max(b)),
                    null: a.null || b.null,
                }
            }
            Op::Agg => {
                let agg = self.graph.nodes.aggs[node.a as usize];
                self.fold(agg.bag.0, agg.part, agg.key, agg.fold)
            }
        }
    }

    /// The range of `x - y` where the condition `x > y` (or `x >= y`, or the mirror images) guards it.
    fn guarded_difference(&mut self, id: u32) -> Option<Range> {
        let node = self.graph.nodes.get(id);
        let cond = self.graph.nodes.get(node.a);
        let then = self.graph.nodes.get(node.b);
        let Op::Cmp(op) = cond.op else { return None };
        if then.op != Op::Sub {
            return None;
        }
        let (x, y) = match op {
            CmpOp::Gt | CmpOp::Ge => (cond.a, cond.b),
            CmpOp::Lt | CmpOp::Le => (cond.b, cond.a),
            CmpOp::Eq | CmpOp::Ne => return None,
        };
        if (then.a, then.b) != (x, y) {
            return None;
        }
        let range = self.range(node.b);
        Some(Range {
            low: Some(range.low.unwrap_or(0).max(0)),
            ..range
        })
    }

    fn fold(&mut self, bag: u32, part: u32, key: u32, fold: Fold) -> Range {
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
            if here && !range.null {
                never_null = true;
                if let Some(low) = range.low {
                    sure = Some(sure.map_or(low, |sure| sure.max(low)));
                }
            }
        }
        let low = if never_null { sure } else { None };
        let range = Range {
            low,
            high: if all_known { far } else { None },
            null: !never_null,
        };
        if maximum { range } else { negated(range) }
    }

    pub(super) fn cell_range(&mut self, cell: Cell) -> Range {
        match cell {
            Cell::Const(constant) => exactly(constant.map_or(NULL, i128::from)),
            Cell::Expr(id) => self.range(id.0),
            Cell::Lookup { .. } => UNKNOWN,
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
            match (range.low, range.high) {
                (Some(low), Some(high)) => {
                    reach.low += low.min(0);
                    reach.high += high.max(0);
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

fn negated(a: Range) -> Range {
    Range {
        low: a.high.map(|high| -high),
        high: a.low.map(|low| -low),
        null: a.null,
    }
}

fn sum(a: Range, b: Range) -> Range {
    let add = |a: Option<i128>, b: Option<i128>| a.zip(b).and_then(|(a, b)| a.checked_add(b));
    Range {
        low: add(a.low, b.low),
        high: add(a.high, b.high),
        null: a.null || b.null,
    }
}

fn product(a: Range, b: Range) -> Range {
    let null = a.null || b.null;
    let (Some(al), Some(ah), Some(bl), Some(bh)) = (a.low, a.high, b.low, b.high) else {
        return Range {
            low: None,
            high: None,
            null,
        };
    };
    let corners: Option<Vec<i128>> = [(al, bl), (al, bh), (ah, bl), (ah, bh)]
        .iter()
        .map(|&(a, b)| a.checked_mul(b))
        .collect();
    match corners {
        None => Range {
            low: None,
            high: None,
            null,
        },
        Some(corners) => Range {
            low: corners.iter().copied().min(),
            high: corners.iter().copied().max(),
            null,
        },
    }
}

fn comparison(op: CmpOp, a: Range, b: Range) -> Range {
    let null = a.null || b.null;
    let (Some(al), Some(ah), Some(bl), Some(bh)) = (a.low, a.high, b.low, b.high) else {
        return Range { null, ..TRUTH };
    };
    let (always, never) = match op {
        CmpOp::Le => (ah <= bl, al > bh),
        CmpOp::Lt => (ah < bl, al >= bh),
        CmpOp::Ge => (al >= bh, ah < bl),
        CmpOp::Gt => (al > bh, ah <= bl),
        CmpOp::Eq => (al == ah && bl == bh && al == bl, ah < bl || bh < al),
        CmpOp::Ne => (ah < bl || bh < al, al == ah && bl == bh && al == bl),
    };
    Range {
        low: Some(i128::from(always)),
        high: Some(i128::from(!never)),
        null,
    }
}

/// The range of a template over any bucket.
fn template_range(template: &Template) -> Range {
    match template {
        Template::Const(constant) => exactly(constant.map_or(NULL, i128::from)),
        Template::Fold(Fold::CountRows | Fold::Count(_) | Fold::CountDistinct(_)) => Range {
            low: Some(0),
            high: None,
            null: false,
        },
        Template::Cmp(_, _, _)
        | Template::And(_)
        | Template::Or(_)
        | Template::Not(_)
        | Template::IsNull(_)
        | Template::InSet(_, _) => TRUTH,
        Template::Ite(cond, then, otherwise) => {
            let (mut a, b) = (template_range(then), template_range(otherwise));
            if let (Template::Cmp(CmpOp::Gt | CmpOp::Ge, x, y), Template::Sub(c, d)) =
                (cond.as_ref(), then.as_ref())
                && (x, y) == (c, d)
            {
                a.low = Some(0);
            }
            Range {
                low: a.low.zip(b.low).map(|(a, b)| a.min(b)),
                high: a.high.zip(b.high).map(|(a, b)| a.max(b)),
                null: a.null || b.null,
            }
        }
        Template::Fold(Fold::Sum(_) | Fold::Min(_) | Fold::Max(_))
        | Template::Part(_)
        | Template::Key(_)
        | Template::Div(_, _)
        | Template::Rem(_, _) => UNKNOWN,
        Template::Neg(a) => negated(template_range(a)),
        Template::Add(a, b) => sum(template_range(a), template_range(b)),
        Template::Sub(a, b) => sum(template_range(a), negated(template_range(b))),
        Template::Mul(a, b) => product(template_range(a), template_range(b)),
    }
}
