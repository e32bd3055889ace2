//! Drawings of graphs in the DOT language of Graphviz.
//!
//! Boxes are nodes with their main attributes, ellipses are inputs and outputs, edges carry types. Edges of quantized values are drawn in blue.
//! Constants are named in the node that reads them, small ones with their elements.

use std::fmt::Write;

use octofold_ops::Attribute;
use octofold_tensor::Tensor;

use crate::{Graph, NodeId, ValueId, visible};

/// Constants of more elements are drawn by their type.
const MAX_ELEMENTS: usize = 4;

/// Attributes whose text is longer are left out.
const MAX_ATTRIBUTE: usize = 40;

const QUANTIZED: &str = "#1f6fb4";

/// Draws a graph. Equal graphs give equal text.
pub fn to_dot(graph: &Graph) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = draw(graph, &mut out);
    out
}

fn draw(graph: &Graph, out: &mut String) -> std::fmt::Result {
    writeln!(out, "digraph {} {{", quoted(graph.name()))?;
    out.push_str("  rankdir=TB;\n  node [shape=box, fontname=\"Helvetica\", fontsize=10];\n  edge [fontname=\"Helvetica\", fontsize=9];\n");
    for &id in graph.inputs() {
        let value = graph.value(id);
        let label = format!("{}\n{}", value.name(), value.ty());
        writeln!(out, "  {id} [label={}, shape=ellipse];", quoted(&label))?;
    }
    // A graph with a cycle is drawn all the same.
    let order = graph.order().unwrap_or_else(|_| graph.node_ids().collect());
    for &id in &order {
        writeln!(
            out,
            "  {id} [label={}{}];",
            quoted(&label(graph, id)),
            fill(graph, id)
        )?;
    }
    for &id in &order {
        for &operand in graph.node(id).inputs().iter().flatten() {
            edge(graph, operand, &id.to_string(), out)?;
        }
    }
    for (index, output) in graph.outputs().iter().enumerate() {
        writeln!(
            out,
            "  o{index} [label={}, shape=ellipse];",
            quoted(&output.name)
        )?;
        edge(graph, output.value, &format!("o{index}"), out)?;
    }
    out.push_str("}\n");
    Ok(())
}

/// The edge from where a value comes from; constants have none.
fn edge(graph: &Graph, from: ValueId, to: &str, out: &mut String) -> std::fmt::Result {
    let value = graph.value(from);
    if value.constant().is_some() {
        return Ok(());
    }
    let source = value
        .producer()
        .map_or_else(|| from.to_string(), |node| node.to_string());
    let mut ty = value.ty().clone();
    let params = ty
        .quantization
        .take()
        .map(|params| match params.per_tensor() {
            Some(params) => format!("\n{params}"),
            None => "\none scale a channel".to_owned(),
        });
    let colour = if params.is_some() {
        format!(", color=\"{QUANTIZED}\", fontcolor=\"{QUANTIZED}\"")
    } else {
        String::new()
    };
    let label = format!("{ty}{}", params.unwrap_or_default());
    writeln!(
        out,
        "  {source} -> {to} [label={}{colour}];",
        quoted(&label)
    )
}

fn label(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let op = node.op();
    let dot = if op.domain().is_empty() { "" } else { "." };
    let mut label = format!("{}{dot}{}\n{}", op.domain(), op.name(), node.name());
    for (name, value) in op.attributes() {
        if let Some(text) = attribute(&value) {
            label.push_str(&format!("\n{name} = {text}"));
        }
    }
    for &operand in node.inputs().iter().flatten() {
        if let Some(tensor) = graph.value(operand).constant() {
            label.push_str(&format!(
                "\n{}: {}",
                graph.value(operand).name(),
                constant(tensor)
            ));
        }
    }
    label
}

fn attribute(value: &Attribute) -> Option<String> {
    let text = match value {
        Attribute::Int(x) => x.to_string(),
        Attribute::Float(x) => format!("{x:?}"),
        Attribute::String(x) => x.clone(),
        Attribute::Ints(x) => format!("{x:?}"),
        Attribute::Floats(x) => format!("{x:?}"),
        Attribute::Strings(x) => format!("{x:?}"),
        Attribute::Tensor(x) => constant(x),
        Attribute::Body(x) => format!("body {}", x.0),
    };
    (text.len() <= MAX_ATTRIBUTE).then_some(text)
}

fn constant(tensor: &Tensor) -> String {
    if tensor.len() <= MAX_ELEMENTS {
        format!("{tensor:?}")
    } else {
        crate::TensorType::of(tensor).to_string()
    }
}

/// The colour of nodes with a quantized result.
fn fill(graph: &Graph, id: NodeId) -> String {
    let quantized = graph
        .node(id)
        .outputs()
        .iter()
        .any(|&output| graph.value(output).ty().quantization.is_some());
    if quantized {
        format!(", color=\"{QUANTIZED}\"")
    } else {
        String::new()
    }
}

fn quoted(text: &str) -> String {
    format!(
        "\"{}\"",
        visible(text)
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn quantized_edges_are_blue_and_constants_stay_inside() {
        let text = "g (float[N,3] x) => (float[N,3] y) <float s = {0.5}, uint8 z = {128}> {\n\
                    [q] xq = QuantizeLinear (x, s, z)\n[d] y = DequantizeLinear (xq, s, z)\n}";
        let dot = super::to_dot(&crate::text::parse(text, None).unwrap());
        assert!(
            dot.contains(
                "n0 -> n1 [label=\"uint8[N,3]\\n{scale: 0.5, zero_point: 128}\", color=\"#1f6fb4\""
            ),
            "{dot}"
        );
        assert!(dot.contains("s: float[] {0.5}"), "{dot}");
        assert!(dot.contains("n1 -> o0 [label=\"float[N,3]\"]"), "{dot}");
        assert_eq!(dot.matches("->").count(), 3);
    }

    #[test]
    fn names_do_not_control_a_terminal() {
        let mut graph = crate::Graph::new("g");
        let ty = crate::TensorType::new(octofold_tensor::DType::F32, [1_i64]);
        graph.add_input("x\u{1b}[2J", ty).unwrap();
        let dot = super::to_dot(&graph);
        assert!(
            !dot.contains('\u{1b}') && dot.contains("x\\\\u{1b}[2J"),
            "{dot}"
        );
    }
}
