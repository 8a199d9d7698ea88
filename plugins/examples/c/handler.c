// A batch word count: the lines of a text, in batches.
#include "flowkit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *text, *end, *at; // `at`: where the next batch begins
static long long next, batch_lines, fail_at, sleep_ms;
static bool permanent;

const char *const fk_name = "wordcount", *const fk_version = "0.1.0";

static bool space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\f' || c == '\r'; }

// The length of the line at `at`, which is moved to the line after it.
static size_t take_line(void) {
  char *line = at, *stop = memchr(at, '\n', end - at);
  at = stop ? stop + 1 : end;
  return (stop ? stop : end) - line;
}

bool fk_iter_batches(json input, json checkpoint) {
  size_t length = 0;
  text = at = json_string(json_get(input, "text"), &length);
  if (!text) return fk_fail("validation_error", true, "`text` is not a string");
  end = text + length;
  batch_lines = json_int(json_get(input, "batch_lines"), 10);
  if (batch_lines < 1) return fk_fail("validation_error", true, "`batch_lines` is below 1");
  fail_at = json_int(json_get(input, "fail_at"), -1);
  permanent = json_bool(json_get(input, "permanent"), false);
  sleep_ms = json_int(json_get(input, "sleep_ms"), 0);
  next = json_int(json_get(checkpoint, "next"), 0);
  for (long long skip = next * batch_lines; skip > 0 && at < end; skip--) take_line();
  return true;
}

bool fk_next_batch(fk_batch *batch) {
  if (at == end) return true;
  snprintf(batch->uid, sizeof batch->uid, "b%lld", next++);
  for (long long n = 0; n < batch_lines && at < end; n++) {
    char *line = at;
    out_add(&batch->payload, n ? "," : "{\"lines\":[");
    out_string(&batch->payload, line, take_line());
  }
  out_add(&batch->payload, "]}");
  return true;
}

bool fk_process_batch(const char *uid, json payload, out *metrics) {
  if (!fk_check_cancelled() || !fk_sleep(sleep_ms)) return false;
  long long number = atoll(uid + 1), lines = 0, words = 0, bytes = 0;
  if (number == fail_at) return fk_fail("poison", permanent, "batch %s is poisoned", uid);
  for (json line = {0}, all = json_get(payload, "lines"); json_next(all, &line); lines++) {
    size_t length;
    char *s = json_string(line, &length);
    if (!s) return fk_fail("validation_error", true, "a line of batch %s is not a string", uid);
    bytes += length;
    for (size_t i = 0; i < length; i++)
      words += !space(s[i]) && (i == 0 || space(s[i - 1]));
    free(s);
  }
  out_add(metrics, "{\"lines\":%lld,\"words\":%lld,\"bytes\":%lld}", lines, words, bytes);
  return fk_upsert_partial(uid, metrics) && fk_save_checkpoint("{\"next\":%lld}", number + 1);
}
