// A batch word count: the lines of a text, in batches.
import { Failure, checkCancelled, defineHandler, invalid, saveCheckpoint, sleep, upsertPartial } from './flowkit.js';

const utf8Length = (text) => encodeURIComponent(text).replace(/%../g, '.').length;

export const handler = defineHandler({
  name: 'wordcount',
  version: '0.1.0',

  *batches({ text, batch_lines }, checkpoint) {
    const size = batch_lines ?? 10;
    if (typeof text !== 'string') throw invalid('`text` is not a string');
    if (!(size >= 1)) throw invalid('`batch_lines` is below 1');
    const lines = text.split('\n');
    if (lines.at(-1) === '') lines.pop();
    for (let k = checkpoint?.next ?? 0; k * size < lines.length; k++)
      yield { uid: `b${k}`, payload: { lines: lines.slice(k * size, (k + 1) * size) } };
  },

  process({ lines }, uid, { fail_at, permanent, sleep_ms }) {
    checkCancelled();
    if (sleep_ms) sleep(sleep_ms);
    const number = Number(uid.slice(1));
    if (number === fail_at) throw new Failure('poison', !!permanent, `batch ${uid} is poisoned`);
    const metrics = { lines: lines.length, words: 0, bytes: 0 };
    for (const line of lines) {
      metrics.words += line.split(/[ \t\n\f\r]+/).filter(Boolean).length;
      metrics.bytes += utf8Length(line);
    }
    upsertPartial(uid, metrics); // what the nodes after this one see
    saveCheckpoint({ next: number + 1 }); // where to go on after a crash
    return metrics;
  },
});
