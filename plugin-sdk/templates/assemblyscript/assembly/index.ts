// Masks the e-mail addresses of users.

import { IMAGES, plugin, Row } from "./kasho";
export { kasho_abi_1, kasho_alloc, kasho_init, kasho_relation, kasho_batch } from "./kasho";

// All other columns leave as they are. Without this, the binding would have to say.
plugin.pass("public.users", "*");
const EMAIL = plugin.mask("public.users", "email", "short_email/1;domain=email");
const EMAILS = plugin.domain("email");
const NOT_AN_EMAIL = plugin.text("not an e-mail");

plugin.row = (row: Row): void => {
  for (let i = 0; i < IMAGES.length; i++) {
    const image = IMAGES[i];
    const email = row.text(EMAIL, image);
    if (email == null) continue; // NULL, unchanged, or not in this image
    if (!email.includes("@")) {
      row.fail(NOT_AN_EMAIL, EMAIL);
      continue;
    }
    row.set(EMAIL, image, row.hash(EMAIL, image, EMAILS).short() + "@example.com");
  }
};
