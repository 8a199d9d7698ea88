//! Messages as librdkafka has them, and as the bus has them.

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Header, Headers, OwnedHeaders};

use crate::bus::{BusError, InMessage, Topic};
use crate::clock::UnixMs;

/// A message that was read.
pub(super) fn read(message: &BorrowedMessage<'_>) -> Result<InMessage, BusError> {
    let topic = Topic::new(message.topic())
        .map_err(|error| BusError::Fatal(format!("the broker names a {error}")))?;
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Ok(InMessage {
        topic,
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().unwrap_or_default().to_vec(),
        headers: headers
            .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
            .collect(),
        timestamp: UnixMs(message.timestamp().to_millis().unwrap_or(0)),
    })
}

/// The headers of a message to publish; `None` without any.
pub(super) fn headers(headers: &[(String, Vec<u8>)]) -> Option<OwnedHeaders> {
    if headers.is_empty() {
        return None;
    }
    let all = OwnedHeaders::new_with_capacity(headers.len());
    Some(
        headers.iter().fold(all, |all, (key, value)| {
            all.insert(Header { key, value: Some(value.as_slice()) })
        }),
    )
}
