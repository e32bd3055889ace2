//! The kernels that steps name: what computes a step, and the forms of its operand and results.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use octofold_quant::QuantType;

/// How a step is computed: a core that does the work, the form in which it reads its first operand, and the form in which it writes its results. Every `Kernel`
/// is a combination that the core supports.
///
/// Its name is that of the core, followed by the forms if they are not the usual ones of the core: `qconv`, `qconv nhwc→nchw`,
/// `qconv_depthwise float→uint8 nchw→nchw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kernel {
    core: Core,
    input: InputForm,
    result: Axes,
}

/// The order of the axes of an operand or result in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Axes {
    /// Any order: the core does not depend on it, or the operator has it.
    Any,
    /// Images with the channels first.
    Nchw,
    /// Images with the channels last.
    Nhwc,
}

/// The form in which a kernel reads its first operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InputForm {
    /// In the type of the operator's operand.
    AsIs(Axes),
    /// As floats, which the kernel quantizes to this type with the qparams of the operator's operand.
    Quantized(QuantType, Axes),
}

macro_rules! cores {
    ($($(#[$doc:meta])* $core:ident $name:literal,)*) => {
        /// The part of a kernel that does the work. The comments name the operators, and the packed constants in their order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Core {
            $($(#[$doc])* $core,)*
        }

        impl Core {
            /// Every core.
            pub const ALL: &[Self] = &[$(Self::$core),*];

            /// The name in files and reports.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$core => $name,)*
                }
            }
        }
    };
}

cores! {
    /// Any operator, with its portable implementation on tensors.
    Portable "portable",
    /// The result is the operand's memory with another shape: `Reshape`, `Flatten`, `Squeeze`, `Unsqueeze`, `Identity`, `Dropout`, `Observe`, and a
    /// `Transpose` that moves axes of size 1 only.
    View "view",
    /// Integer `FusedConv`. Packed: weights; folded bias (i32); multiplier (f32). With float results: weights; correction (i32); scale (f32);
    /// bias (f32).
    QConv "qconv",
    /// [`Core::QConv`] with one channel in each group. For channels-first images, its weights are packed in another format.
    QConvDepthwise "qconv_depthwise",
    /// Integer `FusedLinear`; packed as [`Core::QConv`].
    QLinear "qlinear",
    /// Float `FusedConv`. Packed: weights; bias (f32).
    FConv "fconv",
    /// [`Core::FConv`] with one channel in each group.
    FConvDepthwise "fconv_depthwise",
    /// Float `FusedConv` of one tap and one channel in each group, of channels-first images: a factor and a summand for each channel. Packed: factors; summands.
    FAffine "faffine",
    /// Float `FusedLinear`. Packed: weights; bias (f32). Without packed weights, the kernel packs those of the operator in each run.
    FLinear "flinear",
    /// `LSTM`, `GRU` and `RNN` of floats, with the functions by default. Packed, for each direction: weights of inputs; weights of states, those of the first two gates of a `GRU` and of
    /// the third one apart; the bias of inputs, which has that of states where both are added; the bias of states, or zeros.
    FRecurrent "frecurrent",
    /// Quantized `FusedBinary` sum.
    QAdd "qadd",
    /// Quantized `FusedBinary` product.
    QMul "qmul",
    /// `FusedConcat`.
    QConcat "qconcat",
    /// `Concat` of elements of one or four bytes.
    Concat "concat",
    /// Maximum `FusedPool` or `FusedGlobalPool` of bytes.
    QMaxPool "qmax_pool",
    /// Average `FusedPool` of bytes.
    QAveragePool "qaverage_pool",
    /// Average `FusedGlobalPool` of bytes.
    QGlobalAveragePool "qglobal_average_pool",
    /// `TableLookup` in a constant table.
    QTable "qtable",
    /// `QuantizeLinear` to bytes with one constant scale.
    Quantize "quantize",
    /// `DequantizeLinear` of bytes with one constant scale.
    Dequantize "dequantize",
    /// `DynamicQuantizeLinear`: bytes, scale and zero point.
    DynamicQuantize "dynamic_quantize",
    /// `Transpose` that exchanges two groups of neighbouring axes, the last of all: between channels-first and channels-last images, of a matrix.
    Transpose "transpose",
    /// Operators that move elements of one or four bytes along their axes, by constant lists: `Slice`, nearest `Resize`, `Transpose`, constant `Pad`,
    /// `DepthToSpace`, `Expand`, `Tile`, `Gather` with a list of indices.
    Move "move",
    /// `GatherElements` of elements of 1, 2, 4 or 8 bytes.
    Pick "pick",
    /// Maximum `FusedPool` or `FusedGlobalPool` of floats.
    FMaxPool "fmax_pool",
    /// Average `FusedPool` of floats.
    FAveragePool "faverage_pool",
    /// Average `FusedGlobalPool` of floats.
    FGlobalAveragePool "fglobal_average_pool",
    /// Float `Relu`, and `Clip` with constant bounds.
    FClip "fclip",
    /// Functions of one float: `Exp`, `Tanh`, `Gelu` and many more.
    FFunction "ffunction",
    /// Float `Softmax` and `LogSoftmax`.
    FSoftmax "fsoftmax",
    /// Float `ReduceSum`, `ReduceMean`, `ReduceMax` and the like, with constant axes.
    FReduce "freduce",
    /// Float `Resize`, linear or cubic, with constant lists, along one axis or two neighbouring axes.
    FResize "fresize",
    /// Float `ArgMax` and `ArgMin`.
    FArg "farg",
    /// Float `LayerNormalization` with one result, and `InstanceNormalization`.
    FNormalize "fnormalize",
    /// Float `LpNormalization`.
    FDivideByNorm "fdivide_by_norm",
    /// Float `MatMul` of vectors, matrices and stacks of matrices.
    FMatMul "fmatmul",
    /// Float `Add`, `Sub`, `Mul`, `Div`, `Max` and `Min` of two operands, `Pow`, `PRelu` and `FusedBinary`, of operands that broadcast.
    FBinary "fbinary",
    /// `Where`.
    Choose "choose",
    /// `Equal`, `Less`, `LessOrEqual`, `Greater`, `GreaterOrEqual`, `And`, `Or` and `Xor`.
    Compare "compare",
    /// `Cast`.
    Cast "cast",
}

impl Core {
    /// The numbers of results that the core gives.
    pub const fn results(self) -> RangeInclusive<usize> {
        match self {
            Self::DynamicQuantize => 3..=3,
            Self::FRecurrent => 1..=3,
            _ => 1..=1,
        }
    }

    /// The forms of operand and result that the core supports, the usual one first. This is the only place that says which combinations are legal.
    const fn forms(self) -> &'static [(InputForm, Axes)] {
        use Axes::{Any, Nchw, Nhwc};
        use InputForm::{AsIs, Quantized};
        use QuantType::{Int8, Uint8};
        match self {
            Self::QConv => &[(AsIs(Nhwc), Nhwc), (AsIs(Nhwc), Nchw)],
            Self::QConvDepthwise => &[
                (AsIs(Nhwc), Nhwc),
                (AsIs(Nhwc), Nchw),
                (AsIs(Nchw), Nchw),
                (Quantized(Uint8, Nchw), Nchw),
                (Quantized(Int8, Nchw), Nchw),
            ],
            Self::Quantize => &[(AsIs(Any), Any), (AsIs(Nchw), Nhwc)],
            Self::Dequantize => &[(AsIs(Any), Any), (AsIs(Nhwc), Nchw)],
            Self::Transpose => &[(AsIs(Any), Any), (AsIs(Nchw), Nhwc), (AsIs(Nhwc), Nchw)],
            Self::FAffine => &[(AsIs(Nchw), Nchw)],
            Self::FConv
            | Self::FConvDepthwise
            | Self::QMaxPool
            | Self::QAveragePool
            | Self::QGlobalAveragePool
            | Self::FMaxPool
            | Self::FAveragePool
            | Self::FGlobalAveragePool => &[(AsIs(Nhwc), Nhwc)],
            _ => &[(AsIs(Any), Any)],
        }
    }
}

/// The core in its usual form.
impl From<Core> for Kernel {
    fn from(core: Core) -> Self {
        let (input, result) = core.forms()[0];
        Self {
            core,
            input,
            result,
        }
    }
}

impl Kernel {
    /// The kernel with this core and these forms; `None` if the core does not support them.
    pub fn new(core: Core, input: InputForm, result: Axes) -> Option<Self> {
        let takes = core.forms().contains(&(input, result));
        takes.then_some(Self {
            core,
            input,
            result,
        })
    }

    /// Every kernel.
    pub fn all() -> impl Iterator<Item = Self> {
        Core::ALL.iter().flat_map(|&core| {
            core.forms().iter().map(move |&(input, result)| Self {
                core,
                input,
                result,
            })
        })
    }

    /// The core.
    pub const fn core(self) -> Core {
        self.core
    }

    /// The form in which the first operand is read.
    pub const fn input(self) -> InputForm {
        self.input
    }

    /// The order of the axes of the results.
    pub const fn result(self) -> Axes {
        self.result
    }

    /// Whether each engine has its own loops and packed weights for the kernel.
    pub fn is_of_engine(self) -> bool {
        let core = matches!(
            self.core,
            Core::QConv | Core::QConvDepthwise | Core::QLinear
        );
        core && self.input.axes() != Axes::Nchw
    }
}

impl InputForm {
    /// The order of the axes.
    pub const fn axes(self) -> Axes {
        match self {
            Self::AsIs(axes) | Self::Quantized(_, axes) => axes,
        }
    }
}

impl Axes {
    /// `any`, `nchw` or `nhwc`.
    const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Nchw => "nchw",
            Self::Nhwc => "nhwc",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            core,
            input,
            result,
        } = *self;
        let mut name = core.name().to_owned();
        if let InputForm::Quantized(dtype, _) = input {
            name.push_str(" float→");
            name.push_str(dtype.name());
        }
        let usual = core.forms()[0] == (input, result);
        if !usual || input.axes() != result {
            name.extend([" ", input.axes().name(), "→", result.name()]);
        }
        f.pad(&name)
    }
}

/// No kernel has the name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this program has no kernel `{0}`")]
pub struct UnknownKernel(String);

impl FromStr for Kernel {
    type Err = UnknownKernel;

    fn from_str(name: &str) -> Result<Self, UnknownKernel> {
        let first = name.split(' ').next();
        let mut kernels = Self::all().filter(|kernel| Some(kernel.core.name()) == first);
        let kernel = kernels.find(|kernel| kernel.to_string() == name);
        kernel.ok_or_else(|| UnknownKernel(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_kernels() {
        for kernel in Kernel::all() {
            assert_eq!(kernel.to_string().parse(), Ok(kernel));
        }
        assert!("qconv any→any".parse::<Kernel>().is_err());
    }

    #[test]
    fn names_say_the_forms_that_are_not_usual() {
        let name = |core, input, result| Kernel::new(core, input, result).map(|it| it.to_string());
        let nhwc = InputForm::AsIs(Axes::Nhwc);
        assert_eq!(Kernel::from(Core::QConv).to_string(), "qconv");
        assert_eq!(
            name(Core::QConv, nhwc, Axes::Nchw).as_deref(),
            Some("qconv nhwc→nchw")
        );
        assert_eq!(
            name(Core::Transpose, nhwc, Axes::Nchw).as_deref(),
            Some("transpose nhwc→nchw")
        );
        let floats = InputForm::Quantized(QuantType::Uint8, Axes::Nchw);
        assert_eq!(
            name(Core::QConvDepthwise, floats, Axes::Nchw).as_deref(),
            Some("qconv_depthwise float→uint8 nchw→nchw")
        );
    }

    #[test]
    fn other_combinations_are_refused() {
        let nchw = InputForm::AsIs(Axes::Nchw);
        assert_eq!(Kernel::new(Core::QConv, nchw, Axes::Nchw), None);
        assert_eq!(Kernel::new(Core::FConv, nchw, Axes::Nchw), None);
        assert_eq!(Kernel::new(Core::Transpose, nchw, Axes::Nchw), None);
    }
}
