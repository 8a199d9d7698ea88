//! Publishing, with an end to how late a message may arrive.
//!
//! librdkafka gives a message up after `message.timeout.ms`, which belongs to the handle,
//! while a deadline belongs to the call. So there are two handles: a patient one, and a
//! hasty one for what has less time left. Whoever has not even that is answered at once.
//! librdkafka looks for messages whose time is over once a second, which is left to it
//! before a deadline. A request that the broker has in hand when its time is over may still
//! be stored: no client of any broker can take it back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer};
use tokio::time::Instant;

use super::client::Log;
use super::error::meaning;
use super::message;
use super::properties::{Properties, Use};
use crate::bus::{BusError, OutMessage};

/// The longest a message is tried; the caller, who may try again, learns of an outage.
const PATIENT: Duration = Duration::from_secs(5);

/// The shortest that still allows for one slow answer.
const HASTY: Duration = Duration::from_secs(1);

/// How late librdkafka may give a message up.
const LATE: Duration = Duration::from_secs(1);

/// The wait while librdkafka's own queue is full.
const QUEUE_FULL: Duration = Duration::from_millis(10);

/// What a message takes beside its key, its value and its headers, in bytes, at most.
const MESSAGE_EXTRA: usize = 36;

/// The same for a header beside its name and its value.
const HEADER_EXTRA: usize = 10;

/// The handles that publish.
pub(super) struct Producers {
    properties: Arc<Properties>,
    patient: Handle,
    hasty: Handle,
}

struct Handle {
    /// A message's time.
    within: Duration,
    /// The time that has to be left for that.
    needs: Duration,
    /// The present one and its number.
    producer: Mutex<(u64, FutureProducer<Log>)>,
}

/// Messages that were not stored, by their number, and why.
type Failures = Vec<(usize, KafkaError)>;

impl Producers {
    /// Makes both handles. No broker needs to answer yet.
    pub fn new(properties: Arc<Properties>) -> Result<Self, BusError> {
        let patient = PATIENT.min(properties.lease_ttl() / 2);
        let hasty = HASTY.min(patient / 4);
        Ok(Self {
            patient: Handle::new(&properties, patient)?,
            hasty: Handle::new(&properties, hasty)?,
            properties,
        })
    }

    /// Publishes in order; see [`Bus::publish`](crate::bus::Bus::publish).
    pub async fn publish(
        &self,
        messages: &[OutMessage],
        deadline: Option<Instant>,
    ) -> Result<(), BusError> {
        let limit = self.properties.message_max_bytes();
        messages.iter().try_for_each(|message| check_size(message, limit))?;
        let failures = self.send(messages, deadline).await?;
        let together = messages.len() > 1 && failures.iter().any(|(_, error)| is_too_large(error));
        if !together {
            let first = failures.first();
            return first
                .map_or(Ok(()), |(n, error)| Err(self.meaning(&messages[*n], error, deadline)));
        }
        // The topic's own limit may be lower than what librdkafka packs into one request:
        // one at a time, a message is refused for its own size alone.
        for (n, error) in failures {
            let message = &messages[n];
            if !is_too_large(&error) {
                return Err(self.meaning(message, &error, deadline));
            }
            let alone = std::slice::from_ref(message);
            let failed = self.send(alone, deadline).await?;
            if let Some((_, error)) = failed.first() {
                return Err(self.meaning(message, error, deadline));
            }
        }
        Ok(())
    }

    /// Waits for all messages, and tells which failed.
    async fn send(
        &self,
        messages: &[OutMessage],
        deadline: Option<Instant>,
    ) -> Result<Failures, BusError> {
        let handle = self.handle(deadline)?;
        // A message's time begins when librdkafka has room for it.
        let latest = deadline.and_then(|deadline| deadline.checked_sub(handle.within));
        let latest = latest.unwrap_or_else(|| Instant::now() + handle.within);
        let failures = handle.publish(messages, latest, &self.properties).await;
        if failures.is_empty() {
            self.properties.log().answered();
        }
        Ok(failures)
    }

    /// The handle that gives up before `deadline`.
    fn handle(&self, deadline: Option<Instant>) -> Result<&Handle, BusError> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match left {
            None => Ok(&self.patient),
            Some(left) if left >= self.patient.needs => Ok(&self.patient),
            Some(left) if left >= self.hasty.needs => Ok(&self.hasty),
            Some(_) => Err(BusError::Expired),
        }
    }

    fn meaning(
        &self,
        message: &OutMessage,
        error: &KafkaError,
        deadline: Option<Instant>,
    ) -> BusError {
        if is_too_large(error) {
            let (size, limit) = (message.value.len(), self.properties.message_max_bytes());
            // The topic's own limit is not told; it is lower than this.
            return BusError::TooLarge { size, limit: limit.min(size.saturating_sub(1)) };
        }
        let timed_out = error.rdkafka_error_code() == Some(Code::MessageTimedOut);
        if timed_out && deadline.is_some() && self.handle(deadline).is_err() {
            return BusError::Expired;
        }
        let what = format!("publishing to topic {}", message.topic);
        self.properties.log().explain(meaning(&what, error))
    }
}

impl Handle {
    fn new(properties: &Properties, within: Duration) -> Result<Self, BusError> {
        let needs = within + LATE.min(properties.lease_ttl() / 8);
        Ok(Self { within, needs, producer: Mutex::new((0, create(properties, within)?)) })
    }

    /// Begins with all messages by `latest`, waits for them, and tells which failed.
    async fn publish(
        &self,
        messages: &[OutMessage],
        latest: Instant,
        properties: &Properties,
    ) -> Failures {
        let (number, producer) =
            self.producer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut failures = Failures::new();
        let mut sent = Vec::with_capacity(messages.len());
        for (n, message) in messages.iter().enumerate() {
            match send(&producer, message, latest).await {
                Ok(delivery) => sent.push((n, delivery)),
                Err(error) => {
                    failures.push((n, error));
                    break;
                }
            }
        }
        for (n, delivery) in sent {
            match delivery.await {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => failures.push((n, error)),
                Err(_) => failures.push((n, KafkaError::Canceled)),
            }
        }
        failures.sort_by_key(|(n, _)| *n);
        let ended = producer.client().fatal_error().filter(|_| !failures.is_empty());
        if let Some((code, why)) = ended {
            tracing::warn!(target: "kafka", %code, why, "a producer has ended and is replaced");
            self.renew(number, properties);
            // What failed tells only that the producer had ended, not of what.
            for (_, error) in &mut failures {
                *error = KafkaError::MessageProduction(code);
            }
        }
        failures
    }

    /// An idempotent producer that has lost its sequence takes nothing any more: the one of
    /// that `number` makes way for another, unless it has already.
    fn renew(&self, number: u64, properties: &Properties) {
        let mut current = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != number {
            return;
        }
        match create(properties, self.within) {
            Ok(producer) => *current = (number + 1, producer),
            Err(error) => tracing::error!(target: "kafka", %error, "no new producer"),
        }
    }
}

fn create(properties: &Properties, within: Duration) -> Result<FutureProducer<Log>, BusError> {
    properties
        .of(Use::Producer { within })
        .create_with_context(properties.log())
        .map_err(|error| properties.log().explain(meaning("connecting to Kafka", &error)))
}

async fn send(
    producer: &FutureProducer<Log>,
    message: &OutMessage,
    latest: Instant,
) -> Result<DeliveryFuture, KafkaError> {
    let mut record: FutureRecord<'_, str, [u8]> =
        FutureRecord::to(message.topic.as_str()).payload(&message.value);
    if let Some(key) = &message.key {
        record = record.key(key);
    }
    if let Some(headers) = message::headers(&message.headers) {
        record = record.headers(headers);
    }
    loop {
        match producer.send_result(record) {
            Ok(delivery) => return Ok(delivery),
            Err((error, back)) => {
                let full = error.rdkafka_error_code() == Some(Code::QueueFull);
                if !full || Instant::now() >= latest {
                    return Err(error);
                }
                record = back;
            }
        }
        tokio::time::sleep(QUEUE_FULL).await;
    }
}

/// Refuses what librdkafka would refuse, before anything is sent. The limit that is told is
/// what is left for the value beside its key and its headers.
fn check_size(message: &OutMessage, limit: usize) -> Result<(), BusError> {
    let headers = message.headers.iter();
    let headers: usize = headers.map(|(n, v)| n.len() + v.len() + HEADER_EXTRA).sum();
    let beside = MESSAGE_EXTRA + message.key.as_ref().map_or(0, String::len) + headers;
    let (size, limit) = (message.value.len(), limit.saturating_sub(beside));
    if size > limit { Err(BusError::TooLarge { size, limit }) } else { Ok(()) }
}

fn is_too_large(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize))
}
