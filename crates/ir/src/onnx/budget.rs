//! How much a model may ask for.

use crate::FoldingBudget;

macro_rules! budget {
    ($($(#[doc = $doc:literal])+ $name:literal $field:ident: $type:ty = $default:expr,)+) => {
        /// How much a model may ask for: bounds of time and memory, none of which a sound model is known to reach. Each has a name, by which the command
        /// line sets it (`--limit NAME=NUMBER`), and by which errors name it.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Budget {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl Default for Budget {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl Budget {
            /// The names of all budgets.
            pub const NAMES: &[&str] = &[$($name),+];

            /// Sets the budget of a name; says whether there is one. Numbers that its type does not hold saturate.
            pub fn set(&mut self, name: &str, limit: u64) -> bool {
                match name {
                    $($name => self.$field = limit.try_into().unwrap_or(<$type>::MAX),)+
                    _ => return false,
                }
                true
            }
        }
    };
}

budget! {
    /// The bytes of the file; protobuf itself ends at 2 GiB.
    "file-bytes" file_bytes: u64 = (1 << 31) - 1,
    /// The bytes of a model in the text form.
    "text-bytes" text_bytes: u64 = 1 << 28,
    /// The depth of nested messages.
    "depth" depth: usize = 64,
    /// The number of messages.
    "messages" messages: u64 = 1 << 23,
    /// The number of strings, and of numbers that are not packed.
    "entries" entries: u64 = 1 << 24,
    /// The bytes that decoding may take without regard to the size of the file…
    "decoded-bytes" decoded_bytes: u64 = 1 << 26,
    /// … and in addition, for each byte of the file.
    "decoded-factor" decoded_factor: u64 = 24,
    /// The number of nodes after functions were inlined. Everything that is done with a model takes time and memory for each.
    "nodes" nodes: u64 = 1 << 15,
    /// The bytes of names and attributes that inlining may copy.
    "copied-bytes" copied_bytes: u64 = 1 << 26,
    /// The depth of functions that call functions.
    "calls" calls: usize = 64,
    /// The trips of a `Loop` that nothing ends before its constant number of trips.
    "trips" trips: u64 = 1 << 30,
    /// The bytes of a constant that is stored sparsely.
    "sparse-bytes" sparse_bytes: u64 = 1 << 26,
    /// The bytes of any value whose shape is known.
    "value-bytes" value_bytes: u64 = 1 << 32,
    /// The number of axes of any value.
    "rank" rank: usize = 64,
    /// The terms of the dimensions and contents of a value, where they are symbolic.
    "terms" terms: usize = 2048,
    /// The bytes that files of weights may have without any being stored: the holes of a sparse file, which cost no disk and all the memory.
    "hole-bytes" hole_bytes: u64 = 1 << 24,
    /// The bytes that folding may add beyond those of the model's constants, see [`FoldingBudget::bytes`].
    "fold-bytes" fold_bytes: u64 = 1 << 25,
    /// The operations that folding may take, see [`FoldingBudget::operations`].
    "fold-operations" fold_operations: u64 = 1 << 28,
}

impl Budget {
    /// What passes may spend on folding.
    pub fn folding(&self) -> FoldingBudget {
        FoldingBudget {
            bytes: self.fold_bytes,
            operations: self.fold_operations,
        }
    }
}

/// How a user raises a budget.
pub(crate) fn raise(name: &str) -> String {
    format!("for a model that is trusted, raise it: Budget, --limit {name}=NUMBER")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_budget_is_set_by_its_name() {
        let mut budget = Budget::default();
        for name in Budget::NAMES {
            let before = budget.clone();
            assert!(budget.set(name, 7));
            assert_ne!(budget, before, "{name}");
        }
        assert!(budget.set("depth", u64::MAX));
        assert!(!budget.set("deepness", 7));
    }
}
