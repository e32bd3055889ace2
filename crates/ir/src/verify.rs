//! The verifier: checks everything that passes rely on, and reports all faults, not the first.
//!
//! [`STRUCTURE`] holds at every moment; [`verify`] checks it. [`Stage`] says what else holds at the end of each stage of the
//! compiler; [`verify_stage`] checks that. `docs/stages.md` shows both lists; a test compares the page with them.

mod stage;
mod structure;
#[cfg(test)]
mod tests;

use std::fmt;

pub use stage::{Form, STAGES, Stage, StageCheck, verify_stage};

use crate::Graph;

/// One fault of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The name of the check that found it.
    pub check: &'static str,
    /// The node or value at fault.
    pub place: String,
    /// What is wrong.
    pub message: String,
}

/// All faults of a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct VerifyError {
    /// The stage whose rules are broken; `None` for the structure of the graph.
    pub stage: Option<Stage>,
    /// The faults, in the order of the checks and of the graph.
    pub faults: Box<[Fault]>,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            None => f.write_str("the graph")?,
            Some(stage) => write!(f, "the graph at the stage `{stage}`")?,
        }
        let s = if self.faults.len() == 1 { "" } else { "s" };
        write!(f, " has {} fault{s}:", self.faults.len())?;
        for fault in &self.faults {
            write!(
                f,
                "\n  {} `{}`: {}",
                fault.check, fault.place, fault.message
            )?;
        }
        Ok(())
    }
}

/// The faults that one check found.
pub(crate) struct Faults {
    check: &'static str,
    found: Vec<Fault>,
}

impl Faults {
    /// Records a fault at a node or value.
    fn add(&mut self, place: &str, message: impl Into<String>) {
        self.found.push(Fault {
            check: self.check,
            place: place.to_owned(),
            message: message.into(),
        });
    }
}

/// One rule about the structure of a graph.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its name, as a fault shows it.
    pub name: &'static str,
    /// What has to hold.
    pub rule: &'static str,
    run: fn(&Graph, &mut Faults),
}

/// The rules that hold for every graph at every moment, in the order in which they are checked.
pub const STRUCTURE: &[Check] = &[
    Check {
        name: "operands",
        rule: "Every operand, result, input and output is a value that exists.",
        run: structure::operands,
    },
    Check {
        name: "names",
        rule: "The name of a value or node leads back to it, and no two outputs share a name.",
        run: structure::names,
    },
    Check {
        name: "producers",
        rule: "A result and its node point at each other; the graph lists exactly the values that are inputs, each once.",
        run: structure::producers,
    },
    Check {
        name: "constants",
        rule: "The type of a constant is that of its tensor.",
        run: structure::constants,
    },
    Check {
        name: "arity",
        rule: "A node has a number of operands and results that its operator takes and gives.",
        run: structure::arity,
    },
    Check {
        name: "edges",
        rule: "The edges of the data flow are exactly the operands and results of the nodes.",
        run: structure::edges,
    },
    Check {
        name: "cycles",
        rule: "No node depends on its own result.",
        run: structure::cycles,
    },
    Check {
        name: "bodies",
        rule: "Every body that an operator names exists, takes what the operator gives it, and is itself sound.",
        run: structure::bodies,
    },
    Check {
        name: "types",
        rule: "The type of a result is what inference says.",
        run: structure::types,
    },
];

/// Checks the [structure](STRUCTURE) of a graph. Checks that follow operands do not run on a graph whose operands do not exist.
///
/// # Errors
/// All faults that were found.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    let mut faults = Vec::new();
    for check in STRUCTURE {
        let mut found = Faults {
            check: check.name,
            found: Vec::new(),
        };
        (check.run)(graph, &mut found);
        let dangling = check.name == "operands" && !found.found.is_empty();
        let cyclic = check.name == "cycles" && !found.found.is_empty();
        faults.append(&mut found.found);
        if dangling || cyclic {
            break;
        }
    }
    finish(None, faults)
}

fn finish(stage: Option<Stage>, faults: Vec<Fault>) -> Result<(), VerifyError> {
    if faults.is_empty() {
        Ok(())
    } else {
        Err(VerifyError {
            stage,
            faults: faults.into(),
        })
    }
}
