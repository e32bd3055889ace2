//! Recurrent layers.

use super::super::error::NodeError;
use super::OldNode;
use octofold_ops::bail_attribute;

/// `LSTM`, `GRU` and `RNN` before opset 14 have no `layout`, and are otherwise as they are today. The forms of opsets 1 and 3 say by `output_sequence` which
/// results there are, and nothing writes them any more.
pub(super) fn layer(old: &OldNode) -> Result<(), NodeError> {
    if old.version < 7 {
        return Err(NodeError::Form(
            "the form before opset 7 is not supported; convert the model to opset 7 or newer"
                .to_owned(),
        ));
    }
    if old.attributes.contains("layout") {
        bail_attribute!("layout", "is unknown before opset 14");
    }
    Ok(())
}
