// Masks the e-mail addresses of users.
package main

import (
	"strings"

	"{{module}}/kasho"
)

const (
	email = iota
	others
)

const notAnEmail = 0
const emails = 0

func init() {
	kasho.Register(kasho.Plugin{
		Columns: []kasho.Column{
			email: {Table: "public.users", Name: "email", Use: kasho.Mask, Fingerprint: "short_email/1;domain=email"},
			// All other columns leave as they are. Without this, the binding would have to say.
			others: {Table: "public.users", Name: "*", Use: kasho.Pass},
		},
		Texts:   []string{notAnEmail: "not an e-mail"},
		Domains: []string{emails: "email"},
		Row:     mask,
	})
}

func mask(row *kasho.Row) {
	for _, image := range kasho.Images {
		text, ok := row.Text(email, image)
		if !ok {
			continue // NULL, unchanged, or not in this image
		}
		if !strings.Contains(text, "@") {
			row.Fail(notAnEmail, email)
			continue
		}
		row.Set(email, image, row.Hash(email, image, emails).Short()+"@example.com")
	}
}

// Never called: the host calls what package kasho exports.
func main() {}
