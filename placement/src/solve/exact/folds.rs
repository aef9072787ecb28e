//! Buckets as constraints: who is in, and what that adds up to.

use std::collections::{BTreeMap, BTreeSet};

use pumpkin_solver::core::variables::Literal;

use super::encode::{Code, Encoder, Number};
use super::linear::{Linear, TooWide};
use super::touched::{cell_reaches, possible_keys};
use crate::graph::internal::{Key, Layout, NIL, RootKind, UNSET, Val, widen};
use crate::graph::value::{self, NULL};
use crate::graph::{Cell, Fold};

/// A COUNT DISTINCT over expressions looks at every value between the bounds.
const DISTINCT_MAX: i128 = 512;

/// A row that can be in the bucket: when it is, and what it brings.
struct Entry {
    inside: Literal,
    cell: Number,
}

impl Encoder<'_> {
    /// A fold of a bucket.
    pub(super) fn fold(
        &mut self,
        bag: u32,
        part: u32,
        key: u32,
        fold: Fold,
    ) -> Result<Code, TooWide> {
        let (fixed, free) = self.split(bag, part, key);
        let entries = self.entries(&free, key, fold)?;
        // Of the rows that are sure to stay, only their sum and number matter.
        let mut sum = Linear::constant(0);
        let mut sure = 0;
        let mut fixed_cells: Vec<Val> = Vec::new();
        match fixed {
            Fixed::Counted {
                rows,
                sum: total,
                some,
            } => {
                sum = Linear::constant(match fold {
                    Fold::CountRows => rows,
                    Fold::Count(_) => some,
                    Fold::Sum(_) => total,
                    Fold::Min(_) | Fold::Max(_) | Fold::CountDistinct(_) => 0,
                });
                sure = some;
            }
            Fixed::Rows(rows) => {
                for row in rows {
                    let cell = match fold {
                        Fold::CountRows => 1,
                        Fold::Count(cell)
                        | Fold::Sum(cell)
                        | Fold::Min(cell)
                        | Fold::Max(cell)
                        | Fold::CountDistinct(cell) => {
                            let cell = self.graph.bags.cells_of(row)[cell as usize];
                            self.state.cell(self.graph, cell)
                        }
                    };
                    if cell == value::OVERFLOW {
                        return Err(TooWide);
                    }
                    if cell != NULL {
                        fixed_cells.push(cell);
                        sure += 1;
                        sum.constant += match fold {
                            Fold::Sum(_) => cell,
                            Fold::CountRows
                            | Fold::Count(_)
                            | Fold::Min(_)
                            | Fold::Max(_)
                            | Fold::CountDistinct(_) => 1,
                        };
                    }
                }
            }
        }
        let mut bringing = Vec::with_capacity(entries.len());
        for entry in &entries {
            bringing.push(self.gate.both(entry.inside, !entry.cell.null));
        }
        let never = self.gate.falsehood();
        match fold {
            Fold::CountRows => {
                for entry in &entries {
                    sum.add(&Linear::literal(entry.inside), 1)?;
                }
                Ok(Code::Number(Number {
                    linear: sum,
                    null: never,
                }))
            }
            Fold::Count(_) => {
                for &literal in &bringing {
                    sum.add(&Linear::literal(literal), 1)?;
                }
                Ok(Code::Number(Number {
                    linear: sum,
                    null: never,
                }))
            }
            Fold::Sum(_) => {
                for (entry, &literal) in entries.iter().zip(&bringing) {
                    let term = self.gated(literal, &entry.cell.linear)?;
                    sum.add(&term, 1)?;
                }
                let null = self.none_of(&bringing, sure);
                Ok(Code::Number(Number { linear: sum, null }))
            }
            Fold::Min(_) | Fold::Max(_) => {
                let null = self.none_of(&bringing, sure);
                let maximum = matches!(fold, Fold::Max(_));
                let linear = self.extremum(&entries, &bringing, &fixed_cells, null, maximum)?;
                Ok(Code::Number(Number { linear, null }))
            }
            Fold::CountDistinct(_) => {
                let linear = self.distinct(&entries, &bringing, fixed_cells)?;
                Ok(Code::Number(Number {
                    linear,
                    null: never,
                }))
            }
        }
    }

    /// True exactly when no row brings a value.
    fn none_of(&mut self, bringing: &[Literal], sure: i128) -> Literal {
        if sure > 0 {
            return self.gate.falsehood();
        }
        let negated: Vec<Literal> = bringing.iter().map(|&literal| !literal).collect();
        self.gate.all_of(&negated)
    }

    /// `linear` where the literal is true, else 0.
    pub(super) fn gated(&mut self, when: Literal, linear: &Linear) -> Result<Linear, TooWide> {
        if when == self.gate.falsehood() {
            return Ok(Linear::constant(0));
        }
        if when == self.gate.truth() {
            return Ok(linear.clone());
        }
        if linear.is_constant() {
            return Linear::literal(when).scaled(linear.constant);
        }
        let (low, high) = linear.range()?;
        let (low, high) = (low.min(0), high.max(0));
        let own = Linear::of(self.gate.bounded(low, high)?, low, high);
        let mut difference = own.clone();
        difference.add(linear, -1)?;
        self.gate.equal_if(when, &difference, 0)?;
        self.gate.equal_if(!when, &own, 0)?;
        Ok(own)
    }

    fn extremum(
        &mut self,
        entries: &[Entry],
        bringing: &[Literal],
        fixed: &[Val],
        null: Literal,
        maximum: bool,
    ) -> Result<Linear, TooWide> {
        let sign = if maximum { 1 } else { -1 };
        let mut cells: Vec<(Literal, Linear)> = Vec::new();
        for (entry, &literal) in entries.iter().zip(bringing) {
            cells.push((literal, entry.cell.linear.scaled(sign)?));
        }
        if let Some(best) = fixed.iter().map(|&cell| cell * sign).max() {
            cells.push((self.gate.truth(), Linear::constant(best)));
        }
        let (mut low, mut high) = (i128::MAX, i128::MIN);
        for (_, cell) in &cells {
            let range = cell.range()?;
            low = low.min(range.0);
            high = high.max(range.1);
        }
        if cells.is_empty() {
            return Ok(Linear::constant(0));
        }
        let own = Linear::of(self.gate.bounded(low, high)?, low, high);
        let mut reached = vec![null];
        for (inside, cell) in cells {
            let mut below = cell;
            below.add(&own, -1)?;
            self.gate.at_most_if(inside, &below, 0)?;
            let meets = self.gate.equal_literal(&below, 0)?;
            reached.push(self.gate.both(inside, meets));
        }
        self.gate.any(&reached);
        // A NULL has one code, or equal assignments would be counted as different ones.
        self.gate.equal_if(null, &own, low)?;
        own.scaled(sign)
    }

    fn distinct(
        &mut self,
        entries: &[Entry],
        bringing: &[Literal],
        fixed: Vec<Val>,
    ) -> Result<Linear, TooWide> {
        let sure: BTreeSet<Val> = fixed.into_iter().collect();
        let mut who: BTreeMap<Val, Vec<Literal>> = BTreeMap::new();
        for (entry, &inside) in entries.iter().zip(bringing) {
            let (low, high) = entry.cell.linear.range()?;
            if high - low > DISTINCT_MAX {
                return Err(TooWide);
            }
            for value in low..=high {
                if sure.contains(&value) {
                    continue;
                }
                let equal = self.gate.equal_literal(&entry.cell.linear, value)?;
                let here = self.gate.both(equal, inside);
                if here != self.gate.falsehood() {
                    who.entry(value).or_default().push(here);
                }
            }
        }
        let mut sum = Linear::constant(sure.len() as i128);
        for (_, literals) in who {
            let any = self.gate.one_of(&literals);
            sum.add(&Linear::literal(any), 1)?;
        }
        Ok(sum)
    }

    /// The rows of a part: those that cannot change, and those that can.
    fn split(&self, bag: u32, part: u32, key: u32) -> (Fixed, Vec<u32>) {
        let free: Vec<u32> = self
            .graph
            .bags
            .bag
            .get(bag as usize)
            .and_then(|bag| bag.parts.get(part as usize))
            .map_or_else(Vec::new, |rows| {
                if rows.len() <= self.touched.rows.len() {
                    rows.iter()
                        .copied()
                        .filter(|row| self.touched.rows.contains(row))
                        .collect()
                } else {
                    let touched = self.touched.rows.iter().copied();
                    touched
                        .filter(|&row| {
                            let data = &self.graph.bags.rows[row as usize];
                            data.bag == bag && data.part == part
                        })
                        .collect()
                }
            });
        let data = &self.graph.bags.bag[bag as usize];
        let Some(rows) = data.parts.get(part as usize) else {
            return (Fixed::Rows(Vec::new()), free);
        };
        if free.len() == rows.len() {
            return (Fixed::Rows(Vec::new()), free);
        }
        let extremes = data.needs.iter().any(|needs| needs.order || needs.distinct);
        if data.layout != Layout::Scan && !extremes && usize::from(data.cells) == 1 {
            // Take the rows that can change out of what the state has summed.
            let fold = |fold| self.state.fold(self.graph, bag, part, key, fold);
            let mut rows = fold(Fold::CountRows);
            let summed = data.needs[0].sum;
            let mut sum = if summed {
                fold(Fold::Sum(0)).max(NULL + 2)
            } else {
                0
            };
            if summed && fold(Fold::Sum(0)) == NULL {
                sum = 0;
            }
            let mut some = if summed { fold(Fold::Count(0)) } else { rows };
            for &row in &free {
                if self.state.row_key(self.graph, row) == Some(key) {
                    rows -= 1;
                    let cell = self.graph.bags.cells_of(row)[0];
                    let cell = self.state.cell(self.graph, cell);
                    if !summed {
                        some -= 1;
                    } else if cell != NULL {
                        sum -= cell;
                        some -= 1;
                    }
                }
            }
            return (Fixed::Counted { rows, sum, some }, free);
        }
        let fixed = rows
            .iter()
            .copied()
            .filter(|row| !self.touched.rows.contains(row))
            .filter(|&row| self.state.row_key(self.graph, row) == Some(key))
            .collect();
        (Fixed::Rows(fixed), free)
    }

    fn entries(&mut self, rows: &[u32], key: u32, fold: Fold) -> Result<Vec<Entry>, TooWide> {
        let mut entries = Vec::new();
        for &row in rows {
            let inside = self.inside(row, key)?;
            if inside == self.gate.falsehood() {
                continue;
            }
            let cell = match fold {
                Fold::CountRows => Number {
                    linear: Linear::constant(1),
                    null: self.gate.falsehood(),
                },
                Fold::Count(cell)
                | Fold::Sum(cell)
                | Fold::Min(cell)
                | Fold::Max(cell)
                | Fold::CountDistinct(cell) => self.cell(row, cell, key)?,
            };
            entries.push(Entry { inside, cell });
        }
        Ok(entries)
    }

    /// True exactly when a row is in the bucket of its part.
    pub(super) fn inside(&mut self, row: u32, key: u32) -> Result<Literal, TooWide> {
        let data = self.graph.bags.rows[row as usize];
        let cond = if data.cond == NIL {
            self.gate.truth()
        } else {
            self.truth(data.cond)?.yes
        };
        let here = match data.key {
            Key::Const(own) if own == key => self.gate.truth(),
            Key::Const(_) => self.gate.falsehood(),
            Key::Of(var, map) if self.touched.is_free(var) => {
                let values = self.candidates.of(var).to_vec();
                let graph = self.graph;
                let values = values
                    .into_iter()
                    .filter(|&value| value != UNSET && graph.image(map, value) == i64::from(key))
                    .collect();
                self.member(var, values)?
            }
            Key::Of(var, map) => {
                let value = self.state.assignment[var.index()];
                let here = value != UNSET && self.graph.image(map, value) == i64::from(key);
                if here {
                    self.gate.truth()
                } else {
                    self.gate.falsehood()
                }
            }
            Key::Expr(id) => {
                let Number { linear, null } = self.number(id.0)?;
                let equal = self.gate.equal_literal(&linear, i128::from(key))?;
                self.gate.both(equal, !null)
            }
        };
        Ok(self.gate.both(cond, here))
    }

    /// The value that a row brings to a bucket that it is in.
    fn cell(&mut self, row: u32, index: u8, key: u32) -> Result<Number, TooWide> {
        let cell = self.graph.bags.cells_of(row)[index as usize];
        if !cell_reaches(self.graph, self.touched, cell) {
            let value = self.state.cell(self.graph, cell);
            let code = self.constant(value)?;
            return Ok(self.as_number(code));
        }
        match cell {
            Cell::Const(_) => Ok(Number {
                linear: Linear::constant(0),
                null: self.gate.truth(),
            }),
            Cell::Expr(id) => self.number(id.0),
            Cell::Lookup { var, map, times } => {
                // Only the values that put the row into this bucket matter, and mostly they agree.
                let data = self.graph.bags.rows[row as usize];
                let keyed = match data.key {
                    Key::Of(own, by) if own == var => Some(by),
                    Key::Of(_, _) | Key::Const(_) | Key::Expr(_) => None,
                };
                let graph = self.graph;
                let mut table: Vec<(u32, Val)> = Vec::new();
                let mut here: BTreeSet<Val> = BTreeSet::new();
                for &value in self.candidates.of(var) {
                    let image = match value {
                        UNSET => NULL,
                        value => value::mul(widen(graph.image(map, value)), i128::from(times)),
                    };
                    let inside = keyed.is_none_or(|by| {
                        value != UNSET && graph.image(by, value) == i64::from(key)
                    });
                    if inside {
                        here.insert(image);
                    }
                    table.push((value, image));
                }
                if let (1, Some(&only)) = (here.len(), here.first()) {
                    let code = self.constant(only)?;
                    return Ok(self.as_number(code));
                }
                self.number_table(var, &table)
            }
        }
    }

    /// The buckets of a part that a lazy policy may be asked about.
    pub(super) fn reachable(&mut self, bag: u32, part: u32) -> Result<BTreeSet<u32>, TooWide> {
        let (_, free) = self.split(bag, part, u32::MAX);
        let mut keys = BTreeSet::new();
        for row in free {
            // A value that is not allowed any more still names a bucket, which others may share.
            keys.extend(self.state.row_key(self.graph, row));
            match possible_keys(self.graph, self.candidates, row) {
                Some(possible) => keys.extend(possible),
                None => match self.graph.bags.rows[row as usize].key {
                    Key::Expr(id) => {
                        let (low, high) = self.number(id.0)?.linear.range()?;
                        if high - low > DISTINCT_MAX {
                            return Err(TooWide);
                        }
                        keys.extend((low.max(0)..=high).filter_map(|k| u32::try_from(k).ok()));
                    }
                    Key::Of(var, map) => {
                        let value = self.state.assignment[var.index()];
                        if value != UNSET {
                            keys.extend(u32::try_from(self.graph.image(map, value)).ok());
                        }
                    }
                    Key::Const(key) => {
                        keys.insert(key);
                    }
                },
            }
        }
        Ok(keys)
    }

    /// What a soft root adds to its tier; NULL adds 0.
    pub(super) fn soft_root(&mut self, id: u32) -> Result<Linear, TooWide> {
        let Number { linear, null } = self.number(id)?;
        self.gated(!null, &linear)
    }
}

/// Rows of a bucket that cannot change.
enum Fixed {
    /// Summed by the state: rows, sum, and how many are not NULL.
    Counted {
        rows: i128,
        sum: i128,
        some: i128,
    },
    Rows(Vec<u32>),
}

/// Hard or soft, for loops over roots.
pub(super) fn is_hard(kind: RootKind) -> bool {
    kind == RootKind::Hard
}
