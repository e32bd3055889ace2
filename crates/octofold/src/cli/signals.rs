//! What a command leaves behind when a signal ends it.

/// Removes unfinished files when SIGINT or SIGTERM ends the command, and makes a write beyond the process's limit of file sizes an error.
#[cfg(unix)]
pub(crate) fn install() -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;

    // A signal that has a handler does not end the process: the write itself fails then.
    signal_hook::flag::register(SIGXFSZ, std::sync::Arc::default())?;
    let wait = || {
        // Without this thread, the signals would have no effect, so it makes their handlers itself.
        let signal = Signals::new([SIGINT, SIGTERM]).map(|mut signals| signals.forever().next());
        if let Ok(Some(signal)) = signal {
            octofold::tensor::file::remove_unfinished(|| {
                // The status of the process tells which signal ended it.
                let _ = emulate_default_handler(signal);
            });
        }
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(wait).map(drop)
}

/// Other systems have no such signals.
#[cfg(not(unix))]
pub(crate) fn install() -> std::io::Result<()> {
    Ok(())
}
