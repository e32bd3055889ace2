//! The quantized operators that both engines share.
