;; A guest of ABI 1.0 by hand: no SDK, no compiler, no allocator. It masks public.users.email
;; with a constant, one row a call, and counts the rows. `wat2wasm`, or the crate `wat`, makes
;; by-hand.wasm of it.
(module
  (import "kasho_1" "count" (func $count (param i32 i64)))
  (memory (export "memory") 1)
  (global $initialized (mut i32) (i32.const 0))

  ;; 0x400: the answer to init; 0x800: the answer to a relation; 0xc00: the reply to a row.
  (data (i32.const 0x400) "{\"ok\":{\"needs\":{\"public.users\":[\"email\"]},\"texts\":[\"rows\"],\"max_rows\":1}}")
  (data (i32.const 0x800) "{\"ok\":{\"columns\":[{\"name\":\"email\",\"use\":\"mask\",\"as\":\"by-hand/1\"},{\"name\":\"id\",\"use\":\"pass\"}],\"ops\":[\"insert\",\"update\",\"delete\",\"read\"]}}")
  (data (i32.const 0xc00)
    ;; header: 88 bytes, header of 32, 1 patch, 1 row, call (filled in), no verdicts, no errors,
    ;; patches at 32
    "\58\00\00\00" "\20\00" "\01\00" "\01\00\00\00" "\00\00\00\00"
    "\00\00\00\00" "\00\00\00\00" "\00\00\00\00" "\20\00\00\00"
    ;; patch: slot 0, new image, 1 entry, bitmap at 64, all text, offsets at 72, bytes at 80, 5
    "\00\00" "\00" "\00" "\01\00\00\00" "\40\00\00\00" "\00\00\00\00"
    "\48\00\00\00" "\50\00\00\00" "\05\00\00\00" "\00\00\00\00"
    ;; bitmap; offsets 0 and 5; text
    "\01\00\00\00\00\00\00\00" "\00\00\00\00\05\00\00\00" "x@y.z\00\00\00")

  (func (export "kasho_abi_1"))
  (func (export "_initialize") (global.set $initialized (i32.const 1)))

  ;; The arena: 32 KiB at 0x8000.
  (func (export "kasho_alloc") (param $size i32) (result i32)
    (select (i32.const 0x8000) (i32.const 0) (i32.le_u (local.get $size) (i32.const 0x8000))))

  ;; ptr << 32 | len, of 73 bytes at 0x400; 0, no answer, unless _initialize ran.
  (func (export "kasho_init") (param i32 i32) (result i64)
    (select (i64.const 0x0000040000000049) (i64.const 0) (global.get $initialized)))

  ;; 136 bytes at 0x800. What is short is {"id":…,"gone":true}: 1.
  (func (export "kasho_relation") (param $p i32) (param $n i32) (result i64)
    (select (i64.const 1) (i64.const 0x0000080000000088)
      (i32.lt_u (local.get $n) (i32.const 64))))

  (func (export "kasho_batch") (param $p i32) (param $n i32) (result i64)
    (local $d i32)
    (call $count (i32.const 0) (i64.extend_i32_u (i32.load offset=8 (local.get $p))))
    ;; No descriptor: nothing to mask.
    (if (i32.eqz (i32.load16_u offset=6 (local.get $p))) (then (return (i64.const 1))))
    (local.set $d (i32.add (local.get $p) (i32.load offset=32 (local.get $p))))
    ;; The first descriptor is of the new image, or there is none of it.
    (if (i32.load8_u offset=2 (local.get $d)) (then (return (i64.const 1))))
    ;; The row's state, two bits: only text is masked.
    (if (i32.ne (i32.const 3) (i32.and (i32.const 3)
          (i32.load8_u (i32.add (local.get $p) (i32.load offset=4 (local.get $d))))))
      (then (return (i64.const 1))))
    (i32.store (i32.const 0xc0c) (i32.load offset=36 (local.get $p)))
    (i64.const 0x00000c0000000058)))
