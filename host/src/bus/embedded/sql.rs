//! The statements on messages and on what groups have read of them.

use rusqlite::{Connection, OptionalExtension, params};

use super::member::Identity;
use crate::bus::{InMessage, OutMessage, Topic};
use crate::clock::UnixMs;
use crate::sqlite::{Abort, Shared, Tx};

/// Messages that one look at a topic brings.
const FETCH: i64 = 64;

/// Bytes after which a look at a topic brings no further message.
const FETCH_BYTES: usize = 4 * 1024 * 1024;

pub(super) fn topic_id(tx: &Connection, topic: &Topic) -> rusqlite::Result<i64> {
    let known = tx
        .prepare_cached("SELECT id FROM topics WHERE name = ?1")?
        .query_row([topic.as_str()], |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    tx.prepare_cached("INSERT INTO topics (name) VALUES (?1)")?.insert([topic.as_str()])
}

pub(super) fn insert(tx: &Connection, message: &OutMessage, now: UnixMs) -> Result<(), Abort> {
    let topic = topic_id(tx, &message.topic)?;
    let headers = match &*message.headers {
        [] => None,
        headers => Some(serde_json::to_string(headers).map_err(|error| Abort::Damaged {
            what: format!("a message's headers for topic {}", message.topic),
            problem: error.to_string(),
        })?),
    };
    tx.prepare_cached(
        "INSERT INTO messages (topic, key, value, headers, stored_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        topic,
        message.key.as_ref().map(|key| key.as_bytes()),
        message.value,
        headers,
        now.0
    ])?;
    Ok(())
}

/// The messages of a topic after `seq`, as many as are worth holding in memory.
pub(super) fn after(
    tx: &Connection,
    topic: (&Topic, i64),
    seq: i64,
) -> Result<Vec<InMessage>, Abort> {
    let mut statement = tx.prepare_cached(
        "SELECT seq, key, value, headers, stored_at FROM messages
         WHERE topic = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
    )?;
    let mut rows = statement.query(params![topic.1, seq, FETCH])?;
    let (mut messages, mut bytes) = (Vec::new(), 0);
    while bytes < FETCH_BYTES
        && let Some(row) = rows.next()?
    {
        let headers: Option<String> = row.get(3)?;
        // Nothing in the headers is worth a message that could never be read past.
        let headers = headers.and_then(|text| serde_json::from_str(&text).ok());
        let message = InMessage {
            topic: topic.0.clone(),
            partition: 0,
            offset: row.get(0)?,
            key: row.get(1)?,
            value: row.get(2)?,
            headers: headers.unwrap_or_default(),
            timestamp: UnixMs(row.get(4)?),
        };
        bytes += message.value.len();
        messages.push(message);
    }
    Ok(messages)
}

/// The place of the last message that was ever stored.
pub(super) fn last_seq(tx: &Connection) -> rusqlite::Result<i64> {
    let last = tx
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'messages'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(last.unwrap_or(0))
}

/// Makes the group one that reads the topic, from its beginning if it is new to it.
pub(super) fn join(tx: &Connection, group: &str, topic: i64) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT OR IGNORE INTO shares (consumers, topic, committed) VALUES (?1, ?2, 0)",
    )?
    .execute(params![group, topic])
    .map(drop)
}

/// What a member finds when it looks at a topic.
pub(super) enum Turn {
    /// Nothing to read.
    Idle,
    /// Another member is at it.
    Taken,
    /// The member is at it, or may be, from after this place on.
    Free { from: i64, committed: i64, mine: bool },
}

/// Looks at a topic for a member that has fetched up to `fetched` if it is at it.
pub(super) fn look(
    tx: &Connection,
    shared: &Shared,
    who: &Identity,
    (topic, fetched): (i64, i64),
) -> Result<Turn, Abort> {
    let share = tx
        .prepare_cached(
            "SELECT committed, process, member FROM shares WHERE consumers = ?1 AND topic = ?2",
        )?
        .query_row(params![&*who.group, topic], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?, row.get(2)?))
        })
        .optional()?;
    let (committed, process, member) = share.unwrap_or((0, None, None::<i64>));
    let mine = process.as_deref() == Some(&*who.process) && member == Some(who.number);
    let from = if mine { committed.max(fetched) } else { committed };
    let waiting: bool = tx
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM messages WHERE topic = ?1 AND seq > ?2)")?
        .query_row([topic, from], |row| row.get(0))?;
    let taken = |process: &String| *process == *who.process || !shared.processes().gone(process);
    Ok(if !waiting {
        Turn::Idle
    } else if !mine && process.as_ref().is_some_and(taken) {
        Turn::Taken
    } else {
        Turn::Free { from, committed, mine }
    })
}

/// Takes a topic's turn, from whoever had it.
pub(super) fn take(tx: &Connection, who: &Identity, topic: i64) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE shares SET process = ?3, member = ?4 WHERE consumers = ?1 AND topic = ?2",
    )?
    .execute(params![&*who.group, topic, &*who.process, who.number])
    .map(drop)
}

/// Moves the group past `seq`, for the member that has the turn. False if it has not.
pub(super) fn commit(
    tx: &Connection,
    who: &Identity,
    topic: i64,
    seq: i64,
) -> rusqlite::Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE shares SET committed = max(committed, ?5)
             WHERE consumers = ?1 AND topic = ?2 AND process = ?3 AND member = ?4",
        )?
        .execute(params![&*who.group, topic, &*who.process, who.number, seq])?;
    Ok(changed == 1)
}

/// Gives up a topic's turn, and wakes the other members if there is something to read.
pub(super) fn release(tx: &Tx<'_>, who: &Identity, topic: i64) -> rusqlite::Result<()> {
    let committed: Option<i64> = tx
        .prepare_cached(
            "UPDATE shares SET process = NULL, member = NULL
             WHERE consumers = ?1 AND topic = ?2 AND process = ?3 AND member = ?4
             RETURNING committed",
        )?
        .query_row(params![&*who.group, topic, &*who.process, who.number], |row| row.get(0))
        .optional()?;
    if let Some(committed) = committed
        && last_seq(tx)? > committed
    {
        tx.wake_readers();
    }
    Ok(())
}
