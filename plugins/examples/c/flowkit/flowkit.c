// The world's functions for what `flowkit.h` promises the author.
#include "flowkit.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "handler_world.h"

typedef handler_world_string_t text;
typedef exports_flowkit_worker_handler_handler_error_t error;

void out_format(out *to, const char *format, va_list arguments);

static out failed_message, failed_detail; // what the last `fk_fail` said

static const char *processed; // the uid of the batch that is being processed

static bool fail(const char *reason_code, bool permanent, const char *format, va_list arguments) {
  failed_message = failed_detail = (out){0};
  out_format(&failed_message, format, arguments);
  out_add(&failed_detail, "{\"reason_code\":\"%s\",\"permanent\":%s}", reason_code, permanent ? "true" : "false");
  return false;
}

bool fk_fail(const char *reason_code, bool permanent, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fail(reason_code, permanent, format, arguments);
  va_end(arguments);
  return false;
}

bool fk_invalid(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fail("validation_error", true, format, arguments);
  va_end(arguments);
  return false;
}

static text given(out from) { return (text){(uint8_t *)from.text, from.length}; }
static json parse(text from) {
  const char *at = (const char *)from.ptr;
  return (json){at, at + from.len};
}

// Hands the author's error over when its function failed.
static bool ended(bool succeeded, error *err) {
  if (succeeded) return true;
  err->message = given(failed_message);
  err->detail.is_some = true;
  err->detail.val = given(failed_detail);
  return false;
}

bool fk_sleep(unsigned ms) {
  if (ms > 0) flowkit_worker_host_sleep(ms); // even none at all takes the worker's timer a millisecond
  return fk_check_cancelled();
}

bool fk_check_cancelled(void) {
  flowkit_worker_host_cancellation_t why;
  if (!flowkit_worker_host_cancelled(&why)) return true;
  fk_fail("cancelled", false, "stopped because the run is cancelled (%.*s)", (int)why.source.len, (char *)why.source.ptr);
  flowkit_worker_host_cancellation_free(&why);
  return false;
}

// The worker refuses what is too large or no JSON: the next attempt would offer the same.
static bool refused(flowkit_worker_host_handler_error_t *why) {
  fk_fail("bad_output", true, "%.*s", (int)why->message.len, (char *)why->message.ptr);
  flowkit_worker_host_handler_error_free(why);
  return false;
}

bool fk_upsert_partial(const char *format, ...) {
  flowkit_worker_host_handler_error_t why;
  out meta = {0};
  va_list arguments;
  va_start(arguments, format);
  out_format(&meta, format, arguments);
  va_end(arguments);
  text name, object = given(meta);
  handler_world_string_set(&name, processed);
  bool done = flowkit_worker_host_upsert_partial(&name, &object, &why) || refused(&why);
  free(meta.text);
  return done;
}

bool fk_save_checkpoint(const char *format, ...) {
  flowkit_worker_host_handler_error_t why;
  out checkpoint = {0};
  va_list arguments;
  va_start(arguments, format);
  out_format(&checkpoint, format, arguments);
  va_end(arguments);
  text saved = given(checkpoint);
  bool done = flowkit_worker_host_save_checkpoint(&saved, &why) || refused(&why);
  free(checkpoint.text);
  return done;
}

void fk_log(const char *level, const char *format, ...) {
  out message = {0};
  va_list arguments;
  va_start(arguments, format);
  out_format(&message, format, arguments);
  va_end(arguments);
  text name, line = given(message);
  handler_world_string_set(&name, level);
  flowkit_worker_host_log(&name, &line);
  free(message.text);
}

bool exports_flowkit_worker_handler_describe(text *ret, error *err) {
  out about = {0};
  out_add(&about, "{\"name\":\"%s\",\"version\":\"%s\",\"language\":\"c\"}", fk_name, fk_version);
  *ret = given(about);
  return true;
}

bool exports_flowkit_worker_handler_init(text *run_info, error *err) {
  handler_world_string_free(run_info);
  return true;
}

bool exports_flowkit_worker_handler_iter_batches(text *input, text *maybe_checkpoint, handler_world_option_string_t *ret, error *err) {
  json checkpoint = maybe_checkpoint ? parse(*maybe_checkpoint) : (json){0};
  bool begun = fk_iter_batches(json_get(parse(*input), "input_inline"), checkpoint);
  handler_world_string_free(input);
  if (maybe_checkpoint) handler_world_string_free(maybe_checkpoint);
  ret->is_some = false;
  return ended(begun, err);
}

bool exports_flowkit_worker_handler_next_batch(exports_flowkit_worker_handler_option_batch_t *ret, error *err) {
  out uid = {0}, payload = {0};
  bool found = fk_next_batch(&uid, &payload);
  ret->is_some = uid.text != NULL;
  ret->val.uid.is_some = true;
  ret->val.uid.val = given(uid);
  ret->val.payload = given(payload);
  return ended(found, err);
}

bool exports_flowkit_worker_handler_process_batch(exports_flowkit_worker_handler_batch_t *batch, text *ret, error *err) {
  out uid = {0}, metrics = {0}, result = {0};
  out_add(&uid, "%.*s", (int)batch->uid.val.len, (char *)batch->uid.val.ptr);
  processed = uid.text;
  bool done = fk_process_batch(uid.text, parse(batch->payload), &metrics);
  if (done) out_add(&result, "{\"metrics\":%s}", metrics.text ? metrics.text : "{}");
  free(uid.text);
  free(metrics.text);
  exports_flowkit_worker_handler_batch_free(batch);
  *ret = given(result);
  return ended(done, err);
}

bool exports_flowkit_worker_handler_finalize(text *ret, error *err) {
  handler_world_string_dup(ret, "{}");
  return true;
}

bool exports_flowkit_worker_handler_classify_error(error *failed, exports_flowkit_worker_handler_classification_t *ret, error *err) {
  json detail = failed->detail.is_some ? parse(failed->detail.val) : (json){0};
  size_t length;
  char *code = json_string(json_get(detail, "reason_code"), &length);
  // Anything else is not a detail of this file's or of the worker's.
  bool known = code && length > 0 && length <= 64 && strspn(code, "abcdefghijklmnopqrstuvwxyz0123456789_") == length;
  handler_world_string_dup(&ret->reason_code, known ? code : "unknown_error");
  ret->permanent = known && json_bool(json_get(detail, "permanent"), false);
  free(code);
  exports_flowkit_worker_handler_handler_error_free(failed);
  return true;
}

bool exports_flowkit_worker_handler_cleanup(error *err) { return true; }
