// Package kasho speaks ABI 1 for a Kasho plugin in Go (1.24 or later, GOOS=wasip1,
// -buildmode=c-shared): register a Plugin in an init function. The contract is ABI.md of the
// SDK. A panic stops the plugin: Go writes why and where to standard error, and the service
// prints what of it stands in the .wasm file.
package kasho

import (
	"encoding/binary"
	"encoding/json"
	"strings"
	"unsafe"
)

// Use is what a plugin does with a column.
type Use string

// What a plugin may do with a column; see ABI.md.
const (
	Pass  Use = "pass"
	Read  Use = "read"
	Write Use = "write"
	Mask  Use = "mask"
	Drop  Use = "drop"
)

// Column is a declared column; its place in Plugin.Columns is what rows are asked by.
type Column struct {
	// Table is schema.table as ABI.md writes names, no pattern.
	Table string
	// Name, or "*" with Pass and Drop: all columns that no other declaration names.
	Name string
	Use  Use
	// Fingerprint says what a mapping depends on: transform, version, options, domain.
	Fingerprint string
}

// Plugin is what a plugin declares, and its function.
type Plugin struct {
	Columns []Column
	// Texts that rows can be in error with, and names of counters.
	Texts []string
	// Domains of keyed hashes.
	Domains []string
	// Init looks at the rules; optional.
	Init func(rules json.RawMessage) error
	// Row looks at one row.
	Row func(row *Row)
}

// Image says where a value stands.
type Image int

// After the change, and before it.
const (
	New Image = iota
	Old
)

// Images is both, to go through.
var Images = [2]Image{New, Old}

// State is what a column of a row is.
type State uint8

// Only Text has a value.
const (
	Absent State = iota
	Null
	Unchanged
	Text
)

// Op is what happened to a row.
type Op uint8

// The operations.
const (
	Insert Op = iota
	Update
	Delete
	Truncate
	ReadRow
	DDL
	Message
)

// Verdict is what becomes of a row.
type Verdict uint8

// An error is what Fail sets.
const (
	Keep Verdict = iota
	Remove
	failed
	AsInsert
	AsDelete
)

//go:wasmimport kasho_1 prf
func importPrf(domain, offsets, bytes, n, out uint32)

//go:wasmimport kasho_1 log
func importLog(level, text, length uint32)

//go:wasmimport kasho_1 count
func importCount(text uint32, delta int64)

// Level is how much a log line matters.
type Level uint32

// The levels.
const (
	Error Level = iota + 1
	Warn
	Info
	Debug
)

// Log writes a line. The service prints it only if it stands in the .wasm file.
func Log(level Level, text string) {
	importLog(uint32(level), address(unsafe.StringData(text)), uint32(len(text)))
}

// Count adds to the counter that is called Texts[text].
func Count(text int, delta int64) { importCount(uint32(text), delta) }

// Hash is the keyed hash of a value.
type Hash [16]byte

// Short is the last 80 bits in 16 characters of a-z2-7, as the Rust SDK's short.
func (h Hash) Short() string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	var out [16]byte
	for half := 0; half < 2; half++ {
		var bits uint64
		for _, b := range h[6+5*half : 11+5*half] {
			bits = bits<<8 | uint64(b)
		}
		for i := 0; i < 8; i++ {
			out[8*half+i] = alphabet[bits>>(35-5*i)&31]
		}
	}
	return string(out[:])
}

// Pick is a choice among n, each as likely, by the upper 64 bits.
func (h Hash) Pick(n uint32) uint32 {
	high := binary.BigEndian.Uint64(h[:8])
	low := (high & 0xFFFFFFFF) * uint64(n) >> 32
	return uint32((high>>32*uint64(n) + low) >> 32)
}

// One image of one column, and its patch so far.
type side struct {
	slot, image uint16
	states      []byte
	offsets     []byte
	bytes       []byte
	domain      int
	hashes      []Hash
	rows        []int
	states2     []State
	ends        []uint32
	text        []byte
	nulls       bool
}

func (s *side) word(i int) uint32 { return binary.LittleEndian.Uint32(s.offsets[4*i:]) }

// Row is one row of a batch.
type Row struct {
	at, rows int
	ops      []byte
	commit   []byte
	sides    [][2]*side
	verdicts []byte
	errors   []byte
	failures int
}

// Op is what happened to it.
func (r *Row) Op() Op { return Op(r.ops[r.at]) }

// CommitMicros is when its transaction committed, since 1970; 0: nobody asked.
func (r *Row) CommitMicros() int64 {
	if r.commit == nil {
		return 0
	}
	return int64(binary.LittleEndian.Uint64(r.commit[8*r.at:]))
}

// State is what a column is, as it came. One that the table does not have is absent.
func (r *Row) State(column int, image Image) State {
	s := r.sides[column][image]
	if s == nil {
		return Absent
	}
	return State(s.states[r.at/4] >> (r.at % 4 * 2) & 3)
}

// Text is the text of a column as it came, if it has one.
func (r *Row) Text(column int, image Image) (string, bool) {
	if r.State(column, image) != Text {
		return "", false
	}
	s := r.sides[column][image]
	return string(s.bytes[s.word(r.at):s.word(r.at+1)]), true
}

// Hash is the keyed hash of a text; the host is asked once for the whole column.
func (r *Row) Hash(column int, image Image, domain int) Hash {
	s := r.sides[column][image]
	if s == nil {
		panic("a column is hashed that is not there")
	}
	if s.hashes == nil || s.domain != domain {
		s.hashes, s.domain = make([]Hash, r.rows), domain
		importPrf(uint32(domain), address(unsafe.SliceData(s.offsets)),
			address(unsafe.SliceData(s.bytes)), uint32(r.rows), address(&s.hashes[0]))
	}
	return s.hashes[r.at]
}

// Set gives a column a new text. Only over a text or NULL.
func (r *Row) Set(column int, image Image, text string) { r.patch(column, image, text, Text) }

// SetNull makes a column NULL. Only over a text or NULL.
func (r *Row) SetNull(column int, image Image) { r.patch(column, image, "", Null) }

func (r *Row) patch(column int, image Image, text string, state State) {
	s := r.sides[column][image]
	if s == nil {
		panic("a column is set that is not there")
	}
	last := len(s.rows) - 1
	if last >= 0 && s.rows[last] == r.at { // set again: in place of what it was
		start := uint32(0)
		if last > 0 {
			start = s.ends[last-1]
		}
		s.text = s.text[:start]
	} else {
		s.rows, s.states2, s.ends = append(s.rows, r.at), append(s.states2, state), append(s.ends, 0)
		last++
	}
	s.text = append(s.text, text...)
	s.states2[last], s.ends[last] = state, uint32(len(s.text))
	s.nulls = s.nulls || state == Null
}

// Judge says what becomes of the row; an error stays one.
func (r *Row) Judge(verdict Verdict) {
	if r.verdicts == nil {
		r.verdicts = make([]byte, r.rows)
	}
	if Verdict(r.verdicts[r.at]) != failed {
		r.verdicts[r.at] = byte(verdict)
	}
}

// Fail: the row is in error with Texts[text], about a column; the first error stays.
func (r *Row) Fail(text, column int) {
	if r.verdicts != nil && Verdict(r.verdicts[r.at]) == failed {
		return
	}
	r.Judge(failed)
	slot := uint16(0xFFFF)
	for _, s := range r.sides[column] {
		if s != nil {
			slot = s.slot
			break
		}
	}
	r.failures++
	r.errors = binary.LittleEndian.AppendUint32(r.errors, uint32(r.at))
	r.errors = binary.LittleEndian.AppendUint16(r.errors, uint16(text))
	r.errors = binary.LittleEndian.AppendUint16(r.errors, slot)
}

// ------------------------------------------------------------------------- the contract

var (
	plugin Plugin
	arena  []byte
	answer []uint64
	tables = map[uint32]*told{}
)

type told struct {
	version uint32
	slots   []int
}

// Register makes p the plugin of this module. To be called by an init function.
func Register(p Plugin) { plugin = p }

func address[T any](at *T) uint32 { return uint32(uintptr(unsafe.Pointer(at))) }

//go:wasmexport kasho_abi_1
func marker() {}

//go:wasmexport kasho_alloc
func alloc(size uint32) uint32 {
	if uint32(len(arena)) < size {
		// Large objects lie on their own pages, so they are aligned.
		arena = make([]byte, max(size, 4096))
	}
	return address(unsafe.SliceData(arena))
}

// place is memory for an answer of so many bytes, zeroed, aligned, valid until the next one.
func place(size int) []byte {
	answer = make([]uint64, (max(size, 8)+7)/8)
	return unsafe.Slice((*byte)(unsafe.Pointer(&answer[0])), 8*len(answer))
}

func packed(size int) uint64 {
	return uint64(address(unsafe.SliceData(answer)))<<32 | uint64(size)
}

func say(value any) uint64 {
	text, err := json.Marshal(value)
	if err != nil {
		return 0
	}
	copy(place(len(text)), text)
	// Zeros behind a short answer are padding.
	return packed(max(len(text), 8))
}

func ok(value any) uint64 { return say(map[string]any{"ok": value}) }

func refuse(text string) uint64 {
	return say(map[string]any{"error": map[string]string{"text": text}})
}

//go:wasmexport kasho_init
func initialise(ptr, size uint32) uint64 {
	var said struct{ Rules json.RawMessage }
	if err := json.Unmarshal(arena[:size], &said); err != nil {
		return refuse("cannot read the host's init call")
	}
	if plugin.Row == nil {
		return refuse("no plugin is registered: call kasho.Register in an init function")
	}
	if plugin.Init != nil {
		if err := plugin.Init(said.Rules); err != nil {
			return refuse(err.Error())
		}
	}
	needs := map[string][]string{}
	for _, c := range plugin.Columns {
		names, there := needs[c.Table]
		if !there {
			names = []string{}
		}
		if c.Name != "*" {
			names = append(names, c.Name)
		}
		needs[c.Table] = names
	}
	// json.Marshal sorts the keys of a map: the answer is the same every time.
	wants := map[string]any{"needs": needs}
	if len(plugin.Texts) > 0 {
		wants["texts"] = plugin.Texts
	}
	if len(plugin.Domains) > 0 {
		wants["domains"], wants["uses"] = plugin.Domains, []string{"prf"}
	}
	return ok(wants)
}

type use struct {
	Name string `json:"name"`
	Use  Use    `json:"use"`
	As   string `json:"as,omitempty"`
}

//go:wasmexport kasho_relation
func relation(ptr, size uint32) uint64 {
	var said struct {
		ID, Version   uint32
		Gone          bool
		Schema, Table string
		Columns       []struct{ Name string }
	}
	if err := json.Unmarshal(arena[:size], &said); err != nil {
		return refuse("cannot read the host's relation call")
	}
	if said.Gone {
		delete(tables, said.ID)
		return 1
	}
	table := identifier(said.Schema) + "." + identifier(said.Table)
	t := &told{version: said.Version, slots: make([]int, len(plugin.Columns))}
	wanted := false
	for i, c := range plugin.Columns {
		t.slots[i] = -1
		wanted = wanted || c.Table == table
	}
	if !wanted {
		return 1
	}
	uses := []use{}
	for _, column := range said.Columns {
		rule := ruleOf(table, column.Name)
		if rule < 0 {
			continue
		}
		c := plugin.Columns[rule]
		if c.Name != "*" {
			t.slots[rule] = len(uses)
		}
		uses = append(uses, use{column.Name, c.Use, c.Fingerprint})
	}
	tables[said.ID] = t
	ops := []string{"insert", "update", "delete", "read"}
	return ok(map[string]any{"columns": uses, "ops": ops})
}

func ruleOf(table, name string) int {
	found := -1
	for i, c := range plugin.Columns {
		switch {
		case c.Table != table:
		case c.Name == name:
			return i
		case c.Name == "*":
			found = i
		}
	}
	return found
}

// identifier is a name as ABI.md writes it: bare where a-z, 0-9 and _ suffice.
func identifier(name string) string {
	bare := name != ""
	for i, c := range []byte(name) {
		bare = bare && (c == '_' || c >= 'a' && c <= 'z' || i > 0 && c >= '0' && c <= '9')
	}
	if bare {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

//go:wasmexport kasho_batch
func batch(ptr, size uint32) uint64 {
	block := arena[:size]
	word := func(at uint32) uint32 { return binary.LittleEndian.Uint32(block[at:]) }
	short := func(at uint32) uint16 { return binary.LittleEndian.Uint16(block[at:]) }
	t := tables[word(12)]
	if t == nil || t.version != word(16) {
		return 0
	}
	row := &Row{rows: int(word(8)), ops: block[word(24):], sides: make([][2]*side, len(plugin.Columns))}
	if at := word(28); at != 0 {
		row.commit = block[at:]
	}
	for d := uint32(0); d < uint32(short(6)); d++ {
		at := word(32) + 32*d
		slot, image := short(at), block[at+2]
		for column, is := range t.slots {
			if is != int(slot) || image > 1 {
				continue
			}
			s := &side{slot: slot, image: uint16(image), states: block[word(at+4):], offsets: block[word(at+8):]}
			if from := word(at + 12); from != 0 {
				s.bytes = block[from : from+word(at+16)]
			}
			row.sides[column][image] = s
		}
	}
	for ; row.at < row.rows; row.at++ {
		plugin.Row(row)
	}
	return row.reply(word(36))
}

func (r *Row) reply(call uint32) uint64 {
	var patched []*side
	for _, both := range r.sides {
		for _, s := range both {
			if s != nil && len(s.rows) > 0 {
				patched = append(patched, s)
			}
		}
	}
	if len(patched) == 0 && r.verdicts == nil {
		return 1
	}
	out := make([]byte, 32+32*len(patched), 1024)
	region := func(bytes []byte) uint32 {
		for len(out)%8 != 0 {
			out = append(out, 0)
		}
		at := len(out)
		out = append(out, bytes...)
		return uint32(at)
	}
	put := func(at int, word uint32) { binary.LittleEndian.PutUint32(out[at:], word) }
	put(4, 32|uint32(len(patched))<<16)
	put(8, uint32(r.rows))
	put(12, call)
	if r.verdicts != nil {
		put(16, region(r.verdicts))
	}
	if r.failures > 0 {
		put(20, region(r.errors))
		put(24, uint32(r.failures))
	}
	if len(patched) > 0 {
		put(28, 32)
	}
	for i, s := range patched {
		at := 32 + 32*i
		bitmap, states, offsets := make([]byte, (r.rows+7)/8), []byte{}, make([]byte, 4)
		for i, row := range s.rows {
			bitmap[row/8] |= 1 << (row % 8)
			states = append(states, byte(s.states2[i]))
			offsets = binary.LittleEndian.AppendUint32(offsets, s.ends[i])
		}
		put(at, uint32(s.slot)|uint32(s.image)<<16)
		put(at+4, uint32(len(s.rows)))
		put(at+8, region(bitmap))
		if s.nulls {
			put(at+12, region(states))
		}
		put(at+16, region(offsets))
		if len(s.text) > 0 {
			put(at+20, region(s.text))
		}
		put(at+24, uint32(len(s.text)))
	}
	region(nil)
	put(0, uint32(len(out)))
	copy(place(len(out)), out)
	return packed(len(out))
}
