//! The backend's own collections, read for plugins: the documents are those that MongoDB
//! has of the same things.

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use rusqlite::{OptionalExtension, Row, params, params_from_iter};
use serde_json::{Map, Value};

use super::decode::{self, Decoded, readable};
use super::{EmbeddedStore, runs, tasks};
use crate::clock::UnixMs;
use crate::documents::{DocumentCursor, DocumentQuery, Documents, DocumentsError};
use crate::sqlite::{Abort, Database, Tx};
use crate::store::documents::{Found, Plan, Source};
use crate::store::mongo::{date, run_doc, workers};
use crate::store::{RunRecord, StoreError, TaskDoc, WorkerRecord, json};

/// What there is.
const COLLECTIONS: [&str; 3] = ["artifacts", "tasks", "worker_states"];

/// Rows and bytes after which a page is full.
const PAGE: (usize, usize) = (100, 1 << 20);

#[async_trait]
impl Documents for EmbeddedStore {
    async fn open(&self, query: DocumentQuery) -> Result<Box<dyn DocumentCursor>, DocumentsError> {
        let place = match query.collection.as_str() {
            "artifacts" => Place::Artifacts { node: None, after: 0, seq: 0 },
            "tasks" => Place::Tasks(String::new()),
            "worker_states" => Place::Runs(0),
            other => {
                return Err(DocumentsError::Refused(format!(
                    "there is no collection `{other}` in the embedded database; there are {}. \
                     Others are read on the backend `kafka`",
                    COLLECTIONS.join(", ")
                )));
            }
        };
        let plan = Plan::new(&query)?;
        let pinned = |field: &str| plan.pinned(field).map(str::to_owned);
        let id = if query.collection == "tasks" { "id" } else { "task_id" };
        let only = Only { task: pinned(id), node: pinned("node_id") };
        Ok(Box::new(Found::new(plan, Scan { db: self.db.clone(), only, place: Some(place) })))
    }
}

/// What a filter says about the names, so that indexes can be used.
#[derive(Clone)]
struct Only {
    task: Option<String>,
    node: Option<String>,
}

impl Only {
    /// The condition on columns of these names, and its values.
    fn condition(&self) -> (&'static str, Vec<String>) {
        let values = [&self.task, &self.node].into_iter().flatten().cloned().collect();
        let condition = match (&self.task, &self.node) {
            (None, None) => "",
            (Some(_), None) => "AND task_id = ?",
            (None, Some(_)) => "AND node_id = ?",
            (Some(_), Some(_)) => "AND task_id = ? AND node_id = ?",
        };
        (condition, values)
    }
}

/// How far a scan is: after what it goes on.
enum Place {
    Artifacts { node: Option<Node>, after: i64, seq: i64 },
    Runs(i64),
    Workers(String),
    Tasks(String),
}

/// A row of `nodes`.
#[derive(Clone)]
struct Node {
    id: i64,
    task_id: String,
    node_id: String,
}

struct Scan {
    db: Database,
    only: Only,
    /// None at the end.
    place: Option<Place>,
}

/// A row with its size.
struct Stored {
    bytes: usize,
    what: What,
}

enum What {
    Partial(Artifact),
    Complete(Artifact),
    Run(Box<RunRecord>),
    Worker(Box<WorkerRecord>),
    Task(Box<TaskDoc>),
}

/// An artifact as its columns; `text` is the metrics of a partial one, the payload of a
/// complete one.
struct Artifact {
    node: Node,
    seq: i64,
    batch_uid: Option<String>,
    fence: (i64, i64),
    ordinal: i64,
    worker_id: Option<String>,
    text: String,
    meta: String,
    created_at: i64,
    updated_at: i64,
}

#[async_trait]
impl Source for Scan {
    type Row = Stored;

    async fn rows(&mut self) -> Result<Vec<Stored>, StoreError> {
        let mut page = Page::default();
        while page.rows.is_empty()
            && let Some(place) = self.place.take()
        {
            let only = self.only.clone();
            let read = self.db.read(move |tx| {
                let mut page = Page::default();
                let next = match place {
                    Place::Artifacts { node, after, seq } => {
                        artifacts(tx, &only, (node, after, seq), &mut page)
                    }
                    Place::Runs(after) => all_runs(tx, &only, after, &mut page),
                    Place::Workers(after) => all_workers(tx, &after, &mut page),
                    Place::Tasks(after) => all_tasks(tx, &only, &after, &mut page),
                }?;
                Ok((page, next))
            });
            (page, self.place) = read.await?;
        }
        Ok(page.rows)
    }

    fn weight(row: &Stored) -> usize {
        row.bytes
    }

    fn document(row: Stored) -> Option<Document> {
        let (what, document) = match row.what {
            What::Partial(artifact) => {
                (artifact.name(), artifact.partial().map_err(|problem| problem.to_string()))
            }
            What::Complete(artifact) => {
                (artifact.name(), artifact.complete().map_err(|problem| problem.to_string()))
            }
            What::Run(run) => (
                format!("run {}", run.new.key),
                run_doc::document(&run).map_err(|error| error.to_string()),
            ),
            What::Worker(worker) => (
                format!("worker {}", worker.worker_id),
                workers::document(&worker).map_err(|error| error.to_string()),
            ),
            What::Task(task) => {
                (format!("task {}", task.id), of_task(&task).map_err(|problem| problem.to_string()))
            }
        };
        readable(document.map_err(|problem| Abort::Damaged { what, problem }))
    }
}

#[derive(Default)]
struct Page {
    rows: Vec<Stored>,
    bytes: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.rows.len() >= PAGE.0 || self.bytes >= PAGE.1
    }

    fn push(&mut self, row: &Row<'_>, what: What) -> Result<(), Abort> {
        let mut bytes = 0;
        for column in 0..row.as_ref().column_count() {
            bytes += row.get_ref(column)?.as_bytes_or_null().ok().flatten().map_or(8, <[u8]>::len);
        }
        self.bytes += bytes;
        self.rows.push(Stored { bytes, what });
        Ok(())
    }
}

/// Node after node: its partial artifacts in their order, then the complete one.
fn artifacts(
    tx: &Tx<'_>,
    only: &Only,
    (mut begun, mut after, mut seq): (Option<Node>, i64, i64),
    page: &mut Page,
) -> Result<Option<Place>, Abort> {
    while !page.is_full() {
        let next = match begun.take() {
            Some(node) => Some(node),
            None => next_node(tx, only, after)?,
        };
        let Some(node) = next else { return Ok(None) };
        let mut statement = tx.prepare_cached(
            "SELECT seq, batch_uid, epoch, lease_no, ordinal, worker_id, metrics, meta,
                 created_at, updated_at
             FROM partials WHERE node = ?1 AND status = 'partial' AND seq > ?2 ORDER BY seq",
        )?;
        let mut rows = statement.query([node.id, seq])?;
        while !page.is_full()
            && let Some(row) = rows.next()?
        {
            seq = row.get(0)?;
            let artifact = Artifact {
                node: node.clone(),
                seq,
                batch_uid: row.get(1)?,
                fence: (row.get(2)?, row.get(3)?),
                ordinal: row.get(4)?,
                worker_id: row.get(5)?,
                text: row.get(6)?,
                meta: row.get(7)?,
                created_at: row.get(8)?,
                updated_at: row.get(9)?,
            };
            page.push(row, What::Partial(artifact))?;
        }
        if page.is_full() {
            begun = Some(node);
            break;
        }
        complete(tx, &node, page)?;
        (after, seq) = (node.id, 0);
    }
    Ok(Some(Place::Artifacts { node: begun, after, seq }))
}

fn next_node(tx: &Tx<'_>, only: &Only, after: i64) -> Result<Option<Node>, Abort> {
    let (condition, names) = only.condition();
    let sql = format!(
        "SELECT id, task_id, node_id FROM nodes WHERE id > ? {condition} ORDER BY id LIMIT 1"
    );
    let names = names.into_iter().map(rusqlite::types::Value::from);
    let values = std::iter::once(after.into()).chain(names);
    Ok(tx
        .prepare_cached(&sql)?
        .query_row(params_from_iter(values), |row| {
            Ok(Node { id: row.get(0)?, task_id: row.get(1)?, node_id: row.get(2)? })
        })
        .optional()?)
}

fn complete(tx: &Tx<'_>, node: &Node, page: &mut Page) -> Result<(), Abort> {
    let mut statement = tx.prepare_cached(
        "SELECT epoch, lease_no, worker_id, payload, meta, created_at, updated_at
         FROM completes WHERE node = ?1",
    )?;
    let mut rows = statement.query([node.id])?;
    let Some(row) = rows.next()? else { return Ok(()) };
    let artifact = Artifact {
        node: node.clone(),
        seq: 0,
        batch_uid: None,
        fence: (row.get(0)?, row.get(1)?),
        ordinal: 0,
        worker_id: row.get(2)?,
        text: row.get(3)?,
        meta: row.get(4)?,
        created_at: row.get(5)?,
        updated_at: row.get(6)?,
    };
    page.push(row, What::Complete(artifact))
}

fn all_runs(
    tx: &Tx<'_>,
    only: &Only,
    mut after: i64,
    page: &mut Page,
) -> Result<Option<Place>, Abort> {
    let (condition, names) = only.condition();
    let sql = format!("SELECT id FROM runs WHERE id > ? {condition} ORDER BY id LIMIT ?");
    let names = names.into_iter().map(rusqlite::types::Value::from);
    let most = super::int(PAGE.0 as u64);
    let values = std::iter::once(after.into()).chain(names).chain([most.into()]);
    let mut statement = tx.prepare_cached(&sql)?;
    let ids = statement.query_map(params_from_iter(values), |row| row.get::<_, i64>(0))?;
    let ids: Vec<i64> = ids.collect::<Result<_, _>>()?;
    for id in &ids {
        if page.is_full() {
            return Ok(Some(Place::Runs(after)));
        }
        after = *id;
        let mut statement = tx.prepare_cached(&format!("{} WHERE id = ?1", runs::SELECT))?;
        let mut rows = statement.query([id])?;
        if let Some(row) = rows.next()?
            && let Some(run) = readable(runs::decode(row))
        {
            page.push(row, What::Run(Box::new(run)))?;
        }
    }
    let ended = ids.len() < PAGE.0;
    Ok(Some(if ended { Place::Workers(String::new()) } else { Place::Runs(after) }))
}

fn all_workers(tx: &Tx<'_>, after: &str, page: &mut Page) -> Result<Option<Place>, Abort> {
    let mut after = after.to_owned();
    let mut statement = tx.prepare_cached(
        "SELECT worker_id, record FROM workers WHERE worker_id > ?1 ORDER BY worker_id",
    )?;
    let mut rows = statement.query([&after])?;
    while !page.is_full() {
        let Some(row) = rows.next()? else { return Ok(None) };
        after = row.get(0)?;
        let record = decode::from_json(row, 1).map_err(|p| p.of(format!("worker {after}")));
        if let Some(record) = readable(record) {
            page.push(row, What::Worker(Box::new(record)))?;
        }
    }
    Ok(Some(Place::Workers(after)))
}

fn all_tasks(
    tx: &Tx<'_>,
    only: &Only,
    after: &str,
    page: &mut Page,
) -> Result<Option<Place>, Abort> {
    let mut after = after.to_owned();
    let sql = format!("{} WHERE id > ?1 AND id = ifnull(?2, id) ORDER BY id", tasks::SELECT);
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![after, only.task])?;
    while !page.is_full() {
        let Some(row) = rows.next()? else { return Ok(None) };
        after = row.get(0)?;
        if let Some(task) = readable(tasks::decode(row)) {
            page.push(row, What::Task(Box::new(task)))?;
        }
    }
    Ok(Some(Place::Tasks(after)))
}

impl Artifact {
    fn name(&self) -> String {
        let Node { task_id, node_id, .. } = &self.node;
        match &self.batch_uid {
            Some(uid) => format!("artifact {uid} of {task_id}/{node_id}"),
            None => format!("the complete artifact of {task_id}/{node_id}"),
        }
    }

    fn partial(self) -> Decoded<Document> {
        let metrics: Map<String, Value> = serde_json::from_str(&self.text)?;
        let mut document = doc! {
            "_id": self.seq,
            "batch_uid": self.batch_uid.clone(),
            "ordinal": self.ordinal,
            "status": "partial",
            "metrics": json::to_document(&metrics).0,
            "payload": Bson::Null,
        };
        document.extend(self.rest()?);
        Ok(document)
    }

    fn complete(self) -> Decoded<Document> {
        let payload: Value = serde_json::from_str(&self.text)?;
        let (value, exact) = json::to_bson(&payload);
        let mut document = doc! {
            "_id": format!("complete:{}:{}", self.node.task_id, self.node.node_id),
            "status": "complete",
            "payload": value,
        };
        if !exact {
            document.insert("payload_json", &self.text);
        }
        document.extend(self.rest()?);
        Ok(document)
    }

    /// What both kinds have.
    fn rest(&self) -> Decoded<Document> {
        let meta: Map<String, Value> = serde_json::from_str(&self.meta)?;
        let (value, exact) = json::to_document(&meta);
        let mut document = doc! {
            "task_id": &self.node.task_id,
            "node_id": &self.node.node_id,
            "attempt_epoch": self.fence.0,
            "lease_no": self.fence.1,
            "worker_id": self.worker_id.clone(),
            "meta": value,
            "created_at": date(UnixMs(self.created_at)),
            "updated_at": date(UnixMs(self.updated_at)),
        };
        if !exact {
            document.insert("meta_json", &self.meta);
        }
        Ok(document)
    }
}

/// A task as a coordinator writes it, with what is ours beside it.
fn of_task(task: &TaskDoc) -> Decoded<Document> {
    let Value::Object(fields) = serde_json::to_value(task)? else { return Ok(Document::new()) };
    let mut document = doc! {"_id": task.id.as_str()};
    document.extend(json::to_document(&fields).0);
    document.insert("created_at", date(task.created_at));
    document.insert("updated_at", date(task.updated_at));
    Ok(document)
}
