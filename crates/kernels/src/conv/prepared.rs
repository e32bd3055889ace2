//! One call for both engines: what is prepared for a convolution, and what a call takes.
//!
//! [`PreparedConv`] is the one place that chooses the engine and the kind of kernel. It checks the arguments of a call once, so that drivers
//! ([`crate::fbgemm`], [`crate::qnnpack`]) and micro kernels may rely on them. A matrix product is a convolution of a 1x1 kernel
//! ([`LinearShape::as_conv`](super::LinearShape::as_conv)).

use std::ops::Range;

use super::output::{Activations, OutputSlice, OutputStage};
use super::shape::{CheckedShape, ConvShape};
use crate::error::{check_len, check_scratch};
use crate::shared::check_range;
use crate::{Engine, Isa, KernelError, fbgemm, qnnpack};

/// The arguments of a call that computes some rows (output pixels) by some columns (output channels).
#[derive(Debug)]
pub struct ConvCall<'a> {
    /// All activations, `[batch, in_h, in_w, in_c]`.
    pub input: Activations<'a>,
    /// The packed weights, from [`pack`] for the same engine and shape.
    pub weights: &'a [u8],
    /// What happens to the sums; its constants have one entry for each of `out_c` channels.
    pub stage: &'a OutputStage<'a>,
    /// A part of the output pixels `0..batch·out_h·out_w`. Calls for disjoint parts may run at the same time.
    pub rows: Range<usize>,
    /// Output channels. The range starts at a multiple of the engine's panel, 16 for fbgemm and 8 for qnnpack, and ends at one or at `out_c`. A grouped
    /// convolution takes all channels.
    pub columns: Range<usize>,
    /// The values, `[rows.len(), columns.len()]`. With all channels, or with one pixel, this is a contiguous part of the whole output, unless it
    /// is strided.
    pub output: OutputSlice<'a>,
    /// At least [`PreparedConv::scratch_len`] bytes with any content, not shared with a concurrent call.
    pub scratch: &'a mut [u8],
}

/// A convolution that an engine has prepared for its sizes.
#[derive(Debug)]
pub struct PreparedConv {
    sizes: CheckedShape,
    driver: Driver,
    packed_len: usize,
    scratch_len: usize,
}

/// The loops that hand the kernels their tiles, with what they prepare.
#[derive(Debug)]
enum Driver {
    Fbgemm(fbgemm::Layout),
    FbgemmDepthwise,
    Qnnpack(Box<qnnpack::Indirection>),
    QnnpackDepthwise,
}

/// Packs weights `[out_c, in_c / groups, kernel_h, kernel_w]` (OIHW) into the form that the engine's kernels read.
///
/// # Errors
/// When the sizes describe no convolution, or when the number of weights does not fit them.
pub fn pack(engine: Engine, shape: &ConvShape, weights: &[i8]) -> Result<Vec<u8>, KernelError> {
    let sizes = shape.check()?;
    check_len("the weights", sizes.k * shape.out_c, weights.len())?;
    match engine {
        Engine::Fbgemm => fbgemm::pack(&sizes, weights),
        Engine::Qnnpack => qnnpack::pack(&sizes, weights),
    }
}

impl PreparedConv {
    /// Prepares a convolution, or a matrix product as one.
    ///
    /// # Errors
    /// When the sizes describe no convolution, or one too large to address.
    pub fn new(engine: Engine, shape: &ConvShape) -> Result<Self, KernelError> {
        let sizes = shape.check()?;
        let (packed_len, driver) = match engine {
            Engine::Fbgemm => (
                fbgemm::packed_len(&sizes)?,
                match sizes.depthwise {
                    true => Driver::FbgemmDepthwise,
                    false => Driver::Fbgemm(fbgemm::Layout::new(&sizes)?),
                },
            ),
            Engine::Qnnpack => (
                qnnpack::packed_len(&sizes)?,
                match sizes.depthwise {
                    true => Driver::QnnpackDepthwise,
                    false => Driver::Qnnpack(Box::new(qnnpack::Indirection::new(&sizes)?)),
                },
            ),
        };
        let scratch_len = match &driver {
            Driver::Fbgemm(layout) => layout.scratch_len(),
            Driver::FbgemmDepthwise => fbgemm::depthwise::scratch_len(shape)?,
            Driver::Qnnpack(indirection) => indirection.scratch_len(),
            Driver::QnnpackDepthwise => qnnpack::depthwise::scratch_len(&sizes),
        };
        Ok(Self {
            sizes,
            driver,
            packed_len,
            scratch_len,
        })
    }

    /// The sizes.
    pub fn shape(&self) -> &ConvShape {
        &self.sizes.shape
    }

    /// The bytes of the packed weights.
    pub fn packed_len(&self) -> usize {
        self.packed_len
    }

    /// The bytes of scratch memory that [`run`](Self::run) needs, whatever the ranges.
    pub fn scratch_len(&self) -> usize {
        self.scratch_len
    }

    /// The bytes of the tables that are kept between calls.
    pub fn table_bytes(&self) -> usize {
        match &self.driver {
            Driver::Qnnpack(indirection) => indirection.table_bytes(),
            _ => 0,
        }
    }

    /// Ranges of columns start at multiples of this number of channels.
    fn column_grain(&self) -> usize {
        match self.driver {
            Driver::Fbgemm(_) | Driver::FbgemmDepthwise => fbgemm::PANEL,
            Driver::Qnnpack(_) | Driver::QnnpackDepthwise => qnnpack::PANEL,
        }
    }

    /// Computes the rows and columns of a call, with the kernels for `isa` or for the next simpler instruction set that has some.
    ///
    /// # Errors
    /// When a length or range does not fit the sizes, when a constant is outside of its range, or when the processor
    /// does not have `isa`. Nothing was written then.
    pub fn run(&self, isa: Isa, call: ConvCall<'_>) -> Result<(), KernelError> {
        if !isa.is_supported() {
            return Err(KernelError::Unsupported(isa));
        }
        self.check(&call)?;
        let sizes = &self.sizes;
        // SAFETY: the processor has the instruction set, and the call was checked against the sizes.
        unsafe {
            match &self.driver {
                Driver::Fbgemm(layout) => fbgemm::run(isa, sizes, layout, call),
                Driver::FbgemmDepthwise => fbgemm::depthwise::run(isa, sizes, call),
                Driver::Qnnpack(indirection) => qnnpack::run(isa, sizes, indirection, call),
                Driver::QnnpackDepthwise => qnnpack::depthwise::run(isa, sizes, call),
            }
        }
        Ok(())
    }

    /// Checks all ranges, lengths and constants of a call.
    fn check(&self, call: &ConvCall<'_>) -> Result<(), KernelError> {
        let (sizes, shape) = (&self.sizes, &self.sizes.shape);
        check_range("pixels", &call.rows, sizes.pixels)?;
        check_range("channels", &call.columns, shape.out_c)?;
        let (columns, grain) = (&call.columns, self.column_grain());
        let whole_panels = columns.start.is_multiple_of(grain)
            && (columns.end.is_multiple_of(grain) || columns.end == shape.out_c);
        let all = *columns == (0..shape.out_c);
        if !whole_panels || (shape.groups > 1 && !all) {
            let (what, range, len) = ("channels", columns.clone(), shape.out_c);
            return Err(KernelError::Range { what, range, len });
        }
        check_len("the input", sizes.input_len, call.input.data.len())?;
        call.input.check()?;
        check_len("the packed weights", self.packed_len, call.weights.len())?;
        call.output.check(call.rows.len(), columns.len())?;
        call.stage.check(sizes.pixels, shape.out_c, &call.output)?;
        check_scratch(self.scratch_len, call.scratch.len())
    }
}
