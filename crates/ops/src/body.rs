//! Bodies: graphs that operators run.

use octofold_tensor::{DType, Shape, Tensor};

use crate::attribute::{Attribute, AttributeMap, Attributes, Field};
use crate::{OpError, bail_attribute};

/// Which of the bodies of its graph or plan an operator runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BodyId(pub u32);

impl BodyId {
    /// The position among the bodies.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Field for BodyId {
    fn write(&self, name: &str, out: &mut Attributes) {
        out.push((name.to_owned(), Attribute::Body(*self)));
    }

    fn read(name: &str, map: &mut AttributeMap) -> Result<Option<Self>, OpError> {
        match map.take(name) {
            None => Ok(None),
            Some(Attribute::Body(body)) => Ok(Some(body)),
            Some(other) => bail_attribute!(name, "expected graph, found {}", other.type_name()),
        }
    }
}

/// What runs the bodies of a graph or plan, and bounds what they take.
pub trait Bodies {
    /// Runs a body on all its inputs, by position. `outputs` gets all its outputs; the tensors that it holds before may be overwritten, where
    /// nobody else holds their elements, so that a caller that runs a body again and again takes no new memory.
    ///
    /// # Errors
    /// When there is no such body, inputs do not fit it, a node fails, or a limit is reached.
    fn call(
        &mut self,
        body: BodyId,
        inputs: &[Tensor],
        outputs: &mut Vec<Tensor>,
    ) -> Result<(), OpError>;

    /// The element type and sizes of a body's output, 0 for sizes that are not known; `None` when there is no such output.
    fn output(&self, body: BodyId, slot: usize) -> Option<(DType, Shape)>;

    /// Counts bytes that an operator keeps while it runs bodies.
    ///
    /// # Errors
    /// When they exceed the limit.
    fn keep(&mut self, bytes: u64) -> Result<(), OpError>;
}
