// Just enough JSON for text that a worker has already checked.
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flowkit.h"

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r' && c != '\v'); }

static const char *skip_space(const char *at, const char *end) {
  while (at < end && strchr(" \t\n\r", *at) && *at) at++;
  return at;
}

// Past the value at `at`: its strings and brackets are followed, the rest is not looked at.
static const char *skip_value(const char *at, const char *end) {
  for (int depth = 0; at < end; at++) {
    if (*at == '"') {
      for (at++; at < end && *at != '"'; at++) at += *at == '\\';
    } else if (*at == '{' || *at == '[') {
      depth++;
    } else if (*at == '}' || *at == ']') {
      if (depth == 0) return at;
      depth--;
    } else if (*at == ',' || *at == ':') {
      if (depth == 0) return at;
    }
  }
  return end;
}

static bool is_in(json value, char open) { return value.at && value.at < value.end && *value.at == open; }

static json value_at(const char *at, const char *end) {
  at = skip_space(at, end);
  return (json){at, skip_value(at, end)};
}

// Keys are compared as they are written: none that is looked for needs an escape.
json json_get(json object, const char *key) {
  if (!is_in(object, '{')) return (json){0};
  const char *at = object.at + 1, *end = object.end;
  size_t wanted = strlen(key);
  while ((at = skip_space(at, end)) < end && *at == '"') {
    const char *colon = skip_value(at, end);
    bool found = (size_t)(colon - at) >= wanted + 2 && !memcmp(at + 1, key, wanted) && at[wanted + 1] == '"';
    json value = value_at(colon + 1, end);
    if (found) return is_in(value, 'n') ? (json){0} : value;
    at = value.end + 1;
  }
  return (json){0};
}

bool json_next(json array, json *element) {
  if (!is_in(array, '[')) return false;
  const char *from = element->at ? skip_space(element->end, array.end) : array.at;
  if (from >= array.end || *from == ']') return false;
  *element = value_at(from + 1, array.end); // behind the `[` or the `,`
  return element->at < element->end;
}

static double number(json value, double otherwise) {
  char digits[40] = {0}, *end;
  if (!value.at) return otherwise;
  size_t length = value.end - value.at;
  memcpy(digits, value.at, length < sizeof digits - 1 ? length : sizeof digits - 1);
  double read = strtod(digits, &end);
  return end == digits ? otherwise : read;
}

long long json_int(json value, long long otherwise) { return number(value, otherwise); }

bool json_bool(json value, bool otherwise) { return value.at ? is_in(value, 't') : otherwise; }

static unsigned hex4(const char *at) {
  char digits[5] = {0};
  memcpy(digits, at, 4);
  return strtoul(digits, NULL, 16);
}

static char *put_utf8(char *to, unsigned c) {
  if (c < 0x80) return *to++ = c, to;
  if (c < 0x800) return *to++ = 0xC0 | c >> 6, *to++ = 0x80 | (c & 63), to;
  if (c < 0x10000)
    *to++ = 0xE0 | c >> 12;
  else
    *to++ = 0xF0 | c >> 18, *to++ = 0x80 | (c >> 12 & 63);
  return *to++ = 0x80 | (c >> 6 & 63), *to++ = 0x80 | (c & 63), to;
}

char *json_string(json value, size_t *length) {
  static const char escapes[] = "bfnrt", meant[] = "\b\f\n\r\t";
  if (!is_in(value, '"')) return NULL;
  char *text = malloc(value.end - value.at), *to = text; // an escape is longer than its meaning
  if (!text) abort();
  for (const char *at = value.at + 1; at < value.end && *at != '"'; at++) {
    if (*at != '\\') {
      *to++ = *at;
    } else if (*++at == 'u' && value.end - at > 4) {
      unsigned c = hex4(at + 1);
      at += 4;
      if (c >> 10 == 0x36 && value.end - at > 6 && at[1] == '\\') { // the first of a pair
        c = 0x10000 + ((c & 0x3FF) << 10) + (hex4(at + 3) & 0x3FF);
        at += 6;
      }
      to = put_utf8(to, c);
    } else {
      const char *escape = strchr(escapes, *at);
      *to++ = escape && *escape ? meant[escape - escapes] : *at;
    }
  }
  *length = to - text;
  *to = 0;
  return text;
}

static char *make_room(out *to, size_t more) {
  if (to->length + more > to->room) {
    to->room = 2 * (to->length + more);
    to->text = realloc(to->text, to->room);
    if (!to->text) abort();
  }
  return to->text + to->length;
}

void out_format(out *to, const char *format, va_list arguments) {
  va_list again;
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, again);
  va_end(again);
  vsnprintf(make_room(to, length + 1), length + 1, format, arguments);
  to->length += length;
}

void out_add(out *to, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  out_format(to, format, arguments);
  va_end(arguments);
}

void out_string(out *to, const char *text, size_t length) {
  char *at = make_room(to, 6 * length + 3), *start = at;
  *at++ = '"';
  for (size_t i = 0; i < length; i++) {
    unsigned char c = text[i];
    if (c == '"' || c == '\\')
      *at++ = '\\', *at++ = c;
    else if (c < 0x20)
      at += sprintf(at, "\\u%04x", c);
    else
      *at++ = c;
  }
  *at++ = '"';
  to->length += at - start;
}
