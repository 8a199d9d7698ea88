// Counts the words of a text, in batches of lines.
#include "flowkit/flowkit.h"

#include <stdlib.h>
#include <string.h>

const char *const fk_name = "wordcount", *const fk_version = "0.1.0";

static char *at, *end; // what is left of the text
static long long k, batch_lines, fail_at, sleep_ms;
static bool permanent;

// The length of the line at `at`, which is moved to the line after it.
static size_t take_line(void) {
  char *line = at, *stop = memchr(at, '\n', end - at);
  at = stop ? stop + 1 : end;
  return (stop ? stop : end) - line;
}

bool fk_iter_batches(json input, json checkpoint) {
  size_t length;
  at = json_string(json_get(input, "text"), &length);
  if (!at) return fk_invalid("`text` is not a string");
  end = at + length;
  batch_lines = json_int(json_get(input, "batch_lines"), 10);
  if (batch_lines < 1) return fk_invalid("`batch_lines` is below 1");
  fail_at = json_int(json_get(input, "fail_at"), -1);
  permanent = json_bool(json_get(input, "permanent"), false);
  sleep_ms = json_int(json_get(input, "sleep_ms"), 0);
  k = json_int(checkpoint, 0);
  for (long long skip = k * batch_lines; skip > 0 && at < end; skip--) take_line();
  return true;
}

bool fk_next_batch(out *uid, out *payload) {
  if (at == end) return true; // nothing in `uid`: no more batches
  out_add(uid, "b%lld", k);
  out_add(payload, "{\"k\":%lld,\"lines\":", k++);
  for (long long n = 0; n < batch_lines && at < end; n++) {
    char *line = at;
    out_add(payload, n ? "," : "[");
    out_string(payload, line, take_line());
  }
  out_add(payload, "]}");
  return true;
}

bool fk_process_batch(const char *uid, json payload, out *metrics) {
  if (!fk_sleep(sleep_ms)) return false; // the run is cancelled
  long long number = json_int(json_get(payload, "k"), 0);
  size_t lines = 0, words = 0, bytes = 0, longest = 0;
  if (number == fail_at) return fk_fail("poison", permanent, "batch %s is poisoned", uid);
  for (json line = {0}, all = json_get(payload, "lines"); json_next(all, &line); lines++) {
    size_t length;
    char *s = json_string(line, &length);
    if (!s) return fk_invalid("a line of batch %s is not a string", uid);
    for (char *word = s, *stop = s + length; word < stop; word++)
      words += !is_space(*word) && (word == s || is_space(word[-1]));
    bytes += length;
    if (length > longest) longest = length;
    free(s);
  }
  out_add(metrics, "{\"lines\":%zu,\"words\":%zu,\"bytes\":%zu}", lines, words, bytes);
  // What the nodes after this one see beside the metrics, and where to go on after a crash.
  return fk_upsert_partial("{\"longest\":%zu}", longest) && fk_save_checkpoint("%lld", number + 1);
}
