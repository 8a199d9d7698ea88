//! Commands that could not be used, kept where a person finds them.

use crate::bus::{InMessage, OutMessage, Topic};
use crate::clock::UnixMs;

/// A message that was refused, with where it came from and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The topic it was read from.
    pub topic: Topic,
    /// Its partition there.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// Why it was refused.
    pub error: String,
    /// When.
    pub time: UnixMs,
    /// Its key, if it is text.
    pub key: Option<String>,
    /// Its value, or the beginning of it.
    pub value: Vec<u8>,
    /// The value's length before it was cut; `None` when it is whole.
    pub cut_from: Option<usize>,
}

/// Why a message of the dead-letter topic is not a dead letter of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its header `{0}` is missing or cannot be read")]
pub struct Unreadable(pub &'static str);

impl DeadLetter {
    /// The letter about `message`.
    pub fn about(message: &InMessage, error: &str, time: UnixMs) -> Self {
        Self {
            topic: message.topic.clone(),
            partition: message.partition,
            offset: message.offset,
            error: error.to_owned(),
            time,
            key: message.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned()),
            value: message.value.clone(),
            cut_from: None,
        }
    }

    /// The same with at most `most` bytes of the value.
    pub fn cut_to(mut self, most: usize) -> Self {
        if self.value.len() > most {
            self.cut_from.get_or_insert(self.value.len());
            self.value.truncate(most);
        }
        self
    }

    /// The message that keeps it in `topic`: the value as it was read, the rest as headers.
    pub fn to_message(&self, topic: &Topic) -> OutMessage {
        let mut headers = vec![
            header("topic", self.topic.as_str()),
            header("partition", &self.partition.to_string()),
            header("offset", &self.offset.to_string()),
            header("error", &self.error),
            header("time_ms", &self.time.0.to_string()),
        ];
        if let Some(length) = self.cut_from {
            headers.push(header("cut_from", &length.to_string()));
        }
        let (topic, key, value) = (topic.clone(), self.key.clone(), self.value.clone());
        OutMessage { topic, key, value, headers }
    }

    /// Reads what [`to_message`](Self::to_message) wrote.
    pub fn decode(message: &InMessage) -> Result<Self, Unreadable> {
        let text = |name: &'static str| {
            let (_, value) = message.headers.iter().find(|(n, _)| n == name)?;
            std::str::from_utf8(value).ok()
        };
        let needed = |name: &'static str| text(name).ok_or(Unreadable(name));
        Ok(Self {
            topic: Topic::new(needed("topic")?).map_err(|_| Unreadable("topic"))?,
            partition: needed("partition")?.parse().map_err(|_| Unreadable("partition"))?,
            offset: needed("offset")?.parse().map_err(|_| Unreadable("offset"))?,
            error: needed("error")?.to_owned(),
            time: UnixMs(needed("time_ms")?.parse().map_err(|_| Unreadable("time_ms"))?),
            key: message.key.as_ref().map(|key| String::from_utf8_lossy(key).into_owned()),
            value: message.value.clone(),
            cut_from: match text("cut_from") {
                None => None,
                Some(length) => Some(length.parse().map_err(|_| Unreadable("cut_from"))?),
            },
        })
    }

    /// The message as its topic had it; `None` when only its beginning was kept.
    pub fn original(&self) -> Option<OutMessage> {
        if self.cut_from.is_some() {
            return None;
        }
        let (topic, key, value) = (self.topic.clone(), self.key.clone(), self.value.clone());
        Some(OutMessage { topic, key, value, headers: Vec::new() })
    }
}

fn header(name: &str, value: &str) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: OutMessage) -> InMessage {
        InMessage {
            topic: message.topic,
            partition: 1,
            offset: 9,
            key: message.key.map(String::into_bytes),
            value: message.value,
            headers: message.headers,
            timestamp: UnixMs(5),
        }
    }

    fn refused() -> InMessage {
        let topic = Topic::new("cmd.echo.v1").unwrap();
        let key = Some("t:n".to_owned());
        read(OutMessage { topic, key, value: vec![0, 255, 7], headers: vec![header("a", "b")] })
    }

    #[test]
    fn a_letter_reads_back_and_gives_the_original_again() {
        let letters = Topic::new("workers.dlq.v1").unwrap();
        let letter = DeadLetter::about(&refused(), "not JSON", UnixMs(7));
        let back = DeadLetter::decode(&read(letter.to_message(&letters))).unwrap();
        assert_eq!(back, letter);
        let original = back.original().unwrap();
        assert_eq!((original.topic, original.value), (refused().topic, refused().value));
        assert_eq!(original.key.map(String::into_bytes), refused().key);
    }

    #[test]
    fn a_cut_letter_says_so_and_cannot_be_replayed() {
        let letters = Topic::new("workers.dlq.v1").unwrap();
        let letter = DeadLetter::about(&refused(), "large", UnixMs(7)).cut_to(2).cut_to(1);
        let back = DeadLetter::decode(&read(letter.to_message(&letters))).unwrap();
        assert_eq!((back.cut_from, back.value.len()), (Some(3), 1));
        assert_eq!(back.original(), None);
        assert_eq!(DeadLetter::about(&refused(), "", UnixMs(7)).cut_to(3).cut_from, None);
    }

    #[test]
    fn a_strangers_message_is_named_for_what_it_lacks() {
        assert_eq!(DeadLetter::decode(&refused()), Err(Unreadable("topic")));
        let letters = Topic::new("workers.dlq.v1").unwrap();
        for name in ["topic", "partition", "offset", "time_ms"] {
            let letter = DeadLetter::about(&refused(), "large", UnixMs(7));
            let mut message = read(letter.to_message(&letters));
            for (known, value) in &mut message.headers {
                if known == name {
                    *value = b"a b".to_vec();
                }
            }
            assert_eq!(DeadLetter::decode(&message), Err(Unreadable(name)));
        }
    }
}
