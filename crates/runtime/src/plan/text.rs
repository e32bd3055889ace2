//! The text form of a plan, for people and snapshots: one line for each step, stable. It cannot be read back.

use std::fmt;

use octofold_ops::attribute::Attribute;
use octofold_tensor::Dim;

use super::{Operand, Plan, PlanValue, Step};

/// `float32[N, 3, 8, 8]`, `[?]` where the size depends on data.
struct Type<'a>(&'a PlanValue);

impl fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PlanValue {
            dtype,
            shape,
            channels_last,
            ..
        } = self.0;
        write!(f, "{dtype}[")?;
        match shape {
            None => f.write_str("?")?,
            Some(dims) => list(f, dims.iter().map(Dim::to_string))?,
        }
        f.write_str(if *channels_last { "] nhwc" } else { "]" })
    }
}

fn list(f: &mut fmt::Formatter<'_>, items: impl Iterator<Item = String>) -> fmt::Result {
    for (position, item) in items.enumerate() {
        write!(f, "{}{item}", if position == 0 { "" } else { ", " })?;
    }
    Ok(())
}

fn attribute(value: &Attribute) -> String {
    match value {
        Attribute::Int(value) => value.to_string(),
        Attribute::Float(value) => format!("{value:?}"),
        Attribute::String(value) => value.clone(),
        Attribute::Tensor(value) => format!("{value:?}"),
        Attribute::Ints(values) => format!("{values:?}"),
        Attribute::Floats(values) if values.len() > 4 => format!("[{} floats]", values.len()),
        Attribute::Floats(values) => format!("{values:?}"),
        Attribute::Strings(values) => format!("{values:?}"),
        Attribute::Body(body) => format!("body {}", body.0),
    }
}

impl Plan {
    /// The text form: one line for each input, state, step and output.
    pub fn to_text(&self) -> String {
        self.to_string()
    }

    fn operand(&self, operand: Operand) -> String {
        match operand {
            Operand::Absent => "_".to_owned(),
            Operand::Value(index) => format!("%{}", self.value(index).name),
            Operand::Constant(index) => {
                let constant = self.constant(index);
                format!("{}{:?}", constant.dtype, constant.shape)
            }
        }
    }

    fn write_step(&self, f: &mut fmt::Formatter<'_>, step: &Step) -> fmt::Result {
        f.write_str("  ")?;
        let results = step.outputs.iter().map(|&index| {
            let value = self.value(index);
            format!("%{}: {}", value.name, Type(value))
        });
        list(f, results)?;
        write!(f, " = {} by {}(", step.op.name(), step.kernel)?;
        let operands = step.inputs.iter().map(|&operand| self.operand(operand));
        let packed = step.packed.iter().map(|&index| {
            let constant = self.constant(index);
            format!("packed {}{:?}", constant.dtype, constant.shape)
        });
        list(f, operands.chain(packed))?;
        f.write_str(")")?;
        let attributes = step.op.attributes();
        if !attributes.is_empty() {
            f.write_str(" {")?;
            list(
                f,
                attributes
                    .iter()
                    .map(|(name, value)| format!("{name}: {}", attribute(value))),
            )?;
            f.write_str("}")?;
        }
        f.write_str("\n")
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "plan {:?} for {} on {} {{",
            self.name(),
            self.engine().name(),
            self.requires()
        )?;
        for input in self.inputs() {
            writeln!(f, "  input %{}: {}", input.name, Type(input))?;
        }
        for state in self.states() {
            let (input, output) = (self.state_value(state), &self.outputs()[state.output]);
            let initial = match state.initial {
                None => "zeros".to_owned(),
                Some(index) => self.operand(Operand::Constant(index)),
            };
            writeln!(
                f,
                "  state %{} = {initial}, then output {}",
                input.name, output.name
            )?;
        }
        for step in self.steps() {
            self.write_step(f, step)?;
        }
        for output in self.outputs() {
            writeln!(
                f,
                "  output {} = {}",
                output.name,
                self.operand(output.value)
            )?;
        }
        f.write_str("}\n")
    }
}
