//! A handler whose batches tell which version of it processed them. The tests make its
//! versions: they replace the digits in the marker, in a copy of the component.

#![cfg(target_family = "wasm")]

use std::hint::black_box;
use std::time::Duration;

use flowkit_sdk::prelude::*;
use serde::{Deserialize, Serialize};

static MARKER: &[u8; 21] = b"flowkit-version-00000";

#[derive(Default)]
struct Versioned {
    input: Input,
}

/// What to do.
#[derive(Default, Deserialize)]
struct Input {
    /// How many batches.
    count: u32,
    /// How long each waits.
    ms: u64,
}

#[derive(Serialize)]
struct Done {
    version: u32,
}

impl Handler for Versioned {
    type Input = Input;
    type Batch = u32;
    type Output = Done;
    type Checkpoint = ();

    fn iter_batches(&mut self, input: Input, _: Option<()>) -> Result<Batches<u32>> {
        let numbers = 0..input.count;
        self.input = input;
        Ok(Batches::new(numbers.map(|number| Batch::new(format!("b{number}"), number))))
    }

    fn process_batch(&mut self, _: u32, _: &RunContext<Self>) -> Result<Done> {
        std::thread::sleep(Duration::from_millis(self.input.ms));
        // Unseen by the compiler, which would otherwise replace it by its value.
        let digits = &black_box(MARKER)[16..];
        let version = digits.iter().fold(0, |n, digit| 10 * n + u32::from(digit - b'0'));
        Ok(Done { version })
    }
}

export!(Versioned);
