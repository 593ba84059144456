// Everything that package kasho can do.
package main

import (
	"encoding/json"
	"errors"
	"strconv"

	"wide/kasho"
)

const order = `"odd-shop"."Order"`

const (
	mail = iota
	note
	status
	big
	rest
)

const (
	seen = iota
	noSuchStatus
)

const (
	other = iota
	mails
)

var width int

func init() {
	kasho.Register(kasho.Plugin{
		Columns: []kasho.Column{
			mail:   {Table: order, Name: "mail", Use: kasho.Mask, Fingerprint: "short/1;domain=mail"},
			note:   {Table: order, Name: "note", Use: kasho.Write},
			status: {Table: order, Name: "status", Use: kasho.Read},
			big:    {Table: order, Name: "big", Use: kasho.Drop},
			rest:   {Table: order, Name: "*", Use: kasho.Pass},
		},
		Texts:   []string{seen: `orders "seen"`, noSuchStatus: "no such status"},
		Domains: []string{other: "other", mails: "mail"},
		Init: func(rules json.RawMessage) error {
			var said struct {
				Width int
				Name  string
			}
			if err := json.Unmarshal(rules, &said); err != nil || said.Name != "a \"b\"\n" {
				return errors.New(`name is a "b"`)
			}
			width = said.Width
			return nil
		},
		Row: look,
	})
}

func look(row *kasho.Row) {
	kasho.Count(seen, 1)
	for _, image := range kasho.Images {
		if row.State(mail, image) != kasho.Text {
			continue
		}
		row.Hash(mail, image, other)
		row.Set(mail, image, row.Hash(mail, image, mails).Short()+"-"+strconv.Itoa(width))
	}
	if row.State(note, kasho.New) == kasho.Null {
		row.Set(note, kasho.New, "none")
	}
	switch text, _ := row.Text(note, kasho.New); text {
	case "secret":
		row.SetNull(note, kasho.New)
	case "twice":
		row.SetNull(note, kasho.New)
		row.Set(note, kasho.New, "once")
		row.Set(note, kasho.New, "done")
	}
	switch text, _ := row.Text(status, kasho.New); text {
	case "gone":
		row.Judge(kasho.Remove)
	case "left":
		if row.Op() == kasho.Update {
			row.Judge(kasho.AsDelete)
		}
	case "wrong":
		row.Fail(noSuchStatus, status)
		kasho.Log(kasho.Info, text)
	}
}

func main() {}
