//! The least program that runs a plan: `minimal PLAN` runs it on zeros and prints the shapes of its outputs.
//!
//! How it is built small is in the README of the crate.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use octofold_runtime::{Plan, Session, SessionOptions, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: minimal PLAN")?;
    let plan = Arc::new(Plan::load(path)?);
    let shapes = plan.input_shapes(|_| 1)?;
    let mut session = Session::new(Arc::clone(&plan), SessionOptions::default())?;
    let mut inputs = Vec::new();
    for (input, shape) in plan.inputs().zip(shapes) {
        inputs.push((input.name.as_str(), Tensor::zeros(input.dtype, shape)?));
    }
    for (name, output) in session.run(&inputs)? {
        println!("{name} {:?}", output.shape());
    }
    Ok(())
}
