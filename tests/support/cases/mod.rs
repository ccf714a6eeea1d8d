//! The table of cases: what the kernel tests run on every adapter, what CUDA parity will run, and what the benches time.

use crate::case::Case;
use std::collections::{BTreeMap, BTreeSet};

pub mod attention;
pub mod elementwise;
pub mod linear_float;
pub mod linear_int;
pub mod norm;
pub mod quantize;
pub mod sampling;

/// Every case of every kernel.
pub fn all() -> Vec<Case> {
    [
        elementwise::cases(),
        norm::cases(),
        attention::cases(),
        linear_float::cases(),
        linear_int::cases(),
        quantize::cases(),
        sampling::cases(),
    ]
    .concat()
}

/// The shape of a linear that models have, for a bench: its cases take a second to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Large {
    pub rows: u32,
    pub in_features: u32,
    pub out_features: u32,
}

impl Large {
    /// For a token, for a batch of few, for a prompt; and the square that others publish.
    pub const ALL: [Self; 9] = [
        Self::new(1, 4096, 4096),
        Self::new(1, 4096, 14336),
        Self::new(1, 14336, 4096),
        Self::new(8, 4096, 4096),
        Self::new(8, 4096, 14336),
        Self::new(32, 4096, 14336),
        Self::new(512, 4096, 4096),
        Self::new(512, 4096, 14336),
        Self::new(4096, 4096, 4096),
    ];

    const fn new(rows: u32, in_features: u32, out_features: u32) -> Self {
        Self {
            rows,
            in_features,
            out_features,
        }
    }

    pub fn ops(self) -> u64 {
        2 * u64::from(self.rows) * u64::from(self.in_features) * u64::from(self.out_features)
    }

    /// One for each kernel that may run such a linear.
    ///
    /// Of many rows only some differ, so that the twin has to run those alone. Their number has no factor in common with a
    /// tile, so that a row in the wrong place is seen.
    pub fn cases(self) -> Vec<Case> {
        const DIFFERENT: u32 = 13;
        if self.rows <= DIFFERENT {
            return self.plain();
        }
        let mut small = Self {
            rows: DIFFERENT,
            ..self
        }
        .plain();
        let cases = self.plain().into_iter().map(|case| {
            let same = |small: &Case| small.kernel.name == case.kernel.name;
            match small.iter().position(same) {
                Some(i) => case.repeating(small.remove(i)),
                None => case,
            }
        });
        cases.collect()
    }

    /// Kernel and name of each of [`Large::cases`], at once.
    pub fn names(self) -> Vec<(&'static str, String)> {
        let shape = |large: Self| format!("in={} out={}", large.in_features, large.out_features);
        let tiny = self.tiny();
        let name = |case: Case| {
            let name = case.name.replace(&shape(tiny), &shape(self));
            (case.kernel.name, name)
        };
        tiny.plain().into_iter().map(name).collect()
    }

    /// As many rows, of few features: the same kernels.
    fn tiny(self) -> Self {
        Self {
            in_features: 32,
            out_features: 32,
            ..self
        }
    }

    fn plain(self) -> Vec<Case> {
        let Self {
            rows,
            in_features,
            out_features,
        } = self;
        let floats = linear_float::plain(rows, in_features, out_features);
        let integers = linear_int::plain(rows, in_features, out_features);
        floats.into_iter().chain(integers).collect()
    }
}

/// The kernels that run a [`Large`].
pub fn kernels_of_large() -> BTreeSet<&'static str> {
    let names = Large::ALL.into_iter().flat_map(Large::names);
    names.map(|(kernel, _)| kernel).collect()
}

/// Of every kernel that is not one of `others`, its largest test case.
pub fn largest(others: &BTreeSet<&str>) -> Vec<Case> {
    let mut largest: BTreeMap<&str, Case> = BTreeMap::new();
    for case in all() {
        let size = |case: &Case| (case.ops, case.bytes());
        let other = largest.get(case.kernel.name);
        let is_larger = other.is_none_or(|other| size(other) < size(&case));
        if is_larger && !others.contains(case.kernel.name) {
            largest.insert(case.kernel.name, case);
        }
    }
    largest.into_values().collect()
}
