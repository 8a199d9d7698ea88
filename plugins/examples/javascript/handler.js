// A batch word count: the lines of a text, in batches.
import { cancelled, saveCheckpoint, sleep, upsertPartial } from 'flowkit:worker/host@1.0.0';

let input, lines, next;

const fail = (message, reasonCode, permanent) => {
  throw { message, detail: JSON.stringify({ reasonCode, permanent }) };
};

export const handler = {
  describe: () => JSON.stringify({ name: 'wordcount', version: '0.1.0', language: 'javascript' }),
  init() {},
  iterBatches(command, checkpoint) {
    input = { batch_lines: 10, ...JSON.parse(command).input_inline };
    if (typeof input.text !== 'string') fail('`text` is not a string', 'validation_error', true);
    if (!(input.batch_lines >= 1)) fail('`batch_lines` is below 1', 'validation_error', true);
    lines = input.text.split('\n');
    if (lines.at(-1) === '') lines.pop();
    next = checkpoint == null ? 0 : JSON.parse(checkpoint).next;
  },
  nextBatch() {
    const batch = lines.slice(next * input.batch_lines, (next + 1) * input.batch_lines);
    if (batch.length > 0) return { uid: `b${next++}`, payload: JSON.stringify({ lines: batch }) };
  },
  processBatch({ uid, payload }) {
    const stop = cancelled() != null || (input.sleep_ms > 0 && sleep(input.sleep_ms));
    if (stop) fail('stopped because the run is cancelled', 'cancelled', false);
    const number = Number(uid.slice(1));
    if (number === input.fail_at) fail(`batch ${uid} is poisoned`, 'poison', !!input.permanent);
    const metrics = { lines: 0, words: 0, bytes: 0 };
    for (const line of JSON.parse(payload).lines) {
      metrics.lines += 1;
      metrics.words += line.split(/[ \t\n\f\r]+/).filter(Boolean).length;
      metrics.bytes += encodeURIComponent(line).replace(/%../g, '.').length; // in UTF-8
    }
    upsertPartial(uid, JSON.stringify(metrics));
    saveCheckpoint(JSON.stringify({ next: number + 1 }));
    return JSON.stringify({ metrics });
  },
  finalize: () => JSON.stringify({ metrics: {} }),
  classifyError: ({ detail }) => JSON.parse(detail ?? '{"reasonCode":"unknown_error","permanent":false}'),
  cleanup() {},
};
