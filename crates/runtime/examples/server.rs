//! A server in small: threads with a session for each plan take requests from one bounded queue.
//!
//! `cargo run --release -p octofold-runtime --example server -- 60000 A.oct B.oct …` answers 60,000 requests for these plans, with batches of several sizes where
//! a plan leaves its batch open. Every tenth request is wrong: its inputs have an axis more, and it is answered by an error. At the end the example says whether equal
//! requests got equal bits, and how the memory grew in the second half.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use octofold_runtime::{Plan, Pool, RunError, Session, SessionOptions, Tensor, constant_bytes};

const THREADS: usize = 16;
/// A request waits here until a thread is free; a client that sends more waits, too.
const WAITING: usize = 64;

/// A request: the number of the plan and of the batch, and whether it is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Request {
    plan: usize,
    batch: usize,
    wrong: bool,
}

/// What all threads know.
struct Answers {
    /// A checksum of the outputs of each kind of request.
    outputs: HashMap<Request, u64>,
    different: usize,
    refused: usize,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Inputs for a batch; zeros but for a pattern in the first elements.
fn inputs(plan: &Plan, request: Request) -> Result<Vec<(&str, Tensor)>, Failure> {
    let shapes = plan.input_shapes(|_| request.batch + 1)?;
    let mut inputs = Vec::new();
    for (input, mut shape) in plan.inputs().zip(shapes) {
        if request.wrong {
            shape.push(3);
        }
        let count: usize = shape.iter().product();
        let pattern = |i| ((i * 7 + request.batch) % 13) as f32 / 13.0;
        let tensor = match input.dtype {
            octofold_runtime::DType::F32 => Tensor::new(shape, (0..count).map(pattern).collect())?,
            other => Tensor::zeros(other, shape)?,
        };
        inputs.push((input.name.as_str(), tensor));
    }
    Ok(inputs)
}

/// Answers requests until there are no more.
fn serve(
    plans: &[Arc<Plan>],
    pool: &Arc<Pool>,
    queue: &Mutex<Receiver<Request>>,
    answers: &Mutex<Answers>,
) -> Result<(), Failure> {
    let session =
        |plan| Session::with_pool(Arc::clone(plan), SessionOptions::DEFAULT, Arc::clone(pool));
    let mut sessions = plans.iter().map(session).collect::<Result<Vec<_>, _>>()?;
    loop {
        let request = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(request) = request else { return Ok(()) };
        let found = sessions[request.plan].run(&inputs(&plans[request.plan], request)?);
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(outputs) => {
                let hasher = BuildHasherDefault::<DefaultHasher>::default();
                // All bytes; the `Debug` form of a tensor has its first elements only.
                let bytes = |(name, output): &(String, Tensor)| {
                    (
                        name.clone(),
                        output.shape().to_vec(),
                        constant_bytes(output),
                    )
                };
                let bits = hasher.hash_one(outputs.iter().map(bytes).collect::<Vec<_>>());
                if *answers.outputs.entry(request).or_insert(bits) != bits {
                    answers.different += 1;
                }
            }
            // The client's mistake: the session goes on.
            Err(RunError::Input { .. } | RunError::UnknownInput { .. }) if request.wrong => {
                answers.refused += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The resident memory of this process in pages; 0 where the system does not say.
fn pages() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = text.split_whitespace().nth(1);
    resident.and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let runs: usize = arguments
        .next()
        .ok_or("expected RUNS PLAN.oct …")?
        .parse()?;
    let plans: Vec<Arc<Plan>> = arguments
        .map(|path| Plan::load(path).map(Arc::new))
        .collect::<Result<_, _>>()?;
    if plans.is_empty() {
        return Err("expected RUNS PLAN.oct …".into());
    }
    let pool = Arc::new(Pool::new(THREADS)?);
    let (client, queue) = sync_channel(WAITING);
    let queue = Arc::new(Mutex::new(queue));
    let answers = Mutex::new(Answers {
        outputs: HashMap::new(),
        different: 0,
        refused: 0,
    });
    let mut half = 0;
    let served = std::thread::scope(|scope| -> Result<(), Failure> {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (queue, plans, pool, answers) = (Arc::clone(&queue), &plans, &pool, &answers);
                scope.spawn(move || serve(plans, pool, &queue, answers))
            })
            .collect();
        // The threads have the queue: when all of them have ended by errors, the client's next request is refused.
        drop(queue);
        for number in 0..runs {
            if number == runs / 2 {
                half = pages();
            }
            let (plan, batch) = (number % plans.len(), number / plans.len() % 4);
            let wrong = number % 10 == 9;
            if client.send(Request { plan, batch, wrong }).is_err() {
                break;
            }
        }
        drop(client);
        for thread in threads {
            thread.join().map_err(|_| "a thread panicked")??;
        }
        Ok(())
    });
    served?;
    let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{runs} requests, {} refused, {} with other bits than before, {} pages of memory more in the second half",
        answers.refused,
        answers.different,
        pages().saturating_sub(half)
    );
    if answers.different > 0 {
        return Err("equal requests got different bits".into());
    }
    Ok(())
}
