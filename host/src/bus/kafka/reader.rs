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
use super::error::{meaning, of_code};
use super::message;
use super::properties::{Properties, Use};
use crate::bus::{BusError, History, InMessage, Tail, Topic};
use crate::tasks::{self, TaskHandle};

/// How long one poll waits; a reader that was dropped is noticed as soon.
const POLL: Duration = Duration::from_millis(100);

/// Messages that may wait for the reader.
const WAITING: usize = 32;

/// How often partitions that were added are looked for.
const LOOK_FOR_PARTITIONS: Duration = Duration::from_secs(30);

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
    Ok(Reader::start(move |sender| follow(&consumer, &topics, places, sender)))
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

fn follow(consumer: &BaseConsumer<Log>, topics: &[Topic], mut places: Places, sender: &Sender) {
    let mut looked = Instant::now();
    while !sender.is_closed() {
        if looked.elapsed() > LOOK_FOR_PARTITIONS {
            looked = Instant::now();
            if let Err(error) = add_new_partitions(consumer, topics, &mut places) {
                tracing::debug!(target: "kafka", %error, "new partitions were not looked for");
            }
        }
        let item = match consumer.poll(POLL) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => continue,
            Some(Ok(message)) => message::read(&message),
            Some(Err(error)) => match of_poll(&error) {
                Some(error) => Err(error),
                None => continue,
            },
        };
        if let Ok(message) = &item {
            places.insert((message.topic.clone(), message.partition), message.offset + 1);
        }
        // An error means that nobody reads any more.
        let _ = sender.blocking_send(item);
    }
}

fn read_all(consumer: &BaseConsumer<Log>, mut ends: BTreeMap<i32, i64>, sender: &Sender) {
    while !ends.is_empty() && !sender.is_closed() {
        let item = match consumer.poll(POLL) {
            None => continue,
            // Nothing more is there, though transactions or compaction left a gap.
            Some(Err(KafkaError::PartitionEOF(number))) => {
                ends.remove(&number);
                continue;
            }
            Some(Ok(message)) => message::read(&message),
            Some(Err(error)) => match of_poll(&error) {
                Some(error) => Err(error),
                None => continue,
            },
        };
        if let Ok(message) = &item
            && let Some(end) = ends.get(&message.partition).copied()
            && message.offset + 1 >= end
        {
            ends.remove(&message.partition);
            if message.offset >= end {
                continue;
            }
        } else if let Ok(message) = &item
            && !ends.contains_key(&message.partition)
        {
            continue;
        }
        let _ = sender.blocking_send(item);
    }
}

/// librdkafka looks for its brokers by itself, and logs that it does.
fn of_poll(error: &KafkaError) -> Option<BusError> {
    match error.rdkafka_error_code()? {
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::OperationTimedOut => None,
        code => Some(of_code("reading a topic", code)),
    }
}

/// What was published to a partition before it was found is read as well.
fn add_new_partitions(
    consumer: &BaseConsumer<Log>,
    topics: &[Topic],
    places: &mut Places,
) -> Result<(), BusError> {
    let before = places.len();
    for topic in topics {
        for number in partitions(consumer, topic)? {
            places.entry((topic.clone(), number)).or_insert(0);
        }
    }
    if places.len() > before { assign(consumer, places) } else { Ok(()) }
}

fn consumer(properties: &Properties) -> Result<BaseConsumer<Log>, BusError> {
    properties
        .of(Use::Reader)
        .create_with_context(Log::default())
        .map_err(|error| meaning("connecting to Kafka", &error))
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
            return Err(meaning(&format!("asking Kafka for the end of topic {topic}"), &error));
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
