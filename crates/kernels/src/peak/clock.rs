//! Measuring how fast threads do something together.

use std::io;
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The number of windows, of which the best counts.
pub(super) const WINDOWS: usize = 10;
/// The length of a window: long compared with one piece of work, short compared with the time for which other programs leave a processor alone.
const WINDOW: Duration = Duration::from_millis(2);
/// Work before the first window, for caches to fill and clocks to rise.
const WARM_UP: Duration = Duration::from_millis(4);

/// How much `piece` does a second on `threads` threads together, in the best window. Each thread has a state of its own, that `setup`
/// makes of its number; `piece` does a few microseconds of work with it and says how much that was.
///
/// All threads share the windows, so that they are measured while they disturb each other.
pub(super) fn rate<S>(
    threads: usize,
    setup: impl Fn(usize) -> S + Sync,
    piece: impl Fn(&mut S) -> u64 + Sync,
) -> io::Result<f64> {
    let sums = Mutex::new([0.0; WINDOWS]);
    let windows = |state: &mut S, first: Instant| {
        until(first, || piece(state));
        let mut end = first;
        for window in 0..WINDOWS {
            end += WINDOW;
            let rate = until(end, || piece(state));
            sums.lock().unwrap_or_else(PoisonError::into_inner)[window] += rate;
        }
    };
    thread::scope(|scope| {
        let (ready, all_ready) = channel();
        let mut gates = Vec::new();
        for number in 1..threads {
            let (gate, opened) = channel();
            gates.push(gate);
            let (ready, setup, windows) = (ready.clone(), &setup, &windows);
            thread::Builder::new().spawn_scoped(scope, move || {
                let mut state = setup(number);
                drop(ready);
                // When a thread could not be started, the gates close without having opened.
                if let Ok(first) = opened.recv() {
                    windows(&mut state, first);
                }
            })?;
        }
        let mut state = setup(0);
        drop(ready);
        // Nothing is sent: the channel ends when every thread is ready.
        let _: Result<(), _> = all_ready.recv();
        let first = Instant::now() + WARM_UP;
        for gate in gates {
            let _: Result<(), _> = gate.send(first);
        }
        windows(&mut state, first);
        Ok::<_, io::Error>(())
    })?;
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(sums.into_iter().fold(0.0, f64::max))
}

/// Works until a moment, at least once; gives how much was done a second.
fn until(end: Instant, mut piece: impl FnMut() -> u64) -> f64 {
    let (began, mut done) = (Instant::now(), 0_u64);
    loop {
        done += piece();
        let now = Instant::now();
        if now >= end {
            return done as f64 / (now - began).as_secs_f64();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_of_all_threads_counts() {
        let setups = Mutex::new(Vec::new());
        let setup = |number| setups.lock().unwrap().push(number);
        let rate = rate(3, setup, |()| {
            thread::sleep(Duration::from_micros(50));
            1
        });
        let rate = rate.unwrap();
        let mut setups = setups.into_inner().unwrap();
        setups.sort_unstable();
        assert_eq!(setups, [0, 1, 2]);
        // A thread cannot do more than one piece in 50 microseconds.
        assert!(rate > 0.0 && rate <= 3.0 * 20_000.0, "{rate}");
    }
}
