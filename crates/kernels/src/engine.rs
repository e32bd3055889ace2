//! The two engines: which kernels multiply 8-bit activations by packed 8-bit weights.

/// An engine: a form of the packed weights, and the kernels that read it. Both give the same bytes on every processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// For x86: panels of 16 output channels, `[OC/16][K/4][16][4]`.
    Fbgemm,
    /// For ARM, and for any other processor: panels of 8 output channels, each behind the sums of its weights.
    Qnnpack,
}

impl Engine {
    /// All engines.
    pub const ALL: [Self; 2] = [Self::Fbgemm, Self::Qnnpack];

    /// The engine's name: `fbgemm` or `qnnpack`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fbgemm => "fbgemm",
            Self::Qnnpack => "qnnpack",
        }
    }

    /// The engine of a name, or `None` where no engine has it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }
}
