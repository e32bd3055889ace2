//! The plan and the executor of Octofold, for programs that run compiled models.
//!
//! This crate owns the compiled program ([`Plan`]: its types, checks, text form and [file format](mod@file)), its
//! [specialization](Specialization) to concrete shapes with the memory plan, and the [`Session`] that runs it: arena,
//! threads, observer taps and profiler. It does not compile and knows nothing of graphs.
//!
//! ```no_run
//! use std::sync::Arc;
//! use octofold_runtime::{Plan, Session, SessionOptions, Tensor};
//!
//! let plan = Arc::new(Plan::load("model.oct")?);
//! let mut session = Session::new(plan, SessionOptions::default())?;
//! let image = Tensor::new([1, 3, 224, 224], vec![0_f32; 3 * 224 * 224])?;
//! let outputs = session.run(&[("input", image)])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The file of a plan
//! [`Plan::load`] maps the file: that is fast, and processes share the memory. The file must then be replaced by renaming a new one, which
//! [`Plan::save`] and `octofold compile -o` do, and not be overwritten in place. A session notices a change before a run ([`PlanError::Changed`]). [`Plan::read`]
//! copies the file instead.
//!
//! # A server
//! One plan, one [`Pool`], and a session for each thread of the server:
//!
//! ```no_run
//! use std::sync::Arc;
//! use octofold_runtime::{Plan, Pool, RunError, Session, SessionOptions, Tensor};
//!
//! let plan = Arc::new(Plan::load("model.oct")?);
//! let pool = Arc::new(Pool::new(4)?);
//! let serve = |requests: std::sync::mpsc::Receiver<Tensor>| -> Result<(), RunError> {
//!     let (plan, pool) = (Arc::clone(&plan), Arc::clone(&pool));
//!     let mut session = Session::with_pool(plan, SessionOptions::DEFAULT, pool)?;
//!     for input in requests {
//!         match session.run(&[("input", input)]) {
//!             Ok(outputs) => println!("{:?}", outputs[0].1.shape()),
//!             // The client's mistake; the session goes on.
//!             Err(error @ RunError::Input { .. }) => eprintln!("{error}"),
//!             Err(error) => return Err(error),
//!         }
//!     }
//!     Ok(())
//! };
//! # let _ = serve;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Unsafe code
//! Only [`pool`] has unsafe code: it lends a function to other threads for the time of a call, and gives each item
//! its own part of the output. `octofold_tensor::map` maps the file. Everything else is safe code over slices,
//! so a hostile plan can make a session compute wrong numbers or fail, but cannot make it touch foreign memory.
#![deny(unsafe_code)]

mod blob;
mod error;
mod exec;
pub mod file;
mod memory;
mod place;
mod plan;
#[allow(
    unsafe_code,
    reason = "threads borrow the caller's function and parts of its output"
)]
pub mod pool;
mod profile;
mod session;
mod specialize;
mod values;
mod view;

pub use blob::{ALIGN, Blob, BlobBuilder, aligned_copy};
pub use error::{BoxError, PlanError, RunError, StateFault, StepError};
pub use exec::{compares, conv_shape, converts, recurrent_products};
pub use octofold_ops::cost;
pub use octofold_tensor::{DType, Shape, Tensor};
pub use plan::{
    Axes, Constant, ConstantIndex, Core, Engine, InputForm, Kernel, Operand, Plan, PlanOutput,
    PlanParts, PlanValue, StateSlot, Step, Tap, UnknownKernel, ValueIndex,
};
pub use pool::Pool;
pub use profile::{Profile, StepProfile};
pub use session::{Session, SessionOptions};
pub use specialize::{Specialization, StepCost};
pub use values::constant_bytes;
pub use view::{TensorView, TensorViewMut};

/// The README, so that its code is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
