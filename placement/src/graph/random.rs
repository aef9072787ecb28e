//! Random small models, for tests that hold two evaluations or two solvers equal.

use super::{
    Agg, BagId, BagSpec, Cell, CmpOp, Expr, ExprId, Fold, Key, LazySpec, MapId, Model, Nullable,
    RootKind, Row, RowId, Template, VarId, VarSpec,
};
use crate::solve::Rng;

/// What a generated model was made of, for tests that go on changing it.
pub(crate) struct Made {
    pub model: Model,
    pub vars: Vec<VarId>,
    pub domain_len: u32,
    pub maps: Vec<MapId>,
    pub bags: Vec<BagId>,
    pub rows: Vec<(RowId, BagId)>,
}

/// How large a generated model is.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub vars: usize,
    pub domain: usize,
    pub hard: usize,
    pub soft: usize,
}

fn value(rng: &mut Rng, low: i64, high: i64) -> i64 {
    low + rng.below((high - low + 1) as usize) as i64
}

fn nullable(rng: &mut Rng, low: i64, high: i64) -> Option<i64> {
    if rng.below(8) == 0 {
        None
    } else {
        Some(value(rng, low, high))
    }
}

const OPS: [CmpOp; 6] = [
    CmpOp::Eq,
    CmpOp::Ne,
    CmpOp::Lt,
    CmpOp::Le,
    CmpOp::Gt,
    CmpOp::Ge,
];

fn pick<T: Copy>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.below(list.len())]
}

fn random_fold(rng: &mut Rng) -> Fold {
    match rng.below(6) {
        0 => Fold::CountRows,
        1 => Fold::Count(0),
        2 => Fold::Sum(0),
        3 => Fold::Min(0),
        4 => Fold::Max(0),
        _ => Fold::CountDistinct(0),
    }
}

impl Made {
    fn number(&mut self, rng: &mut Rng, depth: usize) -> ExprId {
        let expr = match if depth == 0 {
            rng.below(4)
        } else {
            rng.below(9)
        } {
            0 => Expr::Const(nullable(rng, -3, 6)),
            1 | 2 => Expr::Lookup {
                var: pick(rng, &self.vars),
                map: pick(rng, &self.maps),
            },
            3 => self.fold(rng),
            4 => Expr::Add(self.number(rng, depth - 1), self.number(rng, depth - 1)),
            5 => Expr::Sub(self.number(rng, depth - 1), self.number(rng, depth - 1)),
            6 => Expr::Mul(self.number(rng, depth - 1), self.number(rng, depth - 1)),
            7 => match rng.below(3) {
                0 => Expr::Div(self.number(rng, depth - 1), self.number(rng, depth - 1)),
                1 => Expr::Rem(self.number(rng, depth - 1), self.number(rng, depth - 1)),
                _ => Expr::Neg(self.number(rng, depth - 1)),
            },
            _ => Expr::Ite {
                cond: self.truth(rng, depth - 1),
                then: self.number(rng, depth - 1),
                otherwise: self.number(rng, depth - 1),
            },
        };
        self.model
            .expr(expr)
            .expect("small numbers do not overflow")
    }

    fn fold(&mut self, rng: &mut Rng) -> Expr {
        if self.bags.is_empty() {
            return Expr::Const(Some(value(rng, 0, 3)));
        }
        let bag = pick(rng, &self.bags);
        let part = rng.below(2) as u32;
        let key = rng.below(3) as u32;
        Expr::Agg(Agg {
            bag,
            part,
            key,
            fold: random_fold(rng),
        })
    }

    pub(crate) fn truth(&mut self, rng: &mut Rng, depth: usize) -> ExprId {
        let expr = match if depth == 0 { 0 } else { rng.below(8) } {
            0..=3 => Expr::Cmp(
                pick(rng, &OPS),
                self.number(rng, depth.min(2)),
                self.number(rng, depth.min(1)),
            ),
            4 => Expr::And(vec![self.truth(rng, depth - 1), self.truth(rng, depth - 1)]),
            5 => Expr::Or(vec![self.truth(rng, depth - 1), self.truth(rng, depth - 1)]),
            6 => Expr::Not(self.truth(rng, depth - 1)),
            _ => {
                if rng.below(2) == 0 {
                    Expr::IsNull(self.number(rng, depth - 1))
                } else {
                    let set = self
                        .model
                        .add_set((0..3).map(|_| value(rng, -1, 4)).collect());
                    Expr::InSet(self.number(rng, depth - 1), set)
                }
            }
        };
        self.model.expr(expr).expect("truth values do not overflow")
    }

    pub(crate) fn random_row(&mut self, rng: &mut Rng, bag: usize) -> Row {
        // Rows may use folds of earlier bags only.
        let later = self.bags.split_off(bag);
        let cond = (rng.below(4) == 0).then(|| self.truth(rng, 1));
        let key = match rng.below(4) {
            0 => Key::Const(rng.below(3) as u32),
            1 if rng.below(4) == 0 => Key::Expr(self.number(rng, 1)),
            _ => Key::Of(pick(rng, &self.vars), pick(rng, &self.maps)),
        };
        let cell = match rng.below(4) {
            0 | 1 => Cell::Const(nullable(rng, -2, 5)),
            2 => Cell::Lookup {
                var: pick(rng, &self.vars),
                map: pick(rng, &self.maps),
                times: value(rng, -2, 3),
            },
            _ => Cell::Expr(self.number(rng, 1)),
        };
        self.bags.extend(later);
        Row {
            part: rng.below(2) as u32,
            key,
            cond,
            cells: vec![cell],
        }
    }

    fn template(&mut self, rng: &mut Rng) -> Template {
        let fold = Template::Fold(random_fold(rng));
        let limit = match rng.below(3) {
            0 => Template::Part(0),
            1 => Template::Key(0),
            _ => Template::Const(Some(value(rng, 0, 4))),
        };
        Template::Cmp(pick(rng, &OPS), Box::new(fold), Box::new(limit))
    }

    pub(crate) fn random_values(&self, rng: &mut Rng) -> Vec<Option<u32>> {
        (0..self.vars.len())
            .map(|_| {
                let value = rng.below(self.domain_len as usize + 1) as u32;
                (value < self.domain_len).then_some(value)
            })
            .collect()
    }
}

/// A random model. `crowd` multiplies the rows of bags, to reach the stored layouts.
pub(crate) fn model(rng: &mut Rng, size: Size, crowd: usize) -> Made {
    let mut model = Model::new();
    let domain_len = 1 + rng.below(size.domain) as u32;
    let domain = model.add_domain(domain_len);
    let mut maps = Vec::new();
    let identity = (0..domain_len).map(|v| Some(i64::from(v))).collect();
    maps.push(model.add_map(domain, identity).expect("small"));
    for _ in 0..2 {
        let image = (0..domain_len).map(|_| nullable(rng, -1, 3)).collect();
        maps.push(model.add_map(domain, image).expect("small"));
    }
    let count = 1 + rng.below(size.vars);
    let mut vars = Vec::new();
    for v in 0..count {
        let allowed = (rng.below(3) == 0).then(|| {
            let values: Vec<u32> = (0..domain_len).filter(|_| rng.below(3) > 0).collect();
            if values.is_empty() { vec![0] } else { values }
        });
        let nullable = if rng.below(6) == 0 {
            Nullable::Yes
        } else {
            Nullable::No
        };
        let current = rng.below(domain_len as usize + 1) as u32;
        vars.push(model.add_var(VarSpec {
            domain,
            allowed,
            nullable,
            current: (current < domain_len).then_some(current),
            block: v as u32 / 2,
        }));
    }
    let mut made = Made {
        model,
        vars,
        domain_len,
        maps,
        bags: Vec::new(),
        rows: Vec::new(),
    };
    for index in 0..rng.below(3) {
        let bag = made.model.add_bag(BagSpec { cells: 1 });
        for slot in 0..3 {
            let constants = [nullable(rng, 0, 4)];
            made.model.set_part(bag, slot, &constants).expect("small");
            made.model.set_key(bag, slot, &constants).expect("small");
        }
        for _ in 0..(1 + rng.below(4)) * crowd {
            let row = made.random_row(rng, index);
            let row = made.model.add_row(bag, row).expect("stratified");
            made.rows.push((row, bag));
        }
        made.bags.push(bag);
        if rng.below(2) == 0 {
            let kind = if rng.below(2) == 0 {
                RootKind::Hard
            } else {
                RootKind::Soft {
                    tier: rng.below(2) as u32,
                    weight: value(rng, -2, 2).max(1),
                }
            };
            let template = made.template(rng);
            let spec = LazySpec {
                policy: 100 + index as u32,
                kind,
                template,
            };
            made.model.add_lazy(bag, spec).expect("small");
        }
    }
    for row in 0..rng.below(size.hard + 1) {
        let expr = made.truth(rng, 2);
        made.model.add_root(0, row as u64, RootKind::Hard, expr);
    }
    for row in 0..rng.below(size.soft + 1) {
        let expr = if rng.below(3) == 0 {
            made.truth(rng, 2)
        } else {
            made.number(rng, 2)
        };
        let weight = if rng.below(3) == 0 {
            -1
        } else {
            value(rng, 1, 3)
        };
        let kind = RootKind::Soft {
            tier: rng.below(2) as u32,
            weight,
        };
        made.model.add_root(1, row as u64, kind, expr);
    }
    made
}
