//! The float operators.
