//! What `compile` and `quantize` print when they are done.

use std::path::Path;

use octofold::Summary;

/// Prints the sizes, the share of the work on integers, and how many nodes stayed float.
pub(crate) fn print_summary(summary: &Summary, output: &Path) {
    let output = output.display();
    let kilobytes = |bytes: u64| bytes as f64 / 1e3;
    println!(
        "{output}: {:.1} kB of weights, {:.1} kB before ({:.1} times smaller)",
        kilobytes(summary.bytes),
        kilobytes(summary.bytes_before),
        summary.bytes_before as f64 / summary.bytes.max(1) as f64
    );
    println!(
        "{:.2} % of the multiply-accumulates on integers",
        100.0 * summary.integer_share
    );
    match summary.float_nodes {
        // Nodes without products are not counted where nothing was quantized.
        0 if summary.integer_share == 0.0 => {
            println!("`octofold check MODEL` says why");
        }
        0 => println!("no node of {} computes in float", summary.nodes),
        float => println!(
            "{float} of {} nodes compute in float; `octofold inspect {output}` says why",
            summary.nodes
        ),
    }
}
