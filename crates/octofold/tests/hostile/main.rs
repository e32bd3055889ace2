//! Damaged and hostile files: each ends in an error or a whole run.

#[path = "../../../../fuzz/src/bodies.rs"]
mod bodies;
#[path = "../common/mod.rs"]
mod common;

mod damage;
mod fuzz_bodies;
