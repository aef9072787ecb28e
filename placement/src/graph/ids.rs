//! Dense identifiers of everything a model is made of.
//!
//! Each is a position in an array, four bytes wide: nodes and trails hold many of them, and a cluster of 100,000
//! shards has millions of nodes.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(crate) u32);

        impl $name {
            /// Position in the array of its kind.
            pub fn index(self) -> usize {
                self.0 as usize
            }

            /// The identifier at a position.
            #[allow(dead_code, reason = "not every kind is numbered from outside the graph")]
            pub(crate) fn at(index: u32) -> $name {
                $name(index)
            }
        }
    };
}

id!(
    /// A finite set of values, numbered 0..len, shared by the variables of one decision column.
    DomainId
);
id!(
    /// A column over a domain: value → constant. Shared by all variables of the domain.
    MapId
);
id!(
    /// A sorted set of constants, the right-hand side of IN.
    SetId
);
id!(
    /// A decision.
    VarId
);
id!(
    /// A hash-consed expression.
    ExprId
);
id!(
    /// A multiset of conditional rows, partitioned into buckets: one GROUP BY.
    BagId
);
id!(
    /// A conditional row of a bag.
    RowId
);
id!(
    /// A hard or soft expression.
    RootId
);
id!(
    /// A hard or soft template, evaluated on every bucket of a bag.
    LazyId
);
