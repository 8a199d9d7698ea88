//! Publishing, with an end to how late a message may arrive.
//!
//! librdkafka gives a message up after `message.timeout.ms`, which belongs to the handle,
//! while a deadline belongs to the call. So there are two handles: a patient one, and a
//! hasty one for what has less time left. Whoever has not even that is answered at once.
//! A request that the broker has in hand when its time is over may still be stored: no
//! client of any broker can take it back.

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

/// The wait while librdkafka's own queue is full.
const QUEUE_FULL: Duration = Duration::from_millis(10);

/// The handles that publish.
pub(super) struct Producers {
    properties: Arc<Properties>,
    patient: Handle,
    hasty: Handle,
}

struct Handle {
    within: Duration,
    producer: Mutex<FutureProducer<Log>>,
}

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
        OutMessage::check_sizes(messages, limit)?;
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let handle = match left {
            None => &self.patient,
            Some(left) if left >= self.patient.within => &self.patient,
            Some(left) if left >= self.hasty.within => &self.hasty,
            Some(_) => return Err(BusError::Expired),
        };
        let give_up = Instant::now() + handle.within;
        let producer = handle.producer();
        let mut failed = Ok(());
        let mut sent = Vec::with_capacity(messages.len());
        for message in messages {
            match send(&producer, message, give_up).await {
                Ok(delivery) => sent.push((message, delivery)),
                Err(error) => {
                    failed = Err((message, error));
                    break;
                }
            }
        }
        for (message, delivery) in sent {
            let delivered = match delivery.await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err((error, _))) => Err(error),
                Err(_) => Err(KafkaError::Canceled),
            };
            if let Err(error) = delivered
                && failed.is_ok()
            {
                failed = Err((message, error));
            }
        }
        failed.map_err(|(message, error)| {
            if error.rdkafka_error_code() == Some(Code::Fatal) {
                handle.renew(&self.properties);
            }
            of_delivery(message, &error, limit, deadline.is_some())
        })
    }
}

impl Handle {
    fn new(properties: &Properties, within: Duration) -> Result<Self, BusError> {
        Ok(Self { within, producer: Mutex::new(create(properties, within)?) })
    }

    fn producer(&self) -> FutureProducer<Log> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An idempotent producer that has lost its sequence takes nothing any more.
    fn renew(&self, properties: &Properties) {
        match create(properties, self.within) {
            Ok(producer) => {
                *self.producer.lock().unwrap_or_else(PoisonError::into_inner) = producer;
            }
            Err(error) => tracing::error!(target: "kafka", %error, "no new producer"),
        }
    }
}

fn create(properties: &Properties, within: Duration) -> Result<FutureProducer<Log>, BusError> {
    properties
        .of(Use::Producer { within })
        .create_with_context(Log::default())
        .map_err(|error| meaning("connecting to Kafka", &error))
}

async fn send(
    producer: &FutureProducer<Log>,
    message: &OutMessage,
    give_up: Instant,
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
                if !full || Instant::now() >= give_up {
                    return Err(error);
                }
                record = back;
            }
        }
        tokio::time::sleep(QUEUE_FULL).await;
    }
}

fn of_delivery(
    message: &OutMessage,
    error: &KafkaError,
    limit: usize,
    had_deadline: bool,
) -> BusError {
    match error.rdkafka_error_code() {
        Some(Code::MessageTimedOut) if had_deadline => BusError::Expired,
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
            let size = message.value.len();
            // The topic's own limit may be lower than the configured one; it is not told.
            BusError::TooLarge { size, limit: limit.min(size.saturating_sub(1)) }
        }
        _ => meaning(&format!("publishing to topic {}", message.topic), error),
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // What is under way was waited for by its callers or given up by them.
        let producer = self.producer();
        producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
    }
}
