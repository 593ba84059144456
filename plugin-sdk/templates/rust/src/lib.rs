//! Masks the e-mail addresses of users.

use kasho_plugin_sdk::*;

struct MaskEmail {
    email: Col,
    bad: Reason,
}

impl Plugin for MaskEmail {
    fn new(cx: &mut Setup) -> Result<Self> {
        // All other columns leave as they are. Without this, the binding would have to say.
        cx.pass("public.users.*")?;
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

    #[test]
    fn the_fixtures_hold() {
        kasho_plugin_sdk::testing::run_fixtures::<MaskEmail>("fixtures");
    }
}
