//! Reading outside of any group: from the end on, or all that there is now.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::ASK_WITHIN;
use super::assignment::Partition;
use super::client::Log;
use super::error::{is_passing, meaning, of_code};
use super::message;
use super::properties::{Properties, Use};
use crate::bus::{BusError, History, InMessage, Tail, Topic};
use crate::tasks::{self, TaskHandle};

/// How long one poll waits; a reader that was dropped is noticed as soon.
const POLL: Duration = Duration::from_millis(100);

/// Messages that may wait for the reader.
const WAITING: usize = 32;

/// The wait for a topic that was made a moment ago and has no leader yet.
const SETTLE: Duration = Duration::from_millis(50);

type Sender = mpsc::Sender<Result<InMessage, BusError>>;

/// Reads what a thread of its own fetches.
pub(super) struct Reader {
    messages: mpsc::Receiver<Result<InMessage, BusError>>,
    _polling: TaskHandle<()>,
}

/// Where to read next in each partition.
type Places = BTreeMap<Partition, i64>;

/// Everything that is published to `topics` from now on.
pub(super) fn from_the_end(
    properties: &Properties,
    topics: Vec<Topic>,
) -> Result<Reader, BusError> {
    let consumer = consumer(properties)?;
    let mut places = Places::new();
    for topic in &topics {
        for number in partitions(&consumer, topic)? {
            let (_, end) = range(&consumer, topic, number)?;
            places.insert((topic.clone(), number), end);
        }
    }
    assign(&consumer, &places)?;
    let every = properties.refresh_interval();
    Ok(Reader::start(move |sender| {
        let following = Following { consumer, topics, places, every };
        following.run(sender);
    }))
}

/// Everything that is in `topic` now.
pub(super) fn up_to_now(properties: &Properties, topic: Topic) -> Result<Reader, BusError> {
    let consumer = consumer(properties)?;
    let (mut places, mut ends) = (Places::new(), BTreeMap::new());
    for number in partitions(&consumer, &topic)? {
        let (begin, end) = range(&consumer, &topic, number)?;
        if begin < end {
            places.insert((topic.clone(), number), begin);
            ends.insert(number, end);
        }
    }
    assign(&consumer, &places)?;
    Ok(Reader::start(move |sender| read_all(&consumer, ends, sender)))
}

impl Reader {
    fn start(work: impl FnOnce(&Sender) + Send + 'static) -> Self {
        let (sender, messages) = mpsc::channel(WAITING);
        let polling = tasks::spawn_blocking("read-kafka", move || work(&sender));
        Self { messages, _polling: polling }
    }
}

#[async_trait]
impl Tail for Reader {
    async fn next(&mut self) -> Result<InMessage, BusError> {
        let ended = || BusError::Fatal("the reader's thread has ended".into());
        self.messages.recv().await.ok_or_else(ended)?
    }
}

#[async_trait]
impl History for Reader {
    async fn next(&mut self) -> Result<Option<InMessage>, BusError> {
        self.messages.recv().await.transpose()
    }
}

/// Reading on and on.
struct Following {
    consumer: BaseConsumer<Log>,
    topics: Vec<Topic>,
    places: Places,
    /// How often partitions that were added are looked for.
    every: Duration,
}

impl Following {
    fn run(mut self, sender: &Sender) {
        let mut looked = Instant::now();
        while !sender.is_closed() {
            if looked.elapsed() > self.every {
                looked = Instant::now();
                if let Err(error) = self.add_new_partitions() {
                    tracing::debug!(target: "kafka", %error, "new partitions were not looked for");
                }
            }
            let Some(item) = next_item(&self.consumer) else { continue };
            if let Ok(Polled::Message(message)) = &item {
                let partition = (message.topic.clone(), message.partition);
                self.places.insert(partition, message.offset + 1);
            }
            match item {
                Ok(Polled::End(_)) => {}
                // An error means that nobody reads any more.
                Ok(Polled::Message(message)) => drop(sender.blocking_send(Ok(message))),
                Err(error) => drop(sender.blocking_send(Err(error))),
            }
        }
    }

    /// What was published to a partition before it was found is read as well.
    fn add_new_partitions(&mut self) -> Result<(), BusError> {
        let before = self.places.len();
        for topic in &self.topics {
            for number in partitions(&self.consumer, topic)? {
                self.places.entry((topic.clone(), number)).or_insert(0);
            }
        }
        if self.places.len() > before { assign(&self.consumer, &self.places) } else { Ok(()) }
    }
}

/// What a poll brings.
enum Polled {
    Message(InMessage),
    /// Nothing more is in the partition for now.
    End(i32),
}

fn next_item(consumer: &BaseConsumer<Log>) -> Option<Result<Polled, BusError>> {
    match consumer.poll(POLL)? {
        Ok(message) => Some(message::read(&message).map(Polled::Message)),
        Err(KafkaError::PartitionEOF(number)) => Some(Ok(Polled::End(number))),
        Err(error) => {
            // librdkafka looks for its brokers by itself, and logs that it does.
            let code = error.rdkafka_error_code().filter(|code| !is_passing(*code))?;
            Some(Err(of_code("reading a topic", code)))
        }
    }
}

/// Reads each partition to its end in `ends`, and stops at the first error.
fn read_all(consumer: &BaseConsumer<Log>, mut ends: BTreeMap<i32, i64>, sender: &Sender) {
    let mut heard = Instant::now();
    while !ends.is_empty() && !sender.is_closed() {
        let item = match next_item(consumer) {
            Some(item) => item,
            None if heard.elapsed() < ASK_WITHIN => continue,
            None => Err(consumer
                .context()
                .explain(BusError::Unavailable("reading a topic: the broker is silent".into()))),
        };
        heard = Instant::now();
        let message = match item {
            // Nothing more is there, though transactions or compaction left a gap.
            Ok(Polled::End(number)) => {
                ends.remove(&number);
                continue;
            }
            Ok(Polled::Message(message)) => message,
            Err(error) => {
                let _ = sender.blocking_send(Err(error));
                return;
            }
        };
        let Some(end) = ends.get(&message.partition).copied() else { continue };
        if message.offset + 1 >= end {
            ends.remove(&message.partition);
        }
        if message.offset < end {
            // An error means that nobody reads any more.
            let _ = sender.blocking_send(Ok(message));
            heard = Instant::now();
        }
    }
}

fn consumer(properties: &Properties) -> Result<BaseConsumer<Log>, BusError> {
    properties
        .of(Use::Reader)
        .create_with_context(properties.log())
        .map_err(|error| properties.log().explain(meaning("connecting to Kafka", &error)))
}

/// A topic's partitions, once it has any.
fn partitions(consumer: &BaseConsumer<Log>, topic: &Topic) -> Result<Vec<i32>, BusError> {
    let asking = format!("asking Kafka for topic {topic}");
    let give_up = Instant::now() + ASK_WITHIN;
    loop {
        let listed = consumer.fetch_metadata(Some(topic.as_str()), ASK_WITHIN);
        let listed =
            listed.map_err(|error| consumer.context().explain(meaning(&asking, &error)))?;
        let of_topic = listed.topics().iter().find(|found| found.name() == topic.as_str());
        let numbers: Vec<i32> = of_topic
            .map(|found| found.partitions().iter().map(|partition| partition.id()).collect())
            .unwrap_or_default();
        if !numbers.is_empty() {
            return Ok(numbers);
        }
        if Instant::now() > give_up {
            return Err(BusError::Unavailable(format!("{asking}: it has no partitions")));
        }
        std::thread::sleep(SETTLE);
    }
}

/// The first offset of a partition, and the one after its last.
fn range(consumer: &BaseConsumer<Log>, topic: &Topic, number: i32) -> Result<(i64, i64), BusError> {
    let give_up = Instant::now() + ASK_WITHIN;
    loop {
        let error = match consumer.fetch_watermarks(topic.as_str(), number, ASK_WITHIN) {
            Ok(range) => return Ok(range),
            Err(error) => error,
        };
        let settles = matches!(
            error.rdkafka_error_code(),
            Some(
                Code::LeaderNotAvailable
                    | Code::NotLeaderForPartition
                    | Code::UnknownPartition
                    | Code::UnknownTopicOrPartition
            )
        );
        if !settles || Instant::now() > give_up {
            let error = meaning(&format!("asking Kafka for the end of topic {topic}"), &error);
            return Err(consumer.context().explain(error));
        }
        std::thread::sleep(SETTLE);
    }
}

fn assign(consumer: &BaseConsumer<Log>, places: &Places) -> Result<(), BusError> {
    let reading = |error| meaning("reading a topic", &error);
    let mut list = TopicPartitionList::with_capacity(places.len());
    for ((topic, number), offset) in places {
        list.add_partition_offset(topic.as_str(), *number, Offset::Offset(*offset))
            .map_err(reading)?;
    }
    consumer.assign(&list).map_err(reading)
}
