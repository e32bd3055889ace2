//! The thread pool of a session: a caller and its workers, which share the items of one call at a time.
//!
//! A general thread pool is too slow for a step of a few microseconds. Here, workers spin for a moment after
//! each call and then sleep. An atomic counter hands out items, so that a slow thread takes fewer of them. A worker that wakes
//! late finds the call closed and does not delay it.
//!
//! Sessions may share a pool. While several of them run, each computes on its caller's thread only, so that a program that runs sessions on
//! its own threads has no other busy threads.
//!
//! The results do not depend on the number of threads, because kernels compute each item separately.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

use smallvec::SmallVec;

use crate::StepError;
use crate::blob::AlignedBytes;

/// The largest number of threads of a pool. No processor runs more at once, and a system that is asked for many more may end the process.
pub const MAX_THREADS: usize = 1024;

/// How often a worker reads the state before it sleeps: about 50 microseconds.
const SPINS: u32 = 2_000;
/// This bit of the state is set while workers may enter the call.
const OPEN: u64 = 1 << 31;
/// The number of the call begins at this bit of the state. The bits below [`OPEN`] are the number of workers inside.
const EPOCH: u32 = 32;

/// The function for every item of a call, with the scratch memory of the thread.
pub type Item<'a> = dyn Fn(usize, &mut [u8]) -> Result<(), StepError> + Sync + 'a;

/// The function that every thread of a call runs, with the number of the thread.
type Body<'a> = dyn Fn(usize) + Sync + 'a;

struct Shared {
    /// The number of the call, whether it is open, and the number of workers inside.
    state: AtomicU64,
    /// The function of the call. The caller writes it while the call is closed and no worker is inside.
    body: UnsafeCell<Option<*const Body<'static>>>,
    sleeping: AtomicUsize,
    door: Mutex<()>,
    bell: Condvar,
    stop: AtomicBool,
    panicked: AtomicBool,
}

// SAFETY: only the caller that holds the pool's `busy` lock writes `body`, while the state is closed and counts no worker inside. Only
// workers that entered while the state was open read it. The state's sequentially consistent operations order both. The
// function that it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it belongs to one thread.
unsafe impl Send for Shared {}

/// The start of an output of which threads write disjoint parts.
struct Start<T>(*mut T);

// SAFETY: the pointer is only used for disjoint parts, each of which one thread has, and `T` may change threads.
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

/// Neighbouring columns of all rows of an output. See [`Pool::run_columns`].
pub struct Columns<'a, T> {
    /// The first column in row 0.
    start: *mut T,
    /// The distance from one row to the next.
    stride: usize,
    rows: usize,
    width: usize,
    output: PhantomData<&'a mut [T]>,
}

impl<T> Columns<'_, T> {
    /// The number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// These columns of a few neighbouring rows.
    ///
    /// # Errors
    /// When the output does not have the rows.
    pub fn rows(&mut self, rows: Range<usize>) -> Result<SmallVec<[&mut [T]; 16]>, StepError> {
        if rows.end > self.rows {
            let (row, rows) = (rows.end - 1, self.rows);
            return Err(StepError::invalid(format!("row {row} of {rows} rows")));
        }
        // SAFETY: the rows exist. `run_columns` borrows the whole output, which has `rows` rows of `stride` elements, and these columns are inside each. One
        // call has them, whose exclusive borrow of `self` lives as long as these slices, and no two are of the same row.
        let row = |row: usize| unsafe {
            let start = self.start.add(row * self.stride);
            std::slice::from_raw_parts_mut(start, self.width)
        };
        Ok(rows.map(row).collect())
    }
}

/// The workers of a caller. See the [module](self).
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The number of sessions that are running: see [`Pool::enter`].
    running: AtomicUsize,
    /// Held by the caller that has the workers; calls do not nest.
    busy: Mutex<()>,
    /// One buffer for each thread, kept from call to call; the first belongs to one of the callers.
    scratch: Vec<Mutex<AlignedBytes>>,
    /// The buffers of the other callers, and of what steps compute before their parts.
    spare: Mutex<Vec<AlignedBytes>>,
}

/// One run of a session; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller's included; 0 is taken for 1.
    ///
    /// # Errors
    /// When the system refuses a thread, or there are more than [`MAX_THREADS`].
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        if threads > MAX_THREADS {
            let reason = format!("{threads} threads, the limit is {MAX_THREADS}");
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                reason,
            ));
        }
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            body: UnsafeCell::new(None),
            sleeping: AtomicUsize::new(0),
            door: Mutex::new(()),
            bell: Condvar::new(),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
        });
        let mut pool = Self {
            shared,
            workers: Vec::new(),
            running: AtomicUsize::new(0),
            busy: Mutex::new(()),
            scratch: (0..threads).map(|_| Mutex::default()).collect(),
            spare: Mutex::default(),
        };
        for number in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("octofold-{number}"));
            pool.workers
                .push(thread.spawn(move || work(&shared, number))?);
        }
        Ok(pool)
    }

    /// The number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.scratch.len()
    }

    /// Registers a session that begins to run. While more than one runs, each call uses only the thread of its caller.
    pub(crate) fn enter(&self) -> Running<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(&self.running)
    }

    /// Calls `item(i, scratch)` for every `i` in `0..items`, each once, on all threads. The scratch has `scratch_len` bytes with any content.
    ///
    /// A single item, or a single thread, runs on the caller's thread. So does a call while another one has the workers. Calls must not nest.
    ///
    /// # Errors
    /// The first error in time; items that were not handed out by then are dropped. [`StepError::Worker`] after a panic.
    pub fn run(&self, items: usize, scratch_len: usize, item: &Item<'_>) -> Result<(), StepError> {
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let body = |thread: usize| {
            let result = self.with_scratch(thread, scratch_len, |scratch| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= items {
                        return Ok(());
                    }
                    item(index, scratch)?;
                }
            });
            if let Err(error) = result {
                next.store(items, Ordering::Relaxed);
                lock(&failure).get_or_insert(error);
            }
        };
        let alone =
            items > 1 && !self.workers.is_empty() && self.running.load(Ordering::Relaxed) <= 1;
        if !alone || !self.broadcast(&body) {
            body(0);
        } else if self.shared.panicked.swap(false, Ordering::SeqCst) {
            return Err(StepError::Worker);
        }
        failure
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }

    /// Cuts `output` into parts of `part` elements (the last may be shorter) and calls `each(start, part, scratch)` for every one, on all threads.
    ///
    /// # Errors
    /// As [`Pool::run`].
    pub fn run_parts<T: Send>(
        &self,
        output: &mut [T],
        part: usize,
        scratch_len: usize,
        each: impl Fn(usize, &mut [T], &mut [u8]) -> Result<(), StepError> + Sync,
    ) -> Result<(), StepError> {
        let (len, part) = (output.len(), part.max(1));
        let start = Start(output.as_mut_ptr());
        self.run(len.div_ceil(part), scratch_len, &|index, scratch| {
            let first = index * part;
            let count = part.min(len - first);
            // SAFETY: `first + count <= len`, so the part is inside `output`, which is borrowed for the whole call; `run` gives each index to one
            // thread once, and the parts of different indices do not overlap.
            let part = unsafe { std::slice::from_raw_parts_mut(start.at(first), count) };
            each(first, part, scratch)
        })
    }

    /// Cuts `output` into `parts` parts of whole units of `unit` elements (the last unit may be shorter), almost equal, and calls `each(start, part,
    /// scratch)` for every one, on all threads.
    ///
    /// # Errors
    /// As [`Pool::run`].
    pub fn run_units<T: Send>(
        &self,
        output: &mut [T],
        unit: usize,
        parts: usize,
        scratch_len: usize,
        each: impl Fn(usize, &mut [T], &mut [u8]) -> Result<(), StepError> + Sync,
    ) -> Result<(), StepError> {
        let (len, unit) = (output.len(), unit.max(1));
        let units = len.div_ceil(unit);
        let parts = parts.clamp(1, units.max(1));
        let start = Start(output.as_mut_ptr());
        // Not the product, which could overflow.
        let end = |part: usize| {
            let units = units / parts * part + (units % parts * part).div_ceil(parts);
            units.saturating_mul(unit).min(len)
        };
        self.run(
            if len == 0 { 0 } else { parts },
            scratch_len,
            &|index, scratch| {
                let (first, end) = (end(index), end(index + 1));
                // SAFETY: `end` never decreases and is at most `len`, so the part is inside `output`, which is borrowed for the whole call; `run` gives each index
                // to one thread once, and the parts of different indices do not overlap.
                let part = unsafe { std::slice::from_raw_parts_mut(start.at(first), end - first) };
                each(first, part, scratch)
            },
        )
    }

    /// Cuts the rows of `output`, each of `width` elements, at the same places into parts of `part` columns (the last may be narrower) and
    /// calls `each(first column, columns, scratch)` for every one, on all threads.
    ///
    /// # Errors
    /// As [`Pool::run`].
    pub fn run_columns<T: Send>(
        &self,
        output: &mut [T],
        width: usize,
        part: usize,
        scratch_len: usize,
        each: impl Fn(usize, &mut Columns<'_, T>, &mut [u8]) -> Result<(), StepError> + Sync,
    ) -> Result<(), StepError> {
        let (part, rows) = (part.max(1), output.len().checked_div(width).unwrap_or(0));
        let start = Start(output.as_mut_ptr());
        self.run(width.div_ceil(part), scratch_len, &|index, scratch| {
            let first = index * part;
            let mut columns = Columns {
                start: start.at(first),
                stride: width,
                rows,
                width: part.min(width - first),
                output: PhantomData,
            };
            each(first, &mut columns, scratch)
        })
    }

    fn with_scratch<R>(
        &self,
        thread: usize,
        len: usize,
        run: impl FnOnce(&mut [u8]) -> Result<R, StepError>,
    ) -> Result<R, StepError> {
        if len == 0 {
            return run(&mut []);
        }
        if let Some(mut scratch) = try_lock(&self.scratch[thread]) {
            return run(at_least(&mut scratch, len)?);
        }
        // Another caller has the first buffer.
        self.with_spare(len, run)
    }

    /// Memory beyond the buffers of the threads, kept for the next call: for what a step computes before its parts.
    pub(crate) fn with_spare<R>(
        &self,
        len: usize,
        run: impl FnOnce(&mut [u8]) -> Result<R, StepError>,
    ) -> Result<R, StepError> {
        let mut scratch = lock(&self.spare).pop().unwrap_or_default();
        let result = at_least(&mut scratch, len).and_then(run);
        lock(&self.spare).push(scratch);
        result
    }

    /// Runs `body` on the caller's thread and on all workers that arrive in time, and returns when all of them have left it. Returns `false` at once
    /// while another caller has the workers.
    fn broadcast(&self, body: &Body<'_>) -> bool {
        /// Closes the call and waits for the workers inside, also when the caller's own part panics.
        struct Close<'a>(&'a Shared);
        impl Drop for Close<'_> {
            fn drop(&mut self) {
                self.0.state.fetch_and(!OPEN, Ordering::SeqCst);
                let mut looks = 0_u32;
                while self.0.state.load(Ordering::SeqCst) & (OPEN - 1) != 0 {
                    looks += 1;
                    if looks.is_multiple_of(1 << 14) {
                        // The worker may be waiting for this processor.
                        std::thread::yield_now();
                    }
                    std::hint::spin_loop();
                }
            }
        }

        let Some(_busy) = try_lock(&self.busy) else {
            return false;
        };
        let shared = &*self.shared;
        // SAFETY: the lifetime is erased, but `Close` keeps this function from returning while any worker is inside, and workers
        // read the pointer only inside. The call is closed and empty now, so no thread reads the cell.
        unsafe {
            let body = std::mem::transmute::<*const Body<'_>, *const Body<'static>>(
                std::ptr::from_ref(body),
            );
            *shared.body.get() = Some(body);
        }
        let epoch =
            (shared.state.load(Ordering::SeqCst) >> EPOCH).wrapping_add(1) & u64::from(u32::MAX);
        let close = Close(shared);
        shared.state.store(epoch << EPOCH | OPEN, Ordering::SeqCst);
        if shared.sleeping.load(Ordering::SeqCst) > 0 {
            let _door = lock(&shared.door);
            shared.bell.notify_all();
        }
        body(0);
        drop(close);
        true
    }
}

/// The first `len` bytes of a buffer, which is made anew when it is shorter.
fn at_least(scratch: &mut AlignedBytes, len: usize) -> Result<&mut [u8], StepError> {
    if scratch.bytes().len() < len {
        *scratch = AlignedBytes::default();
        let no_memory =
            || StepError::invalid(format!("there is no memory for {len} bytes of scratch"));
        *scratch = AlignedBytes::zeroed(len).ok_or_else(no_memory)?;
    }
    Ok(&mut scratch.bytes_mut()[..len])
}

/// The loop of a worker.
fn work(shared: &Shared, number: usize) {
    let mut last = 0_u64;
    let mut spins = 0;
    let news = |state: u64, last: u64| state & OPEN != 0 && state >> EPOCH != last;
    while !shared.stop.load(Ordering::SeqCst) {
        let state = shared.state.load(Ordering::SeqCst);
        if news(state, last) {
            let entered =
                shared
                    .state
                    .compare_exchange(state, state + 1, Ordering::SeqCst, Ordering::SeqCst);
            if entered.is_ok() {
                last = state >> EPOCH;
                // SAFETY: this worker is inside the open call, so the caller has written the pointer and does not return yet.
                let result = unsafe {
                    (*shared.body.get())
                        .map(|body| catch_unwind(AssertUnwindSafe(|| (*body)(number))))
                };
                if matches!(result, Some(Err(_))) {
                    shared.panicked.store(true, Ordering::SeqCst);
                }
                shared.state.fetch_sub(1, Ordering::SeqCst);
                spins = 0;
            }
            continue;
        }
        spins += 1;
        if spins < SPINS {
            std::hint::spin_loop();
            continue;
        }
        let door = lock(&shared.door);
        shared.sleeping.fetch_add(1, Ordering::SeqCst);
        // The caller wakes workers only when it sees a sleeper, so the worker reads the state again after it has announced its sleep.
        let quiet = |(): &mut ()| {
            !news(shared.state.load(Ordering::SeqCst), last) && !shared.stop.load(Ordering::SeqCst)
        };
        drop(
            shared
                .bell
                .wait_while(door, quiet)
                .unwrap_or_else(PoisonError::into_inner),
        );
        shared.sleeping.fetch_sub(1, Ordering::SeqCst);
        spins = 0;
    }
}

/// Locks, also after a panic in another thread: each lock here guards a single assignment, so the data are consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks like [`lock`], unless another thread has the lock.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        {
            let _door = lock(&self.shared.door);
            self.shared.bell.notify_all();
        }
        for worker in self.workers.drain(..) {
            // The call in which a worker panicked has reported the panic.
            drop(worker.join());
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_run_at_a_time_have_no_workers() {
        let pool = Pool::new(3).unwrap();
        // With workers, an item ends when a second thread has begun one.
        let threads_of_a_call = |workers: bool| {
            let threads = Mutex::new(std::collections::BTreeSet::new());
            let began = std::time::Instant::now();
            let each = |_: usize, scratch: &mut [u8]| {
                scratch.fill(1);
                lock(&threads).insert(format!("{:?}", std::thread::current().id()));
                while workers && lock(&threads).len() < 2 && began.elapsed().as_secs() < 60 {
                    std::thread::yield_now();
                }
                Ok(())
            };
            pool.run(30, 100, &each).unwrap();
            threads.into_inner().unwrap().len()
        };
        {
            let _running = pool.enter();
            assert!(threads_of_a_call(true) > 1);
            let _other = pool.enter();
            assert_eq!(threads_of_a_call(false), 1);
        }
        assert!(threads_of_a_call(true) > 1);

        // Callers that do not wait for each other, and do not share their scratch memory.
        std::thread::scope(|scope| {
            for caller in 0..4_u8 {
                let pool = &pool;
                scope.spawn(move || {
                    for _ in 0..200 {
                        let _running = pool.enter();
                        let each = |index: usize, scratch: &mut [u8]| {
                            scratch.fill(caller ^ index as u8);
                            std::thread::yield_now();
                            assert!(scratch.iter().all(|&byte| byte == caller ^ index as u8));
                            Ok(())
                        };
                        pool.run(5, 64, &each).unwrap();
                    }
                });
            }
        });
    }

    #[test]
    fn every_item_runs_once_on_any_number_of_threads() {
        for threads in 1..5 {
            let pool = Pool::new(threads).unwrap();
            for round in 0..500_usize {
                let mut output = vec![0_u32; round % 97];
                let each = |first: usize, part: &mut [u32], scratch: &mut [u8]| {
                    scratch.fill(1);
                    part.iter_mut()
                        .enumerate()
                        .for_each(|(i, out)| *out += (first + i) as u32 + 1);
                    Ok(())
                };
                let unit = 1 + round % 5;
                if round % 2 == 0 {
                    pool.run_parts(&mut output, unit, 100, each).unwrap();
                } else {
                    pool.run_units(&mut output, unit, round % 13, 100, each)
                        .unwrap();
                }
                assert!(
                    output
                        .iter()
                        .enumerate()
                        .all(|(i, &out)| out == i as u32 + 1)
                );
            }
        }
    }

    #[test]
    fn columns_cover_every_element_once() {
        for threads in 1..4 {
            let pool = Pool::new(threads).unwrap();
            for (rows, width, part) in [
                (3, 10, 4),
                (1, 1, 1),
                (5, 7, 7),
                (4, 9, 100),
                (2, 0, 3),
                (0, 4, 2),
            ] {
                let mut output = vec![0_usize; rows * width];
                let each = |first: usize, columns: &mut Columns<'_, usize>, _: &mut [u8]| {
                    for (row, values) in columns.rows(0..rows)?.into_iter().enumerate() {
                        for (i, out) in values.iter_mut().enumerate() {
                            *out += row * width + first + i + 1;
                        }
                    }
                    assert!(columns.rows(0..rows + 1).is_err());
                    Ok(())
                };
                pool.run_columns(&mut output, width, part, 0, each).unwrap();
                let expected: Vec<usize> = (1..=rows * width).collect();
                assert_eq!(output, expected);
            }
        }
    }

    #[test]
    fn workers_that_sleep_are_woken() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let count = AtomicUsize::new(0);
            let item = |_, _: &mut [u8]| {
                count.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_micros(300));
                Ok(())
            };
            pool.run(9, 0, &item).unwrap();
            assert_eq!(count.into_inner(), 9);
        }
    }

    #[test]
    fn errors_end_the_call_and_the_pool_lives_on() {
        let pool = Pool::new(2).unwrap();
        let item = |index: usize, _: &mut [u8]| {
            if index == 3 {
                Err(StepError::invalid("three"))
            } else {
                Ok(())
            }
        };
        assert!(
            pool.run(1000, 0, &item)
                .unwrap_err()
                .to_string()
                .contains("three")
        );
        assert!(pool.run(3, 0, &item).is_ok());
    }
}
