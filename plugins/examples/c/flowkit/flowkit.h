// A FlowKit handler in C: what an author implements, and what there is to do it with.
#pragma once

#include <stdbool.h>
#include <stddef.h>

// One JSON value inside a longer text that outlives it; absent where `at` is NULL.
typedef struct {
  const char *at, *end;
} json;

// A member of an object, absent where there is none or it is null.
json json_get(json object, const char *key);

// The element of an array that follows `*element` (the first when that is absent).
// False at the end.
bool json_next(json array, json *element);

long long json_int(json number, long long otherwise);
bool json_bool(json boolean, bool otherwise);

// A string without its quotes and escapes, for `free`. NULL if it is not a string.
char *json_string(json string, size_t *length);

// A text that grows. Start with `{0}`; given to the worker, it is freed there.
typedef struct {
  char *text;
  size_t length, room;
} out;

void out_add(out *to, const char *format, ...) __attribute__((format(printf, 2, 3)));
void out_string(out *to, const char *text, size_t length); // as a JSON string

bool is_space(char c); // in ASCII

// What the author implements. They return true, or what `fk_fail` returns.
extern const char *const fk_name, *const fk_version;
bool fk_iter_batches(json input, json checkpoint); // `input` is the command's input_inline
bool fk_next_batch(out *uid, out *payload);        // a name and JSON; no name: no more batches
bool fk_process_batch(const char *uid, json payload, out *metrics);

// The function's error, and whether every further attempt would end like this.
bool fk_fail(const char *reason_code, bool permanent, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool fk_invalid(const char *format, ...) __attribute__((format(printf, 1, 2))); // the input is wrong

// What the worker offers. These return false after `fk_fail`: fit for `if (!…) return false`.
bool fk_check_cancelled(void);
bool fk_sleep(unsigned ms); // fails when the run is cancelled
// What the nodes after this one see of the batch beside its metrics: a JSON object.
bool fk_upsert_partial(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool fk_save_checkpoint(const char *format, ...) __attribute__((format(printf, 1, 2)));

// One line for the worker's log: `trace`, `debug`, `info`, `warn`, `error`.
void fk_log(const char *level, const char *format, ...) __attribute__((format(printf, 2, 3)));
