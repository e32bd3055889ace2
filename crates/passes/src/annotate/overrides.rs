//! The settings of single values.

use std::collections::BTreeMap;

use octofold_ir::ValueId;

use super::values::Selection;
use super::{Annotations, Unhonoured, ValueAnnotation, is_fixed};
use crate::config::SpecEdit;

/// Applies the settings of single values. Values that share an observer change together: those of the same type in all keys of the setting, others
/// in their observer.
pub(super) fn apply<'a>(
    selection: &Selection<'_>,
    edits: impl Iterator<Item = (&'a String, &'a SpecEdit)>,
    annotations: &mut Annotations,
) {
    let mut changed: BTreeMap<ValueId, &str> = BTreeMap::new();
    for (name, edit) in edits {
        let found = selection.graph.value_named(name);
        let found = found.and_then(|id| Some((id, annotations.values.get(&id)?.clone())));
        let result = match found {
            None => Err(
                "the value is not quantized: nothing quantized reads it under this name".to_owned(),
            ),
            Some((_, annotation)) => match changed.insert(annotation.observed, name) {
                Some(other) => Err(format!(
                    "the value shares its parameters with `{other}`, which has a setting of its own"
                )),
                None => apply_one(selection, &annotation, edit, annotations),
            },
        };
        if let Err(reason) = result {
            annotations.unhonoured.push(Unhonoured {
                setting: format!("value {name}"),
                place: name.clone(),
                reason,
            });
        }
    }
}

/// Applies the setting of one value to all that share its observer, or says why not.
fn apply_one(
    selection: &Selection<'_>,
    annotation: &ValueAnnotation,
    edit: &SpecEdit,
    annotations: &mut Annotations,
) -> Result<(), String> {
    let graph = selection.graph;
    let mut spec = annotation.spec;
    edit.apply(&mut spec).map_err(|error| error.to_string())?;
    spec.check().map_err(|error| error.to_string())?;
    let dtype = annotation.spec.dtype;
    // The type decides which kernels run, so it belongs to the operators.
    if spec.dtype != dtype {
        return Err(
            "a value has the type of the operators that compute and read it: set their qconfig"
                .to_owned(),
        );
    }
    let shares = |other: &ValueAnnotation| other.observed == annotation.observed;
    let members = annotations.values.iter().filter(|(_, other)| shares(other));
    for (&id, _) in members.filter(|(_, other)| other.spec.dtype == dtype) {
        let users = graph.value(id).producer().into_iter();
        let users = users.chain(graph.uses(id).into_iter().map(|used| used.node));
        let mut classes = users.filter_map(|node| Some(selection.candidates.get(&node)?.class));
        if let Some(reason) =
            classes.find_map(|class| selection.backend.execution(class, &spec).err())
        {
            return Err(reason);
        }
    }
    let values = annotations.values.values_mut();
    for other in values.chain(annotations.conversions.values_mut()) {
        if !shares(other) {
            continue;
        }
        if other.spec.dtype == dtype {
            other.spec = spec;
        } else if !is_fixed(&spec) {
            other.spec.observer = spec.observer;
        }
    }
    Ok(())
}
