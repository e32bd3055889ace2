//! Unique names.

use std::collections::{HashMap, HashSet};

/// The names that are taken.
#[derive(Debug, Default)]
pub(super) struct Names {
    taken: HashSet<String>,
    /// The suffix to try next, so that a million nodes of one name take a million steps.
    next: HashMap<String, u64>,
}

impl Names {
    /// Takes a name; says whether it was free.
    pub(super) fn take(&mut self, name: &str) -> bool {
        self.taken.insert(name.to_owned())
    }

    /// Takes the names that another set has taken.
    pub(super) fn absorb(&mut self, other: &Self) {
        self.taken.extend(other.taken.iter().cloned());
    }

    /// Takes `name`, or the first free one of `name_1`, `name_2`, ….
    pub(super) fn fresh(&mut self, name: &str) -> String {
        if self.take(name) {
            return name.to_owned();
        }
        let next = self.next.entry(name.to_owned()).or_insert(1);
        loop {
            let candidate = format!("{name}_{next}");
            *next += 1;
            if self.taken.insert(candidate.clone()) {
                return candidate;
            }
        }
    }
}
