//! ONNX files: [`import()`] reads them into a [`Graph`](crate::Graph), [`export()`] writes them.
//!
//! # Reading
//! A file is scanned before it is decoded ([`scan()`]), because no decoder limits how much memory a few bytes ask for. Functions of the model
//! are inlined, initializers and `Constant` nodes become constants, every operator is brought from the form of its opset to the newest
//! form, the one that [`octofold_ops`] knows, and types are inferred. Whatever the bytes are, the result is a graph or an
//! [`ImportError`] that names the place; nothing panics, and [`Budget`] bounds time and memory.
//!
//! Bodies of `If`, `Loop` and `Scan` become closed: the values around them that they read become operands. A name that a body defines must not be that
//! of a value around it, as ONNX asks for.
//!
//! Not read: subgraphs of functions, sequences, maps and optionals, training information, and default values of inputs: an
//! input with an initializer is a constant.
//!
//! # Writing
//! The file has one opset, [`OPSET`], whatever the graph holds, so that what we export is tested in one form. Operators of
//! our own domain are refused: passes expand them before.
//!
//! ONNX is read and written with `prost`, from messages of our own (`proto/onnx.proto`). `onnx-protobuf` is the second,
//! independent decoder of the tests and no more: it does not build without pinning a version of `protobuf` that aborts on
//! hostile bytes.

mod attribute;
mod budget;
mod error;
mod export;
mod external_data;
mod functions;
mod import;
mod names;
mod opset;
mod order;
pub mod proto;
mod scan;
mod tensor;

pub use budget::Budget;
pub use error::{ExportError, FunctionError, ImportError, ImportErrorKind, NodeError};
pub(crate) use export::newer_attribute;
pub use export::{ExportOptions, IR_VERSION, OPSET, export, export_to_file};
pub use external_data::ExternalDataError;
pub(crate) use external_data::{ExternalData, fnv1a64};
pub(crate) use functions::NEWEST;
pub(crate) use import::{Extension, OUTPUT, SOURCES, import_decoded};
pub use import::{ImportOptions, import, import_bytes};
pub use opset::{ReadableOperator, readable_operators};
pub use scan::{ScanError, decode, scan};
pub use tensor::{TensorProtoError, tensor_from_bytes, tensor_from_proto, tensor_to_proto};
