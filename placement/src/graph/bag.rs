//! Bags: conditional rows, factored into (part, key of the decision's value, cells).
//!
//! A decision join such as `replicas r JOIN nodes n ON n.node_id = r.controllable__node GROUP BY n.zone` has as many
//! rows as replicas × nodes. A bag keeps one row per replica: it falls into the bucket `(part, key)`, where the key is
//! looked up in the column `zone` at the decision's value. What a bucket holds is found in one of three ways:
//!
//! - **scan**: parts with a handful of rows (the replicas of a shard) keep no buckets at all; a fold looks at the
//!   rows of the part. A cluster's "distinct nodes" policy has shards × nodes buckets and not one is stored.
//! - **dense**: one array of counts and sums over parts × keys.
//! - **sparse**: the same array over the buckets that were ever touched, behind a hash map.

use super::expr::{Fold, Template};
use super::hash::FxMap;
use super::ids::{BagId, ExprId, LazyId, MapId, RowId, VarId};
use super::model::{Model, ModelError, narrow_one};
use super::node::{Dependent, Lists, NIL};
use super::root::RootKind;

/// A bag, as it is declared.
#[derive(Clone, Copy, Debug)]
pub struct BagSpec {
    /// Values that each row carries.
    pub cells: u8,
}

/// The decision-dependent half of the bucket that a row falls into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Always the same.
    Const(u32),
    /// The column's value at the decision's value. NULL: in no bucket.
    Of(VarId, MapId),
    /// Any expression. NULL or negative: in no bucket.
    Expr(ExprId),
}

/// A value carried by a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// A constant.
    Const(Option<i64>),
    /// `times` × the column's value at the decision's value.
    Lookup {
        /// The decision.
        var: VarId,
        /// The column.
        map: MapId,
        /// Constant factor.
        times: i64,
    },
    /// Any expression.
    Expr(ExprId),
}

/// A conditional row, as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Constant half of the bucket.
    pub part: u32,
    /// The other half.
    pub key: Key,
    /// The row exists where this is TRUE; always, when `None`.
    pub cond: Option<ExprId>,
    /// As many as the bag declares.
    pub cells: Vec<Cell>,
}

/// A policy over all buckets of a bag.
///
/// It must be satisfied (hard: not FALSE; soft: 0 or NULL) by every bucket without rows: those are never looked at.
#[derive(Clone, Debug)]
pub struct LazySpec {
    /// Number of the policy.
    pub policy: u32,
    /// Hard, or soft with tier and weight.
    pub kind: RootKind,
    /// What is evaluated on each bucket.
    pub template: Template,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct RowData {
    pub bag: u32,
    pub part: u32,
    pub key: Key,
    pub cond: u32,
    /// Position of its first cell.
    pub cells: u32,
    /// Position in the row list of its part.
    pub position: u32,
    /// Slot in the ordered tree of its bucket, where the bag keeps trees.
    pub leaf: u32,
    pub alive: bool,
}

/// How buckets are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Layout {
    /// By looking at the rows of the part.
    #[default]
    Scan,
    /// At `part * stride + key`.
    Dense { stride: u32 },
    /// Through a hash map.
    Sparse,
}

/// What is maintained for one cell of each bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CellNeeds {
    pub sum: bool,
    /// Minimum or maximum.
    pub order: bool,
    pub distinct: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Bag {
    pub cells: u8,
    pub level: u32,
    /// Rows of each part.
    pub parts: Vec<Vec<u32>>,
    pub row_count: u32,
    /// Rows that read expressions.
    pub expr_rows: u32,
    /// One more than the greatest key that any row may have had.
    pub keys: u32,
    /// Every row's key is a constant.
    pub fixed_keys: bool,
    pub part_constants: Vec<Box<[i64]>>,
    pub key_constants: Vec<Box<[i64]>>,
    pub needs: Vec<CellNeeds>,
    pub lazies: Vec<LazyId>,
    pub layout: Layout,
    /// Folds of each bucket that are expressions of their own: bucket name → list of active nodes.
    pub folds: FxMap<u64, u32>,
    /// The same by part, for scanned parts.
    pub part_folds: Vec<u32>,
    /// The same by slot, for dense buckets.
    pub slot_folds: Vec<u32>,
    /// Minima and maxima come from tournaments: rows never leave their buckets.
    pub tournaments: bool,
    /// All that is asked of the bag is how many rows a bucket has, and each row is where one decision of its own puts
    /// it: the common policies (distinct nodes, zone spread), which get a shorter way through an assignment.
    pub counts_only: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct LazyData {
    pub bag: BagId,
    pub policy: u32,
    pub kind: RootKind,
    pub template: Template,
    pub alive: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Bags {
    pub bag: Vec<Bag>,
    pub rows: Vec<RowData>,
    pub cells: Vec<Cell>,
    pub lazies: Vec<LazyData>,
    free_rows: Vec<u32>,
    links: Lists,
    /// Active folds of buckets.
    pub fold_links: Lists,
    /// Rows whose key or cells look the variable up.
    var_rows: Vec<u32>,
    /// A row reads an expression that is not below its bag's level.
    pub levels_stale: bool,
}

/// A part of at most this many rows is scanned.
pub(crate) const SCAN_ROWS_MAX: usize = 24;
/// Up to so many parts a dense bag of few keys has room for more keys.
const SPARE_PARTS_MAX: usize = 1024;
/// A dense array has at most this many buckets, or four for each row.
const DENSE_BUCKETS_MAX: u64 = 1 << 21;

/// Name of a bucket within its bag.
#[inline]
pub(crate) fn bucket_name(part: u32, key: u32) -> u64 {
    u64::from(part) << 32 | u64::from(key)
}

impl Bag {
    /// Chooses how buckets are found, from the rows that there are.
    pub(crate) fn choose_layout(&mut self) {
        let busiest = self.parts.iter().map(Vec::len).max().unwrap_or(0);
        let parts = self.parts.len().max(1);
        let mean = self.row_count as usize / parts;
        // Room for keys that come, as far as it costs little: a zone more must not lay the bag out anew.
        let spare = match (self.keys, parts) {
            (9.., _) => self.keys / 8,
            (0..9, 0..=SPARE_PARTS_MAX) => 4,
            (0..9, _) => 0,
        };
        let stride = self.keys.saturating_add(spare).max(1);
        let buckets = parts as u64 * u64::from(stride);
        self.layout = if busiest <= SCAN_ROWS_MAX && (mean <= 8 || buckets > DENSE_BUCKETS_MAX) {
            Layout::Scan
        } else if buckets <= DENSE_BUCKETS_MAX.max(4 * u64::from(self.row_count)) {
            Layout::Dense { stride }
        } else {
            Layout::Sparse
        };
    }

    /// Whether a policy's template is `count(*)` against a constant.
    pub(crate) fn is_count_limit(template: &Template) -> bool {
        match template {
            Template::Cmp(_, left, right) => {
                **left == Template::Fold(Fold::CountRows)
                    && matches!(
                        **right,
                        Template::Const(_) | Template::Part(_) | Template::Key(_)
                    )
            }
            _ => false,
        }
    }

    /// Whether a row with such a bucket can be added without laying the bag out anew.
    pub(crate) fn fits(&self, part: u32, key_bound: u32) -> bool {
        match self.layout {
            Layout::Scan => self
                .parts
                .get(part as usize)
                .is_none_or(|rows| rows.len() <= SCAN_ROWS_MAX),
            Layout::Dense { stride } => key_bound <= stride,
            Layout::Sparse => true,
        }
    }

    pub(crate) fn part_constant(&self, part: u32, index: u8) -> Option<i64> {
        self.part_constants
            .get(part as usize)?
            .get(index as usize)
            .copied()
    }

    pub(crate) fn key_constant(&self, key: u32, index: u8) -> Option<i64> {
        self.key_constants
            .get(key as usize)?
            .get(index as usize)
            .copied()
    }

    /// Records what a fold needs; true when that was not maintained before.
    pub(crate) fn need(&mut self, fold: Fold) -> bool {
        let (cell, want): (u8, fn(&mut CellNeeds) -> &mut bool) = match fold {
            Fold::CountRows => return false,
            Fold::Count(cell) | Fold::Sum(cell) => (cell, |needs| &mut needs.sum),
            Fold::Min(cell) | Fold::Max(cell) => (cell, |needs| &mut needs.order),
            Fold::CountDistinct(cell) => (cell, |needs| &mut needs.distinct),
        };
        let flag = want(&mut self.needs[cell as usize]);
        !std::mem::replace(flag, true)
    }
}

fn same_var(a: Key, b: Key) -> bool {
    match (a, b) {
        (Key::Of(a, _), Key::Of(b, _)) => a == b,
        (Key::Const(_) | Key::Expr(_) | Key::Of(_, _), _) => false,
    }
}

impl Bags {
    /// Whether each row of a bag is placed by one decision, none twice in a part, without a condition.
    pub(crate) fn rows_are_simple(&self, bag: usize) -> bool {
        let data = &self.bag[bag];
        data.cells == 0
            && data.parts.iter().all(|rows| {
                rows.iter().enumerate().all(|(index, &row)| {
                    let row = &self.rows[row as usize];
                    matches!(row.key, Key::Of(_, _))
                        && row.cond == NIL
                        && rows[..index]
                            .iter()
                            .all(|&other| !same_var(self.rows[other as usize].key, row.key))
                })
            })
    }

    pub(crate) fn add_var(&mut self) {
        self.var_rows.push(NIL);
    }

    pub(crate) fn var_in_use(&self, var: VarId) -> bool {
        self.var_rows[var.index()] != NIL
    }

    /// Rows whose key or cells look the variable up.
    #[inline]
    pub(crate) fn rows_of(&self, var: VarId) -> impl Iterator<Item = u32> + '_ {
        self.links.iter(self.var_rows[var.index()])
    }

    #[inline]
    pub(crate) fn cells_of(&self, row: u32) -> &[Cell] {
        let data = &self.rows[row as usize];
        let count = self.bag[data.bag as usize].cells as usize;
        &self.cells[data.cells as usize..data.cells as usize + count]
    }

    /// The distinct variables that a row looks up directly.
    pub(crate) fn vars_of(&self, row: u32) -> Vec<VarId> {
        let mut vars = Vec::new();
        if let Key::Of(var, _) = self.rows[row as usize].key {
            vars.push(var);
        }
        for cell in self.cells_of(row) {
            if let Cell::Lookup { var, .. } = *cell
                && !vars.contains(&var)
            {
                vars.push(var);
            }
        }
        vars
    }

    /// The expressions that a row reads, once each.
    pub(crate) fn exprs_of(&self, row: u32) -> Vec<u32> {
        let data = &self.rows[row as usize];
        let mut exprs = Vec::new();
        if data.cond != NIL {
            exprs.push(data.cond);
        }
        if let Key::Expr(id) = data.key {
            exprs.push(id.0);
        }
        for cell in self.cells_of(row) {
            if let Cell::Expr(id) = *cell {
                exprs.push(id.0);
            }
        }
        exprs.sort_unstable();
        exprs.dedup();
        exprs
    }

    fn link_row(&mut self, row: u32) {
        for var in self.vars_of(row) {
            self.links.push(&mut self.var_rows[var.index()], row);
        }
    }

    fn unlink_row(&mut self, row: u32) {
        for var in self.vars_of(row) {
            self.links.remove(&mut self.var_rows[var.index()], row);
        }
    }
}

impl Model {
    /// An empty bag.
    pub fn add_bag(&mut self, spec: BagSpec) -> BagId {
        let id = BagId(self.graph.bags.bag.len() as u32);
        self.graph.bags.bag.push(Bag {
            cells: spec.cells,
            level: 1,
            fixed_keys: true,
            needs: vec![CellNeeds::default(); spec.cells as usize],
            ..Bag::default()
        });
        self.state.add_bag();
        id
    }

    /// A conditional row.
    ///
    /// Its expressions may fold only bags that were created before this one.
    pub fn add_row(&mut self, bag: BagId, row: Row) -> Result<RowId, ModelError> {
        let declared = self.graph.bags.bag[bag.index()].cells;
        if row.cells.len() != declared as usize {
            return Err(ModelError::Unknown {
                what: "cell",
                index: row.cells.len() as u64,
            });
        }
        let key_bound = self.key_bound(row.key);
        let mut exprs: Vec<u32> = row.cond.iter().map(|id| id.0).collect();
        if let Key::Expr(id) = row.key {
            exprs.push(id.0);
        }
        for cell in &row.cells {
            match *cell {
                Cell::Expr(id) => exprs.push(id.0),
                Cell::Const(value) => {
                    narrow_one(value)?;
                }
                Cell::Lookup { .. } => {}
            }
        }
        for &expr in &exprs {
            if self.graph.nodes.get(expr).stratum > bag.0 {
                return Err(ModelError::Cycle);
            }
        }

        let bags = &mut self.graph.bags;
        let data = RowData {
            bag: bag.0,
            part: row.part,
            key: row.key,
            cond: row.cond.map_or(NIL, |id| id.0),
            cells: 0,
            position: 0,
            leaf: NIL,
            alive: true,
        };
        let id = match bags.free_rows.pop() {
            // A freed row keeps its cells when they are as many: bags have few shapes.
            Some(id) if bags.bag[bags.rows[id as usize].bag as usize].cells == declared => {
                let cells = bags.rows[id as usize].cells;
                bags.rows[id as usize] = RowData { cells, ..data };
                id
            }
            Some(id) => {
                let cells = bags.cells.len() as u32;
                bags.cells
                    .resize(cells as usize + row.cells.len(), Cell::Const(None));
                bags.rows[id as usize] = RowData { cells, ..data };
                id
            }
            None => {
                let cells = bags.cells.len() as u32;
                bags.cells
                    .resize(cells as usize + row.cells.len(), Cell::Const(None));
                bags.rows.push(RowData { cells, ..data });
                bags.rows.len() as u32 - 1
            }
        };
        let first = bags.rows[id as usize].cells as usize;
        bags.cells[first..first + row.cells.len()].copy_from_slice(&row.cells);

        let entry = &mut bags.bag[bag.index()];
        let part = row.part as usize;
        if entry.parts.len() <= part {
            entry.parts.resize(part + 1, Vec::new());
            entry.part_folds.resize(part + 1, NIL);
        }
        bags.rows[id as usize].position = entry.parts[part].len() as u32;
        entry.parts[part].push(id);
        entry.row_count += 1;
        entry.expr_rows += u32::from(!exprs.is_empty());
        entry.keys = entry.keys.max(key_bound);
        let key_fixed = matches!(row.key, Key::Const(_));
        let refit = !entry.fits(row.part, key_bound) || (entry.fixed_keys && !key_fixed);
        entry.fixed_keys &= key_fixed;
        if entry.counts_only {
            let rows = &entry.parts[part];
            entry.counts_only = matches!(row.key, Key::Of(_, _))
                && row.cond.is_none()
                && rows
                    .iter()
                    .all(|&other| other == id || !same_var(bags.rows[other as usize].key, row.key));
        }
        let level = entry.level;
        bags.link_row(id);
        for &expr in &exprs {
            self.graph.nodes.acquire(expr);
            if self.graph.nodes.get(expr).level >= level {
                self.graph.bags.levels_stale = true;
            }
        }
        if refit || self.graph.bags.levels_stale {
            self.state.unseal();
        }
        for expr in self.graph.bags.exprs_of(id) {
            self.activate(expr);
            self.graph.nodes.add_dependent(expr, Dependent::Row(id));
        }
        self.state.insert_row(&mut self.graph, id);
        self.graph.version += 1;
        Ok(RowId(id))
    }

    /// Removes a conditional row.
    pub fn remove_row(&mut self, row: RowId) {
        let id = row.0;
        let data = self.graph.bags.rows[row.index()];
        assert!(data.alive, "row {id} was removed before");
        self.state.withdraw_row(&mut self.graph, id);
        for expr in self.graph.bags.exprs_of(id) {
            self.graph.nodes.remove_dependent(expr, Dependent::Row(id));
            self.deactivate(expr);
        }
        let mut named = Vec::new();
        if data.cond != NIL {
            named.push(data.cond);
        }
        if let Key::Expr(expr) = data.key {
            named.push(expr.0);
        }
        for cell in self.graph.bags.cells_of(id) {
            if let Cell::Expr(expr) = *cell {
                named.push(expr.0);
            }
        }
        let reads = u32::from(!named.is_empty());
        named
            .into_iter()
            .for_each(|expr| self.graph.nodes.release(expr));
        let bags = &mut self.graph.bags;
        bags.unlink_row(id);
        let entry = &mut bags.bag[data.bag as usize];
        let rows = &mut entry.parts[data.part as usize];
        rows.swap_remove(data.position as usize);
        if let Some(&moved) = rows.get(data.position as usize) {
            bags.rows[moved as usize].position = data.position;
        }
        entry.row_count -= 1;
        entry.expr_rows -= reads;
        bags.rows[row.index()].alive = false;
        bags.free_rows.push(id);
        self.graph.version += 1;
    }

    /// The rows of a bag, whether or not their conditions hold.
    pub fn row_count(&self, bag: BagId) -> u32 {
        self.graph.bags.bag[bag.index()].row_count
    }

    /// One more than the greatest key that the row may have.
    pub(crate) fn key_bound(&self, key: Key) -> u32 {
        match key {
            Key::Const(key) => key + 1,
            Key::Of(_, map) => self.graph.maps[map.index()].key_bound,
            // Its range is not known: such buckets are hashed.
            Key::Expr(_) => u32::MAX,
        }
    }

    /// Sets the constants of a part of a bag, for templates.
    pub fn set_part(
        &mut self,
        bag: BagId,
        part: u32,
        constants: &[Option<i64>],
    ) -> Result<(), ModelError> {
        let constants = constants
            .iter()
            .map(|&c| narrow_one(c))
            .collect::<Result<_, _>>()?;
        let slots = &mut self.graph.bags.bag[bag.index()].part_constants;
        if slots.len() <= part as usize {
            slots.resize(part as usize + 1, Box::default());
        }
        if slots[part as usize] != constants {
            self.state
                .change_bucket_constants(&mut self.graph, bag, Some(part), None, constants);
            self.graph.version += 1;
        }
        Ok(())
    }

    /// Sets the constants of a key of a bag, for templates.
    pub fn set_key(
        &mut self,
        bag: BagId,
        key: u32,
        constants: &[Option<i64>],
    ) -> Result<(), ModelError> {
        let constants = constants
            .iter()
            .map(|&c| narrow_one(c))
            .collect::<Result<_, _>>()?;
        let slots = &mut self.graph.bags.bag[bag.index()].key_constants;
        if slots.len() <= key as usize {
            slots.resize(key as usize + 1, Box::default());
        }
        if slots[key as usize] != constants {
            self.state
                .change_bucket_constants(&mut self.graph, bag, None, Some(key), constants);
            self.graph.version += 1;
        }
        Ok(())
    }
}
