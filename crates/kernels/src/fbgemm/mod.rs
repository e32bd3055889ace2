//! The x86 engine (being written).
use crate::table::Kernel;
/// The kernels of this engine.
pub(crate) const KERNELS: &[Kernel] = &[];
