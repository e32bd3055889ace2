//! What holds on every processor. `.ci/run` also runs this target on emulated ARM processors.

#[path = "../common/mod.rs"]
mod common;

mod engines;
mod random_graphs;
#[cfg(feature = "shared-tests")]
mod shared_engines;
