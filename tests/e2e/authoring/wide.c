/* Everything that kasho.h can do. */

#include "kasho.h"

#define ORDER "\"odd-shop\".\"Order\""

enum { MAIL, NOTE, STATUS, BIG, REST };
static const kasho_column columns[] = {
    [MAIL] = {ORDER, "mail", KASHO_MASK, "short/1;domain=mail"},
    [NOTE] = {ORDER, "note", KASHO_WRITE, "note/1"},
    [STATUS] = {ORDER, "status", KASHO_READ, 0},
    [BIG] = {ORDER, "big", KASHO_DROP, 0},
    [REST] = {ORDER, "*", KASHO_PASS, 0},
};

enum { SEEN, NO_SUCH_STATUS };
static const char *const texts[] = {"orders \"seen\"", "no such status"};
enum { OTHER, MAILS };
static const char *const domains[] = {"other", "mail"};

static uint64_t width;

static const char *init(kasho_str rules) {
  width = kasho_json_u32(kasho_json_get(rules, "width"));
  return kasho_same(kasho_json_text(kasho_json_get(rules, "name")), kasho_lit("a \"b\"\n"))
             ? 0
             : "name is a \"b\"";
}

static void look(kasho_row *row) {
  kasho_str text;
  kasho_add(SEEN, 1);
  for (int image = KASHO_NEW; image <= KASHO_OLD; image++) {
    if (kasho_get(row, MAIL, image, &text) == KASHO_TEXT) {
      kasho_hash(row, MAIL, image, OTHER);
      kasho_buf *out = kasho_set(row, MAIL, image);
      kasho_short(out, kasho_hash(row, MAIL, image, MAILS));
      kasho_putc(out, '-');
      kasho_u64(out, width);
    }
  }
  enum kasho_state note = kasho_get(row, NOTE, KASHO_NEW, &text);
  if (note == KASHO_NULL) kasho_puts(kasho_set(row, NOTE, KASHO_NEW), "none");
  if (note == KASHO_TEXT && kasho_eq(text, "secret")) kasho_set_null(row, NOTE, KASHO_NEW);
  if (note == KASHO_TEXT && kasho_eq(text, "twice")) {
    kasho_set_null(row, NOTE, KASHO_NEW);
    kasho_puts(kasho_set(row, NOTE, KASHO_NEW), "once");
    kasho_puts(kasho_set(row, NOTE, KASHO_NEW), "done");
  }
  if (kasho_get(row, STATUS, KASHO_NEW, &text) != KASHO_TEXT) return;
  if (kasho_eq(text, "gone")) kasho_judge(row, KASHO_REMOVE);
  if (kasho_eq(text, "left") && kasho_op_of(row) == KASHO_UPDATE) kasho_judge(row, KASHO_AS_DELETE);
  if (kasho_eq(text, "wrong")) {
    kasho_fail(row, NO_SUCH_STATUS, STATUS);
    kasho_log(3, text);
  }
}

KASHO_PLUGIN(columns, texts, domains, init, look)
