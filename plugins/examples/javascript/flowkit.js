// What a FlowKit handler in JavaScript is written with.
import * as host from 'flowkit:worker/host@1.1.0';

let batchUid; // the batch that is being processed

/** An error that says what it means for the task. */
export class Failure extends Error {
  constructor(reasonCode, permanent, message) {
    super(message);
    this.class = { reason_code: reasonCode, permanent };
  }
}

/** Every further attempt would end like this. */
export const permanent = (reasonCode, message) => new Failure(reasonCode, true, message);
/** Another attempt may succeed. */
export const transient = (reasonCode, message) => new Failure(reasonCode, false, message);
/** The input is wrong. */
export const invalid = (message) => permanent('validation_error', message);

/** Throws when the run is cancelled. */
export function checkCancelled() {
  const why = host.cancelled();
  if (why != null) throw transient('cancelled', `stopped because the run is cancelled (${why.source})`);
}

/** Waits; throws as soon as the run is cancelled. */
export function sleep(ms = 0) {
  if (ms > 0) host.sleep(ms);
  checkCancelled();
}

/** Replaces the run's checkpoint, together with the batch that is being processed. */
export const saveCheckpoint = (checkpoint) => offer(() => host.saveCheckpoint(JSON.stringify(checkpoint)));

/** Sets what the batch's artifact tells downstream nodes beside its metrics: an object. */
export const upsertPartial = (meta) => offer(() => host.upsertPartial(batchUid, JSON.stringify(meta)));

/** How many bytes a text has in UTF-8. */
export const utf8Length = (text) => encodeURIComponent(text).replace(/%../g, '.').length;

/** One line for the worker's log: `trace`, `debug`, `info`, `warn`, `error`. */
export const log = (level, ...words) => host.log(level, words.join(' '));

/**
 * The world's functions for a handler: `batches(input, checkpoint)` yields
 * `{ uid, payload }`, `process(payload, uid, input)` returns a batch's metrics, and
 * `finalize()`, if there is one, the run's.
 */
export function defineHandler({ name, version, batches, process, finalize = () => ({}) }) {
  let input, ahead, iterator;
  const functions = {
    describe: () => JSON.stringify({ name, version, language: 'javascript' }),
    init() {},
    iterBatches(command, checkpoint) {
      input = JSON.parse(command).input_inline ?? {};
      iterator = batches(input, checkpoint == null ? undefined : JSON.parse(checkpoint));
      ahead = iterator.next(); // a wrong input fails here, not at the first batch
    },
    nextBatch() {
      const { done, value } = ahead ?? iterator.next();
      ahead = undefined;
      if (!done) return { uid: value.uid, payload: JSON.stringify(value.payload) };
    },
    processBatch({ uid, payload }) {
      batchUid = uid;
      return JSON.stringify({ metrics: process(JSON.parse(payload), uid, input) });
    },
    finalize: () => JSON.stringify({ metrics: finalize() }),
    classifyError({ detail }) {
      const { reason_code, permanent } = object(detail);
      const known = typeof reason_code === 'string' && /^[a-z0-9_]{1,64}$/.test(reason_code);
      return { reasonCode: known ? reason_code : 'unknown_error', permanent: known && permanent === true };
    },
    cleanup() {},
  };
  for (const [key, call] of Object.entries(functions)) functions[key] = (...given) => answer(call, given);
  return functions;
}

// Only the world's own error may leave a function: anything else thrown ends the instance.
function answer(call, given) {
  try {
    return call(...given);
  } catch (error) {
    const known = error instanceof Failure;
    const message = known ? error.message : `${error}\n${error?.stack ?? ''}`.trim();
    throw { message, detail: known ? JSON.stringify(error.class) : undefined };
  }
}

// What a detail says, where it is a JSON object: the worker's own errors have such, too.
function object(detail) {
  try {
    return JSON.parse(detail) ?? {};
  } catch {
    return {};
  }
}

// The worker refuses what is too large or no JSON: the next attempt would offer the same.
function offer(call) {
  try {
    call();
  } catch (refused) {
    throw permanent('bad_output', (refused.payload ?? refused).message);
  }
}
