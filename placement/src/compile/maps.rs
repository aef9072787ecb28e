//! Columns over a domain: value → constant, shared by all variables of the domain.
//!
//! A join by a decision (`n.node_id = r.controllable__node`) is never materialised: a cell of the joined table is a
//! *map* looked up by the variable, and an operator on one decision is again a map, computed once per value and
//! remembered by its recipe.

use std::collections::HashMap;

use super::fold::Folding;
use super::resolved::Operator;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::graph;
use crate::tables::{MILLION, Value};

/// The most entries of all maps together.
const ENTRIES_MAX: usize = 100_000_000;

/// A map of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MapRef(pub u32);

/// A domain: the rows of a mirror; the value is the row's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DomainRef(pub u32);

/// An argument of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Operand {
    Map(MapRef),
    Const(Value),
}

/// How a map's entries are made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Recipe {
    /// The value itself: its slot in the domain's mirror.
    Slot,
    /// The slot of the row of `mirror` whose `columns` equal the operands; NULL if there is none.
    Find {
        mirror: usize,
        columns: Box<[usize]>,
        keys: Box<[Operand]>,
    },
    /// A column of the row whose slot a map gives.
    Column {
        slots: MapRef,
        mirror: usize,
        column: usize,
    },
    /// An operator on maps and constants.
    Apply(Operator, Box<[Operand]>),
    /// The number of the key tuple among those of component `component` of block `block`.
    Tuple {
        block: usize,
        component: usize,
        cells: Box<[Operand]>,
    },
}

/// A map.
#[derive(Debug)]
pub(crate) struct Entry {
    pub domain: DomainRef,
    pub recipe: Recipe,
    pub values: Vec<Value>,
    pub has_null: bool,
    pub has_zero: bool,
    /// Whether something divides by it, because it has no 0.
    pub divides: bool,
    pub has_text: bool,
    pub has_decimal: bool,
    pub place: Place,
    /// The graph's twin and the denominator of its integers, once needed.
    pub twin: Option<(graph::MapId, i64)>,
}

/// All maps, in an order in which operands come first.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    pub entries: Vec<Entry>,
    by_recipe: HashMap<(DomainRef, Recipe), MapRef>,
    total: usize,
    /// How many constants an operator has met on a map: beyond a few, they are rows' and not the text's.
    lifted: HashMap<(Operator, MapRef), u32>,
}

/// How many different constants an operator is lifted with on one map before cells become nodes of their own.
const LIFTS_MAX: u32 = 48;

impl Maps {
    pub(crate) fn entry(&self, map: MapRef) -> &Entry {
        &self.entries[map.0 as usize]
    }

    /// The map of a recipe that was met before.
    pub(crate) fn known(&self, domain: DomainRef, recipe: &Recipe) -> Option<MapRef> {
        self.by_recipe.get(&(domain, recipe.clone())).copied()
    }

    /// Whether an operator on `map` and a constant of a row is worth a map of its own.
    pub(crate) fn may_lift(&mut self, op: Operator, map: MapRef) -> bool {
        let count = self.lifted.entry((op, map)).or_default();
        *count += 1;
        *count <= LIFTS_MAX
    }

    /// Adds a map.
    pub(crate) fn add(
        &mut self,
        domain: DomainRef,
        recipe: Recipe,
        values: Vec<Value>,
        place: Place,
    ) -> Result<MapRef> {
        self.total += values.len();
        if self.total > ENTRIES_MAX {
            let message = format!("columns over domains of more than {ENTRIES_MAX} entries");
            return Err(Error::at(ErrorKind::Limit, place, message));
        }
        let map = MapRef(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        let has_null = values.iter().any(|v| v.is_null());
        let has_zero = values
            .iter()
            .any(|v| matches!(v, Value::Integer(0) | Value::Decimal(0)));
        let has_text = values.iter().any(|v| matches!(v, Value::Text(_)));
        let has_decimal = values.iter().any(|v| matches!(v, Value::Decimal(_)));
        self.by_recipe.insert((domain, recipe.clone()), map);
        self.entries.push(Entry {
            domain,
            recipe,
            values,
            has_null,
            has_zero,
            divides: false,
            has_text,
            has_decimal,
            place,
            twin: None,
        });
        Ok(map)
    }

    /// An operand's constant at a value.
    pub(crate) fn operand(&self, operand: Operand, value: usize) -> Value {
        match operand {
            Operand::Const(constant) => constant,
            Operand::Map(map) => self.entry(map).values[value],
        }
    }

    /// Computes an operator's entries for all values of `domain`.
    pub(crate) fn apply(
        &self,
        op: Operator,
        operands: &[Operand],
        len: usize,
        live: impl Fn(usize) -> bool,
        folding: &mut Folding<'_>,
        place: Place,
    ) -> Result<Vec<Value>> {
        let mut values = Vec::with_capacity(len);
        let mut args = Vec::with_capacity(operands.len());
        for value in 0..len {
            if !live(value) {
                values.push(Value::Null);
                continue;
            }
            args.clear();
            args.extend(operands.iter().map(|&o| self.operand(o, value)));
            values.push(folding.fold(op, &args, place)?);
        }
        Ok(values)
    }

    /// Whether all entries of a map are text or NULL (`Some(true)`), numbers or NULL (`Some(false)`).
    pub(crate) fn is_text(&self, map: MapRef) -> bool {
        self.entry(map).has_text
    }
}

/// The denominator that makes integers of all values: 1 without decimals.
pub(crate) fn denominator(values: &[Value]) -> i64 {
    let mut den = 1;
    for value in values {
        if let Value::Decimal(n) = value {
            while den < MILLION && (i128::from(*n) * i128::from(den)) % i128::from(MILLION) != 0 {
                den *= 10;
            }
        }
    }
    den
}

/// A value as an integer over `den`: text as its symbol.
pub(crate) fn integer(value: Value, den: i64, place: Place) -> Result<Option<i64>> {
    let wide = match value {
        Value::Null => return Ok(None),
        Value::Integer(n) => i128::from(n) * i128::from(den),
        Value::Decimal(n) => i128::from(n) * i128::from(den) / i128::from(MILLION),
        Value::Text(symbol) => i128::from(symbol.0),
    };
    i64::try_from(wide).map(Some).map_err(|_| {
        Error::at(
            ErrorKind::Arithmetic,
            place,
            format!("{wide} overflows 64 bits"),
        )
    })
}
