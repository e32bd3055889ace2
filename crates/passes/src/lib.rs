//! The compiler passes of Octofold.
//!
//! Rules ([`rewrite`]) match [`pattern`]s and return patches; passes ([`pass`]) apply them, and [`pipeline`] gives their order: [`simplify`], [`fuse`],
//! [`annotate`] and [`observe`], [`convert`], [`lower`], [`layout`].
#![forbid(unsafe_code)]

pub mod annotate;
pub mod backend;
pub mod bias;
pub mod config;
pub mod convert;
pub mod eager;
pub mod equalize;
pub mod expand;
pub mod fuse;
pub mod layout;
mod linear;
pub mod lower;
pub mod manager;
pub mod observe;
pub mod pass;
pub mod pattern;
pub mod pipeline;
pub mod rewrite;
pub mod simplify;
mod support;
pub mod user;
