// A Kasho plugin in AssemblyScript: declare on `plugin` at the top level of index.ts, give it
// a function that looks at one row, and export the five functions of ABI 1. The contract is
// ABI.md of the SDK.
//
// Texts are UTF-8 outside and UTF-16 in here, so a text costs its conversion.

// Where a value stands: after the change, or before it.
export enum Image {
  New,
  Old,
}

// Both, to go through.
export const IMAGES: StaticArray<Image> = [Image.New, Image.Old];

export enum State {
  Absent,
  Null,
  Unchanged,
  Text,
}

export enum Op {
  Insert,
  Update,
  Delete,
  Truncate,
  Read,
  Ddl,
  Message,
}

export enum Verdict {
  Keep,
  Remove,
  Error, // what `fail` sets
  AsInsert,
  AsDelete,
}

export enum Level {
  Error = 1,
  Warn,
  Info,
  Debug,
}

// @ts-ignore: decorator
@external("kasho_1", "prf")
declare function importPrf(domain: u32, offsets: usize, bytes: usize, n: u32, out: usize): void;
// @ts-ignore: decorator
@external("kasho_1", "fail")
declare function importFail(text: usize, len: u32, file: usize, fileLen: u32, line: u32, column: u32): void;
// @ts-ignore: decorator
@external("kasho_1", "log")
declare function importLog(level: u32, text: usize, len: u32): void;
// @ts-ignore: decorator
@external("kasho_1", "count")
declare function importCount(text: u32, delta: i64): void;

// What a failed assertion and an exception call (`--use abort=`): says why and where. The
// service withholds words that do not stand in the file.
export function kashoAbort(message: string | null, file: string | null, line: u32, column: u32): void {
  const text = String.UTF8.encode(message ? message : "aborted");
  const place = String.UTF8.encode(file ? file : "");
  importFail(
    changetype<usize>(text), text.byteLength,
    changetype<usize>(place), place.byteLength, line, column,
  );
  unreachable();
}

export function log(level: Level, text: string): void {
  const bytes = String.UTF8.encode(text);
  importLog(level, changetype<usize>(bytes), bytes.byteLength);
}

// The keyed hash of a value, 128 bits.
export class Hash {
  constructor(private high: u64, private low: u64) {}

  // The last 80 bits in 16 characters of a-z2-7, as the Rust SDK's `short`.
  short(): string {
    const codes = new Array<i32>(16);
    for (let i = 0; i < 16; i++) {
      const shift = 75 - 5 * i;
      const five = shift >= 64
        ? this.high >> (shift - 64)
        : this.low >> shift | (shift > 59 ? this.high << (64 - shift) : 0);
      const n = (five & 31) as i32;
      codes[i] = n < 26 ? 97 + n : 24 + n; // a-z, 2-7
    }
    return String.fromCharCodes(codes);
  }

  // All 128 bits in 32 hexadecimal digits.
  hex(): string {
    return hex64(this.high) + hex64(this.low);
  }

  // A choice among `len`, each as likely, by the upper 64 bits.
  pick(len: u32): u32 {
    const low = (this.high & 0xffffffff) * len;
    return (((this.high >> 32) * len + (low >> 32)) >> 32) as u32;
  }
}

function hex64(n: u64): string {
  let text = "";
  for (let shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef".charAt((n >> shift & 15) as i32);
  return text;
}

class Column {
  constructor(
    public table: string,
    public name: string,
    public use: string,
    public fingerprint: string,
  ) {}
}

// One image of one column in this batch, and its patch so far.
class Side {
  slot: u32 = 0;
  image: u32 = 0;
  states: usize = 0;
  offsets: usize = 0;
  bytes: usize = 0;
  hashed: i32 = -1;
  hashes: ArrayBuffer = EMPTY;
  bitmap: Uint8Array | null = null;
  rows: Array<u32> = [];
  nulls: bool = false;
  texts: Array<ArrayBuffer | null> = [];
}

const EMPTY = new ArrayBuffer(0);

class Told {
  version: u32 = 0;
  slots: Array<i32> = [];
}

// One row of a batch.
export class Row {
  at: u32 = 0;

  constructor(
    private rows: u32,
    private ops: usize,
    private commit: usize,
    private sides: Array<Side | null>,
    private verdicts: Array<u8>,
    private errors: Array<u32>,
  ) {}

  op(): Op {
    return load<u8>(this.ops + this.at) as Op;
  }

  // When its transaction committed, microseconds since 1970; 0: nobody asked.
  commitUs(): i64 {
    return this.commit ? load<i64>(this.commit + this.at * 8) : 0;
  }

  private side(column: i32, image: Image): Side | null {
    return this.sides[column * 2 + image];
  }

  // A column that the table does not have is absent.
  state(column: i32, image: Image): State {
    const side = this.side(column, image);
    if (!side) return State.Absent;
    const four: u32 = load<u8>(side.states + (this.at >> 2));
    return (four >> ((this.at & 3) * 2) & 3) as State;
  }

  // The text of a column as it came; null if it has none.
  text(column: i32, image: Image): string | null {
    const side = this.side(column, image);
    if (!side || this.state(column, image) != State.Text) return null;
    const from = load<u32>(side.offsets + this.at * 4);
    const to = load<u32>(side.offsets + this.at * 4 + 4);
    return String.UTF8.decodeUnsafe(side.bytes + from, to - from);
  }

  // The keyed hash of a text; the host is asked once for the whole column.
  hash(column: i32, image: Image, domain: u32): Hash {
    const side = this.side(column, image);
    if (!side) throw new Error("a column is hashed that is not there");
    if (side.hashed != domain) {
      side.hashes = new ArrayBuffer(this.rows * 16);
      side.hashed = domain;
      importPrf(domain, side.offsets, side.bytes, this.rows, changetype<usize>(side.hashes));
    }
    const at = changetype<usize>(side.hashes) + this.at * 16;
    return new Hash(bswap(load<u64>(at)), bswap(load<u64>(at, 8)));
  }

  // Sets a column; null is NULL. Only over a text or NULL.
  set(column: i32, image: Image, text: string | null): void {
    const side = this.side(column, image);
    if (!side) throw new Error("a column is set that is not there");
    const bytes: ArrayBuffer | null = text === null ? null : String.UTF8.encode(text);
    side.nulls = side.nulls || bytes === null;
    const last = side.rows.length - 1;
    if (last >= 0 && side.rows[last] == this.at) {
      side.texts[last] = bytes;
    } else {
      side.rows.push(this.at);
      side.texts.push(bytes);
    }
  }

  // What becomes of the row; an error stays one.
  judge(verdict: Verdict): void {
    if (this.verdicts.length == 0) {
      for (let i: u32 = 0; i < this.rows; i++) this.verdicts.push(0);
    }
    if (this.verdicts[this.at] != (Verdict.Error as u8)) this.verdicts[this.at] = verdict as u8;
  }

  // The row is in error with a declared text, about a column; the first error stays.
  fail(text: u32, column: i32): void {
    if (this.verdicts.length > 0 && this.verdicts[this.at] == (Verdict.Error as u8)) return;
    this.judge(Verdict.Error);
    let side = this.side(column, Image.New);
    if (!side) side = this.side(column, Image.Old);
    const slot: u32 = side ? side.slot : 0xffff;
    this.errors.push(this.at);
    this.errors.push(slot << 16 | text);
  }
}

// What the plugin declares, and its function.
export class Plugin {
  columns: Array<Column> = [];
  texts: Array<string> = [];
  domains: Array<string> = [];
  tables: Map<u32, Told> = new Map();
  // Looks at one row.
  row: (row: Row) => void = (row: Row): void => {};
  // Looks at the rules, which are JSON: what is wrong with them, or "".
  init: (rules: string) => string = (rules: string): string => "";

  private column(table: string, name: string, use: string, fingerprint: string): i32 {
    this.columns.push(new Column(table, name, use, fingerprint));
    return this.columns.length - 1;
  }

  // A table is `schema.table` as ABI.md writes names, no pattern.
  read(table: string, name: string): i32 {
    return this.column(table, name, "read", "");
  }

  write(table: string, name: string): i32 {
    return this.column(table, name, "write", "");
  }

  // The fingerprint says what the mapping depends on: transform, version, options, domain.
  mask(table: string, name: string, fingerprint: string): i32 {
    return this.column(table, name, "mask", fingerprint);
  }

  // `*`: all columns that no other declaration names.
  pass(table: string, name: string): void {
    this.column(table, name, "pass", "");
  }

  drop(table: string, name: string): void {
    this.column(table, name, "drop", "");
  }

  text(text: string): u32 {
    this.texts.push(text);
    return this.texts.length - 1;
  }

  domain(name: string): u32 {
    this.domains.push(name);
    return this.domains.length - 1;
  }

  // Adds to the counter that is called by a declared text.
  count(text: u32, delta: i64): void {
    importCount(text, delta);
  }

  rule(table: string, name: string): i32 {
    let found = -1;
    for (let i = 0; i < this.columns.length; i++) {
      const column = this.columns[i];
      if (column.table != table) continue;
      if (column.name == name) return i;
      if (column.name == "*") found = i;
    }
    return found;
  }
}

export const plugin = new Plugin();

// ------------------------------------------------------------------------- the contract

let arena: usize = 0;
let arenaSize: u32 = 0;
let reply: usize = 0;
let replySize: u32 = 0;

export function kasho_abi_1(): void {}

export function kasho_alloc(size: u32): usize {
  if (arenaSize < size) {
    if (arena) heap.free(arena);
    // What heap.alloc gives is aligned to 16.
    arena = heap.alloc(size);
    arenaSize = size;
  }
  return arena;
}

// A place for an answer: aligned, and valid until the next call.
function room(size: u32): usize {
  if (replySize < size) {
    if (reply) heap.free(reply);
    reply = heap.alloc(size * 2);
    replySize = size * 2;
  }
  memory.fill(reply, 0, size);
  return reply;
}

function answer(at: usize, len: u32): u64 {
  return (at as u64) << 32 | len;
}

function say(json: string): u64 {
  const bytes = String.UTF8.encode(json);
  // Trailing zeros are padding: an answer has eight bytes at least.
  const len = max(bytes.byteLength, 8);
  const at = room(len);
  memory.copy(at, changetype<usize>(bytes), bytes.byteLength);
  return answer(at, len);
}

export function kasho_init(ptr: usize, len: u32): u64 {
  const said = new Json(String.UTF8.decodeUnsafe(ptr, len));
  const wrong = plugin.init(said.member("rules"));
  if (wrong != "") return say('{"error":{"text":' + quoted(wrong) + "}}");
  const needs = new Map<string, Array<string>>();
  for (let i = 0; i < plugin.columns.length; i++) {
    const column = plugin.columns[i];
    if (!needs.has(column.table)) needs.set(column.table, []);
    if (column.name != "*") needs.get(column.table).push(column.name);
  }
  let json = '{"ok":{"needs":{';
  const tables = needs.keys();
  for (let i = 0; i < tables.length; i++) {
    if (i) json += ",";
    json += quoted(tables[i]) + ":" + list(needs.get(tables[i]));
  }
  json += '},"texts":' + list(plugin.texts) + ',"domains":' + list(plugin.domains);
  return say(json + (plugin.domains.length ? ',"uses":["prf"]}}' : "}}"));
}

export function kasho_relation(ptr: usize, len: u32): u64 {
  const said = new Json(String.UTF8.decodeUnsafe(ptr, len));
  const id = U32.parseInt(said.member("id"));
  if (said.member("gone") == "true") {
    plugin.tables.delete(id);
    return 1;
  }
  const table = identifier(text(said.member("schema"))) + "." + identifier(text(said.member("table")));
  const told = new Told();
  told.version = U32.parseInt(said.member("version"));
  let wanted = false;
  for (let i = 0; i < plugin.columns.length; i++) {
    told.slots.push(-1);
    wanted = wanted || plugin.columns[i].table == table;
  }
  if (!wanted) return 1;
  let json = '{"ok":{"columns":[';
  const columns = new Json(said.member("columns")).items();
  let slot = 0;
  for (let i = 0; i < columns.length; i++) {
    const name = new Json(columns[i]).member("name");
    const rule = plugin.rule(table, text(name));
    if (rule < 0) continue;
    const column = plugin.columns[rule];
    if (column.name != "*") told.slots[rule] = slot;
    if (slot++) json += ",";
    json += '{"name":' + name + ',"use":' + quoted(column.use);
    if (column.fingerprint != "") json += ',"as":' + quoted(column.fingerprint);
    json += "}";
  }
  plugin.tables.set(id, told);
  return say(json + '],"ops":["insert","update","delete","read"]}}');
}

export function kasho_batch(ptr: usize, len: u32): u64 {
  const id = load<u32>(ptr, 12);
  if (!plugin.tables.has(id)) return 0;
  const told = plugin.tables.get(id);
  if (told.version != load<u32>(ptr, 16)) return 0;
  const rows = load<u32>(ptr, 8);
  const sides = new Array<Side | null>(plugin.columns.length * 2);
  const count = load<u16>(ptr, 6) as u32;
  for (let i: u32 = 0; i < count; i++) {
    const at = ptr + load<u32>(ptr, 32) + i * 32;
    const rule = told.slots.indexOf(load<u16>(at) as i32);
    const image = load<u8>(at, 2) as i32;
    if (rule < 0 || image > 1) continue;
    const side = new Side();
    side.slot = load<u16>(at);
    side.image = image;
    side.states = ptr + load<u32>(at, 4);
    side.offsets = ptr + load<u32>(at, 8);
    side.bytes = ptr + load<u32>(at, 12);
    sides[rule * 2 + image] = side;
  }
  const commit = load<u32>(ptr, 28);
  const verdicts: Array<u8> = [];
  const errors: Array<u32> = [];
  const row = new Row(rows, ptr + load<u32>(ptr, 24), commit ? ptr + commit : 0, sides, verdicts, errors);
  for (; row.at < rows; row.at++) plugin.row(row);
  return written(rows, load<u32>(ptr, 36), sides, verdicts, errors);
}

// What one patch takes: bitmap, states, offsets, bytes.
function patchSize(side: Side, rows: u32): u32 {
  const n = side.rows.length as u32;
  let bytes: u32 = 0;
  for (let i = 0; i < side.texts.length; i++) {
    const text = side.texts[i];
    if (text) bytes += text.byteLength;
  }
  return eight((rows + 7) >> 3) + (side.nulls ? eight(n) : 0) + eight(4 * n + 4) + eight(bytes);
}

function eight(n: u32): u32 {
  return (n + 7) & ~7;
}

function written(
  rows: u32, call: u32, sides: Array<Side | null>, verdicts: Array<u8>, errors: Array<u32>,
): u64 {
  let patches: u32 = 0;
  let size: u32 = 32;
  for (let i = 0; i < sides.length; i++) {
    const side = sides[i];
    if (!side || side.rows.length == 0) continue;
    patches++;
    size += 32 + patchSize(side, rows);
  }
  if (patches == 0 && verdicts.length == 0) return 1;
  size += eight(verdicts.length) + 4 * errors.length;
  const base = room(size);
  let end: u32 = 32 + patches * 32;
  store<u32>(base, size);
  store<u16>(base, 32, 4);
  store<u16>(base, patches as u16, 6);
  store<u32>(base, rows, 8);
  store<u32>(base, call, 12);
  if (verdicts.length) {
    store<u32>(base, end, 16);
    for (let i = 0; i < verdicts.length; i++) store<u8>(base + end + i, verdicts[i]);
    end += eight(verdicts.length);
  }
  if (errors.length) {
    store<u32>(base, end, 20);
    store<u32>(base, errors.length / 2, 24);
    for (let i = 0; i < errors.length; i++) store<u32>(base + end + 4 * i, errors[i]);
    end += 4 * errors.length;
  }
  if (patches) store<u32>(base, 32, 28);
  let at = base + 32;
  for (let i = 0; i < sides.length; i++) {
    const side = sides[i];
    if (!side || side.rows.length == 0) continue;
    end = patch(side, rows, base, at, end);
    at += 32;
  }
  return answer(base, size);
}

// Writes one patch; where the next one's regions begin.
function patch(side: Side, rows: u32, base: usize, at: usize, from: u32): u32 {
  const n = side.rows.length as u32;
  let end = from;
  store<u16>(at, side.slot as u16);
  store<u8>(at, side.image as u8, 2);
  store<u32>(at, n, 4);
  store<u32>(at, end, 8);
  for (let i = 0; i < side.rows.length; i++) {
    const row = side.rows[i];
    const byte = base + end + (row >> 3);
    const eighth: u32 = 1 << (row & 7);
    store<u8>(byte, (load<u8>(byte) | eighth) as u8);
  }
  end += eight((rows + 7) >> 3);
  if (side.nulls) {
    store<u32>(at, end, 12);
    for (let i = 0; i < side.texts.length; i++) {
      store<u8>(base + end + i, (side.texts[i] ? State.Text : State.Null) as u8);
    }
    end += eight(n);
  }
  const offsets = base + end;
  store<u32>(at, end, 16);
  end += eight(4 * n + 4);
  let bytes: u32 = 0;
  for (let i = 0; i < side.texts.length; i++) {
    const text = side.texts[i];
    if (text) {
      memory.copy(base + end + bytes, changetype<usize>(text), text.byteLength);
      bytes += text.byteLength;
    }
    store<u32>(offsets + 4 * (i + 1), bytes);
  }
  if (bytes) store<u32>(at, end, 20);
  store<u32>(at, bytes, 24);
  return end + eight(bytes);
}

// --------------------------------------------------------------------------------- JSON

// A JSON value of the host's, which is well formed: this reads it, it does not judge it.
export class Json {
  constructor(private json: string) {}

  // The member of an object, as JSON; "" if it is not there.
  member(name: string): string {
    const items = this.items();
    const key = '"' + name + '"';
    for (let i = 0; i + 1 < items.length; i += 2) {
      if (items[i] == key) return items[i + 1];
    }
    return "";
  }

  // The items of an array; names and values of an object, in turn.
  items(): Array<string> {
    const all: Array<string> = [];
    const json = this.json.trim();
    let depth = 0;
    let inText = false;
    let from = -1;
    for (let i = 1; i + 1 < json.length; i++) {
      const c = json.charCodeAt(i);
      if (from < 0) {
        if (c == 32 || c == 9 || c == 10 || c == 13 || c == 44 || c == 58) continue;
        from = i;
      }
      if (inText) {
        if (c == 92) i++;
        else if (c == 34) inText = false;
      } else if (c == 34) {
        inText = true;
      } else if (c == 123 || c == 91) {
        depth++;
      } else if (c == 125 || c == 93) {
        depth--;
      }
      const next = json.charCodeAt(i + 1);
      const ends = next == 44 || next == 58 || next == 32 || next == 10 || i + 2 == json.length;
      if (!inText && depth == 0 && ends) {
        all.push(json.substring(from, i + 1));
        from = -1;
      }
    }
    return all;
  }
}

// The text of a JSON string.
export function text(json: string): string {
  let out = "";
  for (let i = 1; i + 1 < json.length; i++) {
    let c = json.charAt(i);
    if (c == "\\") {
      c = json.charAt(++i);
      if (c == "n") c = "\n";
      else if (c == "t") c = "\t";
      else if (c == "r") c = "\r";
      else if (c == "b") c = "\b";
      else if (c == "f") c = "\f";
      else if (c == "u") {
        c = String.fromCharCode(I32.parseInt(json.substr(i + 1, 4), 16));
        i += 4;
      }
    }
    out += c;
  }
  return out;
}

function quoted(text: string): string {
  let out = '"';
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c == 34 || c == 92) out += "\\";
    if (c < 32) out += "\\u00" + (c < 16 ? "0" : "1") + "0123456789abcdef".charAt(c & 15);
    else out += text.charAt(i);
  }
  return out + '"';
}

function list(texts: Array<string>): string {
  let out = "[";
  for (let i = 0; i < texts.length; i++) out += (i ? "," : "") + quoted(texts[i]);
  return out + "]";
}

// A name as ABI.md writes it: bare where lower case letters, digits and `_` suffice.
function identifier(name: string): string {
  let bare = name.length > 0;
  for (let i = 0; i < name.length; i++) {
    const c = name.charCodeAt(i);
    bare = bare && (c == 95 || (c >= 97 && c <= 122) || (i > 0 && c >= 48 && c <= 57));
  }
  return bare ? name : '"' + name.replaceAll('"', '""') + '"';
}
