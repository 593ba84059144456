//! Masks the e-mail addresses of users.

use kasho_plugin_sdk::*;

struct MaskEmail {
    email: Col,
    bad: Reason,
}

impl Plugin for MaskEmail {
    fn new(cx: &mut Setup) -> Result<Self> {
        let emails = cx.domain("email");
        Ok(MaskEmail {
            email: cx.mask("public.users.email")?.keyed(emails),
            bad: cx.reason("not an e-mail"),
        })
    }

    fn row(&mut self, row: &mut Row) -> Verdict {
        let bad = self.bad;
        row.rewrite_hashed(self.email, |email, hash, out| {
            if !email.contains('@') {
                return Err(bad);
            }
            Ok(write!(out, "{}@example.com", hash.short()))
        });
        Verdict::Keep
    }
}

export_plugin!(MaskEmail);

#[cfg(test)]
mod tests {
    use super::*;
    use kasho_plugin_sdk::testing::{Fixture, insert, table};

    #[test]
    fn it_masks() {
        let mut plugin = Fixture::<MaskEmail>::new(serde_json::Value::Null).unwrap();
        let users = table("public.users(id int8 key, email text)");
        plugin.relation(&users).unwrap();
        let out = plugin.run(
            &users,
            &[
                insert([("id", "1"), ("email", "ada@lovelace.org")]),
                insert([("id", "2"), ("email", "nonsense")]),
            ],
        );
        assert_eq!(out[0].after("email"), Value::Text("lx3iomwpvufook26@example.com"));
        assert_eq!(out[1].error(), Some("not an e-mail"));
    }
}
