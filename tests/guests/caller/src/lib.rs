//! A handler that uses what it is granted, and tries what it is not, for the tests of the
//! plugin host. A batch's payload says what to do; what came of it is the batch's metrics.
//! The input's `deeds` are a batch each.

#![cfg(target_family = "wasm")]

use std::time::Duration;

use flowkit_sdk::documents::Order;
use flowkit_sdk::prelude::*;
use flowkit_sdk::{documents, http};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{Fields, OutgoingRequest, Scheme};
use wasip2::random::random::get_random_bytes;

#[derive(Default)]
struct Caller;

/// What to do.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Deed {
    /// Sends a request and reads the answer.
    Get(String),
    /// The same, giving up after 100 ms without a byte.
    GetSoon(String),
    /// Sends a body of so many bytes.
    Post(String, usize),
    /// Begins requests to this host and lets none of them go, until one is refused.
    Hoard(String),
    /// Sends so many requests, one after another.
    Repeat(String, usize),
    /// Reads a collection.
    Read(String, Value),
    /// Opens cursors and lets none of them go, until one is refused.
    HoardCursors(String),
    /// The same with cursors that are sorted, each read once.
    HoardSorted(String),
    /// Wants so many random bytes at once.
    Random(u64),
    /// Sets timers and lets none of them go.
    HoardTimers,
    /// Opens and reads a cursor for ever.
    ReadForEver(String),
    /// Shows the environment.
    Env,
}

#[derive(Deserialize)]
struct Input {
    #[serde(default)]
    deeds: Vec<Deed>,
}

impl Handler for Caller {
    type Input = Input;
    type Batch = Deed;
    type Output = Map<String, Value>;
    type Checkpoint = ();

    fn iter_batches(&mut self, input: Input, _: Option<()>) -> Result<Batches<Deed>> {
        let batches = input.deeds.into_iter().enumerate();
        Ok(Batches::new(batches.map(|(n, deed)| Batch::new(format!("deed_{n}"), deed))))
    }

    fn process_batch(&mut self, deed: Deed, _: &RunContext<Self>) -> Result<Self::Output> {
        let done = match deed {
            Deed::Get(url) => answer(&http::get(url).header("x-asked", "yes").send()?),
            Deed::GetSoon(url) => {
                answer(&http::get(url).timeout(Duration::from_millis(100)).send()?)
            }
            Deed::Post(url, bytes) => answer(&http::post(url, vec![b'p'; bytes]).send()?),
            Deed::Hoard(host) => json!({"held": hoard(&host)}),
            Deed::Repeat(url, times) => {
                let mut length = 0;
                for _ in 0..times {
                    length += http::get(&url).send()?.success()?.body.len();
                }
                json!({"length": length})
            }
            Deed::Read(collection, query) => read(&collection, &query)?,
            Deed::HoardCursors(collection) => hoard_cursors(&collection)?,
            Deed::HoardSorted(collection) => hoard_sorted(&collection)?,
            Deed::Random(bytes) => json!({"length": get_random_bytes(bytes).len()}),
            Deed::HoardTimers => {
                let mut held = Vec::new();
                loop {
                    held.push(subscribe_duration(u64::MAX));
                }
            }
            Deed::ReadForEver(collection) => loop {
                documents::find(&collection).read::<Value>()?.for_each(drop);
            },
            Deed::Env => std::env::vars().map(|(name, value)| (name, Value::from(value))).collect(),
        };
        Ok(done.as_object().cloned().unwrap_or_default())
    }
}

fn answer(answer: &http::Response) -> Value {
    let head = answer.body.get(..20).unwrap_or(&answer.body);
    json!({
        "status": answer.status,
        "length": answer.body.len(),
        "head": String::from_utf8_lossy(head),
    })
}

/// How many requests could be begun.
fn hoard(host: &str) -> usize {
    let mut held = Vec::new();
    loop {
        let request = OutgoingRequest::new(Fields::new());
        let fits = request.set_scheme(Some(&Scheme::Http)).is_ok()
            && request.set_authority(Some(host)).is_ok()
            && request.set_path_with_query(Some("/endless")).is_ok();
        let Some(begun) = outgoing_handler::handle(request, None).ok().filter(|_| fits) else {
            return held.len();
        };
        // A refusal is there at once; an answer to be read never is.
        begun.subscribe().block();
        match begun.get() {
            Some(Ok(Ok(answer))) => held.push((begun, answer)),
            _ => return held.len(),
        }
    }
}

fn read(collection: &str, query: &Value) -> Result<Value> {
    let mut find = documents::find(collection).filter(query["filter"].clone());
    if let Some(size) = query["batch_size"].as_u64() {
        find = find.batch_size(u32::try_from(size)?);
    }
    let (mut pages, mut count, mut sum) = (0, 0, 0);
    for page in find.read::<Value>()? {
        let page = page?;
        pages += 1;
        count += page.len();
        sum += page.iter().filter_map(|document| document["n"].as_u64()).sum::<u64>();
    }
    Ok(json!({"pages": pages, "count": count, "sum": sum}))
}

fn hoard_cursors(collection: &str) -> Result<Value> {
    let mut held = Vec::new();
    loop {
        match documents::find(collection).read::<Value>() {
            Ok(pages) => held.push(pages),
            Err(error) => return Err(error.context(format!("{} were opened", held.len()))),
        }
    }
}

fn hoard_sorted(collection: &str) -> Result<Value> {
    let mut held = Vec::new();
    loop {
        let find = documents::find(collection).sort("n", Order::Descending).batch_size(1);
        let mut pages = find.read::<Value>()?;
        match pages.next().transpose() {
            Ok(page) => held.push((pages, page.map_or(0, |page| page.len()))),
            Err(error) => return Err(error.context(format!("{} were read", held.len()))),
        }
    }
}

export!(Caller);
