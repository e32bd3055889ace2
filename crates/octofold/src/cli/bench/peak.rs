//! The limits of the machine, as text and as JSON.

use std::fmt::Write as _;

use octofold::kernels::peak::{Level, Peak};
use serde_json::{Value, json};

pub(super) fn to_text(peak: &Peak) -> String {
    let mut text = format!("the limits of {} thread(s):\n", peak.threads);
    for compute in &peak.compute {
        // Writing to a text does not fail.
        let _ = writeln!(
            text,
            "  {:10} {:8.1} GOP/s int8 {:8.1} GFLOP/s float",
            compute.isa, compute.int8_gops, compute.float_gflops
        );
    }
    for memory in &peak.memory {
        let size = match memory.level {
            Level::Memory => String::new(),
            _ => format!(", {} KiB", memory.capacity >> 10),
        };
        let _ = writeln!(
            text,
            "  {:10} {:8.1} GB/s read  {:8.1} GB/s written{size}",
            memory.level, memory.read_gbs, memory.write_gbs
        );
    }
    text
}

pub(super) fn to_json(peak: &Peak) -> Value {
    let compute = peak.compute.iter().map(|compute| {
        json!({
            "isa": compute.isa.name(),
            "int8_gops": compute.int8_gops,
            "float_gflops": compute.float_gflops,
        })
    });
    let memory = peak.memory.iter().map(|memory| {
        json!({
            "level": memory.level.to_string(),
            "capacity_bytes": (memory.level != Level::Memory).then_some(memory.capacity),
            "measured_bytes": memory.measured,
            "read_gbs": memory.read_gbs,
            "write_gbs": memory.write_gbs,
        })
    });
    json!({
        "threads": peak.threads,
        "compute": compute.collect::<Vec<_>>(),
        "memory": memory.collect::<Vec<_>>(),
    })
}

/// A number of bytes for people.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
