/* Masks the e-mail addresses of users. */

#include "kasho.h"

enum { EMAIL, OTHERS };
static const kasho_column columns[] = {
    [EMAIL] = {"public.users", "email", KASHO_MASK, "short_email/1;domain=email"},
    /* All other columns leave as they are. Without this, the binding would have to say. */
    [OTHERS] = {"public.users", "*", KASHO_PASS, 0},
};

enum { NOT_AN_EMAIL };
static const char *const texts[] = {[NOT_AN_EMAIL] = "not an e-mail"};

enum { EMAILS };
static const char *const domains[] = {[EMAILS] = "email"};

static void mask(kasho_row *row) {
  for (int image = KASHO_NEW; image <= KASHO_OLD; image++) {
    kasho_str email;
    if (kasho_get(row, EMAIL, image, &email) != KASHO_TEXT) continue;
    if (!kasho_has(email, '@')) {
      kasho_fail(row, NOT_AN_EMAIL, EMAIL);
      continue;
    }
    kasho_buf *out = kasho_set(row, EMAIL, image);
    kasho_short(out, kasho_hash(row, EMAIL, image, EMAILS));
    kasho_puts(out, "@example.com");
  }
}

KASHO_PLUGIN(columns, texts, domains, 0, mask)
