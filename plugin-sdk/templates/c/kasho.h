/* kasho.h: a Kasho plugin in C, with nothing but this header. ABI 1.0.
 *
 * A plugin declares columns, texts of errors and domains of keyed hashes, and gives a
 * function that looks at one row: see plugin.c. Everything is in WebAssembly's one memory
 * and one thread. There is no libc; what a call allocates is gone with the next one.
 *
 * Include it in one .c file. The contract is ABI.md of the SDK. */
#ifndef KASHO_H
#define KASHO_H

#include <stddef.h>
#include <stdint.h>

/* Tables one instance may be told of, and columns one plugin may declare. */
#ifndef KASHO_MAX_TABLES
#define KASHO_MAX_TABLES 256
#endif
#ifndef KASHO_MAX_COLUMNS
#define KASHO_MAX_COLUMNS 64
#endif

/* Bytes that somebody else owns. */
typedef struct {
  const char *at;
  uint32_t len;
} kasho_str;

/* Bytes that grow, valid until the next call. */
typedef struct {
  uint8_t *at;
  uint32_t len, room;
} kasho_buf;

enum kasho_use { KASHO_PASS, KASHO_READ, KASHO_WRITE, KASHO_MASK, KASHO_DROP };
enum kasho_state { KASHO_ABSENT, KASHO_NULL, KASHO_UNCHANGED, KASHO_TEXT };
enum kasho_image { KASHO_NEW, KASHO_OLD };
enum kasho_op {
  KASHO_INSERT, KASHO_UPDATE, KASHO_DELETE, KASHO_TRUNCATE, KASHO_READ_ROW, KASHO_DDL, KASHO_MESSAGE
};
enum kasho_verdict { KASHO_KEEP, KASHO_REMOVE, KASHO_ERROR, KASHO_AS_INSERT, KASHO_AS_DELETE };

struct kasho_row;

/* A declared column; its place in the array is what rows are asked by. */
typedef struct {
  const char *table;       /* "schema.table" as ABI.md writes names, no pattern */
  const char *name;        /* or "*", with KASHO_PASS and KASHO_DROP: all that no other names */
  enum kasho_use use;
  const char *fingerprint; /* of a mask: transform, version, options, domain; or 0 */
} kasho_column;

typedef struct {
  const kasho_column *columns;
  uint32_t column_count;
  const char *const *texts;
  uint32_t text_count;
  const char *const *domains;
  uint32_t domain_count;
  const char *(*init)(kasho_str rules); /* looks at the rules (JSON): what is wrong, or 0 */
  void (*row)(struct kasho_row *row);
} kasho_plugin;

/* The plugin: arrays as above, `0` for `init` if there are no rules. An array of nothing is
 * KASHO_NONE. */
#define KASHO_COUNT(array) ((uint32_t)(sizeof(array) / sizeof((array)[0])))
#define KASHO_PLUGIN(columns, texts, domains, init, row)                                     \
  const kasho_plugin kasho_this = {columns, KASHO_COUNT(columns), texts, KASHO_COUNT(texts), \
                                   domains, KASHO_COUNT(domains), init, row};
extern const kasho_plugin kasho_this;
static const char *const KASHO_NONE[0] = {};

/* ------------------------------------------------------------------ imports, all optional */

#define KASHO_IMPORT(name) __attribute__((import_module("kasho_1"), import_name(name)))
KASHO_IMPORT("prf") void kasho_import_prf(uint32_t, const void *, const void *, uint32_t, void *);
KASHO_IMPORT("fail")
void kasho_import_fail(const char *, uint32_t, const char *, uint32_t, uint32_t, uint32_t);
KASHO_IMPORT("log") void kasho_import_log(uint32_t, const char *, uint32_t);
KASHO_IMPORT("count") void kasho_import_count(uint32_t, int64_t);

static inline uint32_t kasho_strlen(const char *text) {
  uint32_t len = 0;
  while (text[len]) len++;
  return len;
}

static inline kasho_str kasho_lit(const char *text) {
  return (kasho_str){text, kasho_strlen(text)};
}

/* Stops the plugin, with words, file and line. Words that are not in the .wasm file are
 * withheld by the service. */
#define kasho_panic(text) kasho_panic_at(text, __FILE__, __LINE__)
static inline _Noreturn void kasho_panic_at(const char *text, const char *file, uint32_t line) {
  kasho_import_fail(text, kasho_strlen(text), file, kasho_strlen(file), line, 0);
  __builtin_trap();
}

/* level: 1 error, 2 warn, 3 info, 4 debug. */
static inline void kasho_log(uint32_t level, kasho_str text) {
  kasho_import_log(level, text.at, text.len);
}

/* Adds to the counter that is called `texts[text]`. */
static inline void kasho_add(uint32_t text, int64_t delta) { kasho_import_count(text, delta); }

/* ----------------------------------------------------------------------------- memory */

extern unsigned char __heap_base;
static uint32_t kasho_arena_size; /* the host's, at the heap's start */
static uint32_t kasho_top;        /* what this call has taken ends here */

static inline uint32_t kasho_align(uint32_t n) { return (n + 7) & ~7u; }
static inline uint32_t kasho_heap(void) { return kasho_align((uint32_t)(uintptr_t)&__heap_base); }

/* Makes memory reach to `end`; false if there is none. */
static inline int kasho_reach(uint64_t end) {
  uint64_t have = (uint64_t)__builtin_wasm_memory_size(0) << 16;
  if (end <= have) return 1;
  if (end > 0xFFFFFFF0u) return 0;
  return __builtin_wasm_memory_grow(0, (uint32_t)((end - have + 0xFFFF) >> 16)) != (size_t)-1;
}

/* `size` bytes, aligned to 8, of any content, until the next call. */
static inline void *kasho_take(uint32_t size) {
  uint32_t at = kasho_top;
  uint64_t end = (uint64_t)at + kasho_align(size);
  if (!kasho_reach(end)) kasho_panic("out of memory");
  kasho_top = (uint32_t)end;
  return (void *)(uintptr_t)at;
}

static inline void *kasho_zeroed(uint32_t size) {
  return __builtin_memset(kasho_take(size), 0, size);
}

/* ---------------------------------------------------------------------- an append buffer */

static inline uint8_t *kasho_more(kasho_buf *buf, uint32_t len) {
  if (buf->room - buf->len < len) {
    uint32_t room = (buf->room + len) * 2 + 64;
    if ((uint32_t)(uintptr_t)buf->at + kasho_align(buf->room) == kasho_top && buf->at) {
      kasho_top = (uint32_t)(uintptr_t)buf->at; /* it is the last one: it grows where it is */
      buf->at = kasho_take(room);
    } else {
      uint8_t *at = kasho_take(room);
      if (buf->len) __builtin_memcpy(at, buf->at, buf->len);
      buf->at = at;
    }
    buf->room = room;
  }
  uint8_t *at = buf->at + buf->len;
  buf->len += len;
  return at;
}

static inline void kasho_put(kasho_buf *buf, kasho_str text) {
  if (text.len) __builtin_memcpy(kasho_more(buf, text.len), text.at, text.len);
}
static inline void kasho_puts(kasho_buf *buf, const char *text) { kasho_put(buf, kasho_lit(text)); }
static inline void kasho_putc(kasho_buf *buf, char c) { *kasho_more(buf, 1) = (uint8_t)c; }
static inline void kasho_u64(kasho_buf *buf, uint64_t n) {
  char digits[20];
  uint32_t at = 20;
  do digits[--at] = (char)('0' + n % 10); while (n /= 10);
  kasho_put(buf, (kasho_str){digits + at, 20 - at});
}

/* The last 80 bits of a hash in 16 characters of a-z2-7, as the Rust SDK's `short`. */
static inline void kasho_short(kasho_buf *buf, const uint8_t *hash) {
  uint64_t high = 0, low = 0; /* 40 bits each */
  for (int i = 6; i < 11; i++) high = high << 8 | hash[i];
  for (int i = 11; i < 16; i++) low = low << 8 | hash[i];
  uint8_t *out = kasho_more(buf, 16);
  for (int i = 0; i < 8; i++) {
    out[i] = (uint8_t) "abcdefghijklmnopqrstuvwxyz234567"[high >> (35 - 5 * i) & 31];
    out[8 + i] = (uint8_t) "abcdefghijklmnopqrstuvwxyz234567"[low >> (35 - 5 * i) & 31];
  }
}

/* All 128 bits in 32 hexadecimal digits. */
static inline void kasho_hex(kasho_buf *buf, const uint8_t *hash) {
  for (int i = 0; i < 16; i++) {
    kasho_putc(buf, "0123456789abcdef"[hash[i] >> 4]);
    kasho_putc(buf, "0123456789abcdef"[hash[i] & 15]);
  }
}

static inline int kasho_same(kasho_str a, kasho_str b) {
  if (a.len != b.len) return 0;
  for (uint32_t i = 0; i < a.len; i++)
    if (a.at[i] != b.at[i]) return 0;
  return 1;
}
static inline int kasho_eq(kasho_str a, const char *b) { return kasho_same(a, kasho_lit(b)); }
static inline int kasho_has(kasho_str text, char c) {
  for (uint32_t i = 0; i < text.len; i++)
    if (text.at[i] == c) return 1;
  return 0;
}

/* -------------------------------------------------------------------------------- JSON
 * What the host says is well formed: this reads it, it does not judge it. A value is the
 * text of it, `at == 0` if it is not there. */

static inline kasho_str kasho_json_trim(kasho_str s) {
  while (s.len && (*s.at == ' ' || *s.at == '\n' || *s.at == '\r' || *s.at == '\t' || *s.at == ',' ||
                   *s.at == ':'))
    s.at++, s.len--;
  return s;
}

/* Bytes of the value that `s` begins with. */
static inline uint32_t kasho_json_span(kasho_str s) {
  uint32_t depth = 0, i = 0;
  int text = 0;
  for (; i < s.len; i++) {
    char c = s.at[i];
    if (text) {
      if (c == '\\') i++;
      else if (c == '"') text = 0;
      else continue;
    } else if (c == '"') {
      text = 1;
      continue;
    } else if (c == '{' || c == '[') {
      depth++;
      continue;
    } else if (c == '}' || c == ']') {
      if (!depth) return i; /* a number or a word ended before */
      depth--;
    } else if (depth || !(c == ',' || c == ':' || c == ' ' || c == '\n')) {
      continue;
    } else {
      return i;
    }
    if (!depth && !text && (s.at[i] == '"' || s.at[i] == '}' || s.at[i] == ']')) return i + 1;
  }
  return s.len;
}

/* Takes the next value off what is left of an array's or object's inside. */
static inline int kasho_json_next(kasho_str *inside, kasho_str *value) {
  *inside = kasho_json_trim(*inside);
  if (!inside->len || *inside->at == ']' || *inside->at == '}') return 0;
  uint32_t len = kasho_json_span(*inside);
  if (!len) return 0;
  *value = (kasho_str){inside->at, len};
  inside->at += len, inside->len -= len;
  return 1;
}

/* What lies between the brackets of an array or object. */
static inline kasho_str kasho_json_inside(kasho_str value) {
  if (value.len < 2 || (*value.at != '{' && *value.at != '[')) return (kasho_str){0, 0};
  return (kasho_str){value.at + 1, value.len - 2};
}

/* The member `key` of an object. */
static inline kasho_str kasho_json_get(kasho_str object, const char *key) {
  kasho_str rest = kasho_json_inside(kasho_json_trim(object)), name, value;
  while (kasho_json_next(&rest, &name) && kasho_json_next(&rest, &value)) {
    if (name.len >= 2 && kasho_eq((kasho_str){name.at + 1, name.len - 2}, key)) return value;
  }
  return (kasho_str){0, 0};
}

static inline uint32_t kasho_json_u32(kasho_str value) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < value.len && value.at[i] >= '0' && value.at[i] <= '9'; i++)
    n = n * 10 + (uint32_t)(value.at[i] - '0');
  return n;
}

/* The text of a JSON string, escapes resolved. */
static inline kasho_str kasho_json_text(kasho_str value) {
  if (value.len < 2 || *value.at != '"') return (kasho_str){0, 0};
  char *out = kasho_take(value.len);
  uint32_t len = 0;
  for (uint32_t i = 1; i + 1 < value.len; i++) {
    char c = value.at[i];
    if (c == '\\') {
      c = value.at[++i];
      if (c == 'n') c = '\n';
      else if (c == 't') c = '\t';
      else if (c == 'r') c = '\r';
      else if (c == 'b') c = '\b';
      else if (c == 'f') c = '\f';
      else if (c == 'u') { /* this host escapes control characters only */
        uint32_t code = 0;
        for (int d = 1; d <= 4; d++) {
          char h = value.at[i + (uint32_t)d];
          code = code << 4 | (uint32_t)(h <= '9' ? h - '0' : (h | 32) - 'a' + 10);
        }
        i += 4, c = (char)code;
      }
    }
    out[len++] = c;
  }
  return (kasho_str){out, len};
}

static inline void kasho_json_quote(kasho_buf *buf, kasho_str text) {
  kasho_putc(buf, '"');
  for (uint32_t i = 0; i < text.len; i++) {
    uint8_t c = (uint8_t)text.at[i];
    if (c == '"' || c == '\\') kasho_putc(buf, '\\');
    if (c < 32) {
      kasho_puts(buf, "\\u00");
      kasho_putc(buf, "0123456789abcdef"[c >> 4]);
      c = (uint8_t) "0123456789abcdef"[c & 15];
    }
    kasho_putc(buf, (char)c);
  }
  kasho_putc(buf, '"');
}

/* ------------------------------------------------------------------ what a row can be asked */

typedef struct {
  uint32_t slot, image;
  const uint8_t *states;
  const uint32_t *offsets;
  const char *bytes;
  uint8_t *hashes; /* of all rows, once they were asked for */
  uint32_t domain;
  /* the patch so far */
  uint8_t *bitmap, *new_states;
  uint32_t *ends; /* of each entry but the last */
  uint32_t count, last, nulls;
  kasho_buf text;
} kasho_side;

typedef struct kasho_row {
  uint32_t at, rows;
  const uint8_t *ops;
  const int64_t *commit_us;
  kasho_side *sides; /* by column and image */
  uint8_t *verdicts;
  uint32_t *errors; /* pairs */
  uint32_t error_count;
} kasho_row;

static inline kasho_side *kasho_side_of(const kasho_row *row, uint32_t column, int image) {
  kasho_side *side = &row->sides[column * 2 + (uint32_t)image];
  return side->states ? side : 0;
}

static inline enum kasho_op kasho_op_of(const kasho_row *row) { return row->ops[row->at]; }

/* A column as it came; `value` is set if it is a text. A column that the table does not
 * have is absent. */
static inline enum kasho_state kasho_get(const kasho_row *row, uint32_t column, int image,
                                         kasho_str *value) {
  const kasho_side *side = kasho_side_of(row, column, image);
  if (!side) return KASHO_ABSENT;
  enum kasho_state state = side->states[row->at / 4] >> row->at % 4 * 2 & 3;
  if (state == KASHO_TEXT) {
    uint32_t from = side->offsets[row->at];
    *value = (kasho_str){side->bytes + from, side->offsets[row->at + 1] - from};
  }
  return state;
}

/* The keyed hash of a text, 16 bytes; the host is asked once for the whole column. */
static inline const uint8_t *kasho_hash(const kasho_row *row, uint32_t column, int image,
                                        uint32_t domain) {
  kasho_side *side = kasho_side_of(row, column, image);
  if (!side) kasho_panic("a column is hashed that is not there");
  if (!side->hashes || side->domain != domain) {
    side->hashes = kasho_take(row->rows * 16), side->domain = domain;
    kasho_import_prf(domain, side->offsets, side->bytes, row->rows, side->hashes);
  }
  return side->hashes + row->at * 16;
}

static inline kasho_side *kasho_patch(kasho_row *row, uint32_t column, int image, uint8_t state) {
  kasho_side *side = kasho_side_of(row, column, image);
  if (!side) kasho_panic("a column is set that is not there");
  if (!side->bitmap) {
    side->bitmap = kasho_zeroed((row->rows + 7) / 8);
    side->new_states = kasho_take(row->rows);
    side->ends = kasho_take(row->rows * 4);
  }
  if (side->count && side->last == row->at) { /* set again: in place of what it was */
    side->text.len = side->count > 1 ? side->ends[side->count - 2] : 0;
    if (side->new_states[side->count - 1] == KASHO_NULL) side->nulls--;
  } else {
    if (side->count) side->ends[side->count - 1] = side->text.len;
    side->bitmap[row->at / 8] |= (uint8_t)(1 << row->at % 8);
    side->count++, side->last = row->at;
  }
  side->new_states[side->count - 1] = state;
  return side;
}

/* Sets a column: what is put into the buffer before the row ends is the new text. Only
 * over a text or NULL. */
static inline kasho_buf *kasho_set(kasho_row *row, uint32_t column, int image) {
  return &kasho_patch(row, column, image, KASHO_TEXT)->text;
}

static inline void kasho_set_null(kasho_row *row, uint32_t column, int image) {
  kasho_patch(row, column, image, KASHO_NULL)->nulls++;
}

/* What becomes of the row: not KASHO_ERROR, which is kasho_fail's. */
static inline void kasho_judge(kasho_row *row, enum kasho_verdict verdict) {
  if (!row->verdicts) row->verdicts = kasho_zeroed(row->rows);
  if (row->verdicts[row->at] != KASHO_ERROR) row->verdicts[row->at] = (uint8_t)verdict;
}

/* The row is in error, with `texts[text]`; the first error of a row stays. */
static inline void kasho_fail(kasho_row *row, uint32_t text, uint32_t column) {
  if (!row->verdicts) row->verdicts = kasho_zeroed(row->rows);
  if (row->verdicts[row->at] == KASHO_ERROR) return;
  if (!row->errors) row->errors = kasho_take(row->rows * 8);
  const kasho_side *new = kasho_side_of(row, column, KASHO_NEW);
  const kasho_side *side = new ? new : kasho_side_of(row, column, KASHO_OLD);
  row->verdicts[row->at] = KASHO_ERROR;
  row->errors[row->error_count * 2] = row->at;
  row->errors[row->error_count++ * 2 + 1] = (side ? side->slot : 0xFFFF) << 16 | text;
}

/* When its transaction committed, microseconds since 1970; 0: it was not asked for. */
static inline int64_t kasho_commit_us(const kasho_row *row) {
  return row->commit_us ? row->commit_us[row->at] : 0;
}

/* ----------------------------------------------------------------------- the contract */

#define KASHO_EXPORT(name) __attribute__((export_name(name), used))

static struct {
  uint32_t id, version;
  uint16_t slots[KASHO_MAX_COLUMNS];
} kasho_tables[KASHO_MAX_TABLES];
static uint32_t kasho_table_count;

static inline uint64_t kasho_answer(const void *at, uint32_t len) {
  return (uint64_t)(uintptr_t)at << 32 | len;
}

/* A JSON answer: spaces up to the 8 bytes that an answer has at least. */
static inline uint64_t kasho_say(kasho_buf *buf) {
  while (buf->len < 8) kasho_putc(buf, ' ');
  return kasho_answer(buf->at, buf->len);
}

static inline uint64_t kasho_refuse(const char *text) {
  kasho_buf buf = {0};
  kasho_puts(&buf, "{\"error\":{\"text\":");
  kasho_json_quote(&buf, kasho_lit(text));
  kasho_puts(&buf, "}}");
  return kasho_say(&buf);
}

static inline kasho_str kasho_begin(uint32_t ptr, uint32_t len) {
  kasho_top = kasho_heap() + kasho_arena_size;
  return (kasho_str){(const char *)(uintptr_t)ptr, len};
}

KASHO_EXPORT("kasho_abi_1") void kasho_abi_1(void) {}

KASHO_EXPORT("kasho_alloc") uint32_t kasho_alloc(uint32_t size) {
  uint32_t aligned = kasho_align(size);
  if (aligned < size || !kasho_reach((uint64_t)kasho_heap() + aligned)) return 0;
  if (aligned > kasho_arena_size) kasho_arena_size = aligned;
  return kasho_heap();
}

static inline void kasho_list(kasho_buf *buf, const char *key, const char *const *all, uint32_t n) {
  kasho_puts(buf, key);
  for (uint32_t i = 0; i < n; i++) {
    if (i) kasho_putc(buf, ',');
    kasho_json_quote(buf, kasho_lit(all[i]));
  }
  kasho_puts(buf, "]");
}

static inline int kasho_all(const kasho_column *column) { return kasho_eq(kasho_lit(column->name), "*"); }

KASHO_EXPORT("kasho_init") uint64_t kasho_init(uint32_t ptr, uint32_t len) {
  kasho_str said = kasho_begin(ptr, len);
  const kasho_plugin *plugin = &kasho_this;
  if (plugin->column_count > KASHO_MAX_COLUMNS) return kasho_refuse("raise KASHO_MAX_COLUMNS");
  if (plugin->init) {
    const char *wrong = plugin->init(kasho_json_get(said, "rules"));
    if (wrong) return kasho_refuse(wrong);
  }
  kasho_buf buf = {0};
  kasho_puts(&buf, "{\"ok\":{\"needs\":{");
  for (uint32_t i = 0, tables = 0; i < plugin->column_count; i++) {
    kasho_str table = kasho_lit(plugin->columns[i].table);
    uint32_t before = 0;
    while (before < i && !kasho_eq(table, plugin->columns[before].table)) before++;
    if (before < i) continue;
    if (tables++) kasho_putc(&buf, ',');
    kasho_json_quote(&buf, table);
    kasho_puts(&buf, ":[");
    for (uint32_t j = i, names = 0; j < plugin->column_count; j++) {
      const kasho_column *column = &plugin->columns[j];
      if (!kasho_eq(table, column->table) || kasho_all(column)) continue;
      if (names++) kasho_putc(&buf, ',');
      kasho_json_quote(&buf, kasho_lit(column->name));
    }
    kasho_putc(&buf, ']');
  }
  kasho_puts(&buf, "}");
  kasho_list(&buf, ",\"texts\":[", plugin->texts, plugin->text_count);
  kasho_list(&buf, ",\"domains\":[", plugin->domains, plugin->domain_count);
  kasho_puts(&buf, plugin->domain_count ? ",\"uses\":[\"prf\"]}}" : "}}");
  return kasho_say(&buf);
}

/* A name as ABI.md writes it: bare where lower case letters, digits and `_` suffice. */
static inline void kasho_identifier(kasho_buf *buf, kasho_str name) {
  int bare = name.len > 0;
  for (uint32_t i = 0; i < name.len; i++) {
    char c = name.at[i];
    bare &= c == '_' || (c >= 'a' && c <= 'z') || (i && c >= '0' && c <= '9');
  }
  if (bare) {
    kasho_put(buf, name);
    return;
  }
  kasho_putc(buf, '"');
  for (uint32_t i = 0; i < name.len; i++) {
    if (name.at[i] == '"') kasho_putc(buf, '"');
    kasho_putc(buf, name.at[i]);
  }
  kasho_putc(buf, '"');
}

/* The declaration that holds for a column: one that names it, else one of all. */
static inline const kasho_column *kasho_rule(kasho_str table, kasho_str name) {
  const kasho_column *found = 0;
  for (uint32_t i = 0; i < kasho_this.column_count; i++) {
    const kasho_column *column = &kasho_this.columns[i];
    if (!kasho_eq(table, column->table)) continue;
    if (kasho_eq(name, column->name)) return column;
    if (kasho_all(column)) found = column;
  }
  return found;
}

KASHO_EXPORT("kasho_relation") uint64_t kasho_relation(uint32_t ptr, uint32_t len) {
  static const char *const uses[] = {"pass", "read", "write", "mask", "drop"};
  kasho_str said = kasho_begin(ptr, len);
  uint32_t id = kasho_json_u32(kasho_json_get(said, "id")), at = 0;
  while (at < kasho_table_count && kasho_tables[at].id != id) at++;
  if (kasho_json_get(said, "gone").at) {
    if (at < kasho_table_count) kasho_tables[at] = kasho_tables[--kasho_table_count];
    return 1;
  }
  kasho_buf table = {0};
  kasho_identifier(&table, kasho_json_text(kasho_json_get(said, "schema")));
  kasho_putc(&table, '.');
  kasho_identifier(&table, kasho_json_text(kasho_json_get(said, "table")));
  kasho_str name = {(const char *)table.at, table.len};
  int wanted = 0;
  for (uint32_t i = 0; i < kasho_this.column_count; i++)
    wanted |= kasho_eq(name, kasho_this.columns[i].table);
  if (!wanted) return 1;
  if (at == KASHO_MAX_TABLES) return kasho_refuse("raise KASHO_MAX_TABLES");
  if (at == kasho_table_count) kasho_table_count++;
  kasho_tables[at].id = id;
  kasho_tables[at].version = kasho_json_u32(kasho_json_get(said, "version"));
  for (uint32_t i = 0; i < KASHO_MAX_COLUMNS; i++) kasho_tables[at].slots[i] = 0xFFFF;
  kasho_buf buf = {0};
  kasho_puts(&buf, "{\"ok\":{\"columns\":[");
  kasho_str rest = kasho_json_inside(kasho_json_get(said, "columns")), column;
  for (uint16_t slot = 0; kasho_json_next(&rest, &column);) {
    kasho_str quoted = kasho_json_get(column, "name"), is = kasho_json_text(quoted);
    const kasho_column *rule = kasho_rule(name, is);
    if (!rule) continue;
    kasho_tables[at].slots[rule - kasho_this.columns] = kasho_all(rule) ? 0xFFFF : slot;
    kasho_puts(&buf, slot++ ? ",{\"name\":" : "{\"name\":");
    kasho_put(&buf, quoted);
    kasho_puts(&buf, ",\"use\":");
    kasho_json_quote(&buf, kasho_lit(uses[rule->use]));
    if (rule->fingerprint) {
      kasho_puts(&buf, ",\"as\":");
      kasho_json_quote(&buf, kasho_lit(rule->fingerprint));
    }
    kasho_putc(&buf, '}');
  }
  kasho_puts(&buf, "],\"ops\":[\"insert\",\"update\",\"delete\",\"read\"]}}");
  return kasho_say(&buf);
}

static inline uint32_t kasho_word(const uint8_t *block, uint32_t at) {
  uint32_t word;
  __builtin_memcpy(&word, block + at, 4);
  return word;
}

static inline void kasho_store(uint8_t *block, uint32_t at, uint32_t word) {
  __builtin_memcpy(block + at, &word, 4);
}

/* A region of the reply; where it begins. */
static inline uint32_t kasho_region(kasho_buf *reply, const void *from, uint32_t len) {
  uint32_t at = kasho_align(reply->len);
  __builtin_memset(kasho_more(reply, at - reply->len), 0, at - reply->len);
  if (len) __builtin_memcpy(kasho_more(reply, len), from, len);
  return at;
}

static inline uint64_t kasho_reply(kasho_row *row, uint32_t sides, uint32_t call) {
  uint32_t patches = 0;
  for (uint32_t i = 0; i < sides; i++) patches += row->sides[i].count > 0;
  if (!patches && !row->verdicts) return 1;
  kasho_buf reply = {0};
  __builtin_memset(kasho_more(&reply, 32 + patches * 32), 0, 32 + patches * 32);
  uint32_t verdicts = row->verdicts ? kasho_region(&reply, row->verdicts, row->rows) : 0;
  uint32_t errors = row->error_count ? kasho_region(&reply, row->errors, row->error_count * 8) : 0;
  for (uint32_t i = 0, at = 32; i < sides; i++) {
    kasho_side *side = &row->sides[i];
    if (!side->count) continue;
    uint32_t zero = 0, n = side->count, bytes = side->text.len;
    side->ends[n - 1] = bytes;
    uint32_t bitmap = kasho_region(&reply, side->bitmap, (row->rows + 7) / 8);
    uint32_t states = side->nulls ? kasho_region(&reply, side->new_states, n) : 0;
    uint32_t offsets = kasho_region(&reply, &zero, 4);
    __builtin_memcpy(kasho_more(&reply, n * 4), side->ends, n * 4);
    uint32_t texts = bytes ? kasho_region(&reply, side->text.at, bytes) : 0;
    uint32_t words[7] = {side->slot | side->image << 16, n, bitmap, states, offsets, texts, bytes};
    __builtin_memcpy(reply.at + at, words, sizeof words);
    at += 32;
  }
  kasho_region(&reply, 0, 0);
  kasho_store(reply.at, 0, reply.len);
  kasho_store(reply.at, 4, 32 | patches << 16);
  kasho_store(reply.at, 8, row->rows);
  kasho_store(reply.at, 12, call);
  kasho_store(reply.at, 16, verdicts);
  kasho_store(reply.at, 20, errors);
  kasho_store(reply.at, 24, row->error_count);
  kasho_store(reply.at, 28, patches ? 32 : 0);
  return kasho_answer(reply.at, reply.len);
}

KASHO_EXPORT("kasho_batch") uint64_t kasho_batch(uint32_t ptr, uint32_t len) {
  const uint8_t *block = (const uint8_t *)kasho_begin(ptr, len).at;
  uint32_t id = kasho_word(block, 12), version = kasho_word(block, 16), table = 0;
  while (table < kasho_table_count && kasho_tables[table].id != id) table++;
  if (table == kasho_table_count || kasho_tables[table].version != version) return 0;
  uint32_t sides = kasho_this.column_count * 2, commit = kasho_word(block, 28);
  kasho_row row = {
      .rows = kasho_word(block, 8),
      .ops = block + kasho_word(block, 24),
      .commit_us = commit ? (const int64_t *)(const void *)(block + commit) : 0,
      .sides = kasho_zeroed(sides * (uint32_t)sizeof(kasho_side)),
  };
  uint32_t descriptors = kasho_word(block, 4) >> 16, first = kasho_word(block, 32);
  for (uint32_t d = 0; d < descriptors; d++) {
    const uint8_t *at = block + first + d * 32;
    uint32_t word = kasho_word(at, 0), slot = word & 0xFFFF, image = word >> 16 & 0xFF;
    for (uint32_t c = 0; c < kasho_this.column_count; c++) {
      if (kasho_tables[table].slots[c] != slot || image > 1) continue;
      kasho_side *side = &row.sides[c * 2 + image];
      side->slot = slot, side->image = image;
      side->states = block + kasho_word(at, 4);
      side->offsets = (const uint32_t *)(const void *)(block + kasho_word(at, 8));
      side->bytes = (const char *)block + kasho_word(at, 12);
    }
  }
  for (row.at = 0; row.at < row.rows; row.at++) kasho_this.row(&row);
  return kasho_reply(&row, sides, kasho_word(block, 36));
}

#endif
