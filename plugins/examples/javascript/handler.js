// Counts the words of a text, in batches of lines.
import { Failure, defineHandler, invalid, saveCheckpoint, sleep, upsertPartial, utf8Length } from './flowkit.js';

export const handler = defineHandler({
  name: 'wordcount',
  version: '0.1.0',

  *batches({ text, batch_lines: size = 10 }, first = 0) {
    if (typeof text !== 'string') throw invalid('`text` is not a string');
    if (!(size >= 1)) throw invalid('`batch_lines` is below 1');
    const lines = text.split('\n');
    if (lines.at(-1) === '') lines.pop();
    for (let k = first; k * size < lines.length; k++)
      yield { uid: `b${k}`, payload: { k, lines: lines.slice(k * size, (k + 1) * size) } };
  },

  process({ k, lines }, uid, { fail_at, permanent, sleep_ms }) {
    sleep(sleep_ms); // throws when the run is cancelled
    if (k === fail_at) throw new Failure('poison', !!permanent, `batch ${uid} is poisoned`);
    const counts = { lines: lines.length, words: 0, bytes: 0 };
    let longest = 0;
    for (const line of lines) {
      counts.words += line.split(/[ \t\n\f\r]+/).filter(Boolean).length;
      counts.bytes += utf8Length(line);
      longest = Math.max(longest, utf8Length(line));
    }
    upsertPartial({ longest }); // what the nodes after this one see, beside the metrics
    saveCheckpoint(k + 1); // where to go on after a crash
    return counts;
  },
});
