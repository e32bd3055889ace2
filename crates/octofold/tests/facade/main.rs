//! The library as a user calls it: results, settings, messages and documents. `cargo test -p octofold --test facade golden` runs one file.

#[path = "../common/mod.rs"]
mod common;

mod accuracy;
mod backend;
mod borrowed;
mod configuration;
mod determinism;
mod documents;
mod eager;
mod floors;
mod golden;
mod imported;
mod linear;
mod norms;
mod operators;
mod own;
mod repair;
mod sabotage;
mod sensitivity;
mod symbolic;
mod values;
