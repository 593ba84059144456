// Everything that kasho.ts can do.

import { IMAGES, Image, Json, Level, log, Op, plugin, Row, State, text, Verdict } from "./kasho";
export { kasho_abi_1, kasho_alloc, kasho_init, kasho_relation, kasho_batch } from "./kasho";

const ORDER = '"odd-shop"."Order"';
plugin.pass(ORDER, "*");
plugin.drop(ORDER, "big");
const MAIL = plugin.mask(ORDER, "mail", "short/1;domain=mail");
const NOTE = plugin.write(ORDER, "note");
const STATUS = plugin.read(ORDER, "status");
const SEEN = plugin.text('orders "seen"');
const NO_SUCH_STATUS = plugin.text("no such status");
const OTHER = plugin.domain("other");
const MAILS = plugin.domain("mail");

let width = "";

plugin.init = (rules: string): string => {
  const json = new Json(rules);
  width = json.member("width");
  return text(json.member("name")) == 'a "b"\n' ? "" : 'name is a "b"';
};

plugin.row = (row: Row): void => {
  plugin.count(SEEN, 1);
  for (let i = 0; i < IMAGES.length; i++) {
    const image = IMAGES[i];
    if (row.state(MAIL, image) != State.Text) continue;
    row.hash(MAIL, image, OTHER);
    row.set(MAIL, image, row.hash(MAIL, image, MAILS).short() + "-" + width);
  }
  if (row.state(NOTE, Image.New) == State.Null) row.set(NOTE, Image.New, "none");
  const note = row.text(NOTE, Image.New);
  if (note == "secret") row.set(NOTE, Image.New, null);
  if (note == "twice") {
    row.set(NOTE, Image.New, null);
    row.set(NOTE, Image.New, "once");
    row.set(NOTE, Image.New, "done");
  }
  const status = row.text(STATUS, Image.New);
  if (status == null) return;
  if (status == "gone") row.judge(Verdict.Remove);
  if (status == "left" && row.op() == Op.Update) row.judge(Verdict.AsDelete);
  if (status == "wrong") {
    row.fail(NO_SUCH_STATUS, STATUS);
    log(Level.Info, status);
  }
};
