//! Recurrent layers.

use super::super::error::NodeError;
use super::OldNode;

/// `LSTM` before opset 14 has no `layout`, and is otherwise as it is today. The form of opset 1 says by `output_sequence` which results there are, and
/// nothing writes it any more.
pub(super) fn lstm(old: &OldNode) -> Result<(), NodeError> {
    if old.version < 7 {
        return Err(NodeError::Form(
            "the form before opset 7 is not supported; convert the model to opset 7 or newer"
                .to_owned(),
        ));
    }
    if old.attributes.contains("layout") {
        return Err(NodeError::attribute("layout", "is unknown before opset 14"));
    }
    Ok(())
}
