//! Runs in SQLite.

use async_trait::async_trait;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::decode::{self, Decoded, readable};
use super::{EmbeddedStore, changed_one, fenced, int, json, names};
use crate::clock::UnixMs;
use crate::sqlite::{Abort, gone_workers};
use crate::store::{
    Admitted, ClaimQuery, EndCheck, Fenced, NewRun, Owner, Progress, RunEnd, RunRecord, RunStore,
    StoreError,
};
use crate::types::{Epoch, Fence, LeaseNo, Role, RunKey, TaskId};

pub(super) const SELECT: &str = "SELECT task_id, node_id, role, epoch, created_at,
    lease_no, worker_id, lease_id, deadline,
    finished, reported, accepted, checkpoint, totals, digest,
    ending, end_sent, updated_at,
    (SELECT input FROM run_inputs WHERE run = runs.id) AS input,
    check_at, check_tries
    FROM runs ";

const FENCE: &str = " WHERE task_id = ? AND node_id = ? AND epoch = ? AND lease_no = ?
    AND worker_id = ?";

#[async_trait]
impl RunStore for EmbeddedStore {
    async fn admit(&self, new: &NewRun, owner: Option<&Owner>) -> Result<Admitted, StoreError> {
        let mut record = RunRecord {
            new: new.clone(),
            lease_no: LeaseNo(0),
            owner: owner.cloned(),
            progress: Progress::default(),
            end: None,
            end_sent: false,
            check: None,
            updated_at: self.clock.wall(),
        };
        let input = json("a run's input", &new.input)?;
        let admitted = self.db.write(move |tx| {
            let stored = find(tx, &record.new.key)?;
            if let Some(stored) = stored {
                if stored.new.epoch == record.new.epoch {
                    return Ok(Admitted::Duplicate(stored));
                }
                if stored.new.epoch > record.new.epoch {
                    return Ok(Admitted::Stale(stored));
                }
                record.lease_no = stored.lease_no;
            }
            if record.owner.is_some() {
                record.lease_no.0 += 1;
            }
            insert(tx, &record, &input)?;
            Ok(Admitted::Recorded(record))
        });
        Ok(admitted.await?)
    }

    async fn run(&self, key: &RunKey) -> Result<Option<RunRecord>, StoreError> {
        let key = key.clone();
        Ok(self.db.read(move |tx| find(tx, &key)).await?)
    }

    async fn runs_of_task(&self, task_id: &TaskId) -> Result<Vec<RunRecord>, StoreError> {
        let task_id = task_id.clone();
        let runs = self.db.read(move |tx| {
            let sql = format!("{SELECT} WHERE task_id = ?1 ORDER BY node_id");
            let mut statement = tx.prepare_cached(&sql)?;
            let mut rows = statement.query([task_id.as_str()])?;
            let mut runs = Vec::new();
            while let Some(row) = rows.next()? {
                runs.push(decode(row)?);
            }
            Ok(runs)
        });
        Ok(runs.await?)
    }

    async fn claimable(&self, query: &ClaimQuery) -> Result<Vec<RunRecord>, StoreError> {
        let (query, shared) = (query.clone(), self.db.shared());
        let runs = self.db.read(move |tx| {
            let gone = gone_workers(tx, &shared)?;
            let mut runs = Vec::new();
            for id in candidates(tx, &query, &gone)? {
                let sql = format!("{SELECT} WHERE id = ?1");
                let mut statement = tx.prepare_cached(&sql)?;
                let mut rows = statement.query([id])?;
                if let Some(row) = rows.next()? {
                    runs.extend(readable(decode(row)));
                }
            }
            Ok(runs)
        });
        Ok(runs.await?)
    }

    async fn claim(
        &self,
        seen: &RunRecord,
        owner: &Owner,
    ) -> Result<Option<RunRecord>, StoreError> {
        let (seen, owner, now) = (seen.clone(), owner.clone(), self.clock.wall());
        let claimed = self.db.write(move |tx| {
            let Some(mut run) = find(tx, &seen.new.key)? else { return Ok(None) };
            let unchanged = run.new.epoch == seen.new.epoch
                && run.lease_no == seen.lease_no
                && run.owner == seen.owner
                && !run.end_sent;
            if !unchanged {
                return Ok(None);
            }
            run.lease_no.0 += 1;
            run.updated_at = now;
            tx.prepare_cached(
                "UPDATE runs SET lease_no = ?3, worker_id = ?4, lease_id = ?5, deadline = ?6,
                 updated_at = ?7 WHERE task_id = ?1 AND node_id = ?2",
            )?
            .execute(params![
                run.new.key.task_id.as_str(),
                run.new.key.node_id.as_str(),
                int(run.lease_no.0),
                owner.worker_id.as_str(),
                owner.lease_id.as_str(),
                owner.deadline.0,
                now.0,
            ])?;
            run.owner = Some(owner);
            Ok(Some(run))
        });
        Ok(claimed.await?)
    }

    async fn renew(&self, fences: &[Fence], deadline: UnixMs) -> Result<Vec<Fence>, StoreError> {
        let (mut fences, now) = (fences.to_vec(), self.clock.wall());
        let lost = self.db.write(move |tx| {
            let mut lost = Vec::new();
            for fence in fences.drain(..) {
                let values = [Value::from(deadline.0), Value::from(now.0)];
                if update(tx, "deadline = ?, updated_at = ?", values, &fence)? == 0 {
                    lost.push(fence);
                }
            }
            Ok(lost)
        });
        Ok(lost.await?)
    }

    async fn save_progress(
        &self,
        fence: &Fence,
        progress: &Progress,
    ) -> Result<Fenced, StoreError> {
        let values = [
            Value::from(int(progress.finished)),
            Value::from(int(progress.reported)),
            Value::from(progress.accepted),
            Value::from(progress.checkpoint.clone()),
            Value::from(json("a run's totals", &progress.totals)?),
            Value::from(progress.digest.clone()),
        ];
        let set = "finished = ?, reported = ?, accepted = ?, checkpoint = ?, totals = ?,
                   digest = ?, updated_at = ?";
        self.change(fence, set, values.to_vec(), "").await
    }

    async fn end(&self, fence: &Fence, end: &RunEnd) -> Result<Fenced, StoreError> {
        let end = Value::from(json("a run's end", end)?);
        self.change(fence, "ending = ?, updated_at = ?", vec![end], "AND ending IS NULL").await
    }

    async fn end_sent(
        &self,
        fence: &Fence,
        check: Option<&EndCheck>,
    ) -> Result<Fenced, StoreError> {
        let set = "end_sent = 1, worker_id = NULL, lease_id = NULL, deadline = NULL,
                   check_at = ?, check_tries = ?, updated_at = ?";
        self.change(fence, set, check_columns(check).to_vec(), "AND ending IS NOT NULL").await
    }

    async fn due_checks(
        &self,
        roles: &[Role],
        now: UnixMs,
        limit: usize,
    ) -> Result<Vec<RunRecord>, StoreError> {
        let roles = roles.to_vec();
        let due = self.db.read(move |tx| {
            let sql = format!("{SELECT} WHERE role = ?1 AND check_at <= ?2 ORDER BY check_at");
            let mut due = Vec::new();
            for role in &roles {
                let mut statement = tx.prepare_cached(&sql)?;
                let mut rows = statement.query(params![role.as_str(), now.0])?;
                let mut taken = 0;
                while taken < limit
                    && let Some(row) = rows.next()?
                {
                    let Some(run) = readable(decode(row)) else { continue };
                    due.push(run);
                    taken += 1;
                }
            }
            due.sort_by_key(|run| run.check.map(|check| check.at));
            due.truncate(limit);
            Ok(due)
        });
        Ok(due.await?)
    }

    async fn move_check(
        &self,
        seen: &RunRecord,
        next: Option<&EndCheck>,
    ) -> Result<bool, StoreError> {
        let Some(check) = seen.check else { return Ok(false) };
        let [task_id, node_id] = names(&seen.new.key).map(|name| Value::from(name.to_owned()));
        let unchanged =
            [task_id, node_id, Value::from(seen.new.epoch.0), Value::from(int(seen.lease_no.0))];
        let values = check_columns(next)
            .into_iter()
            .chain([Value::from(self.clock.wall().0)])
            .chain(unchanged)
            .chain(check_columns(Some(&check)));
        let values: Vec<Value> = values.collect();
        let moved = self.db.write(move |tx| {
            let rows = tx
                .prepare_cached(
                    "UPDATE runs SET check_at = ?, check_tries = ?, updated_at = ?
                     WHERE task_id = ? AND node_id = ? AND epoch = ? AND lease_no = ?
                     AND check_at = ? AND check_tries = ?",
                )?
                .execute(params_from_iter(values))?;
            Ok(rows == 1)
        });
        Ok(moved.await?)
    }

    async fn release(&self, fence: &Fence) -> Result<Fenced, StoreError> {
        let set = "worker_id = NULL, lease_id = NULL, deadline = NULL, updated_at = ?";
        self.change(fence, set, Vec::new(), "").await
    }

    async fn queued(&self, role: &Role) -> Result<u64, StoreError> {
        let role = role.clone();
        let queued = self.db.read(move |tx| {
            let queued: i64 = tx
                .prepare_cached(
                    "SELECT count(*) FROM runs WHERE role = ?1 AND end_sent = 0
                     AND worker_id IS NULL AND ending IS NULL",
                )?
                .query_row([role.as_str()], |row| row.get(0))?;
            Ok(queued.unsigned_abs())
        });
        Ok(queued.await?)
    }
}

impl EmbeddedStore {
    /// Changes the run that `fence` holds; the time of the change is the last of `set`.
    async fn change(
        &self,
        fence: &Fence,
        set: &'static str,
        mut values: Vec<Value>,
        also: &'static str,
    ) -> Result<Fenced, StoreError> {
        values.push(Value::from(self.clock.wall().0));
        let fence = fence.clone();
        let changed = self.db.write(move |tx| {
            let sql = format!("UPDATE runs SET {set} {FENCE} {also}");
            changed_one(execute_fenced(tx, &sql, values, &fence)?)
        });
        fenced(changed.await)
    }
}

fn update(
    tx: &Connection,
    set: &str,
    values: impl IntoIterator<Item = Value>,
    fence: &Fence,
) -> rusqlite::Result<usize> {
    execute_fenced(tx, &format!("UPDATE runs SET {set} {FENCE}"), values, fence)
}

fn execute_fenced(
    tx: &Connection,
    sql: &str,
    values: impl IntoIterator<Item = Value>,
    fence: &Fence,
) -> rusqlite::Result<usize> {
    let [task_id, node_id] = names(&fence.key).map(|name| Value::from(name.to_owned()));
    let held = [
        task_id,
        node_id,
        Value::from(fence.epoch.0),
        Value::from(int(fence.lease_no.0)),
        Value::from(fence.worker_id.as_str().to_owned()),
    ];
    tx.prepare_cached(sql)?.execute(params_from_iter(values.into_iter().chain(held)))
}

fn find(tx: &Connection, key: &RunKey) -> Result<Option<RunRecord>, Abort> {
    let sql = format!("{SELECT} WHERE task_id = ?1 AND node_id = ?2");
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(names(key))?;
    rows.next()?.map(decode).transpose()
}

/// Records a run, in place of an older attempt.
fn insert(tx: &Connection, record: &RunRecord, input: &str) -> Result<(), Abort> {
    let new = &record.new;
    let owner = record.owner.as_ref();
    let id: i64 = tx
        .prepare_cached(
            "INSERT INTO runs (task_id, node_id, role, epoch, created_at, updated_at,
                 lease_no, worker_id, lease_id, deadline)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (task_id, node_id) DO UPDATE SET
                 role = ?3, epoch = ?4, created_at = ?5, updated_at = ?6, lease_no = ?7,
                 worker_id = ?8, lease_id = ?9, deadline = ?10, finished = 0, reported = 0,
                 accepted = 0, checkpoint = NULL, totals = '{}', digest = NULL,
                 ending = NULL, end_sent = 0, check_at = NULL, check_tries = NULL
             RETURNING id",
        )?
        .query_row(
            params![
                new.key.task_id.as_str(),
                new.key.node_id.as_str(),
                new.role.as_str(),
                new.epoch.0,
                new.created_at.0,
                record.updated_at.0,
                int(record.lease_no.0),
                owner.map(|owner| owner.worker_id.as_str()),
                owner.map(|owner| owner.lease_id.as_str()),
                owner.map(|owner| owner.deadline.0),
            ],
            |row| row.get(0),
        )?;
    tx.prepare_cached("REPLACE INTO run_inputs (run, input) VALUES (?1, ?2)")?
        .execute(params![id, input])?;
    Ok(())
}

/// The rows of the runs that may be taken over, by age.
fn candidates(tx: &Connection, query: &ClaimQuery, gone: &[String]) -> Result<Vec<i64>, Abort> {
    let mut found = Vec::new();
    for role in &query.roles {
        let mut statement = tx.prepare_cached(
            "SELECT id, created_at, task_id, node_id, worker_id, lease_id, deadline FROM runs
             WHERE role = ?1 AND end_sent = 0 ORDER BY created_at",
        )?;
        let mut rows = statement.query([role.as_str()])?;
        let mut taken = 0;
        while taken < query.limit
            && let Some(row) = rows.next()?
        {
            let task_and_node =
                || format!("run {}/{}", decode::label(row, 2), decode::label(row, 3));
            let read = || -> Decoded<_> {
                let key = RunKey { task_id: decode::name(row, 2)?, node_id: decode::name(row, 3)? };
                Ok((key, owner(row, 4)?))
            };
            let Some((key, owner)) = readable(read().map_err(|p| p.of(task_and_node()))) else {
                continue;
            };
            let is_gone =
                |worker: &crate::types::WorkerId| gone.iter().any(|gone| gone == worker.as_str());
            if query.admits(&key, owner.as_ref(), is_gone) {
                found.push((row.get::<_, i64>(1)?, row.get::<_, i64>(0)?));
                taken += 1;
            }
        }
    }
    found.sort_unstable();
    found.truncate(query.limit);
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

fn check_columns(check: Option<&EndCheck>) -> [Value; 2] {
    [Value::from(check.map(|check| check.at.0)), Value::from(check.map(|check| check.tries))]
}

fn check(row: &Row<'_>, first: usize) -> Decoded<Option<EndCheck>> {
    let Some(at) = row.get::<_, Option<i64>>(first)? else { return Ok(None) };
    Ok(Some(EndCheck { at: UnixMs(at), tries: decode::number(row, first + 1)? }))
}

fn owner(row: &Row<'_>, first: usize) -> Decoded<Option<Owner>> {
    let Some(worker_id) = decode::optional_name(row, first)? else { return Ok(None) };
    let lease_id = decode::name(row, first + 1)?;
    Ok(Some(Owner { worker_id, lease_id, deadline: UnixMs(row.get(first + 2)?) }))
}

pub(super) fn decode(row: &Row<'_>) -> Result<RunRecord, Abort> {
    let read = || -> Decoded<RunRecord> {
        let key = RunKey { task_id: decode::name(row, 0)?, node_id: decode::name(row, 1)? };
        let new = NewRun {
            key,
            role: decode::name(row, 2)?,
            epoch: Epoch(decode::number(row, 3)?),
            input: decode::from_json(row, 18)?,
            created_at: UnixMs(row.get(4)?),
        };
        let progress = Progress {
            finished: decode::number(row, 9)?,
            reported: decode::number(row, 10)?,
            accepted: row.get(11)?,
            checkpoint: row.get(12)?,
            totals: decode::from_json(row, 13)?,
            digest: row.get(14)?,
        };
        Ok(RunRecord {
            new,
            lease_no: LeaseNo(decode::number(row, 5)?),
            owner: owner(row, 6)?,
            progress,
            end: decode::optional_json(row, 15)?,
            end_sent: row.get(16)?,
            check: check(row, 19)?,
            updated_at: UnixMs(row.get(17)?),
        })
    };
    let what = || format!("run {}/{}", decode::label(row, 0), decode::label(row, 1));
    read().map_err(|problem| problem.of(what()))
}
